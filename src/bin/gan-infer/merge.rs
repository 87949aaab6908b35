//! `gan-infer merge`: shards to what one call makes.

use std::path::{Path, PathBuf};

use clap::Args;
use ganforge::cli::{self, Console};
use ganforge::error::{Error, Result};
use ganforge::infer::{Existing, Format, Merge, Missing};
use ganforge::progress::Progress;
use ganforge::text;
use serde_json::{Value, json};

use crate::print_json;

#[derive(Args)]
pub struct Flags {
    /// Folders that shards were written to, or the shards' files
    #[arg(required = true, value_name = "DIR|FILE")]
    shards: Vec<PathBuf>,
    /// The folder to write to, created if need be; or a file that ends in .npy, .npz or .tar
    #[arg(short, long, value_name = "DIR|FILE")]
    out: PathBuf,
    /// Of shards of several formats, those of this one
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Replace what is in the way: jobs whose images have these names, with all of their files
    #[arg(long)]
    force: bool,
    /// Print errors only
    #[arg(long)]
    quiet: bool,
    /// Print a machine-readable summary on stdout
    #[arg(long)]
    json: bool,
}

/// Merges, or says which calls are missing.
pub fn merge(flags: &Flags) -> Result<()> {
    let console = Console::new(flags.quiet);
    let merge = Merge::find(&flags.shards, flags.format)?;
    if !merge.missing().is_empty() {
        return Err(missing(&merge));
    }
    let stop = cli::stop_flag(
        &console,
        "what is copied whole into a folder stays, and the same call goes on; one tar file begins again",
    )?;
    let existing = if flags.force { Existing::Overwrite } else { Existing::Resume };
    let done = merge.run(&flags.out, existing, &console, &stop)?;
    let (facts, shards) = (merge.facts(), merge.shards());
    let (images, seconds) = (done.images, done.seconds);
    console.say(&format!("{images} images of {shards} shards copied in {seconds:.1} s → {}", text::path(&done.out)));
    if !flags.json {
        return Ok(());
    }
    let places = merge.selection().places()?;
    let keys = ["model", "model_sha256", "seed", "seeds", "start", "truncation", "class", "class_name", "batch", "provider"];
    let mut summary = json!({
        "count": places.end - places.start,
        "copied": images,
        "seconds": seconds,
        "shards": shards,
        "format": merge.format().name(),
        "out": done.out.to_string_lossy(),
    });
    for key in keys {
        summary[key] = facts[key].clone();
    }
    print_json(&summary)
}

/// What is missing, and the calls that make it.
fn missing(merge: &Merge) -> Error {
    /// More would be a page that nobody reads; the others are told by their numbers.
    const LISTED: usize = 16;
    let all = merge.missing();
    let told = |missing: &Missing| format!("\n  {missing}\n    {}", command(merge, missing));
    let mut hint: String = all.iter().take(LISTED).map(told).collect();
    if all.len() > LISTED {
        let others: Vec<String> = all[LISTED..].iter().map(|missing| missing.shard.to_string()).collect();
        hint += &format!("\n  and in the same way {}", others.join(", "));
    }
    let what = format!("{} of {} shards are missing or not finished", all.len(), all.len() + merge.shards());
    let file = merge.facts()["model"].as_str().is_some_and(|model| model.ends_with(".onnx"));
    let of_file = if file { " (manifests do not tell the model's folder: run them there, or put it in front)" } else { "" };
    Error::invalid("merge", what, format!("If they are elsewhere, name their folders, too; else make them{of_file}:{hint}"))
}

/// The call that makes a shard, beside others.
fn command(merge: &Merge, missing: &Missing) -> String {
    let facts = merge.facts();
    let mut words = vec!["gan-infer".to_string()];
    let mut flag = |name: &str, value: &Value| {
        let value = match value {
            Value::Null | Value::Bool(false) => return,
            Value::Bool(true) => return words.push(name.to_string()),
            Value::String(text) => quoted(text),
            other => other.to_string(),
        };
        words.extend([name.to_string(), value]);
    };
    flag("--n", &facts["n"]);
    flag("--seeds", &facts["seeds"]);
    let begins_later = |key: &str| facts[key].as_u64().is_some_and(|value| value > 0);
    for (name, key) in [("--seed", "seed"), ("--start", "start"), ("--start", "number")] {
        if begins_later(key) {
            flag(name, &facts[key]);
        }
    }
    flag("--model", &facts["model"]);
    flag("--truncation", &facts["truncation"]);
    // Where classes are called by other numbers than their own, a number would be taken for a name.
    flag("--class", if facts["class_name"].is_string() { &facts["class_name"] } else { &facts["class"] });
    // A manifest tells a precision only where it is int8, which built-in generators otherwise are on CPUs.
    let is_builtin = facts["model"]
        .as_str()
        .is_some_and(|model| ganforge::infer::builtin::named(Some(model)).is_ok_and(|found| found.is_some()));
    let f32 = json!("f32");
    flag("--precision", if facts["precision"].is_null() && is_builtin { &f32 } else { &facts["precision"] });
    for key in ["batch", "provider", "tf32"] {
        flag(&format!("--{key}"), &facts[key]);
    }
    flag("--format", &json!(merge.format().name()));
    flag("--shard", &json!(missing.shard.to_string()));
    flag("--out", &json!(out(merge, missing).to_string_lossy()));
    flag("--resume", &json!(true));
    words.join(" ")
}

/// Where a shard goes: where it was begun, or where the first of the others is.
fn out(merge: &Merge, missing: &Missing) -> PathBuf {
    let Some(place) = missing.begun.as_deref().or(merge.places().next()) else { return PathBuf::from("DIR") };
    let Some(ending) =
        place.extension().map(|it| it.to_string_lossy()).filter(|it| Format::of_file(it) == Some(merge.format()))
    else {
        return place.to_path_buf();
    };
    // A shard's file has its number in its name, which the call does not say.
    let stem = place.file_stem().unwrap_or_default().to_string_lossy();
    let cut = stem.rfind("-of-").and_then(|of| stem[..of].rfind('-'));
    match cut.map(|cut| &stem[..cut]) {
        Some("samples") => place.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")).to_path_buf(),
        Some(stem) => place.with_file_name(format!("{stem}.{ending}")),
        None => place.to_path_buf(),
    }
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+=@%".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_string() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}
