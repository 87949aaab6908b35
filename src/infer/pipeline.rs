//! Any number of images in bounded memory: pieces of the job → workers (a session each, one thread each on CPUs) → encoders →
//! files; what is finished is noted in the journal.

use std::ops;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use serde_json::{Value, json};

use super::conditioning::{Class, Conditioning};
use super::generator::{Generator, Sampler};
use super::labels::Labels;
use super::open_job::{Notes, OpenJob, Writer};
use super::piece::Piece;
use super::plan::Plan;
use super::precision::Precision;
use super::provider::{Provider, cores};
use super::runtime;
use super::sinks::sink::Naming;
use super::tiling::Tiling;
use crate::error::{Error, Result};
use crate::image::Range;
use crate::latent::Truncation;
use crate::progress::Progress;
use crate::text;

/// How images are made, whether into the files of a [`Plan`] or into a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SamplingJob {
    /// Sessions that run in parallel; at least 1. The images do not depend on it.
    pub threads: usize,
    /// Threads that encode and write what the sessions make; 0: each session's thread does it itself. The images do not
    /// depend on it.
    pub encoders: usize,
    /// What is done to the latents.
    pub conditioning: Conditioning,
}

impl SamplingJob {
    /// What serves best on a provider.
    pub fn new(provider: Provider) -> Self {
        let (threads, encoders) = provider.sessions_and_encoders(cores());
        Self { threads, encoders, conditioning: Conditioning::default() }
    }

    /// With so many sessions that run in parallel; at least 1.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// With so many threads that encode and write; 0: each session's thread does it itself.
    pub fn encoders(self, encoders: usize) -> Self {
        Self { encoders, ..self }
    }

