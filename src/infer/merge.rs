//! Shards of a job, put together to what one call makes of all of its images: the same files, byte for byte, and the same manifest.
//!
//! A merge is a job like any other, but that its pieces are copied instead of made: what is whole is noted in the same journal, so that one that
//! was killed goes on, nothing is called done that is not, and two do not mix. Each byte is looked at as it is copied, by the checksums
//! of the shards' manifests.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{self, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::folder::{Folder, entries, name_of};
use super::journal::Journal;
use super::labels::Labels;
use super::manifest;
use super::open_job::{Existing, OpenJob};
use super::output::{Output, ending};
use super::piece::{DonePieces, Piece};
use super::pipeline::Sampled;
use super::plan::Plan;
use super::selection::{Selection, Shard};
use super::sinks::Format;
use super::sinks::sink::{Depth, InOne, Naming, Site};
use super::target::refuse_other_endings;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::text;

/// Shards of one job, as they were found.
///
/// ```no_run
/// use ganforge::infer::{Existing, Merge};
/// use ganforge::progress::Silent;
///
/// let merge = Merge::find(&["machine-1".into(), "machine-2".into()], None)?;
/// for missing in merge.missing() {
///     println!("missing: {missing}"); // 3/8 (images 250 to 374)
/// }
/// merge.run("all".as_ref(), Existing::Resume, &Silent, &false.into())?;
/// # Ok::<(), ganforge::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Merge {
    format: Format,
    selection: Selection,
    /// What the bytes of the images depend on, as the manifests say it.
    identity: Value,
    /// Those that have an image at least, in their order.
    parts: Vec<Part>,
    missing: Vec<Missing>,
}

/// A shard that is not there, or not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Missing {
    /// Which.
    pub shard: Shard,
    /// What its images are called by: their numbers, or their seeds.
    pub images: Vec<RangeInclusive<u64>>,
    /// Where it was begun, if that was found: the folder, or the file to be.
    pub begun: Option<PathBuf>,
    /// Whether a process is at work on it.
    pub at_work: bool,
}

/// A finished shard.
#[derive(Debug, Clone)]
struct Part {
    output: Output,
    manifest: Value,
}

/// A shard of which something was found.
struct Found {
    path: PathBuf,
    output: Output,
    facts: Value,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Finished,
    Begun,
    AtWork,
}

/// A shard to copy from.
struct Source {
    site: Arc<Site>,
    pieces: Vec<Piece>,
}

/// Parts that a job is cut into at most: more would only be looked for in vain.
const MOST_PARTS: u64 = 1 << 20;

impl Merge {
    /// Looks for the shards of one job: in folders, or each by its own file or manifest. Only manifests and journals are read. With shards
    /// of several formats there, `format` says which are meant.
    ///
    /// # Errors
    /// When there are none, they are of several jobs or formats, one is there twice, or a folder cannot be read. That some are missing is no
    /// error yet: [`missing`](Self::missing) tells which.
    pub fn find(places: &[PathBuf], format: Option<Format>) -> Result<Self> {
        let found = look(places)?;
        let mut found: Vec<Found> =
            found.into_iter().filter(|it| format.is_none_or(|format| it.output.format() == format)).collect();
        found.sort_by_key(|it| it.index());
        let Some(first) = found.iter().find(|it| it.state == State::Finished).or(found.first()) else {
            return Err(none(places, format));
        };
        for other in &found {
            first.refuse_other(other)?;
        }
        let (format, selection, identity) = (first.output.format(), first.output.share().selection().clone(), first.identity());
        let of = first.output.share().shard().map_or(1, Shard::of);
        if of > MOST_PARTS {
            let what = format!("it is one of {of} parts, and no more than {MOST_PARTS} are put together");
            return Err(Error::invalid_file(&first.path, what, "Cut the job into fewer shards."));
        }
        let (finished, others): (Vec<Found>, Vec<Found>) = found.into_iter().partition(|it| it.state == State::Finished);
        if let Some([one, other]) = finished.windows(2).find(|two| two[0].index() == two[1].index()) {
            let what = format!("it is of the same shard as {}", text::path(&one.path));
            return Err(Error::invalid_file(&other.path, what, "Name one of the two only."));
        }
        let mut missing = Vec::new();
        for shard in (0..of).filter_map(|index| Shard::of_index(index, of)) {
            if finished.iter().any(|it| it.index() == shard.index()) {
                continue;
            }
            let output = Output::new(format, Path::new("."), selection.clone(), Some(shard))?;
            let begun = others.iter().find(|it| it.index() == shard.index());
            missing.extend((output.share().count() > 0).then(|| Missing {
                shard,
                images: output.share().names(),
                begun: begun.map(|it| it.output.path().to_path_buf()),
                at_work: begun.is_some_and(|it| it.state == State::AtWork),
            }));
        }
        let parts = finished.into_iter().filter(|it| it.output.share().count() > 0);
        let parts = parts.map(|it| Part { output: it.output, manifest: it.facts }).collect();
        Ok(Self { format, selection, identity, parts, missing })
    }

