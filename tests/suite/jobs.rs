//! What a job of `gan-infer` promises about its folder: what is called done is there, whatever happened in between; nothing planted
//! in the folder leads a write elsewhere; two jobs do not mix.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::tempdir;

use crate::infer::{contents, golden, runtime_path, sample};

const FORMATS: [&str; 4] = ["png", "npy", "npz", "tar"];
const MODEL: &str = "sealed.onnx";

/// How often jobs are killed: `GANFORGE_KILLS`, or a few times.
fn kills() -> u64 {
    std::env::var("GANFORGE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

fn below(random: &mut ChaCha8Rng, end: u64) -> u64 {
    random.next_u64() % end.max(1)
}

/// A job in a process of its own.
fn start(out: &Path, flags: &[&str]) -> Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", runtime_path()).args(["--provider", "cpu", "--batch", "8", "--model"]).arg(golden(MODEL));
    command.arg("--out").arg(out).args(flags).stderr(Stdio::piped()).spawn().unwrap()
}

fn told(mut child: Child) -> (Option<i32>, String) {
    let status = child.wait().unwrap();
    let mut error = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut error).unwrap();
    (status.code(), error)
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(300), "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn journal_of(out: &Path) -> Option<PathBuf> {
    let mut all = fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.path());
    all.find(|path| path.extension().is_some_and(|ending| ending == "journal"))
}

/// Lines of finished pieces.
fn pieces_in(out: &Path) -> usize {
    let text = journal_of(out).and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().filter(|line| line.split(' ').count() == 6 && !line.starts_with('{')).count()
}

