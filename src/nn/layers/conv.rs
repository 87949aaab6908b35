//! Convolution with a square kernel.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::kind::{CRITICS_ONLY, Kind, check_gain, map, one, within, yes};
use super::layer::Layer;
use super::product::{Bilinear, Product, Shapes};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::{Draw, Init, Role};
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
    /// Input channels a group: each group of channels is convolved by itself. Not given: one group of all; 1: depthwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_width: Option<usize>,
    /// Whether there is a bias.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Weights begin as N(0, (gain / √fan_in)²), whatever `init.conv` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// Whether the kernels are divided by their largest singular value (arXiv 1802.05957); critics only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spectral: bool,
}

impl Conv {
    /// Groups of channels.
    fn groups(&self, input: Shape) -> usize {
        self.group_width.map_or(1, |width| input.channels() / width.max(1)).max(1)
    }

    /// Builds it as a map that has its parameters.
    pub(super) fn build_as(
        &self,
        map: impl Bilinear,
        input: Shape,
        act: Activation,
        draw: &Draw<'_>,
    ) -> Result<Box<dyn Layer>> {
        let Self { out, kernel, bias, spectral, .. } = *self;
        let channels = input.channels() / self.groups(input);
        let shapes = Shapes {
            kind: "conv",
            weight: &[out, channels, kernel, kernel],
            bias: bias.then_some(out),
            init: self.gain.map_or(draw.init.conv, Init::Gain),
            fan_in: channels * kernel * kernel,
            spectral,
        };
        Product::build(map, &shapes, act, draw)
    }
}

impl Kind for Conv {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        let Self { out, kernel, stride, padding, group_width, .. } = *self;
        within(&[out, kernel, stride, padding + 1, group_width.unwrap_or(1)])?;
        check_gain(self.gain)?;
        if let Some(width) = group_width {
            check_groups(input.channels(), width, out)?;
            if padding >= kernel {
                return Err(format!("padding {padding} must be below kernel {kernel} where channels are in groups"));
            }
        }
        map(input, out, |size| (size + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1))
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let window = ConvWindow::new(self.kernel, self.stride, self.padding).in_groups(self.groups(input));
        self.build_as(Map { window, precision: draw.place.precision }, input, act, draw)
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
        (self.kernel * self.kernel) as f64 * self.out as f64 * (input.channels() / self.groups(input)) as f64
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

/// Refuses groups that do not come out even.
fn check_groups(channels: usize, width: usize, out: usize) -> Result<(), String> {
    let groups = channels / width;
    if !channels.is_multiple_of(width) {
        return Err(format!("{channels} channels are no whole groups of group_width = {width}"));
    }
    if !out.is_multiple_of(groups) {
        return Err(format!(
            "out = {out} is no multiple of the {groups} groups that group_width = {width} makes of {channels} channels"
        ));
    }
    Ok(())
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

    fn op(&self, weight: Array, bias: Option<Vec<f32>>, _: &mut Graph, x: Value) -> Result<(Op, Value)> {
        Ok((Op::Conv { weight, bias, window: self.window }, x))
    }
}
