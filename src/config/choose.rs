//! What to train with where nobody says: a preset, and what differs from it, chosen by what was found in the images.

use toml::{Table, Value};

use super::load::{parse_table, preset_table, resized, set};
use super::schedule::{Precision, Span};
use super::schema::TrainConfig;
use crate::data::DataReport;
use crate::error::{Error, Result};
use crate::nn::LayerSpec;
use crate::text::grouped;

/// What a choice goes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// How many images there are.
    pub images: usize,
    /// The middle of their shorter sides, in pixels: half of the images are as large or larger.
    pub side: usize,
    /// How many of them have colour.
    pub colour: usize,
    /// Images of each class; empty where there are no two classes.
    pub classes: Vec<usize>,
    /// Whether a GPU trains.
    pub gpu: bool,
    /// What convolutions and linear layers are to compute with.
    pub precision: Precision,
}

/// Up to this side grey images are taken for drawn or written signs, such as MNIST's, for which there is a preset of 28 pixels.
const SMALL: usize = 32;
/// Up to this side, that of StackedMNIST, images in colour are, too.
const SMALLEST: usize = 28;
/// With fewer images people are told.
const FEWEST: usize = 500;
/// Sets of fewer images are augmented. DiffAugment lowers the Fréchet distance of CIFAR-10's 50,000 images a little and that of a tenth of
/// them much (arXiv 2006.10738), and helped with the 30,000 faces of models/; with 140,000 faces augmenting hardly helps (arXiv 2006.06676).
const FEW: usize = 50_000;
/// Classes are told where each has so many images. With few, a generator that is told the classes makes the same image of each again and
/// again, where it would not without them (arXiv 2201.06578, sets of a hundred and some hundreds a class).
const IMAGES_A_CLASS: usize = 500;
/// A label is a byte.
const MOST_CLASSES: usize = 256;
/// Images a batch on a CPU, where the first minutes count. Batches of 128 make a quarter of the steps of as many images, and the first
/// hundreds of steps show nothing (benches/RESULTS.md).
const BATCH: usize = 32;
/// And on a GPU, where the first minutes are the whole run: those of the built-in faces.
const BATCH_ON_GPU: usize = 128;
/// How wide the layers of `dcgan-64` are made on a CPU: half as wide they take a quarter of the multiplications, and it is these that
/// faces were seen to begin with in the first minutes (benches/RESULTS.md).
const WIDTH_ON_CPU: f64 = 0.5;
/// What folders are called that part a set for training from one for tests; they are no classes.
const PARTS: [&str; 9] = ["train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"];

impl Facts {
    /// Of the images that were found.
    pub fn of(report: &DataReport, gpu: bool, precision: Precision) -> Self {
        let numbered = report.classes.iter().enumerate().all(|(number, class)| class.number == number);
        let names = report.class_names();
        let parts = !names.is_empty() && names.iter().all(|name| PARTS.contains(&name.to_lowercase().as_str()));
        let classes: Vec<usize> = report.classes.iter().map(|class| class.images).collect();
        let classes = if numbered && !parts && classes.len() >= 2 { classes } else { Vec::new() };
        Self { images: report.used, side: middle_side(report), colour: report.colour, classes, gpu, precision }
    }

    /// The config for these images, in a table: a preset for `size` pixels, or for the pixels that suit the images, `width` times as wide, or
    /// as wide as suits the device, with what differs from it.
    ///
    /// # Errors
    /// When there are no two images, or the preset cannot be made for such a size or width.
    pub fn choose(&self, size: Option<usize>, width: Option<f64>) -> Result<Table> {
        if self.images < 2 {
            let what = "one image: there is nothing to learn what images have in common from";
            return Err(Error::usage(what, "Give more images; some hundreds are few, thousands are better."));
        }
        let preset = if self.is_signs() && size.is_none() { "dcgan-28" } else { "dcgan-64" };
        let size = size.or((preset == "dcgan-64").then_some(if self.side < 64 { 32 } else { 64 }));
        let width = width.or((preset == "dcgan-64" && !self.gpu).then_some(WIDTH_ON_CPU));
        let mut table = resized(preset_table(preset)?, preset, size, width)?;
        let (channels, config) = (if self.is_grey() { 1 } else { 3 }, TrainConfig::from_table(table.clone(), preset)?);
        if config.data.channels != channels {
            table = parse_table(&config.with_channels(channels)?.to_toml()?, preset)?;
        }
        for assignment in self.assignments() {
            set(&mut table, &assignment)?;
        }
        table.insert("about".to_string(), Value::String(format!("Chosen for {}", self.in_words())));
        Ok(table)
    }

