//! Training images: readers, decoding, reports, splits, and the built-in digits.

mod large;
mod packed;
mod sources;
mod stacked;

use std::collections::HashSet;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use ganforge::config::DataConfig;
use ganforge::data::{DataReport, Dataset, Split, find_named, load, synthetic};
use ganforge::error::{Error, Result};
use ganforge::progress::Silent;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;

fn form(size: usize, channels: usize) -> DataConfig {
    DataConfig::plain("", size, channels)
}

fn open(path: &Path, size: usize, channels: usize) -> Result<Dataset> {
    load(path.to_str().unwrap(), &form(size, channels), &Silent)
}

/// The error's text, which must name the file.
fn complaint(path: &Path, size: usize, channels: usize) -> String {
    let error = open(path, size, channels).expect_err("this data must be refused");
    let text = error.to_string();
    assert!(text.contains(path.file_name().unwrap().to_str().unwrap()), "names the file: {text}");
    assert!(text.ends_with('.'), "ends with a full sentence: {text}");
    text
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn png(grey: u8) -> Vec<u8> {
    encoded(GrayImage::from_pixel(8, 8, Luma([grey])), ImageFormat::Png)
}

/// A colour image without symmetries.
fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, (x * y % 200) as u8]))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx(len: u32, height: u32, width: u32, pixels: &[u8]) -> Vec<u8> {
    let header = [0x0803, len, height, width].map(u32::to_be_bytes).concat();
    [header.as_slice(), pixels].concat()
}

fn some_pixels(count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 37 % 251) as u8).collect()
}

