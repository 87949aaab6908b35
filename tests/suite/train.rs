//! `gan-train` end to end, on small networks and few images: run folders, exact resume, interruption, damage, wrong calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use candle_core::Device;
use ganforge::config::{self, Init, PRESETS, Schedule, Span, TrainConfig};
use ganforge::contract::Weights;
use ganforge::data::{self, Dataset, Report, synthetic};
use ganforge::image::Images;
use ganforge::infer::{Generator, Options, runtime};
use ganforge::progress::Silent;
use ganforge::train::{self, Batch, Batches, Job, Judge, Record, RunFolder, Trouble, Which, checkpoint, read_records};
use predicates::str::contains;
use proptest::prelude::*;
use serde_json::Value;
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

/// Five critic steps and clipping.
const WGAN: System = &["--preset=wgan-mnist-mlp", "--batch-size=8"];

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
    runtime::load_from(&crate::infer::runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
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
    expected.data.source = place.data().canonicalize().unwrap().display().to_string();
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

#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    let place = Place::new();
    for (name, system) in [("convolutional", CONVOLUTIONAL), ("dropout", DROPOUT), ("wgan", WGAN)] {
        let straight = place.train(&format!("{name}-straight"), system, &["--steps=11", "--checkpoint-every=4"]);
        // Stops within an epoch, and between two checkpoints.
        let resumed = place.train(&format!("{name}-resumed"), system, &["--steps=3", "--checkpoint-every=2"]);
        resume(&resumed, &["--steps=6"]).assert().success();
        resume(&resumed, &["--steps=11"]).assert().success();
        assert_same(name, &straight, &resumed);
        assert_eq!(records(&resumed).last().unwrap().step, 11);
        // There is nothing more to do, and that is no error; nor does it change anything.
        resume(&resumed, &[]).assert().success();
        resume(&resumed, &["--steps=5"]).assert().success();
        assert_same(name, &straight, &resumed);
    }
}

/// Folders of flat images are the classes: what the latents choose must be what is made, and a resume must not lose that.
#[test]
fn classes_are_learnt_by_folder_and_resumed_exactly() {
    const GREYS: [(&str, u8); 3] = [("b-dark", 30), ("c-light", 220), ("d-middle", 130)];
    let place = Place::new();
    for (name, grey) in GREYS {
        fs::create_dir_all(place.path("sorted").join(name)).unwrap();
        for index in 0..20 {
            let path = place.path("sorted").join(name).join(format!("{index}.png"));
            image::GrayImage::from_pixel(28, 28, image::Luma([grey + index])).save(path).unwrap();
        }
    }
    let command = |name: &str, flags: &[&str]| {
        let mut command =
            gan_train(&["--quiet", "--device=cpu", "--set=data.classes=3", "--set=watch.stop=false", "--lr=1e-3"]);
        command.args(DROPOUT).arg("--data").arg(place.path("sorted")).arg("--out").arg(place.path(name)).args(flags);
        command
    };
    command("straight", &["--steps=1500"]).assert().success();
    command("halves", &["--steps=700"]).assert().success();
    resume(&place.path("halves"), &["--steps=1500"]).assert().success();
    assert_same("classes", &place.path("straight"), &place.path("halves"));

    let generator = open_generator(&place.path("straight/generator.onnx"));
    let (latent, images) = (generator.latent(), generator.sample(0, 0, 120).unwrap());
    let mut means = [const { Vec::new() }; 3];
    for (index, z) in latent.rows(0, 0, 120).chunks_exact(latent.size).enumerate() {
        let chosen = (0..3).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
        let pixels = images.get(index).unwrap();
        means[chosen].push(pixels.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / pixels.len() as f64);
    }
    let means = means.map(|of_class| of_class.iter().sum::<f64>() / of_class.len() as f64);
    for (mean, (name, grey)) in means.iter().zip(GREYS) {
        assert!((mean - f64::from(grey + 10)).abs() < 40.0, "{name}: {means:?}");
    }

    // Other classes are other data.
    fs::rename(place.path("sorted/b-dark"), place.path("sorted/e-dark")).unwrap();
    let told = complaint(&mut resume(&place.path("halves"), &["--steps=1501"]), 1);
    assert!(told.contains("sorted"), "{told}");
    let few = complaint(&mut command("few", &["--steps=1", "--set=data.classes=2"]), 1);
    assert!(few.contains("data.classes is 2, but its labels are 0, 1, 2"), "{few}");
}

#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let place = Place::new();
    let straight = place.train("straight", WGAN, &["--steps=120"]);
    for (name, every, sign) in
        [("before", "--checkpoint-every=120", "stats.jsonl"), ("after", "--checkpoint-every=10", "checkpoints/latest")]
    {
        let mut child = place.spawn(name, WGAN, &["--steps=120", every, "--set=output.log_every={ steps = 1 }"]);
        let run = place.path(name);
        wait_for(&run.join(sign));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!run.join("generator.onnx").exists(), "it was done before it was killed");
        assert_eq!(run.join("checkpoints/latest").exists(), name == "after");
        // As a crash of the machine may leave it: a line cut off, a half-written checkpoint.
        let mut log = fs::read(run.join("stats.jsonl")).unwrap();
        log.extend(b"{\"step\": 39");
        fs::write(run.join("stats.jsonl"), log).unwrap();
        fs::create_dir_all(run.join("checkpoints/.partial-00000119")).unwrap();
        fs::write(run.join("checkpoints/.ganforge-aBc123"), "000").unwrap();
        resume(&run, &[]).assert().success();
        assert_same(name, &straight, &run);
        assert_eq!(records(&run).iter().map(|record| record.step).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
        assert!(names(&run.join("checkpoints")).iter().all(|name| !name.starts_with('.')));
    }
}

