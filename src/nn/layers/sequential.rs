//! Layers one behind the other.

use candle_core::Tensor;

use super::layer::{Layer, Pass, Traced, Wanted, failure};
use crate::error::Result;
use crate::nn::graph::{Graph, Value};
use crate::nn::init::Parameter;

/// A list of layers, which is a layer.
pub(crate) struct Sequential(Vec<Box<dyn Layer>>);

impl Sequential {
    /// Of layers that fit one another.
    pub fn of(layers: Vec<Box<dyn Layer>>) -> Self {
        Self(layers)
    }
}

impl Layer for Sequential {
    fn parameters(&self) -> Vec<&Parameter> {
        self.0.iter().flat_map(|layer| layer.parameters()).collect()
    }

    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, pass))
    }

    fn trace(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let mut x = x.clone();
        let mut layers = Vec::with_capacity(self.0.len());
        for layer in &self.0 {
            let (y, traced) = layer.trace(&x, pass)?;
            x = y;
            layers.push(TracedLayer { learns: layer.parameters().iter().any(|parameter| parameter.trainable), traced });
        }
        Ok((x, Box::new(SequentialTrace(layers))))
    }

    fn learn_directions_apart(&mut self) -> bool {
        self.0.last_mut().is_some_and(|layer| layer.learn_directions_apart())
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        self.0.iter().try_fold(x, |x, layer| layer.export(graph, x))
    }
}

struct TracedLayer {
    learns: bool,
    traced: Box<dyn Traced>,
}

struct SequentialTrace(Vec<TracedLayer>);

impl SequentialTrace {
    /// The first layer with something to learn; before it nobody asks for gradients.
    fn first(&self) -> usize {
        self.0.iter().position(|part| part.learns).unwrap_or(self.0.len())
    }
}

impl Traced for SequentialTrace {
    fn vjp(self: Box<Self>, mut dy: Tensor, wanted: Wanted, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        let first = if needs_input { 0 } else { self.first() };
        let mut gradients = Vec::new();
        for (index, part) in self.0.into_iter().enumerate().skip(first).rev() {
            let (dx, mut of_layer) = part.traced.vjp(dy, wanted, needs_input || index > first)?;
            // Last layer first, and so the last parameter of each.
            of_layer.reverse();
            gradients.append(&mut of_layer);
            dy = dx;
        }
        gradients.reverse();
        Ok((dy, gradients))
    }

    fn vjp_apart(mut self: Box<Self>, dy: Tensor, of_directions: Tensor, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        let last = self.0.pop().ok_or_else(|| failure("a network without layers was asked to learn"))?;
        let needed = needs_input || self.first() < self.0.len();
        let (dx, of_last) = last.traced.vjp_apart(dy, of_directions, needed)?;
        let (dx, mut gradients) = self.vjp(dx, Wanted::Parameters, needs_input)?;
        gradients.extend(of_last);
        Ok((dx, gradients))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.0.iter_mut().rev().try_fold(dy, |dy, part| part.traced.vjp_to_input(dy))
    }

    fn jvp(&mut self, dx: Tensor, needs_output: bool, also: Option<&Tensor>) -> Result<Tensor> {
        let last = self.0.len().saturating_sub(1);
        let parts = self.0.iter_mut().enumerate();
        parts.into_iter().try_fold(dx, |dx, (index, part)| part.traced.jvp(dx, needs_output || index < last, also))
    }

    fn reads_change(&self) -> bool {
        self.0.first().is_some_and(|part| part.traced.reads_change())
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, needs_input: bool) -> Result<Option<Tensor>> {
        let first = if needs_input { 0 } else { self.first() };
        let parts = self.0.iter_mut().enumerate().skip(first).rev();
        parts
            .into_iter()
            .try_fold(adjoint, |adjoint, (index, part)| part.traced.second_order(adjoint, needs_input || index > first))
    }

    fn take_gradients(&mut self) -> Vec<Tensor> {
        self.0.iter_mut().flat_map(|part| part.traced.take_gradients()).collect()
    }
}
