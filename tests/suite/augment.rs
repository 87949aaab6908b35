//! DiffAugment: against PyTorch (`tests/golden/augment.py`), its backward pass, its draws, and the form for other devices.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ganforge::augment::{Augmentation, Color, Step};
use ganforge::config::{Augment, DataConfig};
use ganforge::image::Range;
use proptest::prelude::*;
use serde_json::Value;

const ALL: [Augment; 3] = [Augment::Color, Augment::Translation, Augment::Cutout];

fn data(size: usize, channels: usize, range: Range) -> DataConfig {
    DataConfig { range, ..DataConfig::plain("", size, channels) }
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn furthest(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(a).iter().zip(values(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Normal values `[n, side, side, channels]`.
fn maps(dims: [usize; 4]) -> Tensor {
    Tensor::randn(0f64, 1.0, &dims, &Device::Cpu).unwrap()
}

fn step(spec: &Value) -> Step {
    let (kind, draws) = spec.as_object().unwrap().iter().next().unwrap();
    let draws = draws.clone();
    match kind.as_str() {
        "color" => {
            let colors: Vec<[f64; 3]> = serde_json::from_value(draws).unwrap();
            let color = |[brightness, saturation, contrast]: [f64; 3]| Color { brightness, saturation, contrast };
            Step::Color(colors.into_iter().map(color).collect())
        }
        "translation" => Step::Translation(serde_json::from_value(draws).unwrap()),
        "cutout" => Step::Cutout(serde_json::from_value(draws).unwrap()),
        other => panic!("{other}"),
    }
}

#[test]
fn follows_the_published_formulas() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/augment.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let spec: Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["spec"]).unwrap();
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    let cases = spec["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 7);
    for (name, steps) in cases {
        let get = |what: &str| tensors[&format!("{name}/{what}")].permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let [x, y, dy, dx] = ["x", "y", "dy", "dx"].map(get);
        let steps: Vec<Step> = steps.as_array().unwrap().iter().map(step).collect();
        let augmentation = Augmentation { steps, fill: 0.0 };
        assert!(furthest(&augmentation.apply(&x).unwrap(), &y) < 1e-14, "{name}");
        assert!(furthest(&augmentation.backward(&dy).unwrap(), &dx) < 1e-14, "{name}");
        let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
        assert!(furthest(&augmentation.apply(&single(&x)).unwrap(), &y) < 1e-6, "{name}");
        assert!(furthest(&augmentation.backward(&single(&dy)).unwrap(), &dx) < 1e-6, "{name}");
    }
}

fn policies() -> impl Strategy<Value = Vec<Augment>> {
    let some = proptest::sample::subsequence(ALL.to_vec(), 0..=3);
    some.prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// ⟨A x − A 0, y⟩ = ⟨x, Aᵀ y⟩, for any draws; finite differences of ⟨A x, y⟩ say the same.
    #[test]
    fn backward_is_the_adjoint(
        policy in policies(), seed in 0u64..1000, first in 0u64..1000,
        n in 1usize..4, size in 4usize..12, channels in prop::sample::select(vec![1usize, 3]),
        range in prop::sample::select(vec![Range::Tanh, Range::Sigmoid]),
    ) {
        let augmentation = Augmentation::draw(&policy, &data(size, channels, range), seed, first, n);
        let dims = [n, size, size, channels];
        let (x, y) = (maps(dims), maps(dims));
        let dot = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        let of_zero = augmentation.apply(&x.zeros_like().unwrap()).unwrap();
        let linear = (augmentation.apply(&x).unwrap() - &of_zero).unwrap();
        prop_assert!(furthest(&augmentation.forward_linear(&x).unwrap(), &linear) < 1e-12);
        let back = augmentation.backward(&y).unwrap();
        prop_assert!((dot(&linear, &y) - dot(&x, &back)).abs() < 1e-9 * (1.0 + dot(&y, &y)));

        let direction = maps(dims);
        let shifted = (&x + (&direction * 1e-3).unwrap()).unwrap();
        let slope = (dot(&augmentation.apply(&shifted).unwrap(), &y) - dot(&augmentation.apply(&x).unwrap(), &y)) / 1e-3;
        prop_assert!((slope - dot(&direction, &back)).abs() < 1e-7 * (1.0 + dot(&y, &y)));
    }

    /// An image's changes follow from its number, wherever the batches are cut.
    #[test]
    fn draws_are_addressed(policy in policies(), seed in 0u64..1000, first in 0u64..1000, cut in 1usize..5) {
        let form = data(8, 3, Range::Tanh);
        let x = maps([6, 8, 8, 3]);
        let whole = Augmentation::draw(&policy, &form, seed, first, 6).apply(&x).unwrap();
        let head = Augmentation::draw(&policy, &form, seed, first, cut).apply(&x.narrow(0, 0, cut).unwrap()).unwrap();
        let rest = Augmentation::draw(&policy, &form, seed, first + cut as u64, 6 - cut);
        let rest = rest.apply(&x.narrow(0, cut, 6 - cut).unwrap()).unwrap();
        prop_assert_eq!(values(&whole), values(&Tensor::cat(&[head, rest], 0).unwrap()));
    }
}

#[test]
fn draws_fill_their_ranges() {
    const N: usize = 20_000;
    // 28: an eighth of it, rounded up, is 4; 14 are cut out. 5: 3, an odd side.
    for (size, shift, places) in [(28, 4i64, 29), (64, 8, 65), (5, 1, 5), (32, 4, 33)] {
        let drawn = Augmentation::draw(&ALL, &data(size, 3, Range::Tanh), 1, 0, N);
        let [Step::Color(colors), Step::Translation(shifts), Step::Cutout(cuts)] = drawn.steps.as_slice() else {
            panic!("{:?}", drawn.steps.len())
        };
        let spread = |of: fn(&Color) -> f64| {
            let values: Vec<f64> = colors.iter().map(of).collect();
            let mean = values.iter().sum::<f64>() / N as f64;
            [values.iter().copied().fold(f64::MAX, f64::min), mean, values.iter().copied().fold(f64::MIN, f64::max)]
        };
        for (found, [low, high]) in [
            (spread(|color| color.brightness), [-0.5, 0.5]),
            (spread(|color| color.saturation), [0.0, 2.0]),
            (spread(|color| color.contrast), [0.5, 1.5]),
        ] {
            let [least, mean, most] = found;
            let near = 0.01 * (high - low);
            assert!(least >= low && least < low + near && most <= high && most > high - near, "{found:?}");
            assert!((mean - (low + high) / 2.0).abs() < near, "{found:?}");
        }
        for axis in 0..2 {
            let mut counts = vec![0; (2 * shift + 1) as usize];
            shifts.iter().for_each(|by| counts[(by[axis] + shift) as usize] += 1);
            let mut middles = vec![0; places];
            cuts.iter().for_each(|middle| middles[middle[axis]] += 1);
            for counts in [counts, middles] {
                let expected = N as f64 / counts.len() as f64;
                // Six standard deviations.
                let most = 6.0 * expected.sqrt();
                assert!(counts.iter().all(|&count| (f64::from(count) - expected).abs() < most), "{size}: {counts:?}");
            }
        }
    }
}

/// Each kind changes each image or leaves it, to the bit, on any device; which, does not depend on what the others do.
#[test]
fn images_are_augmented_with_a_probability() {
    const N: usize = 4000;
    let form = data(8, 3, Range::Tanh);
    let whole = Augmentation::draw(&ALL, &form, 2, 10, N);
    assert_eq!(whole.clone().with_probability(1.0, 2, 10), whole);
    let some = whole.clone().with_probability(0.3, 2, 10);
    let changed = |step: usize| -> Vec<bool> {
        let (all, some) = (&whole.steps[step], &some.steps[step]);
        let one = |image: usize| match (all, some) {
            (Step::Color(all), Step::Color(some)) => all[image] == some[image],
            // A shift by nothing is drawn, too.
            (Step::Translation(all), Step::Translation(some)) => some[image] != [0, 0] && all[image] == some[image],
            (Step::Cutout(all), Step::Cutout(some)) => all[image] == some[image],
            _ => panic!("other steps"),
        };
        (0..N).map(one).collect()
    };
    let [color, translation, cutout] = [0, 1, 2].map(changed);
    let share = |of: &mut dyn Iterator<Item = bool>| of.filter(|is| *is).count() as f64 / N as f64;
    for (share, expected) in [
        (share(&mut color.iter().copied()), 0.3),
        (share(&mut translation.iter().copied()), 0.3 * 8.0 / 9.0),
        (share(&mut cutout.iter().copied()), 0.3),
        (share(&mut color.iter().zip(&cutout).map(|(a, b)| *a && *b)), 0.09),
    ] {
        assert!((share - expected).abs() < 0.04, "{share}, not {expected}");
    }
    let x = maps([N, 8, 8, 3]);
    let image = |x: &Tensor, index: usize| values(&x.narrow(0, index, 1).unwrap());
    let left: Vec<usize> = (0..N).filter(|&at| !color[at] && !translation[at] && !cutout[at]).collect();
    for made in [some.apply(&x).unwrap(), some.backward(&x).unwrap()] {
        left.iter().take(100).for_each(|&at| assert_eq!(image(&made, at), image(&x, at)));
    }
    let kernels = some.apply(&x).unwrap();
    let never = whole.with_probability(0.0, 2, 10);
    assert_eq!(values(&never.apply(&x).unwrap()), values(&x));
    // By the images' numbers, wherever the batches are cut.
    let rest = Augmentation::draw(&ALL, &form, 2, 17, 5).with_probability(0.3, 2, 17);
    assert_eq!(values(&rest.apply(&x.narrow(0, 7, 5).unwrap()).unwrap()), values(&kernels.narrow(0, 7, 5).unwrap()));
}

#[test]
fn both_ranges_see_the_same_changes() {
    let x = maps([5, 12, 12, 3]);
    let to_sigmoid = |x: &Tensor| x.affine(0.5, 0.5).unwrap();
    let [tanh, sigmoid] = [Range::Tanh, Range::Sigmoid].map(|range| Augmentation::draw(&ALL, &data(12, 3, range), 3, 0, 5));
    let expected = to_sigmoid(&tanh.apply(&x).unwrap());
    assert!(furthest(&sigmoid.apply(&to_sigmoid(&x)).unwrap(), &expected) < 1e-6);
}

#[test]
fn no_policy_changes_nothing_and_wrong_counts_are_refused() {
    let x = maps([2, 4, 4, 1]);
    let none = Augmentation::draw(&[], &data(4, 1, Range::Tanh), 0, 0, 2);
    assert!(none.is_empty());
    assert_eq!(values(&none.apply(&x).unwrap()), values(&x));
    let drawn = Augmentation::draw(&ALL, &data(4, 1, Range::Tanh), 0, 0, 3);
    let error = drawn.apply(&x).unwrap_err().to_string();
    assert!(error.contains("drawn for 3 images was given 2"), "{error}");
    assert!(drawn.backward(&x).is_err());
    let bytes = Tensor::zeros((3, 4, 4, 1), DType::U8, &Device::Cpu).unwrap();
    assert!(drawn.apply(&bytes).is_err());
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let augmentation = Augmentation::draw(&ALL, &data(16, 3, Range::Tanh), 5, 0, 9);
    let x = maps([9, 16, 16, 3]).to_dtype(DType::F32).unwrap();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        values(&pool.install(|| augmentation.apply(&x)).unwrap())
    };
    assert_eq!(with(1), with(3));
}
