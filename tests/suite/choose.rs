//! What is trained with where nobody says: the choice for a table of facts, and what is said of it.

use ganforge::config::{Facts, Precision, Span, TrainConfig};
use ganforge::data::{ClassCount, DataReport};

/// A report of so many images of one size, so many of them in colour.
fn report(images: usize, size: (u32, u32), colour: usize) -> DataReport {
    let mut report = DataReport { found: images, used: images, colour, grey: images - colour, ..DataReport::default() };
    report.sizes.insert(size, images);
    report
}

fn with_classes(mut report: DataReport, classes: &[(&str, usize)]) -> DataReport {
    let class = |(number, (name, images)): (usize, &(&str, usize))| ClassCount {
        number,
        name: Some(name.to_string()),
        images: *images,
    };
    report.classes = classes.iter().enumerate().map(class).collect();
    report
}

fn on_cpu(report: &DataReport) -> Facts {
    Facts::of(report, false, Precision::F32)
}

/// The config that is chosen, and what is said of it.
fn chosen(facts: &Facts, size: Option<usize>) -> (TrainConfig, String) {
    let config = TrainConfig::from_table(facts.choose(size, None).unwrap(), "it").unwrap();
    let told = facts.told(&config);
    assert!(!told.contains('\n'), "{told}");
    (config, told)
}

#[test]
fn size_and_colour_follow_the_images() {
    let form = |images: usize, size: (u32, u32), colour: usize, asked: Option<usize>| {
        let (config, _) = chosen(&on_cpu(&report(images, size, colour)), asked);
        (config.preset, config.data.size, config.data.channels, config.data.flip)
    };
    let dcgan = |size, channels, flip| ("dcgan-64".to_string(), size, channels, flip);
    let signs = ("dcgan-28".to_string(), 28, 1, false);
    assert_eq!(form(60_000, (28, 28), 0, None), signs);
    assert_eq!(form(60_000, (32, 32), 0, None), signs);
    assert_eq!(form(60_000, (28, 28), 0, Some(32)), dcgan(32, 1, false));
    assert_eq!(form(60_000, (33, 40), 0, None), dcgan(32, 1, false));
    assert_eq!(form(500, (300, 300), 0, None), dcgan(64, 1, false));
    assert_eq!(form(50_000, (32, 32), 50_000, None), dcgan(32, 3, true));
    assert_eq!(form(2959, (63, 200), 2959, None), dcgan(32, 3, true), "never larger than the images");
    assert_eq!(form(2959, (64, 64), 2959, None), dcgan(64, 3, true));
    assert_eq!(form(2959, (4000, 3000), 2959, None), dcgan(64, 3, true));
    assert_eq!(form(2959, (4000, 3000), 2959, Some(128)), dcgan(128, 3, true));
    assert_eq!(form(2959, (48, 48), 2959, Some(64)), dcgan(64, 3, true));
    // StackedMNIST: a mirrored digit is none.
    assert_eq!(form(128_000, (28, 28), 128_000, None), ("dcgan-28".to_string(), 28, 3, false));
    // Some grey ones among photographs, some with a cast among scans.
    assert_eq!(form(100, (64, 64), 10, None), dcgan(64, 3, true));
    assert_eq!(form(100, (64, 64), 9, None), dcgan(64, 1, false));
}

#[test]
fn very_few_images_are_told() {
    let told = |images| chosen(&on_cpu(&report(images, (64, 64), images)), None).1.contains("learn them by heart");
    assert_eq!([2, 499, 500].map(told), [true, true, false]);
}

#[test]
fn the_middle_image_tells_the_size() {
    let mut mixed = report(3, (32, 32), 3);
    mixed.sizes = [((32, 32), 1), ((64, 90), 1), ((5000, 4000), 1)].into();
    assert_eq!(on_cpu(&mixed).side, 64);
    mixed.sizes = [((32, 32), 2), ((5000, 4000), 1)].into();
    assert_eq!(on_cpu(&mixed).side, 32);
}

#[test]
fn few_images_are_augmented_and_all_are_averaged() {
    let augmented = |images| {
        let (config, told) = chosen(&on_cpu(&report(images, (64, 64), images)), None);
        assert!(config.schedule.has_average() && told.contains("averaged weights"), "{told}");
        assert_eq!(told.contains("augmented (fewer than 50,000 images)"), !config.augment.is_empty(), "{told}");
        config.augment.len()
    };
    assert_eq!([2, 2959, 49_999, 50_000, 1_000_000].map(augmented), [3, 3, 3, 0, 0]);
}

