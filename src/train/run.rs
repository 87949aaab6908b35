//! The folder of a run: what is where.

use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::TrainConfig;
use crate::error::{Error, Result, did_you_mean};
use crate::files::{self, Lock};
use crate::text;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
    /// Of who trains: one process at a time. Who reads has none.
    lock: Option<Arc<Lock>>,
}

/// What others are told is at work in a folder.
const PROGRAM: &str = "gan-train";

impl RunFolder {
    /// Makes the folder of a new run and writes its resolved config. What a start with the same config left that was killed
    /// before its first checkpoint is taken up. No other process can train in the folder while this value lives.
    ///
    /// # Errors
    /// When the folder holds something else already, another process is at work in it, or it cannot be written to.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self> {
        Self::check_new(path, config)?;
        files::create_folder(path)?;
        let lock = Some(Arc::new(Lock::take(path, PROGRAM)?));
        Self::check_new(path, config)?; // again: another start may have been quicker
        let folder = Self { path: path.to_path_buf(), lock };
        files::create_folder(&folder.samples())?;
        files::create_folder(&folder.checkpoints())?;
        folder.write_config(config)?;
        Ok(folder)
    }

    /// Opens an existing run to train it further. No other process can while this value lives.
    ///
    /// # Errors
    /// When the folder holds no run, another process is at work in it, or it cannot be written to.
    pub fn resume(path: &Path) -> Result<Self> {
        Self::open(path)?.held()
    }

    /// The same with the lock that keeps other processes from training here: the one held already, or else a new one.
    ///
    /// # Errors
    /// When another process has it, or the folder cannot be written to.
    pub(super) fn held(&self) -> Result<Self> {
        let lock = match &self.lock {
            Some(lock) => Arc::clone(lock),
            None => Arc::new(Lock::take(&self.path, PROGRAM)?),
        };
        Ok(Self { path: self.path.clone(), lock: Some(lock) })
    }

    /// Whether who holds the lock may still write here: the folder may have been moved away, and another run begun in its place.
    ///
    /// # Errors
    /// When it may not.
    pub(super) fn check(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.check())
    }

    /// Makes a folder of the run again that somebody has removed; not the run's own.
    pub(super) fn restore(&self, folder: &Path) -> Result<()> {
        match std::fs::create_dir(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::io("create folder", folder)(e)),
            _ => Ok(()),
        }
    }

    /// Removes what killed processes left half written. Only for who holds the lock.
    pub(super) fn sweep(&self) -> Result<()> {
        let checkpoints = self.checkpoints();
        for folder in [&self.path, &self.samples(), &checkpoints, &self.tensorboard()] {
            files::remove_temporaries(folder)?;
        }
        let entries = match std::fs::read_dir(&checkpoints) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(Error::io("read", &checkpoints))?,
        };
        let mut partial = entries.flatten().filter(|entry| is_partial(&entry.file_name().to_string_lossy()));
        partial.try_for_each(|entry| remove_folder(&entry.path()))
    }

    /// Writes the resolved config, which a resume may have given another length.
    pub(super) fn write_config(&self, config: &TrainConfig) -> Result<()> {
        files::write_atomic(&self.config_file(), config.to_toml()?.as_bytes())
    }

    /// Whether a run with this config may begin here: there is no such folder yet, it is empty, or it holds what a start with
    /// the same config left that was killed before its first checkpoint.
    ///
    /// # Errors
    /// When another run, or anything else, is there already.
    pub fn check_new(path: &Path, config: &TrainConfig) -> Result<()> {
        if is_killed_start(path, config) { Ok(()) } else { Self::check_free(path) }
    }

    /// Whether something new may begin here: there is no such folder yet, or it is empty.
    ///
    /// # Errors
    /// When a run, or anything else, is there already.
    pub fn check_free(path: &Path) -> Result<()> {
        let shown = text::path(path);
        if path.join("config.toml").exists() {
            let hint = "Continue it with `RunFolder::resume`, or choose another `RunFolder::path`.";
            return Err(Error::usage(format!("`RunFolder::path` {shown} holds a run already"), hint));
        }
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::usage(format!("`RunFolder::path` {shown} is not empty"), "Choose a new or empty folder.")),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => Err(Error::usage(
                format!("`RunFolder::path` {shown} is a file, or lies below one"),
                "Choose a new or empty folder.",
            )),
            Err(e) => Err(Error::io("use as `RunFolder::path`", path)(e)),
        }
    }

    /// Opens an existing run.
    ///
    /// # Errors
    /// When the folder holds no run.
    pub fn open(path: &Path) -> Result<Self> {
        let config = path.join("config.toml");
        if config.try_exists().map_err(Error::io("read", &config))? {
            return Ok(Self { path: path.to_path_buf(), lock: None });
        }
        let what = match path.exists() {
            true => format!("{} is not a run: it has no config.toml", text::path(path)),
            false => format!("{} is not a run: there is no such folder", text::path(path)),
        };
        Err(Error::usage(what, format!("{}Name the folder of a training.", did_you_mean(path))))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The run's resolved config.
    ///
    /// # Errors
    /// When it is unreadable or damaged.
    pub fn config(&self) -> Result<TrainConfig> {
        let path = self.config_file();
        let bytes = files::read(&path, files::TEXT)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::invalid_file(&path, "not UTF-8 text", "Restore the file."))?;
        TrainConfig::from_toml(&text, &text::path(&path))
    }

    /// `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `stats.jsonl`.
    pub fn stats_file(&self) -> PathBuf {
        self.path.join("stats.jsonl")
    }

    /// `changes.jsonl`: what of the config was changed on the way.
    pub fn changes_file(&self) -> PathBuf {
        self.path.join("changes.jsonl")
    }

    /// `samples`.
    pub fn samples(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// `samples/STEP.png`.
    pub fn sample_file(&self, step: u64) -> PathBuf {
        self.samples().join(format!("{step:08}.png"))
    }

    /// `checkpoints`.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// `curves.png`.
    pub fn curves_file(&self) -> PathBuf {
        self.path.join("curves.png")
    }

    /// `progress.gif`.
    pub fn gif_file(&self) -> PathBuf {
        self.path.join("progress.gif")
    }

    /// `report.html`.
    pub fn report_file(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `report.json`: what the report says that no other file of the run does.
    pub fn facts_file(&self) -> PathBuf {
        self.path.join("report.json")
    }

    /// `tensorboard`.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The sheets of samples up to a step, ascending.
    ///
    /// # Errors
    /// When the folder is unreadable.
    pub fn sheets(&self, last: u64) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.samples();
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read", &folder))?,
        };
        let step = |path: &Path| path.file_stem()?.to_str()?.parse().ok();
        let pngs = entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "png"));
        let mut sheets: Vec<(u64, PathBuf)> = pngs.filter_map(|path| Some((step(&path)?, path))).collect();
        sheets.retain(|(step, _)| *step <= last);
        sheets.sort();
        Ok(sheets)
    }

    /// `generator.onnx`.
    pub fn onnx_file(&self) -> PathBuf {
        self.path.join("generator.onnx")
    }
}

