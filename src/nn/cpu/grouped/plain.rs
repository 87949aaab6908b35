//! Groups whose channels are multiplied as they are.

use std::mem::MaybeUninit;

use super::{Gather, Grouped, Line, Part};
use crate::nn::cpu::factor::{Exact, LANES};
use crate::nn::cpu::float::Float;
use crate::nn::cpu::memory::Slot;
use crate::nn::cpu::tasks::vectorised_fns;

/// Positions that share what is read of the kernels, and channels that share what is read of a gradient.
const TILE: usize = 8;

impl<T: Float> Grouped for Exact<T> {
    fn item(value: T) -> T {
        value
    }

    fn row(from: &[T], to: &mut [T]) {
        to.copy_from_slice(from);
    }

    fn gather(form: &Gather, line: &Line, frame: &[T], kernels: &[T], to: &mut [MaybeUninit<T>]) {
        if form.is_depthwise() {
            depthwise_line::<T>(form, line, frame, kernels, to);
        } else {
            grouped_line::<T>(form, line, frame, kernels, to);
        }
    }

    fn gradient_memory(form: &Gather) -> [usize; 2] {
        [form.frame.len(), form.len + LANES]
    }

    fn add_gradient(form: &Gather, x: &[T], dy: &[T], [frame, gradient]: [&mut [T]; 2], sums: &mut [T]) {
        form.frame.fill(x, frame, T::ZERO, |from, to| to.copy_from_slice(from));
        gradient[..dy.len()].copy_from_slice(dy);
        for line in &form.lines {
            if form.is_depthwise() {
                depthwise_grad_line::<T>(form, line, frame, gradient, sums);
            } else {
                grouped_grad_line::<T>(form, line, frame, gradient, sums);
            }
        }
    }
}

/// The values from this place on that a register takes. All are there: frames and kernels are filled up.
#[inline(always)]
fn chunk<T: Float>(values: &[T], at: usize) -> [T; LANES] {
    debug_assert!(at + LANES <= values.len());
    values[at..].first_chunk().copied().unwrap_or([T::ZERO; LANES])
}

/// Writes as many values of a register as there is room for.
#[inline(always)]
fn put<T: Float>(to: &mut [MaybeUninit<T>], values: &[T; LANES]) {
    for (to, &value) in to.iter_mut().zip(values) {
        to.put(value);
    }
}

vectorised_fns! {
    /// What a line of the result gathers, channels side by side.
    fn depthwise_line<T: Float>(
        form: &Gather,
        line: &Line,
        frame: &[T],
        kernels: &[T],
        to: &mut [MaybeUninit<T>],
    ) {
        let (channels, tap_len) = (form.groups, form.tap_len());
        for position in 0..line.count {
            let to = &mut to[line.to + position * line.to_step..][..channels];
            for (to, first) in to.chunks_mut(LANES).zip((0..).step_by(LANES)) {
                let mut sum = [T::ZERO; LANES];
                for &(place, tap) in &line.taps {
                    let from = chunk(frame, place + position * line.from_step + first);
                    let kernel = chunk(kernels, tap * tap_len + first);
                    for lane in 0..LANES {
                        sum[lane] = from[lane].mul_add(kernel[lane], sum[lane]);
                    }
                }
                put(to, &sum);
            }
        }
    }

    /// What a line of the result gathers, group by group.
    fn grouped_line<T: Float>(
        form: &Gather,
        line: &Line,
        frame: &[T],
        kernels: &[T],
        to: &mut [MaybeUninit<T>],
    ) {
        let made = form.channels[1];
        for group in 0..form.groups {
            for first in (0..made).step_by(LANES) {
                let mut start = 0;
                while start < line.count {
                    let of = Part { group, first, start };
                    start += match line.count - start {
                        TILE.. => positions::<T, TILE>(form, line, &of, frame, kernels, to),
                        4.. => positions::<T, 4>(form, line, &of, frame, kernels, to),
                        2.. => positions::<T, 2>(form, line, &of, frame, kernels, to),
                        _ => positions::<T, 1>(form, line, &of, frame, kernels, to),
                    };
                }
            }
        }
    }

    /// Adds what a line of the output has of the kernels' gradient.
    fn depthwise_grad_line<T: Float>(form: &Gather, line: &Line, frame: &[T], dy: &[T], sums: &mut [T]) {
        let (channels, tap_len) = (form.groups, form.tap_len());
        for &(place, tap) in &line.taps {
            for first in (0..channels).step_by(LANES) {
                let mut sum = chunk(sums, tap * tap_len + first);
                for position in 0..line.count {
                    let from = chunk(frame, place + position * line.from_step + first);
                    let gradient = chunk(dy, line.to + position * line.to_step + first);
                    for lane in 0..LANES {
                        sum[lane] = from[lane].mul_add(gradient[lane], sum[lane]);
                    }
                }
                sums[tap * tap_len + first..][..LANES].copy_from_slice(&sum);
            }
        }
    }

    /// Likewise.
    fn grouped_grad_line<T: Float>(form: &Gather, line: &Line, frame: &[T], dy: &[T], sums: &mut [T]) {
        let [from_len, made] = form.channels;
        for group in 0..form.groups {
            for tap in &line.taps {
                for first in (0..made).step_by(LANES) {
                    let mut start = 0;
                    while start < from_len {
                        let of = Part { group, first, start };
                        start += match from_len - start {
                            TILE.. => channels::<T, TILE>(form, line, *tap, &of, frame, dy, sums),
                            4.. => channels::<T, 4>(form, line, *tap, &of, frame, dy, sums),
                            2.. => channels::<T, 2>(form, line, *tap, &of, frame, dy, sums),
                            _ => channels::<T, 1>(form, line, *tap, &of, frame, dy, sums),
                        };
                    }
                }
            }
        }
    }
}

