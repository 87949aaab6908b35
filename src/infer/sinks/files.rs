//! Files of a folder: whether they are what a piece of the journal says, and what is in them.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::sink::Depth;
use crate::error::Result;
use crate::infer::folder::Folder;
use crate::infer::piece::Piece;

/// Whether the files of a piece, in the order of its images, are there as they were written.
pub(super) fn hold(folder: &Folder, names: impl Iterator<Item = PathBuf>, piece: &Piece, depth: Depth) -> Result<bool> {
    match depth {
        Depth::Sizes => Ok(length(folder, names) == Some(piece.bytes)),
        Depth::Contents => contents(folder, names, piece),
    }
}

/// Bytes of files together, if all are there.
pub(super) fn length(folder: &Folder, mut names: impl Iterator<Item = PathBuf>) -> Option<u64> {
    names.try_fold(0u64, |sum, name| Some(sum.saturating_add(folder.length(&name)?)))
}

fn contents(folder: &Folder, names: impl Iterator<Item = PathBuf>, piece: &Piece) -> Result<bool> {
    let mut sum = Sum::default();
    for name in names {
        let is_there = blocks(folder, &name, &mut |block| {
            sum.add(block);
            Ok(sum.bytes <= piece.bytes)
        })?;
        if !is_there {
            return Ok(false);
        }
    }
    Ok(sum.is_of(piece))
}

/// Hands a file over to `see` block by block, for as long as that gives `true`. Whether it was there and all of it was seen.
pub(super) fn blocks(folder: &Folder, name: &Path, see: &mut dyn FnMut(&[u8]) -> Result<bool>) -> Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    let mut file = match folder.read(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        file => file.map_err(folder.failed("read", name))?,
    };
    loop {
        match file.read(&mut buffer).map_err(folder.failed("read", name))? {
            0 => return Ok(true),
            n if see(&buffer[..n])? => {}
            _ => return Ok(false),
        }
    }
}

/// What the files of a piece are known by.
#[derive(Default)]
pub(super) struct Sum {
    crc: Hasher,
    /// How many bytes there were.
    pub bytes: u64,
}

impl Sum {
    /// More bytes of them.
    pub fn add(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Whether these were all bytes of a piece.
    pub fn is_of(&self, piece: &Piece) -> bool {
        self.bytes == piece.bytes && self.crc.clone().finalize() == piece.files
    }
}
