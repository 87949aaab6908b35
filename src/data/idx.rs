//! IDX files of images, as MNIST and its relatives come: a big-endian header, then 8-bit grey pixels; plain or gzip.

use std::io::{BufReader, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::classes::Classes;
use super::config::DataConfig;
use super::reading::fill;
use super::{DataReport, Loaded, decode};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::{files, memory};

/// The names that the training images go by in a folder, unpacked or not.
const TRAINING_FILES: [&str; 4] =
    ["train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "train-images.idx3-ubyte.gz", "train-images.idx3-ubyte"];

/// The largest height and width taken.
const MAX_SIDE: u32 = 16_384;

/// How many times as long as a compressed file its contents may be: MNIST's are 5 times, and deflate can reach 1032.
const MAX_RATIO: u64 = 100;
/// Contents up to this many bytes may be compressed as well as they can be.
const SMALL: u64 = 64 << 20;

/// The training images of a folder with an MNIST-like set, if it has them.
pub(super) fn training_file(folder: &Path) -> Option<PathBuf> {
    TRAINING_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Whether a file is one of these, as far as its first bytes tell.
pub(super) fn is_one(path: &Path) -> bool {
    let mut head = [0; 2];
    files::open(path).and_then(|(mut file, _)| file.read_exact(&mut head).map_err(Error::io("read", path))).is_ok()
        && begins_one(&head)
}

/// Whether these are the first bytes of one, or of a compressed one.
pub(super) fn begins_one(head: &[u8]) -> bool {
    matches!(head, [0x1f, 0x8b, ..] | [0, 0, ..])
}

/// The labels that lie beside a file of images, by their names in MNIST: `train-labels-idx1-ubyte.gz` for
/// `train-images-idx3-ubyte.gz`, one of the two unpacked or not.
pub(super) fn labels_file(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let stem = name.strip_suffix(".gz").unwrap_or(name);
    let labels = stem.replace("images", "labels").replace("idx3", "idx1");
    if labels == stem {
        return None;
    }
    [format!("{labels}.gz"), labels].iter().map(|name| images.with_file_name(name)).find(|path| path.is_file())
}

/// Loads a file of labels.
pub(super) fn load_labels(path: &Path) -> Result<Vec<u8>> {
    let mut source = open(path)?;
    let mut header = Vec::new();
    read_up_to(path, &mut source.bytes, 8, &mut header)?;
    let words: Vec<u32> = header.chunks_exact(4).map(big_endian).collect();
    let &[magic, len] = words.as_slice() else {
        return Err(invalid(path, format!("ends after {} bytes, inside the header of 8", header.len())));
    };
    if magic != 0x0801 {
        return Err(invalid(path, format!("begins with {magic:#010x}; an IDX file of 8-bit labels begins with 0x00000801")));
    }
    source.check_promise(path, &format!("{len} labels"), 8, u64::from(len))?;
    let mut labels = Vec::new();
    read_up_to(path, &mut source.bytes, u64::from(len) + 1, &mut labels)?;
    if labels.len() as u64 == u64::from(len) {
        Ok(labels)
    } else {
        Err(invalid(path, format!("the header says {len} labels, but {} bytes follow or more", labels.len())))
    }
}

/// Loads a file of images.
///
/// `source` is what it goes by, which may tell what its classes are called.
pub(super) fn load(path: &Path, source: &str, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let images = read(path, config)?;
    let labels = match labels_file(path) {
        // Where nobody asks for them, labels that cannot be read are no reason not to train.
        Some(file) if config.classes == 0 => load_labels(&file).map_err(|e| e.to_string()),
        Some(file) => Ok(load_labels(&file)?),
        None => Err("there is no IDX file of labels beside that of the images".to_string()),
    };
    let classes = labels.map(|labels| Classes::of_labels(labels, source));
    let (size, channels) = (config.size, config.channels);
    let mut report = DataReport { found: images.len, ..DataReport::default() };
    report.count(images.len, (images.width, images.height), false);
    if [images.height as usize, images.width as usize, 1] == [size, size, channels] {
        return Ok(Loaded { pixels: images.pixels, classes, names: Vec::new(), report });
    }
    let shape = [images.width as usize, images.height as usize, 1];
    let area = shape[0] * shape[1];
    let (pixels, results) = fill(path, [images.len, channels * size * size], progress, |index, out| {
        decode::fit(&images.pixels[index * area..(index + 1) * area], shape, size, channels, out)
    })?;
    results.into_iter().collect::<Result<(), String>>().map_err(|what| invalid(path, what))?;
    Ok(Loaded { pixels, classes, names: Vec::new(), report })
}

struct IdxImages {
    len: usize,
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

/// A file's contents, unpacked.
struct Unpacked {
    bytes: Box<dyn Read>,
    gzip: bool,
    /// Bytes of the file as it is.
    length: u64,
}

fn open(path: &Path) -> Result<Unpacked> {
    let (mut file, length) = files::open(path)?;
    let mut magic = [0; 2];
    let gzip = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.rewind().map_err(Error::io("read", path))?;
    let file = BufReader::with_capacity(1 << 16, file);
    let bytes: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    Ok(Unpacked { bytes, gzip, length })
}

impl Unpacked {
    /// Refuses, before anything is read, what a header promises and a file of such a length does not keep.
    fn check_promise(&self, path: &Path, promise: &str, header: u64, expected: u64) -> Result<()> {
        let follow = self.length.saturating_sub(header);
        if !self.gzip && expected > follow {
            return Err(invalid(path, format!("the header says {promise}, but only {follow} bytes follow")));
        }
        if self.gzip && expected > self.length.saturating_mul(MAX_RATIO).max(SMALL) {
            let what =
                format!("the header says {promise}, more than {MAX_RATIO} times the file: images are not packed so well");
            return Err(Error::invalid_file(path, what, "If it is right all the same, unpack the file and name what it held."));
        }
        Ok(())
    }
}

fn big_endian(word: &[u8]) -> u32 {
    word.iter().fold(0, |n, &byte| n << 8 | u32::from(byte))
}

/// Reads header and pixels. Memory grows with what is really read, and is there for all of it, whatever the header says.
fn read(path: &Path, config: &DataConfig) -> Result<IdxImages> {
    let mut source = open(path)?;
    let mut header = Vec::new();
    read_up_to(path, &mut source.bytes, 16, &mut header)?;
    let words: Vec<u32> = header.chunks_exact(4).map(big_endian).collect();
    check_magic(path, words.first().copied(), header.len())?;
    let &[_, len, height, width] = words.as_slice() else {
        return Err(invalid(path, format!("ends after {} bytes, inside the header of 16", header.len())));
    };
    if len == 0 || !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        let most = format!("expected at least 1 image, of 1 to {MAX_SIDE} pixels a side");
        return Err(invalid(path, format!("the header says {len} images of {width}×{height} pixels; {most}")));
    }
    // At most 2³² · 2²⁸: no overflow.
    let expected = u64::from(len) * u64::from(height) * u64::from(width);
    let promise = format!("{len} images of {width}×{height} pixels, {expected} bytes");
    source.check_promise(path, &promise, 16, expected)?;
    let is_as_used = [height as usize, width as usize, 1] == [config.size, config.size, config.channels];
    let image = if is_as_used { 0 } else { config.channels * config.size * config.size };
    let as_used = u64::from(len).saturating_mul(image as u64);
    memory::check(
        path,
        expected.saturating_add(as_used),
        &format!("{len} images"),
        "Use a smaller data.size, or a part of it.",
    )?;
    let mut pixels = Vec::new();
    read_up_to(path, &mut source.bytes, expected, &mut pixels)?;
    if (pixels.len() as u64) < expected {
        return Err(invalid(path, format!("the header says {promise}, but only {} bytes follow", pixels.len())));
    }
    // One byte more must not be there; for gzip this also checks the checksum.
    let mut rest = Vec::new();
    read_up_to(path, &mut source.bytes, 1, &mut rest)?;
    if !rest.is_empty() {
        return Err(invalid(path, format!("the header says {promise}, but more bytes follow")));
    }
    Ok(IdxImages { len: len as usize, width, height, pixels })
}

fn check_magic(path: &Path, magic: Option<u32>, found: usize) -> Result<()> {
    match magic {
        Some(0x0803) => Ok(()),
        Some(0x0801) => Err(Error::invalid_file(
            path,
            "an IDX file of labels (idx1), not of images (idx3)",
            "Give the file of images, in MNIST's naming train-images-idx3-ubyte.",
        )),
        Some(magic) => {
            Err(invalid(path, format!("begins with {magic:#010x}; an IDX file of 8-bit images begins with 0x00000803")))
        }
        None => Err(invalid(path, format!("has only {found} bytes; an IDX file begins with a header of 16"))),
    }
}

fn read_up_to(path: &Path, source: &mut impl Read, limit: u64, out: &mut Vec<u8>) -> Result<()> {
    source.take(limit).read_to_end(out).map(|_| ()).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => invalid(path, "the gzip data ends early".to_string()),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => invalid(path, format!("the gzip data is broken: {e}")),
        _ => Error::io("read", path)(e),
    })
}

fn invalid(path: &Path, what: String) -> Error {
    Error::invalid_file(path, what, "Fetch or make the file again.")
}
