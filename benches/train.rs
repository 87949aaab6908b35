//! Training throughput and peak memory, ganforge and PyTorch in turn: the same presets, batch sizes and threads.
//!
//! ```text
//! make bench                                      # fetches PyTorch into .tools first, unless GANFORGE_PYTHON has it
//! cargo bench --bench train -- --presets dcgan-64:64,wgan-anime --threads 1,2 --rounds 5 --python PYTHON
//! cargo bench --bench train -- --threads 1,2 --ours-alone
//! ```
//!
//! Either side is a process of its own that trains on random images and measures whenever it is asked to: ours is this
//! program again, set up as gan-train is; the other is `peers/train.py`, in every variant that PyTorch offers (memory
//! format, eager or compiled, on CUDA its CUDA graphs or the whole step as one). A short look at all variants leaves the best, and a second one if it is near; then the
//! sides take turns. Images a second are real images shown to the critic, as `--images` counts them. Data are in memory on
//! both sides; logs, samples and checkpoints are not written. Both networks must have as many parameters on both sides.
//! The memory is each process's peak resident set, Python and its libraries included.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use clap::{Parser, ValueEnum};
use ganforge::cli::{finish, prepare_training, print_line};
use ganforge::config::{Precision, TrainConfig};
use ganforge::data::{DataReport, Dataset};
use ganforge::error::{Error, Result};
use ganforge::files;
use ganforge::nn::device::{open_cuda, peak_memory};
use ganforge::random::{Purpose, Stream};
use ganforge::train::{Batches, Rounds, Trainer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// As gan-train has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// From the root of the repository, which is where cargo runs benches.
const PEER: &str = "benches/peers/train.py";
/// Random images to train on, or a few less: whole batches.
const IMAGES: usize = 4096;
const WARM_UP_STEPS: usize = 3;
/// The look at a variant takes this share of a measurement.
const SCOUT: f64 = 0.4;
/// The second-best variant takes part if it had at least this share of the best one's throughput.
const NEAR: f64 = 0.95;

/// Trains presets with ganforge and with PyTorch in turn, and compares images a second and peak memory.
#[derive(Parser)]
struct Cli {
    /// Presets, each with a batch size if that is not to be its own.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME[:BATCH]",
        default_value = "dcgan-64:64,wgan-anime,dcgan-fashion,gan-fashion-mlp"
    )]
    presets: Vec<String>,
    /// Batch size of every preset that is not given one.
    #[arg(long)]
    batch_size: Option<usize>,
    /// Numbers of threads; by default as many as there are cores.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Measurements of either side.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// A measurement goes on until these are over.
    #[arg(long, default_value = "8", value_parser = seconds)]
    seconds_per_measure: f64,
    /// A Python with PyTorch; by default $GANFORGE_PYTHON, else python3.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where both sides compute.
    #[arg(long, default_value = "cpu")]
    device: DeviceName,
    /// What both sides compute in; bf16 is PyTorch's autocast. Ours on the CPU: f32 instead of tf32.
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// Compare with PyTorch's best at any precision, not at this one.
    #[arg(long)]
    any_precision: bool,
    /// Only these variants of PyTorch's side; `peers/train.py` explains them.
    #[arg(long, value_delimiter = ',')]
    variants: Vec<String>,
    /// Seconds a side may take to get ready: torch.compile may not end.
    #[arg(long, default_value_t = 300)]
    ready_within: u64,
    /// Without PyTorch.
    #[arg(long)]
    ours_alone: bool,
    /// Our steps on CUDA one by one, not captured as CUDA graphs.
    #[arg(long)]
    no_capture: bool,
    /// Be our side, with this config.
    #[arg(long, hide = true)]
    ours: Option<PathBuf>,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    number.ok_or_else(|| "expected 0.1 to 3600 seconds".to_string())
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum DeviceName {
    Cpu,
    Cuda,
}

