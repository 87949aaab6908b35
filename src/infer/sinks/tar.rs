//! WebDataset: tar files of PNG files. Beside each, where the generator was told classes, a file of the same name with the number of the image's
//! class as text, `.cls`. Each tar file has another name until it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;
use serde_json::{Value, json};

use super::files;
use super::png::file_name;
use super::sink::{Depth, Naming, Open, Sink, Site, Store, Stream, Streamed, ToStream};
use crate::error::{Error, Result};
use crate::image;
use crate::infer::folder::Folder;
use crate::infer::piece::{Piece, Tally};
use crate::infer::tiling::Tiling;

/// The images of a tar file each.
const FILES: Tiling = Tiling::of(1_000);

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

    fn create(&self, site: &Arc<Site>) -> Result<Box<dyn Store>> {
        Ok(Box::new(Tars { site: Arc::clone(site) }))
    }

    fn find(&self, site: &Arc<Site>) -> Result<Option<Box<dyn Store>>> {
        self.create(site).map(Some)
    }

    fn describe(&self, _: &Site, pieces: &[Piece], manifest: &mut Value) {
        let file = |piece: &Piece| {
            let mut facts = piece.facts();
            facts["file"] = json!(name_at(piece.first).to_string_lossy());
            facts
        };
        manifest["files"] = pieces.iter().map(file).collect();
    }

    fn described(&self, site: &Site, manifest: &Value) -> Option<Vec<Piece>> {
        let files = manifest["files"].as_array()?.iter();
        files.map(|file| Piece::told(file, first_of(site, file["file"].as_str()?)?)).collect()
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
                file.add(&file_name(self.site.share.selection().name(self.tally.next())), &png, label)?;
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
        let part = name.with_extension("tar.part");
        let file = folder.create(&part).map_err(folder.failed("write", &part))?;
        let summed = Summed { file, crc: Hasher::new(), bytes: 0 };
        Ok(Self { builder: ::tar::Builder::new(BufWriter::new(summed)), folder: Arc::clone(folder), part, name })
    }

    fn add(&mut self, name: &str, png: &[u8], label: Option<u8>) -> Result<()> {
        add(&mut self.builder, name, png, label).map_err(self.folder.failed("write", &self.part))
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
            let name = file_name(selection.name(place));
            add(&mut builder, &name, &png, label).map_err(Error::io("write to", "the stream".as_ref()))?;
        }
        Ok(builder.get_ref().clone()) // without its end
    }

    /// What a tar file ends in: two empty blocks.
    fn tail(&self) -> Result<Vec<u8>> {
        Ok(vec![0; 1024])
    }
}

/// Adds an image, and its class if it has one: files like any others of those names and bytes, without time and owner.
fn add(to: &mut ::tar::Builder<impl Write>, name: &str, png: &[u8], label: Option<u8>) -> io::Result<()> {
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

/// The name of the tar file of the image at a place.
fn name_at(place: u64) -> PathBuf {
    name(FILES.number(place))
}

/// The first place of the tar file of this name, in this job.
fn first_of(site: &Site, name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".tar")?.parse().ok()?;
    Some(number.checked_mul(FILES.size())?.max(site.share.places().start))
}
