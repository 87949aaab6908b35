//! What a [`TrainConfig`] must fulfil.

use std::path::Path;

use super::schedule::{CriticWarmup, Ramp, Span};
use super::schema::{Norm, TrainConfig, invalid_config};
use crate::contract;
use crate::error::Result;
use crate::image::Range;
use crate::loss::LossConfig;
use crate::memory;
use crate::nn::init::{Init, InitConfig, Role};
use crate::nn::layers::{activations_estimate, output_shape, size_estimate};
use crate::nn::{LayerSpec, Shape};
use crate::optim::is_positive;
use crate::penalty::PenaltyConfig;

/// More parameters and activations an image than any machine this runs on could train; a slip of the pen in a config must
/// not end in an allocation failure, which no program survives.
const MAX_VALUES: f64 = 4e9;

/// Likewise of the values between the layers for a whole batch: 160 GB in f32.
const MAX_BATCH_VALUES: f64 = 4e10;

/// Layers of a network, those in residual blocks among them: dropout's masks are numbered by them.
const MAX_LAYERS: usize = 1024;

/// Latents of a batch: 1 GiB in f32.
const MAX_LATENTS: usize = 1 << 28;

/// Values of all images on a sheet of samples, which are made at once: 4 GiB in f32.
const MAX_SHEET: usize = 1 << 30;

impl TrainConfig {
    /// Checks every value, and that the generator makes what the critic takes.
    pub(crate) fn check(&self, place: &str) -> Result<()> {
        let ensure = |ok: bool, what: &str| if ok { Ok(()) } else { Err(invalid_config(place, what.to_string())) };
        ensure((4..=1024).contains(&self.data.size), "data.size must be 4 to 1024")?;
        ensure(matches!(self.data.channels, 1 | 3), "data.channels must be 1 or 3")?;
        ensure(self.data.range != Range::Byte, "data.range must be tanh or sigmoid")?;
        ensure((0.0..=0.5).contains(&self.data.held_out), "data.held_out must be 0 to 0.5")?;
        ensure(matches!(self.data.classes, 0 | 2..=256), "data.classes must be 2 to 256, or 0 for none")?;
        if !self.data.class_names.is_empty() {
            let refused = |what| invalid_config(place, format!("data.class_names: {what}"));
            contract::check_class_names(&self.data.class_names, self.data.classes).map_err(refused)?;
        }
        ensure(!self.data.source.iter().any(str::is_empty), "data.source must not name an empty path")?;
        ensure((1..=65_536).contains(&self.latent.size), "latent.size must be 1 to 65536")?;
        ensure((1..=65_536).contains(&self.schedule.batch_size), "schedule.batch_size must be 1 to 65536")?;
        let (classes, latent) = (self.data.classes, self.latent.size);
        ensure(
            classes <= latent,
            &format!("data.classes: the largest of the first {classes} latents chooses the class, but latent.size is {latent}"),
        )?;
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
        let once = self.schedule.ema_half_life.is_none() || self.schedule.ema_decay == 0.0;
        ensure(once, "schedule.ema_half_life stands in place of schedule.ema_decay: leave one of them out")?;
        ensure((1..=4096).contains(&self.output.samples), "output.samples must be 1 to 4096")?;
        let sheet = self.output.samples.saturating_mul(self.image_shape().elements());
        ensure(sheet <= MAX_SHEET, "output.samples: so many images of this size are more than 4 GiB; take fewer")?;
        ensure((1..=10_000).contains(&self.output.keep_checkpoints), "output.keep_checkpoints must be 1 to 10000")?;
        ensure(self.seed <= i64::MAX as u64, "seed must be below 2^63")?;
        let twice = self.augment.iter().enumerate().any(|(at, kind)| self.augment[..at].contains(kind));
        ensure(!twice, "augment must name each kind at most once")?;
        ensure((0.0..=1.0).contains(&self.augment_probability), "augment_probability must be 0 to 1")?;
        for optimizer in [self.optimizer.generator, self.optimizer.critic] {
            optimizer.check().map_err(|what| invalid_config(place, what.to_string()))?;
        }
        let bounded = self.penalty.is_some() || self.critic.norm == Some(Norm::Spectral);
        self.loss.check(bounded).map_err(|what| invalid_config(place, what.to_string()))?;
        if let (LossConfig::Wgan { clip: Some(_), .. }, Some(PenaltyConfig::Gradient { .. })) = (self.loss, self.penalty) {
            let what = "a gradient penalty asks for a slope of 1, which weight clipping forbids: \
                        leave the clipping out (loss = { kind = \"wgan\" }), or the penalty";
            return Err(invalid_config(place, what.to_string()));
        }
        if let Some(penalty) = self.penalty {
            ensure(is_positive(penalty.weight()), "penalty.weight must be above 0")?;
            ensure((1..=1000).contains(&penalty.every()), "penalty.every must be 1 to 1000")?;
        }
        self.check_ramp(place)?;
        let all = share == 1.0 || !self.loss.pairs_scores();
        ensure(all, "schedule.generator_top_k leaves scores out, and the relativistic loss pairs all; leave it at 1")?;
        let InitConfig { conv, linear, bias, norm_weight, norm_bias } = self.init;
        for init in [conv, linear, bias, norm_weight, norm_bias] {
            if let Init::Normal { mean, std } = init {
                ensure(mean.is_finite(), "init: mean must be a number")?;
                ensure(std.is_finite() && std >= 0.0, "init: std must be at least 0")?;
            }
            if let Init::Gain(gain) = init {
                ensure((0.0..=100.0).contains(&gain), "init: gain must be 0 to 100")?;
            }
        }
        let (schedule, output, watch) = (&self.schedule, &self.output, &self.watch);
        let spans =
            [schedule.length, output.log_every, output.sample_every, output.checkpoint_every, watch.every, watch.judge_every];
        let of_rates = schedule.lr_decay.map(|decay| [decay.begin, decay.end]).into_iter().flatten().chain(schedule.lr_warmup);
        let of_rates = of_rates.chain(schedule.ramp.map(|ramp| ramp.over));
        for span in spans.into_iter().chain(of_rates) {
            let (Span::Steps(n) | Span::Epochs(n) | Span::Images(n)) = span;
            ensure(n > 0, "lengths and intervals must be at least 1")?;
        }
        self.check_networks(place)?;
        self.check_batch(place)
    }

