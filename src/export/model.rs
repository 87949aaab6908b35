//! Writes a graph as an ONNX ModelProto. Nothing volatile goes in: the same weights give the same bytes.

use std::collections::{BTreeMap, HashMap};

use super::onnx::attribute_proto::AttributeType;
use super::onnx::tensor_proto::DataType;
use super::onnx::tensor_shape_proto::{Dimension, dimension};
use super::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use half::f16;
use prost::Message;

use super::Dtype;
use super::integer::IntegerNetwork;
use crate::contract::{self, Contract, Layout};
use crate::nn::geometry::ConvWindow;
use crate::nn::graph::{Array, Graph, Node, Op, Value};
use crate::nn::shape::Shape;

/// An encoded model, whose checksum entry holds zeros until it is sealed.
pub(super) struct Encoded {
    pub file: Vec<u8>,
    /// The name of the network's own values, before they become pixels.
    pub raw: String,
}

/// A generator with what its contract promises.
pub(super) fn encode(graph: &Graph, contract: &Contract, dtype: Dtype) -> Encoded {
    let mut builder = Builder::new(dtype);
    let mut values = HashMap::from([(graph.input, contract::GENERATOR_INPUT.to_string())]);
    let mut nodes = graph.nodes.as_slice();
    // A code of latents that rounding makes equal would have two ones.
    if let [Node { op: Op::Categorical(categories), inputs, output }, others @ ..] = nodes
        && *inputs == [graph.input]
    {
        let code = builder.categorical(contract::GENERATOR_INPUT, *categories as i64, DataType::Float);
        values.insert(*output, code);
        nodes = others;
    }
    if dtype == Dtype::F16 {
        let newest = nodes.first().and_then(|node| node.inputs.first()).copied().unwrap_or(graph.output);
        let narrow = builder.cast(&name_of(&values, newest), DataType::Float16);
        values.insert(newest, narrow);
    }
    builder.nodes(nodes, &mut values);
    let mut raw = name_of(&values, graph.output);
    if dtype == Dtype::F16 {
        raw = builder.cast(&raw, DataType::Float);
    }
    builder.output(&raw, contract);
    if contract.layout == Layout::NchwF32 {
        raw = contract::GENERATOR_OUTPUT.to_string();
    }
    Encoded { file: builder.generator(contract), raw }
}

/// A generator in whole numbers.
pub(super) fn encode_integer(network: &IntegerNetwork, contract: &Contract) -> Vec<u8> {
    let mut builder = Builder::new(Dtype::F32);
    builder.integer_network(network, contract);
    builder.generator(contract)
}

/// A graph in f32, all of whose values are outputs.
pub(super) struct Traced {
    pub file: Vec<u8>,
    /// Their names.
    pub values: BTreeMap<Value, String>,
    pub shapes: BTreeMap<Value, Shape>,
    /// Elements of all of them together, of one image.
    pub elements: usize,
}

/// A generator's graph, to be looked into.
pub(super) fn encode_traced(graph: &Graph, contract: &Contract) -> Traced {
    let mut builder = Builder::new(Dtype::F32);
    let mut names = HashMap::from([(graph.input, contract::GENERATOR_INPUT.to_string())]);
    builder.nodes(&graph.nodes, &mut names);
    let copy = builder.node("Identity", contract::GENERATOR_INPUT, &[], vec![]);
    let mut values: BTreeMap<Value, String> =
        graph.nodes.iter().map(|node| (node.output, name_of(&names, node.output))).collect();
    values.insert(graph.input, copy);
    let shapes = graph.shapes(Shape::Flat(contract.latent.size));
    let elements = contract.latent.size + shapes.values().map(|shape| shape.elements()).sum::<usize>();
    let outputs = values.values().map(|name| value(name, DataType::Float, &[])).map(without_shape).collect();
    let input = value(contract::GENERATOR_INPUT, DataType::Float, &[contract.latent.size]);
    Traced { file: builder.assemble("trace", input, outputs, BTreeMap::new()), values, shapes, elements }
}

fn without_shape(mut port: ValueInfoProto) -> ValueInfoProto {
    if let Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), .. }) = &mut port.r#type {
        tensor.shape = None;
    }
    port
}

/// What the file of a generator takes and gives.
fn ports(contract: &Contract) -> [ValueInfoProto; 2] {
    let Contract { height: h, width: w, channels: c, layout, latent, .. } = *contract;
    let (kind, dims) = match layout {
        Layout::NhwcU8 => (DataType::Uint8, [h, w, c]),
        Layout::NchwU8 => (DataType::Uint8, [c, h, w]),
        Layout::NchwF32 => (DataType::Float, [c, h, w]),
    };
    let input = value(contract::GENERATOR_INPUT, DataType::Float, &[latent.size]);
    [input, value(contract::GENERATOR_OUTPUT, kind, &dims)]
}

