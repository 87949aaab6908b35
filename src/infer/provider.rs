//! Where a network runs: all that differs between onnxruntime's execution providers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ort::ep::coreml::ModelFormat;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArbitrarilyConfigurableExecutionProvider, CUDA, CoreML, ExecutionProvider, OpenVINO, TensorRT};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::limits::LOAD_TIMEOUT;
use super::runtime;
use crate::error::{Error, OrtResult, Result};
use crate::files;
use crate::text;

/// The batch size of convolutional generators on CPUs, where neither the caller nor the model chooses one: beyond it nothing is
/// gained. Files of networks with large maps choose less. Who makes one image at a time should choose 1.
pub const CONVOLUTIONAL_BATCH: usize = 32;
/// The same for all other generators on CPUs, whose runs mostly read weights.
pub const DENSE_BATCH: usize = 128;
/// The same on NVIDIA's GPUs.
pub const CUDA_BATCH: usize = 512;

/// How long TensorRT may take to build an engine, where nobody says: it times every kernel that might serve.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(900);

/// Where a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// CUDA if the onnxruntime library offers it and it starts, else the CPU.
    /// [`Generator::provider`](crate::infer::Generator::provider) tells which.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number, or an error.
    Cuda(u32),
    /// The NVIDIA GPU of this number with TensorRT, or an error. Generators are computed in float16 where that is faster. The first
    /// start with a model and a batch size builds an engine, which takes minutes and is kept below [`runtime::managed_folder`].
    TensorRt(u32),
    /// Intel's OpenVINO on a device, in f32, or an error.
    OpenVino(OpenVinoDevice),
    /// Apple's Core ML, or an error.
    CoreMl,
}

/// What OpenVINO runs a network on. Its NPUs take no graph whose batch size is open, and no f32, so they are none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenVinoDevice {
    /// The CPU.
    #[default]
    Cpu,
    /// Intel's GPU of this number.
    Gpu(u32),
}

/// How to set a provider up for a session.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SessionOptions<'a> {
    /// CUDA may round as TF32 does.
    pub tf32: bool,
    /// TensorRT may compute in float16.
    pub f16: bool,
    /// Name and sizes of the one input of all its runs, where they are known.
    pub input: Option<(&'a str, &'a [i64])>,
}

impl fmt::Display for OpenVinoDevice {
    /// As OpenVINO calls it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("CPU"),
            Self::Gpu(index) => write!(f, "GPU.{index}"),
        }
    }
}

impl FromStr for OpenVinoDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_uppercase();
        match text.as_str() {
            "CPU" => Ok(Self::Cpu),
            "GPU" => Ok(Self::Gpu(0)),
            other => {
                let index = other.strip_prefix("GPU.").and_then(index);
                index.map(Self::Gpu).ok_or_else(|| "expected one of OpenVINO's devices CPU, GPU or GPU.INDEX".to_string())
            }
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Auto | Self::Cpu | Self::CoreMl => Ok(()),
            Self::Cuda(index) | Self::TensorRt(index) => write!(f, ":{index}"),
            Self::OpenVino(device) => write!(f, ":{device}"),
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = text.split_once(':').map_or((text, None), |(name, place)| (name, Some(place)));
        let gpu = || place.map_or(Some(0), index);
        let known = match (name, place) {
            ("auto", None) => Some(Self::Auto),
            ("cpu", None) => Some(Self::Cpu),
            ("coreml", None) => Some(Self::CoreMl),
            ("cuda", _) => gpu().map(Self::Cuda),
            ("tensorrt", _) => gpu().map(Self::TensorRt),
            ("openvino", None) => Some(Self::OpenVino(OpenVinoDevice::default())),
            ("openvino", Some(device)) => Some(Self::OpenVino(device.parse()?)),
            _ => None,
        };
        known.ok_or_else(|| "expected auto, cpu, cuda[:INDEX], tensorrt[:INDEX], openvino[:DEVICE] or coreml".to_string())
    }
}

/// The number of a device, which onnxruntime has as an `int`.
fn index(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&index| index <= i32::MAX as u32)
}

