//! Numbers that the host makes for a step, on their way to the device.

use candle_core::{Device, Result, Shape, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;

/// Numbers of one type.
pub(crate) enum Values {
    /// Latents, one-hot classes, masks.
    F32(Vec<f32>),
    /// Constants of a step, draws of augmentations.
    F64(Vec<f64>),
    /// Which images.
    U32(Vec<u32>),
}

/// A tensor of these numbers. On CUDA it is the one way for numbers that differ from step to step: what goes by candle's own way
/// while a step is under way is kept for ever, if it is small, for the steps to come.
///
/// # Errors
/// When they are not as many as the shape has, the device is out of memory, or a step is being captured on it.
pub(crate) fn upload(values: Values, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    on_device!(
        device,
        cpu: match values {
            Values::F32(values) => Tensor::from_vec(values, shape, device),
            Values::F64(values) => Tensor::from_vec(values, shape, device),
            Values::U32(values) => Tensor::from_vec(values, shape, device),
        },
        cuda: cuda::upload::upload(&values, shape, device)
    )
}
