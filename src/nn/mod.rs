//! Networks on candle tensors; f32 for training, f64 where tests want exact numbers.
//!
//! From below: plain types (`geometry`, `activation`, `statistics`, `rule`, `shape`, `graph`), the kernels of each kind of device
//! (`cpu`, `cuda`), operations that run on either (`conv`, `elementwise`, `norm`, `by_image`, `spectral`, `direction`, `update`, `upload`, `resample`,
//! `scores`, `slopes` and `order`), the kinds of layers (`layers`), how their parameters begin (`init`), and networks of them (`network`).

// Plain types.
pub mod activation;
pub mod geometry;
pub mod graph;
pub mod in_place;
pub mod precision;
pub(crate) mod rule;
pub mod shape;
pub mod statistics;

// Kernels.
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod device;

// Operations.
mod by_image;
pub mod conv;
mod direction;
pub mod elementwise;
pub mod norm;
mod order;
mod resample;
pub(crate) mod scores;
pub(crate) mod slopes;
mod spectral;
pub mod update;
pub(crate) mod upload;

// Networks.
pub mod init;
pub mod layers;
pub mod network;

pub use device::Place;
pub use init::{Parameter, Role};
pub(crate) use layers::chosen;
pub use layers::{LayerSpec, Pass, Wanted};
pub use network::{Network, Trace};
pub use order::{as_images, channels_first, channels_last};
pub use shape::Shape;
