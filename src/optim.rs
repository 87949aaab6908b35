//! Optimisers with state that can be saved: Adam, RMSprop in PyTorch's and in TensorFlow 1's form, SGD with momentum.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nn::in_place::InPlace;
use crate::nn::rule::{CONSTANTS, Row, Rule};
use crate::nn::update::update_by;
use crate::nn::{Network, Parameter};

/// One optimiser with its constants.
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
    /// What must hold of its constants.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let is_decay = |x: f64| (0.0..1.0).contains(&x);
        if !is_positive(self.lr()) {
            return Err("the learning rate must be above 0");
        }
        match *self {
            Self::Adam { betas, .. } if !betas.into_iter().all(is_decay) => {
                Err("an optimiser's betas must be at least 0 and below 1")
            }
            Self::Rmsprop { decay, .. } | Self::RmspropTf { decay, .. } if !is_decay(decay) => {
                Err("an optimiser's decay must be at least 0 and below 1")
            }
            Self::Sgd { momentum, .. } if !is_decay(momentum) => Err("an optimiser's momentum must be at least 0 and below 1"),
            Self::Adam { eps, .. } | Self::Rmsprop { eps, .. } | Self::RmspropTf { eps, .. } if !is_positive(eps) => {
                Err("an optimiser's eps must be above 0")
            }
            Self::Adam { .. } | Self::Rmsprop { .. } | Self::RmspropTf { .. } | Self::Sgd { .. } => Ok(()),
        }
    }

    /// The learning rate.
    pub fn lr(&self) -> f64 {
        match *self {
            Self::Adam { lr, .. } | Self::Rmsprop { lr, .. } | Self::RmspropTf { lr, .. } | Self::Sgd { lr, .. } => lr,
        }
    }

    /// Adam's decay of the second moment.
    pub fn beta2(&self) -> Option<f64> {
        match *self {
            Self::Adam { betas: [_, beta2], .. } => Some(beta2),
            Self::Rmsprop { .. } | Self::RmspropTf { .. } | Self::Sgd { .. } => None,
        }
    }

    /// Adam with another decay of the second moment; others as they are.
    pub fn with_beta2(mut self, to: f64) -> Self {
        if let Self::Adam { betas: [_, beta2], .. } = &mut self {
            *beta2 = to;
        }
        self
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

/// An optimiser of one network. Its slots are named `m.PARAMETER`, `v.PARAMETER`.
pub struct Optimizer {
    /// Its constants, which a schedule may change between two steps, but for their kind. Adam's corrections are those of its
    /// present betas, as PyTorch's are.
    pub config: OptimizerConfig,
    steps: u64,
    slots: BTreeMap<String, Tensor>,
}

impl Optimizer {
    /// A fresh optimiser for the trainable parameters of a network.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(config: OptimizerConfig, network: &Network) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for Parameter { name, var, .. } in network.trainable() {
            match config {
                OptimizerConfig::Adam { .. } => {
                    slots.insert(format!("m.{name}"), var.zeros_like()?);
                    slots.insert(format!("v.{name}"), var.zeros_like()?);
                }
                OptimizerConfig::Rmsprop { .. } => {
                    slots.insert(format!("v.{name}"), var.zeros_like()?);
                }
                OptimizerConfig::RmspropTf { .. } => {
                    slots.insert(format!("v.{name}"), var.ones_like()?);
                }
                OptimizerConfig::Sgd { momentum, .. } if momentum != 0.0 => {
                    slots.insert(format!("m.{name}"), var.zeros_like()?);
                }
                OptimizerConfig::Sgd { .. } => {}
            }
        }
        Ok(Self { config, steps: 0, slots })
    }

    /// One step down the gradients, which are those of the network's trainable parameters, in their order.
    ///
    /// # Errors
    /// When the gradients are not as many, or the device is out of memory.
    pub fn step(&mut self, network: &Network, gradients: &[Tensor]) -> Result<()> {
        self.step_by(network, gradients, None)
    }

    /// The same with the step's constants that lie on the device, if they are given ([`constants`]).
    pub(crate) fn step_by(&mut self, network: &Network, gradients: &[Tensor], constants: Option<&Tensor>) -> Result<()> {
        let parameters: Vec<&Parameter> = network.trainable().collect();
        if parameters.len() != gradients.len() {
            let what = format!("{} gradients for {} parameters", gradients.len(), parameters.len());
            return Err(Error::Candle(candle_core::Error::Msg(what)));
        }
        self.steps += 1;
        let rule = rule(self.config, self.steps);
        let weights: Vec<Tensor> = parameters.iter().map(|parameter| parameter.var.as_detached_tensor()).collect();
        let gradients: Vec<Tensor> = gradients.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
        let mut rows = Vec::with_capacity(weights.len());
        for ((parameter, w), g) in parameters.iter().zip(&weights).zip(&gradients) {
            let slot = |kind: &&str| Ok(InPlace::of(self.slot(kind, &parameter.name)?));
            let slots = rule.slots().iter().map(slot).collect::<Result<_>>()?;
            rows.push(Row { to: InPlace::of(w), from: Some(g), slots });
        }
        Ok(update_by(rule, &rows, constants)?)
    }

    fn slot(&self, kind: &str, name: &str) -> Result<&Tensor> {
        let missing = || candle_core::Error::Msg(format!("optimiser slot {kind}.{name} is missing"));
        Ok(self.slots.get(&format!("{kind}.{name}")).ok_or_else(missing)?)
    }

    /// The slots, by name.
    pub fn slots(&self) -> &BTreeMap<String, Tensor> {
        &self.slots
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Counts so many: those that a captured round has made, or none that is undone.
    #[cfg(feature = "cuda")]
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When a slot is missing, superfluous or of another shape; `place` names the file.
    pub fn load(&mut self, steps: u64, mut slots: BTreeMap<String, Tensor>, place: &str) -> Result<()> {
        let same = slots.len() == self.slots.len()
            && self.slots.iter().all(|(name, slot)| slots.get(name).is_some_and(|new| new.shape() == slot.shape()));
        if !same {
            let hint = "Resume with the config that the run began with, or from another checkpoint.";
            return Err(Error::invalid(place, "the optimiser's state belongs to another optimiser or network", hint));
        }
        for (name, slot) in &mut self.slots {
            if let Some(new) = slots.remove(name) {
                // A copy: steps change the slots in place, and what was given may be somebody else's.
                *slot = new.to_device(slot.device())?.to_dtype(slot.dtype())?.copy()?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// The constants of an optimiser's step number `step`, from 1, as kernels take them.
pub(crate) fn constants(config: OptimizerConfig, step: u64) -> [f64; CONSTANTS] {
    rule(config, step).constants()
}

/// What happens in step number `step`, from 1.
fn rule(config: OptimizerConfig, step: u64) -> Rule {
    match config {
        // arXiv 1412.6980, algorithm 1, with PyTorch's order of corrections.
        OptimizerConfig::Adam { lr, betas: [b1, b2], eps } => {
            let t = step as i32;
            let correction = (1.0 - b2.powi(t)).sqrt().recip();
            Rule::Adam { betas: [b1, b2], rate: lr / (1.0 - b1.powi(t)), correction, eps }
        }
        OptimizerConfig::Rmsprop { lr, decay, eps } => Rule::Rmsprop { lr, decay, inside: 0.0, beside: eps },
        OptimizerConfig::RmspropTf { lr, decay, eps } => Rule::Rmsprop { lr, decay, inside: eps, beside: 0.0 },
        OptimizerConfig::Sgd { lr, momentum } if momentum != 0.0 => Rule::Momentum { lr, momentum },
        OptimizerConfig::Sgd { lr, .. } => Rule::Sgd { lr },
    }
}

/// Whether a number is finite and above 0, as rates, weights and bounds must be.
pub(crate) fn is_positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}
