//! `report.html`: one file that tells a run to people, with `curves.png` and `progress.gif` beside it.
//!
//! It asks for nothing from elsewhere: images, curves and style are in it, and its content security policy forbids the rest.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use candle_core::Device;
use image::imageops::FilterType;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::clock::duration;
use super::record::Elapsed;
use super::{Best, Record, RunFolder, Verdict, changes, checkpoint, count_measurements, curves, gif, read_records};
use crate::config::TrainConfig;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::text::grouped;

/// What the report says that no other file of the run does. Kept in `report.json`, so that a report can be made again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Generator steps asked for; 0 if not known.
    pub total_steps: u64,
    /// How the run ended, if not as asked for: what the error said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// What the watchdog said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What it said where it was not to end the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Verdict>,
    /// What speaks against the run at its end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
    /// The best checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// How often the distance was measured that it is the best by.
    #[serde(default)]
    pub measurements: usize,
    /// The images trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataFacts>,
    /// Where the run's last process ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

/// A data set without its pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    /// The data set's name.
    pub name: String,
    /// SHA-256 over its shape and pixels, in hexadecimal.
    pub sha256: String,
    /// How many images.
    pub images: usize,
    /// Height and width as trained on.
    pub size: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Images found, the broken ones included.
    pub found: usize,
    /// Images that could not be decoded or were too large, by name and reason: the first 100.
    pub broken: Vec<String>,
    /// How many these are.
    pub broken_count: usize,
    /// Other files, passed over.
    pub ignored: usize,
    /// Images equal to an earlier one; they stay in.
    pub duplicates: usize,
    /// All of it in a short text.
    pub summary: String,
}

/// Where a run ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Name and version of this program.
    pub program: String,
    /// The operating system.
    pub os: String,
    /// The processor's model.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory: u64,
    /// What it trained on.
    pub device: String,
    /// What convolutions and linear layers computed with.
    pub precision: String,
}

impl Facts {
    /// Of a run that goes as it should.
    pub fn new(config: &TrainConfig, data: &Dataset, device: &Device, total_steps: u64) -> Self {
        let environment = Some(Environment::new(config, device));
        Self { total_steps, data: Some(DataFacts::new(data)), environment, ..Self::default() }
    }
}

impl DataFacts {
    fn new(data: &Dataset) -> Self {
        const LISTED: usize = 100;
        Self {
            name: data.name.clone(),
            sha256: data.sha256.clone(),
            images: data.len,
            size: data.size,
            channels: data.channels,
            found: data.report.found,
            broken: data.report.broken.iter().chain(&data.report.too_large).take(LISTED).map(ToString::to_string).collect(),
            broken_count: data.report.broken.len() + data.report.too_large.len(),
            ignored: data.report.ignored,
            duplicates: data.report.duplicates,
            summary: data.report.to_string(),
        }
    }
}

impl Environment {
    fn new(config: &TrainConfig, device: &Device) -> Self {
        let wanted = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
        let system = System::new_with_specifics(wanted.with_memory(MemoryRefreshKind::nothing().with_ram()));
        let unknown = || "unknown".to_string();
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_string());
        Self {
            program: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_string(),
            os: format!("{}, {}", System::long_os_version().unwrap_or_else(unknown), std::env::consts::ARCH),
            cpu: brand.filter(|brand| !brand.is_empty()).unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: system.total_memory(),
            device: device_text(device),
            precision: config.schedule.precision.name().to_string(),
        }
    }
}

fn device_text(device: &Device) -> String {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(gpu) => format!("CUDA, {}", gpu.cuda_stream().context().name().unwrap_or_else(|e| e.to_string())),
        Device::Cpu => "CPU".to_string(),
        other => format!("{:?}", other.location()),
    }
}

/// Writes `report.json`, at the beginning of a run: a report can be made while it goes on.
///
/// # Errors
/// When the folder cannot be written to.
pub fn note(folder: &RunFolder, facts: &Facts) -> Result<()> {
    let json = serde_json::to_string_pretty(facts);
    let json = json.map_err(|e| Error::invalid("report.json", e.to_string(), "Please report this."))?;
    files::write_atomic(&folder.facts_file(), (json + "\n").as_bytes())
}

/// Whether a report tells where on this machine things lie. Reports travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Paths {
    /// Only what they are called.
    #[default]
    Hidden,
    /// Whole paths.
    Shown,
}

/// Writes `report.json`, `curves.png`, `progress.gif` and `report.html` of a run, whatever became of it. It tells what the data
/// are called, not where they lie.
///
/// # Errors
/// When a file of the run other than a sheet of samples is unreadable or damaged, or the folder cannot be written to.
pub fn write(folder: &RunFolder, facts: &Facts) -> Result<()> {
    note(folder, facts)?;
    render(folder, facts, Paths::Hidden)
}

