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
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;
use super::geometry::{Direction, Resampling};

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

    /// A convolution of wide kernels, by `conv` of two operands and with a result of these sizes, for kernels as they are before.
    pub fn by_widening(
        self,
        direction: Direction,
        [a, b]: [&Tensor; 2],
        result: [usize; 4],
        conv: impl FnOnce([&Tensor; 2], [usize; 4]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match direction {
            Direction::Forward | Direction::InputGrad => conv([a, &self.widen(b)?], result),
            Direction::WeightGrad => self.gather(&conv([a, b], self.wide(result))?),
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
        let name = match self {
            Self::Halved => "halved",
            Self::Doubled => "doubled",
        };
        let sides = [k * k, (k + 1) * (k + 1)];
        cuda::driver::kept(device, (name, sides, dtype), || {
            let rows = (0..k * k).flat_map(|tap| {
                let wider = k + 1;
                (0..wider * wider).map(move |to| share(tap / k, to / wider) * share(tap % k, to % wider))
            });
            Tensor::from_vec(rows.collect::<Vec<f64>>(), &sides[..], device)?.to_dtype(dtype)
        })
    }
}