    /// What differs from the preset. The averaged weights' half-life grows from nothing, so that the first samples are those of the weights
    /// as they are, to a thirtieth of the run.
    fn assignments(&self) -> Vec<String> {
        let (batch, length) = (if self.gpu { BATCH_ON_GPU } else { BATCH }, self.length());
        let mut all = vec![
            format!("schedule.batch_size={}", batch.min(self.images)),
            format!("schedule.length={{ images = {length} }}"),
            "schedule.ema_half_life=0".to_string(),
            format!("schedule.ramp={{ over = {{ images = {} }}, ema_half_life_to = {} }}", length / 2, length / 30),
            format!("schedule.precision={}", self.precision.name()),
            format!("output.sample_every={{ images = {} }}", length / 60),
        ];
        if !self.is_grey() && !self.is_signs() {
            all.push("data.flip=true".to_string());
        }
        if self.images < FEW {
            all.push("augment=[\"color\", \"translation\", \"cutout\"]".to_string());
        }
        if self.has_classes_enough() {
            all.push(format!("data.classes={}", self.classes.len()));
        }
        all
    }

    /// The images to show: a hundred passes on a CPU and five times as many on a GPU, but never less than shows something, nor more than
    /// half an hour on two cores, or some minutes on a GPU, of `dcgan-64`.
    fn length(&self) -> usize {
        match self.gpu {
            true => self.images.saturating_mul(500).clamp(500_000, 2_000_000),
            false => self.images.saturating_mul(100).clamp(100_000, 300_000),
        }
    }

    /// Some images without colour among photographs, or some with a cast among grey ones, change nothing.
    fn is_grey(&self) -> bool {
        self.colour * 10 < self.images
    }

    /// Whether they are taken for signs, which a mirror makes others of.
    fn is_signs(&self) -> bool {
        self.side <= if self.is_grey() { SMALL } else { SMALLEST }
    }

    fn has_classes_enough(&self) -> bool {
        self.classes.len() <= MOST_CLASSES && self.classes.iter().min().is_some_and(|least| *least >= IMAGES_A_CLASS)
    }

    fn in_words(&self) -> String {
        let images = grouped(self.images);
        let what = match self.colour {
            0 => format!("{images} grey images"),
            all if all == self.images => format!("{images} colour images"),
            some => format!("{images} images, {} of them in colour,", grouped(some)),
        };
        format!("{what} of about {0}×{0} pixels", self.side)
    }

    /// What was chosen and why, in a line: of the config that came of [`Self::choose`], whatever was changed in it since.
    pub fn told(&self, config: &TrainConfig) -> String {
        let TrainConfig { preset, data, schedule, augment, .. } = config;
        let colour = if data.channels == 1 { "grey" } else { "colour" };
        let mut parts: Vec<String> = width_told(config).into_iter().collect();
        parts.push(format!("batches of {}", schedule.batch_size));
        if schedule.has_average() {
            parts.push("averaged weights".to_string());
        }
        if data.flip {
            parts.push("mirrored at random".to_string());
        }
        if !augment.is_empty() {
            let few = if self.images < FEW { format!(" (fewer than {} images)", grouped(FEW)) } else { String::new() };
            parts.push(format!("augmented{few}"));
        }
        if self.images < FEWEST {
            parts.push("which are so few that it will learn them by heart".to_string());
        }
        parts.extend(self.classes_told(data.classes));
        parts.push(match schedule.length {
            Span::Images(images) => format!("{} images to show", grouped(usize::try_from(images).unwrap_or(usize::MAX))),
            Span::Epochs(epochs) => format!("{epochs} epochs"),
            Span::Steps(steps) => format!("{steps} steps"),
        });
        parts.push(format!("computed in {}", schedule.precision.name()));
        format!("{preset} in {colour} at {0}×{0} for {1}: {2}", data.size, self.in_words(), parts.join(", "))
    }

    fn classes_told(&self, told: usize) -> Option<String> {
        let least = self.classes.iter().min()?;
        Some(match told {
            0 if self.classes.len() > MOST_CLASSES => {
                format!("not told the {} classes ({MOST_CLASSES} at most)", self.classes.len())
            }
            0 if self.has_classes_enough() => format!("not told the {} classes", self.classes.len()),
            0 => {
                let few = format!("one has {} images, and {IMAGES_A_CLASS} are enough", grouped(*least));
                format!("not told the {} classes ({few})", self.classes.len())
            }
            told => format!("told the {told} classes"),
        })
    }
}

/// How many times as wide as those of its preset a config's layers are, where that is not once.
fn width_told(config: &TrainConfig) -> Option<String> {
    // What stands before the layer that makes the image is there for every size.
    let beside_image = |config: &TrainConfig| config.generator.layers.iter().rev().filter_map(LayerSpec::width).nth(1);
    let [ours, preset] = [beside_image(config)?, beside_image(&TrainConfig::preset(&config.preset).ok()?)?];
    (ours != preset).then(|| format!("layers {} times as wide", ours as f64 / preset as f64))
}

/// The middle of the images' shorter sides.
fn middle_side(report: &DataReport) -> usize {
    let mut sides: Vec<(u32, usize)> =
        report.sizes.iter().map(|(&(width, height), &images)| (width.min(height), images)).collect();
    sides.sort_unstable();
    let mut left = report.used.div_ceil(2);
    let middle = sides.into_iter().find(|(_, images)| {
        left = left.saturating_sub(*images);
        left == 0
    });
    middle.map_or(0, |(side, _)| side as usize)
}
