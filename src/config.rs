//! [`TrainConfig`]: one struct that serves the library, the preset files, `--config` and the command line.
//!
//! A preset is one TOML file in `src/presets/`. It may name another as its `base` and then states only what differs.

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result, nearest};
use crate::image::Range;
use crate::latent::Latent;
use crate::schedule::CriticWarmup;
pub use crate::schedule::{GeneratorLatents, Precision, Schedule, Span};
use crate::shape::{LayerSpec, Shape, activations_estimate, output_shape, size_estimate};
use crate::text::on_one_line;

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        /// Name and TOML text of every preset.
        pub const PRESETS: &[(&str, &str)] = &[$(($name, include_str!(concat!("presets/", $name, ".toml")))),*];
    };
}

presets![
    "dcgan-28",
    "dcgan-64",
    "dcgan-anime",
    "dcgan-fashion",
    "digits",
    "gan-fashion-mixed",
    "gan-fashion-mlp",
    "lsgan-fashion",
    "wgan-anime",
    "wgan-fashion",
    "wgan-gp-anime",
    "wgan-gp-anime-sgd",
    "wgan-gp-fashion",
    "wgan-gp-mnist-mlp",
    "wgan-mnist-mlp",
];

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
    /// Weights to begin with instead of drawn ones: a run's folder, a .safetensors file or a PyTorch state dict (.pth).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub init_from: String,
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

/// The form in which images reach the critic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where the images come from, as `--data` takes it; a run's own config names the place it was trained on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Height and width in pixels; other images are cropped to a square and resized.
    pub size: usize,
    /// 1 (grey) or 3 (RGB); others are converted.
    pub channels: usize,
    /// The value range of the networks.
    pub range: Range,
    /// The share of the images that is never trained on, 0 to 0.5: the critic's score on some of them, logged beside its score
    /// on as many training images, shows whether it memorises.
    #[serde(default)]
    pub held_out: f64,
    /// Classes that both networks are told: 2 to 256, or 0 for none. Every image then needs a label, 0 and up (an IDX file of
    /// labels, or a folder a class in the order of their names). The networks are rewritten for it: the generator begins with
    /// `categorical = classes`, so that the largest of the first so many latents chooses the class, and the critic ends in one
    /// value a class, of which that of the image's class is its score (arXiv 1801.04406, appendix D). Generated classes are
    /// equally frequent, whatever they are in the data.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub classes: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl DataConfig {
    /// The images of a source as they are, for who looks at them and does not train: all of them, without classes.
    pub fn plain(source: &str, size: usize, channels: usize) -> Self {
        Self { source: source.to_string(), size, channels, range: Range::Tanh, held_out: 0.0, classes: 0 }
    }
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
    fn apply_norm(&mut self) {
        let Some(norm) = self.norm else { return };
        let mut layers: Vec<LayerSpec> = Vec::with_capacity(self.layers.len());
        for mut layer in self.layers.drain(..) {
            if let LayerSpec::Linear { spectral, .. } | LayerSpec::Conv { spectral, .. } = &mut layer {
                *spectral = norm == Norm::Spectral;
            }
            let is_norm = matches!(layer, LayerSpec::BatchNorm | LayerSpec::LayerNorm);
            match (is_norm, norm, layers.last_mut()) {
                (false, _, _) => layers.push(layer),
                (true, Norm::Batch, _) => layers.push(LayerSpec::BatchNorm),
                (true, Norm::Layer, _) => layers.push(LayerSpec::LayerNorm),
                // The norm's offset was the layer's only one.
                (true, _, Some(LayerSpec::Linear { bias, .. } | LayerSpec::Conv { bias, .. })) => *bias = true,
                (true, _, _) => {}
            }
        }
        self.layers = layers;
    }
}

/// Initial values of one kind of parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Init {
    /// As PyTorch's modules start: weights kaiming-uniform with a = √5, biases U(±1/√fan_in), norms 1 and 0.
    Pytorch,
    /// All 0.
    Zeros,
    /// N(mean, std²).
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
    /// N(0, 1/(fan_in / 2)), as TensorFlow tutorials of 2017 had it.
    FanInNormal,
}

