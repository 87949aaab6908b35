//! StackedMNIST: three digits in three colours.

use assert_cmd::Command;
use ganforge::config::TrainConfig;
use ganforge::data::stacked::{LEN, drawn};
use sha2::{Digest, Sha256};

use super::*;

/// The pixels of StackedMNIST of grey `digits`, `area` pixels each: by the addresses of the draws.
fn stacked(digits: &[u8], area: usize) -> Vec<u8> {
    let images: Vec<&[u8]> = digits.chunks_exact(area).collect();
    let of_image = |index| drawn(0, index, images.len() as u32).map(|digit| images[digit as usize]).concat();
    (0..LEN as u64).flat_map(of_image).collect()
}

fn hash(size: usize, pixels: &[u8]) -> String {
    let mut hasher = Sha256::new();
    [LEN, 3, size, size].iter().for_each(|extent| hasher.update((*extent as u64).to_le_bytes()));
    hasher.update(pixels);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

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
fn small_digits_are_stacked_reported_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("mnist");
    fs::create_dir(&folder).unwrap();
    let digits = some_pixels(7 * 16);
    fs::write(folder.join("train-images-idx3-ubyte.gz"), gzip(&idx(7, 4, 4, &digits))).unwrap();
    let told = |flags: &[&str], code: i32| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gan-train"));
        let runtime = std::path::absolute(crate::infer::runtime_path()).unwrap();
        command.env("ORT_DYLIB_PATH", runtime).env("GANFORGE_DATA", dir.path()).current_dir(dir.path());
        let output = command.args(flags).assert().code(code).get_output().clone();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };

    let (json, _) = told(&["data", "stacked-mnist", "--size=4", "--json"], 0);
    let facts: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&facts["name"], &facts["used"], &facts["colour"]), (&"stacked-mnist".into(), &LEN.into(), &LEN.into()));
    assert_eq!(facts["duplicates"], LEN - 7 * 7 * 7, "each triple comes at least once");
    assert_eq!(facts["no_classes"], "it has 1,000 of them, and at most 256 can be told");
    assert_eq!(facts["sha256"], hash(4, &stacked(&digits, 16)));
    // As `mnist` it is brought to the size asked for, and does not come in grey.
    assert!(told(&["data", "stacked-mnist", "--size=8"], 0).0.contains("128,000 images, 4×4 colour"));
    let (_, complaint) = told(&["data", "stacked-mnist", "--size=4", "--channels=1"], 2);
    assert!(complaint.contains("data.channels must be 3"), "{complaint}");

    // One command trains a preset for grey images on it.
    let run =
        ["--preset=dcgan-28", "--width=0.0625", "--data=stacked-mnist", "--set=data.channels=3", "--steps=1", "--out=run"];
    let more = ["--batch-size=4", "--set=output.samples=4", "--set=watch.judge_samples=0", "--device=cpu", "--quiet"];
    told(&[&run[..], &more].concat(), 0);
    let config = TrainConfig::from_toml(&fs::read_to_string(dir.path().join("run/config.toml")).unwrap(), "it").unwrap();
    assert_eq!(config.data.source.iter().collect::<Vec<_>>(), ["stacked-mnist"], "a name stays a name");
    let (_, complaint) = told(&[&run[..5], &["--dry-run"], &["--set=data.classes=10"]].concat(), 1);
    assert!(complaint.contains("1,000 of them"), "{complaint}");
    fs::remove_dir_all(folder).unwrap();
    let (_, complaint) = told(&["data", "stacked-mnist"], 1);
    assert!(complaint.contains("data set 'mnist': not found") && complaint.contains("data/mnist"), "{complaint}");
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
