//! What batch and layer normalisation have in common: their ways back, with an activation behind them.

use candle_core::Tensor;

use super::layer::{Fused, Traced, Wanted, failure};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::in_place::InPlace;
use crate::nn::norm::Normalised;
use crate::nn::update::lerp;

/// A normalisation in one pass.
pub(super) struct TracedNorm {
    x: Tensor,
    gain: Tensor,
    made: Normalised,
    fused: Fused,
    /// The gradient before the activation, with its sums.
    dz: Option<(Tensor, [Tensor; 2])>,
    /// The change that it was given, with its sums.
    change: Option<(Tensor, [Tensor; 2])>,
    /// To gain and offset.
    gradients: Vec<Tensor>,
}

impl TracedNorm {
    pub fn new(x: &Tensor, gain: Tensor, made: Normalised, act: Activation) -> Self {
        let fused = Fused::new(act, made.y());
        Self { x: x.clone(), gain, made, fused, dz: None, change: None, gradients: Vec::new() }
    }
}

impl Traced for TracedNorm {
    fn vjp(self: Box<Self>, dy: Tensor, wanted: Wanted, _: bool) -> Result<(Tensor, Vec<Tensor>)> {
        // The activation is taken back in the same pass over memory.
        let moved = self.made.vjp(&self.x, &self.gain, self.fused.act, dy)?;
        let gradients = match wanted {
            Wanted::Parameters => moved.parameters()?.to_vec(),
            Wanted::Input => Vec::new(),
        };
        Ok((moved.g, gradients))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.fused.vjp(&dy)?;
        let dz = dy.copy()?;
        let moved = self.made.vjp(&self.x, &self.gain, Activation::None, dy)?;
        self.dz = Some((dz, moved.sums));
        Ok(moved.g)
    }

    fn jvp(&mut self, dx: Tensor, _: bool, also: Option<&Tensor>) -> Result<Tensor> {
        let moved = self.made.jvp(&self.x, &self.gain, &dx)?;
        self.change = Some((dx, moved.sums));
        let (dz, _) = self.dz.as_ref().ok_or_else(|| failure("a norm has no gradient yet"))?;
        self.gradients = match also {
            Some(shares) => {
                let n = shares.elem_count();
                let shared = dz.reshape((n, ()))?.broadcast_mul(&shares.reshape((n, 1))?)?.reshape(dz.shape())?;
                self.made.vjp(&self.x, &self.gain, Activation::None, shared)?.parameters()?.to_vec()
            }
            None => Vec::new(),
        };
        self.fused.jvp(&moved.g, dz)?;
        Ok(moved.g)
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, _: bool) -> Result<Option<Tensor>> {
        let adjoint = self.fused.second_order(adjoint)?;
        let (Some((a, a_sums)), Some((b, b_sums))) = (&self.dz, &self.change) else {
            return Err(failure("a norm has not been through the passes before this one"));
        };
        let [dx, gain, offset] = self.made.second_order(&self.x, &self.gain, (a, a_sums), (b, b_sums), adjoint.as_ref())?;
        for (sum, of_values) in [&gain, &offset].into_iter().zip(&self.gradients) {
            lerp(&[(InPlace::of(sum), of_values)], 1.0, 1.0)?;
        }
        self.gradients = vec![gain, offset];
        Ok(Some(dx))
    }

    fn take_gradients(&mut self) -> Vec<Tensor> {
        std::mem::take(&mut self.gradients)
    }
}
