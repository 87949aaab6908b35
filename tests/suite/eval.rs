//! Scores against numpy, scipy and analysis; feature models, our own and foreign ones; `gan-train eval` and `features`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::{Device, Tensor};
use ganforge::config::DataConfig;
use ganforge::data::{self, DataReport, Dataset, synthetic};
use ganforge::error::Error;
use ganforge::eval::features::{DEFAULT_RANGE, Options};
use ganforge::eval::frechet::frechet;
use ganforge::eval::kid::kernel_distance;
use ganforge::eval::learn::{self, FeatureConfig, Provenance, Task, TrainingSet};
use ganforge::eval::neighbours::{by_features, by_pixels, duplicates};
use ganforge::eval::precision_recall::Manifold;
use ganforge::eval::typical::{outlier_factors, ranked};
use ganforge::eval::{FeatureModel, Features, FrechetJudge, InputRange};
use ganforge::image::{Images, encode_png};
use ganforge::infer::{Generator, runtime};
use ganforge::progress::Silent;
use ganforge::random::{Purpose, Stream};
use predicates::str::contains;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn goldens() -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(golden("eval.safetensors"), &Device::Cpu).unwrap().into_iter().collect()
}

fn features(tensor: &Tensor) -> Features {
    let (n, dim) = tensor.dims2().unwrap();
    Features::new(n, dim, tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
}

/// Normal vectors with every value shifted.
fn normal(n: usize, dim: usize, shift: f32, seed: u64) -> Features {
    let mut values = vec![0.0; n * dim];
    Stream::at(seed, Purpose::Evaluation, 1 << 40).fill_normal(shift, 1.0, &mut values);
    Features::new(n, dim, values).unwrap()
}

fn precision_recall(real: &Features, made: &Features) -> (f64, f64) {
    let (real, made) = (Manifold::new(real, 3).unwrap(), Manifold::new(made, 3).unwrap());
    (real.coverage(&made).unwrap(), made.coverage(&real).unwrap())
}

fn density_coverage(real: &Features, made: &Features) -> [f64; 2] {
    Manifold::new(real, 5).unwrap().density_and_coverage(&Manifold::new(made, 5).unwrap()).unwrap()
}

#[test]
fn scores_are_those_of_numpy_and_scipy() {
    let goldens = goldens();
    let mut cases = 0;
    for (name, scores) in goldens.iter().filter_map(|(name, tensor)| Some((name.strip_suffix(".scores")?, tensor))) {
        let [x, y] = ["x", "y"].map(|side| features(&goldens[&format!("{name}.{side}")]));
        let expected: Vec<f64> = scores.to_vec1().unwrap();
        let (precision, recall) = precision_recall(&x, &y);
        let distance = kernel_distance(&x, &y, 7, 1 << 20, 3).unwrap();
        assert!((frechet(&x, &y).unwrap() / expected[0] - 1.0).abs() < 1e-6, "{name}: {expected:?}");
        assert!((frechet(&y, &x).unwrap() / expected[0] - 1.0).abs() < 1e-6, "{name}: the other way round");
        assert!((distance / expected[1] - 1.0).abs() < 1e-9, "{name}: {distance}, {expected:?}");
        let [density, coverage] = density_coverage(&x, &y);
        assert_eq!([precision, recall, coverage], [expected[2], expected[3], expected[5]], "{name}");
        assert!((density - expected[4]).abs() < 1e-12, "{name}: {density}, {expected:?}");
        cases += 1;
    }
    assert_eq!(cases, 3);
}

#[test]
fn the_frechet_distance_of_gaussians_known_in_closed_form() {
    // ± a_i along axis i and a mean: the covariance is diagonal, 2 a_i² / (2 d − 1).
    let dim = 7;
    let set = |scale: fn(usize) -> f32, mean: f32| {
        let value = |row: usize, axis: usize| match row / 2 == axis {
            true => scale(axis) * if row.is_multiple_of(2) { 1.0 } else { -1.0 } + mean,
            false => mean,
        };
        let values = (0..2 * dim).flat_map(|row| (0..dim).map(move |axis| value(row, axis))).collect();
        Features::new(2 * dim, dim, values).unwrap()
    };
    let variance = |a: f64| 2.0 * a * a / (2 * dim - 1) as f64;
    let (a, b) = (set(|_| 2.0, 0.0), set(|axis| axis as f32, 0.5));
    let spread: f64 = (0..dim).map(|axis| (variance(2.0).sqrt() - variance(axis as f64).sqrt()).powi(2)).sum();
    let expected = dim as f64 * 0.25 + spread;
    assert!((frechet(&a, &b).unwrap() / expected - 1.0).abs() < 1e-9);
}

#[test]
fn the_same_images_score_as_such_and_order_plays_no_part() {
    let x = normal(400, 12, 1.0, 1);
    let order: Vec<u32> = Stream::at(2, Purpose::Evaluation, 0).permutation(400);
    let shuffled = x.select(&order);
    for same in [&x, &shuffled] {
        assert!(frechet(&x, same).unwrap() < 1e-9);
        assert_eq!(precision_recall(&x, same), (1.0, 1.0));
        // Unbiased only for independent sets: here the cross term holds k(x, x).
        assert!(kernel_distance(&x, same, 1, 400, 0).unwrap() < 0.0);
    }
    // Also where many vectors coincide, and all radii are 0 but for rounding.
    let doubled = x.select(&[order.clone(), order.clone(), order.clone(), order].concat());
    assert_eq!(precision_recall(&doubled, &doubled), (1.0, 1.0));
    // Each vector lies in its own ball and in those of others: at least of the 5 that have it among their nearest, on the mean.
    let [density, coverage] = density_coverage(&x, &shuffled);
    assert!(density >= 1.0 && coverage == 1.0, "{density} {coverage}");
}

#[test]
fn scores_worsen_the_further_the_images_are_off() {
    let real = normal(600, 8, 0.0, 1);
    let at = |shift: f32| {
        let made = normal(600, 8, shift, 2);
        let (precision, recall) = precision_recall(&real, &made);
        [frechet(&real, &made).unwrap(), kernel_distance(&real, &made, 20, 200, 0).unwrap(), -precision, -recall]
    };
    let scores: Vec<[f64; 4]> = [0.0, 0.4, 0.8, 1.6].map(at).to_vec();
    for pair in scores.windows(2) {
        assert!(pair[0].iter().zip(&pair[1]).all(|(nearer, further)| nearer < further), "{pair:?}");
    }
    // Independent draws of one law: the kernel distance is about 0, as it is unbiased; the Fréchet distance is small.
    assert!(scores[0][0] < 0.1 && scores[0][1].abs() < 0.05 && scores[0][2] < -0.8, "{:?}", scores[0]);
}

/// As the definition has it, every distance by itself.
fn plain_factors(x: &Features, k: usize) -> Vec<f64> {
    let distance = |a: usize, b: usize| {
        x.row(a).iter().zip(x.row(b)).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
    };
    let nearest = |own: usize| {
        let mut others: Vec<(f64, usize)> =
            (0..x.len()).filter(|&other| other != own).map(|other| (distance(own, other), other)).collect();
        others.sort_by(|a, b| a.0.total_cmp(&b.0));
        others.truncate(k);
        others
    };
    let reach: Vec<f64> = (0..x.len()).map(|own| nearest(own)[k - 1].0).collect();
    (0..x.len()).map(|own| reach[own] / (nearest(own).iter().map(|(_, other)| reach[*other]).sum::<f64>() / k as f64)).collect()
}

#[test]
fn what_lies_outside_of_its_surroundings_is_odd() {
    let x = normal(700, 6, 3.0, 5); // more than a block of distances
    let factors = outlier_factors(&x, 9, &Silent).unwrap();
    let differs = factors.iter().zip(plain_factors(&x, 9)).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
    assert!(differs < 1e-9, "{differs:e}");

    // A dense cluster, a thin one, and one vector beside the dense one, nearer to it than those of the thin one to each other.
    let (dense, thin) = (normal(300, 4, 0.0, 6), normal(300, 4, 0.0, 7));
    let scaled = |x: &Features, by: f32, shift: f32| {
        (0..x.len()).flat_map(|row| x.row(row).to_vec()).map(|value| value * by + shift).collect::<Vec<f32>>()
    };
    let values = [scaled(&dense, 0.01, 0.0), scaled(&thin, 10.0, 300.0), vec![0.5; 4]].concat();
    let factors = outlier_factors(&Features::new(601, 4, values).unwrap(), 10, &Silent).unwrap();
    assert!(factors[600] > 5.0 && factors[..600].iter().all(|factor| *factor < 3.0), "{}", factors[600]);
    assert_eq!(ranked(&factors).last(), Some(&600));

    // What has no distance from its neighbours is typical of them.
    let copies = outlier_factors(&x.select(&[[0; 30], [1; 30]].concat()), 20, &Silent).unwrap();
    assert_eq!(copies, [1.0; 60]);
    assert_eq!(ranked(&copies), (0..60).collect::<Vec<u32>>());
    assert!(outlier_factors(&x, 700, &Silent).unwrap_err().to_string().contains("no neighbour number 700"));
}

#[test]
fn a_generator_that_makes_one_image_is_precise_and_has_no_recall() {
    let real = normal(300, 6, 0.0, 1);
    let made = real.select(&[5; 300]);
    let (precision, recall) = precision_recall(&real, &made);
    assert_eq!(precision, 1.0);
    assert!(recall <= 1.0 / 300.0);
    // What precision does not tell: next to none of the real images has one near by.
    assert!(density_coverage(&real, &made)[1] < 0.1);
    let images = Images { n: 4, height: 1, width: 2, channels: 1, pixels: vec![1, 2, 3, 4, 1, 2, 1, 2] };
    assert_eq!(duplicates(&images), 2);
}

#[test]
fn subsets_of_the_kernel_distance_are_addressed_by_the_seed() {
    let (x, y) = (normal(300, 5, 0.0, 1), normal(300, 5, 0.5, 2));
    let at = |seed| kernel_distance(&x, &y, 4, 100, seed).unwrap();
    assert_eq!(at(1), at(1));
    assert_ne!(at(1), at(2));
    let all = kernel_distance(&x, &y, 4, 300, 1).unwrap();
    assert!((at(1) - all).abs() < 0.3 * all && all > 0.0);
}

#[test]
fn features_that_cannot_be_compared_are_refused() {
    let (x, other, one) = (normal(10, 4, 0.0, 1), normal(10, 5, 0.0, 1), normal(1, 4, 0.0, 1));
    for wrong in [&other, &one] {
        assert!(matches!(frechet(&x, wrong), Err(Error::Usage { .. })));
        assert!(matches!(kernel_distance(&x, wrong, 2, 5, 0), Err(Error::Usage { .. })));
    }
    assert!(Manifold::new(&normal(3, 4, 0.0, 1), 3).is_err());
    assert!(Manifold::new(&x, 3).unwrap().coverage(&Manifold::new(&other, 3).unwrap()).is_err());
    assert!(by_features(&x, &other, None).is_err());
    for values in [vec![f32::NAN; 4], vec![f32::INFINITY; 4], vec![0.0; 3]] {
        assert!(matches!(Features::new(1, 4, values), Err(Error::Invalid { .. })));
    }
    assert!(Features::new(usize::MAX, 4, vec![0.0; 4]).is_err());
}

/// A data set of the built-in digits.
fn digits(len: usize, channels: usize, seed: u64) -> Dataset {
    let pixels = synthetic::digits(len, 28, channels, seed);
    Dataset {
        name: "digits".to_string(),
        sha256: "cd".repeat(32),
        len,
        channels,
        size: 28,
        pixels,
        labels: Vec::new(),
        report: DataReport::default(),
    }
}

fn all(data: &Dataset) -> Vec<u32> {
    (0..data.len as u32).collect()
}

#[test]
fn the_nearest_neighbours_are_found() {
    for channels in [1, 3] {
        let data = digits(1500, channels, 0); // more than a block
        let among: Vec<u32> = (0..1500).rev().collect();
        // Image 1300 as it is, and with one pixel changed by 2.
        let mut queries = data.images(&[1300, 1300, 7]);
        let changed = queries.bytes() + 5;
        queries.pixels[changed] ^= 2;
        let found = by_pixels(&queries, &data, &among, None).unwrap();
        assert_eq!([found[0].index, found[1].index, found[2].index], [199, 199, 1492]);
        assert_eq!([found[0].distance, found[2].distance], [0.0, 0.0]);
        assert!((found[1].distance - (4.0 / queries.bytes() as f64).sqrt()).abs() < 1e-9);
        // Without itself, by brute force.
        let found = by_pixels(&data.images(&[7]), &data, &among, Some(&[1492])).unwrap();
        let apart = |other: u32| -> u64 {
            data.image(7).iter().zip(data.image(other as usize)).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
        };
        let nearest = (0..1500).filter(|&other| other != 7).min_by_key(|&other| apart(other)).unwrap();
        assert_eq!(among[found[0].index], nearest);
    }
    let candidates = normal(700, 5, 0.0, 1);
    let found = by_features(&candidates.select(&[3, 650]), &candidates, None).unwrap();
    assert_eq!([found[0].index, found[1].index], [3, 650]);
    assert!(found[0].distance < 1e-6);
    let found = by_features(&candidates.select(&[3]), &candidates, Some(&[3])).unwrap();
    let apart = |other: usize| candidates.row(3).iter().zip(candidates.row(other)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let nearest = (0..700).filter(|&other| other != 3).min_by(|&a, &b| apart(a).total_cmp(&apart(b))).unwrap();
    assert_eq!(found[0].index, nearest);
    assert!((found[0].distance - f64::from(apart(nearest)).sqrt()).abs() < 1e-5);
}

fn load_runtime() {
    runtime::load_from(crate::infer::runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
}

fn stranger_images() -> Images {
    let pixels = goldens()["images"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    Images { n: 5, height: 12, width: 12, channels: 3, pixels: pixels.into_iter().map(|value| value as u8).collect() }
}

fn close(found: &Features, expected: &Features) {
    assert_eq!((found.len(), found.dim()), (expected.len(), expected.dim()));
    for index in 0..found.len() {
        let pairs = found.row(index).iter().zip(expected.row(index));
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5 * b.abs().max(1.0)), "{:?}", pairs.collect::<Vec<_>>());
    }
}

#[test]
fn foreign_feature_models_give_what_their_makers_compute() {
    load_runtime();
    let (images, goldens) = (stranger_images(), goldens());
    // PyTorch's: RGB, its maps averaged over space.
    let options = Options { range: Some(InputRange::Imagenet), ..Options::default() };
    let model = FeatureModel::open(&golden("stranger_features.onnx"), &options).unwrap();
    assert_eq!((model.dim(), model.size(), model.channels()), (7, 12, 3));
    assert!(model.about().is_none() && model.notes().is_empty());
    close(&model.extract(&images).unwrap(), &features(&goldens["nchw.features"]));
    // Channels last, two rows always, grey.
    let options = Options { range: Some(InputRange::Sigmoid), ..Options::default() };
    let model = FeatureModel::open(&golden("stranger_features_nhwc.onnx"), &options).unwrap();
    assert_eq!((model.dim(), model.size(), model.channels()), (9, 12, 1));
    close(&model.extract(&images).unwrap(), &features(&goldens["nhwc.features"]));
    assert_eq!(model.preparation(&images), "ITU-R BT.601 luma");
}

#[test]
fn what_a_feature_model_does_not_tell_is_asked_for_or_said() {
    load_runtime();
    let path = golden("stranger_features_nhwc.onnx");
    let guessed = FeatureModel::open(&path, &Options::default()).unwrap();
    assert_eq!(guessed.range(), DEFAULT_RANGE);
    assert!(guessed.notes().iter().any(|note| note.contains("`features::Options::range`")), "{:?}", guessed.notes());
    let imagenet = Options { range: Some(InputRange::Imagenet), ..Options::default() };
    assert!(matches!(FeatureModel::open(&path, &imagenet), Err(Error::Usage { .. })));
    let size = Options { size: Some(299), ..Options::default() };
    assert!(matches!(FeatureModel::open(&path, &size), Err(Error::Usage { .. })));
    // Another size is resized, and said.
    let large = digits(3, 3, 0);
    let large = large.images(&all(&large));
    assert_eq!(guessed.extract(&large).unwrap().len(), 3);
    let preparation = guessed.preparation(&large);
    assert!(preparation.contains("from 28×28 to 12×12") && preparation.contains("luma"), "{preparation}");
}

#[test]
fn what_is_no_feature_model_is_refused() {
    load_runtime();
    let folder = tempdir().unwrap();
    let text = folder.path().join("text.onnx");
    fs::write(&text, "not a model").unwrap();
    let missing = folder.path().join("missing.onnx");
    let error = |path: &Path| FeatureModel::open(path, &Options::default()).err().unwrap().to_string();
    for generator in ["sealed.onnx", "stranger_nchw_f32.onnx", "stranger_fixed_u8.onnx"] {
        let message = error(&golden(generator));
        assert!(message.contains(generator) && message.contains("feature model"), "{message}");
    }
    assert!(error(&text).contains("text file"));
    assert!(error(&missing).contains("missing.onnx"));
    assert!(FeatureModel::builtin(40, 1, &Options::default()).is_err());
}

/// An IDX file of these dimensions.
fn idx(dims: &[usize], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    file.extend(dims.iter().flat_map(|&dim| (dim as u32).to_be_bytes()));
    file.extend_from_slice(bytes);
    file
}

/// A folder with labelled digits in MNIST's form.
fn write_digits(folder: &Path, len: usize) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("train-images-idx3-ubyte"), idx(&[len, 28, 28], &synthetic::digits(len, 28, 1, 0))).unwrap();
    let labels: Vec<u8> = (0..len).map(|index| (index % 10) as u8).collect();
    fs::write(folder.join("train-labels-idx1-ubyte"), idx(&[len], &labels)).unwrap();
}

