//! DiffAugment (arXiv 2006.10738): what the critic sees, real or generated, is changed at random in ways that can be
//! differentiated, so that a small data set is not learnt by heart. Formulas and rounding of the authors' `DiffAugment_pytorch.py`.
//!
//! Given its draws, an augmentation is an affine map of each image; the backward pass is the adjoint of its linear part. The
//! authors' images lie in [-1, 1] and what a shift or a cut leaves empty becomes 0, mid-grey. Images in [0, 1] are treated as the
//! same images: filled with ½, and half as much brightness added.

use std::borrow::Cow;
use std::ops;

use candle_core::{Result as CandleResult, Tensor, bail};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::DataConfig;
use crate::error::Result;
use crate::image::Range;
use crate::nn::cpu::{Float, View, copied, filled, for_float, vectorised};
#[cfg(feature = "cuda")]
use crate::nn::cuda::augment::{self as cuda, Kind, augment};
use crate::nn::device::on_device;
#[cfg(feature = "cuda")]
use crate::nn::upload::{Values, upload};
use crate::random::{Purpose, Stream};

/// Largest shift, as a share of the side.
const SHIFT: f64 = 0.125;
/// Side of the square that is cut out, as a share of the image's.
const CUT: f64 = 0.5;

/// A change to the images on their way to the critic through which gradients flow back (DiffAugment, arXiv 2006.10738).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// Brightness, saturation, contrast.
    Color,
    /// A shift of up to an eighth of the size, with mid-grey behind it.
    Translation,
    /// A square of half the size becomes mid-grey.
    Cutout,
}

/// What happens to the images of one batch, step after step.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmentation {
    /// In this order.
    pub steps: Vec<Step>,
    /// The value of pixels that a step leaves empty.
    pub fill: f64,
}

/// One step with its draws, one an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Brightness, then saturation, then contrast.
    Color(Vec<Color>),
    /// Rows and columns: pixel (i, j) becomes what (i + rows, j + columns) was.
    Translation(Vec<[i64; 2]>),
    /// Row and column of the square's middle, each 0 to the side; outside the image it is cut off.
    Cutout(Vec<[usize; 2]>),
}

/// The draws of [`Step::Color`] for one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Color {
    /// Added to every value; drawn from U(-½, ½).
    pub brightness: f64,
    /// Factor on a value's distance from its pixel's mean over the channels; U(0, 2).
    pub saturation: f64,
    /// Factor on a value's distance from the image's mean; U(½, 1½).
    pub contrast: f64,
}

impl Color {
    /// The draws of an image that is left as it is.
    const NONE: Self = Self { brightness: 0.0, saturation: 1.0, contrast: 1.0 };
}

/// The middle of a square that lies beyond any image: nothing of it is cut out.
const BEYOND: [usize; 2] = [usize::MAX / 2; 2];

/// Height, width, channels.
type Dims = [usize; 3];

impl Augmentation {
    /// Draws for `n` images, the first of which has the number `first`. An image's draws depend on the seed, its number and
    /// the policy alone; no two batches of a run may share numbers, if they are to be changed independently.
    pub fn draw(policy: &[Augment], data: &DataConfig, seed: u64, first: u64, n: usize) -> Self {
        let scale = if data.range == Range::Sigmoid { 0.5 } else { 1.0 };
        let mut streams: Vec<Stream> = (0..n as u64).map(|i| Stream::at(seed, Purpose::Augment, first + i)).collect();
        let steps = policy.iter().map(|kind| Step::draw(*kind, data.size, scale, &mut streams)).collect();
        Self { steps, fill: Self::fill(data) }
    }

    /// The value of pixels that a step leaves empty: mid-grey.
    pub(crate) fn fill(data: &DataConfig) -> f64 {
        match data.range {
            Range::Sigmoid => 0.5,
            Range::Tanh | Range::Byte => 0.0,
        }
    }

