//! Writes operations as an ONNX ModelProto. Nothing volatile goes in: the same weights give the same bytes.

use std::collections::BTreeMap;

use candle_onnx::onnx::attribute_proto::AttributeType;
use candle_onnx::onnx::tensor_proto::DataType;
use candle_onnx::onnx::tensor_shape_proto::{Dimension, dimension};
use candle_onnx::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use half::f16;
use prost::Message;

use super::Dtype;
use super::ops::{Array, Op};
use crate::contract::{self, Contract, Layout};
use crate::nn::conv::Window;
use crate::shape::Shape;

/// The encoded model; its checksum entry still holds zeros.
pub(super) fn encode(ops: &[Op], contract: &Contract, dtype: Dtype) -> Vec<u8> {
    let mut builder = Builder::new(dtype, contract::INPUT);
    // A code of latents that rounding makes equal would have two ones.
    let ops = match ops {
        [Op::Categorical(categories), others @ ..] => {
            builder.categorical(*categories as i64, DataType::Float);
            others
        }
        all => all,
    };
    if dtype == Dtype::F16 {
        builder.cast(DataType::Float16);
    }
    ops.iter().for_each(|op| builder.op(op));
    if dtype == Dtype::F16 {
        builder.cast(DataType::Float);
    }
    builder.output(contract);
    let Contract { height: h, width: w, channels: c, layout, latent, .. } = *contract;
    let (kind, dims) = match layout {
        Layout::NhwcU8 => (DataType::Uint8, [h, w, c]),
        Layout::NchwU8 => (DataType::Uint8, [c, h, w]),
        Layout::NchwF32 => (DataType::Float, [c, h, w]),
    };
    let input = value(contract::INPUT, DataType::Float, &[latent.size]);
    builder.finish("generator", input, value(contract::OUTPUT, kind, &dims), contract.to_metadata())
}

/// A model from float images `[n, channels, height, width]` to features, encoded; its checksum entry still holds zeros.
pub(super) fn encode_features(ops: &[Op], image: [usize; 3], features: usize, metadata: BTreeMap<String, String>) -> Vec<u8> {
    let mut builder = Builder::new(Dtype::F32, contract::IMAGE);
    ops.iter().for_each(|op| builder.op(op));
    let input = value(contract::IMAGE, DataType::Float, &image);
    builder.finish("features", input, value(contract::FEATURES, DataType::Float, &[features]), metadata)
}

struct Builder {
    dtype: Dtype,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    /// The name of the newest activation.
    last: String,
}