#[test]
fn labels_are_read_beside_their_images() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_digits(folder.path(), 25);
    let expected: Vec<u8> = (0..25).map(|index| index % 10).collect();
    let source = folder.path().to_str().unwrap();
    assert_eq!(data::load_labels(source).unwrap().as_ref(), Some(&expected));
    let images = at("train-images-idx3-ubyte");
    assert_eq!(data::load_labels(images.to_str().unwrap()).unwrap(), Some(expected));
    assert_eq!(data::load_labels("synthetic").unwrap().unwrap().len(), synthetic::LEN);

    let labels = at("train-labels-idx1-ubyte");
    let damages = [idx(&[25], &[0; 24]), idx(&[25], &[0; 26]), idx(&[25, 1, 1], &[0; 25]), vec![0, 0, 8], Vec::new()];
    for damaged in damages {
        fs::write(&labels, damaged).unwrap();
        let error = data::load_labels(source).unwrap_err().to_string();
        assert!(error.contains("train-labels-idx1-ubyte"), "{error}");
    }
    fs::remove_file(&labels).unwrap();
    assert_eq!(data::load_labels(source).unwrap(), None);
    assert!(data::load_labels("no such data").is_err());
}

/// Small and short: enough to learn something.
fn small(task: Task, classes: usize, epochs: u64) -> FeatureConfig {
    let mut config = FeatureConfig::new(task, 28, 1, classes).unwrap();
    config.layers = toml::from_str::<BTreeMap<String, Vec<ganforge::nn::LayerSpec>>>(
        "layers = [{ conv = { out = 8, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', { leaky_relu = 0.2 }, \
         { conv = { out = 16, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', { leaky_relu = 0.2 }, \
         { conv = { out = 12, kernel = 7, bias = false } }, 'batch_norm', { leaky_relu = 0.2 }]",
    )
    .unwrap()
    .remove("layers")
    .unwrap();
    config.layers.push(ganforge::nn::LayerSpec::Linear(ganforge::nn::layers::Linear {
        out: classes,
        bias: true,
        spectral: false,
        gain: None,
    }));
    (config.epochs, config.batch_size, config.window) = (epochs, 32, 28);
    config
}

