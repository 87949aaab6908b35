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
//! last, so that every one of these maps is a few additions of long rows.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::float::Float;
use super::matrix::{matmul, row_major, transposed};
use super::memory::{Slot, Workspace, filled, zeroed};
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

/// Which product of the three.
enum Gemm {
    Forward,
    InputGrad,
    WeightGrad { add: bool },
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

    /// Every pair of positions, with the inner dimension of its product.
    fn inner(&self) -> [usize; 9] {
        std::array::from_fn(|at| self.positions[at / 3].len() * self.positions[at % 3].len() * self.plan.ci)
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

    /// Where the values of a pair of parts begin in a row of `V` at their position, or among the rows of `U` there.
    fn offset(&self, across: (usize, usize), number: (usize, usize)) -> usize {
        (number.0 * self.positions[across.1].len() + number.1) * self.plan.ci
    }

    /// Images a group.
    fn group(&self) -> usize {
        let tiles = if self.depth() * self.plan.co >= LARGE { 2 * GROUP_TILES } else { GROUP_TILES };
        tiles.div_ceil(self.tile_count()).min(self.plan.n)
    }

    /// `y [n, out_h, out_w, co]`
    pub fn forward<T: Float>(&self, x: &[T], w: &[T], y: &mut [MaybeUninit<T>]) {
        let (plan, group) = (self.plan, self.group());
        let mut workspace = Workspace::new::<T>(&[self.depth() * plan.co]);
        let [u] = workspace.slices::<T, 1>([self.depth() * plan.co]);
        self.kernels(w, u);
        let u = &*u;
        y.par_chunks_mut(group * plan.y_len()).zip(x.par_chunks(group * plan.x_len())).for_each(|(y, x)| {
            self.with_group(y.len() / plan.y_len(), |v, m| {
                self.expand(x, v);
                self.multiply(&Gemm::Forward, v, m, &mut [], u);
                self.collect(m, y);
            });
        });
    }

    /// `dx [n, h, w, ci]`
    pub fn input_grad<T: Float>(&self, dy: &[T], w: &[T], dx: &mut [MaybeUninit<T>]) {
        let (plan, group) = (self.plan, self.group());
        let mut workspace = Workspace::new::<T>(&[self.depth() * plan.co]);
        let [u] = workspace.slices::<T, 1>([self.depth() * plan.co]);
        self.turned_kernels(w, u);
        let u = &*u;
        dx.par_chunks_mut(group * plan.x_len()).zip(dy.par_chunks(group * plan.y_len())).for_each(|(dx, dy)| {
            self.with_group(dy.len() / plan.y_len(), |v, m| {
                self.spread(dy, m);
                self.multiply(&Gemm::InputGrad, v, m, &mut [], u);
                self.fold(v, dx);
            });
        });
    }

    /// `dw [co, ci, k, k]`
    pub fn weight_grad<T: Float>(&self, x: &[T], dy: &[T], dw: &mut [MaybeUninit<T>]) {
        let (plan, group, len) = (self.plan, self.group(), self.depth() * self.plan.co);
        let groups = plan.n.div_ceil(group);
        // Each sum takes its share of the groups in order; then the sums are added in order.
        let share = if len >= LARGE { groups } else { groups.div_ceil(MAX_SUMS) } * group;
        let mut sums: Vec<Vec<T>> = x
            .par_chunks(share * plan.x_len())
            .zip(dy.par_chunks(share * plan.y_len()))
            .map(|(x, dy)| {
                filled(len, |du| {
                    for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
                        self.with_group(dy.len() / plan.y_len(), |v, m| {
                            self.expand(x, v);
                            self.spread(dy, m);
                            self.multiply(&Gemm::WeightGrad { add: index > 0 }, v, m, du, &[]);
                        });
                    }
                })
            })
            .collect();
        let Some((total, rest)) = sums.split_first_mut() else { return };
        rest.iter().for_each(|sum| add_to(total, sum));
        self.gather(total, dw);
    }

    /// Lends `V` and `M` of a number of images.
    fn with_group<T: Float>(&self, images: usize, work: impl FnOnce(&mut [T], &mut [T])) {
        let tiles = images * self.tile_count();
        let sizes = [tiles * self.depth(), tiles * 9 * self.plan.co];
        let mut workspace = Workspace::new::<T>(&sizes);
        let [v, m] = workspace.slices(sizes);
        work(v, m);
    }

