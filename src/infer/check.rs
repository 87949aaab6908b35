//! Whether what is in a job's folder is what its journal or its manifest says.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::archive;
use super::folder::Folder;
use super::journal::difference;
use super::piece::{Done, Piece, checksum, hexadecimal};
use super::plan::{BLOCK, Format, Plan, image_name};
use crate::error::{Error, Result};
use crate::text;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Whether the files are there, and as long as they should be.
    Sizes,
    /// At every byte.
    Contents,
}

/// A job's files, to be looked at.
pub(super) struct Files<'a> {
    pub plan: &'a Plan,
    pub folder: &'a Folder,
    pub shape: [usize; 3],
    /// The array file of a job that has one.
    pub array: Option<&'a File>,
}

impl Files<'_> {
    /// Whether a piece is there as it was written.
    pub fn hold(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        let found = match (self.plan.format(), depth) {
            (Format::Png, Depth::Sizes) => self.length(self.images(piece)),
            (Format::Tar, Depth::Sizes) => self.length([self.plan.tar_file(piece.first)].into_iter()),
            (Format::Png, Depth::Contents) => return self.contents(self.images(piece), piece),
            (Format::Tar, Depth::Contents) => return self.contents([self.plan.tar_file(piece.first)].into_iter(), piece),
            (Format::Npy | Format::Npz, _) => return self.array_holds(piece, depth),
            (Format::Grid, _) => None,
        };
        Ok(found == Some(piece.bytes))
    }

    fn images(&self, piece: &Piece) -> impl Iterator<Item = PathBuf> {
        let selection = self.plan.selection();
        piece.places().map(move |place| image_name(selection.name(place)))
    }

    /// Bytes of files together, if all are there.
    fn length(&self, mut names: impl Iterator<Item = PathBuf>) -> Option<u64> {
        names.try_fold(0u64, |sum, name| Some(sum.saturating_add(self.folder.length(&name)?)))
    }

    fn contents(&self, names: impl Iterator<Item = PathBuf>, piece: &Piece) -> Result<bool> {
        let (mut crc, mut bytes, mut buffer) = (Hasher::new(), 0u64, vec![0; 64 << 10]);
        for name in names {
            let mut file = match self.folder.read(&name) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
                file => file.map_err(self.folder.failed("read", &name))?,
            };
            loop {
                let n = file.read(&mut buffer).map_err(self.folder.failed("read", &name))?;
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

    fn array_holds(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        let Some(file) = self.array else { return Ok(false) };
        let image = self.image();
        let (from, length) = (piece.first - self.plan.places().start, piece.count * image);
        let at = head(self.plan, self.shape).len() as u64 + from * image;
        let failed = self.folder.failed("read", self.plan.path());
        let there = match file.metadata() {
            Ok(meta) => meta.len(),
            Err(e) => return Err(failed(e)),
        };
        if piece.bytes != length || there < at + length {
            return Ok(false);
        }
        if depth == Depth::Sizes {
            return Ok(true);
        }
        let (mut crc, mut buffer, mut done) = (Hasher::new(), vec![0; 256 << 10], 0);
        while done < length {
            let n = buffer.len().min((length - done) as usize);
            if let Err(e) = read_at(file, &mut buffer[..n], at + done) {
                return Err(failed(e));
            }
            crc.update(&buffer[..n]);
            done += n as u64;
        }
        Ok(crc.finalize() == piece.pixels)
    }

    fn image(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64
    }

    /// Whether an array file has what belongs around its pixels, of which `all` tells.
    pub fn array_is_closed(&self, all: &Piece) -> Result<bool> {
        let Some(file) = self.array else { return Ok(false) };
        let ends = closing(self.plan, self.shape, all.pixels);
        let length = whole_length(self.plan, self.shape);
        let is = |(at, expected): &(u64, Vec<u8>)| {
            let mut found = vec![0; expected.len()];
            read_at(file, &mut found, *at).map(|()| found == *expected)
        };
        let look = || {
            Ok(file.metadata()?.len() == length && ends.iter().map(is).collect::<io::Result<Vec<_>>>()?.iter().all(|is| *is))
        };
        look().or_else(|e: io::Error| match e.kind() {
            ErrorKind::UnexpectedEof => Ok(false),
            _ => Err(self.folder.failed("read", self.plan.path())(e)),
        })
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, bytes, at)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[n..];
        at += n as u64;
    }
    Ok(())
}

