//! Checkpoints: everything a run needs to go on bit for bit. A folder appears under its name only when it is complete.
//!
//! Writing and reading stand in one file, for each is only right beside the other.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use toml::Value;

use super::batches::Batches;
use super::count::Shift;
use super::run::{PARTIAL, Which, remove_folder};
use super::trainer::raw_weights;
use super::{Best, RunFolder, Trainer, Watchdog};
use crate::config::{self, TrainConfig};
use crate::contract::{self, Weights};
use crate::data::Dataset;
use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::text::{self, grouped, on_one_line};
use crate::{files, memory};

pub(super) const GENERATOR: &str = "generator.safetensors";
pub(super) const CRITIC: &str = "critic.safetensors";
pub(super) const EMA: &str = "ema.safetensors";
const GENERATOR_OPTIMIZER: &str = "optimizer-generator.safetensors";
const CRITIC_OPTIMIZER: &str = "optimizer-critic.safetensors";
const CONFIG: &str = "config.toml";
const STATE: &str = "state.json";
const SUMS: &str = "SHA256SUMS";
const LATEST: &str = "latest";
const BEST: &str = "best";
const END: &str = "end.json";

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
    /// How it is counted, if batches or rhythm were changed on the way.
    #[serde(default, skip_serializing_if = "Shift::is_none")]
    pub counted: Shift,
    /// SHA-256 of the checkpoint's other files, by name; empty in checkpoints from before it was noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// More steps than any training makes; beyond it, counts would not fit their numbers.
const MAX_STEP: u64 = 1 << 40;

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
        return if path.is_dir() {
            Ok(Some(path))
        } else {
            Err(Error::usage(format!("there is no checkpoint of step {step}"), format!("There are: {}.", all()?)))
        };
    }
    if !pointer.exists() {
        if which == Which::Best {
            return latest(folder);
        }
        // Killed between a checkpoint and its pointer, or copied without it: a numbered folder is whole in any case.
        return Ok(numbered(&checkpoints)?.pop().map(|(_, name)| checkpoints.join(name)));
    }
    let wrong =
        |what: String| Error::invalid_file(&pointer, what, "Write the name of one of the folders beside it into the file.");
    let text = files::read(&pointer, POINTER)?;
    let name = std::str::from_utf8(&text).ok().map(str::trim).filter(|name| is_number(name));
    let name = name.ok_or_else(|| wrong("it does not hold the number of a checkpoint".to_string()))?;
    let path = checkpoints.join(name);
    if path.is_dir() { Ok(Some(path)) } else { Err(wrong(format!("it names the checkpoint {name}, which is not there"))) }
}

/// The most bytes of a file that names a checkpoint.
const POINTER: u64 = 64;

/// Whether a name is a checkpoint's: a number of steps.
fn is_number(name: &str) -> bool {
    const DIGITS: usize = 20;
    (1..=DIGITS).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_digit())
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

/// Saves the trainer and where it is in the data, makes this checkpoint the latest, and removes the oldest beyond the number
/// to keep; the best one stays.
///
/// # Errors
/// When the folder cannot be written to or is full; the checkpoints before stay as they are.
pub fn save(folder: &RunFolder, trainer: &Trainer, batches: &Batches, watchdog: &Watchdog) -> Result<()> {
    let (data, counted) = batches.counted();
    let checkpoints = folder.checkpoints();
    let name = format!("{:08}", trainer.step);
    let (target, partial) = (checkpoints.join(&name), checkpoints.join(format!("{PARTIAL}{name}")));
    remove_folder(&partial)?;
    folder.restore(&checkpoints)?;
    folder.restore(&partial)?;
    let mut state = State {
        step: trainer.step,
        images: batches.images_after(trainer.critic_steps()),
        generator_optimizer_steps: trainer.generator_optimizer.steps(),
        critic_optimizer_steps: trainer.critic_optimizer.steps(),
        data: data.name.clone(),
        data_sha256: data.sha256.clone(),
        watchdog: watchdog.clone(),
        counted,
        files: BTreeMap::new(),
    };
    write_all(&partial, trainer, &mut state)?;
    folder.check().inspect_err(|_| drop(remove_folder(&partial)))?;
    remove_folder(&target)?;
    std::fs::rename(&partial, &target).map_err(Error::io("write", &target))?;
    settle(folder, trainer, watchdog)
}

