//! The devices in use, each with its kernels and libraries.
//!
//! A device has one stream, so operations run in the order in which they were called, and memory is given back in that order.
//! That order, not the lock of a tensor's storage on the host, is what keeps writes in place apart from reads.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::DeviceId;
use candle_core::{CudaDevice, DType, Device, Result, Tensor, bail};
use cudarc::cublas::sys::cublasSetWorkspace_v2;
use cudarc::driver::CudaStream;

use super::cudnn::Dnn;
use super::memory::{self, Scratch};
use super::module::{Argument, Grid, Kernels};
use super::types::failed;

/// A device with what was made for it.
pub(super) struct Gpu {
    pub device: CudaDevice,
    pub stream: Arc<CudaStream>,
    pub dnn: Dnn,
    kernels: Kernels,
    /// Constant matrices, by what they are for.
    kept: HashMap<Matrix, Tensor>,
    /// What cuBLAS works in. By itself it would ask for memory on the way, which a captured step must not do.
    _for_blas: Scratch,
}

/// What a constant matrix is for, its sides and its type.
pub(in crate::nn) type Matrix = (&'static str, [usize; 2], DType);

/// Bytes for cuBLAS to work in: what its makers advise for the largest devices.
const FOR_BLAS: usize = 32 << 20;

/// What was made for each device. It belongs to the device, not to a network: compiling takes seconds.
static GPUS: LazyLock<Mutex<HashMap<DeviceId, Arc<Mutex<Gpu>>>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` with a device; it must not ask for the device again.
pub(super) fn with<R>(device: &CudaDevice, work: impl FnOnce(&mut Gpu) -> Result<R>) -> Result<R> {
    let gpu = {
        let mut gpus = lock(&GPUS);
        match gpus.get(&device.id()) {
            Some(gpu) => Arc::clone(gpu),
            None => {
                let gpu = Arc::new(Mutex::new(Gpu::new(device)?));
                gpus.insert(device.id(), Arc::clone(&gpu));
                gpu
            }
        }
    };
    let mut gpu = lock(&gpu);
    gpu.stream.context().bind_to_thread().map_err(failed("the CUDA driver"))?;
    work(&mut gpu)
}

/// The device of a tensor.
pub(super) fn cuda(device: &Device) -> Result<&CudaDevice> {
    match device {
        Device::Cuda(device) => Ok(device),
        _ => bail!("expected a tensor on a CUDA device"),
    }
}

/// A constant matrix, which is made when it is first asked for: a step must not upload it again.
pub(in crate::nn) fn kept(device: &Device, matrix: Matrix, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    with(cuda(device)?, |gpu| match gpu.kept.get(&matrix) {
        Some(tensor) => Ok(tensor.clone()),
        None => {
            let made = make()?;
            gpu.kept.insert(matrix, made.clone());
            Ok(made)
        }
    })
}

/// Settings of a freshly opened device.
pub(in crate::nn) fn prepare(device: &Device) -> Result<()> {
    let device = cuda(device)?;
    // SAFETY: all of the device's work goes through one stream; there is nothing for events to keep apart.
    unsafe { device.disable_event_tracking() };
    memory::keep(&device.cuda_stream())?;
    // Compile the kernels and open cuDNN: a device that cannot is to be known now.
    with(device, |_| Ok(()))
}

/// Bytes of a device's memory that were in use at most; `None` where it has no memory pool.
pub(in crate::nn) fn peak_memory(device: &Device) -> Result<Option<u64>> {
    memory::peak(&cuda(device)?.cuda_stream())
}

/// Bytes of a device's memory that are free.
pub(crate) fn free_memory(device: &Device) -> Result<usize> {
    let (free, _) = cuda(device)?.cuda_stream().context().mem_get_info().map_err(failed("the CUDA driver"))?;
    Ok(free)
}

impl Gpu {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let kernels = Kernels::compile(&stream)?;
        let dnn = Dnn::new(&stream)?;
        let for_blas = Scratch::new(&stream, FOR_BLAS)?;
        // SAFETY: the memory lives as long as the device's handle is used here.
        unsafe { cublasSetWorkspace_v2(*device.cublas_handle().handle(), for_blas.at as *mut _, FOR_BLAS) }
            .result()
            .map_err(failed("cuBLAS"))?;
        Ok(Self { device: device.clone(), stream, dnn, kernels, kept: HashMap::new(), _for_blas: for_blas })
    }

    /// Launches the kernel `name_suffix`. The arguments must be those that it takes, in their order.
    pub fn launch(&mut self, name: &'static str, suffix: &'static str, grid: Grid, arguments: &[&dyn Argument]) -> Result<()> {
        self.kernels.launch(&self.stream, [name, suffix], grid, arguments)
    }

    pub fn scratch(&self, bytes: usize) -> Result<Scratch> {
        Scratch::new(&self.stream, bytes)
    }
}
