//! How long a training is, and in which rhythm: lengths and intervals, critic steps before generator steps, learning rates
//! and other values over time. Everything here is a function of the step's number, so a resumed run needs no memory of it.

use serde::{Deserialize, Serialize};

pub use crate::nn::precision::Precision;

/// A length of training, or an interval in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// Generator steps.
    Steps(u64),
    /// Passes of the critic over the data.
    Epochs(u64),
    /// Real images shown to the critic.
    Images(u64),
}

impl Span {
    /// In generator steps, rounded up: the first whole round after which the span is complete, at least one.
    pub fn in_steps(self, schedule: &Schedule, data_len: usize) -> u64 {
        let batch = (schedule.batch_size as u64).max(1);
        let batches_an_epoch = (data_len as u64).div_ceil(batch).max(1);
        let critic_steps = match self {
            Self::Steps(steps) => {
                let a_round = schedule.generator_steps.max(1) as u64;
                return steps.max(1).div_ceil(a_round).saturating_mul(a_round);
            }
            Self::Epochs(epochs) => epochs.saturating_mul(batches_an_epoch),
            // Whole epochs first: their last batch may be smaller.
            Self::Images(images) => {
                let len = (data_len as u64).max(1);
                (images / len).saturating_mul(batches_an_epoch).saturating_add((images % len).div_ceil(batch))
            }
        };
        schedule.steps_with(critic_steps).max(1)
    }
}

/// Where the latents of the generator's step come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorLatents {
    /// New ones.
    #[default]
    Fresh,
    /// Those of the last critic step, passed through the generator again.
    Reused,
    /// The fakes of the last critic step themselves: one generator pass less.
    ReusedFakes,
}

/// How long, in which rhythm, and how exactly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Images a batch.
    pub batch_size: usize,
    /// The total length of the run.
    pub length: Span,
    /// Critic steps before each round of generator steps (n_critic).
    #[serde(default = "one_step")]
    pub critic_steps: usize,
    /// Generator steps in a round. Logs, samples and checkpoints fall on the ends of rounds.
    #[serde(default = "one_step")]
    pub generator_steps: usize,
    /// More critic steps than that at some times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critic_warmup: Option<CriticWarmup>,
    /// The latents of the generator's step.
    #[serde(default)]
    pub generator_latents: GeneratorLatents,
    /// The share of a generator step's images that its loss is taken over: those that the critic scores best; 1 for all.
    /// Below 1 the generator is not taught by what it does worst (top-k training, arXiv 2002.06224).
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub generator_top_k: f64,
    /// Decay a step of the moving average of the generator's weights; 0 for none (arXiv 1806.04498).
    #[serde(default)]
    pub ema_decay: f64,
    /// In place of `ema_decay`: the real images shown to the critic after which the moving average has forgotten half of what it
    /// was. With 0 it is the weights as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_half_life: Option<u64>,
    /// The learning rates climb in a straight line from 0 over this span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_warmup: Option<Span>,
    /// The learning rates fall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr_decay: Option<LrDecay>,
    /// Other values change, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// What convolutions and linear layers compute with.
    #[serde(default)]
    pub precision: Precision,
    /// Whether, on CUDA, steps that are alike are captured once, as a CUDA graph, and launched at once from then on. It changes how long they
    /// take, not what they compute.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub capture: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

fn one_step() -> usize {
    1
}

fn all() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_all(share: &f64) -> bool {
    *share == 1.0
}

/// Extra critic steps, as the WGAN authors' code has them: 100 for each of the first 25 generator steps and every 500th.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CriticWarmup {
    /// Critic steps before such a generator step.
    pub critic_steps: usize,
    /// So before each of the first so many generator steps,
    pub first: u64,
    /// and before each generator step whose number, counted from 0, is a multiple of this.
    pub every: u64,
}

impl Default for CriticWarmup {
    fn default() -> Self {
        Self { critic_steps: 100, first: 25, every: 500 }
    }
}

/// The curve on which learning rates fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecayCurve {
    /// A straight line.
    Linear,
    /// Half a cosine wave (arXiv 1608.03983, without restarts).
    Cosine,
}

impl DecayCurve {
    /// What is left of the height after a share of the way, 0 to 1.
    fn left(self, way: f64) -> f64 {
        match self {
            Self::Linear => 1.0 - way,
            Self::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * way).cos(),
        }
    }
}

/// Values beside the learning rates that change over the run. Each begins as the config states it elsewhere and reaches what is stated
/// here after `over`, where it stays: `to + (from − to) · ½(1 + cos(π · min(1, t / over)))` (the authors' code of arXiv 2501.05441).
/// What is left out does not change.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// How long they change, from the run's beginning on.
    pub over: Span,
    /// β₂ of those optimisers that are Adam, at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2_to: Option<f64>,
    /// The penalty's weight at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty_to: Option<f64>,
    /// The probability of augmentation at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augment_to: Option<f64>,
    /// The half-life of the moving average at the end, in images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_half_life_to: Option<u64>,
}

