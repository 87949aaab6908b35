//! Batch and layer normalisation with the activation behind them, and their second derivatives. Channels are the last axis.
//!
//! In ordinary tensor operations batch normalisation is some fifteen passes over memory. On the CPU it is two passes
//! forward and two backward, and layer normalisation three each; sums have a fixed order, so results do not depend on the
//! number of threads.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::activation::Activation;
use super::by_image::{self, Line};
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

/// What layer normalisation makes of `x`, and the statistics by image.
pub struct LayerNormalised {
    /// `act((x − mean) / √(var + ε) · weight + bias)`, shaped as `x`.
    pub y: Tensor,
    /// Mean, `[n, 1]`.
    pub mean: Tensor,
    /// `1 / √(var + ε)` with the biased variance, `[n, 1]`.
    pub inverse: Tensor,
}

/// Layer normalisation over all but the batch, with gain and offset by channel (arXiv 1607.06450; the form of the WGAN-GP
/// authors' critics, PyTorch's `GroupNorm(1, c)`), and an activation behind it; `x` is `[n, c]` or `[n, h, w, c]`. Off the
/// tape: [`Normalised::pull`] is its gradient.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Activation) -> Result<LayerNormalised> {
    check(x, weight)?;
    check(x, bias)?;
    let [mean, inverse] = by_image::statistics(x, EPS)?;
    let line = Line { x, centre: &mean, scale: &inverse.broadcast_mul(weight)?, shift: bias };
    let y = by_image::combine(&line, &[], act)?;
    Ok(LayerNormalised { y, mean, inverse })
}

/// A normalisation of one pass. Before its activation it is `y = γ x̂ + β` with `x̂ = (x − μ) / σ`; its Jacobian is `γ/σ · P` with
/// the symmetric `P g = g − mean(g) − x̂ · mean(g · x̂)`, whose means go over what is normalised together.
pub enum Normalised {
    /// By channel, over batch and positions.
    Batch(BatchNormalised),
    /// By image, over channels and positions.
    Layer(LayerNormalised),
}

/// What the Jacobian or its transpose makes of a `g`, and `Σ g` and `Σ g · x̂` by channel, `[1, c]` for batch normalisation, and
/// by image and channel, `[n, c]`, for layer normalisation.
pub struct Moved {
    /// Shaped as `g`.
    pub g: Tensor,
    /// Of what was moved.
    pub sums: [Tensor; 2],
}

impl Moved {
    /// The gradients to weight and bias, `[c]`, if it was `dy` that was pulled.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn parameters(&self) -> Result<[Tensor; 2]> {
        let [plain, along] = &self.sums;
        Ok([total(along)?, total(plain)?])
    }
}

impl Normalised {
    /// `y`, behind the activation.
    pub fn y(&self) -> &Tensor {
        match self {
            Self::Batch(made) => &made.y,
            Self::Layer(made) => &made.y,
        }
    }

    /// From the gradient to the result behind `act`, whose storage is used up, to that to `x`.
    ///
    /// # Errors
    /// When the shapes do not fit, or `dy` shares its memory with another argument.
    pub fn pull(&self, x: &Tensor, weight: &Tensor, act: Activation, dy: Tensor) -> Result<Moved> {
        match self {
            Self::Batch(made) => {
                let BatchNormGradients { x: g, weight, bias } = batch_norm_grad(x, weight, made, act, dy)?;
                Ok(Moved { g, sums: [bias.unsqueeze(0)?, weight.unsqueeze(0)?] })
            }
            Self::Layer(made) => {
                act.grad(&made.y, &dy)?;
                made.moved(x, &dy, weight, &weight.ones_like()?)
            }
        }
    }

