//! Batch and layer normalisation with the activation behind them, and their second derivatives. Channels are the last axis.
//!
//! In ordinary tensor operations batch normalisation is some fifteen passes over memory. On the CPU it is two passes
//! forward and two backward, and layer normalisation three each; sums have a fixed order, so results do not depend on the
//! number of threads.

use candle_core::{D, Result, Tensor, bail};

use super::activation::Activation;
use super::by_image;
use super::cpu::{self, for_float};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;
use super::in_place::{self, InPlace};
use super::statistics::{Affine, BatchNormGradients, BatchNormalised, EPS, LayerNormalised, Running};
use super::update::lerp;

/// Batch normalisation with the batch's own statistics (arXiv 1502.03167) and an activation behind it; `x` is `[n, c]` or
/// `[n, h, w, c]`. Off the tape: [`batch_norm_grad`] is its gradient.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Activation) -> Result<BatchNormalised> {
    batch_norm_moving(x, weight, bias, act, None)
}

/// The same, and running statistics are moved on.
///
/// # Errors
/// As [`batch_norm`], and when the statistics share their memory with another argument.
pub(crate) fn batch_norm_moving(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    act: Activation,
    running: Option<Running<'_>>,
) -> Result<BatchNormalised> {
    check(x, weight)?;
    check(x, bias)?;
    if let Some(Running { mean, var, .. }) = running {
        check(x, mean.tensor())?;
        check(x, var.tensor())?;
        in_place::check(&[mean, var], &[x, weight, bias])?;
    }
    on_device!(
        x.device(),
        cpu: {
            let made = for_float!(x.dtype(), T => cpu::norm::batch_norm::<T>(x, weight, bias, act))?;
            if let Some(Running { mean, var, keep, take: [of_mean, of_var] }) = running {
                lerp(&[(mean, &made.mean)], keep, of_mean)?;
                lerp(&[(var, &made.var)], keep, of_var)?;
            }
            Ok(made)
        },
        cuda: cuda::norm::batch_norm(x, weight, bias, act, running)
    )
}

/// The gradients of [`batch_norm`] from its input, its results and the gradient `dy`, whose storage becomes that of the
/// gradient to `x`: `dx = γ/σ · (dz − mean(dz) − x̂ · mean(dz · x̂))` (arXiv 1502.03167, section 3), with dz the gradient before the activation.
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
    in_place::check(&[InPlace::of(&dy)], &[x, &made.y, weight, &made.mean, &made.var])?;
    on_device!(
        dy.device(),
        cpu: for_float!(x.dtype(), T => cpu::norm::batch_norm_grad::<T>(x, weight, made, act, dy)),
        cuda: cuda::norm::batch_norm_grad(x, weight, made, act, dy)
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

/// Layer normalisation over all but the batch, with gain and offset by channel (arXiv 1607.06450; the form of the WGAN-GP
/// authors' critics, PyTorch's `GroupNorm(1, c)`), and an activation behind it; `x` is `[n, c]` or `[n, h, w, c]`. Off the
/// tape: [`Normalised::vjp`] is its gradient.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Activation) -> Result<LayerNormalised> {
    check(x, weight)?;
    check(x, bias)?;
    let [mean, inverse] = by_image::statistics(x, EPS)?;
    let line = Affine { x, centre: &mean, scale: &inverse.broadcast_mul(weight)?, shift: bias };
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
pub struct JacobianProduct {
    /// Shaped as `g`.
    pub g: Tensor,
    /// Of what was moved.
    pub sums: [Tensor; 2],
}

impl JacobianProduct {
    /// The gradients to weight and bias, `[c]`, if it was [`Normalised::vjp`] that moved it.
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
    pub fn vjp(&self, x: &Tensor, weight: &Tensor, act: Activation, dy: Tensor) -> Result<JacobianProduct> {
        match self {
            Self::Batch(made) => {
                let BatchNormGradients { x: g, weight, bias } = batch_norm_grad(x, weight, made, act, dy)?;
                Ok(JacobianProduct { g, sums: [bias.unsqueeze(0)?, weight.unsqueeze(0)?] })
            }
            Self::Layer(made) => {
                act.grad(&made.y, InPlace::of(&dy))?;
                made.moved(x, &dy, weight, &weight.ones_like()?)
            }
        }
    }

    /// From a change of `x` to the change of the result before the activation.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn jvp(&self, x: &Tensor, weight: &Tensor, dx: &Tensor) -> Result<JacobianProduct> {
        match self {
            // One channel has one γ and one σ: the Jacobian is symmetric.
            Self::Batch(_) => self.vjp(x, weight, Activation::None, dx.copy()?),
            Self::Layer(made) => made.moved(x, dx, &weight.ones_like()?, weight),
        }
    }

    /// The gradients to x, weight and bias of `⟨a, J b⟩ + ⟨z̄, γ x̂ + β⟩`, where J is the Jacobian and `a`, `b` and z̄ (nothing if it
    /// is 0) are constant; `a` and `b` come with the sums of their [`Self::vjp`] and [`Self::jvp`].
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
        let line = Affine { x, centre: &centre, scale: &scale, shift: &by_sigma(&h_mean)?.neg()? };
        Ok([by_image::combine(&line, &terms, Activation::None)?, total(&to_weight)?, to_bias])
    }
}

impl LayerNormalised {
    /// `after · P (before · g) / σ`: the Jacobian has the gain behind it, its transpose before it.
    fn moved(&self, x: &Tensor, g: &Tensor, before: &Tensor, after: &Tensor) -> Result<JacobianProduct> {
        let Self { mean, inverse, .. } = self;
        let [plain, along] = by_image::sums(g, x, mean)?;
        let along = along.broadcast_mul(inverse)?;
        let count = (x.elem_count() / x.dim(0)?) as f64;
        let average = |sums: &Tensor| sums.broadcast_mul(before)?.sum_keepdim(1)? / count;
        let factor = inverse.broadcast_mul(after)?;
        let shift = factor.broadcast_mul(&average(&plain)?)?.neg()?;
        let scale = factor.broadcast_mul(&average(&along)?.mul(inverse)?)?.neg()?;
        let line = Affine { x, centre: mean, scale: &scale, shift: &shift };
        let moved = by_image::combine(&line, &[(g, factor.broadcast_mul(before)?)], Activation::None)?;
        Ok(JacobianProduct { g: moved, sums: [plain, along] })
    }
}

/// `[r, c]` summed up to `[c]`.
fn total(sums: &Tensor) -> Result<Tensor> {
    if sums.dim(0)? == 1 { sums.squeeze(0) } else { sums.sum(0) }
}

fn check(x: &Tensor, parameter: &Tensor) -> Result<()> {
    cpu::float::check_type(x)?;
    let (dims, expected) = (x.dims(), x.dim(D::Minus1)?);
    if !matches!(dims.len(), 2 | 4) || x.elem_count() == 0 {
        bail!("norm: expected values as [n, c] or [n, h, w, c], got {dims:?}");
    }
    if parameter.dims() != [expected] || parameter.dtype() != x.dtype() {
        bail!("norm: {expected} channels of {:?}, but a parameter of {parameter:?}", x.dtype());
    }
    Ok(())
}
