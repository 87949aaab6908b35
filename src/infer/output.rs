//! What a job makes: its images in a format, at a place; and how all of its files are named. Nothing here looks at a disk.

use std::ops::RangeInclusive;
use std::path::{self, Path, PathBuf};

use serde_json::{Map, Value, json};

use super::folder::{Names, name_of};
use super::selection::{Selection, Shard};
use super::share::Share;
use super::sinks::Format;
use super::sinks::sink::{Naming, Sink};
use super::tiling::Tiling;
use crate::error::{Error, Result};
use crate::text;

/// What a job makes.
#[derive(Debug, Clone)]
pub(super) struct Output {
    format: Format,
    /// The folder of the files, or the file.
    path: PathBuf,
    share: Share,
}

impl Output {
    /// The images of `selection`, or a shard of them. `out` is a folder; for formats of one file also a file name with their ending.
    ///
    /// # Errors
    /// When there are no images, or `out` has the ending of another format.
    pub fn new(format: Format, out: &Path, selection: Selection, shard: Option<Shard>) -> Result<Self> {
        let share = share(format, selection, shard)?;
        let path = destination(format, out, &share)?;
        Ok(Self { format, path, share })
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// All that is particular to the format.
    pub fn sink(&self) -> &'static dyn Sink {
        self.format.sink()
    }

    /// The folder of the files, or the one file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The images.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// What there is to be known of the choice of images, for the manifest.
    pub fn facts(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        let mut add = |key: &str, value| drop(facts.insert(key.to_string(), value));
        match self.share.selection() {
            Selection::Numbers { seed, start, n } => {
                add("seed", json!(seed));
                add("start", json!(start));
                add("n", json!(n));
            }
            Selection::Seeds { seeds, number } => {
                add("seeds", json!(seeds.to_string()));
                add("number", json!(number));
            }
        }
        add("format", json!(self.format.name()));
        if let Some(shard) = self.share.shard() {
            add("shard", json!(shard.to_string()));
        }
        facts
    }

    /// The job that a manifest or a journal in this one's folder is of, if it is one of the formats with many files.
    pub fn told(&self, facts: &Value) -> Option<Self> {
        let format = Format::of_many_files(facts["format"].as_str()?)?;
        Some(Self { format, path: self.folder().to_path_buf(), share: told_share(format, facts)? })
    }

    /// The shard that the manifest at a path is of, by what it says, or the journal that stands there in its stead.
    pub fn of_shard(manifest: &Path, facts: &Value) -> Option<Self> {
        let format = Format::named(facts["format"].as_str()?)?;
        let path = match format.sink().naming() {
            Naming::Folder { .. } => manifest.parent()?.to_path_buf(),
            Naming::File { ending, .. } => {
                Some(manifest.with_extension("")).filter(|path| path.extension().is_some_and(|it| it == ending))?
            }
        };
        let output = Self { format, path, share: told_share(format, facts)? };
        let is_named = match output.sink().naming() {
            Naming::Folder { .. } => output.manifest() == manifest,
            Naming::File { .. } => {
                output.path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(&output.share.shard_suffix()))
            }
        };
        (output.share.shard().is_some() && is_named).then_some(output)
    }

    /// Whether two jobs of one folder make files of the same names.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.format != other.format {
            return false;
        }
        let [mut ours, mut theirs] = [self, other].map(Self::numbers);
        ours.sort_by_key(|run| *run.start());
        theirs.sort_by_key(|run| *run.start());
        let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            if a.start() <= b.end() && b.start() <= a.end() {
                return true;
            }
            if a.end() < b.end() {
                ours.next()
            } else {
                theirs.next()
            };
        }
        false
    }

    /// The numbers in the names of the files, where there are many.
    fn numbers(&self) -> Vec<RangeInclusive<u64>> {
        match self.sink().files().map(|files| files.numbers(&self.share.places())) {
            None => self.share.names(),
            Some(numbers) if numbers.is_empty() => Vec::new(),
            Some(numbers) => vec![numbers.start..=numbers.end - 1],
        }
    }

    /// Calls `see` with the name, inside the folder, of each of the many files of this job that is there. `names` lists a folder in
    /// the folder, or itself: what is in it, and whether that is a folder. What is there decides how long this takes, not how many
    /// images there are.
    pub fn each(&self, names: &mut dyn FnMut(&Path) -> Result<Names>, see: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        let (sink, numbers) = (self.sink(), self.numbers());
        if let Naming::File { .. } = sink.naming() {
            return Ok(());
        }
        let is_ours = |file: &Path| sink.number_of(file).is_some_and(|number| numbers.iter().any(|run| run.contains(&number)));
        let top = names(Path::new(""))?;
        for file in top.iter().map(|(name, _)| Path::new(name)).filter(|file| is_ours(file)) {
            see(file)?;
        }
        for (folder, _) in top.iter().filter(|(name, is_folder)| *is_folder && sink.is_subfolder(name)) {
            let folder = Path::new(folder);
            for file in names(folder)?.iter().map(|(name, _)| folder.join(name)).filter(|file| is_ours(file)) {
                see(&file)?;
            }
        }
        Ok(())
    }

    /// The folder that is written to.
    pub fn folder(&self) -> &Path {
        match self.sink().naming() {
            Naming::Folder { .. } => &self.path,
            Naming::File { .. } => match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            },
        }
    }

    /// The manifest of a finished job.
    pub fn manifest(&self) -> PathBuf {
        match self.sink().naming() {
            Naming::Folder { manifest, .. } => self.path.join(format!("manifest{manifest}{}.json", self.share.suffix())),
            Naming::File { .. } => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.path.with_file_name(name + ".json")
            }
        }
    }

    /// A hidden neighbour of the manifest.
    fn hidden(&self, ending: &str) -> PathBuf {
        let manifest = self.manifest();
        let name = manifest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        manifest.with_file_name(format!(".{name}.{ending}"))
    }

    /// The journal of a job at work.
    pub fn journal(&self) -> PathBuf {
        self.hidden("journal")
    }

    /// The one file until it is whole.
    pub fn part(&self) -> PathBuf {
        self.hidden("part")
    }

    /// Whether a file of the folder is the manifest of another of this one's shards, or its journal.
    pub fn is_of_another_shard(&self, name: &Path) -> bool {
        let Some(shard) = self.share.shard() else { return false };
        let (own, name) = (name_of(&self.manifest()), name.to_string_lossy());
        let own = own.to_string_lossy();
        let manifest = name.strip_prefix('.').and_then(|name| name.strip_suffix(".journal")).unwrap_or(&name);
        let around = own.rsplit_once(&shard.suffix());
        let suffix = around.and_then(|(before, after)| manifest.strip_prefix(before)?.strip_suffix(after));
        manifest != own && suffix.is_some_and(|suffix| shard.is_suffix(suffix))
    }

    /// The manifest until it is whole.
    pub fn manifest_part(&self) -> PathBuf {
        self.hidden("new")
    }
}

