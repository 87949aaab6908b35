//! The distances that a run is judged by: on its way, and once more at its end.

use super::checkpoint;
use super::preview::Preview;
use super::record;
use super::run::RunFolder;
use super::trainer::Trainer;
use super::watch::{Best, Watchdog};
use super::{Judge, TrainingJob};
use crate::error::Result;

/// Whether the distance was measured at a step of a run, on its way.
pub(super) fn is_measured(folder: &RunFolder, step: u64) -> Result<bool> {
    let records = record::logged(folder)?;
    Ok(records.iter().any(|record| record.step == step && record.quality.is_some()))
}

/// Measures the last checkpoint of a run that has come to its end, if others were measured on the way: between the last of those and
/// the end there may be much training.
pub(super) fn judge_end(job: &TrainingJob, trainer: &Trainer, watchdog: &Watchdog, preview: &Preview) -> Result<Option<Best>> {
    let compared = watchdog.best.is_some_and(|best| best.quality.is_some());
    let Some(judge) = job.judge.filter(|_| job.config.watch.judge_samples > 0 && compared) else { return Ok(None) };
    let Some(quality) = distance(job, judge, trainer, preview)? else { return Ok(None) };
    let end = Best { step: trainer.step, quality: Some(quality) };
    checkpoint::save_end(job.folder, watchdog, end)?;
    Ok(Some(end))
}

/// The Fréchet distance of samples to real images. The training is worth more than the measurement.
pub(super) fn distance(job: &TrainingJob, judge: &dyn Judge, trainer: &Trainer, preview: &Preview) -> Result<Option<f64>> {
    let samples = preview.images(trainer, job.config.watch.judge_samples)?;
    let unmeasured = |error| job.progress.say(&format!("warning: the distance was not measured: {error}"));
    // The last digits depend on how many threads onnxruntime works on; which checkpoint is the best must not.
    let rounded = |distance: f64| (distance * 1e6).round() / 1e6;
    Ok(judge.distance(&samples).map_err(unmeasured).ok().filter(|distance| distance.is_finite()).map(rounded))
}

/// How often the distance was measured in a run so far.
pub(super) fn count_measurements(folder: &RunFolder, end: Option<Best>) -> Result<usize> {
    let records = record::logged(folder)?;
    Ok(records.iter().filter(|record| record.quality.is_some()).count() + usize::from(end.is_some()))
}
