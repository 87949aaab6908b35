//! Kernels of a convolution with the mean of squares behind it, or with a map of twice the size before it, as those of one convolution.
//!
//! Along one axis, for a kernel `K` of k taps and stride 1:
//! - the mean of two neighbouring outputs is what stride 2 makes with `K'[a] = (K[a] + K[a − 1]) / 2`;
//! - where each input stands twice, two of an output's taps meet the same one: that is the transposed convolution of stride 2 with
//!   `K'[a] = K[k − 1 − a] + K[k − a]`.
//!
//! Both have k + 1 taps; taps beyond the kernel are 0. In two dimensions either is a product with a matrix, and its transpose brings
//! gradients back.

use candle_core::{DType, Device, Result, Tensor};

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
        let (co, ci, k, _) = kernels.dims4()?;
        let matrix = self.matrix(k, kernels.dtype(), kernels.device())?;
        let wide = kernels.contiguous()?.reshape((co * ci, k * k))?.matmul(&matrix)?.reshape((co, ci, k + 1, k + 1))?;
        match self {
            Self::Halved => Ok(wide),
            Self::Doubled => wide.transpose(0, 1)?.contiguous(),
        }
    }

    /// From the gradient to what [`Self::widen`] makes to that to the kernels.
    pub fn gather(self, wide: &Tensor) -> Result<Tensor> {
        let wide = match self {
            Self::Halved => wide.contiguous()?,
            Self::Doubled => wide.transpose(0, 1)?.contiguous()?,
        };
        let (co, ci, wider, _) = wide.dims4()?;
        let k = wider - 1;
        let matrix = self.matrix(k, wide.dtype(), wide.device())?;
        wide.reshape((co * ci, wider * wider))?.matmul(&matrix.t()?)?.reshape((co, ci, k, k))
    }

    /// `[k², (k + 1)²]`
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
