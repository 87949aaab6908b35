//! A run that is interrupted, killed or gone on with ends in the same bytes.

use super::*;
use ganforge::random::{Purpose, Stream};

#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    let place = Place::new();
    let systems =
        [("convolutional", CONVOLUTIONAL), ("dropout", DROPOUT), ("wgan", WGAN), ("mirrored", MIRRORED), ("ramped", RAMPED)];
    for (name, system) in systems {
        let straight = place.train(&format!("{name}-straight"), system, &["--steps=11", "--checkpoint-every=4"]);
        // Stops within an epoch, and between two checkpoints.
        let resumed = place.train(&format!("{name}-resumed"), system, &["--steps=3", "--checkpoint-every=2"]);
        resume(&resumed, &["--steps=6"]).assert().success();
        resume(&resumed, &["--steps=11"]).assert().success();
        assert_same(name, &straight, &resumed);
        assert_eq!(records(&resumed).last().unwrap().step, 11);
        // There is nothing more to do, and that is no error; nor does it change anything.
        resume(&resumed, &[]).assert().success();
        resume(&resumed, &["--steps=5"]).assert().success();
        assert_same(name, &straight, &resumed);
    }
}

/// Nor does a run that nobody asked to mirror images do so.
#[test]
fn mirrored_images_are_other_images() {
    let place = Place::new();
    let [plain, mirrored] =
        [("plain", WGAN), ("mirrored", MIRRORED)].map(|(name, system)| place.train(name, system, &["--steps=2"]));
    assert_ne!(
        result(&plain)["checkpoints/00000002/critic.safetensors"],
        result(&mirrored)["checkpoints/00000002/critic.safetensors"]
    );
    let told = complaint(&mut resume(&plain, &["--steps=3", "--set=data.flap=true"]), 2);
    assert!(told.contains("flap"), "{told}");
    // On purpose only.
    let config = plain.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("[data]\n", "[data]\nflip = true\n")).unwrap();
    assert!(complaint(&mut resume(&plain, &["--steps=3"]), 1).contains("data.flip from nothing to true"));
    resume(&plain, &["--steps=3", "--set=data.flip=true"]).assert().success();
}

/// Folders of flat images are the classes: what the latents choose must be what is made, and a resume must not lose that.
#[test]
fn classes_are_learnt_by_folder_and_resumed_exactly() {
    const GREYS: [(&str, u8); 3] = [("b-dark", 30), ("c-light", 220), ("d-middle", 130)];
    let place = Place::new();
    for (name, grey) in GREYS {
        fs::create_dir_all(place.path("sorted").join(name)).unwrap();
        for index in 0..20 {
            let path = place.path("sorted").join(name).join(format!("{index}.png"));
            image::GrayImage::from_pixel(28, 28, image::Luma([grey + index])).save(path).unwrap();
        }
    }
    let command = |name: &str, flags: &[&str]| {
        let mut command =
            gan_train(&["--quiet", "--device=cpu", "--set=data.classes=3", "--set=watch.stop=false", "--lr=1e-3"]);
        command.args(DROPOUT).arg("--data").arg(place.path("sorted")).arg("--out").arg(place.path(name)).args(flags);
        command
    };
    command("straight", &["--steps=1500"]).assert().success();
    command("halves", &["--steps=700"]).assert().success();
    // As a run was before classes had names.
    let config = place.path("halves/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let line = "class_names = [\"b-dark\", \"c-light\", \"d-middle\"]\n";
    assert!(text.contains(line), "{text}");
    fs::write(&config, text.replace(line, "")).unwrap();
    resume(&place.path("halves"), &["--steps=1500"]).assert().success();
    assert_same("classes", &place.path("straight"), &place.path("halves"));

    let generator = open_generator(&place.path("straight/generator.onnx"));
    let (latent, images) = (generator.latent(), generator.sample(0, 0, 120).unwrap());
    let mut means = [const { Vec::new() }; 3];
    for (index, z) in latent.rows(0, 0, 120).chunks_exact(latent.size).enumerate() {
        let chosen = (0..3).max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
        let pixels = images.get(index).unwrap();
        means[chosen].push(pixels.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / pixels.len() as f64);
    }
    let means = means.map(|of_class| of_class.iter().sum::<f64>() / of_class.len() as f64);
    for (mean, (name, grey)) in means.iter().zip(GREYS) {
        assert!((mean - f64::from(grey + 10)).abs() < 40.0, "{name}: {means:?}");
    }

    // They are called what their folders are, in a run that had no names, too.
    assert_eq!(generator.contract().unwrap().class_names, ["b-dark", "c-light", "d-middle"]);
    let infer = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
        command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).args(flags);
        command
    };
    let model = place.path("halves/generator.onnx").display().to_string();
    let sample = |class: &str| {
        let out = place.path(&format!("made-{class}"));
        let told = infer(&["--quiet", "--json", "--n=4", "--format=npy", "--model", &model, "--class", class, "--out"])
            .arg(&out)
            .assert()
            .success()
            .get_output()
            .stdout
            .clone();
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&told["class"], &told["class_name"]), (&1.into(), &"c-light".into()));
        let manifest = names(&out).into_iter().find(|name| name.ends_with("json")).unwrap();
        let manifest: Value = serde_json::from_slice(&fs::read(out.join(manifest)).unwrap()).unwrap();
        assert_eq!((&manifest["class"], &manifest["class_name"]), (&1.into(), &"c-light".into()));
        fs::read(out.join("samples.npy")).unwrap()
    };
    assert_eq!(sample("c-light"), sample("1"));
    let told = complaint(infer(&["--n=1", "--model", &model, "--class=light", "--out"]).arg(place.path("none")), 2);
    assert!(told.contains("there is no class 'light'"), "{told}");
    infer(&["info", &model]).assert().success().stdout(contains("b-dark, c-light, d-middle"));
    let told = infer(&["info", "--json", &model]).assert().success().get_output().stdout.clone();
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["classes.names"], serde_json::json!(["b-dark", "c-light", "d-middle"]));

    // Other classes are other data.
    fs::rename(place.path("sorted/b-dark"), place.path("sorted/e-dark")).unwrap();
    let told = complaint(&mut resume(&place.path("halves"), &["--steps=1501"]), 1);
    assert!(told.contains("sorted"), "{told}");
    let few = complaint(&mut command("few", &["--steps=1", "--set=data.classes=2"]), 1);
    assert!(few.contains("data.classes is 2, but its labels are 0, 1, 2"), "{few}");
}

