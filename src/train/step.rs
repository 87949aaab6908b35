//! One critic step, one generator step.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::batches::Batch;
use super::networks::{critic_network, generator_network};
use crate::augment::Augmentation;
use crate::config::{Factors, GeneratorLatents, LossConfig, PenaltyConfig, StepValues, TrainConfig};
use crate::ema::Ema;
use crate::error::{Error, Result};
use crate::loss::{Graded, top_k};
use crate::nn::Shape;
use crate::nn::cpu::on_pool;
use crate::nn::device::check_precision;
use crate::nn::in_place::InPlace;
use crate::nn::update::{clamp, lerp};
use crate::nn::{Network, Pass, Trace, Wanted, as_images, channels_first, chosen};
use crate::optim::Optimizer;
use crate::penalty::{self, Penalty};
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
    sums: Sums,
}

/// A round under way: some critic steps (turns), and what they leave to the generator's. It numbers their passes, too.
#[derive(Default)]
pub struct Phase {
    /// Critic steps made in this phase.
    pub critic_turns: u64,
    /// Real images of the last of them.
    pub images: usize,
    /// Forward passes made in this phase: they number the dropout masks.
    passes: u64,
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
    augmentation: Augmentation,
}

/// The gradients of a critic step's losses to the scores of some images, `[n]`.
struct Slopes {
    by_score: Tensor,
    /// Of the loss that the directions of the last layer's kernels learn by, if it is not the same (SAN).
    by_direction: Option<Tensor>,
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
    /// The penalty, its weight included: of those steps in which it was taken, if it was in any.
    pub penalty: Option<f64>,
    /// The mean norm of the critic's gradient to its input, where the penalty is taken.
    pub input_gradient_norm: Option<f64>,
    /// The norm of the critic's gradient in the last step that was measured.
    pub gradient_norm_critic: Option<f64>,
    /// Likewise of the generator's.
    pub gradient_norm_generator: Option<f64>,
}

/// Sums on the device: reading a number at every step would make a GPU wait.
#[derive(Default)]
struct Sums {
    /// Loss without the penalty, scores of real and of generated images.
    critic: Sum,
    /// Value and norm, of the steps that took a penalty.
    penalty: Sum,
    /// Loss, and two values more as the critic's.
    generator: Sum,
    norm_critic: Option<Tensor>,
    norm_generator: Option<Tensor>,
}

/// Values that were added up, and over how many steps.
#[derive(Default)]
struct Sum {
    values: Option<Vec<Tensor>>,
    steps: u64,
}

/// The same on the host.
struct ReadSum {
    values: Vec<f64>,
    steps: u64,
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