/// Kills a job once it has noted something, or at its end.
fn kill_amid(mut child: Child, out: &Path) {
    wait_for("a note in the journal", || pieces_in(out) > 0 || child.try_wait().unwrap().is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Deletes, empties, cuts off or changes a file.
fn damage(path: &Path, random: &mut ChaCha8Rng) {
    let mut bytes = fs::read(path).unwrap();
    let at = below(random, bytes.len() as u64) as usize;
    match below(random, 4) {
        0 => return fs::remove_file(path).unwrap(),
        1 => bytes.clear(),
        2 => bytes.truncate(at),
        _ if bytes.is_empty() => {}
        _ => bytes[at] ^= 1 << below(random, 8),
    }
    fs::write(path, bytes).unwrap();
}

/// Any file below a folder that holds images; not those that tell of the job, which others damage.
fn some_file(out: &Path, random: &mut ChaCha8Rng) -> Option<PathBuf> {
    let tells = |name: &Path| [".journal", ".json"].iter().any(|end| name.to_string_lossy().ends_with(end));
    let names: Vec<PathBuf> = contents(out).into_keys().filter(|name| !tells(name)).collect();
    names.get(below(random, names.len() as u64) as usize).map(|name| out.join(name))
}

/// Each time a job is killed, some of its files are damaged before it is resumed; in the end all is as if nothing had happened.
#[test]
fn what_was_damaged_is_made_again() {
    let folder = tempdir().unwrap();
    for (format, n) in [("png", 3000), ("npy", 60_000), ("npz", 60_000), ("tar", 4000)] {
        let [whole, killed] = ["whole", "killed"].map(|name| folder.path().join(format!("{format}-{name}")));
        let n = &(n * kills()).to_string();
        let flags = ["--n", n, "--format", format, "--start", "950"];
        sample(&whole, &flags).assert().success();
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let mut noticed = 0;
        for turn in 0..kills() {
            let threads = (turn % 3 + 1).to_string();
            let mut child = start(&killed, &[&flags[..], &["--resume", "--threads", &threads]].concat());
            let before = pieces_in(&killed);
            wait_for("a note", || pieces_in(&killed) > before || child.try_wait().unwrap().is_some());
            std::thread::sleep(Duration::from_millis(below(&mut random, 60)));
            child.kill().unwrap();
            noticed += u64::from(told(child).1.contains("made again"));
            for _ in 0..=below(&mut random, 3) {
                if let Some(file) = some_file(&killed, &mut random) {
                    damage(&file, &mut random);
                }
            }
        }
        sample(&killed, &[&flags[..], &["--resume"]].concat()).assert().success();
        assert!(contents(&killed) == contents(&whole), "{format}");
        println!("{format}: {noticed} of {} resumed jobs said that they made something again", kills());
    }
}

/// Whatever becomes of a journal, what it does not vouch for any more is made again, or the job is refused.
#[test]
fn a_damaged_journal_is_not_believed() {
    let folder = tempdir().unwrap();
    for format in FORMATS {
        let n = if format == "png" || format == "tar" { "5000" } else { "100000" };
        let [whole, begun, copy] = ["whole", "begun", "copy"].map(|name| folder.path().join(format!("{format}-{name}")));
        let flags = ["--n", n, "--format", format];
        sample(&whole, &flags).assert().success();
        kill_amid(start(&begun, &[&flags[..], &["--threads", "1"]].concat()), &begun);
        let Some(journal) = journal_of(&begun) else { continue }; // it was faster than its killer
        let text = fs::read(&journal).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut refused = 0;
        for turn in 0..12 {
            let _ = fs::remove_dir_all(&copy);
            std::process::Command::new("cp").arg("-a").arg(&begun).arg(&copy).status().unwrap();
            let mut damaged = text.clone();
            let at = below(&mut random, damaged.len() as u64) as usize;
            let len = (below(&mut random, 90) as usize).min(damaged.len() - at);
            match turn % 6 {
                0 => damaged[at] ^= 1 << below(&mut random, 7),
                1 => drop(damaged.drain(at..at + len)),
                2 => damaged.truncate(at),
                3 => damaged.extend_from_slice(&text[text.len() - len.max(1)..]),
                4 => damaged[at..at + len].fill(b'0' + turn as u8 % 10),
                _ => {
                    // Another number of images in a line, and a file that the line speaks of is gone.
                    let line = String::from_utf8_lossy(&text).lines().find(|line| line.starts_with("0 ")).map(str::to_string);
                    let Some(line) = line else { continue };
                    let other = line.replacen(' ', " 1", 1);
                    damaged = String::from_utf8_lossy(&text).replace(&line, &other).into_bytes();
                    if let Some(file) = some_file(&copy, &mut random) {
                        fs::remove_file(file).unwrap();
                    }
                }
            }
            let name = journal.file_name().unwrap();
            fs::write(copy.join(name), damaged).unwrap();
            let output = sample(&copy, &[&flags[..], &["--resume"]].concat()).output().unwrap();
            match output.status.code() {
                Some(0) => assert!(contents(&copy) == contents(&whole), "{format} {turn}"),
                code => {
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(matches!(code, Some(1 | 2)) && said.contains("--force"), "{format} {turn}: {said}");
                    refused += 1;
                }
            }
        }
        println!("{format}: {refused} of 12 damaged journals were refused, the others made good");
    }
}

/// A finished job that is not as its manifest says is mended, and says so.
#[test]
fn a_finished_job_is_looked_at_again() {
    let folder = tempdir().unwrap();
    for (format, lost) in [("png", "1000"), ("npy", "2500"), ("npz", "2500"), ("tar", "1000")] {
        let out = folder.path().join(format);
        let flags = ["--n", "2500", "--format", format];
        let resume = || sample(&out, &[&flags[..], &["--resume"]].concat());
        sample(&out, &flags).assert().success();
        let whole = contents(&out);
        resume().assert().success().stderr(contains("0 images in"));
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let name = whole.keys().find(|name| name.extension().is_some_and(|ending| ending == format)).unwrap();
        for _ in 0..4 {
            damage(&out.join(name), &mut random);
            let said = format!("but not all is as it says: {lost} of 2500 images are made again");
            let together = contains("checksums vouch for up to 1,000 files together");
            let why = together.count(usize::from(format == "png"));
            resume().assert().success().stderr(contains(said).and(why));
            assert!(contents(&out) == whole, "{format}");
        }
        // An empty folder under a file's name is no obstacle, one with something in it is.
        fs::remove_file(out.join(name)).unwrap();
        fs::create_dir(out.join(name)).unwrap();
        resume().assert().success();
        assert!(contents(&out) == whole, "{format}");
        // A manifest that is changed does not stand, either.
        let manifest = whole.keys().find(|name| name.extension().is_some_and(|ending| ending == "json")).unwrap();
        let text = String::from_utf8(whole[manifest].clone()).unwrap();
        fs::write(out.join(manifest), text.replacen("\"count\": 2500", "\"count\": 2499", 1)).unwrap();
        resume().assert().success();
        assert!(contents(&out) == whole, "{format}");
    }
}

/// Images that vanish while a job is at work: it does not say that it is done.
#[test]
fn a_folder_that_is_removed_or_moved_is_an_error() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "20000", "--threads", "1"];
    let out = folder.path().join("removed");
    let child = start(&out, &flags);
    wait_for("an image", || out.join("000100.png").exists());
    // While the job goes on making files, the folder is empty for a moment only.
    wait_for("the end of the folder", || fs::remove_dir_all(&out).is_ok());
    let (code, error) = told(child);
    assert!(code == Some(1) && error.contains("moved or removed"), "{code:?} {error}");
    assert!(!out.join("manifest.json").exists());

    let (out, moved) = (folder.path().join("from"), folder.path().join("to"));
    let child = start(&out, &flags);
    wait_for("an image", || out.join("000100.png").exists());
    fs::rename(&out, &moved).unwrap();
    let (code, error) = told(child);
    assert!(code == Some(1) && error.contains("moved or removed"), "{code:?} {error}");
    assert!(!out.exists(), "a job is not to be cut in two");
    sample(&moved, &["--n", "20000", "--resume"]).assert().success();

    // Files that are open are written to wherever they are: the job looks.
    for format in ["npy", "tar"] {
        let (out, moved) = (folder.path().join(format!("{format}-from")), folder.path().join(format!("{format}-to")));
        let child = start(&out, &["--n", "20000000", "--threads", "1", "--format", format]);
        wait_for("the journal", || pieces_in(&out) > 0);
        fs::rename(&out, &moved).unwrap();
        let began = Instant::now();
        let (code, error) = told(child);
        assert!(code == Some(1) && error.contains("moved or removed"), "{code:?} {error}");
        assert!(began.elapsed() < Duration::from_secs(30) && !out.exists());
    }

    // Single images, of formats of many files.
    // The jobs last a second or more where a machine is fast, so that they are at work when the file goes.
    for (format, n) in [("png", "20000"), ("tar", "600000")] {
        let out = folder.path().join(format);
        let flags = ["--n", n, "--threads", "1", "--format", format];
        let child = start(&out, &flags);
        let first = out.join(if format == "png" { "000007.png" } else { "000000.tar" });
        wait_for("a file", || first.exists() && pieces_in(&out) > 0);
        fs::remove_file(&first).unwrap();
        let (code, error) = told(child);
        assert!(code == Some(1) && error.contains("removed or changed") && error.contains("--resume"), "{code:?} {error}");
        sample(&out, &[&flags[..], &["--resume"]].concat()).assert().success().stderr(contains("made again"));
        assert!(first.exists());
    }
}

