//! What was found in a data set.

use std::collections::BTreeMap;
use std::fmt;

use crate::text::{grouped, on_one_line};

/// What a data set's files hold. Its `Display` is a short text for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataReport {
    /// Images found, the broken ones included.
    pub found: usize,
    /// Images in the data set.
    pub used: usize,
    /// Images that could not be decoded; they are left out.
    pub broken: Vec<Broken>,
    /// Other files, passed over; hidden ones are not counted.
    pub ignored: usize,
    /// Images whose pixels, as used, equal those of an earlier one. They stay in.
    pub duplicates: usize,
    /// Used images by original width and height.
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// Used images without colour, however they are stored.
    pub grey: usize,
    /// Used images with colour.
    pub colour: usize,
}

/// An image that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Its path inside the folder or archive.
    pub name: String,
    /// Why.
    pub reason: String,
}

impl DataReport {
    pub(super) fn count(&mut self, images: usize, size: (u32, u32), colour: bool) {
        self.used += images;
        *self.sizes.entry(size).or_default() += images;
        *(if colour { &mut self.colour } else { &mut self.grey }) += images;
    }

    /// Adds what was found elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        self.found += other.found;
        self.used += other.used;
        self.broken.extend(other.broken);
        self.ignored += other.ignored;
        self.duplicates += other.duplicates;
        other.sizes.into_iter().for_each(|(size, count)| *self.sizes.entry(size).or_default() += count);
        self.grey += other.grey;
        self.colour += other.colour;
    }

    fn sizes_text(&self) -> String {
        let text = |&(width, height): &(u32, u32)| format!("{width}×{height}");
        let by_area = |size: &&(u32, u32)| u64::from(size.0) * u64::from(size.1);
        match (self.sizes.keys().min_by_key(by_area), self.sizes.keys().max_by_key(by_area)) {
            (Some(only), _) if self.sizes.len() == 1 => text(only),
            (Some(least), Some(most)) => format!("{} sizes from {} to {}", grouped(self.sizes.len()), text(least), text(most)),
            _ => String::new(),
        }
    }

    fn colours_text(&self) -> String {
        match (self.grey, self.colour) {
            (_, 0) => "grey".to_string(),
            (0, _) => "colour".to_string(),
            (grey, colour) => format!("({} colour, {} grey)", grouped(colour), grouped(grey)),
        }
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LISTED: usize = 5;
        let plural = if self.used == 1 { "" } else { "s" };
        write!(f, "{} image{plural}, {} {}", grouped(self.used), self.sizes_text(), self.colours_text())?;
        if self.duplicates > 0 {
            write!(f, "; {} exact duplicate{}", grouped(self.duplicates), if self.duplicates == 1 { "" } else { "s" })?;
        }
        if self.ignored > 0 {
            write!(f, "; {}", others(self.ignored))?;
        }
        if !self.broken.is_empty() {
            write!(f, "; {} broken left out:", grouped(self.broken.len()))?;
            for broken in self.broken.iter().take(LISTED) {
                write!(f, "\n  {broken}")?;
            }
            if self.broken.len() > LISTED {
                write!(f, "\n  and {} more", grouped(self.broken.len() - LISTED))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", on_one_line(&self.name), on_one_line(&self.reason))
    }
}

pub(super) fn others(count: usize) -> String {
    format!("{} other file{} passed over", grouped(count), if count == 1 { "" } else { "s" })
}
