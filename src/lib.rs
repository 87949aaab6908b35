//! Train a GAN with candle, export its generator to ONNX, make images anywhere with onnxruntime.
//!
//! ```text
//!  data → nn + loss + optim → train → export → (the .onnx file) → infer → images
//!  └──────────── feature `train` (candle) ────┘                   └ feature `infer` (onnxruntime)
//! ```
//!
//! Training, as `gan-train` does it, but four steps only:
//! ```
//! # #[cfg(all(feature = "train", feature = "infer"))]
//! # fn main() -> ganforge::error::Result<()> {
//! use ganforge::{config::{Span, TrainConfig}, contract::Layout, data, export, progress::Silent, train};
//! # let dir = tempfile::tempdir().unwrap();
//!
//! let run = "runs/digits";
//! # let run = dir.path().join(run);
//! let mut config = TrainConfig::preset("digits")?;
//! config.schedule.length = Span::Steps(4);
//! let data = data::load("synthetic", &config.data, &Silent)?;
//! let folder = train::RunFolder::create(run.as_ref(), &config)?;
//! let (device, stop) = (candle_core::Device::Cpu, false.into());
//! train::train(&train::TrainingJob { config: &config, data: &data, device: &device, folder: &folder, progress: &Silent, stop: &stop, judge: None, set: &[] })?;
//! export::export(&train::load_trained(&folder, None, train::Which::Best)?, Layout::NhwcU8, export::Dtype::F32, &folder.onnx_file())?;
//! # Ok(())
//! # }
//! # #[cfg(not(all(feature = "train", feature = "infer")))]
//! # fn main() {}
//! ```
//!
//! Sampling, as an application does it:
//! ```
//! # #[cfg(feature = "infer")]
//! # fn main() -> ganforge::error::Result<()> {
//! use ganforge::infer::{Generator, Options};
//! # let dir = tempfile::tempdir().unwrap();
//!
//! let generator = Generator::open("onnx/digits.onnx", &Options::default())?;
//! let images = generator.sample(0, 0, 16)?; // seed 0, images 0..16
//! let sheet = "grid.png";
//! # let sheet = dir.path().join(sheet);
//! ganforge::image::save_grid(&images, 4, sheet)?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "infer"))]
//! # fn main() {}
//! ```
//! [`infer`] tells more: latents of your own, classes, truncation, threads, `async`. With the feature `jobs` `infer::pipeline::run` makes
//! any number of images, in little memory, into files.
//!
//! | feature | what it brings | needs |
//! |---|---|---|
//! | `train` | data sets, networks, losses, the training loop | candle |
//! | `infer` | sampling exported generators, in memory | onnxruntime's library, at run time |
//! | both | `export`: a generator is written only after onnxruntime has run it; `eval`: scores of generated images | |
//! | `jobs` | sampling into files, to be resumed; fetching onnxruntime | `infer` |
//! | `cli` | the programs `gan-train` and `gan-infer` | |
//! | `builtin` | generators and feature models inside the library | |
//! | `candle-onnx` | exported graphs are evaluated by candle-onnx, too, where it knows their operations | protoc to build |
//! | `capi` | the library for C (`make capi`) | `infer` |
//! | `python` | the Python package (`make wheel`) | `infer` |
//! | `object-store` | `gan-infer`'s tar files straight into S3, Google's or Azure's stores | credentials in the environment |
//! | `cuda` | training on NVIDIA GPUs | the CUDA toolkit and cuDNN 9 to build, their libraries to start |

#![warn(missing_docs)]

// The core: knows neither candle nor onnxruntime.
#[cfg(feature = "cli")]
pub mod cli;
pub mod contract;
pub mod error;
pub mod files;
pub mod image;
pub mod latent;
pub mod progress;
pub mod random;
pub mod text;

// From images to a trained generator.
#[cfg(feature = "train")]
pub mod augment;
#[cfg(feature = "train")]
pub mod config;
#[cfg(feature = "train")]
pub mod data;
#[cfg(feature = "train")]
pub mod ema;
#[cfg(feature = "train")]
pub mod loss;
#[cfg(feature = "train")]
pub mod memory;
#[cfg(feature = "train")]
pub mod nn;
#[cfg(feature = "train")]
pub mod optim;
#[cfg(feature = "train")]
pub mod penalty;
#[cfg(feature = "train")]
pub mod train;

// From a trained generator to a verified file.
#[cfg(all(feature = "train", feature = "infer"))]
pub mod export;

// How good the images are.
#[cfg(all(feature = "train", feature = "infer"))]
pub mod eval;

// From the file to images.
#[cfg(feature = "infer")]
pub mod infer;

// The same, from other languages.
#[cfg(feature = "capi")]
pub mod capi;
#[cfg(feature = "python")]
mod python;
