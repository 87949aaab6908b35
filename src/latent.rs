//! (seed, index) → z. Nothing else makes latents, so training samples, sampling jobs and every shard agree on image `index`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

/// The distribution of one latent component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// N(0, 1).
    Normal,
    /// U(-1, 1).
    Uniform,
}

impl Distribution {
    /// The name used in configs and in the metadata of an exported generator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Uniform => "uniform",
        }
    }
}

/// The latent space of a generator: `size` independent components of one distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// The number of components, at least 1.
    pub size: usize,
    /// The distribution of each.
    #[serde(rename = "law")]
    pub distribution: Distribution,
}

impl Latent {
    /// The latent `t` of the way from `a` (0) to `b` (1). Normal ones lie near a sphere, on which the way goes along the great circle
    /// (arXiv 1609.04468): a straight line would pass nearer to 0 than latents ever are. Uniform ones lie on that line.
    ///
    /// # Errors
    /// When `a` or `b` does not hold [`Self::size`] finite values, or `t` is not finite.
    pub fn interpolate(&self, a: &[f32], b: &[f32], t: f32) -> Result<Vec<f32>> {
        let size = self.size;
        for (name, end) in [("a", a), ("b", b)] {
            if end.len() != size || !end.iter().all(|value| value.is_finite()) {
                let what = format!("`{name}`, {} values, is no latent: it has {size} finite ones", end.len());
                return Err(Error::usage(what, "Give one latent at either end."));
            }
        }
        if !t.is_finite() {
            return Err(Error::usage(format!("`t` {t} is no part of the way"), "Give a number from 0 to 1."));
        }
        let t = f64::from(t);
        let [from, to] = match self.distribution {
            Distribution::Normal => great_circle(a, b, t),
            Distribution::Uniform => [1.0 - t, t],
        };
        Ok(a.iter().zip(b).map(|(&a, &b)| (from * f64::from(a) + to * f64::from(b)) as f32).collect())
    }

    /// Writes the latent at (seed, purpose, index) into `out`, which holds [`Self::size`] values.
    pub fn fill(&self, seed: u64, purpose: Purpose, index: u64, out: &mut [f32]) {
        let mut stream = Stream::at(seed, purpose, index);
        match self.distribution {
            Distribution::Normal => stream.fill_normal(0.0, 1.0, out),
            Distribution::Uniform => stream.fill_uniform(-1.0, 1.0, out),
        }
    }

    /// The latents of images `start..start + n` as one row-major `[n, size]` block.
    pub fn rows(&self, seed: u64, start: u64, n: usize) -> Vec<f32> {
        let mut rows = vec![0.0; n * self.size];
        self.fill_rows(seed, start, &mut rows);
        rows
    }

    /// The latents of images `start..` as in [`Self::rows`], as many as `rows` has room for.
    pub fn fill_rows(&self, seed: u64, start: u64, rows: &mut [f32]) {
        for (index, row) in (start..).zip(rows.chunks_mut(self.size.max(1))) {
            self.fill(seed, Purpose::Latent, index, row);
        }
    }
}

/// By what the ends are multiplied at `t` of the way between their directions. Where these are one, or opposite, no great circle is the
/// one between them, and it is the straight line.
fn great_circle(a: &[f32], b: &[f32], t: f64) -> [f64; 2] {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    let angle = libm::acos((dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0));
    let sine = libm::sin(angle);
    // NaN, of a latent that is 0, is not above it.
    if sine > 1e-6 { [libm::sin((1.0 - t) * angle) / sine, libm::sin(t * angle) / sine] } else { [1.0 - t, t] }
}

