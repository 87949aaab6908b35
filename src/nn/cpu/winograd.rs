//! Convolutions of stride 2 with kernels of 3, 4 or 5 in 25, 36 or 64 instead of 36, 64 or 100 multiplications, on the CPU.
//!
//! Along one axis, a kernel of 4 with stride 2 takes two of its taps from the even and two from the odd samples of the
//! (padded) input. Two neighbouring outputs of two taps, `y₀ = s₀w₀ + s₂w₂` and `y₁ = s₂w₀ + s₄w₂`, need three products
//! instead of four: `(s₀ − s₂)·w₀`, `s₂·(w₀ + w₂)` and `(s₄ − s₂)·w₂` — the minimal filter F(2, 2) of Winograd (Arithmetic
//! Complexity of Computations, 1980; for networks: Lavin and Gray, arXiv 1509.09308). A kernel of 3 leaves the odd samples one
//! tap, a kernel of 5 the even ones a third: it joins the outer two products. In two dimensions the forms nest: nine products of
//! matrices ("positions"), whose inner dimension runs over the products of the parts and over the channels. All coefficients
//! are 0 and ±1, so that next to no precision is lost.
//!
//! Everything is one linear form: with `V` made of `x`, `U` of the kernels and `M` of `y`,
//! - `conv` is `M = V·U`, then `y = collect(M)`,
//! - `conv_input_grad` is `M = spread(dy)`, `V = M·Uᵀ`, then `dx = fold(V)`,
//! - `conv_weight_grad` is `dU = Vᵀ·M`, then `dw = gather(dU)`,
//!
//! where spread, fold and gather are the transposes of collect, expand and of the map from kernels to `U`. Channels come
//! last, so that every one of these maps is a few additions of long rows. What goes into a product is written as the product takes
//! it (`factor`); where it takes pairs of tiles, as for the gradient of kernels, a pair is the same tile of two images.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::factor::{Factor, Layout};
use super::float::Float;
use super::matrix::{matmul, row_major, transposed};
use super::memory::{Plain, Slot, Workspace, filled, zeroed};
use super::sums::add_to;
use super::tasks::{LINES, MAX_SUMS, vectorised};
use crate::nn::geometry::ConvPlan;

/// A term of the inner dimension along one axis: the sample `plus`, less the sample `minus`, meets the sum of some taps.
struct Term {
    plus: usize,
    minus: Option<usize>,
    taps: &'static [usize],
}

const fn part(plus: usize, minus: Option<usize>, taps: &'static [usize]) -> Term {
    Term { plus, minus, taps }
}

/// The parts of the three positions along one axis; a tile is two outputs and samples 0 to k + 1, the next one begins at 4.
type Positions = [&'static [Term]; 3];

static KERNEL_4: Positions = [
    &[part(0, Some(2), &[0]), part(1, Some(3), &[1])],
    &[part(2, None, &[0, 2]), part(3, None, &[1, 3])],
    &[part(4, Some(2), &[2]), part(5, Some(3), &[3])],
];

static KERNEL_3: Positions =
    [&[part(0, Some(2), &[0]), part(1, None, &[1])], &[part(2, None, &[0, 2])], &[part(4, Some(2), &[2]), part(3, None, &[1])]];

static KERNEL_5: Positions = [
    &[part(0, Some(2), &[0]), part(4, None, &[4]), part(1, Some(3), &[1])],
    &[part(2, None, &[0, 2]), part(3, None, &[1, 3])],
    &[part(4, Some(2), &[2]), part(6, None, &[4]), part(5, Some(3), &[3])],
];

/// Inputs advance by this much a tile, outputs by half as much.
const TILE: usize = 4;
/// Fewer channels are not worth the transforms.
const MIN_CHANNELS: usize = 32;
/// Rows of `V` and `M` of a group of images, at least; more where there is more of `U` to be read for them.
const GROUP_TILES: usize = 128;
/// Values of `U` from which on a group has twice the tiles, and weight gradients no more than one sum.
const LARGE: usize = 1 << 20;
/// Input channels whose kernels are transformed together: so many lines of memory are read in a row.
const CHANNELS: usize = 4;
/// Rows of a product that make a task.
const TASK_ROWS: usize = 128;

/// A convolution in this form.
pub(super) struct Winograd<'a> {
    plan: &'a ConvPlan,
    positions: &'static Positions,
    tiles: (usize, usize),
}

