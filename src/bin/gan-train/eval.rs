//! `gan-train eval`: scores of a run, a generator or a folder of images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ganforge::cli::{Console, print_line};
use ganforge::config::{DataConfig, Sources};
use ganforge::contract::{Weights, hex};
use ganforge::data::{self, Dataset};
use ganforge::error::{Error, Result};
use ganforge::eval::learn::is_feature_folder;
use ganforge::eval::neighbours::SHEET_COLUMNS;
use ganforge::eval::{
    DEFAULT_DRAWS, EvaluationJob, FeatureModel, InputRange, Real, Subject, compare_truncations, evaluate, features,
};
use ganforge::files;
use ganforge::image::{Range, save_grid};
use ganforge::infer::{Generator, Options, Provider, builtin};
use ganforge::progress::Progress;
use ganforge::text::{self, on_one_line};
use ganforge::train::{self, RunFolder, Trained, Which, checkpoint};
use sha2::{Digest, Sha256};

#[derive(Args)]
pub struct EvalArgs {
    /// A run's folder, a generator's ONNX file, or generated images: a folder, a zip, or npy, npz and tar files of `gan-infer`.
    #[arg(value_name = "RUN|F.onnx|DIR")]
    subject: String,
    /// Real images, as a training takes them; may be given more than once; by default those of the run.
    #[arg(long)]
    data: Vec<String>,
    /// Images a draw, and real ones; by default 5000, or half of the real images.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    n: Option<u64>,
    /// Draws to take mean and deviation over.
    #[arg(long, default_value_t = DEFAULT_DRAWS as u64, value_parser = clap::value_parser!(u64).range(1..=1000))]
    draws: u64,
    #[command(flatten)]
    features: FeatureArgs,
    /// Of a run: best (the default), latest or the number of a step.
    #[arg(long)]
    checkpoint: Option<Which>,
    /// Of a run: averaged or raw weights; by default the average where there is one.
    #[arg(long)]
    weights: Option<Weights>,
    /// Of a generator: its latents truncated to ±X, as by `gan-infer --truncation`; several (1,2,3) make a table of scores.
    #[arg(long, value_name = "X,…", value_delimiter = ',')]
    truncation: Vec<f64>,
    /// Of a run: compare with the images it held out, not with those it was trained on.
    #[arg(long)]
    held_out: bool,
    /// Of a generator made elsewhere with a float output: its value range.
    #[arg(long)]
    range: Option<Range>,
    /// Of a folder of images: height and width to bring them to; by default their own.
    #[arg(long)]
    size: Option<usize>,
    /// Do not search the real images for neighbours of the generated ones.
    #[arg(long)]
    no_neighbours: bool,
    /// Where the report goes, with neighbours.png beside it; by default RUN/evaluation.json, for a run.
    #[arg(long, value_name = "F.json")]
    out: Option<PathBuf>,
    /// The report on stdout as JSON.
    #[arg(long)]
    json: bool,
    /// Nothing on stderr.
    #[arg(long)]
    quiet: bool,
}

/// The feature model that images are compared by.
#[derive(Args)]
pub struct FeatureArgs {
    /// A feature model, an Inception for example; by default the built-in one for such images.
    #[arg(long, value_name = "F.onnx")]
    features: Option<PathBuf>,
    /// The value range that a feature model takes which does not tell it itself: tanh (the default), sigmoid, byte or imagenet.
    #[arg(long, value_name = "RANGE")]
    features_range: Option<InputRange>,
    /// Height and width of a feature model's input that leaves them open.
    #[arg(long, value_name = "PIXELS")]
    features_size: Option<usize>,
    /// Where the features are computed: auto, cpu, cuda, tensorrt (in f32), openvino or coreml, a device behind a colon: cuda:1.
    #[arg(long, default_value = "cpu")]
    provider: Provider,
    /// How long a model may take to load and to run once; 0 for no limit [default: 120].
    #[arg(long, value_name = "SECONDS")]
    load_timeout: Option<u32>,
    /// How much memory the inputs of a batch may take, and generated images [default: 4].
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u16).range(1..))]
    batch_memory: Option<u16>,
}

