//! Layers as data: what a config's list of layers holds, and the shapes that they turn into one another.

use serde::{Deserialize, Serialize};

use super::activation;
use super::basis::Basis;
use super::batch_norm::BatchNorm;
use super::bias::Bias;
use super::categorical::Categorical;
use super::conv::Conv;
use super::conv_transpose::ConvTranspose;
use super::dropout::Dropout;
use super::fixed::{Downsample, Pool, Upsample};
use super::kind::Kind;
use super::layer::Layer;
use super::layer_norm::LayerNorm;
use super::linear::Linear;
use super::resampled::Resampled;
use super::reshape::Reshape;
use super::residual;
use super::sequential::Sequential;
use crate::error::{Error, Result};
use crate::nn::activation::Activation;
use crate::nn::geometry::Resampling;
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
    /// What its layers make, plus the values themselves or what its shortcut makes of them (arXiv 1512.03385).
    Residual(Residual),
    /// A map of twice the height and width, by a fixed filter.
    Upsample(Upsample),
    /// A map of half the height and width, by a fixed filter.
    Downsample(Downsample),
    /// Each channel's sum or mean over a square map.
    Pool(Pool),
    /// Each feature times a learned square map of so many rows of its own.
    Basis(usize),
    /// A bias by channel, for values that no layer with one makes.
    Bias,
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
            Self::Residual(residual) => Box::new(residual.clone()),
            Self::Upsample(upsample) => Box::new(*upsample),
            Self::Downsample(downsample) => Box::new(*downsample),
            Self::Pool(pool) => Box::new(*pool),
            Self::Basis(side) => Box::new(Basis(*side)),
            Self::Bias => Box::new(Bias),
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
            Self::Dropout(_) | Self::Reshape(_) | Self::Categorical(_) | Self::Basis(_) | Self::Bias => None,
            Self::Upsample(_) | Self::Downsample(_) | Self::Pool(_) | Self::Residual(_) => None,
        }
    }

    /// How many layers a list holds, those that others are made of among them: what they are numbered by.
    pub fn count(layers: &[Self]) -> usize {
        layers.iter().map(|layer| 1 + layer.parts().into_iter().map(Self::count).sum::<usize>()).sum()
    }

    /// The lists of layers that it is made of, if it is: a residual block's layers and its shortcut's.
    pub fn parts(&self) -> Vec<&[Self]> {
        match self {
            Self::Residual(residual) => residual.parts().to_vec(),
            _ => Vec::new(),
        }
    }

    /// Likewise, to be rewritten.
    pub fn parts_mut(&mut self) -> Vec<&mut Vec<Self>> {
        match self {
            Self::Residual(residual) => vec![&mut residual.layers, &mut residual.shortcut],
            _ => Vec::new(),
        }
    }

    /// Whether this or one of the layers that it is made of is such a layer.
    pub fn any(&self, is: &dyn Fn(&Self) -> bool) -> bool {
        is(self) || self.parts().into_iter().flatten().any(|layer| layer.any(is))
    }

    /// Whether a training pass depends on its number, or leaves something to the next: masks, running statistics, singular vectors.
    pub(crate) fn changes_by_pass(&self) -> bool {
        match self {
            Self::Linear(Linear { spectral, .. }) | Self::Conv(Conv { spectral, .. }) => *spectral,
            Self::BatchNorm | Self::Dropout(_) => true,
            Self::ConvTranspose(_) | Self::LayerNorm | Self::Relu | Self::LeakyRelu(_) | Self::Tanh | Self::Sigmoid => false,
            Self::Residual(_) | Self::Upsample(_) | Self::Downsample(_) | Self::Pool(_) | Self::Basis(_) | Self::Bias => false,
            Self::Reshape(_) | Self::Categorical(_) => false,
        }
    }

    /// Whether without an activation its result is nobody else's and its gradient is only read.
    pub(super) fn hands_over(&self) -> bool {
        self.kind().hands_over()
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
        activations += output.elements() as f64 + layer.kind().activations(shape);
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

/// Builds layers that take `input`; gives also the shape of what they make. An activation behind a layer that fuses one becomes part of
/// it, and so does what a convolution can be built with ([`Resampled`]). `draw` is for the first of them.
///
/// # Errors
/// When they do not fit one another, or the device is out of memory.
pub(crate) fn build_layers(specs: &[LayerSpec], input: Shape, draw: Draw<'_>) -> Result<(Sequential, Shape)> {
    let mut layers = Vec::with_capacity(specs.len());
    let (mut shape, mut at) = (input, 0);
    while let Some(spec) = specs.get(at) {
        let resampled = resampled(&specs[at..]);
        let (end, fuses) = if resampled.is_some() { (at + 2, true) } else { (at + 1, spec.fuses()) };
        let output = (at..end).try_fold(shape, |shape, at| {
            let unfit = |what| Error::invalid(format!("layer {}", at + 1), what, "Mend the layer list of the config.");
            specs[at].output(shape).map_err(unfit)
        })?;
        let behind = specs.get(end).and_then(LayerSpec::activation).filter(|_| fuses);
        let (act, draw) =
            (behind.unwrap_or(Activation::None), Draw { index: draw.index + LayerSpec::count(&specs[..at]), ..draw });
        layers.push(match resampled {
            Some(resampled) => resampled.build(shape, output, act, &draw)?,
            None => spec.build(shape, act, &draw)?,
        });
        (shape, at) = (output, end + usize::from(behind.is_some()));
    }
    Ok((Sequential::of(layers), shape))
}

/// The first two of these layers as one, if they can be.
fn resampled(specs: &[LayerSpec]) -> Option<Resampled<'_>> {
    match specs {
        [LayerSpec::Conv(conv), LayerSpec::Downsample(Downsample::Average), ..] => Resampled::new(conv, Resampling::Halved),
        [LayerSpec::Upsample(Upsample::Nearest), LayerSpec::Conv(conv), ..] => Resampled::new(conv, Resampling::Doubled),
        _ => None,
    }
}

