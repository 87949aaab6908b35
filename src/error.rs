//! One error type: what was expected, what came, where (file, tensor, flag), and how to mend it.

use std::io;
use std::path::{Path, PathBuf};

use crate::text;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a folder of images and a folder of samples.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call is wrong: a flag, a name, a value. The programs leave with exit code 2.
    #[error("{what}. {hint}")]
    Usage {
        /// What is wrong, with the offending value.
        what: String,
        /// What the user can do about it: a full sentence.
        hint: String,
    },
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}.{}", text::path(path), io_advice(source, path))]
    Io {
        /// A verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something read from outside (a data set, a model, a checkpoint, a config) is not what it should be.
    #[error("{place}: {what}. {hint}")]
    Invalid {
        /// The file, with the key or tensor where it helps.
        place: String,
        /// What was found, and what was expected.
        what: String,
        /// What the user can do about it: a full sentence.
        hint: String,
    },
    /// No usable onnxruntime library, or no provider of the kind asked for.
    #[error("{0}")]
    Runtime(String),
    /// The watchdog ended a training: collapse, divergence or a dead critic.
    #[error("{0}")]
    Unhealthy(String),
    /// The user stopped the program.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// The exported graph does not compute what the trained generator computes.
    #[error("the exported generator was not written: {0}")]
    Verification(String),
    /// A tensor operation failed: a defect of ours, or a device out of memory.
    #[cfg(feature = "train")]
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// onnxruntime refused a model or a run.
    #[cfg(feature = "infer")]
    #[error("onnxruntime: {0}")]
    Ort(String),
}

impl Error {
    /// A wrong call.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), hint: hint.into() }
    }

    /// Wrong contents of something from outside.
    pub fn invalid(place: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { place: place.into(), what: what.into(), hint: hint.into() }
    }

    /// Wrong contents of a file.
    pub fn invalid_file(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::invalid(text::path(path), what, hint)
    }

    /// For `map_err`: adds what was attempted, and on which path, to an [`io::Error`].
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// The exit code the programs leave with: 2 for a wrong call, 1 for anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            _ => 1,
        }
    }
}

/// Errors of onnxruntime's as ours. A conversion by `?` would put types of `ort` into the public interface.
#[cfg(feature = "infer")]
pub(crate) trait OrtResult<T> {
    /// The value, or the error as [`Error::Ort`].
    fn ort(self) -> Result<T>;
}

#[cfg(feature = "infer")]
impl<T, E> OrtResult<T> for Result<T, ort::Error<E>> {
    fn ort(self) -> Result<T> {
        self.map_err(|error| Error::Ort(error.to_string()))
    }
}

fn io_advice(source: &io::Error, path: &Path) -> String {
    let advice = match source.kind() {
        io::ErrorKind::NotFound => return format!(" {}Check the path.", did_you_mean(path)),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " Choose a place you may use, or change its permissions."
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " Free some space there, or choose another place.",
        io::ErrorKind::FileTooLarge => {
            " The file system, or a limit (ulimit -f), has no files so large: choose another place, or raise it."
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            " A file is where a folder should be; choose another path."
        }
        io::ErrorKind::IsADirectory => " A folder is where a file should be: move it away.",
        io::ErrorKind::UnexpectedEof => " The file is shorter than it says: fetch or make it again.",
        _ => "",
    };
    advice.to_string()
}

/// For a hint, before its sentence: the path that a user may have meant by one that leads nowhere ([`neighbour`]), or nothing.
pub(crate) fn did_you_mean(path: &Path) -> String {
    neighbour(path).map(|near| format!("Did you mean {}? ", text::path(&near))).unwrap_or_default()
}

/// For a path that a user wrote and that leads nowhere: what lies where it goes wrong and is called so but for a slip or two.
fn neighbour(path: &Path) -> Option<PathBuf> {
    let missing =
        path.ancestors().take_while(|part| !part.as_os_str().is_empty() && part.symlink_metadata().is_err()).last()?;
    let folder = missing.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let there =
        std::fs::read_dir(folder).ok()?.take(MOST_NEIGHBOURS).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let wanted = missing.file_name()?.to_str()?;
    let most = (wanted.chars().count() / 4).min(2);
    // Another number is no slip.
    let letters = |name: &str| name.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let of_wanted = letters(wanted);
    let near = there.filter(|name| wanted.len().abs_diff(name.len()) <= 4 * most && letters(name) != of_wanted);
    let slips = near.map(|name| (strsim::osa_distance(wanted, &name), name));
    let (_, near) = slips.filter(|(slips, _)| *slips <= most).min()?;
    let there = missing.with_file_name(near);
    // What lay behind the slip must be there, too.
    let whole = match path.strip_prefix(missing) {
        Ok(rest) if !rest.as_os_str().is_empty() => there.join(rest),
        _ => there,
    };
    whole.exists().then_some(whole)
}

/// Entries of a folder among which a misspelt one is looked for.
const MOST_NEIGHBOURS: usize = 10_000;

/// The candidate most like `given` (Jaro-Winkler ≥ 0.7), for "did you mean".
pub fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness >= 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