/// A model from float images `[n, channels, height, width]` to features, encoded; its checksum entry still holds zeros.
pub(super) fn encode_features(
    graph: &Graph,
    image: [usize; 3],
    features: usize,
    metadata: BTreeMap<String, String>,
) -> Vec<u8> {
    let mut builder = Builder::new(Dtype::F32);
    builder.nodes(&graph.nodes, &mut HashMap::from([(graph.input, contract::FEATURES_INPUT.to_string())]));
    let input = value(contract::FEATURES_INPUT, DataType::Float, &image);
    builder.finish("features", input, value(contract::FEATURES_OUTPUT, DataType::Float, &[features]), metadata)
}

/// What a value is called in the model.
pub(super) fn name_of(values: &HashMap<Value, String>, value: Value) -> String {
    values.get(&value).cloned().unwrap_or_default()
}

pub(super) struct Builder {
    dtype: Dtype,
    nodes: Vec<NodeProto>,
    pub(super) weights: Vec<TensorProto>,
}

impl Builder {
    fn new(dtype: Dtype) -> Self {
        Self { dtype, nodes: Vec::new(), weights: Vec::new() }
    }

    /// Adds nodes in their order; `values` are the names of what they take and make.
    fn nodes(&mut self, nodes: &[Node], values: &mut HashMap<Value, String>) {
        for Node { op, inputs, output } in nodes {
            let inputs: Vec<String> = inputs.iter().map(|&input| name_of(values, input)).collect();
            let made = self.op(op, &inputs);
            values.insert(*output, made);
        }
    }

    pub(super) fn op(&mut self, op: &Op, inputs: &[String]) -> String {
        let Some((x, others)) = inputs.split_first() else { return String::new() };
        match op {
            Op::Gemm { weight, bias } => {
                // candle-onnx knows Gemm only with a C.
                let zeros = || vec![0.0; weight.dims[0]];
                let bias = bias.clone().unwrap_or_else(zeros);
                let inputs = [self.kernels(weight, 0), self.vector("bias", bias)];
                self.node("Gemm", x, &inputs, vec![int("transB", 1)])
            }
            Op::Conv { weight, bias, window } => {
                self.convolution("Conv", x, weight, bias.as_deref(), window_attributes(window))
            }
            Op::ConvTranspose { weight, bias, window, output_padding } => {
                let mut attributes = window_attributes(window);
                if *output_padding > 0 {
                    attributes.push(ints("output_padding", &[*output_padding; 2]));
                }
                self.convolution("ConvTranspose", x, weight, bias.as_deref(), attributes)
            }
            Op::Affine { scale, shift, map } => {
                let dims = |len: usize| if *map { vec![1, len, 1, 1] } else { vec![1, len] };
                let scale = self.weight("scale", &Array { dims: dims(scale.len()), values: scale.clone() });
                let scaled = self.node("Mul", x, &[scale], vec![]);
                let shift = self.weight("shift", &Array { dims: dims(shift.len()), values: shift.clone() });
                self.node("Add", &scaled, &[shift], vec![])
            }
            Op::Basis(map) => {
                let (channels, sides) = (map.dims[0], &map.dims[2..]);
                let single = self.reshape(x, &[channels, 1, 1]);
                let dims = [&[1, channels], sides].concat();
                let map = self.weight("basis", &Array { dims, values: map.values.clone() });
                self.node("Mul", &single, &[map], vec![])
            }
            Op::Nearest => {
                let scales = self.reals("scales", &[1.0, 1.0, 2.0, 2.0]);
                let how = [("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")];
                let how = how.into_iter().map(|(name, value)| text(name, value)).collect();
                self.node("Resize", x, &[String::new(), scales], how)
            }
            Op::Add => self.node("Add", x, others, vec![]),
            Op::Relu => self.node("Relu", x, &[], vec![]),
            Op::LeakyRelu(slope) => self.node("LeakyRelu", x, &[], vec![float("alpha", *slope as f32)]),
            Op::Tanh => self.node("Tanh", x, &[], vec![]),
            Op::Sigmoid => self.node("Sigmoid", x, &[], vec![]),
            Op::Reshape(shape) => match *shape {
                Shape::Flat(features) => self.reshape(x, &[features]),
                Shape::Map { channels, height, width } => self.reshape(x, &[channels, height, width]),
            },
            Op::Categorical(categories) => {
                let real = if self.dtype == Dtype::F16 { DataType::Float16 } else { DataType::Float };
                self.categorical(x, *categories as i64, real)
            }
        }
    }

