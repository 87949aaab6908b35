//! What an ONNX file says of itself, read without onnxruntime.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ort::value::TensorElementType;

use super::model::{Model, Port};
use super::precision::Precision;
use super::proto::{Field, Part, Value};
use crate::contract::{self, CHECKSUM_KEY, Contract};
use crate::error::Result;

/// What an ONNX file says of itself: its metadata, its inputs and outputs. It is read without onnxruntime, which has not run it yet and
/// may refuse it.
///
/// ```
/// # fn main() -> ganforge::error::Result<()> {
/// use ganforge::infer::FileFacts;
///
/// let facts = FileFacts::read("onnx/digits.onnx")?;
/// let contract = facts.contract().expect("one of ganforge's");
/// assert_eq!((contract.height, contract.width, contract.channels), (28, 28, 1));
/// assert_eq!(facts.inputs(), ["z: f32 [n, 42]"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FileFacts {
    model: Model,
    metadata: BTreeMap<String, String>,
    contract: Option<Contract>,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl FileFacts {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is damaged or no ONNX model, or wants anything from files outside its folder.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::of(Model::read(path.as_ref())?)
    }

    /// Reads a model in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::of(Model::in_memory(name, bytes)?)
    }

    fn of(model: Model) -> Result<Self> {
        let file = Part::whole(model.bytes());
        let metadata: BTreeMap<String, String> = parts(file, METADATA).map(entry).collect();
        let contract = Contract::from_metadata(&model.name, |key| metadata.get(key).cloned())?;
        if contract.is_some() || text(file, PRODUCER) == contract::PRODUCER {
            contract::check_sealed(&model.name, metadata.get(CHECKSUM_KEY).map(String::as_str))?;
        }
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for graph in parts(file, GRAPH) {
            // Old files list weights among the inputs.
            let weights: BTreeSet<String> = parts(graph, INITIALIZER).map(|tensor| text(tensor, TENSOR_NAME)).collect();
            inputs.extend(
                parts(graph, INPUT).map(port).filter(|port| !weights.contains(&port.name)).map(|port| port.to_string()),
            );
            outputs.extend(parts(graph, OUTPUT).map(|output| port(output).to_string()));
        }
        Ok(Self { metadata, contract, inputs, outputs, model })
    }

    /// The name given on reading; the path of a file.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// What the graph computes with; never [`Precision::Auto`].
    pub fn precision(&self) -> Precision {
        self.model.precision()
    }

    /// SHA-256 of the file and, after it, of files that hold its weights, if there are any; in hexadecimal.
    pub fn sha256(&self) -> String {
        self.model.sha256()
    }

    /// What the file promises; `None` for a stranger, a file not exported by this crate.
    pub fn contract(&self) -> Option<&Contract> {
        self.contract.as_ref()
    }

    /// All of its metadata by their keys, those of [`Self::contract`] among them.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The graph's inputs in words: `z: f32 [n, 64]`.
    pub fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The graph's outputs in words: `image: u8 [n, 28, 28, 1]`.
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }
}

// Fields of a model,
const PRODUCER: u32 = 2;
const GRAPH: u32 = 7;
const METADATA: u32 = 14;
// of a graph,
const INITIALIZER: u32 = 5;
const INPUT: u32 = 11;
const OUTPUT: u32 = 12;
// of a tensor.
const TENSOR_NAME: u32 = 8;

/// The messages of that number, as far as the message can be read; [`super::inspect`] has read all of it.
fn parts<'a>(message: Part<'a>, number: u32) -> impl Iterator<Item = Part<'a>> {
    message.fields().flatten().filter(move |field| field.number == number).filter_map(|field| match field.value {
        Value::Part(part) => Some(part),
        _ => None,
    })
}

fn text(message: Part, number: u32) -> String {
    parts(message, number).last().map(|text| String::from_utf8_lossy(text.bytes()).into_owned()).unwrap_or_default()
}

fn number(message: Part, number: u32) -> Option<u64> {
    let value = |field: Field| match field.value {
        Value::Number(value) if field.number == number => Some(value),
        _ => None,
    };
    message.fields().flatten().filter_map(value).last()
}

/// A `StringStringEntryProto`.
fn entry(message: Part) -> (String, String) {
    (text(message, 1), text(message, 2))
}

/// A `ValueInfoProto`: its name, and of its type the tensor's element and shape.
fn port(message: Part) -> Port {
    let tensor = parts(message, 2).flat_map(|kind| parts(kind, 1)).last();
    let dims = tensor.into_iter().flat_map(|tensor| parts(tensor, 2)).flat_map(|shape| parts(shape, 1));
    let dims = dims.map(|dim| number(dim, 1).and_then(|size| i64::try_from(size).ok()).unwrap_or(-1)).collect();
    let element = tensor.and_then(|tensor| number(tensor, 1)).map_or(TensorElementType::Undefined, element);
    Port { name: text(message, 1), element, dims }
}

/// By the numbers of `TensorProto.DataType`; those of no generator are left undefined.
fn element(data_type: u64) -> TensorElementType {
    match data_type {
        1 => TensorElementType::Float32,
        2 => TensorElementType::Uint8,
        3 => TensorElementType::Int8,
        6 => TensorElementType::Int32,
        7 => TensorElementType::Int64,
        9 => TensorElementType::Bool,
        10 => TensorElementType::Float16,
        11 => TensorElementType::Float64,
        16 => TensorElementType::Bfloat16,
        _ => TensorElementType::Undefined,
    }
}
