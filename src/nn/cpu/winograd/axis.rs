//! What the forms do along one axis, some channels at a time, in registers.

use super::Term;
use crate::nn::cpu::factor::{Factor, LANES, Layout};
use crate::nn::cpu::float::Float;

/// What a form does along one axis: parts of samples, and back. Written out, so that a few channels of all of them stay in registers.
pub(super) trait Axis {
    /// Samples that a tile reaches.
    const SAMPLES: usize;
    /// From a tile's first sample to that of the next.
    const STEP: usize;
    /// Parts of the three positions.
    const COUNTS: [usize; 3];
    /// Parts of all three positions, one after the other.
    const PARTS: usize = Self::COUNTS[0] + Self::COUNTS[1] + Self::COUNTS[2];

    /// Parts of samples.
    fn parts<T: Float>(samples: &Chunks<T>) -> Chunks<T>;

    /// The transpose: what parts say of samples.
    fn samples<T: Float>(parts: &Chunks<T>) -> Chunks<T>;
}

/// A few channels of samples or parts, of which there are no more.
pub(super) type Chunks<T> = [[T; LANES]; 8];

#[inline(always)]
fn minus<T: Float>(a: [T; LANES], b: [T; LANES]) -> [T; LANES] {
    let mut difference = a;
    for lane in 0..LANES {
        difference[lane] -= b[lane];
    }
    difference
}

#[inline(always)]
fn plus<T: Float>(a: [T; LANES], b: [T; LANES]) -> [T; LANES] {
    let mut sum = a;
    for lane in 0..LANES {
        sum[lane] += b[lane];
    }
    sum
}

/// Of `KERNEL_3`.
pub(super) struct Axis3;

impl Axis for Axis3 {
    const SAMPLES: usize = 5;
    const STEP: usize = 4;
    const COUNTS: [usize; 3] = [2, 1, 2];

    #[inline(always)]
    fn parts<T: Float>(&[s0, s1, s2, s3, s4, ..]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [minus(s0, s2), s1, s2, minus(s4, s2), s3, none, none, none]
    }

    #[inline(always)]
    fn samples<T: Float>(&[p0, p1, p2, p3, p4, ..]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [p0, p1, minus(minus(p2, p0), p3), p4, p3, none, none, none]
    }
}

/// Of `KERNEL_4`.
pub(super) struct Axis4;

impl Axis for Axis4 {
    const SAMPLES: usize = 6;
    const STEP: usize = 4;
    const COUNTS: [usize; 3] = [2, 2, 2];

    #[inline(always)]
    fn parts<T: Float>(&[s0, s1, s2, s3, s4, s5, ..]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [minus(s0, s2), minus(s1, s3), s2, s3, minus(s4, s2), minus(s5, s3), none, none]
    }

    #[inline(always)]
    fn samples<T: Float>(&[p0, p1, p2, p3, p4, p5, ..]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [p0, p1, minus(minus(p2, p0), p4), minus(minus(p3, p1), p5), p4, p5, none, none]
    }
}

/// Of `KERNEL_5`.
pub(super) struct Axis5;

impl Axis for Axis5 {
    const SAMPLES: usize = 7;
    const STEP: usize = 4;
    const COUNTS: [usize; 3] = [3, 2, 3];

    #[inline(always)]
    fn parts<T: Float>(&[s0, s1, s2, s3, s4, s5, s6, ..]: &Chunks<T>) -> Chunks<T> {
        [minus(s0, s2), s4, minus(s1, s3), s2, s3, minus(s4, s2), s6, minus(s5, s3)]
    }

    #[inline(always)]
    fn samples<T: Float>(&[p0, p1, p2, p3, p4, p5, p6, p7]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [p0, p2, minus(minus(p3, p0), p5), minus(minus(p4, p2), p7), plus(p1, p5), p7, p6, none]
    }
}

/// Of `NEAR_3`.
pub(super) struct AxisNear3;