    fn categorical(&mut self, x: &str, categories: i64, real: DataType) -> String {
        let code = self.features(x, 0, categories);
        let largest = self.node("ReduceMax", &code, &[], vec![ints("axes", &[1]), int("keepdims", 1)]);
        let is_largest = self.node("GreaterOrEqual", &code, &[largest], vec![]);
        let chosen = self.cast(&is_largest, real);
        let others = self.features(x, categories, i64::MAX);
        self.node("Concat", &chosen, &[others], vec![int("axis", 1)])
    }

    /// Some of the features.
    fn features(&mut self, x: &str, begin: i64, end: i64) -> String {
        let inputs = [("begin", begin), ("end", end), ("axis", 1)].map(|(what, value)| self.integers(what, &[value]));
        self.node("Slice", x, &inputs, vec![])
    }

    fn convolution(
        &mut self,
        kind: &str,
        x: &str,
        weight: &Array,
        bias: Option<&[f32]>,
        attributes: Vec<AttributeProto>,
    ) -> String {
        let mut inputs = vec![self.kernels(weight, usize::from(kind == "ConvTranspose"))];
        if let Some(bias) = bias {
            inputs.push(self.vector("bias", bias.to_vec()));
        }
        self.node(kind, x, &inputs, attributes)
    }

    /// From the network's values to what the contract's layout promises.
    pub(super) fn output(&mut self, raw: &str, contract: &Contract) -> String {
        let Contract { layout, height, width, channels, range, .. } = *contract;
        if layout == Layout::NchwF32 {
            return self.reshape(raw, &[channels, height, width]);
        }
        // pixel = floor(clip(value · scale + shift, 0, 255)): Cast to uint8 truncates and wraps, so Clip comes first.
        let (scale, shift) = range.to_pixel();
        let scaled = self.scalar_node("Mul", raw, "pixel_scale", scale);
        let shifted = self.scalar_node("Add", &scaled, "pixel_shift", shift);
        let bounds = [self.scalar("pixel_min", 0.0), self.scalar("pixel_max", 255.0)];
        let clipped = self.node("Clip", &shifted, &bounds, vec![]);
        let pixels = self.cast(&clipped, DataType::Uint8);
        match (layout, channels) {
            (Layout::NhwcU8, 1) => self.reshape(&pixels, &[height, width, 1]),
            (Layout::NhwcU8, _) => {
                let first = self.reshape(&pixels, &[channels, height, width]);
                self.node("Transpose", &first, &[], vec![ints("perm", &[0, 2, 3, 1])])
            }
            _ => self.reshape(&pixels, &[channels, height, width]),
        }
    }

    pub(super) fn reshape(&mut self, x: &str, dims: &[usize]) -> String {
        let shape: Vec<i64> = std::iter::once(0).chain(dims.iter().map(|&d| d as i64)).collect(); // 0 keeps the batch
        let name = self.integers("shape", &shape);
        self.node("Reshape", x, &[name], vec![])
    }

    pub(super) fn integers(&mut self, what: &str, values: &[i64]) -> String {
        let name = self.name(what);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.weights.push(tensor(&name, &[values.len()], DataType::Int64, bytes));
        name
    }

    fn cast(&mut self, x: &str, to: DataType) -> String {
        self.node("Cast", x, &[], vec![int("to", to as i64)])
    }

    fn scalar_node(&mut self, kind: &str, x: &str, what: &str, value: f32) -> String {
        let scalar = self.scalar(what, value);
        self.node(kind, x, &[scalar], vec![])
    }

    /// A node on a value and further inputs; gives the name of what it makes.
    pub(super) fn node(&mut self, kind: &str, x: &str, inputs: &[String], attribute: Vec<AttributeProto>) -> String {
        let name = format!("{:02}_{}", self.nodes.len(), kind.to_lowercase());
        let input = std::iter::once(x.to_string()).chain(inputs.iter().cloned()).collect();
        let output = vec![name.clone()];
        self.nodes.push(NodeProto {
            input,
            output,
            name: name.clone(),
            op_type: kind.to_string(),
            attribute,
            ..Default::default()
        });
        name
    }

    /// The name of an initialiser of the node that comes next.
    pub(super) fn name(&self, what: &str) -> String {
        format!("{:02}_{what}", self.nodes.len())
    }

