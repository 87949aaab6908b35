//! Transposed convolution with a square kernel: the input gradient of a convolution.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::kind::{Kind, map, one, within, yes};
use super::layer::{Layer, failure};
use super::product::{Bilinear, Product, Shapes};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::Draw;
use crate::nn::precision::Precision;
use crate::nn::shape::Shape;

/// Transposed convolution, square kernel (the input gradient of a convolution).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTranspose {
    /// Output channels.
    pub out: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between output positions.
    #[serde(default = "one")]
    pub stride: usize,
    /// Rows and columns cut off around the output.
    #[serde(default)]
    pub padding: usize,
    /// Rows and columns added at the bottom and the right of the output; below `stride`.
    #[serde(default)]
    pub output_padding: usize,
    /// Whether there is a bias.
    #[serde(default = "yes")]
    pub bias: bool,
}

impl Kind for ConvTranspose {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        let Self { out, kernel, stride, padding, output_padding, .. } = *self;
        within(&[out, kernel, stride, padding + 1, output_padding + 1])?;
        if output_padding >= stride {
            return Err(format!("output_padding {output_padding} must be below stride {stride}"));
        }
        map(input, out, |size| ((size - 1) * stride + kernel + output_padding).checked_sub(2 * padding).filter(|&s| s > 0))
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let Self { out, kernel, stride, padding, output_padding, bias } = *self;
        let Shape::Map { height, width, .. } = self.output(input).map_err(failure)? else {
            return Err(failure("a transposed convolution makes a map"));
        };
        let shapes = Shapes {
            kind: "conv_transpose",
            weight: &[input.channels(), out, kernel, kernel],
            bias: bias.then_some(out),
            init: draw.init.conv,
            // PyTorch takes the second axis for fan_in, which here is the output: its convention, kept.
            fan_in: out * kernel * kernel,
            spectral: false,
        };
        let window = ConvWindow::new(kernel, stride, padding);
        let map = Map { window, output_padding, size: (height, width), precision: draw.place.precision };
        Product::build(map, &shapes, act, draw)
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
}

#[derive(Clone)]
struct Map {
    window: ConvWindow,
    output_padding: usize,
    /// Height and width of the result.
    size: (usize, usize),
    precision: Precision,
}

impl Bilinear for Map {
    fn apply(&self, x: &Tensor, kernels: &Tensor) -> Result<Tensor> {
        Ok(conv_input_grad(x, kernels, self.window, self.size, self.precision)?)
    }

    fn to_input(&self, _: &Tensor, kernels: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv(dy, kernels, self.window, self.precision)?)
    }

    fn to_kernels(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(conv_weight_grad(dy, x, self.window, self.precision)?)
    }

    fn op(&self, weight: Array, bias: Option<Vec<f32>>, _: &mut Graph, x: Value) -> Result<(Op, Value)> {
        let Self { window, output_padding, .. } = *self;
        Ok((Op::ConvTranspose { weight, bias, window, output_padding }, x))
    }
}
