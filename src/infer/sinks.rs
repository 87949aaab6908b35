//! Where samples go: a folder of PNG files, a NumPy file, WebDataset shards, or a contact sheet; beside all but the sheet a
//! manifest of what was made and how.
//!
//! While a job is at work, a hidden journal lies beside the images. What it names is whole, and on the disk. Files of many images have
//! another name until they are whole; a PNG file that was being written when the program was killed may be incomplete, and
//! `--resume` writes it again. Before the manifest is written, what is there is compared with what should be.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range as Span;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use serde_json::Value;

use super::check::{self, Depth, Files, Finished};
use super::folder::Folder;
use super::journal::{Header, Journal, Resumed};
use super::piece::Piece;
use super::plan::{BLOCK, Existing, Format, Plan, file_name, image_name, is_subfolder, name_of};
use super::rivals;
use crate::error::{Error, Result};
use crate::image::{self, Images};
use crate::progress::Progress;
use crate::text;

/// A contact sheet may have this many pixels: what common viewers open.
const MAX_SHEET: u64 = 100_000_000;
/// Bytes of pixels in one file: what file systems have room for at most.
const MAX_ARRAY: u64 = 1 << 62;

/// An open destination.
pub(super) struct Sink {
    pub writer: Writer,
    pub notes: Notes,
    identity: Value,
}

/// The half of a sink that all workers share.
pub(super) struct Writer {
    plan: Plan,
    shape: [usize; 3],
    folder: Arc<Folder>,
    to: To,
    /// Whether there may be files that the journal does not name.
    begun: AtomicBool,
}

/// The half of a sink that one thread keeps: the journal, of all formats but the contact sheet.
pub(super) struct Notes(Option<Journal>);

enum To {
    Folder,
    Tars,
    Array {
        file: File,
        /// Where the pixels begin.
        data_at: u64,
    },
    Sheet(Mutex<Vec<u8>>),
    /// There is nothing left to do.
    Finished,
}

impl Sink {
    /// Creates what the images go into, and so finds out whether that is possible; or opens it again. `identity` says
    /// which job it is: a JSON object, equal for equal bytes.
    pub fn open(plan: &Plan, identity: Value, shape: [usize; 3], progress: &dyn Progress, stop: &AtomicBool) -> Result<Self> {
        check_size(plan, shape)?;
        let folder = Arc::new(Folder::open(plan.folder())?);
        refuse_links(plan, &folder)?;
        let opening = Opening { plan, identity: &identity, shape, folder: &folder, progress, stop };
        let (to, journal) = match (plan.format(), plan.existing()) {
            (Format::Grid, _) => (create(plan, shape, &folder)?, None),
            (_, Existing::Resume) => opening.resume()?,
            (_, Existing::Overwrite) => opening.overwrite().map(|(to, journal)| (to, Some(journal)))?,
            (_, Existing::Refuse) => opening.begin().map(|(to, journal)| (to, Some(journal)))?,
        };
        let writer = Writer { plan: plan.clone(), shape, folder, to, begun: AtomicBool::new(false) };
        Ok(Self { writer, notes: Notes(journal), identity })
    }

    /// What is not made yet.
    pub fn gaps(&self) -> Vec<Span<u64>> {
        let whole = self.writer.plan.places();
        match (&self.writer.to, &self.notes.0) {
            (To::Finished, _) => Vec::new(),
            (_, Some(journal)) => journal.done.gaps(&whole),
            (_, None) => vec![whole],
        }
    }

    /// How many images are whole, and noted; `None` where there is no journal.
    pub fn count(&self) -> Option<u64> {
        self.notes.0.as_ref().map(|journal| journal.done.count())
    }

    /// All images are there: gives single files their final names, looks whether all is there that should be, and writes the manifest.
    pub fn finish(self) -> Result<()> {
        let Self { writer: Writer { plan, shape, to, folder, .. }, notes: Notes(journal), identity } = self;
        let Some(mut journal) = journal else {
            return match to {
                To::Sheet(pixels) => save_sheet(&plan, shape, pixels.into_inner().unwrap_or_else(PoisonError::into_inner)),
                _ => Ok(()),
            };
        };
        if !folder.is_in_place() {
            return Err(folder.gone());
        }
        let pieces = journal.pieces()?;
        let array = match to {
            To::Array { file, .. } => Some(close_array(&plan, shape, &folder, file, journal.done.all(&plan.places()))?),
            To::Finished => reopen(&plan, &folder)?.map(|(file, _)| file),
            _ => None,
        };
        let files = Files { plan: &plan, folder: &folder, shape, array: array.as_ref() };
        let there = pieces.par_iter().map(|piece| files.hold(piece, Depth::Sizes)).collect::<Result<Vec<_>>>()?;
        let lost: u64 = pieces.iter().zip(there).filter(|(_, there)| !there).map(|(piece, _)| piece.count).sum();
        if lost > 0 || journal.done.count() < plan.count() {
            return Err(removed(&plan, lost));
        }
        write_manifest(&plan, &folder, &check::manifest(&plan, &identity, &pieces, shape))?;
        journal.remove()
    }

