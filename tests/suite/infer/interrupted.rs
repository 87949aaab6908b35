//! Jobs that are stopped, killed, gone on with, or meet a full disk and what others left.

use super::*;

#[test]
fn stopped_work_leaves_no_file() {
    let generator = open(SEALED, small_batches()).unwrap();
    let folder = tempdir().unwrap();
    let job = SamplingJob::new(Provider::Cpu).threads(2).encoders(0);
    for format in [Format::Png, Format::Npy, Format::Npz, Format::Tar, Format::Grid] {
        let out = folder.path().join(format.name());
        let plan = plan(format, &out, 100, Existing::Refuse);
        let stopped = pipeline::run(&generator, &job, &plan, &Silent, &AtomicBool::new(true));
        assert!(message(stopped).contains("interrupted: 0 of 100 images"));
        assert_eq!(contents(&out).len(), 0);
        let done = pipeline::run(&generator, &job, &plan, &Silent, &AtomicBool::new(false)).unwrap();
        assert_eq!(done.images, 100);
    }
}

#[test]
fn what_is_there_is_not_overwritten() {
    let folder = tempdir().unwrap();
    let out = folder.path();
    sample(out, &["--n", "3", "--start", "4"]).assert().success();
    fs::write(out.join("000004.png"), "mine").unwrap();
    sample(out, &["--n", "5"]).assert().code(2).stderr(contains("holds 1 of these images").and(contains("--force")));
    assert_eq!(fs::read(out.join("000004.png")).unwrap(), b"mine");
    assert!(!out.join("000000.png").exists());
    sample(out, &["--n", "4"]).assert().success();
    sample(out, &["--n", "5", "--force"]).assert().success();
    assert_ne!(fs::read(out.join("000004.png")).unwrap(), b"mine");
    for format in ["npy", "npz", "tar", "grid"] {
        let out = &out.join(format);
        sample(out, &["--n", "5", "--format", format]).assert().success();
        sample(out, &["--n", "5", "--format", format]).assert().code(2).stderr(contains("already"));
        sample(out, &["--n", "5", "--format", format, "--force"]).assert().success();
    }
}

#[test]
fn a_wrong_out_is_refused_before_any_work() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for format in ["png", "npy", "grid"] {
        sample(&file, &["--n", "5", "--format", format]).assert().code(1).stderr(contains("file is where a folder should be"));
        sample(&file.join("below"), &["--n", "5", "--format", format]).assert().code(1).stderr(contains("error: cannot"));
    }
    sample(&folder.path().join("a.png"), &["--n", "5", "--format", "png"]).assert().code(2).stderr(contains("--format grid"));
    sample(&folder.path().join("a.npy"), &["--n", "5", "--format", "grid"]).assert().code(2);
    assert_eq!(contents(folder.path()).len(), 1);
}

