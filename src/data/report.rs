//! What was found in a data set.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

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
    /// Images that would have taken more memory than one may; they are left out.
    pub too_large: Vec<Broken>,
    /// Other files, passed over; hidden ones are not counted.
    pub ignored: usize,
    /// How many of these there are of each kind: `.txt`, or [`NO_ENDING`].
    pub kinds_ignored: BTreeMap<String, usize>,
    /// Images whose pixels, as used, equal those of an earlier one. They stay in.
    pub duplicates: usize,
    /// Images with the same pixels, by name: the first of each such group, and its copies.
    pub copies: Vec<Vec<String>>,
    /// Used images by original width and height.
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// Used images without colour, however they are stored.
    pub grey: usize,
    /// Used images with colour.
    pub colour: usize,
    /// The classes that labels or folders make, by their numbers, whether anybody asked for them or not.
    pub classes: Vec<ClassCount>,
    /// Why there are none.
    pub no_classes: Option<String>,
}

/// A class of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassCount {
    /// Its number.
    pub number: usize,
    /// What it is called, where that is known.
    pub name: Option<String>,
    /// Used images in it.
    pub images: usize,
}

/// What files count as whose names do not end in a kind.
pub const NO_ENDING: &str = "without an ending";

/// An image that is left out.
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

    pub(super) fn ignore(&mut self, name: &str) {
        self.ignored += 1;
        *self.kinds_ignored.entry(kind_of(name)).or_default() += 1;
    }

    /// Adds what was found in another source. What is said of classes and copies is said of the whole.
    pub(super) fn add(&mut self, other: Self) {
        self.found += other.found;
        self.used += other.used;
        self.broken.extend(other.broken);
        self.too_large.extend(other.too_large);
        self.ignored += other.ignored;
        self.grey += other.grey;
        self.colour += other.colour;
        for (kind, count) in other.kinds_ignored {
            *self.kinds_ignored.entry(kind).or_default() += count;
        }
        for (size, count) in other.sizes {
            *self.sizes.entry(size).or_default() += count;
        }
    }

    /// What the classes are called, by their numbers from 0 on; empty unless each has images and a name.
    pub fn class_names(&self) -> Vec<String> {
        let named = |(number, class): (usize, &ClassCount)| class.name.clone().filter(|_| class.number == number);
        self.classes.iter().enumerate().map(named).collect::<Option<_>>().unwrap_or_default()
    }

    /// The classes with their counts, in a line; empty where there are not two.
    pub fn classes_text(&self) -> String {
        if self.classes.len() < 2 {
            return String::new();
        }
        let called = |class: &ClassCount| {
            let name = class.name.clone().unwrap_or_else(|| class.number.to_string());
            format!("{} ({})", on_one_line(&name), grouped(class.images))
        };
        let all: Vec<String> = self.classes.iter().map(called).collect();
        format!("{} classes: {}", self.classes.len(), all.join(", "))
    }

    /// All of it, for programs.
    pub fn to_json(&self) -> Value {
        let left_out = |all: &[Broken]| -> Vec<Value> {
            all.iter().map(|Broken { name, reason }| json!({ "name": name, "reason": reason })).collect()
        };
        let size =
            |(&(width, height), images): (&(u32, u32), &usize)| json!({ "width": width, "height": height, "images": images });
        let class = |class: &ClassCount| json!({ "number": class.number, "name": class.name, "images": class.images });
        json!({
            "found": self.found,
            "used": self.used,
            "broken": left_out(&self.broken),
            "too_large": left_out(&self.too_large),
            "passed_over": self.kinds_ignored,
            "duplicates": self.duplicates,
            "copies": self.copies,
            "sizes": self.sizes.iter().map(size).collect::<Vec<_>>(),
            "grey": self.grey,
            "colour": self.colour,
            "classes": self.classes.iter().map(class).collect::<Vec<_>>(),
            "no_classes": self.no_classes,
        })
    }

    /// What images of `size` × `size` pixels and so many channels do not keep of these, in words: enlarged ones, colour.
    pub fn misfit(&self, size: usize, channels: usize) -> Option<String> {
        let small = |(width, height): &(u32, u32)| (*width.min(height) as usize) < size;
        let enlarged: usize = self.sizes.iter().filter(|(size, _)| small(size)).map(|(_, images)| images).sum();
        let enlarged = (2 * enlarged > self.used)
            .then(|| format!("{} of {} images are enlarged to {size}×{size}", grouped(enlarged), grouped(self.used)));
        let grey = (channels == 1 && 2 * self.colour > self.used)
            .then(|| format!("{} of {} images lose their colour", grouped(self.colour), grouped(self.used)));
        let told: Vec<String> = enlarged.into_iter().chain(grey).collect();
        (!told.is_empty()).then(|| told.join(", "))
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
        let plural = if self.used == 1 { "" } else { "s" };
        write!(f, "{} image{plural}, {} {}", grouped(self.used), self.sizes_text(), self.colours_text())?;
        if self.duplicates > 0 {
            write!(f, "; {} exact duplicate{}", grouped(self.duplicates), if self.duplicates == 1 { "" } else { "s" })?;
        }
        if self.ignored > 0 {
            write!(f, "; {}", self.others())?;
        }
        write_left_out(f, &self.broken, "broken")?;
        write_left_out(f, &self.too_large, "too large")
    }
}

fn write_left_out(f: &mut fmt::Formatter<'_>, all: &[Broken], what: &str) -> fmt::Result {
    const LISTED: usize = 5;
    if all.is_empty() {
        return Ok(());
    }
    write!(f, "; {} {what} left out:", grouped(all.len()))?;
    for one in all.iter().take(LISTED) {
        write!(f, "\n  {one}")?;
    }
    if all.len() > LISTED {
        write!(f, "\n  and {} more", grouped(all.len() - LISTED))?;
    }
    Ok(())
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", on_one_line(&self.name), on_one_line(&self.reason))
    }
}

impl DataReport {
    /// How many files were passed over, of which kinds: the most frequent first.
    pub(super) fn others(&self) -> String {
        const LISTED: usize = 5;
        let mut kinds: Vec<(&String, &usize)> = self.kinds_ignored.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let mut told: Vec<String> =
            kinds.iter().take(LISTED).map(|(kind, count)| format!("{} {}", grouped(**count), on_one_line(kind))).collect();
        if kinds.len() > LISTED {
            told.push(format!("{} more kinds", grouped(kinds.len() - LISTED)));
        }
        let plural = if self.ignored == 1 { "" } else { "s" };
        format!("{} other file{plural} passed over: {}", grouped(self.ignored), told.join(", "))
    }
}

/// What a file's name ends in, in small letters. An ending that is longer than any is none.
fn kind_of(name: &str) -> String {
    const LONGEST: usize = 10;
    let name = name.rsplit('/').next().unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && (1..=LONGEST).contains(&ending.chars().count()) => {
            format!(".{}", ending.to_lowercase())
        }
        _ => NO_ENDING.to_string(),
    }
}
