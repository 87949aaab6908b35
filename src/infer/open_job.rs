//! What there is of a job: which of its files are there, which images of them are whole, and what a job that begins, goes on or takes
//! another's place does about it.
//!
//! While a job is at work, a hidden journal lies beside the images. What it names is whole, and on the disk. A finished job has a manifest
//! instead. Before that is written, what is there is compared with what should be.

use std::fs::File;
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use serde_json::Value;

use super::folder::{Folder, entries, name_of};
use super::journal::{Header, Journal, Resumed, difference};
use super::labels::Labels;
use super::manifest;
use super::output::Output;
use super::piece::{DonePieces, Piece};
use super::rivals;
use super::sinks::Format;
use super::sinks::sink::{Copied, Depth, Naming, Open, Site, Store};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::text;

/// What to do about something that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Refuse it.
    #[default]
    Refuse,
    /// Go on with the same job; begin it where there is nothing.
    Resume,
    /// Write over it.
    Overwrite,
}

/// Refuses to begin where there is something of this job, finished or not, or files of its names.
pub(super) fn refuse_occupied(output: &Output) -> Result<()> {
    let has_journal = output.sink().in_one_go().is_none();
    if has_journal && output.journal().symlink_metadata().is_ok() {
        return Err(Error::usage(
            format!("{} holds an unfinished job", text::path(output.folder())),
            "Go on with it: the same call with `Existing::Resume`. Or begin again with `Existing::Overwrite`.",
        ));
    }
    refuse_finished(output)
}

/// Refuses to write over files of these names.
fn refuse_finished(output: &Output) -> Result<()> {
    let there = |path: &Path| path.symlink_metadata().is_ok();
    let mut of_many = 0;
    output.each(&mut |folder| entries(&output.path().join(folder)), &mut |_| {
        of_many += 1;
        Ok(())
    })?;
    let path = output.path();
    let manifest = output.sink().in_one_go().is_none().then(|| output.manifest()).filter(|manifest| there(manifest));
    let what = match (output.sink().naming(), manifest) {
        (Naming::Folder { files, .. }, _) if of_many > 0 => {
            format!("{} holds {of_many} of these {files} already", text::path(path))
        }
        (Naming::File { .. }, _) if there(path) => format!("{} exists already", text::path(path)),
        (_, Some(manifest)) => format!("{} exists already", text::path(&manifest)),
        (_, None) => return Ok(()),
    };
    Err(Error::usage(
        what,
        "Choose another `Plan::out`, or give `Existing::Overwrite`, which replaces the job there with all of its files.",
    ))
}

/// A job at its place.
pub(super) struct OpenJob {
    /// `None` if there is nothing left to make.
    pub writer: Option<Writer>,
    pub notes: Notes,
    output: Output,
    site: Arc<Site>,
    identity: Value,
}

/// The half of an open job that all workers share.
pub(super) struct Writer {
    /// Where the files are, if they are in a folder.
    folder: Option<Arc<Folder>>,
    store: Box<dyn Store>,
    /// Whether there may be files that the journal does not name.
    begun: AtomicBool,
}

/// The half of an open job that one thread keeps: the journal, of all formats that are not made in one go.
pub(super) struct Notes(Option<Journal>);

impl OpenJob {
    /// Creates what the images go into, and so finds out whether that is possible; or opens it again. `identity` says
    /// which job it is: a JSON object, equal for equal bytes.
    pub fn open(
        output: &Output,
        existing: Existing,
        identity: Value,
        shape: [usize; 3],
        labels: Option<Labels>,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let (sink, share) = (output.sink(), output.share().clone());
        sink.check_size(share.count(), shape, &Format::not_in_one_go())?;
        let folder = Arc::new(Folder::open(output.folder())?);
        sink.check_folder(&folder)?;
        let (path, part) = (output.path().to_path_buf(), output.part());
        let site = Arc::new(Site { share, shape, folder, path, part, labels });
        if existing != Existing::Resume {
            sink.check_room(&site)?;
        }
        let opening = Opening { output, identity: &identity, site: &site, progress, stop };
        let Opened { store, journal } = match existing {
            _ if sink.in_one_go().is_some() => Opened { store: Some(sink.create(&site)?), journal: None },
            Existing::Resume => opening.resume()?,
            Existing::Overwrite => opening.overwrite()?,
            Existing::Refuse => opening.begin()?,
        };
        let writer = store.map(|store| Writer { folder: Some(Arc::clone(&site.folder)), store, begun: AtomicBool::new(false) });
        Ok(Self { writer, notes: Notes(journal), output: output.clone(), site, identity })
    }