    /// The job ends here. What is done stays for [`Existing::Resume`]; if nothing is, nothing stays.
    pub fn abandon(self) {
        let Self { writer, notes: Notes(journal), .. } = self;
        let Some(journal) = journal.filter(|journal| journal.done.count() == 0) else { return };
        // Whatever made the job end is the error to report.
        match writer.to {
            To::Array { .. } => drop(writer.folder.remove(&name_of(&writer.plan.part()))),
            // The journal says that these files are nobody else's.
            _ if writer.begun.load(Ordering::Relaxed) => return,
            _ => {}
        }
        let _ = journal.remove();
    }
}

impl Notes {
    /// Notes pieces that are written, once they are on the disk.
    pub fn settle(&mut self, writer: &Writer, pieces: &[Piece]) -> Result<()> {
        let Some(journal) = self.0.as_mut().filter(|_| !pieces.is_empty()) else { return Ok(()) };
        writer.sync(pieces)?;
        journal.add(pieces)
    }
}

/// A piece under way: images come in the order of their places.
pub(super) struct Open<'a> {
    writer: &'a Writer,
    next: u64,
    /// What is finished of it, and noted apart: a folder's images are vouched for in blocks.
    whole: Vec<Piece>,
    first: u64,
    pixels: crc32fast::Hasher,
    files: crc32fast::Hasher,
    bytes: u64,
    tar: Option<Tar>,
}

/// A tar file until it is whole.
struct Tar {
    builder: tar::Builder<BufWriter<Summed>>,
    folder: Arc<Folder>,
    part: PathBuf,
    name: PathBuf,
}

/// A file that sums up what is written to it.
struct Summed {
    file: File,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.crc.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Writer {
    /// Begins the piece at some places; any thread, any order of pieces.
    pub fn begin(&self, places: Span<u64>) -> Result<Open<'_>> {
        self.begun.store(true, Ordering::Relaxed);
        let tar = match &self.to {
            To::Tars => Some(Tar::create(&self.folder, self.plan.tar_file(places.start))?),
            _ => None,
        };
        let (first, crc) = (places.start, crc32fast::Hasher::new);
        Ok(Open { writer: self, next: first, whole: Vec::new(), first, pixels: crc(), files: crc(), bytes: 0, tar })
    }

    fn image(&self) -> usize {
        self.shape.iter().product()
    }

    fn png(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let [height, width, channels] = self.shape;
        image::encode_png(pixels, height, width, channels)
    }

    /// Waits until pieces are on the disk.
    fn sync(&self, pieces: &[Piece]) -> Result<()> {
        let failed = |e| self.folder.failed("write to", Path::new(""))(e);
        match &self.to {
            To::Array { file, .. } => file.sync_data().map_err(failed),
            To::Tars => self.folder.sync(pieces.iter().map(|piece| self.plan.tar_file(piece.first))).map_err(failed),
            To::Folder => {
                let places = pieces.iter().flat_map(Piece::places);
                self.folder.sync(places.map(|place| image_name(self.plan.selection().name(place)))).map_err(failed)
            }
            To::Sheet(_) | To::Finished => Ok(()),
        }
    }
}

