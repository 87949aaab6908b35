//! Several sources as one data set, what classes are called, and what a report tells programs.

use ganforge::config::{Sources, TrainConfig};
use serde_json::json;

use super::*;

/// Folders of images of one grey each, by their paths.
fn write_all(root: &Path, images: &[(&str, u8)]) {
    for (name, grey) in images {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, png(*grey)).unwrap();
    }
}

fn load_all(paths: &[PathBuf], classes: usize) -> Result<Dataset> {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    load(paths, &DataConfig { classes, ..form(8, 1) }, &Silent)
}

fn names_of(data: &Dataset) -> Vec<String> {
    data.report.class_names()
}

#[test]
fn several_sources_are_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_all(&at("first"), &[("dog/1.png", 10), ("cat/1.png", 20), ("cat/2.png", 20)]);
    write_all(&at("second"), &[("ant/1.png", 30), ("dog/1.png", 10)]);
    fs::write(at("second/ant/2.png"), "text").unwrap();
    fs::write(at("second/notes.md"), "text").unwrap();
    let both = load_all(&[at("first"), at("second")], 3).unwrap();
    assert_eq!((both.name.as_str(), both.len), ("first+second", 5));
    assert_eq!(both.pixels.chunks(64).map(|image| image[0]).collect::<Vec<_>>(), [20, 20, 10, 30, 10]);
    assert_eq!(names_of(&both), ["ant", "cat", "dog"], "all of their folders, in one order");
    assert_eq!(both.labels, [1, 1, 2, 0, 2]);
    let report = &both.report;
    assert_eq!((report.found, report.used, report.ignored, report.duplicates), (6, 5, 1, 2));
    assert_eq!(report.broken[0].name, "second/ant/2.png");
    assert_eq!(report.copies, [["first/cat/1.png", "first/cat/2.png"], ["first/dog/1.png", "second/dog/1.png"]]);
    // One source in a list is that source; a list of none is a wrong call; what is wrong with one is said of that one.
    assert_eq!(
        load_all(&[at("first")], 2).unwrap().sha256,
        load(at("first").to_str().unwrap(), &DataConfig { classes: 2, ..form(8, 1) }, &Silent).unwrap().sha256
    );
    assert!(load_all(&[], 0).is_err_and(|error| error.exit_code() == 2));
    assert!(load_all(&[at("first"), at("third")], 0).unwrap_err().to_string().contains("third"));
    write_all(&at("flat"), &[("1.png", 1)]);
    let told = load_all(&[at("first"), at("flat")], 2).unwrap_err().to_string();
    assert!(told.contains("asks for 2 classes, but of flat: the image 1.png is in no folder of a class"), "{told}");
    assert_eq!(load_all(&[at("first"), at("flat")], 0).unwrap().len, 4, "nobody asked for classes");
}

#[test]
fn labels_without_names_must_be_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let set = |name: &str, labels: &[u8]| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("train-images-idx3-ubyte"), idx(labels.len() as u32, 8, 8, &vec![7; labels.len() * 64])).unwrap();
        let labels = [&[0, 0, 8, 1, 0, 0, 0, labels.len() as u8], labels].concat();
        fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
        folder
    };
    let (first, second, third) = (set("first", &[0, 1]), set("second", &[1, 0, 1]), set("third", &[0, 2, 1]));
    let both = load_all(&[first.clone(), second], 2).unwrap();
    assert_eq!((both.labels.as_slice(), names_of(&both).len()), (&[0, 1, 1, 0, 1][..], 0));
    let told = load_all(&[first.clone(), third], 3).unwrap_err().to_string();
    assert!(told.contains("the labels of third are not the numbers"), "{told}");
    write_all(&dir.path().join("named"), &[("0/a.png", 1), ("1/b.png", 2)]);
    let told = load_all(&[dir.path().join("named"), first], 2).unwrap_err().to_string();
    assert!(told.contains("the classes of first have no names"), "{told}");
}

