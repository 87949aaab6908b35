//! The three convolutions on the CPU, each in the form that its shape asks for.

use candle_core::{DType, Result, Tensor, bail};

use super::float::Float;
use super::im2col;
use super::memory::{View, filled};
use super::winograd::Winograd;
use crate::nn::geometry::{ConvPlan, Direction};

/// One of the three convolutions of contiguous tensors of one type; the operands as [`Direction`] says, the result of these sizes.
pub(in crate::nn) fn conv(direction: Direction, plan: &ConvPlan, operands: [&Tensor; 2], result: [usize; 4]) -> Result<Tensor> {
    match operands.map(Tensor::dtype) {
        [DType::F32, DType::F32] => convolved::<f32>(direction, plan, operands, result),
        [DType::F64, DType::F64] => convolved::<f64>(direction, plan, operands, result),
        _ => bail!("convolution: expected two f32 or two f64 tensors"),
    }
}

fn convolved<T: Float>(direction: Direction, plan: &ConvPlan, [a, b]: [&Tensor; 2], result: [usize; 4]) -> Result<Tensor> {
    let (view_a, view_b) = (View::of(a), View::of(b));
    let (first, second) = (view_a.slice::<T>()?, view_b.slice::<T>()?);
    let values = filled(result.iter().product(), |to| match (direction, Winograd::of(plan)) {
        (Direction::Forward, Some(form)) => form.forward(first, second, to),
        (Direction::Forward, None) => im2col::forward(plan, first, second, to),
        (Direction::InputGrad, Some(form)) => form.input_grad(first, second, to),
        (Direction::InputGrad, None) => im2col::input_grad(plan, first, second, to),
        (Direction::WeightGrad, Some(form)) => form.weight_grad(first, second, to),
        (Direction::WeightGrad, None) => im2col::weight_grad(plan, first, second, to),
    });
    Tensor::from_vec(values, &result, a.device())
}
