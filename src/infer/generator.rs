//! A generator in an ONNX file: opened, checked against its contract, run on aligned batches.
//!
//! **Batches are aligned to absolute indices.** Batch `k` covers images `k·B..(k+1)·B` and always runs with exactly `B`
//! rows, whatever part of it is wanted. So with one model, batch size and provider, image `i` has the same bytes whatever
//! the count, the start and the number of threads. Across batch sizes pixels agree within 1.

use std::borrow::Cow;
use std::ops;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::memory::Allocator;
use ort::session::{RunOptions, Session};
use ort::value::{DynTensor, DynValue};

use super::bound_session::{self, BoundSession};
use super::conditioning::Conditioning;
use super::form::{EXPECTED, Element, OutputForm, promised_form, promised_latent, strangers_form, strangers_latent};
use super::limits::{self, hint};
pub use super::limits::{BATCH_MEMORY, LOAD_TIMEOUT, MAX_BATCH};
use super::model::{Model, Port, one_line, one_port};
use super::options::Options;
use super::precision::Precision;
pub use super::provider::{CONVOLUTIONAL_BATCH, CUDA_BATCH, DENSE_BATCH, Provider};
use super::provider::{SessionOptions, cores};
use super::selection::{Selection, span};
use super::tiling::Tiling;
use crate::contract::{self, CHECKSUM_KEY, Contract};
use crate::error::{Error, OrtResult, Result};
use crate::image::Range;
use crate::latent::Latent;

/// Bytes of f32 images, and of latents, in a batch that nobody has chosen, at most.
const BATCH_BYTES: i64 = 64 << 20;

/// The most threads of a call.
pub const MAX_THREADS: usize = 1024;

/// An open generator: images of seeds ([`Self::sample`], [`Self::batches`]) or of latents ([`Self::generate`]). Threads share it, by
/// reference or in an [`Arc`].
pub struct Generator {
    model: Model,
    contract: Option<Contract>,
    input: Port,
    output: Port,
    /// `output` as it is for `batch` images.
    result: Port,
    latent: Latent,
    form: OutputForm,
    range: Option<Range>,
    provider: Provider,
    tf32: bool,
    batch: usize,
    threads: usize,
    notes: Vec<String>,
    /// Those of all runs.
    runs: Arc<RunOptions>,
    spare: Mutex<Vec<BoundSession>>,
    /// A burst of callers must not leave all of its sessions behind, and callers with a thread each must find theirs again,
    /// however few threads a call may work on.
    most_spare: usize,
}