    /// The weights of a linear operation, `axis` that of its output channels.
    fn kernels(&mut self, weight: &Array, axis: usize) -> String {
        match self.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::Int8 => self.weight("weight", weight),
            Dtype::W8 => self.weight_of_8_bits(weight, axis),
        }
    }

    /// Weights in s8, and how they become f32 again: once, when the model is loaded.
    fn weight_of_8_bits(&mut self, weight: &Array, axis: usize) -> String {
        const MOST: f32 = 127.0;
        let channels = weight.dims[axis];
        let inner: usize = weight.dims[axis + 1..].iter().product();
        let channel = |at: usize| at / inner % channels;
        let mut largest = vec![f32::MIN_POSITIVE * MOST; channels];
        weight.values.iter().enumerate().for_each(|(at, w)| largest[channel(at)] = largest[channel(at)].max(w.abs()));
        let scales: Vec<f32> = largest.iter().map(|most| most / MOST).collect();
        let rounded = weight.values.iter().enumerate();
        let bytes = rounded.map(|(at, w)| (w / scales[channel(at)]).round_ties_even() as i8 as u8).collect();
        let name = self.name("weight");
        self.weights.push(tensor(&name, &weight.dims, DataType::Int8, bytes));
        let real = self.cast(&name, DataType::Float);
        let dims = (0..weight.dims.len()).map(|at| if at == axis { channels } else { 1 }).collect();
        let scale = self.weight("weight_scale", &Array { dims, values: scales });
        self.node("Mul", &real, &[scale], vec![])
    }

    /// A weight in the model's precision.
    fn weight(&mut self, what: &str, array: &Array) -> String {
        let name = self.name(what);
        let (kind, bytes) = match self.dtype {
            Dtype::F32 | Dtype::W8 | Dtype::Int8 => {
                (DataType::Float, array.values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            Dtype::F16 => (DataType::Float16, array.values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
        };
        self.weights.push(tensor(&name, &array.dims, kind, bytes));
        name
    }

    /// A vector in f32, whatever the weights are in.
    fn reals(&mut self, what: &str, values: &[f32]) -> String {
        let name = self.name(what);
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.weights.push(tensor(&name, &[values.len()], DataType::Float, bytes));
        name
    }

    fn vector(&mut self, what: &str, values: Vec<f32>) -> String {
        self.weight(what, &Array { dims: vec![values.len()], values })
    }

    /// A single f32, whatever the model's precision.
    pub(super) fn scalar(&mut self, what: &str, value: f32) -> String {
        let name = self.name(what);
        self.weights.push(tensor(&name, &[], DataType::Float, value.to_le_bytes().to_vec()));
        name
    }

    fn generator(self, contract: &Contract) -> Vec<u8> {
        let [input, output] = ports(contract);
        self.finish("generator", input, output, contract.to_metadata())
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
        self.assemble(name, input, vec![output], metadata)
    }

    fn assemble(
        self,
        name: &str,
        input: ValueInfoProto,
        output: Vec<ValueInfoProto>,
        metadata: BTreeMap<String, String>,
    ) -> Vec<u8> {
        let model = ModelProto {
            ir_version: contract::IR_VERSION,
            producer_name: contract::PRODUCER.to_string(),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: contract::OPSET }],
            graph: Some(GraphProto {
                name: name.to_string(),
                node: self.nodes,
                initializer: self.weights,
                input: vec![input],
                output,
                ..Default::default()
            }),
            metadata_props: metadata.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect(),
            ..Default::default()
        };
        model.encode_to_vec()
    }
}

fn window_attributes(window: &ConvWindow) -> Vec<AttributeProto> {
    let mut attributes = vec![
        ints("kernel_shape", &[window.kernel; 2]),
        ints("pads", &[window.padding; 4]),
        ints("strides", &[window.stride; 2]),
    ];
    if window.groups > 1 {
        attributes.push(int("group", window.groups as i64));
    }
    attributes
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_string(), i, r#type: AttributeType::Int as i32, ..Default::default() }
}

pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&v| v as i64).collect();
    AttributeProto { name: name.to_string(), ints, r#type: AttributeType::Ints as i32, ..Default::default() }
}

fn text(name: &str, value: &str) -> AttributeProto {
    let (name, s) = (name.to_string(), value.as_bytes().to_vec());
    AttributeProto { name, s, r#type: AttributeType::String as i32, ..Default::default() }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_string(), f, r#type: AttributeType::Float as i32, ..Default::default() }
}

pub(super) fn tensor(name: &str, dims: &[usize], kind: DataType, raw_data: Vec<u8>) -> TensorProto {
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
