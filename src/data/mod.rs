//! Training images: from IDX files, folders and zip archives of images, or the built-in synthetic digits, into memory.

mod config;
mod decode;
mod folder;
mod idx;
mod packed;
mod report;
pub mod synthetic;
mod zip;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, nearest};
use crate::image::Images;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::text::{self, grouped, on_one_line};
use crate::{files, memory};

pub use config::DataConfig;
use report::others;
pub use report::{Broken, DataReport};

/// Images in memory, 8 bits a channel, planar.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// What it is called in logs and metadata: the built-in name, or the file's or folder's.
    pub name: String,
    /// Over shape, pixels and labels, so over what the networks see; in hexadecimal.
    pub sha256: String,
    /// How many images; at least 1.
    pub len: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Height and width.
    pub size: usize,
    /// `[len, channels, size, size]`.
    pub pixels: Vec<u8>,
    /// The class of each image; empty where nobody asked for classes.
    pub labels: Vec<u8>,
    /// What was found on the way.
    pub report: DataReport,
}

/// The numbers of the images to train on and of those held out; each ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Never empty.
    pub train: Vec<u32>,
    /// Never trained on.
    pub held_out: Vec<u32>,
}

/// What the readers of this module's parts return.
struct Loaded {
    pixels: Vec<u8>,
    /// The class of each image, or why there are none.
    labels: Result<Vec<u8>, String>,
    report: DataReport,
}

/// The names [`load`] takes besides paths.
pub const NAMES: [&str; 3] = ["synthetic", "mnist", "fashion-mnist"];

/// The extensions by which images are recognised, in any case.
pub const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "bmp", "webp", "gif"];

impl Dataset {
    /// Image number `index`, `[channels, size, size]`.
    ///
    /// # Panics
    /// When `index` is not below `len`.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.channels * self.size * self.size;
        &self.pixels[index * bytes..(index + 1) * bytes]
    }

    /// The images of these numbers, in this order.
    ///
    /// # Panics
    /// When a number is not below `len`.
    pub fn images(&self, indices: &[u32]) -> Images {
        let (channels, area) = (self.channels, self.size * self.size);
        let mut pixels = vec![0; indices.len() * channels * area];
        for (out, &index) in pixels.chunks_exact_mut(channels * area).zip(indices) {
            for (channel, plane) in self.image(index as usize).chunks_exact(area).enumerate() {
                out[channel..].iter_mut().step_by(channels).zip(plane).for_each(|(to, from)| *to = *from);
            }
        }
        Images { n: indices.len(), height: self.size, width: self.size, channels, pixels }
    }

    /// Holds out a random share of the images: the nearest whole number of them, at least one if the share is above 0, but
    /// never all. The same seed holds out the same images.
    pub fn split(&self, held_out: f64, seed: u64) -> Split {
        let wanted = (held_out.clamp(0.0, 1.0) * self.len as f64).round() as usize;
        let count = wanted.max(usize::from(held_out > 0.0)).min(self.len.saturating_sub(1));
        let mut held_out = Stream::at(seed, Purpose::HeldOut, 0).permutation(self.len as u32);
        let mut train = held_out.split_off(count);
        held_out.sort_unstable();
        train.sort_unstable();
        Split { train, held_out }
    }
}

