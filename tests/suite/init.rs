//! Weights from elsewhere: PyTorch's state dicts, safetensors files and other runs, at the beginning of a run and for export.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use candle_core::{DType, Device, Tensor};
use ganforge::config::TrainConfig;
use ganforge::contract::Weights;
use ganforge::infer::{Generator, Options};
use ganforge::nn::Shape;
use ganforge::nn::{Pass, channels_first, channels_last};
use ganforge::train::{Trainer, import_weights};
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::{TempDir, tempdir};

/// What `tests/golden/state_dicts.py` trained.
const SYSTEM: &[&str] = &[
    "latent.size=8",
    "schedule.ema_decay=0.9",
    "generator.layers=[{ reshape = [8, 1, 1] }, { conv_transpose = { out = 8, kernel = 4, bias = false } }, 'batch_norm', 'relu', \
     { conv_transpose = { out = 6, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', 'relu', \
     { conv_transpose = { out = 4, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', 'relu', \
     { conv_transpose = { out = 3, kernel = 4, stride = 2, padding = 1, bias = false } }, 'tanh']",
    "critic.layers=[{ conv = { out = 4, kernel = 4, stride = 2, padding = 1, bias = false } }, { leaky_relu = 0.2 }, \
     { conv = { out = 6, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', { leaky_relu = 0.2 }, \
     { conv = { out = 8, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', { leaky_relu = 0.2 }, \
     { conv = { out = 1, kernel = 4 } }]",
    "data.size=32",
];

fn config() -> TrainConfig {
    let mut table = ganforge::config::preset_table("dcgan-64").unwrap();
    SYSTEM.iter().for_each(|assignment| ganforge::config::set(&mut table, assignment).unwrap());
    TrainConfig::from_table(table, "the golden system").unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What PyTorch computed.
fn computed() -> BTreeMap<String, Tensor> {
    let tensors = candle_core::safetensors::load(golden("state_dicts.safetensors"), &Device::Cpu).unwrap();
    tensors.into_iter().collect()
}

/// PyTorch's tensors of netG.pth, by its names.
fn net_g() -> BTreeMap<String, Tensor> {
    computed().into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix("netG.")?.to_string(), tensor))).collect()
}

