//! Kernels made wider for a resampling, and their gradients gathered, on the CPU: one pass over memory.

use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::float::Float;
use super::memory::{Slot, View, filled};
use super::tasks::vectorised;
use crate::nn::geometry::Resampling;

/// Rows of the result that a task has: as many places are written side by side where it is a transpose.
const ROWS: usize = 16;

/// As `Resampling::widen`.
pub(in crate::nn) fn widen<T: Float>(kernels: &Tensor, resampling: Resampling) -> Result<Tensor> {
    let (co, ci, k, _) = kernels.dims4()?;
    converted::<T>(kernels, resampling, [co, ci], k + 1, |from, to| match (from.first_chunk(), to.first_chunk_mut()) {
        (Some(from), Some(to)) if k == 3 => widen_three(resampling, from, to),
        _ => widen_one(resampling, k, from, to),
    })
}

/// As `Resampling::gather`.
pub(in crate::nn) fn gather<T: Float>(wide: &Tensor, resampling: Resampling) -> Result<Tensor> {
    let (first, second, wider, _) = wide.dims4()?;
    converted::<T>(wide, resampling, [first, second], wider - 1, |from, to| match (from.first_chunk(), to.first_chunk_mut()) {
        (Some(from), Some(to)) if wider == 4 => gather_three(resampling, from, to),
        _ => gather_one(resampling, wider - 1, from, to),
    })
}

/// Every kernel of `[first, second, …]` as `one` makes it; doubled, `[second, first, side, side]`.
fn converted<T: Float>(
    kernels: &Tensor,
    resampling: Resampling,
    [first, second]: [usize; 2],
    side: usize,
    one: impl Fn(&[T], &mut [MaybeUninit<T>]) + Sync,
) -> Result<Tensor> {
    let view = View::of(kernels);
    let from = view.slice::<T>()?;
    let area = from.len() / (first * second);
    let kernel = |index: usize| &from[index * area..][..area];
    let (rows, columns) = match resampling {
        Resampling::Halved => (first, second),
        Resampling::Doubled => (second, first),
    };
    let (area, row_len) = (side * side, columns * side * side);
    let values = filled(rows * row_len, |to| {
        to.par_chunks_mut(ROWS * row_len).enumerate().for_each(|(task, to)| {
            let start = task * ROWS;
            let place = |row: usize, column: usize| row * row_len + column * area..row * row_len + (column + 1) * area;
            let in_task = to.len() / row_len;
            match resampling {
                Resampling::Halved => (0..in_task).for_each(|row| {
                    (0..columns).for_each(|column| one(kernel((start + row) * columns + column), &mut to[place(row, column)]));
                }),
                Resampling::Doubled => (0..columns).for_each(|column| {
                    (0..in_task).for_each(|row| one(kernel(column * rows + start + row), &mut to[place(row, column)]));
                }),
            }
        });
    });
    Tensor::from_vec(values, (rows, columns, side, side), kernels.device())
}

/// A kernel of `side` taps along an axis made wider, each of whose taps is a row of numbers, one of each channel.
pub(super) fn widen_rows<T: Float>(resampling: Resampling, side: usize, from: &[T], to: &mut [T]) {
    let share = share::<T>(resampling);
    let channels = from.len() / (side * side);
    for (place, to) in to.chunks_exact_mut(channels).enumerate() {
        let rows = taps(resampling, side, place / (side + 1));
        let columns = taps(resampling, side, place % (side + 1));
        let mut met = rows.flat_map(|row| columns.clone().map(move |column| row * side + column));
        let mut next = || met.next().map(|tap| &from[tap * channels..][..channels]);
        // One tap or two along an axis.
        vectorised(|| match [next(), next(), next(), next()] {
            [Some(a), Some(b), Some(c), Some(d)] => {
                let values = to.iter_mut().zip(a).zip(b).zip(c).zip(d);
                values.for_each(|((((to, &a), &b), &c), &d)| *to = ((a + b) + (c + d)) * share);
            }
            [Some(a), Some(b), ..] => to.iter_mut().zip(a).zip(b).for_each(|((to, &a), &b)| *to = (a + b) * share),
            [Some(a), ..] => to.iter_mut().zip(a).for_each(|(to, &a)| *to = a * share),
            [None, ..] => unreachable!("every tap of a wider kernel is made of some"),
        });
    }
}

