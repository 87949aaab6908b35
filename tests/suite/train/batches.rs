//! Lengths, rhythms and the images of each batch.

use super::*;

/// A data set that never was in a file.
fn dataset(len: usize) -> Dataset {
    // Every image has its number as its one pixel value.
    let pixels = (0..len).flat_map(|index| vec![index as u8; 16]).collect();
    Dataset {
        name: "numbers".into(),
        sha256: String::new(),
        len,
        channels: 1,
        size: 4,
        pixels,
        labels: Vec::new(),
        report: DataReport::default(),
    }
}

fn schedule(batch_size: usize, critic_steps: usize) -> Schedule {
    Schedule { batch_size, critic_steps, ..TrainConfig::preset("dcgan-28").unwrap().schedule }
}

fn batches_config(batch_size: usize, held_out: f64, seed: u64) -> TrainConfig {
    let mut config = TrainConfig::preset("dcgan-28").unwrap();
    (config.data.size, config.data.held_out, config.seed) = (4, held_out, seed);
    config.schedule.batch_size = batch_size;
    config
}

#[test]
fn lengths_in_steps() {
    // 50 images in batches of 16: four batches an epoch, the last of 2 images.
    let cases = [
        (Span::Steps(7), 1, 7),
        (Span::Steps(7), 5, 7),
        (Span::Steps(0), 1, 1),
        (Span::Epochs(3), 1, 12),
        (Span::Epochs(3), 5, 3),
        (Span::Epochs(1), 5, 1),
        (Span::Images(1), 1, 1),
        (Span::Images(16), 1, 1),
        (Span::Images(17), 1, 2),
        (Span::Images(48), 1, 3),
        (Span::Images(49), 1, 4),
        (Span::Images(50), 1, 4),
        (Span::Images(51), 1, 5),
        (Span::Images(100), 1, 8),
        (Span::Images(100), 5, 2),
        (Span::Epochs(u64::MAX), 1, u64::MAX),
    ];
    for (span, critic_steps, steps) in cases {
        assert_eq!(span.in_steps(&schedule(16, critic_steps), 50), steps, "{span:?}, {critic_steps} critic steps");
    }
    assert_eq!(Span::Epochs(2).in_steps(&schedule(64, 1), 50), 2);
    assert_eq!(Span::Images(1 << 40).in_steps(&schedule(1, 1), 1), 1 << 40);
}

proptest! {
    #[test]
    fn a_length_is_the_first_step_at_which_it_is_complete(
        len in 2usize..40, batch in 1usize..50, critic_steps in 1usize..6, wanted in 1u64..300, held_out in 0.0..0.5f64,
    ) {
        let (data, config) = (dataset(len), batches_config(batch, held_out, 5));
        let batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
        let steps = Span::Images(wanted).in_steps(&schedule(batch, critic_steps), batches.len());
        let images = |steps: u64| batches.images_after(steps * critic_steps as u64);
        prop_assert!(images(steps) >= wanted && (steps == 1 || images(steps - 1) < wanted));
        let steps = Span::Epochs(wanted).in_steps(&schedule(batch, critic_steps), batches.len());
        let images = |steps: u64| batches.images_after(steps * critic_steps as u64);
        let all = wanted * batches.len() as u64;
        prop_assert!(images(steps) >= all && (steps == 1 || images(steps - 1) < all));
    }

    #[test]
    fn an_epoch_shows_every_image_once(len in 2usize..200, batch in 1usize..70, held_out in 0.0..0.5f64, seed in 0u64..9) {
        let (data, config) = (dataset(len), batches_config(batch, held_out, seed));
        let mut batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
        let an_epoch = batches.len().div_ceil(batch) as u64;
        // The pixel of an image in [-1, 1] back to its number.
        let numbers = |batch: Batch| {
            let values = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
            values.into_iter().map(|image| ((image[0] + 1.0) * 127.5).round() as usize).collect::<Vec<_>>()
        };
        let held: BTreeSet<usize> = data.split(held_out, seed).held_out.into_iter().map(|index| index as usize).collect();
        prop_assert_eq!(held.len() + batches.len(), len);
        let mut orders = Vec::new();
        for epoch in 0..2 {
            let mut order = Vec::new();
            for step in epoch * an_epoch..(epoch + 1) * an_epoch {
                prop_assert_eq!(batches.images_after(step), epoch * batches.len() as u64 + order.len() as u64);
                let shown = numbers(batches.get(step).unwrap());
                let last = step == (epoch + 1) * an_epoch - 1;
                prop_assert!(shown.len() == batch || last && (1..=batch).contains(&shown.len()));
                order.extend(shown);
            }
            let distinct: BTreeSet<usize> = order.iter().copied().collect();
            prop_assert_eq!((distinct.len(), order.len()), (batches.len(), batches.len()));
            prop_assert!(distinct.is_disjoint(&held));
            orders.push(order);
        }
        prop_assert!(len < 30 || orders[0] != orders[1], "the order of the images does not change");
        // Addressed: any batch again, in any order.
        let first = numbers(batches.get(0).unwrap());
        prop_assert_eq!(&first[..], &orders[0][..first.len()]);
        let fixed = batches.fixed().unwrap().map(|sets| sets.map(numbers));
        prop_assert_eq!(fixed.is_some(), held_out > 0.0);
        if let Some([train, unseen]) = fixed {
            prop_assert!(!train.is_empty() && train.iter().all(|number| !held.contains(number)));
            prop_assert!(!unseen.is_empty() && unseen.iter().all(|number| held.contains(number)));
        }
    }
}

#[test]
fn batches_of_other_images_than_the_config_asks_for() {
    let mut config = batches_config(8, 0.0, 0);
    config.data.size = 8;
    assert!(Batches::new(&dataset(10), &config, &Device::Cpu).is_err());
}

