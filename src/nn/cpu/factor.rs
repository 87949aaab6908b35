//! What products take their factors in: as they are, or rounded to bf16.
//!
//! The words of a factor lie as its product wants them. Where a product sums along the rows of a matrix, a word holds [`Factor::DEPTH`]
//! values of one row ([`Layout::Rows`]); where it sums down the columns, a word holds as many values of one column, from rows that
//! follow one another ([`Layout::Columns`], and for second factors [`Layout::Panels`]). What is missing of a last word is zero.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::float::{Float, Plain};
use super::kernels::Kernels;
use super::memory::{Shared, Workspace};
use super::strides::{Strides, row_major, transposed};
#[cfg(target_arch = "x86_64")]
use super::tasks::TASK;
use super::turn::transpose;

/// Along what a word holds several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Along a row: `[rows, words(columns)]`.
    Rows,
    /// Down a column: `[words(rows), columns]`.
    Columns,
    /// Down a column, [`Factor::panel`] columns after another: `[words(rows), columns of a panel]` for each panel. A product reads its
    /// second factor panel by panel, in one go: a tenth to a third faster where it comes from beyond the caches (benches/RESULTS.md).
    Panels,
}

/// How the second factor of a product lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Second {
    /// In [`Layout::Panels`].
    Panels,
    /// As the transpose of rows one behind the other.
    Transposed,
}

/// Values that are worked on at once.
pub(super) const LANES: usize = 16;

/// A form of factors.
pub(super) trait Factor: 'static {
    /// What the values are before, and what products are summed up in.
    type Value: Float;
    /// What is multiplied at once.
    type Word: Plain;
    /// What one value becomes; a word is [`Self::DEPTH`] of them.
    type Item: Plain;
    /// Values a word.
    const DEPTH: usize;
    /// The item of 0.
    const ZERO: Self::Item;
    /// The word of nothing but zeros.
    const NOTHING: Self::Word;
    /// A product may be cut at multiples of so many columns.
    const STEP: usize;

    /// Whether products are so fast that they wait for memory: sparing multiplications does not pay, reading less does.
    fn outruns_memory() -> bool;

    /// Columns of a panel of a second factor of so many.
    fn panel(columns: usize) -> usize;

    /// The columns of the pieces that a factor lies in.
    fn pieces(layout: Layout, columns: usize) -> impl Iterator<Item = Range<usize>> + Clone {
        let len = if layout == Layout::Panels { Self::panel(columns) } else { columns.max(1) };
        (0..columns).step_by(len).map(move |start| start..columns.min(start + len))
    }

    /// Words for so many values.
    fn words(values: usize) -> usize {
        values.div_ceil(Self::DEPTH)
    }

    /// How many rows of a matrix share a row of words.
    fn together(layout: Layout) -> usize {
        match layout {
            Layout::Rows => 1,
            Layout::Columns | Layout::Panels => Self::DEPTH,
        }
    }

    /// Words in a row of words of a matrix of so many columns.
    fn width(layout: Layout, columns: usize) -> usize {
        match layout {
            Layout::Rows => Self::words(columns),
            Layout::Columns | Layout::Panels => columns,
        }
    }

    /// The items of words.
    fn items(words: &mut [Self::Word]) -> &mut [Self::Item];

    /// Writes a chunk of `len` values of each of the rows that share a row of words, from value `first` on.
    fn store(layout: Layout, to: &mut [Self::Word], first: usize, len: usize, rows: [&[Self::Value; LANES]; 2]);

    /// Lends a matrix of rows of so many values in a layout.
    fn lend(layout: Layout, values: &[Self::Value], columns: usize, work: impl FnOnce(&[Self::Word]));

    /// Lends the items of a matrix of rows of so many values, each row filled up to whole words.
    fn lend_items(values: &[Self::Value], columns: usize, work: impl FnOnce(&[Self::Item]));

    /// Lends kernels as the second factor of a product that sums over them: in [`Layout::Panels`].
    fn lend_kernels(kernels: Kernels<Self::Value>, work: impl FnOnce(&[Self::Word]));

    /// Lends their transpose as the second factor of a product that sums along each of them, and may read it again and again.
    fn lend_transpose(kernels: Kernels<Self::Value>, again: bool, work: impl FnOnce(&[Self::Word], Second));

    /// Lends the first factor of a product (m × words × n) that many tasks share, as they want it.
    fn lend_first(dims: [usize; 3], a: &[Self::Word], sa: Strides, work: impl FnOnce(&[Self::Word], Strides));

    /// These columns, which begin at a multiple of [`Self::STEP`], of `c (m × n) = a (m × words) · b (words × n)`, or of `c += a · b`.
    ///
    /// # Safety
    /// What is read of `a` and `b` must be there, and what is written of `c` must be the caller's alone.
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply(
        dims: [usize; 3],
        columns: Range<usize>,
        a: &[Self::Word],
        sa: Strides,
        b: &[Self::Word],
        order: Second,
        c: *mut Self::Value,
        add: bool,
    );
}