impl Generator {
    /// Opens an ONNX file.
    ///
    /// # Errors
    /// When the file cannot be read, is damaged or not such a generator, wants anything from files outside its folder, takes more time
    /// or memory than the options allow, or no onnxruntime or provider serves.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::from_model(Model::read(path.as_ref())?, options)
    }

    /// Opens an ONNX model in memory; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>, options: &Options) -> Result<Self> {
        Self::from_model(Model::in_memory(name, bytes)?, options)
    }

    /// The same generator, opened with other options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reopen(&self, options: &Options) -> Result<Self> {
        Self::from_model(self.model.clone(), options)
    }

    fn from_model(model: Model, options: &Options) -> Result<Self> {
        if options.batch.is_some_and(|batch| batch == 0 || batch > MAX_BATCH) {
            return Err(Error::usage("the batch size is out of range", format!("Choose one from 1 to {MAX_BATCH}.")));
        }
        if options.threads.is_some_and(|threads| threads == 0 || threads > MAX_THREADS) {
            return Err(Error::usage("`Options::threads` is out of range", format!("Choose 1 to {MAX_THREADS}.")));
        }
        if !model.precision().serves(options.precision) {
            let what = format!("{}: it is in {}, not in {}", model.name, model.precision(), options.precision);
            return Err(Error::usage(what, "Leave `Options::precision` away, or export the generator in that precision."));
        }
        let (name, limit, options) =
            (model.name.clone(), options.load_timeout.unwrap_or(options.provider.load_timeout()), *options);
        limits::within(&name, limit, move |runs| Self::start(model, &options, runs))
    }

    /// Loads the model and runs it once.
    fn start(model: Model, options: &Options, runs: Arc<RunOptions>) -> Result<Self> {
        let name = model.name.as_str();
        // Which batch size a session is to be built for is only known from another one.
        let first = if options.provider.is_built_for_a_batch() { Provider::Cpu } else { options.provider };
        let (mut session, mut provider, mut notes) =
            model.start(first, SessionOptions { tf32: options.tf32, ..SessionOptions::default() })?;

        let metadata = session.metadata().ort()?;
        let contract = Contract::from_metadata(name, |key| metadata.custom(key))?;
        if contract.is_some() || metadata.producer().is_some_and(|producer| producer == contract::PRODUCER) {
            contract::check_sealed(name, metadata.custom(CHECKSUM_KEY).as_deref())?;
        }
        drop(metadata);
        let input = one_port(name, "input", session.inputs(), EXPECTED)?;
        let output = one_port(name, "output", session.outputs(), EXPECTED)?;
        let (latent, fixed_batch) = match &contract {
            Some(contract) => (promised_latent(name, contract, &input)?, None),
            None => strangers_latent(name, &input)?,
        };
        let wanted = if first == options.provider { provider } else { options.provider };
        let most = wanted.batch(model.is_convolutional(), contract.as_ref().and_then(|contract| contract.batch));
        let batch = choose_batch(name, options.batch, fixed_batch, own_batch(latent, &output, most))?;
        let room = options.batch_memory.unwrap_or(BATCH_MEMORY);
        let values = (latent.size as u64).saturating_mul(batch as u64);
        limits::check_batch(name, &format!("the latents {}", input.of(batch)), values.saturating_mul(4), room)?;
        limits::check_batch(name, &format!("the images {}", output.of(batch)), output.of(batch).bytes(), room)?;
        let mut latents = limits::zeros(values as usize, || format!("{name}: a batch of {batch} latents of {}", latent.size))?;
        latent.fill_rows(0, 0, &mut latents);
        let rows = input.of(batch);
        if wanted != provider {
            (session, provider, notes) = model.start(wanted, rows.session_options(options.tf32))?;
        }
        notes.extend(provider.remark().map(str::to_string));
        let tf32 = options.tf32 && provider.knows_tf32();
        if options.tf32 && !tf32 {
            notes.push(format!("TF32 is for CUDA: on {provider} nothing changes"));
        }
        // What the graph declares may be open or wrong; one run tells what it really does.
        let failed = |e: Error| Error::invalid(name, format!("a first run failed: {}", one_line(&e)), hint(&e, EXPECTED));
        let dims = first_run(&mut session, &rows, &latents, &runs).map_err(failed)?;
        let form = match &contract {
            Some(contract) => promised_form(name, contract, &output, &dims, batch)?,
            None => strangers_form(name, &output, &dims, batch)?,
        };
        let range = choose_range(name, options.range, contract.as_ref(), form)?;
        let result = Port { dims, ..output.clone() };
        limits::check_batch(name, &format!("the images {result}"), result.bytes(), room)?;
        let session = BoundSession::new(session, provider, &rows, &result).map_err(failed)?;
        let spare = Mutex::new(vec![session]);
        let serve_best = provider.sessions_and_encoders(cores()).0.max(1);
        let threads = options.threads.unwrap_or(serve_best);
        Ok(Self {
            model,
            contract,
            input,
            output,
            result,
            latent,
            form,
            range,
            provider,
            tf32,
            batch,
            threads,
            notes,
            runs,
            spare,
            most_spare: threads.max(serve_best),
        })
    }

    /// The name given on opening; the path of a file.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// The file's contents.
    pub fn bytes(&self) -> &[u8] {
        self.model.bytes()
    }

    /// The file's contents with the weights of other files in them: what runs.
    #[cfg(feature = "jobs")]
    pub(super) fn whole_bytes(&self) -> &[u8] {
        self.model.whole_bytes()
    }

    /// Whether the graph has convolutions.
    #[cfg(feature = "jobs")]
    pub(super) fn is_convolutional(&self) -> bool {
        self.model.is_convolutional()
    }

    /// The graph's input and output, and how the elements of that make images.
    #[cfg(feature = "jobs")]
    pub(super) fn ports(&self) -> (&Port, &Port, OutputForm) {
        (&self.input, &self.output, self.form)
    }

    /// Ends all runs under way, and lets none begin until [`Self::allow_runs`].
    #[cfg(feature = "jobs")]
    pub(super) fn end_runs(&self) -> Result<()> {
        self.runs.terminate().ort()
    }

    #[cfg(feature = "jobs")]
    pub(super) fn allow_runs(&self) -> Result<()> {
        self.runs.unterminate().ort()
    }

    /// SHA-256 of the file and, after it, of files that hold its weights, if there are any; in hexadecimal. It is of what was read on
    /// opening, which is what runs.
    ///
    /// # Errors
    /// None any more: nothing is read again.
    pub fn sha256(&self) -> Result<String> {
        Ok(self.model.sha256())
    }

    /// What the file says about itself; `None` for a stranger, a file not exported by this crate.
    pub fn contract(&self) -> Option<&Contract> {
        self.contract.as_ref()
    }

    /// The latent space. A stranger's distribution is taken to be normal.
    pub fn latent(&self) -> Latent {
        self.latent
    }

    /// `[height, width, channels]` of an image.
    pub fn image_shape(&self) -> [usize; 3] {
        [self.form.height, self.form.width, self.form.channels]
    }

    /// The value range of the network, where it is known.
    pub fn range(&self) -> Option<Range> {
        self.range
    }

    /// The graph's input in words: `z: f32 [n, 64]`.
    pub fn input(&self) -> String {
        self.input.to_string()
    }

    /// The graph's output in words: `image: u8 [n, 28, 28, 1]`.
    pub fn output(&self) -> String {
        self.output.to_string()
    }

    /// The provider in use; never [`Provider::Auto`].
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// What it computes with; never [`Precision::Auto`].
    pub fn precision(&self) -> Precision {
        self.model.precision()
    }

    /// Says something to the user beside the other choices made on opening.
    pub(super) fn with_note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// Whether CUDA may round to TF32.
    pub fn tf32(&self) -> bool {
        self.tf32
    }

    /// Rows of every run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Threads, with a session each, that a call may work on ([`Options::threads`]).
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Choices made on opening that the user should know of, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The network's own output for images `start..` of a seed, into a buffer of the caller's: the elements as the graph
    /// orders them ([`Self::output`]), as f32 whatever their type, not clamped, not rounded, and where the network gives NaN or
    /// infinity, that. No range need be known.
    ///
    /// # Errors
    /// When `out` does not hold a whole number of images, indices reach [`super::selection::MAX_INDEX`], or onnxruntime fails.
    pub fn values_into(&self, seed: u64, start: u64, out: &mut [f32]) -> Result<()> {
        let (image, n) = (self.form.image(), self.whole_images(out.len())?);
        let wanted = span(start, n)?;
        let selection = Selection::Numbers { seed, start, n };
        let mut sampler = self.any_sampler()?;
        let mut rest = out;
        for part in self.runs().cut(wanted) {
            let (now, later) = rest.split_at_mut((part.end - part.start) as usize * image);
            sampler.values(&selection, part, now)?;
            rest = later;
        }
        Ok(())
    }

    /// How many images a buffer of so many elements holds.
    pub(super) fn whole_images(&self, len: usize) -> Result<u64> {
        let image = self.form.image();
        if len == 0 || !len.is_multiple_of(image) {
            let what = format!("a buffer of {len} elements does not hold a whole number of images of {image}");
            return Err(Error::usage(what, "Give n · height · width · channels elements."));
        }
        Ok((len / image) as u64)
    }

    /// A session for one thread: one that is free, or a new one.
    ///
    /// # Errors
    /// When a float output's range is not known, or onnxruntime cannot make another session.
    pub(super) fn sampler(&self) -> Result<Sampler<'_>> {
        if self.form.element != Element::U8 && self.range.is_none() {
            return Err(Error::usage(
                format!("{}: the output is {}, and the file does not tell its value range", self.name(), self.output),
                "Say it with `Options::range` tanh (-1 to 1), `Options::range` sigmoid (0 to 1) or `Options::range` byte (0 to 255).",
            ));
        }
        self.any_sampler()
    }

    fn any_sampler(&self) -> Result<Sampler<'_>> {
        let free = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let session = match free {
            Some(session) => session,
            None => {
                let input = self.input.of(self.batch);
                let session = self.model.session(self.provider, input.session_options(self.tf32));
                let session = session.and_then(|it| BoundSession::new(it, self.provider, &input, &self.result));
                session.map_err(|e| {
                    let what = format!("another session of it failed: {}", one_line(&e));
                    Error::invalid(self.name(), what, hint(&e, "The first one did not: ask for fewer `SamplingJob::threads`."))
                })?
            }
        };
        Ok(Sampler { generator: self, session: Some(session) })
    }

    /// Images that are worth handling at a time: whole batches.
    pub(super) fn blocks(&self) -> Tiling {
        /// So many bytes of pixels, for then the work on each batch outweighs what comes around it.
        const BYTES: usize = 256 << 10;
        let image: usize = self.image_shape().iter().product();
        Tiling::of((BYTES / image).div_ceil(self.batch).max(1) as u64 * self.batch as u64)
    }

    /// The images of a run each.
    pub(super) fn runs(&self) -> Tiling {
        Tiling::of(self.batch as u64)
    }
}