impl Builder {
    fn new(dtype: Dtype, input: &str) -> Self {
        Self { dtype, nodes: Vec::new(), weights: Vec::new(), last: input.to_string() }
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Gemm { weight, bias } => {
                // candle-onnx knows Gemm only with a C.
                let zeros = || vec![0.0; weight.dims[0]];
                let bias = bias.clone().unwrap_or_else(zeros);
                let inputs = [self.weight("weight", weight), self.vector("bias", bias)];
                self.node("Gemm", &inputs, vec![int("transB", 1)]);
            }
            Op::Conv { weight, bias, window } => self.convolution("Conv", weight, bias.as_deref(), window_attributes(window)),
            Op::ConvTranspose { weight, bias, window, output_padding } => {
                let mut attributes = window_attributes(window);
                if *output_padding > 0 {
                    attributes.push(ints("output_padding", &[*output_padding; 2]));
                }
                self.convolution("ConvTranspose", weight, bias.as_deref(), attributes);
            }
            Op::Affine { scale, shift, map } => {
                let dims = |len: usize| if *map { vec![1, len, 1, 1] } else { vec![1, len] };
                let scale = self.weight("scale", &Array { dims: dims(scale.len()), values: scale.clone() });
                self.node("Mul", &[scale], vec![]);
                let shift = self.weight("shift", &Array { dims: dims(shift.len()), values: shift.clone() });
                self.node("Add", &[shift], vec![]);
            }
            Op::Relu => self.node("Relu", &[], vec![]),
            Op::LeakyRelu(slope) => self.node("LeakyRelu", &[], vec![float("alpha", *slope as f32)]),
            Op::Tanh => self.node("Tanh", &[], vec![]),
            Op::Sigmoid => self.node("Sigmoid", &[], vec![]),
            Op::Reshape(shape) => match *shape {
                Shape::Flat(features) => self.reshape(&[features]),
                Shape::Map { channels, height, width } => self.reshape(&[channels, height, width]),
            },
            Op::Categorical(categories) => {
                let real = if self.dtype == Dtype::F16 { DataType::Float16 } else { DataType::Float };
                self.categorical(*categories as i64, real);
            }
        }
    }

    fn categorical(&mut self, categories: i64, real: DataType) {
        let whole = self.last.clone();
        self.features(0, categories);
        let code = self.last.clone();
        self.node("ReduceMax", &[], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let largest = std::mem::replace(&mut self.last, code);
        self.node("GreaterOrEqual", &[largest], vec![]);
        self.cast(real);
        let chosen = std::mem::replace(&mut self.last, whole);
        self.features(categories, i64::MAX);
        let others = std::mem::replace(&mut self.last, chosen);
        self.node("Concat", &[others], vec![int("axis", 1)]);
    }

    /// Some of the features of the newest activation.
    fn features(&mut self, begin: i64, end: i64) {
        let inputs = [("begin", begin), ("end", end), ("axis", 1)].map(|(what, value)| self.integers(what, &[value]));
        self.node("Slice", &inputs, vec![]);
    }

    fn convolution(&mut self, kind: &str, weight: &Array, bias: Option<&[f32]>, attributes: Vec<AttributeProto>) {
        let mut inputs = vec![self.weight("weight", weight)];
        if let Some(bias) = bias {
            inputs.push(self.vector("bias", bias.to_vec()));
        }
        self.node(kind, &inputs, attributes);
    }

    /// From the network's values to what the contract's layout promises.
    fn output(&mut self, contract: &Contract) {
        let Contract { layout, height, width, channels, range, .. } = *contract;
        if layout == Layout::NchwF32 {
            return self.reshape(&[channels, height, width]);
        }
        // pixel = floor(clip(value · scale + shift, 0, 255)): Cast to uint8 truncates and wraps, so Clip comes first.
        let (scale, shift) = range.to_pixel();
        self.scalar_node("Mul", "pixel_scale", scale);
        self.scalar_node("Add", "pixel_shift", shift);
        let bounds = [self.scalar("pixel_min", 0.0), self.scalar("pixel_max", 255.0)];
        self.node("Clip", &bounds, vec![]);
        self.cast(DataType::Uint8);
        match (layout, channels) {
            (Layout::NhwcU8, 1) => self.reshape(&[height, width, 1]),
            (Layout::NhwcU8, _) => {
                self.reshape(&[channels, height, width]);
                self.node("Transpose", &[], vec![ints("perm", &[0, 2, 3, 1])]);
            }
            _ => self.reshape(&[channels, height, width]),
        }
    }

    fn reshape(&mut self, dims: &[usize]) {
        let shape: Vec<i64> = std::iter::once(0).chain(dims.iter().map(|&d| d as i64)).collect(); // 0 keeps the batch
        let name = self.integers("shape", &shape);
        self.node("Reshape", &[name], vec![]);
    }

    fn integers(&mut self, what: &str, values: &[i64]) -> String {
        let name = self.name(what);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.weights.push(tensor(&name, &[values.len()], DataType::Int64, bytes));
        name
    }

    fn cast(&mut self, to: DataType) {
        self.node("Cast", &[], vec![int("to", to as i64)]);
    }

    fn scalar_node(&mut self, kind: &str, what: &str, value: f32) {
        let scalar = self.scalar(what, value);
        self.node(kind, &[scalar], vec![]);
    }

    /// A node on the newest activation and these further inputs; its output is the newest from here on.
    fn node(&mut self, kind: &str, inputs: &[String], attribute: Vec<AttributeProto>) {
        let name = format!("{:02}_{}", self.nodes.len(), kind.to_lowercase());
        let input = std::iter::once(self.last.clone()).chain(inputs.iter().cloned()).collect();
        self.last.clone_from(&name);
        let output = vec![name.clone()];
        self.nodes.push(NodeProto { input, output, name, op_type: kind.to_string(), attribute, ..Default::default() });
    }

    /// The name of an initialiser of the node that comes next.
    fn name(&self, what: &str) -> String {
        format!("{:02}_{what}", self.nodes.len())
    }

    /// A weight in the model's precision.
    fn weight(&mut self, what: &str, array: &Array) -> String {
        let name = self.name(what);
        let (kind, bytes) = match self.dtype {
            Dtype::F32 => (DataType::Float, array.values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Dtype::F16 => (DataType::Float16, array.values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
        };
        self.weights.push(tensor(&name, &array.dims, kind, bytes));
        name
    }

    fn vector(&mut self, what: &str, values: Vec<f32>) -> String {
        self.weight(what, &Array { dims: vec![values.len()], values })
    }

    /// A single f32, whatever the model's precision.
    fn scalar(&mut self, what: &str, value: f32) -> String {
        let name = self.name(what);
        self.weights.push(tensor(&name, &[], DataType::Float, value.to_le_bytes().to_vec()));
        name
    }

    fn finish(
        mut self,
        name: &str,
        input: ValueInfoProto,
        output: ValueInfoProto,
        mut metadata: BTreeMap<String, String>,
    ) -> Vec<u8> {
        if let Some(node) = self.nodes.last_mut() {
            node.output = vec![output.name.clone()];
        }
        metadata.insert(contract::CHECKSUM_KEY.to_string(), "0".repeat(64));
        let model = ModelProto {
            ir_version: contract::IR_VERSION,
            producer_name: contract::PRODUCER.to_string(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: contract::OPSET }],
            graph: Some(GraphProto {
                name: name.to_string(),
                node: self.nodes,
                initializer: self.weights,
                input: vec![input],
                output: vec![output],
                ..Default::default()
            }),
            metadata_props: metadata.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect(),
            ..Default::default()
        };
        model.encode_to_vec()
    }
}

fn window_attributes(window: &Window) -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &[window.kernel; 2]), ints("pads", &[window.padding; 4]), ints("strides", &[window.stride; 2])]
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_string(), i, r#type: AttributeType::Int as i32, ..Default::default() }
}

fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&v| v as i64).collect();
    AttributeProto { name: name.to_string(), ints, r#type: AttributeType::Ints as i32, ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_string(), f, r#type: AttributeType::Float as i32, ..Default::default() }
}

fn tensor(name: &str, dims: &[usize], kind: DataType, raw_data: Vec<u8>) -> TensorProto {
    let dims = dims.iter().map(|&d| d as i64).collect();
    TensorProto { name: name.to_string(), dims, data_type: kind as i32, raw_data, ..Default::default() }
}

/// A graph input or output with `n` images in front.
fn value(name: &str, kind: DataType, dims: &[usize]) -> ValueInfoProto {
    let batch = dimension::Value::DimParam("n".to_string());
    let dims = std::iter::once(batch).chain(dims.iter().map(|&d| dimension::Value::DimValue(d as i64)));
    let dim = dims.map(|value| Dimension { value: Some(value), ..Default::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: kind as i32, shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
    ValueInfoProto { name: name.to_string(), r#type, ..Default::default() }
}
