//! Sampling an exported generator with onnxruntime: find the library, open the model, run it, write the images.
//! An example stands at the head of the [crate].

#[cfg(feature = "jobs")]
pub mod bench;
mod bound_session;
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
pub(crate) mod limits;
#[cfg(feature = "jobs")]
mod manifest;
pub(crate) mod model;
#[cfg(feature = "jobs")]
mod open_job;
mod options;
#[cfg(feature = "jobs")]
mod output;
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
#[doc(hidden)]
pub use model::look_at_file;
pub use options::Options;
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
