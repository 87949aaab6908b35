//! What the CPU kernels stand on: slices of tensors, matrix products, lent memory, and instructions chosen at run time.
//!
//! Loops are written for the compiler to vectorise and run inside [`vectorised`], so that one binary uses AVX-512, AVX2 or
//! plain SSE2, whatever the machine has. Work is cut at places that depend on shapes alone, and every sum has one fixed
//! order: results do not depend on the number of threads.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail};
use gemm::Parallelism;
use rayon::prelude::*;

/// The element types: f32 for training, f64 for exact tests.
pub(crate) trait Float: WithDType + Default {
    /// The values of a storage of this type.
    fn values_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
    /// √x.
    fn sqrt(self) -> Self;
    /// tanh x. In f32 branch-free, so that loops of it are vectorised; within 3e-7 of its value.
    fn tanh(self) -> Self;
    /// 1 / (1 + e⁻ˣ), likewise.
    fn sigmoid(self) -> Self;
}

impl Float for f32 {
    fn values_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(values) => Some(values),
            _ => None,
        }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    /// Near 0 an odd polynomial, else `1 − 2 / (e²ˣ + 1)`; coefficients of the Cephes library (Moshier, tanhf).
    #[inline(always)]
    fn tanh(self) -> Self {
        let x = self.abs();
        let s = x * x;
        let p = (((-5.704_989e-3 * s + 2.063_909e-2) * s - 5.373_972e-2) * s + 1.333_144e-1) * s - 3.333_328e-1;
        let near = x + x * s * p;
        let far = 1.0 - 2.0 / (exp(x + x) + 1.0);
        // What is not a number is not below either, and stays so.
        (if x < 0.625 { near } else { far }).copysign(self)
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        1.0 / (1.0 + exp(-self))
    }
}

impl Float for f64 {
    fn values_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F64(values) => Some(values),
            _ => None,
        }
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.sqrt()
    }

    #[inline(always)]
    fn tanh(self) -> Self {
        self.tanh()
    }

    #[inline(always)]
    fn sigmoid(self) -> Self {
        1.0 / (1.0 + (-self).exp())
    }
}

/// eˣ without a branch: `x = n ln 2 + r`, then a polynomial in r (the Cephes library, expf); beyond ±87 it stays at its value there.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: a sum with it has its integer part in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > 87.0 { 87.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_2e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r + 0.5;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

/// Runs a generic kernel for the element type of a tensor: `for_float!(x.dtype(), T => kernel::<T>(…))`.
macro_rules! for_float {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => Err(candle_core::Error::Msg(format!("expected f32 or f64, got {other:?}"))),
        }
    };
}
pub(crate) use for_float;

/// Values a task of the elementwise loops handles.
pub(crate) const TASK: usize = 1 << 14;

/// Sums that a weight gradient is made in, at most.
pub(crate) const MAX_SUMS: usize = 8;
/// Rows that a transpose reads side by side: as many lines of memory are open, at places that one set of a cache may share.
pub(crate) const LINES: usize = 8;

/// Runs a loop with the widest instructions of this machine. What it calls must be inlined to profit.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Runs work that is cut into tasks again and again on a thread of the pool: from outside, every cut would wait for another
/// thread to begin and to end.
pub(crate) fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// The values of a contiguous CPU tensor, for reading.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    pub fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// # Errors
    /// When the tensor is not contiguous, of another type or on another device.
    pub fn slice<T: Float>(&self) -> Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => bail!("expected a tensor on the CPU"),
        }
    }
}

/// The values of a contiguous storage.
pub(crate) fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// Lends the values of a contiguous CPU tensor for writing, in place: whoever shares its storage sees the change. Editing
/// the same tensor within `work` deadlocks.
///
/// # Errors
/// When the tensor is not contiguous or of another type, and what `work` returns.
pub(crate) fn edit<T: Float>(tensor: &Tensor, work: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
    struct Edit<F, T>(RefCell<Option<F>>, std::marker::PhantomData<T>);
    impl<T: Float, F: FnOnce(&mut [T]) -> Result<()>> InplaceOp1 for Edit<F, T> {
        fn name(&self) -> &'static str {
            "edit"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor, got {layout:?}") };
            let Some(values) = T::values_mut(storage) else { bail!("expected a tensor of {:?}", T::DTYPE) };
            match self.0.take() {
                Some(work) => work(&mut values[start..end]),
                None => Ok(()),
            }
        }
    }
    tensor.inplace_op1(&Edit(RefCell::new(Some(work)), std::marker::PhantomData))
}

