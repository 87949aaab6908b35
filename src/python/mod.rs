//! The generator for Python: the module `ganforge._ganforge`, which `ganforge/` beside this file wraps and describes (`.pyi`).
//!
//! While images are made, Python's lock is free: other threads go on, and make images, too.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use numpy::{AllowTypeChange, PyArray2, PyArray4, PyArrayLikeDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyMemoryError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::error::{Error, Result};
use crate::infer::selection::{MAX_INDEX, span};
use crate::infer::{Batches, Conditioning, Generator, Options, builtin, runtime};
use crate::latent::Latent;

/// An open generator; see `_ganforge.pyi`.
#[pyclass(name = "Generator", module = "ganforge", frozen)]
struct PyGenerator {
    generator: Arc<Generator>,
    /// How to open it again: in another process.
    opened_with: (Option<Py<PyAny>>, Py<PyDict>),
}

#[pymethods]
impl PyGenerator {
    #[new]
    #[pyo3(signature = (
        model = None, *, provider = "auto", precision = "auto", batch = None, threads = None, range = None, tf32 = false,
        load_timeout = None, batch_memory = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "Python has names for them")]
    fn new(
        py: Python,
        model: Option<Bound<PyAny>>,
        provider: &str,
        precision: &str,
        batch: Option<usize>,
        threads: Option<usize>,
        range: Option<&str>,
        tf32: bool,
        load_timeout: Option<f64>,
        batch_memory: Option<u64>,
    ) -> PyResult<Self> {
        let wrong = |name: &str, value: &str, expected: String| {
            raised(py, Error::usage(format!("`{name}` '{value}': {expected}"), "Name one of these."))
        };
        let mut options = Options::default().tf32(tf32);
        options.provider = provider.parse().map_err(|expected| wrong("provider", provider, expected))?;
        options.precision = precision.parse().map_err(|expected| wrong("precision", precision, expected))?;
        if let Some(name) = range {
            options.range = Some(name.parse().map_err(|expected| wrong("range", name, expected))?);
        }
        if let Some(seconds) = load_timeout {
            let what = format!("`load_timeout` {seconds} is no number of seconds");
            let wrong = |_| raised(py, Error::usage(what, "Give one from 0 (no limit) on, or None for what serves."));
            options.load_timeout = Some(Duration::try_from_secs_f64(seconds).map_err(wrong)?);
        }
        (options.batch, options.threads, options.batch_memory) = (batch, threads, batch_memory);
        let named = model.as_ref().map(|model| Named::of(model)).transpose()?;
        find_runtime(py)?;
        let generator = detached(py, || match named {
            None => builtin::open(None, &options),
            Some(Named::Bytes(bytes)) => Generator::from_bytes("the model in memory", bytes, &options),
            // A path object is a path, a text may be the name of a built-in generator.
            Some(Named::Path(path)) => Generator::open(path, &options),
            Some(Named::Text(name)) => builtin::open(Some(&name), &options),
        })?;
        let flags = PyDict::new(py);
        flags.set_item("provider", provider)?;
        flags.set_item("precision", precision)?;
        flags.set_item("batch", batch)?;
        flags.set_item("threads", threads)?;
        flags.set_item("range", range)?;
        flags.set_item("tf32", tf32)?;
        flags.set_item("load_timeout", load_timeout)?;
        flags.set_item("batch_memory", batch_memory)?;
        Ok(Self { generator: Arc::new(generator), opened_with: (model.map(Bound::unbind), flags.unbind()) })
    }

    #[pyo3(signature = (seed = 0, start = 0, n = 1, *, class_ = None, truncation = None))]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        seed: u64,
        start: u64,
        n: usize,
        class_: Option<Bound<'py, PyAny>>,
        truncation: Option<f64>,
    ) -> PyResult<Bound<'py, PyArray4<u8>>> {
        let conditioning = self.conditioning(py, class_, truncation)?;
        let wanted = span(start, n as u64).map_err(|e| raised(py, e))?;
        let [height, width, channels] = self.generator.image_shape();
        let image = height * width * channels;
        let mut pixels = Vec::new();
        let bytes = n.checked_mul(image).filter(|&bytes| pixels.try_reserve_exact(bytes).is_ok());
        let bytes = bytes.ok_or_else(|| PyMemoryError::new_err(format!("{n} images at once; use batches()")))?;
        py.detach(|| pixels.resize(bytes, 0));
        /// About a second of work for all threads, between looks whether Ctrl-C was pressed.
        const PARTS: usize = 32;
        let step = (self.generator.batch() * self.generator.threads() * PARTS) as u64; // at most 4096 · 1024 · 32
        let (mut at, end) = (wanted.start, wanted.end);
        while at < end {
            // Whole batches, but for the first and the last part.
            let next = (at - at % step).saturating_add(step).min(end);
            let part = &mut pixels[(at - start) as usize * image..(next - start) as usize * image];
            detached(py, || self.generator.sample_into_with(&conditioning, seed, at, part))?;
            py.check_signals()?;
            at = next;
        }
        array(py, pixels, [n, height, width, channels])
    }

    #[pyo3(signature = (z, *, class_ = None, truncation = None))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        z: PyArrayLikeDyn<'py, f32, AllowTypeChange>,
        class_: Option<Bound<'py, PyAny>>,
        truncation: Option<f64>,
    ) -> PyResult<Bound<'py, PyArray4<u8>>> {
        let conditioning = self.conditioning(py, class_, truncation)?;
        let z = self.latents_of(py, "z", &z)?;
        let images = detached(py, || self.generator.generate_with(&conditioning, &z))?;
        array(py, images.pixels, [images.n, images.height, images.width, images.channels])
    }

    #[pyo3(signature = (seed = 0, start = 0, n = 1))]
    fn latents<'py>(&self, py: Python<'py>, seed: u64, start: u64, n: usize) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let rows = detached(py, || self.generator.latents(seed, start, n))?;
        numpy::PyArray1::from_vec(py, rows).reshape([n, self.generator.latent().size])
    }

    fn interpolate<'py>(
        &self,
        py: Python<'py>,
        a: PyArrayLikeDyn<'py, f32, AllowTypeChange>,
        b: PyArrayLikeDyn<'py, f32, AllowTypeChange>,
        t: PyArrayLikeDyn<'py, f32, AllowTypeChange>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let latent = self.generator.latent();
        let (a, b) = (self.latents_of(py, "a", &a)?, self.latents_of(py, "b", &b)?);
        let t: Vec<f32> = t.as_array().iter().copied().collect();
        let rows = detached(py, || way(latent, &a, &b, &t))?;
        numpy::PyArray1::from_vec(py, rows).reshape([t.len(), latent.size])
    }

    #[pyo3(signature = (seed = 0, start = 0, n = None, size = 64, *, class_ = None, truncation = None))]
    #[expect(clippy::too_many_arguments, reason = "Python has names for them")]
    fn batches<'py>(
        &self,
        py: Python<'py>,
        seed: u64,
        start: u64,
        n: Option<u64>,
        size: usize,
        class_: Option<Bound<'py, PyAny>>,
        truncation: Option<f64>,
    ) -> PyResult<PyBatches> {
        let conditioning = self.conditioning(py, class_, truncation)?;
        let n = n.unwrap_or_else(|| MAX_INDEX.saturating_sub(start));
        Ok(PyBatches { batches: Mutex::new(Batches::new(Arc::clone(&self.generator), &conditioning, seed, start, n, size)) })
    }

    #[getter]
    fn name(&self) -> &str {
        self.generator.name()
    }

    #[getter]
    fn image_shape(&self) -> (usize, usize, usize) {
        self.generator.image_shape().into()
    }

    #[getter]
    fn latent_size(&self) -> usize {
        self.generator.latent().size
    }

    #[getter]
    fn latent_law(&self) -> &str {
        self.generator.latent().distribution.name()
    }

    #[getter]
    fn classes(&self) -> usize {
        self.generator.contract().map_or(0, |contract| contract.classes)
    }

    #[getter]
    fn class_names(&self) -> Vec<String> {
        self.generator.contract().map(|contract| contract.class_names.clone()).unwrap_or_default()
    }

    #[getter]
    fn provider(&self) -> String {
        self.generator.provider().to_string()
    }

    #[getter]
    fn precision(&self) -> &str {
        self.generator.precision().name()
    }

    #[getter]
    fn batch(&self) -> usize {
        self.generator.batch()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.generator.threads()
    }

    #[getter]
    fn notes(&self) -> Vec<String> {
        self.generator.notes().iter().map(|note| in_terms_of_python(note)).collect()
    }

    #[getter]
    fn sha256(&self, py: Python) -> PyResult<String> {
        self.generator.sha256().map_err(|e| raised(py, e))
    }

    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let told = PyDict::new(py);
        for (key, value) in self.generator.contract().iter().flat_map(|contract| contract.to_metadata()) {
            told.set_item(key, value)?;
        }
        Ok(told)
    }

    fn __repr__(&self) -> String {
        let generator = &self.generator;
        let [height, width, channels] = generator.image_shape();
        format!(
            "<ganforge.Generator {:?}: {} latents to {height} x {width} x {channels}, in {} on {}>",
            generator.name(),
            generator.latent().size,
            generator.precision(),
            generator.provider()
        )
    }

    /// For `pickle`, as loaders use it for their workers: the other process opens the model again.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (model, flags) = &self.opened_with;
        let open = py.import("ganforge")?.getattr("_open")?;
        Ok((open, (model.as_ref().map(|model| model.bind(py)), flags.bind(py)).into_pyobject(py)?))
    }
}

