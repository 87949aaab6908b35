//! A quick judge for use during training.

use super::chosen;
use super::features::{self, FeatureModel};
use super::frechet::{Gaussian, Reference};
use crate::config::{Span, TrainConfig, WatchConfig};
use crate::data::Dataset;
use crate::error::Result;
use crate::image::Images;
use crate::train;

/// Tells during a training which checkpoint is the best: by the Fréchet distance to reference images whose statistics are taken once.
pub struct FrechetJudge {
    model: FeatureModel,
    reference: Reference,
}

impl FrechetJudge {
    /// Takes the reference's statistics. A few thousand images do; the distance depends on how many are judged, so judge the
    /// same number every time.
    ///
    /// # Errors
    /// When there are fewer than 2 images, or the model fails.
    pub fn new(model: FeatureModel, reference: &Images) -> Result<Self> {
        let reference = Reference::new(Gaussian::of(&model.extract(reference)?)?)?;
        Ok(Self { model, reference })
    }

    /// The built-in feature model against the first `n` of some images of a data set, in a random order that is always the same.
    ///
    /// # Errors
    /// When no built-in model takes such images, there are fewer than 2, or the model fails.
    pub fn builtin(data: &Dataset, indices: &[u32], n: usize) -> Result<Self> {
        let model = FeatureModel::builtin(data.size, data.channels, &features::Options::default())?;
        Self::new(model, &data.images(&chosen(indices, n)))
    }

    /// The judge of a run, by its training images; none where the run asks for none, or ends before the first measurement.
    ///
    /// # Errors
    /// As [`Self::builtin`].
    pub fn of_run(config: &TrainConfig, data: &Dataset) -> Result<Option<Self>> {
        /// Statistics of fewer real images than this are too rough, however few are generated.
        const REFERENCE: usize = 5000;
        let WatchConfig { judge_every, judge_samples, .. } = config.watch;
        let train = data.split(config.data.held_out, config.seed).train;
        let steps = |span: Span| span.in_steps(&config.schedule, train.len());
        if judge_samples == 0 || steps(judge_every) > steps(config.schedule.length) {
            return Ok(None);
        }
        // Of large images not so many: they are held in memory.
        let affordable = (1 << 30) / (data.channels * data.size * data.size).max(1);
        Self::builtin(data, &train, judge_samples.max(REFERENCE.min(affordable))).map(Some)
    }

    /// The Fréchet distance of images to the reference, at least 0.
    ///
    /// # Errors
    /// When there are fewer than 2 images, or the model fails.
    pub fn frechet(&self, images: &Images) -> Result<f64> {
        self.reference.distance(&Gaussian::of(&self.model.extract(images)?)?)
    }

    /// The feature model.
    pub fn model(&self) -> &FeatureModel {
        &self.model
    }
}

impl train::Judge for FrechetJudge {
    fn distance(&self, images: &Images) -> Result<f64> {
        self.frechet(images)
    }
}
