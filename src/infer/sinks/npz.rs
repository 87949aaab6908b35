//! NumPy's zip files of arrays, `.npz`: the pixels, and behind them the classes of the images where the generator was told classes. Their sizes are
//! written before the data is known, so that data can be written in any order, and go on after an interruption. That is why no zip
//! library serves here.

use crc32fast::Hasher;
use rayon::prelude::*;

use super::array::{Array, Ends};
use super::npy;
use super::sink::Site;

/// The format.
pub(super) const NPZ: Array = Array { name: "npz", labels_at: Some(labels_at), head, ends, length, to_stream: None };

/// The names of the arrays in a `.npz` file, as `numpy.savez(file, pixels, labels)` gives them.
const PIXELS: &[u8] = b"arr_0.npy";
const LABELS: &[u8] = b"arr_1.npy";
/// Zip's version 4.5, the first with 64-bit sizes.
const VERSION: u16 = 45;
/// 1980-01-01, the first day of zip's calendar: files of the same pixels are the same.
const DATE: u16 = 0x21;
/// In a field of 32 bits: look into the zip64 field.
const IN_ZIP64: u32 = u32::MAX;

/// A `.npy` file in the zip file.
struct Entry {
    name: &'static [u8],
    /// Where its local header is.
    at: u64,
    /// Bytes of the `.npy` file.
    bytes: u64,
    crc: u32,
}

impl Entry {
    /// Where it ends.
    fn end(&self) -> u64 {
        self.at + local_header(self).len() as u64 + self.bytes
    }
}

/// The array of pixels, whose CRC-32 is known by the end.
fn pixels(site: &Site, crc: u32) -> Entry {
    let (header, bytes) = (npy::header(site.share.count(), site.shape), site.pixels());
    Entry { name: PIXELS, at: 0, bytes: header.len() as u64 + bytes, crc: joined(&header, crc, bytes) }
}

/// The array of classes behind it: uint8 `[n]`, and its data.
fn labels(site: &Site, at: u64) -> Option<(Entry, Vec<u8>)> {
    let labels = site.labels.as_ref()?;
    let data: Vec<u8> = site.share.places().into_par_iter().map(|place| labels.at(place)).collect();
    let file = [npy::header_of(&format!("({},)", site.share.count())), data].concat();
    Some((Entry { name: LABELS, at, bytes: file.len() as u64, crc: crc32fast::hash(&file) }, file))
}

/// Where the classes begin.
fn labels_at(site: &Site) -> u64 {
    let header = npy::header_of(&format!("({},)", site.share.count())).len() as u64;
    // The local header is as long whatever it says.
    Entry { name: LABELS, at: pixels(site, 0).end(), bytes: header, crc: 0 }.end()
}

/// The CRC-32 of a header and of what follows it.
fn joined(header: &[u8], crc: u32, bytes: u64) -> u32 {
    let mut all = Hasher::new();
    all.update(header);
    all.combine(&Hasher::new_with_initial_len(crc, bytes));
    all.finalize()
}

fn head(site: &Site) -> Vec<u8> {
    // Its checksum is not known yet.
    [local_header(&Entry { crc: 0, ..pixels(site, 0) }), npy::header(site.share.count(), site.shape)].concat()
}

fn ends(site: &Site, crc: u32) -> Ends {
    let pixels = pixels(site, crc);
    let head = [local_header(&pixels), npy::header(site.share.count(), site.shape)].concat();
    let (end, mut tail) = (pixels.end(), Vec::new());
    let mut entries = vec![pixels];
    if let Some((entry, file)) = labels(site, end) {
        tail.extend(local_header(&entry));
        tail.extend(file);
        entries.push(entry);
    }
    tail.extend(directory(&entries));
    vec![(0, head), (end, tail)]
}

fn length(site: &Site) -> u64 {
    let mut entries = vec![pixels(site, 0)];
    if site.labels.is_some() {
        let header = npy::header_of(&format!("({},)", site.share.count()));
        let bytes = header.len() as u64 + site.share.count();
        entries.push(Entry { name: LABELS, at: entries[0].end(), bytes, crc: 0 });
    }
    entries.iter().map(Entry::end).fold(0, u64::max) + directory(&entries).len() as u64
}

/// What comes before an entry: a zip file's local header (APPNOTE 6.3.10, section 4.3.7), stored, zip64.
fn local_header(entry: &Entry) -> Vec<u8> {
    let mut head = b"PK\x03\x04".to_vec();
    common_fields(&mut head, entry);
    put16(&mut head, 20);
    head.extend(entry.name);
    put16(&mut head, 1);
    put16(&mut head, 16);
    put64(&mut head, entry.bytes);
    put64(&mut head, entry.bytes);
    head
}

/// What comes after all of them: the directory, and its two ends (sections 4.3.12 to 4.3.16).
fn directory(entries: &[Entry]) -> Vec<u8> {
    let mut tail = Vec::new();
    for entry in entries {
        tail.extend(b"PK\x01\x02");
        put16(&mut tail, VERSION);
        common_fields(&mut tail, entry);
        put16(&mut tail, 28);
        tail.extend([0; 2 + 2 + 2 + 4]); // no comment, first disk, no attributes
        put32(&mut tail, IN_ZIP64);
        tail.extend(entry.name);
        put16(&mut tail, 1);
        put16(&mut tail, 24);
        put64(&mut tail, entry.bytes);
        put64(&mut tail, entry.bytes);
        put64(&mut tail, entry.at);
    }
    let (directory, directory_at) = (tail.len() as u64, entries.iter().map(Entry::end).fold(0, u64::max));

    tail.extend(b"PK\x06\x06");
    put64(&mut tail, 44); // bytes of this record that follow
    put16(&mut tail, VERSION);
    put16(&mut tail, VERSION);
    tail.extend([0; 4 + 4]); // disks
    put64(&mut tail, entries.len() as u64);
    put64(&mut tail, entries.len() as u64);
    put64(&mut tail, directory);
    put64(&mut tail, directory_at);

    tail.extend(b"PK\x06\x07");
    put32(&mut tail, 0);
    put64(&mut tail, directory_at + directory);
    put32(&mut tail, 1);

    tail.extend(b"PK\x05\x06");
    tail.extend([0; 2 + 2]); // disks
    put16(&mut tail, entries.len() as u16);
    put16(&mut tail, entries.len() as u16);
    put32(&mut tail, directory as u32);
    put32(&mut tail, IN_ZIP64);
    put16(&mut tail, 0);
    tail
}

/// From "version needed" to the length of the name.
fn common_fields(out: &mut Vec<u8>, entry: &Entry) {
    for value in [VERSION, 0, 0, 0, DATE] {
        put16(out, value); // version, flags, method (stored), time, date
    }
    put32(out, entry.crc);
    put32(out, IN_ZIP64);
    put32(out, IN_ZIP64);
    put16(out, entry.name.len() as u16);
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend(value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend(value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend(value.to_le_bytes());
}
