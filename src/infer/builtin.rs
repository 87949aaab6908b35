//! The generators that come with the library (feature `builtin`).

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, did_you_mean, nearest};
use crate::files;
use crate::text::{self, on_one_line};

use super::file_facts::FileFacts;
use super::generator::Generator;
use super::options::Options;
use super::precision::Precision;
use super::provider::Provider;

/// A generator that comes with the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Builtin {
    /// The name by which [`open`] finds it.
    pub name: &'static str,
    /// What it makes, in a line.
    pub about: &'static str,
    /// The ONNX file that computes in f32; its weights are stored in 8 bits.
    pub bytes: &'static [u8],
    /// The ONNX file in int8, the faster one on CPUs.
    pub int8: &'static [u8],
}

/// All of them; the first is the default. Empty without the feature `builtin`.
pub static BUILTIN: &[Builtin] = &[
    #[cfg(feature = "builtin")]
    Builtin {
        name: "faces",
        about: "anime faces, 64 × 64 colour, a DCGAN trained on 30,000 drawings",
        bytes: ganforge_models::FACES,
        int8: ganforge_models::FACES_INT8,
    },
    #[cfg(feature = "builtin")]
    Builtin {
        name: "digits",
        about: "handwritten digits, 28 × 28 grey, a DCGAN trained on MNIST",
        bytes: ganforge_models::DIGITS,
        int8: ganforge_models::DIGITS_INT8,
    },
    #[cfg(feature = "builtin")]
    Builtin {
        name: "fashion",
        about: "garments, shoes and bags, 28 × 28 grey, a DCGAN trained on Fashion-MNIST",
        bytes: ganforge_models::FASHION,
        int8: ganforge_models::FASHION_INT8,
    },
];

/// The built-in generator of this name, or the default one.
///
/// # Errors
/// When there is none; the message suggests the nearest name.
pub fn find(name: Option<&str>) -> Result<&'static Builtin> {
    let names: Vec<&str> = BUILTIN.iter().map(|builtin| builtin.name).collect();
    let Some(name) = name else {
        return BUILTIN.first().ok_or_else(|| Error::usage("this build has no built-in generator", "Name an ONNX file."));
    };
    BUILTIN.iter().find(|builtin| builtin.name == name).ok_or_else(|| {
        let nearby = did_you_mean(Path::new(name));
        let known = match nearest(name, names.iter().copied()) {
            _ if !nearby.is_empty() => nearby,
            Some(near) => format!("Did you mean '{near}'? "),
            None if names.is_empty() => "This build has none. ".to_string(),
            None => format!("There are: {}. ", names.join(", ")),
        };
        Error::usage(
            format!("there is no built-in generator '{}'", on_one_line(name)),
            format!("{known}A file is named with its ending, a run by its folder: {0}.onnx, {0}/.", on_one_line(name)),
        )
    })
}

impl Builtin {
    /// Opens it in the precision asked for.
    ///
    /// # Errors
    /// When it is not built in in that precision, or cannot be opened.
    pub fn open(&self, options: &Options) -> Result<Generator> {
        let of = |bytes| move |options: &Options| Generator::from_bytes(self.name, bytes, options);
        let (f32, int8) = (of(self.bytes), of(self.int8));
        let preferred = options.provider.preferred();
        match options.precision {
            Precision::F32 => f32(options),
            Precision::Int8 => int8(options),
            Precision::F16 => Err(Error::usage(
                format!("{} is built in in f32 and in int8, not in f16", self.name),
                "Leave `Options::precision` away, or export models/ in f16 from the sources.",
            )),
            Precision::Auto if preferred == Provider::Cpu => int8(options).map(fastest_on_cpu),
            Precision::Auto if options.provider != Provider::Auto => fastest_elsewhere(options, f32),
            Precision::Auto => {
                let elsewhere = match preferred.is_offered()? {
                    true => fastest_elsewhere(&options.provider(preferred), f32).map_err(|e| e.to_string()),
                    false => Err(String::new()),
                };
                match elsewhere {
                    Ok(generator) => Ok(generator),
                    Err(why) => {
                        let made = int8(&options.provider(Provider::Cpu)).map(fastest_on_cpu)?;
                        Ok(if why.is_empty() { made } else { made.with_note(format!("using the CPU: {why}")) })
                    }
                }
            }
        }
    }