#[test]
fn sigterm_saves_and_exports() {
    let place = Place::new();
    let mut child = place.spawn("run", WGAN, &["--steps=1000000", "--set=output.log_every={ steps = 1 }"]);
    let run = place.path("run");
    wait_for(&run.join("stats.jsonl"));
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted: saved and exported") && said.contains("gan-train --resume"), "{said}");

    let step = state(&run).step;
    assert!((1..1_000_000).contains(&step));
    check_sheet(&run, &format!("{step:08}.png"), 16, 4);
    assert!(run.join("curves.png").exists());
    let more = (step + 4).to_string();
    resume(&run, &["--steps", &more]).assert().success();
    assert_same("after SIGTERM", &place.train("straight", WGAN, &["--steps", &more]), &run);
}

#[test]
fn the_seed_decides_and_the_number_of_threads_does_not() {
    let place = Place::new();
    const FULL: System = &["--preset=gan-fashion-mlp", "--batch-size=50", "--set=output.samples=4"];
    for (name, system) in [("convolutional", CONVOLUTIONAL), ("dropout", DROPOUT), ("wgan", WGAN), ("full", FULL)] {
        let run = |suffix: &str, threads: &str, flags: &[&str]| {
            let name = format!("{name}-{suffix}");
            let flags = [&["--steps=3"], flags].concat();
            place.command(&name, system, &flags).env("RAYON_NUM_THREADS", threads).assert().success();
            place.path(&name)
        };
        let first = run("first", "2", &[]);
        assert_same(&format!("{name}, again"), &first, &run("again", "2", &[]));
        assert_same(&format!("{name}, on one thread"), &first, &run("one", "1", &[]));
        assert_same(&format!("{name}, on five threads"), &first, &run("five", "5", &[]));
        let (first, other) = (result(&first), result(&run("other", "2", &["--seed=1"])));
        for (file, bytes) in first.iter().filter(|(file, _)| !file.ends_with("state.json")) {
            assert!(*bytes != other[file], "{name}: {file} does not depend on the seed");
        }
    }
}

/// A data set that never was in a file.
fn dataset(len: usize) -> Dataset {
    // Every image has its number as its one pixel value.
    let pixels = (0..len).flat_map(|index| vec![index as u8; 16]).collect();
    Dataset {
        name: "numbers".into(),
        sha256: String::new(),
        len,
        channels: 1,
        size: 4,
        pixels,
        labels: Vec::new(),
        report: Report::default(),
    }
}

fn schedule(batch_size: usize, critic_steps: usize) -> Schedule {
    Schedule { batch_size, critic_steps, ..TrainConfig::preset("dcgan-28").unwrap().schedule }
}

fn batches_config(batch_size: usize, held_out: f64, seed: u64) -> TrainConfig {
    let mut config = TrainConfig::preset("dcgan-28").unwrap();
    (config.data.size, config.data.held_out, config.seed) = (4, held_out, seed);
    config.schedule.batch_size = batch_size;
    config
}

#[test]
fn lengths_in_steps() {
    // 50 images in batches of 16: four batches an epoch, the last of 2 images.
    let cases = [
        (Span::Steps(7), 1, 7),
        (Span::Steps(7), 5, 7),
        (Span::Steps(0), 1, 1),
        (Span::Epochs(3), 1, 12),
        (Span::Epochs(3), 5, 3),
        (Span::Epochs(1), 5, 1),
        (Span::Images(1), 1, 1),
        (Span::Images(16), 1, 1),
        (Span::Images(17), 1, 2),
        (Span::Images(48), 1, 3),
        (Span::Images(49), 1, 4),
        (Span::Images(50), 1, 4),
        (Span::Images(51), 1, 5),
        (Span::Images(100), 1, 8),
        (Span::Images(100), 5, 2),
        (Span::Epochs(u64::MAX), 1, u64::MAX),
    ];
    for (span, critic_steps, steps) in cases {
        assert_eq!(span.in_steps(&schedule(16, critic_steps), 50), steps, "{span:?}, {critic_steps} critic steps");
    }
    assert_eq!(Span::Epochs(2).in_steps(&schedule(64, 1), 50), 2);
    assert_eq!(Span::Images(1 << 40).in_steps(&schedule(1, 1), 1), 1 << 40);
}

