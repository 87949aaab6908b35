//! Which images: some numbers of one seed, or one image of each of many seeds; and a shard of either.
//!
//! Every image has a *place* in the job. Places are what batches are aligned to and what a journal counts. In a run of
//! numbers the place is the image's number; in a list of seeds it is the place in the list.

use std::fmt;
use std::ops::{self, RangeInclusive};
use std::str::FromStr;

use super::conditioning::Conditioning;
use super::tiling::Tiling;
use crate::error::{Error, Result};
use crate::latent::Latent;

/// Image numbers and places stay below this.
pub const MAX_INDEX: u64 = 1 << 63;

/// The images of a job, without [`Shard`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Images `start..start + n` of one seed; named by their numbers.
    Numbers {
        /// The seed of the latents.
        seed: u64,
        /// The first image's number.
        start: u64,
        /// How many.
        n: u64,
    },
    /// The same image of many seeds; named by the seeds.
    Seeds {
        /// Which seeds, in this order.
        seeds: SeedList,
        /// The number of the image of each.
        number: u64,
    },
}

impl Selection {
    /// The places of all images.
    ///
    /// # Errors
    /// When there are none, or numbers reach [`MAX_INDEX`].
    pub fn places(&self) -> Result<ops::Range<u64>> {
        let (start, n) = match self {
            Self::Numbers { start, n, .. } => (*start, *n),
            Self::Seeds { seeds, number } => {
                span(*number, 1)?;
                (0, seeds.len())
            }
        };
        if n == 0 {
            return Err(Error::usage("0 images were asked for", "Ask for 1 or more."));
        }
        span(start, n)
    }

    /// What the image at a place is called by: its number, or its seed.
    pub fn name(&self, place: u64) -> u64 {
        match self {
            Self::Numbers { .. } => place,
            Self::Seeds { seeds, .. } => seeds.get(place),
        }
    }

    /// The place of the image of this name, if it is in the job.
    pub fn place_of(&self, name: u64) -> Option<u64> {
        match self {
            Self::Numbers { start, n, .. } => (name >= *start && name - *start < *n).then_some(name),
            Self::Seeds { seeds, .. } => seeds.place_of(name),
        }
    }

    /// The latents at `first..first + rows`, `[rows, latent]`. Beyond the last place the rows still have values: a batch
    /// always is full.
    pub(super) fn latents(&self, latent: Latent, conditioning: &Conditioning, first: u64, rows: usize) -> Vec<f32> {
        let mut values = match self {
            Self::Numbers { seed, .. } => latent.rows(*seed, first, rows),
            Self::Seeds { seeds, number } => {
                (first..).take(rows).flat_map(|place| latent.rows(seeds.get(place), *number, 1)).collect()
            }
        };
        conditioning.apply(latent, &mut values);
        values
    }
}

/// Places `start..start + n`, if they go that far.
pub(crate) fn span(start: u64, n: u64) -> Result<ops::Range<u64>> {
    match start.checked_add(n) {
        Some(end) if end <= MAX_INDEX => Ok(start..end),
        _ => Err(Error::usage(
            format!("there are no images {start} to {start} + {n}"),
            "Image numbers stay below 2^63: choose a smaller start.",
        )),
    }
}

/// Seeds in the order they were named, `0-99,7`; each counts once, where it is named first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedList {
    /// No two overlap; beside each, how many seeds come before it.
    runs: Vec<(u64, RangeInclusive<u64>)>,
    len: u64,
}

impl SeedList {
    /// How many seeds.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a list has a seed at least.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The seed at a place; beyond the end, the last.
    pub fn get(&self, place: u64) -> u64 {
        let run = self.runs.partition_point(|(before, _)| *before <= place).saturating_sub(1);
        self.runs.get(run).map_or(0, |(before, run)| run.start().saturating_add(place - before).min(*run.end()))
    }

    /// The runs of the seeds at some places.
    #[cfg(feature = "jobs")]
    pub(super) fn part(&self, places: &ops::Range<u64>) -> Vec<RangeInclusive<u64>> {
        let part = |(before, run): &(u64, RangeInclusive<u64>)| {
            let end = before + (run.end() - run.start()) + 1;
            let (from, to) = (places.start.max(*before), places.end.min(end));
            (from < to).then(|| run.start() + (from - before)..=run.start() + (to - 1 - before))
        };
        self.runs.iter().filter_map(part).collect()
    }