/// The folder holds one job after `--force`, not the rest of another beside it.
#[test]
fn force_replaces_the_whole_job() {
    let folder = tempdir().unwrap();
    for (format, many, few) in [("png", "10100", "10"), ("tar", "3500", "900")] {
        let [out, alone] = ["out", "alone"].map(|name| folder.path().join(format!("{format}-{name}")));
        sample(&alone, &["--n", few, "--format", format, "--seed", "1"]).assert().success();
        sample(&out, &["--n", many, "--format", format]).assert().success();
        fs::write(out.join("mine.txt"), "mine").unwrap();
        sample(&out, &["--n", few, "--format", format, "--seed", "1", "--force"]).assert().success();
        fs::remove_file(out.join("mine.txt")).unwrap();
        assert!(contents(&out) == contents(&alone), "{format}");
        assert!(!out.join("010000").exists(), "an empty folder of the old job");
        // So it is where the old job was not finished, or goes by another name.
        kill_amid(start(&out, &["--n", many, "--format", format, "--force", "--threads", "1"]), &out);
        sample(&out, &["--n", few, "--format", format, "--seed", "1", "--force"]).assert().success();
        assert!(contents(&out) == contents(&alone), "{format}");
        let start_at = ["--n", "30", "--format", format, "--start", "5"];
        sample(&out, &start_at).assert().code(2).stderr(contains("--force"));
        sample(&out, &[&start_at[..], &["--force"]].concat()).assert().success();
        let names: Vec<String> = contents(&out).keys().map(|name| name.display().to_string()).collect();
        assert!(
            names.iter().all(|name| name.contains("000005-000034") || name.ends_with(".png") || name.ends_with(".tar")),
            "{names:?}"
        );
        assert_eq!(names.len(), if format == "png" { 31 } else { 2 }, "{names:?}");
    }
}

