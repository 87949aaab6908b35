//! What a job makes and under which names; checked before anything is made.

use std::fs;
use std::io;
use std::ops::{Range as Span, RangeInclusive};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::folder::Names;
use super::selection::{Selection, Shard};
use crate::error::{Error, Result};
use crate::text;

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
    /// The same array as `arr_0` in a zip file, `samples.npz`, not compressed: what `numpy.savez` writes.
    Npz,
    /// WebDataset: tar files of 1,000 PNG files, `000042.tar` of images 42,000 to 42,999.
    Tar,
    /// One contact sheet, `grid.png`.
    Grid,
}

impl Format {
    /// The name used for `--format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::Tar => "tar",
            Self::Grid => "grid",
        }
    }

    /// The ending of the one file that it makes.
    fn ending(self) -> Option<&'static str> {
        match self {
            Self::Png | Self::Tar => None,
            Self::Npy => Some("npy"),
            Self::Npz => Some("npz"),
            Self::Grid => Some("png"),
        }
    }
}

/// What to do about something that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Refuse it.
    #[default]
    Refuse,
    /// Go on with the same job; begin it where there is nothing.
    Resume,
    /// Write over it.
    Overwrite,
}

const FLAT_UP_TO: u64 = 10_000;
const SUBFOLDER: u64 = 1_000;
/// Images in a tar file.
const TAR_IMAGES: u64 = 1_000;

/// A checked destination and what goes there. Nothing has been created yet.
#[derive(Debug, Clone)]
pub struct Plan {
    format: Format,
    /// The folder of the files, or the file.
    path: PathBuf,
    selection: Selection,
    shard: Option<Shard>,
    places: Span<u64>,
    existing: Existing,
}

impl Plan {
    /// Plans the images of `selection`, or a shard of them. `out` is a folder; for formats of one file also a file name with
    /// their ending (`.npy`, `.npz`, `.png`).
    ///
    /// # Errors
    /// When there are no images, `out` cannot be such a folder, or something is there already and `existing` says to refuse it.
    pub fn new(format: Format, out: &Path, selection: Selection, shard: Option<Shard>, existing: Existing) -> Result<Self> {
        let whole = selection.places()?;
        let places = Self::part_of(&whole, shard, format);
        let mut plan = Self { format, path: out.to_path_buf(), selection, shard, places, existing };
        plan.path = plan.destination(out)?;
        if format == Format::Grid && (shard.is_some() || existing == Existing::Resume) {
            let what = "a contact sheet is made in one go, without --shard and --resume";
            return Err(Error::usage(what, "Choose --format png, npy, npz or tar."));
        }
        let folder = plan.folder();
        if folder.exists() && !folder.is_dir() {
            return Err(Error::io("create folder", folder)(io::ErrorKind::NotADirectory.into()));
        }
        if existing == Existing::Refuse {
            plan.refuse_occupied()?;
        }
        Ok(plan)
    }

    /// The folder of the files, or the one file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The images to make, by their places in the job.
    pub fn places(&self) -> Span<u64> {
        self.places.clone()
    }

    /// How many images.
    pub fn count(&self) -> u64 {
        self.places.end - self.places.start
    }

    /// The job that this is, or is a shard of.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What there is to be known of the choice of images, for the manifest.
    pub(super) fn facts(&self) -> Map<String, Value> {
        let mut facts = match &self.selection {
            Selection::Numbers { seed, start, n } => json!({ "seed": seed, "start": start, "n": n }),
            Selection::Seeds { seeds, number } => json!({ "seeds": seeds.to_string(), "number": number }),
        };
        facts["format"] = json!(self.format.name());
        if let Some(shard) = self.shard {
            facts["shard"] = json!(shard.to_string());
        }
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }

    /// The job that a manifest or a journal in this plan's folder is of, if it is one of the formats with many files.
    pub(super) fn told(&self, facts: &Value) -> Option<Self> {
        let format = [Format::Png, Format::Tar].into_iter().find(|format| facts["format"] == json!(format.name()))?;
        let number = |key: &str| facts[key].as_u64();
        let selection = match facts["seeds"].as_str() {
            Some(seeds) => Selection::Seeds { seeds: seeds.parse().ok()?, number: number("number")? },
            None => Selection::Numbers { seed: number("seed")?, start: number("start")?, n: number("n")? },
        };
        let shard = match facts.get("shard").and_then(Value::as_str) {
            Some(shard) => Some(shard.parse().ok()?),
            None => None,
        };
        let whole = selection.places().ok()?;
        let places = Self::part_of(&whole, shard, format);
        Some(Self { format, path: self.folder().to_path_buf(), selection, shard, places, existing: Existing::Refuse })
    }

    fn part_of(whole: &Span<u64>, shard: Option<Shard>, format: Format) -> Span<u64> {
        let align = if format == Format::Tar { TAR_IMAGES } else { 1 };
        shard.map_or(whole.clone(), |shard| shard.part(whole, align))
    }

