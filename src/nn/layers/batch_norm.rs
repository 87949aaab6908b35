//! Batch normalisation over batch (and map), ε 1e-5, momentum 0.1, affine (arXiv 1502.03167).

use candle_core::Tensor;

use super::activation;
use super::kind::Kind;
use super::layer::{Layer, Pass, Traced};
use super::masked::Untraced;
use super::normalisation::TracedNorm;
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::graph::{Array, Graph, Op, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::{Draw, Parameter};
use crate::nn::norm::{Normalised, batch_norm_fixed, batch_norm_moving};
use crate::nn::shape::Shape;
use crate::nn::statistics::{EPS, Running};

/// As configs name it.
pub(super) struct BatchNorm;

impl Kind for BatchNorm {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        Ok(input)
    }

    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        let c = input.channels();
        Ok(Box::new(Built {
            parameters: [
                draw.of_norm("batch_norm.weight", c, draw.init.norm_weight, 1.0, 0)?,
                draw.of_norm("batch_norm.bias", c, draw.init.norm_bias, 0.0, 1)?,
                draw.statistic("batch_norm.running_mean", c, 0.0)?,
                draw.statistic("batch_norm.running_var", c, 1.0)?,
            ],
            is_map: matches!(input, Shape::Map { .. }),
            act,
        }))
    }

    fn fuses(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        true
    }
}

struct Built {
    /// Gain, offset, running mean, running variance.
    parameters: [Parameter; 4],
    is_map: bool,
    act: Activation,
}

impl Layer for Built {
    fn parameters(&self) -> Vec<&Parameter> {
        self.parameters.iter().collect()
    }

    fn trace(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let [gain, offset, mean, var] = self.parameters.each_ref().map(Parameter::tensor);
        match pass {
            Pass::Eval => {
                let y = batch_norm_fixed(x, &gain, &offset, &mean, &var)?;
                self.act.apply(InPlace::of(&y))?;
                Ok((y, Box::new(Untraced("batch_norm"))))
            }
            Pass::Train { .. } => {
                let count = x.elem_count() / gain.elem_count();
                let running = Running::new(InPlace::of(&mean), InPlace::of(&var), count);
                let made = batch_norm_moving(x, &gain, &offset, self.act, Some(running))?;
                Ok((made.y.clone(), Box::new(TracedNorm::new(x, gain, Normalised::Batch(made), self.act))))
            }
        }
    }

    /// An affine map of the running statistics.
    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        let [gain, offset, mean, var] = self.parameters.each_ref().map(Parameter::array);
        let y = graph.add(affine(&gain?, &offset?, &mean?, &var?, self.is_map), &[x]);
        Ok(activation::op(self.act, graph, y))
    }
}

/// `γ (x − μ) / √(σ² + ε) + β` as scale and shift, computed in f64.
fn affine(gain: &Array, offset: &Array, mean: &Array, var: &Array, map: bool) -> Op {
    let gains = gain.values.iter().zip(&var.values);
    let scales: Vec<f64> = gains.map(|(&w, &v)| f64::from(w) / (f64::from(v) + EPS).sqrt()).collect();
    let shifts = offset.values.iter().zip(&mean.values).zip(&scales);
    let shift = shifts.map(|((&b, &m), s)| (f64::from(b) - f64::from(m) * s) as f32).collect();
    Op::Affine { shift, scale: scales.iter().map(|&s| s as f32).collect(), map }
}
