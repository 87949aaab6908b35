//! `x Wᵀ + b`.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::kind::{CRITICS_ONLY, Kind, check_gain, within, yes};
use super::layer::Layer;
use super::product::{Bilinear, Product, Shapes};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::{Draw, Init, Role};
use crate::nn::order::{channels_first, shaped_as};
use crate::nn::precision::Precision;
use crate::nn::shape::Shape;

/// `x Wᵀ + b`; a map is flattened first, in the order channel, row, column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Output features.
    pub out: usize,
    /// Whether there is a bias.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Weights begin as N(0, (gain / √fan_in)²), whatever `init.linear` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// Whether the weight is divided by its largest singular value (arXiv 1802.05957); critics only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spectral: bool,
}

impl Kind for Linear {
    fn output(&self, _: Shape) -> Result<Shape, String> {
        within(&[self.out])?;
        check_gain(self.gain)?;
        Ok(Shape::Flat(self.out))
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let fan_in = input.elements();
        let shapes = Shapes {
            kind: "linear",
            weight: &[self.out, fan_in],
            bias: self.bias.then_some(self.out),
            init: self.gain.map_or(draw.init.linear, Init::Gain),
            fan_in,
            spectral: self.spectral,
        };
        Product::build(Map { input, precision: draw.place.precision }, &shapes, act, draw)
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
        input.elements() as f64 * self.out as f64
    }

    fn width(&self) -> Option<usize> {
        Some(self.out)
    }

    fn width_mut(&mut self) -> Option<&mut usize> {
        Some(&mut self.out)
    }

    fn bias_mut(&mut self) -> Option<&mut bool> {
        Some(&mut self.bias)
    }

    fn spectral_mut(&mut self) -> Option<&mut bool> {
        Some(&mut self.spectral)
    }

    fn unfit_for(&self, role: Role) -> Option<&'static str> {
        (self.spectral && role == Role::Generator).then_some(CRITICS_ONLY)
    }
}

/// As a convolution of maps of one position.
#[derive(Clone)]
struct Map {
    input: Shape,
    precision: Precision,
}

/// `[n, 1, 1, features]`
fn as_map(x: &Tensor) -> Result<Tensor> {
    Ok(channels_first(x)?.reshape((x.dim(0)?, 1, 1, ()))?)
}

/// `[out, features, 1, 1]`
fn as_kernels(weight: &Tensor) -> Result<Tensor> {
    let (out, features) = weight.dims2()?;
    Ok(weight.reshape((out, features, 1, 1))?)
}

impl Bilinear for Map {
    fn apply(&self, x: &Tensor, kernels: &Tensor) -> Result<Tensor> {
        Ok(conv(&as_map(x)?, &as_kernels(kernels)?, ConvWindow::POINT, self.precision)?.flatten_from(1)?)
    }

    fn to_input(&self, x: &Tensor, kernels: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let dx = conv_input_grad(&as_map(dy)?, &as_kernels(kernels)?, ConvWindow::POINT, (1, 1), self.precision)?;
        Ok(shaped_as(&dx.flatten_from(1)?, x)?)
    }

    fn to_kernels(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv_weight_grad(&as_map(x)?, &as_map(dy)?, ConvWindow::POINT, self.precision)?.flatten_from(1)?)
    }

    fn op(&self, weight: Array, bias: Option<Vec<f32>>, graph: &mut Graph, x: Value) -> Result<(Op, Value)> {
        let x = match self.input {
            Shape::Flat(_) => x,
            Shape::Map { .. } => graph.add(Op::Reshape(Shape::Flat(self.input.elements())), &[x]),
        };
        Ok((Op::Gemm { weight, bias }, x))
    }
}
