//! A data set in memory: its images, what it is known by, and which of them are held out.

use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::classes::Classes;
use super::config::DataConfig;
use super::report::DataReport;
use super::{Loaded, numbered};
use crate::contract::hex;
use crate::error::{Error, Result};
use crate::image::Images;
use crate::random::{Purpose, Stream};
use crate::text::grouped;

/// Images in memory, 8 bits a channel, planar.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// What it is called in logs and metadata: the built-in name, or the file's or folder's.
    pub name: String,
    /// Over shape, pixels and labels, so over what the networks see; in hexadecimal.
    pub sha256: String,
    /// How many images; at least 1.
    pub len: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Height and width.
    pub size: usize,
    /// `[len, channels, size, size]`.
    pub pixels: Vec<u8>,
    /// The class of each image; empty where nobody asked for classes.
    pub labels: Vec<u8>,
    /// What was found on the way.
    pub report: DataReport,
}

/// The numbers of the images to train on and of those held out; each ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Never empty.
    pub train: Vec<u32>,
    /// Never trained on.
    pub held_out: Vec<u32>,
}

impl Dataset {
    /// Image number `index`, `[channels, size, size]`.
    ///
    /// # Panics
    /// When `index` is not below `len`.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.channels * self.size * self.size;
        &self.pixels[index * bytes..(index + 1) * bytes]
    }

    /// The images of these numbers, in this order.
    ///
    /// # Panics
    /// When a number is not below `len`.
    pub fn images(&self, indices: &[u32]) -> Images {
        let (channels, area) = (self.channels, self.size * self.size);
        let mut pixels = vec![0; indices.len() * channels * area];
        for (out, &index) in pixels.chunks_exact_mut(channels * area).zip(indices) {
            for (channel, plane) in self.image(index as usize).chunks_exact(area).enumerate() {
                out[channel..].iter_mut().step_by(channels).zip(plane).for_each(|(to, from)| *to = *from);
            }
        }
        Images { n: indices.len(), height: self.size, width: self.size, channels, pixels }
    }

    /// The same images without their classes: what is loaded where nobody asks for them.
    pub fn without_classes(mut self) -> Self {
        if !self.labels.is_empty() {
            self.labels.clear();
            self.sha256 = hash([self.len, self.channels, self.size, self.size], [&self.pixels, &[]]);
        }
        self
    }

    /// Holds out a random share of the images: the nearest whole number of them, at least one if the share is above 0, but
    /// never all. The same seed holds out the same images.
    pub fn split(&self, held_out: f64, seed: u64) -> Split {
        let wanted = (held_out.clamp(0.0, 1.0) * self.len as f64).round() as usize;
        let count = wanted.max(usize::from(held_out > 0.0)).min(self.len.saturating_sub(1));
        let mut held_out = Stream::at(seed, Purpose::HeldOut, 0).permutation(self.len as u32);
        let mut train = held_out.split_off(count);
        held_out.sort_unstable();
        train.sort_unstable();
        Split { train, held_out }
    }
}

pub(super) fn finish(name: String, config: &DataConfig, loaded: Loaded) -> Result<Dataset> {
    let Loaded { pixels, classes, names, mut report } = loaded;
    let (size, channels, len) = (config.size, config.channels, report.used);
    if u32::try_from(len).is_err() {
        return Err(Error::invalid(name, format!("{len} images"), "At most 4,294,967,295 images can be numbered."));
    }
    let bytes = channels * size * size;
    let fitting = classes.and_then(|classes| match classes.labels.len() {
        labels if labels == len => Ok(classes),
        labels => Err(format!("there are {} labels for {} images", grouped(labels), grouped(len))),
    });
    match &fitting {
        Ok(classes) => report.classes = classes.counts(),
        Err(why) => report.no_classes = Some(why.clone()),
    }
    let labels = match config.classes {
        0 => Vec::new(),
        classes => checked_labels(&name, fitting, classes)?,
    };
    let hash = || hash([len, channels, size, size], [&pixels, &labels]);
    let (sha256, copies) = rayon::join(hash, || copies(&pixels, bytes));
    report.duplicates = copies.values().map(Vec::len).sum();
    let called = |index: usize| names.get(index).cloned().unwrap_or_else(|| numbered(index));
    let group = |(first, copies): (usize, Vec<usize>)| std::iter::once(first).chain(copies).map(called).collect();
    report.copies = copies.into_iter().map(group).collect();
    Ok(Dataset { name, sha256, len, channels, size, pixels, labels, report })
}

/// Images that have copies, each with those.
fn copies(pixels: &[u8], bytes: usize) -> BTreeMap<usize, Vec<usize>> {
    let mut first = HashMap::new();
    let mut copies: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, image) in pixels.chunks_exact(bytes).enumerate() {
        match first.entry(image) {
            Place::Vacant(place) => _ = place.insert(index),
            Place::Occupied(place) => copies.entry(*place.get()).or_default().push(index),
        }
    }
    copies
}

/// The labels, if there are images of each of the classes and of no other.
fn checked_labels(name: &str, labels: Result<Classes, String>, classes: usize) -> Result<Vec<u8>> {
    let hint = "Labels are an IDX file beside that of the images, numbers from 0 on, or folders of images, one a class; data.classes \
                is how many classes there are.";
    let refused = |what: String| Error::invalid(name, what, hint);
    let Classes { labels, .. } =
        labels.map_err(|why| refused(format!("data.classes asks for {classes} classes, but {why}")))?;
    let found: BTreeSet<usize> = labels.iter().copied().map(usize::from).collect();
    if found.iter().copied().eq(0..classes) {
        Ok(labels)
    } else {
        let found = found.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        Err(refused(format!("data.classes is {classes}, but its labels are {found}")))
    }
}

fn hash(shape: [usize; 4], parts: [&[u8]; 2]) -> String {
    let mut hasher = Sha256::new();
    for extent in shape {
        hasher.update((extent as u64).to_le_bytes());
    }
    parts.iter().for_each(|part| hasher.update(part));
    hex(&hasher.finalize())
}