#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let place = Place::new();
    let straight = place.train("straight", WGAN, &["--steps=120"]);
    for (name, every, sign) in
        [("before", "--checkpoint-every=120", "stats.jsonl"), ("after", "--checkpoint-every=10", "checkpoints/latest")]
    {
        let mut child = place.spawn(name, WGAN, &["--steps=120", every, "--set=output.log_every={ steps = 1 }"]);
        let run = place.path(name);
        wait_for(&run.join(sign));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!run.join("generator.onnx").exists(), "it was done before it was killed");
        assert_eq!(run.join("checkpoints/latest").exists(), name == "after");
        // As a crash of the machine may leave it: a line cut off, a half-written checkpoint.
        let mut log = fs::read(run.join("stats.jsonl")).unwrap();
        log.extend(b"{\"step\": 39");
        fs::write(run.join("stats.jsonl"), log).unwrap();
        fs::create_dir_all(run.join("checkpoints/.partial-00000119")).unwrap();
        fs::write(run.join("checkpoints/.ganforge-aBc123"), "000").unwrap();
        resume(&run, &[]).assert().success();
        assert_same(name, &straight, &run);
        assert_eq!(records(&run).iter().map(|record| record.step).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
        assert!(names(&run.join("checkpoints")).iter().all(|name| !name.starts_with('.')));
    }
}

/// In bf16 as in f32: the same bytes whatever the number of threads and wherever it was interrupted. It goes on in bf16 until asked for
/// another precision.
#[test]
fn runs_in_bf16_end_in_the_same_bytes() {
    if !crate::bf16::is_there() {
        return;
    }
    const BF16: &str = "--precision=bf16";
    let place = Place::new();
    for (name, system) in [("wide", WIDE), ("convolutional", CONVOLUTIONAL), ("dropout", DROPOUT), ("wgan", WGAN)] {
        let straight = place.train(&format!("{name}-straight"), system, &[BF16, "--steps=7"]);
        let plain = place.train(&format!("{name}-f32"), system, &["--steps=7"]);
        assert_ne!(
            result(&straight)["checkpoints/00000007/critic.safetensors"],
            result(&plain)["checkpoints/00000007/critic.safetensors"]
        );
        let resumed = place.path(&format!("{name}-resumed"));
        let mut begin = place.command(&format!("{name}-resumed"), system, &[BF16, "--steps=3"]);
        begin.env("RAYON_NUM_THREADS", "1").assert().success();
        resume(&resumed, &["--steps=7"]).env("RAYON_NUM_THREADS", "3").assert().success();
        assert_same(name, &straight, &resumed);
        // In another precision only on purpose.
        let config = |run: &Path| fs::read_to_string(run.join("config.toml")).unwrap();
        assert!(config(&resumed).contains("precision = \"bf16\""));
        resume(&resumed, &["--steps=9", "--precision=f32"]).assert().success();
        assert!(config(&resumed).contains("precision = \"f32\""));
        resume(&straight, &["--steps=9"]).assert().success();
        assert_ne!(
            result(&straight)["checkpoints/00000009/critic.safetensors"],
            result(&resumed)["checkpoints/00000009/critic.safetensors"]
        );
    }
}