/// The truncation trick (arXiv 1809.11096, section 3.1): latents nearer to 0 give fewer odd images, and less variety.
///
/// Each component keeps its rank: the value at a quantile of the distribution becomes the value at the same quantile of the distribution
/// restricted to [−X, X]. So image `i` with X is image `i` without, made more ordinary, and changes smoothly with X.
/// - normal: `z' = Φ⁻¹(Φ(−X) + Φ(z) (1 − 2 Φ(−X)))`, with the distribution function Φ of N(0, 1); any X > 0
/// - uniform: `z' = X z`; 0 < X ≤ 1
#[cfg(feature = "infer")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation(f64);

#[cfg(feature = "infer")]
impl Truncation {
    /// Restricts latents of `distribution` to [−x, x].
    ///
    /// # Errors
    /// When `x` is not above 0, not finite, or above what the distribution reaches anyway.
    pub fn new(x: f64, distribution: Distribution) -> Result<Self> {
        if !(x.is_finite() && x > 0.0) {
            return Err(Error::usage(
                format!("`Conditioning::truncation` {x} leaves no latents"),
                "Choose a number above 0, for example 1.",
            ));
        }
        if distribution == Distribution::Uniform && x > 1.0 {
            let what =
                format!("`Conditioning::truncation` {x} is beyond this generator's latents, which are uniform in [-1, 1]");
            return Err(Error::usage(what, "Choose a number up to 1."));
        }
        Ok(Self(x))
    }

    /// By which factor the latents are shorter on the mean square: the root of what is left of their variance, 0 to 1. What
    /// a generator without a normalised input makes of its latents changes with their length, which was one and the same in training.
    pub fn shrinks(self, distribution: Distribution) -> f64 {
        use std::f64::consts::{PI, SQRT_2};
        match distribution {
            Distribution::Uniform => self.0,
            // 1 − 2 X φ(X) / (2 Φ(X) − 1), with the density φ of N(0, 1).
            Distribution::Normal => {
                let density = (-0.5 * self.0 * self.0).exp() / (2.0 * PI).sqrt();
                let inside = statrs::function::erf::erf(self.0 / SQRT_2);
                // For a small X the terms cancel; then the law between is all but uniform.
                let left = if self.0 < 1e-3 { self.0 * self.0 / 3.0 } else { 1.0 - 2.0 * self.0 * density / inside };
                left.max(0.0).sqrt()
            }
        }
    }

    /// What to know before it is used, where it does more harm than good: generators whose input is not normalised, as a DCGAN's is not, make
    /// washed-out images of latents much shorter than those they were trained on.
    pub fn warning(self, distribution: Distribution) -> Option<String> {
        /// From here on it hurts: measured with the built-in generators (models/README.md).
        const SHORT: f64 = 0.95;
        let factor = self.shrinks(distribution);
        (factor < SHORT).then(|| {
            format!(
                "truncated to ±{}, latents are {factor:.2} times as long as the generator was trained on: a DCGAN washes its images out and \
                 makes fewer kinds (models/README.md has a table of what that costs)",
                self.0
            )
        })
    }

    /// The bound X.
    pub fn bound(self) -> f64 {
        self.0
    }

    /// Truncates values of `distribution` in place.
    pub fn apply(self, distribution: Distribution, values: &mut [f32]) {
        use std::f64::consts::SQRT_2;

        use statrs::function::erf::{erf, erf_inv, erfc, erfc_inv};
        match distribution {
            Distribution::Uniform => values.iter_mut().for_each(|z| *z = (f64::from(*z) * self.0) as f32),
            Distribution::Normal => {
                // 1 − 2Φ(−x) = erf(x/√2). Near the middle and far out each has a form that keeps its digits.
                let bound = self.0 / SQRT_2;
                let (inside, outside) = (erf(bound), erfc(bound));
                for z in values {
                    let rank = f64::from(z.abs()) / SQRT_2;
                    let middle = erf(rank) * inside;
                    let truncated = if middle < 0.5 { erf_inv(middle) } else { erfc_inv(outside + erfc(rank) * inside) };
                    *z = (SQRT_2 * truncated).copysign(f64::from(*z)) as f32;
                }
            }
        }
    }
}
