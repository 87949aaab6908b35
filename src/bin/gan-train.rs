//! `gan-train`: trains a GAN, exports its generator.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::builder::RangedU64ValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use ganforge::cli::generate::{self, generated, with_values};
use ganforge::cli::{Console, finish, outlive_file_limits, parsed, prepare_training, print_line, stop_flag};
use ganforge::config::{self, DataConfig, Overrides, PRESETS, Precision, Span, TrainConfig};
use ganforge::contract::{Contract, Layout};
use ganforge::data::{self, Dataset};
use ganforge::error::{Error, Result};
use ganforge::eval::FrechetJudge;
use ganforge::export::Dtype;
use ganforge::files;
use ganforge::infer::{self, FileFacts, runtime};
use ganforge::nn::device::{check_precision, has_amx, open_cuda};
use ganforge::progress::Progress;
use ganforge::text::{self, on_one_line};
use ganforge::train::report::Paths;
use ganforge::train::{self, RunFolder, TrainingJob, Which};
use serde_json::json;
use toml::Table;

#[path = "gan-train/eval.rs"]
mod eval;
#[path = "gan-train/export.rs"]
mod export;
#[path = "gan-train/learn.rs"]
mod learn;
#[path = "gan-train/manual.rs"]
mod manual;
#[path = "gan-train/select.rs"]
mod select;

/// The system's allocator gives a step's large buffers back to the kernel, which then clears every page of them again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains a GAN on a folder of images and exports its generator to ONNX.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
    /// Print shell completions, or the manual page: --generate man | man -l -
    #[arg(long, value_name = "KIND", exclusive = true)]
    generate: Option<generate::Kind>,
}

#[derive(Subcommand)]
enum Command {
    /// List the presets, or print one as a complete config file.
    Presets {
        /// The preset to print.
        name: Option<String>,
        /// Print every key that a config knows, with what it is, its range and its default; those that the preset does not set
        /// are commented out.
        #[arg(long, requires = "name")]
        all_keys: bool,
    },
    /// Export a run's generator, or a .pth or .safetensors file's, to ONNX, verified against candle in onnxruntime.
    Export(export::ExportArgs),
    /// Judge a run, a generator or a folder of images: Fréchet and kernel distance, precision, recall, memorisation.
    Eval(eval::EvalArgs),
    /// Train a feature model for `eval`: by labels where the data have them, else by rotations.
    Features(learn::FeaturesArgs),
    /// Keep the typical images of a data set: what is learned from them alone is cleaner, and less varied. Compare by
    /// `eval RUN --data` with the whole set.
    Select(select::SelectArgs),
    /// Write report.html, curves.png and progress.gif of a run again.
    Report {
        /// The folder of the run.
        run: PathBuf,
        /// Tell where on this machine the data lie, not only what they are called.
        #[arg(long)]
        paths: bool,
    },
    /// Say what a data set holds: how many images, which sizes and classes, what is broken, what is double.
    Data {
        /// What `--data` takes; of several the images of all.
        #[arg(required = true, value_name = "SOURCE")]
        sources: Vec<String>,
        /// Height and width the images are brought to.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(4..=1024))]
        size: u16,
        /// 1 (grey) or 3 (RGB).
        #[arg(long, default_value_t = 3)]
        channels: u8,
        /// Nothing on stderr.
        #[arg(long)]
        quiet: bool,
        /// All of it for programs, on stdout: the name and reason of every image left out, every copy by name, sizes, classes.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct TrainArgs {
    /// A preset's name; `gan-train presets` lists them. Without it, and without --config, one is chosen by the images, and what was
    /// chosen is said.
    #[arg(long, conflicts_with = "config")]
    preset: Option<String>,
    /// A config file; `gan-train presets NAME` prints one to begin with.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// The system for 32, 64 or 128 pixels: convolutional ones, made for such a size.
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// This factor on the width of every hidden layer, for example 0.25.
    #[arg(long, value_name = "FACTOR")]
    width: Option<f64>,
    /// Begin with the weights of a run, a .safetensors file or a PyTorch state dict (.pth) of the same architecture; given twice, of
    /// a file of the generator's and one of the critic's.
    #[arg(long, value_name = "RUN|FILE")]
    init_from: Vec<PathBuf>,
    /// Images: a folder, a zip, an IDX, npy, npz or tar file, or mnist, fashion-mnist, stacked-mnist, synthetic; given several times, the
    /// images of all.
    #[arg(long)]
    data: Vec<String>,
    /// The new folder of the run.
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Continue this run bit for bit; with a length, to that total. Length, precision, place of the data, output and watch may
    /// change; anything else of the config only with --set, which is noted in the run.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["preset", "config", "size", "width", "init_from", "out", "dry_run"])]
    resume: Option<PathBuf>,
    /// Passes over the data, in total.
    #[arg(long, group = "length", value_parser = count())]
    epochs: Option<u64>,
    /// Generator steps, in total.
    #[arg(long, group = "length", value_parser = count())]
    steps: Option<u64>,
    /// Real images shown to the critic, in total.
    #[arg(long, group = "length", value_parser = count())]
    images: Option<u64>,
    /// Images a batch.
    #[arg(long, value_parser = count())]
    batch_size: Option<u64>,
    /// Learning rate of both networks.
    #[arg(long, value_parser = learning_rate)]
    lr: Option<f64>,
    /// Seed of every random draw.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// auto, cpu, cuda or cuda:INDEX.
    #[arg(long, default_value = "auto")]
    device: String,
    /// What convolutions and linear layers compute with: f32; bf16 on CUDA and on CPUs with AVX512-BF16; tf32 on CUDA. With --resume, from
    /// there on.
    #[arg(long)]
    precision: Option<Precision>,
    /// Generator steps between checkpoints.
    #[arg(long, value_name = "STEPS", value_parser = count())]
    checkpoint_every: Option<u64>,
    /// Generator steps between sample sheets.
    #[arg(long, value_name = "STEPS", value_parser = count())]
    sample_every: Option<u64>,
    /// Any other key of the config: --set schedule.ema_decay=0.999. With --resume, from there on: what the checkpoint was made
    /// with is changed on purpose.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Load the data, build the networks, print the resolved config, and stop.
    #[arg(long)]
    dry_run: bool,
    /// Nothing on stderr.
    #[arg(long)]
    quiet: bool,
    /// A machine-readable summary on stdout.
    #[arg(long)]
    json: bool,
}

/// From 1 to TOML's largest integer.
fn count() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=i64::MAX as u64)
}

