//! Any number of images in bounded memory: chunk numbers → workers (a session each; they also encode) → a bounded channel
//! → one writer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Sender, bounded};

use super::generator::{Generator, Sampler};
use super::sinks::{self, Block, Format, Plan};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Which images, made by how many threads. Where they go is a [`Plan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// The seed of the latents.
    pub seed: u64,
    /// Sessions that run in parallel, one thread each; at least 1. The images do not depend on it.
    pub threads: usize,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// Images written.
    pub images: u64,
    /// From the first session to the last byte.
    pub seconds: f64,
    /// The folder of the PNG files, or the one file.
    pub out: PathBuf,
}

/// Blocks that wait for the writer, per worker: enough that neither waits for the other's short pauses.
const QUEUE_PER_WORKER: usize = 2;

/// Makes the planned images. Memory does not grow with their number (but for a contact sheet).
///
/// Raising `stop` ends the work after the chunks at hand.
///
/// # Errors
/// When the destination cannot be written to (before any image is made, where that can be known), a run fails, or `stop`
/// was raised. PNG files written until then are whole and stay; a `.npy` file or contact sheet appears only when complete.
pub fn run(generator: &Generator, job: &Job, plan: &Plan, progress: &dyn Progress, stop: &AtomicBool) -> Result<Done> {
    let started = Instant::now();
    let wanted = plan.images();
    let total = wanted.end - wanted.start;
    let first = generator.sampler()?;
    let mut sink = plan.open(generator.image_shape())?;
    let chunks = generator.chunks(&wanted);
    let threads = u64::try_from(job.threads.max(1)).unwrap_or(u64::MAX).min(chunks.end - chunks.start) as usize;
    let next = AtomicU64::new(chunks.start);
    let halt = AtomicBool::new(false);
    let worker = Worker { generator, job, plan, chunk_end: chunks.end, next: &next, halt: &halt, stop };

    progress.begin("sampling", total);
    let mut written = 0;
    let result = thread::scope(|scope| {
        let (send, receive) = bounded::<Result<Block>>(threads * QUEUE_PER_WORKER);
        let mut first = Some(first);
        for _ in 0..threads {
            let (worker, send, sampler) = (&worker, send.clone(), first.take());
            scope.spawn(move || worker.work(sampler, &send));
        }
        drop(send);
        for block in receive {
            let put = block.and_then(|block| sink.put(&block).map(|()| block.images.n as u64));
            match put {
                Ok(n) => {
                    written += n;
                    progress.update(written, "");
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
    progress.end();
    result?;
    if written < total {
        return Err(interrupted(plan, written, total));
    }
    sink.finish()?;
    Ok(Done { images: written, seconds: started.elapsed().as_secs_f64(), out: plan.path().to_path_buf() })
}

struct Worker<'a> {
    generator: &'a Generator,
    job: &'a Job,
    plan: &'a Plan,
    chunk_end: u64,
    next: &'a AtomicU64,
    /// Something failed elsewhere.
    halt: &'a AtomicBool,
    /// The user wants to stop.
    stop: &'a AtomicBool,
}

impl<'a> Worker<'a> {
    /// Takes chunk after chunk; the first error is the last thing sent.
    fn work(&self, sampler: Option<Sampler<'a>>, send: &Sender<Result<Block>>) {
        let mut sampler = match sampler.map_or_else(|| self.generator.sampler(), Ok) {
            Ok(sampler) => sampler,
            Err(e) => {
                let _ = send.send(Err(e)); // nobody listens any more: another error was first
                return;
            }
        };
        while !self.halt.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed) {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.chunk_end {
                return;
            }
            let block = self.block(&mut sampler, chunk);
            let failed = block.is_err();
            if send.send(block).is_err() || failed {
                return;
            }
        }
    }

    fn block(&self, sampler: &mut Sampler<'_>, chunk: u64) -> Result<Block> {
        let images = self.generator.chunk(chunk, &self.plan.images());
        let start = images.start;
        sinks::encode(self.plan.format(), start, sampler.run(self.job.seed, images)?)
    }
}

fn interrupted(plan: &Plan, written: u64, total: u64) -> Error {
    let path = plan.path().display();
    Error::Interrupted(match plan.format() {
        Format::Png => format!("{written} of {total} images are written, each of them whole, in {path}."),
        Format::Npy | Format::Grid => format!("{written} of {total} images were made; {path} was not written."),
    })
}
