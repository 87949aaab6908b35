//! Damaged files of every kind, each read by a program of its own under a limit of memory and time: no panic, no hang, and an
//! error that names the file. `GANFORGE_DAMAGED=1000` asks for so many of each kind; the default is a few.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::tempdir;

/// Address space of a child, in KiB: what the programs need for whole files, several times over.
const MEMORY: u64 = 6 << 20;
/// For all that a child does. Alone it needs a tenth of a second, but other tests are at work beside it.
const TIME: Duration = Duration::from_secs(30);

fn how_many() -> usize {
    std::env::var("GANFORGE_DAMAGED").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn below(random: &mut ChaCha8Rng, end: usize) -> usize {
    (random.next_u64() % end.max(1) as u64) as usize
}

/// A copy with bits flipped, bytes replaced, a part cut out, doubled, moved to the end, filled, or the end missing. Never equal.
fn damaged(whole: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    loop {
        let mut file = whole.to_vec();
        for _ in 0..=below(random, 3) {
            let at = below(random, file.len());
            // Lengths and offsets stand at the ends of files and of their parts.
            let at = match below(random, 4) {
                0 => at % 64,
                1 => file.len().saturating_sub(1 + at % 64),
                _ => at,
            };
            let len = (1 + below(random, 64)).min(file.len() - at);
            match below(random, 8) {
                0 | 1 => file[at] ^= 1 << below(random, 8),
                2 => file[at] = random.next_u64() as u8,
                3 => file[at..at + len].fill([0, 0xff, 0x7f, 0x80][below(random, 4)]),
                4 => file.truncate(at.max(1)),
                5 => drop(file.drain(at..at + len)),
                6 => {
                    let part = file[at..at + len].to_vec();
                    file.splice(at..at, part);
                }
                _ => file[at..at + len].rotate_left(len / 2),
            }
            if file.is_empty() {
                break;
            }
        }
        if !file.is_empty() && file != whole {
            return file;
        }
    }
}

/// Damages each of `whole` in turn, lets `call` make a command of the folder and the damaged file, and checks what it does.
/// Gives how many were refused, and how many there were.
fn try_all(whole: &[PathBuf], call: impl Fn(&Path, &Path) -> Command + Sync) -> (usize, usize) {
    let (next, refused, total) = (AtomicUsize::new(0), AtomicUsize::new(0), how_many());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let folder = tempdir().unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total {
                        return;
                    }
                    let source = &whole[number % whole.len()];
                    let mut random = ChaCha8Rng::seed_from_u64(number as u64);
                    let file = folder.path().join(source.file_name().unwrap());
                    fs::write(&file, damaged(&fs::read(source).unwrap(), &mut random)).unwrap();
                    refused.fetch_add(usize::from(was_refused(number, &file, call(folder.path(), &file))), Ordering::Relaxed);
                }
            });
        }
    });
    (refused.into_inner(), total)
}

fn was_refused(number: usize, file: &Path, mut command: Command) -> bool {
    let output = command.timeout(TIME).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let code = output.status.code();
    let what = || format!("damage {number} of {}: {:?}\n{said}", file.display(), output.status);
    assert!(!said.contains("panicked"), "{}", what());
    assert!(matches!(code, Some(0..=2)), "{}", what());
    let name = file.file_name().unwrap().to_string_lossy();
    assert!(code == Some(0) || said.contains(&*name), "{}", what());
    code != Some(0)
}

/// A program under a limit of memory.
fn limited(program: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MEMORY} && exec \"$0\" \"$@\""), program]);
    command.env("ORT_DYLIB_PATH", crate::infer::runtime_path()).env_remove("RUST_BACKTRACE").env("RAYON_NUM_THREADS", "1");
    command
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn info(file: &Path) -> Command {
    let mut command = limited(env!("CARGO_BIN_EXE_gan-infer"));
    command.arg("info").arg(file).args(["--provider", "cpu"]);
    command
}

