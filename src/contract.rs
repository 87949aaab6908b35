//! What an exported generator promises, and how the file says so.
//!
//! - Input `z`: float32 `[n, latent]`, `n` dynamic. Output `image`: see [`Layout`].
//! - Opset 17, IR 8, no external data.
//! - `metadata_props` carries everything below, and a SHA-256 over the whole file (see `checksum`).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::image::Range;
use crate::latent::{Distribution, Latent};
use crate::text::on_one_line;

/// The version of this contract, in the metadata as `ganforge.contract`.
pub const VERSION: &str = "1";
/// The name of the graph's one input.
pub const GENERATOR_INPUT: &str = "z";
/// The name of the graph's one output.
pub const GENERATOR_OUTPUT: &str = "image";
/// The name of a feature model's one input: float32 `[n, channels, size, size]`.
pub const FEATURES_INPUT: &str = "image";
/// The name of a feature model's one output: float32 `[n, dim]`.
pub const FEATURES_OUTPUT: &str = "features";
/// The ONNX opset of exported graphs; with [`IR_VERSION`] the widest-supported pair (onnxruntime ≥ 1.14).
pub const OPSET: i64 = 17;
/// The ONNX IR version of exported graphs.
pub const IR_VERSION: i64 = 8;
/// What exported files name as their producer.
pub const PRODUCER: &str = "ganforge";
/// The metadata key of the file's checksum.
pub const CHECKSUM_KEY: &str = "ganforge.sha256";
const DIGITS: usize = 64;
/// The metadata key of the names of classes.
const CLASS_NAMES_KEY: &str = "ganforge.classes.names";
/// The metadata key of how many images a run on a CPU should take.
const BATCH_KEY: &str = "ganforge.batch";
/// The longest name of a class in bytes: with 256 classes 256 KiB.
const LONGEST_NAME: usize = 1024;

/// The type and axes of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Layout {
    /// uint8 `[n, height, width, channels]`: ready to be a PNG. The default.
    NhwcU8,
    /// uint8 `[n, channels, height, width]`: what torch-fidelity takes.
    NchwU8,
    /// float32 `[n, channels, height, width]`: the raw network, in its own value range.
    NchwF32,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::NhwcU8, Self::NchwU8, Self::NchwF32];

    /// The name used in metadata and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::NhwcU8 => "nhwc-u8",
            Self::NchwU8 => "nchw-u8",
            Self::NchwF32 => "nchw-f32",
        }
    }
}

/// Which weights an export holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Weights {
    /// The exponential moving average over training.
    Ema,
    /// The weights as the last step left them.
    Raw,
}

impl Weights {
    /// The name used in metadata and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ema => "ema",
            Self::Raw => "raw",
        }
    }
}

/// Everything a stranger needs to know to use an exported generator.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract {
    /// The distribution and size of `z`.
    pub latent: Latent,
    /// The largest of so many first values of `z` chooses the class of the image; 0: there are no classes.
    pub classes: usize,
    /// What the classes are called, by their numbers; empty where nobody has said.
    pub class_names: Vec<String>,
    /// The value range of the network (before the conversion to pixels, if the graph has one).
    pub range: Range,
    /// The output's type and axes.
    pub layout: Layout,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// The preset it was trained with.
    pub preset: String,
    /// The loss it was trained with.
    pub loss: String,
    /// The name of the data set.
    pub data: String,
    /// SHA-256 over the data set's pixels, and its labels where classes are told.
    pub data_sha256: String,
    /// Real images shown to the critic.
    pub images_seen: u64,
    /// The seed of the run.
    pub seed: u64,
    /// Averaged or raw weights.
    pub weights: Weights,
    /// What the file's fewer bits cost; none where it has all of them.
    pub cost: Option<Cost>,
    /// How many images a run on a CPU should take where nobody chooses, at least 1; none where that is as many as of most networks.
    pub batch: Option<usize>,
}

/// The metadata keys of what fewer bits cost.
const COST_KEYS: [&str; 4] =
    ["ganforge.cost.frechet", "ganforge.cost.frechet_f32", "ganforge.cost.psnr", "ganforge.cost.reference"];