/// One session of a [`Generator`], for one thread. Dropped, it is free for the next.
pub(super) struct Sampler<'a> {
    generator: &'a Generator,
    session: Option<BoundSession>,
}

impl Sampler<'_> {
    /// The pixels of the images at the places `wanted`, `[n, height, width, channels]`: as many as `out` has room for. Runs
    /// whole batches only.
    pub(super) fn pixels(
        &mut self,
        selection: &Selection,
        conditioning: &Conditioning,
        wanted: ops::Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let generator = self.generator;
        let mut rest = out;
        for part in generator.runs().cut(wanted) {
            let (now, later) = rest.split_at_mut((part.end - part.start) as usize * generator.form.image());
            let place = part.start;
            let wrong = self
                .run(selection, conditioning, part, |output, rows| generator.form.pixels(output, rows, generator.range, now))?;
            if let Some(row) = wrong {
                return Err(not_finite(generator.name(), selection, place + row as u64));
            }
            rest = later;
        }
        Ok(())
    }

    /// The pixels of a batch of latents, or of fewer: then the last is made again and again. Gives the first row that is no image.
    pub(super) fn pixels_of(&mut self, conditioning: &Conditioning, latents: &[f32], out: &mut [u8]) -> Result<Option<usize>> {
        let generator = self.generator;
        let (size, rows) = (generator.latent.size, latents.len() / generator.latent.size);
        let mut whole = latents.to_vec();
        (rows..generator.batch).for_each(|_| whole.extend_from_slice(&latents[(rows - 1) * size..]));
        conditioning.apply(generator.latent, &mut whole);
        let run =
            self.session()?.run(&whole, &generator.runs, |output| generator.form.pixels(output, 0..rows, generator.range, out));
        run.map_err(|e| failed_run(generator.name(), &format!("{rows} latents"), e))
    }

    /// One run of a batch whose output nobody looks at, for measurements.
    #[cfg(feature = "jobs")]
    pub(super) fn run_alone(&mut self, latents: &[f32]) -> Result<()> {
        let runs = &self.generator.runs;
        self.session()?.run(latents, runs, |_| Ok(()))
    }

    /// The elements of the images at the places `wanted`, which lie in one batch.
    fn values(&mut self, selection: &Selection, wanted: ops::Range<u64>, out: &mut [f32]) -> Result<()> {
        let form = self.generator.form;
        self.run(selection, &Conditioning::default(), wanted, |output, rows| form.values(output, rows, out))
    }

    /// Runs the batch that `wanted` lies in, and hands on its output and which of its rows are wanted.
    fn run<T>(
        &mut self,
        selection: &Selection,
        conditioning: &Conditioning,
        wanted: ops::Range<u64>,
        take: impl FnOnce(&DynValue, ops::Range<usize>) -> Result<T>,
    ) -> Result<T> {
        let generator = self.generator;
        let first = generator.runs().start(wanted.start);
        let latents = selection.latents(generator.latent, conditioning, first, generator.batch);
        let rows = (wanted.start - first) as usize..(wanted.end - first) as usize;
        let run = self.session()?.run(&latents, &generator.runs, |output| take(output, rows));
        run.map_err(|e| failed_run(generator.name(), &format!("images {wanted:?}"), e))
    }

    fn session(&mut self) -> Result<&mut BoundSession> {
        self.session.as_mut().ok_or_else(|| Error::Ort("the session is gone".into()))
    }
}