fn learned(task: Task, folder: &Path) -> Provenance {
    load_runtime();
    let data = digits(1200, 1, 0);
    let labels = (task == Task::Labels).then(|| (0..1200).map(|index| (index % 10) as u8).collect());
    let lesson = TrainingSet::new(vec![(data, labels)]).unwrap();
    assert_eq!(lesson.task(), task);
    learn::train(&small(task, lesson.classes(task), 3), &lesson, folder, &Silent).unwrap()
}

#[test]
fn feature_models_learn_and_say_what_they_are() {
    for (task, chance) in [(Task::Labels, 0.1), (Task::Rotations, 0.25)] {
        let folder = tempdir().unwrap();
        let provenance = learned(task, folder.path());
        assert!(provenance.held_out_accuracy > 2.0 * chance, "{task:?}: {provenance:?}");
        assert_eq!((provenance.images_seen, provenance.held_out_images), (3 * 1080, 120));
        let path = folder.path().join(learn::MODEL);
        let model = FeatureModel::open(&path, &Options::default()).unwrap();
        let about = model.about().unwrap();
        assert_eq!((about.size, about.channels, about.task.as_str()), (28, 1, task.name()));
        assert_eq!((about.data.as_str(), about.data_sha256.len()), ("digits", 64));
        assert_eq!(about.held_out_accuracy, provenance.held_out_accuracy);
        assert_eq!((model.dim(), model.range()), (12, InputRange::Tanh));
        // Exported again the same bytes; changed by hand, refused.
        let again = folder.path().join("again.onnx");
        assert!(learn::export(folder.path(), &again).unwrap() <= 1e-4);
        let mut bytes = fs::read(&path).unwrap();
        assert!(bytes == fs::read(&again).unwrap());
        bytes[300] ^= 1;
        let damaged = FeatureModel::from_bytes("damaged", bytes, &Options::default());
        assert!(damaged.err().unwrap().to_string().contains("damaged"));
        // A generator it is not.
        assert!(Generator::open(&path, &ganforge::infer::Options::default()).is_err());
        let wrong = Options { range: Some(InputRange::Byte), ..Options::default() };
        assert!(matches!(FeatureModel::open(&path, &wrong), Err(Error::Usage { .. })));
    }
}

