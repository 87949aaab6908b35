//! Convolution, its input gradient and its weight gradient: a set of three that is closed under differentiation.
//!
//! With `y = conv(x, w)`, the gradient to `x` is [`conv_input_grad`]`(dy, w)` — which is also the transposed convolution of
//! `dy` — and the gradient to `w` is [`conv_weight_grad`]`(x, dy)`. All are linear in each argument, so differentiating
//! them gives members of the set again. Square kernels, strides and paddings; f32 and f64. None is on candle's tape. Those in f32 may
//! round what they multiply as a [`Precision`] allows.
//!
//! Maps have their **channels last**, `[n, h, w, c]`; kernels are `[co, ci, k, k]`, as PyTorch and ONNX keep them, or in groups
//! `[co, ci / groups, k, k]`.
//!
//! On the CPU the layers that carry most of the work take a form with fewer multiplications (`cpu/winograd/`), the others im2col and gemm
//! (`cpu/im2col.rs`), those in groups loops of their own (`cpu/grouped/`). Which one, and in what blocks, depends on shapes alone. On
//! CUDA all are cuDNN's or cuBLAS's (`cuda/conv.rs`).

use candle_core::{Result, Tensor};

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;
use super::geometry::{ConvPlan, ConvWindow, Direction, Resampling};
use crate::nn::precision::Precision;

/// `[n, h, w, ci]` with kernels `[co, ci / groups, k, k]` → `[n, h', w', co]`.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv(x: &Tensor, w: &Tensor, window: ConvWindow, precision: Precision) -> Result<Tensor> {
    conv_widened(x, w, None, window, precision)
}

/// As [`conv`], with kernels that a resampling is to widen, as they are before that.
///
/// # Errors
/// As of [`conv`].
pub(super) fn conv_widened(
    x: &Tensor,
    w: &Tensor,
    widened: Option<Resampling>,
    window: ConvWindow,
    precision: Precision,
) -> Result<Tensor> {
    let (x_dims, kernels) = (dims4(x)?, wide(w, widened)?);
    let [n, height, width, _] = x_dims;
    let y = [n, window.output(height), window.output(width), kernels[0]];
    run(Direction::Forward, &ConvPlan::new(window, x_dims, y, kernels)?, [x, w], widened, y, precision)
}

/// The gradient of [`conv`] to an input of `size` = (h, w), given the output's gradient `[n, h', w', co]`: the transposed
/// convolution, `[n, h, w, ci]`.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv_input_grad(
    dy: &Tensor,
    w: &Tensor,
    window: ConvWindow,
    size: (usize, usize),
    precision: Precision,
) -> Result<Tensor> {
    conv_input_grad_widened(dy, w, None, window, size, precision)
}

/// As [`conv_input_grad`], with kernels that a resampling is to widen, as they are before that.
///
/// # Errors
/// As of [`conv_input_grad`].
pub(super) fn conv_input_grad_widened(
    dy: &Tensor,
    w: &Tensor,
    widened: Option<Resampling>,
    window: ConvWindow,
    size: (usize, usize),
    precision: Precision,
) -> Result<Tensor> {
    let (y, kernels) = (dims4(dy)?, wide(w, widened)?);
    let x = [y[0], size.0, size.1, kernels[1] * window.groups];
    run(Direction::InputGrad, &ConvPlan::new(window, x, y, kernels)?, [dy, w], widened, x, precision)
}

/// The gradient of [`conv`] to its kernels `[co, ci / groups, k, k]`, given its input and the output's gradient.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv_weight_grad(x: &Tensor, dy: &Tensor, window: ConvWindow, precision: Precision) -> Result<Tensor> {
    conv_weight_grad_widened(x, dy, None, window, precision)
}

/// As [`conv_weight_grad`], to kernels as they are before a resampling widens them.
///
/// # Errors
/// As of [`conv_weight_grad`].
pub(super) fn conv_weight_grad_widened(
    x: &Tensor,
    dy: &Tensor,
    widened: Option<Resampling>,
    window: ConvWindow,
    precision: Precision,
) -> Result<Tensor> {
    let (x_dims, y) = (dims4(x)?, dims4(dy)?);
    let kernels = [y[3], x_dims[3] / window.groups.max(1), window.kernel, window.kernel];
    let plan = ConvPlan::new(window, x_dims, y, kernels)?;
    let result = widened.map_or(kernels, |resampling| resampling.narrow(kernels));
    run(Direction::WeightGrad, &plan, [x, dy], widened, result, precision)
}

fn run(
    direction: Direction,
    plan: &ConvPlan,
    [a, b]: [&Tensor; 2],
    widened: Option<Resampling>,
    result: [usize; 4],
    precision: Precision,
) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    on_device!(
        a.device(),
        cpu: cpu::conv::conv(direction, plan, [&a, &b], widened, result, precision),
        cuda: {
            let wide = |operands: [&Tensor; 2], result| cuda::conv::conv(direction, plan, operands, result, precision);
            match widened {
                Some(resampling) => resampling.by_widening(direction, [&a, &b], result, wide),
                None => wide([&a, &b], result),
            }
        }
    )
}

/// The sizes of kernels once they are widened.
fn wide(kernels: &Tensor, widened: Option<Resampling>) -> Result<[usize; 4]> {
    let dims = dims4(kernels)?;
    Ok(widened.map_or(dims, |resampling| resampling.wide(dims)))
}

fn dims4(tensor: &Tensor) -> Result<[usize; 4]> {
    let (a, b, c, d) = tensor.dims4()?;
    Ok([a, b, c, d])
}
