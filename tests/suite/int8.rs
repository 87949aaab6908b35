//! Generators in whole numbers, and with weights of 8 bits: what they compute, what they cost, what is refused.

use std::path::{Path, PathBuf};

use ganforge::contract::{Cost, Layout};
use ganforge::eval::features;
use ganforge::eval::{FeatureModel, InputRange};
use ganforge::export::onnx::ModelProto;
use ganforge::export::onnx::tensor_proto::DataType;
use ganforge::export::{self, Dtype, LEAST_PSNR, MAX_LOSS, Reduction, ReductionReport};
use ganforge::image::{Images, Range};
use ganforge::infer::{Generator, Options, Precision, Provider, builtin, runtime};
use ganforge::progress::Silent;
use ganforge::train::{RunFolder, Trained, Which, load_trained};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use prost::Message;
use tempfile::tempdir;

use crate::export::custom;

/// A small one, which a whole export of thousands of images takes little time with.
pub fn small_features(channels: usize) -> FeatureModel {
    let name = if channels == 3 { "stranger_features.onnx" } else { "stranger_features_nhwc.onnx" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let options = features::Options { range: Some(InputRange::Sigmoid), ..features::Options::default() };
    FeatureModel::open(&path, &options).unwrap()
}

/// With what these small random networks lose; trained ones lose less.
const RANDOM_LOSS: f64 = 1.0;

fn reduce(
    trained: &Trained,
    layout: Layout,
    dtype: Dtype,
    max_loss: f64,
    path: &Path,
) -> ganforge::error::Result<ReductionReport> {
    let features = small_features(trained.config.data.channels);
    let how = Reduction { calibrate: 64, max_loss, features: &features, real: None };
    export::export_reduced(trained, layout, dtype, &how, path, &Silent)
}

fn open(path: &Path, batch: usize) -> Generator {
    Generator::open(path, &Options::default().provider(Provider::Cpu).batch(batch)).unwrap()
}

fn kinds(path: &Path) -> Vec<String> {
    let model = ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
    model.graph.unwrap().node.into_iter().map(|node| node.op_type).collect()
}

fn built_in_run(name: &str) -> Trained {
    runtime::load_from(crate::infer::runtime_path()).unwrap();
    let run = RunFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap();
    load_trained(&run, None, Which::Best).unwrap()
}

#[test]
fn every_kind_of_layer_in_whole_numbers() {
    let up = |fields: &str| format!("{{ conv_transpose = {{ {fields} }} }}");
    let leaky = "{ leaky_relu = 0.2 }";
    let head = "{ linear = { out = 96 } }, \"relu\", { reshape = [6, 4, 4] }";
    let wide = up("out = 8, kernel = 4, stride = 2, padding = 1, bias = false");
    let (tanh, last) = ("\"tanh\"", up("out = 3, kernel = 4, stride = 2, padding = 1"));
    let cases: Vec<(&str, [usize; 2], Range, String)> = vec![
        ("dcgan", [3, 16], Range::Tanh, format!("{head}, {wide}, \"batch_norm\", \"relu\", {last}, {tanh}")),
        (
            "kernel 3, output padding",
            [3, 16],
            Range::Tanh,
            format!(
                "{head}, {}, \"relu\", {last}, {tanh}",
                up("out = 8, kernel = 3, stride = 2, padding = 1, output_padding = 1")
            ),
        ),
        (
            "kernel 3 without",
            [3, 14],
            Range::Tanh,
            format!("{head}, {}, \"relu\", {last}, {tanh}", up("out = 8, kernel = 3, stride = 2, padding = 1")),
        ),
        (
            "kernel 5, output padding, many channels",
            [3, 16],
            Range::Sigmoid,
            format!(
                "{head}, {}, {leaky}, {last}, \"sigmoid\"",
                up("out = 8, kernel = 5, stride = 2, padding = 2, output_padding = 1")
            ),
        ),
        (
            "kernel 5 at the end",
            [3, 8],
            Range::Tanh,
            format!("{head}, {}, {tanh}", up("out = 3, kernel = 5, stride = 2, padding = 2, output_padding = 1")),
        ),
        (
            "stride 3",
            [3, 15],
            Range::Tanh,
            format!("{head}, {}, {tanh}", up("out = 3, kernel = 5, stride = 3, padding = 0, output_padding = 1")),
        ),
        (
            "kernel below the stride",
            [3, 12],
            Range::Tanh,
            format!("{head}, {}, {tanh}", up("out = 3, kernel = 2, stride = 3, padding = 0, output_padding = 1")),
        ),
        (
            "much padding",
            [3, 8],
            Range::Tanh,
            format!("{head}, {}, \"relu\", {last}, {tanh}", up("out = 8, kernel = 4, stride = 2, padding = 3")),
        ),
        ("stride 1", [3, 6], Range::Tanh, format!("{head}, {}, {tanh}", up("out = 3, kernel = 3"))),
        (
            "convolutions, one that shrinks, and a hidden tanh",
            [3, 8],
            Range::Tanh,
            format!(
                "{head}, {{ conv = {{ out = 8, kernel = 3, padding = 1 }} }}, {tanh}, {wide}, \"relu\", {wide}, \"relu\", {{ conv = {{ out = 3, kernel = 4, stride = 2, padding = 1 }} }}, {tanh}"
            ),
        ),
        (
            "what cannot be folded, a linear layer of a map, a map without a product before it",
            [3, 8],
            Range::Sigmoid,
            format!(
                "{{ reshape = [5, 1, 1] }}, {}, \"relu\", \"batch_norm\", {{ linear = {{ out = 192 }} }}, \"sigmoid\"",
                up("out = 7, kernel = 3, stride = 2")
            ),
        ),
        (
            "a code, and no activation at the end",
            [1, 8],
            Range::Tanh,
            "{ categorical = 3 }, { linear = { out = 40 } }, \"batch_norm\", \"relu\", { linear = { out = 64 } }".to_string(),
        ),
        (
            "an activation that does not end the pixels' range",
            [1, 8],
            Range::Tanh,
            "{ linear = { out = 40 } }, \"relu\", { linear = { out = 64 } }, \"sigmoid\"".to_string(),
        ),
        (
            "a ReLU at the end",
            [1, 8],
            Range::Tanh,
            "{ linear = { out = 40 } }, \"relu\", { linear = { out = 64 } }, \"relu\"".to_string(),
        ),
    ];
    let folder = tempdir().unwrap();
    for (what, shape, range, layers) in cases {
        let trained = custom(5, shape, range, &layers);
        for layout in Layout::ALL {
            let path = folder.path().join("int8.onnx");
            let report = reduce(&trained, layout, Dtype::Int8, RANDOM_LOSS, &path).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(report.layers.iter().all(|layer| !layer.kept), "{what}: {report:?}");
            assert!(report.from_exact.unwrap() <= 1, "{what}");
            check_file(what, &trained, &path);
        }
    }
}

/// The file says what it is, has none but small whole weights, and makes the same of every batch.
fn check_file(what: &str, trained: &Trained, path: &Path) {
    let kinds = kinds(path);
    assert!(!kinds.iter().any(|kind| kind == "ConvTranspose" || kind == "DepthToSpace"), "{what}: {kinds:?}");
    let model = ModelProto::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
    assert_eq!((model.ir_version, model.opset_import[0].version, model.opset_import.len()), (8, 17, 1));
    let mut weights = model.graph.unwrap().initializer.into_iter().filter(|tensor| tensor.data_type == DataType::Int8 as i32);
    assert!(weights.all(|tensor| tensor.raw_data.iter().all(|&w| (w as i8).unsigned_abs() <= 63)), "{what}");
    let [one, some, many] = [1, 7, 32].map(|batch| open(path, batch).sample(trained.config.seed, 3, 20).unwrap());
    assert!(one == some && some == many, "{what}: images depend on their batch");
    let generator = open(path, 4);
    assert_eq!(generator.precision(), Precision::Int8);
    assert!(generator.contract().unwrap().cost.as_ref().is_some_and(|cost| cost.loss() <= RANDOM_LOSS && cost.psnr > 30.0));
}

#[test]
fn the_same_pixels_at_every_level_of_optimisation() {
    runtime::load_from(crate::infer::runtime_path()).unwrap();
    let latent = builtin::open(Some("faces"), &Options::default().provider(Provider::Cpu)).unwrap();
    let faces = builtin::find(Some("faces")).unwrap();
    let rows = 7;
    let z = latent.latent().rows(0, 0, rows);
    let expected = latent.sample(0, 0, rows).unwrap().pixels;
    let run = |level, threads| -> Vec<u8> {
        let builder = Session::builder(runtime::environment().unwrap()).unwrap();
        let builder = builder.with_optimization_level(level).unwrap().with_intra_threads(threads).unwrap();
        let mut session = { builder }.commit_from_memory(faces.int8).unwrap();
        let input = ort::value::Tensor::from_array(([rows, latent.latent().size], z.clone())).unwrap();
        let outputs = session.run(ort::inputs![input]).unwrap();
        outputs[0].try_extract_tensor::<u8>().unwrap().1.to_vec()
    };
    // In whole numbers: to the bit.
    for threads in [1, 2] {
        assert!(run(GraphOptimizationLevel::All, threads) == expected, "{threads} threads");
        assert!(run(GraphOptimizationLevel::Level2, threads) == expected, "{threads} threads, extended");
    }
    // Without them onnxruntime computes the same network in f32, from u8 to u8: what lies between two numbers may fall to the other.
    let plain = run(GraphOptimizationLevel::Disable, 1);
    let apart = plain.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
    assert!(apart.clone().max().unwrap() <= 6, "{:?}", apart.max());
    assert!(apart.map(u32::from).sum::<u32>() < expected.len() as u32 / 20);
}

#[test]
fn a_layer_that_costs_too_much_stays_in_f32() {
    let digits = built_in_run("digits");
    let folder = tempdir().unwrap();
    let path = folder.path().join("mixed.onnx");
    let features = FeatureModel::by_channels(1, &features::Options::default()).unwrap();
    let max_loss = 0.003;
    let how = Reduction { calibrate: 128, max_loss, features: &features, real: None };
    let report = export::export_reduced(&digits, Layout::NhwcU8, Dtype::Int8, &how, &path, &Silent).unwrap();
    let worst = report.layers.iter().min_by(|a, b| a.psnr.unwrap().total_cmp(&b.psnr.unwrap())).unwrap();
    assert!(worst.kept && report.layers.iter().any(|layer| !layer.kept), "{report:?}");
    assert!(report.from_exact.is_none());
    assert!(report.cost.psnr >= LEAST_PSNR - 10.0 * (max_loss / MAX_LOSS).log10());
    assert_eq!(open(&path, 8).precision(), Precision::Int8);
}

#[test]
fn what_does_not_fit_in_whole_numbers_stays_in_f32() {
    let last = "{ linear = { out = 64 } }, \"tanh\"";
    let cases = [
        // 71,680 products of 255 and 63 and more are beyond s32.
        (
            "sums",
            2,
            format!(
                "{{ linear = {{ out = 2 }} }}, \"relu\", {{ reshape = [2, 1, 1] }}, {{ conv_transpose = {{ out = 70, kernel = 32 }} }}, \"relu\", {last}"
            ),
        ),
        (
            "stride",
            1,
            format!(
                "{{ linear = {{ out = 24 }} }}, \"relu\", {{ reshape = [6, 2, 2] }}, {{ conv_transpose = {{ out = 2, kernel = 5, stride = 5 }} }}, \"relu\", {last}"
            ),
        ),
        (
            "padding",
            1,
            format!(
                "{{ linear = {{ out = 216 }} }}, \"relu\", {{ reshape = [6, 6, 6] }}, {{ conv_transpose = {{ out = 2, kernel = 3, stride = 2, padding = 3 }} }}, \"relu\", {last}"
            ),
        ),
    ];
    let folder = tempdir().unwrap();
    let path = folder.path().join("it.onnx");
    for (what, layer, layers) in cases {
        let trained = custom(5, [1, 8], Range::Tanh, &layers);
        // Sums of so many values would make all pixels black or white.
        multiply(&trained, "05.linear.weight", if what == "sums" { 0.01 } else { 0.3 }, 1);
        let report =
            reduce(&trained, Layout::NhwcU8, Dtype::Int8, RANDOM_LOSS, &path).unwrap_or_else(|e| panic!("{what}: {e}"));
        let kept: Vec<usize> = (0..report.layers.len()).filter(|&layer| report.layers[layer].kept).collect();
        assert_eq!(kept, [layer], "{what}: {report:?}");
        assert!(report.layers[layer].psnr.is_none() && report.from_exact.is_none(), "{what}");
        assert!(
            report
                .lines()
                .iter()
                .any(|line| line.contains("f32 (int8 has no form for channels in groups, nor for so long sums")),
            "{what}"
        );
    }
    let none = custom(64, [1, 8], Range::Tanh, "\"tanh\"");
    let refused = reduce(&none, Layout::NhwcU8, Dtype::Int8, RANDOM_LOSS, &path).unwrap_err().to_string();
    assert!(refused.contains("no linear layer"), "{refused}");
}

/// Sums, groups and learned maps are computed in f32, and what lies between them in whole numbers is the same network.
#[test]
fn residual_networks_in_whole_numbers() {
    let layers = "{ linear = { out = 16 } }, \"relu\", { linear = { out = 16 } }, { basis = 4 }, { residual = { layers = [{ conv = { out = 32, kernel = 1 } }, \
                  \"relu\", { conv = { out = 32, kernel = 3, padding = 1, group_width = 4 } }, \"relu\", { conv = { out = 16, kernel = 1 } }] } }, \
                  { upsample = \"binomial\" }, \"relu\", { conv = { out = 1, kernel = 1 } }, \"tanh\"";
    let folder = tempdir().unwrap();
    let path = folder.path().join("it.onnx");
    let trained = custom(5, [1, 8], Range::Tanh, layers);
    let report = reduce(&trained, Layout::NhwcU8, Dtype::Int8, RANDOM_LOSS, &path).unwrap();
    let kept: Vec<usize> = (0..report.layers.len()).filter(|&layer| report.layers[layer].kept).collect();
    // The groups, and the filter that makes the map larger.
    assert_eq!(kept, [3, 5], "{report:?}");
    assert!(report.cost.psnr > 25.0, "{report:?}");
}

/// Networks whose images hardly differ from each other: the pixels are near enough, but what differs is lost.
#[test]
fn the_distance_alone_can_be_too_much() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("it.onnx");
    let reduced = |layers: &str| {
        let trained = custom(5, [1, 8], Range::Tanh, layers);
        multiply(&trained, "00.linear.weight", 0.002, 1);
        reduce(&trained, Layout::NhwcU8, Dtype::Int8, RANDOM_LOSS, &path)
    };
    let refused = reduced("{ linear = { out = 64 } }, \"tanh\"").unwrap_err().to_string();
    let psnr: f64 =
        refused.split("costs too much: ").nth(1).and_then(|rest| rest.split(" dB").next()).unwrap().parse().unwrap();
    assert!(psnr > 36.0 && !path.exists(), "{refused}");
    // Where all images are alike, nothing is a part of their distance.
    let alike = |frechet| Cost { psnr: 50.0, frechet, frechet_f32: 0.0, reference: String::new() }.loss();
    assert_eq!((alike(0.0), alike(1e-3)), (0.0, f64::INFINITY));
    // Where another layer in f32 mends it, that is done, though the pixels do not ask for it.
    let report = reduced("{ linear = { out = 96 } }, \"relu\", { linear = { out = 64 } }, \"tanh\"").unwrap();
    assert!(report.layers.iter().any(|layer| layer.kept && layer.psnr.unwrap() > 36.0), "{report:?}");
}

