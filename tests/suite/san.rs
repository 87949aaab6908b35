//! Critics that learn the direction of their last layer's kernel apart (SAN): against PyTorch (`tests/golden/san.py`; twenty steps of it
//! are in `steps`), against finite differences, and what it leaves as it is.

use candle_core::{DType, Device, Tensor, Var};
use ganforge::config::{InitConfig, PRESETS, TrainConfig, preset_table, set};
use ganforge::loss::{LossConfig, Reduction};
use ganforge::nn::{LayerSpec, Network, Pass, Place, Role, Shape, Wanted};
use ganforge::random::{Purpose, Stream};
use ganforge::train::{Batch, Phase, Trainer};
use serde_json::{Value, json};

use crate::golden::{assert_close, golden, load_parameters, network, to_ours, values};
use crate::penalty::{R1, pass, penalised};

/// What the direction learns by.
const WASSERSTEIN: LossConfig = LossConfig::Wgan { clip: None, reduction: Reduction::Mean };

/// The gradients to the parameters of a loss on the scores of real and of generated images, and of another that the direction learns by.
fn gradients(network: &Network, images: [&Tensor; 2], losses: [LossConfig; 2]) -> ([Tensor; 2], Vec<Tensor>) {
    let [(real, of_real), (fake, of_fake)] = images.map(|x| {
        let (values, trace) = network.forward_traced(x, pass(0)).unwrap();
        (values.flatten_all().unwrap(), trace)
    });
    let [by_score, by_direction] = losses.map(|loss| loss.critic(&real, &fake).unwrap());
    let real_back = network.backward_apart(of_real, by_score.by_real.unwrap(), by_direction.by_real.unwrap()).unwrap();
    let fake_back = network.backward_apart(of_fake, by_score.by_fake, by_direction.by_fake).unwrap();
    let both = real_back.into_iter().zip(fake_back);
    let sums = both.map(|(a, b)| (a + b).unwrap()).collect();
    ([real, fake], sums)
}

#[test]
fn gradients_are_pytorchs() {
    let hinge = LossConfig::Hinge;
    let bce = LossConfig::Bce { reduction: Reduction::Mean, critic_scale: 1.0 };
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 2e-3)] {
        let golden = golden("san.safetensors");
        assert_eq!(golden.cases.len(), 7);
        for (case, spec) in &golden.cases {
            let layers: Vec<LayerSpec> = serde_json::from_value(spec.clone()).unwrap();
            let get = |name: &str| golden.get(&format!("{case}/{name}")).to_dtype(dtype).unwrap();
            let [real, fake] = ["real", "fake"].map(get);
            let network = network(&layers, &real, dtype).with_directions_apart().unwrap();
            load_parameters(&network, &golden.under(&format!("{case}/param.")));
            for vector in network.parameters().filter(|p| p.name.ends_with("_u") || p.name.ends_with("_v")) {
                vector.var.set(&get(&format!("before.{}", vector.name))).unwrap();
            }
            let [real, fake] = [real, fake].map(|x| to_ours(&x));
            let compare = |what: &str, gradients: &[Tensor]| {
                assert_eq!(gradients.len(), network.trainable().count());
                for (parameter, gradient) in network.trainable().zip(gradients) {
                    let name = format!("{what}/grad.{}", parameter.name);
                    assert_eq!(gradient.dims(), parameter.var.dims(), "{case} {name}");
                    assert_close(&format!("{case} {name}"), gradient, &get(&name), tolerance);
                }
            };
            for (what, loss) in [("hinge", hinge), ("bce", bce), ("relativistic", LossConfig::Relativistic)] {
                let (scores, gradients) = gradients(&network, [&real, &fake], [loss, WASSERSTEIN]);
                for (of, score) in ["real", "fake"].into_iter().zip(scores) {
                    assert_close(case, &score, &get(&format!("{what}/score_{of}")), tolerance);
                }
                compare(what, &gradients);
            }
            let (penalty, _, gradients) = penalised(&network, &real, pass(1), R1);
            assert_close(case, &penalty.value, &get("r1/value"), tolerance);
            compare("r1", &gradients);
        }
    }
}