impl Open<'_> {
    /// Writes the next images of the piece.
    pub fn put(&mut self, pixels: &[u8]) -> Result<()> {
        let image = self.writer.image();
        match &self.writer.to {
            To::Folder | To::Tars => return pixels.chunks_exact(image).try_for_each(|pixels| self.put_png(pixels)),
            To::Array { file, data_at } => {
                let at = data_at + (self.next - self.writer.plan.places().start) * image as u64;
                write_at(file, pixels, at).map_err(Error::io("write", &self.writer.plan.part()))?;
                self.bytes += pixels.len() as u64;
            }
            To::Sheet(sheet) => {
                let at = (self.next - self.writer.plan.places().start) as usize * image;
                lock(sheet)[at..at + pixels.len()].copy_from_slice(pixels);
            }
            To::Finished => {}
        }
        self.pixels.update(pixels);
        self.next += (pixels.len() / image) as u64;
        Ok(())
    }

    fn put_png(&mut self, pixels: &[u8]) -> Result<()> {
        let plan = &self.writer.plan;
        let number = plan.selection().name(self.next);
        let png = self.writer.png(pixels)?;
        match &mut self.tar {
            Some(tar) => tar.add(&file_name(number), &png)?,
            None => {
                create_file(&self.writer.folder, &image_name(number), &png)?;
                self.bytes += png.len() as u64;
                self.files.update(&png);
            }
        }
        self.pixels.update(pixels);
        self.next += 1;
        if self.tar.is_none() && self.next.is_multiple_of(BLOCK) {
            self.close();
        }
        Ok(())
    }

    /// What was written since the last time is a piece of its own.
    fn close(&mut self) {
        let crc = |hasher: &mut crc32fast::Hasher| std::mem::take(hasher).finalize();
        let (count, pixels) = (self.next - self.first, crc(&mut self.pixels));
        let files = if matches!(self.writer.to, To::Array { .. }) { pixels } else { crc(&mut self.files) };
        if count > 0 {
            self.whole.push(Piece { first: self.first, count, pixels, bytes: self.bytes, files });
        }
        (self.first, self.bytes) = (self.next, 0);
    }

    /// The piece is whole.
    pub fn finish(mut self) -> Result<Vec<Piece>> {
        if let Some(tar) = self.tar.take() {
            (self.bytes, self.files) = tar.finish()?;
        }
        self.close();
        Ok(std::mem::take(&mut self.whole))
    }
}

/// Half a tar file is of no use; it may be why there is no space.
impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(Tar { builder, folder, part, .. }) = self.tar.take() {
            drop(builder);
            let _ = folder.remove(&part); // there is a reason to report already
        }
    }
}

impl Tar {
    fn create(folder: &Arc<Folder>, name: PathBuf) -> Result<Self> {
        let part = name.with_extension("tar.part");
        let file = folder.create(&part).map_err(folder.failed("write", &part))?;
        let summed = Summed { file, crc: crc32fast::Hasher::new(), bytes: 0 };
        Ok(Self { builder: tar::Builder::new(BufWriter::new(summed)), folder: Arc::clone(folder), part, name })
    }

    /// A file like any other of that name and those bytes: no time, no owner.
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.builder.append_data(&mut header, name, bytes).map_err(self.folder.failed("write", &self.part))
    }

    /// Gives it its name, and says how many bytes it has, and which.
    fn finish(self) -> Result<(u64, crc32fast::Hasher)> {
        let Self { builder, folder, part, name } = self;
        let written = builder.into_inner().and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        let Summed { crc, bytes, .. } = written.map_err(folder.failed("write", &part))?;
        folder.rename(&part, &name).map_err(folder.failed("write", &name))?;
        Ok((bytes, crc))
    }
}

/// Writes somewhere in a file; any number of threads at a time.
#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to open a job with.
#[derive(Clone, Copy)]
struct Opening<'a> {
    plan: &'a Plan,
    identity: &'a Value,
    shape: [usize; 3],
    folder: &'a Arc<Folder>,
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

