//! The three convolutions by cuDNN: descriptors and algorithms by shape, and the memory that the algorithms work in.
//!
//! cuDNN's heuristics choose an algorithm once a shape, without measuring, and only among those that give the same sums every
//! time: a run must go on bit for bit. Maps are taken with their channels last where cuDNN has an algorithm for that (not
//! in f64), else with their channels first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use candle_core::{Error, Result, bail};
use cudarc::cudnn::result as dnn;
use cudarc::cudnn::result::CudnnError;
use cudarc::cudnn::sys;
use cudarc::cudnn::sys::cudnnTensorFormat_t::{CUDNN_TENSOR_NCHW, CUDNN_TENSOR_NHWC};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::types::{Address, Factors, Math, failed};
use crate::nn::geometry::{ConvPlan, Direction};

/// Bytes that an algorithm may work in.
const MAX_WORKSPACE: usize = 1 << 30;
/// Algorithms asked for: more than there are.
const CANDIDATES: usize = 16;

/// cuDNN on one device.
pub(super) struct Dnn {
    handle: sys::cudnnHandle_t,
    routes: HashMap<(Direction, ConvPlan, Math), Route>,
    /// What cannot be computed with channels last.
    without: HashSet<(Direction, ConvPlan, Math)>,
    workspace: Option<Arc<CudaSlice<u8>>>,
}

// SAFETY: cuDNN allows a handle and its descriptors on any thread, one at a time; a `Gpu` is only lent from its lock.
unsafe impl Send for Dnn {}

/// What cuDNN needs to know of one convolution of one shape.
struct Route {
    descriptors: Descriptors,
    algorithm: Algorithm,
    workspace: usize,
    channels_last: bool,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    InputGrad(sys::cudnnConvolutionBwdDataAlgo_t),
    WeightGrad(sys::cudnnConvolutionBwdFilterAlgo_t),
}

fn refused(error: CudnnError) -> Error {
    failed("cuDNN")(error)
}

impl Dnn {
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = dnn::create_handle().map_err(refused)?;
        let this = Self { handle, routes: HashMap::new(), without: HashSet::new(), workspace: None };
        // SAFETY: both exist.
        unsafe { dnn::set_stream(this.handle, stream.cu_stream() as *mut _) }.map_err(refused)?;
        Ok(this)
    }

    /// Finds out how to compute a convolution, once; whether its maps are to come with their channels last, and then its
    /// kernels, too.
    ///
    /// # Errors
    /// When cuDNN has no algorithm for it.
    pub fn prepare(&mut self, direction: Direction, plan: &ConvPlan, math: Math) -> Result<bool> {
        let key = (direction, *plan, math);
        if let Some(route) = self.routes.get(&key) {
            return Ok(route.channels_last);
        }
        let found = match math {
            Math::F64 => Route::find(self.handle, direction, plan, math, false)?,
            _ => match Route::find(self.handle, direction, plan, math, true)? {
                Some(route) => Some(route),
                None => Route::find(self.handle, direction, plan, math, false)?,
            },
        };
        let Some(route) = found else { bail!("cuDNN has no reproducible algorithm for {direction:?} of {plan:?} in {math:?}") };
        let channels_last = route.channels_last;
        self.routes.insert(key, route);
        Ok(channels_last)
    }

    /// Whether there is a way to compute a convolution that takes maps as they lie. What stands against one is found out once.
    pub fn takes_channels_last(&mut self, direction: Direction, plan: &ConvPlan, math: Math) -> bool {
        let key = (direction, *plan, math);
        if self.without.contains(&key) {
            return false;
        }
        let takes = self.prepare(direction, plan, math).unwrap_or(false);
        if !takes {
            self.without.insert(key);
        }
        takes
    }

    /// What it works in at present: captured work goes on using it.
    pub fn workspace(&self) -> Option<Arc<CudaSlice<u8>>> {
        self.workspace.clone()
    }

    /// Computes a convolution that was prepared.
    pub fn run(
        &mut self,
        stream: &Arc<CudaStream>,
        direction: Direction,
        plan: &ConvPlan,
        math: Math,
        [a, b]: [Address; 2],
        out: Address,
    ) -> Result<()> {
        let Some(route) = self.routes.get(&(direction, *plan, math)) else {
            bail!("cuDNN: {direction:?} of {plan:?} was not prepared")
        };
        if self.workspace.as_ref().is_none_or(|workspace| workspace.len() < route.workspace) {
            self.workspace = None;
            // SAFETY: algorithms write to it before they read.
            let more = unsafe { stream.alloc(route.workspace.max(1)) }.map_err(failed("GPU memory for cuDNN"))?;
            self.workspace = Some(Arc::new(more));
        }
        let workspace = self.workspace.as_ref().map_or(0, |workspace| workspace.device_ptr(stream).0);
        let (Descriptors { x, y, w, conv }, factors, handle) = (&route.descriptors, Factors::of(math), self.handle);
        let (one, zero, room) = (factors.one(), factors.zero(), route.workspace);
        let (a, b, out, workspace) = (a as *const _, b as *const _, out as *mut _, workspace as *mut _);
        // SAFETY: the descriptors are of the plan's shapes, for which `Gpu::conv` brought the operands and the memory.
        unsafe {
            match route.algorithm {
                Algorithm::Forward(algorithm) => {
                    dnn::convolution_forward(handle, one, x.0, a, w.0, b, conv.0, algorithm, workspace, room, zero, y.0, out)
                }
                Algorithm::InputGrad(algorithm) => dnn::convolution_backward_data(
                    handle, one, w.0, b, y.0, a, conv.0, algorithm, workspace, room, zero, x.0, out,
                ),
                Algorithm::WeightGrad(algorithm) => dnn::convolution_backward_filter(
                    handle, one, x.0, a, y.0, b, conv.0, algorithm, workspace, room, zero, w.0, out,
                ),
            }
        }
        .map_err(refused)
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        self.routes.clear();
        // SAFETY: nothing uses the handle any more. A failure at the end has nobody to tell.
        let _ = unsafe { dnn::destroy_handle(self.handle) };
    }
}

