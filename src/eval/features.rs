//! Feature models: what turns images into the vectors that an evaluation compares. Any ONNX file that takes float images and
//! gives floats will do, such as an exported Inception; two small ones trained by this project are built in.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ort::session::{RunOptions, Session};
use ort::value::{Tensor, TensorElementType};
use rayon::prelude::*;

pub use super::about::{About, InputRange};
pub use super::vectors::Features;
use crate::data;
use crate::error::{Error, OrtResult, Result};
use crate::image::Images;
use crate::infer::generator::MAX_BATCH;
use crate::infer::limits::{self, BATCH_MEMORY, hint};
use crate::infer::model::{self, Model, Port};
use crate::infer::provider::{Provider, SessionOptions};
use crate::progress::{Progress, Silent};

/// The value range taken for a feature model that does not tell its own, and for which none is given: that of the usual
/// Inception exports. The choice is among the model's [`notes`](FeatureModel::notes).
pub const DEFAULT_RANGE: InputRange = InputRange::Tanh;

/// How to open a feature model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Where to run it.
    pub provider: Provider,
    /// The value range of its input, for models that do not tell it themselves.
    pub range: Option<InputRange>,
    /// Height and width of its input, for models that leave them open.
    pub size: Option<usize>,
    /// How long onnxruntime may take to load it and to run it once: see [`crate::infer::Options::load_timeout`].
    pub load_timeout: Option<Duration>,
    /// The most bytes that the images of a batch may take: see [`crate::infer::Options::batch_memory`].
    pub batch_memory: Option<u64>,
}

/// An open feature model. Threads share it.
pub struct FeatureModel {
    model: Model,
    sha256: String,
    about: Option<About>,
    channels_first: bool,
    channels: usize,
    size: usize,
    /// Rows of every run.
    batch: usize,
    /// Whether every run must have that many.
    fixed: bool,
    dim: usize,
    range: InputRange,
    provider: Provider,
    notes: Vec<String>,
    /// Those of all runs.
    runs: Arc<RunOptions>,
    spare: Mutex<Vec<Session>>,
}

const EXPECTED: &str = "Expected is a feature model: one float32 input of square images, [n, c, h, w] or [n, h, w, c] with 1 or 3 \
    channels, and one float32 output [n, d], [n, d, h, w] or [n, h, w, d].";

/// Rows of a run where the model leaves them open.
const BATCH: usize = 16;

impl FeatureModel {
    /// Opens an ONNX file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or not such a model, leaves open what the options do not tell, or no
    /// onnxruntime or provider serves.
    pub fn open(path: &Path, options: &Options) -> Result<Self> {
        let mut model = Model::read(path)?;
        model.name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self::from_model(model, options)
    }

