//! The generator for C, and for whatever calls C: opaque handles, status codes, messages. `ganforge.h` beside this file is made of it by
//! cbindgen; a test holds the two together.
//!
//! Every function catches panics, checks its pointers for null and alignment and its buffers for their sizes, and answers with a
//! [`ganforge_status`]; what was wrong is said by [`ganforge_last_error`]. Texts are UTF-8 and end with a zero byte.

#![allow(non_camel_case_types, reason = "names of C")]

mod arguments;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use arguments::{Place, buffer, buffer_mut, handle, known, text};

use crate::error::{Error, Result};
use crate::infer::{Conditioning, Generator, Options, builtin, runtime};
use crate::latent::Distribution;

/// The version of this interface: its first number changes when a program has to be compiled again or changed, its second when something
/// is added. It is `major * 1000 + minor`.
pub const GANFORGE_ABI_VERSION: u32 = 1000;

/// What became of a call.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ganforge_status {
    /// Done.
    GANFORGE_OK = 0,
    /// The call is wrong: a null pointer, a buffer of another size, a name or a value that does not exist.
    GANFORGE_USAGE = 1,
    /// The operating system refused a file operation.
    GANFORGE_IO = 2,
    /// A model is damaged, no generator, or gives something that is no image.
    GANFORGE_INVALID = 3,
    /// There is no usable onnxruntime, or no provider of the kind asked for.
    GANFORGE_RUNTIME = 4,
    /// A defect of this library: please report it.
    GANFORGE_DEFECT = 5,
}

use ganforge_status::{GANFORGE_DEFECT, GANFORGE_INVALID, GANFORGE_IO, GANFORGE_OK, GANFORGE_RUNTIME, GANFORGE_USAGE};

/// An open generator. Any number of threads may use it at once; one, after all others are done with it, frees it.
pub struct ganforge_generator(Generator);

/// How to open a generator. Set `size` to `sizeof(ganforge_options)` and all that is not wanted to zero:
/// `ganforge_options options = {.size = sizeof options};`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ganforge_options {
    /// Bytes of this struct, as the program knows it.
    pub size: usize,
    /// Where to run: "auto", "cpu", "cuda", "cuda:1", "tensorrt", "openvino", "coreml"; null for "auto".
    pub provider: *const c_char,
    /// What to compute with: "auto", "f32", "f16", "int8"; null for "auto".
    pub precision: *const c_char,
    /// The value range of a float output, for models that do not say it: "tanh", "sigmoid", "byte"; null for what the file says.
    pub range: *const c_char,
    /// Images a run, 1 to 4096; 0 for what serves best.
    pub batch: usize,
    /// Threads that one call may work on, up to 1024; 0 for what serves best. A call for no more than a batch stays on the caller's.
    pub threads: usize,
    /// Seconds that a model may take to load and to run once; 0 for 120, with TensorRT 900.
    pub load_timeout: f64,
    /// Bytes that the latents of a batch may take, and its images; 0 for 4 GiB.
    pub batch_memory: u64,
}

/// What is done to latents before the network sees them. Set `size` to `sizeof(ganforge_conditioning)` and all that is not wanted to zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct ganforge_conditioning {
    /// Bytes of this struct, as the program knows it.
    pub size: usize,
    /// Latents are drawn from the part of their distribution within ± this: fewer odd images, less variety; 0 for all of it.
    pub truncation: f64,
    /// Images of this class only, by its name or else its number from 0; null for all.
    pub class_name: *const c_char,
}

/// The shape of what a generator takes and makes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ganforge_shape {
    /// Values of a latent.
    pub latent: usize,
    /// 0: a latent's values are normal, N(0, 1); 1: uniform in [-1, 1].
    pub latent_law: i32,
    /// Classes that the generator was told; 0: none.
    pub classes: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 1 (grey) or 3 (RGB). An image takes height * width * channels bytes, row by row, the channels of a pixel together.
    pub channels: usize,
    /// Images a run; calls for multiples of it are the fastest.
    pub batch: usize,
}

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// The version of this interface that the library has: `GANFORGE_ABI_VERSION` of its header. Its thousands must be those of the header
/// that a program was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn ganforge_abi_version() -> u32 {
    GANFORGE_ABI_VERSION
}