/// Makes the report of an existing run again, from what is in its folder.
///
/// # Errors
/// As [`write()`]; and when the run has no log yet.
pub fn rewrite(folder: &RunFolder, paths: Paths) -> Result<()> {
    let mut facts = facts(folder)?;
    if let Some(saved) = checkpoint::latest(folder)? {
        // The run may be under way.
        let state = checkpoint::read_state(&saved)?;
        let end = checkpoint::end(folder, state.step)?;
        facts.best = state.watchdog.best_with(end).or(facts.best);
        facts.measurements = count_measurements(folder, end)?;
    }
    render(folder, &facts, paths)
}

/// What `report.json` says; nothing where there is none.
pub(super) fn facts(folder: &RunFolder) -> Result<Facts> {
    let path = folder.facts_file();
    if !path.exists() {
        return Ok(Facts::default());
    }
    serde_json::from_slice(&files::read(&path, files::TEXT)?)
        .map_err(|e| Error::invalid_file(&path, e.to_string(), "Delete it: the report can do without."))
}

fn render(folder: &RunFolder, facts: &Facts, paths: Paths) -> Result<()> {
    let mut records = read_records(folder)?;
    let last = records.last().map_or(0, |record| record.step);
    // What was measured at the end is not in the log: a run that is made longer would not have measured there.
    if let (Some(record), Some(end)) = (records.last_mut(), checkpoint::end(folder, last)?) {
        record.quality = record.quality.or(end.quality);
    }
    curves::draw(&records, &folder.curves_file())?;
    gif::write(folder, last, &folder.gif_file())?;
    files::write_atomic(&folder.report_file(), page(folder, facts, &records, paths)?.into_string().as_bytes())
}

const STYLE: &str = "
:root{color-scheme:light dark;--text:#1d2330;--soft:#5d6678;--back:#f6f7f9;--card:#fff;--line:#dde1e8;--warn:#a3390b;--warnback:#fff3ec}
@media(prefers-color-scheme:dark){:root{--text:#e4e7ee;--soft:#9aa3b5;--back:#14171d;--card:#1d2129;--line:#333a47;--warn:#ffb38a;
--warnback:#3a2217}svg{filter:invert(.9) hue-rotate(180deg)}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}h1{margin:0;font-size:28px}h2{margin:36px 0 12px;font-size:19px}
p{margin:4px 0}.soft,figcaption{color:var(--soft)}code,pre{font:13px/1.45 ui-monospace,monospace;overflow-wrap:anywhere}
.row{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));margin-top:20px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.card b{display:block;font-size:20px;font-weight:600}.warn{background:var(--warnback);color:var(--warn);border-color:currentColor;margin-top:14px}
.best{margin-top:14px}.charts{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr))}
.charts svg{display:block;width:100%;height:auto;border-radius:8px}
.sheets{display:grid;gap:16px;align-items:start;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr))}
figure{margin:0}figure img{display:block;width:100%;border-radius:4px}.small img{image-rendering:pixelated}
figcaption{font-size:13px;margin-top:4px}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:5px 14px 5px 0;border-top:1px solid var(--line);vertical-align:top}
tr:first-child>*{border-top:0}th{font-weight:400;color:var(--soft);white-space:nowrap;width:1%}pre{margin:0;overflow-x:auto}
summary{cursor:pointer}";

/// Text from outside stands in braces here and is escaped; only curves and style are taken as they are.
fn page(folder: &RunFolder, facts: &Facts, records: &[Record], paths: Paths) -> Result<Markup> {
    let mut config = folder.config()?;
    if paths == Paths::Hidden {
        config.data.source = config.data.source.map(last_part);
        config.init_from = config.init_from.map(last_part);
    }
    let changed = changes::read(folder)?;
    let charts = curves::svgs(records)?;
    let gif = Some(folder.gif_file()).filter(|path| path.exists()).and_then(|path| picture(&path).ok());
    let (sheets, left_out) = sheets(folder, facts, records)?;
    let toml = config.to_toml()?;
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                title { (config.preset) " – training report" }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                h1 { (config.preset) }
                @if !config.about.is_empty() { p.soft { (config.about) } }
                (outcome(facts, records))
                (tiles(facts, records))
                h2 { "Progress" }
                div.sheets {
                    @if let Some(gif) = &gif { (figure(gif, "the fixed samples over the run")) }
                    @for (caption, picture) in &sheets { (figure(picture, caption)) }
                    @if sheets.is_empty() && left_out.is_empty() { p.soft { "No samples were drawn yet." } }
                }
                @for reason in &left_out { p.soft { "Left out: " (reason) } }
                h2 { "Curves" }
                div.charts {
                    @for chart in &charts { (PreEscaped(chart)) }
                    @if charts.is_empty() { p.soft { "Nothing was logged yet." } }
                }
                @if charts.iter().any(|chart| chart.contains("beyond the frame")) {
                    p.soft { "Pale: values as logged. Strong: their moving mean. Rare extremes are cut off at the frame's edge." }
                }
                @if let Some(record) = records.last() { h2 { "Last measurements" } (measurements(record)) }
                h2 { "Data" }
                (data(facts, &config))
                h2 { "Environment" }
                (environment(facts))
                @if !changed.is_empty() {
                    h2 { "Changed on the way" }
                    div.card { table { @for change in &changed {
                        tr { th { "after step " (grouped_u64(change.step)) } td { (change) } }
                    } } }
                }
                h2 { "Configuration" }
                details.card { summary { "The resolved " code { "config.toml" } } pre { (toml) } }
            } }
        }
    })
}

