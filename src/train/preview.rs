//! The samples of a training under way.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::Trainer;
use super::networks::generator_network;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::image::{self, Images};
use crate::nn::{Network, Pass, Shape, as_images};

/// A generator for sampling, with averaged weights where the run has them; images `0..n` of the run's seed, so the same
/// that a sampling job with that seed makes.
pub(super) struct Preview<'a> {
    config: &'a TrainConfig,
    view: Network,
    latents: Tensor,
}

impl<'a> Preview<'a> {
    pub fn new(config: &'a TrainConfig, device: &Device) -> Result<Self> {
        let n = config.output.samples;
        let latents = Tensor::from_vec(config.latent.rows(config.seed, 0, n), (n, config.latent.size), device)?;
        Ok(Self { config, view: generator_network(config, device, DType::F32)?, latents })
    }

    /// A sheet of samples, as a PNG file.
    pub fn sheet(&self, trainer: &Trainer) -> Result<Vec<u8>> {
        self.view.load(&trainer.best_weights(), "the trainer")?;
        let images = sample(&self.view, self.config, &self.latents)?;
        let sheet = images.grid(Images::square_columns(images.n));
        image::encode_png(&sheet.pixels, sheet.height, sheet.width, sheet.channels)
    }

    /// Images `0..n` of the run's seed, batch by batch.
    pub fn images(&self, trainer: &Trainer, n: usize) -> Result<Images> {
        self.images_by(&trainer.best_weights(), n)
    }

    /// The same, by these weights.
    pub fn images_by(&self, weights: &BTreeMap<String, Tensor>, n: usize) -> Result<Images> {
        /// Where batches are larger than this, it is enough.
        const MOST: usize = 100;
        let batch = MOST.min(self.config.schedule.batch_size);
        self.view.load(weights, "the trainer")?;
        let shape = self.config.data.clone();
        let mut all = Images { n: 0, height: shape.size, width: shape.size, channels: shape.channels, pixels: Vec::new() };
        for first in (0..n).step_by(batch) {
            let count = batch.min(n - first);
            let rows = self.config.latent.rows(self.config.seed, first as u64, count);
            let latents = Tensor::from_vec(rows, (count, self.config.latent.size), self.latents.device())?;
            let mut images = sample(&self.view, self.config, &latents)?;
            all.n += images.n;
            all.pixels.append(&mut images.pixels);
        }
        Ok(all)
    }
}

/// Makes images from latents `[n, latent]`, as an exported generator would.
///
/// # Errors
/// When the device is out of memory.
pub fn sample(generator: &Network, config: &TrainConfig, latents: &Tensor) -> Result<Images> {
    let Shape::Map { channels, height, width } = config.image_shape() else {
        return Err(Error::usage("the config's images have no height and width", "Mend data.size and data.channels."));
    };
    let values = as_images(&generator.forward(latents, Pass::Eval)?, config.image_shape())?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Images::from_nhwc(&values, [latents.dim(0)?, height, width, channels], config.data.range))
}
