//! Sampling an exported generator with onnxruntime: find the library, open the model, run it, and with the feature `jobs` write the images.
//!
//! [`Generator`] is what an application needs; an example stands at the head of the [crate].
//!
//! - **Latents of your own**: [`Generator::generate`], [`Generator::latents`], [`Latent::interpolate`](crate::latent::Latent::interpolate).
//! - **One class, tamer images**: [`Conditioning`], with [`Generator::class`] and [`Generator::truncation`].
//! - **Many images**: [`Generator::batches`] is an iterator in bounded memory.
//! - **Threads**: a generator is `Send` and `Sync`; share it by reference or in an [`Arc`](std::sync::Arc). A call for more than a batch works on
//!   all cores by itself ([`Options::threads`]).
//! - **Files without onnxruntime**: [`FileFacts`] tells what a file promises.
//! - **onnxruntime** is found and loaded once per process: [`runtime`] tells where, and what that means for an application.
//!
//! # In `async` programs
//! Every call blocks until its images are there: some milliseconds for a few, seconds for thousands. Call it where blocking is allowed, on tokio
//! for example so:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! use std::sync::Arc;
//!
//! use ganforge::infer::{Generator, Options};
//!
//! let generator = Arc::new(Generator::open("onnx/digits.onnx", &Options::default().threads(1))?);
//! let shared = Arc::clone(&generator);
//! let images = tokio::task::spawn_blocking(move || shared.sample(0, 0, 16)).await??;
//! assert_eq!(images.n, 16);
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! With one thread a call, as here, the runtime's own limit of blocking threads is what bounds the work; a
//! [`sync_channel`](std::sync::mpsc::sync_channel) filled from [`Batches`] on a thread of its own serves a stream.

#[cfg(feature = "jobs")]
pub mod bench;
mod bound_session;
#[cfg(feature = "object-store")]
mod bucket;
pub mod builtin;
mod conditioning;
mod file_facts;
#[cfg(feature = "jobs")]
mod folder;
mod form;
pub mod generator;
mod in_memory;
mod inspect;
#[cfg(feature = "jobs")]
mod install;
#[cfg(feature = "jobs")]
mod journal;
#[cfg(feature = "jobs")]
mod labels;
#[cfg(feature = "jobs")]
mod launcher;
pub(crate) mod limits;
#[cfg(feature = "jobs")]
mod manifest;
#[cfg(feature = "jobs")]
mod merge;
pub(crate) mod model;
#[cfg(feature = "jobs")]
mod open_job;
mod options;
#[cfg(feature = "jobs")]
mod output;
#[cfg(feature = "jobs")]
pub mod page;
#[cfg(feature = "jobs")]
mod piece;
#[cfg(feature = "jobs")]
pub mod pipeline;
#[cfg(feature = "jobs")]
pub mod plan;
mod precision;
mod proto;
pub(crate) mod provider;
#[cfg(feature = "jobs")]
mod rivals;
pub mod runtime;
mod search_paths;
pub mod selection;
#[cfg(feature = "jobs")]
mod share;
#[cfg(feature = "jobs")]
mod sinks;
#[cfg(feature = "jobs")]
mod stream;
#[cfg(feature = "jobs")]
mod target;
mod tiling;
#[cfg(unix)]
mod trust;
#[cfg(feature = "jobs")]
mod web_runtime;
#[cfg(feature = "jobs")]
mod wheels;

pub use conditioning::{Class, Conditioning};
pub use file_facts::FileFacts;
pub use generator::Generator;
pub use in_memory::Batches;
#[cfg(feature = "jobs")]
pub use install::install;
#[cfg(feature = "jobs")]
#[doc(hidden)]
pub use journal::look_at_journal;
#[cfg(feature = "jobs")]
pub use launcher::Assigned;
#[cfg(feature = "jobs")]
pub use merge::{Merge, Missing};
#[doc(hidden)]
pub use model::look_at_file;
pub use options::Options;
#[cfg(feature = "jobs")]
pub use page::{Page, WebRuntime};
#[cfg(feature = "jobs")]
pub use pipeline::{Sampled, SamplingJob};
#[cfg(feature = "jobs")]
pub use plan::{Existing, Format, Plan};
pub use precision::Precision;
#[doc(hidden)]
pub use provider::tensorrt_options;
pub use provider::{OpenVinoDevice, Provider};
pub use selection::{SeedList, Selection, Shard};
#[cfg(feature = "jobs")]
pub use stream::stream;
#[cfg(feature = "jobs")]
pub use target::Target;
#[cfg(feature = "jobs")]
pub use wheels::Package;