fn learning_rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(lr) if lr.is_finite() && lr > 0.0 => Ok(lr),
        _ => Err("expected a number above 0, for example 2e-4".to_string()),
    }
}

fn main() -> ExitCode {
    // SAFETY: the first thing main does; there is no other thread yet.
    unsafe { prepare_training() };
    // SAFETY: as above.
    unsafe { runtime::disable_telemetry() };
    // SAFETY: as above.
    unsafe { outlive_file_limits() };
    let cli: Cli = parsed();
    if let Some(kind) = cli.generate {
        return finish(print_generated(kind));
    }
    finish(match cli.command {
        Some(Command::Presets { name, all_keys }) => presets(name.as_deref(), all_keys),
        Some(Command::Export(args)) => export::export(&args),
        Some(Command::Eval(args)) => eval::eval(&args),
        Some(Command::Features(args)) => learn::features(&args),
        Some(Command::Select(args)) => select::select(&args),
        Some(Command::Report { run, paths }) => report(&run, paths),
        Some(Command::Data { sources, size, channels, quiet, json }) => describe_data(&sources, size, channels, quiet, json),
        None => train(&cli.train),
    })
}

/// Completions, which know the presets, or the manual page.
fn print_generated(kind: generate::Kind) -> Result<()> {
    let presets: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
    let command = with_values(Cli::command(), "preset", &presets);
    let command = command.mut_subcommand("presets", |command| with_values(command, "name", &presets));
    print_line(generated(kind, command, &manual::MANUAL)?.trim_end())
}

/// What people should begin with.
const BEGIN: &str =
    "To begin with, none: `gan-train --data FOLDER --out RUN` chooses by the images, and says what. Else --preset NAME:\n";

fn presets(name: Option<&str>, all_keys: bool) -> Result<()> {
    match name {
        Some(name) if all_keys => print_line(config::with_all_keys(name)?.trim_end()),
        Some(name) => print_line(TrainConfig::preset(name)?.to_toml()?.trim_end()),
        None => {
            print_line(BEGIN)?;
            let width = PRESETS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            PRESETS.iter().try_for_each(|(name, _)| print_line(&format!("{name:width$}  {}", TrainConfig::preset(name)?.about)))
        }
    }
}

