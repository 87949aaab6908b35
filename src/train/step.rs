//! One critic step, one generator step.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{critic_network, generator_network};
use crate::config::{GeneratorLatents, LossConfig, TrainConfig};
use crate::ema::Ema;
use crate::error::Result;
use crate::nn::{Gradients, Network, Pass};
use crate::optim::Optimizer;
use crate::random::Purpose;

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
    sums: Sums,
}

/// What the critic's turns leave to the generator's.
#[derive(Default)]
pub struct Phase {
    /// Critic steps made in this phase.
    pub critic_turns: u64,
    /// Forward passes made in this phase: they number the dropout masks.
    passes: u64,
    latents: Option<Tensor>,
    fakes: Option<Tensor>,
}

/// Means over the steps since they were last taken.
#[derive(Debug, Clone, Copy)]
pub struct Means {
    /// The critic's loss.
    pub loss_critic: f64,
    /// The generator's loss.
    pub loss_generator: f64,
    /// The critic's raw score of real images.
    pub score_real: f64,
    /// The critic's raw score of generated images, in its own steps.
    pub score_fake: f64,
}

/// Sums on the device: reading a number at every step would make a GPU wait.
#[derive(Default)]
struct Sums {
    critic: Option<[Tensor; 3]>,
    critic_steps: u64,
    generator: Option<Tensor>,
    generator_steps: u64,
}