impl PyGenerator {
    fn conditioning(&self, py: Python, class_: Option<Bound<PyAny>>, truncation: Option<f64>) -> PyResult<Conditioning> {
        let mut conditioning = Conditioning::default();
        let class = class_.map(|class| class.str()?.extract::<String>()).transpose()?;
        let made = || -> Result<_> {
            let class = class.map(|class| self.generator.class(&class)).transpose()?;
            Ok((truncation.map(|x| self.generator.truncation(x)).transpose()?, class))
        };
        (conditioning.truncation, conditioning.class) = made().map_err(|e| raised(py, e))?;
        Ok(conditioning)
    }

    /// Latents in a row: one `[latent]`, or `[n, latent]`.
    fn latents_of(&self, py: Python, name: &str, z: &PyArrayLikeDyn<f32, AllowTypeChange>) -> PyResult<Vec<f32>> {
        let (size, shape) = (self.generator.latent().size, z.shape());
        if !matches!(shape, [last] | [_, last] if *last == size) {
            let what = format!("`{name}` has shape {shape:?}");
            return Err(raised(py, Error::usage(what, format!("Give [n, {size}], or [{size}] for one latent."))));
        }
        let mut rows = Vec::new();
        let room = rows.try_reserve_exact(z.len());
        room.map_err(|_| PyMemoryError::new_err(format!("{} latents at once; give fewer", z.len() / size)))?;
        rows.extend(z.as_array().iter().copied());
        Ok(rows)
    }
}

