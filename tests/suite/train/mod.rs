//! `gan-train` end to end, on small networks and few images: run folders, exact resume, interruption, damage, wrong calls.

mod batches;
mod chosen;
mod damaged;
mod program;
mod resume;
mod stacked;
mod watched;

use assert_cmd::Command;
use candle_core::Device;
use ganforge::config::{self, Init, PRESETS, Schedule, Span, TrainConfig};
use ganforge::contract::Weights;
use ganforge::data::{self, DataReport, Dataset, synthetic};
use ganforge::image::Images;
use ganforge::infer::{Generator, Options, runtime};
use ganforge::progress::Silent;
use ganforge::train::{self, Batch, Batches, Judge, Record, RunFolder, TrainingJob, Trouble, Which, checkpoint, read_records};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::{TempDir, tempdir};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gan-train");

/// A system small enough to be trained in a moment: what `gan-train` is given besides data, folder and length.
type System = &'static [&'static str];

/// Batch norm in both networks, an average of the weights, the critic's fakes used again.
const CONVOLUTIONAL: System = &[
    "--preset=digits",
    "--batch-size=16",
    "--set=latent.size=8",
    "--set=init.conv={ normal = { mean = 0.0, std = 0.3 } }",
    "--set=generator.layers=[{ reshape = [8, 1, 1] }, { conv_transpose = { out = 8, kernel = 7, bias = false } }, 'batch_norm', \
     'relu', { conv_transpose = { out = 6, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', 'relu', \
     { conv_transpose = { out = 1, kernel = 4, stride = 2, padding = 1 } }, 'tanh']",
    "--set=critic.layers=[{ conv = { out = 6, kernel = 4, stride = 2, padding = 1 } }, { leaky_relu = 0.2 }, \
     { conv = { out = 8, kernel = 4, stride = 2, padding = 1 } }, 'batch_norm', { leaky_relu = 0.2 }, { conv = { out = 1, kernel = 7 } }]",
];

/// Dropout in the critic, fresh latents for the generator.
const DROPOUT: System = &[
    "--preset=gan-fashion-mlp",
    "--batch-size=16",
    "--set=generator.layers=[{ linear = { out = 24 } }, 'relu', { linear = { out = 784 } }, 'tanh']",
    "--set=critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { dropout = 0.3 }, { linear = { out = 1 } }]",
];

/// Wide enough for the forms of convolutions with fewer multiplications, in batches of odd length.
const WIDE: System = &[
    "--preset=digits",
    "--batch-size=13",
    "--set=latent.size=8",
    "--set=generator.layers=[{ reshape = [8, 1, 1] }, { conv_transpose = { out = 40, kernel = 7 } }, 'batch_norm', 'relu', \
     { conv_transpose = { out = 32, kernel = 4, stride = 2, padding = 1 } }, 'batch_norm', 'relu', \
     { conv_transpose = { out = 1, kernel = 4, stride = 2, padding = 1 } }, 'tanh']",
    "--set=critic.layers=[{ conv = { out = 32, kernel = 4, stride = 2, padding = 1 } }, { leaky_relu = 0.2 }, \
     { conv = { out = 40, kernel = 4, stride = 2, padding = 1, spectral = true } }, { leaky_relu = 0.2 }, { conv = { out = 1, kernel = 7 } }]",
];

/// Five critic steps and clipping.
const WGAN: System = &["--preset=wgan-mnist-mlp", "--batch-size=8"];

/// The same with images that are mirrored at random.
const MIRRORED: System = &["--preset=wgan-mnist-mlp", "--batch-size=8", "--set=data.flip=true"];

/// All that changes over a run, with all that is drawn or taken now and then.
const RAMPED: System = &[
    "--preset=gan-fashion-mlp",
    "--batch-size=8",
    "--set=generator.layers=[{ linear = { out = 24 } }, 'relu', { linear = { out = 784 } }, 'tanh']",
    "--set=critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { dropout = 0.3 }, { linear = { out = 1 } }]",
    "--set=loss={ kind = 'relativistic' }",
    "--set=penalty={ kind = 'r1-r2', weight = 2.0, every = 3 }",
    "--set=data.flip=true",
    "--set=augment=['color', 'translation', 'cutout']",
    "--set=augment_probability=0.1",
    "--set=schedule.critic_steps=2",
    "--set=schedule.ema_half_life=0",
    "--set=schedule.lr_decay={ curve = 'cosine', begin = { steps = 1 }, end = { steps = 9 }, to = 0.25 }",
    "--set=schedule.ramp={ over = { images = 130 }, beta2_to = 0.9, penalty_to = 0.2, augment_to = 0.8, ema_half_life_to = 100 }",
];