impl<'a> Winograd<'a> {
    /// The convolution in this form, if it has one that pays.
    pub fn of(plan: &'a ConvPlan) -> Option<Self> {
        let (positions, saving) = match plan.window.kernel {
            4 => (&KERNEL_4, 36.0 / 64.0),
            3 => (&KERNEL_3, 25.0 / 36.0),
            5 => (&KERNEL_5, 64.0 / 100.0),
            _ => return None,
        };
        let tiles = (plan.out_h.div_ceil(2), plan.out_w.div_ceil(2));
        // Tiles reach over the edge of odd maps.
        let waste = (4 * tiles.0 * tiles.1) as f64 / plan.positions() as f64;
        let pays = plan.window.stride == 2 && plan.ci.min(plan.co) >= MIN_CHANNELS && saving * waste < 0.9;
        pays.then_some(Self { plan, positions, tiles })
    }

    /// Tiles an image.
    fn tile_count(&self) -> usize {
        self.tiles.0 * self.tiles.1
    }

    /// Every pair of positions, with its number of pairs of parts.
    fn pair_counts(&self) -> [usize; 9] {
        std::array::from_fn(|at| self.positions[at / 3].len() * self.positions[at % 3].len())
    }

    /// Every pair of positions, with the inner dimension of its product.
    fn inner(&self) -> [usize; 9] {
        self.pair_counts().map(|pairs| pairs * self.plan.ci)
    }

    /// Values of `V` an image tile, or of `U` an output channel.
    fn depth(&self) -> usize {
        self.inner().iter().sum()
    }

    /// Parts along one axis, each with its position and its number there.
    fn parts(&self) -> impl Iterator<Item = (usize, usize, &'static Term)> + use<> {
        let positions = self.positions;
        (0..3).flat_map(move |at| positions[at].iter().enumerate().map(move |(number, part)| (at, number, part)))
    }

    /// The number of a pair of parts at their position.
    fn number(&self, along: usize, number: (usize, usize)) -> usize {
        number.0 * self.positions[along].len() + number.1
    }

    /// Images a group.
    fn group(&self) -> usize {
        let tiles = if self.depth() * self.plan.co >= LARGE { 2 * GROUP_TILES } else { GROUP_TILES };
        tiles.div_ceil(self.tile_count()).min(self.plan.n)
    }

    /// `y [n, out_h, out_w, co]`
    pub fn forward<F: Factor>(&self, x: &[F::Value], w: &[F::Value], y: &mut [MaybeUninit<F::Value>]) {
        let (plan, group) = (self.plan, self.group());
        // The inner dimensions, in words.
        let inner = self.pair_counts().map(|pairs| pairs * F::words(plan.ci));
        let depth = inner.iter().sum::<usize>();
        let mut workspace = Workspace::new::<F::Word>(&[depth * plan.co]);
        let [u] = workspace.slices::<F::Word, 1>([depth * plan.co]);
        self.kernels::<F>(w, u);
        let u = &*u;
        y.par_chunks_mut(group * plan.y_len()).zip(x.par_chunks(group * plan.x_len())).for_each(|(y, x)| {
            let tiles = y.len() / plan.y_len() * self.tile_count();
            lend_two::<F::Word, F::Value>([tiles * depth, tiles * 9 * plan.co], |v, m| {
                self.expand::<F>(Layout::Rows, x, v);
                let v = &*v;
                products(m, [tiles; 9], [plan.co; 9], |at, row, m| {
                    let (k, start) = (inner[at], inner[..at].iter().sum::<usize>());
                    let (v, u) = (&v[tiles * start + row * k..], &u[start * plan.co..]);
                    matmul::<F, _>([m.len() / plan.co, k, plan.co], v, row_major(k), u, row_major(plan.co), m, false);
                });
                self.collect(m, y);
            });
        });
    }

    /// `dx [n, h, w, ci]`
    pub fn input_grad<F: Factor>(&self, dy: &[F::Value], w: &[F::Value], dx: &mut [MaybeUninit<F::Value>]) {
        let (plan, group, inner) = (self.plan, self.group(), self.inner());
        let words = F::words(plan.co);
        let mut workspace = Workspace::new::<F::Word>(&[self.depth() * words]);
        let [u] = workspace.slices::<F::Word, 1>([self.depth() * words]);
        self.turned_kernels::<F>(w, u);
        let u = &*u;
        dx.par_chunks_mut(group * plan.x_len()).zip(dy.par_chunks(group * plan.y_len())).for_each(|(dx, dy)| {
            let tiles = dy.len() / plan.y_len() * self.tile_count();
            lend_two::<F::Word, F::Value>([tiles * 9 * words, tiles * self.depth()], |m, v| {
                self.spread::<F>(Layout::Rows, dy, m);
                let m = &*m;
                products(v, [tiles; 9], inner, |at, row, v| {
                    let (k, start) = (inner[at], inner[..at].iter().sum::<usize>());
                    let (m, u) = (&m[(at * tiles + row) * words..], &u[start * words..]);
                    matmul::<F, _>([v.len() / k, words, k], m, row_major(words), u, row_major(k), v, false);
                });
                self.fold(v, dx);
            });
        });
    }

