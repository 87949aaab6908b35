//! What of a run's config may change on the way, and what has been changed: `changes.jsonl`.
//!
//! A checkpoint holds the config that made it. Who resumes from it with another one must mean it: only [`FREE`] keys may differ
//! just so. Any other that differs is named, unless it is among those that are changed on purpose, which are noted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{RunFolder, checkpoint};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// Keys and sections that every resume may change: how long the run is, how exactly it computes, what it writes, who watches
/// it, where the images lie (they are known by their checksum), and what it and its classes are called.
pub const FREE: [&str; 9] = [
    "schedule.length",
    "schedule.precision",
    "schedule.capture",
    "output",
    "watch",
    "data.source",
    "data.class_names",
    "preset",
    "about",
];

/// What of it is noted all the same, for it decides what the run's numbers are.
const NOTED: &str = "schedule.precision";

/// What decides how a run begins. There is nothing left of it to change once a run has begun.
const BEGINNING: [&str; 2] = ["init", "init_from"];

/// A key of the config that was given another value on purpose. A line of `changes.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Generator steps made before.
    pub step: u64,
    /// The key, with its section: `optimizer.critic.lr`.
    pub key: String,
    /// The value until then, as TOML; none if there was none.
    pub was: Option<String>,
    /// The value from then on.
    pub now: Option<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {} to {}", self.key, shortened(&self.was), shortened(&self.now))
    }
}

/// A value to be read in passing: lists of layers are long.
fn shortened(value: &Option<String>) -> String {
    const LONGEST: usize = 60;
    match value {
        None => "nothing".to_string(),
        Some(text) if text.chars().count() <= LONGEST => text.clone(),
        Some(text) => text.chars().take(LONGEST - 1).chain(['…']).collect(),
    }
}

/// What of a run's config was changed on purpose up to where a resume begins, in the order of the steps.
pub(super) struct Changes {
    /// What stays noted. What was changed after the checkpoint, or at it and is not so any more, was for another way of the run.
    before: Vec<Change>,
    new: Vec<Change>,
}

