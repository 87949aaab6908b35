//! What is known of a kind of layer before it is built.

use super::layer::Layer;
use crate::error::Result;
use crate::nn::activation::Activation;
use crate::nn::init::{Draw, Role};
use crate::nn::shape::Shape;

/// No network here is wider.
const LIMIT: usize = 1 << 16;

/// A layer as a config describes it.
pub(super) trait Kind {
    /// The shape after it; what does not fit, without the layer's number.
    fn output(&self, input: Shape) -> Result<Shape, String>;

    /// Builds it, with an activation behind it if [`Self::fuses`].
    fn build(&self, input: Shape, act: Activation, draw: &Draw<'_>) -> Result<Box<dyn Layer>>;

    /// The activation that it is, if it is one.
    fn activation(&self) -> Option<Activation> {
        None
    }

    /// Whether an activation behind it is computed with it, in one pass over memory.
    fn fuses(&self) -> bool {
        false
    }

    /// Whether it has parameters that learn.
    fn learns(&self) -> bool {
        false
    }

    /// Values of its weights, roughly; in floating point, since a config may ask for anything.
    fn weights(&self, _input: Shape) -> f64 {
        0.0
    }

    /// Values that it holds on the way to its result, roughly, for each image.
    fn activations(&self, _input: Shape) -> f64 {
        0.0
    }

    /// Whether without an activation its result is nobody else's and its gradient is only read.
    fn hands_over(&self) -> bool {
        false
    }

    /// Channels or features that it makes, if that is for it to say: what a factor on the width scales.
    fn width(&self) -> Option<usize> {
        None
    }

    /// The field of [`Self::width`].
    fn width_mut(&mut self) -> Option<&mut usize> {
        None
    }

    /// Its field that says whether there is a bias.
    fn bias_mut(&mut self) -> Option<&mut bool> {
        None
    }

    /// Its field that says whether its kernels are divided by their largest singular value.
    fn spectral_mut(&mut self) -> Option<&mut bool> {
        None
    }

    /// Why it does not belong into one of the two networks.
    fn unfit_for(&self, _role: Role) -> Option<&'static str> {
        None
    }
}

/// Refuses sizes that no network here has.
pub(super) fn within(sizes: &[usize]) -> Result<(), String> {
    match sizes.iter().find(|size| !(1..=LIMIT).contains(*size)) {
        None => Ok(()),
        Some(size) => Err(format!("size {size} must be 1 to {LIMIT}")),
    }
}

/// The map of `out` channels that a convolution makes, whose sides follow from the input's by `size`.
pub(super) fn map(input: Shape, out: usize, size: impl Fn(usize) -> Option<usize>) -> Result<Shape, String> {
    let Shape::Map { height, width, .. } = input else {
        return Err(format!("a convolution needs a map, but gets {input}: put a reshape before it"));
    };
    match (size(height), size(width)) {
        (Some(height), Some(width)) if height <= LIMIT && width <= LIMIT => Ok(Shape::Map { channels: out, height, width }),
        _ => Err(format!("the kernel does not fit a map of {height}×{width}")),
    }
}

/// Why kernels divided by their largest singular value do not belong into a generator.
pub(super) const CRITICS_ONLY: &str = "norm and spectral are for the critic only";

/// Refuses a gain that no weights could begin with.
pub(super) fn check_gain(gain: Option<f64>) -> Result<(), String> {
    match gain {
        Some(gain) if !(0.0..=100.0).contains(&gain) => Err(format!("gain {gain} must be 0 to 100")),
        _ => Ok(()),
    }
}

/// For serde: a field that is on unless a config says otherwise.
pub(super) fn yes() -> bool {
    true
}

/// For serde: a step of 1 unless a config says otherwise.
pub(super) fn one() -> usize {
    1
}
