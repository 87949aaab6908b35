//! An ONNX file and sessions of it, whatever the network does: generators and feature models stand on this.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{Outlet, TensorElementType, ValueType};
use sha2::{Digest, Sha256};

use super::inspect::{self, Inspected};
use super::limits::hint;
use super::precision::Precision;
use super::provider::{Provider, SessionOptions};
use super::runtime;
use crate::contract;
use crate::error::{Error, OrtResult, Result};
use crate::files;
use crate::text;

/// An ONNX file that has passed [`inspect`], with the weights that lie in files beside it, as `torch.onnx.export` writes by default.
/// A clone shares the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// Stands for it in messages; the path of a file.
    pub name: String,
    content: Arc<Content>,
}

#[derive(Debug)]
struct Content {
    /// The file as it is.
    bytes: Cow<'static, [u8]>,
    /// The file with the weights of other files in it, if there are any, and the hash of it and them.
    whole: Option<(Vec<u8>, String)>,
    convolutional: bool,
    precision: Precision,
}

impl Model {
    /// Reads a file and what belongs to it, all of it once: later changes of the files change nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let name = text::path(path);
        let bytes = files::read(path, inspect::MOST_BYTES)?;
        let seen = look_at(&name, &bytes)?;
        let weights = read_weights(&name, path, bytes.len(), &seen)?;
        let whole = if weights.is_empty() {
            None
        } else {
            Some((inspect::inline(&name, &bytes, &seen, &weights)?, sha256(&bytes, weights.values())))
        };
        let content = Content { bytes: bytes.into(), whole, convolutional: seen.convolutional, precision: seen.precision };
        Ok(Self { name, content: Arc::new(content) })
    }

    /// A model in memory.
    pub fn in_memory(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        let seen = look_at(name, &bytes)?;
        if let Some(file) = seen.files().first() {
            return Err(Error::invalid(
                name,
                format!("its weights are in another file, {}", file.escape_debug()),
                "Open it by its path; or export it into one file.",
            ));
        }
        let content = Content { bytes, whole: None, convolutional: seen.convolutional, precision: seen.precision };
        Ok(Self { name: name.to_string(), content: Arc::new(content) })
    }

    /// The file as it is.
    pub fn bytes(&self) -> &[u8] {
        &self.content.bytes
    }

    /// The file as it runs: with the weights of other files in it.
    pub fn whole_bytes(&self) -> &[u8] {
        self.content.whole.as_ref().map_or(&self.content.bytes, |(whole, _)| whole)
    }

    /// Whether the graph has convolutions, transposed ones included.
    pub fn is_convolutional(&self) -> bool {
        self.content.convolutional
    }

    /// What the graph computes with.
    pub fn precision(&self) -> Precision {
        self.content.precision
    }

    /// SHA-256 of the file, or of it and the files with its weights, one after another; in hexadecimal. Of the bytes that run.
    pub fn sha256(&self) -> String {
        match &self.content.whole {
            Some((_, hash)) => hash.clone(),
            None => sha256(&self.content.bytes, []),
        }
    }

    /// A session with one thread: the sessions are what runs in parallel.
    pub fn session(&self, provider: Provider, options: SessionOptions) -> Result<Session> {
        self.commit(self.builder(provider, options)?)
    }

    fn builder(&self, provider: Provider, options: SessionOptions) -> Result<SessionBuilder> {
        let builder = Session::builder(runtime::environment()?)
            .ort()?
            .with_optimization_level(GraphOptimizationLevel::All)
            .ort()?
            .with_intra_threads(1)
            .ort()?
            .with_inter_threads(1)
            .ort()?;
        provider.register(builder, options, || self.sha256())
    }

    fn commit(&self, mut builder: SessionBuilder) -> Result<Session> {
        builder.commit_from_memory(self.whole_bytes()).ort()
    }

    /// The first session on a provider, and a note if that does not do all of the work.
    fn first_session(&self, provider: Provider, options: SessionOptions) -> Result<(Session, Option<String>)> {
        if !provider.should_work_alone() {
            return Ok((self.session(provider, options)?, None));
        }
        let alone = self.builder(provider, options)?.with_disable_cpu_fallback().ort()?;
        match self.commit(alone) {
            Ok(session) => Ok((session, None)),
            Err(_) => {
                let session = self.session(provider, options)?;
                let note = format!("{provider} does not take all operations of this model: the CPU provider runs the others");
                Ok((session, Some(note)))
            }
        }
    }

    /// The first session, the provider it runs on, and what the user should know about that choice.
    pub fn start(&self, provider: Provider, options: SessionOptions) -> Result<(Session, Provider, Vec<String>)> {
        let library = runtime::load()?;
        let cannot_load = |e: Error| {
            Error::invalid(
                &self.name,
                format!("onnxruntime {} cannot load it: {}", library.version, one_line(&e)),
                hint(&e, "If the file is whole, it may need a newer onnxruntime; else copy or export it again."),
            )
        };
        let on_cpu = || self.session(Provider::Cpu, options).map_err(cannot_load);
        let preferred = provider.preferred();
        let mut notes = Vec::new();
        if preferred != Provider::Cpu && preferred.is_offered()? {
            match self.first_session(preferred, options) {
                Ok((session, note)) => return Ok((session, preferred, note.into_iter().collect())),
                Err(e) if provider == Provider::Auto => {
                    notes.push(format!("using the CPU: the CUDA provider does not start: {}", one_line(&e)));
                }
                Err(e) => {
                    on_cpu()?; // a broken file is not the provider's fault
                    return Err(provider.not_started(library, &one_line(&e)));
                }
            }
        } else if !matches!(provider, Provider::Auto | Provider::Cpu) {
            return Err(provider.not_offered(library));
        }
        Ok((on_cpu()?, Provider::Cpu, notes))
    }
}