/// The latents at all `t` of the way from `a` to `b`, one after another.
fn way(latent: Latent, a: &[f32], b: &[f32], t: &[f32]) -> Result<Vec<f32>> {
    let mut rows = Vec::with_capacity(t.len() * latent.size);
    for &t in t {
        rows.extend(latent.interpolate(a, b, t)?);
    }
    Ok(rows)
}

/// Images of a seed, some at a time; see `_ganforge.pyi`.
#[pyclass(name = "Batches", module = "ganforge", frozen)]
struct PyBatches {
    batches: Mutex<Batches<Arc<Generator>>>,
}

#[pymethods]
impl PyBatches {
    fn __iter__(this: PyRef<Self>) -> PyRef<Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyArray4<u8>>>> {
        py.check_signals()?;
        let next = detached(py, || self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next().transpose())?;
        next.map(|images| array(py, images.pixels, [images.n, images.height, images.width, images.channels])).transpose()
    }
}

/// What a model is named by.
enum Named {
    Text(String),
    Path(PathBuf),
    Bytes(Vec<u8>),
}

impl Named {
    fn of(model: &Bound<PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = model.cast::<PyBytes>() {
            return Ok(Self::Bytes(bytes.as_bytes().to_vec()));
        }
        if let Ok(text) = model.extract::<String>() {
            return Ok(Self::Text(text));
        }
        let path = model.extract::<PathBuf>();
        path.map(Self::Path).map_err(|_| PyTypeError::new_err("`model`: expected a name, a path or the bytes of an ONNX file"))
    }
}

