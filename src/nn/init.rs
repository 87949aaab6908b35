//! The tensors of a network, and how they start.

use candle_core::{DType, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::device::Place;
use super::graph::Array;
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

/// Initial values of one kind of parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Init {
    /// As PyTorch's modules start: weights kaiming-uniform with a = √5, biases U(±1/√fan_in), norms 1 and 0.
    Pytorch,
    /// All 0.
    Zeros,
    /// N(mean, std²).
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// N(0, 1/(fan_in / 2)), as TensorFlow tutorials of 2017 had it.
    FanInNormal,
    /// N(0, (gain / √fan_in)²): 1 keeps variances, √2 does behind a ReLU, 0 begins with zeros (arXiv 1502.01852).
    Gain(f64),
}

impl Init {
    /// Whether all values begin as 0.
    pub(crate) fn is_zero(self) -> bool {
        matches!(self, Self::Zeros | Self::Gain(0.0) | Self::Normal { mean: 0.0, std: 0.0 })
    }
}

/// Initial values by kind of parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitConfig {
    /// Weights of convolutions and transposed convolutions.
    pub conv: Init,
    /// Weights of linear layers.
    pub linear: Init,
    /// Biases of convolutions and linear layers.
    pub bias: Init,
    /// Gains of batch and layer norms.
    pub norm_weight: Init,
    /// Offsets of batch and layer norms.
    pub norm_bias: Init,
}

impl Default for InitConfig {
    fn default() -> Self {
        let pytorch = Init::Pytorch;
        Self { conv: pytorch, linear: pytorch, bias: pytorch, norm_weight: pytorch, norm_bias: pytorch }
    }
}

/// Which of the two networks: their initial values come from different random streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Makes images from latents.
    Generator,
    /// Scores images.
    Critic,
}

impl Role {
    fn purpose(self) -> Purpose {
        match self {
            Self::Generator => Purpose::GeneratorInit,
            Self::Critic => Purpose::CriticInit,
        }
    }
}

/// One tensor of a network.
pub struct Parameter {
    /// `LL.kind.what`: the layer's position in the config, its kind, `weight`, `bias`, `running_mean`, `running_var`, or `weight_u` and
    /// `weight_v`, the singular vectors of spectral normalisation.
    pub name: String,
    /// The value.
    pub var: Var,
    /// Whether it learns; running statistics and singular vectors do not.
    pub trainable: bool,
}

impl Parameter {
    /// The value, which shares the parameter's memory.
    pub(crate) fn tensor(&self) -> Tensor {
        self.var.as_detached_tensor()
    }

    /// The value as plain numbers in f32, for export.
    ///
    /// # Errors
    /// When one of them is not a finite number.
    pub(crate) fn array(&self) -> Result<Array> {
        let values: Vec<f32> = self.tensor().to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(Array { dims: self.var.dims().to_vec(), values });
        }
        Err(Error::Verification(format!(
            "its tensor {} holds NaN or infinite values: training diverged. Choose an earlier checkpoint by `Which::Step`.",
            self.name
        )))
    }
}

/// What the parameters of one layer are drawn from: each depends on seed, role, the layer's position and its own slot alone.
pub(crate) struct Draw<'a> {
    /// The layer's position in the config.
    pub index: usize,
    pub init: &'a InitConfig,
    pub role: Role,
    pub seed: u64,
    pub place: &'a Place,
}

impl Draw<'_> {
    /// A weight or bias; PyTorch's bounds follow from `fan_in`.
    pub fn learned(&self, what: &str, dims: &[usize], init: Init, fan_in: usize, slot: u64) -> Result<Parameter> {
        let mut stream = Stream::at(self.seed, self.role.purpose(), 2 * self.index as u64 + slot);
        let mut values = vec![0.0; dims.iter().product()];
        match init {
            Init::Zeros => {}
            Init::Normal { mean, std } => stream.fill_normal(mean as f32, std as f32, &mut values),
            Init::FanInNormal => stream.fill_normal(0.0, (fan_in as f32 / 2.0).sqrt().recip(), &mut values),
            Init::Gain(gain) => stream.fill_normal(0.0, (gain / (fan_in as f64).sqrt()) as f32, &mut values),
            // kaiming_uniform with a = √5 has gain √(2 / 6) and so bound √3 · gain / √fan_in = 1 / √fan_in, as biases have.
            Init::Pytorch => {
                let bound = (fan_in as f32).sqrt().recip();
                stream.fill_uniform(-bound, bound, &mut values);
            }
        }
        self.parameter(what, values, dims, true)
    }

    /// The gain or offset of a norm, by channel; `pytorch` is where PyTorch's start.
    pub fn of_norm(&self, what: &str, channels: usize, init: Init, pytorch: f32, slot: u64) -> Result<Parameter> {
        match init {
            Init::Pytorch => self.parameter(what, vec![pytorch; channels], &[channels], true),
            Init::Zeros | Init::Normal { .. } | Init::FanInNormal | Init::Gain(_) => {
                self.learned(what, &[channels], init, channels, slot)
            }
        }
    }

    /// A running statistic by channel.
    pub fn statistic(&self, what: &str, channels: usize, start: f32) -> Result<Parameter> {
        self.parameter(what, vec![start; channels], &[channels], false)
    }

    /// A random direction, for spectral normalisation.
    pub fn unit(&self, what: &str, len: usize, slot: u64) -> Result<Parameter> {
        let mut values = vec![0.0; len];
        Stream::at(self.seed, Purpose::Spectral, 2 * self.index as u64 + slot).fill_normal(0.0, 1.0, &mut values);
        let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(f64::from(f32::MIN_POSITIVE));
        let values = values.iter().map(|&x| (f64::from(x) / norm) as f32).collect();
        self.parameter(what, values, &[len], false)
    }

    fn parameter(&self, what: &str, values: Vec<f32>, dims: &[usize], trainable: bool) -> Result<Parameter> {
        let tensor = Tensor::from_vec(values, dims, &self.place.device)?.to_dtype(self.place.dtype)?;
        Ok(Parameter { name: format!("{:02}.{what}", self.index), var: Var::from_tensor(&tensor)?, trainable })
    }
}
