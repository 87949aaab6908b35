//! Batch normalisation on CUDA.

use candle_core::{Result, Tensor, bail};

use super::driver::{Gpu, cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Argument, Grid, ROWS};
use super::types::{coded, count, suffix};
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;
use crate::nn::statistics::{BatchNormGradients, BatchNormalised, EPS, Running};

/// As `norm::batch_norm_moving`.
pub(in crate::nn) fn batch_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    act: Activation,
    running: Option<Running<'_>>,
) -> Result<BatchNormalised> {
    let (x, dtype, c) = (x.contiguous()?, x.dtype(), weight.elem_count());
    let (y, mean, var) = (unwritten(x.shape(), &x)?, unwritten(c, &x)?, unwritten(c, &x)?);
    let (rows, len) = (x.elem_count() / c, count(x.elem_count())?);
    let parts = rows.div_ceil(ROWS);
    let [from, to, weight, bias] =
        [address(&x, dtype)?, place(InPlace::of(&y), dtype)?, address(weight, dtype)?, address(bias, dtype)?];
    let [mean_at, var_at] = [place(InPlace::of(&mean), dtype)?, place(InPlace::of(&var), dtype)?];
    let moved = |to: fn(Running<'_>) -> InPlace<'_>| running.map_or(Ok(0), |running| place(to(running), dtype));
    let [running_mean, running_var] = [moved(|running| running.mean)?, moved(|running| running.var)?];
    let (keep, [of_mean, of_var]) = running.map_or((1.0, [0.0; 2]), |running| (running.keep, running.take));
    let (suffix, (code, slope)) = (suffix(dtype)?, coded(act));
    with(cuda(x.device())?, |gpu| {
        let partial = |gpu: &Gpu| gpu.scratch(parts * c * dtype.size_in_bytes());
        let (means, squares, scale) = (partial(gpu)?, partial(gpu)?, gpu.scratch(c * dtype.size_in_bytes())?);
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        gpu.launch("moments", suffix, Grid::partial(parts, c), &[&from, &means.at, &squares.at, &rows, &c])?;
        let joined: [&dyn Argument; 14] = [
            &means.at,
            &squares.at,
            &weight,
            &mean_at,
            &var_at,
            &scale.at,
            &running_mean,
            &running_var,
            &rows,
            &c,
            &EPS,
            &keep,
            &of_mean,
            &of_var,
        ];
        gpu.launch("moments_total", suffix, Grid::total(c), &joined)?;
        let each: [&dyn Argument; 9] = [&from, &mean_at, &scale.at, &bias, &to, &len, &c, &code, &slope];
        gpu.launch("normalise", suffix, Grid::each(len), &each)
    })?;
    Ok(BatchNormalised { y, mean, var })
}

/// As `norm::batch_norm_grad`.
pub(in crate::nn) fn batch_norm_grad(
    x: &Tensor,
    weight: &Tensor,
    made: &BatchNormalised,
    act: Activation,
    dy: Tensor,
) -> Result<BatchNormGradients> {
    let (x, dtype, c) = (x.contiguous()?, x.dtype(), weight.elem_count());
    if dy.elem_count() != x.elem_count() || made.y.elem_count() != x.elem_count() {
        bail!("batch_norm: a gradient of {:?} for {:?}", dy.dims(), x.dims());
    }
    let (dw, db) = (unwritten(c, &x)?, unwritten(c, &x)?);
    let (rows, len) = (x.elem_count() / c, count(x.elem_count())?);
    let parts = rows.div_ceil(ROWS);
    let [from, y, at, weight] =
        [address(&x, dtype)?, address(&made.y, dtype)?, place(InPlace::of(&dy), dtype)?, address(weight, dtype)?];
    let [mean, var] = [address(&made.mean, dtype)?, address(&made.var, dtype)?];
    let [to_weight, to_bias] = [place(InPlace::of(&dw), dtype)?, place(InPlace::of(&db), dtype)?];
    let (suffix, (code, slope)) = (suffix(dtype)?, coded(act));
    with(cuda(x.device())?, |gpu| {
        let partial = |gpu: &Gpu| gpu.scratch(parts * c * dtype.size_in_bytes());
        let (of_dz, of_dz_x, constants) = (partial(gpu)?, partial(gpu)?, gpu.scratch(3 * c * dtype.size_in_bytes())?);
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        let sums: [&dyn Argument; 10] = [&from, &y, &at, &mean, &of_dz.at, &of_dz_x.at, &rows, &c, &code, &slope];
        gpu.launch("norm_grad_sums", suffix, Grid::partial(parts, c), &sums)?;
        let joined: [&dyn Argument; 10] =
            [&of_dz.at, &of_dz_x.at, &weight, &var, &to_weight, &to_bias, &constants.at, &rows, &c, &EPS];
        gpu.launch("norm_grad_total", suffix, Grid::total(c), &joined)?;
        let each: [&dyn Argument; 9] = [&from, &y, &at, &mean, &constants.at, &len, &c, &code, &slope];
        gpu.launch("norm_grad", suffix, Grid::each(len), &each)
    })?;
    Ok(BatchNormGradients { x: dy, weight: dw, bias: db })
}
