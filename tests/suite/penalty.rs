//! Penalties on the critic's input gradient: against PyTorch (`tests/golden/penalty.py`), against finite differences, and at
//! the edges. Layer and spectral normalisation besides, whose passes they are made of.

use candle_core::{DType, Device, Tensor};
use ganforge::config::{InitConfig, PenaltyConfig, TrainConfig, preset_table, set};
use ganforge::nn::activation::Activation;
use ganforge::nn::layers::Linear;
use ganforge::nn::norm::{Normalised, layer_norm};
use ganforge::nn::{LayerSpec, Shape};
use ganforge::nn::{Network, Pass, Place, Role, Wanted, channels_first};
use ganforge::penalty::{Penalty, alphas, interpolate};
use ganforge::random::{Purpose, Stream};
use ganforge::train::{Batch, Phase, Trainer};
use serde_json::{Value, json};

use crate::conv::assert_thread_independent;
use crate::golden::{assert_close, golden, load_parameters, network, to_ours, values};

pub(crate) const GRADIENT: PenaltyConfig = PenaltyConfig::Gradient { weight: 10.0 };
pub(crate) const R1: PenaltyConfig = PenaltyConfig::R1 { weight: 10.0, every: 1 };

pub(crate) fn pass(number: u64) -> Pass {
    Pass::Train { seed: 3, number }
}

/// Penalty, input gradient, and gradients to the parameters.
pub(crate) fn penalised(network: &Network, x: &Tensor, pass: Pass, config: PenaltyConfig) -> (Penalty, Tensor, Vec<Tensor>) {
    let penalty = |g: &Tensor| config.of(g).map(|(penalty, v)| ((penalty, g.clone()), v));
    let ((penalty, g), gradients) = network.input_gradient_penalty(x, None, pass, penalty).unwrap();
    assert_eq!(gradients.len(), network.trainable().count());
    (penalty, g, gradients)
}

fn scalar(tensor: &Tensor) -> f64 {
    values(tensor)[0]
}

#[test]
fn penalties_and_their_gradients_are_pytorchs() {
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 2e-3)] {
        let golden = golden("penalty.safetensors");
        assert_eq!(golden.cases.len(), 16);
        for (case, spec) in &golden.cases {
            let layers: Vec<LayerSpec> = serde_json::from_value(spec.clone()).unwrap();
            let get = |name: &str| golden.get(&format!("{case}/{name}")).to_dtype(dtype).unwrap();
            let [real, fake] = ["real", "fake"].map(get);
            let network = network(&layers, &real, dtype);
            load_parameters(&network, &golden.under(&format!("{case}/param.")));
            let vectors = || network.parameters().filter(|p| p.name.ends_with("_u") || p.name.ends_with("_v"));
            assert_eq!(vectors().count() > 0, case.contains("spectral"));
            for vector in vectors() {
                vector.var.set(&get(&format!("before.{}", vector.name))).unwrap();
            }
            let compare = |what: &str, gradients: &[Tensor]| {
                for (parameter, gradient) in network.trainable().zip(gradients) {
                    let name = format!("{what}/grad.{}", parameter.name);
                    assert_eq!(gradient.dims(), parameter.var.dims(), "{case} {name}");
                    assert_close(&format!("{case} {name}"), gradient, &get(&name), tolerance);
                }
            };
            let [real, fake] = [real, fake].map(|x| to_ours(&x));

            let (score, trace) = network.forward_traced(&real, pass(0)).unwrap();
            let mean = (score.ones_like().unwrap() / score.elem_count() as f64).unwrap();
            // The way back is that of its own pass, whatever passes there were in between.
            let later = network.parameters().map(|p| p.var.as_detached_tensor().copy().unwrap()).collect::<Vec<_>>();
            network.forward(&fake, pass(1)).unwrap();
            compare("plain", &network.backward(trace, mean, Wanted::Parameters).unwrap());
            network.parameters().zip(&later).for_each(|(parameter, value)| parameter.var.set(value).unwrap());
            for vector in vectors() {
                let name = format!("plain/after.{}", vector.name);
                assert_close(&format!("{case} {name}"), &vector.var, &get(&name), tolerance);
            }

            let between = interpolate(&real, &fake, &get("alpha")).unwrap();
            for (what, config, x) in [("gradient", GRADIENT, between), ("r1", R1, real)] {
                let (penalty, g, gradients) = penalised(&network, &x, pass(2), config);
                assert_eq!(g.dims(), x.dims());
                assert_close(&format!("{case} {what}/value"), &penalty.value, &get(&format!("{what}/value")), tolerance);
                assert_close(&format!("{case} {what}/norm"), &penalty.norm, &get(&format!("{what}/norm")), tolerance);
                let g = channels_first(&g).unwrap();
                assert_close(&format!("{case} {what}/x"), &g, &get(&format!("{what}/x")), tolerance);
                compare(what, &gradients);
            }
            for parameter in network.parameters().filter(|p| !p.trainable) {
                let name = format!("after.{}", parameter.name);
                assert_close(&format!("{case} {name}"), &parameter.var, &get(&name), tolerance);
            }
        }
    }
}