/// How often each job is killed: `GANFORGE_KILLS`, or a few times.
#[cfg(unix)]
fn kills() -> u64 {
    std::env::var("GANFORGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Kills `gan-infer` at any moments, goes on with `--resume`, each time with another number of threads, and says how many kills
/// hit a job that had done something since the one before. Two of three kills come once something of this turn is done, the third
/// wherever it hits.
#[cfg(unix)]
fn killed_and_resumed(out: &Path, flags: &[&str]) -> u64 {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    let mut random = ChaCha8Rng::seed_from_u64(7);
    // Bytes of the journal, with which every finished piece adds to it.
    let noted = || {
        let mut all = fs::read_dir(out).into_iter().flatten().flatten();
        let journal = all.find(|entry| entry.file_name().to_string_lossy().ends_with(".journal"));
        journal.and_then(|journal| journal.metadata().ok()).map_or(0, |journal| journal.len())
    };
    let mut amid = 0;
    for turn in 0..kills() {
        let before = noted();
        let threads = (turn % 4 + 1).to_string();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"))
            .env("ORT_DYLIB_PATH", runtime_path())
            .args(["--provider", "cpu", "--batch", "8", "--quiet", "--resume", "--threads", &threads, "--model"])
            .arg(golden(SEALED))
            .arg("--out")
            .arg(out)
            .args(flags)
            .spawn()
            .unwrap();
        while turn % 3 < 2 && noted() <= before && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // Early ones are as frequent as late ones.
        let wait = 2f64.powf(f64::from(random.next_u32()) / f64::from(u32::MAX) * 13.0) * 6.0;
        std::thread::sleep(std::time::Duration::from_micros(wait as u64));
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        amid += u64::from(alive && noted() > before);
    }
    sample(out, &[flags, &["--resume"]].concat()).assert().success();
    amid
}

/// Makes a job of a format whole in one folder and amid kills in another, of at least so many images: more where a fast disk or a
/// busy machine lets the job end before most kills hit it. Returns the number of images.
#[cfg(unix)]
fn whole_and_killed(whole: &Path, killed: &Path, format: &str, at_least: u64) -> String {
    let enough = (kills() / 3).max(1);
    for n in [1, 3, 9].map(|more| at_least * more) {
        let flags = ["--n", &n.to_string(), "--format", format, "--start", "3"];
        sample(whole, &flags).assert().success();
        let amid = killed_and_resumed(killed, &flags);
        println!("{format}: {amid} of {} kills hit a job of {n} images that had done something since the one before", kills());
        assert!(contents(killed) == contents(whole), "{format}");
        if amid >= enough {
            return n.to_string();
        }
        fs::remove_dir_all(whole).unwrap();
        fs::remove_dir_all(killed).unwrap();
    }
    panic!("{format}: fewer than {enough} kills hit a job that had done something since the one before");
}

#[test]
#[cfg(unix)]
fn a_killed_job_goes_on_where_it_was() {
    let folder = tempdir().unwrap();
    for (format, n) in [("png", 1500), ("npy", 70_000), ("npz", 70_000), ("tar", 10_000)] {
        let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(format!("{format}-{name}")));
        let n = &whole_and_killed(&whole, &killed, format, n * kills());
        let flags = ["--n", n, "--format", format, "--start", "3"];
        // Once more is no work, and no error; but what is not there any more is made again.
        sample(&killed, &[&flags[..], &["--resume"]].concat()).assert().success().stderr(contains("0 images in"));
        let renamed = folder.path().join("other-name.onnx");
        fs::copy(golden(SEALED), &renamed).unwrap();
        let mut again = gan_infer();
        again
            .args(["--provider", "cpu", "--batch", "8", "--resume", "--model"])
            .arg(&renamed)
            .arg("--out")
            .arg(&killed)
            .args(flags);
        again.assert().success();
        let lost = contents(&killed).into_keys().find(|name| name.extension().is_some_and(|ending| ending == format)).unwrap();
        fs::remove_file(killed.join(&lost)).unwrap();
        sample(&killed, &[&flags[..], &["--resume"]].concat())
            .assert()
            .success()
            .stderr(contains("says that the job is done, but"));
        assert!(contents(&killed) == contents(&whole), "{format}");
        sample(&killed, &["--n", n, "--format", format, "--start", "3", "--seed", "1", "--resume"])
            .assert()
            .code(2)
            .stderr(contains("seed"));
    }
}

/// What is overwritten, or was overwritten in part, is never taken for what was there before.
#[test]
fn force_forgets_what_was_there() {
    let folder = tempdir().unwrap();
    let (png, npy) = (folder.path().join("png"), folder.path().join("npy"));
    sample(&png, &["--n", "30"]).assert().success();
    let manifest = fs::read(png.join("manifest.json")).unwrap();
    sample(&png, &["--n", "30", "--seed", "1", "--force"]).assert().success();
    assert_ne!(fs::read(png.join("manifest.json")).unwrap(), manifest);
    sample(&png, &["--n", "30", "--resume"]).assert().code(2).stderr(contains("its seed is 1"));

    // An unfinished file of another length under the name of a new one.
    sample(&npy, &["--n", "9", "--format", "npy"]).assert().success();
    let whole = contents(&npy);
    let header = fs::read_to_string(npy.join("samples.npy.json")).unwrap();
    let mut identity: serde_json::Value = serde_json::from_str(&header).unwrap();
    for key in ["bytes", "count", "file", "pixels_crc32"] {
        identity.as_object_mut().unwrap().remove(key);
    }
    fs::remove_file(npy.join("samples.npy")).unwrap();
    fs::remove_file(npy.join("samples.npy.json")).unwrap();
    fs::write(npy.join(".samples.npy.json.journal"), format!("{identity}\n")).unwrap();
    fs::write(npy.join(".samples.npy.json.part"), vec![7; 100_000]).unwrap();
    sample(&npy, &["--n", "9", "--format", "npy", "--resume"]).assert().success();
    assert!(contents(&npy) == whole);
}

#[test]
fn too_much_is_refused() {
    let folder = tempdir().unwrap();
    let much = ["--n", "9223372036854775807"];
    for format in ["npy", "npz"] {
        let refused = sample(&folder.path().join(format), &[&much[..], &["--format", format]].concat()).assert().code(2);
        refused.stderr(contains("more than one file can hold"));
        assert!(!folder.path().join(format).exists());
    }
}

#[test]
#[cfg(unix)]
fn a_job_at_work_is_left_alone() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "1000000000"];
    let mut first = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"))
        .env("ORT_DYLIB_PATH", runtime_path())
        .args(["--quiet", "--model"])
        .arg(golden(SEALED))
        .arg("--out")
        .arg(folder.path())
        .args(flags)
        .spawn()
        .unwrap();
    while !folder.path().join("000999.png").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for other in ["--resume", "--force"] {
        sample(folder.path(), &[&flags[..], &[other]].concat()).assert().code(2).stderr(contains("is locked"));
    }
    sample(folder.path(), &flags).assert().code(2).stderr(contains("unfinished job"));
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
#[cfg(unix)]
fn full_and_closed_places_say_so() {
    let folder = tempdir().unwrap();
    let shell = |limit: &str, flags: &str| {
        let mut shell = Command::new("bash");
        let program = env!("CARGO_BIN_EXE_gan-infer");
        let model = golden(SEALED).display().to_string();
        let out = folder.path().display();
        shell.env("ORT_DYLIB_PATH", runtime_path());
        shell.args([
            "-c",
            &format!("{limit}; '{program}' --provider cpu --batch 8 --quiet --model '{model}' --out '{out}' {flags}"),
        ]);
        shell.assert()
    };
    // A file may have 4 blocks of 1024 bytes; SIGXFSZ is for those who do not look at errors.
    let whole = folder.path().join("whole");
    sample(&whole, &["--n", "3000", "--format", "npy"]).assert().success();
    shell("trap '' XFSZ; ulimit -f 4", "--n 3000 --format npy")
        .code(1)
        .stderr(contains("cannot write").and(contains("samples.npy")));
    shell("true", "--n 3000 --format npy --resume").success();
    assert_eq!(fs::read(folder.path().join("samples.npy")).unwrap(), fs::read(whole.join("samples.npy")).unwrap());
    // Beside the libraries' there is a handle for one PNG file, and four threads want one.
    let starved = shell("ulimit -n 5", "--n 4000 --threads 4").code(1);
    let told = String::from_utf8_lossy(&starved.get_output().stderr).into_owned();
    assert!(told.contains("error: ") && !told.contains("panicked"), "{told}");
    shell("true", "--n 4000 --resume").success();
    assert_eq!(images_in(folder.path()).len(), 4000);
}

