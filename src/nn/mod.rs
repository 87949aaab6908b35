//! Networks as lists of layers, on candle tensors; f32 for training, f64 where tests want exact numbers.

pub mod conv;
pub mod network;
pub mod norm;

pub use network::{Gradients, Network, Parameter, Pass, Role};
