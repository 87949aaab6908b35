//! Losses of scores with their gradients on CUDA: a launch each.

use candle_core::{DType, Device, Result, Tensor};

use super::driver::{cuda, with};
use super::memory::{address, place, unwritten};
use super::module::{Grid, THREADS};
use super::types::{count, suffix};
use crate::nn::in_place::InPlace;
use crate::nn::scores::{Graded, Player, Term};

/// As `scores::grade`, of vectors.
pub(in crate::nn) fn grade(term: Term, player: Player, factor: f64, real: Option<&Tensor>, fake: &Tensor) -> Result<Graded> {
    let (dtype, n) = (fake.dtype(), fake.elem_count());
    let (real, fake) = (real.map(Tensor::contiguous).transpose()?, fake.contiguous()?);
    let by_real = real.as_ref().map(|real| unwritten(n, real)).transpose()?;
    let by_fake = unwritten(n, &fake)?;
    let told = unwritten_f64(3, fake.device())?;
    let from = [real.as_ref().map_or(Ok(0), |real| address(real, dtype))?, address(&fake, dtype)?];
    let to_real = by_real.as_ref().map_or(Ok(0), |by_real| place(InPlace::of(by_real), dtype))?;
    let to = [to_real, place(InPlace::of(&by_fake), dtype)?, place(InPlace::of(&told), DType::F64)?];
    let (len, term, player) = (count(n)?, term as i32, player as i32);
    // One block: sums in a fixed order, of as many scores as a batch has images.
    let grid = Grid([1, 1, 1], [THREADS, 1]);
    with(cuda(fake.device())?, |gpu| {
        gpu.launch("grade", suffix(dtype)?, grid, &[&from[0], &from[1], &to[0], &to[1], &to[2], &len, &term, &player, &factor])
    })?;
    Ok(Graded { told, by_real, by_fake })
}

/// Numbers that a kernel tells, for it to write.
pub(super) fn unwritten_f64(len: usize, device: &Device) -> Result<Tensor> {
    // SAFETY: numbers, of which any bits are a value; the kernel writes all of them.
    unsafe { Tensor::empty(len, DType::F64, device) }
}
