//! From a trained generator to an `.onnx` file that passed its tests, or to no file at all.
//!
//! The layers that trained give a graph (`nn::graph`); `passes` folds and rewrites it; `model` writes it as a ModelProto; `verify`
//! runs that. `triton` and `hub` put such files into folders that servers and hubs take.

mod calibrate;
mod cost;
mod equalise;
mod hub;
mod int8;
mod integer;
mod model;
mod model_folder;
pub mod onnx;
mod passes;
mod phases;
mod qdq;
mod quantise;
mod triton;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;

use crate::contract::{self, Contract, Layout};
use crate::error::{Error, Result};
use crate::files;
use crate::infer::generator::CONVOLUTIONAL_BATCH;
use crate::nn::Network;
use crate::nn::graph::{Graph, Op};
use crate::nn::shape::Shape;
use crate::train::Trained;

pub use cost::{COMPARED, RealReference};
pub use hub::{HubReport, ModelFile, Publication, SAMPLES, export_hub};
pub use int8::{CALIBRATE, LEAST_PSNR, LayerReport, MAX_LOSS, Reduction, ReductionReport, export_reduced};
pub use model_folder::ModelFolder;
pub use passes::optimise;
pub use triton::{Checked, MAX_BATCH, PREFERRED_BATCHES, QUEUE_DELAY, export_triton};
pub use verify::Agreement;

/// The type of an exported generator's weights and inner activations. Input and output are the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Half precision: half the file, for GPUs; slower than f32 on a CPU.
    F16,
    /// Whole numbers of 8 bits, weights and activations: a quarter of the file, and on a CPU more than twice the speed. Written only if
    /// it costs little.
    Int8,
    /// Weights stored in 8 bits, computed with in single precision: a quarter of the file at f32's speed. Written only if it costs
    /// little.
    W8,
}

/// The contract of a trained run in a given layout. What its graph or its precision adds (`batch`, `cost`) is none here.
pub fn contract_of(trained: &Trained, layout: Layout) -> Contract {
    let config = &trained.config;
    Contract {
        classes: config.data.classes,
        class_names: config.data.class_names.clone(),
        latent: config.latent,
        range: config.data.range,
        layout,
        height: config.data.size,
        width: config.data.size,
        channels: config.data.channels,
        preset: config.preset.clone(),
        loss: config.objective(),
        data: trained.state.data.clone(),
        data_sha256: trained.state.data_sha256.clone(),
        images_seen: trained.state.images,
        seed: config.seed,
        weights: trained.weights,
        cost: None,
        batch: None,
    }
}

/// Bytes that the largest map of a batch takes on a CPU, at most: beyond that the caches help no longer. Measured with `gan-infer bench` on
/// 2 cores of a Xeon: r3gan-64-s (2 MiB an image) makes 5 % more images a second in batches of 4 than of 32.
const LARGEST_MAP: usize = 8 << 20;

/// Images a run on a CPU for a network with large maps in f32, a power of two; none if it may take as many as others, or has no maps.
fn batch_on_cpu(graph: &Graph, input: Shape) -> Option<usize> {
    if !graph.nodes.iter().any(|node| matches!(node.op, Op::Conv { .. } | Op::ConvTranspose { .. })) {
        return None;
    }
    let largest = graph.shapes(input).values().map(|shape| shape.elements()).max().unwrap_or(1);
    let room = LARGEST_MAP / (size_of::<f32>() * largest.max(1));
    (room < CONVOLUTIONAL_BATCH).then(|| 1 << room.max(1).ilog2())
}

/// Exports a trained generator: encodes it, checks it against candle's forward in onnxruntime, and only then writes it.
///
/// # Errors
/// When the type loses something ([`export_reduced`] is for those), onnxruntime is not found, the graph does not compute what the network computes, or `path` cannot be written.
pub fn export(trained: &Trained, layout: Layout, dtype: Dtype, path: &Path) -> Result<Agreement> {
    if matches!(dtype, Dtype::Int8 | Dtype::W8) {
        return Err(Error::usage("an export that loses something", "Use `export_reduced`, which measures what."));
    }
    let graph = passes::optimise(trained.generator.graph()?);
    let contract = Contract { batch: batch_on_cpu(&graph, trained.generator.input()), ..contract_of(trained, layout) };
    let mut encoded = model::encode(&graph, &contract, dtype);
    contract::seal(&mut encoded.file);
    let agreement = verify::verify(&trained.generator, &contract, dtype, &encoded)?;
    files::write_atomic(path, &encoded.file)?;
    Ok(agreement)
}

/// Exports a network from images to features: input `image` float32 `[n, channels, height, width]` in the range `bounds`, output
/// `features` float32 `[n, dim]`; a map is flattened. Written only after onnxruntime computed from it what candle computes
/// from the network; the largest difference is given.
///
/// # Errors
/// When the network does not take images, onnxruntime is not found, the graph does not compute what the network computes, or
/// `path` cannot be written.
pub fn export_features(network: &Network, bounds: [f32; 2], metadata: BTreeMap<String, String>, path: &Path) -> Result<f32> {
    let Shape::Map { channels, height, width } = network.input() else {
        return Err(Error::Verification("a network for features takes images".to_string()));
    };
    let (image, dim) = ([channels, height, width], network.output().elements());
    let mut graph = network.graph()?;
    graph.output = graph.add(Op::Reshape(Shape::Flat(dim)), &[graph.output]);
    let mut file = model::encode_features(&passes::optimise(graph), image, dim, metadata);
    contract::seal(&mut file);
    let difference = verify::verify_features(network, image, bounds, &file)?;
    files::write_atomic(path, &file)?;
    Ok(difference)
}
