//! A generator as NVIDIA's Triton Inference Server serves it: a model repository.

use std::fmt::Write;

use super::{Agreement, Dtype, ModelFolder, Reduction, ReductionReport, contract_of, export, export_reduced};
use crate::contract::{self, Contract, Layout};
use crate::error::{Error, Result};
use crate::files;
use crate::progress::Progress;
use crate::text::on_one_line;
use crate::train::Trained;

/// The most images that Triton puts into one run.
pub const MAX_BATCH: usize = 256;
/// Numbers of images that it waits for, as long as [`QUEUE_DELAY`] lets it.
pub const PREFERRED_BATCHES: [usize; 4] = [32, 64, 128, 256];
/// Microseconds that a request waits for others.
pub const QUEUE_DELAY: u64 = 1000;

/// What the config tells clients beyond the types, of the keys in the model's metadata.
const TOLD: [&str; 6] = [
    "ganforge.classes.names",
    "ganforge.data",
    "ganforge.images_seen",
    "ganforge.latent.classes",
    "ganforge.latent.law",
    "ganforge.preset",
];

const CONFIG: &str = "config.pbtxt";
const LABELS: &str = "labels.txt";
const MODEL: &str = "1/model.onnx";

/// How a model was held against the trained generator.
#[derive(Debug, Clone, PartialEq)]
pub enum Checked {
    /// It computes the same.
    Same(Agreement),
    /// It loses something, which was measured.
    Reduced(ReductionReport),
}

/// Writes a generator into a model repository of Triton: below [`ModelFolder::path`] the folder [`ModelFolder::name`] with
/// `config.pbtxt`, `1/model.onnx` and, where there are classes, `labels.txt`. Other models of the repository stay. `how` is for the
/// types that lose something.
///
/// # Errors
/// As [`export`](super::export()) and [`export_reduced`]; when the name is none for Triton, or the model is in the repository already.
pub fn export_triton(
    trained: &Trained,
    dtype: Dtype,
    how: Option<&Reduction>,
    to: &ModelFolder,
    progress: &dyn Progress,
) -> Result<Checked> {
    check_name(to.name)?;
    let contract = contract_of(trained, Layout::NhwcU8);
    to.write(&to.path.join(to.name), &[CONFIG, LABELS, MODEL], |folder| {
        let model = folder.join(MODEL);
        files::create_folder(model.parent().unwrap_or(folder))?;
        let checked = match how {
            Some(how) => Checked::Reduced(export_reduced(trained, Layout::NhwcU8, dtype, how, &model, progress)?),
            None => Checked::Same(export(trained, Layout::NhwcU8, dtype, &model)?),
        };
        files::write_atomic(&folder.join(CONFIG), config(to.name, &contract, dtype).as_bytes())?;
        if contract.classes > 0 {
            files::write_atomic(&folder.join(LABELS), labels(&contract).as_bytes())?;
        }
        Ok(checked)
    })
}

/// Refuses a name that Triton, or a path of a request, would not take as one.
fn check_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !name.is_empty() && name.len() <= 200 && name.chars().all(is_plain) && !name.starts_with('.') {
        return Ok(());
    }
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(200).collect();
    let plain = match plain.trim_start_matches('.') {
        "" => "generator",
        plain => plain,
    };
    let what = format!("'{}' cannot be the name of a model of Triton, which stands in requests and paths", on_one_line(name));
    Err(Error::usage(what, format!("Give a `ModelFolder::name` of letters, digits, '_', '-' and '.', for example {plain}.")))
}

/// The text of `config.pbtxt`, a `ModelConfig` in protobuf's text format.
fn config(name: &str, contract: &Contract, dtype: Dtype) -> String {
    let Contract { latent, height, width, channels, .. } = contract;
    // Whole numbers are for CPUs; a GPU would compute them more slowly than floats.
    let instances = if dtype == Dtype::Int8 { "KIND_CPU" } else { "KIND_AUTO" };
    let [name, input, output] = [name, contract::GENERATOR_INPUT, contract::GENERATOR_OUTPUT].map(quoted);
    let preferred = PREFERRED_BATCHES.map(|n| n.to_string()).join(", ");
    let mut text = format!(
        "# A generator of images: latents in, pixels out. The parameters at the end say how to draw latents.\n\
         name: {name}\n\
         backend: \"onnxruntime\"\n\
         max_batch_size: {MAX_BATCH}\n\
         input [ {{ name: {input} data_type: TYPE_FP32 dims: [ {size} ] }} ]\n\
         output [ {{ name: {output} data_type: TYPE_UINT8 dims: [ {height}, {width}, {channels} ] }} ]\n\
         dynamic_batching {{ preferred_batch_size: [ {preferred} ] max_queue_delay_microseconds: {QUEUE_DELAY} }}\n\
         instance_group [ {{ kind: {instances} count: 1 }} ]\n",
        size = latent.size,
    );
    for (key, value) in contract.to_metadata().iter().filter(|(key, _)| TOLD.contains(&key.as_str())) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "parameters {{ key: {} value {{ string_value: {} }} }}", quoted(key), quoted(value));
    }
    text
}

/// A string of protobuf's text format: UTF-8, but for what would end it or be no character of a line.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().for_each(|byte| _ = write!(out, "\\{byte:03o}"));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The classes' names in their order, one a line; where they have none, their numbers.
fn labels(contract: &Contract) -> String {
    let name = |class: usize| match contract.class_names.get(class) {
        Some(name) => on_one_line(name).into_owned(),
        None => class.to_string(),
    };
    (0..contract.classes).map(|class| name(class) + "\n").collect()
}
