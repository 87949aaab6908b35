//! Checkpoints: everything a run needs to go on bit for bit. A folder appears under its name only when it is complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::step::raw_weights;
use super::{RunFolder, Trainer, Watchdog, Which};
use crate::contract::{self, Weights};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;

pub(super) const GENERATOR: &str = "generator.safetensors";
pub(super) const CRITIC: &str = "critic.safetensors";
pub(super) const EMA: &str = "ema.safetensors";
const GENERATOR_OPTIMIZER: &str = "optimizer-generator.safetensors";
const CRITIC_OPTIMIZER: &str = "optimizer-critic.safetensors";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
const LATEST: &str = "latest";
const BEST: &str = "best";

/// What a checkpoint says of itself, in `state.json`. There is no random state: every draw is addressed by the step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Generator steps made.
    pub step: u64,
    /// Real images shown to the critic.
    pub images: u64,
    /// Steps of the generator's optimiser.
    pub generator_optimizer_steps: u64,
    /// Steps of the critic's optimiser.
    pub critic_optimizer_steps: u64,
    /// The data set's name.
    pub data: String,
    /// SHA-256 over the data set's pixels, and its labels where classes are told.
    pub data_sha256: String,
    /// What the watchdog knows.
    #[serde(default)]
    pub watchdog: Watchdog,
}

/// The folder of a run's newest checkpoint; `None` if it has none yet.
///
/// # Errors
/// When the file `latest` is unreadable or names a checkpoint that is not there.
pub fn latest(folder: &RunFolder) -> Result<Option<PathBuf>> {
    find(folder, Which::Latest)
}

/// The folder of one of a run's checkpoints; `None` if it has none yet.
///
/// # Errors
/// When `latest` or `best` is unreadable or names a checkpoint that is not there, or there is none of that step.
pub fn find(folder: &RunFolder, which: Which) -> Result<Option<PathBuf>> {
    let checkpoints = folder.checkpoints();
    let pointer = checkpoints.join(if which == Which::Best { BEST } else { LATEST });
    if let Which::Step(step) = which {
        let path = checkpoints.join(format!("{step:08}"));
        let all = || {
            numbered(&checkpoints).map(|all| all.into_iter().map(|(step, _)| step.to_string()).collect::<Vec<_>>().join(", "))
        };
        return match path.is_dir() {
            true => Ok(Some(path)),
            false => Err(Error::usage(format!("there is no checkpoint of step {step}"), format!("There are: {}.", all()?))),
        };
    }
    if !pointer.exists() {
        if which == Which::Best {
            return latest(folder);
        }
        // Killed between a checkpoint and its pointer, or copied without it: a numbered folder is whole in any case.
        return Ok(numbered(&checkpoints)?.pop().map(|(_, name)| checkpoints.join(name)));
    }
    let name = String::from_utf8_lossy(&files::read(&pointer, files::TEXT)?).trim().to_string();
    let path = checkpoints.join(&name);
    match is_number(&name) && path.is_dir() {
        true => Ok(Some(path)),
        false => Err(Error::invalid_file(
            &pointer,
            format!("it names the checkpoint '{name}', which is not there"),
            "Write the name of one of the folders beside it into the file.",
        )),
    }
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// The names in the folder of checkpoints; none if it is not there.
fn names(checkpoints: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(checkpoints) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io("read", checkpoints)(e)),
    }
}

/// Step and name of every checkpoint, ascending.
fn numbered(checkpoints: &Path) -> Result<Vec<(u64, String)>> {
    let names = names(checkpoints)?.into_iter().filter(|name| is_number(name));
    let mut all: Vec<(u64, String)> = names.filter_map(|name| Some((name.parse().ok()?, name))).collect();
    all.sort();
    Ok(all)
}

