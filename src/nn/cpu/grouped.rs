//! Convolutions in groups of channels on the CPU: loops over the groups without im2col, for a group's matrices are too small to be worth
//! a product's packing.
//!
//! A forward pass and a gradient to the input are one and the same sum over taps, with other places and other kernels: result positions
//! `t` of a row, a step apart, gather from positions `t · step + offset` of some rows. What they gather from is copied once an image
//! into a frame of zeros, so that no position is a special case. Where a group has one channel on either side (a depthwise
//! convolution), the channels themselves lie side by side in the registers; else the result's channels of a group do, for a few
//! positions at once.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::float::Float;
use super::memory::{Slot, Workspace};
use super::sums::with_sums;
use super::tasks::{MAX_SUMS, vectorised_fns};
use crate::nn::geometry::{ConvPlan, Direction};

/// Values that are worked on at once: a register of AVX-512 in f32.
const LANES: usize = 16;
/// Positions that share what is read of the kernels, and channels that share what is read of a gradient.
const TILE: usize = 8;

/// Where a map lies in its frame of zeros.
#[derive(Clone, Copy)]
struct Frame {
    /// Rows and columns of the map.
    size: [usize; 2],
    /// Rows of zeros above it, and columns to the left.
    before: usize,
    /// Rows and columns of the frame.
    framed: [usize; 2],
    channels: usize,
}

impl Frame {
    /// A frame with `before` and `after` (by rows and columns) zeros on either side.
    fn new(size: [usize; 2], before: usize, after: [usize; 2], channels: usize) -> Self {
        Self { size, before, framed: [before + size[0] + after[0], before + size[1] + after[1]], channels }
    }

    /// Values of the frame, with as many more as a read of whole registers may pass its end by.
    fn len(&self) -> usize {
        self.framed[0] * self.framed[1] * self.channels + LANES
    }

    /// Where the values of a position begin.
    fn place(&self, row: usize, column: usize) -> usize {
        (row * self.framed[1] + column) * self.channels
    }

    /// Copies an image's map into the frame.
    fn fill<T: Float>(&self, map: &[T], to: &mut [T]) {
        to.fill(T::ZERO);
        let len = self.size[1] * self.channels;
        for (row, map) in map.chunks_exact(len).enumerate() {
            let start = self.place(self.before + row, self.before);
            to[start..start + len].copy_from_slice(map);
        }
    }
}

/// What some positions of a row of the result, a step apart, are gathered from.
struct Line {
    /// Where the first position's values begin in the result's map.
    to: usize,
    /// From one position to the next there.
    to_step: usize,
    /// From one position to the next in the frame.
    from_step: usize,
    /// Positions.
    count: usize,
    /// Where the first position of each tap begins in the frame, and the number of the tap.
    taps: Vec<(usize, usize)>,
}

/// A convolution in groups, or its gradient to the input.
struct Gather {
    frame: Frame,
    groups: usize,
    /// Channels of a group that are gathered from, and that are made.
    channels: [usize; 2],
    /// Taps of the kernel.
    area: usize,
    /// Every position of a result's map once.
    lines: Vec<Line>,
    /// Values of a result's map.
    len: usize,
}

impl Gather {
    fn forward(plan: &ConvPlan) -> Self {
        let window = plan.window;
        let (k, stride, padding) = (window.kernel, window.stride, window.padding);
        let reach = |out: usize, size: usize| ((out - 1) * stride + k).saturating_sub(padding + size);
        let after = [reach(plan.out_h, plan.h), reach(plan.out_w, plan.w)];
        let frame = Frame::new([plan.h, plan.w], padding, after, plan.ci);
        let line = |row: usize| Line {
            to: row * plan.out_w * plan.co,
            to_step: plan.co,
            from_step: stride * plan.ci,
            count: plan.out_w,
            taps: (0..k * k).map(|tap| (frame.place(row * stride + tap / k, tap % k), tap)).collect(),
        };
        let lines = (0..plan.out_h).map(line).collect();
        Self { frame, groups: window.groups, channels: plan.of_group(), area: k * k, lines, len: plan.y_len() }
    }

