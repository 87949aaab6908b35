//! Latents, the contract, opening and sampling generators, `gan-infer` end to end.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use assert_cmd::Command;
use ganforge::contract::{self, Contract, Layout, Weights};
use ganforge::error::Error;
use ganforge::image::{Images, Range};
use ganforge::infer::generator::DENSE_BATCH;
use ganforge::infer::{
    Existing, Format, Generator, Job, Options, Plan, Provider, SeedList, Selection, Shard, Steering, builtin, pipeline, runtime,
};
use ganforge::latent::{Latent, Law, Truncation};
use ganforge::progress::Silent;
use predicates::prelude::*;
use predicates::str::contains;
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

const SEALED: &str = "sealed.onnx";
const STRANGER: &str = "stranger_nchw_f32.onnx";
const FIXED: &str = "stranger_fixed_u8.onnx";
const HALF: &str = "stranger_nhwc_f16.onnx";

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The onnxruntime of the tests: the environment's, that of `make setup`, or whatever the system has.
pub fn runtime_path() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    match std::env::var_os("ORT_DYLIB_PATH") {
        Some(path) => PathBuf::from(path),
        None if tools.join("onnxruntime").is_dir() => tools,
        None => runtime::locate().expect("the tests need an onnxruntime").path,
    }
}

fn gan_infer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", runtime_path());
    command
}

/// `gan-infer` on the sealed golden generator, into `out`; on the CPU if `flags` do not say otherwise.
pub fn sample(out: &Path, flags: &[&str]) -> Command {
    let mut command = gan_infer();
    command.arg("--model").arg(golden(SEALED)).arg("--out").arg(out).args(flags);
    if !flags.contains(&"--provider") {
        command.args(["--provider", "cpu"]);
    }
    // Small, so that few images make several batches and pieces.
    if !flags.contains(&"--batch") {
        command.args(["--batch", "8"]);
    }
    command
}

/// Opens a golden generator on the CPU.
fn open(name: &str, options: Options) -> Result<Generator, Error> {
    let options = Options { provider: Provider::Cpu, ..options };
    runtime::load_from(&runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
    Generator::open(&golden(name), &options)
}

/// Few images make several batches.
fn small_batches() -> Options {
    Options { batch: Some(8), ..Options::default() }
}

fn with_range(range: Range) -> Options {
    Options { range: Some(range), ..Options::default() }
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error was expected").to_string()
}

/// Every file below `folder`, by its path in it.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(
                contents(&path).into_iter().map(|(name, bytes)| (Path::new(path.file_name().unwrap()).join(name), bytes)),
            );
        } else {
            all.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
        }
    }
    all
}

/// The images below a folder, by their paths in it; neither manifests nor journals.
fn images_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    contents(folder).into_iter().filter(|(name, _)| name.extension().is_some_and(|ending| ending == "png")).collect()
}

fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

// --- latents

#[test]
fn latents_are_pinned() {
    let bits = |law, seed, index| {
        let rows = Latent { size: 5, law }.rows(seed, index, 1);
        rows.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(bits(Law::Normal, 0, 0), NORMAL_0_0);
    assert_eq!(bits(Law::Normal, 42, 1_000_000), NORMAL_42_1M);
    assert_eq!(bits(Law::Uniform, 0, 0), UNIFORM_0_0);
    assert_eq!(bits(Law::Uniform, u64::MAX, 1 << 40), UNIFORM_MAX_2_40);
}

proptest! {
    #[test]
    fn latents_are_addressed(seed: u64, start in 0..1u64 << 62, n in 1usize..9, size in 1usize..40, uniform: bool) {
        let latent = Latent { size, law: if uniform { Law::Uniform } else { Law::Normal } };
        let rows = latent.rows(seed, start, n);
        prop_assert_eq!(rows.len(), n * size);
        for (row, index) in rows.chunks(size).zip(start..) {
            prop_assert_eq!(row, latent.rows(seed, index, 1));
            prop_assert!(row.iter().all(|z| z.is_finite() && (!uniform || (-1.0..1.0).contains(z))));
        }
        // A longer latent starts like a shorter one, and other addresses give other values.
        let longer = Latent { size: size + 8, ..latent };
        let even = size - size % 2;
        prop_assert_eq!(&longer.rows(seed, start, 1)[..even], &rows[..even]);
        prop_assert_ne!(longer.rows(seed, start, 1), longer.rows(seed, start + 1, 1));
        prop_assert_ne!(longer.rows(seed, start, 1), longer.rows(seed ^ 1, start, 1));
    }
}

#[test]
fn truncated_latents_keep_their_rank() {
    let truncated = |law, x, mut values: Vec<f32>| {
        Truncation::new(x, law).unwrap().apply(law, &mut values);
        values
    };
    // scipy.stats.truncnorm.ppf(scipy.stats.norm.cdf(z), -x, x)
    for (x, z, expected) in TRUNCATED {
        let found = truncated(Law::Normal, x, vec![z])[0];
        assert!((f64::from(found) - expected).abs() < 1e-6, "{x} {z}: {found} {expected}");
    }
    assert_eq!(truncated(Law::Uniform, 0.25, vec![-1.0, 0.5]), [-0.25, 0.125]);
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(Truncation::new(wrong, Law::Normal)).contains("above 0"));
    }
    assert!(message(Truncation::new(1.5, Law::Uniform)).contains("up to 1"));
}

proptest! {
    #[test]
    fn truncation_bounds_and_orders(x in 0.01f64..20.0, mut z in prop::collection::vec(-6.6f32..6.6, 1..50)) {
        z.sort_by(f32::total_cmp);
        let mut values = z.clone();
        Truncation::new(x, Law::Normal).unwrap().apply(Law::Normal, &mut values);
        for (pair, before) in values.windows(2).zip(z.windows(2)) {
            prop_assert!(pair[0] <= pair[1], "{:?} {:?}", before, pair);
        }
        for (value, before) in values.iter().zip(&z) {
            prop_assert!(f64::from(value.abs()) <= x + 1e-6 && value.abs() <= before.abs() + 1e-6);
            prop_assert!(x < 8.0 || (value - before).abs() < 1e-4, "{} {}", before, value);
        }
    }
}

// --- which images

proptest! {
    #[test]
    fn shards_are_the_whole(start in 0..1u64 << 62, n in 0..1u64 << 62, of in 1u64..70, align in prop_oneof![Just(1), Just(1000)]) {
        let whole = start..start + n;
        let mut next = start;
        for index in 1..=of {
            let shard: Shard = format!("{index}/{of}").parse().unwrap();
            let part = shard.part(&whole, align);
            prop_assert!(part.start == next && part.end >= part.start);
            prop_assert!(part.start == start || part.start == whole.end || part.start.is_multiple_of(align));
            prop_assert!(part.end - part.start <= n / of + 1 + align);
            next = part.end;
        }
        prop_assert_eq!(next, whole.end);
    }

    #[test]
    fn a_list_of_seeds_names_each_once(runs in prop::collection::vec((0u64..60, 0u64..9), 1..12)) {
        let text: Vec<String> = runs.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
        let list: SeedList = text.join(",").parse().unwrap();
        let mut expected = Vec::new();
        for seed in runs.iter().flat_map(|(first, more)| *first..=first + more) {
            if !expected.contains(&seed) {
                expected.push(seed);
            }
        }
        let found: Vec<u64> = (0..list.len()).map(|place| list.get(place)).collect();
        prop_assert_eq!(&found, &expected);
        let again: SeedList = list.to_string().parse().unwrap();
        prop_assert_eq!(again, list);
    }
}

#[test]
fn wrong_lists_and_shards_are_refused() {
    for (text, says) in [
        ("", "no seed"),
        ("1,,2", "no seed"),
        ("a", "'a'"),
        ("9-3", "backwards"),
        ("1-", "no seed"),
        ("-1", "no seed"),
        ("0-18446744073709551615", "too many"),
    ] {
        assert!(text.parse::<SeedList>().unwrap_err().contains(says), "{text}");
    }
    for text in ["", "1", "0/4", "5/4", "1/0", "a/b", "1/2/3"] {
        assert!(text.parse::<Shard>().is_err(), "{text}");
    }
}

