//! Penalties on gradients, with their own gradients, on CUDA: three launches.

use candle_core::{DType, Result, Tensor};

use super::driver::{cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, MAX_BLOCKS, THREADS};
use super::scores::unwritten_f64;
use super::types::{count, suffix};
use crate::nn::in_place::InPlace;
use crate::nn::slopes::{Aim, EPS};

/// As `slopes::penalise`.
pub(in crate::nn) fn penalise(aim: Aim, g: &Tensor, weight: f64, on_device: Option<&Tensor>) -> Result<[Tensor; 2]> {
    let (g, dtype, n) = (g.contiguous()?, g.dtype(), g.dim(0)?);
    let (squares, factors, v) = (unwritten(n, &g)?, unwritten(n, &g)?, unwritten(g.shape(), &g)?);
    let told = unwritten_f64(2, g.device())?;
    let at = |tensor: &Tensor| place(InPlace::of(tensor), dtype);
    let [from, squares_at, factors_at, to] = [address(&g, dtype)?, at(&squares)?, at(&factors)?, at(&v)?];
    let told_at = place(InPlace::of(&told), DType::F64)?;
    let weight_at = on_device.map_or(Ok(0), |weight| address(weight, DType::F64))?;
    let (s, len, rows, row) = (suffix(dtype)?, count(g.elem_count())?, count(n)?, count(g.elem_count() / n.max(1))?);
    let kind: i32 = match aim {
        Aim::LengthOne => 0,
        Aim::Zero => 1,
    };
    with(cuda(g.device())?, |gpu| {
        let each_row = Grid([rows.clamp(1, MAX_BLOCKS), 1, 1], [THREADS, 1]);
        gpu.launch("row_products", s, each_row, &[&from, &from, &squares_at, &rows, &row])?;
        let one = Grid([1, 1, 1], [THREADS, 1]);
        gpu.launch("penalise", s, one, &[&squares_at, &factors_at, &told_at, &rows, &kind, &weight, &weight_at, &EPS])?;
        gpu.launch("scale_rows", s, Grid::each(len), &[&from, &factors_at, &to, &rows, &row])
    })?;
    Ok([told, v])
}
