//! CUDA against the CPU: every operation of ours, and whole training steps. Where no GPU can be opened, each test says so and
//! ends; set GANFORGE_NEEDS_GPU and it fails instead.

use std::panic::catch_unwind;
use std::slice::from_ref;
use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use ganforge::augment::Augmentation;
use ganforge::config::{self, InitConfig, Precision, Ramp, Span, TrainConfig};
use ganforge::data::{DataConfig, DataReport, Dataset};
use ganforge::nn::activation::Activation;
use ganforge::nn::conv::{conv, conv_input_grad, conv_weight_grad};
use ganforge::nn::device::open_cuda;
use ganforge::nn::elementwise::{add_bias_activate, bias_grad, multiply, swap_axes};
use ganforge::nn::geometry::ConvWindow;
use ganforge::nn::in_place::InPlace;
use ganforge::nn::norm::{batch_norm, batch_norm_grad};
use ganforge::nn::statistics::BatchNormalised;
use ganforge::nn::update::lerp;
use ganforge::nn::{LayerSpec, Shape};
use ganforge::nn::{Network, Place, Role};
use ganforge::random::{Purpose, Stream};
use ganforge::train::{Batch, Batches, Phase, Rounds, Trainer};

use crate::penalty::{GRADIENT, R1, critics, pass, penalised};
use crate::steps::converted;

/// A device with a stream and a precision of its own, or why there is none.
fn open() -> Result<Device, String> {
    // A library of another version may panic; that must not look like a failed test.
    catch_unwind(|| open_cuda(0).map_err(|error| error.to_string())).unwrap_or_else(|_| Err("opening it panicked".into()))
}

/// The device that most tests share, in f32.
static GPU: LazyLock<Result<Device, String>> = LazyLock::new(open);

fn gpu() -> Option<&'static Device> {
    match &*GPU {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("GANFORGE_NEEDS_GPU").is_some() => panic!("no GPU: {error}"),
        Err(error) => {
            println!("skipped, no GPU: {error}");
            None
        }
    }
}

const TYPES: [(DType, f64); 2] = [(DType::F32, 1e-4), (DType::F64, 1e-9)];
const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::Rectifier { slope: 0.2 }, Activation::Tanh, Activation::Sigmoid];

