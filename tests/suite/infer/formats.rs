//! What each format holds: the same pixels, whatever the threads, parts and shards.

use super::*;

#[test]
fn parts_are_the_whole_and_threads_do_not_matter() {
    let folder = tempdir().unwrap();
    let [whole, part, two] = ["whole", "part", "two"].map(|name| folder.path().join(name));
    sample(&whole, &["--n", "100", "--threads", "1"]).assert().success();
    sample(&two, &["--n", "100", "--threads", "2"]).assert().success();
    sample(&part, &["--n", "60", "--start", "40"]).assert().success();
    assert_eq!(contents(&whole), contents(&two));
    let whole = images_in(&whole);
    assert_eq!(whole.len(), 100);
    let part = images_in(&part);
    assert_eq!(part.keys().next(), Some(&PathBuf::from("000040.png")));
    assert_eq!(part.len(), 60);
    assert!(part.iter().all(|(name, bytes)| whole.get(name) == Some(bytes)));
}

/// The shape and data of a NumPy file as the format's description has it.
fn read_npy(path: &Path) -> (String, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((data % 64, bytes[data - 1]), (0, b'\n'));
    (String::from_utf8(bytes[10..data].to_vec()).unwrap(), bytes[data..].to_vec())
}

#[test]
fn npy_and_grid_hold_the_same_pixels_as_png() {
    let folder = tempdir().unwrap();
    for format in ["png", "npy", "grid"] {
        sample(folder.path(), &["--n", "30", "--start", "7", "--format", format]).assert().success();
    }
    let (header, data) = read_npy(&folder.path().join("samples.npy"));
    assert!(header.starts_with("{'descr': '|u1', 'fortran_order': False, 'shape': (30, 8, 6, 3), }"), "{header}");
    assert_eq!(data.len(), 30 * 144);
    for (index, pixels) in (7..).zip(data.chunks(144)) {
        let png = image::open(folder.path().join(format!("{index:06}.png"))).unwrap();
        assert_eq!(png.as_bytes(), pixels, "{index}");
    }
    let sheet = Images { n: 30, height: 8, width: 6, channels: 3, pixels: data }.grid(6);
    let grid = image::open(folder.path().join("grid.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (6 * 8 + 2, 5 * 10 + 2));
    assert_eq!(grid.as_bytes(), sheet.pixels);
    let file = folder.path().join("new/one.npy");
    sample(&file, &["--n", "3", "--format", "npy"]).assert().success();
    assert_eq!(read_npy(&file).1.len(), 3 * 144);
    let much = sample(&folder.path().join("sheet"), &["--n", "9999999", "--format", "grid"]).assert().code(2);
    much.stderr(contains("contact sheet of 9999999"));
    assert!(!folder.path().join("sheet").exists());
}

#[test]
fn many_images_get_subfolders() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "10001", "--start", "500", "--quiet"];
    sample(folder.path(), &flags).assert().success().stderr("");
    let count = |name: &str| fs::read_dir(folder.path().join(name)).unwrap().count();
    assert_eq!((count(""), count("010000")), (9500 + 2, 501));
    assert!(folder.path().join("010000/010500.png").is_file());
    sample(folder.path(), &flags).assert().code(2).stderr(contains("10001 of these images"));
}

/// The pixels of `samples.npz`, found by a zip library, which checks the checksum.
#[cfg(feature = "train")]
fn read_npz(path: &Path) -> (String, Vec<u8>) {
    let mut archive = zip::ZipArchive::new(fs::File::open(path).unwrap()).unwrap();
    assert_eq!(archive.len(), 1);
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut archive.by_name("arr_0.npy").unwrap(), &mut bytes).unwrap();
    let folder = tempdir().unwrap();
    let npy = folder.path().join("arr_0.npy");
    fs::write(&npy, bytes).unwrap();
    read_npy(&npy)
}

