//! Weights from elsewhere: another run's, a safetensors file's, or a PyTorch state dict's, of the same architecture.
//!
//! Strangers call their tensors as they like (`main.0.weight`, `net.bn1.running_mean`). They are matched by place: the layers
//! with kernels of a file, in its order, with those of the network, and its normalisations with those of the network; roles
//! (weight, bias, running statistics, the vectors of spectral normalisation) and shapes must agree one to one. A `.pth` keeps the
//! order in which its network was built; in a safetensors file, which sorts its tensors, layers are taken in the order of their
//! names, numbers counted as numbers. What no tensor tells, as strides and activations, is the config's to say.
//! `num_batches_tracked` is passed over, and so are the prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile).

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::checkpoint::Which;
use super::checkpoint::{self, State};
use super::count::Shift;
use super::naming::{last, natural};
use super::networks::{critic_network, generator_network};
use super::pth::{Pth, Stored};
use super::run::RunFolder;
use super::watch::Watchdog;
use super::{Trained, Trainer};
use crate::config::TrainConfig;
use crate::contract::Weights;
use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::nn::Network;
use crate::{files, text};

/// What the metadata of a generator says of the data that its weights were trained on elsewhere.
const UNKNOWN: &str = "unknown";
const HINT: &str =
    "Choose the preset or config that the weights were trained with; `config::resized` and `Overrides::set` change its layers.";

