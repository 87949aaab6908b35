//! What the host makes for a round of steps: numbers that are drawn, chosen or scheduled. Each is a function of where the round
//! begins and of its place in it, so that a round that was captured is given those of another.

use candle_core::{Shape, Tensor};
use rayon::prelude::*;

use super::batches::Batches;
use super::draw::{Draw, What};
use super::trainer::{Phase, Trainer};
use crate::augment::{Augmentation, Placed};
use crate::ema;
use crate::error::{Error, Result};
use crate::nn::Pass;
use crate::nn::rule::CONSTANTS;
use crate::nn::scores::Player;
use crate::nn::upload::Values;
use crate::optim;
use crate::penalty::{PenaltyConfig, alphas};
use crate::random::Purpose;

/// Where a round begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginning {
    /// Generator steps made before.
    step: u64,
    /// Steps of the critic's optimiser made before.
    critic_updates: u64,
    /// Likewise of the generator's.
    generator_updates: u64,
}

impl Trainer {
    /// Where the round of a phase began.
    pub(super) fn beginning(&self, phase: &Phase) -> Beginning {
        Beginning {
            step: self.step.saturating_sub(phase.generator_turns),
            critic_updates: self.critic_optimizer.steps().saturating_sub(phase.critic_turns),
            generator_updates: self.generator_optimizer.steps().saturating_sub(phase.generator_turns),
        }
    }

    /// The numbers themselves, of the round that begins there, with the values that are set for it ([`Self::values`]).
    ///
    /// # Errors
    /// When they are of real images, and no batches are given.
    pub(super) fn drawn(&self, draw: Draw, from: Beginning, batches: Option<&mut Batches<'_>>) -> Result<Values> {
        let Draw { what, n, critic_turn, generator_turn } = draw;
        let schedule = &self.config.schedule;
        let critic_step = schedule.critic_steps_before(from.step) + critic_turn;
        let generator_step = from.step + generator_turn;
        let constants = |constants: [f64; CONSTANTS]| Values::F64(constants.to_vec());
        Ok(match what {
            What::Real(player, part) => {
                let lost = || Error::from(candle_core::Error::Msg("a draw of real images without a data set".to_string()));
                let batches = batches.ok_or_else(lost)?;
                let chosen = match player {
                    Player::Critic => batches.chosen(critic_step),
                    Player::Generator => batches.chosen_for_generator(generator_step, n),
                };
                batches.values_of(part, &chosen)?
            }
            What::Latents(Player::Critic) => Values::F32(self.latent_rows(Purpose::CriticLatent, critic_step, n)),
            What::Latents(Player::Generator) => Values::F32(self.latent_rows(Purpose::GeneratorLatent, generator_step, n)),
            #[cfg(feature = "cuda")]
            What::Augmentation { pass } => {
                let number = self.pass_number(generator_step, pass);
                let side = self.config.data.size;
                Values::F64(self.augmentation(number, n).numbers(&[n, side, side]))
            }
            What::Between => Values::F32(alphas(self.config.seed, critic_step * schedule.batch_size as u64, n)),
            What::Rule(Player::Critic) => {
                constants(optim::constants(self.values.optimizer.critic, from.critic_updates + critic_turn + 1))
            }
            What::Rule(Player::Generator) => {
                constants(optim::constants(self.values.optimizer.generator, from.generator_updates + generator_turn + 1))
            }
            What::Average => constants(ema::rule(generator_step + 1, self.values.ema_decay).constants()),
            What::PenaltyWeight => {
                let penalty = self.values.penalty.and_then(|config| config.at_step(critic_step));
                Values::F64(vec![penalty.map_or(0.0, PenaltyConfig::weight)])
            }
        })
    }

    /// How the `n` images of pass number `number` of the run are augmented; no two passes share draws.
    fn augmentation(&self, number: u64, n: usize) -> Augmentation {
        let (config, first) = (&self.config, number * self.config.schedule.batch_size as u64);
        Augmentation::draw(&config.augment, &config.data, config.seed, first, n).with_probability(
            self.values.augment_probability,
            config.seed,
            first,
        )
    }

    /// What happens to the `n` images of the next pass on their way to the critic.
    pub(super) fn placed(&self, n: usize, phase: &mut Phase) -> Result<Placed> {
        #[cfg(feature = "cuda")]
        if self.device().is_cuda() && !self.config.augment.is_empty() {
            let policy = self.config.augment.clone();
            let draws = self.give(What::Augmentation { pass: phase.passes }, n, (policy.len(), n, 4), phase)?;
            return Ok(Placed::Device { policy, draws, fill: Augmentation::fill(&self.config.data) });
        }
        Ok(Placed::Host(self.augmentation(self.pass_number(self.step, phase.passes), n)))
    }

    /// Brings numbers for `n` images of the present step to the device.
    pub(super) fn give(&self, what: What, n: usize, shape: impl Into<Shape>, phase: &mut Phase) -> Result<Tensor> {
        let draw = phase.draw(what, n);
        let values = self.drawn(draw, self.beginning(phase), None)?;
        phase.feed.give(draw, values, shape.into(), self.device())
    }

    /// Constants of the present step on the device, unless kernels take theirs by value.
    pub(super) fn constants(&self, what: What, phase: &mut Phase) -> Result<Option<Tensor>> {
        let len = if what == What::PenaltyWeight { 1 } else { CONSTANTS };
        (!phase.feed.is_plain()).then(|| self.give(what, 0, len, phase)).transpose()
    }

    /// The latents of the present step of a player.
    pub(super) fn latents(&self, player: Player, n: usize, phase: &mut Phase) -> Result<Tensor> {
        let z = self.give(What::Latents(player), n, (n, self.config.latent.size), phase)?;
        Ok(z.to_dtype(self.generator.dtype())?)
    }

    /// The latents of step `index`: those of its images are numbered from `index · batch size` on.
    fn latent_rows(&self, purpose: Purpose, index: u64, n: usize) -> Vec<f32> {
        let (latent, seed) = (self.config.latent, self.config.seed);
        let first = index * self.config.schedule.batch_size as u64;
        let mut rows = vec![0.0; n * latent.size];
        let numbered = rows.par_chunks_mut(latent.size).enumerate();
        numbered.for_each(|(at, row)| latent.fill(seed, purpose, first + at as u64, row));
        rows
    }

    /// The next pass of a phase.
    pub(super) fn next_pass(&self, phase: &mut Phase) -> Pass {
        let number = self.pass_number(self.step, phase.passes);
        phase.passes += 1;
        Pass::Train { seed: self.config.seed, number }
    }

    /// The number of a pass: its phase made so many before it, generator steps `step`.
    fn pass_number(&self, step: u64, passes: u64) -> u64 {
        // Three passes a critic step (generator, real, fake), and those of a penalty; at most two in the generator's, and one for
        // real images if it sees any.
        let schedule = &self.config.schedule;
        let a_critic_step = 3 + self.config.penalty.map_or(0, PenaltyConfig::passes);
        let a_generator_step = 2 + u64::from(self.config.loss.pairs_scores());
        step * (a_critic_step * schedule.most_critic_steps() + a_generator_step * schedule.generator_steps as u64) + passes
    }
}

impl Phase {
    /// Numbers for `n` images of the present step.
    pub(super) fn draw(&self, what: What, n: usize) -> Draw {
        Draw { what, n, critic_turn: self.critic_turns, generator_turn: self.generator_turns }
    }
}