impl DeviceName {
    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    fn variants(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => &["eager", "eager+channels_last", "compile", "compile+channels_last"],
            Self::Cuda => &[
                "eager",
                "eager+channels_last",
                "compile",
                "compile+channels_last",
                "graphs",
                "graphs+channels_last",
                "captured",
                "captured+channels_last",
                "captured+compile+channels_last",
            ],
        }
    }
}

/// What ganforge has of a precision: there is no TF32 on the CPU.
fn ours(precision: Precision, device: DeviceName) -> Precision {
    match (device, precision) {
        (DeviceName::Cpu, Precision::Tf32) => Precision::F32,
        _ => precision,
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(config) = &cli.ours else { return finish(compare(&cli)) };
    // SAFETY: the first thing main does on this side; there is no other thread yet.
    unsafe { prepare_training() };
    finish(serve(config, &cli).or_else(|error| print_line(&json!({ "error": error.to_string() }).to_string())))
}

// --- What the sides say

/// A side's first line.
#[derive(Serialize, Deserialize)]
struct Ready {
    about: String,
    generator_parameters: usize,
    critic_parameters: usize,
}

/// A side's answer to a request.
#[derive(Clone, Serialize, Deserialize)]
struct Measurement {
    images_per_second: f64,
    peak_mb: Option<f64>,
    peak_device_mb: Option<f64>,
}

// --- Our side

fn serve(config: &Path, cli: &Cli) -> Result<()> {
    let mut config = read_config(config)?;
    config.schedule.precision = ours(cli.precision, cli.device);
    config.schedule.capture = !cli.no_capture;
    // The other side has none.
    config.schedule.critic_warmup = None;
    let device = match cli.device {
        DeviceName::Cpu => Device::Cpu,
        DeviceName::Cuda => open_cuda(0)?,
    };
    let data = random_images(&config);
    let mut training = Training {
        trainer: Trainer::new(&config, &device, DType::F32)?,
        batches: Batches::new(&data, &config, &device)?,
        rounds: Rounds::default(),
        device,
    };
    for _ in 0..WARM_UP_STEPS {
        training.step()?;
    }
    if let Some(notice) = training.rounds.take_notice() {
        note(&notice);
    }
    say(&Ready {
        about: format!("ganforge {}", env!("CARGO_PKG_VERSION")),
        generator_parameters: training.trainer.generator.trainable_count(),
        critic_parameters: training.trainer.critic.trainable_count(),
    })?;
    for request in io::stdin().lines() {
        let request = request.map_err(|e| Error::Runtime(format!("cannot read a request: {e}")))?;
        let seconds = request.trim().parse().map_err(|_| Error::usage(format!("request '{request}'"), "Ask in seconds."))?;
        say(&training.measure(seconds)?)?;
    }
    Ok(())
}

fn read_config(path: &Path) -> Result<TrainConfig> {
    TrainConfig::from_toml(&String::from_utf8_lossy(&files::read(path, files::TEXT)?), &path.display().to_string())
}

fn random_images(config: &TrainConfig) -> Dataset {
    let batch = config.schedule.batch_size;
    let (len, channels, size) = ((IMAGES / batch).max(1) * batch, config.data.channels, config.data.size);
    let mut stream = Stream::at(0, Purpose::Synthetic, 0);
    let pixels = (0..len * channels * size * size).map(|_| stream.bits() as u8).collect();
    let labels = (0..len).filter_map(|index| Some(index.checked_rem(config.data.classes)? as u8)).collect();
    Dataset { name: "random".into(), sha256: String::new(), len, channels, size, pixels, labels, report: DataReport::default() }
}

fn say(line: &impl Serialize) -> Result<()> {
    print_line(&serde_json::to_string(line).map_err(|e| Error::Runtime(format!("cannot answer: {e}")))?)
}

struct Training<'a> {
    trainer: Trainer,
    batches: Batches<'a>,
    rounds: Rounds,
    device: Device,
}

