//! A [`Network`]: layers with their parameters, the forward pass and the backward pass.
//!
//! A training step does not go over candle's tape: there, every gradient is added to fresh zeros, in two more passes over
//! memory, and every operation computes the gradients of all its arguments. Here the layers are walked back one by one, and
//! a gradient takes the storage of the one before it wherever it can.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::device::Place;
use super::graph::Graph;
use super::init::{Draw, InitConfig, Parameter, Role};
use super::layers::{Layer, LayerSpec, Pass, Sequential, Traced, Wanted, build_layers};
use super::shape::Shape;
use crate::error::{Error, Result};

/// What a forward pass leaves to [`Network::backward`]: the values between the layers. The parameters are not among them:
/// they must not change in between. Normalised kernels are: every pass has its own.
pub struct Trace {
    layers: Box<dyn Traced>,
    result: Tensor,
}

/// A list of layers with parameters.
pub struct Network {
    input: Shape,
    output: Shape,
    layers: Sequential,
    place: Place,
    repeats: bool,
}

impl Network {
    /// Builds the layers and draws their initial values; each parameter's depend on seed, role and position alone.
    ///
    /// # Errors
    /// When the layers do not fit one another, or the device is out of memory.
    pub fn new(specs: &[LayerSpec], input: Shape, init: &InitConfig, role: Role, seed: u64, place: &Place) -> Result<Self> {
        let (layers, output) = build_layers(specs, input, Draw { index: 0, init, role, seed, place })?;
        let repeats = !specs.iter().any(|spec| spec.any(&LayerSpec::changes_by_pass));
        Ok(Self { input, output, layers, place: place.clone(), repeats })
    }

    /// The same, but that the directions of its last layer's kernels learn by a loss of their own: see [`Self::backward_apart`].
    ///
    /// # Errors
    /// When its last layer has no kernels, or an activation behind them.
    pub fn with_directions_apart(mut self) -> Result<Self> {
        if self.layers.learn_directions_apart() {
            return Ok(self);
        }
        let what = "a network that ends in neither a linear layer nor a convolution has no directions to learn";
        Err(Error::usage(what, "Let it end in one of them, without an activation."))
    }