    /// Checks what the ramp says, and that there is what it changes.
    fn check_ramp(&self, place: &str) -> Result<()> {
        let ensure =
            |ok: bool, what: &str| if ok { Ok(()) } else { Err(invalid_config(place, format!("schedule.ramp{what}"))) };
        let Some(Ramp { beta2_to, penalty_to, augment_to, ema_half_life_to, .. }) = self.schedule.ramp else { return Ok(()) };
        ensure(beta2_to.is_none_or(|to| (0.0..1.0).contains(&to)), ".beta2_to must be at least 0 and below 1")?;
        ensure(penalty_to.is_none_or(is_positive), ".penalty_to must be above 0")?;
        ensure(augment_to.is_none_or(|to| (0.0..=1.0).contains(&to)), ".augment_to must be 0 to 1")?;
        let something = beta2_to.or(penalty_to).or(augment_to).is_some() || ema_half_life_to.is_some();
        ensure(something, " changes nothing: it takes beta2_to, penalty_to, augment_to or ema_half_life_to")?;
        let adam = [self.optimizer.generator, self.optimizer.critic].iter().any(|optimizer| optimizer.beta2().is_some());
        ensure(beta2_to.is_none() || adam, ".beta2_to is for the kind adam, and neither optimizer is of it")?;
        ensure(penalty_to.is_none() || self.penalty.is_some(), ".penalty_to goes with a penalty, from whose weight it begins")?;
        ensure(augment_to.is_none() || !self.augment.is_empty(), ".augment_to goes with augment, which names nothing")?;
        let half_life = ema_half_life_to.is_none() || self.schedule.ema_half_life.is_some();
        ensure(half_life, ".ema_half_life_to goes with schedule.ema_half_life, from which it begins")
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
        if self.generator.norm.is_some() || self.generator.san {
            let what = "generator: norm, spectral and san are for the critic only";
            return Err(invalid_config(place, what.to_string()));
        }
        for (role, name, network) in [(Role::Generator, "generator", &self.generator), (Role::Critic, "critic", &self.critic)] {
            if let Some(what) = network.layers.iter().find_map(|layer| layer.unfit_for(role)) {
                return Err(invalid_config(place, format!("{name}: {what}")));
            }
        }
        let normed = |norm: &LayerSpec| self.critic.layers.iter().any(|layer| layer.any(&|layer| layer == norm));
        if self.critic.norm == Some(Norm::Batch) && !normed(&LayerSpec::BatchNorm)
            || self.critic.norm == Some(Norm::Layer) && !normed(&LayerSpec::LayerNorm)
        {
            let what = "critic.norm: there is no norm in the critic's layers that this one could replace; \
                        use spectral, or write the norms into the layers";
            return Err(invalid_config(place, what.to_string()));
        }
        let begins_with_zeros = |gain: Option<f64>, init: Init| gain.map_or(init, Init::Gain).is_zero();
        let divides_zeros = |layer: &LayerSpec| match layer {
            LayerSpec::Conv(spec) => spec.spectral && begins_with_zeros(spec.gain, self.init.conv),
            LayerSpec::Linear(spec) => spec.spectral && begins_with_zeros(spec.gain, self.init.linear),
            _ => false,
        };
        if self.critic.layers.iter().any(|layer| layer.any(&divides_zeros)) {
            let what = "critic: weights begin as zeros (gain or init), and spectral divides them by their norm; \
                        begin with others, or without spectral";
            return Err(invalid_config(place, what.to_string()));
        }
        let score =
            output_shape(&self.critic.layers, image).map_err(|what| invalid_config(place, format!("critic: {what}")))?;
        self.check_classes(place, score)?;
        self.check_san(place)?;
        for (network, layers) in [("generator", &self.generator.layers), ("critic", &self.critic.layers)] {
            if LayerSpec::count(layers) > MAX_LAYERS {
                return Err(invalid_config(place, format!("{network}: more than {MAX_LAYERS} layers")));
            }
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
        Ok(())
    }

    /// Checks what a batch takes, once nothing can change it any more.
    pub(crate) fn check_batch(&self, place: &str) -> Result<()> {
        let sizes = [(&self.generator.layers, Shape::Flat(self.latent.size)), (&self.critic.layers, self.image_shape())];
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

    /// Refuses networks and batches that the memory of this machine is far too small for: estimated from below, each weight with its
    /// gradient, and a quarter of what lies between the layers, for much of it is computed in place or never kept. A batch has `images` at
    /// most.
    ///
    /// # Errors
    /// When they need more than there is, or `GANFORGE_MEMORY` is no number.
    pub fn check_memory(&self, images: usize) -> Result<()> {
        const COPIES: f64 = 2.0;
        const KEPT: f64 = 0.25;
        let sizes = [(&self.generator.layers, Shape::Flat(self.latent.size)), (&self.critic.layers, self.image_shape())];
        let sum = |of: fn(&[LayerSpec], Shape) -> f64| sizes.iter().map(|(layers, input)| of(layers, *input)).sum::<f64>();
        let images = images.min(self.schedule.batch_size);
        let batch = sum(activations_estimate) * images as f64;
        let weights = sum(size_estimate) - sum(activations_estimate);
        let bytes = size_of::<f32>() as f64 * (COPIES * weights + KEPT * batch);
        let (what, hint) = match images {
            0 => ("the networks, at the least,".to_string(), "Take narrower layers."),
            _ => (
                format!("the networks and a batch of {images}, at the least,"),
                "Take a smaller schedule.batch_size, or narrower layers.",
            ),
        };
        memory::check(Path::new(&self.preset), bytes as u64, &what, hint)
    }

    /// Checks that the critic has a direction to learn, and another loss to learn all else by.
    fn check_san(&self, place: &str) -> Result<()> {
        if !self.critic.san {
            return Ok(());
        }
        if !matches!(self.critic.layers.last(), Some(LayerSpec::Linear(_) | LayerSpec::Conv(_))) {
            let what = "critic.san: the critic's last layer must be a linear layer or a convolution, whose kernel is the direction that it \
                        teaches apart";
            return Err(invalid_config(place, what.to_string()));
        }
        if let LossConfig::Wgan { .. } = self.loss {
            let what = "critic.san teaches the last layer's direction by the wgan loss, by which this critic learns all: \
                        leave it out, or take another loss";
            return Err(invalid_config(place, what.to_string()));
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