    /// The same, but each step changes each image with this probability only, and else leaves it as it is. That is drawn apart from
    /// the steps' own draws, at the seed and the image's number, of which `first` is the first.
    #[must_use]
    pub fn with_probability(mut self, probability: f64, seed: u64, first: u64) -> Self {
        if probability >= 1.0 {
            return self;
        }
        for (place, step) in (0..).zip(&mut self.steps) {
            for (image, number) in (0..step.len()).zip(first..) {
                let mut chances = Stream::at(seed, Purpose::AugmentChance, number);
                chances.seek(place);
                if f64::from(chances.unit()) >= probability {
                    step.leave(image);
                }
            }
        }
        self
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Changes images `[n, h, w, c]`.
    ///
    /// # Errors
    /// When there are not draws for n images, the type is neither f32 nor f64, or the device is out of memory.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.through(x, Form::Whole)
    }

    /// From the gradient to the changed images `[n, h, w, c]`: that to the images as they were.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        self.through(dy, Form::Adjoint)
    }

    /// From a change of the images `[n, h, w, c]`: that of the changed images; the linear part of [`Self::apply`], whose adjoint
    /// [`Self::backward`] is.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn forward_linear(&self, x: &Tensor) -> Result<Tensor> {
        self.through(x, Form::Linear)
    }

    fn through(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        if self.is_empty() {
            return Ok(x.clone());
        }
        self.check(x.dim(0)?)?;
        Ok(on_device!(
            x.device(),
            cpu: for_float!(x.dtype(), T => self.in_form(form).apply_cpu::<T>(x)),
            cuda: augment(x, &self.kinds(), &upload(Values::F64(self.numbers(x.dims())), self.shape(), x.device())?, form.on_cuda(), self.fill)
        )?)
    }

    fn in_form(&self, form: Form) -> Cow<'_, Self> {
        match form {
            Form::Whole => Cow::Borrowed(self),
            Form::Linear => Cow::Owned(self.adjoint().adjoint()),
            Form::Adjoint => Cow::Owned(self.adjoint()),
        }
    }

    /// Steps, images, and four numbers of each.
    #[cfg(feature = "cuda")]
    fn shape(&self) -> (usize, usize, usize) {
        (self.steps.len(), self.steps.first().map_or(0, Step::len), 4)
    }

    #[cfg(feature = "cuda")]
    fn kinds(&self) -> Vec<Kind> {
        self.steps.iter().map(|step| step.policy().on_cuda()).collect()
    }

    /// All draws as the kernel takes them, for images of these dimensions, `[n, h, w, c]`: four numbers for each image of each step.
    #[cfg(feature = "cuda")]
    pub(crate) fn numbers(&self, dims: &[usize]) -> Vec<f64> {
        let [h, w] = [1, 2].map(|axis| dims.get(axis).copied().unwrap_or(0));
        self.steps.iter().flat_map(|step| step.numbers(h, w)).flatten().collect()
    }

    /// The adjoint of the linear part. Saturation and contrast blend with a mean: symmetric maps, which commute.
    fn adjoint(&self) -> Self {
        Self { steps: self.steps.iter().rev().map(Step::adjoint).collect(), fill: 0.0 }
    }

    fn check(&self, n: usize) -> CandleResult<()> {
        match self.steps.iter().find(|step| step.len() != n) {
            Some(step) => bail!("an augmentation drawn for {} images was given {n}", step.len()),
            None => Ok(()),
        }
    }

    /// Image by image: results depend neither on the number of threads nor on the batch.
    fn apply_cpu<T: Float>(&self, x: &Tensor) -> CandleResult<Tensor> {
        let (_, h, w, c) = x.dims4()?;
        let x = x.contiguous()?;
        let view = View::of(&x);
        let values = view.slice::<T>()?;
        let made = filled(values.len(), |to| {
            let images = to.par_chunks_exact_mut((h * w * c).max(1)).zip(values.par_chunks_exact((h * w * c).max(1)));
            images.enumerate().for_each(|(index, (to, from))| {
                let to = copied(to, from);
                vectorised(|| self.steps.iter().for_each(|step| step.apply_image(index, to, [h, w, c], self.fill)));
            });
        });
        Tensor::from_vec(made, x.shape(), x.device())
    }
}