fn write_zip(path: &Path, entries: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (at, (name, bytes)) in entries.iter().enumerate() {
        let method = [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated][at % 2];
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

// --- folders

#[test]
fn what_a_training_wrote_into_the_folder_is_not_learnt() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for folder in ["run/samples", "run/checkpoints", "others/samples"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    for name in ["1.png", "run/curves.png", "run/samples/2.png", "others/samples/3.png"] {
        fs::write(at(name), png(name.len() as u8)).unwrap();
    }
    assert_eq!(open(dir.path(), 8, 1).unwrap().len, 4);
    fs::write(at("run/config.toml"), "").unwrap();
    assert_eq!(open(dir.path(), 8, 1).unwrap().len, 2);
    // Whoever names it has it.
    assert_eq!(open(&at("run"), 8, 1).unwrap().len, 2);
}

// --- classes

#[test]
fn classes_are_labels_or_folders() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let labelled = |path: &Path, classes| load(path.to_str().unwrap(), &DataConfig { classes, ..form(8, 1) }, &Silent);
    let refused = |path: &Path, classes, why: &str| {
        let told = labelled(path, classes).unwrap_err().to_string();
        assert!(told.contains(why), "{told}");
    };

    // Folders, in the order of their names, whatever lies around them; a broken image has no class.
    let entries =
        [("all/b/1.png", png(1)), ("all/a/2.png", png(2)), ("all/c/3.png", b"no image".to_vec()), ("all/c/4.png", png(4))];
    for (name, bytes) in &entries {
        fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        fs::write(at(name), bytes).unwrap();
    }
    write_zip(&at("all.zip"), &entries.each_ref().map(|(name, bytes)| (*name, &bytes[..])));
    for place in ["all", "all.zip"] {
        let data = labelled(&at(place), 3).unwrap();
        assert_eq!((data.labels, data.pixels[0]), (vec![0, 1, 2], 2), "{place}");
        assert!(open(&at(place), 8, 1).unwrap().labels.is_empty(), "nobody asked");
        refused(&at(place), 4, "data.classes is 4, but its labels are 0, 1, 2.");
        refused(&at(place), 2, "data.classes is 2, but its labels are 0, 1, 2.");
    }
    refused(&at("all/a"), 2, "data.classes asks for 2 classes, but the image 2.png is in no folder of a class");
    fs::write(at("all/0.png"), png(0)).unwrap();
    refused(&at("all"), 3, "but the image 0.png is in no folder of a class");

    // Labels beside an IDX file.
    let labels = |values: &[u8]| [&[0, 0, 8, 1, 0, 0, 0, values.len() as u8], values].concat();
    fs::write(at("train-images-idx3-ubyte"), idx(3, 8, 8, &some_pixels(3 * 64))).unwrap();
    refused(dir.path(), 2, "but there is no IDX file of labels");
    fs::write(at("train-labels-idx1-ubyte"), labels(&[1, 0, 1])).unwrap();
    let first = labelled(dir.path(), 2).unwrap();
    assert_eq!(first.labels, [1, 0, 1]);
    // A run that goes on with other labels is another run.
    fs::write(at("train-labels-idx1-ubyte"), labels(&[1, 1, 0])).unwrap();
    assert_ne!(labelled(dir.path(), 2).unwrap().sha256, first.sha256);
    refused(dir.path(), 3, "data.classes is 3, but its labels are 0, 1.");
    fs::write(at("train-labels-idx1-ubyte"), labels(&[2, 0, 2])).unwrap();
    refused(dir.path(), 3, "data.classes is 3, but its labels are 0, 2.");
    fs::write(at("train-labels-idx1-ubyte"), labels(&[1, 0])).unwrap();
    refused(dir.path(), 2, "2 labels for 3 images");
    let synthetic = load("synthetic", &DataConfig { classes: 10, ..form(28, 1) }, &Silent).unwrap();
    assert_eq!(synthetic.labels[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
}

// --- IDX

#[test]
fn idx_files_are_read_plain_and_gzipped_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let pixels = some_pixels(5 * 9 * 9);
    let bytes = idx(5, 9, 9, &pixels);
    let mut hashes = HashSet::new();
    for (name, bytes) in
        [("a", bytes.clone()), ("b.gz", gzip(&bytes)), ("c.bin", gzip(&bytes)), ("train-images-idx3-ubyte", bytes)]
    {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let data = open(&path, 9, 1).unwrap();
        assert_eq!((data.len, data.channels, data.size), (5, 1, 9));
        assert_eq!(data.pixels, pixels);
        assert_eq!(data.image(3), &pixels[3 * 81..4 * 81]);
        assert_eq!(data.name, name.trim_end_matches(".gz"));
        hashes.insert(data.sha256);
    }
    assert_eq!(hashes.len(), 1, "the same pixels have the same hash");
}

#[test]
fn a_folder_of_idx_files_trains_on_the_training_images_only() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("own-mnist");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("t10k-images-idx3-ubyte"), idx(1, 4, 4, &[9; 16])).unwrap();
    fs::write(folder.join("train-images-idx3-ubyte.gz"), gzip(&idx(2, 4, 4, &[7; 32]))).unwrap();
    let data = open(&folder, 4, 1).unwrap();
    assert_eq!((data.name.as_str(), data.pixels), ("own-mnist", vec![7; 32]));
    assert_eq!(data.report.duplicates, 1);
    assert_eq!(find_named("own-mnist", &[PathBuf::from("/nowhere"), dir.path().to_path_buf()]).unwrap(), folder);
}

#[test]
fn idx_images_are_resized_and_given_channels() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("digits");
    let half: Vec<u8> = (0..28 * 28).map(|i| if i % 28 < 14 { 0 } else { 200 }).collect();
    fs::write(&path, idx(1, 28, 28, &half)).unwrap();
    let data = open(&path, 32, 3).unwrap();
    let planes: Vec<&[u8]> = data.image(0).chunks(32 * 32).collect();
    assert_eq!((planes.len(), planes[0], planes[1]), (3, planes[1], planes[2]));
    assert_eq!((planes[0][5], planes[0][27]), (0, 200), "left stays left");
    assert_eq!(data.report.sizes.keys().next(), Some(&(28, 28)));
    assert_eq!((data.report.grey, data.report.colour), (1, 0));
    assert_eq!(data.report.misfit(32, 3).unwrap(), "1 of 1 images are enlarged to 32×32");
    assert_eq!(data.report.misfit(28, 1), None);
    let coloured = DataReport { used: 3, colour: 2, grey: 1, sizes: [((40, 28), 3)].into(), ..DataReport::default() };
    assert_eq!(coloured.misfit(28, 1).unwrap(), "2 of 3 images lose their colour");
    assert!(coloured.misfit(29, 1).unwrap().contains("3 of 3 images are enlarged to 29×29, 2 of 3"));
}