    /// With something done to the latents.
    pub fn conditioning(self, conditioning: Conditioning) -> Self {
        Self { conditioning, ..self }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sampled {
    /// Images made by this call; those that an interrupted one had made do not count.
    pub images: u64,
    /// From the first session to the last byte.
    pub seconds: f64,
    /// The folder of the files, or the one file.
    pub out: PathBuf,
}

/// Pieces between workers and whoever takes them next, per worker: enough that neither waits for the other's short pauses.
const QUEUE_PER_WORKER: usize = 2;

/// How long a run may still take once the user wants to stop: most take a fraction of a second, but a stranger's may never end.
const LAST_RUN: Duration = Duration::from_secs(5);

/// Between two notes of what is on the disk, at the least.
const SETTLE_EVERY: Duration = Duration::from_millis(100);
/// Between two looks whether the folder is still where it was.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes the planned images. Memory does not grow with their number (but for a contact sheet).
///
/// Raising `stop` ends the work after the batches at hand, with pieces unfinished. Interrupted or failed, a job can be continued with
/// [`super::plan::Existing::Resume`]; a contact sheet cannot.
///
/// ```
/// # fn main() -> ganforge::error::Result<()> {
/// use ganforge::infer::{Existing, Format, Generator, SamplingJob, Options, Plan, Selection, pipeline};
/// use ganforge::progress::Silent;
/// # let dir = tempfile::tempdir().unwrap();
///
/// let out = "digits";
/// # let out = dir.path().join(out);
/// let generator = Generator::open("onnx/digits.onnx", &Options::default())?;
/// let numbers = Selection::Numbers { seed: 0, start: 0, n: 100 };
/// let plan = Plan::new(Format::Npz, out, numbers, None, Existing::Refuse)?;
/// let done = pipeline::run(&generator, &SamplingJob::new(generator.provider()), &plan, &Silent, &false.into())?;
/// assert!(done.out.ends_with("samples.npz") && done.images == 100);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the destination cannot be written to (before any image is made, where that can be known), a run fails, or `stop`
/// was raised.
pub fn run(
    generator: &Generator,
    job: &SamplingJob,
    plan: &Plan,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<Sampled> {
    let started = Instant::now();
    if let Some(class) = job.conditioning.class {
        class.check(generator.contract(), generator.name())?;
    }
    let first = generator.sampler()?;
    let (identity, shape) = (identity(generator, job, plan)?, generator.image_shape());
    let labels = Labels::of(generator, plan.selection(), job.conditioning).filter(|_| plan.output().sink().has_labels());
    let mut open = OpenJob::open(plan.output(), plan.existing(), identity, shape, labels, progress, stop)?;
    let gaps = open.gaps();
    let missing = gaps.iter().map(|gap| gap.end - gap.start).sum::<u64>();
    let tell = |made: u64| progress.update(plan.count() - missing + made, "");
    progress.begin("sampling", plan.count());
    tell(0);
    let (made, result) = match &open.writer {
        Some(writer) => make(generator, first, job, plan, gaps, writer, &mut open.notes, &tell, stop),
        None => (0, Ok(())),
    };
    progress.end();
    if result.is_err() || made < missing {
        let total = open.count().unwrap_or(made);
        open.abandon();
        if result.is_err() && total > 0 && plan.output().sink().in_one_go().is_none() {
            progress.say(&format!(
                "{total} of {} images are whole; the same call with `Existing::Resume` makes the rest",
                plan.count()
            ));
        }
        return Err(result.err().unwrap_or_else(|| interrupted(plan, total)));
    }
    open.finish()?;
    Ok(Sampled { images: made, seconds: started.elapsed().as_secs_f64(), out: plan.path().to_path_buf() })
}

/// Makes the images of the gaps. Gives how many there are now, and why there are not more.
#[expect(clippy::too_many_arguments, reason = "all of them are parts of one call")]
pub(super) fn make<'a>(
    generator: &'a Generator,
    first: Sampler<'a>,
    job: &SamplingJob,
    plan: &Plan,
    gaps: Vec<ops::Range<u64>>,
    writer: &Writer,
    notes: &mut Notes,
    tell: &dyn Fn(u64),
    stop: &AtomicBool,
) -> (u64, Result<()>) {
    let image = generator.image_shape().iter().product();
    let files = plan.output().sink().files();
    let (count, batch, threads) = (plan.count(), generator.batch(), job.threads.max(1));
    let tasks = match files {
        Some(files) => files_of(files, count, batch, threads),
        None => pieces_of(count, batch, image, threads),
    };
    let threads = threads.clamp(1, number_of(tasks, &gaps).max(1));
    // A file of many images is a piece, and too large to hand it over in memory.
    let encoders = if files.is_some() { 0 } else { job.encoders };
    let (queue, hand_over) = bounded::<Made>(threads * QUEUE_PER_WORKER);
    let (send, receive) = bounded::<Result<Vec<Piece>>>((threads + encoders) * QUEUE_PER_WORKER);
    let (settle, to_settle) = bounded::<Vec<Piece>>(0);
    let due = Mutex::new(Instant::now() + SETTLE_EVERY);
    let (halt, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let pieces = files.unwrap_or(tasks);
    let tasks: Tasks = Box::new(gaps.into_iter().flat_map(move |gap| tasks.cut(gap)));
    let worker = Worker { generator, job, plan, tasks: Mutex::new(tasks), pieces, writer, halt: &halt, stop, ended: &ended };
    let (at_work, nobody_at_work) = bounded::<()>(0);
    let mut made = 0;
    let result = thread::scope(|scope| {
        let mut first = Some(first);
        let no_thread = |e| {
            halt.store(true, Ordering::Relaxed);
            Error::Runtime(format!("the system gives no more threads: {e}. Ask for fewer `SamplingJob::threads`."))
        };
        let watch = || end_runs(&worker, &nobody_at_work);
        thread::Builder::new().spawn_scoped(scope, watch).map_err(no_thread)?;
        for _ in 0..threads {
            let (worker, send, sampler, at_work) = (&worker, send.clone(), first.take(), at_work.clone());
            let queue = (encoders > 0).then(|| queue.clone());
            let work = move || {
                worker.work(sampler, queue.as_ref(), &send);
                drop(at_work);
            };
            thread::Builder::new().spawn_scoped(scope, work).map_err(no_thread)?;
        }
        for _ in 0..encoders {
            let (worker, send, hand_over) = (&worker, send.clone(), hand_over.clone());
            let work = move || worker.encode(&hand_over, &send);
            thread::Builder::new().spawn_scoped(scope, work).map_err(no_thread)?;
        }
        // So that each channel ends with the last thread at either end of it.
        drop((send, queue, hand_over, at_work));
        // Waiting for the disk is nobody's work but this thread's.
        let due = &due;
        let settler = move || settle_all(notes, writer, &to_settle, due);
        let settler = thread::Builder::new().spawn_scoped(scope, settler).map_err(no_thread)?;
        let mut written = Vec::new();
        let mut looked = Instant::now();
        let mut result = Ok(());
        for pieces in receive {
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                result = writer.check_place();
                if result.is_err() {
                    break;
                }
            }
            match pieces {
                Ok(pieces) => {
                    made += pieces.iter().map(|piece| piece.count).sum::<u64>();
                    tell(made);
                    written.extend(pieces);
                    if Instant::now() < *due.lock().unwrap_or_else(PoisonError::into_inner) {
                        continue;
                    }
                    // Only if it waits for work; whatever comes meanwhile is settled together.
                    match settle.try_send(std::mem::take(&mut written)) {
                        Ok(()) => {}
                        Err(TrySendError::Full(unsettled)) => written = unsettled,
                        Err(TrySendError::Disconnected(_)) => break,
                    }
                }
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        // Leaving the loop has dropped the receiver, so that no worker waits for a place in the channel.
        halt.store(true, Ordering::Relaxed);
        let _ = settle.send(written); // if nobody is there any more, the next line says why
        drop(settle);
        let settled = settler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.and(settled)
    });
    let allowed = if ended.into_inner() { generator.allow_runs() } else { Ok(()) };
    (made, result.and(allowed))
}

/// Ends the runs of the workers if they go on for too long after the user wanted to stop.
fn end_runs(worker: &Worker, nobody_at_work: &Receiver<()>) {
    /// How often it is looked at.
    const TICK: Duration = Duration::from_millis(100);
    let mut stopping: Option<Instant> = None;
    while nobody_at_work.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        if worker.stop.load(Ordering::Relaxed) && stopping.get_or_insert_with(Instant::now).elapsed() >= LAST_RUN {
            worker.ended.store(true, Ordering::SeqCst);
            let _ = worker.generator.end_runs(); // a second Ctrl-C still ends the program
            return;
        }
    }
}

/// Notes what is written, once it is on the disk; says from when on more is welcome. Waiting for the disk is to take a small part of
/// the time only, for the disk is everybody's.
fn settle_all(notes: &mut Notes, writer: &Writer, pieces: &Receiver<Vec<Piece>>, due: &Mutex<Instant>) -> Result<()> {
    /// So many times as long as the last waiting took, the next is put off.
    const REST: u32 = 20;
    for pieces in pieces {
        let began = Instant::now();
        notes.settle(writer, &pieces)?;
        *due.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + (began.elapsed() * REST).max(SETTLE_EVERY);
    }
    Ok(())
}

/// The places of tasks, one after another.
type Tasks = Box<dyn Iterator<Item = ops::Range<u64>> + Send>;

/// A piece without its files.
type Made = (ops::Range<u64>, Vec<u8>);

/// The pieces of `count` images: whole batches.
pub(super) fn pieces_of(count: u64, batch: usize, image: usize, threads: usize) -> Tiling {
    /// Bytes of pixels: a piece that is handed over to an encoder lies in memory.
    const MOST_BYTES: usize = 4 << 20;
    /// Enough that nobody waits for the journal.
    const MOST: u64 = 256;
    let (batch, fair) = (batch as u64, count / (4 * threads as u64).max(1));
    let most = fair.min(MOST).min((MOST_BYTES / image) as u64);
    Tiling::of((most - most % batch).max(batch))
}

/// The tasks of `count` images in files of many: some files each, for where a task ends in the middle of a batch, the next one makes
/// that batch again. Whole batches, if so many files are not too many.
fn files_of(files: Tiling, count: u64, batch: usize, threads: usize) -> Tiling {
    /// Enough that a batch that is made twice does not count.
    const MOST: u64 = 16;
    let fair = (count / files.size() / (4 * threads as u64).max(1)).clamp(1, MOST);
    let whole = (1..=fair).find(|number| (number * files.size()).is_multiple_of(batch as u64));
    let number = whole.map_or(fair, |whole| fair - fair % whole);
    Tiling::of(number * files.size())
}

/// How many tasks the gaps are cut into.
fn number_of(tasks: Tiling, gaps: &[ops::Range<u64>]) -> usize {
    let numbers = gaps.iter().map(|gap| tasks.numbers(gap));
    let number: u64 = numbers.map(|numbers| numbers.end - numbers.start).sum();
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct Worker<'a> {
    generator: &'a Generator,
    job: &'a SamplingJob,
    plan: &'a Plan,
    /// What is to be made yet.
    tasks: Mutex<Tasks>,
    /// How a task is cut into pieces: it is one, or has some.
    pieces: Tiling,
    writer: &'a Writer,
    /// Something failed elsewhere.
    halt: &'a AtomicBool,
    /// The user wants to stop.
    stop: &'a AtomicBool,
    /// Runs were ended, which is why they fail.
    ended: &'a AtomicBool,
}

impl<'a> Worker<'a> {
    /// Makes task after task, and writes them, or hands them over. The first error is the last thing sent.
    fn work(&self, sampler: Option<Sampler<'a>>, queue: Option<&Sender<Made>>, send: &Sender<Result<Vec<Piece>>>) {
        let mut sampler = match sampler.map_or_else(|| self.generator.sampler(), Ok) {
            Ok(sampler) => sampler,
            Err(e) => {
                let _ = send.send(Err(e)); // nobody listens any more: another error was first
                return;
            }
        };
        while !self.is_over() {
            let Some(places) = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
            let goes_on = match queue {
                Some(queue) => match self.sample(&mut sampler, places.clone()) {
                    Ok(pixels) => queue.send((places, pixels)).is_ok(),
                    Err(e) => self.deliver(Err(e), send),
                },
                None => match self.sample_and_write(&mut sampler, places, send) {
                    Ok(goes_on) => goes_on,
                    Err(e) => self.deliver(Err(e), send),
                },
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Bytes of an image.
    fn image(&self) -> usize {
        self.generator.image_shape().iter().product()
    }

    fn sample(&self, sampler: &mut Sampler<'_>, places: ops::Range<u64>) -> Result<Vec<u8>> {
        let mut pixels = vec![0; (places.end - places.start) as usize * self.image()];
        sampler.pixels(self.plan.selection(), &self.job.conditioning, places, &mut pixels)?;
        Ok(pixels)
    }

    /// Makes a task block by block, and writes its pieces, each of which is delivered once it is whole. Gives whether there is
    /// anything to go on for.
    fn sample_and_write(
        &self,
        sampler: &mut Sampler<'_>,
        task: ops::Range<u64>,
        send: &Sender<Result<Vec<Piece>>>,
    ) -> Result<bool> {
        let (mut pixels, mut open) = (Vec::new(), None);
        for block in self.generator.blocks().cut(task.clone()) {
            if self.is_over() {
                return Ok(false);
            }
            pixels.resize((block.end - block.start) as usize * self.image(), 0);
            sampler.pixels(self.plan.selection(), &self.job.conditioning, block.clone(), &mut pixels)?;
            let mut rest = &pixels[..];
            for part in self.pieces.cut(block) {
                let end = (self.pieces.start(part.start) + self.pieces.size()).min(task.end);
                let piece = match &mut open {
                    Some(piece) => piece,
                    none => none.insert(self.writer.begin(part.start..end)?),
                };
                let (now, later) = rest.split_at((part.end - part.start) as usize * self.image());
                piece.put(now)?;
                rest = later;
                if part.end == end
                    && let Some(piece) = open.take()
                    && !self.deliver(Ok(piece.finish()?), send)
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Writes what others have made, until they are done.
    fn encode(&self, hand_over: &Receiver<Made>, send: &Sender<Result<Vec<Piece>>>) {
        for (places, pixels) in hand_over {
            if self.is_over() {
                return;
            }
            let piece = self.writer.begin(places).and_then(|mut open| open.put(&pixels).and_then(|()| open.finish()));
            if !self.deliver(piece, send) {
                return;
            }
        }
    }

    /// Whether there is anything to go on for.
    fn deliver(&self, piece: Result<Vec<Piece>>, send: &Sender<Result<Vec<Piece>>>) -> bool {
        let failed = piece.is_err();
        if failed && self.ended.load(Ordering::SeqCst) {
            return false;
        }
        send.send(piece).is_ok() && !failed
    }

    fn is_over(&self) -> bool {
        self.halt.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }
}

/// What the bytes of the images depend on, in the words of the manifest.
pub(super) fn identity(generator: &Generator, job: &SamplingJob, plan: &Plan) -> Result<Value> {
    let name = Path::new(generator.name()).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut facts = plan.output().facts();
    let others = [
        ("manifest", json!(1)),
        ("program", json!(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))),
        ("model", json!(name)),
        ("model_sha256", json!(generator.sha256()?)),
        ("image", json!(generator.image_shape())),
        ("batch", json!(generator.batch())),
        ("provider", json!(generator.provider().to_string())),
        ("onnxruntime", json!(runtime::load()?.version)),
        ("tf32", json!(generator.tf32())),
        ("range", json!(generator.range().map(Range::name))),
        ("truncation", json!(job.conditioning.truncation.map(Truncation::bound))),
        ("class", json!(job.conditioning.class.map(Class::number))),
    ];
    facts.extend(others.map(|(key, value)| (key.to_string(), value)));
    // Only where earlier versions knew no such generators: other manifests and journals stay what they were, to be gone on with.
    if generator.precision() == Precision::Int8 {
        facts.insert("precision".to_string(), json!(generator.precision().name()));
    }
    // Files of earlier versions were without; to go on with one of those would make two halves.
    let labels = Labels::of(generator, plan.selection(), job.conditioning).filter(|_| plan.output().sink().has_labels());
    facts.extend(labels.map(|labels| ("labels".to_string(), json!(labels.classes()))));
    // Only where there are names: the manifests of other generators stay what they were.
    if let Some(contract) = generator.contract().filter(|contract| !contract.class_names.is_empty()) {
        let name = job.conditioning.class.and_then(|class| contract.class_names.get(class.number()));
        facts.insert("class_name".to_string(), json!(name));
    }
    Ok(Value::Object(facts))
}

pub(super) fn interrupted(plan: &Plan, made: u64) -> Error {
    let (path, total) = (text::path(plan.path()), plan.count());
    let sink = plan.output().sink();
    Error::Interrupted(match (sink.in_one_go(), sink.naming()) {
        (Some(_), _) => format!("{made} of {total} images were made; {path} was not written."),
        (None, Naming::File { .. }) => {
            format!("{made} of {total} images are made. The same call with `Existing::Resume` makes the rest, and then {path}.")
        }
        (None, Naming::Folder { .. }) => {
            format!("{made} of {total} images are whole, in {path}. The same call with `Existing::Resume` makes the rest.")
        }
    })
}
