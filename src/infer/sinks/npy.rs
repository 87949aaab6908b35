//! NumPy's files, `.npy`.

use super::array::Array;

/// The format.
pub(super) const NPY: Array = Array { name: "npy", head: header, ends: |count, shape, _| vec![(0, header(count, shape))] };

/// The header of a NumPy file of uint8, version 1.0 (numpy.lib.format): padded so that the data starts at a multiple of 64.
pub(super) fn header(n: u64, [height, width, channels]: [usize; 3]) -> Vec<u8> {
    const BEFORE_TEXT: usize = 10;
    let mut text =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, {height}, {width}, {channels}), }}").into_bytes();
    let length = (BEFORE_TEXT + text.len() + 1).next_multiple_of(64) - BEFORE_TEXT;
    text.resize(length - 1, b' ');
    text.push(b'\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(text);
    header
}
