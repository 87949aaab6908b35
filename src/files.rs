//! Files that are either whole or not there.

use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Writes a file so that a crash leaves either the old contents or the new: temporary file beside it, fsync, rename.
///
/// # Errors
/// When the folder cannot be written to or is full; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = temporary(folder)?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

/// How the names of [`temporary`] files begin; a killed program leaves them behind.
pub const TEMPORARY: &str = ".ganforge-";

/// A hidden file that vanishes unless it is given a name in the same folder; with a new file's usual permissions.
///
/// # Errors
/// When the folder cannot be written to.
pub fn temporary(folder: &Path) -> Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // the umask takes its share
    builder.tempfile_in(folder).map_err(Error::io("write to", folder))
}

/// Creates a folder and its parents.
///
/// # Errors
/// When a file is in the way or a parent cannot be written to.
pub fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io("create folder", path))
}

/// Reads a whole file.
///
/// # Errors
/// When it is missing or unreadable.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("read", path))
}