/// The version of the library, "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn ganforge_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}

/// What was wrong with the last call of this thread that failed, and how to mend it; "" where none has. It is valid until the next call
/// of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn ganforge_last_error() -> *const c_char {
    // It is gone while the thread ends.
    LAST_ERROR.try_with(|text| text.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Loads onnxruntime: the library at `path`, or in a folder of that name; null looks for it as `gan-infer` does. The first load decides
/// for the whole process; `ganforge_open` does it where nobody has. Call it before other threads run: it sets
/// ORT_DISABLE_TELEMETRY in the environment unless that is set.
///
/// # Safety
/// `path` is null or a text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_runtime_load(path: *const c_char) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        match unsafe { text("path", path) }? {
            Some(path) => runtime::load_from(path).map(drop),
            None => runtime::load().map(drop),
        }
    })
}

/// Opens a generator: a built-in one by its name ("faces", "digits", "fashion"; null for the first), an ONNX file by its path, or a training run's
/// folder. `options` may be null. The generator goes to `*out`, which is null where there is none.
///
/// # Safety
/// `model` is null or a text, `options` null or an object of at least its `size` bytes with texts in it, `out` null or a place
/// for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_open(
    model: *const c_char,
    options: *const ganforge_options,
    out: *mut *mut ganforge_generator,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let out = unsafe { Place::new("out", out)? };
        out.put(std::ptr::null_mut());
        // SAFETY: as the caller promises.
        let (model, options) = unsafe { (text("model", model)?, opened_with(options)?) };
        out.put(Box::into_raw(Box::new(ganforge_generator(builtin::open(model, &options)?))));
        Ok(())
    })
}

/// Opens a generator of the `len` bytes of an ONNX file in memory, which are copied; `name` stands for it in messages.
///
/// # Safety
/// As `ganforge_open`; `bytes` is null or has `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_open_bytes(
    name: *const c_char,
    bytes: *const u8,
    len: usize,
    options: *const ganforge_options,
    out: *mut *mut ganforge_generator,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let out = unsafe { Place::new("out", out)? };
        out.put(std::ptr::null_mut());
        // SAFETY: as the caller promises.
        let (name, bytes, options) = unsafe { (text("name", name)?, buffer("bytes", bytes, len)?, opened_with(options)?) };
        let generator = Generator::from_bytes(name.unwrap_or("the model in memory"), bytes.to_vec(), &options)?;
        out.put(Box::into_raw(Box::new(ganforge_generator(generator))));
        Ok(())
    })
}

/// Frees a generator; null is nothing.
///
/// # Safety
/// `generator` is null, or was opened here, is not freed yet, and no thread uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_free(generator: *mut ganforge_generator) {
    if !generator.is_null() {
        // A panic must not reach C; what it leaves behind is lost.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: it came from Box::into_raw, and the caller promises that it goes but once.
            drop(unsafe { Box::from_raw(generator) });
        }));
    }
}

/// Tells the sizes of latents and images.
///
/// # Safety
/// `generator` is null or open, `out` null or a place for a `ganforge_shape`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_shape_of(generator: *const ganforge_generator, out: *mut ganforge_shape) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let (generator, out) = unsafe { (handle(generator)?, Place::new("out", out)?) };
        let ([height, width, channels], latent) = (generator.0.image_shape(), generator.0.latent());
        out.put(ganforge_shape {
            latent: latent.size,
            latent_law: i32::from(latent.distribution == Distribution::Uniform),
            classes: generator.0.contract().map_or(0, |contract| contract.classes),
            height,
            width,
            channels,
            batch: generator.0.batch(),
        });
        Ok(())
    })
}

/// Writes the name of a class into `out`, with its zero byte; "" where nobody has given it one.
///
/// # Safety
/// `generator` is null or open, `out` null or a place for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_class_name(
    generator: *const ganforge_generator,
    class_number: usize,
    out: *mut c_char,
    len: usize,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let (generator, out) = unsafe { (handle(generator)?, buffer_mut("out", out.cast::<u8>(), len)?) };
        let class = generator.0.class(&class_number.to_string());
        let names = generator.0.contract().map_or(&[][..], |contract| &contract.class_names);
        let name = match names.get(class_number) {
            Some(name) => name.as_bytes(),
            None => class.map(|_| &[][..])?,
        };
        let room = out.get_mut(..=name.len()).ok_or_else(|| {
            let what = format!("`out` has {len} bytes, and the name of class {class_number} takes {}", name.len() + 1);
            Error::usage(what, "Give more.")
        })?;
        room[..name.len()].copy_from_slice(name);
        room[name.len()] = 0;
        Ok(())
    })
}

