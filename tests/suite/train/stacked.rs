//! StackedMNIST of small digits: what is told of it, and that any preset for grey images trains on it.

use ganforge::data::stacked::{LEN, drawn};
use serde_json::Value;
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

#[test]
fn small_digits_are_stacked_reported_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("mnist");
    fs::create_dir(&folder).unwrap();
    let digits: Vec<u8> = (0..7 * 16).map(|at| (at * 37 % 256) as u8).collect();
    let header = [0x0803, 7, 4, 4].into_iter().flat_map(u32::to_be_bytes);
    fs::write(folder.join("train-images-idx3-ubyte"), header.chain(digits.clone()).collect::<Vec<_>>()).unwrap();
    let told = |flags: &[&str], code: i32| {
        let runtime = std::path::absolute(crate::infer::runtime_path()).unwrap();
        let mut command = gan_train(flags);
        command.env("ORT_DYLIB_PATH", runtime).env("GANFORGE_DATA", dir.path()).current_dir(dir.path());
        let output = command.assert().code(code).get_output().clone();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };

    let (json, _) = told(&["data", "stacked-mnist", "--size=4", "--json"], 0);
    let facts: Value = serde_json::from_str(&json).unwrap();
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
