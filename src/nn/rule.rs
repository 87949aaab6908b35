//! What a step of an optimiser, a limit or an average does to every value of a tensor: one description, which the kernels of both
//! kinds of device follow.

use candle_core::{Result, Tensor, bail};

use super::in_place::{self, InPlace};

/// The most constants that a rule has.
pub(crate) const CONSTANTS: usize = 7;

/// What happens to every value w of a tensor, from a value g and to its slots m and v, with the constants of one step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`, `w ← w − rate · m / (√v · correction + eps)`
    Adam {
        /// β₁, β₂.
        betas: [f64; 2],
        /// lr / (1 − β₁ᵗ).
        rate: f64,
        /// 1 / √(1 − β₂ᵗ).
        correction: f64,
        /// ε.
        eps: f64,
    },
    /// `v ← decay · v + (1 − decay)g²`, `w ← w − lr · g / (√(v + inside) + beside)`
    Rmsprop {
        /// Learning rate.
        lr: f64,
        /// Weight of the old average.
        decay: f64,
        /// ε of TensorFlow 1's form.
        inside: f64,
        /// ε of PyTorch's form.
        beside: f64,
    },
    /// `m ← momentum · m + g`, `w ← w − lr · m`
    Momentum {
        /// Learning rate.
        lr: f64,
        /// Weight of the old direction.
        momentum: f64,
    },
    /// `w ← w − lr · g`
    Sgd {
        /// Learning rate.
        lr: f64,
    },
    /// `w ← −limit where it is below, limit where it is above`; what is not a number stays.
    Clamp {
        /// The limit, positive.
        limit: f64,
    },
    /// `w ← keep · w + take · g`
    Lerp {
        /// Weight of what was there.
        keep: f64,
        /// Weight of the other.
        take: f64,
    },
}

/// A tensor with what a [`Rule`] takes besides.
pub(crate) struct Row<'a> {
    /// w.
    pub to: InPlace<'a>,
    /// g.
    pub from: Option<&'a Tensor>,
    /// In the order of [`Rule::slots`].
    pub slots: Vec<InPlace<'a>>,
}

impl Rule {
    /// The slots that it takes, in its order.
    pub fn slots(self) -> &'static [&'static str] {
        match self {
            Self::Adam { .. } => &["m", "v"],
            Self::Rmsprop { .. } => &["v"],
            Self::Momentum { .. } => &["m"],
            Self::Sgd { .. } | Self::Clamp { .. } | Self::Lerp { .. } => &[],
        }
    }

    /// Its constants, in the order in which `kernels.cu` has them; what a rule has less than there are is 0.
    pub fn constants(self) -> [f64; CONSTANTS] {
        fn padded<const N: usize>(constants: [f64; N]) -> [f64; CONSTANTS] {
            std::array::from_fn(|i| constants.get(i).copied().unwrap_or(0.0))
        }
        match self {
            Self::Adam { betas: [b1, b2], rate, correction, eps } => [b1, 1.0 - b1, b2, 1.0 - b2, rate, correction, eps],
            Self::Rmsprop { lr, decay, inside, beside } => padded([lr, decay, 1.0 - decay, inside, beside]),
            Self::Momentum { lr, momentum } => padded([lr, momentum]),
            Self::Sgd { lr } => padded([lr]),
            Self::Clamp { limit } => padded([limit]),
            Self::Lerp { keep, take } => padded([keep, take]),
        }
    }

    /// Whether it takes a g.
    fn takes_from(self) -> bool {
        match self {
            Self::Clamp { .. } => false,
            Self::Adam { .. } | Self::Rmsprop { .. } | Self::Momentum { .. } | Self::Sgd { .. } | Self::Lerp { .. } => true,
        }
    }

    /// Refuses a row of other tensors than the rule takes, of different lengths, or that share their memory.
    pub fn check(self, row: &Row<'_>) -> Result<()> {
        let len = row.to.tensor().elem_count();
        let others = row.from.into_iter().chain(row.slots.iter().map(|slot| slot.tensor()));
        let lengths: Vec<usize> = others.map(Tensor::elem_count).collect();
        if row.from.is_some() != self.takes_from() || row.slots.len() != self.slots().len() || lengths.iter().any(|&l| l != len)
        {
            bail!("{self:?}: a tensor of {:?} with others of {lengths:?} values", row.to.tensor().dims());
        }
        let written: Vec<InPlace<'_>> = std::iter::once(row.to).chain(row.slots.iter().copied()).collect();
        in_place::check(&written, row.from.as_slice())
    }
}
