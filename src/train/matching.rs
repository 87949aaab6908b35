//! Which tensors of a stranger's file are which of a network's.
//!
//! Strangers call their tensors as they like (`main.0.weight`, `net.bn1.running_mean`). They are matched by place: the layers
//! with kernels of a file, in its order, with those of the network, and its normalisations with those of the network; roles
//! (weight, bias, running statistics, the vectors of spectral normalisation) and shapes must agree one to one. A `.pth` keeps the
//! order in which its network was built; in a safetensors file, which sorts its tensors, layers are taken in the order of their
//! names, numbers counted as numbers. What no tensor tells, as strides and activations, is the config's to say.
//! `num_batches_tracked` is passed over, and so are the prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Tensor};

use super::naming::{last, natural};
use super::pth::{Pth, Stored};
use crate::error::{Error, Result};
use crate::nn::Network;

const HINT: &str =
    "Choose the preset or config that the weights were trained with; `config::resized` and `Overrides::set` change its layers.";

/// Where a tensor is.
#[derive(Clone)]
pub(super) enum TensorAt<'a> {
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
pub(super) struct Candidate<'a> {
    pub key: String,
    /// Whether it is only what lies under a common part of the names of a dict.
    part: bool,
    tensors: Vec<(String, TensorAt<'a>)>,
}

impl<'a> Candidate<'a> {
    pub fn sorted(key: &str, tensors: &'a BTreeMap<String, Tensor>) -> Self {
        let mut tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.clone(), TensorAt::Memory(tensor))).collect();
        tensors.sort_by_cached_key(|(name, _)| natural(name));
        Self { key: key.to_string(), part: false, tensors }
    }

    pub fn stored(key: &str, pth: &'a Pth, stored: &'a [Stored]) -> Self {
        let tensors = stored.iter().map(|stored| (stored.name.clone(), TensorAt::File(pth, stored))).collect();
        Self { key: key.to_string(), part: false, tensors }
    }

    /// Itself without wrappers' prefixes, and what lies under each first part of the names, to a depth that no one exceeds.
    pub fn with_parts(mut self) -> Vec<Self> {
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
pub(super) type Chosen<'a> = (String, BTreeMap<String, TensorAt<'a>>);

/// How a candidate differs from a network.
pub(super) struct Misfit {
    /// Whether its key says that it is one.
    named: bool,
    /// Layers that agree.
    alike: usize,
    key: String,
    what: String,
}

impl Misfit {
    /// The higher, the likelier that this is what was meant.
    pub fn rank(&self) -> (bool, usize) {
        (self.named, self.alike)
    }

    pub fn error(self, path: &Path, network: &str) -> Error {
        let key = if self.key.is_empty() { String::new() } else { format!("'{}' ", self.key) };
        Error::invalid_file(path, format!("{key}does not fit the config's {network}: {}", self.what), HINT)
    }

    pub fn error_beside(self, path: &Path, network: &str, other: &str) -> Error {
        let hint = format!("{HINT} To begin with the {other} alone, name a file that holds nothing else.");
        match self.error(path, network) {
            Error::Invalid { place, what, .. } => Error::invalid(place, what, hint),
            error => error,
        }
    }
}

/// The candidate that is such a network; of several the averaged one, else the first.
pub(super) fn choose<'a>(
    candidates: &[Candidate<'a>],
    network: &Network,
    is_named: fn(&str) -> bool,
) -> Result<Chosen<'a>, Misfit> {
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
pub(super) fn read(weights: BTreeMap<String, TensorAt>, path: &Path) -> Result<BTreeMap<String, Tensor>> {
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

/// What people call the average of a generator's weights.
pub(super) fn is_average(key: &str) -> bool {
    last(key).contains("ema")
}