    /// One critic step on real images and as many fakes.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn critic_step(&mut self, real: &Batch, phase: &mut Phase) -> Result<()> {
        on_pool(|| {
            let index = self.critic_steps() + phase.critic_turns;
            let z = self.latents(Purpose::CriticLatent, index, real.images.dim(0)?)?;
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
        let (gradients, penalty) = self.critic_gradients([real, fake], slopes, phase)?;
        if let Some(Penalty { value, norm }) = penalty {
            self.sums.penalty.add(vec![value, norm])?;
        }

        // Step.
        if self.measure {
            self.sums.norm_critic = Some(norm(&gradients)?);
        }
        self.critic_optimizer.config = self.values.optimizer.critic;
        self.critic_optimizer.step(&self.critic, &gradients)?;
        self.sums.critic.add(vec![told])?;
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
            let n = phase.latents.as_ref().map_or(Ok(self.config.schedule.batch_size), |z| z.dim(0))?;
            let fresh = match (self.config.schedule.generator_latents, &phase.latents) {
                // Not asked for: neither drawn nor uploaded.
                (GeneratorLatents::Reused | GeneratorLatents::ReusedFakes, Some(z)) => z.clone(),
                _ => self.latents(Purpose::GeneratorLatent, self.step, n)?,
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
        self.generator_optimizer.config = self.values.optimizer.generator;
        self.generator_optimizer.step(&self.generator, &gradients)?;
        self.step += 1;
        self.sums.generator.add(vec![told])?;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.generator, self.step, self.values.ema_decay)?;
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

    /// The means since the last call.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn take_means(&mut self) -> Result<Means> {
        let Sums { critic, penalty, generator, norm_critic, norm_generator } = std::mem::take(&mut self.sums);
        let [critic, penalty, generator] = [critic.read()?, penalty.read()?, generator.read()?];
        let read = |norm: Option<Tensor>| norm.map(|norm| norm.to_dtype(DType::F64)?.to_scalar::<f64>()).transpose();
        Ok(Means {
            // The penalty is a part of it, in the steps that took one.
            loss_critic: (critic.total(0) + penalty.total(0)) / critic.steps as f64,
            loss_generator: generator.mean(0).unwrap_or(f64::NAN),
            score_real: critic.mean(1).unwrap_or(f64::NAN),
            score_fake: critic.mean(2).unwrap_or(f64::NAN),
            penalty: penalty.mean(0),
            input_gradient_norm: penalty.mean(1),
            gradient_norm_critic: read(norm_critic)?,
            gradient_norm_generator: read(norm_generator)?,
        })
    }

    /// The latents of step `index`: those of its images are numbered from `index · batch size` on.
    fn latents(&self, purpose: Purpose, index: u64, n: usize) -> Result<Tensor> {
        let (latent, seed) = (self.config.latent, self.config.seed);
        let first = index * self.config.schedule.batch_size as u64;
        let mut rows = vec![0.0; n * latent.size];
        let numbered = rows.par_chunks_mut(latent.size).enumerate();
        numbered.for_each(|(at, row)| latent.fill(seed, purpose, first + at as u64, row));
        let z = Tensor::from_vec(rows, (n, latent.size), self.generator.device())?;
        Ok(z.to_dtype(self.generator.dtype())?)
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
    fn seen(&self, images: &Tensor, phase: &mut Phase) -> Result<(Pass, Augmentation, Tensor)> {
        let pass = self.next_pass(phase);
        let augmentation = self.augmentation(pass, images.dim(0)?);
        let seen = augmentation.apply(images)?;
        Ok((pass, augmentation, seen))
    }

    /// What happens to the `n` images of a pass on their way to the critic; no two passes share draws.
    fn augmentation(&self, pass: Pass, n: usize) -> Augmentation {
        let first = match pass {
            Pass::Train { number, .. } => number * self.config.schedule.batch_size as u64,
            Pass::Eval => 0,
        };
        Augmentation::draw(&self.config.augment, &self.config.data, self.config.seed, first, n).with_probability(
            self.values.augment_probability,
            self.config.seed,
            first,
        )
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
    ) -> Result<(Vec<Tensor>, Option<Penalty>)> {
        let index = self.critic_steps() + phase.critic_turns;
        let config = self.values.penalty.and_then(|config| config.at_step(index));
        let (gradients, more, penalty) = match config {
            None => (self.to_critic(real, &at_real)?, self.to_critic(fake, &at_fake)?, None),
            Some(config @ PenaltyConfig::Gradient { .. }) => {
                let (penalty, gradients) = self.penalty_between(&real, &fake, config, index, phase)?;
                add(&gradients, &self.to_critic(real, &at_real)?)?;
                (gradients, self.to_critic(fake, &at_fake)?, Some(penalty))
            }
            Some(config @ PenaltyConfig::R1 { .. }) => {
                let (penalty, gradients) = self.penalty_at(real, config, &at_real, phase)?;
                (gradients, self.to_critic(fake, &at_fake)?, Some(penalty))
            }
            Some(config @ PenaltyConfig::R1R2 { .. }) => {
                let (at_real, gradients) = self.penalty_at(real, config, &at_real, phase)?;
                let (at_fake, more) = self.penalty_at(fake, config, &at_fake, phase)?;
                (gradients, more, Some(at_real.plus(&at_fake)?))
            }
        };
        add(&gradients, &more)?;
        Ok((gradients, penalty))
    }

    /// A penalty on the gradient to what lies between real and generated images, with its gradients to the critic's parameters.
    fn penalty_between(
        &self,
        real: &Scored,
        fake: &Scored,
        config: PenaltyConfig,
        index: u64,
        phase: &mut Phase,
    ) -> Result<(Penalty, Vec<Tensor>)> {
        let (seen, first) = (&real.seen, index * self.config.schedule.batch_size as u64);
        let alphas = penalty::alphas(self.config.seed, first, seen.dim(0)?, self.device(), seen.dtype())?;
        let between = penalty::interpolate(seen, &fake.seen, &alphas)?;
        let pass = self.next_pass(phase);
        self.critic.input_gradient_penalty(&between, real.classes.as_ref(), pass, |g| config.of(g))
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
        let pass = self.next_pass(phase);
        let augmentation = scored.augmentation.clone();
        let of_gradient = |to_seen: &Tensor| {
            let (penalty, v) = config.of(&augmentation.backward(to_seen)?)?;
            Ok((penalty, augmentation.forward_linear(&v)?))
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
    fn to_generator(&self, trace: Trace, to_seen: Vec<Tensor>, augmentation: &Augmentation) -> Result<Vec<Tensor>> {
        let missing = || candle_core::Error::Msg("the critic gave no gradient to its input".to_string());
        let to_seen = to_seen.into_iter().next().ok_or_else(missing)?;
        let to_images = augmentation.backward(&to_seen)?;
        let to_output = match self.generator.output() {
            Shape::Flat(_) => channels_first(&to_images)?,
            Shape::Map { .. } => to_images,
        };
        self.generator.backward(trace, to_output, Wanted::Parameters)
    }

    fn next_pass(&self, phase: &mut Phase) -> Pass {
        // Three passes a critic step (generator, real, fake), and those of a penalty; at most two in the generator's, and one for
        // real images if it sees any.
        let schedule = &self.config.schedule;
        let a_critic_step = 3 + self.config.penalty.map_or(0, PenaltyConfig::passes);
        let a_generator_step = 2 + u64::from(self.config.loss.pairs_scores());
        let a_round = a_critic_step * schedule.most_critic_steps() + a_generator_step * schedule.generator_steps as u64;
        let number = self.step * a_round + phase.passes;
        phase.passes += 1;
        Pass::Train { seed: self.config.seed, number }
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

impl Sum {
    fn add(&mut self, values: Vec<Tensor>) -> Result<()> {
        self.values = Some(match self.values.take() {
            None => values,
            Some(sums) => sums.iter().zip(&values).map(|(sum, value)| sum + value).collect::<candle_core::Result<_>>()?,
        });
        self.steps += 1;
        Ok(())
    }

    /// The values, read from the device.
    fn read(&self) -> Result<ReadSum> {
        let read = |sum: &Tensor| sum.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let values = self.values.iter().flatten().map(read).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(ReadSum { values: values.concat(), steps: self.steps })
    }
}

impl ReadSum {
    /// The sum of value number `index`, 0 if there was none.
    fn total(&self, index: usize) -> f64 {
        self.values.get(index).copied().unwrap_or(0.0)
    }

    /// Its mean, unless there was none.
    fn mean(&self, index: usize) -> Option<f64> {
        self.values.get(index).map(|sum| sum / self.steps.max(1) as f64)
    }
}
