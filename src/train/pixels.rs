//! Training images that stay on the GPU.

use candle_core::{Device, Tensor};

use super::chosen::Chosen;
use crate::error::Result;
use crate::nn::cuda::driver::free_memory;
use crate::nn::cuda::elementwise::gather;

/// The bit of an image's number that says that it is mirrored, as in `kernels.cu`.
const MIRRORED: u32 = 1 << 31;

/// Training images that stay on the device, as bytes.
pub(super) struct Pixels {
    bytes: Tensor,
    values: Tensor,
    images: usize,
    channels: usize,
    size: usize,
}

impl Pixels {
    /// Uploads images `[n, channels, size, size]`, and the value of each byte; `None` where they would take more than half of
    /// the memory that is free, or are too many to be numbered.
    ///
    /// # Errors
    /// When the device fails.
    pub fn upload(bytes: &[u8], values: &[f32; 256], channels: usize, size: usize, device: &Device) -> Result<Option<Self>> {
        let images = bytes.len() / (channels * size * size).max(1);
        if bytes.len() > free_memory(device)? / 2 || images > MIRRORED as usize {
            return Ok(None);
        }
        let bytes = Tensor::from_slice(bytes, bytes.len(), device)?;
        Ok(Some(Self { bytes, values: Tensor::from_slice(values, values.len(), device)?, images, channels, size }))
    }

    /// The images as bytes.
    pub fn bytes(&self) -> &Tensor {
        &self.bytes
    }

    /// The numbers of chosen images, as [`Self::gather`] takes them.
    ///
    /// # Errors
    /// When one is none of an image.
    pub fn numbers(&self, chosen: &Chosen) -> Result<Vec<u32>> {
        if let Some(index) = chosen.indices.iter().find(|&&index| index as usize >= self.images) {
            return Err(candle_core::Error::Msg(format!("image {index} of {}", self.images)).into());
        }
        let number = |(at, &index): (usize, &u32)| if chosen.is_mirrored(at) { index | MIRRORED } else { index };
        Ok(chosen.indices.iter().enumerate().map(number).collect())
    }

    /// The images of these numbers on their device, `[n, size, size, channels]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn gather(&self, numbers: &Tensor) -> Result<Tensor> {
        Ok(gather(&self.bytes, &self.values, numbers, [self.channels, self.size])?)
    }
}