/// Factors as they are.
pub(super) struct Exact<T>(PhantomData<T>);

impl<T: Float> Factor for Exact<T> {
    type Value = T;
    type Word = T;
    type Item = T;
    const DEPTH: usize = 1;
    const ZERO: T = T::ZERO;
    const NOTHING: T = T::ZERO;
    const STEP: usize = LANES;

    fn outruns_memory() -> bool {
        false
    }

    /// All: the product packs them itself.
    fn panel(columns: usize) -> usize {
        columns.max(1)
    }

    fn items(words: &mut [T]) -> &mut [T] {
        words
    }

    #[inline(always)]
    fn store(_: Layout, to: &mut [T], first: usize, len: usize, [values, _]: [&[T; LANES]; 2]) {
        let to = &mut to[first..][..len];
        match to.first_chunk_mut() {
            Some(to) => *to = *values,
            None => {
                for (to, &value) in to.iter_mut().zip(values) {
                    *to = value;
                }
            }
        }
    }

    fn lend(_: Layout, values: &[T], _: usize, work: impl FnOnce(&[T])) {
        work(values);
    }

    fn lend_items(values: &[T], _: usize, work: impl FnOnce(&[T])) {
        work(values);
    }

    fn lend_kernels(kernels: Kernels<T>, work: impl FnOnce(&[T])) {
        kernels.lend(work);
    }

    fn lend_transpose(kernels: Kernels<T>, again: bool, work: impl FnOnce(&[T], Second)) {
        kernels.lend(|values| {
            if !again {
                return work(values, Second::Transposed);
            }
            let mut workspace = Workspace::new::<T>(&[values.len()]);
            let [turned] = workspace.slices::<T, 1>([values.len()]);
            transpose_parallel(values, kernels.depth(), kernels.count(), turned);
            work(turned, Second::Panels);
        });
    }

    fn lend_first(_: [usize; 3], a: &[T], sa: Strides, work: impl FnOnce(&[T], Strides)) {
        work(a, sa);
    }

