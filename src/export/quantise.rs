//! From a graph in f32 to the same in whole numbers. Any linear operation may be left as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::calibrate::{Method, Seen};
use super::integer::{IntegerNetwork, Lie, MOST_WEIGHT, Scale, Step, StepNode, Table, Taken, Weave, quantise_kernels, sides};
use super::phases::Phases;
use crate::contract::Layout;
use crate::error::{Error, Result};
use crate::image::Range;
use crate::nn::graph::{Array, Graph, Node, Op, Value};
use crate::nn::shape::Shape;

/// How a graph is quantised.
pub(super) struct Recipe<'a> {
    pub seen: &'a Seen,
    pub method: Method,
    /// The places of linear operations that stay in f32.
    pub real: &'a BTreeSet<usize>,
    pub range: Range,
    pub layout: Layout,
}

/// Quantises a graph that takes latents of `latent` values.
///
/// # Errors
/// When a value was not seen in calibration.
pub(super) fn quantise(graph: &Graph, latent: usize, recipe: &Recipe) -> Result<IntegerNetwork> {
    let mut maker = Maker {
        graph,
        recipe,
        nodes: Vec::new(),
        shapes: BTreeMap::from([(graph.input, Shape::Flat(latent))]),
        next: graph.clone(),
        real: BTreeMap::from([(graph.input, graph.input)]),
        whole: BTreeMap::new(),
        skipped: BTreeSet::new(),
        makes_pixels: false,
    };
    for (place, node) in graph.nodes.iter().enumerate() {
        let shape = node.op.output(maker.shape(node.inputs[0]));
        maker.shapes.insert(node.output, shape);
        if !maker.skipped.contains(&place) {
            maker.add(place, node)?;
        }
    }
    maker.finish(latent)
}

/// Whether a linear operation can be had in whole numbers: all its sums lie within s32, whatever it takes, and its phases are neither
/// many nor mostly cut off, for then they would be more work than it is.
pub(super) fn fits(op: &Op) -> bool {
    /// The rest is for the bias.
    const MOST: usize = 1 << 30;
    const MOST_STRIDE: usize = 4;
    if let Op::ConvTranspose { window, .. } = op
        && (window.stride > MOST_STRIDE || window.padding >= window.kernel)
    {
        return false;
    }
    // Groups of a few channels are little work, and there are no integer kernels for them that are faster.
    if let Op::Conv { window, .. } | Op::ConvTranspose { window, .. } = op
        && window.groups > 1
    {
        return false;
    }
    let products = match op {
        Op::Gemm { weight, .. } | Op::Conv { weight, .. } => weight.values.len() / weight.dims[0].max(1),
        Op::ConvTranspose { weight, .. } => weight.values.len() / weight.dims[1].max(1),
        Op::Affine { .. } | Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Categorical(_) => 0,
        Op::Add | Op::Basis(_) | Op::Nearest => 0,
    };
    products.saturating_mul(255 * MOST_WEIGHT as usize) <= MOST
}

/// A value in u8, and what that means.
#[derive(Clone, Copy)]
struct Whole {
    value: Value,
    scale: Scale,
    /// Of features: whether they are in the order row, column, channel of the map that they become.
    is_map_order: bool,
}

struct Maker<'a> {
    graph: &'a Graph,
    recipe: &'a Recipe<'a>,
    nodes: Vec<StepNode>,
    /// Of the graph's values.
    shapes: BTreeMap<Value, Shape>,
    /// Gives values that the graph does not have.
    next: Graph,
    /// Which values of the graph there are in f32, and under which name.
    real: BTreeMap<Value, Value>,
    /// Which there are in u8.
    whole: BTreeMap<Value, Whole>,
    /// Operations that another one took in.
    skipped: BTreeSet<usize>,
    makes_pixels: bool,
}