    fn place_of(&self, seed: u64) -> Option<u64> {
        self.runs.iter().find(|(_, run)| run.contains(&seed)).map(|(before, run)| before + (seed - run.start()))
    }

    /// Adds the seeds of `run` that are not there yet.
    fn add(&mut self, run: RangeInclusive<u64>) -> Option<()> {
        let mut there: Vec<RangeInclusive<u64>> = self.runs.iter().map(|(_, run)| run.clone()).collect();
        there.retain(|other| other.start() <= run.end() && run.start() <= other.end());
        there.sort_by_key(|other| *other.start());
        let mut next = Some(*run.start());
        for other in there {
            if let Some(first) = next.filter(|first| first < other.start()) {
                self.push(first..=other.start() - 1)?;
            }
            next = next.and_then(|first| Some(first.max(other.end().checked_add(1)?)));
        }
        match next.filter(|first| first <= run.end()) {
            Some(first) => self.push(first..=*run.end()),
            None => Some(()),
        }
    }

    fn push(&mut self, run: RangeInclusive<u64>) -> Option<()> {
        let n = (run.end() - run.start()).checked_add(1)?;
        self.runs.push((self.len, run));
        self.len = self.len.checked_add(n).filter(|len| *len < MAX_INDEX)?;
        Some(())
    }
}

impl FromStr for SeedList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Self { runs: Vec::new(), len: 0 };
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let seed =
                |text: &str| text.trim().parse::<u64>().map_err(|_| format!("'{part}' is no seed and no range of seeds"));
            let (first, last) = (seed(first)?, seed(last)?);
            if first > last {
                return Err(format!("'{part}' runs backwards"));
            }
            list.add(first..=last).ok_or("these are too many seeds")?;
        }
        Ok(list)
    }
}

impl fmt::Display for SeedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (_, run)) in self.runs.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if run.start() == run.end() {
                write!(f, "{comma}{}", run.start())?
            } else {
                write!(f, "{comma}{}-{}", run.start(), run.end())?
            }
        }
        Ok(())
    }
}

/// Part `index` of `of` parts, counted from 1. All parts together are the whole, in order and without overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    of: u64,
}

impl Shard {
    /// The shard with an index from 0; `None` if there are not so many.
    #[cfg(feature = "jobs")]
    pub(super) fn of_index(index: u64, of: u64) -> Option<Self> {
        (index < of).then(|| Self { index: index + 1, of })
    }

    /// Which of the parts, from 1.
    pub fn index(self) -> u64 {
        self.index
    }

    /// How many parts there are.
    pub fn of(self) -> u64 {
        self.of
    }

    /// This shard's places. Cuts lie at multiples of `align`.
    pub fn part(self, whole: &ops::Range<u64>, align: u64) -> ops::Range<u64> {
        let n = u128::from(whole.end - whole.start);
        let cut = |k: u64| {
            // Between 0 and n, so it fits.
            let place = whole.start + (n * u128::from(k) / u128::from(self.of)) as u64;
            if k == self.of { whole.end } else { Tiling::of(align).start(place).max(whole.start) }
        };
        cut(self.index - 1)..cut(self.index)
    }

    /// What the names of its files end in, `-01-of-12`: they sort as the shards do.
    #[cfg(feature = "jobs")]
    pub(super) fn suffix(self) -> String {
        let digits = self.of.to_string().len();
        format!("-{:0digits$}-of-{}", self.index, self.of)
    }

    /// Whether a name ends in what that of a part of as many parts does.
    #[cfg(feature = "jobs")]
    pub(super) fn is_suffix(self, text: &str) -> bool {
        let index = text.strip_prefix('-').and_then(|text| text.strip_suffix(&format!("-of-{}", self.of)));
        index.is_some_and(|index| index.parse().is_ok_and(|index| Self { index, ..self }.suffix() == text))
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            Some((0, _)) => Err("shards are counted from 1: 1/4 to 4/4".to_string()),
            _ => Err("expected I/N, the I-th of N shards, for example 1/4".to_string()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}
