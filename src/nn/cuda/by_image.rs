//! Passes in which every image and channel has numbers of its own, on CUDA.

use candle_core::{D, DType, Result, Tensor, bail};
use cudarc::driver::DeviceRepr;

use super::driver::{cuda, with};
use super::memory::{address, place, strided, unwritten};
use super::module::{Grid, ROWS};
use super::types::{Address, coded, count, suffix};
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;

/// Terms of a combination at most, as in `kernels.cu`.
const TERMS: usize = 3;
/// Threads of a block that goes over an image alone.
const WIDE: u32 = 1024;

/// As in `kernels.cu`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Each {
    at: Address,
    by_image: u32,
    by_channel: u32,
}

/// As in `kernels.cu`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Combination {
    x: Address,
    line: [Each; 3],
    g: [Address; TERMS],
    factors: [Each; TERMS],
    terms: u32,
}

// SAFETY: addresses and numbers, laid out as C does.
unsafe impl DeviceRepr for Each {}
// SAFETY: likewise.
unsafe impl DeviceRepr for Combination {}

impl Each {
    /// Of a view of `[n, c]`.
    fn of(view: &Tensor, dtype: DType) -> Result<Self> {
        let (at, strides) = strided(view, dtype)?;
        match strides[..] {
            [by_image, by_channel] => Ok(Self { at, by_image: count(by_image)?, by_channel: count(by_channel)? }),
            _ => bail!("expected numbers [n, c], got {:?}", view.dims()),
        }
    }
}

/// As `by_image::statistics`, of rows.
pub(in crate::nn) fn statistics(rows: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let ((n, len), dtype) = (rows.dims2()?, rows.dtype());
    let (mean, inverse) = (unwritten((n, 1), rows)?, unwritten((n, 1), rows)?);
    let (from, [to_mean, to_inverse]) =
        (address(rows, dtype)?, [place(InPlace::of(&mean), dtype)?, place(InPlace::of(&inverse), dtype)?]);
    count(n * len)?;
    let (n, len) = (count(n)?, count(len)?);
    with(cuda(rows.device())?, |gpu| {
        let grid = Grid([n.max(1), 1, 1], [WIDE, 1]);
        gpu.launch("image_moments", suffix(dtype)?, grid, &[&from, &to_mean, &to_inverse, &n, &len, &eps])
    })?;
    Ok([mean, inverse])
}

/// As `by_image::sums`, of contiguous operands and a view of `[n, c]`.
pub(in crate::nn) fn sums(g: &Tensor, x: &Tensor, centre: &Tensor) -> Result<[Tensor; 2]> {
    let ((n, c), dtype) = (centre.dims2()?, x.dtype());
    let (of_g, of_gx) = (unwritten((n, c), x)?, unwritten((n, c), x)?);
    let [from, beside] = [address(g, dtype)?, address(x, dtype)?];
    let [to, to_gx] = [place(InPlace::of(&of_g), dtype)?, place(InPlace::of(&of_gx), dtype)?];
    let positions = count(x.elem_count())? / count((n * c).max(1))?;
    let (centre, n, c) = (Each::of(centre, dtype)?, count(n)?, count(c)?);
    with(cuda(x.device())?, |gpu| {
        gpu.launch(
            "image_sums",
            suffix(dtype)?,
            Grid::partial(n.max(1), c),
            &[&from, &beside, &centre, &to, &to_gx, &n, &positions, &c],
        )
    })?;
    Ok([of_g, of_gx])
}

/// As `by_image::combine`, of contiguous maps, with its factors as views of `[n, c]`.
pub(in crate::nn) fn combine(x: &Tensor, factors: &[Tensor; 3], terms: &[[Tensor; 2]], act: Activation) -> Result<Tensor> {
    let ((n, c), dtype) = (factors[0].dims2()?, x.dtype());
    if terms.len() > TERMS {
        bail!("a combination of {} terms: {TERMS} at most", terms.len());
    }
    let mut of = Combination { x: address(x, dtype)?, terms: terms.len() as u32, ..Combination::default() };
    for (place, factor) in of.line.iter_mut().zip(factors) {
        *place = Each::of(factor, dtype)?;
    }
    for ((g, factor), [from, by]) in of.g.iter_mut().zip(&mut of.factors).zip(terms) {
        (*g, *factor) = (address(from, dtype)?, Each::of(by, dtype)?);
    }
    let to = unwritten(x.shape(), x)?;
    let (at, len) = (place(InPlace::of(&to), dtype)?, count(x.elem_count())?);
    let (image, c, (code, slope)) = (len / count(n.max(1))?, count(c)?, coded(act));
    with(cuda(x.device())?, |gpu| {
        gpu.launch("combine", suffix(dtype)?, Grid::each(len), &[&of, &at, &len, &image, &c, &code, &slope])
    })?;
    Ok(to)
}

/// As `by_image::plus_shares`, of contiguous operands.
pub(in crate::nn) fn plus_shares(g: &Tensor, x: &Tensor, shares: &Tensor) -> Result<Tensor> {
    let (dtype, len) = (x.dtype(), count(x.elem_count())?);
    let to = unwritten(x.shape(), x)?;
    let [g, x_at, by] = [address(g, dtype)?, address(x, dtype)?, address(shares, dtype)?];
    let (at, image) = (place(InPlace::of(&to), dtype)?, len / count(shares.elem_count().max(1))?);
    with(cuda(x.device())?, |gpu| {
        gpu.launch("plus_shares", suffix(dtype)?, Grid::each(len), &[&g, &x_at, &by, &at, &len, &image])
    })?;
    Ok(to)
}

/// As `by_image::sum_of_shares`, of contiguous operands.
pub(in crate::nn) fn sum_of_shares(g: &Tensor, shares: &Tensor) -> Result<Tensor> {
    let (dtype, c) = (g.dtype(), g.dim(D::Minus1)?);
    let rows = g.elem_count() / c.max(1);
    let to = unwritten(c, g)?;
    let ([from, by], at) = ([address(g, dtype)?, address(shares, dtype)?], place(InPlace::of(&to), dtype)?);
    let (positions, parts) = (count(rows / shares.elem_count().max(1))?, rows.div_ceil(ROWS));
    with(cuda(g.device())?, |gpu| {
        let partial = gpu.scratch(parts * c * dtype.size_in_bytes())?;
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        let grid = Grid::partial(parts, c);
        gpu.launch("sums_of_shares", suffix(dtype)?, grid, &[&from, &by, &partial.at, &rows, &c, &positions])?;
        gpu.launch("sums_total", suffix(dtype)?, Grid::total(c), &[&partial.at, &at, &parts, &c])
    })?;
    Ok(to)
}
