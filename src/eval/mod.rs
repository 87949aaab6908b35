//! How good generated images are: distances between the features of generated and of real images, and whether the generator
//! memorised its training images.
//!
//! A score means something only beside its protocol: the feature model, the number of images and the way they were resized
//! change it. So [`EvaluationReport`] holds all of that, and the scores of real images against other real ones, which no generator can
//! be expected to better. Scores under different protocols must not be compared.

mod about;
pub mod features;
pub mod frechet;
mod judge;
pub mod kid;
pub mod learn;
pub mod neighbours;
pub mod precision_recall;
mod real;
mod report;
mod select;
pub mod typical;
mod vectors;

use candle_core::{Device, Tensor};

use crate::contract::Weights;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::image::Images;
use crate::infer::{Conditioning, Generator, runtime};
use crate::latent::Truncation;
use crate::nn::cpu::on_pool;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::train::{self, Trained};

pub use features::{About, FeatureModel, Features, InputRange};
use frechet::{Gaussian, Reference};
pub use judge::FrechetJudge;
use precision_recall::Manifold;
pub use real::{Real, RealImages};
pub use report::{EvaluationReport, FeatureProtocol, Medians, NearestReport, Protocol, RealAgainstReal, Scores, Statistic};
pub use select::{Destination, Selected, select};

/// Generated images a draw, and real ones, where nobody asks for another number and the data have twice as many.
pub const DEFAULT_N: usize = 5000;
/// Draws where nobody asks for another number.
pub const DEFAULT_DRAWS: usize = 3;
/// The fewest images of each kind: with fewer, precision and recall have no third neighbour to speak of.
pub const LEAST: usize = 8;
/// Generated images whose nearest training images are searched for.
pub const SEARCHED: usize = 500;
/// Samples on the sheet of neighbours.
const SHOWN: usize = 32;

