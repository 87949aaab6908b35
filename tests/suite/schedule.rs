//! Lengths, warm-up and learning rates are functions of the step's number.

use candle_core::{DType, Device, Tensor};
use ganforge::config::{Factors, OptimizerConfig, Schedule, Span, TrainConfig, preset_table, set};
use ganforge::train::{Phase, Trainer};
use proptest::prelude::*;

fn schedule(text: &str) -> Schedule {
    toml::from_str(&format!("batch_size = 32\nlength = {{ steps = 1 }}\n{text}")).unwrap()
}

/// Critic steps before step number `step`, counted one by one.
fn counted(schedule: &Schedule, step: u64) -> u64 {
    (0..step).filter(|s| s.is_multiple_of(schedule.generator_steps as u64)).map(|s| schedule.critic_steps_at(s)).sum()
}

#[test]
fn the_authors_warm_up() {
    let schedule = schedule("critic_steps = 5\ncritic_warmup = {}");
    let turns: Vec<u64> = [0, 24, 25, 499, 500, 501, 1000].map(|step| schedule.critic_steps_at(step)).into();
    assert_eq!(turns, [100, 100, 5, 5, 100, 5, 100]);
    // 25 · 100 critic steps of 32 images come first: 80,000 images; then 5 a step.
    assert_eq!(Span::Images(80_000).in_steps(&schedule, 1 << 20), 25);
    assert_eq!(Span::Images(80_001).in_steps(&schedule, 1 << 20), 26);
}

proptest! {
    #[test]
    fn critic_steps_are_counted(critic in 1usize..7, first in 0u64..40, every in 1u64..60, extra in 1usize..130, step in 0u64..400) {
        let text = format!(
            "critic_steps = {critic}\ncritic_warmup = {{ critic_steps = {extra}, first = {first}, every = {every} }}"
        );
        let schedule = schedule(&text);
        prop_assert_eq!(schedule.critic_steps_before(step), counted(&schedule, step));
        let wanted = schedule.critic_steps_before(step);
        let found = Span::Images(wanted * 32).in_steps(&schedule, 1 << 30);
        prop_assert!(schedule.critic_steps_before(found) >= wanted && found <= step.max(1));
    }

    #[test]
    fn rounds_of_several_generator_steps(critic in 1usize..4, generator in 1usize..5, rounds in 0u64..40, epochs in 1u64..5) {
        let schedule = schedule(&format!("critic_steps = {critic}\ngenerator_steps = {generator}"));
        let step = rounds * generator as u64;
        prop_assert_eq!(schedule.critic_steps_before(step), counted(&schedule, step));
        // 100 images are 4 batches an epoch; a length ends with a round.
        let steps = Span::Epochs(epochs).in_steps(&schedule, 100);
        prop_assert_eq!(steps, (4 * epochs).div_ceil(critic as u64) * generator as u64);
    }
}

#[test]
fn learning_rates_over_time() {
    let text =
        "lr_warmup = { steps = 4 }\nlr_decay = { curve = 'linear', begin = { steps = 10 }, end = { steps = 20 }, to = 0.5 }";
    let rates = schedule(text).rates(100);
    for (step, factor) in [(0, 0.25), (3, 1.0), (9, 1.0), (10, 1.0), (15, 0.75), (20, 0.5), (1000, 0.5)] {
        assert!((rates.at(step).lr - factor).abs() < 1e-12, "step {step}: {:?}", rates.at(step));
    }
    let cosine = schedule("lr_decay = { curve = 'cosine', begin = { epochs = 1 }, end = { epochs = 3 } }").rates(100);
    for (step, factor) in [(4, 1.0), (6, 0.5 + 0.125f64.sqrt()), (8, 0.5), (12, 0.0)] {
        assert!((cosine.at(step).lr - factor).abs() < 1e-12, "step {step}: {:?}", cosine.at(step));
    }
}

/// A config with everything ramped that can be, as R3GAN has it.
fn ramped(settings: &[&str]) -> TrainConfig {
    let mut table = preset_table("gan-fashion-mlp").unwrap();
    let all = [
        "schedule.batch_size=256",
        "augment=['color']",
        "augment_probability=0.0",
        "penalty={ kind = 'r1-r2', weight = 2.0 }",
        "optimizer.generator={ kind = 'adam', lr = 2e-4, betas = [0.0, 0.9] }",
        "optimizer.critic={ kind = 'adam', lr = 2e-4, betas = [0.0, 0.8] }",
        "schedule.ema_half_life=0",
        "schedule.lr_decay={ curve = 'cosine', begin = { images = 1 }, end = { images = 25600 }, to = 0.25 }",
        "schedule.ramp={ over = { images = 25600 }, beta2_to = 0.99, penalty_to = 0.2, augment_to = 0.3, ema_half_life_to = 500000 }",
    ];
    all.iter().chain(settings).for_each(|setting| set(&mut table, setting).unwrap());
    TrainConfig::from_table(table, "it").unwrap()
}

fn beta2(config: &OptimizerConfig) -> f64 {
    config.beta2().unwrap()
}

