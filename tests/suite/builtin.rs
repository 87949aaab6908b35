//! The built-in generators are what models/ says they are.

use std::path::Path;

use ganforge::contract::Layout;
use ganforge::export::{self, Dtype};
use ganforge::infer::builtin::BUILTIN;
use ganforge::infer::{Generator, Options};
use ganforge::train::{RunFolder, Which, load_trained};

#[test]
fn each_is_the_export_of_its_checkpoint_byte_for_byte() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    assert!(!BUILTIN.is_empty());
    for builtin in BUILTIN {
        let run = RunFolder::open(&root.join("models").join(builtin.name)).unwrap();
        let path = folder.path().join(builtin.name);
        export::export(&load_trained(&run, None, Which::Best).unwrap(), Layout::NhwcU8, Dtype::F32, &path).unwrap();
        assert!(std::fs::read(&path).unwrap() == builtin.bytes, "{}: run `make onnx`", builtin.name);
    }
}

#[test]
fn each_was_trained_and_makes_varied_images() {
    for builtin in BUILTIN {
        let generator = Generator::from_bytes(builtin.name, builtin.bytes, &Options::default()).unwrap();
        assert!(generator.contract().unwrap().images_seen >= 100_000);
        let images = generator.sample(0, 0, 50).unwrap();
        for index in 1..50 {
            let (a, b) = (images.get(index - 1).unwrap(), images.get(index).unwrap());
            let difference: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            assert!(difference / a.len() as u64 >= 5, "images {} and {index} are alike", index - 1);
        }
    }
}