/// Loads a data set in the form `config` asks for. `source` is one of
/// - `synthetic`: 20,000 [digits](synthetic), the same everywhere;
/// - `mnist`, `fashion-mnist`: a folder of that name, see [`find_named`], in `$GANFORGE_DATA`, `data` or the current folder;
/// - a folder with `train-images-idx3-ubyte` or `train-images-idx3-ubyte.gz` (its test set is not used);
/// - an IDX file of images, plain or gzip, whatever its name;
/// - a `.npy` or `.npz` file of uint8 images `[n, height, width, channels]`, a tar file of images (WebDataset), or a folder of such files;
/// - a folder or a zip archive of images (see [`EXTENSIONS`]), its subfolders included, in the order of their paths.
///
/// Images are cropped to their central square and resized; transparent parts become white. Broken ones are left out and
/// reported. Only the decoded pixels are held in memory as a whole;
/// what needs more memory than there is is refused (`GANFORGE_MEMORY` says how many GiB may be taken instead). Where `config` asks for classes, they are those of
/// [`load_labels`], or each folder of images is one, in the order of the folders' names.
///
/// # Errors
/// When the source is unknown, missing or unreadable, when it holds no images, when more than half of them are broken, or when
/// it does not have the classes asked for.
pub fn load(source: &str, config: &DataConfig, progress: &dyn Progress) -> Result<Dataset> {
    if !matches!(config.channels, 1 | 3) || !(1..=1024).contains(&config.size) {
        let what = format!("images of {} channels, {} pixels wide", config.channels, config.size);
        return Err(Error::usage(what, "Ask for 1 or 3 channels and a size of 1 to 1024."));
    }
    if source == "synthetic" {
        return finish(source.to_string(), config, draw_synthetic(config)?);
    }
    let path = if NAMES.contains(&source) { find_named(source, &named_roots())? } else { PathBuf::from(source) };
    let kind = fs::metadata(&path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => unknown(source),
        _ => Error::io("read", &path)(e),
    })?;
    let samples = packed::find(&path)?;
    let loaded = match idx::training_file(&path) {
        None if !samples.is_empty() => packed::load(&samples, config, progress)?,
        Some(file) => idx::load(&file, config, progress)?,
        None if kind.is_dir() => folder::load(&path, config, progress)?,
        None if kind.is_file() => load_file(&path, config, progress)?,
        None => return Err(unrecognised(&path, "neither a file nor a folder".to_string())),
    };
    finish(name_of(&path), config, loaded)
}

/// The classes of a source's images, one a training image, as far as they are known: from the IDX file of labels beside the
/// IDX file of images; of `synthetic`, the digits. `None` where there are none.
///
/// # Errors
/// When the source is unknown, or its file of labels is unreadable or damaged.
pub fn load_labels(source: &str) -> Result<Option<Vec<u8>>> {
    if source == "synthetic" {
        return Ok(Some(synthetic::labels()));
    }
    let path = if NAMES.contains(&source) { find_named(source, &named_roots())? } else { PathBuf::from(source) };
    if !path.exists() {
        return Err(unknown(source));
    }
    idx::labels_file(&idx::training_file(&path).unwrap_or(path)).map(|file| idx::load_labels(&file)).transpose()
}

/// One image `[height, width, channels]` in another size and number of channels, as [`load`] would have made it: `out` is
/// `[channels, size, size]`.
#[cfg(feature = "infer")] // only the evaluation, which needs both, takes images that are decoded already
pub(crate) fn refit(
    pixels: &[u8],
    [height, width, stored]: [usize; 3],
    size: usize,
    channels: usize,
    out: &mut [u8],
) -> Result<(), String> {
    match (stored, channels) {
        (3, 1) => decode::fit(&decode::grey_of(pixels), [width, height, 1], size, 1, out),
        _ => decode::fit(pixels, [width, height, stored], size, channels, out),
    }
}

/// The folder of a data set that goes by a name: the first `ROOT/NAME` that has its training images in an IDX file.
///
/// # Errors
/// When there is none; says what files are expected, and where they were looked for.
pub fn find_named(name: &str, roots: &[PathBuf]) -> Result<PathBuf> {
    let folders: Vec<PathBuf> = roots.iter().map(|root| root.join(name)).collect();
    if let Some(folder) = folders.iter().find(|folder| idx::training_file(folder).is_some()) {
        return Ok(folder.clone());
    }
    let looked: Vec<String> = folders.iter().map(|folder| text::path(folder)).collect();
    Err(Error::invalid(
        format!("data set '{name}'"),
        format!(
            "not found; looked in {}; expected the files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, \
             t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz (only the first is trained on; unpacked ones will do)",
            looked.join(", ")
        ),
        format!(
            "Put them into data/{name}, or set GANFORGE_DATA to the folder that has the folder '{name}'; \
             the data set 'synthetic' needs no files."
        ),
    ))
}

