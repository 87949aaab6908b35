//! One file of all pixels, with something before them and after them: what NumPy's files have in common. It has another name
//! until it is whole. Its size is known before its pixels are, so these are written in any order.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops;
use std::sync::Arc;

use crc32fast::Hasher;
use serde_json::{Value, json};

use super::sink::{Copied, Depth, Naming, Open, Sink, Site, Store, ToStream};
use crate::error::{Error, Result};
use crate::infer::folder::name_of;
use crate::infer::piece::{Piece, Tally, checksum};
use crate::{files, text};

/// Bytes of pixels in one file: what file systems have room for at most.
const MOST: u64 = 1 << 62;

/// Bytes that do not belong to the pixels, and their place in the file.
pub(super) type Ends = Vec<(u64, Vec<u8>)>;

/// A format of that kind.
#[derive(Clone, Copy)]
pub(super) struct Array {
    /// Its name, and the ending of its files' names.
    pub name: &'static str,
    /// Where the classes of the images begin, `[n]`, if it holds them, too, where there are some.
    pub labels_at: Option<fn(&Site) -> u64>,
    /// What comes before the pixels while they are written.
    pub head: fn(&Site) -> Vec<u8>,
    /// What surrounds the pixels of a whole file, whose CRC-32 is known by then.
    pub ends: fn(&Site, u32) -> Ends,
    /// Bytes of a whole file.
    pub length: fn(&Site) -> u64,
    /// How it is written in the order of its bytes, if it can be.
    pub to_stream: Option<ToStream>,
}

impl Array {
    fn open(&self, site: &Arc<Site>, file: File, is_final: bool) -> ArrayFile {
        ArrayFile { format: *self, data_at: (self.head)(site).len() as u64, site: Arc::clone(site), file, is_final }
    }
}

impl Sink for Array {
    fn name(&self) -> &'static str {
        self.name
    }

    fn naming(&self) -> Naming {
        Naming::File { stem: "samples", ending: self.name }
    }

    fn has_labels(&self) -> bool {
        self.labels_at.is_some()
    }

    fn check_size(&self, count: u64, shape: [usize; 3], _: &str) -> Result<()> {
        let [height, width, channels] = shape;
        let bytes = count.checked_mul((height * width * channels) as u64);
        if bytes.is_none_or(|bytes| bytes > MOST) {
            return Err(Error::usage(
                format!("{count} images of {height}×{width} pixels are more than one file can hold"),
                "Cut the job up with `Plan::shard`, or choose `Plan::format` tar.",
            ));
        }
        Ok(())
    }

    fn to_stream(&self) -> Option<ToStream> {
        self.to_stream
    }

    /// What it replaces makes room.
    fn check_room(&self, site: &Site) -> Result<()> {
        let bytes = (self.length)(site);
        let replaced: u64 = [&site.path, &site.part].iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        let free = files::free_space(site.folder.path()).map(|free| free.saturating_add(replaced));
        let Some(free) = free.filter(|free| *free < bytes) else { return Ok(()) };
        Err(Error::invalid_file(
            &site.path,
            format!("the file will have {}, and {} are free where it is to be", text::bytes(bytes), text::bytes(free)),
            "Free some space there, choose another `Plan::out`, or ask for fewer images.",
        ))
    }

    fn create(&self, site: &Arc<Site>) -> Result<Box<dyn Store>> {
        let part = name_of(&site.part);
        let file = site.folder.create(&part).map_err(site.folder.failed("write", &part))?;
        let store = self.open(site, file, false);
        store.reopen()?;
        Ok(Box::new(store))
    }

    fn find(&self, site: &Arc<Site>) -> Result<Option<Box<dyn Store>>> {
        let missing = |e: &io::Error| e.kind() == ErrorKind::NotFound;
        let (part, whole) = (name_of(&site.part), name_of(&site.path));
        let (file, is_final) = match site.folder.edit(&part) {
            Err(e) if missing(&e) => match site.folder.read(&whole) {
                Err(e) if missing(&e) => return Ok(None),
                file => (file.map_err(site.folder.failed("read", &whole))?, true),
            },
            file => (file.map_err(site.folder.failed("open", &part))?, false),
        };
        Ok(Some(Box::new(self.open(site, file, is_final))))
    }

    fn labels_of(&self, site: &Site) -> io::Result<Option<Vec<u8>>> {
        let Some(at) = self.labels_at.map(|at| at(site)) else { return Ok(None) };
        let file = match site.folder.read(&name_of(&site.path)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // Looked at before memory is taken for them.
        let is_there =
            at.checked_add(site.share.count()).is_some_and(|end| file.metadata().is_ok_and(|meta| end <= meta.len()));
        let Some(count) = usize::try_from(site.share.count()).ok().filter(|_| is_there) else { return Ok(None) };
        let mut labels = vec![0; count];
        files::read_at(&file, &mut labels, at)?;
        Ok(Some(labels))
    }

    fn describe(&self, site: &Site, _: &[Piece], manifest: &mut Value) {
        manifest["file"] = json!(site.path.file_name().map(|name| name.to_string_lossy()));
        manifest["bytes"] = json!((self.length)(site));
    }

    fn described(&self, site: &Site, manifest: &Value) -> Option<Vec<Piece>> {
        let (first, count) = (site.share.places().start, manifest["count"].as_u64()?);
        let pixels = checksum(&manifest["pixels_crc32"])?;
        let bytes = count.checked_mul(site.image() as u64)?;
        Some(vec![Piece { first, count, pixels, bytes, files: pixels }])
    }

    fn has_size(&self, _: &Site, _: &Value) -> bool {
        false // the file had its size before it had its pixels
    }
}

