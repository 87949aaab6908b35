//! `stats.jsonl`: one line of numbers every few steps, with TensorBoard's events beside it.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::RunFolder;
use super::record::{Record, line, logged};
use super::tensorboard::Events;
use crate::error::{Error, Result};
use crate::files;

/// The open log, with TensorBoard's events beside it.
pub(super) struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    events: Events,
}

impl Log {
    /// Opens the log, cut back to the lines up to `step`: what came after the checkpoint will be made again. A line that does not
    /// come after the one before it, as in a file that was put together by hand, is left out.
    pub(super) fn open(folder: &RunFolder, step: u64) -> Result<Self> {
        let path = folder.stats_file();
        // A link is replaced, never written through; one that leads nowhere, too.
        if path.exists() || path.is_symlink() {
            let (mut kept, mut last) = (String::new(), 0);
            let records = logged(folder)?;
            for record in records.iter().filter(|record| record.step <= step) {
                if record.step > last {
                    kept += &line(record)?;
                    last = record.step;
                }
            }
            files::write_atomic(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(Self { path, file: BufWriter::new(file), events: Events::open(folder, step)? })
    }

    pub(super) fn write(&mut self, record: &Record) -> Result<()> {
        self.file
            .write_all(line(record)?.as_bytes())
            .and_then(|()| self.file.flush())
            .map_err(Error::io("write", &self.path))?;
        self.events.record(record)
    }

    /// Notes a sheet of samples, a PNG file's bytes.
    pub(super) fn sheet(&mut self, step: u64, png: &[u8]) -> Result<()> {
        self.events.sheet(step, png)
    }

    /// The sheets of before that could not be noted again: which, and why.
    pub(super) fn left_out(&self) -> &[String] {
        self.events.left_out()
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).map_err(Error::io("write", &self.path))
    }
}
