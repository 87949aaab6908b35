//! What the log, the watchdog and the judge make of a run.

use super::*;

#[test]
fn the_score_of_held_out_images_is_logged() {
    let place = Place::new();
    let run = place.train("run", DROPOUT, &["--epochs=1", "--set=data.held_out=0.2", "--set=output.log_every={ steps = 1 }"]);
    let records = records(&run);
    assert_eq!((records.len(), records[2].images), (3, 40));
    assert!(records.iter().all(|record| record.score_held_out.is_some_and(f64::is_finite)));
    assert_eq!(state(&run).images, 40);
}

#[test]
fn a_diverging_run_stops_and_keeps_what_was_good() {
    let place = Place::new();
    // Looked at after every step, or only saved after every step.
    let system = [DROPOUT, &["--set=optimizer.generator={ kind = 'sgd', lr = 1e6 }"]].concat();
    let system =
        [&system[..], &["--set=optimizer.critic={ kind = 'sgd', lr = 1e6 }", "--set=output.keep_checkpoints=1"]].concat();
    for (name, every) in [("log", "{ steps = 1 }"), ("save", "{ steps = 1000 }")] {
        let log = format!("--set=output.log_every={every}");
        let mut command = gan_train(&["--quiet", "--device=cpu", "--steps=500", "--checkpoint-every=1", &log]);
        command.arg("--data").arg(place.data()).arg("--out").arg(place.path(name)).args(&system);
        let told = complaint(&mut command, 1);
        assert!(
            told.contains("training diverged") && told.contains("optimizer.critic.lr") && told.contains("--set KEY=VALUE"),
            "{told}"
        );
        let run = RunFolder::open(&place.path(name)).unwrap();
        let kept = checkpoint::latest(&run).unwrap().expect("the first step was sound");
        for tensor in checkpoint::read_generator(&kept, Weights::Raw).unwrap().values() {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "a broken checkpoint was saved");
        }
        assert!(told.contains("the best, is kept and exported") && run.onnx_file().exists(), "{told}");
    }
}

#[test]
fn what_the_watchdog_says_stays_though_the_run_goes_on() {
    let place = Place::new();
    const WILD: System = &[
        "--preset=wgan-mnist-mlp",
        "--batch-size=8",
        "--lr=0.1",
        "--set=watch.every={ images = 1000 }",
        "--set=watch.judge_samples=0",
    ];
    let flags = ["--images=20000", "--set=watch.stop=false", "--json"];
    let told = place.command("on", WILD, &flags).assert().success().get_output().stdout.clone();
    let summary: serde_json::Value = serde_json::from_slice(&told).unwrap();
    let outcome = &summary["outcome"];
    assert_eq!((&outcome["warnings"][0]["trouble"], &outcome["verdict"]), (&"dead-critic".into(), &serde_json::Value::Null));
    let report = fs::read_to_string(place.path("on").join("report.html")).unwrap();
    assert!(report.contains("the run went on") && report.contains("dead critic at step"));
    // A resume knows it, too; and where the watchdog may end a run, it does.
    let again = resume(&place.path("on"), &["--images=20200", "--json"]).assert().success().get_output().stdout.clone();
    let again: serde_json::Value = serde_json::from_slice(&again).unwrap();
    assert_eq!(again["outcome"]["warnings"], outcome["warnings"]);
    let told = complaint(&mut place.command("off", WILD, &["--images=20000"]), 1);
    assert!(told.contains("dead critic at step"), "{told}");
    // What it looked like in the end is there to be seen.
    let last = read_records(&RunFolder::open(&place.path("off")).unwrap()).unwrap().pop().unwrap();
    assert!(place.path("off").join(format!("samples/{:08}.png", last.step)).is_file(), "step {}", last.step);
}

#[test]
fn a_run_that_ends_before_the_watchdog_is_sure_says_what_it_saw() {
    let place = Place::new();
    let train = |name: &str, flags: &[&str]| {
        let mut command = gan_train(&["--device=cpu", "--preset=digits", "--batch-size=16", "--data=synthetic"]);
        command.arg("--out").arg(place.path(name)).arg("--set=watch.judge_samples=0").args(flags);
        String::from_utf8_lossy(&command.assert().success().get_output().stderr).into_owned()
    };
    let told = train("wild", &["--lr=5", "--steps=60", "--set=watch.every={ images = 100 }"]);
    assert!(told.contains("the run ends with signs of trouble (dead critic)"), "{told}");
    assert!(told.contains("nothing has come of this run"), "{told}");
    let told = train("still", &["--lr=1e3", "--steps=30"]);
    assert!(told.contains("the critic's gradient is exactly 0 at the end: it does not learn any more"), "{told}");
    let told = train("sound", &["--steps=2"]);
    assert!(!told.contains("warning: the"), "{told}");
}

/// Finds everything better than what was before.
struct Flatterer(std::cell::Cell<f64>);

impl Judge for Flatterer {
    fn distance(&self, _: &Images) -> ganforge::error::Result<f64> {
        self.0.set(self.0.get() - 1.0);
        Ok(self.0.get())
    }
}