#[test]
fn batches_carry_the_classes_of_their_images() {
    let mut config = batches_config(3, 0.2, 0);
    config.data.classes = 4;
    let mut data = dataset(10);
    assert!(Batches::new(&data, &config, &Device::Cpu).is_err(), "without labels");
    data.labels = (0..10).map(|index| index % 4).collect();
    let mut batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
    let [train, held_out] = batches.fixed().unwrap().unwrap();
    for batch in [batches.get(0).unwrap(), batches.get(2).unwrap(), batches.spaced(5).unwrap(), train, held_out] {
        let images = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
        let classes = batch.classes.unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(classes.len(), images.len());
        for (image, class) in images.iter().zip(classes) {
            let number = ((image[0] + 1.0) * 127.5).round() as usize;
            assert_eq!(class, [0, 1, 2, 3].map(|of| f32::from(u8::from(of == number % 4))));
        }
    }
    data.labels[7] = 4;
    assert!(Batches::new(&data, &config, &Device::Cpu).is_err(), "a label beyond the classes");
}

/// Images of a ramp each, which shows whether they are mirrored, and a level, which is their number.
fn ramps(len: usize) -> Dataset {
    let pixels = (0..len).flat_map(|index| (0..16).map(move |at| (index * 4 + at % 4) as u8)).collect();
    Dataset { pixels, ..dataset(len) }
}

/// The numbers of a batch's ramps, and whether each is mirrored.
fn ramps_of(batch: &Batch) -> Vec<(usize, bool)> {
    let values = batch.images.flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
    let of = |image: Vec<f32>| {
        let pixels: Vec<usize> = image.iter().map(|value| ((value + 1.0) * 127.5).round() as usize).collect();
        let number = pixels[..4].iter().min().unwrap() / 4;
        let mut row: Vec<usize> = (0..4).map(|at| number * 4 + at).collect();
        let mirrored = pixels[0] > pixels[3];
        if mirrored {
            row.reverse();
        }
        assert_eq!(pixels, row.repeat(4), "whole rows, and nothing else");
        (number, mirrored)
    };
    values.into_iter().map(of).collect()
}

#[test]
fn images_are_mirrored_by_their_place_in_the_run() {
    let data = ramps(60);
    let mut config = batches_config(16, 0.1, 5);
    let mut as_they_are = Batches::new(&data, &config, &Device::Cpu).unwrap();
    config.data.flip = true;
    let mut batches = Batches::new(&data, &config, &Device::Cpu).unwrap();
    let shown: Vec<Vec<(usize, bool)>> = (0..40).map(|step| ramps_of(&batches.get(step).unwrap())).collect();
    let plain: Vec<Vec<(usize, bool)>> = (0..40).map(|step| ramps_of(&as_they_are.get(step).unwrap())).collect();
    assert!(plain.iter().flatten().all(|(_, mirrored)| !mirrored));
    let numbers = |all: &[Vec<(usize, bool)>]| all.iter().flatten().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(numbers(&shown), numbers(&plain), "the same images in the same order");
    let all = shown.iter().flatten().count();
    let mirrored = shown.iter().flatten().filter(|(_, mirrored)| *mirrored).count();
    assert!((all * 2 / 5..all * 3 / 5).contains(&mirrored), "{mirrored} of {all}");
    let ways = |number| shown.iter().flatten().filter(|(of, _)| *of == number).map(|(_, way)| *way).collect::<BTreeSet<_>>();
    assert_eq!(ways(shown[0][0].0).len(), 2, "in one epoch so, in another so");

    // Addressed: any batch again, in any order; another seed mirrors others.
    assert_eq!(ramps_of(&batches.get(7).unwrap()), shown[7]);
    config.seed = 6;
    let mut others = Batches::new(&data, &config, &Device::Cpu).unwrap();
    let ways = |all: &[(usize, bool)]| all.iter().map(|(_, mirrored)| *mirrored).collect::<Vec<_>>();
    assert_ne!(ways(&ramps_of(&others.get(0).unwrap())), ways(&shown[0]));

    // The generator's real images, too; those that the scores are logged of are always the same.
    let drawn = ramps_of(&batches.drawn(3, 50).unwrap());
    assert_eq!(drawn, ramps_of(&batches.drawn(3, 50).unwrap()));
    assert!(drawn.iter().any(|(_, mirrored)| *mirrored) && drawn.iter().any(|(_, mirrored)| !*mirrored));
    let [train, held_out] = batches.fixed().unwrap().unwrap();
    for batch in [train, held_out, batches.first(20).unwrap(), batches.spaced(20).unwrap()] {
        assert!(ramps_of(&batch).iter().all(|(_, mirrored)| !mirrored));
    }
}

#[test]
fn intervals_in_images_do_not_shrink_in_a_warm_up() {
    let place = Place::new();
    let warm = "--set=schedule.critic_warmup={ critic_steps = 20, first = 3, every = 500 }";
    let run = place.train(
        "run",
        WGAN,
        &["--steps=30", warm, "--set=watch.every={ images = 200 }", "--set=output.log_every={ steps = 1000 }"],
    );
    let seen: Vec<u64> =
        records(&run).iter().filter(|record| record.score_spread.is_some()).map(|record| record.images).collect();
    let crossed = seen.windows(2).all(|pair| pair[0] / 200 < pair[1] / 200);
    assert!(seen.len() > 2 && crossed, "{seen:?}");
}

#[test]
fn rounds_end_together_with_lengths() {
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=4", "--set=schedule.generator_steps=3"]);
    assert_eq!(state(&run).step, 6);
}