    /// The shards that are not there, or not finished.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// How many finished shards were found that have images.
    pub fn shards(&self) -> usize {
        self.parts.len()
    }

    /// The images of the whole job.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The format of the shards, and of what they become.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What the bytes of the images depend on, with the keys of a manifest: `model_sha256`, `seed`, `n`, `batch` and so on.
    pub fn facts(&self) -> &Value {
        &self.identity
    }

    /// Where the shards are, each once: folders, or files.
    pub fn places(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.output.path())
    }

    /// Copies all images to `out`, to the same files, byte for byte, and the same manifest as one call without shards makes there: an array; a folder of
    /// tar or PNG files; of tar files also one `.tar` file. Nothing is done to the shards. Memory does not grow with the images' bytes.
    ///
    /// With [`Existing::Resume`] it goes on with what an earlier call has begun, or begins; `stop` ends it between two files.
    ///
    /// # Errors
    /// When shards are missing, or are not what their manifests say; when `out` is where they are, holds other files of these names or another job is at
    /// work there; or when `stop` was raised.
    pub fn run(&self, out: &Path, existing: Existing, progress: &dyn Progress, stop: &AtomicBool) -> Result<Sampled> {
        let started = Instant::now();
        self.refuse_missing()?;
        if out == Path::new("-") || out.to_string_lossy().contains("://") {
            let what = format!("a merge goes to files, not to `Plan::out` {}", text::path(out));
            return Err(Error::usage(what, "Choose a folder or a file as `Plan::out`."));
        }
        refuse_other_endings(out)?;
        let done = |images, out: &Path| Sampled { images, seconds: started.elapsed().as_secs_f64(), out: out.to_path_buf() };
        let sources = self.sources()?;
        if let Some(in_one) = self.in_one(out) {
            self.refuse_file_of_source(out)?;
            let job = Copying { sources: &sources, progress, stop };
            files::write_whole(out, existing == Existing::Overwrite, |to| job.copy_to_one(&in_one, to))?;
            return Ok(done(job.count(), out));
        }
        let output = Output::new(self.format, out, self.selection.clone(), None)?;
        self.refuse_sources(&output)?;
        let is_begun = [output.journal(), output.manifest()].iter().any(|path| path.symlink_metadata().is_ok());
        // Where there is nothing to go on with, what is there is in the way, and there must be room.
        let existing = if existing == Existing::Resume && !is_begun { Existing::Refuse } else { existing };
        let plan = Plan::new(self.format, out, self.selection.clone(), None, existing)?;
        let job = Copying { sources: &sources, progress, stop };
        let labels = labels(&sources);
        let mut open = OpenJob::open(plan.output(), existing, self.identity.clone(), self.shape()?, labels, progress, stop)?;
        let (copied, result) = job.copy_to_files(&mut open);
        if let Err(e) = result {
            let (whole, total) = (open.count().unwrap_or(copied), plan.count());
            open.abandon();
            if whole > 0 {
                progress.say(&format!("{whole} of {total} images are copied; the same call goes on with the rest"));
            }
            return Err(e);
        }
        open.finish()?;
        Ok(done(copied, plan.path()))
    }

    fn refuse_missing(&self) -> Result<()> {
        const LISTED: usize = 8;
        if self.missing.is_empty() {
            return Ok(());
        }
        let mut listed: Vec<String> = self.missing.iter().take(LISTED).map(Missing::to_string).collect();
        if self.missing.len() > LISTED {
            listed.push(format!("{} more", self.missing.len() - LISTED));
        }
        let what = format!("not all shards are there and finished: {}", listed.join("; "));
        Err(Error::invalid("the job", what, "Make them, each with its `Plan::shard`, or name the folders that they are in."))
    }

    /// Refuses to write where shards are read from.
    fn refuse_sources(&self, output: &Output) -> Result<()> {
        let place = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let is_there = |part: &&Part| match output.sink().naming() {
            Naming::Folder { .. } => place(part.output.folder()) == place(output.folder()),
            Naming::File { .. } => place(part.output.path()) == place(output.path()),
        };
        match self.parts.iter().find(is_there) {
            None => Ok(()),
            Some(_) => Err(Error::usage(
                format!("`Plan::out` {} is where shards are, which stay as they are", text::path(output.path())),
                "Choose another `Plan::out`.",
            )),
        }
    }

    /// Refuses to replace a file of a folder that shards are in: it may be one of theirs.
    fn refuse_file_of_source(&self, out: &Path) -> Result<()> {
        let Ok(real) = fs::canonicalize(out) else { return Ok(()) };
        let is_there = |part: &Part| fs::canonicalize(part.output.folder()).is_ok_and(|folder| real.starts_with(folder));
        match self.parts.iter().any(is_there) {
            false => Ok(()),
            true => Err(Error::usage(
                format!("`Plan::out` {} is there, among shards, which stay as they are", text::path(out)),
                "Choose another `Plan::out`.",
            )),
        }
    }

    /// How the files become one, if `out` is one.
    fn in_one(&self, out: &Path) -> Option<InOne> {
        let Naming::Folder { in_one: Some(ending_of_one), .. } = self.format.sink().naming() else { return None };
        self.format.sink().in_one().filter(|_| ending(out).as_deref() == Some(ending_of_one))
    }

    /// Height, width and channels of an image.
    fn shape(&self) -> Result<[usize; 3]> {
        /// Of a side, and bytes of an image.
        const MOST: u64 = 1 << 31;
        let told = self.identity["image"].as_array().map(Vec::as_slice).unwrap_or_default();
        let sides: Option<Vec<u64>> = told.iter().map(|side| side.as_u64().filter(|side| (1..MOST).contains(side))).collect();
        let sides =
            sides.filter(|sides| sides.iter().try_fold(1u64, |all, side| all.checked_mul(*side)).is_some_and(|all| all < MOST));
        match sides.as_deref() {
            Some([height, width, channels]) => Ok([*height, *width, *channels].map(|side| side as usize)),
            _ => Err(Error::invalid("the shards' manifests", "they tell no size of images", "Make the shards again.")),
        }
    }

    /// Looks at all shards: whether their manifests are sound, and their files there and as long as these say.
    fn sources(&self) -> Result<Vec<Source>> {
        let shape = self.shape()?;
        let count = self.selection.places()?;
        self.format.sink().check_size(count.end - count.start, shape, &Format::not_in_one_go())?;
        let mut folders = BTreeMap::<&Path, Arc<Folder>>::new();
        let mut sources = Vec::new();
        for part in &self.parts {
            let path = part.output.folder();
            let folder = match folders.get(path) {
                Some(folder) => Arc::clone(folder),
                None => Arc::clone(folders.entry(path).or_insert(Arc::new(Folder::open(path)?))),
            };
            sources.push(part.source(folder, shape)?);
        }
        Ok(sources)
    }
}

