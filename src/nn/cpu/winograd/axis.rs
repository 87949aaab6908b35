//! What the forms do along one axis, some channels at a time, in registers.

use super::TILE;
use crate::nn::cpu::float::Float;

/// What a form does along one axis: parts of samples, and back. Written out, so that a few channels of all of them stay in registers.
pub(super) trait Axis {
    /// Samples that a tile reaches.
    const SAMPLES: usize;
    /// Parts of the three positions.
    const COUNTS: [usize; 3];
    /// Parts of all three positions, one after the other.
    const PARTS: usize = Self::COUNTS[0] + Self::COUNTS[1] + Self::COUNTS[2];

    /// Parts of samples.
    fn parts<T: Float>(samples: &Chunks<T>) -> Chunks<T>;

    /// The transpose: what parts say of samples.
    fn samples<T: Float>(parts: &Chunks<T>) -> Chunks<T>;
}

/// Channels that are worked on at once.
pub(super) const LANES: usize = 16;
/// These of samples or parts, of which there are no more.
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

/// Runs what is generic over the axis for a kernel's size.
macro_rules! on_axis {
    ($form:expr, $axis:ident => $work:expr) => {
        match $form.plan.window.kernel {
            3 => {
                type $axis = $crate::nn::cpu::winograd::axis::Axis3;
                $work
            }
            4 => {
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

/// Parts along a row of samples, as many channels of each, the parts of the three positions one after the other.
// No closures in these four, and nothing that takes one: what is not inlined has not the instructions of its caller.
#[inline(always)]
pub(super) fn parts_of<A: Axis, T: Float>(samples: &[T], parts: [&mut [T]; 3]) {
    let channels = parts[0].len() / A::COUNTS[0];
    let mut to: [&mut [T]; 8] = Default::default();
    let mut part = 0;
    for (mut parts, count) in parts.into_iter().zip(A::COUNTS) {
        for _ in 0..count {
            (to[part], parts) = parts.split_at_mut(channels);
            part += 1;
        }
    }
    let samples = &samples[..A::SAMPLES * channels];
    let whole = channels / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        chunk_of_parts::<A, T>(samples, &mut to, channels, first, LANES);
    }
    if whole < channels {
        chunk_of_parts::<A, T>(samples, &mut to, channels, whole, channels - whole);
    }
}

#[inline(always)]
fn chunk_of_parts<A: Axis, T: Float>(samples: &[T], to: &mut [&mut [T]; 8], channels: usize, first: usize, len: usize) {
    let mut chunks = [[T::ZERO; LANES]; 8];
    for at in 0..A::SAMPLES {
        load(&samples[at * channels + first..][..len], &mut chunks[at]);
    }
    let made = A::parts(&chunks);
    for at in 0..A::PARTS {
        store(&made[at], &mut to[at][first..][..len]);
    }
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
        if at < A::SAMPLES - TILE {
            let mut sum = [T::ZERO; LANES];
            load(to, &mut sum);
            store(&plus(sum, made[at]), to);
        } else {
            store(&made[at], to);
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