    /// Whether two jobs of one folder make files of the same names.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        if self.format != other.format {
            return false;
        }
        let [mut ours, mut theirs] = [self, other].map(Self::numbers);
        ours.sort_by_key(|run| *run.start());
        theirs.sort_by_key(|run| *run.start());
        let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            if a.start() <= b.end() && b.start() <= a.end() {
                return true;
            }
            if a.end() < b.end() {
                ours.next()
            } else {
                theirs.next()
            };
        }
        false
    }

    /// The numbers in the names of the files.
    fn numbers(&self) -> Vec<RangeInclusive<u64>> {
        if self.places.is_empty() {
            return Vec::new();
        }
        let (first, last) = (self.places.start, self.places.end - 1);
        match (&self.selection, self.format) {
            (_, Format::Tar) => vec![first / TAR_IMAGES..=last / TAR_IMAGES],
            (Selection::Numbers { .. }, _) => vec![first..=last],
            (Selection::Seeds { seeds, .. }, _) => seeds.part(&self.places),
        }
    }

    /// The folder that is written to.
    pub(super) fn folder(&self) -> &Path {
        match self.format.ending() {
            None => &self.path,
            Some(_) => match self.path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            },
        }
    }

    /// Parts of what there is have names of their own: shards by their numbers, others by the first and the last image's, or
    /// by their seeds.
    fn suffix(&self) -> String {
        let range = match &self.selection {
            Selection::Numbers { start: 0, .. } => String::new(),
            Selection::Numbers { start, n, .. } => format!("-{start:06}-{:06}", (start + n).saturating_sub(1)),
            Selection::Seeds { seeds, .. } => format!("-seeds-{}", short(&seeds.to_string())),
        };
        range + &self.shard.map(Shard::suffix).unwrap_or_default()
    }

    fn destination(&self, out: &Path) -> Result<PathBuf> {
        let ending = out.extension().map(|ending| ending.to_ascii_lowercase());
        let named = ["npy", "npz", "png"].into_iter().find(|known| !out.is_dir() && ending.as_deref() == Some(known.as_ref()));
        // Shards must not write the same file.
        let shard = self.shard.map(Shard::suffix).unwrap_or_default();
        match (named, self.format.ending()) {
            (Some(named), Some(wanted)) if named == wanted => {
                let stem = out.file_stem().unwrap_or_default().to_string_lossy();
                Ok(if shard.is_empty() { out.to_path_buf() } else { out.with_file_name(format!("{stem}{shard}.{wanted}")) })
            }
            (Some(_), _) => Err(Error::usage(
                format!("--out {} names a file that format {} does not make", text::path(out), self.format.name()),
                "Name a folder, or choose --format npy for a .npy file, --format npz for a .npz file, --format grid for a .png file.",
            )),
            (None, None) => Ok(out.to_path_buf()),
            (None, Some("png")) => Ok(out.join("grid.png")),
            (None, Some(ending)) => Ok(out.join(format!("samples{shard}.{ending}"))),
        }
    }

    /// The manifest of a finished job.
    pub(super) fn manifest(&self) -> PathBuf {
        match self.format {
            Format::Png => self.path.join(format!("manifest{}.json", self.suffix())),
            Format::Tar => self.path.join(format!("manifest-tar{}.json", self.suffix())),
            _ => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.path.with_file_name(name + ".json")
            }
        }
    }

    /// A hidden neighbour of the manifest.
    fn hidden(&self, ending: &str) -> PathBuf {
        let manifest = self.manifest();
        let name = manifest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        manifest.with_file_name(format!(".{name}.{ending}"))
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.hidden("journal")
    }

    /// An array file until it is whole.
    pub(super) fn part(&self) -> PathBuf {
        self.hidden("part")
    }

    /// The manifest until it is whole.
    pub(super) fn manifest_part(&self) -> PathBuf {
        self.hidden("new")
    }

    pub(super) fn existing(&self) -> Existing {
        self.existing
    }

    fn refuse_occupied(&self) -> Result<()> {
        if self.format != Format::Grid && self.journal().symlink_metadata().is_ok() {
            return Err(Error::usage(
                format!("{} holds an unfinished job", text::path(self.folder())),
                "Go on with it: the same call with --resume. Or begin again with --force.",
            ));
        }
        self.refuse_finished()
    }

    /// Refuses to write over files of these names.
    pub(super) fn refuse_finished(&self) -> Result<()> {
        let count = self.there()?;
        let single = self.format.ending().is_some().then_some(&self.path).cloned();
        let manifest = (self.format != Format::Grid).then(|| self.manifest());
        let what = match [single, manifest].into_iter().flatten().find(|path| path.symlink_metadata().is_ok()) {
            _ if count > 0 => format!("{} holds {count} of these {} already", text::path(&self.path), self.files_name()),
            Some(there) => format!("{} exists already", text::path(there.as_path())),
            None => return Ok(()),
        };
        Err(Error::usage(what, "Choose another --out, or give --force, which replaces the job there with all of its files."))
    }

    /// How many of a folder's files are there already. Looks at what is there, not for each file: `n` may be large.
    pub(super) fn there(&self) -> Result<u64> {
        let mut count = 0;
        self.each(&mut |folder| entries(&self.path.join(folder)), &mut |_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Calls `see` with the name, inside the folder, of each file of this job that is there. `names` lists a folder in the folder, or
    /// itself: what is in it, and whether that is a folder.
    pub(super) fn each(
        &self,
        names: &mut dyn FnMut(&Path) -> Result<Names>,
        see: &mut dyn FnMut(&Path) -> Result<()>,
    ) -> Result<()> {
        let runs = self.numbers();
        let ours = |number: u64| runs.iter().any(|run| run.contains(&number));
        let numbered = |name: &str, ending: &str| name.strip_suffix(ending).and_then(|number| number.parse::<u64>().ok());
        match self.format {
            Format::Png => {
                let is_ours = |name: &str, folder: &Path| {
                    numbered(name, ".png").is_some_and(|n| ours(n) && image_name(n) == folder.join(name))
                };
                let top = names(Path::new(""))?;
                for (name, _) in top.iter().filter(|(name, _)| is_ours(name, Path::new(""))) {
                    see(Path::new(name))?;
                }
                for (folder, _) in top.iter().filter(|(name, is_folder)| *is_folder && is_subfolder(name)) {
                    let folder = Path::new(folder);
                    for (name, _) in names(folder)?.iter().filter(|(name, _)| is_ours(name, folder)) {
                        see(&folder.join(name))?;
                    }
                }
            }
            Format::Tar => {
                let is_ours = |name: &str| numbered(name, ".tar").is_some_and(|n| ours(n) && tar_name(n) == name);
                for (name, _) in names(Path::new(""))?.iter().filter(|(name, _)| is_ours(name)) {
                    see(Path::new(name))?;
                }
            }
            Format::Npy | Format::Npz | Format::Grid => {}
        }
        Ok(())
    }

    fn files_name(&self) -> &'static str {
        if self.format == Format::Tar { "tar files" } else { "images" }
    }

    /// The name of the tar file whose images begin at a place, inside the folder.
    pub(super) fn tar_file(&self, first: u64) -> PathBuf {
        PathBuf::from(tar_name(first / TAR_IMAGES))
    }

    /// The first place of the tar file of this name, in this job.
    pub(super) fn tar_first(&self, name: &str) -> Option<u64> {
        let number: u64 = name.strip_suffix(".tar")?.parse().ok()?;
        Some(number.checked_mul(TAR_IMAGES)?.max(self.places.start))
    }

    /// How many images a piece of the journal has, at least 1.
    pub(super) fn piece(&self, batch: usize, image: usize, threads: usize) -> u64 {
        /// Bytes of pixels: a piece that is handed over to an encoder lies in memory.
        const MOST_BYTES: usize = 4 << 20;
        /// Enough that nobody waits for the journal.
        const MOST: u64 = 256;
        if self.format == Format::Tar {
            return TAR_IMAGES;
        }
        let (batch, fair) = (batch as u64, self.count() / (4 * threads as u64).max(1));
        let most = fair.min(MOST).min((MOST_BYTES / image) as u64);
        (most - most % batch).max(batch)
    }
}

