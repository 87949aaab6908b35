//! What the passes make of the graph of an exported generator.

use ganforge::export::optimise;
use ganforge::nn::Shape;
use ganforge::nn::geometry::ConvWindow;
use ganforge::nn::graph::{Array, Graph, Op};

/// Operations one behind the other.
fn chain(ops: Vec<Op>) -> Graph {
    let mut graph = Graph::new();
    for op in ops {
        let input = graph.output;
        graph.output = graph.add(op, &[input]);
    }
    graph
}

fn optimised(ops: Vec<Op>) -> Vec<Op> {
    optimise(chain(ops)).nodes.into_iter().map(|node| node.op).collect()
}

fn array(dims: &[usize]) -> Array {
    Array { dims: dims.to_vec(), values: (0..dims.iter().product::<usize>()).map(|i| i as f32).collect() }
}

#[test]
fn a_dcgan_head_becomes_one_gemm() {
    let window = ConvWindow::new(2, 1, 0);
    let head = vec![
        Op::Reshape(Shape::Map { channels: 3, height: 1, width: 1 }),
        Op::ConvTranspose { weight: array(&[3, 2, 2, 2]), bias: None, window, output_padding: 0 },
        Op::Affine { scale: vec![10.0, 1.0], shift: vec![0.5, -0.5], map: true },
        Op::Relu,
    ];
    let ops = optimised(head);
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
    assert_eq!(optimised(vec![Op::Relu, affine.clone()]), [Op::Relu, affine]);
}

#[test]
fn what_two_operations_take_is_not_folded() {
    let window = ConvWindow::new(1, 1, 0);
    let mut graph = Graph::new();
    let conv = graph.add(Op::Conv { weight: array(&[1, 1, 1, 1]), bias: None, window }, &[graph.input]);
    let scaled = graph.add(Op::Affine { scale: vec![2.0], shift: vec![1.0], map: true }, &[conv]);
    graph.output = graph.add(Op::Tanh, &[scaled]);
    assert_eq!(optimise(graph.clone()).nodes.len(), 2);
    // A second taker of the convolution's result.
    graph.add(Op::Relu, &[conv]);
    assert_eq!(optimise(graph.clone()), graph);
}