/// Uniform values in [-1, 1), different for each `number`, on the CPU.
fn uniform(number: u64, dims: &[usize], dtype: DType) -> Tensor {
    let mut values = vec![0.0; dims.iter().product()];
    Stream::at(1, Purpose::Latent, number).fill_uniform(-1.0, 1.0, &mut values);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Largest difference, relative to the largest value.
#[track_caller]
fn assert_near(what: &str, ours: &Tensor, cpu: &Tensor, tolerance: f64) {
    assert_eq!(ours.dims(), cpu.dims(), "{what}");
    let (ours, cpu) = (values(ours), values(cpu));
    let scale = cpu.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
    for (at, (a, b)) in ours.iter().zip(&cpu).enumerate() {
        // Written so that NaN counts.
        let near = (a - b).abs() <= tolerance * scale;
        assert!(near, "{what}: value {at} is {a} on CUDA, {b} on the CPU (tolerance {tolerance} of {scale})");
    }
}

/// Runs an operation on copies of its arguments on both devices, and compares all that comes out, and the arguments after it.
fn compare(gpu: &Device, what: &str, arguments: &[Tensor], tolerance: f64, run: impl Fn(&[Tensor]) -> Vec<Tensor>) {
    let on = |device: &Device| {
        let arguments: Vec<Tensor> = arguments.iter().map(|x| x.to_device(device).unwrap().copy().unwrap()).collect();
        let mut results = run(&arguments);
        results.extend(arguments);
        results
    };
    for (number, (ours, cpu)) in on(gpu).iter().zip(&on(&Device::Cpu)).enumerate() {
        assert_near(&format!("{what}, tensor {number}"), ours, cpu, tolerance);
    }
}

/// Shapes that presets use, odd ones, and random ones: images, channels in and out, height, width, window.
fn convolutions() -> Vec<([usize; 5], ConvWindow)> {
    let window = |kernel, stride, padding| ConvWindow::new(kernel, stride, padding);
    let mut all = vec![
        ([4, 3, 16, 32, 32], window(4, 2, 1)),
        ([4, 16, 32, 16, 16], window(4, 2, 1)),
        ([8, 32, 64, 8, 8], window(4, 2, 1)),
        ([8, 64, 1, 4, 4], window(4, 1, 0)),
        ([8, 100, 64, 1, 1], ConvWindow::POINT),
        ([8, 48, 20, 4, 4], window(4, 1, 0)),
        ([3, 16, 32, 16, 16], window(3, 2, 1)),
        ([3, 8, 8, 9, 7], window(3, 1, 1)),
        ([2, 5, 7, 13, 11], window(5, 3, 2)),
        ([1, 1, 1, 1, 1], ConvWindow::POINT),
        ([6, 24, 12, 7, 5], ConvWindow::POINT),
        ([2, 8, 8, 6, 6], window(1, 2, 0)),
    ];
    let mut stream = Stream::at(1, Purpose::Latent, 1_000);
    while all.len() < 60 {
        let mut below = |bound: u32| stream.below(bound) as usize;
        let window = window(1 + below(6), 1 + below(3), below(3));
        let case = [1 + below(9), 1 + below(20), 1 + below(20), 1 + below(13), 1 + below(13)];
        if window.padding < window.kernel && window.output(case[3]) > 0 && window.output(case[4]) > 0 {
            all.push((case, window));
        }
    }
    all
}

#[test]
fn convolutions_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for (number, ([n, ci, co, h, w], window)) in convolutions().into_iter().enumerate() {
        for (dtype, tolerance) in TYPES {
            let what = format!("{n}×{h}×{w}×{ci} to {co}, {window:?}, {dtype:?}");
            let number = 10 * number as u64;
            let x = uniform(number, &[n, h, w, ci], dtype);
            let kernels = uniform(number + 1, &[co, ci, window.kernel, window.kernel], dtype);
            let dy = uniform(number + 2, &[n, window.output(h), window.output(w), co], dtype);
            compare(gpu, &what, &[x, kernels, dy], tolerance, |arguments| {
                let [x, kernels, dy] = arguments else { unreachable!() };
                vec![
                    conv(x, kernels, window, Precision::F32).unwrap(),
                    conv_input_grad(dy, kernels, window, (h, w), Precision::F32).unwrap(),
                    conv_weight_grad(x, dy, window, Precision::F32).unwrap(),
                ]
            });
        }
    }
}

#[test]
fn lower_precisions_stay_near() {
    if gpu().is_none() {
        return;
    }
    // With so many products for each value that bf16 is worth its rounding.
    let dense = [
        ([64, 128, 128, 8, 8], ConvWindow::new(4, 2, 1)),
        ([31, 130, 133, 7, 5], ConvWindow::new(3, 1, 1)),
        ([512, 64, 512, 4, 4], ConvWindow::new(4, 1, 0)),
        ([4, 512, 512, 16, 16], ConvWindow::POINT),
    ];
    for (precision, tolerance) in [(Precision::Tf32, 5e-3), (Precision::Bf16, 3e-2)] {
        let gpu = open().unwrap();
        for (number, ([n, ci, co, h, w], window)) in convolutions().into_iter().take(12).chain(dense).enumerate() {
            let number = 10 * number as u64;
            let x = uniform(number, &[n, h, w, ci], DType::F32);
            let kernels = uniform(number + 1, &[co, ci, window.kernel, window.kernel], DType::F32);
            let dy = uniform(number + 2, &[n, window.output(h), window.output(w), co], DType::F32);
            let what = format!("{n}×{h}×{w}×{ci} to {co}, {window:?}, {precision:?}");
            compare(&gpu, &what, &[x, kernels, dy], tolerance, |arguments| {
                let [x, kernels, dy] = arguments else { unreachable!() };
                let precision = if x.device().is_cpu() { Precision::F32 } else { precision };
                vec![
                    conv(x, kernels, window, precision).unwrap(),
                    conv_input_grad(dy, kernels, window, (h, w), precision).unwrap(),
                    conv_weight_grad(x, dy, window, precision).unwrap(),
                ]
            });
        }
    }
}

