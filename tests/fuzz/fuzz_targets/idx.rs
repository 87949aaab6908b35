//! IDX files, plain or compressed: any bytes.
#![no_main]

use std::io::Write;

use ganforge::config::TrainConfig;
use ganforge::data;
use ganforge::progress::Silent;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let form = TrainConfig::preset("dcgan-28").unwrap().data;
    let mut file = tempfile::Builder::new().suffix(".idx").tempfile_in("/dev/shm").unwrap();
    file.write_all(bytes).unwrap();
    let _ = data::load(file.path().to_str().unwrap(), &form, &Silent);
});