/// Initial values by kind of parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InitConfig {
    /// Weights of convolutions and transposed convolutions.
    pub conv: Init,
    /// Weights of linear layers.
    pub linear: Init,
    /// Biases of convolutions and linear layers.
    pub bias: Init,
    /// Gains of batch and layer norms.
    pub norm_weight: Init,
    /// Offsets of batch and layer norms.
    pub norm_bias: Init,
}

impl Default for InitConfig {
    fn default() -> Self {
        let pytorch = Init::Pytorch;
        Self { conv: pytorch, linear: pytorch, bias: pytorch, norm_weight: pytorch, norm_bias: pytorch }
    }
}

/// How a batch of losses becomes one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// The mean over the batch.
    #[default]
    Mean,
    /// The sum over the batch.
    Sum,
}

/// The losses of critic and generator; formulas in the `loss` module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LossConfig {
    /// Binary cross-entropy with logits; the generator's is the non-saturating one (arXiv 1406.2661).
    Bce {
        /// Over the batch.
        #[serde(default)]
        reduction: Reduction,
        /// Factor on the critic's loss (real + fake): 1, or ½ in the d2l book's form.
        #[serde(default = "one")]
        critic_scale: f64,
    },
    /// Least squares with a = 0, b = c = 1 (arXiv 1611.04076).
    Lsgan,
    /// Wasserstein (arXiv 1701.07875): with weight clipping, a gradient penalty (WGAN-GP) or spectral normalisation.
    Wgan {
        /// Every trainable parameter of the critic is clamped to [-clip, clip] before each critic step, as in the authors' code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip: Option<f64>,
        /// Over the batch.
        #[serde(default)]
        reduction: Reduction,
    },
    /// The hinge loss of spectrally normalised GANs (arXiv 1802.05957, eq. 16 and 17).
    Hinge,
}

fn one() -> f64 {
    1.0
}

impl LossConfig {
    /// The name used in configs and metadata.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bce { .. } => "bce",
            Self::Lsgan => "lsgan",
            Self::Wgan { .. } => "wgan",
            Self::Hinge => "hinge",
        }
    }
}

/// A penalty on the critic's gradient to its input; formulas in the `penalty` module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PenaltyConfig {
    /// Norm 1 between real and generated images: WGAN-GP's (arXiv 1704.00028).
    Gradient {
        /// λ; 10 in the paper.
        #[serde(default = "ten")]
        weight: f64,
    },
    /// Norm 0 at real images: R1 (arXiv 1801.04406).
    R1 {
        /// γ; 10 in the paper.
        #[serde(default = "ten")]
        weight: f64,
    },
}

fn ten() -> f64 {
    10.0
}

impl PenaltyConfig {
    /// Its factor.
    pub fn weight(self) -> f64 {
        let (Self::Gradient { weight } | Self::R1 { weight }) = self;
        weight
    }
}

/// A change to the images on their way to the critic through which gradients flow back (DiffAugment, arXiv 2006.10738).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// Brightness, saturation, contrast.
    Color,
    /// A shift of up to an eighth of the size, with mid-grey behind it.
    Translation,
    /// A square of half the size becomes mid-grey.
    Cutout,
}