    /// The nine products, in blocks of rows.
    fn multiply<T: Float>(&self, product: &Gemm, v: &mut [T], m: &mut [T], du: &mut [MaybeUninit<T>], u: &[T]) {
        let co = self.plan.co;
        let tiles = m.len() / (9 * co);
        let inner = self.inner();
        let starts = |at: usize| inner[..at].iter().sum::<usize>();
        let rows = |total: usize| total.div_ceil(total.div_ceil(TASK_ROWS));
        match *product {
            Gemm::Forward => {
                let v = &*v;
                let blocks = m
                    .chunks_mut(tiles * co)
                    .enumerate()
                    .flat_map(|(at, m)| m.chunks_mut(rows(tiles) * co).enumerate().map(move |(block, m)| (at, block, m)));
                blocks.collect::<Vec<_>>().into_par_iter().for_each(|(at, block, m)| {
                    let (k, start) = (inner[at], starts(at));
                    let v = &v[tiles * start + block * rows(tiles) * k..];
                    matmul([m.len() / co, k, co], v, row_major(k), &u[start * co..], row_major(co), m, false);
                });
            }
            Gemm::InputGrad => {
                let m = &*m;
                let blocks = split(v, &inner.map(|k| k * tiles)).into_iter().enumerate().flat_map(|(at, v)| {
                    v.chunks_mut(rows(tiles) * inner[at]).enumerate().map(move |(block, v)| (at, block, v))
                });
                blocks.collect::<Vec<_>>().into_par_iter().for_each(|(at, block, v)| {
                    let (k, start) = (inner[at], starts(at));
                    let m = &m[(at * tiles + block * rows(tiles)) * co..];
                    matmul([v.len() / k, co, k], m, row_major(co), &u[start * co..], row_major(k), v, false);
                });
            }
            Gemm::WeightGrad { add } => {
                let (v, m) = (&*v, &*m);
                let blocks = split(du, &inner.map(|k| k * co)).into_iter().enumerate().flat_map(|(at, du)| {
                    du.chunks_mut(rows(inner[at]) * co).enumerate().map(move |(block, du)| (at, block, du))
                });
                blocks.collect::<Vec<_>>().into_par_iter().for_each(|(at, block, du)| {
                    let k = inner[at];
                    let v = &v[tiles * starts(at) + block * rows(k)..];
                    matmul([du.len() / co, tiles, co], v, transposed(k), &m[at * tiles * co..], row_major(co), du, add);
                });
            }
        }
    }