impl Training<'_> {
    fn step(&mut self) -> Result<()> {
        self.rounds.round(&mut self.trainer, &mut self.batches)
    }

    fn measure(&mut self, seconds: f64) -> Result<Measurement> {
        self.step()?; // the other side had the machine
        self.trainer.take_means()?;
        self.device.synchronize()?;
        let (start, before) = (Instant::now(), self.images());
        while start.elapsed().as_secs_f64() < seconds {
            self.step()?;
        }
        self.device.synchronize()?;
        let images_per_second = (self.images() - before) as f64 / start.elapsed().as_secs_f64();
        let means = self.trainer.take_means()?;
        if !(means.loss_critic + means.loss_generator).is_finite() {
            return Err(Error::Unhealthy("the losses are not finite".into()));
        }
        let peak_device_mb = peak_memory(&self.device)?.map(|bytes| bytes as f64 / 1e6);
        Ok(Measurement { images_per_second, peak_mb: peak_rss_mb(), peak_device_mb })
    }

    fn images(&self) -> u64 {
        self.batches.images_after(self.trainer.critic_steps())
    }
}

/// Where Linux tells it.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

// --- A side, seen from here

struct Side {
    name: String,
    child: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Side {
    /// Starts a side and waits until it is ready.
    fn start(name: &str, command: &mut Command, within: Duration) -> Result<(Self, Ready)> {
        let program = command.get_program().to_owned();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(Error::io("run", program.as_ref()))?;
        let (send, answers) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                BufReader::new(stdout).lines().map_while(io::Result::ok).try_for_each(|line| send.send(line))
            });
        }
        let requests = child.stdin.take();
        let mut side = Self { name: name.to_string(), child, requests, answers };
        let ready = side.answer(within)?;
        Ok((side, ready))
    }

    fn measure(&mut self, seconds: f64) -> Result<Measurement> {
        if let Some(requests) = &mut self.requests {
            // If nobody listens, there is no answer either, which says why.
            let _ = writeln!(requests, "{seconds}");
        }
        self.answer(Duration::from_secs_f64(10.0 * seconds + 60.0))
    }

    fn answer<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T> {
        let failed = |what: String| Error::Runtime(format!("{}: {what}", self.name));
        let line = self.answers.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => failed(format!("no answer within {} s", within.as_secs())),
            RecvTimeoutError::Disconnected => failed("it ended without an answer".into()),
        })?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| failed(format!("not an answer: {line}")))?;
        match answer["error"].as_str() {
            Some(error) => Err(failed(error.to_string())),
            None => serde_json::from_value(answer).map_err(|e| failed(format!("{line}: {e}"))),
        }
    }
}

