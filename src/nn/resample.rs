//! Kernels of a convolution with the mean of squares behind it, or with a map of twice the size before it, as those of one convolution.
//!
//! Along one axis, for a kernel `K` of k taps and stride 1:
//! - the mean of two neighbouring outputs is what stride 2 makes with `K'[a] = (K[a] + K[a − 1]) / 2`;
//! - where each input stands twice, two of an output's taps meet the same one: that is the transposed convolution of stride 2 with
//!   `K'[a] = K[k − 1 − a] + K[k − a]`.
//!
//! Both have k + 1 taps; taps beyond the kernel are 0. In two dimensions either is a product with a matrix, and its transpose brings
//! gradients back: so on CUDA; on the CPU the few taps that are not 0 are added up (`cpu/resample.rs`).

#[cfg(feature = "cuda")]
use candle_core::{DType, Device};
use candle_core::{Result, Tensor};

use super::cpu::for_float;
use super::cpu::resample as cpu;
use super::device::on_device;

/// What becomes of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resampling {
    /// Squares of four become their mean, behind the convolution.
    Halved,
    /// Each value becomes a square of four, before it.
    Doubled,
}

impl Resampling {
    /// Kernels `[co, ci, k, k]` as those of one convolution of stride 2, `[co, ci, k + 1, k + 1]`; of the transposed one, `[ci, co, …]`.
    pub fn widen(self, kernels: &Tensor) -> Result<Tensor> {
        let kernels = &kernels.contiguous()?;
        on_device!(
            kernels.device(),
            cpu: for_float!(kernels.dtype(), T => cpu::widen::<T>(kernels, self)),
            cuda: self.widen_by_product(kernels)
        )
    }

    #[cfg(feature = "cuda")]
    fn widen_by_product(self, kernels: &Tensor) -> Result<Tensor> {
        let (co, ci, k, _) = kernels.dims4()?;
        let matrix = self.matrix(k, kernels.dtype(), kernels.device())?;
        let wide = kernels.reshape((co * ci, k * k))?.matmul(&matrix)?.reshape((co, ci, k + 1, k + 1))?;
        match self {
            Self::Halved => Ok(wide),
            Self::Doubled => wide.transpose(0, 1)?.contiguous(),
        }
    }

    /// The sizes of what [`Self::widen`] makes of kernels of these.
    pub fn wide(self, [co, ci, k, l]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Halved => [co, ci, k + 1, l + 1],
            Self::Doubled => [ci, co, k + 1, l + 1],
        }
    }

    /// The inverse of [`Self::wide`].
    pub fn narrow(self, [a, b, k, l]: [usize; 4]) -> [usize; 4] {
        match self {
            Self::Halved => [a, b, k - 1, l - 1],
            Self::Doubled => [b, a, k - 1, l - 1],
        }
    }

    /// From the gradient to what [`Self::widen`] makes to that to the kernels.
    pub fn gather(self, wide: &Tensor) -> Result<Tensor> {
        let wide = &wide.contiguous()?;
        on_device!(
            wide.device(),
            cpu: for_float!(wide.dtype(), T => cpu::gather::<T>(wide, self)),
            cuda: self.gather_by_product(wide)
        )
    }

    #[cfg(feature = "cuda")]
    fn gather_by_product(self, wide: &Tensor) -> Result<Tensor> {
        let wide = match self {
            Self::Halved => wide.clone(),
            Self::Doubled => wide.transpose(0, 1)?.contiguous()?,
        };
        let (co, ci, wider, _) = wide.dims4()?;
        let k = wider - 1;
        let matrix = self.matrix(k, wide.dtype(), wide.device())?;
        wide.reshape((co * ci, wider * wider))?.matmul(&matrix.t()?)?.reshape((co, ci, k, k))
    }

    /// `[k², (k + 1)²]`
    #[cfg(feature = "cuda")]
    fn matrix(self, k: usize, dtype: DType, device: &Device) -> Result<Tensor> {
        let share = |tap: usize, to: usize| match self {
            Self::Halved if to == tap || to == tap + 1 => 0.5,
            Self::Doubled if to + tap == k || to + tap + 1 == k => 1.0,
            _ => 0.0,
        };
        let rows = (0..k * k).flat_map(|tap| {
            let wider = k + 1;
            (0..wider * wider).map(move |to| share(tap / k, to / wider) * share(tap % k, to % wider))
        });
        Tensor::from_vec(rows.collect::<Vec<f64>>(), (k * k, (k + 1) * (k + 1)), device)?.to_dtype(dtype)
    }
}
