//! Opening and sampling generators, ours and strangers'.

use super::*;

#[test]
fn a_sealed_generator_tells_and_samples() {
    let generator = open(SEALED, Options::default()).unwrap();
    assert_eq!(generator.image_shape(), [8, 6, 3]);
    assert_eq!(generator.latent(), Latent { size: 16, distribution: Distribution::Normal });
    assert_eq!((generator.provider(), generator.batch()), (Provider::Cpu, DENSE_BATCH));
    assert_eq!(generator.contract().map(|contract| contract.seed), Some(7));
    let images = generator.sample(3, 5, 20).unwrap();
    assert_eq!((images.n, images.pixels.len()), (20, 20 * 8 * 6 * 3));
    assert_eq!(images.get(7), generator.sample(3, 12, 1).unwrap().get(0));
    assert_ne!(images.get(0), images.get(1));
    assert_ne!(images.pixels, generator.sample(4, 5, 20).unwrap().pixels);
    assert!(message(generator.sample(0, u64::MAX, 1)).contains("2^63"));
}

#[test]
fn another_batch_size_moves_pixels_by_one_at_most() {
    let at = |batch| {
        let generator = open(SEALED, Options::default().batch(batch)).unwrap();
        generator.sample(0, 3, 70).unwrap().pixels
    };
    let reference = at(8);
    for batch in [1, 7, 64] {
        assert!(at(batch).iter().zip(&reference).all(|(&a, &b)| a.abs_diff(b) <= 1), "batch {batch}");
    }
    let wrong = |batch| message(open(SEALED, Options::default().batch(batch)));
    assert!(wrong(0).contains("1 to 4096") && wrong(1_000_000).contains("1 to 4096"));
}

#[test]
fn a_stranger_needs_its_range() {
    let unknown = open(STRANGER, Options::default()).unwrap();
    assert!(unknown.contract().is_none());
    assert!(message(unknown.sample(0, 0, 1)).contains("`Options::range` tanh"));
    // The same weights' pixels, computed by the graph (interleaved) and by us (from planes): the same multiset of columns.
    let stranger = open(STRANGER, with_range(Range::Tanh)).unwrap();
    let images = stranger.sample(0, 0, 9).unwrap();
    assert_eq!((images.n, images.height, images.width, images.channels), (9, 8, 6, 3));
    let sealed = open(SEALED, Options::default()).unwrap().sample(0, 0, 9).unwrap();
    for (planes, interleaved) in images.pixels.chunks(144).zip(sealed.pixels.chunks(144)) {
        for (at, &graphs) in interleaved.iter().enumerate() {
            // Value number `at` is channel `at / 48`, pixel `at % 48` to the one, pixel `at / 3` to the other.
            let ours = planes[at % 48 * 3 + at / 48];
            assert!(ours.abs_diff(graphs) <= 1, "{at}: {ours} {graphs}");
        }
    }
    let clipped = open(STRANGER, with_range(Range::Sigmoid)).unwrap().sample(0, 0, 9).unwrap();
    assert_ne!(clipped.pixels, images.pixels);
}

#[test]
fn a_fixed_batch_is_kept() {
    let generator = open(FIXED, Options::default()).unwrap();
    assert_eq!((generator.batch(), generator.image_shape()), (5, [8, 6, 1]));
    let images = generator.sample(0, 3, 9).unwrap();
    assert_eq!(images.get(4), generator.sample(0, 7, 1).unwrap().get(0));
    assert!(message(open(FIXED, Options::default().batch(8))).contains("fixed at 5"));
    assert!(message(open(FIXED, with_range(Range::Tanh))).contains("pixels already"));
}

#[test]
fn a_half_precision_stranger_samples() {
    let half = open(HALF, with_range(Range::Tanh)).unwrap();
    assert_eq!((half.input(), half.output()), ("z: f16 [n, 16]".into(), "image: f16 [n, 8, 6, 3]".into()));
    let (half, full) = (half.sample(0, 0, 9).unwrap(), open(SEALED, Options::default()).unwrap().sample(0, 0, 9).unwrap());
    let furthest = half.pixels.iter().zip(&full.pixels).map(|(&a, &b)| a.abs_diff(b)).max();
    assert!(half.pixels != full.pixels && furthest <= Some(3), "{furthest:?}");
}

