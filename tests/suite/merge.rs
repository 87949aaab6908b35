//! Many machines: which shard a process is, by what its launcher tells it; and shards that become what one call makes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use assert_cmd::Command;
use ganforge::infer::{Merge, Shard};
use predicates::prelude::*;
use predicates::str::contains;
use proptest::prelude::*;
use tempfile::tempdir;

use crate::infer::{contents, golden, runtime_path, sample};

/// `gan-infer merge` of some folders or files.
fn merge<P: AsRef<Path>>(shards: &[P], out: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.arg("merge").args(shards.iter().map(AsRef::as_ref)).arg("--out").arg(out).args(flags);
    command
}

/// The variables of task `index`, from 0, of `of`, as a launcher sets them.
fn variables(launcher: &str, index: usize, of: usize) -> Vec<(&'static str, String)> {
    match launcher {
        "array" => vec![
            ("SLURM_ARRAY_TASK_ID", (10 + 2 * index).to_string()),
            ("SLURM_ARRAY_TASK_MIN", "10".to_string()),
            ("SLURM_ARRAY_TASK_MAX", (10 + 2 * (of - 1)).to_string()),
            ("SLURM_ARRAY_TASK_STEP", "2".to_string()),
            ("SLURM_ARRAY_TASK_COUNT", of.to_string()),
            // As in each job's script.
            ("SLURM_PROCID", "0".to_string()),
        ],
        "srun" => ["SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"]
            .map(|name| (name, of.to_string()))
            .into_iter()
            .chain([("SLURM_PROCID", index.to_string())])
            .collect(),
        "kubernetes" => vec![("JOB_COMPLETION_INDEX", index.to_string()), ("JOB_COMPLETIONS", of.to_string())],
        _ => vec![("RANK", index.to_string()), ("WORLD_SIZE", of.to_string())],
    }
}

/// A shard in a process of its own.
fn start(out: &Path, flags: &[&str], variables: &[(&str, String)]) -> Child {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", runtime_path()).args(["--provider", "cpu", "--batch", "8", "--threads", "1", "--model"]);
    command.arg(golden("sealed.onnx")).arg("--out").arg(out).args(flags).args(["--shard", "auto"]);
    command.envs(variables.iter().map(|(name, value)| (*name, value.as_str()))).spawn().unwrap()
}

fn succeed(children: Vec<Child>) {
    children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
}

/// Whether the shard of this number is under way: it has a journal, which says so.
fn is_begun(out: &Path, number: usize) -> bool {
    let files = fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_journal = |name: &str| name.contains(&format!("-{number}-of-8.")) && name.ends_with(".journal");
    let mut journals = files.into_iter().filter(|path| is_journal(path.file_name().unwrap().to_str().unwrap()));
    // Between its creation and its first line it says nothing.
    journals.any(|path| fs::read(path).is_ok_and(|text| text.contains(&b'\n')))
}

/// Shard 5 of 8 is killed while it is at work.
fn kill_amid(out: &Path, flags: &[&str], launcher: &str) {
    const TRIES: u32 = 50;
    for _ in 0..TRIES {
        let mut child = start(out, flags, &variables(launcher, 4, 8));
        while !is_begun(out, 5) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        if !child.wait().unwrap().success() {
            return;
        }
        fs::remove_dir_all(out).unwrap(); // it was faster
    }
    panic!("it never was at work when it was killed");
}