/// Rows of channels: one, odd ones, more than a block of the kernels takes.
const ROWS: [[usize; 2]; 8] = [[1, 1], [1, 40], [7, 1], [128, 32], [129, 33], [640, 3], [5000, 64], [70_000, 5]];

#[test]
fn elementwise_kernels_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for (dtype, tolerance) in TYPES {
        for [rows, c] in ROWS {
            let what = format!("{rows} rows of {c}, {dtype:?}");
            let (x, y, bias) = (uniform(1, &[rows, c], dtype), uniform(2, &[rows, c], dtype), uniform(3, &[c], dtype));
            for act in ACTIVATIONS {
                let arguments = [x.clone(), y.clone(), bias.clone()];
                compare(gpu, &format!("bias, {act:?}, {what}"), &arguments, tolerance, |arguments| {
                    add_bias_activate(InPlace::of(&arguments[0]), Some(&arguments[2]), act).unwrap();
                    act.apply(InPlace::of(&arguments[1])).unwrap();
                    vec![]
                });
                compare(gpu, &format!("gradient, {act:?}, {what}"), &arguments, tolerance, |arguments| {
                    act.grad(&arguments[0], InPlace::of(&arguments[1])).unwrap();
                    vec![]
                });
            }
            compare(gpu, &format!("bias gradient, {what}"), from_ref(&x), tolerance, |arguments| {
                vec![bias_grad(&arguments[0]).unwrap()]
            });
            compare(gpu, &format!("product and lerp, {what}"), &[x.clone(), y.clone()], tolerance, |arguments| {
                multiply(InPlace::of(&arguments[0]), &arguments[1]).unwrap();
                lerp(&[(InPlace::of(&arguments[1]), &arguments[0])], 0.9, 0.3).unwrap();
                vec![]
            });
            let stack = Tensor::stack(&[&x, &y, &x], 0).unwrap();
            compare(gpu, &format!("swapped axes, {what}"), &[stack], 0.0, |arguments| vec![swap_axes(&arguments[0]).unwrap()]);
        }
    }
}

#[test]
fn lerp_takes_any_number_of_tensors() {
    let Some(gpu) = gpu() else { return };
    // More than one launch takes, of lengths about a block's share.
    let lengths = (0..100).map(|number| [1, 4095, 4096, 4097, 9000][number % 5]);
    let tensors: Vec<Tensor> = lengths.enumerate().map(|(number, len)| uniform(number as u64, &[len], DType::F64)).collect();
    let others: Vec<Tensor> = tensors.iter().map(|tensor| tensor.sqr().unwrap()).collect();
    compare(gpu, "lerp", &[tensors, others].concat(), 1e-12, |arguments| {
        let (to, from) = arguments.split_at(100);
        lerp(&to.iter().map(InPlace::of).zip(from).collect::<Vec<_>>(), 0.25, -2.0).unwrap();
        vec![]
    });
}

#[test]
fn batch_norm_agrees_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for (dtype, tolerance) in TYPES {
        for [rows, c] in ROWS.into_iter().filter(|[rows, _]| *rows > 1) {
            for act in ACTIVATIONS {
                // Far from 0 and narrow: sums of squares would cancel.
                let x = (uniform(1, &[rows, c], dtype).affine(0.5, 20.0)).unwrap();
                let (weight, bias, dy) = (uniform(2, &[c], dtype), uniform(3, &[c], dtype), uniform(4, &[rows, c], dtype));
                // In f32 x itself is rounded to 1e-6 of its distance from the mean.
                let tolerance = if dtype == DType::F32 { 10.0 * tolerance } else { tolerance };
                let what = format!("{rows} rows of {c}, {act:?}, {dtype:?}");
                let arguments = [x.clone(), weight.clone(), bias.clone()];
                compare(gpu, &what, &arguments, tolerance, |arguments| {
                    let [x, weight, bias] = arguments else { unreachable!() };
                    let made = batch_norm(x, weight, bias, act).unwrap();
                    vec![made.y, made.mean, made.var]
                });
                // From the same results: a value that rounds to the other side of 0 has another slope.
                let BatchNormalised { y, mean, var } = batch_norm(&x, &weight, &bias, act).unwrap();
                compare(gpu, &format!("gradient, {what}"), &[x, weight, y, mean, var, dy], tolerance, |arguments| {
                    let [x, weight, y, mean, var, dy] = arguments else { unreachable!() };
                    let made = BatchNormalised { y: y.clone(), mean: mean.clone(), var: var.clone() };
                    let gradients = batch_norm_grad(x, weight, &made, act, dy.copy().unwrap()).unwrap();
                    vec![gradients.x, gradients.weight, gradients.bias]
                });
            }
        }
    }
}