impl Provider {
    /// What the user calls it, without a device.
    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda(_) => "cuda",
            Self::TensorRt(_) => "tensorrt",
            Self::OpenVino(_) => "openvino",
            Self::CoreMl => "coreml",
        }
    }

    /// What its makers call it.
    fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Auto | Self::Cuda(_) => "CUDA",
            Self::TensorRt(_) => "TensorRT",
            Self::OpenVino(_) => "OpenVINO",
            Self::CoreMl => "CoreML",
        }
    }

    /// The names of those that the loaded library was built with. What they need beside it may still be missing.
    ///
    /// # Errors
    /// As [`runtime::load`].
    pub fn offered() -> Result<Vec<&'static str>> {
        let mut names = Vec::new();
        for provider in [Self::Cpu, Self::Cuda(0), Self::TensorRt(0), Self::OpenVino(OpenVinoDevice::Cpu), Self::CoreMl] {
            if provider.is_offered()? {
                names.push(provider.name());
            }
        }
        Ok(names)
    }

    /// What [`Self::Auto`] stands for first: what is tried before the CPU. Another provider stands for itself.
    pub(super) fn preferred(self) -> Self {
        match self {
            Self::Auto => Self::Cuda(0),
            chosen => chosen,
        }
    }

    /// Whether the loaded library was built with it. What it needs beside may still be missing.
    ///
    /// # Errors
    /// As [`runtime::load`].
    pub fn is_offered(self) -> Result<bool> {
        runtime::load()?;
        Ok(match self {
            Self::Cpu => true,
            Self::Auto | Self::Cuda(_) => CUDA::is_available().ort()?,
            Self::TensorRt(_) => TensorRT::is_available().ort()?,
            Self::OpenVino(_) => OpenVINO::is_available().ort()?,
            Self::CoreMl => CoreML::is_available().ort()?,
        })
    }

    /// Sets a session up to run on it. `model` tells the SHA-256 of the model.
    pub(super) fn register(
        self,
        builder: SessionBuilder,
        options: SessionOptions,
        model: impl FnOnce() -> String,
    ) -> Result<SessionBuilder> {
        let wanted = match self {
            Self::Auto | Self::Cpu => return Ok(builder),
            Self::Cuda(index) => {
                runtime::preload_cuda()?;
                vec![cuda(index, options.tf32).build()]
            }
            Self::TensorRt(index) => {
                runtime::preload_tensorrt()?;
                // What TensorRT cannot do is left to CUDA.
                vec![tensorrt(index, options, &model())?.build(), cuda(index, options.tf32).build()]
            }
            Self::OpenVino(device) => vec![openvino(device).build()],
            // The newer of its two formats has more operators, transposed convolutions among them.
            Self::CoreMl => vec![CoreML::default().with_model_format(ModelFormat::MLProgram).build()],
        };
        let wanted: Vec<_> = wanted.into_iter().map(|provider| provider.error_on_failure()).collect();
        builder.with_execution_providers(wanted).ort()
    }

    /// Whether its sessions can only be made well once the batch size is known.
    pub(super) fn is_built_for_a_batch(self) -> bool {
        match self {
            Self::TensorRt(_) => true,
            Self::Auto | Self::Cpu | Self::Cuda(_) | Self::OpenVino(_) | Self::CoreMl => false,
        }
    }

    /// Whether it is to be said that the CPU does a part of the work. CUDA is known to leave it the shapes only.
    pub(super) fn should_work_alone(self) -> bool {
        match self {
            Self::OpenVino(_) | Self::CoreMl => true,
            Self::Auto | Self::Cpu | Self::Cuda(_) | Self::TensorRt(_) => false,
        }
    }

    /// Whether TF32 makes a difference to it.
    pub(super) fn knows_tf32(self) -> bool {
        match self {
            Self::Auto | Self::Cuda(_) => true,
            Self::Cpu | Self::TensorRt(_) | Self::OpenVino(_) | Self::CoreMl => false,
        }
    }

    /// What whoever runs a generator on it should know.
    pub(super) fn remark(self) -> Option<&'static str> {
        match self {
            Self::TensorRt(_) => Some("TensorRT computes in float16 where that is faster: pixels differ from those of f32"),
            Self::Auto | Self::Cpu | Self::Cuda(_) | Self::OpenVino(_) | Self::CoreMl => None,
        }
    }

    /// That the library at hand was built without it.
    pub(super) fn not_offered(self, library: &runtime::Located) -> Error {
        let hint = match self {
            Self::Auto | Self::Cpu | Self::Cuda(_) => "Run `install(Package::Cuda)`",
            Self::TensorRt(_) => {
                "Run `install(Package::Cuda)`, whose onnxruntime has it, and install NVIDIA's TensorRT 10 (libnvinfer.so.10)"
            }
            Self::OpenVino(_) => "Run `install(Package::OpenVino)`",
            Self::CoreMl => "Only onnxruntime's builds for macOS have it: make the images there",
        };
        Error::Runtime(format!(
            "the {} provider was asked for, but onnxruntime {} at {} has none. {hint}, or use `Options::provider` cpu.",
            self.title(),
            library.version,
            text::path(&library.path)
        ))
    }

    /// That it does not start.
    pub(super) fn not_started(self, library: &runtime::Located, why: &str) -> Error {
        let hint = match self {
            Self::Auto | Self::Cpu | Self::Cuda(_) => {
                "Check the driver with nvidia-smi; `install(Package::Cuda)` fetches the CUDA libraries; `Options::provider` cpu \
                 does without."
            }
            Self::TensorRt(_) => {
                "Check the driver with nvidia-smi; `install(Package::Cuda)` fetches the CUDA libraries; TensorRT's (libnvinfer.so.10) \
                 must be on LD_LIBRARY_PATH or beside onnxruntime, where `pip install 'tensorrt-cu13<11'` puts them in the same \
                 Python environment; `Options::provider` cuda does without."
            }
            Self::OpenVino(OpenVinoDevice::Cpu) => {
                "`install(Package::OpenVino)` fetches all that it needs, 1.21 or newer; `Options::provider` cpu does without."
            }
            Self::OpenVino(OpenVinoDevice::Gpu(_)) => {
                "Such a GPU and Intel's compute runtime for it must be there (clinfo tells); `Options::provider` openvino runs on \
                 the CPU."
            }
            Self::CoreMl => "It needs macOS 12 or newer; `Options::provider` cpu does without.",
        };
        Error::Runtime(format!(
            "the {} provider of onnxruntime {} at {} does not start on {self}: {why}. {hint}",
            self.title(),
            library.version,
            text::path(&library.path)
        ))
    }

    /// Images a run of a generator, where nobody chooses; `on_cpu` is what its contract says of CPUs.
    pub(super) fn batch(self, is_convolutional: bool, on_cpu: Option<usize>) -> usize {
        match self {
            Self::Cuda(_) | Self::TensorRt(_) => CUDA_BATCH,
            Self::Auto | Self::Cpu | Self::OpenVino(OpenVinoDevice::Cpu) if is_convolutional => {
                on_cpu.unwrap_or(CONVOLUTIONAL_BATCH).min(CONVOLUTIONAL_BATCH)
            }
            Self::OpenVino(OpenVinoDevice::Gpu(_)) | Self::CoreMl if is_convolutional => CONVOLUTIONAL_BATCH,
            Self::Auto | Self::Cpu | Self::OpenVino(_) | Self::CoreMl => DENSE_BATCH,
        }
    }

    /// The batch sizes that a measurement tries, where nobody chooses.
    #[cfg(feature = "jobs")]
    pub(super) fn batches_to_try(self) -> &'static [usize] {
        match self {
            Self::Auto | Self::Cpu | Self::OpenVino(_) | Self::CoreMl => &[1, 4, 8, 16, 32, 64, 128, 256],
            Self::Cuda(_) | Self::TensorRt(_) => &[64, 128, 256, 512, 1024],
        }
    }

    /// Sessions that run in parallel, and threads beside them that encode and write, on a machine with so many cores; as measured
    /// (benches/RESULTS.md). On CPUs one session a core, which also encodes and writes: no core waits for another, no pixel is handed
    /// on. On a GPU four sessions, so that some copy while another computes, and an encoder a core. On what nobody has measured yet
    /// two.
    pub(super) fn sessions_and_encoders(self, cores: usize) -> (usize, usize) {
        match self {
            Self::Auto | Self::Cpu | Self::OpenVino(OpenVinoDevice::Cpu) => (cores, 0),
            Self::Cuda(_) | Self::TensorRt(_) => (4, cores),
            Self::OpenVino(OpenVinoDevice::Gpu(_)) | Self::CoreMl => (2, cores),
        }
    }

    /// How long a model may take to load and to run once, where nobody says.
    pub(crate) fn load_timeout(self) -> Duration {
        match self {
            Self::TensorRt(_) => ENGINE_TIMEOUT,
            Self::Auto | Self::Cpu | Self::Cuda(_) | Self::OpenVino(_) | Self::CoreMl => LOAD_TIMEOUT,
        }
    }

    /// Memory for what goes to or comes from where the network runs.
    pub(super) fn memory(self, session: &Session, kind: MemoryType) -> Result<Allocator> {
        if let Self::Cuda(index) | Self::TensorRt(index) = self {
            let pinned = MemoryInfo::new(AllocationDevice::CUDA_PINNED, index as i32, AllocatorType::Device, kind).ort()?;
            // Where there is none, or ort does not let us at it (from onnxruntime 1.23 on it asks for a newer API than ours), copies
            // are slower and no worse.
            if let Some(allocator) = Allocator::new(session, pinned).ok().filter(|it| it.memory_info().is_cpu_accessible()) {
                return Ok(allocator);
            }
        }
        Ok(Allocator::default())
    }
}

