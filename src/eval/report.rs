//! What an evaluation found: scores, and the protocol without which they say nothing.

use std::fmt;

use serde::Serialize;

use super::about::{About, InputRange};
use super::real::RealImages;

/// Scores with the protocol they were taken under.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// What was judged.
    pub subject: String,
    /// Fréchet distance, at least 0; lower is better (arXiv 1706.08500).
    pub frechet: Statistic,
    /// Kernel distance, unbiased, so it may be below 0; lower is better (arXiv 1801.01401).
    pub kernel_distance: Statistic,
    /// Share of generated images that look real, 0 to 1 (arXiv 1904.06991).
    pub precision: Statistic,
    /// Share of real images that the generator covers, 0 to 1.
    pub recall: Statistic,
    /// How densely generated images lie among real ones: about 1 for real ones (arXiv 2002.09797). Unlike precision it does not
    /// call images good for lying in the wide surroundings of one odd real image.
    pub density: Statistic,
    /// Share of real images with a generated one in their surroundings, 0 to 1 (arXiv 2002.09797).
    pub coverage: Statistic,
    /// Share of generated images that are the exact copy of an earlier one of their draw.
    pub duplicates: Statistic,
    /// The same scores of other real images in place of the generated ones; none if there are too few.
    pub real_against_real: Option<RealAgainstReal>,
    /// Neighbours among the real images, if they were searched for.
    pub nearest: Option<NearestReport>,
    /// What a reader of these scores should know before he believes one of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How all this was measured.
    pub protocol: Protocol,
}

/// A score over the draws.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistic {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, with draws − 1 in the denominator; none of a single draw.
    pub deviation: Option<f64>,
    /// Each draw's.
    pub draws: Vec<f64>,
}

/// Scores of real images against the reference, which are real images too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RealAgainstReal {
    /// How many; none of them is in the reference.
    pub n: usize,
    /// As of generated images.
    #[serde(flatten)]
    pub scores: Scores,
}

/// What one set of images scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Fréchet distance.
    pub frechet: f64,
    /// Kernel distance.
    pub kernel_distance: f64,
    /// Precision, 0 to 1.
    pub precision: f64,
    /// Recall, 0 to 1.
    pub recall: f64,
    /// Density, at least 0.
    pub density: f64,
    /// Coverage, 0 to 1.
    pub coverage: f64,
}

/// How near generated images come to real ones. A generator that memorises has a median well below that of real images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NearestReport {
    /// Generated images looked at, of the first draw.
    pub samples: usize,
    /// Real images searched.
    pub among: usize,
    /// Generated images that equal a real one pixel for pixel.
    pub exact_copies: usize,
    /// Medians of the distances by features, Euclidean.
    pub by_features: Medians,
    /// Medians of the distances by pixels: root of the mean squared difference, 0 to 255.
    pub by_pixels: Medians,
}

/// Medians of distances to the nearest real image.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Medians {
    /// From generated images.
    pub generated: f64,
    /// From real images, to the nearest other one; none if there are too few.
    pub real: Option<f64>,
}

/// How scores were measured: whoever repeats it gets the same ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Protocol {
    /// The feature model.
    pub features: FeatureProtocol,
    /// `[height, width, channels]` of the images before the feature model's preparation.
    pub image: [usize; 3],
    /// What is done to them before the feature model.
    pub preparation: String,
    /// The real images' data set.
    pub data: String,
    /// SHA-256 over its pixels.
    pub data_sha256: String,
    /// What they are to the generator.
    pub real_images: RealImages,
    /// Real images in the reference.
    pub n_real: usize,
    /// Generated images a draw.
    pub n_generated: usize,
    /// The draws' seeds; empty for images that were there.
    pub seeds: Vec<u64>,
    /// The seed of the choice of real images and of the kernel distance's subsets.
    pub choice_seed: u64,
    /// The kernel distance's subsets, and vectors in each.
    pub kernel_subsets: [usize; 2],
    /// The neighbour that gives precision's and recall's balls their radius.
    pub neighbour: usize,
    /// The same for density and coverage.
    pub density_neighbour: usize,
    /// What latents were truncated to, if they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<f64>,
    /// Averaged or raw weights, where that is known.
    pub weights: Option<&'static str>,
    /// Images the generator was trained on, where that is known.
    pub images_seen: Option<u64>,
    /// SHA-256 of the generator's file or weights, or over the pixels.
    pub subject_sha256: String,
    /// This program's version.
    pub ganforge: &'static str,
    /// The version of onnxruntime, which computed the features.
    pub onnxruntime: String,
}