/// Killed while it removes what was there, a job with `--force` goes on with that before it makes anything.
#[test]
fn a_killed_replacement_is_finished() {
    let folder = tempdir().unwrap();
    let [old, out, alone] = ["old", "out", "alone"].map(|name| folder.path().join(name));
    let few = ["--n", "10", "--seed", "1"];
    let resume = [&few[..], &["--resume"]].concat();
    let force = [&few[..], &["--force"]].concat();
    sample(&alone, &few).assert().success();
    let mut amid = 0;
    // What was there: a finished job, one that was killed, and both of them by another name.
    for (start_at, finished) in [("0", true), ("0", false), ("3", true), ("3", false)] {
        let many = ["--n", "9000", "--start", start_at, "--threads", "1"];
        let _ = fs::remove_dir_all(&old);
        if finished {
            sample(&old, &many).assert().success();
        } else {
            kill_amid(start(&old, &many), &old);
        }
        for (turn, next) in [&resume, &force].into_iter().enumerate() {
            let _ = fs::remove_dir_all(&out);
            assert!(std::process::Command::new("cp").arg("-a").arg(&old).arg(&out).status().unwrap().success());
            let before = fs::read_dir(&out).unwrap().count();
            let mut child = start(&out, &force);
            let journal = out.join(".manifest.json.journal");
            let replaces = || fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"replaces\":["));
            wait_for("the new journal", || replaces() || child.try_wait().unwrap().is_some());
            std::thread::sleep(Duration::from_millis(2 * turn as u64));
            child.kill().unwrap();
            child.wait().unwrap();
            let left = fs::read_dir(&out).unwrap().count();
            amid += u32::from(left < before && left > 100);
            // What is half replaced is in nobody else's way, and nobody else is in its way.
            if left > 100 {
                sample(&out, &["--n", "10", "--start", "8000"]).assert().code(2);
            }
            sample(&out, next).assert().success();
            let names = || contents(&out).into_keys().collect::<Vec<_>>();
            assert!(contents(&out) == contents(&alone), "{start_at} {finished} {turn}: {:?}", names());
        }
    }
    println!("{amid} of 8 replacements were killed while they removed files");

    // And where it certainly ends amid: a folder with something in it stands under the name of an image.
    for next in [&resume, &force] {
        let _ = fs::remove_dir_all(&out);
        sample(&out, &["--n", "3000"]).assert().success();
        let obstacle = out.join("001500.png");
        fs::remove_file(&obstacle).unwrap();
        fs::create_dir(&obstacle).unwrap();
        fs::write(obstacle.join("mine"), "mine").unwrap();
        sample(&out, &force).assert().code(1).stderr(contains("001500.png"));
        let journal = fs::read_to_string(out.join(".manifest.json.journal")).unwrap();
        assert!(journal.contains("\"n\":3000") && journal.contains("\"n\":10,"), "{journal}");
        sample(&out, next).assert().code(1).stderr(contains("001500.png"));
        fs::remove_dir_all(&obstacle).unwrap();
        sample(&out, next).assert().success();
        assert!(contents(&out) == contents(&alone));
    }
}

#[test]
fn a_file_limit_is_an_error() {
    let folder = tempdir().unwrap();
    for format in ["npy", "npz", "tar"] {
        let [out, whole] = ["out", "whole"].map(|name| folder.path().join(format!("{format}-{name}")));
        let flags = ["--n", "2000", "--format", format];
        let mut command = Command::new("bash");
        // In units of 1,024 bytes.
        command.args(["-c", "ulimit -f 2; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_gan-infer")]);
        command.env("ORT_DYLIB_PATH", runtime_path()).args(["--provider", "cpu", "--batch", "8", "--model"]).arg(golden(MODEL));
        command.arg("--out").arg(&out).args(flags).assert().code(1).stderr(contains("ulimit -f"));
        sample(&out, &[&flags[..], &["--resume"]].concat()).assert().success();
        sample(&whole, &flags).assert().success();
        assert!(contents(&out) == contents(&whole), "{format}");
    }
}

