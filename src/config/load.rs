//! From presets, files and single assignments to a [`TrainConfig`].
//!
//! A preset is one TOML file in `presets/`. It may name another as its `base` and then states only what differs.

use toml::{Table, Value};

use super::keys::meant;
use super::schema::{TrainConfig, invalid_config};
use crate::error::{Error, Result, nearest};
use crate::text::on_one_line;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Name and TOML text of every preset.
        pub const PRESETS: &[(&str, &str)] = &[$(($name, include_str!(concat!("presets/", $name, ".toml")))),*];
    };
}

presets![
    "dcgan-28",
    "dcgan-64",
    "dcgan-anime",
    "dcgan-fashion",
    "digits",
    "gan-fashion-mixed",
    "gan-fashion-mlp",
    "lsgan-fashion",
    "r3gan-28",
    "r3gan-64",
    "r3gan-64-s",
    "sngan-64",
    "wgan-anime",
    "wgan-fashion",
    "wgan-gp-anime",
    "wgan-gp-anime-sgd",
    "wgan-gp-fashion",
    "wgan-gp-mnist-mlp",
    "wgan-gp-resnet-64",
    "wgan-mnist-mlp",
];

impl TrainConfig {
    /// A preset by name.
    ///
    /// # Errors
    /// When there is none of that name; the nearest is suggested.
    pub fn preset(name: &str) -> Result<Self> {
        Self::from_table(preset_table(name)?, name)
    }

    /// From a TOML file's text; `place` names it in errors. The file may have a `base`.
    ///
    /// # Errors
    /// When the text is not TOML, a key is unknown or missing, or the networks do not fit the data.
    pub fn from_toml(text: &str, place: &str) -> Result<Self> {
        Self::from_table(parse_table(text, place)?, place)
    }

    /// From a table whose `base` is resolved, as [`parse_table`] does.
    ///
    /// # Errors
    /// As [`Self::from_toml`].
    pub fn from_table(table: Table, place: &str) -> Result<Self> {
        let mut config = Self::parse(table, place)?;
        config.critic.apply_norm();
        config.apply_classes();
        config.check(place)?;
        Ok(config)
    }

    fn parse(table: Table, place: &str) -> Result<Self> {
        let parsed = Value::Table(table).try_into();
        let mut config: Self =
            parsed.map_err(|e: toml::de::Error| invalid_config(place, in_words(e.to_string().trim_end())))?;
        config.apply_channels();
        Ok(config)
    }
}

/// What serde says of a config, on one line, with what may have been meant.
fn in_words(message: &str) -> String {
    let told = message.replace('\n', ", ");
    // So it says that a choice was given a number.
    let told = told.replace("invalid type: unit variant, expected string only", "expected a name in quotes");
    // What a layer says has no section.
    if told.contains(".layers`") {
        return told;
    }
    let mut names = told.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next().filter(|_| told.starts_with("unknown field")) else { return told };
    match meant(unknown, names) {
        Some(meant) => format!("{told}; perhaps {meant} was meant"),
        None => told,
    }
}

/// A preset's table with its bases merged in.
///
/// # Errors
/// When there is no preset of that name.
pub fn preset_table(name: &str) -> Result<Table> {
    let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let names = PRESETS.iter().map(|(known, _)| *known);
        let hint = nearest(name, names.clone()).map(|near| format!("Did you mean '{near}'? ")).unwrap_or_default();
        let all = names.collect::<Vec<_>>().join(", ");
        return Err(Error::usage(format!("there is no preset '{}'", on_one_line(name)), format!("{hint}Presets: {all}.")));
    };
    let mut table = parse_table(text, name)?;
    table.insert("preset".to_string(), Value::String(name.to_string()));
    Ok(table)
}

/// The table of the same system for images of another size, or with narrower or wider layers; `critic.norm` stays to be applied.
///
/// # Errors
/// When the table is no config, or its networks cannot be changed so.
pub fn resized(mut table: Table, place: &str, size: Option<usize>, width: Option<f64>) -> Result<Table> {
    if size.is_none() && width.is_none() {
        return Ok(table);
    }
    // Dropped norms would be gone for good: another norm may still be asked for.
    let norm = table.get_mut("critic").and_then(Value::as_table_mut).and_then(|critic| critic.remove("norm"));
    let mut config = TrainConfig::parse(table, place)?;
    if let Some(size) = size {
        config = config.with_size(size)?;
    }
    if let Some(factor) = width {
        config = config.with_width(factor)?;
    }
    let mut table = parse_table(&config.to_toml()?, place)?;
    if let (Some(norm), Some(Value::Table(critic))) = (norm, table.get_mut("critic")) {
        critic.insert("norm".to_string(), norm);
    }
    Ok(table)
}