    /// Whether a second training pass over the same values gives the same and leaves no trace, so that one pass can serve for two: there
    /// is neither dropout, nor batch or spectral normalisation.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// `x` is `[n, …input shape]`, maps with their channels last; so is the result.
    ///
    /// # Errors
    /// When `x` has another shape, or the device is out of memory.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.check(x)?;
        self.layers.forward(x, pass)
    }

    /// As [`Self::forward`], and keeps what [`Self::backward`] needs.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_traced(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Trace)> {
        self.check(x)?;
        let (y, layers) = self.layers.trace(x, pass)?;
        Ok((y.clone(), Trace { layers, result: y }))
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let expected = match self.input {
            Shape::Flat(features) => vec![features],
            Shape::Map { channels, height, width } => vec![height, width, channels],
        };
        if x.dims().split_first().is_none_or(|(_, dims)| dims != expected) {
            let what = format!("a network that takes [n, {expected:?}] (channels last) was given {:?}", x.dims());
            return Err(Error::Candle(candle_core::Error::Msg(what)));
        }
        Ok(())
    }

    /// From the gradient to the output, whose storage is used up: the gradient to the input `[n, …input shape]`, or those to the
    /// parameters that learn, in the order of [`Self::trainable`].
    ///
    /// # Errors
    /// When `dy` is not shaped as the output was, or the device is out of memory.
    pub fn backward(&self, trace: Trace, dy: Tensor, wanted: Wanted) -> Result<Vec<Tensor>> {
        let Trace { layers, result } = trace;
        let dy = dy.contiguous()?.reshape(result.shape())?;
        drop(result);
        let (dx, gradients) = layers.vjp(dy, wanted, wanted == Wanted::Input)?;
        match wanted {
            Wanted::Parameters => Ok(gradients),
            Wanted::Input => Ok(vec![dx]),
        }
    }

    /// As [`Self::backward`] with the parameters wanted, of a network that learns by two losses (SAN, arXiv 2301.12811): `dy` is the gradient
    /// to the output of the one that all learns by but the directions of the last layer's kernels, `of_directions` that of the one
    /// that these learn by. The kernels' gradient, as its authors' code has it: along each output's kernel the first loss's, across it the second's.
    /// ([`Self::backward`] alone, and penalties, leave the directions as they are.)
    ///
    /// # Errors
    /// When the network is not one [`Self::with_directions_apart`], a gradient is not shaped as the output was, or the device is out of
    /// memory.
    pub fn backward_apart(&self, trace: Trace, dy: Tensor, of_directions: Tensor) -> Result<Vec<Tensor>> {
        let Trace { layers, result } = trace;
        let [dy, of_directions] = [dy, of_directions].map(|dy| dy.contiguous()?.reshape(result.shape()));
        drop(result);
        Ok(layers.vjp_apart(dy?, of_directions?, false)?.1)
    }

    /// A loss on the network's gradient to its input. `penalty` is given `g = ∂ ΣD / ∂x`, shaped as `x`, and returns whatever it
    /// likes, with the loss's gradient to `g`. D is the network's output, each value times its `share` where these are given. The
    /// result: what it returned, and the loss's gradients to the parameters, in the order of [`Self::trainable`]; zeros where it
    /// does not depend on one.
    ///
    /// With `g = ∂ ΣD(x; θ) / ∂x` and a penalty `φ(g)`, `v = ∂φ/∂g` held constant, `∂φ/∂θ = ∂/∂θ ⟨v, g⟩`: the gradient of the change of
    /// ΣD along v. Three passes follow the forward one: the gradients `dz` go back to the input; v goes forward through the
    /// Jacobians, where each layer with kernels meets its dz; and, from the last layer with a second derivative on, the gradients to
    /// the values between the layers go back. Without norms and smooth activations there is nothing to go back: four passes' work
    /// in all, and no tape.
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
        let (_, trace) = self.forward_traced(x, pass)?;
        penalise(trace, share, None, penalty)
    }

    /// As [`Self::input_gradient_penalty`], of a pass that has been made, and the gradients of a loss with it: `by_score` is the loss's
    /// gradient to each image's D, `[n]`. The loss's way back is that of the penalty's first pass, each image's cᵢ times as large, so it
    /// costs next to nothing besides.
    ///
    /// # Errors
    /// As there, and when images meet in the network or a second pass would be another ([`Self::repeats`]).
    pub fn backward_with_penalty<P>(
        &self,
        trace: Trace,
        share: Option<&Tensor>,
        by_score: &Tensor,
        penalty: impl FnOnce(&Tensor) -> Result<(P, Tensor)>,
    ) -> Result<(P, Vec<Tensor>)> {
        if !self.repeats {
            let what = "loss and penalty in one pass, of a network in which images meet, or passes differ".to_string();
            return Err(Error::Candle(candle_core::Error::Msg(what)));
        }
        penalise(trace, share, Some(by_score), penalty)
    }
    /// Every tensor, in the order of the layers.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.layers.parameters().into_iter()
    }

    /// The tensors that learn.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters().filter(|parameter| parameter.trainable)
    }

    /// How many numbers learn.
    pub fn trainable_count(&self) -> usize {
        self.trainable().map(|parameter| parameter.var.elem_count()).sum()
    }

    /// What it computes outside training, as operations with plain weights.
    ///
    /// # Errors
    /// When a layer has no exported form, or a weight is not a finite number.
    pub fn graph(&self) -> Result<Graph> {
        let mut graph = Graph::new();
        let input = graph.input;
        graph.output = self.layers.export(&mut graph, input)?;
        Ok(graph)
    }

    /// The shape of what it takes.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// The shape of what it makes.
    pub fn output(&self) -> Shape {
        self.output
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.place.device
    }

    /// The type of the parameters.
    pub fn dtype(&self) -> DType {
        self.place.dtype
    }

    /// Sets every tensor from a map by name.
    ///
    /// # Errors
    /// When one is missing, superfluous or of another shape; `place` names the file. Nothing is changed then.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>, place: &str) -> Result<()> {
        let hint = "The file belongs to another network: use the run's own config, or another file.";
        let mut expected = 0;
        for Parameter { name, var, .. } in self.parameters() {
            let tensor = tensors.get(name).ok_or_else(|| Error::invalid(place, format!("tensor {name} is missing"), hint))?;
            if tensor.shape() != var.shape() {
                let what = format!("tensor {name} is {:?}, expected {:?}", tensor.dims(), var.dims());
                return Err(Error::invalid(place, what, hint));
            }
            expected += 1;
        }
        if tensors.len() != expected {
            let stray = tensors.keys().find(|key| self.parameters().all(|p| p.name != **key));
            return Err(Error::invalid(place, format!("unexpected tensor {}", stray.map_or("", |s| s)), hint));
        }
        for Parameter { name, var, .. } in self.parameters() {
            var.set(&tensors[name].to_device(self.device())?.to_dtype(self.dtype())?)?;
        }
        Ok(())
    }
}

/// The passes of [`Network::input_gradient_penalty`] and [`Network::backward_with_penalty`].
fn penalise<P>(
    trace: Trace,
    share: Option<&Tensor>,
    by_score: Option<&Tensor>,
    penalty: impl FnOnce(&Tensor) -> Result<(P, Tensor)>,
) -> Result<(P, Vec<Tensor>)> {
    let Trace { mut layers, result: y } = trace;
    let dy = share.map_or_else(|| y.ones_like(), |share| share.reshape(y.shape())?.copy())?;
    drop(y);
    let gradient = layers.vjp_to_input(dy)?;
    let (value, v) = penalty(&gradient)?;
    if v.dims() != gradient.dims() {
        let what = format!("a penalty on a gradient of {:?} gave one of {:?}", gradient.dims(), v.dims());
        return Err(Error::Candle(candle_core::Error::Msg(what)));
    }
    drop(gradient);
    // Its storage is used up; a penalty may have kept what it gave.
    layers.jvp(v.copy()?, false, by_score)?;
    // What that change owes to the values between the layers.
    layers.second_order(None, false)?;
    Ok((value, layers.take_gradients()))
}
