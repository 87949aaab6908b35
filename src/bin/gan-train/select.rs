//! `gan-train select`: the typical images of a data set, as a data set of their own.

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use ganforge::cli::{Console, print_line};
use ganforge::config::DataConfig;
use ganforge::data::{self, Dataset};
use ganforge::error::{Error, Result};
use ganforge::eval::{FeatureModel, typical};
use ganforge::files;
use ganforge::image::{encode_png, save_grid};
use ganforge::progress::Progress;
use ganforge::text::{self, on_one_line};
use serde_json::json;
use tempfile::NamedTempFile;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::eval::FeatureArgs;

/// Images on the sheet of what was left out.
const SHOWN: usize = 100;

#[derive(Args)]
pub struct SelectArgs {
    /// What `--data` of a training takes.
    #[arg(long)]
    data: String,
    /// The share of the images to keep, above 0 and below 1.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    keep: f64,
    /// The new zip archive of those images, in the form given by --size and --channels, without labels.
    #[arg(long, value_name = "FILE.zip")]
    out: PathBuf,
    /// Height and width the images are brought to.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(4..=1024))]
    size: u16,
    /// 1 (grey) or 3 (RGB).
    #[arg(long, default_value_t = 3)]
    channels: u8,
    #[command(flatten)]
    features: FeatureArgs,
    /// Nothing on stderr.
    #[arg(long)]
    quiet: bool,
    /// A machine-readable summary on stdout.
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("expected a number above 0 and below 1, for example 0.7".to_string()),
    }
}

pub fn select(args: &SelectArgs) -> Result<()> {
    let console = Console::new(args.quiet);
    let (size, channels) = (usize::from(args.size), usize::from(args.channels));
    if !matches!(channels, 1 | 3) {
        return Err(Error::usage(format!("--channels {channels}"), "Use 1 (grey) or 3 (RGB)."));
    }
    let (sheet, archive) = destination(args)?;
    let model = args.features.open(size, channels, &console)?;
    let form = DataConfig::plain(&args.data, size, channels);
    let data = data::load(&args.data, &form, &console)?;
    console.say(&format!("{}: {}", on_one_line(&data.name), data.report));
    if data.report.sizes.keys().any(|(width, height)| *width.min(height) as usize > size) {
        console.say(&format!("larger images are kept at {size}×{size}; --size asks for another size"));
    }

    let factors = factors(&data, &model, &console)?;
    let mut kept = typical::ranked(&factors);
    let count = ((args.keep * data.len as f64).round() as usize).clamp(1, data.len - 1);
    let left_out = kept.split_off(count);
    kept.sort_unstable();
    let shown: Vec<u32> = left_out.iter().rev().step_by(left_out.len().div_ceil(SHOWN)).copied().collect();
    write_archive(archive, &args.out, &data, &kept, &console)?;
    save_grid(&data.images(&shown), 10, &sheet)?;

    let cut = factors[left_out[0] as usize];
    match args.json {
        true => print_line(
            &json!({
                "out": args.out.display().to_string(),
                "kept": kept.len(),
                "left_out": left_out.len(),
                "outlier_factor_from": cut,
                "features": { "name": model.name(), "sha256": model.sha256() },
                "sheet": sheet.display().to_string(),
            })
            .to_string(),
        ),
        false => print_line(&format!(
            "{}: {} of {} images; left out are outlier factors from {cut:.3} on, {} of them on {}, the oddest first",
            text::path(&args.out),
            kept.len(),
            data.len,
            shown.len(),
            text::path(&sheet),
        )),
    }
}

/// Where the sheet goes, and a file for the archive. Neither may be there yet, nor lie where the next training would find the
/// sheet among its images.
fn destination(args: &SelectArgs) -> Result<(PathBuf, NamedTempFile)> {
    let out = &args.out;
    if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")) {
        return Err(Error::usage(format!("--out {}", text::path(out)), "Name a zip archive, for example typical.zip."));
    }
    let mut name = out.file_stem().unwrap_or_default().to_os_string();
    name.push("-left-out.png");
    let sheet = out.with_file_name(name);
    if let Some(path) = [out, &sheet].into_iter().find(|path| path.exists()) {
        return Err(Error::usage(format!("{} is there already", text::path(path)), "Choose another --out, or remove it."));
    }
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    // As far as it is there already.
    let existing =
        std::path::absolute(folder).ok().and_then(|folder| folder.ancestors().find_map(|part| part.canonicalize().ok()));
    let inside = |data: PathBuf| data.is_dir() && existing.is_some_and(|folder| folder.starts_with(data));
    if Path::new(&args.data).canonicalize().is_ok_and(inside) {
        let what = format!("--out {} is inside the data's own folder", text::path(out));
        return Err(Error::usage(what, "Name a place outside of it, so that the data stay what they are."));
    }
    files::create_folder(folder)?;
    Ok((sheet, files::temporary(folder)?))
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
    let part = |range: std::ops::Range<usize>| data.images(&distinct[range]);
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
