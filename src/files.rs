//! Files that are either whole or not there.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
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

/// The most bytes of a text that people or programs write by hand: a config, a state, a pointer, a list of checksums.
pub const TEXT: u64 = 16 << 20;
/// The most bytes of a file of weights, a log or a picture. Memory is taken for what is there, not for this.
pub const LARGE: u64 = 64 << 30;

/// Reads a whole file of at most `most` bytes. Type and size are looked at first: a pipe, a device or a folder is refused at
/// once, and so is a file too large, before any memory is taken for it.
///
/// # Errors
/// When it is missing, unreadable, no regular file, or larger than `most`.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let (file, length) = open(path)?;
    let too_large = |length: u64| {
        let what = format!("it has {length} bytes, and no more than {most} are read of a file of this kind");
        Error::invalid_file(path, what, "Is it the right file?")
    };
    if length > most {
        return Err(too_large(length));
    }
    let mut bytes = Vec::new();
    let room = usize::try_from(length).ok().and_then(|length| bytes.try_reserve_exact(length.saturating_add(1)).ok());
    room.ok_or_else(|| Error::io("read", path)(ErrorKind::OutOfMemory.into()))?;
    // It may grow meanwhile.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > most { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Opens a regular file, and says how many bytes it has. Never waits, as the opening of a pipe does that nobody writes to.
///
/// # Errors
/// When it is missing, unreadable, or no regular file.
pub fn open(path: &Path) -> Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nix::fcntl::OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(Error::io("read", path))?;
    let meta = file.metadata().map_err(Error::io("read", path))?;
    match meta.is_file() {
        true => Ok((file, meta.len())),
        false => Err(Error::invalid_file(path, format!("it is {}, not a file", kind(&meta)), "Name a regular file.")),
    }
}

/// What is there instead of a file, in words.
fn kind(meta: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = meta.file_type();
        if kind.is_fifo() || kind.is_socket() {
            return "a pipe or a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if meta.is_dir() { "a folder" } else { "something else" }
}