/// Jobs of the same names in one folder: the second is refused, with the first one's process.
#[test]
fn two_jobs_do_not_share_names() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let mut first = start(&out, &["--n", "1000000000", "--start", "100", "--threads", "1", "--quiet"]);
    wait_for("an image", || out.join("000150.png").exists());
    let pid = format!("process {}", first.id());
    for flags in [
        &["--n", "101"][..],
        &["--n", "101", "--force"],
        &["--seeds", "3,9000", "--force"],
        &["--n", "5", "--start", "700", "--seed", "4"],
    ] {
        sample(&out, flags).assert().code(2).stderr(contains(&pid).or(contains("holds")));
    }
    for flags in [&["--n", "1000000000", "--start", "100", "--resume"][..], &["--n", "1000000000", "--start", "100", "--force"]]
    {
        sample(&out, flags).assert().code(2).stderr(contains(&pid));
    }
    // Others go well beside it.
    sample(&out, &["--n", "100"]).assert().success();
    sample(&out, &["--n", "20", "--format", "npy"]).assert().success();
    first.kill().unwrap();
    first.wait().unwrap();
    // What is unfinished keeps its names, too.
    let flags = ["--n", "3", "--start", "999999999", "--seed", "1"];
    sample(&out, &flags).assert().code(2).stderr(contains("another job").and(contains("--force")));
    assert!(!out.join("999999").exists());
}

mod planted {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Links where a job's own files would go lead nowhere: they are replaced, or refused.
    #[test]
    fn links_are_not_followed() {
        let folder = tempdir().unwrap();
        let victim = folder.path().join("victim");
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let untouched = || {
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
            assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        };
        let plant = |out: &Path, names: &[&str], hard: bool| {
            fs::create_dir_all(out).unwrap();
            fs::write(&victim, "precious").unwrap();
            for name in names {
                let path = out.join(name);
                let _ = fs::remove_file(&path);
                if hard { fs::hard_link(&victim, path).unwrap() } else { symlink(&victim, path).unwrap() }
            }
        };
        let whole: BTreeMap<&str, _> = FORMATS
            .into_iter()
            .map(|format| {
                let out = folder.path().join(format!("whole-{format}"));
                sample(&out, &["--n", "1500", "--format", format]).assert().success();
                (format, contents(&out))
            })
            .collect();
        for hard in [false, true] {
            for (format, names) in [
                ("png", &["000003.png", ".manifest.json.journal", ".manifest.json.new", "manifest.json"][..]),
                (
                    "npy",
                    &[
                        "samples.npy",
                        ".samples.npy.json.part",
                        ".samples.npy.json.journal",
                        ".samples.npy.json.new",
                        "samples.npy.json",
                    ],
                ),
                (
                    "npz",
                    &[
                        "samples.npz",
                        ".samples.npz.json.part",
                        ".samples.npz.json.journal",
                        ".samples.npz.json.new",
                        "samples.npz.json",
                    ],
                ),
                (
                    "tar",
                    &[
                        "000001.tar",
                        "000001.tar.part",
                        "000000.tar.part",
                        ".manifest-tar.json.journal",
                        ".manifest-tar.json.new",
                    ],
                ),
            ] {
                let out = folder.path().join(format!("{format}-{hard}"));
                plant(&out, names, hard);
                let flags = ["--n", "1500", "--format", format, "--force"];
                sample(&out, &flags).assert().success();
                untouched();
                assert!(contents(&out) == whole[format], "{format}");
                // Without --force and nothing in the way that has a name of its own.
                let out = folder.path().join(format!("{format}-{hard}-plain"));
                let hidden: Vec<&str> =
                    names.iter().copied().filter(|name| name.ends_with(".part") || name.ends_with(".new")).collect();
                plant(&out, &hidden, hard);
                sample(&out, &flags[..4]).assert().success();
                untouched();
                assert!(contents(&out) == whole[format], "{format}");
                // Between a kill and the job that goes on.
                let out = folder.path().join(format!("{format}-{hard}-resumed"));
                let n = if format == "png" || format == "tar" { "6000" } else { "60000" };
                let long = ["--n", n, "--format", format, "--threads", "1"];
                kill_amid(start(&out, &long), &out);
                plant(&out, &hidden, hard);
                sample(&out, &[&long[..], &["--resume"]].concat()).assert().success();
                untouched();
            }
        }
        // A folder of images that is a link.
        let out = folder.path().join("subfolder");
        fs::create_dir(&out).unwrap();
        symlink(&elsewhere, out.join("010000")).unwrap();
        for flags in [&["--n", "10001"][..], &["--n", "10001", "--force"], &["--n", "10001", "--resume"]] {
            sample(&out, flags).assert().failure().stderr(contains("010000"));
            untouched();
        }
    }