    /// The same generator in its other precisions, where `opened` runs: int8 is for CPUs, TF32 for CUDA.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn others(&self, opened: &Generator, options: &Options) -> Result<Vec<Generator>> {
        let of = |precision| self.open(&options.precision(precision).provider(opened.provider()));
        match (opened.provider(), opened.precision()) {
            (Provider::Cpu, Precision::Int8) => Ok(vec![of(Precision::F32)?]),
            (Provider::Cpu, _) => Ok(vec![of(Precision::Int8)?]),
            (Provider::Cuda(_), _) if opened.tf32() && !options.tf32 => Ok(vec![of(Precision::F32)?]),
            _ => Ok(Vec::new()),
        }
    }
}

/// The file in f32, on CUDA rounded to TF32 before it is multiplied.
fn fastest_elsewhere(options: &Options, f32: impl Fn(&Options) -> Result<Generator>) -> Result<Generator> {
    match options.provider {
        Provider::Cuda(_) if !options.tf32 => {
            let note = "in TF32, the fastest on CUDA; `Options::precision` f32 computes in f32";
            Ok(f32(&options.tf32(true))?.with_note(note.to_string()))
        }
        _ => f32(options),
    }
}

fn fastest_on_cpu(generator: Generator) -> Generator {
    generator.with_note("in int8, the fastest on the CPU; `Options::precision` f32 computes in f32".to_string())
}

/// The generator of a training run, which its folder holds as `generator.onnx`; `None` where the name is no such folder's, or a
/// built-in generator's.
///
/// # Errors
/// When the run has none yet.
pub fn of_run(model: &str) -> Result<Option<PathBuf>> {
    let run = Path::new(model);
    if !files::is_run(run) || is_builtin(model) {
        return Ok(None);
    }
    let path = run.join("generator.onnx");
    match path.symlink_metadata() {
        Ok(_) => Ok(Some(path)),
        Err(_) => Err(Error::invalid_file(run, "this run has no generator.onnx yet", "Make it with `export::export(run)`.")),
    }
}

fn is_builtin(name: &str) -> bool {
    BUILTIN.iter().any(|known| known.name == name)
}

/// The built-in generator that [`open`] opens for this name, if it does.
///
/// # Errors
/// When there is none at all.
pub fn named(model: Option<&str>) -> Result<Option<&'static Builtin>> {
    match model {
        Some(model) if !is_builtin(model) => Ok(None),
        name => find(name).map(Some),
    }
}

/// Opens what a user names: a built-in generator, an ONNX file (a path that exists or ends in `.onnx`), or a training run's folder
/// ([`of_run`]). Without a name, the default built-in generator.
///
/// # Errors
/// When there is no such generator, or it cannot be opened.
pub fn open(model: Option<&str>, options: &Options) -> Result<Generator> {
    match resolve(model)? {
        Named::Builtin(builtin) => builtin.open(options),
        Named::File(path) => Generator::open(path, options),
    }
}

/// What the file of a generator that a user names as for [`open`] says of itself, without onnxruntime; of a built-in one, the file in
/// int8, which CPUs take, unless `precision` is f32.
///
/// # Errors
/// When there is no such generator, or its file is damaged.
pub fn file_facts(model: Option<&str>, precision: Precision) -> Result<FileFacts> {
    match resolve(model)? {
        Named::Builtin(builtin) if precision == Precision::F32 => FileFacts::from_bytes(builtin.name, builtin.bytes),
        Named::Builtin(builtin) => FileFacts::from_bytes(builtin.name, builtin.int8),
        Named::File(path) => FileFacts::read(path),
    }
}

/// What a user may name.
enum Named {
    Builtin(&'static Builtin),
    File(PathBuf),
}

fn resolve(model: Option<&str>) -> Result<Named> {
    match model {
        Some(model) if !is_builtin(model) => {
            let path = Path::new(model);
            if let Some(path) = of_run(model)? {
                Ok(Named::File(path))
            } else if path.is_dir() {
                let what =
                    format!("{} is a folder, but not of a run: it has no config.toml beside checkpoints/", text::path(path));
                Err(Error::usage(what, "Name a run's folder, an ONNX file, or a built-in generator."))
            } else if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("onnx")) || path.exists() {
                Ok(Named::File(path.to_path_buf()))
            } else if path.components().count() > 1 {
                let hint = format!(
                    "{}Check the path; a built-in generator is named by its name alone, as `BUILTIN` lists them.",
                    did_you_mean(path)
                );
                Err(Error::usage(format!("there is no file or folder {}", text::path(path)), hint))
            } else {
                find(Some(model)).map(Named::Builtin)
            }
        }
        name => find(name).map(Named::Builtin),
    }
}
