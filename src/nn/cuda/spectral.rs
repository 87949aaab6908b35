//! Weights that are divided by their spectral norm, on CUDA: four launches a pass, two on the way back.

use candle_core::{Result, Tensor, bail};

use super::driver::{cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, MAX_BLOCKS, THREADS, TILE};
use super::types::{count, suffix};
use crate::nn::in_place::InPlace;

/// A block a row.
fn each_row(out: u32) -> Grid {
    Grid([out.clamp(1, MAX_BLOCKS), 1, 1], [THREADS, 1])
}

/// Refuses u and v of another matrix.
fn check([out, rest]: [u32; 2], weight: &Tensor) -> Result<()> {
    if out as usize * rest as usize != weight.elem_count() {
        bail!("u and v of {out} and {rest} values for a weight of {:?}", weight.dims());
    }
    Ok(())
}

/// W/σ, σ, and copies of u and v, of a weight `[out, …]`; with one power iteration before, which u and v keep, if so asked.
pub(in crate::nn) fn normalise(weight: &Tensor, u: &Tensor, v: &Tensor, iterate: bool) -> Result<[Tensor; 4]> {
    let (weight, dtype) = (weight.contiguous()?, weight.dtype());
    let [out, rest] = [count(u.elem_count())?, count(v.elem_count())?];
    check([out, rest], &weight)?;
    let like = |shape: &Tensor| unwritten(shape.shape(), shape);
    let (normalised, sigma, u_copy, v_copy, along) = (like(&weight)?, unwritten((), &weight)?, like(u)?, like(v)?, like(u)?);
    let raw = if iterate { Some(like(v)?) } else { None };
    let at = |tensor: &Tensor| place(InPlace::of(tensor), dtype);
    let [w, u_at, v_at, from] = [address(&weight, dtype)?, at(u)?, at(v)?, at(raw.as_ref().unwrap_or(v))?];
    let [to, sigma_at, u_to, v_to, along_at] = [at(&normalised)?, at(&sigma)?, at(&u_copy)?, at(&v_copy)?, at(&along)?];
    let (s, len, unit) = (suffix(dtype)?, count(weight.elem_count())?, i32::from(iterate));
    with(cuda(weight.device())?, |gpu| {
        if iterate {
            gpu.launch("spectral_columns", s, Grid([rest.div_ceil(TILE), 1, 1], [TILE, 8]), &[&w, &u_at, &from, &out, &rest])?;
        }
        gpu.launch("spectral_rows", s, each_row(out), &[&w, &from, &v_at, &v_to, &along_at, &out, &rest, &unit])?;
        gpu.launch("spectral_sigma", s, each_row(1), &[&along_at, &u_at, &u_to, &sigma_at, &out, &unit])?;
        gpu.launch("divide", s, Grid::each(len), &[&w, &sigma_at, &to, &len])
    })?;
    Ok([normalised, sigma, u_copy, v_copy])
}

/// `(G − ⟨G, W/σ⟩ u vᵀ) / σ`
pub(in crate::nn) fn weight_grad(
    gradient: &Tensor,
    normalised: &Tensor,
    [u, v]: [&Tensor; 2],
    sigma: &Tensor,
) -> Result<Tensor> {
    let (gradient, dtype) = (gradient.contiguous()?, gradient.dtype());
    let [out, rest] = [count(u.elem_count())?, count(v.elem_count())?];
    check([out, rest], &gradient)?;
    check([out, rest], normalised)?;
    let (made, products) = (unwritten(gradient.shape(), &gradient)?, unwritten(u.shape(), u)?);
    let [to, products_at] = [place(InPlace::of(&made), dtype)?, place(InPlace::of(&products), dtype)?];
    let at = |tensor: &Tensor| address(tensor, dtype);
    let [g, w, u, v, sigma] = [at(&gradient)?, at(normalised)?, at(u)?, at(v)?, at(sigma)?];
    let (s, len) = (suffix(dtype)?, count(gradient.elem_count())?);
    with(cuda(gradient.device())?, |gpu| {
        gpu.launch("row_products", s, each_row(out), &[&g, &w, &products_at, &out, &rest])?;
        gpu.launch("spectral_grad", s, Grid::each(len), &[&g, &products_at, &u, &v, &sigma, &to, &out, &rest])
    })?;
    Ok(made)
}