/// One optimiser with its constants; formulas in the `optim` module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Adam (arXiv 1412.6980), PyTorch's form.
    Adam {
        /// Learning rate.
        lr: f64,
        /// Decay of the two moments.
        #[serde(default = "adam_betas")]
        betas: [f64; 2],
        /// Added to the root.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// RMSprop, PyTorch's form: ε beside the root, accumulator from 0.
    Rmsprop {
        /// Learning rate.
        lr: f64,
        /// Decay of the squared gradients.
        #[serde(default = "rmsprop_decay")]
        decay: f64,
        /// Added to the root.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// RMSprop, TensorFlow 1's form: ε inside the root, accumulator from 1.
    RmspropTf {
        /// Learning rate.
        lr: f64,
        /// Decay of the squared gradients.
        #[serde(default = "rmsprop_tf_decay")]
        decay: f64,
        /// Added under the root.
        #[serde(default = "rmsprop_tf_eps")]
        eps: f64,
    },
    /// Stochastic gradient descent.
    Sgd {
        /// Learning rate.
        lr: f64,
        /// Momentum, PyTorch's form (no dampening); 0 for none.
        #[serde(default)]
        momentum: f64,
    },
}

fn adam_betas() -> [f64; 2] {
    [0.9, 0.999]
}
fn eps() -> f64 {
    1e-8
}
fn rmsprop_decay() -> f64 {
    0.99
}
fn rmsprop_tf_decay() -> f64 {
    0.9
}
fn rmsprop_tf_eps() -> f64 {
    1e-10
}

impl OptimizerConfig {
    /// The learning rate.
    pub fn lr(&self) -> f64 {
        match *self {
            Self::Adam { lr, .. } | Self::Rmsprop { lr, .. } | Self::RmspropTf { lr, .. } | Self::Sgd { lr, .. } => lr,
        }
    }

    /// With a learning rate that is `factor` times as high.
    pub fn with_rate(mut self, factor: f64) -> Self {
        match &mut self {
            Self::Adam { lr, .. } | Self::Rmsprop { lr, .. } | Self::RmspropTf { lr, .. } | Self::Sgd { lr, .. } => {
                *lr *= factor
            }
        }
        self
    }
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
    /// Whether a run ends when the watchdog barks; else it only says so.
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
    /// A preset by name.
    ///
    /// # Errors
    /// When there is none of that name; the nearest is suggested.
    pub fn preset(name: &str) -> Result<Self> {
        Self::from_table(preset_table(name)?, name)
    }

    /// From a TOML file's text; `place` names it in errors. The file may have a `base`.
    ///
    /// # Errors
    /// When the text is not TOML, a key is unknown or missing, or the networks do not fit the data.
    pub fn from_toml(text: &str, place: &str) -> Result<Self> {
        Self::from_table(parse_table(text, place)?, place)
    }

    /// From a table whose `base` is resolved, as [`parse_table`] does.
    ///
    /// # Errors
    /// As [`Self::from_toml`].
    pub fn from_table(table: Table, place: &str) -> Result<Self> {
        let mut config = Self::parse(table, place)?;
        config.critic.apply_norm();
        config.apply_classes();
        config.check(place)?;
        Ok(config)
    }

    /// Rewrites both networks for `data.classes`; a second time changes nothing.
    fn apply_classes(&mut self) {
        let classes = self.data.classes;
        if classes == 0 {
            return;
        }
        match self.generator.layers.first_mut() {
            Some(LayerSpec::Categorical(categories)) => *categories = classes,
            _ => self.generator.layers.insert(0, LayerSpec::Categorical(classes)),
        }
        let scores = self.critic.layers.iter_mut().rev().find_map(|layer| match layer {
            LayerSpec::Linear { out, .. } | LayerSpec::Conv { out, .. } => Some(out),
            _ => None,
        });
        if let Some(out) = scores {
            *out = classes;
        }
    }

    fn parse(table: Table, place: &str) -> Result<Self> {
        let parsed = Value::Table(table).try_into();
        parsed.map_err(|e: toml::de::Error| invalid_config(place, e.to_string().trim_end().replace('\n', ", ")))
    }

    /// As TOML text.
    ///
    /// # Errors
    /// Never for a config that passed its checks.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| invalid_config("config", e.to_string()))
    }

    /// What is minimised, in a word: `bce`, `wgan-gp`, `hinge+r1`…
    pub fn objective(&self) -> String {
        match (self.loss, self.penalty) {
            (loss, None) => loss.name().to_string(),
            (LossConfig::Wgan { .. }, Some(PenaltyConfig::Gradient { .. })) => "wgan-gp".to_string(),
            (loss, Some(PenaltyConfig::Gradient { .. })) => format!("{}+gp", loss.name()),
            (loss, Some(PenaltyConfig::R1 { .. })) => format!("{}+r1", loss.name()),
        }
    }

    /// The shape of one image, as the networks see it.
    pub fn image_shape(&self) -> Shape {
        Shape::Map { channels: self.data.channels, height: self.data.size, width: self.data.size }
    }

    /// Checks every value, and that the generator makes what the critic takes.
    pub(crate) fn check(&self, place: &str) -> Result<()> {
        let ensure = |ok: bool, what: &str| if ok { Ok(()) } else { Err(invalid_config(place, what.to_string())) };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        ensure((4..=1024).contains(&self.data.size), "data.size must be 4 to 1024")?;
        ensure(matches!(self.data.channels, 1 | 3), "data.channels must be 1 or 3")?;
        ensure(self.data.range != Range::Byte, "data.range must be tanh or sigmoid")?;
        ensure((0.0..=0.5).contains(&self.data.held_out), "data.held_out must be 0 to 0.5")?;
        ensure(matches!(self.data.classes, 0 | 2..=256), "data.classes must be 2 to 256, or 0 for none")?;
        ensure((1..=65_536).contains(&self.latent.size), "latent.size must be 1 to 65536")?;
        ensure((1..=65_536).contains(&self.schedule.batch_size), "schedule.batch_size must be 1 to 65536")?;
        let latents = self.latent.size * self.schedule.batch_size;
        ensure(
            latents <= MAX_LATENTS,
            "schedule.batch_size × latent.size: so many latents a batch are more than 1 GiB; take fewer",
        )?;
        ensure((1..=1000).contains(&self.schedule.critic_steps), "schedule.critic_steps must be 1 to 1000")?;
        ensure((1..=1000).contains(&self.schedule.generator_steps), "schedule.generator_steps must be 1 to 1000")?;
        if let Some(CriticWarmup { critic_steps, every, .. }) = self.schedule.critic_warmup {
            ensure((1..=1000).contains(&critic_steps), "schedule.critic_warmup.critic_steps must be 1 to 1000")?;
            ensure(every > 0, "schedule.critic_warmup.every must be at least 1")?;
            let one = self.schedule.generator_steps == 1;
            ensure(one, "schedule.critic_warmup goes with generator_steps = 1 only")?;
        }
        if let Some(decay) = self.schedule.lr_decay {
            ensure((0.0..=1.0).contains(&decay.to), "schedule.lr_decay.to must be 0 to 1")?;
            let ordered = match (decay.begin, decay.end) {
                (Span::Steps(begin), Span::Steps(end))
                | (Span::Epochs(begin), Span::Epochs(end))
                | (Span::Images(begin), Span::Images(end)) => begin < end,
                _ => true,
            };
            ensure(ordered, "schedule.lr_decay must begin before it ends")?;
        }
        ensure(
            self.watch.judge_samples == 0 || (100..=100_000).contains(&self.watch.judge_samples),
            "watch.judge_samples must be 0, or 100 to 100000",
        )?;
        let judged = self.watch.judge_samples.saturating_mul(self.image_shape().elements());
        ensure(judged <= 1 << 31, "watch.judge_samples: so many images of this size are more than 2 GB; take fewer")?;
        let share = self.schedule.generator_top_k;
        ensure(share > 0.0 && share <= 1.0, "schedule.generator_top_k must be above 0 and at most 1")?;
        ensure((0.0..1.0).contains(&self.schedule.ema_decay), "schedule.ema_decay must be at least 0 and below 1")?;
        ensure((1..=4096).contains(&self.output.samples), "output.samples must be 1 to 4096")?;
        let sheet = self.output.samples.saturating_mul(self.image_shape().elements());
        ensure(sheet <= MAX_SHEET, "output.samples: so many images of this size are more than 4 GiB; take fewer")?;
        ensure((1..=10_000).contains(&self.output.keep_checkpoints), "output.keep_checkpoints must be 1 to 10000")?;
        ensure(self.seed <= i64::MAX as u64, "seed must be below 2^63")?;
        let twice = self.augment.iter().enumerate().any(|(at, kind)| self.augment[..at].contains(kind));
        ensure(!twice, "augment must name each kind at most once")?;
        for optimizer in [self.optimizer.generator, self.optimizer.critic] {
            ensure(positive(optimizer.lr()), "the learning rate must be above 0")?;
            let (decays, name, eps) = match optimizer {
                OptimizerConfig::Adam { betas, eps, .. } => (betas, "betas", eps),
                OptimizerConfig::Rmsprop { decay, eps, .. } | OptimizerConfig::RmspropTf { decay, eps, .. } => {
                    ([decay; 2], "decay", eps)
                }
                OptimizerConfig::Sgd { momentum, .. } => ([momentum; 2], "momentum", 1.0),
            };
            let below_one = decays.iter().all(|decay| (0.0..1.0).contains(decay));
            ensure(below_one, &format!("an optimiser's {name} must be at least 0 and below 1"))?;
            ensure(positive(eps), "an optimiser's eps must be above 0")?;
        }
        match self.loss {
            LossConfig::Wgan { clip: Some(clip), .. } => ensure(positive(clip), "loss.clip must be above 0")?,
            LossConfig::Wgan { clip: None, .. } => {
                let held = self.penalty.is_some() || self.critic.norm == Some(Norm::Spectral);
                ensure(
                    held,
                    "the wgan loss needs loss.clip, a penalty or critic.norm = \"spectral\": nothing else bounds the critic",
                )?;
            }
            LossConfig::Bce { critic_scale, .. } => ensure(positive(critic_scale), "loss.critic_scale must be above 0")?,
            LossConfig::Lsgan | LossConfig::Hinge => {}
        }
        if let (LossConfig::Wgan { clip: Some(_), .. }, Some(PenaltyConfig::Gradient { .. })) = (self.loss, self.penalty) {
            let what = "a gradient penalty asks for a slope of 1, which weight clipping forbids: \
                        leave the clipping out (loss = { kind = \"wgan\" }), or the penalty";
            return Err(invalid_config(place, what.to_string()));
        }
        if let Some(penalty) = self.penalty {
            ensure(positive(penalty.weight()), "penalty.weight must be above 0")?;
        }
        let InitConfig { conv, linear, bias, norm_weight, norm_bias } = self.init;
        for init in [conv, linear, bias, norm_weight, norm_bias] {
            if let Init::Normal { mean, std } = init {
                ensure(mean.is_finite(), "init: mean must be a number")?;
                ensure(std.is_finite() && std >= 0.0, "init: std must be at least 0")?;
            }
        }
        let (schedule, output, watch) = (&self.schedule, &self.output, &self.watch);
        let spans =
            [schedule.length, output.log_every, output.sample_every, output.checkpoint_every, watch.every, watch.judge_every];
        let of_rates = schedule.lr_decay.map(|decay| [decay.begin, decay.end]).into_iter().flatten().chain(schedule.lr_warmup);
        for span in spans.into_iter().chain(of_rates) {
            let (Span::Steps(n) | Span::Epochs(n) | Span::Images(n)) = span;
            ensure(n > 0, "lengths and intervals must be at least 1")?;
        }
        self.check_networks(place)
    }

    pub(crate) fn check_networks(&self, place: &str) -> Result<()> {
        let image = self.image_shape();
        let made = output_shape(&self.generator.layers, Shape::Flat(self.latent.size))
            .map_err(|what| invalid_config(place, format!("generator: {what}")))?;
        if made.elements() != image.elements() || matches!(made, Shape::Map { .. }) && made != image {
            return Err(invalid_config(
                place,
                format!("generator: makes {made}, but data.size and data.channels ask for {image}"),
            ));
        }
        let spectral = |layer: &LayerSpec| {
            matches!(layer, LayerSpec::Linear { spectral: true, .. } | LayerSpec::Conv { spectral: true, .. })
        };
        if self.generator.norm.is_some() || self.generator.layers.iter().any(spectral) {
            let what = "generator: norm and spectral are for the critic only";
            return Err(invalid_config(place, what.to_string()));
        }
        if self.critic.layers.iter().any(|layer| matches!(layer, LayerSpec::Categorical(_))) {
            return Err(invalid_config(place, "critic: categorical is for the generator only".to_string()));
        }
        if self.generator.layers.contains(&LayerSpec::LayerNorm) {
            let what = "generator: layer_norm cannot be exported; use batch_norm";
            return Err(invalid_config(place, what.to_string()));
        }
        let normed = |norm: &LayerSpec| self.critic.layers.contains(norm);
        if self.critic.norm == Some(Norm::Batch) && !normed(&LayerSpec::BatchNorm)
            || self.critic.norm == Some(Norm::Layer) && !normed(&LayerSpec::LayerNorm)
        {
            let what = "critic.norm: there is no norm in the critic's layers that this one could replace; \
                        use spectral, or write the norms into the layers";
            return Err(invalid_config(place, what.to_string()));
        }
        let score =
            output_shape(&self.critic.layers, image).map_err(|what| invalid_config(place, format!("critic: {what}")))?;
        self.check_classes(place, score)?;
        for (network, layers) in [("generator", &self.generator.layers), ("critic", &self.critic.layers)] {
            if !layers.iter().any(LayerSpec::learns) {
                return Err(invalid_config(
                    place,
                    format!("{network}: has no layer that learns (linear, conv, conv_transpose…)"),
                ));
            }
        }
        let sizes = [(&self.generator.layers, Shape::Flat(self.latent.size)), (&self.critic.layers, image)];
        let total: f64 = sizes.into_iter().map(|(layers, input)| size_estimate(layers, input)).sum();
        if total > MAX_VALUES {
            return Err(invalid_config(place, format!("the networks hold {total:.1e} values, more than {MAX_VALUES:.0e}")));
        }
        let sizes = [(&self.generator.layers, Shape::Flat(self.latent.size)), (&self.critic.layers, image)];
        let an_image: f64 = sizes.into_iter().map(|(layers, input)| activations_estimate(layers, input)).sum();
        let batch = an_image * self.schedule.batch_size as f64;
        if batch > MAX_BATCH_VALUES {
            let most = (MAX_BATCH_VALUES / an_image).floor();
            let what = format!(
                "a batch of {} takes {batch:.1e} values between the layers, more than {MAX_BATCH_VALUES:.0e}; \
                 schedule.batch_size can be {most} with these networks",
                self.schedule.batch_size
            );
            return Err(invalid_config(place, what));
        }
        Ok(())
    }

    /// Checks that the critic has as many scores as there are classes, and that nothing else stands against classes.
    fn check_classes(&self, place: &str, score: Shape) -> Result<()> {
        let classes = self.data.classes;
        let ensure = |ok: bool, what: String| if ok { Ok(()) } else { Err(invalid_config(place, what)) };
        if classes == 0 {
            return ensure(score.elements() == 1, format!("critic: ends in {score}, but must end in one value an image"));
        }
        ensure(
            score.elements() == classes,
            format!("critic: ends in {score}, but data.classes asks for {classes} values an image"),
        )?;
        ensure(
            !matches!(self.penalty, Some(PenaltyConfig::Gradient { .. })),
            "a gradient penalty is taken between real and generated images, which with data.classes are of different classes; \
             use penalty = { kind = \"r1\" }"
                .to_string(),
        )?;
        ensure(
            !matches!(self.loss, LossConfig::Wgan { clip: None, .. }),
            "the wgan loss needs loss.clip with data.classes: nothing else bounds what the critic adds to all scores of a class"
                .to_string(),
        )?;
        ensure(
            self.schedule.generator_top_k == 1.0,
            "schedule.generator_top_k compares scores, which with data.classes are of different classes; leave it at 1"
                .to_string(),
        )
    }
}