fn describe_data(sources: &[String], size: u16, channels: u8, quiet: bool, json: bool) -> Result<()> {
    if !matches!(channels, 1 | 3) {
        return Err(Error::usage(format!("--channels {channels}"), "Use 1 (grey) or 3 (RGB)."));
    }
    // The value range plays no part: pixels stay bytes.
    let (size, channels) = (usize::from(size), usize::from(channels));
    let data = data::load(sources, &DataConfig::plain(sources, size, channels), &Console::new(quiet))?;
    if json {
        let mut told = data.report.to_json();
        told["name"] = json!(data.name);
        told["sha256"] = json!(data.sha256);
        told["as_used"] = json!({ "size": size, "channels": channels });
        return print_line(&told.to_string());
    }
    let classes = Some(data.report.classes_text()).filter(|text| !text.is_empty()).map(|text| format!("\n{text}"));
    let hash = format!("sha256 {} of the pixels at {size}×{size}, {channels} channels", data.sha256);
    print_line(&format!("{}: {}{}\n{hash}", on_one_line(&data.name), data.report, classes.unwrap_or_default()))
}

fn report(run: &Path, paths: bool) -> Result<()> {
    let folder = RunFolder::open(run)?;
    train::report::rewrite(&folder, if paths { Paths::Shown } else { Paths::Hidden })?;
    print_line(&text::path(&folder.report_file()))
}

fn train(args: &TrainArgs) -> Result<()> {
    let console = Console::new(args.quiet);
    // Locked before anything of it is read that decides how it goes on.
    let resumed = args.resume.as_deref().map(RunFolder::resume).transpose()?;
    let device = device(&args.device, &console)?;
    let given = match &resumed {
        Some(folder) => Some(resumed_config(args, folder)?),
        None => new_config(args)?,
    };
    let Begun { config, data, chosen } = match given {
        Some(config) => Begun { config, data: None, chosen: None },
        None => chosen_config(args, &device, &console)?,
    };
    let set = overrides(args).keys();
    check_precision(&device, config.schedule.precision)?;
    let out = args.resume.as_ref().or(args.out.as_ref());
    let Some(out) = out.filter(|_| !args.dry_run) else {
        return dry_run(&config, data, &device, &console);
    };
    if resumed.is_none() {
        RunFolder::check_new(out, &config)?;
        train::import_weights::check(&config)?;
    }
    announce_export(&console);
    let data = as_configured(data, &config, &console)?;
    console.say(&format!("{}: {}", on_one_line(&data.name), data.report));
    if device.is_cpu() {
        config.check_memory(data.len)?;
    }
    let has_bf16 = device.is_cpu() && check_precision(&device, Precision::Bf16).is_ok();
    let precision = match config.schedule.precision {
        Precision::F32 if has_bf16 => " in f32 (faster here: --precision bf16)".to_string(),
        Precision::F32 => String::new(),
        Precision::Bf16 if device.is_cpu() && has_amx() => " in bf16 with AMX".to_string(),
        other => format!(" in {}", other.name()),
    };
    let DataConfig { size, channels, .. } = config.data;
    if let Some(misfit) = data.report.misfit(size, channels).filter(|_| resumed.is_none()) {
        let otherwise = match chosen {
            Some(_) if args.size.is_none() => "",
            _ => ". Without --preset, --config and --size a system is chosen that suits them",
        };
        console.say(&format!("warning: {misfit}{otherwise}"));
    }
    let images = format!("{size}×{size} {}", if channels == 1 { "grey" } else { "colour" });
    console.say(&format!(
        "{} of {images} on {}{precision}, into {}",
        on_one_line(&config.preset),
        device_name(&device),
        text::path(out)
    ));
    let folder = match resumed {
        Some(folder) => folder,
        None => RunFolder::create(out, &config)?,
    };

    let stop = stop_flag(&console, "the step at hand is finished, then the run is saved and exported")?;
    let judge = judge(&config, &data, &console);
    let judge = judge.as_ref().map(|judge| judge as &dyn train::Judge);
    let (progress, stop) = (&console, &stop);
    let job = TrainingJob { config: &config, data: &data, device: &device, folder: &folder, progress, stop, judge, set: &set };
    let outcome = train::train(&job)?;
    if outcome.seconds > 0.0 {
        let captured = match outcome.captured_rounds {
            0 => String::new(),
            1 => ", one round of steps as a CUDA graph".to_string(),
            rounds => format!(", {rounds} rounds of steps as CUDA graphs"),
        };
        console.say(&format!(
            "{} of {} steps, {} images, {:.0} images/s{captured}",
            outcome.step, outcome.total_steps, outcome.images, outcome.images_per_second
        ));
    }

    if let Some(verdict) = outcome.verdict.as_ref().filter(|_| outcome.best.is_none()) {
        let none = format!("no checkpoint in {} is from before", text::path(&folder.checkpoints()));
        return Err(Error::Unhealthy(format!("{verdict}, and {none}. {} {KEYS}", verdict.advice())));
    }
    let trained = train::load_trained(&folder, None, Which::Best)?;
    let (onnx, step) = (folder.onnx_file(), trained.state.step);
    let promised = ganforge::export::contract_of(&trained, Layout::NhwcU8);
    let agreement = match exported_otherwise(&onnx, &promised) {
        Some(true) if outcome.seconds == 0.0 => {
            console.say(&format!("{}, of step {step}, stays as it was exported", text::path(&onnx)));
            None
        }
        earlier => {
            if earlier.is_some() {
                let again = format!("`gan-train export {}` with the same flags makes one of these weights", text::path(out));
                console.say(&format!("note: this replaces {}, which was exported in another form; {again}", text::path(&onnx)));
            }
            let agreement = ganforge::export::export(&trained, Layout::NhwcU8, Dtype::F32, &onnx).map_err(|error| {
                let hint = format!("Training is saved. Export it later with: gan-train export {}", text::path(out));
                Error::Runtime(format!("{error}\n{hint}"))
            })?;
            console.say(&format!("exported {} from step {step} ({:.1e} from candle)", text::path(&onnx), agreement.values));
            Some(agreement)
        }
    };
    if args.json {
        let (run, onnx) = (out.to_string_lossy(), onnx.to_string_lossy());
        let summary = json!({ "run": run, "chosen": chosen, "onnx": onnx, "outcome": outcome, "agreement": agreement });
        print_line(&summary.to_string())?;
    }
    if let Some(verdict) = &outcome.verdict {
        let kept = trained.state.step;
        let kept = format!("The checkpoint of step {kept}, the best, is kept and exported.");
        let anyway = format!("To go on all the same: gan-train --resume {} --set watch.stop=false", text::path(out));
        return Err(Error::Unhealthy(format!("{verdict}. {kept} {} {KEYS} {anyway}", verdict.advice())));
    }
    if outcome.step < outcome.total_steps {
        let at = match trained.state.step == outcome.step {
            true => format!("saved and exported at step {} of {}", outcome.step, outcome.total_steps),
            false => format!(
                "saved at step {} of {}; exported the best, of step {}",
                outcome.step, outcome.total_steps, trained.state.step
            ),
        };
        return Err(Error::Interrupted(format!("{at}. Go on with: gan-train --resume {}", text::path(out))));
    }
    Ok(())
}

