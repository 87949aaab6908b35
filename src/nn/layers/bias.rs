//! A bias of its own, by channel: for values that no layer with kernels makes, as the sum of a residual block.

use candle_core::Tensor;

use super::activation::op as activation_op;
use super::kind::Kind;
use super::layer::{Fused, Layer, Pass, Traced, Wanted, bias_grad_by_shares, failure};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::elementwise::{add_bias_activate, bias_grad};
use crate::nn::graph::{Graph, Op, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::{Draw, Parameter};
use crate::nn::shape::Shape;
use crate::nn::update::lerp;

/// As configs name it.
pub(super) struct Bias;

impl Kind for Bias {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let channels = input.channels();
        let bias = draw.learned("bias.bias", &[channels], draw.init.bias, channels, 1)?;
        Ok(Box::new(Built { bias, is_map: matches!(input, Shape::Map { .. }), act }))
    }

    fn fuses(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        true
    }

    fn weights(&self, input: Shape) -> f64 {
        input.channels() as f64
    }
}

struct Built {
    bias: Parameter,
    is_map: bool,
    act: Activation,
}

impl Layer for Built {
    fn parameters(&self) -> Vec<&Parameter> {
        vec![&self.bias]
    }

    fn trace(&self, x: &Tensor, _: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let y = x.copy()?;
        add_bias_activate(InPlace::of(&y), Some(&self.bias.tensor()), self.act)?;
        let traced = TracedBias { fused: Fused::new(self.act, &y), dz: None, gradient: None };
        Ok((y, Box::new(traced)))
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        let shift = self.bias.array()?.values;
        let y = graph.add(Op::Affine { scale: vec![1.0; shift.len()], shift, map: self.is_map }, &[x]);
        Ok(activation_op(self.act, graph, y))
    }
}

struct TracedBias {
    fused: Fused,
    /// The gradient before the activation.
    dz: Option<Tensor>,
    gradient: Option<Tensor>,
}

impl Traced for TracedBias {
    fn vjp(self: Box<Self>, dy: Tensor, wanted: Wanted, _: bool) -> Result<(Tensor, Vec<Tensor>)> {
        self.fused.vjp(&dy)?;
        let gradients = match wanted {
            Wanted::Parameters => vec![bias_grad(&dy)?],
            Wanted::Input => Vec::new(),
        };
        Ok((dy, gradients))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.fused.vjp(&dy)?;
        self.dz = Some(dy.copy()?);
        Ok(dy)
    }

    fn jvp(&mut self, dx: Tensor, _: bool, also: Option<&Tensor>) -> Result<Tensor> {
        let dz = &self.dz.take().ok_or_else(|| failure("a bias has no gradient yet"))?;
        self.fused.jvp(&dx, dz)?;
        self.gradient = Some(bias_grad_by_shares(dz, also)?);
        Ok(dx)
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, _: bool) -> Result<Option<Tensor>> {
        let adjoint = self.fused.second_order(adjoint)?;
        if let (Some(dz), Some(gradient)) = (&adjoint, &self.gradient) {
            lerp(&[(InPlace::of(gradient), &bias_grad(dz)?)], 1.0, 1.0)?;
        }
        Ok(adjoint)
    }

    fn take_gradients(&mut self) -> Vec<Tensor> {
        self.gradient.take().into_iter().collect()
    }
}
