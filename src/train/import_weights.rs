//! Weights from elsewhere: another run's, a safetensors file's, or a PyTorch state dict's, of the same architecture.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::checkpoint::{self, State};
use super::count::Shift;
use super::matching::{Candidate, Chosen, choose, is_average, read};
use super::naming::last;
use super::networks::{critic_network, generator_in_f32};
use super::pth::Pth;
use super::run::{RunFolder, Which};
use super::watch::Watchdog;
use super::{Trained, Trainer};
use crate::config::{Precision, TrainConfig};
use crate::contract::Weights;
use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::nn::Network;
use crate::{files, text};

/// What the metadata of a generator says of the data that its weights were trained on elsewhere.
const UNKNOWN: &str = "unknown";

/// Puts the weights that files hold into a trainer at its beginning; the average starts from them, too. Each path is a run's
/// folder (its best checkpoint; the generator as it is, or averaged where the checkpoint has no other), a checkpoint's, a
/// `.safetensors` file or a PyTorch state dict. Returns a line that says what came from where.
///
/// # Errors
/// When a file is missing, damaged, or holds neither a generator nor a critic like these; or holds both, and one of them
/// is of another architecture; or two files hold the same network; or a value is beyond what the config's precision holds. Nothing
/// is changed then.
pub fn begin(trainer: &mut Trainer, paths: &[impl AsRef<Path>]) -> Result<String> {
    let found = find_all(paths, &trainer.generator, &trainer.critic)?;
    check_range(&found, trainer.config.schedule.precision)?;
    for (path, Initial { generator, critic }) in &found {
        let place = text::path(path);
        if let Some((_, weights)) = generator {
            trainer.generator.load(weights, &place)?;
            if trainer.ema.is_some() {
                trainer.ema = Some(Ema::new(&trainer.generator)?);
            }
        }
        if let Some((_, weights)) = critic {
            trainer.critic.load(weights, &place)?;
        }
    }
    Ok(told(&found))
}

/// Checks, before a run begins, that it can begin with what `config.init_from` names; nothing to do if it names nothing.
///
/// # Errors
/// As [`begin`].
pub fn check(config: &TrainConfig) -> Result<()> {
    if config.init_from.is_empty() {
        return Ok(());
    }
    let [generator, critic] = networks(config)?;
    let found = find_all(&config.init_from.iter().collect::<Vec<_>>(), &generator, &critic)?;
    check_range(&found, config.schedule.precision)
}

/// Refuses what is finite in f32, but not in the precision that products are made in.
fn check_range(found: &[(PathBuf, Initial)], precision: Precision) -> Result<()> {
    /// The bits of the least f32 that is rounded to infinity: the largest bf16 is 3.39e38.
    const TOO_LARGE: u32 = 0x7f7f_8000;
    if precision != Precision::Bf16 {
        return Ok(());
    }
    for (path, Initial { generator, critic }) in found {
        for (name, tensor) in [generator, critic].into_iter().flatten().flat_map(|(_, tensors)| tensors) {
            let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            if let Some(value) = values.iter().find(|value| value.abs().to_bits() >= TOO_LARGE) {
                let what = format!("the tensor for {name} holds {value:e}, and bf16 ends at 3.39e38");
                return Err(Error::invalid_file(path, what, "Use `Overrides::precision` f32, or other weights."));
            }
        }
    }
    Ok(())
}

fn networks(config: &TrainConfig) -> Result<[Network; 2]> {
    Ok([generator_in_f32(config)?, critic_network(config, &Device::Cpu, DType::F32)?])
}

/// A generator of `config`'s architecture from a file, ready to be exported; `path` as in [`begin`].
///
/// # Errors
/// When the file is missing, damaged, or holds no such generator.
pub fn load_generator(config: TrainConfig, path: &Path) -> Result<Trained> {
    let opened = WeightFile::open(path)?;
    config.check_memory(0)?;
    let generator = generator_in_f32(&config)?;
    let candidates = opened.candidates();
    let (key, tensors) = choose(&candidates, &generator, is_generator).map_err(|misfit| misfit.error(path, "generator"))?;
    generator.load(&read(tensors, path)?, &text::path(path))?;
    let weights = if is_average(&key) { Weights::Ema } else { Weights::Raw };
    let unknown = UNKNOWN.to_string();
    let state = State {
        step: 0,
        images: 0,
        generator_optimizer_steps: 0,
        critic_optimizer_steps: 0,
        data: unknown.clone(),
        data_sha256: unknown,
        watchdog: Watchdog::default(),
        counted: Shift::default(),
        files: BTreeMap::new(),
    };
    Ok(Trained { config, generator, state, weights })
}