impl std::fmt::Display for Missing {
    /// `3/8 (images 250 to 374)`, and how far it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LISTED: usize = 4;
        let run = |run: &RangeInclusive<u64>| match run.start() == run.end() {
            true => run.start().to_string(),
            false => format!("{} to {}", run.start(), run.end()),
        };
        let runs: Vec<String> = self.images.iter().take(LISTED).map(run).collect();
        let more = if self.images.len() > LISTED { " …" } else { "" };
        write!(f, "{} (images {}{more})", self.shard, runs.join(", "))?;
        match &self.begun {
            Some(path) if self.at_work => write!(f, ", which is being made in {}", text::path(path)),
            Some(path) => write!(f, ", which was begun in {}", text::path(path)),
            None => Ok(()),
        }
    }
}

impl Found {
    /// Which shard, from 1.
    fn index(&self) -> u64 {
        self.output.share().shard().map_or(1, Shard::index)
    }

    fn identity(&self) -> Value {
        identity(&self.facts, &["shard"])
    }

    /// Refuses a shard of another job.
    fn refuse_other(&self, other: &Self) -> Result<()> {
        let [of, of_other] = [self, other].map(|it| it.output.share().shard().map_or(1, Shard::of));
        let [mine, others] = [self, other].map(Self::identity);
        let keys = [&mine, &others].into_iter().filter_map(Value::as_object).flat_map(Map::keys);
        // What the model's file is called decides on nothing.
        let differs = |key: &&String| match key.as_str() {
            "model" => false,
            // Nor does which of a machine's GPUs it was.
            "provider" => kind_of_provider(&mine) != kind_of_provider(&others),
            key => mine[key] != others[key],
        };
        let difference = match keys.into_iter().find(differs) {
            Some(key) if key == "format" => {
                return Err(Error::invalid_file(
                    &other.path,
                    format!("its format is {}, that of {} is {}", others[key], text::path(&self.path), mine[key]),
                    "Say with `Plan::format` which shards are meant.",
                ));
            }
            Some(key) => format!("its {key} is {}, that of {} is {}", others[key], text::path(&self.path), mine[key]),
            None if of != of_other => format!("it is one of {of_other} parts, {} is one of {of}", text::path(&self.path)),
            None => return Ok(()),
        };
        let what = format!("it is of another job: {difference}");
        Err(Error::invalid_file(&other.path, what, "Name the shards of one job only, all of them made alike."))
    }
}

