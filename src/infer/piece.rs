//! Finished pieces of a job: images at consecutive places whose files are written, and what these can be checked by.

use std::collections::BTreeMap;
use std::ops;

use crc32fast::Hasher;
use serde_json::{Value, json};

/// Images at consecutive places, written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The first place.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// CRC-32 of the pixels, `[count, height, width, channels]`.
    pub pixels: u32,
    /// Bytes of the files.
    pub bytes: u64,
    /// CRC-32 of these bytes, file after file.
    pub files: u32,
}

impl Piece {
    /// The first place after it.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Its places.
    pub fn places(&self) -> ops::Range<u64> {
        self.first..self.end()
    }

    /// What its [`text`](Self::text) says.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let piece = Self {
            first: words.next()?.parse().ok()?,
            count: words.next()?.parse().ok()?,
            pixels: u32::from_str_radix(words.next()?, 16).ok()?,
            bytes: words.next()?.parse().ok()?,
            files: u32::from_str_radix(words.next()?, 16).ok()?,
        };
        let sound = piece.count > 0 && piece.first.checked_add(piece.count).is_some() && words.next().is_none();
        sound.then_some(piece)
    }

    /// What a journal's line says of it.
    pub fn text(&self) -> String {
        let Self { first, count, pixels, bytes, files } = self;
        format!("{first} {count} {pixels:08x} {bytes} {files:08x}")
    }

    /// What a manifest says of it, without where it is.
    pub fn facts(&self) -> Value {
        json!({ "count": self.count, "bytes": self.bytes, "crc32": hexadecimal(self.files), "pixels_crc32": hexadecimal(self.pixels) })
    }

    /// The piece from the place `first` on of which a manifest says these [`facts`](Self::facts).
    pub fn told(facts: &Value, first: u64) -> Option<Self> {
        Some(Self {
            first,
            count: facts["count"].as_u64()?,
            pixels: checksum(&facts["pixels_crc32"])?,
            bytes: facts["bytes"].as_u64()?,
            files: checksum(&facts["crc32"])?,
        })
    }

    /// This piece and the one that comes after it, of images of so many bytes.
    fn join(self, after: Self, image: u64) -> Self {
        Self {
            first: self.first,
            count: self.count + after.count,
            pixels: combine(self.pixels, after.pixels, after.count.saturating_mul(image)),
            bytes: self.bytes.saturating_add(after.bytes),
            files: combine(self.files, after.files, after.bytes),
        }
    }
}

/// Pieces that follow each other, of images of so many bytes, as one; `None` if there are none.
pub(super) fn join(pieces: &[Piece], image: usize) -> Option<Piece> {
    pieces.iter().copied().reduce(|a, b| a.join(b, image as u64))
}

/// A checksum as manifests have it.
pub(super) fn hexadecimal(crc: u32) -> String {
    format!("{crc:08x}")
}

/// The checksum that a manifest says.
pub(super) fn checksum(told: &Value) -> Option<u32> {
    u32::from_str_radix(told.as_str()?, 16).ok()
}

/// The CRC-32 of what has the one, followed by `length` bytes that have the other.
fn combine(before: u32, after: u32, length: u64) -> u32 {
    let mut crc = Hasher::new_with_initial_len(before, 0);
    crc.combine(&Hasher::new_with_initial_len(after, length));
    crc.finalize()
}

/// Finished pieces; neighbours are joined, so that their number does not grow with the images'.
#[derive(Debug, Clone, Default)]
pub(super) struct DonePieces {
    pieces: BTreeMap<u64, Piece>,
    /// Bytes of an image.
    image: u64,
}

impl DonePieces {
    /// Nothing yet, of images of so many bytes.
    pub fn new(image: usize) -> Self {
        Self { pieces: BTreeMap::new(), image: image as u64 }
    }

    /// Adds a piece; `false` if some of it was there.
    pub fn add(&mut self, piece: Piece) -> bool {
        let before = self.pieces.range(..piece.end()).next_back().map(|(_, before)| *before);
        if before.is_some_and(|before| before.end() > piece.first) {
            return false;
        }
        let mut joined = piece;
        if let Some(before) = before.filter(|before| before.end() == piece.first) {
            self.pieces.remove(&before.first);
            joined = before.join(joined, self.image);
        }
        if let Some(after) = self.pieces.remove(&piece.end()) {
            joined = joined.join(after, self.image);
        }
        self.pieces.insert(joined.first, joined);
        true
    }

    /// Bytes of an image.
    pub fn image(&self) -> usize {
        self.image as usize
    }

    /// Images that are done.
    pub fn count(&self) -> u64 {
        self.pieces.values().map(|piece| piece.count).sum()
    }

    /// All of `wanted` in one piece, once it is done.
    pub fn all(&self, wanted: &ops::Range<u64>) -> Option<Piece> {
        self.pieces.get(&wanted.start).copied().filter(|piece| piece.end() == wanted.end)
    }

    /// What of `wanted` is not done.
    pub fn gaps(&self, wanted: &ops::Range<u64>) -> Vec<ops::Range<u64>> {
        let mut gaps = Vec::new();
        let mut next = wanted.start;
        for piece in self.pieces.values() {
            if next < piece.first {
                gaps.push(next..piece.first);
            }
            next = piece.end();
        }
        if next < wanted.end {
            gaps.push(next..wanted.end);
        }
        gaps
    }
}

/// Sums up pieces while they are written, one after another.
pub(super) struct Tally {
    first: u64,
    next: u64,
    pixels: Hasher,
    files: Hasher,
    bytes: u64,
}

impl Tally {
    /// Nothing is written yet from the place `first` on.
    pub fn new(first: u64) -> Self {
        Self { first, next: first, pixels: Hasher::new(), files: Hasher::new(), bytes: 0 }
    }

    /// The place of the image that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next `count` images are written.
    pub fn images(&mut self, count: u64, pixels: &[u8]) {
        self.next += count;
        self.pixels.update(pixels);
    }

    /// These bytes are written to a file.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.files.update(bytes);
    }

    /// What was written since the last time, if that is anything: a piece of its own.
    pub fn close(&mut self) -> Option<Piece> {
        let crc = |hasher: &mut Hasher| std::mem::take(hasher).finalize();
        let (first, pixels, files) = (self.first, crc(&mut self.pixels), crc(&mut self.files));
        let (count, bytes) = (self.next - first, std::mem::take(&mut self.bytes));
        self.first = self.next;
        (count > 0).then_some(Piece { first, count, pixels, bytes, files })
    }
}