/// The checksum in their metadata tells.
#[test]
fn damaged_generators_of_ours_are_refused() {
    let (refused, total) = try_all(&[golden("sealed.onnx")], |_, file| info(file));
    assert_eq!(refused, total);
}

/// Where the damage makes another whole model, it is sampled.
#[test]
fn damaged_strangers_do_no_harm() {
    let names = ["legacy-11", "legacy-17", "dynamo-18", "half", "byte", "fixed", "nhwc"];
    let whole: Vec<PathBuf> = names.iter().map(|name| golden(&format!("strangers/{name}.onnx"))).collect();
    let (refused, total) = try_all(&whole, |_, file| info(file));
    println!("{refused} of {total} damaged strangers were refused");
    assert!(refused > total / 4);
}

/// IDX files, plain and compressed, and archives of images.
#[cfg(feature = "train")]
#[test]
fn damaged_data_does_no_harm() {
    use std::io::Write;
    let folder = tempdir().unwrap();
    let idx: Vec<u8> =
        [0x0803, 40, 28, 28].into_iter().flat_map(u32::to_be_bytes).chain((0..40 * 784).map(|i| i as u8)).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&idx).unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for number in 0..8u8 {
        let mut png = std::io::Cursor::new(Vec::new());
        image::GrayImage::from_fn(9, 9, |x, y| image::Luma([number * 20 + (x * y) as u8]))
            .write_to(&mut png, image::ImageFormat::Png)
            .unwrap();
        zip.start_file(format!("{number}.png"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(png.get_ref()).unwrap();
    }
    let files = [("a.idx", idx), ("b.idx.gz", gzip.finish().unwrap()), ("c.zip", zip.finish().unwrap().into_inner())];
    let whole: Vec<PathBuf> = files
        .iter()
        .map(|(name, bytes)| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        })
        .collect();
    let (refused, total) = try_all(&whole, |_, file| {
        let mut command = limited(env!("CARGO_BIN_EXE_gan-train"));
        command.arg("data").arg(file).args(["--size", "28", "--channels", "1", "--quiet"]);
        command
    });
    println!("{refused} of {total} damaged data sets were refused");
    assert!(refused > 0);
}

/// Every file of a checkpoint and of the run around it: of the former, whose checksums are known, all damage is noticed.
#[cfg(feature = "train")]
#[test]
fn damaged_checkpoints_do_no_harm() {
    let folder = tempdir().unwrap();
    let run = folder.path().join("run");
    let mut train = limited(env!("CARGO_BIN_EXE_gan-train"));
    train.args(["--preset", "digits", "--width", "0.125", "--data", "synthetic", "--steps", "2"]);
    train.args(["--batch-size", "4", "--device", "cpu", "--quiet", "--out"]).arg(&run).assert().success();
    let saved = run.join("checkpoints/00000002");
    let mut whole: Vec<PathBuf> = fs::read_dir(&saved).unwrap().map(|entry| entry.unwrap().path()).collect();
    whole.retain(|path| !path.ends_with("config.toml")); // the run's goes by the same name
    whole.extend(["config.toml", "stats.jsonl", "checkpoints/latest"].map(|name| run.join(name)));
    whole.sort();
    let (refused, total) = try_all(&whole, |folder, file| {
        let copy = folder.join("copy");
        let _ = fs::remove_dir_all(&copy);
        copy_folder(&run, &copy);
        let source = whole.iter().find(|path| path.file_name() == file.file_name()).unwrap();
        fs::copy(file, copy.join(source.strip_prefix(&run).unwrap())).unwrap();
        let mut command = limited(env!("CARGO_BIN_EXE_gan-train"));
        command.arg("--resume").arg(&copy).args(["--steps", "3", "--device", "cpu", "--quiet"]);
        command
    });
    println!("{refused} of {total} damaged checkpoints were refused");
    assert!(refused > total * 3 / 4);
}

#[cfg(feature = "train")]
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
