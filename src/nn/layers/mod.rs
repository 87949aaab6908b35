//! The kinds of layers. Each is a file that holds all that is known of it: its fields in a config, its shape rule, its
//! parameters, how a factor on the width treats it, its passes, and its operations for export.
//!
//! [`LayerSpec`] lists them: a layer as configs write it. (A residual block is made of others, so its fields stand there, too.) It is
//! built into a `Layer`, which has parameters. A pass that is traced leaves a `Traced` of each layer, which knows the ways back.

mod activation;
mod basis;
mod batch_norm;
mod bias;
mod categorical;
mod conv;
mod conv_transpose;
mod dropout;
mod fixed;
mod kind;
mod layer;
mod layer_norm;
mod linear;
mod masked;
mod normalisation;
mod product;
mod resampled;
mod reshape;
mod residual;
mod sequential;
mod spec;

pub(crate) use categorical::chosen;
pub use conv::Conv;
pub use conv_transpose::ConvTranspose;
pub use fixed::{Downsample, Pool, Upsample};
pub(crate) use layer::{Layer, Traced};
pub use layer::{Pass, Wanted};
pub use linear::Linear;
pub(crate) use sequential::Sequential;
pub(crate) use spec::build_layers;
pub use spec::{LayerSpec, Residual, activations_estimate, output_shape, size_estimate};