/// Points to the trainer's checkpoint as the latest and to the best, and removes what is not to be kept. Also after a load:
/// who saved may have been killed on the way.
pub(super) fn settle(folder: &RunFolder, trainer: &Trainer, watchdog: &Watchdog) -> Result<()> {
    let checkpoints = folder.checkpoints();
    let name = |step: u64| format!("{step:08}");
    point(&checkpoints.join(LATEST), &name(trainer.step))?;
    let best = watchdog.best.map(|best| best.step).filter(|step| checkpoints.join(name(*step)).is_dir());
    if let Some(step) = best {
        point(&checkpoints.join(BEST), &name(step))?;
    }
    prune(&checkpoints, trainer.step, trainer.config.output.keep_checkpoints, best)
}

/// Keeps what was measured of a run's last checkpoint at its end, and lets `best` name that one if it is better than all before. It is not in
/// the checkpoint: a run that is made longer is to be the same as one that was as long from the beginning, which did not measure here.
///
/// # Errors
/// When the folder cannot be written to.
pub(super) fn save_end(folder: &RunFolder, watchdog: &Watchdog, end: Best) -> Result<()> {
    let json = serde_json::to_string(&end).map_err(|e| Error::invalid(END, e.to_string(), "Please report this."))?;
    files::write_atomic(&folder.checkpoints().join(END), (json + "\n").as_bytes())?;
    settle_end(folder, watchdog, end)
}

/// What was measured at the end of a run that has made so many steps, if anything was; what is damaged is measured anew.
///
/// # Errors
/// When it cannot be read.
pub(super) fn end(folder: &RunFolder, step: u64) -> Result<Option<Best>> {
    let path = folder.checkpoints().join(END);
    if !path.exists() {
        return Ok(None);
    }
    let end: Option<Best> = serde_json::from_slice(&files::read(&path, files::TEXT)?).ok();
    let is_distance = |quality: f64| quality.is_finite() && quality >= 0.0;
    Ok(end.filter(|end| end.step == step && end.quality.is_some_and(is_distance)))
}

/// Lets `best` name the last checkpoint, if what was measured of it at the end is better than all before.
pub(super) fn settle_end(folder: &RunFolder, watchdog: &Watchdog, end: Best) -> Result<()> {
    if end.quality.is_some_and(|quality| watchdog.would_improve(quality)) {
        point(&folder.checkpoints().join(BEST), &format!("{:08}", end.step))?;
    }
    Ok(())
}

