//! Where samples go: a folder of PNG files, a NumPy file, WebDataset shards, or a contact sheet; beside all but the sheet a
//! manifest of what was made and how.
//!
//! While a job is at work, a hidden journal lies beside the images. What it names is whole. Files of many images have another
//! name until they are whole; a PNG file that was being written when the program was killed may be incomplete, and
//! `--resume` writes it again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range as Span;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::archive;
use super::journal::{Done, Journal, Piece};
use super::plan::{Existing, Format, Plan, file_name};
use crate::error::{Error, Result};
use crate::files;
use crate::image::{self, Images};

/// A contact sheet may have this many pixels: what common viewers open.
const MAX_SHEET: usize = 100_000_000;

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
}

/// The half of a sink that one thread keeps: the journal, of all formats but the contact sheet.
pub(super) struct Notes(Option<Journal>);

impl Notes {
    /// Notes a piece that [`Writer::write`] has written.
    pub fn add(&mut self, piece: Piece) -> Result<()> {
        self.0.as_mut().map_or(Ok(()), |journal| journal.add(piece))
    }
}

enum To {
    Folder,
    Tars,
    Array {
        file: Mutex<File>,
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
        let (plan, image) = (plan.clone(), shape.iter().product::<usize>());
        let sink = |plan, to, journal, identity| Self { writer: Writer { plan, shape, to }, notes: Notes(journal), identity };
        if plan.format() == Format::Grid {
            check_sheet(plan.count(), shape)?;
        }
        files::create_folder(plan.folder())?;
        if plan.existing() == Existing::Resume {
            if let Some(journal) = Journal::resume(&plan.journal(), &identity, &plan.places(), image)? {
                let to = reopen(&plan, shape, &journal.done)?;
                return Ok(sink(plan, to, Some(journal), identity));
            }
            if is_finished(&plan, &identity)? {
                return Ok(sink(plan, To::Finished, None, identity));
            }
            // Killed before the first line of the journal: there is nothing of ours yet.
            plan.refuse_finished()?;
        }
        let journal = match plan.format() {
            Format::Grid => None,
            _ => Some(Journal::create(&plan.journal(), &identity, image)?),
        };
        let to = create(&plan, shape)?;
        Ok(sink(plan, to, journal, identity))
    }

    /// What is not made yet.
    pub fn gaps(&self) -> Vec<Span<u64>> {
        let whole = self.writer.plan.places();
        match (&self.writer.to, &self.notes.0) {
            (To::Finished, _) => Vec::new(),
            (_, Some(journal)) => journal.done.gaps(&whole),
            (_, None) => Done::new(1).gaps(&whole),
        }
    }

    /// All images are there: gives single files their final names, and writes the manifest.
    pub fn finish(self) -> Result<()> {
        let Self { writer: Writer { plan, shape, to }, notes: Notes(journal), identity } = self;
        let Some(mut journal) = journal else {
            return match to {
                To::Sheet(pixels) => save_sheet(&plan, shape, pixels.into_inner().unwrap_or_else(PoisonError::into_inner)),
                _ => Ok(()),
            };
        };
        if let To::Array { file, .. } = to {
            let file = file.into_inner().unwrap_or_else(PoisonError::into_inner);
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
        if let To::Array { .. } = writer.to {
            let _ = fs::remove_file(writer.plan.part());
        }
        let _ = journal.remove();
    }
}

impl Writer {
    fn image(&self) -> usize {
        self.shape.iter().product()
    }

    /// Writes the images at some places; any thread, any order. [`Notes::add`] makes it count.
    pub fn write(&self, places: Span<u64>, pixels: &[u8]) -> Result<Piece> {
        let first = places.start;
        let bytes = match &self.to {
            To::Folder => self.write_pngs(places.clone(), pixels)?,
            To::Tars => self.write_tar(places.clone(), pixels)?,
            To::Array { file, data_at } => {
                let at = data_at + (first - self.plan.places().start) * self.image() as u64;
                let mut file = lock(file);
                let written = file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(pixels));
                written.map_err(Error::io("write", self.plan.path()))?;
                pixels.len() as u64
            }
            To::Sheet(sheet) => {
                let at = (first - self.plan.places().start) as usize * self.image();
                lock(sheet)[at..at + pixels.len()].copy_from_slice(pixels);
                pixels.len() as u64
            }
            To::Finished => 0,
        };
        Ok(Piece { first, count: places.end - places.start, crc: crc32fast::hash(pixels), bytes })
    }

