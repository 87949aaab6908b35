//! Where a network runs: all that differs between onnxruntime's execution providers.

use std::fmt;
use std::str::FromStr;

use ort::ep::{CUDA, cuda::ConvAlgorithmSearch};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::runtime;
use crate::error::{Error, Result};
use crate::text;

/// The batch size of convolutional generators on CPUs, where neither the caller nor the model chooses one: beyond it nothing is
/// gained. Who makes one image at a time should choose 1.
pub const CONVOLUTIONAL_BATCH: usize = 32;
/// The same for all other generators on CPUs, whose runs mostly read weights.
pub const DENSE_BATCH: usize = 128;
/// The same on GPUs.
pub const CUDA_BATCH: usize = 512;

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
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()).filter(|&index| index <= i32::MAX as u32),
        };
        index.map(Self::Cuda).ok_or_else(|| "expected auto, cpu, cuda or cuda:INDEX".to_string())
    }
}

impl Provider {
    /// What [`Self::Auto`] stands for first: what is tried before the CPU. Another provider stands for itself.
    pub(super) fn preferred(self) -> Self {
        match self {
            Self::Auto => Self::Cuda(0),
            chosen => chosen,
        }
    }

    /// Whether the loaded library was built with it. What it needs beside may still be missing.
    pub(super) fn is_offered(self) -> Result<bool> {
        match self {
            Self::Cpu => Ok(true),
            Self::Auto | Self::Cuda(_) => runtime::offers_cuda(),
        }
    }

    /// Sets a session up to run on it. With `tf32` CUDA may round as TF32 does.
    pub(super) fn register(self, builder: SessionBuilder, tf32: bool) -> Result<SessionBuilder> {
        match self {
            Self::Auto | Self::Cpu => Ok(builder),
            Self::Cuda(index) => {
                runtime::preload_cuda()?;
                // No benchmark of every algorithm: its choice could differ from session to session.
                let cuda = CUDA::default()
                    .with_device_id(index as i32)
                    .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
                    .with_tf32(tf32);
                Ok(builder.with_execution_providers([cuda.build().error_on_failure()])?)
            }
        }
    }

    /// Whether TF32 makes a difference to it.
    pub(super) fn knows_tf32(self) -> bool {
        match self {
            Self::Auto | Self::Cuda(_) => true,
            Self::Cpu => false,
        }
    }

    /// That the library at hand was built without it.
    pub(super) fn not_offered(self, library: &runtime::Located) -> Error {
        Error::Runtime(format!(
            "the CUDA provider was asked for, but onnxruntime {} at {} has none. Run `install(true)`, or use \
             `Options::provider` cpu.",
            library.version,
            text::path(&library.path)
        ))
    }

    /// That it does not start.
    pub(super) fn not_started(self, library: &runtime::Located, why: &str) -> Error {
        Error::Runtime(format!(
            "the CUDA provider of onnxruntime {} at {} does not start on {self}: {why}. Check the driver with nvidia-smi; \
             `install(true)` fetches the CUDA libraries; `Options::provider` cpu does without.",
            library.version,
            text::path(&library.path)
        ))
    }

    /// Images a run of a generator, where nobody chooses.
    pub(super) fn batch(self, is_convolutional: bool) -> usize {
        match self {
            Self::Auto | Self::Cpu if is_convolutional => CONVOLUTIONAL_BATCH,
            Self::Auto | Self::Cpu => DENSE_BATCH,
            Self::Cuda(_) => CUDA_BATCH,
        }
    }

    /// The batch sizes that a measurement tries, where nobody chooses.
    pub(super) fn batches_to_try(self) -> &'static [usize] {
        match self {
            Self::Auto | Self::Cpu => &[1, 4, 8, 16, 32, 64, 128, 256],
            Self::Cuda(_) => &[64, 128, 256, 512, 1024],
        }
    }

    /// Sessions that run in parallel, and threads beside them that encode and write, on a machine with so many cores; as measured
    /// (benches/RESULTS.md). On CPUs one session a core, which also encodes and writes: no core waits for another, no pixel is handed
    /// on. On a GPU four sessions, so that some copy while another computes, and an encoder a core.
    pub(super) fn sessions_and_encoders(self, cores: usize) -> (usize, usize) {
        match self {
            Self::Auto | Self::Cpu => (cores, 0),
            Self::Cuda(_) => (4, cores),
        }
    }

    /// Memory for what goes to or comes from where the network runs.
    pub(super) fn memory(self, session: &Session, kind: MemoryType) -> Result<Allocator> {
        if let Self::Cuda(index) = self {
            let pinned = MemoryInfo::new(AllocationDevice::CUDA_PINNED, index as i32, AllocatorType::Device, kind)?;
            // Where there is none, or ort does not let us at it (from onnxruntime 1.23 on it asks for a newer API than ours), copies
            // are slower and no worse.
            if let Some(allocator) = Allocator::new(session, pinned).ok().filter(|it| it.memory_info().is_cpu_accessible()) {
                return Ok(allocator);
            }
        }
        Ok(Allocator::default())
    }
}
