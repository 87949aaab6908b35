//! Training on NVIDIA GPUs: kernels of ours (`kernels.cu`), matrix products by cuBLAS, convolutions by cuDNN (`cudnn.rs`).
//!
//! A device has one stream, so operations run in the order in which they were called, and memory is given back in that order.
//! That order, not the lock of a tensor's storage on the host, is what keeps writes in place apart from reads.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::cuda_backend::{CudaStorageSlice, DeviceId};
use candle_core::{CudaDevice, CudaStorage, D, DType, Device, Error, Layout, Result, Shape, Storage, Tensor, bail};
use cudarc::cublas::result::gemm_ex;
use cudarc::cublas::sys::cublasComputeType_t as Compute;
use cudarc::cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cublas::sys::cudaDataType_t as DataType;
use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchArgs, LaunchConfig, PushKernelArg, result,
    sys,
};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use super::activation::Activation;
use super::conv::Plan;
use super::cudnn::Dnn;
use super::norm::{BatchNormGradients, BatchNormalised, EPS};
use crate::config::Precision;

/// The kernels' source; `make check-cuda` compiles it ahead of time.
const KERNELS: &str = include_str!("kernels.cu");
/// Threads a block of the elementwise kernels.
const THREADS: u32 = 256;
/// Blocks of theirs at most: each thread then takes several values.
const MAX_BLOCKS: u32 = 1 << 14;
/// Rows a block of the first stage of a sum over rows takes, as in `kernels.cu`.
const ROWS: usize = 128;
/// Columns of a tile, as in `kernels.cu`.
const TILE: u32 = 32;

/// A place in a device's memory.
pub(super) type Address = sys::CUdeviceptr;

