//! Trains the small networks whose features an evaluation compares: a classifier where the images have labels, else one that
//! tells by how many quarter turns an image was rotated (RotNet, arXiv 1803.07728). Features are what its last layer takes.
//!
//! The loop here is not [`crate::train`]'s, which is that of a game: two networks, rounds, latents, an average, samples. This one
//! has a network, a loss and minutes; it is made of the same networks, optimisers, streams and files.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::features::{About, InputRange};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::export;
use crate::files;
use crate::image::Range;
use crate::nn::cpu::on_pool;
use crate::nn::init::InitConfig;
use crate::nn::layers::{Conv, Linear};
use crate::nn::{self, LayerSpec, Network, Pass, Role, Shape, Wanted};
use crate::optim::{Optimizer, OptimizerConfig};
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::train::{RunFolder, checkpoint};

const CONFIG: &str = "config.toml";
const WEIGHTS: &str = "features.safetensors";
const PROVENANCE: &str = "provenance.json";
/// The model in the folder that [`train`] fills.
pub const MODEL: &str = "features.onnx";

/// What the network learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// The classes of the images.
    Labels,
    /// Which of four rotations was applied (arXiv 1803.07728, section 2): needs no labels.
    Rotations,
}

impl Task {
    /// The name used in configs and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Rotations => "rotations",
        }
    }
}

/// Everything that decides the training of a feature network, but for the data itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureConfig {
    /// What it learns.
    pub task: Task,
    /// Height and width of the images in pixels.
    pub size: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// The value range of its input.
    pub range: Range,
    /// The share of the images of each data set that is never trained on: what its accuracy is measured on.
    pub held_out: f64,
    /// The seed of every random draw.
    pub seed: u64,
    /// Passes over the images.
    pub epochs: u64,
    /// Rows a step; with rotations, a quarter as many images.
    pub batch_size: usize,
    /// The smallest side of the random window of an image that is seen, the rest being grey; equal to `size` for whole images.
    /// Faces lie alike in all pictures: a whole one tells its rotation at a glance, and nothing need be learned of its parts.
    pub window: usize,
    /// Adam's learning rate; for the last quarter of the steps Adam begins anew, with a tenth of it.
    pub lr: f64,
    /// From image to classes; the last one is linear.
    pub layers: Vec<LayerSpec>,
}

impl FeatureConfig {
    /// A small network for images of this size: convolutions down to one pixel of 96 channels, then the classes.
    ///
    /// # Errors
    /// When the size is not 8 to 256, or the channels not 1 or 3.
    pub fn new(task: Task, size: usize, channels: usize, classes: usize) -> Result<Self> {
        if !(8..=256).contains(&size) || !matches!(channels, 1 | 3) {
            let what = format!("a feature network for images of {size} pixels and {channels} channels");
            return Err(Error::usage(what, "Use a size of 8 to 256, and 1 or 3 channels."));
        }
        let mut layers = Vec::new();
        let mut block = |out, kernel, stride, padding| {
            layers.push(LayerSpec::Conv(Conv {
                out,
                kernel,
                stride,
                padding,
                bias: false,
                spectral: false,
                group_width: None,
                gain: None,
            }));
            layers.extend([LayerSpec::BatchNorm, LayerSpec::LeakyRelu(0.2)]);
        };
        let (mut side, mut width) = (size, 16);
        if size <= 32 {
            width = 48;
            block(24, 3, 1, 1);
        }
        while side > 7 {
            block(width, 4, 2, 1);
            (side, width) = (side / 2, 64.min(2 * width));
        }
        if side > 4 {
            block(64, 3, 2, 1);
            side = side.div_ceil(2);
        }
        block(96, side, 1, 0);
        layers.push(LayerSpec::Linear(Linear { out: classes, bias: true, spectral: false, gain: None }));
        let range = Range::Tanh;
        let window = if task == Task::Rotations { size / 4 } else { size };
        Ok(Self { task, size, channels, range, held_out: 0.1, seed: 0, epochs: 4, batch_size: 128, window, lr: 1e-3, layers })
    }