/// Of a generator that someone has exported in fewer bits, another layout or with the other weights than a training does: whether it is
/// of the step and run that are promised. None where it is as a training exports it, damaged, or not there.
fn exported_otherwise(onnx: &Path, promised: &Contract) -> Option<bool> {
    let file = FileFacts::read(onnx).ok()?;
    let contract = file.contract()?;
    let plain = contract.cost.is_none()
        && (contract.layout, contract.weights) == (promised.layout, promised.weights)
        && file.precision() == infer::Precision::F32;
    let same = Contract { layout: promised.layout, weights: promised.weights, cost: None, batch: None, ..contract.clone() };
    (!plain).then(|| same == *promised)
}

/// Who measures during this run which checkpoint is the best, if anybody does.
fn judge(config: &TrainConfig, data: &Dataset, console: &Console) -> Option<FrechetJudge> {
    FrechetJudge::of_run(config, data).unwrap_or_else(|error| {
        console.say(&format!("nobody measures which checkpoint is the best; the last healthy one will count as it: {error}"));
        None
    })
}

/// How the keys of a config are set that an advice names.
const KEYS: &str = "(Set a key of the config with --set KEY=VALUE.)";

/// Says before hours of training whether their result can be exported here.
fn announce_export(console: &Console) {
    match runtime::locate() {
        Ok(found) => {
            console.say(&format!("will verify the export with onnxruntime {} ({})", found.version, text::path(&found.path)))
        }
        Err(error) => console
            .say(&format!("warning: this run will train, but not export its generator until there is an onnxruntime: {error}")),
    }
}

