//! Many images in one file: tar files by whoever wrote them, and NumPy arrays.

use super::*;

/// An entry's header and contents, with the name as it is given.
fn entry(name: &str, kind: tar::EntryType, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    header.set_cksum();
    let mut file = [header.as_bytes(), bytes].concat();
    file.resize(file.len().next_multiple_of(512), 0);
    file
}

fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
    entry(name, tar::EntryType::Regular, bytes)
}

/// A tar file of such entries.
fn whole(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

#[test]
fn a_tar_file_of_the_folder_that_one_is_in_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.tar");
    let entries = [
        entry("./", tar::EntryType::Directory, b""),
        file("./cats/1.png", &png(1)),
        file("./cats/._1.png", b"the system's"),
        file("./dogs/1.png", &png(2)),
        file("dogs/2.png", &png(1)),
        file("./notes.txt", b"x"),
        file("../dogs/3.png", &png(3)),
    ];
    fs::write(&path, whole(&entries)).unwrap();
    let data = load(path.to_str().unwrap(), &DataConfig { classes: 3, ..form(8, 1) }, &Silent).unwrap();
    assert_eq!((data.labels, data.pixels[64], data.report.ignored), (vec![1, 2, 2, 0], 2, 1), "the text");
    assert_eq!(data.report.class_names(), ["../dogs", "cats", "dogs"]);
    assert_eq!(data.report.copies, [["cats/1.png", "dogs/2.png"]]);
    write_zip(&dir.path().join("all.zip"), &[("./a.png", &png(1)), ("./b/c.png", &png(2))]);
    assert_eq!(open(&dir.path().join("all.zip"), 8, 1).unwrap().len, 2);
}

#[test]
fn images_of_several_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    for (name, grey) in [("a.tar", 1), ("b.tar", 2)] {
        fs::write(dir.path().join(name), whole(&[file("1.png", &png(grey)), file("2.png", &png(9)), file("3.png", b"text")]))
            .unwrap();
    }
    let data = open(dir.path(), 8, 1).unwrap();
    assert_eq!(data.pixels.chunks(64).map(|image| image[0]).collect::<Vec<_>>(), [1, 9, 2, 9]);
    assert_eq!(data.report.copies, [["a.tar/2.png", "b.tar/2.png"]]);
    assert_eq!(data.report.broken.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a.tar/3.png", "b.tar/3.png"]);
}

/// As PyTorch's and WebDataset's tools write them: a header of its own before each image, which may hold a name.
#[test]
fn a_tar_file_is_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let time = |at: u8| entry("PaxHeaders/x", tar::EntryType::XHeader, format!("19 mtime=1.5000000{at}\n").as_bytes());
    let long = format!("{}.png", "n".repeat(120));
    let name = format!("{} path={long}\n", long.len() + 10);
    assert_eq!(name.len(), long.len() + 10);
    let entries = [
        time(1),
        file("1.png", &png(1)),
        entry("PaxHeaders/y", tar::EntryType::XHeader, name.as_bytes()),
        file("short.png", &png(2)),
        entry("././@LongLink", tar::EntryType::GNULongName, [long.as_bytes(), b"\0"].concat().as_slice()),
        file("short.png", &png(2)),
    ];
    let all = whole(&entries);
    fs::write(&path, &all).unwrap();
    let data = open(&path, 8, 1).unwrap();
    assert_eq!((data.len, &data.report.copies), (3, &vec![vec![long.clone(), long]]));
    for cut in (1..all.len() - 512).step_by(101).chain((512..all.len() - 512).step_by(512)) {
        fs::write(&path, &all[..cut]).unwrap();
        assert!(open(&path, 8, 1).is_err(), "{cut} of {} bytes", all.len());
    }
}

#[test]
fn what_a_header_says_is_shown_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npy");
    let header = format!("{{}}\nerror: {}", "x".repeat(500));
    fs::write(&path, [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    let told = complaint(&path, 8, 1);
    assert!(told.contains("its header says {}") && !told.contains('\n') && told.len() < 500, "{told}");
}

#[test]
fn of_several_arrays_none_is_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npz");
    let array = |grey: u8| {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2), }";
        [&b"\x93NUMPY\x01\x00\x76\x00"[..], format!("{header:117}\n").as_bytes(), &[grey; 4]].concat()
    };
    write_zip(&path, &[("x_train.npy", &array(1)), ("x_test.npy", &array(2))]);
    assert!(complaint(&path, 2, 1).contains("it holds several arrays: x_test.npy, x_train.npy"));
    write_zip(&path, &[("arr_1.npy", &array(1)), ("arr_0.npy", &array(2))]);
    assert_eq!(open(&path, 2, 1).unwrap().pixels, [2; 4]);
    write_zip(&path, &[("x_train.npy", &array(3))]);
    assert_eq!(open(&path, 2, 1).unwrap().pixels, [3; 4]);
}

/// `images` and `labels` in the names of other files are no IDX files.
#[test]
fn labels_stand_beside_idx_files_only() {
    let dir = tempfile::tempdir().unwrap();
    for kind in ["npy", "npz", "tar", "zip"] {
        let images = dir.path().join(format!("images.{kind}"));
        if kind == "zip" {
            write_zip(&images, &[("1.png", &png(1))])
        } else {
            fs::write(&images, "x").unwrap()
        }
        fs::write(dir.path().join(format!("labels.{kind}")), "x").unwrap();
        assert_eq!(ganforge::data::load_labels(images.to_str().unwrap()).unwrap(), None, "{kind}");
    }
}
