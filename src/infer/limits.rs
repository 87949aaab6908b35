//! Limits on what a model may take: time to open, memory for a batch. And what helps where a limit is reached.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use ort::session::RunOptions;

use super::runtime;
use crate::error::{Error, OrtResult, Result};

/// How long a model may take to load and to run once, where nobody says.
pub const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

static GOES_ON: AtomicBool = AtomicBool::new(false);

/// Whether a load that took too long may still be going on. What onnxruntime does when a process exits must not happen beside it.
#[cfg(all(unix, feature = "cli"))]
pub(crate) fn goes_on() -> bool {
    GOES_ON.load(Ordering::SeqCst)
}

/// Opens a model with `work`, on a thread of its own and in no more than `limit`; zero is no limit. The runs of `work`, and later
/// ones, are to be with the options that it is given.
///
/// A run that takes too long is ended. onnxruntime offers no way to end a load: its thread goes on, and with it its memory, until the
/// load is over or the process ends.
pub(crate) fn within<T: Send + 'static>(
    name: &str,
    limit: Duration,
    work: impl FnOnce(Arc<RunOptions>) -> Result<T> + Send + 'static,
) -> Result<T> {
    /// Until a run that was ended has ended.
    const GRACE: Duration = Duration::from_secs(2);
    /// What the main thread of a program usually has.
    const STACK: usize = 8 << 20;
    runtime::environment()?; // to find and load the library takes its own time
    let runs = Arc::new(RunOptions::new().ort()?);
    let (send, receive) = mpsc::sync_channel(1);
    let for_work = Arc::clone(&runs);
    let thread = thread::Builder::new().name("model".into()).stack_size(STACK).spawn(move || {
        let _ = send.send(work(for_work)); // nobody waits any more: it took too long
    });
    let thread = thread.map_err(|e| Error::Runtime(format!("the system gives no thread to open {name} on: {e}")))?;
    let answer = if limit.is_zero() {
        receive.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
    } else {
        receive.recv_timeout(limit)
    };
    match answer {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => Err(Error::Runtime(format!("the thread that opened {name} gave no answer"))),
        },
        Err(mpsc::RecvTimeoutError::Timeout) => {
            runs.terminate().ort()?;
            if receive.recv_timeout(GRACE).is_err() {
                GOES_ON.store(true, Ordering::SeqCst);
            }
            Err(Error::invalid(
                name,
                format!("to load it and to run it once takes longer than {} seconds", limit.as_secs_f64()),
                "If you trust it and this machine is slow, allow more with `Options::load_timeout`; else use another model.",
            ))
        }
    }
}

/// The largest batch size.
pub const MAX_BATCH: usize = 4096;

/// The most bytes of a batch's latents, and of its output, where nobody says.
pub const BATCH_MEMORY: u64 = 4 << 30;

/// Refuses `bytes` for the `what` of a batch, if they are more than `most`: before memory is taken for them.
pub(crate) fn check_batch(name: &str, what: &str, bytes: u64, most: u64) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Err(Error::invalid(
        name,
        format!("{what} of a batch take {:.1} GiB, and no more than {} are allowed", gib(bytes), gib(most)),
        "Choose a smaller `Options::batch`, if the model leaves it open, or allow more with `Options::batch_memory`.",
    ))
}

/// Memory for `n` values, all zero; or an error that says for what.
pub(crate) fn zeros<T: Copy + Default>(n: usize, what: impl FnOnce() -> String) -> Result<Vec<T>> {
    let mut values = Vec::new();
    match values.try_reserve_exact(n) {
        Ok(()) => values.resize(n, T::default()),
        Err(_) => {
            let bytes = n.saturating_mul(size_of::<T>());
            let none = format!("this machine has no {bytes} bytes of memory for that");
            return Err(Error::invalid(what(), none, "Ask for fewer at a time."));
        }
    }
    Ok(values)
}

/// What helps against an error of onnxruntime's: `otherwise`, or more memory.
pub(crate) fn hint<'a>(error: &Error, otherwise: &'a str) -> &'a str {
    const SIGNS: [&str; 7] = [
        "bad_alloc",
        "bad allocation",
        "Failed to allocate",
        "failed to allocate",
        "out of memory",
        "OUT_OF_MEMORY",
        "ALLOC_FAILED",
    ];
    match error {
        Error::Ort(text) if SIGNS.iter().any(|sign| text.contains(sign)) => {
            "There is not enough memory for it: a smaller `Options::batch` or fewer `SamplingJob::threads` need less."
        }
        _ => otherwise,
    }
}
