//! A device's work as a CUDA graph: launched once by the host, then all of it again at a single call.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, sys};

use super::driver::{cuda, with};
use super::memory;
use super::types::failed;
use crate::error::Result;

/// Work that was captured. It reads and writes the memory that it was captured with: what of it is not the work's own must outlive it.
pub(crate) struct Captured {
    graph: CudaGraph,
    /// cuDNN's, which later work may have replaced by more.
    _workspace: Option<Arc<CudaSlice<u8>>>,
}

// SAFETY: the driver allows a graph on any thread, one at a time; launching takes it for itself.
unsafe impl Send for Captured {}

/// A capture under way: it ends, whatever happens in it.
struct Capturing(Option<Arc<CudaStream>>);

impl Capturing {
    fn begin(stream: Arc<CudaStream>) -> Result<Self> {
        let refused = failed("the CUDA driver, capturing a step");
        stream.context().check_err().map_err(&refused)?;
        // Relaxed: memory may be asked for on the way, by libraries, too.
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(&refused)?;
        Ok(Self(Some(stream)))
    }

    fn end(&mut self) -> Result<Option<CudaGraph>> {
        let Some(stream) = self.0.take() else { return Ok(None) };
        let refused = failed("the CUDA driver, capturing a step");
        // What could not be given back on the way is an error that cudarc has noted, and would tell the next who asks: instead of ending.
        let noted = stream.context().check_err();
        let ended = stream.end_capture(sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
        let graph = ended.map_err(&refused)?;
        noted.map_err(&refused)?;
        Ok(graph)
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        // Only where the work panicked: its panic says more.
        let _ = self.end();
    }
}

/// Captures what `work` launches on the device; nothing of it is computed. It must give back all memory that it takes, keep no tensor
/// that it makes, and neither read from the device nor upload to it.
///
/// # Errors
/// When `work` fails, or does what cannot be captured.
pub(crate) fn capture(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Captured> {
    let gpu = cuda(device)?;
    let mut capturing = Capturing::begin(gpu.cuda_stream())?;
    let done = work();
    let ended = capturing.end();
    done?;
    let graph = ended?.ok_or_else(|| candle_core::Error::Msg("the CUDA driver captured nothing".to_string()))?;
    Ok(Captured { graph, _workspace: with(gpu, |gpu| Ok(gpu.dnn.workspace()))? })
}

impl Captured {
    /// Does the work again, behind whatever was launched before.
    pub fn launch(&mut self) -> Result<()> {
        Ok(self.graph.launch().map_err(failed("the CUDA driver, launching a captured step"))?)
    }
}

/// Why nothing can be captured on a device, if that is known.
pub(crate) fn refusal(device: &Device) -> Result<Option<String>> {
    let pools = cuda(device)?.cuda_stream().context().has_async_alloc();
    Ok((!pools).then(|| "its driver has no memory pools".to_string()))
}

/// Gives back memory that nobody uses at present: of single launches, and of captured work that is dropped.
pub(crate) fn trim(device: &Device) -> Result<()> {
    Ok(memory::trim(&cuda(device)?.cuda_stream())?)
}

/// While it lives, candle uploads the shapes and strides that its kernels take once only: a capture must not upload, and steps that are
/// alike need not.
pub(crate) fn keep_strides(device: &Device) -> Result<impl Sized + use<>> {
    Ok(cuda(device)?.enable_cuda_graph_htod_cache())
}

/// Copies of tensors, in order.
pub(crate) fn copies(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    Ok(tensors.iter().map(Tensor::copy).collect::<candle_core::Result<_>>()?)
}

/// Gives tensors the values of others, in order, where they lie.
pub(crate) fn restore(tensors: &[Tensor], from: &[Tensor]) -> Result<()> {
    for (to, from) in tensors.iter().zip(from) {
        memory::overwrite(&cuda(to.device())?.cuda_stream(), to, from)?;
    }
    Ok(())
}

/// Whether tensors have the same bits.
pub(crate) fn same_bits(tensors: &[Tensor], others: &[Tensor]) -> Result<bool> {
    for (a, b) in tensors.iter().zip(others) {
        let stream = cuda(a.device())?.cuda_stream();
        if memory::bytes(&stream, a)? != memory::bytes(&stream, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether tensors lie in the same memory.
pub(crate) fn same_memory(tensors: &[Tensor], others: &[Tensor]) -> bool {
    let same = |(a, b): (&Tensor, &Tensor)| std::ptr::eq(&*a.storage_and_layout().0, &*b.storage_and_layout().0);
    tensors.len() == others.len() && tensors.iter().zip(others).all(same)
}
