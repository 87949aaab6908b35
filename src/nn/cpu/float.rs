//! The element types that the kernels compute in.

use candle_core::{CpuStorage, DType, Result, Tensor, WithDType, bail};

/// A number in memory that any bits are a value of.
///
/// # Safety
/// They must be, and an f64 must be aligned as much.
pub(crate) unsafe trait Plain: Copy + Send + Sync {}

// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: numbers.
unsafe impl Plain for f64 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}

/// The element types: f32 for training, f64 for exact tests.
pub(crate) trait Float: WithDType + Default + Plain {
    /// 0, which `Default` cannot say in constants.
    const ZERO: Self;
    /// The values of a storage of this type.
    fn values_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
    /// √x.
    fn sqrt(self) -> Self;
    /// `self · factor + term`, rounded once.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// tanh x. In f32 branch-free, so that loops of it are vectorised; within 3e-7 of its value.
    fn tanh(self) -> Self;
    /// 1 / (1 + e⁻ˣ), likewise.
    fn sigmoid(self) -> Self;
}

impl Float for f32 {
    const ZERO: Self = 0.0;

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

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul_add(factor, term)
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
    const ZERO: Self = 0.0;

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
    fn mul_add(self, factor: Self, term: Self) -> Self {
        self.mul_add(factor, term)
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

/// Whether our kernels serve the type of a tensor.
pub(crate) fn check_type(tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        other => bail!("expected f32 or f64, got {other:?}"),
    }
}
