//! The lines of `stats.jsonl`.

use serde::{Deserialize, Serialize};

use super::RunFolder;
use crate::error::{Error, Result};
use crate::{files, memory};

/// A line of the log: means over the steps since the line before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Generator steps made.
    pub step: u64,
    /// Passes over the data, with the fraction of the one under way.
    pub epoch: f64,
    /// Real images shown to the critic.
    pub images: u64,
    /// The critic's loss.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_critic: f64,
    /// The generator's loss.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_generator: f64,
    /// The critic's raw score of real images.
    #[serde(deserialize_with = "null_is_nan")]
    pub score_real: f64,
    /// The critic's raw score of generated images.
    #[serde(deserialize_with = "null_is_nan")]
    pub score_fake: f64,
    /// If some images are held out: its score of a fixed batch of training images, in evaluation mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_train: Option<f64>,
    /// Likewise of a fixed batch of held-out images; far below `score_train`: it memorises.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_held_out: Option<f64>,
    /// The Euclidean norm of the critic's gradient, over all its parameters, in the last critic step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm_critic: Option<f64>,
    /// Likewise of the generator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_norm_generator: Option<f64>,
    /// The penalty, its weight included; it is part of the critic's loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<f64>,
    /// The mean norm of the critic's gradient to its input, at the images of the penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_gradient_norm: Option<f64>,
    /// With a Wasserstein loss, `score_real − score_fake`: the critic's estimate of the distance, times its Lipschitz constant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasserstein: Option<f64>,
    /// Mean pairwise distance of 64 fixed samples, relative to that of 64 real images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<f64>,
    /// Mean distance of each of these samples to the one most like it, relative to the same of the real images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity_nearest: Option<f64>,
    /// How much lighter and darker parts differ within samples as the sheets show them, relative to the real images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<f64>,
    /// Standard deviation of the critic's scores of these samples and real images together, in evaluation mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_spread: Option<f64>,
    /// The Fréchet distance of generated images, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<f64>,
    /// Seconds since this process began to train.
    pub seconds: f64,
    /// Real images a second since then.
    pub images_per_second: f64,
}

impl Record {
    /// Whether losses and scores are numbers.
    pub fn is_finite(&self) -> bool {
        [self.loss_critic, self.loss_generator, self.score_real, self.score_fake].iter().all(|number| number.is_finite())
    }
}

/// JSON has no NaN; serde_json writes it as null.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// A line of the file.
pub(super) fn line(record: &Record) -> Result<String> {
    let json =
        serde_json::to_string(record).map_err(|e| Error::invalid("stats.jsonl", e.to_string(), "Please report this."))?;
    Ok(json + "\n")
}

/// The log of a run so far: nothing where nothing was logged.
///
/// # Errors
/// As [`read_records`].
pub(super) fn logged(folder: &RunFolder) -> Result<Vec<Record>> {
    if folder.stats_file().exists() { read_records(folder) } else { Ok(Vec::new()) }
}

/// Every line of a run's log. A last line that a crash cut off is left out.
///
/// # Errors
/// When the file is unreadable or a line in its middle is damaged.
pub fn read_records(folder: &RunFolder) -> Result<Vec<Record>> {
    let path = folder.stats_file();
    if !path.exists() {
        return Err(Error::invalid_file(folder.path(), "this run has no stats.jsonl yet", "Train it for some steps."));
    }
    let (_, length) = files::open(&path)?;
    memory::check(&path, length, "its lines", "Delete the file: training does not need it.")?;
    let bytes = files::read(&path, files::LARGE)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            let hint = "Delete that line, or the whole file: training does not need it.";
            Error::invalid_file(&path, format!("line {}: {e}", number + 1), hint)
        })
    };
    whole.lines().enumerate().map(parse).collect()
}

/// Training time over all processes of a run: records of one process count from its beginning.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Elapsed {
    before: f64,
    seconds: f64,
}

impl Elapsed {
    /// Takes the next record; gives the seconds up to it. Where they go back, another process began. One shorter than its
    /// successor took to its first record is missed; the sum never goes back.
    pub(super) fn after(&mut self, record: &Record) -> f64 {
        if record.seconds < self.seconds {
            self.before += self.seconds;
        }
        self.seconds = record.seconds;
        self.before + self.seconds
    }
}
