//! Training images: from IDX files, folders and zip archives of images, or the built-in synthetic digits, into memory.

mod classes;
mod config;
mod dataset;
mod decode;
mod encoded;
mod folder;
mod idx;
mod large;
mod packed;
mod reading;
mod report;
mod sources;
pub mod stacked;
pub mod synthetic;
mod zip;

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, did_you_mean, nearest};
use crate::progress::Progress;
use crate::text::{self, grouped, on_one_line};
use crate::{files, memory};

use classes::Classes;
pub use config::DataConfig;
use dataset::finish;
pub use dataset::{Dataset, Split};
pub use report::{Broken, ClassCount, DataReport, NO_ENDING};
pub use sources::Sources;

/// What the readers of this module's parts return.
struct Loaded {
    pixels: Vec<u8>,
    /// The class of each image, or why there are none.
    classes: Result<Classes, String>,
    /// What the images are called; empty where they only have numbers.
    names: Vec<String>,
    report: DataReport,
}

/// The names [`load`] takes besides paths.
pub const NAMES: [&str; 4] = ["synthetic", "mnist", "fashion-mnist", stacked::NAME];

/// The extensions by which images are recognised, in any case: the formats of photographs and drawings that can be read without C.
/// Not read are those that need a library in C (HEIC, AVIF) or that the crate image does not know (JPEG XL, raw files of cameras),
/// icons, and images of light (OpenEXR, Radiance HDR), which do not say which of their values is white.
pub const EXTENSIONS: [&str; 15] =
    ["jpg", "jpeg", "png", "bmp", "webp", "gif", "tif", "tiff", "tga", "qoi", "pnm", "pbm", "pgm", "ppm", "pam"];

/// Loads a data set in the form `config` asks for. A source is one of
/// - `synthetic`: 20,000 [digits](synthetic), the same everywhere;
/// - `mnist`, `fashion-mnist`: a folder of that name, see [`find_named`], in `$GANFORGE_DATA`, `data` or the current folder;
/// - `stacked-mnist`: 128,000 images of [three digits](stacked) in three colours, made of the folder of `mnist`, the same everywhere;
/// - a folder with `train-images-idx3-ubyte` or `train-images-idx3-ubyte.gz` (its test set is not used);
/// - an IDX file of images, plain or gzip, whatever its name;
/// - a `.npy` or `.npz` file of uint8 images `[n, height, width, channels]`, a tar file of images (WebDataset), or a folder of such files;
/// - a folder or a zip archive of images (see [`EXTENSIONS`]), its subfolders included, in the order of their paths.
///
/// Of several sources the images come one after the other. Images are cropped to their central square and resized; transparent
/// parts become white. Broken ones are left out and reported, and so are those that are too large: of more than 1,073,741,824
/// pixels, or 256 MiB as a file, or 1 GiB decoded where a format cannot be read in parts. Only the decoded pixels are held in
/// memory as a whole;
/// what needs more memory than there is is refused (`GANFORGE_MEMORY` says how many GiB may be taken instead). Where `config` asks for classes, they are those of
/// [`load_labels`], or each folder of images is one, in the order of the folders' names. Several sources with names of classes have
/// all of these together.
///
/// # Errors
/// When a source is unknown, missing or unreadable, when it holds no images, when more than half of them are left out, or when
/// it does not have the classes asked for.
pub fn load(sources: impl Into<Sources>, config: &DataConfig, progress: &dyn Progress) -> Result<Dataset> {
    if !matches!(config.channels, 1 | 3) || !(1..=1024).contains(&config.size) {
        let what = format!("images of {} channels, {} pixels wide", config.channels, config.size);
        return Err(Error::usage(what, "Ask for 1 or 3 channels and a size of 1 to 1024."));
    }
    let sources = sources.into();
    let parts: Result<Vec<_>> = sources.iter().map(|source| load_one(source, config, progress)).collect();
    let (name, loaded) = join(parts?)?;
    finish(name, config, loaded)
}

fn load_one(source: &str, config: &DataConfig, progress: &dyn Progress) -> Result<(String, Loaded)> {
    if source == "synthetic" {
        return Ok((source.to_string(), draw_synthetic(config)?));
    }
    if source == stacked::NAME {
        return Ok((source.to_string(), stacked::load(config, progress)?));
    }
    let path = if NAMES.contains(&source) { find_named(source, &named_roots())? } else { PathBuf::from(source) };
    let kind = fs::metadata(&path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => unknown(source),
        _ => Error::io("read", &path)(e),
    })?;
    let samples = packed::find(&path)?;
    let loaded = match idx::training_file(&path) {
        None if !samples.is_empty() => packed::load(&samples, config, progress)?,
        Some(file) => idx::load(&file, source, config, progress)?,
        None if kind.is_dir() => folder::load(&path, config, progress)?,
        None if kind.is_file() => load_file(&path, config, progress)?,
        None => return Err(unrecognised(&path, "neither a file nor a folder".to_string())),
    };
    Ok((name_of(&path), loaded))
}

