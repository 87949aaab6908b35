//! Convolutions of any kernel and stride as im2col or col2im around gemm, on the CPU.
//!
//! With channels last, the input values that a kernel row meets lie side by side, so im2col is a few straight copies a
//! position, and the product's result is the output as it is, with nothing to be sorted. The batch is cut into groups of
//! images whose columns fit a core's second cache. Where products take bf16, it is the images that are rounded, before im2col; where
//! they take pairs of positions, as for the gradient of kernels, a pair is the same position of two images, or with kernels of 1 two
//! positions side by side.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::factor::{Factor, Layout, Second};
use super::float::{Float, Plain};
use super::kernels::{Kernels, lie_in_order, turn_back};
use super::matrix::{matmul, matmul_parallel};
use super::memory::{Slot, Workspace, zeroed};
use super::strides::{row_major, transposed};
use super::sums::with_sums;
use super::tasks::{MAX_SUMS, vectorised};
use crate::nn::geometry::{ConvPlan, ConvWindow, Resampling};

/// Values of a group's columns: 1 MB in f32.
const CACHED_VALUES: usize = 1 << 18;
/// A product with fewer rows wastes the machine: it reads all kernels for them.
const MIN_ROWS: usize = 256;
/// Values that are copied at once where a kernel row has no more.
const FEW: usize = 16;
/// Values of kernels from which on their gradient is one sum where products wait for memory.
const LARGE: usize = 1 << 19;
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
        let covers = self.positions() == 1 && self.h == self.window.kernel && self.w == self.window.kernel;
        self.window.padding == 0 && covers
    }

    /// Whether every position is for itself: the columns are the images as they are.
    fn is_point(&self) -> bool {
        let ConvWindow { kernel, stride, padding, .. } = self.window;
        (kernel, stride, padding) == (1, 1, 0)
    }

    /// The same convolution, where every position is for itself as an image of its own.
    fn flattened(&self) -> Self {
        if !self.is_point() {
            return *self;
        }
        Self { n: self.n * self.positions(), h: 1, w: 1, out_h: 1, out_w: 1, ..*self }
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

    /// The columns of images, a row for each position, where x has `x_len` values an image. Some of a row after another lie together, as
    /// `pieces` say; what is beyond the depth in the last one is `zero`, as padding is.
    fn im2col<T: Plain>(&self, x: &[T], x_len: usize, columns: &mut [T], pieces: impl Iterator<Item = Range<usize>>, zero: T) {
        let rows = x.len() / x_len * self.positions();
        let mut rest = columns;
        let pieces: Vec<_> = pieces
            .map(|piece| {
                let (columns, remaining) = std::mem::take(&mut rest).split_at_mut(rows * piece.len());
                rest = remaining;
                (piece, columns)
            })
            .collect();
        pieces.into_par_iter().for_each(|(piece, columns)| self.im2col_piece(x, x_len, columns, piece, zero));
    }

    fn im2col_piece<T: Plain>(&self, x: &[T], x_len: usize, columns: &mut [T], piece: Range<usize>, zero: T) {
        let (depth, start, row_len) = (self.depth(), piece.start, piece.len());
        let images = columns.chunks_exact_mut(self.positions() * row_len);
        images.zip(x.chunks_exact(x_len)).for_each(|(columns, x)| {
            self.for_each_run(|run, from| {
                let (row, column) = (run.start / depth, run.start % depth);
                let first = column.max(start);
                let len = (column + run.len()).min(piece.end).saturating_sub(first);
                if len == 0 {
                    return;
                }
                let to = row * row_len + first - start;
                match from.map(|from| from + first - column) {
                    // The call that copies takes longer than so few values do. What is too many is overwritten by the next run.
                    Some(from) if len <= FEW && columns.len() - to >= FEW && x.len() - from >= FEW => {
                        columns[to..to + FEW].copy_from_slice(&x[from..from + FEW]);
                    }
                    Some(from) => columns[to..to + len].copy_from_slice(&x[from..from + len]),
                    None => columns[to..to + len].fill(zero),
                }
            });
            if piece.end > depth {
                columns.chunks_exact_mut(row_len).for_each(|row| row[depth - start..].fill(zero));
            }
        });
    }

    /// Lends the columns of images as the first factor of a product, a row for each position.
    fn lend_columns<F: Factor>(&self, x: &[F::Value], work: impl FnOnce(&[F::Word])) {
        if self.is_point() {
            return F::lend(Layout::Rows, x, self.depth(), work);
        }
        let words = F::words(self.depth());
        let len = x.len() / self.x_len() * self.positions() * words;
        let mut workspace = Workspace::new::<F::Word>(&[len]);
        let [columns] = workspace.slices::<F::Word, 1>([len]);
        let (x_len, row_len) = (F::words(self.x_len()) * F::DEPTH, words * F::DEPTH);
        F::lend_items(x, self.x_len(), |x| self.im2col(x, x_len, F::items(columns), std::iter::once(0..row_len), F::ZERO));
        work(columns);
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

    /// The kernels as `[co, k, k, ci]`, the order of the columns.
    fn kernels<'a, T: Float>(&self, w: &'a [T], widened: Option<Resampling>) -> Kernels<'a, T> {
        Kernels::new(w, [self.co, self.ci], self.window.kernel, widened)
    }
}

