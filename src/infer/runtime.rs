//! Finding, checking, loading and installing the onnxruntime library.
//!
//! Nothing is linked: one program serves every machine, and the library it finds decides which providers there are.
//!
//! # Where it is looked for
//! What the caller names ([`load_from`]) or [`PATH_VARIABLE`] names is opened, or nothing is. Else, in this order:
//! 1. the executable's folder, and `../lib` where that folder is called `bin`; then, as pip installs programs into an environment, the
//!    package folders of a Python below `..`;
//! 2. the folder of [`install`](super::install()), below [`HOME_VARIABLE`] or the user's data folder;
//! 3. `.tools/python` of this package's checkout, for an executable that cargo built there, in `target/PROFILE`;
//! 4. Python's package folders: of the environment that `VIRTUAL_ENV` or `CONDA_PREFIX` names; of the `python3` on `PATH` and
//!    the one it is a link to, or those that pyenv puts behind it; `~/.local`, `/usr/local` and `/usr`. They are read off the
//!    folders' layout. Only if none of them has a library that serves, `python3` is asked, in isolation (`-I`), from the root
//!    folder and without `PYTHON…` variables;
//! 5. the system's libraries: `LD_LIBRARY_PATH` (macOS: `DYLD_LIBRARY_PATH`, Windows: `PATH`), `/usr/local/lib`, `/usr/lib` and
//!    their like.
//!
//! The current folder is nowhere in this: empty and relative entries of `PATH` and the others are left out. And on Unix what
//! a search finds is opened only if nobody else could have put it there: the file, every folder above it and every link on
//! the way belong to root, to the user or to the executable's owner, and not everybody may write to them (a folder with the
//! sticky bit, as `/tmp`, may be above, but not hold the library). What is refused is listed with the reason; a library that
//! is named is opened all the same. [`listen`] tells each path tried, [`opened`] what was opened.
//!
//! # For embedders: what is process-global
//! onnxruntime is loaded **once per process** and stays until the process ends: the library, its environment (logging) and
//! the CUDA libraries preloaded for it. The first successful [`load`] or [`load_from`] decides; later
//! calls return the same [`Located`], whatever they ask for. A program that uses `ort` itself must share the one
//! environment: call [`load`] first, then build its own sessions from [`environment`]. If it made an environment of its
//! own before, [`load`] reports that as an error. A failed load changes nothing and may be repeated.
//!
//! **Telemetry is off.** onnxruntime 1.31 would write a device's id and a database of events below the user's cache folder, and
//! send them; no call stops that, only [`TELEMETRY_VARIABLE`] in the environment, before the first [`load`]. Where it
//! is not set, [`load`] sets it to `1` for this process (and for those it starts), by [`disable_telemetry`]. Setting a variable
//! is not safe while another thread reads the environment other than by Rust's `std::env`, as C's `getenv` and the look-up of a
//! host do: so call [`disable_telemetry`] first in `main`, or start the program with the variable set. Whoever wants
//! telemetry sets it to `0`.

use std::env;
use std::error::Error as _;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::search_paths;
use crate::error::{Error, Result};

/// The oldest onnxruntime that serves, as the minor of version 1: the `api-N` feature of `ort` in Cargo.toml.
pub const OLDEST_MINOR: u32 = ort::MINOR_VERSION;
/// The environment variable that names the library, or a folder it is in; nothing else is tried if it is set.
pub const PATH_VARIABLE: &str = "ORT_DYLIB_PATH";
/// The environment variable that moves the folder of [`install`](super::install()).
pub const HOME_VARIABLE: &str = "GANFORGE_HOME";
/// The environment variable by which onnxruntime's telemetry is switched off.
pub const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// A usable onnxruntime library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The library file.
    pub path: PathBuf,
    /// Its version: `1.31.1`, or `1.31` if the file's name does not tell more.
    pub version: String,
    /// Which rule found it.
    pub how: How,
}

/// The rules of the search, in the order in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The caller named it.
    Given,
    /// The environment variable [`PATH_VARIABLE`] named it.
    Variable,
    /// It lay beside the executable, or in `../lib` where that is in a folder `bin`.
    BesideExecutable,
    /// [`install`](super::install()) put it there.
    Managed,
    /// It lay in `.tools/python` of the checkout that the executable was built in.
    Checkout,
    /// It is part of a Python environment.
    Python,
    /// It lay in one of the system's library folders.
    System,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "given by the caller",
            Self::Variable => "named by ORT_DYLIB_PATH",
            Self::BesideExecutable => "beside the executable",
            Self::Managed => "installed by ganforge",
            Self::Checkout => ".tools of the checkout",
            Self::Python => "Python's site-packages",
            Self::System => "the system's libraries",
        })
    }
}

