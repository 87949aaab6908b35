//! One critic step, one generator step.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::batches::Batch;
#[cfg(feature = "cuda")]
use super::captured::Captures;
use super::draws::{Draw, What};
use super::feed::Feed;
use super::networks::{critic_network, generator_network};
use super::sums::Sums;
use crate::augment::{Form, Placed};
use crate::config::{Factors, GeneratorLatents, LossConfig, PenaltyConfig, StepValues, TrainConfig};
use crate::ema::{self, Ema};
use crate::error::{Error, Result};
use crate::loss::{Graded, top_k};
use crate::nn::Shape;
use crate::nn::cpu::on_pool;
use crate::nn::device::check_precision;
use crate::nn::in_place::InPlace;
use crate::nn::rule::CONSTANTS;
use crate::nn::scores::Player;
use crate::nn::update::{clamp, lerp};
use crate::nn::{Network, Pass, Trace, Wanted, as_images, channels_first, chosen};
use crate::optim::Optimizer;
use crate::penalty::{Penalty, interpolate};
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
    /// What the next steps are made with, of what changes over a run: the loop sets it from the schedule.
    pub values: StepValues,
    /// Whether the next steps measure their gradients, a pass over all of them.
    pub measure: bool,
    pub(super) sums: Sums,
    /// The rounds that are captured.
    #[cfg(feature = "cuda")]
    pub(super) captures: Captures,
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
    passes: u64,
    /// How the steps' numbers come to the device.
    pub(super) feed: Feed,
    latents: Option<Tensor>,
    fakes: Option<(Tensor, Trace)>,
}

/// What the critic says of some images, and how it came about.
struct Scored {
    score: Tensor,
    trace: Trace,
    /// Of the critic's values of an image, those that are its score.
    classes: Option<Tensor>,
    /// What it saw.
    seen: Tensor,
    augmentation: Placed,
}

/// The gradients of a critic step's losses to the scores of some images, `[n]`.
struct Slopes {
    by_score: Tensor,
    /// Of the loss that the directions of the last layer's kernels learn by, if it is not the same (SAN).
    by_direction: Option<Tensor>,
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
            #[cfg(feature = "cuda")]
            captures: Captures::default(),
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