impl Opening<'_> {
    /// The name of the journal.
    fn name(&self) -> PathBuf {
        name_of(&self.plan.journal())
    }

    fn image(&self) -> usize {
        self.shape.iter().product()
    }

    fn header(&self, replaces: Option<Vec<Value>>) -> Header {
        Header { identity: self.identity.clone(), replaces }
    }

    /// A journal for a job that begins, in place of `old` if that is there.
    fn journal(&self, replaces: Option<Vec<Value>>, old: Option<&File>) -> Result<Journal> {
        Journal::create(self.folder, &self.name(), &self.header(replaces), self.image(), old)
    }

    /// Looks with `look` at what was made before, at every byte of it, which takes time.
    fn checking<T>(
        &self,
        files: &Files,
        look: impl FnOnce(&(dyn Fn(&Piece) -> Result<bool> + Sync)) -> Result<T>,
    ) -> Result<T> {
        let (total, looked) = (self.plan.count(), AtomicU64::new(0));
        self.progress.begin("checking what was made before", total);
        let checked = look(&|piece| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted("what was made before was being looked at; nothing has changed.".to_string()));
            }
            let holds = files.hold(piece, Depth::Contents)?;
            let looked = looked.fetch_add(piece.count, Ordering::Relaxed).saturating_add(piece.count);
            self.progress.update(looked.min(total), "");
            Ok(holds)
        });
        self.progress.end();
        checked
    }

    /// Begins a job where there is none.
    fn begin(self) -> Result<(To, Journal)> {
        let Self { plan, shape, folder, .. } = self;
        let journal = self.journal(None, None)?;
        // Now that nobody else can: what was looked at when the plan was made may have changed.
        let free = rivals::find(plan, folder).and_then(|others| rivals::refuse(folder, &others));
        let begun =
            free.and_then(|()| plan.refuse_finished()).and_then(|()| self.tidy()).and_then(|()| create(plan, shape, folder));
        or_nothing(begun, journal)
    }

    /// Begins a job in place of what is there.
    fn overwrite(self) -> Result<(To, Journal)> {
        let Self { plan, shape, folder, .. } = self;
        // Held until the new one is there, so that nobody takes up the old one.
        let old = Journal::hold(folder, &self.name())?;
        rivals::refuse_at_work(folder, &rivals::find(plan, folder)?)?;
        let before = rivals::before(plan, folder, old.as_ref())?;
        let mut journal = self.journal(Some(before.clone()), old.as_ref())?;
        // A journal that says what is still to be removed stays if this fails.
        self.replace(&mut journal, &before)?;
        or_nothing(self.tidy().and_then(|()| create(plan, shape, folder)), journal)
    }

    /// Removes what this job replaces. Nothing has been made before that.
    fn replace(&self, journal: &mut Journal, before: &[Value]) -> Result<()> {
        let Self { plan, folder, .. } = *self;
        rivals::replace(plan, folder, before, &rivals::find(plan, folder)?, self.progress)?;
        forget(plan, folder)?;
        journal.restart(&self.header(None))
    }

    /// Goes on with a job as far as it holds; begins it where there is none.
    fn resume(self) -> Result<(To, Option<Journal>)> {
        let Self { plan, shape, folder, .. } = self;
        let array = reopen(plan, folder)?;
        let files = Files { plan, folder, shape, array: array.as_ref().map(|(file, _)| file) };
        let resume = |holds: &(dyn Fn(&Piece) -> Result<bool> + Sync)| {
            Journal::resume(folder, &self.name(), self.identity, &plan.places(), self.image(), holds)
        };
        match self.checking(&files, resume)? {
            Some(resumed) => self.go_on(resumed, array).map(|(to, journal)| (to, Some(journal))),
            None if folder.is_taken(&self.name()) && folder.length(&self.name()).is_none() => Err(Error::invalid_file(
                &plan.journal(),
                "the job's journal is a link or a folder, which is not believed",
                "Put the journal itself there, or begin again with --force.",
            )),
            None => self.mend(array.map(|(file, _)| file)),
        }
    }

    /// Goes on with a job that has a journal.
    fn go_on(self, Resumed { mut journal, replaces, mut lost }: Resumed, array: Option<(File, bool)>) -> Result<(To, Journal)> {
        let Self { plan, shape, folder, progress, .. } = self;
        self.tidy()?;
        let begins = replaces.is_some() && lost == Some(0);
        match replaces {
            Some(before) => self.replace(&mut journal, &before)?,
            None => rivals::refuse(folder, &rivals::find(plan, folder)?)?,
        }
        let files = Files { plan, folder, shape, array: array.as_ref().map(|(file, _)| file) };
        let is_final = array.as_ref().is_some_and(|(_, is_final)| *is_final);
        let is_whole = match journal.done.all(&plan.places()) {
            // Killed when it had its final name already.
            Some(all) if is_final => files.array_is_closed(&all)?,
            _ => false,
        };
        if is_final && !is_whole {
            // The file that it was to go on with is gone, or not there yet.
            journal.restart(&self.header(None))?;
            lost = lost.filter(|_| begins);
        }
        let kept = journal.done.count();
        match lost {
            Some(0) => {}
            Some(lost) => {
                progress.say(&format!("{lost} images that were made before are not whole any more: they are made again"))
            }
            None => progress.say(&format!(
                "not all that was made before can be vouched for any more: {kept} images are kept, the others are made again"
            )),
        }
        let to = match array {
            _ if is_whole => To::Finished,
            Some((file, false)) => rewound(plan, shape, file)?,
            _ => create(plan, shape, folder)?,
        };
        Ok((to, journal))
    }

    /// Makes again what a finished job has lost; begins it where there is none.
    fn mend(self, made: Option<File>) -> Result<(To, Option<Journal>)> {
        let Self { plan, shape, folder, progress, .. } = self;
        let (name, manifest) = (self.name(), name_of(&plan.manifest()));
        let files = Files { plan, folder, shape, array: made.as_ref() };
        let pieces = match self.checking(&files, |holds| check::finished(&files, &manifest, self.identity, holds))? {
            Some(Finished::Whole) => {
                // A call with --force may have been killed before it began.
                folder.remove(&name).map_err(folder.failed("remove", &name))?;
                return Ok((To::Finished, None));
            }
            Some(Finished::Parts(pieces)) => Some(pieces),
            None => None,
        };
        rivals::refuse(folder, &rivals::find(plan, folder)?)?;
        // A journal that broke off before it said what it is.
        let old = Journal::hold(folder, &name)?;
        let mut journal = self.journal(None, old.as_ref())?;
        let Some(pieces) = pieces else {
            let begun = plan.refuse_finished().and_then(|()| create(plan, shape, folder));
            return or_nothing(begun, journal).map(|(to, journal)| (to, Some(journal)));
        };
        // An array is made anew as a whole: what is there has its name already, and stays until it is replaced.
        let kept = if made.is_some() { Vec::new() } else { pieces };
        journal.add(&kept)?;
        forget(plan, folder)?;
        progress.say(&format!(
            "{} says that the job is done, but not all is as it says: {} of {} images are made again",
            text::path(&plan.manifest()),
            plan.count() - journal.done.count(),
            plan.count()
        ));
        Ok((create(plan, shape, folder)?, Some(journal)))
    }

    /// Removes what a killed program has left of journals that were to take this one's place.
    fn tidy(&self) -> Result<()> {
        let begins = format!("{}.", self.name().display());
        let names = self.folder.names(Path::new("")).map_err(self.folder.failed("read", Path::new("")))?;
        let left = names.iter().map(|(name, _)| Path::new(name)).filter(|name| name.to_string_lossy().starts_with(&begins));
        left.into_iter().try_for_each(|name| self.folder.remove(name).map_err(self.folder.failed("remove", name)))
    }
}

