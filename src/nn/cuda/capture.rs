//! A device's work as a CUDA graph: launched once by the host, then all of it again at a single call.

use candle_core::{Device, Tensor};
use cudarc::driver::{CudaGraph, sys};

use super::driver::cuda;
use super::memory;
use super::types::failed;
use crate::error::Result;

/// Work that was captured. It reads and writes the memory that it was captured with: what of it is not the work's own must outlive it.
pub(crate) struct Captured(CudaGraph);

// SAFETY: the driver allows a graph on any thread, one at a time; launching takes it for itself.
unsafe impl Send for Captured {}

/// Captures what `work` launches on the device; nothing of it is computed. It must give back all memory that it takes, keep no tensor
/// that it makes, and neither read from the device nor upload to it.
///
/// # Errors
/// When `work` fails, or does what cannot be captured.
pub(crate) fn capture(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Captured> {
    let refused = failed("the CUDA driver, capturing a step");
    let stream = cuda(device)?.cuda_stream();
    stream.context().check_err().map_err(&refused)?;
    // Relaxed: memory may be asked for on the way, by libraries, too.
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(&refused)?;
    let done = work();
    // What could not be given back on the way is an error that cudarc has noted, and would tell the next who asks: instead of ending.
    let noted = stream.context().check_err();
    let ended = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
    done?;
    let graph = ended.map_err(&refused)?;
    noted.map_err(&refused)?;
    graph.map(Captured).ok_or_else(|| candle_core::Error::Msg("the CUDA driver captured nothing".to_string()).into())
}

impl Captured {
    /// Does the work again, behind whatever was launched before.
    pub fn launch(&mut self) -> Result<()> {
        Ok(self.0.launch().map_err(failed("the CUDA driver, launching a captured step"))?)
    }
}

/// Gives back the memory of captured work that is dropped.
pub(crate) fn give_back_unused(device: &Device) -> Result<()> {
    let stream = cuda(device)?.cuda_stream();
    stream.synchronize().map_err(failed("the CUDA driver"))?;
    // SAFETY: the device exists.
    unsafe { sys::cuDeviceGraphMemTrim(stream.context().cu_device()) }.result().map_err(failed("the CUDA driver"))?;
    Ok(())
}

/// While it lives, candle uploads the shapes and strides that its kernels take once only, on this thread: a capture must not upload, and
/// nor need steps that are alike.
pub(crate) fn keep_strides(device: &Device) -> Result<impl Sized + use<>> {
    Ok(cuda(device)?.enable_cuda_graph_htod_cache())
}

/// Copies of tensors, in order.
pub(crate) fn copies(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    Ok(tensors.iter().map(Tensor::copy).collect::<candle_core::Result<_>>()?)
}

/// Gives tensors the values of others, in order, where they lie.
pub(crate) fn restore(tensors: &[Tensor], from: &[Tensor]) -> Result<()> {
    Ok(tensors.iter().zip(from).try_for_each(|(to, from)| memory::overwrite(to, from))?)
}

/// Whether tensors have the same bits.
pub(crate) fn same_bits(tensors: &[Tensor], others: &[Tensor]) -> Result<bool> {
    for (a, b) in tensors.iter().zip(others) {
        if memory::bytes(a)? != memory::bytes(b)? {
            return Ok(false);
        }
    }
    Ok(true)
}
