//! What networks compute with on CPUs.
//!
//! Loops are written for the compiler to vectorise and run inside [`vectorised`], or are `vectorised_fns!` if they are long, so that one
//! binary uses AVX-512, AVX2 or plain SSE2, whatever the machine has. Work is cut at places that depend on shapes alone, and every sum has one fixed
//! order: results do not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
pub(in crate::nn) mod amx;
#[cfg(target_arch = "x86_64")]
pub(in crate::nn) mod bf16;
pub(in crate::nn) mod by_image;
pub(in crate::nn) mod conv;
pub(in crate::nn) mod elementwise;
mod factor;
pub(in crate::nn) mod float;
mod grouped;
mod im2col;
mod kernels;
mod matrix;
mod memory;
pub(in crate::nn) mod norm;
pub(in crate::nn) mod resample;
pub(in crate::nn) mod spectral;
mod strides;
mod sums;
mod tasks;
mod turn;
pub(in crate::nn) mod update;
mod winograd;

pub(crate) use float::{Float, for_float};
pub(crate) use memory::{Slot, View, copied, filled};
pub(crate) use tasks::{TASK, on_pool, vectorised};
