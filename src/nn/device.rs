//! The devices that networks live on: the CPU, and CUDA in a build that has it.

use candle_core::{Device, Tensor};

use crate::config::Precision;
use crate::error::{Error, Result};

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

/// Refuses operands of an operation that writes in place, if one that is written to shares its memory with another, or
/// they are not all on one device.
pub(crate) fn check_operands(written: &[&Tensor], read: &[&Tensor]) -> candle_core::Result<()> {
    let shared = |a: &Tensor, b: &Tensor| std::ptr::eq(&*a.storage_and_layout().0, &*b.storage_and_layout().0);
    for (index, to) in written.iter().enumerate() {
        for other in written[index + 1..].iter().chain(read) {
            if !to.device().same_device(other.device()) {
                candle_core::bail!("operands on {:?} and {:?}", to.device().location(), other.device().location());
            }
            if shared(to, other) {
                candle_core::bail!("an operand that is changed in place, {:?}, shares its memory with another", to.dims());
            }
        }
    }
    Ok(())
}

/// Opens GPU number `index` for training: everything goes through one stream of its own, without events between operations,
/// and memory once taken is kept for the next step.
///
/// # Errors
/// When there is no such GPU or no working driver, or the build is without CUDA.
pub fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    #[cfg(feature = "cuda")]
    super::cuda::prepare(&device)?;
    Ok(device)
}

/// Bytes of the device's memory that were in use at most, cuDNN's working memory included; `None` on the CPU, and where the
/// driver does not count them.
///
/// # Errors
/// When the driver fails.
pub fn peak_memory(device: &Device) -> Result<Option<u64>> {
    on_device!(device, cpu: Ok(None), cuda: Ok(super::cuda::peak_memory(device)?))
}

/// Sets what convolutions and linear layers in f32 compute with on this device from now on. Those in f64 stay exact.
///
/// # Errors
/// On the CPU, which knows f32 only; when our kernels do not compile on a GPU.
pub fn set_precision(device: &Device, precision: Precision) -> Result<()> {
    if device.is_cpu() && precision != Precision::F32 {
        let what = format!("precision {} on the CPU, which computes in f32 only", precision.name());
        return Err(Error::usage(what, "Use --precision f32, or --device cuda in a build that has it."));
    }
    on_device!(device, cpu: Ok(()), cuda: Ok(super::cuda::set_precision(device, precision)?))
}
