//! A folder of PNG files. One that was being written when the program was killed may be incomplete, and is written again.

use std::io::{self, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::files::{self, Sum};
use super::sink::{Copied, Depth, Naming, Open, Sink, Site, Store};
use crate::error::{Error, Result};
use crate::infer::folder::Folder;
use crate::infer::piece::{Piece, Tally, join};
use crate::infer::share::Share;
use crate::infer::tiling::Tiling;
use crate::text;

/// Images below this number lie in the folder itself.
const FLAT_UP_TO: u64 = 10_000;
/// Images in a subfolder.
const SUBFOLDER: u64 = 1_000;
/// The images that the manifest vouches for together.
const PARTS: Tiling = Tiling::of(SUBFOLDER);

/// The format.
pub(super) struct Png;

impl Sink for Png {
    fn name(&self) -> &'static str {
        "png"
    }

    fn naming(&self) -> Naming {
        Naming::Folder { manifest: "", files: "images", in_one: None }
    }

    fn why_more(&self) -> Option<&'static str> {
        Some("checksums vouch for up to 1,000 files together, so one that is missing or damaged takes the others with it")
    }

    fn number_of(&self, file: &Path) -> Option<u64> {
        let number = file.file_name()?.to_str()?.strip_suffix(".png")?.parse().ok()?;
        (image_name(number) == file).then_some(number)
    }

    fn is_subfolder(&self, name: &str) -> bool {
        name.parse().is_ok_and(|first: u64| first >= FLAT_UP_TO && subfolder_name(first) == name)
    }

    /// Links where the folders of images should be: what is made would lie elsewhere.
    fn check_folder(&self, folder: &Folder) -> Result<()> {
        let names = folder.names(Path::new("")).map_err(folder.failed("read", Path::new("")))?;
        let is_in_the_way =
            |name: &str, is_folder: bool| !is_folder && self.is_subfolder(name) && folder.is_link(Path::new(name));
        match names.iter().find(|(name, is_folder)| is_in_the_way(name, *is_folder)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::usage(
                format!("{} is a link, where a folder of images should be", text::path(&folder.join(Path::new(name)))),
                "Remove it, or choose another `Plan::out`.",
            )),
        }
    }

    fn create(&self, site: &Arc<Site>) -> Result<Box<dyn Store>> {
        Ok(Box::new(PngFolder { site: Arc::clone(site) }))
    }

    fn find(&self, site: &Arc<Site>) -> Result<Option<Box<dyn Store>>> {
        self.create(site).map(Some)
    }

    fn describe(&self, site: &Site, pieces: &[Piece], manifest: &mut Value) {
        manifest["bytes"] = json!(join(pieces, site.image()).map_or(0, |all| all.bytes));
        let block = |pieces: &[Piece]| {
            let block = join(pieces, site.image())?;
            let mut facts = block.facts();
            facts["first"] = json!(block.first);
            Some(facts)
        };
        let blocks = pieces.chunk_by(|a, b| PARTS.number(a.first) == PARTS.number(b.first)).filter_map(block);
        manifest["blocks"] = blocks.collect();
    }

    fn described(&self, _: &Site, manifest: &Value) -> Option<Vec<Piece>> {
        let blocks = manifest["blocks"].as_array()?.iter();
        blocks.map(|block| Piece::told(block, block["first"].as_u64()?)).collect()
    }

    fn has_size(&self, site: &Site, manifest: &Value) -> bool {
        let bytes = manifest["bytes"].as_u64().unwrap_or(0);
        files::length(&site.folder, names(&site.share, site.share.places())) == Some(bytes)
    }
}

/// The folder at work.
struct PngFolder {
    site: Arc<Site>,
}

impl Store for PngFolder {
    fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>> {
        Ok(Box::new(OpenPngs { site: &self.site, tally: Tally::new(places.start), whole: Vec::new() }))
    }

    fn sync(&self, pieces: &[Piece]) -> io::Result<()> {
        self.site.folder.sync(pieces.iter().flat_map(|piece| names(&self.site.share, piece.places())))
    }

    fn holds(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        files::hold(&self.site.folder, names(&self.site.share, piece.places()), piece, depth)
    }

    fn adopt(&self, from: &Arc<Site>, piece: &Piece, copied: &Copied) -> Result<bool> {
        let mut sum = Sum::default();
        for name in names(&self.site.share, piece.places()) {
            let (mut png, before) = (Vec::new(), sum.bytes);
            let is_there = files::blocks(&from.folder, &name, &mut |block| {
                png.extend_from_slice(block);
                Ok(before + png.len() as u64 <= piece.bytes)
            })?;
            if !is_there {
                return Ok(false);
            }
            create_file(&self.site.folder, &name, &png)?;
            sum.add(&png);
            copied(1)?;
        }
        Ok(sum.is_of(piece))
    }
}

/// A piece under way, cut into parts that the manifest vouches for.
struct OpenPngs<'a> {
    site: &'a Site,
    tally: Tally,
    whole: Vec<Piece>,
}

impl Open for OpenPngs<'_> {
    fn put(&mut self, pixels: &[u8]) -> Result<()> {
        for pixels in pixels.chunks_exact(self.site.image()) {
            let png = self.site.png(pixels)?;
            let name = image_name(self.site.share.selection().name(self.tally.next()));
            create_file(&self.site.folder, &name, &png)?;
            self.tally.bytes(&png);
            self.tally.images(1, pixels);
            if PARTS.begins_at(self.tally.next()) {
                self.whole.extend(self.tally.close());
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Piece>> {
        self.whole.extend(self.tally.close());
        Ok(self.whole)
    }
}

/// A small file, written at once under its final name: half the work of a temporary one, and the journal knows which are whole.
fn create_file(folder: &Folder, name: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = folder.create(name).map_err(folder.failed("write", name))?;
    file.write_all(bytes).map_err(|e| {
        let _ = folder.remove(name); // the first error is the one to report
        folder.failed("write", name)(e)
    })
}

/// The names of the files of the images at some places.
fn names(share: &Share, places: ops::Range<u64>) -> impl Iterator<Item = PathBuf> {
    places.map(|place| image_name(share.selection().name(place)))
}

/// The name of the PNG file of an image.
pub(in crate::infer) fn file_name(number: u64) -> String {
    format!("{number:06}.png")
}

/// The name of the PNG file of an image inside the folder: a function of the image's number alone, so that the parts of a job that
/// was cut up make the same tree as the whole.
fn image_name(number: u64) -> PathBuf {
    match number {
        0..FLAT_UP_TO => PathBuf::from(file_name(number)),
        _ => Path::new(&subfolder_name(number - number % SUBFOLDER)).join(file_name(number)),
    }
}

fn subfolder_name(first: u64) -> String {
    format!("{first:06}")
}
