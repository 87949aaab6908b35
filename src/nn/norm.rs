//! Batch normalisation, with the activation behind it, and layer normalisation. Channels are the last axis.
//!
//! In ordinary tensor operations batch normalisation is some fifteen passes over memory. On the CPU it is two passes
//! forward and two backward; a channel's sums have a fixed order, so results do not depend on the number of threads.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::activation::Activation;
use super::cpu::{self, Float, TASK, View, column_sums, edit, filled, for_float, vectorised};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::{check_operands, on_device};

/// Added to every variance.
pub const EPS: f64 = 1e-5;
/// The weight of the newest batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// What batch normalisation makes of `x`, and the statistics of the batch by channel, each `[c]`.
pub struct BatchNormalised {
    /// `act((x − mean) / √(var + ε) · weight + bias)`, shaped as `x`.
    pub y: Tensor,
    /// Mean.
    pub mean: Tensor,
    /// Biased variance.
    pub var: Tensor,
}

/// Gradients of batch normalisation, to its three arguments.
pub struct BatchNormGradients {
    /// To `x`.
    pub x: Tensor,
    /// To the weight, `[c]`.
    pub weight: Tensor,
    /// To the bias, `[c]`.
    pub bias: Tensor,
}

/// Batch normalisation with the batch's own statistics (arXiv 1502.03167) and an activation behind it; `x` is `[n, c]` or
/// `[n, h, w, c]`. Off the tape: [`batch_norm_grad`] is its gradient.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Activation) -> Result<BatchNormalised> {
    check(x, weight)?;
    check(x, bias)?;
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => batch_norm_cpu::<T>(x, weight, bias, act)),
        cuda: cuda::batch_norm(x, weight, bias, act)
    )
}

/// The gradients of [`batch_norm`] from its input, its results and the gradient `dy`, whose storage becomes that of the
/// gradient to `x`: `dx = γ/σ · (dz − mean(dz) − x̂ · mean(dz · x̂))` (arXiv 1502.03167, section 3), with dz behind the activation.
///
/// # Errors
/// When the shapes do not fit, or `dy` shares its memory with another argument.
pub fn batch_norm_grad(
    x: &Tensor,
    weight: &Tensor,
    made: &BatchNormalised,
    act: Activation,
    dy: Tensor,
) -> Result<BatchNormGradients> {
    [weight, &made.mean, &made.var].into_iter().try_for_each(|parameter| check(x, parameter))?;
    check_operands(&[&dy], &[x, &made.y, weight, &made.mean, &made.var])?;
    on_device!(
        dy.device(),
        cpu: for_float!(x.dtype(), T => batch_norm_grad_cpu::<T>(x, weight, made, act, dy)),
        cuda: cuda::batch_norm_grad(x, weight, made, act, dy)
    )
}

/// Batch normalisation with given statistics, each `[c]`: what a generator does outside training.
///
/// # Errors
/// When the shapes do not fit.
pub fn batch_norm_fixed(x: &Tensor, weight: &Tensor, bias: &Tensor, mean: &Tensor, var: &Tensor) -> Result<Tensor> {
    let scale = weight.div(&(var + EPS)?.sqrt()?)?;
    let shift = bias.sub(&mean.mul(&scale)?)?;
    x.broadcast_mul(&scale)?.broadcast_add(&shift)
}

/// What the gradient of [`layer_norm`] needs: x̂, and 1/σ by image.
pub struct LayerNormalised {
    /// `x̂ · weight + bias`, shaped as `x`.
    pub y: Tensor,
    normal: Tensor,
    inverse: Tensor,
}

/// Layer normalisation over all but the batch, with gain and offset by channel (arXiv 1607.06450; the form of the WGAN-GP
/// authors' critics, PyTorch's `GroupNorm(1, c)`); `x` is `[n, c]` or `[n, h, w, c]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<LayerNormalised> {
    let rows = x.reshape((x.dim(0)?, ()))?;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(1)?)?;
    let inverse = (centred.sqr()?.mean_keepdim(1)? + EPS)?.sqrt()?.recip()?;
    let normal = centred.broadcast_mul(&inverse)?.reshape(x.shape())?;
    let y = normal.broadcast_mul(weight)?.broadcast_add(bias)?;
    Ok(LayerNormalised { y, normal, inverse })
}

/// The gradients of [`layer_norm`] to `x`, weight and bias: as batch normalisation's, along the other axis.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm_grad(made: &LayerNormalised, weight: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
    let n = dy.dim(0)?;
    let (dw, db) = (flat(&(dy * &made.normal)?)?.sum(0)?, flat(dy)?.sum(0)?);
    let pulled = dy.broadcast_mul(weight)?.reshape((n, ()))?;
    let normal = made.normal.reshape((n, ()))?;
    let along = (&pulled * &normal)?.mean_keepdim(1)?;
    let rest = pulled.broadcast_sub(&pulled.mean_keepdim(1)?)?.sub(&normal.broadcast_mul(&along)?)?;
    Ok([rest.broadcast_mul(&made.inverse)?.reshape(dy.shape())?, dw, db])
}

/// `[…, c]` as rows of channels.
fn flat(x: &Tensor) -> Result<Tensor> {
    x.reshape(((), x.dim(D::Minus1)?))
}

fn check(x: &Tensor, parameter: &Tensor) -> Result<()> {
    cpu::check_type(x)?;
    let (dims, expected) = (x.dims(), x.dim(D::Minus1)?);
    if !matches!(dims.len(), 2 | 4) || x.elem_count() == 0 {
        bail!("batch_norm: expected values as [n, c] or [n, h, w, c], got {dims:?}");
    }
    if parameter.dims() != [expected] || parameter.dtype() != x.dtype() {
        bail!("batch_norm: {expected} channels of {:?}, but a parameter of {parameter:?}", x.dtype());
    }
    Ok(())
}

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

fn batch_norm_cpu<T: Float>(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Activation) -> Result<BatchNormalised> {
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
            vectorised(|| {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    let parameters = centre.iter().zip(&scale).zip(bias);
                    for ((y, &x), ((&centre, &scale), &bias)) in y.iter_mut().zip(x).zip(parameters) {
                        *y = (x - centre) * scale + bias;
                    }
                }
                act.apply_values(y);
            });
        });
    });
    let channels = |values: &[f64]| Tensor::from_vec(typed(values), c, x.device());
    Ok(BatchNormalised { y: Tensor::from_vec(y, x.shape(), x.device())?, mean: channels(&mean)?, var: channels(&var)? })
}

fn batch_norm_grad_cpu<T: Float>(
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
    edit::<T>(&dy, |dy| {
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
            vectorised(|| {
                act.grad_values(y, dy);
                let (of_dz, of_dz_x) = sums.split_at_mut(c);
                for (dz, x) in dy.chunks_exact(c).zip(x.chunks_exact(c)) {
                    let sums = of_dz.iter_mut().zip(of_dz_x.iter_mut());
                    for ((&dz, (&x, &mean)), (to_bias, to_weight)) in dz.iter().zip(x.iter().zip(mean)).zip(sums) {
                        *to_bias += dz;
                        *to_weight += dz * (x - mean);
                    }
                }
            });
            sums
        })
        .collect();
    cpu::total(parts, 2 * c)
}
