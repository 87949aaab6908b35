//! A training that is given data and a place only: what it chooses, and says, of good data and of bad.

use image::{GrayImage, RgbImage};

use super::*;

/// Images that are told apart, in colour or grey.
fn draw(path: &Path, number: u32, [width, height]: [u32; 2], colour: bool) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let value = |x: u32, y: u32, channel: u32| ((x * 7 + y * 3 * (1 + channel) + number * 41 + channel * 60) % 256) as u8;
    match colour {
        true => RgbImage::from_fn(width, height, |x, y| [0, 1, 2].map(|channel| value(x, y, channel)).into()).save(path),
        false => GrayImage::from_fn(width, height, |x, y| [value(x, y, 0)].into()).save(path),
    }
    .unwrap();
}

fn folder(place: &Place, name: &str, images: u32, size: [u32; 2], colour: bool) -> PathBuf {
    let folder = place.path(name);
    (0..images).for_each(|number| draw(&folder.join(format!("{number:04}.png")), number, size, colour));
    folder
}

/// What is said, and the config that is printed, without training.
fn dry(data: &Path, flags: &[&str]) -> (String, TrainConfig) {
    let mut command = gan_train(&["--device=cpu", "--dry-run", "--data"]);
    let output = command.arg(data).args(flags).assert().success().get_output().clone();
    let [said, printed] = [output.stderr, output.stdout].map(|text| String::from_utf8(text).unwrap());
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("chosen: ")).collect();
    let [line] = lines[..] else { panic!("one line says it: {said}") };
    assert!(line.ends_with(". Otherwise: --preset NAME (`gan-train presets` lists them), --size, --set KEY=VALUE"), "{line}");
    (line.to_string(), TrainConfig::from_toml(&printed, "it").unwrap())
}

#[test]
fn data_and_a_place_are_enough() {
    let place = Place::new();
    let data = folder(&place, "faces", 12, [70, 64], true);
    let run = place.path("run");
    let mut command = gan_train(&["--device=cpu", "--json", "--width=0.05", "--batch-size=4", "--steps=4", "--data"]);
    let output = command.arg(&data).arg("--out").arg(&run).assert().success().get_output().clone();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("chosen: dcgan-64 in colour at 64×64 for 12 colour images of about 64×64 pixels: layers 0."),
        "{said}"
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["chosen"].as_str().unwrap().starts_with("dcgan-64 in colour at 64×64 for 12 "), "{summary}");
    // The config is complete: a resume and an export ask for nothing.
    let config = RunFolder::open(&run).unwrap().config().unwrap();
    assert_eq!((config.preset.as_str(), config.data.flip, config.schedule.length), ("dcgan-64", true, Span::Steps(4)));
    resume(&run, &["--steps=6"]).assert().success();
    gan_train(&["export"]).arg(&run).assert().success();
    let whole = place.path("whole");
    let mut command = gan_train(&["--quiet", "--device=cpu", "--width=0.05", "--batch-size=4", "--steps=6", "--data"]);
    command.arg(&data).arg("--out").arg(&whole).assert().success().stderr("");
    assert_same("a choice, resumed", &run, &whole);
    // Weights to begin with, and more data.
    let more = folder(&place, "more", 5, [64, 64], true);
    let mut command = gan_train(&["--quiet", "--device=cpu", "--width=0.05", "--steps=2", "--data"]);
    command.arg(&data).arg("--data").arg(&more).arg("--init-from").arg(&run).arg("--out").arg(place.path("next"));
    command.assert().success();
    assert_eq!(state(&place.path("next")).images, 34, "every batch is of all 17");
}

