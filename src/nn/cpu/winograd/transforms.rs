//! The maps between images and the factors and results of products, image by image; their kernels, channel by channel.

use std::mem::MaybeUninit;

use super::axis::{Axis, parts_of, samples_of};
use super::{CHANNELS, TILE, Winograd};
use crate::nn::cpu::factor::{Factor, Layout};
use crate::nn::cpu::float::Float;
use crate::nn::cpu::memory::{Slot, zeroed};
use crate::nn::cpu::tasks::{LINES, vectorised_fns};
use crate::nn::geometry::ConvPlan;

vectorised_fns! {
    /// One image, or those that share words.
    pub(super) fn expand_image<A: Axis, F: Factor>(
        form: &Winograd<'_>,
        layout: Layout,
        x: &[F::Value],
        v: [&mut [F::Word]; 9],
        strips: &mut [F::Value],
        room: &mut [F::Value],
    ) {
        let (plan, c) = (form.plan, form.plan.ci);
        let (width, row_len, strip_len) = (F::width(layout, c), plan.w * c, form.strip_columns() * c);
        let inside = form.inside();
        let mut v = v;
        strips.fill(F::Value::ZERO);
        for ty in 0..form.tiles.0 {
            for (down, down_number, part) in form.parts() {
                for (strip, x) in strips.chunks_exact_mut(strip_len).zip(x.chunks_exact(plan.x_len())) {
                    let row = |sample: usize| form.input_row(ty, sample).map(|row| &x[row * row_len..][..row_len]);
                    difference(&mut strip[inside.start * c..inside.end * c], row(part.plus), part.minus.and_then(row));
                }
                let Some([first, second, third]) = v.as_chunks_mut::<3>().0.get_mut(down) else { continue };
                for tx in 0..form.tiles.1 {
                    let row = (ty * form.tiles.1 + tx) * A::COUNTS[down] + down_number;
                    let piece = |at: usize| row * A::COUNTS[at] * width..(row + 1) * A::COUNTS[at] * width;
                    let to = [&mut first[piece(0)], &mut second[piece(1)], &mut third[piece(2)]];
                    F::put(layout, to, room, |image, to| {
                        parts_of::<A, F::Value>(&strips[image * strip_len + TILE * tx * c..], to);
                    });
                }
            }
        }
    }

    /// One image.
    pub(super) fn fold_image<A: Axis, T: Float>(form: &Winograd<'_>, v: [&[T]; 9], x: &mut [MaybeUninit<T>], strip: &mut [T]) {
        let c = form.plan.ci;
        let row_len = form.plan.w * c;
        let inside = form.inside();
        let x = zeroed(x);
        for ty in 0..form.tiles.0 {
            for (down, down_number, part) in form.parts() {
                // What a tile shares with the one before it is added, all else is written.
                strip[..(A::SAMPLES - TILE) * c].fill(T::ZERO);
                for tx in 0..form.tiles.1 {
                    let row = (ty * form.tiles.1 + tx) * A::COUNTS[down] + down_number;
                    let piece = |at: usize| &v[3 * down + at][row * A::COUNTS[at] * c..][..A::COUNTS[at] * c];
                    samples_of::<A, T>([piece(0), piece(1), piece(2)], &mut strip[TILE * tx * c..][..A::SAMPLES * c]);
                }
                let strip_row = &strip[inside.start * c..inside.end * c];
                if let Some(row) = form.input_row(ty, part.plus) {
                    add(&mut x[row * row_len..][..row_len], strip_row);
                }
                if let Some(row) = part.minus.and_then(|minus| form.input_row(ty, minus)) {
                    subtract(&mut x[row * row_len..][..row_len], strip_row);
                }
            }
        }
    }

    /// One image.
    pub(super) fn collect_image<T: Float>(form: &Winograd<'_>, m: [&[T]; 9], y: &mut [MaybeUninit<T>]) {
        let co = form.plan.co;
        for tile in 0..form.tile_count() {
            let m = m.map(|m| &m[tile * co..][..co]);
            for (output, start) in form.outputs(tile).into_iter().enumerate() {
                let first = output / 2 * 3 + output % 2;
                let (a, b, c, d) = (m[first], m[first + 1], m[first + 3], m[first + 4]);
                if let Some(start) = start {
                    let y = &mut y[start..start + co];
                    for i in 0..co {
                        y[i].put((a[i] + b[i]) + (c[i] + d[i]));
                    }
                }
            }
        }
    }

    /// One image, or those that share words.
    pub(super) fn spread_image<F: Factor>(
        form: &Winograd<'_>,
        layout: Layout,
        y: &[F::Value],
        m: [&mut [F::Word]; 9],
        zeros: &mut [F::Value],
        room: &mut [F::Value],
    ) {
        let (co, y_len, width) = (form.plan.co, form.plan.y_len(), F::width(layout, form.plan.co));
        let mut m = m;
        zeros.fill(F::Value::ZERO);
        for tile in 0..form.tile_count() {
            let outputs = form.outputs(tile);
            for (at, m) in m.iter_mut().enumerate() {
                F::put(layout, [&mut m[tile * width..][..width]], room, |image, [to]| {
                    // An image that is missing is zero.
                    let y = y.get(image * y_len..).filter(|y| !y.is_empty());
                    let of = |output: usize| match (y, outputs[output]) {
                        (Some(y), Some(start)) => &y[start..start + co],
                        _ => &zeros[..],
                    };
                    spread_to(at, to, of);
                });
            }
        }
    }

    /// The rows of `U` of a few input channels.
    pub(super) fn kernels_block<F: Factor>(
        form: &Winograd<'_>,
        first_channel: usize,
        w: &[F::Value],
        rows: Vec<&mut [F::Word]>,
        taps: &mut [F::Value],
        room: &mut [F::Value],
    ) {
        let ConvPlan { ci, co, .. } = *form.plan;
        let k = form.plan.window.kernel;
        let area = k * k;
        let channels = taps.len() / (area * co);
        for first in (0..co).step_by(LINES) {
            let outs = first..co.min(first + LINES);
            for tap in 0..channels * area {
                for (to, out) in taps[tap * co..][outs.clone()].iter_mut().zip(outs.clone()) {
                    *to = w[(out * ci + first_channel) * area + tap];
                }
            }
        }
        for (rows, (down, along)) in rows.into_iter().zip(form.pairs()) {
            for (word, row) in rows.chunks_exact_mut(co).enumerate() {
                F::put(Layout::Columns, [row], room, |which, [to]| {
                    let channel = word * F::DEPTH + which;
                    sum_of(to, product(down.taps, along.taps).map(|(y, x)| &taps[(channel * area + y * k + x) * co..][..co]));
                });
            }
        }
    }

    /// The rows of `Uᵀ` of the output channels that share words.
    pub(super) fn turned_block<F: Factor>(
        form: &Winograd<'_>,
        w: &[F::Value],
        rows: Vec<&mut [F::Word]>,
        taps: &mut [F::Value],
        room: &mut [F::Value],
    ) {
        let (ci, k) = (form.plan.ci, form.plan.window.kernel);
        let area = k * k;
        // Rows of taps a line apart from where they would share the places of a cache.
        let stride = ci + LINES;
        for (taps, w) in taps.chunks_exact_mut(area * stride).zip(w.chunks_exact(ci * area)) {
            for (channel, w) in w.chunks_exact(area).enumerate() {
                for (tap, &value) in w.iter().enumerate() {
                    taps[tap * stride + channel] = value;
                }
            }
        }
        let parts = rows.into_iter().flat_map(|row| row.chunks_exact_mut(ci));
        for (part, (down, along)) in parts.zip(form.pairs()) {
            F::put(Layout::Columns, [part], room, |out, [to]| {
                sum_of(to, product(down.taps, along.taps).map(|(y, x)| &taps[(out * area + y * k + x) * stride..][..ci]));
            });
        }
    }

    /// The gradient of the kernels of a few output channels, from this one on.
    pub(super) fn gather_block<T: Float>(form: &Winograd<'_>, start: usize, du: &[T], dw: &mut [MaybeUninit<T>], taps: &mut [T]) {
        let ConvPlan { ci, co, .. } = *form.plan;
        let k = form.plan.window.kernel;
        let area = k * k;
        let len = dw.len() / (ci * area);
        for first in (0..ci).step_by(CHANNELS) {
            let channels = CHANNELS.min(ci - first);
            taps.fill(T::ZERO);
            for (pair, (down, along)) in form.pairs().enumerate() {
                for channel in 0..channels {
                    let from = &du[(pair * ci + first + channel) * co + start..][..len];
                    for (y, x) in product(down.taps, along.taps) {
                        add(&mut taps[(channel * area + y * k + x) * len..][..len], from);
                    }
                }
            }
            for start in (0..len).step_by(LINES) {
                let outs = start..len.min(start + LINES);
                for tap in 0..channels * area {
                    for (out, &value) in outs.clone().zip(&taps[tap * len..][outs.clone()]) {
                        dw[(out * ci + first) * area + tap].put(value);
                    }
                }
            }
        }
    }
}