/// Names and descriptions of the built-in generators.
#[pyfunction]
fn builtins(py: Python) -> PyResult<Bound<PyDict>> {
    let all = PyDict::new(py);
    for known in builtin::BUILTIN {
        all.set_item(known.name, known.about)?;
    }
    Ok(all)
}

/// Loads onnxruntime; see `_ganforge.pyi`.
#[pyfunction]
#[pyo3(signature = (path = None))]
fn load_runtime(py: Python, path: Option<PathBuf>) -> PyResult<(String, PathBuf)> {
    let located = match path {
        Some(path) => detached(py, || runtime::load_from(&path))?,
        None => {
            find_runtime(py)?;
            detached(py, runtime::load)?
        }
    };
    Ok((located.version.clone(), located.path.clone()))
}

/// Loads the onnxruntime of the Python package, unless the environment names another one or one is loaded already.
fn find_runtime(py: Python) -> PyResult<()> {
    if std::env::var_os(runtime::PATH_VARIABLE).is_some_and(|path| !path.is_empty()) {
        return Ok(());
    }
    let found: Option<PathBuf> = py.import("ganforge._runtime")?.call_method0("find")?.extract()?;
    match found {
        Some(path) => detached(py, || runtime::load_from(&path)).map(drop),
        None => Ok(()),
    }
}

/// An array of what was made, without a copy.
fn array(py: Python, pixels: Vec<u8>, shape: [usize; 4]) -> PyResult<Bound<PyArray4<u8>>> {
    numpy::PyArray1::from_vec(py, pixels).reshape(shape)
}

/// Does what takes time without Python's lock.
fn detached<T: Send>(py: Python, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|e| raised(py, e))
}

/// An error as Python's: one of `ganforge._errors`.
fn raised(py: Python, error: Error) -> PyErr {
    let kind = match &error {
        Error::Usage { .. } => "UsageError",
        Error::Io { .. } => "FileError",
        Error::Invalid { .. } => "ModelError",
        _ => "RuntimeUnavailable",
    };
    let made = || py.import("ganforge._errors")?.getattr(kind)?.call1((in_terms_of_python(&error.to_string()),));
    made().map_or_else(|e| e, PyErr::from_value)
}

/// A message of the library with the names that Python has for its fields and functions.
fn in_terms_of_python(message: &str) -> String {
    const SPELLINGS: [(&str, &str); 11] = [
        ("`export::export`", "`gan-train export`"),
        ("`runtime::load`", "`ganforge.load_runtime()`"),
        ("`Options::", "`"),
        ("`Conditioning::", "`"),
        ("`SamplingJob::", "`"),
        ("`BUILTIN`", "`ganforge.builtins()`"),
        ("`export::export(run)`", "`gan-train export RUN`"),
        ("`export::export(file)`", "`gan-train export FILE --preset NAME`"),
        ("`install(Package::Cpu)`", "`pip install onnxruntime`"),
        ("`install(Package::Cuda)`", "`pip install onnxruntime-gpu`"),
        ("`install(Package::OpenVino)`", "`pip install onnxruntime-openvino`"),
    ];
    SPELLINGS.iter().fold(message.to_string(), |text, (ours, theirs)| text.replace(ours, theirs))
}

/// The module.
#[pymodule(gil_used = false)]
fn _ganforge(module: &Bound<PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<PyGenerator>()?;
    module.add_class::<PyBatches>()?;
    module.add_function(wrap_pyfunction!(builtins, module)?)?;
    module.add_function(wrap_pyfunction!(load_runtime, module)?)
}
