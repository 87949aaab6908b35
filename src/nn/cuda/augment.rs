//! Augmentations on CUDA: a launch a step.

use candle_core::{DType, Result, Tensor, bail};

use super::driver::{cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, MAX_BLOCKS, THREADS};
use super::types::{Address, count, suffix};
use crate::nn::in_place::InPlace;

/// What a step does to each image, with four numbers an image; numbered as in `kernels.cu`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Brightness, saturation, contrast.
    Colour,
    /// Pixel (i, j) becomes what (i + rows, j + columns) was: rows, columns.
    Shift,
    /// Fills a window: its first row and the one behind it, likewise of columns.
    Cut,
}

/// How images go through the steps; numbered as in `kernels.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Whole,
    /// Without what they add.
    Linear,
    /// The adjoint of that, from the last step to the first.
    Adjoint,
}

/// Does the steps to images `[n, h, w, c]`, one after another, in a form; `draws` are four f64 an image of each step,
/// `[steps, n, 4]`. What a step leaves empty becomes `fill`.
pub(crate) fn augment(x: &Tensor, steps: &[Kind], draws: &Tensor, form: Form, fill: f64) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    if draws.dims() != [steps.len(), n, 4] {
        bail!("draws of {:?} for {} steps of {n} images", draws.dims(), steps.len());
    }
    let (first, fill) = (address(draws, DType::F64)?, if form == Form::Whole { fill } else { 0.0 });
    let mut x = x.contiguous()?;
    let dtype = x.dtype();
    let grid = Grid([count(n)?.clamp(1, MAX_BLOCKS), 1, 1], [THREADS, 1]);
    count(h * w * c)?;
    let [images, h, w, c] = [count(n)?, count(h)?, count(w)?, count(c)?];
    let mut order: Vec<usize> = (0..steps.len()).collect();
    if form == Form::Adjoint {
        order.reverse();
    }
    for number in order {
        let made = unwritten(x.shape(), &x)?;
        let (from, to) = (address(&x, dtype)?, place(InPlace::of(&made), dtype)?);
        let (kind, form) = (steps[number] as i32, form as i32);
        let drawn = first + (number * n * 4 * size_of::<f64>()) as Address;
        with(cuda(x.device())?, |gpu| {
            gpu.launch("augment", suffix(dtype)?, grid, &[&from, &to, &drawn, &images, &h, &w, &c, &kind, &form, &fill])
        })?;
        x = made;
    }
    Ok(x)
}
