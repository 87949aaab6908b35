//! Products of bf16 pairs with AVX512-BF16, and the roundings before them.
//!
//! `vdpbf16ps` multiplies two pairs and adds both products to an f32, first that of the second values, then that of the first: each
//! product is exact, each sum rounded to the nearest f32; what is below the normal numbers is taken and given as 0 (Intel's Software
//! Developer's Manual, VDPBF16PS; AMD's Zen 4 gives the same bits). A sum runs along the whole inner dimension in its order, so its bits
//! depend on nothing else.

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _mm256_mask_storeu_epi16, _mm256_storeu_si256, _mm512_add_ps,
    _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_loadu_epi32, _mm512_loadu_ps, _mm512_mask_storeu_epi32,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_permutexvar_epi16, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_epi32,
};
use std::mem::transmute;

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

/// The first `len` lanes, all if there are more.
fn mask(len: usize) -> u16 {
    if len >= LANES { u16::MAX } else { (1 << len) - 1 }
}

/// Rounds values to the nearest bf16, of two equally near to the even one. What is left of `to` becomes 0.
pub(super) fn narrow(from: &[f32], to: &mut [u16]) {
    assert!(from.len() <= to.len());
    // SAFETY: this is only called where the CPU has the instructions (see `conv`), and the slices are long enough.
    unsafe { narrow_row(from, to.as_mut_ptr()) }
    to[from.len()..].fill(0);
}

/// As [`narrow`], of two rows whose values become pairs; of the second one some may be missing, which are 0 then.
pub(super) fn narrow_two(first: &[f32], second: &[f32], to: &mut [u32]) {
    assert!(first.len() == to.len() && second.len() <= to.len());
    // SAFETY: as above.
    unsafe { narrow_rows(first, second, to.as_mut_ptr()) }
}

/// # Safety
/// `to` must have room for as many values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn narrow_row(from: &[f32], to: *mut u16) {
    let (whole, rest) = from.as_chunks::<LANES>();
    // SAFETY: the mask keeps within the slice, and the caller answers for `to`.
    unsafe {
        for (index, values) in whole.iter().enumerate() {
            let narrow = _mm512_cvtneps_pbh(_mm512_loadu_ps(values.as_ptr()));
            _mm256_storeu_si256(to.add(index * LANES).cast(), transmute::<__m256bh, __m256i>(narrow));
        }
        if !rest.is_empty() {
            let narrow = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask(rest.len()), rest.as_ptr()));
            _mm256_mask_storeu_epi16(
                to.add(whole.len() * LANES).cast(),
                mask(rest.len()),
                transmute::<__m256bh, __m256i>(narrow),
            );
        }
    }
}

/// # Safety
/// `to` must have room for as many pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn narrow_rows(first: &[f32], second: &[f32], to: *mut u32) {
    // Of 32 values, those of the first row and those of the second in turn.
    let order: [u16; 2 * LANES] = std::array::from_fn(|lane| (lane / 2 + lane % 2 * LANES) as u16);
    // SAFETY: of the same size.
    let order: __m512i = unsafe { transmute(order) };
    let together = |first: __m512, second: __m512| -> __m512i {
        // SAFETY: of the same size.
        _mm512_permutexvar_epi16(order, unsafe { transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) })
    };
    let whole = second.len().min(first.len()) / LANES * LANES;
    // SAFETY: the masks keep within the slices, and the caller answers for `to`.
    unsafe {
        for index in (0..whole).step_by(LANES) {
            let both = together(_mm512_loadu_ps(first.as_ptr().add(index)), _mm512_loadu_ps(second.as_ptr().add(index)));
            _mm512_storeu_epi32(to.add(index).cast(), both);
        }
        for index in (whole..first.len()).step_by(LANES) {
            let here = mask(first.len() - index);
            let there = mask(second.len().saturating_sub(index));
            let first = _mm512_maskz_loadu_ps(here, first.as_ptr().add(index));
            let second = _mm512_maskz_loadu_ps(there, second.as_ptr().wrapping_add(index));
            _mm512_mask_storeu_epi32(to.add(index).cast(), here, together(first, second));
        }
    }
}

/// `c (m × n, rows row_len apart) = a (m × words) · b (words × n, rows b_row apart)`, or `c += a · b`.
///
/// # Safety
/// What is read of `a` and `b` must be there, what is written of `c` the caller's alone.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn multiply(
    [m, words, n]: [usize; 3],
    a: &[u32],
    sa: Strides,
    b: &[u32],
    b_row: usize,
    c: *mut f32,
    row_len: usize,
    add: bool,
) {
    for column in (0..n).step_by(WIDTH * LANES) {
        let columns = (n - column).min(WIDTH * LANES);
        for row in (0..m).step_by(ROWS) {
            let rows = (m - row).min(ROWS);
            let block = Block {
                words,
                a: a.as_ptr().wrapping_add(row * sa.row_step),
                sa,
                b: b.as_ptr().wrapping_add(column),
                b_row,
                c: c.wrapping_add(row * row_len + column),
                row_len,
                last: mask(columns - (columns - 1) / LANES * LANES),
                add,
            };
            // SAFETY: the block lies within what the caller answers for.
            unsafe { block.multiply(rows, columns) }
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
