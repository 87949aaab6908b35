//! Sampling an exported generator with onnxruntime: find the library, open the model, run it, write the images.
//! An example stands at the head of the [crate].

pub mod builtin;
pub mod generator;
pub mod pipeline;
pub mod runtime;
pub mod sinks;

pub use generator::{Generator, Options, Provider};
pub use pipeline::{Done, Job};
pub use sinks::{Format, Plan};
