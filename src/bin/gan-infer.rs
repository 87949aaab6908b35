//! Makes images with an exported generator.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::{Args, Parser, Subcommand};
use ganforge::cli::{self, Console, print_line};
use ganforge::contract::CHECKSUM_KEY;
use ganforge::error::{Error, Result};
use ganforge::image::Range;
use ganforge::infer::generator::MAX_BATCH;
use ganforge::infer::{Format, Generator, Job, Options, Plan, Provider, builtin, pipeline, runtime};
use ganforge::progress::Progress;
use serde_json::{Value, json};

/// Make images with a GAN's generator (ONNX), on any machine.
///
/// Image number I of a seed is always the same image: `--start 40 --n 60` makes the last 60 of what `--n 100` makes.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(flatten)]
    sample: Sample,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Sample {
    /// How many images
    #[arg(long, required = true, value_parser = clap::value_parser!(u64).range(1..))]
    n: Option<u64>,
    /// The folder to write to, created if need be; for npy and grid also a file name ending in .npy or .png
    #[arg(long, required = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The first image's number
    #[arg(long, value_name = "K", default_value_t = 0)]
    start: u64,
    /// Another seed gives other images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// PNG files, one NumPy file (uint8, [n, height, width, channels]) or one contact sheet
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    open: Open,
    /// Parallel sessions [default: one a core, on CUDA one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
    /// Print errors only
    #[arg(long)]
    quiet: bool,
    /// Print a machine-readable summary on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Open {
    /// A built-in generator or an ONNX file [default: the first of `gan-infer models`]
    #[arg(long, value_name = "NAME|F.onnx")]
    model: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// auto (CUDA if it works, else the CPU), cpu, cuda or cuda:INDEX
    #[arg(long, default_value_t)]
    provider: Provider,
    /// Images a run [default: 8, or what the model fixes]; another batch size may change pixels by 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH as i64))]
    batch: Option<u16>,
    /// The value range of a float output, for a model that does not say it
    #[arg(long, value_enum)]
    range: Option<Range>,
}