/// The feature model in a protocol.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeatureProtocol {
    /// Its name.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// Values a vector.
    pub dim: usize,
    /// Height and width of its input.
    pub size: usize,
    /// Channels of its input.
    pub channels: usize,
    /// The value range of its input.
    pub range: InputRange,
    /// What it says of itself, if this project made it.
    pub about: Option<About>,
}

impl Statistic {
    pub(super) fn of(draws: Vec<f64>) -> Self {
        let n = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / n;
        let squares: f64 = draws.iter().map(|draw| (draw - mean) * (draw - mean)).sum();
        Self { mean, deviation: (draws.len() > 1).then(|| (squares / (n - 1.0)).sqrt()), draws }
    }
}

impl fmt::Display for EvaluationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Protocol { features, n_real, n_generated, data, .. } = &self.protocol;
        let draws = self.frechet.draws.len();
        writeln!(
            f,
            "{}: {draws} × {n_generated} images against {n_real} of {data}, by {} ({} values)",
            self.subject, features.name, features.dim
        )?;
        writeln!(f, "{:<18}{:>12}{:>12}{:>16}", "", "mean", "deviation", "real and real")?;
        if let Some(RealAgainstReal { n, .. }) = self.real_against_real.filter(|real| real.n < *n_real) {
            writeln!(f, "{:>58}", format!("of {n} images only"))?;
        }
        let real = self.real_against_real.map(|real| real.scores);
        let rows = [
            ("Fréchet distance", &self.frechet, real.map(|real| real.frechet)),
            ("kernel distance", &self.kernel_distance, real.map(|real| real.kernel_distance)),
            ("precision", &self.precision, real.map(|real| real.precision)),
            ("recall", &self.recall, real.map(|real| real.recall)),
            ("density", &self.density, real.map(|real| real.density)),
            ("coverage", &self.coverage, real.map(|real| real.coverage)),
            ("exact duplicates", &self.duplicates, None),
        ];
        for (name, score, real) in rows {
            let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
            writeln!(f, "{name:<18}{:>12.4}{:>12}{:>16}", score.mean, number(score.deviation), number(real))?;
        }
        if let Some(nearest) = &self.nearest {
            let real = |medians: Medians| medians.real.map_or(String::new(), |real| format!(" (real images: {real:.2})"));
            writeln!(
                f,
                "nearest of {} real images, median of {} samples: {:.2}{} by features, {:.2}{} by pixels; {} exact copies",
                nearest.among,
                nearest.samples,
                nearest.by_features.generated,
                real(nearest.by_features),
                nearest.by_pixels.generated,
                real(nearest.by_pixels),
                nearest.exact_copies
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        write!(f, "Comparable only with scores of the same protocol.")
    }
}

/// Why some scores say less than they seem to: of images that are all alike, precision tells nothing.
pub(super) fn warnings(duplicates: &Statistic, coverage: &Statistic, n: usize, real: Option<&RealAgainstReal>) -> Vec<String> {
    /// This share of copies is no accident.
    const COPIES: f64 = 0.1;
    /// Below this part of what real images cover, the generated ones are of few kinds, or of another kind.
    const COVERED: f64 = 0.25;
    let mut warnings = Vec::new();
    if duplicates.mean > COPIES {
        warnings.push(format!("{:.0} % of the images are copies of others of them", 100.0 * duplicates.mean));
    }
    // A few images cover few others, whatever they are.
    let most = real.filter(|real| real.n >= n).map(|real| real.scores.coverage);
    if coverage.mean < COVERED * most.unwrap_or(1.0) {
        let others = most.map_or(String::new(), |most| format!(", where of other real ones {:.0} % have", 100.0 * most));
        warnings.push(format!(
            "only {:.1} % of the real images have a generated one near by{others}: the generated ones are of few kinds, or of \
             another. Precision says nothing of such images",
            100.0 * coverage.mean,
        ));
    }
    warnings
}
