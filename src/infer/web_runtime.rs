//! The files of onnxruntime-web, which run a generator in a browser: fetched by npm, by checksum, or taken from a folder.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256, Sha512};

use super::search_paths;
use crate::contract::hex;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;

/// The version of onnxruntime-web that pages are made with and tested with.
pub const VERSION: &str = "1.30.0";
/// The checksum of the package, as npm's registry gives it.
const INTEGRITY: &str = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==";
/// The most bytes of the package, or of a file in it.
const MOST_BYTES: u64 = 128 << 20;

/// Where the files of onnxruntime-web come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebRuntime {
    /// npm fetches [`VERSION`] from its registry; it must have the checksum that stands in this library.
    Npm,
    /// They lie in this folder: the unpacked package, its `dist`, a folder with `node_modules`, or another page. Another version than
    /// [`VERSION`] is taken, and told.
    Folder(PathBuf),
}

/// What runs a generator in a browser, on one kind of processor.
pub(super) struct WebEngine {
    /// onnxruntime-web's name of the provider.
    pub provider: &'static str,
    /// What people call it.
    pub name: &'static str,
    /// The module that is imported.
    pub entry: WebFile,
    /// The module that it loads the library with.
    pub glue: WebFile,
    /// The library.
    pub library: WebFile,
}

/// A file of the package.
pub(super) struct WebFile {
    /// Its name in the package's `dist`.
    name: &'static str,
    sha256: &'static str,
}

