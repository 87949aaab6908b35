//! Finding, checking, loading and installing the onnxruntime library.
//!
//! Nothing is linked: one program serves every machine, and the library it finds decides which providers there are.
//!
//! # For embedders: what is process-global
//! onnxruntime is loaded **once per process** and stays until the process ends: the library, its environment (logging,
//! telemetry: off) and the CUDA libraries preloaded for it. The first successful [`load`] or [`load_from`] decides; later
//! calls return the same [`Located`], whatever they ask for. A program that uses `ort` itself must share the one
//! environment: call [`load`] first, then build its own sessions from [`environment`]. If it made an environment of its
//! own before, [`load`] reports that as an error. A failed load changes nothing and may be repeated.

use std::env;
use std::error::Error as _;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::ep::ExecutionProvider;
use ort::logging::LogLevel;

use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// The oldest onnxruntime that serves, as the minor of version 1: the `api-N` feature of `ort` in Cargo.toml.
pub const OLDEST_MINOR: u32 = ort::MINOR_VERSION;
/// The release that [`install`] fetches.
pub const INSTALL_VERSION: &str = "1.31.1";
/// The last release for Python 3.10, which [`install`] fetches there.
pub const INSTALL_VERSION_PYTHON_3_10: &str = "1.23.2";
/// What [`install`] fetches for Python before 3.10.
pub const INSTALL_VERSION_OLD_PYTHON: &str = "1.19.2";

/// The environment variable that names the library, or a folder it is in; nothing else is tried if it is set.
pub const PATH_VARIABLE: &str = "ORT_DYLIB_PATH";
/// The environment variable that moves the folder of [`install`].
pub const HOME_VARIABLE: &str = "GANFORGE_HOME";