/// Searches for a usable library without keeping it loaded.
///
/// # Errors
/// When there is none: the message lists every path tried, why it does not serve, and the command that mends it.
pub fn locate() -> Result<Located> {
    let mut search = Search::default();
    if let Some(path) = search_paths::variable(PATH_VARIABLE) {
        let found = search.try_path(How::Variable, Path::new(&path));
        return found.ok_or_else(|| {
            search.failure(&format!(
                "Set {PATH_VARIABLE} to a library that serves, or unset it: then the usual places are searched, and \
                 `install(Package::Cpu)` can fetch one."
            ))
        });
    }
    let found = search.try_usual_places();
    found.ok_or_else(|| {
        search.failure(&format!(
            "Run `install(Package::Cpu)` to fetch it (needs python3 with pip), or `pip install onnxruntime` into the \
             Python environment in use, or set {PATH_VARIABLE} to the library or its folder."
        ))
    })
}

/// The library of this process: what is loaded already, or else what [`locate`] finds, loaded now.
///
/// # Errors
/// As [`locate`]; or when the library cannot be initialised.
pub fn load() -> Result<&'static Located> {
    Ok(&loaded(locate)?.located)
}

/// The library in a folder that is to become the managed one; `otherwise` says what to do if it does not serve.
///
/// # Errors
/// When there is none that serves.
#[cfg(feature = "jobs")]
pub(super) fn only_in(folder: &Path, otherwise: &str) -> Result<Located> {
    let mut search = Search::default();
    let found = search.try_path(How::Managed, folder);
    found.ok_or_else(|| search.failure(otherwise))
}

/// Like [`load`], but with a library that the caller names: the file, or a folder it is in.
///
/// # Errors
/// When there is no usable library at `path`, or it cannot be initialised.
pub fn load_from(path: impl AsRef<Path>) -> Result<&'static Located> {
    let path = path.as_ref();
    let find = || {
        let mut search = Search::default();
        let found = search.try_path(How::Given, path);
        found.ok_or_else(|| search.failure("Name a library that serves, or leave the search to `runtime::load`."))
    };
    Ok(&loaded(find)?.located)
}

/// The process's onnxruntime environment, for programs that use `ort` themselves; [`load`]s the library if nobody has. Its type is that of
/// the `ort` that this crate was built with, and changes with it: nothing else of the sampling interface does.
///
/// # Errors
/// As [`load`].
pub fn environment() -> Result<&'static Environment> {
    Ok(&loaded(locate)?.environment)
}

/// Where [`install`](super::install()) puts onnxruntime: `onnxruntime` below [`HOME_VARIABLE`], or below `ganforge` in the user's data
/// folder. `None` if the system tells no such folder.
pub fn managed_folder() -> Option<PathBuf> {
    let home = search_paths::variable(HOME_VARIABLE).map(PathBuf::from).or_else(|| Some(dirs::data_dir()?.join("ganforge")))?;
    Some(home.join("onnxruntime"))
}

/// [`managed_folder`], absolute.
///
/// # Errors
/// When the system tells no such folder.
pub(super) fn own_folder() -> Result<PathBuf> {
    let folder = managed_folder().ok_or_else(|| {
        Error::usage(
            "the system tells no data folder for this user",
            format!("Set {HOME_VARIABLE} to a folder of your choice."),
        )
    })?;
    std::path::absolute(&folder).map_err(Error::io("find", &folder))
}

/// Refuses a folder, below [`managed_folder`] or above it, from which nothing would be opened: others may write to it.
///
/// # Errors
/// When they may.
pub(super) fn check_own(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    super::trust::check(folder).map_err(|reason| {
        Error::invalid_file(folder, reason, format!("Or set {HOME_VARIABLE} to a folder that is yours alone."))
    })?;
    Ok(())
}

struct Loaded {
    located: Located,
    environment: Environment,
}

