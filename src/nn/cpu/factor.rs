//! What products take their factors in: as they are, or rounded to bf16.
//!
//! The words of a factor lie as its product wants them. Where a product sums along the rows of a matrix, a word holds [`Factor::DEPTH`]
//! values of one row ([`Layout::Rows`]); where it sums down the columns, a word holds as many values of one column, from rows that
//! follow one another ([`Layout::Columns`]). What is missing of a last word is zero.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::float::{Float, Plain};
use super::memory::Workspace;
use super::strides::{Strides, row_major, transposed};
use super::tasks::LINES;

/// Along what a word holds several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Along a row: `[rows, words(columns)]`.
    Rows,
    /// Down a column: `[words(rows), columns]`.
    Columns,
}

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

    /// Words for so many values.
    fn words(values: usize) -> usize {
        values.div_ceil(Self::DEPTH)
    }

    /// How many rows of a matrix share a row of words.
    fn together(layout: Layout) -> usize {
        match layout {
            Layout::Rows => 1,
            Layout::Columns => Self::DEPTH,
        }
    }

    /// Words in a row of words of a matrix of so many columns.
    fn width(layout: Layout, columns: usize) -> usize {
        match layout {
            Layout::Rows => Self::words(columns),
            Layout::Columns => columns,
        }
    }

    /// The items of words.
    fn items(words: &mut [Self::Word]) -> &mut [Self::Item];

    /// Makes pieces of a row of words: `fill(i, values)` writes those of row i of the rows that share it. The pieces of a row hold whole
    /// words; `room` has room for all values.
    fn put<const N: usize>(
        layout: Layout,
        to: [&mut [Self::Word]; N],
        room: &mut [Self::Value],
        fill: impl FnMut(usize, [&mut [Self::Value]; N]),
    );

    /// Lends a matrix of rows of so many values in a layout.
    fn lend(layout: Layout, values: &[Self::Value], columns: usize, work: impl FnOnce(&[Self::Word]));

    /// Lends the items of a matrix of rows of so many values, each row filled up to whole words.
    fn lend_items(values: &[Self::Value], columns: usize, work: impl FnOnce(&[Self::Item]));

    /// Lends the transpose of a matrix of rows of so many values, for a product that sums along these rows. If it is read again and
    /// again, by rows.
    fn lend_transpose(values: &[Self::Value], columns: usize, again: bool, work: impl FnOnce(&[Self::Word], Strides));

    /// `c (m × n, rows row_len apart) = a (m × words) · b (words × n)`, or `c += a · b`.
    ///
    /// # Safety
    /// What is read of `a` and `b` must be there, and what is written of `c` must be the caller's alone.
    #[allow(clippy::too_many_arguments)]
    unsafe fn multiply(
        dims: [usize; 3],
        a: &[Self::Word],
        sa: Strides,
        b: &[Self::Word],
        sb: Strides,
        c: *mut Self::Value,
        row_len: usize,
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

    fn items(words: &mut [T]) -> &mut [T] {
        words
    }

    #[inline(always)]
    fn put<const N: usize>(_: Layout, to: [&mut [T]; N], _: &mut [T], mut fill: impl FnMut(usize, [&mut [T]; N])) {
        fill(0, to);
    }

    fn lend(_: Layout, values: &[T], _: usize, work: impl FnOnce(&[T])) {
        work(values);
    }

    fn lend_items(values: &[T], _: usize, work: impl FnOnce(&[T])) {
        work(values);
    }

    fn lend_transpose(values: &[T], columns: usize, again: bool, work: impl FnOnce(&[T], Strides)) {
        if !again {
            return work(values, transposed(columns));
        }
        let rows = values.len() / columns;
        let mut workspace = Workspace::new::<T>(&[values.len()]);
        let [turned] = workspace.slices::<T, 1>([values.len()]);
        transpose_parallel(values, turned, rows, columns);
        work(turned, row_major(rows));
    }

    unsafe fn multiply(
        [m, k, n]: [usize; 3],
        a: &[T],
        sa: Strides,
        b: &[T],
        sb: Strides,
        c: *mut T,
        row_len: usize,
        add: bool,
    ) {
        // SAFETY: the caller answers for it.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                c,
                1,
                row_len as isize,
                add,
                a.as_ptr(),
                sa.column_step as isize,
                sa.row_step as isize,
                b.as_ptr(),
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

    fn items(words: &mut [u32]) -> &mut [u16] {
        // SAFETY: of the same size, less aligned, and any bits are a value.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
    }

    #[inline(always)]
    fn put<const N: usize>(
        layout: Layout,
        to: [&mut [u32]; N],
        room: &mut [f32],
        mut fill: impl FnMut(usize, [&mut [f32]; N]),
    ) {
        let items = Self::DEPTH / Self::together(layout);
        let lens = to.each_ref().map(|to| to.len() * items);
        let len = lens.iter().sum();
        // One call, which is inlined: only there it has the instructions of its caller.
        for (row, room) in room.chunks_exact_mut(len).take(Self::together(layout)).enumerate() {
            fill(row, cut(room, lens));
        }
        let (first, rest) = room.split_at_mut(len);
        let pieces = to.into_iter().zip(cut(first, lens));
        match layout {
            Layout::Rows => pieces.for_each(|(to, from)| super::bf16::narrow(from, Self::items(to))),
            Layout::Columns => {
                let second = cut(&mut rest[..len], lens);
                pieces.zip(second).for_each(|((to, first), second)| super::bf16::narrow_two(first, second, to));
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

    fn lend_transpose(values: &[f32], columns: usize, _: bool, work: impl FnOnce(&[u32], Strides)) {
        let (rows, width) = (values.len() / columns, Self::words(columns));
        Self::lend(Layout::Rows, values, columns, |words| {
            let mut workspace = Workspace::new::<u32>(&[words.len()]);
            let [turned] = workspace.slices::<u32, 1>([words.len()]);
            transpose_parallel(words, turned, rows, width);
            work(turned, row_major(rows));
        });
    }

    unsafe fn multiply(
        dims: [usize; 3],
        a: &[u32],
        sa: Strides,
        b: &[u32],
        sb: Strides,
        c: *mut f32,
        row_len: usize,
        add: bool,
    ) {
        assert_eq!(sb.column_step, 1, "the second factor lies by rows");
        // SAFETY: the caller answers for it.
        unsafe { super::bf16::multiply(dims, a, sa, b, sb.row_step, c, row_len, add) }
    }
}

/// Cuts values into pieces of these lengths.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn cut<const N: usize>(mut values: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    lens.map(|len| {
        let (piece, rest) = std::mem::take(&mut values).split_at_mut(len);
        values = rest;
        piece
    })
}

/// Rounds a matrix of rows of so many values.
#[cfg(target_arch = "x86_64")]
fn narrow_parallel(layout: Layout, values: &[f32], columns: usize, words: &mut [u32]) {
    use super::bf16::{narrow, narrow_two};
    use super::tasks::TASK;
    let width = Bf16::width(layout, columns);
    let few = (TASK / columns).max(1);
    match layout {
        Layout::Rows if columns.is_multiple_of(Bf16::DEPTH) => {
            // Rows without gaps are one long row.
            let pieces = Bf16::items(words).par_chunks_mut(TASK).zip(values.par_chunks(TASK));
            pieces.for_each(|(to, from)| narrow(from, to));
        }
        Layout::Rows => {
            let rows = words.par_chunks_exact_mut(width).zip(values.par_chunks_exact(columns));
            rows.with_min_len(few).for_each(|(to, from)| narrow(from, Bf16::items(to)));
        }
        Layout::Columns => {
            let rows = words.par_chunks_exact_mut(width).zip(values.par_chunks(Bf16::DEPTH * columns));
            rows.with_min_len(few).for_each(|(to, from)| {
                // Of an odd number of rows the last one has no neighbour.
                let (first, second) = from.split_at(columns);
                narrow_two(first, second, to);
            });
        }
    }
}

/// `[rows, columns]` → `[columns, rows]`, on all threads.
fn transpose_parallel<T: Plain>(from: &[T], to: &mut [T], rows: usize, columns: usize) {
    /// Columns a task.
    const BLOCK: usize = 64;
    to.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(task, to)| {
        for first in (0..rows).step_by(LINES) {
            for (column, to) in to.chunks_exact_mut(rows).enumerate() {
                let at = task * BLOCK + column;
                let to = to[first..].iter_mut().take(LINES).enumerate();
                to.for_each(|(row, to)| *to = from[(first + row) * columns + at]);
            }
        }
    });
}
