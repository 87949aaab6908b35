//! Products and transposes of matrices in slices.

use rayon::prelude::*;

use super::factor::Factor;
use super::float::Float;
use super::memory::Slot;
use super::strides::Strides;
use super::tasks::LINES;

fn fits(len: usize, rows: usize, columns: usize, s: Strides) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * s.row_step + (columns - 1) * s.column_step < len
}

/// `c (m × n, row-major) = a (m × words) · b (words × n)`, or, where c has been written, `c += a · b`. One thread.
pub(super) fn matmul<F: Factor, S: Slot<F::Value>>(
    [m, words, n]: [usize; 3],
    a: &[F::Word],
    sa: Strides,
    b: &[F::Word],
    sb: Strides,
    c: &mut [S],
    add: bool,
) {
    assert!(c.len() >= m * n && fits(a.len(), m, words, sa) && fits(b.len(), words, n, sb));
    // SAFETY: `c` holds m rows of n and is borrowed exclusively; the factors are there.
    unsafe { F::multiply([m, words, n], a, sa, b, sb, c.as_mut_ptr().cast(), n, add) }
}

/// Multiplications below which a block of a product is not worth a task.
const BLOCK_WORK: usize = 1 << 20;
/// Blocks that a product is cut into at most.
const MAX_BLOCKS: usize = 32;

/// As [`matmul`] without adding, on all threads: in blocks of the longer side of `c`, so that little is packed twice.
pub(super) fn matmul_parallel<F: Factor, S: Slot<F::Value>>(
    [m, words, n]: [usize; 3],
    a: &[F::Word],
    sa: Strides,
    b: &[F::Word],
    sb: Strides,
    c: &mut [S],
) {
    /// A pointer that tasks may share: each writes its own block.
    struct Shared<T>(*mut T);
    // SAFETY: only ever used for disjoint blocks.
    unsafe impl<T> Sync for Shared<T> {}
    impl<T> Shared<T> {
        fn at(&self, offset: usize) -> *mut T {
            self.0.wrapping_add(offset)
        }
    }

    assert!(c.len() >= m * n && fits(a.len(), m, words, sa) && fits(b.len(), words, n, sb));
    let blocks = (m * words * F::DEPTH * n / BLOCK_WORK).clamp(1, MAX_BLOCKS);
    let c = Shared(c.as_mut_ptr().cast::<F::Value>());
    let by_columns = n >= m;
    let side = if by_columns { n } else { m };
    let block = side.div_ceil(blocks).next_multiple_of(16);
    (0..side.div_ceil(block)).into_par_iter().for_each(|index| {
        let (start, len) = (index * block, block.min(side - index * block));
        // SAFETY: the blocks are disjoint, and within the m × n values of `c` and what the assertion has found of the factors.
        unsafe {
            if by_columns {
                F::multiply([m, words, len], a, sa, &b[start * sb.column_step..], sb, c.at(start), n, false)
            } else {
                F::multiply([len, words, n], &a[start * sa.row_step..], sa, b, sb, c.at(start * n), n, false)
            }
        }
    });
}

/// `[rows, columns]` → `[columns, rows]`
pub(crate) fn transpose<T: Float, S: Slot<T>>(from: &[T], to: &mut [S], rows: usize, columns: usize) {
    if rows == 1 || columns == 1 {
        to.iter_mut().zip(from).for_each(|(to, &from)| to.put(from));
        return;
    }
    for start in (0..rows).step_by(LINES) {
        let end = rows.min(start + LINES);
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            for (to, row) in to[start..end].iter_mut().zip(start..) {
                to.put(from[row * columns + column]);
            }
        }
    }
}