fn normal(number: u64, dims: &[usize]) -> Tensor {
    let mut values = vec![0.0; dims.iter().product()];
    Stream::at(11, Purpose::Latent, number).fill_normal(0.0, 1.0, &mut values);
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// A critic of images of 2 channels and 5 × 6 pixels, and real and generated ones.
fn critic(layers: &Value) -> (Network, [Tensor; 2]) {
    let layers: Vec<LayerSpec> = serde_json::from_value(layers.clone()).unwrap();
    let shape = Shape::Map { channels: 2, height: 5, width: 6 };
    let network = Network::new(&layers, shape, &InitConfig::default(), Role::Critic, 1, &Place::cpu(DType::F64)).unwrap();
    (network.with_directions_apart().unwrap(), [1, 2].map(|number| normal(number, &[4, 5, 6, 2])))
}

fn smooth() -> [Value; 3] {
    let linear = |out: usize| json!({"linear": {"out": out}});
    let conv = json!({"conv": {"out": 3, "kernel": 3, "stride": 2, "padding": 1}});
    let norm = json!("layer_norm");
    [
        json!([conv, "tanh", linear(1)]),
        json!([linear(4), norm, "tanh", {"reshape": [4, 1, 1]}, {"conv": {"out": 1, "kernel": 1}}]),
        // Nothing before it learns.
        json!([linear(1)]),
    ]
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}

fn moved(var: &Var, by: &Tensor, step: f64) {
    var.set(&(var.as_tensor() + (by.reshape(var.shape()).unwrap() * step).unwrap()).unwrap()).unwrap();
}

/// Of each loss the derivatives to the parameters that learn by it, all else held as it is, are what the differences say.
#[test]
fn features_length_and_direction_learn_as_finite_differences_say() {
    const STEP: f64 = 1e-5;
    let loss = LossConfig::Bce { reduction: Reduction::Mean, critic_scale: 1.0 };
    for layers in smooth() {
        let (network, images) = critic(&layers);
        let [real, fake] = &images;
        let (_, gradients) = gradients(&network, [real, fake], [loss, WASSERSTEIN]);
        let score = |x: &Tensor| network.forward(x, Pass::Eval).unwrap().flatten_all().unwrap();
        let value = |loss: LossConfig| values(&loss.critic(&score(real), &score(fake)).unwrap().told)[0];
        let kernels = network.trainable().position(|p| p.name.ends_with("weight") && p.var.dims()[0] == 1).unwrap();
        let slope = |index: usize, way: &Tensor, loss: LossConfig| {
            let var = &network.trainable().nth(index).unwrap().var;
            let start = var.as_tensor().copy().unwrap();
            moved(var, way, STEP);
            let up = value(loss);
            moved(var, way, -2.0 * STEP);
            let down = value(loss);
            var.set(&start).unwrap();
            (up - down) / (2.0 * STEP)
        };
        for (index, (parameter, gradient)) in network.trainable().zip(&gradients).enumerate() {
            for number in 0..3 {
                let any = normal(10 + number, parameter.var.dims());
                let ways = if index == kernels {
                    // A change along the kernels is one of their length; one across them, to first order, of their direction alone.
                    let w = parameter.var.as_tensor();
                    let along = (w * (dot(w, &any) / dot(w, w))).unwrap();
                    let across = (&any - &along).unwrap();
                    vec![(along, loss), (across, WASSERSTEIN)]
                } else {
                    vec![(any, loss)]
                };
                for (way, loss) in ways {
                    let (expected, ours) = (slope(index, &way, loss), dot(gradient, &way));
                    assert!(
                        (expected - ours).abs() <= 1e-6 * expected.abs().max(0.1),
                        "{}: {ours}, not {expected}",
                        parameter.name
                    );
                }
            }
        }
    }
}

#[test]
fn the_direction_is_on_the_unit_sphere() {
    let (network, [real, fake]) = critic(&smooth()[0]);
    let kernels = network.trainable().position(|p| p.var.dims()[0] == 1).unwrap();
    let weight = network.trainable().nth(kernels).unwrap().var.as_tensor().copy().unwrap();
    let learned = || gradients(&network, [&real, &fake], [WASSERSTEIN; 2]).1.swap_remove(kernels);
    // With one loss for both it is the plain gradient.
    let whole = learned();
    let along = (&weight * (dot(&weight, &whole) / dot(&weight, &weight))).unwrap();
    let of = |dy: f64, of_directions: f64| {
        let (values, trace) = network.forward_traced(&real, pass(0)).unwrap();
        let [dy, of_directions] = [dy, of_directions].map(|value| (values.ones_like().unwrap() * value).unwrap());
        network.backward_apart(trace, dy, of_directions).unwrap()
    };
    let [length, direction] = [of(1.0, 0.0), of(0.0, 1.0)];
    let size = |tensor: &Tensor| dot(tensor, tensor).sqrt();
    let (w, by_length, by_direction) = (&weight, &length[kernels], &direction[kernels]);
    assert!(size(by_length) > 1e-3 && size(by_direction) > 1e-3 && size(&along) > 1e-6);
    assert!((dot(by_length, w).abs() - size(by_length) * size(w)).abs() < 1e-12, "along the kernels");
    assert!(dot(by_direction, w).abs() < 1e-12, "across them");
    for (index, gradient) in direction.iter().enumerate() {
        assert_eq!(size(gradient) == 0.0, index != kernels, "the direction's loss teaches nothing else");
    }
    // Penalties leave the direction.
    let (_, _, of_penalty) = penalised(&network, &real, pass(0), R1);
    assert!((dot(&of_penalty[kernels], w).abs() - size(&of_penalty[kernels]) * size(w)).abs() < 1e-9);
    // Another length of the same direction: as much of a turn.
    network.trainable().nth(kernels).unwrap().var.set(&(w * 3.0).unwrap()).unwrap();
    assert_close("three times as long", &of(0.0, 1.0)[kernels], by_direction, 1e-12);
}

#[test]
fn plain_gradients_are_those_of_one_loss_for_all() {
    let (apart, [real, fake]) = critic(&smooth()[1]);
    let layers: Vec<LayerSpec> = serde_json::from_value(smooth()[1].clone()).unwrap();
    let place = Place::cpu(DType::F64);
    let plain = Network::new(&layers, apart.input(), &InitConfig::default(), Role::Critic, 1, &place).unwrap();
    let [of_apart, of_plain] = [&apart, &plain].map(|network| network.parameters().map(|p| p.name.clone()).collect::<Vec<_>>());
    assert_eq!(of_apart, of_plain, "a checkpoint of one is one of the other");
    let (scores, ours) = gradients(&apart, [&real, &fake], [WASSERSTEIN; 2]);
    let mut sums: Vec<Tensor> = Vec::new();
    for (x, score, sign) in [(&real, &scores[0], -0.25), (&fake, &scores[1], 0.25)] {
        let (values_of_plain, trace) = plain.forward_traced(x, pass(0)).unwrap();
        assert_eq!(values(&values_of_plain), values(score), "the same scores, to the bit");
        let dy = (values_of_plain.ones_like().unwrap() * sign).unwrap();
        let part = plain.backward(trace, dy, Wanted::Parameters).unwrap();
        sums = if sums.is_empty() { part } else { sums.iter().zip(&part).map(|(a, b)| (a + b).unwrap()).collect() };
    }
    for (ours, plain) in ours.iter().zip(&sums) {
        assert_close("plain", ours, plain, 1e-12);
    }
    // Networks that learn no direction apart say so.
    let (y, trace) = plain.forward_traced(&real, pass(0)).unwrap();
    assert!(plain.backward_apart(trace, y.clone(), y).is_err());
    let ends_in_tanh: Vec<LayerSpec> = serde_json::from_value(json!([{"linear": {"out": 1}}, "tanh"])).unwrap();
    let bent = Network::new(&ends_in_tanh, plain.input(), &InitConfig::default(), Role::Critic, 1, &place).unwrap();
    assert!(bent.with_directions_apart().is_err_and(|error| error.to_string().contains("without an activation")));
}

/// A trainer of a narrow `dcgan-28`, after a step of both networks.
fn trained(assignments: &[&str]) -> Trainer {
    let mut table = preset_table("dcgan-28").unwrap();
    assignments.iter().for_each(|assignment| set(&mut table, assignment).unwrap());
    let config = TrainConfig::from_table(table, "it").unwrap().with_width(1.0 / 32.0).unwrap();
    let mut trainer = Trainer::new(&config, &Device::Cpu, DType::F32).unwrap();
    let real = Batch::from(Tensor::rand(-1f32, 1.0, (6, 28, 28, 1), &Device::Cpu).unwrap());
    let mut phase = Phase::default();
    trainer.critic_step(&real, &mut phase).unwrap();
    trainer.generator_step(Some(&real), &mut phase).unwrap();
    trainer
}

#[test]
fn a_critic_that_learns_all_by_that_loss_is_refused() {
    for (name, _) in PRESETS {
        let mut table = preset_table(name).unwrap();
        set(&mut table, "critic.san=true").unwrap();
        match (TrainConfig::from_table(table, name), TrainConfig::preset(name).unwrap().loss) {
            (Err(error), LossConfig::Wgan { .. }) => {
                assert!(error.to_string().contains("or take another loss"), "{name}: {error}")
            }
            (Ok(config), LossConfig::Bce { .. } | LossConfig::Lsgan | LossConfig::Hinge | LossConfig::Relativistic) => {
                let again = TrainConfig::from_toml(&config.to_toml().unwrap(), name).unwrap();
                assert!(again.critic.san && again == config, "{name}");
            }
            (checked, loss) => panic!("{name} with {loss:?}: {checked:?}"),
        }
    }
}

#[test]
fn it_trains_with_any_loss_that_is_not_the_directions_own() {
    for loss in ["{ kind = 'hinge' }", "{ kind = 'bce', reduction = 'sum' }", "{ kind = 'lsgan' }", "{ kind = 'relativistic' }"]
    {
        let mut trainer = trained(&["critic.san=true", &format!("loss={loss}"), "penalty={ kind = 'r1', weight = 0.1 }"]);
        let means = trainer.take_means().unwrap();
        assert!(
            [means.loss_critic, means.loss_generator, means.penalty.unwrap()].iter().all(|x| x.is_finite()),
            "{loss}: {means:?}"
        );
    }
}
