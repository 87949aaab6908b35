//! Trained generators, as runs hold them.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::checkpoint;
use super::networks::generator_in_f32;
use super::run::{RunFolder, Which};
use crate::config::TrainConfig;
use crate::contract::Weights;
use crate::error::{Error, Result};
use crate::nn::Network;
use crate::text;

/// A trained generator as one of a run's checkpoints holds it, or a file of weights.
pub struct Trained {
    /// The run's config.
    pub config: TrainConfig,
    /// The generator with the weights asked for.
    pub generator: Network,
    /// What the checkpoint says of itself.
    pub state: checkpoint::State,
    /// Which weights these are.
    pub weights: Weights,
}

/// Loads a run's generator on the CPU; without `weights`, the average where the run has one.
///
/// # Errors
/// When the folder is no run, has no checkpoint yet, or has no averaged weights though these are asked for.
pub fn load_trained(folder: &RunFolder, weights: Option<Weights>, which: Which) -> Result<Trained> {
    let saved = checkpoint::find(folder, which)?.ok_or_else(|| {
        Error::invalid_file(folder.path(), "this run has no checkpoint yet", "Continue it with `RunFolder::resume`.")
    })?;
    load_checkpoint(folder, &saved, weights)
}

/// As [`load_trained`], from the checkpoint of the run in the folder `saved`.
///
/// # Errors
/// When the folder is no run, the checkpoint is damaged, or has no averaged weights though these are asked for.
pub fn load_checkpoint(folder: &RunFolder, saved: &std::path::Path, weights: Option<Weights>) -> Result<Trained> {
    let config = config_of(folder, saved)?;
    let averaged = config.schedule.has_average();
    let weights = weights.unwrap_or(if averaged { Weights::Ema } else { Weights::Raw });
    if weights == Weights::Ema && !averaged {
        let what = "this run has no averaged weights (schedule.ema_decay is 0)";
        return Err(Error::usage(format!("{}: {what}", text::path(folder.path())), "Use `Trained::weights` raw."));
    }
    let generator = generator_in_f32(&config)?;
    let tensors: BTreeMap<String, Tensor> = checkpoint::read_generator(saved, weights)?;
    generator.load(&tensors, &text::path(saved))?;
    Ok(Trained { config, generator, state: checkpoint::read_state(saved)?, weights })
}

/// The config that a checkpoint was made with; what it is called, and where the images are, is as the run says now.
fn config_of(folder: &RunFolder, saved: &Path) -> Result<TrainConfig> {
    let run = folder.config()?;
    let Some(made) = checkpoint::read_config(saved, &run)? else { return Ok(run) };
    Ok(TrainConfig { preset: run.preset, about: run.about, ..made })
}
