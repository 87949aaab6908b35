//! Sums in a fixed order, whatever the number of threads.

use rayon::prelude::*;

use super::float::Float;
use super::memory::Workspace;
use super::tasks::{TASK, vectorised};

/// `to += from`, on all threads.
fn add_to<T: Float>(to: &mut [T], from: &[T]) {
    to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| {
        vectorised(|| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to += from;
            }
        });
    });
}

/// Lends sums of `len` values for `fill` to write, then what they add up to, in order.
pub(crate) fn with_sums<T: Float>(count: usize, len: usize, fill: impl FnOnce(&mut [T]), work: impl FnOnce(&[T])) {
    let mut workspace = Workspace::new::<T>(&[count * len]);
    let [sums] = workspace.slices::<T, 1>([count * len]);
    fill(sums);
    let (total, rest) = sums.split_at_mut(len);
    rest.chunks_exact(len).for_each(|sum| add_to(total, sum));
    work(total);
}

/// Sums columns of `[rows, c]`, computed block of rows by block: `sums(rows of a block, into)` adds a block's share to
/// `into`, which holds `slots` sums of `c` values. The blocks are then added in order, in f64.
pub(crate) fn column_sums<T: Float>(
    rows: usize,
    c: usize,
    slots: usize,
    sums: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync,
) -> Vec<f64> {
    let block = (TASK / c.max(1)).clamp(8, 256);
    let parts: Vec<Vec<T>> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|index| {
            let mut part = vec![T::default(); slots * c];
            sums(index * block..rows.min((index + 1) * block), &mut part);
            part
        })
        .collect();
    total(parts, slots * c)
}

/// Adds parts in order, in f64.
pub(crate) fn total<T: Float>(parts: Vec<Vec<T>>, len: usize) -> Vec<f64> {
    let mut total = vec![0.0; len];
    for part in parts {
        for (total, value) in total.iter_mut().zip(part) {
            *total += value.to_f64();
        }
    }
    total
}
