//! The losses of critic and generator, from the critic's raw scores (logits) of real and generated images.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub use crate::nn::scores::Graded;
use crate::nn::scores::{Player, Term, grade};
use crate::nn::upload::{Values, upload};
use crate::optim::is_positive;

/// How a batch of losses becomes one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// The mean over the batch.
    #[default]
    Mean,
    /// The sum over the batch.
    Sum,
}

/// The losses of critic and generator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LossConfig {
    /// Binary cross-entropy with logits; the generator's is the non-saturating one (arXiv 1406.2661).
    Bce {
        /// Over the batch.
        #[serde(default)]
        reduction: Reduction,
        /// Factor on the critic's loss (real + fake): 1, or ½ in the d2l book's form.
        #[serde(default = "one")]
        critic_scale: f64,
    },
    /// Least squares with a = 0, b = c = 1 (arXiv 1611.04076).
    Lsgan,
    /// Wasserstein (arXiv 1701.07875): with weight clipping, a gradient penalty (WGAN-GP) or spectral normalisation.
    Wgan {
        /// Every trainable parameter of the critic is clamped to [-clip, clip] before each critic step, as in the authors' code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip: Option<f64>,
        /// Over the batch.
        #[serde(default)]
        reduction: Reduction,
    },
    /// The hinge loss of spectrally normalised GANs (arXiv 1802.05957, eq. 16 and 17).
    Hinge,
    /// Cross-entropy of whether a real image scores higher than the generated one it is paired with (arXiv 1807.00734): both
    /// players see both scores. It wants a penalty on the critic's slope, R1 for example (arXiv 2501.05441).
    Relativistic,
}

fn one() -> f64 {
    1.0
}

impl LossConfig {
    /// The name used in configs and metadata.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bce { .. } => "bce",
            Self::Lsgan => "lsgan",
            Self::Wgan { .. } => "wgan",
            Self::Hinge => "hinge",
            Self::Relativistic => "relativistic",
        }
    }
}

impl LossConfig {
    /// What a critic learns the direction of its last layer's kernel by where it learns that apart, whatever its loss (SAN, arXiv
    /// 2301.12811): the Wasserstein loss, under which two distributions differ most along that direction. A direction needs no bound.
    pub(crate) const OF_DIRECTIONS: Self = Self::Wgan { clip: None, reduction: Reduction::Mean };

    /// What must hold of its constants; `bounded` says whether anything else than the loss bounds the critic's slope.
    pub(crate) fn check(&self, bounded: bool) -> Result<(), &'static str> {
        match *self {
            Self::Wgan { clip: Some(clip), .. } if !is_positive(clip) => Err("loss.clip must be above 0"),
            Self::Wgan { clip: None, .. } if !bounded => {
                Err("the wgan loss needs loss.clip, a penalty or critic.norm = \"spectral\": nothing else bounds the critic")
            }
            Self::Bce { critic_scale, .. } if !is_positive(critic_scale) => Err("loss.critic_scale must be above 0"),
            Self::Bce { .. } | Self::Lsgan | Self::Wgan { .. } | Self::Hinge | Self::Relativistic => Ok(()),
        }
    }

    /// Whether the generator's loss is made of real images' scores, too.
    pub fn pairs_scores(&self) -> bool {
        match self {
            Self::Relativistic => true,
            Self::Bce { .. } | Self::Lsgan | Self::Wgan { .. } | Self::Hinge => false,
        }
    }

    /// What the critic minimises, with its gradients to the scores of as many real as generated images.
    ///
    /// - BCE: `scale · (reduce softplus(−D(x)) + reduce softplus(D(G(z))))`, that is cross-entropy against 1 and 0 (arXiv 1406.2661, eq. 1)
    /// - LSGAN: `½ mean (D(x) − 1)² + ½ mean D(G(z))²` (arXiv 1611.04076, eq. 2 with a = 0, b = c = 1)
    /// - WGAN: `reduce D(G(z)) − reduce D(x)` (arXiv 1701.07875, algorithm 1)
    /// - hinge: `mean max(0, 1 − D(x)) + mean max(0, 1 + D(G(z)))` (arXiv 1802.05957, eq. 16)
    /// - relativistic: `mean softplus(−(D(x) − D(G(z))))`, image by image (arXiv 1807.00734, section 4.1)
    ///
    /// # Errors
    /// When the numbers of scores differ, or the device is out of memory.
    pub fn critic(&self, real: &Tensor, fake: &Tensor) -> Result<Graded> {
        let scale = if let Self::Bce { critic_scale, .. } = *self { critic_scale } else { 1.0 };
        Ok(grade(self.term(), Player::Critic, scale * self.share(fake), Some(real), fake)?)
    }

    /// What the generator minimises, with its gradient to the scores of its images; with [`Self::pairs_scores`] from scores of as many real
    /// images, else without.
    ///
    /// - BCE: `reduce softplus(−D(G(z)))`, the non-saturating form
    /// - LSGAN: `½ mean (D(G(z)) − 1)²`
    /// - WGAN: `−reduce D(G(z))`
    /// - hinge: `−mean D(G(z))` (eq. 17)
    /// - relativistic: `mean softplus(−(D(G(z)) − D(x)))`
    ///
    /// # Errors
    /// When there are no real scores, though the loss pairs them, or not as many, or the device is out of memory.
    pub fn generator(&self, real: Option<&Tensor>, fake: &Tensor) -> Result<Graded> {
        let real = real.filter(|_| self.pairs_scores());
        if self.pairs_scores() && real.is_none() {
            let what = format!("the generator's {} loss without scores of real images", self.name());
            return Err(Error::usage(what, "Give the generator's step a batch of real images."));
        }
        Ok(grade(self.term(), Player::Generator, self.share(fake), real, fake)?)
    }

    /// What a pair of scores adds.
    fn term(&self) -> Term {
        match self {
            Self::Bce { .. } => Term::Bce,
            Self::Lsgan => Term::Squares,
            Self::Wgan { .. } => Term::Difference,
            Self::Hinge => Term::Hinge,
            Self::Relativistic => Term::Relativistic,
        }
    }

    /// The part that a score has in the loss of its batch.
    fn share(&self, scores: &Tensor) -> f64 {
        match *self {
            Self::Bce { reduction: Reduction::Sum, .. } | Self::Wgan { reduction: Reduction::Sum, .. } => 1.0,
            _ => 1.0 / scores.elem_count().max(1) as f64,
        }
    }
}

/// Which of the scores `[n]` are the highest: a share of them, at least one; none where all are. The others get no gradient (arXiv
/// 2002.06224, section 3).
///
/// # Errors
/// When the device is out of memory.
pub(crate) fn top_k(scores: &Tensor, share: f64) -> Result<Option<Tensor>> {
    let n = scores.dim(0)?;
    // 0.55 · 100 is a little more than 55 in floating point.
    let kept = ((share * n as f64 - 1e-9).ceil() as usize).clamp(1, n);
    if kept == n {
        return Ok(None);
    }
    let values = scores.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let mut order: Vec<u32> = (0..n as u32).collect();
    // NaN stays, to be seen.
    let score = |index: u32| Some(values[index as usize]).filter(|score| !score.is_nan()).unwrap_or(f64::INFINITY);
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    order.truncate(kept);
    Ok(Some(upload(Values::U32(order), kept, scores.device())?))
}