// --- the contract

fn any_contract() -> impl Strategy<Value = Contract> {
    let law = prop_oneof![Just(Law::Normal), Just(Law::Uniform)];
    let range = prop_oneof![Just(Range::Tanh), Just(Range::Sigmoid), Just(Range::Byte)];
    let layout = prop_oneof![Just(Layout::NhwcU8), Just(Layout::NchwU8), Just(Layout::NchwF32)];
    let weights = prop_oneof![Just(Weights::Ema), Just(Weights::Raw)];
    let texts = [".*", ".*", ".*", "[0-9a-f]{64}"];
    (law, range, layout, weights, texts, any::<[u64; 2]>(), any::<[u16; 3]>(), prop_oneof![Just(1), Just(3)]).prop_map(
        |(
            law,
            range,
            layout,
            weights,
            [preset, loss, data, data_sha256],
            [images_seen, seed],
            [size, height, width],
            channels,
        )| {
            let [size, height, width] = [size, height, width].map(usize::from);
            let latent = Latent { size, law };
            Contract {
                latent,
                classes: if size < 4 { 0 } else { size / 2 },
                range,
                layout,
                height,
                width,
                channels,
                preset,
                loss,
                data,
                data_sha256,
                images_seen,
                seed,
                weights,
            }
        },
    )
}

proptest! {
    #[test]
    fn contract_survives_its_metadata(contract in any_contract(), dropped in any::<prop::sample::Index>()) {
        let mut metadata = contract.to_metadata();
        let read = |metadata: &BTreeMap<String, String>| Contract::from_metadata("m", |key| metadata.get(key).cloned());
        prop_assert_eq!(read(&metadata).unwrap(), Some(contract));
        let keys: Vec<String> = metadata.keys().filter(|key| key.starts_with("ganforge.")).cloned().collect();
        let key = dropped.get(&keys);
        metadata.remove(key);
        match read(&metadata) {
            Ok(None) => prop_assert_eq!(key, "ganforge.contract"),
            // Without that line there are none.
            Ok(Some(contract)) => prop_assert!(key == "ganforge.latent.classes" && contract.classes == 0),
            Err(e) => prop_assert!(e.to_string().contains(key.as_str())),
        }
    }

    #[test]
    fn any_flipped_bit_of_a_sealed_file_is_noticed(at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut file = fs::read(golden(SEALED)).unwrap();
        prop_assert!(contract::check_seal("m", &file).is_ok());
        let at = at.index(file.len());
        file[at] ^= 1u8 << bit;
        let noticed = contract::check_seal("m", &file).is_err() || {
            runtime::load_from(&runtime_path()).unwrap();
            // The entry itself is hit: the file has a contract, but no checksum.
            Generator::from_bytes("m", file, &Options::default()).is_err()
        };
        prop_assert!(noticed, "byte {}", at);
    }
}

/// The sealed generator with one metadata value changed to another of the same length, and sealed again.
fn resealed(key: &str, from: &str, to: &str) -> Vec<u8> {
    let mut file = fs::read(golden(SEALED)).unwrap();
    let entry = |value: &str| [key.as_bytes(), &[0x12, value.len() as u8], value.as_bytes()].concat();
    let find = |file: &[u8], bytes: &[u8]| file.windows(bytes.len()).rposition(|window| window == bytes).unwrap();
    let (old, new) = (entry(from), entry(to));
    let at = find(&file, &old);
    file[at..at + new.len()].copy_from_slice(&new);
    let digits = find(&file, b"ganforge.sha256\x12\x40") + 17;
    file[digits..digits + 64].fill(b'0');
    assert!(contract::seal(&mut file));
    file
}

#[test]
fn a_broken_promise_is_refused() {
    open(SEALED, Options::default()).unwrap();
    for (key, from, to, found) in [
        ("ganforge.width", "6", "7", "image: u8 [8, 8, 6, 3]"),
        ("ganforge.channels", "3", "1", "image: u8 [8, 8, 6, 3]"),
        ("ganforge.latent.size", "16", "17", "z: f32 [n, 16]"),
        ("ganforge.layout", "nhwc-u8", "nchw-u8", "image: u8 [8, 8, 6, 3]"),
        ("ganforge.contract", "1", "2", "contract version 2"),
        ("ganforge.range", "tanh", "tinh", "unknown value 'tinh'"),
    ] {
        let error = message(Generator::from_bytes("model", resealed(key, from, to), &small_batches()));
        assert!(error.contains(found), "{key}: {error}");
    }
}

// --- generators

#[test]
fn a_sealed_generator_tells_and_samples() {
    let generator = open(SEALED, Options::default()).unwrap();
    assert_eq!(generator.image_shape(), [8, 6, 3]);
    assert_eq!(generator.latent(), Latent { size: 16, law: Law::Normal });
    assert_eq!((generator.provider(), generator.batch()), (Provider::Cpu, DENSE_BATCH));
    assert_eq!(generator.contract().map(|contract| contract.seed), Some(7));
    let images = generator.sample(3, 5, 20).unwrap();
    assert_eq!((images.n, images.pixels.len()), (20, 20 * 8 * 6 * 3));
    assert_eq!(images.get(7), generator.sample(3, 12, 1).unwrap().get(0));
    assert_ne!(images.get(0), images.get(1));
    assert_ne!(images.pixels, generator.sample(4, 5, 20).unwrap().pixels);
    assert!(message(generator.sample(0, u64::MAX, 1)).contains("2^63"));
}

#[test]
fn another_batch_size_moves_pixels_by_one_at_most() {
    let at = |batch| {
        let generator = open(SEALED, Options { batch: Some(batch), ..Options::default() }).unwrap();
        generator.sample(0, 3, 70).unwrap().pixels
    };
    let reference = at(8);
    for batch in [1, 7, 64] {
        assert!(at(batch).iter().zip(&reference).all(|(&a, &b)| a.abs_diff(b) <= 1), "batch {batch}");
    }
    let wrong = |batch| message(open(SEALED, Options { batch: Some(batch), ..Options::default() }));
    assert!(wrong(0).contains("1 to 4096") && wrong(1_000_000).contains("1 to 4096"));
}

#[test]
fn a_stranger_needs_its_range() {
    let unknown = open(STRANGER, Options::default()).unwrap();
    assert!(unknown.contract().is_none());
    assert!(message(unknown.sample(0, 0, 1)).contains("--range tanh"));
    // The same weights' pixels, computed by the graph (interleaved) and by us (from planes): the same multiset of columns.
    let stranger = open(STRANGER, with_range(Range::Tanh)).unwrap();
    let images = stranger.sample(0, 0, 9).unwrap();
    assert_eq!((images.n, images.height, images.width, images.channels), (9, 8, 6, 3));
    let sealed = open(SEALED, Options::default()).unwrap().sample(0, 0, 9).unwrap();
    for (planes, interleaved) in images.pixels.chunks(144).zip(sealed.pixels.chunks(144)) {
        for (at, &graphs) in interleaved.iter().enumerate() {
            // Value number `at` is channel `at / 48`, pixel `at % 48` to the one, pixel `at / 3` to the other.
            let ours = planes[at % 48 * 3 + at / 48];
            assert!(ours.abs_diff(graphs) <= 1, "{at}: {ours} {graphs}");
        }
    }
    let clipped = open(STRANGER, with_range(Range::Sigmoid)).unwrap().sample(0, 0, 9).unwrap();
    assert_ne!(clipped.pixels, images.pixels);
}

