//! [`TrainConfig`]: one struct that serves the library, the preset files, config files and the command line.

use serde::{Deserialize, Serialize};
use toml::ser::ValueSerializer;

use super::schedule::{Schedule, Span};
use crate::augment::Augment;
use crate::contract;
use crate::data::{DataConfig, Dataset, Sources};
use crate::error::{Error, Result};
use crate::latent::Latent;
use crate::loss::LossConfig;
use crate::nn::LayerSpec;
use crate::nn::Shape;
use crate::nn::init::InitConfig;
use crate::optim::OptimizerConfig;
use crate::penalty::PenaltyConfig;

/// Everything that decides a training run, but for the data itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The preset this began as, or `custom`.
    #[serde(default = "custom")]
    pub preset: String,
    /// One line on what it is and where it comes from.
    #[serde(default)]
    pub about: String,
    /// The seed of every random draw of the run. Below 2⁶³, TOML's largest integer.
    #[serde(default)]
    pub seed: u64,
    /// Weights to begin with instead of drawn ones: a run's folder, a .safetensors file or a PyTorch state dict (.pth); or two files,
    /// one of the generator and one of the critic.
    #[serde(default, skip_serializing_if = "Sources::is_empty")]
    pub init_from: Sources,
    /// The form the images take.
    pub data: DataConfig,
    /// The generator's input.
    pub latent: Latent,
    /// The generator's layers.
    pub generator: NetworkConfig,
    /// The critic's layers (the discriminator's, in the terms of the GAN paper).
    pub critic: NetworkConfig,
    /// How parameters start.
    #[serde(default)]
    pub init: InitConfig,
    /// What is minimised.
    pub loss: LossConfig,
    /// What the critic's loss is given besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<PenaltyConfig>,
    /// What the critic sees instead of the images themselves, real and generated ones (DiffAugment, arXiv 2006.10738).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub augment: Vec<Augment>,
    /// The probability with which each image is augmented by each of these, 0 to 1; else that one leaves it as it is.
    #[serde(default = "always", skip_serializing_if = "is_always")]
    pub augment_probability: f64,
    /// How.
    pub optimizer: OptimizerPair,
    /// How long, in which rhythm, and how exactly.
    pub schedule: Schedule,
    /// What the run writes, and when.
    #[serde(default)]
    pub output: OutputConfig,
    /// Who looks after it.
    #[serde(default)]
    pub watch: WatchConfig,
}

fn custom() -> String {
    "custom".to_string()
}

fn always() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_always(probability: &f64) -> bool {
    *probability == 1.0
}

/// A network is a list of layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// From input to output.
    pub layers: Vec<LayerSpec>,
    /// Of a critic: its normalisation, whatever its layers say. The layers are rewritten for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// Of a critic: whether the direction of its last layer's kernel learns by the Wasserstein loss, and all else by the critic's
    /// (SAN, arXiv 2301.12811). The layer is a linear one or a convolution, its length and bias learn as all else does, and what
    /// is computed and saved is the same with and without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub san: bool,
}

/// How a critic is normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Not at all. What stood before a norm gets a bias.
    None,
    /// Batch normalisation where there is a norm now.
    Batch,
    /// Layer normalisation where there is a norm now.
    Layer,
    /// Spectral normalisation of every convolution and linear layer (arXiv 1802.05957), and no other.
    Spectral,
}

impl NetworkConfig {
    /// Rewrites the layers for `norm`; a second time changes nothing.
    pub(super) fn apply_norm(&mut self) {
        if let Some(norm) = self.norm {
            normalise(&mut self.layers, norm);
        }
    }
}

fn normalise(list: &mut Vec<LayerSpec>, norm: Norm) {
    let mut layers: Vec<LayerSpec> = Vec::with_capacity(list.len());
    for mut layer in list.drain(..) {
        layer.set_spectral(norm == Norm::Spectral);
        layer.parts_mut().into_iter().for_each(|part| normalise(part, norm));
        let is_norm = matches!(layer, LayerSpec::BatchNorm | LayerSpec::LayerNorm);
        match (is_norm, norm, layers.last_mut()) {
            (false, _, _) => layers.push(layer),
            (true, Norm::Batch, _) => layers.push(LayerSpec::BatchNorm),
            (true, Norm::Layer, _) => layers.push(LayerSpec::LayerNorm),
            // The norm's offset was the layer's only one.
            (true, _, Some(before)) => before.set_bias(true),
            (true, _, None) => {}
        }
    }
    *list = layers;
}

/// One optimiser a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerPair {
    /// The generator's.
    pub generator: OptimizerConfig,
    /// The critic's.
    pub critic: OptimizerConfig,
}

