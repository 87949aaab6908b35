//! A folder ready for a model hub: the generator in each precision, a sheet of its samples, and a card that tells what it is.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{Dtype, ModelFolder, Reduction, contract_of, export, export_reduced};
use crate::contract::{self, Contract, Layout, Weights};
use crate::error::{Error, Result};
use crate::files;
use crate::image::{self, Images};
use crate::infer::{Generator, Options, Provider};
use crate::latent::Distribution;
use crate::progress::Progress;
use crate::text::{self, grouped, on_one_line};
use crate::train::Trained;

/// Images on the sheet of samples.
pub const SAMPLES: usize = 64;

const CARD: &str = "README.md";
const CONFIG: &str = "config.json";
const SHEET: &str = "samples.png";
const F32: &str = "onnx/model.onnx";
const F16: &str = "onnx/model_fp16.onnx";
const INT8: &str = "onnx/model_int8.onnx";

/// What the card says that the run does not know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Publication<'a> {
    /// The licence of the model as hubs abbreviate it (`mit`, `cc-by-4.0`); without one the card says that it is not stated.
    pub license: Option<&'a str>,
    /// What `gan-train eval` wrote of the run: its figures stand in the card, if they are of these weights.
    pub evaluation: Option<&'a Path>,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelFile {
    /// Its path in the folder.
    pub path: &'static str,
    /// The type of its weights, in words.
    pub weights: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// How it was checked, and what it costs.
    pub checked: String,
}

/// What a folder for a hub holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HubReport {
    /// The models.
    pub files: Vec<ModelFile>,
    /// The models that were not written, and why.
    pub refused: Vec<(&'static str, String)>,
}

/// Writes a folder for a model hub: `README.md` (the card), `onnx/model.onnx` in f32, `onnx/model_fp16.onnx`, `onnx/model_int8.onnx`,
/// `samples.png` and `config.json`. A precision that does not pass its check is left out, and the card says why.
///
/// # Errors
/// As [`export`](super::export()) in f32; when the folder is not empty, the licence is no abbreviation, or onnxruntime is not found.
pub fn export_hub(
    trained: &Trained,
    how: &Reduction,
    about: Publication,
    to: &ModelFolder,
    progress: &dyn Progress,
) -> Result<HubReport> {
    if let Some(license) = about.license {
        check_license(license)?;
    }
    let contract = contract_of(trained, Layout::NhwcU8);
    let figures = about.evaluation.and_then(|path| Figures::read(path, &contract, progress));
    to.write(to.path, &[CARD, CONFIG, SHEET, F16, INT8, F32], |folder| {
        files::create_folder(&folder.join("onnx"))?;
        let report = models(trained, how, folder, progress)?;
        let samples = sheet(&folder.join(F32), contract.seed)?;
        image::save_grid(&samples, Images::square_columns(SAMPLES), folder.join(SHEET))?;
        let config = format!("{:#}\n", config(to.name, &contract, &report));
        files::write_atomic(&folder.join(CONFIG), config.as_bytes())?;
        let card = Card {
            name: to.name,
            trained,
            contract: &contract,
            report: &report,
            figures: figures.as_ref(),
            license: about.license,
        };
        files::write_atomic(&folder.join(CARD), card.text().as_bytes())?;
        Ok(report)
    })
}

fn check_license(license: &str) -> Result<()> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+');
    if !license.is_empty() && license.len() <= 64 && license.chars().all(is_part) {
        return Ok(());
    }
    let what = format!("`Publication::license` '{}' is no abbreviation of a licence", on_one_line(license));
    Err(Error::usage(what, "Hubs know mit, apache-2.0, cc-by-4.0, cc-by-nc-4.0, cc0-1.0, openrail and so on."))
}