    /// From a change of `x` to the change of the result before the activation.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn push(&self, x: &Tensor, weight: &Tensor, dx: &Tensor) -> Result<Moved> {
        match self {
            // One channel has one γ and one σ: the Jacobian is symmetric.
            Self::Batch(_) => self.pull(x, weight, Activation::None, dx.copy()?),
            Self::Layer(made) => made.moved(x, dx, &weight.ones_like()?, weight),
        }
    }

    /// The gradients to x, weight and bias of `⟨a, J b⟩ + ⟨z̄, γ x̂ + β⟩`, where J is the Jacobian and `a`, `b` and z̄ (nothing if it
    /// is 0) are constant; `a` and `b` come with the sums of their pull and push.
    ///
    /// With `A = mean(γ a b) − mean(γ a) mean(b) − α κ`, `α = mean(γ a x̂)` and `κ = mean(b x̂)`, the first term is m/σ · A, m being the
    /// number of values normalised together. To x̂ its gradient is `−(κ γ a + α b)/σ`, to σ `−m A/σ²`, and `∂σ/∂x = x̂/m`:
    /// `x̄ = (P h − x̂ · A/σ) / σ` with `h = γ z̄ − (κ γ a + α b)/σ`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn second_order(
        &self,
        x: &Tensor,
        weight: &Tensor,
        (a, [a_plain, a_along]): (&Tensor, &[Tensor; 2]),
        (b, [b_plain, b_along]): (&Tensor, &[Tensor; 2]),
        adjoint: Option<&Tensor>,
    ) -> Result<[Tensor; 3]> {
        let c = weight.elem_count();
        let (axis, count, centre, inverse) = match self {
            Self::Batch(made) => {
                let inverse = (&made.var + EPS)?.sqrt()?.recip()?.unsqueeze(0)?;
                (0, x.elem_count() / c, made.mean.unsqueeze(0)?, inverse)
            }
            Self::Layer(made) => (1, x.elem_count() / x.dim(0)?, made.mean.clone(), made.inverse.clone()),
        };
        let together = |by_image: Tensor| if axis == 0 { by_image.sum_keepdim(0) } else { Ok(by_image) };
        let mean = |sums: &Tensor| sums.sum_keepdim(axis)? / count as f64;
        let gained = |t: &Tensor| t.broadcast_mul(weight);
        let by_sigma = |t: &Tensor| t.broadcast_mul(&inverse);

        let [_, ab] = by_image::sums(a, b, &centre.zeros_like()?)?;
        let ab = together(ab)?;
        let (a_mean, b_mean) = (mean(&gained(a_plain)?)?, mean(b_plain)?);
        let (alpha, kappa) = (mean(&gained(a_along)?)?, mean(b_along)?);
        let product = ((mean(&gained(&ab)?)? - (&a_mean * &b_mean)?)? - (&alpha * &kappa)?)?;
        let mut h_mean = by_sigma(&((&kappa * &a_mean)? + (&alpha * &b_mean)?)?)?.neg()?;
        let mut h_along = (by_sigma(&(&alpha * &kappa)?)? * -2.0)?;
        let by_square = by_sigma(&inverse)?.neg()?;
        let mut terms = vec![(a, gained(&(&by_square * &kappa)?)?), (b, (&by_square * &alpha)?)];
        let moved = ab.broadcast_sub(&a_plain.broadcast_mul(&b_mean)?)?.broadcast_sub(&a_along.broadcast_mul(&kappa)?)?;
        let mut to_weight = by_sigma(&moved)?;
        let mut to_bias = weight.zeros_like()?;
        if let Some(adjoint) = adjoint {
            let [plain, along] = by_image::sums(adjoint, x, &centre)?;
            let (plain, along) = (together(plain)?, by_sigma(&together(along)?)?);
            h_mean = (h_mean + mean(&gained(&plain)?)?)?;
            h_along = (h_along + mean(&gained(&along)?)?)?;
            terms.push((adjoint, gained(&inverse)?));
            to_weight = (to_weight + along)?;
            to_bias = total(&plain)?;
        }
        let scale = (by_square * (h_along + by_sigma(&product)?)?)?;
        let line = Line { x, centre: &centre, scale: &scale, shift: &by_sigma(&h_mean)?.neg()? };
        Ok([by_image::combine(&line, &terms, Activation::None)?, total(&to_weight)?, to_bias])
    }
}

impl LayerNormalised {
    /// `after · P (before · g) / σ`: the Jacobian has the gain behind it, its transpose before it.
    fn moved(&self, x: &Tensor, g: &Tensor, before: &Tensor, after: &Tensor) -> Result<Moved> {
        let Self { mean, inverse, .. } = self;
        let [plain, along] = by_image::sums(g, x, mean)?;
        let along = along.broadcast_mul(inverse)?;
        let count = (x.elem_count() / x.dim(0)?) as f64;
        let average = |sums: &Tensor| sums.broadcast_mul(before)?.sum_keepdim(1)? / count;
        let factor = inverse.broadcast_mul(after)?;
        let shift = factor.broadcast_mul(&average(&plain)?)?.neg()?;
        let scale = factor.broadcast_mul(&average(&along)?.mul(inverse)?)?.neg()?;
        let line = Line { x, centre: mean, scale: &scale, shift: &shift };
        let moved = by_image::combine(&line, &[(g, factor.broadcast_mul(before)?)], Activation::None)?;
        Ok(Moved { g: moved, sums: [plain, along] })
    }
}

/// `[r, c]` summed up to `[c]`.
fn total(sums: &Tensor) -> Result<Tensor> {
    if sums.dim(0)? == 1 { sums.squeeze(0) } else { sums.sum(0) }
}

fn check(x: &Tensor, parameter: &Tensor) -> Result<()> {
    cpu::check_type(x)?;
    let (dims, expected) = (x.dims(), x.dim(D::Minus1)?);
    if !matches!(dims.len(), 2 | 4) || x.elem_count() == 0 {
        bail!("norm: expected values as [n, c] or [n, h, w, c], got {dims:?}");
    }
    if parameter.dims() != [expected] || parameter.dtype() != x.dtype() {
        bail!("norm: {expected} channels of {:?}, but a parameter of {parameter:?}", x.dtype());
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
