//! Where the images of a job go, by what was named: files that can be gone on with, a pipe, or one file of what is otherwise many.

use std::io::{self, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

#[cfg(feature = "object-store")]
use super::bucket;
use super::generator::Generator;
use super::output::ending;
use super::pipeline::{self, Sampled, SamplingJob};
use super::plan::{Existing, Format, Plan, refuse_parts};
use super::selection::{Selection, Shard};
use super::stream::stream;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::text;

/// Where images go, and which; checked, but nothing has been created yet.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Target {
    /// Files that can be gone on with, or a sheet.
    Files(Plan),
    /// Tar files in an object store.
    #[cfg(feature = "object-store")]
    Bucket(Plan),
    /// Standard output, in one of the formats of [`stream()`].
    Stdout {
        /// The images.
        selection: Selection,
        /// What is written.
        format: Format,
    },
    /// One file, however many images, in a format that otherwise makes many; it has its name once it is whole.
    OneFile {
        /// The images.
        selection: Selection,
        /// What it is: [`Format::Tar`].
        format: Format,
        /// The file.
        path: PathBuf,
        /// Whether a file that is there already is replaced.
        overwrite: bool,
    },
}

/// Endings of files that nobody gives to a folder, and that no format here makes.
const OTHER_ENDINGS: [&str; 10] = ["jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "zip", "gz", "tgz"];

impl Target {
    /// Chooses by what `out` is: a folder; a file that ends in `.npy`, `.npz`, `.png` (a contact sheet) or `.tar`, which says the
    /// format, too; `-` for standard output; or, with the feature `object-store`, a URL (`s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`) for tar files in an
    /// object store, whose credentials are in the environment. Without a `format`, and where the ending says none, it is [`Format::Png`].
    ///
    /// # Errors
    /// When no format makes such a file, the format cannot be written there, a part or a resumption of what is made in one go
    /// is asked for, or as [`Plan::new`].
    pub fn new(
        out: impl AsRef<Path>,
        format: Option<Format>,
        selection: Selection,
        shard: Option<Shard>,
        existing: Existing,
    ) -> Result<Self> {
        let out = out.as_ref();
        if out == Path::new("-") {
            refuse_parts("what goes to stdout", shard, existing)?;
            return Ok(Self::Stdout { selection, format: streamed(format)? });
        }
        if let Some(url) = out.to_str().filter(|out| out.contains("://")) {
            return in_store(url, format, selection, shard, existing);
        }
        refuse_other_endings(out)?;
        let ending = ending(out);
        let named = ending.as_deref().and_then(Format::of_file);
        let format = format.or(named).unwrap_or_default();
        if named == Some(format) && format.is_of_many_files() {
            refuse_parts(&format!("one {} file", format.name()), shard, existing)?;
            let (path, overwrite) = (out.to_path_buf(), existing == Existing::Overwrite);
            return Ok(Self::OneFile { selection, format, path, overwrite });
        }
        Plan::new(format, out, selection, shard, existing).map(Self::Files)
    }

    /// The images.
    pub fn selection(&self) -> &Selection {
        match self {
            Self::Files(plan) => plan.selection(),
            #[cfg(feature = "object-store")]
            Self::Bucket(plan) => plan.selection(),
            Self::Stdout { selection, .. } | Self::OneFile { selection, .. } => selection,
        }
    }

    /// The format.
    pub fn format(&self) -> Format {
        match self {
            Self::Files(plan) => plan.format(),
            #[cfg(feature = "object-store")]
            Self::Bucket(plan) => plan.format(),
            Self::Stdout { format, .. } | Self::OneFile { format, .. } => *format,
        }
    }

    /// The images to make, by their places in the job.
    ///
    /// # Errors
    /// When there are none, or more than can be counted.
    pub fn places(&self) -> Result<ops::Range<u64>> {
        match self {
            Self::Files(plan) => Ok(plan.places()),
            #[cfg(feature = "object-store")]
            Self::Bucket(plan) => Ok(plan.places()),
            Self::Stdout { selection, .. } | Self::OneFile { selection, .. } => selection.places(),
        }
    }

    /// Makes the images and writes them there.
    ///
    /// # Errors
    /// As [`pipeline::run`] and [`stream()`]; and when a file is there already that is not to be replaced.
    pub fn make(
        &self,
        generator: &Generator,
        job: &SamplingJob,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Sampled> {
        match self {
            Self::Files(plan) => pipeline::run(generator, job, plan, progress, stop),
            #[cfg(feature = "object-store")]
            Self::Bucket(plan) => bucket::run(generator, job, plan, progress, stop),
            Self::Stdout { selection, format } => stream(generator, job, selection, *format, &mut io::stdout(), progress, stop),
            Self::OneFile { selection, format, path, overwrite } => {
                let write = |to: &mut (dyn Write + Send)| stream(generator, job, selection, *format, to, progress, stop);
                let done = files::write_whole(path, *overwrite, write)?;
                Ok(Sampled { out: path.clone(), ..done })
            }
        }
    }
}

/// Refuses a file of a format that there is not.
pub(super) fn refuse_other_endings(out: &Path) -> Result<()> {
    let ending = ending(out);
    let Some(other) = OTHER_ENDINGS.into_iter().find(|other| ending.as_deref() == Some(*other)) else { return Ok(()) };
    let what = format!("`Plan::out` {} ends in .{other}, which is no format of this program", text::path(out));
    Err(Error::usage(what, format!("Name a folder, or a file that ends in {}.", Format::endings())))
}

/// Tar files in the object store of a URL.
#[cfg(feature = "object-store")]
fn in_store(
    url: &str,
    format: Option<Format>,
    selection: Selection,
    shard: Option<Shard>,
    existing: Existing,
) -> Result<Target> {
    bucket::plan(url, format, selection, shard, existing).map(Target::Bucket)
}

/// That such a URL means nothing here.
#[cfg(not(feature = "object-store"))]
fn in_store(url: &str, _: Option<Format>, _: Selection, _: Option<Shard>, _: Existing) -> Result<Target> {
    let what = format!("`Plan::out` {} is in an object store, which this build knows nothing of", text::on_one_line(url));
    Err(Error::usage(what, "Build it with the feature object-store, or name a folder."))
}

/// The format, if it can be written to a pipe.
fn streamed(format: Option<Format>) -> Result<Format> {
    format.filter(|format| format.sink().to_stream().is_some()).ok_or_else(|| {
        let what = match format {
            Some(format) => format!("`Plan::format` {} does not go to stdout, which takes one file", format.name()),
            None => "`Plan::out` - needs a format".to_string(),
        };
        Error::usage(what, format!("Add {}.", Format::for_streams()))
    })
}
