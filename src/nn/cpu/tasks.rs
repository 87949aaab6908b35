//! How loops are cut into tasks, and the instructions that they run with.

/// Values a task of the elementwise loops handles.
pub(crate) const TASK: usize = 1 << 14;

/// Sums that a weight gradient is made in, at most.
pub(crate) const MAX_SUMS: usize = 8;
/// Rows that a transpose reads side by side: as many lines of memory are open, at places that one set of a cache may share.
pub(crate) const LINES: usize = 8;

/// Runs a short loop with the widest instructions of this machine. It and what it calls must be inlined to profit: long ones are
/// [`vectorised_fns`].
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// Runs work that is cut into tasks again and again on a thread of the pool: from outside, every cut would wait for another
/// thread to begin and to end.
pub(crate) fn on_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

/// Defines functions of loops that run with the widest instructions of this machine, however long they are: of what is given to
/// [`vectorised`] only what the compiler inlines has them, and it does not inline much. Each is compiled once for AVX-512, for AVX2 and
/// for any machine; closures within have the instructions of their function, functions that are called must be `#[inline(always)]`.
macro_rules! vectorised_fns {
    ($(
        $(#[$about:meta])*
        $visible:vis fn $name:ident<$($kind:ident: $bound:path),*>($($argument:ident: $of:ty),* $(,)?) $body:block
    )*) => {$(
        $(#[$about])*
        #[allow(clippy::too_many_arguments)]
        $visible fn $name<$($kind: $bound),*>($($argument: $of),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512<$($kind: $bound),*>($($argument: $of),*) $body

                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2<$($kind: $bound),*>($($argument: $of),*) $body

                if pulp::x86::V4::try_new().is_some() {
                    // SAFETY: it has the instructions.
                    return unsafe { avx512::<$($kind),*>($($argument),*) };
                }
                if pulp::x86::V3::try_new().is_some() {
                    // SAFETY: it has the instructions.
                    return unsafe { avx2::<$($kind),*>($($argument),*) };
                }
            }
            $body
        }
    )*};
}
pub(crate) use vectorised_fns;