/// Eight processes as a launcher starts them, one of which is killed, in one folder.
#[test]
fn eight_processes_one_of_which_is_killed_make_what_one_call_makes() {
    let folder = tempdir().unwrap();
    for (launcher, format, n) in
        [("array", "npy", "200000"), ("kubernetes", "tar", "24000"), ("srun", "npz", "200000"), ("torchrun", "png", "8000")]
    {
        let [whole, shards, merged] = ["whole", "shards", "merged"].map(|name| folder.path().join(format!("{format}-{name}")));
        let flags = ["--n", n, "--start", "950", "--format", format, "--quiet"];
        sample(&whole, &flags).assert().success();
        kill_amid(&shards, &flags, launcher);
        let others = (0..8).filter(|index| *index != 4);
        succeed(others.map(|index| start(&shards, &flags, &variables(launcher, index, 8))).collect());
        let unfinished = contains("merge: 1 of 8 shards are missing or not finished").and(contains("  5/8 (images "));
        merge(&[&shards], &merged, &[]).assert().code(1).stderr(unfinished.and(contains("which was begun in")));
        assert!(!merged.exists());
        succeed(vec![start(&shards, &[&flags[..], &["--resume"]].concat(), &variables(launcher, 4, 8))]);
        let before = contents(&shards);
        merge(&[&shards], &merged, &[]).assert().success();
        assert!(contents(&merged) == contents(&whole), "{format}");
        assert!(contents(&shards) == before, "{format}");
        // Once more, there is nothing left to do; what is damaged is made good.
        merge(&[&shards], &merged, &[]).assert().success().stderr(contains("0 images of 8 shards"));
        let some = contents(&merged).into_keys().find(|name| name.extension().is_some_and(|it| it == format)).unwrap();
        fs::write(merged.join(&some), "damaged").unwrap();
        merge(&[&shards], &merged, &[]).assert().success();
        assert!(contents(&merged) == contents(&whole), "{format}");
    }
}

/// The classes of images go along, in an array's second part and beside the images in tar files; of some seeds, of one class, under other names.
#[test]
fn what_stands_beside_images_is_merged() {
    let folder = tempdir().unwrap();
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/digits.onnx");
    let digits = digits.to_str().unwrap();
    let call = |out: &Path, flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
        command
            .env("ORT_DYLIB_PATH", runtime_path())
            .args(["--provider", "cpu", "--model", digits])
            .arg("--out")
            .arg(out)
            .args(flags);
        command.assert().success();
    };
    let of_npz = ["--seeds", "7-90,3,1000-1200"];
    let of_tar = ["--n", "2500", "--start", "400", "--truncation", "1.5"];
    let of_class = ["--n", "100", "--class", "3", "--seed", "4"];
    for (name, flags, parts) in
        [("some.npz", &of_npz[..], 3), ("tars", &of_tar, 4), ("threes.npz", &of_class, 7), ("few.npz", &["--n", "2"], 5)]
    {
        let [whole, shards, merged] = ["whole", "shards", "merged"].map(|part| folder.path().join(format!("{name}-{part}")));
        let flags = if name == "tars" { [flags, &["--format", "tar"]].concat() } else { flags.to_vec() };
        call(&whole.join(name), &flags);
        for part in 1..=parts {
            // Each on a machine of its own.
            call(&shards.join(part.to_string()).join(name), &[&flags[..], &["--shard", &format!("{part}/{parts}")]].concat());
        }
        let places: Vec<PathBuf> = (1..=parts).rev().map(|part| shards.join(part.to_string())).collect();
        let places: Vec<PathBuf> = if name == "tars" { places.iter().map(|it| it.join(name)).collect() } else { places };
        merge(&places, &merged.join(name), &["--quiet"]).assert().success().stderr("");
        assert!(contents(&merged) == contents(&whole), "{name}");
    }
}

/// Tar files become one, as `--out all.tar` makes it.
#[test]
fn tar_files_become_one_file() {
    let folder = tempdir().unwrap();
    let [whole, shards, merged] = ["whole.tar", "shards", "merged.tar"].map(|name| folder.path().join(name));
    sample(&whole, &["--n", "2100"]).assert().success();
    for shard in ["1/2", "2/2"] {
        sample(&shards, &["--n", "2100", "--format", "tar", "--shard", shard]).assert().success();
    }
    merge(&[&shards], &merged, &[]).assert().success();
    assert!(fs::read(&merged).unwrap() == fs::read(&whole).unwrap());
    merge(&[&shards], &merged, &[]).assert().code(2).stderr(contains("exists already"));
    merge(&[&shards], &merged, &["--force"]).assert().success();
    let tar = shards.join("000001.tar");
    let mut bytes = fs::read(&tar).unwrap();
    bytes[3000] ^= 1;
    fs::write(&tar, bytes).unwrap();
    let other = folder.path().join("other.tar");
    merge(&[&shards], &other, &[]).assert().code(1).stderr(contains("images 1000 to 1999 is not what its manifest says"));
    assert!(!other.exists());
}

