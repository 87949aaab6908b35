//! Where a search for onnxruntime looks: folders read off known layouts, so that hardly ever a program need be started.
//!
//! Nothing here is relative to the current folder: entries of `PATH` and of the other variables that are empty or relative
//! are left out.

use std::cmp::Reverse;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::files;

/// What Python's program is called.
pub const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

/// An environment variable, if it is set to anything.
pub fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The file of the running program.
pub fn executable() -> Option<PathBuf> {
    env::current_exe().and_then(|path| path.canonicalize()).ok()
}

/// The executable's folder, and `../lib` if that folder is called `bin`.
pub fn beside(executable: &Path) -> Vec<PathBuf> {
    let Some(folder) = executable.parent() else { return Vec::new() };
    let lib = folder.parent().filter(|_| folder.file_name() == Some("bin".as_ref())).map(|up| up.join("lib"));
    [Some(folder.to_path_buf()), lib].into_iter().flatten().collect()
}

/// The package folders of the Python environment that the executable was installed into, if it was.
pub fn own_site_packages(executable: &Path) -> Vec<PathBuf> {
    prefix(executable).map(|root| site_packages_of(&root)).unwrap_or_default()
}

/// `.tools/python` of this package's checkout, if the executable is where cargo puts it there: in `target/PROFILE`,
/// `target/TRIPLE/PROFILE`, or a `deps` or `examples` in these.
pub fn checkout(executable: &Path) -> Option<PathBuf> {
    let mut profile = executable.parent()?;
    if ["deps", "examples"].iter().any(|name| profile.file_name() == Some(name.as_ref())) {
        profile = profile.parent()?;
    }
    let target = profile.ancestors().skip(1).take(2).find(|folder| folder.file_name() == Some("target".as_ref()))?;
    let root = target.parent()?;
    is_this_package(&root.join("Cargo.toml")).then(|| root.join(".tools/python")).filter(|folder| folder.is_dir())
}

fn is_this_package(manifest: &Path) -> bool {
    let Ok(bytes) = files::read(manifest, files::TEXT) else { return false };
    // As `cargo new` writes it; a parser of TOML would be one more crate for every application.
    let name = concat!("name = \"", env!("CARGO_PKG_NAME"), "\"");
    String::from_utf8_lossy(&bytes).lines().any(|line| line.trim() == name)
}

/// The package folders of the virtual or conda environment that is active.
pub fn active_site_packages() -> Vec<PathBuf> {
    let roots = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable).map(PathBuf::from);
    roots.filter(|root| root.is_absolute()).flat_map(|root| site_packages_of(&root)).collect()
}

