//! A generator outside training as a list of operations with plain weights: what the passes rewrite.

use candle_core::DType;

use crate::error::{Error, Result};
use crate::nn::conv::Window;
use crate::nn::norm;
use crate::nn::{Network, Parameter};
use crate::shape::{LayerSpec, Shape};

/// A dense array, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub dims: Vec<usize>,
    pub values: Vec<f32>,
}

/// One operation on a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
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

/// Walks the layers that trained. Dropout is nothing here, batch normalisation an affine map of its running statistics.
pub(super) fn from_network(network: &Network) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    for (spec, input, parameters) in network.layers() {
        ops.extend(from_layer(spec, input, parameters)?);
    }
    Ok(ops)
}

fn from_layer(spec: &LayerSpec, input: Shape, parameters: &[Parameter]) -> Result<Vec<Op>> {
    let array = |slot: usize| match parameters.get(slot) {
        Some(parameter) => read(parameter),
        None => Err(Error::Verification(format!("layer {spec:?} has no tensor number {slot}"))),
    };
    let bias = |wanted: bool| wanted.then(|| array(1).map(|b| b.values)).transpose();
    Ok(match *spec {
        LayerSpec::Linear { bias: b, .. } => {
            let gemm = Op::Gemm { weight: array(0)?, bias: bias(b)? };
            match input {
                Shape::Flat(_) => vec![gemm],
                Shape::Map { .. } => vec![Op::Reshape(Shape::Flat(input.elements())), gemm],
            }
        }
        LayerSpec::Conv { kernel, stride, padding, bias: b, .. } => {
            vec![Op::Conv { weight: array(0)?, bias: bias(b)?, window: Window { kernel, stride, padding } }]
        }
        LayerSpec::ConvTranspose { kernel, stride, padding, output_padding, bias: b, .. } => {
            let window = Window { kernel, stride, padding };
            vec![Op::ConvTranspose { weight: array(0)?, bias: bias(b)?, window, output_padding }]
        }
        LayerSpec::BatchNorm => vec![affine(array(0)?, array(1)?, array(2)?, array(3)?, matches!(input, Shape::Map { .. }))],
        LayerSpec::LayerNorm => {
            return Err(Error::Verification(
                "a generator with layer_norm has no exported form here. Use batch_norm in the generator.".to_string(),
            ));
        }
        LayerSpec::Relu => vec![Op::Relu],
        LayerSpec::LeakyRelu(slope) => vec![Op::LeakyRelu(slope)],
        LayerSpec::Tanh => vec![Op::Tanh],
        LayerSpec::Sigmoid => vec![Op::Sigmoid],
        LayerSpec::Dropout(_) => vec![],
        LayerSpec::Categorical(categories) => vec![Op::Categorical(categories)],
        LayerSpec::Reshape([channels, height, width]) => vec![Op::Reshape(Shape::Map { channels, height, width })],
    })
}

/// `γ (x − μ) / √(σ² + ε) + β` as scale and shift, computed in f64.
fn affine(weight: Array, bias: Array, mean: Array, var: Array, map: bool) -> Op {
    let scales: Vec<f64> =
        weight.values.iter().zip(&var.values).map(|(&w, &v)| f64::from(w) / (f64::from(v) + norm::EPS).sqrt()).collect();
    let shift = bias.values.iter().zip(&mean.values).zip(&scales).map(|((&b, &m), s)| (f64::from(b) - f64::from(m) * s) as f32);
    Op::Affine { shift: shift.collect(), scale: scales.iter().map(|&s| s as f32).collect(), map }
}

fn read(parameter: &Parameter) -> Result<Array> {
    let values: Vec<f32> = parameter.var.as_detached_tensor().to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(Array { dims: parameter.var.dims().to_vec(), values }),
        false => Err(Error::Verification(format!(
            "its tensor {} holds NaN or infinite values: training diverged. Export an earlier checkpoint, which you name in \
             checkpoints/latest of the run.",
            parameter.name
        ))),
    }
}
