//! A [`Network`]: the layers of a config with their parameters, and the forward pass.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::conv::{Window, conv, conv_input_grad};
use super::norm::{self, Rectifier};
use crate::config::{Init, InitConfig};
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};
use crate::shape::{LayerSpec, Shape};

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

/// Whether a pass learns.
#[derive(Debug, Clone, Copy)]
pub enum Pass {
    /// Batch statistics, which also enter the running ones; dropout with the masks of pass number `number`.
    Train {
        /// The seed of the run.
        seed: u64,
        /// Which pass of the run this is: no two share a number.
        number: u64,
    },
    /// Running statistics, no dropout.
    Eval,
}

/// Whether gradients of the network's own parameters are wanted. Gradients to the input flow either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradients {
    /// Yes.
    Tracked,
    /// No: the generator's step does not pay for the critic's weight gradients.
    Frozen,
}

/// One tensor of a network.
pub struct Parameter {
    /// `LL.kind.what`: the layer's position in the config, its kind, `weight`, `bias`, `running_mean` or `running_var`.
    pub name: String,
    /// The value.
    pub var: Var,
    /// Whether it learns; running statistics do not.
    pub trainable: bool,
}

struct Layer {
    spec: LayerSpec,
    output: Shape,
    /// In the order weight, bias, running mean, running variance, as far as the layer has them.
    parameters: Vec<Parameter>,
}

/// A list of layers with parameters.
pub struct Network {
    input: Shape,
    layers: Vec<Layer>,
    device: Device,
    dtype: DType,
}

impl Network {
    /// Builds the layers and draws their initial values; each parameter's depend on seed, role and position alone.
    ///
    /// # Errors
    /// When the layers do not fit one another, or the device is out of memory.
    pub fn new(
        specs: &[LayerSpec],
        input: Shape,
        init: &InitConfig,
        role: Role,
        seed: u64,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(specs.len());
        let mut shape = input;
        for (index, spec) in specs.iter().enumerate() {
            let output = spec
                .output(shape)
                .map_err(|what| Error::invalid(format!("layer {}", index + 1), what, "Mend the layer list of the config."))?;
            let blueprint = Blueprint { index, spec, input: shape, init, role, seed, device, dtype };
            layers.push(Layer { spec: spec.clone(), output, parameters: blueprint.parameters()? });
            shape = output;
        }
        Ok(Self { input, layers, device: device.clone(), dtype })
    }

    /// `x` is `[n, …input shape]`; the result is `[n, …output shape]`.
    ///
    /// # Errors
    /// When `x` has another shape, or the device is out of memory.
    pub fn forward(&self, x: &Tensor, pass: Pass, gradients: Gradients) -> Result<Tensor> {
        let mut x = x.clone();
        let mut rectified = false;
        for (index, layer) in self.layers.iter().enumerate() {
            // A rectifier behind batch normalisation is part of that operation.
            if !std::mem::take(&mut rectified) {
                let next = self.layers.get(index + 1).and_then(|next| next.rectifier());
                rectified = next.is_some() && matches!((&layer.spec, pass), (LayerSpec::BatchNorm, Pass::Train { .. }));
                x = layer.forward(&x, index, pass, gradients, next.unwrap_or(Rectifier::NONE))?;
            }
        }
        Ok(x)
    }

    /// Every tensor, in the order of the layers.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.layers.iter().flat_map(|layer| &layer.parameters)
    }

    /// The tensors that learn.
    pub fn trainable(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters().filter(|parameter| parameter.trainable)
    }

    /// How many numbers learn.
    pub fn trainable_count(&self) -> usize {
        self.trainable().map(|parameter| parameter.var.elem_count()).sum()
    }

    /// Each layer with the shape it takes.
    pub fn layers(&self) -> impl Iterator<Item = (&LayerSpec, Shape, &[Parameter])> {
        let inputs = std::iter::once(self.input).chain(self.layers.iter().map(|layer| layer.output));
        self.layers.iter().zip(inputs).map(|(layer, input)| (&layer.spec, input, layer.parameters.as_slice()))
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sets every tensor from a map by name.
    ///
    /// # Errors
    /// When one is missing, superfluous or of another shape; `place` names the file. Nothing is changed then.
    pub fn load(&self, tensors: &BTreeMap<String, Tensor>, place: &str) -> Result<()> {
        let mend = "The file belongs to another network: use the run's own config, or another file.";
        let mut expected = 0;
        for Parameter { name, var, .. } in self.parameters() {
            let tensor = tensors.get(name).ok_or_else(|| Error::invalid(place, format!("tensor {name} is missing"), mend))?;
            if tensor.shape() != var.shape() {
                let what = format!("tensor {name} is {:?}, expected {:?}", tensor.dims(), var.dims());
                return Err(Error::invalid(place, what, mend));
            }
            expected += 1;
        }
        if tensors.len() != expected {
            let stray = tensors.keys().find(|key| self.parameters().all(|p| p.name != **key));
            return Err(Error::invalid(place, format!("unexpected tensor {}", stray.map_or("", |s| s)), mend));
        }
        for Parameter { name, var, .. } in self.parameters() {
            var.set(&tensors[name].to_device(&self.device)?.to_dtype(self.dtype)?)?;
        }
        Ok(())
    }
}