fn cuda(index: u32, tf32: bool) -> CUDA {
    // No benchmark of every algorithm: its choice could differ from session to session.
    CUDA::default().with_device_id(index as i32).with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic).with_tf32(tf32)
}

fn openvino(device: OpenVinoDevice) -> OpenVINO {
    // By itself it takes float16 on GPUs and bfloat16 on CPUs that have it.
    let openvino = OpenVINO::default().with_device_type(device).with_precision("FP32").with_num_streams(1);
    match device {
        // One thread, as of every session: the sessions are what runs in parallel. By itself OpenVINO binds the threads of each
        // session to cores, and those of all sessions to the same one.
        OpenVinoDevice::Cpu => {
            openvino.with_num_threads(1).with_arbitrary_config("load_config", r#"{"CPU": {"ENABLE_CPU_PINNING": "NO"}}"#)
        }
        OpenVinoDevice::Gpu(_) => openvino,
    }
}

/// TensorRT with a folder for what it builds.
///
/// onnxruntime calls an engine by the names in its graph: another checkpoint of the same network would run with the engine, and so the
/// weights, of the first. So each model has a folder of its own, and in it each batch size.
fn tensorrt(index: u32, options: SessionOptions, model: &str) -> Result<TensorRT> {
    let folder = runtime::own_folder()?.join("tensorrt");
    let engines =
        folder.join(model).join(options.input.and_then(|(_, dims)| dims.first()).map_or("any".into(), i64::to_string));
    files::create_folder(&engines)?;
    // An engine is code that is run.
    runtime::check_own(&engines)?;
    let all = tensorrt_options(index, options.f16, options.input, &engines, &folder);
    Ok(all.into_iter().fold(TensorRT::default(), |set, (key, value)| set.with_arbitrary_config(key, value)))
}

/// TensorRT's options: for the GPU, the precision, the input of all runs by name and sizes (if it is known), the folder of engines, and
/// that of the times of kernels, which serve all models.
#[doc(hidden)]
pub fn tensorrt_options(
    index: u32,
    f16: bool,
    input: Option<(&str, &[i64])>,
    engines: &Path,
    times: &Path,
) -> BTreeMap<&'static str, String> {
    let mut options = BTreeMap::from([
        ("device_id", index.to_string()),
        ("trt_fp16_enable", u8::from(f16).to_string()),
        // Where each session timed kernels anew, it could choose others, and give other pixels.
        ("trt_engine_cache_enable", "1".to_string()),
        ("trt_engine_cache_path", engines.display().to_string()),
        ("trt_timing_cache_enable", "1".to_string()),
        ("trt_timing_cache_path", times.display().to_string()),
    ]);
    // With the sizes of all runs the engine is built when the session is made, and never again. A list of inputs is
    // NAME:1x2x3,NAME:…, so a name with one of these signs cannot stand in it.
    if let Some((name, dims)) = input.filter(|(name, dims)| !name.contains([':', ',']) && dims.iter().all(|&dim| dim > 0)) {
        let dims: Vec<String> = dims.iter().map(i64::to_string).collect();
        let shape = format!("{name}:{}", dims.join("x"));
        for key in ["trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"] {
            options.insert(key, shape.clone());
        }
    }
    options
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
