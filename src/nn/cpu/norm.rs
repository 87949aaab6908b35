//! Batch normalisation on the CPU: two passes over memory forward and two backward, sums in a fixed order.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::elementwise::{activate, activate_back};
use super::float::Float;
use super::memory::{Slot, View, edit, filled, written};
use super::sums::{column_sums, total};
use super::tasks::{TASK, vectorised, vectorised_fns};
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;
use crate::nn::statistics::{BatchNormGradients, BatchNormalised, EPS};

/// Rows a task of the passes below handles.
fn task_rows(c: usize) -> usize {
    (TASK / c).max(1)
}

fn statistics<T: Float>(x: &[T], c: usize) -> [Vec<f64>; 2] {
    let (rows, count) = (x.len() / c, (x.len() / c) as f64);
    let sums = column_sums(rows, c, 1, |rows, sums: &mut [T]| {
        vectorised(|| {
            for x in x[rows.start * c..rows.end * c].chunks_exact(c) {
                for (sum, &x) in sums.iter_mut().zip(x) {
                    *sum += x;
                }
            }
        });
    });
    let mean: Vec<f64> = sums.iter().map(|sum| sum / count).collect();
    let centre: Vec<T> = mean.iter().map(|&mean| T::from_f64(mean)).collect();
    let squares = column_sums(rows, c, 1, |rows, sums: &mut [T]| {
        vectorised(|| {
            for x in x[rows.start * c..rows.end * c].chunks_exact(c) {
                for ((sum, &x), &centre) in sums.iter_mut().zip(x).zip(&centre) {
                    *sum += (x - centre) * (x - centre);
                }
            }
        });
    });
    [mean, squares.iter().map(|sum| sum / count).collect()]
}

vectorised_fns! {
    /// `y = act((x − centre) · scale + bias)`, row by row.
    fn normalise_rows<T: Float>(y: &mut [MaybeUninit<T>], x: &[T], centre: &[T], scale: &[T], bias: &[T], act: Activation) {
        let c = bias.len();
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            let parameters = centre.iter().zip(scale).zip(bias);
            for ((y, &x), ((&centre, &scale), &bias)) in y.iter_mut().zip(x).zip(parameters) {
                y.put((x - centre) * scale + bias);
            }
        }
        // SAFETY: rows of c values make up all of it, and were just written.
        activate(act, unsafe { written(y) });
    }

    /// Turns dy into dz, and adds dz and dz · (x − mean) to the sums of their channels.
    fn add_gradient_rows<T: Float>(x: &[T], y: &[T], dy: &mut [T], mean: &[T], act: Activation, sums: &mut [T]) {
        let c = mean.len();
        activate_back(act, y, dy);
        let (of_dz, of_dz_x) = sums.split_at_mut(c);
        for (dz, x) in dy.chunks_exact(c).zip(x.chunks_exact(c)) {
            let sums = of_dz.iter_mut().zip(of_dz_x.iter_mut());
            for ((&dz, (&x, &mean)), (to_bias, to_weight)) in dz.iter().zip(x.iter().zip(mean)).zip(sums) {
                *to_bias += dz;
                *to_weight += dz * (x - mean);
            }
        }
    }
}

/// As `norm::batch_norm`.
pub(in crate::nn) fn batch_norm<T: Float>(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    act: Activation,
) -> Result<BatchNormalised> {
    let x = x.contiguous()?;
    let (vx, vw, vb) = (View::of(&x), View::of(weight), View::of(bias));
    let (values, weight, bias) = (vx.slice::<T>()?, vw.slice::<T>()?, vb.slice::<T>()?);
    let c = weight.len();
    let [mean, var] = statistics(values, c);
    let typed = |values: &[f64]| values.iter().map(|&value| T::from_f64(value)).collect::<Vec<T>>();
    let scale: Vec<T> = weight.iter().zip(&var).map(|(w, var)| T::from_f64(w.to_f64() / (var + EPS).sqrt())).collect();
    // (x − mean) first: a shift of −mean · scale would cancel badly.
    let centre = typed(&mean);
    let y = filled(values.len(), |y| {
        let tasks = y.par_chunks_mut(task_rows(c) * c).zip(values.par_chunks(task_rows(c) * c));
        tasks.for_each(|(y, x)| {
            normalise_rows::<T>(y, x, &centre, &scale, bias, act);
        });
    });
    let channels = |values: &[f64]| Tensor::from_vec(typed(values), c, x.device());
    Ok(BatchNormalised { y: Tensor::from_vec(y, x.shape(), x.device())?, mean: channels(&mean)?, var: channels(&var)? })
}

