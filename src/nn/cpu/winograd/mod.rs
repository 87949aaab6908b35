//! Convolutions of stride 2 with kernels of 3, 4 or 5 in 25, 36 or 64 instead of 36, 64 or 100 multiplications, on the CPU; and those of
//! stride 1 with kernels of 3 in 25 instead of 36.
//!
//! Along one axis, a kernel of 4 with stride 2 takes two of its taps from the even and two from the odd samples of the
//! (padded) input. Two neighbouring outputs of two taps, `y₀ = s₀w₀ + s₂w₂` and `y₁ = s₂w₀ + s₄w₂`, need three products
//! instead of four: `(s₀ − s₂)·w₀`, `s₂·(w₀ + w₂)` and `(s₄ − s₂)·w₂` — the minimal filter F(2, 2) of Winograd (Arithmetic
//! Complexity of Computations, 1980; for networks: Lavin and Gray, arXiv 1509.09308). A kernel of 3 leaves the odd samples one
//! tap, a kernel of 5 the even ones a third: it joins the outer two products. With stride 1 the first two taps of a kernel of 3 take the
//! form, and the third joins likewise. (F(2, 3) would need 16 multiplications, but halves and sums of three, which cost precision and
//! passes.) In two dimensions the forms nest: nine products of
//! matrices ("positions"), whose inner dimension runs over the products of the parts and over the channels. All coefficients
//! are 0 and ±1, so that next to no precision is lost. Where products take bf16 the error is two to three times that of im2col in bf16,
//! half a percent at most on real activations (`tests/suite/bf16.rs`), so that the same shapes take this form. The next one, F(4, 2), would
//! have four to eight times that of im2col. Where products are so fast that they wait for memory, nothing takes it: sparing
//! multiplications would not pay for the passes.
//!
//! Everything is one linear form: with `V` made of `x`, `U` of the kernels and `M` of `y`,
//! - `conv` is `M = V·U`, then `y = collect(M)`,
//! - `conv_input_grad` is `M = spread(dy)`, `V = M·Uᵀ`, then `dx = fold(V)`,
//! - `conv_weight_grad` is `dU = Vᵀ·M`, then `dw = gather(dU)`,
//!
//! where spread, fold and gather are the transposes of collect, expand and of the map from kernels to `U`. Channels come
//! last, so that every one of these maps is a few additions of long rows. What goes into a product is written as the product takes
//! it (`factor`); where it takes pairs of tiles, as for the gradient of kernels, a pair is the same tile of two images.

mod axis;
mod transforms;

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::nn::cpu::factor::{Factor, Layout, Second};
use crate::nn::cpu::float::{Float, Plain};
use crate::nn::cpu::matrix::matmul;
use crate::nn::cpu::memory::Workspace;
use crate::nn::cpu::strides::{row_major, transposed};
use crate::nn::cpu::sums::with_sums;
use crate::nn::cpu::tasks::{LINES, MAX_SUMS};
use crate::nn::geometry::ConvPlan;
use axis::{Axis, on_axis};
use transforms::{collect_image, expand_image, fold_image, gather_block, kernels_block, spread_image, turned_block};

/// A term of the inner dimension along one axis: the sample `plus`, less the sample `minus`, meets the sum of some taps.
struct Term {
    plus: usize,
    minus: Option<usize>,
    taps: &'static [usize],
}

const fn part(plus: usize, minus: Option<usize>, taps: &'static [usize]) -> Term {
    Term { plus, minus, taps }
}

/// The parts of the three positions along one axis; a tile is two outputs and, of stride s, samples 0 to k + s − 1, the next one begins
/// at 2s.
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

/// Of stride 1.
static NEAR_3: Positions =
    [&[part(0, Some(1), &[0]), part(2, None, &[2])], &[part(1, None, &[0, 1])], &[part(2, Some(1), &[1]), part(3, None, &[2])]];

/// Fewer channels are not worth the transforms.
const MIN_CHANNELS: usize = 32;
/// Rows of `V` and `M` of a group of images, at least; more where there is more of `U` to be read for them.
const GROUP_TILES: usize = 128;
/// Values of `U` from which on weight gradients have no more than one sum, and a group has twice the tiles; these from twice as many on
/// where they are half as large.
const LARGE: usize = 1 << 20;
/// Input channels whose kernels are transformed together: so many lines of memory are read in a row.
const CHANNELS: usize = 4;
/// Rows of words of `Uᵀ` that are made together, likewise.
const WORDS: usize = 4;
/// Rows of a product that make a task.
const TASK_ROWS: usize = 128;