impl Axis for AxisNear3 {
    const SAMPLES: usize = 4;
    const STEP: usize = 2;
    const COUNTS: [usize; 3] = [2, 1, 2];

    #[inline(always)]
    fn parts<T: Float>(&[s0, s1, s2, s3, ..]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [minus(s0, s1), s2, s1, minus(s2, s1), s3, none, none, none]
    }

    #[inline(always)]
    fn samples<T: Float>(&[p0, p1, p2, p3, p4, ..]: &Chunks<T>) -> Chunks<T> {
        let none = [T::ZERO; LANES];
        [p0, minus(minus(p2, p0), p3), plus(p1, p3), p4, none, none, none, none]
    }
}

/// Runs what is generic over the axis for a kernel's size and stride.
macro_rules! on_axis {
    ($form:expr, $axis:ident => $work:expr) => {
        match ($form.plan.window.kernel, $form.plan.window.stride) {
            (3, 1) => {
                type $axis = $crate::nn::cpu::winograd::axis::AxisNear3;
                $work
            }
            (3, _) => {
                type $axis = $crate::nn::cpu::winograd::axis::Axis3;
                $work
            }
            (4, _) => {
                type $axis = $crate::nn::cpu::winograd::axis::Axis4;
                $work
            }
            _ => {
                type $axis = $crate::nn::cpu::winograd::axis::Axis5;
                $work
            }
        }
    };
}
pub(super) use on_axis;

/// Parts along a row of samples of each of the images that share words, as many channels of each, the parts of the three positions one
/// after the other.
// No closures in this and the functions below that work on chunks: what is not inlined has not the instructions of its caller.
#[inline(always)]
pub(super) fn parts_of<A: Axis, F: Factor>(
    layout: Layout,
    channels: usize,
    samples: [&[F::Value]; 2],
    parts: [&mut [F::Word]; 3],
) {
    let width = F::width(layout, channels);
    let mut to: [&mut [F::Word]; 8] = Default::default();
    let mut part = 0;
    for (mut parts, count) in parts.into_iter().zip(A::COUNTS) {
        for _ in 0..count {
            (to[part], parts) = parts.split_at_mut(width);
            part += 1;
        }
    }
    let whole = channels / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        chunk_of_parts::<A, F>(layout, samples, &mut to, channels, first, LANES);
    }
    if whole < channels {
        chunk_of_parts::<A, F>(layout, samples, &mut to, channels, whole, channels - whole);
    }
}

#[inline(always)]
fn chunk_of_parts<A: Axis, F: Factor>(
    layout: Layout,
    samples: [&[F::Value]; 2],
    to: &mut [&mut [F::Word]; 8],
    channels: usize,
    first: usize,
    len: usize,
) {
    let one = parts_of_image::<A, F::Value>(samples[0], channels, first, len);
    if F::together(layout) == 1 {
        for at in 0..A::PARTS {
            F::store(layout, to[at], first, len, [&one[at], &[F::Value::ZERO; LANES]]);
        }
    } else {
        let two = parts_of_image::<A, F::Value>(samples[1], channels, first, len);
        for at in 0..A::PARTS {
            F::store(layout, to[at], first, len, [&one[at], &two[at]]);
        }
    }
}

#[inline(always)]
fn parts_of_image<A: Axis, T: Float>(samples: &[T], channels: usize, first: usize, len: usize) -> Chunks<T> {
    let mut chunks = [[T::ZERO; LANES]; 8];
    let samples = &samples[..A::SAMPLES * channels];
    for at in 0..A::SAMPLES {
        load(&samples[at * channels + first..][..len], &mut chunks[at]);
    }
    A::parts(&chunks)
}