/// More parameters and activations an image than any machine this runs on could train; a slip of the pen in a config must
/// not end in an allocation failure, which no program survives.
const MAX_VALUES: f64 = 4e9;

/// Likewise of the values between the layers for a whole batch: 160 GB in f32.
const MAX_BATCH_VALUES: f64 = 4e10;

/// Latents of a batch: 1 GiB in f32.
const MAX_LATENTS: usize = 1 << 28;

/// Values of all images on a sheet of samples, which are made at once: 4 GiB in f32.
const MAX_SHEET: usize = 1 << 30;

/// A preset's table with its bases merged in.
///
/// # Errors
/// When there is no preset of that name.
pub fn preset_table(name: &str) -> Result<Table> {
    let Some((_, text)) = PRESETS.iter().find(|(known, _)| *known == name) else {
        let names = PRESETS.iter().map(|(known, _)| *known);
        let hint = nearest(name, names.clone()).map(|near| format!("Did you mean '{near}'? ")).unwrap_or_default();
        let all = names.collect::<Vec<_>>().join(", ");
        return Err(Error::usage(format!("there is no preset '{}'", on_one_line(name)), format!("{hint}Presets: {all}.")));
    };
    let mut table = parse_table(text, name)?;
    table.insert("preset".to_string(), Value::String(name.to_string()));
    Ok(table)
}

