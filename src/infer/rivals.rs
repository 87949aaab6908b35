//! Other jobs of a folder that make files of the same names: two of them would spoil each other, so the second one is refused, or
//! replaces the first if it may.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::folder::{Folder, name_of};
use super::journal::{Journal, difference};
use super::manifest;
use super::output::Output;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::text;

/// Another job, known by its journal or its manifest.
pub(super) struct Rival {
    /// What it may have files of: itself, and what it has not replaced yet.
    jobs: Vec<Output>,
    /// Its journal or manifest.
    name: PathBuf,
    /// The process that is at work on it.
    pid: Option<u32>,
}

/// The other jobs of the folder whose files have names of this one's files.
pub(super) fn find(output: &Output, folder: &Folder) -> Result<Vec<Rival>> {
    let own = [output.journal(), output.manifest()].map(|path| name_of(&path));
    let names = folder.names(Path::new("")).map_err(folder.failed("read", Path::new("")))?;
    let mut rivals = Vec::new();
    for (name, _) in names {
        let name = PathBuf::from(name);
        if !own.contains(&name) {
            rivals.extend(rival(output, folder, name)?.filter(|rival| rival.jobs.iter().any(|job| job.overlaps(output))));
        }
    }
    Ok(rivals)
}

/// The jobs that are known by this job's own name: by its journal, if that is there and held, and by its manifest.
pub(super) fn before(output: &Output, folder: &Folder, journal: Option<&File>) -> Result<Vec<Value>> {
    let name = name_of(&output.journal());
    let mut facts = journal.map(Journal::jobs).transpose().map_err(folder.failed("read", &name))?.unwrap_or_default();
    facts.extend(told(folder, &name_of(&output.manifest())));
    let is_its = |job: &Output| job.manifest() == output.manifest();
    let jobs = facts.iter().filter_map(|facts| output.told(facts)).filter(is_its);
    Ok(jobs.map(|job| Value::Object(job.facts())).collect())
}

/// Refuses to make a shard beside another one that is not of the same images.
pub(super) fn refuse_mixture(output: &Output, folder: &Folder, identity: &Value) -> Result<()> {
    let names = folder.names(Path::new("")).map_err(folder.failed("read", Path::new("")))?;
    for name in names.iter().map(|(name, _)| Path::new(name)).filter(|name| output.is_of_another_shard(name)) {
        let facts = match name.extension().is_some_and(|ending| ending == "journal") {
            true => Journal::look(folder, name)?.and_then(|(jobs, _)| jobs.into_iter().next()),
            false => told(folder, name),
        };
        if let Some(difference) = facts.and_then(|facts| shard_difference(&facts, identity)) {
            let what = format!("{} is of a shard of another job: {difference}", text::path(&folder.join(name)));
            return Err(Error::usage(
                what,
                "Make all shards alike, or choose another `Plan::out`; `Existing::Overwrite` makes this one all the same.",
            ));
        }
    }
    Ok(())
}

/// In what a shard that others' facts tell of differs from what would be one of the same job.
pub(super) fn shard_difference(facts: &Value, identity: &Value) -> Option<String> {
    /// What the shards of a job have in common. Other providers, versions and batches are borne: their pixels are within 1.
    const COMMON: [&str; 10] =
        ["model", "precision", "model_sha256", "seed", "seeds", "number", "start", "n", "truncation", "class"];
    let common = |facts: &Value| -> Value { COMMON.iter().map(|key| (key.to_string(), facts[*key].clone())).collect() };
    difference(&common(facts), &common(identity))
}

/// What a journal or a manifest tells of, if it does.
fn rival(output: &Output, folder: &Folder, name: PathBuf) -> Result<Option<Rival>> {
    let text = name.to_string_lossy();
    let (facts, pid) = if text.starts_with(".manifest") && text.ends_with(".journal") {
        Journal::look(folder, &name)?.unwrap_or_default()
    } else if text.starts_with("manifest") && text.ends_with(".json") {
        (told(folder, &name).into_iter().collect(), None)
    } else {
        return Ok(None);
    };
    let is_its = |job: &Output| [job.journal(), job.manifest()].iter().any(|path| name_of(path) == name);
    let jobs: Vec<Output> = facts.iter().filter_map(|facts| output.told(facts)).filter(is_its).collect();
    Ok((!jobs.is_empty()).then_some(Rival { jobs, name, pid }))
}

/// What a manifest says; what is none is somebody else's file.
fn told(folder: &Folder, name: &Path) -> Option<Value> {
    manifest::find(folder, &folder.join(name)).ok().flatten()
}

/// Refuses to begin, or to go on, beside others.
pub(super) fn refuse(folder: &Folder, rivals: &[Rival]) -> Result<()> {
    let Some(rival) = rivals.first() else { return Ok(()) };
    let path = folder.join(&rival.name);
    Err(match rival.pid {
        Some(pid) => at_work(&path, pid),
        None => Error::usage(
            format!("{} tells of another job with files of the same names", text::path(&path)),
            "If it is unfinished, finish it: its own call with `Existing::Resume`. Else choose another `Plan::out`; `Existing::Overwrite` replaces it.",
        ),
    })
}

fn at_work(path: &Path, pid: u32) -> Error {
    let who = if pid > 0 { format!(" (process {pid})") } else { String::new() };
    let what = format!("another gan-infer{who} makes files of the same names: {} is locked", text::path(path));
    Error::usage(what, "Wait for its end, or choose another `Plan::out`.")
}

/// Refuses to replace what somebody is at work on.
pub(super) fn refuse_at_work(folder: &Folder, rivals: &[Rival]) -> Result<()> {
    match rivals.iter().find_map(|rival| Some((rival, rival.pid?))) {
        Some((rival, pid)) => Err(at_work(&folder.join(&rival.name), pid)),
        None => Ok(()),
    }
}

/// Removes other jobs: the files of those that there were [`before`] by this job's own name, and of rivals also what tells of them, which
/// goes last. Killed amid this, it can be repeated.
///
/// # Errors
/// When somebody is at work on one of the rivals: nothing is touched then.
pub(super) fn replace(
    output: &Output,
    folder: &Folder,
    before: &[Value],
    rivals: &[Rival],
    progress: &dyn Progress,
) -> Result<()> {
    refuse_at_work(folder, rivals)?;
    let mut removed = 0;
    for job in before.iter().filter_map(|facts| output.told(facts)) {
        removed += remove_files(&job, folder)?;
    }
    for Rival { jobs, name, .. } in rivals {
        for job in jobs {
            removed += remove_files(job, folder)?;
        }
        folder.remove(name).map_err(folder.failed("remove", name))?;
    }
    if removed > 0 {
        progress.say(&format!("replaced: {removed} files of the job that was in the way"));
    }
    Ok(())
}

/// Removes the files of a job, and folders that are empty then. Gives how many files.
fn remove_files(job: &Output, folder: &Folder) -> Result<u64> {
    let mut removed = 0;
    let mut names = |inside: &Path| folder.names(inside).map_err(folder.failed("read", inside));
    job.each(&mut names, &mut |file| {
        removed += 1;
        folder.remove(file).map_err(folder.failed("remove", file))
    })?;
    for (subfolder, _) in names(Path::new(""))?.iter().filter(|(name, is_folder)| *is_folder && job.sink().is_subfolder(name)) {
        folder.remove_empty(Path::new(subfolder));
    }
    Ok(removed)
}
