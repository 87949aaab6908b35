//! A categorical code (InfoGAN, arXiv 1606.03657): the first so many features become a one-hot vector of the largest.

use candle_core::Tensor;

use super::kind::Kind;
use super::layer::{Layer, Pass, Traced};
use super::masked::Masked;
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::graph::{Graph, Op, Value};
use crate::nn::init::{Draw, Role};
use crate::nn::shape::Shape;

/// How many categories, 2 or more.
#[derive(Clone, Copy)]
pub(super) struct Categorical(pub usize);

impl Kind for Categorical {
    fn output(&self, input: Shape) -> Result<Shape, String> {
        match input {
            Shape::Flat(features) if (2..=features).contains(&self.0) => Ok(input),
            Shape::Flat(_) | Shape::Map { .. } => {
                Err(format!("categorical {} needs 2 categories or more and as many features, but gets {input}", self.0))
            }
        }
    }

    fn build(&self, _: Shape, _: Activation, _: &Draw<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(*self))
    }

    fn unfit_for(&self, role: Role) -> Option<&'static str> {
        (role == Role::Critic).then_some("categorical is for the generator only")
    }
}

/// One where the first `categories` features of `x [n, features]` have their largest, 0 elsewhere: `[n, categories]`.
pub(crate) fn chosen(x: &Tensor, categories: usize) -> Result<Tensor> {
    let code = x.narrow(1, 0, categories)?;
    Ok(code.broadcast_ge(&code.max_keepdim(1)?)?.to_dtype(x.dtype())?)
}

impl Layer for Categorical {
    /// The other features stay as they are. No gradient comes through the choice.
    fn trace(&self, x: &Tensor, _: Pass) -> Result<(Tensor, Box<dyn Traced>)> {
        let (Self(categories), features) = (*self, x.dim(1)?);
        let chosen = chosen(x, categories)?;
        if categories == features {
            let mask = chosen.zeros_like()?;
            return Ok((chosen, Box::new(Masked(mask))));
        }
        let others = x.narrow(1, categories, features - categories)?;
        let mask = Tensor::cat(&[&chosen.zeros_like()?, &others.ones_like()?], 1)?;
        Ok((Tensor::cat(&[&chosen, &others.contiguous()?], 1)?, Box::new(Masked(mask))))
    }

    fn export(&self, graph: &mut Graph, x: Value) -> Result<Value> {
        Ok(graph.add(Op::Categorical(self.0), &[x]))
    }
}
