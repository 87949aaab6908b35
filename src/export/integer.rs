//! A generator in whole numbers: what `quantise` makes of a graph, what `qdq` writes as ONNX, and what it computes, to the bit.
//!
//! Between linear operations values are u8, maps with their channels last; weights are s8, sums s32. A sum becomes a u8 again as
//! onnxruntime does it (QLinearConv): times one f32 factor a channel, rounded to the nearest, halves to even, shifted, cut off.

use std::collections::BTreeMap;

use super::phases::Phases;
use crate::error::{Error, Result};
use crate::nn::graph::{Array, Op, Value};
use crate::nn::shape::Shape;

/// How u8 values stand for real ones: real = scale · (u8 − zero).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub scale: f32,
    pub zero: u8,
}

impl Scale {
    pub fn quantise(self, value: f32) -> u8 {
        // From f32 to u8 is cut off at both ends.
        ((value / self.scale).round_ties_even() + f32::from(self.zero)) as u8
    }

    pub fn real(self, value: u8) -> f32 {
        self.scale * f32::from(i16::from(value) - i16::from(self.zero))
    }
}

/// Kernels in s8, `[out, in, height, width]`; real = scale of the output channel · s8.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kernels {
    pub dims: [usize; 4],
    pub weights: Vec<i8>,
    pub scales: Vec<f32>,
    /// In units of the input's scale times the channel's.
    pub bias: Vec<i32>,
    pub stride: usize,
    /// Zeros at the top, the left, the bottom and the right.
    pub pads: [usize; 4],
}

/// A function of single values from one scale to another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Table {
    /// Relu, LeakyRelu, Tanh or Sigmoid.
    pub op: Op,
    pub from: Scale,
    pub to: Scale,
}

/// How phases are put together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Weave {
    pub stride: usize,
    pub channels: usize,
    /// Whether one convolution makes all of them.
    pub joined: bool,
    pub places: [usize; 2],
    pub size: [usize; 2],
}

impl Weave {
    pub fn of(phases: &Phases) -> Self {
        let Phases { stride, channels, places, size, .. } = *phases;
        Self { stride, channels, joined: phases.are_joined(), places, size }
    }

    /// Rows and columns before they are cut off.
    pub fn whole(&self) -> [usize; 2] {
        self.places.map(|places| places * self.stride)
    }
}

/// What one operation does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// An operation on real values.
    Real(Op),
    /// From real values to u8.
    Quantise(Scale),
    /// From u8 to real values.
    Dequantise(Scale),
    /// A linear operation on u8; `from` and `to` are the scales before and after it. Of features, kernels are 1 × 1.
    Linear { kernels: Kernels, from: Scale, to: Scale },
    /// A transposed convolution in its phase form.
    Phases { kernels: Vec<Kernels>, weave: Weave, from: Scale, to: Scale },
    /// A function of single u8 values.
    Table(Table),
    /// u8 values in another shape, in the order channel, row, column.
    Reshape,
    /// u8 features that are in the order row, column, channel, as a map.
    AsMap,
}

/// An operation in its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StepNode {
    pub step: Step,
    pub input: Value,
    /// What is added to it, in a sum.
    pub beside: Option<Value>,
    pub output: Value,
    /// Of the input and of the output.
    pub shapes: [Shape; 2],
}

/// Steps in an order in which they can be computed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct IntegerNetwork {
    pub nodes: Vec<StepNode>,
    pub input: Value,
    pub output: Value,
    pub input_shape: Shape,
    pub output_shape: Shape,
    /// Whether the output is u8 pixels.
    pub makes_pixels: bool,
}

/// The values of one image.
#[derive(Debug, Clone)]
pub(super) enum Values {
    Real(Vec<f32>),
    /// Maps with their channels last.
    U8(Vec<u8>),
}

impl IntegerNetwork {
    /// What it makes of one latent, exactly.
    ///
    /// # Errors
    /// When a linear operation was left in f32: what that gives to the bit depends on who computes it.
    pub fn evaluate(&self, latent: &[f32]) -> Result<Values> {
        let mut values = BTreeMap::from([(self.input, Values::Real(latent.to_vec()))]);
        let lost = || Error::Verification("a value of the integer network is of another kind than its user takes".to_string());
        for node in &self.nodes {
            let input = values.get(&node.input).ok_or_else(lost)?;
            let made = match node.beside {
                Some(beside) => sum(input, values.get(&beside).ok_or_else(lost)?),
                None => node.evaluate(input),
            };
            let made = made.ok_or_else(lost)?;
            values.insert(node.output, made);
        }
        values.remove(&self.output).ok_or_else(lost)
    }