/// A network's weights by our names, with the key under which they were found.
type Named = (String, BTreeMap<String, Tensor>);

/// What a file has for a run.
struct Initial {
    generator: Option<Named>,
    critic: Option<Named>,
}

/// What came from where.
fn told(found: &[(PathBuf, Initial)]) -> String {
    let from = |of: fn(&Initial) -> &Option<Named>| {
        let (path, key) = found.iter().find_map(|(path, initial)| of(initial).as_ref().map(|(key, _)| (path, key)))?;
        Some(match (key.is_empty(), found.len()) {
            (true, 1) => "from the file".to_string(),
            (true, _) => format!("from {}", text::path(path)),
            (false, 1) => format!("from '{key}'"),
            (false, _) => format!("from '{key}' in {}", text::path(path)),
        })
    };
    let [generator, critic] =
        [from(|it| &it.generator), from(|it| &it.critic)].map(|it| it.unwrap_or("drawn anew".to_string()));
    match found {
        [(path, _)] => format!("begins with {}: generator {generator}, critic {critic}", text::path(path)),
        _ => format!("begins with: generator {generator}, critic {critic}"),
    }
}

/// What each file has for a run; no network may be in two of them.
fn find_all(paths: &[impl AsRef<Path>], generator: &Network, critic: &Network) -> Result<Vec<(PathBuf, Initial)>> {
    let find = |path: &Path| Ok((path.to_path_buf(), find(path, generator, critic)?));
    let found: Vec<(PathBuf, Initial)> = paths.iter().map(|path| find(path.as_ref())).collect::<Result<_>>()?;
    let holders = |of: fn(&Initial) -> bool| found.iter().filter(move |(_, initial)| of(initial)).collect::<Vec<_>>();
    let twice = [("generator", holders(|it| it.generator.is_some())), ("critic", holders(|it| it.critic.is_some()))];
    match twice.iter().find(|(_, holders)| holders.len() > 1) {
        Some((network, holders)) => {
            let names = holders.iter().map(|(path, _)| text::path(path)).collect::<Vec<_>>().join(" and ");
            Err(Error::usage(format!("`Overrides::init_from`: {names} each hold a {network}"), "Name one file a network."))
        }
        None => Ok(found),
    }
}

fn find(path: &Path, generator: &Network, critic: &Network) -> Result<Initial> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("optimizer-") && name.ends_with(".safetensors") {
        let hint = "Name generator.safetensors or critic.safetensors beside it, or the folder.";
        return Err(Error::invalid_file(path, "the state of an optimiser, not a network's weights", hint));
    }
    let opened = WeightFile::open(path)?;
    let candidates = opened.candidates();
    let named = |is: fn(&str) -> bool| candidates.iter().any(|candidate| is(&candidate.key));
    let chosen = (choose(&candidates, generator, is_generator), choose(&candidates, critic, is_critic));
    let (generator, critic) = match chosen {
        (Ok(generator), Ok(critic)) => (Some(generator), Some(critic)),
        (Ok(_), Err(misfit)) if named(is_critic) => return Err(misfit.error_beside(path, "critic", "generator")),
        (Err(misfit), Ok(_)) if named(is_generator) => return Err(misfit.error_beside(path, "generator", "critic")),
        (Ok(generator), Err(_)) => (Some(generator), None),
        (Err(_), Ok(critic)) => (None, Some(critic)),
        (Err(generator), Err(critic)) if critic.rank() > generator.rank() => return Err(critic.error(path, "critic")),
        (Err(generator), Err(_)) => return Err(generator.error(path, "generator")),
    };
    let named = |chosen: Option<Chosen>| match chosen {
        Some((key, weights)) => Ok::<_, Error>(Some((key, read(weights, path)?))),
        None => Ok(None),
    };
    Ok(Initial { generator: named(generator)?, critic: named(critic)? })
}

