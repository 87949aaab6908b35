//! Passes over `[n, …, c]` in which every image and channel has numbers of its own: what layer normalisation is made of, and
//! the second derivatives of both norms. Each is one pass over memory; on the CPU image by image, in an order that does not depend on the
//! number of threads.

use candle_core::{D, Result, Tensor, bail};

use super::activation::Activation;
use super::cpu::{self, for_float};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;
use super::statistics::Affine;

/// Mean and `1 / √(var + eps)` of each image, `[n, 1]` both.
pub(super) fn statistics(x: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let rows = x.contiguous()?.reshape((x.dim(0)?, ()))?;
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::by_image::statistics::<T>(&rows, eps)),
        cuda: cuda::by_image::statistics(&rows, eps)
    )
}

/// `Σ g` and `Σ g · (x − centre)` over the positions of each image, `[n, c]` both; `centre` is anything that broadcasts to
/// that.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub(super) fn sums(g: &Tensor, x: &Tensor, centre: &Tensor) -> Result<[Tensor; 2]> {
    let [n, c] = sizes(x)?;
    if g.elem_count() != x.elem_count() {
        bail!("sums by image: {:?} for {:?}", g.dims(), x.dims());
    }
    let (g, x, centre) = (g.contiguous()?, x.contiguous()?, centre.broadcast_as((n, c))?);
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::by_image::sums::<T>(&g, &x, &centre.contiguous()?)),
        cuda: cuda::by_image::sums(&g, &x, &centre)
    )
}

/// `act(line + Σ factor · g)`, shaped as `x`. The terms are (g, factor): `g` has as many values as `x`, `factor` broadcasts to
/// `[n, c]`.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub(super) fn combine(line: &Affine<'_>, terms: &[(&Tensor, Tensor)], act: Activation) -> Result<Tensor> {
    let x = line.x;
    let [n, c] = sizes(x)?;
    if let Some((g, _)) = terms.iter().find(|(g, _)| g.elem_count() != x.elem_count()) {
        bail!("combination by image: {:?} and {:?}", g.dims(), x.dims());
    }
    let each = |factor: &Tensor| factor.broadcast_as((n, c));
    let (x, factors) = (x.contiguous()?, [each(line.centre)?, each(line.scale)?, each(line.shift)?]);
    let terms = terms.iter().map(|(g, factor)| Ok([g.contiguous()?, each(factor)?])).collect::<Result<Vec<_>>>()?;
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::by_image::combine::<T>(&x, &factors, &terms, act)),
        cuda: cuda::by_image::combine(&x, &factors, &terms, act)
    )
}

/// `g + cᵢ x` for the cᵢ of image i, shaped as `x`; `shares` are c, `[n]`.
///
/// # Errors
/// As [`combine`].
pub(super) fn plus_shares(g: &Tensor, x: &Tensor, shares: &Tensor) -> Result<Tensor> {
    let [n, _] = sizes(x)?;
    if g.elem_count() != x.elem_count() || shares.elem_count() != n {
        bail!("shares by image: {:?} and {} of {:?}", g.dims(), shares.elem_count(), x.dims());
    }
    let (g, x, shares) = (g.contiguous()?, x.contiguous()?, shares.contiguous()?);
    on_device!(
        x.device(),
        cpu: for_float!(x.dtype(), T => cpu::by_image::plus_shares::<T>(&g, &x, &shares)),
        cuda: cuda::by_image::plus_shares(&g, &x, &shares)
    )
}

/// `Σ cᵢ g` over all images and positions, `[c]`; `shares` are c, `[n]`.
///
/// # Errors
/// As [`sums`].
pub(super) fn sum_of_shares(g: &Tensor, shares: &Tensor) -> Result<Tensor> {
    let [n, _] = sizes(g)?;
    if shares.elem_count() != n {
        bail!("shares by image: {} of {:?}", shares.elem_count(), g.dims());
    }
    on_device!(
        g.device(),
        cpu: {
            let [of_images, _] = sums(g, g, &Tensor::zeros((1, 1), g.dtype(), g.device())?)?;
            of_images.broadcast_mul(&shares.reshape((n, 1))?)?.sum(0)
        },
        cuda: cuda::by_image::sum_of_shares(&g.contiguous()?, &shares.contiguous()?)
    )
}

/// Images and channels.
fn sizes(x: &Tensor) -> Result<[usize; 2]> {
    match x.elem_count() {
        0 => bail!("expected values as [n, c] or [n, h, w, c], got {:?}", x.dims()),
        _ => Ok([x.dim(0)?, x.dim(D::Minus1)?]),
    }
}
