//! Files that are either whole or not there, and folders that one process at a time works in.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::text;

/// Writes a file so that a crash leaves either the old contents or the new: temporary file beside it, fsync, rename.
///
/// # Errors
/// When the folder cannot be written to or is full; the old file is untouched then.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary(folder_of(path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.as_file().sync_all().map_err(Error::io("write", path))?;
    file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
    Ok(())
}

/// Finds out whether [`write_atomic`] could write a file, before work that would be lost.
///
/// # Errors
/// When its folder cannot be written to, or a folder has its name.
pub fn check_writable(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => Err(Error::io("write", path)(ErrorKind::IsADirectory.into())),
        _ => temporary(folder_of(path)).map(drop),
    }
}

/// Has `write` fill a file that has its name once it is whole, and is not there before.
///
/// # Errors
/// Those of `write`; when there is such a file already and it is not to be replaced, or the folder cannot be written to.
pub fn write_whole<T>(path: &Path, overwrite: bool, write: impl FnOnce(&mut (dyn Write + Send)) -> Result<T>) -> Result<T> {
    let exists = || {
        let what = format!("{} exists already", text::path(path));
        Error::usage(what, "Choose another `Plan::out`, or `Existing::Overwrite`.")
    };
    if path.symlink_metadata().is_ok() && !overwrite {
        return Err(exists());
    }
    let folder = folder_of(path);
    create_folder(folder)?;
    let mut file = BufWriter::new(temporary(folder)?);
    let done = write(&mut file)?;
    let file = file.into_inner().map_err(|e| Error::io("write", path)(e.into_error()))?;
    let name = |file: tempfile::NamedTempFile| if overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    match file.as_file().sync_all().and_then(|()| name(file).map_err(|e| e.error)) {
        Ok(_) => Ok(done),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(exists()),
        Err(e) => Err(Error::io("write", path)(e)),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// How the names of [`temporary`] files begin; a killed program leaves them behind.
pub const TEMPORARY: &str = ".ganforge-";

/// A hidden file that vanishes unless it is given a name in the same folder; with a new file's usual permissions. It is locked
/// for as long as it is written to, so that [`remove_temporaries`] lets it be.
///
/// # Errors
/// When the folder cannot be written to.
pub fn temporary(folder: &Path) -> Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // the umask takes its share
    let file = builder.tempfile_in(folder).map_err(Error::io("write to", folder))?;
    let _ = file.as_file().try_lock(); // some network file systems have no locks
    Ok(file)
}

/// Removes the [`temporary`] files that killed programs left in a folder; none if it is not there. Those that a program is
/// writing to stay.
///
/// # Errors
/// When the folder cannot be read or written to.
pub fn remove_temporaries(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(Error::io("read", folder))?,
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // The entry's own type: what a link points to is not ours.
        let is_ours = is_temporary(&entry.file_name().to_string_lossy()) && entry.file_type().is_ok_and(|kind| kind.is_file());
        let Some(file) = is_ours.then(|| File::open(&path).ok()).flatten() else { continue };
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            continue;
        }
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a training keeps its run in this folder. Others have a config.toml, too: checkpoints, and what feature models were made from.
pub fn is_run(folder: &Path) -> bool {
    folder.join("config.toml").is_file() && folder.join("checkpoints").is_dir()
}

/// Whether a file's name is one of a [`temporary`] file.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// The name of the file that holds a [`Lock`].
pub const LOCK: &str = ".lock";

/// Keeps other processes from working in a folder for as long as it lives. The system lets go of it with the process, whatever
/// ends that; the file that may then be left over is no obstacle. Who only reads does not ask for it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// The folder itself, which may be moved or removed.
    #[cfg(unix)]
    folder: File,
}