/// A preset with other settings.
fn system(preset: &str, settings: &[&str]) -> TrainConfig {
    let mut table = config::preset_table(preset).unwrap();
    settings.iter().for_each(|setting| config::set(&mut table, setting).unwrap());
    TrainConfig::from_table(table, preset).unwrap()
}

fn systems() -> Vec<TrainConfig> {
    let convolutional = [
        "schedule.batch_size=8",
        "schedule.ema_decay=0.9",
        "latent.size=8",
        "init.conv={ normal = { mean = 0.0, std = 0.3 } }",
        "generator.layers=[{ reshape = [8, 1, 1] }, { conv_transpose = { out = 8, kernel = 7, bias = false } }, 'batch_norm', \
         'relu', { conv_transpose = { out = 6, kernel = 4, stride = 2, padding = 1, bias = false } }, 'batch_norm', 'relu', \
         { conv_transpose = { out = 1, kernel = 4, stride = 2, padding = 1 } }, 'tanh']",
        "critic.layers=[{ conv = { out = 6, kernel = 4, stride = 2, padding = 1 } }, { leaky_relu = 0.2 }, \
         { conv = { out = 8, kernel = 4, stride = 2, padding = 1 } }, 'batch_norm', { leaky_relu = 0.2 }, \
         { conv = { out = 1, kernel = 7 } }]",
    ];
    let mlp = [
        "schedule.batch_size=8",
        "generator.layers=[{ linear = { out = 24 } }, 'relu', { linear = { out = 784 } }, 'tanh']",
        "critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { dropout = 0.3 }, { linear = { out = 1 } }]",
    ];
    let without_dropout = "critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { linear = { out = 1 } }]";
    let optimizers = [
        "{ kind = 'adam', lr = 1e-3, betas = [0.5, 0.999] }",
        "{ kind = 'rmsprop', lr = 1e-3 }",
        "{ kind = 'rmsprop-tf', lr = 1e-3 }",
        "{ kind = 'sgd', lr = 1e-2 }",
        "{ kind = 'sgd', lr = 1e-2, momentum = 0.9 }",
    ];
    let classes = [
        "schedule.batch_size=8",
        "penalty={ kind = 'r1' }",
        "data.classes=3",
        "latent.size=8",
        "generator.layers=[{ categorical = 3 }, { linear = { out = 24 } }, 'relu', { linear = { out = 784 } }, 'tanh']",
        "critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { linear = { out = 3 } }]",
    ];
    let augmented = [
        "schedule.batch_size=8",
        "schedule.ema_half_life=20",
        "penalty={ kind = 'r1-r2', every = 2 }",
        "augment=['color', 'translation', 'cutout']",
        "augment_probability=0.6",
        "data.flip=true",
        "generator.layers=[{ linear = { out = 24 } }, 'relu', { linear = { out = 784 } }, 'tanh']",
        "critic.layers=[{ linear = { out = 24 } }, { leaky_relu = 0.2 }, { linear = { out = 1 } }]",
    ];
    let mut all = vec![
        system("gan-fashion-mlp", &augmented),
        system("digits", &convolutional),
        system("wgan-mnist-mlp", &["schedule.batch_size=8"]),
        system("gan-fashion-mlp", &classes),
    ];
    for name in ["r3gan-28", "sngan-64", "wgan-gp-resnet-64"] {
        let size = if name == "r3gan-28" { None } else { Some(32) };
        let mut table = config::resized(config::preset_table(name).unwrap(), name, size, Some(0.05)).unwrap();
        ["schedule.batch_size=4", "latent.size=8"].iter().for_each(|setting| config::set(&mut table, setting).unwrap());
        all.push(TrainConfig::from_table(table, name).unwrap());
    }
    all.push(system("gan-fashion-mlp", &[&mlp[..], &["critic.san=true", "schedule.generator_top_k=0.6"]].concat()));
    for optimizer in optimizers {
        let both = ["generator", "critic"].map(|network| format!("optimizer.{network}={optimizer}"));
        all.push(system("gan-fashion-mlp", &[&mlp[..], &[&both[0], &both[1], without_dropout]].concat()));
    }
    all
}