    fn check(&self, place: &str) -> Result<()> {
        let what = if !matches!(self.channels, 1 | 3) || !(1..=1024).contains(&self.size) {
            "size must be 1 to 1024, channels 1 or 3"
        } else if self.range == Range::Byte {
            "range must be tanh or sigmoid"
        } else if !(self.held_out > 0.0 && self.held_out <= 0.5) {
            "held_out must be above 0 and at most 0.5"
        } else if !(4..=65_536).contains(&self.batch_size) || self.epochs == 0 {
            "batch_size must be 4 to 65536, epochs at least 1"
        } else if !(1..=self.size).contains(&self.window) {
            "window must be 1 to size"
        } else if !(self.lr.is_finite() && self.lr > 0.0) {
            "lr must be above 0"
        } else if !matches!(self.layers.last(), Some(LayerSpec::Linear(_))) || self.layers.len() < 2 {
            "layers must end in a linear layer, with at least one before it"
        } else {
            return Ok(());
        };
        Err(Error::invalid(place, what, "Mend the config."))
    }

    fn image(&self) -> Shape {
        Shape::Map { channels: self.channels, height: self.size, width: self.size }
    }

    fn network(&self, layers: &[LayerSpec]) -> Result<Network> {
        Network::new(layers, self.image(), &InitConfig::default(), Role::Critic, self.seed, &nn::Place::cpu(DType::F32))
    }
}

/// Where a feature network comes from: what a reader of a score needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// What it was trained on.
    pub data: Vec<DataSource>,
    /// Images shown in training, those shown again included; with rotations each counts once.
    pub images_seen: u64,
    /// Images that it never saw.
    pub held_out_images: usize,
    /// The share of rows of those that it got right, 0 to 1.
    pub held_out_accuracy: f64,
    /// Seconds of training.
    pub seconds: f64,
}

/// One data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// Its name.
    pub name: String,
    /// SHA-256 over its pixels.
    pub sha256: String,
    /// How many images.
    pub images: usize,
}

/// Images to learn from: data sets one after the other, the classes of each after those of the ones before.
pub struct TrainingSet {
    data: Vec<Dataset>,
    /// A class an image; none if there is a data set without.
    labels: Option<Vec<Vec<u8>>>,
}

impl TrainingSet {
    /// Data sets of one size and number of channels, each with its labels where it has them.
    ///
    /// # Errors
    /// When there is none, they differ in form, or one has not as many labels as images.
    pub fn new(sets: Vec<(Dataset, Option<Vec<u8>>)>) -> Result<Self> {
        for (data, labels) in &sets {
            let what = match labels {
                _ if (data.size, data.channels) != (sets[0].0.size, sets[0].0.channels) => {
                    "its images have another form".into()
                }
                Some(labels) if labels.len() != data.len => format!("{} labels for {} images", labels.len(), data.len),
                _ => continue,
            };
            return Err(Error::invalid(&data.name, what, "Give complete data sets of one form."));
        }
        if sets.is_empty() {
            return Err(Error::usage("no data to learn from", "Name some with `Overrides::data`."));
        }
        let (data, labels): (Vec<_>, Vec<_>) = sets.into_iter().unzip();
        Ok(Self { data, labels: labels.into_iter().collect() })
    }

    /// What can be learned: the labels where every data set has them, rotations where none has.
    pub fn task(&self) -> Task {
        if self.labels.is_some() { Task::Labels } else { Task::Rotations }
    }

    /// Classes of a task.
    pub fn classes(&self, task: Task) -> usize {
        match (task, &self.labels) {
            (Task::Labels, Some(labels)) => labels.iter().map(|labels| classes_of(labels)).sum(),
            _ => QUARTERS,
        }
    }