/// A folder with a small data set, and room for runs.
struct Place(TempDir);

impl Place {
    /// 50 images: an odd end for every batch size here.
    fn new() -> Self {
        let place = Self(tempdir().unwrap());
        fs::write(place.data(), idx(50, 0)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("images.idx")
    }

    /// Trains into the folder `name`.
    fn train(&self, name: &str, system: System, flags: &[&str]) -> PathBuf {
        self.command(name, system, flags).assert().success();
        self.path(name)
    }

    fn command(&self, name: &str, system: System, flags: &[&str]) -> Command {
        let mut command = gan_train(&["--quiet", "--device=cpu"]);
        command.arg("--data").arg(self.data()).arg("--out").arg(self.path(name)).args(system).args(flags);
        command
    }

    /// Trains in the background.
    fn spawn(&self, name: &str, system: System, flags: &[&str]) -> Child {
        let mut command = std::process::Command::new(PROGRAM);
        command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).arg("--device=cpu");
        command.arg("--data").arg(self.data()).arg("--out").arg(self.path(name)).args(system).args(flags);
        command.stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Digits as an IDX file.
fn idx(len: usize, seed: u64) -> Vec<u8> {
    let header = [0x0803, len as u32, 28, 28].into_iter().flat_map(u32::to_be_bytes);
    header.chain(synthetic::digits(len, 28, 1, seed)).collect()
}

fn gan_train(flags: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").args(flags);
    command
}

fn resume(run: &Path, flags: &[&str]) -> Command {
    let mut command = gan_train(&["--quiet", "--device=cpu", "--resume"]);
    command.arg(run).args(flags);
    command
}

/// The names in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(String::from).into()
}

/// The files of a run's latest checkpoint, with the last sheet of samples and the exported generator.
fn result(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let latest = fs::read_to_string(run.join("checkpoints/latest")).unwrap();
    let saved = run.join("checkpoints").join(latest.trim());
    let sheet = format!("samples/{}.png", latest.trim());
    let mut files: Vec<PathBuf> = names(&saved).iter().map(|name| saved.join(name)).collect();
    files.extend([run.join(sheet), run.join("generator.onnx")]);
    files.into_iter().map(|path| (path.strip_prefix(run).unwrap().display().to_string(), fs::read(path).unwrap())).collect()
}

fn assert_same(what: &str, ours: &Path, theirs: &Path) {
    let (ours, theirs) = (result(ours), result(theirs));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{what}");
    assert!(ours.len() >= 7, "{:?}", ours.keys());
    for (name, bytes) in &ours {
        assert!(*bytes == theirs[name], "{what}: {name} differs");
    }
}

fn records(run: &Path) -> Vec<Record> {
    read_records(&RunFolder::open(run).unwrap()).unwrap()
}

fn state(run: &Path) -> checkpoint::State {
    checkpoint::read_state(&checkpoint::latest(&RunFolder::open(run).unwrap()).unwrap().unwrap()).unwrap()
}

/// Waits until a file has something in it.
fn wait_for(path: &Path) {
    let begun = Instant::now();
    while fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a failing command says, in one paragraph.
fn complaint(command: &mut Command, code: i32) -> String {
    let output = command.assert().code(code).stdout("").get_output().clone();
    let text = String::from_utf8(output.stderr).unwrap();
    // What was being done may stand before it, where that is not --quiet.
    let error = text.lines().position(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{text}"));
    assert!(!text.contains("panicked"), "{text}");
    text.lines().skip(error).map(|line| format!("{line}\n")).collect()
}

fn open_generator(path: &Path) -> Generator {
    runtime::load_from(crate::infer::runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
    Generator::open(path, &Options::default()).unwrap()
}

/// A sheet of samples is what the exported generator makes of the run's seed.
fn check_sheet(run: &Path, sheet: &str, n: usize, columns: usize) {
    let config = RunFolder::open(run).unwrap().config().unwrap();
    let expected: Images = open_generator(&run.join("generator.onnx")).sample(config.seed, 0, n).unwrap().grid(columns);
    let sheet = image::open(run.join("samples").join(sheet)).unwrap().to_luma8();
    assert_eq!((sheet.width() as usize, sheet.height() as usize), (expected.width, expected.height));
    assert!(sheet.as_raw().iter().zip(&expected.pixels).all(|(a, b)| a.abs_diff(*b) <= 1));
    assert!(expected.pixels.iter().collect::<BTreeSet<_>>().len() > 20);
}

#[test]
fn a_run_folder_is_complete() {
    let place = Place::new();
    let flags = ["--steps=7", "--seed=3", "--checkpoint-every=3", "--sample-every=3", "--json"];
    let flags = [&flags[..], &["--set=output.log_every={ steps = 2 }", "--set=output.samples=7"]].concat();
    let summary = place.command("run", CONVOLUTIONAL, &flags).assert().success().stderr("").get_output().stdout.clone();
    let run = place.path("run");
    let pictures = ["curves.png", "progress.gif", "report.html", "samples"];
    let files = ["checkpoints", "config.toml", "generator.onnx", "report.json", "stats.jsonl", "tensorboard"];
    assert_eq!(names(&run), &set(files) | &set(pictures));

    // The config is the resolved one.
    let config = TrainConfig::from_toml(&fs::read_to_string(run.join("config.toml")).unwrap(), "it").unwrap();
    let mut expected = TrainConfig::preset("digits").unwrap();
    (expected.seed, expected.latent.size, expected.schedule.batch_size) = (3, 8, 16);
    (expected.generator, expected.critic) = (config.generator.clone(), config.critic.clone());
    expected.init.conv = Init::Normal { mean: 0.0, std: 0.3 };
    expected.data.source = place.data().canonicalize().unwrap().display().to_string().into();
    expected.schedule.length = Span::Steps(7);
    expected.output.log_every = Span::Steps(2);
    (expected.output.sample_every, expected.output.checkpoint_every) = (Span::Steps(3), Span::Steps(3));
    expected.output.samples = 7;
    assert_eq!(config, expected);
    assert_eq!((config.generator.layers.len(), config.critic.layers.len()), (9, 6));

    // The log: batches of 16, 16, 16 and 2 images; every second step, and before each checkpoint.
    let log = fs::read_to_string(run.join("stats.jsonl")).unwrap();
    assert!(log.ends_with('\n') && !log.contains("held_out"));
    let shown: Vec<(u64, u64, f64)> = records(&run).iter().map(|r| (r.step, r.images, r.epoch)).collect();
    assert_eq!(shown, [(2, 32, 0.64), (3, 48, 0.96), (4, 50, 1.0), (6, 82, 1.64), (7, 98, 1.96)]);
    for line in log.lines() {
        let record: BTreeMap<String, f64> = serde_json::from_str(line).unwrap();
        assert!(record.len() == 11 && record.values().all(|number| number.is_finite()), "{line}");
    }

    // Pictures.
    assert_eq!(names(&run.join("samples")), set(["00000003.png", "00000006.png", "00000007.png"]));
    let sheet = image::open(run.join("samples/00000003.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (3 * 28 + 4 * 2, 3 * 28 + 4 * 2));
    check_sheet(&run, "00000007.png", 7, 3);
    assert_eq!(image::open(run.join("curves.png")).map(|curves| (curves.width(), curves.height())).unwrap(), (1600, 640));

    // Checkpoints: the two newest.
    assert_eq!(names(&run.join("checkpoints")), set(["00000006", "00000007", "best", "latest"]));
    let tensors = ["critic", "ema", "generator", "optimizer-critic", "optimizer-generator"].map(|n| format!("{n}.safetensors"));
    let mut files: BTreeSet<String> = tensors.into();
    files.extend(["config.toml", "state.json", "SHA256SUMS"].map(String::from));
    assert_eq!(names(&run.join("checkpoints/00000007")), files);
    let state = state(&run);
    assert_eq!((state.step, state.images, state.generator_optimizer_steps, state.critic_optimizer_steps), (7, 98, 7, 7));
    assert_eq!((state.data.as_str(), state.data_sha256.len()), ("images.idx", 64));

    // The generator, and what --json says.
    let generator = open_generator(&run.join("generator.onnx"));
    let contract = generator.contract().unwrap();
    assert_eq!((contract.preset.as_str(), contract.images_seen, contract.weights), ("digits", 98, Weights::Ema));
    assert_eq!((contract.data_sha256.as_str(), contract.seed), (state.data_sha256.as_str(), 3));
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert_eq!((&summary["outcome"]["step"], &summary["outcome"]["images"]), (&7.into(), &98.into()));
    assert!(summary["agreement"]["values"].as_f64().unwrap() <= 1e-4);
}
