//! Makes images with an exported generator.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use ganforge::cli::generate::{self, generated};
use ganforge::cli::{self, Console, print_line};
use ganforge::contract::{CHECKSUM_KEY, Contract, Cost};
use ganforge::error::{Error, Result};
use ganforge::image;
use ganforge::infer::generator::MAX_BATCH;
use ganforge::infer::{
    Assigned, Class, Conditioning, Existing, FileFacts, Format, Generator, Options, Package, Page, Precision, Provider,
    SamplingJob, SeedList, Selection, Shard, Target, WebRuntime, bench, builtin, page, runtime,
};
use ganforge::progress::Progress;
use ganforge::text::{self, on_one_line};
use serde_json::{Value, json};

#[path = "gan-infer/manual.rs"]
mod manual;
#[path = "gan-infer/merge.rs"]
mod merge;

/// Make images with a GAN's generator (ONNX), on any machine.
///
/// Image number I of a seed is always the same image: `--start 40 --n 60` makes the last 60 of what `--n 100` makes.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(flatten)]
    sample: Sample,
    /// Tell on stderr where onnxruntime is looked for, and each library that is opened
    #[arg(long, global = true)]
    verbose: bool,
    /// Print shell completions, or the manual page: --generate man | man -l -
    #[arg(long, value_name = "KIND", exclusive = true)]
    generate: Option<generate::Kind>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct Sample {
    /// How many images
    #[arg(short, long, required_unless_present = "seeds", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    n: Option<u64>,
    /// The folder to write to, created if need be; or a file that ends in .npy, .npz, .png (a contact sheet) or .tar; or - for stdout, as
    /// npy, tar or grid
    #[arg(short, long, required = true, value_name = "DIR|FILE|-")]
    out: Option<PathBuf>,
    /// The first image's number
    #[arg(long, value_name = "K", default_value_t = 0)]
    start: u64,
    /// Another seed gives other images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One image of each of these seeds, named by its seed: 0-99,7 (--start says which image; 0 by default)
    #[arg(long, value_name = "LIST", conflicts_with_all = ["n", "seed"])]
    seeds: Option<SeedList>,
    /// PNG files, one NumPy file (uint8, [n, height, width, channels]), the same in an npz file (arr_0), WebDataset tar
    /// files, or one contact sheet [default: what the ending of --out says, else png]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Draw latents from the part of their distribution within ±X: fewer odd images, less variety
    #[arg(long, value_name = "X")]
    truncation: Option<f64>,
    /// Images of this class only, by its name or its number from 0, of a generator that was trained with data.classes
    #[arg(long, value_name = "NAME|K")]
    class: Option<String>,
    /// The I-th of N parts, 1/N to N/N; all together are the whole, and `gan-infer merge` joins them. auto: as the environment says, by
    /// Slurm (SLURM_ARRAY_TASK_ID, or SLURM_PROCID and SLURM_NTASKS of srun, or both), Kubernetes (JOB_COMPLETION_INDEX and JOB_COMPLETIONS)
    /// or torchrun (RANK and WORLD_SIZE)
    #[arg(long, value_name = "I/N|auto")]
    shard: Option<Part>,
    #[command(flatten)]
    open: Open,
    /// Parallel sessions [default: one a core, on GPUs two or four]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Go on with the same call's job where it was interrupted
    #[arg(long, conflicts_with = "force")]
    resume: bool,
    /// Replace what is in the way: jobs whose images have these names, with all of their files
    #[arg(long)]
    force: bool,
    /// Print errors only
    #[arg(long)]
    quiet: bool,
    /// Print a machine-readable summary on stdout
    #[arg(long)]
    json: bool,
}

/// What `--shard` says.
#[derive(Debug, Clone, Copy)]
enum Part {
    Of(Shard),
    Auto,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Of).map_err(|e: String| format!("{e}; or auto")),
        }
    }
}