/// What one of the nine positions has of the four outputs of a tile: along each axis the first, both, the second.
#[inline(always)]
fn spread_to<'y, T: Float>(at: usize, to: &mut [T], of: impl Fn(usize) -> &'y [T]) {
    match at {
        0 => to.copy_from_slice(of(0)),
        1 => sum(to, of(0), of(1)),
        2 => to.copy_from_slice(of(1)),
        3 => sum(to, of(0), of(2)),
        4 => {
            let [a, b, c, d] = [0, 1, 2, 3].map(|output| &of(output)[..to.len()]);
            for i in 0..to.len() {
                to[i] = (a[i] + b[i]) + (c[i] + d[i]);
            }
        }
        5 => sum(to, of(1), of(3)),
        6 => to.copy_from_slice(of(2)),
        7 => sum(to, of(2), of(3)),
        _ => to.copy_from_slice(of(3)),
    }
}

/// The sum of one or more rows.
#[inline(always)]
fn sum_of<'r, T: Float>(to: &mut [T], mut rows: impl Iterator<Item = &'r [T]>) {
    if let Some(first) = rows.next() {
        to.copy_from_slice(first);
    }
    rows.for_each(|row| add(to, row));
}

fn product<'a>(a: &'a [usize], b: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + use<'a> {
    a.iter().flat_map(move |&y| b.iter().map(move |&x| (y, x)))
}

/// `to = plus − minus`, where what is not there is 0.
#[inline(always)]
fn difference<T: Float>(to: &mut [T], plus: Option<&[T]>, minus: Option<&[T]>) {
    let len = to.len();
    match (plus, minus) {
        (Some(plus), Some(minus)) => {
            let (plus, minus) = (&plus[..len], &minus[..len]);
            for i in 0..len {
                to[i] = plus[i] - minus[i];
            }
        }
        (Some(plus), None) => to.copy_from_slice(&plus[..len]),
        (None, Some(minus)) => {
            for (to, &minus) in to.iter_mut().zip(minus) {
                *to = T::default() - minus;
            }
        }
        (None, None) => to.fill(T::default()),
    }
}

#[inline(always)]
fn sum<T: Float>(to: &mut [T], a: &[T], b: &[T]) {
    for ((to, &a), &b) in to.iter_mut().zip(a).zip(b) {
        *to = a + b;
    }
}

#[inline(always)]
fn add<T: Float>(to: &mut [T], from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

#[inline(always)]
fn subtract<T: Float>(to: &mut [T], from: &[T]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to -= from;
    }
}
