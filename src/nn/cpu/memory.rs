//! The values of tensors as slices, new memory, and memory that kernels lend one another.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail};

use super::float::{Float, Plain};
use crate::nn::in_place::InPlace;

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

/// Lends the values of a contiguous CPU tensor for writing. Editing the same tensor within `work` deadlocks.
///
/// # Errors
/// When the tensor is not contiguous or of another type, and what `work` returns.
pub(crate) fn edit<T: Float>(to: InPlace<'_>, work: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
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
    to.tensor().inplace_op1(&Edit(RefCell::new(Some(work)), std::marker::PhantomData))
}

/// A place for a value that may not have been written yet.
///
/// # Safety
/// It must be laid out as a T is.
pub(crate) unsafe trait Slot<T>: Send {
    /// Writes the value.
    fn put(&mut self, value: T);
}

// SAFETY: it is a T.
unsafe impl<T: Plain> Slot<T> for T {
    #[inline(always)]
    fn put(&mut self, value: T) {
        *self = value;
    }
}

// SAFETY: the standard library promises the same layout.
unsafe impl<T: Plain> Slot<T> for MaybeUninit<T> {
    #[inline(always)]
    fn put(&mut self, value: T) {
        self.write(value);
    }
}

/// A pointer that tasks share, each of which writes places of its own.
pub(super) struct Shared<T>(pub *mut T);

// SAFETY: it hands out pointers only; who writes through them answers for it that the places are disjoint.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The place so many values on.
    pub fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// A new vector of `len` values, every one of which `fill` must write; saves the pass that zeroing takes. In debug builds they
/// begin as NaN, so that one forgotten shows.
pub(crate) fn filled<T: Float>(len: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(len);
    let room = &mut values.spare_capacity_mut()[..len];
    if cfg!(debug_assertions) {
        room.iter_mut().for_each(|value| value.put(T::from_f64(f64::NAN)));
    }
    fill(room);
    // SAFETY: `len` elements are allocated, and have been written.
    unsafe { values.set_len(len) };
    values
}

/// Values that have been written.
///
/// # Safety
/// Every one of them must have been.
pub(crate) unsafe fn written<T: Float>(values: &mut [MaybeUninit<T>]) -> &mut [T] {
    // SAFETY: the same layout, and written, as the caller answers for.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [T]) }
}

/// Fills memory with zeros.
#[inline(always)]
pub(crate) fn zeroed<T: Float>(values: &mut [MaybeUninit<T>]) -> &mut [T] {
    values.iter_mut().for_each(|value| value.put(T::default()));
    // SAFETY: just above.
    unsafe { written(values) }
}

/// Fills memory with as many values.
#[inline(always)]
pub(crate) fn copied<'a, T: Float>(to: &'a mut [MaybeUninit<T>], from: &[T]) -> &'a mut [T] {
    assert_eq!(to.len(), from.len());
    to.iter_mut().zip(from).for_each(|(to, &from)| to.put(from));
    // SAFETY: just above, for the lengths are equal.
    unsafe { written(to) }
}

/// Memory for intermediate values, kept for the next kernel that asks.
pub(crate) struct Workspace(Vec<CacheLines>);

/// Two cache lines: what adjacent slices of a workspace never share.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct CacheLines([f64; 16]);

static KEPT: Mutex<Vec<Vec<CacheLines>>> = Mutex::new(Vec::new());

impl Workspace {
    /// Memory for several slices of T together; their contents are arbitrary.
    pub fn new<T: Plain>(sizes: &[usize]) -> Self {
        let len = sizes.iter().map(|&size| padded::<T>(size)).sum::<usize>() / padded::<T>(1);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, else the largest, to be replaced.
        let fits = (0..kept.len()).filter(|&i| kept[i].len() >= len).min_by_key(|&i| kept[i].len());
        let chosen = fits.or_else(|| (0..kept.len()).max_by_key(|&i| kept[i].len()));
        let mut buffer = chosen.map(|index| kept.swap_remove(index)).unwrap_or_default();
        drop(kept);
        if buffer.len() < len {
            drop(std::mem::take(&mut buffer));
            buffer = vec![CacheLines([0.0; 16]); len];
        }
        Self(buffer)
    }

    /// The slices, of the sizes that the workspace was made for.
    pub fn slices<T: Plain, const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [T]; N] {
        let len = self.0.len() * padded::<T>(1);
        // SAFETY: the lines hold `len` values of T: less aligned, and any bits are a value.
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
    len.next_multiple_of(size_of::<CacheLines>() / size_of::<T>())
}
