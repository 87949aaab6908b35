//! What a penalty makes of the gradients of a batch, with its own gradient to them.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;

/// Added under the root of a gradient's norm: where the gradient is 0, the norm has a derivative.
pub const EPS: f64 = 1e-12;

/// What a gradient g of an image is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    /// As long as 1: `mean (‖g‖ − 1)²`.
    LengthOne,
    /// 0: `mean ½ Σ g²`.
    Zero,
}

/// From gradients `[n, …]`: `weight` times what they are off their aim, and the mean of `‖g‖`, both in f64, `[2]`; and the penalty's gradient
/// to them. `‖g‖² = Σ g² + ε` goes over all but the batch. Where a weight is given on their device, `[1]` in f64, it is that one.
///
/// # Errors
/// When the type is neither f32 nor f64, or the device is out of memory.
pub(crate) fn penalise(aim: Aim, g: &Tensor, weight: f64, on_device: Option<&Tensor>) -> Result<[Tensor; 2]> {
    #[cfg(not(feature = "cuda"))]
    let _ = on_device;
    on_device!(
        g.device(),
        cpu: on_cpu(aim, g, weight),
        cuda: cuda::slopes::penalise(aim, g, weight, on_device)
    )
}

fn on_cpu(aim: Aim, g: &Tensor, weight: f64) -> Result<[Tensor; 2]> {
    let n = g.dim(0)?;
    let rows = g.reshape((n, ()))?;
    let squares = rows.sqr()?.sum_keepdim(D::Minus1)?;
    let norms = (&squares + EPS)?.sqrt()?;
    let (value, v) = match aim {
        Aim::LengthOne => {
            let beyond = (&norms - 1.0)?;
            let factor = (beyond.div(&norms)? * (2.0 * weight / n as f64))?;
            ((beyond.sqr()?.mean_all()? * weight)?, rows.broadcast_mul(&factor)?)
        }
        Aim::Zero => ((squares.mean_all()? * (weight / 2.0))?, (&rows * (weight / n as f64))?),
    };
    let told = Tensor::stack(&[value, norms.mean_all()?], 0)?.to_dtype(DType::F64)?;
    Ok([told, v.reshape(g.shape())?])
}