/// Parses a config file and merges it onto its `base`, if it names one.
///
/// # Errors
/// When the text is not TOML or the base is unknown.
pub fn parse_table(text: &str, place: &str) -> Result<Table> {
    check_depth(text).map_err(|what| invalid_config(place, what))?;
    let mut table: Table =
        text.parse().map_err(|e: toml::de::Error| invalid_config(place, e.to_string().trim_end().to_string()))?;
    match table.remove("base") {
        None => is_no_base(&table, place).map(|()| table),
        Some(Value::String(base)) => Ok(merge(preset_table(&base)?, table)),
        Some(other) => Err(invalid_config(place, format!("base must be the name of a preset, not {other}"))),
    }
}

/// What every config says, in a file or in its base.
const SECTIONS: [&str; 7] = ["data", "latent", "generator", "critic", "loss", "optimizer", "schedule"];

/// Refuses a file that names a preset as `preset`, and leaves to it what only a `base` would bring. (A complete config has it as a
/// label: what it began as.)
fn is_no_base(table: &Table, place: &str) -> Result<()> {
    let preset = table.get("preset").and_then(Value::as_str);
    let known = PRESETS.iter().map(|(name, _)| *name);
    let Some(near) = preset.and_then(|preset| nearest(preset, known)) else { return Ok(()) };
    let missing: Vec<String> =
        SECTIONS.iter().filter(|name| !table.contains_key(**name)).map(|name| format!("[{name}]")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let preset = on_one_line(preset.unwrap_or_default());
    let what = format!("preset = \"{preset}\" is a mere label, and the file lacks {}", missing.join(", "));
    let hint = format!("Did you mean base = \"{near}\"? Then the file says only what differs from that preset.");
    Err(Error::invalid(place, what, hint))
}

/// The most names in a key, joined by dots. No config has more than 3; each is a table in the one before, and thousands of those
/// overflow the stack of whoever walks them.
const MAX_DEPTH: usize = 16;

/// Refuses a TOML text with a key of too many names, before it is parsed. (Brackets in brackets the parser itself counts.)
fn check_depth(text: &str) -> Result<(), String> {
    let (mut rest, mut names, mut joined) = (text, 0, false);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => string_length(rest, c),
            _ if is_bare(c) => rest.find(|c| !is_bare(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        match c {
            '.' => joined = true,
            ' ' | '\t' => {}
            '"' | '\'' => (names, joined) = (if joined { names + 1 } else { 1 }, false),
            _ if is_bare(c) => (names, joined) = (if joined { names + 1 } else { 1 }, false),
            _ => (names, joined) = (0, false),
        }
        if names > MAX_DEPTH {
            return Err(format!("a key is made of more than {MAX_DEPTH} names"));
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// What keys are made of without quotes.
fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// How many bytes a string takes that a text begins with, its quotes included.
fn string_length(text: &str, quote: char) -> usize {
    let triple = [quote; 3].iter().collect::<String>();
    let end = if text.starts_with(&triple) { triple.as_str() } else { &triple[..1] };
    let mut at = end.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(end) {
            return at + end.len();
        }
        // An escape has what it escapes with it; a string of one line does not go on beyond that.
        let first = rest.chars().next().unwrap_or_default();
        match first {
            '\\' if quote == '"' => at += 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            '\n' if end.len() == 1 => return at,
            _ => at += first.len_utf8(),
        }
    }
    text.len()
}

/// Section by section, key by key; a section that names its `kind` replaces the base's whole.
fn merge(mut base: Table, over: Table) -> Table {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(new)) if !new.contains_key("kind") => section.extend(new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
    base
}

/// Sets `a.b.c = value` in a table, from the assignment `a.b.c=value`; the value is TOML, or else taken as a string.
///
/// # Errors
/// When the assignment has no `=`, or a part of the path is not a table.
pub fn set(table: &mut Table, assignment: &str) -> Result<()> {
    let wrong = |what: &str| {
        Error::usage(
            format!("`Overrides::set` {assignment}: {what}"),
            "Write `Overrides::set` section.key=value, for example `Overrides::set` schedule.batch_size=32.",
        )
    };
    let (path, value) = assignment.split_once('=').ok_or_else(|| wrong("no '='"))?;
    let text = format!("v = {value}");
    check_depth(&text).map_err(|what| wrong(&what))?;
    let value =
        text.parse::<Table>().ok().and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(value.trim().to_string()));
    let mut keys: Vec<&str> = path.split('.').map(str::trim).collect();
    if keys.len() > MAX_DEPTH {
        return Err(Error::usage(
            format!("`Overrides::set`: its key is made of {} names", keys.len()),
            "Write `Overrides::set` section.key=value, for example `Overrides::set` schedule.batch_size=32.",
        ));
    }
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| wrong("no key"))?;
    let mut at = table;
    for key in keys {
        at = match at.entry(key).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => inner,
            _ => return Err(wrong(&format!("'{key}' is not a section"))),
        };
    }
    at.insert(last.to_string(), value);
    Ok(())
}
