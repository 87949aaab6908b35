//! An ONNX file and sessions of it, whatever the network does: generators and feature models stand on this.

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use ort::ep::{CUDA, cuda::ConvAlgorithmSearch};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, ValueType};
use prost::Message;
use sha2::{Digest, Sha256};

use super::generator::Provider;
use super::runtime;
use crate::contract;
use crate::error::{Error, Result};
use crate::files;

/// An ONNX file, with its weights or with files beside it that hold them, as `torch.onnx.export` writes by default.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// Stands for it in messages; the path of a file.
    pub name: String,
    pub bytes: Cow<'static, [u8]>,
    /// The whole path of the file, if it is one.
    path: Option<PathBuf>,
    weights: Vec<String>,
    convolutional: bool,
}

impl Model {
    /// Reads a file, and looks whether all that belongs to it is there.
    pub fn read(path: &Path) -> Result<Self> {
        let mut model = Self::of(path.display().to_string(), files::read(path, files::LARGE)?.into())?;
        let path = std::path::absolute(path).map_err(Error::io("read", path))?;
        for name in &model.weights {
            let file = path.with_file_name(name);
            let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !plain || !file.is_file() {
                return Err(Error::invalid(
                    &model.name,
                    format!(
                        "its weights are in another file, {name}, which is not {}",
                        if plain { "there" } else { "beside it" }
                    ),
                    "Copy that file, too; or export the model into one file (torch.onnx.export(…, external_data=False)).",
                ));
            }
        }
        model.path = Some(path);
        Ok(model)
    }

    /// A model in memory.
    pub fn in_memory(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let model = Self::of(name.to_string(), bytes.into())?;
        match model.weights.first() {
            Some(file) => Err(Error::invalid(
                name,
                format!("its weights are in another file, {file}"),
                "Open it by its path; or export it into one file.",
            )),
            None => Ok(model),
        }
    }

    fn of(name: String, bytes: Cow<'static, [u8]>) -> Result<Self> {
        check_bytes(&name, &bytes)?;
        contract::check_seal(&name, &bytes)?;
        // What is no model at all, onnxruntime says best.
        let graph = proto::Model::decode(&*bytes).ok().and_then(|model| model.graph).unwrap_or_default();
        let convolutional = graph.node.iter().any(|node| node.op_type.contains("Conv"));
        Ok(Self { name, bytes, path: None, weights: external_files(graph), convolutional })
    }

    /// Whether the graph has convolutions, transposed ones included.
    pub fn is_convolutional(&self) -> bool {
        self.convolutional
    }

    /// SHA-256 of the file, or of it and the files with its weights, one after another; in hexadecimal.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(&self.bytes);
        for name in &self.weights {
            let path = self.path.as_deref().unwrap_or(Path::new("")).with_file_name(name);
            hash.update(files::read(&path, files::LARGE)?);
        }
        Ok(contract::hex(&hash.finalize()))
    }

    /// A session with one thread: the sessions are what runs in parallel. With `tf32` CUDA may round as TF32 does.
    pub fn session(&self, provider: Provider, tf32: bool) -> Result<Session> {
        let mut builder = Session::builder(runtime::environment()?)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?;
        if let Provider::Cuda(index) = provider {
            runtime::preload_cuda()?;
            // No benchmark of every algorithm: its choice could differ from session to session.
            let cuda = CUDA::default()
                .with_device_id(index as i32)
                .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
                .with_tf32(tf32);
            builder = builder.with_execution_providers([cuda.build().error_on_failure()])?;
        }
        match &self.path {
            // Only so does every onnxruntime find them.
            Some(path) if !self.weights.is_empty() => Ok(builder.commit_from_file(path)?),
            _ => Ok(builder.commit_from_memory(&self.bytes)?),
        }
    }

    /// The first session, the provider it runs on, and what the user should know about that choice.
    pub fn start(&self, provider: Provider, tf32: bool) -> Result<(Session, Provider, Vec<String>)> {
        let library = runtime::load()?;
        let cannot_load = |e: Error| {
            Error::invalid(
                &self.name,
                format!("onnxruntime {} cannot load it: {}", library.version, one_line(&e)),
                "If the file is whole, it may need a newer onnxruntime; else copy or export it again.",
            )
        };
        let on_cpu = || self.session(Provider::Cpu, tf32).map_err(cannot_load);
        let offered = provider != Provider::Cpu && runtime::offers_cuda()?;
        match provider {
            Provider::Cuda(_) if !offered => Err(Error::Runtime(format!(
                "the CUDA provider was asked for, but onnxruntime {} at {} has none. Run `gan-infer runtime install --cuda`, or \
                 use --provider cpu.",
                library.version,
                library.path.display()
            ))),
            Provider::Cuda(_) => match self.session(provider, tf32) {
                Ok(session) => Ok((session, provider, Vec::new())),
                Err(on_gpu) => {
                    on_cpu()?; // a broken file is not the provider's fault
                    Err(Error::Runtime(format!(
                        "the CUDA provider of onnxruntime {} at {} does not start on {provider}: {}. Check the driver with \
                         nvidia-smi; `gan-infer runtime install --cuda` fetches the CUDA libraries; --provider cpu does \
                         without.",
                        library.version,
                        library.path.display(),
                        one_line(&on_gpu)
                    )))
                }
            },
            Provider::Auto if offered => match self.session(Provider::Cuda(0), tf32) {
                Ok(session) => Ok((session, Provider::Cuda(0), Vec::new())),
                Err(e) => {
                    let note = format!("using the CPU: the CUDA provider does not start: {}", one_line(&e));
                    Ok((on_cpu()?, Provider::Cpu, vec![note]))
                }
            },
            Provider::Auto | Provider::Cpu => Ok((on_cpu()?, Provider::Cpu, Vec::new())),
        }
    }
}

/// What can be said of a wrong file without onnxruntime.
fn check_bytes(name: &str, bytes: &[u8]) -> Result<()> {
    let what = if bytes.is_empty() {
        "the file is empty"
    } else if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::invalid(name, "a Git LFS pointer, not the model itself", "Fetch it with `git lfs pull`."));
    } else if bytes.iter().take(512).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        "a text file, not an ONNX model"
    } else {
        return Ok(());
    };
    Err(Error::invalid(name, what, "Give an ONNX file, such as `gan-train export` writes."))
}

/// What onnx.proto says of operators and of weights in other files; all else is skipped.
mod proto {
    #[derive(prost::Message)]
    pub struct Model {
        #[prost(message, optional, tag = "7")]
        pub graph: Option<Graph>,
    }

    #[derive(prost::Message)]
    pub struct Graph {
        #[prost(message, repeated, tag = "1")]
        pub node: Vec<Node>,
        #[prost(message, repeated, tag = "5")]
        pub initializer: Vec<Tensor>,
    }

    #[derive(prost::Message)]
    pub struct Node {
        #[prost(string, tag = "4")]
        pub op_type: String,
    }

    #[derive(prost::Message)]
    pub struct Tensor {
        #[prost(message, repeated, tag = "13")]
        pub external_data: Vec<Entry>,
    }

    #[derive(prost::Message)]
    pub struct Entry {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }
}

/// The files that hold weights of a model, each once, as it names them.
fn external_files(graph: proto::Graph) -> Vec<String> {
    let entries = graph.initializer.into_iter().flat_map(|tensor| tensor.external_data);
    let mut files: Vec<String> = entries.filter(|entry| entry.key == "location").map(|entry| entry.value).collect();
    files.sort();
    files.dedup();
    files
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