    /// Of a stride of s, every s-th position of a row meets the same taps.
    fn input_grad(plan: &ConvPlan) -> Self {
        let window = plan.window;
        let (k, stride, padding) = (window.kernel, window.stride, window.padding);
        let [made, from] = plan.of_group();
        if plan.positions() == 1 && padding == 0 && (plan.h, plan.w) == (k, k) {
            return Self::spread(plan, [from, made]);
        }
        let before = (k - 1).saturating_sub(padding).div_ceil(stride);
        let after = |size: usize, out: usize| ((size - 1 + padding) / stride + 1).saturating_sub(out);
        let after = [after(plan.h, plan.out_h), after(plan.w, plan.out_w)];
        let frame = Frame::new([plan.out_h, plan.out_w], before, after, plan.co);
        // The place in the frame of the output that reaches input `at` by `tap`, if one does.
        let meets = |at: usize, tap: usize| {
            let way = before * stride + at + padding - tap;
            way.is_multiple_of(stride).then_some(way / stride)
        };
        let line = |row: usize, phase: usize| {
            let taps = (0..k * k).filter_map(|tap| {
                let (from_row, from_column) = (meets(row, tap / k)?, meets(phase, tap % k)?);
                // A row of zeros adds nothing.
                let is_map = (before..before + plan.out_h).contains(&from_row);
                is_map.then(|| (frame.place(from_row, from_column), tap))
            });
            Line {
                to: (row * plan.w + phase) * plan.ci,
                to_step: stride * plan.ci,
                from_step: plan.co,
                count: (plan.w - phase).div_ceil(stride),
                taps: taps.collect(),
            }
        };
        let lines = (0..plan.h).flat_map(|row| (0..stride.min(plan.w)).map(move |phase| (row, phase)));
        let lines = lines.map(|(row, phase)| line(row, phase)).collect();
        Self { frame, groups: window.groups, channels: [from, made], area: k * k, lines, len: plan.x_len() }
    }

    /// The gradient to an input that the kernel covers: each position of it meets one tap, and the one output.
    fn spread(plan: &ConvPlan, channels: [usize; 2]) -> Self {
        let area = plan.h * plan.w;
        let line = |tap: usize| Line { to: tap * plan.ci, to_step: 0, from_step: 0, count: 1, taps: vec![(0, tap)] };
        let frame = Frame::new([1, 1], 0, [0, 0], plan.co);
        Self { frame, groups: plan.window.groups, channels, area, lines: (0..area).map(line).collect(), len: plan.x_len() }
    }

    /// Whether every group has one channel on either side.
    fn is_depthwise(&self) -> bool {
        self.channels == [1, 1]
    }

    /// Values of a tap's kernels: by group, channel gathered from, channel made in whole registers; depthwise by channel.
    fn tap_len(&self) -> usize {
        let [from, made] = self.channels;
        if self.is_depthwise() { self.groups.next_multiple_of(LANES) } else { from * made.next_multiple_of(LANES) }
    }

    /// Values of all kernels as [`Self::run`] takes them: depthwise by tap, else by group and tap.
    fn kernels_len(&self) -> usize {
        let groups = if self.is_depthwise() { 1 } else { self.groups };
        groups * self.area * self.tap_len()
    }

    /// Where a kernel's value lies among these.
    fn kernel_place(&self, group: usize, tap: usize, from: usize, made: usize) -> usize {
        if self.is_depthwise() {
            tap * self.tap_len() + group
        } else {
            (group * self.area + tap) * self.tap_len() + from * self.channels[1].next_multiple_of(LANES) + made
        }
    }

