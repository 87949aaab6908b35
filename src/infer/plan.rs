//! What a job makes and under which names; checked before anything is made.

use std::io;
use std::ops;
use std::path::Path;

pub use super::open_job::Existing;
use super::open_job::refuse_occupied;
use super::output::Output;
use super::selection::{Selection, Shard};
pub use super::sinks::Format;
use crate::error::{Error, Result};

/// A checked destination and what goes there. Nothing has been created yet.
#[derive(Debug, Clone)]
pub struct Plan {
    output: Output,
    existing: Existing,
}

impl Plan {
    /// Plans the images of `selection`, or a shard of them. `out` is a folder; for formats of one file also a file name with
    /// their ending (`.npy`, `.npz`, `.png`).
    ///
    /// # Errors
    /// When there are no images, `out` cannot be such a folder, or something is there already and `existing` says to refuse it.
    pub fn new(
        format: Format,
        out: impl AsRef<Path>,
        selection: Selection,
        shard: Option<Shard>,
        existing: Existing,
    ) -> Result<Self> {
        let output = Output::new(format, out.as_ref(), selection, shard)?;
        if let Some(what) = output.sink().in_one_go() {
            refuse_parts(what, shard, existing)?;
        }
        let folder = output.folder();
        if folder.exists() && !folder.is_dir() {
            return Err(Error::io("create folder", folder)(io::ErrorKind::NotADirectory.into()));
        }
        if existing == Existing::Refuse {
            refuse_occupied(&output)?;
        }
        Ok(Self { output, existing })
    }

    /// Of what is looked at where it goes.
    #[cfg(feature = "object-store")]
    pub(super) fn of(output: Output, existing: Existing) -> Self {
        Self { output, existing }
    }

    /// The folder of the files, or the one file.
    pub fn path(&self) -> &Path {
        self.output.path()
    }

    /// The images to make, by their places in the job.
    pub fn places(&self) -> ops::Range<u64> {
        self.output.share().places()
    }

    /// How many images.
    pub fn count(&self) -> u64 {
        self.output.share().count()
    }

    /// The job that this is, or is a shard of.
    pub fn selection(&self) -> &Selection {
        self.output.share().selection()
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.output.format()
    }

    /// What the job makes.
    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// What to do about what is there already.
    pub(super) fn existing(&self) -> Existing {
        self.existing
    }
}

/// Refuses shards and resumption of what is made in one go; `what` names it.
pub(super) fn refuse_parts(what: &str, shard: Option<Shard>, existing: Existing) -> Result<()> {
    if shard.is_none() && existing != Existing::Resume {
        return Ok(());
    }
    Err(Error::usage(
        format!("{what} is made in one go, without `Plan::shard` and `Existing::Resume`"),
        format!("Name a folder, and choose `Plan::format` {}.", Format::not_in_one_go()),
    ))
}
