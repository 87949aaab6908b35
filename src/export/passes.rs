//! Rewrites that change no value and make the graph smaller or faster.

use super::ops::{Array, Op};
use crate::shape::Shape;

/// All passes, in order.
pub(super) fn optimise(ops: Vec<Op>) -> Vec<Op> {
    drop_reshapes(first_layer_as_gemm(fold_affine(ops)))
}

/// Folds an affine map into the linear operation before it. onnxruntime never folds BN into ConvTranspose
/// (microsoft/onnxruntime#14270), so the exporter does.
fn fold_affine(ops: Vec<Op>) -> Vec<Op> {
    let mut folded: Vec<Op> = Vec::with_capacity(ops.len());
    for op in ops {
        match (folded.last_mut(), op) {
            (Some(linear), Op::Affine { scale, shift, .. }) if is_linear(linear) => absorb(linear, &scale, &shift),
            (_, op) => folded.push(op),
        }
    }
    folded
}

fn is_linear(op: &Op) -> bool {
    matches!(op, Op::Gemm { .. } | Op::Conv { .. } | Op::ConvTranspose { .. })
}

fn absorb(linear: &mut Op, scale: &[f32], shift: &[f32]) {
    match linear {
        // The output channel is the first axis.
        Op::Gemm { weight, bias } | Op::Conv { weight, bias, .. } => {
            let row = weight.values.len() / scale.len().max(1);
            for (row, s) in weight.values.chunks_mut(row.max(1)).zip(scale) {
                row.iter_mut().for_each(|w| *w *= s);
            }
            absorb_bias(bias, scale, shift);
        }
        // The output channel is the second axis.
        Op::ConvTranspose { weight, bias, window, .. } => {
            let taps = window.kernel * window.kernel;
            for (taps, s) in weight.values.chunks_mut(taps).zip(scale.iter().cycle()) {
                taps.iter_mut().for_each(|w| *w *= s);
            }
            absorb_bias(bias, scale, shift);
        }
        _ => {}
    }
}

fn absorb_bias(bias: &mut Option<Vec<f32>>, scale: &[f32], shift: &[f32]) {
    *bias = Some(match bias.take() {
        None => shift.to_vec(),
        Some(bias) => bias.iter().zip(scale).zip(shift).map(|((b, s), t)| b * s + t).collect(),
    });
}

/// A transposed convolution of a 1×1 map is a matrix product: onnxruntime's ConvTranspose loops over the images, its Gemm
/// does not.
fn first_layer_as_gemm(ops: Vec<Op>) -> Vec<Op> {
    let mut out = Vec::with_capacity(ops.len() + 1);
    let mut single = false; // whether the activation before this op is a 1×1 map
    for op in ops {
        let reshaped = matches!(op, Op::Reshape(Shape::Map { height: 1, width: 1, .. }));
        match op {
            Op::ConvTranspose { weight, bias, window, output_padding: 0 } if single && window.padding == 0 => {
                out.extend(as_gemm(&weight, bias, window.kernel));
            }
            op => out.push(op),
        }
        single = reshaped;
    }
    out
}

fn as_gemm(weight: &Array, bias: Option<Vec<f32>>, kernel: usize) -> [Op; 3] {
    let (inputs, channels, taps) = (weight.dims[0], weight.dims[1], kernel * kernel);
    let outputs = channels * taps;
    let transposed = (0..outputs * inputs).map(|at| weight.values[at % inputs * outputs + at / inputs]).collect();
    let bias = bias.map(|bias| bias.iter().flat_map(|&b| std::iter::repeat_n(b, taps)).collect());
    [
        Op::Reshape(Shape::Flat(inputs)),
        Op::Gemm { weight: Array { dims: vec![outputs, inputs], values: transposed }, bias },
        Op::Reshape(Shape::Map { channels, height: kernel, width: kernel }),
    ]
}

/// Leaves out reshapes that another reshape follows, and those that make flat what is flat.
fn drop_reshapes(ops: Vec<Op>) -> Vec<Op> {
    let mut out: Vec<Op> = Vec::with_capacity(ops.len());
    for op in ops {
        if matches!((out.last(), &op), (Some(Op::Reshape(_)), Op::Reshape(_))) {
            out.pop();
        }
        if !(matches!(op, Op::Reshape(Shape::Flat(_))) && makes_flat(&out)) {
            out.push(op);
        }
    }
    out
}

/// Whether these operations turn latents into features rather than a map.
fn makes_flat(ops: &[Op]) -> bool {
    let last = ops.iter().rev().find_map(|op| match op {
        Op::Gemm { .. } | Op::Reshape(Shape::Flat(_)) | Op::Categorical(_) => Some(true),
        Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Reshape(Shape::Map { .. }) => Some(false),
        Op::Affine { map, .. } => Some(!map),
        Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid => None,
    });
    last.unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::conv::Window;

    fn array(dims: &[usize]) -> Array {
        Array { dims: dims.to_vec(), values: (0..dims.iter().product::<usize>()).map(|i| i as f32).collect() }
    }

    #[test]
    fn a_dcgan_head_becomes_one_gemm() {
        let window = Window { kernel: 2, stride: 1, padding: 0 };
        let head = vec![
            Op::Reshape(Shape::Map { channels: 3, height: 1, width: 1 }),
            Op::ConvTranspose { weight: array(&[3, 2, 2, 2]), bias: None, window, output_padding: 0 },
            Op::Affine { scale: vec![10.0, 1.0], shift: vec![0.5, -0.5], map: true },
            Op::Relu,
        ];
        let ops = optimise(head);
        let [Op::Gemm { weight, bias: Some(bias) }, Op::Reshape(shape), Op::Relu] = ops.as_slice() else {
            panic!("unexpected {ops:?}");
        };
        assert_eq!(*shape, Shape::Map { channels: 2, height: 2, width: 2 });
        assert_eq!(weight.dims, [8, 3]);
        // Row 1 is channel 0, tap 1: inputs 0, 1, 2 have it at 1, 9, 17; times 10.
        assert_eq!(weight.values[3..6], [10.0, 90.0, 170.0]);
        assert_eq!(weight.values[12..15], [4.0, 12.0, 20.0]);
        assert_eq!(bias[..5], [0.5, 0.5, 0.5, 0.5, -0.5]);
    }

    #[test]
    fn an_affine_map_behind_an_activation_stays() {
        let affine = Op::Affine { scale: vec![2.0], shift: vec![1.0], map: true };
        assert_eq!(optimise(vec![Op::Relu, affine.clone()]), [Op::Relu, affine]);
    }
}