fn share(format: Format, selection: Selection, shard: Option<Shard>) -> Result<Share> {
    Share::new(selection, shard, format.sink().files().unwrap_or(Tiling::of(1)))
}

/// The images of the job that a manifest or a journal tells of.
fn told_share(format: Format, facts: &Value) -> Option<Share> {
    let number = |key: &str| facts[key].as_u64();
    let selection = match facts["seeds"].as_str() {
        Some(seeds) => Selection::Seeds { seeds: seeds.parse().ok()?, number: number("number")? },
        None => Selection::Numbers { seed: number("seed")?, start: number("start")?, n: number("n")? },
    };
    let shard = match facts.get("shard").and_then(Value::as_str) {
        Some(shard) => Some(shard.parse().ok()?),
        None => None,
    };
    share(format, selection, shard).ok()
}

/// The ending of a file's name, in lower case; `None` for what is a folder.
pub(super) fn ending(out: &Path) -> Option<String> {
    let is_folder = out.is_dir() || out.as_os_str().to_string_lossy().ends_with(path::is_separator);
    out.extension().filter(|_| !is_folder).map(|ending| ending.to_string_lossy().to_lowercase())
}

/// The folder of the files, or the one file, which `out` may name itself.
fn destination(format: Format, out: &Path, share: &Share) -> Result<PathBuf> {
    let ending = ending(out);
    let named = Format::of_one_file().find(|(_, known)| ending.as_deref() == Some(*known)).map(|(_, known)| known);
    // Shards must not write the same file.
    let shard = share.shard_suffix();
    match (named, format.sink().naming()) {
        (Some(named), Naming::File { ending, .. }) if named == ending => {
            let stem = out.file_stem().unwrap_or_default().to_string_lossy();
            Ok(if shard.is_empty() { out.to_path_buf() } else { out.with_file_name(format!("{stem}{shard}.{ending}")) })
        }
        // A folder all the same, for whoever asks for one.
        (Some(named), Naming::Folder { in_one: Some(ending), .. }) if named == ending => Ok(out.to_path_buf()),
        (Some(_), _) => {
            let choices: Vec<String> = Format::of_one_file()
                .map(|(format, ending)| format!("`Plan::format` {} for a .{ending} file", format.name()))
                .collect();
            Err(Error::usage(
                format!("`Plan::out` {} names a file that format {} does not make", text::path(out), format.name()),
                format!("Name a folder, or choose {}.", choices.join(", ")),
            ))
        }
        (None, Naming::Folder { .. }) => Ok(out.to_path_buf()),
        (None, Naming::File { stem, ending }) => Ok(out.join(format!("{stem}{shard}.{ending}"))),
    }
}