/// The images of all sources, one after the other; their names are joined by `+`.
fn join(parts: Vec<(String, Loaded)>) -> Result<(String, Loaded)> {
    let hint = "Name a folder of images, a zip, IDX files, or one of the data sets with a name.";
    let several = parts.len() > 1;
    let name = parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("+");
    let total: usize = parts.iter().map(|(_, part)| part.pixels.len()).sum();
    let mut parts = told_apart(parts).into_iter();
    let Some((first_name, mut all)) = parts.next() else { return Err(Error::usage("no data set is named", hint)) };
    if !several {
        return Ok((name, all));
    }
    memory::check(name.as_ref(), (total - all.pixels.len()) as u64, "all of its images together", "Use fewer of them.")?;
    all.pixels.reserve_exact(total - all.pixels.len());
    prefix(&first_name, &mut all);
    let mut classes = vec![(first_name, all.classes)];
    for (part_name, mut part) in parts {
        prefix(&part_name, &mut part);
        all.pixels.append(&mut part.pixels);
        all.names.append(&mut part.names);
        all.report.add(part.report);
        classes.push((part_name, part.classes));
    }
    let known = classes.into_iter().map(|(source, classes)| match classes {
        Ok(classes) => Ok((source, classes)),
        Err(why) => Err(format!("of {}: {why}", on_one_line(&source))),
    });
    all.classes = known.collect::<Result<Vec<_>, String>>().and_then(Classes::of_all);
    Ok((name, all))
}

/// Numbers sources that have the name of one before them, so that the names of images tell them apart.
fn told_apart(mut parts: Vec<(String, Loaded)>) -> Vec<(String, Loaded)> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (name, _) in &mut parts {
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times > 1 {
            *name = format!("{name} ({times})");
        }
    }
    parts
}

/// Puts the source's name before those of its images, all of which have one afterwards.
fn prefix(source: &str, part: &mut Loaded) {
    let Loaded { names, report, .. } = part;
    if names.is_empty() {
        *names = (0..report.used).map(numbered).collect();
    }
    let left_out = report.broken.iter_mut().chain(&mut report.too_large).map(|broken| &mut broken.name);
    names.iter_mut().chain(left_out).for_each(|name| *name = format!("{source}/{name}"));
}

/// What an image is called that has no name.
fn numbered(index: usize) -> String {
    format!("image {index}")
}

/// Whether a source that [`is_idx`] has grey images.
pub fn is_grey(source: &str) -> bool {
    source != stacked::NAME
}

/// Whether a source's images are those of an IDX file, or made here or from one: of one size, read in a moment.
pub fn is_idx(source: &str) -> bool {
    let path = Path::new(source);
    NAMES.contains(&source) || idx::training_file(path).is_some() || path.is_file() && !holds_images(path) && idx::is_one(path)
}

/// The classes of a source's images, one a training image, as far as they are known: from the IDX file of labels beside the
/// IDX file of images; of `synthetic`, the digits. `None` where there are none, or more than 256 as in `stacked-mnist`.
///
/// # Errors
/// When the source is unknown, or its file of labels is unreadable or damaged.
pub fn load_labels(source: &str) -> Result<Option<Vec<u8>>> {
    if source == "synthetic" {
        return Ok(Some(synthetic::labels()));
    }
    if source == stacked::NAME {
        return Ok(None);
    }
    let path = if NAMES.contains(&source) { find_named(source, &named_roots())? } else { PathBuf::from(source) };
    if !path.exists() {
        return Err(unknown(source));
    }
    let images = match idx::training_file(&path) {
        Some(images) => images,
        None if packed::find(&path)?.is_empty() && idx::is_one(&path) => path,
        None => return Ok(None),
    };
    idx::labels_file(&images).map(|file| idx::load_labels(&file)).transpose()
}

/// One image `[height, width, channels]` in another size and number of channels, as [`load`] would have made it: `out` is
/// `[channels, size, size]`.
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
    let hint = match near {
        Some(near) => format!("Did you mean '{near}'? "),
        None => did_you_mean(Path::new(source)),
    };
    Error::usage(
        format!("there is no data set '{}', and no file or folder of that name", on_one_line(source)),
        format!(
            "{hint}Data is one of {}, or the path of a folder or zip of images, or of an IDX, npy, npz or tar file.",
            NAMES.join(", ")
        ),
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
    let classes = Ok(Classes::of_labels(synthetic::labels(), "synthetic"));
    Ok(Loaded { pixels, classes, names: Vec::new(), report })
}

/// A single file, by its first bytes.
fn load_file(path: &Path, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let mut head = Vec::new();
    let (file, _) = files::open(path)?;
    file.take(16).read_to_end(&mut head).map_err(Error::io("read", path))?;
    match head.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => zip::load(path, config, progress),
        head if idx::begins_one(head) => idx::load(path, "", config, progress),
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

/// Whether a file holds many images, by the ending of its name.
pub fn holds_images(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ending == "zip" || packed::ENDINGS.contains(&ending.as_str()))
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
    let is_hidden = |part: &str| part.starts_with('.') && !matches!(part, "." | "..") || part == "__MACOSX";
    if name.is_empty() || path.split('/').any(is_hidden) {
        Entry::Hidden
    } else if EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)) {
        Entry::Image
    } else {
        Entry::Other
    }
}
