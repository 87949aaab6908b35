//! `gan-train` as a program: wrong calls, configs, presets, dry runs, exports.

use super::*;

#[test]
fn wrong_calls_say_how_to_mend_them() {
    let place = Place::new();
    fs::write(place.path("file"), "x").unwrap();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/mine"), "x").unwrap();
    place.train("run", WGAN, &["--steps=1"]);
    let before = (names(place.0.path()), names(&place.path("full")), result(&place.path("run")));
    let (data, out) = (place.data().display().to_string(), place.path("out").display().to_string());
    let [file, full, run] = ["file", "full", "run"].map(|name| place.path(name).display().to_string());
    let below = place.path("file/below").display().to_string();
    let complete = ["--preset", "wgan-mnist-mlp", "--data", &data, "--out", &out, "--set=schedule.length={ steps = 1 }"];
    let with = |flags: &[&str]| [&complete[..], flags].concat().iter().map(|flag| flag.to_string()).collect::<Vec<_>>();
    let only = |flags: &[&str]| flags.iter().map(|flag| flag.to_string()).collect::<Vec<_>>();
    let at = |out: &str| only(&["--preset", "wgan-mnist-mlp", "--data", &data, "--out", out, "--steps=1"]);

    let calls = [
        (only(&["--preset", "dcgan28", "--data", &data, "--out", &out]), "Did you mean 'dcgan-28'?"),
        (only(&["--preset", "xyz", "--data", &data, "--out", &out]), "Presets: dcgan-28, "),
        (only(&["presets", "wgan-animal"]), "Did you mean 'wgan-anime'?"),
        (only(&["--preset", "digits", "--out", &out]), "--data is missing. Name a folder"),
        (only(&["--preset", "digits", "--data", &data]), "--out is missing. Name a new folder"),
        (only(&["--out", &out]), "--data is missing. Name a folder"),
        (only(&["--data", &data]), "--out is missing. Name a new folder"),
        (only(&["--data", &data, "--out", &out, "--size", "100"]), "size 100. Choose 32, 64 or 128 pixels"),
        (only(&["--data", &data, "--out", &run]), "holds a run already. Continue it with gan-train --resume"),
        (only(&["--data", &data, "--out", &out, "--set=data.size=32"]), "the flags do not fit what was chosen for the images"),
        (only(&["--preset", "digits", "--data", "mnits", "--out", &out]), "Did you mean 'mnist'?"),
        (only(&["--preset", "digits", "--data", "no/such/place", "--out", &out]), "no file or folder of that name"),
        (at(&run), "holds a run already. Continue it with gan-train --resume"),
        (at(&full), "is not empty. Choose a new or empty folder"),
        (at(&file), "is a file, or lies below one. Choose a new or empty folder"),
        (at(&below), "is a file, or lies below one. Choose a new or empty folder"),
        (with(&["--steps", "0"]), "invalid value '0' for '--steps <STEPS>': 0 is not in 1.."),
        (with(&["--epochs", "0"]), "0 is not in 1.."),
        (with(&["--images=-3"]), "invalid value '-3' for '--images"),
        (with(&["--epochs", "1", "--images", "1"]), "cannot be used with"),
        (with(&["--batch-size", "0"]), "0 is not in 1.."),
        (with(&["--batch-size", "65537"]), "schedule.batch_size must be 1 to 65536"),
        (with(&["--checkpoint-every", "0"]), "0 is not in 1.."),
        (with(&["--seed", "9223372036854775808"]), "is not in 0..=9223372036854775807"),
        (with(&["--lr", "0"]), "expected a number above 0"),
        (with(&["--lr", "nan"]), "expected a number above 0"),
        (with(&["--set", "schedule.batchsize=3"]), "unknown field `batchsize`, expected one of `batch_size`"),
        (with(&["--set", "schedule.batchsize=3"]), "; perhaps batch_size was meant. "),
        (with(&["--set", "sched.batch_size=3"]), "unknown field `sched`"),
        (with(&["--set", "precision=bf16"]), "; perhaps schedule.precision was meant. "),
        (with(&["--set", "lr=1"]), "; perhaps optimizer.generator.lr or optimizer.critic.lr was meant. "),
        (with(&["--set", "schedule.precision=5"]), "expected a name in quotes, in `schedule.precision`"),
        (with(&["--set", "schedule.batch_size=many"]), "invalid type: string \"many\""),
        (with(&["--set", "schedule.batch_size"]), "no '='. Write --set section.key=value"),
        (with(&["--set", "seed.x=1"]), "invalid type: map"),
        (with(&["--set", "preset.x=1"]), "'preset' is not a section"),
        (with(&["--set", "loss.clip=-1"]), "loss.clip must be above 0"),
        (with(&["--set", "latent.size=0"]), "latent.size must be 1 to 65536"),
        (with(&["--set", "data.size=32"]), "but data.size and data.channels ask for 1×32×32"),
        (with(&["--set", "critic.layers=[{ linear = { out = 2 } }]"]), "must end in one value an image"),
        (with(&["--device", "gpu"]), "--device gpu is not known. Use auto, cpu, cuda or cuda:INDEX"),
        (with(&["--device", "cuda:x"]), "is not known"),
        (with(&["--device", "cpu", "--precision", "tf32"]), "precision tf32 on this CPU, which computes in f32"),
        (with(&["--device", "cpu", "--precision", "tf32"]), ". Use --precision f32"),
        (with(&["--precision", "f16"]), "possible values: f32, tf32, bf16"),
        (with(&["--frobnicate"]), "unexpected argument '--frobnicate'"),
        (with(&["--resume", &run]), "cannot be used with"),
        (only(&["--resume", &run, "--lr", "1e-3"]), "change it on purpose with --set optimizer.generator.lr=X"),
        (only(&["--resume", &full]), "has no config.toml. Name the folder of a training"),
        (only(&["--resume", &out]), "is not a run: there is no such folder"),
        (only(&["export", &full]), "has no config.toml"),
        (only(&["export", &run, "--weights", "ema"]), "Use --weights raw"),
        (only(&["export", &run, "--layout", "hwc"]), "possible values: nhwc-u8, nchw-u8, nchw-f32"),
        (only(&["data", "no/such/place"]), "no file or folder of that name"),
        (only(&["data", &data, "--channels", "2"]), "Use 1 (grey) or 3 (RGB)"),
    ];
    for (call, says) in calls {
        let mut command = gan_train(&[]);
        let told = complaint(command.args(&call), 2);
        assert!(told.contains(says), "{call:?}: {told}");
    }
    if !cfg!(feature = "cuda") {
        let call = with(&["--device", "cuda"]);
        let told = complaint(gan_train(&[]).args(&call), 2);
        assert!(told.contains("built without CUDA: build it with --features cuda, or use --device cpu"), "{told}");
    }
    // No folder may be made here: the system's refusal, not a wrong call.
    #[cfg(target_os = "linux")]
    {
        let told = complaint(gan_train(&["--quiet"]).args(at("/proc/no/run")), 1);
        assert!(told.contains("cannot create folder /proc/no/run"), "{told}");
    }
    assert!(before == (names(place.0.path()), names(&place.path("full")), result(&place.path("run"))));
    gan_train(&[]).assert().code(2).stderr(contains("Usage: gan-train"));
}

