//! From a trained generator to an `.onnx` file that passed its tests, or to no file at all.
//!
//! `ops` walks the layer list that trained; `passes` folds and rewrites; `graph` writes the ModelProto; `verify` runs it.

mod graph;
mod ops;
mod passes;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;

use crate::contract::{self, Contract, Layout};
use crate::error::{Error, Result};
use crate::files;
use crate::nn::Network;
use crate::shape::Shape;
use crate::train::Trained;

pub use verify::Agreement;

/// The type of an exported generator's weights and inner activations. Input and output are the same either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Half precision: half the file, for GPUs; slower than f32 on a CPU.
    F16,
}

/// The encoded model with every promise of the contract in its metadata, unverified.
fn encode(generator: &Network, contract: &Contract, dtype: Dtype) -> Result<Vec<u8>> {
    let ops = passes::optimise(ops::from_network(generator)?);
    let mut file = graph::encode(&ops, contract, dtype);
    contract::seal(&mut file);
    Ok(file)
}

/// The contract of a trained run in a given layout.
pub fn contract_of(trained: &Trained, layout: Layout) -> Contract {
    let config = &trained.config;
    Contract {
        classes: config.data.classes,
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
    }
}

/// Exports a trained generator: encodes it, checks it against candle's forward in onnxruntime, and only then writes it.
///
/// # Errors
/// When onnxruntime is not found, the graph does not compute what the network computes, or `path` cannot be written.
pub fn export(trained: &Trained, layout: Layout, dtype: Dtype, path: &Path) -> Result<Agreement> {
    let contract = contract_of(trained, layout);
    let file = encode(&trained.generator, &contract, dtype)?;
    let agreement = verify::verify(&trained.generator, &contract, dtype, &file)?;
    files::write_atomic(path, &file)?;
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
    let Some((_, Shape::Map { channels, height, width }, _)) = network.layers().next() else {
        return Err(Error::Verification("a network for features takes images".to_string()));
    };
    let (image, dim) = ([channels, height, width], network.output().elements());
    let mut ops = ops::from_network(network)?;
    ops.push(ops::Op::Reshape(Shape::Flat(dim)));
    let mut file = graph::encode_features(&passes::optimise(ops), image, dim, metadata);
    contract::seal(&mut file);
    let difference = verify::verify_features(network, image, bounds, &file)?;
    files::write_atomic(path, &file)?;
    Ok(difference)
}
