//! A zip archive of images.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ::zip::ZipArchive;

use super::config::DataConfig;
use super::encoded::Refusal;
use super::reading::{decode_all, read_bounded};
use super::{DataReport, Entry, Loaded, classify};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

type Archive = ZipArchive<BufReader<File>>;

/// Loads every image in the archive, in the order of their paths inside it.
pub(super) fn load(path: &Path, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let archive = open(path)?;
    let (mut entries, mut report) = (Vec::new(), DataReport::default());
    for (index, raw) in archive.file_names_raw().enumerate() {
        let name = String::from_utf8_lossy(raw).replace('\\', "/"); // some Windows programs write backslashes
        let name = name.trim_start_matches("./").to_string();
        match classify(&name) {
            Entry::Image => entries.push((name, index)),
            Entry::Other => report.ignore(&name),
            Entry::Hidden => {}
        }
    }
    entries.sort_unstable();
    let (names, indices): (Vec<String>, Vec<usize>) = entries.into_iter().unzip();
    // One open archive a thread, made as they are needed.
    let idle = Mutex::new(vec![archive]);
    let lock = || idle.lock().unwrap_or_else(PoisonError::into_inner);
    decode_all(path, names, report, config, progress, |at| {
        let waiting = lock().pop();
        let mut archive = match waiting {
            Some(archive) => archive,
            None => open(path).map_err(|e| e.to_string())?,
        };
        let bytes = read_entry(&mut archive, indices[at]);
        lock().push(archive);
        bytes
    })
}

fn open(path: &Path) -> Result<Archive> {
    let (file, _) = files::open(path)?;
    ZipArchive::new(BufReader::new(file)).map_err(|e| {
        Error::invalid_file(path, format!("not a readable zip archive: {e}"), "Fetch or make it again: it may be cut off.")
    })
}

fn read_entry(archive: &mut Archive, index: usize) -> Result<Vec<u8>, Refusal> {
    read_bounded(archive.by_index(index).map_err(|e| e.to_string())?)
}