impl Drop for Sampler<'_> {
    fn drop(&mut self) {
        let mut spare = self.generator.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.generator.most_spare {
            spare.extend(self.session.take());
        }
    }
}

/// An image that is none.
fn not_finite(name: &str, selection: &Selection, place: u64) -> Error {
    let image = match selection {
        Selection::Numbers { seed, .. } => format!("image {place} of seed {seed}"),
        Selection::Seeds { number, .. } => format!("image {number} of seed {}", selection.name(place)),
    };
    no_colour(name, &image)
}

pub(super) fn no_colour(name: &str, image: &str) -> Error {
    Error::invalid(
        name,
        format!("for {image} the network gives NaN or infinity, which is no colour"),
        "The model is damaged, it diverged in training, or float16 is too narrow for it: use another one, or leave that image out.",
    )
}

/// A run that onnxruntime did not finish.
fn failed_run(name: &str, what: &str, error: Error) -> Error {
    match error {
        Error::Ort(_) => {
            let what = format!("in the run of {what}: {}", one_line(&error));
            Error::invalid(name, what, hint(&error, "The model is damaged: use another one."))
        }
        other => other,
    }
}

/// `most`, or fewer of large images or latents.
fn own_batch(latent: Latent, output: &Port, most: usize) -> usize {
    let values = output.dims.iter().skip(1).filter(|&&dim| dim > 0).fold(1, |all: i64, &dim| all.saturating_mul(dim));
    let values = values.max(i64::try_from(latent.size).unwrap_or(i64::MAX));
    let room = BATCH_BYTES / values.saturating_mul(4);
    usize::try_from(room).unwrap_or(0).clamp(1, most)
}

