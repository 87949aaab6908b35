//! Runs an exported graph and compares it with the network it came from.

use std::collections::HashSet;

use super::onnx::tensor_proto::DataType;
use super::onnx::{ModelProto, TypeProto, ValueInfoProto, type_proto};
use candle_core::Tensor;
use ort::session::Session;
use prost::Message;

use super::Dtype;
use super::model::Encoded;
use crate::contract::{self, Contract, Layout};
use crate::error::{Error, OrtResult, Result};
use crate::image::Images;
use crate::infer::model::Model;
use crate::infer::provider::{Provider, SessionOptions};
use crate::nn::shape::Shape;
use crate::nn::{Network, Pass, channels_first, channels_last};
use crate::random::{Purpose, Stream};

/// The batch sizes it must agree at: one, some, and an odd number.
const BATCHES: [usize; 3] = [1, 2, 7];
/// Largest difference of network outputs, which lie in [-1, 1] or [0, 1].
const TOLERANCE_F32: f32 = 1e-4;
/// Half precision keeps 11 bits of each of a few hundred summed terms.
const TOLERANCE_F16: f32 = 5e-2;

/// How well the exported graph and the network agree, over all batches tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Agreement {
    /// Largest absolute difference of the network's values.
    pub values: f32,
    /// Largest difference of the pixels, of 255; none for a float layout.
    pub pixels: Option<u8>,
    /// Whether candle-onnx evaluated the graph too, for which the feature `candle-onnx` is needed; it lacks ConvTranspose, and Gemm in half
    /// precision.
    pub candle_onnx: bool,
}

/// Compares a model with the network, at several batch sizes, in onnxruntime, and in candle-onnx where that has the ops. The network's
/// own values are those of the model's first part, cut off behind them.
pub(super) fn verify(generator: &Network, contract: &Contract, dtype: Dtype, encoded: &Encoded) -> Result<Agreement> {
    let Encoded { file, raw } = encoded;
    contract::check_seal("the exported file", file)?;
    let undecoded = |e: prost::DecodeError| Error::Verification(format!("its bytes cannot be decoded: {e}"));
    let part = cut(ModelProto::decode(file.as_slice()).map_err(undecoded)?, raw);
    let (mut pixels, mut values_of) = (session(file)?, session(&part.encode_to_vec())?);
    check_metadata(&pixels, contract)?;
    let evaluated = (cfg!(feature = "candle-onnx") && candle_knows(&part, dtype)).then_some(&part);

    let mut agreement = Agreement { candle_onnx: evaluated.is_some(), ..Agreement::default() };
    for n in BATCHES {
        let z = contract.latent.rows(contract.seed, 0, n);
        let expected = forward(generator, contract, &z, n)?;
        let values = run::<f32>(&mut values_of, raw, &z, contract, n)?;
        agreement.values = larger(agreement.values, largest_difference(&expected, &values)?);
        if let Some(model) = evaluated {
            let values = run_candle_onnx(model, raw, &z, contract, n)?;
            agreement.values = larger(agreement.values, largest_difference(&expected, &values)?);
        }
        if contract.layout != Layout::NchwF32 {
            let made = run::<u8>(&mut pixels, contract::GENERATOR_OUTPUT, &z, contract, n)?;
            let difference = pixel_difference(contract, &expected, &made, n);
            agreement.pixels = Some(agreement.pixels.unwrap_or(0).max(difference));
        }
    }
    judge(agreement, contract, dtype)
}

/// Compares a feature model with its network on noise in the range it takes, at several batch sizes; gives the largest difference.
pub(super) fn verify_features(network: &Network, image: [usize; 3], bounds: [f32; 2], file: &[u8]) -> Result<f32> {
    contract::check_seal("the exported file", file)?;
    let mut session = session(file)?;
    let mut largest = 0.0;
    for n in BATCHES {
        let [channels, height, width] = image;
        let mut values = vec![0.0; n * image.iter().product::<usize>()];
        Stream::at(0, Purpose::Evaluation, n as u64).fill_uniform(bounds[0], bounds[1], &mut values);
        let x = Tensor::from_slice(&values, values.len(), network.device())?;
        let x = channels_last(&x, Shape::Map { channels, height, width }, n)?;
        let expected: Vec<f32> = channels_first(&network.forward(&x, Pass::Eval)?)?.flatten_all()?.to_vec1()?;
        let input = ort::value::Tensor::from_array(([n, channels, height, width], values)).ort()?;
        let outputs = session.run(ort::inputs![contract::FEATURES_INPUT => input]).ort()?;
        let (_, made) = outputs[contract::FEATURES_OUTPUT].try_extract_tensor::<f32>().ort()?;
        largest = larger(largest, largest_difference(&expected, made)?);
    }
    if largest <= TOLERANCE_F32 {
        Ok(largest)
    } else {
        Err(Error::Verification(format!(
            "onnxruntime and candle disagree by {largest} (at most {TOLERANCE_F32}) in features. If training diverged, train \
             again with a lower learning rate; otherwise please report this."
        )))
    }
}

fn judge(agreement: Agreement, contract: &Contract, dtype: Dtype) -> Result<Agreement> {
    let (tolerance, pixel_tolerance) = match dtype {
        Dtype::F32 | Dtype::W8 | Dtype::Int8 => (TOLERANCE_F32, 1),
        Dtype::F16 => (TOLERANCE_F16, (TOLERANCE_F16 * contract.range.to_pixel().0) as u8 + 1),
    };
    // Written so that NaN fails.
    let good = agreement.values <= tolerance && agreement.pixels.unwrap_or(0) <= pixel_tolerance;
    if good {
        Ok(agreement)
    } else {
        let pixels = agreement.pixels.map(|pixels| format!(" and {pixels} of 255 (at most {pixel_tolerance}) in pixels"));
        Err(Error::Verification(format!(
            "onnxruntime and candle disagree by {} (at most {tolerance}) in values{}. \
             If training diverged, export an earlier checkpoint; otherwise please report this.",
            agreement.values,
            pixels.unwrap_or_default()
        )))
    }
}

