//! Folders that hold a model as others want it: whole under their names, or not there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::{files, text};

/// Where a folder with a model is written to.
#[derive(Debug, Clone, Copy)]
pub struct ModelFolder<'a> {
    /// The folder, which is created.
    pub path: &'a Path,
    /// What the model is called.
    pub name: &'a str,
    /// Whether the files of an export that lies there are replaced. Other files stay.
    pub overwrite: bool,
}

impl ModelFolder<'_> {
    /// Refuses a folder that holds something already, unless that is to be replaced. Before work that would be lost.
    ///
    /// What is replaced must be an export's: `own` are its files, the last of which is written first.
    fn check(&self, path: &Path, own: &[&str]) -> Result<()> {
        let Ok(meta) = fs::metadata(path) else {
            return match path.is_symlink() {
                true => {
                    Err(Error::invalid_file(path, "it is a link that leads nowhere", "Remove it, or make what it leads to."))
                }
                false => Ok(()),
            };
        };
        if !meta.is_dir() {
            let what = format!("{} is a file, and a folder is to be written", text::path(path));
            return Err(Error::usage(what, "Choose another `ModelFolder::path`."));
        }
        let is_export = own.last().is_some_and(|first| path.join(first).is_file());
        let foreign = own.iter().map(|name| path.join(name)).find(|path| !is_export && path.symlink_metadata().is_ok());
        if let Some(path) = foreign.filter(|_| self.overwrite) {
            let what = format!("{} is not of such an export, which would replace it", text::path(&path));
            return Err(Error::usage(what, "Choose another `ModelFolder::path`, or move that away."));
        }
        let mut entries = fs::read_dir(path).map_err(Error::io("read", path))?;
        if self.overwrite
            || entries.all(|entry| entry.is_ok_and(|entry| files::is_temporary(&entry.file_name().to_string_lossy())))
        {
            return Ok(());
        }
        let what = format!("{} is not empty", text::path(path));
        Err(Error::usage(
            what,
            "Choose another `ModelFolder::path`, or set `ModelFolder::overwrite`: it replaces the files of an export.",
        ))
    }

    /// Has `fill` write files into a hidden folder, which then gets the name `path`. Into a folder that is there the files are moved,
    /// the deepest first; and of `own`, which an export may write, those go that were not written now.
    pub(super) fn write<T>(&self, path: &Path, own: &[&str], fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.check(path, own)?;
        let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let missing: Vec<PathBuf> = parent.ancestors().take_while(|folder| !folder.exists()).map(Path::to_path_buf).collect();
        let done = match path.exists() {
            true => write_into(path, own, fill),
            false => files::create_folder(parent).and_then(|()| write_new(path, parent, fill)),
        };
        if done.is_err() {
            // Those that are empty, that is.
            missing.iter().for_each(|folder| _ = fs::remove_dir(folder));
        }
        done
    }
}

/// A folder that vanishes with what is in it, unless it gets a name.
fn hidden(place: &Path) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(files::TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // the umask takes its share
    builder.tempdir_in(place).map_err(Error::io("write to", place))
}

fn write_new<T>(path: &Path, parent: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let hidden = hidden(parent)?;
    let done = fill(hidden.path())?;
    fs::rename(hidden.path(), path).map_err(Error::io("write", path))?;
    Ok(done)
}

fn write_into<T>(path: &Path, own: &[&str], fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let hidden = hidden(path)?;
    let done = fill(hidden.path())?;
    let made = files_below(hidden.path())?;
    for file in &made {
        let to = path.join(file);
        to.parent().map_or(Ok(()), files::create_folder)?;
        fs::rename(hidden.path().join(file), &to).map_err(Error::io("write", &to))?;
    }
    for stale in own.iter().map(Path::new).filter(|own| !made.iter().any(|file| file == own)) {
        let stale = path.join(stale);
        match fs::remove_file(&stale) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &stale)(e)),
            _ => {}
        }
    }
    Ok(done)
}

/// The files below a folder, relative to it, the deepest first.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(|e| Error::io("read", folder)(e.into()))?;
        if let (true, Ok(path)) = (entry.file_type().is_file(), entry.path().strip_prefix(folder)) {
            found.push((entry.depth(), path.to_path_buf()));
        }
    }
    found.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}