/// On the processor, with SIMD instructions.
pub(super) const WASM: WebEngine = WebEngine {
    provider: "wasm",
    name: "WebAssembly",
    entry: WebFile { name: "ort.wasm.min.mjs", sha256: "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b" },
    glue: WebFile {
        name: "ort-wasm-simd-threaded.mjs",
        sha256: "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    },
    library: WebFile {
        name: "ort-wasm-simd-threaded.wasm",
        sha256: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
};

/// On the graphics processor.
pub(super) const WEBGPU: WebEngine = WebEngine {
    provider: "webgpu",
    name: "WebGPU",
    entry: WebFile { name: "ort.webgpu.min.mjs", sha256: "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0" },
    glue: WebFile {
        name: "ort-wasm-simd-threaded.asyncify.mjs",
        sha256: "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
    },
    library: WebFile {
        name: "ort-wasm-simd-threaded.asyncify.wasm",
        sha256: "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
    },
};

impl WebEngine {
    fn files(&self) -> [&WebFile; 3] {
        [&self.entry, &self.glue, &self.library]
    }
}

impl WebFile {
    /// Its name in a page. Many servers do not know that `.mjs` is JavaScript, and browsers then refuse it.
    pub fn in_page(&self) -> String {
        self.name.strip_suffix(".mjs").map_or(self.name.to_string(), |stem| format!("{stem}.js"))
    }

    /// Its path in a folder, where it may have its name in a page.
    fn found_in(&self, folder: &Path) -> PathBuf {
        let [package, page] = [folder.join(self.name), folder.join(self.in_page())];
        if !package.exists() && page.exists() { page } else { package }
    }
}

impl WebRuntime {
    /// The files of some engines, by their names in a page.
    ///
    /// # Errors
    /// When npm is missing or fails, a checksum differs, or a file is not in the folder.
    pub(super) fn files(&self, engines: &[&WebEngine], progress: &dyn Progress) -> Result<Vec<(String, Vec<u8>)>> {
        let wanted: Vec<&WebFile> = engines.iter().flat_map(|engine| engine.files()).collect();
        let contents = match self {
            Self::Npm => {
                progress.say(&format!("npm fetches onnxruntime-web {VERSION}"));
                unpacked(&fetched()?, &wanted)?
            }
            Self::Folder(folder) => {
                let folder = dist(folder)?;
                let read = |file: &&WebFile| files::read(&file.found_in(&folder), MOST_BYTES);
                wanted.iter().map(read).collect::<Result<Vec<_>>>()?
            }
        };
        let others = wanted.iter().zip(&contents).any(|(file, bytes)| hex(&Sha256::digest(bytes)) != file.sha256);
        if others {
            progress.say(&format!("note: this is not onnxruntime-web {VERSION}, with which pages are tested"));
        }
        Ok(wanted.iter().map(|file| file.in_page()).zip(contents).collect())
    }
}

/// The folder with the package's files.
fn dist(folder: &Path) -> Result<PathBuf> {
    let places = ["", "dist", "package/dist", "node_modules/onnxruntime-web/dist", "onnxruntime-web"];
    let found = places.iter().map(|place| folder.join(place)).find(|place| place.join(WASM.library.name).is_file());
    found.ok_or_else(|| {
        let what = format!("no {} lies in it, in its dist or in its node_modules", WASM.library.name);
        let hint = format!("Name the folder of onnxruntime-web {VERSION}, or let npm fetch it: `WebRuntime::Npm`.");
        Error::invalid_file(folder, what, hint)
    })
}

const OTHER_WAY: &str = "Mend that, or fetch it elsewhere and name its folder: `WebRuntime::Folder`.";

/// The package as npm fetches it, whose checksum is the one that stands here.
fn fetched() -> Result<Vec<u8>> {
    let npm = search_paths::program("npm")
        .ok_or_else(|| Error::Runtime(format!("there is no npm on PATH to fetch onnxruntime-web with. {OTHER_WAY}")))?;
    let work = tempfile::tempdir().map_err(Error::io("create a folder in", &std::env::temp_dir()))?;
    // A package of its own: else npm takes the settings of one in a folder above.
    files::write_atomic(&work.path().join("package.json"), b"{}")?;
    let output = Command::new(&npm)
        .args(["pack", "--loglevel=error", "--ignore-scripts", "--pack-destination=."])
        .arg(format!("onnxruntime-web@{VERSION}"))
        .current_dir(work.path())
        .env("PATH", search_paths::absolute_path())
        .output()
        .map_err(|e| Error::Runtime(format!("cannot run {} to fetch onnxruntime-web: {e}. {OTHER_WAY}", npm.display())))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect();
        return Err(Error::Runtime(format!("npm could not fetch onnxruntime-web: {}. {OTHER_WAY}", lines.join(" / "))));
    }
    let package = files::read(&work.path().join(format!("onnxruntime-web-{VERSION}.tgz")), MOST_BYTES)?;
    check_integrity(&package)?;
    Ok(package)
}

fn check_integrity(package: &[u8]) -> Result<()> {
    let sum = format!("sha512-{}", STANDARD.encode(Sha512::digest(package)));
    if sum == INTEGRITY {
        return Ok(());
    }
    let what = format!("npm fetched onnxruntime-web {VERSION}, but its checksum is {sum} instead of {INTEGRITY}");
    Err(Error::Runtime(format!(
        "{what}: it was changed on its way, or the registry has another one. Nothing of it was used. {OTHER_WAY}"
    )))
}

/// Some files of the package, in their order.
fn unpacked(package: &[u8], wanted: &[&WebFile]) -> Result<Vec<Vec<u8>>> {
    let place = "onnxruntime-web's package";
    let broken = |e: std::io::Error| Error::invalid(place, e.to_string(), OTHER_WAY);
    let mut found = vec![None; wanted.len()];
    let mut archive = tar::Archive::new(GzDecoder::new(package));
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let is_it = |file: &&WebFile| path == Path::new("package/dist").join(file.name);
        if let Some(at) = wanted.iter().position(is_it) {
            let mut bytes = Vec::new();
            entry.take(MOST_BYTES).read_to_end(&mut bytes).map_err(broken)?;
            found[at] = Some(bytes);
        }
    }
    let file = |(bytes, file): (Option<Vec<u8>>, &&WebFile)| {
        bytes.ok_or_else(|| Error::invalid(place, format!("it has no {}", file.name), OTHER_WAY))
    };
    found.into_iter().zip(wanted).map(file).collect()
}