/// The table of the same system for images of another size, or with narrower or wider layers; `critic.norm` stays to be applied.
///
/// # Errors
/// When the table is no config, or its networks cannot be changed so.
pub fn resized(mut table: Table, place: &str, size: Option<usize>, width: Option<f64>) -> Result<Table> {
    if size.is_none() && width.is_none() {
        return Ok(table);
    }
    // Dropped norms would be gone for good: another norm may still be asked for.
    let norm = table.get_mut("critic").and_then(Value::as_table_mut).and_then(|critic| critic.remove("norm"));
    let mut config = TrainConfig::parse(table, place)?;
    if let Some(size) = size {
        config = config.with_size(size)?;
    }
    if let Some(factor) = width {
        config = config.with_width(factor)?;
    }
    let mut table = parse_table(&config.to_toml()?, place)?;
    if let (Some(norm), Some(Value::Table(critic))) = (norm, table.get_mut("critic")) {
        critic.insert("norm".to_string(), norm);
    }
    Ok(table)
}

/// Parses a config file and merges it onto its `base`, if it names one.
///
/// # Errors
/// When the text is not TOML or the base is unknown.
pub fn parse_table(text: &str, place: &str) -> Result<Table> {
    check_depth(text).map_err(|what| invalid_config(place, what))?;
    let mut table: Table =
        text.parse().map_err(|e: toml::de::Error| invalid_config(place, e.to_string().trim_end().to_string()))?;
    match table.remove("base") {
        None => Ok(table),
        Some(Value::String(base)) => Ok(merge(preset_table(&base)?, table)),
        Some(other) => Err(invalid_config(place, format!("base must be the name of a preset, not {other}"))),
    }
}