#[test]
fn the_same_lesson_gives_the_same_model() {
    let [a, b] = [tempdir().unwrap(), tempdir().unwrap()];
    let [first, second] = [&a, &b].map(|folder| learned(Task::Rotations, folder.path()));
    assert_eq!(first.held_out_accuracy, second.held_out_accuracy);
    let bytes = |folder: &TempDir| fs::read(folder.path().join(learn::MODEL)).unwrap();
    assert!(bytes(&a) == bytes(&b));
}

#[test]
fn lessons_that_do_not_fit_are_refused() {
    let (data, other) = (digits(20, 1, 0), digits(20, 3, 0));
    assert!(TrainingSet::new(Vec::new()).is_err());
    assert!(TrainingSet::new(vec![(data.clone(), Some(vec![0; 19]))]).is_err());
    assert!(TrainingSet::new(vec![(data.clone(), None), (other, None)]).is_err());
    let lesson = TrainingSet::new(vec![(data.clone(), None), (data.clone(), Some(vec![1; 20]))]).unwrap();
    assert_eq!((lesson.task(), lesson.classes(Task::Rotations)), (Task::Rotations, 4));
    let folder = tempdir().unwrap();
    assert!(learn::train(&small(Task::Labels, 10, 1), &lesson, folder.path(), &Silent).is_err());
    assert!(learn::train(&small(Task::Rotations, 3, 1), &lesson, folder.path(), &Silent).is_err());
    // Classes of several sets stand one after the other.
    let classes: [Vec<u8>; 2] = [(0..20).map(|i| i % 3).collect(), (0..20).map(|i| i % 5).collect()];
    let sets = classes.map(|labels| (data.clone(), Some(labels)));
    assert_eq!(TrainingSet::new(sets.to_vec()).unwrap().classes(Task::Labels), 8);
    assert!(FeatureConfig::new(Task::Labels, 7, 1, 10).is_err());
    assert!(FeatureConfig::new(Task::Labels, 28, 2, 10).is_err());
}

