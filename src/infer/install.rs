//! Installing onnxruntime for a user, when asked.

use std::fs;
use std::path::PathBuf;

use super::runtime::{self, OLDEST_MINOR, PATH_VARIABLE};
use super::wheels::{self, Package};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// Fetches an onnxruntime with pip into [`runtime::managed_folder`], whole or not at all; returns the library file. The packages are
/// pinned by hashes, and what arrived is compared with their records before it is opened.
/// What was there before is replaced, engines of TensorRT included.
///
/// # Errors
/// When there is no Python with pip, pip fails, the folder cannot be written to or others may write to it, or what arrived is
/// not what was pinned or not a usable library.
pub fn install(package: Package, progress: &dyn Progress) -> Result<PathBuf> {
    let target = runtime::own_folder()?;
    let parent = target.parent().unwrap_or(&target);
    files::create_folder(parent)?;
    // Before gigabytes are fetched.
    runtime::check_own(parent)?;
    let work = tempfile::Builder::new().prefix(".install-").tempdir_in(parent).map_err(Error::io("write to", parent))?;
    let fresh = work.path().join("onnxruntime");
    progress.say(&format!("pip installs {} into {}", package.contents(), target.display()));
    let limits = package.limits();
    let other_ways =
        format!("{limits}Mend that, or put libonnxruntime 1.{OLDEST_MINOR} or newer anywhere and set {PATH_VARIABLE} to it.");
    wheels::fetch(package, &fresh, work.path(), &other_ways)?;

    let found = runtime::only_in(
        &fresh,
        "pip fetched a library that does not work on this machine: set ORT_DYLIB_PATH to one that does.",
    )?;
    let library = found.path.strip_prefix(&fresh).unwrap_or(&found.path).to_path_buf();
    let old = work.path().join("old");
    let replaced = target.exists();
    if replaced {
        fs::rename(&target, &old).map_err(Error::io("replace", &target))?;
    }
    if let Err(e) = fs::rename(&fresh, &target) {
        if replaced {
            fs::rename(&old, &target).map_err(Error::io("restore", &target))?;
        }
        return Err(Error::io("write", &target)(e));
    }
    Ok(target.join(library))
}
