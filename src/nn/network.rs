//! A [`Network`]: the layers of a config with their parameters, the forward pass and the backward pass.
//!
//! A training step does not go over candle's tape: there, every gradient is added to fresh zeros, in two more passes over
//! memory, and every operation computes the gradients of all its arguments. Here the layers are walked back one by one, and
//! a gradient takes the storage of the one before it wherever it can.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;

use super::activation::{Activation, add_bias_activate, bias_grad, blend, multiply, swap_axes};
use super::conv::{Window, conv, conv_input_grad, conv_weight_grad};
use super::cpu::{TASK, filled};
use super::norm::{self, Normalised};
use super::spectral::Spectral;
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

/// Which gradients a backward pass is to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those of the parameters that learn: the gradient to the input is not paid for.
    Parameters,
    /// That of the input: the generator's step does not pay for the critic's weight gradients.
    Input,
}

/// What a forward pass leaves to [`Network::backward`]: the values between the layers. The parameters are not among them:
/// they must not change in between. Normalised kernels are: every pass has its own.
pub struct Trace(Vec<Saved>);

/// What a layer leaves: `y` is behind `act`, its own or the one that it took over.
pub(super) struct Saved {
    pub x: Tensor,
    pub y: Tensor,
    pub act: Activation,
    pub extra: Extra,
}

/// What a layer does before its activation, with what its way back needs besides.
pub(super) enum Extra {
    /// Nothing; also that of an activation which is part of the layer before.
    Nothing,
    Product(Product),
    Norm(Normalised),
    Mask(Tensor),
    Reshaped,
    /// Something else than in training, with no way back.
    Untraced,
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

pub(super) struct Layer {
    pub spec: LayerSpec,
    output: Shape,
    /// In the order weight, bias, running mean, running variance or u, v, as far as the layer has them.
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

    /// `x` is `[n, …input shape]`, maps with their channels last; so is the result.
    ///
    /// # Errors
    /// When `x` has another shape, or the device is out of memory.
    pub fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.run(x, pass, &mut |_| {})
    }

