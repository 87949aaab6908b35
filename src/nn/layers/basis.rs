//! A learned constant map for every feature: what a generator's first map may be made of.

use candle_core::Tensor;

use super::kind::{Kind, within};
use super::layer::Layer;
use super::product::{Bilinear, Product, Shapes};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::{Draw, Init};
use crate::nn::precision::Precision;
use crate::nn::shape::Shape;

/// `y[c, i, j] = x[c] · basis[c, i, j]`, a square map of so many rows (R3GAN, arXiv 2501.05441).
pub(super) struct Basis(pub usize);

impl Kind for Basis {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        within(&[self.0])?;
        match input {
            Shape::Flat(channels) => Ok(Shape::Map { channels, height: self.0, width: self.0 }),
            Shape::Map { .. } => Err(format!("basis needs features, but gets {input}")),
        }
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let (channels, side) = (input.elements(), self.0);
        let shapes = Shapes {
            kind: "basis",
            weight: &[channels, 1, side, side],
            bias: None,
            init: Init::Normal { mean: 0.0, std: 1.0 },
            fan_in: 1,
            spectral: false,
        };
        let window = ConvWindow::new(side, 1, 0).in_groups(channels);
        Product::build(Map { window, precision: draw.place.precision }, &shapes, act, draw)
    }

    fn fuses(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        true
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn weights(&self, input: Shape) -> f64 {
        input.elements() as f64 * (self.0 * self.0) as f64
    }
}

/// As the transpose of a depthwise convolution that covers the map.
#[derive(Clone)]
struct Map {
    window: ConvWindow,
    precision: Precision,
}

/// `[n, 1, 1, c]`
fn as_map(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape((x.dim(0)?, 1, 1, ()))?)
}

impl Bilinear for Map {
    fn apply(&self, x: &Tensor, kernels: &Tensor) -> Result<Tensor> {
        let side = self.window.kernel;
        Ok(conv_input_grad(&as_map(x)?, kernels, self.window, (side, side), self.precision)?)
    }

    fn to_input(&self, _: &Tensor, kernels: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv(dy, kernels, self.window, self.precision)?.flatten_from(1)?)
    }

    fn to_kernels(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv_weight_grad(dy, &as_map(x)?, self.window, self.precision)?)
    }

    fn op(&self, weight: Array, _: Option<Vec<f32>>, _: &mut Graph, x: Value) -> Result<(Op, Value)> {
        Ok((Op::Basis(weight), x))
    }
}