fn named_roots() -> Vec<PathBuf> {
    let set = std::env::var_os("GANFORGE_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
    set.into_iter().chain([PathBuf::from("data"), PathBuf::from(".")]).collect()
}

fn unknown(source: &str) -> Error {
    let near = if source.contains(['/', '\\']) { None } else { nearest(&source.to_lowercase(), NAMES) };
    let hint = near.map(|near| format!("Did you mean '{near}'? ")).unwrap_or_default();
    Error::usage(
        format!("there is no data set '{}', and no file or folder of that name", on_one_line(source)),
        format!("{hint}Data is one of {}, or the path of a folder or zip of images or of an IDX file.", NAMES.join(", ")),
    )
}

fn draw_synthetic(config: &DataConfig) -> Result<Loaded> {
    if config.size < synthetic::MIN_SIZE {
        let what = format!("synthetic digits of {} pixels", config.size);
        return Err(Error::usage(what, format!("They need a data.size of at least {}.", synthetic::MIN_SIZE)));
    }
    const SEED: u64 = 0; // not the run's: runs with different seeds train on the same data
    let bytes = synthetic::LEN * config.channels * config.size * config.size;
    let what = format!("{} images", grouped(synthetic::LEN));
    memory::check("synthetic".as_ref(), bytes as u64, &what, "Use a smaller data.size.")?;
    let pixels = synthetic::digits(synthetic::LEN, config.size, config.channels, SEED);
    let mut report = DataReport { found: synthetic::LEN, ..DataReport::default() };
    let size = config.size as u32;
    report.count(synthetic::LEN, (size, size), config.channels == 3);
    Ok(Loaded { pixels, labels: Ok(synthetic::labels()), report })
}

/// A single file, by its first bytes.
fn load_file(path: &Path, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let mut head = Vec::new();
    let (file, _) = files::open(path)?;
    file.take(16).read_to_end(&mut head).map_err(Error::io("read", path))?;
    match head.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => zip::load(path, config, progress),
        [0x1f, 0x8b, ..] | [0, 0, ..] => idx::load(path, config, progress),
        [] => Err(unrecognised(path, "the file is empty".to_string())),
        head if image::guess_format(head).is_ok() => Err(unrecognised(path, "a single image is no data set".to_string())),
        head => {
            let begins = head[..head.len().min(4)].escape_ascii();
            Err(unrecognised(path, format!("begins with \"{begins}\", which is neither a zip archive nor an IDX file")))
        }
    }
}

fn unrecognised(path: &Path, what: String) -> Error {
    Error::invalid_file(path, what, "Give a folder or a zip archive of images, or an IDX file of images (plain or .gz).")
}

/// A path's own name, without the extension of an archive.
fn name_of(path: &Path) -> String {
    let full = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()); // so that `.` has a name
    let name = full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned();
    let ends = [".gz", ".zip"].iter().find(|end| name.to_lowercase().ends_with(**end));
    match ends {
        Some(end) if full.is_file() && name.len() > end.len() => name[..name.len() - end.len()].to_string(),
        _ => name,
    }
}

fn finish(name: String, config: &DataConfig, loaded: Loaded) -> Result<Dataset> {
    let Loaded { pixels, labels, mut report } = loaded;
    let (size, channels, len) = (config.size, config.channels, report.used);
    if u32::try_from(len).is_err() {
        return Err(Error::invalid(name, format!("{len} images"), "At most 4,294,967,295 images can be numbered."));
    }
    let bytes = channels * size * size;
    let labels = match config.classes {
        0 => Vec::new(),
        classes => checked_labels(&name, labels, len, classes)?,
    };
    let hash = || hash([len, channels, size, size], [&pixels, &labels]);
    let (sha256, distinct) = rayon::join(hash, || pixels.chunks_exact(bytes).collect::<HashSet<_>>().len());
    report.duplicates = len - distinct;
    Ok(Dataset { name, sha256, len, channels, size, pixels, labels, report })
}

