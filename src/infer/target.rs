//! Where the images of a job go, by what was named: files that can be gone on with, a pipe, or one tar file.

use std::io::{self, BufWriter, ErrorKind};
use std::ops;
use std::path::{self, Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::generator::Generator;
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
pub enum Target {
    /// Files that can be gone on with, or a sheet.
    Files(Plan),
    /// Standard output, in one of the formats of [`stream()`].
    Stdout {
        /// The images.
        selection: Selection,
        /// What is written.
        format: Format,
    },
    /// One tar file, however many images; it has its name once it is whole.
    OneTar {
        /// The images.
        selection: Selection,
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
    /// format, too; or `-` for standard output. Without a `format`, and where the ending says none, it is [`Format::Png`].
    ///
    /// # Errors
    /// When no format makes such a file, the format cannot be written there, a part or a resumption of what is made in one go
    /// is asked for, or as [`Plan::new`].
    pub fn new(
        out: &Path,
        format: Option<Format>,
        selection: Selection,
        shard: Option<Shard>,
        existing: Existing,
    ) -> Result<Self> {
        if out == Path::new("-") {
            refuse_parts("what goes to stdout", shard, existing)?;
            return Ok(Self::Stdout { selection, format: streamed(format)? });
        }
        let ending = ending(out);
        if let Some(other) = OTHER_ENDINGS.into_iter().find(|other| ending.as_deref() == Some(*other)) {
            let what = format!("`Plan::out` {} ends in .{other}, which is no format of this program", text::path(out));
            let hint = "Name a folder, or a file that ends in .npy, .npz, .tar or .png (a contact sheet).";
            return Err(Error::usage(what, hint));
        }
        if ending.as_deref() == Some("tar") && format.is_none_or(|format| format == Format::Tar) {
            refuse_parts("one tar file", shard, existing)?;
            return Ok(Self::OneTar { selection, path: out.to_path_buf(), overwrite: existing == Existing::Overwrite });
        }
        let named = ending.as_deref().and_then(Format::of_file);
        Plan::new(format.or(named).unwrap_or_default(), out, selection, shard, existing).map(Self::Files)
    }

    /// The images.
    pub fn selection(&self) -> &Selection {
        match self {
            Self::Files(plan) => plan.selection(),
            Self::Stdout { selection, .. } | Self::OneTar { selection, .. } => selection,
        }
    }

    /// The format.
    pub fn format(&self) -> Format {
        match self {
            Self::Files(plan) => plan.format(),
            Self::Stdout { format, .. } => *format,
            Self::OneTar { .. } => Format::Tar,
        }
    }

    /// The images to make, by their places in the job.
    ///
    /// # Errors
    /// When there are none, or more than can be counted.
    pub fn places(&self) -> Result<ops::Range<u64>> {
        match self {
            Self::Files(plan) => Ok(plan.places()),
            Self::Stdout { selection, .. } | Self::OneTar { selection, .. } => selection.places(),
        }
    }

    /// Makes the images and writes them there.
    ///
    /// # Errors
    /// As [`pipeline::run`] and [`stream()`]; and when a tar file is there already that is not to be replaced.
    pub fn make(
        &self,
        generator: &Generator,
        job: &SamplingJob,
        progress: &dyn Progress,
        stop: &AtomicBool,
    ) -> Result<Sampled> {
        match self {
            Self::Files(plan) => pipeline::run(generator, job, plan, progress, stop),
            Self::Stdout { selection, format } => stream(generator, job, selection, *format, &mut io::stdout(), progress, stop),
            Self::OneTar { selection, path, overwrite } => {
                let write = |to: &mut BufWriter<_>| stream(generator, job, selection, Format::Tar, to, progress, stop);
                let done = whole_or_not_there(path, *overwrite, write)?;
                Ok(Sampled { out: path.clone(), ..done })
            }
        }
    }
}

/// The ending of a file's name, in lower case; `None` for what is a folder.
fn ending(out: &Path) -> Option<String> {
    let is_folder = out.is_dir() || out.as_os_str().to_string_lossy().ends_with(path::is_separator);
    out.extension().filter(|_| !is_folder).map(|ending| ending.to_string_lossy().to_lowercase())
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

/// Has `write` fill a file that has its name once it is whole.
fn whole_or_not_there<T>(
    path: &Path,
    overwrite: bool,
    write: impl FnOnce(&mut BufWriter<tempfile::NamedTempFile>) -> Result<T>,
) -> Result<T> {
    let exists = || {
        let what = format!("{} exists already", text::path(path));
        Error::usage(what, "Choose another `Plan::out`, or `Existing::Overwrite`.")
    };
    if path.symlink_metadata().is_ok() && !overwrite {
        return Err(exists());
    }
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    files::create_folder(folder)?;
    let mut file = BufWriter::new(files::temporary(folder)?);
    let done = write(&mut file)?;
    let file = file.into_inner().map_err(|e| Error::io("write", path)(e.into_error()))?;
    let name = |file: tempfile::NamedTempFile| if overwrite { file.persist(path) } else { file.persist_noclobber(path) };
    match file.as_file().sync_all().and_then(|()| name(file).map_err(|e| e.error)) {
        Ok(_) => Ok(done),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(exists()),
        Err(e) => Err(Error::io("write", path)(e)),
    }
}