/// A device with what was made for it.
struct Gpu {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: HashMap<[&'static str; 2], CudaFunction>,
    dnn: Dnn,
    precision: Precision,
}

/// All devices in use. A device's precision belongs to it, not to the process: two of them do not disturb each other.
static GPUS: LazyLock<Mutex<HashMap<DeviceId, Arc<Mutex<Gpu>>>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` with a device; it must not ask for the device again.
fn with<R>(device: &CudaDevice, work: impl FnOnce(&mut Gpu) -> Result<R>) -> Result<R> {
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

/// For `map_err`: what failed.
pub(super) fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Msg(format!("{what}: {error}"))
}

fn cuda(device: &Device) -> Result<&CudaDevice> {
    match device {
        Device::Cuda(device) => Ok(device),
        _ => bail!("expected a tensor on a CUDA device"),
    }
}

/// Settings of a freshly opened device.
pub(super) fn prepare(device: &Device) -> Result<()> {
    let device = cuda(device)?;
    // SAFETY: all of the device's work goes through one stream; there is nothing for events to keep apart.
    unsafe { device.disable_event_tracking() };
    keep_memory(device)?;
    // Compile the kernels and open cuDNN: a device that cannot is to be known now.
    with(device, |_| Ok(()))
}

fn keep_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
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

/// `None` where the device has no memory pool.
pub(super) fn peak_memory(device: &Device) -> Result<Option<u64>> {
    let stream = cuda(device)?.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(None);
    }
    let mut peak = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the device exists, and this attribute is a 64-bit number.
    unsafe {
        let pool =
            result::device::get_default_mem_pool(stream.context().cu_device()).map_err(failed("the device's memory pool"))?;
        sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut peak).cast())
            .result()
            .map_err(failed("the memory pool's peak"))?;
    }
    Ok(Some(peak))
}

pub(super) fn set_precision(device: &Device, precision: Precision) -> Result<()> {
    with(cuda(device)?, |gpu| {
        gpu.precision = precision;
        Ok(())
    })
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

/// Which of the three convolutions: from (x, w), (dy, w), (x, dy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Forward,
    InputGrad,
    WeightGrad,
}

/// Something that can be passed to a kernel.
trait Argument {
    fn push<'a>(&'a self, to: &mut LaunchArgs<'a>);
}

impl<T: DeviceRepr> Argument for T {
    fn push<'a>(&'a self, to: &mut LaunchArgs<'a>) {
        to.arg(self);
    }
}

/// Memory for intermediate values; given back when what was launched before is done with it.
struct Scratch {
    at: Address,
    _memory: CudaSlice<u8>,
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy)]
struct Grid([u32; 3], [u32; 2]);

impl Grid {
    /// One value a thread, or a few.
    fn each(len: u32) -> Self {
        Self([len.div_ceil(THREADS).clamp(1, MAX_BLOCKS), 1, 1], [THREADS, 1])
    }

    /// The first stage of a sum over rows.
    fn partial(parts: u32, c: u32) -> Self {
        Self([parts, c.div_ceil(TILE), 1], [TILE, 8])
    }

    /// The second stage.
    fn total(c: u32) -> Self {
        Self([c.div_ceil(TILE), 1, 1], [TILE, 32])
    }
}

/// A length as the kernels take it.
fn count(len: usize) -> Result<u32> {
    match i32::try_from(len) {
        Ok(len) => Ok(len.unsigned_abs()),
        Err(_) => bail!("a tensor of {len} values is too large for the CUDA kernels (2³¹ − 1): use a smaller batch"),
    }
}

fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F64 => Ok("f64"),
        other => bail!("expected f32 or f64, got {other:?}"),
    }
}

/// The number of an activation in `kernels.cu`, and its slope.
fn coded(act: Activation) -> (i32, f64) {
    match act {
        Activation::None => (0, 0.0),
        Activation::Rectifier { slope } => (1, slope),
        Activation::Tanh => (2, 0.0),
        Activation::Sigmoid => (3, 0.0),
    }
}

/// Where a contiguous tensor of a type lies, for reading and for writing in place.
fn address(tensor: &Tensor, dtype: DType) -> Result<Address> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => address_in(storage, layout, dtype),
        _ => bail!("expected a tensor on a CUDA device"),
    }
}

fn address_in(storage: &CudaStorage, layout: &Layout, dtype: DType) -> Result<Address> {
    let Some((start, _)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor, got {layout:?}") };
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
fn unwritten(shape: impl Into<Shape>, like: &Tensor) -> Result<Tensor> {
    // SAFETY: numbers, of which any bits are a value; every caller launches a kernel that writes them.
    unsafe { Tensor::empty(shape, like.dtype(), like.device()) }
}

impl Gpu {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let (major, minor) = stream.context().compute_capability().map_err(failed("the CUDA driver"))?;
        let arch = format!("--gpu-architecture=compute_{major}{minor}");
        let options = CompileOptions { options: vec![arch], name: Some("kernels.cu".to_string()), ..Default::default() };
        let ptx = compile_ptx_with_opts(KERNELS, options).map_err(failed("nvrtc, compiling our kernels"))?;
        let module = stream.context().load_module(ptx).map_err(failed("the CUDA driver, loading our kernels"))?;
        let dnn = Dnn::new(&stream)?;
        Ok(Self { device: device.clone(), stream, module, functions: HashMap::new(), dnn, precision: Precision::F32 })
    }

    /// Launches the kernel `name_suffix`. The arguments must be those that it takes, in their order.
    fn launch(&mut self, name: &'static str, suffix: &'static str, grid: Grid, arguments: &[&dyn Argument]) -> Result<()> {
        let function = match self.functions.get(&[name, suffix]) {
            Some(function) => function.clone(),
            None => {
                let function = self.module.load_function(&format!("{name}_{suffix}")).map_err(failed(name))?;
                self.functions.insert([name, suffix], function.clone());
                function
            }
        };
        let mut launch = self.stream.launch_builder(&function);
        arguments.iter().for_each(|argument| argument.push(&mut launch));
        let Grid([x, y, z], [columns, rows]) = grid;
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (columns, rows, 1), shared_mem_bytes: 0 };
        // SAFETY: the callers below pass what the kernels declare, and addresses of as many values as the lengths beside them say.
        unsafe { launch.launch(config) }.map_err(failed(name))?;
        Ok(())
    }

    fn scratch(&self, bytes: usize) -> Result<Scratch> {
        // SAFETY: bytes that a kernel or library call writes before another reads them.
        let memory = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(failed("GPU memory"))?;
        let at = memory.device_ptr(&self.stream).0;
        Ok(Scratch { at, _memory: memory })
    }

    fn math(&self, dtype: DType) -> Result<Math> {
        Ok(match (dtype, self.precision) {
            (DType::F64, _) => Math::F64,
            (DType::F32, Precision::F32) => Math::F32,
            (DType::F32, Precision::Tf32) => Math::Tf32,
            (DType::F32, Precision::Bf16) => Math::Bf16,
            (other, _) => bail!("convolution: expected f32 or f64, got {other:?}"),
        })
    }

    fn swap_axes(&mut self, suffix: &'static str, from: Address, to: Address, [n, a, b]: [usize; 3]) -> Result<()> {
        count(n * a * b)?;
        let [n, a, b] = [count(n)?, count(a)?, count(b)?];
        let grid = Grid([b.div_ceil(TILE), a.div_ceil(TILE), n.min(65_535)], [TILE, 8]);
        self.launch("swap_axes", suffix, grid, &[&from, &to, &n, &a, &b])
    }

    fn convert(&mut self, suffix: &'static str, from: Address, to: Address, len: usize) -> Result<()> {
        let len = count(len)?;
        self.launch("convert", suffix, Grid::each(len), &[&from, &to, &len])
    }

    /// Values `[n, a, b]` as a convolution wants them: swapped, in bf16, or as they are.
    fn bring(&mut self, from: Address, dims: [usize; 3], swap: bool, math: Math) -> Result<(Address, Option<Scratch>)> {
        let (len, narrow) = (dims.iter().product::<usize>(), math == Math::Bf16);
        if !swap && !narrow {
            return Ok((from, None));
        }
        let made = self.scratch(len * size(math))?;
        match swap {
            true => self.swap_axes(if narrow { "narrow" } else { plain(math) }, from, made.at, dims)?,
            false => self.convert("narrow", from, made.at, len)?,
        }
        Ok((made.at, Some(made)))
    }

    /// One of the three convolutions of contiguous operands, in one type.
    fn conv(&mut self, direction: Direction, plan: &Plan, operands: [Address; 2], out: Address, dtype: DType) -> Result<()> {
        let math = self.math(dtype)?;
        let product = as_product(plan);
        let channels_last = match product {
            Some(_) => true,
            None => self.dnn.prepare(direction, plan, math)?,
        };
        // Maps are kept with their channels last, kernels with theirs first.
        let area = plan.window.kernel * plan.window.kernel;
        let x = ([plan.n, plan.h * plan.w, plan.ci], !channels_last);
        let y = ([plan.n, plan.positions(), plan.co], !channels_last);
        let w = ([plan.co, plan.ci, area], channels_last);
        let [first, second, result] = match direction {
            Direction::Forward => [x, w, y],
            Direction::InputGrad => [y, w, x],
            Direction::WeightGrad => [x, y, w],
        }
        .map(|(dims, swap)| (dims, swap && dims[1] > 1 && dims[2] > 1));

        let (a, _a) = self.bring(operands[0], first.0, first.1, math)?;
        let (b, _b) = self.bring(operands[1], second.0, second.1, math)?;
        // cuBLAS takes bf16 and gives f32; cuDNN gives what it takes.
        let narrow = math == Math::Bf16 && product.is_none();
        let (dims, swap) = result;
        let made =
            (swap || narrow).then(|| self.scratch(dims.iter().product::<usize>() * dtype.size_in_bytes())).transpose()?;
        let to = made.as_ref().map_or(out, |made| made.at);
        match product {
            Some(dims) => self.product(direction, dims, [a, b], to, math)?,
            None => self.dnn.run(&self.stream, direction, plan, math, [a, b], to)?,
        }
        match (swap, narrow) {
            (true, _) => {
                let suffix = if narrow { "widen" } else { plain(math) };
                self.swap_axes(suffix, to, out, [dims[0], dims[2], dims[1]])
            }
            (false, true) => self.convert("widen", to, out, dims.iter().product()),
            (false, false) => Ok(()),
        }
    }

    /// `y [rows, co] = x [rows, depth] · w [co, depth]ᵀ` and its two gradients, as [`Self::conv`]. cuBLAS sees the transpose
    /// of every matrix, for its columns lie one behind the other.
    fn product(
        &mut self,
        direction: Direction,
        [rows, depth, co]: [usize; 3],
        [a, b]: [Address; 2],
        out: Address,
        math: Math,
    ) -> Result<()> {
        let int =
            |len: usize| i32::try_from(len).map_err(|_| Error::Msg(format!("a matrix side of {len} is too long for cuBLAS")));
        let [rows, depth, co] = [int(rows)?, int(depth)?, int(co)?];
        let (left, right, [m, n, k], [op_left, op_right], [step_left, step_right]) = match direction {
            Direction::Forward => (b, a, [co, rows, depth], [CUBLAS_OP_T, CUBLAS_OP_N], [depth, depth]),
            Direction::InputGrad => (b, a, [depth, rows, co], [CUBLAS_OP_N, CUBLAS_OP_N], [depth, co]),
            Direction::WeightGrad => (a, b, [depth, co, rows], [CUBLAS_OP_N, CUBLAS_OP_T], [depth, co]),
        };
        let (from, to, compute) = match math {
            Math::F64 => (DataType::CUDA_R_64F, DataType::CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F),
            Math::F32 => (DataType::CUDA_R_32F, DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F),
            Math::Tf32 => (DataType::CUDA_R_32F, DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_FAST_TF32),
            Math::Bf16 => (DataType::CUDA_R_16BF, DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F),
        };
        let factors = Factors::of(math);
        let blas = self.device.cublas_handle();
        // SAFETY: the matrices have the sizes given, which `conv` made or checked.
        unsafe {
            gemm_ex(
                *blas.handle(),
                op_left,
                op_right,
                m,
                n,
                k,
                factors.one(),
                left as *const _,
                from,
                step_left,
                right as *const _,
                from,
                step_right,
                factors.zero(),
                out as *mut _,
                to,
                m,
                compute,
                CUBLAS_GEMM_DFALT,
            )
        }
        .map_err(failed("cuBLAS"))
    }

    /// Sums of columns, `[rows, c]` → `[c]`.
    fn sums(&mut self, suffix: &'static str, x: Address, to: Address, [rows, c]: [usize; 2], dtype: DType) -> Result<()> {
        let parts = rows.div_ceil(ROWS);
        let partial = self.scratch(parts * c * dtype.size_in_bytes())?;
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        self.launch("sums", suffix, Grid::partial(parts, c), &[&x, &partial.at, &rows, &c])?;
        self.launch("sums_total", suffix, Grid::total(c), &[&partial.at, &to, &parts, &c])
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

/// Bytes of a value as the multipliers take it.
fn size(math: Math) -> usize {
    match math {
        Math::F64 => 8,
        Math::F32 | Math::Tf32 => 4,
        Math::Bf16 => 2,
    }
}

/// The kernels' suffix for values that keep their type.
fn plain(math: Math) -> &'static str {
    if math == Math::F64 { "f64" } else { "f32" }
}

/// Rows, depth and output channels of a convolution that is a plain matrix product: a kernel of 1, or one that covers the
/// whole map, as where a DCGAN's maps begin and end.
fn as_product(plan: &Plan) -> Option<[usize; 3]> {
    let window = plan.window;
    let covers = plan.positions() == 1 && (plan.h, plan.w) == (window.kernel, window.kernel);
    match (window.padding, window.kernel, window.stride) {
        (0, 1, 1) => Some([plan.n * plan.positions(), plan.ci, plan.co]),
        (0, kernel, _) if covers => Some([plan.n, plan.ci * kernel * kernel, plan.co]),
        _ => None,
    }
}

/// One of the three convolutions; the operands as [`Direction`] says, the result of `shape`.
pub(super) fn conv(
    direction: Direction,
    plan: &Plan,
    a: (&CudaStorage, &Layout),
    b: (&CudaStorage, &Layout),
    shape: Shape,
) -> Result<(CudaStorage, Shape)> {
    let dtype = a.0.dtype();
    let operands = [address_in(a.0, a.1, dtype)?, address_in(b.0, b.1, dtype)?];
    with(&a.0.device, |gpu| {
        // SAFETY: all of it is written below.
        let out = unsafe { gpu.device.alloc_uninit(&shape, dtype) }?;
        let to = address_in(&out, &Layout::contiguous(&shape), dtype)?;
        gpu.conv(direction, plan, operands, to, dtype)?;
        Ok((out, shape))
    })
}

/// `x ← act(x + bias)`
pub(super) fn add_bias_activate(x: &Tensor, bias: Option<&Tensor>, act: Activation) -> Result<()> {
    let (dtype, len) = (x.dtype(), count(x.elem_count())?);
    let (at, c) = (address(x, dtype)?, count(bias.map_or(0, Tensor::elem_count))?);
    let bias = bias.map_or(Ok(0), |bias| address(bias, dtype))?;
    let (code, slope) = coded(act);
    with(cuda(x.device())?, |gpu| {
        gpu.launch("bias_activate", suffix(dtype)?, Grid::each(len), &[&at, &bias, &len, &c, &code, &slope])
    })
}

/// `dy ← dy · act'`
pub(super) fn activation_grad(act: Activation, y: &Tensor, dy: &Tensor) -> Result<()> {
    if act == Activation::None {
        return Ok(());
    }
    let (dtype, len) = (dy.dtype(), count(dy.elem_count())?);
    let (from, at) = (address(y, dtype)?, address(dy, dtype)?);
    let (code, slope) = coded(act);
    with(cuda(dy.device())?, |gpu| gpu.launch("act_grad", suffix(dtype)?, Grid::each(len), &[&from, &at, &len, &code, &slope]))
}

/// The sums of `dy [… , c]` over all but the last axis.
pub(super) fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let (dy, c, dtype) = (dy.contiguous()?, dy.dim(D::Minus1)?, dy.dtype());
    let to = unwritten(c, &dy)?;
    let (from, at) = (address(&dy, dtype)?, address(&to, dtype)?);
    with(cuda(dy.device())?, |gpu| gpu.sums(suffix(dtype)?, from, at, [dy.elem_count() / c.max(1), c], dtype))?;
    Ok(to)
}

