//! The integration tests, one binary: `cargo test --release`. One module a topic.

// Configs and presets: TOML there and back, bases, the published numbers of each preset, damage.
mod config;
// Convolutions, batch normalisation and rectifiers against naive loops, finite differences and other numbers of threads.
#[cfg(feature = "train")]
mod conv;
// CUDA against the CPU; without a GPU they skip.
#[cfg(feature = "cuda")]
mod cuda;
// Training images: readers, decoding, reports, splits, and the built-in digits.
#[cfg(feature = "train")]
mod data;
// Scores, feature models, gan-train eval and features.
#[cfg(all(feature = "train", feature = "infer", feature = "cli"))]
mod eval;
// Exported generators: every preset in every layout, what is in the files, what is refused.
#[cfg(all(feature = "train", feature = "infer", feature = "cli"))]
mod export;
// Layers, networks, losses, optimisers and whole training steps against numbers from PyTorch.
#[cfg(feature = "train")]
mod golden;
// Latents, the contract, opening and sampling generators, gan-infer.
#[cfg(all(feature = "infer", feature = "cli"))]
mod infer;
// The built-in generators: what models/ and onnx/ hold.
#[cfg(all(feature = "train", feature = "infer", feature = "builtin"))]
mod builtin;
// gan-train end to end: run folders, exact resume, interruption, damage, wrong calls.
#[cfg(all(feature = "train", feature = "infer", feature = "cli"))]
mod train;
