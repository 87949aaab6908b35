//! One critic step, one generator step.

use candle_core::{DType, Tensor};

use super::batches::Batch;
use super::draw::What;
use super::trainer::{Phase, Trainer, keep_strides};
use crate::augment::{Form, Placed};
use crate::config::{GeneratorLatents, LossConfig, PenaltyConfig};
use crate::ema;
use crate::error::{Error, Result};
use crate::loss::{Graded, top_k};
use crate::nn::cpu::on_pool;
use crate::nn::in_place::InPlace;
use crate::nn::scores::Player;
use crate::nn::update::{clamp, lerp};
use crate::nn::{Pass, Shape, Trace, Wanted, as_images, channels_first, chosen};
use crate::penalty::{Penalty, interpolate};

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
            ema.update(&self.generator, ema::rule(self.step, self.values.ema_decay), constants.as_ref())?;
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
