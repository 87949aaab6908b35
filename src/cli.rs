//! What the two programs share: progress on the terminal, interruption, exit codes, completions and manual pages.

pub mod generate;

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::text::{self, shown};

/// Reports on stderr: a bar on a terminal, a plain line every few seconds elsewhere, nothing with `--quiet`.
#[derive(Clone)]
pub struct Console {
    quiet: bool,
    terminal: bool,
    task: Arc<Mutex<Option<Task>>>,
}

struct Task {
    name: String,
    total: u64,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

/// Sets a process up that trains with mimalloc as its allocator.
///
/// A step's large buffers are to be used again, not given back to the kernel, which clears every page of them again (7 % of
/// a DCGAN step). And candle's own thread pool waits by spinning: on a machine that does anything else it costs more than it
/// gives (a small MLP trained 6 times slower); the operations that matter here are ours, on rayon's threads.
///
/// # Safety
/// It sets an environment variable, so no other thread may run: the first thing that main does.
pub unsafe fn prepare_training() {
    /// `mi_option_purge_delay` in mimalloc.h: milliseconds until freed memory is given back, −1 for never.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number in mimalloc's table of options.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: the caller answers for there being no other thread.
        unsafe { std::env::set_var(THREADS, "1") };
    }
}

/// Lets a file that grows beyond a limit (`ulimit -f`) be an error to report, not the end of the process.
///
/// # Safety
/// It changes what a signal does to the whole process: for the beginning of main.
pub unsafe fn outlive_file_limits() {
    // SAFETY: to ignore a signal runs nothing.
    #[cfg(unix)]
    unsafe {
        nix::libc::signal(nix::libc::SIGXFSZ, nix::libc::SIG_IGN);
    }
}

const LINE_EVERY: Duration = Duration::from_secs(10);