/// From the gradient to what [`widen_rows`] makes to that to the kernel; of a wide kernel whose rows are `step` apart.
pub(super) fn gather_rows<T: Float>(resampling: Resampling, side: usize, from: &[T], step: usize, to: &mut [T]) {
    let share = share::<T>(resampling);
    let channels = to.len() / (side * side);
    for (tap, to) in to.chunks_exact_mut(channels).enumerate() {
        let at = first(resampling, side, tap / side) * (side + 1) + first(resampling, side, tap % side);
        let [a, b, c, d] = [at, at + 1, at + side + 1, at + side + 2].map(|place| &from[place * step..][..channels]);
        vectorised(|| {
            let values = to.iter_mut().zip(a).zip(b).zip(c).zip(d);
            values.for_each(|((((to, &a), &b), &c), &d)| *to = ((a + b) + (c + d)) * share);
        });
    }
}

/// Along an axis, the first of the two neighbours of a wider kernel that a tap of one of `k` is in.
#[inline(always)]
fn first(resampling: Resampling, k: usize, tap: usize) -> usize {
    match resampling {
        Resampling::Halved => tap,
        Resampling::Doubled => k - 1 - tap,
    }
}

/// Taps of a kernel of `k` that make up one of the wider kernel's, along an axis.
#[inline(always)]
fn taps(resampling: Resampling, k: usize, to: usize) -> Range<usize> {
    let end = match resampling {
        Resampling::Halved => to + 1,
        Resampling::Doubled => k + 1 - to,
    };
    end.saturating_sub(2)..end.min(k)
}

/// One kernel of `k` taps along an axis, wider.
fn widen_one<T: Float>(resampling: Resampling, k: usize, from: &[T], to: &mut [impl Slot<T>]) {
    for y in 0..=k {
        for x in 0..=k {
            let mut sum = T::ZERO;
            for row in taps(resampling, k, y) {
                for column in taps(resampling, k, x) {
                    sum += from[row * k + column];
                }
            }
            to[y * (k + 1) + x].put(sum * share(resampling));
        }
    }
}

/// As [`widen_one`] of a kernel of 3, the most frequent: along rows, then along columns.
#[inline(always)]
fn widen_three<T: Float>(resampling: Resampling, from: &[T; 9], to: &mut [impl Slot<T>; 16]) {
    let share = share::<T>(resampling);
    let wider = |[a, b, c]: [T; 3]| match resampling {
        Resampling::Halved => [a, a + b, b + c, c],
        Resampling::Doubled => [c, b + c, a + b, a],
    };
    let rows = [0, 3, 6].map(|row| wider([from[row] * share, from[row + 1] * share, from[row + 2] * share]));
    for column in 0..4 {
        let made = wider([rows[0][column], rows[1][column], rows[2][column]]);
        for (row, value) in made.into_iter().enumerate() {
            to[4 * row + column].put(value);
        }
    }
}

/// The gradient to one kernel of `k` taps along an axis, of that to the wider one.
fn gather_one<T: Float>(resampling: Resampling, k: usize, from: &[T], to: &mut [impl Slot<T>]) {
    for row in 0..k {
        for column in 0..k {
            let at = first(resampling, k, row) * (k + 1) + first(resampling, k, column);
            let sum = (from[at] + from[at + 1]) + (from[at + k + 1] + from[at + k + 2]);
            to[row * k + column].put(sum * share(resampling));
        }
    }
}

/// As [`gather_one`] of a kernel of 3.
#[inline(always)]
fn gather_three<T: Float>(resampling: Resampling, from: &[T; 16], to: &mut [impl Slot<T>; 9]) {
    let share = share::<T>(resampling);
    let pairs: [T; 12] = std::array::from_fn(|at| from[at / 3 * 4 + at % 3] + from[at / 3 * 4 + at % 3 + 1]);
    for at in 0..9 {
        let place = match resampling {
            Resampling::Halved => at,
            Resampling::Doubled => 8 - at,
        };
        to[place].put((pairs[at] + pairs[at + 3]) * share);
    }
}

/// What each tap counts for.
#[inline(always)]
fn share<T: Float>(resampling: Resampling) -> T {
    match resampling {
        Resampling::Halved => T::from_f64(0.25),
        Resampling::Doubled => T::from_f64(1.0),
    }
}