const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

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
    /// It lay beside the executable, or in `../lib`.
    BesideExecutable,
    /// [`install`] put it there.
    Managed,
    /// It lay in `.tools/python` above the executable: a program run from a checkout.
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
            Self::Managed => "installed by gan-infer",
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
    if let Some(path) = set_variable(PATH_VARIABLE) {
        let found = search.try_path(How::Variable, Path::new(&path));
        return found.ok_or_else(|| {
            search.failure(&format!(
                "Set {PATH_VARIABLE} to a library that serves, or unset it: then the usual places are searched, and \
                 `gan-infer runtime install` can fetch one."
            ))
        });
    }
    let found = search.try_usual_places();
    found.ok_or_else(|| {
        search.failure(&format!(
            "Run `gan-infer runtime install` to fetch it (needs python3 with pip), or `pip install onnxruntime` into the \
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

/// Like [`load`], but with a library that the caller names: the file, or a folder it is in.
///
/// # Errors
/// When there is no usable library at `path`, or it cannot be initialised.
pub fn load_from(path: &Path) -> Result<&'static Located> {
    let find = || {
        let mut search = Search::default();
        let found = search.try_path(How::Given, path);
        found.ok_or_else(|| search.failure("Name a library that serves, or leave the search to `runtime::load`."))
    };
    Ok(&loaded(find)?.located)
}

/// The process's onnxruntime environment; [`load`]s the library if nobody has.
///
/// # Errors
/// As [`load`].
pub fn environment() -> Result<&'static Environment> {
    Ok(&loaded(locate)?.environment)
}

/// Whether the loaded library was built with the CUDA provider. Its own libraries may still be missing.
///
/// # Errors
/// As [`load`].
pub fn offers_cuda() -> Result<bool> {
    load()?;
    Ok(ort::ep::CUDA::is_available()?)
}

/// Where [`install`] puts onnxruntime: `onnxruntime` below [`HOME_VARIABLE`], or below `ganforge` in the user's data
/// folder. `None` if the system tells no such folder.
pub fn managed_folder() -> Option<PathBuf> {
    let home = set_variable(HOME_VARIABLE).map(PathBuf::from).or_else(|| Some(dirs::data_dir()?.join("ganforge")))?;
    Some(home.join("onnxruntime"))
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
    let located = find()?;
    let refused = |e: String| Error::Runtime(format!("cannot start onnxruntime {}: {e}", located.path.display()));
    let environment = ort::init_from(&located.path)
        .map_err(|e| refused(e.to_string()))?
        .with_name("ganforge")
        .with_telemetry(false)
        .build()
        .map_err(|e| refused(e.to_string()))?;
    // Errors come back as values; without this they would be printed as well.
    if env::var_os("ORT_LOG").is_none() {
        environment.set_log_level(LogLevel::Fatal);
    }
    Ok(LOADED.get_or_init(|| Loaded { located, environment }))
}

/// An environment variable, if it is set to anything.
fn set_variable(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// What was tried so far, and why it did not serve.
#[derive(Default)]
struct Search {
    attempts: Vec<String>,
}

impl Search {
    fn try_usual_places(&mut self) -> Option<Located> {
        let executable = env::current_exe().and_then(|path| path.canonicalize()).ok();
        if let Some(folder) = executable.as_deref().and_then(Path::parent) {
            let beside = [Some(folder.to_path_buf()), folder.parent().map(|up| up.join("lib"))];
            if let Some(found) = self.try_paths(How::BesideExecutable, beside.into_iter().flatten()) {
                return Some(found);
            }
        }
        if let Some(found) = self.try_paths(How::Managed, managed_folder()) {
            return Some(found);
        }
        let tools = executable.iter().flat_map(|path| path.ancestors().skip(1)).map(|folder| folder.join(".tools/python"));
        self.try_paths(How::Checkout, tools.filter(|folder| folder.is_dir()))
            .or_else(|| self.try_paths(How::Python, active_site_packages()))
            .or_else(|| {
                let asked = self.ask_python();
                self.try_paths(How::Python, asked)
            })
            .or_else(|| self.try_paths(How::System, system_folders()))
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
            match check(&library) {
                Ok(version) => return Some(Located { path: library, version, how }),
                Err(reason) => self.miss(how, &library, &reason),
            }
        }
        None
    }

    fn miss(&mut self, how: How, path: &Path, reason: &str) {
        self.attempts.push(format!("{} ({how}): {reason}", path.display()));
    }

    /// Python's own list of its package folders.
    fn ask_python(&mut self) -> Vec<PathBuf> {
        const QUESTION: &str = "import site, sysconfig\n\
            for path in {sysconfig.get_path('purelib'): 0, sysconfig.get_path('platlib'): 0, site.getusersitepackages(): 0}: print(path)";
        match Command::new(PYTHON).args(["-c", QUESTION]).output() {
            Ok(answer) if answer.status.success() => {
                String::from_utf8_lossy(&answer.stdout).lines().map(PathBuf::from).collect()
            }
            Ok(_) => {
                self.attempts.push(format!("{PYTHON}: did not tell its package folders"));
                Vec::new()
            }
            Err(_) => {
                self.attempts.push(format!("{PYTHON}: not on the PATH"));
                Vec::new()
            }
        }
    }

    fn failure(&self, mend: &str) -> Error {
        let tried: String = self.attempts.iter().map(|attempt| format!("\n  {attempt}")).collect();
        Error::Runtime(format!("no usable onnxruntime library (1.{OLDEST_MINOR} or newer). Tried:{tried}\n{mend}"))
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

/// The package folders of the virtual or conda environment that is active.
fn active_site_packages() -> Vec<PathBuf> {
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set_variable).map(PathBuf::from);
    roots.flat_map(|root| site_packages_of(&root)).collect()
}

fn site_packages_of(root: &Path) -> Vec<PathBuf> {
    if cfg!(windows) {
        return vec![root.join("Lib").join("site-packages")];
    }
    let versions = fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let pythons = versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
    pythons.map(|entry| entry.path().join("site-packages")).filter(|folder| folder.is_dir()).collect()
}

/// Where the system's loader looks, as far as the folders exist.
fn system_folders() -> Vec<PathBuf> {
    let variable = if cfg!(windows) {
        "PATH"
    } else if cfg!(target_os = "macos") {
        "DYLD_LIBRARY_PATH"
    } else {
        "LD_LIBRARY_PATH"
    };
    let usual: &[&str] = if cfg!(windows) {
        &[]
    } else if cfg!(target_os = "macos") {
        &["/usr/local/lib", "/opt/homebrew/lib", "/opt/onnxruntime/lib"]
    } else {
        &["/usr/local/lib", "/usr/lib64", "/usr/lib", "/opt/onnxruntime/lib"]
    };
    let listed = env::var_os(variable).map(|paths| env::split_paths(&paths).collect::<Vec<_>>()).unwrap_or_default();
    let multiarch = cfg!(target_os = "linux").then(|| PathBuf::from(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH)));
    let folders = listed.into_iter().chain(multiarch).chain(usual.iter().map(PathBuf::from));
    folders.filter(|folder| !folder.as_os_str().is_empty() && folder.is_dir()).collect()
}

/// Loads the CUDA and cuDNN libraries that pip put beside onnxruntime, so that its CUDA provider finds them.
///
/// Missing ones are left to the system's loader: the provider says what it lacks.
pub(super) fn preload_cuda() -> Result<()> {
    use ort::ep::cuda::{CUDA_DYLIBS, CUDNN_DYLIBS};
    static ONCE: OnceLock<()> = OnceLock::new();
    let located = load()?;
    ONCE.get_or_init(|| {
        // PACKAGES/onnxruntime/capi/libonnxruntime.so and PACKAGES/nvidia/*/lib/*.so
        let Some(packages) = located.path.ancestors().nth(3) else { return };
        let components = fs::read_dir(packages.join("nvidia")).into_iter().flatten().flatten();
        let folders: Vec<PathBuf> = components
            .flat_map(|entry| ["lib", "bin"].map(|name| entry.path().join(name)))
            .filter(|path| path.is_dir())
            .collect();
        for name in CUDA_DYLIBS.iter().chain(CUDNN_DYLIBS) {
            if let Some(library) = folders.iter().find_map(|folder| same_library(folder, name)) {
                // A library that does not load here will not load for the provider either, which reports it.
                let _ = ort::util::preload_dylib(library);
            }
        }
    });
    Ok(())
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

/// Fetches onnxruntime with pip into [`managed_folder`], whole or not at all; returns the library file.
///
/// With `cuda`, `onnxruntime-gpu` and NVIDIA's libraries for it: some gigabytes.
///
/// # Errors
/// When there is no Python with pip, pip fails, the folder cannot be written, or what arrived is not a usable library.
pub fn install(cuda: bool, progress: &dyn Progress) -> Result<PathBuf> {
    let target = managed_folder().ok_or_else(|| {
        Error::usage(
            "the system tells no data folder for this user",
            format!("Set {HOME_VARIABLE} to a folder of your choice."),
        )
    })?;
    let parent = target.parent().unwrap_or(&target);
    files::create_folder(parent)?;
    let work = tempfile::Builder::new().prefix(".install-").tempdir_in(parent).map_err(Error::io("write to", parent))?;
    let fresh = work.path().join("onnxruntime");
    let package = if cuda { "onnxruntime-gpu and NVIDIA's CUDA libraries" } else { "onnxruntime" };
    progress.say(&format!("pip installs {package} into {}", target.display()));
    run_pip(cuda, &fresh)?;

    let mut search = Search::default();
    let found = search.try_path(How::Managed, &fresh);
    let found = found.ok_or_else(|| {
        search.failure("pip fetched a library that does not work on this machine: set ORT_DYLIB_PATH to one that does.")
    })?;
    let library = found.path.strip_prefix(&fresh).unwrap_or(&found.path).to_path_buf();
    let old = work.path().join("old");
    let replaced = target.exists();
    if replaced {
        fs::rename(&target, &old).map_err(Error::io("replace", &target))?;
    }
    if let Err(e) = fs::rename(&fresh, &target) {
        if replaced {
            fs::rename(&old, &target).map_err(Error::io("restore", &target))?;
        }
        return Err(Error::io("write", &target)(e));
    }
    Ok(target.join(library))
}

fn packages(cuda: bool) -> [String; 3] {
    let package = if cuda { "onnxruntime-gpu[cuda,cudnn]" } else { "onnxruntime" };
    [
        format!("{package}=={INSTALL_VERSION}; python_version >= '3.11'"),
        format!("{package}=={INSTALL_VERSION_PYTHON_3_10}; python_version == '3.10'"),
        format!("{package}=={INSTALL_VERSION_OLD_PYTHON}; python_version < '3.10'"),
    ]
}

fn run_pip(cuda: bool, target: &Path) -> Result<()> {
    let mut pip = Command::new(PYTHON);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--only-binary", ":all:"]);
    if !cuda {
        pip.arg("--no-deps"); // the library needs nothing of Python
    }
    let other_ways =
        format!("Mend that, or put libonnxruntime 1.{OLDEST_MINOR} or newer anywhere and set {PATH_VARIABLE} to it.");
    let output = pip
        .arg("--target")
        .arg(target)
        .args(packages(cuda))
        // A user's settings for installing elsewhere do not go with --target.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .output()
        .map_err(|e| Error::Runtime(format!("cannot run {PYTHON} to fetch onnxruntime: {e}. {other_ways}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" / ");
    Err(Error::Runtime(format!("{PYTHON} -m pip could not fetch onnxruntime: {last}. {other_ways}")))
}