/// Classes in turn, one-hot, if the config has classes.
fn labels(config: &TrainConfig) -> Option<Tensor> {
    let (n, classes) = (config.schedule.batch_size, config.data.classes);
    let values = (0..n * classes).map(|at| f32::from(u8::from(at % classes == at / classes % classes))).collect();
    (classes > 0).then(|| Tensor::from_vec(values, (n, classes), &Device::Cpu).unwrap())
}

/// A few steps on random images.
fn trained(config: &TrainConfig, device: &Device, dtype: DType) -> Trainer {
    let mut trainer = Trainer::new(config, device, dtype).unwrap();
    let (size, channels) = (config.data.size, config.data.channels);
    // The sham GPU takes a minute for a round of many layers.
    for _ in 0..if LayerSpec::count(&config.critic.layers) > 12 { 1 } else { 3 } {
        let mut phase = Phase::default();
        for _ in 0..config.schedule.critic_steps {
            let number = trainer.critic_steps() + phase.critic_turns;
            let images = uniform(number, &[config.schedule.batch_size, size, size, channels], dtype);
            let real = Batch { images, classes: labels(config) };
            trainer.critic_step(&converted(&real, device, dtype), &mut phase).unwrap();
        }
        let real = config.loss.pairs_scores().then(|| {
            let images = uniform(1000 + trainer.step, &[config.schedule.batch_size, size, size, channels], dtype);
            converted(&Batch { images, classes: labels(config) }, device, dtype)
        });
        trainer.generator_step(real.as_ref(), &mut phase).unwrap();
    }
    trainer
}

fn tensors(network: &Network) -> Vec<(String, Tensor)> {
    network.parameters().map(|parameter| (parameter.name.clone(), parameter.var.as_detached_tensor())).collect()
}

/// Everything that a checkpoint would hold.
fn state(trainer: &Trainer) -> Vec<(String, Tensor)> {
    let named = |tensors: &std::collections::BTreeMap<String, Tensor>| {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect::<Vec<_>>()
    };
    let averages = trainer.ema.as_ref().map(|ema| named(ema.tensors())).unwrap_or_default();
    let slots = [named(trainer.generator_optimizer.slots()), named(trainer.critic_optimizer.slots())];
    [tensors(&trainer.generator), tensors(&trainer.critic), averages, slots.concat()].concat()
}

#[test]
fn training_agrees_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for config in systems() {
        let (mut ours, mut cpu) = (trained(&config, gpu, DType::F64), trained(&config, &Device::Cpu, DType::F64));
        for ((name, ours), (_, cpu)) in state(&ours).iter().zip(&state(&cpu)) {
            assert_near(&format!("{}, {name}", config.preset), ours, cpu, 1e-6);
        }
        let (ours, cpu) = (ours.take_means().unwrap(), cpu.take_means().unwrap());
        for (a, b) in [(ours.loss_critic, cpu.loss_critic), (ours.loss_generator, cpu.loss_generator)] {
            assert!((a - b).abs() <= 1e-8 * b.abs().max(1.0), "{}: {a} on CUDA, {b} on the CPU", config.preset);
        }
    }
}

