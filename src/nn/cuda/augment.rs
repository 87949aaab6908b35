//! Augmentations on CUDA: a launch a step.

use candle_core::{DType, Result, Tensor, bail};

use super::driver::{cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, MAX_BLOCKS, THREADS};
use super::types::{Address, count, suffix};
use crate::augment::{Augment, Form};
use crate::nn::in_place::InPlace;

/// The numbers of steps and forms in `kernels.cu`.
fn coded(kind: Augment, form: Form) -> [i32; 2] {
    let kind = match kind {
        Augment::Color => 0,
        Augment::Translation => 1,
        Augment::Cutout => 2,
    };
    let form = match form {
        Form::Whole => 0,
        Form::Linear => 1,
        Form::Adjoint => 2,
    };
    [kind, form]
}

/// Does the steps to images `[n, h, w, c]`, one after another, in a form (the adjoint begins with the last); `draws` are four f64 an image of each step,
/// `[steps, n, 4]`. What a step leaves empty becomes `fill`.
pub(crate) fn augment(x: &Tensor, steps: &[Augment], draws: &Tensor, form: Form, fill: f64) -> Result<Tensor> {
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
        let (from, to, [kind, form]) = (address(&x, dtype)?, place(InPlace::of(&made), dtype)?, coded(steps[number], form));
        let drawn = first + (number * n * 4 * size_of::<f64>()) as Address;
        with(cuda(x.device())?, |gpu| {
            gpu.launch("augment", suffix(dtype)?, grid, &[&from, &to, &drawn, &images, &h, &w, &c, &kind, &form, &fill])
        })?;
        x = made;
    }
    Ok(x)
}
