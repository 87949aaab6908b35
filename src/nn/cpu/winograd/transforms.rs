//! The maps between images and the factors and results of products, image by image; their kernels, channel by channel.

use std::mem::MaybeUninit;

use super::axis::{Axis, Sum, parts_of, samples_of, store_sums};
use super::{CHANNELS, Winograd};
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
        v: Vec<&mut [F::Word]>,
        strips: &mut [F::Value],
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
                    let samples = [0, strips.len() - strip_len].map(|start| &strips[start + A::STEP * tx * c..]);
                    parts_of::<A, F>(layout, c, samples, to);
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
                strip[..(A::SAMPLES - A::STEP) * c].fill(T::ZERO);
                for tx in 0..form.tiles.1 {
                    let row = (ty * form.tiles.1 + tx) * A::COUNTS[down] + down_number;
                    let piece = |at: usize| &v[3 * down + at][row * A::COUNTS[at] * c..][..A::COUNTS[at] * c];
                    samples_of::<A, T>([piece(0), piece(1), piece(2)], &mut strip[A::STEP * tx * c..][..A::SAMPLES * c]);
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
    pub(super) fn spread_image<F: Factor>(form: &Winograd<'_>, layout: Layout, y: &[F::Value], m: Vec<&mut [F::Word]>) {
        let (co, y_len) = (form.plan.co, form.plan.y_len());
        let mut m = m;
        for tile in 0..form.tile_count() {
            let places = form.outputs(tile);
            let mut m = m.iter_mut();
            for outputs in OUTPUTS {
                for (piece, m) in F::pieces(layout, co).zip(&mut m) {
                    let mut rows = [Sum::new(); 2];
                    // An image that is missing is zero.
                    for (sum, y) in rows.iter_mut().zip(y.chunks_exact(y_len)) {
                        for &output in outputs {
                            if let Some(place) = places[output] {
                                sum.push(&y[place + piece.start..place + piece.end]);
                            }
                        }
                    }
                    let width = F::width(layout, piece.len());
                    store_sums::<F>(layout, &mut m[tile * width..][..width], piece.len(), &rows);
                }
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
        let mut rows = rows.into_iter();
        for at in 0..9 {
            for piece in F::pieces(Layout::Panels, co) {
                for ((down, along), rows) in form.pairs(at).zip(&mut rows) {
                    for (word, to) in rows.chunks_exact_mut(piece.len()).enumerate() {
                        let mut sums = [Sum::new(); 2];
                        for (sum, taps) in sums.iter_mut().zip(taps[word * F::DEPTH * area * co..].chunks_exact(area * co)) {
                            sum.push_taps(down, along, k, |tap| &taps[tap * co..][piece.start..piece.end]);
                        }
                        store_sums::<F>(Layout::Panels, to, piece.len(), &sums);
                    }
                }
            }
        }
    }

    /// The rows of `Uᵀ` of a few output channels.
    pub(super) fn turned_block<F: Factor>(form: &Winograd<'_>, w: &[F::Value], rows: Vec<&mut [F::Word]>, taps: &mut [F::Value]) {
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
        let mut rows = rows.into_iter();
        for (at, depth) in form.inner().into_iter().enumerate() {
            for (piece, rows) in F::pieces(Layout::Panels, depth).zip(&mut rows) {
                // A piece holds some channels of one pair of parts, or of several.
                let of_words = taps.chunks_exact(F::DEPTH * area * stride);
                for (mut to, taps) in rows.chunks_exact_mut(piece.len()).zip(of_words) {
                    for ((down, along), start) in form.pairs(at).zip((0..).step_by(ci)) {
                        let channels =
                            piece.start.clamp(start, start + ci) - start..piece.end.clamp(start, start + ci) - start;
                        if channels.is_empty() {
                            continue;
                        }
                        let (here, rest) = to.split_at_mut(channels.len());
                        let mut sums = [Sum::new(); 2];
                        for (sum, taps) in sums.iter_mut().zip(taps.chunks_exact(area * stride)) {
                            sum.push_taps(down, along, k, |tap| &taps[tap * stride..][channels.start..channels.end]);
                        }
                        store_sums::<F>(Layout::Panels, here, channels.len(), &sums);
                        to = rest;
                    }
                }
            }
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
            for (pair, (down, along)) in (0..9).flat_map(|at| form.pairs(at)).enumerate() {
                for channel in 0..channels {
                    let from = &du[(pair * ci + first + channel) * co + start..][..len];
                    for &y in down.taps {
                        for &x in along.taps {
                            add(&mut taps[(channel * area + y * k + x) * len..][..len], from);
                        }
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

/// What each of the nine positions has of the four outputs of a tile: along each axis the first, both, the second.
const OUTPUTS: [&[usize]; 9] = [&[0], &[0, 1], &[1], &[0, 2], &[0, 1, 2, 3], &[1, 3], &[2], &[2, 3], &[3]];

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
