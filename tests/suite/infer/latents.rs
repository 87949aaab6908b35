//! Latents: pinned values, addressing, truncation, shards and lists of seeds.

use super::*;

#[test]
fn latents_are_pinned() {
    let bits = |law, seed, index| {
        let rows = Latent { size: 5, distribution: law }.rows(seed, index, 1);
        rows.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(bits(Distribution::Normal, 0, 0), NORMAL_0_0);
    assert_eq!(bits(Distribution::Normal, 42, 1_000_000), NORMAL_42_1M);
    assert_eq!(bits(Distribution::Uniform, 0, 0), UNIFORM_0_0);
    assert_eq!(bits(Distribution::Uniform, u64::MAX, 1 << 40), UNIFORM_MAX_2_40);
}

proptest! {
    #[test]
    fn latents_are_addressed(seed: u64, start in 0..1u64 << 62, n in 1usize..9, size in 1usize..40, uniform: bool) {
        let latent = Latent { size, distribution: if uniform { Distribution::Uniform } else { Distribution::Normal } };
        let rows = latent.rows(seed, start, n);
        prop_assert_eq!(rows.len(), n * size);
        for (row, index) in rows.chunks(size).zip(start..) {
            prop_assert_eq!(row, latent.rows(seed, index, 1));
            prop_assert!(row.iter().all(|z| z.is_finite() && (!uniform || (-1.0..1.0).contains(z))));
        }
        // A longer latent starts like a shorter one, and other addresses give other values.
        let longer = Latent { size: size + 8, ..latent };
        let even = size - size % 2;
        prop_assert_eq!(&longer.rows(seed, start, 1)[..even], &rows[..even]);
        prop_assert_ne!(longer.rows(seed, start, 1), longer.rows(seed, start + 1, 1));
        prop_assert_ne!(longer.rows(seed, start, 1), longer.rows(seed ^ 1, start, 1));
    }
}

#[test]
fn truncated_latents_keep_their_rank() {
    let truncated = |law, x, mut values: Vec<f32>| {
        Truncation::new(x, law).unwrap().apply(law, &mut values);
        values
    };
    // scipy.stats.truncnorm.ppf(scipy.stats.norm.cdf(z), -x, x)
    for (x, z, expected) in TRUNCATED {
        let found = truncated(Distribution::Normal, x, vec![z])[0];
        assert!((f64::from(found) - expected).abs() < 1e-6, "{x} {z}: {found} {expected}");
    }
    assert_eq!(truncated(Distribution::Uniform, 0.25, vec![-1.0, 0.5]), [-0.25, 0.125]);
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(message(Truncation::new(wrong, Distribution::Normal)).contains("above 0"));
    }
    assert!(message(Truncation::new(1.5, Distribution::Uniform)).contains("up to 1"));

    // How much shorter they are, as told and as drawn; and from where on that is warned of.
    for (x, distribution, warns) in [
        (0.0005, Distribution::Normal, true),
        (0.3, Distribution::Normal, true),
        (1.0, Distribution::Normal, true),
        (2.0, Distribution::Normal, true),
        (2.5, Distribution::Normal, false),
        (4.0, Distribution::Normal, false),
        (0.5, Distribution::Uniform, true),
        (1.0, Distribution::Uniform, false),
    ] {
        let truncation = Truncation::new(x, distribution).unwrap();
        let plain = Latent { size: 100_000, distribution }.rows(3, 0, 1);
        let mut cut = plain.clone();
        truncation.apply(distribution, &mut cut);
        let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let (told, drawn) = (truncation.shrinks(distribution), norm(&cut) / norm(&plain));
        assert!((told / drawn - 1.0).abs() < 0.01, "±{x}: {told} {drawn}");
        assert_eq!(truncation.warning(distribution).is_some(), warns, "±{x}");
    }
}

proptest! {
    #[test]
    fn truncation_bounds_and_orders(x in 0.01f64..20.0, mut z in prop::collection::vec(-6.6f32..6.6, 1..50)) {
        z.sort_by(f32::total_cmp);
        let mut values = z.clone();
        Truncation::new(x, Distribution::Normal).unwrap().apply(Distribution::Normal, &mut values);
        for (pair, before) in values.windows(2).zip(z.windows(2)) {
            prop_assert!(pair[0] <= pair[1], "{:?} {:?}", before, pair);
        }
        for (value, before) in values.iter().zip(&z) {
            prop_assert!(f64::from(value.abs()) <= x + 1e-6 && value.abs() <= before.abs() + 1e-6);
            prop_assert!(x < 8.0 || (value - before).abs() < 1e-4, "{} {}", before, value);
        }
    }
}

