//! What of a job is done, in a file beside the images: whatever it names is whole and on the disk, so a job that was killed can go on.
//!
//! Lines, each of which ends in the CRC-32 of what it says: the first says which job it is, as JSON; `pid N` says who is at work;
//! every other line is a finished piece, `first count pixels bytes files`, two of them checksums: of the pixels, and of the bytes of the
//! files. A line counts once its end is there, and is written after what it names has been synced; what it says is looked at once more
//! before a resumed job believes it.

use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::folder::Folder;
use super::piece::{DonePieces, Piece};
use crate::error::{Error, Result};
use crate::text;

/// The journal of a job at work. No other process may write to it meanwhile.
pub(super) struct Journal {
    file: File,
    folder: Arc<Folder>,
    name: PathBuf,
    pub done: DonePieces,
}

/// A journal that was there.
pub(super) struct Resumed {
    pub journal: Journal,
    /// As in the [`Header`].
    pub replaces: Option<Vec<Value>>,
    /// How many images are not what the journal says; `None` if that cannot be told, for some of it is damaged or says too little.
    pub lost: Option<u64>,
}

/// Which job a journal is of.
pub(super) struct Header {
    /// What the bytes of the images depend on.
    pub identity: Value,
    /// What there was before by the same name, if this job is to begin by removing that and what else is in its way; `None` once
    /// it has. Kept here, for the old job's own journal and manifest have made way for this journal.
    pub replaces: Option<Vec<Value>>,
}

impl Header {
    const VERSION: u64 = 2;

    fn line(&self) -> String {
        let mut told = self.identity.clone();
        told["journal"] = json!(Self::VERSION);
        told["replaces"] = json!(self.replaces);
        sealed(&told.to_string())
    }
}

/// What a journal's first line says.
enum FirstLine {
    Job(Header),
    /// In the form of an earlier version: the same job, but its lines vouch for nothing.
    Earlier(Header),
}

impl FirstLine {
    fn parse(line: &str) -> Option<Self> {
        let text = opened(line);
        let told: Value = serde_json::from_str(text.unwrap_or(line)).ok().filter(Value::is_object)?;
        let replaces = match &told["replaces"] {
            Value::Array(before) => Some(before.clone()),
            // As an earlier version wrote it.
            Value::Bool(true) => Some(Vec::new()),
            _ => None,
        };
        let header = Header { replaces, identity: told };
        match text.is_some() && header.identity["journal"] == json!(Header::VERSION) {
            true => Some(Self::Job(header)),
            false if header.identity.get("journal").is_none() => Some(Self::Earlier(header)),
            false => None,
        }
    }
}

impl Journal {
    /// A new journal, in place of `old` if there is one, which is held.
    ///
    /// # Errors
    /// When there is another one, or it cannot be written.
    pub fn create(folder: &Arc<Folder>, name: &Path, header: &Header, image: usize, old: Option<&File>) -> Result<Self> {
        if old.is_some() {
            return Self::beside(folder, name, header, image)?.put(name);
        }
        if folder.is_taken(name) && folder.length(name).is_none() {
            // Nobody's journal: a link, or an empty folder.
            folder.create(name).and_then(|_| folder.remove(name)).map_err(folder.failed("replace", name))?;
        }
        Self::begin(folder, name, header, image)
    }