    /// As [`Self::forward`], and keeps what [`Self::backward`] needs.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_traced(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Trace)> {
        let mut trace = Vec::with_capacity(self.layers.len());
        let y = self.run(x, pass, &mut |saved| trace.push(saved))?;
        Ok((y, Trace(trace)))
    }

    fn run(&self, x: &Tensor, pass: Pass, save: &mut dyn FnMut(Saved)) -> Result<Tensor> {
        let expected = match self.input {
            Shape::Flat(features) => vec![features],
            Shape::Map { channels, height, width } => vec![height, width, channels],
        };
        if x.dims().split_first().is_none_or(|(_, dims)| dims != expected) {
            return Err(failure(format!("a network that takes [n, {expected:?}] (channels last) was given {:?}", x.dims())));
        }
        let mut x = x.clone();
        let mut taken = false;
        for (index, layer) in self.layers.iter().enumerate() {
            // An activation behind a layer that computes is part of that layer.
            let own = layer.spec.activation();
            let next = self.layers.get(index + 1).and_then(|next| next.spec.activation());
            let act = match layer.takes_activation() {
                true => next,
                false => own.filter(|_| !taken),
            };
            taken = layer.takes_activation() && next.is_some();
            let act = act.unwrap_or(Activation::None);
            let (y, extra) = layer.forward(&x, index, pass, act)?;
            save(Saved { x: std::mem::replace(&mut x, y.clone()), y, act, extra });
        }
        Ok(x)
    }

    /// From the gradient to the output, whose storage is used up: the gradient to the input `[n, …input shape]`, or those to the
    /// parameters that learn, in the order of [`Self::trainable`].
    ///
    /// # Errors
    /// When `dy` is not shaped as the output was, or the device is out of memory.
    pub fn backward(&self, trace: Trace, dy: Tensor, wanted: Wanted) -> Result<Vec<Tensor>> {
        let mut dy = dy.contiguous()?;
        if let Some(last) = trace.0.last() {
            dy = dy.reshape(last.y.shape())?;
        }
        let mut gradients = Vec::new();
        // Before the first layer with parameters nobody asks for gradients.
        let first = match wanted {
            Wanted::Parameters => self.layers.iter().position(|layer| !layer.parameters.is_empty()),
            Wanted::Input => None,
        };
        for (index, (layer, saved)) in self.layers.iter().zip(trace.0).enumerate().rev() {
            if first.is_some_and(|first| index < first) {
                break;
            }
            let needs_input = first != Some(index);
            let (dx, mut of_layer) = layer.backward(saved, dy, wanted, needs_input)?;
            // Last layer first, and so the last parameter of each.
            of_layer.reverse();
            gradients.append(&mut of_layer);
            dy = dx;
        }
        gradients.reverse();
        match wanted {
            Wanted::Parameters => Ok(gradients),
            Wanted::Input => Ok(vec![dy]),
        }
    }

    /// Each layer with what it left.
    pub(super) fn traced(&self, trace: Trace) -> impl Iterator<Item = (&Layer, Saved)> {
        self.layers.iter().zip(trace.0)
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

    /// The shape of what it makes.
    pub fn output(&self) -> Shape {
        self.layers.last().map_or(self.input, |layer| layer.output)
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
            LayerSpec::Linear { out, bias, spectral } => {
                let fan_in = self.input.elements();
                list.push(self.drawn("linear.weight", &[out, fan_in], init.linear, fan_in, 0)?);
                if bias {
                    list.push(self.drawn("linear.bias", &[out], init.bias, fan_in, 1)?);
                }
                if spectral {
                    list.extend([self.unit("linear.weight_u", out, 0)?, self.unit("linear.weight_v", fan_in, 1)?]);
                }
            }
            LayerSpec::Conv { out, kernel, bias, spectral, .. } => {
                let (channels, fan_in) = (self.input.channels(), self.input.channels() * kernel * kernel);
                list.push(self.drawn("conv.weight", &[out, channels, kernel, kernel], init.conv, fan_in, 0)?);
                if bias {
                    list.push(self.drawn("conv.bias", &[out], init.bias, fan_in, 1)?);
                }
                if spectral {
                    list.extend([self.unit("conv.weight_u", out, 0)?, self.unit("conv.weight_v", fan_in, 1)?]);
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

    /// A random direction.
    fn unit(&self, what: &str, len: usize, slot: u64) -> Result<Parameter> {
        let mut values = vec![0.0; len];
        Stream::at(self.seed, Purpose::Spectral, 2 * self.index as u64 + slot).fill_normal(0.0, 1.0, &mut values);
        let norm = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(f64::from(f32::MIN_POSITIVE));
        let values = values.iter().map(|&x| (f64::from(x) / norm) as f32).collect();
        self.parameter(what, values, &[len], false)
    }

    fn parameter(&self, what: &str, values: Vec<f32>, dims: &[usize], trainable: bool) -> Result<Parameter> {
        let tensor = Tensor::from_vec(values, dims, self.device)?.to_dtype(self.dtype)?;
        Ok(Parameter { name: format!("{:02}.{what}", self.index), var: Var::from_tensor(&tensor)?, trainable })
    }
}

impl LayerSpec {
    /// The activation that this layer is, if it is one.
    fn activation(&self) -> Option<Activation> {
        match *self {
            Self::Relu => Some(Activation::Rectifier { slope: 0.0 }),
            Self::LeakyRelu(slope) => Some(Activation::Rectifier { slope }),
            Self::Tanh => Some(Activation::Tanh),
            Self::Sigmoid => Some(Activation::Sigmoid),
            _ => None,
        }
    }
}

/// One where the first `categories` features of `x [n, features]` have their largest, 0 elsewhere: `[n, categories]`.
pub(crate) fn chosen(x: &Tensor, categories: usize) -> Result<Tensor> {
    let code = x.narrow(1, 0, categories)?;
    Ok(code.broadcast_ge(&code.max_keepdim(1)?)?.to_dtype(x.dtype())?)
}

/// One where the first `categories` features have their largest, 0 elsewhere in them; the others as they are. No gradient
/// comes through the choice.
fn categorical(x: &Tensor, categories: usize) -> Result<(Tensor, Extra)> {
    let chosen = chosen(x, categories)?;
    if categories == x.dim(1)? {
        let mask = Extra::Mask(chosen.zeros_like()?);
        return Ok((chosen, mask));
    }
    let others = x.narrow(1, categories, x.dim(1)? - categories)?;
    let mask = Tensor::cat(&[&chosen.zeros_like()?, &others.ones_like()?], 1)?;
    Ok((Tensor::cat(&[&chosen, &others.contiguous()?], 1)?, Extra::Mask(mask)))
}

impl Layer {
    /// Whether an activation behind this layer is computed with it.
    fn takes_activation(&self) -> bool {
        use LayerSpec::{BatchNorm, Conv, ConvTranspose, LayerNorm, Linear};
        matches!(self.spec, Linear { .. } | Conv { .. } | ConvTranspose { .. } | BatchNorm | LayerNorm)
    }

    fn forward(&self, x: &Tensor, index: usize, pass: Pass, act: Activation) -> Result<(Tensor, Extra)> {
        if let Some(product) = self.product(pass)? {
            let y = self.apply(&product, x)?;
            add_bias_activate(&y, product.bias.as_ref(), act)?;
            return Ok((y, Extra::Product(product)));
        }
        match self.spec {
            LayerSpec::BatchNorm => self.batch_norm(x, pass, act),
            LayerSpec::LayerNorm => {
                let made = Normalised::Layer(norm::layer_norm(x, &self.tensor(0)?, &self.tensor(1)?, act)?);
                Ok((made.y().clone(), Extra::Norm(made)))
            }
            LayerSpec::Relu | LayerSpec::LeakyRelu(_) | LayerSpec::Tanh | LayerSpec::Sigmoid => {
                if act == Activation::None {
                    return Ok((x.clone(), Extra::Nothing));
                }
                let y = x.copy()?;
                act.apply(&y)?;
                Ok((y, Extra::Nothing))
            }
            LayerSpec::Dropout(p) => match pass {
                Pass::Train { seed, number } => {
                    let (y, mask) = (x.copy()?, dropout_mask(x, p, seed, number, index)?);
                    multiply(&y, &mask)?;
                    Ok((y, Extra::Mask(mask)))
                }
                Pass::Eval => Ok((x.clone(), Extra::Untraced)),
            },
            LayerSpec::Reshape(_) => Ok((self.reshape(x)?, Extra::Reshaped)),
            LayerSpec::Categorical(categories) => categorical(x, categories),
            LayerSpec::Linear { .. } | LayerSpec::Conv { .. } | LayerSpec::ConvTranspose { .. } => {
                Err(failure(format!("{:?} is a product", self.spec)))
            }
        }
    }

    /// The gradient to the input, which means nothing unless `needs_input`, and those to the parameters, if they are wanted.
    fn backward(&self, saved: Saved, dy: Tensor, wanted: Wanted, needs_input: bool) -> Result<(Tensor, Vec<Tensor>)> {
        let Saved { x, y, act, extra } = saved;
        let learn = wanted == Wanted::Parameters;
        // Norms take their activation back in the same pass over memory.
        if let Extra::Norm(made) = extra {
            let moved = made.pull(&x, &self.tensor(0)?, act, dy)?;
            let learned = if learn { moved.parameters()?.to_vec() } else { Vec::new() };
            return Ok((moved.g, learned));
        }
        act.grad(&y, &dy)?;
        self.pull(&x, &extra, dy, learn, needs_input)
    }

    /// As [`Self::backward`], from the gradient before the activation.
    pub(super) fn pull(
        &self,
        x: &Tensor,
        extra: &Extra,
        dz: Tensor,
        learn: bool,
        needs_input: bool,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let dx = match extra {
            Extra::Nothing => dz,
            Extra::Product(product) => {
                let learned = if learn { self.product_gradients(product, x, &dz)? } else { Vec::new() };
                return Ok((if needs_input { self.product_input_grad(product, x, &dz)? } else { dz }, learned));
            }
            Extra::Norm(made) => {
                let moved = made.pull(x, &self.tensor(0)?, Activation::None, dz)?;
                let learned = if learn { moved.parameters()?.to_vec() } else { Vec::new() };
                return Ok((moved.g, learned));
            }
            Extra::Mask(mask) => {
                multiply(&dz, mask)?;
                dz
            }
            Extra::Reshaped => shaped_as(&channels_first(&dz)?, x)?,
            Extra::Untraced => return Err(failure(format!("{:?} was not traced in training", self.spec))),
        };
        Ok((dx, Vec::new()))
    }

    /// The product alone, without bias and activation.
    pub(super) fn apply(&self, product: &Product, x: &Tensor) -> Result<Tensor> {
        let y = product.apply(&self.operand(x)?, self.output)?;
        if self.is_linear() { Ok(y.flatten_from(1)?) } else { Ok(y) }
    }

    /// To weight and bias.
    pub(super) fn product_gradients(&self, product: &Product, x: &Tensor, dz: &Tensor) -> Result<Vec<Tensor>> {
        let dz = self.positions(dz)?;
        let weight = product.weight_grad(&self.operand(x)?, &dz)?.reshape(self.tensor(0)?.shape())?;
        let mut learned = vec![match &product.spectral {
            Some(spectral) => spectral.weight_grad(&weight)?,
            None => weight,
        }];
        if product.bias.is_some() {
            learned.push(bias_grad(&dz)?);
        }
        Ok(learned)
    }

    fn product_input_grad(&self, product: &Product, x: &Tensor, dz: &Tensor) -> Result<Tensor> {
        let dx = product.input_grad(&self.operand(x)?, &self.positions(dz)?)?;
        if self.is_linear() { shaped_as(&dx.flatten_from(1)?, x) } else { Ok(dx) }
    }

    pub(super) fn reshape(&self, x: &Tensor) -> Result<Tensor> {
        channels_last(&channels_first(x)?, self.output, x.dim(0)?)
    }

    fn is_linear(&self) -> bool {
        matches!(self.spec, LayerSpec::Linear { .. })
    }

    /// This layer as one of the convolutions, if it is one.
    fn product(&self, pass: Pass) -> Result<Option<Product>> {
        let (window, transposed, bias, spectral) = match self.spec {
            LayerSpec::Linear { bias, spectral, .. } => (Window::POINT, false, bias, spectral),
            LayerSpec::Conv { kernel, stride, padding, bias, spectral, .. } => {
                (Window { kernel, stride, padding }, false, bias, spectral)
            }
            LayerSpec::ConvTranspose { kernel, stride, padding, bias, .. } => {
                (Window { kernel, stride, padding }, true, bias, false)
            }
            _ => return Ok(None),
        };
        let spectral = spectral.then(|| self.spectral(usize::from(bias), pass)).transpose()?;
        let weight = spectral.as_ref().map_or_else(|| self.tensor(0), |spectral| Ok(spectral.normalised.clone()))?;
        let kernels = match *weight.dims() {
            [out, features] => weight.reshape((out, features, 1, 1))?,
            _ => weight,
        };
        let bias = if bias { Some(self.tensor(1)?) } else { None };
        Ok(Some(Product { kernels, window, transposed, bias, spectral }))
    }

    /// The normalised weight; u and v are behind the weight and `biases` biases.
    fn spectral(&self, biases: usize, pass: Pass) -> Result<Spectral> {
        let (u, v) = (self.var(1 + biases)?, self.var(2 + biases)?);
        Ok(Spectral::new(&self.tensor(0)?, u, v, matches!(pass, Pass::Train { .. }))?)
    }

    /// What the product multiplies; of a linear layer `[n, 1, 1, features]`, a map's values in the order channel, row, column.
    fn operand(&self, x: &Tensor) -> Result<Tensor> {
        match self.is_linear() {
            true => Ok(channels_first(x)?.reshape((x.dim(0)?, 1, 1, ()))?),
            false => Ok(x.clone()),
        }
    }

    /// A gradient to the product's result as a map.
    fn positions(&self, dz: &Tensor) -> Result<Tensor> {
        if self.is_linear() { Ok(dz.reshape((dz.dim(0)?, 1, 1, ()))?) } else { Ok(dz.clone()) }
    }

    /// Parameter number `slot`.
    pub(super) fn tensor(&self, slot: usize) -> Result<Tensor> {
        Ok(self.var(slot)?.as_detached_tensor())
    }

    fn var(&self, slot: usize) -> Result<&Var> {
        let missing = || failure(format!("{:?} has no tensor {slot}", self.spec));
        Ok(&self.parameters.get(slot).ok_or_else(missing)?.var)
    }

    fn batch_norm(&self, x: &Tensor, pass: Pass, act: Activation) -> Result<(Tensor, Extra)> {
        let [weight, bias, mean, var] = [self.tensor(0)?, self.tensor(1)?, self.tensor(2)?, self.tensor(3)?];
        match pass {
            Pass::Eval => {
                let y = norm::batch_norm_fixed(x, &weight, &bias, &mean, &var)?;
                act.apply(&y)?;
                Ok((y, Extra::Untraced))
            }
            Pass::Train { .. } => {
                let made = norm::batch_norm(x, &weight, &bias, act)?;
                // A batch of one value has no variance: 0 / max(0, 1) rather than 0 / 0.
                let count = (x.elem_count() / weight.elem_count()) as f64;
                let unbiased = count / (count - 1.0).max(1.0);
                blend(&[(&mean, &made.mean)], 1.0 - norm::MOMENTUM, norm::MOMENTUM)?;
                blend(&[(&var, &made.var)], 1.0 - norm::MOMENTUM, norm::MOMENTUM * unbiased)?;
                Ok((made.y.clone(), Extra::Norm(Normalised::Batch(made))))
            }
        }
    }
}

/// A layer with kernels, `[co, ci, k, k]`: a convolution, or its transpose, which goes from `co` channels to `ci`.
pub(super) struct Product {
    kernels: Tensor,
    window: Window,
    transposed: bool,
    bias: Option<Tensor>,
    spectral: Option<Spectral>,
}

impl Product {
    fn apply(&self, x: &Tensor, output: Shape) -> Result<Tensor> {
        match (self.transposed, output) {
            (false, _) => Ok(conv(x, &self.kernels, self.window)?),
            (true, Shape::Map { height, width, .. }) => Ok(conv_input_grad(x, &self.kernels, self.window, (height, width))?),
            (true, Shape::Flat(_)) => Err(failure("a transposed convolution makes a map".to_string())),
        }
    }

    fn input_grad(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(match self.transposed {
            false => conv_input_grad(dy, &self.kernels, self.window, (x.dim(1)?, x.dim(2)?))?,
            true => conv(dy, &self.kernels, self.window)?,
        })
    }

    fn weight_grad(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        Ok(match self.transposed {
            false => conv_weight_grad(x, dy, self.window)?,
            true => conv_weight_grad(dy, x, self.window)?,
        })
    }
}

pub(super) fn failure(what: String) -> Error {
    Error::Candle(candle_core::Error::Msg(what))
}

/// Flat values in the shape that `like` has.
fn shaped_as(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let shape = match *like.dims() {
        [_, height, width, channels] => Shape::Map { channels, height, width },
        _ => Shape::Flat(like.elem_count() / like.dim(0)?),
    };
    channels_last(x, shape, like.dim(0)?)
}

/// `[n, h, w, c]` → `[n, c · h · w]`, in the order in which PyTorch flattens; what is flat stays as it is.
///
/// # Errors
/// When the device is out of memory.
pub fn channels_first(x: &Tensor) -> Result<Tensor> {
    match *x.dims() {
        [n, h, w, c] => Ok(swap_axes(&x.reshape((n, h * w, c))?)?.reshape((n, c * h * w))?),
        _ => Ok(x.clone()),
    }
}

/// The inverse of [`channels_first`], for a shape.
///
/// # Errors
/// When the number of values is another.
pub fn channels_last(x: &Tensor, shape: Shape, n: usize) -> Result<Tensor> {
    match shape {
        Shape::Map { channels, height, width } => {
            Ok(swap_axes(&x.reshape((n, channels, height * width))?)?.reshape((n, height, width, channels))?)
        }
        Shape::Flat(features) => Ok(x.reshape((n, features))?),
    }
}

/// 0 with probability `p`, else 1 / (1 − p): drawn at (seed, pass, layer).
fn dropout_mask(x: &Tensor, p: f64, seed: u64, number: u64, layer: usize) -> Result<Tensor> {
    /// More than any network has; the layers of one pass take consecutive indices.
    const LAYERS: u64 = 1 << 10;
    let stream = Stream::at(seed, Purpose::Dropout, number * LAYERS + layer as u64);
    let kept = (1.0 / (1.0 - p)) as f32;
    let mask = filled(x.elem_count(), |mask: &mut [f32]| {
        mask.par_chunks_mut(TASK).enumerate().for_each(|(task, mask)| {
            let mut stream = stream.clone();
            stream.seek((task * TASK) as u64);
            mask.fill_with(|| if f64::from(stream.unit()) < p { 0.0 } else { kept });
        });
    });
    Ok(Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?)
}
