//! Writing in place, which candle's tensors do not show by themselves.

use candle_core::{Result, Tensor, bail};

/// A tensor whose values an operation changes where they lie. Whoever shares its storage sees the change: a clone, a view, a
/// parameter. An operation refuses it where another operand is among these.
#[derive(Clone, Copy)]
pub struct InPlace<'a>(&'a Tensor);

impl<'a> InPlace<'a> {
    /// Lends a tensor for writing.
    pub fn of(tensor: &'a Tensor) -> Self {
        Self(tensor)
    }

    /// What is written to.
    pub(crate) fn tensor(self) -> &'a Tensor {
        self.0
    }
}

/// Refuses operands if one that is written to shares its memory with another, or they are not all on one device.
pub(crate) fn check(written: &[InPlace<'_>], read: &[&Tensor]) -> Result<()> {
    let shared = |a: &Tensor, b: &Tensor| std::ptr::eq(&*a.storage_and_layout().0, &*b.storage_and_layout().0);
    for (index, to) in written.iter().map(|to| to.tensor()).enumerate() {
        for other in written[index + 1..].iter().map(|other| other.tensor()).chain(read.iter().copied()) {
            if !to.device().same_device(other.device()) {
                bail!("operands on {:?} and {:?}", to.device().location(), other.device().location());
            }
            if shared(to, other) {
                bail!("an operand that is changed in place, {:?}, shares its memory with another", to.dims());
            }
        }
    }
    Ok(())
}