/// A fall of the learning rates: all of it in absolute spans, so that a run that is made longer later was not another before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LrDecay {
    /// On which curve.
    pub curve: DecayCurve,
    /// Where the fall begins.
    pub begin: Span,
    /// Where it ends.
    pub end: Span,
    /// The factor on the learning rates from there on, 0 to 1.
    #[serde(default)]
    pub to: f64,
}

impl Schedule {
    /// Critic steps in the round that begins after `step` generator steps.
    pub fn critic_steps_at(&self, step: u64) -> u64 {
        match self.critic_warmup {
            Some(warmup) if step < warmup.first || step.is_multiple_of(warmup.every) => warmup.critic_steps as u64,
            _ => self.critic_steps as u64,
        }
    }

    /// Critic steps in all rounds that begin before generator step number `step`, counted from 0.
    pub fn critic_steps_before(&self, step: u64) -> u64 {
        let rounds = step.div_ceil(self.generator_steps.max(1) as u64);
        let plain = rounds.saturating_mul(self.critic_steps as u64);
        let Some(CriticWarmup { critic_steps, first, every }) = self.critic_warmup else { return plain };
        // Multiples of `every` in first..step, and all of 0..first. (A warm-up goes with one generator step a round.)
        let multiples = |below: u64| below.div_ceil(every.max(1));
        let warm = step.min(first) + multiples(step).saturating_sub(multiples(first));
        (rounds - warm).saturating_mul(self.critic_steps as u64).saturating_add(warm.saturating_mul(critic_steps as u64))
    }

    /// The most critic steps of any round.
    pub fn most_critic_steps(&self) -> u64 {
        self.critic_warmup.map_or(0, |warmup| warmup.critic_steps).max(self.critic_steps) as u64
    }

    /// Generator steps after which at least so many critic steps are made, in whole rounds.
    fn steps_with(&self, critic_steps: u64) -> u64 {
        let a_round = self.generator_steps.max(1) as u64;
        let rounds = critic_steps.div_ceil(self.critic_steps.max(1) as u64);
        if self.critic_warmup.is_none() {
            return rounds.saturating_mul(a_round);
        }
        // Steps of a warm-up may be more than the plain ones: a binary search for the first count that has enough.
        let (mut low, mut high) = (0, critic_steps);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.critic_steps_before(middle) >= critic_steps { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Whether there is a moving average of the generator's weights.
    pub fn has_average(&self) -> bool {
        self.ema_decay > 0.0 || self.ema_half_life.is_some()
    }

    /// What changes over the run, with spans turned into steps for a data set of so many images.
    pub fn rates(&self, data_len: usize) -> Rates {
        self.rates_by(0, |span| span.in_steps(self, data_len))
    }

    /// What changes over the run, where `steps` turns spans into steps and `begin` is the step at which the run's images are
    /// counted from: not 0 where its batches were others before.
    pub fn rates_by(&self, begin: i64, steps: impl Fn(Span) -> u64) -> Rates {
        let decay = self.lr_decay.map(|decay| (decay.curve, steps(decay.begin), steps(decay.end), decay.to));
        // Steps are steps, whatever the batches were.
        let begin = |span| if matches!(span, Span::Steps(_)) { 0 } else { begin };
        let ramp = self.ramp.map(|Ramp { over, .. }| (begin(over), steps(over)));
        Rates { warmup: self.lr_warmup.map_or(0, &steps), decay, ramp }
    }
}

/// What changes over time: learning rates, as factors on those of the config, and how far its ramp is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    warmup: u64,
    decay: Option<(DecayCurve, u64, u64, f64)>,
    /// Its first step and its last.
    ramp: Option<(i64, u64)>,
}

/// How far a round is on the curves of its schedule: its values follow from this ([`crate::config::TrainConfig::values`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// The factor on the learning rates.
    pub lr: f64,
    /// What is left of the way from where the ramped values begin to where they end, 1 to 0.
    pub ramp: f64,
}

impl Default for Factors {
    /// The config's values as they stand there.
    fn default() -> Self {
        Self { lr: 1.0, ramp: 1.0 }
    }
}

impl Rates {
    /// Those of the round that begins after `step` generator steps.
    pub fn at(&self, step: u64) -> Factors {
        Factors { lr: self.lr(step), ramp: self.ramp(step) }
    }

    fn lr(&self, step: u64) -> f64 {
        let climb = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        let Some((curve, begin, end, to)) = self.decay else { return climb };
        let way = (step.saturating_sub(begin) as f64 / end.saturating_sub(begin).max(1) as f64).min(1.0);
        climb * (to + (1.0 - to) * curve.left(way))
    }

    fn ramp(&self, step: u64) -> f64 {
        let Some((begin, end)) = self.ramp else { return 1.0 };
        let way = (step as f64 - begin as f64) / (end as f64 - begin as f64).max(1.0);
        DecayCurve::Cosine.left(way.clamp(0.0, 1.0))
    }
}