/// The calls that are named make what is missing.
#[test]
fn what_is_missing_is_named_with_the_calls_that_make_it() {
    let folder = tempdir().unwrap();
    let [whole, shards, merged] = ["whole", "the shards", "merged"].map(|name| folder.path().join(name));
    let flags = ["--n", "100", "--start", "7", "--seed", "3", "--truncation", "2"];
    for (name, begun) in [("images.npy", "images-1-of-4.npy"), ("samples.npy", "samples-1-of-4.npy")] {
        sample(&whole.join(name), &flags).assert().success();
        for shard in ["1/4", "3/4"] {
            sample(&shards.join(name), &[&flags[..], &["--shard", shard]].concat()).assert().success();
        }
        assert!(shards.join(begun).exists());
        let manifest = shards.join(begun);
        let others = shards.join(begun.replace("-1-", "-3-"));
        let output = merge(&[&manifest, &others], &merged.join(name), &[]).assert().code(1).get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("2 of 4 shards") && said.contains("2/4 (images 32 to 56)") && said.contains("4/4 (images 82 to 106)"),
            "{said}"
        );
        let calls: Vec<&str> = said.lines().filter_map(|line| line.trim().strip_prefix("gan-infer ")).collect();
        assert_eq!(calls.len(), 2, "{said}");
        for call in calls {
            let program = env!("CARGO_BIN_EXE_gan-infer");
            let mut shell = Command::new("sh");
            // The file of the model, which the manifest calls by its name, lies there.
            shell.env("ORT_DYLIB_PATH", runtime_path()).current_dir(golden("sealed.onnx").parent().unwrap());
            shell.args(["-c", &format!("{program} {call}")]).assert().success();
        }
        let all: Vec<PathBuf> = (1..=4).map(|part| shards.join(begun.replace("-1-", &format!("-{part}-")))).collect();
        merge(&all, &merged.join(name), &[]).assert().success();
    }
    assert!(contents(&merged) == contents(&whole));
}