/// The first algorithm in cuDNN's order, by expected time, that works, repeats itself and needs little enough memory: with its
/// math and its workspace. `$ask` fills in the candidates, `$room` says how much memory one needs. Unsafe: `$conv` must exist.
macro_rules! first_fit {
    ($performance:ty, $conv:expr, $math:expr, $ask:expr, $room:expr) => {{
        // Numbers, of which 0 is one; cuDNN overwrites as many as it says.
        let mut candidates: [$performance; CANDIDATES] = std::mem::zeroed();
        let mut count = 0;
        let asked = $ask(&raw mut count, candidates.as_mut_ptr());
        let offered = if asked.is_ok() { usize::try_from(count).unwrap_or(0).min(CANDIDATES) } else { 0 };
        let mut found = None;
        for candidate in &candidates[..offered] {
            let works = candidate.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                && candidate.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC;
            if !works {
                continue;
            }
            // Heuristics may name the default, under which cuDNN takes TF32.
            let math = if $math == Math::F32 { sys::cudnnMathType_t::CUDNN_FMA_MATH } else { candidate.mathType };
            dnn::set_convolution_math_type($conv, math).map_err(refused)?;
            let room = $room(candidate.algo);
            if let Some(room) = room.ok().filter(|&room| room <= MAX_WORKSPACE) {
                found = Some((candidate.algo, room));
                break;
            }
        }
        found
    }};
}

impl Route {
    /// `None` where cuDNN has no such algorithm.
    fn find(
        handle: sys::cudnnHandle_t,
        direction: Direction,
        plan: &ConvPlan,
        math: Math,
        channels_last: bool,
    ) -> Result<Option<Self>> {
        let descriptors = Descriptors::new(plan, math, channels_last)?;
        let (x, y, w, conv) = (descriptors.x.0, descriptors.y.0, descriptors.w.0, descriptors.conv.0);
        let many = CANDIDATES as i32;
        // SAFETY: handle and descriptors exist, and there is room for as many candidates as are asked for.
        let found = unsafe {
            match direction {
                Direction::Forward => first_fit!(
                    sys::cudnnConvolutionFwdAlgoPerf_t,
                    conv,
                    math,
                    |count, to| dnn::get_convolution_forward_algorithm(handle, x, w, conv, y, many, count, to),
                    |algorithm| dnn::get_convolution_forward_workspace_size(handle, x, w, conv, y, algorithm)
                )
                .map(|(algorithm, room)| (Algorithm::Forward(algorithm), room)),
                Direction::InputGrad => first_fit!(
                    sys::cudnnConvolutionBwdDataAlgoPerf_t,
                    conv,
                    math,
                    |count, to| dnn::get_convolution_backward_data_algorithm(handle, w, y, conv, x, many, count, to),
                    |algorithm| dnn::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, algorithm)
                )
                .map(|(algorithm, room)| (Algorithm::InputGrad(algorithm), room)),
                Direction::WeightGrad => first_fit!(
                    sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                    conv,
                    math,
                    |count, to| dnn::get_convolution_backward_filter_algorithm(handle, x, y, conv, w, many, count, to),
                    |algorithm| dnn::get_convolution_backward_filter_workspace_size(handle, x, y, conv, w, algorithm)
                )
                .map(|(algorithm, room)| (Algorithm::WeightGrad(algorithm), room)),
            }
        };
        Ok(found.map(|(algorithm, workspace)| Self { descriptors, algorithm, workspace, channels_last }))
    }
}

