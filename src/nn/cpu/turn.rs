//! Transposes of matrices, sixteen by sixteen words at once where the CPU has AVX-512.

use super::float::Plain;
use super::memory::Slot;
use super::tasks::{LINES, vectorised};

/// Writes the transpose of `[rows, columns]`, whose rows are `from_step` apart, as rows that are `to_step` apart.
pub(super) fn transpose<T: Plain, S: Slot<T>>(
    from: &[T],
    from_step: usize,
    to: &mut [S],
    to_step: usize,
    [rows, columns]: [usize; 2],
) {
    if rows * columns == 0 {
        return;
    }
    assert!((rows - 1) * from_step + columns <= from.len() && (columns - 1) * to_step + rows <= to.len());
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == size_of::<u32>() && is_x86_feature_detected!("avx512f") {
        // SAFETY: words are words, all of them are there, and the CPU has the instructions.
        return unsafe { words::transpose(from.as_ptr().cast(), from_step, to.as_mut_ptr().cast(), to_step, [rows, columns]) };
    }
    vectorised(|| {
        for start in (0..rows).step_by(LINES) {
            let end = rows.min(start + LINES);
            for (column, to) in to.chunks_mut(to_step).take(columns).enumerate() {
                for (to, row) in to[start..end].iter_mut().zip(start..) {
                    to.put(from[row * from_step + column]);
                }
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod words {
    use std::arch::x86_64::{
        __m512i, _mm512_mask_storeu_epi32, _mm512_maskz_loadu_epi32, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32,
        _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use crate::nn::cpu::bf16::mask;

    /// Words of a register, and registers.
    const SIDE: usize = 16;

    /// As [`super::transpose`].
    ///
    /// # Safety
    /// All words must be there, and the CPU must have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose(from: *const i32, from_step: usize, to: *mut i32, to_step: usize, [rows, columns]: [usize; 2]) {
        for row in (0..rows).step_by(SIDE) {
            for column in (0..columns).step_by(SIDE) {
                let (down, along) = ((rows - row).min(SIDE), (columns - column).min(SIDE));
                // In registers, for every line's number is known when this is compiled. What is beyond is masked, or not
                // stored.
                let tile: [__m512i; SIDE] = std::array::from_fn(|line| {
                    let (at, lanes) = if line < down { (line, mask(along)) } else { (0, 0) };
                    // SAFETY: the masks keep within the rows and columns that the caller answers for.
                    unsafe { _mm512_maskz_loadu_epi32(lanes, from.add((row + at) * from_step + column)) }
                });
                for (line, tile) in turned(tile).into_iter().enumerate() {
                    if line < along {
                        // SAFETY: as above.
                        unsafe { _mm512_mask_storeu_epi32(to.add((column + line) * to_step + row), mask(down), tile) };
                    }
                }
            }
        }
    }

    /// The transpose of 16 × 16 words: pairs of rows are interleaved, then pairs of pairs; then quarters of registers change
    /// places, twice.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turned(rows: [__m512i; SIDE]) -> [__m512i; SIDE] {
        let mut pairs = rows;
        for i in (0..SIDE).step_by(2) {
            pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
        }
        // Of four rows each: column 4 q + j in quarter q of the j-th.
        let mut fours = pairs;
        for i in (0..SIDE).step_by(4) {
            fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
        }
        let mut columns = fours;
        for j in 0..4 {
            let halves = [[fours[j], fours[4 + j]], [fours[8 + j], fours[12 + j]]];
            let evens = halves.map(|[a, b]| _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b));
            let odds = halves.map(|[a, b]| _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b));
            columns[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(evens[0], evens[1]);
            columns[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odds[0], odds[1]);
            columns[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(evens[0], evens[1]);
            columns[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odds[0], odds[1]);
        }
        columns
    }
}
