//! Against PyTorch, in f64: `tests/golden/make.py` made the numbers, and says what is in the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ganforge::config::{InitConfig, LossConfig, OptimizerConfig, PRESETS, TrainConfig};
use ganforge::loss::Graded;
use ganforge::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use ganforge::nn::geometry::ConvWindow;
use ganforge::nn::layers::Linear;
use ganforge::nn::precision::Precision;
use ganforge::nn::{LayerSpec, Shape};
use ganforge::nn::{Network, Pass, Place, Role, Wanted, channels_first, channels_last};
use ganforge::optim::Optimizer;
use ganforge::train::{Phase, Trainer, critic_network, generator_network};
use serde_json::{Value, json};

/// A golden file: its tensors, and its cases by name.
pub(crate) struct Golden {
    pub tensors: BTreeMap<String, Tensor>,
    pub cases: BTreeMap<String, Value>,
}

pub(crate) fn golden(name: &str) -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let spec: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["spec"]).unwrap();
    let cases = serde_json::from_value(spec["cases"].clone()).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap().into_iter().collect();
    Golden { tensors, cases }
}

impl Golden {
    pub fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden tensor {name}"))
    }

    /// The tensors under a prefix, by the rest of their names.
    pub fn under(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let inside = self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone())));
        inside.collect()
    }
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// `‖ours − theirs‖∞ ≤ tolerance · max(‖theirs‖∞, 1e-3)`
pub(crate) fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    assert_eq!(ours.elem_count(), theirs.elem_count(), "{what}: {:?} against {:?}", ours.dims(), theirs.dims());
    let (ours, theirs) = (values(ours), values(theirs));
    let scale = theirs.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    for (at, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() <= tolerance * scale, "{what}[{at}]: {a} against PyTorch's {b}");
    }
}

/// PyTorch's `[n, c, h, w]` as our `[n, h, w, c]`; what is flat stays as it is.
pub(crate) fn to_ours(x: &Tensor) -> Tensor {
    match *x.dims() {
        [n, channels, height, width] => channels_last(x, Shape::Map { channels, height, width }, n).unwrap(),
        _ => x.clone(),
    }
}

fn train_pass() -> Pass {
    Pass::Train { seed: 0, number: 0 }
}

pub(crate) fn network(layers: &[LayerSpec], x: &Tensor, dtype: DType) -> Network {
    let input = match *x.dims() {
        [_, features] => Shape::Flat(features),
        [_, channels, height, width] => Shape::Map { channels, height, width },
        ref other => panic!("{other:?}"),
    };
    Network::new(layers, input, &InitConfig::default(), Role::Critic, 0, &Place::cpu(dtype)).unwrap()
}

/// Puts golden parameters in; running statistics stay at their beginning.
pub(crate) fn load_parameters(network: &Network, parameters: &BTreeMap<String, Tensor>) {
    for parameter in network.trainable() {
        let value = parameters.get(&parameter.name).unwrap_or_else(|| panic!("no golden {}", parameter.name));
        assert_eq!(value.dims(), parameter.var.dims(), "{}", parameter.name);
        parameter.var.set(&value.to_dtype(parameter.var.dtype()).unwrap()).unwrap();
    }
    assert_eq!(network.trainable().count(), parameters.len());
}

fn check_networks(file: &str, dtype: DType, tolerance: f64) {
    let golden = golden(file);
    assert!(golden.cases.len() > 10);
    for (case, spec) in &golden.cases {
        let layers: Vec<LayerSpec> = serde_json::from_value(spec.clone()).unwrap();
        let get = |name: &str| golden.get(&format!("{case}/{name}")).to_dtype(dtype).unwrap();
        let x = get("x");
        let network = network(&layers, &x, dtype);
        load_parameters(&network, &golden.under(&format!("{case}/param.")));

        let (y, trace) = network.forward_traced(&to_ours(&x), train_pass()).unwrap();
        assert_close(&format!("{case} y"), &channels_first(&y).unwrap(), &get("y"), tolerance);
        let dy = || to_ours(&get("dy")).copy().unwrap();
        let gradients = network.backward(trace, dy(), Wanted::Parameters).unwrap();
        assert_eq!(gradients.len(), network.trainable().count());
        for (parameter, gradient) in network.trainable().zip(&gradients) {
            let name = format!("grad.{}", parameter.name);
            assert_close(&format!("{case} {name}"), gradient, &get(&name), tolerance);
        }
        for parameter in network.parameters().filter(|p| !p.trainable) {
            let name = format!("after.{}", parameter.name);
            assert_close(&format!("{case} {name}"), &parameter.var, &get(&name), tolerance);
        }
        let y = network.forward(&to_ours(&x), Pass::Eval).unwrap();
        assert_close(&format!("{case} y_eval"), &channels_first(&y).unwrap(), &get("y_eval"), tolerance);
        // The gradient to the input, of a second pass: batch normalisation in training does not look at its history.
        let (_, trace) = network.forward_traced(&to_ours(&x), train_pass()).unwrap();
        let dx = network.backward(trace, dy(), Wanted::Input).unwrap();
        assert_eq!(dx.len(), 1);
        assert_close(&format!("{case} dx"), &channels_first(&dx[0]).unwrap(), &get("dx"), tolerance);
    }
}

