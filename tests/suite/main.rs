//! The integration tests, one binary: `cargo test --release`. One module a topic.

// DiffAugment: the published formulas, the backward pass, the draws.
#[cfg(feature = "train")]
mod augment;
// Training in bf16 on the CPU: products, convolutions, threads.
#[cfg(feature = "train")]
mod bf16;
// The header of the library for C.
mod capi;
// What is trained with where nobody says.
#[cfg(feature = "train")]
mod choose;
// Configs and presets: TOML there and back, bases, the published numbers of each preset, damage.
#[cfg(feature = "train")]
mod config;
// Convolutions, batch normalisation and rectifiers against naive loops, finite differences and other numbers of threads.
#[cfg(feature = "train")]
mod conv;
// Damaged models, data and checkpoints, each read by a program of its own.
#[cfg(all(unix, feature = "jobs", feature = "cli"))]
mod damage;
// CUDA against the CPU; without a GPU they skip.
#[cfg(feature = "cuda")]
mod cuda;
// Training images: readers, decoding, reports, splits, and the built-in digits.
#[cfg(feature = "train")]
mod data;
// Scores, feature models, gan-train eval and features.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli"))]
mod eval;
// Exported generators: every preset in every layout, what is in the files, what is refused.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli"))]
mod export;
// Folders for servers and model hubs.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli", feature = "builtin"))]
mod folders;
// Completions and manual pages.
#[cfg(all(feature = "jobs", feature = "cli"))]
mod generate;
// Layers, networks, losses, optimisers and whole training steps against numbers from PyTorch.
#[cfg(feature = "train")]
mod golden;
// What holds of the source itself.
mod house;
// The functions that latents are pinned by.
mod libm;
// The page that runs a generator in browsers.
#[cfg(all(feature = "jobs", feature = "cli", feature = "builtin"))]
mod page;
// What is made of the graph of an exported generator.
#[cfg(all(feature = "train", feature = "jobs"))]
mod passes;
// Latents, the contract, opening and sampling generators, gan-infer.
#[cfg(all(feature = "jobs", feature = "cli"))]
mod infer;
// Weights from elsewhere: state dicts, safetensors files, other runs.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli"))]
mod init;
// Jobs of gan-infer: kills, damage, links, removed folders, two at once, a loss of power.
#[cfg(all(unix, feature = "jobs", feature = "cli"))]
mod jobs;
// Many machines: which shard a process is, and shards that become what one call makes.
#[cfg(all(unix, feature = "jobs", feature = "cli"))]
mod merge;
// Generators in whole numbers and with weights of 8 bits: what they compute, what they cost.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli", feature = "builtin"))]
mod int8;
// Systems for other sizes and widths.
#[cfg(feature = "train")]
mod resize;
// The built-in generators: what models/ and onnx/ hold.
#[cfg(all(feature = "train", feature = "jobs", feature = "builtin"))]
mod builtin;
// Tar files in an object store.
#[cfg(all(unix, feature = "jobs", feature = "cli", feature = "object-store"))]
mod store;
// The first steps of every preset against PyTorch.
#[cfg(feature = "train")]
mod steps;
// Penalties on the critic's input gradient, layer and spectral normalisation: PyTorch's numbers, finite differences, edges.
#[cfg(feature = "train")]
mod penalty;
// The Python snippets of README.md.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli", feature = "builtin"))]
mod readme;
// The reference of all keys of a config: nothing is missing in it, nothing in it is unknown, all of it works.
#[cfg(feature = "train")]
mod reference;
// The run for people: TensorBoard's events, progress.gif, curves, report.html.
#[cfg(feature = "train")]
mod report;
// Which code and libraries are run: none of the current folder, of others, or of another hash; and no telemetry.
#[cfg(all(target_os = "linux", feature = "jobs", feature = "cli"))]
mod runtime;
// Critics that learn their last layer's direction apart: against PyTorch, finite differences, and what it leaves as it is.
#[cfg(feature = "train")]
mod san;
// How long, in which rhythm, at which learning rates.
#[cfg(feature = "train")]
mod schedule;
// Models of strangers that mean harm: files they name, memory and time they take, values that are no colours.
#[cfg(all(unix, feature = "train", feature = "jobs", feature = "cli"))]
mod strangers;
// gan-train end to end: run folders, exact resume, interruption, damage, wrong calls.
#[cfg(all(feature = "train", feature = "jobs", feature = "cli"))]
mod train;
// What a run can be trusted with: one process at a time, what a resume goes on from, killed starts, files that promise too much.
#[cfg(all(unix, feature = "train", feature = "jobs", feature = "cli"))]
mod trust;
// The watchdog: what it names, how soon, and what it lets pass.
#[cfg(feature = "train")]
mod watch;