/// `y [n, out_h, out_w, co]`
pub(super) fn forward<F: Factor>(
    plan: &ConvPlan,
    x: &[F::Value],
    w: &[F::Value],
    widened: Option<Resampling>,
    y: &mut [MaybeUninit<F::Value>],
) {
    let is_product = plan.is_full();
    let plan = &plan.flattened();
    let (depth, co) = (plan.depth(), plan.co);
    let words = F::words(depth);
    // Every group reads the kernels anew.
    F::lend_transpose(plan.kernels(w, widened), !is_product, |kernels, order| {
        if is_product {
            return F::lend(Layout::Rows, x, depth, |x| {
                matmul_parallel::<F, _>([plan.n, words, co], x, row_major(words), kernels, order, y, false);
            });
        }
        let group = plan.group();
        y.par_chunks_mut(group * plan.y_len()).zip(x.par_chunks(group * plan.x_len())).for_each(|(y, x)| {
            let dims = [y.len() / co, words, co];
            plan.lend_columns::<F>(x, |columns| matmul::<F, _>(dims, columns, row_major(words), kernels, order, y, false));
        });
    });
}

/// `dx [n, h, w, ci]`
pub(super) fn input_grad<F: Factor>(
    plan: &ConvPlan,
    dy: &[F::Value],
    w: &[F::Value],
    widened: Option<Resampling>,
    dx: &mut [MaybeUninit<F::Value>],
) {
    let is_product = plan.is_full();
    let plan = &plan.flattened();
    let (depth, co) = (plan.depth(), plan.co);
    let words = F::words(co);
    F::lend_kernels(plan.kernels(w, widened), |kernels| {
        if is_product {
            return F::lend(Layout::Rows, dy, co, |dy| {
                matmul_parallel::<F, _>([plan.n, words, depth], dy, row_major(words), kernels, Second::Panels, dx, false);
            });
        }
        let group = plan.group();
        dx.par_chunks_mut(group * plan.x_len()).zip(dy.par_chunks(group * plan.y_len())).for_each(|(dx, dy)| {
            let rows = dy.len() / co;
            if plan.is_point() {
                return F::lend(Layout::Rows, dy, co, |dy| {
                    matmul::<F, _>([rows, words, depth], dy, row_major(words), kernels, Second::Panels, dx, false);
                });
            }
            let mut workspace = Workspace::new::<F::Value>(&[rows * depth]);
            let [columns] = workspace.slices::<F::Value, 1>([rows * depth]);
            F::lend(Layout::Rows, dy, co, |dy| {
                matmul::<F, _>([rows, words, depth], dy, row_major(words), kernels, Second::Panels, columns, false);
            });
            plan.col2im(columns, dx);
        });
    });
}