#[test]
fn broken_idx_files_are_refused_with_the_reason() {
    let good = idx(3, 4, 5, &some_pixels(60));
    let cut_gzip = {
        let gz = gzip(&good);
        gz[..gz.len() - 12].to_vec()
    };
    let gzip_and_junk = [gzip(&good), b"junk".to_vec()].concat();
    let huge = idx(u32::MAX, u32::MAX, u32::MAX, &[0; 64]);
    let long = idx(u32::MAX, 16_384, 16_384, &[0; 64]);
    let cases: [(&str, Vec<u8>, &str); 16] = [
        ("empty", vec![], "empty"),
        ("cut-magic", good[..3].to_vec(), "header"),
        ("cut-header", good[..11].to_vec(), "header"),
        ("cut-pixels", good[..75].to_vec(), "only 59 bytes follow"),
        ("trailing", [good.as_slice(), &[0]].concat(), "more bytes follow"),
        ("labels", [&[0, 0, 8, 1, 0, 0, 0, 9][..], &[1; 9]].concat(), "labels"),
        ("floats", [&[0, 0, 0x0d, 3][..], &good[4..]].concat(), "0x00000d03"),
        ("huge", huge.clone(), "4294967295 images"),
        ("long", long.clone(), "only 64 bytes follow"),
        ("none", idx(0, 28, 28, &[]), "0 images"),
        ("flat", idx(3, 0, 28, &[]), "28×0"),
        ("cut.gz", cut_gzip, "gzip data ends early"),
        ("junk.gz", gzip_and_junk, "gzip data"),
        ("text.gz", gzip(b"some text that is no IDX file"), "0x736f6d65"),
        ("short.gz", gzip(&good[..75]), "only 59 bytes follow"),
        ("huge.gz", gzip(&long), "more than 100 times the file"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, reason) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let text = complaint(&path, 4, 1);
        assert!(text.contains(reason), "{name}: expected '{reason}' in: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mutated_idx_never_panics(cut in 0usize..80, flips in prop::collection::vec((0usize..76, any::<u8>()), 0..4), zipped: bool) {
        let good = idx(3, 4, 5, &some_pixels(60));
        let mut bytes = good.clone();
        for (at, value) in flips {
            bytes[at] = value;
        }
        bytes.truncate(cut);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mutated");
        fs::write(&path, if zipped { gzip(&bytes) } else { bytes.clone() }).unwrap();
        match open(&path, 4, 1) {
            Ok(data) => prop_assert_eq!(bytes.len() - 16, data.report.sizes.keys().map(|&(w, h)| data.len * (w * h) as usize).sum::<usize>()),
            Err(Error::Invalid { .. }) => prop_assert!(bytes != good),
            Err(other) => prop_assert!(false, "an unfit error: {other}"),
        }
    }

    #[test]
    fn a_flipped_byte_in_a_gzip_file_never_yields_other_pixels(at in 0usize..60, value: u8, cut in 0usize..200) {
        let mut bytes = gzip(&idx(3, 4, 5, &some_pixels(60)));
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(cut.max(2));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flipped.gz");
        fs::write(&path, bytes).unwrap();
        if let Ok(data) = open(&path, 5, 1) {
            let whole = dir.path().join("whole");
            fs::write(&whole, idx(3, 4, 5, &some_pixels(60))).unwrap();
            prop_assert_eq!(data.pixels, open(&whole, 5, 1).unwrap().pixels);
        }
    }

    #[test]
    fn mutated_images_and_archives_never_panic(kind in 0usize..9, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in prop::option::of(any::<prop::sample::Index>())) {
        let dir = tempfile::tempdir().unwrap();
        use ImageFormat::{Bmp, Gif, Jpeg, Png, Pnm, Qoi, Tiff, WebP};
        let formats = [Png, Jpeg, Gif, Bmp, WebP, Tiff, Qoi, Pnm];
        let mutate = |bytes: &mut Vec<u8>| {
            for (at, value) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Some(cut) = &cut {
                bytes.truncate(cut.index(bytes.len()));
            }
        };
        if let Some(format) = formats.get(kind) {
            let mut bytes = encoded(scene(11, 7), *format);
            mutate(&mut bytes);
            for name in ["a.png", "c.png"] {
                fs::write(dir.path().join(name), png(1)).unwrap();
            }
            fs::write(dir.path().join("b.png"), bytes).unwrap();
            let report = open(dir.path(), 8, 3).unwrap().report;
            prop_assert_eq!((report.found, report.used + report.broken.len() + report.too_large.len()), (3, 3));
        } else {
            let path = dir.path().join("images.zip");
            write_zip(&path, &[("a.png", &png(1)), ("d/b.png", &png(2)), ("d/c.png", &png(3))]);
            let mut bytes = fs::read(&path).unwrap();
            mutate(&mut bytes);
            fs::write(&path, bytes).unwrap();
            match open(&path, 8, 1) {
                Ok(data) => prop_assert!((1..=3).contains(&data.len)),
                Err(Error::Invalid { .. }) => {}
                Err(other) => prop_assert!(false, "an unfit error: {other}"),
            }
        }
    }
}

// --- Folders and archives

#[test]
fn broken_images_are_left_out_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    for (at, name) in ["a.PNG", "sub/b.png", "sub/deep/c.Png", "z.png"].iter().enumerate() {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, png([10, 20, 30, 10][at])).unwrap();
    }
    fs::write(dir.path().join("note.jpg"), "this is text").unwrap();
    fs::write(dir.path().join("empty.jpg"), "").unwrap();
    fs::write(dir.path().join("readme.txt"), "passed over").unwrap();
    fs::write(dir.path().join("._a.png"), "a Mac's own").unwrap();
    let data = open(dir.path(), 8, 1).unwrap();
    assert_eq!(data.pixels.chunks(64).map(|image| image[0]).collect::<Vec<_>>(), [10, 20, 30, 10], "in the order of the paths");
    let report = &data.report;
    assert_eq!((report.found, report.used, report.ignored, report.duplicates, report.grey), (6, 4, 1, 1, 4));
    let broken: Vec<&str> = report.broken.iter().map(|broken| broken.name.as_str()).collect();
    assert_eq!(broken, ["empty.jpg", "note.jpg"]);
    assert!(report.broken[1].reason.contains("not an image"));
    let text = report.to_string();
    assert_eq!(
        text,
        "4 images, 8×8 grey; 1 exact duplicate; 1 other file passed over: 1 .txt; 2 broken left out:\n  empty.jpg: the file is empty\n  \
         note.jpg: not an image by its contents"
    );
}