/// Two lists of layers that take the same values; what they make is added (arXiv 1512.03385).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Residual {
    /// The block's body.
    pub layers: Vec<LayerSpec>,
    /// What lies beside it; none: the values themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortcut: Vec<LayerSpec>,
}

/// Residual blocks lie in one another so many deep at most: every level doubles the work of looking at them.
const DEEPEST: usize = 4;

/// How many residual blocks lie in one another.
fn depth(layers: &[LayerSpec]) -> usize {
    layers.iter().map(|layer| layer.parts().into_iter().map(|part| 1 + depth(part)).max().unwrap_or(0)).max().unwrap_or(0)
}

impl Residual {
    fn parts(&self) -> [&[LayerSpec]; 2] {
        [&self.layers, &self.shortcut]
    }
}

impl Kind for Residual {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        if self.layers.is_empty() {
            return Err("a residual block without layers".to_string());
        }
        if self.parts().into_iter().map(depth).max() >= Some(DEEPEST) {
            return Err(format!("residual blocks lie in one another more than {DEEPEST} deep"));
        }
        let made = output_shape(&self.layers, input).map_err(|what| format!("in its layers, {what}"))?;
        let beside = output_shape(&self.shortcut, input).map_err(|what| format!("in its shortcut, {what}"))?;
        if made != beside {
            return Err(format!("its layers make {made}, and what is added to that is {beside}"));
        }
        Ok(made)
    }

    fn build(&self, input: Shape, _: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let inside = |index: usize| Draw { index, ..*draw };
        let (body, _) = build_layers(&self.layers, input, inside(draw.index + 1))?;
        let (shortcut, _) = build_layers(&self.shortcut, input, inside(draw.index + 1 + LayerSpec::count(&self.layers)))?;
        let shortcut = (!self.shortcut.is_empty()).then_some(shortcut);
        let hands_over = self.layers.last().is_some_and(LayerSpec::hands_over);
        Ok(Box::new(residual::Residual::new(body, shortcut, hands_over)))
    }

    fn learns(&self) -> bool {
        self.parts().into_iter().flatten().any(LayerSpec::learns)
    }

    fn weights(&self, input: Shape) -> f64 {
        self.parts().into_iter().map(|layers| estimate(layers, input).0).sum()
    }

    fn activations(&self, input: Shape) -> f64 {
        self.parts().into_iter().map(|layers| activations_estimate(layers, input)).sum()
    }

    fn unfit_for(&self, role: Role) -> Option<&'static str> {
        self.parts().into_iter().flatten().find_map(|layer| layer.unfit_for(role))
    }
}