impl FeatureArgs {
    fn load_timeout(&self) -> Option<Duration> {
        self.load_timeout.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// In bytes.
    fn batch_memory(&self) -> Option<u64> {
        self.batch_memory.map(|gib| u64::from(gib) << 30)
    }

    /// Opens it, or the built-in one for such images, and tells what was chosen on the way.
    pub fn open(&self, size: usize, channels: usize, progress: &dyn Progress) -> Result<FeatureModel> {
        let options = features::Options {
            provider: self.provider,
            range: self.features_range,
            size: self.features_size,
            load_timeout: self.load_timeout(),
            batch_memory: self.batch_memory(),
        };
        let model = match &self.features {
            Some(path) => FeatureModel::open(path, &options)?,
            None => FeatureModel::builtin(size, channels, &options)?,
        };
        progress.say(&format!(
            "features by {} ({} values of {}×{}×{} images, range {})",
            model.name(),
            model.dim(),
            model.size(),
            model.size(),
            model.channels(),
            model.range()
        ));
        model.notes().iter().for_each(|note| progress.say(note));
        Ok(model)
    }
}

/// What is judged, held in memory.
enum Opened {
    Run(Box<Trained>),
    Generator(Box<Generator>),
    Images(Box<Dataset>),
}

pub fn eval(args: &EvalArgs) -> Result<()> {
    let console = Console::new(args.quiet);
    let (opened, sha256) = open(args, &console)?;
    let (sources, [size, channels]) = wanted(args, &opened)?;
    let out = args.out.clone().or_else(|| match (&opened, &args.checkpoint) {
        (Opened::Run(_), None) if args.truncation.is_empty() => Some(Path::new(&args.subject).join("evaluation.json")),
        _ => None,
    });
    if let Some(out) = out.as_deref().filter(|out| out.is_dir()) {
        return Err(Error::usage(
            format!("--out {} is a folder", text::path(out)),
            "Name a file, for example evaluation.json in it.",
        ));
    }
    if let Some(out) = &out {
        train::check_output(out, Path::new(&args.subject))?;
    }
    let folder = out.as_deref().map(|out| out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")));
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::usage(format!("--out: there is no folder {}", text::path(folder)), "Make it first."));
    }
    let model = args.features.open(size, channels, &console)?;
    let real = match &opened {
        Opened::Run(trained) => Real::of_run(trained, &sources, args.held_out, &console)?,
        _ => Real::all(&sources, size, channels, &console)?,
    };
    let subject = match &opened {
        Opened::Run(trained) => Subject::Trained(trained),
        Opened::Generator(generator) => Subject::Generator(generator),
        Opened::Images(images) => Subject::Images(images),
    };
    let job = EvaluationJob {
        subject,
        name: &name_of(&args.subject),
        sha256: &sha256,
        data: &real.data,
        real: (real.kind, &real.numbers),
        n: args.n.map(|n| n as usize),
        draws: args.draws as usize,
        neighbours: !args.no_neighbours,
    };
    if !args.truncation.is_empty() {
        return table(args, &job, &model, out.as_deref(), &console);
    }
    let (report, sheet) = evaluate(&job, &model, &console)?;

    let json =
        serde_json::to_string_pretty(&report).map_err(|e| Error::invalid("report", e.to_string(), "Please report this."))?;
    if let (Some(out), Some(folder)) = (&out, folder) {
        files::write_atomic(out, (json.clone() + "\n").as_bytes())?;
        console.say(&format!("written: {}", text::path(out)));
        if let Some(sheet) = sheet {
            let path = folder.join("neighbours.png");
            save_grid(&sheet, SHEET_COLUMNS, &path)?;
            let shows = format!(
                "the {} samples nearest to images of the data: each, the nearest by features, by pixels; it shows images of the data",
                sheet.n / 3
            );
            console.say(&format!("written: {} ({shows})", text::path(&path)));
        }
    }
    print_line(&if args.json { json } else { report.to_string() })
}

/// The scores without truncation and with each that is asked for.
fn table(args: &EvalArgs, job: &EvaluationJob, model: &FeatureModel, out: Option<&Path>, console: &Console) -> Result<()> {
    let bounds: Vec<Option<f64>> = std::iter::once(None).chain(args.truncation.iter().copied().map(Some)).collect();
    let reports = compare_truncations(job, &bounds, model, console)?;
    let json =
        serde_json::to_string_pretty(&reports).map_err(|e| Error::invalid("report", e.to_string(), "Please report this."))?;
    if let Some(out) = out {
        files::write_atomic(out, (json.clone() + "\n").as_bytes())?;
        console.say(&format!("written: {}", text::path(out)));
    }
    if args.json {
        return print_line(&json);
    }
    print_line(&format!(
        "{:<12}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "truncation", "Fréchet", "precision", "recall", "density", "coverage"
    ))?;
    for (bound, report) in bounds.iter().zip(&reports) {
        let bound = bound.map_or("none".to_string(), |bound| bound.to_string());
        let scores = [&report.frechet, &report.precision, &report.recall, &report.density, &report.coverage];
        let scores: String = scores.iter().map(|score| format!("{:>12.3}", score.mean)).collect();
        print_line(&format!("{bound:<12}{scores}"))?;
    }
    for (bound, report) in bounds.iter().zip(&reports) {
        let bound = bound.map_or("without truncation".to_string(), |bound| format!("truncated to {bound}"));
        report.warnings.iter().try_for_each(|warning| print_line(&format!("warning, {bound}: {warning}")))?;
    }
    Ok(())
}

