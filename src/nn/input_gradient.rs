//! Penalties on the gradient of a network to its input, with their gradients to the parameters.
//!
//! With `g = ∂ ΣD(x; θ) / ∂x` and a penalty `φ(g)`, `v = ∂φ/∂g` held constant, `∂φ/∂θ = ∂/∂θ ⟨v, g⟩`: the gradient of the change of
//! ΣD along v. Three passes follow the forward one: the gradients `dz` go back to the input; v is pushed forward through the
//! Jacobians, where each product meets its dz; and, from the last layer with a second derivative on, the gradients to
//! the values between the layers go back. Without norms and smooth activations there is nothing to go back: four passes' work
//! in all, and no tape.

use candle_core::Tensor;

use super::activation::{Activation, blend, multiply};
use super::network::{Extra, Layer, Network, Pass, Saved, failure};
use crate::error::Result;

/// A layer in the course of the passes: what the later ones need of the earlier.
struct Station<'a> {
    layer: &'a Layer,
    saved: Saved,
    /// The gradient before the activation, and a norm's sums of it.
    dz: Option<(Tensor, Option<[Tensor; 2]>)>,
    /// The change that a norm was given, with its sums.
    change: Option<(Tensor, [Tensor; 2])>,
    /// What the activation's second derivative adds to the gradient before it.
    bend: Option<Tensor>,
    /// To the layer's parameters.
    gradients: Vec<Tensor>,
}

impl Network {
    /// A loss on the network's gradient to its input. `penalty` is given `g = ∂ ΣD / ∂x`, shaped as `x`, and returns whatever it
    /// likes, with the loss's gradient to `g`. D is the network's output, each value times its `share` where these are given. The
    /// result: what it returned, and the loss's gradients to the parameters, in the order of [`Self::trainable`]; zeros where it
    /// does not depend on one.
    ///
    /// Everything in the pass is differentiated: also the batch's statistics, as PyTorch does. A training pass counts as one:
    /// running statistics and the vectors of spectral normalisation move on.
    ///
    /// # Errors
    /// When `x` has another shape than the network takes, a layer acts otherwise outside training (batch normalisation,
    /// dropout) and the pass is [`Pass::Eval`], what `penalty` returns, or the device is out of memory.
    pub fn input_gradient_penalty<P>(
        &self,
        x: &Tensor,
        share: Option<&Tensor>,
        pass: Pass,
        penalty: impl FnOnce(&Tensor) -> Result<(P, Tensor)>,
    ) -> Result<(P, Vec<Tensor>)> {
        let (y, trace) = self.forward_traced(x, pass)?;
        let mut stations: Vec<Station<'_>> = self.traced(trace).map(|(layer, saved)| Station::new(layer, saved)).collect();

        // Back to the input.
        let mut gradient = share.map_or_else(|| y.ones_like(), |share| share.reshape(y.shape())?.copy())?;
        for station in stations.iter_mut().rev() {
            gradient = station.pull(gradient)?;
        }
        let (value, v) = penalty(&gradient)?;
        if v.dims() != gradient.dims() {
            return Err(failure(format!("a penalty on a gradient of {:?} gave one of {:?}", gradient.dims(), v.dims())));
        }

        // v forward.
        let mut change = v.copy()?;
        let last = stations.len().saturating_sub(1);
        for (index, station) in stations.iter_mut().enumerate() {
            change = station.push(change, index < last)?;
        }

        // What that change owes to the values between the layers.
        let first = stations.iter().position(|station| station.layer.spec.learns()).unwrap_or(stations.len());
        let mut adjoint = None;
        for (index, station) in stations.iter_mut().enumerate().skip(first).rev() {
            adjoint = station.pull_second(adjoint, index > first)?;
        }
        Ok((value, stations.into_iter().flat_map(|station| station.gradients).collect()))
    }
}

impl<'a> Station<'a> {
    fn new(layer: &'a Layer, saved: Saved) -> Self {
        Self { layer, saved, dz: None, change: None, bend: None, gradients: Vec::new() }
    }

    /// dy → dx
    fn pull(&mut self, dy: Tensor) -> Result<Tensor> {
        let Saved { x, y, act, extra } = &self.saved;
        act.grad(y, &dy)?;
        if let Extra::Norm(made) = extra {
            let dz = dy.copy()?;
            let moved = made.pull(x, &self.layer.tensor(0)?, Activation::None, dy)?;
            self.dz = Some((dz, Some(moved.sums)));
            return Ok(moved.g);
        }
        self.dz = match extra {
            // Its gradient to the input is a new tensor.
            Extra::Product(_) => Some((dy.clone(), None)),
            _ if act.is_bent() => Some((dy.copy()?, None)),
            _ => None,
        };
        Ok(self.layer.pull(x, extra, dy, false, true)?.0)
    }

    /// ẋ → ẏ, which means nothing unless `needs_output`.
    fn push(&mut self, change: Tensor, needs_output: bool) -> Result<Tensor> {
        let Saved { x, y, act, extra } = &self.saved;
        let dz = self.dz.as_ref().map(|(dz, _)| dz);
        let change = match extra {
            Extra::Product(product) => {
                let dz = dz.ok_or_else(|| failure("a product has no gradient yet".to_string()))?;
                self.gradients = self.layer.product_gradients(product, &change, dz)?;
                // A change of the input does not see the bias.
                self.gradients.iter_mut().skip(1).try_for_each(|bias| bias.zeros_like().map(|zeros| *bias = zeros))?;
                if !needs_output && !act.is_bent() {
                    return Ok(change);
                }
                self.layer.apply(product, &change)?
            }
            Extra::Norm(made) => {
                let moved = made.push(x, &self.layer.tensor(0)?, &change)?;
                self.change = Some((change, moved.sums));
                moved.g
            }
            Extra::Mask(mask) => {
                multiply(&change, mask)?;
                change
            }
            Extra::Reshaped => self.layer.reshape(&change)?,
            Extra::Nothing | Extra::Untraced => change,
        };
        if let Some(dz) = dz {
            self.bend = act.bend(y, &change, dz)?;
        }
        act.grad(y, &change)?;
        Ok(change)
    }

    /// The gradient of ⟨v, g⟩ to y, if there is one, to that to x, which means nothing unless `needs_input`.
    fn pull_second(&mut self, adjoint: Option<Tensor>, needs_input: bool) -> Result<Option<Tensor>> {
        let Saved { x, y, act, extra } = &self.saved;
        let adjoint = match (adjoint, self.bend.take()) {
            (None, bend) => bend,
            (Some(adjoint), bend) => {
                act.grad(y, &adjoint)?;
                bend.iter().try_for_each(|bend| blend(&[(&adjoint, bend)], 1.0, 1.0))?;
                Some(adjoint)
            }
        };
        if let (Extra::Norm(made), Some((a, Some(a_sums))), Some((b, b_sums))) = (extra, &self.dz, &self.change) {
            let gain = self.layer.tensor(0)?;
            let [dx, weight, bias] = made.second_order(x, &gain, (a, a_sums), (b, b_sums), adjoint.as_ref())?;
            self.gradients = vec![weight, bias];
            return Ok(Some(dx));
        }
        let Some(adjoint) = adjoint else { return Ok(None) };
        let (dx, shares) = self.layer.pull(x, extra, adjoint, true, needs_input)?;
        blend(&self.gradients.iter().zip(&shares).collect::<Vec<_>>(), 1.0, 1.0)?;
        Ok(Some(dx))
    }
}