/// Refuses to write a result over something that a run needs, or over `input`, what the result is made from. What does not exist
/// yet is nobody's.
///
/// # Errors
/// When `path` is the input, no file, or one of a run's own files but for its `generator.onnx` and its reports.
pub fn check_output(path: &Path, input: &Path) -> Result<()> {
    let Ok(real) = std::fs::canonicalize(path) else { return Ok(()) };
    let hint = "Choose another `RunFolder::path`.";
    if !real.is_file() && !real.is_dir() {
        let what = format!("`RunFolder::path` {} is a device or a pipe, which a file would replace", text::path(path));
        return Err(Error::usage(what, hint));
    }
    if std::fs::canonicalize(input).is_ok_and(|input| input == real) {
        return Err(Error::usage(format!("`RunFolder::path` {} is what the result is made from", text::path(path)), hint));
    }
    for folder in real.ancestors().skip(1).take(3).filter(|folder| folder.join("config.toml").is_file()) {
        let run = RunFolder { path: folder.to_path_buf(), lock: None };
        let own = [
            run.config_file(),
            run.stats_file(),
            run.changes_file(),
            run.facts_file(),
            run.path.join(files::LOCK),
            run.checkpoints(),
            run.samples(),
            run.tensorboard(),
        ];
        if own.iter().any(|own| real.starts_with(own)) {
            let what = format!("`RunFolder::path` {} belongs to the run in {}", text::path(path), text::path(folder));
            return Err(Error::usage(what, hint));
        }
    }
    Ok(())
}

/// How the names of checkpoints begin that are not whole yet; a killed program leaves them behind.
pub(super) const PARTIAL: &str = ".partial-";

fn is_partial(name: &str) -> bool {
    name.starts_with(PARTIAL)
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Whether a folder holds nothing but what a start with this config leaves that is killed before its first checkpoint.
fn is_killed_start(path: &Path, config: &TrainConfig) -> bool {
    let has_config = path.join("config.toml").exists();
    let folder = RunFolder { path: path.to_path_buf(), lock: None };
    if has_config && !folder.config().is_ok_and(|begun| is_start_of(config, begun)) {
        return false;
    }
    all_entries(path, |entry, name, is_file| match name {
        files::LOCK => is_file,
        // Before there is a config there are no sheets.
        "samples" => all_entries(&entry.path(), |_, name, is_file| is_file && (is_left(name) || has_config && is_sheet(name))),
        "checkpoints" => all_entries(&entry.path(), |_, name, _| is_left(name) || is_partial(name)),
        "config.toml" | "stats.jsonl" | "report.json" => has_config && is_file,
        "tensorboard" => has_config && !is_file,
        _ => is_file && is_left(name),
    })
}

/// Whether a run begins with this config: the names of classes that a start finds in its data stand in its folder only, and how steps are
/// launched changes nothing.
fn is_start_of(config: &TrainConfig, mut begun: TrainConfig) -> bool {
    if config.data.class_names.is_empty() {
        begun.data.class_names.clear();
    }
    begun.schedule.capture = config.schedule.capture;
    begun == *config
}

fn is_left(name: &str) -> bool {
    files::is_temporary(name)
}

fn is_sheet(name: &str) -> bool {
    name.strip_suffix(".png").is_some_and(|step| step.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a folder can be listed, and all that is in it is so: the entry, its name, whether it is a file.
fn all_entries(folder: &Path, is_so: impl Fn(&DirEntry, &str, bool) -> bool) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder) else { return false };
    entries.all(|entry| {
        let Ok(entry) = entry else { return false };
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        is_so(&entry, &entry.file_name().to_string_lossy(), is_file)
    })
}

/// Which of a run's checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// The best, where the run knows it, else the latest.
    #[default]
    Best,
    /// The latest.
    Latest,
    /// The one after so many generator steps.
    Step(u64),
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match (text, text.parse()) {
            ("best", _) => Ok(Self::Best),
            ("latest", _) => Ok(Self::Latest),
            (_, Ok(step)) => Ok(Self::Step(step)),
            _ => Err("expected best, latest or the number of a step".to_string()),
        }
    }
}