#[test]
fn penalties_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let shape = Shape::Map { channels: 2, height: 5, width: 6 };
    for (name, layers, _) in critics() {
        let layers: Vec<LayerSpec> = serde_json::from_value(layers).unwrap();
        for config in [GRADIENT, R1] {
            let [ours, cpu] = [gpu, &Device::Cpu].map(|device| {
                let place = Place { device: device.clone(), ..Place::cpu(DType::F64) };
                let network = Network::new(&layers, shape, &InitConfig::default(), Role::Critic, 0, &place).unwrap();
                let x = uniform(1, &[4, 5, 6, 2], DType::F64).to_device(device).unwrap();
                let (penalty, g, gradients) = penalised(&network, &x, pass(0), config);
                let after = tensors(&network).into_iter().map(|(_, tensor)| tensor);
                [penalty.value, penalty.norm, g].into_iter().chain(gradients).chain(after).collect::<Vec<_>>()
            });
            for (number, (ours, cpu)) in ours.iter().zip(&cpu).enumerate() {
                assert_near(&format!("{name}, {config:?}, tensor {number}"), ours, cpu, 1e-7);
            }
        }
    }
}

#[test]
fn training_gives_the_same_bits_every_time() {
    let Some(gpu) = gpu() else { return };
    for config in systems() {
        let [first, second] = [(), ()].map(|()| state(&trained(&config, gpu, DType::F32)));
        for ((name, first), (_, second)) in first.iter().zip(&second) {
            assert_eq!(values(first), values(second), "{}, {name}", config.preset);
        }
    }
}

/// Images of bytes that differ, with classes in turn.
fn bytes(config: &TrainConfig, len: usize) -> Dataset {
    let DataConfig { size, channels, classes, .. } = config.data;
    Dataset {
        name: "bytes".into(),
        sha256: String::new(),
        len,
        channels,
        size,
        pixels: (0..len * channels * size * size).map(|at| (at * 7 + at / 251) as u8).collect(),
        labels: (0..if classes > 0 { len } else { 0 }).map(|at| (at % classes) as u8).collect(),
        report: DataReport::default(),
    }
}

/// What rounds have made: the state behind them, what they told, how many kinds of them were captured, and why no more.
struct Played {
    state: Vec<(String, Tensor)>,
    told: [f64; 2],
    captured: usize,
    replayed: u64,
    notice: Option<String>,
}

/// Rounds on such images, whose last batch of an epoch is smaller, with all values of the schedule changing.
fn played(config: &TrainConfig, gpu: &Device, capture: bool) -> Played {
    let many = LayerSpec::count(&config.critic.layers) <= 12; // or the sham GPU takes minutes
    let (batch, mut config) = (config.schedule.batch_size, config.clone());
    config.schedule.capture = capture;
    config.data.held_out = 0.0;
    config.schedule.critic_warmup = None;
    config.schedule.critic_steps = config.schedule.critic_steps.min(2);
    config.schedule.lr_warmup = Some(Span::Steps(20));
    config.schedule.ramp = Some(Ramp {
        over: Span::Steps(30),
        beta2_to: Some(0.9),
        penalty_to: config.penalty.map(|penalty| penalty.weight() / 2.0),
        augment_to: Some(0.1),
        ema_half_life_to: config.schedule.ema_half_life.map(|from| from * 2),
    });
    let data = bytes(&config, if many { 3 * batch + batch / 2 } else { 10 * batch });
    let mut trainer = Trainer::new(&config, gpu, DType::F32).unwrap();
    let mut batches = Batches::new(&data, &config, gpu).unwrap();
    let mut rounds = Rounds::default();
    let rates = config.schedule.rates(data.len);
    let mut told = [0.0; 2];
    for round in 0..if many { 13 } else { 4 } {
        trainer.values = config.values(rates.at(trainer.step));
        trainer.measure = round % 4 == 3;
        rounds.round(&mut trainer, &mut batches).unwrap();
        if round % 4 == 3 {
            let means = trainer.take_means().unwrap();
            let norms = [means.gradient_norm_critic, means.gradient_norm_generator].map(Option::unwrap);
            told = [
                told[0] + means.loss_critic + means.penalty.unwrap_or(0.0) + norms[0],
                told[1] + means.loss_generator + norms[1],
            ];
        }
    }
    Played {
        state: state(&trainer),
        told,
        captured: rounds.captured(),
        replayed: rounds.replayed(),
        notice: rounds.take_notice(),
    }
}

