//! Layers that convolve every channel with a kernel that nobody learns: maps of twice or half the size, and pooling.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::layer::{Layer, Pass, Traced, Wanted};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::conv::{conv, conv_input_grad};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::init::Draw;
use crate::nn::precision::Precision;
use crate::nn::shape::Shape;

/// How a map becomes twice as large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upsample {
    /// Each value becomes a square of four.
    Nearest,
    /// The filter [1, 3, 3, 1] along both axes, with zeros around the map: linear interpolation but for the edge (arXiv 1912.04958).
    Binomial,
}

/// How a map becomes half as large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Downsample {
    /// The mean of each square of four.
    Average,
    /// The filter [1, 3, 3, 1] along both axes, with zeros around the map (arXiv 1912.04958).
    Binomial,
}

/// What becomes of a whole map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// Each channel's sum.
    Sum,
    /// Each channel's mean.
    Average,
}

/// [1, 3, 3, 1] / 8 twice: halves a map; four times as much doubles one.
const BINOMIAL: [f64; 4] = [0.125, 0.375, 0.375, 0.125];

/// A filter with its window, as a convolution makes a map smaller by it.
fn filter(row: &[f64], padding: usize, scale: f64) -> (Vec<f64>, ConvWindow) {
    let values = row.iter().flat_map(|a| row.iter().map(move |b| a * b * scale)).collect();
    (values, ConvWindow::new(row.len(), 2, padding))
}

impl Kind for Upsample {
    fn hands_over(&self) -> bool {
        true
    }

    fn output(&self, input: Shape) -> Result<Shape, String> {
        match input {
            Shape::Map { channels, height, width } => Ok(Shape::Map { channels, height: 2 * height, width: 2 * width }),
            Shape::Flat(_) => Err(format!("upsample needs a map, but gets {input}: put a reshape before it")),
        }
    }

    fn build(&self, input: Shape, _: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let (values, window) = match self {
            Self::Nearest => filter(&[0.5, 0.5], 0, 4.0),
            Self::Binomial => filter(&BINOMIAL, 1, 4.0),
        };
        Fixed::build(&values, window, input, self.output(input), true, draw)
    }
}

impl Kind for Downsample {
    fn hands_over(&self) -> bool {
        true
    }

    fn output(&self, input: Shape) -> Result<Shape, String> {
        match input {
            Shape::Map { channels, height, width } if height > 1 && width > 1 => {
                Ok(Shape::Map { channels, height: height / 2, width: width / 2 })
            }
            _ => Err(format!("downsample needs a map of at least 2×2, but gets {input}")),
        }
    }

    fn build(&self, input: Shape, _: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let (values, window) = match self {
            Self::Average => filter(&[0.5, 0.5], 0, 1.0),
            Self::Binomial => filter(&BINOMIAL, 1, 1.0),
        };
        Fixed::build(&values, window, input, self.output(input), false, draw)
    }
}

impl Kind for Pool {
    fn hands_over(&self) -> bool {
        true
    }

    fn output(&self, input: Shape) -> Result<Shape, String> {
        match input {
            Shape::Map { channels, height, width } if height == width => Ok(Shape::Flat(channels)),
            _ => Err(format!("pool needs a square map, but gets {input}")),
        }
    }

    fn build(&self, input: Shape, _: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let positions = input.elements() / input.channels();
        let value = match self {
            Self::Sum => 1.0,
            Self::Average => 1.0 / positions as f64,
        };
        let window = ConvWindow::new(positions.isqrt(), 1, 0);
        Fixed::build(&vec![value; positions], window, input, self.output(input), false, draw)
    }
}

/// A convolution of each channel by itself with the same kernel, or its transpose, which makes a map larger.
#[derive(Clone)]
struct Fixed {
    /// `[channels, 1, k, k]`
    kernels: Tensor,
    window: ConvWindow,
    /// Whether it is the transpose.
    transposed: bool,
    shapes: [Shape; 2],
}