#[test]
fn length_batch_and_precision_suit_images_and_device() {
    let planned = |images, gpu, precision| {
        let (config, told) = chosen(&Facts::of(&report(images, (64, 64), images), gpu, precision), None);
        assert!(told.ends_with(&format!("images to show, computed in {}", precision.name())), "{told}");
        assert_eq!(config.schedule.precision, precision);
        (config.schedule.length, config.schedule.batch_size)
    };
    assert_eq!(planned(10, false, Precision::F32), (Span::Images(100_000), 10), "no larger than the data");
    let [few, many] = [2959, 30_000].map(|images| planned(images, false, Precision::Bf16));
    assert_eq!([few.0, many.0], [Span::Images(295_900), Span::Images(300_000)]);
    let [few_there, many_there] = [2959, 30_000].map(|images| planned(images, true, Precision::Tf32));
    assert_eq!([few_there.0, many_there.0], [Span::Images(1_479_500), Span::Images(2_000_000)]);
    assert_eq!([few.1, many.1, few_there.1, many_there.1], [32, 32, 128, 128]);
}

#[test]
fn classes_are_told_where_each_has_enough_images() {
    let classes = |classes: &[(&str, usize)]| {
        let images = classes.iter().map(|(_, images)| images).sum();
        let (config, told) = chosen(&on_cpu(&with_classes(report(images, (64, 64), images), classes)), None);
        (config.data.classes, told)
    };
    let (told, said) = classes(&[("cat", 500), ("dog", 7000)]);
    assert!(told == 2 && said.contains("told the 2 classes"), "{said}");
    let (told, said) = classes(&[("cat", 499), ("dog", 7000)]);
    assert!(told == 0 && said.contains("not told the 2 classes (one has 499 images, and 500 are enough)"), "{said}");
    let (told, said) = classes(&[("a", 2), ("b", 2), ("c", 2)]);
    assert!(told == 0 && said.contains("not told the 3 classes (one has 2 images"), "{said}");
    // One class is none, and neither are the parts of a set.
    for none in [&[("faces", 9000)][..], &[("Train", 9000), ("val", 1000)], &[]] {
        let (told, said) = classes(if none.is_empty() { &[("only", 3000)] } else { none });
        assert!(told == 0 && !said.contains("classes"), "{said}");
    }
    // Digits with labels.
    let digits: Vec<(&str, usize)> = ["0", "1", "2"].map(|name| (name, 6000)).into();
    let (config, _) = chosen(&on_cpu(&with_classes(report(18_000, (28, 28), 0), &digits)), None);
    assert_eq!((config.preset.as_str(), config.data.classes), ("dcgan-28", 3));
    // Numbers that leave one out cannot be told.
    let mut gap = with_classes(report(2000, (28, 28), 0), &[("0", 1000), ("2", 1000)]);
    gap.classes[1].number = 2;
    assert_eq!(chosen(&on_cpu(&gap), None).0.data.classes, 0);
}

#[test]
fn layers_are_half_as_wide_on_a_cpu() {
    let widths = |gpu, size, width| {
        let facts = Facts::of(&report(2959, (64, 64), 2959), gpu, Precision::F32);
        let config = TrainConfig::from_table(facts.choose(size, width).unwrap(), "it").unwrap();
        let told = facts.told(&config);
        let told = told.split_once("layers ").map_or("", |(_, rest)| rest.split_once(" times as wide").unwrap().0).to_string();
        (config.generator.layers[1].width().unwrap(), told)
    };
    assert_eq!(widths(false, None, None), (256, "0.5".to_string()));
    assert_eq!(widths(true, None, None), (512, String::new()));
    assert_eq!(widths(false, None, Some(1.0)), (512, String::new()));
    assert_eq!(widths(false, Some(32), None), (128, "0.5".to_string()));
    assert_eq!(widths(true, Some(128), Some(0.25)), (256, "0.25".to_string()));
    // Digits are quick as they are.
    let (digits, told) = chosen(&on_cpu(&report(60_000, (28, 28), 0)), None);
    assert!(digits.generator.layers[1].width() == Some(256) && !told.contains("as wide"), "{told}");
}

#[test]
fn what_is_said_is_what_the_config_is() {
    let facts = on_cpu(&report(2959, (64, 64), 2900));
    let (mut config, told) = chosen(&facts, None);
    let begins = "dcgan-64 in colour at 64×64 for 2,959 images, 2,900 of them in colour, of about 64×64 pixels: layers 0.5 times as wide, \
                  batches of 32, ";
    assert!(told.starts_with(begins), "{told}");
    assert_eq!(config.about, "Chosen for 2,959 images, 2,900 of them in colour, of about 64×64 pixels");
    (config.schedule.batch_size, config.data.flip, config.schedule.length) = (64, false, Span::Epochs(3));
    let told = facts.told(&config);
    assert!(told.contains("batches of 64, ") && !told.contains("mirrored") && told.contains("3 epochs"), "{told}");
}

#[test]
fn what_cannot_be_chosen_for_is_refused() {
    for images in [0, 1] {
        let told = on_cpu(&report(images, (64, 64), images)).choose(None, None).unwrap_err().to_string();
        assert!(told.contains("nothing to learn"), "{told}");
    }
    let facts = on_cpu(&report(100, (64, 64), 100));
    assert!(facts.choose(Some(48), None).unwrap_err().to_string().contains("32, 64 or 128"));
    assert!(facts.choose(None, Some(1e9)).is_err());
}
