//! What a normalisation is made of and leaves, as plain values.

use candle_core::Tensor;

use super::in_place::InPlace;

/// Added to every variance.
pub const EPS: f64 = 1e-5;
/// The weight of the newest batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// Running statistics by channel, each `[c]`, which a batch moves on: `r ← keep · r + take · statistic`.
#[derive(Clone, Copy)]
pub(crate) struct Running<'a> {
    /// Running mean.
    pub mean: InPlace<'a>,
    /// Running variance.
    pub var: InPlace<'a>,
    /// The weight of what was there.
    pub keep: f64,
    /// The weight of the batch's mean and of its biased variance.
    pub take: [f64; 2],
}

impl<'a> Running<'a> {
    /// Moved on by [`MOMENTUM`], the variance being made unbiased, for batches of so many values a channel.
    pub fn new(mean: InPlace<'a>, var: InPlace<'a>, count: usize) -> Self {
        // A batch of one value has no variance: 0 / max(0, 1) rather than 0 / 0.
        let unbiased = count as f64 / (count as f64 - 1.0).max(1.0);
        Self { mean, var, keep: 1.0 - MOMENTUM, take: [MOMENTUM, MOMENTUM * unbiased] }
    }
}

/// What batch normalisation makes of `x`, and the statistics of the batch by channel, each `[c]`.
pub struct BatchNormalised {
    /// `act((x − mean) / √(var + ε) · weight + bias)`, shaped as `x`.
    pub y: Tensor,
    /// Mean.
    pub mean: Tensor,
    /// Biased variance.
    pub var: Tensor,
}

/// Gradients of batch normalisation, to its three arguments.
pub struct BatchNormGradients {
    /// To `x`.
    pub x: Tensor,
    /// To the weight, `[c]`.
    pub weight: Tensor,
    /// To the bias, `[c]`.
    pub bias: Tensor,
}

/// What layer normalisation makes of `x`, and the statistics by image.
pub struct LayerNormalised {
    /// `act((x − mean) / √(var + ε) · weight + bias)`, shaped as `x`.
    pub y: Tensor,
    /// Mean, `[n, 1]`.
    pub mean: Tensor,
    /// `1 / √(var + ε)` with the biased variance, `[n, 1]`.
    pub inverse: Tensor,
}

/// `scale · (x − centre) + shift`; all but `x` are anything that broadcasts to `[n, c]`.
pub(super) struct Affine<'a> {
    pub x: &'a Tensor,
    pub centre: &'a Tensor,
    pub scale: &'a Tensor,
    pub shift: &'a Tensor,
}