impl Lock {
    /// Takes the lock of a folder. `program` is what others that want it are told is at work.
    ///
    /// # Errors
    /// When another process has it, which is named by its id; or when the folder cannot be written to.
    pub fn take(folder: &Path, program: &str) -> Result<Self> {
        let path = folder.join(LOCK);
        let mut options = OpenOptions::new();
        // Not truncated yet: it may be another's.
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use nix::fcntl::OFlag;
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits());
        }
        loop {
            let mut file = options.open(&path).map_err(Error::io("lock", &path))?;
            let meta = file.metadata().map_err(Error::io("lock", &path))?;
            if !meta.is_file() {
                let what = format!("it is {}, not a file", kind(&meta));
                return Err(Error::invalid_file(&path, what, "Remove it: it is in the way of the lock of this folder."));
            }
            #[cfg(unix)]
            if std::os::unix::fs::MetadataExt::nlink(&meta) > 1 {
                let what = "it has other names, under which it would be written to as well";
                return Err(Error::invalid_file(&path, what, "Remove it: it is in the way of the lock of this folder."));
            }
            match file.try_lock() {
                // Some network file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => {}
                Err(TryLockError::WouldBlock) => {
                    let what = format!("{} is at work in {}", holder(program, &mut file), text::path(folder));
                    let hint = format!("Wait for its end, or end it first; {} is locked for as long.", text::path(&path));
                    return Err(Error::usage(what, hint));
                }
            }
            // It may have been removed, by the one that held the lock, since it was opened.
            if is_at(&file, &path) {
                let id = format!("{}\n", std::process::id());
                file.set_len(0).and_then(|()| file.write_all(id.as_bytes())).map_err(Error::io("lock", &path))?;
                #[cfg(unix)]
                let folder = File::open(folder).map_err(Error::io("open", folder))?;
                return Ok(Self {
                    file,
                    path,
                    #[cfg(unix)]
                    folder,
                });
            }
        }
    }

    /// Whether this process may still write below the folder's path: the folder is where it was, and nobody else has its lock. (Only
    /// where folders can be moved while files in them are open.)
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self) -> Result<()> {
        #[cfg(unix)]
        {
            let place = self.path.parent().unwrap_or(Path::new("."));
            if !is_same(&self.folder, fs::metadata(place)) {
                let what = "the folder was moved or removed while this program was at work in it";
                let hint = "What was saved before lies where it is now; go on there.";
                return Err(Error::invalid_file(place, what, hint));
            }
            if self.path.exists() && !is_at(&self.file, &self.path) {
                let what = "somebody has put another lock in place of this program's, so another one may be at work here";
                return Err(Error::invalid_file(&self.path, what, "What was saved before stays; go on from there."));
            }
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked: nobody else has taken this file meanwhile. One that cannot be removed is no obstacle.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who holds a lock, as its file says.
fn holder(program: &str, file: &mut File) -> String {
    const DIGITS: u64 = 20;
    let mut text = String::new();
    let id = file.take(DIGITS).read_to_string(&mut text).ok().and_then(|_| text.trim().parse::<u32>().ok());
    match id {
        Some(id) => format!("another {program} (process {id})"),
        None => format!("another {program}"),
    }
}

/// Whether an open file is the one at a path now.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    is_same(file, fs::symlink_metadata(path))
}

/// Whether what is open is what was found.
#[cfg(unix)]
fn is_same(open: &File, found: std::io::Result<Metadata>) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (open.metadata(), found) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// Creates a folder and its parents.
///
/// # Errors
/// When a file is in the way or a parent cannot be written to.
pub fn create_folder(path: &Path) -> Result<()> {
    // Without dots within it, at which the system stops where there is nothing yet.
    let plain: PathBuf = path.components().collect();
    fs::create_dir_all(&plain).map_err(|e| {
        if plain.is_symlink() && !plain.exists() {
            Error::invalid_file(path, "it is a link that leads nowhere", "Remove it, or make what it leads to.")
        } else {
            Error::io("create folder", path)(e)
        }
    })
}

/// The most bytes of a text that people or programs write by hand: a config, a state, a pointer, a list of checksums.
pub const TEXT: u64 = 16 << 20;
/// The most bytes of a picture.
pub const PICTURE: u64 = 1 << 30;
/// The most bytes of a file of weights or a log. Memory is taken for what is there, not for this.
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

/// Reads from somewhere in a file; any number of threads at a time.
///
/// # Errors
/// When the file ends before that many bytes, or is unreadable.
#[cfg(unix)]
pub fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Reads from somewhere in a file; any number of threads at a time.
///
/// # Errors
/// When the file ends before that many bytes, or is unreadable.
#[cfg(windows)]
pub fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[n..];
        at += n as u64;
    }
    Ok(())
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
    if meta.is_file() {
        Ok((file, meta.len()))
    } else {
        Err(Error::invalid_file(path, format!("it is {}, not a file", kind(&meta)), "Name a regular file."))
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

/// Bytes that this user may still write to the file system of a folder; `None` where it does not say.
#[cfg(all(unix, feature = "jobs"))]
#[allow(clippy::useless_conversion, reason = "on some systems these are numbers of 32 bits")]
pub(crate) fn free_space(folder: &Path) -> Option<u64> {
    let told = nix::sys::statvfs::statvfs(folder).ok().filter(|told| told.blocks() > 0)?;
    u64::from(told.blocks_available()).checked_mul(u64::from(told.fragment_size()))
}

/// As on Unix; other systems are not asked.
#[cfg(all(not(unix), feature = "jobs"))]
pub(crate) fn free_space(_: &Path) -> Option<u64> {
    None
}