    unsafe fn multiply(
        [m, k, n]: [usize; 3],
        columns: Range<usize>,
        a: &[T],
        sa: Strides,
        b: &[T],
        order: Second,
        c: *mut T,
        add: bool,
    ) {
        let sb = match order {
            Second::Panels => row_major(n),
            Second::Transposed => transposed(k),
        };
        // SAFETY: the caller answers for it.
        unsafe {
            gemm::gemm(
                m,
                columns.len(),
                k,
                c.wrapping_add(columns.start),
                1,
                n as isize,
                add,
                a.as_ptr(),
                sa.column_step as isize,
                sa.row_step as isize,
                b.as_ptr().wrapping_add(columns.start * sb.column_step),
                sb.column_step as isize,
                sb.row_step as isize,
                T::one(),
                T::one(),
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// Factors rounded to bf16, in pairs.
#[cfg(target_arch = "x86_64")]
pub(super) struct Bf16;

#[cfg(target_arch = "x86_64")]
impl Factor for Bf16 {
    type Value = f32;
    type Word = u32;
    type Item = u16;
    const DEPTH: usize = 2;
    const ZERO: u16 = 0;
    const NOTHING: u32 = 0;
    const STEP: usize = super::bf16::PANEL;

    fn outruns_memory() -> bool {
        super::amx::is_there()
    }

    fn panel(_: usize) -> usize {
        super::bf16::PANEL
    }

    fn items(words: &mut [u32]) -> &mut [u16] {
        // SAFETY: of the same size, less aligned, and any bits are a value.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
    }

    #[inline(always)]
    fn store(layout: Layout, to: &mut [u32], first: usize, len: usize, rows: [&[f32; LANES]; 2]) {
        match layout {
            Layout::Rows => {
                let to = &mut Self::items(to)[first..][..len];
                match to.first_chunk_mut() {
                    Some(to) => *to = narrowed(rows[0]),
                    None => to.copy_from_slice(&narrowed(rows[0])[..len]),
                }
            }
            Layout::Columns | Layout::Panels => {
                let to = &mut to[first..][..len];
                match to.first_chunk_mut() {
                    Some(to) => *to = paired(rows[0], rows[1]),
                    None => to.copy_from_slice(&paired(rows[0], rows[1])[..len]),
                }
            }
        }
    }

    fn lend(layout: Layout, values: &[f32], columns: usize, work: impl FnOnce(&[u32])) {
        let rows = (values.len() / columns).div_ceil(Self::together(layout));
        let width = Self::width(layout, columns);
        let mut workspace = Workspace::new::<u32>(&[rows * width]);
        let [words] = workspace.slices::<u32, 1>([rows * width]);
        narrow_parallel(layout, values, columns, words);
        work(words);
    }

    fn lend_items(values: &[f32], columns: usize, work: impl FnOnce(&[u16])) {
        Self::lend(Layout::Rows, values, columns, |words| {
            // SAFETY: of the same size, less aligned, and any bits are a value.
            work(unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) })
        });
    }

    /// Two kernels at a time, turned while they are in the caches, and rounded into all panels.
    fn lend_kernels(kernels: Kernels<f32>, work: impl FnOnce(&[u32])) {
        let (count, depth) = (kernels.count(), kernels.depth());
        if let Some(values) = kernels.in_order() {
            return Self::lend(Layout::Panels, values, depth, work);
        }
        let (rows, panel) = (Self::words(count), Self::panel(depth));
        let mut workspace = Workspace::new::<u32>(&[rows * depth]);
        let [words] = workspace.slices::<u32, 1>([rows * depth]);
        let shared = Shared(words.as_mut_ptr());
        let few = (TASK / depth).max(1);
        (0..rows.div_ceil(few)).into_par_iter().for_each(|task| {
            let mut workspace = Workspace::new::<f32>(&[kernels.room(); 2]);
            let [first, second] = workspace.slices::<f32, 2>([kernels.room(); 2]);
            for row in task * few..rows.min((task + 1) * few) {
                let first = kernels.row(2 * row, first);
                let second = if 2 * row + 1 < count { kernels.row(2 * row + 1, second) } else { &[] };
                for start in (0..depth).step_by(panel) {
                    let piece = start..depth.min(start + panel);
                    // SAFETY: panels of all rows lie one behind the other, and each row of words in them is one task's.
                    let to =
                        unsafe { std::slice::from_raw_parts_mut(shared.at(start * rows + row * piece.len()), piece.len()) };
                    pair_rows(&first[piece.clone()], second.get(piece).unwrap_or(&[]), to);
                }
            }
        });
        work(words);
    }

    /// As many kernels at a time as a panel has columns: turned, rounded and transposed while they are in the caches.
    fn lend_transpose(kernels: Kernels<f32>, _: bool, work: impl FnOnce(&[u32], Second)) {
        let (count, depth) = (kernels.count(), kernels.depth());
        let width = Self::words(depth);
        let mut workspace = Workspace::new::<u32>(&[count * width]);
        let [turned] = workspace.slices::<u32, 1>([count * width]);
        turned.par_chunks_mut(Self::panel(count) * width).enumerate().for_each(|(panel, to)| {
            let (first, rows) = (panel * Self::panel(count), to.len() / width);
            let mut workspace = Workspace::new::<u32>(&[rows * width]);
            let [words] = workspace.slices::<u32, 1>([rows * width]);
            let few = (2 * TASK / depth).max(1);
            words.par_chunks_mut(few * width).enumerate().for_each(|(task, to)| {
                let mut workspace = Workspace::new::<f32>(&[kernels.room()]);
                let [buffer] = workspace.slices::<f32, 1>([kernels.room()]);
                to.chunks_exact_mut(width)
                    .zip(first + task * few..)
                    .for_each(|(to, row)| narrow(kernels.row(row, buffer), Self::items(to)));
            });
            transpose_parallel(words, width, rows, to);
        });
        work(turned, Second::Panels);
    }

    /// Tiles want the words of a row side by side.
    fn lend_first([m, words, n]: [usize; 3], a: &[u32], sa: Strides, work: impl FnOnce(&[u32], Strides)) {
        if sa.column_step == 1 || !super::amx::takes(words, n) {
            return work(a, sa);
        }
        let mut workspace = Workspace::new::<u32>(&[m * words]);
        let [turned] = workspace.slices::<u32, 1>([m * words]);
        transpose_parallel(a, sa.column_step, words, turned);
        work(turned, row_major(words));
    }

    unsafe fn multiply(
        dims: [usize; 3],
        columns: Range<usize>,
        a: &[u32],
        sa: Strides,
        b: &[u32],
        order: Second,
        c: *mut f32,
        add: bool,
    ) {
        assert_eq!(order, Second::Panels, "what is rounded is put in panels");
        // SAFETY: the caller answers for it.
        unsafe {
            match super::amx::takes(dims[1], dims[2]) {
                true => super::amx::multiply(dims, columns, a, sa, b, c, add),
                false => super::bf16::multiply(dims, columns, a, sa, b, c, add),
            }
        }
    }
}

/// A chunk of values rounded.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn narrowed(values: &[f32; LANES]) -> [u16; LANES] {
    let mut narrow = [0; LANES];
    for lane in 0..LANES {
        narrow[lane] = (rounded(values[lane]) >> 16) as u16;
    }
    narrow
}

/// Pairs of values rounded.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn paired(first: &[f32; LANES], second: &[f32; LANES]) -> [u32; LANES] {
    let mut pairs = [0; LANES];
    for lane in 0..LANES {
        pairs[lane] = pair(first[lane], second[lane]);
    }
    pairs
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn pair(first: f32, second: f32) -> u32 {
    (rounded(first) >> 16) | (rounded(second) & 0xffff_0000)
}

/// A value whose upper 16 bits are the nearest bf16, of two equally near the even one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    // What is not a number stays so, whatever else its bits say. (In whole numbers, of which the compiler makes no branch.)
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let rounded = bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1);
    if is_nan { bits | 0x0040_0000 } else { rounded }
}