#[test]
fn a_judge_prefers_digits_to_noise() {
    let folder = tempdir().unwrap();
    learned(Task::Labels, folder.path());
    let model = FeatureModel::open(&folder.path().join(learn::MODEL), &Options::default()).unwrap();
    let (data, fresh) = (digits(300, 1, 0), digits(300, 1, 9));
    let judge = FrechetJudge::new(model, &data.images(&all(&data))).unwrap();
    let same = judge.frechet(&data.images(&all(&data))).unwrap();
    let mut images = fresh.images(&all(&fresh));
    let alike = judge.frechet(&images).unwrap();
    let mut random = Stream::at(1, Purpose::Evaluation, 0);
    images.pixels.iter_mut().step_by(5).for_each(|pixel| *pixel = random.bits() as u8);
    let spoilt = judge.frechet(&images).unwrap();
    images.pixels.iter_mut().for_each(|pixel| *pixel = random.bits() as u8);
    let noise = judge.frechet(&images).unwrap();
    assert!(same < 1e-6 && same < alike && 5.0 * alike < spoilt && spoilt < noise, "{same} {alike} {spoilt} {noise}");
}

/// Both built-in feature models are what models/ says they are.
#[cfg(feature = "builtin")]
#[test]
fn the_built_in_models_are_the_exports_of_their_folders_byte_for_byte() {
    use ganforge::eval::features::BUILTIN;
    load_runtime();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempdir().unwrap();
    assert_eq!(BUILTIN.len(), 2);
    for (name, bytes) in BUILTIN {
        let path = folder.path().join(name);
        learn::export(&root.join("models").join(name), &path).unwrap();
        assert!(fs::read(&path).unwrap() == *bytes, "{name}: run `make onnx`");
        let model = FeatureModel::from_bytes(name, *bytes, &Options::default()).unwrap();
        assert!(model.about().unwrap().images_seen >= 50_000 && model.notes().is_empty());
        assert!((64..=128).contains(&model.dim()));
    }
}

/// The built-in features: digits that were never seen are near the digits, the built-in generator's further, noise far.
#[cfg(feature = "builtin")]
#[test]
fn the_built_in_features_order_what_people_order() {
    use ganforge::infer::builtin;
    load_runtime();
    let model = FeatureModel::builtin(28, 1, &Options::default()).unwrap();
    assert_eq!(model.name(), "features-28");
    let (data, fresh) = (digits(1000, 1, 0), digits(1000, 1, 9));
    let judge = FrechetJudge::new(model, &data.images(&all(&data))).unwrap();
    let real = judge.frechet(&fresh.images(&all(&fresh))).unwrap();
    let generator = builtin::open(Some("digits"), &ganforge::infer::Options::default()).unwrap();
    let mut images = generator.sample(0, 0, 1000).unwrap();
    let made = judge.frechet(&images).unwrap();
    let mut random = Stream::at(1, Purpose::Evaluation, 0);
    images.pixels.iter_mut().for_each(|pixel| *pixel = random.bits() as u8);
    let noise = judge.frechet(&images).unwrap();
    assert!(real < made && 3.0 * made < noise, "{real} {made} {noise}");
    assert_eq!(FeatureModel::builtin(96, 3, &Options::default()).unwrap().name(), "features-faces");
}

/// A folder with digits, a run on them, and a feature model for them.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(tempdir().unwrap());
        write_digits(&bench.path("data"), 120);
        learned(Task::Labels, &bench.path("features"));
        bench
            .train(&["--set=data.held_out=0.25", "--steps=4", "--checkpoint-every=2"])
            .arg("--out")
            .arg(bench.path("run"))
            .assert()
            .success();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, flags: &[&str]) -> Command {
        let mut command = gan_train(&["--quiet", "--device=cpu", "--preset=gan-fashion-mlp", "--batch-size=16"]);
        command.args([
            "--set=generator.layers=[{ linear = { out = 24 } }, 'relu', { linear = { out = 784 } }, 'tanh']",
            "--set=critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { linear = { out = 1 } }]",
            "--set=schedule.ema_decay=0.9",
        ]);
        command.arg("--data").arg(self.path("data")).args(flags);
        command
    }

    /// `gan-train eval` of something in the folder, with its feature model, quick.
    fn eval(&self, subject: &str, flags: &[&str]) -> Command {
        let mut command = gan_train(&["eval", "--quiet", "--draws=2", "--features"]);
        command.arg(self.path("features").join(learn::MODEL)).arg(self.path(subject)).args(flags);
        command
    }

    fn json(&self, subject: &str, flags: &[&str]) -> Value {
        let assert = self.eval(subject, flags).arg("--json").assert().success();
        serde_json::from_slice(&assert.get_output().stdout).unwrap()
    }
}