    /// For every value of kernels `[co, ci / groups, k, k]`, in their order: its place among ours.
    fn kernel_places(&self, direction: Direction) -> impl Iterator<Item = usize> + '_ {
        let [from, made] = self.channels;
        let [inputs, outputs] = if direction == Direction::InputGrad { [made, from] } else { [from, made] };
        (0..self.groups * outputs * inputs * self.area).map(move |at| {
            let (out, input, tap) = (at / (inputs * self.area), at / self.area % inputs, at % self.area);
            let (group, out) = (out / outputs, out % outputs);
            let [from, made] = if direction == Direction::InputGrad { [out, input] } else { [input, out] };
            self.kernel_place(group, tap, from, made)
        })
    }

    /// The result's maps of all images.
    fn run<T: Float>(&self, direction: Direction, from: &[T], w: &[T], to: &mut [MaybeUninit<T>]) {
        let mut workspace = Workspace::new::<T>(&[self.kernels_len()]);
        let [kernels] = workspace.slices::<T, 1>([self.kernels_len()]);
        kernels.fill(T::ZERO);
        for (place, &value) in self.kernel_places(direction).zip(w) {
            kernels[place] = value;
        }
        let kernels = &*kernels;
        let map_len = self.frame.size[0] * self.frame.size[1] * self.frame.channels;
        to.par_chunks_exact_mut(self.len).zip(from.par_chunks_exact(map_len)).for_each(|(to, map)| {
            let mut workspace = Workspace::new::<T>(&[self.frame.len()]);
            let [frame] = workspace.slices::<T, 1>([self.frame.len()]);
            self.frame.fill(map, frame);
            for line in &self.lines {
                if self.is_depthwise() {
                    depthwise_line::<T>(self, line, frame, kernels, to);
                } else {
                    grouped_line::<T>(self, line, frame, kernels, to);
                }
            }
        });
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

/// What some registers hold: of a group, the channels made from `first` on; of positions, or of channels gathered from, those from
/// `start` on.
struct Part {
    group: usize,
    first: usize,
    start: usize,
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

/// `y [n, out_h, out_w, co]`
pub(super) fn forward<T: Float>(plan: &ConvPlan, x: &[T], w: &[T], y: &mut [MaybeUninit<T>]) {
    Gather::forward(plan).run(Direction::Forward, x, w, y);
}

/// `dx [n, h, w, ci]`
pub(super) fn input_grad<T: Float>(plan: &ConvPlan, dy: &[T], w: &[T], dx: &mut [MaybeUninit<T>]) {
    Gather::input_grad(plan).run(Direction::InputGrad, dy, w, dx);
}

/// `dw [co, ci / groups, k, k]`
pub(super) fn weight_grad<T: Float>(plan: &ConvPlan, x: &[T], dy: &[T], dw: &mut [MaybeUninit<T>]) {
    let form = Gather::forward(plan);
    let (len, frame_len, gradient_len) = (form.kernels_len(), form.frame.len(), plan.y_len() + LANES);
    // Each sum takes its share of the images in order; then the sums are added in order.
    let share = plan.n.div_ceil(MAX_SUMS);
    with_sums(
        plan.n.div_ceil(share),
        len,
        |sums| {
            let shares = x.par_chunks(share * plan.x_len()).zip(dy.par_chunks(share * plan.y_len()));
            sums.par_chunks_exact_mut(len).zip(shares).for_each(|(sums, (x, dy))| {
                sums.fill(T::ZERO);
                let mut workspace = Workspace::new::<T>(&[frame_len, gradient_len]);
                let [frame, gradient] = workspace.slices::<T, 2>([frame_len, gradient_len]);
                for (x, dy) in x.chunks_exact(plan.x_len()).zip(dy.chunks_exact(plan.y_len())) {
                    form.frame.fill(x, frame);
                    gradient[..dy.len()].copy_from_slice(dy);
                    for line in &form.lines {
                        if form.is_depthwise() {
                            depthwise_grad_line::<T>(&form, line, frame, gradient, sums);
                        } else {
                            grouped_grad_line::<T>(&form, line, frame, gradient, sums);
                        }
                    }
                }
            });
        },
        |total| {
            for (place, to) in form.kernel_places(Direction::WeightGrad).zip(dw) {
                to.put(total[place]);
            }
        },
    );
}