/// What can be said of a wrong file without onnxruntime.
fn check_bytes(name: &str, bytes: &[u8]) -> Result<()> {
    let what = if bytes.is_empty() {
        "the file is empty"
    } else if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::invalid(name, "a Git LFS pointer, not the model itself", "Fetch it with `git lfs pull`."));
    } else if bytes.starts_with(b"PK\x03\x04") {
        let hint = "If it holds a generator's weights (.pth), export it first: `export::export(file)`.";
        return Err(Error::invalid(name, "a zip archive, as PyTorch's checkpoints are, not an ONNX model", hint));
    } else if bytes.iter().take(512).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "a text file, not an ONNX model"
    } else {
        return Ok(());
    };
    Err(Error::invalid(name, what, "Give an ONNX file, such as `export::export` writes."))
}

/// All that can be said of a file without onnxruntime, which is loaded after it.
fn look_at(name: &str, bytes: &[u8]) -> Result<Inspected> {
    check_bytes(name, bytes)?;
    contract::check_seal(name, bytes)?;
    inspect::inspect(name, bytes)
}

/// Reads any bytes as an ONNX file at this path, as far as that goes without onnxruntime: for fuzzing.
#[doc(hidden)]
pub fn look_at_file(path: &Path) -> Result<()> {
    Model::read(path).map(drop)
}

fn sha256<'a>(file: &[u8], others: impl IntoIterator<Item = &'a Vec<u8>>) -> String {
    let mut hash = Sha256::new();
    hash.update(file);
    others.into_iter().for_each(|bytes| hash.update(bytes));
    contract::hex(&hash.finalize())
}

/// The files that hold weights of the model at `path`, by the names that it gives them.
fn read_weights(name: &str, path: &Path, length: usize, seen: &Inspected) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut left = inspect::MOST_BYTES.saturating_sub(length as u64);
    let mut all = BTreeMap::new();
    for file in seen.files() {
        // Its type and size are looked at before it is read.
        let bytes = files::read(&beside(name, path, file)?, left).map_err(|e| match e {
            Error::Invalid { place, what, hint } => {
                Error::invalid(name, format!("its weights are in another file, {place}: {what}"), hint)
            }
            other => other,
        })?;
        left -= bytes.len() as u64;
        all.insert(file.to_string(), bytes);
    }
    Ok(all)
}

/// The real path of a file that the model at `path` names: in the model's folder or below it, wherever links lead. Where the model
/// itself is a link, as in the cache of a model hub, its folder is also the one that it really lies in.
fn beside(name: &str, path: &Path, file: &str) -> Result<PathBuf> {
    let wrong = |what: &str| {
        Error::invalid(
            name,
            format!("its weights are in another file, {}, which is not {what}", file.escape_debug()),
            "Copy that file, too; or export the model into one file (torch.onnx.export(…, external_data=False)).",
        )
    };
    // What a Windows path means by them, no model may mean here.
    let plain = Path::new(file).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || file.contains(['\\', ':', '\0']) {
        return Err(wrong("beside it"));
    }
    let real = |path: &Path| path.canonicalize().map_err(Error::io("read", path));
    let path = std::path::absolute(path).map_err(Error::io("read", path))?;
    let target = match path.with_file_name(file).canonicalize() {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Err(wrong("there")),
        other => other.map_err(Error::io("read", &path.with_file_name(file)))?,
    };
    let folders = [path.parent().map(real).transpose()?, real(&path)?.parent().map(Path::to_path_buf)];
    if folders.iter().flatten().any(|folder| target.starts_with(folder)) {
        Ok(target)
    } else {
        Err(wrong("beside it: a link leads elsewhere"))
    }
}

/// What onnxruntime said, to be put into a sentence.
pub(crate) fn one_line(error: &Error) -> String {
    let text = match error {
        Error::Ort(text) => text.clone(),
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_string()
}

/// The input or output of a graph, as the file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub name: String,
    pub element: TensorElementType,
    /// -1 where the size is left open.
    pub dims: Vec<i64>,
}

impl Port {
    /// With `batch` rows.
    pub fn of(&self, batch: usize) -> Self {
        let dims = std::iter::once(batch as i64).chain(self.dims.iter().skip(1).copied()).collect();
        Self { dims, ..self.clone() }
    }

    /// How to set a generator's session up for runs with this input.
    pub fn session_options(&self, tf32: bool) -> SessionOptions<'_> {
        SessionOptions { tf32, f16: true, input: Some((&self.name, &self.dims)) }
    }

    /// Bytes of all its elements; sizes that are left open count as 1.
    pub fn bytes(&self) -> u64 {
        let element = self.element.byte_size(1).unwrap_or(1) as u64;
        self.dims.iter().fold(element, |all, &dim| all.saturating_mul(u64::try_from(dim).unwrap_or(1)))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims = self.dims.iter().map(|&dim| if dim < 0 { "n".to_string() } else { dim.to_string() });
        write!(f, "{}: {} [{}]", self.name, self.element, dims.collect::<Vec<_>>().join(", "))
    }
}

pub(crate) fn one_port(name: &str, what: &str, all: &[Outlet], expected: &str) -> Result<Port> {
    let [outlet] = all else {
        let names: Vec<&str> = all.iter().map(Outlet::name).collect();
        return Err(Error::invalid(name, format!("it has {} {what}s ({})", all.len(), names.join(", ")), expected));
    };
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => Ok(Port { name: outlet.name().to_string(), element: *ty, dims: shape.to_vec() }),
        _ => Err(Error::invalid(name, format!("its {what} {} is not a tensor", outlet.name()), expected)),
    }
}
