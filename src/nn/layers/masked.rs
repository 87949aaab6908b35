//! What layers leave that multiply each value by a constant, or that have no way back.

use candle_core::Tensor;

use super::layer::{Traced, Wanted, failure};
use crate::error::{Error, Result};
use crate::nn::elementwise::multiply;
use crate::nn::in_place::InPlace;

/// Of a layer that multiplies each value by one of these. Its Jacobian is symmetric, and it has no second derivative.
pub(super) struct Masked(pub Tensor);

impl Masked {
    fn apply(&self, to: Tensor) -> Result<Tensor> {
        multiply(InPlace::of(&to), &self.0)?;
        Ok(to)
    }
}

impl Traced for Masked {
    fn vjp(self: Box<Self>, dy: Tensor, _: Wanted, _: bool) -> Result<(Tensor, Vec<Tensor>)> {
        Ok((self.apply(dy)?, Vec::new()))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.apply(dy)
    }

    fn jvp(&mut self, dx: Tensor, _: bool, _: Option<&Tensor>) -> Result<Tensor> {
        self.apply(dx)
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, _: bool) -> Result<Option<Tensor>> {
        adjoint.map(|adjoint| self.apply(adjoint)).transpose()
    }
}

/// Of a layer that computes something else outside training, with no way back; which one.
pub(super) struct Untraced(pub &'static str);

impl Untraced {
    fn error(&self) -> Error {
        failure(format!("{} was not traced in training", self.0))
    }
}

impl Traced for Untraced {
    fn vjp(self: Box<Self>, _: Tensor, _: Wanted, _: bool) -> Result<(Tensor, Vec<Tensor>)> {
        Err(self.error())
    }

    fn vjp_to_input(&mut self, _: Tensor) -> Result<Tensor> {
        Err(self.error())
    }

    fn jvp(&mut self, _: Tensor, _: bool, _: Option<&Tensor>) -> Result<Tensor> {
        Err(self.error())
    }

    fn second_order(&mut self, _: Option<Tensor>, _: bool) -> Result<Option<Tensor>> {
        Err(self.error())
    }
}
