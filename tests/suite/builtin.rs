//! The built-in generators are what models/ says they are.

use std::path::Path;

use ganforge::contract::Layout;
use ganforge::eval::{FeatureModel, features};
use ganforge::export::{self, Dtype, Reduction};
use ganforge::infer::builtin::{self, BUILTIN};
use ganforge::infer::{
    Class, Conditioning, Existing, Format, Generator, Options, Plan, Precision, Provider, SamplingJob, Selection, pipeline,
};
use ganforge::progress::Silent;
use ganforge::train::{RunFolder, Which, load_trained};

/// Both forms of each, as `make onnx` makes them. Where another processor's sums, which calibration looks at, end in other bits, a file
/// could come out different all the same: scales are rounded so that this is not to be expected.
#[test]
fn each_is_the_export_of_its_checkpoint_byte_for_byte() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    assert!(!BUILTIN.is_empty());
    for builtin in BUILTIN {
        let run = RunFolder::open(&root.join("models").join(builtin.name)).unwrap();
        let trained = load_trained(&run, None, Which::Best).unwrap();
        let features = FeatureModel::by_channels(trained.config.data.channels, &features::Options::default()).unwrap();
        let how = Reduction { calibrate: export::CALIBRATE, max_loss: export::MAX_LOSS, features: &features, real: None };
        for (dtype, bytes) in [(Dtype::W8, builtin.bytes), (Dtype::Int8, builtin.int8)] {
            let path = folder.path().join(builtin.name);
            export::export_reduced(&trained, Layout::NhwcU8, dtype, &how, &path, &Silent).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{} {dtype:?}: run `make onnx`", builtin.name);
        }
    }
}

#[test]
fn on_the_cpu_int8_is_chosen_and_f32_can_be_asked_for() {
    let options = |precision, provider| Options::default().precision(precision).provider(provider);
    for builtin in BUILTIN {
        let open = |precision| builtin.open(&options(precision, Provider::Cpu));
        let [auto, int8, f32] = [Precision::Auto, Precision::Int8, Precision::F32].map(|precision| open(precision).unwrap());
        assert_eq!([&auto, &int8, &f32].map(Generator::precision), [Precision::Int8, Precision::Int8, Precision::F32]);
        assert!(auto.notes().iter().any(|note| note.contains("int8")) && f32.notes().is_empty());
        assert!(auto.bytes() == int8.bytes() && auto.bytes() != f32.bytes());
        assert!(open(Precision::F16).err().unwrap().to_string().contains("not in f16"));
        let [ours, theirs] = [&auto, &f32].map(|generator| generator.sample(0, 0, 64).unwrap());
        let squares = ours.pixels.iter().zip(&theirs.pixels).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
        let psnr = 10.0 * (255.0f64.powi(2) * ours.pixels.len() as f64 / squares.sum::<f64>()).log10();
        assert!(psnr > 36.0, "{}: {psnr} dB", builtin.name);
        // A file is what it is.
        let refused = Generator::from_bytes("it", builtin.int8, &options(Precision::F32, Provider::Cpu)).err().unwrap();
        assert!(refused.to_string().contains("it is in int8, not in f32"), "{refused}");
        if Provider::Cuda(0).is_offered().unwrap() {
            continue;
        }
        assert_eq!(builtin.open(&options(Precision::Auto, Provider::Auto)).unwrap().precision(), Precision::Int8);
    }
}

#[test]
fn precisions_do_not_mix_in_a_job() {
    let folder = tempfile::tempdir().unwrap();
    let make_part = |out: &str, precision, shard: Option<&str>, existing| {
        let generator =
            builtin::open(Some("digits"), &Options::default().precision(precision).provider(Provider::Cpu)).unwrap();
        let numbers = Selection::Numbers { seed: 0, start: 0, n: 40 };
        let shard = shard.map(|shard| shard.parse().unwrap());
        let plan = Plan::new(Format::Png, folder.path().join(out), numbers, shard, existing)?;
        pipeline::run(&generator, &SamplingJob::new(generator.provider()), &plan, &Silent, &false.into())
    };
    let make = |precision, existing| make_part(".", precision, None, existing);
    make(Precision::Int8, Existing::Refuse).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["precision"], "int8");
    assert_eq!(make(Precision::Int8, Existing::Resume).unwrap().images, 0);
    let refused = make(Precision::F32, Existing::Resume).err().unwrap().to_string();
    assert!(refused.contains("another job: its precision is int8, this call's is another"), "{refused}");
    make(Precision::F32, Existing::Overwrite).unwrap();
    let text = std::fs::read_to_string(folder.path().join("manifest.json")).unwrap();
    assert!(!text.contains("precision"), "what jobs in f32 leave stays what it was: {text}");
    make_part("parts", Precision::F32, Some("1/2"), Existing::Refuse).unwrap();
    let refused = make_part("parts", Precision::Int8, Some("2/2"), Existing::Refuse).err().unwrap().to_string();
    assert!(refused.contains("a shard of another job: its precision is another, this call's is int8"), "{refused}");
    make_part("parts", Precision::F32, Some("2/2"), Existing::Refuse).unwrap();
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
        let conditioning = Conditioning::default().class(class);
        let job = SamplingJob::new(generator.provider()).conditioning(conditioning);
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
    let job = SamplingJob::new(faces.provider()).conditioning(Conditioning::default().class(class));
    let numbers = Selection::Numbers { seed: 0, start: 0, n: 1 };
    let plan = Plan::new(Format::Npy, folder.path().join("faces"), numbers, None, Existing::Refuse).unwrap();
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
