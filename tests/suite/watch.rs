//! The watchdog: what it names, how soon, and what it lets pass.

use ganforge::train::{Best, Record, Trouble, Verdict, Watchdog};

/// A line of the log after so many images, as a sound run has it.
fn sound(images: u64) -> Record {
    let line = format!(
        "{{\"step\":{},\"epoch\":0,\"images\":{images},\"loss_critic\":1,\"loss_generator\":1,\"score_real\":0.5,\"score_fake\":-0.5,\
         \"diversity\":0.8,\"diversity_nearest\":0.7,\"score_spread\":1.0,\"gradient_norm_generator\":2.0,\"seconds\":1,\
         \"images_per_second\":1}}",
        images / 64
    );
    serde_json::from_str(&line).unwrap()
}

/// Looks every 2,500 images, with `change` applied from `from` images on; the first verdict.
fn run(from: u64, until: u64, change: impl Fn(u64, &mut Record)) -> (Option<Verdict>, Watchdog) {
    let mut watchdog = Watchdog::default();
    for images in (2500..=until).step_by(2500) {
        let mut record = sound(images);
        if images >= from {
            change(images, &mut record);
        }
        // What is saved and read again knows the same.
        watchdog = serde_json::from_str(&serde_json::to_string(&watchdog).unwrap()).unwrap();
        if let Some(verdict) = watchdog.see(&record) {
            return (Some(verdict), watchdog);
        }
    }
    (None, watchdog)
}

fn named(from: u64, change: impl Fn(u64, &mut Record)) -> (Trouble, u64, u64) {
    let verdict = run(from, 600_000, change).0.expect("it is named");
    (verdict.trouble, verdict.since_images, verdict.images)
}

#[test]
fn troubles_are_named_within_30_000_images() {
    let since = 50_000;
    let collapse = (Trouble::Collapse, since, 60_000);
    assert_eq!(named(since, |_, record| record.diversity = Some(0.1)), collapse);
    // Ten modes that look all different, and are each made again and again.
    assert_eq!(named(since, |_, record| record.diversity_nearest = Some(0.02)), collapse);
    let dead = (Trouble::DeadCritic, since, 60_000);
    assert_eq!(named(since, |_, record| record.score_spread = Some(0.0)), dead);
    assert_eq!(named(since, |_, record| record.gradient_norm_generator = Some(1e-9)), dead);
    let diverged = (Trouble::Divergence, since, 60_000);
    assert_eq!(named(since, |_, record| record.gradient_norm_generator = Some(f64::INFINITY)), diverged);
    // Without real images to compare with, the critic is watched all the same.
    let blind = |_: u64, record: &mut Record| (record.diversity, record.score_spread) = (None, Some(0.0));
    assert_eq!(named(since, blind), dead);
    assert_eq!(named(since, |images, record| record.score_spread = Some(images as f64)), diverged);
    // NaN waits for nothing, not even for a look.
    let nan = |_: u64, record: &mut Record| (record.diversity, record.loss_generator) = (None, f64::NAN);
    assert_eq!(named(since, nan), (Trouble::Divergence, since, since));
    // Grey from the beginning on.
    let (trouble, _, images) = named(0, |_, record| record.diversity = Some(0.01));
    assert!(trouble == Trouble::Collapse && (500_000..=530_000).contains(&images), "{images}");
}

#[test]
fn what_passes_is_let_pass() {
    assert_eq!(run(0, 400_000, |_, _| {}).0, None);
    // Every now and then for less than 10,000 images.
    let (verdict, watchdog) = run(0, 395_000, |images, record| {
        if images % 20_000 < 10_000 {
            record.diversity = Some(0.05);
        }
    });
    assert_eq!(verdict, None);
    // Varied noise, then all alike for long, then images: an LSGAN did so.
    let slow = |images: u64, record: &mut Record| {
        let [all, nearest] = match images {
            ..10_000 => [0.36, 0.6],
            10_000..120_000 => [0.08, 0.05],
            _ => [0.9, 0.7],
        };
        (record.diversity, record.diversity_nearest) = (Some(all), Some(nearest));
    };
    assert_eq!(run(0, 300_000, slow).0, None);
    // But what was as varied as images early on is missed.
    let early = |images: u64, record: &mut Record| record.diversity = Some(if images < 10_000 { 0.5 } else { 0.08 });
    assert_eq!(run(0, 300_000, early).0.map(|verdict| (verdict.trouble, verdict.images)), Some((Trouble::Collapse, 20_000)));
    // Dark first epochs.
    let (dark, content) = run(0, 300_000, |_, record| record.diversity = Some(0.02));
    assert!(dark.is_none() && content.is_content());
    // Suspicions are seen from outside: such a checkpoint is not the best.
    assert!(watchdog.is_content());
    assert!(!run(100_000, 105_000, |_, record| record.diversity = Some(0.1)).1.is_content());
}

#[test]
fn a_verdict_is_told_once_until_things_have_been_sound_again() {
    let mut watchdog = Watchdog::default();
    let mut told = Vec::new();
    for images in (2500..=200_000).step_by(2500) {
        let mut record = sound(images);
        if (50_000..100_000).contains(&images) || images >= 150_000 {
            record.diversity = Some(0.1);
        }
        told.extend(watchdog.see(&record).map(|verdict| verdict.images));
    }
    assert_eq!(told, [60_000, 160_000]);
    assert_eq!(watchdog.said.iter().map(|verdict| verdict.images).collect::<Vec<_>>(), told);
}

#[test]
fn the_best_is_the_smallest_distance() {
    let mut watchdog = Watchdog::default();
    assert!(watchdog.would_improve(9.0));
    watchdog.best = Some(Best { step: 2, quality: Some(7.0) });
    assert_eq!([7.0, 8.0, 6.5].map(|quality| watchdog.would_improve(quality)), [false, false, true]);
}

#[test]
fn flat_samples_are_told_once_until_there_was_something() {
    let told = |contrast: &dyn Fn(u64) -> f64| {
        let mut watchdog = Watchdog::default();
        let look = |images: u64| {
            let record = Record { contrast: Some(contrast(images)), ..sound(images) };
            watchdog = serde_json::from_str(&serde_json::to_string(&watchdog).unwrap()).unwrap();
            let news = watchdog.sees_flat(&record);
            assert!(watchdog.is_content() && watchdog.said.is_empty(), "it speaks against nothing");
            news.then_some(images)
        };
        (2500..=60_000).step_by(2500).filter_map(look).collect::<Vec<_>>()
    };
    assert_eq!(told(&|_| 0.03), [10_000]);
    assert!(told(&|_| 0.4).is_empty());
    // Grey at first, as every run is.
    assert!(told(&|images| if images < 10_000 { 0.01 } else { 0.3 }).is_empty());
    // Grey again, for long or for a moment.
    assert_eq!(told(&|images| if (5000..30_000).contains(&images) { 0.3 } else { 0.05 }), [35_000]);
    assert!(told(&|images| if images % 10_000 < 5000 { 0.05 } else { 0.3 }).is_empty());
    // Where nothing is known of real images, nothing is said.
    assert!(!Watchdog::default().sees_flat(&sound(10_000)));
}
