//! Single values over a preset or a config file: what a command line, or a caller, asks for on top.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::load::set;
use super::schedule::{Precision, Span};
use crate::data;
use crate::error::{Error, Result};

/// Values that replace those of a config; what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Assignments `section.key=value`, made first.
    pub set: Vec<String>,
    /// The total length.
    pub length: Option<Span>,
    /// Images a batch.
    pub batch_size: Option<u64>,
    /// What convolutions and linear layers compute with.
    pub precision: Option<Precision>,
    /// The seed of every random draw.
    pub seed: Option<u64>,
    /// The learning rate of both networks.
    pub lr: Option<f64>,
    /// The interval between checkpoints.
    pub checkpoint_every: Option<Span>,
    /// The interval between sample sheets.
    pub sample_every: Option<Span>,
    /// Weights to begin with.
    pub init_from: Option<PathBuf>,
    /// Where the images come from; empty: from where the config says.
    pub data: Vec<String>,
}

impl Overrides {
    /// Writes the values into a config's table, each under its own key. Paths are kept whole: the run may be resumed from another
    /// folder.
    ///
    /// # Errors
    /// When an assignment has no `=`, a section is missing, or there is nothing at `init_from`.
    pub fn apply(&self, table: &mut Table) -> Result<()> {
        for assignment in &self.set {
            set(table, assignment)?;
        }
        let span =
            |span: Span| Value::try_from(span).map_err(|e| Error::invalid("config", e.to_string(), "Please report this."));
        let number = |n: u64| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
        let values = [
            ("schedule", "length", self.length.map(span).transpose()?),
            ("schedule", "batch_size", self.batch_size.map(number)),
            ("schedule", "precision", self.precision.map(|precision| Value::String(precision.name().to_string()))),
            ("output", "checkpoint_every", self.checkpoint_every.map(span).transpose()?),
            ("output", "sample_every", self.sample_every.map(span).transpose()?),
            ("data", "source", sources(&self.data)),
        ];
        for (name, key, value) in values.into_iter().filter_map(|(name, key, value)| Some((name, key, value?))) {
            section(table, name)?.insert(key.to_string(), value);
        }
        if let Some(lr) = self.lr {
            for side in ["generator", "critic"] {
                let Some(Value::Table(optimizer)) = section(table, "optimizer")?.get_mut(side) else {
                    return Err(missing(&format!("optimizer.{side}")));
                };
                optimizer.insert("lr".to_string(), Value::Float(lr));
            }
        }
        if let Some(seed) = self.seed {
            table.insert("seed".to_string(), number(seed));
        }
        if let Some(path) = &self.init_from {
            let whole = path.canonicalize().map_err(Error::io("read", path))?;
            table.insert("init_from".to_string(), Value::String(whole.display().to_string()));
        }
        Ok(())
    }

    /// The keys that [`Self::set`] assigns to.
    pub fn keys(&self) -> Vec<String> {
        let key =
            |text: &String| text.split_once('=').map(|(key, _)| key.split('.').map(str::trim).collect::<Vec<_>>().join("."));
        self.set.iter().filter_map(key).collect()
    }
}

/// One source as a text, several as a list.
fn sources(data: &[String]) -> Option<Value> {
    match data {
        [] => None,
        [source] => Some(Value::String(whole(source))),
        several => Some(Value::Array(several.iter().map(|source| Value::String(whole(source))).collect())),
    }
}

/// A name that stands for data stays a name; a path is kept whole.
fn whole(source: &str) -> String {
    let named = data::NAMES.contains(&source);
    let path = Path::new(source).canonicalize().ok().filter(|_| !named);
    path.map_or(source.to_string(), |path| path.display().to_string())
}

fn section<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Table> {
    table.get_mut(name).and_then(Value::as_table_mut).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    let what = format!("there is no [{name}] section");
    Error::invalid("config", what, "Compare it with a complete config: `TrainConfig::preset`.")
}