proptest! {
    #[test]
    fn a_length_is_the_first_step_at_which_it_is_complete(
        len in 2usize..40, batch in 1usize..50, critic_steps in 1usize..6, wanted in 1u64..300, held_out in 0.0..0.5f64,
    ) {
        let (data, config) = (dataset(len), batches_config(batch, held_out, 5));
        let batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
        let steps = Span::Images(wanted).in_steps(&schedule(batch, critic_steps), batches.len());
        let images = |steps: u64| batches.images_after(steps * critic_steps as u64);
        prop_assert!(images(steps) >= wanted && (steps == 1 || images(steps - 1) < wanted));
        let steps = Span::Epochs(wanted).in_steps(&schedule(batch, critic_steps), batches.len());
        let images = |steps: u64| batches.images_after(steps * critic_steps as u64);
        let all = wanted * batches.len() as u64;
        prop_assert!(images(steps) >= all && (steps == 1 || images(steps - 1) < all));
    }

    #[test]
    fn an_epoch_shows_every_image_once(len in 2usize..200, batch in 1usize..70, held_out in 0.0..0.5f64, seed in 0u64..9) {
        let (data, config) = (dataset(len), batches_config(batch, held_out, seed));
        let mut batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
        let an_epoch = batches.len().div_ceil(batch) as u64;
        // The pixel of an image in [-1, 1] back to its number.
        let numbers = |batch: Batch| {
            let values = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
            values.into_iter().map(|image| ((image[0] + 1.0) * 127.5).round() as usize).collect::<Vec<_>>()
        };
        let held: BTreeSet<usize> = data.split(held_out, seed).held_out.into_iter().map(|index| index as usize).collect();
        prop_assert_eq!(held.len() + batches.len(), len);
        let mut orders = Vec::new();
        for epoch in 0..2 {
            let mut order = Vec::new();
            for step in epoch * an_epoch..(epoch + 1) * an_epoch {
                prop_assert_eq!(batches.images_after(step), epoch * batches.len() as u64 + order.len() as u64);
                let shown = numbers(batches.get(step).unwrap());
                let last = step == (epoch + 1) * an_epoch - 1;
                prop_assert!(shown.len() == batch || last && (1..=batch).contains(&shown.len()));
                order.extend(shown);
            }
            let distinct: BTreeSet<usize> = order.iter().copied().collect();
            prop_assert_eq!((distinct.len(), order.len()), (batches.len(), batches.len()));
            prop_assert!(distinct.is_disjoint(&held));
            orders.push(order);
        }
        prop_assert!(len < 30 || orders[0] != orders[1], "the order of the images does not change");
        // Addressed: any batch again, in any order.
        let first = numbers(batches.get(0).unwrap());
        prop_assert_eq!(&first[..], &orders[0][..first.len()]);
        let fixed = batches.fixed().unwrap().map(|sets| sets.map(numbers));
        prop_assert_eq!(fixed.is_some(), held_out > 0.0);
        if let Some([train, unseen]) = fixed {
            prop_assert!(!train.is_empty() && train.iter().all(|number| !held.contains(number)));
            prop_assert!(!unseen.is_empty() && unseen.iter().all(|number| held.contains(number)));
        }
    }
}

#[test]
fn batches_of_other_images_than_the_config_asks_for() {
    let mut config = batches_config(8, 0.0, 0);
    config.data.size = 8;
    assert!(Batches::new(&dataset(10), &config, &Device::Cpu).is_err());
}

#[test]
fn batches_carry_the_classes_of_their_images() {
    let mut config = batches_config(3, 0.2, 0);
    config.data.classes = 4;
    let mut data = dataset(10);
    assert!(Batches::new(&data, &config, &Device::Cpu).is_err(), "without labels");
    data.labels = (0..10).map(|index| index % 4).collect();
    let mut batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
    let [train, held_out] = batches.fixed().unwrap().unwrap();
    for batch in [batches.get(0).unwrap(), batches.get(2).unwrap(), batches.spaced(5).unwrap(), train, held_out] {
        let images = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let classes = batch.classes.unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(classes.len(), images.len());
        for (image, class) in images.iter().zip(classes) {
            let number = ((image[0] + 1.0) * 127.5).round() as usize;
            assert_eq!(class, [0, 1, 2, 3].map(|of| f32::from(u8::from(of == number % 4))));
        }
    }
    data.labels[7] = 4;
    assert!(Batches::new(&data, &config, &Device::Cpu).is_err(), "a label beyond the classes");
}

#[test]
fn totals_are_honoured() {
    let place = Place::new();
    for (name, total, steps, images) in [("a", "--images=60", 5, 66), ("b", "--epochs=2", 8, 100), ("c", "--steps=5", 5, 66)] {
        let state = state(&place.train(name, DROPOUT, &[total]));
        assert_eq!((state.step, state.images), (steps, images), "{total}");
    }
    // Totals, not additions: also with --resume, and counted from the beginning.
    for (total, steps, images) in
        [("--images=101", 9, 116), ("--epochs=3", 12, 150), ("--steps=13", 13, 166), ("--epochs=2", 13, 166)]
    {
        resume(&place.path("a"), &[total]).assert().success();
        let state = state(&place.path("a"));
        assert_eq!((state.step, state.images), (steps, images), "{total}");
    }
    // Five critic steps a generator step, batches of 8: seven an epoch.
    let state = state(&place.train("wgan", WGAN, &["--epochs=2"]));
    assert_eq!((state.step, state.critic_optimizer_steps, state.images), (3, 15, 108));
}

#[test]
fn the_newest_checkpoints_stay() {
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=6", "--checkpoint-every=1", "--set=output.keep_checkpoints=3"]);
    let kept = |run: &Path| names(&run.join("checkpoints"));
    assert_eq!(kept(&run), set(["00000004", "00000005", "00000006", "best", "latest"]));

    // Back to an earlier one: what is saved from there on is never what is removed.
    let one = place.train("one", WGAN, &["--steps=9", "--checkpoint-every=1", "--set=output.keep_checkpoints=1"]);
    let copy = |from: &Path, to: &Path| {
        fs::create_dir(to).unwrap();
        names(from).iter().for_each(|name| assert!(fs::copy(from.join(name), to.join(name)).unwrap() > 0));
    };
    copy(&run.join("checkpoints/00000004"), &one.join("checkpoints/00000004"));
    fs::write(one.join("checkpoints/latest"), "00000004\n").unwrap();
    resume(&one, &["--steps=6"]).assert().success();
    assert_eq!(kept(&one), set(["00000006", "00000009", "best", "latest"]));
    assert_same("from an earlier checkpoint", &run, &one);
    resume(&one, &["--steps=10"]).assert().success();
    assert_eq!(kept(&one), set(["00000010", "best", "latest"]));
}

