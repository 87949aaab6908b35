//! `gan-train features`: trains a feature model for `gan-train eval`.

use std::path::PathBuf;

use clap::Args;
use ganforge::cli::{Console, print_line};
use ganforge::config::DataConfig;
use ganforge::data;
use ganforge::error::{Error, Result};
use ganforge::eval::learn::{self, FeatureConfig, Task, TrainingSet};
use ganforge::infer::runtime;
use ganforge::progress::Progress;
use ganforge::text::{self, on_one_line};
use serde_json::json;

#[derive(Args)]
pub struct FeaturesArgs {
    /// What `--data` of a training takes; may be given more than once.
    #[arg(long, required = true)]
    data: Vec<String>,
    /// The folder for config, weights, provenance and features.onnx.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Height and width the images are brought to.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// 1 (grey) or 3 (RGB).
    #[arg(long, default_value_t = 3)]
    channels: usize,
    /// By default labels where all the data have them (IDX files, synthetic), else rotations.
    #[arg(long)]
    task: Option<Task>,
    /// Passes over the images.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Adam's learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Seed of every random draw.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Nothing on stderr.
    #[arg(long)]
    quiet: bool,
    /// A machine-readable summary on stdout.
    #[arg(long)]
    json: bool,
}

pub fn features(args: &FeaturesArgs) -> Result<()> {
    let console = Console::new(args.quiet);
    runtime::load()?; // not only after the training, to verify its result
    let (size, channels) = (args.size, args.channels);
    let mut sets = Vec::new();
    for source in &args.data {
        let form = DataConfig::plain(source, size, channels);
        let data = data::load(source, &form, &console)?;
        let labels = data::load_labels(source)?;
        let known = if labels.is_some() { "with labels" } else { "without labels" };
        console.say(&format!("{}, {known}: {}", on_one_line(&data.name), data.report));
        sets.push((data, labels));
    }
    let labelled = sets.iter().filter(|(_, labels)| labels.is_some()).count();
    let training_set = TrainingSet::new(sets)?;
    let task = match args.task {
        None if (1..args.data.len()).contains(&labelled) => {
            let what = format!("{labelled} of {} data sets have labels", args.data.len());
            return Err(Error::usage(what, "Choose --task rotations, which needs none."));
        }
        Some(Task::Labels) if training_set.task() != Task::Labels => {
            return Err(Error::usage(
                "--task labels: not all the data have labels",
                "Choose --task rotations, which needs none.",
            ));
        }
        task => task.unwrap_or_else(|| training_set.task()),
    };
    let mut config = FeatureConfig::new(task, size, channels, training_set.classes(task))?;
    config.seed = args.seed;
    config.epochs = args.epochs.unwrap_or(config.epochs);
    config.lr = args.lr.unwrap_or(config.lr);
    console.say(&format!("learning {} in {} classes", task.name(), training_set.classes(task)));
    let provenance = learn::train(&config, &training_set, &args.out, &console)?;
    let model = args.out.join(learn::MODEL);
    match args.json {
        true => print_line(&json!({ "model": model.to_string_lossy(), "task": task, "provenance": provenance }).to_string()),
        false => print_line(&format!(
            "{}: {:.2} % of {} held-out images told right, after {} images in {:.0} s",
            text::path(&model),
            100.0 * provenance.held_out_accuracy,
            provenance.held_out_images,
            provenance.images_seen,
            provenance.seconds,
        )),
    }
}
