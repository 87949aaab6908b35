//! Slicing adversarial networks (SAN, arXiv 2301.12811): the kernels w of the layer that makes a critic's scores, as a length and a
//! direction ω = w/‖w‖ for each output, which learn by two losses.
//!
//! As in the authors' code (github.com/sony/san, simple-san/models/discriminator.py) a score is `‖w‖·⟨ω, h⟩` for features h, which is ⟨w, h⟩:
//! what is computed is no other than without SAN, and the length stays a scale that the critic's own loss teaches. Only on the way back the
//! direction counts as constant for that loss, and learns by another, for which the features and the length are.

use candle_core::{D, Result, Tensor};

/// The least norm that kernels are divided by.
const EPS: f64 = 1e-12;

/// The gradient to kernels `[out, …]` whose lengths learn by one loss and directions by another, if there is one, of the gradients `by_length` and
/// `by_direction` that these losses have to the kernels as a whole: `ω⟨ω, A⟩ + (B − ω⟨ω, B⟩)`, output by output.
///
/// The first is the chain rule of `‖w‖·⟨ω, h⟩` through `‖w‖` alone, whose derivative is ω; the second through ω alone, whose derivative
/// is `(1 − ωωᵀ)/‖w‖`, where the length that the features are multiplied by takes out what it is divided by.
pub(super) fn apart(kernels: &Tensor, by_length: &Tensor, by_direction: Option<&Tensor>) -> Result<Tensor> {
    let rows = kernels.flatten_from(1)?;
    let lengths = rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(EPS)?;
    let directions = rows.broadcast_div(&lengths)?;
    let along = |gradient: &Tensor| {
        let share = (gradient.flatten_from(1)? * &directions)?.sum_keepdim(D::Minus1)?;
        directions.broadcast_mul(&share)?.reshape(kernels.shape())
    };
    match by_direction {
        Some(by_direction) => by_direction + along(&(by_length - by_direction)?)?,
        None => along(by_length),
    }
}