/// What went otherwise than asked for, and the best checkpoint.
fn outcome(facts: &Facts, records: &[Record]) -> Markup {
    let step = records.last().map_or(0, |record| record.step);
    html! {
        @for warning in &facts.warnings { div.card.warn { strong { "Watchdog, and the run went on: " } (warning) ". " } }
        @for doubt in &facts.doubts { div.card.warn { "At the end: " (doubt) } }
        @if let Some(verdict) = &facts.verdict { div.card.warn { strong { "Watchdog: " } (verdict) ". " (verdict.advice()) } }
        @if let Some(ended) = &facts.ended { div.card.warn { (ended) } }
        @else if facts.verdict.is_none() && step < facts.total_steps {
            div.card.warn {
                "At step " (grouped_u64(step)) " of " (grouped_u64(facts.total_steps)) ": the run goes on, or was stopped."
            }
        }
        @if let Some(best) = &facts.best { p.best { "Best checkpoint: step " (grouped_u64(best.step)) " – " (why(best, facts.measurements)) } }
    }
}

fn why(best: &Best, measurements: usize) -> String {
    match best.quality {
        Some(quality) if measurements == 1 => format!("Fréchet distance {quality:.2}, the only one measured"),
        Some(quality) => format!("Fréchet distance {quality:.2}, the least of {measurements} measured"),
        None => "the last that nothing is known against".to_string(),
    }
}

fn tiles(facts: &Facts, records: &[Record]) -> Markup {
    let mut elapsed = Elapsed::default();
    let seconds = records.iter().map(|record| elapsed.after(record)).last().unwrap_or(0.0);
    let Some(last) = records.last() else { return html! {} };
    let mut tiles = vec![
        ("generator steps", grouped_u64(last.step)),
        ("real images seen", grouped_u64(last.images)),
        ("epochs", format!("{:.1}", last.epoch)),
        ("training time", duration(seconds)),
        ("images a second", grouped_u64((last.images as f64 / seconds.max(1e-9)).round() as u64)),
    ];
    tiles.extend(facts.best.as_ref().map(|best| ("best step", grouped_u64(best.step))));
    html! { div.row { @for (name, value) in &tiles { div.card { b { (value) } span.soft { (name) } } } } }
}

/// A path's own name.
fn last_part(path: &str) -> String {
    Path::new(path).file_name().map_or(path.to_string(), |name| name.to_string_lossy().into_owned())
}

/// Pictures with their captions, and why others are missing.
type Sheets = (Vec<(String, Picture)>, Vec<String>);

/// The sheets worth a look: first, some in between, best, last.
fn sheets(folder: &RunFolder, facts: &Facts, records: &[Record]) -> Result<Sheets> {
    const SHOWN: usize = 5;
    let sheets = folder.sheets(records.last().map_or(0, |record| record.step))?;
    let Some(last) = sheets.len().checked_sub(1) else { return Ok(Default::default()) };
    let best = facts.best.as_ref().and_then(|best| sheets.iter().rposition(|(step, _)| *step <= best.step));
    let mut numbers: Vec<usize> = (0..SHOWN).map(|at| at * last / (SHOWN - 1)).chain(best).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let shown = numbers.into_iter().filter_map(|number| Some((number, sheets.get(number)?)));
    let caption = |number: usize, step: u64| {
        let name = if best == Some(number) { ", the best checkpoint's or the last before it" } else { "" };
        let images = records.iter().rfind(|record| record.step == step).map(|record| record.images);
        let images = images.map(|images| format!(", {} images", grouped_u64(images))).unwrap_or_default();
        format!("step {}{images}{name}", grouped_u64(step))
    };
    let (mut pictures, mut left_out) = (Vec::new(), Vec::new());
    for (number, (step, path)) in shown {
        match picture(path) {
            Ok(picture) => pictures.push((caption(number, *step), picture)),
            Err(_) => left_out.push(format!("{:08}.png, which cannot be read", step)),
        }
    }
    Ok((pictures, left_out))
}