impl Drop for Side {
    /// The end of its requests ends a side; one that hangs is killed.
    fn drop(&mut self) {
        self.requests = None;
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// --- The comparison

/// What is trained, on how many threads.
struct Case {
    config: TrainConfig,
    /// The same, as a file for both sides.
    file: tempfile::NamedTempFile,
    threads: usize,
}

/// All measurements of a case.
struct Outcome {
    case: Case,
    ours: Vec<Measurement>,
    /// The best variant's, by median.
    theirs: Option<(String, Vec<Measurement>)>,
}

fn compare(cli: &Cli) -> Result<()> {
    let mut cases = Vec::new();
    for preset in &cli.presets {
        for threads in thread_counts(cli) {
            cases.push(Case::new(preset, threads, cli)?);
        }
    }
    let python = match cli.ours_alone {
        true => None,
        false => Some(find_python(cli)?),
    };
    let outcomes = cases.into_iter().map(|case| run(case, python.as_ref(), cli)).collect::<Result<Vec<_>>>()?;
    let of_ours = ours(cli.precision, cli.device);
    let precision = match cli.precision == of_ours {
        true => cli.precision.name().to_string(),
        false => format!("{}, PyTorch's side {}", of_ours.name(), cli.precision.name()),
    };
    let precision = if cli.any_precision { format!("{}, PyTorch's side in any precision", of_ours.name()) } else { precision };
    print_line(&format!("\n{}, {precision}; median (least–most) of {} rounds\n", cli.device.name(), cli.rounds))?;
    print_table(&outcomes)?;
    print_scaling(&outcomes)
}

fn thread_counts(cli: &Cli) -> Vec<usize> {
    match cli.threads.is_empty() {
        true => vec![std::thread::available_parallelism().map_or(1, usize::from)],
        false => cli.threads.clone(),
    }
}

/// The interpreter for the other side, which must have PyTorch.
fn find_python(cli: &Cli) -> Result<OsString> {
    let set = std::env::var_os("GANFORGE_PYTHON").filter(|value| !value.is_empty());
    let python = cli.python.clone().map(OsString::from).or(set).unwrap_or_else(|| "python3".into());
    let hint = "Run pip install torch, name a Python that has it (--python or GANFORGE_PYTHON), or use --ours-alone.";
    let shown = Path::new(&python).display();
    match Command::new(&python).args(["-c", "import torch"]).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(python),
        Ok(_) => Err(Error::usage(format!("{shown} has no PyTorch"), hint)),
        Err(e) => Err(Error::usage(format!("cannot run {shown}: {e}"), hint)),
    }
}

impl Case {
    fn new(preset: &str, threads: usize, cli: &Cli) -> Result<Self> {
        let (name, batch) = preset.split_once(':').map_or((preset, None), |(name, batch)| (name, Some(batch)));
        let batch = batch.map(str::parse).transpose();
        let batch: Option<usize> =
            batch.map_err(|e| Error::usage(format!("--presets {preset}: {e}"), "Write NAME or NAME:BATCH."))?;
        let mut config = TrainConfig::preset(name)?;
        config.schedule.batch_size = batch.or(cli.batch_size).unwrap_or(config.schedule.batch_size);
        config.data.held_out = 0.0;
        if config.augment_probability == 0.0 {
            // It has not begun, and the other side does not know it.
            config.augment.clear();
            if let Some(ramp) = &mut config.schedule.ramp {
                ramp.augment_to = None;
            }
        }
        let cannot = |e: io::Error| Error::Runtime(format!("cannot write a temporary file: {e}"));
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().map_err(cannot)?;
        file.write_all(config.to_toml()?.as_bytes()).map_err(cannot)?;
        Ok(Self { config, file, threads })
    }

    fn name(&self) -> String {
        format!("{}, batches of {}, threads: {}", self.config.preset, self.config.schedule.batch_size, self.threads)
    }
}

/// Both sides in turn.
fn run(case: Case, python: Option<&OsString>, cli: &Cli) -> Result<Outcome> {
    note(&case.name());
    if let Some(busy) = busy_cores().filter(|busy| *busy > 0.1) {
        note(&format!(
            "  warning: others keep {busy:.1} cores busy; the figures will mean little, above all PyTorch's, which spins"
        ));
    }
    let (mut ours, ready) = start_ours(&case, cli)?;
    let mut peers = match python {
        Some(python) => best_peers(&case, python, &ready, cli)?,
        None => Vec::new(),
    };
    let mut our_rounds = Vec::new();
    let mut their_rounds = vec![Vec::new(); peers.len()];
    for round in 0..cli.rounds {
        // Who begins changes: a machine that slows down favours nobody.
        if round % 2 == 0 {
            our_rounds.push(measure(&mut ours, cli.seconds_per_measure)?);
        }
        for (peer, rounds) in peers.iter_mut().zip(&mut their_rounds) {
            rounds.push(measure(peer, cli.seconds_per_measure)?);
        }
        if round % 2 == 1 {
            our_rounds.push(measure(&mut ours, cli.seconds_per_measure)?);
        }
    }
    let names = peers.iter().map(|peer| peer.name.clone());
    let theirs = names.zip(their_rounds).max_by(|a, b| rate(&a.1).median.total_cmp(&rate(&b.1).median));
    Ok(Outcome { case, ours: our_rounds, theirs })
}

/// How many cores are at work while this program rests; where Linux tells it.
fn busy_cores() -> Option<f64> {
    let idle_and_total = || {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        // cpu user nice system idle iowait …
        let ticks: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).take(8).flat_map(str::parse).collect();
        Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum::<f64>()))
    };
    let (idle, total) = idle_and_total()?;
    std::thread::sleep(Duration::from_secs(1));
    let (idle, total) = idle_and_total().map(|(i, t)| (i - idle, t - total))?;
    let cores = std::thread::available_parallelism().ok()?.get() as f64;
    (total > 0.0).then(|| (1.0 - idle / total) * cores)
}

