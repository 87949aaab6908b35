//! Operations on single values, sums over rows and the order of values, on CUDA.

use candle_core::{D, DType, Result, Tensor};

use super::driver::{Gpu, cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, ROWS, TILE};
use super::types::{Address, coded, count, suffix};
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;

/// `x ← act(x + bias)`
pub(in crate::nn) fn add_bias_activate(to: InPlace<'_>, bias: Option<&Tensor>, act: Activation) -> Result<()> {
    let x = to.tensor();
    let (dtype, len) = (x.dtype(), count(x.elem_count())?);
    let (at, c) = (place(to, dtype)?, count(bias.map_or(0, Tensor::elem_count))?);
    let bias = bias.map_or(Ok(0), |bias| address(bias, dtype))?;
    let (code, slope) = coded(act);
    with(cuda(x.device())?, |gpu| {
        gpu.launch("bias_activate", suffix(dtype)?, Grid::each(len), &[&at, &bias, &len, &c, &code, &slope])
    })
}

/// `dy ← dy · act'`
pub(in crate::nn) fn activation_grad(act: Activation, y: &Tensor, to: InPlace<'_>) -> Result<()> {
    if act == Activation::None {
        return Ok(());
    }
    let dy = to.tensor();
    let (dtype, len) = (dy.dtype(), count(dy.elem_count())?);
    let (from, at) = (address(y, dtype)?, place(to, dtype)?);
    let (code, slope) = coded(act);
    with(cuda(dy.device())?, |gpu| gpu.launch("act_grad", suffix(dtype)?, Grid::each(len), &[&from, &at, &len, &code, &slope]))
}

/// The sums of `dy [… , c]` over all but the last axis.
pub(in crate::nn) fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let (dy, c, dtype) = (dy.contiguous()?, dy.dim(D::Minus1)?, dy.dtype());
    let to = unwritten(c, &dy)?;
    let (from, at) = (address(&dy, dtype)?, place(InPlace::of(&to), dtype)?);
    with(cuda(dy.device())?, |gpu| gpu.sums(suffix(dtype)?, from, at, [dy.elem_count() / c.max(1), c], dtype))?;
    Ok(to)
}

/// `x ← x · factor`
pub(in crate::nn) fn multiply(to: InPlace<'_>, factor: &Tensor) -> Result<()> {
    let x = to.tensor();
    let (dtype, len) = (x.dtype(), count(x.elem_count())?);
    let (at, by) = (place(to, dtype)?, address(factor, dtype)?);
    with(cuda(x.device())?, |gpu| gpu.launch("multiply", suffix(dtype)?, Grid::each(len), &[&at, &by, &len]))
}

/// `[n, a, b]` → `[n, b, a]`
pub(in crate::nn) fn swap_axes(x: &Tensor, [n, a, b]: [usize; 3]) -> Result<Tensor> {
    let (x, dtype) = (x.contiguous()?, x.dtype());
    let to = unwritten((n, b, a), &x)?;
    let (from, at) = (address(&x, dtype)?, place(InPlace::of(&to), dtype)?);
    with(cuda(x.device())?, |gpu| gpu.swap_axes(suffix(dtype)?, from, at, [n, a, b]))?;
    Ok(to)
}

/// The images of these numbers (u32, `[n]`, as `train::pixels` makes them), `[n, size, size, channels]`, from their bytes `[images, channels, size, size]` and the
/// value of each byte.
///
/// # Errors
/// When the device fails.
pub(crate) fn gather(bytes: &Tensor, values: &Tensor, numbers: &Tensor, [channels, size]: [usize; 2]) -> Result<Tensor> {
    let n = numbers.elem_count();
    let to = unwritten((n, size, size, channels), values)?;
    let len = count(to.elem_count())?;
    let [from, numbers_at] = [address(bytes, DType::U8)?, address(numbers, DType::U32)?];
    let [values, at] = [address(values, DType::F32)?, place(InPlace::of(&to), DType::F32)?];
    let [n, c, side] = [count(n)?, count(channels)?, count(size)?];
    with(cuda(bytes.device())?, |gpu| {
        gpu.launch("gather", "f32", Grid::each(len), &[&from, &numbers_at, &values, &at, &n, &c, &side])
    })?;
    Ok(to)
}

impl Gpu {
    /// `[n, a, b]` → `[n, b, a]`
    pub fn swap_axes(&mut self, suffix: &'static str, from: Address, to: Address, [n, a, b]: [usize; 3]) -> Result<()> {
        count(n * a * b)?;
        let [n, a, b] = [count(n)?, count(a)?, count(b)?];
        let grid = Grid([b.div_ceil(TILE), a.div_ceil(TILE), n.min(65_535)], [TILE, 8]);
        self.launch("swap_axes", suffix, grid, &[&from, &to, &n, &a, &b])
    }

    /// Sums of columns, `[rows, c]` → `[c]`.
    fn sums(&mut self, suffix: &'static str, x: Address, to: Address, [rows, c]: [usize; 2], dtype: DType) -> Result<()> {
        let parts = rows.div_ceil(ROWS);
        let partial = self.scratch(parts * c * dtype.size_in_bytes())?;
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        self.launch("sums", suffix, Grid::partial(parts, c), &[&x, &partial.at, &rows, &c])?;
        self.launch("sums_total", suffix, Grid::total(c), &[&partial.at, &to, &parts, &c])
    }
}