#[test]
fn a_set_without_images_or_mostly_broken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(complaint(&empty, 8, 1).contains("no images found"));
    fs::write(empty.join("notes.txt"), "x").unwrap();
    assert!(complaint(&empty, 8, 1).contains("1 other file"));
    fs::write(empty.join("x.jpg"), "x").unwrap();
    assert!(complaint(&empty, 8, 1).contains("1 of 1 images are broken: x.jpg: not an image"));
    fs::write(empty.join("good.png"), png(1)).unwrap();
    assert_eq!(open(&empty, 8, 1).unwrap().len, 1, "half of them may be broken");
    fs::write(empty.join("y.jpg"), "x").unwrap();
    assert!(complaint(&empty, 8, 1).contains("2 of 3"));

    let zip = dir.path().join("none.zip");
    write_zip(&zip, &[("readme.txt", b"nothing here")]);
    assert!(complaint(&zip, 8, 1).contains("no images found"));
    write_zip(&zip, &[]);
    assert!(complaint(&zip, 8, 1).contains("no images found"));
    fs::write(&zip, &fs::read(&zip).unwrap()[..10]).unwrap();
    assert!(complaint(&zip, 8, 1).contains("zip archive"));
}

#[test]
fn an_archive_gives_the_same_set_as_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("faces");
    let files =
        [("b/2.png", png(2)), ("a.png", png(1)), ("b/10.png", png(10)), ("b.jpg", encoded(scene(12, 9), ImageFormat::Jpeg))];
    for (name, bytes) in &files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let zip = dir.path().join("faces.zip");
    let junk = [("__MACOSX/a.png", b"junk".to_vec()), (".hidden/a.png", b"junk".to_vec()), ("b/._2.png", b"junk".to_vec())];
    let entries: Vec<(&str, &[u8])> = files.iter().chain(&junk).rev().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    write_zip(&zip, &entries);
    let (from_folder, from_zip) = (open(&folder, 16, 3).unwrap(), open(&zip, 16, 3).unwrap());
    assert_eq!(from_folder.sha256, from_zip.sha256);
    assert_eq!(from_folder.pixels, from_zip.pixels);
    assert_eq!(from_folder.report, from_zip.report);
    assert_eq!((from_zip.name.as_str(), from_zip.len), ("faces", 4));
    let reds: Vec<u8> = (0..4).map(|index| from_zip.image(index)[0]).collect();
    assert_eq!([reds[0], reds[2], reds[3]], [1, 10, 2], "a.png, b.jpg, b/10.png, b/2.png");
    assert_ne!(open(&folder, 8, 3).unwrap().sha256, from_zip.sha256);
}