fn loaded(find: impl FnOnce() -> Result<Located>) -> Result<&'static Loaded> {
    static LOADED: OnceLock<Loaded> = OnceLock::new();
    static LOADING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = LOADED.get() {
        return Ok(loaded);
    }
    // SAFETY: where the program did not do it first, the module's documentation asks its author to load onnxruntime before
    // there are threads that read the environment other than by std::env.
    unsafe { disable_telemetry() };
    let located = find()?;
    let refused = |e: String| Error::Runtime(format!("cannot start onnxruntime {}: {e}", located.path.display()));
    let environment = ort::init_from(&located.path)
        .map_err(|e| refused(e.to_string()))?
        .with_name("ganforge")
        .with_telemetry(false) // Windows' own tracing, which the variable does not stop
        .build()
        .map_err(|e| refused(e.to_string()))?;
    // Errors come back as values; without this they would be printed as well.
    if env::var_os("ORT_LOG").is_none() {
        environment.set_log_level(LogLevel::Fatal);
    }
    remember(&located.path);
    Ok(LOADED.get_or_init(|| Loaded { located, environment }))
}

/// What was tried so far, and why it did not serve.
#[derive(Default)]
struct Search {
    attempts: Vec<String>,
}

impl Search {
    fn try_usual_places(&mut self) -> Option<Located> {
        let executable = search_paths::executable();
        let executable = executable.as_deref();
        self.try_paths(How::BesideExecutable, executable.map(search_paths::beside).unwrap_or_default())
            .or_else(|| self.try_paths(How::Python, executable.map(search_paths::own_site_packages).unwrap_or_default()))
            .or_else(|| self.try_paths(How::Managed, managed_folder()))
            .or_else(|| self.try_paths(How::Checkout, executable.and_then(search_paths::checkout)))
            .or_else(|| self.try_paths(How::Python, search_paths::active_site_packages()))
            .or_else(|| self.try_paths(How::Python, search_paths::known_site_packages()))
            .or_else(|| {
                let asked = self.ask_python();
                self.try_paths(How::Python, asked)
            })
            .or_else(|| self.try_paths(How::System, search_paths::system()))
    }

    fn try_paths(&mut self, how: How, paths: impl IntoIterator<Item = PathBuf>) -> Option<Located> {
        paths.into_iter().find_map(|path| self.try_path(how, &path))
    }

    /// Tries a library file, or every library in a folder.
    fn try_path(&mut self, how: How, path: &Path) -> Option<Located> {
        // ort reads a relative path from the executable's folder; users mean the current one.
        let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let libraries = if path.is_dir() { libraries_in(path) } else { vec![path.clone()] };
        if libraries.is_empty() {
            self.miss(how, path, &format!("no {} in it", library_pattern()));
        }
        for library in libraries {
            // What is missing is nobody's; `check` says that it is missing.
            let safe = if how.was_named() || !library.exists() { Ok(()) } else { only_ours(&library) };
            match safe.and_then(|()| check(&library)) {
                Ok(version) => {
                    tell(&format!("{} ({how}): onnxruntime {version}", library.display()));
                    return Some(Located { path: library, version, how });
                }
                Err(reason) => self.miss(how, &library, &reason),
            }
        }
        None
    }

    fn miss(&mut self, how: How, path: &Path, reason: &str) {
        self.note(format!("{} ({how}): {reason}", path.display()));
    }

    fn note(&mut self, attempt: String) {
        tell(&attempt);
        self.attempts.push(attempt);
    }

    /// Python's own list of its package folders, without those that the layout told already.
    fn ask_python(&mut self) -> Vec<PathBuf> {
        match search_paths::ask_python() {
            Ok(folders) => {
                let known = [search_paths::active_site_packages(), search_paths::known_site_packages()].concat();
                folders.into_iter().filter(|folder| !known.contains(folder)).collect()
            }
            Err(reason) => {
                self.note(reason);
                Vec::new()
            }
        }
    }

    fn failure(&self, hint: &str) -> Error {
        let tried: String = self.attempts.iter().map(|attempt| format!("\n  {attempt}")).collect();
        Error::Runtime(format!("no usable onnxruntime library (1.{OLDEST_MINOR} or newer). Tried:{tried}\n{hint}"))
    }
}

impl How {
    /// Whether the user chose the very library, rather than a search.
    fn was_named(self) -> bool {
        matches!(self, Self::Given | Self::Variable)
    }
}

/// Whether nobody else could have put the library there; else who.
fn only_ours(library: &Path) -> Result<(), String> {
    #[cfg(unix)]
    return super::trust::check_library(library);
    #[cfg(not(unix))]
    return Ok(());
}

static LISTENER: OnceLock<fn(&str)> = OnceLock::new();

/// Has each path that a search tries, why it does not serve, and each library that is opened told to `listener`, a line
/// each, from now on in this process. The first listener stays.
pub fn listen(listener: fn(&str)) {
    LISTENER.get_or_init(|| listener);
}

