//! Groups whose channels are multiplied in bf16, pair by pair, with AVX512-BF16 (`cpu::bf16` says what the instruction does).
//!
//! Forward and to the input, a word holds two channels that are gathered from; for the gradient of kernels, the values of a channel at
//! two positions that follow one another in a row of the output.

use std::arch::x86_64::{
    __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_loadu_epi32, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::mem::{MaybeUninit, transmute};

use super::{Gather, Grouped, Line, Part, amx};
use crate::nn::cpu::bf16::mask;
use crate::nn::cpu::factor::{Bf16, LANES, narrow, narrow_two, pair_rows, rounded};

/// Positions of the output that a block of lines has at least, where there are as many: their sums are added to those in memory at once.
const BLOCK: usize = 64;

impl Grouped for Bf16 {
    fn item(value: f32) -> u16 {
        (rounded(value) >> 16) as u16
    }

    fn row(from: &[f32], to: &mut [u16]) {
        narrow(from, to);
    }

    fn gather(form: &Gather, line: &Line, frame: &[u32], kernels: &[u32], to: &mut [MaybeUninit<f32>]) {
        if amx::takes(form, line) {
            return amx::gather_line(form, line, frame, kernels, to);
        }
        // SAFETY: the CPU has the instructions (see `conv`).
        unsafe { gather_line(form, line, frame, kernels, to) }
    }

    fn gradient_memory(form: &Gather) -> [usize; 2] {
        [form.frame.len(), form.lines.len() * gradient_len(form) + LANES]
    }

    fn add_gradient(form: &Gather, x: &[f32], dy: &[f32], [frame, gradient]: [&mut [u32]; 2], sums: &mut [f32]) {
        let Some(line) = form.lines.first() else { return };
        let (from_step, to_step) = (line.from_step, line.to_step);
        fill_pairs(form, x, from_step, frame);
        let rows = gradient.chunks_exact_mut(gradient_len(form)).zip(dy.chunks_exact(line.count * to_step));
        rows.for_each(|(to, dy)| narrow_two(dy, to_step, 0..to_step, to));
        let lines = BLOCK.div_ceil(line.count);
        // SAFETY: the CPU has the instructions (see `conv`).
        form.lines.chunks(lines).for_each(|lines| unsafe { grad_lines(form, lines, frame, gradient, sums) });
    }
}

/// Words of a line's gradient.
fn gradient_len(form: &Gather) -> usize {
    form.lines.first().map_or(0, |line| line.count.div_ceil(2) * line.to_step)
}

/// Every value of an image's frame with the one a step behind it.
fn fill_pairs(form: &Gather, x: &[f32], step: usize, to: &mut [u32]) {
    let frame = &form.frame;
    let (len, width) = (frame.size[1] * frame.channels, frame.framed[1] * frame.channels);
    let first = frame.before * frame.channels;
    let mut row = vec![0.0; width.max(first + len) + step];
    let mut maps = x.chunks_exact(len);
    for (at, to) in to.chunks_exact_mut(width).take(frame.framed[0]).enumerate() {
        match (frame.before..frame.before + frame.size[0]).contains(&at).then(|| maps.next()).flatten() {
            Some(map) => {
                row[first..first + len].copy_from_slice(map);
                pair_rows(&row[..width], &row[step..step + width], to);
            }
            None => to.fill(0),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn gather_line(form: &Gather, line: &Line, frame: &[u32], kernels: &[u32], to: &mut [MaybeUninit<f32>]) {
    let made = form.channels[1];
    for group in 0..form.groups {
        for first in (0..made).step_by(LANES) {
            let mut start = 0;
            while start < line.count {
                let of = Part { group, first, start };
                // SAFETY: the CPU has the instructions.
                start += unsafe {
                    match line.count - start {
                        8.. => positions::<8>(form, line, &of, frame, kernels, to),
                        4.. => positions::<4>(form, line, &of, frame, kernels, to),
                        2.. => positions::<2>(form, line, &of, frame, kernels, to),
                        _ => positions::<1>(form, line, &of, frame, kernels, to),
                    }
                };
            }
        }
    }
}

/// Gathers P positions of a line; gives P.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn positions<const P: usize>(
    form: &Gather,
    line: &Line,
    of: &Part,
    frame: &[u32],
    kernels: &[u32],
    to: &mut [MaybeUninit<f32>],
) -> usize {
    let [from_len, made] = form.channels;
    let (tap_len, width) = (form.tap_len(), made.next_multiple_of(LANES));
    let kernels = &kernels[of.group * form.area * tap_len..][..form.area * tap_len];
    let mut sums = [_mm512_setzero_ps(); P];
    for &(place, tap) in &line.taps {
        let start = place + of.start * line.from_step + of.group * from_len;
        let from = &frame[start..start + (P - 1) * line.from_step + from_len];
        let kernel = &kernels[tap * tap_len + of.first..][..(from_len - 1) * width + LANES];
        for word in 0..from_len {
            // SAFETY: the slices reach to the last word of the last position, and to the last word's register.
            let (from, kernel) = unsafe { (from.as_ptr().add(word), words(kernel.as_ptr().add(word * width))) };
            for (at, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                *sum = unsafe { _mm512_dpbf16_ps(*sum, spread(*from.add(at * line.from_step)), kernel) };
            }
        }
    }
    let lanes = LANES.min(made - of.first);
    for (at, &sum) in sums.iter().enumerate() {
        let to = &mut to[line.to + (of.start + at) * line.to_step + of.group * made + of.first..][..lanes];
        // SAFETY: as many lanes as there is room for.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().cast(), mask(lanes), sum) };
    }
    P
}

/// Adds what some lines have of the gradient of all kernels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn grad_lines(form: &Gather, lines: &[Line], frame: &[u32], gradient: &[u32], sums: &mut [f32]) {
    let [from_len, made] = form.channels;
    for group in 0..form.groups {
        for tap in 0..form.area {
            for first in (0..made).step_by(LANES) {
                let mut start = 0;
                while start < from_len {
                    let of = Part { group, first, start };
                    // SAFETY: the CPU has the instructions.
                    start += unsafe {
                        match from_len - start {
                            16.. => channels::<16>(form, lines, tap, &of, frame, gradient, sums),
                            8.. => channels::<8>(form, lines, tap, &of, frame, gradient, sums),
                            4.. => channels::<4>(form, lines, tap, &of, frame, gradient, sums),
                            2.. => channels::<2>(form, lines, tap, &of, frame, gradient, sums),
                            _ => channels::<1>(form, lines, tap, &of, frame, gradient, sums),
                        }
                    };
                }
            }
        }
    }
}

/// Adds what some lines have of the gradient of C channels of a tap's kernels; gives C.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn channels<const C: usize>(
    form: &Gather,
    lines: &[Line],
    tap: usize,
    of: &Part,
    frame: &[u32],
    gradient: &[u32],
    sums: &mut [f32],
) -> usize {
    let [from_len, made] = form.channels;
    let (tap_len, width) = (form.tap_len(), made.next_multiple_of(LANES));
    let mut tile = [_mm512_setzero_ps(); C];
    for line in lines {
        let pairs = line.count.div_ceil(2);
        let start = line.taps[tap].0 + of.group * from_len + of.start;
        let from = &frame[start..start + 2 * (pairs - 1) * line.from_step + C];
        let start = line.to / (line.count * line.to_step) * gradient_len(form) + of.group * made + of.first;
        let gradient = &gradient[start..start + (pairs - 1) * line.to_step + LANES];
        for pair in 0..pairs {
            // SAFETY: the slices reach to the last pair's last channel and register.
            let (from, gradient) =
                unsafe { (from.as_ptr().add(2 * pair * line.from_step), words(gradient.as_ptr().add(pair * line.to_step))) };
            for (at, tile) in tile.iter_mut().enumerate() {
                // SAFETY: as above.
                *tile = unsafe { _mm512_dpbf16_ps(*tile, spread(*from.add(at)), gradient) };
            }
        }
    }
    let kernel = &mut sums[(of.group * form.area + tap) * tap_len..][..tap_len];
    for (at, &tile) in tile.iter().enumerate() {
        let kernel = &mut kernel[(of.start + at) * width + of.first..][..LANES];
        // SAFETY: a register of them.
        unsafe { _mm512_storeu_ps(kernel.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(kernel.as_ptr()), tile)) };
    }
    C
}

/// A register of words.
///
/// # Safety
/// They must be there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn words(from: *const u32) -> __m512bh {
    // SAFETY: the caller answers for them; any bits are a value.
    unsafe { transmute(_mm512_loadu_epi32(from.cast())) }
}

/// A register of one word.
#[inline]
#[target_feature(enable = "avx512f")]
fn spread(word: u32) -> __m512bh {
    // SAFETY: any bits are a value.
    unsafe { transmute(_mm512_set1_epi32(word as i32)) }
}
