//! Training: the loop as a recipe, over the parts in the modules beside it.

mod batches;
pub mod checkpoint;
mod curves;
mod run;
mod stats;
mod step;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use crate::config::TrainConfig;
use crate::contract::Weights;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::image::{self, Images};
use crate::nn::{Network, Pass, Role, channels_first};
use crate::progress::Progress;
use crate::shape::Shape;

pub use batches::Batches;
pub use run::RunFolder;
pub use stats::{Record, read_records};
pub use step::{Phase, Trainer};

/// What a training needs beside its config.
pub struct Job<'a> {
    /// The resolved config.
    pub config: &'a TrainConfig,
    /// The images.
    pub data: &'a Dataset,
    /// Where to compute.
    pub device: &'a Device,
    /// Where everything goes.
    pub folder: &'a RunFolder,
    /// Who is told.
    pub progress: &'a dyn Progress,
    /// Raised from outside to end the run early: it saves and returns.
    pub stop: &'a AtomicBool,
}

/// How a training ended.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Generator steps made, those before a resume included.
    pub step: u64,
    /// Generator steps asked for.
    pub total_steps: u64,
    /// Real images shown to the critic.
    pub images: u64,
    /// Seconds this process trained.
    pub seconds: f64,
    /// Images a second in this process.
    pub images_per_second: f64,
}

/// Trains from the latest checkpoint of the run folder, or from the beginning if it has none, to the end of the schedule.
///
/// # Errors
/// When the folder cannot be written to, a checkpoint belongs to another run, or the losses become NaN or infinite. What
/// was saved before stays.
pub fn train(job: &Job) -> Result<Outcome> {
    let Job { config, data, folder, progress, .. } = job;

    // Build the networks, and put them where the last checkpoint left them.
    let mut batches = Batches::new(data, config, job.device)?;
    if batches.are_uploaded() {
        progress.say("the images do not fit on the GPU beside the networks: every batch is uploaded, which takes time");
    }
    let mut trainer = Trainer::new(config, job.device, DType::F32)?;
    if let Some(saved) = checkpoint::latest(folder)? {
        checkpoint::load(&saved, &mut trainer, data)?;
        progress.say(&format!("continuing at step {}", trainer.step));
    }
    folder.write_config(config)?; // not before: a checkpoint that does not fit must leave the run as it was
    let mut log = stats::Log::open(folder, trainer.step)?;

    let total = config.schedule.length.in_steps(&config.schedule, batches.len());
    let clock = Clock::start(trainer.step, batches.images_after(trainer.critic_steps()));

    // Train. The curves are drawn either way: they show where a run went wrong.
    progress.begin("training", total);
    let trained = steps(job, &mut trainer, &mut batches, &mut log, &clock, total);
    progress.end();
    log.finish()?;
    curves::draw(&read_records(folder)?, &folder.curves_file())?;
    trained?;
    Ok(clock.outcome(trainer.step, total, batches.images_after(trainer.critic_steps())))
}

/// The loop.
fn steps(
    job: &Job,
    trainer: &mut Trainer,
    batches: &mut Batches,
    log: &mut stats::Log,
    clock: &Clock,
    total: u64,
) -> Result<()> {
    let Job { config, data, folder, .. } = job;
    let sampler = Sampler::new(config, job.device)?;
    let output = &config.output;
    let [log_every, sample_every, checkpoint_every] = [output.log_every, output.sample_every, output.checkpoint_every]
        .map(|span| span.in_steps(&config.schedule, batches.len()));

    while trainer.step < total {
        // Train the critic, then the generator.
        let mut phase = Phase::default();
        for _ in 0..config.schedule.critic_steps {
            let real = batches.get(trainer.critic_steps() + phase.critic_turns)?;
            trainer.critic_step(&real, &mut phase)?;
        }
        trainer.generator_step(phase)?;
        let step = trainer.step;
        let last = step == total || job.stop.load(Ordering::SeqCst);
        let save = step.is_multiple_of(checkpoint_every) || last;

        // Tell. Before every save, so that nothing that has diverged replaces what has not.
        if step.is_multiple_of(log_every) || save {
            let record = record(trainer, batches, clock)?;
            log.write(&record)?;
            job.progress.update(step, &clock.detail(&record, total));
            refuse_nonsense(&record, folder)?;
        }

        // Show.
        if step.is_multiple_of(sample_every) || last {
            sampler.save(trainer, &folder.sample_file(step))?;
        }

        // Save.
        if save {
            checkpoint::save(folder, trainer, data, batches.images_after(trainer.critic_steps()))?;
        }
        if last {
            break;
        }
    }
    Ok(())
}

/// The line of the log for the steps since the last one.
fn record(trainer: &mut Trainer, batches: &Batches, clock: &Clock) -> Result<Record> {
    let images = batches.images_after(trainer.critic_steps());
    let means = trainer.take_means()?;
    let scores = batches.fixed()?.map(|sets| sets.map(|images| trainer.mean_score(&images)));
    let [score_train, score_held_out] = match scores {
        Some([train, held_out]) => [Some(train?), Some(held_out?)],
        None => [None, None],
    };
    Ok(Record {
        step: trainer.step,
        epoch: batches.epochs_after(trainer.critic_steps()),
        images,
        loss_critic: means.loss_critic,
        loss_generator: means.loss_generator,
        score_real: means.score_real,
        score_fake: means.score_fake,
        score_train,
        score_held_out,
        seconds: clock.seconds(),
        images_per_second: clock.rate(images),
    })
}