fn tell(line: &str) {
    if let Some(listener) = LISTENER.get() {
        listener(line);
    }
}

static OPENED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The libraries that this process has loaded to stay: onnxruntime, and those that [`preload_cuda`] and [`preload_tensorrt`] opened for it.
pub fn opened() -> Vec<PathBuf> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn remember(library: &Path) {
    tell(&format!("opened {}", library.display()));
    OPENED.lock().unwrap_or_else(PoisonError::into_inner).push(library.to_path_buf());
}

/// Switches onnxruntime's telemetry off for this process, unless [`TELEMETRY_VARIABLE`] is set already: what it is set to
/// stays.
///
/// # Safety
/// It may set an environment variable: no other thread may read the environment meanwhile, other than by [`mod@std::env`]. So it
/// is for the beginning of `main`.
pub unsafe fn disable_telemetry() {
    if search_paths::variable(TELEMETRY_VARIABLE).is_none() {
        // SAFETY: the caller answers for the other threads.
        unsafe { env::set_var(TELEMETRY_VARIABLE, "1") };
    }
}

/// The version of the library, or why it does not serve.
fn check(library: &Path) -> Result<String, String> {
    match fs::metadata(library) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err("no such file".into()),
        Err(e) => return Err(e.to_string()),
        Ok(meta) if !meta.is_file() => return Err("not a file".into()),
        Ok(_) => check_header(library)?,
    }
    match ort::util::probe(library) {
        Some(minor) if minor >= OLDEST_MINOR => Ok(version(library, minor)),
        Some(minor) => Err(format!("too old: version {}, needed is 1.{OLDEST_MINOR} or newer", version(library, minor))),
        // The probe gives no reason; loading the library once more does.
        None => Err(match ort::util::preload_dylib(library) {
            Err(e) => e.source().map_or_else(|| e.to_string(), ToString::to_string),
            Ok(()) => "a shared library, but not onnxruntime 1.x".into(),
        }),
    }
}

/// `1.31.1` if the file's real name says so and agrees with the probed minor version, else `1.31`.
fn version(library: &Path, minor: u32) -> String {
    let real = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
    let numbers = real.file_name().and_then(OsStr::to_str).and_then(version_in_name).unwrap_or_default();
    match numbers[..] {
        [1, named, patch] if named == minor => format!("1.{minor}.{patch}"),
        _ => format!("1.{minor}"),
    }
}

/// Looks into the ELF header: of a library for another processor the system's loader only says "no such file", and one
/// that was cut short ends the process.
#[cfg(target_os = "linux")]
fn check_header(library: &Path) -> Result<(), String> {
    use std::io::Read;
    const MACHINES: [(u16, &str); 5] = [(3, "x86"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64")];
    const CLASS_64: u8 = 2;
    let mut file = fs::File::open(library).map_err(|e| e.to_string())?;
    let mut header = Vec::new();
    file.by_ref().take(64).read_to_end(&mut header).map_err(|e| e.to_string())?;
    if header.len() < 64 || !header.starts_with(b"\x7fELF") {
        return Err("not a shared library".into());
    }
    let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let machine = MACHINES.iter().find(|(known, _)| *known == short(18)).map(|(_, name)| *name);
    if let Some(machine) = machine.filter(|machine| *machine != env::consts::ARCH) {
        return Err(format!("wrong architecture: made for {machine}, this program is {}", env::consts::ARCH));
    }
    if header[4] == CLASS_64 {
        // The section table, usually the last thing in the file.
        let start = header[40..48].try_into().map_or(0, u64::from_ne_bytes);
        let end = start.saturating_add(u64::from(short(58)) * u64::from(short(60)));
        let length = file.metadata().map_err(|e| e.to_string())?.len();
        if length < end {
            return Err(format!("cut short: {length} bytes of {end}"));
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn check_header(_: &Path) -> Result<(), String> {
    Ok(())
}

fn library_pattern() -> &'static str {
    if cfg!(windows) {
        "onnxruntime.dll"
    } else if cfg!(target_os = "macos") {
        "libonnxruntime*.dylib"
    } else {
        "libonnxruntime.so*"
    }
}

/// The numbers in a library's name: none for `libonnxruntime.so`, three for `libonnxruntime.so.1.31.1`; `None` for other
/// files.
fn version_in_name(name: &str) -> Option<Vec<u32>> {
    let numbers = if cfg!(windows) {
        name.strip_prefix("onnxruntime")?.strip_suffix(".dll")?
    } else if cfg!(target_os = "macos") {
        name.strip_prefix("libonnxruntime")?.strip_suffix(".dylib")?
    } else {
        name.strip_prefix("libonnxruntime.so")?
    };
    if numbers.is_empty() {
        return Some(Vec::new());
    }
    numbers.strip_prefix('.')?.split('.').map(|number| number.parse().ok()).collect()
}

/// The libraries of a folder, of its `lib` and of the `onnxruntime` package in it; the plain name first, then the newest.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for place in [folder.to_path_buf(), folder.join("lib"), folder.join("onnxruntime/capi")] {
        let Ok(entries) = fs::read_dir(&place) else { continue };
        let mut here: Vec<(Vec<u32>, PathBuf)> =
            entries.flatten().filter_map(|entry| Some((version_in_name(entry.file_name().to_str()?)?, entry.path()))).collect();
        here.sort_by(|(a, _), (b, _)| (!a.is_empty()).cmp(&!b.is_empty()).then(b.cmp(a)));
        all.extend(here.into_iter().map(|(_, path)| path));
    }
    all
}

/// Loads the CUDA and cuDNN libraries that pip put beside onnxruntime, so that its CUDA provider finds them.
///
/// Missing ones, and those that somebody else could have put there, are left to the system's loader: the provider says what
/// it lacks.
///
/// # Errors
/// As [`load`].
pub fn preload_cuda() -> Result<()> {
    use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};
    static ONCE: OnceLock<()> = OnceLock::new();
    let located = load()?;
    ONCE.get_or_init(|| preload_packages(located, CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS)));
    Ok(())
}