/// Forgets the end of a run that goes on.
pub(super) fn forget_end(folder: &RunFolder) -> Result<()> {
    let path = folder.checkpoints().join(END);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
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

/// Lets a file name a checkpoint; one that does already is left alone.
fn point(pointer: &Path, name: &str) -> Result<()> {
    let text = format!("{name}\n");
    match files::read(pointer, POINTER) {
        Ok(old) if old == text.as_bytes() => Ok(()),
        _ => files::write_atomic(pointer, text.as_bytes()),
    }
}

/// Writes all files of a checkpoint, the state with the others' checksums after them, and the list of all for people.
fn write_all(into: &Path, trainer: &Trainer, state: &mut State) -> Result<()> {
    let (generator, critic) = (raw_weights(&trainer.generator), raw_weights(&trainer.critic));
    let mut tensors = vec![
        (GENERATOR, &generator),
        (CRITIC, &critic),
        (GENERATOR_OPTIMIZER, trainer.generator_optimizer.slots()),
        (CRITIC_OPTIMIZER, trainer.critic_optimizer.slots()),
    ];
    tensors.extend(trainer.ema.as_ref().map(|ema| (EMA, ema.tensors())));
    let mut write = |name: &str, bytes: &[u8]| {
        state.files.insert(name.to_string(), sha256(bytes));
        files::write_atomic(&into.join(name), bytes)
    };
    for (name, tensors) in tensors {
        write(name, &serialized(&into.join(name), tensors)?)?;
    }
    write(CONFIG, decisive(&trainer.config)?.as_bytes())?;
    let json = serde_json::to_string_pretty(state).map_err(|e| Error::invalid(STATE, e.to_string(), "Please report this."))?;
    let json = json + "\n";
    files::write_atomic(&into.join(STATE), json.as_bytes())?;
    let mut sums = state.files.clone();
    sums.insert(STATE.to_string(), sha256(json.as_bytes()));
    // In the form of sha256sum.
    let lines: String = sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
    files::write_atomic(&into.join(SUMS), lines.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    contract::hex(&Sha256::digest(bytes))
}

/// Compares a file of a checkpoint with the checksums in the list and in the state beside it, as far as there are any: a
/// changed weight would be a weight all the same.
fn check_sums(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (sum, sums) = (sha256(bytes), path.with_file_name(SUMS));
    if sums.exists() {
        let line = format!("{sum}  {name}");
        if !String::from_utf8_lossy(&files::read(&sums, files::TEXT)?).lines().any(|saved| saved == line) {
            return Err(damaged(path, format!("its checksum is not the one in {SUMS} beside it")));
        }
    }
    if name == STATE {
        return Ok(());
    }
    let noted = noted_sums(&path.with_file_name(STATE))?;
    if noted.is_empty() || noted.get(&*name) == Some(&sum) {
        Ok(())
    } else {
        Err(damaged(path, format!("its checksum is not the one in {STATE} beside it")))
    }
}

/// The checksums that a checkpoint's state holds; none where it is an old one, or missing.
fn noted_sums(state: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Noted {
        #[serde(default)]
        files: BTreeMap<String, String>,
    }
    if !state.exists() {
        return Ok(BTreeMap::new());
    }
    let noted: Noted = serde_json::from_slice(&files::read(state, files::TEXT)?).map_err(|e| damaged(state, e.to_string()))?;
    Ok(noted.files)
}

/// What of the config is the run's and not a checkpoint's: it decides nothing of the weights, so checkpoints that were trained
/// alike are alike.
const OF_THE_RUN: [(&str, Option<&str>); 6] = [
    ("data", Some("source")),
    ("data", Some("class_names")),
    ("schedule", Some("length")),
    ("schedule", Some("capture")),
    ("output", None),
    ("watch", None),
];

/// The config as a checkpoint holds it.
fn decisive(config: &TrainConfig) -> Result<String> {
    let mut table = config::parse_table(&config.to_toml()?, CONFIG)?;
    for (section, key) in OF_THE_RUN {
        let Some(key) = key else {
            table.remove(section);
            continue;
        };
        if let Some(Value::Table(section)) = table.get_mut(section) {
            section.remove(key);
        }
    }
    toml::to_string(&table).map_err(|e| Error::invalid(CONFIG, e.to_string(), "Please report this."))
}

/// The config that a checkpoint was made with; length, output, watch, the place of the data and the classes' names are those of `run`. `None` where
/// the checkpoint is from before it was kept.
///
/// # Errors
/// When it is damaged, or missing though the checkpoint had it.
pub fn read_config(from: &Path, run: &TrainConfig) -> Result<Option<TrainConfig>> {
    let path = from.join(CONFIG);
    if !path.exists() && !noted_sums(&from.join(STATE))?.contains_key(CONFIG) {
        return Ok(None);
    }
    let bytes = files::read(&path, files::TEXT)?;
    check_sums(&path, &bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| damaged(&path, "not UTF-8 text".to_string()))?;
    let place = text::path(&path);
    let mut table = config::parse_table(&text, &place)?;
    let mut run = config::parse_table(&run.to_toml()?, CONFIG)?;
    for (section, key) in OF_THE_RUN {
        let Some(theirs) = run.get_mut(section) else { continue };
        let Some(key) = key else {
            table.insert(section.to_string(), theirs.clone());
            continue;
        };
        if let (Value::Table(theirs), Some(Value::Table(ours))) = (theirs, table.get_mut(section)) {
            ours.extend(theirs.remove(key).map(|value| (key.to_string(), value)));
        }
    }
    TrainConfig::from_table(table, &place).map(Some)
}

/// How a run goes on whose images are not those that its checkpoint was trained on.
fn other_images(saved: &Path) -> String {
    let run = text::path(saved.ancestors().nth(2).unwrap_or(saved));
    format!(
        "Name the run's own data with `Overrides::data`; or, to go on with these images, begin another run with its weights: \
         `TrainConfig::from_toml` {run}/config.toml `Overrides::init_from` {run}, with these `Overrides::data` and a new `RunFolder::path`."
    )
}

/// Puts a trainer where a checkpoint left it, and gives the watchdog as it was then.
///
/// # Errors
/// When a file is missing or damaged, or belongs to another config or data set.
pub fn load(from: &Path, trainer: &mut Trainer, data: &Dataset) -> Result<Watchdog> {
    let state = read_state(from)?;
    if state.data_sha256 != data.sha256 {
        let changed = match state.data == data.name {
            true => ", which are called the same: some were added, removed or changed",
            false => "",
        };
        let what = format!(
            "this checkpoint was trained on other images ({}) than the {} given ({}){changed}",
            on_one_line(&state.data),
            grouped(data.len),
            on_one_line(&data.name)
        );
        return Err(Error::invalid_file(from, what, other_images(from)));
    }
    let place = |file: &str| text::path(&from.join(file));
    trainer.generator.load(&read_tensors(&from.join(GENERATOR))?, &place(GENERATOR))?;
    trainer.critic.load(&read_tensors(&from.join(CRITIC))?, &place(CRITIC))?;
    let averaged = read_config(from, &trainer.config)?.is_none_or(|config| config.schedule.has_average());
    match &mut trainer.ema {
        Some(ema) if averaged => ema.load(read_tensors(&from.join(EMA))?, &place(EMA))?,
        // The average was asked for on the way: it begins here.
        Some(_) => trainer.ema = Some(Ema::new(&trainer.generator)?),
        None => {}
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
    let bytes = files::read(&path, files::TEXT)?;
    check_sums(&path, &bytes)?;
    let state: State = serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e.to_string()))?;
    if state.step.max(state.generator_optimizer_steps).max(state.critic_optimizer_steps) <= MAX_STEP {
        Ok(state)
    } else {
        Err(damaged(&path, format!("it counts more than {MAX_STEP} steps")))
    }
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
#[cfg(feature = "infer")] // only a feature model, which needs both, is a file of tensors alone
pub(crate) fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    files::write_atomic(path, &serialized(path, tensors)?)
}

fn serialized(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let on_cpu: Vec<(&String, Tensor)> =
        tensors.iter().map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?))).collect::<Result<_>>()?;
    safetensors::serialize(on_cpu.iter().map(|(name, tensor)| (name.as_str(), tensor)), None)
        .map_err(|e| damaged(path, e.to_string()))
}