    /// What is not made yet.
    pub fn gaps(&self) -> Vec<ops::Range<u64>> {
        let whole = self.site.share.places();
        match (&self.writer, &self.notes.0) {
            (None, _) => Vec::new(),
            (Some(_), Some(journal)) => journal.done.gaps(&whole),
            (Some(_), None) => vec![whole],
        }
    }

    /// How many images are whole, and noted; `None` where there is no journal.
    pub fn count(&self) -> Option<u64> {
        self.notes.0.as_ref().map(|journal| journal.done.count())
    }

    /// All images are there: gives single files their final names, looks whether all is there that should be, and writes the manifest.
    pub fn finish(self) -> Result<()> {
        let Self { writer, notes: Notes(journal), output, site, identity } = self;
        let store = writer.map(|writer| writer.store);
        let Some(mut journal) = journal else {
            return store.map_or(Ok(()), |mut store| store.close(None));
        };
        if !site.folder.is_in_place() {
            return Err(site.folder.gone());
        }
        let pieces = journal.pieces()?;
        let store = match store {
            Some(mut store) => {
                store.close(journal.done.all(&site.share.places()))?;
                Some(store)
            }
            None => output.sink().find(&site)?,
        };
        let holds = |piece: &Piece| store.as_ref().map_or(Ok(false), |store| store.holds(piece, Depth::Sizes));
        let there = pieces.par_iter().map(holds).collect::<Result<Vec<_>>>()?;
        let lost: u64 = pieces.iter().zip(there).filter(|(_, there)| !there).map(|(piece, _)| piece.count).sum();
        if lost > 0 || journal.done.count() < site.share.count() {
            return Err(site.removed(lost));
        }
        manifest::write(&output, &site.folder, &manifest::of(output.sink(), &site, &identity, &pieces))?;
        journal.remove()
    }

    /// The job ends here. What is done stays for [`Existing::Resume`]; if nothing is, nothing stays.
    pub fn abandon(self) {
        let Self { writer, notes: Notes(journal), .. } = self;
        let Some(journal) = journal.filter(|journal| journal.done.count() == 0) else { return };
        // The journal says that files are nobody else's.
        let stays = writer.is_some_and(|writer| !writer.store.discard() && writer.begun.load(Ordering::Relaxed));
        if !stays {
            let _ = journal.remove(); // whatever made the job end is the error to report
        }
    }
}

impl Writer {
    /// For files that are in no folder, and noted by the store itself.
    #[cfg(feature = "object-store")]
    pub fn of(store: Box<dyn Store>) -> Self {
        Self { folder: None, store, begun: AtomicBool::new(false) }
    }

    /// Whether a piece is there as it was written.
    #[cfg(feature = "object-store")]
    pub fn holds(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        self.store.holds(piece, depth)
    }

    /// Whether what is made still arrives where it should.
    ///
    /// # Errors
    /// When the folder was moved or removed.
    pub fn check_place(&self) -> Result<()> {
        match &self.folder {
            Some(folder) if !folder.is_in_place() => Err(folder.gone()),
            _ => Ok(()),
        }
    }

    /// Begins the piece at some places; any thread, any order of pieces.
    pub fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>> {
        self.begun.store(true, Ordering::Relaxed);
        self.store.begin(places)
    }

    /// Copies a piece that another job has made at `from`; `false` if it is not there as it says.
    pub fn adopt(&self, from: &Arc<Site>, piece: &Piece, copied: &Copied) -> Result<bool> {
        self.begun.store(true, Ordering::Relaxed);
        self.store.adopt(from, piece, copied)
    }
}