#[test]
fn config_files() {
    let place = Place::new();
    let config = place.path("mine.toml");
    let train = |name: &str| {
        let mut command = gan_train(&["--quiet", "--steps=1", "--batch-size=4", "--config"]);
        command.arg(&config).arg("--data").arg(place.data()).arg("--out").arg(place.path(name));
        command
    };
    fs::write(&config, "base = 'wgan-mnist-mlp'\n[latent]\nsize = 3\n").unwrap();
    train("a").assert().success();
    let written = RunFolder::open(&place.path("a")).unwrap().config().unwrap();
    let mut expected = TrainConfig::preset("wgan-mnist-mlp").unwrap();
    (expected.latent.size, expected.schedule.batch_size, expected.schedule.length) = (3, 4, Span::Steps(1));
    expected.data.source = written.data.source.clone();
    assert_eq!(written, expected);
    // A run's own config begins another run like it.
    fs::copy(place.path("a/config.toml"), &config).unwrap();
    train("b").assert().success();
    assert_same("from a run's config", &place.path("a"), &place.path("b"));

    for (text, says) in [
        ("base = 'wgan-mnist-lmp'", "Did you mean 'wgan-mnist-mlp'"),
        ("base = 3", "base must be the name of a preset"),
        (
            "preset = 'digits'",
            "preset = \"digits\" is a mere label, and the file lacks [data], [latent], [generator], [critic], [loss], [optimizer], [schedule]",
        ),
        (
            "preset = 'digits'\n[schedule]\nbatch_size = 3",
            "Did you mean base = \"digits\"? Then the file says only what differs",
        ),
        ("preset = 'digit'", "Did you mean base = \"digits\"?"),
        ("preset = 'mine'\n[data]\nsize = 28", "missing field"),
        ("[data", "mine.toml"),
        ("seed = 1", "there is no [data] section"),
        ("[data]\nsize = 28", "missing field"),
        ("base = 'digits'\n[schedule]\nbatch = 3", "unknown field `batch`"),
    ] {
        fs::write(&config, text).unwrap();
        let output = train("c").assert().failure().stdout("").get_output().stderr.clone();
        let told = String::from_utf8(output).unwrap();
        assert!(told.contains(says) && told.starts_with("error: "), "{text}: {told}");
        assert!(!place.path("c").exists());
    }
    let missing = complaint(gan_train(&["--config", "no/such.toml", "--out", "x", "--data", "y"]).arg("--quiet"), 1);
    assert!(missing.contains("cannot read no/such.toml") && missing.contains("Check the path"), "{missing}");
    fs::create_dir(place.path("images")).unwrap();
    let slip = |name: &str| {
        complaint(gan_train(&["--preset", "wgan-mnist-mlp", "--out", "x", "--data", name]).current_dir(place.path(".")), 2)
    };
    fs::create_dir(place.path("images/cats")).unwrap();
    assert!(slip("imagse/cats").contains("Did you mean images/cats?"));
    assert!(!slip("imagse/dogs").contains("Did you mean"));
    let told = slip("imagse");
    assert!(told.contains("no file or folder of that name") && told.contains("Did you mean images?"), "{told}");
    for call in [&["--resume", "imagse"][..], &["export", "imagse"], &["eval", "imagse/cats"], &["--config", "imagse/cats"]] {
        let told = gan_train(call).current_dir(place.path(".")).assert().failure();
        told.stderr(contains("Did you mean images"));
    }
    std::os::unix::fs::symlink("nowhere", place.path("pictures")).unwrap();
    fs::create_dir(place.path("run1")).unwrap();
    for name in ["pictures", "run2"] {
        assert!(!slip(name).contains("Did you mean"), "{name}");
    }
}

