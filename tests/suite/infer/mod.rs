//! Latents, the contract, opening and sampling generators, `gan-infer` end to end.

mod formats;
mod generator;
mod interrupted;
mod latents;
mod programs;
mod promises;
mod providers;

use assert_cmd::Command;
use ganforge::contract::{self, Contract, Layout, Weights};
use ganforge::error::Error;
use ganforge::image::{Images, Range};
use ganforge::infer::generator::DENSE_BATCH;
use ganforge::infer::{
    Conditioning, Existing, FileFacts, Format, Generator, Options, Plan, Provider, SamplingJob, SeedList, Selection, Shard,
    builtin, pipeline, runtime,
};
use ganforge::latent::{Distribution, Latent, Truncation};
use ganforge::progress::Silent;
use predicates::prelude::*;
use predicates::str::contains;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tempfile::{TempDir, tempdir};

const SEALED: &str = "sealed.onnx";
const STRANGER: &str = "stranger_nchw_f32.onnx";
const FIXED: &str = "stranger_fixed_u8.onnx";
const HALF: &str = "stranger_nhwc_f16.onnx";

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The onnxruntime of the tests: the environment's, that of `make setup`, or whatever the system has.
pub fn runtime_path() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/python");
    match std::env::var_os("ORT_DYLIB_PATH") {
        Some(path) => PathBuf::from(path),
        None if tools.join("onnxruntime").is_dir() => tools,
        None => runtime::locate().expect("the tests need an onnxruntime").path,
    }
}

fn gan_infer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gan-infer"));
    command.env("ORT_DYLIB_PATH", runtime_path());
    command
}

/// `gan-infer` on the sealed golden generator, into `out`; on the CPU if `flags` do not say otherwise.
pub fn sample(out: &Path, flags: &[&str]) -> Command {
    let mut command = gan_infer();
    command.arg("--model").arg(golden(SEALED)).arg("--out").arg(out).args(flags);
    if !flags.contains(&"--provider") {
        command.args(["--provider", "cpu"]);
    }
    // Small, so that few images make several batches and pieces.
    if !flags.contains(&"--batch") {
        command.args(["--batch", "8"]);
    }
    command
}

/// Opens a golden generator on the CPU.
fn open(name: &str, options: Options) -> Result<Generator, Error> {
    let options = options.provider(Provider::Cpu);
    runtime::load_from(runtime_path()).expect("the tests need an onnxruntime: ORT_DYLIB_PATH or .tools/python");
    Generator::open(golden(name), &options)
}

/// Few images make several batches.
fn small_batches() -> Options {
    Options::default().batch(8)
}

fn with_range(range: Range) -> Options {
    Options::default().range(range)
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error was expected").to_string()
}

/// Every file below `folder`, by its path in it.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(
                contents(&path).into_iter().map(|(name, bytes)| (Path::new(path.file_name().unwrap()).join(name), bytes)),
            );
        } else {
            all.insert(path.file_name().unwrap().into(), fs::read(&path).unwrap());
        }
    }
    all
}

/// The images below a folder, by their paths in it; neither manifests nor journals.
fn images_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    contents(folder).into_iter().filter(|(name, _)| name.extension().is_some_and(|ending| ending == "png")).collect()
}

fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of the program, away from the checkout and its libraries.
pub fn program_alone() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let program = bin.join("gan-infer");
    fs::copy(env!("CARGO_BIN_EXE_gan-infer"), &program).unwrap();
    (folder, program)
}

fn plan(format: Format, out: &Path, n: u64, existing: Existing) -> Plan {
    Plan::new(format, out, Selection::Numbers { seed: 0, start: 0, n }, None, existing).unwrap()
}
