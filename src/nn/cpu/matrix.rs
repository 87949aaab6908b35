//! Products of matrices in slices.

use rayon::prelude::*;

use super::factor::{Factor, Second};
use super::memory::{Shared, Slot};
use super::strides::Strides;

/// Whether the factors of a product are there.
fn are_there<F: Factor>([m, words, n]: [usize; 3], a: &[F::Word], sa: Strides, b: &[F::Word]) -> bool {
    let last = m.saturating_sub(1) * sa.row_step + words.saturating_sub(1) * sa.column_step;
    (m * words == 0 || last < a.len()) && words * n <= b.len()
}

/// `c (m × n, row-major) = a (m × words) · b (words × n)`, or, where c has been written, `c += a · b`. One thread.
pub(super) fn matmul<F: Factor, S: Slot<F::Value>>(
    dims: [usize; 3],
    a: &[F::Word],
    sa: Strides,
    b: &[F::Word],
    order: Second,
    c: &mut [S],
    add: bool,
) {
    let [m, _, n] = dims;
    assert!(c.len() >= m * n && are_there::<F>(dims, a, sa, b));
    // SAFETY: `c` holds m rows of n and is borrowed exclusively; the factors are there.
    unsafe { F::multiply(dims, 0..n, a, sa, b, order, c.as_mut_ptr().cast(), add) }
}

/// Multiplications below which a block of a product is not worth a task.
const BLOCK_WORK: usize = 1 << 20;
/// Rows that a product may be cut at multiples of.
const ROWS: usize = 32;
/// Blocks that a product is cut into at most.
const MAX_BLOCKS: usize = 32;

/// As [`matmul`], on all threads: in blocks of the longer side of `c`, so that little is packed twice.
pub(super) fn matmul_parallel<F: Factor, S: Slot<F::Value>>(
    dims: [usize; 3],
    a: &[F::Word],
    sa: Strides,
    b: &[F::Word],
    order: Second,
    c: &mut [S],
    add: bool,
) {
    let [m, words, n] = dims;
    assert!(c.len() >= m * n && are_there::<F>(dims, a, sa, b));
    let blocks = (m * words * F::DEPTH * n / BLOCK_WORK).clamp(1, MAX_BLOCKS);
    let c = Shared(c.as_mut_ptr().cast::<F::Value>());
    let by_columns = n >= m;
    let (side, step) = if by_columns { (n, F::STEP) } else { (m, ROWS) };
    let block = side.div_ceil(blocks).next_multiple_of(step);
    F::lend_first(dims, a, sa, |a, sa| {
        (0..side.div_ceil(block)).into_par_iter().for_each(|index| {
            let start = index * block;
            let end = side.min(start + block);
            // SAFETY: the blocks are disjoint, and within the m × n values of `c` and what the assertion has found of the
            // factors.
            unsafe {
                if by_columns {
                    F::multiply(dims, start..end, a, sa, b, order, c.at(0), add)
                } else {
                    F::multiply([end - start, words, n], 0..n, &a[start * sa.row_step..], sa, b, order, c.at(start * n), add)
                }
            }
        });
    });
}
