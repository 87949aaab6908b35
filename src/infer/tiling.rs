//! Places cut at the multiples of a number.
//!
//! The places of a job are cut in five ways, each of which has its own size:
//!
//! - a *batch* is what the network makes in one run;
//! - a *block* is some batches, whose pixels are handled together because that is worth the while;
//! - a *piece* is what the journal notes: some batches, or the images of one file of many;
//! - a *task* is what one thread makes before it asks for more: a piece, or some files of many images;
//! - a *part* of a manifest is what its checksums vouch for together.
//!
//! All of them are counted from place 0, whichever part of a job is wanted: so each image is made in the same batch by every call.

use std::ops;

/// A way to cut places: tiles of one size, the first of which begins at place 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiling(u64);

impl Tiling {
    /// Tiles of so many places; of single ones, if that is 0.
    pub const fn of(size: u64) -> Self {
        Self(if size == 0 { 1 } else { size })
    }

    /// Places in a tile.
    pub fn size(self) -> u64 {
        self.0
    }

    /// The number of the tile that a place is in.
    pub fn number(self, place: u64) -> u64 {
        place / self.0
    }

    /// The first place of the tile that a place is in.
    pub fn start(self, place: u64) -> u64 {
        place - place % self.0
    }

    /// Whether a tile begins at a place.
    #[cfg(feature = "jobs")]
    pub fn begins_at(self, place: u64) -> bool {
        place.is_multiple_of(self.0)
    }

    /// The numbers of the tiles that some places are in.
    pub fn numbers(self, places: &ops::Range<u64>) -> ops::Range<u64> {
        if places.is_empty() { 0..0 } else { self.number(places.start)..self.number(places.end - 1) + 1 }
    }

    /// The parts of some places that lie in one tile each, in their order.
    pub fn cut(self, places: ops::Range<u64>) -> impl Iterator<Item = ops::Range<u64>> + Send {
        let numbers = self.numbers(&places);
        numbers.map(move |number| (number * self.0).max(places.start)..((number + 1) * self.0).min(places.end))
    }
}