fn normal(number: u64, dims: &[usize]) -> Tensor {
    let mut values = vec![0.0; dims.iter().product()];
    Stream::at(5, Purpose::Latent, number).fill_normal(0.0, 1.0, &mut values);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// A critic of images `[c, h, w]`, its norms off their beginnings.
fn critic(layers: &Value, [channels, height, width]: [usize; 3], seed: u64, dtype: DType) -> Network {
    let layers: Vec<LayerSpec> = serde_json::from_value(layers.clone()).unwrap();
    let shape = Shape::Map { channels, height, width };
    let network = Network::new(&layers, shape, &InitConfig::default(), Role::Critic, seed, &Place::cpu(dtype)).unwrap();
    for (number, parameter) in (100 * seed..).zip(network.trainable()) {
        let noise = (normal(number, parameter.var.dims()) * 0.3).unwrap().to_dtype(dtype).unwrap();
        parameter.var.set(&(parameter.var.as_tensor() + noise).unwrap()).unwrap();
    }
    network
}

/// Norm by norm, layers with a few hundred parameters; `true` for those that act alike outside training.
pub(crate) fn critics() -> Vec<(&'static str, Value, bool)> {
    let conv = |out: usize, spectral: bool| json!({"conv": {"out": out, "kernel": 3, "stride": 2, "padding": 1, "spectral": spectral}});
    let linear = |out: usize, spectral: bool| json!({"linear": {"out": out, "spectral": spectral}});
    let leaky = json!({"leaky_relu": 0.2});
    let up = json!({"conv_transpose": {"out": 3, "kernel": 4, "stride": 2, "padding": 1}});
    let same = |out: usize, width: usize| json!({"conv": {"out": out, "kernel": 3, "padding": 1, "group_width": width}});
    let point = |out: usize| json!({"conv": {"out": out, "kernel": 1}});
    let residual = |layers: Value, shortcut: Value| json!({"residual": {"layers": layers, "shortcut": shortcut}});
    vec![
        ("none", json!([conv(3, false), leaky, conv(4, false), leaky, linear(1, false)]), true),
        ("none, smooth", json!([conv(3, false), "tanh", conv(4, false), "sigmoid", linear(1, false), "tanh"]), true),
        ("none, mlp", json!([linear(6, false), leaky, linear(5, false), "tanh", linear(1, false)]), true),
        ("activation first", json!(["tanh", "sigmoid", linear(4, false), leaky, "tanh", linear(1, false)]), true),
        ("batch", json!([conv(3, false), "batch_norm", leaky, conv(4, false), "batch_norm", leaky, linear(1, false)]), false),
        (
            "batch, mlp",
            json!([linear(6, false), "batch_norm", "tanh", linear(5, false), "batch_norm", linear(1, false)]),
            false,
        ),
        ("batch first", json!(["batch_norm", conv(3, false), "sigmoid", "batch_norm", linear(1, false)]), false),
        ("layer", json!([conv(3, false), "layer_norm", leaky, conv(4, false), "layer_norm", leaky, linear(1, false)]), true),
        (
            "layer, mlp",
            json!([linear(6, false), "layer_norm", "sigmoid", linear(5, false), "layer_norm", linear(1, false)]),
            true,
        ),
        ("layer twice", json!(["layer_norm", conv(3, false), "layer_norm", "layer_norm", "tanh", linear(1, false)]), true),
        ("spectral", json!([conv(3, true), leaky, conv(4, true), leaky, linear(1, true)]), true),
        ("spectral, smooth", json!([conv(3, true), "tanh", conv(4, true), "sigmoid", linear(1, true)]), true),
        ("spectral, mlp", json!([linear(6, true), "tanh", linear(5, true), leaky, linear(1, true)]), true),
        (
            "dropout",
            json!([conv(3, false), leaky, {"dropout": 0.3}, conv(4, false), "tanh", {"dropout": 0.5}, linear(1, false)]),
            false,
        ),
        (
            "up",
            json!([linear(12, false), {"reshape": [3, 2, 2]}, up, "batch_norm", "tanh", "layer_norm", linear(1, false)]),
            false,
        ),
        (
            "residual",
            json!([same(4, 1), residual(json!([leaky, same(4, 2), "tanh", point(4)]), json!([])), leaky, linear(1, false)]),
            true,
        ),
        (
            "residual with a shortcut",
            json!([
                residual(
                    json!([point(4), "tanh", same(6, 2), {"downsample": "average"}]),
                    json!([point(6), {"downsample": "binomial"}])
                ),
                "bias",
                "sigmoid",
                linear(1, false)
            ]),
            true,
        ),
        (
            "residual that ends in activation and norm",
            json!([
                point(4),
                residual(json!([same(4, 4), leaky]), json!([])),
                residual(json!([point(4), "layer_norm", "tanh"]), json!([])),
                residual(json!([residual(json!(["bias", "tanh"]), json!([])), same(4, 2)]), json!(["tanh"])),
                linear(1, false)
            ]),
            true,
        ),
        (
            "fixed",
            json!([
                linear(12, false), {"reshape": [3, 2, 2]}, {"upsample": "nearest"}, same(4, 3), "bias", "tanh", {"upsample": "binomial"},
                {"pool": "average"}, {"basis": 2}, "tanh", {"conv": {"out": 4, "kernel": 2, "group_width": 1}}, "tanh", {"pool": "sum"}, linear(1, false)
            ]),
            true,
        ),
    ]
}

/// The penalty alone.
fn value(network: &Network, x: &Tensor, pass: Pass, config: PenaltyConfig) -> f64 {
    let (y, trace) = network.forward_traced(x, pass).unwrap();
    let g = network.backward(trace, y.ones_like().unwrap(), Wanted::Input).unwrap();
    scalar(&config.of(&g[0]).unwrap().0.value)
}

/// The penalty's derivatives to every single number of a parameter.
fn differences(network: &Network, parameter: usize, penalty: impl Fn() -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let var = &network.trainable().nth(parameter).unwrap().var;
    let start = values(var);
    let at = |index: usize, step: f64| {
        let mut moved = start.clone();
        moved[index] += step;
        var.set(&Tensor::from_vec(moved, var.dims(), &Device::Cpu).unwrap()).unwrap();
        penalty()
    };
    let slopes = (0..start.len()).map(|index| (at(index, STEP) - at(index, -STEP)) / (2.0 * STEP)).collect();
    var.set(&Tensor::from_vec(start, var.dims(), &Device::Cpu).unwrap()).unwrap();
    slopes
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn gradients_of_penalties_are_finite_differences() {
    let mut compared = 0;
    for (name, layers, alike) in critics() {
        for seed in 0..2 {
            let network = critic(&layers, [2, 5, 6], seed, DType::F64);
            let x = normal(50 + seed, &[4, 5, 6, 2]);
            // In training spectral normalisation would move on from difference to difference. Some passes to begin with: of
            // random vectors, σ may be next to 0.
            (0..3).for_each(|number| _ = network.forward(&x, pass(number)).unwrap());
            let pass = if alike { Pass::Eval } else { pass(seed) };
            for config in [GRADIENT, R1] {
                let (start, _, gradients) = penalised(&network, &x, pass, config);
                let floor = 1e-9 * scalar(&start.value).max(1.0);
                for (index, gradient) in gradients.iter().enumerate() {
                    let slopes = differences(&network, index, || value(&network, &x, pass, config));
                    let apart: Vec<f64> = slopes.iter().zip(values(gradient)).map(|(a, b)| a - b).collect();
                    let bound = 1e-5 * length(&slopes) + floor * (slopes.len() as f64).sqrt();
                    let what = &network.trainable().nth(index).unwrap().name;
                    assert!(
                        length(&apart) <= bound,
                        "{name}, seed {seed}, {config:?}, {what}: {} apart of {}",
                        length(&apart),
                        length(&slopes)
                    );
                    compared += usize::from(length(&slopes) > 1e-3);
                }
            }
        }
    }
    // Most parameters matter: the bound is not met by zeros.
    assert!(compared > 250, "{compared}");
}

/// A trainer in f64 of a smooth critic of few parameters, whose optimiser takes whole gradients off them.
fn small_trainer(settings: &[&str]) -> Trainer {
    let mut table = preset_table("digits").unwrap();
    let all = [
        "data.size=8",
        "data.channels=3",
        "latent.size=5",
        "generator.layers=[{ linear = { out = 192 } }, 'tanh']",
        "critic.layers=[{ conv = { out = 3, kernel = 3, stride = 2, padding = 1 } }, 'tanh', \
         { linear = { out = 4 } }, { leaky_relu = 0.2 }, { linear = { out = 1 } }]",
        "optimizer.critic={ kind = 'sgd', lr = 1.0 }",
        "loss={ kind = 'relativistic' }",
        "schedule.batch_size=4",
    ];
    all.iter().chain(settings).for_each(|setting| set(&mut table, setting).unwrap());
    let config = TrainConfig::from_table(table, "it").unwrap();
    Trainer::new(&config, &Device::Cpu, DType::F64).unwrap()
}

/// Real images, of classes in turn if there are any.
fn small_batch(config: &TrainConfig) -> Batch {
    let (n, classes) = (config.schedule.batch_size, config.data.classes);
    let one_hot: Vec<f64> = (0..n * classes).map(|at| f64::from(u8::from(at % classes == at / classes % classes))).collect();
    let classes = (classes > 0).then(|| Tensor::from_vec(one_hot, (n, classes), &Device::Cpu).unwrap());
    Batch { images: normal(40, &[n, 8, 8, 3]), classes }
}

/// The critic's loss with its penalty in its next step, which is made.
fn loss_of_step(trainer: &mut Trainer, real: &Batch) -> f64 {
    trainer.critic_step(real, &mut Phase::default()).unwrap();
    trainer.take_means().unwrap().loss_critic
}

/// What a whole step takes off the critic's parameters is the gradient of the loss that it tells of, through whatever
/// augmentation and to whichever class's score.
#[test]
fn steps_with_penalties_go_down_finite_differences() {
    let cases: [&[&str]; 4] = [
        &["penalty={ kind = 'r1-r2', weight = 10.0 }"],
        &["penalty={ kind = 'r1-r2', weight = 10.0, every = 3 }", "augment=['color', 'translation', 'cutout']"],
        &[
            "penalty={ kind = 'r1-r2', weight = 10.0 }",
            "augment=['translation', 'color']",
            "data.classes=3",
            "data.range=sigmoid",
        ],
        &["penalty={ kind = 'r1', weight = 10.0 }", "augment=['cutout', 'color']"],
    ];
    for settings in cases {
        let mut trainer = small_trainer(settings);
        let real = small_batch(&trainer.config);
        let copied = |trainer: &Trainer| {
            trainer.critic.trainable().map(|p| p.var.as_detached_tensor().copy().unwrap()).collect::<Vec<_>>()
        };
        let put = |trainer: &Trainer, values: &[Tensor]| {
            trainer.critic.trainable().zip(values).for_each(|(p, value)| p.var.set(value).unwrap());
        };
        let start = copied(&trainer);
        loss_of_step(&mut trainer, &real);
        let taken: Vec<Vec<f64>> =
            start.iter().zip(copied(&trainer)).map(|(before, after)| values(&(before - after).unwrap())).collect();
        for (index, taken) in taken.iter().enumerate() {
            let slopes = (0..taken.len()).map(|at| {
                let mut moved = |step: f64| {
                    let mut numbers = values(&start[index]);
                    numbers[at] += step;
                    let mut all = start.clone();
                    all[index] = Tensor::from_vec(numbers, start[index].dims(), &Device::Cpu).unwrap();
                    put(&trainer, &all);
                    loss_of_step(&mut trainer, &real)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            });
            let slopes: Vec<f64> = slopes.collect();
            let apart: Vec<f64> = slopes.iter().zip(taken).map(|(a, b)| a - b).collect();
            let bound = 1e-5 * length(&slopes) + 1e-8;
            assert!(length(&apart) <= bound, "{settings:?}, {index}: {} apart of {}", length(&apart), length(&slopes));
        }
        assert!(taken.iter().map(|taken| length(taken)).sum::<f64>() > 1e-2, "{settings:?}");
    }
}

/// In each so many critic steps of the run, with so many times the weight; what is told is the mean of those.
#[test]
fn lazy_penalties_are_taken_now_and_then() {
    let trained = |every: u64| {
        let mut trainer = small_trainer(&[
            &format!("penalty={{ kind = 'r1-r2', weight = 10.0, every = {every} }}"),
            "schedule.critic_steps=2",
            "optimizer.critic={ kind = 'sgd', lr = 1e-9 }",
            "optimizer.generator={ kind = 'sgd', lr = 1e-9 }",
        ]);
        let real = small_batch(&trainer.config);
        let mut told = Vec::new();
        for _ in 0..5 {
            let mut phase = Phase::default();
            for _ in 0..2 {
                trainer.critic_step(&real, &mut phase).unwrap();
                let means = trainer.take_means().unwrap();
                assert_eq!(means.penalty.is_some(), means.input_gradient_norm.is_some());
                told.push(means.penalty);
            }
            trainer.generator_step(Some(&real), &mut phase).unwrap();
        }
        // Over a round of one step with a penalty and one without.
        let mut phase = Phase::default();
        trainer.critic_step(&real, &mut phase).unwrap();
        trainer.critic_step(&real, &mut phase).unwrap();
        (told, trainer.take_means().unwrap().penalty)
    };
    let ((always, mean), (lazy, lazy_mean)) = (trained(1), trained(4));
    for (step, (always, lazy)) in always.iter().zip(&lazy).enumerate() {
        let expected = always.filter(|_| step % 4 == 0).map(|value| 4.0 * value);
        let near = |(a, b): (f64, f64)| (a - b).abs() < 1e-6 * b;
        assert_eq!(lazy.is_some(), expected.is_some(), "{step}");
        assert!(lazy.zip(expected).is_none_or(near), "{step}: {lazy:?}, not {expected:?}");
    }
    // Steps 10 and 11.
    assert!(mean.is_some() && lazy_mean.is_none());
    let config = PenaltyConfig::R1R2 { weight: 2.0, every: 4 };
    assert_eq!(config.at_step(8), Some(PenaltyConfig::R1R2 { weight: 8.0, every: 4 }));
    assert_eq!(config.at_step(9), None);
    assert_eq!(GRADIENT.at_step(3), Some(GRADIENT));
}

#[test]
fn input_gradients_are_finite_differences() {
    for (name, layers, alike) in critics() {
        let network = critic(&layers, [2, 5, 6], 7, DType::F64);
        let (x, direction) = (normal(60, &[4, 5, 6, 2]), normal(61, &[4, 5, 6, 2]));
        let pass = if alike { Pass::Eval } else { pass(0) };
        let (_, g, _) = penalised(&network, &x, pass, R1);
        let at = |step: f64| {
            let moved = (&x + (&direction * step).unwrap()).unwrap();
            scalar(&network.forward(&moved, pass).unwrap().sum_all().unwrap())
        };
        let expected = (at(1e-6) - at(-1e-6)) / 2e-6;
        let ours = scalar(&(g * &direction).unwrap().sum_all().unwrap());
        assert!((expected - ours).abs() <= 1e-6 * expected.abs().max(0.1), "{name}: {ours}, by differences {expected}");
    }
}

#[test]
fn a_training_pass_leaves_the_vectors_that_it_used() {
    for (name, layers, _) in critics().into_iter().filter(|(name, ..)| name.starts_with("spectral")) {
        let network = critic(&layers, [2, 5, 6], 1, DType::F64);
        let x = normal(70, &[4, 5, 6, 2]);
        let mut before = Vec::new();
        for number in 0..60 {
            let (first, _, of_training) = penalised(&network, &x, pass(number), GRADIENT);
            let (second, _, alike) = penalised(&network, &x, Pass::Eval, GRADIENT);
            assert_eq!(scalar(&first.value), scalar(&second.value), "{name}");
            of_training.iter().zip(&alike).for_each(|(a, b)| assert_eq!(values(a), values(b), "{name}"));
            let vectors: Vec<f64> = network.parameters().filter(|p| !p.trainable).flat_map(|p| values(&p.var)).collect();
            assert!(number > 0 || vectors != before, "{name}: nothing moved");
            before = vectors;
        }
        // After many iterations u and v are W's first singular vectors: Wv = σu and Wᵀu = σv.
        let parameters: Vec<_> = network.parameters().collect();
        for weight in parameters.iter().filter(|p| p.name.ends_with("weight")) {
            let find = |suffix: &str| &parameters.iter().find(|p| p.name == format!("{}{suffix}", weight.name)).unwrap().var;
            let matrix = weight.var.as_detached_tensor().flatten_from(1).unwrap();
            let (u, v) = (find("_u"), find("_v"));
            let wv = matrix.matmul(&v.unsqueeze(1).unwrap()).unwrap();
            let sigma = length(&values(&wv));
            let apart: Vec<f64> = values(&wv).iter().zip(values(u)).map(|(wv, u)| wv - sigma * u).collect();
            assert!(length(&apart) < 1e-12, "{name} {}", weight.name);
            let wu = matrix.t().unwrap().matmul(&u.unsqueeze(1).unwrap()).unwrap();
            let apart: Vec<f64> = values(&wu).iter().zip(values(v)).map(|(wu, v)| wu - sigma * v).collect();
            assert!(length(&apart) < 1e-2 * sigma, "{name} {}: {}", weight.name, length(&apart));
        }
    }
}

#[test]
fn a_critic_without_slope_has_finite_gradients() {
    for (name, layers, alike) in critics() {
        // 0 / 0 would be PyTorch's answer, too.
        if name.starts_with("spectral") {
            continue;
        }
        for dtype in [DType::F32, DType::F64] {
            let network = critic(&layers, [2, 5, 6], 0, dtype);
            for parameter in
                network.trainable().filter(|p| p.name.ends_with("linear.weight") || p.name.ends_with("conv.weight"))
            {
                parameter.var.set(&parameter.var.zeros_like().unwrap()).unwrap();
            }
            let x = normal(80, &[4, 5, 6, 2]).to_dtype(dtype).unwrap();
            let pass = if alike { Pass::Eval } else { pass(0) };
            for (config, expected) in [(GRADIENT, 10.0), (R1, 0.0)] {
                let (penalty, g, gradients) = penalised(&network, &x, pass, config);
                assert!(values(&g).iter().all(|&g| g == 0.0), "{name}");
                assert!((scalar(&penalty.value) - expected).abs() < 1e-4, "{name}: {}", scalar(&penalty.value));
                assert!(scalar(&penalty.norm).abs() < 2e-6, "{name}");
                assert!(gradients.iter().flat_map(values).all(f64::is_finite), "{name}");
            }
        }
    }
}

#[test]
fn single_precision_follows_double() {
    let conv = |out: usize, spectral: bool| json!({"conv": {"out": out, "kernel": 4, "stride": 2, "padding": 1, "spectral": spectral}});
    let (leaky, end) = (json!({"leaky_relu": 0.2}), json!({"linear": {"out": 1}}));
    let cases = [
        ("none", json!([conv(32, false), leaky, conv(64, false), leaky, end])),
        ("batch", json!([conv(32, false), "batch_norm", leaky, conv(64, false), "batch_norm", leaky, end])),
        ("layer", json!([conv(32, false), "layer_norm", leaky, conv(64, false), "layer_norm", leaky, end])),
        ("spectral", json!([conv(32, true), leaky, conv(64, true), leaky, end])),
    ];
    for (name, layers) in cases {
        let [single, double] = [DType::F32, DType::F64].map(|dtype| critic(&layers, [3, 16, 16], 2, dtype));
        for (to, from) in double.parameters().zip(single.parameters()) {
            to.var.set(&from.var.to_dtype(DType::F64).unwrap()).unwrap();
        }
        let x = normal(90, &[8, 16, 16, 3]);
        let (ours, _, gradients) = penalised(&single, &x.to_dtype(DType::F32).unwrap(), pass(0), GRADIENT);
        let (exact, _, expected) = penalised(&double, &x, pass(0), GRADIENT);
        assert_close(name, &ours.value, &exact.value, 1e-4);
        // Batch normalisation takes a bias before it away: what is left of its gradient is rounding.
        let largest = expected.iter().map(|exact| length(&values(exact))).fold(0.0, f64::max);
        for (index, (ours, exact)) in gradients.iter().zip(&expected).enumerate() {
            let exact = values(exact);
            let apart: Vec<f64> = values(ours).iter().zip(&exact).map(|(a, b)| a - b).collect();
            let bound = 1e-3 * length(&exact).max(1e-3 * largest);
            assert!(length(&apart) <= bound, "{name}, gradient {index}: {} apart of {}", length(&apart), length(&exact));
        }
    }
}

#[test]
fn penalties_do_not_depend_on_the_number_of_threads() {
    let spectral = json!({"conv": {"out": 24, "kernel": 4, "stride": 2, "padding": 1, "spectral": true}});
    let wide = json!({"linear": {"out": 300, "spectral": true}});
    let layers = json!([spectral, "layer_norm", "tanh", spectral, "batch_norm", {"leaky_relu": 0.2}, wide, "layer_norm", {"linear": {"out": 1}}]);
    for n in [3, 16] {
        assert_thread_independent(&format!("the penalty on {n} images"), || {
            let network = critic(&layers, [3, 20, 20], 4, DType::F32);
            let x = normal(95, &[n, 20, 20, 3]).to_dtype(DType::F32).unwrap();
            let (penalty, g, gradients) = penalised(&network, &x, pass(0), GRADIENT);
            let vectors = network.parameters().map(|parameter| parameter.var.as_detached_tensor());
            gradients.into_iter().chain([penalty.value, penalty.norm, g]).chain(vectors).collect()
        });
    }
}

#[test]
fn layer_norm_is_its_formula() {
    let shapes: [&[usize]; 6] = [&[1, 1], &[3, 40], &[5, 7, 3, 1], &[2, 9, 11, 5], &[4, 16, 16, 20], &[70, 3]];
    for dims in shapes {
        for act in [Activation::None, Activation::Rectifier { slope: 0.2 }, Activation::Sigmoid] {
            for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 1e-4)] {
                let c = *dims.last().unwrap();
                // Far from 0, where a careless variance would cancel.
                let x = (normal(1, dims) + 40.0).unwrap();
                let (w, b) = (normal(2, &[c]), normal(3, &[c]));
                let typed = |t: &Tensor| t.to_dtype(dtype).unwrap();
                let made = layer_norm(&typed(&x), &typed(&w), &typed(&b), act).unwrap();
                let (w, b, image) = (values(&w), values(&b), x.elem_count() / dims[0]);
                let mut expected = Vec::new();
                for row in values(&typed(&x)).chunks(image) {
                    let mean = row.iter().sum::<f64>() / image as f64;
                    let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / image as f64;
                    expected.extend(row.iter().enumerate().map(|(at, x)| {
                        let z = (x - mean) / (var + 1e-5).sqrt() * w[at % c] + b[at % c];
                        match act {
                            Activation::Rectifier { slope } => z.max(slope * z),
                            Activation::Sigmoid => 1.0 / (1.0 + (-z).exp()),
                            _ => z,
                        }
                    }));
                }
                let expected = Tensor::from_vec(expected, dims, &Device::Cpu).unwrap();
                assert_close(&format!("{dims:?} {act:?} {dtype:?}"), &made.y, &expected, tolerance);
            }
        }
    }
}

/// One way back for loss and penalty gives what two ways give; where images meet in the network, it is refused.
#[test]
fn loss_and_penalty_share_their_way_back() {
    let mut served = 0;
    for (name, layers, _) in critics() {
        let network = critic(&layers, [2, 5, 6], 1, DType::F64);
        let (x, by_score) = (normal(1, &[4, 5, 6, 2]), normal(2, &[4]));
        let trace = || network.forward_traced(&x, pass(0)).unwrap().1;
        let together = network.backward_with_penalty(trace(), None, &by_score, |g| R1.of(g));
        if !network.repeats() {
            assert!(together.is_err(), "{name}");
            continue;
        }
        served += 1;
        let (penalty, gradients) = together.unwrap();
        let (alone, _, of_penalty) = penalised(&network, &x, pass(0), R1);
        assert_eq!(scalar(&penalty.value), scalar(&alone.value));
        let of_loss = network.backward(trace(), by_score.copy().unwrap(), Wanted::Parameters).unwrap();
        for ((gradient, of_loss), (of_penalty, parameter)) in
            gradients.iter().zip(&of_loss).zip(of_penalty.iter().zip(network.trainable()))
        {
            let sum = (of_loss + of_penalty).unwrap();
            assert_close(&format!("{name} {}", parameter.name), gradient, &sum, 1e-12);
            assert!(values(&sum).iter().any(|value| value.abs() > 1e-6), "{name} {}", parameter.name);
        }
    }
    assert_eq!(served, 11);
}

#[test]
fn layer_norm_refuses_what_does_not_fit() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let run = |x: &[usize], w: usize, b: usize| layer_norm(&zeros(x), &zeros(&[w]), &zeros(&[b]), Activation::None);
    assert!(run(&[2, 3, 3, 4], 4, 4).is_ok());
    for (x, w, b) in [(&[2, 3, 3, 4][..], 3, 4), (&[2, 4], 4, 3), (&[0, 4], 4, 4), (&[4], 4, 4), (&[2, 0], 0, 0)] {
        assert!(run(x, w, b).is_err(), "{x:?} {w} {b}");
    }
    let made = Normalised::Layer(run(&[2, 3], 3, 3).unwrap());
    assert!(made.vjp(&zeros(&[2, 3]), &zeros(&[3]), Activation::None, zeros(&[2, 4])).is_err());
}

