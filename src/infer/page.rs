//! A static page on which visitors make images: the generator runs in their browsers, with onnxruntime-web.
//!
//! Its scripts draw latents as [`crate::latent`] does, so image `i` of a seed is the one that [`Generator::sample`] makes, within 1.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ort::value::TensorElementType;
use serde_json::{Value, json};

use super::builtin;
use super::form::Element;
use super::generator::Generator;
use super::precision::Precision;
pub use super::web_runtime::{VERSION as WEB_RUNTIME_VERSION, WebRuntime};
use super::web_runtime::{WASM, WEBGPU, WebEngine};
use crate::contract::Contract;
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::text;

/// What is read by people and by browsers; the same in every page.
const ASSETS: [(&str, &[u8]); 7] = [
    ("page.css", include_bytes!("page/page.css")),
    ("check.js", include_bytes!("page/check.js")),
    ("latents.js", include_bytes!("page/latents.js")),
    ("engine.js", include_bytes!("page/engine.js")),
    ("worker.js", include_bytes!("page/worker.js")),
    ("app.js", include_bytes!("page/app.js")),
    ("onnxruntime-web/LICENSE.txt", include_bytes!("page/onnxruntime-web-license.txt")),
];
/// Written last: with it the page is whole.
const INDEX: (&str, &[u8]) = ("index.html", include_bytes!("page/index.html"));
/// The folder of onnxruntime-web.
const RUNTIME: &str = "onnxruntime-web";

/// A page to write.
pub struct Page<'a> {
    /// The generator that the page runs with WebAssembly.
    pub generator: &'a Generator,
    /// The generator that the page runs where a visitor chooses WebGPU, and his browser has it: the same one, or its form in f32. `None`
    /// leaves the choice away, and 27 MB of onnxruntime-web.
    pub webgpu: Option<&'a Generator>,
    /// What the generator is called on the page.
    pub title: String,
    /// What it makes, in a line; may be empty.
    pub about: String,
    /// Where onnxruntime-web comes from.
    pub runtime: WebRuntime,
    /// Whether the folder may hold something already. Files of a page in it are replaced, others stay.
    pub overwrite: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenPage {
    /// The files, in the order in which they were written.
    pub files: Vec<String>,
    /// How large they are together.
    pub bytes: u64,
}

/// What a page calls the model that [`builtin::open`] opens for this name, and says of it: the built-in generator's name and what it
/// makes, or the name of the run's folder, or of the file without its ending.
///
/// # Errors
/// When there is no built-in generator.
pub fn title(model: Option<&str>) -> Result<(String, String)> {
    if let Some(known) = builtin::named(model)? {
        return Ok((known.name.to_string(), known.about.to_string()));
    }
    let path = Path::new(model.unwrap_or_default());
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = if full.is_dir() { full.file_name() } else { path.file_stem() };
    Ok((name.map_or_else(|| "generator".to_string(), |name| name.to_string_lossy().into_owned()), String::new()))
}

