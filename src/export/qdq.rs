//! A network in whole numbers as ONNX: standard QDQ of opset 17, in the form that onnxruntime turns into its integer kernels.
//!
//! Its convolutions (QLinearConv) want maps with their channels last and put transpositions around themselves. So here maps of u8 have
//! their channels last, too, with a Transpose before and behind each convolution: those cancel out, and what interleaves phases is
//! plain copies of rows (Concat). DepthToSpace and a Concat of channels, the usual form, took a quarter of the time.

use std::collections::HashMap;

use super::onnx::tensor_proto::DataType;

use super::integer::{IntegerNetwork, Kernels, Scale, Step, StepNode, Table, Weave};
use super::model::{Builder, int, ints, name_of, tensor};
use crate::contract::{self, Contract, Layout};
use crate::nn::shape::Shape;

const CHANNELS_FIRST: [usize; 4] = [0, 3, 1, 2];
const CHANNELS_LAST: [usize; 4] = [0, 2, 3, 1];

impl Builder {
    /// Adds the network, and what makes the contract's output of its values.
    pub(super) fn integer_network(&mut self, network: &IntegerNetwork, contract: &Contract) {
        let mut values = HashMap::from([(network.input, contract::GENERATOR_INPUT.to_string())]);
        for node in &network.nodes {
            let x = name_of(&values, node.input);
            let made = match (&node.step, node.beside) {
                (Step::Real(op), Some(beside)) => self.op(op, &[x, name_of(&values, beside)]),
                _ => self.step(node, &x),
            };
            values.insert(node.output, made);
        }
        let last = name_of(&values, network.output);
        if network.makes_pixels {
            self.pixels(&last, network.output_shape, contract);
        } else {
            self.output(&last, contract);
        }
    }

    fn step(&mut self, node: &StepNode, x: &str) -> String {
        let [from_shape, to_shape] = node.shapes;
        match &node.step {
            Step::Real(op) => self.op(op, &[x.to_string()]),
            Step::Quantise(scale) => {
                let quantised = self.quantise(x, *scale);
                self.channels_last(&quantised, from_shape)
            }
            Step::Dequantise(scale) => {
                let first = self.channels_first(x, from_shape);
                self.dequantise(&first, *scale)
            }
            Step::Linear { kernels, from, to } if matches!(from_shape, Shape::Flat(_)) => self.product(x, kernels, *from, *to),
            Step::Linear { kernels, from, to } => {
                let real = self.real_map(x, *from);
                self.plain_convolution(&real, kernels, *from, *to)
            }
            Step::Phases { kernels, weave, from, to } => {
                let real = self.real_map(x, *from);
                let made: Vec<String> =
                    kernels.iter().map(|kernels| self.plain_convolution(&real, kernels, *from, *to)).collect();
                self.interleave(made, *weave)
            }
            Step::Table(table) => self.table(x, table),
            Step::AsMap => self.reshape_last(x, to_shape),
            Step::Reshape => {
                let first = self.channels_first(x, from_shape);
                let reshaped = match to_shape {
                    Shape::Flat(features) => self.reshape(&first, &[features]),
                    Shape::Map { channels, height, width } => self.reshape(&first, &[channels, height, width]),
                };
                self.channels_last(&reshaped, to_shape)
            }
        }
    }

    /// Real values of a map, channels first, as the convolutions take it.
    fn real_map(&mut self, x: &str, scale: Scale) -> String {
        let first = self.node("Transpose", x, &[], vec![ints("perm", &CHANNELS_FIRST)]);
        self.dequantise(&first, scale)
    }

    fn quantise(&mut self, x: &str, scale: Scale) -> String {
        let inputs = self.scale(scale);
        self.node("QuantizeLinear", x, &inputs, vec![])
    }

    fn dequantise(&mut self, x: &str, scale: Scale) -> String {
        let inputs = self.scale(scale);
        self.node("DequantizeLinear", x, &inputs, vec![])
    }

    fn scale(&mut self, Scale { scale, zero }: Scale) -> [String; 2] {
        let step = self.scalar("scale", scale);
        let name = self.name("zero");
        self.weights.push(tensor(&name, &[], DataType::Uint8, vec![zero]));
        [step, name]
    }

    /// Weights in s8 as real ones, `axis` the one of output channels.
    fn real_weights(&mut self, weights: Vec<i8>, dims: &[usize], scales: &[f32], axis: i64) -> String {
        let name = self.name("weight");
        self.weights.push(tensor(&name, dims, DataType::Int8, weights.iter().map(|&w| w as u8).collect()));
        self.by_channel(&name, "weight", scales, DataType::Int8, axis)
    }

    /// A bias in s32 as a real one.
    fn real_bias(&mut self, kernels: &Kernels, from: Scale) -> String {
        let name = self.name("bias");
        let bytes = kernels.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
        self.weights.push(tensor(&name, &[kernels.bias.len()], DataType::Int32, bytes));
        let scales: Vec<f32> = kernels.scales.iter().map(|scale| scale * from.scale).collect();
        self.by_channel(&name, "bias", &scales, DataType::Int32, 0)
    }

    fn by_channel(&mut self, x: &str, what: &str, scales: &[f32], kind: DataType, axis: i64) -> String {
        let [step, zero] = ["scales", "zeros"].map(|part| self.name(&format!("{what}_{part}")));
        let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        self.weights.push(tensor(&step, &[scales.len()], DataType::Float, bytes));
        let size = if kind == DataType::Int32 { 4 } else { 1 };
        self.weights.push(tensor(&zero, &[scales.len()], kind, vec![0; size * scales.len()]));
        self.node("DequantizeLinear", x, &[step, zero], vec![int("axis", axis)])
    }