/// A new vector of `len` values, every one of which `fill` must write and none of which it may read before; saves the pass
/// that zeroing takes. In debug builds they begin as NaN, so that one forgotten shows.
pub(crate) fn filled<T: Float>(len: usize, fill: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(len);
    if cfg!(debug_assertions) {
        values.spare_capacity_mut().iter_mut().for_each(|value| _ = value.write(T::from_f64(f64::NAN)));
    }
    // SAFETY: the memory is allocated and ours alone; `fill` writes every value before anybody reads it.
    fill(unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr(), len) });
    // SAFETY: `len` elements are allocated, and have been written.
    unsafe { values.set_len(len) };
    values
}

/// Memory for intermediate values, kept for the next kernel that asks.
pub(crate) struct Workspace(Vec<Line>);

/// Two cache lines: what adjacent slices of a workspace never share.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([f64; 16]);

static KEPT: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

impl Workspace {
    /// Memory for several slices of T together; their contents are arbitrary.
    pub fn new<T: Float>(sizes: &[usize]) -> Self {
        let len = sizes.iter().map(|&size| padded::<T>(size)).sum::<usize>() / padded::<T>(1);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest, to be replaced.
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= len).min_by_key(|&i| kept[i].len());
        let chosen = fits.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
        let mut buffer = chosen.map(|index| kept.swap_remove(index)).unwrap_or_default();
        drop(kept);
        if buffer.len() < len {
            drop(std::mem::take(&mut buffer));
            buffer = vec![Line([0.0; 16]); len];
        }
        Self(buffer)
    }

    /// The slices, of the sizes that the workspace was made for.
    pub fn slices<T: Float, const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [T]; N] {
        let len = self.0.len() * padded::<T>(1);
        // SAFETY: the lines hold `len` values of T, which is f32 or f64: less aligned, and any bits are a value.
        let mut rest = unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<T>(), len) };
        sizes.map(|size| {
            let (slice, remaining) = std::mem::take(&mut rest).split_at_mut(padded::<T>(size));
            rest = remaining;
            &mut slice[..size]
        })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.0));
    }
}

/// Values in the lines that hold `len` values.
fn padded<T>(len: usize) -> usize {
    len.next_multiple_of(size_of::<Line>() / size_of::<T>())
}

/// A matrix in a slice: element (i, j) is at `i · row_step + j · column_step`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    row_step: usize,
    column_step: usize,
}

/// A matrix of rows one behind the other.
pub(crate) const fn row_major(row_len: usize) -> Strides {
    Strides { row_step: row_len, column_step: 1 }
}

/// The transpose of a matrix whose rows lie one behind the other.
pub(crate) const fn transposed(row_len: usize) -> Strides {
    Strides { row_step: 1, column_step: row_len }
}

fn fits(len: usize, rows: usize, columns: usize, s: Strides) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * s.row_step + (columns - 1) * s.column_step < len
}

/// `c (m × n, row-major) = a (m × k) · b (k × n)`, or `c += a · b`. One thread.
pub(crate) fn matmul<T: Float>([m, k, n]: [usize; 3], a: &[T], sa: Strides, b: &[T], sb: Strides, c: &mut [T], add: bool) {
    assert!(c.len() >= m * n);
    // SAFETY: `c` holds m rows of n and is borrowed exclusively.
    unsafe { matmul_into([m, k, n], a, sa, b, sb, c.as_mut_ptr(), n, add) }
}

