//! The devices that networks live on: the CPU, and CUDA in a build that has it.

use candle_core::{DType, Device};

use crate::error::{Error, Result};
use crate::nn::precision::Precision;

/// Runs the kernel of a tensor's device: `on_device!(x.device(), cpu: …, cuda: …)`.
macro_rules! on_device {
    ($device:expr, cpu: $cpu:expr, cuda: $cuda:expr) => {
        match $device {
            candle_core::Device::Cpu => $cpu,
            #[cfg(feature = "cuda")]
            candle_core::Device::Cuda(_) => $cuda,
            other => Err($crate::nn::device::unsupported(other).into()),
        }
    };
}
pub(crate) use on_device;

pub(crate) fn unsupported(device: &Device) -> candle_core::Error {
    candle_core::Error::Msg(format!("this build has no kernels for {:?}", device.location()))
}

/// Opens GPU number `index` for training: everything goes through one stream of its own, without events between operations,
/// and memory once taken is kept for the next step.
///
/// # Errors
/// When there is no such GPU or no working driver, or the build is without CUDA.
pub fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    #[cfg(feature = "cuda")]
    super::cuda::driver::prepare(&device)?;
    Ok(device)
}

/// Bytes of the device's memory that were in use at most, cuDNN's working memory included; `None` on the CPU, and where the
/// driver does not count them.
///
/// # Errors
/// When the driver fails.
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    on_device!(device, cpu: Ok(None), cuda: Ok(super::cuda::driver::peak_memory(device)?))
}

/// Refuses a precision that a device does not know.
///
/// # Errors
/// On the CPU for TF32, and for bf16 where it lacks the instructions.
pub fn check_precision(device: &Device, precision: Precision) -> Result<()> {
    let lacking = super::cpu::conv::lacking_for_bf16();
    let lacks = match precision {
        _ if !device.is_cpu() => return Ok(()),
        Precision::F32 => return Ok(()),
        Precision::Tf32 if lacking.is_empty() => "which computes in f32 or bf16".to_string(),
        Precision::Tf32 => "which computes in f32".to_string(),
        Precision::Bf16 if lacking.is_empty() => return Ok(()),
        Precision::Bf16 => format!("which lacks {}", lacking.join(", ")),
    };
    let what = format!("precision {} on this CPU, {lacks}", precision.name());
    let hint = "Use `Overrides::precision` f32, or `Place::device` cuda in a build that has it. CPUs with bf16 are AMD's from Zen 4 on and \
                Intel's Xeons from Sapphire Rapids on.";
    Err(Error::usage(what, hint))
}

/// Whether products in bf16 on this CPU are made with AMX: where it has tiles, the system lends them, and the environment
/// variable `GANFORGE_NO_AMX` is not set.
pub fn has_amx() -> bool {
    #[cfg(target_arch = "x86_64")]
    return super::cpu::amx::is_there();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Where a network lives, and what it computes in.
#[derive(Debug, Clone)]
pub struct Place {
    /// The device of its parameters.
    pub device: Device,
    /// Their type: f32 for training, f64 where tests want exact numbers.
    pub dtype: DType,
    /// What convolutions and linear layers in f32 multiply in. Those in f64 are exact.
    pub precision: Precision,
}

impl Place {
    /// The CPU.
    pub fn cpu(dtype: DType) -> Self {
        Self { device: Device::Cpu, dtype, precision: Precision::F32 }
    }
}