    /// Numbers of the images of all sets: to train on, and held out.
    fn split(&self, held_out: f64, seed: u64) -> [Vec<Item>; 2] {
        let mut all = [Vec::new(), Vec::new()];
        for (set, data) in self.data.iter().enumerate() {
            let split = data.split(held_out, seed);
            all[0].extend(split.train.into_iter().map(|index| Item { set, index }));
            all[1].extend(split.held_out.into_iter().map(|index| Item { set, index }));
        }
        all
    }

    fn class(&self, place: Item) -> u32 {
        let Some(labels) = &self.labels else { return 0 };
        let before: usize = labels[..place.set].iter().map(|labels| classes_of(labels)).sum();
        before as u32 + u32::from(labels[place.set][place.index as usize])
    }

    /// Images `[n, size, size, channels]` and their classes; with rotations four rows an image. `draw` addresses the windows.
    fn batch(&self, places: &[Item], config: &FeatureConfig, draw: u64) -> Result<(Tensor, Tensor)> {
        let (size, channels) = (config.size, config.channels);
        let turns = if config.task == Task::Rotations { QUARTERS } else { 1 };
        let lookup = config.range.values();
        let row = size * size * channels;
        let mut values = vec![lookup[128]; places.len() * turns * row];
        values.par_chunks_exact_mut(row).enumerate().for_each(|(at, out)| {
            let place = places[at / turns];
            let image = self.data[place.set].image(place.index as usize);
            // Every row has a window of its own.
            let mut random = Stream::at(config.seed, Purpose::Evaluation, draw);
            random.seek(8 * at as u64);
            let window = Crop::draw(config, &mut random);
            for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
                if !window.shows(pixel / size, pixel % size) {
                    continue; // grey
                }
                let from = turned(pixel, at % turns, size);
                for (channel, value) in out.iter_mut().enumerate() {
                    *value = lookup[usize::from(image[channel * size * size + from])];
                }
            }
        });
        let classes: Vec<u32> = match config.task {
            Task::Labels => places.iter().map(|&place| self.class(place)).collect(),
            Task::Rotations => (0..places.len() * turns).map(|at| (at % turns) as u32).collect(),
        };
        let n = classes.len();
        let images = Tensor::from_vec(values, (n, size, size, channels), &Device::Cpu)?;
        Ok((images, Tensor::from_vec(classes, n, &Device::Cpu)?))
    }
}

/// What is seen of an image.
struct Crop {
    top: usize,
    left: usize,
    side: usize,
}

impl Crop {
    fn draw(config: &FeatureConfig, random: &mut Stream) -> Self {
        let mut up_to = |most: usize| (random.unit() * (most + 1) as f32) as usize;
        let side = config.window + up_to(config.size - config.window);
        Self { side, top: up_to(config.size - side), left: up_to(config.size - side) }
    }

    fn shows(&self, y: usize, x: usize) -> bool {
        (self.top..self.top + self.side).contains(&y) && (self.left..self.left + self.side).contains(&x)
    }
}

/// Draws of windows are addressed by the step; those of the held-out images come after these.
const HELD_OUT_DRAWS: u64 = 1 << 33;

/// Rotations by multiples of 90°.
const QUARTERS: usize = 4;

fn classes_of(labels: &[u8]) -> usize {
    labels.iter().max().map_or(0, |&most| usize::from(most) + 1)
}

#[derive(Debug, Clone, Copy)]
struct Item {
    set: usize,
    index: u32,
}

/// Where the pixel that stands at `at` after some quarter turns came from.
fn turned(at: usize, quarters: usize, size: usize) -> usize {
    let (y, x, last) = (at / size, at % size, size - 1);
    let (y, x) = match quarters {
        0 => (y, x),
        1 => (x, last - y),
        2 => (last - y, last - x),
        _ => (last - x, y),
    };
    y * size + x
}