/// The Fréchet distance of a good generator to real images, as a part of the variance of its features: the built-in faces have 0.023.
const TYPICAL: f64 = 0.02;

/// What fewer bits cost a generator, measured over the first 5,000 images of the contract's seed before the file was written.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Cost {
    /// Peak signal-to-noise ratio of its images to those in f32, in decibels.
    pub psnr: f64,
    /// The Fréchet distance of its images' features to the reference's.
    pub frechet: f64,
    /// With real images as the reference, the f32 generator's Fréchet distance to them; else the total variance of the features of its
    /// images, which are the reference then.
    pub frechet_f32: f64,
    /// The name of the real images that are the reference; empty where the f32 generator's own images are.
    pub reference: String,
}

impl Cost {
    /// By which part the distance to real images grew. Without real images, the distance to the f32 images is taken for what it grew by,
    /// and a fiftieth of their variance for what it was.
    pub fn loss(&self) -> f64 {
        let (more, before) = match self.reference.is_empty() {
            true => (self.frechet, TYPICAL * self.frechet_f32),
            false => (self.frechet - self.frechet_f32, self.frechet_f32),
        };
        match before > 0.0 {
            true => more / before,
            // Images that are all alike are no yardstick: any difference is too much.
            false if more > 0.0 => f64::INFINITY,
            false => 0.0,
        }
    }

    fn entries(&self) -> [(&'static str, String); 4] {
        let Self { psnr, frechet, frechet_f32, reference } = self;
        let values = [frechet.to_string(), frechet_f32.to_string(), psnr.to_string(), reference.clone()];
        let mut values = values.into_iter();
        COST_KEYS.map(|key| (key, values.next().unwrap_or_default()))
    }

    /// With as many digits as do not depend on the last bits of a processor's sums.
    pub fn rounded(self) -> Self {
        let digits = if self.reference.is_empty() { 2 } else { 4 };
        let [frechet, frechet_f32] = [self.frechet, self.frechet_f32].map(|value| significant(value, digits));
        Self { psnr: (self.psnr * 10.0).round() / 10.0, frechet, frechet_f32, ..self }
    }
}

/// A number of so many significant digits.
fn significant(value: f64, digits: i32) -> f64 {
    if value == 0.0 {
        return value;
    }
    let factor = 10f64.powi(digits - 1 - value.abs().log10().floor() as i32);
    (value * factor).round() / factor
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { psnr, frechet, frechet_f32, reference } = self;
        let percent = 100.0 * self.loss();
        match reference.is_empty() {
            true => write!(f, "{psnr} dB to the images in f32, Fréchet distance to them {frechet} (loss {percent:.2} %)"),
            false => write!(
                f,
                "{psnr} dB to the images in f32, Fréchet distance to {reference} {frechet}, in f32 {frechet_f32} (loss {percent:.2} %)"
            ),
        }
    }
}