#[test]
fn a_path_that_is_not_utf8_is_told_in_json() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let out = place.path(".").join(OsStr::from_bytes(b"r\xffn"));
    let flags = ["--preset", "wgan-mnist-mlp", "--data", "synthetic", "--width", "0.05", "--batch-size", "4", "--steps", "1"];
    let mut call = gan_train(&flags);
    call.args(["--device", "cpu", "--set", "data.held_out=0.0", "--quiet", "--json", "--out"]).arg(&out);
    let told: Value = serde_json::from_slice(&call.assert().success().get_output().stdout).unwrap();
    assert_eq!(told["run"], out.to_string_lossy().as_ref());
    assert!(out.join("generator.onnx").is_file());
}

#[test]
fn what_does_not_fit_in_memory_is_refused_before_the_run_begins() {
    let place = Place::new();
    let out = place.path("x").display().to_string();
    let data = place.data().display().to_string();
    let call = |gib: &str| {
        let mut call = gan_train(&["--preset", "dcgan-64", "--data", &data, "--device", "cpu", "--out", &out]);
        call.env("GANFORGE_MEMORY", gib).args(["--width", "0.05", "--steps", "1", "--set=data.held_out=0.0"]);
        call
    };
    let told = complaint(&mut call("0.002"), 1);
    assert!(
        told.contains("a batch of 50, at the least, need 0.00") && told.contains("Take a smaller schedule.batch_size"),
        "{told}"
    );
    assert!(!place.path("x").exists());
    call("0.002").arg("--dry-run").assert().success();
    let mut wide = gan_train(&["--preset", "dcgan-64", "--data", &data, "--dry-run", "--width", "2"]);
    wide.env("GANFORGE_MEMORY", "0.05").assert().code(1).stderr(contains("the networks, at the least, need"));
    // A batch has no more images than there are.
    call("0.05").args(["--set=schedule.batch_size=65536"]).assert().success();
    fs::remove_dir_all(place.path("x")).unwrap();
    // The images are grey, and smaller than that.
    let fits = call("8").assert().success();
    fits.stderr(contains("enlarged to 64×64. Without --preset, --config and --size"));
}

