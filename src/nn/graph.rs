//! What a network computes outside training, as a graph of operations with plain weights: what layers are turned into for export.

use super::geometry::Window;
use super::shape::Shape;

/// A dense array, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Array {
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

/// One operation on a batch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    /// `x Wᵀ + b`; `weight` is `[out, in]`.
    Gemm {
        weight: Array,
        bias: Option<Vec<f32>>,
    },
    /// `weight` is `[out, in, k, k]`.
    Conv {
        weight: Array,
        bias: Option<Vec<f32>>,
        window: Window,
    },
    /// `weight` is `[in, out, k, k]`.
    ConvTranspose {
        weight: Array,
        bias: Option<Vec<f32>>,
        window: Window,
        output_padding: usize,
    },
    /// `x · scale + shift` by channel; `map` says whether height and width follow.
    Affine {
        scale: Vec<f32>,
        shift: Vec<f32>,
        map: bool,
    },
    Relu,
    LeakyRelu(f64),
    Tanh,
    Sigmoid,
    Reshape(Shape),
    /// The first so many features as a one-hot vector of the largest.
    Categorical(usize),
}

/// What an operation makes or takes, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Value(usize);

/// An operation in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub op: Op,
    pub inputs: Vec<Value>,
    pub output: Value,
}

/// Operations in an order in which they can be computed, with one input and one output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    pub input: Value,
    pub output: Value,
    values: usize,
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

    /// Has all who take `old` take `new` instead.
    pub fn replace(&mut self, old: Value, new: Value) {
        let inputs = self.nodes.iter_mut().flat_map(|node| &mut node.inputs);
        inputs.chain([&mut self.output]).filter(|value| **value == old).for_each(|value| *value = new);
    }
}