#[test]
fn an_archive_entry_that_unpacks_without_end_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.zip");
    let mut bomb = zip::ZipWriter::new(fs::File::create(&path).unwrap());
    bomb.start_file("a.png", SimpleFileOptions::default()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..257 {
        bomb.write_all(&zeros).unwrap();
    }
    bomb.start_file("b.png", SimpleFileOptions::default()).unwrap();
    bomb.write_all(&png(5)).unwrap();
    bomb.finish().unwrap();
    let report = open(&path, 8, 1).unwrap().report;
    assert_eq!((report.used, report.too_large[0].name.as_str()), (1, "a.png"));
    assert!(report.too_large[0].reason.contains("larger than"), "{}", report.too_large[0].reason);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let (set, other) = (dir.path().join("set"), dir.path().join("other"));
    fs::create_dir_all(&set).unwrap();
    fs::create_dir_all(&other).unwrap();
    fs::write(set.join("a.png"), png(1)).unwrap();
    fs::write(other.join("b.png"), png(2)).unwrap();
    symlink(&set, set.join("loop")).unwrap();
    symlink(&other, set.join("other")).unwrap();
    symlink(dir.path().join("missing.png"), set.join("missing.png")).unwrap();
    let report = open(&set, 8, 1).unwrap().report;
    assert_eq!((report.found, report.used, report.broken[0].name.as_str()), (3, 2, "missing.png"));
}

// --- Decoding

/// Decodes one file.
fn decode(bytes: &[u8], size: usize, channels: usize) -> Dataset {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("image.png"), bytes).unwrap(); // contents count, not the extension
    open(dir.path(), size, channels).unwrap()
}

/// Why one file is left out.
fn reason(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), bytes).unwrap();
    fs::write(dir.path().join("b.png"), png(1)).unwrap();
    open(dir.path(), 8, 1).unwrap().report.broken.remove(0).reason
}

#[test]
fn every_format_is_decoded_into_planes() {
    let image = scene(16, 16);
    let planes: Vec<u8> = (0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel.0[channel])).collect();
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
        let data = decode(&encoded(image.clone(), format), 16, 3);
        assert_eq!(data.pixels, planes, "{format:?} is lossless");
        assert_eq!((data.report.grey, data.report.colour), (0, 1));
    }
    for format in [ImageFormat::Jpeg, ImageFormat::Gif] {
        let data = decode(&encoded(image.clone(), format), 16, 3);
        let error: u32 = data.pixels.iter().zip(&planes).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
        assert!(error < 25 * planes.len() as u32, "{format:?} is near: mean error {}", error as usize / planes.len());
    }
}

#[test]
fn colour_becomes_luma_and_grey_becomes_three_equal_planes() {
    let pixel = |rgb| decode(&encoded(RgbImage::from_pixel(4, 4, Rgb(rgb)), ImageFormat::Png), 4, 1).pixels[0];
    assert_eq!([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255; 3], [0; 3]].map(pixel), [76, 150, 29, 255, 0]);
    let wide = image::ImageBuffer::<Luma<u16>, _>::from_pixel(4, 4, Luma([0x8000]));
    let data = decode(&encoded(wide, ImageFormat::Png), 4, 3);
    assert_eq!(data.pixels, [128; 48]);
    assert_eq!((data.report.grey, data.report.colour), (1, 0));
    let grey_rgb = decode(&encoded(RgbImage::from_pixel(4, 4, Rgb([9; 3])), ImageFormat::Png), 4, 3);
    assert_eq!((grey_rgb.report.grey, grey_rgb.report.colour), (1, 0), "grey stored as RGB is grey");
}

