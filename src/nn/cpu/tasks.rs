//! How loops are cut into tasks, and the instructions that they run with.

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