#[test]
fn what_someone_reduced_stays_until_there_are_other_weights() {
    let place = Place::new();
    let run = place.train("run", CONVOLUTIONAL, &["--steps=2"]);
    let data = place.data().display().to_string();
    let go_on =
        |steps: &str| gan_train(&["--device=cpu", "--resume", run.to_str().unwrap(), "--steps", steps]).assert().success();
    let reduced = ["--dtype", "int8", "--data", &data, "--max-loss", "1", "--calibrate", "16"];
    for (steps, form) in [("2", &reduced[..]), ("4", &["--dtype", "f16"]), ("6", &["--layout", "nchw-u8"])] {
        if steps != "2" {
            go_on(steps).stderr(contains("which was exported in another form").and(contains("exported")));
        }
        gan_train(&[&["export", run.to_str().unwrap()], form].concat()).assert().success();
        let made = fs::read(run.join("generator.onnx")).unwrap();
        go_on(steps).stderr(contains(format!("of step {steps}, stays as it was exported")));
        assert!(fs::read(run.join("generator.onnx")).unwrap() == made, "{form:?}");
    }
}

#[test]
fn a_rate_that_ends_before_it_begins_is_told() {
    let place = Place::new();
    let decay = "--set=schedule.lr_decay={ curve = \"cosine\", begin = { epochs = 2 }, end = { steps = 1 } }";
    let mut call = gan_train(&["--data", place.data().to_str().unwrap(), "--steps=1", decay, "--out"]);
    call.arg(place.path("run")).args(CONVOLUTIONAL);
    call.assert().success().stderr(contains("and ends at step 1: the learning rates fall at once"));
    let mut longer = gan_train(&["--device=cpu", "--resume", place.path("run").to_str().unwrap(), "--steps=8"]);
    let decay = "schedule.lr_decay={ curve = \"linear\", begin = { steps = 1 }, end = { steps = 3 } }";
    longer.args(["--set", decay]).assert().success().stderr(contains("to 0 at step 3: the 5 steps after it teach nothing"));
}

#[test]
fn a_batch_is_judged_after_all_flags() {
    let place = Place::new();
    let out = place.path("x").display().to_string();
    let with = |more: &[&str]| {
        let mut call = gan_train(&["--preset", "r3gan-64", "--size", "128", "--data", "synthetic", "--dry-run", "--out", &out]);
        call.args(more);
        call
    };
    let told = complaint(&mut with(&[]), 1);
    assert!(told.contains("a batch of 256 takes") && told.contains("schedule.batch_size can be 75"), "{told}");
    with(&["--batch-size", "64"]).assert().success();
    with(&["--set", "schedule.batch_size=64"]).assert().success();
}

#[test]
fn presets_can_be_listed_and_printed() {
    let list = gan_train(&["presets"]).assert().success().stderr("").get_output().stdout.clone();
    let list = String::from_utf8(list).unwrap();
    // What to begin with stands before them.
    let (first, list) = list.split_once("\n\n").unwrap();
    assert!(first.starts_with("To begin with, none: `gan-train --data FOLDER --out RUN` chooses"), "{first}");
    assert_eq!(list.lines().count(), PRESETS.len());
    for ((name, _), line) in PRESETS.iter().zip(list.lines()) {
        let config = TrainConfig::preset(name).unwrap();
        assert!(line.starts_with(name) && line.ends_with(&config.about) && !config.about.is_empty(), "{line}");
        let printed = gan_train(&["presets", name]).assert().success().stderr("").get_output().stdout.clone();
        assert_eq!(TrainConfig::from_toml(&String::from_utf8(printed).unwrap(), "it").unwrap(), config);
    }
}

#[test]
fn all_keys_can_be_printed() {
    let place = Place::new();
    let printed =
        gan_train(&["presets", "--all-keys", "wgan-mnist-mlp"]).assert().success().stderr("").get_output().stdout.clone();
    let text = String::from_utf8(printed).unwrap();
    assert!(text.contains("\n#clip = 0.01\n") || text.contains("\nclip = 0.01\n"), "{text}");
    assert!(text.contains("\n#keep_checkpoints = 2\n") && text.contains("Default: 2.\n") && text.contains("\n#[penalty]\n"));
    assert_eq!(TrainConfig::from_toml(&text, "it").unwrap(), TrainConfig::preset("wgan-mnist-mlp").unwrap());
    // It is a file to begin with.
    let config = place.path("mine.toml");
    fs::write(&config, text.replace("#keep_checkpoints = 2", "keep_checkpoints = 5")).unwrap();
    let mut command = gan_train(&["--quiet", "--device=cpu", "--steps=1", "--batch-size=4", "--config"]);
    command.arg(&config).arg("--data").arg(place.data()).arg("--out").arg(place.path("run")).assert().success();
    assert_eq!(RunFolder::open(&place.path("run")).unwrap().config().unwrap().output.keep_checkpoints, 5);
    assert!(complaint(&mut gan_train(&["presets", "--all-keys", "digit"]), 2).contains("Did you mean 'digits'"));
    assert!(complaint(&mut gan_train(&["presets", "--all-keys"]), 2).contains("<NAME>"));
}