fn gan_train(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gan-train"));
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").args(flags);
    command
}

#[test]
fn gan_train_eval_judges_runs_files_and_folders() {
    let bench = Bench::new();
    let data = bench.path("data").display().to_string();
    let data = ["--data", data.as_str()];

    // A run: report and sheet in its folder.
    let table = bench.eval("run", &["--n=40"]).assert().success().stdout(contains("Fréchet distance"));
    assert!(String::from_utf8_lossy(&table.get_output().stdout).contains("precision"));
    let run: Value = serde_json::from_slice(&fs::read(bench.path("run/evaluation.json")).unwrap()).unwrap();
    assert!(bench.path("run/neighbours.png").is_file());
    let protocol = &run["protocol"];
    assert_eq!((&protocol["n_real"], &protocol["n_generated"]), (&Value::from(40), &Value::from(40)));
    assert_eq!(protocol["seeds"], serde_json::json!([0, 1]));
    assert_eq!((&protocol["real_images"], &protocol["weights"]), (&Value::from("training"), &Value::from("ema")));
    assert_eq!(protocol["images_seen"], 64);
    assert_eq!((&protocol["features"]["dim"], &protocol["features"]["range"]), (&Value::from(12), &Value::from("tanh")));
    for key in ["data_sha256", "subject_sha256"] {
        assert_eq!(protocol[key].as_str().unwrap().len(), 64);
    }
    let score = |report: &Value, name: &str| report[name]["mean"].as_f64().unwrap();
    assert_eq!(run["frechet"]["draws"].as_array().unwrap().len(), 2);
    assert!(score(&run, "frechet") > 3.0 * run["real_against_real"]["frechet"].as_f64().unwrap());
    assert_eq!((&run["nearest"]["among"], &run["nearest"]["samples"]), (&Value::from(90), &Value::from(40)));
    assert!(!run.to_string().contains(&bench.0.path().display().to_string()), "no path of this machine");

    // The same again, and the exported file: the same images but for a pixel's rounding.
    assert_eq!(bench.json("run", &["--n=40"]), run);
    let file = bench.json("run/generator.onnx", &[&data[..], &["--n=40"]].concat());
    assert!((score(&file, "frechet") / score(&run, "frechet") - 1.0).abs() < 0.2);
    assert_eq!(file["protocol"]["real_images"], "all");

    // Other weights, an earlier checkpoint, held-out images.
    let raw = bench.json("run", &["--n=12", "--weights=raw", "--checkpoint=2", "--held-out", "--no-neighbours"]);
    assert_eq!((&raw["protocol"]["weights"], &raw["protocol"]["images_seen"]), (&Value::from("raw"), &Value::from(32)));
    assert_eq!((&raw["protocol"]["real_images"], &raw["nearest"]), (&Value::from("held-out"), &Value::Null));

    // Other images than the run's are neither those that it was trained on nor those that it held out; its own are, wherever they lie.
    write_digits(&bench.path("others"), 130);
    let others = format!("--data={}", bench.path("others").display());
    let elsewhere = bench.json("run", &["--n=12", "--no-neighbours", &others]);
    assert_eq!(elsewhere["protocol"]["real_images"], "all");
    bench
        .eval("run", &["--n=12", "--held-out", &others])
        .assert()
        .code(2)
        .stderr(contains("which of them it held out is not known"));
    // A checkpoint's folder is one to export, too; a run has its config; a pipe is no file.
    let export = |from: &str, out: &str| {
        let mut command = gan_train(&["export", "--config"]);
        command.arg(bench.path("run/config.toml")).arg("--out").arg(bench.path(out)).arg(bench.path(from));
        command
    };
    export("run/checkpoints/00000002", "of.onnx").assert().success().stdout(contains("raw weights of"));
    export("run", "of.onnx").assert().code(2).stderr(contains("is a run, which has its config"));
    #[cfg(unix)]
    {
        assert!(std::process::Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
        export("run/checkpoints/00000002", "pipe").assert().code(2).stderr(contains("a device or a pipe"));
        let into_pipe = format!("--out={}", bench.path("pipe").display());
        bench.eval("run", &["--n=12", &into_pipe]).assert().code(2).stderr(contains("a device or a pipe"));
    }
    fs::rename(bench.path("data"), bench.path("moved")).unwrap();
    let moved = format!("--data={}", bench.path("moved").display());
    let again = bench.json("run", &["--n=12", "--held-out", "--weights=raw", "--checkpoint=2", "--no-neighbours", &moved]);
    fs::rename(bench.path("moved"), bench.path("data")).unwrap();
    assert_eq!((&again["protocol"]["real_images"], &again["frechet"]), (&Value::from("held-out"), &raw["frechet"]));

    // A folder of images: copies of real ones are found out.
    let (made, folder) = (digits(60, 1, 0), bench.path("made"));
    fs::create_dir(&folder).unwrap();
    for index in 0..60 {
        fs::write(folder.join(format!("{index:02}.png")), encode_png(made.image(index), 28, 28, 1).unwrap()).unwrap();
    }
    let copied = bench.json("made", &data);
    assert_eq!(copied["protocol"]["n_generated"], 30);
    assert_eq!((&copied["nearest"]["exact_copies"], &copied["nearest"]["samples"]), (&Value::from(30), &Value::from(30)));
    assert_eq!(copied["nearest"]["by_pixels"]["generated"], 0.0);
    assert!(score(&copied, "frechet") < 0.5 * score(&run, "frechet"));
    assert!(score(&copied, "recall") > 0.8 && score(&copied, "recall") > score(&run, "recall"));
    assert!(score(&copied, "coverage") > 0.9 && copied["warnings"].is_null());

    // The sampler's own files in place of the folder; a folder of them, too.
    let sampled = |out: &str, flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
        command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).args(["--n", "60", "--quiet", "--model"]);
        command.arg(bench.path("run/generator.onnx")).arg("--out").arg(bench.path(out)).args(flags).assert().success();
    };
    sampled("png", &[]);
    let by_png = bench.json("png", &data);
    for (out, subject, flags) in [
        ("some.npy", "some.npy", &[][..]),
        ("some.npz", "some.npz", &[]),
        ("some.tar", "some.tar", &[]),
        ("tars", "tars", &["--format", "tar"]),
        ("arrays", "arrays", &["--format", "npy"]),
    ] {
        sampled(out, flags);
        let report = bench.json(subject, &data);
        assert_eq!(report["frechet"], by_png["frechet"], "{subject}");
        assert_eq!(report["protocol"]["subject_sha256"], by_png["protocol"]["subject_sha256"], "{subject}");
    }
    let mut broken = fs::read(bench.path("some.npy")).unwrap();
    broken.truncate(5000);
    fs::write(bench.path("broken.npy"), &broken).unwrap();
    bench.eval("broken.npy", &data).assert().code(1).stderr(contains("promises 47040 bytes, and"));
    let mut flipped = fs::read(bench.path("some.npz")).unwrap();
    flipped[400] ^= 1;
    fs::write(bench.path("flipped.npz"), &flipped).unwrap();
    bench.eval("flipped.npz", &data).assert().code(1).stderr(contains("checksum"));
    let tar = fs::read(bench.path("some.tar")).unwrap();
    for (cut, says) in [(tar.len() - 1024, "ends without the block of zeros"), (700, "it ends inside 000000.png")] {
        fs::write(bench.path("cut.tar"), &tar[..cut]).unwrap();
        bench.eval("cut.tar", &data).assert().code(1).stderr(contains(says));
    }

    // Flat grey is near to some real image, and of one kind.
    let header = String::from_utf8_lossy(&broken).into_owned();
    assert!(header.contains("(60, 28, 28, 1)"));
    let mut grey = fs::read(bench.path("some.npy")).unwrap();
    let pixels = grey.len() - 60 * 28 * 28;
    grey[pixels..].fill(60);
    fs::write(bench.path("grey.npy"), grey).unwrap();
    let flat = bench.json("grey.npy", &data);
    let warnings = flat["warnings"].to_string();
    assert!(warnings.contains("98 % of the images are copies of others") || warnings.contains("97 % of the"), "{warnings}");

    // Truncated latents, beside those that are not.
    let table =
        bench.eval("run/generator.onnx", &[&data[..], &["--n=40", "--truncation=0.000001,3"]].concat()).assert().success();
    let table = String::from_utf8_lossy(&table.get_output().stdout).into_owned();
    assert_eq!(table.lines().filter(|line| !line.starts_with("warning, ")).count(), 4, "{table}");
    assert!(table.contains("\nwarning, truncated to 0.000001: "), "{table}");
    let reports = bench.json("run/generator.onnx", &[&data[..], &["--n=40", "--truncation=0.1,3"]].concat());
    assert_eq!(reports[0]["frechet"], bench.json("run/generator.onnx", &[&data[..], &["--n=40"]].concat())["frechet"]);
    assert_eq!((&reports[1]["protocol"]["truncation"], &reports[0]["protocol"]["truncation"]), (&0.1.into(), &Value::Null));
    assert!(reports[1]["frechet"]["mean"] != reports[0]["frechet"]["mean"]);
    bench.eval("png", &[&data[..], &["--truncation=1"]].concat()).assert().code(2).stderr(contains("--truncation of images"));
}