/// What the run writes, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// A line of losses.
    pub log_every: Span,
    /// A sheet of samples from fixed latents.
    pub sample_every: Span,
    /// A checkpoint.
    pub checkpoint_every: Span,
    /// Images on the sheet of samples.
    pub samples: usize,
    /// How many of the newest checkpoints stay; at least 1.
    pub keep_checkpoints: usize,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            log_every: Span::Steps(20),
            sample_every: Span::Steps(500),
            checkpoint_every: Span::Steps(1000),
            samples: 64,
            keep_checkpoints: 2,
        }
    }
}

/// Who looks after a run: the watchdog, which sees collapse, divergence and a dead critic, and the judge, who decides which
/// checkpoint is the best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchConfig {
    /// Between two looks at the fixed samples and the critic.
    pub every: Span,
    /// Whether a run ends when the watchdog says that it has failed; else it goes on.
    pub stop: bool,
    /// Between two measurements of the Fréchet distance, which decides what is best.
    pub judge_every: Span,
    /// Generated images a measurement, compared with as many real ones; 0 for none.
    pub judge_samples: usize,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self { every: Span::Images(2500), stop: true, judge_every: Span::Images(50_000), judge_samples: 2000 }
    }
}

impl TrainConfig {
    /// Rewrites both networks for `data.classes`; a second time changes nothing.
    pub(super) fn apply_classes(&mut self) {
        let classes = self.data.classes;
        if classes == 0 {
            return;
        }
        match self.generator.layers.first_mut() {
            Some(LayerSpec::Categorical(categories)) => *categories = classes,
            _ => self.generator.layers.insert(0, LayerSpec::Categorical(classes)),
        }
        if let Some(scores) = self.critic.layers.iter_mut().rev().find(|layer| layer.width().is_some()) {
            scores.set_width(classes);
        }
    }

    /// Takes over what the data call their classes, where the networks are told the classes and nobody has named them yet.
    pub fn name_classes(&mut self, data: &Dataset) {
        let DataConfig { classes, class_names, .. } = &mut self.data;
        let names = data.report.class_names();
        if *classes > 0 && class_names.is_empty() && contract::check_class_names(&names, *classes).is_ok() {
            *class_names = names;
        }
    }

    /// As TOML text.
    ///
    /// # Errors
    /// Never for a config that passed its checks.
    pub fn to_toml(&self) -> Result<String> {
        let mut bare = self.clone();
        let all = [&mut bare.critic, &mut bare.generator].map(|network| std::mem::take(&mut network.layers));
        let text = toml::to_string(&bare).map_err(|e| invalid_config("config", e.to_string()))?;
        // Tables of tables would take a line a number. From the back, critic and generator: what a user writes comes before
        // both.
        all.iter().try_fold(text, |mut text, layers| {
            const NONE: &str = "\nlayers = []";
            if let Some(at) = text.rfind(NONE) {
                text.replace_range(at..at + NONE.len(), &format!("\nlayers = {}", layers_toml(layers)?));
            }
            Ok(text)
        })
    }

    /// What is minimised, in a word: `bce`, `wgan-gp`, `hinge+r1`…
    pub fn objective(&self) -> String {
        match (self.loss, self.penalty) {
            (loss, None) => loss.name().to_string(),
            (LossConfig::Wgan { .. }, Some(PenaltyConfig::Gradient { .. })) => "wgan-gp".to_string(),
            (loss, Some(PenaltyConfig::Gradient { .. })) => format!("{}+gp", loss.name()),
            (loss, Some(PenaltyConfig::R1 { .. })) => format!("{}+r1", loss.name()),
            (loss, Some(PenaltyConfig::R1R2 { .. })) => format!("{}+r1+r2", loss.name()),
        }
    }

    /// The shape of one image, as the networks see it.
    pub fn image_shape(&self) -> Shape {
        Shape::Map { channels: self.data.channels, height: self.data.size, width: self.data.size }
    }
}

/// Layers as TOML, one a line.
pub(super) fn layers_toml(layers: &[LayerSpec]) -> Result<String> {
    let lines = layers.iter().map(|layer| {
        let mut line = String::new();
        layer.serialize(ValueSerializer::new(&mut line)).map_err(|e| invalid_config("config", e.to_string()))?;
        Ok(format!("    {line},\n"))
    });
    Ok(format!("[\n{}]", lines.collect::<Result<String>>()?))
}

/// What is wrong with a config, and where it says so.
pub(super) fn invalid_config(place: &str, what: String) -> Error {
    Error::invalid(place, what, "Compare it with a complete config: `TrainConfig::preset`.")
}