#[test]
fn a_batch_larger_than_the_data_is_owned_up_to() {
    let place = Place::new();
    let said = |name: &str, batch: &str| {
        let mut command = gan_train(&["--device=cpu", "--steps=1", batch, "--data"]);
        command.arg(place.data()).arg("--out").arg(place.path(name)).arg("--preset=wgan-mnist-mlp");
        String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
    };
    let large = said("large", "--batch-size=64");
    assert!(
        large.contains("every batch is of 50 images, for there are no more to train on (schedule.batch_size is 64)"),
        "{large}"
    );
    assert!(!said("whole", "--batch-size=50").contains("every batch is"));
}

#[test]
fn a_dry_run_prints_the_config_and_writes_nothing() {
    let place = Place::new();
    let before = names(place.0.path());
    let dry = |flags: &[&str]| {
        let output = place.command("run", CONVOLUTIONAL, flags).arg("--dry-run").assert().success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let text = dry(&["--epochs=3", "--seed=9"]);
    let config = TrainConfig::from_toml(&text, "it").unwrap();
    assert_eq!((config.seed, config.latent.size, config.schedule.length), (9, 8, Span::Epochs(3)));
    // 8·8·49 + 16 + 8·6·16 + 12 + 6·16 + 1 parameters, and 6·16 + 6 + 6·8·16 + 8 + 16 + 8·49 + 1.
    assert!(text.contains("# generator 4029 parameters, critic 1287; 12 steps on the CPU"), "{text}");
    assert!(text.contains("# images.idx: "), "{text}");
    assert_eq!(names(place.0.path()), before);
    // Without --out too.
    gan_train(&["--preset=digits", "--dry-run", "--quiet", "--data"]).arg(place.data()).assert().success();
    assert_eq!(names(place.0.path()), before);
}

#[test]
fn exporting_a_run() {
    let place = Place::new();
    let run = place.train("run", CONVOLUTIONAL, &["--steps=4"]);
    let export = |flags: &[&str], out: &str| {
        let mut command = gan_train(&["export"]);
        command.arg(&run).args(flags).arg("--out").arg(place.path(out)).assert().success().stderr("").stdout(contains(out));
        (open_generator(&place.path(out)), fs::read(place.path(out)).unwrap())
    };
    let (ema, ema_bytes) = export(&["--weights", "ema"], "ema.onnx");
    let (raw, raw_bytes) = export(&["--weights", "raw"], "raw.onnx");
    let weights = |generator: &Generator| generator.contract().unwrap().weights;
    assert_eq!((weights(&ema), weights(&raw)), (Weights::Ema, Weights::Raw));
    assert!(ema.sample(0, 0, 4).unwrap() != raw.sample(0, 0, 4).unwrap());
    assert_ne!(ema_bytes, raw_bytes);
    // What training exported is the average.
    assert_eq!(ema_bytes, fs::read(run.join("generator.onnx")).unwrap());
    for layout in ["nhwc-u8", "nchw-u8", "nchw-f32"] {
        let (generator, _) = export(&["--layout", layout], "layout.onnx");
        assert_eq!(generator.contract().unwrap().layout.name(), layout);
        let difference = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        let (ours, theirs) = (generator.sample(0, 0, 4).unwrap(), ema.sample(0, 0, 4).unwrap());
        assert!(ours.pixels.iter().zip(&theirs.pixels).map(difference).all(|d| d <= 1), "{layout}");
    }
    let (_, half) = export(&["--dtype", "f16"], "half.onnx");
    assert!(half.len() < ema_bytes.len());
    // By default into the run.
    fs::remove_file(run.join("generator.onnx")).unwrap();
    gan_train(&["export"]).arg(&run).assert().success().stdout(contains("ema weights after 50 images"));
    assert_eq!(fs::read(run.join("generator.onnx")).unwrap(), ema_bytes);
    // Never over something with something bad.
    let saved = run.join("checkpoints/00000004/ema.safetensors");
    fs::write(&saved, "x").unwrap();
    let told = complaint(gan_train(&["export"]).arg(&run), 1);
    assert!(told.contains("ema.safetensors"), "{told}");
    assert_eq!(fs::read(run.join("generator.onnx")).unwrap(), ema_bytes);
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let told = complaint(gan_train(&["export"]).arg(&run), 1);
    assert!(told.contains("no checkpoint yet. Continue it with gan-train --resume"), "{told}");
}

#[test]
fn data_sets_are_described() {
    let place = Place::new();
    let mut command = gan_train(&["data", "--quiet", "--size=28", "--channels=1"]);
    let text = command.arg(place.data()).assert().success().stderr("").get_output().stdout.clone();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("images.idx: 50 images, 28×28 grey\nsha256 ") && text.contains("at 28×28"), "{text}");

    // For programs; several at once.
    let described = |flags: &[&str]| {
        let mut command = gan_train(&["data", "--quiet", "--size=28", "--channels=1"]);
        String::from_utf8(command.args(flags).assert().success().stderr("").get_output().stdout.clone()).unwrap()
    };
    let data = place.data().display().to_string();
    let told: Value = serde_json::from_str(&described(&["--json", &data, &data])).unwrap();
    assert_eq!((&told["name"], &told["used"], &told["duplicates"]), (&"images.idx+images.idx".into(), &100.into(), &50.into()));
    assert_eq!(told["copies"][3], serde_json::json!(["images.idx/image 3", "images.idx (2)/image 3"]));
    assert_eq!((told["sha256"].as_str().map(str::len), &told["as_used"]["size"]), (Some(64), &28.into()));
    assert!(described(&["synthetic"]).contains("\n10 classes: 0 (2,000), 1 (2,000), 2 (2,000), "));
}