/// A convolution in this form.
pub(super) struct Winograd<'a> {
    plan: &'a ConvPlan,
    positions: &'static Positions,
    tiles: (usize, usize),
}

impl<'a> Winograd<'a> {
    /// The convolution in this form, if it has one that pays. Channels fill whole words.
    pub fn of<F: Factor>(plan: &'a ConvPlan) -> Option<Self> {
        let (positions, saving) = match (plan.window.kernel, plan.window.stride) {
            (4, 2) => (&KERNEL_4, 36.0 / 64.0),
            (3, 2) => (&KERNEL_3, 25.0 / 36.0),
            (5, 2) => (&KERNEL_5, 64.0 / 100.0),
            (3, 1) => (&NEAR_3, 25.0 / 36.0),
            _ => return None,
        };
        let tiles = (plan.out_h.div_ceil(2), plan.out_w.div_ceil(2));
        // Tiles reach over the edge of odd maps.
        let waste = (4 * tiles.0 * tiles.1) as f64 / plan.positions() as f64;
        let whole = plan.ci.is_multiple_of(F::DEPTH) && plan.co.is_multiple_of(F::DEPTH);
        let pays = plan.ci.min(plan.co) >= MIN_CHANNELS && saving * waste < 0.9 && !F::outruns_memory();
        (pays && whole).then_some(Self { plan, positions, tiles })
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

    /// Images a group.
    fn group<F: Factor>(&self) -> usize {
        let tiles = if self.depth() * self.plan.co >= F::DEPTH * LARGE { 2 * GROUP_TILES } else { GROUP_TILES };
        tiles.div_ceil(self.tile_count()).min(self.plan.n)
    }

    /// `y [n, out_h, out_w, co]`
    pub fn forward<F: Factor>(&self, x: &[F::Value], w: &[F::Value], y: &mut [MaybeUninit<F::Value>]) {
        let (plan, group) = (self.plan, self.group::<F>());
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
                    matmul::<F, _>([m.len() / plan.co, k, plan.co], v, row_major(k), u, Second::Panels, m, false);
                });
                self.collect(m, y);
            });
        });
    }

    /// `dx [n, h, w, ci]`
    pub fn input_grad<F: Factor>(&self, dy: &[F::Value], w: &[F::Value], dx: &mut [MaybeUninit<F::Value>]) {
        let (plan, group, inner) = (self.plan, self.group::<F>(), self.inner());
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
                    matmul::<F, _>([v.len() / k, words, k], m, row_major(words), u, Second::Panels, v, false);
                });
                self.fold(v, dx);
            });
        });
    }

    /// `dw [co, ci, k, k]`
    pub fn weight_grad<F: Factor>(&self, x: &[F::Value], dy: &[F::Value], dw: &mut [MaybeUninit<F::Value>]) {
        let (plan, len) = (self.plan, self.depth() * self.plan.co);
        let group = self.group::<F>().next_multiple_of(F::DEPTH);
        let groups = plan.n.div_ceil(group);
        // Each sum takes its share of the groups in order; then the sums are added in order.
        let share = if len >= LARGE { groups } else { groups.div_ceil(MAX_SUMS) } * group;
        with_sums(
            plan.n.div_ceil(share),
            len,
            |sums| {
                let shares = x.par_chunks(share * plan.x_len()).zip(dy.par_chunks(share * plan.y_len()));
                sums.par_chunks_exact_mut(len).zip(shares).for_each(|(du, (x, dy))| {
                    for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
                        self.add_group::<F>(x, dy, du, index > 0);
                    }
                });
            },
            |total| self.gather(total, dw),
        );
    }

    /// A group's share of `dU`, written or added.
    fn add_group<F: Factor>(&self, x: &[F::Value], dy: &[F::Value], du: &mut [F::Value], add: bool) {
        let (co, inner) = (self.plan.co, self.inner());
        let words = F::words(dy.len() / self.plan.y_len()) * self.tile_count();
        lend_two::<F::Word, F::Word>([words * self.depth(), words * 9 * co], |v, m| {
            self.expand::<F>(Layout::Columns, x, v);
            self.spread::<F>(Layout::Panels, dy, m);
            let (v, m) = (&*v, &*m);
            products(du, inner, [co; 9], |at, row, du| {
                let (k, start) = (inner[at], inner[..at].iter().sum::<usize>());
                let (v, m) = (&v[words * start + row..], &m[at * words * co..]);
                matmul::<F, _>([du.len() / co, words, co], v, transposed(k), m, Second::Panels, du, add);
            });
        });
    }

    /// The rows of `V` (or `M`) of every image of a group, or of all images that share them, piece by piece: as many values a tile in each.
    fn by_image<'m, T>(&self, values: &'m mut [T], widths: &[usize]) -> Vec<Vec<&'m mut [T]>> {
        let tiles = self.tile_count();
        let images = values.len() / (tiles * widths.iter().sum::<usize>());
        let lengths: Vec<usize> = widths.iter().map(|width| width * tiles * images).collect();
        let pieces = split(values, &lengths).into_iter().zip(widths);
        let mut pieces: Vec<_> = pieces.map(|(values, width)| values.chunks_exact_mut(tiles * width)).collect();
        (0..images).map(|_| pieces.iter_mut().filter_map(Iterator::next).collect()).collect()
    }

    /// Inputs advance by this much a tile, where outputs do by two.
    fn tile_step(&self) -> usize {
        2 * self.plan.window.stride
    }

    /// Columns of a strip: what the tiles of a row of tiles reach.
    fn strip_columns(&self) -> usize {
        self.tile_step() * self.tiles.1 + self.plan.window.kernel - self.plan.window.stride
    }

    /// The columns of a strip that lie in the input, from its first one on.
    fn inside(&self) -> Range<usize> {
        let padding = self.plan.window.padding;
        let end = self.strip_columns().min(padding + self.plan.w);
        padding.min(end)..end
    }

    /// The input row at sample `sample` of a row of tiles, unless that is padding.
    fn input_row(&self, ty: usize, sample: usize) -> Option<usize> {
        (self.tile_step() * ty + sample).checked_sub(self.plan.window.padding).filter(|&row| row < self.plan.h)
    }

    /// `x` → `V`. Down the columns first, into a strip of all tiles of a row; then along the rows.
    fn expand<F: Factor>(&self, layout: Layout, x: &[F::Value], v: &mut [F::Word]) {
        on_axis!(self, A => self.expand_by::<A, F>(layout, x, v));
    }

    fn expand_by<A: Axis, F: Factor>(&self, layout: Layout, x: &[F::Value], v: &mut [F::Word]) {
        let (c, together) = (self.plan.ci, F::together(layout));
        let width = F::width(layout, c);
        let images = self.by_image(v, &self.pair_counts().map(|pairs| pairs * width));
        images.into_par_iter().zip(x.par_chunks(together * self.plan.x_len())).for_each(|(v, x)| {
            let len = together * self.strip_columns() * c;
            let mut workspace = Workspace::new::<F::Value>(&[len]);
            let [strips] = workspace.slices::<F::Value, 1>([len]);
            expand_image::<A, F>(self, layout, x, v, strips);
        });
    }

    /// `V` → `x`: the transpose of [`Self::expand`].
    fn fold<T: Float>(&self, v: &[T], x: &mut [MaybeUninit<T>]) {
        on_axis!(self, A => self.fold_by::<A, T>(v, x));
    }

    fn fold_by<A: Axis, T: Float>(&self, v: &[T], x: &mut [MaybeUninit<T>]) {
        let (inner, tiles, strip_len) = (self.inner(), self.tile_count(), self.strip_columns() * self.plan.ci);
        let images = x.len() / self.plan.x_len();
        x.par_chunks_exact_mut(self.plan.x_len()).enumerate().for_each(|(image, x)| {
            let v: [&[T]; 9] = std::array::from_fn(|at| {
                let start = inner[..at].iter().sum::<usize>() * tiles * images;
                &v[start + image * tiles * inner[at]..][..tiles * inner[at]]
            });
            let mut workspace = Workspace::new::<T>(&[strip_len]);
            let [strip] = workspace.slices::<T, 1>([strip_len]);
            fold_image::<A, T>(self, v, x, strip);
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
        let len = self.tile_count() * self.plan.co;
        let images = m.len() / (9 * len);
        y.par_chunks_exact_mut(self.plan.y_len()).enumerate().for_each(|(image, y)| {
            let m: [&[T]; 9] = std::array::from_fn(|at| &m[(at * images + image) * len..][..len]);
            collect_image::<T>(self, m, y);
        });
    }

    /// `y` → `M`: the transpose of [`Self::collect`].
    fn spread<F: Factor>(&self, layout: Layout, y: &[F::Value], m: &mut [F::Word]) {
        let (co, together) = (self.plan.co, F::together(layout));
        let widths: Vec<usize> =
            (0..9).flat_map(|_| F::pieces(layout, co)).map(|piece| F::width(layout, piece.len())).collect();
        let images = self.by_image(m, &widths);
        images.into_par_iter().zip(y.par_chunks(together * self.plan.y_len())).for_each(|(m, y)| {
            spread_image::<F>(self, layout, y, m);
        });
    }

    /// Kernels `[co, ci, k, k]` → `U`.
    fn kernels<F: Factor>(&self, w: &[F::Value], u: &mut [F::Word]) {
        let ConvPlan { ci, co, .. } = *self.plan;
        let area = self.plan.window.kernel * self.plan.window.kernel;
        // The rows of U that each block of input channels owns: those of all panels and parts at all positions.
        let blocks = ci.div_ceil(CHANNELS);
        let mut rows: Vec<Vec<&mut [F::Word]>> = (0..blocks).map(|_| Vec::with_capacity(64)).collect();
        let lengths = self.pair_counts().map(|pairs| pairs * F::words(ci) * co);
        for (position, pairs) in split(u, &lengths).into_iter().zip(self.pair_counts()) {
            let lengths: Vec<usize> = F::pieces(Layout::Panels, co).map(|piece| pairs * F::words(ci) * piece.len()).collect();
            for (panel, piece) in split(position, &lengths).into_iter().zip(F::pieces(Layout::Panels, co)) {
                for of_parts in panel.chunks_exact_mut(F::words(ci) * piece.len()) {
                    let of_blocks = of_parts.chunks_mut(F::words(CHANNELS) * piece.len());
                    of_blocks.zip(&mut rows).for_each(|(of_block, rows)| rows.push(of_block));
                }
            }
        }
        rows.into_par_iter().enumerate().for_each(|(block, rows)| {
            let len = CHANNELS.min(ci - block * CHANNELS) * area * co;
            let mut workspace = Workspace::new::<F::Value>(&[len]);
            let [taps] = workspace.slices::<F::Value, 1>([len]);
            kernels_block::<F>(self, block * CHANNELS, w, rows, taps);
        });
    }

    /// Kernels `[co, ci, k, k]` → `Uᵀ`, position by position: a product takes its second factor best by rows.
    fn turned_kernels<F: Factor>(&self, w: &[F::Value], u: &mut [F::Word]) {
        let ConvPlan { ci, co, .. } = *self.plan;
        let area = self.plan.window.kernel * self.plan.window.kernel;
        let mut rows: Vec<Vec<&mut [F::Word]>> = (0..F::words(co).div_ceil(WORDS)).map(|_| Vec::with_capacity(64)).collect();
        let widths: Vec<usize> =
            self.inner().into_iter().flat_map(|depth| F::pieces(Layout::Panels, depth)).map(|piece| piece.len()).collect();
        let lengths: Vec<usize> = widths.iter().map(|width| width * F::words(co)).collect();
        for (panel, width) in split(u, &lengths).into_iter().zip(widths) {
            panel.chunks_mut(WORDS * width).zip(&mut rows).for_each(|(of_block, rows)| rows.push(of_block));
        }
        rows.into_par_iter().zip(w.par_chunks(WORDS * F::DEPTH * ci * area)).for_each(|(rows, w)| {
            let len = w.len() / ci * (ci + LINES);
            let mut workspace = Workspace::new::<F::Value>(&[len]);
            let [taps] = workspace.slices::<F::Value, 1>([len]);
            turned_block::<F>(self, w, rows, taps);
        });
    }

    /// `dU` → the gradient of kernels `[co, ci, k, k]`: the transpose of [`Self::kernels`].
    fn gather<T: Float>(&self, du: &[T], dw: &mut [MaybeUninit<T>]) {
        /// Output channels a task.
        const BLOCK: usize = 64;
        let (ci, area) = (self.plan.ci, self.plan.window.kernel * self.plan.window.kernel);
        dw.par_chunks_mut(BLOCK * ci * area).enumerate().for_each(|(block, dw)| {
            let size = CHANNELS * area * dw.len() / (ci * area);
            let mut workspace = Workspace::new::<T>(&[size]);
            let [taps] = workspace.slices::<T, 1>([size]);
            gather_block::<T>(self, block * BLOCK, du, dw, taps);
        });
    }

    /// The pairs of parts at one of the nine positions, in the order of the rows of `U`.
    fn pairs(&self, at: usize) -> impl Iterator<Item = (&'static Term, &'static Term)> + use<> {
        let positions = self.positions;
        positions[at / 3].iter().flat_map(move |down| positions[at % 3].iter().map(move |along| (down, along)))
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
