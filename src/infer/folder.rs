//! The folder that a job writes to, held by handle. Names are looked up in it, never through the path that led to it: a folder that
//! is moved takes all of its job along, one that is removed is an error, and no link planted in it leads a write elsewhere.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};

use crate::error::{Error, Result};
use crate::files;

/// What is in a folder: each name, and whether it is a folder's.
pub(super) type Names = Vec<(String, bool)>;

/// An open folder.
pub(super) struct Folder {
    dir: Dir,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder, created with its parents if need be. Links in the path itself are the caller's, and followed.
    pub fn open(path: &Path) -> Result<Self> {
        files::create_folder(path)?;
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(Error::io("open", path))?;
        Ok(Self { dir, path: path.to_path_buf() })
    }

    /// Whether the path still leads to this folder.
    pub fn is_in_place(&self) -> bool {
        match (self.dir.dir_metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(there)) => same(&held, &there),
            _ => false,
        }
    }

    /// A new file in place of whatever has this name: a link is replaced, not followed, and so is a file that has other names, too.
    /// The folder in the name, if there is one, is created.
    pub fn create(&self, name: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let create = || self.dir.open_with(name, &options).map(cap_std::fs::File::into_std);
        match create() {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                // A folder only if it is empty.
                self.remove(name).or_else(|e| self.dir.remove_dir(name).map_err(|_| e))?;
                create()
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty()).ok_or(e)?;
                match self.dir.create_dir(parent) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
                    _ => create(),
                }
            }
            created => created,
        }
    }

    /// A new file, if there is nothing of this name.
    pub fn create_new(&self, name: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        self.dir.open_with(name, &options).map(cap_std::fs::File::into_std)
    }

    /// Opens a regular file to read it. What is a link, a pipe or anything else counts as not there.
    pub fn read(&self, name: &Path) -> io::Result<File> {
        self.regular(name, OpenOptions::new().read(true))
    }

    /// Opens a regular file to change it, if this is its only name: else the file would change under its other names, too.
    pub fn edit(&self, name: &Path) -> io::Result<File> {
        let file = self.regular(name, OpenOptions::new().read(true).write(true))?;
        if has_other_names(&file)? { Err(ErrorKind::NotFound.into()) } else { Ok(file) }
    }

    fn regular(&self, name: &Path, options: &mut OpenOptions) -> io::Result<File> {
        #[cfg(unix)]
        {
            use nix::fcntl::OFlag;
            let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            cap_std::fs::OpenOptionsExt::custom_flags(options, flags.bits());
        }
        let file = match self.dir.open_with(name, options) {
            Err(e) if self.dir.symlink_metadata(name).is_ok_and(|meta| !meta.is_file()) => return Err(not_a_file(&e)),
            opened => opened?.into_std(),
        };
        if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::NotFound.into()) }
    }

    /// Bytes of a regular file; `None` where there is none of this name.
    pub fn length(&self, name: &Path) -> Option<u64> {
        self.dir.symlink_metadata(name).ok().filter(|meta| meta.is_file()).map(|meta| meta.len())
    }

    /// Whether a file is what has this name now.
    pub fn holds(&self, file: &File, name: &Path) -> bool {
        match (file.metadata(), self.dir.symlink_metadata(name)) {
            (Ok(held), Ok(there)) => same(&there, &held),
            _ => false,
        }
    }

    /// Removes what has this name, if anything has; a link, not what it leads to.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        match self.dir.remove_file(name) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes a folder in this one, if it is empty.
    pub fn remove_empty(&self, name: &Path) {
        let _ = self.dir.remove_dir(name); // it may hold files of the user's
    }

    /// Gives a file another name, in place of what has it; of a folder only if it is empty.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = || self.dir.rename(from, &self.dir, to);
        rename().or_else(|e| self.dir.remove_dir(to).map_err(|_| e).and_then(|()| rename()))
    }

    /// The names in it, or in a folder of it that is no link, and whether each is a folder.
    pub fn names(&self, folder: &Path) -> io::Result<Names> {
        let entries = if folder.as_os_str().is_empty() { self.dir.entries()? } else { self.dir.read_dir(folder)? };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            names.extend(entry.file_name().into_string().ok().map(|name| (name, is_folder)));
        }
        Ok(names)
    }

    /// Whether anything has this name.
    pub fn is_taken(&self, name: &Path) -> bool {
        self.dir.symlink_metadata(name).is_ok()
    }

    /// Whether a link has this name.
    pub fn is_link(&self, name: &Path) -> bool {
        self.dir.symlink_metadata(name).is_ok_and(|meta| meta.is_symlink())
    }

    /// Waits until all that was written into the folder so far, the files of these names and the names themselves, would be there
    /// after a loss of power.
    pub fn sync(&self, names: impl Iterator<Item = PathBuf>) -> io::Result<()> {
        let itself = self.dir.open(".")?.into_std();
        #[cfg(target_os = "linux")]
        {
            // One call for thousands of small files: asking for each would cost more than making them.
            drop(names);
            nix::unistd::syncfs(&itself).map_err(io::Error::from)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let mut folders = std::collections::BTreeSet::new();
            for name in names {
                self.read(&name)?.sync_all()?;
                folders.extend(name.parent().filter(|parent| !parent.as_os_str().is_empty()).map(Path::to_path_buf));
            }
            #[cfg(unix)]
            for folder in folders {
                self.dir.open(folder)?.into_std().sync_all()?;
            }
            if cfg!(unix) { itself.sync_all() } else { Ok(()) }
        }
    }

    /// Waits until the names in it are on the disk.
    pub fn sync_names(&self) -> io::Result<()> {
        if cfg!(unix) { self.dir.open(".")?.into_std().sync_all() } else { Ok(()) }
    }

    /// The path that led to it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of what has a name in it, to be shown.
    pub fn join(&self, name: &Path) -> PathBuf {
        self.path.join(name)
    }

    /// For `map_err`: adds to an [`io::Error`] what was attempted, and whether the folder is gone, which explains it.
    pub fn failed<'a>(&'a self, action: &'static str, name: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |e| if self.is_in_place() { Error::io(action, &self.path.join(name))(e) } else { self.gone() }
    }

    /// That the folder is not where it was.
    pub fn gone(&self) -> Error {
        Error::invalid_file(
            &self.path,
            "the folder was moved or removed while the job was at work in it",
            "If it was moved, the same call with the new place and `Existing::Resume` goes on there; else begin again.",
        )
    }
}

