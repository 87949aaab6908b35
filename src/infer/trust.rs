//! Whether a file that a search has found may be opened: only if nobody else could have put it there.
//!
//! As sshd looks at its keys (`StrictModes`): the file, every folder above it and every symbolic link on the way belong to
//! root, to the user of this process, or to the owner of the running executable, who could as well change that; and not
//! everybody may write to them. A folder with the sticky bit (`/tmp`) may be writable by everybody, as nobody can replace in
//! it what others own, and what comes next on the way has an owner of the same kind; but the library's own folder may not,
//! since onnxruntime opens the providers that lie beside it, and these are looked at as well. Groups are not: who shares one is
//! for the administrator to say.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Links on the way to a file, after which it is taken for a circle; Linux's own limit.
const MOST_LINKS: usize = 40;
/// Bits of a file's mode.
const ALL_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
const HINT: &str = "if you trust it, set ORT_DYLIB_PATH to the library";

/// Succeeds if only root, this user and the executable's owner can change what is at `path`, which must be absolute.
///
/// # Errors
/// Which file or folder somebody else could change, and how to open the library all the same.
pub fn check(path: &Path) -> Result<(), String> {
    let mut owners = vec![0, nix::unistd::geteuid().as_raw()];
    owners.extend(std::env::current_exe().and_then(fs::metadata).map(|meta| meta.uid()));
    walk(path, &owners)
}

/// As [`check`], for a library that opens others which lie beside it: its providers and what OpenVINO's brings with it, too.
///
/// # Errors
/// As [`check`].
pub fn check_library(library: &Path) -> Result<(), String> {
    const OPENED: [&str; 3] = ["libonnxruntime", "libopenvino", "libtbb"];
    check(library)?;
    let real = library.canonicalize().map_err(|e| e.to_string())?;
    for folder in [library, &real].into_iter().filter_map(Path::parent) {
        let meta = fs::metadata(folder).map_err(|e| e.to_string())?;
        if meta.mode() & ALL_WRITE != 0 {
            return Err(format!("not safe: everybody may put libraries into {}; {HINT}", folder.display()));
        }
        let neighbours = fs::read_dir(folder).map_err(|e| e.to_string())?.flatten();
        for file in neighbours.filter(|file| OPENED.iter().any(|name| file.file_name().to_string_lossy().starts_with(name))) {
            check(&file.path())?;
        }
    }
    Ok(())
}

/// Follows `path` one name at a time, as the system does, and looks at each.
fn walk(path: &Path, owners: &[u32]) -> Result<(), String> {
    let mut at = PathBuf::new();
    let mut rest = Vec::new();
    push(&mut rest, path);
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let meta = fs::symlink_metadata(&next).map_err(|e| format!("{}: {e}", next.display()))?;
        look(&next, &meta, owners)?;
        if !meta.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(format!("too many symbolic links at {}", next.display()));
        }
        push(&mut rest, &fs::read_link(&next).map_err(|e| format!("{}: {e}", next.display()))?);
    }
    Ok(())
}

/// Puts the names of `path` onto `rest`, the first on top; an absolute one begins at the root again by itself.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    let names = path.components().filter(|name| *name != Component::CurDir);
    let names: Vec<OsString> = names.map(|name| name.as_os_str().to_os_string()).collect();
    rest.extend(names.into_iter().rev());
}

fn look(path: &Path, meta: &Metadata, owners: &[u32]) -> Result<(), String> {
    if !owners.contains(&meta.uid()) {
        return Err(format!("not safe: {} belongs to user {}, neither root nor you; {HINT}", path.display(), meta.uid()));
    }
    let writable = meta.mode() & ALL_WRITE != 0 && !meta.is_symlink();
    if writable && !(meta.is_dir() && meta.mode() & STICKY != 0) {
        return Err(format!("not safe: everybody may write to {}; {HINT}", path.display()));
    }
    Ok(())
}
