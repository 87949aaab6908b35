//! Operations on single values, with their gradients: biases and activations, products, and axes that change places.

use candle_core::{D, Result, Tensor, bail};

use super::activation::Activation;
use super::cpu::{self, for_float};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;
use super::in_place::{self, InPlace};

impl Activation {
    /// Applies it.
    ///
    /// # Errors
    /// When the tensor is not contiguous, or neither f32 nor f64.
    pub fn apply(self, x: InPlace<'_>) -> Result<()> {
        add_bias_activate(x, None, self)
    }

    /// Turns a gradient `dy` to its result `y` into that to its argument, in place.
    ///
    /// # Errors
    /// When the shapes do not fit, both share their memory, or the type is neither f32 nor f64.
    pub fn grad(self, y: &Tensor, dy: InPlace<'_>) -> Result<()> {
        let gradient = dy.tensor();
        if y.elem_count() != gradient.elem_count() {
            bail!("activation: a gradient of {:?} for {:?}", gradient.dims(), y.dims());
        }
        in_place::check(&[dy], &[y])?;
        on_device!(
            gradient.device(),
            cpu: for_float!(gradient.dtype(), T => cpu::elementwise::activation_grad::<T>(self, y, dy)),
            cuda: cuda::elementwise::activation_grad(self, y, dy)
        )
    }

    /// `f″(z) · ż · dy`, from `y = f(z)`, a change ż of the argument and a gradient to it, `dz = f′(z) · dy`: the gradient to z of
    /// `⟨f′(z) ż, dy⟩`. Nothing for what is linear in pieces.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn second(self, y: &Tensor, change: &Tensor, dz: &Tensor) -> Result<Option<Tensor>> {
        // f″/f′
        let factor = match self {
            Self::None | Self::Rectifier { .. } => return Ok(None),
            Self::Tanh => (y * -2.0)?,
            Self::Sigmoid => y.affine(-2.0, 1.0)?,
        };
        multiply(InPlace::of(&factor), change)?;
        multiply(InPlace::of(&factor), dz)?;
        Ok(Some(factor))
    }
}

/// `x ← act(x + bias)` in place; `x` is `[…, c]`, bias `[c]`.
///
/// # Errors
/// When the shapes do not fit, operands share their memory, or the type is neither f32 nor f64.
pub fn add_bias_activate(to: InPlace<'_>, bias: Option<&Tensor>, act: Activation) -> Result<()> {
    let x = to.tensor();
    if bias.is_some_and(|bias| x.dim(D::Minus1).ok() != Some(bias.elem_count())) {
        bail!("bias: {:?} for {:?}", bias.map(|bias| bias.dims()), x.dims());
    }
    in_place::check(&[to], bias.as_slice())?;
    if bias.is_none() && act == Activation::None || x.elem_count() == 0 {
        return Ok(());
    }
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::elementwise::add_bias_activate::<T>(to, bias, act)),
        cuda: cuda::elementwise::add_bias_activate(to, bias, act)
    )
}

/// The gradient to a bias `[c]`: the sum of `dy [… , c]` over all but the last axis.
///
/// # Errors
/// When the type is neither f32 nor f64.
pub fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let c = dy.dim(D::Minus1)?;
    on_device!(
        dy.device(),
        cpu: for_float!(dy.dtype(), T => cpu::elementwise::bias_grad::<T>(dy, c)),
        cuda: cuda::elementwise::bias_grad(dy)
    )
}

/// `x ← x · factor`, value by value, in place.
///
/// # Errors
/// When the shapes do not fit, operands share their memory, or the type is neither f32 nor f64.
pub fn multiply(to: InPlace<'_>, factor: &Tensor) -> Result<()> {
    let x = to.tensor();
    if x.elem_count() != factor.elem_count() {
        bail!("multiply: {:?} by {:?}", x.dims(), factor.dims());
    }
    in_place::check(&[to], &[factor])?;
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::elementwise::multiply::<T>(to, factor)),
        cuda: cuda::elementwise::multiply(to, factor)
    )
}

/// Swaps the last two of three axes: `[n, a, b]` → `[n, b, a]`.
///
/// # Errors
/// When the type is neither f32 nor f64.
pub fn swap_axes(x: &Tensor) -> Result<Tensor> {
    let (n, a, b) = x.dims3()?;
    if a <= 1 || b <= 1 {
        return x.reshape((n, b, a));
    }
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::elementwise::swap_axes::<T>(x, [n, a, b])),
        cuda: cuda::elementwise::swap_axes(x, [n, a, b])
    )
}