/// The most names in a key, joined by dots. No config has more than 3; each is a table in the one before, and thousands of those
/// overflow the stack of whoever walks them.
const MAX_DEPTH: usize = 16;

/// Refuses a TOML text with a key of too many names, before it is parsed. (Brackets in brackets the parser itself counts.)
fn check_depth(text: &str) -> Result<(), String> {
    let (mut rest, mut names, mut joined) = (text, 0, false);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => string_length(rest, c),
            _ if is_bare(c) => rest.find(|c| !is_bare(c)).unwrap_or(rest.len()),
            _ => c.len_utf8(),
        };
        match c {
            '.' => joined = true,
            ' ' | '\t' => {}
            '"' | '\'' => (names, joined) = (if joined { names + 1 } else { 1 }, false),
            _ if is_bare(c) => (names, joined) = (if joined { names + 1 } else { 1 }, false),
            _ => (names, joined) = (0, false),
        }
        if names > MAX_DEPTH {
            return Err(format!("a key is made of more than {MAX_DEPTH} names"));
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// What keys are made of without quotes.
fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

/// How many bytes a string takes that a text begins with, its quotes included.
fn string_length(text: &str, quote: char) -> usize {
    let triple = [quote; 3].iter().collect::<String>();
    let end = if text.starts_with(&triple) { triple.as_str() } else { &triple[..1] };
    let mut at = end.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(end) {
            return at + end.len();
        }
        // An escape has what it escapes with it; a string of one line does not go on beyond that.
        let first = rest.chars().next().unwrap_or_default();
        match first {
            '\\' if quote == '"' => at += 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            '\n' if end.len() == 1 => return at,
            _ => at += first.len_utf8(),
        }
    }
    text.len()
}

