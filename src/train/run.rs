//! The folder of a run: what is where.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::files;

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// Makes the folder of a new run and writes its resolved config.
    ///
    /// # Errors
    /// When the folder holds something already, or cannot be written to.
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self> {
        Self::check_free(path)?;
        let folder = Self(path.to_path_buf());
        files::create_folder(&folder.0.join("samples"))?;
        files::create_folder(&folder.checkpoints())?;
        folder.write_config(config)?;
        Ok(folder)
    }

    /// Writes the resolved config, which a resume may have given another length.
    pub(super) fn write_config(&self, config: &TrainConfig) -> Result<()> {
        files::write_atomic(&self.config_file(), config.to_toml()?.as_bytes())
    }

    /// Whether a run may begin here: there is no such folder yet, or it is empty.
    ///
    /// # Errors
    /// When a run, or anything else, is there already.
    pub fn check_free(path: &Path) -> Result<()> {
        let shown = path.display();
        if path.join("config.toml").exists() {
            let mend = format!("Continue it with gan-train --resume {shown}, or choose another --out.");
            return Err(Error::usage(format!("--out {shown} holds a run already"), mend));
        }
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::usage(format!("--out {shown} is not empty"), "Choose a new or empty folder.")),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                Err(Error::usage(format!("--out {shown} is a file, or lies below one"), "Choose a new or empty folder."))
            }
            Err(e) => Err(Error::io("use as --out", path)(e)),
        }
    }

    /// Opens an existing run.
    ///
    /// # Errors
    /// When the folder holds no run.
    pub fn open(path: &Path) -> Result<Self> {
        match path.join("config.toml").is_file() {
            true => Ok(Self(path.to_path_buf())),
            false => Err(Error::usage(
                format!("{} is not a run: it has no config.toml", path.display()),
                "Name a folder that gan-train made with --out.",
            )),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The run's resolved config.
    ///
    /// # Errors
    /// When it is unreadable or damaged.
    pub fn config(&self) -> Result<TrainConfig> {
        let path = self.config_file();
        let bytes = files::read(&path, files::TEXT)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::invalid_file(&path, "not UTF-8 text", "Restore the file."))?;
        TrainConfig::from_toml(&text, &path.display().to_string())
    }

    /// `config.toml`.
    pub fn config_file(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// `stats.jsonl`.
    pub fn stats_file(&self) -> PathBuf {
        self.0.join("stats.jsonl")
    }

    /// `samples/STEP.png`.
    pub fn sample_file(&self, step: u64) -> PathBuf {
        self.0.join("samples").join(format!("{step:08}.png"))
    }

    /// `checkpoints`.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// `curves.png`.
    pub fn curves_file(&self) -> PathBuf {
        self.0.join("curves.png")
    }

    /// `progress.gif`.
    pub fn gif_file(&self) -> PathBuf {
        self.0.join("progress.gif")
    }

    /// `report.html`.
    pub fn report_file(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// `report.json`: what the report says that no other file of the run does.
    pub fn facts_file(&self) -> PathBuf {
        self.0.join("report.json")
    }

    /// `tensorboard`.
    pub fn tensorboard(&self) -> PathBuf {
        self.0.join("tensorboard")
    }

    /// The sheets of samples up to a step, ascending.
    ///
    /// # Errors
    /// When the folder is unreadable.
    pub fn sheets(&self, last: u64) -> Result<Vec<(u64, PathBuf)>> {
        let folder = self.0.join("samples");
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
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
        self.0.join("generator.onnx")
    }
}
