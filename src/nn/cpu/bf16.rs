//! Products of bf16 pairs with AVX512-BF16.
//!
//! `vdpbf16ps` multiplies two pairs and adds both products to an f32, first that of the second values, then that of the first: each
//! product is exact, each sum rounded to the nearest f32; what is below the normal numbers is taken and given as 0 (Intel's Software
//! Developer's Manual, VDPBF16PS; AMD's Zen 4 gives the same bits). A sum runs along the whole inner dimension in its order, so its bits
//! depend on nothing else.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _mm256_mask_storeu_epi16, _mm512_add_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_epi32, _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_or_epi32, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::mem::transmute;
use std::ops::Range;

use super::strides::Strides;

/// What of the instructions this CPU lacks; empty where it has them.
pub(in crate::nn) fn lacking() -> Vec<&'static str> {
    let has = [
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    has.into_iter().filter(|(_, has)| !has).map(|(name, _)| name).collect()
}

/// Lanes of a register of f32.
const LANES: usize = 16;
/// Registers of sums beside one another, and rows of them: 24 sums hide the latency of one, and as many values are loaded for them as
/// can be in the time.
const WIDTH: usize = 4;
const ROWS: usize = 6;
/// Columns of a panel of a second factor.
pub(super) const PANEL: usize = WIDTH * LANES;

/// The first `len` lanes, all if there are more.
pub(super) fn mask(len: usize) -> u16 {
    if len >= LANES { u16::MAX } else { (1 << len) - 1 }
}

/// These columns, which begin with a panel, of `c (m × n) = a (m × words) · b (words × n, in panels)`, or of `c += a · b`.
///
/// # Safety
/// What is read of `a` and `b` must be there, what is written of `c` the caller's alone.
pub(super) unsafe fn multiply(
    [m, words, n]: [usize; 3],
    columns: Range<usize>,
    a: &[u32],
    sa: Strides,
    b: &[u32],
    c: *mut f32,
    add: bool,
) {
    for column in columns.step_by(PANEL) {
        let width = (n - column).min(PANEL);
        for row in (0..m).step_by(ROWS) {
            let rows = (m - row).min(ROWS);
            let block = Block {
                words,
                a: a.as_ptr().wrapping_add(row * sa.row_step),
                sa,
                b: b.as_ptr().wrapping_add(column * words),
                b_row: width,
                c: c.wrapping_add(row * n + column),
                row_len: n,
                last: mask(width - (width - 1) / LANES * LANES),
                add,
            };
            // SAFETY: the block lies within what the caller answers for.
            unsafe { block.multiply(rows, width) }
        }
    }
}

/// A block of a product whose sums fit the registers.
struct Block {
    words: usize,
    a: *const u32,
    sa: Strides,
    b: *const u32,
    b_row: usize,
    c: *mut f32,
    row_len: usize,
    /// The lanes of the last register that belong to it.
    last: u16,
    add: bool,
}

impl Block {
    /// # Safety
    /// As of [`multiply`].
    unsafe fn multiply(&self, rows: usize, columns: usize) {
        /// By the number of rows.
        macro_rules! of_rows {
            ($width:literal, $full:literal) => {
                match rows {
                    1 => self.sums::<1, $width, $full>(),
                    2 => self.sums::<2, $width, $full>(),
                    3 => self.sums::<3, $width, $full>(),
                    4 => self.sums::<4, $width, $full>(),
                    5 => self.sums::<5, $width, $full>(),
                    _ => self.sums::<6, $width, $full>(),
                }
            };
        }
        // SAFETY: the CPU has the instructions (see `conv`); the caller answers for the rest.
        unsafe {
            match (columns.div_ceil(LANES), self.last) {
                (1, _) => of_rows!(1, false),
                (2, _) => of_rows!(2, false),
                (3, _) => of_rows!(3, false),
                (_, u16::MAX) => of_rows!(4, true),
                _ => of_rows!(4, false),
            }
        }
    }

    /// # Safety
    /// As of [`multiply`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn sums<const R: usize, const W: usize, const FULL: bool>(&self) {
        let mut sums = [[_mm512_setzero_ps(); W]; R];
        let lanes = |index: usize| if FULL || index + 1 < W { u16::MAX } else { self.last };
        for word in 0..self.words {
            // SAFETY: the mask keeps within the rows, which the caller answers for.
            unsafe {
                let b = self.b.add(word * self.b_row);
                let b: [__m512bh; W] = std::array::from_fn(|index| {
                    let at = b.wrapping_add(index * LANES).cast();
                    transmute(if FULL { _mm512_loadu_epi32(at) } else { _mm512_maskz_loadu_epi32(lanes(index), at) })
                });
                let a = self.a.add(word * self.sa.column_step);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a: __m512bh = transmute(_mm512_set1_epi32(*a.add(row * self.sa.row_step) as i32));
                    for (sum, &b) in sums.iter_mut().zip(&b) {
                        *sum = _mm512_dpbf16_ps(*sum, a, b);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (index, &sum) in sums.iter().enumerate() {
                // SAFETY: as above.
                unsafe {
                    let to = self.c.add(row * self.row_len).wrapping_add(index * LANES);
                    let sum = if self.add { _mm512_add_ps(_mm512_maskz_loadu_ps(lanes(index), to), sum) } else { sum };
                    _mm512_mask_storeu_ps(to, lanes(index), sum);
                }
            }
        }
    }
}

/// Rounds a row to the nearest bf16, of two equally near the even one; what is below the normal numbers becomes 0, and what is not a
/// number stays so (Intel's Software Developer's Manual, VCVTNEPS2BF16). What is left of `to` becomes 0.
///
/// # Safety
/// The CPU must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn narrow(from: &[f32], to: &mut [u16]) {
    let (to, rest) = to.split_at_mut(from.len());
    for (to, from) in to.chunks_mut(LANES).zip(from.chunks(LANES)) {
        let lanes = mask(from.len());
        // SAFETY: as many lanes as there are values; any bits are a value.
        unsafe {
            let narrow = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, from.as_ptr()));
            _mm256_mask_storeu_epi16(to.as_mut_ptr().cast(), lanes, transmute::<__m256bh, __m256i>(narrow));
        }
    }
    rest.fill(0);
}

/// Rounds two rows likewise, into pairs; the second may be empty, which is one of zeros.
///
/// # Safety
/// The CPU must have the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn pair_rows(first: &[f32], second: &[f32], to: &mut [u32]) {
    let len = to.len().min(first.len());
    for start in (0..len).step_by(LANES) {
        let lanes = mask(len - start);
        let of_second = mask(second.len().saturating_sub(start)) & lanes;
        // SAFETY: as many lanes as there are values.
        unsafe {
            let low = narrowed(_mm512_maskz_loadu_ps(lanes, first.as_ptr().wrapping_add(start)));
            let high = narrowed(_mm512_maskz_loadu_ps(of_second, second.as_ptr().wrapping_add(start)));
            let pairs = _mm512_or_epi32(low, _mm512_slli_epi32::<16>(high));
            _mm512_mask_storeu_epi32(to.as_mut_ptr().wrapping_add(start).cast(), lanes, pairs);
        }
    }
}

/// Values rounded, each in the lower half of a lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn narrowed(values: __m512) -> __m512i {
    // SAFETY: of the same size, and any bits are a value.
    unsafe { _mm512_cvtepu16_epi32(transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values))) }
}