#[test]
fn captured_rounds_are_those_of_single_steps() {
    // A stream of its own: what other tests launch on theirs must not be captured.
    let Some(gpu) = gpu().map(|_| open().unwrap()) else { return };
    let twice = [
        "schedule.batch_size=8",
        "schedule.critic_steps=2",
        "schedule.generator_steps=2",
        "schedule.generator_latents='fresh'",
    ];
    let mut all = systems();
    all.push(system("digits", &twice));
    for config in all {
        let (single, captured) = (played(&config, &gpu, false), played(&config, &gpu, true));
        let what = format!("{}, {}", config.preset, config.critic.layers.len());
        assert_eq!((single.captured, single.replayed, single.notice), (0, 0, None), "{what}");
        // What is drawn within a layer, or read by the host, stands against it.
        let draws = config.critic.layers.iter().any(|layer| matches!(layer, LayerSpec::Dropout(_)));
        let none = (captured.captured == 0, captured.replayed == 0, captured.notice.is_some());
        assert_eq!(none, (draws, draws, draws), "{what}: {:?}", captured.notice);
        for ((name, single), (_, captured)) in single.state.iter().zip(&captured.state) {
            assert_eq!(values(single), values(captured), "{what}, {name}");
        }
        assert_eq!(single.told, captured.told, "{what}");
    }
}

#[test]
fn batches_on_the_device_are_those_of_the_host() {
    let Some(gpu) = gpu() else { return };
    let mut config = system("wgan-anime", &["schedule.batch_size=16", "data.held_out=0.2", "data.flip=true"]);
    config.data.size = 12;
    let data = bytes(&config, 50);
    let [mut ours, mut cpu] = [gpu, &Device::Cpu].map(|device| Batches::new(&data, &config, device).unwrap());
    for step in 0..7 {
        assert_near("batch", &ours.get(step).unwrap().images, &cpu.get(step).unwrap().images, 0.0);
    }
}

#[test]
fn losses_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let losses = [
        "{ kind = 'bce', reduction = 'sum', critic_scale = 0.5 }",
        "{ kind = 'bce' }",
        "{ kind = 'lsgan' }",
        "{ kind = 'wgan', clip = 0.1 }",
        "{ kind = 'hinge' }",
        "{ kind = 'relativistic' }",
    ];
    for (loss, n) in losses.into_iter().flat_map(|loss| [1, 7, 600].map(|n| (loss, n))) {
        let loss = system("gan-fashion-mlp", &[&format!("loss={loss}")]).loss;
        for (dtype, tolerance) in TYPES {
            let scores = [1, 2].map(|seed| (uniform(seed, &[n], dtype) * 3.0).unwrap());
            compare(gpu, &format!("{loss:?}, {n}, {dtype:?}"), &scores, tolerance, |arguments| {
                let [real, fake] = arguments else { unreachable!() };
                let made = [loss.critic(real, fake).unwrap(), loss.generator(Some(real), fake).unwrap()];
                made.into_iter()
                    .flat_map(|graded| [Some(graded.told), graded.by_real, Some(graded.by_fake)])
                    .flatten()
                    .collect()
            });
        }
    }
}

#[test]
fn augmentations_agree_with_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut config = system("dcgan-64", &["augment=['color', 'translation', 'cutout']"]);
    for (size, channels, probability) in [(20, 3, 0.7), (9, 1, 1.0), (33, 3, 0.2)] {
        (config.data.size, config.data.channels) = (size, channels);
        for (dtype, tolerance) in TYPES {
            let x = uniform(1, &[7, size, size, channels], dtype);
            let augmentation = Augmentation::draw(&config.augment, &config.data, 3, 0, 7).with_probability(probability, 3, 0);
            compare(gpu, &format!("augmentation, {size}, {dtype:?}"), from_ref(&x), tolerance, |arguments| {
                let made = |what: fn(&Augmentation, &Tensor) -> ganforge::error::Result<Tensor>| {
                    what(&augmentation, &arguments[0]).unwrap()
                };
                vec![made(Augmentation::apply), made(Augmentation::backward), made(Augmentation::forward_linear)]
            });
        }
    }
}
