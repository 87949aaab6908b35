//! `gan-train select`: the typical images of a data set, as a data set of their own.

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use ganforge::cli::{Console, print_line};
use ganforge::config::DataConfig;
use ganforge::data::{self, Dataset};
use ganforge::error::{Error, Result};
use ganforge::eval::{FeatureModel, InputRange, features, typical};
use ganforge::files;
use ganforge::image::{Range, encode_png, save_grid};
use ganforge::infer::Provider;
use ganforge::progress::Progress;
use serde_json::json;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

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
    /// The new zip archive of those images, in the form given by --size and --channels.
    #[arg(long, value_name = "FILE.zip")]
    out: PathBuf,
    /// Height and width the images are brought to.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(4..=1024))]
    size: u16,
    /// 1 (grey) or 3 (RGB).
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    channels: u8,
    /// A feature model, an Inception for example; by default the built-in one for such images.
    #[arg(long, value_name = "F.onnx")]
    features: Option<PathBuf>,
    /// The value range that a feature model takes which does not tell it itself: tanh (the default), sigmoid, byte or imagenet.
    #[arg(long, value_name = "RANGE")]
    features_range: Option<InputRange>,
    /// Height and width of a feature model's input that leaves them open.
    #[arg(long, value_name = "PIXELS")]
    features_size: Option<usize>,
    /// Where the features are computed: auto, cpu, cuda or cuda:INDEX.
    #[arg(long, default_value = "cpu")]
    provider: Provider,
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
    let sheet = sheet_beside(&args.out)?;
    let (size, channels) = (usize::from(args.size), usize::from(args.channels));
    let options = features::Options { provider: args.provider, range: args.features_range, size: args.features_size };
    let model = match &args.features {
        Some(path) => FeatureModel::open(path, &options)?,
        None => FeatureModel::builtin(size, channels, &options)?,
    };
    model.notes().iter().for_each(|note| console.say(note));
    let form = DataConfig { source: args.data.clone(), size, channels, range: Range::Tanh, held_out: 0.0 };
    let data = data::load(&args.data, &form, &console)?;
    console.say(&format!("{}: {}", data.name, data.report));

    let numbers: Vec<u32> = (0..data.len as u32).collect();
    let part = |range: std::ops::Range<usize>| data.images(&numbers[range]);
    let features = model.extract_parts(data.len, part, "features", &console)?;
    console.say(&format!("comparing each image with its {} nearest, by {}", typical::NEIGHBOURS, model.name()));
    let factors = typical::outlier_factors(&features, typical::NEIGHBOURS)?;
    let mut kept = typical::ranked(&factors);
    let count = ((args.keep * data.len as f64).round() as usize).clamp(1, data.len - 1);
    let left_out = kept.split_off(count);
    kept.sort_unstable();

    write_archive(&args.out, &data, &kept)?;
    let shown: Vec<u32> = left_out.iter().rev().step_by(left_out.len().div_ceil(SHOWN)).copied().collect();
    save_grid(&data.images(&shown), 10, &sheet)?;
    let cut = factors[left_out[0] as usize];
    match args.json {
        true => print_line(
            &json!({
                "out": args.out,
                "kept": kept.len(),
                "left_out": left_out.len(),
                "outlier_factor_from": cut,
                "features": { "name": model.name(), "sha256": model.sha256() },
                "sheet": sheet,
            })
            .to_string(),
        ),
        false => print_line(&format!(
            "{}: {} of {} images; left out are those with an outlier factor of {cut:.3} and more, of which {} shows {}, the \
             oddest first",
            args.out.display(),
            kept.len(),
            data.len,
            sheet.display(),
            shown.len(),
        )),
    }
}

/// Where the sheet goes. Neither it nor the archive may be there yet.
fn sheet_beside(out: &Path) -> Result<PathBuf> {
    if !out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")) {
        return Err(Error::usage(format!("--out {}", out.display()), "Name a zip archive, for example typical.zip."));
    }
    let mut name = out.file_stem().unwrap_or_default().to_os_string();
    name.push("-left-out.png");
    let sheet = out.with_file_name(name);
    if let Some(path) = [out, &sheet].into_iter().find(|path| path.exists()) {
        return Err(Error::usage(format!("{} is there already", path.display()), "Choose another --out, or remove it."));
    }
    Ok(sheet)
}

/// The images as PNG files, by their numbers in the data set.
fn write_archive(path: &Path, data: &Dataset, numbers: &[u32]) -> Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    files::create_folder(folder)?;
    let mut file = files::temporary(folder)?;
    write_images(file.as_file_mut(), data, numbers)
        .and_then(|()| match file.persist(path) {
            Ok(_) => Ok(()),
            Err(e) => Err(e.error.into()),
        })
        .map_err(Error::io("write", path))
}

fn write_images(file: impl Write + Seek, data: &Dataset, numbers: &[u32]) -> std::io::Result<()> {
    let mut archive = ZipWriter::new(std::io::BufWriter::new(file));
    // They are compressed already. Without a date the same images make the same bytes.
    let options = SimpleFileOptions::DEFAULT.compression_method(zip::CompressionMethod::Stored);
    for &number in numbers {
        let image = data.images(&[number]);
        let png = encode_png(&image.pixels, data.size, data.size, data.channels).map_err(std::io::Error::other)?;
        archive.start_file(format!("{number:06}.png"), options)?;
        archive.write_all(&png)?;
    }
    archive.finish()?.flush()
}
