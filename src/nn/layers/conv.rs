//! Convolution with a square kernel.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::kind::{CRITICS_ONLY, Kind, map, one, within, yes};
use super::layer::Layer;
use super::product::{Bilinear, Product, Shapes};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::{Draw, Role};
use crate::nn::precision::Precision;
use crate::nn::shape::Shape;

/// Convolution, square kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Output channels.
    pub out: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between positions.
    #[serde(default = "one")]
    pub stride: usize,
    /// Zeros around the input.
    #[serde(default)]
    pub padding: usize,
    /// Whether there is a bias.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Whether the kernels are divided by their largest singular value (arXiv 1802.05957); critics only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spectral: bool,
}

impl Kind for Conv {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        let Self { out, kernel, stride, padding, .. } = *self;
        within(&[out, kernel, stride, padding + 1])?;
        map(input, out, |size| (size + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1))
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let Self { out, kernel, stride, padding, bias, spectral } = *self;
        let channels = input.channels();
        let shapes = Shapes {
            kind: "conv",
            weight: &[out, channels, kernel, kernel],
            bias: bias.then_some(out),
            init: draw.init.conv,
            fan_in: channels * kernel * kernel,
            spectral,
        };
        let map = Map { window: ConvWindow { kernel, stride, padding }, precision: draw.place.precision };
        Product::build(map, &shapes, act, draw)
    }

    fn fuses(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        true
    }

    fn weights(&self, input: Shape) -> f64 {
        (self.kernel * self.kernel) as f64 * self.out as f64 * input.channels() as f64
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

#[derive(Clone)]
struct Map {
    window: ConvWindow,
    precision: Precision,
}

impl Bilinear for Map {
    fn apply(&self, x: &Tensor, kernels: &Tensor) -> Result<Tensor> {
        Ok(conv(x, kernels, self.window, self.precision)?)
    }

    fn to_input(&self, x: &Tensor, kernels: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv_input_grad(dy, kernels, self.window, (x.dim(1)?, x.dim(2)?), self.precision)?)
    }

    fn to_kernels(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv_weight_grad(x, dy, self.window, self.precision)?)
    }

    fn op(&self, weight: Array, bias: Option<Vec<f32>>, _: &mut Graph, x: Value) -> (Op, Value) {
        (Op::Conv { weight, bias, window: self.window }, x)
    }
}