/// Gathers P positions of a line; gives P.
#[inline(always)]
fn positions<T: Float, const P: usize>(
    form: &Gather,
    line: &Line,
    of: &Part,
    frame: &[T],
    kernels: &[T],
    to: &mut [MaybeUninit<T>],
) -> usize {
    let [from_len, made] = form.channels;
    let (tap_len, width) = (form.tap_len(), made.next_multiple_of(LANES));
    let kernels = &kernels[of.group * form.area * tap_len..][..form.area * tap_len];
    let mut sums = [[T::ZERO; LANES]; P];
    for &(place, tap) in &line.taps {
        let start = place + of.start * line.from_step + of.group * from_len;
        let from = &frame[start..start + (P - 1) * line.from_step + from_len];
        let kernel = &kernels[tap * tap_len + of.first..][..(from_len - 1) * width + LANES];
        for channel in 0..from_len {
            // SAFETY: the slices reach to the last channel of the last position, and to the last channel's register.
            let (from, kernel) =
                unsafe { (from.as_ptr().add(channel), *kernel.as_ptr().add(channel * width).cast::<[T; LANES]>()) };
            for (at, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let value = unsafe { *from.add(at * line.from_step) };
                for lane in 0..LANES {
                    sum[lane] = value.mul_add(kernel[lane], sum[lane]);
                }
            }
        }
    }
    let lanes = LANES.min(made - of.first);
    for (at, sum) in sums.iter().enumerate() {
        put(&mut to[line.to + (of.start + at) * line.to_step + of.group * made + of.first..][..lanes], sum);
    }
    P
}

/// Adds a line's share of the gradient of C channels of a tap's kernels; gives C.
#[inline(always)]
fn channels<T: Float, const C: usize>(
    form: &Gather,
    line: &Line,
    (place, tap): (usize, usize),
    of: &Part,
    frame: &[T],
    dy: &[T],
    sums: &mut [T],
) -> usize {
    let [from_len, made] = form.channels;
    let (tap_len, width) = (form.tap_len(), made.next_multiple_of(LANES));
    let kernel = &mut sums[(of.group * form.area + tap) * tap_len..][..tap_len];
    let mut tile = [[T::ZERO; LANES]; C];
    let start = place + of.group * from_len + of.start;
    let from = &frame[start..start + (line.count - 1) * line.from_step + C];
    let start = line.to + of.group * made + of.first;
    let dy = &dy[start..start + (line.count - 1) * line.to_step + LANES];
    // From one channel to the next. Told that they lie side by side, the compiler lays its registers across them, and gathers.
    let next = std::hint::black_box(1);
    for position in 0..line.count {
        // SAFETY: the slices reach to the last position's last channel and register.
        let (from, gradient) = unsafe {
            (from.as_ptr().add(position * line.from_step), *dy.as_ptr().add(position * line.to_step).cast::<[T; LANES]>())
        };
        for (at, tile) in tile.iter_mut().enumerate() {
            // SAFETY: as above.
            let value = unsafe { *from.add(at * next) };
            for lane in 0..LANES {
                tile[lane] = value.mul_add(gradient[lane], tile[lane]);
            }
        }
    }
    for (at, tile) in tile.iter().enumerate() {
        let kernel = &mut kernel[(of.start + at) * width + of.first..][..LANES];
        kernel.iter_mut().zip(tile).for_each(|(kernel, &value)| *kernel += value);
    }
    C
}