impl Contract {
    /// The file's `metadata_props`, without the checksum. Sorted, so that the same contract gives the same bytes.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let pixel_format = match self.channels {
            1 => "Gray8",
            _ => "Rgb8",
        };
        let pixel_range = match (self.layout, self.range) {
            (Layout::NchwF32, Range::Tanh) => "Normalized_1_1",
            (Layout::NchwF32, Range::Sigmoid) => "Normalized_0_1",
            _ => "NominalRange_0_255",
        };
        let classes = (self.classes > 0).then(|| ("ganforge.latent.classes", self.classes.to_string()));
        let names = (!self.class_names.is_empty()).then(|| (CLASS_NAMES_KEY, serde_json::json!(self.class_names).to_string()));
        let batch = self.batch.map(|batch| (BATCH_KEY, batch.to_string()));
        [
            ("Image.BitmapPixelFormat", pixel_format.to_string()),
            ("Image.ColorSpaceGamma", "SRGB".to_string()),
            ("Image.NominalPixelRange", pixel_range.to_string()),
            ("ganforge.channels", self.channels.to_string()),
            ("ganforge.contract", VERSION.to_string()),
            ("ganforge.data", self.data.clone()),
            ("ganforge.data.sha256", self.data_sha256.clone()),
            ("ganforge.height", self.height.to_string()),
            ("ganforge.images_seen", self.images_seen.to_string()),
            ("ganforge.latent.law", self.latent.distribution.name().to_string()),
            ("ganforge.latent.size", self.latent.size.to_string()),
            ("ganforge.layout", self.layout.name().to_string()),
            ("ganforge.loss", self.loss.clone()),
            ("ganforge.preset", self.preset.clone()),
            ("ganforge.range", self.range.name().to_string()),
            ("ganforge.seed", self.seed.to_string()),
            ("ganforge.weights", self.weights.name().to_string()),
            ("ganforge.width", self.width.to_string()),
        ]
        .into_iter()
        .chain(classes)
        .chain(names)
        .chain(batch)
        .chain(self.cost.iter().flat_map(Cost::entries))
        .map(|(key, value)| (key.to_string(), value))
        .collect()
    }

    /// Reads the contract back. `lookup` answers a metadata key; `Ok(None)` if the file makes no such promise at all.
    ///
    /// # Errors
    /// When the file claims the contract but a key is missing or has an impossible value; `place` names the file.
    pub fn from_metadata(place: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let Some(version) = lookup("ganforge.contract") else { return Ok(None) };
        if version != VERSION {
            return Err(Error::invalid(
                place,
                format!("contract version {version}, but this program knows version {VERSION}"),
                "Export the generator again, or use a ganforge of the same version.",
            ));
        }
        let keys = Keys { place, lookup: &lookup };
        let size = keys.number("ganforge.latent.size")?;
        let classes = match lookup("ganforge.latent.classes") {
            None => 0,
            Some(_) => keys.number("ganforge.latent.classes")?,
        };
        if classes == 1 || classes > size {
            return Err(keys.wrong("ganforge.latent.classes", &format!("{classes} of {size} latents choose a class")));
        }
        Ok(Some(Self {
            latent: Latent {
                size,
                distribution: keys.one_of(
                    "ganforge.latent.law",
                    &[Distribution::Normal, Distribution::Uniform],
                    Distribution::name,
                )?,
            },
            classes,
            class_names: keys.class_names(classes)?,
            range: keys.one_of("ganforge.range", &[Range::Tanh, Range::Sigmoid, Range::Byte], Range::name)?,
            layout: keys.one_of("ganforge.layout", &Layout::ALL, Layout::name)?,
            height: keys.number("ganforge.height")?,
            width: keys.number("ganforge.width")?,
            channels: keys.number("ganforge.channels")?,
            preset: keys.text("ganforge.preset")?,
            loss: keys.text("ganforge.loss")?,
            data: keys.text("ganforge.data")?,
            data_sha256: keys.text("ganforge.data.sha256")?,
            images_seen: keys.number("ganforge.images_seen")?,
            seed: keys.number("ganforge.seed")?,
            weights: keys.one_of("ganforge.weights", &[Weights::Ema, Weights::Raw], Weights::name)?,
            cost: keys.cost()?,
            batch: keys.batch()?,
        }))
    }
}

/// Refuses names of classes that are not one a class, all different, none of them empty or longer than 1024 bytes.
///
/// # Errors
/// With what is wrong, in words.
pub fn check_class_names(names: &[String], classes: usize) -> Result<(), String> {
    if names.len() != classes {
        return Err(format!("{} names for {classes} classes", names.len()));
    }
    let mut seen = BTreeSet::new();
    for name in names {
        if !(1..=LONGEST_NAME).contains(&name.len()) {
            return Err(format!("a name of {} bytes; it must have 1 to {LONGEST_NAME}", name.len()));
        }
        if !seen.insert(name) {
            return Err(format!("two classes are called '{}'", on_one_line(name)));
        }
    }
    Ok(())
}

struct Keys<'a, F> {
    place: &'a str,
    lookup: &'a F,
}

