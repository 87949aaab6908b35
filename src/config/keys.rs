//! Every key that a config knows: the reference, and where in it a key stands.
//!
//! The [`REFERENCE`] is held to the structs by tests, in both directions: what serde knows stands in it, with the right default, and
//! what stands in it is known.

use crate::error::nearest;

/// Every key with what it is, its range and its default: a TOML file. Lines that begin with `#` and a key are what may be left out.
pub const REFERENCE: &str = include_str!("reference.toml");

/// A line of the reference.
pub(super) enum Line<'a> {
    Section(&'a str),
    /// A key, and the value behind it.
    Key(&'a str, &'a str),
    /// An explanation, or nothing.
    Other,
}

impl<'a> Line<'a> {
    /// Explanations have a space behind their `#`, and what is only commented out has none.
    pub(super) fn of(line: &'a str) -> Self {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Self::Section(name);
        }
        match line.split_once(" = ") {
            Some((key, value)) if !key.contains(' ') => Self::Key(key, value),
            _ => Self::Other,
        }
    }
}

/// What to write instead of a key that is unknown where it stands: the same name in its section, or else the nearest of those that are
/// known there.
pub(super) fn meant<'a>(unknown: &'a str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut section = "";
    let homes = REFERENCE.lines().filter_map(|line| match Line::of(line) {
        Line::Section(name) => {
            section = name;
            None
        }
        Line::Key(key, _) if key == unknown && !section.is_empty() => Some(format!("{section}.{key}")),
        Line::Key(..) | Line::Other => None,
    });
    let homes: Vec<String> = homes.collect();
    if homes.is_empty() { nearest(unknown, known).map(ToString::to_string) } else { Some(homes.join(" or ")) }
}