#[test]
fn a_fixed_batch_is_kept() {
    let generator = open(FIXED, Options::default()).unwrap();
    assert_eq!((generator.batch(), generator.image_shape()), (5, [8, 6, 1]));
    let images = generator.sample(0, 3, 9).unwrap();
    assert_eq!(images.get(4), generator.sample(0, 7, 1).unwrap().get(0));
    assert!(message(open(FIXED, Options { batch: Some(8), ..Options::default() })).contains("fixed at 5"));
    assert!(message(open(FIXED, with_range(Range::Tanh))).contains("pixels already"));
}

#[test]
fn a_half_precision_stranger_samples() {
    let half = open(HALF, with_range(Range::Tanh)).unwrap();
    assert_eq!((half.input(), half.output()), ("z: f16 [n, 16]".into(), "image: f16 [n, 8, 6, 3]".into()));
    let (half, full) = (half.sample(0, 0, 9).unwrap(), open(SEALED, Options::default()).unwrap().sample(0, 0, 9).unwrap());
    let furthest = half.pixels.iter().zip(&full.pixels).map(|(&a, &b)| a.abs_diff(b)).max();
    assert!(half.pixels != full.pixels && furthest <= Some(3), "{furthest:?}");
}

/// Both exporters of PyTorch, at every opset that they write, and what else its users do to a generator.
#[cfg(feature = "train")]
#[test]
fn what_pytorch_exports_computes_the_same() {
    use ganforge::infer::generator::CONVOLUTIONAL_BATCH;

    let file = fs::read(golden("strangers/values.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(expected.len(), 21);
    for (name, tensor) in expected.tensors() {
        let expected: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let generator = open(&format!("strangers/{name}.onnx"), Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut values = vec![0.0; expected.len()];
        generator.values_into(0, 0, &mut values).unwrap_or_else(|e| panic!("{name}: {e}"));
        let furthest = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let tolerance = match name.as_str() {
            "byte" => 1.0,
            "half" => 4e-3,
            _ => 2e-6,
        };
        assert!(furthest <= tolerance, "{name}: {furthest}");
        let (batch, shape) = match name.as_str() {
            "fixed" => (4, [6, 12, 3]),
            "grey" => (CONVOLUTIONAL_BATCH, [6, 12, 1]),
            "external" => (CONVOLUTIONAL_BATCH, [12, 8, 3]),
            name if name.starts_with("dynamo") => (CONVOLUTIONAL_BATCH, [12, 8, 3]),
            _ => (CONVOLUTIONAL_BATCH, [6, 12, 3]),
        };
        assert_eq!((generator.batch(), generator.image_shape()), (batch, shape), "{name}");
    }
}

/// `torch.onnx.export` writes weights into a second file by default.
#[test]
fn weights_in_a_file_of_their_own() {
    let folder = tempdir().unwrap();
    let model = folder.path().join("external.onnx");
    fs::copy(golden("strangers/external.onnx"), &model).unwrap();
    let run = |out: &str, flags: &[&str]| {
        let mut command = gan_infer();
        command.arg("--model").arg(&model).args(["--provider", "cpu", "--range", "tanh", "--n", "9"]);
        command.args(["--format", "npy", "--out"]).arg(folder.path().join(out)).args(flags);
        command
    };
    run("a", &[]).assert().code(1).stderr(contains("external.onnx.data, which is not there"));
    assert!(
        message(Generator::from_bytes("m", fs::read(&model).unwrap(), &Options::default())).contains("Open it by its path")
    );
    let weights = folder.path().join("external.onnx.data");
    fs::copy(golden("strangers/external.onnx.data"), &weights).unwrap();
    run("a", &[]).assert().success();
    // Other weights are another model, though the .onnx file is the same.
    let mut bytes = fs::read(&weights).unwrap();
    bytes[103] ^= 0x80; // a sign
    fs::write(&weights, bytes).unwrap();
    run("a", &["--resume"]).assert().code(2).stderr(contains("its model_sha256 is"));
    run("b", &[]).assert().success();
    let array = |out: &str| fs::read(folder.path().join(out).join("samples.npy")).unwrap();
    assert!(array("a") != array("b"));
}

/// A file of ours that lost its metadata passes for nobody else's.
#[test]
fn a_cut_off_generator_is_no_stranger() {
    let mut file = fs::read(golden(SEALED)).unwrap();
    let names = [b"ganforge.sha256".as_slice(), b"ganforge.contract"];
    assert!(names.iter().all(|name| file.windows(name.len()).any(|window| window == *name)));
    let metadata = file.windows(10).position(|window| window == b"Image.Bitm").unwrap();
    file.truncate(metadata - 4); // tags and lengths of the entry and its key
    let error = message(Generator::from_bytes("cut", file, &Options::default()));
    assert!(error.contains("has no ganforge.sha256"), "{error}");
}

#[test]
fn a_caller_gives_the_buffer() {
    let sealed = open(SEALED, small_batches()).unwrap();
    let mut pixels = vec![0; 20 * 144];
    sealed.sample_into(3, 5, &mut pixels).unwrap();
    assert_eq!(pixels, sealed.sample(3, 5, 20).unwrap().pixels);
    assert!(message(sealed.sample_into(3, 5, &mut pixels[..100])).contains("whole number of images"));
    assert!(message(sealed.sample_into(3, 5, &mut [])).contains("whole number of images"));
    let mut values = vec![0.0; 20 * 144];
    sealed.values_into(3, 5, &mut values).unwrap();
    assert!(values.iter().zip(&pixels).all(|(&value, &pixel)| value == f32::from(pixel)));

    // The network's own values, though nobody said what they mean.
    let stranger = open(STRANGER, Options::default()).unwrap();
    stranger.values_into(3, 5, &mut values).unwrap();
    let known = open(STRANGER, with_range(Range::Tanh)).unwrap().sample(3, 5, 20).unwrap();
    assert_eq!(Images::from_nchw(&values, [20, 3, 8, 6], Range::Tanh), known);
    assert!(values.iter().any(|value| *value < 0.0));
}

/// Each thread of an embedder samples from one generator.
#[test]
fn threads_share_a_generator() {
    let generator = open(SEALED, small_batches()).unwrap();
    let expected = generator.sample(0, 0, 40).unwrap();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4u64)
            .map(|part| {
                scope.spawn({
                    let generator = &generator;
                    move || generator.sample(0, part * 10, 10).unwrap().pixels
                })
            })
            .collect();
        let parts: Vec<u8> = all.into_iter().flat_map(|part| part.join().unwrap()).collect();
        assert_eq!(parts, expected.pixels);
    });
}

#[test]
fn a_provider_is_parsed() {
    assert_eq!("cuda".parse(), Ok(Provider::Cuda(0)));
    assert_eq!("cuda:3".parse(), Ok(Provider::Cuda(3)));
    for provider in [Provider::Auto, Provider::Cpu, Provider::Cuda(7)] {
        assert_eq!(provider.to_string().parse(), Ok(provider));
    }
    for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:4294967295", "CPU"] {
        assert!(wrong.parse::<Provider>().is_err(), "{wrong}");
    }
}

fn plan(format: Format, out: &Path, n: u64, existing: Existing) -> Plan {
    Plan::new(format, out, Selection::Numbers { seed: 0, start: 0, n }, None, existing).unwrap()
}

#[test]
fn stopped_work_leaves_no_file() {
    let generator = open(SEALED, small_batches()).unwrap();
    let folder = tempdir().unwrap();
    let job = Job { threads: 2, encoders: 0, steering: Steering::default() };
    for format in [Format::Png, Format::Npy, Format::Npz, Format::Tar, Format::Grid] {
        let out = folder.path().join(format.name());
        let plan = plan(format, &out, 100, Existing::Refuse);
        let stopped = pipeline::run(&generator, &job, &plan, &Silent, &AtomicBool::new(true));
        assert!(message(stopped).contains("interrupted: 0 of 100 images"));
        assert_eq!(contents(&out).len(), 0);
        let done = pipeline::run(&generator, &job, &plan, &Silent, &AtomicBool::new(false)).unwrap();
        assert_eq!(done.images, 100);
    }
}

// --- gan-infer