#[test]
fn several_data_sets_are_trained_on() {
    let place = Place::new();
    fs::write(place.path("more.idx"), idx(30, 7)).unwrap();
    let more = place.path("more.idx");
    let run = place.path("run");
    place.command("run", WGAN, &["--steps=2", "--data"]).arg(&more).assert().success();
    let config = RunFolder::open(&run).unwrap().config().unwrap();
    let both: Vec<String> = [place.data(), more].map(|path| path.canonicalize().unwrap().display().to_string()).into();
    assert_eq!(config.data.source.iter().collect::<Vec<_>>(), both);
    assert_eq!(state(&run).data, "images.idx+more.idx");
    resume(&run, &["--steps=4"]).assert().success();
    assert_eq!(state(&run).step, 4);
    let facts: Value = serde_json::from_slice(&fs::read(run.join("report.json")).unwrap()).unwrap();
    assert_eq!(facts["data"]["images"], 80);
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("images.idx, more.idx") && !report.contains(&both[0]), "it does not tell where they lie");
    // One of them alone is other data.
    let told = complaint(resume(&run, &["--steps=5", "--data"]).arg(place.data()), 1);
    assert!(told.contains("trained on other images"), "{told}");
}

#[test]
fn without_onnxruntime_training_is_saved_and_exported_later() {
    let place = Place::new();
    let mut command = gan_train(&["--device=cpu", "--steps=2", "--data"]);
    command.env("ORT_DYLIB_PATH", "/nonexistent").arg(place.data()).arg("--out").arg(place.path("run")).args(WGAN);
    let said = command.assert().code(1).get_output().stderr.clone();
    let said = String::from_utf8(said).unwrap();
    let run = place.path("run");
    // Said before the training, and again at its end.
    let (warned, failed) = (said.find("warning: this run will train, but not export").unwrap(), said.find("error: ").unwrap());
    assert!(warned < said.find("2 of 2 steps").unwrap() && said.find("2 of 2 steps").unwrap() < failed, "{said}");
    assert!(said[failed..].contains("/nonexistent") && said[failed..].contains("Training is saved"), "{said}");
    assert!(said[failed..].contains(&format!("gan-train export {}", run.display())), "{said}");
    assert_eq!(state(&run).step, 2);
    assert!(!run.join("generator.onnx").exists() && run.join("curves.png").exists());
    let told = complaint(gan_train(&["export"]).arg(&run).env("ORT_DYLIB_PATH", "/nonexistent"), 1);
    assert!(told.contains("/nonexistent"), "{told}");
    gan_train(&["export"]).arg(&run).assert().success();
    check_sheet(&run, "00000002.png", 16, 4);
}

#[test]
fn data_in_impossible_forms_is_a_wrong_call() {
    for flags in [["--size=0", "--channels=1"], ["--size=2000", "--channels=1"], ["--size=28", "--channels=2"]] {
        gan_train(&["data", "synthetic"]).args(flags).assert().code(2).stdout("");
    }
}