    fn write_pngs(&self, places: Span<u64>, pixels: &[u8]) -> Result<u64> {
        let mut bytes = 0;
        for (place, pixels) in places.zip(pixels.chunks_exact(self.image())) {
            let number = self.plan.selection().name(place);
            let png = self.png(pixels)?;
            create_file(&self.plan.folder_of(number), &file_name(number), &png)?;
            bytes += png.len() as u64;
        }
        Ok(bytes)
    }

    /// A tar file is a piece: whole, or not there.
    fn write_tar(&self, places: Span<u64>, pixels: &[u8]) -> Result<u64> {
        let path = self.plan.tar_file(places.start);
        let part = path.with_extension("tar.part");
        let write = || {
            let mut tar = tar::Builder::new(BufWriter::new(File::create(&part)?));
            for (place, pixels) in places.clone().zip(pixels.chunks_exact(self.image())) {
                let png = self.png(pixels).map_err(io::Error::other)?;
                let mut header = tar::Header::new_gnu();
                header.set_size(png.len() as u64);
                header.set_mode(0o644);
                header.set_mtime(0);
                tar.append_data(&mut header, file_name(self.plan.selection().name(place)), png.as_slice())?;
            }
            tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.metadata().map(|file| file.len())
        };
        let bytes = write().and_then(|bytes| fs::rename(&part, &path).map(|()| bytes));
        bytes.map_err(|e| {
            let _ = fs::remove_file(&part); // the first error is the one to report
            Error::io("write", &path)(e)
        })
    }

    fn png(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let [height, width, channels] = self.shape;
        image::encode_png(pixels, height, width, channels)
    }
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
            To::Array { file: Mutex::new(file), data_at: head.len() as u64 }
        }
        Format::Grid => {
            tempfile::tempfile_in(plan.folder()).map_err(Error::io("write to", plan.folder()))?;
            To::Sheet(Mutex::new(vec![0; plan.count() as usize * shape.iter().product::<usize>()]))
        }
    })
}

fn reopen(plan: &Plan, shape: [usize; 3], done: &Done) -> Result<To> {
    if !matches!(plan.format(), Format::Npy | Format::Npz) {
        return create(plan, shape);
    }
    let (part, head) = (plan.part(), head(plan, shape));
    match OpenOptions::new().read(true).write(true).open(&part) {
        Ok(mut file) => {
            // Nothing is noted before the head is there; but the kill may have come in between.
            file.write_all(&head).map_err(Error::io("write", &part))?;
            Ok(To::Array { file: Mutex::new(file), data_at: head.len() as u64 })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && done.count() == 0 => create(plan, shape),
        // Killed when it had its final name already.
        Err(e) if e.kind() == io::ErrorKind::NotFound && done.all(&plan.places()).is_some() && plan.path().is_file() => {
            Ok(To::Finished)
        }
        Err(e) => Err(Error::io("go on with", &part)(e)),
    }
}

/// Whether the manifest says that this very job is done. Another's manifest is an error.
fn is_finished(plan: &Plan, identity: &Value) -> Result<bool> {
    let path = plan.manifest();
    let bytes = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        bytes => bytes.map_err(Error::io("read", &path))?,
    };
    let told: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid_file(&path, format!("it is no manifest: {e}"), "Begin again with --force."))?;
    let Some(facts) = identity.as_object() else { return Ok(false) };
    match facts.iter().find(|(key, value)| told.get(key.as_str()) != Some(value)) {
        None => Ok(true),
        Some((key, value)) => Err(Error::usage(
            format!("{} is of another job: its {key} is {}, this call's is {value}", path.display(), told[key.as_str()]),
            "Choose another --out, or begin again with --force.",
        )),
    }
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

fn check_sheet(n: u64, [height, width, _]: [usize; 3]) -> Result<()> {
    const GAP: usize = 2;
    let most = (MAX_SHEET / ((height + GAP) * (width + GAP))).max(1);
    if n > most as u64 {
        return Err(Error::usage(
            format!("a contact sheet of {n} images of {height}×{width} pixels is too large to look at"),
            format!("Ask for {most} or fewer, or choose --format png, npy, npz or tar."),
        ));
    }
    Ok(())
}