/// An image inside the page.
struct Picture {
    url: String,
    width: u32,
}

fn figure(picture: &Picture, caption: &str) -> Markup {
    const SMALL: u32 = 300; // shown larger than it is, which must not blur it
    html! { figure class=[(picture.width < SMALL).then_some("small")] { img src=(picture.url) alt=(caption); figcaption { (caption) } } }
}

/// A picture as a data URL; a very large one is scaled down.
fn picture(path: &Path) -> Result<Picture> {
    const SIDE: u32 = 1200;
    let mut bytes = files::read(path, files::PICTURE)?;
    let damaged = |e: image::ImageError| Error::invalid_file(path, e.to_string(), "Delete it: training does not need it.");
    let format = image::guess_format(&bytes).map_err(damaged)?;
    let decoded = image::load_from_memory(&bytes).map_err(damaged)?;
    let mut kind = format.to_mime_type();
    if decoded.width().max(decoded.height()) > SIDE {
        let small = decoded.resize(SIDE, SIDE, FilterType::Triangle).into_rgb8();
        bytes = crate::image::encode_png(small.as_raw(), small.height() as usize, small.width() as usize, 3)?;
        kind = "image/png";
    }
    Ok(Picture { url: format!("data:{kind};base64,{}", STANDARD.encode(&bytes)), width: decoded.width() })
}

fn rows(rows: &[(&str, String)]) -> Markup {
    html! { div.card { table { @for (name, value) in rows { tr { th { (name) } td { (value) } } } } } }
}

/// The numbers of a record that are there.
fn measurements(record: &Record) -> Markup {
    let optional = [
        ("score of fixed training images", record.score_train),
        ("score of held-out images", record.score_held_out),
        ("Wasserstein estimate", record.wasserstein),
        ("critic's gradient norm", record.gradient_norm_critic),
        ("generator's gradient norm", record.gradient_norm_generator),
        ("penalty", record.penalty),
        ("critic's input gradient norm", record.input_gradient_norm),
        ("diversity of the samples, of the real images' own", record.diversity),
        ("the same of nearest neighbours", record.diversity_nearest),
        ("contrast within the samples, of the real images' own", record.contrast),
        ("spread of the critic's scores", record.score_spread),
        ("Fréchet distance", record.quality),
    ];
    let always = [
        ("critic's loss", record.loss_critic),
        ("generator's loss", record.loss_generator),
        ("score of real images", record.score_real),
        ("score of generated images", record.score_fake),
    ];
    let optional = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
    rows(&always.into_iter().chain(optional).map(|(name, value)| (name, format!("{value:.4}"))).collect::<Vec<_>>())
}

fn data(facts: &Facts, config: &TrainConfig) -> Markup {
    let mut table = vec![("source", config.data.source.to_string())]; // where it lies, or what it is called
    let Some(data) = &facts.data else { return rows(&table) };
    let colour = if data.channels == 1 { "grey" } else { "RGB" };
    table.extend([
        ("name", data.name.clone()),
        ("images", grouped(data.images)),
        ("trained on as", format!("{0}×{0} pixels, {colour}", data.size)),
        ("as found", data.summary.lines().next().unwrap_or_default().trim_end_matches(':').to_string()),
        ("exact duplicates", grouped(data.duplicates)),
        ("broken or too large, left out", format!("{} of {} found", grouped(data.broken_count), grouped(data.found))),
        ("other files passed over", grouped(data.ignored)),
        ("SHA-256 of the pixels", data.sha256.clone()),
    ]);
    html! {
        (rows(&table))
        @if !data.broken.is_empty() {
            details.card {
                summary { "Images left out" @if data.broken.len() < data.broken_count { ", the first " (data.broken.len()) } }
                pre { @for broken in &data.broken { (broken) "\n" } }
            }
        }
    }
}

fn environment(facts: &Facts) -> Markup {
    const GIB: f64 = (1u64 << 30) as f64;
    let Some(environment) = &facts.environment else { return html! { p.soft { "Not known." } } };
    rows(&[
        ("program", environment.program.clone()),
        ("system", environment.os.clone()),
        ("processor", environment.cpu.clone()),
        ("cores", environment.cores.to_string()),
        ("memory", format!("{:.1} GiB", environment.memory as f64 / GIB)),
        ("trained on", environment.device.clone()),
        ("precision", environment.precision.clone()),
    ])
}

fn grouped_u64(number: u64) -> String {
    usize::try_from(number).map_or_else(|_| number.to_string(), grouped)
}