impl Page<'_> {
    /// Writes the page into a folder, which is created if need be. Nothing is written unless all of it is at hand, and the generator has made an
    /// image here.
    ///
    /// # Errors
    /// When the folder holds something and [`Page::overwrite`] is false, the generator is none for browsers, onnxruntime-web cannot be had,
    /// or a file cannot be written.
    pub fn write(&self, out: &Path, progress: &dyn Progress) -> Result<WrittenPage> {
        self.check_folder(out)?;
        let generators = [Some((self.generator, &WASM)), self.webgpu.map(|generator| (generator, &WEBGPU))];
        let generators: Vec<(&Generator, &WebEngine)> = generators.into_iter().flatten().collect();
        for (generator, engine) in &generators {
            check_generator(generator, engine)?;
        }
        self.note(progress);
        let engines: Vec<&WebEngine> = generators.iter().map(|(_, engine)| *engine).collect();
        let runtime = self.runtime.files(&engines, progress)?;
        let runtime: Vec<(String, Vec<u8>)> =
            runtime.into_iter().map(|(name, bytes)| (format!("{RUNTIME}/{name}"), bytes)).collect();
        let facts = self.facts(&generators, &runtime)?.to_string();
        let mut models: Vec<(&str, &[u8])> =
            generators.iter().map(|(of, _)| (model_name(self.generator, of), of.whole_bytes())).collect();
        models.dedup_by_key(|(name, _)| *name);
        let runtime = runtime.iter().map(|(name, bytes)| (name.as_str(), &bytes[..]));
        let all = runtime.chain(models).chain(ASSETS).chain([("generator.json", facts.as_bytes()), INDEX]);
        write_files(out, all)
    }

    /// Transposed convolutions are what onnxruntime-web is slow at; in int8 they are plain ones (benches/RESULTS.md).
    fn note(&self, progress: &dyn Progress) {
        let generator = self.generator;
        if generator.contract().is_some() && generator.is_convolutional() && generator.precision() != Precision::Int8 {
            progress.say("note: in int8, which `export::export` writes, a generator with convolutions is about twice as fast in browsers");
        }
    }

    fn check_folder(&self, out: &Path) -> Result<()> {
        let entries = match fs::read_dir(out) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(Error::io("read", out))?,
        };
        let ours = |name: &str| name == files::LOCK || files::is_temporary(name);
        let mut others = entries.flatten().filter(|entry| !ours(&entry.file_name().to_string_lossy()));
        // The folder of onnxruntime-web is what a page begins with.
        let is_page = out.join(RUNTIME).is_dir();
        let mut of_page = ["generator.onnx", "generator.f32.onnx", "generator.json", INDEX.0]
            .into_iter()
            .chain(ASSETS.map(|(name, _)| name))
            .map(|name| out.join(name));
        let foreign = of_page.clone().find(|path| !is_page && path.symlink_metadata().is_ok());
        if let Some(path) = foreign.filter(|_| self.overwrite) {
            let what = format!("{} is not of a page, and one would replace it", text::path(&path));
            return Err(Error::usage(what, "Choose another folder, or move that away."));
        }
        if self.overwrite || others.next().is_none() {
            // Before anything of an old page goes.
            return match of_page.find(|path| path.is_dir()) {
                None => Ok(()),
                Some(path) => {
                    let what = format!("{} is a folder, and a file of the page is to be there", text::path(&path));
                    Err(Error::usage(what, "Choose another folder, or move that away."))
                }
            };
        }
        let what = format!("{} is not empty", text::path(out));
        Err(Error::usage(
            what,
            "Choose another folder, or `Page::overwrite`, which replaces a page's files and lets others be.",
        ))
    }

    /// All that the page's scripts know of the generator. They put its texts into the page as text, never as HTML.
    fn facts(&self, generators: &[(&Generator, &WebEngine)], runtime: &[(String, Vec<u8>)]) -> Result<Value> {
        let generator = self.generator;
        let [height, width, channels] = generator.image_shape();
        let latent = generator.latent();
        let contract = generator.contract();
        let (input, output, form) = generator.ports();
        let (scale, shift) = generator.range().map_or((1.0, 0.0), |range| range.to_pixel());
        let engines = generators.iter().map(|(of, engine)| {
            let model = model_name(generator, of);
            (engine.provider.to_string(), engine_facts(of, engine, model, runtime))
        });
        let engines: serde_json::Map<String, Value> = engines.collect();
        Ok(json!({
            "name": self.title,
            "about": self.about,
            "height": height,
            "width": width,
            "channels": channels,
            "latent": { "size": latent.size, "distribution": latent.distribution.name() },
            "classes": contract.map_or(0, |contract| contract.classes),
            "classNames": contract.map_or(&[][..], |contract| &contract.class_names),
            "batch": input.dims.first().filter(|rows| **rows > 0),
            "input": { "name": input.name, "rank": input.dims.len() },
            "output": {
                "name": output.name,
                "element": if form.element == Element::U8 { "u8" } else { "f32" },
                "channelsFirst": form.channels_first,
                "scale": scale,
                "shift": shift,
            },
            "engines": engines,
            "facts": told(generator)?,
        }))
    }
}