/// The labels, if there is one an image, and images of each of the classes and of no other.
fn checked_labels(name: &str, labels: Result<Vec<u8>, String>, len: usize, classes: usize) -> Result<Vec<u8>> {
    let hint = "Labels are an IDX file beside that of the images, numbers from 0 on, or folders of images, one a class; data.classes \
                is how many classes there are.";
    let refused = |what: String| Error::invalid(name, what, hint);
    let labels = labels.map_err(|why| refused(format!("data.classes asks for {classes} classes, but {why}")))?;
    if labels.len() != len {
        return Err(refused(format!("{} labels for {} images", grouped(labels.len()), grouped(len))));
    }
    let found: BTreeSet<usize> = labels.iter().copied().map(usize::from).collect();
    if found.iter().copied().eq(0..classes) {
        Ok(labels)
    } else {
        let found = found.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        Err(refused(format!("data.classes is {classes}, but its labels are {found}")))
    }
}

/// The classes that the folders of images make, by the images' paths inside; or why they make none.
fn classes_of_folders(names: &[&String]) -> Result<Vec<u8>, String> {
    let folder_of = |name: &&String| match name.rsplit_once('/') {
        Some((folder, _)) => Ok(folder.to_string()),
        None => Err(format!("the image {name} is in no folder of a class")),
    };
    let folders: Vec<String> = names.iter().map(folder_of).collect::<Result<_, _>>()?;
    let distinct: BTreeSet<&String> = folders.iter().collect();
    if distinct.len() > 256 {
        return Err(format!("its images are in {} folders", grouped(distinct.len())));
    }
    let number: BTreeMap<&String, u8> = distinct.into_iter().zip(0..=u8::MAX).collect();
    Ok(folders.iter().filter_map(|folder| number.get(folder).copied()).collect())
}

fn hash(shape: [usize; 4], parts: [&[u8]; 2]) -> String {
    let mut hasher = Sha256::new();
    for extent in shape {
        hasher.update((extent as u64).to_le_bytes());
    }
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `len` images of `bytes` bytes in parallel: `make` fills one, and what it returns is collected in order.
fn fill<T: Send>(
    place: &Path,
    [len, bytes]: [usize; 2],
    progress: &dyn Progress,
    make: impl Fn(usize, &mut [u8]) -> T + Sync,
) -> Result<(Vec<u8>, Vec<T>)> {
    let mut pixels = Vec::new();
    let counter = Counter::new(place, len, progress);
    grow(place, &mut pixels, [len, len, bytes])?;
    let results = make_all(&mut pixels, bytes, &counter, make);
    progress.end();
    Ok((pixels, results))
}

/// Tells how many images are read.
struct Counter<'a> {
    progress: &'a dyn Progress,
    done: AtomicU64,
}

impl<'a> Counter<'a> {
    fn new(place: &Path, len: usize, progress: &'a dyn Progress) -> Self {
        progress.begin(&format!("reading {}", text::path(place)), len as u64);
        Self { progress, done: AtomicU64::new(0) }
    }

    fn count(&self) {
        const REPORT_EVERY: u64 = 64;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(REPORT_EVERY) {
            self.progress.update(done, "");
        }
    }
}

/// Adds `len` black images of `bytes` bytes, with room for `room` if there is need of more.
fn grow(place: &Path, pixels: &mut Vec<u8>, [len, room, bytes]: [usize; 3]) -> Result<()> {
    const HINT: &str = "Use fewer images, or a smaller data.size.";
    let too_many = || {
        let what = format!("{} images of {} bytes do not fit in memory", grouped(room), grouped(bytes));
        Error::invalid_file(place, what, HINT)
    };
    let wanted = room.checked_mul(bytes).ok_or_else(too_many)?;
    let more = len * bytes; // at most `wanted`
    if pixels.capacity() - pixels.len() < more {
        memory::check(place, wanted as u64, &format!("{} images of {} bytes", grouped(room), grouped(bytes)), HINT)?;
        pixels.try_reserve_exact(wanted).map_err(|_| too_many())?;
    }
    pixels.resize(pixels.len() + more, 0);
    Ok(())
}