/// `x ← x · factor`
pub(super) fn multiply(x: &Tensor, factor: &Tensor) -> Result<()> {
    let (dtype, len) = (x.dtype(), count(x.elem_count())?);
    let (at, by) = (address(x, dtype)?, address(factor, dtype)?);
    with(cuda(x.device())?, |gpu| gpu.launch("multiply", suffix(dtype)?, Grid::each(len), &[&at, &by, &len]))
}

/// `[n, a, b]` → `[n, b, a]`
pub(super) fn swap_axes(x: &Tensor, [n, a, b]: [usize; 3]) -> Result<Tensor> {
    let (x, dtype) = (x.contiguous()?, x.dtype());
    let to = unwritten((n, b, a), &x)?;
    let (from, at) = (address(&x, dtype)?, address(&to, dtype)?);
    with(cuda(x.device())?, |gpu| gpu.swap_axes(suffix(dtype)?, from, at, [n, a, b]))?;
    Ok(to)
}

/// As `norm::batch_norm`.
pub(super) fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Activation) -> Result<BatchNormalised> {
    let (x, dtype, c) = (x.contiguous()?, x.dtype(), weight.elem_count());
    let (y, mean, var) = (unwritten(x.shape(), &x)?, unwritten(c, &x)?, unwritten(c, &x)?);
    let (rows, len) = (x.elem_count() / c, count(x.elem_count())?);
    let parts = rows.div_ceil(ROWS);
    let [from, to, weight, bias] = [address(&x, dtype)?, address(&y, dtype)?, address(weight, dtype)?, address(bias, dtype)?];
    let [of_mean, of_var] = [address(&mean, dtype)?, address(&var, dtype)?];
    let (suffix, (code, slope)) = (suffix(dtype)?, coded(act));
    with(cuda(x.device())?, |gpu| {
        let partial = |gpu: &Gpu| gpu.scratch(parts * c * dtype.size_in_bytes());
        let (means, squares, scale) = (partial(gpu)?, partial(gpu)?, gpu.scratch(c * dtype.size_in_bytes())?);
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        gpu.launch("moments", suffix, Grid::partial(parts, c), &[&from, &means.at, &squares.at, &rows, &c])?;
        let joined: [&dyn Argument; 9] = [&means.at, &squares.at, &weight, &of_mean, &of_var, &scale.at, &rows, &c, &EPS];
        gpu.launch("moments_total", suffix, Grid::total(c), &joined)?;
        let each: [&dyn Argument; 9] = [&from, &of_mean, &scale.at, &bias, &to, &len, &c, &code, &slope];
        gpu.launch("normalise", suffix, Grid::each(len), &each)
    })?;
    Ok(BatchNormalised { y, mean, var })
}

