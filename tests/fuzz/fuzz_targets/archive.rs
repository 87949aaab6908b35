//! Archives of images: any bytes, which begin as a zip archive does.
#![no_main]

use std::io::Write;

use ganforge::config::TrainConfig;
use ganforge::data;
use ganforge::progress::Silent;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let form = TrainConfig::preset("dcgan-28").unwrap().data;
    let mut file = tempfile::Builder::new().suffix(".zip").tempfile_in("/dev/shm").unwrap();
    file.write_all(b"PK\x03\x04").and_then(|()| file.write_all(bytes.get(4..).unwrap_or_default())).unwrap();
    let _ = data::load(file.path().to_str().unwrap(), &form, &Silent);
});