#[test]
fn shards_that_do_not_fit_are_refused() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let make = |name: &str, flags: &[&str]| sample(&at(name), &[&["--n", "60"], flags].concat()).assert().success();
    let out = at("out");
    let refused = |places: &[&str], flags: &[&str], said: &str| {
        let places: Vec<PathBuf> = places.iter().map(|name| at(name)).collect();
        merge(&places, &out, flags).assert().failure().stderr(contains(said));
        assert!(!out.exists() || contents(&out).is_empty(), "{said}");
    };
    make("one", &["--format", "npy", "--shard", "1/2"]);
    make("two", &["--format", "npy", "--shard", "2/2"]);
    make("again", &["--format", "npy", "--shard", "2/2"]);
    make("seed", &["--format", "npy", "--shard", "2/2", "--seed", "1"]);
    make("cut", &["--format", "npy", "--shard", "2/3"]);
    make("batch", &["--format", "npy", "--shard", "2/2", "--batch", "16"]);
    make("truncated", &["--format", "npy", "--shard", "2/2", "--truncation", "1"]);
    make("tar", &["--format", "tar", "--shard", "1/2"]);
    make("whole", &["--format", "npy"]);
    refused(&["nowhere"], &[], "nowhere");
    refused(&["whole"], &[], "there are no shards here");
    refused(&["one", "two"], &["--format", "tar"], "no shards in format tar");
    refused(&["one", "two", "again"], &[], "is of the same shard as");
    refused(&["one", "seed"], &[], "its seed is 1, that of");
    refused(&["one", "batch"], &[], "its batch is 16, that of");
    refused(&["one", "truncated"], &[], "its truncation is 1.0, that of");
    refused(&["one", "cut"], &[], "one of 3 parts");
    refused(&["one", "two", "tar"], &[], "Say with --format which shards are meant");
    refused(&["one"], &[], "2/2 (images 30 to 59)");
    merge(&[at("one"), at("two")], &at("one"), &[]).assert().success(); // beside them: samples.npy
    let whole = contents(&at("whole"));
    assert!(contents(&at("one"))[Path::new("samples.npy")] == whole[Path::new("samples.npy")]);
    merge(&[at("one"), at("two")], &at("one/samples-1-of-2.npy"), &[]).assert().code(2).stderr(contains("is where shards are"));
    merge(&[at("one"), at("two")], &at("x.zip"), &[]).assert().code(2).stderr(contains("no format of this program"));
    merge(&[at("one"), at("two")], &at("x.npz"), &[])
        .assert()
        .code(2)
        .stderr(contains("names a file that format npy does not make"));
    // Another job's file is there.
    make("there", &["--format", "npy", "--seed", "9"]);
    merge(&[at("one"), at("two")], &at("there"), &[])
        .assert()
        .code(2)
        .stderr(contains("its seed is 9").and(contains("--force")));
    merge(&[at("one"), at("two")], &at("there"), &["--force"]).assert().success();
    assert!(contents(&at("there")) == whole);
    fs::create_dir(at("strange")).unwrap();
    fs::write(at("strange/samples.npy"), "mine").unwrap();
    merge(&[at("one"), at("two")], &at("strange"), &[]).assert().code(2).stderr(contains("exists already"));
    assert_eq!(fs::read(at("strange/samples.npy")).unwrap(), b"mine");
    make("tar", &["--format", "tar", "--shard", "2/2"]);
    merge(&[at("tar")], &at("tar"), &["--force"]).assert().code(2).stderr(contains("is where shards are"));
    // Damage: a pixel, the head, the length, the manifest.
    let (file, manifest) = (at("two/samples-2-of-2.npy"), at("two/samples-2-of-2.npy.json"));
    let (bytes, text) = (fs::read(&file).unwrap(), fs::read_to_string(&manifest).unwrap());
    let damaged = |at: usize| [&bytes[..at], &[bytes[at] ^ 1], &bytes[at + 1..]].concat();
    for (bytes, said) in [
        (damaged(bytes.len() - 1), "images 30 to 59 is not what its manifest says"),
        (damaged(20), "its file is not whole"),
        (bytes[..500].to_vec(), "images 30 to 59 is not what its manifest says"),
        (Vec::new(), "images 30 to 59 is not what its manifest says"),
    ] {
        fs::write(&file, bytes).unwrap();
        refused(&["one", "two"], &[], said);
    }
    fs::remove_file(&file).unwrap();
    refused(&["one", "two"], &[], "its file is not there");
    fs::write(&file, &bytes).unwrap();
    for (from, to, said) in [
        ("\"count\": 30", "\"count\": 29", "shard 2/2"),
        ("\"bytes\"", "\"bites\"", "its bites is"),
        ("\"pixels_crc32\": \"", "\"pixels_crc32\": \"0", "shard 2/2"),
        ("{", "[", "it is no manifest"),
        ("2/2", "1/2", "there are no shards here"),
        ("\"image\": [\n", "\"image\": [\n0,", "tell no size"),
    ] {
        fs::write(&manifest, text.replacen(from, to, 1)).unwrap();
        let alone = from == "2/2" || said.contains("size");
        refused(
            if alone { &["two"] } else { &["one", "two"] },
            &[],
            if said.contains("size") { "1/2 (images 0 to 29)" } else { said },
        );
    }
}

