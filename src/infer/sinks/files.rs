//! Whether files of a folder are what a piece of the journal says.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;

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
    let (mut crc, mut bytes, mut buffer) = (Hasher::new(), 0u64, vec![0; 64 << 10]);
    for name in names {
        let mut file = match folder.read(&name) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            file => file.map_err(folder.failed("read", &name))?,
        };
        loop {
            let n = file.read(&mut buffer).map_err(folder.failed("read", &name))?;
            if n == 0 {
                break;
            }
            crc.update(&buffer[..n]);
            bytes += n as u64;
            if bytes > piece.bytes {
                return Ok(false);
            }
        }
    }
    Ok(bytes == piece.bytes && crc.finalize() == piece.files)
}