#[test]
fn values_are_ramped_on_half_a_wave() {
    let config = ramped(&[]);
    let rates = config.schedule.rates(1 << 20);
    for (step, left) in [(0, 1.0), (25, 0.5 + 0.125f64.sqrt()), (50, 0.5), (100, 0.0), (101, 0.0), (u64::MAX, 0.0)] {
        let values = config.values(rates.at(step));
        let near = |what: &str, found: f64, [from, to]: [f64; 2]| {
            let expected = to + (from - to) * left;
            assert!((found - expected).abs() < 1e-9 * expected.abs().max(1e-3), "{what}, step {step}: {found}, not {expected}");
        };
        near("β₂ of the generator", beta2(&values.optimizer.generator), [0.9, 0.99]);
        near("β₂ of the critic", beta2(&values.optimizer.critic), [0.8, 0.99]);
        near("weight", values.penalty.unwrap().weight(), [2.0, 0.2]);
        near("probability", values.augment_probability, [0.0, 0.3]);
        let half_life = 500_000.0 * (1.0 - left);
        assert!((values.ema_decay - 0.5f64.powf(256.0 / half_life)).abs() < 1e-12, "step {step}");
    }
    assert_eq!(config.values(rates.at(0)).ema_decay, 0.0);
    // Where nothing is ramped, the config's own values to the bit.
    let mut plain = config.clone();
    plain.schedule.ramp = None;
    let values = plain.values(plain.schedule.rates(1 << 20).at(77));
    assert_eq!((values.penalty, values.augment_probability), (plain.penalty, 0.0));
    assert_eq!(beta2(&values.optimizer.critic), 0.8);
    assert_eq!(plain.values(Factors::default()).optimizer, plain.optimizer);
    // Five critic steps show five times as many images before two generator steps.
    let rhythm = ramped(&["schedule.critic_steps=5", "schedule.generator_steps=2", "schedule.ema_half_life=1280"]);
    assert!((rhythm.values(Factors::default()).ema_decay - 0.5f64.sqrt()).abs() < 1e-12);
}

/// The average moves by the step's own decay: with a half-life of 0 it is the weights, to the bit.
#[test]
fn the_average_follows_its_half_life() {
    let mut config = ramped(&[
        "schedule.batch_size=2",
        "schedule.ramp={ over = { steps = 4 }, ema_half_life_to = 3 }",
        "generator.layers=[{ linear = { out = 784 } }, 'tanh']",
        "critic.layers=[{ linear = { out = 1 } }]",
    ]);
    config.schedule.lr_decay = None;
    let mut trainer = Trainer::new(&config, &Device::Cpu, DType::F64).unwrap();
    let rates = config.schedule.rates(100);
    let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let weights = |trainer: &Trainer| numbers(&trainer.generator.parameters().next().unwrap().var);
    let average = |trainer: &Trainer| numbers(trainer.best_weights().values().nth(1).unwrap());
    let mut expected = weights(&trainer);
    for step in 0..8 {
        trainer.values = config.values(rates.at(step));
        let (mut phase, real) = (Phase::default(), Tensor::zeros((2, 28, 28, 1), DType::F64, &Device::Cpu).unwrap());
        trainer.critic_step(&real.into(), &mut phase).unwrap();
        trainer.generator_step(None, &mut phase).unwrap();
        let half_life = 3.0 * (1.0 - (0.5 + 0.5 * (std::f64::consts::PI * (step as f64 / 4.0).min(1.0)).cos()));
        // As for any average, no more is kept than (step + 1)/(step + 11): a short run is not its random beginning.
        let d = 0.5f64.powf(2.0 / half_life).min((step + 1) as f64 / (step + 11) as f64);
        expected.iter_mut().zip(weights(&trainer)).for_each(|(average, weight)| *average = d * *average + (1.0 - d) * weight);
        assert!(step > 0 || average(&trainer) == weights(&trainer));
        let apart = expected.iter().zip(average(&trainer)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(apart < 1e-14, "step {step}: {apart}");
    }
    assert_ne!(average(&trainer), weights(&trainer));
}

proptest! {
    #[test]
    fn ramps_go_one_way_and_stay(steps in 1u64..2000, from in 0.0f64..1.0, to in 0.0f64..1.0, at in 0u64..2500) {
        let ramp = format!("schedule.ramp={{ over = {{ steps = {steps} }}, augment_to = {to:?} }}");
        let config = ramped(&[&format!("augment_probability={from:?}"), &ramp]);
        let rates = config.schedule.rates(1000);
        let of = |step| config.values(rates.at(step)).augment_probability;
        prop_assert!((of(0) - from).abs() < 1e-12);
        prop_assert_eq!(of(steps + at), to);
        let (one, next) = (of(at), of(at + 1));
        prop_assert!((from.min(to) - 1e-12..=from.max(to) + 1e-12).contains(&one));
        prop_assert!((next - one) * (to - from) >= -1e-15);
    }

    /// Counted on from a resume with other batches, a ramp is where its images have brought it; steps stay steps.
    #[test]
    fn ramps_begin_where_their_images_are_counted_from(begin in -300i64..300, at in 0u64..500) {
        let config = ramped(&[]);
        let shifted = config.schedule.rates_by(begin, |_| (700 + begin) as u64).at(at.saturating_add_signed(begin.max(0)));
        let way = ((at as i64 + begin.max(0) - begin) as f64 / 700.0).min(1.0);
        prop_assert!((shifted.ramp - (0.5 + 0.5 * (std::f64::consts::PI * way).cos())).abs() < 1e-12);
        let steps = ramped(&["schedule.ramp={ over = { steps = 50 }, augment_to = 1.0 }"]).schedule.rates_by(begin, |_| 50);
        prop_assert!((steps.at(25).ramp - 0.5).abs() < 1e-12);
    }
}
