//! Many images in one file, as samplers write them: NumPy arrays (`.npy`, `.npz`) and tar files of images (WebDataset).

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use ::zip::ZipArchive;

use super::config::DataConfig;
use super::encoded::{MAX_BYTES, Refusal};
use super::reading::{decode_all, fill};
use super::{DataReport, Entry, Loaded, classify, join, refit};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::text::on_one_line;
use crate::{files, memory};

/// The endings of such files.
pub(super) const ENDINGS: [&str; 3] = ["npy", "npz", "tar"];

/// What more than that many bytes is no header.
const MOST_HEADER: usize = 1 << 16;

/// The files that a source is made of, in the order of their names, if it is one of these, or a folder that holds some and no images.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn find(source: &Path) -> Result<Vec<PathBuf>> {
    if !source.is_dir() {
        return Ok(if ending(source).is_some() { vec![source.to_path_buf()] } else { Vec::new() });
    }
    let entries = fs::read_dir(source).map_err(Error::io("read", source))?;
    let mut packed = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("read", source))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match classify(&name) {
            Entry::Hidden => {}
            _ if path.is_dir() => return Ok(Vec::new()),
            Entry::Image => return Ok(Vec::new()),
            Entry::Other if ending(&path).is_some() => packed.push(path),
            Entry::Other => {}
        }
    }
    packed.sort();
    Ok(packed)
}

fn ending(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    ENDINGS.into_iter().find(|known| *known == ending)
}

/// Loads all images of some files, one after the other; of several, each is a source of its own.
///
/// # Errors
/// When one of them is damaged, or holds no images.
pub(super) fn load(packed: &[PathBuf], config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let load_one = |path: &PathBuf| {
        let loaded = match ending(path) {
            Some("tar") => load_tar(path, config, progress)?,
            Some("npz") => load_array(path, open_npz(path)?, config, progress)?,
            _ => load_array(path, Box::new(BufReader::new(files::open(path)?.0)), config, progress)?,
        };
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), loaded))
    };
    let parts = packed.iter().map(load_one).collect::<Result<Vec<_>>>()?;
    join(parts).map(|(_, all)| all)
}

/// The array of images of an `.npz` file: the only one, or the first of those that numpy and the sampler number.
fn open_npz(path: &Path) -> Result<Box<dyn Read>> {
    let wrong = |what: String| Error::invalid_file(path, what, "Give a file that numpy.savez or gan-infer wrote.");
    let file = BufReader::new(files::open(path)?.0);
    let mut archive = ZipArchive::new(file).map_err(|e| wrong(format!("not a readable zip archive: {e}")))?;
    let names = archive.file_names_raw().map(|name| String::from_utf8_lossy(name).into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".npy")).collect();
    names.sort();
    let name = match names.as_slice() {
        [] => return Err(wrong("it holds no .npy array".to_string())),
        [only] => only,
        several => several.iter().find(|name| *name == "arr_0.npy").ok_or_else(|| {
            let what = format!("it holds several arrays: {}", start_of(&several.join(", ")));
            Error::invalid_file(path, what, "Save the one with the images alone, as .npy, or in a .npz file as arr_0.")
        })?,
    };
    let mut bytes = Vec::new();
    let mut entry = archive.by_name(name).map_err(|e| wrong(e.to_string()))?;
    memory::check(path, entry.size(), "its array", "Take fewer images a file.")?;
    let promised = entry.size();
    entry.by_ref().take(promised.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(Box::new(std::io::Cursor::new(bytes)))
}

/// uint8 `[n, height, width, channels]` or `[n, height, width]`.
fn load_array(path: &Path, mut source: Box<dyn Read>, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let wrong =
        |what: String| Error::invalid_file(path, what, "Give uint8 images [n, height, width, 1 or 3], or [n, height, width].");
    let header = read_header(&mut source).map_err(wrong)?;
    let shape = shape_in(&header).ok_or_else(|| wrong(format!("its header says {}", start_of(&header))))?;
    let (n, [height, width, stored]) = match shape[..] {
        [n, height, width] => (n, [height, width, 1]),
        [n, height, width, channels @ (1 | 3)] => (n, [height, width, channels]),
        _ => return Err(wrong(format!("its shape is {shape:?}"))),
    };
    let image = height.checked_mul(width).and_then(|area| area.checked_mul(stored)).filter(|bytes| *bytes > 0);
    let bytes = image.and_then(|image| image.checked_mul(n));
    let (Some(image), Some(bytes)) = (image, bytes) else { return Err(wrong(format!("its shape is {shape:?}"))) };
    memory::check(path, bytes as u64, "its images", "Take fewer images a file.")?;
    let mut raw = Vec::new();
    source.take(bytes as u64).read_to_end(&mut raw).map_err(Error::io("read", path))?;
    if raw.len() != bytes {
        return Err(wrong(format!("its header promises {bytes} bytes, and {} follow", raw.len())));
    }
    let (size, channels) = (config.size, config.channels);
    let (pixels, results) = fill(path, [n, channels * size * size], progress, |index, out| {
        let pixels = &raw[index * image..(index + 1) * image];
        refit(pixels, [height, width, stored], size, channels, out)
            .map(|()| stored == 3 && pixels.chunks_exact(3).any(|rgb| rgb[0] != rgb[1] || rgb[1] != rgb[2]))
    })?;
    let mut report = DataReport { found: n, ..DataReport::default() };
    for colour in results {
        report.count(1, (width as u32, height as u32), colour.map_err(wrong)?);
    }
    if n == 0 {
        return Err(wrong("it holds no images".to_string()));
    }
    let classes = Err("a file of arrays has no classes".to_string());
    Ok(Loaded { pixels, classes, names: Vec::new(), report })
}