#[test]
#[cfg(feature = "train")]
fn npz_and_tar_hold_the_same_pixels_as_npy() {
    let folder = tempdir().unwrap();
    let flags = ["--n", "2100", "--start", "950"];
    for format in ["npy", "npz", "tar"] {
        sample(&folder.path().join(format), &[&flags[..], &["--format", format]].concat()).assert().success();
    }
    let (header, pixels) = read_npy(&folder.path().join("npy/samples.npy"));
    assert_eq!(read_npz(&folder.path().join("npz/samples.npz")), (header, pixels.clone()));
    let mut number = 950;
    for (file, count) in [("000000.tar", 50), ("000001.tar", 1000), ("000002.tar", 1000), ("000003.tar", 50)] {
        let mut tar = tar::Archive::new(fs::File::open(folder.path().join("tar").join(file)).unwrap());
        let before = number;
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.path().unwrap(), Path::new(&format!("{number:06}.png")));
            let mut png = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut png).unwrap();
            assert_eq!(image::load_from_memory(&png).unwrap().as_bytes(), &pixels[(number - 950) * 144..][..144]);
            number += 1;
        }
        assert_eq!(number - before, count, "{file}");
    }
    let crc = format!("{:08x}", crc32fast::hash(&pixels));
    for (manifest, format) in [("npy/samples.npy.json", "npy"), ("npz/samples.npz.json", "npz")] {
        let manifest = read_json(&folder.path().join(manifest));
        assert_eq!((&manifest["pixels_crc32"], &manifest["format"]), (&crc.clone().into(), &format.into()));
        assert_eq!((&manifest["count"], &manifest["start"]), (&2100.into(), &950.into()));
    }
    let manifest = read_json(&folder.path().join("tar/manifest-tar-000950-003049.json"));
    assert_eq!((&manifest["pixels_crc32"], &manifest["files"][1]["count"]), (&crc.into(), &1000.into()));
}

#[test]
fn shards_of_other_images_are_not_made_beside_each_other() {
    let folder = tempdir().unwrap();
    for format in ["png", "npy", "tar"] {
        let out = folder.path().join(format);
        let shard = |shard: &str, flags: &[&str]| {
            sample(&out, &[&["--n", "20", "--format", format, "--shard", shard][..], flags].concat()).assert()
        };
        shard("1/3", &["--seed", "1"]).success();
        let before = contents(&out);
        for (flags, told) in [
            (&["--seed", "2"][..], "its seed is 1, this call's is 2"),
            (&["--seed", "1", "--truncation", "0.5"], "its truncation is null"),
            (&["--seed", "2", "--resume"], "its seed is 1"),
        ] {
            let refused = shard("2/3", flags).code(2);
            refused.stderr(contains("is of a shard of another job").and(contains(told)).and(contains("--force")));
            assert_eq!(contents(&out), before, "{format} {flags:?}");
        }
        // Other numbers of parts are other jobs, which have other names; and the batch is each machine's own.
        shard("2/3", &["--seed", "1", "--batch", "4"]).success();
        shard("3/3", &["--seed", "2", "--force"]).success();
    }
}

#[test]
fn shards_concatenate_to_the_whole() {
    let folder = tempdir().unwrap();
    let of = |format: &str, out: &str, flags: &[&str]| {
        let out = folder.path().join(out);
        sample(&out, &[&["--n", "2345", "--start", "7", "--format", format][..], flags].concat()).assert().success();
        out
    };
    for format in ["png", "npy", "tar"] {
        let whole = of(format, &format!("{format}-whole"), &[]);
        let mut parts = PathBuf::new();
        for shard in ["1/3", "2/3", "3/3"] {
            parts = of(format, &format!("{format}-parts"), &["--shard", shard]);
        }
        match format {
            "npy" => {
                let data: Vec<u8> = contents(&parts)
                    .keys()
                    .filter(|name| name.extension().is_some_and(|ending| ending == "npy"))
                    .flat_map(|name| read_npy(&parts.join(name)).1)
                    .collect();
                assert_eq!(data, read_npy(&whole.join("samples.npy")).1);
            }
            _ => {
                let without_manifest = |folder: &Path| {
                    let all = contents(folder).into_iter();
                    all.filter(|(name, _)| name.extension().is_none_or(|ending| ending != "json")).collect::<BTreeMap<_, _>>()
                };
                assert_eq!(without_manifest(&parts), without_manifest(&whole));
            }
        }
    }
    // More shards than images: some are empty, none is an error.
    let few = |shard: &str| sample(&folder.path().join("few"), &["--n", "2", "--shard", shard]).assert().success();
    for shard in ["1/3", "2/3", "3/3"] {
        few(shard);
    }
    assert_eq!(images_in(&folder.path().join("few")).len(), 2);
    for format in ["npy", "npz", "tar"] {
        let out = folder.path().join(format!("few-{format}"));
        for shard in ["1/3", "2/3", "3/3"] {
            sample(&out, &["--n", "2", "--format", format, "--shard", shard]).assert().success();
        }
    }
    let lone = folder.path().join("lone");
    sample(&lone.join("x.npy"), &["--n", "9", "--format", "npy", "--shard", "2/3"]).assert().success();
    assert_eq!(read_npy(&lone.join("x-2-of-3.npy")).1.len(), 3 * 144);
}