    /// Whether all linear operations are in whole numbers.
    pub fn is_exact(&self) -> bool {
        self.nodes.iter().all(|node| !matches!(&node.step, Step::Real(op) if op.linear_name().is_some()))
    }
}

impl StepNode {
    fn evaluate(&self, input: &Values) -> Option<Values> {
        let [from_shape, to_shape] = self.shapes;
        Some(match (&self.step, input) {
            (Step::Real(op), Values::Real(x)) => Values::Real(real(op, x, from_shape)?),
            (Step::Quantise(scale), Values::Real(x)) => {
                Values::U8(channels_last(x, from_shape).into_iter().map(|value| scale.quantise(value)).collect())
            }
            (Step::Dequantise(scale), Values::U8(x)) => {
                let x: Vec<f32> = x.iter().map(|&value| scale.real(value)).collect();
                Values::Real(channels_first(&x, from_shape))
            }
            (Step::Linear { kernels, from, to }, Values::U8(x)) => {
                Values::U8(kernels.apply(x, from_shape, sides(to_shape), *from, *to))
            }
            (Step::Phases { kernels, weave, from, to }, Values::U8(x)) => {
                let made: Vec<Vec<u8>> =
                    kernels.iter().map(|kernels| kernels.apply(x, from_shape, weave.places, *from, *to)).collect();
                Values::U8(weave.interleave(&made))
            }
            (Step::Table(table), Values::U8(x)) => {
                let table = table.values()?;
                Values::U8(x.iter().map(|&value| table[usize::from(value)]).collect())
            }
            (Step::Reshape, Values::U8(x)) => Values::U8(channels_last(&channels_first(x, from_shape), to_shape)),
            (Step::AsMap, Values::U8(x)) => Values::U8(x.clone()),
            (Step::Real(_) | Step::Quantise(_), Values::U8(_)) => return None,
            (Step::Dequantise(_) | Step::Linear { .. } | Step::Phases { .. }, Values::Real(_)) => return None,
            (Step::Table(_) | Step::Reshape | Step::AsMap, Values::Real(_)) => return None,
        })
    }
}

impl Kernels {
    /// The convolution with its sums in s32, `places` rows and columns of it.
    fn apply(&self, x: &[u8], shape: Shape, places: [usize; 2], from: Scale, to: Scale) -> Vec<u8> {
        let [outputs, inputs, rows, columns] = self.dims;
        let [height, width] = sides(shape);
        let [top, left, _, _] = self.pads;
        // [row, column, in, out]: the innermost loop runs over output channels.
        let mut taps = vec![0i32; self.weights.len()];
        for (at, &weight) in self.weights.iter().enumerate() {
            let (output, rest) = (at / (inputs * rows * columns), at % (inputs * rows * columns));
            taps[(rest % (rows * columns) * inputs + rest / (rows * columns)) * outputs + output] = i32::from(weight);
        }
        let factors: Vec<f32> = self.scales.iter().map(|scale| from.scale * scale / to.scale).collect();
        let mut made = Vec::with_capacity(places[0] * places[1] * outputs);
        for (y, x0) in (0..places[0]).flat_map(|y| (0..places[1]).map(move |x| (y, x))) {
            let mut sums = self.bias.clone();
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                let (Some(at_y), Some(at_x)) =
                    ((y * self.stride + row).checked_sub(top), (x0 * self.stride + column).checked_sub(left))
                else {
                    continue;
                };
                if at_y >= height || at_x >= width {
                    continue; // beyond the map it is 0, which is `from.zero`
                }
                let pixel = &x[(at_y * width + at_x) * inputs..][..inputs];
                let taps = taps[(row * columns + column) * inputs * outputs..].chunks_exact(outputs);
                for (&value, taps) in pixel.iter().zip(taps) {
                    let value = i32::from(value) - i32::from(from.zero);
                    sums.iter_mut().zip(taps).for_each(|(sum, tap)| *sum += value * tap);
                }
            }
            let u8s = sums.iter().zip(&factors).map(|(&sum, factor)| requantise(sum, *factor, to.zero));
            made.extend(u8s);
        }
        made
    }
}