/// The beginning of a stranger's text, for a message.
fn start_of(text: &str) -> String {
    const SHOWN: usize = 200;
    on_one_line(text.trim()).chars().take(SHOWN).collect()
}

/// The text of a NumPy header (numpy.lib.format), up to the data.
fn read_header(source: &mut dyn Read) -> Result<String, String> {
    let ends = |e: std::io::Error| format!("it ends inside the header: {e}");
    let mut magic = [0; 8];
    source.read_exact(&mut magic).map_err(ends)?;
    if &magic[..6] != b"\x93NUMPY" {
        return Err("it does not begin as a NumPy file".to_string());
    }
    let mut length = [0; 4];
    let bytes = if magic[6] == 1 { 2 } else { 4 };
    source.read_exact(&mut length[..bytes]).map_err(ends)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MOST_HEADER {
        return Err(format!("its header is to have {length} bytes"));
    }
    let mut text = vec![0; length];
    source.read_exact(&mut text).map_err(ends)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The shape that a header says, if it is one of bytes in C's order.
fn shape_in(header: &str) -> Option<Vec<usize>> {
    let after = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let bytes = ["'|u1'", "'<u1'", "'>u1'"].iter().any(|descr| after("descr").is_some_and(|text| text.starts_with(descr)));
    let (shape, _) = after("shape")?.strip_prefix('(')?.split_once(')')?;
    let shape = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape = shape.map(|extent| extent.parse().ok()).collect::<Option<Vec<usize>>>()?;
    (bytes && after("fortran_order")?.starts_with("False")).then_some(shape)
}

/// The images in a tar file, in the order in which they are there.
fn load_tar(path: &Path, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let (file, length) = files::open(path)?;
    let wrong = |what: String| Error::invalid_file(path, what, "Fetch or make it again; a compressed one must be unpacked.");
    let (mut names, mut places, mut report) = (Vec::new(), Vec::new(), DataReport::default());
    for entry in entries(&file, length).map_err(wrong)? {
        match classify(&entry.name) {
            Entry::Image if entry.is_file => {
                names.push(entry.name);
                places.push((entry.at, entry.size));
            }
            Entry::Image | Entry::Other => report.ignore(&entry.name),
            Entry::Hidden => {}
        }
    }
    decode_all(path, names, report, config, progress, |index| read_part(&file, places[index]))
}

/// What a tar file is made of.
const BLOCK: u64 = 512;

/// What a tar file says of a file in it.
struct TarEntry {
    name: String,
    at: u64,
    size: u64,
    is_file: bool,
}

/// All entries of a whole tar file of so many bytes. Names that are longer than a header has room for stand in entries of their own,
/// which are bounded here: the library would read them into memory however long they are said to be.
fn entries(file: &File, length: u64) -> Result<Vec<TarEntry>, String> {
    const MOST: u64 = 1 << 20;
    let unreadable = |e: std::io::Error| format!("not a readable tar file: {}", on_one_line(&e.to_string()));
    let mut archive = ::tar::Archive::new(file);
    let (mut all, mut long, mut end) = (Vec::new(), None, 0);
    for entry in archive.entries_with_seek().map_err(unreadable)?.raw(true) {
        let mut entry = entry.map_err(unreadable)?;
        let (kind, size, at) = (entry.header().entry_type(), entry.size(), entry.raw_file_position());
        let is_long = kind.is_gnu_longname() || kind.is_pax_local_extensions();
        if is_long && size > MOST {
            return Err(format!("a name in it is to have {size} bytes"));
        }
        let short = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if is_long || kind.is_file() {
            end = at.saturating_add(size.next_multiple_of(BLOCK));
        }
        if end > length {
            return Err(format!("it ends inside {}, which is to have {size} bytes", on_one_line(&short)));
        }
        if is_long {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(unreadable)?;
            let path = if kind.is_gnu_longname() { Some(bytes) } else { path_in(&bytes) };
            long = path.map(|path| String::from_utf8_lossy(&path).trim_end_matches('\0').to_string()).or(long);
            continue;
        }
        if kind.is_gnu_longlink() || kind.is_pax_global_extensions() {
            continue;
        }
        // `tar -c .` writes names that begin in the folder itself.
        let name = long.take().unwrap_or(short).trim_start_matches("./").to_string();
        all.push(TarEntry { name, at, size, is_file: kind.is_file() });
    }
    if long.is_some() || length < end + BLOCK {
        return Err("it ends without the block of zeros that a whole tar file ends in".to_string());
    }
    Ok(all)
}

/// The path among the records of a pax header.
fn path_in(records: &[u8]) -> Option<Vec<u8>> {
    let mut records = ::tar::PaxExtensions::new(records).flatten();
    records.find(|record| record.key_bytes() == b"path").map(|record| record.value_bytes().to_vec())
}

fn read_part(file: &File, (at, size): (u64, u64)) -> Result<Vec<u8>, Refusal> {
    if size > MAX_BYTES {
        return Err(Refusal::TooLarge("larger than an image can be".to_string()));
    }
    let mut bytes = vec![0; size as usize];
    files::read_at(file, &mut bytes, at).map_err(|e| Refusal::Broken(e.to_string()))?;
    Ok(bytes)
}