#[test]
fn every_layer_and_its_gradients() {
    check_networks("layers.safetensors", DType::F64, 1e-9);
}

#[test]
fn every_layer_and_its_gradients_in_single_precision() {
    check_networks("layers.safetensors", DType::F32, 1e-4);
}

#[test]
fn every_network_and_its_gradients() {
    check_networks("networks.safetensors", DType::F64, 1e-9);
}

#[test]
fn every_layer_of_residual_networks_and_its_gradients() {
    check_networks("residual.safetensors", DType::F64, 1e-9);
    check_networks("residual.safetensors", DType::F32, 2e-3);
}

/// Array number `number` of the convolution goldens.
fn made(number: u64, dims: &[usize]) -> Tensor {
    let value = |i: u64| (i.wrapping_mul(2_654_435_761) + number * 40_503) % (1 << 32);
    let values: Vec<f64> = (0..dims.iter().product::<usize>() as u64).map(|i| value(i) as f64 / 2f64.powi(31) - 1.0).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// `ours` in PyTorch's order against what PyTorch says of its tensor.
fn assert_summary(what: &str, ours: &Tensor, theirs: &Value, tolerance: f64) {
    let values = values(ours);
    let number = |key: &str| theirs[key].as_f64().unwrap();
    let largest = number("largest");
    let close = |name: &str, ours: f64, theirs: f64, scale: f64| {
        assert!((ours - theirs).abs() <= tolerance * scale, "{what} {name}: {ours} against PyTorch's {theirs}");
    };
    close("largest", values.iter().fold(0.0, |most: f64, value| most.max(value.abs())), largest, largest);
    let weights = made(4, &[values.len()]).to_vec1::<f64>().unwrap();
    let product: f64 = values.iter().zip(weights).map(|(a, b)| a * b).sum();
    close("product", product, number("product"), largest * (values.len() as f64).sqrt());
    for element in theirs["elements"].as_array().unwrap() {
        let (index, value) = (element[0].as_u64().unwrap() as usize, element[1].as_f64().unwrap());
        close(&format!("[{index}]"), values[index], value, largest);
    }
}

#[test]
fn convolutions_of_many_shapes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/convolutions.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 60);
    for case in cases {
        let get = |key: &str| case[key].as_u64().unwrap() as usize;
        let window = ConvWindow::new(get("kernel"), get("stride"), get("padding"));
        let (n, ci, co, h, w) = (get("n"), get("ci"), get("co"), get("h"), get("w"));
        for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-4)] {
            let ours = |number, dims: &[usize]| to_ours(&made(number, dims).to_dtype(dtype).unwrap());
            let theirs = |x: &Tensor| x.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
            let x = ours(1, &[n, ci, h, w]);
            let kernels = made(2, &[co, ci, window.kernel, window.kernel]).to_dtype(dtype).unwrap();
            let dy = ours(3, &[n, co, window.output(h), window.output(w)]);
            let name = |what: &str| format!("{what} of {n}×{ci}×{h}×{w} → {co}, {window:?}, {dtype:?}");
            assert_summary(&name("y"), &theirs(&conv(&x, &kernels, window, Precision::F32).unwrap()), &case["y"], tolerance);
            let dx = conv_input_grad(&dy, &kernels, window, (h, w), Precision::F32).unwrap();
            assert_summary(&name("dx"), &theirs(&dx), &case["dx"], tolerance);
            assert_summary(&name("dw"), &conv_weight_grad(&x, &dy, window, Precision::F32).unwrap(), &case["dw"], tolerance);
        }
    }
}

