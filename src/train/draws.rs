//! What the host makes for a round of steps: numbers that are drawn, chosen or scheduled. Each is a function of where the round
//! begins and of its place in it, so that a round that was captured is given those of another.

use super::batches::{Batches, Part};
use super::step::{Phase, Trainer};
use crate::augment::Augmentation;
use crate::ema;
use crate::error::{Error, Result};
use crate::nn::rule::CONSTANTS;
use crate::nn::scores::Player;
use crate::nn::upload::Values;
use crate::optim;
use crate::penalty::{PenaltyConfig, alpha_values};
use crate::random::Purpose;

/// Some numbers for a round, and where in it they are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    pub what: What,
    /// Images that they are for.
    pub n: usize,
    /// Critic steps of the round before.
    pub critic_turn: u64,
    /// Generator steps of the round before.
    pub generator_turn: u64,
}

/// What numbers are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A part of a batch of real images, in a step of either.
    Real(Player, Part),
    /// The latents of a step, `[n, size]`.
    Latents(Player),
    /// How the images of pass number `pass` of the round are augmented: `Augmentation::numbers`, `[steps, n, 4]`.
    #[cfg(feature = "cuda")]
    Augmentation {
        /// The passes of the round before.
        pass: u64,
    },
    /// Where between real and generated images a penalty is taken, `[n]`.
    Between,
    /// The constants of an optimiser's step.
    Rule(Player),
    /// Those of the moving average's.
    Average,
    /// The weight of the penalty, `[1]`.
    PenaltyWeight,
}

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
            step: self.step - phase.generator_turns,
            critic_updates: self.critic_optimizer.steps() - phase.critic_turns,
            generator_updates: self.generator_optimizer.steps() - phase.generator_turns,
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
            What::Between => Values::F32(alpha_values(self.config.seed, critic_step * schedule.batch_size as u64, n)),
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
    pub(super) fn augmentation(&self, number: u64, n: usize) -> Augmentation {
        let (config, first) = (&self.config, number * self.config.schedule.batch_size as u64);
        Augmentation::draw(&config.augment, &config.data, config.seed, first, n).with_probability(
            self.values.augment_probability,
            config.seed,
            first,
        )
    }
}
