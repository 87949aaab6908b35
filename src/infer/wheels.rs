//! Fetches onnxruntime's package with pip, pinned by hashes, and looks at what arrived before anything of it is opened.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::search_paths;
use crate::error::{Error, Result};
use crate::files;

/// An onnxruntime that [`install`](super::install()) can fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Package {
    /// With the CPU provider alone.
    #[default]
    Cpu,
    /// With the CUDA and TensorRT providers, and NVIDIA's libraries for the former: some gigabytes.
    Cuda,
    /// With OpenVINO and its provider, for Linux on x86-64 and Python 3.10 to 3.13: a quarter of a gigabyte.
    OpenVino,
}

impl Package {
    /// The pinned packages, with the hashes of all their wheels: one that has another is refused by pip.
    fn requirements(self) -> &'static str {
        match self {
            Self::Cpu => include_str!("onnxruntime.txt"),
            Self::Cuda => include_str!("onnxruntime-cuda.txt"),
            Self::OpenVino => include_str!("onnxruntime-openvino.txt"),
        }
    }

    /// What is fetched.
    pub(super) fn contents(self) -> &'static str {
        match self {
            Self::Cpu => "onnxruntime",
            Self::Cuda => "onnxruntime-gpu and NVIDIA's CUDA libraries",
            Self::OpenVino => "onnxruntime-openvino",
        }
    }

    /// Where there are wheels of it, if that is not everywhere.
    pub(super) fn limits(self) -> &'static str {
        match self {
            Self::Cpu | Self::Cuda => "",
            Self::OpenVino => "It is there for Linux on x86-64 and Python 3.10 to 3.13 only. ",
        }
    }
}

/// pip as Python runs it in isolation, where the user's own packages, among which pip may be, are left out.
const PIP: &str = "import runpy, site, sys\n\
    sys.path.append(site.getusersitepackages())\n\
    runpy.run_module('pip', run_name='__main__', alter_sys=True)";

/// Has pip put an onnxruntime into the folder `target`, which must be absolute. `work` is a folder for passing files.
///
/// # Errors
/// When there is no Python with pip, pip fails, a hash differs, or a file in `target` is not as its package recorded it. The
/// message ends with `other_ways`.
pub fn fetch(package: Package, target: &Path, work: &Path, other_ways: &str) -> Result<()> {
    let requirements = work.join("requirements.txt");
    files::write_atomic(&requirements, package.requirements().as_bytes())?;
    run_pip(&requirements, target, other_ways)?;
    check_files(target)
}

fn run_pip(requirements: &Path, target: &Path, other_ways: &str) -> Result<()> {
    const INSTALL: [&str; 9] = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-compile",
        "--no-deps", // the libraries need nothing of Python
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
    ];
    let name = search_paths::PYTHON;
    let python = search_paths::program(name);
    let python =
        python.ok_or_else(|| Error::Runtime(format!("there is no {name} on PATH to fetch onnxruntime with. {other_ways}")))?;
    let output = search_paths::isolated(&python)
        .args(["-c", PIP])
        .args(INSTALL)
        .arg(requirements)
        .arg("--target")
        .arg(target)
        // A user's settings for installing elsewhere do not go with --target.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .output()
        .map_err(|e| Error::Runtime(format!("cannot run {} to fetch onnxruntime: {e}. {other_ways}", python.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("DO NOT MATCH THE HASHES") {
        let what =
            "the hash of a wheel is not the pinned one: it was changed on its way, or the index has another file of that name";
        return Err(Error::Runtime(format!("pip fetched onnxruntime, but {what}. Nothing of it was opened. {other_ways}")));
    }
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join(" / ");
    Err(Error::Runtime(format!("{name} -m pip could not fetch onnxruntime: {last}. {other_ways}")))
}

/// Compares every file in the packages' folders with what the packages record of it. pip looks at the hash of each wheel, not
/// at what lies there afterwards.
///
/// # Errors
/// When a file differs, is of no package, or cannot be read; when there is none.
pub fn check_files(folder: &Path) -> Result<()> {
    let known = records(folder)?;
    let mut all = Vec::new();
    for room in folders_in(folder)? {
        // pip writes the programs in there itself; nothing here runs them.
        if !["bin", "Scripts"].iter().any(|name| room.file_name() == Some(name.as_ref())) {
            files_below(&room, &mut all)?;
        }
    }
    // A record has no hash of itself.
    all.retain(|file| !is_record(file));
    if all.is_empty() {
        return Err(Error::invalid_file(folder, "pip has put nothing there", "Run it again."));
    }
    for file in all {
        let recorded = file.strip_prefix(folder).ok().and_then(|name| known.get(name));
        if !recorded.is_some_and(|hashes| hash(&file).is_ok_and(|hash| hashes.contains(&hash))) {
            let what = "it is not as its Python package recorded it, so it was changed or cut short";
            return Err(Error::invalid_file(&file, what, "Nothing of it was opened. Run it again, and look at the disk."));
        }
    }
    Ok(())
}

fn is_record(file: &Path) -> bool {
    let room = file.parent().and_then(Path::extension);
    file.file_name() == Some("RECORD".as_ref()) && room == Some("dist-info".as_ref())
}

/// The hashes of the `RECORD` of each package, by file; a file of several packages may have several.
fn records(folder: &Path) -> Result<HashMap<PathBuf, HashSet<String>>> {
    let mut known: HashMap<PathBuf, HashSet<String>> = HashMap::new();
    let packages = folders_in(folder)?.into_iter().filter(|room| room.extension() == Some("dist-info".as_ref()));
    for record in packages.map(|room| room.join("RECORD")).filter(|record| record.is_file()) {
        let text = files::read(&record, files::TEXT)?;
        for line in String::from_utf8_lossy(&text).lines() {
            // PATH,sha256=HASH,SIZE; a path with a comma is in quotes.
            let mut fields = line.rsplitn(3, ',');
            let (Some(_size), Some(hash), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
            let path = Path::new(path.trim_matches('"'));
            let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
            if let Some(hash) = hash.strip_prefix("sha256=").filter(|_| inside) {
                known.entry(path.to_path_buf()).or_default().insert(hash.to_string());
            }
        }
    }
    Ok(known)
}

fn folders_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::io("read", folder)));
    paths.filter(|path| path.as_ref().map_or(true, |path| path.is_dir())).collect()
}

/// Everything below a folder that is not itself one; links are not followed.
fn files_below(folder: &Path, all: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.file_type().map_err(Error::io("read", folder))?.is_dir() {
            files_below(&entry.path(), all)?
        } else {
            all.push(entry.path())
        }
    }
    Ok(())
}

/// The SHA-256 of a file as `RECORD` writes it. They are large: by pieces.
fn hash(path: &Path) -> std::io::Result<String> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(URL_SAFE_NO_PAD.encode(hash.finalize())),
            length => hash.update(&piece[..length]),
        }
    }
}