#[test]
fn parts_are_the_whole_and_threads_do_not_matter() {
    let folder = tempdir().unwrap();
    let [whole, part, two] = ["whole", "part", "two"].map(|name| folder.path().join(name));
    sample(&whole, &["--n", "100", "--threads", "1"]).assert().success();
    sample(&two, &["--n", "100", "--threads", "2"]).assert().success();
    sample(&part, &["--n", "60", "--start", "40"]).assert().success();
    assert_eq!(contents(&whole), contents(&two));
    let whole = images_in(&whole);
    assert_eq!(whole.len(), 100);
    let part = images_in(&part);
    assert_eq!(part.keys().next(), Some(&PathBuf::from("000040.png")));
    assert_eq!(part.len(), 60);
    assert!(part.iter().all(|(name, bytes)| whole.get(name) == Some(bytes)));
}

/// The shape and data of a NumPy file as the format's description has it.
fn read_npy(path: &Path) -> (String, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((data % 64, bytes[data - 1]), (0, b'\n'));
    (String::from_utf8(bytes[10..data].to_vec()).unwrap(), bytes[data..].to_vec())
}

#[test]
fn npy_and_grid_hold_the_same_pixels_as_png() {
    let folder = tempdir().unwrap();
    for format in ["png", "npy", "grid"] {
        sample(folder.path(), &["--n", "30", "--start", "7", "--format", format]).assert().success();
    }
    let (header, data) = read_npy(&folder.path().join("samples.npy"));
    assert!(header.starts_with("{'descr': '|u1', 'fortran_order': False, 'shape': (30, 8, 6, 3), }"), "{header}");
    assert_eq!(data.len(), 30 * 144);
    for (index, pixels) in (7..).zip(data.chunks(144)) {
        let png = image::open(folder.path().join(format!("{index:06}.png"))).unwrap();
        assert_eq!(png.as_bytes(), pixels, "{index}");
    }
    let sheet = Images { n: 30, height: 8, width: 6, channels: 3, pixels: data }.grid(6);
    let grid = image::open(folder.path().join("grid.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (6 * 8 + 2, 5 * 10 + 2));
    assert_eq!(grid.as_bytes(), sheet.pixels);
    let file = folder.path().join("new/one.npy");
    sample(&file, &["--n", "3", "--format", "npy"]).assert().success();
    assert_eq!(read_npy(&file).1.len(), 3 * 144);
    let much = sample(&folder.path().join("sheet"), &["--n", "9999999", "--format", "grid"]).assert().code(2);
    much.stderr(contains("contact sheet of 9999999"));
    assert!(!folder.path().join("sheet").exists());
}

#[test]
fn many_images_get_subfolders() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "10001", "--start", "500", "--quiet"];
    sample(folder.path(), &flags).assert().success().stderr("");
    let count = |name: &str| fs::read_dir(folder.path().join(name)).unwrap().count();
    assert_eq!((count(""), count("010000")), (9500 + 2, 501));
    assert!(folder.path().join("010000/010500.png").is_file());
    sample(folder.path(), &flags).assert().code(2).stderr(contains("10001 of these images"));
}

#[test]
fn the_summary_is_one_json_object() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "9", "--start", "1", "--seed", "5", "--json", "--quiet", "--threads", "1"];
    let output = sample(folder.path(), &flags).assert().success().stderr("").get_output().stdout.clone();
    let summary: serde_json::Value = serde_json::from_slice(&output).unwrap();
    for (key, value) in [("count", 9), ("start", 1), ("seed", 5), ("batch", 8), ("threads", 1)] {
        assert_eq!(summary[key], value, "{key}");
    }
    assert_eq!(summary["provider"], "cpu");
    assert_eq!(summary["out"].as_str(), folder.path().to_str());
    assert!(summary["seconds"].as_f64().unwrap() > 0.0 && summary["images_per_second"].as_f64().unwrap() > 0.0);
    sample(folder.path(), &["--n", "1"]).assert().success().stdout("").stderr(contains("1 images in"));
}

#[test]
fn what_is_there_is_not_overwritten() {
    let folder = tempdir().unwrap();
    let out = folder.path();
    sample(out, &["--n", "3", "--start", "4"]).assert().success();
    fs::write(out.join("000004.png"), "mine").unwrap();
    sample(out, &["--n", "5"]).assert().code(2).stderr(contains("holds 1 of these images").and(contains("--force")));
    assert_eq!(fs::read(out.join("000004.png")).unwrap(), b"mine");
    assert!(!out.join("000000.png").exists());
    sample(out, &["--n", "4"]).assert().success();
    sample(out, &["--n", "5", "--force"]).assert().success();
    assert_ne!(fs::read(out.join("000004.png")).unwrap(), b"mine");
    for format in ["npy", "npz", "tar", "grid"] {
        let out = &out.join(format);
        sample(out, &["--n", "5", "--format", format]).assert().success();
        sample(out, &["--n", "5", "--format", format]).assert().code(2).stderr(contains("already"));
        sample(out, &["--n", "5", "--format", format, "--force"]).assert().success();
    }
}

#[test]
fn a_wrong_out_is_refused_before_any_work() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for format in ["png", "npy", "grid"] {
        sample(&file, &["--n", "5", "--format", format]).assert().code(1).stderr(contains("file is where a folder should be"));
        sample(&file.join("below"), &["--n", "5", "--format", format]).assert().code(1).stderr(contains("error: cannot"));
    }
    sample(&folder.path().join("a.png"), &["--n", "5"]).assert().code(2).stderr(contains("--format grid"));
    sample(&folder.path().join("a.npy"), &["--n", "5", "--format", "grid"]).assert().code(2);
    assert_eq!(contents(folder.path()).len(), 1);
}

#[test]
fn a_wrong_call_leaves_with_2() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    for (flags, says) in [
        (&["--n", "0"][..], "0 is not in 1.."),
        (&["--n", "-1"], "--n"),
        (&[], "--n <N>"),
        (&["--n", "5", "--provider", "gpu"], "expected auto, cpu, cuda or cuda:INDEX"),
        (&["--n", "5", "--batch", "0"], "0 is not in 1..=4096"),
        (&["--n", "5", "--range", "tanh"], "pixels already"),
        (&["--n", "5", "--start", "18446744073709551615"], "2^63"),
        (&["--n", "5", "--format", "gif"], "possible values: png, npy, npz, tar, grid"),
    ] {
        sample(&out, flags).assert().code(2).stderr(contains(says));
    }
    gan_infer()
        .args(["--n", "5", "--out"])
        .arg(&out)
        .args(["--model", "nonesuch"])
        .assert()
        .code(2)
        .stderr(contains("nonesuch"));
    gan_infer()
        .args(["--n", "5", "--out"])
        .arg(&out)
        .args(["--model", "x.onnx"])
        .assert()
        .code(1)
        .stderr(contains("cannot read x.onnx"));
    assert!(!out.exists());
    if let Some(known) = builtin::BUILTIN.first() {
        let typo = format!("{}x", known.name);
        gan_infer().args(["info", &typo]).assert().code(2).stderr(contains(format!("Did you mean '{}'?", known.name)));
    }
}

#[test]
fn a_damaged_model_is_refused_in_one_paragraph() {
    let folder = tempdir().unwrap();
    let whole = fs::read(golden(SEALED)).unwrap();
    let mut flipped = whole.clone();
    flipped[5_000] ^= 4;
    for (name, bytes, says) in [
        ("empty", &b""[..], "the file is empty"),
        ("text", b"<html>not found</html>\n", "a text file"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("noise", &[0x08, 0xff, 0x03, 0x9c, 0x00, 0x71], "a group begins or ends at byte 3"),
        ("cut", &whole[..whole.len() / 2], "a part of"),
        ("flipped", &flipped, "checksum"),
    ] {
        let path = folder.path().join(format!("{name}.onnx"));
        fs::write(&path, bytes).unwrap();
        let out = folder.path().join("out");
        let run = gan_infer().args(["--n", "1", "--out"]).arg(&out).arg("--model").arg(&path).assert().code(1);
        let error = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(error.contains(says) && error.contains(path.to_str().unwrap()), "{name}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{name}: {error}");
        assert!(!out.exists());
    }
}

/// A copy of the program, away from the checkout and its libraries.
pub fn program_alone() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let program = bin.join("gan-infer");
    fs::copy(env!("CARGO_BIN_EXE_gan-infer"), &program).unwrap();
    (folder, program)
}

