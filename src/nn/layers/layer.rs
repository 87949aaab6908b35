//! What every layer can do.

use candle_core::{D, Tensor};

use crate::error::{Error, Result};
use crate::nn::activation::Activation;
use crate::nn::by_image::sum_of_shares;
use crate::nn::graph::{Graph, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::Parameter;
use crate::nn::update::lerp;

/// Whether a pass learns.
#[derive(Debug, Clone, Copy)]
pub enum Pass {
    /// Batch statistics, which also enter the running ones; dropout with the masks of pass number `number`.
    Train {
        /// The seed of the run.
        seed: u64,
        /// Which pass of the run this is: no two share a number.
        number: u64,
    },
    /// Running statistics, no dropout.
    Eval,
}

/// Which gradients a backward pass is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those of the parameters that learn: the gradient to the input is not paid for.
    Parameters,
    /// That of the input: the generator's step does not pay for the critic's weight gradients.
    Input,
}

/// A layer with its parameters.
pub(crate) trait Layer: Send + Sync {
    /// Its tensors, in the order of their names in a checkpoint.
    fn parameters(&self) -> Vec<&Parameter> {
        Vec::new()
    }

    /// Its result for `x [n, …]`, maps with their channels last.
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        Ok(self.trace(x, pass)?.0)
    }

    /// As [`Self::forward`], with what the ways back need.
    fn trace(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Box<dyn Traced>)>;

    /// Has it learn the directions of its kernels by a loss of their own, see [`Traced::vjp_apart`]; whether it can, which only a layer with
    /// kernels and without an activation does.
    fn learn_directions_apart(&mut self) -> bool {
        false
    }

    /// Adds what it computes outside training to a graph; gives the graph's value for its result.
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value>;
}

/// A layer in one pass: its values, and the ways back through it. The parameters are not copied: they must not change before the
/// way back. Normalised kernels are: every pass has its own.
///
/// [`Self::vjp`] is the whole way back of a training step. A penalty on the input gradient takes three ways instead, each of
/// which leaves here what the next one needs: [`Self::vjp_to_input`], [`Self::jvp`] and [`Self::second_order`].
pub(crate) trait Traced: Send {
    /// Vector-Jacobian product: from the gradient to the result, whose storage is used up, to that to the input, which means nothing
    /// unless `needs_input`, and, if these are wanted, those to the parameters that learn, in their order.
    fn vjp(self: Box<Self>, dy: Tensor, wanted: Wanted, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)>;

    /// As [`Self::vjp`] with the parameters wanted, of two losses: `dy` is the gradient to the result of the one that all learns by but
    /// the directions of the last layer's kernels, `of_directions` that of the one that these learn by (SAN, arXiv 2301.12811). Only a
    /// layer that was told to do so ([`Layer::learn_directions_apart`]) has it.
    fn vjp_apart(self: Box<Self>, _dy: Tensor, _of_directions: Tensor, _needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        Err(failure("a layer that learns no directions apart was asked to"))
    }

    /// The gradient to the input alone.
    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor>;

    /// Jacobian-vector product: from a change of the input to that of the result, which means nothing unless `needs_output`.
    /// With `also`, `c [n]`, [`Self::take_gradients`] will give those of `Σ cᵢ ⟨dyᵢ, yᵢ⟩` besides, where y is the network's result
    /// and dy what [`Self::vjp_to_input`] began with: each image's gradients `dz` are cᵢ times as large then, so that one product,
    /// `Σ (dxᵢ + cᵢ xᵢ) ⊗ dzᵢ`, serves for both. That wants layers that take each image by itself.
    fn jvp(&mut self, dx: Tensor, needs_output: bool, also: Option<&Tensor>) -> Result<Tensor>;

    /// Whether [`Self::jvp`] only reads the change that it is given; else it uses up its storage.
    fn reads_change(&self) -> bool {
        false
    }

    /// With v the change that [`Self::jvp`] began with at the network's input and g the gradient that [`Self::vjp_to_input`] ended in
    /// there: from the gradient of `⟨v, g⟩` to the result, if there is one, to that to the input, which means nothing unless
    /// `needs_input`.
    fn second_order(&mut self, adjoint: Option<Tensor>, needs_input: bool) -> Result<Option<Tensor>>;

    /// The gradients of `⟨v, g⟩`, and of what else [`Self::jvp`] was told of, to the parameters that learn, in their order, once
    /// [`Self::second_order`] has been through.
    fn take_gradients(&mut self) -> Vec<Tensor> {
        Vec::new()
    }
}

/// An activation that is computed with a layer, in one pass.
pub(super) struct Fused {
    pub act: Activation,
    pub y: Tensor,
    /// What the activation's second derivative adds to the gradient before it.
    second: Option<Tensor>,
}

impl Fused {
    pub fn new(act: Activation, y: &Tensor) -> Self {
        Self { act, y: y.clone(), second: None }
    }

    /// From the gradient behind it to that before it, in place.
    pub fn vjp(&self, dy: &Tensor) -> Result<()> {
        Ok(self.act.grad(&self.y, InPlace::of(dy))?)
    }

    /// From a change before it to that behind it, in place; `dz` is the gradient before it.
    pub fn jvp(&mut self, change: &Tensor, dz: &Tensor) -> Result<()> {
        self.second = self.act.second(&self.y, change, dz)?;
        self.vjp(change)
    }

    /// The gradient of ⟨v, g⟩ before it, from that behind it.
    pub fn second_order(&mut self, adjoint: Option<Tensor>) -> Result<Option<Tensor>> {
        let second = self.second.take();
        let Some(adjoint) = adjoint else { return Ok(second) };
        self.vjp(&adjoint)?;
        if let Some(second) = second {
            lerp(&[(InPlace::of(&adjoint), &second)], 1.0, 1.0)?;
        }
        Ok(Some(adjoint))
    }
}

/// A bias's part of [`Traced::jvp`]: a change of the input does not see it, the result of each image does by its share.
pub(super) fn bias_grad_by_shares(dz: &Tensor, shares: Option<&Tensor>) -> Result<Tensor> {
    Ok(match shares {
        Some(shares) => sum_of_shares(dz, shares)?,
        None => Tensor::zeros(dz.dim(D::Minus1)?, dz.dtype(), dz.device())?,
    })
}

/// What no way of a caller leads to.
pub(super) fn failure(what: impl Into<String>) -> Error {
    Error::Candle(candle_core::Error::Msg(what.into()))
}