#[test]
fn a_choice_fits_what_was_found() {
    let place = Place::new();
    let form = |config: &TrainConfig| (config.data.size, config.data.channels, config.data.classes);
    // Digits with labels: the built-in ones have 2,000 images a class.
    let (line, config) = dry("synthetic".as_ref(), &[]);
    assert!(
        line.contains("dcgan-28 in grey at 28×28 for 20,000 grey images") && line.contains("told the 10 classes"),
        "{line}"
    );
    assert_eq!((form(&config), config.data.class_names.len()), ((28, 1, 10), 10));
    assert_eq!(form(&dry("synthetic".as_ref(), &["--set=data.classes=0", "--size=32"]).1), (32, 1, 0));
    assert_eq!(form(&dry(&place.data(), &[]).1), (28, 1, 0));

    let grey = folder(&place, "grey", 3, [300, 300], false);
    let (line, config) = dry(&grey, &[]);
    assert!(form(&config) == (64, 1, 0) && !config.data.flip && line.contains("3 grey images of about 300×300"), "{line}");
    assert_eq!(form(&dry(&grey, &["--size=128", "--width=0.05"]).1), (128, 1, 0));

    for (number, class) in ["a", "b", "c", "a", "b", "c"].into_iter().enumerate() {
        draw(&place.path("classes").join(class).join(format!("{number}.png")), number as u32, [33, 99], true);
    }
    let (line, config) = dry(&place.path("classes"), &[]);
    assert!(form(&config) == (32, 3, 0) && line.contains("not told the 3 classes (one has 2 images, and 500"), "{line}");
    assert_eq!(form(&dry(&place.path("classes"), &["--set=data.classes=3"]).1), (32, 3, 3));

    for number in 0..1000 {
        draw(&place.path("thousand").join(format!("{number}/it.png")), number, [8, 8], true);
    }
    let (line, config) = dry(&place.path("thousand"), &["--width=0.1"]);
    assert!(form(&config) == (28, 3, 0) && !line.contains("classes"), "{line}");

    let mixed = folder(&place, "mixed", 4, [64, 80], true);
    draw(&mixed.join("grey.png"), 9, [64, 64], false);
    let (line, config) = dry(&mixed, &[]);
    assert!(form(&config) == (64, 3, 0) && line.contains("5 images, 4 of them in colour, of about 64×64 pixels"), "{line}");
}

#[test]
fn data_that_nothing_can_be_chosen_for() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let one = folder(&place, "one", 1, [64, 64], true);
    let refuse = |data: &Path, code: i32| {
        let mut command = gan_train(&["--device=cpu", "--data"]);
        let told = complaint(command.arg(data).arg("--out").arg(place.path("run")), code);
        assert!(!place.path("run").exists());
        told
    };
    assert!(refuse(&place.path("empty"), 1).contains("no images found"));
    let told = refuse(&one, 2);
    assert!(told.contains("one image: there is nothing to learn"), "{told}");
    assert!(refuse(&place.path("nowhere"), 2).contains("no file or folder of that name"));
}

#[test]
fn samples_that_stay_flat_are_owned_up_to() {
    const EVERY: &str = "--set=watch.every={ images = 2500 }";
    const NEVER: &str = "--set=watch.every={ images = 100000 }";
    let place = Place::new();
    let said = |name: &str, flags: [&str; 3]| {
        let mut command =
            gan_train(&["--device=cpu", "--preset=digits", "--batch-size=100", "--width=0.1", "--data=synthetic"]);
        command.arg("--set=watch.judge_samples=0").arg("--out").arg(place.path(name)).args(flags);
        String::from_utf8(command.assert().success().get_output().stderr.clone()).unwrap()
    };
    // It does not learn: every sample stays as grey as it began.
    let flat = said("flat", ["--lr=1e-9", "--images=10000", EVERY]);
    assert_eq!(flat.matches("note: the samples are flat after 10,000 images: their contrast is 0.0").count(), 1, "{flat}");
    assert!(flat.contains("optimizer.generator.lr is perhaps too low, 1e-9"), "{flat}");
    let contrasts = |name: &str| records(&place.path(name)).iter().filter_map(|record| record.contrast).collect::<Vec<_>>();
    assert!(contrasts("flat").len() == 4 && contrasts("flat").iter().all(|contrast| *contrast < 0.15));
    // One that ends before anybody has looked owns up to it at its end.
    let short = said("short", ["--lr=1e-9", "--images=3000", NEVER]);
    assert!(short.contains("warning: the samples are flat after 3,000 images: their contrast is 0.0"), "{short}");
    // The same may be for want of steps.
    let few = said("few", ["--lr=1e-5", "--images=3000", NEVER]);
    assert!(few.contains("Steps were perhaps too few so far, 30 of 100 images"), "{few}");
    let smoke = said("smoke", ["--lr=1e-9", "--images=400", NEVER]);
    assert!(!smoke.contains("flat after"), "{smoke}");
    // It does: nothing is said.
    let sound = said("sound", ["--lr=2e-3", "--images=10000", EVERY]);
    assert!(!sound.contains("flat after"), "{sound}");
    assert!(contrasts("sound").last().unwrap() > &0.15, "{:?}", contrasts("sound"));
}
