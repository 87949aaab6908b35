//! Single values over a preset or a config file: what a command line, or a caller, asks for on top.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::load::set;
use super::schedule::{Precision, Span};
use crate::data;
use crate::error::{Error, Result};
use crate::text;

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
    /// Weights to begin with, if there are any.
    pub init_from: Vec<PathBuf>,
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
        let values = [
            ("schedule", "length", self.length.map(span).transpose()?),
            ("schedule", "batch_size", self.batch_size.map(|n| number("schedule.batch_size", n)).transpose()?),
            ("schedule", "precision", self.precision.map(|precision| Value::String(precision.name().to_string()))),
            ("output", "checkpoint_every", self.checkpoint_every.map(span).transpose()?),
            ("output", "sample_every", self.sample_every.map(span).transpose()?),
        ];
        for (name, key, value) in values.into_iter().filter_map(|(name, key, value)| Some((name, key, value?))) {
            section(table, name)?.insert(key.to_string(), value);
        }
        if let Some(lr) = self.lr {
            for side in ["generator", "critic"] {
                section(section(table, "optimizer")?, side)?.insert("lr".to_string(), Value::Float(lr));
            }
        }
        if let Some(source) = sources(&self.data) {
            let Some(Value::Table(data)) = table.get_mut("data") else { return Err(no_section("data")) };
            data.insert("source".to_string(), source);
        }
        if let Some(seed) = self.seed {
            table.insert("seed".to_string(), number("seed", seed)?);
        }
        if !self.init_from.is_empty() {
            let whole = |path: &PathBuf| {
                let whole = path.canonicalize().map_err(Error::io("read", path))?;
                let text = whole.to_str().ok_or_else(|| {
                    Error::usage(
                        format!("{} is not UTF-8, as a config's paths must be", text::path(&whole)),
                        "Rename it, or what it lies in.",
                    )
                })?;
                Ok(Value::String(text.to_string()))
            };
            table.insert("init_from".to_string(), Value::Array(self.init_from.iter().map(whole).collect::<Result<_>>()?));
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

/// A whole number as TOML has it: with a sign.
fn number(key: &str, n: u64) -> Result<Value> {
    let number = i64::try_from(n);
    number.map(Value::Integer).map_err(|_| Error::invalid(key, format!("{n} is too large"), format!("At most {}.", i64::MAX)))
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

/// A section, made if it is not there: what is missing in it is told when the config is read as a whole.
fn section<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Table> {
    match table.entry(name).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(section) => Ok(section),
        _ => Err(no_section(name)),
    }
}

fn no_section(name: &str) -> Error {
    let what = format!("there is no [{name}] section");
    Error::invalid("config", what, "Compare it with a complete config: `TrainConfig::preset`.")
}
