//! The values of a config at a step of the run, where its schedule changes them.

use super::schedule::{Factors, Ramp};
use super::schema::{OptimizerPair, TrainConfig};
use crate::optim::OptimizerConfig;
use crate::penalty::PenaltyConfig;

/// Those values that a schedule may change over a run, as they are for one round of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct StepValues {
    /// The optimisers, with the round's learning rates and β₂.
    pub optimizer: OptimizerPair,
    /// The penalty, with the round's weight.
    pub penalty: Option<PenaltyConfig>,
    /// The probability with which each augmentation changes each image.
    pub augment_probability: f64,
    /// The decay a generator step of the moving average of the generator's weights, if there is one.
    pub ema_decay: f64,
}

impl TrainConfig {
    /// The values of a round whose factors the schedule's [`Rates`](super::Rates) give; [`Factors::default`] for those that the config
    /// states.
    pub fn values(&self, factors: Factors) -> StepValues {
        let to = |of: fn(&Ramp) -> Option<f64>| self.schedule.ramp.as_ref().and_then(of);
        let ramped = |from: f64, to: Option<f64>| to.map_or(from, |to| to + (from - to) * factors.ramp);
        let optimizer = |config: OptimizerConfig| {
            let config = config.with_rate(factors.lr);
            config.beta2().map_or(config, |beta2| config.with_beta2(ramped(beta2, to(|ramp| ramp.beta2_to))))
        };
        let penalty = |config: PenaltyConfig| config.with_weight(ramped(config.weight(), to(|ramp| ramp.penalty_to)));
        let half_life_to = to(|ramp| ramp.ema_half_life_to.map(|images| images as f64));
        let half_life = self.schedule.ema_half_life.map(|images| ramped(images as f64, half_life_to));
        StepValues {
            optimizer: OptimizerPair {
                generator: optimizer(self.optimizer.generator),
                critic: optimizer(self.optimizer.critic),
            },
            penalty: self.penalty.map(penalty),
            augment_probability: ramped(self.augment_probability, to(|ramp| ramp.augment_to)),
            ema_decay: half_life.map_or(self.schedule.ema_decay, |images| self.decay_of(images)),
        }
    }

    /// `½^(images a generator step / half-life)`, as the authors' code of arXiv 2501.05441 has it; 0 for a half-life of 0. The images
    /// are the real ones that the critic is shown, without a warm-up's.
    fn decay_of(&self, half_life: f64) -> f64 {
        let schedule = &self.schedule;
        let images = schedule.batch_size as f64 * schedule.critic_steps as f64 / schedule.generator_steps.max(1) as f64;
        0.5f64.powf(images / half_life)
    }
}