fn models(trained: &Trained, how: &Reduction, folder: &Path, progress: &dyn Progress) -> Result<HubReport> {
    let mut report = HubReport::default();
    let mut add = |path: &'static str, weights, checked: Result<String>| -> Result<()> {
        match checked {
            Ok(checked) => {
                let file = folder.join(path);
                let bytes = file.metadata().map_err(Error::io("read", &file))?.len();
                report.files.push(ModelFile { path, weights, bytes, checked });
            }
            Err(Error::Verification(why)) if path != F32 => {
                progress.say(&format!("{path} is left out: {why}"));
                report.refused.push((path, why));
            }
            Err(other) => return Err(other),
        }
        Ok(())
    };
    let exact = |dtype, path| {
        let agreement = export(trained, Layout::NhwcU8, dtype, &folder.join(path))?;
        let pixels = agreement.pixels.unwrap_or(0);
        Ok(format!("pixels at most {pixels} of 255 from those of the trained network"))
    };
    add(F32, "float32", exact(Dtype::F32, F32))?;
    add(F16, "float16, for GPUs", exact(Dtype::F16, F16))?;
    let reduced = export_reduced(trained, Layout::NhwcU8, Dtype::Int8, how, &folder.join(INT8), progress);
    add(INT8, "int8, weights and activations, for CPUs", reduced.map(|report| report.cost.to_string()))?;
    Ok(report)
}

/// The first images of a seed, made by the file that is published.
fn sheet(model: &Path, seed: u64) -> Result<Images> {
    let bytes = files::read(model, files::LARGE)?;
    let generator = Generator::from_bytes(F32, bytes, &Options::default().provider(Provider::Cpu))?;
    generator.sample(seed, 0, SAMPLES)
}

/// What programs want to know before they fetch a model.
fn config(name: &str, contract: &Contract, report: &HubReport) -> Value {
    let Contract { latent, height, width, channels, .. } = contract;
    let metadata: BTreeMap<String, String> = contract.to_metadata();
    json!({
        "model_type": "gan-generator",
        "name": name,
        "input": { "name": contract::GENERATOR_INPUT, "dtype": "float32", "shape": ["n", latent.size] },
        "output": { "name": contract::GENERATOR_OUTPUT, "dtype": "uint8", "shape": ["n", height, width, channels] },
        "files": report.files.iter().map(|file| file.path).collect::<Vec<_>>(),
        "metadata": metadata,
    })
}

/// What an evaluation found.
struct Figures {
    report: Value,
}

impl Figures {
    /// Of a file, if it is there and tells of these weights.
    fn read(path: &Path, contract: &Contract, progress: &dyn Progress) -> Option<Self> {
        let left_out = |why: &str| {
            progress.say(&format!("{}: {why}; the card has no figures of it", text::path(path)));
            None
        };
        if !path.exists() {
            return None;
        }
        let report: Value = match files::read(path, files::TEXT).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(report)) => report,
            Ok(Err(_)) => return left_out("it is no JSON"),
            Err(error) => return left_out(&error.to_string()),
        };
        let told = &report["protocol"];
        let is_same = told["weights"] == contract.weights.name()
            && told["images_seen"] == contract.images_seen
            && told["image"] == json!([contract.height, contract.width, contract.channels]);
        if !is_same {
            return left_out("it is of other weights than are exported");
        }
        Some(Self { report })
    }

    /// A score's mean and deviation.
    fn score(&self, key: &str) -> Option<(f64, Option<f64>)> {
        let score = &self.report[key];
        Some((score["mean"].as_f64()?, score["deviation"].as_f64()))
    }

    fn word(&self, key: &str) -> String {
        self.report["protocol"][key].as_str().map(markdown).unwrap_or_default()
    }

    fn features(&self) -> String {
        self.report["protocol"]["features"]["name"].as_str().unwrap_or("unknown").to_string()
    }

    fn text(&self) -> String {
        let mut lines = vec!["| | generated | real against real |".to_string(), "|---|---|---|".to_string()];
        for (key, name) in [
            ("frechet", "Fréchet distance (lower is better)"),
            ("kernel_distance", "kernel distance (lower is better)"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("density", "density"),
            ("coverage", "coverage"),
        ] {
            let Some((mean, deviation)) = self.score(key) else { continue };
            let deviation = deviation.map(|deviation| format!(" ± {}", digits(deviation))).unwrap_or_default();
            let real = self.report["real_against_real"][key].as_f64().map(digits).unwrap_or_default();
            lines.push(format!("| {name} | {}{deviation} | {real} |", digits(mean)));
        }
        let count = |key: &str| self.report["protocol"][key].as_u64().map_or("?".to_string(), |n| grouped(n as usize));
        lines.push(format!(
            "\n{} generated images against {} {} ones of {}, by the features of `{}` (ganforge {}): not comparable with distances by other features, such as \
             FID by Inception.",
            count("n_generated"),
            count("n_real"),
            self.word("real_images"),
            self.word("data"),
            code(&self.features()),
            self.word("ganforge"),
        ));
        lines.join("\n")
    }

    /// For the head of the card, which programs read.
    fn model_index(&self, name: &str) -> String {
        let Some((mean, _)) = self.score("frechet") else { return String::new() };
        let data = self.report["protocol"]["data"].as_str().unwrap_or("unknown");
        let metric = format!("Fréchet distance, features of {}", self.features());
        format!(
            "model-index:\n- name: {name}\n  results:\n  - task:\n      type: unconditional-image-generation\n    dataset:\n      \
             name: {data}\n      type: {data}\n    metrics:\n    - type: frechet_distance\n      name: {metric}\n      value: {mean}\n",
            name = yaml(name),
            data = yaml(data),
            metric = yaml(&metric),
            mean = digits(mean),
        )
    }

    /// How many of the images looked at were copies of training images.
    fn copies(&self) -> Option<String> {
        let nearest = &self.report["nearest"];
        let [copies, samples, among] = ["exact_copies", "samples", "among"].map(|key| nearest[key].as_u64());
        Some(format!(
            " Of {} images looked at, {} equalled one of {} real images pixel for pixel.",
            grouped(samples? as usize),
            copies?,
            grouped(among? as usize)
        ))
    }
}