impl Part {
    /// What there is to copy.
    fn source(&self, folder: Arc<Folder>, shape: [usize; 3]) -> Result<Source> {
        let Self { output, manifest } = self;
        let (sink, share, path) = (output.sink(), output.share().clone(), output.path().to_path_buf());
        let mut site = Site { share, shape, folder, path, part: output.part(), labels: None };
        if sink.has_labels()
            && let Some(classes) = manifest["labels"].as_u64()
        {
            let read = sink.labels_of(&site).map_err(Error::io("read", &site.path))?;
            site.labels = read.and_then(|labels| Labels::of_files(classes, site.share.places().start, labels));
        }
        let site = Arc::new(site);
        let (places, identity) = (site.share.places(), identity(manifest, &[]));
        let pieces = sink.described(&site, manifest).ok_or_else(|| self.unsound("its manifest has no checksums"))?;
        let mut all = DonePieces::new(site.image());
        let fit =
            pieces.iter().all(|piece| piece.count > 0 && piece.first.checked_add(piece.count).is_some() && all.add(*piece));
        let Some(all) = all.all(&places).filter(|_| fit) else {
            return Err(self.unsound("its manifest does not tell of each of its images once"));
        };
        if manifest::of(sink, &site, &identity, &pieces) != *manifest {
            return Err(self.unsound("its manifest contradicts itself, or an array's file is not there"));
        }
        let store = sink.find(&site)?.ok_or_else(|| self.unsound("its file is not there"))?;
        let is_final = matches!(sink.naming(), Naming::Folder { .. }) || store.is_final();
        let there = pieces.par_iter().map(|piece| store.holds(piece, Depth::Sizes)).collect::<Result<Vec<_>>>()?;
        match pieces.iter().zip(there).find(|(_, there)| !there) {
            Some((piece, _)) => Err(self.unsound(&unlike(&site, piece))),
            None if !is_final || !store.is_closed(&all)? => Err(self.unsound("its file is not whole")),
            None => Ok(Source { site, pieces }),
        }
    }

    fn unsound(&self, what: &str) -> Error {
        unsound(&self.output, what)
    }
}

/// `cuda` of `cuda:1`.
fn kind_of_provider(facts: &Value) -> Option<&str> {
    facts["provider"].as_str().map(|provider| provider.split(':').next().unwrap_or(provider))
}

/// A shard that cannot be made use of.
fn unsound(output: &Output, what: &str) -> Error {
    let shard = output.share().shard().map_or(String::new(), |shard| format!("shard {shard}: "));
    Error::invalid_file(
        &output.manifest(),
        format!("{shard}{what}"),
        "Its own call with `Existing::Resume` makes again what is not whole, with `Existing::Overwrite` all of it.",
    )
}