#[test]
fn seeds_name_the_images() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("seeds");
    sample(&out, &["--seeds", "3,8-10,12345,9"]).assert().success().stderr(contains("image 0 of 5 seeds"));
    let images = images_in(&out);
    let names: Vec<_> = images.keys().map(|name| name.to_str().unwrap()).collect();
    assert_eq!(names, ["000003.png", "000008.png", "000009.png", "000010.png", "012000/012345.png"]);
    for (seed, name) in [("9", "000009.png"), ("12345", "012000/012345.png")] {
        let one = folder.path().join(seed);
        sample(&one, &["--n", "1", "--seed", seed]).assert().success();
        let pixels = |path: &Path| image::open(path).unwrap().into_bytes();
        let (a, b) = (pixels(&out.join(name)), pixels(&one.join("000000.png")));
        assert!(a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1));
    }
    let manifest = read_json(&out.join("manifest-seeds-3_8-10_12345.json"));
    assert_eq!((&manifest["seeds"], &manifest["count"]), (&"3,8-10,12345".into(), &5.into()));
    sample(&out, &["--seeds", "1-9"]).assert().code(2).stderr(contains("holds 3 of these images"));
    sample(&out, &["--seeds", "1", "--n", "3"]).assert().code(2);
    sample(&out, &["--seeds", "1-x"]).assert().code(2).stderr(contains("'1-x' is no seed"));
}

#[test]
fn truncation_makes_other_images() {
    let folder = tempdir().unwrap();
    let pixels = |name: &str, flags: &[&str]| {
        let out = folder.path().join(name);
        sample(&out, &[&["--n", "50", "--format", "npy"][..], flags].concat()).assert().success();
        let spread = |pixels: &[u8]| pixels.iter().map(|&pixel| f64::from(pixel.abs_diff(128))).sum::<f64>();
        spread(&read_npy(&out.join("samples.npy")).1)
    };
    // tanh(z W): latents nearer to 0 make images nearer to grey.
    let (whole, half, tenth) =
        (pixels("whole", &[]), pixels("half", &["--truncation", "1"]), pixels("tenth", &["--truncation", "0.1"]));
    assert!(whole > half && half > 4.0 * tenth, "{whole} {half} {tenth}");
    sample(&folder.path().join("x"), &["--n", "1", "--truncation", "0"]).assert().code(2).stderr(contains("above 0"));
    sample(&folder.path().join("x"), &["--n", "1", "--class", "0"]).assert().code(2).stderr(contains("knows no classes"));
}

#[test]
fn encoders_of_their_own_write_the_same() {
    let generator = open(SEALED, small_batches()).unwrap();
    let folder = tempdir().unwrap();
    let made = |name: &str, format, threads, encoders| {
        let out = folder.path().join(name);
        let job = SamplingJob::new(Provider::Cpu).threads(threads).encoders(encoders);
        pipeline::run(&generator, &job, &plan(format, &out, 3000, Existing::Refuse), &Silent, &AtomicBool::new(false)).unwrap();
        contents(&out)
    };
    for format in [Format::Png, Format::Npz, Format::Tar] {
        let name = format.name();
        assert!(made(&format!("{name}-0"), format, 2, 0) == made(&format!("{name}-3"), format, 1, 3), "{name}");
    }
    // A failure of an encoder ends the sessions.
    let out = folder.path().join("broken");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("010000"), "").unwrap();
    let job = SamplingJob::new(Provider::Cpu).threads(2).encoders(3);
    let failed =
        pipeline::run(&generator, &job, &plan(Format::Png, &out, 100_000, Existing::Refuse), &Silent, &AtomicBool::new(false));
    assert!(message(failed).contains("010000"));
}

#[test]
fn tar_files_of_others_are_seen() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("000003.tar"), "mine").unwrap();
    let flags = ["--n", "2100", "--start", "950", "--format", "tar"];
    sample(folder.path(), &flags).assert().code(2).stderr(contains("holds 1 of these tar files"));
    assert_eq!(fs::read(folder.path().join("000003.tar")).unwrap(), b"mine");
    sample(folder.path(), &["--n", "2000", "--start", "950", "--format", "tar"]).assert().success();
}

/// What a call writes to stdout.
fn piped(flags: &[&str]) -> Vec<u8> {
    sample(Path::new("-"), &[flags, &["--quiet"]].concat()).assert().success().get_output().stdout.clone()
}

/// The files in a tar file, by their names.
fn untarred(bytes: &[u8]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut archive = ::tar::Archive::new(bytes);
    let entries = archive.entries().unwrap().map(|entry| {
        let (mut entry, mut bytes) = (entry.unwrap(), Vec::new());
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        (entry.path().unwrap().into_owned(), bytes)
    });
    entries.collect()
}