#[test]
fn a_run_in_bf16_that_is_killed_ten_times_ends_in_the_same_bytes() {
    if crate::bf16::is_there() {
        kill_ten_times(WIDE, &["--precision=bf16"]);
    }
}

/// While learning rates, β₂, penalty, augmentation and the average's half-life change.
#[test]
fn a_run_with_every_ramp_that_is_killed_ten_times_ends_in_the_same_bytes() {
    const LONG: &str = "--set=schedule.ramp={ over = { images = 2400 }, beta2_to = 0.9, penalty_to = 0.2, augment_to = 0.8, ema_half_life_to = 100 }";
    kill_ten_times(RAMPED, &[LONG]);
}

fn kill_ten_times(system: System, more: &[&str]) {
    let flags = [&["--steps=200", "--checkpoint-every=4", "--set=output.log_every={ steps = 1 }"], more].concat();
    let place = Place::new();
    let straight = place.train("straight", system, &flags);
    let run = place.path("killed");
    let mut chance = Stream::at(5, Purpose::Latent, 0);
    for kill in 0..10 {
        let mut child = match kill {
            0 => place.spawn("killed", system, &flags),
            _ => {
                let mut command = std::process::Command::new(PROGRAM);
                command
                    .args(["--device=cpu", "--quiet", "--resume"])
                    .arg(&run)
                    .env("ORT_DYLIB_PATH", crate::infer::runtime_path());
                command.stderr(Stdio::piped()).spawn().unwrap()
            }
        };
        // Somewhere within the next fifteen steps.
        let step = 15 * kill + 1 + u64::from(chance.bits()) % 15;
        let begun = Instant::now();
        while !run.join("stats.jsonl").exists() || records(&run).last().is_none_or(|record| record.step < step) {
            assert!(begun.elapsed() < Duration::from_secs(120), "step {step} does not come");
            assert!(child.try_wait().unwrap().is_none(), "it ended before step {step}");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!run.join("generator.onnx").exists(), "it was done before it was killed");
    }
    resume(&run, &[]).assert().success();
    assert_same("killed", &straight, &run);
}

#[test]
fn a_resume_in_another_precision_is_noted() {
    if !crate::bf16::is_there() {
        return;
    }
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=2", "--precision=bf16"]);
    resume(&run, &["--steps=3"]).assert().success();
    assert!(!run.join("changes.jsonl").exists());
    resume(&run, &["--steps=4", "--precision=f32"]).assert().success();
    let noted = std::fs::read_to_string(run.join("changes.jsonl")).unwrap();
    assert_eq!(noted.lines().count(), 1, "{noted}");
    assert!(noted.contains("schedule.precision") && noted.contains("bf16"), "{noted}");
}

#[test]
fn sigterm_saves_and_exports() {
    let place = Place::new();
    let mut child = place.spawn("run", WGAN, &["--steps=1000000", "--set=output.log_every={ steps = 1 }"]);
    let run = place.path("run");
    wait_for(&run.join("stats.jsonl"));
    // Twice, as `timeout` does: it signals the process, then its group.
    let id = child.id().to_string();
    std::process::Command::new("kill").args(["-TERM", &id, &id]).status().unwrap();
    let status = child.wait().unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    let once = said
        .matches("stopping: the step at hand is finished, then the run is saved and exported; a second Ctrl-C leaves at once");
    assert_eq!(once.count(), 1, "{said}");
    assert!(said.contains("interrupted: saved and exported") && said.contains("gan-train --resume"), "{said}");

    let step = state(&run).step;
    assert!((1..1_000_000).contains(&step));
    check_sheet(&run, &format!("{step:08}.png"), 16, 4);
    assert!(run.join("curves.png").exists());
    let more = (step + 4).to_string();
    resume(&run, &["--steps", &more]).assert().success();
    assert_same("after SIGTERM", &place.train("straight", WGAN, &["--steps", &more]), &run);
}

