//! The built-in generators are what models/ says they are.

use std::path::Path;

use ganforge::contract::Layout;
use ganforge::export::{self, Dtype};
use ganforge::infer::builtin::{self, BUILTIN};
use ganforge::infer::{Class, Conditioning, Existing, Format, Generator, Options, Plan, SamplingJob, Selection, pipeline};
use ganforge::progress::Silent;
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

#[test]
fn a_class_of_the_digits_is_the_digits_of_that_class() {
    let generator = builtin::open(Some("digits"), &Options::default()).unwrap();
    let (latent, n) = (generator.latent(), 80);
    let plain = generator.sample(0, 0, n).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sample = |class: usize| {
        let class = Class::new(class, generator.contract(), generator.name()).unwrap();
        let conditioning = Conditioning { class: Some(class), truncation: None };
        let job = SamplingJob { conditioning, ..SamplingJob::new(generator.provider()) };
        let numbers = Selection::Numbers { seed: 0, start: 0, n: n as u64 };
        let out = folder.path().join(class.number().to_string());
        let plan = Plan::new(Format::Npy, &out, numbers, None, Existing::Refuse).unwrap();
        let file = pipeline::run(&generator, &job, &plan, &Silent, &false.into()).unwrap().out;
        let bytes = std::fs::read(file).unwrap();
        bytes[bytes.len() - plain.pixels.len()..].to_vec()
    };
    let image = plain.pixels.len() / n;
    let by_class: Vec<Vec<u8>> = (0..10).map(sample).collect();
    for (index, z) in latent.rows(0, 0, n).chunks_exact(latent.size).enumerate() {
        let chosen = (0..10).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
        let bytes = index * image..(index + 1) * image;
        for (class, pixels) in by_class.iter().enumerate() {
            let same = pixels[bytes.clone()] == plain.pixels[bytes.clone()];
            assert_eq!(same, class == chosen, "image {index} of class {class}, by itself it is of class {chosen}");
        }
    }
    let told = |name: &str, contract, number| Class::new(number, contract, name).unwrap_err().to_string();
    assert!(told("digits", generator.contract(), 10).contains("Its classes are 0 to 9."));
    assert!(told("stranger", None, 0).contains("knows no classes"));

    // A class is of one generator.
    let faces = builtin::open(Some("faces"), &Options::default()).unwrap();
    let class = Class::new(3, generator.contract(), "digits").unwrap();
    let job = SamplingJob {
        conditioning: Conditioning { class: Some(class), truncation: None },
        ..SamplingJob::new(faces.provider())
    };
    let numbers = Selection::Numbers { seed: 0, start: 0, n: 1 };
    let plan = Plan::new(Format::Npy, &folder.path().join("faces"), numbers, None, Existing::Refuse).unwrap();
    let refused = pipeline::run(&faces, &job, &plan, &Silent, &false.into()).unwrap_err().to_string();
    assert!(refused.contains("knows no classes"), "{refused}");
}

#[test]
fn classes_stand_beside_the_images() {
    let generator = builtin::open(Some("digits"), &Options::default()).unwrap();
    let (latent, n) = (generator.latent(), 40);
    let folder = tempfile::tempdir().unwrap();
    let numbers = Selection::Numbers { seed: 5, start: 970, n };
    let sample = |format: Format| {
        let plan = Plan::new(format, folder.path(), numbers.clone(), None, Existing::Refuse).unwrap();
        let job = SamplingJob::new(generator.provider());
        pipeline::run(&generator, &job, &plan, &Silent, &false.into()).unwrap().out
    };
    let rows = latent.rows(5, 970, n as usize);
    let chosen = |z: &[f32]| (0..10u8).max_by(|&a, &b| z[usize::from(a)].total_cmp(&z[usize::from(b)])).unwrap();
    let expected: Vec<u8> = rows.chunks_exact(latent.size).map(chosen).collect();
    assert!((0..10).filter(|class| expected.contains(class)).count() > 7);

    // As text in tar files, under the image's name.
    sample(Format::Tar);
    let mut told = Vec::new();
    for name in ["000000.tar", "000001.tar"] {
        let mut archive = ::tar::Archive::new(std::fs::File::open(folder.path().join(name)).unwrap());
        for entry in archive.entries().unwrap() {
            let (mut entry, mut text) = (entry.unwrap(), String::new());
            let name = entry.path().unwrap().display().to_string();
            if let Some(number) = name.strip_suffix(".cls") {
                std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
                assert_eq!(number, format!("{:06}", 970 + told.len()));
                told.push(text.parse::<u8>().unwrap());
            }
        }
    }
    assert_eq!(told, expected);

    // As the second array of an npz file, which any zip library reads.
    let file = sample(Format::Npz);
    let mut archive = ::zip::ZipArchive::new(std::fs::File::open(&file).unwrap()).unwrap();
    let mut read = |name: &str| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut archive.by_name(name).unwrap(), &mut bytes).unwrap();
        bytes
    };
    let labels = read("arr_1.npy");
    assert!(String::from_utf8_lossy(&labels).contains("'shape': (40,)"));
    assert_eq!(labels[labels.len() - n as usize..], expected);
    assert!(read("arr_0.npy").len() > 40 * 28 * 28);
    // It stays what it is when it is looked at again.
    let before = std::fs::read(&file).unwrap();
    let plan = Plan::new(Format::Npz, folder.path(), numbers, None, Existing::Resume).unwrap();
    let done = pipeline::run(&generator, &SamplingJob::new(generator.provider()), &plan, &Silent, &false.into()).unwrap();
    assert!(done.images == 0 && std::fs::read(&file).unwrap() == before);
}