/// A merge that is killed again and again gets to its end.
#[test]
fn a_killed_merge_goes_on() {
    let folder = tempdir().unwrap();
    for (format, n) in [("npy", "400000"), ("tar", "24000"), ("png", "6000")] {
        let [whole, shards, merged] = ["whole", "shards", "merged"].map(|name| folder.path().join(format!("{format}-{name}")));
        let flags = ["--n", n, "--format", format, "--quiet"];
        sample(&whole, &flags).assert().success();
        for part in 1..=3 {
            sample(&shards, &[&flags[..], &["--shard", &format!("{part}/3")]].concat()).assert().success();
        }
        let mut killed = 0;
        for turn in 1..=4 {
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_gan-infer"));
            let mut child = child.arg("merge").arg(&shards).arg("--out").arg(&merged).arg("--quiet").spawn().unwrap();
            std::thread::sleep(Duration::from_millis(5 * turn));
            killed += u32::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
            let visible = merged.join("samples.npy");
            assert!(
                !visible.exists()
                    || fs::metadata(&visible).unwrap().len() == fs::metadata(whole.join("samples.npy")).unwrap().len()
            );
        }
        merge(&[&shards], &merged, &[]).assert().success();
        assert!(contents(&merged) == contents(&whole), "{format}");
        println!("{format}: {killed} of 4 merges were killed");
    }
}

/// The script for Slurm and the job for Kubernetes in README.md do what they say.
#[test]
fn the_calls_in_the_readme_make_shards() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let slurm = text.lines().find(|line| line.starts_with("gan-infer ") && line.contains("--shard auto")).unwrap();
    assert!(text.contains("#SBATCH --array=0-7\n"));
    let job = text.lines().find_map(|line| line.trim().strip_prefix("command: [")?.strip_suffix("]}")).unwrap();
    assert!(text.contains("completions: 8\n") && text.contains("env: [{name: JOB_COMPLETIONS, value: \"8\"}]"));
    let folder = tempdir().unwrap();
    for (launcher, words) in [("array", slurm.split(' ').collect::<Vec<_>>()), ("kubernetes", job.split(", ").collect())] {
        let words: Vec<&str> = words.iter().map(|word| word.trim_matches('"')).collect();
        let after = |flag: &str| words[words.iter().position(|word| *word == flag).unwrap() + 1];
        let out = folder.path().join(launcher);
        // Fewer images, and elsewhere.
        let (mut flags, few) = (words[1..].to_vec(), "16000");
        flags.iter_mut().filter(|word| **word == after("--n")).for_each(|word| *word = few);
        let at = flags.iter().position(|word| *word == "--out").unwrap();
        flags.drain(at..at + 2);
        sample(&out, &flags).envs(variables(launcher, 7, 8)).assert().success();
        assert!(out.join("manifest-tar-8-of-8.json").exists() && out.join("000015.tar").exists());
    }
}

/// What the library says of shards, for programs that have commands of their own.
#[test]
fn the_library_tells_what_is_missing() {
    let folder = tempdir().unwrap();
    sample(folder.path(), &["--n", "30", "--format", "npy", "--shard", "2/3"]).assert().success();
    let found = Merge::find(&[folder.path().to_path_buf()], None).unwrap();
    let missing: Vec<(String, u64, u64)> =
        found.missing().iter().map(|it| (it.shard.to_string(), *it.images[0].start(), *it.images[0].end())).collect();
    assert_eq!(missing, [("1/3".to_string(), 0, 9), ("3/3".to_string(), 20, 29)]);
    let ran = found.run(&folder.path().join("out"), Default::default(), &ganforge::progress::Silent, &false.into());
    let said = ran.unwrap_err().to_string();
    assert!(said.contains("1/3 (images 0 to 9); 3/3 (images 20 to 29)") && said.contains("`Plan::shard`"), "{said}");
}