fn choose_batch(name: &str, asked: Option<usize>, fixed: Option<usize>, own: usize) -> Result<usize> {
    match (asked, fixed) {
        (Some(asked), Some(fixed)) if asked != fixed => Err(Error::usage(
            format!("{name}: the batch size of this model is fixed at {fixed}, not {asked}"),
            format!("Leave `Options::batch` away, or give {fixed}."),
        )),
        (asked, fixed) => Ok(fixed.or(asked).unwrap_or(own)),
    }
}

fn choose_range(name: &str, asked: Option<Range>, contract: Option<&Contract>, form: OutputForm) -> Result<Option<Range>> {
    match (asked, contract) {
        (Some(_), _) if form.element == Element::U8 => Err(Error::usage(
            format!("{name}: its output is pixels already, so `Options::range` means nothing"),
            "Leave `Options::range` away.",
        )),
        (Some(asked), Some(contract)) if asked != contract.range => Err(Error::usage(
            format!("{name}: its value range is {}, not {}", contract.range.name(), asked.name()),
            "Leave `Options::range` away: the file says it.",
        )),
        (asked, contract) => Ok(contract.map(|contract| contract.range).or(asked)),
    }
}

/// The sizes of the output of a session that nothing is known of yet.
fn first_run(session: &mut Session, input: &Port, latents: &[f32], runs: &RunOptions) -> Result<Vec<i64>> {
    let mut tensor = DynTensor::new(&Allocator::default(), input.element, input.dims.clone()).ort()?;
    bound_session::fill(&mut tensor, latents)?;
    let outputs = session.run_with_options(ort::inputs![tensor], runs).ort()?;
    Ok(bound_session::only(&outputs)?.shape().to_vec())
}