impl<F: Fn(&str) -> Option<String>> Keys<'_, F> {
    fn text(&self, key: &str) -> Result<String> {
        (self.lookup)(key).ok_or_else(|| self.wrong(key, "missing"))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T> {
        let text = self.text(key)?;
        text.parse().map_err(|_| self.wrong(key, &format!("'{text}', not a number in range")))
    }

    fn cost(&self) -> Result<Option<Cost>> {
        let [frechet, frechet_f32, psnr, reference] = COST_KEYS;
        if COST_KEYS.into_iter().all(|key| (self.lookup)(key).is_none()) {
            return Ok(None);
        }
        Ok(Some(Cost {
            psnr: self.number(psnr)?,
            frechet: self.number(frechet)?,
            frechet_f32: self.number(frechet_f32)?,
            reference: self.text(reference)?,
        }))
    }

    fn batch(&self) -> Result<Option<usize>> {
        if (self.lookup)(BATCH_KEY).is_none() {
            return Ok(None);
        }
        match self.number(BATCH_KEY)? {
            0 => Err(self.wrong(BATCH_KEY, "0 images a run")),
            batch => Ok(Some(batch)),
        }
    }

    fn class_names(&self, classes: usize) -> Result<Vec<String>> {
        let Some(text) = (self.lookup)(CLASS_NAMES_KEY) else { return Ok(Vec::new()) };
        let wrong = |what: &str| self.wrong(CLASS_NAMES_KEY, what);
        let names: Vec<String> = serde_json::from_str(&text).map_err(|_| wrong("not a list of names in JSON"))?;
        check_class_names(&names, classes).map_err(|what| wrong(&what))?;
        Ok(names)
    }

    fn one_of<T: Copy>(&self, key: &str, all: &[T], name: fn(T) -> &'static str) -> Result<T> {
        let text = self.text(key)?;
        all.iter()
            .copied()
            .find(|&value| name(value) == text)
            .ok_or_else(|| self.wrong(key, &format!("unknown value '{text}'")))
    }

    fn wrong(&self, key: &str, what: &str) -> Error {
        Error::invalid(self.place, format!("metadata {key}: {what}"), "The file is damaged: export the generator again.")
    }
}

/// Fills the checksum in: `file` is an encoded model whose [`CHECKSUM_KEY`] entry holds 64 zeros.
///
/// Returns whether there was such an entry.
pub fn seal(file: &mut [u8]) -> bool {
    let Some(at) = digits_at(file) else { return false };
    let sum = checksum(file, at);
    file[at..at + DIGITS].copy_from_slice(sum.as_bytes());
    true
}

/// Compares the checksum with the contents. A file without one passes: it is a stranger's.
///
/// # Errors
/// When the contents have changed since the export.
pub fn check_seal(place: &str, file: &[u8]) -> Result<()> {
    match digits_at(file) {
        Some(at) if file[at..at + DIGITS] != *checksum(file, at).as_bytes() => Err(Error::invalid(
            place,
            "the checksum in its metadata does not match its contents",
            "The file is damaged or was changed by hand: copy or export it again.",
        )),
        _ => Ok(()),
    }
}

/// Refuses a file that claims to be this crate's, but whose metadata has no checksum.
#[cfg(feature = "infer")]
pub(crate) fn check_sealed(place: &str, digits: Option<&str>) -> Result<()> {
    match digits {
        Some(digits) if digits.len() == DIGITS => Ok(()),
        _ => Err(Error::invalid(
            place,
            format!("it claims to be ganforge's, but its metadata has no {CHECKSUM_KEY}"),
            "The file is damaged or was changed by hand: copy or export it again.",
        )),
    }
}

/// SHA-256 of the file with the checksum's own 64 digits taken as zeros, in hexadecimal: graph, weights and metadata.
fn checksum(file: &[u8], at: usize) -> String {
    let mut hash = Sha256::new();
    hash.update(&file[..at]);
    hash.update([b'0'; DIGITS]);
    hash.update(&file[at + DIGITS..]);
    hex(&hash.finalize())
}

/// Where the digits of the checksum entry start: after key and value tag, as protobuf writes a metadata entry.
fn digits_at(file: &[u8]) -> Option<usize> {
    let mut key = CHECKSUM_KEY.as_bytes().to_vec();
    key.extend([0x12, DIGITS as u8]);
    let at = file.windows(key.len()).rposition(|window| window == key)? + key.len();
    (at + DIGITS <= file.len()).then_some(at)
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