impl Step {
    fn draw(kind: Augment, side: usize, scale: f32, streams: &mut [Stream]) -> Self {
        match kind {
            Augment::Color => {
                let colors = streams.iter_mut().map(|stream| Color {
                    brightness: f64::from(scale * stream.uniform(-0.5, 0.5)),
                    saturation: f64::from(stream.uniform(0.0, 2.0)),
                    contrast: f64::from(stream.uniform(0.5, 1.5)),
                });
                Self::Color(colors.collect())
            }
            Augment::Translation => {
                let most = share(SHIFT, side);
                let draw = |stream: &mut Stream| i64::from(stream.below(2 * most as u32 + 1)) - most as i64;
                Self::Translation(streams.iter_mut().map(|stream| [draw(stream), draw(stream)]).collect())
            }
            Augment::Cutout => {
                // A square of even side has its middle between pixels, of which there is one more.
                let places = side + 1 - share(CUT, side) % 2;
                let draw = |stream: &mut Stream| stream.below(places as u32) as usize;
                Self::Cutout(streams.iter_mut().map(|stream| [draw(stream), draw(stream)]).collect())
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Color(draws) => draws.len(),
            Self::Translation(draws) => draws.len(),
            Self::Cutout(draws) => draws.len(),
        }
    }

    /// Leaves image number `image` of the batch as it is.
    fn leave(&mut self, image: usize) {
        match self {
            Self::Color(draws) => draws[image] = Color::NONE,
            Self::Translation(draws) => draws[image] = [0, 0],
            Self::Cutout(draws) => draws[image] = BEYOND,
        }
    }

    fn adjoint(&self) -> Self {
        match self {
            Self::Color(draws) => Self::Color(draws.iter().map(|&color| Color { brightness: 0.0, ..color }).collect()),
            Self::Translation(draws) => Self::Translation(draws.iter().map(|by| by.map(|by| -by)).collect()),
            Self::Cutout(draws) => Self::Cutout(draws.clone()),
        }
    }

    #[inline(always)]
    fn apply_image<T: Float>(&self, index: usize, image: &mut [T], dims: Dims, fill: f64) {
        match self {
            Self::Color(draws) => colour(image, dims[2], draws[index]),
            Self::Translation(draws) => shift(image, dims, draws[index], T::from_f64(fill)),
            Self::Cutout(draws) => cut(image, dims, draws[index], T::from_f64(fill)),
        }
    }

    #[cfg(feature = "cuda")]
    fn policy(&self) -> Augment {
        match self {
            Self::Color(_) => Augment::Color,
            Self::Translation(_) => Augment::Translation,
            Self::Cutout(_) => Augment::Cutout,
        }
    }

    /// Four numbers an image: brightness, saturation, contrast; rows, columns; or what a cut fills, its first row and the one behind
    /// it, likewise of columns.
    #[cfg(feature = "cuda")]
    fn numbers(&self, h: usize, w: usize) -> Vec<[f64; 4]> {
        match self {
            Self::Color(draws) => draws.iter().map(|draw| [draw.brightness, draw.saturation, draw.contrast, 0.0]).collect(),
            Self::Translation(draws) => draws.iter().map(|[rows, columns]| [*rows as f64, *columns as f64, 0.0, 0.0]).collect(),
            Self::Cutout(draws) => {
                let numbers = |[row, column]: &[usize; 2]| {
                    let (rows, columns) = (window(h, *row), window(w, *column));
                    [rows.start, rows.end, columns.start, columns.end].map(|at| at as f64)
                };
                draws.iter().map(numbers).collect()
            }
        }
    }
}

/// How images go through an augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Whole,
    /// Without what it adds: its linear part.
    Linear,
    /// The adjoint of the linear part.
    Adjoint,
}

#[cfg(feature = "cuda")]
impl Form {
    fn on_cuda(self) -> cuda::Form {
        match self {
            Self::Whole => cuda::Form::Whole,
            Self::Linear => cuda::Form::Linear,
            Self::Adjoint => cuda::Form::Adjoint,
        }
    }
}

