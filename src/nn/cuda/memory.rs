//! A device's memory: where tensors lie, new ones, and what is taken for a while.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, bail};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result, sys};

use super::types::{Address, failed};
use crate::nn::in_place::InPlace;

/// Memory for intermediate values; given back when what was launched before is done with it.
pub(super) struct Scratch {
    pub at: Address,
    _memory: CudaSlice<u8>,
}

impl Scratch {
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        // SAFETY: bytes that a kernel or library call writes before another reads them.
        let memory = unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(failed("GPU memory"))?;
        let at = memory.device_ptr(stream).0;
        Ok(Self { at, _memory: memory })
    }
}

/// Where a contiguous tensor of a type lies, for reading.
pub(super) fn address(tensor: &Tensor, dtype: DType) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => address_in(storage, layout, dtype),
        _ => bail!("expected a tensor on a CUDA device"),
    }
}

/// Where a contiguous tensor of a type lies, for writing.
pub(super) fn place(to: InPlace<'_>, dtype: DType) -> Result<Address> {
    address(to.tensor(), dtype)
}

/// Where the first value of a tensor of a type lies, for reading, and how far apart those beside it do, axis by axis.
pub(super) fn strided(tensor: &Tensor, dtype: DType) -> Result<(Address, Vec<usize>)> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => Ok((first(storage, layout.start_offset(), dtype)?, layout.stride().to_vec())),
        _ => bail!("expected a tensor on a CUDA device"),
    }
}

fn address_in(storage: &CudaStorage, layout: &Layout, dtype: DType) -> Result<Address> {
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor, got {layout:?}") };
    first(storage, start, dtype)
}

/// Where value number `start` of a storage of a type lies.
fn first(storage: &CudaStorage, start: usize, dtype: DType) -> Result<Address> {
    let stream = storage.device.cuda_stream();
    let base = match (&storage.slice, dtype) {
        (CudaStorageSlice::F32(values), DType::F32) => values.device_ptr(&stream).0,
        (CudaStorageSlice::F64(values), DType::F64) => values.device_ptr(&stream).0,
        (CudaStorageSlice::U32(values), DType::U32) => values.device_ptr(&stream).0,
        (CudaStorageSlice::U8(values), DType::U8) => values.device_ptr(&stream).0,
        _ => bail!("expected a tensor of {dtype:?}, got {:?}", storage.dtype()),
    };
    Ok(base + (start * dtype.size_in_bytes()) as Address)
}

/// A new tensor for a kernel to write all of.
pub(super) fn unwritten(shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    // SAFETY: numbers, of which any bits are a value; every caller launches a kernel that writes them.
    unsafe { Tensor::empty(shape, like.dtype(), like.device()) }
}

/// Gives a contiguous tensor the values of another of its type and length, where they lie.
pub(super) fn overwrite(stream: &Arc<CudaStream>, to: &Tensor, from: &Tensor) -> Result<()> {
    let dtype = to.dtype();
    if from.elem_count() != to.elem_count() {
        bail!("{:?} overwritten by {:?}", to.dims(), from.dims());
    }
    let (at, source) = (place(InPlace::of(to), dtype)?, address(from, dtype)?);
    stream.context().bind_to_thread().map_err(failed("the CUDA driver"))?;
    // SAFETY: both hold as many values of this type.
    unsafe { result::memcpy_dtod_async(at, source, to.elem_count() * dtype.size_in_bytes(), stream.cu_stream()) }
        .map_err(failed("the CUDA driver, copying"))
}

/// The bytes of a contiguous tensor, read from the device.
pub(super) fn bytes(stream: &Arc<CudaStream>, tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; tensor.elem_count() * tensor.dtype().size_in_bytes()];
    let from = address(tensor, tensor.dtype())?;
    stream.context().bind_to_thread().map_err(failed("the CUDA driver"))?;
    // SAFETY: as many bytes as the tensor has, which lives until they are here.
    unsafe { result::memcpy_dtoh_async(&mut bytes, from, stream.cu_stream()) }.map_err(failed("the CUDA driver, reading"))?;
    stream.synchronize().map_err(failed("the CUDA driver, reading"))?;
    Ok(bytes)
}

/// Has memory that was once taken kept for the next step.
pub(super) fn keep(stream: &Arc<CudaStream>) -> Result<()> {
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    // By default the pool gives its memory back whenever the host waits for the device.
    let mut keep = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device exists, and this attribute is a 64-bit number.
    unsafe {
        let pool =
            result::device::get_default_mem_pool(stream.context().cu_device()).map_err(failed("the device's memory pool"))?;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut keep).cast())
            .result()
            .map_err(failed("the memory pool's release threshold"))
    }
}

/// Gives back what of the pool, and of the memory of graphs, nobody uses.
pub(super) fn trim(stream: &Arc<CudaStream>) -> Result<()> {
    stream.synchronize().map_err(failed("the CUDA driver"))?;
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    let device = stream.context().cu_device();
    // SAFETY: the device exists.
    unsafe {
        let pool = result::device::get_default_mem_pool(device).map_err(failed("the device's memory pool"))?;
        sys::cuMemPoolTrimTo(pool, 0).result().map_err(failed("the device's memory pool"))?;
        sys::cuDeviceGraphMemTrim(device).result().map_err(failed("the memory of CUDA graphs"))
    }
}

/// Bytes that were in use at most, by captured steps besides; `None` where the device has no memory pool.
pub(super) fn peak(stream: &Arc<CudaStream>) -> Result<Option<u64>> {
    if !stream.context().has_async_alloc() {
        return Ok(None);
    }
    let (mut peak, mut of_graphs) = (0u64, 0u64);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the device exists, and this attribute is a 64-bit number.
    unsafe {
        let pool =
            result::device::get_default_mem_pool(stream.context().cu_device()).map_err(failed("the device's memory pool"))?;
        sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut peak).cast())
            .result()
            .map_err(failed("the memory pool's peak"))?;
        let used = sys::CUgraphMem_attribute::CU_GRAPH_MEM_ATTR_USED_MEM_HIGH;
        sys::cuDeviceGetGraphMemAttribute(stream.context().cu_device(), used, (&raw mut of_graphs).cast())
            .result()
            .map_err(failed("the memory of CUDA graphs"))?;
    }
    Ok(Some(peak + of_graphs))
}