impl Console {
    /// Listens to one program run.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, terminal: io::stderr().is_terminal(), task: Arc::default() }
    }

    fn with_task(&self, act: impl FnOnce(&mut Option<Task>)) {
        if !self.quiet {
            act(&mut self.task.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Progress for Console {
    fn begin(&self, name: &str, total: u64) {
        self.with_task(|task| {
            let bar = self.terminal.then(|| {
                let bar = ProgressBar::new(total);
                if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}") {
                    bar.set_style(style);
                }
                bar.set_prefix(shown(name).into_owned());
                bar
            });
            *task = Some(Task { name: name.to_string(), total, bar, last_line: Instant::now() });
        });
    }

    fn update(&self, done: u64, detail: &str) {
        self.with_task(|task| match task {
            Some(Task { bar: Some(bar), .. }) => {
                bar.set_message(shown(detail).into_owned());
                bar.set_position(done);
            }
            Some(task) if task.last_line.elapsed() >= LINE_EVERY => {
                task.last_line = Instant::now();
                error_line(&format!("{} {done}/{} {detail}", task.name, task.total));
            }
            _ => {}
        });
    }

    fn end(&self) {
        self.with_task(|task| {
            if let Some(Task { bar: Some(bar), .. }) = task.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn say(&self, line: &str) {
        self.with_task(|task| match task {
            Some(Task { bar: Some(bar), .. }) => bar.suspend(|| error_line(line)),
            _ => error_line(line),
        });
    }
}

/// A signal that comes so soon after the first is the same wish: `timeout` and some schedulers signal a process and then its group.
const SAME_WISH: Duration = Duration::from_millis(200);

/// A flag that Ctrl-C and SIGTERM raise, upon which `console` says what is still `to_do`; a second Ctrl-C leaves at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_flag(console: &Console, to_do: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let (raised, console) = (Arc::clone(&flag), console.clone());
    let mut first: Option<Instant> = None;
    ctrlc::set_handler(move || {
        if first.get_or_insert_with(Instant::now).elapsed() > SAME_WISH {
            std::process::exit(130);
        }
        if raised.swap(true, Ordering::SeqCst) {
            return;
        }
        let console = console.clone();
        // In a thread of its own: a terminal that takes no more must not keep a second Ctrl-C waiting.
        std::thread::spawn(move || console.say(&format!("stopping: {to_do}; a second Ctrl-C leaves at once")));
    })
    .map_err(|e| Error::Runtime(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(flag)
}

/// What messages of the library name as a program calls it. The library's errors name its fields and functions, which whoever
/// embeds it can change; whoever calls a program changes flags.
const SPELLINGS: &[(&str, &str)] = &[
    ("`BUILTIN`", "`gan-infer models`"),
    ("`Conditioning::truncation`", "--truncation"),
    ("`Destination::out`", "--out"),
    ("`EvaluationJob::draws`", "--draws"),
    ("`EvaluationJob::n`", "--n"),
    ("`Existing::Overwrite`", "--force"),
    ("`Existing::Resume`", "--resume"),
    ("`FeatureConfig::lr`", "--lr"),
    ("`FeatureModel::open`", "--features F.onnx"),
    ("`ModelFolder::name`", "--name"),
    ("`ModelFolder::overwrite`", "--force"),
    ("`ModelFolder::path`", "--out"),
    ("`Options::batch`", "--batch"),
    ("`Options::batch_memory`", "--batch-memory GIB"),
    ("`Options::load_timeout`", "--load-timeout SECONDS"),
    ("`Options::precision`", "--precision"),
    ("`Options::provider`", "--provider"),
    ("`Options::range`", "--range"),
    ("`Overrides::data`", "--data"),
    ("`Overrides::init_from`", "--init-from"),
    ("`Overrides::precision`", "--precision"),
    ("`Overrides::set`", "--set"),
    ("`Page::overwrite`", "--force"),
    ("`Page::webgpu`", "--webgpu"),
    ("`Place::device`", "--device"),
    ("`Plan::format`", "--format"),
    ("`Plan::out`", "--out"),
    ("`Plan::shard`", "--shard"),
    ("`Publication::license`", "--license"),
    ("`Real::held_out`", "--held-out"),
    ("`RunFolder::path`", "--out"),
    ("`RunFolder::resume`", "gan-train --resume RUN"),
    ("`Reduction::calibrate`", "--calibrate"),
    ("`Reduction::max_loss`", "--max-loss"),
    ("`SamplingJob::threads`", "--threads"),
    ("`Shard::assigned`", "--shard auto"),
    ("`TrainConfig::from_toml`", "--config"),
    ("`TrainConfig::preset`", "`gan-train presets NAME`"),
    ("`TrainConfig::with_width`", "--width"),
    ("`Trained::weights`", "--weights"),
    ("`WebRuntime::Folder`", "--onnxruntime-web DIR"),
    ("`WebRuntime::Npm`", "--npm"),
    ("`Which::Step`", "--checkpoint STEP"),
    ("`config::resized`", "--size, --width"),
    ("`export::export`", "`gan-train export`"),
    ("`export::export(file)`", "`gan-train export FILE --preset NAME`"),
    ("`export::export(run)`", "`gan-train export RUN`"),
    ("`features::Options::range`", "--features-range"),
    ("`features::Options::size`", "--features-size"),
    ("`install(Package::Cpu)`", "`gan-infer runtime install`"),
    ("`install(Package::Cuda)`", "`gan-infer runtime install --cuda`"),
    ("`install(Package::OpenVino)`", "`gan-infer runtime install --openvino`"),
    ("`learn::train`", "`gan-train features`"),
];

/// A message of the library with flags and commands in it for its own names.
pub fn in_flags(message: &str) -> Cow<'_, str> {
    let name = |text: &str| SPELLINGS.iter().find(|(name, _)| text.starts_with(name));
    let mut said = Cow::Borrowed(message);
    for (at, _) in message.rmatch_indices('`') {
        if let Some((name, flag)) = name(&message[at..]) {
            said.to_mut().replace_range(at..at + name.len(), flag);
        }
    }
    said
}

/// A line on stderr. Nobody may be there any more (a closed terminal, `| head`): work goes on all the same. Names in it may be
/// a stranger's, so the terminal gets nothing that it would obey. Names of the library's own are told as flags.
pub fn error_line(line: &str) {
    let _ = writeln!(io::stderr(), "{}", shown(&in_flags(line)));
}

/// A line on stdout, where results go. A reader that has gone away is not an error: it has what it wanted. What a terminal
/// would obey is escaped as JSON does it, so JSON stays what it was.
///
/// # Errors
/// When stdout cannot be written to for another reason.
pub fn print_line(line: &str) -> Result<()> {
    match writeln!(io::stdout(), "{}", shown(line)) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("write to", "stdout".as_ref())(e)),
        _ => Ok(()),
    }
}

/// The command line. If it is wrong, or asks for help, what there is to say is printed and the program ends; arguments in it are
/// shown as names from outside are.
pub fn parsed<C: clap::Parser>() -> C {
    C::try_parse().unwrap_or_else(|error| {
        let shown: Vec<String> = std::env::args_os().map(|a| text::on_one_line(&a.to_string_lossy()).into_owned()).collect();
        // The same call with arguments that a terminal does not obey fails in the same way.
        C::try_parse_from(shown).err().unwrap_or(error).exit()
    })
}

/// Prints the error, if any, and gives the exit code: 0 done, 2 the call is wrong, 1 anything else.
pub fn finish(result: Result<()>) -> ExitCode {
    let code = match result {
        Ok(()) => 0,
        Err(error) => {
            error_line(&format!("error: {error}"));
            error.exit_code()
        }
    };
    #[cfg(all(unix, feature = "infer"))]
    if crate::infer::limits::goes_on() {
        let _ = io::stdout().flush(); // whoever read it has gone away
        // SAFETY: ends the process at once. Nothing is left to be done: what onnxruntime would do crashes beside a load.
        unsafe { nix::libc::_exit(i32::from(code)) }
    }
    ExitCode::from(code)
}