#[test]
fn a_pipe_gets_what_files_would_hold() {
    let folder = tempdir().unwrap();
    let many = ["--n", "2100", "--start", "950"];
    sample(folder.path(), &[&many[..], &["--format", "npy"]].concat()).assert().success();
    let npy = fs::read(folder.path().join("samples.npy")).unwrap();
    for threads in ["1", "3"] {
        assert!(piped(&[&many[..], &["--format", "npy", "--threads", threads]].concat()) == npy, "{threads} threads");
    }
    let images = folder.path().join("images");
    sample(&images, &many).assert().success();
    let one_by_name: BTreeMap<PathBuf, Vec<u8>> =
        images_in(&images).into_iter().map(|(name, bytes)| (name.file_name().unwrap().into(), bytes)).collect();
    let tar = piped(&[&many[..], &["--format", "tar"]].concat());
    assert!(untarred(&tar) == one_by_name && one_by_name.len() == 2100);
    // One tar file, however many images, by its ending.
    let file = folder.path().join("new/all.tar");
    sample(&file, &many).assert().success();
    assert!(fs::read(&file).unwrap() == tar);
    sample(&file, &many).assert().code(2).stderr(contains("all.tar exists already"));
    sample(&file, &["--n", "3", "--force"]).assert().success();
    assert_eq!(untarred(&fs::read(&file).unwrap()).len(), 3);
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);

    // A sheet, or the one image itself.
    sample(folder.path(), &["--n", "30", "--format", "grid"]).assert().success();
    assert!(piped(&["--n", "30", "--format", "grid"]) == fs::read(folder.path().join("grid.png")).unwrap());
    assert!(piped(&["--n", "1", "--start", "950", "--format", "grid"]) == one_by_name[Path::new("000950.png")]);

    for (flags, says) in [
        (&["--n", "3"][..], "needs a format"),
        (&["--n", "3", "--format", "npz"], "format npz does not go to stdout"),
        (&["--n", "3", "--format", "npy", "--json"], "both go to stdout"),
        (&["--n", "3", "--format", "npy", "--shard", "1/2"], "in one go"),
    ] {
        sample(Path::new("-"), flags).assert().code(2).stdout("").stderr(contains(says));
    }
    sample(&file, &["--n", "3", "--resume"]).assert().code(2).stderr(contains("in one go"));
}

#[test]
fn the_ending_of_out_chooses_the_format() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    sample(&path("a.npy"), &["--n", "4"]).assert().success();
    assert_eq!(read_npy(&path("a.npy")).1.len(), 4 * 144);
    sample(&path("a.npz"), &["--n", "4"]).assert().success();
    assert!(fs::read(path("a.npz")).unwrap().starts_with(b"PK"));
    sample(&path("a.png"), &["--n", "4"]).assert().success();
    assert_eq!(image::open(path("a.png")).unwrap().width(), 2 * 8 + 2);
    // What is said outright counts, and a folder stays one.
    sample(&path("b.npz"), &["--n", "4", "--format", "npy"])
        .assert()
        .code(2)
        .stderr(contains("names a file that format npy does not make"));
    for format in ["png", "npz"] {
        let says = format!("names a file that format {format} does not make");
        sample(&path("b.tar"), &["--n", "4", "--format", format]).assert().code(2).stderr(contains(says));
    }
    assert!(!path("b.tar").exists());
    sample(&path("b.tar/"), &["--n", "4"]).assert().success();
    assert_eq!(images_in(&path("b.tar")).len(), 4, "a folder");
    fs::create_dir(path("c.npy")).unwrap();
    sample(&path("c.npy"), &["--n", "4"]).assert().success();
    assert_eq!(images_in(&path("c.npy")).len(), 4);
    sample(&path("e.jpg"), &["--n", "4"]).assert().code(2).stderr(contains("ends in .jpg, which is no format"));
    // The short flags.
    let mut command = gan_infer();
    command.arg("--model").arg(golden(SEALED)).args(["-n", "2", "--provider", "cpu", "-o"]).arg(path("d")).assert().success();
    assert_eq!(images_in(&path("d")).len(), 2);
}

#[test]
#[cfg(unix)]
fn a_file_without_room_is_refused_before_any_work() {
    let folder = tempdir().unwrap();
    // 144 TB, which no disk of a test has.
    let refused = sample(&folder.path().join("x.npy"), &["--n", "1000000000000"]).assert().code(1);
    refused.stderr(contains("are free where it is to be").and(contains("the file will have 131.0 TiB")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