    /// `dw [co, ci, k, k]`
    pub fn weight_grad<F: Factor>(&self, x: &[F::Value], dy: &[F::Value], dw: &mut [MaybeUninit<F::Value>]) {
        let (plan, len) = (self.plan, self.depth() * self.plan.co);
        let group = self.group().next_multiple_of(F::DEPTH);
        let groups = plan.n.div_ceil(group);
        // Each sum takes its share of the groups in order; then the sums are added in order.
        let share = if len >= LARGE { groups } else { groups.div_ceil(MAX_SUMS) } * group;
        let mut sums: Vec<Vec<F::Value>> = x
            .par_chunks(share * plan.x_len())
            .zip(dy.par_chunks(share * plan.y_len()))
            .map(|(x, dy)| {
                filled(len, |du| {
                    for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
                        self.add_group::<F>(x, dy, du, index > 0);
                    }
                })
            })
            .collect();
        let Some((total, rest)) = sums.split_first_mut() else { return };
        rest.iter().for_each(|sum| add_to(total, sum));
        self.gather(total, dw);
    }

    /// A group's share of `dU`, written or added.
    fn add_group<F: Factor>(&self, x: &[F::Value], dy: &[F::Value], du: &mut [MaybeUninit<F::Value>], add: bool) {
        let (co, inner) = (self.plan.co, self.inner());
        let words = F::words(dy.len() / self.plan.y_len()) * self.tile_count();
        lend_two::<F::Word, F::Word>([words * self.depth(), words * 9 * co], |v, m| {
            self.expand::<F>(Layout::Columns, x, v);
            self.spread::<F>(Layout::Columns, dy, m);
            let (v, m) = (&*v, &*m);
            products(du, inner, [co; 9], |at, row, du| {
                let (k, start) = (inner[at], inner[..at].iter().sum::<usize>());
                let (v, m) = (&v[words * start + row..], &m[at * words * co..]);
                matmul::<F, _>([du.len() / co, words, co], v, transposed(k), m, row_major(co), du, add);
            });
        });
    }

    /// The rows of `V` (or `M`) of every image of a group, or of all images that share them, by position: `width(position)` values a tile.
    fn by_image<'m, T>(&self, values: &'m mut [T], width: [usize; 9]) -> Vec<[&'m mut [T]; 9]> {
        let tiles = self.tile_count();
        let images = values.len() / (tiles * width.iter().sum::<usize>());
        let mut positions: Vec<_> = split(values, &width.map(|width| width * tiles * images))
            .into_iter()
            .zip(width)
            .map(|(values, width)| values.chunks_exact_mut(tiles * width))
            .collect();
        (0..images).map(|_| std::array::from_fn(|at| positions[at].next().unwrap_or_default())).collect()
    }

    /// Columns of a strip: what the tiles of a row of tiles reach.
    fn strip_columns(&self) -> usize {
        TILE * self.tiles.1 + self.plan.window.kernel - 2
    }

    /// The columns of a strip that lie in the input, from its first one on.
    fn inside(&self) -> Range<usize> {
        let padding = self.plan.window.padding;
        let end = self.strip_columns().min(padding + self.plan.w);
        padding.min(end)..end
    }

    /// The input row at sample `sample` of a row of tiles, unless that is padding.
    fn input_row(&self, ty: usize, sample: usize) -> Option<usize> {
        (TILE * ty + sample).checked_sub(self.plan.window.padding).filter(|&row| row < self.plan.h)
    }

    /// `x` → `V`. Down the columns first, into a strip of all tiles of a row; then along the rows.
    fn expand<F: Factor>(&self, layout: Layout, x: &[F::Value], v: &mut [F::Word]) {
        let (plan, c) = (self.plan, self.plan.ci);
        let (together, width) = (F::together(layout), F::width(layout, c));
        let (row_len, strip_len) = (plan.w * c, self.strip_columns() * c);
        let inside = self.inside();
        let images = self.by_image(v, self.pair_counts().map(|pairs| pairs * width));
        images.into_par_iter().zip(x.par_chunks(together * plan.x_len())).for_each(|(mut v, x)| {
            let sizes = [together * strip_len, together * c];
            let mut workspace = Workspace::new::<F::Value>(&sizes);
            let [strips, room] = workspace.slices::<F::Value, 2>(sizes);
            vectorised(|| {
                strips.fill(F::Value::ZERO);
                for ty in 0..self.tiles.0 {
                    for (down, down_number, part) in self.parts() {
                        for (strip, x) in strips.chunks_exact_mut(strip_len).zip(x.chunks_exact(plan.x_len())) {
                            let row = |sample: usize| self.input_row(ty, sample).map(|row| &x[row * row_len..][..row_len]);
                            let strip_row = &mut strip[inside.start * c..inside.end * c];
                            difference(strip_row, row(part.plus), part.minus.and_then(row));
                        }
                        for (along, along_number, part) in self.parts() {
                            let at = 3 * down + along;
                            let (pairs, pair) = (self.pair_counts()[at], self.number(along, (down_number, along_number)));
                            for tx in 0..self.tiles.1 {
                                let to = &mut v[at][((ty * self.tiles.1 + tx) * pairs + pair) * width..][..width];
                                F::put(layout, to, room, |image, to| {
                                    let first = image * strip_len + TILE * tx * c;
                                    let sample = |sample: usize| &strips[first + sample * c..][..c];
                                    difference(to, Some(sample(part.plus)), part.minus.map(sample));
                                });
                            }
                        }
                    }
                }
            });
        });
    }

    /// `V` → `x`: the transpose of [`Self::expand`].
    fn fold<T: Float>(&self, v: &[T], x: &mut [MaybeUninit<T>]) {
        let (plan, c, columns) = (self.plan, self.plan.ci, self.strip_columns());
        let row_len = plan.w * c;
        let inside = self.inside();
        let (inner, tiles) = (self.inner(), self.tile_count());
        let images = x.len() / plan.x_len();
        x.par_chunks_exact_mut(plan.x_len()).enumerate().for_each(|(image, x)| {
            let mut workspace = Workspace::new::<T>(&[columns * c]);
            let [strip] = workspace.slices::<T, 1>([columns * c]);
            vectorised(|| {
                let x = zeroed(x);
                for ty in 0..self.tiles.0 {
                    for (down, down_number, part) in self.parts() {
                        strip.fill(T::default());
                        for (along, along_number, part) in self.parts() {
                            let at = 3 * down + along;
                            let (k, start) = (inner[at], inner[..at].iter().sum::<usize>() * tiles * images);
                            let offset = self.number(along, (down_number, along_number)) * c;
                            for tx in 0..self.tiles.1 {
                                let from = &v[start + (image * tiles + ty * self.tiles.1 + tx) * k + offset..][..c];
                                add(&mut strip[(TILE * tx + part.plus) * c..][..c], from);
                                if let Some(minus) = part.minus {
                                    subtract(&mut strip[(TILE * tx + minus) * c..][..c], from);
                                }
                            }
                        }
                        let strip_row = &strip[inside.start * c..inside.end * c];
                        if let Some(row) = self.input_row(ty, part.plus) {
                            add(&mut x[row * row_len..][..row_len], strip_row);
                        }
                        if let Some(row) = part.minus.and_then(|minus| self.input_row(ty, minus)) {
                            subtract(&mut x[row * row_len..][..row_len], strip_row);
                        }
                    }
                }
            });
        });
    }

    /// Where in `y` the four outputs of a tile are; those over the edge of an odd map are not.
    fn outputs(&self, tile: usize) -> [Option<usize>; 4] {
        let (ty, tx) = (tile / self.tiles.1, tile % self.tiles.1);
        std::array::from_fn(|at| {
            let (y, x) = (2 * ty + at / 2, 2 * tx + at % 2);
            (y < self.plan.out_h && x < self.plan.out_w).then_some((y * self.plan.out_w + x) * self.plan.co)
        })
    }

    /// `M` → `y`: along each axis `y₀ = m₀ + m₁`, `y₁ = m₁ + m₂`.
    fn collect<T: Float>(&self, m: &[T], y: &mut [MaybeUninit<T>]) {
        let (co, tiles) = (self.plan.co, self.tile_count());
        let images = m.len() / (9 * tiles * co);
        y.par_chunks_exact_mut(self.plan.y_len()).enumerate().for_each(|(image, y)| {
            vectorised(|| {
                for tile in 0..tiles {
                    let m: [&[T]; 9] = std::array::from_fn(|at| &m[((at * images + image) * tiles + tile) * co..][..co]);
                    for (output, start) in self.outputs(tile).into_iter().enumerate() {
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
            });
        });
    }

    /// `y` → `M`: the transpose of [`Self::collect`].
    fn spread<F: Factor>(&self, layout: Layout, y: &[F::Value], m: &mut [F::Word]) {
        let (co, y_len) = (self.plan.co, self.plan.y_len());
        let (together, width) = (F::together(layout), F::width(layout, co));
        let images = self.by_image(m, [width; 9]);
        images.into_par_iter().zip(y.par_chunks(together * y_len)).for_each(|(mut m, y)| {
            let sizes = [co, together * co];
            let mut workspace = Workspace::new::<F::Value>(&sizes);
            let [zeros, room] = workspace.slices::<F::Value, 2>(sizes);
            zeros.fill(F::Value::ZERO);
            vectorised(|| {
                for tile in 0..self.tile_count() {
                    let outputs = self.outputs(tile);
                    for (at, m) in m.iter_mut().enumerate() {
                        F::put(layout, &mut m[tile * width..][..width], room, |image, to| {
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
            });
        });
    }

    /// Kernels `[co, ci, k, k]` → `U`.
    fn kernels<F: Factor>(&self, w: &[F::Value], u: &mut [F::Word]) {
        let ConvPlan { ci, co, .. } = *self.plan;
        let k = self.plan.window.kernel;
        let area = k * k;
        // The rows of U that each block of input channels owns: those of all parts at all positions.
        let blocks = ci.div_ceil(CHANNELS);
        let mut rows: Vec<Vec<&mut [F::Word]>> = (0..blocks).map(|_| Vec::with_capacity(64)).collect();
        for of_parts in u.chunks_exact_mut(F::words(ci) * co) {
            of_parts.chunks_mut(F::words(CHANNELS) * co).zip(&mut rows).for_each(|(of_block, rows)| rows.push(of_block));
        }
        rows.into_par_iter().enumerate().for_each(|(block, mut rows)| {
            let channels = CHANNELS.min(ci - block * CHANNELS);
            let sizes = [channels * area * co, F::DEPTH * co];
            let mut workspace = Workspace::new::<F::Value>(&sizes);
            let [taps, room] = workspace.slices::<F::Value, 2>(sizes);
            vectorised(|| {
                for first in (0..co).step_by(LINES) {
                    let outs = first..co.min(first + LINES);
                    for tap in 0..channels * area {
                        let from = |out: usize| w[(out * ci + block * CHANNELS) * area + tap];
                        let to = taps[tap * co..][outs.clone()].iter_mut();
                        to.zip(outs.clone()).for_each(|(to, out)| *to = from(out));
                    }
                }
                for (rows, (down, along)) in rows.iter_mut().zip(self.pairs()) {
                    for (word, row) in rows.chunks_exact_mut(co).enumerate() {
                        F::put(Layout::Columns, row, room, |which, to| {
                            let channel = word * F::DEPTH + which;
                            let tap = |(y, x): (usize, usize)| &taps[(channel * area + y * k + x) * co..][..co];
                            sum_of(to, product(down.taps, along.taps).take_while(|_| channel < channels).map(tap));
                        });
                    }
                }
            });
        });
    }

    /// Kernels `[co, ci, k, k]` → `Uᵀ`, position by position: a product takes its second factor best by rows.
    fn turned_kernels<F: Factor>(&self, w: &[F::Value], u: &mut [F::Word]) {
        let ConvPlan { ci, co, .. } = *self.plan;
        let k = self.plan.window.kernel;
        let area = k * k;
        let mut rows: Vec<Vec<&mut [F::Word]>> = (0..F::words(co)).map(|_| Vec::with_capacity(9)).collect();
        for (of_position, depth) in split(u, &self.inner().map(|depth| depth * F::words(co))).into_iter().zip(self.inner()) {
            of_position.chunks_exact_mut(depth).zip(&mut rows).for_each(|(row, rows)| rows.push(row));
        }
        // Rows of taps a line apart from where they would share the places of a cache.
        let stride = ci + LINES;
        rows.into_par_iter().zip(w.par_chunks(F::DEPTH * ci * area)).for_each(|(rows, w)| {
            let sizes = [F::DEPTH * area * stride, F::DEPTH * ci];
            let mut workspace = Workspace::new::<F::Value>(&sizes);
            let [taps, room] = workspace.slices::<F::Value, 2>(sizes);
            let outs = w.len() / (ci * area);
            vectorised(|| {
                for (taps, w) in taps.chunks_exact_mut(area * stride).zip(w.chunks_exact(ci * area)) {
                    for (channel, w) in w.chunks_exact(area).enumerate() {
                        w.iter().enumerate().for_each(|(tap, &value)| taps[tap * stride + channel] = value);
                    }
                }
                let parts = rows.into_iter().flat_map(|row| row.chunks_exact_mut(ci));
                for (part, (down, along)) in parts.zip(self.pairs()) {
                    F::put(Layout::Columns, part, room, |out, to| {
                        let tap = |(y, x): (usize, usize)| &taps[(out * area + y * k + x) * stride..][..ci];
                        sum_of(to, product(down.taps, along.taps).take_while(|_| out < outs).map(tap));
                    });
                }
            });
        });
    }

    /// `dU` → the gradient of kernels `[co, ci, k, k]`: the transpose of [`Self::kernels`].
    fn gather<T: Float>(&self, du: &[T], dw: &mut [MaybeUninit<T>]) {
        /// Output channels a task.
        const BLOCK: usize = 64;
        let ConvPlan { ci, co, .. } = *self.plan;
        let k = self.plan.window.kernel;
        let area = k * k;
        dw.par_chunks_mut(BLOCK * ci * area).enumerate().for_each(|(block, dw)| {
            let (start, len) = (block * BLOCK, dw.len() / (ci * area));
            let size = CHANNELS * area * len;
            let mut workspace = Workspace::new::<T>(&[size]);
            let [taps] = workspace.slices::<T, 1>([size]);
            vectorised(|| {
                for first in (0..ci).step_by(CHANNELS) {
                    let channels = CHANNELS.min(ci - first);
                    taps.fill(T::default());
                    for (pair, (down, along)) in self.pairs().enumerate() {
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
                            let from = &taps[tap * len..][outs.clone()];
                            outs.clone().zip(from).for_each(|(out, &value)| dw[(out * ci + first) * area + tap].put(value));
                        }
                    }
                }
            });
        });
    }

    /// The pairs of parts in the order of the rows of `U`.
    fn pairs(&self) -> impl Iterator<Item = (&'static Term, &'static Term)> + use<> {
        let positions = self.positions;
        (0..9).flat_map(move |at| {
            positions[at / 3].iter().flat_map(move |down| positions[at % 3].iter().map(move |along| (down, along)))
        })
    }
}

/// The nine products, in blocks of the rows of their results: `work(position, first row, block)`.
fn products<S: Send>(
    results: &mut [S],
    rows: [usize; 9],
    row_len: [usize; 9],
    work: impl Fn(usize, usize, &mut [S]) + Send + Sync,
) {
    let lengths: [usize; 9] = std::array::from_fn(|at| rows[at] * row_len[at]);
    let blocks = split(results, &lengths).into_iter().enumerate().flat_map(|(at, result)| {
        let block = rows[at].div_ceil(rows[at].div_ceil(TASK_ROWS));
        result.chunks_mut(block * row_len[at]).enumerate().map(move |(index, result)| (at, index * block, result))
    });
    blocks.collect::<Vec<_>>().into_par_iter().for_each(|(at, row, result)| work(at, row, result));
}

/// Lends memory for two kinds of numbers.
fn lend_two<A: Plain, B: Plain>([a, b]: [usize; 2], work: impl FnOnce(&mut [A], &mut [B])) {
    let (mut of_a, mut of_b) = (Workspace::new::<A>(&[a]), Workspace::new::<B>(&[b]));
    let ([a], [b]) = (of_a.slices::<A, 1>([a]), of_b.slices::<B, 1>([b]));
    work(a, b);
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

/// The sum of rows; 0 where there are none.
#[inline(always)]
fn sum_of<'r, T: Float>(to: &mut [T], mut rows: impl Iterator<Item = &'r [T]>) {
    match rows.next() {
        Some(first) => to.copy_from_slice(first),
        None => to.fill(T::ZERO),
    }
    rows.for_each(|row| add(to, row));
}

/// Cuts a slice into pieces of the given lengths.
fn split<'a, T>(mut values: &'a mut [T], lengths: &[usize]) -> Vec<&'a mut [T]> {
    let mut pieces = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (piece, rest) = values.split_at_mut(length);
        pieces.push(piece);
        values = rest;
    }
    pieces
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