    /// One critic step on real images and as many fakes.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn critic_step(&mut self, real: &Batch, phase: &mut Phase) -> Result<()> {
        on_pool(|| {
            let _kept = keep_strides(self.device())?;
            let z = self.latents(Player::Critic, real.images.dim(0)?, phase)?;
            self.critic_step_with(real, z, phase)
        })
    }

    /// As [`Self::critic_step`], with given latents `[n, latent]`.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn critic_step_with(&mut self, real: &Batch, z: Tensor, phase: &mut Phase) -> Result<()> {
        // Make fakes. Only if the generator's step will go on from them is it kept how they came about.
        let last_turn = phase.critic_turns + 1 == self.config.schedule.critic_steps_at(self.step);
        let keep = last_turn && self.config.schedule.generator_latents == GeneratorLatents::ReusedFakes;
        let (fakes, trace) = if keep {
            self.generate_traced(&z, phase).map(|(fakes, trace)| (fakes, Some(trace)))?
        } else {
            (self.generate(&z, phase)?, None)
        };

        // Score both, in separate passes: batch normalisation must not mix them.
        self.clip_critic()?;
        let n = real.images.dim(0)?;
        let real = self.score(&real.images, real.classes.clone(), phase)?;
        let fake = self.score(&fakes, self.classes_of(&z)?, phase)?;
        let (told, slopes) = self.critic_losses(&real, &fake)?;

        // Walk back.
        let (gradients, penalties) = self.critic_gradients([real, fake], slopes, phase)?;
        self.sums.penalty.add(penalties.iter().map(|penalty| &penalty.told))?;

        // Step.
        if self.measure {
            self.sums.norm_critic = Some(norm(&gradients)?);
        }
        let constants = self.constants(What::Rule(Player::Critic), phase)?;
        self.critic_optimizer.config = self.values.optimizer.critic;
        self.critic_optimizer.step_by(&self.critic, &gradients, constants.as_ref())?;
        self.sums.critic.add([&told])?;
        phase.critic_turns += 1;
        phase.images = n;
        phase.latents = Some(z);
        phase.fakes = trace.map(|trace| (fakes, trace));
        Ok(())
    }

    /// One generator step. The first of a round may go on from the fakes of the critic's last step. As many real images as
    /// that had are seen besides where the loss pairs scores ([`LossConfig::pairs_scores`]).
    ///
    /// # Errors
    /// When there are no real images, though the loss asks for some, or the device is out of memory.
    pub fn generator_step(&mut self, real: Option<&Batch>, phase: &mut Phase) -> Result<()> {
        on_pool(|| {
            let _kept = keep_strides(self.device())?;
            let n = phase.latents.as_ref().map_or(Ok(self.config.schedule.batch_size), |z| z.dim(0))?;
            let fresh = match (self.config.schedule.generator_latents, &phase.latents) {
                // Not asked for: neither drawn nor uploaded.
                (GeneratorLatents::Reused | GeneratorLatents::ReusedFakes, Some(z)) => z.clone(),
                _ => self.latents(Player::Generator, n, phase)?,
            };
            self.generator_step_with(real, fresh, phase)
        })
    }

    /// As [`Self::generator_step`], with given latents in case the schedule asks for fresh ones.
    ///
    /// # Errors
    /// As [`Self::generator_step`].
    pub fn generator_step_with(&mut self, real: Option<&Batch>, fresh: Tensor, phase: &mut Phase) -> Result<()> {
        let latents = self.config.schedule.generator_latents;
        let z = match phase.latents.clone() {
            Some(z) if latents != GeneratorLatents::Fresh => z,
            _ => fresh,
        };
        let made = phase.fakes.take().filter(|_| latents == GeneratorLatents::ReusedFakes);
        let (fakes, trace) = made.map_or_else(|| self.generate_traced(&z, phase), Ok)?;

        // The critic only passes the gradient on, to the fakes alone.
        let scored = self.score(&fakes, self.classes_of(&z)?, phase)?;
        let real = match real.filter(|_| self.config.loss.pairs_scores()) {
            Some(real) => {
                let (pass, _, seen) = self.seen(&real.images, phase)?;
                Some(of_class(&self.critic.forward(&seen, pass)?, real.classes.as_ref())?)
            }
            None => None,
        };
        let (told, by_score) = self.generator_loss(real.as_ref(), &scored.score)?;
        let augmentation = scored.augmentation.clone();
        let to_values = scored.to_values(&by_score)?;
        let to_seen = self.critic.backward(scored.trace, to_values, Wanted::Input)?;
        let gradients = self.to_generator(trace, to_seen, &augmentation)?;
        if self.measure {
            self.sums.norm_generator = Some(norm(&gradients)?);
        }
        let constants = self.constants(What::Rule(Player::Generator), phase)?;
        self.generator_optimizer.config = self.values.optimizer.generator;
        self.generator_optimizer.step_by(&self.generator, &gradients, constants.as_ref())?;
        self.sums.generator.add([&told])?;
        let constants = self.constants(What::Average, phase)?;
        self.step += 1;
        phase.generator_turns += 1;
        if let Some(ema) = &mut self.ema {
            ema.update_by(&self.generator, ema::rule(self.step, self.values.ema_decay), constants.as_ref())?;
        }
        Ok(())
    }

    /// The critic's scores of images, without a trace of this in its running statistics.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn scores(&self, batch: &Batch) -> Result<Vec<f64>> {
        let (n, most) = (batch.images.dim(0)?, self.config.schedule.batch_size);
        let mut scores = Vec::with_capacity(n);
        for first in (0..n).step_by(most) {
            let part = |tensor: &Tensor| tensor.narrow(0, first, most.min(n - first))?.contiguous();
            let classes = batch.classes.as_ref().map(part).transpose()?;
            let values = self.critic.forward(&part(&batch.images)?, Pass::Eval)?;
            scores.extend(of_class(&values, classes.as_ref())?.to_dtype(DType::F64)?.to_vec1::<f64>()?);
        }
        Ok(scores)
    }

    /// The classes that latents `[n, latent]` choose, one-hot `[n, classes]`, where the networks are conditional.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn classes_of(&self, z: &Tensor) -> Result<Option<Tensor>> {
        match self.config.data.classes {
            0 => Ok(None),
            classes => Ok(Some(chosen(z, classes)?)),
        }
    }

    /// Brings numbers for `n` images of the present step to the device.
    pub(super) fn give(&self, what: What, n: usize, shape: impl Into<candle_core::Shape>, phase: &mut Phase) -> Result<Tensor> {
        let draw = phase.draw(what, n);
        let values = self.drawn(draw, self.beginning(phase), None)?;
        phase.feed.give(draw, values, shape.into(), self.device())
    }

    /// Constants of the present step on the device, unless kernels take theirs by value.
    fn constants(&self, what: What, phase: &mut Phase) -> Result<Option<Tensor>> {
        let len = if what == What::PenaltyWeight { 1 } else { CONSTANTS };
        (!phase.feed.is_plain()).then(|| self.give(what, 0, len, phase)).transpose()
    }

    /// The latents of the present step of a player.
    fn latents(&self, player: Player, n: usize, phase: &mut Phase) -> Result<Tensor> {
        let z = self.give(What::Latents(player), n, (n, self.config.latent.size), phase)?;
        Ok(z.to_dtype(self.generator.dtype())?)
    }

    /// The latents of step `index`: those of its images are numbered from `index · batch size` on.
    pub(super) fn latent_rows(&self, purpose: Purpose, index: u64, n: usize) -> Vec<f32> {
        let (latent, seed) = (self.config.latent, self.config.seed);
        let first = index * self.config.schedule.batch_size as u64;
        let mut rows = vec![0.0; n * latent.size];
        let numbered = rows.par_chunks_mut(latent.size).enumerate();
        numbered.for_each(|(at, row)| latent.fill(seed, purpose, first + at as u64, row));
        rows
    }

    fn generate(&self, z: &Tensor, phase: &mut Phase) -> Result<Tensor> {
        Ok(as_images(&self.generator.forward(z, self.next_pass(phase))?, self.config.image_shape())?)
    }

    fn generate_traced(&self, z: &Tensor, phase: &mut Phase) -> Result<(Tensor, Trace)> {
        let (values, trace) = self.generator.forward_traced(z, self.next_pass(phase))?;
        Ok((as_images(&values, self.config.image_shape())?, trace))
    }

    fn score(&self, images: &Tensor, classes: Option<Tensor>, phase: &mut Phase) -> Result<Scored> {
        let (pass, augmentation, seen) = self.seen(images, phase)?;
        let (values, trace) = self.critic.forward_traced(&seen, pass)?;
        let score = of_class(&values, classes.as_ref())?;
        Ok(Scored { score, trace, classes, seen, augmentation })
    }

    /// The next pass, with what the critic sees of these images in it.
    fn seen(&self, images: &Tensor, phase: &mut Phase) -> Result<(Pass, Placed, Tensor)> {
        let augmentation = self.placed(images.dim(0)?, phase)?;
        let pass = self.next_pass(phase);
        let seen = augmentation.through(images, Form::Whole)?;
        Ok((pass, augmentation, seen))
    }

    /// What happens to the `n` images of the next pass on their way to the critic.
    fn placed(&self, n: usize, phase: &mut Phase) -> Result<Placed> {
        #[cfg(feature = "cuda")]
        if self.device().is_cuda() && !self.config.augment.is_empty() {
            let policy = self.config.augment.clone();
            let draws = self.give(What::Augmentation { pass: phase.passes }, n, (policy.len(), n, 4), phase)?;
            return Ok(Placed::Device { policy, draws, fill: self.augmentation(0, 0).fill });
        }
        Ok(Placed::Host(self.augmentation(self.pass_number(self.step, phase.passes), n)))
    }

    /// What a critic step tells of its loss, and the gradients to the scores of real and of generated images.
    fn critic_losses(&self, real: &Scored, fake: &Scored) -> Result<(Tensor, [Slopes; 2])> {
        let (of_real, of_fake) = (&real.score, &fake.score);
        let loss = self.config.loss.critic(of_real, of_fake)?;
        let apart = self.config.critic.san.then(|| LossConfig::OF_DIRECTIONS.critic(of_real, of_fake)).transpose()?;
        let (real_apart, fake_apart) = apart.map(|graded| (graded.by_real, graded.by_fake)).unzip();
        let none = || candle_core::Error::Msg("a critic's loss without a gradient to real scores".to_string());
        let at_real = Slopes { by_score: loss.by_real.ok_or_else(none)?, by_direction: real_apart.flatten() };
        Ok((loss.told, [at_real, Slopes { by_score: loss.by_fake, by_direction: fake_apart }]))
    }

    /// What a generator step tells of its loss, and the gradient to the scores of its images: of the highest of them, where the schedule
    /// says so.
    fn generator_loss(&self, real: Option<&Tensor>, score: &Tensor) -> Result<(Tensor, Tensor)> {
        let Some(kept) = top_k(score, self.config.schedule.generator_top_k)? else {
            let Graded { told, by_fake, .. } = self.config.loss.generator(real, score)?;
            return Ok((told, by_fake));
        };
        let Graded { told, by_fake, .. } = self.config.loss.generator(real, &score.index_select(&kept, 0)?)?;
        Ok((told, score.zeros_like()?.index_add(&kept, &by_fake, 0)?))
    }

    /// The gradients of a critic step's loss to the critic's parameters, those of the penalty included if one is taken in it; and that
    /// penalty.
    fn critic_gradients(
        &self,
        [real, fake]: [Scored; 2],
        [at_real, at_fake]: [Slopes; 2],
        phase: &mut Phase,
    ) -> Result<(Vec<Tensor>, Vec<Penalty>)> {
        let index = self.critic_steps() + phase.critic_turns;
        let config = self.values.penalty.and_then(|config| config.at_step(index));
        let (gradients, more, penalties) = match config {
            None => (self.to_critic(real, &at_real)?, self.to_critic(fake, &at_fake)?, Vec::new()),
            Some(config @ PenaltyConfig::Gradient { .. }) => {
                let (penalty, gradients) = self.penalty_between(&real, &fake, config, phase)?;
                add(&gradients, &self.to_critic(real, &at_real)?)?;
                (gradients, self.to_critic(fake, &at_fake)?, vec![penalty])
            }
            Some(config @ PenaltyConfig::R1 { .. }) => {
                let (penalty, gradients) = self.penalty_at(real, config, &at_real, phase)?;
                (gradients, self.to_critic(fake, &at_fake)?, vec![penalty])
            }
            Some(config @ PenaltyConfig::R1R2 { .. }) => {
                let (at_real, gradients) = self.penalty_at(real, config, &at_real, phase)?;
                let (at_fake, more) = self.penalty_at(fake, config, &at_fake, phase)?;
                (gradients, more, vec![at_real, at_fake])
            }
        };
        add(&gradients, &more)?;
        Ok((gradients, penalties))
    }

    /// A penalty on the gradient to what lies between real and generated images, with its gradients to the critic's parameters.
    fn penalty_between(
        &self,
        real: &Scored,
        fake: &Scored,
        config: PenaltyConfig,
        phase: &mut Phase,
    ) -> Result<(Penalty, Vec<Tensor>)> {
        let (seen, n) = (&real.seen, real.seen.dim(0)?);
        let alphas = self.give(What::Between, n, n, phase)?.to_dtype(seen.dtype())?;
        let between = interpolate(seen, &fake.seen, &alphas)?;
        let weight = self.constants(What::PenaltyWeight, phase)?;
        let pass = self.next_pass(phase);
        self.critic.input_gradient_penalty(&between, real.classes.as_ref(), pass, |g| config.weighted(g, weight.as_ref()))
    }

    /// A penalty on the gradient to images as they were before they were augmented: the gradient to what the critic saw of them
    /// comes to them by the augmentation's adjoint, and the penalty's gradient to that goes the same way forward.
    /// With its gradients to the critic's parameters and those of the loss, which take one way back together where another pass would be
    /// the very one that was scored and all learn by the one loss.
    fn penalty_at(
        &self,
        scored: Scored,
        config: PenaltyConfig,
        slopes: &Slopes,
        phase: &mut Phase,
    ) -> Result<(Penalty, Vec<Tensor>)> {
        let weight = self.constants(What::PenaltyWeight, phase)?;
        let pass = self.next_pass(phase);
        let augmentation = scored.augmentation.clone();
        let of_gradient = |to_seen: &Tensor| {
            let (penalty, v) = config.weighted(&augmentation.through(to_seen, Form::Adjoint)?, weight.as_ref())?;
            Ok((penalty, augmentation.through(&v, Form::Linear)?))
        };
        if self.critic.repeats() && slopes.by_direction.is_none() {
            let Scored { trace, classes, .. } = scored;
            return self.critic.backward_with_penalty(trace, classes.as_ref(), &slopes.by_score, of_gradient);
        }
        let (penalty, gradients) =
            self.critic.input_gradient_penalty(&scored.seen, scored.classes.as_ref(), pass, of_gradient)?;
        add(&gradients, &self.to_critic(scored, slopes)?)?;
        Ok((penalty, gradients))
    }

    /// Takes the gradient to some scores back to the critic's parameters.
    fn to_critic(&self, scored: Scored, slopes: &Slopes) -> Result<Vec<Tensor>> {
        let to_values = scored.to_values(&slopes.by_score)?;
        match &slopes.by_direction {
            Some(by_direction) => {
                let of_directions = scored.to_values(by_direction)?;
                self.critic.backward_apart(scored.trace, to_values, of_directions)
            }
            None => self.critic.backward(scored.trace, to_values, Wanted::Parameters),
        }
    }

    /// Takes the gradient to what the critic saw of generated images back through the generator.
    fn to_generator(&self, trace: Trace, to_seen: Vec<Tensor>, augmentation: &Placed) -> Result<Vec<Tensor>> {
        let missing = || candle_core::Error::Msg("the critic gave no gradient to its input".to_string());
        let to_seen = to_seen.into_iter().next().ok_or_else(missing)?;
        let to_images = augmentation.through(&to_seen, Form::Adjoint)?;
        let to_output = match self.generator.output() {
            Shape::Flat(_) => channels_first(&to_images)?,
            Shape::Map { .. } => to_images,
        };
        self.generator.backward(trace, to_output, Wanted::Parameters)
    }

    fn next_pass(&self, phase: &mut Phase) -> Pass {
        let number = self.pass_number(self.step, phase.passes);
        phase.passes += 1;
        Pass::Train { seed: self.config.seed, number }
    }

    /// The number of a pass: its phase made so many before it, generator steps `step`.
    pub(super) fn pass_number(&self, step: u64, passes: u64) -> u64 {
        // Three passes a critic step (generator, real, fake), and those of a penalty; at most two in the generator's, and one for
        // real images if it sees any.
        let schedule = &self.config.schedule;
        let a_critic_step = 3 + self.config.penalty.map_or(0, PenaltyConfig::passes);
        let a_generator_step = 2 + u64::from(self.config.loss.pairs_scores());
        step * (a_critic_step * schedule.most_critic_steps() + a_generator_step * schedule.generator_steps as u64) + passes
    }

    /// Clamps every trainable parameter of a WGAN's critic, never its running statistics.
    fn clip_critic(&self) -> Result<()> {
        if let LossConfig::Wgan { clip: Some(clip), .. } = self.config.loss {
            let parameters: Vec<Tensor> = self.critic.trainable().map(|parameter| parameter.var.as_detached_tensor()).collect();
            clamp(&parameters.iter().map(InPlace::of).collect::<Vec<_>>(), clip)?;
        }
        Ok(())
    }
}

