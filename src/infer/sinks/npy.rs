//! NumPy's files, `.npy`.

use super::array::Array;
use super::sink::{Site, Stream, Streamed};
use crate::error::Result;

/// The format.
pub(super) const NPY: Array = Array {
    name: "npy",
    labels_at: None,
    head,
    ends: |site, _| vec![(0, head(site))],
    length: |site| head(site).len() as u64 + site.pixels(),
    to_stream: Some(|job| Ok(Box::new(NpyStream { job }))),
};

fn head(site: &Site) -> Vec<u8> {
    header(site.share.count(), site.shape)
}

/// The file in the order of its bytes.
struct NpyStream<'a> {
    job: Streamed<'a>,
}

impl Stream for NpyStream<'_> {
    fn head(&self) -> Vec<u8> {
        header(self.job.count(), self.job.shape)
    }

    fn encode(&self, _: u64, pixels: Vec<u8>) -> Result<Vec<u8>> {
        Ok(pixels)
    }
}

/// The header of a NumPy file of `n` images.
pub(super) fn header(n: u64, [height, width, channels]: [usize; 3]) -> Vec<u8> {
    header_of(&format!("({n}, {height}, {width}, {channels})"))
}

/// The header of a NumPy file of uint8 in a shape, version 1.0 (numpy.lib.format): padded so that the data starts at a multiple of 64.
pub(super) fn header_of(shape: &str) -> Vec<u8> {
    const BEFORE_TEXT: usize = 10;
    let mut text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}").into_bytes();
    let length = (BEFORE_TEXT + text.len() + 1).next_multiple_of(64) - BEFORE_TEXT;
    text.resize(length - 1, b' ');
    text.push(b'\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(text);
    header
}
