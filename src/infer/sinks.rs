//! Where samples go: a folder of PNG files, a NumPy file, WebDataset shards, or a contact sheet; beside all but the sheet a
//! manifest of what was made and how.
//!
//! While a job is at work, a hidden journal lies beside the images. What it names is whole. Files of many images have another
//! name until they are whole; a PNG file that was being written when the program was killed may be incomplete, and
//! `--resume` writes it again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range as Span;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::archive;
use super::journal::{Done, Journal, Piece, difference};
use super::plan::{Existing, Format, Plan, file_name};
use crate::error::{Error, Result};
use crate::files;
use crate::image::{self, Images};

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
    to: To,
    /// Whether there may be files that the journal does not name.
    begun: AtomicBool,
}

/// The half of a sink that one thread keeps: the journal, of all formats but the contact sheet.
pub(super) struct Notes(Option<Journal>);

impl Notes {
    /// Notes a piece that is written.
    pub fn add(&mut self, piece: Piece) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), |journal| journal.add(piece))
    }
}

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
    pub fn open(plan: &Plan, identity: Value, shape: [usize; 3]) -> Result<Self> {
        check_size(plan, shape)?;
        let sink = |to, journal, identity| {
            let writer = Writer { plan: plan.clone(), shape, to, begun: AtomicBool::new(false) };
            Self { writer, notes: Notes(journal), identity }
        };
        files::create_folder(plan.folder())?;
        if plan.format() == Format::Grid {
            return Ok(sink(create(plan, shape)?, None, identity));
        }
        let (at, image) = (plan.journal(), shape.iter().product());
        if plan.existing() == Existing::Resume {
            if let Some(journal) = Journal::resume(&at, &identity, &plan.places(), image)? {
                let to = reopen(plan, shape, &journal.done)?;
                return Ok(sink(to, Some(journal), identity));
            }
            if is_finished(plan, &identity)? {
                return Ok(sink(To::Finished, None, identity));
            }
        }
        let journal = Journal::create(&at, &identity, image, plan.existing() != Existing::Refuse)?;
        // Now that nobody else can: what was looked at when the plan was made may have changed.
        let begun = match plan.existing() {
            Existing::Overwrite => forget(plan),
            _ => plan.refuse_finished(),
        };
        match begun.and_then(|()| create(plan, shape)) {
            Ok(to) => Ok(sink(to, Some(journal), identity)),
            Err(e) => {
                let _ = journal.remove(); // the first error is the one to report
                Err(e)
            }
        }
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

    /// All images are there: gives single files their final names, and writes the manifest.
    pub fn finish(self) -> Result<()> {
        let Self { writer: Writer { plan, shape, to, .. }, notes: Notes(journal), identity } = self;
        let Some(mut journal) = journal else {
            return match to {
                To::Sheet(pixels) => save_sheet(&plan, shape, pixels.into_inner().unwrap_or_else(PoisonError::into_inner)),
                _ => Ok(()),
            };
        };
        if let To::Array { file, .. } = to {
            finish_array(&plan, shape, file, &journal.done)?;
        }
        write_manifest(&plan, identity, &mut journal)?;
        journal.remove()
    }

    /// The job ends here. What is done stays for [`Existing::Resume`]; if nothing is, nothing stays.
    pub fn abandon(self) {
        let Self { writer, notes: Notes(journal), .. } = self;
        let Some(journal) = journal.filter(|journal| journal.done.count() == 0) else { return };
        // Whatever made the job end is the error to report.
        match writer.to {
            To::Array { .. } => drop(fs::remove_file(writer.plan.part())),
            // The journal says that these files are nobody else's.
            _ if writer.begun.load(Ordering::Relaxed) => return,
            _ => {}
        }
        let _ = journal.remove();
    }
}

/// A piece under way: images come in the order of their places.
pub(super) struct Open<'a> {
    writer: &'a Writer,
    places: Span<u64>,
    next: u64,
    crc: crc32fast::Hasher,
    bytes: u64,
    tar: Option<Tar>,
}

/// A tar file until it is whole.
struct Tar {
    builder: tar::Builder<BufWriter<File>>,
    part: PathBuf,
    path: PathBuf,
}

impl Writer {
    /// Begins the piece at some places; any thread, any order of pieces.
    pub fn begin(&self, places: Span<u64>) -> Result<Open<'_>> {
        self.begun.store(true, Ordering::Relaxed);
        let tar = match &self.to {
            To::Tars => Some(Tar::create(self.plan.tar_file(places.start))?),
            _ => None,
        };
        Ok(Open { writer: self, next: places.start, places, crc: crc32fast::Hasher::new(), bytes: 0, tar })
    }

    fn image(&self) -> usize {
        self.shape.iter().product()
    }

    fn png(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let [height, width, channels] = self.shape;
        image::encode_png(pixels, height, width, channels)
    }
}