/// Puts the weights that files hold into a trainer at its beginning; the average starts from them, too. Each path is a run's
/// folder (its best checkpoint; the generator as it is, or averaged where the checkpoint has no other), a checkpoint's, a
/// `.safetensors` file or a PyTorch state dict. Returns a line that says what came from where.
///
/// # Errors
/// When a file is missing, damaged, or holds neither a generator nor a critic like these; or holds both, and one of them
/// is of another architecture; or two files hold the same network. Nothing is changed then.
pub fn begin(trainer: &mut Trainer, paths: &[impl AsRef<Path>]) -> Result<String> {
    let found = find_all(paths, &trainer.generator, &trainer.critic)?;
    for (path, Initial { generator, critic }) in &found {
        let place = text::path(path);
        if let Some((_, weights)) = generator {
            trainer.generator.load(weights, &place)?;
            if trainer.ema.is_some() {
                trainer.ema = Some(Ema::new(trainer.config.schedule.ema_decay, &trainer.generator)?);
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
    find_all(&config.init_from.iter().collect::<Vec<_>>(), &generator, &critic).map(|_| ())
}

fn networks(config: &TrainConfig) -> Result<[Network; 2]> {
    Ok([generator_network(config, &Device::Cpu, DType::F32)?, critic_network(config, &Device::Cpu, DType::F32)?])
}

/// A generator of `config`'s architecture from a file, ready to be exported; `path` as in [`begin`].
///
/// # Errors
/// When the file is missing, damaged, or holds no such generator.
pub fn load_generator(config: TrainConfig, path: &Path) -> Result<Trained> {
    let generator = generator_network(&config, &Device::Cpu, DType::F32)?;
    let opened = WeightFile::open(path)?;
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

/// What people call the average of a generator's weights.
fn is_average(key: &str) -> bool {
    last(key).contains("ema")
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
        let folder: PathBuf = if path.join("config.toml").is_file() {
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

/// Where a tensor is.
#[derive(Clone)]
enum TensorAt<'a> {
    Memory(&'a Tensor),
    File(&'a Pth, &'a Stored),
}

impl TensorAt<'_> {
    fn dims(&self) -> &[usize] {
        match self {
            Self::Memory(tensor) => tensor.dims(),
            Self::File(_, stored) => &stored.dims,
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::Memory(tensor) => tensor.dtype(),
            Self::File(_, stored) => stored.dtype,
        }
    }

    fn read(&self) -> Result<Tensor> {
        match self {
            Self::Memory(tensor) => Ok((*tensor).clone()),
            Self::File(pth, stored) => pth.read(stored),
        }
    }
}

/// Tensors that may be a network's, in order.
#[derive(Clone)]
struct Candidate<'a> {
    key: String,
    /// Whether it is only what lies under a common part of the names of a dict.
    part: bool,
    tensors: Vec<(String, TensorAt<'a>)>,
}

impl<'a> Candidate<'a> {
    fn sorted(key: &str, tensors: &'a BTreeMap<String, Tensor>) -> Self {
        let mut tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), TensorAt::Memory(tensor))).collect();
        tensors.sort_by_cached_key(|(name, _)| natural(name));
        Self { key: key.to_string(), part: false, tensors }
    }

    fn stored(key: &str, pth: &'a Pth, stored: &'a [Stored]) -> Self {
        let tensors = stored.iter().map(|stored| (stored.name.clone(), TensorAt::File(pth, stored))).collect();
        Self { key: key.to_string(), part: false, tensors }
    }

    /// Itself without wrappers' prefixes, and what lies under each first part of the names, to a depth that no one exceeds.
    fn with_parts(mut self) -> Vec<Self> {
        for wrapper in ["module.", "_orig_mod.", "module."] {
            if self.tensors.iter().all(|(name, _)| name.starts_with(wrapper)) {
                self.tensors.iter_mut().for_each(|(name, _)| *name = name.split_off(wrapper.len()));
            }
        }
        let mut all = Vec::new();
        self.parts(3, &mut all);
        all.insert(0, self);
        all
    }

    fn parts(&self, depth: usize, all: &mut Vec<Self>) {
        let mut parts: Vec<Self> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (name, source) in &self.tensors {
            let Some((first, rest)) = name.split_once('.') else { continue };
            let at = *known.entry(first).or_insert_with(|| {
                let key = if self.key.is_empty() { first.to_string() } else { format!("{}.{first}", self.key) };
                parts.push(Self { key, part: true, tensors: Vec::new() });
                parts.len() - 1
            });
            parts[at].tensors.push((rest.to_string(), source.clone()));
        }
        for part in parts {
            if depth > 1 {
                part.parts(depth - 1, all);
            }
            // What holds everything is the whole under a shorter name.
            if part.tensors.len() < self.tensors.len() {
                all.push(part);
            }
        }
    }
}

/// A candidate's key, and its tensors by our names.
type Chosen<'a> = (String, BTreeMap<String, TensorAt<'a>>);

/// How a candidate differs from a network.
struct Misfit {
    /// Whether its key says that it is one.
    named: bool,
    /// Layers that agree.
    alike: usize,
    key: String,
    what: String,
}

impl Misfit {
    /// The higher, the likelier that this is what was meant.
    fn rank(&self) -> (bool, usize) {
        (self.named, self.alike)
    }

    fn error(self, path: &Path, network: &str) -> Error {
        let key = if self.key.is_empty() { String::new() } else { format!("'{}' ", self.key) };
        Error::invalid_file(path, format!("{key}does not fit the config's {network}: {}", self.what), HINT)
    }

    fn error_beside(self, path: &Path, network: &str, other: &str) -> Error {
        let hint = format!("{HINT} To begin with the {other} alone, name a file that holds nothing else.");
        match self.error(path, network) {
            Error::Invalid { place, what, .. } => Error::invalid(place, what, hint),
            error => error,
        }
    }
}

/// The candidate that is such a network; of several the averaged one, else the first.
fn choose<'a>(candidates: &[Candidate<'a>], network: &Network, is_named: fn(&str) -> bool) -> Result<Chosen<'a>, Misfit> {
    let mut best: Option<Chosen> = None;
    let mut nearest: Option<Misfit> = None;
    for candidate in candidates {
        match fit(candidate, network) {
            Ok(weights) if best.is_none() || is_average(&candidate.key) => {
                best = Some((candidate.key.clone(), weights));
            }
            Err(mut misfit) => {
                misfit.named = is_named(&candidate.key);
                let nearer = nearest.as_ref().is_none_or(|nearest| misfit.rank() > nearest.rank());
                // A piece of a network is like others by chance.
                if nearer && (misfit.named || !candidate.part) {
                    nearest = Some(misfit);
                }
            }
            _ => {}
        }
    }
    let empty = || Misfit { named: false, alike: 0, key: String::new(), what: "it holds no tensors".to_string() };
    best.ok_or_else(|| nearest.unwrap_or_else(empty))
}

/// What a layer's tensors may be.
const ROLES: [&str; 6] = ["weight", "bias", "running_mean", "running_var", "weight_u", "weight_v"];

/// A layer's tensors by role.
struct Module<T> {
    name: String,
    roles: BTreeMap<String, (Vec<usize>, T)>,
}

impl<T> Module<T> {
    fn is_norm(&self) -> bool {
        self.roles.get("weight").is_none_or(|(dims, _)| dims.len() < 2)
    }

    fn shapes(&self) -> String {
        let known = ROLES.iter().filter_map(|role| Some((role, self.roles.get(*role)?)));
        known.map(|(role, (dims, _))| format!("{role} {}", product(dims))).collect::<Vec<_>>().join(", ")
    }

    fn agrees<U>(&self, other: &Module<U>) -> bool {
        let (ours, theirs) = (self.roles.iter(), other.roles.iter());
        self.roles.len() == other.roles.len()
            && ours.zip(theirs).all(|((role, (dims, _)), (other, (others, _)))| role == other && dims == others)
    }
}

fn product(dims: &[usize]) -> String {
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("×")
}

