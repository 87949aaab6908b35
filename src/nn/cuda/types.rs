//! What the parts of the CUDA side have in common, as plain values.

use candle_core::{DType, Error, Result, bail};
use cudarc::driver::sys;

use crate::nn::activation::Activation;
use crate::nn::precision::Precision;

/// A place in a device's memory.
pub(super) type Address = sys::CUdeviceptr;

/// For `map_err`: what failed.
pub(super) fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Msg(format!("{what}: {error}"))
}

/// How a convolution or matrix product computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Math {
    F64,
    F32,
    /// f32 with 10 bits of mantissa on the way into the multipliers.
    Tf32,
    /// bf16 with sums in f32.
    Bf16,
}

impl Math {
    /// What values of a type are multiplied in, when f32 may be rounded so.
    pub fn of(dtype: DType, precision: Precision) -> Result<Self> {
        Ok(match (dtype, precision) {
            (DType::F64, _) => Self::F64,
            (DType::F32, Precision::F32) => Self::F32,
            (DType::F32, Precision::Tf32) => Self::Tf32,
            (DType::F32, Precision::Bf16) => Self::Bf16,
            (other, _) => bail!("convolution: expected f32 or f64, got {other:?}"),
        })
    }

    /// Bytes of a value as the multipliers take it.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::Tf32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Bytes of a value of the result.
    pub fn result_size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::Tf32 | Self::Bf16 => 4,
        }
    }

    /// The kernels' suffix for values that keep their type.
    pub fn plain(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 | Self::Tf32 | Self::Bf16 => "f32",
        }
    }
}

/// 1 and 0 in the type that a library takes them in.
pub(super) struct Factors([f64; 2], [f32; 2], bool);

impl Factors {
    pub fn of(math: Math) -> Self {
        Self([1.0, 0.0], [1.0, 0.0], math == Math::F64)
    }

    pub fn one(&self) -> *const core::ffi::c_void {
        if self.2 { (&raw const self.0[0]).cast() } else { (&raw const self.1[0]).cast() }
    }

    pub fn zero(&self) -> *const core::ffi::c_void {
        if self.2 { (&raw const self.0[1]).cast() } else { (&raw const self.1[1]).cast() }
    }
}

/// A length as the kernels take it.
pub(super) fn count(len: usize) -> Result<u32> {
    match i32::try_from(len) {
        Ok(len) => Ok(len.unsigned_abs()),
        Err(_) => bail!("a tensor of {len} values is too large for the CUDA kernels (2³¹ − 1): use a smaller batch"),
    }
}

/// The kernels' suffix for a type.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F64 => Ok("f64"),
        other => bail!("expected f32 or f64, got {other:?}"),
    }
}

/// The number of an activation in `kernels.cu`, and its slope.
pub(super) fn coded(act: Activation) -> (i32, f64) {
    match act {
        Activation::None => (0, 0.0),
        Activation::Rectifier { slope } => (1, slope),
        Activation::Tanh => (2, 0.0),
        Activation::Sigmoid => (3, 0.0),
    }
}