/// # Safety
/// The m rows of n values, `row_len` apart, that begin at `c` must be ours alone.
#[allow(clippy::too_many_arguments)]
unsafe fn matmul_into<T: Float>(
    [m, k, n]: [usize; 3],
    a: &[T],
    sa: Strides,
    b: &[T],
    sb: Strides,
    c: *mut T,
    row_len: usize,
    add: bool,
) {
    assert!(fits(a.len(), m, k, sa) && fits(b.len(), k, n, sb));
    // SAFETY: the assertion keeps what gemm reads within its slices; the caller answers for what it writes.
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
            Parallelism::None,
        );
    }
}

/// Multiplications below which a block of a product is not worth a task.
const BLOCK_WORK: usize = 1 << 20;
/// Blocks that a product is cut into at most.
const MAX_BLOCKS: usize = 32;

/// As [`matmul`] without adding, on all threads: in blocks of the longer side of `c`, so that little is packed twice.
pub(crate) fn matmul_parallel<T: Float>([m, k, n]: [usize; 3], a: &[T], sa: Strides, b: &[T], sb: Strides, c: &mut [T]) {
    /// A pointer that tasks may share: each writes its own block.
    struct Shared<T>(*mut T);
    // SAFETY: only ever used for disjoint blocks.
    unsafe impl<T> Sync for Shared<T> {}
    impl<T> Shared<T> {
        fn at(&self, offset: usize) -> *mut T {
            self.0.wrapping_add(offset)
        }
    }

    assert!(c.len() >= m * n && fits(a.len(), m, k, sa) && fits(b.len(), k, n, sb));
    let blocks = (m * k * n / BLOCK_WORK).clamp(1, MAX_BLOCKS);
    let c = Shared(c.as_mut_ptr());
    let by_columns = n >= m;
    let side = if by_columns { n } else { m };
    let block = side.div_ceil(blocks).next_multiple_of(16);
    (0..side.div_ceil(block)).into_par_iter().for_each(|index| {
        let (start, len) = (index * block, block.min(side - index * block));
        // SAFETY: the blocks are disjoint, and within the m × n values of `c`.
        unsafe {
            match by_columns {
                true => matmul_into([m, k, len], a, sa, &b[start * sb.column_step..], sb, c.at(start), n, false),
                false => matmul_into([len, k, n], &a[start * sa.row_step..], sa, b, sb, c.at(start * n), n, false),
            }
        }
    });
}

/// `[rows, columns]` → `[columns, rows]`
pub(crate) fn transpose<T: Float>(from: &[T], to: &mut [T], rows: usize, columns: usize) {
    if rows == 1 || columns == 1 {
        to.copy_from_slice(from);
        return;
    }
    for start in (0..rows).step_by(LINES) {
        let end = rows.min(start + LINES);
        for (column, to) in to.chunks_exact_mut(rows).enumerate() {
            for (to, row) in to[start..end].iter_mut().zip(start..) {
                *to = from[row * columns + column];
            }
        }
    }
}

/// `to += from`, on all threads.
pub(crate) fn add_to<T: Float>(to: &mut [T], from: &[T]) {
    to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| {
        vectorised(|| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to += from;
            }
        });
    });
}

/// Sums columns of `[rows, c]`, computed block of rows by block: `sums(rows of a block, into)` adds a block's share to
/// `into`, which holds `slots` sums of `c` values. The blocks are then added in order, in f64.
pub(crate) fn column_sums<T: Float>(
    rows: usize,
    c: usize,
    slots: usize,
    sums: impl Fn(std::ops::Range<usize>, &mut [T]) + Sync,
) -> Vec<f64> {
    let block = (TASK / c.max(1)).clamp(8, 256);
    let parts: Vec<Vec<T>> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|index| {
            let mut part = vec![T::default(); slots * c];
            sums(index * block..rows.min((index + 1) * block), &mut part);
            part
        })
        .collect();
    total(parts, slots * c)
}

/// Adds parts in order, in f64.
pub(crate) fn total<T: Float>(parts: Vec<Vec<T>>, len: usize) -> Vec<f64> {
    let mut total = vec![0.0; len];
    for part in parts {
        for (total, value) in total.iter_mut().zip(part) {
            *total += value.to_f64();
        }
    }
    total
}

/// Whether our kernels serve the type of a tensor.
pub(crate) fn check_type(tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        other => bail!("expected f32 or f64, got {other:?}"),
    }
}
