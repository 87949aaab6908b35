//! Activations with the bias before them, dropout masks, averages, and the order of a map's values.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{Float, TASK, View, column_sums, edit, filled, for_float, transpose, vectorised};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::{check_operands, on_device};

/// A function of single values whose derivative follows from its result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// x.
    None,
    /// max(x, slope · x): LeakyReLU, ReLU with slope 0.
    Rectifier {
        /// The factor on negative values, 0 to 1.
        slope: f64,
    },
    /// tanh x.
    Tanh,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
}

impl Activation {
    /// Applies it in place: whoever shares the storage of `x` sees the change.
    ///
    /// # Errors
    /// When the tensor is not contiguous, or neither f32 nor f64.
    pub fn apply(self, x: &Tensor) -> Result<()> {
        add_bias_activate(x, None, self)
    }

    /// Turns a gradient `dy` to its result `y` into that to its argument, in place.
    ///
    /// # Errors
    /// When the shapes do not fit, both share their memory, or the type is neither f32 nor f64.
    pub fn grad(self, y: &Tensor, dy: &Tensor) -> Result<()> {
        if y.elem_count() != dy.elem_count() {
            bail!("activation: a gradient of {:?} for {:?}", dy.dims(), y.dims());
        }
        check_operands(&[dy], &[y])?;
        on_device!(
            dy.device(),
            cpu: for_float!(dy.dtype(), T => self.grad_cpu::<T>(y, dy)),
            cuda: cuda::activation_grad(self, y, dy)
        )
    }

    /// Whether it has a second derivative.
    pub(super) fn is_bent(self) -> bool {
        matches!(self, Self::Tanh | Self::Sigmoid)
    }

    /// `f″(z) · ż · dy`, from `y = f(z)`, a change ż of the argument and a gradient to it, `dz = f′(z) · dy`: the gradient to z of
    /// `⟨f′(z) ż, dy⟩`. Nothing for what is linear in pieces.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn bend(self, y: &Tensor, change: &Tensor, dz: &Tensor) -> Result<Option<Tensor>> {
        // f″/f′
        let factor = match self {
            Self::None | Self::Rectifier { .. } => return Ok(None),
            Self::Tanh => (y * -2.0)?,
            Self::Sigmoid => y.affine(-2.0, 1.0)?,
        };
        multiply(&factor, change)?;
        multiply(&factor, dz)?;
        Ok(Some(factor))
    }

    fn grad_cpu<T: Float>(self, y: &Tensor, dy: &Tensor) -> Result<()> {
        if self == Self::None {
            return Ok(());
        }
        let y = View::of(y);
        let y = y.slice::<T>()?;
        edit::<T>(dy, |dy| {
            let tasks = dy.par_chunks_mut(TASK).zip(y.par_chunks(TASK));
            tasks.for_each(|(dy, y)| vectorised(|| self.grad_values(y, dy)));
            Ok(())
        })
    }

    #[inline(always)]
    pub(super) fn apply_values<T: Float>(self, values: &mut [T]) {
        match self {
            Self::None => {}
            Self::Rectifier { slope } => {
                let slope = T::from_f64(slope);
                for x in values {
                    *x = if *x > T::zero() { *x } else { *x * slope };
                }
            }
            Self::Tanh => values.iter_mut().for_each(|x| *x = x.tanh()),
            Self::Sigmoid => values.iter_mut().for_each(|x| *x = x.sigmoid()),
        }
    }

    #[inline(always)]
    pub(super) fn grad_values<T: Float>(self, y: &[T], dy: &mut [T]) {
        let values = dy.iter_mut().zip(y);
        match self {
            Self::None => {}
            Self::Rectifier { slope } => {
                let slope = T::from_f64(slope);
                // y > 0 exactly where the argument is.
                values.for_each(|(dy, &y)| *dy = if y > T::zero() { *dy } else { *dy * slope });
            }
            Self::Tanh => values.for_each(|(dy, &y)| *dy *= T::one() - y * y),
            Self::Sigmoid => values.for_each(|(dy, &y)| *dy *= y * (T::one() - y)),
        }
    }
}

/// `x ← act(x + bias)` in place; `x` is `[…, c]`, bias `[c]`.
///
/// # Errors
/// When the shapes do not fit, operands share their memory, or the type is neither f32 nor f64.
pub fn add_bias_activate(x: &Tensor, bias: Option<&Tensor>, act: Activation) -> Result<()> {
    if bias.is_some_and(|bias| x.dim(D::Minus1).ok() != Some(bias.elem_count())) {
        bail!("bias: {:?} for {:?}", bias.map(|bias| bias.dims()), x.dims());
    }
    check_operands(&[x], bias.as_slice())?;
    if bias.is_none() && act == Activation::None || x.elem_count() == 0 {
        return Ok(());
    }
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => add_bias_activate_cpu::<T>(x, bias, act)),
        cuda: cuda::add_bias_activate(x, bias, act)
    )
}