    /// The built-in model for images of this size and number of channels: `features-28` for grey ones of 28 pixels,
    /// `features-faces` for RGB ones, which it resizes to 64.
    ///
    /// # Errors
    /// When there is none for such images, or the build is without the feature `builtin`.
    pub fn builtin(size: usize, channels: usize, options: &Options) -> Result<Self> {
        let name = match (size, channels) {
            (_, 3) => "features-faces",
            (28, 1) => "features-28",
            _ => "none",
        };
        let (name, bytes) = BUILTIN.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            Error::usage(
                format!("there is no built-in feature model for images of {size} pixels and {channels} channels"),
                "Open one from a file (`FeatureModel::open`); `learn::train` trains one.",
            )
        })?;
        Self::from_bytes(name, *bytes, options)
    }

    /// The built-in model for images with so many channels, which it resizes to its own size: for comparing images with others that are
    /// made the same way, not for scores.
    ///
    /// # Errors
    /// When the build is without the feature `builtin`.
    pub fn by_channels(channels: usize, options: &Options) -> Result<Self> {
        Self::builtin(28, channels, options)
    }

    /// Opens an ONNX model in memory; `name` stands for it in messages and reports.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>, options: &Options) -> Result<Self> {
        Self::from_model(Model::in_memory(name, bytes)?, options)
    }

    fn from_model(model: Model, options: &Options) -> Result<Self> {
        let (name, limit, options) =
            (model.name.clone(), options.load_timeout.unwrap_or(options.provider.load_timeout()), *options);
        limits::within(&name, limit, move |runs| Self::start(model, &options, runs))
    }

    /// Loads the model and runs it once.
    fn start(model: Model, options: &Options, runs: Arc<RunOptions>) -> Result<Self> {
        let name = model.name.as_str();
        let (session, provider, mut notes) = model.start(options.provider, SessionOptions::default())?;
        let metadata = session.metadata().ort()?;
        let about = About::from_metadata(name, |key| metadata.custom(key))?;
        drop(metadata);
        let input = model::one_port(name, "input", session.inputs(), EXPECTED)?;
        let output = model::one_port(name, "output", session.outputs(), EXPECTED)?;
        let form = InputForm::of(name, &input, options.size)?;
        if output.element != TensorElementType::Float32 {
            return Err(Error::invalid(name, format!("its output is {output}"), EXPECTED));
        }
        if let Some(about) = about.as_ref().filter(|about| (about.size, about.channels) != (form.size, form.channels)) {
            let what = format!(
                "its metadata promises {} pixels and {} channels, but its input is {input}",
                about.size, about.channels
            );
            return Err(Error::invalid(name, what, "The file was put together wrongly: export it again."));
        }
        let range = choose_range(name, options.range, about.as_ref(), form.channels, &mut notes)?;
        let sha256 = model.sha256();
        let InputForm { channels_first, channels, size, batch } = form;
        let rows = batch.unwrap_or(BATCH) as u64;
        let bytes = rows.saturating_mul((channels * size * size * size_of::<f32>()) as u64);
        limits::check_batch(name, &format!("the images of {input}"), bytes, options.batch_memory.unwrap_or(BATCH_MEMORY))?;
        let mut features = Self {
            model,
            sha256,
            about,
            channels_first,
            channels,
            size,
            batch: batch.unwrap_or(BATCH),
            fixed: batch.is_some(),
            dim: 0,
            range,
            provider,
            notes,
            runs,
            spare: Mutex::new(vec![session]),
        };
        // What the graph declares may be open; one run tells what it really gives.
        let grey = Images { n: 1, height: size, width: size, channels, pixels: vec![128; size * size * channels] };
        features.dim = features.run(&grey, 0..1)?.len();
        Ok(features)
    }

    /// The name of the file or built-in model.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// SHA-256 of the file and, after it, of files that hold its weights, if there are any.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the file says about itself; `None` for a stranger.
    pub fn about(&self) -> Option<&About> {
        self.about.as_ref()
    }

    /// Values a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Height and width of its input.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Channels of its input, 1 (grey) or 3 (RGB).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The value range of its input.
    pub fn range(&self) -> InputRange {
        self.range
    }

    /// The provider in use; never [`Provider::Auto`].
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Choices made on opening that the user should know of, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What happens to images of this form before they reach the model, in words.
    pub fn preparation(&self, images: &Images) -> String {
        let mut steps = Vec::new();
        if [images.height, images.width] != [self.size; 2] {
            let crop = if images.height == images.width { "" } else { "central square, " };
            steps.push(format!(
                "{crop}Catmull-Rom (antialiased, 8 bits) from {}×{} to {2}×{2}",
                images.height, images.width, self.size
            ));
        }
        match (images.channels, self.channels) {
            (3, 1) => steps.push("ITU-R BT.601 luma".to_string()),
            (1, 3) => steps.push("grey in all three channels".to_string()),
            _ => {}
        }
        if steps.is_empty() { "none".to_string() } else { steps.join(", ") }
    }

    /// The features of images, averaged over space where the model gives maps.
    ///
    /// # Errors
    /// When onnxruntime fails, or the features are NaN or infinite.
    pub fn extract(&self, images: &Images) -> Result<Features> {
        self.extract_parts(images.n, |range| images.part(range), "features", &Silent)
    }

    /// The features of `n` images that are made part by part as they are needed.
    ///
    /// # Errors
    /// As [`Self::extract`].
    pub fn extract_parts(
        &self,
        n: usize,
        part: impl Fn(std::ops::Range<usize>) -> Images + Sync,
        task: &str,
        progress: &dyn Progress,
    ) -> Result<Features> {
        /// Images a task of a thread.
        const PART: usize = 256;
        let done = std::sync::atomic::AtomicUsize::new(0);
        progress.begin(task, n as u64);
        let parts: Result<Vec<Vec<f32>>> = (0..n.div_ceil(PART))
            .into_par_iter()
            .map(|number| {
                let range = number * PART..((number + 1) * PART).min(n);
                let images = part(range.clone());
                let mut values = Vec::with_capacity(range.len() * self.dim);
                for start in (0..images.n).step_by(self.batch) {
                    values.extend(self.run(&images, start..(start + self.batch).min(images.n))?);
                }
                let done = done.fetch_add(range.len(), std::sync::atomic::Ordering::Relaxed) + range.len();
                progress.update(done as u64, "");
                Ok(values)
            })
            .collect();
        progress.end();
        Features::new(n, self.dim, parts?.concat())
    }

    /// One run, on a session that is free, or a new one.
    fn run(&self, images: &Images, rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let wrong = |what: String| Error::invalid(&self.model.name, what, EXPECTED);
        let failed = |what: String, e: Error| {
            Error::invalid(&self.model.name, format!("{what} failed: {}", model::one_line(&e)), hint(&e, EXPECTED))
        };
        let free = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut session = match free {
            Some(session) => session,
            None => self
                .model
                .session(self.provider, SessionOptions::default())
                .map_err(|e| failed("another session of it".into(), e))?,
        };
        let n = rows.len();
        let count = if self.fixed { self.batch } else { n };
        let mut values = self.prepare(images, rows)?;
        values.resize(count * self.channels * self.size * self.size, 0.0);
        let (c, s) = (self.channels, self.size);
        let shape = if self.channels_first { [count, c, s, s] } else { [count, s, s, c] };
        let outputs = session.run_with_options(ort::inputs![Tensor::from_array((shape, values)).ort()?], &self.runs);
        let outputs = outputs.ort().map_err(|e| failed(format!("a run on {count} images of {s} pixels"), e))?;
        if outputs.len() == 0 {
            return Err(wrong("a run gave no output".to_string()));
        }
        let (shape, made) = outputs[0].try_extract_tensor::<f32>().ort()?;
        let dims: Vec<usize> = shape.iter().map(|&dim| dim as usize).collect();
        let features = mean_over_space(&dims, made, self.channels_first);
        let features = features.filter(|features| dims[0] == count && features.len().is_multiple_of(count));
        let Some(mut features) = features else { return Err(wrong(format!("for {count} images it gave {dims:?}"))) };
        features.truncate(features.len() / count * n);
        drop(outputs);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        Ok(features)
    }

    /// Some images as the model's input.
    fn prepare(&self, images: &Images, rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
        let area = self.size * self.size;
        let lookup: Vec<[f32; 256]> = (0..self.channels).map(|channel| self.range.values(channel)).collect();
        let mut planes = vec![0; self.channels * area];
        let mut values = Vec::with_capacity(rows.len() * planes.len());
        let shape = [images.height, images.width, images.channels];
        for row in rows {
            let image = images.get(row).unwrap_or_default();
            data::refit(image, shape, self.size, self.channels, &mut planes)
                .map_err(|what| Error::invalid("images to evaluate", what, "Give images of 1 or 3 channels."))?;
            if self.channels_first {
                values.extend(planes.iter().enumerate().map(|(at, &pixel)| lookup[at / area][usize::from(pixel)]))
            } else {
                values.extend((0..area).flat_map(|at| {
                    let (planes, lookup) = (&planes, &lookup);
                    (0..self.channels).map(move |channel| lookup[channel][usize::from(planes[channel * area + at])])
                }))
            }
        }
        Ok(values)
    }
}

