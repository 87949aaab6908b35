//! Convolutions of any kernel and stride as im2col or col2im around gemm, on the CPU.
//!
//! With channels last, the input values that a kernel row meets lie side by side, so im2col is a few straight copies a
//! position, and the product's result is the output as it is, with nothing to be sorted. The batch is cut into groups of
//! images whose columns fit a core's second cache.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::float::Float;
use super::matrix::{matmul, matmul_parallel, row_major, transpose, transposed};
use super::memory::{Slot, Workspace, filled, zeroed};
use super::sums::add_to;
use super::tasks::{LINES, MAX_SUMS, vectorised};
use crate::nn::geometry::ConvPlan;

/// Values of a group's columns: 1 MB in f32.
const CACHED_VALUES: usize = 1 << 18;
/// A product with fewer rows wastes the machine: it reads all kernels for them.
const MIN_ROWS: usize = 256;
/// The batch is cut into at least this many groups, if it has so many images: work for as many cores.
const MIN_GROUPS: usize = 16;

impl ConvPlan {
    /// Values of a column: what one output position sees.
    fn depth(&self) -> usize {
        self.ci * self.window.kernel * self.window.kernel
    }

    /// Whether the kernel covers the whole input at its one position: a convolution that is a plain matrix product of
    /// `x [n, depth]` and `w [co, depth]`, as where a DCGAN's maps begin and end, and as a linear layer is.
    fn is_full(&self) -> bool {
        self.window.padding == 0 && self.positions() == 1 && self.h == self.window.kernel && self.w == self.window.kernel
    }

    /// Images a group.
    fn group(&self) -> usize {
        let fill_cache = CACHED_VALUES / self.depth() / self.positions();
        let enough = MIN_ROWS.div_ceil(self.positions());
        fill_cache.min(self.n.div_ceil(MIN_GROUPS)).max(enough).min(self.n)
    }

    /// For every output position and kernel row: calls `each(place in the columns, place in x or None for padding)` with
    /// the run of values that the two share. Runs that are partly padding come in pieces.
    #[inline(always)]
    fn for_each_run(&self, mut each: impl FnMut(Range<usize>, Option<usize>)) {
        let (k, c) = (self.window.kernel, self.ci);
        let inside = |at: usize, size: usize| at.checked_sub(self.window.padding).filter(|&at| at < size);
        for position in 0..self.positions() {
            let top = position / self.out_w * self.window.stride;
            let left = position % self.out_w * self.window.stride;
            // The taps of a kernel row that lie in the input.
            let first = self.window.padding.saturating_sub(left).min(k);
            let end = (self.w + self.window.padding).saturating_sub(left).clamp(first, k);
            for ky in 0..k {
                let start = position * self.depth() + ky * k * c;
                match inside(top + ky, self.h) {
                    Some(row) if first < end => {
                        each(start..start + first * c, None);
                        let from = (row * self.w + left + first - self.window.padding) * c;
                        each(start + first * c..start + end * c, Some(from));
                        each(start + end * c..start + k * c, None);
                    }
                    _ => each(start..start + k * c, None),
                }
            }
        }
    }

    /// The columns of images, `[positions, depth]` for each.
    fn im2col<T: Float>(&self, x: &[T], columns: &mut [T]) {
        let images = columns.chunks_exact_mut(self.positions() * self.depth()).zip(x.chunks_exact(self.x_len()));
        images.for_each(|(columns, x)| {
            self.for_each_run(|to, from| match from {
                Some(from) => columns[to.clone()].copy_from_slice(&x[from..from + to.len()]),
                None => columns[to].fill(T::default()),
            });
        });
    }

    /// The transpose of [`Self::im2col`]: adds columns up in the images that they came from.
    fn col2im<T: Float>(&self, columns: &[T], x: &mut [MaybeUninit<T>]) {
        let images = columns.chunks_exact(self.positions() * self.depth()).zip(x.chunks_exact_mut(self.x_len()));
        images.for_each(|(columns, x)| {
            vectorised(|| {
                let x = zeroed(x);
                self.for_each_run(|run, to| {
                    if let Some(to) = to {
                        for (to, &from) in x[to..to + run.len()].iter_mut().zip(&columns[run]) {
                            *to += from;
                        }
                    }
                });
            });
        });
    }

    /// Whether kernels `[co, ci, k, k]` and `[co, k, k, ci]` are the same.
    fn is_turned(&self) -> bool {
        self.window.kernel == 1 || self.ci == 1
    }

    /// Lends the kernels as `[co, k, k, ci]`, the order of the columns.
    fn with_turned<T: Float>(&self, w: &[T], work: impl FnOnce(&[T])) {
        if self.is_turned() {
            return work(w);
        }
        let area = self.window.kernel * self.window.kernel;
        let mut workspace = Workspace::new::<T>(&[w.len()]);
        let [turned] = workspace.slices::<T, 1>([w.len()]);
        let kernels = turned.par_chunks_exact_mut(self.depth()).zip(w.par_chunks_exact(self.depth()));
        kernels.for_each(|(to, from)| transpose(from, to, self.ci, area));
        work(turned);
    }

