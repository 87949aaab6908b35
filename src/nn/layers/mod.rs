//! The kinds of layers. Each is a file that holds all that is known of it: its fields in a config, its shape rule, its
//! parameters, how a factor on the width treats it, its passes, and its operations for export.
//!
//! [`LayerSpec`] lists them: a layer as configs write it. It is built into a `Layer`, which has parameters. A pass that is
//! traced leaves a `Traced` of each layer, which knows the ways back.

mod activation;
mod batch_norm;
mod categorical;
mod conv;
mod conv_transpose;
mod dropout;
mod kind;
mod layer;
mod layer_norm;
mod linear;
mod masked;
mod normalisation;
mod product;
mod reshape;
mod sequential;
mod spec;

pub(crate) use categorical::chosen;
pub use conv::Conv;
pub use conv_transpose::ConvTranspose;
pub(crate) use layer::{Layer, Traced};
pub use layer::{Pass, Wanted};
pub use linear::Linear;
pub(crate) use sequential::Sequential;
pub use spec::{LayerSpec, activations_estimate, output_shape, size_estimate};
