//! The images of one call.

use std::ops::{self, RangeInclusive};

use super::selection::{Selection, Shard};
use super::tiling::Tiling;
use crate::error::Result;

/// The images that one call makes: those of a selection, or of a shard of it.
#[derive(Debug, Clone)]
pub(super) struct Share {
    selection: Selection,
    shard: Option<Shard>,
    places: ops::Range<u64>,
}

impl Share {
    /// The images of a shard of `selection`, or all. Shards are not cut within a tile.
    ///
    /// # Errors
    /// When there are no images, or their numbers are too large.
    pub fn new(selection: Selection, shard: Option<Shard>, tiling: Tiling) -> Result<Self> {
        let whole = selection.places()?;
        let places = shard.map_or(whole.clone(), |shard| shard.part(&whole, tiling.size()));
        Ok(Self { selection, shard, places })
    }

    /// The job that this is, or is a shard of.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Which part of the job this is, if it is not all of it.
    pub fn shard(&self) -> Option<Shard> {
        self.shard
    }

    /// The images, by their places in the job.
    pub fn places(&self) -> ops::Range<u64> {
        self.places.clone()
    }

    /// How many images.
    pub fn count(&self) -> u64 {
        self.places.end - self.places.start
    }

    /// What the images are called by: their numbers, or their seeds.
    pub fn names(&self) -> Vec<RangeInclusive<u64>> {
        match &self.selection {
            _ if self.places.is_empty() => Vec::new(),
            Selection::Numbers { .. } => vec![self.places.start..=self.places.end - 1],
            Selection::Seeds { seeds, .. } => seeds.part(&self.places),
        }
    }

    /// Parts of what there is have names of their own: shards by their numbers, others by the first and the last image's, or
    /// by their seeds.
    pub fn suffix(&self) -> String {
        let range = match &self.selection {
            Selection::Numbers { start: 0, .. } => String::new(),
            Selection::Numbers { start, n, .. } => format!("-{start:06}-{:06}", (start + n).saturating_sub(1)),
            Selection::Seeds { seeds, .. } => format!("-seeds-{}", short(&seeds.to_string())),
        };
        range + &self.shard_suffix()
    }

    /// What names of a shard's files end in, which must not be those of another's.
    pub fn shard_suffix(&self) -> String {
        self.shard.map(Shard::suffix).unwrap_or_default()
    }
}

/// A text that can be part of a file's name: itself, or where it is long its checksum.
fn short(text: &str) -> String {
    const MOST: usize = 40;
    match text.len() {
        ..=MOST => text.replace(',', "_"),
        _ => format!("{:08x}", crc32fast::hash(text.as_bytes())),
    }
}
