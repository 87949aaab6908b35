//! Where samples go: a folder of PNG files, one `.npy` file, or one contact sheet. Nothing is ever half written under its
//! final name.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range as Span;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::generator;
use crate::error::{Error, Result};
use crate::files;
use crate::image::{self, Images};

/// What the samples become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Format {
    /// One PNG file an image, named by its number: `000042.png`; from number 10,000 on in a subfolder for every 1,000:
    /// `012000/012345.png`.
    #[default]
    Png,
    /// One NumPy file, `samples.npy`: uint8 `[n, height, width, channels]`.
    Npy,
    /// One contact sheet, `grid.png`.
    Grid,
}

impl Format {
    /// The name used for `--format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Npy => "npy",
            Self::Grid => "grid",
        }
    }
}

const FLAT_UP_TO: u64 = 10_000;
const SUBFOLDER: u64 = 1_000;
/// A contact sheet may have this many pixels: what common viewers open.
const MAX_SHEET: usize = 100_000_000;

/// A checked destination. Nothing has been created yet.
#[derive(Debug, Clone)]
pub struct Plan {
    format: Format,
    /// The folder of the PNG files, or the file.
    path: PathBuf,
    images: Span<u64>,
}

impl Plan {
    /// Plans images `start..start + n`. `out` is a folder; for `npy` and `grid` also a file name with their ending
    /// (`.npy`, `.png`).
    ///
    /// # Errors
    /// When `n` is 0, `out` cannot be such a folder, or something to be written is there already and `force` is not set.
    pub fn new(format: Format, out: &Path, start: u64, n: u64, force: bool) -> Result<Self> {
        if n == 0 {
            return Err(Error::usage("0 images were asked for", "Ask for 1 or more."));
        }
        let images = generator::span(start, n)?;
        let plan = Self { format, path: destination(format, out)?, images };
        let folder = plan.folder();
        if folder.exists() && !folder.is_dir() {
            return Err(Error::io("create folder", folder)(io::ErrorKind::NotADirectory.into()));
        }
        if !force {
            plan.refuse_occupied()?;
        }
        Ok(plan)
    }

    /// The folder of the PNG files, or the one file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The images to make.
    pub fn images(&self) -> Span<u64> {
        self.images.clone()
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    fn n(&self) -> u64 {
        self.images.end - self.images.start
    }

    /// The folder that is written to.
    fn folder(&self) -> &Path {
        match self.format {
            Format::Png => &self.path,
            Format::Npy | Format::Grid => match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            },
        }
    }

    fn refuse_occupied(&self) -> Result<()> {
        let what = match self.format {
            Format::Png => match self.occupied()? {
                0 => return Ok(()),
                count => format!("{} holds {count} of the images {:?} already", self.path.display(), self.images),
            },
            _ if self.path.symlink_metadata().is_err() => return Ok(()),
            _ => format!("{} exists already", self.path.display()),
        };
        Err(Error::usage(what, "Choose another --out, or give --force to overwrite."))
    }

    /// How many of the PNG files are there already. Looks at what is there, not for each file: `n` may be large.
    fn occupied(&self) -> Result<u64> {
        let mut folders = vec![self.path.clone()];
        folders.extend(entries(&self.path)?.into_iter().filter_map(|name| {
            let first = name.parse::<u64>().ok().filter(|first| subfolder_name(*first) == name)?;
            let overlaps = first < self.images.end && first.saturating_add(SUBFOLDER) > self.images.start;
            overlaps.then(|| self.path.join(name))
        }));
        let mut count = 0;
        for folder in folders {
            let indices = entries(&folder)?.into_iter().filter_map(|name| {
                let index = name.strip_suffix(".png")?.parse::<u64>().ok()?;
                (file_name(index) == name).then_some(index)
            });
            count += indices.filter(|index| self.images.contains(index)).count() as u64;
        }
        Ok(count)
    }

    /// The folder of one PNG file: a function of the image's number alone, so that the parts of a job that was cut up make
    /// the same tree as the whole.
    fn folder_of(&self, index: u64) -> PathBuf {
        match index {
            0..FLAT_UP_TO => self.path.clone(),
            _ => self.path.join(subfolder_name(index - index % SUBFOLDER)),
        }
    }

    /// Creates what the images go into, and so finds out whether that is possible.
    pub(super) fn open(&self, shape: [usize; 3]) -> Result<Sink> {
        let n = self.n();
        let image = shape.iter().product::<usize>();
        if self.format == Format::Grid {
            check_sheet(n, shape)?;
        }
        let folder = self.folder();
        files::create_folder(folder)?;
        let start = self.images.start;
        let to = match self.format {
            Format::Png => {
                tempfile::tempfile_in(folder).map_err(Error::io("write to", folder))?;
                To::Folder { made: None }
            }
            Format::Npy => {
                let header = npy_header(n, shape);
                let mut file = files::temporary(folder)?;
                file.write_all(&header).map_err(Error::io("write", &self.path))?;
                To::Npy { file, header: header.len() as u64 }
            }
            Format::Grid => {
                tempfile::tempfile_in(folder).map_err(Error::io("write to", folder))?;
                To::Sheet { pixels: vec![0; n as usize * image] }
            }
        };
        Ok(Sink { plan: self.clone(), shape, image, start, to })
    }
}

