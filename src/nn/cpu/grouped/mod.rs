//! Convolutions in groups of channels on the CPU: loops over the groups without im2col, for a group's matrices are too small to be worth
//! a product's packing.
//!
//! A forward pass and a gradient to the input are one and the same sum over taps, with other places and other kernels: result positions
//! `t` of a row, a step apart, gather from positions `t · step + offset` of some rows. What they gather from is copied once an image
//! into a frame of zeros, so that no position is a special case. Where a group has one channel on either side (a depthwise
//! convolution), the channels themselves lie side by side in the registers; else the result's channels of a group do, for a few
//! positions at once. In bf16 a word of the frame is a pair of channels (`bf16`, and `amx` where the CPU has tiles), or for the
//! gradient of kernels a pair of positions; depthwise convolutions, which wait for memory, multiply in f32 then, too.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod plain;

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::factor::{Factor, LANES};
use super::float::Float;
use super::memory::{Slot, Workspace};
use super::sums::with_sums;
use super::tasks::MAX_SUMS;
use crate::nn::geometry::{ConvPlan, Direction};

/// What convolutions in groups are computed with.
pub(super) trait Grouped: Factor {
    /// One value as it lies in a word.
    fn item(value: Self::Value) -> Self::Item;

    /// Some values one behind the other.
    fn row(from: &[Self::Value], to: &mut [Self::Item]);

    /// Writes what a line of the result gathers.
    fn gather(form: &Gather, line: &Line, frame: &[Self::Word], kernels: &[Self::Word], to: &mut [MaybeUninit<Self::Value>]);

    /// Memory for an image's frame and its gradient as [`Self::add_gradient`] takes them, in words.
    fn gradient_memory(form: &Gather) -> [usize; 2];

    /// Adds what an image has of the kernels' gradient, with memory for that.
    fn add_gradient(
        form: &Gather,
        x: &[Self::Value],
        dy: &[Self::Value],
        memory: [&mut [Self::Word]; 2],
        sums: &mut [Self::Value],
    );
}

/// Where a map lies in its frame of zeros.
#[derive(Clone, Copy)]
struct Frame {
    /// Rows and columns of the map.
    size: [usize; 2],
    /// Rows of zeros above it, and columns to the left.
    before: usize,
    /// Rows and columns of the frame.
    framed: [usize; 2],
    /// Words of a position.
    channels: usize,
}

impl Frame {
    /// A frame with `before` and `after` (by rows and columns) zeros on either side.
    fn new(size: [usize; 2], before: usize, after: [usize; 2], channels: usize) -> Self {
        Self { size, before, framed: [before + size[0] + after[0], before + size[1] + after[1]], channels }
    }

    /// Words of the frame, with as many more as a read of whole registers may pass its end by.
    fn len(&self) -> usize {
        self.framed[0] * self.framed[1] * self.channels + LANES
    }

    /// Where the words of a position begin.
    fn place(&self, row: usize, column: usize) -> usize {
        (row * self.framed[1] + column) * self.channels
    }

    /// The places of the map's rows in the frame, one after the other.
    fn rows(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (frame, len) = (*self, self.size[1] * self.channels);
        (0..self.size[0]).map(move |row| frame.place(frame.before + row, frame.before)).map(move |start| start..start + len)
    }

    /// Fills the frame: the map's rows by `row(map, to)`, all else with zeros.
    fn fill<V, W: Copy>(&self, map: &[V], to: &mut [W], nothing: W, mut row: impl FnMut(&[V], &mut [W])) {
        let mut end = 0;
        for (place, map) in self.rows().zip(map.chunks_exact(map.len() / self.size[0])) {
            to[end..place.start].fill(nothing);
            row(map, &mut to[place.clone()]);
            end = place.end;
        }
        to[end..].fill(nothing);
    }
}

