//! A round: critic steps, then generator steps.

use super::batches::{Batch, Batches};
#[cfg(feature = "cuda")]
use super::captured::Captures;
use super::draw::What;
use super::trainer::{Phase, Trainer, keep_strides};
use crate::error::Result;
use crate::nn::cpu::on_pool;
use crate::nn::scores::Player;

/// The rounds of one trainer and its batches. On CUDA a round like others before it is a replay of what those had launched
/// (`schedule.capture`), to the same bits.
#[derive(Default)]
pub struct Rounds {
    #[cfg(feature = "cuda")]
    captures: Captures,
}

impl Rounds {
    /// One round: as many critic steps as the schedule has before this generator step, then its generator steps. On CUDA nobody else may launch
    /// anything on a clone of the trainer's device meanwhile: it would be captured, too.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn round(&mut self, trainer: &mut Trainer, batches: &mut Batches<'_>) -> Result<()> {
        on_pool(|| {
            let _kept = keep_strides(trainer.device())?;
            #[cfg(feature = "cuda")]
            if self.captures.replay(trainer, batches)? {
                return Ok(());
            }
            trainer.steps(batches, &mut Phase::default())
        })
    }

    /// How many kinds of rounds are captured on CUDA: of other numbers of images, with and without a penalty.
    pub fn captured(&self) -> usize {
        #[cfg(feature = "cuda")]
        return self.captures.len();
        #[cfg(not(feature = "cuda"))]
        0
    }

    /// How many rounds were one launch on CUDA, those among them that were captured and compared.
    pub fn replayed(&self) -> u64 {
        #[cfg(feature = "cuda")]
        return self.captures.replayed();
        #[cfg(not(feature = "cuda"))]
        0
    }

    /// Why steps are not captured on CUDA, if that is to be said: once.
    pub fn take_notice(&mut self) -> Option<String> {
        #[cfg(feature = "cuda")]
        return self.captures.take_notice();
        #[cfg(not(feature = "cuda"))]
        None
    }
}

impl Trainer {
    /// The steps of a round, one by one.
    pub(super) fn steps(&mut self, batches: &mut Batches<'_>, phase: &mut Phase) -> Result<()> {
        let (schedule, pairs) = (&self.config.schedule, self.config.loss.pairs_scores());
        let (critic_steps, generator_steps) = (schedule.critic_steps_at(self.step), schedule.generator_steps);
        for _ in 0..critic_steps {
            let real = self.real(Player::Critic, batches, phase)?;
            self.critic_step(&real, phase)?;
        }
        for _ in 0..generator_steps {
            let real = pairs.then(|| self.real(Player::Generator, batches, phase)).transpose()?;
            self.generator_step(real.as_ref(), phase)?;
        }
        Ok(())
    }

    /// The real images of the present step of a player.
    fn real(&self, player: Player, batches: &mut Batches<'_>, phase: &mut Phase) -> Result<Batch> {
        let chosen = match player {
            Player::Critic => batches.chosen(self.critic_steps() + phase.critic_turns),
            Player::Generator => batches.chosen_for_generator(self.step, phase.images),
        };
        let n = chosen.indices.len();
        batches.batch_by(&chosen, |part, shape| {
            let values = batches.values_of(part, &chosen)?;
            let draw = phase.draw(What::Real(player, part), n);
            phase.feed.give(draw, values, shape, self.device())
        })
    }
}