/// Stops a run whose numbers mean nothing any more; the checkpoints before it stay.
fn refuse_nonsense(record: &Record, folder: &RunFolder) -> Result<()> {
    let numbers = [record.loss_critic, record.loss_generator, record.score_real, record.score_fake];
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(()),
        false => Err(diverged("losses", record.step, folder)),
    }
}

fn diverged(what: &str, step: u64, folder: &RunFolder) -> Error {
    Error::Diverged(format!(
        "training diverged: the {what} are NaN or infinite at step {step}. The checkpoints in {} from before are kept; \
         begin again with a lower learning rate (--lr), or look at curves.png for where it went wrong.",
        folder.checkpoints().display()
    ))
}

/// Time and pace of this process.
struct Clock {
    began: Instant,
    first_step: u64,
    first_images: u64,
}

impl Clock {
    fn start(step: u64, images: u64) -> Self {
        Self { began: Instant::now(), first_step: step, first_images: images }
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn rate(&self, images: u64) -> f64 {
        (images - self.first_images) as f64 / self.seconds().max(1e-9)
    }

    fn detail(&self, record: &Record, total: u64) -> String {
        let steps = (record.step - self.first_step).max(1) as f64;
        let left = self.seconds() / steps * (total - record.step) as f64;
        format!(
            "critic {:.3} generator {:.3} | {:.0} images/s | {} left",
            record.loss_critic,
            record.loss_generator,
            record.images_per_second,
            hours(left)
        )
    }

    fn outcome(&self, step: u64, total_steps: u64, images: u64) -> Outcome {
        Outcome { step, total_steps, images, seconds: self.seconds(), images_per_second: self.rate(images) }
    }
}

fn hours(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// A generator for sampling, with averaged weights where the run has them; images `0..n` of the run's seed, so the same
/// that `gan-infer --seed SEED` makes.
struct Sampler<'a> {
    config: &'a TrainConfig,
    view: Network,
    latents: Tensor,
}

impl<'a> Sampler<'a> {
    fn new(config: &'a TrainConfig, device: &Device) -> Result<Self> {
        let n = config.output.samples;
        let latents = Tensor::from_vec(config.latent.rows(config.seed, 0, n), (n, config.latent.size), device)?;
        Ok(Self { config, view: generator_network(config, device, DType::F32)?, latents })
    }

    fn save(&self, trainer: &Trainer, path: &std::path::Path) -> Result<()> {
        self.view.load(&trainer.best_weights(), "the trainer")?;
        let images = sample(&self.view, self.config, &self.latents)?;
        image::save_grid(&images, Images::square_columns(images.n), path)
    }
}

/// Makes images from latents `[n, latent]`, as an exported generator would.
///
/// # Errors
/// When the device is out of memory.
pub fn sample(generator: &Network, config: &TrainConfig, latents: &Tensor) -> Result<Images> {
    let Shape::Map { channels, height, width } = config.image_shape() else {
        return Err(Error::usage("the config's images have no height and width", "Mend data.size and data.channels."));
    };
    let values = channels_first(&generator.forward(latents, Pass::Eval)?)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(Images::from_nchw(&values, [latents.dim(0)?, channels, height, width], config.data.range))
}

/// The generator of a config at its beginning.
///
/// # Errors
/// When the device is out of memory.
pub fn generator_network(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Network> {
    let input = Shape::Flat(config.latent.size);
    Network::new(&config.generator.layers, input, &config.init, Role::Generator, config.seed, device, dtype)
}

/// The critic of a config at its beginning.
///
/// # Errors
/// When the device is out of memory.
pub fn critic_network(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Network> {
    Network::new(&config.critic.layers, config.image_shape(), &config.init, Role::Critic, config.seed, device, dtype)
}

/// A trained generator as a run folder's latest checkpoint holds it.
pub struct Trained {
    /// The run's config.
    pub config: TrainConfig,
    /// The generator with the weights asked for.
    pub generator: Network,
    /// What the checkpoint says of itself.
    pub state: checkpoint::State,
    /// Which weights these are.
    pub weights: Weights,
}

/// Loads a run's generator on the CPU; without `weights`, the average where the run has one.
///
/// # Errors
/// When the folder is no run, has no checkpoint yet, or has no averaged weights though these are asked for.
pub fn load_trained(folder: &RunFolder, weights: Option<Weights>) -> Result<Trained> {
    let saved = checkpoint::latest(folder)?.ok_or_else(|| {
        Error::invalid_file(folder.path(), "this run has no checkpoint yet", "Continue it with gan-train --resume RUN.")
    })?;
    load_checkpoint(folder, &saved, weights)
}

/// As [`load_trained`], from the checkpoint of the run in the folder `saved`.
///
/// # Errors
/// When the folder is no run, the checkpoint is damaged, or has no averaged weights though these are asked for.
pub fn load_checkpoint(folder: &RunFolder, saved: &std::path::Path, weights: Option<Weights>) -> Result<Trained> {
    let config = folder.config()?;
    let averaged = config.schedule.ema_decay > 0.0;
    let weights = weights.unwrap_or(if averaged { Weights::Ema } else { Weights::Raw });
    if weights == Weights::Ema && !averaged {
        let what = "this run has no averaged weights (schedule.ema_decay is 0)";
        return Err(Error::usage(format!("{}: {what}", folder.path().display()), "Use --weights raw."));
    }
    let generator = generator_network(&config, &Device::Cpu, DType::F32)?;
    let tensors: BTreeMap<String, Tensor> = checkpoint::read_generator(saved, weights)?;
    generator.load(&tensors, &saved.display().to_string())?;
    Ok(Trained { config, generator, state: checkpoint::read_state(saved)?, weights })
}
