//! Any number of images in bounded memory: pieces of the job → workers (a session each, one thread each on CPUs) → encoders →
//! files; what is finished is noted in the journal.
//!
//! On CPUs a worker encodes and writes what it has made: no core waits for another, no pixel is handed on. On a GPU the
//! workers only feed it, and encoders on the cores take the pixels over through a bounded channel.

use std::ops::Range as Span;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::generator::{Generator, Provider, Sampler};
use super::journal::Piece;
use super::plan::{Format, Plan};
use super::runtime;
use super::sinks::{Sink, Writer};
use crate::error::{Error, Result};
use crate::image::Range;
use crate::latent::Truncation;
use crate::progress::Progress;

/// How the images of a [`Plan`] are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Sessions that run in parallel; at least 1. The images do not depend on it.
    pub threads: usize,
    /// Latents nearer to 0.
    pub truncation: Option<Truncation>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Images made by this call; those that an interrupted one had made do not count.
    pub images: u64,
    /// From the first session to the last byte.
    pub seconds: f64,
    /// The folder of the files, or the one file.
    pub out: PathBuf,
}

/// The sessions and encoders that serve a generator best on this machine: one session a core; on a GPU two, so that one
/// copies while the other computes.
pub fn default_threads(provider: Provider) -> usize {
    match provider {
        Provider::Cuda(_) => 2,
        _ => thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Pieces between workers and whoever takes them next, per worker: enough that neither waits for the other's short pauses.
const QUEUE_PER_WORKER: usize = 2;

/// Makes the planned images. Memory does not grow with their number (but for a contact sheet).
///
/// Raising `stop` ends the work after the batches at hand. Interrupted or failed, a job can be continued with
/// [`super::plan::Existing::Resume`]; a contact sheet cannot.
///
/// # Errors
/// When the destination cannot be written to (before any image is made, where that can be known), a run fails, or `stop`
/// was raised.
pub fn run(generator: &Generator, job: &Job, plan: &Plan, progress: &dyn Progress, stop: &AtomicBool) -> Result<Done> {
    let started = Instant::now();
    let first = generator.sampler()?;
    let mut sink = Sink::open(plan, identity(generator, job, plan)?, generator.image_shape())?;
    let gaps = sink.gaps();
    let missing = gaps.iter().map(|gap| gap.end - gap.start).sum::<u64>();
    let tell = |made: u64| progress.update(plan.count() - missing + made, "");
    progress.begin("sampling", plan.count());
    tell(0);
    let (made, result) = make(generator, first, job, plan, gaps, &mut sink, &tell, stop);
    progress.end();
    if result.is_err() || made < missing {
        sink.abandon();
        let total = plan.count() - missing + made;
        if result.is_err() && total > 0 && plan.format() != Format::Grid {
            progress.say(&format!("{total} of {} images are whole; the same call with --resume makes the rest", plan.count()));
        }
        return Err(result.err().unwrap_or_else(|| interrupted(plan, total)));
    }
    sink.finish()?;
    Ok(Done { images: made, seconds: started.elapsed().as_secs_f64(), out: plan.path().to_path_buf() })
}

/// Makes the images of the gaps. Gives how many there are now, and why there are not more.
#[expect(clippy::too_many_arguments, reason = "all of them are parts of one call")]
fn make<'a>(
    generator: &'a Generator,
    first: Sampler<'a>,
    job: &Job,
    plan: &Plan,
    gaps: Vec<Span<u64>>,
    sink: &mut Sink,
    tell: &dyn Fn(u64),
    stop: &AtomicBool,
) -> (u64, Result<()>) {
    let image = generator.image_shape().iter().product();
    let piece = plan.piece(generator.batch(), image, job.threads.max(1));
    let threads = job.threads.clamp(1, number_of_pieces(&gaps, piece).max(1));
    let encoders = match generator.provider() {
        Provider::Cuda(_) => thread::available_parallelism().map_or(1, usize::from),
        _ => 0,
    };
    let (queue, hand_over) = bounded::<Made>(threads * QUEUE_PER_WORKER);
    let (send, receive) = bounded::<Result<Piece>>((threads + encoders) * QUEUE_PER_WORKER);
    let halt = AtomicBool::new(false);
    let Sink { writer, notes, .. } = sink;
    let pieces = Mutex::new(Box::new(pieces(gaps, piece)) as Box<dyn Iterator<Item = Span<u64>> + Send>);
    let worker = Worker { generator, job, plan, pieces, writer, halt: &halt, stop };
    let mut made = 0;
    let result = thread::scope(|scope| {
        let mut first = Some(first);
        for _ in 0..threads {
            let (worker, send, sampler) = (&worker, send.clone(), first.take());
            let queue = (encoders > 0).then(|| queue.clone());
            scope.spawn(move || worker.work(sampler, queue.as_ref(), &send));
        }
        for _ in 0..encoders {
            let (worker, send, hand_over) = (&worker, send.clone(), hand_over.clone());
            scope.spawn(move || worker.encode(&hand_over, &send));
        }
        // So that each channel ends with the last thread at either end of it.
        drop((send, queue, hand_over));
        for piece in receive {
            match piece.and_then(|piece| notes.add(piece).map(|()| piece.count)) {
                Ok(n) => {
                    made += n;
                    tell(made);
                }
                // Leaving the loop drops the receiver, so that no worker waits for a place in the channel.
                Err(e) => {
                    halt.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(())
    });
    (made, result)
}

/// A piece without its files.
type Made = (Span<u64>, Vec<u8>);

/// The places of the gaps, cut at the multiples of `piece`.
fn pieces(gaps: Vec<Span<u64>>, piece: u64) -> impl Iterator<Item = Span<u64>> {
    gaps.into_iter().flat_map(move |gap| {
        let numbers = gap.start / piece..gap.end.div_ceil(piece);
        numbers.map(move |number| (number * piece).max(gap.start)..((number + 1) * piece).min(gap.end))
    })
}

fn number_of_pieces(gaps: &[Span<u64>], piece: u64) -> usize {
    let number: u64 = gaps.iter().map(|gap| gap.end.div_ceil(piece) - gap.start / piece).sum();
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct Worker<'a> {
    generator: &'a Generator,
    job: &'a Job,
    plan: &'a Plan,
    /// What is to be made yet.
    pieces: Mutex<Box<dyn Iterator<Item = Span<u64>> + Send>>,
    writer: &'a Writer,
    /// Something failed elsewhere.
    halt: &'a AtomicBool,
    /// The user wants to stop.
    stop: &'a AtomicBool,
}

impl<'a> Worker<'a> {
    /// Makes piece after piece, and writes them, or hands them over. The first error is the last thing sent.
    fn work(&self, sampler: Option<Sampler<'a>>, queue: Option<&Sender<Made>>, send: &Sender<Result<Piece>>) {
        let mut sampler = match sampler.map_or_else(|| self.generator.sampler(), Ok) {
            Ok(sampler) => sampler,
            Err(e) => {
                let _ = send.send(Err(e)); // nobody listens any more: another error was first
                return;
            }
        };
        let mut pixels = Vec::new();
        while !self.is_over() {
            let Some(places) = self.pieces.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
            pixels.clear();
            let made = sampler.pixels(self.plan.selection(), self.job.truncation, places.clone(), &mut pixels);
            let goes_on = match (made, queue) {
                (Ok(()), Some(queue)) => queue.send((places, std::mem::take(&mut pixels))).is_ok(),
                (Ok(()), None) => self.deliver(self.writer.write(places, &pixels), send),
                (Err(e), _) => self.deliver(Err(e), send),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Writes what others have made, until they are done.
    fn encode(&self, hand_over: &Receiver<Made>, send: &Sender<Result<Piece>>) {
        for (places, pixels) in hand_over {
            // Of what a failed or stopped job has made, no more is written than must be.
            if self.is_over() || !self.deliver(self.writer.write(places, &pixels), send) {
                return;
            }
        }
    }

    /// Whether there is anything to go on for.
    fn deliver(&self, piece: Result<Piece>, send: &Sender<Result<Piece>>) -> bool {
        let failed = piece.is_err();
        send.send(piece).is_ok() && !failed
    }

    fn is_over(&self) -> bool {
        self.halt.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }
}

/// What the bytes of the images depend on, in the words of the manifest.
fn identity(generator: &Generator, job: &Job, plan: &Plan) -> Result<Value> {
    let name = Path::new(generator.name()).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut facts = plan.facts();
    let others = [
        ("manifest", json!(1)),
        ("program", json!(concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")))),
        ("model", json!(name)),
        ("model_sha256", json!(hexadecimal(&Sha256::digest(generator.bytes())))),
        ("image", json!(generator.image_shape())),
        ("batch", json!(generator.batch())),
        ("provider", json!(generator.provider().to_string())),
        ("onnxruntime", json!(runtime::load()?.version)),
        ("range", json!(generator.range().map(Range::name))),
        ("truncation", json!(job.truncation.map(Truncation::bound))),
    ];
    facts.extend(others.map(|(key, value)| (key.to_string(), value)));
    Ok(Value::Object(facts))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn interrupted(plan: &Plan, made: u64) -> Error {
    let (path, total) = (plan.path().display(), plan.count());
    Error::Interrupted(match plan.format() {
        Format::Grid => format!("{made} of {total} images were made; {path} was not written."),
        _ if made == 0 => format!("{made} of {total} images were made; nothing is left behind."),
        _ => format!("{made} of {total} images are whole, in {path}. The same call with --resume makes the rest."),
    })
}