/// As [`preload_cuda`], and TensorRT's libraries for its provider.
///
/// # Errors
/// As [`load`].
pub fn preload_tensorrt() -> Result<()> {
    // Each needs the one before it.
    const TENSORRT_DYLIBS: [&str; 3] = if cfg!(windows) {
        ["nvinfer_10.dll", "nvinfer_plugin_10.dll", "nvonnxparser_10.dll"]
    } else {
        ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]
    };
    static ONCE: OnceLock<()> = OnceLock::new();
    preload_cuda()?;
    let located = load()?;
    ONCE.get_or_init(|| preload_packages(located, &TENSORRT_DYLIBS));
    Ok(())
}

fn preload_packages<'a>(located: &Located, names: impl IntoIterator<Item = &'a &'a str>) {
    let folders = nvidia_folders(&located.path);
    for name in names {
        if let Some(library) = folders.iter().find_map(|folder| same_library(folder, name)) {
            preload(&library, located.how);
        }
    }
}

/// Of `PACKAGES/onnxruntime/capi/libonnxruntime.so`: `PACKAGES/nvidia/*/lib`, on Windows `bin`; and `PACKAGES/tensorrt_libs`.
fn nvidia_folders(library: &Path) -> Vec<PathBuf> {
    let Some(capi) = library.parent().filter(|folder| folder.ends_with("onnxruntime/capi")) else { return Vec::new() };
    let Some(packages) = capi.ancestors().nth(2) else { return Vec::new() };
    let components = fs::read_dir(packages.join("nvidia")).into_iter().flatten().flatten();
    let folders = components.flat_map(|entry| ["lib", "bin"].map(|name| entry.path().join(name)));
    folders.chain([packages.join("tensorrt_libs")]).filter(|path| path.is_dir()).collect()
}

fn preload(library: &Path, how: How) {
    // Who names onnxruntime names what lies in the same folder of packages.
    let safe = if how.was_named() { Ok(()) } else { only_ours(library) };
    match safe.and_then(|()| ort::util::preload_dylib(library).map_err(|e| e.to_string())) {
        Ok(()) => remember(library),
        // A library that does not load here will not load for the provider either, which reports it.
        Err(reason) => tell(&format!("{}: {reason}", library.display())),
    }
}

/// The file of `folder` that is called `name`, or on Unix has another major version than `name`: what pip installed
/// matches the onnxruntime it installed.
fn same_library(folder: &Path, name: &str) -> Option<PathBuf> {
    let exact = folder.join(name);
    if exact.is_file() {
        return Some(exact);
    }
    let stem = name.split_inclusive(".so.").next().filter(|stem| stem.ends_with(".so."))?;
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    entries.find(|entry| entry.file_name().to_string_lossy().starts_with(stem)).map(|entry| entry.path())
}
