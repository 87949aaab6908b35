//! Augmentations on CUDA: a launch a step, and one upload of all draws.

use candle_core::{DType, Result, Tensor};

use super::driver::{cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, MAX_BLOCKS, THREADS};
use super::types::{Address, count, suffix};
use crate::nn::in_place::InPlace;

/// What a step does to each image, with four numbers an image; numbered as in `kernels.cu`.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Brightness, saturation, contrast.
    Colour,
    /// Pixel (i, j) becomes what (i + rows, j + columns) was: rows, columns.
    Shift,
    /// Fills a window: its first row and the one behind it, likewise of columns.
    Cut,
}

/// Does the steps to images `[n, h, w, c]`, one after another; what a step leaves empty becomes `fill`.
pub(crate) fn augment(x: &Tensor, steps: &[(Kind, Vec<[f64; 4]>)], fill: f64) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let all: Vec<f64> = steps.iter().flat_map(|(_, draws)| draws.iter().flatten().copied()).collect();
    // Memory is given back in the order of launches: it must live until the last of them.
    let draws = Tensor::from_vec(all, steps.len() * n * 4, x.device())?;
    let first = address(&draws, DType::F64)?;
    let mut x = x.contiguous()?;
    let dtype = x.dtype();
    let grid = Grid([count(n)?.clamp(1, MAX_BLOCKS), 1, 1], [THREADS, 1]);
    count(h * w * c)?;
    let [images, h, w, c] = [count(n)?, count(h)?, count(w)?, count(c)?];
    for (number, (kind, _)) in steps.iter().enumerate() {
        let made = unwritten(x.shape(), &x)?;
        let (from, to, kind) = (address(&x, dtype)?, place(InPlace::of(&made), dtype)?, *kind as i32);
        let drawn = first + (number * n * 4 * size_of::<f64>()) as Address;
        with(cuda(x.device())?, |gpu| {
            gpu.launch("augment", suffix(dtype)?, grid, &[&from, &to, &drawn, &images, &h, &w, &c, &kind, &fill])
        })?;
        x = made;
    }
    Ok(x)
}