impl Changes {
    /// What is changed by this very resume, for people; nothing if nothing is.
    pub(super) fn new_in_words(&self) -> Option<String> {
        let told: Vec<String> = self.new.iter().map(ToString::to_string).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// Compares the config of a resume with the one that its checkpoint was made with, or without a checkpoint with the one in the
/// run's folder. `set` names the keys that are changed on purpose.
pub(super) fn check(folder: &RunFolder, saved: Option<&Path>, config: &TrainConfig, set: &[String]) -> Result<Changes> {
    let made = saved.map(|saved| checkpoint::read_config(saved, config)).transpose()?.flatten();
    let step = match saved {
        Some(saved) => checkpoint::read_state(saved)?.step,
        None => 0,
    };
    let (was, now) = match &made {
        Some(made) => (values(made)?, values(config)?),
        None => (values(&folder.config()?)?, values(config)?),
    };
    let (mut before, mut here) = (read(folder)?, Vec::new());
    before.retain(|change| change.step <= step);
    if made.is_some() {
        // Changed before, from this very checkpoint, and then killed before the next.
        here.extend(before.extract_if(.., |change| change.step == step));
    }
    let keys: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
    let differing = keys.into_iter().filter(|key| was.get(*key) != now.get(*key) && (*key == NOTED || !is_free(key)));
    let change = |key: &String| Change { step, key: key.clone(), was: was.get(key).cloned(), now: now.get(key).cloned() };
    let is_meant = |change: &Change| here.iter().any(|meant| (&meant.key, &meant.now) == (&change.key, &change.now));
    let (again, new): (Vec<_>, Vec<_>) = differing.map(change).partition(is_meant);
    before.extend(again);
    refuse_unmeant(folder, saved, &new, set)?;
    Ok(Changes { before, new })
}

fn refuse_unmeant(folder: &RunFolder, saved: Option<&Path>, changes: &[Change], set: &[String]) -> Result<()> {
    let place = folder.config_file();
    let late = |change: &&Change| saved.is_some() && BEGINNING.iter().any(|key| covers(key, &change.key));
    if let Some(change) = changes.iter().find(late) {
        let what = format!("{change}: it decides how a run begins, and this one has begun");
        return Err(Error::invalid_file(&place, what, "Restore it, or begin another run."));
    }
    let unmeant: Vec<&Change> =
        changes.iter().filter(|change| !is_free(&change.key) && !set.iter().any(|set| rewrites(set, change))).collect();
    if unmeant.is_empty() {
        return Ok(());
    }
    let made = match saved.and_then(Path::file_name) {
        Some(name) => format!("the checkpoint {} was made with", name.to_string_lossy()),
        None => "the run began with".to_string(),
    };
    let told: Vec<String> = unmeant.iter().map(ToString::to_string).collect();
    let what = format!("other than what {made}: {}", told.join("; "));
    let keys: Vec<String> = unmeant.iter().map(|change| format!("`Overrides::set` {}=…", change.key)).collect();
    let hint = format!("Restore it, or change it on purpose with {}.", keys.join(" "));
    Err(Error::invalid_file(&place, what, hint))
}

fn is_free(key: &str) -> bool {
    FREE.iter().any(|free| covers(free, key))
}

/// Whether a key is another, or lies in the section of that name.
fn covers(section: &str, key: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether setting a key makes a change: to itself, to what lies in it, or to what goes along with it.
fn rewrites(set: &str, change: &Change) -> bool {
    let rewritten: &[&str] = match set {
        "critic.norm" | "critic" => &["critic.layers"],
        "data.channels" => &["generator.layers"],
        "data.classes" | "data" => &["generator.layers", "critic.layers"],
        _ => &[],
    };
    // Another kind of loss has other keys.
    let comes_or_goes = change.was.is_none() || change.now.is_none();
    let of_the_kind = |section: &str| comes_or_goes && covers(section, &change.key);
    covers(set, &change.key) || rewritten.contains(&&*change.key) || set.strip_suffix(".kind").is_some_and(of_the_kind)
}

/// Every value of a config, by its key with its section.
fn values(config: &TrainConfig) -> Result<BTreeMap<String, String>> {
    let table: Table = config
        .to_toml()?
        .parse()
        .map_err(|e: toml::de::Error| Error::invalid("config", e.to_string(), "Please report this."))?;
    let mut values = BTreeMap::new();
    flatten("", &table, &mut values);
    Ok(values)
}

fn flatten(section: &str, table: &Table, values: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let key = if section.is_empty() { key.clone() } else { format!("{section}.{key}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, values),
            _ => _ = values.insert(key, value.to_string()),
        }
    }
}

/// Tells of new changes, and notes all in the run.
pub(super) fn note(folder: &RunFolder, Changes { before, new }: &Changes, progress: &dyn Progress) -> Result<()> {
    for change in new {
        progress.say(&format!("changed on purpose after step {}: {change}", change.step));
    }
    let all = || before.iter().chain(new);
    if all().eq(&read(folder)?) {
        return Ok(());
    }
    let line = |change: &Change| serde_json::to_string(change).map(|line| line + "\n");
    let text: Result<String, _> = all().map(line).collect();
    let text = text.map_err(|e| Error::invalid("changes.jsonl", e.to_string(), "Please report this."))?;
    files::write_atomic(&folder.changes_file(), text.as_bytes())
}

/// What has been changed on purpose in a run so far.
///
/// # Errors
/// When the file is unreadable or damaged.
pub fn read(folder: &RunFolder) -> Result<Vec<Change>> {
    let path = folder.changes_file();
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = files::read(&path, files::TEXT)?;
    let parse = |(number, line): (usize, &str)| {
        let hint = "Restore the file: it tells what of the config was changed on the way.";
        serde_json::from_str(line).map_err(|e| Error::invalid_file(&path, format!("line {}: {e}", number + 1), hint))
    };
    String::from_utf8_lossy(&text).lines().enumerate().map(parse).collect()
}
