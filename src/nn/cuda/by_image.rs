//! Passes in which every image and channel has numbers of its own, on CUDA: candle's operations.

use candle_core::{Result, Tensor};

use super::elementwise::add_bias_activate;
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;

/// As `by_image::statistics`, of rows.
pub(in crate::nn) fn statistics(rows: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let mean = rows.mean_keepdim(1)?;
    let inverse = (rows.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?.recip()?;
    Ok([mean, inverse])
}

/// As `by_image::sums`.
pub(in crate::nn) fn sums(g: &Tensor, x: &Tensor, centre: &Tensor) -> Result<[Tensor; 2]> {
    let (n, c) = centre.dims2()?;
    let (g, x) = (g.reshape((n, (), c))?, x.reshape((n, (), c))?);
    let centred = x.broadcast_sub(&centre.unsqueeze(1)?)?;
    Ok([g.sum(1)?, (g * centred)?.sum(1)?])
}

/// As `by_image::combine`, with its factors spread to `[n, c]`.
pub(in crate::nn) fn combine(x: &Tensor, factors: &[Tensor; 3], terms: &[[Tensor; 2]], act: Activation) -> Result<Tensor> {
    let [centre, scale, shift] = factors;
    let (n, c) = centre.dims2()?;
    let along = |factor: &Tensor| factor.unsqueeze(1);
    let centred = x.reshape((n, (), c))?.broadcast_sub(&along(centre)?)?;
    let mut sum = centred.broadcast_mul(&along(scale)?)?.broadcast_add(&along(shift)?)?;
    for [g, factor] in terms {
        sum = (sum + g.reshape((n, (), c))?.broadcast_mul(&along(factor)?)?)?;
    }
    let y = sum.reshape(x.shape())?;
    if act != Activation::None {
        add_bias_activate(InPlace::of(&y), None, act)?;
    }
    Ok(y)
}
