//! What layers with kernels have in common: linear layers and convolutions, with bias, spectral normalisation and an activation.

use candle_core::Tensor;

use super::activation::op as activation_op;
use super::layer::{Fused, Layer, Pass, Traced, Wanted, bias_grad_by_shares, failure};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::by_image::plus_shares;
use crate::nn::direction;
use crate::nn::elementwise::{add_bias_activate, bias_grad};
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::{Draw, Parameter};
use crate::nn::spectral::Spectral;
use crate::nn::update::lerp;

/// A map that is linear in its input and in its kernels.
pub(super) trait Bilinear: Clone + Send + Sync + 'static {
    /// Its result.
    fn apply(&self, x: &Tensor, kernels: &Tensor) -> Result<Tensor>;
    /// From the gradient to the result to that to `x`.
    fn to_input(&self, x: &Tensor, kernels: &Tensor, dy: &Tensor) -> Result<Tensor>;
    /// From the gradient to the result to that to the kernels.
    fn to_kernels(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor>;
    /// As an operation; adds what has to come before it.
    fn op(&self, weight: Array, bias: Option<Vec<f32>>, graph: &mut Graph, x: Value) -> Result<(Op, Value)>;
}

/// A layer with kernels.
pub(super) struct Product<B> {
    map: B,
    weight: Parameter,
    bias: Option<Parameter>,
    /// u and v.
    spectral: Option<[Parameter; 2]>,
    act: Activation,
    /// Whether the directions of its kernels learn by a loss of their own.
    apart: bool,
}

/// How the parameters of a [`Product`] are named and shaped.
pub(super) struct Shapes<'a> {
    /// The kind's name in parameters' names.
    pub kind: &'a str,
    /// Of the weight.
    pub weight: &'a [usize],
    /// Of the bias, if there is one.
    pub bias: Option<usize>,
    /// How the weight starts, and what PyTorch takes for the number of its inputs.
    pub init: crate::nn::init::Init,
    pub fan_in: usize,
    /// Whether the weight is divided by its largest singular value.
    pub spectral: bool,
}

impl<B: Bilinear> Product<B> {
    pub fn build(map: B, shapes: &Shapes<'_>, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let Shapes { kind, weight: dims, bias, init, fan_in, spectral } = *shapes;
        let name = |what: &str| format!("{kind}.{what}");
        let weight = draw.learned(&name("weight"), dims, init, fan_in, 0)?;
        let bias = bias.map(|out| draw.learned(&name("bias"), &[out], draw.init.bias, fan_in, 1)).transpose()?;
        let (out, rest) = (dims[0], dims[1..].iter().product());
        let spectral =
            if spectral { Some([draw.unit(&name("weight_u"), out, 0)?, draw.unit(&name("weight_v"), rest, 1)?]) } else { None };
        Ok(Box::new(Self { map, weight, bias, spectral, act, apart: false }))
    }
}

impl<B: Bilinear> Layer for Product<B> {
    fn parameters(&self) -> Vec<&Parameter> {
        std::iter::once(&self.weight).chain(&self.bias).chain(self.spectral.iter().flatten()).collect()
    }

    fn trace(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let weight = self.weight.tensor();
        let spectral = match &self.spectral {
            Some([u, v]) => Some(Spectral::new(&weight, &u.var, &v.var, matches!(pass, Pass::Train { .. }))?),
            None => None,
        };
        let kernels = spectral.as_ref().map_or(weight, |spectral| spectral.normalised.clone());
        let y = self.map.apply(x, &kernels)?;
        let bias = self.bias.as_ref().map(Parameter::tensor);
        add_bias_activate(InPlace::of(&y), bias.as_ref(), self.act)?;
        let traced = TracedProduct {
            map: self.map.clone(),
            x: x.clone(),
            kernels,
            spectral,
            has_bias: bias.is_some(),
            apart: self.apart,
            fused: Fused::new(self.act, &y),
            dz: None,
            gradients: Vec::new(),
        };
        Ok((y, Box::new(traced)))
    }

    fn learn_directions_apart(&mut self) -> bool {
        self.apart = matches!(self.act, Activation::None);
        self.apart
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        let bias = self.bias.as_ref().map(|bias| Ok::<_, crate::error::Error>(bias.array()?.values)).transpose()?;
        let (op, x) = self.map.op(self.weight.array()?, bias, graph, x)?;
        let y = graph.add(op, &[x]);
        Ok(activation_op(self.act, graph, y))
    }
}

