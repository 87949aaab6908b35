//! Layers as data, and the shapes they turn into one another. Training, export and the checks of a config all read this.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One layer of a network, as configs write it: `"relu"`, `{ conv = { out = 64, kernel = 4, stride = 2, padding = 1 } }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerSpec {
    /// `x Wᵀ + b`; a map is flattened first.
    Linear {
        /// Output features.
        out: usize,
        /// Whether there is a bias.
        #[serde(default = "yes")]
        bias: bool,
        /// Whether the weight is divided by its largest singular value (arXiv 1802.05957); critics only.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        spectral: bool,
    },
    /// Convolution, square kernel.
    Conv {
        /// Output channels.
        out: usize,
        /// Height and width of the kernel.
        kernel: usize,
        /// Step between positions.
        #[serde(default = "one")]
        stride: usize,
        /// Zeros around the input.
        #[serde(default)]
        padding: usize,
        /// Whether there is a bias.
        #[serde(default = "yes")]
        bias: bool,
        /// Whether the kernels are divided by their largest singular value (arXiv 1802.05957); critics only.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        spectral: bool,
    },
    /// Transposed convolution, square kernel (the input gradient of a convolution).
    ConvTranspose {
        /// Output channels.
        out: usize,
        /// Height and width of the kernel.
        kernel: usize,
        /// Step between output positions.
        #[serde(default = "one")]
        stride: usize,
        /// Rows and columns cut off around the output.
        #[serde(default)]
        padding: usize,
        /// Rows and columns added at the bottom and the right of the output; below `stride`.
        #[serde(default)]
        output_padding: usize,
        /// Whether there is a bias.
        #[serde(default = "yes")]
        bias: bool,
    },
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
    /// 1606.03657), from latents of any law, each category as likely as the others. For generators.
    Categorical(usize),
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// The shape of one image's activations between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Features.
    Flat(usize),
    /// A map.
    Map {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

impl Shape {
    /// Values an image.
    pub fn elements(self) -> usize {
        match self {
            Self::Flat(features) => features,
            Self::Map { channels, height, width } => channels * height * width,
        }
    }

    /// Features, or channels.
    pub fn channels(self) -> usize {
        match self {
            Self::Flat(features) => features,
            Self::Map { channels, .. } => channels,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flat(features) => write!(f, "{features} features"),
            Self::Map { channels, height, width } => write!(f, "{channels}×{height}×{width}"),
        }
    }
}

/// No network here is wider.
const LIMIT: usize = 1 << 16;
/// No activation of one image is larger. With [`LIMIT`], keeps products of sizes from a config file within `usize`.
const MAX_ELEMENTS: usize = 1 << 32;

impl LayerSpec {
    /// Whether the layer has parameters.
    pub fn learns(&self) -> bool {
        use LayerSpec::{BatchNorm, Conv, ConvTranspose, LayerNorm, Linear};
        matches!(self, Linear { .. } | Conv { .. } | ConvTranspose { .. } | BatchNorm | LayerNorm)
    }

    /// The shape after this layer.
    ///
    /// # Errors
    /// Says what does not fit, without the layer's number.
    pub fn output(&self, input: Shape) -> Result<Shape, String> {
        let shape = self.output_of_any_size(input)?;
        match shape.elements() <= MAX_ELEMENTS {
            true => Ok(shape),
            false => Err(format!("{shape} is larger than any image here")),
        }
    }

    fn output_of_any_size(&self, input: Shape) -> Result<Shape, String> {
        match *self {
            Self::Linear { out, .. } => {
                within(&[out])?;
                Ok(Shape::Flat(out))
            }
            Self::Conv { out, kernel, stride, padding, .. } => {
                within(&[out, kernel, stride, padding + 1])?;
                map(input, out, |size| (size + 2 * padding).checked_sub(kernel).map(|room| room / stride + 1))
            }
            Self::ConvTranspose { out, kernel, stride, padding, output_padding, .. } => {
                within(&[out, kernel, stride, padding + 1, output_padding + 1])?;
                if output_padding >= stride {
                    return Err(format!("output_padding {output_padding} must be below stride {stride}"));
                }
                map(input, out, |size| {
                    ((size - 1) * stride + kernel + output_padding).checked_sub(2 * padding).filter(|&s| s > 0)
                })
            }
            Self::Reshape([channels, height, width]) => {
                within(&[channels, height, width])?;
                let shape = Shape::Map { channels, height, width };
                match shape.elements() == input.elements() {
                    true => Ok(shape),
                    false => Err(format!("cannot turn {input} into {shape}")),
                }
            }
            Self::Categorical(categories) => match input {
                Shape::Flat(features) if (2..=features).contains(&categories) => Ok(input),
                _ => Err(format!("categorical {categories} needs 2 categories or more and as many features, but gets {input}")),
            },
            Self::Dropout(p) if !(0.0..1.0).contains(&p) => Err(format!("dropout {p} must be at least 0 and below 1")),
            Self::LeakyRelu(slope) if !(0.0..1.0).contains(&slope) => {
                Err(format!("slope {slope} must be at least 0 and below 1"))
            }
            _ => Ok(input),
        }
    }
}

fn within(sizes: &[usize]) -> Result<(), String> {
    match sizes.iter().find(|size| !(1..=LIMIT).contains(*size)) {
        None => Ok(()),
        Some(size) => Err(format!("size {size} must be 1 to {LIMIT}")),
    }
}

fn map(input: Shape, out: usize, size: impl Fn(usize) -> Option<usize>) -> Result<Shape, String> {
    let Shape::Map { height, width, .. } = input else {
        return Err(format!("a convolution needs a map, but gets {input}: put a reshape before it"));
    };
    match (size(height), size(width)) {
        (Some(height), Some(width)) if height <= LIMIT && width <= LIMIT => Ok(Shape::Map { channels: out, height, width }),
        _ => Err(format!("the kernel does not fit a map of {height}×{width}")),
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
        weights += match *layer {
            LayerSpec::Linear { out, .. } => shape.elements() as f64 * out as f64,
            LayerSpec::Conv { out, kernel, .. } | LayerSpec::ConvTranspose { out, kernel, .. } => {
                (kernel * kernel) as f64 * out as f64 * shape.channels() as f64
            }
            _ => 0.0,
        };
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
