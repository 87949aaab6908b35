//! What of a job is done, in a file beside the images: whatever it names is whole, so a job that was killed can go on.
//!
//! The first line says which job it is, as JSON; every other line is a finished piece: `first count checksum bytes`. A line
//! counts once its end is there, and is written after what it names. Nothing is synced before the end of the job: this holds
//! for a killed program, not for a machine that lost its power.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range as Span;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use serde_json::Value;

use crate::error::{Error, Result};

/// Images at consecutive places, written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The first place.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// CRC-32 of the pixels, `[count, height, width, channels]`.
    pub crc: u32,
    /// Bytes of the files.
    pub bytes: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.first + self.count
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let piece = Self {
            first: words.next()?.parse().ok()?,
            count: words.next()?.parse().ok()?,
            crc: u32::from_str_radix(words.next()?, 16).ok()?,
            bytes: words.next()?.parse().ok()?,
        };
        let sound = piece.count > 0 && piece.first.checked_add(piece.count).is_some() && words.next().is_none();
        sound.then_some(piece)
    }
}

/// Finished pieces; neighbours are joined, so that their number does not grow with the images'.
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    pieces: BTreeMap<u64, Piece>,
    image: u64,
}

impl Done {
    /// Nothing yet, of images of so many bytes.
    pub fn new(image: usize) -> Self {
        Self { pieces: BTreeMap::new(), image: image as u64 }
    }

    /// Adds a piece; `false` if some of it was there.
    pub fn add(&mut self, piece: Piece) -> bool {
        let before = self.pieces.range(..piece.end()).next_back().map(|(_, before)| *before);
        if before.is_some_and(|before| before.end() > piece.first) {
            return false;
        }
        let mut joined = piece;
        if let Some(before) = before.filter(|before| before.end() == piece.first) {
            self.pieces.remove(&before.first);
            joined = self.join(before, joined);
        }
        if let Some(after) = self.pieces.remove(&piece.end()) {
            joined = self.join(joined, after);
        }
        self.pieces.insert(joined.first, joined);
        true
    }

    fn join(&self, a: Piece, b: Piece) -> Piece {
        let mut crc = Hasher::new_with_initial_len(a.crc, a.count * self.image);
        crc.combine(&Hasher::new_with_initial_len(b.crc, b.count * self.image));
        Piece { first: a.first, count: a.count + b.count, crc: crc.finalize(), bytes: a.bytes.saturating_add(b.bytes) }
    }

    /// Images that are done.
    pub fn count(&self) -> u64 {
        self.pieces.values().map(|piece| piece.count).sum()
    }

    /// All of `wanted` in one piece, once it is done.
    pub fn all(&self, wanted: &Span<u64>) -> Option<Piece> {
        self.pieces.get(&wanted.start).copied().filter(|piece| piece.end() == wanted.end)
    }

    /// What of `wanted` is not done.
    pub fn gaps(&self, wanted: &Span<u64>) -> Vec<Span<u64>> {
        let mut gaps = Vec::new();
        let mut next = wanted.start;
        for piece in self.pieces.values() {
            if next < piece.first {
                gaps.push(next..piece.first);
            }
            next = piece.end();
        }
        if next < wanted.end {
            gaps.push(next..wanted.end);
        }
        gaps
    }
}

/// The journal of a job at work. No other process may write to it meanwhile.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    pub done: Done,
}

impl Journal {
    /// A new journal. One that is there already is lost if `replace`, else an error.
    pub fn create(path: &Path, identity: &Value, image: usize, replace: bool) -> Result<Self> {
        // Not truncated yet: it may be another's.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).create_new(!replace);
        let mut journal = Self::locked(path, &options, image)?;
        let header = format!("{identity}\n");
        let file = &mut journal.file;
        match file.set_len(0).and_then(|()| file.write_all(header.as_bytes())) {
            Ok(()) => Ok(journal),
            Err(e) => {
                let _ = journal.remove(); // the first error is the one to report
                Err(Error::io("write", path)(e))
            }
        }
    }