#[derive(Subcommand)]
enum Command {
    /// What a model is and promises, and what would run it
    Info {
        /// A built-in generator or an ONNX file [default: the first of `gan-infer models`]
        model: Option<String>,
        #[command(flatten)]
        how: How,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The built-in generators
    Models {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Which onnxruntime is in use; or install one
    Runtime {
        #[command(subcommand)]
        action: Option<RuntimeAction>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum RuntimeAction {
    /// Fetch onnxruntime with pip into the user's data folder (GANFORGE_HOME moves it)
    Install {
        /// With CUDA for NVIDIA GPUs, some gigabytes
        #[arg(long)]
        cuda: bool,
    },
}

fn main() -> ExitCode {
    let Cli { sample, command } = Cli::parse();
    cli::finish(match command {
        None => make(sample),
        Some(Command::Info { model, how, json }) => info(model.as_deref(), &how, json),
        Some(Command::Models { json }) => models(json),
        Some(Command::Runtime { action: None, json }) => show_runtime(json),
        Some(Command::Runtime { action: Some(RuntimeAction::Install { cuda }), json }) => install(cuda, json),
    })
}

fn make(sample: Sample) -> Result<()> {
    let Sample { n: Some(n), out: Some(out), start, seed, format, open, threads, force, quiet, json } = sample else {
        return Err(Error::usage("--n and --out are missing", "Say how many images, and where to."));
    };
    let console = Console::new(quiet);
    let stop = cli::stop_flag()?;
    let plan = Plan::new(format, &out, start, n, force)?;
    let generator = builtin::open(open.model.as_deref(), &open.how.options())?;
    let library = runtime::load()?;
    for note in generator.notes() {
        console.say(note);
    }
    console.say(&format!(
        "{} on {} with onnxruntime {}, seed {seed}, images {start} to {}",
        generator.name(),
        generator.provider(),
        library.version,
        start + (n - 1)
    ));
    // On a GPU every further session takes memory and no further core: one by default.
    let cores = || match generator.provider() {
        Provider::Cuda(_) => 1,
        _ => thread::available_parallelism().map_or(1, usize::from),
    };
    let threads = threads.map_or_else(cores, usize::from);
    let done = pipeline::run(&generator, &Job { seed, threads }, &plan, &console, &stop)?;
    let rate = done.images as f64 / done.seconds;
    console.say(&format!("{} images in {:.1} s ({rate:.0} img/s) → {}", done.images, done.seconds, done.out.display()));
    if json {
        return print_json(&json!({
            "count": done.images,
            "seconds": done.seconds,
            "images_per_second": rate,
            "model": generator.name(),
            "provider": generator.provider().to_string(),
            "onnxruntime": library.version,
            "seed": seed,
            "start": start,
            "batch": generator.batch(),
            "threads": threads,
            "format": format.name(),
            "out": done.out,
        }));
    }
    Ok(())
}

impl How {
    fn options(&self) -> Options {
        Options { provider: self.provider, batch: self.batch.map(usize::from), range: self.range }
    }
}

fn info(model: Option<&str>, how: &How, json: bool) -> Result<()> {
    let generator = builtin::open(model, &how.options())?;
    let mut facts = facts(&generator);
    facts.extend(runtime_facts()?);
    for note in generator.notes() {
        facts.push(("note".into(), json!(note)));
    }
    print_facts(facts, json)
}

fn facts(generator: &Generator) -> Vec<(String, Value)> {
    let [height, width, channels] = generator.image_shape();
    let mut facts: Vec<(String, Value)> = [
        ("model", json!(generator.name())),
        ("input", json!(generator.input())),
        ("output", json!(generator.output())),
        ("height", json!(height)),
        ("width", json!(width)),
        ("channels", json!(channels)),
        ("latent.size", json!(generator.latent().size)),
        ("latent.law", json!(generator.latent().law.name())),
        ("range", json!(generator.range().map(Range::name))),
        ("batch", json!(generator.batch())),
        ("provider", json!(generator.provider().to_string())),
        ("contract", json!(generator.contract().is_some())),
        // Opening checks it, and refuses a file with a contract but without a checksum.
        ("checksum", json!(if generator.contract().is_some() { "ok" } else { "none" })),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    for (key, value) in generator.contract().iter().flat_map(|contract| contract.to_metadata()) {
        let own = key.strip_prefix("ganforge.").filter(|_| key != CHECKSUM_KEY);
        if let Some(key) = own.filter(|key| facts.iter().all(|(known, _)| known != key)) {
            facts.push((key.to_string(), json!(value)));
        }
    }
    facts
}

fn runtime_facts() -> Result<Vec<(String, Value)>> {
    let library = runtime::load()?;
    let providers = if runtime::offers_cuda()? { json!(["cpu", "cuda"]) } else { json!(["cpu"]) };
    let facts = [
        ("onnxruntime", json!(library.version)),
        ("onnxruntime.path", json!(library.path)),
        ("onnxruntime.found", json!(library.how.to_string())),
        ("onnxruntime.providers", providers),
    ];
    Ok(facts.map(|(key, value)| (key.to_string(), value)).into())
}

fn models(json: bool) -> Result<()> {
    if json {
        let all = builtin::BUILTIN.iter();
        return print_json(&all.map(|known| json!({ "name": known.name, "about": known.about })).collect());
    }
    for known in builtin::BUILTIN {
        print_line(&format!("{:12} {}", known.name, known.about))?;
    }
    if builtin::BUILTIN.is_empty() {
        print_line("this build has no built-in generators; name a file with --model")?;
    }
    Ok(())
}

fn show_runtime(json: bool) -> Result<()> {
    print_facts(runtime_facts()?, json)
}

fn install(cuda: bool, json: bool) -> Result<()> {
    let path = runtime::install(cuda, &Console::new(json))?;
    if json { print_json(&json!({ "installed": path })) } else { print_line(&format!("installed {}", path.display())) }
}

fn print_facts(facts: Vec<(String, Value)>, json: bool) -> Result<()> {
    if json {
        return print_json(&facts.into_iter().collect());
    }
    for (key, value) in facts {
        let text = match value {
            Value::String(text) => text,
            Value::Null => format!("unknown; say it with --{key}"),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        print_line(&format!("{key:22} {text}"))?;
    }
    Ok(())
}

fn print_json(value: &Value) -> Result<()> {
    print_line(&value.to_string())
}