#[test]
fn the_score_of_held_out_images_is_logged() {
    let place = Place::new();
    let run = place.train("run", DROPOUT, &["--epochs=1", "--set=data.held_out=0.2", "--set=output.log_every={ steps = 1 }"]);
    let records = records(&run);
    assert_eq!((records.len(), records[2].images), (3, 40));
    assert!(records.iter().all(|record| record.score_held_out.is_some_and(f64::is_finite)));
    assert_eq!(state(&run).images, 40);
}

#[test]
fn damaged_checkpoints_are_named() {
    let place = Place::new();
    let run = place.train("run", CONVOLUTIONAL, &["--steps=2"]);
    let saved = run.join("checkpoints/00000002");
    let before = result(&run);
    let check = |path: &Path, contents: Option<&[u8]>, says: &str| {
        let whole = fs::read(path).unwrap();
        match contents {
            Some(contents) => fs::write(path, contents).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let told = complaint(&mut resume(&run, &["--steps=4"]), 1);
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
        assert!(told.contains(&path.display().to_string()) && told.contains(says), "{told}");
        fs::write(path, whole).unwrap();
        told
    };
    for name in names(&saved).iter().filter(|name| name.ends_with("safetensors")) {
        let path = saved.join(name);
        let whole = fs::read(&path).unwrap();
        check(&path, None, "Check the path");
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        check(&path, Some(&changed), "its checksum is not the one in SHA256SUMS");
        // Half a file, or another network's tensors, in a checkpoint without checksums.
        let sums = saved.join("SHA256SUMS");
        let kept = fs::read(&sums).unwrap();
        fs::remove_file(&sums).unwrap();
        check(&path, Some(&whole[..whole.len() / 2]), "go back to an earlier checkpoint");
        check(&path, Some(&whole[..5]), "go back to an earlier checkpoint");
        check(&path, Some(b""), "go back to an earlier checkpoint");
        let other = if name.starts_with("optimizer") { "generator.safetensors" } else { "critic.safetensors" };
        let other = if name == "critic.safetensors" { "generator.safetensors" } else { other };
        check(&path, Some(&fs::read(saved.join(other)).unwrap()), "its checksum is not the one in state.json");
        // And as it was before the state knew of checksums.
        let state = fs::read(saved.join("state.json")).unwrap();
        let mut old: Value = serde_json::from_slice(&state).unwrap();
        old.as_object_mut().unwrap().remove("files").unwrap();
        fs::write(saved.join("state.json"), old.to_string()).unwrap();
        check(&path, Some(&fs::read(saved.join(other)).unwrap()), "the run");
        fs::write(saved.join("state.json"), state).unwrap();
        fs::write(&sums, kept).unwrap();
    }
    let garbage: [&[u8]; 4] = [b"", b"{}", b"\xff\xfe", b"{\"step\": -1}"];
    for contents in garbage {
        check(&saved.join("state.json"), Some(contents), "go back to an earlier checkpoint");
    }
    let names: [&[u8]; 4] = [b"00000009\n", b"", b"../../run", b"\xff"];
    for contents in names {
        let pointer = run.join("checkpoints/latest");
        check(&pointer, Some(contents), "Write the name of one of the folders beside it");
    }
    check(&run.join("config.toml"), Some(b"preset = 3"), "presets NAME");
    check(&run.join("config.toml"), Some(b"\xff"), "not UTF-8");
    // A line in the middle of the log; the end may be cut off.
    let log = [b"{}\n".to_vec(), fs::read(run.join("stats.jsonl")).unwrap()].concat();
    check(&run.join("stats.jsonl"), Some(&log), "line 1");
    // Nothing of this changed the run.
    assert!(before == result(&run));
    resume(&run, &["--steps=4"]).assert().success();
    assert_eq!(state(&run).step, 4);
}

#[test]
fn other_images_are_refused() {
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=2"]);
    let (config, before) = (fs::read(run.join("config.toml")).unwrap(), result(&run));
    let other = place.path("other.idx");
    fs::write(&other, idx(50, 1)).unwrap();
    let told = complaint(&mut resume(&run, &["--steps=3", "--data", other.to_str().unwrap()]), 1);
    assert!(
        told.contains("00000002: this checkpoint was trained on other images (images.idx) than the ones given (other.idx)")
    );
    assert!(told.contains("--data"), "{told}");
    assert_eq!(fs::read(run.join("config.toml")).unwrap(), config, "a refused resume changed the run");
    assert!(before == result(&run));
    // The same images elsewhere are welcome, and remembered; the run's folder may move too.
    let (moved, images) = (place.path("moved"), place.path("moved.idx"));
    fs::rename(&run, &moved).unwrap();
    fs::rename(place.data(), &images).unwrap();
    assert!(complaint(&mut resume(&moved, &["--steps=3"]), 2).contains("images.idx"));
    resume(&moved, &["--steps=3", "--data", images.to_str().unwrap()]).assert().success();
    resume(&moved, &["--steps=4"]).assert().success();
    assert_eq!(state(&moved).step, 4);
}

#[test]
fn another_optimiser_is_refused() {
    let place = Place::new();
    let run = place.train("run", DROPOUT, &["--steps=2"]);
    let mut table: toml::Table = fs::read_to_string(run.join("config.toml")).unwrap().parse().unwrap();
    let sgd: toml::Table = "kind = 'sgd'\nlr = 0.1".parse().unwrap();
    table["optimizer"]["critic"] = sgd.into();
    fs::write(run.join("config.toml"), toml::to_string(&table).unwrap()).unwrap();
    let told = complaint(&mut resume(&run, &["--steps=3"]), 1);
    assert!(told.contains("config.toml: other than what the checkpoint 00000002 was made with: optimizer.critic."), "{told}");
    let told = complaint(&mut resume(&run, &["--steps=3", "--set=optimizer.critic={ kind = 'sgd', lr = 0.1 }"]), 1);
    assert!(told.contains("optimizer-critic.safetensors: the optimiser's state belongs to another optimiser"), "{told}");
}

#[test]
fn a_diverging_run_stops_and_keeps_what_was_good() {
    let place = Place::new();
    // Looked at after every step, or only saved after every step.
    let system = [DROPOUT, &["--set=optimizer.generator={ kind = 'sgd', lr = 1e6 }"]].concat();
    let system =
        [&system[..], &["--set=optimizer.critic={ kind = 'sgd', lr = 1e6 }", "--set=output.keep_checkpoints=1"]].concat();
    for (name, every) in [("log", "{ steps = 1 }"), ("save", "{ steps = 1000 }")] {
        let log = format!("--set=output.log_every={every}");
        let mut command = gan_train(&["--quiet", "--device=cpu", "--steps=500", "--checkpoint-every=1", &log]);
        command.arg("--data").arg(place.data()).arg("--out").arg(place.path(name)).args(&system);
        let told = complaint(&mut command, 1);
        assert!(told.contains("training diverged") && told.contains("--lr"), "{told}");
        let run = RunFolder::open(&place.path(name)).unwrap();
        let kept = checkpoint::latest(&run).unwrap().expect("the first step was sound");
        for tensor in checkpoint::read_generator(&kept, Weights::Raw).unwrap().values() {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "a broken checkpoint was saved");
        }
        assert!(told.contains("the best, is kept and exported") && run.onnx_file().exists(), "{told}");
    }
}