    /// Goes on with the journal of the same job. `None` where there is none, or it broke off before it said what it is:
    /// nothing had been made then.
    pub fn resume(path: &Path, identity: &Value, wanted: &Span<u64>, image: usize) -> Result<Option<Self>> {
        let mut journal = match Self::locked(path, OpenOptions::new().read(true).write(true), image) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let damaged = |what: &str| Error::invalid_file(path, what, "Begin again with --force.");
        let mut lines = Lines { reader: BufReader::new(&journal.file), line: Vec::new(), whole: 0 };
        let mut next = || match lines.next().map_err(Error::io("read", path))? {
            Some(line) => std::str::from_utf8(line).map(|line| Some(line.to_string())).map_err(|_| damaged("it is not text")),
            None => Ok(None),
        };
        let Some(header) = next()? else { return Ok(None) };
        let begun: Value = serde_json::from_str(&header).map_err(|_| damaged("its first line is no JSON"))?;
        if let Some((key, was, is)) = difference(&begun, identity) {
            return Err(Error::usage(
                format!("{} is of another job: its {key} is {was}, this call's is {is}", path.display()),
                "Repeat the call that was interrupted, with --resume; or begin again with --force.",
            ));
        }
        while let Some(line) = next()? {
            let piece = Piece::parse(&line).filter(|piece| wanted.start <= piece.first && piece.end() <= wanted.end);
            let piece = piece.ok_or_else(|| damaged(&format!("'{line}' is no piece of this job")))?;
            if !journal.done.add(piece) {
                return Err(damaged(&format!("'{line}' names images that another line names, too")));
            }
        }
        // What a torn line said is not known to be whole.
        let whole = lines.whole;
        let mut file = &journal.file;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole))).map_err(Error::io("write", path))?;
        Ok(Some(journal))
    }

    fn locked(path: &Path, options: &OpenOptions, image: usize) -> Result<Self> {
        loop {
            let file = options.open(path).map_err(Error::io("write", path))?;
            match file.try_lock() {
                // Some network file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => {}
                Err(TryLockError::WouldBlock) => {
                    let what = format!("another gan-infer is at work on it: {} is locked", path.display());
                    return Err(Error::usage(what, "Wait for its end, or choose another --out."));
                }
            }
            // It may have been removed, by the one that held the lock, since it was opened.
            if is_at(&file, path) {
                return Ok(Self { file, path: path.to_path_buf(), done: Done::new(image) });
            }
        }
    }

    /// Notes a piece that is whole now.
    pub fn add(&mut self, piece: Piece) -> Result<()> {
        let Piece { first, count, crc, bytes } = piece;
        let line = format!("{first} {count} {crc:08x} {bytes}\n");
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.done.add(piece);
        Ok(())
    }

    /// The pieces one by one, in the order of their places.
    pub fn pieces(&mut self) -> Result<Vec<Piece>> {
        let mut text = String::new();
        let file = &mut self.file;
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(Error::io("read", &self.path))?;
        let mut pieces: Vec<Piece> = text.lines().skip(1).filter_map(Piece::parse).collect();
        pieces.sort_by_key(|piece| piece.first);
        Ok(pieces)
    }

    /// The job is over, and needs no journal.
    pub fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &self.path)(e)),
            _ => Ok(()),
        }
    }
}

/// The lines of a journal that have their ends.
struct Lines<'a> {
    reader: BufReader<&'a File>,
    line: Vec<u8>,
    /// Bytes of those read so far.
    whole: u64,
}

impl Lines<'_> {
    /// The next, without its end.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.reader.read_until(b'\n', &mut self.line)?;
        let Some((b'\n', line)) = self.line.split_last() else { return Ok(None) };
        self.whole += self.line.len() as u64;
        Ok(Some(line))
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// An open file cannot be removed there.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// In what two jobs differ that decides on bytes: (key, the one's, the other's). What the model's file is called does not.
pub(super) fn difference(begun: &Value, now: &Value) -> Option<(String, Value, Value)> {
    let keys = now.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "model");
    let mut all = keys.map(|key| (key.clone(), begun.get(key).cloned().unwrap_or_default(), now[key].clone()));
    all.find(|(_, was, is)| was != is)
}