/// What is judged.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// An ONNX file of a generator; draw k takes seed k.
    Generator(&'a Generator),
    /// A run's generator, computed by candle; draw k takes seed k.
    Trained(&'a Trained),
    /// Images that are there; draws are disjoint parts of them, chosen at random.
    Images(&'a Dataset),
}

/// What is judged, against what, and how.
#[derive(Clone, Copy)]
pub struct EvaluationJob<'a> {
    /// What is judged.
    pub subject: Subject<'a>,
    /// Its name in the report.
    pub name: &'a str,
    /// SHA-256 of the file, the weights or the pixels it comes from.
    pub sha256: &'a str,
    /// Real images, of the size and channels that the subject makes.
    pub data: &'a Dataset,
    /// Which of them, and what they are to the subject.
    pub real: (RealImages, &'a [u32]),
    /// Images a draw, and real ones; `None` for [`DEFAULT_N`] or what there is.
    pub n: Option<usize>,
    /// How many draws.
    pub draws: usize,
    /// Whether to search the real images for the nearest to generated ones: takes the features of all of them.
    pub neighbours: bool,
}

/// Choice of real images and of subsets: the same in every evaluation.
const CHOICE_SEED: u64 = 0;
/// Apart from the subsets', which count from 0.
const CHOICE: u64 = 1 << 32;

/// `n` of some numbers, or all, at random: always the same, in the same order.
pub(crate) fn chosen(numbers: &[u32], n: usize) -> Vec<u32> {
    let order = Stream::at(CHOICE_SEED, Purpose::Evaluation, CHOICE).permutation(numbers.len() as u32);
    order.into_iter().take(n).map(|at| numbers[at as usize]).collect()
}

/// Judges a generator, or images. Beside the report, a sheet of the generated images that come nearest to real ones if these
/// were searched: each with its neighbours by features and by pixels. It shows real images: it is for the owner of the data.
///
/// # Errors
/// When there are too few images, generated and real images differ in form, or a model fails.
pub fn evaluate(
    job: &EvaluationJob,
    model: &FeatureModel,
    progress: &dyn Progress,
) -> Result<(EvaluationReport, Option<Images>)> {
    Bar::new(job, model, progress)?.judge(job, None, model, progress)
}

/// Judges a generator once for each of some truncations of its latents (`None` for none), against the same real images, which are not
/// searched for neighbours.
///
/// # Errors
/// As [`evaluate`]; and when the subject has no latents, or they cannot be truncated so.
pub fn compare_truncations(
    job: &EvaluationJob,
    bounds: &[Option<f64>],
    model: &FeatureModel,
    progress: &dyn Progress,
) -> Result<Vec<EvaluationReport>> {
    let job = &EvaluationJob { neighbours: false, ..*job };
    let bounds: Vec<Option<Truncation>> = bounds.iter().map(|bound| job.subject.truncation(*bound)).collect::<Result<_>>()?;
    let bar = Bar::new(job, model, progress)?;
    bounds.into_iter().map(|bound| bar.judge(job, bound, model, progress).map(|(report, _)| report)).collect()
}

/// How many images each draw and the reference have.
fn images_a_draw(job: &EvaluationJob, real: usize) -> Result<usize> {
    let generated = match job.subject {
        Subject::Images(images) => images.len / job.draws.max(1),
        _ => usize::MAX,
    };
    let most = real.min(generated);
    let n = job.n.unwrap_or_else(|| DEFAULT_N.min(real / 2).min(generated));
    let what = if job.draws == 0 {
        "0 draws".to_string()
    } else if n > most {
        let others = if generated == usize::MAX { String::new() } else { format!(" and {generated} others a draw") };
        format!("{n} images a draw, but there are {real} real ones{others}")
    } else if n < LEAST {
        format!("{n} images a draw are too few to compare: at least {LEAST} are needed, and thousands mean something")
    } else {
        return Ok(n);
    };
    Err(Error::usage(what, "Give more images, or choose another `EvaluationJob::n`, or other `EvaluationJob::draws`."))
}

impl Subject<'_> {
    /// The images of a draw.
    fn draw(
        &self,
        draw: usize,
        n: usize,
        draws: usize,
        truncation: Option<Truncation>,
        progress: &dyn Progress,
    ) -> Result<Images> {
        /// Images made at a time.
        const PART: usize = 64;
        let seed = draw as u64;
        let conditioning = Conditioning { truncation, ..Conditioning::default() };
        let make = |start: usize, count: usize| match self {
            Self::Generator(generator) => generator.sample_with(&conditioning, seed, start as u64, count),
            Self::Trained(trained) => {
                let latent = trained.config.latent;
                let mut latents = latent.rows(seed, start as u64, count);
                if let Some(truncation) = truncation {
                    truncation.apply(latent.distribution, &mut latents);
                }
                let latents = Tensor::from_vec(latents, (count, latent.size), &Device::Cpu)?;
                on_pool(|| train::sample(&trained.generator, &trained.config, &latents))
            }
            Self::Images(images) => {
                let order = Stream::at(CHOICE_SEED, Purpose::Evaluation, CHOICE + draws as u64).permutation(images.len as u32);
                let first = draw * n + start;
                Ok(images.images(&order[first..first + count]))
            }
        };
        let mut all = Images { n: 0, height: 0, width: 0, channels: 0, pixels: Vec::new() };
        progress.begin(&format!("images of draw {}", draw + 1), n as u64);
        for start in (0..n).step_by(PART) {
            let images = make(start, PART.min(n - start))?;
            let mut pixels = std::mem::take(&mut all.pixels);
            pixels.extend_from_slice(&images.pixels);
            all = Images { n: all.n + images.n, pixels, ..images };
            progress.update(all.n as u64, "");
        }
        progress.end();
        Ok(all)
    }

    /// A truncation of its latents.
    fn truncation(&self, bound: Option<f64>) -> Result<Option<Truncation>> {
        let Some(bound) = bound else { return Ok(None) };
        let latent = match self {
            Self::Generator(generator) => generator.latent(),
            Self::Trained(trained) => trained.config.latent,
            Self::Images(_) => {
                return Err(Error::usage(
                    "`Conditioning::truncation` of images that are there",
                    "Judge the generator that made them.",
                ));
            }
        };
        Truncation::new(bound, latent.distribution).map(Some)
    }

    fn weights(&self) -> Option<Weights> {
        match self {
            Self::Generator(generator) => Some(generator.contract()?.weights),
            Self::Trained(trained) => Some(trained.weights),
            Self::Images(_) => None,
        }
    }

    fn images_seen(&self) -> Option<u64> {
        match self {
            Self::Generator(generator) => Some(generator.contract()?.images_seen),
            Self::Trained(trained) => Some(trained.state.images),
            Self::Images(_) => None,
        }
    }
}

/// What generated images are held against: real ones, with what is computed of them once.
struct Bar {
    /// Images a draw, and in the reference.
    n: usize,
    /// The real images, in a random order: the first `n` are the reference, the next `others` are judged against it.
    order: Vec<u32>,
    others: usize,
    /// Of those two, or of all if they are searched.
    real: Features,
    reference: Reference,
    manifold: Manifold,
    neighbourhoods: Manifold,
    kernel: Features,
    real_against_real: Option<RealAgainstReal>,
}

impl Bar {
    fn new(job: &EvaluationJob, model: &FeatureModel, progress: &dyn Progress) -> Result<Self> {
        let pool = job.real.1;
        let n = images_a_draw(job, pool.len())?;
        let order = chosen(pool, pool.len());
        let others = order.len().min(2 * n) - n;
        let looked_at = if job.neighbours { order.len() } else { n + others };
        let part = |range: std::ops::Range<usize>| job.data.images(&order[range]);
        let real = model.extract_parts(looked_at, part, "features of real images", progress)?;
        let kernel = real.select(&numbers(0..n));
        let reference = Reference::new(Gaussian::of(&kernel)?)?;
        let manifold = Manifold::new(&kernel, precision_recall::NEIGHBOUR)?;
        let neighbourhoods = Manifold::new(&kernel, precision_recall::DENSITY_NEIGHBOUR)?;
        let mut bar = Self { n, order, others, real, reference, manifold, neighbourhoods, kernel, real_against_real: None };
        if others >= LEAST {
            let scores = bar.score(&bar.real.select(&numbers(n..n + others)))?;
            bar.real_against_real = Some(RealAgainstReal { n: others, scores });
        }
        Ok(bar)
    }

    fn score(&self, features: &Features) -> Result<Scores> {
        let manifold = Manifold::new(features, precision_recall::NEIGHBOUR)?;
        let [density, coverage] = self.neighbourhoods.density_and_coverage(&manifold)?;
        Ok(Scores {
            frechet: self.reference.distance(&Gaussian::of(features)?)?,
            kernel_distance: kid::kernel_distance(&self.kernel, features, kid::SUBSETS, kid::SUBSET, CHOICE_SEED)?,
            precision: self.manifold.coverage(&manifold)?,
            recall: manifold.coverage(&self.manifold)?,
            density,
            coverage,
        })
    }

    fn judge(
        &self,
        job: &EvaluationJob,
        truncation: Option<Truncation>,
        model: &FeatureModel,
        progress: &dyn Progress,
    ) -> Result<(EvaluationReport, Option<Images>)> {
        let (mut scores, mut duplicates, mut nearest, mut preparation) = (Vec::new(), Vec::new(), None, String::new());
        for draw in 0..job.draws {
            let images = job.subject.draw(draw, self.n, job.draws, truncation, progress)?;
            if [images.height, images.width, images.channels] != [job.data.size, job.data.size, job.data.channels] {
                let what = format!("{} makes images of {}×{}×{}", job.name, images.height, images.width, images.channels);
                return Err(Error::usage(what, "The data must be loaded in that form; only square images are judged."));
            }
            preparation = model.preparation(&images);
            let part = |range: std::ops::Range<usize>| images.part(range);
            let features = model.extract_parts(images.n, part, "features of generated images", progress)?;
            scores.push(self.score(&features)?);
            duplicates.push(neighbours::duplicates(&images) as f64 / images.n as f64);
            if draw == 0 && job.neighbours {
                let count = images.n.min(SEARCHED);
                let generated = (images.part(0..count), features.select(&numbers(0..count)));
                let others = self.n..self.n + self.others.min(SEARCHED);
                nearest = Some(search(&generated, job.data, &self.order, &self.real, others)?);
            }
        }
        let (nearest, sheet) = nearest.unzip();
        let score = |of: fn(&Scores) -> f64| Statistic::of(scores.iter().map(of).collect());
        let (duplicates, coverage) = (Statistic::of(duplicates), score(|scores| scores.coverage));
        let report = EvaluationReport {
            subject: job.name.to_string(),
            frechet: score(|scores| scores.frechet),
            kernel_distance: score(|scores| scores.kernel_distance),
            precision: score(|scores| scores.precision),
            recall: score(|scores| scores.recall),
            density: score(|scores| scores.density),
            warnings: report::warnings(&duplicates, &coverage, self.n, self.real_against_real.as_ref()),
            coverage,
            duplicates,
            real_against_real: self.real_against_real,
            nearest,
            protocol: self.protocol(job, truncation, model, preparation)?,
        };
        Ok((report, sheet))
    }

    fn protocol(
        &self,
        job: &EvaluationJob,
        truncation: Option<Truncation>,
        model: &FeatureModel,
        preparation: String,
    ) -> Result<Protocol> {
        Ok(Protocol {
            features: FeatureProtocol {
                name: model.name().to_string(),
                sha256: model.sha256().to_string(),
                dim: model.dim(),
                size: model.size(),
                channels: model.channels(),
                range: model.range(),
                about: model.about().cloned(),
            },
            image: [job.data.size, job.data.size, job.data.channels],
            preparation,
            data: job.data.name.clone(),
            data_sha256: job.data.sha256.clone(),
            real_images: job.real.0,
            n_real: self.n,
            n_generated: self.n,
            seeds: if matches!(job.subject, Subject::Images(_)) { Vec::new() } else { (0..job.draws as u64).collect() },
            choice_seed: CHOICE_SEED,
            kernel_subsets: [if self.n > kid::SUBSET { kid::SUBSETS } else { 1 }, kid::SUBSET.min(self.n)],
            neighbour: precision_recall::NEIGHBOUR,
            density_neighbour: precision_recall::DENSITY_NEIGHBOUR,
            truncation: truncation.map(Truncation::bound),
            weights: job.subject.weights().map(Weights::name),
            images_seen: job.subject.images_seen(),
            subject_sha256: job.sha256.to_string(),
            ganforge: env!("CARGO_PKG_VERSION"),
            onnxruntime: runtime::load()?.version.clone(),
        })
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<u32> {
    range.map(|number| number as u32).collect()
}

/// Neighbours of generated images, and for comparison of the real images in `others` (places in `order`), among all of `order`.
fn search(
    generated: &(Images, Features),
    data: &Dataset,
    order: &[u32],
    real: &Features,
    others: std::ops::Range<usize>,
) -> Result<(NearestReport, Images)> {
    let (images, features) = generated;
    let by_features = neighbours::by_features(features, real, None)?;
    let by_pixels = neighbours::by_pixels(images, data, order, None)?;
    let (mut of_features, mut of_pixels) = (None, None);
    if !others.is_empty() {
        let own: Vec<u32> = others.clone().map(|place| place as u32).collect();
        of_features = Some(median(&neighbours::by_features(&real.select(&own), real, Some(&own))?));
        of_pixels = Some(median(&neighbours::by_pixels(&data.images(&order[others]), data, order, Some(&own))?));
    }
    let report = NearestReport {
        samples: images.n,
        among: order.len(),
        exact_copies: by_pixels.iter().filter(|nearest| nearest.distance == 0.0).count(),
        by_features: Medians { generated: median(&by_features), real: of_features },
        by_pixels: Medians { generated: median(&by_pixels), real: of_pixels },
    };
    let mut nearest_first: Vec<usize> = (0..images.n).collect();
    nearest_first.sort_by(|&a, &b| by_pixels[a].distance.total_cmp(&by_pixels[b].distance));
    nearest_first.truncate(SHOWN);
    Ok((report, neighbours::triples(images, data, order, &nearest_first, &by_features, &by_pixels)))
}

fn median(nearest: &[neighbours::Nearest]) -> f64 {
    let mut distances: Vec<f64> = nearest.iter().map(|nearest| nearest.distance).collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(f64::NAN)
}