#[test]
fn what_the_watchdog_says_stays_though_the_run_goes_on() {
    let place = Place::new();
    const WILD: System = &[
        "--preset=wgan-mnist-mlp",
        "--batch-size=8",
        "--lr=0.1",
        "--set=watch.every={ images = 1000 }",
        "--set=watch.judge_samples=0",
    ];
    let flags = ["--images=20000", "--set=watch.stop=false", "--json"];
    let told = place.command("on", WILD, &flags).assert().success().get_output().stdout.clone();
    let summary: serde_json::Value = serde_json::from_slice(&told).unwrap();
    let outcome = &summary["outcome"];
    assert_eq!((&outcome["warnings"][0]["trouble"], &outcome["verdict"]), (&"dead-critic".into(), &serde_json::Value::Null));
    let report = fs::read_to_string(place.path("on").join("report.html")).unwrap();
    assert!(report.contains("the run went on") && report.contains("dead critic at step"));
    // A resume knows it, too; and where the watchdog may end a run, it does.
    let again = resume(&place.path("on"), &["--images=20200", "--json"]).assert().success().get_output().stdout.clone();
    let again: serde_json::Value = serde_json::from_slice(&again).unwrap();
    assert_eq!(again["outcome"]["warnings"], outcome["warnings"]);
    let told = complaint(&mut place.command("off", WILD, &["--images=20000"]), 1);
    assert!(told.contains("dead critic at step"), "{told}");
    // What it looked like in the end is there to be seen.
    let last = read_records(&RunFolder::open(&place.path("off")).unwrap()).unwrap().pop().unwrap();
    assert!(place.path("off").join(format!("samples/{:08}.png", last.step)).is_file(), "step {}", last.step);
}

/// Finds everything better than what was before.
struct Flatterer(std::cell::Cell<f64>);

impl Judge for Flatterer {
    fn distance(&self, _: &Images) -> ganforge::error::Result<f64> {
        self.0.set(self.0.get() - 1.0);
        Ok(self.0.get())
    }
}

#[test]
fn what_has_diverged_is_never_the_best() {
    let place = Place::new();
    let mut table = config::preset_table("digits").unwrap();
    let data = place.data().display().to_string();
    let flags = [DROPOUT, &["--set=output.checkpoint_every={ steps = 100 }", "--set=watch.judge_every={ steps = 2 }"]].concat();
    let settings = flags.iter().filter_map(|flag| flag.strip_prefix("--set="));
    settings.chain([&*format!("data.source={data}")]).for_each(|setting| config::set(&mut table, setting).unwrap());
    for wild in ["generator", "critic"] {
        config::set(&mut table, &format!("optimizer.{wild}={{ kind = 'sgd', lr = 1e6 }}")).unwrap();
    }
    config::set(&mut table, "schedule.length={ steps = 500 }").unwrap();
    let config = TrainConfig::from_table(table, "it").unwrap();
    let images = data::load(&data, &config.data, &Silent).unwrap();
    let folder = RunFolder::create(&place.path("run"), &config).unwrap();
    let (judge, stop) = (Flatterer(std::cell::Cell::new(0.0)), false.into());
    let (device, progress, judge) = (Device::Cpu, &Silent, Some(&judge as &dyn Judge));
    let job = Job { config: &config, data: &images, device: &device, folder: &folder, progress, stop: &stop, judge, set: &[] };
    let outcome = train::train(&job).unwrap();
    assert_eq!(outcome.verdict.map(|verdict| verdict.trouble), Some(Trouble::Divergence));
    assert!(folder.sample_file(outcome.step).is_file());
    // The last sound measurement, and it was saved then.
    let best = outcome.best.expect("the first steps were sound");
    assert!(best.step < outcome.step && best.quality.is_some());
    let kept = checkpoint::find(&folder, Which::Best).unwrap().unwrap();
    assert_eq!(checkpoint::read_state(&kept).unwrap().step, best.step);
}

