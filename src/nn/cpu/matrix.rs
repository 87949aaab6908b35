//! Products and transposes of matrices in slices.

use gemm::Parallelism;
use rayon::prelude::*;

use super::float::Float;
use super::memory::Slot;
use super::tasks::LINES;

/// A matrix in a slice: element (i, j) is at `i · row_step + j · column_step`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    row_step: usize,
    column_step: usize,
}

/// A matrix of rows one behind the other.
pub(crate) const fn row_major(row_len: usize) -> Strides {
    Strides { row_step: row_len, column_step: 1 }
}

/// The transpose of a matrix whose rows lie one behind the other.
pub(crate) const fn transposed(row_len: usize) -> Strides {
    Strides { row_step: 1, column_step: row_len }
}

fn fits(len: usize, rows: usize, columns: usize, s: Strides) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * s.row_step + (columns - 1) * s.column_step < len
}

/// `c (m × n, row-major) = a (m × k) · b (k × n)`, or, where c has been written, `c += a · b`. One thread.
pub(crate) fn matmul<T: Float, S: Slot<T>>(
    [m, k, n]: [usize; 3],
    a: &[T],
    sa: Strides,
    b: &[T],
    sb: Strides,
    c: &mut [S],
    add: bool,
) {
    assert!(c.len() >= m * n);
    // SAFETY: `c` holds m rows of n and is borrowed exclusively.
    unsafe { matmul_into([m, k, n], a, sa, b, sb, c.as_mut_ptr().cast::<T>(), n, add) }
}

/// # Safety
/// The m rows of n values, `row_len` apart, that begin at `c` must be ours alone.
#[allow(clippy::too_many_arguments)]
unsafe fn matmul_into<T: Float>(
    [m, k, n]: [usize; 3],
    a: &[T],
    sa: Strides,
    b: &[T],
    sb: Strides,
    c: *mut T,
    row_len: usize,
    add: bool,
) {
    assert!(fits(a.len(), m, k, sa) && fits(b.len(), k, n, sb));
    // SAFETY: the assertion keeps what gemm reads within its slices; the caller answers for what it writes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            row_len as isize,
            add,
            a.as_ptr(),
            sa.column_step as isize,
            sa.row_step as isize,
            b.as_ptr(),
            sb.column_step as isize,
            sb.row_step as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Multiplications below which a block of a product is not worth a task.
const BLOCK_WORK: usize = 1 << 20;
/// Blocks that a product is cut into at most.
const MAX_BLOCKS: usize = 32;

/// As [`matmul`] without adding, on all threads: in blocks of the longer side of `c`, so that little is packed twice.
pub(crate) fn matmul_parallel<T: Float, S: Slot<T>>(
    [m, k, n]: [usize; 3],
    a: &[T],
    sa: Strides,
    b: &[T],
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

    assert!(c.len() >= m * n && fits(a.len(), m, k, sa) && fits(b.len(), k, n, sb));
    let blocks = (m * k * n / BLOCK_WORK).clamp(1, MAX_BLOCKS);
    let c = Shared(c.as_mut_ptr().cast::<T>());
    let by_columns = n >= m;
    let side = if by_columns { n } else { m };
    let block = side.div_ceil(blocks).next_multiple_of(16);
    (0..side.div_ceil(block)).into_par_iter().for_each(|index| {
        let (start, len) = (index * block, block.min(side - index * block));
        // SAFETY: the blocks are disjoint, and within the m × n values of `c`.
        unsafe {
            if by_columns {
                matmul_into([m, k, len], a, sa, &b[start * sb.column_step..], sb, c.at(start), n, false)
            } else {
                matmul_into([len, k, n], &a[start * sa.row_step..], sa, b, sb, c.at(start * n), n, false)
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
