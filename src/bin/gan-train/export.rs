//! `gan-train export`: a trained generator, or a feature model, as an ONNX file.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ganforge::cli::{Console, print_line};
use ganforge::config::{self, Sources, TrainConfig};
use ganforge::contract::{Layout, Weights};
use ganforge::error::{Error, Result};
use ganforge::eval::{FeatureModel, Real, features, learn};
use ganforge::export::{self, Checked, Dtype, HubReport, ModelFolder, Publication, RealReference, Reduction, ReductionReport};
use ganforge::progress::Progress;
use ganforge::text;
use ganforge::train::{self, RunFolder, Trained, Which};

use super::base_table;

#[derive(Args)]
pub struct ExportArgs {
    /// The folder of a run; or, with --preset or --config, a .safetensors file or a PyTorch state dict (.pth).
    #[arg(value_name = "RUN|FILE")]
    run: PathBuf,
    /// Which checkpoint of a RUN: best (the default), latest or the number of a step.
    #[arg(long, conflicts_with_all = ["preset", "config"])]
    checkpoint: Option<Which>,
    /// The preset whose generator a FILE's is.
    #[arg(long, conflicts_with_all = ["config", "weights"])]
    preset: Option<String>,
    /// The config file of a FILE's generator.
    #[arg(long, value_name = "FILE.toml", conflicts_with = "weights")]
    config: Option<PathBuf>,
    /// With --preset or --config: the system for 32, 64 or 128 pixels.
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// With --preset or --config: this factor on the width of every hidden layer.
    #[arg(long, value_name = "FACTOR")]
    width: Option<f64>,
    /// With --preset or --config: any other key of the config.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where to write; by default RUN/generator.onnx, or FILE with the ending .onnx. With --layout triton the model repository, with
    /// --layout hub the folder.
    #[arg(long, value_name = "F.onnx|DIR")]
    out: Option<PathBuf>,
    /// By default the average where the run has one.
    #[arg(long)]
    weights: Option<Weights>,
    /// Type and axes of the output; or a folder for a server or a hub.
    #[arg(long, value_enum, default_value = "nhwc-u8")]
    layout: Form,
    /// Type of the weights.
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// With --dtype int8 or --layout hub: latents that calibration looks at, 512 by default.
    #[arg(long, value_name = "N")]
    calibrate: Option<usize>,
    /// With --dtype int8 or w8, or --layout hub: how much larger the Fréchet distance may become, as a part of it, 0.02 by default; with more, more noise
    /// in the pixels is borne, too.
    #[arg(long, value_name = "X")]
    max_loss: Option<f64>,
    /// With --dtype int8 or w8, or --layout hub: real images to measure the loss with; without them, the generator's own in f32.
    #[arg(long, value_name = "PATH|NAME")]
    data: Vec<String>,
    /// With --dtype int8 or w8, or --layout hub: another feature model to measure the loss with.
    #[arg(long, value_name = "F.onnx")]
    features: Option<PathBuf>,
    /// With --layout triton or hub: what the model is called, by default as RUN or FILE.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// With --layout hub: the licence of the model, as hubs abbreviate it: mit, cc-by-4.0. Without it the card says that it is not stated.
    #[arg(long, value_name = "ID")]
    license: Option<String>,
    /// With --layout triton or hub: replace the files of an export that lies there.
    #[arg(long)]
    force: bool,
}

/// What is written: a file, with this type and axes of the output, or a folder with such files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// uint8 [n, height, width, channels]: ready to be a PNG
    NhwcU8,
    /// uint8 [n, channels, height, width]: what torch-fidelity takes
    NchwU8,
    /// float32 [n, channels, height, width]: the raw network, in its own value range
    NchwF32,
    /// A model in a model repository, as NVIDIA's Triton Inference Server serves it
    Triton,
    /// A folder for a model hub: a card, samples, and the model in f32, f16 and int8
    Hub,
}

pub fn export(args: &ExportArgs) -> Result<()> {
    if learn::is_feature_folder(&args.run) {
        return export_features(args);
    }
    let layout = match args.layout {
        Form::NhwcU8 => Layout::NhwcU8,
        Form::NchwU8 => Layout::NchwU8,
        Form::NchwF32 => Layout::NchwF32,
        Form::Triton => return export_triton(args),
        Form::Hub => return export_hub(args),
    };
    if args.name.is_some() || args.license.is_some() || args.force {
        return Err(Error::usage("--name, --license or --force for a file", "Add --layout triton or hub, or leave them out."));
    }
    let (trained, default) = exported(args)?;
    let path = args.out.clone().unwrap_or(default);
    train::check_output(&path, &args.run)?;
    let console = Console::new(false);
    if args.out.is_none() && args.dtype != Dtype::F32 && path.is_file() {
        console.say(&format!("note: this replaces {}; --out FILE writes elsewhere", text::path(&path)));
    }
    if is_reduced(args) {
        let measure = Measure::new(args, &trained, &console)?;
        let report = export::export_reduced(&trained, layout, args.dtype, &measure.reduction(args), &path, &console)?;
        return print_reduced(args, &trained, &report, &path);
    }
    refuse_reductions(args)?;
    let agreement = export::export(&trained, layout, args.dtype, &path)?;
    print_same(args, &trained, agreement, &path)
}