#[test]
fn intervals_in_images_do_not_shrink_in_a_warm_up() {
    let place = Place::new();
    let warm = "--set=schedule.critic_warmup={ critic_steps = 20, first = 3, every = 500 }";
    let run = place.train(
        "run",
        WGAN,
        &["--steps=30", warm, "--set=watch.every={ images = 200 }", "--set=output.log_every={ steps = 1000 }"],
    );
    let seen: Vec<u64> =
        records(&run).iter().filter(|record| record.score_spread.is_some()).map(|record| record.images).collect();
    let crossed = seen.windows(2).all(|pair| pair[0] / 200 < pair[1] / 200);
    assert!(seen.len() > 2 && crossed, "{seen:?}");
}

#[test]
fn rounds_end_together_with_lengths() {
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=4", "--set=schedule.generator_steps=3"]);
    assert_eq!(state(&run).step, 6);
}

#[test]
fn wrong_calls_say_how_to_mend_them() {
    let place = Place::new();
    fs::write(place.path("file"), "x").unwrap();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/mine"), "x").unwrap();
    place.train("run", WGAN, &["--steps=1"]);
    let before = (names(place.0.path()), names(&place.path("full")), result(&place.path("run")));
    let (data, out) = (place.data().display().to_string(), place.path("out").display().to_string());
    let [file, full, run] = ["file", "full", "run"].map(|name| place.path(name).display().to_string());
    let below = place.path("file/below").display().to_string();
    let complete = ["--preset", "wgan-mnist-mlp", "--data", &data, "--out", &out, "--set=schedule.length={ steps = 1 }"];
    let with = |flags: &[&str]| [&complete[..], flags].concat().iter().map(|flag| flag.to_string()).collect::<Vec<_>>();
    let only = |flags: &[&str]| flags.iter().map(|flag| flag.to_string()).collect::<Vec<_>>();
    let at = |out: &str| only(&["--preset", "wgan-mnist-mlp", "--data", &data, "--out", out, "--steps=1"]);

    let calls = [
        (only(&["--preset", "dcgan28", "--data", &data, "--out", &out]), "Did you mean 'dcgan-28'?"),
        (only(&["--preset", "xyz", "--data", &data, "--out", &out]), "Presets: dcgan-28, "),
        (only(&["presets", "wgan-animal"]), "Did you mean 'wgan-anime'?"),
        (only(&["--preset", "digits", "--out", &out]), "--data is missing. Name a folder"),
        (only(&["--preset", "digits", "--data", &data]), "--out is missing. Name a new folder"),
        (only(&["--data", &data, "--out", &out]), "neither --preset nor --config nor --resume is given. `gan-train presets`"),
        (only(&["--preset", "digits", "--data", "mnits", "--out", &out]), "Did you mean 'mnist'?"),
        (only(&["--preset", "digits", "--data", "no/such/place", "--out", &out]), "no file or folder of that name"),
        (at(&run), "holds a run already. Continue it with gan-train --resume"),
        (at(&full), "is not empty. Choose a new or empty folder"),
        (at(&file), "is a file, or lies below one. Choose a new or empty folder"),
        (at(&below), "is a file, or lies below one. Choose a new or empty folder"),
        (with(&["--steps", "0"]), "invalid value '0' for '--steps <STEPS>': 0 is not in 1.."),
        (with(&["--epochs", "0"]), "0 is not in 1.."),
        (with(&["--images=-3"]), "invalid value '-3' for '--images"),
        (with(&["--epochs", "1", "--images", "1"]), "cannot be used with"),
        (with(&["--batch-size", "0"]), "0 is not in 1.."),
        (with(&["--batch-size", "65537"]), "schedule.batch_size must be 1 to 65536"),
        (with(&["--checkpoint-every", "0"]), "0 is not in 1.."),
        (with(&["--seed", "9223372036854775808"]), "is not in 0..=9223372036854775807"),
        (with(&["--lr", "0"]), "expected a number above 0"),
        (with(&["--lr", "nan"]), "expected a number above 0"),
        (with(&["--set", "schedule.batchsize=3"]), "unknown field `batchsize`, expected one of `batch_size`"),
        (with(&["--set", "sched.batch_size=3"]), "unknown field `sched`"),
        (with(&["--set", "schedule.batch_size=many"]), "invalid type: string \"many\""),
        (with(&["--set", "schedule.batch_size"]), "no '='. Write --set section.key=value"),
        (with(&["--set", "seed.x=1"]), "invalid type: map"),
        (with(&["--set", "preset.x=1"]), "'preset' is not a section"),
        (with(&["--set", "loss.clip=-1"]), "loss.clip must be above 0"),
        (with(&["--set", "latent.size=0"]), "latent.size must be 1 to 65536"),
        (with(&["--set", "data.size=32"]), "but data.size and data.channels ask for 1×32×32"),
        (with(&["--set", "critic.layers=[{ linear = { out = 2 } }]"]), "must end in one value an image"),
        (with(&["--device", "gpu"]), "--device gpu is not known. Use auto, cpu, cuda or cuda:INDEX"),
        (with(&["--device", "cuda:x"]), "is not known"),
        (
            with(&["--device", "cpu", "--precision", "tf32"]),
            "precision tf32 on the CPU, which computes in f32 only. Use --precision f32",
        ),
        (with(&["--device", "cpu", "--set", "schedule.precision=bf16"]), "precision bf16 on the CPU"),
        (with(&["--precision", "f16"]), "possible values: f32, tf32, bf16"),
        (with(&["--frobnicate"]), "unexpected argument '--frobnicate'"),
        (with(&["--resume", &run]), "cannot be used with"),
        (only(&["--resume", &run, "--lr", "1e-3"]), "change it on purpose with --set optimizer.generator.lr=X"),
        (only(&["--resume", &full]), "has no config.toml. Name a folder that gan-train made"),
        (only(&["--resume", &out]), "has no config.toml"),
        (only(&["export", &full]), "has no config.toml"),
        (only(&["export", &run, "--weights", "ema"]), "Use --weights raw"),
        (only(&["export", &run, "--layout", "hwc"]), "possible values: nhwc-u8, nchw-u8, nchw-f32"),
        (only(&["data", "no/such/place"]), "no file or folder of that name"),
        (only(&["data", &data, "--channels", "2"]), "Use 1 (grey) or 3 (RGB)"),
    ];
    for (call, says) in calls {
        let mut command = gan_train(&[]);
        let told = complaint(command.args(&call), 2);
        assert!(told.contains(says), "{call:?}: {told}");
    }
    if !cfg!(feature = "cuda") {
        let call = with(&["--device", "cuda"]);
        let told = complaint(gan_train(&[]).args(&call), 2);
        assert!(told.contains("built without CUDA: build it with --features cuda, or use --device cpu"), "{told}");
    }
    // No folder may be made here: the system's refusal, not a wrong call.
    #[cfg(target_os = "linux")]
    {
        let told = complaint(gan_train(&["--quiet"]).args(at("/proc/no/run")), 1);
        assert!(told.contains("cannot create folder /proc/no/run"), "{told}");
    }
    assert!(before == (names(place.0.path()), names(&place.path("full")), result(&place.path("run"))));
    gan_train(&[]).assert().code(2).stderr(contains("Usage: gan-train"));
}

