//! Numbers from the host: by themselves, or, for captured steps, to places that stay where they are.

use std::sync::Arc;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Device, Result, Shape, Storage, Tensor, WithDType, bail};
use cudarc::driver::{CudaStream, DeviceRepr, HostSlice, PinnedHostSlice, ValidAsZeroBits, result, sys};

use super::driver::cuda;
use super::memory::address;
use super::types::failed;
use crate::nn::upload::Values;

/// As `nn::upload::upload`.
pub(in crate::nn) fn upload(values: &Values, shape: Shape, device: &Device) -> Result<Tensor> {
    let device = cuda(device)?;
    let stream = device.cuda_stream();
    if stream.capture_status() != Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) {
        bail!("it takes numbers that the host draws on the way");
    }
    let lost = failed("GPU memory");
    let (slice, len) = match values {
        Values::F32(values) => (CudaStorageSlice::F32(stream.clone_htod(values).map_err(lost)?), values.len()),
        Values::F64(values) => (CudaStorageSlice::F64(stream.clone_htod(values).map_err(lost)?), values.len()),
        Values::U32(values) => (CudaStorageSlice::U32(stream.clone_htod(values).map_err(lost)?), values.len()),
    };
    if len != shape.elem_count() {
        bail!("{len} numbers for a tensor of {shape:?}");
    }
    let storage = CudaStorage { slice, device: device.clone() };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// Places on a device for all numbers of a round of steps, and page-locked memory through which they come there: one copy a type.
pub(crate) struct Room {
    floats: Part<f32>,
    doubles: Part<f64>,
    words: Part<u32>,
    stream: Arc<CudaStream>,
}

/// Places of one type.
struct Part<T> {
    on_device: Option<Tensor>,
    /// What is to go there, as far as it is known.
    staged: Vec<T>,
    len: usize,
    /// Two, for one may still be on its way.
    pinned: Vec<PinnedHostSlice<T>>,
    sent: usize,
}

impl Room {
    /// Room for so many f32, f64 and u32.
    pub fn new([floats, doubles, words]: [usize; 3], device: &Device) -> Result<Self> {
        let stream = cuda(device)?.cuda_stream();
        Ok(Self {
            floats: Part::new(floats, device, &stream)?,
            doubles: Part::new(doubles, device, &stream)?,
            words: Part::new(words, device, &stream)?,
            stream,
        })
    }

    /// Begins anew with the first place.
    pub fn clear(&mut self) {
        self.floats.staged.clear();
        self.doubles.staged.clear();
        self.words.staged.clear();
    }

    /// Puts numbers in the next place; they come there by [`Self::send`].
    pub fn put(&mut self, values: &Values) -> Result<()> {
        match values {
            Values::F32(values) => self.floats.put(values),
            Values::F64(values) => self.doubles.put(values),
            Values::U32(values) => self.words.put(values),
        }
    }

    /// The same, and the place as a tensor.
    pub fn place(&mut self, values: &Values, shape: Shape) -> Result<Tensor> {
        self.put(values)?;
        match values {
            Values::F32(values) => self.floats.last(values.len(), shape),
            Values::F64(values) => self.doubles.last(values.len(), shape),
            Values::U32(values) => self.words.last(values.len(), shape),
        }
    }

    /// Sends what was put there, all places being full, behind whatever was launched before.
    pub fn send(&mut self) -> Result<()> {
        self.floats.send(&self.stream)?;
        self.doubles.send(&self.stream)?;
        self.words.send(&self.stream)
    }
}

impl<T: WithDType + DeviceRepr + ValidAsZeroBits> Part<T> {
    fn new(len: usize, device: &Device, stream: &Arc<CudaStream>) -> Result<Self> {
        let mut part = Self { on_device: None, staged: Vec::with_capacity(len), len, pinned: Vec::new(), sent: 0 };
        if len > 0 {
            part.on_device = Some(Tensor::zeros(len, T::DTYPE, device)?);
            for _ in 0..2 {
                // SAFETY: numbers, which are written before they are read.
                part.pinned.push(unsafe { stream.context().alloc_pinned(len) }.map_err(failed("page-locked memory"))?);
            }
        }
        Ok(part)
    }

    fn put(&mut self, values: &[T]) -> Result<()> {
        if self.staged.len() + values.len() > self.len {
            bail!("more numbers than there is room for: {} of {:?}", self.staged.len() + values.len(), T::DTYPE);
        }
        self.staged.extend_from_slice(values);
        Ok(())
    }

    fn last(&self, len: usize, shape: Shape) -> Result<Tensor> {
        match &self.on_device {
            Some(on_device) => on_device.narrow(0, self.staged.len() - len, len)?.reshape(shape),
            None => bail!("no room for a tensor of {shape:?}"),
        }
    }

    fn send(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        let Some(on_device) = &self.on_device else { return Ok(()) };
        if self.staged.len() != self.len {
            bail!("{} numbers of {:?} where {} are taken", self.staged.len(), T::DTYPE, self.len);
        }
        let turn = self.sent % self.pinned.len();
        self.sent += 1;
        let pinned = &mut self.pinned[turn];
        // Waits until what it held before has gone.
        pinned.as_mut_slice().map_err(failed("page-locked memory"))?.copy_from_slice(&self.staged);
        let to = address(on_device, T::DTYPE)?;
        // SAFETY: memory of the same length on either side; the event of the page-locked one is recorded behind the copy.
        unsafe {
            let (from, _record) = pinned.stream_synced_slice(stream);
            result::memcpy_htod_async(to, from, stream.cu_stream())
        }
        .map_err(failed("the CUDA driver, copying"))
    }
}

/// Its place among the lengths of [`Room::new`], and its length.
pub(crate) fn measured(values: &Values) -> (usize, usize) {
    match values {
        Values::F32(values) => (0, values.len()),
        Values::F64(values) => (1, values.len()),
        Values::U32(values) => (2, values.len()),
    }
}