/// What was begun; if it failed, without its journal.
fn or_nothing(begun: Result<To>, journal: Journal) -> Result<(To, Journal)> {
    match begun {
        Ok(to) => Ok((to, journal)),
        Err(e) => {
            let _ = journal.remove(); // the first error is the one to report
            Err(e)
        }
    }
}

/// Refuses links where the folders of images should be: what is made would lie elsewhere.
fn refuse_links(plan: &Plan, folder: &Folder) -> Result<()> {
    if plan.format() != Format::Png {
        return Ok(());
    }
    let names = folder.names(Path::new("")).map_err(folder.failed("read", Path::new("")))?;
    match names.iter().find(|(name, is_folder)| !is_folder && is_subfolder(name) && folder.is_link(Path::new(name))) {
        None => Ok(()),
        Some((name, _)) => Err(Error::usage(
            format!("{} is a link, where a folder of images should be", text::path(&folder.join(Path::new(name)))),
            "Remove it, or choose another --out.",
        )),
    }
}

fn create(plan: &Plan, shape: [usize; 3], folder: &Folder) -> Result<To> {
    Ok(match plan.format() {
        Format::Png => To::Folder,
        Format::Tar => To::Tars,
        Format::Npy | Format::Npz => {
            let part = name_of(&plan.part());
            let file = folder.create(&part).map_err(folder.failed("write", &part))?;
            rewound(plan, shape, file)?
        }
        Format::Grid => {
            tempfile::tempfile_in(plan.folder()).map_err(Error::io("write to", plan.folder()))?;
            To::Sheet(Mutex::new(vec![0; plan.count() as usize * shape.iter().product::<usize>()]))
        }
    })
}

/// An array file with what comes before its pixels, for pixels to be written to.
fn rewound(plan: &Plan, shape: [usize; 3], file: File) -> Result<To> {
    let head = check::head(plan, shape);
    write_at(&file, &head, 0).map_err(Error::io("write", &plan.part()))?;
    Ok(To::Array { file, data_at: head.len() as u64 })
}