#[test]
fn config_files() {
    let place = Place::new();
    let config = place.path("mine.toml");
    let train = |name: &str| {
        let mut command = gan_train(&["--quiet", "--steps=1", "--batch-size=4", "--config"]);
        command.arg(&config).arg("--data").arg(place.data()).arg("--out").arg(place.path(name));
        command
    };
    fs::write(&config, "base = 'wgan-mnist-mlp'\n[latent]\nsize = 3\n").unwrap();
    train("a").assert().success();
    let written = RunFolder::open(&place.path("a")).unwrap().config().unwrap();
    let mut expected = TrainConfig::preset("wgan-mnist-mlp").unwrap();
    (expected.latent.size, expected.schedule.batch_size, expected.schedule.length) = (3, 4, Span::Steps(1));
    expected.data.source = written.data.source.clone();
    assert_eq!(written, expected);
    // A run's own config begins another run like it.
    fs::copy(place.path("a/config.toml"), &config).unwrap();
    train("b").assert().success();
    assert_same("from a run's config", &place.path("a"), &place.path("b"));

    for (text, says) in [
        ("base = 'wgan-mnist-lmp'", "Did you mean 'wgan-mnist-mlp'"),
        ("base = 3", "base must be the name of a preset"),
        ("[data", "mine.toml"),
        ("seed = 1", "there is no [data] section"),
        ("[data]\nsize = 28", "missing field"),
        ("base = 'digits'\n[schedule]\nbatch = 3", "unknown field `batch`"),
    ] {
        fs::write(&config, text).unwrap();
        let output = train("c").assert().failure().stdout("").get_output().stderr.clone();
        let told = String::from_utf8(output).unwrap();
        assert!(told.contains(says) && told.starts_with("error: "), "{text}: {told}");
        assert!(!place.path("c").exists());
    }
    let missing = complaint(gan_train(&["--config", "no/such.toml", "--out", "x", "--data", "y"]).arg("--quiet"), 1);
    assert!(missing.contains("cannot read no/such.toml") && missing.contains("Check the path"), "{missing}");
}

#[test]
fn presets_can_be_listed_and_printed() {
    let list = gan_train(&["presets"]).assert().success().stderr("").get_output().stdout.clone();
    let list = String::from_utf8(list).unwrap();
    assert_eq!(list.lines().count(), PRESETS.len());
    for ((name, _), line) in PRESETS.iter().zip(list.lines()) {
        let config = TrainConfig::preset(name).unwrap();
        assert!(line.starts_with(name) && line.ends_with(&config.about) && !config.about.is_empty(), "{line}");
        let printed = gan_train(&["presets", name]).assert().success().stderr("").get_output().stdout.clone();
        assert_eq!(TrainConfig::from_toml(&String::from_utf8(printed).unwrap(), "it").unwrap(), config);
    }
}