impl Trainer {
    /// Both networks at their beginning. Tests train in f64, the programs in f32.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Self> {
        let generator = generator_network(config, device, dtype)?;
        let critic = critic_network(config, device, dtype)?;
        let decay = config.schedule.ema_decay;
        Ok(Self {
            generator_optimizer: Optimizer::new(config.optimizer.generator, &generator)?,
            critic_optimizer: Optimizer::new(config.optimizer.critic, &critic)?,
            ema: (decay > 0.0).then(|| Ema::new(decay, &generator)).transpose()?,
            config: config.clone(),
            step: 0,
            generator,
            critic,
            sums: Sums::default(),
        })
    }

    /// Critic steps made before the present phase.
    pub fn critic_steps(&self) -> u64 {
        self.step * self.config.schedule.critic_steps as u64
    }

    /// The tensors to sample with: the average if there is one, else the weights as they are.
    pub fn best_weights(&self) -> BTreeMap<String, Tensor> {
        match &self.ema {
            Some(ema) => ema.tensors().clone(),
            None => raw_weights(&self.generator),
        }
    }

    /// One critic step on real images `[n, c, h, w]` and as many fakes.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn critic_step(&mut self, real: &Tensor, phase: &mut Phase) -> Result<()> {
        let index = self.critic_steps() + phase.critic_turns;
        let z = self.latents(Purpose::CriticLatent, index, real.dim(0)?)?;
        self.critic_step_with(real, z, phase)
    }

    /// As [`Self::critic_step`], with given latents `[n, latent]`.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn critic_step_with(&mut self, real: &Tensor, z: Tensor, phase: &mut Phase) -> Result<()> {
        // Make fakes. Only if the generator's step will go on from them is their history kept.
        let last_turn = phase.critic_turns + 1 == self.config.schedule.critic_steps as u64;
        let keep = last_turn && self.config.schedule.generator_latents == GeneratorLatents::ReusedFakes;
        let wanted = if keep { Gradients::Tracked } else { Gradients::Frozen };
        let fakes = self.generate(&z, wanted, phase)?;

        // Score both, in separate passes: batch normalisation must not mix them.
        self.clip_critic()?;
        let real_score = self.score(real, Gradients::Tracked, phase)?;
        let fake_score = self.score(&fakes.detach(), Gradients::Tracked, phase)?;
        let loss = self.config.loss.critic(&real_score, &fake_score)?;

        // Step.
        self.critic_optimizer.step(&self.critic, &loss.backward()?)?;
        self.sums.add_critic([&loss, &real_score.mean_all()?, &fake_score.mean_all()?])?;
        phase.critic_turns += 1;
        phase.latents = Some(z);
        phase.fakes = keep.then_some(fakes);
        Ok(())
    }

    /// One generator step; ends the phase.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn generator_step(&mut self, phase: Phase) -> Result<()> {
        let n = phase.latents.as_ref().map_or(Ok(self.config.schedule.batch_size), |z| z.dim(0))?;
        let fresh = self.latents(Purpose::GeneratorLatent, self.step, n)?;
        self.generator_step_with(fresh, phase)
    }

    /// As [`Self::generator_step`], with given latents in case the schedule asks for fresh ones.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn generator_step_with(&mut self, fresh: Tensor, mut phase: Phase) -> Result<()> {
        let fakes = match (self.config.schedule.generator_latents, phase.fakes.take(), phase.latents.take()) {
            (GeneratorLatents::ReusedFakes, Some(fakes), _) => fakes,
            (GeneratorLatents::Reused, _, Some(z)) => self.generate(&z, Gradients::Tracked, &mut phase)?,
            _ => self.generate(&fresh, Gradients::Tracked, &mut phase)?,
        };

        // The critic only passes the gradient on.
        let score = self.score(&fakes, Gradients::Frozen, &mut phase)?;
        let loss = self.config.loss.generator(&score)?;
        self.generator_optimizer.step(&self.generator, &loss.backward()?)?;
        self.step += 1;
        self.sums.add_generator(&loss)?;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.generator, self.step)?;
        }
        Ok(())
    }

    /// The critic's mean score of images, without a trace of this in its running statistics.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn mean_score(&self, images: &Tensor) -> Result<f64> {
        let score = self.critic.forward(images, Pass::Eval, Gradients::Frozen)?;
        Ok(score.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
    }

    /// The means since the last call.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn take_means(&mut self) -> Result<Means> {
        let Sums { critic, critic_steps, generator, generator_steps } = std::mem::take(&mut self.sums);
        let mean = |sum: Option<&Tensor>, count: u64| match sum {
            Some(sum) => Ok(sum.to_dtype(DType::F64)?.to_scalar::<f64>()? / count.max(1) as f64),
            None => Ok::<f64, candle_core::Error>(f64::NAN),
        };
        let [loss, real, fake] = [0, 1, 2].map(|i| mean(critic.as_ref().map(|sums| &sums[i]), critic_steps));
        let loss_generator = mean(generator.as_ref(), generator_steps)?;
        Ok(Means { loss_critic: loss?, loss_generator, score_real: real?, score_fake: fake? })
    }

    /// The latents of step `index`: those of its images are numbered from `index · batch size` on.
    fn latents(&self, purpose: Purpose, index: u64, n: usize) -> Result<Tensor> {
        let (latent, seed) = (self.config.latent, self.config.seed);
        let first = index * self.config.schedule.batch_size as u64;
        let mut rows = vec![0.0; n * latent.size];
        for (number, row) in (first..).zip(rows.chunks_mut(latent.size)) {
            latent.fill(seed, purpose, number, row);
        }
        let z = Tensor::from_vec(rows, (n, latent.size), self.generator.device())?;
        Ok(z.to_dtype(self.generator.dtype())?)
    }

    fn generate(&self, z: &Tensor, gradients: Gradients, phase: &mut Phase) -> Result<Tensor> {
        let images = self.generator.forward(z, self.next_pass(phase), gradients)?;
        Ok(images.reshape(self.config.image_shape().with_batch(z.dim(0)?))?)
    }

    fn score(&self, images: &Tensor, gradients: Gradients, phase: &mut Phase) -> Result<Tensor> {
        Ok(self.critic.forward(images, self.next_pass(phase), gradients)?.flatten_all()?)
    }

    fn next_pass(&self, phase: &mut Phase) -> Pass {
        // Three passes a critic step (generator, real, fake), at most two in the generator's.
        let passes_a_step = 3 * self.config.schedule.critic_steps as u64 + 2;
        let number = self.step * passes_a_step + phase.passes;
        phase.passes += 1;
        Pass::Train { seed: self.config.seed, number }
    }

    /// Clamps every trainable parameter of a WGAN's critic, never its running statistics.
    fn clip_critic(&self) -> Result<()> {
        if let LossConfig::Wgan { clip } = self.config.loss {
            for parameter in self.critic.trainable() {
                parameter.var.set(&parameter.var.as_detached_tensor().clamp(-clip, clip)?)?;
            }
        }
        Ok(())
    }
}

/// A network's tensors by name, as they are.
pub(super) fn raw_weights(network: &Network) -> BTreeMap<String, Tensor> {
    network.parameters().map(|p| (p.name.clone(), p.var.as_detached_tensor())).collect()
}

impl Sums {
    fn add_critic(&mut self, values: [&Tensor; 3]) -> Result<()> {
        let values = values.map(Tensor::detach);
        self.critic = Some(match self.critic.take() {
            None => values,
            Some([a, b, c]) => [(a + &values[0])?, (b + &values[1])?, (c + &values[2])?],
        });
        self.critic_steps += 1;
        Ok(())
    }

    fn add_generator(&mut self, loss: &Tensor) -> Result<()> {
        self.generator = Some(match self.generator.take() {
            None => loss.detach(),
            Some(sum) => (sum + loss.detach())?,
        });
        self.generator_steps += 1;
        Ok(())
    }
}
