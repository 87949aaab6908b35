//! Losses of a critic's scores with their gradients, in one pass: what a score, or a pair of them, adds and its derivatives.

use candle_core::{DType, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;

/// What a pair of scores adds to a loss, of a real image (r) and a generated one (f). `kernels.cu` has the same, numbered in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    /// `softplus(−r) + softplus(f)`; the generator's: `softplus(−f)`
    Bce,
    /// `½(r − 1)² + ½f²`; the generator's: `½(f − 1)²`
    Squares,
    /// `f − r`; the generator's: `−f`
    Difference,
    /// `max(0, 1 − r) + max(0, 1 + f)`; the generator's: `−f`
    Hinge,
    /// `softplus(f − r)`; the generator's: `softplus(r − f)`
    Relativistic,
}

/// Whose loss it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Player {
    Critic,
    Generator,
}

/// A loss and its gradient to each score.
pub struct Graded {
    /// The loss and the means of the real and of the generated scores, `[3]` in f64; without real scores their mean is 0.
    pub told: Tensor,
    /// The gradient to the real scores, `[n]`, where there are any.
    pub by_real: Option<Tensor>,
    /// That to the generated scores, `[n]`.
    pub by_fake: Tensor,
}

/// `factor · Σ term`, over as many real scores as generated ones; the generator's loss may do without real ones.
///
/// # Errors
/// When the numbers of scores differ, the type is neither f32 nor f64, or the device is out of memory.
pub(crate) fn grade(term: Term, player: Player, factor: f64, real: Option<&Tensor>, fake: &Tensor) -> Result<Graded> {
    let real = real.map(Tensor::flatten_all).transpose()?;
    let fake = fake.flatten_all()?;
    if let Some(real) = real.as_ref().filter(|real| real.dims() != fake.dims()) {
        candle_core::bail!("{} real scores beside {} generated ones", real.elem_count(), fake.elem_count());
    }
    on_device!(
        fake.device(),
        cpu: on_cpu(term, player, factor, real.as_ref(), &fake),
        cuda: cuda::scores::grade(term, player, factor, real.as_ref(), &fake)
    )
}

fn on_cpu(term: Term, player: Player, factor: f64, real: Option<&Tensor>, fake: &Tensor) -> Result<Graded> {
    let read = |scores: &Tensor| scores.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (of_real, of_fake) = (real.map(read).transpose()?, read(fake)?);
    let n = of_fake.len();
    let [mut sum, mut real_sum, mut fake_sum] = [0.0; 3];
    let (mut by_real, mut by_fake) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for (at, &f) in of_fake.iter().enumerate() {
        let r = of_real.as_ref().map_or(0.0, |real| real[at]);
        let [value, to_real, to_fake] = term.at(player, r, f);
        (sum, real_sum, fake_sum) = (sum + value, real_sum + r, fake_sum + f);
        by_real.push(factor * to_real);
        by_fake.push(factor * to_fake);
    }
    let as_scores = |values: Vec<f64>| Tensor::from_vec(values, n, fake.device())?.to_dtype(fake.dtype());
    let told = [factor * sum, real_sum / n as f64, fake_sum / n as f64];
    Ok(Graded {
        told: Tensor::new(&told, fake.device())?,
        by_real: real.map(|_| as_scores(by_real)).transpose()?,
        by_fake: as_scores(by_fake)?,
    })
}

impl Term {
    /// The value, and the derivatives to r and f. The value of what is not a number is none either, to be seen.
    fn at(self, player: Player, r: f64, f: f64) -> [f64; 3] {
        match (self, player) {
            (Self::Bce, Player::Critic) => [softplus(-r) + softplus(f), -sigmoid(-r), sigmoid(f)],
            (Self::Bce, Player::Generator) => [softplus(-f), 0.0, -sigmoid(-f)],
            (Self::Squares, Player::Critic) => [0.5 * ((r - 1.0) * (r - 1.0) + f * f), r - 1.0, f],
            (Self::Squares, Player::Generator) => [0.5 * (f - 1.0) * (f - 1.0), 0.0, f - 1.0],
            (Self::Difference, Player::Critic) => [f - r, -1.0, 1.0],
            (Self::Difference | Self::Hinge, Player::Generator) => [-f, 0.0, -1.0],
            (Self::Hinge, Player::Critic) => {
                let [above, below] = [1.0 - r, 1.0 + f];
                [rectified(above) + rectified(below), -slope(above), slope(below)]
            }
            (Self::Relativistic, Player::Critic) => [softplus(f - r), -sigmoid(f - r), sigmoid(f - r)],
            (Self::Relativistic, Player::Generator) => [softplus(r - f), sigmoid(r - f), -sigmoid(r - f)],
        }
    }
}

/// `ln(1 + eˣ)`, which neither overflows nor takes the logarithm of 0.
fn softplus(x: f64) -> f64 {
    rectified(x) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e⁻ˣ)`
fn sigmoid(x: f64) -> f64 {
    let small = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

/// `max(0, x)`; NaN stays, which `f64::max` would drop.
fn rectified(x: f64) -> f64 {
    if x <= 0.0 { 0.0 } else { x }
}

/// The derivative of that, 0 at 0.
fn slope(x: f64) -> f64 {
    if x > 0.0 { 1.0 } else { 0.0 }
}
