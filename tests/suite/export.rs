//! Every generator as an `.onnx` file: what onnxruntime makes of it, what is in it, and what is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ganforge::config::{Init, InitConfig, NetworkConfig, PRESETS, TrainConfig};
use ganforge::contract::{self, Contract, Layout, Weights};
use ganforge::error::Error;
use ganforge::export::onnx::ModelProto;
use ganforge::export::{Agreement, Dtype, contract_of, export};
use ganforge::image::{Images, Range};
use ganforge::infer::generator::CONVOLUTIONAL_BATCH;
use ganforge::infer::{Generator, Options, runtime};
use ganforge::nn::Pass;
use ganforge::nn::layers::{Upsample, output_shape};
use ganforge::nn::{LayerSpec, Shape};
use ganforge::train::checkpoint::State;
use ganforge::train::{self, Trained, generator_network};
use prost::Message;
use tempfile::{TempDir, tempdir};

/// As after some training: running statistics away from their beginning, and images that are not flat grey.
fn trained(mut config: TrainConfig, weights: Init, passes: u64) -> Trained {
    runtime::load_from(crate::infer::runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
    let spread = |mean| Init::Normal { mean, std: 0.3 };
    config.init =
        InitConfig { conv: weights, linear: weights, bias: weights, norm_weight: spread(1.0), norm_bias: spread(0.0) };
    let generator = generator_network(&config, &Device::Cpu, DType::F32).unwrap();
    for number in 0..passes {
        let z = latents(&config, 100 * (number + 1), 8);
        generator.forward(&z, Pass::Train { seed: 0, number }).unwrap();
    }
    let state = State {
        step: 3,
        images: 384,
        generator_optimizer_steps: 3,
        critic_optimizer_steps: 3,
        data: "some images".to_string(),
        data_sha256: "ab".repeat(32),
        watchdog: train::Watchdog::default(),
        counted: Default::default(),
        files: Default::default(),
    };
    Trained { config, generator, state, weights: Weights::Raw }
}

fn latents(config: &TrainConfig, start: u64, n: usize) -> Tensor {
    Tensor::from_vec(config.latent.rows(config.seed, start, n), (n, config.latent.size), &Device::Cpu).unwrap()
}

fn preset(name: &str) -> Trained {
    trained(TrainConfig::preset(name).unwrap(), Init::Pytorch, 2)
}

/// A preset, with an eighth of the width if it has residual blocks: those take minutes otherwise.
fn small_preset(name: &str) -> Trained {
    let config = TrainConfig::preset(name).unwrap();
    let has_blocks = config.generator.layers.iter().any(|layer| matches!(layer, LayerSpec::Residual(_)));
    trained(if has_blocks { config.with_width(0.125).unwrap() } else { config }, Init::Pytorch, 2)
}

/// A generator of these layers (as a config writes them), for square images.
pub fn custom(latent: usize, [channels, size]: [usize; 2], range: Range, layers: &str) -> Trained {
    let mut config = TrainConfig::preset("dcgan-28").unwrap();
    config.generator = toml::from_str::<NetworkConfig>(&format!("layers = [{layers}]")).unwrap();
    (config.latent.size, config.data.channels, config.data.size, config.data.range) = (latent, channels, size, range);
    let made = output_shape(&config.generator.layers, Shape::Flat(latent)).unwrap();
    assert_eq!(made.elements(), channels * size * size, "{layers}");
    trained(config, Init::Normal { mean: 0.0, std: 0.3 }, 2)
}

/// An exported file in a folder of its own.
struct Exported {
    path: PathBuf,
    agreement: Agreement,
    _folder: TempDir,
}

fn write(trained: &Trained, layout: Layout, dtype: Dtype) -> Exported {
    let folder = tempdir().unwrap();
    let path = folder.path().join("generator.onnx");
    let agreement = export(trained, layout, dtype, &path).unwrap_or_else(|e| panic!("{}: {e}", trained.config.preset));
    Exported { path, agreement, _folder: folder }
}

impl Exported {
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    fn model(&self) -> ModelProto {
        ModelProto::decode(self.bytes().as_slice()).unwrap()
    }

    fn kinds(&self) -> Vec<String> {
        self.model().graph.unwrap().node.into_iter().map(|node| node.op_type).collect()
    }

    /// Images of the run's seed, by `gan-infer`'s way.
    fn sample(&self, seed: u64, start: u64, n: usize) -> Images {
        Generator::open(&self.path, &Options::default()).unwrap().sample(seed, start, n).unwrap()
    }
}

fn furthest(ours: &Images, theirs: &Images) -> u8 {
    let shape = |images: &Images| [images.n, images.height, images.width, images.channels];
    assert_eq!(shape(ours), shape(theirs));
    ours.pixels.iter().zip(&theirs.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

/// Exports in every layout, and holds each file against the network.
fn check_every_layout(what: &str, trained: &Trained) {
    let config = &trained.config;
    let expected = train::sample(&trained.generator, config, &latents(config, 5, 3)).unwrap();
    let (low, high) = (expected.pixels.iter().min().unwrap(), expected.pixels.iter().max().unwrap());
    assert!(high - low > 20, "{what}: pixels from {low} to {high} prove nothing");
    // A convolution behind a map that is doubled is written as one, too.
    let transposed = |layer: &LayerSpec| matches!(layer, LayerSpec::ConvTranspose(_) | LayerSpec::Upsample(Upsample::Nearest));
    let evaluated = config.generator.layers.iter().all(|layer| !layer.any(&transposed));
    for layout in Layout::ALL {
        let file = write(trained, layout, Dtype::F32);
        let Agreement { values, pixels, candle_onnx } = file.agreement;
        assert!(values <= 1e-4, "{what}: {values}");
        assert_eq!(pixels.is_none(), layout == Layout::NchwF32);
        assert!(pixels.unwrap_or(0) <= 1, "{what}: {pixels:?}");
        // candle-onnx lacks ConvTranspose; a head that became a Gemm may have been the only one.
        assert_eq!(
            candle_onnx,
            cfg!(feature = "candle-onnx") && !file.kinds().iter().any(|kind| kind == "ConvTranspose"),
            "{what}"
        );
        assert!(candle_onnx || !evaluated || cfg!(not(feature = "candle-onnx")), "{what}");
        assert!(furthest(&file.sample(config.seed, 5, 3), &expected) <= 1, "{what} {layout:?}");
        check_promises(trained, layout, &file);
    }
}

fn check_promises(trained: &Trained, layout: Layout, file: &Exported) {
    let opened = Generator::open(&file.path, &Options::default()).unwrap();
    let batch = opened.contract().and_then(|contract| contract.batch);
    let promised = Contract { batch, ..contract_of(trained, layout) };
    assert_eq!(opened.contract(), Some(&promised));
    contract::check_seal("it", &file.bytes()).unwrap();

    let model = file.model();
    assert_eq!((model.ir_version, model.opset_import.len()), (8, 1));
    assert_eq!((model.opset_import[0].domain.as_str(), model.opset_import[0].version), ("", 17));
    let keys: BTreeSet<&str> = model.metadata_props.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys.len(), model.metadata_props.len());
    let mut expected: BTreeSet<String> = promised.to_metadata().into_keys().collect();
    expected.insert(contract::CHECKSUM_KEY.to_string());
    assert_eq!(keys, expected.iter().map(String::as_str).collect());
    let graph = model.graph.unwrap();
    assert_eq!((graph.input.len(), graph.output.len()), (1, 1));
    assert_eq!((graph.input[0].name.as_str(), graph.output[0].name.as_str()), ("z", "image"));
    assert!(graph.node.iter().all(|node| node.op_type != "BatchNormalization" && node.op_type != "Dropout"));
    assert!(graph.initializer.iter().all(|tensor| tensor.external_data.is_empty()));
}

#[test]
fn the_generator_of_every_preset_in_every_layout() {
    let mut done: Vec<TrainConfig> = Vec::new();
    for (name, _) in PRESETS {
        let config = TrainConfig::preset(name).unwrap();
        let same = |other: &TrainConfig| {
            (&other.generator, &other.data, other.latent) == (&config.generator, &config.data, config.latent)
        };
        // Some share a generator.
        if !done.iter().any(same) {
            check_every_layout(name, &small_preset(name));
            done.push(config);
        }
    }
    assert!(done.len() >= 7);
}

#[test]
fn the_metadata_tells_a_stranger_everything() {
    let file = write(&preset("wgan-mnist-mlp"), Layout::NhwcU8, Dtype::F32);
    let mut metadata: Vec<(String, String)> =
        file.model().metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
    metadata.retain(|(key, _)| key != contract::CHECKSUM_KEY);
    let expected = [
        ("Image.BitmapPixelFormat", "Gray8"),
        ("Image.ColorSpaceGamma", "SRGB"),
        ("Image.NominalPixelRange", "NominalRange_0_255"),
        ("ganforge.channels", "1"),
        ("ganforge.contract", "1"),
        ("ganforge.data", "some images"),
        ("ganforge.data.sha256", &"ab".repeat(32)),
        ("ganforge.height", "28"),
        ("ganforge.images_seen", "384"),
        ("ganforge.latent.law", "uniform"),
        ("ganforge.latent.size", "10"),
        ("ganforge.layout", "nhwc-u8"),
        ("ganforge.loss", "wgan"),
        ("ganforge.preset", "wgan-mnist-mlp"),
        ("ganforge.range", "sigmoid"),
        ("ganforge.seed", "0"),
        ("ganforge.weights", "raw"),
        ("ganforge.width", "28"),
    ];
    assert_eq!(metadata, expected.map(|(key, value)| (key.to_string(), value.to_string())));
}

#[test]
fn a_dcgan_begins_with_a_gemm_and_keeps_no_batch_norm() {
    let pixels = ["Mul", "Add", "Clip", "Cast"];
    let tail = |mut nodes: Vec<&'static str>, last: &[&'static str]| {
        nodes.extend(pixels);
        nodes.extend(last);
        nodes
    };
    let dcgan = vec!["Gemm", "Reshape", "Relu", "ConvTranspose", "Relu", "ConvTranspose", "Tanh"];
    assert_eq!(write(&preset("dcgan-28"), Layout::NhwcU8, Dtype::F32).kinds(), tail(dcgan, &["Reshape"]));
    let dcgan = [&["Gemm", "Reshape", "Relu"][..], &["ConvTranspose", "Relu"].repeat(3), &["ConvTranspose", "Tanh"]].concat();
    let colour = write(&preset("dcgan-64"), Layout::NhwcU8, Dtype::F32);
    assert_eq!(colour.kinds(), tail(dcgan, &["Reshape", "Transpose"]));
    let mlp = vec!["Gemm", "Relu", "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Tanh"];
    assert_eq!(write(&preset("gan-fashion-mlp"), Layout::NchwU8, Dtype::F32).kinds(), tail(mlp, &["Reshape"]));
    let mlp = ["Gemm", "Relu", "Gemm", "Sigmoid", "Reshape"];
    assert_eq!(write(&preset("wgan-mnist-mlp"), Layout::NchwF32, Dtype::F32).kinds(), mlp);
}

#[test]
fn layers_that_no_preset_combines() {
    let conv_t = |rest: &str| format!("{{ conv_transpose = {{ {rest} }} }}");
    let head = conv_t("out = 6, kernel = 4, bias = false");
    let up = conv_t("out = 4, kernel = 3, stride = 2, padding = 1, output_padding = 1");
    let last = "{ conv = { out = 3, kernel = 3, padding = 1 } }, \"sigmoid\"";
    let leaky = "{ leaky_relu = 0.2 }";
    let cases = [
        // Batch norm that nothing linear precedes, behind activations and reshapes, flat and on maps.
        (
            "behind activations",
            format!(
                "{{ linear = {{ out = 48 }} }}, \"relu\", \"batch_norm\", {{ reshape = [3, 4, 4] }}, \"batch_norm\", {up}, {leaky}, \"batch_norm\", {{ dropout = 0.4 }}, {last}"
            ),
        ),
        ("of the latents", format!("\"batch_norm\", {{ reshape = [5, 1, 1] }}, {head}, {leaky}, {up}, {last}")),
        ("of a 1×1 map", format!("{{ reshape = [5, 1, 1] }}, \"batch_norm\", {head}, \"batch_norm\", {up}, \"relu\", {last}")),
        // Twice in a row: both fold.
        (
            "twice",
            format!(
                "{{ reshape = [5, 1, 1] }}, {head}, \"batch_norm\", \"batch_norm\", \"relu\", {up}, \"batch_norm\", {last}"
            ),
        ),
        // Transposed convolutions of a 1×1 map that are no plain product.
        ("padded head", format!("{{ reshape = [5, 1, 1] }}, {}, {leaky}, {last}", conv_t("out = 7, kernel = 10, padding = 1"))),
        (
            "output padding on 1×1",
            format!(
                "{{ reshape = [5, 1, 1] }}, {}, \"batch_norm\", {leaky}, {up}, {last}",
                conv_t("out = 7, kernel = 3, stride = 2, output_padding = 1")
            ),
        ),
        (
            "stride on 1×1",
            format!(
                "{{ reshape = [5, 1, 1] }}, {}, \"batch_norm\", {leaky}, {up}, {last}",
                conv_t("out = 7, kernel = 4, stride = 3")
            ),
        ),
        // A linear layer of a map, at the beginning and in the middle; convolutions that shrink.
        (
            "linear of a map",
            format!(
                "{{ reshape = [5, 1, 1] }}, {{ linear = {{ out = 256, bias = false }} }}, \"batch_norm\", {leaky}, {{ reshape = [4, 8, 8] }}, {{ conv = {{ out = 5, kernel = 4, stride = 2, padding = 1, bias = false }} }}, \"batch_norm\", \"tanh\", {{ linear = {{ out = 192 }} }}, \"sigmoid\""
            ),
        ),
        ("a code", format!("{{ categorical = 3 }}, {{ reshape = [5, 1, 1] }}, {head}, {leaky}, {up}, {last}")),
        ("nothing but a code", "{ categorical = 5 }, { linear = { out = 192 } }, \"sigmoid\"".to_string()),
        (
            "three paddings",
            format!(
                "{{ reshape = [5, 1, 1] }}, {head}, {}, {leaky}, {last}",
                conv_t("out = 3, kernel = 3, stride = 3, padding = 3, output_padding = 2")
            ),
        ),
    ];
    let blocks = [
        (
            "residual blocks",
            "{ linear = { out = 16, bias = false } }, { basis = 2 }, { residual = { layers = [{ conv = { out = 32, kernel = 1 } }, { leaky_relu = 0.2 }, \
             { conv = { out = 32, kernel = 3, padding = 1, group_width = 8 } }, { leaky_relu = 0.2 }, { conv = { out = 16, kernel = 1, bias = false } }] } }, \
             { upsample = 'binomial' }, 'bias', { upsample = 'binomial' }, { conv = { out = 3, kernel = 1 } }, 'sigmoid'",
        ),
        (
            "residual blocks with norms and shortcuts",
            "{ linear = { out = 24 } }, { reshape = [6, 2, 2] }, { residual = { layers = ['batch_norm', 'relu', { upsample = 'nearest' }, \
             { conv = { out = 5, kernel = 3, padding = 1 } }, 'batch_norm', 'relu', { conv = { out = 4, kernel = 3, padding = 1 } }], \
             shortcut = [{ upsample = 'nearest' }, { conv = { out = 4, kernel = 1 } }] } }, { upsample = 'nearest' }, 'batch_norm', 'relu', \
             { conv = { out = 3, kernel = 3, padding = 1 } }, 'sigmoid'",
        ),
        (
            "smaller maps",
            "{ linear = { out = 4 } }, { basis = 16 }, { downsample = 'binomial' }, { residual = { layers = [{ residual = { layers = ['bias', 'tanh'] } }] } }, \
             { conv = { out = 3, kernel = 1 } }, { upsample = 'nearest' }, { downsample = 'average' }, 'sigmoid'",
        ),
        (
            "pooled",
            "{ linear = { out = 8 } }, { basis = 4 }, 'relu', { pool = 'average' }, 'batch_norm', { linear = { out = 192 } }, 'sigmoid'",
        ),
        (
            "depthwise with a norm behind it",
            "{ linear = { out = 8 } }, { basis = 8 }, { conv = { out = 16, kernel = 3, padding = 1, group_width = 1, bias = false } }, 'batch_norm', 'relu', \
             { conv = { out = 3, kernel = 1 } }, 'sigmoid'",
        ),
    ];
    for (what, layers) in cases.into_iter().chain(blocks.map(|(what, layers)| (what, layers.to_string()))) {
        check_every_layout(what, &custom(5, [3, 8], Range::Sigmoid, &layers));
    }
    let bare =
        "{ linear = { out = 30 } }, \"batch_norm\", \"relu\", { dropout = 0.5 }, { linear = { out = 64 } }, \"batch_norm\"";
    check_every_layout("no activation at the end", &custom(3, [1, 8], Range::Tanh, bare));
}

#[test]
fn a_file_of_a_network_with_large_maps_asks_for_small_batches_on_a_cpu() {
    for (channels, batch) in [(17, Some(16)), (16, None)] {
        let layers = format!(
            "{{ reshape = [4, 1, 1] }}, {{ conv_transpose = {{ out = {channels}, kernel = 64 }} }}, 'relu', \
             {{ conv = {{ out = 3, kernel = 1 }} }}, 'tanh'"
        );
        let file = write(&custom(4, [3, 64], Range::Tanh, &layers), Layout::NhwcU8, Dtype::F32);
        let opened = Generator::open(&file.path, &Options::default()).unwrap();
        assert_eq!(opened.contract().unwrap().batch, batch);
        assert_eq!(opened.batch(), batch.unwrap_or(CONVOLUTIONAL_BATCH));
        let mut asked = Options::default();
        asked.batch = Some(40);
        assert_eq!(Generator::open(&file.path, &asked).unwrap().batch(), 40);
    }
}

#[test]
fn half_precision_is_half_the_file() {
    let unfoldable = "{ linear = { out = 64 } }, \"relu\", \"batch_norm\", { reshape = [4, 4, 4] }, \
        { conv_transpose = { out = 1, kernel = 4, stride = 2, padding = 1 } }, \"tanh\"";
    let cases = [preset("dcgan-28"), preset("gan-fashion-mlp"), custom(16, [1, 8], Range::Tanh, unfoldable)];
    for trained in &cases {
        let expected = train::sample(&trained.generator, &trained.config, &latents(&trained.config, 5, 3)).unwrap();
        for layout in Layout::ALL {
            let [half, single] = [Dtype::F16, Dtype::F32].map(|dtype| write(trained, layout, dtype));
            assert!(half.agreement.values <= 5e-2 && half.agreement.values > single.agreement.values);
            assert!(half.agreement.pixels.unwrap_or(0) <= 7);
            assert!(furthest(&half.sample(trained.config.seed, 5, 3), &expected) <= 7);
            check_promises(trained, layout, &half);
            // Names and metadata are about 3 kB.
            let (half, single) = (half.bytes().len(), single.bytes().len());
            assert!(half < single / 2 + 4000, "{half} of {single} bytes");
        }
    }
}

#[test]
fn the_same_weights_give_the_same_bytes_and_others_do_not() {
    let file = |trained: &Trained| write(trained, Layout::NhwcU8, Dtype::F32).bytes();
    let (first, again) = (preset("digits"), preset("digits"));
    assert_eq!(file(&first), file(&first));
    assert_eq!(file(&first), file(&again));
    // Statistics alone, weights alone.
    assert_ne!(file(&first), file(&trained(TrainConfig::preset("digits").unwrap(), Init::Pytorch, 3)));
    for parameter in first.generator.parameters() {
        let before = file(&first);
        parameter.var.set(&(parameter.var.as_detached_tensor() * 1.5).unwrap()).unwrap();
        let zeros = parameter.var.as_detached_tensor().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() == 0.0;
        assert!(zeros || file(&first) != before, "{} does not reach the file", parameter.name);
    }
}

#[test]
fn a_network_with_nan_leaves_no_file() {
    let folder = tempdir().unwrap();
    for (name, bad, says) in [
        ("conv_transpose.bias", f32::NAN, "conv_transpose.bias holds NaN or infinite values"),
        ("conv_transpose.weight", f32::INFINITY, "conv_transpose.weight holds NaN or infinite values"),
        ("batch_norm.running_mean", f32::NEG_INFINITY, "batch_norm.running_mean holds NaN or infinite values"),
        // A variance below 0 is finite, but what is made with it is NaN, in one channel of many.
        ("batch_norm.running_var", -1.0, "disagree by NaN"),
    ] {
        let trained = preset("digits");
        let parameter = trained.generator.parameters().find(|parameter| parameter.name.ends_with(name)).unwrap();
        let mut values = parameter.var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let middle = values.len() / 2;
        values[middle] = bad;
        parameter.var.set(&Tensor::from_vec(values, parameter.var.shape(), &Device::Cpu).unwrap()).unwrap();
        for layout in Layout::ALL {
            assert_refused(&trained, layout, folder.path(), says);
        }
    }
}

/// No file where there was none; the old one where there was.
fn assert_refused(trained: &Trained, layout: Layout, folder: &Path, says: &str) {
    let (new, old) = (folder.join("new.onnx"), folder.join("old.onnx"));
    std::fs::write(&old, "an earlier export").unwrap();
    for path in [&new, &old] {
        let error = export(trained, layout, Dtype::F32, path).unwrap_err();
        assert!(matches!(error, Error::Verification(_)) && error.to_string().contains(says), "{error}");
        assert_eq!(error.exit_code(), 1);
    }
    assert_eq!(std::fs::read(&old).unwrap(), b"an earlier export");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "something was left behind");
}

#[test]
fn a_generator_with_layer_norm_is_refused() {
    let folder = tempdir().unwrap();
    let trained = custom(5, [1, 8], Range::Tanh, "{ linear = { out = 64 } }, \"layer_norm\", \"tanh\"");
    assert_refused(&trained, Layout::NhwcU8, folder.path(), "layer_norm has no exported form here. Use batch_norm");
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let folder = tempdir().unwrap();
    let trained = preset("wgan-mnist-mlp");
    let error = export(&trained, Layout::NhwcU8, Dtype::F32, &folder.path().join("missing/g.onnx")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