/// Both exporters of PyTorch, at every opset that they write, and what else its users do to a generator.
#[cfg(feature = "train")]
#[test]
fn what_pytorch_exports_computes_the_same() {
    use ganforge::infer::generator::CONVOLUTIONAL_BATCH;

    let file = fs::read(golden("strangers/values.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(expected.len(), 21);
    for (name, tensor) in expected.tensors() {
        let expected: Vec<f32> = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let generator = open(&format!("strangers/{name}.onnx"), Options::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut values = vec![0.0; expected.len()];
        generator.values_into(0, 0, &mut values).unwrap_or_else(|e| panic!("{name}: {e}"));
        let furthest = values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let tolerance = match name.as_str() {
            "byte" => 1.0,
            "half" => 4e-3,
            _ => 2e-6,
        };
        assert!(furthest <= tolerance, "{name}: {furthest}");
        let (batch, shape) = match name.as_str() {
            "fixed" => (4, [6, 12, 3]),
            "grey" => (CONVOLUTIONAL_BATCH, [6, 12, 1]),
            "external" => (CONVOLUTIONAL_BATCH, [12, 8, 3]),
            name if name.starts_with("dynamo") => (CONVOLUTIONAL_BATCH, [12, 8, 3]),
            _ => (CONVOLUTIONAL_BATCH, [6, 12, 3]),
        };
        assert_eq!((generator.batch(), generator.image_shape()), (batch, shape), "{name}");
    }
}

/// `torch.onnx.export` writes weights into a second file by default.
#[test]
fn weights_in_a_file_of_their_own() {
    let folder = tempdir().unwrap();
    let model = folder.path().join("external.onnx");
    fs::copy(golden("strangers/external.onnx"), &model).unwrap();
    let run = |out: &str, flags: &[&str]| {
        let mut command = gan_infer();
        command.arg("--model").arg(&model).args(["--provider", "cpu", "--range", "tanh", "--n", "9"]);
        command.args(["--format", "npy", "--out"]).arg(folder.path().join(out)).args(flags);
        command
    };
    run("a", &[]).assert().code(1).stderr(contains("external.onnx.data, which is not there"));
    assert!(
        message(Generator::from_bytes("m", fs::read(&model).unwrap(), &Options::default())).contains("Open it by its path")
    );
    let weights = folder.path().join("external.onnx.data");
    fs::copy(golden("strangers/external.onnx.data"), &weights).unwrap();
    run("a", &[]).assert().success();
    // Other weights are another model, though the .onnx file is the same.
    let mut bytes = fs::read(&weights).unwrap();
    bytes[103] ^= 0x80; // a sign
    fs::write(&weights, bytes).unwrap();
    run("a", &["--resume"]).assert().code(2).stderr(contains("its model_sha256 is"));
    run("b", &[]).assert().success();
    let array = |out: &str| fs::read(folder.path().join(out).join("samples.npy")).unwrap();
    assert!(array("a") != array("b"));
}

/// A file of ours that lost its metadata passes for nobody else's.
#[test]
fn a_cut_off_generator_is_no_stranger() {
    let mut file = fs::read(golden(SEALED)).unwrap();
    let names = [b"ganforge.sha256".as_slice(), b"ganforge.contract"];
    assert!(names.iter().all(|name| file.windows(name.len()).any(|window| window == *name)));
    let metadata = file.windows(10).position(|window| window == b"Image.Bitm").unwrap();
    file.truncate(metadata - 4); // tags and lengths of the entry and its key
    let error = message(Generator::from_bytes("cut", file, &Options::default()));
    assert!(error.contains("has no ganforge.sha256"), "{error}");
}

#[test]
fn a_caller_gives_the_buffer() {
    let sealed = open(SEALED, small_batches()).unwrap();
    let mut pixels = vec![0; 20 * 144];
    sealed.sample_into(3, 5, &mut pixels).unwrap();
    assert_eq!(pixels, sealed.sample(3, 5, 20).unwrap().pixels);
    assert!(message(sealed.sample_into(3, 5, &mut pixels[..100])).contains("whole number of images"));
    assert!(message(sealed.sample_into(3, 5, &mut [])).contains("whole number of images"));
    let mut values = vec![0.0; 20 * 144];
    sealed.values_into(3, 5, &mut values).unwrap();
    assert!(values.iter().zip(&pixels).all(|(&value, &pixel)| value == f32::from(pixel)));

    // The network's own values, though nobody said what they mean.
    let stranger = open(STRANGER, Options::default()).unwrap();
    stranger.values_into(3, 5, &mut values).unwrap();
    let known = open(STRANGER, with_range(Range::Tanh)).unwrap().sample(3, 5, 20).unwrap();
    assert_eq!(Images::from_nchw(&values, [20, 3, 8, 6], Range::Tanh), known);
    assert!(values.iter().any(|value| *value < 0.0));
}

/// Each thread of an embedder samples from one generator.
#[test]
fn threads_share_a_generator() {
    let generator = open(SEALED, small_batches()).unwrap();
    let expected = generator.sample(0, 0, 40).unwrap();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4u64)
            .map(|part| {
                scope.spawn({
                    let generator = &generator;
                    move || generator.sample(0, part * 10, 10).unwrap().pixels
                })
            })
            .collect();
        let parts: Vec<u8> = all.into_iter().flat_map(|part| part.join().unwrap()).collect();
        assert_eq!(parts, expected.pixels);
    });
}