/// How a model's input takes images.
struct InputForm {
    channels_first: bool,
    channels: usize,
    size: usize,
    /// `None` where it is open.
    batch: Option<usize>,
}

impl InputForm {
    fn of(name: &str, input: &Port, size: Option<usize>) -> Result<Self> {
        const MAX_SIDE: i64 = 4096;
        let refused = || Error::invalid(name, format!("its input is {input}"), EXPECTED);
        let (&[n, a, b, c], TensorElementType::Float32) = (input.dims.as_slice(), input.element) else { return Err(refused()) };
        let (channels_first, channels, sides) = match (matches!(a, 1 | 3), matches!(c, 1 | 3)) {
            (true, false) => (true, a, [b, c]),
            (false, true) => (false, c, [a, b]),
            _ => return Err(refused()),
        };
        if n == 0 || n > MAX_BATCH as i64 {
            return Err(refused());
        }
        let size = match (sides, size) {
            ([-1, -1], Some(size)) => size as i64,
            ([-1, -1], None) => {
                return Err(Error::usage(
                    format!("{name} leaves the size of its images open ({input})"),
                    "Say it with `features::Options::size`, for an Inception 299.",
                ));
            }
            ([height, width], None) if height == width => height,
            ([height, width], Some(size)) if height == width && height == size as i64 => height,
            ([height, width], Some(size)) if height == width => {
                let what = format!("{name} takes images of {height} pixels, not {size}");
                return Err(Error::usage(what, "Leave `features::Options::size` away."));
            }
            _ => return Err(refused()),
        };
        if (1..=MAX_SIDE).contains(&size) {
            Ok(Self { channels_first, channels: channels as usize, size: size as usize, batch: usize::try_from(n).ok() })
        } else {
            Err(refused())
        }
    }
}