/// Opens what is to be judged, and says what is of it.
fn open(args: &EvalArgs, console: &Console) -> Result<(Opened, String)> {
    let path = Path::new(&args.subject);
    if is_feature_folder(path) {
        return Err(Error::usage(
            format!("{} holds a feature model, not a generator", text::path(path)),
            "Name its .onnx file with --features, and something to judge.",
        ));
    }
    let is_run = path.join("config.toml").is_file();
    if !is_run && (args.checkpoint.is_some() || args.weights.is_some() || args.held_out) {
        let what = format!("{} is not a run", args.subject);
        return Err(Error::usage(what, "Leave --checkpoint, --weights and --held-out away, or name a run's folder."));
    }
    if is_run {
        without_effect(args.size.is_some(), "--size", "a run, whose images have a size", console);
        without_effect(args.range.is_some(), "--range", "a run, which knows it", console);
        let folder = RunFolder::open(path)?;
        let saved = checkpoint::find(&folder, args.checkpoint.unwrap_or_default())?.ok_or_else(|| {
            Error::invalid_file(path, "this run has no checkpoint yet", "Continue it with gan-train --resume RUN.")
        })?;
        let trained = train::load_checkpoint(&folder, &saved, args.weights)?;
        console.say(&format!(
            "{} weights of {}, after {} images",
            trained.weights.name(),
            text::path(&saved),
            trained.state.images
        ));
        let sha256 = hash(&files::read(&checkpoint::generator_file(&saved, trained.weights), files::LARGE)?);
        return Ok((Opened::Run(Box::new(trained)), sha256));
    }
    if path.is_dir() || (data::holds_images(path) && path.is_file()) {
        without_effect(args.range.is_some(), "--range", "images, whose values are bytes", console);
        let images = load_images(&args.subject, args.size, console)?;
        let sha256 = images.sha256.clone();
        return Ok((Opened::Images(Box::new(images)), sha256));
    }
    without_effect(args.size.is_some(), "--size", "a generator, whose images have a size", console);
    let mut options = Options::default().provider(args.features.provider);
    options.range = args.range;
    options.load_timeout = args.features.load_timeout();
    options.batch_memory = args.features.batch_memory();
    let generator = builtin::open(Some(&args.subject), &options)?;
    generator.notes().iter().for_each(|note| console.say(note));
    let sha256 = generator.sha256()?;
    Ok((Opened::Generator(Box::new(generator)), sha256))
}

fn without_effect(given: bool, option: &str, on: &str, console: &Console) {
    if given {
        console.say(&format!("note: {option} has no effect on {on}"));
    }
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A folder of images in their own form, if they have one and the same.
fn load_images(source: &str, size: Option<usize>, console: &Console) -> Result<Dataset> {
    let report = data::load(source, &DataConfig::plain(source, 8, 3), console)?.report;
    let own = match report.sizes.keys().collect::<Vec<_>>().as_slice() {
        [(width, height)] if width == height => Some(*width as usize),
        _ => None,
    };
    let size = size.or(own).ok_or_else(|| {
        let what = format!("{source}: its images are not squares of one size: {report}");
        Error::usage(what, "Say with --size what to crop and resize them to.")
    })?;
    let images = data::load(source, &DataConfig::plain(source, size, if report.colour == 0 { 1 } else { 3 }), console)?;
    console.say(&format!("{}: {}", on_one_line(&images.name), images.report));
    Ok(images)
}

/// Where the real images are, and size and channels that they are to have: the generated ones'.
fn wanted(args: &EvalArgs, opened: &Opened) -> Result<(Sources, [usize; 2])> {
    let (of_run, [height, width, channels]) = match opened {
        Opened::Run(trained) => {
            let data = &trained.config.data;
            (Some(&data.source), [data.size, data.size, data.channels])
        }
        Opened::Generator(generator) => (None, generator.image_shape()),
        Opened::Images(images) => (None, [images.size, images.size, images.channels]),
    };
    if height != width {
        let what = format!("{} makes images of {height}×{width} pixels", args.subject);
        return Err(Error::usage(what, "Only square images are judged."));
    }
    let given = Some(Sources::from(args.data.as_slice())).filter(|given| !given.is_empty());
    let source = given.or_else(|| of_run.cloned()).filter(|source| !source.is_empty());
    let source = source.ok_or_else(|| {
        Error::usage(
            "--data is missing",
            "Name the real images: a folder or zip of images, an IDX, npy, npz or tar file, or mnist, fashion-mnist, stacked-mnist, synthetic.",
        )
    })?;
    Ok((source, [height, channels]))
}

/// The last part of a path: reports travel, and where something lay on one machine means nothing on another.
fn name_of(subject: &str) -> String {
    let path = Path::new(subject);
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}