/// The name that what is at a path has in its folder.
pub(super) fn name_of(path: &Path) -> PathBuf {
    PathBuf::from(path.file_name().unwrap_or_default())
}

/// What is in the folder at a path, which need not be one that a job writes to; nothing if it does not exist.
pub(super) fn entries(path: &Path) -> Result<Names> {
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("read folder", path))?,
    };
    let named = entries.flatten().filter_map(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        Some((entry.file_name().into_string().ok()?, is_folder))
    });
    Ok(named.collect())
}

fn not_a_file(e: &io::Error) -> io::Error {
    io::Error::new(ErrorKind::NotFound, e.to_string())
}

#[cfg(unix)]
fn same(held: &cap_std::fs::Metadata, there: &fs::Metadata) -> bool {
    use cap_std::fs::MetadataExt as _;
    use std::os::unix::fs::MetadataExt as _;
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

/// An open file or folder can neither be moved nor removed there.
#[cfg(not(unix))]
fn same(_: &cap_std::fs::Metadata, _: &fs::Metadata) -> bool {
    true
}

#[cfg(unix)]
fn has_other_names(file: &File) -> io::Result<bool> {
    Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1)
}

#[cfg(not(unix))]
fn has_other_names(_: &File) -> io::Result<bool> {
    Ok(false)
}
