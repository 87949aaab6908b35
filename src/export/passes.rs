//! Rewrites that make the graph smaller or faster and change its values by rounding at most.

use crate::nn::graph::{Array, Graph, Node, Op, Value};
use crate::nn::shape::Shape;

/// All passes, in order.
pub fn optimise(mut graph: Graph) -> Graph {
    fold_affine(&mut graph);
    first_layer_as_gemm(&mut graph);
    drop_reshapes(&mut graph);
    graph
}

/// Folds an affine map into the linear operation before it. onnxruntime never folds BN into ConvTranspose
/// (microsoft/onnxruntime#14270), so the exporter does.
fn fold_affine(graph: &mut Graph) {
    let mut at = 0;
    while at < graph.nodes.len() {
        let Node { op, inputs, output } = &graph.nodes[at];
        let (input, output) = (inputs[0], *output);
        let folded = if let Op::Affine { scale, shift, .. } = op
            && graph.users(input) == 1
        {
            graph.maker(input).map(|maker| (maker, scale.clone(), shift.clone()))
        } else {
            None
        };
        if let Some((maker, scale, shift)) = folded
            && absorb(&mut graph.nodes[maker].op, &scale, &shift)
        {
            graph.nodes[maker].output = output;
            graph.nodes.remove(at);
        } else {
            at += 1;
        }
    }
}

/// Whether it is a linear operation, which then takes the affine map in.
fn absorb(linear: &mut Op, scale: &[f32], shift: &[f32]) -> bool {
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
            let (of_group, groups) = (weight.dims[1], window.groups);
            let inputs = (weight.dims[0] / groups).max(1);
            for (at, taps) in weight.values.chunks_mut(taps).enumerate() {
                let (input, out) = (at / of_group, at % of_group);
                let scale = scale[input / inputs * of_group + out];
                taps.iter_mut().for_each(|w| *w *= scale);
            }
            absorb_bias(bias, scale, shift);
        }
        Op::Affine { .. } | Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Reshape(_) | Op::Categorical(_) => {
            return false;
        }
        Op::Add | Op::Basis(_) | Op::Nearest => return false,
    }
    true
}

fn absorb_bias(bias: &mut Option<Vec<f32>>, scale: &[f32], shift: &[f32]) {
    *bias = Some(match bias.take() {
        None => shift.to_vec(),
        Some(bias) => bias.iter().zip(scale).zip(shift).map(|((b, s), t)| b * s + t).collect(),
    });
}

/// A transposed convolution of a 1×1 map is a matrix product: onnxruntime's ConvTranspose loops over the images, its Gemm
/// does not.
fn first_layer_as_gemm(graph: &mut Graph) {
    for at in (0..graph.nodes.len()).rev() {
        let Node { op, inputs, output } = &graph.nodes[at];
        let (input, output) = (inputs[0], *output);
        let reshaped = graph.maker(input).map(|maker| &graph.nodes[maker].op);
        let is_single = matches!(reshaped, Some(Op::Reshape(Shape::Map { height: 1, width: 1, .. })));
        let Op::ConvTranspose { weight, bias, window, output_padding: 0 } = op else { continue };
        if !is_single || window.padding != 0 || window.groups > 1 {
            continue;
        }
        let [before, gemm, behind] = as_gemm(weight, bias.clone(), window.kernel);
        let (flat, features) = (graph.value(), graph.value());
        let node = |op, input, output| Node { op, inputs: vec![input], output };
        let nodes = [node(before, input, flat), node(gemm, flat, features), node(behind, features, output)];
        graph.nodes.splice(at..=at, nodes);
    }
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

/// Leaves out reshapes that only another reshape takes, and those that make flat what is flat.
fn drop_reshapes(graph: &mut Graph) {
    let mut at = 0;
    while at < graph.nodes.len() {
        let Node { op: Op::Reshape(shape), inputs, output } = &graph.nodes[at] else {
            at += 1;
            continue;
        };
        let (shape, inputs, output) = (*shape, inputs.clone(), *output);
        let before = graph
            .maker(inputs[0])
            .filter(|&maker| matches!(graph.nodes[maker].op, Op::Reshape(_)) && graph.users(inputs[0]) == 1);
        if let Some(before) = before {
            let removed = graph.nodes.remove(before);
            at -= 1;
            graph.nodes[at].inputs = removed.inputs;
        }
        let input = graph.nodes[at].inputs[0];
        if matches!(shape, Shape::Flat(_)) && is_flat(graph, input) {
            graph.nodes.remove(at);
            graph.replace(output, input);
        } else {
            at += 1;
        }
    }
}

/// Whether a value is features rather than a map. Latents are.
fn is_flat(graph: &Graph, value: Value) -> bool {
    let Some(maker) = graph.maker(value) else { return true };
    match &graph.nodes[maker].op {
        Op::Gemm { .. } | Op::Reshape(Shape::Flat(_)) | Op::Categorical(_) => true,
        Op::Conv { .. } | Op::ConvTranspose { .. } | Op::Basis(_) | Op::Nearest | Op::Reshape(Shape::Map { .. }) => false,
        Op::Affine { map, .. } => !map,
        Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Sigmoid | Op::Add => is_flat(graph, graph.nodes[maker].inputs[0]),
    }
}