/// A model in a repository of Triton.
fn export_triton(args: &ExportArgs) -> Result<()> {
    if args.license.is_some() {
        return Err(Error::usage("--license for a server, which asks for none", "Leave it out, or use --layout hub."));
    }
    let (out, name) = (folder(args)?, name(args)?);
    train::check_output(&out.join(&name), &args.run)?;
    let (trained, _) = exported(args)?;
    let to = ModelFolder { path: &out, name: &name, overwrite: args.force };
    let console = Console::new(false);
    let measure = match is_reduced(args) {
        true => Some(Measure::new(args, &trained, &console)?),
        false => refuse_reductions(args).map(|()| None)?,
    };
    let how = measure.as_ref().map(|measure| measure.reduction(args));
    let path = out.join(&name);
    match export::export_triton(&trained, args.dtype, how.as_ref(), &to, &console)? {
        Checked::Same(agreement) => print_same(args, &trained, agreement, &path),
        Checked::Reduced(report) => print_reduced(args, &trained, &report, &path),
    }
}

/// A folder for a model hub.
fn export_hub(args: &ExportArgs) -> Result<()> {
    if args.dtype != Dtype::F32 {
        return Err(Error::usage("--dtype for a hub's folder, which has each precision", "Leave it out."));
    }
    let (out, name) = (folder(args)?, name(args)?);
    let (trained, _) = exported(args)?;
    let console = Console::new(false);
    let measure = Measure::new(args, &trained, &console)?;
    let evaluation = args.run.join("evaluation.json");
    let about = Publication { license: args.license.as_deref(), evaluation: Some(&evaluation) };
    let to = ModelFolder { path: &out, name: &name, overwrite: args.force };
    let HubReport { files, refused } = export::export_hub(&trained, &measure.reduction(args), about, &to, &console)?;
    for file in files {
        print_line(&format!("{}: {} bytes, {}", text::path(&out.join(file.path)), file.bytes, file.checked))?;
    }
    let left_out: Vec<&str> = refused.iter().map(|(path, _)| *path).collect();
    let left_out = if left_out.is_empty() { String::new() } else { format!("; without {}", left_out.join(", ")) };
    print_line(&format!("{}: {}{left_out}", text::path(&out), origin(args, &trained)))
}

/// Where a folder is to be.
fn folder(args: &ExportArgs) -> Result<PathBuf> {
    let hint = "Name a folder, for example --out repository.";
    let out = args.out.clone().ok_or_else(|| Error::usage("--out is missing", hint))?;
    train::check_output(&out, &args.run)?;
    Ok(out)
}

/// What a model is called.
fn name(args: &ExportArgs) -> Result<String> {
    if let Some(name) = &args.name {
        return match name.trim().is_empty() {
            true => Err(Error::usage("--name is empty", "Say what the model is called.")),
            false => Ok(name.clone()),
        };
    }
    let path = std::fs::canonicalize(&args.run).map_err(Error::io("read", &args.run))?;
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    Ok(name.map_or("generator".into(), |name| name.to_string_lossy().into_owned()))
}

fn is_reduced(args: &ExportArgs) -> bool {
    matches!(args.dtype, Dtype::Int8 | Dtype::W8)
}

fn print_same(args: &ExportArgs, trained: &Trained, agreement: export::Agreement, path: &Path) -> Result<()> {
    print_line(&format!(
        "{}: {}; largest difference to candle {:.1e} in values{}",
        text::path(path),
        origin(args, trained),
        agreement.values,
        agreement.pixels.map_or(String::new(), |pixels| format!(", {pixels} of 255 in pixels")),
    ))
}

fn print_reduced(args: &ExportArgs, trained: &Trained, report: &ReductionReport, path: &Path) -> Result<()> {
    for line in report.lines() {
        print_line(&line)?;
    }
    print_line(&format!("{}: {}; {}", text::path(path), origin(args, trained), report.cost))
}

