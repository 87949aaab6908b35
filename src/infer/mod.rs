//! Sampling an exported generator with onnxruntime: find the library, open the model, run it, write the images.
//! An example stands at the head of the [crate].

pub mod bench;
mod bound_session;
pub mod builtin;
mod conditioning;
mod folder;
mod form;
pub mod generator;
mod inspect;
mod install;
mod journal;
mod labels;
pub(crate) mod limits;
mod manifest;
pub(crate) mod model;
mod open_job;
mod output;
mod piece;
pub mod pipeline;
pub mod plan;
mod precision;
mod proto;
pub(crate) mod provider;
mod rivals;
pub mod runtime;
mod search_paths;
pub mod selection;
mod share;
mod sinks;
mod stream;
mod target;
mod tiling;
#[cfg(unix)]
mod trust;
mod wheels;

pub use conditioning::{Class, Conditioning};
pub use generator::{Generator, Options};
pub use install::install;
#[doc(hidden)]
pub use journal::look_at_journal;
#[doc(hidden)]
pub use model::look_at_file;
pub use pipeline::{Sampled, SamplingJob};
pub use plan::{Existing, Format, Plan};
pub use precision::Precision;
#[doc(hidden)]
pub use provider::tensorrt_options;
pub use provider::{OpenVinoDevice, Provider};
pub use selection::{SeedList, Selection, Shard};
pub use stream::stream;
pub use target::Target;
pub use wheels::Package;