/// What a layer's parameters are made from.
struct Blueprint<'a> {
    index: usize,
    spec: &'a LayerSpec,
    input: Shape,
    init: &'a InitConfig,
    role: Role,
    seed: u64,
    device: &'a Device,
    dtype: DType,
}

impl Blueprint<'_> {
    fn parameters(&self) -> Result<Vec<Parameter>> {
        let init = self.init;
        let mut list = Vec::new();
        match *self.spec {
            LayerSpec::Linear { out, bias } => {
                let fan_in = self.input.elements();
                list.push(self.drawn("linear.weight", &[out, fan_in], init.linear, fan_in, 0)?);
                if bias {
                    list.push(self.drawn("linear.bias", &[out], init.bias, fan_in, 1)?);
                }
            }
            LayerSpec::Conv { out, kernel, bias, .. } => {
                let (channels, fan_in) = (self.input.channels(), self.input.channels() * kernel * kernel);
                list.push(self.drawn("conv.weight", &[out, channels, kernel, kernel], init.conv, fan_in, 0)?);
                if bias {
                    list.push(self.drawn("conv.bias", &[out], init.bias, fan_in, 1)?);
                }
            }
            LayerSpec::ConvTranspose { out, kernel, bias, .. } => {
                // PyTorch takes the second axis for fan_in, which here is the output: its convention, kept.
                let (channels, fan_in) = (self.input.channels(), out * kernel * kernel);
                list.push(self.drawn("conv_transpose.weight", &[channels, out, kernel, kernel], init.conv, fan_in, 0)?);
                if bias {
                    list.push(self.drawn("conv_transpose.bias", &[out], init.bias, fan_in, 1)?);
                }
            }
            LayerSpec::BatchNorm => {
                let c = self.input.channels();
                list.push(self.norm("batch_norm.weight", c, init.norm_weight, 1.0, 0)?);
                list.push(self.norm("batch_norm.bias", c, init.norm_bias, 0.0, 1)?);
                list.push(self.parameter("batch_norm.running_mean", vec![0.0; c], &[c], false)?);
                list.push(self.parameter("batch_norm.running_var", vec![1.0; c], &[c], false)?);
            }
            LayerSpec::LayerNorm => {
                let c = self.input.channels();
                list.push(self.norm("layer_norm.weight", c, init.norm_weight, 1.0, 0)?);
                list.push(self.norm("layer_norm.bias", c, init.norm_bias, 0.0, 1)?);
            }
            _ => {}
        }
        Ok(list)
    }

    fn norm(&self, what: &str, channels: usize, init: Init, pytorch: f32, slot: u64) -> Result<Parameter> {
        match init {
            Init::Pytorch => self.parameter(what, vec![pytorch; channels], &[channels], true),
            _ => self.drawn(what, &[channels], init, channels, slot),
        }
    }

    fn drawn(&self, what: &str, dims: &[usize], init: Init, fan_in: usize, slot: u64) -> Result<Parameter> {
        let mut stream = Stream::at(self.seed, self.role.purpose(), 2 * self.index as u64 + slot);
        let mut values = vec![0.0; dims.iter().product()];
        match init {
            Init::Zeros => {}
            Init::Normal { mean, std } => stream.fill_normal(mean as f32, std as f32, &mut values),
            Init::FanInNormal => stream.fill_normal(0.0, (fan_in as f32 / 2.0).sqrt().recip(), &mut values),
            // kaiming_uniform with a = √5 has gain √(2 / 6) and so bound √3 · gain / √fan_in = 1 / √fan_in, as biases have.
            Init::Pytorch => {
                let bound = (fan_in as f32).sqrt().recip();
                stream.fill_uniform(-bound, bound, &mut values);
            }
        }
        self.parameter(what, values, dims, true)
    }

    fn parameter(&self, what: &str, values: Vec<f32>, dims: &[usize], trainable: bool) -> Result<Parameter> {
        let tensor = Tensor::from_vec(values, dims, self.device)?.to_dtype(self.dtype)?;
        Ok(Parameter { name: format!("{:02}.{what}", self.index), var: Var::from_tensor(&tensor)?, trainable })
    }
}