#[test]
fn the_seed_decides_and_the_number_of_threads_does_not() {
    let place = Place::new();
    const FULL: System = &["--preset=gan-fashion-mlp", "--batch-size=50", "--set=output.samples=4"];
    let systems = [("convolutional", CONVOLUTIONAL), ("dropout", DROPOUT), ("wgan", WGAN), ("full", FULL), ("ramped", RAMPED)];
    for (name, system) in systems {
        let run = |suffix: &str, threads: &str, flags: &[&str]| {
            let name = format!("{name}-{suffix}");
            let flags = [&["--steps=3"], flags].concat();
            place.command(&name, system, &flags).env("RAYON_NUM_THREADS", threads).assert().success();
            place.path(&name)
        };
        let first = run("first", "2", &[]);
        assert_same(&format!("{name}, again"), &first, &run("again", "2", &[]));
        assert_same(&format!("{name}, on one thread"), &first, &run("one", "1", &[]));
        assert_same(&format!("{name}, on five threads"), &first, &run("five", "5", &[]));
        let (first, other) = (result(&first), result(&run("other", "2", &["--seed=1"])));
        for (file, bytes) in first.iter().filter(|(file, _)| !file.ends_with("state.json")) {
            assert!(*bytes != other[file], "{name}: {file} does not depend on the seed");
        }
    }
}

#[test]
fn totals_are_honoured() {
    let place = Place::new();
    for (name, total, steps, images) in [("a", "--images=60", 5, 66), ("b", "--epochs=2", 8, 100), ("c", "--steps=5", 5, 66)] {
        let state = state(&place.train(name, DROPOUT, &[total]));
        assert_eq!((state.step, state.images), (steps, images), "{total}");
    }
    // Totals, not additions: also with --resume, and counted from the beginning.
    for (total, steps, images) in
        [("--images=101", 9, 116), ("--epochs=3", 12, 150), ("--steps=13", 13, 166), ("--epochs=2", 13, 166)]
    {
        resume(&place.path("a"), &[total]).assert().success();
        let state = state(&place.path("a"));
        assert_eq!((state.step, state.images), (steps, images), "{total}");
    }
    // Five critic steps a generator step, batches of 8: seven an epoch.
    let state = state(&place.train("wgan", WGAN, &["--epochs=2"]));
    assert_eq!((state.step, state.critic_optimizer_steps, state.images), (3, 15, 108));
}

#[test]
fn the_newest_checkpoints_stay() {
    let place = Place::new();
    let run = place.train("run", WGAN, &["--steps=6", "--checkpoint-every=1", "--set=output.keep_checkpoints=3"]);
    let kept = |run: &Path| names(&run.join("checkpoints"));
    assert_eq!(kept(&run), set(["00000004", "00000005", "00000006", "best", "latest"]));

    // Back to an earlier one: what is saved from there on is never what is removed.
    let one = place.train("one", WGAN, &["--steps=9", "--checkpoint-every=1", "--set=output.keep_checkpoints=1"]);
    let copy = |from: &Path, to: &Path| {
        fs::create_dir(to).unwrap();
        names(from).iter().for_each(|name| assert!(fs::copy(from.join(name), to.join(name)).unwrap() > 0));
    };
    copy(&run.join("checkpoints/00000004"), &one.join("checkpoints/00000004"));
    fs::write(one.join("checkpoints/latest"), "00000004\n").unwrap();
    resume(&one, &["--steps=6"]).assert().success();
    assert_eq!(kept(&one), set(["00000006", "00000009", "best", "latest"]));
    assert_same("from an earlier checkpoint", &run, &one);
    resume(&one, &["--steps=10"]).assert().success();
    assert_eq!(kept(&one), set(["00000010", "best", "latest"]));
}

/// A start writes what the classes are called into the config of its folder: the same call must still take it up.
#[test]
fn a_killed_start_with_named_classes_is_taken_up() {
    let place = Place::new();
    let mut config = TrainConfig::preset("dcgan-28").unwrap();
    let run = place.path("run");
    drop(RunFolder::create(&run, &config).unwrap());
    let named = |names: [&str; 2]| {
        let mut table = config::preset_table("dcgan-28").unwrap();
        config::set(&mut table, "data.classes=2").unwrap();
        config::set(&mut table, &format!("data.class_names={names:?}")).unwrap();
        TrainConfig::from_table(table, "it").unwrap()
    };
    fs::write(run.join("config.toml"), named(["a", "b"]).to_toml().unwrap()).unwrap();
    assert!(RunFolder::check_new(&run, &config).is_err(), "another config");
    config = named(["a", "b"]);
    config.data.class_names.clear();
    RunFolder::check_new(&run, &config).unwrap();
    assert!(RunFolder::check_new(&run, &named(["b", "a"])).is_err(), "names that somebody asked for");
}
