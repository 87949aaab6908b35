//! Penalties on the critic's gradient to its input. `Network::input_gradient_penalty` brings them to the parameters.

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::random::{Purpose, Stream};

/// Added under the root of a gradient's norm: where the gradient is 0, the norm has a derivative.
pub const EPS: f64 = 1e-12;

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
    },
}

fn ten() -> f64 {
    10.0
}

impl PenaltyConfig {
    /// Its factor.
    pub fn weight(self) -> f64 {
        let (Self::Gradient { weight } | Self::R1 { weight }) = self;
        weight
    }
}

/// A penalty and what it is made of, scalars on the device.
pub struct Penalty {
    /// What the critic's loss is given besides, its weight included.
    pub value: Tensor,
    /// The mean over the images of `‖g‖`, up to √[`EPS`].
    pub norm: Tensor,
}

impl PenaltyConfig {
    /// The penalty on the critic's gradients `g`, `[n, …]`, and its gradient to them; `‖g‖² = Σ g² + ε` goes over all but the batch.
    ///
    /// - `Gradient`: `weight · mean (‖g‖ − 1)²` (arXiv 1704.00028, eq. 3), for `g` at the images of [`interpolate`]
    /// - `R1`: `weight/2 · mean Σ g²` (arXiv 1801.04406, eq. 9), for `g` at real images
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn of(self, g: &Tensor) -> Result<(Penalty, Tensor)> {
        let n = g.dim(0)?;
        let rows = g.reshape((n, ()))?;
        let squares = rows.sqr()?.sum_keepdim(D::Minus1)?;
        let norms = (&squares + EPS)?.sqrt()?;
        let (value, v) = match self {
            Self::Gradient { weight } => {
                let beyond = (&norms - 1.0)?;
                let factor = (beyond.div(&norms)? * (2.0 * weight / n as f64))?;
                ((beyond.sqr()?.mean_all()? * weight)?, rows.broadcast_mul(&factor)?)
            }
            Self::R1 { weight } => ((squares.mean_all()? * (weight / 2.0))?, (&rows * (weight / n as f64))?),
        };
        Ok((Penalty { value, norm: norms.mean_all()? }, v.reshape(g.shape())?))
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

/// The α of images `first..first + n`, each uniform in [0, 1) and drawn at (seed, image); `[n]`.
///
/// # Errors
/// When the device is out of memory.
pub fn alphas(seed: u64, first: u64, n: usize, device: &Device, dtype: DType) -> Result<Tensor> {
    let at = |index: u64| Stream::at(seed, Purpose::Interpolation, index).unit();
    let values: Vec<f32> = (first..).take(n).map(at).collect();
    Ok(Tensor::from_vec(values, n, device)?.to_dtype(dtype)?)
}