/// The name of a file of the job, in its folder.
pub(super) fn name_of(path: &Path) -> PathBuf {
    PathBuf::from(path.file_name().unwrap_or_default())
}

/// A text that can be part of a file's name: itself, or where it is long its checksum.
fn short(text: &str) -> String {
    const MOST: usize = 40;
    match text.len() {
        ..=MOST => text.replace(',', "_"),
        _ => format!("{:08x}", crc32fast::hash(text.as_bytes())),
    }
}

fn tar_name(number: u64) -> String {
    format!("{number:06}.tar")
}

/// What is in a folder, and whether it is a folder; nothing if it does not exist.
fn entries(folder: &Path) -> Result<Names> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("read folder", folder))?,
    };
    let named = entries.flatten().filter_map(|entry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        Some((entry.file_name().into_string().ok()?, is_folder))
    });
    Ok(named.collect())
}

/// The name of the PNG file of an image.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:06}.png")
}

/// The name of the PNG file of an image inside the folder: a function of the image's number alone, so that the parts of a job that
/// was cut up make the same tree as the whole.
pub(super) fn image_name(number: u64) -> PathBuf {
    match number {
        0..FLAT_UP_TO => PathBuf::from(file_name(number)),
        _ => Path::new(&subfolder_name(number - number % SUBFOLDER)).join(file_name(number)),
    }
}

/// The images that the manifest of a folder of PNG files vouches for together.
pub(super) const BLOCK: u64 = SUBFOLDER;

/// The name of a subfolder of a folder of PNG files, if the name of a folder is one.
pub(super) fn is_subfolder(name: &str) -> bool {
    name.parse().is_ok_and(|first: u64| first >= FLAT_UP_TO && subfolder_name(first) == name)
}

fn subfolder_name(first: u64) -> String {
    format!("{first:06}")
}