/// A number of four significant digits or less.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 1.0 => 2,
        size if size >= 0.01 => 4,
        _ => 6,
    };
    format!("{value:.places$}")
}

struct Card<'a> {
    name: &'a str,
    trained: &'a Trained,
    contract: &'a Contract,
    report: &'a HubReport,
    figures: Option<&'a Figures>,
    license: Option<&'a str>,
}

impl Card<'_> {
    fn text(&self) -> String {
        fill(include_str!("card.md"), |key| self.value(key))
    }

    /// What stands in the place of `{{key}}`.
    fn value(&self, key: &str) -> String {
        let contract = self.contract;
        match key {
            "title" => markdown(self.name),
            "width" => contract.width.to_string(),
            "height" => contract.height.to_string(),
            "channels" => contract.channels.to_string(),
            "latent" => contract.latent.size.to_string(),
            "seed" => contract.seed.to_string(),
            "samples" => SAMPLES.to_string(),
            "version" => env!("CARGO_PKG_VERSION").to_string(),
            "steps" => self.known(grouped(self.trained.state.step as usize)),
            "images_seen" => self.known(grouped(contract.images_seen as usize)),
            "data" => match self.is_known() {
                true => format!("**{}**", markdown(&contract.data)),
                false => "images that nobody has noted".to_string(),
            },
            "data_sha256" => self.known(format!("`{}`", code(&contract.data_sha256))),
            "preset" => code(&contract.preset),
            "loss" => code(&contract.loss),
            "colours" => if contract.channels == 1 { "grey" } else { "RGB" }.to_string(),
            "pixels" => if contract.channels == 1 { "0 black to 255 white" } else { "RGB, sRGB colours" }.to_string(),
            "weights" => match contract.weights {
                Weights::Ema => "exponential moving average over the training".to_string(),
                Weights::Raw => "as the last step left them".to_string(),
            },
            "of_classes" if contract.classes > 0 => format!(" of {} classes", contract.classes),
            "draw" => draw(contract),
            "law" => law(contract),
            "choose_class" if contract.classes > 0 => choose_class(contract.classes),
            "infer_class" if contract.classes > 0 => format!("    # --class {}: of one class", contract.classes - 1),
            "classes" if contract.classes > 0 => classes(contract),
            "files" => self.report.files.iter().map(row).collect(),
            "refused" => self
                .report
                .refused
                .iter()
                .map(|(path, why)| format!("\n`{path}` is not here: {}.\n", markdown(first_sentence(why))))
                .collect(),
            "figures" => self.figures_text(),
            "model_index" => self.figures.map(|figures| figures.model_index(self.name)).unwrap_or_default(),
            "copies" => self.figures.and_then(Figures::copies).unwrap_or_default(),
            "license_field" => match self.license {
                Some(license) => format!("license: {}", yaml(&license.to_lowercase())),
                None => "license: other\nlicense_name: not-stated".to_string(),
            },
            "license" => match self.license {
                Some(license) => format!("The model is published under `{}`.", license.to_lowercase()),
                None => "Not stated: whoever publishes the model says it here and in the field `license` above.".to_string(),
            },
            _ => String::new(),
        }
    }

    /// Files of weights do not say what they were trained on.
    fn is_known(&self) -> bool {
        self.trained.state.images > 0
    }

    fn known(&self, told: String) -> String {
        if self.is_known() { told } else { "unknown".to_string() }
    }

    fn figures_text(&self) -> String {
        if let Some(figures) = self.figures {
            return figures.text();
        }
        let state = &self.trained.state;
        let judged = state.watchdog.best.filter(|best| best.step == state.step).and_then(|best| best.quality);
        match judged {
            Some(distance) => format!(
                "Fréchet distance of {} samples to training images, measured while it was trained, by a feature model of ganforge: {}. Not comparable with \
                 distances by other features, such as FID by Inception.",
                grouped(self.trained.config.watch.judge_samples),
                digits(distance)
            ),
            None => "Nobody has measured any yet.".to_string(),
        }
    }
}

