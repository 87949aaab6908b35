//! `gan-infer` as a program: its answers, wrong calls, and the library that it looks for.

use super::*;

#[test]
fn the_summary_is_one_json_object() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "9", "--start", "1", "--seed", "5", "--json", "--quiet", "--threads", "1"];
    let output = sample(folder.path(), &flags).assert().success().stderr("").get_output().stdout.clone();
    let summary: serde_json::Value = serde_json::from_slice(&output).unwrap();
    for (key, value) in [("count", 9), ("start", 1), ("seed", 5), ("batch", 8), ("threads", 1)] {
        assert_eq!(summary[key], value, "{key}");
    }
    assert_eq!(summary["provider"], "cpu");
    assert_eq!(summary["out"].as_str(), folder.path().to_str());
    assert!(summary["seconds"].as_f64().unwrap() > 0.0 && summary["images_per_second"].as_f64().unwrap() > 0.0);
    sample(folder.path(), &["--n", "1"]).assert().success().stdout("").stderr(contains("1 images in"));
}

#[test]
fn a_wrong_call_leaves_with_2() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    for (flags, says) in [
        (&["--n", "0"][..], "0 is not in 1.."),
        (&["--n", "-1"], "--n"),
        (&[], "--n <N>"),
        (&["--n", "5", "--provider", "gpu"], "expected auto, cpu, cuda[:INDEX]"),
        (&["--n", "5", "--batch", "0"], "0 is not in 1..=4096"),
        (&["--n", "5", "--range", "tanh"], "pixels already"),
        (&["--n", "5", "--start", "18446744073709551615"], "2^63"),
        (&["--n", "5", "--format", "gif"], "possible values: png, npy, npz, tar, grid"),
    ] {
        sample(&out, flags).assert().code(2).stderr(contains(says));
    }
    gan_infer()
        .args(["--n", "5", "--out"])
        .arg(&out)
        .args(["--model", "nonesuch"])
        .assert()
        .code(2)
        .stderr(contains("nonesuch"));
    gan_infer()
        .args(["--n", "5", "--out"])
        .arg(&out)
        .args(["--model", "x.onnx"])
        .assert()
        .code(1)
        .stderr(contains("cannot read x.onnx"));
    assert!(!out.exists());
    if let Some(known) = builtin::BUILTIN.first() {
        let typo = format!("{}x", known.name);
        gan_infer().args(["info", &typo]).assert().code(2).stderr(contains(format!("Did you mean '{}'?", known.name)));
    }
}

#[test]
fn a_runs_folder_stands_for_its_generator() {
    let folder = tempdir().unwrap();
    let run = folder.path().join("run");
    let call = |args: &[&str], flag: Option<&str>| {
        let mut command = gan_infer();
        command.args(args).args(flag).arg(&run).args(["--provider", "cpu"]);
        command
    };
    let make = |out: &str| {
        let mut command = call(&["--n", "3", "--batch", "8"], Some("--model"));
        command.arg("--out").arg(folder.path().join(out));
        command
    };
    fs::create_dir(&run).unwrap();
    fs::write(run.join("config.toml"), "").unwrap();
    make("none").assert().code(2).stderr(contains("is a folder, but not of a run"));
    fs::create_dir(run.join("checkpoints")).unwrap();
    // There may be checkpoints, but there is nothing to sample.
    for mut command in [make("none"), call(&["info"], None), call(&["bench"], None)] {
        let said = command.assert().code(1).stdout("").get_output().stderr.clone();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("run: this run has no generator.onnx yet. Make it with `gan-train export RUN`."), "{said}");
    }
    assert!(!folder.path().join("none").exists());

    fs::copy(golden(SEALED), run.join("generator.onnx")).unwrap();
    let note = || contains("of this run: ").and(contains("run/generator.onnx"));
    make("of-run").assert().success().stderr(note());
    sample(&folder.path().join("of-file"), &["--n", "3"]).assert().success().stderr(note().not());
    assert!(images_in(&folder.path().join("of-run")) == images_in(&folder.path().join("of-file")));
    make("quiet").arg("--quiet").assert().success().stderr("");
    call(&["info"], None).assert().success().stdout(contains("z: f32 [n, 16]")).stderr(note());
    let mut bench = call(&["bench"], None);
    bench.args(["--seconds", "0.01", "--batches", "8", "--threads", "1", "--scratch"]).arg(folder.path());
    bench.assert().success().stdout(contains("the whole")).stderr(note());
    // A built-in generator's name is its own, whatever lies here.
    if let Some(known) = builtin::BUILTIN.first() {
        fs::create_dir_all(folder.path().join(known.name).join("checkpoints")).unwrap();
        fs::write(folder.path().join(known.name).join("config.toml"), "").unwrap();
        assert_eq!(builtin::of_run(known.name).unwrap(), None);
        gan_infer().current_dir(folder.path()).args(["info", known.name]).assert().success().stderr("");
    }
}