/// As `norm::batch_norm_grad`.
pub(super) fn batch_norm_grad(
    x: &Tensor,
    weight: &Tensor,
    made: &BatchNormalised,
    act: Activation,
    dy: Tensor,
) -> Result<BatchNormGradients> {
    let (x, dtype, c) = (x.contiguous()?, x.dtype(), weight.elem_count());
    if dy.elem_count() != x.elem_count() || made.y.elem_count() != x.elem_count() {
        bail!("batch_norm: a gradient of {:?} for {:?}", dy.dims(), x.dims());
    }
    let (dw, db) = (unwritten(c, &x)?, unwritten(c, &x)?);
    let (rows, len) = (x.elem_count() / c, count(x.elem_count())?);
    let parts = rows.div_ceil(ROWS);
    let [from, y, at, weight] = [address(&x, dtype)?, address(&made.y, dtype)?, address(&dy, dtype)?, address(weight, dtype)?];
    let [mean, var] = [address(&made.mean, dtype)?, address(&made.var, dtype)?];
    let [to_weight, to_bias] = [address(&dw, dtype)?, address(&db, dtype)?];
    let (suffix, (code, slope)) = (suffix(dtype)?, coded(act));
    with(cuda(x.device())?, |gpu| {
        let partial = |gpu: &Gpu| gpu.scratch(parts * c * dtype.size_in_bytes());
        let (of_dz, of_dz_x, constants) = (partial(gpu)?, partial(gpu)?, gpu.scratch(3 * c * dtype.size_in_bytes())?);
        let [rows, c, parts] = [count(rows)?, count(c)?, count(parts)?];
        let sums: [&dyn Argument; 10] = [&from, &y, &at, &mean, &of_dz.at, &of_dz_x.at, &rows, &c, &code, &slope];
        gpu.launch("norm_grad_sums", suffix, Grid::partial(parts, c), &sums)?;
        let joined: [&dyn Argument; 10] =
            [&of_dz.at, &of_dz_x.at, &weight, &var, &to_weight, &to_bias, &constants.at, &rows, &c, &EPS];
        gpu.launch("norm_grad_total", suffix, Grid::total(c), &joined)?;
        let each: [&dyn Argument; 9] = [&from, &y, &at, &mean, &constants.at, &len, &c, &code, &slope];
        gpu.launch("norm_grad", suffix, Grid::each(len), &each)
    })?;
    Ok(BatchNormGradients { x: dy, weight: dw, bias: db })
}