/// Images in a row, as one worker made them.
pub(super) struct Block {
    pub start: u64,
    pub images: Images,
    /// The images as PNG files, if the sink wants them so.
    pub pngs: Vec<Vec<u8>>,
}

/// Makes a block ready for writing; in the worker, for encoding takes time.
pub(super) fn encode(format: Format, start: u64, images: Images) -> Result<Block> {
    let Images { height, width, channels, .. } = images;
    let pngs = match format {
        Format::Png => {
            let each = images.pixels.chunks_exact(images.bytes().max(1));
            each.map(|pixels| image::encode_png(pixels, height, width, channels)).collect::<Result<_>>()?
        }
        Format::Npy | Format::Grid => Vec::new(),
    };
    Ok(Block { start, images, pngs })
}

/// An open destination. Dropped without [`Self::finish`], it leaves whole PNG files, but neither `.npy` nor grid.
pub(super) struct Sink {
    plan: Plan,
    shape: [usize; 3],
    /// Bytes of an image.
    image: usize,
    start: u64,
    to: To,
}

enum To {
    /// `made`: the last subfolder that was created.
    Folder {
        made: Option<PathBuf>,
    },
    Npy {
        file: NamedTempFile,
        header: u64,
    },
    Sheet {
        pixels: Vec<u8>,
    },
}

impl Sink {
    /// Takes the images of a block, in any order of blocks.
    pub fn put(&mut self, block: &Block) -> Result<()> {
        let offset = (block.start - self.start) * self.image as u64;
        match &mut self.to {
            To::Folder { made } => {
                for (index, png) in (block.start..).zip(&block.pngs) {
                    let folder = self.plan.folder_of(index);
                    if made.as_ref() != Some(&folder) {
                        files::create_folder(&folder)?;
                        *made = Some(folder.clone());
                    }
                    write_whole(&folder, &file_name(index), png)?;
                }
            }
            To::Npy { file, header } => {
                file.seek(SeekFrom::Start(*header + offset))
                    .and_then(|_| file.write_all(&block.images.pixels))
                    .map_err(Error::io("write", &self.plan.path))?;
            }
            To::Sheet { pixels } => {
                let offset = offset as usize;
                pixels[offset..offset + block.images.pixels.len()].copy_from_slice(&block.images.pixels);
            }
        }
        Ok(())
    }

    /// All images are there: gives single files their final names.
    pub fn finish(self) -> Result<()> {
        let path = &self.plan.path;
        match self.to {
            To::Folder { .. } => Ok(()),
            To::Npy { file, .. } => {
                file.as_file().sync_all().map_err(Error::io("write", path))?;
                file.persist(path).map_err(|e| Error::io("write", path)(e.error))?;
                Ok(())
            }
            To::Sheet { pixels } => {
                let [height, width, channels] = self.shape;
                let n = self.plan.n() as usize;
                image::save_grid(&Images { n, height, width, channels, pixels }, Images::square_columns(n), path)
            }
        }
    }
}

fn destination(format: Format, out: &Path) -> Result<PathBuf> {
    let ending = out.extension().map(|ending| ending.to_ascii_lowercase());
    let is_file_name = |wanted: &str| !out.is_dir() && ending.as_deref() == Some(wanted.as_ref());
    let (wanted, name) = match format {
        Format::Png => ("", ""),
        Format::Npy => ("npy", "samples.npy"),
        Format::Grid => ("png", "grid.png"),
    };
    match ["npy", "png"].into_iter().find(|ending| is_file_name(ending)) {
        Some(ending) if ending == wanted => Ok(out.to_path_buf()),
        Some(_) => Err(Error::usage(
            format!("--out {} names a file that format {} does not make", out.display(), format.name()),
            "Name a folder, or choose --format npy for a .npy file, --format grid for a .png file.",
        )),
        None if name.is_empty() => Ok(out.to_path_buf()),
        None => Ok(out.join(name)),
    }
}

/// The names in a folder; none if it does not exist.
fn entries(folder: &Path) -> Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("read folder", folder)(e)),
    }
}

fn file_name(index: u64) -> String {
    format!("{index:06}.png")
}

fn subfolder_name(first: u64) -> String {
    format!("{first:06}")
}

/// A file under its final name, whole; not synced, for there may be millions.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = folder.join(format!(".{name}.part"));
    let path = folder.join(name);
    fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path)).map_err(|e| {
        let _ = fs::remove_file(&temporary); // the first error is the one to report
        Error::io("write", &path)(e)
    })
}

/// The header of a NumPy file, version 1.0 (numpy.lib.format): padded so that the data starts at a multiple of 64.
fn npy_header(n: u64, [height, width, channels]: [usize; 3]) -> Vec<u8> {
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

fn check_sheet(n: u64, [height, width, _]: [usize; 3]) -> Result<()> {
    const GAP: usize = 2;
    let most = (MAX_SHEET / ((height + GAP) * (width + GAP))).max(1);
    if n > most as u64 {
        return Err(Error::usage(
            format!("a contact sheet of {n} images of {height}×{width} pixels is too large to look at"),
            format!("Ask for {most} or fewer, or choose --format png or npy."),
        ));
    }
    Ok(())
}