    /// A file with a first line.
    fn begin(folder: &Arc<Folder>, name: &Path, header: &Header, image: usize) -> Result<Self> {
        let file = folder.create_new(name).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => busy(folder, name, 0),
            _ => folder.failed("create", name)(e),
        })?;
        let mut journal = Self { file, folder: Arc::clone(folder), name: name.to_path_buf(), done: DonePieces::new(image) };
        let lines = header.line() + &sealed(&format!("pid {}", std::process::id()));
        match journal.claim().and_then(|()| journal.write(lines.as_bytes())) {
            Ok(()) => Ok(journal),
            Err(e) => {
                let _ = journal.remove(); // the first error is the one to report
                Err(e)
            }
        }
    }

    /// One that is to take the place of the one of this name.
    fn beside(folder: &Arc<Folder>, name: &Path, header: &Header, image: usize) -> Result<Self> {
        let fresh = PathBuf::from(format!("{}.{}", name.display(), std::process::id()));
        // A killed process of the same number may have left it.
        folder.remove(&fresh).map_err(folder.failed("replace", &fresh))?;
        Self::begin(folder, &fresh, header, image)
    }

    /// Gives it the name of the one whose place it takes, which until then says what there is.
    fn put(mut self, name: &Path) -> Result<Self> {
        match self.folder.rename(&self.name, name) {
            Ok(()) => {
                self.name = name.to_path_buf();
                Ok(self)
            }
            Err(e) => {
                let failed = self.folder.failed("write", name)(e);
                let _ = self.folder.remove(&self.name); // the first error is the one to report
                Err(failed)
            }
        }
    }

    /// Goes on with the journal of the same job, with those of its pieces for which `holds`. `None` where there is none, or it broke
    /// off before it said what it is: nothing had been made then.
    pub fn resume(
        folder: &Arc<Folder>,
        name: &Path,
        identity: &Value,
        wanted: &ops::Range<u64>,
        image: usize,
        holds: impl Fn(&Piece) -> Result<bool> + Sync,
    ) -> Result<Option<Resumed>> {
        let Some(old) = Self::hold(folder, name)? else { return Ok(None) };
        let path = folder.join(name);
        let mut lines = Lines::new(&old);
        let Some(first) = lines.next().map_err(Error::io("read", &path))? else { return Ok(None) };
        let damaged = || Error::invalid_file(&path, "its first line is damaged", "Begin again with `Existing::Overwrite`.");
        let begun = first.as_deref().and_then(FirstLine::parse).ok_or_else(damaged)?;
        let (FirstLine::Job(was) | FirstLine::Earlier(was)) = &begun;
        if let Some(difference) = difference(&was.identity, identity) {
            return Err(Error::usage(
                format!("{} is of another job: {difference}", text::path(&path)),
                "Repeat the call that was interrupted, with `Existing::Resume`; or begin again with `Existing::Overwrite`.",
            ));
        }
        // Into a file of its own, which takes the old one's place once it is whole: what was damaged is gone then, and nothing is
        // written to a file that someone else may know under another name.
        let header = Header { identity: identity.clone(), replaces: was.replaces.clone() };
        let mut journal = Self::beside(folder, name, &header, image)?;
        let lost = match journal.take_over(lines, wanted, holds) {
            Ok(lost) => lost.filter(|_| matches!(begun, FirstLine::Job(_))),
            Err(e) => {
                let _ = journal.remove(); // the first error is the one to report
                return Err(e);
            }
        };
        Ok(Some(Resumed { journal: journal.put(name)?, replaces: header.replaces, lost }))
    }

    /// Takes over the pieces that hold. Gives how many images are lost; `None` if that cannot be told, for a line is damaged.
    fn take_over(
        &mut self,
        mut lines: Lines,
        wanted: &ops::Range<u64>,
        holds: impl Fn(&Piece) -> Result<bool> + Sync,
    ) -> Result<Option<u64>> {
        /// Pieces that are looked at together, by all cores.
        const AT_ONCE: usize = 1024;
        let mut lost = DonePieces::new(0);
        let (mut all_known, mut ended) = (true, false);
        while !ended {
            let mut pieces = Vec::new();
            while pieces.len() < AT_ONCE && !ended {
                let Some(line) = lines.next().map_err(self.folder.failed("read", &self.name))? else {
                    ended = true;
                    continue;
                };
                let text = line.as_deref().and_then(opened);
                let piece = text.and_then(Piece::parse);
                match piece.filter(|piece| wanted.start <= piece.first && piece.end() <= wanted.end) {
                    Some(piece) => pieces.push(piece),
                    None => all_known &= text.is_some_and(|text| text.starts_with("pid ")),
                }
            }
            let hold: Vec<bool> = pieces.par_iter().map(&holds).collect::<Result<_>>()?;
            let (kept, others): (Vec<_>, Vec<_>) = pieces.into_iter().zip(hold).partition(|(_, holds)| *holds);
            for (piece, _) in others {
                lost.add(piece); // a line that is there twice is lost once
            }
            self.add(&kept.into_iter().map(|(piece, _)| piece).collect::<Vec<_>>())?;
        }
        Ok(all_known.then(|| lost.count()))
    }

    /// The jobs that a journal tells of: its own, and those that it has not replaced yet. None if it is no journal.
    pub fn jobs(file: &File) -> io::Result<Vec<Value>> {
        let first = Lines::new(file).next()?.flatten();
        Ok(match first.as_deref().and_then(FirstLine::parse) {
            Some(FirstLine::Job(header) | FirstLine::Earlier(header)) => {
                [vec![header.identity], header.replaces.unwrap_or_default()].concat()
            }
            None => Vec::new(),
        })
    }

    /// The jobs that the journal of this name tells of, and the process that is at work on it, if one is. `None` where there is no
    /// journal.
    pub fn look(folder: &Folder, name: &Path) -> Result<Option<(Vec<Value>, Option<u32>)>> {
        /// Between its creation and its first line lies no more than a moment.
        const TRIES: u32 = 50;
        for _ in 0..TRIES {
            let Ok(file) = folder.read(name) else { return Ok(None) };
            let jobs = Self::jobs(&file).map_err(folder.failed("read", name))?;
            let held = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
            match (jobs.is_empty(), held) {
                (false, held) => return Ok(Some((jobs, held.then(|| holder(&file))))),
                (true, false) => return Ok(None),
                (true, true) => std::thread::sleep(std::time::Duration::from_millis(10)),
            }
        }
        Err(busy(folder, name, 0))
    }

    /// The journal of this name, locked, so that nobody else takes it up. `None` where there is no such file that could be anybody's journal.
    pub fn hold(folder: &Folder, name: &Path) -> Result<Option<File>> {
        loop {
            let file = match folder.read(name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file.map_err(folder.failed("read", name))?,
            };
            match file.try_lock() {
                // Some network file systems have no locks.
                Ok(()) | Err(TryLockError::Error(_)) => {}
                Err(TryLockError::WouldBlock) => return Err(busy(folder, name, holder(&file))),
            }
            // It may have been removed, by the one that held the lock, since it was opened.
            if folder.holds(&file, name) {
                return Ok(Some(file));
            }
        }
    }

    /// Locks what was just created: nobody else can have had it for longer than a moment.
    fn claim(&self) -> Result<()> {
        match self.file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(busy(&self.folder, &self.name, holder(&self.file))),
            _ => Ok(()),
        }
    }

    /// Begins anew: no piece is whole.
    pub fn restart(&mut self, header: &Header) -> Result<()> {
        let name = self.name.clone();
        *self = Self::beside(&self.folder, &name, header, self.done.image())?.put(&name)?;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        written.map_err(self.folder.failed("write", &self.name))
    }

    /// Notes pieces that are whole now, and on the disk.
    pub fn add(&mut self, pieces: &[Piece]) -> Result<()> {
        let mut lines = String::new();
        for piece in pieces {
            // A piece that is there twice is whole all the same.
            if self.done.add(*piece) {
                lines += &sealed(&piece.text());
            }
        }
        if lines.is_empty() { Ok(()) } else { self.write(lines.as_bytes()) }
    }

    /// The pieces one by one, in the order of their places.
    pub fn pieces(&mut self) -> Result<Vec<Piece>> {
        let mut text = String::new();
        let file = &mut self.file;
        file.rewind().and_then(|()| file.read_to_string(&mut text)).map_err(self.folder.failed("read", &self.name))?;
        let mut pieces: Vec<Piece> = text.lines().filter_map(opened).filter_map(Piece::parse).collect();
        pieces.sort_by_key(|piece| piece.first);
        Ok(pieces)
    }

    /// The job is over, and needs no journal.
    pub fn remove(self) -> Result<()> {
        self.folder.remove(&self.name).map_err(self.folder.failed("remove", &self.name))
    }
}