/// Reads tensors by name, on the CPU.
///
/// # Errors
/// When the file is missing, not what the checksums beside it say, or no safetensors file.
pub fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = read_whole(path, |what| damaged(path, what))?;
    check_sums(path, &bytes)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| damaged(path, e.to_string()))?;
    Ok(tensors.into_iter().collect())
}

/// Reads a safetensors file. Its header comes first: a file that does not have the length which that tells is refused with `wrong`
/// before memory is taken for it.
///
/// # Errors
/// When it is missing, unreadable, no safetensors file by its header, or too large for the memory there is.
pub(super) fn read_whole(path: &Path, wrong: impl Fn(String) -> Error) -> Result<Vec<u8>> {
    /// Bytes of the header's own length, before it.
    const LENGTH: usize = size_of::<u64>();
    let (mut file, length) = files::open(path)?;
    let mut bytes = Vec::new();
    let mut read = |limit: u64, bytes: &mut Vec<u8>| {
        (&mut file).take(limit).read_to_end(bytes).map_err(Error::io("read", path)).map(|_| ())
    };
    read(LENGTH as u64, &mut bytes)?;
    let Some(header) = bytes.first_chunk::<LENGTH>().map(|number| u64::from_le_bytes(*number)) else {
        return Err(wrong(format!("it ends after {} bytes", bytes.len())));
    };
    if header > files::TEXT || header > length.saturating_sub(LENGTH as u64) {
        return Err(wrong(format!("its header would be {header} bytes long")));
    }
    read(header, &mut bytes)?;
    let told: safetensors::tensor::Metadata =
        serde_json::from_slice(bytes.get(LENGTH..).unwrap_or_default()).map_err(|e| wrong(format!("its header: {e}")))?;
    let expected = (bytes.len() as u64).saturating_add(told.data_len() as u64);
    if length != expected {
        return Err(wrong(format!("it has {length} bytes, and its header tells of {expected}")));
    }
    // Once as bytes, and once as tensors.
    memory::check(path, length.saturating_mul(2), "its tensors", "Name a smaller file.")?;
    let out_of_memory = |_| Error::io("read", path)(std::io::ErrorKind::OutOfMemory.into());
    bytes.try_reserve_exact(told.data_len()).map_err(out_of_memory)?;
    read(told.data_len() as u64, &mut bytes)?;
    Ok(bytes)
}

fn damaged(path: &Path, what: String) -> Error {
    Error::invalid_file(
        path,
        what,
        "The file is damaged: go back to an earlier checkpoint. A training goes on from the one that `checkpoints/latest` names; what is \
         exported or judged is chosen by `Which::Step`.",
    )
}

/// Removes all but the newest `keep` checkpoints up to `step` and the best. Checkpoints of later steps are there after someone went
/// back to an earlier one; they stay until the run reaches their steps again.
fn prune(checkpoints: &Path, step: u64, keep: usize, best: Option<u64>) -> Result<()> {
    let mut past = numbered(checkpoints)?;
    past.retain(|(number, _)| *number <= step);
    let mut old = past.into_iter().rev().skip(keep).filter(|(step, _)| Some(*step) != best);
    old.try_for_each(|(_, name)| remove_folder(&checkpoints.join(name)))
}