proptest! {
    #[test]
    fn shards_are_the_whole(start in 0..1u64 << 62, n in 0..1u64 << 62, of in 1u64..70, align in prop_oneof![Just(1), Just(1000)]) {
        let whole = start..start + n;
        let mut next = start;
        for index in 1..=of {
            let shard: Shard = format!("{index}/{of}").parse().unwrap();
            let part = shard.part(&whole, align);
            prop_assert!(part.start == next && part.end >= part.start);
            prop_assert!(part.start == start || part.start == whole.end || part.start.is_multiple_of(align));
            prop_assert!(part.end - part.start <= n / of + 1 + align);
            next = part.end;
        }
        prop_assert_eq!(next, whole.end);
    }

    #[test]
    fn a_list_of_seeds_names_each_once(runs in prop::collection::vec((0u64..60, 0u64..9), 1..12)) {
        let text: Vec<String> = runs.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
        let list: SeedList = text.join(",").parse().unwrap();
        let mut expected = Vec::new();
        for seed in runs.iter().flat_map(|(first, more)| *first..=first + more) {
            if !expected.contains(&seed) {
                expected.push(seed);
            }
        }
        let found: Vec<u64> = (0..list.len()).map(|place| list.get(place)).collect();
        prop_assert_eq!(&found, &expected);
        let again: SeedList = list.to_string().parse().unwrap();
        prop_assert_eq!(again, list);
    }
}

#[test]
fn wrong_lists_and_shards_are_refused() {
    for (text, says) in [
        ("", "no seed"),
        ("1,,2", "no seed"),
        ("a", "'a'"),
        ("9-3", "backwards"),
        ("1-", "no seed"),
        ("-1", "no seed"),
        ("0-18446744073709551615", "too many"),
    ] {
        assert!(text.parse::<SeedList>().unwrap_err().contains(says), "{text}");
    }
    for text in ["", "1", "0/4", "5/4", "1/0", "a/b", "1/2/3"] {
        assert!(text.parse::<Shard>().is_err(), "{text}");
    }
}

/// (X, z, z').
const TRUNCATED: [(f64, f32, f64); 6] = [
    (1.0, -2.5, -0.982631055),
    (1.0, 0.3, 0.203164811),
    (0.5, 1.75, 0.456884067),
    (2.0, -0.01, -0.009544983),
    (3.0, 4.5, 2.999236296),
    (0.1, -6.0, -0.100000000),
];

// The bits of `latents_are_pinned`: they name the images of every seed for good, on every platform.
const NORMAL_0_0: [u32; 5] = [0xbf8a_2bd8, 0xbfc3_7ff7, 0xbfd6_d9aa, 0x3f3a_11b0, 0x3ea5_640a];

const NORMAL_42_1M: [u32; 5] = [0x3e69_8fcb, 0xbfe7_f613, 0xc003_f795, 0x3f87_eaa7, 0xbf8a_b8f4];
const UNIFORM_0_0: [u32; 5] = [0xbf26_f080, 0x3e9b_baec, 0xbf1f_e462, 0xbe05_3288, 0x3f18_ba20];
const UNIFORM_MAX_2_40: [u32; 5] = [0x3f2a_0f90, 0xbf47_d594, 0x3f22_59ce, 0x3f1c_6832, 0xbd34_dda0];

#[test]
fn between_two_latents() {
    let latent = |distribution| Latent { size: 2, distribution };
    let normal = |t| latent(Distribution::Normal).interpolate(&[1.0, 0.0], &[0.0, 2.0], t).unwrap();
    let near = |a: Vec<f32>, b: [f32; 2]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    let half = std::f32::consts::FRAC_1_SQRT_2;
    assert!(near(normal(0.0), [1.0, 0.0]) && near(normal(1.0), [0.0, 2.0]));
    assert!(near(normal(0.5), [half, 2.0 * half]) && near(normal(1.0 / 3.0), [0.75f32.sqrt(), 1.0]));
    let straight = latent(Distribution::Uniform).interpolate(&[1.0, 0.0], &[0.0, -0.5], 0.25).unwrap();
    assert!(near(straight, [0.75, -0.125]));
    // Directions that are one, opposite, or none.
    for (b, expected) in [([2.0, 0.0], [1.5, 0.0]), ([-1.0, 0.0], [0.0, 0.0]), ([0.0, 0.0], [0.5, 0.0])] {
        assert!(near(latent(Distribution::Normal).interpolate(&[1.0, 0.0], &b, 0.5).unwrap(), expected), "{b:?}");
    }
    let wrong = |a: &[f32], t| message(latent(Distribution::Normal).interpolate(a, &[0.0, 1.0], t));
    assert!(wrong(&[1.0], 0.5).contains("`a`, 1 values") && wrong(&[f32::NAN, 0.0], 0.5).contains("finite"));
    assert!(wrong(&[1.0, 0.0], f32::INFINITY).contains("`t` inf"));
}

proptest! {
    #[test]
    fn the_way_between_latents_keeps_their_length(seed: u64, t in 0.0f32..=1.0) {
        let latent = Latent { size: 64, distribution: Distribution::Normal };
        let length = |z: &[f32]| z.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>().sqrt();
        let (a, b) = (latent.rows(seed, 0, 1), latent.rows(seed, 1, 1));
        let between = length(&latent.interpolate(&a, &b, t).unwrap());
        prop_assert!(between > 0.9 * length(&a).min(length(&b)) && between < 1.1 * length(&a).max(length(&b)), "{}", between);
    }
}