fn make_all<T: Send>(
    pixels: &mut [u8],
    bytes: usize,
    counter: &Counter,
    make: impl Fn(usize, &mut [u8]) -> T + Sync,
) -> Vec<T> {
    let images = pixels.par_chunks_exact_mut(bytes).enumerate();
    images
        .map(|(index, out)| {
            let result = make(index, out);
            counter.count();
            result
        })
        .collect()
}

/// Reads and decodes the images called `names` in parallel, and leaves out the broken ones. Memory is taken for what turned out
/// to be images, part by part, and for the rest once those before it mostly did: a name costs nothing.
fn decode_all(
    place: &Path,
    names: &[String],
    ignored: usize,
    config: &DataConfig,
    progress: &dyn Progress,
    read: impl Fn(usize) -> Result<Vec<u8>, String> + Sync,
) -> Result<Loaded> {
    /// Bytes of a part's images: enough for every thread to have its share.
    const PART: usize = 64 << 20;
    let bytes = config.channels * config.size * config.size;
    let part = (PART / bytes).max(rayon::current_num_threads());
    let mut report = DataReport { found: names.len(), ignored, ..DataReport::default() };
    let (mut pixels, mut whole) = (Vec::new(), Vec::new());
    let counter = Counter::new(place, names.len(), progress);
    for (number, part_of_names) in names.chunks(part).enumerate() {
        let first = number * part;
        let mostly_whole = first > 0 && report.used * 2 >= first;
        let room = if mostly_whole { names.len() - first } else { part_of_names.len() };
        grow(place, &mut pixels, [part_of_names.len(), room, bytes])?;
        let new = &mut pixels[report.used * bytes..];
        let results = make_all(new, bytes, &counter, |index, out| {
            read(first + index).and_then(|encoded| decode::decode(&encoded, config.size, config.channels, out))
        });
        let start = report.used;
        for (index, (name, result)) in part_of_names.iter().zip(results).enumerate() {
            match result {
                Ok(source) => {
                    let at = (start + index) * bytes;
                    pixels.copy_within(at..at + bytes, report.used * bytes);
                    report.count(1, (source.width, source.height), source.colour);
                    whole.push(name);
                }
                Err(reason) => report.broken.push(Broken { name: name.clone(), reason }),
            }
        }
        pixels.truncate(report.used * bytes);
    }
    progress.end();
    check_health(place, &report)?;
    pixels.shrink_to_fit();
    Ok(Loaded { pixels, labels: classes_of_folders(&whole), report })
}

/// A whole encoded image, whatever size its archive claims, unless it is too large to be one.
fn read_bounded(source: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    source.take(decode::MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > decode::MAX_BYTES {
        return Err(format!("larger than {} bytes", grouped(decode::MAX_BYTES as usize)));
    }
    Ok(bytes)
}

fn check_health(place: &Path, report: &DataReport) -> Result<()> {
    let (found, broken) = (report.found, report.broken.len());
    if found == 0 {
        let others = if report.ignored == 0 { String::new() } else { format!("; {}", others(report.ignored)) };
        return Err(Error::invalid_file(
            place,
            format!("no images found{others}"),
            format!("Images are files that end in .{}.", EXTENSIONS.join(", .")),
        ));
    }
    if broken * 2 > found {
        let first: Vec<String> = report.broken.iter().take(3).map(Broken::to_string).collect();
        return Err(Error::invalid_file(
            place,
            format!("{} of {} images are broken: {}", grouped(broken), grouped(found), first.join("; ")),
            "With more than half of them broken something is wrong with the whole: fetch or unpack it again.",
        ));
    }
    Ok(())
}

/// What a file in a folder or an archive is, by its path inside, with `/` between the parts.
enum Entry {
    Image,
    Other,
    /// Files of the system's, not the user's: `.DS_Store`, `__MACOSX/._x.jpg`.
    Hidden,
}

fn classify(path: &str) -> Entry {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    if name.is_empty() || path.split('/').any(|part| part.starts_with('.') || part == "__MACOSX") {
        Entry::Hidden
    } else if EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)) {
        Entry::Image
    } else {
        Entry::Other
    }
}
