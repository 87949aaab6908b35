//! Dropout: in training each value is zeroed with a probability, and the others are scaled up.

use candle_core::Tensor;
use rayon::prelude::*;

use super::kind::Kind;
use super::layer::{Layer, Pass, Traced};
use super::masked::{Masked, Untraced};
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::cpu::{Slot, TASK, filled};
use crate::nn::elementwise::multiply;
use crate::nn::graph::{Graph, Value};
use crate::nn::in_place::InPlace;
use crate::nn::init::Draw;
use crate::nn::shape::Shape;
use crate::nn::upload::{Values, upload};
use crate::random::{Purpose, Stream};

/// The probability, at least 0 and below 1.
#[derive(Clone, Copy)]
pub(super) struct Dropout(pub f64);

impl Kind for Dropout {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        if !(0.0..1.0).contains(&self.0) {
            return Err(format!("dropout {} must be at least 0 and below 1", self.0));
        }
        Ok(input)
    }

    fn build(&self, _: Shape, _: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Built { p: self.0, index: draw.index }))
    }
}

struct Built {
    p: f64,
    /// Its position in the config: no two layers of a network draw the same masks.
    index: usize,
}

impl Layer for Built {
    fn trace(&self, x: &Tensor, pass: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        match pass {
            Pass::Train { seed, number } => {
                let (y, mask) = (x.copy()?, self.mask(x, seed, number)?);
                multiply(InPlace::of(&y), &mask)?;
                Ok((y, Box::new(Masked(mask))))
            }
            Pass::Eval => Ok((x.clone(), Box::new(Untraced("dropout")))),
        }
    }

    /// Nothing.
    fn export(&self, _: &mut Graph, x: Value) -> Result<Value> {
        Ok(x)
    }
}

impl Built {
    /// 0 with probability p, else 1 / (1 − p): drawn at (seed, pass, layer).
    fn mask(&self, x: &Tensor, seed: u64, number: u64) -> Result<Tensor> {
        /// More than any network has; the layers of one pass take consecutive indices.
        const LAYERS: u64 = 1 << 10;
        let (p, kept) = (self.p, (1.0 / (1.0 - self.p)) as f32);
        let stream = Stream::at(seed, Purpose::Dropout, number * LAYERS + self.index as u64);
        let mask = filled(x.elem_count(), |mask| {
            mask.par_chunks_mut(TASK).enumerate().for_each(|(task, mask)| {
                let mut stream = stream.clone();
                stream.seek((task * TASK) as u64);
                mask.iter_mut().for_each(|value| value.put(if f64::from(stream.unit()) < p { 0.0 } else { kept }));
            });
        });
        Ok(upload(Values::F32(mask), x.shape(), x.device())?.to_dtype(x.dtype())?)
    }
}