#[test]
fn transparency_becomes_white() {
    let clear = RgbaImage::from_pixel(4, 4, Rgba([10, 20, 30, 0]));
    assert_eq!(decode(&encoded(clear, ImageFormat::Png), 4, 3).pixels, [255; 48]);
    let half = RgbaImage::from_pixel(4, 4, Rgba([0, 100, 255, 128]));
    let pixels = decode(&encoded(half, ImageFormat::Png), 4, 3).pixels;
    assert_eq!((pixels[0], pixels[16], pixels[32]), (127, 177, 255));
    let grey = image::ImageBuffer::<LumaA<u8>, _>::from_pixel(4, 4, LumaA([0, 64]));
    assert_eq!(decode(&encoded(grey, ImageFormat::Png), 4, 1).pixels, [191; 16]);
}

#[test]
fn other_shapes_are_cropped_in_the_centre_and_resized() {
    // 30×10: the left and right thirds must go.
    let wide = GrayImage::from_fn(30, 10, |x, _| Luma([if (10..20).contains(&x) { 200 } else { 0 }]));
    assert_eq!(decode(&encoded(wide, ImageFormat::Png), 5, 1).pixels, [200; 25]);
    let tall = GrayImage::from_fn(7, 31, |_, y| Luma([if (12..19).contains(&y) { 90 } else { 255 }]));
    let data = decode(&encoded(tall, ImageFormat::Png), 16, 3);
    assert_eq!(data.pixels, [90; 3 * 256]);
    assert_eq!(data.report.sizes.into_iter().collect::<Vec<_>>(), [((7, 31), 1)]);
    // Shrinking averages: a fine checkerboard becomes mid-grey, not black or white.
    let board = GrayImage::from_fn(64, 64, |x, y| Luma([if (x + y) % 2 == 0 { 255 } else { 0 }]));
    let shrunk = decode(&encoded(board, ImageFormat::Png), 8, 1).pixels;
    assert!(shrunk.iter().all(|&pixel| (118..=138).contains(&pixel)), "{shrunk:?}");
    // A data set's hash must not depend on the machine: neither on its SIMD instructions, nor on its mathematics.
    let photo = encoded(scene(37, 23), ImageFormat::Png);
    let hashes = [(16, 3), (64, 1)].map(|(size, channels)| decode(&photo, size, channels).sha256[..16].to_string());
    assert_eq!(hashes, ["ec4d15cca45eddd4", "6204287fcf772f40"]);
}

/// A JPEG file that asks to be shown turned a quarter clockwise.
fn quarter_turned(jpeg: &[u8]) -> Vec<u8> {
    // One entry: tag 0x0112 (orientation), type SHORT, count 1, value 6: turn a quarter clockwise to show.
    let tiff = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let exif = [b"\xff\xe1", ((2 + 6 + tiff.len()) as u16).to_be_bytes().as_slice(), b"Exif\0\0", tiff].concat();
    [&jpeg[..2], &exif, &jpeg[2..]].concat()
}

#[test]
fn exif_orientation_is_applied() {
    let image = GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 0 } else { 255 }]));
    let plain = encoded(image, ImageFormat::Jpeg);
    let turned = quarter_turned(&plain);
    let (plain, turned) = (decode(&plain, 16, 1).pixels, decode(&turned, 16, 1).pixels);
    assert!(plain[8 * 16 + 2] < 30 && plain[8 * 16 + 13] > 225, "left is dark");
    assert!(turned[2 * 16 + 8] < 30 && turned[13 * 16 + 8] > 225, "turned, the top is dark");
}

#[test]
fn bad_images_have_reasons() {
    let jpeg = encoded(scene(64, 64), ImageFormat::Jpeg);
    assert!(reason(&jpeg[..jpeg.len() / 2]).contains("ends early"));
    let whole_png = encoded(scene(64, 64), ImageFormat::Png);
    assert!(reason(&whole_png[..whole_png.len() / 2]).contains("broken PNG"));
    // A header that promises 16000×16000 pixels.
    let mut bmp = encoded(scene(4, 4), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&16_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&16_000u32.to_le_bytes());
    assert!(reason(&bmp).contains("broken BMP: it promises 768,000,000 bytes, more than"), "{}", reason(&bmp));
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let zip = dir.path().join("odd.zip");
    write_zip(&zip, &[("a\x1b[2J.png", b"x"), ("b.png", &png(1))]);
    let text = open(&zip, 8, 1).unwrap().report.to_string();
    assert!(text.contains("[2J.png: not an image") && !text.contains('\x1b'), "{text:?}");
}