#[test]
#[cfg(feature = "builtin")]
fn gan_train_select_leaves_out_what_is_odd() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |name: String, pixels: &[u8]| {
        fs::write(path("data").join(name), encode_png(pixels, 28, 28, 1).unwrap()).unwrap();
    };
    fs::create_dir(path("data")).unwrap();
    for (number, digit) in synthetic::digits(190, 28, 1, 0).chunks_exact(28 * 28).enumerate() {
        write(format!("digit-{number}.png"), digit);
    }
    let mut random = Stream::at(1, Purpose::Evaluation, 0);
    for number in 0..10 {
        let mut noise = vec![0.0; 28 * 28];
        random.fill_normal(128.0, 60.0, &mut noise);
        let pixels: Vec<u8> = noise.iter().map(|value| value.clamp(0.0, 255.0) as u8).collect();
        write(format!("noise-{number}.png"), &pixels);
    }
    let select = |out: &str, flags: &[&str]| {
        let mut command = gan_train(&["select", "--quiet", "--data"]);
        command.arg(path("data")).arg("--out").arg(path(out)).args(flags);
        if !flags.contains(&"--size=32") {
            command.arg("--size=28");
        }
        command.arg("--channels=1");
        command
    };
    let json = select("new/some.zip", &["--keep=0.9", "--json"]).assert().success();
    let told: Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!((&told["kept"], &told["left_out"]), (&180.into(), &20.into()));
    assert!(told["outlier_factor_from"].as_f64().unwrap() > 1.0);
    assert!(path("new/some-left-out.png").is_file());

    // What is kept are the digits' own pixels, and no noise; and the same again, byte for byte.
    let form = |source: &str| DataConfig::plain(source, 28, 1);
    let load = |name: &str| {
        let source = path(name).display().to_string();
        data::load(&source, &form(&source), &Silent).unwrap()
    };
    let (all, kept) = (load("data"), load("new/some.zip"));
    assert_eq!(kept.len, 180);
    let digits: std::collections::HashSet<&[u8]> = (0..190).map(|index| all.image(index)).collect();
    assert!((0..180).all(|index| digits.contains(kept.image(index))), "noise was kept");
    select("again.zip", &["--keep=0.9"]).assert().success().stdout(contains("180 of 200 images"));
    assert!(fs::read(path("again.zip")).unwrap() == fs::read(path("new/some.zip")).unwrap());

    select("again.zip", &["--keep=0.5"]).assert().code(2).stderr(contains("is there already"));
    for inside in ["data/some.zip", "data/new/some.zip"] {
        select(inside, &["--keep=0.5"]).assert().code(2).stderr(contains("inside the data's own folder"));
    }
    assert!(!path("data/new").exists());
    select("folder", &["--keep=0.5"]).assert().code(2).stderr(contains("Name a zip archive"));
    select("other.zip", &["--keep=1"]).assert().code(2).stderr(contains("below 1"));
    select("other.zip", &["--keep=0.5", "--size=32"]).assert().code(2).stderr(contains("no built-in feature model"));
    assert!(!path("other.zip").exists());
}