/// Resumes from any file as a journal, for fuzzing: as if every second piece that it names were whole. Gives how many images it vouches
/// for then, and how many of them it still does when it is resumed once more.
#[doc(hidden)]
pub fn look_at_journal(folder: &Path, name: &Path) -> Result<Option<[u64; 2]>> {
    let folder = Arc::new(Folder::open(folder)?);
    let Some((jobs, _)) = Journal::look(&folder, name)? else { return Ok(None) };
    let identity = &jobs[0];
    let resumed = |holds: fn(&Piece) -> bool| -> Result<Option<u64>> {
        let resumed = Journal::resume(&folder, name, identity, &(0..10_000), 784, |piece| Ok(holds(piece)))?;
        Ok(resumed.map(|resumed| resumed.journal.done.count()))
    };
    let first = resumed(|piece| piece.files.is_multiple_of(2))?;
    Ok(first.zip(resumed(|_| true)?).map(|(first, again)| [first, again]))
}

/// That somebody else is at work.
pub(super) fn busy(folder: &Folder, name: &Path, pid: u32) -> Error {
    let who = if pid > 0 { format!(" (process {pid})") } else { String::new() };
    let what = format!("another gan-infer{who} is at work on it: {} is locked", text::path(&folder.join(name)));
    Error::usage(what, "Wait for its end, or choose another `Plan::out`.")
}

