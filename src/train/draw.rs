//! What a round of steps takes from the host, by name.

use super::batches::Part;
use crate::nn::scores::Player;

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