impl Fixed {
    fn build(
        values: &[f64],
        window: ConvWindow,
        input: Shape,
        output: Result<Shape, String>,
        transposed: bool,
        draw: &Draw<'_>,
    ) -> Result<Box<dyn Layer>> {
        let output = output.map_err(super::layer::failure)?;
        let channels = input.channels();
        let all = values.repeat(channels);
        let kernels = Tensor::from_vec(all, (channels, 1, window.kernel, window.kernel), &draw.place.device)?;
        let kernels = kernels.to_dtype(draw.place.dtype)?;
        Ok(Box::new(Self { kernels, window: window.in_groups(channels), transposed, shapes: [input, output] }))
    }

    fn run(&self, x: &Tensor, transposed: bool, from: Shape, to: Shape) -> Result<Tensor> {
        let (x, [height, width]) = (as_map(x, from)?, sides(to));
        let y = match transposed {
            true => conv_input_grad(&x, &self.kernels, self.window, (height, width), Precision::F32)?,
            false => conv(&x, &self.kernels, self.window, Precision::F32)?,
        };
        Ok(match to {
            Shape::Flat(_) => y.flatten_from(1)?,
            Shape::Map { .. } => y,
        })
    }

    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, self.transposed, self.shapes[0], self.shapes[1])
    }

    fn back(&self, dy: &Tensor) -> Result<Tensor> {
        self.run(dy, !self.transposed, self.shapes[1], self.shapes[0])
    }
}

impl Fixed {
    /// [1, 3, 3, 1] / 4 doubles a map as [1, 2, 1] / 4 does once each value has become two: 0.15 to 0.63 of what a transposed
    /// convolution in groups takes onnxruntime (benches/RESULTS.md).
    fn export_larger(&self, graph: &mut Graph, x: Value) -> Value {
        let doubled = graph.add(Op::Nearest, &[x]);
        if self.window.kernel == 2 {
            return doubled;
        }
        let channels = self.window.groups;
        let row = [0.25, 0.5, 0.25];
        let kernel: Vec<f32> = row.iter().flat_map(|a| row.iter().map(move |b| a * b)).collect();
        let weight = Array { dims: vec![channels, 1, row.len(), row.len()], values: kernel.repeat(channels) };
        let window = ConvWindow::new(row.len(), 1, 1).in_groups(channels);
        graph.add(Op::Conv { weight, bias: None, window }, &[doubled])
    }
}

/// Features as a map of one position.
fn as_map(x: &Tensor, shape: Shape) -> Result<Tensor> {
    Ok(match shape {
        Shape::Flat(features) => x.reshape((x.dim(0)?, 1, 1, features))?,
        Shape::Map { .. } => x.clone(),
    })
}

/// Height and width.
fn sides(shape: Shape) -> [usize; 2] {
    match shape {
        Shape::Flat(_) => [1, 1],
        Shape::Map { height, width, .. } => [height, width],
    }
}

impl Layer for Fixed {
    fn forward(&self, x: &Tensor, _: Pass) -> Result<Tensor> {
        self.apply(x)
    }

    fn trace(&self, x: &Tensor, _: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        Ok((self.apply(x)?, Box::new(TracedFixed(self.clone()))))
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        if self.transposed {
            return Ok(self.export_larger(graph, x));
        }
        let values = self.kernels.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let weight = Array { dims: self.kernels.dims().to_vec(), values };
        let y = graph.add(Op::Conv { weight, bias: None, window: self.window }, &[x]);
        Ok(match self.shapes[1] {
            flat @ Shape::Flat(_) => graph.add(Op::Reshape(flat), &[y]),
            Shape::Map { .. } => y,
        })
    }
}

/// Linear: every way is the layer itself or its transpose.
struct TracedFixed(Fixed);

impl Traced for TracedFixed {
    fn vjp(self: Box<Self>, dy: Tensor, _: Wanted, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        Ok((if needs_input { self.0.back(&dy)? } else { dy }, Vec::new()))
    }

    fn vjp_to_input(&mut self, dy: Tensor) -> Result<Tensor> {
        self.0.back(&dy)
    }

    fn jvp(&mut self, dx: Tensor, _: bool, _: Option<&Tensor>) -> Result<Tensor> {
        self.0.apply(&dx)
    }

    fn second_order(&mut self, adjoint: Option<Tensor>, needs_input: bool) -> Result<Option<Tensor>> {
        match adjoint {
            Some(adjoint) if needs_input => self.0.back(&adjoint).map(Some),
            other => Ok(other),
        }
    }
}