#[test]
fn without_onnxruntime_the_error_says_what_to_do() {
    let (folder, program) = program_alone();
    let bare = |program: &Path| {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", folder.path()).env("PATH", "").arg("runtime");
        command
    };
    let output = bare(&program).arg("--json").output().unwrap();
    if output.status.success() {
        eprintln!("partly skipped: this system has an onnxruntime of its own");
    } else {
        let told = contains("gan-infer runtime install").and(contains("python3: not on the PATH"));
        bare(&program).assert().code(1).stdout("").stderr(told.and(contains("no usable onnxruntime library (1.17 or newer)")));
        bare(&program).env("GANFORGE_HOME", "/elsewhere").assert().code(1).stderr(contains("/elsewhere/onnxruntime"));
    }
    let named = |path: &Path| {
        let mut command = bare(&program);
        command.env("ORT_DYLIB_PATH", path);
        command.assert().code(1).stdout("")
    };
    named(Path::new("/nowhere")).stderr(contains("/nowhere (named by ORT_DYLIB_PATH): no such file"));
    let fakes = folder.path().join("fakes");
    fs::create_dir(&fakes).unwrap();
    named(&fakes).stderr(contains("in it"));
    if cfg!(target_os = "linux") {
        fs::write(fakes.join("libonnxruntime.so"), "not a library").unwrap();
        let mut header = fs::read(&program).unwrap()[..4096].to_vec();
        fs::write(fakes.join("libonnxruntime.so.1.9.0"), &header).unwrap();
        let foreign = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        header[18..20].copy_from_slice(&u16::to_ne_bytes(foreign));
        fs::write(fakes.join("libonnxruntime.so.1.10.0"), &header).unwrap();
        let error = named(&fakes).get_output().stderr.clone();
        let error = String::from_utf8(error).unwrap();
        let at = |text: &str| error.find(text).unwrap_or_else(|| panic!("{text} is not in {error}"));
        // The plain name first, then the newest.
        assert!(at("not a shared library") < at("wrong architecture") && at("wrong architecture") < at("cut short"));
    }
}

#[test]
#[cfg(unix)]
fn onnxruntime_is_found_by_the_rules() {
    let found = runtime::load_from(&runtime_path()).unwrap();
    let (folder, program) = program_alone();
    let how = |setting: Option<(&str, &Path)>| {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", folder.path()).env("PATH", "").args(["runtime", "--json"]).envs(setting);
        let output = command.assert().success().get_output().stdout.clone();
        let facts: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(facts["onnxruntime"], found.version);
        facts["onnxruntime.found"].as_str().unwrap().to_string()
    };
    // Copies, which belong to this user as the program does.
    let name = found.path.file_name().unwrap();
    let copy_to = |place: &str| {
        let place = folder.path().join(place);
        fs::create_dir_all(&place).unwrap();
        fs::copy(&found.path, place.join(name)).unwrap();
        place
    };
    assert_eq!(how(Some(("ORT_DYLIB_PATH", &found.path))), "named by ORT_DYLIB_PATH");
    assert_eq!(how(Some(("LD_LIBRARY_PATH", &copy_to("system")))), "the system's libraries");
    copy_to(".local/lib/python3.9/site-packages/onnxruntime/capi");
    assert_eq!(how(None), "Python's site-packages");
    copy_to("home/onnxruntime/onnxruntime/capi");
    assert_eq!(how(Some(("GANFORGE_HOME", &folder.path().join("home")))), "installed by gan-infer");
    copy_to("lib");
    assert_eq!(how(Some(("GANFORGE_HOME", &folder.path().join("home")))), "beside the executable");
}

#[test]
fn info_models_and_runtime_answer() {
    let info = |name: &str| {
        let output = gan_infer()
            .args(["info", "--json", "--provider", "cpu"])
            .arg(golden(name))
            .assert()
            .success()
            .get_output()
            .stdout
            .clone();
        serde_json::from_slice::<serde_json::Value>(&output).unwrap()
    };
    let sealed = info(SEALED);
    assert_eq!((&sealed["checksum"], &sealed["contract"]), (&"ok".into(), &true.into()));
    assert_eq!((&sealed["input"], &sealed["output"]), (&"z: f32 [n, 16]".into(), &"image: u8 [n, 8, 6, 3]".into()));
    assert_eq!((&sealed["provider"], &sealed["onnxruntime.providers"][0]), (&"cpu".into(), &"cpu".into()));
    let stranger = info(STRANGER);
    assert_eq!((&stranger["checksum"], &stranger["range"]), (&"none".into(), &serde_json::Value::Null));
    gan_infer().args(["info"]).arg(golden(STRANGER)).assert().success().stdout(contains("--range"));
    let names = gan_infer().args(["models", "--json"]).assert().success().get_output().stdout.clone();
    let names: serde_json::Value = serde_json::from_slice(&names).unwrap();
    assert_eq!(names.as_array().unwrap().len(), builtin::BUILTIN.len());
    gan_infer().arg("runtime").assert().success().stdout(contains("libonnxruntime").or(contains("onnxruntime.dll")));
}

#[test]
fn cuda_is_an_error_where_there_is_none() {
    runtime::load_from(&runtime_path()).unwrap();
    if runtime::offers_cuda().unwrap() {
        eprintln!("skipped: this onnxruntime has the CUDA provider");
        return;
    }
    let folder = tempdir().unwrap();
    let run = sample(&folder.path().join("out"), &["--n", "1", "--provider", "cuda"]).assert().code(1);
    run.stderr(contains("has none").and(contains("gan-infer runtime install --cuda")));
}

/// The pixels of `samples.npz`, found by a zip library, which checks the checksum.
#[cfg(feature = "train")]
fn read_npz(path: &Path) -> (String, Vec<u8>) {
    let mut archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    assert_eq!(archive.len(), 1);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("arr_0.npy").unwrap(), &mut bytes).unwrap();
    let folder = tempdir().unwrap();
    let npy = folder.path().join("arr_0.npy");
    fs::write(&npy, bytes).unwrap();
    read_npy(&npy)
}

#[test]
#[cfg(feature = "train")]
fn npz_and_tar_hold_the_same_pixels_as_npy() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "2100", "--start", "950"];
    for format in ["npy", "npz", "tar"] {
        sample(&folder.path().join(format), &[&flags[..], &["--format", format]].concat()).assert().success();
    }
    let (header, pixels) = read_npy(&folder.path().join("npy/samples.npy"));
    assert_eq!(read_npz(&folder.path().join("npz/samples.npz")), (header, pixels.clone()));
    let mut number = 950;
    for (file, count) in [("000000.tar", 50), ("000001.tar", 1000), ("000002.tar", 1000), ("000003.tar", 50)] {
        let mut tar = tar::Archive::new(fs::File::open(folder.path().join("tar").join(file)).unwrap());
        let before = number;
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.path().unwrap(), Path::new(&format!("{number:06}.png")));
            let mut png = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut png).unwrap();
            assert_eq!(image::load_from_memory(&png).unwrap().as_bytes(), &pixels[(number - 950) * 144..][..144]);
            number += 1;
        }
        assert_eq!(number - before, count, "{file}");
    }
    let crc = format!("{:08x}", crc32fast::hash(&pixels));
    for (manifest, format) in [("npy/samples.npy.json", "npy"), ("npz/samples.npz.json", "npz")] {
        let manifest = read_json(&folder.path().join(manifest));
        assert_eq!((&manifest["pixels_crc32"], &manifest["format"]), (&crc.clone().into(), &format.into()));
        assert_eq!((&manifest["count"], &manifest["start"]), (&2100.into(), &950.into()));
    }
    let manifest = read_json(&folder.path().join("tar/manifest-tar-000950-003049.json"));
    assert_eq!((&manifest["pixels_crc32"], &manifest["files"][1]["count"]), (&crc.into(), &1000.into()));
}

