//! StackedMNIST: three digits in three colours.

use ganforge::data::stacked::{LEN, drawn};

use super::*;

/// SHA-256 of the set that MNIST makes, its draws by tests/golden/streams.py: `below(0, b"stacked", index, 60000, 3)`.
const OF_MNIST: &str = "759ee0a27286309a039d39d446ca9ca450011e97723240755d04d2fadb09f4b6";

#[test]
fn draws_are_even_and_by_address() {
    // As tests/golden/streams.py draws them.
    let golden = [[33_201, 29_427, 14_393], [1_126, 45_393, 2_497], [55_950, 48_257, 21_033], [39_045, 14_114, 5_939]];
    assert_eq!([0, 1, 2, 127_999].map(|index| drawn(0, index, 60_000)), golden);
    assert_ne!(drawn(1, 0, 60_000), drawn(0, 0, 60_000));
    let mut modes = [0u32; 1000];
    (0..LEN as u64).map(|index| drawn(0, index, 10)).for_each(|[r, g, b]| modes[(100 * r + 10 * g + b) as usize] += 1);
    // 128 each; χ² of 999 degrees of freedom has a deviation of 45.
    let chi2: f64 = modes.iter().map(|count| (f64::from(*count) - 128.0).powi(2) / 128.0).sum();
    assert!((800.0..1200.0).contains(&chi2), "{chi2}");
}

#[test]
fn mnist_is_stacked_into_the_known_set() {
    if real("mnist").is_none() {
        return;
    }
    let data = load("stacked-mnist", &form(28, 3), &Silent).unwrap();
    assert_eq!((data.name.as_str(), data.len, data.pixels.len()), ("stacked-mnist", LEN, LEN * 3 * 784));
    assert_eq!(data.sha256, OF_MNIST);
    let digits = load("mnist", &form(28, 1), &Silent).unwrap();
    for index in [0, 1, 77_777, LEN - 1] {
        let planes = drawn(0, index as u64, digits.len as u32).map(|digit| digits.image(digit as usize)).concat();
        assert_eq!(data.image(index), planes);
    }
}