#[test]
fn the_end_of_a_run_is_judged_too() {
    let place = Place::new();
    let data = place.data().display().to_string();
    // Each judge finds everything better than the one before did.
    let calls = std::cell::Cell::new(0);
    let train = |name: &str, steps: u64| {
        calls.set(calls.get() + 1);
        let mut table = config::preset_table("digits").unwrap();
        let flags =
            [DROPOUT, &["--set=output.checkpoint_every={ steps = 4 }", "--set=watch.judge_every={ steps = 4 }"]].concat();
        let settings = flags.iter().filter_map(|flag| flag.strip_prefix("--set="));
        let more = [format!("data.source={data}"), format!("schedule.length={{ steps = {steps} }}")];
        settings.map(|setting| setting.to_string()).chain(more).for_each(|setting| config::set(&mut table, &setting).unwrap());
        let config = TrainConfig::from_table(table, "it").unwrap();
        let images = data::load(&data, &config.data, &Silent).unwrap();
        let path = place.path(name);
        let folder = if path.exists() { RunFolder::resume(&path).unwrap() } else { RunFolder::create(&path, &config).unwrap() };
        let (judge, stop) = (Flatterer(std::cell::Cell::new(1000.0 - 10.0 * f64::from(calls.get()))), false.into());
        let (device, progress, judge) = (Device::Cpu, &Silent, Some(&judge as &dyn Judge));
        let (config, data, folder, set) = (&config, &images, &folder, &["output".to_string()][..]);
        train::train(&TrainingJob { config, data, device: &device, folder, progress, stop: &stop, judge, set }).unwrap()
    };
    let best = |name: &str| fs::read_to_string(place.path(name).join("checkpoints/best")).unwrap().trim().to_string();

    // Measured at 4 and, by itself, at the end.
    let outcome = train("run", 6);
    assert_eq!((outcome.best.unwrap().step, outcome.measurements, best("run")), (6, 2, "00000006".to_string()));
    let report = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(report.contains("the least of 2 measured"), "{report}");
    let (_, chart) = report.split_once("Fréchet distance (lower is better)").unwrap();
    assert_eq!(chart.split("</svg>").next().unwrap().matches("<circle").count(), 2, "{chart}");
    // What goes on from there knows nothing of it, and asked for nothing more it is known again.
    let run = RunFolder::open(&place.path("run")).unwrap();
    let saved = checkpoint::latest(&run).unwrap().unwrap();
    assert_eq!(checkpoint::read_state(&saved).unwrap().watchdog.best.map(|best| best.step), Some(4));
    let outcome = train("run", 6);
    assert_eq!((outcome.best.unwrap().step, outcome.measurements, best("run")), (6, 2, "00000006".to_string()));
    train::report::rewrite(&run, train::report::Paths::Hidden).unwrap();
    assert!(fs::read_to_string(place.path("run/report.html")).unwrap().contains("step 6 – "));

    // Lost or damaged, it is measured again.
    let end = place.path("run/checkpoints/end.json");
    for damage in [None, Some("x"), Some("{\"step\":5,\"quality\":0.1}"), Some("{\"step\":6,\"quality\":-5.0}")] {
        fs::remove_file(&end).unwrap();
        damage.iter().for_each(|text| fs::write(&end, text).unwrap());
        let outcome = train("run", 6);
        assert_eq!((outcome.best.unwrap().step, best("run")), (6, "00000006".to_string()), "{damage:?}");
    }

    // Made longer, it is the run that was as long from the beginning; at a measured end nothing is measured twice.
    train("run", 8);
    assert!(!place.path("run/checkpoints/end.json").exists());
    let whole = train("whole", 8);
    assert_eq!((whole.best.unwrap().step, whole.measurements), (8, 2));
    let weights = |name: &str| fs::read(place.path(name).join("checkpoints/00000008/generator.safetensors")).unwrap();
    assert!(weights("run") == weights("whole"));
}

#[test]
fn what_has_diverged_is_never_the_best() {
    let place = Place::new();
    let mut table = config::preset_table("digits").unwrap();
    let data = place.data().display().to_string();
    let flags = [DROPOUT, &["--set=output.checkpoint_every={ steps = 100 }", "--set=watch.judge_every={ steps = 2 }"]].concat();
    let settings = flags.iter().filter_map(|flag| flag.strip_prefix("--set="));
    settings.chain([&*format!("data.source={data}")]).for_each(|setting| config::set(&mut table, setting).unwrap());
    for wild in ["generator", "critic"] {
        config::set(&mut table, &format!("optimizer.{wild}={{ kind = 'sgd', lr = 1e6 }}")).unwrap();
    }
    config::set(&mut table, "schedule.length={ steps = 500 }").unwrap();
    let config = TrainConfig::from_table(table, "it").unwrap();
    let images = data::load(&data, &config.data, &Silent).unwrap();
    let folder = RunFolder::create(&place.path("run"), &config).unwrap();
    let (judge, stop) = (Flatterer(std::cell::Cell::new(0.0)), false.into());
    let (device, progress, judge) = (Device::Cpu, &Silent, Some(&judge as &dyn Judge));
    let job = TrainingJob {
        config: &config,
        data: &images,
        device: &device,
        folder: &folder,
        progress,
        stop: &stop,
        judge,
        set: &[],
    };
    let outcome = train::train(&job).unwrap();
    assert_eq!(outcome.verdict.map(|verdict| verdict.trouble), Some(Trouble::Divergence));
    assert!(folder.sample_file(outcome.step).is_file());
    // The last sound measurement, and it was saved then.
    let best = outcome.best.expect("the first steps were sound");
    assert!(best.step < outcome.step && best.quality.is_some());
    let kept = checkpoint::find(&folder, Which::Best).unwrap().unwrap();
    assert_eq!(checkpoint::read_state(&kept).unwrap().step, best.step);
}