/// As `norm::batch_norm_grad`.
pub(in crate::nn) fn batch_norm_grad<T: Float>(
    x: &Tensor,
    weight: &Tensor,
    made: &BatchNormalised,
    act: Activation,
    dy: Tensor,
) -> Result<BatchNormGradients> {
    let x = x.contiguous()?;
    let (vx, vy, vw) = (View::of(&x), View::of(&made.y), View::of(weight));
    let (vmean, vvar) = (View::of(&made.mean), View::of(&made.var));
    let (x, y, weight) = (vx.slice::<T>()?, vy.slice::<T>()?, vw.slice::<T>()?);
    let (mean, var) = (vmean.slice::<T>()?, vvar.slice::<T>()?);
    let c = weight.len();
    if dy.elem_count() != x.len() || y.len() != x.len() {
        bail!("batch_norm: a gradient of {:?} for {} values", dy.dims(), x.len());
    }
    let inverse: Vec<f64> = var.iter().map(|var| 1.0 / (var.to_f64() + EPS).sqrt()).collect();
    let count = (x.len() / c) as f64;
    let mut sums = Vec::new();
    edit::<T>(InPlace::of(&dy), |dy| {
        sums = gradient_sums(x, y, dy, mean, act);
        let (to_bias, to_weight) = sums.split_at_mut(c);
        to_weight.iter_mut().zip(&inverse).for_each(|(sum, inverse)| *sum *= inverse);
        let by_channel = |of: &dyn Fn(usize) -> f64| (0..c).map(|i| T::from_f64(of(i))).collect::<Vec<T>>();
        let scale = by_channel(&|i| weight[i].to_f64() * inverse[i]);
        let mean_dz = by_channel(&|i| to_bias[i] / count);
        let per_x = by_channel(&|i| to_weight[i] / count * inverse[i]);
        let tasks = dy.par_chunks_mut(task_rows(c) * c).zip(x.par_chunks(task_rows(c) * c));
        tasks.for_each(|(dz, x)| {
            vectorised(|| {
                for (dz, x) in dz.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    let parameters = mean.iter().zip(&scale).zip(mean_dz.iter().zip(&per_x));
                    for ((dz, &x), ((&mean, &scale), (&mean_dz, &per_x))) in dz.iter_mut().zip(x).zip(parameters) {
                        *dz = scale * (*dz - mean_dz - (x - mean) * per_x);
                    }
                }
            });
        });
        Ok(())
    })?;
    let channels = |sums: &[f64]| {
        let values: Vec<T> = sums.iter().map(|&sum| T::from_f64(sum)).collect();
        Tensor::from_vec(values, c, dy.device())
    };
    Ok(BatchNormGradients { weight: channels(&sums[c..])?, bias: channels(&sums[..c])?, x: dy })
}

/// Turns dy into dz, and sums dz and dz · (x − mean) by channel.
fn gradient_sums<T: Float>(x: &[T], y: &[T], dy: &mut [T], mean: &[T], act: Activation) -> Vec<f64> {
    let c = mean.len();
    let rows = task_rows(c).min(64);
    let parts: Vec<Vec<T>> = dy
        .par_chunks_mut(rows * c)
        .zip(x.par_chunks(rows * c).zip(y.par_chunks(rows * c)))
        .map(|(dy, (x, y))| {
            let mut sums = vec![T::default(); 2 * c];
            add_gradient_rows::<T>(x, y, dy, mean, act, &mut sums);
            sums
        })
        .collect();
    total(parts, 2 * c)
}