/// Saves the trainer after `images` real images, makes this checkpoint the latest, and removes the oldest beyond the number
/// to keep; the best one stays.
///
/// # Errors
/// When the folder cannot be written to or is full; the checkpoints before stay as they are.
pub fn save(folder: &RunFolder, trainer: &Trainer, data: &Dataset, images: u64, watchdog: &Watchdog) -> Result<()> {
    let checkpoints = folder.checkpoints();
    let name = format!("{:08}", trainer.step);
    let (target, partial) = (checkpoints.join(&name), checkpoints.join(format!(".partial-{name}")));
    remove_folder(&partial)?;
    files::create_folder(&partial)?;
    let state = State {
        step: trainer.step,
        images,
        generator_optimizer_steps: trainer.generator_optimizer.steps(),
        critic_optimizer_steps: trainer.critic_optimizer.steps(),
        data: data.name.clone(),
        data_sha256: data.sha256.clone(),
        watchdog: watchdog.clone(),
    };
    write_all(&partial, trainer, &state)?;
    remove_folder(&target)?;
    std::fs::rename(&partial, &target).map_err(Error::io("write", &target))?;
    settle(folder, trainer, watchdog)
}

/// Points to the trainer's checkpoint as the latest and to the best, and removes what is not to be kept. Also after a load:
/// who saved may have been killed on the way.
pub(super) fn settle(folder: &RunFolder, trainer: &Trainer, watchdog: &Watchdog) -> Result<()> {
    let checkpoints = folder.checkpoints();
    let name = |step: u64| format!("{step:08}");
    files::write_atomic(&checkpoints.join(LATEST), format!("{}\n", name(trainer.step)).as_bytes())?;
    let best = watchdog.best.map(|best| best.step).filter(|step| checkpoints.join(name(*step)).is_dir());
    if let Some(step) = best {
        files::write_atomic(&checkpoints.join(BEST), format!("{}\n", name(step)).as_bytes())?;
    }
    prune(&checkpoints, trainer.step, trainer.config.output.keep_checkpoints, best)
}

