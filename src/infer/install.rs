//! Installing onnxruntime for a user, when asked.

use std::fs;
use std::path::{Path, PathBuf};

use super::runtime::{self, HOME_VARIABLE, OLDEST_MINOR, PATH_VARIABLE};
use super::wheels;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// Fetches onnxruntime with pip into [`runtime::managed_folder`], whole or not at all; returns the library file. The packages are
/// pinned by hashes, and what arrived is compared with their records before it is opened.
///
/// With `cuda`, `onnxruntime-gpu` and NVIDIA's libraries for it: some gigabytes.
///
/// # Errors
/// When there is no Python with pip, pip fails, the folder cannot be written to or others may write to it, or what arrived is
/// not what was pinned or not a usable library.
pub fn install(cuda: bool, progress: &dyn Progress) -> Result<PathBuf> {
    let target = runtime::managed_folder().ok_or_else(|| {
        Error::usage(
            "the system tells no data folder for this user",
            format!("Set {HOME_VARIABLE} to a folder of your choice."),
        )
    })?;
    // pip runs in another folder.
    let target = std::path::absolute(&target).map_err(Error::io("find", &target))?;
    let parent = target.parent().unwrap_or(&target);
    files::create_folder(parent)?;
    safe_to_fill(parent)?;
    let work = tempfile::Builder::new().prefix(".install-").tempdir_in(parent).map_err(Error::io("write to", parent))?;
    let fresh = work.path().join("onnxruntime");
    let package = if cuda { "onnxruntime-gpu and NVIDIA's CUDA libraries" } else { "onnxruntime" };
    progress.say(&format!("pip installs {package} into {}", target.display()));
    let other_ways =
        format!("Mend that, or put libonnxruntime 1.{OLDEST_MINOR} or newer anywhere and set {PATH_VARIABLE} to it.");
    wheels::fetch(cuda, &fresh, work.path(), &other_ways)?;

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

/// Before gigabytes are fetched into a folder from which nothing would be opened.
fn safe_to_fill(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    super::trust::check(folder).map_err(|reason| {
        Error::invalid_file(folder, reason, format!("Or set {HOME_VARIABLE} to a folder that is yours alone."))
    })?;
    Ok(())
}
