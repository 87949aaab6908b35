//! The watchdog: from the lines of the log it names collapse, divergence and a dead critic, and it remembers which
//! checkpoint is the best.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Batch, Batches, Record, Trainer};
use crate::config::TrainConfig;
use crate::error::Result;
use crate::nn::{Pass, as_images};

/// What can be wrong with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// The generator makes the same few images from every latent.
    Collapse,
    /// Losses or weights are NaN or infinite, or the critic's scores spread a thousand times as much as in the beginning.
    Divergence,
    /// The critic tells nothing apart, or gives the generator no gradient.
    DeadCritic,
}

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Collapse => "mode collapse",
            Self::Divergence => "training diverged",
            Self::DeadCritic => "dead critic",
        }
    }
}

/// Why the watchdog takes a run to have failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What is wrong.
    pub trouble: Trouble,
    /// Generator steps at which it was first seen.
    pub since_step: u64,
    /// Real images shown by then.
    pub since_images: u64,
    /// Generator steps at which it was sure.
    pub step: u64,
    /// Real images shown by then.
    pub images: u64,
    /// The figures it goes by.
    pub evidence: String,
}

impl Verdict {
    /// The verdict on NaN and infinity, which needs no second look.
    pub fn nonsense(record: &Record, what: &str) -> Self {
        Self {
            trouble: Trouble::Divergence,
            since_step: record.step,
            since_images: record.images,
            step: record.step,
            images: record.images,
            evidence: format!("the {what} are NaN or infinite"),
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self.trouble {
            Trouble::Collapse => {
                "Lower the learning rates (optimizer.generator.lr, optimizer.critic.lr), or bound the critic: critic.norm = \"spectral\", \
                 or a gradient penalty in place of weight clipping and batch norm (loss = { kind = \"wgan\" }, \
                 penalty = { kind = \"gradient\" }, critic.norm = \"none\")."
            }
            Trouble::Divergence => {
                "Begin again with lower learning rates (optimizer.generator.lr, optimizer.critic.lr), and look at curves.png for where it went wrong."
            }
            Trouble::DeadCritic => {
                "Lower the critic's learning rate (optimizer.critic.lr); with weight clipping, clip less \
                 (loss.clip) or use a gradient penalty instead."
            }
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at step {} ({} images): {}", self.trouble.name(), self.step, self.images, self.evidence)?;
        if self.since_step < self.step {
            write!(f, ", first seen at step {} ({} images)", self.since_step, self.since_images)?;
        }
        Ok(())
    }
}

/// The best checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its generator steps.
    pub step: u64,
    /// Its Fréchet distance; `None` where nobody measures: then it is the last that nothing is known against.
    pub quality: Option<f64>,
}

/// What the watchdog knows; part of a checkpoint's state, so that a resumed run ends at the same step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watchdog {
    /// The highest so far: diversity, distance of nearest neighbours, norm of the generator's gradient, spread of the scores.
    /// Only what a look sees at its own step: means over several steps would depend on when the log was written.
    peak_diversity: f64,
    peak_nearest: f64,
    peak_gradient: f64,
    peak_spread: f64,
    /// The largest spread of the scores among the first images.
    scale: f64,
    suspicion: Option<Suspicion>,
    /// How it stands with flat samples.
    #[serde(default, skip_serializing_if = "Flatness::is_none")]
    flat: Flatness,
    /// What it has said so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<Verdict>,
    /// The best checkpoint so far.
    pub best: Option<Best>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Suspicion {
    trouble: Trouble,
    step: u64,
    images: u64,
    looks: u32,
    told: bool,
}

/// Looks at samples in which there is nothing to be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Flatness {
    /// In a row, the last one included.
    looks: u32,
    told: bool,
}