/// The package folders of the Python on `PATH`, of the user and of the system, as far as their layout tells them.
pub fn known_site_packages() -> Vec<PathBuf> {
    let python = program(PYTHON);
    // A virtual environment's Python is a link to the one that made it.
    let real = python.as_ref().and_then(|python| python.canonicalize().ok());
    let of_python = [&python, &real].into_iter().flatten().filter_map(|file| prefix(file));
    let of_pyenv = python.iter().flat_map(|python| pyenv_versions(python));
    let of_user = dirs::home_dir().map(|home| home.join(".local"));
    let of_system = ["/usr/local", "/usr"].into_iter().filter(|_| cfg!(unix)).map(PathBuf::from);
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in of_python.chain(of_pyenv).chain(of_user).chain(of_system).flat_map(|root| site_packages_of(&root)) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// `PREFIX` of `PREFIX/bin/python3`, on Windows of `PREFIX\python.exe` or `PREFIX\Scripts\python.exe`.
fn prefix(python: &Path) -> Option<PathBuf> {
    let folder = python.parent()?;
    let named = |name: &str| folder.file_name() == Some(name.as_ref());
    match cfg!(windows) {
        true if !named("Scripts") => Some(folder.to_path_buf()),
        false if !named("bin") => None,
        _ => folder.parent().map(Path::to_path_buf),
    }
}

/// The prefixes of the Pythons that pyenv chose, if `python` is one of its shims.
fn pyenv_versions(python: &Path) -> Vec<PathBuf> {
    let shims = python.parent().filter(|folder| folder.file_name() == Some("shims".as_ref()));
    let Some(root) = shims.and_then(Path::parent) else { return Vec::new() };
    let chosen = variable("PYENV_VERSION").map(|names| names.to_string_lossy().into_owned());
    let global = || Some(String::from_utf8_lossy(&files::read(&root.join("version"), files::TEXT).ok()?).into_owned());
    let names = chosen.or_else(global).unwrap_or_default();
    let names = names.split([':', '\n', '\r', ' ']).filter(|name| is_plain_name(name));
    names.map(|name| root.join("versions").join(name)).collect()
}

/// Whether joining `name` to a folder stays in that folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// The package folders below a prefix, those of the newest Python first.
fn site_packages_of(root: &Path) -> Vec<PathBuf> {
    if cfg!(windows) {
        return vec![root.join("Lib").join("site-packages")];
    }
    let entries = ["lib", "lib64"].into_iter().flat_map(|lib| fs::read_dir(root.join(lib)).into_iter().flatten().flatten());
    let mut pythons: Vec<(Vec<u32>, PathBuf)> =
        entries.filter_map(|entry| Some((python_version(entry.file_name().to_str()?)?, entry.path()))).collect();
    pythons.sort_by_key(|(version, path)| (Reverse(version.clone()), path.clone()));
    let folders = pythons.into_iter().flat_map(|(_, path)| ["site-packages", "dist-packages"].map(|name| path.join(name)));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// The numbers of `python3`, `python3.12` or `python3.13t`; `None` for other names.
fn python_version(name: &str) -> Option<Vec<u32>> {
    let numbers = name.strip_prefix("python")?.trim_end_matches('t');
    numbers.split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>().filter(|numbers| numbers[..1] == [3])
}

/// Python's own list of its package folders.
///
/// # Errors
/// When there is no Python, or it does not answer.
pub fn ask_python() -> Result<Vec<PathBuf>, String> {
    const QUESTION: &str = "import site, sysconfig\n\
        for path in {sysconfig.get_path('purelib'): 0, sysconfig.get_path('platlib'): 0, site.getusersitepackages(): 0}: print(path)";
    let python = program(PYTHON).ok_or_else(|| format!("{PYTHON}: not on the PATH"))?;
    match isolated(&python).args(["-c", QUESTION]).output() {
        Ok(answer) if answer.status.success() => {
            let folders = String::from_utf8_lossy(&answer.stdout).lines().map(PathBuf::from).collect::<Vec<_>>();
            Ok(folders.into_iter().filter(|folder| folder.is_absolute()).collect())
        }
        _ => Err(format!("{}: did not tell its package folders", python.display())),
    }
}

/// A call of Python that runs nothing from the current folder or from where variables point: isolated (`-I`), in the root
/// folder, without `PYTHON…` variables, which some modules read all the same, and without relative entries in `PATH`.
pub fn isolated(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg("-I").current_dir(neutral_folder(python)).env("PATH", absolute_path());
    let of_python = |name: &OsStr| name.to_string_lossy().to_uppercase().starts_with("PYTHON");
    for (name, _) in env::vars_os().filter(|(name, _)| of_python(name)) {
        command.env_remove(name);
    }
    command
}

/// The root of the file system that `program` is in; nobody but the administrator puts anything there.
fn neutral_folder(program: &Path) -> &Path {
    program.ancestors().last().unwrap_or(program)
}

/// The file that a name on `PATH` stands for.
pub fn program(name: &str) -> Option<PathBuf> {
    let name = format!("{name}{}", env::consts::EXE_SUFFIX);
    path_entries().into_iter().map(|folder| folder.join(&name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    let Ok(meta) = fs::metadata(file) else { return false };
    #[cfg(unix)]
    let runs = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let runs = true;
    meta.is_file() && runs
}

/// `PATH` without its relative entries.
pub fn absolute_path() -> OsString {
    env::join_paths(path_entries()).unwrap_or_default()
}

fn path_entries() -> Vec<PathBuf> {
    absolute_entries("PATH")
}

fn absolute_entries(name: &str) -> Vec<PathBuf> {
    let paths = variable(name).unwrap_or_default();
    env::split_paths(&paths).filter(|folder| folder.is_absolute()).collect()
}

/// Where the system's loader looks, as far as the folders exist.
pub fn system() -> Vec<PathBuf> {
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
    let multiarch = cfg!(target_os = "linux").then(|| PathBuf::from(format!("/usr/lib/{}-linux-gnu", env::consts::ARCH)));
    let folders = absolute_entries(variable).into_iter().chain(multiarch).chain(usual.iter().map(PathBuf::from));
    folders.filter(|folder| folder.is_dir()).collect()
}