/// `dw [co, ci, k, k]`
pub(super) fn weight_grad<F: Factor>(
    plan: &ConvPlan,
    x: &[F::Value],
    dy: &[F::Value],
    widened: Option<Resampling>,
    dw: &mut [MaybeUninit<F::Value>],
) {
    if lie_in_order(plan.ci, plan.window.kernel, widened) {
        return turned_weight_grad::<F, _>(plan, x, dy, dw);
    }
    let len = plan.co * plan.depth();
    let mut workspace = Workspace::new::<F::Value>(&[len]);
    let [turned] = workspace.slices::<F::Value, 1>([len]);
    turned_weight_grad::<F, _>(plan, x, dy, turned);
    turn_back(turned, [plan.co, plan.ci], plan.window.kernel, widened, dw);
}

/// `dw [co, k, k, ci]`
fn turned_weight_grad<F: Factor, S: Slot<F::Value>>(plan: &ConvPlan, x: &[F::Value], dy: &[F::Value], dw: &mut [S]) {
    let is_product = plan.is_full();
    let plan = &plan.flattened();
    let (depth, co) = (plan.depth(), plan.co);
    if is_product {
        return F::lend(Layout::Panels, x, depth, |x| {
            F::lend(Layout::Columns, dy, co, |dy| {
                let dims = [co, F::words(plan.n), depth];
                matmul_parallel::<F, _>(dims, dy, transposed(co), x, Second::Panels, dw, false);
            });
        });
    }
    let len = dw.len();
    if len >= LARGE && F::outruns_memory() {
        // Of so many images the columns take about as much memory as the kernels' gradient, which is read and written once for
        // them.
        let group = (2 * co).max(MIN_ROWS).div_ceil(plan.positions()).next_multiple_of(F::DEPTH);
        for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
            with_factors::<F>(plan, x, dy, |dims, dy, x| {
                matmul_parallel::<F, _>(dims, dy, transposed(co), x, Second::Panels, dw, index > 0);
            });
        }
        return;
    }
    let group = plan.group().next_multiple_of(F::DEPTH);
    // Each sum takes its share of the groups in order; then the sums are added in order.
    let share = plan.n.div_ceil(group).div_ceil(MAX_SUMS) * group;
    with_sums(
        plan.n.div_ceil(share),
        len,
        |sums| {
            let shares = x.par_chunks(share * plan.x_len()).zip(dy.par_chunks(share * plan.y_len()));
            sums.par_chunks_exact_mut(len).zip(shares).for_each(|(dw, (x, dy))| {
                for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
                    with_factors::<F>(plan, x, dy, |dims, dy, x| {
                        matmul::<F, _>(dims, dy, transposed(co), x, Second::Panels, dw, index > 0);
                    });
                }
            });
        },
        |total| dw.iter_mut().zip(total).for_each(|(to, &from)| to.put(from)),
    );
}

/// Lends the sizes and factors of the product that some images' share of the gradient of kernels is: their gradients,
/// transposed, and their columns.
fn with_factors<F: Factor>(
    plan: &ConvPlan,
    x: &[F::Value],
    dy: &[F::Value],
    work: impl FnOnce([usize; 3], &[F::Word], &[F::Word]),
) {
    let (depth, co) = (plan.depth(), plan.co);
    let words = F::words(dy.len() / plan.y_len()) * plan.positions();
    let dims = [co, words, depth];
    if plan.is_point() {
        return F::lend(Layout::Panels, x, depth, |x| F::lend(Layout::Columns, dy, co, |dy| work(dims, dy, x)));
    }
    let mut workspace = Workspace::new::<F::Word>(&[words * depth]);
    let [columns] = workspace.slices::<F::Word, 1>([words * depth]);
    let pieces = F::pieces(Layout::Panels, depth);
    F::lend(Layout::Columns, x, plan.x_len(), |x| plan.im2col(x, plan.x_len(), columns, pieces, F::NOTHING));
    F::lend(Layout::Columns, dy, plan.y_len(), |dy| work(dims, dy, columns));
}
