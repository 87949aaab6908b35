//! Layer normalisation over all but the batch, ε 1e-5, affine by channel, as WGAN-GP's critics have it (arXiv 1607.06450).

use candle_core::Tensor;

use super::kind::Kind;
use super::layer::{Layer, Pass, Traced};
use super::normalisation::TracedNorm;
use crate::error::{Error, Result};
use crate::nn::activation::Activation;
use crate::nn::graph::{Graph, Value};
use crate::nn::init::{Draw, Parameter, Role};
use crate::nn::norm::{Normalised, layer_norm};
use crate::nn::shape::Shape;

/// As configs name it.
pub(super) struct LayerNorm;

impl Kind for LayerNorm {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let c = input.channels();
        Ok(Box::new(Built {
            parameters: [
                draw.of_norm("layer_norm.weight", c, draw.init.norm_weight, 1.0, 0)?,
                draw.of_norm("layer_norm.bias", c, draw.init.norm_bias, 0.0, 1)?,
            ],
            act,
        }))
    }

    fn fuses(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        true
    }

    fn unfit_for(&self, role: Role) -> Option<&'static str> {
        (role == Role::Generator).then_some("layer_norm cannot be exported; use batch_norm")
    }
}

struct Built {
    /// Gain and offset.
    parameters: [Parameter; 2],
    act: Activation,
}

impl Layer for Built {
    fn parameters(&self) -> Vec<&Parameter> {
        self.parameters.iter().collect()
    }

    fn trace(&self, x: &Tensor, _: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let [gain, offset] = self.parameters.each_ref().map(Parameter::tensor);
        let made = Normalised::Layer(layer_norm(x, &gain, &offset, self.act)?);
        Ok((made.y().clone(), Box::new(TracedNorm::new(x, gain, made, self.act))))
    }

    fn export(&self, _: &mut Graph, _: Value) -> Result<Value> {
        Err(Error::Verification(
            "a generator with layer_norm has no exported form here. Use batch_norm in the generator.".to_string(),
        ))
    }
}