/// Rounds a matrix of rows of so many values.
#[cfg(target_arch = "x86_64")]
fn narrow_parallel(layout: Layout, values: &[f32], columns: usize, words: &mut [u32]) {
    let width = Bf16::width(layout, columns);
    let few = |len: usize| (TASK / len).max(1);
    if layout == Layout::Rows {
        if columns.is_multiple_of(Bf16::DEPTH) {
            // Rows without gaps are one long row.
            let pieces = Bf16::items(words).par_chunks_mut(TASK).zip(values.par_chunks(TASK));
            return pieces.for_each(|(to, from)| narrow(from, to));
        }
        let rows = words.par_chunks_exact_mut(width).zip(values.par_chunks_exact(columns));
        return rows.with_min_len(few(columns)).for_each(|(to, from)| narrow(from, Bf16::items(to)));
    }
    let rows = words.len() / width;
    let mut rest = words;
    let mut pieces = Vec::new();
    for piece in Bf16::pieces(layout, columns) {
        let (words, remaining) = rest.split_at_mut(rows * piece.len());
        pieces.push((piece, words));
        rest = remaining;
    }
    pieces.into_par_iter().for_each(|(piece, words)| {
        let few = few(piece.len());
        let rows = words.par_chunks_mut(few * piece.len()).zip(values.par_chunks(few * Bf16::DEPTH * columns));
        rows.for_each(|(to, from)| narrow_two(from, columns, piece.clone(), to));
    });
}

/// Rounds a row. What is left of `to` becomes 0.
#[cfg(target_arch = "x86_64")]
pub(super) fn narrow(from: &[f32], to: &mut [u16]) {
    // SAFETY: the CPU has the instructions (see `conv`).
    unsafe { super::bf16::narrow(from, to) }
}

/// Rounds two rows into pairs; the second may be empty, which is one of zeros.
#[cfg(target_arch = "x86_64")]
pub(super) fn pair_rows(first: &[f32], second: &[f32], to: &mut [u32]) {
    // SAFETY: as above.
    unsafe { super::bf16::pair_rows(first, second, to) }
}

/// Rounds some columns of pairs of rows; the neighbour of the last of an odd number is 0.
#[cfg(target_arch = "x86_64")]
pub(super) fn narrow_two(from: &[f32], columns: usize, piece: Range<usize>, to: &mut [u32]) {
    for (to, from) in to.chunks_exact_mut(piece.len()).zip(from.chunks(2 * columns)) {
        let (first, second) = from.split_at(columns);
        let second = second.get(piece.clone()).unwrap_or(&[]);
        pair_rows(&first[piece.start..piece.end], second, to);
    }
}

/// The transpose of so many rows of so many values, on all threads.
fn transpose_parallel<T: Plain>(from: &[T], columns: usize, rows: usize, to: &mut [T]) {
    /// Columns a task.
    const BLOCK: usize = 64;
    to.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(task, to)| {
        transpose(&from[task * BLOCK..], columns, to, rows, [rows, to.len() / rows]);
    });
}