    /// The rows of `V` (or `M`) of every image of a group, by position: `width(position)` values a tile.
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
    fn expand<T: Float>(&self, x: &[T], v: &mut [T]) {
        let (plan, c, columns) = (self.plan, self.plan.ci, self.strip_columns());
        let row_len = plan.w * c;
        let inside = self.inside();
        let images = self.by_image(v, self.inner());
        images.into_par_iter().zip(x.par_chunks_exact(plan.x_len())).for_each(|(mut v, x)| {
            let mut workspace = Workspace::new::<T>(&[columns * c]);
            let [strip] = workspace.slices::<T, 1>([columns * c]);
            vectorised(|| {
                strip.fill(T::default());
                for ty in 0..self.tiles.0 {
                    for (down, down_number, part) in self.parts() {
                        let row = |sample: usize| self.input_row(ty, sample).map(|row| &x[row * row_len..][..row_len]);
                        let strip_row = &mut strip[inside.start * c..inside.end * c];
                        difference(strip_row, row(part.plus), part.minus.and_then(row));
                        for (along, along_number, part) in self.parts() {
                            let across = (down, along);
                            let (k, at) = (self.inner()[3 * down + along], self.offset(across, (down_number, along_number)));
                            for tx in 0..self.tiles.1 {
                                let sample = |sample: usize| &strip[(TILE * tx + sample) * c..][..c];
                                let to = &mut v[3 * down + along][(ty * self.tiles.1 + tx) * k + at..][..c];
                                difference(to, Some(sample(part.plus)), part.minus.map(sample));
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
                            let offset = self.offset((down, along), (down_number, along_number));
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
    fn spread<T: Float>(&self, y: &[T], m: &mut [T]) {
        let (co, zeros) = (self.plan.co, vec![T::default(); self.plan.co]);
        let images = self.by_image(m, [co; 9]);
        images.into_par_iter().zip(y.par_chunks_exact(self.plan.y_len())).for_each(|(mut m, y)| {
            vectorised(|| {
                for tile in 0..self.tile_count() {
                    let [a, b, c, d] = self.outputs(tile).map(|start| start.map_or(&zeros[..], |start| &y[start..start + co]));
                    let [m00, m01, m02, m10, m11, m12, m20, m21, m22] =
                        m.each_mut().map(|m| &mut m[tile * co..(tile + 1) * co]);
                    m00.copy_from_slice(a);
                    sum(m01, a, b);
                    m02.copy_from_slice(b);
                    sum(m10, a, c);
                    for i in 0..co {
                        m11[i] = (a[i] + b[i]) + (c[i] + d[i]);
                    }
                    sum(m12, b, d);
                    m20.copy_from_slice(c);
                    sum(m21, c, d);
                    m22.copy_from_slice(d);
                }
            });
        });
    }

    /// Kernels `[co, ci, k, k]` → `U`.
    fn kernels<T: Float>(&self, w: &[T], u: &mut [T]) {
        let ConvPlan { ci, co, .. } = *self.plan;
        let k = self.plan.window.kernel;
        let area = k * k;
        // The rows of U that each block of input channels owns: those of all parts at all positions.
        let blocks = ci.div_ceil(CHANNELS);
        let mut rows: Vec<Vec<&mut [T]>> = (0..blocks).map(|_| Vec::with_capacity(64)).collect();
        for of_parts in u[..self.depth() * co].chunks_exact_mut(ci * co) {
            of_parts.chunks_mut(CHANNELS * co).zip(&mut rows).for_each(|(of_block, rows)| rows.push(of_block));
        }
        rows.into_par_iter().enumerate().for_each(|(block, mut rows)| {
            let channels = CHANNELS.min(ci - block * CHANNELS);
            let size = channels * area * co;
            let mut workspace = Workspace::new::<T>(&[size]);
            let [taps] = workspace.slices::<T, 1>([size]);
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
                    for (channel, row) in rows.chunks_exact_mut(co).enumerate() {
                        let tap = |(y, x): (usize, usize)| &taps[(channel * area + y * k + x) * co..][..co];
                        let mut of = product(down.taps, along.taps).map(tap);
                        if let Some(first) = of.next() {
                            row.copy_from_slice(first);
                        }
                        of.for_each(|tap| add(row, tap));
                    }
                }
            });
        });
    }

    /// Kernels `[co, ci, k, k]` → `Uᵀ`, position by position: a product takes its second factor best by rows.
    fn turned_kernels<T: Float>(&self, w: &[T], u: &mut [T]) {
        let ConvPlan { ci, co, .. } = *self.plan;
        let k = self.plan.window.kernel;
        let area = k * k;
        let mut rows: Vec<Vec<&mut [T]>> = (0..co).map(|_| Vec::with_capacity(9)).collect();
        for (of_position, depth) in
            split(&mut u[..self.depth() * co], &self.inner().map(|depth| depth * co)).into_iter().zip(self.inner())
        {
            of_position.chunks_exact_mut(depth).zip(&mut rows).for_each(|(row, rows)| rows.push(row));
        }
        // Rows of taps a line apart from where they would share the places of a cache.
        let stride = ci + LINES;
        rows.into_par_iter().zip(w.par_chunks_exact(ci * area)).for_each(|(rows, w)| {
            let mut workspace = Workspace::new::<T>(&[area * stride]);
            let [taps] = workspace.slices::<T, 1>([area * stride]);
            vectorised(|| {
                for (channel, w) in w.chunks_exact(area).enumerate() {
                    w.iter().enumerate().for_each(|(tap, &value)| taps[tap * stride + channel] = value);
                }
                let parts = rows.into_iter().flat_map(|row| row.chunks_exact_mut(ci));
                for (part, (down, along)) in parts.zip(self.pairs()) {
                    let mut of = product(down.taps, along.taps).map(|(y, x)| &taps[(y * k + x) * stride..][..ci]);
                    if let Some(first) = of.next() {
                        part.copy_from_slice(first);
                    }
                    of.for_each(|tap| add(part, tap));
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