impl Layer {
    /// The rectifier that this layer is, if it is one.
    fn rectifier(&self) -> Option<Rectifier> {
        match self.spec {
            LayerSpec::Relu => Some(Rectifier { slope: 0.0 }),
            LayerSpec::LeakyRelu(slope) => Some(Rectifier { slope }),
            _ => None,
        }
    }

    /// `next` is the rectifier behind this layer; batch normalisation in training includes it.
    fn forward(&self, x: &Tensor, index: usize, pass: Pass, gradients: Gradients, next: Rectifier) -> Result<Tensor> {
        let n = x.dim(0)?;
        let weight = |slot: usize| self.tensor(slot, gradients);
        Ok(match self.spec {
            LayerSpec::Linear { bias, .. } => {
                let y = x.flatten_from(1)?.matmul(&weight(0)?.t()?)?;
                if bias { y.broadcast_add(&weight(1)?)? } else { y }
            }
            LayerSpec::Conv { kernel, stride, padding, bias, .. } => {
                let y = conv(x, &weight(0)?, Window { kernel, stride, padding })?;
                if bias { add_channels(&y, &weight(1)?)? } else { y }
            }
            LayerSpec::ConvTranspose { kernel, stride, padding, bias, .. } => {
                let Shape::Map { height, width, .. } = self.output else {
                    return Err(Error::Candle(candle_core::Error::Msg("a transposed convolution makes a map".into())));
                };
                let y = conv_input_grad(x, &weight(0)?, Window { kernel, stride, padding }, (height, width))?;
                if bias { add_channels(&y, &weight(1)?)? } else { y }
            }
            LayerSpec::BatchNorm => self.batch_norm(x, pass, gradients, next)?,
            LayerSpec::LayerNorm => norm::layer_norm(x, &weight(0)?, &weight(1)?)?,
            LayerSpec::Relu | LayerSpec::LeakyRelu(_) => self.rectifier().unwrap_or(Rectifier::NONE).apply(x)?,
            LayerSpec::Tanh => x.tanh()?,
            LayerSpec::Sigmoid => candle_nn::ops::sigmoid(x)?,
            LayerSpec::Dropout(p) => match pass {
                Pass::Train { seed, number } => x.mul(&dropout_mask(x, p, seed, number, index)?)?,
                Pass::Eval => x.clone(),
            },
            LayerSpec::Reshape(_) => x.reshape(self.output.with_batch(n))?,
        })
    }

    /// Parameter number `slot`, on the tape or off it.
    fn tensor(&self, slot: usize, gradients: Gradients) -> Result<Tensor> {
        let parameter = self
            .parameters
            .get(slot)
            .ok_or_else(|| candle_core::Error::Msg(format!("{:?} has no tensor {slot}", self.spec)))?;
        Ok(match gradients {
            Gradients::Tracked => parameter.var.as_tensor().clone(),
            Gradients::Frozen => parameter.var.as_detached_tensor(),
        })
    }

    fn batch_norm(&self, x: &Tensor, pass: Pass, gradients: Gradients, next: Rectifier) -> Result<Tensor> {
        let (weight, bias) = (self.tensor(0, gradients)?, self.tensor(1, gradients)?);
        let (mean, var) = (self.tensor(2, Gradients::Frozen)?, self.tensor(3, Gradients::Frozen)?);
        match pass {
            Pass::Eval => Ok(norm::batch_norm_fixed(x, &weight, &bias, &mean, &var)?),
            Pass::Train { .. } => {
                let normalised = norm::batch_norm(x, &weight, &bias, next)?;
                self.parameters[2].var.set(&blend(&mean, &normalised.mean)?)?;
                self.parameters[3].var.set(&blend(&var, &normalised.unbiased_var)?)?;
                Ok(normalised.y)
            }
        }
    }
}

/// The running statistic after one more batch.
fn blend(running: &Tensor, batch: &Tensor) -> Result<Tensor> {
    Ok(((running * (1.0 - norm::MOMENTUM))? + (batch * norm::MOMENTUM)?)?)
}

fn add_channels(map: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(map.broadcast_add(&bias.reshape((1, (), 1, 1))?)?)
}

/// 0 with probability `p`, else 1 / (1 − p): drawn at (seed, pass, layer).
fn dropout_mask(x: &Tensor, p: f64, seed: u64, number: u64, layer: usize) -> Result<Tensor> {
    /// More than any network has; the layers of one pass take consecutive indices.
    const LAYERS: u64 = 1 << 10;
    let mut stream = Stream::at(seed, Purpose::Dropout, number * LAYERS + layer as u64);
    let kept = (1.0 / (1.0 - p)) as f32;
    let mask: Vec<f32> = (0..x.elem_count()).map(|_| if f64::from(stream.unit()) < p { 0.0 } else { kept }).collect();
    Ok(Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?)
}