#[test]
fn penalties_that_do_not_fit_are_errors() {
    let (_, layers, _) = critics().remove(4);
    let network = critic(&layers, [2, 5, 6], 0, DType::F64);
    let x = normal(1, &[4, 5, 6, 2]);
    let run = |x: &Tensor, pass| network.input_gradient_penalty(x, None, pass, |g| GRADIENT.of(g));
    assert!(run(&x, pass(0)).is_ok());
    // Batch normalisation of given statistics has no way back.
    assert!(run(&x, Pass::Eval).is_err());
    assert!(run(&normal(1, &[4, 6, 5, 2]), pass(0)).is_err());
    assert!(network.input_gradient_penalty(&x, None, pass(0), |g| Ok(((), g.narrow(0, 0, 2)?))).is_err());
    let refused = network.input_gradient_penalty(&x, None, pass(0), |_| -> ganforge::error::Result<((), Tensor)> {
        Err(ganforge::error::Error::usage("no", "Say yes."))
    });
    assert!(refused.is_err_and(|error| error.to_string().starts_with("no")));
}

#[test]
fn interpolations_are_addressed_by_image() {
    let all = alphas(1, 0, 2000);
    assert!(all.iter().all(|alpha| (0.0..1.0).contains(alpha)));
    assert!((all.iter().sum::<f32>() / 2000.0 - 0.5).abs() < 0.03);
    assert_eq!(all[700..764], alphas(1, 700, 64));
    assert_ne!(all[..64], alphas(2, 0, 64));

    let (real, fake) = (normal(1, &[3, 2, 2, 1]), normal(2, &[3, 2, 2, 1]));
    let ends = Tensor::new(&[1.0f64, 0.0, 0.25], &Device::Cpu).unwrap();
    let between = values(&interpolate(&real, &fake, &ends).unwrap());
    let (real, fake) = (values(&real), values(&fake));
    assert_eq!(between[..4], real[..4]);
    assert_eq!(between[4..8], fake[4..8]);
    (8..12).for_each(|at| assert_eq!(between[at], real[at] * 0.25 + fake[at] * 0.75));
}