/// The transpose of [`parts_of`]: the first samples, which the tile shares with the one before, are added to, the others written.
#[inline(always)]
pub(super) fn samples_of<A: Axis, T: Float>(parts: [&[T]; 3], samples: &mut [T]) {
    let channels = parts[0].len() / A::COUNTS[0];
    let mut from: [&[T]; 8] = Default::default();
    let mut part = 0;
    for (mut parts, count) in parts.into_iter().zip(A::COUNTS) {
        for _ in 0..count {
            (from[part], parts) = parts.split_at(channels);
            part += 1;
        }
    }
    let samples = &mut samples[..A::SAMPLES * channels];
    let whole = channels / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        chunk_of_samples::<A, T>(&from, samples, channels, first, LANES);
    }
    if whole < channels {
        chunk_of_samples::<A, T>(&from, samples, channels, whole, channels - whole);
    }
}

#[inline(always)]
fn chunk_of_samples<A: Axis, T: Float>(from: &[&[T]; 8], samples: &mut [T], channels: usize, first: usize, len: usize) {
    let mut chunks = [[T::ZERO; LANES]; 8];
    for at in 0..A::PARTS {
        load(&from[at][first..][..len], &mut chunks[at]);
    }
    let made = A::samples(&chunks);
    for at in 0..A::SAMPLES {
        let to = &mut samples[at * channels + first..][..len];
        if at < A::SAMPLES - A::STEP {
            let mut sum = [T::ZERO; LANES];
            load(to, &mut sum);
            store(&plus(sum, made[at]), to);
        } else {
            store(&made[at], to);
        }
    }
}

/// A row of words: of each of the rows of values that share it, the sum of these.
#[inline(always)]
pub(super) fn store_sums<F: Factor>(layout: Layout, to: &mut [F::Word], len: usize, rows: &[Sum<'_, F::Value>; 2]) {
    let whole = len / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        chunk_of_sums::<F>(layout, to, first, LANES, rows);
    }
    if whole < len {
        chunk_of_sums::<F>(layout, to, whole, len - whole, rows);
    }
}

#[inline(always)]
fn chunk_of_sums<F: Factor>(layout: Layout, to: &mut [F::Word], first: usize, len: usize, rows: &[Sum<'_, F::Value>; 2]) {
    let one = rows[0].chunk(first, len);
    let two = if F::together(layout) == 1 { [F::Value::ZERO; LANES] } else { rows[1].chunk(first, len) };
    F::store(layout, to, first, len, [&one, &two]);
}

/// A few rows that are added up.
#[derive(Clone, Copy)]
pub(super) struct Sum<'r, T> {
    rows: [&'r [T]; 4],
    count: usize,
}

impl<'r, T: Float> Sum<'r, T> {
    /// Of nothing, which is 0.
    #[inline(always)]
    pub fn new() -> Self {
        Self { rows: [&[]; 4], count: 0 }
    }

    /// One row more; four at most.
    #[inline(always)]
    pub fn push(&mut self, row: &'r [T]) {
        self.rows[self.count] = row;
        self.count += 1;
    }

    /// A chunk of what they add up to.
    #[inline(always)]
    fn chunk(&self, first: usize, len: usize) -> [T; LANES] {
        let mut sum = [T::ZERO; LANES];
        for row in &self.rows[..self.count] {
            let mut chunk = [T::ZERO; LANES];
            load(&row[first..][..len], &mut chunk);
            sum = plus(sum, chunk);
        }
        sum
    }

    /// The rows of the taps of a pair of parts.
    #[inline(always)]
    pub fn push_taps(&mut self, down: &Term, along: &Term, kernel: usize, row: impl Fn(usize) -> &'r [T]) {
        for &y in down.taps {
            for &x in along.taps {
                self.push(row(y * kernel + x));
            }
        }
    }
}

/// Values into a chunk; what is beyond them stays.
#[inline(always)]
fn load<T: Float>(from: &[T], to: &mut [T; LANES]) {
    match from.first_chunk() {
        Some(from) => *to = *from,
        None => {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from;
            }
        }
    }
}

/// As many values of a chunk as there is room for.
#[inline(always)]
fn store<T: Float>(from: &[T; LANES], to: &mut [T]) {
    match to.first_chunk_mut() {
        Some(to) => *to = *from,
        None => {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from;
            }
        }
    }
}
