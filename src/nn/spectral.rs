//! Spectral normalisation (arXiv 1802.05957, algorithm 1), as PyTorch's `spectral_norm` does it: a weight, taken as the matrix
//! `[out, rest]`, is divided by σ = uᵀWv, and each training pass makes one power iteration on u and v.

use candle_core::{DType, Result, Tensor, Var};

use super::cpu::for_float;
use super::cpu::spectral as cpu;
use super::device::on_device;

/// The least norm that a vector is divided by.
const EPS: f64 = 1e-12;

/// A weight in one pass, and what it was divided by.
pub(super) struct Spectral {
    /// W/σ, shaped as W.
    pub normalised: Tensor,
    sigma: Tensor,
    u: Tensor,
    v: Tensor,
}

impl Spectral {
    /// With the u and v at hand, after one power iteration, which they keep, if so asked.
    pub fn new(weight: &Tensor, u: &Var, v: &Var, iterate: bool) -> Result<Self> {
        let matrix = weight.flatten_from(1)?;
        if iterate {
            v.set(&unit(&transposed_times(&matrix, u)?)?)?;
        }
        // Copies: the next pass iterates before this one's way back.
        let v = v.as_detached_tensor().copy()?;
        let along = times(&matrix, &v)?;
        if iterate {
            u.set(&unit(&along)?)?;
        }
        let u = u.as_detached_tensor().copy()?;
        let sigma = (&u * along)?.sum_all()?;
        Ok(Self { normalised: divided(weight, &sigma)?, sigma, u, v })
    }

    /// From the gradient to W/σ to that to W, with u and v constant: `(G − ⟨G, W/σ⟩ u vᵀ) / σ` (section 2.3 there).
    pub fn weight_grad(&self, gradient: &Tensor) -> Result<Tensor> {
        on_device!(
            gradient.device(),
            cpu: {
                let sigma = self.sigma.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                for_float!(gradient.dtype(), T => cpu::weight_grad::<T>(gradient, &self.normalised, [&self.u, &self.v], sigma))
            },
            cuda: {
                let along = (gradient * &self.normalised)?.sum_all()?;
                let rank_one = self.u.broadcast_mul(&along)?.unsqueeze(1)?.broadcast_mul(&self.v.unsqueeze(0)?)?;
                (gradient - rank_one.reshape(gradient.shape())?)?.broadcast_div(&self.sigma)
            }
        )
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_all()?.sqrt()?.maximum(EPS)?)
}

/// W v. On the CPU our own product, as the next: candle's may depend on the number of threads.
fn times(matrix: &Tensor, v: &Tensor) -> Result<Tensor> {
    on_device!(
        matrix.device(),
        cpu: for_float!(matrix.dtype(), T => cpu::times::<T>(matrix, v)),
        cuda: matrix.matmul(&v.unsqueeze(1)?)?.squeeze(1)
    )
}

/// Wᵀ u
fn transposed_times(matrix: &Tensor, u: &Tensor) -> Result<Tensor> {
    on_device!(
        matrix.device(),
        cpu: for_float!(matrix.dtype(), T => cpu::transposed_times::<T>(matrix, u)),
        cuda: u.unsqueeze(0)?.matmul(matrix)?.squeeze(0)
    )
}

/// W/σ
fn divided(weight: &Tensor, sigma: &Tensor) -> Result<Tensor> {
    on_device!(
        weight.device(),
        cpu: for_float!(weight.dtype(), T => cpu::divided::<T>(weight, sigma)),
        cuda: weight.broadcast_div(sigma)
    )
}