/// What [`update`] does to every value, numbered as in `kernels.cu`; the constants in its order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Update {
    /// β₁, 1 − β₁, β₂, 1 − β₂, rate, correction, ε.
    Adam([f64; 7]),
    /// lr, decay, 1 − decay, inside, beside.
    Rmsprop([f64; 5]),
    /// lr, momentum.
    Momentum([f64; 2]),
    /// lr.
    Sgd(f64),
    /// The limit.
    Clamp(f64),
    /// `to ← to · keep + from · take`.
    Blend([f64; 2]),
}

impl Update {
    fn coded(self) -> (i32, [f64; 7]) {
        fn padded<const N: usize>(constants: [f64; N]) -> [f64; 7] {
            std::array::from_fn(|i| constants.get(i).copied().unwrap_or(0.0))
        }
        match self {
            Self::Adam(constants) => (0, constants),
            Self::Rmsprop(constants) => (1, padded(constants)),
            Self::Momentum(constants) => (2, padded(constants)),
            Self::Sgd(lr) => (3, padded([lr])),
            Self::Clamp(limit) => (4, padded([limit])),
            Self::Blend(constants) => (5, padded(constants)),
        }
    }

    /// Tensors that it takes.
    fn tensors(self) -> usize {
        match self {
            Self::Adam(_) => 4,
            Self::Rmsprop(_) | Self::Momentum(_) => 3,
            Self::Sgd(_) | Self::Blend(_) => 2,
            Self::Clamp(_) => 1,
        }
    }
}

