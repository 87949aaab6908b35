//! Operations on single values, on the CPU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::float::Float;
use super::memory::{View, edit, filled};
use super::sums::column_sums;
use super::tasks::{TASK, vectorised, vectorised_fns};
use super::turn::transpose;
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;

/// Applies an activation to values.
#[inline(always)]
pub(super) fn activate<T: Float>(act: Activation, values: &mut [T]) {
    match act {
        Activation::None => {}
        Activation::Rectifier { slope } => {
            let slope = T::from_f64(slope);
            for x in values {
                *x = if *x > T::zero() { *x } else { *x * slope };
            }
        }
        Activation::Tanh => values.iter_mut().for_each(|x| *x = x.tanh()),
        Activation::Sigmoid => values.iter_mut().for_each(|x| *x = x.sigmoid()),
    }
}

/// Turns gradients to the results `y` into those to the arguments.
#[inline(always)]
pub(super) fn activate_back<T: Float>(act: Activation, y: &[T], dy: &mut [T]) {
    let values = dy.iter_mut().zip(y);
    match act {
        Activation::None => {}
        Activation::Rectifier { slope } => {
            let slope = T::from_f64(slope);
            // y > 0 exactly where the argument is.
            values.for_each(|(dy, &y)| *dy = if y > T::zero() { *dy } else { *dy * slope });
        }
        Activation::Tanh => values.for_each(|(dy, &y)| *dy *= T::one() - y * y),
        Activation::Sigmoid => values.for_each(|(dy, &y)| *dy *= y * (T::one() - y)),
    }
}

/// `dy ← dy · act'`, from the result y.
pub(in crate::nn) fn activation_grad<T: Float>(act: Activation, y: &Tensor, dy: InPlace<'_>) -> Result<()> {
    if act == Activation::None {
        return Ok(());
    }
    let y = View::of(y);
    let y = y.slice::<T>()?;
    edit::<T>(dy, |dy| {
        let tasks = dy.par_chunks_mut(TASK).zip(y.par_chunks(TASK));
        tasks.for_each(|(dy, y)| vectorised(|| activate_back(act, y, dy)));
        Ok(())
    })
}

vectorised_fns! {
    /// `x ← act(x + bias)`, row by row.
    fn add_bias_activate_rows<T: Float>(x: &mut [T], bias: Option<&[T]>, act: Activation) {
        if let Some(bias) = bias {
            for x in x.chunks_exact_mut(bias.len()) {
                for (x, &bias) in x.iter_mut().zip(bias) {
                    *x += bias;
                }
            }
        }
        activate(act, x);
    }
}

/// `x ← act(x + bias)`
pub(in crate::nn) fn add_bias_activate<T: Float>(x: InPlace<'_>, bias: Option<&Tensor>, act: Activation) -> Result<()> {
    let bias = bias.map(View::of);
    let bias = bias.as_ref().map(|bias| bias.slice::<T>()).transpose()?;
    let row_len = bias.map_or(TASK, <[T]>::len);
    edit::<T>(x, |x| {
        x.par_chunks_mut(row_len * (TASK / row_len).max(1)).for_each(|x| {
            add_bias_activate_rows::<T>(x, bias, act);
        });
        Ok(())
    })
}

/// The sums of `dy [… , c]` over all but the last axis.
pub(in crate::nn) fn bias_grad<T: Float>(dy: &Tensor, c: usize) -> Result<Tensor> {
    let dy = dy.contiguous()?;
    let view = View::of(&dy);
    let values = view.slice::<T>()?;
    let sums = column_sums(values.len() / c.max(1), c, 1, |rows, sums: &mut [T]| {
        vectorised(|| {
            for dy in values[rows.start * c..rows.end * c].chunks_exact(c) {
                for (sum, &dy) in sums.iter_mut().zip(dy) {
                    *sum += dy;
                }
            }
        });
    });
    let sums: Vec<T> = sums.into_iter().map(T::from_f64).collect();
    Tensor::from_vec(sums, c, dy.device())
}

/// `x ← x · factor`
pub(in crate::nn) fn multiply<T: Float>(x: InPlace<'_>, factor: &Tensor) -> Result<()> {
    let factor = View::of(factor);
    let factor = factor.slice::<T>()?;
    edit::<T>(x, |x| {
        x.par_chunks_mut(TASK).zip(factor.par_chunks(TASK)).for_each(|(x, factor)| {
            vectorised(|| x.iter_mut().zip(factor).for_each(|(x, &factor)| *x *= factor));
        });
        Ok(())
    })
}

/// `[n, a, b]` → `[n, b, a]`
pub(in crate::nn) fn swap_axes<T: Float>(x: &Tensor, [n, a, b]: [usize; 3]) -> Result<Tensor> {
    let x = x.contiguous()?;
    let view = View::of(&x);
    let values = view.slice::<T>()?;
    let swapped = filled(values.len(), |to| {
        let images = to.par_chunks_exact_mut(a * b).zip(values.par_chunks_exact(a * b));
        images.for_each(|(to, from)| transpose(from, b, to, a, [a, b]));
    });
    Tensor::from_vec(swapped, (n, b, a), x.device())
}
