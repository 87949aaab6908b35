//! ONNX files: any bytes, through all that happens before onnxruntime sees one of them. Beside the file lie weights that it may name.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use ganforge::infer::look_at_file;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap().keep();
    fs::write(folder.join("weights"), [7; 64]).unwrap();
    folder
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let path = FOLDER.join("model.onnx");
    fs::write(&path, bytes).unwrap();
    if let Err(error) = look_at_file(&path) {
        let text = error.to_string();
        assert!(text.contains("model.onnx") || text.contains("weights"), "{text}");
        // It fits a terminal: neither long nor with what moves the cursor.
        assert!(text.len() < 2000 && !text.contains(char::is_control), "{text:?}");
    }
});