struct TracedProduct<B> {
    map: B,
    x: Tensor,
    kernels: Tensor,
    spectral: Option<Spectral>,
    has_bias: bool,
    apart: bool,
    fused: Fused,
    /// The gradient before the activation.
    dz: Option<Tensor>,
    /// To weight and bias.
    gradients: Vec<Tensor>,
}

impl<B: Bilinear> TracedProduct<B> {
    fn to_weight(&self, x: &Tensor, dz: &Tensor) -> Result<Tensor> {
        let kernels = self.map.to_kernels(x, dz)?;
        self.of_kernels(if self.apart { direction::apart(&self.kernels, &kernels, None)? } else { kernels })
    }

    /// From the gradient to the kernels to that to the weight.
    fn of_kernels(&self, kernels: Tensor) -> Result<Tensor> {
        match &self.spectral {
            Some(spectral) => Ok(spectral.weight_grad(&kernels)?),
            None => Ok(kernels),
        }
    }

    fn to_parameters(&self, x: &Tensor, dz: &Tensor) -> Result<Vec<Tensor>> {
        self.with_bias(self.to_weight(x, dz)?, dz)
    }

    /// The gradient to the weight, and that to the bias, if there is one.
    fn with_bias(&self, weight: Tensor, dz: &Tensor) -> Result<Vec<Tensor>> {
        let mut gradients = vec![weight];
        if self.has_bias {
            gradients.push(bias_grad(dz)?);
        }
        Ok(gradients)
    }

    fn to_input(&self, dz: &Tensor) -> Result<Tensor> {
        self.map.to_input(&self.x, &self.kernels, dz)
    }
}

impl<B: Bilinear> Traced for TracedProduct<B> {
    fn vjp(self: Box<Self>, dy: Tensor, wanted: Wanted, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        self.fused.vjp(&dy)?;
        let gradients = match wanted {
            Wanted::Parameters => self.to_parameters(&self.x, &dy)?,
            Wanted::Input => Vec::new(),
        };
        Ok((if needs_input { self.to_input(&dy)? } else { dy }, gradients))
    }

    fn vjp_apart(self: Box<Self>, dy: Tensor, of_directions: Tensor, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        if !self.apart {
            return Err(failure("a layer with kernels that learns no directions apart was asked to"));
        }
        // There is no activation.
        let [by_length, by_direction] = [&dy, &of_directions].map(|dy| self.map.to_kernels(&self.x, dy));
        let kernels = direction::apart(&self.kernels, &by_length?, Some(&by_direction?))?;
        let gradients = self.with_bias(self.of_kernels(kernels)?, &dy)?;
        Ok((if needs_input { self.to_input(&dy)? } else { dy }, gradients))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.fused.vjp(&dy)?;
        let dx = self.to_input(&dy)?;
        self.dz = Some(dy);
        Ok(dx)
    }

    fn jvp(&mut self, dx: Tensor, needs_output: bool, also: Option<&Tensor>) -> Result<Tensor> {
        // Nobody needs it any more then.
        let dz = &self.dz.take().ok_or_else(|| failure("a layer with kernels has no gradient yet"))?;
        let met = also.map(|shares| plus_shares(&dx, &self.x, shares)).transpose()?;
        self.gradients = vec![self.to_weight(met.as_ref().unwrap_or(&dx), dz)?];
        drop(met);
        if self.has_bias {
            self.gradients.push(bias_grad_by_shares(dz, also)?);
        }
        if !needs_output && !self.fused.act.is_bent() {
            return Ok(dx);
        }
        let change = self.map.apply(&dx, &self.kernels)?;
        self.fused.jvp(&change, dz)?;
        Ok(change)
    }

    fn reads_change(&self) -> bool {
        true
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, needs_input: bool) -> Result<Option<Tensor>> {
        let Some(dz) = self.fused.second_order(adjoint)? else { return Ok(None) };
        let shares = self.to_parameters(&self.x, &dz)?;
        let pairs: Vec<_> = self.gradients.iter().map(InPlace::of).zip(&shares).collect();
        lerp(&pairs, 1.0, 1.0)?;
        Ok(Some(if needs_input { self.to_input(&dz)? } else { dz }))
    }

    fn take_gradients(&mut self) -> Vec<Tensor> {
        std::mem::take(&mut self.gradients)
    }
}
