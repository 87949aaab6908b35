//! What a network computes outside training, as a graph of operations with plain weights: what layers are turned into for export.

use std::collections::BTreeMap;

use super::geometry::ConvWindow;
use super::shape::Shape;

/// A dense array, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its sizes.
    pub dims: Vec<usize>,
    /// As many values as these make.
    pub values: Vec<f32>,
}

/// One operation on a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// `x Wᵀ + b`; `weight` is `[out, in]`.
    Gemm {
        /// W.
        weight: Array,
        /// b, by output channel.
        bias: Option<Vec<f32>>,
    },
    /// A convolution; `weight` is `[out, in / groups, k, k]`.
    Conv {
        /// W.
        weight: Array,
        /// b, by output channel.
        bias: Option<Vec<f32>>,
        /// Where the kernels lie.
        window: ConvWindow,
    },
    /// A transposed convolution; `weight` is `[in, out / groups, k, k]`.
    ConvTranspose {
        /// W.
        weight: Array,
        /// b, by output channel.
        bias: Option<Vec<f32>>,
        /// Where the kernels lie.
        window: ConvWindow,
        /// Rows and columns added at the bottom and the right.
        output_padding: usize,
    },
    /// `x · scale + shift` by channel; `map` says whether height and width follow.
    Affine {
        /// The factors.
        scale: Vec<f32>,
        /// What is added then.
        shift: Vec<f32>,
        /// Whether the values are a map, `[n, c, h, w]`.
        map: bool,
    },
    /// max(x, 0).
    Relu,
    /// max(x, slope · x).
    LeakyRelu(f64),
    /// tanh x.
    Tanh,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// A map in which each value has become a square of four.
    Nearest,
    /// The sum of two values.
    Add,
    /// Features `[n, c]` times a constant map each, `[c, 1, side, side]`.
    Basis(Array),
    /// Each image's values in another shape, in the order channel, row, column.
    Reshape(Shape),
    /// The first so many features as a one-hot vector of the largest.
    Categorical(usize),
}

impl Op {
    /// The shape of what it makes of one image's values of the shape `input`.
    pub fn output(&self, input: Shape) -> Shape {
        let placed = |channels: usize, sides: &dyn Fn(usize) -> usize| match input {
            Shape::Map { height, width, .. } => Shape::Map { channels, height: sides(height), width: sides(width) },
            Shape::Flat(_) => Shape::Flat(channels),
        };
        match self {
            Self::Gemm { weight, .. } => Shape::Flat(weight.dims[0]),
            Self::Conv { weight, window, .. } => placed(weight.dims[0], &|side| window.output(side)),
            Self::ConvTranspose { weight, window, output_padding, .. } => {
                let ConvWindow { kernel, stride, padding, .. } = *window;
                placed(weight.dims[1] * window.groups, &|side| (side - 1) * stride + kernel + output_padding - 2 * padding)
            }
            Self::Reshape(shape) => *shape,
            Self::Basis(map) => Shape::Map { channels: map.dims[0], height: map.dims[2], width: map.dims[3] },
            Self::Nearest => placed(input.channels(), &|side| 2 * side),
            Self::Add => input,
            Self::Affine { .. } | Self::Relu | Self::LeakyRelu(_) | Self::Tanh | Self::Sigmoid | Self::Categorical(_) => input,
        }
    }

    /// What it is called in a message, with its channels, if it is a linear operation.
    pub fn linear_name(&self) -> Option<String> {
        let groups = match self {
            Self::Conv { window, .. } | Self::ConvTranspose { window, .. } => window.groups,
            _ => 1,
        };
        let (kind, weight, [from, to]) = match self {
            Self::Gemm { weight, .. } => ("linear", weight, [1, 0]),
            Self::Conv { weight, .. } => ("conv", weight, [1, 0]),
            Self::ConvTranspose { weight, .. } => ("conv_transpose", weight, [0, 1]),
            Self::Affine { .. } | Self::Relu | Self::LeakyRelu(_) | Self::Tanh | Self::Sigmoid => return None,
            Self::Reshape(_) | Self::Categorical(_) | Self::Add | Self::Basis(_) | Self::Nearest => return None,
        };
        // The second axis counts the channels of one group.
        let channels = |axis: usize| weight.dims[axis] * if axis == 1 { groups } else { 1 };
        Some(format!("{kind} {} → {}", channels(from), channels(to)))
    }
}

/// What an operation makes or takes, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

/// An operation in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// From what.
    pub inputs: Vec<Value>,
    /// What it makes.
    pub output: Value,
}

/// Operations in an order in which they can be computed, with one input and one output.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// In an order in which they can be computed.
    pub nodes: Vec<Node>,
    /// What the network takes, images of maps with their channels first.
    pub input: Value,
    /// What it makes.
    pub output: Value,
    values: usize,
}

impl Default for Graph {
    fn default() -> Self {
        Self::new()
    }
}

impl Graph {
    /// A graph that hands its input on.
    pub fn new() -> Self {
        Self { nodes: Vec::new(), input: Value(0), output: Value(0), values: 1 }
    }

    /// A value that no operation makes yet.
    pub fn value(&mut self) -> Value {
        self.values += 1;
        Value(self.values - 1)
    }

    /// Adds an operation behind all others; gives what it makes.
    pub fn add(&mut self, op: Op, inputs: &[Value]) -> Value {
        let output = self.value();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), output });
        output
    }

    /// How many operations take a value; the graph's end counts as one.
    pub fn users(&self, value: Value) -> usize {
        let of_nodes = self.nodes.iter().flat_map(|node| &node.inputs).filter(|&&input| input == value).count();
        of_nodes + usize::from(self.output == value)
    }

    /// The place of the operation that makes a value; none makes the input.
    pub fn maker(&self, value: Value) -> Option<usize> {
        self.nodes.iter().position(|node| node.output == value)
    }

    /// The shapes of all values of one image, its input's being `input`.
    pub fn shapes(&self, input: Shape) -> BTreeMap<Value, Shape> {
        let mut shapes = BTreeMap::from([(self.input, input)]);
        for node in &self.nodes {
            let input = node.inputs.first().and_then(|input| shapes.get(input)).copied().unwrap_or(input);
            shapes.insert(node.output, node.op.output(input));
        }
        shapes
    }

    /// Has all who take `old` take `new` instead.
    pub fn replace(&mut self, old: Value, new: Value) {
        let inputs = self.nodes.iter_mut().flat_map(|node| &mut node.inputs);
        inputs.chain([&mut self.output]).filter(|value| **value == old).for_each(|value| *value = new);
    }
}