/// Writes the files of a page, the last of which makes it one.
fn write_files<'a>(out: &Path, all: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<WrittenPage> {
    files::create_folder(&out.join(RUNTIME))?;
    let _lock = files::Lock::take(out, "gan-infer")?;
    files::remove_temporaries(out)?;
    // An old page is none while its files are exchanged.
    match fs::remove_file(out.join(INDEX.0)) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("replace", &out.join(INDEX.0))(e)),
        _ => {}
    }
    let mut written = WrittenPage { files: Vec::new(), bytes: 0 };
    for (name, bytes) in all {
        files::write_atomic(&out.join(name), bytes)?;
        written.files.push(name.to_string());
        written.bytes += bytes.len() as u64;
    }
    Ok(written)
}

/// What the page's scripts load to run a generator on an engine, and how many bytes of it there are.
fn engine_facts(generator: &Generator, engine: &WebEngine, model: &str, runtime: &[(String, Vec<u8>)]) -> Value {
    let library = engine.library.in_page();
    let path = format!("{RUNTIME}/{library}");
    let bytes = runtime.iter().find(|(name, _)| *name == path).map_or(0, |(_, bytes)| bytes.len());
    json!({
        "provider": engine.provider,
        "name": engine.name,
        "precision": generator.precision().name(),
        "entry": engine.entry.in_page(),
        "glue": engine.glue.in_page(),
        "library": library,
        "files": { "library": { "bytes": bytes }, "model": { "name": model, "bytes": generator.whole_bytes().len() } },
    })
}

/// What the page tells people of the generator, each with its name.
fn told(generator: &Generator) -> Result<Vec<[String; 2]>> {
    let [height, width, channels] = generator.image_shape();
    let latent = generator.latent();
    let of_contract = |contract: &Contract| {
        let classes = (contract.classes > 0).then(|| ["classes", &contract.classes.to_string()].map(str::to_string));
        let cost = contract.cost.as_ref().map(|cost| ["cost of fewer bits", &cost.to_string()].map(str::to_string));
        let rest = [
            ["trained on", &contract.data],
            ["preset", &contract.preset],
            ["loss", &contract.loss],
            ["images seen in training", &contract.images_seen.to_string()],
            ["weights", contract.weights.name()],
        ];
        rest.map(|fact| fact.map(str::to_string)).into_iter().chain(classes).chain(cost).collect::<Vec<_>>()
    };
    let mut facts = generator.contract().map_or_else(Vec::new, of_contract);
    let own = [
        ["images", &format!("{height} × {width}, {}", if channels == 1 { "grey" } else { "RGB" })],
        ["latents", &format!("{}, {}", latent.size, latent.distribution.name())],
        ["precision", generator.precision().name()],
        ["SHA-256", &generator.sha256()?],
        ["ganforge", env!("CARGO_PKG_VERSION")],
    ];
    facts.extend(own.map(|fact| fact.map(str::to_string)));
    Ok(facts)
}

/// The name of a generator's file in a page whose first is `first`.
fn model_name(first: &Generator, generator: &Generator) -> &'static str {
    if first.precision() == generator.precision() { "generator.onnx" } else { "generator.f32.onnx" }
}

/// Refuses what a page does not run, or not with the pixels it promises; makes an image.
fn check_generator(generator: &Generator, engine: &WebEngine) -> Result<()> {
    let (input, _, form) = generator.ports();
    if input.element != TensorElementType::Float32 || form.element == Element::F16 {
        let what =
            format!("it takes {} and gives {}: pages do without half precision there", generator.input(), generator.output());
        return Err(Error::invalid(
            generator.name(),
            what,
            "Export it with an input and an output in float32; inside it may be float16.",
        ));
    }
    if engine.provider == WEBGPU.provider && generator.precision() == Precision::Int8 {
        let what = format!("{}: what WebGPU computes of int8 differs by more than 1 from what is promised", generator.name());
        return Err(Error::usage(what, "Leave `Page::webgpu` away, or take a generator in f32."));
    }
    generator.sample(0, 0, 1).map(drop)
}