/// Who wrote last that it is at work; 0 if that cannot be told.
fn holder(mut file: &File) -> u32 {
    let mut pid = 0;
    if file.rewind().is_err() {
        return pid;
    }
    let mut lines = Lines::new(file);
    while let Ok(Some(line)) = lines.next() {
        let told = line.as_deref().and_then(opened).and_then(|text| text.strip_prefix("pid ")?.parse().ok());
        pid = told.unwrap_or(pid);
    }
    pid
}

/// A line with its checksum and its end.
fn sealed(text: &str) -> String {
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

/// What a line says, if its checksum is right.
fn opened(line: &str) -> Option<&str> {
    let (text, crc) = line.rsplit_once(' ')?;
    (crc.len() == 8 && u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(text.as_bytes())).then_some(text)
}

/// The lines of a journal that have their ends.
struct Lines<'a> {
    reader: BufReader<&'a File>,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn new(file: &'a File) -> Self {
        Self { reader: BufReader::new(file), line: Vec::new() }
    }

    /// The next, without its end; `Some(None)` if it is no text, or longer than any.
    fn next(&mut self) -> io::Result<Option<Option<String>>> {
        /// A list of seeds is as long as a command line at most.
        const MOST: u64 = 4 << 20;
        self.line.clear();
        self.reader.by_ref().take(MOST).read_until(b'\n', &mut self.line)?;
        match self.line.split_last() {
            Some((b'\n', line)) => Ok(Some(String::from_utf8(line.to_vec()).ok())),
            _ if self.line.len() as u64 == MOST => Ok(Some(None)),
            _ => Ok(None),
        }
    }
}

/// In what two jobs differ that decides on bytes. What the model's file is called does not.
pub(super) fn difference(begun: &Value, now: &Value) -> Option<String> {
    // It makes the file another one, too. It stands there only where it is int8.
    if begun["precision"] != now["precision"] {
        let said = |facts: &Value| facts["precision"].as_str().unwrap_or("another").to_string();
        return Some(format!(
            "its precision is {}, this call's is {} (`Options::precision` chooses it)",
            said(begun),
            said(now)
        ));
    }
    let keys = now.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "model");
    let mut all = keys.map(|key| (key, &begun[key], &now[key]));
    let (key, was, is) = all.find(|(_, was, is)| was != is)?;
    let told = format!("its {key} is {was}, this call's is {is}");
    Some(match begun["model"].as_str().filter(|_| key == "model_sha256") {
        None => told,
        Some(name) if begun["model"] == now["model"] => format!("{} has changed since ({told})", text::on_one_line(name)),
        Some(name) => format!("its model is {} ({told})", text::on_one_line(name)),
    })
}