#[test]
fn manifest_and_summary_show_the_shard_that_auto_became() {
    let folder = tempdir().unwrap();
    let mut command = sample(folder.path(), &["--n", "60", "--format", "npy", "--shard", "auto", "--json"]);
    let output = command.envs(variables("array", 1, 3)).assert().success().get_output().clone();
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["shard"], "2/3");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("shard 2/3, by a Slurm array (SLURM_ARRAY_TASK_ID=12 of 10 to 14 by 2)"), "{said}");
    let manifest = fs::read_to_string(folder.path().join("samples-2-of-3.npy.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["shard"], "2/3");
    let names = ["SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "RANK", "WORLD_SIZE"];
    let mut command = sample(folder.path(), &["--n", "60", "--format", "npy", "--shard", "auto"]);
    let output = command.assert().code(2).stderr(contains("--shard auto: the environment")).get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(names.iter().all(|name| said.contains(name)) && said.contains("--shard I/N"), "{said}");
    let mut command = sample(folder.path(), &["--n", "60", "--shard", "automatic"]);
    command.assert().code(2).stderr(contains("or auto"));
}

type Variables = BTreeMap<String, String>;

fn assigned(variables: &Variables) -> Result<String, String> {
    match Shard::assigned(|name| variables.get(name).cloned()) {
        Ok(assigned) => Ok(assigned.shard.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

fn set(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// `A=1 B=2` as variables.
fn told(text: &str) -> Variables {
    set(&text.split_whitespace().filter_map(|pair| pair.split_once('=')).collect::<Vec<_>>())
}

#[test]
fn environments_of_launchers() {
    const ARRAY: &str = "SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3 SLURM_ARRAY_TASK_STEP=1 SLURM_ARRAY_TASK_COUNT=4";
    for (text, shard) in [
        ("SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=3", "3/4"),
        ("SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=1 SLURM_ARRAY_TASK_COUNT=1", "1/1"),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=3"), "4/4"),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=3 SLURM_PROCID=0 SLURM_NTASKS=1"), "4/4"),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=3 SLURM_PROCID=0 RANK= WORLD_SIZE="), "4/4"),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=2 SLURM_PROCID=1 SLURM_NTASKS=5"), "12/20"),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=2 RANK=1 WORLD_SIZE=5 SLURM_PROCID=0 SLURM_NTASKS=1"), "12/20"),
        ("SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8", "1/8"),
        ("JOB_COMPLETION_INDEX=7 JOB_COMPLETIONS=8", "8/8"),
        ("RANK=15 WORLD_SIZE=16", "16/16"),
        // One torchrun a node, eight processes each.
        ("SLURM_PROCID=1 SLURM_NTASKS=2 GROUP_WORLD_SIZE=2 RANK=9 WORLD_SIZE=16", "10/16"),
        ("JOB_COMPLETION_INDEX=1 JOB_COMPLETIONS=2 GROUP_WORLD_SIZE=2 RANK=9 WORLD_SIZE=16", "10/16"),
        // A script that sets torchrun's variables itself.
        ("SLURM_PROCID=3 SLURM_NTASKS=4 RANK=3 WORLD_SIZE=4", "4/4"),
    ] {
        assert_eq!(assigned(&told(text)).as_deref(), Ok(shard), "{text}");
    }
    for (text, names) in [
        ("", &["SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "WORLD_SIZE"][..]),
        ("JOB_COMPLETION_INDEX=0", &["JOB_COMPLETIONS is not", "manifest"]),
        ("JOB_COMPLETIONS=4", &["JOB_COMPLETION_INDEX is not"]),
        ("RANK=0", &["WORLD_SIZE is not"]),
        ("WORLD_SIZE=0 RANK=0", &["WORLD_SIZE=0"]),
        ("RANK=4 WORLD_SIZE=4", &["RANK=4", "WORLD_SIZE=4"]),
        ("RANK=-1 WORLD_SIZE=4", &["RANK is '-1'"]),
        ("RANK=1 WORLD_SIZE=99999999999999999999", &["WORLD_SIZE is '99999999999999999999'"]),
        ("SLURM_NTASKS=4", &["SLURM_PROCID is not", "srun"]),
        ("SLURM_PROCID=0", &["SLURM_NTASKS is not"]),
        ("SLURM_PROCID=0 SLURM_NTASKS=4", &["SLURM_NTASKS 4", "let srun start it"]),
        ("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=2", &["SLURM_NTASKS is 4", "SLURM_STEP_NUM_TASKS is 2"]),
        ("SLURM_ARRAY_TASK_MIN=0", &["SLURM_ARRAY_TASK_ID is not"]),
        ("SLURM_ARRAY_TASK_ID=0", &["SLURM_ARRAY_TASK_MIN is not"]),
        ("SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_MIN=0", &["SLURM_ARRAY_TASK_MAX is not"]),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=4"), &["SLURM_ARRAY_TASK_ID=4"]),
        (&format!("{ARRAY} SLURM_ARRAY_TASK_ID=1 SLURM_NTASKS=2"), &["SLURM_PROCID is not"]),
        // `--array=1,3,7`, and one task that is run again.
        (
            "SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=1 SLURM_ARRAY_TASK_COUNT=3",
            &["SLURM_ARRAY_TASK_COUNT is 3", "7 tasks"],
        ),
        ("SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=3 SLURM_ARRAY_TASK_MAX=3", &["one task only, SLURM_ARRAY_TASK_ID=3"]),
        (
            "JOB_COMPLETION_INDEX=1 JOB_COMPLETIONS=2 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2",
            &["SLURM_PROCID=0", "JOB_COMPLETION_INDEX=1", "contradict"],
        ),
        (
            &format!("{ARRAY} SLURM_ARRAY_TASK_ID=1 JOB_COMPLETION_INDEX=0 JOB_COMPLETIONS=2"),
            &["SLURM_ARRAY_TASK_ID=1", "JOB_COMPLETION_INDEX=0", "contradict"],
        ),
        ("SLURM_PROCID=1 SLURM_NTASKS=2 RANK=9 WORLD_SIZE=16", &["SLURM_PROCID=1", "RANK=9", "contradict"]),
        ("SLURM_PROCID=1 SLURM_NTASKS=2 RANK=3 WORLD_SIZE=8 GROUP_WORLD_SIZE=1", &["SLURM_PROCID=1", "RANK=3", "contradict"]),
    ] {
        let said = assigned(&told(text)).expect_err(text);
        assert!(names.iter().all(|name| said.contains(name)), "{text}: {said}");
        assert!(said.contains("`Plan::shard`"), "{text}: {said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The tasks of an array, each with some processes, are all shards, each once.
    #[test]
    fn an_array_of_processes_makes_every_shard_once(first in 0u64..1000, step in 1u64..20, tasks in 2u64..12, inner in 1u64..6, torchrun: bool) {
        let mut shards = BTreeSet::new();
        for task in 0..tasks {
            for process in 0..inner {
                let [name, number] = if torchrun { ["RANK", "WORLD_SIZE"] } else { ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"] };
                let last = first + (tasks - 1) * step;
                let text = format!(
                    "SLURM_ARRAY_TASK_ID={} SLURM_ARRAY_TASK_MIN={first} SLURM_ARRAY_TASK_MAX={last} SLURM_ARRAY_TASK_STEP={step} \
                     SLURM_ARRAY_TASK_COUNT={tasks} {name}={process} {number}={inner}",
                    first + task * step
                );
                shards.insert(assigned(&told(&text)).unwrap());
            }
        }
        let all: BTreeSet<String> = (1..=tasks * inner).map(|index| format!("{index}/{}", tasks * inner)).collect();
        prop_assert_eq!(shards, all);
    }

    /// Whatever the variables are, there is a shard or an error that names one of them, and no shard beyond the last.
    #[test]
    fn any_environment_gives_a_shard_or_an_error(
        chosen in proptest::collection::btree_map(
            proptest::sample::select(vec![
                "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT",
                "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "RANK", "WORLD_SIZE",
                "GROUP_WORLD_SIZE",
            ]),
            prop_oneof![
                4 => (0u64..4).prop_map(|number| number.to_string()),
                1 => any::<u64>().prop_map(|number| number.to_string()),
                1 => Just(u64::MAX.to_string()),
                1 => any::<String>(),
            ],
            0..10,
        )
    ) {
        let variables: Variables = chosen.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        match assigned(&variables) {
            Ok(text) => {
                let shard: Shard = text.parse().unwrap();
                prop_assert!((1..=shard.of()).contains(&shard.index()));
            }
            Err(said) => prop_assert!(["SLURM_", "JOB_COMPLETION", "RANK", "WORLD_SIZE"].iter().any(|name| said.contains(name)), "{}", said),
        }
    }
}
