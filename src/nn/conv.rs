//! Convolution, its input gradient and its weight gradient: a set of three that is closed under differentiation.
//!
//! With `y = conv(x, w)`, the gradient to `x` is [`conv_input_grad`]`(dy, w)` — which is also the transposed convolution of
//! `dy` — and the gradient to `w` is [`conv_weight_grad`]`(x, dy)`. All are linear in each argument, so differentiating the
//! first two gives members of the set again. Square kernels, strides and paddings; f32 and f64.
//!
//! Maps have their **channels last**, `[n, h, w, c]`; kernels are `[co, ci, k, k]`, as PyTorch and ONNX keep them.
//!
//! On the CPU the layers that carry most of the work take a form with fewer multiplications (`winograd.rs`), the others
//! im2col and gemm (`direct.rs`). Which one, and in what blocks, depends on shapes alone. On CUDA all are cuDNN's or cuBLAS's
//! (`cuda.rs`).

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::cpu::{Float, filled, slice};
#[cfg(feature = "cuda")]
use super::cuda;
use super::direct;
use super::winograd::Winograd;

/// Where a square kernel lands on its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between positions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

impl Window {
    /// A kernel of 1: a linear layer at every position.
    pub const POINT: Self = Self { kernel: 1, stride: 1, padding: 0 };

    /// The output size of a convolution of an input of `size`; 0 where the kernel does not fit, or the stride is 0.
    pub fn output(&self, size: usize) -> usize {
        let room = (size + 2 * self.padding).checked_sub(self.kernel);
        room.and_then(|room| room.checked_div(self.stride)).map_or(0, |steps| steps + 1)
    }
}

/// `[n, h, w, ci]` with kernels `[co, ci, k, k]` → `[n, h', w', co]`. Differentiable in both.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv(x: &Tensor, w: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&w.contiguous()?, Conv(window))
}

/// The gradient of [`conv`] to an input of `size` = (h, w), given the output's gradient `[n, h', w', co]`: the transposed
/// convolution, `[n, h, w, ci]`. Differentiable in both arguments.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv_input_grad(dy: &Tensor, w: &Tensor, window: Window, size: (usize, usize)) -> Result<Tensor> {
    dy.contiguous()?.apply_op2(&w.contiguous()?, ConvInputGrad { window, size })
}

/// The gradient of [`conv`] to its kernels `[co, ci, k, k]`, given its input and the output's gradient. Not on the tape:
/// only backward passes need it.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv_weight_grad(x: &Tensor, dy: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op2_no_bwd(&dy.contiguous()?, &ConvWeightGrad(window))
}

struct Conv(Window);

struct ConvInputGrad {
    window: Window,
    size: (usize, usize),
}

struct ConvWeightGrad(Window);

/// What all three kernels need to know: `x` is `[n, h, w, ci]`, `y` is `[n, out_h, out_w, co]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Plan {
    pub window: Window,
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub ci: usize,
    pub out_h: usize,
    pub out_w: usize,
    pub co: usize,
}

impl Plan {
    pub fn new(window: Window, x: [usize; 4], y: [usize; 4], kernels: [usize; 4]) -> Result<Self> {
        let [n, h, w, ci] = x;
        let [m, out_h, out_w, co] = y;
        let (k, stride) = (window.kernel, window.stride);
        let empty = x.contains(&0) || y.contains(&0) || k == 0 || stride == 0;
        if empty || n != m || kernels != [co, ci, k, k] || window.output(h) != out_h || window.output(w) != out_w {
            bail!("convolution: kernels {kernels:?} with {window:?} do not map {x:?} to {y:?} (channels last)");
        }
        Ok(Self { window, n, h, w, ci, out_h, out_w, co })
    }

    /// Elements of one input image.
    pub fn x_len(&self) -> usize {
        self.h * self.w * self.ci
    }