#[derive(Args)]
struct Open {
    /// A built-in generator, an ONNX file, or a training run's folder [default: the first of `gan-infer models`]
    #[arg(long, value_name = "NAME|F.onnx|RUN")]
    model: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// auto (CUDA if it works, else the CPU), cpu, cuda, tensorrt (float16, for NVIDIA's GPUs), openvino (for Intel's) or coreml (for
    /// Apple's); a device stands behind a colon: cuda:1, tensorrt:1, openvino:GPU.0
    #[arg(long, value_name = "PROVIDER", default_value_t)]
    provider: Provider,
    /// What to compute with: auto (the fastest there is: of built-in generators int8 on the CPU, TF32 on CUDA), f32, f16 or int8
    #[arg(long, default_value_t)]
    precision: Precision,
    /// Images a run [default: what the model fixes; else 32, or fewer where its file asks for that, without convolutions 128, on CUDA
    /// and TensorRT 512]; another batch size may change pixels by 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH as i64))]
    batch: Option<u16>,
    /// The value range of a float output, for a model that does not say it
    #[arg(long, value_enum)]
    range: Option<image::Range>,
    /// Let CUDA round to TF32: faster, other pixels
    #[arg(long)]
    tf32: bool,
    /// How long a model may take to load and to run once; 0 for no limit [default: 120, with TensorRT 900]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32))]
    load_timeout: Option<u32>,
    /// How much memory the latents of a batch may take, and its images as the network gives them [default: 4]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u16).range(1..))]
    batch_memory: Option<u16>,
}