impl Open<'_> {
    /// Writes the next images of the piece.
    pub fn put(&mut self, pixels: &[u8]) -> Result<()> {
        let image = self.writer.image();
        self.crc.update(pixels);
        match &self.writer.to {
            To::Folder | To::Tars => {
                for (place, pixels) in (self.next..).zip(pixels.chunks_exact(image)) {
                    self.put_png(place, pixels)?;
                }
            }
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
        self.next += (pixels.len() / image) as u64;
        Ok(())
    }

    fn put_png(&mut self, place: u64, pixels: &[u8]) -> Result<()> {
        let plan = &self.writer.plan;
        let number = plan.selection().name(place);
        let png = self.writer.png(pixels)?;
        match &mut self.tar {
            Some(tar) => tar.add(&file_name(number), &png),
            None => {
                self.bytes += png.len() as u64;
                create_file(&plan.folder_of(number), &file_name(number), &png)
            }
        }
    }

    /// The piece is whole.
    pub fn finish(mut self) -> Result<Piece> {
        let bytes = self.tar.take().map_or(Ok(self.bytes), Tar::finish)?;
        let count = self.places.end - self.places.start;
        Ok(Piece { first: self.places.start, count, crc: self.crc.clone().finalize(), bytes })
    }
}

/// Half a tar file is of no use; it may be why there is no space.
impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(tar) = self.tar.take() {
            let part = tar.part.clone();
            drop(tar);
            let _ = fs::remove_file(part); // there is a reason to report already
        }
    }
}

impl Tar {
    fn create(path: PathBuf) -> Result<Self> {
        let part = path.with_extension("tar.part");
        let file = File::create(&part).map_err(Error::io("write", &part))?;
        Ok(Self { builder: tar::Builder::new(BufWriter::new(file)), part, path })
    }

    /// A file like any other of that name and those bytes: no time, no owner.
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.builder.append_data(&mut header, name, bytes).map_err(Error::io("write", &self.part))
    }

    /// Gives it its name, and says how many bytes it has.
    fn finish(self) -> Result<u64> {
        let Self { builder, part, path } = self;
        let written = builder.into_inner().and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        let bytes = written.and_then(|file| file.metadata()).map_err(Error::io("write", &part))?.len();
        fs::rename(&part, &path).map_err(Error::io("write", &path))?;
        Ok(bytes)
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

fn create(plan: &Plan, shape: [usize; 3]) -> Result<To> {
    Ok(match plan.format() {
        Format::Png => To::Folder,
        Format::Tar => To::Tars,
        Format::Npy | Format::Npz => {
            let part = plan.part();
            let head = head(plan, shape);
            let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&part);
            let file = options.and_then(|mut file| file.write_all(&head).map(|()| file)).map_err(Error::io("write", &part))?;
            To::Array { file, data_at: head.len() as u64 }
        }
        Format::Grid => {
            tempfile::tempfile_in(plan.folder()).map_err(Error::io("write to", plan.folder()))?;
            To::Sheet(Mutex::new(vec![0; plan.count() as usize * shape.iter().product::<usize>()]))
        }
    })
}

fn reopen(plan: &Plan, shape: [usize; 3], done: &Done) -> Result<To> {
    // Whatever lies there is not this job's.
    if !matches!(plan.format(), Format::Npy | Format::Npz) || done.count() == 0 {
        return create(plan, shape);
    }
    let part = plan.part();
    match OpenOptions::new().read(true).write(true).open(&part) {
        Ok(file) => Ok(To::Array { file, data_at: head(plan, shape).len() as u64 }),
        // Killed when it had its final name already.
        Err(e) if e.kind() == io::ErrorKind::NotFound && done.all(&plan.places()).is_some() && plan.path().is_file() => {
            Ok(To::Finished)
        }
        Err(e) => Err(Error::invalid_file(&part, format!("what was made cannot be opened: {e}"), "Begin again with --force.")),
    }
}

/// Takes the manifest away: what is written from now on is not what it says.
fn forget(plan: &Plan) -> Result<()> {
    let path = plan.manifest();
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Whether this very job is done: its manifest and its files are there. Another's manifest is an error, and so are files that
/// are missing.
fn is_finished(plan: &Plan, identity: &Value) -> Result<bool> {
    let path = plan.manifest();
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        bytes => bytes.map_err(Error::io("read", &path))?,
    };
    let told: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid_file(&path, format!("it is no manifest: {e}"), "Begin again with --force."))?;
    if let Some((key, was, is)) = difference(&told, identity) {
        return Err(Error::usage(
            format!("{} is of another job: its {key} is {was}, this call's is {is}", path.display()),
            "Choose another --out, or begin again with --force.",
        ));
    }
    let (there, wanted) = match plan.format() {
        Format::Png | Format::Tar => (plan.there()?, plan.files()),
        _ => (fs::metadata(plan.path()).map_or(0, |file| file.len()), told["bytes"].as_u64().unwrap_or(0)),
    };
    if there != wanted {
        let what = match plan.format() {
            Format::Png | Format::Tar => format!("it says that the job is done, but {there} of {wanted} files are there"),
            _ => format!("it says that the job is done, but {} has {there} bytes, not {wanted}", plan.path().display()),
        };
        return Err(Error::invalid_file(&path, what, "Begin again with --force."));
    }
    // A call with --force may have been killed before it began.
    let _ = fs::remove_file(plan.journal());
    Ok(true)
}

