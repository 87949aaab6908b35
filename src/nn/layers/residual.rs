//! A residual block: `body(x) + shortcut(x)`.

use candle_core::Tensor;

use super::layer::{Layer, Pass, Traced, Wanted};
use super::sequential::Sequential;
use crate::error::Result;
use crate::nn::graph::{Graph, Op, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::Parameter;
use crate::nn::update::lerp;

/// Layers and what lies beside them.
pub(super) struct Residual {
    body: Sequential,
    /// None: the values themselves.
    shortcut: Option<Sequential>,
    hands_over: bool,
}

impl Residual {
    /// `hands_over` says whether the body's result is nobody else's, and its gradient only read.
    pub fn new(body: Sequential, shortcut: Option<Sequential>, hands_over: bool) -> Self {
        Self { body, shortcut, hands_over }
    }
}

impl Layer for Residual {
    fn parameters(&self) -> Vec<&Parameter> {
        self.body.parameters().into_iter().chain(self.shortcut.iter().flat_map(|shortcut| shortcut.parameters())).collect()
    }

    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let made = self.body.forward(x, pass)?;
        // What hands its input on must not see that change.
        let made = if self.hands_over { made } else { made.copy()? };
        match &self.shortcut {
            Some(shortcut) => sum(made, &shortcut.forward(x, pass)?),
            None => sum(made, x),
        }
    }

    fn trace(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let (made, body) = self.body.trace(x, pass)?;
        // A layer that keeps its result for the way back must not see it change.
        let made = if self.hands_over { made } else { made.copy()? };
        let (y, shortcut) = match &self.shortcut {
            Some(shortcut) => {
                let (beside, traced) = shortcut.trace(x, pass)?;
                (sum(made, &beside)?, Some(traced))
            }
            None => (sum(made, x)?, None),
        };
        Ok((y, Box::new(TracedResidual { body, shortcut, hands_over: self.hands_over })))
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        let made = self.body.export(graph, x)?;
        let beside = match &self.shortcut {
            Some(shortcut) => shortcut.export(graph, x)?,
            None => x,
        };
        Ok(graph.add(Op::Add, &[made, beside]))
    }
}

/// `to + from`, in the storage of `to`.
fn sum(to: Tensor, from: &Tensor) -> Result<Tensor> {
    lerp(&[(InPlace::of(&to), from)], 1.0, 1.0)?;
    Ok(to)
}

struct TracedResidual {
    body: Box<dyn Traced>,
    shortcut: Option<Box<dyn Traced>>,
    hands_over: bool,
}

/// A gradient for the body, where the same goes into the shortcut, too.
fn for_body(gradient: &Tensor, hands_over: bool) -> Result<Tensor> {
    Ok(if hands_over { gradient.clone() } else { gradient.copy()? })
}

impl Traced for TracedResidual {
    fn vjp(self: Box<Self>, dy: Tensor, wanted: Wanted, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        let (dx, mut gradients) = self.body.vjp(for_body(&dy, self.hands_over)?, wanted, needs_input)?;
        let beside = match self.shortcut {
            Some(shortcut) => {
                let (beside, of_shortcut) = shortcut.vjp(dy, wanted, needs_input)?;
                gradients.extend(of_shortcut);
                beside
            }
            None => dy,
        };
        Ok((if needs_input { sum(dx, &beside)? } else { dx }, gradients))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        // The body keeps its gradient for the passes to come, a shortcut may use up its own: no two have the same.
        let dx = self.body.vjp_to_input(for_body(&dy, self.hands_over)?)?;
        let beside = match &mut self.shortcut {
            Some(shortcut) if self.hands_over => shortcut.vjp_to_input(dy.copy()?)?,
            Some(shortcut) => shortcut.vjp_to_input(dy)?,
            None => dy,
        };
        sum(dx, &beside)
    }

    fn jvp(&mut self, dx: Tensor, needs_output: bool, also: Option<&Tensor>) -> Result<Tensor> {
        let for_body = if self.body.reads_change() { dx.clone() } else { dx.copy()? };
        let change = self.body.jvp(for_body, needs_output, also)?;
        let beside = match &mut self.shortcut {
            Some(shortcut) => shortcut.jvp(dx, needs_output, also)?,
            None => dx,
        };
        if needs_output { sum(change, &beside) } else { Ok(change) }
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, needs_input: bool) -> Result<Option<Tensor>> {
        let copy = adjoint.as_ref().map(Tensor::copy).transpose()?;
        let of_body = self.body.second_order(copy, needs_input)?;
        let beside = match &mut self.shortcut {
            Some(shortcut) => shortcut.second_order(adjoint, needs_input)?,
            None => adjoint,
        };
        match (of_body, beside) {
            (Some(of_body), Some(beside)) if needs_input => sum(of_body, &beside).map(Some),
            (of_body, beside) => Ok(of_body.or(beside)),
        }
    }

    fn take_gradients(&mut self) -> Vec<Tensor> {
        let mut gradients = self.body.take_gradients();
        gradients.extend(self.shortcut.iter_mut().flat_map(|shortcut| shortcut.take_gradients()));
        gradients
    }
}