#[test]
fn losses_and_their_gradients() {
    let golden = golden("losses.safetensors");
    assert_eq!(golden.cases.len(), 5);
    for (case, spec) in &golden.cases {
        let loss: LossConfig = serde_json::from_value(spec.clone()).unwrap();
        let get = |name: &str| golden.get(&format!("{case}/{name}"));
        let (real, fake) = (golden.get("real"), golden.get("fake"));
        let value = |graded: &Graded| graded.told.get(0).unwrap();
        let critic = loss.critic(real, fake).unwrap();
        assert_close(&format!("{case} critic"), &value(&critic), get("critic.loss"), 1e-12);
        assert_close(&format!("{case} real"), critic.by_real.as_ref().unwrap(), get("critic.grad_real"), 1e-12);
        assert_close(&format!("{case} fake"), &critic.by_fake, get("critic.grad_fake"), 1e-12);
        let [of_real, of_fake] = [real, fake].map(|scores| scores.mean_all().unwrap());
        assert_close(case, &critic.told.narrow(0, 1, 2).unwrap(), &Tensor::stack(&[of_real, of_fake], 0).unwrap(), 1e-12);
        let generator = loss.generator(Some(real), fake).unwrap();
        assert_close(&format!("{case} generator"), &value(&generator), get("generator.loss"), 1e-12);
        assert_close(&format!("{case} generator"), &generator.by_fake, get("generator.grad_fake"), 1e-12);
        let fewer = loss.critic(&real.narrow(0, 0, 2).unwrap(), fake).map(|_| ()).unwrap_err().to_string();
        assert!(fewer.contains("2 real scores beside"), "{fewer}");
    }
}

#[test]
fn bce_of_confident_logits_is_finite_in_single_precision() {
    let TrainConfig { loss, .. } = TrainConfig::preset("dcgan-28").unwrap();
    for logit in [-200.0f32, -1e30, 0.0, 1e30, 200.0] {
        let scores = Tensor::new(&[logit], &Device::Cpu).unwrap();
        for Graded { told, by_real, by_fake } in
            [loss.critic(&scores, &scores).unwrap(), loss.generator(None, &scores).unwrap()]
        {
            assert!([Some(told), by_real, Some(by_fake)].iter().flatten().all(|tensor| values(tensor)[0].is_finite()));
        }
    }
}

#[test]
fn scores_that_are_no_numbers_make_losses_that_are_none() {
    let scores = Tensor::new(&[1.0f32, f32::NAN], &Device::Cpu).unwrap();
    for spec in golden("losses.safetensors").cases.values() {
        let loss: LossConfig = serde_json::from_value(spec.clone()).unwrap();
        for graded in [loss.critic(&scores, &scores).unwrap(), loss.generator(Some(&scores), &scores).unwrap()] {
            assert!(values(&graded.told)[0].is_nan(), "{spec}");
        }
    }
}

/// A linear layer of any shape of weight, to hang a golden parameter on.
fn holder(value: &Tensor) -> Network {
    let columns = value.elem_count() / value.dim(0).unwrap();
    let layers = [LayerSpec::Linear(Linear { out: value.dim(0).unwrap(), bias: false, spectral: false, gain: None })];
    Network::new(&layers, Shape::Flat(columns), &InitConfig::default(), Role::Critic, 0, &Place::cpu(DType::F64)).unwrap()
}

#[test]
fn optimisers_over_five_steps() {
    let golden = golden("optimizers.safetensors");
    assert!(golden.cases.len() >= 6);
    for (case, spec) in &golden.cases {
        let config: OptimizerConfig = serde_json::from_value(spec.clone()).unwrap();
        for (name, start) in golden.under("param.") {
            let network = holder(&start);
            let var = &network.trainable().next().unwrap().var;
            var.set(&start.reshape(var.shape()).unwrap()).unwrap();
            let mut optimizer = Optimizer::new(config, &network).unwrap();
            for step in 1..=5 {
                let g = golden.get(&format!("grad.{name}.{step}")).reshape(var.shape()).unwrap();
                optimizer.step(&network, &[g]).unwrap();
                let what = format!("{case}/after.{name}.{step}");
                assert_close(&what, var, golden.get(&what), 1e-12);
            }
        }
    }
}

/// The config of a training case: a preset with everything that matters replaced.
fn training_config(spec: &Value) -> TrainConfig {
    let mut config = TrainConfig::preset("dcgan-28").unwrap();
    let take = |key: &str| spec[key].clone();
    config.data.size = 8;
    config.latent.size = spec["latent"].as_u64().unwrap() as usize;
    config.generator = serde_json::from_value(take("generator")).unwrap();
    config.critic = serde_json::from_value(take("critic")).unwrap();
    config.loss = serde_json::from_value(take("loss")).unwrap();
    config.optimizer = serde_json::from_value(take("optimizer")).unwrap();
    let schedule = &spec["schedule"];
    config.schedule.critic_steps = schedule["critic_steps"].as_u64().unwrap_or(1) as usize;
    config.schedule.generator_latents = serde_json::from_value(schedule["generator_latents"].clone()).unwrap();
    config
}