#[test]
fn spectral_layers_are_written_and_read() {
    let layer: LayerSpec = serde_json::from_value(json!({"linear": {"out": 3, "spectral": true}})).unwrap();
    assert_eq!(layer, LayerSpec::Linear(Linear { out: 3, bias: true, spectral: true, gain: None }));
    assert_eq!(serde_json::to_value(&layer).unwrap(), json!({"linear": {"out": 3, "bias": true, "spectral": true}}));
    let plain = LayerSpec::Linear(Linear { out: 3, bias: false, spectral: false, gain: None });
    assert_eq!(serde_json::to_value(&plain).unwrap(), json!({"linear": {"out": 3, "bias": false}}));
    assert!(serde_json::from_value::<LayerSpec>(json!({"conv_transpose": {"out": 3, "kernel": 4, "spectral": true}})).is_err());

    // What a checkpoint holds is what the next run goes on from.
    let (_, layers, _) = critics().remove(10);
    let [one, other] = [0, 1].map(|seed| critic(&layers, [2, 5, 6], seed, DType::F32));
    let names: Vec<&str> = one.parameters().map(|p| p.name.as_str()).collect();
    assert_eq!(names[..4], ["00.conv.weight", "00.conv.bias", "00.conv.weight_u", "00.conv.weight_v"]);
    assert_eq!(one.trainable().count(), 6);
    for vector in one.parameters().filter(|p| !p.trainable) {
        assert!((length(&values(&vector.var)) - 1.0).abs() < 1e-6, "{}", vector.name);
    }
    let x = normal(1, &[4, 5, 6, 2]).to_dtype(DType::F32).unwrap();
    one.forward(&x, pass(0)).unwrap();
    other.load(&one.parameters().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect(), "one").unwrap();
    let [ours, theirs] = [&one, &other].map(|network| values(&network.forward(&x, pass(1)).unwrap()));
    assert_eq!(ours, theirs);
}