/// Layer and role of a tensor. PyTorch has two ways to name the tensors of spectral normalisation.
fn split(name: &str) -> (&str, &str) {
    for (ending, role) in [
        (".weight_orig", "weight"),
        (".parametrizations.weight.original", "weight"),
        (".parametrizations.weight.0._u", "weight_u"),
        (".parametrizations.weight.0._v", "weight_v"),
    ] {
        if let Some(layer) = name.strip_suffix(ending) {
            return (layer, role);
        }
    }
    name.rsplit_once('.').unwrap_or(("", name))
}

/// Groups tensors by layer, in the order of first appearance.
fn modules<T>(tensors: impl Iterator<Item = (String, Vec<usize>, T)>) -> Result<Vec<Module<T>>, String> {
    let mut modules: Vec<Module<T>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (name, dims, source) in tensors {
        let (layer, role) = split(&name);
        match role {
            "num_batches_tracked" => continue,
            _ if ROLES.contains(&role) => {}
            _ => return Err(format!("tensor {name} is none of {}", ROLES.join(", "))),
        }
        let at = *known.entry(layer.to_string()).or_insert_with(|| {
            modules.push(Module { name: layer.to_string(), roles: BTreeMap::new() });
            modules.len() - 1
        });
        modules[at].roles.insert(role.to_string(), (dims, source));
    }
    Ok(modules)
}

fn listed<T>(modules: &[&Module<T>]) -> Vec<String> {
    modules.iter().map(|module| format!("{} ({})", module.name, module.shapes())).collect()
}

/// Where two lists of layers part, and both lists.
fn parted(kind: &str, at: usize, ours: &[String], theirs: &[String]) -> String {
    let name = |list: &[String]| list.get(at).map_or("none".to_string(), String::clone);
    let list = |list: &[String]| if list.is_empty() { "none".to_string() } else { list.join(", ") };
    format!(
        "{kind} {} is {}, expected {} (all in the file: {}; all expected: {})",
        at + 1,
        name(theirs),
        name(ours),
        list(theirs),
        list(ours)
    )
}

/// Reads what was chosen.
fn read(weights: BTreeMap<String, TensorAt>, path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (name, source) in weights {
        let tensor = source.read()?;
        let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if !values.iter().all(|value| value.is_finite()) {
            let what = format!("the tensor for {name} holds NaN or infinity");
            return Err(Error::invalid_file(path, what, "Take weights from before training diverged."));
        }
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The candidate's tensors by the network's names.
fn fit<'a>(candidate: &Candidate<'a>, network: &Network) -> Result<BTreeMap<String, TensorAt<'a>>, Misfit> {
    let misfit = |alike: usize, what: String| Misfit { named: false, alike, key: candidate.key.clone(), what };
    // Our own files: whatever their tensors are, their names tell.
    let own: BTreeMap<&str, &TensorAt> = candidate.tensors.iter().map(|(name, source)| (name.as_str(), source)).collect();
    let same = |name: &str, dims: &[usize]| own.get(name).is_some_and(|source| source.dims() == dims);
    if own.len() == network.parameters().count() && network.parameters().all(|p| same(&p.name, p.var.dims())) {
        return Ok(candidate.tensors.iter().cloned().collect());
    }

    let ours = network.parameters().map(|p| (p.name.clone(), p.var.dims().to_vec(), p.name.clone()));
    let theirs = candidate.tensors.iter().map(|(name, source)| (name.clone(), source.dims().to_vec(), source.clone()));
    let ours = modules(ours).map_err(|what| misfit(0, format!("by place nothing can be matched, for its {what}")))?;
    let theirs = modules(theirs).map_err(|what| misfit(0, format!("its {what}")))?;
    let (mut matched, mut alike) = (BTreeMap::new(), 0);
    for (kind, norm) in [("layer with kernels", false), ("normalisation", true)] {
        let ours: Vec<_> = ours.iter().filter(|module| module.is_norm() == norm).collect();
        let theirs: Vec<_> = theirs.iter().filter(|module| module.is_norm() == norm).collect();
        for at in 0..ours.len().max(theirs.len()) {
            let (expected, found) = (ours.get(at), theirs.get(at));
            let Some((expected, found)) = expected.zip(found).filter(|(expected, found)| expected.agrees(found)) else {
                return Err(misfit(alike, parted(kind, at, &listed(&ours), &listed(&theirs))));
            };
            for (role, (_, name)) in &expected.roles {
                let source = &found.roles[role].1;
                if !source.dtype().is_float() {
                    return Err(misfit(alike, format!("{role} of its {} is of the type {:?}", found.name, source.dtype())));
                }
                matched.insert(name.clone(), source.clone());
            }
            alike += 1;
        }
    }
    Ok(matched)
}