fn add_bias_activate_cpu<T: Float>(x: &Tensor, bias: Option<&Tensor>, act: Activation) -> Result<()> {
    let bias = bias.map(View::of);
    let bias = bias.as_ref().map(|bias| bias.slice::<T>()).transpose()?;
    let row_len = bias.map_or(TASK, <[T]>::len);
    edit::<T>(x, |x| {
        x.par_chunks_mut(row_len * (TASK / row_len).max(1)).for_each(|x| {
            vectorised(|| {
                if let Some(bias) = bias {
                    for x in x.chunks_exact_mut(row_len) {
                        for (x, &bias) in x.iter_mut().zip(bias) {
                            *x += bias;
                        }
                    }
                }
                act.apply_values(x);
            });
        });
        Ok(())
    })
}

/// The gradient to a bias `[c]`: the sum of `dy [… , c]` over all but the last axis.
///
/// # Errors
/// When the type is neither f32 nor f64.
pub fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let c = dy.dim(D::Minus1)?;
    on_device!(dy.device(), cpu: for_float!(dy.dtype(), T => bias_grad_cpu::<T>(dy, c)), cuda: cuda::bias_grad(dy))
}

fn bias_grad_cpu<T: Float>(dy: &Tensor, c: usize) -> Result<Tensor> {
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

/// `x ← x · factor`, value by value, in place.
///
/// # Errors
/// When the shapes do not fit, operands share their memory, or the type is neither f32 nor f64.
pub fn multiply(x: &Tensor, factor: &Tensor) -> Result<()> {
    if x.elem_count() != factor.elem_count() {
        bail!("multiply: {:?} by {:?}", x.dims(), factor.dims());
    }
    check_operands(&[x], &[factor])?;
    on_device!(x.device(), cpu: for_float!(x.dtype(), T => multiply_cpu::<T>(x, factor)), cuda: cuda::multiply(x, factor))
}

fn multiply_cpu<T: Float>(x: &Tensor, factor: &Tensor) -> Result<()> {
    let factor = View::of(factor);
    let factor = factor.slice::<T>()?;
    edit::<T>(x, |x| {
        x.par_chunks_mut(TASK).zip(factor.par_chunks(TASK)).for_each(|(x, factor)| {
            vectorised(|| x.iter_mut().zip(factor).for_each(|(x, &factor)| *x *= factor));
        });
        Ok(())
    })
}

/// `to ← keep · to + take · from`, pair by pair, in place.
///
/// # Errors
/// When the lengths of a pair differ, they share their memory, or the type is neither f32 nor f64.
pub fn blend(pairs: &[(&Tensor, &Tensor)], keep: f64, take: f64) -> Result<()> {
    if let Some((to, from)) = pairs.iter().find(|(to, from)| to.elem_count() != from.elem_count()) {
        bail!("blend: {:?} with {:?}", to.dims(), from.dims());
    }
    pairs.iter().try_for_each(|(to, from)| check_operands(&[to], &[from]))?;
    let Some((first, _)) = pairs.first() else { return Ok(()) };
    on_device!(
        first.device(),
        cpu: pairs.iter().try_for_each(|(to, from)| for_float!(to.dtype(), T => blend_cpu::<T>(to, from, keep, take))),
        cuda: cuda::update(cuda::Update::Blend([keep, take]), &pairs.iter().map(|&(to, from)| vec![to, from]).collect::<Vec<_>>())
    )
}

fn blend_cpu<T: Float>(to: &Tensor, from: &Tensor, keep: f64, take: f64) -> Result<()> {
    let (keep, take) = (T::from_f64(keep), T::from_f64(take));
    let from = View::of(from);
    let from = from.slice::<T>()?;
    edit::<T>(to, |to| {
        to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| {
            vectorised(|| to.iter_mut().zip(from).for_each(|(to, &from)| *to = *to * keep + from * take));
        });
        Ok(())
    })
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
        cpu: for_float!(x.dtype(), T => swap_axes_cpu::<T>(x, [n, a, b])),
        cuda: cuda::swap_axes(x, [n, a, b])
    )
}

fn swap_axes_cpu<T: Float>(x: &Tensor, [n, a, b]: [usize; 3]) -> Result<Tensor> {
    let x = x.contiguous()?;
    let view = View::of(&x);
    let values = view.slice::<T>()?;
    let swapped = filled(values.len(), |to| {
        let images = to.par_chunks_exact_mut(a * b).zip(values.par_chunks_exact(a * b));
        images.for_each(|(to, from)| vectorised(|| transpose(from, to, a, b)));
    });
    Tensor::from_vec(swapped, (n, b, a), x.device())
}