#[test]
fn folders_are_the_names_of_classes_without_what_all_of_them_lie_in() {
    let dir = tempfile::tempdir().unwrap();
    let named = |name: &str, images: &[(&str, u8)]| {
        write_all(&dir.path().join(name), images);
        names_of(&open(&dir.path().join(name), 8, 1).unwrap())
    };
    assert_eq!(named("deep", &[("all/b/x.png", 1), ("all/a/x.png", 2)]), ["a", "b"]);
    assert_eq!(named("nested", &[("cats/x.png", 1), ("cats/old/x.png", 2)]), ["cats", "cats/old"]);
    assert_eq!(named("same", &[("a/x/1.png", 1), ("b/x/1.png", 2)]), ["a/x", "b/x"]);
    assert_eq!(named("one", &[("faces/1.png", 1)]), ["faces"]);
    assert!(named("none", &[("1.png", 1)]).is_empty());
    let digits = load("synthetic", &form(8, 1), &Silent).unwrap();
    assert!(digits.labels.is_empty(), "nobody asked");
    assert_eq!(names_of(&digits), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    if real("fashion-mnist").is_some() {
        let garments = load("fashion-mnist", &form(28, 1), &Silent).unwrap();
        assert_eq!((garments.report.classes[9].name.as_deref(), garments.report.classes[9].images), (Some("Ankle boot"), 6000));
    }
}

#[test]
fn a_report_tells_programs_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broken: Vec<String> = (0..8).map(|number| format!("c/{number}.jpg")).collect();
    write_all(dir.path(), &[("a/1.png", 1), ("a/2.png", 1), ("b/1.png", 1), ("b/2.png", 2), ("b/3.png", 3)]);
    write_all(dir.path(), &[("a/3.png", 4), ("a/4.png", 5), ("b/4.png", 6), ("c/9.png", 6)]);
    broken.iter().for_each(|name| fs::write(dir.path().join(name), "text").unwrap());
    fs::write(dir.path().join("notes.TXT"), "x").unwrap();
    let report = open(dir.path(), 8, 1).unwrap().report;
    assert_eq!(report.classes_text(), "3 classes: a (4), b (4), c (1)");
    let told = report.to_json();
    let listed: Vec<&str> = told["broken"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(listed, broken, "all of them, unlike the text");
    assert_eq!(told["broken"][0]["reason"], "not an image by its contents");
    assert_eq!(told["copies"], json!([["a/1.png", "a/2.png", "b/1.png"], ["b/4.png", "c/9.png"]]));
    assert_eq!(
        (&told["found"], &told["used"], &told["duplicates"], &told["grey"]),
        (&json!(17), &json!(9), &json!(3), &json!(9))
    );
    assert_eq!((&told["passed_over"], &told["too_large"]), (&json!({ ".txt": 1 }), &json!([])));
    assert_eq!(told["sizes"], json!([{ "width": 8, "height": 8, "images": 9 }]));
    assert_eq!(told["classes"][1], json!({ "number": 1, "name": "b", "images": 4 }));
    assert_eq!(told["no_classes"], json!(null));
    fs::write(dir.path().join("0.png"), png(0)).unwrap();
    let report = open(dir.path(), 8, 1).unwrap().report;
    assert_eq!((report.classes_text().as_str(), report.classes.len()), ("", 0));
    assert_eq!(report.to_json()["no_classes"], "the image 0.png is in no folder of a class");
}

#[test]
fn a_source_in_a_config_is_a_text_or_a_list() {
    let with = |source: &str| {
        let text = TrainConfig::preset("digits").unwrap().to_toml().unwrap();
        TrainConfig::from_toml(&text.replace("[data]", &format!("[data]\nsource = {source}")), "it")
    };
    let told = |config: &TrainConfig| config.to_toml().unwrap();
    let one = with("'faces'").unwrap();
    assert_eq!(one.data.source, Sources::from("faces"));
    assert!(told(&one).contains("source = \"faces\""));
    assert_eq!(with("['faces']").unwrap(), one);
    let two = with("['a', 'b']").unwrap();
    assert_eq!(two.data.source.iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(TrainConfig::from_toml(&told(&two), "it").unwrap(), two);
    assert!(with("''").unwrap().data.source.is_empty() && with("[]").unwrap().data.source.is_empty());
    assert!(with("3").unwrap_err().to_string().contains("the name or the path of a data set, or a list of them"));
    assert!(with("['a', '']").unwrap_err().to_string().contains("data.source must not name an empty path"));
}
