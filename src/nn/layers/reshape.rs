//! Features to a map, or a map to another.

use candle_core::Tensor;

use super::kind::{Kind, within};
use super::layer::{Layer, Pass, Traced, Wanted};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::graph::{Graph, Op, Value};
use crate::nn::init::Draw;
use crate::nn::order::{channels_first, channels_last, shaped_as};
use crate::nn::shape::Shape;

/// Channels, height and width of the map that it makes, in which values keep the order channel, row, column.
#[derive(Clone, Copy)]
pub(super) struct Reshape(pub [usize; 3]);

impl Reshape {
    fn shape(self) -> Shape {
        let [channels, height, width] = self.0;
        Shape::Map { channels, height, width }
    }
}

impl Kind for Reshape {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        within(&self.0)?;
        if self.shape().elements() != input.elements() {
            return Err(format!("cannot turn {input} into {}", self.shape()));
        }
        Ok(self.shape())
    }

    fn build(&self, _: Shape, _: Activation, _: &Draw<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(*self))
    }
}

impl Layer for Reshape {
    fn trace(&self, x: &Tensor, _: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let y = channels_last(&channels_first(x)?, self.shape(), x.dim(0)?)?;
        Ok((y, Box::new(Reshaped { x: x.clone(), to: self.shape() })))
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        Ok(graph.add(Op::Reshape(self.shape()), &[x]))
    }
}

struct Reshaped {
    x: Tensor,
    to: Shape,
}

impl Reshaped {
    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        Ok(shaped_as(&channels_first(dy)?, &self.x)?)
    }
}

impl Traced for Reshaped {
    fn vjp(self: Box<Self>, dy: Tensor, _: Wanted, _: bool) -> Result<(Tensor, Vec<Tensor>)> {
        Ok((self.back(&dy)?, Vec::new()))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.back(&dy)
    }

    fn jvp(&mut self, dx: Tensor, _: bool, _: Option<&Tensor>) -> Result<Tensor> {
        Ok(channels_last(&channels_first(&dx)?, self.to, dx.dim(0)?)?)
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, _: bool) -> Result<Option<Tensor>> {
        adjoint.map(|adjoint| self.back(&adjoint)).transpose()
    }
}