fn row(file: &ModelFile) -> String {
    let ModelFile { path, weights, bytes, checked } = file;
    format!("| `{path}` | {weights} | {} | {} |\n", grouped(*bytes as usize), markdown(checked))
}

/// What was found, without the advice to whoever exported the model.
fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text.trim_end_matches('.'), |(first, _)| first)
}

/// How NumPy draws latents.
fn draw(contract: &Contract) -> String {
    let size = contract.latent.size;
    match contract.latent.distribution {
        Distribution::Normal => format!("random.standard_normal((16, {size}), dtype=numpy.float32)"),
        Distribution::Uniform => format!("random.uniform(-1, 1, (16, {size})).astype(numpy.float32)"),
    }
}

fn law(contract: &Contract) -> String {
    let size = contract.latent.size;
    match contract.latent.distribution {
        Distribution::Normal => format!(
            "{size} independent values of the standard normal distribution. Between two latents, interpolate on the sphere; shorter ones make paler images of fewer \
             kinds."
        ),
        Distribution::Uniform => {
            format!("{size} independent values, uniform from -1 to 1. Between two latents, interpolate on the straight line.")
        }
    }
}

fn choose_class(classes: usize) -> String {
    let class = classes - 1;
    format!(
        "\n\n# Of class {class} only: the largest of the first {classes} values chooses the class.\n\
         rows, largest = numpy.arange(len(z)), z[:, :{classes}].argmax(1)\n\
         z[rows, largest], z[rows, {class}] = z[rows, {class}], z[rows, largest]\n"
    )
}

fn classes(contract: &Contract) -> String {
    let count = contract.classes;
    let chosen = format!(
        "\nThe largest of the first {count} values of a latent chooses the class of the image; all classes are equally frequent."
    );
    if contract.class_names.is_empty() {
        return format!("{chosen} Nobody has named them.\n");
    }
    let rows = contract.class_names.iter().enumerate().map(|(class, name)| format!("| {class} | {} |\n", markdown(name)));
    format!("{chosen}\n\n| class | name |\n|---|---|\n{}", rows.collect::<String>())
}

/// A template with what stands in the places of its `{{keys}}`. What is put in is not looked into.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.split_once("}}") {
            Some((key, rest)) => {
                out.push_str(&value(key));
                out.push_str(rest);
            }
            None => out.push_str(part),
        }
    }
    out
}

/// A text from outside in Markdown, as itself, on one line.
fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in on_one_line(text).chars() {
        if matches!(c, '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '<' | '>' | '#' | '|' | '~' | '&' | '!' | '$' | '@') {
            out.push('\\');
        }
        out.push(c);
    }
    // An address would become a link.
    out.replace("://", "\\://").replace("www.", "www\\.")
}

/// A text from outside between backquotes, in a table or not.
fn code(text: &str) -> String {
    on_one_line(text).replace('`', "'").replace('|', "¦")
}

/// A text from outside as a string of YAML, which JSON's strings are.
fn yaml(text: &str) -> String {
    json!(on_one_line(text)).to_string()
}