#[derive(Subcommand)]
enum Command {
    /// What a model is and promises, and what would run it
    ///
    /// Of a file in fewer bits `cost` says what they cost: `psnr` is how near its images are to those in f32, in decibels; `frechet` is their
    /// Fréchet distance to the images that `reference` names, and `frechet_f32` that of f32. Without a `reference`, `frechet` is the distance to the
    /// images in f32, and `frechet_f32` the variance of the features of those. `loss` is by which part the distance to the reference grew; without
    /// one, `frechet` as a part of a fiftieth of that variance.
    Info {
        /// A built-in generator, an ONNX file, or a training run's folder [default: the first of `gan-infer models`]
        model: Option<String>,
        #[command(flatten)]
        how: How,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// How fast a model makes images here: over batch sizes and sessions, stage by stage, and what bounds the whole
    Bench {
        /// A built-in generator, an ONNX file, or a training run's folder [default: the first of `gan-infer models`]
        model: Option<String>,
        #[command(flatten)]
        how: How,
        /// Batch sizes to try [default: 1 to 256, on CUDA and TensorRT 64 to 1024]
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=MAX_BATCH as i64))]
        batches: Vec<u16>,
        /// Numbers of sessions to try [default: 1, and what the program chooses: one a core, on GPUs two or four]
        #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
        threads: Vec<u16>,
        /// Seconds a measurement; each is made three times
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        seconds: f64,
        /// Where to write files and delete them again
        #[arg(long, value_name = "DIR", default_value = ".")]
        scratch: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a page on which visitors make images, each in his own browser: a folder for any web server
    ///
    /// The generator runs in the browser with onnxruntime-web, which is not part of this program: let npm fetch it, or name its folder.
    /// Image number I of a seed is the one that `gan-infer` makes.
    Page(WebPage),
    /// Join the shards of a job to what one call makes, file and manifest, byte for byte; killed, the same call goes on
    Merge {
        #[command(flatten)]
        flags: merge::Flags,
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

#[derive(Args)]
struct WebPage {
    /// A built-in generator, an ONNX file, or a training run's folder [default: the first of `gan-infer models`]
    model: Option<String>,
    /// The folder to write to, created if need be
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    runtime: WebRuntimeSource,
    /// Let visitors choose WebGPU, too: 27 MB more, of which browsers load what they use; of built-in generators in f32
    #[arg(long)]
    webgpu: bool,
    /// What the page calls the generator [default: its name, or that of the run or the file]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// What to compute with: auto (of built-in generators int8), f32, f16 or int8
    #[arg(long, default_value_t)]
    precision: Precision,
    /// The value range of a float output, for a model that does not say it
    #[arg(long, value_enum)]
    range: Option<image::Range>,
    /// How long a model may take to load and to run once; 0 for no limit [default: 120]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32))]
    load_timeout: Option<u32>,
    /// Write into a folder that is not empty: files of a page are replaced, others stay
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
#[group(required = true, multiple = false)]
struct WebRuntimeSource {
    /// Let npm fetch onnxruntime-web, by its checksum
    #[arg(long)]
    npm: bool,
    /// Take onnxruntime-web from this folder: the package as npm unpacks it, or its dist
    #[arg(long, value_name = "DIR")]
    onnxruntime_web: Option<PathBuf>,
}

#[derive(Subcommand)]
enum RuntimeAction {
    /// Fetch onnxruntime with pip into the user's data folder (GANFORGE_HOME moves it)
    Install {
        /// With CUDA for NVIDIA GPUs, some gigabytes
        #[arg(long)]
        cuda: bool,
        /// With OpenVINO for Intel's CPUs and GPUs, a quarter of a gigabyte; instead of CUDA
        #[arg(long, conflicts_with = "cuda")]
        openvino: bool,
    },
}

fn main() -> ExitCode {
    // SAFETY: the first thing main does; there is no other thread yet.
    unsafe { runtime::disable_telemetry() };
    // SAFETY: as above.
    unsafe { cli::outlive_file_limits() };
    let Cli { sample, verbose, generate, command } = cli::parsed();
    if let Some(kind) = generate {
        return cli::finish(generated(kind, Cli::command(), &manual::MANUAL).and_then(|text| print_line(text.trim_end())));
    }
    if verbose {
        runtime::listen(cli::error_line);
    }
    cli::finish(match command {
        None => make(sample),
        Some(Command::Info { model, how, json }) => info(model.as_deref(), &how, json),
        Some(Command::Bench { model, how, batches, threads, seconds, scratch, json }) => {
            measure(model.as_deref(), &how, [&batches, &threads], seconds, &scratch, json)
        }
        Some(Command::Page(page)) => web_page(page),
        Some(Command::Merge { flags }) => merge::merge(&flags),
        Some(Command::Models { json }) => models(json),
        Some(Command::Runtime { action: None, json }) => show_runtime(json),
        Some(Command::Runtime { action: Some(RuntimeAction::Install { cuda, openvino }), json }) => {
            install(package(cuda, openvino), json)
        }
    })
}

fn make(sample: Sample) -> Result<()> {
    let console = Console::new(sample.quiet);
    let shard = sample.shard(&console)?;
    let target = sample.target(shard)?;
    let generator = open(sample.open.model.as_deref(), &sample.open.how.options(), &console)?;
    // Only from here on is anything made that must be left whole: until then one Ctrl-C ends the program, whatever a model does.
    let stop = cli::stop_flag(&console, "the batches at hand are finished, and what is whole stays")?;
    let library = runtime::load()?;
    let mut conditioning = Conditioning::default();
    conditioning.truncation = sample.truncation.map(|x| generator.truncation(x)).transpose()?;
    conditioning.class = sample.class.as_deref().map(|class| generator.class(class)).transpose()?;
    for note in generator.notes() {
        console.say(note);
    }
    if let Some(warning) = conditioning.truncation.and_then(|truncation| truncation.warning(generator.latent().distribution)) {
        console.say(&format!("warning: {warning}"));
    }
    let places = target.places()?;
    let count = places.end - places.start;
    let what = match target.selection() {
        Selection::Numbers { seed, .. } => format!("seed {seed}, images {}", range_text(&places)),
        Selection::Seeds { number, .. } => format!("image {number} of {} seeds", count),
    };
    console.say(&format!(
        "{} in {} on {} with onnxruntime {}, {what}",
        generator.name(),
        generator.precision(),
        generator.provider(),
        library.version
    ));
    let best = SamplingJob::new(generator.provider());
    let job = best.threads(sample.threads.map_or(best.threads, usize::from)).conditioning(conditioning);
    let done = match target.make(&generator, &job, &console, &stop) {
        // The reader has gone away: it has what it wanted.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe && matches!(target, Target::Stdout { .. }) => {
            return Ok(());
        }
        done => done?,
    };
    let rate = done.images as f64 / done.seconds;
    let before = count - done.images;
    let earlier = if before > 0 { format!(", {before} were there") } else { String::new() };
    console.say(&format!(
        "{} images in {:.1} s ({rate:.0} img/s){earlier} → {}",
        done.images,
        done.seconds,
        text::path(&done.out)
    ));
    if sample.json {
        let class_name = conditioning.class.and_then(|class| class_names(&generator).get(class.number()));
        return print_json(&json!({
            "count": count,
            "made": done.images,
            "seconds": done.seconds,
            "images_per_second": rate,
            "model": generator.name(),
            "provider": generator.provider().to_string(),
            "precision": generator.precision().name(),
            "onnxruntime": library.version,
            "seed": sample.seeds.is_none().then_some(sample.seed),
            "seeds": sample.seeds.map(|seeds| seeds.to_string()),
            "start": sample.start,
            "shard": shard.map(|shard| shard.to_string()),
            "truncation": sample.truncation,
            "class": conditioning.class.map(Class::number),
            "class_name": class_name,
            "batch": generator.batch(),
            "threads": job.threads,
            "format": target.format().name(),
            "out": done.out,
        }));
    }
    Ok(())
}

/// Opens what was named, and says which file of a run that is.
fn open(model: Option<&str>, options: &Options, console: &Console) -> Result<Generator> {
    if let Some(path) = model.map(builtin::of_run).transpose()?.flatten() {
        console.say(&format!("of this run: {}", text::path(&path)));
    }
    builtin::open(model, options)
}

/// `40 to 99`, or `none`.
fn range_text(places: &Range<u64>) -> String {
    match places {
        places if places.is_empty() => "none".to_string(),
        places => format!("{} to {}", places.start, places.end - 1),
    }
}

impl Sample {
    /// Which part this call makes, and if nobody but the environment says so, what in it does.
    fn shard(&self, console: &Console) -> Result<Option<Shard>> {
        match self.shard {
            None => Ok(None),
            Some(Part::Of(shard)) => Ok(Some(shard)),
            Some(Part::Auto) => {
                let Assigned { shard, by } = Shard::assigned(|name| std::env::var(name).ok())?;
                console.say(&format!("shard {shard}, by {by}"));
                Ok(Some(shard))
            }
        }
    }

    fn target(&self, shard: Option<Shard>) -> Result<Target> {
        let selection = match (&self.seeds, self.n) {
            (Some(seeds), _) => Selection::Seeds { seeds: seeds.clone(), number: self.start },
            (None, Some(n)) => Selection::Numbers { seed: self.seed, start: self.start, n },
            (None, None) => return Err(Error::usage("--n is missing", "Say how many images.")),
        };
        let existing = match (self.resume, self.force) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        };
        let out = self.out.as_deref().ok_or_else(|| Error::usage("--out is missing", "Say where to."))?;
        let target = Target::new(out, self.format, selection, shard, existing)?;
        if self.json && matches!(target, Target::Stdout { .. }) {
            return Err(Error::usage("--json and --out - both go to stdout", "Leave --json away."));
        }
        Ok(target)
    }
}

