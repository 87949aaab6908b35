//! Layers as data: what a config's list of layers holds, and the shapes that they turn into one another.

use serde::{Deserialize, Serialize};

use super::activation;
use super::batch_norm::BatchNorm;
use super::categorical::Categorical;
use super::conv::Conv;
use super::conv_transpose::ConvTranspose;
use super::dropout::Dropout;
use super::kind::Kind;
use super::layer::Layer;
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::reshape::Reshape;
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::init::{Draw, Role};
use crate::nn::shape::Shape;

/// One layer of a network, as configs write it: `"relu"`, `{ conv = { out = 64, kernel = 4, stride = 2, padding = 1 } }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerSpec {
    /// `x Wᵀ + b`; a map is flattened first.
    Linear(Linear),
    /// Convolution, square kernel.
    Conv(Conv),
    /// Transposed convolution, square kernel (the input gradient of a convolution).
    ConvTranspose(ConvTranspose),
    /// Batch normalisation over batch (and map), ε 1e-5, momentum 0.1, affine (arXiv 1502.03167).
    BatchNorm,
    /// Layer normalisation over all but the batch, ε 1e-5, affine by channel, as WGAN-GP's critics have it (arXiv 1607.06450).
    LayerNorm,
    /// max(x, 0).
    Relu,
    /// max(x, slope · x).
    LeakyRelu(f64),
    /// tanh(x).
    Tanh,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// Each value is zeroed with this probability, the others are scaled up; nothing outside training.
    Dropout(f64),
    /// To a map of `[channels, height, width]`.
    Reshape([usize; 3]),
    /// Turns the first so many features into a one-hot vector of the largest: a categorical code, as InfoGAN has it (arXiv
    /// 1606.03657), from latents of any distribution, each category as likely as the others. For generators.
    Categorical(usize),
}

/// No activation of one image is larger. With the limit of a layer's sizes, keeps products of sizes from a config file within
/// `usize`.
const MAX_ELEMENTS: usize = 1 << 32;

impl LayerSpec {
    fn kind(&self) -> Box<dyn Kind + '_> {
        match self {
            Self::Linear(linear) => Box::new(linear.clone()),
            Self::Conv(conv) => Box::new(conv.clone()),
            Self::ConvTranspose(conv) => Box::new(conv.clone()),
            Self::BatchNorm => Box::new(BatchNorm),
            Self::LayerNorm => Box::new(LayerNorm),
            Self::Relu => Box::new(activation::Relu),
            Self::LeakyRelu(slope) => Box::new(activation::LeakyRelu(*slope)),
            Self::Tanh => Box::new(activation::Tanh),
            Self::Sigmoid => Box::new(activation::Sigmoid),
            Self::Dropout(p) => Box::new(Dropout(*p)),
            Self::Reshape(dims) => Box::new(Reshape(*dims)),
            Self::Categorical(categories) => Box::new(Categorical(*categories)),
        }
    }

    /// Its fields, if it is a layer with kernels.
    fn fields(&mut self) -> Option<&mut dyn Kind> {
        match self {
            Self::Linear(linear) => Some(linear),
            Self::Conv(conv) => Some(conv),
            Self::ConvTranspose(conv) => Some(conv),
            Self::BatchNorm | Self::LayerNorm | Self::Relu | Self::LeakyRelu(_) | Self::Tanh | Self::Sigmoid => None,
            Self::Dropout(_) | Self::Reshape(_) | Self::Categorical(_) => None,
        }
    }

    /// Whether the layer has parameters that learn.
    pub fn learns(&self) -> bool {
        self.kind().learns()
    }

    /// The shape after this layer.
    ///
    /// # Errors
    /// Says what does not fit, without the layer's number.
    pub fn output(&self, input: Shape) -> Result<Shape, String> {
        let shape = self.kind().output(input)?;
        if shape.elements() > MAX_ELEMENTS {
            return Err(format!("{shape} is larger than any image here"));
        }
        Ok(shape)
    }

    /// Channels or features that it makes, if that is for it to say.
    pub fn width(&self) -> Option<usize> {
        self.kind().width()
    }

    /// Makes it so many channels or features wide, if that is for it to say.
    pub fn set_width(&mut self, width: usize) {
        if let Some(out) = self.fields().and_then(Kind::width_mut) {
            *out = width;
        }
    }

    /// Gives it a bias or takes it away, if it may have one.
    pub(crate) fn set_bias(&mut self, bias: bool) {
        if let Some(has_bias) = self.fields().and_then(Kind::bias_mut) {
            *has_bias = bias;
        }
    }

    /// Has its kernels divided by their largest singular value or not, if it can.
    pub(crate) fn set_spectral(&mut self, spectral: bool) {
        if let Some(is_spectral) = self.fields().and_then(Kind::spectral_mut) {
            *is_spectral = spectral;
        }
    }

    /// Why it does not belong into one of the two networks.
    pub(crate) fn unfit_for(&self, role: Role) -> Option<&'static str> {
        self.kind().unfit_for(role)
    }

    /// The activation that it is, if it is one.
    pub(super) fn activation(&self) -> Option<Activation> {
        self.kind().activation()
    }

    /// Whether an activation behind it is computed with it.
    pub(super) fn fuses(&self) -> bool {
        self.kind().fuses()
    }

    /// Builds it.
    pub(super) fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        self.kind().build(input, act, draw)
    }
}

/// Weights and activations of one image, roughly; in floating point, since a config may ask for anything.
pub fn size_estimate(layers: &[LayerSpec], input: Shape) -> f64 {
    let (weights, activations) = estimate(layers, input);
    weights + activations
}

/// Activations of one image alone, roughly.
pub fn activations_estimate(layers: &[LayerSpec], input: Shape) -> f64 {
    estimate(layers, input).1
}

fn estimate(layers: &[LayerSpec], input: Shape) -> (f64, f64) {
    let mut shape = input;
    let (mut weights, mut activations) = (0.0, input.elements() as f64);
    for layer in layers {
        let Ok(output) = layer.output(shape) else { break };
        weights += layer.kind().weights(shape);
        activations += output.elements() as f64;
        shape = output;
    }
    (weights, activations)
}

/// The shape after all layers.
///
/// # Errors
/// Names the first layer that does not fit, counted from 1.
pub fn output_shape(layers: &[LayerSpec], input: Shape) -> Result<Shape, String> {
    layers
        .iter()
        .enumerate()
        .try_fold(input, |shape, (index, layer)| layer.output(shape).map_err(|what| format!("layer {}: {what}", index + 1)))
}