#[test]
fn what_costs_too_much_is_not_written() {
    let layers = "{ linear = { out = 96 } }, \"relu\", { linear = { out = 64 } }, \"tanh\"";
    let trained = custom(5, [1, 8], Range::Tanh, layers);
    let folder = tempdir().unwrap();
    let path = folder.path().join("it.onnx");
    std::fs::write(&path, "what was there").unwrap();
    for dtype in [Dtype::Int8, Dtype::W8] {
        let refused = export::export(&trained, Layout::NhwcU8, dtype, &path).unwrap_err().to_string();
        assert!(refused.contains("loses something"), "{refused}");
        let refused = reduce(&trained, Layout::NhwcU8, dtype, 1e-9, &path).unwrap_err().to_string();
        assert!(refused.contains("costs too much"), "{refused}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "what was there");
    for (calibrate, max_loss, says) in
        [(0, 0.1, "calibrate"), (8, 0.0, "max_loss"), (8, f64::NAN, "max_loss"), (8, 1.5, "max_loss")]
    {
        let features = small_features(1);
        let how = Reduction { calibrate, max_loss, features: &features, real: None };
        let refused = export::export_reduced(&trained, Layout::NhwcU8, Dtype::Int8, &how, &path, &Silent).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

#[test]
fn weights_of_8_bits_are_a_quarter_of_the_file() {
    let up = "{ conv_transpose = { out = 16, kernel = 4, stride = 2, padding = 1 } }";
    let layers = format!(
        "{{ linear = {{ out = 1024 }} }}, \"relu\", {{ reshape = [64, 4, 4] }}, {up}, \"batch_norm\", \"relu\", {}, \"tanh\"",
        up.replace("16", "3")
    );
    let trained = custom(64, [3, 16], Range::Tanh, &layers);
    let folder = tempdir().unwrap();
    let (small, large) = (folder.path().join("w8.onnx"), folder.path().join("f32.onnx"));
    let report = reduce(&trained, Layout::NhwcU8, Dtype::W8, RANDOM_LOSS, &small).unwrap();
    assert!(report.layers.is_empty() && report.from_exact.is_none() && report.cost.psnr > 40.0, "{report:?}");
    export::export(&trained, Layout::NhwcU8, Dtype::F32, &large).unwrap();
    let length = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    // Scales, biases, names and metadata come on top.
    assert!(length(&small) < length(&large) * 3 / 10, "{} of {}", length(&small), length(&large));
    let [ours, theirs]: [Images; 2] = [&small, &large].map(|path| open(path, 8).sample(0, 0, 8).unwrap());
    let furthest = ours.pixels.iter().zip(&theirs.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!((1..60).contains(&furthest), "{furthest}");
    assert_eq!(open(&small, 8).precision(), Precision::F32);
}

/// Maps of f32 that are large ask for small batches; in whole numbers they are a quarter as large.
#[test]
fn large_maps_ask_for_small_batches_where_they_are_in_f32() {
    let layers = "{ reshape = [4, 1, 1] }, { conv_transpose = { out = 17, kernel = 64 } }, \"relu\", { conv = { out = 3, kernel = 1 } }, \"tanh\"";
    let trained = custom(4, [3, 64], Range::Tanh, layers);
    let folder = tempdir().unwrap();
    for (dtype, batch) in [(Dtype::W8, Some(16)), (Dtype::Int8, None)] {
        let path = folder.path().join("it.onnx");
        let report = reduce(&trained, Layout::NhwcU8, dtype, RANDOM_LOSS, &path).unwrap();
        assert_eq!((open(&path, 8).contract().unwrap().batch, report.from_exact.is_some()), (batch, batch.is_none()));
    }
}

#[test]
fn the_same_weights_give_the_same_file_in_int8() {
    let layers = "{ linear = { out = 96 } }, \"relu\", { linear = { out = 64 } }, \"tanh\"";
    let trained = custom(5, [1, 8], Range::Tanh, layers);
    let folder = tempdir().unwrap();
    let [first, again] = ["first", "again"].map(|name| {
        let path = folder.path().join(name);
        reduce(&trained, Layout::NhwcU8, Dtype::Int8, RANDOM_LOSS, &path).unwrap();
        std::fs::read(path).unwrap()
    });
    assert!(first == again);
}

#[test]
fn gan_train_exports_int8_and_says_what_it_costs() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("digits.onnx");
    let gan_train = |flags: &[&str]| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_gan-train"));
        command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["export", "models/digits"]).args(flags).arg("--out").arg(&path);
        command
    };
    gan_train(&["--dtype", "f32", "--calibrate", "9"]).assert().code(2).stderr(contains("--dtype int8"));
    gan_train(&["--dtype", "w8", "--calibrate", "9"]).assert().code(2).stderr(contains("Leave it out"));
    gan_train(&["--dtype", "int8", "--calibrate", "0"]).assert().code(2).stderr(contains("--calibrate 0 latents"));
    gan_train(&["--dtype", "int8", "--max-loss", "2"]).assert().code(2).stderr(contains("--max-loss 2"));
    gan_train(&["--dtype", "int8", "--max-loss", "1e-7", "--calibrate", "64"])
        .assert()
        .code(1)
        .stderr(contains("costs too much"));
    assert!(!path.exists());
    // What cannot be written is found out before the work.
    std::fs::create_dir(&path).unwrap();
    let refused = gan_train(&["--dtype", "int8"]).assert().code(1);
    refused.stderr(contains("A folder is where a file should be").and(contains("calibrating").not()));
    std::fs::remove_dir(&path).unwrap();
    let told = gan_train(&["--dtype", "int8", "--data", "synthetic", "--max-loss", "0.05"]).assert().success();
    let told = told.stderr(contains("not the images that the run was trained on"));
    told.stdout(contains("linear layer 4, conv_transpose 64 → 1: int8").and(contains("Fréchet distance to synthetic")));
    let cost = open(&path, 8).contract().unwrap().cost.clone().unwrap();
    assert!(cost.reference == "synthetic" && cost.frechet_f32 > 0.0 && cost.psnr > LEAST_PSNR);
}

/// Channels of very different ranges: with one scale for all of them, those of small values would be lost.
#[test]
fn small_channels_beside_large_ones_keep_their_precision() {
    let layers = "{ linear = { out = 256 } }, \"relu\", { reshape = [16, 4, 4] }, { conv_transpose = { out = 8, kernel = 4, stride = 2, padding = 1 } }, \
        \"relu\", { conv = { out = 3, kernel = 3, padding = 1 } }, \"tanh\"";
    let trained = custom(8, [3, 8], Range::Tanh, layers);
    let folder = tempdir().unwrap();
    let path = folder.path().join("it.onnx");
    stretch(&trained);
    let report = reduce(&trained, Layout::NhwcU8, Dtype::Int8, RANDOM_LOSS, &path).unwrap();
    // The channels that are 64 times as large as the others would leave those 4 of the 256 steps.
    assert!(report.layers.iter().all(|layer| !layer.kept) && report.cost.psnr > 28.0, "{report:?}");
}

/// Multiplies half of the channels between the first two layers by 64, and divides the weights that take them by it: the same network.
fn stretch(trained: &Trained) {
    multiply(trained, "linear.weight", 64.0, 2);
    multiply(trained, "linear.bias", 64.0, 2);
    multiply(trained, "conv_transpose.weight", 1.0 / 64.0, 2);
}

/// Multiplies the first values of a parameter, one part of so many.
fn multiply(trained: &Trained, name: &str, factor: f32, part: usize) {
    let parameter = trained.generator.parameters().find(|parameter| parameter.name.contains(name));
    let var = &parameter.unwrap_or_else(|| panic!("no {name}")).var;
    let (values, end) = (var.flatten_all().unwrap().to_vec1::<f32>().unwrap(), var.elem_count() / part);
    let made: Vec<f32> = values.iter().enumerate().map(|(at, value)| if at < end { value * factor } else { *value }).collect();
    var.set(&candle_core::Tensor::from_vec(made, var.dims(), var.device()).unwrap()).unwrap();
}