    /// The inverse of the turn in [`Self::with_turned`].
    fn turn_back<T: Float>(&self, turned: &[T], w: &mut [MaybeUninit<T>]) {
        let area = self.window.kernel * self.window.kernel;
        let kernels = w.par_chunks_exact_mut(self.depth()).zip(turned.par_chunks_exact(self.depth()));
        kernels.for_each(|(to, from)| transpose(from, to, area, self.ci));
    }
}

/// As [`transpose`], on all threads.
fn transpose_parallel<T: Float>(from: &[T], to: &mut [T], rows: usize, columns: usize) {
    /// Columns a task.
    const BLOCK: usize = 64;
    to.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(task, to)| {
        for first in (0..rows).step_by(LINES) {
            for (column, to) in to.chunks_exact_mut(rows).enumerate() {
                let at = task * BLOCK + column;
                let to = to[first..].iter_mut().take(LINES).enumerate();
                to.for_each(|(row, to)| *to = from[(first + row) * columns + at]);
            }
        }
    });
}

/// `y [n, out_h, out_w, co]`
pub(super) fn forward<T: Float>(plan: &ConvPlan, x: &[T], w: &[T], y: &mut [MaybeUninit<T>]) {
    let (depth, co) = (plan.depth(), plan.co);
    plan.with_turned(w, |turned| {
        if plan.is_full() {
            return matmul_parallel([plan.n, depth, co], x, row_major(depth), turned, transposed(depth), y);
        }
        // By rows, as a product takes its second factor best: every group reads it anew.
        let mut workspace = Workspace::new::<T>(&[w.len()]);
        let [kernels] = workspace.slices::<T, 1>([w.len()]);
        transpose_parallel(turned, kernels, co, depth);
        let kernels = &*kernels;
        let group = plan.group();
        y.par_chunks_mut(group * plan.y_len()).zip(x.par_chunks(group * plan.x_len())).for_each(|(y, x)| {
            let rows = y.len() / co;
            let mut workspace = Workspace::new::<T>(&[rows * depth]);
            let [columns] = workspace.slices::<T, 1>([rows * depth]);
            plan.im2col(x, columns);
            matmul([rows, depth, co], columns, row_major(depth), kernels, row_major(co), y, false);
        });
    });
}

/// `dx [n, h, w, ci]`
pub(super) fn input_grad<T: Float>(plan: &ConvPlan, dy: &[T], w: &[T], dx: &mut [MaybeUninit<T>]) {
    let (depth, co) = (plan.depth(), plan.co);
    plan.with_turned(w, |w| {
        if plan.is_full() {
            return matmul_parallel([plan.n, co, depth], dy, row_major(co), w, row_major(depth), dx);
        }
        let group = plan.group();
        dx.par_chunks_mut(group * plan.x_len()).zip(dy.par_chunks(group * plan.y_len())).for_each(|(dx, dy)| {
            let rows = dy.len() / co;
            let mut workspace = Workspace::new::<T>(&[rows * depth]);
            let [columns] = workspace.slices::<T, 1>([rows * depth]);
            matmul([rows, co, depth], dy, row_major(co), w, row_major(depth), columns, false);
            plan.col2im(columns, dx);
        });
    });
}

/// `dw [co, ci, k, k]`
pub(super) fn weight_grad<T: Float>(plan: &ConvPlan, x: &[T], dy: &[T], dw: &mut [MaybeUninit<T>]) {
    if plan.is_turned() {
        return turned_weight_grad(plan, x, dy, dw);
    }
    let mut workspace = Workspace::new::<T>(&[dw.len()]);
    let [turned] = workspace.slices::<T, 1>([dw.len()]);
    turned_weight_grad(plan, x, dy, turned);
    plan.turn_back(turned, dw);
}

/// `dw [co, k, k, ci]`
fn turned_weight_grad<T: Float, S: Slot<T>>(plan: &ConvPlan, x: &[T], dy: &[T], dw: &mut [S]) {
    let (depth, co) = (plan.depth(), plan.co);
    if plan.is_full() {
        return matmul_parallel([co, plan.n, depth], dy, transposed(co), x, row_major(depth), dw);
    }
    let group = plan.group();
    let len = dw.len();
    // Each sum takes its share of the groups in order; then the sums are added in order.
    let share = plan.n.div_ceil(group).div_ceil(MAX_SUMS) * group;
    let mut sums: Vec<Vec<T>> = x
        .par_chunks(share * plan.x_len())
        .zip(dy.par_chunks(share * plan.y_len()))
        .map(|(x, dy)| {
            filled(len, |dw| {
                for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
                    let rows = dy.len() / co;
                    let mut workspace = Workspace::new::<T>(&[rows * depth]);
                    let [columns] = workspace.slices::<T, 1>([rows * depth]);
                    plan.im2col(x, columns);
                    matmul([co, rows, depth], dy, transposed(co), columns, row_major(depth), dw, index > 0);
                }
            })
        })
        .collect();
    let Some((total, rest)) = sums.split_first_mut() else { return };
    rest.iter().for_each(|sum| add_to(total, sum));
    dw.iter_mut().zip(&*total).for_each(|(to, &from)| to.put(from));
}