/// The array file of a job that goes on, and whether it has its final name.
fn reopen(plan: &Plan, folder: &Folder) -> Result<Option<(File, bool)>> {
    if !matches!(plan.format(), Format::Npy | Format::Npz) {
        return Ok(None);
    }
    let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let (part, whole) = (name_of(&plan.part()), name_of(plan.path()));
    match folder.edit(&part) {
        Err(e) if missing(&e) => match folder.read(&whole) {
            Err(e) if missing(&e) => Ok(None),
            file => Ok(Some((file.map_err(folder.failed("read", &whole))?, true))),
        },
        file => Ok(Some((file.map_err(folder.failed("open", &part))?, false))),
    }
}

/// Takes the manifest away: what is written from now on is not what it says.
fn forget(plan: &Plan, folder: &Folder) -> Result<()> {
    let name = name_of(&plan.manifest());
    folder.remove(&name).map_err(folder.failed("remove", &name))
}

/// That images which were made are not there any more at the end.
fn removed(plan: &Plan, lost: u64) -> Error {
    Error::invalid_file(
        plan.path(),
        format!("files with {lost} of the images were removed or changed while the job was at work"),
        "The same call with --resume makes again what is not whole.",
    )
}

/// Writes what surrounds the pixels of an array file, and gives it its name.
fn close_array(plan: &Plan, shape: [usize; 3], folder: &Folder, file: File, all: Option<Piece>) -> Result<File> {
    let (part, whole) = (name_of(&plan.part()), name_of(plan.path()));
    let close = || {
        let ends = check::closing(plan, shape, all.map_or(0, |all| all.pixels));
        ends.iter().try_for_each(|(at, bytes)| write_at(&file, bytes, *at))?;
        file.set_len(check::whole_length(plan, shape))?;
        file.sync_all()
    };
    close().map_err(folder.failed("write", &part))?;
    if !folder.holds(&file, &part) {
        return Err(removed(plan, plan.count()));
    }
    folder.rename(&part, &whole).map_err(folder.failed("write", &whole))?;
    Ok(file)
}

/// The manifest appears whole, and is on the disk when the journal goes.
fn write_manifest(plan: &Plan, folder: &Folder, manifest: &Value) -> Result<()> {
    let (part, name) = (name_of(&plan.manifest_part()), name_of(&plan.manifest()));
    let write = || {
        let mut file = folder.create(&part)?;
        file.write_all(format!("{manifest:#}\n").as_bytes())?;
        file.sync_all()?;
        folder.rename(&part, &name)?;
        folder.sync_names()
    };
    write().map_err(folder.failed("write", &name))
}

fn save_sheet(plan: &Plan, [height, width, channels]: [usize; 3], pixels: Vec<u8>) -> Result<()> {
    let n = plan.count() as usize;
    image::save_grid(&Images { n, height, width, channels, pixels }, Images::square_columns(n), plan.path())
}

/// A small file, written at once under its final name: half the work of a temporary one, and the journal knows which are whole.
fn create_file(folder: &Folder, name: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = folder.create(name).map_err(folder.failed("write", name))?;
    file.write_all(bytes).map_err(|e| {
        let _ = folder.remove(name); // the first error is the one to report
        folder.failed("write", name)(e)
    })
}

/// Refuses what no file can hold.
fn check_size(plan: &Plan, shape: [usize; 3]) -> Result<()> {
    const GAP: u64 = 2;
    let [height, width, _] = shape.map(|side| side as u64);
    let most = (MAX_SHEET / ((height + GAP) * (width + GAP))).max(1);
    if plan.format() == Format::Grid && plan.count() > most {
        return Err(Error::usage(
            format!("a contact sheet of {} images of {height}×{width} pixels is too large to look at", plan.count()),
            format!("Ask for {most} or fewer, or choose --format png, npy, npz or tar."),
        ));
    }
    let bytes = plan.count().checked_mul(shape.iter().product::<usize>() as u64);
    if matches!(plan.format(), Format::Npy | Format::Npz) && bytes.is_none_or(|bytes| bytes > MAX_ARRAY) {
        return Err(Error::usage(
            format!("{} images of {height}×{width} pixels are more than one file can hold", plan.count()),
            "Cut the job up with --shard, or choose --format tar.",
        ));
    }
    Ok(())
}
