//! The order of a map's values: channels last between our layers, channels first where PyTorch and ONNX flatten.

use candle_core::{Result, Tensor};

use super::elementwise::swap_axes;
use super::shape::Shape;

/// `[n, h, w, c]` → `[n, c · h · w]`, in the order in which PyTorch flattens; what is flat stays as it is.
///
/// # Errors
/// When the device is out of memory.
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    match *x.dims() {
        [n, h, w, c] => swap_axes(&x.reshape((n, h * w, c))?)?.reshape((n, c * h * w)),
        _ => Ok(x.clone()),
    }
}

/// The inverse of [`channels_first`], for a shape.
///
/// # Errors
/// When the number of values is another.
pub fn channels_last(x: &Tensor, shape: Shape, n: usize) -> Result<Tensor> {
    match shape {
        Shape::Map { channels, height, width } => {
            swap_axes(&x.reshape((n, channels, height * width))?)?.reshape((n, height, width, channels))
        }
        Shape::Flat(features) => x.reshape((n, features)),
    }
}

/// What a generator has made as `[n, height, width, channels]`: it may end in a linear layer.
///
/// # Errors
/// When the number of values is another.
pub fn as_images(values: &Tensor, shape: Shape) -> Result<Tensor> {
    match values.rank() {
        4 => Ok(values.clone()),
        _ => channels_last(values, shape, values.dim(0)?),
    }
}

/// Flat values in the shape that `like` has.
pub(super) fn shaped_as(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let shape = match *like.dims() {
        [_, height, width, channels] => Shape::Map { channels, height, width },
        _ => Shape::Flat(like.elem_count() / like.dim(0)?),
    };
    channels_last(x, shape, like.dim(0)?)
}