/// A file system of its own, seen by one shell only: too small for the job at first, then read-only, then large enough.
#[test]
#[cfg(target_os = "linux")]
fn a_full_or_read_only_disk_breaks_nothing() {
    let private = ["--map-root-user", "--mount"];
    let folder = tempdir().unwrap();
    let mut probe = std::process::Command::new("unshare");
    probe.args(private).args(["mount", "-t", "tmpfs", "-o", "size=300k", "none"]).arg(folder.path());
    if !probe.status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: this machine lets nobody mount a file system of his own (unshare --map-root-user --mount)");
    }
    let script = r#"
        mkdir disk && mount -t tmpfs -o size=300k none disk || exit 7
        "$@" --out disk/job 2> full; echo $? >> full
        mount -o remount,ro,size=300k disk
        "$@" --out disk/job --resume 2> read-only; echo $? >> read-only
        "$@" --out disk/other 2>> read-only; echo $? >> read-only
        mount -o remount,rw,size=100m disk
        "$@" --out disk/job --resume && cp -r disk/job made"#;
    for (format, n) in [("png", "2000"), ("npy", "20000"), ("npz", "20000"), ("tar", "3000")] {
        let [work, whole] = ["work", "whole"].map(|name| folder.path().join(format!("{format}-{name}")));
        fs::create_dir(&work).unwrap();
        let flags = ["--n", n, "--format", format];
        sample(&whole, &flags).assert().success();
        let mut shell = Command::new("unshare");
        shell.env("ORT_DYLIB_PATH", runtime_path()).current_dir(&work).args(private).args(["bash", "-c", script, "bash"]);
        shell.arg(env!("CARGO_BIN_EXE_gan-infer")).args(["--provider", "cpu", "--batch", "8", "--quiet", "--model"]);
        shell.arg(golden(SEALED)).args(flags).assert().success();
        assert!(contents(&work.join("made")) == contents(&whole), "{format}");
        let told = |name: &str| fs::read_to_string(work.join(name)).unwrap();
        let (full, read_only) = (told("full"), told("read-only"));
        let (begun, refused) =
            (full.contains("cannot write disk/job/") && full.contains("No space left"), full.contains("are free where it is"));
        // What has a size that is known is not even begun.
        assert!((if matches!(format, "npy" | "npz") { refused } else { begun }) && full.ends_with("\n1\n"), "{full}");
        assert_eq!(read_only.matches("Read-only file system").count(), 2, "{read_only}");
        assert!(read_only.contains("disk/other") && read_only.lines().filter(|line| *line == "1").count() == 2, "{read_only}");
    }
}

