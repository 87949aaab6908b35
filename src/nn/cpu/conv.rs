//! The three convolutions on the CPU, each in the form that its shape asks for.

use candle_core::{DType, Result, Tensor, bail};

#[cfg(target_arch = "x86_64")]
use super::factor::Bf16;
use super::factor::Exact;
use super::grouped::{self, Grouped};
use super::im2col;
use super::memory::{View, filled};
use super::winograd::Winograd;
use crate::nn::geometry::{ConvPlan, Direction, Resampling};
use crate::nn::precision::Precision;

/// What of the instructions for bf16 this CPU lacks; empty where it has them.
pub(in crate::nn) fn lacking_for_bf16() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    return super::bf16::lacking();
    #[cfg(not(target_arch = "x86_64"))]
    vec!["avx512_bf16, which only processors of x86-64 have"]
}

/// One of the three convolutions of contiguous tensors of one type; the operands as [`Direction`] says, the result of these sizes.
/// Those in f32 may multiply in bf16, if the CPU can, but for those in groups of an odd number of channels; those in f64 are exact.
/// Kernels that a resampling is to widen are given as they are before that, and their gradient is made so.
pub(in crate::nn) fn conv(
    direction: Direction,
    plan: &ConvPlan,
    operands: [&Tensor; 2],
    widened: Option<Resampling>,
    result: [usize; 4],
    precision: Precision,
) -> Result<Tensor> {
    match (operands.map(Tensor::dtype), precision) {
        ([DType::F32, DType::F32], Precision::F32) => convolved::<Exact<f32>>(direction, plan, operands, widened, result),
        #[cfg(target_arch = "x86_64")]
        ([DType::F32, DType::F32], Precision::Bf16) if lacking_for_bf16().is_empty() => {
            convolved::<Bf16>(direction, plan, operands, widened, result)
        }
        ([DType::F32, DType::F32], _) => bail!("this CPU does not multiply in {}", precision.name()),
        ([DType::F64, DType::F64], _) => convolved::<Exact<f64>>(direction, plan, operands, widened, result),
        _ => bail!("convolution: expected two f32 or two f64 tensors"),
    }
}

fn convolved<F: Grouped>(
    direction: Direction,
    plan: &ConvPlan,
    [a, b]: [&Tensor; 2],
    widened: Option<Resampling>,
    result: [usize; 4],
) -> Result<Tensor> {
    let form = Winograd::of::<F>(plan);
    if let (Some(resampling), Some(_)) = (widened, &form) {
        return resampling.by_widening(direction, [a, b], result, |operands, result| {
            convolved::<F>(direction, plan, operands, None, result)
        });
    }
    let (view_a, view_b) = (View::of(a), View::of(b));
    let (first, second) = (view_a.slice::<F::Value>()?, view_b.slice::<F::Value>()?);
    if plan.window.groups > 1 {
        if widened.is_some() {
            bail!("kernels of groups are not widened");
        }
        let whole = plan.of_group().iter().all(|channels| channels.is_multiple_of(F::DEPTH));
        let values = filled(result.iter().product(), |to| match whole {
            true => grouped::conv::<F>(direction, plan, [first, second], to),
            false => grouped::conv::<Exact<F::Value>>(direction, plan, [first, second], to),
        });
        return Tensor::from_vec(values, &result, a.device());
    }
    let values = filled(result.iter().product(), |to| match (direction, form) {
        (Direction::Forward, Some(form)) => form.forward::<F>(first, second, to),
        (Direction::Forward, None) => im2col::forward::<F>(plan, first, second, widened, to),
        (Direction::InputGrad, Some(form)) => form.input_grad::<F>(first, second, to),
        (Direction::InputGrad, None) => im2col::input_grad::<F>(plan, first, second, widened, to),
        (Direction::WeightGrad, Some(form)) => form.weight_grad::<F>(first, second, to),
        (Direction::WeightGrad, None) => im2col::weight_grad::<F>(plan, first, second, widened, to),
    });
    Tensor::from_vec(values, &result, a.device())
}
