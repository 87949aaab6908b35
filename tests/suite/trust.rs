//! What a run can be trusted with: one process at a time, a resume from what was really trained, starts that were killed, and
//! files that promise more than they hold, or whose names are more than names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use assert_cmd::Command;
use ganforge::config::{self, TrainConfig};
use ganforge::data::synthetic;
use ganforge::text;
use ganforge::train::changes;
use ganforge::train::{RunFolder, read_records};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gan-train");

/// Five critic steps and clipping, small.
const WGAN: &[&str] = &["--preset=wgan-mnist-mlp", "--batch-size=8", "--device=cpu"];

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempdir().unwrap());
        fs::write(place.path("images.idx"), idx(50)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new training into the folder `name`.
    fn start(&self, name: &str, flags: &[&str]) -> Command {
        let mut command = gan_train(WGAN);
        command.arg("--data").arg(self.path("images.idx")).arg("--out").arg(self.path(name)).args(flags);
        command
    }

    fn train(&self, name: &str, flags: &[&str]) -> PathBuf {
        self.start(name, flags).assert().success();
        self.path(name)
    }

    /// The same in the background.
    fn spawn(&self, name: &str, flags: &[&str]) -> Child {
        let mut command = std::process::Command::new(PROGRAM);
        command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).args(WGAN);
        command.arg("--data").arg(self.path("images.idx")).arg("--out").arg(self.path(name)).args(flags);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

fn idx(len: usize) -> Vec<u8> {
    header(len as u32, 28).into_iter().chain(synthetic::digits(len, 28, 1, 0)).collect()
}

fn header(len: u32, side: u32) -> Vec<u8> {
    [0x0803, len, side, side].into_iter().flat_map(u32::to_be_bytes).collect()
}

fn gan_train(flags: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").args(flags);
    command.timeout(Duration::from_secs(120));
    command
}

/// With 4 GiB of address space: what takes more for a small file ends.
fn limited(flags: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 4194304 && exec \"$0\" \"$@\"", PROGRAM]);
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").env("RAYON_NUM_THREADS", "2");
    command.args(flags).timeout(Duration::from_secs(60));
    command
}

fn resume(run: &Path, flags: &[&str]) -> Command {
    let mut command = gan_train(&["--device=cpu", "--resume"]);
    command.arg(run).args(flags);
    command
}

fn said(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn wait_for(path: &Path) {
    let begun = Instant::now();
    while fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} does not come", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn latest(run: &Path) -> PathBuf {
    run.join("checkpoints").join(fs::read_to_string(run.join("checkpoints/latest")).unwrap().trim())
}

/// The files of the latest checkpoint, and the generator.
fn result(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(latest(run)).unwrap().map(|entry| entry.unwrap().path()).chain([run.join("generator.onnx")]);
    files.map(|path| (path.strip_prefix(run).unwrap().to_path_buf(), fs::read(path).unwrap())).collect()
}

/// Everything below a folder, by its path inside.
fn names(folder: &Path) -> BTreeSet<String> {
    let all = walkdir::WalkDir::new(folder).min_depth(1).into_iter().flatten();
    all.map(|entry| entry.path().strip_prefix(folder).unwrap().display().to_string()).collect()
}