/// What people call a critic's state dict.
fn is_critic(key: &str) -> bool {
    let name = last(key);
    matches!(name.as_str(), "d" | "d_state_dict" | "model_d")
        || ["netd", "disc", "critic"].iter().any(|part| name.contains(part))
}

/// What people call a generator's.
fn is_generator(key: &str) -> bool {
    let name = last(key);
    matches!(name.as_str(), "g" | "g_state_dict" | "model_g") || ["netg", "gen", "ema"].iter().any(|part| name.contains(part))
}

/// A file whose tensors are known by name and shape.
enum WeightFile {
    /// By key; they keep no order.
    Tensors(Vec<(String, BTreeMap<String, Tensor>)>),
    Pth(Pth),
}

/// What our own files of averaged weights count as.
const AVERAGE: &str = "ema";

impl WeightFile {
    fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path);
        }
        let (file, _) = files::open(path)?;
        let mut head = Vec::new();
        file.take(9).read_to_end(&mut head).map_err(Error::io("read", path))?;
        match head.as_slice() {
            [b'P', b'K', ..] => Pth::open(path).map(Self::Pth),
            // A pickle of a number of 10 bytes, by which PyTorch knew its files.
            [0x80, _, 0x8a, 10, ..] => Err(Error::invalid_file(
                path,
                "a file in the form that PyTorch wrote before version 1.6",
                "Open it with PyTorch and save it anew: torch.save(net.state_dict(), \"net.pth\").",
            )),
            _ if is_onnx(&head) => Err(Error::invalid_file(
                path,
                "an exported generator (ONNX), whose weights were folded into its operations: none can be trained on from there",
                "Name the folder of the run that it was exported from, or the generator.safetensors of one of its checkpoints.",
            )),
            _ => {
                let is_average = path.file_name().is_some_and(|name| name == checkpoint::EMA);
                let key = if is_average { AVERAGE } else { "" };
                Ok(Self::Tensors(vec![(key.to_string(), safetensors(path)?)]))
            }
        }
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let missing = || {
            let what = "no checkpoint of a run, and no run with a checkpoint";
            Error::invalid_file(path, what, "Name a run's folder, a .safetensors file or a PyTorch state dict (.pth).")
        };
        // A checkpoint has a config, too.
        let is_checkpoint = [checkpoint::GENERATOR, checkpoint::EMA].iter().any(|name| path.join(name).is_file());
        let folder: PathBuf = if path.join("config.toml").is_file() && !is_checkpoint {
            checkpoint::find(&RunFolder::open(path)?, Which::Best)?.ok_or_else(missing)?
        } else {
            path.to_path_buf()
        };
        let mut dicts = Vec::new();
        let known = [("generator", checkpoint::GENERATOR), (AVERAGE, checkpoint::EMA), ("critic", checkpoint::CRITIC)];
        for (key, file) in known.map(|(key, name)| (key, folder.join(name))) {
            let has_generator = !dicts.is_empty();
            if file.is_file() && !(key == AVERAGE && has_generator) {
                dicts.push((key.to_string(), checkpoint::read_tensors(&file)?));
            }
        }
        if dicts.is_empty() { Err(missing()) } else { Ok(Self::Tensors(dicts)) }
    }

    /// Every set of tensors that may be a network: each dict, and each of the networks that it holds side by side.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let dicts: Vec<Candidate> = match self {
            Self::Tensors(dicts) => dicts.iter().map(|(key, tensors)| Candidate::sorted(key, tensors)).collect(),
            Self::Pth(pth) => pth.dicts.iter().map(|(key, stored)| Candidate::stored(key, pth, stored)).collect(),
        };
        dicts.into_iter().flat_map(Candidate::with_parts).collect()
    }
}

/// Whether a file begins as an ONNX file does, with the version of its form. A safetensors file, whose length of the header may have
/// the same bytes, has a brace behind that.
fn is_onnx(head: &[u8]) -> bool {
    matches!(head, [0x08, 1..=30, rest @ ..] if rest.last() != Some(&b'{'))
}

fn safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let wrong = |what: String| {
        let what = format!("neither a PyTorch state dict nor a safetensors file: {what}");
        Error::invalid_file(path, what, "Fetch it again: it may be cut off.")
    };
    let bytes = checkpoint::read_whole(path, wrong)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|e| wrong(e.to_string()))?;
    Ok(tensors.into_iter().collect())
}