fn choose_range(
    name: &str,
    asked: Option<InputRange>,
    about: Option<&About>,
    channels: usize,
    notes: &mut Vec<String>,
) -> Result<InputRange> {
    match (asked, about) {
        (Some(asked), Some(about)) if asked != about.range => Err(Error::usage(
            format!("{name} takes the value range {}, not {asked}", about.range),
            "Leave `features::Options::range` away: the file says it.",
        )),
        (_, Some(about)) => Ok(about.range),
        (Some(InputRange::Imagenet), None) if channels != 3 => Err(Error::usage(
            format!("{name} takes grey images, and the range imagenet is for RGB"),
            "Choose another `features::Options::range`.",
        )),
        (Some(asked), None) => Ok(asked),
        (None, None) => {
            notes.push(format!(
                "{name} does not tell its value range; taken to be {DEFAULT_RANGE} (say it with `features::Options::range`)"
            ));
            Ok(DEFAULT_RANGE)
        }
    }
}

/// Rows of features from an output `[n, d]`, `[n, d, h, w]` or `[n, h, w, d]`.
fn mean_over_space(dims: &[usize], values: &[f32], channels_first: bool) -> Option<Vec<f32>> {
    match *dims {
        [n, dim] if n * dim == values.len() && dim > 0 => Some(values.to_vec()),
        [_, dim, height, width] if channels_first && dim * height * width > 0 => {
            Some(values.chunks_exact(height * width).map(mean).collect())
        }
        [_, height, width, dim] if dim * height * width > 0 => {
            let means = |image: &[f32]| -> Vec<f32> {
                (0..dim).map(|at| mean(&image[at..].iter().copied().step_by(dim).collect::<Vec<_>>())).collect()
            };
            Some(values.chunks_exact(height * width * dim).flat_map(means).collect())
        }
        _ => None,
    }
}

fn mean(values: &[f32]) -> f32 {
    (values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64) as f32
}

/// Name and file of the feature models that come with the library.
pub static BUILTIN: &[(&str, &[u8])] = &[
    #[cfg(feature = "builtin")]
    ("features-28", ganforge_models::FEATURES_28),
    #[cfg(feature = "builtin")]
    ("features-faces", ganforge_models::FEATURES_FACES),
];
