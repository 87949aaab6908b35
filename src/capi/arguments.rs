//! What comes from C, checked as far as it can be.

use std::ffi::{CStr, c_char};
use std::mem::size_of;
use std::ptr;

use super::ganforge_generator;
use crate::error::{Error, Result};

/// Structs that begin with their size, as the program knows it: so that fields can be added.
///
/// # Safety
/// It begins with a `usize` and is valid with any part of its bytes beyond that replaced by those of a valid one.
pub(super) unsafe trait Growing: Copy {}

// SAFETY: pointers and numbers alone, `size` first.
unsafe impl Growing for super::ganforge_options {}
// SAFETY: as above.
unsafe impl Growing for super::ganforge_conditioning {}

/// A struct of the program's, which may know fewer fields than this library, or more; `nothing` where it is null.
///
/// # Safety
/// `told` is null or has as many bytes as its first field says.
pub(super) unsafe fn known<T: Growing>(name: &str, told: *const T, nothing: T) -> Result<T> {
    if told.is_null() {
        return Ok(nothing);
    }
    aligned(name, told)?;
    // SAFETY: not null, aligned, and of the caller's.
    let size = unsafe { told.cast::<usize>().read() };
    // All fields are as large as a pointer: no other size ends between two of them.
    if !(size_of::<usize>()..=1 << 16).contains(&size) || !size.is_multiple_of(size_of::<usize>()) {
        let what = format!("`{name}->size` is {size}, which is not the size of such a struct");
        return Err(Error::usage(what, "Set it to sizeof the struct, and all that is not wanted to zero."));
    }
    let mut known = nothing;
    // SAFETY: both have so many bytes, and any of its first bytes may be replaced by those of another.
    unsafe { ptr::copy_nonoverlapping(told.cast::<u8>(), ptr::from_mut(&mut known).cast::<u8>(), size.min(size_of::<T>())) };
    Ok(known)
}

/// A text; `None` where it is null.
///
/// # Safety
/// `text` is null or ends with a zero byte, and nobody changes it meanwhile.
pub(super) unsafe fn text<'a>(name: &str, text: *const c_char) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and as the caller promises.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|e| Error::usage(format!("`{name}` is not UTF-8: {e}"), "Give UTF-8."))?;
    Ok(Some(text))
}

/// # Safety
/// `generator` is null or open, and stays so meanwhile.
pub(super) unsafe fn handle<'a>(generator: *const ganforge_generator) -> Result<&'a ganforge_generator> {
    aligned("generator", generator)?;
    // SAFETY: as the caller promises.
    unsafe { generator.as_ref() }.ok_or_else(|| null("generator"))
}

/// Where a value goes; there need be none yet.
pub(super) struct Place<T>(*mut T);

impl<T> Place<T> {
    /// # Safety
    /// `place` is null or a place for a value, which nobody else uses as long as this is there.
    pub unsafe fn new(name: &str, place: *mut T) -> Result<Self> {
        aligned(name, place)?;
        if place.is_null() { Err(null(name)) } else { Ok(Self(place)) }
    }

    pub fn put(&self, value: T) {
        // SAFETY: not null, aligned, and as the caller of `new` promised.
        unsafe { self.0.write(value) }
    }
}

/// # Safety
/// `values` is null or has `len` values, which nobody changes meanwhile.
pub(super) unsafe fn buffer<'a, T>(name: &str, values: *const T, len: usize) -> Result<&'a [T]> {
    check(name, values, len)?;
    // SAFETY: neither null nor too long, aligned, and as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(values, len) })
}

/// # Safety
/// `values` is null or has `len` values, which nobody else uses meanwhile.
pub(super) unsafe fn buffer_mut<'a, T>(name: &str, values: *mut T, len: usize) -> Result<&'a mut [T]> {
    check(name, values, len)?;
    // SAFETY: as in `buffer`.
    Ok(unsafe { std::slice::from_raw_parts_mut(values, len) })
}

fn check<T>(name: &str, values: *const T, len: usize) -> Result<()> {
    if values.is_null() {
        return Err(null(name));
    }
    aligned(name, values)?;
    if len.checked_mul(size_of::<T>()).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Error::usage(format!("`{name}` cannot have {len} elements"), "Give their true number."));
    }
    Ok(())
}

fn aligned<T>(name: &str, place: *const T) -> Result<()> {
    if place.is_aligned() {
        return Ok(());
    }
    let what = format!("`{name}` points to {place:p}, where no such value can be");
    Err(Error::usage(what, format!("Align it to {} bytes.", align_of::<T>())))
}

fn null(name: &str) -> Error {
    Error::usage(format!("`{name}` is null"), "Give what the header says.")
}
