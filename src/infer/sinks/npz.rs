//! NumPy's zip files of one array, `.npz`. Their sizes are written before the data is known, so that data can be written in any
//! order, and go on after an interruption. That is why no zip library serves here.

use crc32fast::Hasher;

use super::array::{Array, Ends};
use super::npy;

/// The format.
pub(super) const NPZ: Array = Array { name: "npz", head, ends };

/// The name of the array in a `.npz` file, as `numpy.savez(file, array)` gives it.
const ENTRY: &[u8] = b"arr_0.npy";
/// Zip's version 4.5, the first with 64-bit sizes.
const VERSION: u16 = 45;
/// 1980-01-01, the first day of zip's calendar: files of the same pixels are the same.
const DATE: u16 = 0x21;
/// In a field of 32 bits: look into the zip64 field.
const IN_ZIP64: u32 = u32::MAX;

/// Where in a file the checksum stands that [`local_header`] leaves at 0.
const CRC_AT: usize = 14;

fn head(count: u64, shape: [usize; 3]) -> Vec<u8> {
    [local_header(entry_bytes(count, shape)), npy::header(count, shape)].concat()
}

fn ends(count: u64, shape: [usize; 3], pixels: u32) -> Ends {
    let mut crc = Hasher::new();
    crc.update(&npy::header(count, shape));
    crc.combine(&Hasher::new_with_initial_len(pixels, pixel_bytes(count, shape)));
    let (crc, bytes) = (crc.finalize(), entry_bytes(count, shape));
    let mut head = head(count, shape);
    head[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    let end = local_header(bytes).len() as u64 + bytes;
    vec![(0, head), (end, directory(bytes, crc))]
}

fn pixel_bytes(count: u64, shape: [usize; 3]) -> u64 {
    count * shape.iter().product::<usize>() as u64
}

/// Bytes of the `.npy` file in the zip file.
fn entry_bytes(count: u64, shape: [usize; 3]) -> u64 {
    npy::header(count, shape).len() as u64 + pixel_bytes(count, shape)
}

/// What comes before the entry of a `.npz` file: a zip file's local header (APPNOTE 6.3.10, section 4.3.7), stored, zip64.
fn local_header(entry_bytes: u64) -> Vec<u8> {
    let mut head = b"PK\x03\x04".to_vec();
    common_fields(&mut head, 0);
    put16(&mut head, 20);
    head.extend(ENTRY);
    put16(&mut head, 1);
    put16(&mut head, 16);
    put64(&mut head, entry_bytes);
    put64(&mut head, entry_bytes);
    head
}

/// What comes after it: the directory of one entry, and the two ends of the directory (sections 4.3.12 to 4.3.16).
fn directory(entry_bytes: u64, crc: u32) -> Vec<u8> {
    let directory_at = local_header(entry_bytes).len() as u64 + entry_bytes;
    let mut tail = b"PK\x01\x02".to_vec();
    put16(&mut tail, VERSION);
    common_fields(&mut tail, crc);
    put16(&mut tail, 28);
    tail.extend([0; 2 + 2 + 2 + 4]); // no comment, first disk, no attributes
    put32(&mut tail, IN_ZIP64);
    tail.extend(ENTRY);
    put16(&mut tail, 1);
    put16(&mut tail, 24);
    put64(&mut tail, entry_bytes);
    put64(&mut tail, entry_bytes);
    put64(&mut tail, 0); // the local header's place
    let directory = tail.len() as u64;

    tail.extend(b"PK\x06\x06");
    put64(&mut tail, 44); // bytes of this record that follow
    put16(&mut tail, VERSION);
    put16(&mut tail, VERSION);
    tail.extend([0; 4 + 4]); // disks
    put64(&mut tail, 1);
    put64(&mut tail, 1);
    put64(&mut tail, directory);
    put64(&mut tail, directory_at);

    tail.extend(b"PK\x06\x07");
    put32(&mut tail, 0);
    put64(&mut tail, directory_at + directory);
    put32(&mut tail, 1);

    tail.extend(b"PK\x05\x06");
    tail.extend([0; 2 + 2]); // disks
    put16(&mut tail, 1);
    put16(&mut tail, 1);
    put32(&mut tail, directory as u32);
    put32(&mut tail, IN_ZIP64);
    put16(&mut tail, 0);
    tail
}

/// From "version needed" to the length of the name.
fn common_fields(out: &mut Vec<u8>, crc: u32) {
    for value in [VERSION, 0, 0, 0, DATE] {
        put16(out, value); // version, flags, method (stored), time, date
    }
    put32(out, crc);
    put32(out, IN_ZIP64);
    put32(out, IN_ZIP64);
    put16(out, ENTRY.len() as u16);
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
