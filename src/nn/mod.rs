//! Networks as lists of layers, on candle tensors; f32 for training, f64 where tests want exact numbers.

pub mod activation;
mod by_image;
pub mod conv;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "cuda")]
mod cudnn;
pub mod device;
mod direct;
mod input_gradient;
pub mod network;
pub mod norm;
mod spectral;
mod winograd;

pub(crate) use network::chosen;
pub use network::{Network, Parameter, Pass, Role, Trace, Wanted, channels_first, channels_last};
