//! PyTorch state dicts: any bytes as the pickle in an archive, and as the file itself.
#![no_main]

use std::io::{Cursor, Write};

use ganforge::config::{Init, TrainConfig};
use ganforge::train::init;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    archive.start_file("net/data.pkl", stored).unwrap();
    archive.write_all(bytes).unwrap();
    // Memory for tensors that may lie anywhere in it.
    archive.start_file("net/data/0", stored).unwrap();
    archive.write_all(&[0; 64]).unwrap();
    let archive = archive.finish().unwrap().into_inner();
    for contents in [archive.as_slice(), bytes] {
        let mut file = tempfile::Builder::new().suffix(".pth").tempfile_in("/dev/shm").unwrap();
        file.write_all(contents).unwrap();
        let mut config = TrainConfig::preset("wgan-mnist-mlp").unwrap();
        config.init.linear = Init::Zeros; // to draw numbers would take most of the time
        config.init_from = file.path().display().to_string().into();
        let _ = init::check(&config);
    }
});
