//! How to open a generator.

use std::time::Duration;

use super::precision::Precision;
use super::provider::Provider;
use crate::image::Range;

/// How to open a generator. The default serves; each method gives the options with one of them set.
///
/// ```
/// use ganforge::infer::{Options, Precision, Provider};
///
/// let options = Options::default().provider(Provider::Cpu).precision(Precision::Int8).threads(1);
/// assert_eq!((options.threads, options.batch), (Some(1), None));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Options {
    /// Where to run it.
    pub provider: Provider,
    /// What it is to compute with. A file has one precision, and another one is refused; the built-in generators come in several.
    pub precision: Precision,
    /// Images a run, 1..=[`MAX_BATCH`](super::generator::MAX_BATCH); `None` for the model's own where it is fixed, else
    /// [`CONVOLUTIONAL_BATCH`](super::generator::CONVOLUTIONAL_BATCH), [`DENSE_BATCH`](super::generator::DENSE_BATCH) or
    /// [`CUDA_BATCH`](super::generator::CUDA_BATCH), or fewer where images, or on a CPU the maps between, are large.
    pub batch: Option<usize>,
    /// The value range of a float output, for models that do not say it themselves.
    pub range: Option<Range>,
    /// Lets CUDA round f32 to TF32 (10 bits of mantissa) before it multiplies: faster, other pixels. Nothing on the CPU. Of built-in generators
    /// that is so by itself, unless `precision` is f32.
    pub tf32: bool,
    /// How long onnxruntime may take to load the model and to run it once; `None` for [`LOAD_TIMEOUT`](super::generator::LOAD_TIMEOUT), or
    /// a quarter of an hour for TensorRT, zero for no limit. It can end a run, but no load: where that takes too long,
    /// [`Generator::open`](super::Generator::open) fails and leaves the thread behind that loads, and what memory it takes, until the load
    /// is over or the process ends.
    pub load_timeout: Option<Duration>,
    /// The most bytes that the latents of a batch may take, and its images as they come from the network; `None` for
    /// [`BATCH_MEMORY`](super::generator::BATCH_MEMORY). What onnxruntime takes between them is its own affair.
    pub batch_memory: Option<u64>,
    /// Threads that one call may work on, each with a session of its own; `None` for what serves best: one a core, on GPUs two or four. A
    /// call for no more than a batch stays on the caller's thread. Images do not depend on it. Jobs that make files have their own
    /// ([`SamplingJob::threads`](super::SamplingJob::threads)).
    pub threads: Option<usize>,
}

impl Options {
    /// Where to run it.
    pub fn provider(self, provider: Provider) -> Self {
        Self { provider, ..self }
    }

    /// What it is to compute with.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// Images a run, 1..=[`MAX_BATCH`](super::generator::MAX_BATCH).
    pub fn batch(self, batch: usize) -> Self {
        Self { batch: Some(batch), ..self }
    }

    /// The value range of a float output, for models that do not say it themselves.
    pub fn range(self, range: Range) -> Self {
        Self { range: Some(range), ..self }
    }

    /// Whether CUDA may round to TF32.
    pub fn tf32(self, tf32: bool) -> Self {
        Self { tf32, ..self }
    }

    /// How long loading the model and a first run may take; zero for no limit.
    pub fn load_timeout(self, limit: Duration) -> Self {
        Self { load_timeout: Some(limit), ..self }
    }

    /// The most bytes that the latents of a batch may take, and its images.
    pub fn batch_memory(self, bytes: u64) -> Self {
        Self { batch_memory: Some(bytes), ..self }
    }

    /// Threads that one call may work on, 1..=[`MAX_THREADS`](super::generator::MAX_THREADS).
    pub fn threads(self, threads: usize) -> Self {
        Self { threads: Some(threads), ..self }
    }
}