fn start_ours(case: &Case, cli: &Cli) -> Result<(Side, Ready)> {
    let program = std::env::current_exe().map_err(|e| Error::Runtime(format!("cannot find this program: {e}")))?;
    let mut command = Command::new(program);
    command.arg("--ours").arg(case.file.path());
    command.args(["--device", cli.device.name(), "--precision", cli.precision.name()]);
    if cli.no_capture {
        command.arg("--no-capture");
    }
    command.env("RAYON_NUM_THREADS", case.threads.to_string());
    Side::start("ganforge", &mut command, Duration::from_secs(cli.ready_within))
}

/// The best one or two variants, ready to be measured.
fn best_peers(case: &Case, python: &OsString, ours: &Ready, cli: &Cli) -> Result<Vec<Side>> {
    let variants: Vec<&str> = match cli.variants.is_empty() {
        true => cli.device.variants().to_vec(),
        false => cli.variants.iter().map(String::as_str).collect(),
    };
    let precisions = match (cli.any_precision, cli.device) {
        (false, _) => vec![cli.precision],
        (true, DeviceName::Cpu) => vec![Precision::F32, Precision::Bf16],
        (true, DeviceName::Cuda) => vec![Precision::F32, Precision::Tf32, Precision::Bf16],
    };
    let mut best: Vec<(f64, Side)> = Vec::new();
    let mut refusal = None;
    for (variant, precision) in
        variants.iter().flat_map(|variant| precisions.iter().map(move |precision| (variant, *precision)))
    {
        match scout(case, variant, precision, python, ours, cli) {
            Ok(found) => best.push(found),
            Err(error @ Error::Invalid { .. }) => return Err(error),
            Err(error) => {
                note(&format!("  left out: {error}"));
                refusal = Some(error);
            }
        }
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        best.truncate(2);
    }
    let Some(&(most, _)) = best.first() else {
        return Err(
            refusal.unwrap_or_else(|| Error::usage("no variant of PyTorch's side is left", "Name one with --variants."))
        );
    };
    Ok(best.into_iter().filter(|(rate, _)| *rate >= NEAR * most).map(|(_, side)| side).collect())
}

/// A short look at a variant: images a second.
fn scout(case: &Case, variant: &str, precision: Precision, python: &OsString, ours: &Ready, cli: &Cli) -> Result<(f64, Side)> {
    let threads = case.threads.to_string();
    let mut command = Command::new(python);
    command.arg(PEER).arg("--config").arg(case.file.path()).args(["--threads", &threads, "--variant", variant]);
    command.args(["--device", cli.device.name(), "--precision", precision.name()]);
    command.args(["--warmup", &WARM_UP_STEPS.to_string()]);
    command.env("OMP_NUM_THREADS", &threads).env("MKL_NUM_THREADS", &threads);
    let (mut side, theirs) = Side::start(variant, &mut command, Duration::from_secs(cli.ready_within))?;
    let counts = |ready: &Ready| [ready.generator_parameters, ready.critic_parameters];
    if counts(ours) != counts(&theirs) {
        let what = format!("{} has {:?} parameters, {} {:?}", ours.about, counts(ours), theirs.about, counts(&theirs));
        return Err(Error::invalid(
            case.name(),
            what,
            "Mend benches/peers/train.py: the sides do not train the same networks.",
        ));
    }
    side.name = format!("{} {variant}, {}", theirs.about, precision.name());
    let rate = measure(&mut side, SCOUT * cli.seconds_per_measure)?.images_per_second;
    Ok((rate, side))
}