/// The shapes of input, output and kernels, and the window.
struct Descriptors {
    x: TensorDescriptor,
    y: TensorDescriptor,
    w: KernelDescriptor,
    conv: WindowDescriptor,
}

struct TensorDescriptor(sys::cudnnTensorDescriptor_t);
struct KernelDescriptor(sys::cudnnFilterDescriptor_t);
struct WindowDescriptor(sys::cudnnConvolutionDescriptor_t);

impl Drop for TensorDescriptor {
    fn drop(&mut self) {
        // SAFETY: made by `Descriptors::new`, and destroyed only here.
        let _ = unsafe { dnn::destroy_tensor_descriptor(self.0) };
    }
}

impl Drop for KernelDescriptor {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { dnn::destroy_filter_descriptor(self.0) };
    }
}

impl Drop for WindowDescriptor {
    fn drop(&mut self) {
        // SAFETY: as above.
        let _ = unsafe { dnn::destroy_convolution_descriptor(self.0) };
    }
}

impl Descriptors {
    fn new(plan: &ConvPlan, math: Math, channels_last: bool) -> Result<Self> {
        let format = if channels_last { CUDNN_TENSOR_NHWC } else { CUDNN_TENSOR_NCHW };
        let (values, sums) = match math {
            Math::F64 => (sys::cudnnDataType_t::CUDNN_DATA_DOUBLE, sys::cudnnDataType_t::CUDNN_DATA_DOUBLE),
            Math::F32 | Math::Tf32 => (sys::cudnnDataType_t::CUDNN_DATA_FLOAT, sys::cudnnDataType_t::CUDNN_DATA_FLOAT),
            Math::Bf16 => (sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16, sys::cudnnDataType_t::CUDNN_DATA_FLOAT),
        };
        let wanted = match math {
            // For f32 the default is TF32.
            Math::F64 | Math::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            Math::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            Math::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        let [kernel, stride, padding] = ints([plan.window.kernel, plan.window.stride, plan.window.padding])?;
        let [groups, inputs] = ints([plan.window.groups, plan.of_group()[0]])?;
        let this = Self {
            x: TensorDescriptor(dnn::create_tensor_descriptor().map_err(refused)?),
            y: TensorDescriptor(dnn::create_tensor_descriptor().map_err(refused)?),
            w: KernelDescriptor(dnn::create_filter_descriptor().map_err(refused)?),
            conv: WindowDescriptor(dnn::create_convolution_descriptor().map_err(refused)?),
        };
        let [n, h, w, ci] = ints([plan.n, plan.h, plan.w, plan.ci])?;
        let [out_h, out_w, co] = ints([plan.out_h, plan.out_w, plan.co])?;
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // SAFETY: the descriptors were just made. cuDNN names sizes in the order n, c, h, w, whatever the format.
        unsafe {
            dnn::set_tensor4d_descriptor(this.x.0, format, values, [n, ci, h, w])
                .and_then(|()| dnn::set_tensor4d_descriptor(this.y.0, format, values, [n, co, out_h, out_w]))
                .and_then(|()| dnn::set_filter4d_descriptor(this.w.0, values, format, [co, inputs, kernel, kernel]))
                .and_then(|()| {
                    dnn::set_convolution2d_descriptor(this.conv.0, padding, padding, stride, stride, 1, 1, mode, sums)
                })
                .and_then(|()| dnn::set_convolution_group_count(this.conv.0, groups))
                .and_then(|()| dnn::set_convolution_math_type(this.conv.0, wanted))
        }
        .map_err(refused)?;
        Ok(this)
    }
}

fn ints<const N: usize>(sizes: [usize; N]) -> Result<[i32; N]> {
    let mut ints = [0; N];
    for (int, size) in ints.iter_mut().zip(sizes) {
        *int = i32::try_from(size).map_err(|_| Error::Msg(format!("a size of {size} is too large for cuDNN")))?;
    }
    Ok(ints)
}