/// The table of a preset or a config file, for another size or width if these are given; and its name.
fn base_table(
    preset: Option<&str>,
    config: Option<&Path>,
    size: Option<usize>,
    width: Option<f64>,
) -> Result<Option<(Table, String)>> {
    let (table, place) = match (preset, config) {
        (Some(name), _) => (config::preset_table(name)?, name.to_string()),
        (None, Some(path)) => {
            let text = String::from_utf8_lossy(&files::read(path, files::TEXT)?).into_owned();
            let place = text::path(path);
            (config::parse_table(&text, &place)?, place)
        }
        (None, None) => return Ok(None),
    };
    Ok(Some((config::resized(table, &place, size, width)?, place)))
}

/// What a training begins with.
struct Begun {
    config: TrainConfig,
    /// The images, where they were looked at for the config.
    data: Option<Dataset>,
    /// What was chosen by them, and why, in a line.
    chosen: Option<String>,
}

/// Where no config is named: the one that suits the images, with what the flags change of it.
fn chosen_config(args: &TrainArgs, device: &Device, console: &Console) -> Result<Begun> {
    if args.data.is_empty() {
        return Err(no_data());
    }
    check_out(args)?;
    if let Some(size) = args.size.filter(|size| !config::SIZES.contains(size)) {
        return Err(Error::usage(format!("size {size}"), "Choose 32, 64 or 128 pixels."));
    }
    // In the form that will most likely be chosen, so that they need not be read again.
    let all = |is: fn(&str) -> bool| args.data.iter().all(|source| is(source));
    let [size, channels] = match (all(data::is_idx), all(data::is_grey)) {
        (true, true) => [args.size.unwrap_or(28), 1],
        (true, false) => [args.size.unwrap_or(28), 3],
        (false, _) => [args.size.unwrap_or(64), 3],
    };
    let data = data::load(&args.data[..], &DataConfig::plain(&args.data[..], size, channels), console)?;
    let precision = match device.is_cuda() {
        true => Precision::Tf32,
        false if check_precision(device, Precision::Bf16).is_ok() => Precision::Bf16,
        false => Precision::F32,
    };
    let facts = config::Facts::of(&data.report, device.is_cuda(), precision);
    let config = with_flags(args, facts.choose(args.size, args.width)?, "what was chosen for the images")?;
    let chosen = facts.told(&config);
    console
        .say(&format!("chosen: {chosen}. Otherwise: --preset NAME (`gan-train presets` lists them), --size, --set KEY=VALUE"));
    Ok(Begun { config, data: Some(data), chosen: Some(chosen) })
}

/// The images in the form that the config asks for: those that are there, or read.
fn as_configured(data: Option<Dataset>, config: &TrainConfig, console: &Console) -> Result<Dataset> {
    let DataConfig { source, size, channels, classes, .. } = &config.data;
    let found = data.as_ref().map(|data| data.len);
    if let Some(data) = data.filter(|data| [data.size, data.channels, 0] == [*size, *channels, *classes]) {
        return Ok(data);
    }
    let data = data::load(source, &config.data, console)?;
    match found.filter(|found| *found != data.len) {
        None => Ok(data),
        Some(found) => Err(Error::usage(
            format!("the images changed while they were read: first there were {found}, then {}", data.len),
            "Begin again once nothing is written there any more.",
        )),
    }
}

/// The config that the flags name, if they name one.
fn new_config(args: &TrainArgs) -> Result<Option<TrainConfig>> {
    let base = base_table(args.preset.as_deref(), args.config.as_deref(), args.size, args.width)?;
    let Some((table, place)) = base else { return Ok(None) };
    let config = with_flags(args, table, &place)?;
    if config.data.source.is_empty() { Err(no_data()) } else { Ok(Some(config)) }
}

fn no_data() -> Error {
    Error::usage(
        "--data is missing",
        "Name a folder or zip of images, an IDX, npy, npz or tar file, or mnist, fashion-mnist, stacked-mnist, synthetic.",
    )
}

fn check_out(args: &TrainArgs) -> Result<()> {
    if args.out.is_none() && !args.dry_run {
        return Err(Error::usage("--out is missing", "Name a new folder for the run, for example --out runs/first."));
    }
    Ok(())
}

