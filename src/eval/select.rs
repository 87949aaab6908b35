//! The typical images of a data set, as a data set of their own.

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::features::FeatureModel;
use super::typical;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::image::{encode_png, save_grid};
use crate::progress::Progress;
use crate::text;

/// Images on the sheet of what was left out.
const SHOWN: usize = 100;

/// Where a selection goes: a new zip archive, and beside it a sheet of what was left out.
pub struct Destination {
    archive: PathBuf,
    sheet: PathBuf,
    file: NamedTempFile,
}

/// What came of a selection.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Images in the archive.
    pub kept: usize,
    /// Images that are not.
    pub left_out: usize,
    /// The least outlier factor (see [`typical::outlier_factors`]) of those.
    pub outlier_factor_from: f64,
    /// The sheet of some that were left out, the oddest first.
    pub sheet: PathBuf,
    /// How many are on it.
    pub shown: usize,
}

impl Destination {
    /// Checks before any work that a selection can go to the archive `out`, of images that come from `sources`. Neither archive nor
    /// sheet may be there yet, nor lie where the next training would find the sheet among its images.
    ///
    /// # Errors
    /// When `out` is not named as a zip archive, or is in such a place, or its folder cannot be written to.
    pub fn new(out: &Path, sources: &[String]) -> Result<Self> {
        if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")) {
            return Err(Error::usage(
                format!("`Destination::out` {}", text::path(out)),
                "Name a zip archive, for example typical.zip.",
            ));
        }
        let mut name = out.file_stem().unwrap_or_default().to_os_string();
        name.push("-left-out.png");
        let sheet = out.with_file_name(name);
        if let Some(path) = [out, &sheet].into_iter().find(|path| path.exists()) {
            return Err(Error::usage(
                format!("{} is there already", text::path(path)),
                "Choose another `Destination::out`, or remove it.",
            ));
        }
        let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        // As far as it is there already.
        let existing =
            std::path::absolute(folder).ok().and_then(|folder| folder.ancestors().find_map(|part| part.canonicalize().ok()));
        let inside = |data: PathBuf| data.is_dir() && existing.as_ref().is_some_and(|folder| folder.starts_with(data));
        if sources.iter().any(|source| Path::new(source).canonicalize().is_ok_and(inside)) {
            let what = format!("`Destination::out` {} is inside the data's own folder", text::path(out));
            return Err(Error::usage(what, "Name a place outside of it, so that the data stay what they are."));
        }
        files::create_folder(folder)?;
        Ok(Self { archive: out.to_path_buf(), sheet, file: files::temporary(folder)? })
    }
}

/// Writes the most typical images of a data set to an archive of PNG files, without labels: the share `keep` of them, above 0 and
/// below 1.
///
/// # Errors
/// When there are too few images, the feature model fails, or the files cannot be written.
pub fn select(data: &Dataset, keep: f64, model: &FeatureModel, to: Destination, progress: &dyn Progress) -> Result<Selected> {
    let factors = factors(data, model, progress)?;
    let mut kept = typical::ranked(&factors);
    let count = ((keep * data.len as f64).round() as usize).clamp(1, data.len - 1);
    let left_out = kept.split_off(count);
    kept.sort_unstable();
    let shown: Vec<u32> = left_out.iter().rev().step_by(left_out.len().div_ceil(SHOWN)).copied().collect();
    write_archive(to.file, &to.archive, data, &kept, progress)?;
    save_grid(&data.images(&shown), 10, &to.sheet)?;
    Ok(Selected {
        kept: kept.len(),
        left_out: left_out.len(),
        outlier_factor_from: factors[left_out[0] as usize],
        sheet: to.sheet,
        shown: shown.len(),
    })
}

/// Each image's outlier factor; copies have the same.
fn factors(data: &Dataset, model: &FeatureModel, progress: &dyn Progress) -> Result<Vec<f64>> {
    let (mut distinct, mut places) = (Vec::new(), HashMap::new());
    let place_of = |number: usize| {
        *places.entry(data.image(number)).or_insert_with(|| {
            distinct.push(number as u32);
            distinct.len() - 1
        })
    };
    let place: Vec<usize> = (0..data.len).map(place_of).collect();
    let part = |range: Range<usize>| data.images(&distinct[range]);
    let features = model.extract_parts(distinct.len(), part, "features", progress)?;
    let factors = typical::outlier_factors(&features, typical::NEIGHBOURS, progress)?;
    Ok(place.into_iter().map(|place| factors[place]).collect())
}

/// The images as PNG files, by their numbers in the data set.
fn write_archive(mut file: NamedTempFile, path: &Path, data: &Dataset, numbers: &[u32], progress: &dyn Progress) -> Result<()> {
    progress.begin("writing", numbers.len() as u64);
    let written = write_images(file.as_file_mut(), data, numbers, progress).and_then(|()| file.as_file().sync_all());
    progress.end();
    written.and_then(|()| file.persist_noclobber(path).map(drop).map_err(|e| e.error)).map_err(Error::io("write", path))
}

fn write_images(file: impl Write + Seek, data: &Dataset, numbers: &[u32], progress: &dyn Progress) -> std::io::Result<()> {
    let mut archive = ZipWriter::new(std::io::BufWriter::new(file));
    // They are compressed already. Without a date the same images make the same bytes.
    let options = SimpleFileOptions::DEFAULT.compression_method(zip::CompressionMethod::Stored);
    let digits = (data.len - 1).to_string().len().max(6);
    for (done, &number) in numbers.iter().enumerate() {
        let image = data.images(&[number]);
        let png = encode_png(&image.pixels, data.size, data.size, data.channels).map_err(std::io::Error::other)?;
        archive.start_file(format!("{number:0digits$}.png"), options)?;
        archive.write_all(&png)?;
        progress.update(done as u64 + 1, "");
    }
    archive.finish()?.flush()
}