    /// Only what was synced survives a loss of power: the journal names nothing else, and what is said to be done is.
    #[test]
    #[cfg(target_os = "linux")]
    fn what_the_journal_names_survives_a_loss_of_power() {
        let folder = tempdir().unwrap();
        let shim = folder.path().join("powerloss.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/powerloss.c");
        let built =
            std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(source).arg("-ldl").status();
        if !built.is_ok_and(|status| status.success()) {
            println!("skipped: there is no C compiler");
            return;
        }
        for (format, n) in [("png", "6000"), ("npy", "200000"), ("npz", "200000"), ("tar", "9000")] {
            let [out, disk, whole] = ["out", "disk", "whole"].map(|name| folder.path().join(format!("{format}-{name}")));
            let flags = ["--n", n, "--format", format];
            sample(&whole, &flags).assert().success();
            let begin = |out: &Path| {
                let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
                command.env("ORT_DYLIB_PATH", runtime_path()).env("LD_PRELOAD", &shim);
                command.env("POWERLOSS_FROM", out).env("POWERLOSS_TO", &disk).args([
                    "--provider",
                    "cpu",
                    "--batch",
                    "8",
                    "--model",
                ]);
                command.arg(golden(MODEL)).arg("--out").arg(out).args(flags).stderr(Stdio::piped()).spawn().unwrap()
            };
            let (code, error) = told(begin(&out));
            assert_eq!(code, Some(0), "{error}");
            // Of what is done everything is on the disk but that the journal is gone, which makes no work.
            let resumed = sample(&disk, &[&flags[..], &["--resume"]].concat()).assert().success();
            resumed.stderr(contains("0 images in").and(contains("made again").not()));
            assert!(contents(&disk) == contents(&whole), "{format}: not all that is done is on the disk");

            let mut amid = 0;
            for turn in 0..kills() {
                let out = folder.path().join(format!("{format}-{turn}"));
                let _ = fs::remove_dir_all(&disk);
                let mut child = begin(&out);
                wait_for("a note", || pieces_in(&out) > turn as usize || child.try_wait().unwrap().is_some());
                child.kill().unwrap();
                child.wait().unwrap();
                // Of the journal even what was not synced.
                if let Some(journal) = journal_of(&out) {
                    fs::create_dir_all(&disk).unwrap();
                    fs::copy(&journal, disk.join(journal.file_name().unwrap())).unwrap();
                }
                amid += u32::from(pieces_in(&disk) > 0);
                let resumed = sample(&disk, &[&flags[..], &["--resume"]].concat()).assert().success();
                resumed.stderr(contains("made again").not());
                assert!(contents(&disk) == contents(&whole), "{format} {turn}");
            }
            println!("{format}: {amid} of {} jobs lost power with something in their journals", kills());
        }
    }
}

/// What is planted in a folder without a job of ours: no more than names that are looked at.
#[test]
fn strange_files_in_the_folder_do_no_harm() {
    let folder = tempdir().unwrap();
    let out = folder.path();
    fs::write(out.join("manifest-odd.json"), "[[[[").unwrap();
    fs::write(out.join("manifest-000000-000099.json"), r#"{"format":"png","seed":0,"start":18446744073709551615,"n":9}"#)
        .unwrap();
    fs::write(out.join(".manifest-x.json.journal"), [0xff; 100]).unwrap();
    fs::create_dir(out.join("manifest.json.d")).unwrap();
    // A name that ends in what the system stumbles over, and one that would write a line of its own.
    let nowhere = out.join("new/.");
    sample(&nowhere, &["--n", "3"]).assert().success();
    let odd = out.join("a\nb\u{1b}[31m");
    sample(&odd, &["--n", "3"]).assert().success().stderr(contains("a\\u000ab\\u001b[31m"));
    let mut command: Command = sample(out, &["--n", "30"]);
    command.assert().success();
    sample(out, &["--n", "30", "--resume"]).assert().success().stderr(contains("0 images in"));
}