impl How {
    fn options(&self) -> Options {
        let mut options = Options::default().provider(self.provider).precision(self.precision).tf32(self.tf32);
        options.batch = self.batch.map(usize::from);
        options.range = self.range;
        options.load_timeout = self.load_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        options.batch_memory = self.batch_memory.map(|gib| u64::from(gib) << 30);
        options
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "expected a number from 0.01 to 3600".to_string())
}

fn measure(
    model: Option<&str>,
    how: &How,
    [batches, threads]: [&[u16]; 2],
    seconds: f64,
    scratch: &Path,
    json: bool,
) -> Result<()> {
    let options = how.options();
    let console = Console::new(json);
    let generator = open(model, &options, &console)?;
    let mut setup = bench::Setup::new(generator.provider(), seconds);
    let replace = |list: &mut Vec<usize>, with: &[u16]| {
        if !with.is_empty() {
            *list = with.iter().copied().map(usize::from).collect();
        }
    };
    replace(&mut setup.batches, batches);
    replace(&mut setup.threads, threads);
    let others = match builtin::named(model)? {
        Some(known) if how.precision == Precision::Auto => known.others(&generator, &options)?,
        _ => Vec::new(),
    };
    let stop = cli::stop_flag(&console, "the batches at hand are finished, and the files of the measurement removed")?;
    let report = bench::run(&generator, &others, &options, &setup, scratch, &console, &stop)?;
    if json { print_json(&json!(report)) } else { print_line(report.to_string().trim_end()) }
}