/// The config of a table with what the flags change of it; `place` names the table.
fn with_flags(args: &TrainArgs, mut table: Table, place: &str) -> Result<TrainConfig> {
    let begun_well = TrainConfig::from_table(table.clone(), place).is_ok();
    overrides(args).apply(&mut table)?;
    check_out(args)?;
    TrainConfig::from_table(table, place).map_err(|error| match error {
        // Sound before the flags, and not after: the call is wrong, not the file.
        Error::Invalid { what, hint, .. } if begun_well => Error::usage(format!("the flags do not fit {place}: {what}"), hint),
        other => other,
    })
}

/// A run's config, with what the flags change of it; the training compares it with what its checkpoint was made with.
fn resumed_config(args: &TrainArgs, folder: &RunFolder) -> Result<TrainConfig> {
    let changed = [
        ("--batch-size", args.batch_size.is_some(), "--set schedule.batch_size=N"),
        ("--lr", args.lr.is_some(), "--set optimizer.generator.lr=X --set optimizer.critic.lr=X"),
        ("--seed", args.seed.is_some(), "--set seed=N"),
    ];
    if let Some((flag, _, set)) = changed.iter().find(|(_, given, _)| *given) {
        let what = format!("{flag} is for a new run; --resume goes on with the run's own");
        return Err(Error::usage(what, format!("Leave it out, or change it on purpose with {set}.")));
    }
    let place = text::path(&folder.config_file());
    let mut table = config::parse_table(&folder.config()?.to_toml()?, &place)?;
    overrides(args).apply(&mut table)?;
    TrainConfig::from_table(table, &place).map_err(|error| match error {
        // The run's own config passed: the call is wrong, not the file.
        Error::Invalid { what, hint, .. } => Error::usage(format!("the flags do not fit {place}: {what}"), hint),
        other => other,
    })
}

/// What the flags change of a config.
fn overrides(args: &TrainArgs) -> Overrides {
    let spans = [args.epochs.map(Span::Epochs), args.steps.map(Span::Steps), args.images.map(Span::Images)];
    Overrides {
        set: args.set.clone(),
        length: spans.into_iter().flatten().next(),
        batch_size: args.batch_size,
        precision: args.precision,
        seed: args.seed,
        lr: args.lr,
        checkpoint_every: args.checkpoint_every.map(Span::Steps),
        sample_every: args.sample_every.map(Span::Steps),
        init_from: args.init_from.clone(),
        data: args.data.clone(),
    }
}

fn dry_run(config: &TrainConfig, data: Option<Dataset>, device: &Device, console: &Console) -> Result<()> {
    let data = as_configured(data, config, console)?;
    let mut config = config.clone();
    config.name_classes(&data);
    let config = &config;
    if device.is_cpu() {
        config.check_memory(0)?; // the networks are built, but no batch goes through them
    }
    let batches = train::Batches::new(&data, config, device)?;
    train::import_weights::check(config)?;
    let generator = train::generator_network(config, device, candle_core::DType::F32)?;
    let critic = train::critic_network(config, device, candle_core::DType::F32)?;
    print_line(config.to_toml()?.trim_end())?;
    print_line(&format!(
        "\n# {}: {}\n# generator {} parameters, critic {}; {} steps on {}",
        on_one_line(&data.name),
        data.report.to_string().replace('\n', "\n# "),
        generator.trainable_count(),
        critic.trainable_count(),
        config.schedule.length.in_steps(&config.schedule, batches.len()),
        device_name(device),
    ))
}

/// The device asked for, never another. `auto` is CUDA in a build that has it, if it works; else the CPU, which it says.
fn device(name: &str, console: &Console) -> Result<Device> {
    let cuda = |index: usize| {
        open_cuda(index).map_err(|e| {
            let hint = if cfg!(feature = "cuda") {
                "Check nvidia-smi, or use --device cpu."
            } else {
                "This gan-train was built without CUDA: build it with --features cuda, or use --device cpu."
            };
            Error::usage(format!("--device {name}: {e}"), hint)
        })
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" if cfg!(feature = "cuda") => Ok(cuda(0).unwrap_or_else(|error| {
            console.say(&format!("training on the CPU, for CUDA does not work here: {error}"));
            Device::Cpu
        })),
        "auto" => Ok(Device::Cpu),
        "cuda" => cuda(0),
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index),
            None => Err(Error::usage(format!("--device {name} is not known"), "Use auto, cpu, cuda or cuda:INDEX.")),
        },
    }
}

fn device_name(device: &Device) -> &'static str {
    if device.is_cuda() { "CUDA" } else { "the CPU" }
}