/// What comes before the pixels of an array file, while it is written.
pub(super) fn head(plan: &Plan, shape: [usize; 3]) -> Vec<u8> {
    let npy = archive::npy_header(plan.count(), shape);
    match plan.format() {
        Format::Npz => [archive::npz_head(entry_bytes(plan, shape)), npy].concat(),
        _ => npy,
    }
}

fn entry_bytes(plan: &Plan, shape: [usize; 3]) -> u64 {
    let header = archive::npy_header(plan.count(), shape).len() as u64;
    header + plan.count() * shape.iter().product::<usize>() as u64
}

/// Bytes of a whole array file.
pub(super) fn whole_length(plan: &Plan, shape: [usize; 3]) -> u64 {
    let pixels = plan.count() * shape.iter().product::<usize>() as u64;
    let tail = if plan.format() == Format::Npz { archive::npz_tail(entry_bytes(plan, shape), 0).len() } else { 0 };
    head(plan, shape).len() as u64 + pixels + tail as u64
}

/// What surrounds the pixels of a whole array file, whose CRC-32 is known by then: places in the file, and the bytes there.
pub(super) fn closing(plan: &Plan, shape: [usize; 3], pixels: u32) -> Vec<(u64, Vec<u8>)> {
    let head = head(plan, shape);
    if plan.format() != Format::Npz {
        return vec![(0, head)];
    }
    let mut crc = Hasher::new();
    crc.update(&archive::npy_header(plan.count(), shape));
    let length = plan.count() * shape.iter().product::<usize>() as u64;
    crc.combine(&Hasher::new_with_initial_len(pixels, length));
    let (crc, bytes) = (crc.finalize(), entry_bytes(plan, shape));
    let end = archive::npz_head(bytes).len() as u64 + bytes;
    let mut head = head;
    let at = archive::NPZ_CRC_AT as usize;
    head[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    vec![(0, head), (end, archive::npz_tail(bytes, crc))]
}

/// The manifest of a finished job: `identity`, how many images there are, and what they can be checked by. Nothing in it depends on how
/// the job went. `pieces` are all of the job's, in the order of their places.
pub(super) fn manifest(plan: &Plan, identity: &Value, pieces: &[Piece], shape: [usize; 3]) -> Value {
    let image = shape.iter().product::<usize>() as u64;
    let mut manifest = identity.clone();
    manifest["count"] = json!(plan.count());
    let all = pieces.iter().copied().reduce(|a, b| a.join(b, image));
    if let Some(all) = all {
        manifest["pixels_crc32"] = json!(hexadecimal(all.pixels));
    }
    match plan.format() {
        Format::Png => {
            manifest["bytes"] = json!(all.map_or(0, |all| all.bytes));
            let block = |pieces: &[Piece]| {
                let block = pieces.iter().copied().reduce(|a, b| a.join(b, image))?;
                let mut facts = block.facts();
                facts["first"] = json!(block.first);
                Some(facts)
            };
            let blocks = pieces.chunk_by(|a, b| a.first / BLOCK == b.first / BLOCK).filter_map(block);
            manifest["blocks"] = blocks.collect();
        }
        Format::Tar => {
            let file = |piece: &Piece| {
                let mut facts = piece.facts();
                facts["file"] = json!(plan.tar_file(piece.first).to_string_lossy());
                facts
            };
            manifest["files"] = pieces.iter().map(file).collect();
        }
        _ => {
            manifest["file"] = json!(plan.path().file_name().map(|name| name.to_string_lossy()));
            manifest["bytes"] = json!(whole_length(plan, shape));
        }
    }
    manifest
}

/// The pieces that a manifest vouches for. One of an earlier version vouches for sizes only: `None` then.
fn pieces(manifest: &Value, plan: &Plan, image: u64) -> Option<Vec<Piece>> {
    match plan.format() {
        Format::Png => {
            manifest["blocks"].as_array()?.iter().map(|block| Piece::told(block, block["first"].as_u64()?)).collect()
        }
        Format::Tar => manifest["files"]
            .as_array()?
            .iter()
            .map(|file| Piece::told(file, plan.tar_first(file["file"].as_str()?)?))
            .collect(),
        _ => {
            let (first, count) = (plan.places().start, manifest["count"].as_u64()?);
            let pixels = checksum(&manifest["pixels_crc32"])?;
            Some(vec![Piece { first, count, pixels, bytes: count.checked_mul(image)?, files: pixels }])
        }
    }
}

/// What a manifest's job still has.
pub(super) enum Finished {
    /// Everything.
    Whole,
    /// These pieces, and the manifest itself may be damaged.
    Parts(Vec<Piece>),
}

/// What of a finished job is there, of which `holds` says whether a piece is whole. `None` if there is no manifest.
///
/// # Errors
/// When the manifest is another job's, or none.
pub(super) fn finished(
    files: &Files,
    name: &Path,
    identity: &Value,
    holds: impl Fn(&Piece) -> Result<bool> + Sync,
) -> Result<Option<Finished>> {
    let (plan, folder) = (files.plan, files.folder);
    let bytes = match folder.read(name).and_then(read_manifest) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(folder.failed("read", name))?,
    };
    let told: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::invalid_file(&plan.manifest(), format!("it is no manifest: {e}"), "Begin again with --force."))?;
    if let Some(difference) = difference(&told, identity) {
        let what = format!("{} is of another job: {difference}", text::path(&plan.manifest()));
        return Err(Error::usage(what, "Choose another --out, or begin again with --force."));
    }
    let Some(pieces) = pieces(&told, plan, files.image()) else {
        return sizes_of_earlier(files, &told).map(Some);
    };
    let inside = |piece: &Piece| {
        plan.places().start <= piece.first
            && piece.count > 0
            && piece.first.checked_add(piece.count).is_some_and(|end| end <= plan.places().end)
    };
    let hold = |piece: &Piece| if inside(piece) { holds(piece) } else { Ok(false) };
    let holds: Vec<bool> = pieces.par_iter().map(hold).collect::<Result<_>>()?;
    let mut done = Done::new(files.image() as usize);
    let kept: Vec<Piece> =
        pieces.into_iter().zip(holds).filter(|(piece, holds)| *holds && done.add(*piece)).map(|(piece, _)| piece).collect();
    let closed = match (files.array, done.all(&plan.places())) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(_), Some(all)) => files.array_is_closed(&all)?,
    };
    let mut expected = manifest(plan, identity, &kept, files.shape);
    expected["model"] = told["model"].clone(); // what the file is called decides on nothing
    Ok(Some(if closed && expected == told { Finished::Whole } else { Finished::Parts(kept) }))
}

/// The text of a manifest.
pub(super) fn read_manifest(file: File) -> io::Result<Vec<u8>> {
    /// Some 100 bytes for each 1,000 images.
    const MOST: u64 = 1 << 30;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Manifests of before there were checksums of files tell how many bytes there are in all.
fn sizes_of_earlier(files: &Files, told: &Value) -> Result<Finished> {
    let plan = files.plan;
    let bytes = match plan.format() {
        Format::Tar => told["files"].as_array().into_iter().flatten().filter_map(|file| file["bytes"].as_u64()).sum(),
        _ => told["bytes"].as_u64().unwrap_or(0),
    };
    let places = plan.places();
    let there = match plan.format() {
        Format::Tar => {
            let firsts =
                (places.start / BLOCK..=places.end.saturating_sub(1) / BLOCK).map(|number| (number * BLOCK).max(places.start));
            files.length(firsts.map(|first| plan.tar_file(first)))
        }
        _ => files.length(places.map(|place| image_name(plan.selection().name(place)))),
    };
    Ok(if there == Some(bytes) { Finished::Whole } else { Finished::Parts(Vec::new()) })
}
