//! Configs: any text as a file, and each of its lines as what `--set` takes. What is sound stays what it was as a file.
#![no_main]

use ganforge::config::{self, TrainConfig};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = TrainConfig::from_toml(text, "file") {
        assert_eq!(TrainConfig::from_toml(&config.to_toml().unwrap(), "file").unwrap(), config);
    }
    let mut table = config::preset_table("digits").unwrap();
    text.lines().for_each(|line| _ = config::set(&mut table, line));
    let _ = TrainConfig::from_table(table, "flags");
});