fn measure(side: &mut Side, seconds: f64) -> Result<Measurement> {
    let measurement = side.measure(seconds)?;
    note(&format!("  {}: {:.1} images/s", side.name, measurement.images_per_second));
    Ok(measurement)
}

fn note(line: &str) {
    eprintln!("{line}");
}

// --- The tables

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
            return Self { median: f64::NAN, least: f64::NAN, most: f64::NAN };
        };
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Self { median, least, most }
    }

    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}

fn rate(rounds: &[Measurement]) -> Spread {
    Spread::of(rounds.iter().map(|m| m.images_per_second))
}

/// On the device where that is known, else in main memory.
fn memory(rounds: &[Measurement]) -> String {
    let most = |value: fn(&Measurement) -> Option<f64>| rounds.iter().filter_map(value).reduce(f64::max);
    let shown = |value: Option<f64>| value.map(|mb| format!("{mb:.0}"));
    let host = shown(most(|m| m.peak_mb)).unwrap_or("?".into());
    shown(most(|m| m.peak_device_mb)).map_or(host.clone(), |device| format!("{host} + {device} on the device"))
}

const HEADINGS: [&str; 9] = [
    "preset",
    "batch",
    "threads",
    "ganforge images/s",
    "PyTorch images/s",
    "ratio",
    "ganforge MB",
    "PyTorch MB",
    "the best variant of PyTorch",
];

fn row(outcome: &Outcome) -> [String; 9] {
    let Outcome { case, ours, theirs } = outcome;
    let none = || "–".to_string();
    let rounds = theirs.as_ref().map(|(_, rounds)| rounds.as_slice());
    let ratio = rounds.map(|theirs| {
        let paired = Spread::of(ours.iter().zip(theirs).map(|(a, b)| a.images_per_second / b.images_per_second));
        Spread { median: rate(ours).median / rate(theirs).median, ..paired }.show(2)
    });
    [
        case.config.preset.clone(),
        case.config.schedule.batch_size.to_string(),
        case.threads.to_string(),
        rate(ours).show(0),
        rounds.map_or_else(none, |rounds| rate(rounds).show(0)),
        ratio.unwrap_or_else(none),
        memory(ours),
        rounds.map_or_else(none, memory),
        theirs.as_ref().map_or_else(none, |(name, _)| name.clone()),
    ]
}

fn print_table(outcomes: &[Outcome]) -> Result<()> {
    let mut rows = vec![HEADINGS.map(String::from)];
    rows.extend(outcomes.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    rows.insert(1, std::array::from_fn(|column| "-".repeat(widths[column])));
    rows.iter().try_for_each(|row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        print_line(&format!("| {} |", cells.join(" | ")))
    })
}

/// What more threads bring, where a preset was measured with several numbers of them.
fn print_scaling(outcomes: &[Outcome]) -> Result<()> {
    for pair in outcomes.windows(2).filter(|pair| pair[0].case.config == pair[1].case.config) {
        let [few, many] = pair else { continue };
        let ours = rate(&many.ours).median / rate(&few.ours).median;
        let theirs =
            few.theirs.as_ref().zip(many.theirs.as_ref()).map(|((_, few), (_, many))| rate(many).median / rate(few).median);
        let theirs = theirs.map(|factor| format!(", PyTorch {factor:.2}")).unwrap_or_default();
        let threads = format!("from {} to {} threads", few.case.threads, many.case.threads);
        print_line(&format!("{}, {threads}: ganforge × {ours:.2}{theirs}", many.case.config.preset))?;
    }
    Ok(())
}