    /// Output positions of one image.
    pub fn positions(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Elements of one output image.
    pub fn y_len(&self) -> usize {
        self.positions() * self.co
    }

    /// Elements of the kernels.
    pub fn w_len(&self) -> usize {
        self.co * self.ci * self.window.kernel * self.window.kernel
    }

    fn forward<T: Float>(&self, x: &[T], w: &[T]) -> Vec<T> {
        filled(self.n * self.y_len(), |y| match Winograd::of(self) {
            Some(form) => form.forward(x, w, y),
            None => direct::forward(self, x, w, y),
        })
    }

    fn input_grad<T: Float>(&self, dy: &[T], w: &[T]) -> Vec<T> {
        filled(self.n * self.x_len(), |dx| match Winograd::of(self) {
            Some(form) => form.input_grad(dy, w, dx),
            None => direct::input_grad(self, dy, w, dx),
        })
    }

    fn weight_grad<T: Float>(&self, x: &[T], dy: &[T]) -> Vec<T> {
        filled(self.w_len(), |dw| match Winograd::of(self) {
            Some(form) => form.weight_grad(x, dy, dw),
            None => direct::weight_grad(self, x, dy, dw),
        })
    }
}

/// Runs an f32 or f64 kernel on two contiguous tensors of one type.
fn on_slices(
    a: (&CpuStorage, &Layout),
    b: (&CpuStorage, &Layout),
    for_f32: impl FnOnce(&[f32], &[f32]) -> Vec<f32>,
    for_f64: impl FnOnce(&[f64], &[f64]) -> Vec<f64>,
) -> Result<CpuStorage> {
    match (a.0, b.0) {
        (CpuStorage::F32(_), CpuStorage::F32(_)) => Ok(CpuStorage::F32(for_f32(slice(a.0, a.1)?, slice(b.0, b.1)?))),
        (CpuStorage::F64(_), CpuStorage::F64(_)) => Ok(CpuStorage::F64(for_f64(slice(a.0, a.1)?, slice(b.0, b.1)?))),
        _ => bail!("convolution: expected two f32 or two f64 tensors"),
    }
}

pub(super) fn dims4(layout: &Layout) -> Result<[usize; 4]> {
    let (a, b, c, d) = layout.shape().dims4()?;
    Ok([a, b, c, d])
}

impl Conv {
    fn plan(&self, x: &Layout, w: &Layout) -> Result<(Plan, [usize; 4])> {
        let ([n, h, width, ci], kernels) = (dims4(x)?, dims4(w)?);
        let y = [n, self.0.output(h), self.0.output(width), kernels[0]];
        Ok((Plan::new(self.0, [n, h, width, ci], y, kernels)?, y))
    }
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (plan, y) = self.plan(lx, lw)?;
        let out = on_slices((x, lx), (w, lw), |x, w| plan.forward(x, w), |x, w| plan.forward(x, w))?;
        Ok((out, Shape::from(y.to_vec())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        let (plan, shape) = self.plan(lx, lw)?;
        cuda::conv(cuda::Direction::Forward, &plan, (x, lx), (w, lw), Shape::from(shape.to_vec()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = x.track_op().then(|| {
            let op = ConvInputGrad { window: self.0, size: (x.dim(1)?, x.dim(2)?) };
            dy.contiguous()?.apply_op2_no_bwd(w, &op)
        });
        let dw = w.track_op().then(|| conv_weight_grad(x, dy, self.0));
        Ok((dx.transpose()?, dw.transpose()?))
    }
}

impl ConvInputGrad {
    fn plan(&self, dy: &Layout, w: &Layout) -> Result<(Plan, [usize; 4])> {
        let (y, kernels) = (dims4(dy)?, dims4(w)?);
        let x = [y[0], self.size.0, self.size.1, kernels[1]];
        Ok((Plan::new(self.window, x, y, kernels)?, x))
    }
}

impl CustomOp2 for ConvInputGrad {
    fn name(&self) -> &'static str {
        "conv_input_grad"
    }

    fn cpu_fwd(&self, dy: &CpuStorage, ly: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (plan, x) = self.plan(ly, lw)?;
        let out = on_slices((dy, ly), (w, lw), |y, w| plan.input_grad(y, w), |y, w| plan.input_grad(y, w))?;
        Ok((out, Shape::from(x.to_vec())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, dy: &CudaStorage, ly: &Layout, w: &CudaStorage, lw: &Layout) -> Result<(CudaStorage, Shape)> {
        let (plan, shape) = self.plan(ly, lw)?;
        cuda::conv(cuda::Direction::InputGrad, &plan, (dy, ly), (w, lw), Shape::from(shape.to_vec()))
    }

    fn bwd(&self, dy: &Tensor, w: &Tensor, _: &Tensor, dx: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_dy = dy.track_op().then(|| dx.contiguous()?.apply_op2_no_bwd(w, &Conv(self.window)));
        let to_w = w.track_op().then(|| conv_weight_grad(dx, dy, self.window));
        Ok((to_dy.transpose()?, to_w.transpose()?))
    }
}

impl ConvWeightGrad {
    fn plan(&self, x: &Layout, dy: &Layout) -> Result<(Plan, [usize; 4])> {
        let (x, y) = (dims4(x)?, dims4(dy)?);
        let kernels = [y[3], x[3], self.0.kernel, self.0.kernel];
        Ok((Plan::new(self.0, x, y, kernels)?, kernels))
    }
}

impl CustomOp2 for ConvWeightGrad {
    fn name(&self) -> &'static str {
        "conv_weight_grad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, dy: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (plan, kernels) = self.plan(lx, ly)?;
        let out = on_slices((x, lx), (dy, ly), |x, y| plan.weight_grad(x, y), |x, y| plan.weight_grad(x, y))?;
        Ok((out, Shape::from(kernels.to_vec())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, lx: &Layout, dy: &CudaStorage, ly: &Layout) -> Result<(CudaStorage, Shape)> {
        let (plan, shape) = self.plan(lx, ly)?;
        cuda::conv(cuda::Direction::WeightGrad, &plan, (x, lx), (dy, ly), Shape::from(shape.to_vec()))
    }
}