#[test]
fn training_follows_pytorch_step_by_step() {
    let golden = golden("training.safetensors");
    assert_eq!(golden.cases.len(), 4);
    for (case, spec) in &golden.cases {
        let config = training_config(spec);
        let get = |name: String| golden.get(&format!("{case}/{name}"));
        let mut trainer = Trainer::new(&config, &Device::Cpu, DType::F64).unwrap();
        load_parameters(&trainer.generator, &golden.under(&format!("{case}/init.generator.")));
        load_parameters(&trainer.critic, &golden.under(&format!("{case}/init.critic.")));
        let (critic_losses, generator_losses) = (values(get("critic_loss".into())), values(get("generator_loss".into())));
        let turns = config.schedule.critic_steps;

        for step in 1..=spec["steps"].as_u64().unwrap() as usize {
            let mut phase = Phase::default();
            for turn in 0..turns {
                let (real, z) = (get(format!("real.{step}.{turn}")), get(format!("z.{step}.{turn}")).clone());
                trainer.critic_step_with(&to_ours(real).into(), z, &mut phase).unwrap();
            }
            let fresh = golden.tensors.get(&format!("{case}/z.{step}.generator"));
            trainer.generator_step_with(None, fresh.unwrap_or(get(format!("z.{step}.0"))).clone(), &mut phase).unwrap();
            let means = trainer.take_means().unwrap();
            let critic = critic_losses[(step - 1) * turns..step * turns].iter().sum::<f64>() / turns as f64;
            assert!((means.loss_critic - critic).abs() <= 1e-8 * (1.0 + critic.abs()), "{case} step {step}: critic");
            let generator = generator_losses[step - 1];
            assert!(
                (means.loss_generator - generator).abs() <= 1e-8 * (1.0 + generator.abs()),
                "{case} step {step}: generator"
            );
        }
        for (role, network) in [("generator", &trainer.generator), ("critic", &trainer.critic)] {
            for parameter in network.parameters() {
                let name = format!("final.{role}.{}", parameter.name);
                assert_close(&format!("{case} {name}"), &parameter.var, get(name), 1e-7);
            }
        }
    }
}

/// Bodies that hand their input on: nothing of it may change.
#[test]
fn residual_blocks_leave_what_they_take_as_it_was() {
    let x = made(1, &[2, 3, 4, 4]);
    for shortcut in [json!([]), json!(["tanh"])] {
        let layers = json!([{ "residual": { "layers": [{ "dropout": 0.3 }], "shortcut": shortcut } }]);
        let layers: Vec<LayerSpec> = serde_json::from_value(layers).unwrap();
        let (network, x) = (network(&layers, &x, DType::F64), to_ours(&x));
        let before = values(&x);
        let y = network.forward(&x, Pass::Eval).unwrap();
        assert_eq!((values(&x), values(&network.forward(&x, Pass::Eval).unwrap())), (before, values(&y)));
        let (_, trace) = network.forward_traced(&x, train_pass()).unwrap();
        network.backward(trace, y.copy().unwrap(), Wanted::Input).unwrap();
        assert_eq!(values(&x), values(&to_ours(&made(1, &[2, 3, 4, 4]))));
    }
}

#[test]
fn networks_refuse_values_of_another_shape() {
    let layers = [LayerSpec::Linear(Linear { out: 1, bias: true, spectral: false, gain: None })];
    let input = Shape::Map { channels: 1, height: 4, width: 6 };
    let network = Network::new(&layers, input, &InitConfig::default(), Role::Critic, 0, &Place::cpu(DType::F64)).unwrap();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F64, &Device::Cpu).unwrap();
    assert_eq!(network.forward(&zeros(&[3, 4, 6, 1]), Pass::Eval).unwrap().dims(), [3, 1]);
    let wrong: [&[usize]; 4] = [&[3, 1, 4, 6], &[3, 6, 4, 1], &[3, 24], &[]];
    for dims in wrong {
        assert!(network.forward(&zeros(dims), Pass::Eval).is_err(), "{dims:?}");
    }
}

#[test]
fn networks_have_the_published_numbers_of_parameters() {
    let pairs = [
        // Batch norm after the critic's first convolution has 128 more.
        ("dcgan-anime", 3_576_704, 2_765_696),
        ("dcgan-64", 3_576_704, 2_765_568),
        // 22.43 and 22.38 million in the paper.
        ("r3gan-64", 22_429_824, 22_381_440),
        ("r3gan-64-s", 1_210_304, 1_194_176),
    ];
    for (preset, of_generator, of_critic) in pairs {
        let config = TrainConfig::preset(preset).unwrap();
        let [generator, critic] = [generator_network, critic_network].map(|of| of(&config, &Device::Cpu, DType::F32).unwrap());
        assert_eq!([generator.trainable_count(), critic.trainable_count()], [of_generator, of_critic], "{preset}");
    }
}

#[test]
fn every_preset_file_is_listed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/config/presets");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, PRESETS.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>());
}