/// That images of a shard are not what its manifest says.
fn unlike(site: &Site, piece: &Piece) -> String {
    let [first, last] = [piece.first, piece.end() - 1].map(|place| site.share.selection().name(place));
    format!("what is there of images {first} to {last} is not what its manifest says, or is missing")
}

/// Copying under way.
struct Copying<'a> {
    sources: &'a [Source],
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

impl Copying<'_> {
    /// How many images.
    fn count(&self) -> u64 {
        self.sources.iter().map(|source| source.site.share.count()).sum()
    }

    /// Copies what a job does not have yet. Gives how many images that were.
    fn copy_to_files(&self, open: &mut OpenJob) -> (u64, Result<()>) {
        // Pieces between two notes: as few as keep all cores at work, for what is not noted yet is copied again after a kill.
        let at_once = rayon::current_num_threads().max(1);
        let gaps = open.gaps();
        let todo = match self.pieces_of(&gaps) {
            Ok(todo) => todo,
            Err(e) => return (0, Err(e)),
        };
        let Some(writer) = &open.writer else { return (0, Ok(())) };
        let before = self.count() - todo.iter().map(|(_, piece)| piece.count).sum::<u64>();
        let (seen, mut whole) = (AtomicU64::new(before), 0);
        let copied = |images: u64| {
            self.progress.update(seen.fetch_add(images, Ordering::Relaxed) + images, "");
            self.check_stop()
        };
        self.progress.begin("merging", self.count());
        let result = todo.chunks(at_once).try_for_each(|some| {
            let adopt = |(source, piece): &(&Source, Piece)| {
                self.check_stop()?;
                match writer.adopt(&source.site, piece, &copied)? {
                    true => Ok(*piece),
                    false => Err(source.unlike(piece)),
                }
            };
            writer.check_place()?;
            let pieces = some.par_iter().map(adopt).collect::<Result<Vec<_>>>()?;
            open.notes.settle(writer, &pieces)?;
            whole += pieces.iter().map(|piece| piece.count).sum::<u64>();
            Ok(())
        });
        self.progress.end();
        (whole, result)
    }

    /// The pieces that gaps consist of.
    fn pieces_of(&self, gaps: &[ops::Range<u64>]) -> Result<Vec<(&Source, Piece)>> {
        let mut todo = Vec::new();
        for source in self.sources {
            for piece in &source.pieces {
                let within = |gap: &ops::Range<u64>| gap.start <= piece.first && piece.end() <= gap.end;
                let beside = |gap: &ops::Range<u64>| gap.end <= piece.first || piece.end() <= gap.start;
                if gaps.iter().any(within) {
                    todo.push((source, *piece));
                } else if !gaps.iter().all(beside) {
                    return Err(Error::usage(
                        "`Plan::out` holds an unfinished job that has some images of a shard and lacks others",
                        "Go on with its own call and `Existing::Resume`, or begin again with `Existing::Overwrite`.",
                    ));
                }
            }
        }
        Ok(todo)
    }

    /// Copies all images into one file.
    fn copy_to_one(&self, in_one: &InOne, to: &mut dyn std::io::Write) -> Result<()> {
        self.progress.begin("merging", self.count());
        let mut copied = 0;
        for source in self.sources {
            for piece in &source.pieces {
                self.check_stop()?;
                if !(in_one.copy)(&source.site, piece, to)? {
                    return Err(source.unlike(piece));
                }
                copied += piece.count;
                self.progress.update(copied, "");
            }
        }
        self.progress.end();
        to.write_all(in_one.end).map_err(Error::io("write to", "the file".as_ref()))
    }

    fn check_stop(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Interrupted(
                "not all images are copied. The same call goes on, or begins again where they go into one tar file."
                    .to_string(),
            )),
            false => Ok(()),
        }
    }
}

impl Source {
    fn unlike(&self, piece: &Piece) -> Error {
        Error::invalid_file(
            &self.site.path,
            unlike(&self.site, piece),
            "The own call of its shard with `Existing::Resume` makes again what is not whole.",
        )
    }
}

