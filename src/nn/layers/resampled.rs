//! Two layers built as one: a convolution with the mean of squares behind it, or with a map of twice the size before it, as the residual
//! networks of WGAN-GP have them (arXiv 1704.00028, appendix F). One convolution of stride 2 with a kernel that is one wider does the
//! same in 16 instead of 36 multiplications for a kernel of 3 (`nn::resample`), and the large map is never there.

use candle_core::{Device, Tensor};

use super::conv::Conv;
use super::fixed::{Downsample, Upsample};
use super::kind::Kind;
use super::layer::{Layer, failure};
use super::product::Bilinear;
use super::sequential::Sequential;
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv_input_grad_widened, conv_weight_grad_widened, conv_widened};
use crate::nn::geometry::{ConvWindow, Resampling};
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::Draw;
use crate::nn::precision::Precision;
use crate::nn::shape::Shape;

/// A convolution and what it is built with.
pub(super) struct Resampled<'a> {
    conv: &'a Conv,
    resampling: Resampling,
}

impl<'a> Resampled<'a> {
    /// If the two can be built as one.
    pub fn new(conv: &'a Conv, resampling: Resampling) -> Option<Self> {
        let fits = conv.stride == 1 && conv.group_width.is_none() && conv.padding < conv.kernel;
        fits.then_some(Self { conv, resampling })
    }

    /// Builds it; `draw` is for the first of the two layers, `output` what the second makes.
    pub fn build(&self, input: Shape, output: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let Conv { kernel, padding, .. } = *self.conv;
        let (before, padding) = match self.resampling {
            Resampling::Halved => (0, padding),
            Resampling::Doubled => (1, kernel - 1 - padding),
        };
        let draw = Draw { index: draw.index + before, ..*draw };
        if kernel == 1 {
            return self.build_point(input, act, &draw);
        }
        let size = match output {
            Shape::Map { height, width, .. } => (height, width),
            Shape::Flat(_) => (1, 1),
        };
        let window = ConvWindow::new(kernel + 1, 2, padding);
        let map = Map { resampling: self.resampling, window, size, precision: draw.place.precision };
        self.conv.build_as(map, input, act, &draw)
    }

    /// Of a kernel of 1: the same either way round, and cheaper on the smaller map. `draw` is for the convolution.
    fn build_point(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let shape = |made: Result<Shape, String>| made.map_err(failure);
        let layers = match self.resampling {
            Resampling::Halved => {
                let half = shape(Downsample::Average.output(input))?;
                vec![Downsample::Average.build(input, Activation::None, draw)?, self.conv.build(half, act, draw)?]
            }
            Resampling::Doubled => {
                let made = shape(self.conv.output(input))?;
                vec![self.conv.build(input, act, draw)?, Upsample::Nearest.build(made, Activation::None, draw)?]
            }
        };
        Ok(Box::new(Sequential::of(layers)))
    }
}

#[derive(Clone)]
struct Map {
    resampling: Resampling,
    /// Of the one convolution.
    window: ConvWindow,
    /// Height and width of the result.
    size: (usize, usize),
    precision: Precision,
}

impl Bilinear for Map {
    fn apply(&self, x: &Tensor, kernels: &Tensor) -> Result<Tensor> {
        let widened = Some(self.resampling);
        Ok(match self.resampling {
            Resampling::Halved => conv_widened(x, kernels, widened, self.window, self.precision)?,
            Resampling::Doubled => conv_input_grad_widened(x, kernels, widened, self.window, self.size, self.precision)?,
        })
    }

    fn to_input(&self, x: &Tensor, kernels: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (widened, size) = (Some(self.resampling), (x.dim(1)?, x.dim(2)?));
        Ok(match self.resampling {
            Resampling::Halved => conv_input_grad_widened(dy, kernels, widened, self.window, size, self.precision)?,
            Resampling::Doubled => conv_widened(dy, kernels, widened, self.window, self.precision)?,
        })
    }

    fn to_kernels(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (from, to) = match self.resampling {
            Resampling::Halved => (x, dy),
            Resampling::Doubled => (dy, x),
        };
        Ok(conv_weight_grad_widened(from, to, Some(self.resampling), self.window, self.precision)?)
    }

    fn op(&self, weight: Array, bias: Option<Vec<f32>>, _: &mut Graph, x: Value) -> Result<(Op, Value)> {
        let wide = self.resampling.widen(&Tensor::from_vec(weight.values, &weight.dims[..], &Device::Cpu)?)?;
        let weight = Array { dims: wide.dims().to_vec(), values: wide.flatten_all()?.to_vec1()? };
        let window = self.window;
        Ok(match self.resampling {
            Resampling::Halved => (Op::Conv { weight, bias, window }, x),
            Resampling::Doubled => (Op::ConvTranspose { weight, bias, window, output_padding: 0 }, x),
        })
    }
}
