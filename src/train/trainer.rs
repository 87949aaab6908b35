//! The state of a training: both networks with what moves them on.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::feed::Feed;
use super::networks::{critic_network, generator_network};
use super::sums::{Means, Sums};
use crate::config::{Factors, PenaltyConfig, StepValues, TrainConfig};
use crate::ema::Ema;
use crate::error::Result;
use crate::nn::device::check_precision;
use crate::nn::{Network, Trace};
use crate::optim::Optimizer;

/// Both networks with their optimisers, after `step` generator steps.
pub struct Trainer {
    /// What decides the run.
    pub config: TrainConfig,
    /// Generator steps made.
    pub step: u64,
    /// The generator.
    pub generator: Network,
    /// The critic.
    pub critic: Network,
    /// The generator's optimiser.
    pub generator_optimizer: Optimizer,
    /// The critic's optimiser.
    pub critic_optimizer: Optimizer,
    /// The generator's averaged weights, if the config asks for them.
    pub ema: Option<Ema>,
    /// What the next steps are made with, of what changes over a run: the loop sets it from the schedule.
    pub values: StepValues,
    /// Whether the next steps measure their gradients, a pass over all of them.
    pub measure: bool,
    pub(super) sums: Sums,
}

/// A round under way: some critic steps (turns), and what they leave to the generator's. It numbers their passes, too.
#[derive(Default)]
pub struct Phase {
    /// Critic steps made in this phase.
    pub critic_turns: u64,
    /// Generator steps made in this phase.
    pub generator_turns: u64,
    /// Real images of the last critic step.
    pub images: usize,
    /// Forward passes made in this phase: they number the dropout masks.
    pub(super) passes: u64,
    /// How the steps' numbers come to the device.
    pub(super) feed: Feed,
    pub(super) latents: Option<Tensor>,
    pub(super) fakes: Option<(Tensor, Trace)>,
}

impl Trainer {
    /// Both networks at their beginning. Tests train in f64, the programs in f32.
    ///
    /// # Errors
    /// When the device is out of memory, or does not know the config's precision, or a batch is larger than any machine could hold.
    pub fn new(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Self> {
        check_precision(device, config.schedule.precision)?;
        config.check_batch(&config.preset)?;
        let generator = generator_network(config, device, dtype)?;
        let critic = critic_network(config, device, dtype)?;
        Ok(Self {
            generator_optimizer: Optimizer::new(config.optimizer.generator, &generator)?,
            critic_optimizer: Optimizer::new(config.optimizer.critic, &critic)?,
            ema: config.schedule.has_average().then(|| Ema::new(&generator)).transpose()?,
            config: config.clone(),
            step: 0,
            generator,
            critic,
            values: config.values(Factors::default()),
            measure: false,
            sums: Sums::default(),
        })
    }

    /// Critic steps made before the present phase.
    pub fn critic_steps(&self) -> u64 {
        self.config.schedule.critic_steps_before(self.step)
    }

    /// Where the networks live.
    pub fn device(&self) -> &Device {
        self.generator.device()
    }

    /// The tensors to sample with: the average if there is one, else the weights as they are. They share the trainer's
    /// memory, which the next step changes.
    pub fn best_weights(&self) -> BTreeMap<String, Tensor> {
        match &self.ema {
            Some(ema) => ema.tensors().clone(),
            None => raw_weights(&self.generator),
        }
    }

    /// The means since the last call.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn take_means(&mut self) -> Result<Means> {
        self.sums.take(self.config.penalty.map_or(1, PenaltyConfig::passes))
    }
}

impl Phase {
    /// A phase whose numbers come to the device that way.
    #[cfg(feature = "cuda")]
    pub(super) fn fed(feed: Feed) -> Self {
        Self { feed, ..Self::default() }
    }
}

/// On CUDA: has what kernels of candle take of shapes and strides uploaded once, not in every step, while it lives.
pub(super) fn keep_strides(device: &Device) -> Result<impl Sized + use<>> {
    #[cfg(feature = "cuda")]
    return Ok(if device.is_cuda() { Some(crate::nn::cuda::capture::keep_strides(device)?) } else { None });
    #[cfg(not(feature = "cuda"))]
    {
        let _ = device;
        Ok(())
    }
}

/// A network's tensors by name, as they are.
pub(super) fn raw_weights(network: &Network) -> BTreeMap<String, Tensor> {
    network.parameters().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect()
}