/// Tensors a launch, as in `kernels.cu`.
const TENSORS: usize = 48;
/// Values a block, as in `kernels.cu`.
const SHARE: u32 = 4096;

/// As in `kernels.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Table {
    at: [[Address; 4]; TENSORS],
    len: [u32; TENSORS],
    first: [u32; TENSORS],
    count: u32,
}

// SAFETY: addresses and numbers, laid out as C does.
unsafe impl DeviceRepr for Table {}

/// Updates many tensors in place, a few dozen a launch. A row is what is updated, what from, and the optimiser's slots.
///
/// # Errors
/// When the tensors of a row differ in length, or their number is not what the update takes.
pub(crate) fn update(update: Update, rows: &[Vec<&Tensor>]) -> Result<()> {
    for rows in rows.chunks(TENSORS) {
        let Some(&first) = rows.first().and_then(|row| row.first()) else { return Ok(()) };
        let (dtype, (code, constants)) = (first.dtype(), update.coded());
        let mut table = Table { at: [[0; 4]; TENSORS], len: [0; TENSORS], first: [0; TENSORS], count: rows.len() as u32 };
        let mut blocks = 0;
        for (number, row) in rows.iter().enumerate() {
            let len = row.first().map_or(0, |tensor| tensor.elem_count());
            if row.len() != update.tensors() || row.iter().any(|tensor| tensor.elem_count() != len) {
                bail!("{update:?}: tensors of {:?} values", row.iter().map(|tensor| tensor.elem_count()).collect::<Vec<_>>());
            }
            for (at, tensor) in table.at[number].iter_mut().zip(row) {
                *at = address(tensor, dtype)?;
            }
            (table.len[number], table.first[number]) = (count(len)?, blocks);
            blocks += table.len[number].div_ceil(SHARE);
        }
        let grid = Grid([blocks.max(1), 1, 1], [THREADS, 1]);
        with(cuda(first.device())?, |gpu| gpu.launch("update", suffix(dtype)?, grid, &[&table, &code, &constants]))?;
    }
    Ok(())
}

