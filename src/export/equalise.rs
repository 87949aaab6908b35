//! Hidden channels of like ranges. Of a ReLU, c · max(x, 0) = max(c · x, 0) for c > 0: what one linear operation makes smaller in a
//! channel, the next may make larger again, and the network computes the same. All channels of a map share one scale of 256 steps, so
//! that those of small values have few of them; each output channel of a kernel has a scale of its own. So ranges are moved from maps
//! into kernels, in part: kernels have a scale to share, too (cross-layer equalisation, arXiv 1906.04721; the part of it, α, is that of
//! SmoothQuant, arXiv 2211.10438).

use std::collections::BTreeMap;

use crate::nn::graph::{Graph, Op, Value};

/// The largest of the absolute values that each channel of a value took.
pub(super) type Ranges = BTreeMap<Value, Vec<f32>>;

/// The same network with the channels between linear operations divided by their range to the power `alpha`, 0 to 1.
pub(super) fn equalise(graph: &Graph, ranges: &Ranges, alpha: f32) -> Graph {
    let mut equal = graph.clone();
    for behind in 0..graph.nodes.len() {
        if let Some((before, input)) = linear_before(graph, behind)
            && let Some(ranges) = ranges.get(&input)
        {
            let factors = factors(ranges, outputs(&graph.nodes[before].op), alpha);
            divide_outputs(&mut equal.nodes[before].op, &factors);
            multiply_inputs(&mut equal.nodes[behind].op, &factors);
        }
    }
    equal
}

/// Kernels in groups have the inputs of one group only: their channels stay as they are.
fn is_grouped(op: &Op) -> bool {
    matches!(op, Op::Conv { window, .. } | Op::ConvTranspose { window, .. } if window.groups > 1)
}

/// The linear operation that makes the input of another one, with nothing between them that a factor does not pass through; and that input.
fn linear_before(graph: &Graph, behind: usize) -> Option<(usize, Value)> {
    let node = &graph.nodes[behind];
    node.op.linear_name()?;
    if is_grouped(&node.op) {
        return None;
    }
    let input = node.inputs[0];
    let mut value = input;
    loop {
        let maker = graph.maker(value).filter(|_| graph.users(value) == 1)?;
        match &graph.nodes[maker].op {
            op if is_grouped(op) => return None,
            Op::Gemm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. } => return Some((maker, input)),
            Op::Relu | Op::LeakyRelu(_) | Op::Reshape(_) => value = graph.nodes[maker].inputs[0],
            Op::Affine { .. } | Op::Tanh | Op::Sigmoid | Op::Categorical(_) | Op::Add | Op::Basis(_) | Op::Nearest => {
                return None;
            }
        }
    }
}

/// By what each channel is divided, where an operation makes so many. A map that became features has several of these to a channel. It
/// is a power of √√2: the last bits of a range must not matter.
fn factors(ranges: &[f32], channels: usize, alpha: f32) -> Vec<f32> {
    let of_channel = (ranges.len() / channels.max(1)).max(1);
    let largest = ranges.chunks(of_channel).map(|ranges| ranges.iter().copied().fold(0.0, f32::max));
    let factor = |range: f32| if range > 0.0 { ((4.0 * alpha * range.log2()).round() / 4.0).exp2() } else { 1.0 };
    largest.map(factor).collect()
}

/// Output channels of a linear operation.
fn outputs(op: &Op) -> usize {
    match op {
        Op::Gemm { weight, .. } | Op::Conv { weight, .. } => weight.dims[0],
        Op::ConvTranspose { weight, .. } => weight.dims[1],
        Op::Affine { .. } | Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Categorical(_) => 1,
        Op::Add | Op::Basis(_) | Op::Nearest => 1,
    }
}

fn divide_outputs(op: &mut Op, factors: &[f32]) {
    let (weight, bias, axis) = match op {
        Op::Gemm { weight, bias } | Op::Conv { weight, bias, .. } => (weight, bias, 0),
        Op::ConvTranspose { weight, bias, .. } => (weight, bias, 1),
        Op::Affine { .. } | Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Categorical(_) => {
            return;
        }
        Op::Add | Op::Basis(_) | Op::Nearest => return,
    };
    scale_axis(&mut weight.values, &weight.dims, axis, factors, |value, factor| value / factor);
    if let Some(bias) = bias {
        let dims = [bias.len()];
        scale_axis(bias, &dims, 0, factors, |value, factor| value / factor);
    }
}

fn multiply_inputs(op: &mut Op, factors: &[f32]) {
    let (weight, axis) = match op {
        Op::Gemm { weight, .. } | Op::Conv { weight, .. } => (weight, 1),
        Op::ConvTranspose { weight, .. } => (weight, 0),
        Op::Affine { .. } | Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Categorical(_) => {
            return;
        }
        Op::Add | Op::Basis(_) | Op::Nearest => return,
    };
    scale_axis(&mut weight.values, &weight.dims, axis, factors, |value, factor| value * factor);
}

/// Changes values by the factor of their channel. Along the axis there may be several in a row to a channel: the places of a map.
fn scale_axis(values: &mut [f32], dims: &[usize], axis: usize, factors: &[f32], scale: impl Fn(f32, f32) -> f32) {
    let inner: usize = dims[axis + 1..].iter().product();
    let of_channel = (dims[axis] / factors.len().max(1)).max(1);
    for (at, value) in values.iter_mut().enumerate() {
        let channel = at / inner.max(1) % dims[axis] / of_channel;
        *value = scale(*value, factors.get(channel).copied().unwrap_or(1.0));
    }
}
