//! The phase form of a transposed convolution: one plain convolution for each phase of its output, interleaved.
//!
//! A transposed convolution with stride s spreads its input out with s − 1 zeros between the pixels, and most of what a plain
//! convolution of that would multiply is zeros. Output pixels whose row is r modulo s and whose column is c modulo s see only every
//! s-th row and column of the kernel: each of these s² phases is a plain convolution of the input with those taps (sub-pixel
//! convolution, arXiv 1609.05158, backwards). onnxruntime has an integer kernel for those, and none for ConvTranspose.

use crate::nn::geometry::ConvWindow;
use crate::nn::graph::Array;

/// So many output channels onnxruntime's integer kernel makes at a time; fewer cost as much.
const LANES: usize = 16;

/// A plain convolution with a kernel of any height and width; step 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PlainConv {
    /// `[out, in, height, width]`
    pub weight: Array,
    /// By output channel.
    pub bias: Vec<f32>,
    /// Zeros at the top, the left, the bottom and the right.
    pub pads: [usize; 4],
}

/// The convolutions of all phases. Each makes as many rows and columns, `places`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Phases {
    /// One a phase, row by row of the s × s; or one for all of them, whose output channels are the phases' in that order, and then
    /// as many that hold nothing as make them a multiple of [`LANES`].
    pub convs: Vec<PlainConv>,
    pub stride: usize,
    /// Output channels of a phase.
    pub channels: usize,
    /// Rows and columns of each phase.
    pub places: [usize; 2],
    /// Rows and columns of the whole: the interleaved phases are cut off there.
    pub size: [usize; 2],
}

impl Phases {
    /// `weight` is `[in, out, k, k]`; `from` and `size` are the input's and the output's rows and columns.
    pub fn of(weight: &Array, bias: Option<&[f32]>, window: ConvWindow, from: [usize; 2], size: [usize; 2]) -> Self {
        let (stride, channels) = (window.stride, weight.dims[1]);
        let bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        // Where padding cuts much off, fewer rows than the input has would do; kernels are placed as if all were wanted.
        let places = [0, 1].map(|axis| size[axis].div_ceil(stride).max(from[axis]));
        let phases: Vec<Taps> = (0..stride).map(|phase| Taps::of(window, phase)).collect();
        let convs = if stride > 1 && stride * stride * channels <= LANES {
            vec![joined(weight, &bias, &phases, from, places)]
        } else {
            let pairs = phases.iter().flat_map(|rows| phases.iter().map(move |columns| [rows, columns]));
            pairs.map(|pair| single(weight, &bias, pair, from, places)).collect()
        };
        Self { convs, stride, channels, places, size }
    }

    /// Whether one convolution makes all phases.
    pub fn are_joined(&self) -> bool {
        self.stride > 1 && self.convs.len() == 1
    }
}

/// Along one axis: which rows of a kernel a phase takes, and where on the input they lie.
#[derive(Debug, Clone, PartialEq)]
struct Taps {
    /// Pairs of an offset to the phase's place and the kernel's row; offsets ascend by 1.
    taps: Vec<(isize, Option<usize>)>,
}

impl Taps {
    /// Output row s m + r takes kernel row t from input row m + (r + p − t)/s, where that is whole.
    fn of(window: ConvWindow, phase: usize) -> Self {
        let offset = |tap: usize| (phase + window.padding) as isize - tap as isize;
        let stride = window.stride as isize;
        let fits = (0..window.kernel).filter(|&tap| offset(tap) % stride == 0);
        let mut taps: Vec<(isize, Option<usize>)> = fits.map(|tap| (offset(tap) / stride, Some(tap))).collect();
        taps.sort_unstable();
        // The place itself is always among them, with a tap of zeros if need be: no pad is negative then.
        let first = taps.first().map_or(0, |&(offset, _)| offset.min(0));
        let last = taps.last().map_or(0, |&(offset, _)| offset.max(0));
        let at = |offset: isize| taps.iter().find(|&&(known, _)| known == offset).and_then(|&(_, tap)| tap);
        Self { taps: (first..=last).map(|offset| (offset, at(offset))).collect() }
    }

    fn first(&self) -> isize {
        self.taps.first().map_or(0, |&(offset, _)| offset)
    }

    /// Zeros before and behind an input of `from` places for `places` results.
    fn pads(&self, from: usize, places: usize) -> [usize; 2] {
        let before = self.first().unsigned_abs();
        [before, (places + self.taps.len() - 1).saturating_sub(from + before)]
    }
}

/// The value of a kernel `[in, out, k, k]`.
fn tap(weight: &Array, input: usize, output: usize, row: Option<usize>, column: Option<usize>) -> f32 {
    let (Some(row), Some(column)) = (row, column) else { return 0.0 };
    let [_, outputs, kernel, _] = weight.dims[..] else { return 0.0 };
    weight.values[((input * outputs + output) * kernel + row) * kernel + column]
}

fn single(weight: &Array, bias: &[f32], [rows, columns]: [&Taps; 2], from: [usize; 2], places: [usize; 2]) -> PlainConv {
    let (inputs, outputs) = (weight.dims[0], weight.dims[1]);
    let dims = vec![outputs, inputs, rows.taps.len(), columns.taps.len()];
    let mut values = Vec::with_capacity(dims.iter().product());
    for output in 0..outputs {
        for input in 0..inputs {
            for &(_, row) in &rows.taps {
                values.extend(columns.taps.iter().map(|&(_, column)| tap(weight, input, output, row, column)));
            }
        }
    }
    let [[top, bottom], [left, right]] = [rows.pads(from[0], places[0]), columns.pads(from[1], places[1])];
    PlainConv { weight: Array { dims, values }, bias: bias.to_vec(), pads: [top, left, bottom, right] }
}

/// The kernels of all phases, placed in one window that holds them all.
fn joined(weight: &Array, bias: &[f32], phases: &[Taps], from: [usize; 2], places: [usize; 2]) -> PlainConv {
    let (inputs, outputs, stride) = (weight.dims[0], weight.dims[1], phases.len());
    let first = phases.iter().map(Taps::first).min().unwrap_or(0);
    let last = phases.iter().flat_map(|phase| &phase.taps).map(|&(offset, _)| offset).max().unwrap_or(0);
    let window = Taps { taps: (first..=last).map(|offset| (offset, None)).collect() };
    let side = window.taps.len();
    let all = (stride * stride * outputs).next_multiple_of(LANES);
    let mut values = vec![0.0; all * inputs * side * side];
    for (phase, [rows, columns]) in phases.iter().flat_map(|rows| phases.iter().map(move |columns| [rows, columns])).enumerate()
    {
        for output in 0..outputs {
            for input in 0..inputs {
                let kernel = ((phase * outputs + output) * inputs + input) * side * side;
                for &(y, row) in &rows.taps {
                    for &(x, column) in &columns.taps {
                        let place = (y - first) as usize * side + (x - first) as usize;
                        values[kernel + place] = tap(weight, input, output, row, column);
                    }
                }
            }
        }
    }
    let mut biases = bias.repeat(stride * stride);
    biases.resize(all, 0.0);
    let [[top, bottom], [left, right]] = [window.pads(from[0], places[0]), window.pads(from[1], places[1])];
    PlainConv { weight: Array { dims: vec![all, inputs, side, side], values }, bias: biases, pads: [top, left, bottom, right] }
}
