//! `gan-train select`: the typical images of a data set, as a data set of their own.

use std::path::PathBuf;

use clap::Args;
use ganforge::cli::{Console, print_line};
use ganforge::config::DataConfig;
use ganforge::data;
use ganforge::error::{Error, Result};
use ganforge::eval::{self, Destination};
use ganforge::progress::Progress;
use ganforge::text::{self, on_one_line};
use serde_json::json;

use super::eval::FeatureArgs;

#[derive(Args)]
pub struct SelectArgs {
    /// What `--data` of a training takes; may be given more than once.
    #[arg(long, required = true)]
    data: Vec<String>,
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
    let to = Destination::new(&args.out, &args.data)?;
    let model = args.features.open(size, channels, &console)?;
    let form = DataConfig::plain(args.data.as_slice(), size, channels);
    let data = data::load(args.data.as_slice(), &form, &console)?;
    console.say(&format!("{}: {}", on_one_line(&data.name), data.report));
    if data.report.sizes.keys().any(|(width, height)| *width.min(height) as usize > size) {
        console.say(&format!("larger images are kept at {size}×{size}; --size asks for another size"));
    }
    if data.report.classes.len() > 1 {
        console.say("the archive has images only: their classes are not kept");
    }
    let selected = eval::select(&data, args.keep, &model, to, &console)?;
    if args.json {
        return print_line(
            &json!({
                "out": args.out.display().to_string(),
                "kept": selected.kept,
                "left_out": selected.left_out,
                "outlier_factor_from": selected.outlier_factor_from,
                "features": { "name": model.name(), "sha256": model.sha256() },
                "sheet": selected.sheet.display().to_string(),
            })
            .to_string(),
        );
    }
    print_line(&format!(
        "{}: {} of {} images; left out are outlier factors from {:.3} on, {} of them on {}, the oddest first",
        text::path(&args.out),
        selected.kept,
        data.len,
        selected.outlier_factor_from,
        selected.shown,
        text::path(&selected.sheet),
    ))
}