impl Maker<'_> {
    fn shape(&self, value: Value) -> Shape {
        self.shapes.get(&value).copied().unwrap_or(Shape::Flat(1))
    }

    fn push(&mut self, step: Step, input: Value, shapes: [Shape; 2]) -> Value {
        let output = self.next.value();
        self.nodes.push(StepNode { step, input, beside: None, output, shapes });
        output
    }

    fn add(&mut self, place: usize, node: &Node) -> Result<()> {
        let input = node.inputs[0];
        match &node.op {
            Op::Gemm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } if !self.recipe.real.contains(&place) => {
                self.linear(node)
            }
            Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid if self.whole.contains_key(&input) => self.table(node),
            Op::Reshape(shape) if self.whole.contains_key(&input) => {
                let whole = self.whole(input)?;
                let step = if whole.is_map_order { Step::AsMap } else { Step::Reshape };
                let value = self.push(step, whole.value, [self.shape(input), *shape]);
                self.whole.insert(node.output, Whole { value, is_map_order: false, ..whole });
                Ok(())
            }
            Op::Gemm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Affine { .. } | Op::Categorical(_) => {
                self.real_step(node)
            }
            Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Basis(_) | Op::Nearest => {
                self.real_step(node)
            }
            Op::Add => self.sum(node),
        }
    }

    fn real_step(&mut self, node: &Node) -> Result<()> {
        let input = self.in_f32(node.inputs[0])?;
        let shapes = [self.shape(node.inputs[0]), self.shape(node.output)];
        let value = self.push(Step::Real(node.op.clone()), input, shapes);
        self.real.insert(node.output, value);
        Ok(())
    }

    /// A sum in f32: its terms have scales of their own.
    fn sum(&mut self, node: &Node) -> Result<()> {
        let beside = self.in_f32(node.inputs[1])?;
        self.real_step(node)?;
        if let Some(step) = self.nodes.last_mut() {
            step.beside = Some(beside);
        }
        Ok(())
    }

    /// A value in f32.
    fn in_f32(&mut self, value: Value) -> Result<Value> {
        if let Some(&real) = self.real.get(&value) {
            return Ok(real);
        }
        let whole = self.whole(value)?;
        let shape = self.shape(value);
        let real = self.push(Step::Dequantise(whole.scale), whole.value, [shape; 2]);
        self.real.insert(value, real);
        Ok(real)
    }

    /// A value in u8.
    fn whole(&mut self, value: Value) -> Result<Whole> {
        if let Some(&whole) = self.whole.get(&value) {
            return Ok(whole);
        }
        let scale = self.scale(value, None)?;
        let real = self.in_f32_only(value)?;
        let shape = self.shape(value);
        let quantised = self.push(Step::Quantise(scale), real, [shape; 2]);
        let whole = Whole { value: quantised, scale, is_map_order: false };
        self.whole.insert(value, whole);
        Ok(whole)
    }

    fn in_f32_only(&self, value: Value) -> Result<Value> {
        let lost = || Error::Verification("an operation's input is neither in f32 nor in u8".to_string());
        self.real.get(&value).copied().ok_or_else(lost)
    }

    fn scale(&self, value: Value, follows: Option<&Op>) -> Result<Scale> {
        let seen = self.recipe.seen.get(&value);
        let lost = || Error::Verification("calibration did not see a layer's values".to_string());
        Ok(seen.ok_or_else(lost)?.scale(self.recipe.method, follows))
    }

    /// The one operation that takes a value.
    fn follows(&self, value: Value) -> Option<(usize, &Node)> {
        let mut users = self.graph.nodes.iter().enumerate().filter(|(_, node)| node.inputs.contains(&value));
        users.next().filter(|_| self.graph.users(value) == 1)
    }

    /// A linear operation in whole numbers, with the ReLU behind it: below 0 there is no u8.
    fn linear(&mut self, node: &Node) -> Result<()> {
        let from = self.whole(node.inputs[0])?;
        let (mut output, mut weight_factor, mut bias_shift) = (node.output, 1.0, 0.0);
        let mut last = None;
        let follows = self.follows(node.output).map(|(place, node)| (place, node.clone()));
        if let Some((place, Node { op: Op::Relu, output: after, .. })) = &follows {
            output = *after;
            self.skipped.insert(*place);
            self.shapes.insert(output, self.shape(node.output));
        } else if let Some((place, behind)) = &follows
            && behind.output == self.graph.output
            && let Some(factor) = self.pixel_factor(&behind.op)
        {
            // tanh x = 2 σ(2x) − 1: with the kernels twice as large, a sigmoid gives the pixels themselves.
            weight_factor = factor;
            last = Some(behind.clone());
            self.skipped.insert(*place);
        }
        // A ReLU's 0 is not the pixel 0, so with one behind it the sums are not the pixels.
        let is_pixels = last.is_none() && node.output == self.graph.output && self.recipe.layout != Layout::NchwF32;
        let to = if is_pixels {
            // Without an activation at the end the sums are the pixels, in the right units.
            let (scale, shift) = self.recipe.range.to_pixel();
            (weight_factor, bias_shift) = (scale, shift - 0.5);
            self.makes_pixels = true;
            Scale { scale: 1.0, zero: 0 }
        } else {
            let follows = last.as_ref().map(|node| &node.op).or(follows.as_ref().map(|(_, node)| &node.op));
            let scale = self.scale(output, follows)?;
            Scale { scale: scale.scale * weight_factor, ..scale }
        };
        let shapes = [self.shape(node.inputs[0]), self.shape(node.output)];
        let map = self.becomes_map(output).filter(|_| matches!(node.op, Op::Gemm { .. }));
        let means = self.recipe.seen.get(&node.inputs[0]).map(|seen| seen.means.clone()).unwrap_or_default();
        let taken = Taken { scale: from.scale, means, sides: sides(shapes[0]) };
        let step = linear_step(&node.op, [weight_factor, bias_shift], map, &taken, to, shapes);
        let value = self.push(step, from.value, shapes);
        self.whole.insert(output, Whole { value, scale: to, is_map_order: map.is_some() });
        match last {
            Some(node) => self.pixels(&node, value, to),
            None => Ok(()),
        }
    }

    /// The map that features become next, if they do.
    fn becomes_map(&self, value: Value) -> Option<Shape> {
        match self.follows(value)?.1.op {
            Op::Reshape(shape @ Shape::Map { .. }) => Some(shape),
            _ => None,
        }
    }

    /// By what the input of the last activation is multiplied so that a sigmoid of it, times 255, is the pixel.
    fn pixel_factor(&self, op: &Op) -> Option<f32> {
        match (op, self.recipe.range) {
            _ if self.recipe.layout == Layout::NchwF32 => None,
            (Op::Tanh, Range::Tanh) => Some(2.0),
            (Op::Sigmoid, Range::Sigmoid) => Some(1.0),
            _ => None,
        }
    }

    fn pixels(&mut self, node: &Node, value: Value, from: Scale) -> Result<()> {
        let to = Scale { scale: 1.0 / 255.0, zero: 0 };
        let shape = self.shape(node.inputs[0]);
        let value = self.push(Step::Table(Table { op: Op::Sigmoid, from, to }), value, [shape; 2]);
        self.shapes.insert(node.output, shape);
        self.whole.insert(node.output, Whole { value, scale: to, is_map_order: false });
        self.makes_pixels = true;
        Ok(())
    }

    fn table(&mut self, node: &Node) -> Result<()> {
        let from = self.whole(node.inputs[0])?;
        let to = self.scale(node.output, None)?;
        let shape = self.shape(node.inputs[0]);
        let table = Table { op: node.op.clone(), from: from.scale, to };
        let value = self.push(Step::Table(table), from.value, [shape; 2]);
        self.whole.insert(node.output, Whole { value, scale: to, ..from });
        Ok(())
    }

    fn finish(mut self, latent: usize) -> Result<IntegerNetwork> {
        let output = self.graph.output;
        let value = if self.makes_pixels { self.whole(output)?.value } else { self.in_f32(output)? };
        Ok(IntegerNetwork {
            nodes: self.nodes,
            input: self.graph.input,
            output: value,
            input_shape: Shape::Flat(latent),
            output_shape: self.shapes.get(&output).copied().unwrap_or(Shape::Flat(1)),
            makes_pixels: self.makes_pixels,
        })
    }
}