/// Opened as the sampling programs open it.
fn session(file: &[u8]) -> Result<Session> {
    Model::in_memory("the exported file", file.to_vec())?.session(Provider::Cpu, SessionOptions::default())
}

/// The file must be whole, and what it promises must come back.
pub(super) fn check_promises(file: &[u8], contract: &Contract) -> Result<()> {
    contract::check_seal("the exported file", file)?;
    check_metadata(&session(file)?, contract)
}

/// The metadata must come back as the contract that went in.
fn check_metadata(session: &Session, contract: &Contract) -> Result<()> {
    let metadata = session.metadata().ort()?;
    let read = Contract::from_metadata("the exported file", |key| metadata.custom(key))?;
    if read.as_ref() == Some(contract) {
        Ok(())
    } else {
        Err(Error::Verification(format!("its metadata reads back as {read:?}, expected {contract:?}")))
    }
}

/// The network's own values, `[n, c, h, w]` row by row.
fn forward(generator: &Network, contract: &Contract, z: &[f32], n: usize) -> Result<Vec<f32>> {
    let z = Tensor::from_slice(z, (n, contract.latent.size), generator.device())?;
    let values = channels_first(&generator.forward(&z, Pass::Eval)?)?;
    Ok(values.flatten_all()?.to_vec1()?)
}

fn run<T: ort::value::PrimitiveTensorElementType + Clone>(
    session: &mut Session,
    output: &str,
    z: &[f32],
    contract: &Contract,
    n: usize,
) -> Result<Vec<T>> {
    let input = ort::value::Tensor::from_array(([n, contract.latent.size], z.to_vec())).ort()?;
    let outputs = session.run(ort::inputs![contract::GENERATOR_INPUT => input]).ort()?;
    let (_, values) = outputs[output].try_extract_tensor::<T>().ort()?;
    Ok(values.to_vec())
}

/// Whether candle-onnx has all operations of a model. Its Gemm computes in f32 only.
fn candle_knows(model: &ModelProto, dtype: Dtype) -> bool {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    dtype == Dtype::F32 && nodes.into_iter().all(|node| node.op_type != "ConvTranspose")
}

#[cfg(feature = "candle-onnx")]
fn run_candle_onnx(model: &ModelProto, output: &str, z: &[f32], contract: &Contract, n: usize) -> Result<Vec<f32>> {
    // Its types of the same messages.
    let undecoded = |e: prost::DecodeError| Error::Verification(format!("candle-onnx cannot decode it: {e}"));
    let model = &candle_onnx::onnx::ModelProto::decode(model.encode_to_vec().as_slice()).map_err(undecoded)?;
    let z = Tensor::from_slice(z, (n, contract.latent.size), &candle_core::Device::Cpu)?;
    let mut outputs =
        candle_onnx::simple_eval(model, std::collections::HashMap::from([(contract::GENERATOR_INPUT.to_string(), z)]))?;
    let image = outputs.remove(output).ok_or_else(|| Error::Verification(format!("candle-onnx found no output '{output}'")))?;
    Ok(image.flatten_all()?.to_vec1()?)
}

#[cfg(not(feature = "candle-onnx"))]
fn run_candle_onnx(_: &ModelProto, _: &str, _: &[f32], _: &Contract, _: usize) -> Result<Vec<f32>> {
    Err(Error::Verification("this build has no candle-onnx".to_string()))
}

fn largest_difference(expected: &[f32], values: &[f32]) -> Result<f32> {
    if expected.len() != values.len() {
        return Err(Error::Verification(format!(
            "it makes {} values where the network makes {}",
            values.len(),
            expected.len()
        )));
    }
    let differences = expected.iter().zip(values).map(|(a, b)| (a - b).abs());
    Ok(differences.fold(0.0, larger))
}

/// NaN if one of them is: `f32::max` would swallow it.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

fn pixel_difference(contract: &Contract, expected: &[f32], made: &[u8], n: usize) -> u8 {
    let Contract { channels, height, width, range, layout, .. } = *contract;
    let expected: Vec<u8> = match layout {
        Layout::NhwcU8 => Images::from_nchw(expected, [n, channels, height, width], range).pixels,
        _ => expected.iter().map(|&value| range.pixel(value)).collect(),
    };
    if expected.len() == made.len() {
        expected.iter().zip(made).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
    } else {
        u8::MAX
    }
}

/// The part of a model that makes a value, with that, of f32, as its only output.
fn cut(mut model: ModelProto, raw: &str) -> ModelProto {
    model.metadata_props.clear(); // they promise something else
    if let Some(graph) = &mut model.graph
        && let Some(last) = graph.node.iter().position(|node| node.output.iter().any(|output| output == raw))
    {
        graph.node.truncate(last + 1);
        let tensor = type_proto::Tensor { elem_type: DataType::Float as i32, shape: None };
        let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() });
        graph.output = vec![ValueInfoProto { name: raw.to_string(), r#type, ..Default::default() }];
        let used: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
        graph.initializer.retain(|tensor| used.contains(&tensor.name));
    }
    model
}