impl Phase {
    /// A phase whose numbers come to the device that way.
    #[cfg(feature = "cuda")]
    pub(super) fn fed(feed: Feed) -> Self {
        Self { feed, ..Self::default() }
    }

    /// Numbers for `n` images of the present step.
    pub(super) fn draw(&self, what: What, n: usize) -> Draw {
        Draw { what, n, critic_turn: self.critic_turns, generator_turn: self.generator_turns }
    }
}

impl Scored {
    /// From the gradient to the scores to that to the critic's values, of which they are those of each image's class.
    fn to_values(&self, by_score: &Tensor) -> Result<Tensor> {
        Ok(match &self.classes {
            Some(classes) => classes.broadcast_mul(&by_score.unsqueeze(1)?)?,
            None => by_score.clone(),
        })
    }
}

/// Of the critic's values of each image that of its class, `[n]`.
///
/// # Errors
/// When there is no class to each image, but several values.
fn of_class(values: &Tensor, classes: Option<&Tensor>) -> Result<Tensor> {
    match classes {
        Some(classes) => Ok((values.reshape(classes.shape())? * classes)?.sum(1)?),
        None if values.elem_count() == values.dim(0)? => Ok(values.flatten_all()?),
        None => Err(Error::usage("a batch without classes, for conditional networks", "Give the batch's classes.")),
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

/// The Euclidean norm of all gradients together, as a scalar on the device; in f64, where squares do not overflow.
fn norm(gradients: &[Tensor]) -> Result<Tensor> {
    let square = |g: &Tensor| g.to_dtype(DType::F64)?.sqr()?.sum_all();
    let squares = gradients.iter().map(square).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::stack(&squares, 0)?.sum_all()?.sqrt()?)
}

/// `to ← to + from`, tensor by tensor.
fn add(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    Ok(lerp(&to.iter().map(InPlace::of).zip(from).collect::<Vec<_>>(), 1.0, 1.0)?)
}