/// A linear operation with its weights times `factor`, its bias times that plus `shift`.
fn linear_step(op: &Op, affine: [f32; 2], map: Option<Shape>, taken: &Taken, to: Scale, shapes: [Shape; 2]) -> Step {
    let from = taken.scale;
    let [factor, shift] = affine;
    let scaled = |weight: &Array| Array { values: weight.values.iter().map(|w| w * factor).collect(), ..weight.clone() };
    let biased = |bias: &Option<Vec<f32>>, channels: usize| -> Vec<f32> {
        let bias = bias.clone().unwrap_or_else(|| vec![0.0; channels]);
        bias.into_iter().map(|bias| bias * factor + shift).collect()
    };
    match op {
        Op::Gemm { weight, bias } => {
            let (mut weight, mut bias) = (scaled(weight), biased(bias, weight.dims[0]));
            if let Some(Shape::Map { channels, height, width }) = map {
                (weight, bias) = rows_by_place(&weight, &bias, channels, height * width);
            }
            Step::Linear { kernels: quantise_kernels(&weight, &bias, taken, Lie::SINGLE), from, to }
        }
        Op::Conv { weight, bias, window } => {
            let lie = Lie { stride: window.stride, pads: [window.padding; 4], places: sides(shapes[1]) };
            let kernels = quantise_kernels(&scaled(weight), &biased(bias, weight.dims[0]), taken, lie);
            Step::Linear { kernels, from, to }
        }
        Op::ConvTranspose { weight, bias, window, .. } => {
            let bias = biased(bias, weight.dims[1]);
            let phases = Phases::of(&scaled(weight), Some(&bias), *window, sides(shapes[0]), sides(shapes[1]));
            let quantised = phases.convs.iter().map(|conv| {
                let lie = Lie { stride: 1, pads: conv.pads, places: phases.places };
                quantise_kernels(&conv.weight, &conv.bias, taken, lie)
            });
            Step::Phases { kernels: quantised.collect(), weave: Weave::of(&phases), from, to }
        }
        Op::Affine { .. } | Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Categorical(_) => {
            Step::Real(op.clone())
        }
        Op::Add | Op::Basis(_) | Op::Nearest => Step::Real(op.clone()),
    }
}

/// Rows of a matrix, which make the features channel by channel, in the order of places instead.
fn rows_by_place(weight: &Array, bias: &[f32], channels: usize, places: usize) -> (Array, Vec<f32>) {
    let row = weight.dims[1];
    let order = (0..places).flat_map(|place| (0..channels).map(move |channel| channel * places + place));
    let values = order.clone().flat_map(|at| weight.values[at * row..(at + 1) * row].iter().copied()).collect();
    (Array { dims: weight.dims.clone(), values }, order.map(|at| bias[at]).collect())
}