/// Whether no weight is NaN or infinite, nor what the optimisers keep: an infinite average stops a weight for good.
pub(super) fn is_finite(trainer: &Trainer) -> Result<bool> {
    let kept = trainer.generator_optimizer.slots().values().chain(trainer.critic_optimizer.slots().values());
    let weights = trainer.generator.parameters().chain(trainer.critic.parameters());
    for tensor in weights.map(|parameter| parameter.var.as_detached_tensor()).chain(kept.cloned()) {
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if !values.iter().all(|value| value.is_finite()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_all(into: &Path, trainer: &Trainer, state: &State) -> Result<()> {
    write_tensors(&into.join(GENERATOR), &raw_weights(&trainer.generator))?;
    write_tensors(&into.join(CRITIC), &raw_weights(&trainer.critic))?;
    if let Some(ema) = &trainer.ema {
        write_tensors(&into.join(EMA), ema.tensors())?;
    }
    write_tensors(&into.join(GENERATOR_OPTIMIZER), trainer.generator_optimizer.slots())?;
    write_tensors(&into.join(CRITIC_OPTIMIZER), trainer.critic_optimizer.slots())?;
    let json = serde_json::to_string_pretty(state).map_err(|e| Error::invalid(STATE, e.to_string(), "Please report this."))?;
    files::write_atomic(&into.join(STATE), (json + "\n").as_bytes())?;
    write_sums(into)
}

/// Writes the checksums of all files of a folder, in the form of `sha256sum`.
fn write_sums(folder: &Path) -> Result<()> {
    let mut names = names(folder)?;
    names.sort();
    let line = |name: &String| Ok(format!("{}  {name}\n", sha256(&files::read(&folder.join(name), files::LARGE)?)));
    let sums: String = names.iter().map(line).collect::<Result<_>>()?;
    files::write_atomic(&folder.join(SUMS), sums.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    contract::hex(&Sha256::digest(bytes))
}

/// Reads a file whose checksum stands beside it, if there are checksums: a changed weight would be a weight all the same.
pub(super) fn read_checked(path: &Path) -> Result<Vec<u8>> {
    let bytes = files::read(path, files::LARGE)?;
    let sums = path.with_file_name(SUMS);
    if !sums.exists() {
        return Ok(bytes);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let line = format!("{}  {name}", sha256(&bytes));
    match String::from_utf8_lossy(&files::read(&sums, files::TEXT)?).lines().any(|saved| saved == line) {
        true => Ok(bytes),
        false => Err(damaged(path, format!("its checksum is not the one in {SUMS} beside it"))),
    }
}

/// Puts a trainer where a checkpoint left it, and gives the watchdog as it was then.
///
/// # Errors
/// When a file is missing or damaged, or belongs to another config or data set.
pub fn load(from: &Path, trainer: &mut Trainer, data: &Dataset) -> Result<Watchdog> {
    let state = read_state(from)?;
    if state.data_sha256 != data.sha256 {
        let what = format!("this checkpoint was trained on other images ({}) than the ones given ({})", state.data, data.name);
        return Err(Error::invalid_file(from, what, "Name the run's own data with --data."));
    }
    let place = |file: &str| from.join(file).display().to_string();
    trainer.generator.load(&read_tensors(&from.join(GENERATOR))?, &place(GENERATOR))?;
    trainer.critic.load(&read_tensors(&from.join(CRITIC))?, &place(CRITIC))?;
    if let Some(ema) = &mut trainer.ema {
        ema.load(read_tensors(&from.join(EMA))?, &place(EMA))?;
    }
    let slots = read_tensors(&from.join(GENERATOR_OPTIMIZER))?;
    trainer.generator_optimizer.load(state.generator_optimizer_steps, slots, &place(GENERATOR_OPTIMIZER))?;
    let slots = read_tensors(&from.join(CRITIC_OPTIMIZER))?;
    trainer.critic_optimizer.load(state.critic_optimizer_steps, slots, &place(CRITIC_OPTIMIZER))?;
    trainer.step = state.step;
    Ok(state.watchdog)
}

/// A checkpoint's `state.json`.
///
/// # Errors
/// When it is missing or damaged.
pub fn read_state(from: &Path) -> Result<State> {
    let path = from.join(STATE);
    serde_json::from_slice(&read_checked(&path)?).map_err(|e| damaged(&path, e.to_string()))
}

/// A checkpoint's generator, averaged or raw, on the CPU.
///
/// # Errors
/// When the file is missing or damaged.
pub fn read_generator(from: &Path, weights: Weights) -> Result<BTreeMap<String, Tensor>> {
    read_tensors(&generator_file(from, weights))
}

/// The file of a checkpoint's generator, averaged or raw.
pub fn generator_file(from: &Path, weights: Weights) -> PathBuf {
    from.join(match weights {
        Weights::Ema => EMA,
        Weights::Raw => GENERATOR,
    })
}

/// Writes tensors by name. The format sorts them, so the same tensors give the same bytes.
pub(crate) fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let on_cpu: Vec<(&String, Tensor)> =
        tensors.iter().map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?))).collect::<Result<_>>()?;
    let bytes = safetensors::serialize(on_cpu.iter().map(|(name, tensor)| (name.as_str(), tensor)), None)
        .map_err(|e| damaged(path, e.to_string()))?;
    files::write_atomic(path, &bytes)
}

/// Reads tensors by name, on the CPU.
///
/// # Errors
/// When the file is missing, not what the checksums beside it say, or no safetensors file.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = read_checked(path)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| damaged(path, e.to_string()))?;
    Ok(tensors.into_iter().collect())
}

fn damaged(path: &Path, what: String) -> Error {
    Error::invalid_file(
        path,
        what,
        "The file is damaged: go back to an earlier checkpoint by naming it in `checkpoints/latest`.",
    )
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes all but the newest `keep` checkpoints up to `step` and the best, and what an interrupted save left. Checkpoints of later steps
/// are there after someone went back to an earlier one; they stay until the run reaches their steps again.
fn prune(checkpoints: &Path, step: u64, keep: usize, best: Option<u64>) -> Result<()> {
    let mut past = numbered(checkpoints)?;
    past.retain(|(number, _)| *number <= step);
    let old = past.into_iter().rev().skip(keep).filter(|(step, _)| Some(*step) != best).map(|(_, name)| name);
    let partial = names(checkpoints)?.into_iter().filter(|name| name.starts_with(".partial-"));
    for name in old.chain(partial) {
        remove_folder(&checkpoints.join(name))?;
    }
    for name in names(checkpoints)?.into_iter().filter(|name| name.starts_with(files::TEMPORARY)) {
        let path = checkpoints.join(name);
        std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}