fn web_page(asked: WebPage) -> Result<()> {
    let console = Console::new(asked.quiet || asked.json);
    let model = asked.model.as_deref();
    let mut options = Options::default().provider(Provider::Cpu).precision(asked.precision);
    options.range = asked.range;
    options.load_timeout = asked.load_timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let generator = open(model, &options, &console)?;
    // Whole numbers are for processors.
    let other = match builtin::named(model)? {
        Some(known) if asked.webgpu && generator.precision() == Precision::Int8 && asked.precision == Precision::Auto => {
            Some(known.open(&options.precision(Precision::F32))?)
        }
        _ => None,
    };
    let (name, about) = page::title(model)?;
    let page = Page {
        generator: &generator,
        webgpu: asked.webgpu.then_some(other.as_ref().unwrap_or(&generator)),
        title: asked.title.unwrap_or(name),
        about,
        runtime: asked.runtime.onnxruntime_web.map_or(WebRuntime::Npm, WebRuntime::Folder),
        overwrite: asked.force,
    };
    let written = page.write(&asked.out, &console)?;
    let (out, size) = (text::path(&asked.out), written.bytes as f64 / 1e6);
    console.say(&format!(
        "a page of {} in {}: {} files, {size:.1} MB → {out}",
        page.title,
        generator.precision(),
        written.files.len()
    ));
    console.say(&format!("look at it: python3 -m http.server --directory {out} 8000, then http://localhost:8000/"));
    if asked.json {
        return print_json(&json!({
            "out": asked.out,
            "files": written.files,
            "bytes": written.bytes,
            "model": generator.name(),
            "precision": generator.precision().name(),
            "webgpu": page.webgpu.map(|generator| generator.precision().name()),
        }));
    }
    Ok(())
}