// --- Sources

#[test]
fn unknown_sources_are_explained() {
    let text = |source: &str| load(source, &form(28, 1), &Silent).unwrap_err().to_string();
    assert!(text("minst").contains("Did you mean 'mnist'?"), "{}", text("minst"));
    assert!(text("Fashion_MNIST").contains("Did you mean 'fashion-mnist'?"));
    assert!(text("sintetic").contains("Did you mean 'synthetic'?"));
    assert!(!text("no/such/folder").contains("Did you mean"));
    assert!(load("minst", &form(28, 1), &Silent).is_err_and(|e| e.exit_code() == 2));
    assert!(load("synthetic", &form(7, 1), &Silent).is_err_and(|e| e.to_string().contains("at least 8")));
    assert!(load("synthetic", &form(28, 2), &Silent).is_err_and(|e| e.exit_code() == 2));

    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mnist")).unwrap(); // there, but without the files
    let missing = find_named("mnist", &[dir.path().to_path_buf(), PathBuf::from("data")]).unwrap_err().to_string();
    for part in
        ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "data/mnist", dir.path().to_str().unwrap(), "GANFORGE_DATA"]
    {
        assert!(missing.contains(part), "expected {part} in: {missing}");
    }

    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        complaint(&dir.path().join(name), 28, 1)
    };
    assert!(file("one.png", &png(1)).contains("single image"));
    assert!(file("table.csv", b"label,pixel0").contains("begins with \"labe\""));
}

proptest! {
    #[test]
    fn a_split_parts_the_set(len in 1usize..500, share in 0.0f64..0.6, seed: u64) {
        let data = Dataset { name: String::new(), sha256: String::new(), len, channels: 1, size: 0, pixels: vec![], labels: Vec::new(), report: DataReport::default() };
        let Split { train, held_out } = data.split(share, seed);
        prop_assert!(!train.is_empty());
        prop_assert!(train.is_sorted() && held_out.is_sorted());
        let all: HashSet<u32> = train.iter().chain(&held_out).copied().collect();
        prop_assert_eq!(train.len() + held_out.len(), len);
        prop_assert_eq!(all, (0..len as u32).collect::<HashSet<_>>());
        prop_assert!((held_out.len() as f64 - share * len as f64).abs() <= 1.0);
        prop_assert_eq!(held_out.is_empty(), share == 0.0 || len == 1);
        prop_assert_eq!(data.split(share, seed), Split { train, held_out });
    }
}

#[test]
fn a_split_depends_on_the_seed_and_survives_odd_shares() {
    let data = Dataset {
        name: String::new(),
        sha256: String::new(),
        len: 1000,
        channels: 1,
        size: 0,
        pixels: vec![],
        labels: vec![],
        report: DataReport::default(),
    };
    assert_ne!(data.split(0.1, 1), data.split(0.1, 2));
    assert_eq!(data.split(0.1, 1).held_out.len(), 100);
    assert_eq!(data.split(0.0, 1).train.len(), 1000);
    assert_eq!((data.split(f64::NAN, 1).held_out.len(), data.split(-1.0, 1).held_out.len()), (0, 0));
    assert_eq!(data.split(9.0, 1).train.len(), 1);
}

// --- The built-in digits

#[test]
fn synthetic_digits_are_addressed_by_index_and_seed() {
    for (size, channels) in [(28, 1), (32, 3), (8, 1)] {
        let (few, many) = (synthetic::digits(10, size, channels, 3), synthetic::digits(1000, size, channels, 3));
        assert_eq!(few, many[..few.len()]);
        assert_ne!(few, synthetic::digits(10, size, channels, 4));
        let distinct: HashSet<&[u8]> = many.chunks(size * size * channels).collect();
        assert_eq!(distinct.len(), 1000, "no two of 1000 are equal at size {size}");
    }
    assert!(synthetic::digits(0, 28, 1, 0).is_empty());
}