/// What comes before the pixels.
fn head(plan: &Plan, shape: [usize; 3]) -> Vec<u8> {
    let npy = archive::npy_header(plan.count(), shape);
    match plan.format() {
        Format::Npz => [archive::npz_head(entry_bytes(plan, shape)), npy].concat(),
        _ => npy,
    }
}

fn entry_bytes(plan: &Plan, shape: [usize; 3]) -> u64 {
    let header = archive::npy_header(plan.count(), shape).len() as u64;
    header + plan.count() * shape.iter().product::<usize>() as u64
}

/// Closes an array file and gives it its name.
fn finish_array(plan: &Plan, shape: [usize; 3], mut file: File, done: &Done) -> Result<()> {
    let part = plan.part();
    if plan.format() == Format::Npz {
        let header = archive::npy_header(plan.count(), shape);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header);
        if let Some(all) = done.all(&plan.places()) {
            let pixels = entry_bytes(plan, shape) - header.len() as u64;
            crc.combine(&crc32fast::Hasher::new_with_initial_len(all.crc, pixels));
        }
        let (crc, bytes) = (crc.finalize(), entry_bytes(plan, shape));
        let end = archive::npz_head(bytes).len() as u64 + bytes;
        let mut put = |at, bytes: &[u8]| file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes));
        put(archive::NPZ_CRC_AT, &crc.to_le_bytes())
            .and_then(|()| put(end, &archive::npz_tail(bytes, crc)))
            .map_err(Error::io("write", &part))?;
    }
    let length = head(plan, shape).len() as u64 + plan.count() * shape.iter().product::<usize>() as u64;
    if plan.format() == Format::Npy {
        file.set_len(length).map_err(Error::io("write", &part))?;
    }
    file.sync_all().map_err(Error::io("write", &part))?;
    fs::rename(&part, plan.path()).map_err(Error::io("write", plan.path()))
}

/// `identity`, how many images there are, and what they can be checked by. Nothing in it depends on how the job went.
fn write_manifest(plan: &Plan, identity: Value, journal: &mut Journal) -> Result<()> {
    let mut manifest = identity;
    manifest["count"] = json!(plan.count());
    if let Some(all) = journal.done.all(&plan.places()) {
        manifest["pixels_crc32"] = json!(hexadecimal(all.crc));
    }
    match plan.format() {
        Format::Png => manifest["bytes"] = json!(journal.done.all(&plan.places()).map_or(0, |all| all.bytes)),
        Format::Tar => {
            let file = |piece: Piece| {
                let name = plan.tar_file(piece.first).file_name().map(|name| name.to_string_lossy().into_owned());
                json!({ "file": name, "count": piece.count, "bytes": piece.bytes, "pixels_crc32": hexadecimal(piece.crc) })
            };
            manifest["files"] = journal.pieces()?.into_iter().map(file).collect();
        }
        _ => {
            manifest["file"] = json!(plan.path().file_name().map(|name| name.to_string_lossy()));
            manifest["bytes"] = json!(fs::metadata(plan.path()).map_err(Error::io("read", plan.path()))?.len());
        }
    }
    let (path, part) = (plan.manifest(), plan.manifest_part());
    let text = format!("{manifest:#}\n");
    fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(Error::io("write", &path))
}

fn hexadecimal(crc: u32) -> String {
    format!("{crc:08x}")
}

fn save_sheet(plan: &Plan, [height, width, channels]: [usize; 3], pixels: Vec<u8>) -> Result<()> {
    let n = plan.count() as usize;
    image::save_grid(&Images { n, height, width, channels, pixels }, Images::square_columns(n), plan.path())
}

/// A small file, written at once under its final name: half the work of a temporary one, and the journal knows which are whole.
fn create_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let created = File::create(&path).or_else(|e| match e.kind() {
        io::ErrorKind::NotFound => fs::create_dir_all(folder).and_then(|()| File::create(&path)),
        _ => Err(e),
    });
    let mut file = created.map_err(Error::io("write", &path))?;
    file.write_all(bytes).map_err(|e| {
        let _ = fs::remove_file(&path); // the first error is the one to report
        Error::io("write", &path)(e)
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
