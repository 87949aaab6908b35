//! WebDataset: tar files of PNG files. Beside each, where the generator was told classes, a file of the same name with the number of the image's
//! class as text, `.cls`. Each tar file has another name until it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use serde_json::{Value, json};

use super::files::{self, Sum};
use super::png::file_name;
use super::sink::{Copied, Depth, InOne, Naming, Open, Sink, Site, Store, Stream, Streamed, ToStream};
use crate::error::{Error, Result};
use crate::image;
use crate::infer::folder::Folder;
use crate::infer::piece::{Piece, Tally};
use crate::infer::tiling::Tiling;

/// The images of a tar file each.
const FILES: Tiling = Tiling::of(1_000);

/// What a tar file ends in: two empty blocks.
const END: &[u8] = &[0; 1024];

/// The format.
pub(super) struct Tar;

impl Sink for Tar {
    fn name(&self) -> &'static str {
        "tar"
    }

    fn naming(&self) -> Naming {
        Naming::Folder { manifest: "-tar", files: "tar files", in_one: Some("tar") }
    }

    fn files(&self) -> Option<Tiling> {
        Some(FILES)
    }

    fn has_labels(&self) -> bool {
        true
    }

    fn number_of(&self, file: &Path) -> Option<u64> {
        let number = file.to_str()?.strip_suffix(".tar")?.parse().ok()?;
        (name(number) == file).then_some(number)
    }

    fn to_stream(&self) -> Option<ToStream> {
        Some(|job| Ok(Box::new(TarStream { job })))
    }

    fn in_one(&self) -> Option<InOne> {
        Some(InOne { copy: copy_without_end, end: END })
    }

    fn create(&self, site: &Arc<Site>) -> Result<Box<dyn Store>> {
        Ok(Box::new(Tars { site: Arc::clone(site) }))
    }

    fn find(&self, site: &Arc<Site>) -> Result<Option<Box<dyn Store>>> {
        self.create(site).map(Some)
    }

    fn describe(&self, _: &Site, pieces: &[Piece], manifest: &mut Value) {
        manifest["files"] = files_of(pieces);
    }

    fn described(&self, site: &Site, manifest: &Value) -> Option<Vec<Piece>> {
        described_files(site.share.places().start, manifest)
    }

    fn has_size(&self, site: &Site, manifest: &Value) -> bool {
        let files = manifest["files"].as_array().into_iter().flatten();
        let bytes = files.filter_map(|file| file["bytes"].as_u64()).sum();
        files::length(&site.folder, FILES.numbers(&site.share.places()).map(name)) == Some(bytes)
    }
}

/// The folder at work.
struct Tars {
    site: Arc<Site>,
}

impl Store for Tars {
    fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>> {
        let file = Unfinished::create(&self.site.folder, name_at(places.start))?;
        Ok(Box::new(OpenTar { site: &self.site, tally: Tally::new(places.start), file: Some(file) }))
    }

    fn sync(&self, pieces: &[Piece]) -> io::Result<()> {
        self.site.folder.sync(pieces.iter().map(|piece| name_at(piece.first)))
    }

    fn holds(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        files::hold(&self.site.folder, std::iter::once(name_at(piece.first)), piece, depth)
    }

    fn adopt(&self, from: &Arc<Site>, piece: &Piece, copied: &Copied) -> Result<bool> {
        let (folder, name) = (&self.site.folder, name_at(piece.first));
        let part = part_of(&name);
        let mut file = folder.create(&part).map_err(folder.failed("write", &part))?;
        let mut sum = Sum::default();
        let whole = files::blocks(&from.folder, &name, &mut |block| {
            sum.add(block);
            file.write_all(block).map_err(folder.failed("write", &part))?;
            Ok(sum.bytes <= piece.bytes)
        });
        let whole = whole.map(|whole| whole && sum.is_of(piece));
        if matches!(whole, Ok(true)) {
            folder.rename(&part, &name).map_err(folder.failed("write", &name))?;
            copied(piece.count)?;
        } else {
            let _ = folder.remove(&part); // there is a reason to report already
        }
        whole
    }
}

/// A piece under way, which is a tar file.
struct OpenTar<'a> {
    site: &'a Site,
    tally: Tally,
    file: Option<Unfinished>,
}

impl Open for OpenTar<'_> {
    fn put(&mut self, pixels: &[u8]) -> Result<()> {
        for pixels in pixels.chunks_exact(self.site.image()) {
            let png = self.site.png(pixels)?;
            if let Some(file) = &mut self.file {
                let label = self.site.labels.as_ref().map(|labels| labels.at(self.tally.next()));
                file.add(self.site.share.selection().name(self.tally.next()), &png, label)?;
            }
            self.tally.images(1, pixels);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Piece>> {
        let Some(file) = self.file.take() else { return Ok(Vec::new()) };
        let (bytes, files) = file.finish()?;
        Ok(self.tally.close().map(|piece| Piece { bytes, files, ..piece }).into_iter().collect())
    }
}

/// Half a tar file is of no use; it may be why there is no space.
impl Drop for OpenTar<'_> {
    fn drop(&mut self) {
        if let Some(Unfinished { builder, folder, part, .. }) = self.file.take() {
            drop(builder);
            let _ = folder.remove(&part); // there is a reason to report already
        }
    }
}