#[test]
fn synthetic_digits_have_the_brightness_and_the_place_of_mnist() {
    let pixels = synthetic::digits(2000, 28, 1, 0);
    let mean = pixels.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / pixels.len() as f64;
    assert!((31.0..36.0).contains(&mean), "mean pixel {mean}, MNIST's is 33.3");
    for (index, image) in pixels.chunks(784).enumerate() {
        let mass: f64 = image.iter().map(|&pixel| f64::from(pixel)).sum();
        let centre = |axis: fn(usize) -> usize| {
            image.iter().enumerate().map(|(at, &pixel)| axis(at) as f64 * f64::from(pixel)).sum::<f64>() / mass
        };
        let (x, y) = (centre(|at| at % 28), centre(|at| at / 28));
        assert!(mass > 4000.0, "image {index} shows something");
        assert!((x - 13.5).abs() < 3.0 && (y - 13.5).abs() < 3.0, "image {index} is centred: {x:.1}, {y:.1}");
        assert!(image[..28].iter().all(|&pixel| pixel < 128), "image {index} does not run off the top");
    }
}

#[test]
fn synthetic_digits_can_be_told_apart() {
    let (size, area) = (28, 784);
    let pixels = synthetic::digits(3000, size, 1, 0);
    let (known, asked) = pixels.split_at(2000 * area);
    let mut means = vec![vec![0.0f32; area]; 10];
    for (index, image) in known.chunks(area).enumerate() {
        means[index % 10].iter_mut().zip(image).for_each(|(mean, &pixel)| *mean += f32::from(pixel) / 200.0);
    }
    let apart = |image: &[u8], mean: &[f32]| image.iter().zip(mean).map(|(&a, b)| (f32::from(a) - b).powi(2)).sum::<f32>();
    let right = asked.chunks(area).enumerate().filter(|(index, image)| {
        let nearest = (0..10).min_by(|&a, &b| apart(image, &means[a]).total_cmp(&apart(image, &means[b])));
        nearest == Some(index % 10)
    });
    // The same nearest-mean classifier gets 82 % on MNIST. All of them would mean ten bitmaps.
    let right = right.count();
    assert!((750..990).contains(&right), "{right} of 1000 digits are nearest to their class's mean");
}

#[test]
fn the_synthetic_set_is_the_same_everywhere() {
    let data = load("synthetic", &form(28, 1), &Silent).unwrap();
    assert_eq!((data.name.as_str(), data.len), ("synthetic", 20_000));
    assert_eq!(data.report.to_string(), "20,000 images, 28×28 grey");
    assert_eq!(data.sha256, "1cbf343174d340a56657e4d8553b8e61c74d6b87171727fb11a1cab6110aae8d");
    let colour = load("synthetic", &form(16, 3), &Silent).unwrap();
    assert_eq!((colour.pixels.len(), colour.report.colour), (20_000 * 3 * 256, 20_000));
}

// --- Real data

/// A file or folder of real data, or `None` with the reason printed.
fn real(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("GANFORGE_DATA").map(|root| Path::new(&root).join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: no {name} in the folder GANFORGE_DATA names");
    }
    path
}

#[test]
fn mnist_and_fashion_mnist_have_their_known_means() {
    for (name, expected) in [("mnist", 33.318), ("fashion-mnist", 72.940)] {
        if real(name).is_some() {
            let data = load(name, &form(28, 1), &Silent).unwrap();
            let mean = data.pixels.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / data.pixels.len() as f64;
            assert_eq!((data.name.as_str(), data.len, data.report.grey), (name, 60_000, 60_000));
            assert!((mean - expected).abs() < 0.001, "{name}: mean pixel {mean}");
        }
    }
}

#[test]
fn a_large_archive_of_faces_loads() {
    if let Some(path) = real("anime-faces.zip") {
        let begin = std::time::Instant::now();
        let data = open(&path, 64, 3).unwrap();
        println!("{} in {:.1?}: {}", data.name, begin.elapsed(), data.report);
        assert_eq!((data.name.as_str(), data.len, data.report.broken.len()), ("anime-faces", 30_000, 0));
        assert_eq!(data.report.sizes.into_iter().collect::<Vec<_>>(), [((64, 64), 30_000)]);
    }
    if let Some(path) = real("anime-faces-96.zip") {
        let data = open(&path, 64, 3).unwrap();
        assert_eq!((data.len, data.report.sizes.into_iter().collect::<Vec<_>>()), (1500, vec![((96, 96), 1500)]));
    }
}