impl Flatness {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Fallen below this part of its peak, diversity is lost. The lowest of the sound runs it was set by, wgan-mnist-mlp on MNIST,
/// fell to 0.65.
const LOST: f64 = 0.25;
/// Likewise for the distance between each sample and the one most like it: many modes, but few.
const LOST_NEAREST: f64 = 0.1;
/// Below this part of the data's diversity there are no images yet that could collapse.
const BEGUN: f64 = 0.2;
/// And below this, after [`BEGINNING`], they never will.
const GREY: f64 = 0.1;
/// In the first [`SCALE_IMAGES`] noise may be diverse, too: what is less diverse than this has not begun.
const BEGUN_EARLY: f64 = 0.4;
/// So many images may pass before something must have become of them.
const BEGINNING: u64 = 500_000;
/// A suspicion is a verdict after so many looks,
const LOOKS: u32 = 3;
/// and so many images: a run may lose its balance for a moment and find it again.
const IMAGES: u64 = 10_000;
/// Scores that spread so many times as much as in the beginning are out of hand.
const OUT_OF_HAND: f64 = 1000.0;
/// Samples are flat below this part of the real images' contrast. A dcgan-64 whose sheets showed grey had 0.03 to 0.10, one whose sheets
/// showed blurs 0.2, and where faces began it was 0.4 and more.
pub(super) const FLAT: f64 = 0.15;
/// So many images may pass before flat samples are worth a word: recipes that begin well are beyond that after 5,000.
const FLAT_IMAGES: u64 = 10_000;
/// So many images are the beginning.
const SCALE_IMAGES: u64 = 20_000;
/// This part of its peak and less is nothing.
const NOTHING: f64 = 1e-5;

impl Watchdog {
    /// Looks at a line of the log. Says what is wrong once it is sure, and says it once.
    pub fn see(&mut self, record: &Record) -> Option<Verdict> {
        if !record.is_finite() {
            return Some(Verdict::nonsense(record, "losses"));
        }
        record.score_spread?; // only a look carries all signals
        let seen = self.suspect(record);
        self.remember(record);
        let Some((trouble, evidence)) = seen else {
            self.suspicion = None;
            return None;
        };
        let before = self.suspicion.filter(|suspicion| suspicion.trouble == trouble);
        let mut now = before.unwrap_or(Suspicion { trouble, step: record.step, images: record.images, looks: 0, told: false });
        now.looks += 1;
        let sure = now.looks >= LOOKS && record.images.saturating_sub(now.images) >= IMAGES;
        let news = sure && !now.told;
        now.told |= sure;
        self.suspicion = Some(now);
        let verdict = news.then_some(Verdict {
            trouble,
            since_step: now.step,
            since_images: now.images,
            step: record.step,
            images: record.images,
            evidence,
        });
        self.said.extend(verdict.clone());
        verdict
    }

    /// Looks at a line of the log for samples in which there is nothing to be seen. Whether to say so: once, until they have been sound
    /// again. It speaks against no checkpoint and ends no run.
    pub fn sees_flat(&mut self, record: &Record) -> bool {
        let Some(contrast) = record.contrast else { return false };
        if contrast >= FLAT {
            self.flat = Flatness::default();
            return false;
        }
        self.flat.looks = self.flat.looks.saturating_add(1);
        let news = !self.flat.told && self.flat.looks >= LOOKS && record.images >= FLAT_IMAGES;
        self.flat.told |= news;
        news
    }

    /// The best checkpoint, where the last one was measured at the end of the run besides.
    pub(super) fn best_with(&self, end: Option<Best>) -> Option<Best> {
        let better = end.filter(|end| end.quality.is_some_and(|quality| self.would_improve(quality)));
        better.or(self.best)
    }

    /// What speaks against a run that ends before the watchdog is sure.
    pub(super) fn doubt(&self) -> Option<String> {
        let suspicion = self.suspicion.filter(|suspicion| !suspicion.told)?;
        let name = suspicion.trouble.name();
        Some(format!("the run ends with signs of trouble ({name}) since step {}, too late to be sure of it", suspicion.step))
    }

    /// Whether nothing is known against the run at present.
    pub fn is_content(&self) -> bool {
        self.suspicion.is_none()
    }

    /// Whether a measured distance is better than all before.
    pub fn would_improve(&self, quality: f64) -> bool {
        self.best.and_then(|best| best.quality).is_none_or(|before| quality < before)
    }

    fn suspect(&self, record: &Record) -> Option<(Trouble, String)> {
        let spread = record.score_spread?;
        let signals = [record.score_spread, record.gradient_norm_generator, record.diversity, record.diversity_nearest];
        if signals.into_iter().flatten().any(|signal| !signal.is_finite()) {
            let evidence = format!(
                "the scores' spread is {spread:.2e}, the generator's gradient {:.2e}",
                record.gradient_norm_generator.unwrap_or(0.0)
            );
            return Some((Trouble::Divergence, evidence));
        }
        if record.images > SCALE_IMAGES && self.scale > 0.0 && spread > OUT_OF_HAND * self.scale {
            let evidence = format!("the critic's scores spread by {spread:.2e}, at the beginning by {:.2e}", self.scale);
            return Some((Trouble::Divergence, evidence));
        }
        if spread <= NOTHING * self.peak_spread || spread == 0.0 {
            let evidence = format!(
                "its scores of 64 real and 64 generated images spread by {spread:.1e}, it was {:.1e}",
                self.peak_spread
            );
            return Some((Trouble::DeadCritic, evidence));
        }
        if let Some(norm) = record.gradient_norm_generator.filter(|norm| *norm <= NOTHING * self.peak_gradient) {
            let evidence = format!("the norm of the generator's gradient is {norm:.1e}, it was {:.1e}", self.peak_gradient);
            return Some((Trouble::DeadCritic, evidence));
        }
        let (diversity, nearest) = (record.diversity?, record.diversity_nearest?);
        let fallen = |now: f64, peak: f64, part: f64| peak >= BEGUN && now < part * peak.min(1.0);
        if fallen(diversity, self.peak_diversity, LOST) {
            let evidence = format!("the samples' diversity is {diversity:.3} of the data's, it was {:.3}", self.peak_diversity);
            return Some((Trouble::Collapse, evidence));
        }
        if fallen(nearest, self.peak_nearest, LOST_NEAREST) {
            let evidence = format!(
                "the samples most alike differ by {nearest:.3} of what images of the data do, it was {:.3}",
                self.peak_nearest
            );
            return Some((Trouble::Collapse, evidence));
        }
        if record.images > BEGINNING && self.peak_diversity < GREY {
            return Some((
                Trouble::Collapse,
                format!(
                    "after the first noise the samples' diversity never was above {:.3} of the data's",
                    self.peak_diversity
                ),
            ));
        }
        None
    }