/// Nothing half written, and no lock.
fn assert_tidy(run: &Path) {
    let hidden = |name: &String| name.split('/').any(|part| part.starts_with('.'));
    assert_eq!(names(run).into_iter().filter(hidden).collect::<Vec<_>>(), Vec::<String>::new());
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from} in {text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn one_process_trains_in_a_run() {
    let place = Place::new();
    let flags = ["--steps=1000000", "--checkpoint-every=20", "--set=output.keep_checkpoints=1000"];
    let mut first = place.spawn("run", &flags);
    let run = place.path("run");
    wait_for(&run.join("checkpoints/latest"));
    // Another is told who is at work, and changes nothing.
    let told = said(&mut resume(&run, &["--steps=5"]), 2);
    let by = format!("another gan-train (process {}) is at work in {}", first.id(), run.display());
    assert!(told.contains(&by) && told.contains("Wait for its end"), "{told}");
    // Who only reads is not hindered.
    gan_train(&["report"]).arg(&run).assert().success();
    gan_train(&["export"]).arg(&run).arg("--out").arg(place.path("early.onnx")).assert().success();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(run.join(".lock").exists());
    // The lock ended with its process; what it left half written goes.
    fs::write(run.join(".ganforge-run"), "x").unwrap();
    fs::write(run.join("samples/.ganforge-sheet"), "x").unwrap();
    fs::write(run.join("tensorboard/.ganforge-events"), "x").unwrap();
    fs::create_dir_all(run.join("checkpoints/.partial-00000399")).unwrap();
    let steps: u64 = latest(&run).file_name().unwrap().to_str().unwrap().parse().unwrap();
    let total = format!("--steps={}", steps + 30);
    resume(&run, &[&total]).assert().success();
    assert_tidy(&run);
    let straight = place.train("straight", &[&total]);
    assert!(result(&straight) == result(&run));
}

/// A run's folder that is moved or removed under it: it ends, and writes nothing into what is there then.
#[test]
fn a_run_whose_folder_is_gone_ends() {
    let place = Place::new();
    let flags = ["--steps=1000000", "--checkpoint-every=20", "--set=watch.stop=false"];
    for moved in [true, false] {
        let run = place.path("run");
        let first = place.spawn("run", &flags);
        wait_for(&run.join("checkpoints/latest"));
        let gone = place.path(if moved { "moved" } else { "removed" });
        fs::rename(&run, &gone).unwrap();
        if !moved {
            fs::remove_dir_all(&gone).unwrap();
        }
        let second = place.train("run", &["--steps=7", "--seed=5"]);
        let output = first.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && told.contains("the folder was moved or removed"), "{told}");
        assert!(result(&second) == result(&place.train(&format!("straight-{moved}"), &["--steps=7", "--seed=5"])));
        assert_tidy(&second);
        if moved {
            let step: u64 = latest(&gone).file_name().unwrap().to_str().unwrap().parse().unwrap();
            resume(&gone, &[&format!("--steps={}", step + 1)]).assert().success();
        }
        fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn a_file_limit_is_an_error() {
    let place = Place::new();
    let script = "ulimit -f 16; exec \"$0\" \"$@\"";
    let mut command = Command::new("bash");
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).args(["-c", script, PROGRAM]).args(WGAN);
    command.arg("--data").arg(place.path("images.idx")).arg("--out").arg(place.path("run")).arg("--steps=3");
    let told = said(&mut command, 1);
    assert!(told.contains("ulimit -f"), "{told}");
    place.train("run", &["--steps=3"]);
}

/// What was changed on a way that was left again does not count.
#[test]
fn changes_of_another_way_are_forgotten() {
    let place = Place::new();
    let run = place.train("run", &["--steps=10", "--checkpoint-every=5", "--set=output.keep_checkpoints=9"]);
    resume(&run, &["--steps=15", "--set=optimizer.critic.lr=0.25"]).assert().success();
    fs::write(run.join("checkpoints/latest"), "00000005\n").unwrap();
    resume(&run, &["--steps=10", "--set=optimizer.critic.lr=0.125"]).assert().success();
    resume(&run, &["--steps=15"]).assert().success();
    let noted = changes::read(&RunFolder::open(&run).unwrap()).unwrap();
    assert_eq!((noted.len(), noted[0].step, noted[0].now.as_deref()), (1, 5, Some("0.125")));

    // Noted, and killed before it was in the config: as if it had not been asked for.
    let noted = "{\"step\":15,\"key\":\"schedule.batch_size\",\"was\":\"8\",\"now\":\"16\"}\n";
    let before = fs::read_to_string(run.join("changes.jsonl")).unwrap();
    fs::write(run.join("changes.jsonl"), before.clone() + noted).unwrap();
    resume(&run, &["--steps=16"]).assert().success();
    assert_eq!(fs::read_to_string(run.join("changes.jsonl")).unwrap(), before);
}

#[test]
fn of_two_starts_at_once_one_wins() {
    let place = Place::new();
    let flags = ["--steps=300", "--checkpoint-every=300"];
    let straight = place.train("straight", &flags);
    let children = [place.spawn("run", &flags), place.spawn("run", &flags)];
    let outputs = children.map(|child| child.wait_with_output().unwrap());
    let codes: BTreeSet<Option<i32>> = outputs.iter().map(|output| output.status.code()).collect();
    assert_eq!(codes, BTreeSet::from([Some(0), Some(2)]));
    let lost = outputs.iter().find(|output| output.status.code() == Some(2)).unwrap();
    let told = String::from_utf8_lossy(&lost.stderr);
    assert!(told.contains("is at work in") || told.contains("holds a run already"), "{told}");
    assert!(result(&straight) == result(&place.path("run")));
    assert_tidy(&place.path("run"));
}

#[test]
fn a_lock_is_never_taken_through_a_link() {
    let place = Place::new();
    let run = place.train("run", &["--steps=1"]);
    let other = place.path("precious");
    fs::write(&other, "mine").unwrap();
    std::os::unix::fs::symlink(&other, run.join(".lock")).unwrap();
    assert!(said(&mut resume(&run, &["--steps=2"]), 1).contains(".lock"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    // Nor where it is another file's name as well.
    fs::remove_file(run.join(".lock")).unwrap();
    fs::hard_link(&other, run.join(".lock")).unwrap();
    assert!(said(&mut resume(&run, &["--steps=2"]), 1).contains("it has other names"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
}

#[test]
fn a_checkpoint_is_resumed_with_the_config_that_made_it() {
    let place = Place::new();
    let run = place.train("run", &["--steps=4"]);
    let (config, before) = (run.join("config.toml"), result(&run));
    let whole = fs::read_to_string(&config).unwrap();
    let lr = whole.lines().find(|line| line.starts_with("lr = ")).unwrap();
    // What decides the course, changed behind the run's back.
    for (from, to, says) in [
        ("seed = 0", "seed = 5", "seed from 0 to 5"),
        ("batch_size = 8", "batch_size = 4", "schedule.batch_size from 8 to 4"),
        ("size = 28\n", "held_out = 0.1\nsize = 28\n", "data.held_out from 0.0 to 0.1"),
        ("clip = 0.01", "clip = 0.02", "loss.clip from 0.01 to 0.02"),
    ] {
        fs::write(&config, &whole).unwrap();
        if from.starts_with("size") {
            let text = whole.replace("held_out = 0.0\n", "").replacen(from, to, 1);
            fs::write(&config, text).unwrap();
        } else {
            edit(&config, from, to);
        }
        let edited = fs::read(&config).unwrap();
        let told = said(&mut resume(&run, &["--steps=6", "--set=watch.stop=false"]), 1);
        assert!(told.contains(&format!("the checkpoint 00000004 was made with: {says}")), "{told}");
        assert!(told.contains("Restore it, or change it on purpose with --set "), "{told}");
        assert!(fs::read(&config).unwrap() == edited && before == result(&run));
    }
    // Both learning rates are named at once.
    fs::write(&config, whole.replace(lr, "lr = 0.125")).unwrap();
    let told = said(&mut resume(&run, &["--steps=6"]), 1);
    assert!(told.contains("--set optimizer.critic.lr=… --set optimizer.generator.lr=…"), "{told}");
    fs::write(&config, &whole).unwrap();

    // What may change just so is not noted.
    resume(&run, &["--steps=5", "--set=output.samples=4", "--set=watch.stop=false", "--sample-every=3"]).assert().success();
    assert!(!run.join("changes.jsonl").exists());
    // What decided the beginning cannot change any more.
    let told = said(&mut resume(&run, &["--steps=6", "--set=init.conv=zeros"]), 1);
    assert!(told.contains("init.conv from") && told.contains("this one has begun"), "{told}");
    // Nor can other networks take up these weights, nor is anything noted then.
    let other = "--set=critic.layers=[{ linear = { out = 3 } }, 'relu', { linear = { out = 1 } }]";
    assert!(said(&mut resume(&run, &["--steps=6", other]), 1).contains("critic.safetensors"));
    assert!(!run.join("changes.jsonl").exists());
}

#[test]
fn a_change_on_purpose_is_noted_and_survives_a_kill() {
    let place = Place::new();
    let run = place.train("run", &["--steps=4"]);
    let set = "--set=optimizer.critic.lr=0.125";
    let mut command = std::process::Command::new(PROGRAM);
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).arg("--device=cpu").arg("--resume").arg(&run);
    let mut child = command.args(["--steps=1000000", "--checkpoint-every=1000000", set]).stderr(Stdio::null()).spawn().unwrap();
    wait_for(&run.join("changes.jsonl"));
    while fs::read_to_string(run.join("config.toml")).unwrap().matches("0.125").count() == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(latest(&run).ends_with("00000004"));
    // It goes on with what was asked for, without being told again.
    resume(&run, &["--steps=6"]).assert().success();
    let folder = RunFolder::open(&run).unwrap();
    assert_eq!(folder.config().unwrap().optimizer.critic.lr(), 0.125);
    let noted = changes::read(&folder).unwrap();
    assert_eq!((noted.len(), noted[0].step, noted[0].key.as_str()), (1, 4, "optimizer.critic.lr"));
    assert_eq!(noted[0].now.as_deref(), Some("0.125"));
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("Changed on the way") && report.contains("optimizer.critic.lr from"));
    // Back at the old checkpoint with the new config: as noted.
    resume(&run, &["--steps=7"]).assert().success();
    assert_eq!(changes::read(&folder).unwrap().len(), 1);
    // A larger batch is told of, too; the average of the weights can begin on the way.
    let told = said(&mut resume(&run, &["--steps=9", "--set=schedule.batch_size=16", "--set=schedule.ema_decay=0.9"]), 0);
    assert!(told.contains("changed on purpose after step 7: schedule.batch_size from 8 to 16"), "{told}");
    assert!(latest(&run).join("ema.safetensors").exists());
    resume(&run, &["--steps=10"]).assert().success();
}

/// Images are counted as they are shown, and lengths by them, whatever the batches were before.
#[test]
fn another_batch_is_counted_on() {
    let place = Place::new();
    // 50 images in batches of 8, five a step: two epochs and one batch.
    let run = place.train("run", &["--steps=3"]);
    let copy = place.path("copy");
    assert!(std::process::Command::new("cp").arg("-a").arg(&run).arg(&copy).status().unwrap().success());
    let last = |run: &Path| {
        let records = read_records(&RunFolder::open(run).unwrap()).unwrap();
        assert!(records.is_sorted_by_key(|record| record.images), "the count of images goes back");
        let last = records.last().unwrap();
        (last.step, last.images, last.epoch)
    };
    assert_eq!(last(&run), (3, 108, 2.16));
    // From there on in batches of 16: 16 and 2 that are left of the third epoch, and so on; 292 after step 6.
    let set = "--set=schedule.batch_size=16";
    resume(&run, &["--images=300", set]).assert().success();
    assert_eq!(last(&run), (7, 358, 7.16));
    let state: Value = serde_json::from_slice(&fs::read(latest(&run).join("state.json")).unwrap()).unwrap();
    assert_eq!(state["images"], 358);
    // Interrupted, it goes on so.
    resume(&copy, &["--steps=5", set]).assert().success();
    resume(&copy, &["--images=300"]).assert().success();
    assert_eq!(last(&copy), (7, 358, 7.16));
    assert!(result(&copy) == result(&run));
}

#[test]
fn another_loss_has_other_keys() {
    let place = Place::new();
    let run = place.train("run", &["--steps=2"]);
    let told = said(&mut resume(&run, &["--steps=3", "--set=loss={ kind = 'hinge' }"]), 0);
    assert!(told.contains("loss.kind from \"wgan\" to \"hinge\"") && told.contains("loss.clip from 0.01 to nothing"), "{told}");
    let told = said(&mut resume(&run, &["--steps=4", "--set=loss.kind=bce"]), 0);
    assert!(told.contains("loss.kind from \"hinge\" to \"bce\"") && told.contains("loss.reduction from nothing"), "{told}");
}

#[test]
fn what_changes_before_the_first_checkpoint_is_noted() {
    let place = Place::new();
    let run = place.train("run", &["--steps=2"]);
    // As a run is that was killed then.
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    fs::remove_file(run.join("generator.onnx")).unwrap();
    resume(&run, &["--steps=3", "--set=seed=7"]).assert().success();
    let noted = changes::read(&RunFolder::open(&run).unwrap()).unwrap();
    assert_eq!((noted[0].step, noted[0].key.as_str(), noted[0].now.as_deref()), (0, "seed", Some("7")));
    assert!(result(&run) == result(&place.train("straight", &["--steps=3", "--seed=7"])));
}

#[test]
fn a_changed_weight_is_noticed_without_the_list_of_checksums() {
    let place = Place::new();
    let run = place.train("run", &["--steps=2"]);
    let saved = latest(&run);
    fs::remove_file(saved.join("SHA256SUMS")).unwrap();
    for name in ["generator.safetensors", "critic.safetensors", "optimizer-critic.safetensors", "config.toml"] {
        let path = saved.join(name);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(&path, changed).unwrap();
        let told = said(&mut resume(&run, &["--steps=3"]), 1);
        assert!(told.contains(name) && told.contains("its checksum is not the one in state.json"), "{told}");
        if name.starts_with("generator") {
            assert!(said(gan_train(&["export"]).arg(&run), 1).contains("generator.safetensors: its checksum"));
        }
        fs::write(&path, whole).unwrap();
    }
    fs::remove_file(saved.join("config.toml")).unwrap();
    assert!(said(&mut resume(&run, &["--steps=3"]), 1).contains("config.toml"));

    // A checkpoint from before there were checksums is read as ever, its config being the run's.
    let mut state: Value = serde_json::from_slice(&fs::read(saved.join("state.json")).unwrap()).unwrap();
    state.as_object_mut().unwrap().remove("files").unwrap();
    fs::write(saved.join("state.json"), state.to_string()).unwrap();
    resume(&run, &["--steps=3"]).assert().success();
    assert!(result(&run) == result(&place.train("straight", &["--steps=3"])));
}

/// The weights are what they were trained as, whatever became of the run's config.
#[test]
fn an_export_goes_by_the_checkpoints_own_config() {
    let place = Place::new();
    let run = place.train("run", &["--steps=2"]);
    let whole = fs::read(run.join("generator.onnx")).unwrap();
    edit(&run.join("config.toml"), "law = \"uniform\"", "law = \"normal\"");
    edit(&run.join("config.toml"), "seed = 0", "seed = 3");
    gan_train(&["export"]).arg(&run).assert().success();
    assert!(whole == fs::read(run.join("generator.onnx")).unwrap());
}

#[test]
fn a_killed_start_is_taken_up_by_the_same_command() {
    let place = Place::new();
    let flags = ["--steps=30", "--checkpoint-every=30"];
    let straight = place.train("straight", &flags);
    let run = place.path("run");
    let config = fs::read(straight.join("config.toml")).unwrap();
    // Every half state, each with what the ones before have.
    let steps: [&dyn Fn(); 6] = [
        &|| fs::create_dir(&run).unwrap(),
        &|| fs::write(run.join(".lock"), "99999999\n").unwrap(),
        &|| ["samples", "checkpoints"].iter().for_each(|name| fs::create_dir(run.join(name)).unwrap()),
        &|| fs::write(run.join(".ganforge-aBc123"), "seed = ").unwrap(),
        &|| fs::write(run.join("config.toml"), &config).unwrap(),
        &|| {
            fs::create_dir(run.join("tensorboard")).unwrap();
            fs::create_dir(run.join("checkpoints/.partial-00000000")).unwrap();
            fs::write(run.join("checkpoints/.partial-00000000/critic.safetensors"), "half").unwrap();
            fs::write(run.join("samples/.ganforge-sheet"), "half").unwrap();
            fs::write(run.join("stats.jsonl"), "{\"step\": 1").unwrap();
            fs::write(run.join("report.json"), "{\"total_steps\": 30}").unwrap();
        },
    ];
    for last in 0..steps.len() {
        let _ = fs::remove_dir_all(&run);
        steps[..=last].iter().for_each(|step| step());
        if last == steps.len() - 1 {
            // Another config is another run; and what is not of a start is not touched.
            let other = said(&mut place.start("run", &["--steps=30", "--checkpoint-every=30", "--seed=1"]), 2);
            assert!(other.contains("holds a run already"), "{other}");
            for foreign in ["samples/photo.png", "checkpoints/00000030", "generator.onnx", "notes.txt"] {
                fs::write(run.join(foreign), "mine").unwrap();
                let told = said(&mut place.start("run", &flags), 2);
                assert!(told.contains("holds a run already"), "{foreign}: {told}");
                assert_eq!(fs::read_to_string(run.join(foreign)).unwrap(), "mine");
                fs::remove_file(run.join(foreign)).unwrap();
            }
        }
        place.start("run", &flags).assert().success();
        assert!(result(&straight) == result(&run), "state {last}");
        assert_tidy(&run);
    }
    // A folder of someone's own that is called as one of a run's.
    fs::create_dir_all(place.path("mine/samples")).unwrap();
    fs::write(place.path("mine/samples/00000001.png"), "mine").unwrap();
    assert!(said(&mut place.start("mine", &flags), 2).contains("is not empty"));
}

#[test]
fn a_start_killed_at_any_moment_is_taken_up() {
    let place = Place::new();
    let flags = ["--steps=60", "--checkpoint-every=60", "--set=output.log_every={ steps = 1 }"];
    let begun = Instant::now();
    let straight = place.train("straight", &flags);
    let whole = begun.elapsed();
    const ROUNDS: u32 = 8;
    for round in 0..ROUNDS {
        let run = place.path("run");
        let _ = fs::remove_dir_all(&run);
        let mut child = place.spawn("run", &flags);
        std::thread::sleep(whole * round / ROUNDS);
        let _ = child.kill();
        child.wait().unwrap();
        match run.join("checkpoints/00000060").exists() {
            true => resume(&run, &[]).assert().success(),
            false => place.start("run", &flags).assert().success(),
        };
        assert!(result(&straight) == result(&run), "round {round}");
        assert_tidy(&run);
    }
}

#[test]
fn a_run_that_lost_its_checkpoints_does_not_begin_again() {
    let place = Place::new();
    let run = place.train("run", &["--steps=30", "--checkpoint-every=10", "--set=output.log_every.steps=5"]);
    let log = fs::read(run.join("stats.jsonl")).unwrap();
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    let told = said(&mut resume(&run, &["--steps=40"]), 1);
    assert!(told.contains("no checkpoint any more") && told.contains("Restore"), "{told}");
    // The log alone tells it, too.
    fs::remove_file(run.join("generator.onnx")).unwrap();
    said(&mut resume(&run, &["--steps=40"]), 1);
    assert_eq!(fs::read(run.join("stats.jsonl")).unwrap(), log);

    // Killed before its first checkpoint: that it is to have more of them now changes nothing of that.
    let killed = place.train("killed", &["--steps=20", "--set=output.log_every.steps=5"]);
    fs::remove_dir_all(killed.join("checkpoints")).unwrap();
    fs::remove_file(killed.join("generator.onnx")).unwrap();
    let told = said(&mut resume(&killed, &["--steps=20", "--set=output.checkpoint_every.steps=10"]), 0);
    assert!(told.contains("up to which this run was logged: it begins again"), "{told}");
}

#[test]
fn a_log_is_never_written_through_a_link_and_never_doubled() {
    let place = Place::new();
    let run = place.train("run", &["--steps=20", "--checkpoint-every=10", "--set=output.log_every.steps=5"]);
    let steps = |run: &Path| -> Vec<u64> {
        let records = read_records(&RunFolder::open(run).unwrap()).unwrap();
        records.iter().map(|record| record.step).collect()
    };
    let log = fs::read_to_string(run.join("stats.jsonl")).unwrap();
    fs::write(run.join("stats.jsonl"), log.lines().map(|line| format!("{line}\n{line}\n")).collect::<String>()).unwrap();
    resume(&run, &["--steps=30"]).assert().success();
    assert_eq!(steps(&run), [5, 10, 15, 20, 25, 30]);
    #[cfg(unix)]
    {
        fs::remove_file(run.join("stats.jsonl")).unwrap();
        std::os::unix::fs::symlink(place.path("elsewhere"), run.join("stats.jsonl")).unwrap();
        resume(&run, &["--steps=40"]).assert().success();
        assert!(!place.path("elsewhere").exists());
        assert_eq!(steps(&run), [35, 40]);
    }
}

#[test]
fn a_result_is_never_written_over_what_it_is_made_from() {
    let place = Place::new();
    let run = place.train("run", &["--steps=10"]);
    let before = result(&run);
    let weights = latest(&run).join("generator.safetensors");
    for own in [run.join("config.toml"), run.join("stats.jsonl"), run.join("checkpoints/latest"), weights.clone()] {
        let told = said(gan_train(&["export"]).arg(&run).arg("--out").arg(&own), 2);
        assert!(told.contains("belongs to the run"), "{told}");
    }
    let copy = place.path("weights.safetensors");
    fs::copy(&weights, &copy).unwrap();
    let told = said(gan_train(&["export", "--preset=wgan-mnist-mlp"]).arg(&copy).arg("--out").arg(&copy), 2);
    assert!(told.contains("made from"), "{told}");
    let eval = ["--n=100", "--draws=1", "--no-neighbours", "--data=synthetic"];
    said(gan_train(&["eval"]).arg(&run).args(eval).arg("--out").arg(run.join("config.toml")), 2);
    assert_eq!(result(&run), before);
    gan_train(&["export"]).arg(&run).arg("--out").arg(run.join("generator.onnx")).assert().success();
}

#[test]
fn a_run_with_nothing_left_to_train_says_so() {
    let place = Place::new();
    let run = place.train("run", &["--steps=4"]);
    let times = || -> BTreeMap<String, SystemTime> {
        let files = names(&run).into_iter().filter(|name| run.join(name).is_file() && name != "generator.onnx");
        files.map(|name| (name.clone(), fs::metadata(run.join(&name)).unwrap().modified().unwrap())).collect()
    };
    let (before, whole) = (times(), result(&run));
    let told = said(&mut resume(&run, &[]), 0);
    assert!(told.contains("this run has 4 steps, as many as it was to have: nothing is trained"), "{told}");
    let told = said(&mut resume(&run, &["--steps=2"]), 0);
    assert!(told.contains("this run has 4 steps, more than the 2 it is to have now: nothing is trained"), "{told}");
    let told = said(&mut resume(&run, &["--set=optimizer.critic.lr=0.5"]), 0);
    assert!(told.contains("nothing is trained") && !told.contains("changed on purpose"), "{told}");
    assert!(told.contains("so this changes nothing: optimizer.critic.lr from 0.0001 to 0.5"), "{told}");
    assert_eq!(before, times(), "something was written again");
    // What was not yet exported is.
    fs::remove_file(run.join("generator.onnx")).unwrap();
    let output = resume(&run, &["--json"]).assert().success().get_output().stdout.clone();
    let summary: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((&summary["outcome"]["step"], &summary["outcome"]["total_steps"]), (&4.into(), &4.into()));
    assert!(summary["agreement"]["values"].is_number() && whole == result(&run));
    // And what was killed before its report gets one.
    fs::remove_file(run.join("report.html")).unwrap();
    resume(&run, &[]).assert().success();
    assert!(run.join("report.html").exists());
}

#[test]
fn a_run_does_without_its_sheets() {
    let place = Place::new();
    let run = place.train("run", &["--steps=4", "--sample-every=2"]);
    fs::write(run.join("samples/00000002.png"), "no picture").unwrap();
    let told = said(&mut resume(&run, &["--steps=6"]), 0);
    assert!(told.contains("TensorBoard does without a sheet of samples: ") && told.contains("00000002.png"), "{told}");
    assert!(fs::read_to_string(run.join("report.html")).unwrap().contains("Left out: 00000002.png"));
    fs::remove_dir_all(run.join("samples")).unwrap();
    resume(&run, &["--steps=8"]).assert().success();
    assert!(run.join("samples/00000008.png").exists());
    // A file is where the folder was; and while it runs.
    let flags = ["--steps=1000000", "--sample-every=5", "--set=output.log_every={ steps = 1 }"];
    let mut child = place.spawn("long", &flags);
    let long = place.path("long");
    wait_for(&long.join("samples/00000005.png"));
    fs::remove_dir_all(long.join("samples")).unwrap();
    wait_for(&long.join("samples"));
    let _ = fs::remove_dir_all(long.join("samples"));
    let _ = fs::write(long.join("samples"), "in the way");
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("interrupted: saved"), "{told}");
    assert!(!read_records(&RunFolder::open(&long).unwrap()).unwrap().is_empty());
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn describe(path: &Path, size: &str) -> Command {
    let mut command = limited(&["data", "--quiet", "--channels=3", "--size", size]);
    command.arg(path);
    command
}

#[test]
fn data_cost_what_they_hold_not_what_they_promise() {
    let place = Place::new();
    // Names in an archive that are no images: 9 GB at that size, if each had its place.
    let path = place.path("names.zip");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    for number in 0..3000 {
        archive.start_file(format!("{number}.png"), zip::write::SimpleFileOptions::default()).unwrap();
    }
    archive.finish().unwrap();
    let told = said(&mut describe(&path, "1024"), 1);
    assert!(told.contains("3,000 of 3,000 images are broken"), "{told}");

    // A million images of zeros in a small file.
    let path = place.path("bomb.idx.gz");
    fs::write(&path, gzip(&[header(1 << 20, 64), vec![0; 1 << 20]].concat())).unwrap();
    let told = said(&mut describe(&path, "64"), 1);
    assert!(told.contains("more than 100 times the file") && told.contains("unpack the file"), "{told}");
    // Unpacked, but with a hole for its pixels: what they need is compared with what there is.
    let path = place.path("hole.idx");
    let mut file = File::create(&path).unwrap();
    file.write_all(&header(1 << 30, 64)).unwrap();
    file.set_len(16 + (1 << 42)).unwrap();
    let told = said(&mut describe(&path, "64"), 1);
    assert!(told.contains("1073741824 images need") && told.contains("GANFORGE_MEMORY"), "{told}");
    // A header that promises more than follows is told so without a look at the rest.
    file.set_len(4096).unwrap();
    assert!(said(&mut describe(&path, "64"), 1).contains("but only 4080 bytes follow"));

    // The bound can be set, by its name.
    let small = place.path("images.idx");
    let told = said(describe(&small, "28").env("GANFORGE_MEMORY", "0.00001"), 1);
    assert!(told.contains("50 images need") && told.contains("GANFORGE_MEMORY allows"), "{told}");
    assert!(said(describe(&small, "28").env("GANFORGE_MEMORY", "much"), 2).contains("GANFORGE_MEMORY is no number of GiB"));
    describe(&small, "28").env("GANFORGE_MEMORY", "0.5").assert().success();
}

/// Parts of 64 MiB: images from several, with broken ones between, are the same as one by one.
#[test]
fn images_of_many_parts_keep_their_order() {
    let place = Place::new();
    let folder = place.path("many");
    fs::create_dir(&folder).unwrap();
    for number in 0..70u8 {
        let path = folder.join(format!("{number:02}.png"));
        match number % 3 {
            0 => fs::write(path, "broken").unwrap(),
            _ => image::GrayImage::from_pixel(8, 8, image::Luma([number])).save(path).unwrap(),
        }
    }
    let form = config::DataConfig::plain("", 1024, 3);
    let data = ganforge::data::load(folder.to_str().unwrap(), &form, &ganforge::progress::Silent).unwrap();
    let whole: Vec<u8> = (0..70).filter(|number| number % 3 != 0).collect();
    assert_eq!((data.len, data.report.broken.len()), (whole.len(), 70 - whole.len()));
    for (index, grey) in whole.iter().enumerate() {
        assert!(data.image(index).iter().all(|pixel| pixel == grey), "{index}");
    }
}

/// A `.pth` with a pickle.
fn pth(path: &Path, pickle: &[u8]) {
    let mut archive = zip::ZipWriter::new(File::create(path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("net/data.pkl", stored).unwrap();
    archive.write_all(pickle).unwrap();
    archive.finish().unwrap();
}

#[test]
fn weights_cost_what_they_hold_not_what_they_promise() {
    let place = Place::new();
    let export = |path: &Path| said(limited(&["export", "--preset=wgan-mnist-mlp"]).arg(path), 1);
    // A text of 2 MB out of the memo, six thousand times: 12 GB.
    let text = [b"X".as_slice(), &2_000_000u32.to_le_bytes(), &vec![b'a'; 2_000_000]].concat();
    let path = place.path("memo.pth");
    pth(&path, &[b"\x80\x02(".as_slice(), &text, b"q\x00", &b"h\x00".repeat(6000), b"l."].concat());
    let told = export(&path);
    assert!(told.contains("memo.pth") && told.contains("longer, than any state dict"), "{told}");
    // What is in the way of a list is not told whole.
    pth(&path, &[b"\x80\x02".as_slice(), &text, b"Na."].concat());
    assert!(export(&path).len() < 2000);
    // A file that is mostly hole, with and without a header that says it is not.
    let path = place.path("hole.safetensors");
    File::create(&path).unwrap().set_len(60 << 30).unwrap();
    assert!(export(&path).contains("its header"));
    let header = format!("{{\"w\":{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[0,{}]}}}}", 1u64 << 44, 1u64 << 46);
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(header.as_bytes())).unwrap();
    assert!(export(&path).contains("its header tells of"));
    file.set_len(8 + header.len() as u64 + (1 << 46)).unwrap_or_default(); // not every file system has files of that size
    assert!(export(&path).contains("hole.safetensors"));
}

#[test]
fn configs_of_any_depth_and_size_are_refused() {
    let place = Place::new();
    let path = place.path("deep.toml");
    let keys = |between: &str| vec!["a"; 60_000].join(between);
    let train = |flags: &[&str]| {
        let mut command = limited(&["--data=synthetic", "--quiet", "--out"]);
        command.arg(place.path("run")).args(flags);
        said(&mut command, if flags[0].starts_with("--config") { 1 } else { 2 })
    };
    let config = format!("--config={}", path.display());
    let quoted = keys("'.'");
    for text in [
        format!("{} = 1", keys(".")),
        format!("[{}]\nb = 1", keys(" . ")),
        format!("[data]\nx = {{ {} = 1 }}", keys(".")),
        format!("x = '''a'b''' # c\n'{quoted}' = 1"),
        format!("x = \"a\\\"b\"\n{} = 1", keys(".")),
    ] {
        fs::write(&path, text).unwrap();
        let told = train(&[&config]);
        assert!(told.contains("deep.toml: a key is made of more than 16 names"), "{told}");
    }
    fs::write(&path, format!("a = {}", "[".repeat(60_000))).unwrap();
    assert!(train(&[&config]).contains("deep.toml"));
    let deep = format!("--set={}=1", vec!["a"; 10_000].join("."));
    assert!(train(&["--preset=digits", &deep]).contains("its key is made of 10000 names"));
    let deep = format!("--set=a={{ {} = 1 }}", vec!["a"; 10_000].join("."));
    assert!(train(&["--preset=digits", &deep]).contains("a key is made of more than 16 names"));
    // Dots in strings, numbers and lists are none of keys.
    let text = format!("base = 'digits'\nabout = \"{0}\"\ninit_from = '''{0}'''\n# {0}\n", keys("."));
    assert!(config::parse_table(&text, "it").is_ok());
    assert!(config::parse_table(&format!("x = [{}]", "0.5, 1.5, ".repeat(1000)), "it").is_ok());

    let with = |settings: &[&str]| {
        let mut table = config::preset_table("wgan-mnist-mlp").unwrap();
        settings.iter().for_each(|setting| config::set(&mut table, setting).unwrap());
        TrainConfig::from_table(table, "it").map(|_| ()).map_err(|e| e.to_string())
    };
    let told = with(&["latent.size=65536", "schedule.batch_size=65536"]).unwrap_err();
    assert!(told.contains("so many latents a batch are more than 1 GiB"), "{told}");
    let wide = "critic.layers=[{ linear = { out = 65536 } }, 'relu', { linear = { out = 1 } }]";
    assert_eq!(with(&[wide, "schedule.batch_size=1024"]), Ok(()));
    let told = with(&[
        "schedule.batch_size=65536",
        &format!(
            "critic.layers=[{}'relu', {{ linear = {{ out = 1 }} }}]",
            "{ linear = { out = 30000 } }, 'relu', 'relu', 'relu', 'relu', 'relu', ".repeat(4)
        ),
    ])
    .unwrap_err();
    assert!(told.contains("schedule.batch_size can be"), "{told}");
}

/// A pipe that nobody writes to, a device, a folder.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let place = Place::new();
    let pipe = place.path("pipe");
    let make = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    make(&pipe);
    let run = place.train("run", &["--steps=2"]);
    let begun = Instant::now();
    let short = |mut command: Command| said(command.timeout(Duration::from_secs(30)), 1);
    let new = |flag: &str, path: &Path| {
        let mut command = place.start("new", &["--steps=1"]);
        command.arg(flag).arg(path);
        command
    };
    for path in [&pipe, Path::new("/dev/zero"), place.0.path()] {
        let mut command = gan_train(&["--data=synthetic", "--quiet", "--out", "never", "--config"]);
        command.arg(path);
        let told = short(command);
        assert!(told.contains(&path.display().to_string()) && told.contains(", not a file"), "{told}");
    }
    for path in [&pipe, Path::new("/dev/zero")] {
        let told = short(new("--init-from", path));
        assert!(told.contains(", not a file"), "{told}");
        let mut command = gan_train(&["data"]);
        command.arg(path);
        assert!(short(command).contains("neither a file nor a folder"));
    }
    for name in
        ["checkpoints/latest", "stats.jsonl", "checkpoints/00000002/critic.safetensors", "checkpoints/00000002/state.json"]
    {
        let (path, kept) = (run.join(name), place.path("kept"));
        fs::rename(&path, &kept).unwrap();
        make(&path);
        let told = short(resume(&run, &["--steps=3"]));
        assert!(told.contains(name) && told.contains("a pipe or a socket"), "{told}");
        fs::remove_file(&path).unwrap();
        fs::rename(&kept, &path).unwrap();
    }
    // Among images it is a broken one.
    let folder = place.path("images");
    fs::create_dir(&folder).unwrap();
    for name in ["a.png", "b.png"] {
        image::GrayImage::new(8, 8).save(folder.join(name)).unwrap();
    }
    make(&folder.join("c.png"));
    let mut command = gan_train(&["data", "--quiet", "--size=8"]);
    let output = command.arg(&folder).timeout(Duration::from_secs(30)).assert().success().get_output().stdout.clone();
    let text = String::from_utf8(output).unwrap();
    assert!(text.contains("2 images") && text.contains("c.png: it is a pipe or a socket"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(100));
    resume(&run, &["--steps=3"]).assert().success();
}

#[test]
fn a_pointer_is_a_number_and_is_never_echoed() {
    let place = Place::new();
    let run = place.train("run", &["--steps=2"]);
    let pointer = run.join("checkpoints/latest");
    for text in ["\x1b[2J\n".to_string(), "9".repeat(40), "../../x".to_string(), "x".repeat(10 << 20)] {
        fs::write(&pointer, text).unwrap();
        let told = said(&mut resume(&run, &["--steps=3", "--quiet"]), 1);
        assert!(told.len() < 400 && told.contains("latest") && !told.contains('\x1b'), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn names_from_outside_are_shown_and_not_obeyed() {
    assert_eq!(text::shown("a\n\tb – ü"), "a\n\tb – ü");
    assert_eq!(text::shown("\x1b[2J\u{9b}1m\u{202e}x\u{2066}\r\x7f"), "\\u001b[2J\\u009b1m\\u202ex\\u2066\\u000d\\u007f");
    assert_eq!(text::on_one_line("a\nerror: b"), "a\\u000aerror: b");

    let place = Place::new();
    let folder = place.path("images");
    fs::create_dir(&folder).unwrap();
    for name in ["a.png", "b.png"] {
        image::GrayImage::new(8, 8).save(folder.join(name)).unwrap();
    }
    fs::write(folder.join("\x1b[2J\nerror: forged \u{202e}.png"), "broken").unwrap();
    let output = gan_train(&["data", "--size=8"]).arg(&folder).assert().success().get_output().clone();
    for text in [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()) {
        assert!(!text.contains(['\x1b', '\u{202e}']) && !text.lines().any(|line| line.starts_with("error")), "{text:?}");
    }
    // In errors, and in the progress of a run whose folder is called so; its summary is JSON, and tells the very name.
    let name = "r\x1b[31m\nerror: forged \u{202e}\u{85}";
    let told = said(gan_train(&["export"]).arg(place.path(name)), 2);
    assert!(!told.contains('\x1b') && told.trim_end().lines().count() == 1, "{told:?}");
    // In what the parser of the command line says.
    for arguments in [vec![name], vec!["export", "x", "--layout", name], vec!["--\x1b[2J\nerror: forged=1"]] {
        let told = said(&mut gan_train(&arguments), 2);
        assert!(!told.contains(['\x1b', '\u{202e}', '\u{85}']) && !told.contains("\nerror: forged"), "{told:?}");
    }
    let output = place.start(name, &["--steps=1", "--json"]).assert().success().get_output().clone();
    let (summary, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!summary.contains(['\x1b', '\u{202e}', '\u{85}']) && !told.contains(['\x1b', '\u{202e}', '\u{85}']), "{told:?}");
    assert!(!told.lines().any(|line| line.starts_with("error")), "{told:?}");
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["run"].as_str().unwrap(), place.path(name).to_str().unwrap());
}

#[test]
fn reports_tell_what_the_data_are_called() {
    let place = Place::new();
    let run = place.train("run", &["--steps=2"]);
    let page = || fs::read_to_string(run.join("report.html")).unwrap();
    let folder = place.0.path().canonicalize().unwrap().display().to_string();
    let facts = fs::read_to_string(run.join("report.json")).unwrap();
    assert!(page().contains("images.idx") && !page().contains(&folder) && !facts.contains(&folder));
    gan_train(&["report", "--paths"]).arg(&run).assert().success();
    assert!(page().contains(&format!("{folder}/images.idx")));
    gan_train(&["report"]).arg(&run).assert().success();
    assert!(!page().contains(&folder));
    // The run itself must find them again.
    assert!(fs::read_to_string(run.join("config.toml")).unwrap().contains(&folder));
    let onnx = fs::read(run.join("generator.onnx")).unwrap();
    assert!(!String::from_utf8_lossy(&onnx).contains(&folder));
}