#[test]
fn latents_of_the_callers() {
    let generator = open(SEALED, Options::default().batch(8)).unwrap();
    let (size, images) = (generator.latent().size, generator.sample(3, 8, 21).unwrap());
    let latents = generator.latents(3, 8, 21).unwrap();
    assert_eq!(latents, generator.latent().rows(3, 8, 21));
    assert_eq!(generator.generate(&latents).unwrap(), images);
    let elsewhere = generator.generate(&latents[size..]).unwrap();
    assert_eq!(elsewhere.n, 20);
    assert!(elsewhere.pixels.iter().zip(&images.pixels[images.bytes()..]).all(|(&a, &b)| a.abs_diff(b) <= 1));
    let near = Conditioning::default().truncation(generator.truncation(0.5).unwrap());
    assert_eq!(generator.generate_with(&near, &latents).unwrap(), generator.sample_with(&near, 3, 8, 21).unwrap());

    assert!(message(generator.generate(&[])).contains("0 values are not a whole number of latents of 16"));
    assert!(message(generator.generate(&latents[1..])).contains("Give n · latent size"));
    let mut damaged = latents;
    damaged[3 * size + 5] = f32::NAN;
    assert!(message(generator.generate(&damaged)).contains("value 5 of latent 3 is NaN"));
    assert!(message(generator.latents(0, u64::MAX, 1)).contains("2^63"));
}

#[test]
fn one_call_on_many_threads() {
    let alone = open(SEALED, small_batches().threads(1)).unwrap();
    let together = open(SEALED, small_batches().threads(5)).unwrap();
    assert_eq!((alone.threads(), together.threads()), (1, 5));
    assert_eq!(together.sample(9, 3, 100).unwrap(), alone.sample(9, 3, 100).unwrap());
    let latents = alone.latents(9, 3, 100).unwrap();
    assert_eq!(together.generate(&latents).unwrap(), alone.generate(&latents).unwrap());
}

#[test]
fn some_images_at_a_time() {
    let generator = open(SEALED, small_batches().threads(2)).unwrap();
    let image: usize = generator.image_shape().iter().product();
    let near = Conditioning::default().truncation(generator.truncation(0.5).unwrap());
    for (start, n, size) in [(0, 64, 8), (3, 50, 7), (5, 1, 1), (7, 30, 1), (0, 3000, 1000), (2, 9, usize::MAX)] {
        let whole = generator.sample_with(&near, 4, start, n).unwrap();
        let parts: Vec<Images> = generator.batches(&near, 4, start, n as u64, size).map(Result::unwrap).collect();
        assert!(parts.iter().all(|part| part.n <= size && part.pixels.len() == part.n * image));
        assert!(parts.iter().rev().skip(1).all(|part| part.n == size), "{start} {n} {size}");
        let pixels: Vec<u8> = parts.into_iter().flat_map(|part| part.pixels).collect();
        assert!(pixels == whole.pixels, "{start} {n} {size}");
    }
    // One that outlives the place it was made in, on another thread.
    let shared = std::sync::Arc::new(generator);
    let batches = ganforge::infer::Batches::new(shared, &Conditioning::default(), 0, 0, 20, 8);
    assert_eq!(std::thread::spawn(move || batches.map(|images| images.unwrap().n).sum::<usize>()).join().unwrap(), 20);

    let generator = open(SEALED, small_batches()).unwrap();
    let mut none = generator.batches(&near, 0, 0, 10, 0);
    assert!(message(none.next().unwrap()).contains("batches of 0 images") && none.next().is_none());
    let mut far = generator.batches(&near, 0, u64::MAX, 10, 3);
    assert!(message(far.next().unwrap()).contains("2^63") && far.next().is_none());
    assert!(generator.batches(&near, 0, 5, 0, 3).next().is_none());
}

/// What is read of a file is what onnxruntime says of it.
#[test]
fn facts_of_a_file_without_onnxruntime() {
    for name in [SEALED, STRANGER, FIXED, HALF] {
        let facts = FileFacts::read(golden(name)).unwrap();
        let generator = open(name, Options::default().range(Range::Tanh)).or_else(|_| open(name, Options::default())).unwrap();
        assert_eq!(facts.contract(), generator.contract(), "{name}");
        assert_eq!(facts.inputs(), [generator.input()], "{name}");
        assert_eq!(facts.outputs(), [generator.output()], "{name}");
        assert_eq!((facts.precision(), facts.sha256()), (generator.precision(), generator.sha256().unwrap()), "{name}");
    }
    let facts = FileFacts::read(golden(SEALED)).unwrap();
    assert_eq!(facts.metadata()["ganforge.contract"], "1");

    let told = |flags: &[&str]| {
        let mut command = gan_infer();
        let output = command.env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").arg("info").args(flags).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for model in ["faces", golden(SEALED).to_str().unwrap()] {
        let (success, text) = told(&[model]);
        assert!(success && text.contains("latent.size") && text.contains("only read, not run"), "{text}");
    }
    let (success, json) = told(&["digits", "--precision", "int8", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(success && json["precision"] == "int8" && json["contract"] == true, "{json}");
    assert!(!told(&["nothing.onnx"]).0);
}
