//! ReLU, LeakyReLU, tanh and sigmoid. Behind a layer that fuses them they are part of it; here they stand by themselves.

use candle_core::Tensor;

use super::kind::Kind;
use super::layer::{Fused, Layer, Pass, Traced, Wanted};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::graph::{Graph, Op, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::Draw;
use crate::nn::shape::Shape;

/// max(x, 0).
pub(super) struct Relu;
/// max(x, slope · x).
pub(super) struct LeakyRelu(pub f64);
/// tanh(x).
pub(super) struct Tanh;
/// 1 / (1 + e⁻ˣ).
pub(super) struct Sigmoid;

impl Kind for Relu {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }

    fn build(&self, _: Shape, _: Activation, _: &Draw<'_>) -> Result<Box<dyn Layer>> {
        alone(self)
    }

    fn activation(&self) -> Option<Activation> {
        Some(Activation::Rectifier { slope: 0.0 })
    }
}

impl Kind for LeakyRelu {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        if !(0.0..1.0).contains(&self.0) {
            return Err(format!("slope {} must be at least 0 and below 1", self.0));
        }
        Ok(input)
    }

    fn build(&self, _: Shape, _: Activation, _: &Draw<'_>) -> Result<Box<dyn Layer>> {
        alone(self)
    }

    fn activation(&self) -> Option<Activation> {
        Some(Activation::Rectifier { slope: self.0 })
    }
}

impl Kind for Tanh {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }

    fn build(&self, _: Shape, _: Activation, _: &Draw<'_>) -> Result<Box<dyn Layer>> {
        alone(self)
    }

    fn activation(&self) -> Option<Activation> {
        Some(Activation::Tanh)
    }
}

impl Kind for Sigmoid {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }

    fn build(&self, _: Shape, _: Activation, _: &Draw<'_>) -> Result<Box<dyn Layer>> {
        alone(self)
    }

    fn activation(&self) -> Option<Activation> {
        Some(Activation::Sigmoid)
    }
}

fn alone(kind: &impl Kind) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Alone(kind.activation().unwrap_or(Activation::None))))
}

/// An activation as an operation behind a value.
pub(super) fn op(act: Activation, graph: &mut Graph, x: Value) -> Value {
    let op = match act {
        Activation::None => return x,
        Activation::Rectifier { slope: 0.0 } => Op::Relu,
        Activation::Rectifier { slope } => Op::LeakyRelu(slope),
        Activation::Tanh => Op::Tanh,
        Activation::Sigmoid => Op::Sigmoid,
    };
    graph.add(op, &[x])
}

struct Alone(Activation);

impl Layer for Alone {
    fn trace(&self, x: &Tensor, _: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let y = x.copy()?;
        self.0.apply(InPlace::of(&y))?;
        let traced = TracedAlone { fused: Fused::new(self.0, &y), dz: None };
        Ok((y, Box::new(traced)))
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        Ok(op(self.0, graph, x))
    }
}

struct TracedAlone {
    fused: Fused,
    /// The gradient before it, where its second derivative needs it.
    dz: Option<Tensor>,
}

impl Traced for TracedAlone {
    fn vjp(self: Box<Self>, dy: Tensor, _: Wanted, _: bool) -> Result<(Tensor, Vec<Tensor>)> {
        self.fused.vjp(&dy)?;
        Ok((dy, Vec::new()))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.fused.vjp(&dy)?;
        self.dz = if self.fused.act.is_bent() { Some(dy.copy()?) } else { None };
        Ok(dy)
    }

    fn jvp(&mut self, dx: Tensor, _: bool, _: Option<&Tensor>) -> Result<Tensor> {
        match &self.dz {
            Some(dz) => self.fused.jvp(&dx, dz)?,
            None => self.fused.vjp(&dx)?,
        }
        Ok(dx)
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, _: bool) -> Result<Option<Tensor>> {
        self.fused.second_order(adjoint)
    }
}