/// Section by section, key by key; a section that names its `kind` replaces the base's whole.
fn merge(mut base: Table, over: Table) -> Table {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(section)), Value::Table(new)) if !new.contains_key("kind") => section.extend(new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
    base
}

/// Sets `a.b.c = value` in a table, as `--set a.b.c=value` does; the value is TOML, or else taken as a string.
///
/// # Errors
/// When the assignment has no `=`, or a part of the path is not a table.
pub fn set(table: &mut Table, assignment: &str) -> Result<()> {
    let wrong = |what: &str| {
        Error::usage(
            format!("--set {assignment}: {what}"),
            "Write --set section.key=value, for example --set schedule.batch_size=32.",
        )
    };
    let (path, value) = assignment.split_once('=').ok_or_else(|| wrong("no '='"))?;
    let text = format!("v = {value}");
    check_depth(&text).map_err(|what| wrong(&what))?;
    let value =
        text.parse::<Table>().ok().and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(value.trim().to_string()));
    let mut keys: Vec<&str> = path.split('.').map(str::trim).collect();
    if keys.len() > MAX_DEPTH {
        return Err(Error::usage(
            format!("--set: its key is made of {} names", keys.len()),
            "Write --set section.key=value, for example --set schedule.batch_size=32.",
        ));
    }
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| wrong("no key"))?;
    let mut at = table;
    for key in keys {
        at = match at.entry(key).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => inner,
            _ => return Err(wrong(&format!("'{key}' is not a section"))),
        };
    }
    at.insert(last.to_string(), value);
    Ok(())
}

fn invalid_config(place: &str, what: String) -> Error {
    Error::invalid(place, what, "`gan-train presets NAME` prints a complete config to compare with.")
}
