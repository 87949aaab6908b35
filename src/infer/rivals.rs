//! Other jobs of a folder that make files of the same names: two of them would spoil each other, so the second one is refused, or
//! with [`Existing::Overwrite`](super::plan::Existing) replaces the first.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::check::read_manifest;
use super::folder::Folder;
use super::journal::Journal;
use super::plan::{Plan, is_subfolder};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::text;

/// Another job, known by its journal or its manifest.
pub(super) struct Rival {
    plan: Plan,
    /// Its journal or manifest.
    name: PathBuf,
    /// The process that is at work on it.
    pid: Option<u32>,
}

/// The other jobs of the folder whose files have names of this plan's.
pub(super) fn find(plan: &Plan, folder: &Folder) -> Result<Vec<Rival>> {
    let own = [plan.journal(), plan.manifest()].map(|path| name_of(&path));
    let names = folder.names(Path::new("")).map_err(folder.failed("read", Path::new("")))?;
    let mut rivals = Vec::new();
    for (name, _) in names {
        let name = PathBuf::from(name);
        if !own.contains(&name) {
            rivals.extend(rival(plan, folder, name)?);
        }
    }
    Ok(rivals)
}

/// The job of an earlier call in the very same files, if it was another one.
pub(super) fn before(plan: &Plan, folder: &Folder) -> Result<Vec<Rival>> {
    let own = [plan.journal(), plan.manifest()].map(|path| rival(plan, folder, name_of(&path)));
    Ok(own.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn rival(plan: &Plan, folder: &Folder, name: PathBuf) -> Result<Option<Rival>> {
    let text = name.to_string_lossy();
    let (facts, pid) = if text.starts_with(".manifest") && text.ends_with(".journal") {
        match Journal::look(folder, &name)? {
            Some(found) => found,
            None => return Ok(None),
        }
    } else if text.starts_with("manifest") && text.ends_with(".json") {
        // What is no manifest is somebody else's file.
        match folder.read(&name).and_then(read_manifest).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) {
            Some(facts) => (facts, None),
            None => return Ok(None),
        }
    } else {
        return Ok(None);
    };
    let told = plan.told(&facts);
    let is_its = |other: &Plan| [other.journal(), other.manifest()].iter().any(|path| name_of(path) == name);
    Ok(told.filter(|other| is_its(other) && other.overlaps(plan)).map(|plan| Rival { plan, name, pid }))
}

fn name_of(path: &Path) -> PathBuf {
    PathBuf::from(path.file_name().unwrap_or_default())
}

/// Refuses to begin, or to go on, beside others.
pub(super) fn refuse(folder: &Folder, rivals: &[Rival]) -> Result<()> {
    let Some(rival) = rivals.first() else { return Ok(()) };
    let path = folder.join(&rival.name);
    Err(match rival.pid {
        Some(pid) => at_work(&path, pid),
        None => Error::usage(
            format!("{} tells of another job with files of the same names", text::path(&path)),
            "If it is unfinished, finish it: its own call with --resume. Else choose another --out; --force replaces it.",
        ),
    })
}

fn at_work(path: &Path, pid: u32) -> Error {
    let who = if pid > 0 { format!(" (process {pid})") } else { String::new() };
    let what = format!("another gan-infer{who} makes files of the same names: {} is locked", text::path(path));
    Error::usage(what, "Wait for its end, or choose another --out.")
}

/// Removes other jobs, all of their files and at last what tells of them.
///
/// # Errors
/// When somebody is at work on one of them: none is touched then.
pub(super) fn replace(folder: &Folder, rivals: &[Rival], keep: &Path, progress: &dyn Progress) -> Result<()> {
    if let Some((rival, pid)) = rivals.iter().find_map(|rival| Some((rival, rival.pid?))) {
        return Err(at_work(&folder.join(&rival.name), pid));
    }
    let mut removed = 0u64;
    for Rival { plan, name, .. } in rivals {
        let mut names = |inside: &Path| folder.names(inside).map_err(folder.failed("read", inside));
        plan.each(&mut names, &mut |file| {
            removed += 1;
            folder.remove(file).map_err(folder.failed("remove", file))
        })?;
        for (subfolder, _) in names(Path::new(""))?.iter().filter(|(name, is_folder)| *is_folder && is_subfolder(name)) {
            folder.remove_empty(Path::new(subfolder));
        }
        if name != keep {
            folder.remove(name).map_err(folder.failed("remove", name))?;
        }
    }
    if removed > 0 {
        progress.say(&format!("replaced: {removed} files of the job that was in the way"));
    }
    Ok(())
}