#[test]
fn gan_train_eval_refuses_what_it_cannot_judge() {
    let bench = Bench::new();
    let data = bench.path("data").display().to_string();
    let data = ["--data", data.as_str()];
    let refused = |subject: &str, flags: &[&str], what: &str| {
        bench.eval(subject, flags).assert().code(2).stderr(contains(what));
    };
    refused("run/generator.onnx", &[], "--data is missing");
    refused("run/generator.onnx", &[&data[..], &["--held-out"]].concat(), "is not a run");
    refused("features", &data, "feature model");
    refused("run", &["--n=100"], "100 images a draw");
    refused("run", &["--n=4"], "too few");
    refused("run", &["--checkpoint=newest"], "newest");
    refused("run", &["--checkpoint=3"], "step 3");
    refused("run", &["--features-range=byte"], "takes the value range tanh");
    refused("nothing", &data, "nothing");
    refused("run", &["--out=no/such/folder/report.json"], "there is no folder");
    fs::create_dir(bench.path("empty")).unwrap();
    bench.eval("empty", &data).assert().code(1).stderr(contains("no images"));
    assert!(!bench.path("run/evaluation.json").exists());
}

#[test]
fn gan_train_features_trains_exports_and_tells() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_digits(&path("data"), 60);
    let train = |out: &str, flags: &[&str]| {
        let mut command = gan_train(&["features", "--quiet", "--size=12", "--channels=1", "--epochs=1", "--data"]);
        command.arg(path("data")).arg("--out").arg(path(out)).args(flags);
        command
    };
    let assert = train("made", &["--json"]).assert().success();
    let summary: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!((&summary["task"], &summary["provenance"]["images_seen"]), (&Value::from("labels"), &Value::from(54)));
    assert!(path("made/features.onnx").is_file() && path("made/config.toml").is_file());
    // `gan-train export` knows such folders.
    gan_train(&["export"]).arg(path("made")).arg("--out").arg(path("again.onnx")).assert().success();
    assert!(fs::read(path("again.onnx")).unwrap() == fs::read(path("made/features.onnx")).unwrap());
    for flag in ["--weights=raw", "--size=32", "--set=seed=1"] {
        gan_train(&["export", flag]).arg(path("made")).assert().code(2).stderr(contains("feature model"));
    }
    train("turned", &["--task=rotations"]).assert().success().stdout(contains("held-out images told right"));
    // Labels that half of the data have.
    fs::create_dir(path("plain")).unwrap();
    fs::copy(path("data/train-images-idx3-ubyte"), path("plain/train-images-idx3-ubyte")).unwrap();
    let plain = path("plain").display().to_string();
    train("mixed", &["--data", &plain]).assert().code(2).stderr(contains("--task rotations"));
    let mut wrong = gan_train(&["features", "--quiet", "--size=7", "--channels=1", "--data"]);
    wrong.arg(path("data")).arg("--out").arg(path("wrong")).assert().code(2).stderr(contains("8 to 256"));
}

/// Real images, where they are at hand.
#[cfg(feature = "builtin")]
#[test]
fn real_digits_are_nearer_to_real_digits_than_to_clothes() {
    let Some(root) = std::env::var_os("GANFORGE_DATA").map(PathBuf::from).filter(|root| root.join("mnist").is_dir()) else {
        eprintln!("skipped: GANFORGE_DATA has no mnist");
        return;
    };
    load_runtime();
    let load = |name: &str| {
        let source = root.join(name).display().to_string();
        let form = DataConfig::plain(&source, 28, 1);
        let data = data::load(&source, &form, &Silent).unwrap();
        assert_eq!(data::load_labels(&source).unwrap().unwrap().len(), data.len);
        data
    };
    let (mnist, clothes) = (load("mnist"), load("fashion-mnist"));
    let part = |data: &Dataset, start: u32| data.images(&(start..start + 1000).collect::<Vec<_>>());
    let judge = FrechetJudge::new(FeatureModel::builtin(28, 1, &Options::default()).unwrap(), &part(&mnist, 0)).unwrap();
    let [real, other] = [judge.frechet(&part(&mnist, 1000)), judge.frechet(&part(&clothes, 0))].map(Result::unwrap);
    assert!(20.0 * real < other, "{real} {other}");
}

#[test]
#[cfg(feature = "builtin")]
fn images_far_from_all_real_ones_are_warned_of() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("noise.npy");
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (60, 28, 28), }";
    file.extend(format!("{header:117}\n").into_bytes());
    let mut random = Stream::at(3, Purpose::Evaluation, 0);
    file.extend((0..60 * 28 * 28).map(|_| random.bits() as u8));
    fs::write(&path, file).unwrap();
    let mut command = gan_train(&["eval", "--quiet", "--draws=2", "--data=synthetic", "--no-neighbours", "--json"]);
    let told = command.arg(&path).assert().success().get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&told).unwrap();
    assert!(report["warnings"].to_string().contains("have a generated one near by, where of other real ones"), "{report}");
    assert!(report["coverage"]["mean"].as_f64().unwrap() < 0.1 && report["duplicates"]["mean"] == 0.0);
}