/// Trains a feature network and fills `out` with its config, weights, provenance and the verified [`MODEL`].
///
/// # Errors
/// When the config does not fit the training set, training diverges, onnxruntime is missing, or `out` cannot be written to.
pub fn train(config: &FeatureConfig, training_set: &TrainingSet, out: &Path, progress: &dyn Progress) -> Result<Provenance> {
    config.check("the feature network's config")?;
    let form = training_set.data.first().map(|data| (data.size, data.channels));
    let wanted = training_set.classes(config.task);
    let classes = config.network(&config.layers)?.output().elements();
    if form != Some((config.size, config.channels))
        || classes < wanted
        || (config.task == Task::Labels && training_set.labels.is_none())
    {
        let what = format!("the network takes other images, or tells {classes} classes where there are {wanted}");
        return Err(Error::usage(what, "Make the config for this data, with labels only where every data set has them."));
    }
    if !is_feature_folder(out) {
        RunFolder::check_free(out)?;
    }
    files::create_folder(out)?;
    let started = Instant::now();
    let (network, provenance) = on_pool(|| learn(config, training_set, progress))?;
    let provenance = Provenance { seconds: started.elapsed().as_secs_f64().round(), ..provenance };
    let text = toml::to_string(config).map_err(|e| Error::invalid(CONFIG, e.to_string(), "Please report this."))?;
    files::write_atomic(&out.join(CONFIG), text.as_bytes())?;
    let tensors = network.parameters().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect();
    checkpoint::write_tensors(&out.join(WEIGHTS), &tensors)?;
    let json = serde_json::to_string_pretty(&provenance)
        .map_err(|e| Error::invalid(PROVENANCE, e.to_string(), "Please report this."))?;
    files::write_atomic(&out.join(PROVENANCE), (json + "\n").as_bytes())?;
    export(out, &out.join(MODEL))?;
    Ok(provenance)
}

fn learn(config: &FeatureConfig, training_set: &TrainingSet, progress: &dyn Progress) -> Result<(Network, Provenance)> {
    let network = config.network(&config.layers)?;
    let [train, held_out] = training_set.split(config.held_out, config.seed);
    let images_a_step = match config.task {
        Task::Labels => config.batch_size,
        Task::Rotations => config.batch_size / QUARTERS,
    };
    let steps_an_epoch = train.len().div_ceil(images_a_step) as u64;
    let total = config.epochs * steps_an_epoch;
    let adam = |lr| Optimizer::new(OptimizerConfig::Adam { lr, betas: [0.9, 0.999], eps: 1e-8 }, &network);
    let mut optimizer = adam(config.lr)?;
    progress.begin("learning features", total);
    let mut step = 0;
    for epoch in 0..config.epochs {
        let order = Stream::at(config.seed, Purpose::Shuffle, epoch).permutation(train.len() as u32);
        for chunk in order.chunks(images_a_step) {
            if step == total - total / 4 {
                optimizer = adam(config.lr / 10.0)?;
            }
            let places: Vec<Item> = chunk.iter().map(|&at| train[at as usize]).collect();
            let loss = learn_batch(
                &network,
                &mut optimizer,
                training_set.batch(&places, config, step)?,
                Pass::Train { seed: config.seed, number: step },
            )?;
            step += 1;
            if step.is_multiple_of(REPORT_EVERY) {
                progress.update(step, &format!("loss {:.3}", finite(&loss, step)?));
            }
        }
    }
    progress.end();
    let accuracy = accuracy(&network, config, training_set, &held_out)?;
    let sources = training_set.data.iter();
    let provenance = Provenance {
        data: sources.map(|d| DataSource { name: d.name.clone(), sha256: d.sha256.clone(), images: d.len }).collect(),
        images_seen: config.epochs * train.len() as u64,
        held_out_images: held_out.len(),
        held_out_accuracy: accuracy,
        seconds: 0.0,
    };
    Ok((network, provenance))
}

const REPORT_EVERY: u64 = 20;

