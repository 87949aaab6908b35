//! Samples in which there is nothing to be seen yet: how that is measured, and what the reason may be.

use super::watch::{FLAT, deviation};
use crate::config::TrainConfig;
use crate::data::Dataset;
use crate::image::Images;
use crate::nn::LayerSpec;
use crate::text::grouped;

/// Images whose contrast is taken.
pub(super) const N: usize = 64;
/// Blocks a side, whose means are compared: the fine patterns that untrained transposed convolutions lay over everything are no contrast.
const BLOCKS: usize = 8;
/// Real images with less contrast, in levels of 255, are flat themselves, and nothing can be told by them.
const LEAST: f64 = 1.0;

/// How much lighter and darker parts differ within images: the standard deviation of the means of 8 × 8 blocks, averaged over images
/// and channels; 0 to 127.5.
pub(super) fn contrast(images: &Images) -> f64 {
    let Images { height, width, channels, .. } = *images;
    let parts = images.n * channels;
    let blocks = [BLOCKS.min(height), BLOCKS.min(width)];
    let mut sum = 0.0;
    for image in images.pixels.chunks_exact(images.bytes().max(1)) {
        for channel in 0..channels {
            let mut means = vec![[0.0f64; 2]; blocks[0] * blocks[1]];
            for (at, &value) in image.iter().skip(channel).step_by(channels).enumerate() {
                let [row, column] = [at / width * blocks[0] / height, at % width * blocks[1] / width];
                let [total, count] = &mut means[row * blocks[1] + column];
                (*total, *count) = (*total + f64::from(value), *count + 1.0);
            }
            sum += deviation(&means.iter().map(|[total, count]| total / count).collect::<Vec<_>>());
        }
    }
    sum / parts.max(1) as f64
}

/// The contrast of real images; `None` where they have none themselves.
pub(super) fn real_contrast(data: &Dataset) -> Option<f64> {
    let n = N.min(data.len);
    let spaced: Vec<u32> = (0..n).filter_map(|at| u32::try_from(at * data.len / n).ok()).collect();
    Some(contrast(&data.images(&spaced))).filter(|contrast| *contrast > LEAST)
}

/// A look at the samples of a run.
pub(super) struct Look {
    pub step: u64,
    pub images: u64,
    /// Of the averaged weights' samples, where there are such, as a part of the real images'.
    pub contrast: f64,
    /// Of the trained weights' samples.
    pub of_trained: f64,
}

/// What to say of a run whose samples are flat.
pub(super) fn note(config: &TrainConfig, look: &Look) -> String {
    let images = grouped(usize::try_from(look.images).unwrap_or(usize::MAX));
    let (contrast, reason) = (look.contrast, reason(config, look));
    format!("the samples are flat after {images} images: their contrast is {contrast:.2} of the real images'. {reason}")
}

/// The likeliest reason, and what helps.
fn reason(config: &TrainConfig, look: &Look) -> String {
    /// With lower learning rates nothing comes of any optimiser but SGD in a time that anybody waits for.
    const LOW_RATE: f64 = 1e-6;
    /// In fewer steps nothing comes of any network.
    const FEW_STEPS: u64 = 500;
    /// A generator whose widest layer has no more channels is a narrow one, and begins late.
    const NARROW: usize = 128;
    let widest = widest(&config.generator.layers);
    if look.of_trained >= FLAT {
        return "The averaged weights, which make them, lag behind the trained ones, whose samples are not flat: they take more steps, or a \
                shorter schedule.ema_half_life, or a smaller schedule.ema_decay."
            .to_string();
    }
    let players = [("generator", &config.optimizer.generator), ("critic", &config.optimizer.critic)];
    if let Some((name, optimizer)) = players.into_iter().find(|(_, optimizer)| optimizer.lr() < LOW_RATE) {
        let lr = optimizer.lr();
        return format!("optimizer.{name}.lr is perhaps too low, {lr:e}: most networks learn with 1e-4 to 1e-3.");
    }
    if look.step < FEW_STEPS {
        let (step, batch) = (look.step, config.schedule.batch_size);
        return match batch {
            ..=32 => format!("Steps were perhaps too few so far, {step}: it takes some hundreds."),
            _ => format!(
                "Steps were perhaps too few so far, {step} of {batch} images: it takes some hundreds; or begin again with smaller batches \
                 (schedule.batch_size = 32), which make more steps of as many images."
            ),
        };
    }
    if widest <= NARROW {
        return format!(
            "The generator is perhaps too narrow, with {widest} channels at most: begin again with wider layers (`TrainConfig::with_width`)."
        );
    }
    "The critic is perhaps too far ahead of the generator: it may take more steps; or begin again with a lower optimizer.critic.lr or other batches \
     (schedule.batch_size)."
        .to_string()
}

/// Channels or features of the widest layer, those in residual blocks among them.
fn widest(layers: &[LayerSpec]) -> usize {
    layers.iter().flat_map(|layer| layer.parts().into_iter().map(widest).chain(layer.width())).max().unwrap_or(0)
}