#[test]
fn shards_concatenate_to_the_whole() {
    let folder = tempdir().unwrap();
    let of = |format: &str, out: &str, flags: &[&str]| {
        let out = folder.path().join(out);
        sample(&out, &[&["--n", "2345", "--start", "7", "--format", format][..], flags].concat()).assert().success();
        out
    };
    for format in ["png", "npy", "tar"] {
        let whole = of(format, &format!("{format}-whole"), &[]);
        let mut parts = PathBuf::new();
        for shard in ["1/3", "2/3", "3/3"] {
            parts = of(format, &format!("{format}-parts"), &["--shard", shard]);
        }
        match format {
            "npy" => {
                let data: Vec<u8> = contents(&parts)
                    .keys()
                    .filter(|name| name.extension().is_some_and(|ending| ending == "npy"))
                    .flat_map(|name| read_npy(&parts.join(name)).1)
                    .collect();
                assert_eq!(data, read_npy(&whole.join("samples.npy")).1);
            }
            _ => {
                let without_manifest = |folder: &Path| {
                    let all = contents(folder).into_iter();
                    all.filter(|(name, _)| name.extension().is_none_or(|ending| ending != "json")).collect::<BTreeMap<_, _>>()
                };
                assert_eq!(without_manifest(&parts), without_manifest(&whole));
            }
        }
    }
    // More shards than images: some are empty, none is an error.
    let few = |shard: &str| sample(&folder.path().join("few"), &["--n", "2", "--shard", shard]).assert().success();
    for shard in ["1/3", "2/3", "3/3"] {
        few(shard);
    }
    assert_eq!(images_in(&folder.path().join("few")).len(), 2);
    for format in ["npy", "npz", "tar"] {
        let out = folder.path().join(format!("few-{format}"));
        for shard in ["1/3", "2/3", "3/3"] {
            sample(&out, &["--n", "2", "--format", format, "--shard", shard]).assert().success();
        }
    }
    let lone = folder.path().join("lone");
    sample(&lone.join("x.npy"), &["--n", "9", "--format", "npy", "--shard", "2/3"]).assert().success();
    assert_eq!(read_npy(&lone.join("x-2-of-3.npy")).1.len(), 3 * 144);
}

#[test]
fn seeds_name_the_images() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("seeds");
    sample(&out, &["--seeds", "3,8-10,12345,9"]).assert().success().stderr(contains("image 0 of 5 seeds"));
    let images = images_in(&out);
    let names: Vec<_> = images.keys().map(|name| name.to_str().unwrap()).collect();
    assert_eq!(names, ["000003.png", "000008.png", "000009.png", "000010.png", "012000/012345.png"]);
    for (seed, name) in [("9", "000009.png"), ("12345", "012000/012345.png")] {
        let one = folder.path().join(seed);
        sample(&one, &["--n", "1", "--seed", seed]).assert().success();
        let pixels = |path: &Path| image::open(path).unwrap().into_bytes();
        let (a, b) = (pixels(&out.join(name)), pixels(&one.join("000000.png")));
        assert!(a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
    let manifest = read_json(&out.join("manifest-seeds-3_8-10_12345.json"));
    assert_eq!((&manifest["seeds"], &manifest["count"]), (&"3,8-10,12345".into(), &5.into()));
    sample(&out, &["--seeds", "1-9"]).assert().code(2).stderr(contains("holds 3 of these images"));
    sample(&out, &["--seeds", "1", "--n", "3"]).assert().code(2);
    sample(&out, &["--seeds", "1-x"]).assert().code(2).stderr(contains("'1-x' is no seed"));
}

#[test]
fn truncation_makes_other_images() {
    let folder = tempdir().unwrap();
    let pixels = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        sample(&out, &[&["--n", "50", "--format", "npy"][..], flags].concat()).assert().success();
        let spread = |pixels: &[u8]| pixels.iter().map(|&pixel| f64::from(pixel.abs_diff(128))).sum::<f64>();
        spread(&read_npy(&out.join("samples.npy")).1)
    };
    // tanh(z W): latents nearer to 0 make images nearer to grey.
    let (whole, half, tenth) =
        (pixels("whole", &[]), pixels("half", &["--truncation", "1"]), pixels("tenth", &["--truncation", "0.1"]));
    assert!(whole > half && half > 4.0 * tenth, "{whole} {half} {tenth}");
    sample(&folder.path().join("x"), &["--n", "1", "--truncation", "0"]).assert().code(2).stderr(contains("above 0"));
    sample(&folder.path().join("x"), &["--n", "1", "--class", "0"]).assert().code(2).stderr(contains("knows no classes"));
}

/// How often each job is killed: `GANFORGE_KILLS`, or a few times.
#[cfg(unix)]
fn kills() -> u64 {
    std::env::var("GANFORGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Kills `gan-infer` at any moments, goes on with `--resume`, each time with another number of threads. Two of three kills come
/// once something of this turn is done, the third wherever it hits.
#[cfg(unix)]
fn killed_and_resumed(out: &Path, flags: &[&str]) {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    let mut random = ChaCha8Rng::seed_from_u64(7);
    // Bytes of the journal, with which every finished piece adds to it.
    let noted = || {
        let mut all = fs::read_dir(out).into_iter().flatten().flatten();
        let journal = all.find(|entry| entry.file_name().to_string_lossy().ends_with(".journal"));
        journal.and_then(|journal| journal.metadata().ok()).map_or(0, |journal| journal.len())
    };
    let mut amid = 0;
    for turn in 0..kills() {
        let before = noted();
        let threads = (turn % 4 + 1).to_string();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"))
            .env("ORT_DYLIB_PATH", runtime_path())
            .args(["--provider", "cpu", "--batch", "8", "--quiet", "--resume", "--threads", &threads, "--model"])
            .arg(golden(SEALED))
            .arg("--out")
            .arg(out)
            .args(flags)
            .spawn()
            .unwrap();
        while turn % 3 < 2 && noted() <= before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // Early ones are as frequent as late ones.
        let wait = 2f64.powf(f64::from(random.next_u32()) / f64::from(u32::MAX) * 13.0) * 6.0;
        std::thread::sleep(std::time::Duration::from_micros(wait as u64));
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        amid += u64::from(alive && noted() > before);
    }
    println!("{amid} of {} kills hit a job that had done something since the one before", kills());
    assert!(amid >= (kills() / 3).max(1), "{amid}");
    sample(out, &[flags, &["--resume"]].concat()).assert().success();
}

#[test]
#[cfg(unix)]
fn a_killed_job_goes_on_where_it_was() {
    let folder = tempdir().unwrap();
    for (format, n) in [("png", 1500), ("npy", 70_000), ("npz", 70_000), ("tar", 3400)] {
        let n = &(n * kills()).to_string();
        let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(format!("{format}-{name}")));
        let flags = ["--n", n, "--format", format, "--start", "3"];
        sample(&whole, &flags).assert().success();
        killed_and_resumed(&killed, &flags);
        assert!(contents(&killed) == contents(&whole), "{format}");
        // Once more is no work, and no error; but what is not there any more is made again.
        sample(&killed, &[&flags[..], &["--resume"]].concat()).assert().success().stderr(contains("0 images in"));
        let renamed = folder.path().join("other-name.onnx");
        fs::copy(golden(SEALED), &renamed).unwrap();
        let mut again = gan_infer();
        again
            .args(["--provider", "cpu", "--batch", "8", "--resume", "--model"])
            .arg(&renamed)
            .arg("--out")
            .arg(&killed)
            .args(flags);
        again.assert().success();
        let lost = contents(&killed).into_keys().find(|name| name.extension().is_some_and(|ending| ending == format)).unwrap();
        fs::remove_file(killed.join(&lost)).unwrap();
        sample(&killed, &[&flags[..], &["--resume"]].concat())
            .assert()
            .success()
            .stderr(contains("says that the job is done, but"));
        assert!(contents(&killed) == contents(&whole), "{format}");
        sample(&killed, &["--n", n, "--format", format, "--start", "3", "--seed", "1", "--resume"])
            .assert()
            .code(2)
            .stderr(contains("seed"));
    }
}

#[test]
fn encoders_of_their_own_write_the_same() {
    let generator = open(SEALED, small_batches()).unwrap();
    let folder = tempdir().unwrap();
    let made = |name: &str, format, threads, encoders| {
        let out = folder.path().join(name);
        let job = Job { threads, encoders, steering: Steering::default() };
        pipeline::run(&generator, &job, &plan(format, &out, 3000, Existing::Refuse), &Silent, &AtomicBool::new(false)).unwrap();
        contents(&out)
    };
    for format in [Format::Png, Format::Npz, Format::Tar] {
        let name = format.name();
        assert!(made(&format!("{name}-0"), format, 2, 0) == made(&format!("{name}-3"), format, 1, 3), "{name}");
    }
    // A failure of an encoder ends the sessions.
    let out = folder.path().join("broken");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("010000"), "").unwrap();
    let job = Job { threads: 2, encoders: 3, steering: Steering::default() };
    let failed =
        pipeline::run(&generator, &job, &plan(Format::Png, &out, 100_000, Existing::Refuse), &Silent, &AtomicBool::new(false));
    assert!(message(failed).contains("010000"));
}