/// Makes images `start`, `start + 1`, … of a seed, as many as `out` has room for: [n, height, width, channels], the bytes that `gan-infer`
/// makes. `conditioning` may be null.
///
/// # Safety
/// `generator` is null or open, `conditioning` null or an object of at least its `size` bytes, `out` null or a place for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_sample(
    generator: *const ganforge_generator,
    conditioning: *const ganforge_conditioning,
    seed: u64,
    start: u64,
    out: *mut u8,
    len: usize,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let (generator, out) = unsafe { (handle(generator)?, buffer_mut("out", out, len)?) };
        // SAFETY: as the caller promises.
        let conditioning = unsafe { conditioned(&generator.0, conditioning)? };
        generator.0.sample_into_with(&conditioning, seed, start, out)
    })
}

/// Makes an image of each latent of the caller's, in their order: `values` is a multiple of the latent's size, and `len` that of an image's
/// bytes, for as many. `conditioning` may be null.
///
/// # Safety
/// As `ganforge_sample`; `latents` is null or has `values` floats, which are not those of `out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_generate(
    generator: *const ganforge_generator,
    conditioning: *const ganforge_conditioning,
    latents: *const f32,
    values: usize,
    out: *mut u8,
    len: usize,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let (generator, latents) = unsafe { (handle(generator)?, buffer("latents", latents, values)?) };
        // SAFETY: as the caller promises.
        let (out, conditioning) = unsafe { (buffer_mut("out", out, len)?, conditioned(&generator.0, conditioning)?) };
        generator.0.generate_into_with(&conditioning, latents, out)
    })
}

/// Writes the latents of images `start`, `start + 1`, … of a seed, as many as `out` has room for: what `ganforge_sample` makes these of.
///
/// # Safety
/// `generator` is null or open, `out` null or a place for `values` floats.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_latents(
    generator: *const ganforge_generator,
    seed: u64,
    start: u64,
    out: *mut f32,
    values: usize,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let (generator, out) = unsafe { (handle(generator)?, buffer_mut("out", out, values)?) };
        generator.0.latents_into(seed, start, out)
    })
}

/// Writes the latent `t` of the way from `a` (0) to `b` (1): along the great circle for normal latents, straight for uniform ones. All three
/// have `values` floats, the size of a latent.
///
/// # Safety
/// `generator` is null or open; `a`, `b` and `out` are null or have `values` floats, those of `out` its own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ganforge_interpolate(
    generator: *const ganforge_generator,
    a: *const f32,
    b: *const f32,
    t: f32,
    out: *mut f32,
    values: usize,
) -> ganforge_status {
    answer(|| {
        // SAFETY: as the caller promises.
        let (generator, a, b) = unsafe { (handle(generator)?, buffer("a", a, values)?, buffer("b", b, values)?) };
        let between = generator.0.latent().interpolate(a, b, t)?;
        // SAFETY: as the caller promises. It has as many values as `a`.
        unsafe { buffer_mut("out", out, values)? }.copy_from_slice(&between);
        Ok(())
    })
}

/// Runs `work`, and keeps what was wrong for [`ganforge_last_error`].
fn answer(work: impl FnOnce() -> Result<()>) -> ganforge_status {
    // Nothing of a call is used after a panic but the generator, whose locks are poison-proof.
    let error = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return GANFORGE_OK,
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let (status, message) = match &error {
        None => (GANFORGE_DEFECT, "ganforge panicked; stderr says where. Please report it.".to_string()),
        Some(error) => (status_of(error), in_terms_of_c(&error.to_string())),
    };
    // A zero byte, of a name from outside, would end the text.
    let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    let _ = LAST_ERROR.try_with(|text| text.replace(message));
    status
}