    fn remember(&mut self, record: &Record) {
        // Infinity would be a peak for ever, and JSON cannot write it.
        let raise =
            |peak: &mut f64, value: Option<f64>| *peak = peak.max(value.filter(|value| value.is_finite()).unwrap_or(0.0));
        let noise = record.images <= SCALE_IMAGES && record.diversity.is_none_or(|diversity| diversity < BEGUN_EARLY);
        if !noise {
            raise(&mut self.peak_diversity, record.diversity);
            raise(&mut self.peak_nearest, record.diversity_nearest);
        }
        raise(&mut self.peak_gradient, record.gradient_norm_generator);
        raise(&mut self.peak_spread, record.score_spread);
        if record.images <= SCALE_IMAGES || self.scale == 0.0 {
            raise(&mut self.scale, record.score_spread);
        }
    }
}

/// Samples and real images that are looked at again and again.
pub(super) struct Probe {
    latents: Tensor,
    real: Batch,
    /// Of the real images; `None` if they are too few or all the same.
    reference: Option<[f64; 2]>,
}

/// What a look sees.
pub(super) struct Observation {
    /// The samples' mean pairwise distance, and the mean distance to the one most alike, relative to the real images'.
    pub diversity: Option<[f64; 2]>,
    /// Standard deviation of the critic's scores of samples and real images together.
    pub spread: f64,
}

impl Probe {
    /// Samples looked at.
    const N: usize = 64;

    pub(super) fn new(config: &TrainConfig, batches: &Batches, trainer: &Trainer) -> Result<Self> {
        let z = Tensor::from_vec(config.latent.rows(config.seed, 0, Self::N), (Self::N, config.latent.size), trainer.device())?;
        let real = batches.spaced(Self::N)?;
        let reference = distances(&real.images)?.filter(|reference| reference.iter().all(|distance| *distance > 1e-6));
        Ok(Self { latents: z, real, reference })
    }

    /// The weights as they are: an average would hide for long what has become of them.
    pub(super) fn observe(&self, trainer: &Trainer) -> Result<Observation> {
        // In the training's batches: more may not fit on the device.
        let batch = trainer.config.schedule.batch_size;
        let mut parts = Vec::new();
        for first in (0..Self::N).step_by(batch) {
            let latents = self.latents.narrow(0, first, batch.min(Self::N - first))?;
            parts.push(as_images(&trainer.generator.forward(&latents, Pass::Eval)?, trainer.config.image_shape())?);
        }
        let samples = Tensor::cat(&parts, 0)?;
        let diversity = match (self.reference, distances(&samples)?) {
            (Some(real), Some(made)) => Some([made[0] / real[0], made[1] / real[1]]),
            _ => None,
        };
        let samples = Batch { images: samples, classes: trainer.classes_of(&self.latents)? };
        let scores = [trainer.scores(&self.real)?, trainer.scores(&samples)?].concat();
        Ok(Observation { diversity, spread: deviation(&scores) })
    }
}

/// Standard deviation.
pub(super) fn deviation(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Over all pairs of images the mean root-mean-square difference, and the mean of that to the image most alike.
fn distances(images: &Tensor) -> Result<Option<[f64; 2]>> {
    let n = images.dim(0)?;
    let values: Vec<f32> = images.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1()?;
    if n < 2 || values.is_empty() {
        return Ok(None);
    }
    let rows: Vec<&[f32]> = values.chunks_exact(values.len() / n).collect();
    let mut nearest = vec![f64::INFINITY; n];
    let mut sum = 0.0;
    for i in 0..n {
        for j in 0..i {
            let squares: f32 = rows[i].iter().zip(rows[j]).map(|(a, b)| (a - b) * (a - b)).sum();
            let distance = (f64::from(squares) / rows[i].len() as f64).sqrt();
            sum += distance;
            nearest[i] = nearest[i].min(distance);
            nearest[j] = nearest[j].min(distance);
        }
    }
    let pairs = (n * (n - 1) / 2) as f64;
    Ok(Some([sum / pairs, nearest.iter().sum::<f64>() / n as f64]))
}