    fn product(&mut self, x: &str, kernels: &Kernels, from: Scale, to: Scale) -> String {
        let real = self.dequantise(x, from);
        let (outputs, inputs) = (kernels.dims[0], kernels.dims[1]);
        // onnxruntime's integer Gemm knows a scale a column.
        let transposed = (0..inputs * outputs).map(|at| kernels.weights[at % outputs * inputs + at / outputs]).collect();
        let weight = self.real_weights(transposed, &[inputs, outputs], &kernels.scales, 1);
        let bias = self.real_bias(kernels, from);
        let sums = self.node("Gemm", &real, &[weight, bias], vec![]);
        self.quantise(&sums, to)
    }

    /// A convolution of real values; gives u8, channels last.
    fn plain_convolution(&mut self, real: &str, kernels: &Kernels, from: Scale, to: Scale) -> String {
        let weight = self.real_weights(kernels.weights.clone(), &kernels.dims, &kernels.scales, 0);
        let bias = self.real_bias(kernels, from);
        let attributes =
            vec![ints("kernel_shape", &kernels.dims[2..]), ints("pads", &kernels.pads), ints("strides", &[kernels.stride; 2])];
        let sums = self.node("Conv", real, &[weight, bias], attributes);
        let quantised = self.quantise(&sums, to);
        self.node("Transpose", &quantised, &[], vec![ints("perm", &CHANNELS_LAST)])
    }

    /// Phases, channels last, as one map: columns side by side, then rows under each other.
    fn interleave(&mut self, made: Vec<String>, weave: Weave) -> String {
        let Weave { stride, channels, joined, places: [rows, columns], size } = weave;
        let [whole_rows, whole_columns] = weave.whole();
        let mut map = match made.as_slice() {
            [one] if stride == 1 => one.clone(),
            [all] if joined => {
                let row = stride * channels;
                let bands: Vec<String> = (0..stride).map(|band| self.part(all, 3, band * row, (band + 1) * row)).collect();
                self.rows(&bands, rows, columns * row)
            }
            phases => {
                let bands: Vec<String> =
                    phases.chunks(stride).map(|band| self.node("Concat", &band[0], &band[1..], vec![int("axis", 3)])).collect();
                self.rows(&bands, rows, columns * stride * channels)
            }
        };
        if stride > 1 {
            map = self.reshape(&map, &[whole_rows, whole_columns, channels]);
        }
        if size[0] < whole_rows {
            map = self.part(&map, 1, 0, size[0]);
        }
        if size[1] < whole_columns {
            map = self.part(&map, 2, 0, size[1]);
        }
        map
    }

    /// Bands of rows, interleaved.
    fn rows(&mut self, bands: &[String], rows: usize, length: usize) -> String {
        let flat: Vec<String> = bands.iter().map(|band| self.reshape(band, &[rows, length])).collect();
        self.node("Concat", &flat[0], &flat[1..], vec![int("axis", 2)])
    }

    fn part(&mut self, x: &str, axis: i64, begin: usize, end: usize) -> String {
        let inputs =
            [("begin", begin as i64), ("end", end as i64), ("axis", axis)].map(|(what, value)| self.integers(what, &[value]));
        self.node("Slice", x, &inputs, vec![])
    }

    fn table(&mut self, x: &str, table: &Table) -> String {
        let real = self.dequantise(x, table.from);
        let made = self.op(&table.op, &[real]);
        self.quantise(&made, table.to)
    }

    fn channels_first(&mut self, x: &str, shape: Shape) -> String {
        match shape {
            Shape::Map { .. } => self.node("Transpose", x, &[], vec![ints("perm", &CHANNELS_FIRST)]),
            Shape::Flat(_) => x.to_string(),
        }
    }

    fn channels_last(&mut self, x: &str, shape: Shape) -> String {
        match shape {
            Shape::Map { .. } => self.node("Transpose", x, &[], vec![ints("perm", &CHANNELS_LAST)]),
            Shape::Flat(_) => x.to_string(),
        }
    }

    fn reshape_last(&mut self, x: &str, shape: Shape) -> String {
        match shape {
            Shape::Map { channels, height, width } => self.reshape(x, &[height, width, channels]),
            Shape::Flat(features) => self.reshape(x, &[features]),
        }
    }

    /// From pixels, of a map with its channels last, to the contract's layout.
    fn pixels(&mut self, x: &str, shape: Shape, contract: &Contract) {
        let Contract { layout, height, width, channels, .. } = *contract;
        match (layout, shape) {
            (Layout::NhwcU8, Shape::Map { .. }) => self.reshape(x, &[height, width, channels]),
            // Features are in the order channel, row, column.
            (Layout::NhwcU8, Shape::Flat(_)) if channels == 1 => self.reshape(x, &[height, width, channels]),
            (Layout::NhwcU8, Shape::Flat(_)) => {
                let first = self.reshape(x, &[channels, height, width]);
                self.node("Transpose", &first, &[], vec![ints("perm", &CHANNELS_LAST)])
            }
            (Layout::NchwU8 | Layout::NchwF32, Shape::Map { .. }) => {
                let first = self.node("Transpose", x, &[], vec![ints("perm", &CHANNELS_FIRST)]);
                self.reshape(&first, &[channels, height, width])
            }
            (Layout::NchwU8 | Layout::NchwF32, Shape::Flat(_)) => self.reshape(x, &[channels, height, width]),
        };
    }
}
