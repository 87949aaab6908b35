//! Images in their order, one after another, to wherever bytes can be written: a pipe, or one tar file. What has gone out cannot be
//! taken back, so there is no journal, and nothing to go on with.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crossbeam_channel::bounded;

use super::generator::Generator;
use super::labels::Labels;
use super::pipeline::{Sampled, SamplingJob, pieces_of};
use super::plan::Format;
use super::selection::Selection;
use super::sinks::sink::Streamed;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Makes the images of a selection and writes them to `to` in their order, in a format that can be written so: [`Format::Npy`], one array;
/// [`Format::Tar`], one WebDataset file; [`Format::Grid`], one sheet, or the image itself if there is but one. Memory does not grow with their
/// number (but for a sheet). The images are those that files would hold.
///
/// # Errors
/// When the format is none of these, `to` cannot be written to, a run fails, or `stop` was raised. What has been written by then is not whole.
pub fn stream(
    generator: &Generator,
    job: &SamplingJob,
    selection: &Selection,
    format: Format,
    to: &mut (dyn Write + Send),
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<Sampled> {
    let started = Instant::now();
    let (places, shape) = (selection.places()?, generator.image_shape());
    let count = places.end - places.start;
    if let Some(class) = job.conditioning.class {
        class.check(generator.contract(), generator.name())?;
    }
    let failed = |e: io::Error| Error::io("write to", "the stream".as_ref())(e);
    let begin = format.sink().to_stream().ok_or_else(|| {
        let what = format!("`Plan::format` {} cannot be written in one stream", format.name());
        Error::usage(what, format!("Choose {}, or name a folder.", Format::for_streams()))
    })?;
    let labels = Labels::of(generator, selection, job.conditioning);
    let stream = begin(Streamed { selection, places: places.clone(), shape, labels })?;
    to.write_all(&stream.head()).map_err(failed)?;
    let work = Work { generator, job, selection, places, stop };
    work.run(progress, |first, pixels| stream.encode(first, pixels), &mut |bytes| to.write_all(&bytes).map_err(failed))?;
    to.write_all(&stream.tail()?).map_err(failed)?;
    to.flush().map_err(failed)?;
    Ok(Sampled { images: count, seconds: started.elapsed().as_secs_f64(), out: PathBuf::from("-") })
}

/// What is to be made.
struct Work<'a> {
    generator: &'a Generator,
    job: &'a SamplingJob,
    selection: &'a Selection,
    places: ops::Range<u64>,
    stop: &'a AtomicBool,
}

/// Which pieces may be made: those that are not far ahead of what was written, so that little waits in memory.
struct Turn {
    state: Mutex<(u64, u64)>,
    written: Condvar,
    ahead: u64,
    over: AtomicBool,
}

impl Turn {
    /// The number of the next piece, once its time has come; `None` if the work is over.
    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 >= state.1 + self.ahead {
            if self.over.load(Ordering::SeqCst) {
                return None;
            }
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.0 += 1;
        (!self.over.load(Ordering::SeqCst)).then_some(state.0 - 1)
    }

    fn wrote(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
        self.written.notify_all();
    }

    fn end(&self) {
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner); // so that nobody falls asleep just now
        self.over.store(true, Ordering::SeqCst);
        self.written.notify_all();
    }
}

impl Work<'_> {
    /// Samples pieces on all sessions, has `encode` make bytes of the pixels there, and hands these to `write` in the order of the images.
    fn run(
        &self,
        progress: &dyn Progress,
        encode: impl Fn(u64, Vec<u8>) -> Result<Vec<u8>> + Sync,
        write: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let (count, first) = (self.places.end - self.places.start, self.generator.sampler()?);
        let image: usize = self.generator.image_shape().iter().product();
        let threads = self.job.threads.max(1);
        let pieces = pieces_of(count, self.generator.batch(), image, threads);
        let numbers = pieces.numbers(&self.places);
        let total = numbers.end - numbers.start;
        let turn = Turn {
            state: Mutex::new((0, 0)),
            written: Condvar::new(),
            ahead: 3 * threads as u64,
            over: AtomicBool::new(false),
        };
        let (send, receive) = bounded::<Result<(u64, u64, Vec<u8>)>>(threads);
        progress.begin("sampling", count);
        let result = thread::scope(|scope| {
            let mut first = Some(first);
            let no_thread =
                |e| Error::Runtime(format!("the system gives no more threads: {e}. Ask for fewer `SamplingJob::threads`."));
            for _ in 0..threads.min(usize::try_from(total).unwrap_or(usize::MAX)).max(1) {
                let (send, encode, turn, sampler) = (send.clone(), &encode, &turn, first.take());
                let work = move || {
                    let mut sampler = match sampler.map_or_else(|| self.generator.sampler(), Ok) {
                        Ok(sampler) => sampler,
                        Err(e) => return drop(send.send(Err(e))),
                    };
                    while let Some(number) = turn.take().filter(|number| *number < total) {
                        let tile = numbers.start + number;
                        let start = (tile * pieces.size()).max(self.places.start);
                        let end = ((tile + 1) * pieces.size()).min(self.places.end);
                        let mut pixels = vec![0; (end - start) as usize * image];
                        let made = sampler
                            .pixels(self.selection, &self.job.conditioning, start..end, &mut pixels)
                            .and_then(|()| encode(start, pixels))
                            .map(|bytes| (number, end - start, bytes));
                        let failed = made.is_err();
                        if send.send(made).is_err() || failed {
                            return;
                        }
                    }
                };
                thread::Builder::new().spawn_scoped(scope, work).map_err(no_thread).inspect_err(|_| turn.end())?;
            }
            drop(send);
            let result = self.in_order(receive.iter(), &turn, progress, write);
            turn.end();
            drop(receive);
            result
        });
        progress.end();
        result
    }

    /// Writes what comes in any order in the order of its numbers.
    fn in_order(
        &self,
        made: impl Iterator<Item = Result<(u64, u64, Vec<u8>)>>,
        turn: &Turn,
        progress: &dyn Progress,
        write: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let (mut waiting, mut next, mut done) = (BTreeMap::new(), 0, 0);
        for piece in made {
            let (number, images, bytes) = piece?;
            waiting.insert(number, (images, bytes));
            while let Some((images, bytes)) = waiting.remove(&next) {
                if self.stop.load(Ordering::Relaxed) {
                    let total = self.places.end - self.places.start;
                    return Err(Error::Interrupted(format!("{done} of {total} images were written to the stream.")));
                }
                write(bytes)?;
                turn.wrote();
                (next, done) = (next + 1, done + images);
                progress.update(done, "");
            }
        }
        Ok(())
    }
}