/// What is overwritten, or was overwritten in part, is never taken for what was there before.
#[test]
fn force_forgets_what_was_there() {
    let folder = tempdir().unwrap();
    let (png, npy) = (folder.path().join("png"), folder.path().join("npy"));
    sample(&png, &["--n", "30"]).assert().success();
    let manifest = fs::read(png.join("manifest.json")).unwrap();
    sample(&png, &["--n", "30", "--seed", "1", "--force"]).assert().success();
    assert_ne!(fs::read(png.join("manifest.json")).unwrap(), manifest);
    sample(&png, &["--n", "30", "--resume"]).assert().code(2).stderr(contains("its seed is 1"));

    // An unfinished file of another length under the name of a new one.
    sample(&npy, &["--n", "9", "--format", "npy"]).assert().success();
    let whole = contents(&npy);
    let header = fs::read_to_string(npy.join("samples.npy.json")).unwrap();
    let mut identity: serde_json::Value = serde_json::from_str(&header).unwrap();
    for key in ["bytes", "count", "file", "pixels_crc32"] {
        identity.as_object_mut().unwrap().remove(key);
    }
    fs::remove_file(npy.join("samples.npy")).unwrap();
    fs::remove_file(npy.join("samples.npy.json")).unwrap();
    fs::write(npy.join(".samples.npy.json.journal"), format!("{identity}\n")).unwrap();
    fs::write(npy.join(".samples.npy.json.part"), vec![7; 100_000]).unwrap();
    sample(&npy, &["--n", "9", "--format", "npy", "--resume"]).assert().success();
    assert!(contents(&npy) == whole);
}

#[test]
fn tar_files_of_others_are_seen() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("000003.tar"), "mine").unwrap();
    let flags = ["--n", "2100", "--start", "950", "--format", "tar"];
    sample(folder.path(), &flags).assert().code(2).stderr(contains("holds 1 of these tar files"));
    assert_eq!(fs::read(folder.path().join("000003.tar")).unwrap(), b"mine");
    sample(folder.path(), &["--n", "2000", "--start", "950", "--format", "tar"]).assert().success();
}

#[test]
fn too_much_is_refused() {
    let folder = tempdir().unwrap();
    let much = ["--n", "9223372036854775807"];
    for format in ["npy", "npz"] {
        let refused = sample(&folder.path().join(format), &[&much[..], &["--format", format]].concat()).assert().code(2);
        refused.stderr(contains("more than one file can hold"));
        assert!(!folder.path().join(format).exists());
    }
}

#[test]
#[cfg(unix)]
fn a_job_at_work_is_left_alone() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "1000000000"];
    let mut first = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"))
        .env("ORT_DYLIB_PATH", runtime_path())
        .args(["--quiet", "--model"])
        .arg(golden(SEALED))
        .arg("--out")
        .arg(folder.path())
        .args(flags)
        .spawn()
        .unwrap();
    while !folder.path().join("000999.png").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for other in ["--resume", "--force"] {
        sample(folder.path(), &[&flags[..], &[other]].concat()).assert().code(2).stderr(contains("is locked"));
    }
    sample(folder.path(), &flags).assert().code(2).stderr(contains("unfinished job"));
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
#[cfg(unix)]
fn full_and_closed_places_say_so() {
    let folder = tempdir().unwrap();
    let shell = |limit: &str, flags: &str| {
        let mut shell = Command::new("bash");
        let program = env!("CARGO_BIN_EXE_gan-infer");
        let model = golden(SEALED).display().to_string();
        let out = folder.path().display();
        shell.env("ORT_DYLIB_PATH", runtime_path());
        shell.args([
            "-c",
            &format!("{limit}; '{program}' --provider cpu --batch 8 --quiet --model '{model}' --out '{out}' {flags}"),
        ]);
        shell.assert()
    };
    // A file may have 4 blocks of 1024 bytes; SIGXFSZ is for those who do not look at errors.
    let whole = folder.path().join("whole");
    sample(&whole, &["--n", "3000", "--format", "npy"]).assert().success();
    shell("trap '' XFSZ; ulimit -f 4", "--n 3000 --format npy")
        .code(1)
        .stderr(contains("cannot write").and(contains("samples.npy")));
    shell("true", "--n 3000 --format npy --resume").success();
    assert_eq!(fs::read(folder.path().join("samples.npy")).unwrap(), fs::read(whole.join("samples.npy")).unwrap());
    // Beside the libraries' there is a handle for one PNG file, and four threads want one.
    let starved = shell("ulimit -n 5", "--n 4000 --threads 4").code(1);
    let told = String::from_utf8_lossy(&starved.get_output().stderr).into_owned();
    assert!(told.contains("error: ") && !told.contains("panicked"), "{told}");
    shell("true", "--n 4000 --resume").success();
    assert_eq!(images_in(folder.path()).len(), 4000);
}

/// A file system of its own, seen by one shell only: too small for the job at first, then read-only, then large enough.
#[test]
#[cfg(target_os = "linux")]
fn a_full_or_read_only_disk_breaks_nothing() {
    let private = ["--map-root-user", "--mount"];
    let folder = tempdir().unwrap();
    let mut probe = std::process::Command::new("unshare");
    probe.args(private).args(["mount", "-t", "tmpfs", "-o", "size=300k", "none"]).arg(folder.path());
    if !probe.status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: this machine lets nobody mount a file system of his own (unshare --map-root-user --mount)");
    }
    let script = r#"
        mkdir disk && mount -t tmpfs -o size=300k none disk || exit 7
        "$@" --out disk/job 2> full; echo $? >> full
        mount -o remount,ro,size=300k disk
        "$@" --out disk/job --resume 2> read-only; echo $? >> read-only
        "$@" --out disk/other 2>> read-only; echo $? >> read-only
        mount -o remount,rw,size=100m disk
        "$@" --out disk/job --resume && cp -r disk/job made"#;
    for (format, n) in [("png", "2000"), ("npy", "20000"), ("npz", "20000"), ("tar", "3000")] {
        let [work, whole] = ["work", "whole"].map(|name| folder.path().join(format!("{format}-{name}")));
        fs::create_dir(&work).unwrap();
        let flags = ["--n", n, "--format", format];
        sample(&whole, &flags).assert().success();
        let mut shell = Command::new("unshare");
        shell.env("ORT_DYLIB_PATH", runtime_path()).current_dir(&work).args(private).args(["bash", "-c", script, "bash"]);
        shell.arg(env!("CARGO_BIN_EXE_gan-infer")).args(["--provider", "cpu", "--batch", "8", "--quiet", "--model"]);
        shell.arg(golden(SEALED)).args(flags).assert().success();
        assert!(contents(&work.join("made")) == contents(&whole), "{format}");
        let told = |name: &str| fs::read_to_string(work.join(name)).unwrap();
        let (full, read_only) = (told("full"), told("read-only"));
        assert!(full.contains("cannot write disk/job/") && full.contains("No space left") && full.ends_with("\n1\n"), "{full}");
        assert_eq!(read_only.matches("Read-only file system").count(), 2, "{read_only}");
        assert!(read_only.contains("disk/other") && read_only.lines().filter(|line| *line == "1").count() == 2, "{read_only}");
    }
}

