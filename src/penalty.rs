//! Penalties on the critic's gradient to its input. `Network::input_gradient_penalty` brings them to the parameters.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::Result;
pub use crate::nn::slopes::EPS;
use crate::nn::slopes::{Aim, penalise};
use crate::random::{Purpose, Stream};

/// A penalty on the critic's gradient to its input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PenaltyConfig {
    /// Norm 1 between real and generated images: WGAN-GP's (arXiv 1704.00028).
    Gradient {
        /// λ; 10 in the paper.
        #[serde(default = "ten")]
        weight: f64,
    },
    /// Norm 0 at real images: R1 (arXiv 1801.04406).
    R1 {
        /// γ; 10 in the paper.
        #[serde(default = "ten")]
        weight: f64,
        /// Taken in each so many critic steps, with so many times the weight (arXiv 1912.04958, appendix B).
        #[serde(default = "one", skip_serializing_if = "is_one")]
        every: u64,
    },
    /// Norm 0 at real and at generated images: R1 + R2 (arXiv 1801.04406; together in arXiv 2501.05441).
    R1R2 {
        /// γ of both.
        #[serde(default = "ten")]
        weight: f64,
        /// As of R1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        every: u64,
    },
}

fn ten() -> f64 {
    10.0
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_one(number: &u64) -> bool {
    *number == 1
}

impl PenaltyConfig {
    /// Its factor.
    pub fn weight(self) -> f64 {
        let (Self::Gradient { weight } | Self::R1 { weight, .. } | Self::R1R2 { weight, .. }) = self;
        weight
    }

    /// The same with another factor.
    pub fn with_weight(mut self, to: f64) -> Self {
        let (Self::Gradient { weight } | Self::R1 { weight, .. } | Self::R1R2 { weight, .. }) = &mut self;
        *weight = to;
        self
    }

    /// Each how many critic steps it is taken.
    pub fn every(self) -> u64 {
        match self {
            Self::Gradient { .. } => 1,
            Self::R1 { every, .. } | Self::R1R2 { every, .. } => every,
        }
    }

    /// Passes through the critic that it takes.
    pub fn passes(self) -> u64 {
        match self {
            Self::Gradient { .. } | Self::R1 { .. } => 1,
            Self::R1R2 { .. } => 2,
        }
    }

    /// The penalty of critic step number `index`, from 0: none but in each so many, where the weight is that of all of them
    /// together (lazy regularisation, arXiv 1912.04958, appendix B).
    pub fn at_step(self, index: u64) -> Option<Self> {
        let every = self.every().max(1);
        index.is_multiple_of(every).then(|| self.with_weight(self.weight() * every as f64))
    }
}

/// A penalty and what it is made of, in f64 on the device.
pub struct Penalty {
    /// What the critic's loss is given besides, its weight included: a scalar.
    pub value: Tensor,
    /// The mean over the images of `‖g‖`, up to √[`EPS`]: a scalar.
    pub norm: Tensor,
    /// Both, `[2]`.
    pub(crate) told: Tensor,
}

impl PenaltyConfig {
    /// The penalty on the critic's gradients `g`, `[n, …]`, and its gradient to them; `‖g‖² = Σ g² + ε` goes over all but the batch.
    ///
    /// - `Gradient`: `weight · mean (‖g‖ − 1)²` (arXiv 1704.00028, eq. 3), for `g` at the images of [`interpolate`]
    /// - `R1`: `weight/2 · mean Σ g²` (arXiv 1801.04406, eq. 9), for `g` at real images
    /// - `R1R2`: the same, which is taken once at real and once at generated images (arXiv 1801.04406, eq. 9 and 10)
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn of(self, g: &Tensor) -> Result<(Penalty, Tensor)> {
        self.weighted(g, None)
    }

    /// The same, with the weight that lies on the device, `[1]` in f64, if one is given.
    pub(crate) fn weighted(self, g: &Tensor, weight: Option<&Tensor>) -> Result<(Penalty, Tensor)> {
        let aim = match self {
            Self::Gradient { .. } => Aim::LengthOne,
            Self::R1 { .. } | Self::R1R2 { .. } => Aim::Zero,
        };
        let [told, v] = penalise(aim, g, self.weight(), weight)?;
        Ok((Penalty { value: told.get(0)?, norm: told.get(1)?, told }, v))
    }
}

/// `αx + (1 − α)x̂`: where WGAN-GP looks at the gradient (arXiv 1704.00028, algorithm 1). `real` and `fake` are shaped alike, `[n, …]`,
/// `alphas` is `[n]`.
///
/// # Errors
/// When the shapes do not fit, or the device is out of memory.
pub fn interpolate(real: &Tensor, fake: &Tensor, alphas: &Tensor) -> Result<Tensor> {
    let (rows, n) = (|x: &Tensor| x.reshape((x.dim(0)?, ())), alphas.elem_count());
    let alphas = alphas.reshape((n, 1))?;
    let of_real = rows(real)?.broadcast_mul(&alphas)?;
    let of_fake = rows(fake)?.broadcast_mul(&alphas.affine(-1.0, 1.0)?)?;
    Ok((of_real + of_fake)?.reshape(real.shape())?)
}

/// The α of images `first..first + n`, each uniform in [0, 1) and drawn at (seed, image).
pub fn alphas(seed: u64, first: u64, n: usize) -> Vec<f32> {
    (first..).take(n).map(|index| Stream::at(seed, Purpose::Interpolation, index).unit()).collect()
}
