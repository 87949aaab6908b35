//! Lengths, warm-up and learning rates are functions of the step's number.

use ganforge::config::{Schedule, Span};
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
        assert!((rates.at(step) - factor).abs() < 1e-12, "step {step}: {}", rates.at(step));
    }
    let cosine = schedule("lr_decay = { curve = 'cosine', begin = { epochs = 1 }, end = { epochs = 3 } }").rates(100);
    for (step, factor) in [(4, 1.0), (6, 0.5 + 0.125f64.sqrt()), (8, 0.5), (12, 0.0)] {
        assert!((cosine.at(step) - factor).abs() < 1e-12, "step {step}: {}", cosine.at(step));
    }
}