/// What some positions of a row of the result, a step apart, are gathered from.
pub(super) struct Line {
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
pub(super) struct Gather {
    frame: Frame,
    groups: usize,
    /// Words of a group's channels that are gathered from, and channels that are made.
    channels: [usize; 2],
    /// Taps of the kernel.
    area: usize,
    /// Every position of a result's map once.
    lines: Vec<Line>,
    /// Values of a result's map.
    len: usize,
}

impl Gather {
    /// Where a word holds so many channels.
    fn forward(plan: &ConvPlan, depth: usize) -> Self {
        let window = plan.window;
        let (k, stride, padding) = (window.kernel, window.stride, window.padding);
        let reach = |out: usize, size: usize| ((out - 1) * stride + k).saturating_sub(padding + size);
        let after = [reach(plan.out_h, plan.h), reach(plan.out_w, plan.w)];
        let frame = Frame::new([plan.h, plan.w], padding, after, plan.ci / depth);
        let line = |row: usize| Line {
            to: row * plan.out_w * plan.co,
            to_step: plan.co,
            from_step: stride * frame.channels,
            count: plan.out_w,
            taps: (0..k * k).map(|tap| (frame.place(row * stride + tap / k, tap % k), tap)).collect(),
        };
        let lines = (0..plan.out_h).map(line).collect();
        let [from, made] = plan.of_group();
        Self { frame, groups: window.groups, channels: [from / depth, made], area: k * k, lines, len: plan.y_len() }
    }

    /// Of a stride of s, every s-th position of a row meets the same taps.
    fn input_grad(plan: &ConvPlan, depth: usize) -> Self {
        let window = plan.window;
        let (k, stride, padding) = (window.kernel, window.stride, window.padding);
        let [made, from] = plan.of_group();
        let from = from / depth;
        if plan.positions() == 1 && padding == 0 && (plan.h, plan.w) == (k, k) {
            return Self::spread(plan, [from, made], depth);
        }
        let before = (k - 1).saturating_sub(padding).div_ceil(stride);
        let after = |size: usize, out: usize| ((size - 1 + padding) / stride + 1).saturating_sub(out);
        let after = [after(plan.h, plan.out_h), after(plan.w, plan.out_w)];
        let frame = Frame::new([plan.out_h, plan.out_w], before, after, plan.co / depth);
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
                from_step: frame.channels,
                count: (plan.w - phase).div_ceil(stride),
                taps: taps.collect(),
            }
        };
        let lines = (0..plan.h).flat_map(|row| (0..stride.min(plan.w)).map(move |phase| (row, phase)));
        let lines = lines.map(|(row, phase)| line(row, phase)).collect();
        Self { frame, groups: window.groups, channels: [from, made], area: k * k, lines, len: plan.x_len() }
    }

    /// The gradient to an input that the kernel covers: each position of it meets one tap, and the one output.
    fn spread(plan: &ConvPlan, channels: [usize; 2], depth: usize) -> Self {
        let area = plan.h * plan.w;
        let line = |tap: usize| Line { to: tap * plan.ci, to_step: 0, from_step: 0, count: 1, taps: vec![(0, tap)] };
        let frame = Frame::new([1, 1], 0, [0, 0], plan.co / depth);
        Self { frame, groups: plan.window.groups, channels, area, lines: (0..area).map(line).collect(), len: plan.x_len() }
    }

    /// Whether every group has one channel on either side.
    fn is_depthwise(&self) -> bool {
        self.channels == [1, 1]
    }

    /// Words of a tap's kernels: by group, word gathered from, channel made in whole registers; depthwise by channel.
    fn tap_len(&self) -> usize {
        let [from, made] = self.channels;
        if self.is_depthwise() { self.groups.next_multiple_of(LANES) } else { from * made.next_multiple_of(LANES) }
    }

    /// Words of all kernels as [`Self::run`] takes them: depthwise by tap, else by group and tap.
    fn kernels_len(&self) -> usize {
        let groups = if self.is_depthwise() { 1 } else { self.groups };
        groups * self.area * self.tap_len()
    }

    /// Where a kernel's value lies among the items of these, where a word holds so many.
    fn kernel_place(&self, depth: usize, group: usize, tap: usize, from: usize, made: usize) -> usize {
        if self.is_depthwise() {
            return tap * self.tap_len() + group;
        }
        let word = from / depth * self.channels[1].next_multiple_of(LANES) + made;
        ((group * self.area + tap) * self.tap_len() + word) * depth + from % depth
    }

    /// For every value of kernels `[co, ci / groups, k, k]`, in their order: its place among ours.
    fn kernel_places(&self, direction: Direction, depth: usize) -> impl Iterator<Item = usize> + '_ {
        let [from, made] = [self.channels[0] * depth, self.channels[1]];
        let [inputs, outputs] = if direction == Direction::InputGrad { [made, from] } else { [from, made] };
        (0..self.groups * outputs * inputs * self.area).map(move |at| {
            let (out, input, tap) = (at / (inputs * self.area), at / self.area % inputs, at % self.area);
            let (group, out) = (out / outputs, out % outputs);
            let [from, made] = if direction == Direction::InputGrad { [out, input] } else { [input, out] };
            self.kernel_place(depth, group, tap, from, made)
        })
    }

    /// The result's maps of all images.
    fn run<F: Grouped>(&self, direction: Direction, from: &[F::Value], w: &[F::Value], to: &mut [MaybeUninit<F::Value>]) {
        let mut workspace = Workspace::new::<F::Word>(&[self.kernels_len()]);
        let [kernels] = workspace.slices::<F::Word, 1>([self.kernels_len()]);
        kernels.fill(F::NOTHING);
        let items = F::items(kernels);
        for (place, &value) in self.kernel_places(direction, F::DEPTH).zip(w) {
            items[place] = F::item(value);
        }
        let kernels = &*kernels;
        let map_len = self.frame.size[0] * self.frame.size[1] * self.frame.channels * F::DEPTH;
        to.par_chunks_exact_mut(self.len).zip(from.par_chunks_exact(map_len)).for_each(|(to, map)| {
            let mut workspace = Workspace::new::<F::Word>(&[self.frame.len()]);
            let [frame] = workspace.slices::<F::Word, 1>([self.frame.len()]);
            self.frame.fill(map, frame, F::NOTHING, |map, to| F::row(map, F::items(to)));
            for line in &self.lines {
                F::gather(self, line, frame, kernels, to);
            }
        });
    }
}

