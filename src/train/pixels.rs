//! Training images that stay on the GPU.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::nn::cuda::driver::free_memory;
use crate::nn::cuda::elementwise::gather;

/// Training images that stay on the device, as bytes.
pub(super) struct Pixels {
    bytes: Tensor,
    values: Tensor,
    channels: usize,
    size: usize,
}

impl Pixels {
    /// Uploads images `[n, channels, size, size]`, and the value of each byte; `None` where they would take more than half of
    /// the memory that is free.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload(bytes: &[u8], values: &[f32; 256], channels: usize, size: usize, device: &Device) -> Result<Option<Self>> {
        if bytes.len() > free_memory(device)? / 2 {
            return Ok(None);
        }
        let bytes = Tensor::from_slice(bytes, bytes.len(), device)?;
        Ok(Some(Self { bytes, values: Tensor::from_slice(values, values.len(), device)?, channels, size }))
    }

    /// The images of these numbers, `[n, size, size, channels]`.
    ///
    /// # Errors
    /// When a number is none of an image, or the device fails.
    pub fn gather(&self, indices: &[u32]) -> Result<Tensor> {
        Ok(gather(&self.bytes, &self.values, indices, [self.channels, self.size])?)
    }
}