/// The classes of all images, if their files have them in one place.
fn labels(sources: &[Source]) -> Option<Labels> {
    let told: Option<Vec<&Labels>> = sources.iter().map(|source| source.site.labels.as_ref()).collect();
    let told = told.filter(|told| !told.is_empty())?;
    let all = sources.iter().zip(&told).flat_map(|(source, labels)| source.site.share.places().map(|place| labels.at(place)));
    Labels::of_files(told[0].classes() as u64, sources[0].site.share.places().start, all.collect())
}

/// What a manifest or a journal says that bytes depend on, without what it says of its files and some other keys.
fn identity(facts: &Value, without: &[&str]) -> Value {
    const OF_FILES: [&str; 8] = ["count", "pixels_crc32", "blocks", "bytes", "files", "file", "journal", "replaces"];
    let is_of_job = |key: &String| !OF_FILES.contains(&key.as_str()) && !without.contains(&key.as_str());
    let facts = facts.as_object().into_iter().flatten();
    Value::Object(facts.filter(|(key, _)| is_of_job(key)).map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// All shards of which something is there.
fn look(places: &[PathBuf]) -> Result<Vec<Found>> {
    let mut seen = BTreeMap::new();
    for manifest in places.iter().map(|place| manifests(place)).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
        let parent = manifest.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
        let at = fs::canonicalize(parent).map_err(Error::io("read folder", parent))?.join(name_of(&manifest));
        seen.entry(at).or_insert(manifest);
    }
    seen.into_values().map(found).filter_map(Result::transpose).collect()
}

/// What a manifest or its journal says; `None` if they are no shard's.
fn found(path: PathBuf) -> Result<Option<Found>> {
    let folder = Folder::open(path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))?;
    let journal = PathBuf::from(format!(".{}.journal", name_of(&path).display()));
    let journal = Journal::look(&folder, &journal)?;
    let is_held = journal.as_ref().is_some_and(|(_, pid)| pid.is_some());
    let (facts, state) = match (manifest::find(&folder, &path)?.filter(|_| !is_held), journal) {
        (Some(facts), _) => (Some(facts), State::Finished),
        (None, Some((jobs, pid))) => (jobs.into_iter().next(), if pid.is_some() { State::AtWork } else { State::Begun }),
        (None, None) => return Ok(None),
    };
    let shard = facts.and_then(|facts| Some((Output::of_shard(&path, &facts)?, facts)));
    Ok(shard.map(|(output, facts)| Found { path, output, facts, state }))
}

/// The manifests of shards that may be at a place, which is a folder, or a shard's file or manifest.
fn manifests(place: &Path) -> Result<Vec<PathBuf>> {
    if !place.is_dir() {
        let own = match place.extension() {
            Some(ending) if ending == "json" => place.to_path_buf(),
            _ => PathBuf::from(format!("{}.json", place.display())),
        };
        fs::metadata(place).map_err(Error::io("read", place))?;
        return Ok(vec![own]);
    }
    let names = entries(place)?.into_iter().map(|(name, _)| name);
    let told = names.map(|name| match name.strip_prefix('.').and_then(|name| name.strip_suffix(".journal")) {
        Some(manifest) => manifest.to_string(),
        None => name,
    });
    Ok(told.filter(|name| is_of_shard(name)).map(|name| place.join(name)).collect())
}

/// Whether a manifest of this name can be a shard's: `NAME-3-of-8.json`, or an array's, `NAME-3-of-8.npy.json`.
fn is_of_shard(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".json") else { return false };
    let stem = stem.rsplit_once('.').filter(|(_, ending)| Format::of_file(ending).is_some()).map_or(stem, |(stem, _)| stem);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = stem.rsplit_once("-of-").and_then(|(before, of)| Some((before.rsplit_once('-')?.1, of)));
    parts.is_some_and(|(index, of)| is_number(index) && is_number(of))
}

/// That there are no shards.
fn none(places: &[PathBuf], format: Option<Format>) -> Error {
    let named: Vec<String> = places.iter().map(|place| text::path(place)).collect();
    let what = format.map_or("no shards".to_string(), |format| format!("no shards in format {}", format.name()));
    Error::invalid(
        named.join(", "),
        format!("there are {what} here"),
        "Name the folders that calls with `Plan::shard` have written to, or the files that they have made.",
    )
}
