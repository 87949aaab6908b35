//! Checkpoints: any bytes as one of their files (the first byte says which), and as what points to them.
#![no_main]

use std::fs;

use ganforge::config::TrainConfig;
use ganforge::contract::Weights;
use ganforge::train::{RunFolder, Which, changes, checkpoint, read_records};

const FILES: [&str; 8] = [
    "checkpoints/latest",
    "checkpoints/00000001/state.json",
    "checkpoints/00000001/config.toml",
    "checkpoints/00000001/SHA256SUMS",
    "checkpoints/00000001/generator.safetensors",
    "checkpoints/00000001/ema.safetensors",
    "stats.jsonl",
    "changes.jsonl",
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let run = place.path().join("run");
    let config = TrainConfig::preset("wgan-mnist-mlp").unwrap();
    let folder = RunFolder::create(&run, &config).unwrap();
    fs::create_dir(run.join("checkpoints/00000001")).unwrap();
    fs::write(run.join("checkpoints/latest"), "00000001\n").unwrap();
    fs::write(run.join(FILES[usize::from(*first) % FILES.len()]), bytes).unwrap();
    let _ = (read_records(&folder), changes::read(&folder));
    let Ok(Some(saved)) = checkpoint::find(&folder, Which::Latest) else { return };
    let _ = (checkpoint::read_state(&saved), checkpoint::read_config(&saved, &config));
    for weights in [Weights::Ema, Weights::Raw] {
        let _ = checkpoint::read_generator(&saved, weights);
    }
});