/// A tar file until it is whole.
struct Unfinished {
    builder: ::tar::Builder<BufWriter<Summed>>,
    folder: Arc<Folder>,
    part: PathBuf,
    name: PathBuf,
}

impl Unfinished {
    fn create(folder: &Arc<Folder>, name: PathBuf) -> Result<Self> {
        let part = part_of(&name);
        let file = folder.create(&part).map_err(folder.failed("write", &part))?;
        let summed = Summed { file, crc: Hasher::new(), bytes: 0 };
        Ok(Self { builder: ::tar::Builder::new(BufWriter::new(summed)), folder: Arc::clone(folder), part, name })
    }

    fn add(&mut self, number: u64, png: &[u8], label: Option<u8>) -> Result<()> {
        add_image(&mut self.builder, number, png, label).map_err(self.folder.failed("write", &self.part))
    }

    /// Gives it its name. Tells how many bytes it has, and their CRC-32.
    fn finish(self) -> Result<(u64, u32)> {
        let Self { builder, folder, part, name } = self;
        let written = builder.into_inner().and_then(|file| file.into_inner().map_err(io::IntoInnerError::into_error));
        let Summed { crc, bytes, .. } = written.map_err(folder.failed("write", &part))?;
        folder.rename(&part, &name).map_err(folder.failed("write", &name))?;
        Ok((bytes, crc.finalize()))
    }
}

/// One tar file, however many images.
struct TarStream<'a> {
    job: Streamed<'a>,
}

impl Stream for TarStream<'_> {
    fn encode(&self, first: u64, pixels: Vec<u8>) -> Result<Vec<u8>> {
        let Streamed { selection, shape: [height, width, channels], labels, .. } = &self.job;
        let mut builder = ::tar::Builder::new(Vec::new());
        for (place, pixels) in (first..).zip(pixels.chunks_exact(self.job.image())) {
            let png = image::encode_png(pixels, *height, *width, *channels)?;
            let label = labels.as_ref().map(|labels| labels.at(place));
            add_image(&mut builder, selection.name(place), &png, label)
                .map_err(Error::io("write to", "the stream".as_ref()))?;
        }
        Ok(builder.get_ref().clone()) // without its end
    }

    fn tail(&self) -> Result<Vec<u8>> {
        Ok(END.to_vec())
    }
}

/// Adds the image of that name, and its class if it has one: files like any others of those names and bytes, without time and owner.
pub(in crate::infer) fn add_image(
    to: &mut ::tar::Builder<impl Write>,
    number: u64,
    png: &[u8],
    label: Option<u8>,
) -> io::Result<()> {
    let name = &*file_name(number);
    let class = label.map(|label| (name.replace(".png", ".cls"), label.to_string().into_bytes()));
    for (name, bytes) in [(name, png)].into_iter().chain(class.iter().map(|(name, class)| (name.as_str(), class.as_slice()))) {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        to.append_data(&mut header, name, bytes)?;
    }
    Ok(())
}

/// Writes a tar file without its end.
fn copy_without_end(from: &Site, piece: &Piece, to: &mut dyn Write) -> Result<bool> {
    let (mut held, mut sum) = (Vec::new(), Sum::default());
    let is_there = files::blocks(&from.folder, &name_at(piece.first), &mut |block| {
        sum.add(block);
        held.extend_from_slice(block);
        let known = held.len().saturating_sub(END.len());
        to.write_all(&held[..known]).map_err(Error::io("write to", "the file".as_ref()))?;
        held.drain(..known);
        Ok(sum.bytes <= piece.bytes)
    })?;
    Ok(is_there && sum.is_of(piece) && held == END)
}

/// A file that sums up what is written to it.
struct Summed {
    file: File,
    crc: Hasher,
    bytes: u64,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.crc.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The name of a tar file, inside the folder.
fn name(number: u64) -> PathBuf {
    PathBuf::from(format!("{number:06}.tar"))
}

/// What a tar file is called until it is whole.
fn part_of(name: &Path) -> PathBuf {
    name.with_extension("tar.part")
}

/// The name of the tar file of the image at a place.
pub(in crate::infer) fn name_at(place: u64) -> PathBuf {
    name(FILES.number(place))
}

/// The first place of the tar file of this name, in a job of images from the place `start` on.
fn first_of(start: u64, name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".tar")?.parse().ok()?;
    Some(number.checked_mul(FILES.size())?.max(start))
}

/// What a manifest says of tar files, by the pieces that they are.
pub(in crate::infer) fn files_of(pieces: &[Piece]) -> Value {
    let file = |piece: &Piece| {
        let mut facts = piece.facts();
        facts["file"] = json!(name_at(piece.first).to_string_lossy());
        facts
    };
    pieces.iter().map(file).collect()
}

/// The pieces that a manifest tells of, of a job of images from the place `start` on.
pub(in crate::infer) fn described_files(start: u64, manifest: &Value) -> Option<Vec<Piece>> {
    let files = manifest["files"].as_array()?.iter();
    files.map(|file| Piece::told(file, first_of(start, file["file"].as_str()?)?)).collect()
}