#[cfg(feature = "cuda")]
impl Augment {
    fn on_cuda(self) -> Kind {
        match self {
            Self::Color => Kind::Colour,
            Self::Translation => Kind::Shift,
            Self::Cutout => Kind::Cut,
        }
    }
}

/// An augmentation of one batch, its draws where the images are.
#[derive(Clone)]
pub(crate) enum Placed {
    /// On the CPU.
    Host(Augmentation),
    /// On CUDA: the draws are [`Augmentation::numbers`], `[steps, n, 4]`.
    #[cfg(feature = "cuda")]
    Device {
        /// The steps.
        policy: Vec<Augment>,
        /// The draws.
        draws: Tensor,
        /// The value of pixels that a step leaves empty.
        fill: f64,
    },
}

impl Placed {
    /// What images `[n, h, w, c]` on the device of the draws become, or gradients to them.
    ///
    /// # Errors
    /// As [`Augmentation::apply`].
    pub fn through(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        match self {
            Self::Host(augmentation) => augmentation.through(x, form),
            #[cfg(feature = "cuda")]
            Self::Device { policy, draws, fill } => {
                let kinds: Vec<Kind> = policy.iter().map(|kind| kind.on_cuda()).collect();
                Ok(augment(x, &kinds, draws, form.on_cuda(), *fill)?)
            }
        }
    }
}

/// The whole number nearest to a share of a side, halves upwards.
fn share(ratio: f64, side: usize) -> usize {
    (side as f64 * ratio + 0.5) as usize
}

#[inline(always)]
fn colour<T: Float>(image: &mut [T], channels: usize, color: Color) {
    if color == Color::NONE {
        return; // to the bit, which (x − mean) + mean is not
    }
    let [brightness, saturation, contrast] = [color.brightness, color.saturation, color.contrast].map(T::from_f64);
    let mut sum = 0.0;
    for pixel in image.chunks_exact_mut(channels) {
        pixel.iter_mut().for_each(|value| *value += brightness);
        let mean = T::from_f64(pixel.iter().map(|value| value.to_f64()).sum::<f64>() / channels as f64);
        pixel.iter_mut().for_each(|value| *value = (*value - mean) * saturation + mean);
        sum += pixel.iter().map(|value| value.to_f64()).sum::<f64>();
    }
    let mean = T::from_f64(sum / image.len() as f64);
    image.iter_mut().for_each(|value| *value = (*value - mean) * contrast + mean);
}

fn shift<T: Float>(image: &mut [T], [h, w, c]: Dims, by: [i64; 2], fill: T) {
    let from = image.to_vec();
    let len = overlap(w, by[1]).len() * c;
    image.fill(fill);
    for (to, source) in moved([h, w], by) {
        image[to * c..to * c + len].copy_from_slice(&from[source * c..source * c + len]);
    }
}

/// For each row that a shift fills: the first pixel that it fills, and that which goes there.
fn moved([h, w]: [usize; 2], [rows, columns]: [i64; 2]) -> impl Iterator<Item = (usize, usize)> {
    let filled = overlap(w, columns);
    let further = move |at: usize, by: i64| at.saturating_add_signed(by as isize);
    let first = filled.start;
    let rows_filled = if filled.is_empty() { 0..0 } else { overlap(h, rows) };
    rows_filled.map(move |row| (row * w + first, further(row, rows) * w + further(first, columns)))
}

/// The places on a side from which the place `by` further on lies on it, too.
fn overlap(side: usize, by: i64) -> ops::Range<usize> {
    let end = side as i64;
    (by.saturating_neg().clamp(0, end) as usize)..(end.saturating_sub(by).clamp(0, end) as usize)
}

fn cut<T: Float>(image: &mut [T], [h, w, c]: Dims, [row, column]: [usize; 2], fill: T) {
    let columns = window(w, column);
    for row in window(h, row) {
        image[(row * w + columns.start) * c..(row * w + columns.end) * c].fill(fill);
    }
}

/// What a cut around `middle` covers of a side.
fn window(side: usize, middle: usize) -> ops::Range<usize> {
    let cut = share(CUT, side);
    middle.saturating_sub(cut / 2).min(side)..(middle + cut).saturating_sub(cut / 2).min(side)
}
