//! The kernels of a convolution as a matrix with a row a kernel, in the order that im2col has its columns in, and back.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::float::Float;
use super::memory::Workspace;
use super::resample::{gather_rows, widen_rows};
use super::tasks::TASK;
use super::turn::transpose;
use crate::nn::geometry::Resampling;

/// Kernels `[co, ci, k, k]`, read as rows `[k, k, ci]`. Where a resampling widens them, they lie as they were before that: who rounds
/// and packs them row by row never has them wide.
#[derive(Clone, Copy)]
pub(super) struct Kernels<'a, T> {
    values: &'a [T],
    /// co and ci.
    dims: [usize; 2],
    /// Taps along an axis, as they lie.
    side: usize,
    widened: Option<Resampling>,
}

impl<'a, T: Float> Kernels<'a, T> {
    /// Of a convolution with so many output and input channels and taps along an axis.
    pub fn new(values: &'a [T], dims: [usize; 2], k: usize, widened: Option<Resampling>) -> Self {
        let side = k - usize::from(widened.is_some());
        assert_eq!(values.len(), dims[0] * dims[1] * side * side, "kernels of these sizes");
        Self { values, dims, side, widened }
    }

    /// Values of a row.
    pub fn depth(&self) -> usize {
        let side = self.side + usize::from(self.widened.is_some());
        self.dims[1] * side * side
    }

    /// Rows.
    pub fn count(&self) -> usize {
        self.dims[0]
    }

    /// All of them, where they lie in this order already.
    pub fn in_order(&self) -> Option<&'a [T]> {
        lie_in_order(self.dims[1], self.side, self.widened).then_some(self.values)
    }

    /// Values that [`Self::row`] needs room for.
    pub fn room(&self) -> usize {
        if self.in_order().is_some() { 0 } else { self.depth() + self.narrow_len() }
    }

    /// Values of a row before it is widened; 0 where it is not.
    fn narrow_len(&self) -> usize {
        if self.widened.is_some() { self.dims[1] * self.side * self.side } else { 0 }
    }

    /// One of them, in `buffer` if it is not in order.
    pub fn row<'b>(&self, index: usize, buffer: &'b mut [T]) -> &'b [T]
    where
        'a: 'b,
    {
        if let Some(values) = self.in_order() {
            return &values[index * self.depth()..][..self.depth()];
        }
        let (row, narrow) = buffer.split_at_mut(self.depth());
        self.write(index, row, &mut narrow[..self.narrow_len()]);
        row
    }

    /// Writes one that is not in order; `narrow` has room for what it is before it is widened.
    fn write(&self, index: usize, row: &mut [T], narrow: &mut [T]) {
        let ([count, channels], area) = (self.dims, self.side * self.side);
        // One kernel of each input channel behind the other: doubled, they lie by input channels.
        let (start, step) = match self.widened {
            Some(Resampling::Doubled) => (index * area, count * area),
            Some(Resampling::Halved) | None => (index * channels * area, area),
        };
        let to = if self.widened.is_some() { &mut *narrow } else { &mut *row };
        transpose(&self.values[start..], step, to, channels, [channels, area]);
        if let Some(resampling) = self.widened {
            widen_rows(resampling, self.side, narrow, row);
        }
    }

    /// Lends all of them in order.
    pub fn lend(&self, work: impl FnOnce(&[T])) {
        if let Some(values) = self.in_order() {
            return work(values);
        }
        let (depth, narrow_len) = (self.depth(), self.narrow_len());
        let few = (TASK / depth).max(1);
        let mut workspace = Workspace::new::<T>(&[self.count() * depth]);
        let [rows] = workspace.slices::<T, 1>([self.count() * depth]);
        rows.par_chunks_mut(few * depth).enumerate().for_each(|(task, rows)| {
            let mut workspace = Workspace::new::<T>(&[narrow_len]);
            let [narrow] = workspace.slices::<T, 1>([narrow_len]);
            rows.chunks_exact_mut(depth).zip(task * few..).for_each(|(row, index)| self.write(index, row, narrow));
        });
        work(rows);
    }
}

/// Whether kernels `[co, ci, side, side]` are rows `[side, side, ci]` as they lie.
pub(super) fn lie_in_order(ci: usize, side: usize, widened: Option<Resampling>) -> bool {
    widened.is_none() && (side == 1 || ci == 1)
}

/// The inverse, of gradients: from rows `[k, k, ci]`, one of each of co kernels, to kernels as they lie; where a resampling widened them,
/// to what they were before that.
pub(super) fn turn_back<T: Float>(
    rows: &[T],
    [co, ci]: [usize; 2],
    k: usize,
    widened: Option<Resampling>,
    kernels: &mut [MaybeUninit<T>],
) {
    /// Input channels of a task, where kernels lie by them: a line of memory.
    const CHANNELS: usize = 16;
    let side = k - usize::from(widened.is_some());
    let (area, depth) = (side * side, k * k * ci);
    assert!(rows.len() == co * depth && kernels.len() == co * ci * area, "kernels of these sizes");
    let Some(resampling) = widened else {
        let kernels = kernels.par_chunks_exact_mut(depth).zip(rows.par_chunks_exact(depth));
        return kernels.for_each(|(to, row)| transpose(row, ci, to, area, [area, ci]));
    };
    let (task_len, channels) = match resampling {
        Resampling::Halved => (ci * area, ci),
        Resampling::Doubled => (CHANNELS * co * area, ci.min(CHANNELS)),
    };
    kernels.par_chunks_mut(task_len).enumerate().for_each(|(task, to)| {
        let mut workspace = Workspace::new::<T>(&[channels * area]);
        let [narrow] = workspace.slices::<T, 1>([channels * area]);
        match resampling {
            Resampling::Halved => {
                gather_rows(resampling, side, &rows[task * depth..][..depth], ci, narrow);
                transpose(narrow, ci, to, area, [area, ci]);
            }
            Resampling::Doubled => {
                let channels = to.len() / (co * area);
                for (index, row) in rows.chunks_exact(depth).enumerate() {
                    let narrow = &mut narrow[..channels * area];
                    gather_rows(resampling, side, &row[task * CHANNELS..], ci, narrow);
                    transpose(narrow, channels, &mut to[index * area..], co * area, [area, channels]);
                }
            }
        }
    });
}