/// Refuses what is for fewer bits only.
fn refuse_reductions(args: &ExportArgs) -> Result<()> {
    if args.calibrate.is_none() && args.max_loss.is_none() && args.data.is_empty() && args.features.is_none() {
        return Ok(());
    }
    let what = "--calibrate, --max-loss, --data or --features for an export that loses nothing";
    Err(Error::usage(what, "Add --dtype int8 or w8, or leave them out."))
}

/// What an export in fewer bits is measured with.
struct Measure {
    features: FeatureModel,
    real: Option<RealReference>,
}

impl Measure {
    fn new(args: &ExportArgs, trained: &Trained, console: &Console) -> Result<Self> {
        if args.dtype == Dtype::W8 && args.calibrate.is_some() {
            return Err(Error::usage(
                "--calibrate for an export that calibrates nothing",
                "Leave it out, or export with --dtype int8.",
            ));
        }
        let channels = trained.config.data.channels;
        let options = features::Options::default();
        let features = match &args.features {
            Some(path) => FeatureModel::open(path, &options)?,
            None => FeatureModel::by_channels(channels, &options)?,
        };
        let real = match args.data.as_slice() {
            [] => None,
            sources => {
                let sources = Sources::from(sources);
                // Files of weights do not say what they were trained on.
                let real = match args.preset.is_some() || args.config.is_some() {
                    true => Real::all(&sources, trained.config.data.size, channels, console)?,
                    false => Real::of_run(trained, &sources, false, console)?,
                };
                let (n, wanted) = (real.numbers.len(), export::COMPARED);
                if n < wanted {
                    console.say(&format!("{}: the distance to {n} images says little; {wanted} would do", real.data.name));
                }
                Some(RealReference::of(&real, &features)?)
            }
        };
        Ok(Self { features, real })
    }

    fn reduction(&self, args: &ExportArgs) -> Reduction<'_> {
        Reduction {
            calibrate: args.calibrate.unwrap_or(export::CALIBRATE),
            max_loss: args.max_loss.unwrap_or(export::MAX_LOSS),
            features: &self.features,
            real: self.real.as_ref(),
        }
    }
}

/// What was exported. Files of weights do not say how many images they were trained on.
fn origin(args: &ExportArgs, trained: &Trained) -> String {
    let weights = trained.weights.name();
    match args.preset.is_some() || args.config.is_some() {
        true => format!("{weights} weights of {}", text::path(&args.run)),
        false => format!("{weights} weights after {} images", trained.state.images),
    }
}

/// What is to be exported, and where to by default.
fn exported(args: &ExportArgs) -> Result<(Trained, PathBuf)> {
    let Some((mut table, place)) = base_table(args.preset.as_deref(), args.config.as_deref(), args.size, args.width)? else {
        if args.run.is_file() {
            return Err(Error::usage(
                format!("{} is a file, which does not say what network its weights are of", text::path(&args.run)),
                "Add --preset NAME or --config FILE.toml; `gan-train presets` lists the presets.",
            ));
        }
        if args.size.is_some() || args.width.is_some() || !args.set.is_empty() {
            return Err(Error::usage("--size, --width or --set for a run, which has its config", "Leave them out."));
        }
        let folder = RunFolder::open(&args.run)?;
        return Ok((train::load_trained(&folder, args.weights, args.checkpoint.unwrap_or_default())?, folder.onnx_file()));
    };
    if args.run.join("checkpoints").is_dir() {
        let what = format!("{} is a run, which has its config", text::path(&args.run));
        return Err(Error::usage(what, "Leave --preset and --config away, or name one of its checkpoints."));
    }
    args.set.iter().try_for_each(|assignment| config::set(&mut table, assignment))?;
    let trained = train::import_weights::load_generator(TrainConfig::from_table(table, &place)?, &args.run)?;
    let beside = if args.run.is_dir() { args.run.join("generator.onnx") } else { args.run.with_extension("onnx") };
    Ok((trained, beside))
}

/// The feature model in a folder that `gan-train features` filled.
fn export_features(args: &ExportArgs) -> Result<()> {
    let of_runs = args.weights.is_some() || args.checkpoint.is_some() || args.preset.is_some() || args.config.is_some();
    let of_files = args.size.is_some() || args.width.is_some() || !args.set.is_empty();
    let of_folders = args.name.is_some() || args.license.is_some() || args.force;
    if of_runs || of_files || of_folders || args.layout != Form::NhwcU8 || args.dtype != Dtype::F32 {
        let what = format!("{} holds a feature model, which has one form only", text::path(&args.run));
        return Err(Error::usage(what, "Give nothing but --out."));
    }
    let path = args.out.clone().unwrap_or_else(|| args.run.join(learn::MODEL));
    let difference = learn::export(&args.run, &path)?;
    print_line(&format!("{}: features; largest difference to candle {difference:.1e}", text::path(&path)))
}