fn requantise(sum: i32, factor: f32, zero: u8) -> u8 {
    ((sum as f32 * factor).round_ties_even() + f32::from(zero)) as u8
}

impl Table {
    /// What becomes of each u8; none where the operation is no function of single values.
    pub fn values(&self) -> Option<[u8; 256]> {
        let mut values = [0; 256];
        for (at, value) in (0..=u8::MAX).zip(&mut values) {
            *value = self.to.quantise(single(&self.op, self.from.real(at))?);
        }
        Some(values)
    }
}

impl Weave {
    /// The phases, each `[places, places, channels]` or all of them as channels of one, as one map.
    fn interleave(&self, made: &[Vec<u8>]) -> Vec<u8> {
        let Self { stride, channels, places, size: [height, width], .. } = *self;
        let mut whole = Vec::with_capacity(height * width * channels);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let (phase, place) = (y % stride * stride + x % stride, y / stride * places[1] + x / stride);
            let (from, wide, first) = match made {
                [all] => (all, all.len() / (places[0] * places[1]), phase * channels),
                each => (&each[phase], channels, 0),
            };
            whole.extend_from_slice(&from[place * wide + first..][..channels]);
        }
        whole
    }
}

/// An activation of a single value; none for other operations.
pub(super) fn single(op: &Op, x: f32) -> Option<f32> {
    match op {
        Op::Relu => Some(x.max(0.0)),
        Op::LeakyRelu(slope) => Some(if x < 0.0 { x * *slope as f32 } else { x }),
        Op::Tanh => Some(x.tanh()),
        Op::Sigmoid => Some(1.0 / (1.0 + (-x).exp())),
        Op::Gemm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Affine { .. } => None,
        Op::Reshape(_) | Op::Categorical(_) | Op::Add | Op::Basis(_) | Op::Nearest => None,
    }
}

/// The sum of real values.
fn sum(a: &Values, b: &Values) -> Option<Values> {
    match (a, b) {
        (Values::Real(a), Values::Real(b)) => Some(Values::Real(a.iter().zip(b).map(|(a, b)| a + b).collect())),
        _ => None,
    }
}

/// An operation on the real values of one image, channels first; none for linear ones.
fn real(op: &Op, x: &[f32], shape: Shape) -> Option<Vec<f32>> {
    match op {
        Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid => x.iter().map(|&x| single(op, x)).collect(),
        Op::Reshape(_) => Some(x.to_vec()),
        Op::Affine { scale, shift, .. } => {
            let area = (shape.elements() / shape.channels()).max(1);
            let channels = x.chunks(area).zip(scale.iter().zip(shift));
            Some(channels.flat_map(|(x, (scale, shift))| x.iter().map(move |x| x * scale + shift)).collect())
        }
        Op::Categorical(categories) => {
            let (code, others) = x.split_at_checked(*categories)?;
            let largest = code.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let chosen = code.iter().map(|&value| f32::from(u8::from(value >= largest)));
            Some(chosen.chain(others.iter().copied()).collect())
        }
        Op::Nearest => {
            let [height, width] = sides(shape);
            let rows = (0..2 * height * shape.channels())
                .map(|row| &x[row / (2 * height) * height * width + row % (2 * height) / 2 * width..]);
            Some(rows.flat_map(|row| (0..2 * width).map(move |column| row[column / 2])).collect())
        }
        Op::Basis(map) => {
            let area = map.dims[2..].iter().product::<usize>().max(1);
            Some(map.values.chunks(area).zip(x).flat_map(|(map, x)| map.iter().map(move |value| value * x)).collect())
        }
        Op::Gemm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Add => None,
    }
}

/// Rows and columns; features are one place.
pub(super) fn sides(shape: Shape) -> [usize; 2] {
    match shape {
        Shape::Map { height, width, .. } => [height, width],
        Shape::Flat(_) => [1, 1],
    }
}

fn channels_last<T: Copy>(x: &[T], shape: Shape) -> Vec<T> {
    let (channels, area) = (shape.channels(), shape.elements() / shape.channels().max(1));
    (0..x.len()).map(|at| x[at % channels * area + at / channels]).collect()
}

fn channels_first<T: Copy>(x: &[T], shape: Shape) -> Vec<T> {
    let (channels, area) = (shape.channels(), shape.elements() / shape.channels().max(1));
    (0..x.len()).map(|at| x[at % area * channels + at / area]).collect()
}