/// A file at work, or a whole one.
struct ArrayFile {
    format: Array,
    site: Arc<Site>,
    file: File,
    /// Where the pixels begin.
    data_at: u64,
    is_final: bool,
}

impl ArrayFile {
    /// Where in the file the image at a place is.
    fn at(&self, place: u64) -> u64 {
        self.data_at + (place - self.site.share.places().start) * self.site.image() as u64
    }

    fn contents_hold(&self, piece: &Piece) -> io::Result<bool> {
        let (mut crc, mut buffer, mut done) = (Hasher::new(), vec![0; 256 << 10], 0);
        while done < piece.bytes {
            let n = buffer.len().min((piece.bytes - done) as usize);
            files::read_at(&self.file, &mut buffer[..n], self.at(piece.first) + done)?;
            crc.update(&buffer[..n]);
            done += n as u64;
        }
        Ok(crc.finalize() == piece.pixels)
    }

    fn ends_hold(&self, pixels: u32) -> io::Result<bool> {
        if self.file.metadata()?.len() != (self.format.length)(&self.site) {
            return Ok(false);
        }
        for (at, expected) in (self.format.ends)(&self.site, pixels) {
            let mut found = vec![0; expected.len()];
            files::read_at(&self.file, &mut found, at)?;
            if found != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Store for ArrayFile {
    fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>> {
        Ok(Box::new(OpenArray { store: self, tally: Tally::new(places.start) }))
    }

    fn sync(&self, _: &[Piece]) -> io::Result<()> {
        self.file.sync_data()
    }

    fn holds(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        let (site, length) = (&self.site, piece.count * self.site.image() as u64);
        let name = name_of(&site.path);
        let there = match self.file.metadata() {
            Ok(meta) => meta.len(),
            Err(e) => return Err(site.folder.failed("read", &name)(e)),
        };
        if piece.bytes != length || there < self.at(piece.first) + length {
            return Ok(false);
        }
        match depth {
            Depth::Sizes => Ok(true),
            Depth::Contents => self.contents_hold(piece).map_err(site.folder.failed("read", &name)),
        }
    }

    /// The piece is all of the other file.
    fn adopt(&self, from: &Arc<Site>, piece: &Piece, copied: &Copied) -> Result<bool> {
        /// Bytes at once, of whole images.
        const BLOCK: usize = 1 << 20;
        let (name, part, image) = (name_of(&from.path), name_of(&self.site.part), self.site.image());
        let other = match from.folder.read(&name) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            file => self.format.open(from, file.map_err(from.folder.failed("read", &name))?, true),
        };
        if piece.places() != from.share.places() || !other.is_closed(piece)? {
            return Ok(false);
        }
        let (mut crc, mut block) = (Hasher::new(), vec![0; (BLOCK / image).max(1) * image]);
        let (mut next, images) = (piece.first, block.len() / image);
        while next < piece.end() {
            let n = (piece.end() - next).min(images as u64);
            let block = &mut block[..n as usize * image];
            files::read_at(&other.file, block, other.at(next)).map_err(from.folder.failed("read", &name))?;
            crc.update(block);
            write_at(&self.file, block, self.at(next)).map_err(self.site.folder.failed("write", &part))?;
            copied(n)?;
            next += n;
        }
        Ok(crc.finalize() == piece.pixels)
    }

    fn is_final(&self) -> bool {
        self.is_final
    }

    fn is_closed(&self, all: &Piece) -> Result<bool> {
        self.ends_hold(all.pixels).or_else(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Ok(false),
            _ => Err(self.site.folder.failed("read", &name_of(&self.site.path))(e)),
        })
    }

    fn reopen(&self) -> Result<()> {
        write_at(&self.file, &(self.format.head)(&self.site), 0).map_err(Error::io("write", &self.site.part))
    }

    fn close(&mut self, all: Option<Piece>) -> Result<()> {
        let Self { format, site, file, .. } = self;
        let (part, whole) = (name_of(&site.part), name_of(&site.path));
        let write = || {
            let ends = (format.ends)(site, all.map_or(0, |all| all.pixels));
            ends.iter().try_for_each(|(at, bytes)| write_at(file, bytes, *at))?;
            file.set_len((format.length)(site))?;
            file.sync_all()
        };
        write().map_err(site.folder.failed("write", &part))?;
        if !site.folder.holds(file, &part) {
            return Err(site.removed(site.share.count()));
        }
        site.folder.rename(&part, &whole).map_err(site.folder.failed("write", &whole))?;
        self.is_final = true;
        Ok(())
    }

    fn discard(&self) -> bool {
        let _ = self.site.folder.remove(&name_of(&self.site.part)); // whatever made the job end is the error to report
        true
    }
}

/// A piece under way.
struct OpenArray<'a> {
    store: &'a ArrayFile,
    tally: Tally,
}

impl Open for OpenArray<'_> {
    fn put(&mut self, pixels: &[u8]) -> Result<()> {
        let Self { store: ArrayFile { file, site, .. }, tally } = self;
        write_at(file, pixels, self.store.at(tally.next())).map_err(Error::io("write", &site.part))?;
        tally.images((pixels.len() / site.image()) as u64, pixels);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Piece>> {
        let image = self.store.site.image() as u64;
        let piece = self.tally.close().map(|piece| Piece { bytes: piece.count * image, files: piece.pixels, ..piece });
        Ok(piece.into_iter().collect())
    }
}

/// Writes somewhere in a file; any number of threads at a time.
#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}
