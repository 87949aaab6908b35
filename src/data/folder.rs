//! A folder of images, its subfolders included.

use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::config::DataConfig;
use super::encoded::Refusal;
use super::reading::{decode_all, read_bounded};
use super::{DataReport, Entry, Loaded, classify};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// Loads every image below `folder`, in the order of their paths inside it, but for those of trainings, whose sheets and curves are
/// none to learn from.
pub(super) fn load(folder: &Path, config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    let (mut files, mut report) = (Vec::new(), DataReport::default());
    let is_not_a_run = |entry: &DirEntry| entry.depth() == 0 || !entry.file_type().is_dir() || !files::is_run(entry.path());
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(is_not_a_run) {
        // Whether a file or not: what is a pipe or a device, and called an image, is a broken one.
        let (path, is_file) = match entry {
            Ok(entry) => (entry.path().to_path_buf(), !entry.file_type().is_dir()),
            Err(e) if e.loop_ancestor().is_some() => continue, // a link to a folder that is being walked: nothing new
            Err(e) => match e.path() {
                // A dangling link: reading it fails, and says so. But a folder that cannot be listed may hide anything.
                Some(path) if path.is_symlink() => (path.to_path_buf(), true),
                path => {
                    let path = path.unwrap_or(folder).to_path_buf();
                    return Err(Error::io("read", &path)(e.into()));
                }
            },
        };
        let name = name_inside(folder, &path);
        match classify(&name) {
            Entry::Image if is_file => files.push((name, path)),
            Entry::Other if is_file => report.ignore(&name),
            _ => {}
        }
    }
    files.sort_unstable();
    let (names, paths): (Vec<String>, Vec<PathBuf>) = files.into_iter().unzip();
    decode_all(folder, names, report, config, progress, |index| read(&paths[index]))
}

/// The path inside the folder with `/` between its parts, on every system.
fn name_inside(folder: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(folder).unwrap_or(path);
    inside.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let (file, _) = files::open(path).map_err(|error| match error {
        // The path stands before it.
        Error::Io { source, .. } => source.to_string(),
        Error::Invalid { what, .. } => what,
        other => other.to_string(),
    })?;
    read_bounded(file)
}