#[test]
fn another_job_or_a_damaged_journal_is_refused() {
    let folder = tempdir().unwrap();
    let out = folder.path();
    let generator = open(SEALED, small_batches()).unwrap();
    let job = SamplingJob::new(Provider::Cpu).threads(1).encoders(0);
    // A job whose second subfolder cannot be made.
    fs::write(out.join("010000"), "").unwrap();
    let begun = plan(Format::Png, out, 10_100, Existing::Refuse);
    let failed = pipeline::run(&generator, &job, &begun, &Silent, &AtomicBool::new(false));
    assert!(message(failed).contains("010000"));
    let whole = images_in(out).len();
    assert!(whole >= 9_900, "{whole}");
    let flags = ["--n", "10100"];
    sample(out, &flags).assert().code(2).stderr(contains("unfinished job").and(contains("--resume")));
    let resume = |flags: &[&str]| sample(out, &[flags, &["--resume"]].concat());
    for (flags, says) in [
        (&["--n", "10101"][..], "its n is 10100, this call's is 10101"),
        (&["--n", "10100", "--seed", "1"], "its seed is 0"),
        (&["--n", "10100", "--batch", "4"], "its batch is 8"),
        (&["--n", "10100", "--truncation", "1"], "its truncation is null"),
    ] {
        resume(flags).assert().code(2).stderr(contains(says));
    }
    resume(&flags).assert().code(1).stderr(contains("010000"));
    let journal = out.join(".manifest.json.journal");
    let text = fs::read_to_string(&journal).unwrap();
    let header = text.lines().next().unwrap();
    for damage in [format!("no {text}"), text.replacen("\"seed\":0", "\"seed\":1", 1)] {
        fs::write(&journal, damage).unwrap();
        resume(&flags).assert().code(1).stderr(contains("first line is damaged").and(contains("--force")));
    }
    // Lines that do not vouch for themselves count for nothing.
    for line in ["5 5 00000000 1 00000000", "50 x", "20000 8 00000000 1 00000000 00000000", "0 256 00000000 99 00000000"] {
        fs::write(&journal, format!("{header}\n{line}\n")).unwrap();
        resume(&flags).assert().code(1).stderr(contains("0 images are kept").and(contains("010000")));
    }
    // A line that was being written counts for nothing; nor does a journal that had no line yet.
    fs::remove_file(out.join("010000")).unwrap();
    fs::write(&journal, format!("{header}\n0 256 0000")).unwrap();
    resume(&flags).assert().success();
    assert_eq!(images_in(out).len(), 10_100);
    assert!(!journal.exists());
    let fresh = folder.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    fs::write(fresh.join(".manifest.json.journal"), &header[..20]).unwrap();
    sample(&fresh, &["--n", "30", "--resume"]).assert().success();
    assert_eq!(contents(&fresh).len(), 31);
}

#[test]
#[cfg(unix)]
fn ctrl_c_leaves_whole_images_only() {
    let folder = tempdir().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"))
        .env("ORT_DYLIB_PATH", runtime_path())
        .args(["--n", "1000000000", "--model"])
        .arg(golden(SEALED))
        .arg("--out")
        .arg(folder.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let first = folder.path().join("001000.png");
    let waiting = std::time::Instant::now();
    while !first.exists() && waiting.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    let mut error = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut error).unwrap();
    assert_eq!(status.code(), Some(1), "{error}");
    let files = images_in(folder.path());
    let said = "\nstopping: the batches at hand are finished, and what is whole stays; a second Ctrl-C leaves at once\n";
    assert_eq!(error.matches(said).count(), 1, "{error}");
    let told =
        error.split_once("error: interrupted: ").and_then(|(_, rest)| rest.split_once(" of 1000000000 images are whole"));
    let told: usize = told.unwrap_or_else(|| panic!("{error}")).0.parse().unwrap();
    // A piece that was not finished does not count, but its images are whole, too.
    assert!((1..=files.len()).contains(&told), "{told} {}", files.len());
    for (name, bytes) in files {
        image::load_from_memory(&bytes).unwrap_or_else(|e| panic!("{}: {e}", name.display()));
    }
}

/// A measurement that is interrupted leaves nothing of the files that it makes.
#[test]
#[cfg(unix)]
fn a_measurement_that_is_stopped_leaves_nothing() {
    let folder = tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", runtime_path()).arg("bench").arg(golden(SEALED)).arg("--scratch").arg(folder.path());
    command.args(["--provider", "cpu", "--batches", "8", "--threads", "1", "--seconds", "600"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    // The handler of signals is there before the folder of the files.
    while fs::read_dir(folder.path()).unwrap().next().is_none() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("the measurements were stopped"), "{:?}: {said}", ended.status);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