/// One of the three convolutions in groups; the operands as [`Direction`] says. A group's channels fill whole words.
pub(super) fn conv<F: Grouped>(
    direction: Direction,
    plan: &ConvPlan,
    [first, second]: [&[F::Value]; 2],
    to: &mut [MaybeUninit<F::Value>],
) {
    match direction {
        Direction::Forward => Gather::forward(plan, F::DEPTH).run::<F>(direction, first, second, to),
        Direction::InputGrad => Gather::input_grad(plan, F::DEPTH).run::<F>(direction, first, second, to),
        Direction::WeightGrad => weight_grad::<F>(plan, first, second, to),
    }
}

/// `dw [co, ci / groups, k, k]`
fn weight_grad<F: Grouped>(plan: &ConvPlan, x: &[F::Value], dy: &[F::Value], dw: &mut [MaybeUninit<F::Value>]) {
    let form = Gather::forward(plan, 1);
    let (len, memory) = (form.kernels_len(), F::gradient_memory(&form));
    // Each sum takes its share of the images in order; then the sums are added in order.
    let share = plan.n.div_ceil(MAX_SUMS);
    with_sums(
        plan.n.div_ceil(share),
        len,
        |sums| {
            let shares = x.par_chunks(share * plan.x_len()).zip(dy.par_chunks(share * plan.y_len()));
            sums.par_chunks_exact_mut(len).zip(shares).for_each(|(sums, (x, dy))| {
                sums.fill(F::Value::ZERO);
                let mut workspace = Workspace::new::<F::Word>(&memory);
                let [frame, gradient] = workspace.slices::<F::Word, 2>(memory);
                for (x, dy) in x.chunks_exact(plan.x_len()).zip(dy.chunks_exact(plan.y_len())) {
                    F::add_gradient(&form, x, dy, [&mut *frame, &mut *gradient], sums);
                }
            });
        },
        |total| {
            for (place, to) in form.kernel_places(Direction::WeightGrad, 1).zip(dw) {
                to.put(total[place]);
            }
        },
    );
}

/// What some registers hold: of a group, the channels made from `first` on; of positions, or of channels gathered from, those from
/// `start` on.
struct Part {
    group: usize,
    first: usize,
    start: usize,
}