fn info(model: Option<&str>, how: &How, json: bool) -> Result<()> {
    if let Err(Error::Runtime(why)) = runtime::load() {
        let mut facts = file_facts(&builtin::file_facts(model, how.precision)?);
        facts.push(("note".into(), json!(format!("only read, not run: {}", cli::in_flags(&why)))));
        return print_facts(facts, json);
    }
    let generator = open(model, &how.options(), &Console::new(json))?;
    let mut facts = facts(&generator);
    facts.extend(runtime_facts()?);
    for note in generator.notes() {
        facts.push(("note".into(), json!(cli::in_flags(note))));
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
        ("latent.law", json!(generator.latent().distribution.name())),
        ("range", json!(generator.range().map(image::Range::name))),
        ("batch", json!(generator.batch())),
        ("provider", json!(generator.provider().to_string())),
        ("precision", json!(generator.precision().name())),
        ("contract", json!(generator.contract().is_some())),
        // Opening checks it, and refuses a file with a contract but without a checksum.
        ("checksum", json!(if generator.contract().is_some() { "ok" } else { "none" })),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    extend(&mut facts, generator.contract());
    facts
}

/// What is known of a model that nothing has run.
fn file_facts(file: &FileFacts) -> Vec<(String, Value)> {
    let mut facts: Vec<(String, Value)> = [
        ("model", json!(file.name())),
        ("input", json!(file.inputs().join(", "))),
        ("output", json!(file.outputs().join(", "))),
        ("precision", json!(file.precision().name())),
        ("contract", json!(file.contract().is_some())),
        ("checksum", json!(if file.contract().is_some() { "ok" } else { "none" })),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into();
    extend(&mut facts, file.contract());
    facts
}

/// Adds what a file promises, but for what is known already.
fn extend(facts: &mut Vec<(String, Value)>, contract: Option<&Contract>) {
    for (key, value) in contract.iter().flat_map(|contract| contract.to_metadata()) {
        let own = key.strip_prefix("ganforge.").filter(|_| key != CHECKSUM_KEY);
        if let Some(key) = own.filter(|key| facts.iter().all(|(known, _)| known != key)) {
            // A list is in the metadata as JSON.
            let names = contract.map_or(&[][..], |contract| &contract.class_names);
            let value = if key == "classes.names" { json!(names) } else { json!(value) };
            facts.push((key.to_string(), value));
        }
    }
    // What is said of it when the file is written.
    let loss = contract.and_then(|contract| contract.cost.as_ref()).map(Cost::loss);
    facts.extend(loss.map(|loss| ("cost.loss".to_string(), json!((loss * 1e4).round() / 1e4))));
}

/// What the generator's classes are called, if it says so.
fn class_names(generator: &Generator) -> &[String] {
    generator.contract().map_or(&[], |contract| &contract.class_names)
}

fn runtime_facts() -> Result<Vec<(String, Value)>> {
    let library = runtime::load()?;
    let facts = [
        ("onnxruntime", json!(library.version)),
        ("onnxruntime.path", json!(library.path.to_string_lossy())),
        ("onnxruntime.found", json!(library.how.to_string())),
        ("onnxruntime.providers", json!(Provider::offered()?)),
        ("onnxruntime.opened", json!(runtime::opened())),
    ];
    Ok(facts.map(|(key, value)| (key.to_string(), value)).into())
}

fn models(json: bool) -> Result<()> {
    if json {
        let all = builtin::BUILTIN.iter();
        return print_json(
            &all.map(|known| json!({ "name": known.name, "about": known.about, "precisions": ["int8", "f32"] })).collect(),
        );
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
    if Provider::Cuda(0).is_offered()? {
        runtime::preload_cuda()?; // so that they are shown
    }
    print_facts(runtime_facts()?, json)
}

fn package(cuda: bool, openvino: bool) -> Package {
    if cuda {
        Package::Cuda
    } else if openvino {
        Package::OpenVino
    } else {
        Package::Cpu
    }
}

fn install(package: Package, json: bool) -> Result<()> {
    let path = ganforge::infer::install(package, &Console::new(json))?;
    if json { print_json(&json!({ "installed": path })) } else { print_line(&format!("installed {}", text::path(&path))) }
}

fn print_facts(facts: Vec<(String, Value)>, json: bool) -> Result<()> {
    if json {
        return print_json(&facts.into_iter().collect());
    }
    for (key, value) in facts.into_iter().filter(|(_, value)| *value != json!("")) {
        let text = match value {
            Value::String(text) => text,
            Value::Null => format!("unknown; say it with --{key}"),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        print_line(&format!("{:22} {}", on_one_line(&key), on_one_line(&text)))?;
    }
    Ok(())
}

fn print_json(value: &Value) -> Result<()> {
    print_line(&value.to_string())
}