fn status_of(error: &Error) -> ganforge_status {
    match error {
        Error::Usage { .. } => GANFORGE_USAGE,
        Error::Io { .. } => GANFORGE_IO,
        Error::Invalid { .. } => GANFORGE_INVALID,
        Error::Runtime(_) | Error::Ort(_) => GANFORGE_RUNTIME,
        _ => GANFORGE_DEFECT,
    }
}

/// A message of the library with the names that C has for its fields and functions.
fn in_terms_of_c(message: &str) -> String {
    const SPELLINGS: [(&str, &str); 11] = [
        ("`export::export`", "`gan-train export`"),
        ("`runtime::load`", "`ganforge_runtime_load` with null"),
        ("`Options::", "`ganforge_options."),
        ("`Conditioning::truncation", "`ganforge_conditioning.truncation"),
        ("`SamplingJob::threads", "`ganforge_options.threads"),
        ("`BUILTIN`", "`gan-infer models`"),
        ("`export::export(run)`", "`gan-train export RUN`"),
        ("`export::export(file)`", "`gan-train export FILE --preset NAME`"),
        ("`install(Package::Cpu)`", "`gan-infer runtime install`"),
        ("`install(Package::Cuda)`", "`gan-infer runtime install --cuda`"),
        ("`install(Package::OpenVino)`", "`gan-infer runtime install --openvino`"),
    ];
    SPELLINGS.iter().fold(message.to_string(), |text, (ours, theirs)| text.replace(ours, theirs))
}

/// # Safety
/// `options` is null or an object of at least its `size` bytes with texts in it.
unsafe fn opened_with(options: *const ganforge_options) -> Result<Options> {
    const NOTHING: ganforge_options = ganforge_options {
        size: 0,
        provider: std::ptr::null(),
        precision: std::ptr::null(),
        range: std::ptr::null(),
        batch: 0,
        threads: 0,
        load_timeout: 0.0,
        batch_memory: 0,
    };
    // SAFETY: as the caller promises.
    let told = unsafe { known("options", options, NOTHING)? };
    let mut options = Options::default();
    // SAFETY: as the caller promises, of all three texts.
    let [provider, precision, range] = unsafe {
        [
            text("options.provider", told.provider)?,
            text("options.precision", told.precision)?,
            text("options.range", told.range)?,
        ]
    };
    let wrong = |name: &str, value: &str, expected: String| {
        Error::usage(format!("`options.{name}` \"{value}\": {expected}"), "Name one of these.")
    };
    if let Some(name) = provider {
        options.provider = name.parse().map_err(|expected| wrong("provider", name, expected))?;
    }
    if let Some(name) = precision {
        options.precision = name.parse().map_err(|expected| wrong("precision", name, expected))?;
    }
    if let Some(name) = range {
        options.range = Some(name.parse().map_err(|expected| wrong("range", name, expected))?);
    }
    options.batch = (told.batch > 0).then_some(told.batch);
    options.threads = (told.threads > 0).then_some(told.threads);
    options.batch_memory = (told.batch_memory > 0).then_some(told.batch_memory);
    if told.load_timeout != 0.0 {
        let limit = Duration::try_from_secs_f64(told.load_timeout);
        let what = format!("`options.load_timeout` {} is no number of seconds", told.load_timeout);
        options.load_timeout = Some(limit.map_err(|_| Error::usage(what, "Give one above 0, or 0 for what serves."))?);
    }
    Ok(options)
}

/// # Safety
/// `conditioning` is null or an object of at least its `size` bytes with a text in it.
unsafe fn conditioned(generator: &Generator, conditioning: *const ganforge_conditioning) -> Result<Conditioning> {
    const NOTHING: ganforge_conditioning = ganforge_conditioning { size: 0, truncation: 0.0, class_name: std::ptr::null() };
    // SAFETY: as the caller promises.
    let told = unsafe { known("conditioning", conditioning, NOTHING)? };
    let mut conditioning = Conditioning::default();
    if told.truncation != 0.0 {
        conditioning.truncation = Some(generator.truncation(told.truncation)?);
    }
    // SAFETY: as the caller promises.
    if let Some(class) = unsafe { text("conditioning.class_name", told.class_name)? } {
        conditioning.class = Some(generator.class(class)?);
    }
    Ok(conditioning)
}
