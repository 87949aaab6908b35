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
use super::geometry::{ConvPlan, ConvWindow, Direction};
use crate::nn::precision::Precision;

/// `[n, h, w, ci]` with kernels `[co, ci / groups, k, k]` → `[n, h', w', co]`.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv(x: &Tensor, w: &Tensor, window: ConvWindow, precision: Precision) -> Result<Tensor> {
    let (x_dims, kernels) = (dims4(x)?, dims4(w)?);
    let [n, height, width, _] = x_dims;
    let y = [n, window.output(height), window.output(width), kernels[0]];
    run(Direction::Forward, &ConvPlan::new(window, x_dims, y, kernels)?, [x, w], y, precision)
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
    let (y, kernels) = (dims4(dy)?, dims4(w)?);
    let x = [y[0], size.0, size.1, kernels[1] * window.groups];
    run(Direction::InputGrad, &ConvPlan::new(window, x, y, kernels)?, [dy, w], x, precision)
}

/// The gradient of [`conv`] to its kernels `[co, ci / groups, k, k]`, given its input and the output's gradient.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv_weight_grad(x: &Tensor, dy: &Tensor, window: ConvWindow, precision: Precision) -> Result<Tensor> {
    let (x_dims, y) = (dims4(x)?, dims4(dy)?);
    let kernels = [y[3], x_dims[3] / window.groups.max(1), window.kernel, window.kernel];
    run(Direction::WeightGrad, &ConvPlan::new(window, x_dims, y, kernels)?, [x, dy], kernels, precision)
}

fn run(
    direction: Direction,
    plan: &ConvPlan,
    [a, b]: [&Tensor; 2],
    result: [usize; 4],
    precision: Precision,
) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    on_device!(
        a.device(),
        cpu: cpu::conv::conv(direction, plan, [&a, &b], result, precision),
        cuda: cuda::conv::conv(direction, plan, [&a, &b], result, precision)
    )
}

fn dims4(tensor: &Tensor) -> Result<[usize; 4]> {
    let (a, b, c, d) = tensor.dims4()?;
    Ok([a, b, c, d])
}