/// Training images that stay on the device, as bytes.
pub(crate) struct Pixels {
    bytes: Tensor,
    values: Tensor,
    channels: usize,
    size: usize,
}

impl Pixels {
    /// Uploads images `[n, channels, size, size]`, and the value of each byte; `None` where they would take more than half of
    /// the memory that is free.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload(bytes: &[u8], values: &[f32; 256], channels: usize, size: usize, device: &Device) -> Result<Option<Self>> {
        let (free, _) = cuda(device)?.cuda_stream().context().mem_get_info().map_err(failed("the CUDA driver"))?;
        if bytes.len() > free / 2 {
            return Ok(None);
        }
        let bytes = Tensor::from_slice(bytes, bytes.len(), device)?;
        Ok(Some(Self { bytes, values: Tensor::from_slice(values, values.len(), device)?, channels, size }))
    }

    /// The images of these numbers, `[n, size, size, channels]`.
    ///
    /// # Errors
    /// When a number is none of an image, or the device fails.
    pub fn gather(&self, indices: &[u32]) -> Result<Tensor> {
        let (c, size, n) = (self.channels, self.size, indices.len());
        let images = self.bytes.elem_count() / (c * size * size).max(1);
        if let Some(index) = indices.iter().find(|&&index| index as usize >= images) {
            bail!("image {index} of {images}");
        }
        let numbers = Tensor::from_slice(indices, n, self.bytes.device())?;
        let to = unwritten((n, size, size, c), &self.values)?;
        let len = count(to.elem_count())?;
        let [bytes, numbers_at] = [address(&self.bytes, DType::U8)?, address(&numbers, DType::U32)?];
        let [values, at] = [address(&self.values, DType::F32)?, address(&to, DType::F32)?];
        let [n, c, area] = [count(n)?, count(c)?, count(size * size)?];
        with(cuda(self.bytes.device())?, |gpu| {
            gpu.launch("gather", "f32", Grid::each(len), &[&bytes, &numbers_at, &values, &at, &n, &c, &area])
        })?;
        Ok(to)
    }
}