#[test]
fn a_measurement_tells_what_bounds_the_rate() {
    let folder = tempdir().unwrap();
    let bench = |flags: &[&str]| {
        let mut command = gan_infer();
        command.arg("bench").arg(golden(SEALED)).args(["--provider", "cpu", "--seconds", "0.05", "--batches", "1,8"]);
        command.arg("--scratch").arg(folder.path()).args(flags);
        String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
    };
    let report: serde_json::Value = serde_json::from_str(&bench(&["--json"])).unwrap();
    assert_eq!((&report["batch"], &report["provider"]), (&DENSE_BATCH.into(), &"cpu".into()));
    let rate = |value: &serde_json::Value| value["rate"]["median"].as_f64().unwrap();
    for (list, least) in [("network", 2), ("stages", 4), ("whole", 2)] {
        let all = report[list].as_array().unwrap();
        assert!(all.len() >= least && all.iter().all(|one| rate(one) > 0.0), "{list}: {all:?}");
    }
    // Files are the slowest there is for images of 144 bytes.
    assert_eq!(report["whole"][1]["bound_by"], "file creation");
    assert!(rate(&report["whole"][0]) > rate(&report["whole"][1]));
    assert!(bench(&["--threads", "1"]).contains("batch    8,  1 sessions"));
    assert_eq!(contents(folder.path()).len(), 0);
    gan_infer().args(["bench", "--seconds", "0"]).assert().code(2);
}

#[test]
fn another_job_or_a_damaged_journal_is_refused() {
    let folder = tempdir().unwrap();
    let out = folder.path();
    let generator = open(SEALED, small_batches()).unwrap();
    let job = Job { threads: 1, encoders: 0, steering: Steering::default() };
    // A job whose second subfolder cannot be made.
    fs::write(out.join("010000"), "").unwrap();
    let begun = plan(Format::Png, out, 10_100, Existing::Refuse);
    let failed = pipeline::run(&generator, &job, &begun, &Silent, &AtomicBool::new(false));
    assert!(message(failed).contains("010000"));
    let whole = images_in(out).len();
    assert!(whole >= 9_900, "{whole}");
    let flags = ["--n", "10100"];
    sample(out, &flags).assert().code(2).stderr(contains("unfinished job").and(contains("--resume")));
    let resume = |flags: &[&str]| sample(out, &[flags, &["--resume"]].concat());
    for (flags, says) in [
        (&["--n", "10101"][..], "its n is 10100, this call's is 10101"),
        (&["--n", "10100", "--seed", "1"], "its seed is 0"),
        (&["--n", "10100", "--batch", "4"], "its batch is 8"),
        (&["--n", "10100", "--truncation", "1"], "its truncation is null"),
    ] {
        resume(flags).assert().code(2).stderr(contains(says));
    }
    resume(&flags).assert().code(1).stderr(contains("010000"));
    let journal = out.join(".manifest.json.journal");
    let text = fs::read_to_string(&journal).unwrap();
    let header = text.lines().next().unwrap();
    for damage in [format!("no {text}"), text.replacen("\"seed\":0", "\"seed\":1", 1)] {
        fs::write(&journal, damage).unwrap();
        resume(&flags).assert().code(1).stderr(contains("first line is damaged").and(contains("--force")));
    }
    // Lines that do not vouch for themselves count for nothing.
    for line in ["5 5 00000000 1 00000000", "50 x", "20000 8 00000000 1 00000000 00000000", "0 256 00000000 99 00000000"] {
        fs::write(&journal, format!("{header}\n{line}\n")).unwrap();
        resume(&flags).assert().code(1).stderr(contains("0 images are kept").and(contains("010000")));
    }
    // A line that was being written counts for nothing; nor does a journal that had no line yet.
    fs::remove_file(out.join("010000")).unwrap();
    fs::write(&journal, format!("{header}\n0 256 0000")).unwrap();
    resume(&flags).assert().success();
    assert_eq!(images_in(out).len(), 10_100);
    assert!(!journal.exists());
    let fresh = folder.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join(".manifest.json.journal"), &header[..20]).unwrap();
    sample(&fresh, &["--n", "30", "--resume"]).assert().success();
    assert_eq!(contents(&fresh).len(), 31);
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_whole_images_only() {
    let folder = tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"))
        .env("ORT_DYLIB_PATH", runtime_path())
        .args(["--n", "1000000000", "--quiet", "--model"])
        .arg(golden(SEALED))
        .arg("--out")
        .arg(folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let first = folder.path().join("001000.png");
    let waiting = std::time::Instant::now();
    while !first.exists() && waiting.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    let mut error = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut error).unwrap();
    assert_eq!(status.code(), Some(1), "{error}");
    let files = images_in(folder.path());
    let told = error.strip_prefix("error: interrupted: ").and_then(|rest| rest.split_once(" of 1000000000 images are whole"));
    let told: usize = told.unwrap_or_else(|| panic!("{error}")).0.parse().unwrap();
    // A piece that was not finished does not count, but its images are whole, too.
    assert!((1..=files.len()).contains(&told), "{told} {}", files.len());
    for (name, bytes) in files {
        image::load_from_memory(&bytes).unwrap_or_else(|e| panic!("{}: {e}", name.display()));
    }
}

#[test]
#[cfg(unix)]
fn a_closed_stdout_is_no_panic() {
    let command = format!("'{}' info '{}' | true", env!("CARGO_BIN_EXE_gan-infer"), golden(SEALED).display());
    let mut shell = Command::new("bash");
    shell.env("ORT_DYLIB_PATH", runtime_path()).args(["-c", &format!("set -o pipefail; {command}")]);
    shell.assert().success().stderr("");
}

/// (X, z, z').
const TRUNCATED: [(f64, f32, f64); 6] = [
    (1.0, -2.5, -0.982631055),
    (1.0, 0.3, 0.203164811),
    (0.5, 1.75, 0.456884067),
    (2.0, -0.01, -0.009544983),
    (3.0, 4.5, 2.999236296),
    (0.1, -6.0, -0.100000000),
];

// The bits of `latents_are_pinned`: they name the images of every seed for good, on every platform.
const NORMAL_0_0: [u32; 5] = [0xbf8a_2bd8, 0xbfc3_7ff7, 0xbfd6_d9aa, 0x3f3a_11b0, 0x3ea5_640a];
const NORMAL_42_1M: [u32; 5] = [0x3e69_8fcb, 0xbfe7_f613, 0xc003_f795, 0x3f87_eaa7, 0xbf8a_b8f4];
const UNIFORM_0_0: [u32; 5] = [0xbf26_f080, 0x3e9b_baec, 0xbf1f_e462, 0xbe05_3288, 0x3f18_ba20];
const UNIFORM_MAX_2_40: [u32; 5] = [0x3f2a_0f90, 0xbf47_d594, 0x3f22_59ce, 0x3f1c_6832, 0xbd34_dda0];