#[test]
fn a_damaged_model_is_refused_in_one_paragraph() {
    let folder = tempdir().unwrap();
    let whole = fs::read(golden(SEALED)).unwrap();
    let mut flipped = whole.clone();
    flipped[5_000] ^= 4;
    for (name, bytes, says) in [
        ("empty", &b""[..], "the file is empty"),
        ("text", b"<html>not found</html>\n", "a text file"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("noise", &[0x08, 0xff, 0x03, 0x9c, 0x00, 0x71], "a group begins or ends at byte 3"),
        ("cut", &whole[..whole.len() / 2], "a part of"),
        ("flipped", &flipped, "checksum"),
    ] {
        let path = folder.path().join(format!("{name}.onnx"));
        fs::write(&path, bytes).unwrap();
        let out = folder.path().join("out");
        let run = gan_infer().args(["--n", "1", "--out"]).arg(&out).arg("--model").arg(&path).assert().code(1);
        let error = String::from_utf8(run.get_output().stderr.clone()).unwrap();
        assert!(error.contains(says) && error.contains(path.to_str().unwrap()), "{name}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{name}: {error}");
        assert!(!out.exists());
    }
}

#[test]
fn without_onnxruntime_the_error_says_what_to_do() {
    let (folder, program) = program_alone();
    let bare = |program: &Path| {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", folder.path()).env("PATH", "").arg("runtime");
        command
    };
    let output = bare(&program).arg("--json").output().unwrap();
    if output.status.success() {
        eprintln!("partly skipped: this system has an onnxruntime of its own");
    } else {
        let told = contains("gan-infer runtime install").and(contains("python3: not on the PATH"));
        bare(&program).assert().code(1).stdout("").stderr(told.and(contains("no usable onnxruntime library (1.17 or newer)")));
        bare(&program).env("GANFORGE_HOME", "/elsewhere").assert().code(1).stderr(contains("/elsewhere/onnxruntime"));
    }
    let named = |path: &Path| {
        let mut command = bare(&program);
        command.env("ORT_DYLIB_PATH", path);
        command.assert().code(1).stdout("")
    };
    named(Path::new("/nowhere")).stderr(contains("/nowhere (named by ORT_DYLIB_PATH): no such file"));
    let fakes = folder.path().join("fakes");
    fs::create_dir(&fakes).unwrap();
    named(&fakes).stderr(contains("in it"));
    if cfg!(target_os = "linux") {
        fs::write(fakes.join("libonnxruntime.so"), "not a library").unwrap();
        let mut header = fs::read(&program).unwrap()[..4096].to_vec();
        fs::write(fakes.join("libonnxruntime.so.1.9.0"), &header).unwrap();
        let foreign = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        header[18..20].copy_from_slice(&u16::to_ne_bytes(foreign));
        fs::write(fakes.join("libonnxruntime.so.1.10.0"), &header).unwrap();
        let error = named(&fakes).get_output().stderr.clone();
        let error = String::from_utf8(error).unwrap();
        let at = |text: &str| error.find(text).unwrap_or_else(|| panic!("{text} is not in {error}"));
        // The plain name first, then the newest.
        assert!(at("not a shared library") < at("wrong architecture") && at("wrong architecture") < at("cut short"));
    }
}

#[test]
#[cfg(unix)]
fn onnxruntime_is_found_by_the_rules() {
    let found = runtime::load_from(runtime_path()).unwrap();
    let (folder, program) = program_alone();
    let how = |setting: Option<(&str, &Path)>| {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", folder.path()).env("PATH", "").args(["runtime", "--json"]).envs(setting);
        let output = command.assert().success().get_output().stdout.clone();
        let facts: serde_json::Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(facts["onnxruntime"], found.version);
        facts["onnxruntime.found"].as_str().unwrap().to_string()
    };
    // Copies, which belong to this user as the program does.
    let name = found.path.file_name().unwrap();
    let copy_to = |place: &str| {
        let place = folder.path().join(place);
        fs::create_dir_all(&place).unwrap();
        fs::copy(&found.path, place.join(name)).unwrap();
        place
    };
    assert_eq!(how(Some(("ORT_DYLIB_PATH", &found.path))), "named by ORT_DYLIB_PATH");
    assert_eq!(how(Some(("LD_LIBRARY_PATH", &copy_to("system")))), "the system's libraries");
    copy_to(".local/lib/python3.9/site-packages/onnxruntime/capi");
    assert_eq!(how(None), "Python's site-packages");
    copy_to("home/onnxruntime/onnxruntime/capi");
    assert_eq!(how(Some(("GANFORGE_HOME", &folder.path().join("home")))), "installed by ganforge");
    copy_to("lib");
    assert_eq!(how(Some(("GANFORGE_HOME", &folder.path().join("home")))), "beside the executable");
}

#[test]
fn info_models_and_runtime_answer() {
    let info = |name: &str| {
        let output = gan_infer()
            .args(["info", "--json", "--provider", "cpu"])
            .arg(golden(name))
            .assert()
            .success()
            .get_output()
            .stdout
            .clone();
        serde_json::from_slice::<serde_json::Value>(&output).unwrap()
    };
    let sealed = info(SEALED);
    assert_eq!((&sealed["checksum"], &sealed["contract"]), (&"ok".into(), &true.into()));
    assert_eq!((&sealed["input"], &sealed["output"]), (&"z: f32 [n, 16]".into(), &"image: u8 [n, 8, 6, 3]".into()));
    assert_eq!((&sealed["provider"], &sealed["onnxruntime.providers"][0]), (&"cpu".into(), &"cpu".into()));
    let stranger = info(STRANGER);
    assert_eq!((&stranger["checksum"], &stranger["range"]), (&"none".into(), &serde_json::Value::Null));
    gan_infer().args(["info"]).arg(golden(STRANGER)).assert().success().stdout(contains("--range"));
    let names = gan_infer().args(["models", "--json"]).assert().success().get_output().stdout.clone();
    let names: serde_json::Value = serde_json::from_slice(&names).unwrap();
    assert_eq!(names.as_array().unwrap().len(), builtin::BUILTIN.len());
    gan_infer().arg("runtime").assert().success().stdout(contains("libonnxruntime").or(contains("onnxruntime.dll")));
}

#[test]
fn a_measurement_tells_what_bounds_the_rate() {
    let folder = tempdir().unwrap();
    let bench = |flags: &[&str]| {
        let mut command = gan_infer();
        command.arg("bench").arg(golden(SEALED)).args(["--provider", "cpu", "--seconds", "0.05", "--batches", "1,8"]);
        command.arg("--scratch").arg(folder.path()).args(flags);
        String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
    };
    let report: serde_json::Value = serde_json::from_str(&bench(&["--json"])).unwrap();
    assert_eq!((&report["batch"], &report["provider"]), (&DENSE_BATCH.into(), &"cpu".into()));
    let rate = |value: &serde_json::Value| value["rate"]["median"].as_f64().unwrap();
    for (list, least) in [("network", 2), ("stages", 4), ("whole", 2)] {
        let all = report[list].as_array().unwrap();
        assert!(all.len() >= least && all.iter().all(|one| rate(one) > 0.0), "{list}: {all:?}");
    }
    // Files are the slowest there is for images of 144 bytes.
    assert_eq!(report["whole"][1]["bound_by"], "file creation");
    assert!(rate(&report["whole"][0]) > rate(&report["whole"][1]));
    assert!(bench(&["--threads", "1"]).contains("batch    8,  1 sessions"));
    assert_eq!(contents(folder.path()).len(), 0);
    gan_infer().args(["bench", "--seconds", "0"]).assert().code(2);
}

/// Stages are measured by themselves, before the whole, and a disk may be slower then: nothing is 399 % of what is possible.
#[test]
fn a_whole_that_is_faster_than_its_stages_is_no_percentage() {
    use ganforge::infer::bench::{BenchReport, Rate, Whole};
    let rate = Rate { median: 1.0, least: 1.0, most: 1.0 };
    let whole = |of_possible| Whole { format: "png", rate, of_possible, bound_by: "file creation" };
    let report = |of_possible| BenchReport {
        model: "it".to_string(),
        provider: "cpu".to_string(),
        precision: "f32",
        precisions: Vec::new(),
        batch: 1,
        threads: 1,
        network: Vec::new(),
        stages: Vec::new(),
        whole: vec![whole(of_possible)],
    };
    assert!(report(0.714).to_string().contains(": 71 % of what its stages allow, most of its time file creation"));
    assert!(report(1.0).to_string().contains(": 100 % of what"));
    let faster = report(3.99).to_string();
    let said = ": faster than its stages were alone, for the disk's rate changes, most of its time file creation";
    assert!(faster.contains(said) && !faster.contains('%'), "{faster}");
}

#[test]
#[cfg(unix)]
fn a_closed_stdout_is_no_panic() {
    let command = format!("'{}' info '{}' | true", env!("CARGO_BIN_EXE_gan-infer"), golden(SEALED).display());
    let mut shell = Command::new("bash");
    shell.env("ORT_DYLIB_PATH", runtime_path()).args(["-c", &format!("set -o pipefail; {command}")]);
    shell.assert().success().stderr("");
}