impl Notes {
    /// Where nothing is noted here.
    #[cfg(feature = "object-store")]
    pub fn none() -> Self {
        Self(None)
    }

    /// Notes pieces that are written, once they are on the disk.
    pub fn settle(&mut self, writer: &Writer, pieces: &[Piece]) -> Result<()> {
        let Some(journal) = self.0.as_mut().filter(|_| !pieces.is_empty()) else { return Ok(()) };
        writer.store.sync(pieces).map_err(|e| match &writer.folder {
            Some(folder) => folder.failed("write to", Path::new(""))(e),
            None => Error::io("write to", "the store".as_ref())(e),
        })?;
        journal.add(pieces)
    }
}

/// What a manifest's job still has.
enum Finished {
    /// Everything.
    Whole,
    /// These pieces, and the manifest itself may be damaged.
    Parts(Vec<Piece>),
}

/// An open job.
struct Opened {
    /// `None` if there is nothing left to make.
    store: Option<Box<dyn Store>>,
    /// `None` if there is nothing to be noted.
    journal: Option<Journal>,
}

/// What to open a job with.
#[derive(Clone, Copy)]
struct Opening<'a> {
    output: &'a Output,
    identity: &'a Value,
    site: &'a Arc<Site>,
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

impl Opening<'_> {
    /// The name of the journal.
    fn name(&self) -> PathBuf {
        name_of(&self.output.journal())
    }

    fn folder(&self) -> &Arc<Folder> {
        &self.site.folder
    }

    fn create(&self) -> Result<Box<dyn Store>> {
        self.output.sink().create(self.site)
    }

    fn header(&self, replaces: Option<Vec<Value>>) -> Header {
        Header { identity: self.identity.clone(), replaces }
    }

    /// A journal for a job that begins, in place of `old` if that is there.
    fn journal(&self, replaces: Option<Vec<Value>>, old: Option<&File>) -> Result<Journal> {
        Journal::create(self.folder(), &self.name(), &self.header(replaces), self.site.image(), old)
    }

    /// Begins a job where there is none.
    fn begin(self) -> Result<Opened> {
        let Self { output, .. } = self;
        let journal = self.journal(None, None)?;
        // Now that nobody else can: what was looked at when the plan was made may have changed.
        let begun = self.refuse_others().and_then(|()| refuse_finished(output)).and_then(|()| self.tidy());
        or_nothing(begun.and_then(|()| self.create()), journal)
    }

    /// Begins a job in place of what is there.
    fn overwrite(self) -> Result<Opened> {
        let (output, folder) = (self.output, self.folder());
        // Held until the new one is there, so that nobody takes up the old one.
        let old = Journal::hold(folder, &self.name())?;
        rivals::refuse_at_work(folder, &rivals::find(output, folder)?)?;
        let before = rivals::before(output, folder, old.as_ref())?;
        let mut journal = self.journal(Some(before.clone()), old.as_ref())?;
        // A journal that says what is still to be removed stays if this fails.
        self.replace(&mut journal, &before)?;
        or_nothing(self.tidy().and_then(|()| self.create()), journal)
    }

    /// Removes what this job replaces. Nothing has been made before that.
    fn replace(&self, journal: &mut Journal, before: &[Value]) -> Result<()> {
        let (output, folder) = (self.output, self.folder());
        rivals::replace(output, folder, before, &rivals::find(output, folder)?, self.progress)?;
        manifest::forget(output, folder)?;
        journal.restart(&self.header(None))
    }

    /// Goes on with a job as far as it holds; begins it where there is none.
    fn resume(self) -> Result<Opened> {
        let (share, folder, name) = (&self.site.share, self.folder(), self.name());
        let found = self.output.sink().find(self.site)?;
        let resumed = self.checking(found.as_deref(), |holds| {
            Journal::resume(folder, &name, self.identity, &share.places(), self.site.image(), holds)
        })?;
        match resumed {
            Some(resumed) => self.go_on(resumed, found),
            None if folder.is_taken(&name) && folder.length(&name).is_none() => Err(Error::invalid_file(
                &self.output.journal(),
                "the job's journal is a link or a folder, which is not believed",
                "Put the journal itself there, or begin again with `Existing::Overwrite`.",
            )),
            None => self.restore(found),
        }
    }

    /// Goes on with a job that has a journal, and with what there is of it.
    fn go_on(self, resumed: Resumed, found: Option<Box<dyn Store>>) -> Result<Opened> {
        let Resumed { mut journal, replaces, mut lost } = resumed;
        self.tidy()?;
        let begins = replaces.is_some() && lost == Some(0);
        match replaces {
            Some(before) => self.replace(&mut journal, &before)?,
            None => self.refuse_others()?,
        }
        let (is_final, is_whole) = match (&found, journal.done.all(&self.site.share.places())) {
            // Killed when it had its final name already.
            (Some(store), Some(all)) if store.is_final() => (true, store.is_closed(&all)?),
            (Some(store), _) => (store.is_final(), false),
            (None, _) => (false, false),
        };
        if is_final && !is_whole {
            // The file that it was to go on with is gone, or not there yet.
            journal.restart(&self.header(None))?;
            lost = lost.filter(|_| begins);
        }
        self.tell(lost, journal.done.count());
        let store = match found {
            _ if is_whole => None,
            Some(store) if !is_final => {
                store.reopen()?;
                Some(store)
            }
            _ => Some(self.create()?),
        };
        Ok(Opened { store, journal: Some(journal) })
    }

    /// Says how many images that were made before are lost, if any are; `None` if that cannot be told.
    fn tell(&self, lost: Option<u64>, kept: u64) {
        let why = self.why_more();
        match lost {
            Some(0) => {}
            Some(lost) => self.progress.say(&format!(
                "not all that was made before is whole any more: {lost} images are made again, {kept} are kept{why}"
            )),
            None => self.progress.say(&format!(
                "not all that was made before can be vouched for any more: {kept} images are kept, the others are made again{why}"
            )),
        }
    }

    /// What is to be added to a message that images are made again, some of which may be there.
    fn why_more(&self) -> String {
        self.output.sink().why_more().map_or(String::new(), |why| format!(" ({why})"))
    }

    /// Makes again what a finished job has lost; begins it where there is none.
    fn restore(self, found: Option<Box<dyn Store>>) -> Result<Opened> {
        let (output, folder, name) = (self.output, self.folder(), self.name());
        let pieces = match self.checking(found.as_deref(), |holds| self.finished(found.as_deref(), holds))? {
            Some(Finished::Whole) => {
                // A call that overwrites may have been killed before it began.
                folder.remove(&name).map_err(folder.failed("remove", &name))?;
                return Ok(Opened { store: None, journal: None });
            }
            Some(Finished::Parts(pieces)) => Some(pieces),
            None => None,
        };
        self.refuse_others()?;
        // A journal that broke off before it said what it is.
        let old = Journal::hold(folder, &name)?;
        let mut journal = self.journal(None, old.as_ref())?;
        let Some(pieces) = pieces else {
            let begun = refuse_finished(output).and_then(|()| self.create());
            return or_nothing(begun, journal);
        };
        let kept = match output.sink().naming() {
            Naming::Folder { .. } => pieces,
            // Made anew as a whole: what is there has its name already, and stays until it is replaced.
            Naming::File { .. } => Vec::new(),
        };
        journal.add(&kept)?;
        manifest::forget(output, folder)?;
        let count = self.site.share.count();
        self.progress.say(&format!(
            "{} says that the job is done, but not all is as it says: {} of {count} images are made again{}",
            text::path(&output.manifest()),
            count - journal.done.count(),
            self.why_more()
        ));
        Ok(Opened { store: Some(self.create()?), journal: Some(journal) })
    }

    /// What of a finished job is there, of which `holds` says whether a piece is whole. `None` if there is no manifest.
    ///
    /// # Errors
    /// When the manifest is another job's, or none.
    fn finished(&self, found: Option<&dyn Store>, holds: impl Fn(&Piece) -> Result<bool> + Sync) -> Result<Option<Finished>> {
        let (sink, site, path) = (self.output.sink(), &**self.site, self.output.manifest());
        let Some(told) = manifest::find(&site.folder, &path)? else { return Ok(None) };
        if let Some(difference) = difference(&told, self.identity) {
            let what = format!("{} is of another job: {difference}", text::path(&path));
            return Err(Error::usage(what, "Choose another `Plan::out`, or begin again with `Existing::Overwrite`."));
        }
        let Some(pieces) = sink.described(site, &told) else {
            let of_earlier = if sink.has_size(site, &told) { Finished::Whole } else { Finished::Parts(Vec::new()) };
            return Ok(Some(of_earlier));
        };
        let places = site.share.places();
        let inside = |piece: &Piece| {
            let end = piece.first.checked_add(piece.count);
            places.start <= piece.first && piece.count > 0 && end.is_some_and(|end| end <= places.end)
        };
        let hold = |piece: &Piece| if inside(piece) { holds(piece) } else { Ok(false) };
        let holds: Vec<bool> = pieces.par_iter().map(hold).collect::<Result<_>>()?;
        let mut done = DonePieces::new(site.image());
        let kept = pieces.into_iter().zip(holds).filter(|(piece, holds)| *holds && done.add(*piece));
        let kept: Vec<Piece> = kept.map(|(piece, _)| piece).collect();
        let closed = match (found, done.all(&places)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(store), Some(all)) => store.is_closed(&all)?,
        };
        let mut expected = manifest::of(sink, site, self.identity, &kept);
        expected["model"] = told["model"].clone(); // what the file is called decides on nothing
        Ok(Some(if closed && expected == told { Finished::Whole } else { Finished::Parts(kept) }))
    }

    /// Looks with `look` at what was made before, at every byte of it, which takes time.
    fn checking<T>(
        &self,
        found: Option<&dyn Store>,
        look: impl FnOnce(&(dyn Fn(&Piece) -> Result<bool> + Sync)) -> Result<T>,
    ) -> Result<T> {
        let (total, looked) = (self.site.share.count(), AtomicU64::new(0));
        self.progress.begin("checking what was made before", total);
        let checked = look(&|piece| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted("what was made before was being looked at; nothing has changed.".to_string()));
            }
            let holds = found.map_or(Ok(false), |store| store.holds(piece, Depth::Contents))?;
            let looked = looked.fetch_add(piece.count, Ordering::Relaxed).saturating_add(piece.count);
            self.progress.update(looked.min(total), "");
            Ok(holds)
        });
        self.progress.end();
        checked
    }

    /// Refuses to begin, or to go on, beside others that make files of the same names, or shards of this job's as if it were another.
    fn refuse_others(&self) -> Result<()> {
        rivals::refuse(self.folder(), &rivals::find(self.output, self.folder())?)?;
        rivals::refuse_mixture(self.output, self.folder(), self.identity)
    }

    /// Removes what a killed program has left of journals that were to take this one's place.
    fn tidy(&self) -> Result<()> {
        let (folder, begins) = (self.folder(), format!("{}.", self.name().display()));
        let names = folder.names(Path::new("")).map_err(folder.failed("read", Path::new("")))?;
        let left = names.iter().map(|(name, _)| Path::new(name)).filter(|name| name.to_string_lossy().starts_with(&begins));
        left.into_iter().try_for_each(|name| folder.remove(name).map_err(folder.failed("remove", name)))
    }
}

/// What was begun; if it failed, without its journal.
fn or_nothing(begun: Result<Box<dyn Store>>, journal: Journal) -> Result<Opened> {
    match begun {
        Ok(store) => Ok(Opened { store: Some(store), journal: Some(journal) }),
        Err(e) => {
            let _ = journal.remove(); // the first error is the one to report
            Err(e)
        }
    }
}