#[test]
fn a_dry_run_prints_the_config_and_writes_nothing() {
    let place = Place::new();
    let before = names(place.0.path());
    let dry = |flags: &[&str]| {
        let output = place.command("run", CONVOLUTIONAL, flags).arg("--dry-run").assert().success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let text = dry(&["--epochs=3", "--seed=9"]);
    let config = TrainConfig::from_toml(&text, "it").unwrap();
    assert_eq!((config.seed, config.latent.size, config.schedule.length), (9, 8, Span::Epochs(3)));
    // 8·8·49 + 16 + 8·6·16 + 12 + 6·16 + 1 parameters, and 6·16 + 6 + 6·8·16 + 8 + 16 + 8·49 + 1.
    assert!(text.contains("# generator 4029 parameters, critic 1287; 12 steps on the CPU"), "{text}");
    assert!(text.contains("# images.idx: "), "{text}");
    assert_eq!(names(place.0.path()), before);
    // Without --out too.
    gan_train(&["--preset=digits", "--dry-run", "--quiet", "--data"]).arg(place.data()).assert().success();
    assert_eq!(names(place.0.path()), before);
}

#[test]
fn exporting_a_run() {
    let place = Place::new();
    let run = place.train("run", CONVOLUTIONAL, &["--steps=4"]);
    let export = |flags: &[&str], out: &str| {
        let mut command = gan_train(&["export"]);
        command.arg(&run).args(flags).arg("--out").arg(place.path(out)).assert().success().stderr("").stdout(contains(out));
        (open_generator(&place.path(out)), fs::read(place.path(out)).unwrap())
    };
    let (ema, ema_bytes) = export(&["--weights", "ema"], "ema.onnx");
    let (raw, raw_bytes) = export(&["--weights", "raw"], "raw.onnx");
    let weights = |generator: &Generator| generator.contract().unwrap().weights;
    assert_eq!((weights(&ema), weights(&raw)), (Weights::Ema, Weights::Raw));
    assert!(ema.sample(0, 0, 4).unwrap() != raw.sample(0, 0, 4).unwrap());
    assert_ne!(ema_bytes, raw_bytes);
    // What training exported is the average.
    assert_eq!(ema_bytes, fs::read(run.join("generator.onnx")).unwrap());
    for layout in ["nhwc-u8", "nchw-u8", "nchw-f32"] {
        let (generator, _) = export(&["--layout", layout], "layout.onnx");
        assert_eq!(generator.contract().unwrap().layout.name(), layout);
        let difference = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        let (ours, theirs) = (generator.sample(0, 0, 4).unwrap(), ema.sample(0, 0, 4).unwrap());
        assert!(ours.pixels.iter().zip(&theirs.pixels).map(difference).all(|d| d <= 1), "{layout}");
    }
    let (_, half) = export(&["--dtype", "f16"], "half.onnx");
    assert!(half.len() < ema_bytes.len());
    // By default into the run.
    fs::remove_file(run.join("generator.onnx")).unwrap();
    gan_train(&["export"]).arg(&run).assert().success().stdout(contains("ema weights after 50 images"));
    assert_eq!(fs::read(run.join("generator.onnx")).unwrap(), ema_bytes);
    // Never over something with something bad.
    let saved = run.join("checkpoints/00000004/ema.safetensors");
    fs::write(&saved, "x").unwrap();
    let told = complaint(gan_train(&["export"]).arg(&run), 1);
    assert!(told.contains("ema.safetensors"), "{told}");
    assert_eq!(fs::read(run.join("generator.onnx")).unwrap(), ema_bytes);
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let told = complaint(gan_train(&["export"]).arg(&run), 1);
    assert!(told.contains("no checkpoint yet. Continue it with gan-train --resume"), "{told}");
}

#[test]
fn data_sets_are_described() {
    let place = Place::new();
    let mut command = gan_train(&["data", "--quiet", "--size=28", "--channels=1"]);
    let text = command.arg(place.data()).assert().success().stderr("").get_output().stdout.clone();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("images.idx: 50 images, 28×28 grey\nsha256 ") && text.contains("at 28×28"), "{text}");
}

#[test]
fn without_onnxruntime_training_is_saved_and_exported_later() {
    let place = Place::new();
    let mut command = gan_train(&["--device=cpu", "--steps=2", "--data"]);
    command.env("ORT_DYLIB_PATH", "/nonexistent").arg(place.data()).arg("--out").arg(place.path("run")).args(WGAN);
    let said = command.assert().code(1).get_output().stderr.clone();
    let said = String::from_utf8(said).unwrap();
    let run = place.path("run");
    // Said before the training, and again at its end.
    let (warned, failed) = (said.find("warning: this run will train, but not export").unwrap(), said.find("error: ").unwrap());
    assert!(warned < said.find("2 of 2 steps").unwrap() && said.find("2 of 2 steps").unwrap() < failed, "{said}");
    assert!(said[failed..].contains("/nonexistent") && said[failed..].contains("Training is saved"), "{said}");
    assert!(said[failed..].contains(&format!("gan-train export {}", run.display())), "{said}");
    assert_eq!(state(&run).step, 2);
    assert!(!run.join("generator.onnx").exists() && run.join("curves.png").exists());
    let told = complaint(gan_train(&["export"]).arg(&run).env("ORT_DYLIB_PATH", "/nonexistent"), 1);
    assert!(told.contains("/nonexistent"), "{told}");
    gan_train(&["export"]).arg(&run).assert().success();
    check_sheet(&run, "00000002.png", 16, 4);
}

#[test]
fn data_in_impossible_forms_is_a_wrong_call() {
    for flags in [["--size=0", "--channels=1"], ["--size=2000", "--channels=1"], ["--size=28", "--channels=2"]] {
        gan_train(&["data", "synthetic"]).args(flags).assert().code(2).stdout("");
    }
}