fn learn_batch(
    network: &Network,
    optimizer: &mut Optimizer,
    (images, classes): (Tensor, Tensor),
    pass: Pass,
) -> Result<Tensor> {
    let (scores, trace) = network.forward_traced(&images, pass)?;
    // The loss is on candle's tape, with the scores as its leaf; the network walks back on its own.
    let scores = Var::from_tensor(&scores)?;
    let loss = cross_entropy(&scores, &classes)?;
    let gradients = loss.backward()?;
    let by_scores = gradients.get(&scores).map_or_else(|| scores.zeros_like(), |gradient| gradient.detach().copy())?;
    optimizer.step(network, &network.backward(trace, by_scores, Wanted::Parameters)?)?;
    Ok(loss.detach())
}

fn finite(loss: &Tensor, step: u64) -> Result<f32> {
    let loss = loss.to_scalar::<f32>()?;
    if loss.is_finite() {
        Ok(loss)
    } else {
        Err(Error::invalid(
            "training",
            format!("the loss is {loss} at step {step}"),
            "Train again with a lower `FeatureConfig::lr`.",
        ))
    }
}

/// The share of rows told right.
fn accuracy(network: &Network, config: &FeatureConfig, training_set: &TrainingSet, places: &[Item]) -> Result<f64> {
    const BATCH: usize = 256;
    let (mut right, mut rows) = (0.0, 0);
    for (number, places) in places.chunks(BATCH).enumerate() {
        let (images, classes) = training_set.batch(places, config, HELD_OUT_DRAWS + number as u64)?;
        let told = network.forward(&images, Pass::Eval)?.argmax(D::Minus1)?;
        right += f64::from(told.eq(&classes)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?);
        rows += classes.elem_count();
    }
    Ok(right / rows.max(1) as f64)
}

/// Whether a folder holds a feature network rather than a run.
pub fn is_feature_folder(folder: &Path) -> bool {
    folder.join(WEIGHTS).is_file() && folder.join(PROVENANCE).is_file()
}

/// Exports the network in a folder that [`train`] filled, without its last layer, to `path`; gives the largest difference
/// between onnxruntime and candle. The same folder gives the same bytes.
///
/// # Errors
/// When a file of the folder is missing or damaged; else as [`export::export_features`].
pub fn export(folder: &Path, path: &Path) -> Result<f32> {
    let place = |file: &str| folder.join(file);
    let damaged = |file: &str, what: String| Error::invalid_file(&place(file), what, "Restore the file.");
    let text = String::from_utf8_lossy(&files::read(&place(CONFIG), files::TEXT)?).into_owned();
    let config: FeatureConfig = toml::from_str(&text).map_err(|e| damaged(CONFIG, e.to_string().replace('\n', ", ")))?;
    config.check(&place(CONFIG).display().to_string())?;
    let provenance: Provenance = serde_json::from_slice(&files::read(&place(PROVENANCE), files::TEXT)?)
        .map_err(|e| damaged(PROVENANCE, e.to_string()))?;
    let trunk = config.network(&config.layers[..config.layers.len() - 1])?;
    let head = format!("{:02}.", LayerSpec::count(&config.layers[..config.layers.len() - 1]));
    let mut tensors: BTreeMap<String, Tensor> = checkpoint::read_tensors(&place(WEIGHTS))?;
    tensors.retain(|name, _| !name.starts_with(&head));
    trunk.load(&tensors, &place(WEIGHTS).display().to_string())?;
    let range = InputRange::from(config.range);
    let about = About {
        size: config.size,
        channels: config.channels,
        range,
        task: config.task.name().to_string(),
        data: join(&provenance.data, |source| &source.name),
        data_sha256: join(&provenance.data, |source| &source.sha256),
        images_seen: provenance.images_seen,
        held_out_accuracy: provenance.held_out_accuracy,
        seed: config.seed,
    };
    let [low, high] = [0, 255].map(|pixel: usize| config.range.values()[pixel]);
    export::export_features(&trunk, [low, high], about.to_metadata(), path)
}

fn join(sources: &[DataSource], field: impl Fn(&DataSource) -> &String) -> String {
    sources.iter().map(|source| field(source).as_str()).collect::<Vec<_>>().join("+")
}
