//! Spectral normalisation (arXiv 1802.05957, algorithm 1), as PyTorch's `spectral_norm` does it: a weight, taken as the matrix
//! `[out, rest]`, is divided by σ = uᵀWv, and each training pass makes one power iteration on u and v.

use candle_core::{DType, Result, Tensor, Var};

use super::cpu::spectral as cpu;
use super::cpu::{Float, for_float};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;

/// The least norm that a vector is divided by; also in `kernels.cu`.
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
        on_device!(
            weight.device(),
            cpu: for_float!(weight.dtype(), T => Self::on_cpu::<T>(weight, u, v, iterate)),
            cuda: {
                let [u, v] = [u, v].map(Var::as_detached_tensor);
                let [normalised, sigma, u, v] = cuda::spectral::normalise(weight, &u, &v, iterate)?;
                Ok(Self { normalised, sigma, u, v })
            }
        )
    }

    fn on_cpu<T: Float>(weight: &Tensor, u: &Var, v: &Var, iterate: bool) -> Result<Self> {
        let matrix = weight.flatten_from(1)?;
        if iterate {
            v.set(&unit(&cpu::transposed_times::<T>(&matrix, u)?)?)?;
        }
        // Copies: the next pass iterates before this one's way back.
        let v = v.as_detached_tensor().copy()?;
        let along = cpu::times::<T>(&matrix, &v)?;
        if iterate {
            u.set(&unit(&along)?)?;
        }
        let u = u.as_detached_tensor().copy()?;
        let sigma = (&u * along)?.sum_all()?;
        Ok(Self { normalised: cpu::divided::<T>(weight, &sigma)?, sigma, u, v })
    }

    /// From the gradient to W/σ to that to W, with u and v constant: `(G − ⟨G, W/σ⟩ u vᵀ) / σ` (section 2.3 there).
    pub fn weight_grad(&self, gradient: &Tensor) -> Result<Tensor> {
        on_device!(
            gradient.device(),
            cpu: {
                let sigma = self.sigma.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                for_float!(gradient.dtype(), T => cpu::weight_grad::<T>(gradient, &self.normalised, [&self.u, &self.v], sigma))
            },
            cuda: cuda::spectral::weight_grad(gradient, &self.normalised, [&self.u, &self.v], &self.sigma)
        )
    }
}

fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_all()?.sqrt()?.maximum(EPS)?)
}