fn save(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let tensors: std::collections::HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn furthest(a: &Tensor, b: &Tensor) -> f64 {
    let values = |x: &Tensor| x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn trainer() -> Trainer {
    Trainer::new(&config(), &Device::Cpu, DType::F32).unwrap()
}

/// The images `[n, c · h · w]` that a trainer's generator makes of the golden latents.
fn images(trainer: &Trainer) -> Tensor {
    channels_first(&trainer.generator.forward(&computed()["z"], Pass::Eval).unwrap()).unwrap()
}

/// How far a trainer's generator is from PyTorch's after it began with `path`.
fn error_from(path: &Path) -> f64 {
    let mut trainer = trainer();
    import_weights::begin(&mut trainer, &[path]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    furthest(&images(&trainer), &computed()["images"])
}

#[test]
fn a_state_dict_computes_what_it_does_in_pytorch() {
    let mut trainer = trainer();
    let critic = trainer.critic.parameters().next().unwrap().var.as_detached_tensor().copy().unwrap();
    let told = import_weights::begin(&mut trainer, &[&golden("netG.pth")]).unwrap();
    assert!(told.contains("netG.pth: generator from the file, critic drawn anew"), "{told}");
    assert!(furthest(&images(&trainer), &computed()["images"]) < 2e-6);
    assert_eq!(furthest(trainer.critic.parameters().next().unwrap().var.as_tensor(), &critic), 0.0);
    // The average starts there, too.
    for (name, average) in trainer.ema.as_ref().unwrap().tensors() {
        let parameter = trainer.generator.parameters().find(|p| p.name == *name).unwrap();
        assert_eq!(furthest(average, parameter.var.as_tensor()), 0.0, "{name}");
    }
}

#[test]
fn a_checkpoint_of_both_in_other_types_orders_and_wrappings() {
    let mut trainer = trainer();
    let told = import_weights::begin(&mut trainer, &[&golden("checkpoint.pth")]).unwrap();
    assert!(told.contains("generator from 'netG', critic from 'netD'"), "{told}");
    let made = computed();
    assert!(furthest(&images(&trainer), &made["images_half"]) < 2e-6);
    let shape = Shape::Map { channels: 3, height: 32, width: 32 };
    let scores = trainer.critic.forward(&channels_last(&made["images"], shape, 7).unwrap(), Pass::Eval).unwrap();
    assert!(furthest(&scores, &made["scores"]) < 1e-5);
}

/// The system of PyTorch's standard example, as narrow as its golden checkpoints are.
fn example() -> TrainConfig {
    let table = ganforge::config::preset_table("dcgan-64").unwrap();
    let table = ganforge::config::resized(table, "dcgan-64", None, Some(1.0 / 32.0)).unwrap();
    TrainConfig::from_table(table, "dcgan-64").unwrap()
}

#[test]
fn both_networks_of_the_standard_example_begin_a_run() {
    let computed: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(golden("example.safetensors"), &Device::Cpu).unwrap().into_iter().collect();
    let files = [golden("example_netG.pth"), golden("example_netD.pth")];
    let mut trainer = Trainer::new(&example(), &Device::Cpu, DType::F32).unwrap();
    let told = import_weights::begin(&mut trainer, &files).unwrap();
    assert!(told.contains("netG.pth, critic from ") && told.ends_with("netD.pth"), "{told}");
    let images = trainer.generator.forward(&computed["z"], Pass::Eval).unwrap();
    assert!(furthest(&channels_first(&images).unwrap(), &computed["images"]) < 2e-6);
    let scores = trainer.critic.forward(&images, Pass::Eval).unwrap();
    assert!(furthest(&scores, &computed["scores"]) < 1e-5);

    // Each alone, and neither twice.
    let mut alone = Trainer::new(&example(), &Device::Cpu, DType::F32).unwrap();
    let told = import_weights::begin(&mut alone, &files[1..]).unwrap();
    assert!(told.contains("generator drawn anew, critic from the file"), "{told}");
    let twice = import_weights::begin(&mut alone, &[&files[0], &files[0]]).unwrap_err().to_string();
    assert!(twice.contains("each hold a generator"), "{twice}");

    let folder = tempdir().unwrap();
    let state = folder.path().join("optimizer-critic.safetensors");
    fs::copy(golden("example.safetensors"), &state).unwrap();
    let refused = import_weights::begin(&mut alone, &[&state]).unwrap_err().to_string();
    assert!(refused.contains("the state of an optimiser"), "{refused}");

    // As the keys of a config, and for export.
    let mut config = example();
    let named: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    config.init_from = named.clone().into();
    let text = config.to_toml().unwrap();
    assert!(text.contains("init_from = [") && TrainConfig::from_toml(&text, "it").unwrap() == config);
    config.init_from = named[0].as_str().into();
    let text = config.to_toml().unwrap();
    assert!(text.contains("init_from = \"") && TrainConfig::from_toml(&text, "it").unwrap() == config);
    let exported = import_weights::load_generator(example(), &files[0]).unwrap();
    assert!(furthest(&exported.generator.forward(&computed["z"], Pass::Eval).unwrap(), &images) == 0.0);
}

#[test]
fn spectral_normalisation_by_both_of_pytorchs_names() {
    let mut table = ganforge::config::preset_table("dcgan-64").unwrap();
    SYSTEM.iter().chain(&["critic.norm=spectral"]).for_each(|set| ganforge::config::set(&mut table, set).unwrap());
    let config = TrainConfig::from_table(table, "the golden system").unwrap();
    let folder = tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    let older = |name: &str| {
        let (layer, rest) = name.strip_prefix("spectral.")?.split_once('.')?;
        let role = match rest {
            "parametrizations.weight.original" => "weight_orig",
            "parametrizations.weight.0._u" => "weight_u",
            "parametrizations.weight.0._v" => "weight_v",
            other => other,
        };
        Some(format!("{layer}.{role}"))
    };
    save(&path, &computed().into_iter().filter_map(|(name, tensor)| Some((older(&name)?, tensor))).collect());
    for file in [golden("spectral.pth"), path] {
        let mut trainer = Trainer::new(&config, &Device::Cpu, DType::F32).unwrap();
        let told = import_weights::begin(&mut trainer, &[&file]).unwrap();
        assert!(told.contains("generator drawn anew, critic from the file"), "{told}");
        let shape = Shape::Map { channels: 3, height: 32, width: 32 };
        let images = channels_last(&computed()["images"], shape, 7).unwrap();
        let scores = trainer.critic.forward(&images, Pass::Eval).unwrap();
        assert!(furthest(&scores, &computed()["scores_spectral"]) < 1e-6);
    }
}

#[test]
fn safetensors_by_any_names() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("g.safetensors");
    // As they are: main.10 sorts behind main.7 only as a number.
    save(&path, &net_g());
    assert!(error_from(&path) < 2e-6);
    // Layers by kind: all normalisations before all convolutions.
    let renamed = |name: &str| {
        let (layer, role) = name.strip_prefix("main.").unwrap().split_once('.').unwrap();
        let layer: usize = layer.parse().unwrap();
        let kind = if layer % 3 == 2 { "bn" } else { "deconv" };
        format!("{kind}{}.{role}", layer.div_ceil(3))
    };
    save(&path, &net_g().into_iter().map(|(name, tensor)| (renamed(&name), tensor)).collect());
    assert!(error_from(&path) < 2e-6);
    // Inside a larger module, wrapped twice.
    let wrapped = net_g().into_iter().map(|(name, tensor)| (format!("_orig_mod.module.gan.generator.{name}"), tensor));
    let mut all: BTreeMap<String, Tensor> = wrapped.collect();
    save(&path, &all);
    assert!(error_from(&path) < 2e-6 || panic!("not found"));
    all.insert("_orig_mod.module.step".to_string(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    save(&path, &all);
    let told = import_weights::begin(&mut trainer(), &[&path]).unwrap();
    assert!(told.contains("generator from 'gan'"), "{told}");
}

#[test]
fn of_several_generators_the_averaged_one_is_taken() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("both.safetensors");
    let mut tensors: BTreeMap<String, Tensor> =
        net_g().into_iter().map(|(name, tensor)| (format!("g_ema.{name}"), tensor)).collect();
    tensors.extend(
        net_g().into_iter().map(|(name, tensor)| (format!("g.{name}"), (tensor.to_dtype(DType::F32).unwrap() * 2.0).unwrap())),
    );
    save(&path, &tensors);
    let mut trainer = trainer();
    let told = import_weights::begin(&mut trainer, &[&path]).unwrap();
    assert!(told.contains("generator from 'g_ema'"), "{told}");
    assert!(furthest(&images(&trainer), &computed()["images"]) < 2e-6);
    // An export says which weights it has.
    let weights = |path: &Path| import_weights::load_generator(config(), path).unwrap().weights;
    assert_eq!((weights(&path), weights(&golden("netG.pth"))), (Weights::Ema, Weights::Raw));
    let own = folder.path().join("checkpoint");
    fs::create_dir(&own).unwrap();
    save(&own.join("ema.safetensors"), &net_g());
    assert_eq!((weights(&own), weights(&own.join("ema.safetensors"))), (Weights::Ema, Weights::Ema));
    save(&own.join("generator.safetensors"), &net_g());
    assert_eq!(weights(&own), Weights::Raw);
}

/// Begins with a file that will not do; gives the error, and makes sure that nothing changed.
fn refused(path: &Path) -> String {
    let mut trainer = trainer();
    let before = images(&trainer);
    let error = import_weights::begin(&mut trainer, &[path]).unwrap_err().to_string();
    assert_eq!(furthest(&images(&trainer), &before), 0.0);
    assert!(error.starts_with(&path.display().to_string()) || error.starts_with("cannot read"), "{error}");
    error
}

#[test]
fn another_architecture_is_refused_where_it_parts() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("g.safetensors");
    let with = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut tensors = net_g();
        change(&mut tensors);
        save(&path, &tensors);
        refused(&path)
    };
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();

    let error = with(&|t| drop(t.insert("main.7.weight".to_string(), zeros(&[6, 5, 4, 4]))));
    assert!(
        error.contains("layer with kernels 3 is main.7 (weight 6×5×4×4), expected 07.conv_transpose (weight 6×4×4×4)"),
        "{error}"
    );
    assert!(error.contains("all in the file: main.1 (weight 8×8×4×4), main.4 (weight 8×6×4×4)"), "{error}");
    let error = with(&|t| drop(t.insert("main.10.bias".to_string(), zeros(&[3]))));
    assert!(error.contains("4 is main.10 (weight 4×3×4×4, bias 3), expected 10.conv_transpose (weight 4×3×4×4)"), "{error}");
    let error = with(&|t| drop(t.remove("main.5.running_var")));
    assert!(error.contains("normalisation 2 is main.5 (weight 6, bias 6, running_mean 6), expected 05.batch_norm"), "{error}");
    let error = with(&|t| drop(t.insert("main.11.weight".to_string(), zeros(&[3, 3, 1, 1]))));
    assert!(error.contains("layer with kernels 5 is main.11 (weight 3×3×1×1), expected none"), "{error}");
    let error = with(&|t| drop(t.insert("main.1.weight_u".to_string(), zeros(&[8]))));
    assert!(error.contains("1 is main.1 (weight 8×8×4×4, weight_u 8), expected 01.conv_transpose (weight 8×8×4×4)"), "{error}");
    let error = with(&|t| drop(t.insert("main.1.alpha".to_string(), zeros(&[8]))));
    assert!(error.contains("main.1.alpha is none of weight, bias, running_mean, running_var"), "{error}");
    let error = with(&|t| drop(t.insert("main.2.bias".to_string(), (zeros(&[8]) / 0.0).unwrap())));
    assert!(error.contains("02.batch_norm.bias holds NaN or infinity"), "{error}");
    let error = with(&|t| drop(t.insert("main.2.bias".to_string(), zeros(&[8]).to_dtype(DType::I64).unwrap())));
    assert!(error.contains("bias of its main.2 is of the type I64"), "{error}");
}

#[test]
fn a_critic_of_another_architecture_is_not_dropped_in_silence() {
    let mut config = config();
    config.critic.layers.remove(3); // its first batch_norm
    let mut trainer = Trainer::new(&config, &Device::Cpu, DType::F32).unwrap();
    let error = import_weights::begin(&mut trainer, &[&golden("checkpoint.pth")]).unwrap_err().to_string();
    assert!(error.contains("'netD' does not fit the config's critic: normalisation 1 is"), "{error}");
    assert!(error.contains("To begin with the generator alone, name a file that holds nothing else"), "{error}");
}

/// A `.pth` with the pickle of another.
fn forged(pickle: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("forged.pth");
    let mut archive = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(pickle).unwrap();
    archive.start_file("archive/data/0", stored).unwrap();
    archive.write_all(&[0; 64]).unwrap();
    archive.finish().unwrap();
    (folder, path)
}

fn refused_pickle(pickle: &[u8]) -> String {
    let (_folder, path) = forged(pickle);
    refused(&path)
}

/// Python's short form of a text in a pickle.
fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

#[test]
fn code_in_a_pickle_is_refused_and_not_run() {
    let folder = tempdir().unwrap();
    let mark = folder.path().join("was-here");
    let call = format!("touch {}", mark.display());
    let error = refused_pickle(&[b"\x80\x02cposix\nsystem\n".as_slice(), &text(&call), b"\x85R."].concat());
    assert!(error.contains("the Python object posix.system") && error.contains("nothing of it was run"), "{error}");
    let hidden = [b"\x80\x02}".as_slice(), &text("w"), b"c__builtin__\neval\n", &text("1"), b"\x85Rs."].concat();
    assert!(refused_pickle(&hidden).contains("__builtin__.eval"));
    assert!(!mark.exists());
    let error = refused(&golden("object.pth"));
    assert!(error.contains("the Python object torch.nn.modules.activation.ReLU") && error.contains("state_dict()"), "{error}");
}

/// A state dict with one tensor of these dims, strides, offset, and storage type.
fn one_tensor(dims: &[u32], strides: &[u32], offset: u32, storage: &str) -> Vec<u8> {
    let int = |n: u32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let tuple = |items: &[u32]| [b"(".to_vec(), items.iter().flat_map(|&n| int(n)).collect(), b"t".to_vec()].concat();
    [
        b"\x80\x02}".to_vec(),
        text("w.weight"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("ctorch\n{storage}\n").into_bytes(),
        text("0"),
        text("cpu"),
        int(16),
        b"tQ".to_vec(),
        int(offset),
        tuple(dims),
        tuple(strides),
        b"\x89}tRs.".to_vec(),
    ]
    .concat()
}

/// A network of one kernel of 2×2.
fn small() -> TrainConfig {
    let mut config = config();
    config.generator.layers.truncate(1);
    config
}

#[test]
fn forged_pickles_neither_panic_nor_take_memory() {
    // A tuple of two of the last, forty times over: 2⁴⁰ objects.
    let mut bomb = b"\x80\x02)".to_vec();
    (0..40u8).for_each(|level| bomb.extend([b'q', level, b'h', level, 0x86]));
    bomb.push(b'.');
    assert!(refused_pickle(&bomb).contains("more deeply nested, or longer"));
    let deep = [b"\x80\x02)".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(refused_pickle(&deep).contains("more deeply nested"));
    assert!(refused_pickle(b"\x80\x02X\xff\xff\xff\xffabc").contains("longer than it"));
    assert!(refused_pickle(b"\x80\x02\x8a\xff1234").contains("longer than it"));
    for damaged in [b"".as_slice(), b"\x80\x02", b"\x80\x02u.", b"\x80\x02R.", b"\x80\x02h\x07.", b"\x80\x02\xfe."] {
        assert!(refused_pickle(damaged).contains("its pickle is damaged"), "{damaged:?}");
    }
    for wrong in [b"\x80\x02}.".as_slice(), b"\x80\x02N.", b"\x80\x02]."] {
        assert!(refused_pickle(wrong).contains("it holds no tensors"), "{wrong:?}");
    }
    // Tensors that are not where they say; they are only looked at if their shapes fit.
    let short = [b"\x80\x02}".as_slice(), &text("w"), b"ctorch._utils\n_rebuild_tensor_v2\n)Rs."].concat();
    assert!(refused_pickle(&short).contains("tensor w is saved in a way that is not known"));
    assert!(refused_pickle(&one_tensor(&[2, 2], &[2], 0, "FloatStorage")).contains("not known"));
    assert!(refused_pickle(&one_tensor(&[2, 2], &[2, 1], 0, "QInt8Storage")).contains("QInt8Storage"));
    let huge = one_tensor(&[i32::MAX as u32; 4], &[0; 4], 0, "FloatStorage");
    assert!(refused_pickle(&huge).contains("expected 01.conv_transpose"));

    let mut config = small();
    config.generator.layers = toml::from_str::<ganforge::config::NetworkConfig>(
        "layers = [{ reshape = [8, 1, 1] }, { conv_transpose = { out = 3, kernel = 32, bias = false } }]",
    )
    .unwrap()
    .layers;
    // 8 × 3 × 32 × 32 values, in memory for 16.
    for (strides, offset) in [([3072, 1024, 32, 1], 0), ([0; 4], 16), ([i32::MAX as u32; 4], 0), ([1, 0, 0, 0], 9)] {
        let (_folder, path) = forged(&one_tensor(&[8, 3, 32, 32], &strides, offset, "FloatStorage"));
        let error = import_weights::load_generator(config.clone(), &path).err().unwrap().to_string();
        assert!(error.contains("does not lie within the memory saved for it"), "{error}");
    }
    // One value for all.
    let (_folder, path) = forged(&one_tensor(&[8, 3, 32, 32], &[0; 4], 15, "FloatStorage"));
    assert!(import_weights::load_generator(config, &path).is_ok());
}

#[test]
fn damaged_and_old_files_say_what_they_are() {
    let folder = tempdir().unwrap();
    let whole = fs::read(golden("netG.pth")).unwrap();
    let cut = folder.path().join("cut.pth");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    assert!(refused(&cut).contains("no state dict in the form that PyTorch writes since version 1.6"));
    // A bit in the archive's checksummed contents.
    let at = whole.windows(8).position(|window| window == b"FloatSto").unwrap();
    let mut flipped = whole.clone();
    flipped[at] ^= 1;
    fs::write(&cut, &flipped).unwrap();
    assert!(refused(&cut).contains("data.pkl"));
    fs::write(&cut, b"<!doctype html>").unwrap();
    assert!(refused(&cut).contains("neither a PyTorch state dict nor a safetensors file"));
    fs::write(&cut, b"").unwrap();
    refused(&cut);
    // How torch.save began its files then.
    fs::write(&cut, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.").unwrap();
    assert!(refused(&cut).contains("PyTorch wrote before version 1.6"));
    assert!(refused(&folder.path().join("none.pth")).contains("cannot read"));
    assert!(refused(folder.path()).contains("no checkpoint of a run"));
}

#[test]
fn an_exported_generator_is_not_what_to_begin_with() {
    let folder = tempdir().unwrap();
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/digits.onnx");
    let renamed = folder.path().join("renamed.safetensors");
    fs::copy(&onnx, &renamed).unwrap();
    for path in [&onnx, &renamed] {
        let told = refused(path);
        assert!(told.contains("an exported generator (ONNX), whose weights were folded"), "{told}");
        assert!(told.contains("Name the folder of the run") && told.contains("generator.safetensors"), "{told}");
        let mut command = gan_train(&["--preset=digits", "--data=synthetic", "--device=cpu", "--quiet", "--init-from"]);
        let said = command.arg(path).arg("--out").arg(folder.path().join("run")).assert().code(1).get_output().stderr.clone();
        assert!(String::from_utf8(said).unwrap().contains("an exported generator (ONNX)"));
        assert!(!folder.path().join("run").exists());
    }
    // A safetensors file whose header is as long as an ONNX file's first bytes say.
    let header = format!("{:264}", "{}");
    fs::write(&renamed, [&264u64.to_le_bytes(), header.as_bytes()].concat()).unwrap();
    assert_eq!(fs::read(&renamed).unwrap()[..2], [0x08, 0x01]);
    let told = refused(&renamed);
    assert!(!told.contains("ONNX"), "{told}");
}

fn gan_train(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gan-train"));
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).args(flags);
    command
}

/// `gan-train` with the golden system.
fn golden_system(flags: &[&str]) -> Command {
    let mut command = gan_train(flags);
    command.arg("--preset=dcgan-64");
    command.args(SYSTEM.iter().map(|assignment| format!("--set={assignment}")));
    command
}

#[test]
fn a_strangers_generator_is_exported_and_sampled() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("netG.pth");
    fs::copy(golden("netG.pth"), &path).unwrap();
    let named = path.to_str().unwrap();
    golden_system(&["export", named])
        .assert()
        .success()
        .stdout(contains("netG.onnx: raw weights of ").and(contains("images").not()));
    let onnx = path.with_extension("onnx");
    let made = Generator::open(&onnx, &Options::default()).unwrap().sample(0, 0, 5).unwrap();
    // What the network of PyTorch's weights makes of the same latents.
    let mut trainer = trainer();
    import_weights::begin(&mut trainer, &[&path]).unwrap();
    let config = config();
    let z = Tensor::from_vec(config.latent.rows(0, 0, 5), (5, 8), &Device::Cpu).unwrap();
    let ours = ganforge::train::sample(&trainer.generator, &config, &z).unwrap();
    assert_eq!(made.n, 5);
    assert!(made.pixels.iter().zip(&ours.pixels).all(|(a, b)| a.abs_diff(*b) <= 1));
    assert!(made.pixels.iter().any(|&pixel| pixel > 160) && made.pixels.iter().any(|&pixel| pixel < 96));

    gan_train(&["export", named]).assert().code(2).stderr(contains("does not say what network"));
    gan_train(&["export", named, "--preset=dcgan-64"]).assert().code(1).stderr(contains("expected 01.conv_transpose"));
    golden_system(&["export", "--weights=ema", named]).assert().code(2);
    gan_train(&["export", named, "--size=32"]).assert().code(2);
}

#[test]
fn a_run_begins_with_given_weights_and_goes_on_from_them() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let given = path("netG.pth");
    fs::copy(golden("netG.pth"), &given).unwrap();
    let data = folder.path().join("images.idx");
    let header = [0x0803, 40, 28, 28].into_iter().flat_map(u32::to_be_bytes);
    fs::write(&data, header.chain(ganforge::data::synthetic::digits(40, 28, 1, 0)).collect::<Vec<u8>>()).unwrap();
    let data = data.display().to_string();
    let train = |out: &str, flags: &[&str]| {
        let mut command = golden_system(&["--device=cpu", "--batch-size=8", "--data", &data, "--out", out]);
        command.args(flags);
        command
    };

    let first = path("first");
    let told = "begins with";
    train(&first, &["--steps=2", "--checkpoint-every=2", "--init-from", &given]).assert().success().stderr(contains(told));
    let config = fs::read_to_string(folder.path().join("first/config.toml")).unwrap();
    assert!(config.contains("init_from = ") && config.contains("netG.pth"));
    // What it began with is a checkpoint: with no other, and the file gone, the run begins with the same weights.
    fs::remove_file(&given).unwrap();
    let begun = folder.path().join("first/checkpoints/00000000");
    assert!(error_from(&begun.join("generator.safetensors")) < 2e-6);
    assert!(error_from(&begun.join("ema.safetensors")) < 2e-6);
    let finished = |run: &str| fs::read(folder.path().join(run).join("checkpoints/00000002/generator.safetensors")).unwrap();
    let expected = finished("first");
    fs::remove_dir_all(folder.path().join("first/checkpoints/00000002")).unwrap();
    fs::remove_file(folder.path().join("first/checkpoints/latest")).unwrap();
    gan_train(&["--device=cpu", "--quiet", "--resume", &first]).assert().success();
    assert!(finished("first") == expected);

    // From that run, critic and all.
    let second = path("second");
    let whole = "generator from 'generator', critic from 'critic'";
    train(&second, &["--steps=1", "--init-from", &first]).assert().success().stderr(contains(whole));
    let file = |run: &str, step: &str| {
        fs::read(folder.path().join(run).join("checkpoints").join(step).join("critic.safetensors")).unwrap()
    };
    assert!(file("second", "00000000") == file("first", "00000002"));

    // Refused before anything is written.
    let third = path("third");
    train(&third, &["--steps=1", "--init-from", &given]).assert().code(1).stderr(contains("cannot read"));
    train(&third, &["--steps=1", "--init-from", &data]).assert().code(1).stderr(contains("neither a PyTorch state dict"));
    train(&third, &["--steps=1", "--set=latent.size=9", "--init-from", &first]).assert().code(2);
    // Finite in f32, but not in bf16.
    let begun = begun.join("generator.safetensors");
    let mut tensors = candle_core::safetensors::load(&begun, &Device::Cpu).unwrap();
    let name = tensors.keys().find(|name| name.ends_with("weight")).unwrap().clone();
    let large = tensors[&name].affine(0.0, 3.4e38).unwrap();
    tensors.insert(name, large);
    let large = path("large.safetensors");
    candle_core::safetensors::save(&tensors, &large).unwrap();
    if crate::bf16::is_there() {
        let told = "holds 3.4e38, and bf16 ends at 3.39e38. Use --precision f32";
        train(&third, &["--steps=1", "--precision=bf16", "--init-from", &large]).assert().code(1).stderr(contains(told));
    }
    assert!(!folder.path().join("third").exists());
    gan_train(&["--resume", &first, "--init-from", &first]).assert().code(2);
}