/// Weights in whole numbers from −63 to 63: two products of such with u8 values fit in s16, in which processors without VNNI add
/// them up (`vpmaddubsw`), so that sums are the same everywhere.
pub(super) const MOST_WEIGHT: f32 = 63.0;

/// What a linear operation takes.
pub(super) struct Taken {
    pub scale: Scale,
    /// The mean of each input channel.
    pub means: Vec<f64>,
    /// Rows and columns.
    pub sides: [usize; 2],
}

/// Where kernels lie.
#[derive(Clone, Copy)]
pub(super) struct Lie {
    pub stride: usize,
    /// Zeros at the top, the left, the bottom and the right.
    pub pads: [usize; 4],
    /// Rows and columns of what they make.
    pub places: [usize; 2],
}

impl Lie {
    /// Of features, which are one place.
    pub const SINGLE: Self = Self { stride: 1, pads: [0; 4], places: [1, 1] };

    /// At which part of the places a kernel's row (axis 0) or column (axis 1) lies on the map, not on the zeros around it.
    fn share(self, axis: usize, tap: usize, sides: [usize; 2]) -> f64 {
        let on_map = |place: &usize| {
            let at = place * self.stride + tap;
            at >= self.pads[axis] && at - self.pads[axis] < sides[axis]
        };
        (0..self.places[axis]).filter(on_map).count() as f64 / self.places[axis].max(1) as f64
    }
}

/// Quantises kernels `[out, in, …]`, a scale an output channel, by least squares: the scale that loses least of the weights.
pub(super) fn quantise_kernels(weight: &Array, bias: &[f32], taken: &Taken, lie: Lie) -> Kernels {
    let from = taken.scale;
    let dims = [0, 1, 2, 3].map(|axis| weight.dims.get(axis).copied().unwrap_or(1));
    let row = weight.values.len() / dims[0].max(1);
    // What each of a kernel's weights is multiplied with, on average.
    let shares = [0, 1].map(|axis| (0..dims[2 + axis]).map(|tap| lie.share(axis, tap, taken.sides)).collect::<Vec<f64>>());
    let share = |at: usize| shares[0][at / dims[3] % dims[2]] * shares[1][at % dims[3]];
    let mean = |at: usize| taken.means.get(at / (dims[2] * dims[3])).copied().unwrap_or(0.0);
    let means: Vec<f64> = (0..row).map(|at| mean(at) * share(at)).collect();
    let (mut weights, mut scales, mut biases) = (Vec::with_capacity(weight.values.len()), Vec::new(), Vec::new());
    for (kernel, &bias) in weight.values.chunks_exact(row.max(1)).zip(bias) {
        // The bias must fit in s32, whatever the weights; and weights that are all 0 have a scale, too, which is a normal number
        // times the input's, as well.
        let least = (bias.abs() / from.scale / (1u32 << 28) as f32).max(f32::MIN_POSITIVE * 1e6);
        let least = least.max(f32::MIN_POSITIVE * 2.0 / from.scale);
        let scale = kernel_scale(kernel).max(least);
        let rounded = |value: &f32| (value / scale).round_ties_even().clamp(-MOST_WEIGHT, MOST_WEIGHT);
        weights.extend(kernel.iter().map(|value| rounded(value) as i8));
        // What rounding takes from the mean of the sums is given back (bias correction, arXiv 1906.04721, section 4.2).
        let lost: f64 = kernel.iter().zip(&means).map(|(value, mean)| f64::from(value - rounded(value) * scale) * mean).sum();
        biases.push(((f64::from(bias) + lost) / (f64::from(from.scale) * f64::from(scale))).round_ties_even() as i32);
        scales.push(scale);
    }
    Kernels { dims, weights, scales, bias: biases, stride: lie.stride, pads: lie.pads }
}

fn kernel_scale(kernel: &[f32]) -> f32 {
    let largest = kernel.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let lost = |scale: f32| -> f64 {
        let rounded = |value: f32| (value / scale).round_ties_even().clamp(-MOST_WEIGHT, MOST_WEIGHT) * scale;
        kernel.iter().map(|&value| f64::from(value - rounded(value)).powi(2)).sum()
    };
    let candidates = (0..=12).map(|step| largest / MOST_WEIGHT * (1.0 - 0.025 * step as f32));
    candidates.map(|scale| (lost(scale), scale)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(largest, |(_, scale)| scale)
}
