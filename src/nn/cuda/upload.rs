//! Numbers from the host: by themselves, or, for captured steps, to places that stay where they are.

use std::sync::Arc;

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Device, Result, Shape, Storage, Tensor, WithDType, bail};
use cudarc::driver::{CudaEvent, CudaStream, DeviceRepr, PinnedHostSlice, ValidAsZeroBits, result, sys};

use super::driver::cuda;
use super::memory::address;
use super::types::failed;
use crate::nn::upload::Values;

/// As `nn::upload::upload`.
pub(in crate::nn) fn upload(values: &Values, shape: Shape, device: &Device) -> Result<Tensor> {
    let device = cuda(device)?;
    let stream = device.cuda_stream();
    if stream.capture_status() != Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) {
        bail!("the host draws numbers on the way, as of dropout's masks");
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
    floats: Places<f32>,
    doubles: Places<f64>,
    words: Places<u32>,
    stream: Arc<CudaStream>,
}

/// The places of tensors lie at multiples of so many bytes, as memory of their own does: libraries choose by that how they compute.
const ALIGNED: usize = 256;

/// Places of one type.
struct Places<T> {
    on_device: Option<Tensor>,
    /// What is to go there, as far as it is known.
    staged: Vec<T>,
    len: usize,
    /// Two, for one may still be on its way: until its event.
    pinned: Vec<(PinnedHostSlice<T>, Option<CudaEvent>)>,
    sent: usize,
}

impl Room {
    /// Room for so many f32, f64 and u32.
    pub fn new([floats, doubles, words]: [usize; 3], device: &Device) -> Result<Self> {
        let stream = cuda(device)?.cuda_stream();
        Ok(Self {
            floats: Places::new(floats, device, &stream)?,
            doubles: Places::new(doubles, device, &stream)?,
            words: Places::new(words, device, &stream)?,
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

impl<T: WithDType + DeviceRepr + ValidAsZeroBits> Places<T> {
    fn new(len: usize, device: &Device, stream: &Arc<CudaStream>) -> Result<Self> {
        let mut places = Self { on_device: None, staged: Vec::with_capacity(len), len, pinned: Vec::new(), sent: 0 };
        if len > 0 {
            places.on_device = Some(Tensor::zeros(len, T::DTYPE, device)?);
            for _ in 0..2 {
                // SAFETY: numbers, which are written before they are read.
                let pinned = unsafe { stream.context().alloc_pinned(len) }.map_err(failed("page-locked memory"))?;
                places.pinned.push((pinned, None));
            }
        }
        Ok(places)
    }

    fn put(&mut self, values: &[T]) -> Result<()> {
        let end = self.staged.len() + aligned::<T>(values.len());
        if end > self.len {
            bail!("more numbers than there is room for: {end} of {:?}", T::DTYPE);
        }
        self.staged.extend_from_slice(values);
        self.staged.resize(end, T::zero());
        Ok(())
    }

    fn last(&self, len: usize, shape: Shape) -> Result<Tensor> {
        match &self.on_device {
            Some(on_device) => on_device.narrow(0, self.staged.len() - aligned::<T>(len), len)?.reshape(shape),
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
        let (pinned, gone) = &mut self.pinned[turn];
        if let Some(gone) = gone.take() {
            gone.synchronize().map_err(failed("the CUDA driver, waiting for a copy"))?;
        }
        pinned.as_mut_slice().map_err(failed("page-locked memory"))?.copy_from_slice(&self.staged);
        let (to, from) = (address(on_device, T::DTYPE)?, pinned.as_slice().map_err(failed("page-locked memory"))?);
        // SAFETY: memory of the same length on either side, the host's being left alone until the event behind the copy.
        unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) }.map_err(failed("the CUDA driver, copying"))?;
        // cudarc's own event of such memory is only recorded where it tracks events, which it does not here.
        *gone = Some(stream.record_event(None).map_err(failed("the CUDA driver, copying"))?);
        Ok(())
    }
}

impl<T> Drop for Places<T> {
    fn drop(&mut self) {
        // The memory must not go while it is copied from. Where waiting fails, the device is lost anyway.
        for gone in self.pinned.iter().filter_map(|(_, gone)| gone.as_ref()) {
            let _ = gone.synchronize();
        }
    }
}

/// The length of the place of so many values.
fn aligned<T>(len: usize) -> usize {
    len.next_multiple_of(ALIGNED / size_of::<T>())
}

/// Its place among the lengths of [`Room::new`], and the length of its own.
pub(crate) fn measured(values: &Values) -> (usize, usize) {
    match values {
        Values::F32(values) => (0, aligned::<f32>(values.len())),
        Values::F64(values) => (1, aligned::<f64>(values.len())),
        Values::U32(values) => (2, aligned::<u32>(values.len())),
    }
}
