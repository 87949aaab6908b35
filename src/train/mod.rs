//! Training: the loop as a recipe, over the parts in the modules beside it. It is one file so that it is read from top to bottom.

mod batches;
#[cfg(feature = "cuda")]
mod captured;
pub mod changes;
pub mod checkpoint;
mod chosen;
mod clock;
mod count;
mod curves;
mod draw;
mod draws;
mod feed;
mod flat;
mod gif;
pub mod import_weights;
mod matching;
mod measuring;
mod naming;
mod networks;
#[cfg(feature = "cuda")]
mod pixels;
mod preview;
mod pth;
mod record;
pub mod report;
mod round;
mod run;
mod stats;
mod step;
mod sums;
pub mod tensorboard;
mod trained;
mod trainer;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device};

use crate::config::schedule::Rates;
use crate::config::{LossConfig, Span, TrainConfig};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::image::Images;
use crate::progress::Progress;

pub use batches::{Batch, Batches};
use clock::Clock;
use measuring::{count_measurements, distance, is_measured, judge_end};
pub use networks::{critic_network, generator_network};
use preview::Preview;
pub use preview::sample;
pub use record::{Record, read_records};
pub use round::Rounds;
pub use run::{RunFolder, Which, check_output};
pub use sums::Means;
pub use trained::{Trained, load_checkpoint, load_trained};
use trainer::raw_weights;
pub use trainer::{Phase, Trainer};
pub use watch::{Best, Trouble, Verdict, Watchdog};

/// What a training needs beside its config.
pub struct TrainingJob<'a> {
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
    /// Who measures how good the samples are, if anybody does.
    pub judge: Option<&'a dyn Judge>,
    /// Keys and sections of the config that may differ, on purpose, from what the checkpoint was made with that the training goes
    /// on from; beside those that always may, [`changes::FREE`].
    pub set: &'a [String],
}

/// Measures how good generated images are, and so decides which checkpoint is the best.
pub trait Judge {
    /// The Fréchet distance to real images; less is better.
    ///
    /// # Errors
    /// When it cannot be measured.
    fn distance(&self, images: &Images) -> Result<f64>;
}

/// How a training ended.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
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
    /// Rounds of this process that were one launch of a CUDA graph each.
    pub captured_rounds: u64,
    /// The best checkpoint.
    pub best: Option<Best>,
    /// How often the distance was measured that it is the best by; before a resume, too.
    pub measurements: usize,
    /// Why the watchdog ended it, if it did.
    pub verdict: Option<Verdict>,
    /// What else it has said, where it was not to end the run; before a resume, too.
    pub warnings: Vec<Verdict>,
    /// What speaks against the run at its end, where the watchdog was not sure of anything; where nothing was left to train, what was said then.
    pub doubts: Vec<String>,
}

/// Trains from the latest checkpoint of the run folder, or from the beginning if it has none, to the end of the schedule, or
/// until the watchdog says that there is no point in going on. Where there is nothing left to train, it says so and changes
/// nothing.
///
/// # Errors
/// When the folder cannot be written to, another process trains in it, or a checkpoint belongs to another run or another
/// config. What was saved before stays.
pub fn train(job: &TrainingJob) -> Result<Outcome> {
    // One process a run; what others that were killed left half written goes.
    let held = job.folder.held()?;
    let mut named = job.config.clone();
    named.name_classes(job.data);
    let job = &TrainingJob { config: &named, folder: &held, ..*job };
    let TrainingJob { config, data, folder, progress, .. } = job;
    folder.sweep()?;
    let saved = checkpoint::latest(folder)?;
    let changes = changes::check(folder, saved.as_deref(), config, job.set)?;

    // Build the networks, and put them where the last checkpoint left them.
    let mut batches = Batches::new(data, config, job.device)?;
    if batches.len() < config.schedule.batch_size {
        let (images, asked) = (batches.len(), config.schedule.batch_size);
        progress.say(&format!(
            "every batch is of {images} images, for there are no more to train on (schedule.batch_size is {asked})"
        ));
    }
    if batches.are_uploaded() {
        progress.say("the images do not fit on the GPU beside the networks: every batch is uploaded, which takes time");
    }
    let mut trainer = Trainer::new(config, job.device, DType::F32)?;
    let mut watchdog = Watchdog::default();
    if let Some(saved) = &saved {
        watchdog = checkpoint::load(saved, &mut trainer, data)?;
        checkpoint::settle(folder, &trainer, &watchdog)?;
        let state = checkpoint::read_state(saved)?;
        batches.go_on([state.step, state.images], state.counted, &config.schedule);
        let total = batches.in_steps(config.schedule.length, &config.schedule);
        if trainer.step >= total {
            if let Some(changes) = changes.new_in_words() {
                progress.say(&format!("warning: nothing is left to train, so this changes nothing: {changes}"));
            }
            return nothing_left(job, &trainer, &batches, watchdog, total);
        }
        checkpoint::forget_end(folder)?;
        progress.say(&format!("continuing at step {}", trainer.step));
    } else if let Some(reached) = check_beginning(folder, &batches)? {
        progress
            .say(&format!("no checkpoint was saved before step {reached}, up to which this run was logged: it begins again"));
    }
    if saved.is_none() && !config.init_from.is_empty() {
        progress.say(&import_weights::begin(&mut trainer, &config.init_from.iter().collect::<Vec<_>>())?);
        // At once: a run that is killed before its next checkpoint must begin with the same weights, whatever became of the file.
        checkpoint::save(folder, &trainer, &batches, &watchdog)?;
    }
    if let Some(doubt) = doubt_of_decay(config, &batches) {
        progress.say(&format!("warning: {doubt}"));
    }
    // Not before: a checkpoint that does not fit must leave the run as it was.
    changes::note(folder, &changes, *progress)?;
    folder.write_config(config)?;
    let log = stats::Log::open(folder, trainer.step)?;
    for sheet in log.left_out() {
        progress.say(&format!("warning: TensorBoard does without a sheet of samples: {sheet}"));
    }

    // Train. The report is written either way: it shows where a run went wrong.
    let mut run = Run::new(job, trainer, batches, watchdog, log)?;
    let mut facts = report::Facts::new(config, data, job.device, run.total);
    report::note(folder, &facts)?;
    progress.begin("training", run.total);
    let trained = run.steps();
    progress.end();
    folder.check()?; // nothing is written where the run is not any more
    let (mut end, mut doubts) = (None, Vec::new());
    if matches!(trained, Ok(None)) && run.trainer.step >= run.total {
        end = run.judge_end().unwrap_or_else(|error| {
            progress.say(&format!("warning: the run is saved, but its end was not judged: {error}"));
            None
        });
        doubts = run.doubts();
        doubts.iter().for_each(|doubt| progress.say(&format!("warning: {doubt}")));
    }
    let mut outcome = run.outcome();
    outcome.doubts = doubts;
    outcome.best = run.watchdog.best_with(end);
    outcome.verdict = trained.as_ref().ok().cloned().flatten();
    outcome.warnings.retain(|said| Some(said) != outcome.verdict.as_ref());
    run.log.finish()?;
    outcome.measurements = count_measurements(folder, end)?;
    facts.best = outcome.best;
    facts.measurements = outcome.measurements;
    facts.warnings = outcome.warnings.clone();
    facts.doubts = outcome.doubts.clone();
    facts.verdict = outcome.verdict.clone();
    facts.ended = trained.as_ref().err().map(ToString::to_string);
    if let Err(error) = report::write(folder, &facts) {
        progress.say(&format!("warning: this run's report was not written: {error}"));
    }
    trained.map(|_| outcome)
}

/// What is odd about learning rates that fall: in units whose order only the data tell, or to 0 long before the end.
fn doubt_of_decay(config: &TrainConfig, batches: &Batches) -> Option<String> {
    let decay = config.schedule.lr_decay?;
    let [begin, end, total] =
        [decay.begin, decay.end, config.schedule.length].map(|span| batches.in_steps(span, &config.schedule));
    if begin >= end {
        return Some(format!(
            "schedule.lr_decay begins at step {begin} of these images and ends at step {end}: the learning rates fall at once"
        ));
    }
    let (idle, most) = (total.saturating_sub(end), total / 10);
    (decay.to == 0.0 && idle > most).then(|| {
        format!("schedule.lr_decay brings the learning rates to 0 at step {end}: the {idle} steps after it teach nothing")
    })
}

/// Looks at a run without a checkpoint: the step up to which its log goes, if it has one. It was killed, or failed, before its
/// first checkpoint.
///
/// # Errors
/// When it must have had a checkpoint: to begin again would replace what it made.
fn check_beginning(folder: &RunFolder, batches: &Batches) -> Result<Option<u64>> {
    let records = record::logged(folder)?;
    let reached = records.last().map(|record| record.step);
    // By the config that it was logged under: a resume may have come with another.
    let before = folder.config()?;
    let first = batches.in_steps(before.output.checkpoint_every, &before.schedule);
    if folder.onnx_file().exists() || reached.is_some_and(|reached| reached > first) {
        return Err(Error::invalid_file(
            &folder.checkpoints(),
            "this run has no checkpoint any more, though it was trained: it would begin again at step 0",
            "Restore the folder checkpoints/, or train anew into another folder.",
        ));
    }
    Ok(reached)
}

/// Says of a run that is as long as was asked for, or longer, that there is nothing to train, and how it goes on.
fn nothing_left(
    job: &TrainingJob,
    trainer: &Trainer,
    batches: &Batches,
    watchdog: Watchdog,
    total_steps: u64,
) -> Result<Outcome> {
    let TrainingJob { folder, progress, .. } = job;
    // It may have been killed before it was judged.
    let end = match checkpoint::end(folder, trainer.step)? {
        Some(end) => Some(end),
        None if is_measured(folder, trainer.step)? => None,
        None => judge_end(job, trainer, &watchdog, &Preview::new(job.config, job.device)?)?,
    };
    if let Some(end) = end {
        checkpoint::settle_end(folder, &watchdog, end)?;
    }
    let asked = if trainer.step == total_steps {
        "as many as it was to have".to_string()
    } else {
        format!("more than the {total_steps} it is to have now")
    };
    let step = trainer.step;
    progress.say(&format!("this run has {step} steps, {asked}: nothing is trained. It goes on with a larger total length."));
    // It may have been killed between its last checkpoint and its report.
    if !folder.report_file().exists()
        && let Err(error) = report::rewrite(folder, report::Paths::Hidden)
    {
        progress.say(&format!("warning: the run is whole, but its report is not written: {error}"));
    }
    let images = batches.images_after(trainer.critic_steps());
    let (best, measurements) = (watchdog.best_with(end), count_measurements(folder, end)?);
    let warnings = watchdog.said;
    let seconds = 0.0;
    Ok(Outcome {
        step,
        total_steps,
        images,
        seconds,
        images_per_second: 0.0,
        captured_rounds: 0,
        best,
        measurements,
        verdict: None,
        warnings,
        // A report that cannot be read has none.
        doubts: report::facts(folder).map(|facts| facts.doubts).unwrap_or_default(),
    })
}

/// A training under way.
struct Run<'a> {
    job: &'a TrainingJob<'a>,
    trainer: Trainer,
    batches: Batches<'a>,
    rounds: Rounds,
    watchdog: Watchdog,
    log: stats::Log,
    preview: Preview<'a>,
    probe: watch::Probe,
    /// The real images' contrast, by which the samples' is told.
    real_contrast: Option<f64>,
    /// The step of the last measurement of this process.
    measured: Option<u64>,
    /// The samples' diversity at the last look of this process.
    diversity: Option<f64>,
    /// Which network the last line of the log had no gradient for at all.
    still: Option<&'static str>,
    clock: Clock,
    rates: Rates,
    total: u64,
}

/// What is to be done at the end of a round.
struct Actions {
    log: bool,
    probe: bool,
    sheet: bool,
    judge: bool,
    save: bool,
    last: bool,
}

impl<'a> Run<'a> {
    fn new(
        job: &'a TrainingJob<'a>,
        trainer: Trainer,
        batches: Batches<'a>,
        watchdog: Watchdog,
        log: stats::Log,
    ) -> Result<Self> {
        let schedule = &job.config.schedule;
        Ok(Self {
            preview: Preview::new(job.config, job.device)?,
            probe: watch::Probe::new(job.config, &batches, &trainer)?,
            real_contrast: flat::real_contrast(job.data),
            clock: Clock::start(trainer.step, batches.images_after(trainer.critic_steps())),
            rates: batches.rates(schedule),
            total: batches.in_steps(schedule.length, schedule),
            measured: None,
            diversity: None,
            still: None,
            job,
            trainer,
            batches,
            rounds: Rounds::default(),
            watchdog,
            log,
        })
    }

    /// The loop. Gives what the watchdog ended it for.
    fn steps(&mut self) -> Result<Option<Verdict>> {
        let generator_steps = self.job.config.schedule.generator_steps as u64;
        while self.trainer.step < self.total {
            let before = self.trainer.step;
            let after = before + generator_steps;
            self.trainer.values = self.job.config.values(self.rates.at(before));
            self.trainer.measure = self.due(before, after).log;

            // Train the critic, then the generator.
            self.rounds.round(&mut self.trainer, &mut self.batches)?;
            if let Some(notice) = self.rounds.take_notice() {
                self.job.progress.say(&notice);
            }

            // Tell. Before every save, so that nothing that has diverged replaces what has not.
            let mut due = self.due(before, after);
            let images = self.batches.images_after(self.trainer.critic_steps());
            self.job.progress.update(after, &self.clock.detail(after, images, self.total));
            if due.log || due.sheet {
                self.job.folder.check()?;
            }
            if due.log {
                let record = self.record(&due)?;
                let better = record.quality.filter(|quality| self.watchdog.would_improve(*quality));
                due.save |= better.is_some();
                self.log.write(&record)?;
                self.clock.logged(&record);
                if self.watchdog.sees_flat(&record)
                    && let Some(note) = self.flat()?
                {
                    self.job.progress.say(&format!("note: {note}"));
                }
                if let Some(verdict) = self.verdict(&record, &due)? {
                    self.show(after)?; // people want to see what became of it
                    return Ok(Some(verdict));
                }
                if better.is_some() {
                    self.watchdog.best = Some(Best { step: after, quality: better });
                }
            }

            // Show.
            if due.sheet {
                self.show(after)?;
            }

            // Save.
            if due.save {
                self.save()?;
            }
            if due.last {
                break;
            }
        }
        Ok(None)
    }

    /// The sheet of samples after a step. The training is worth more than its pictures: where one cannot be kept, that is said.
    fn show(&mut self, step: u64) -> Result<()> {
        let TrainingJob { folder, progress, .. } = self.job;
        let sheet = self.preview.sheet(&self.trainer)?;
        let path = folder.sample_file(step);
        // Someone may have removed the folder.
        let kept = folder
            .restore(&folder.samples())
            .and_then(|()| files::write_atomic(&path, &sheet))
            .and_then(|()| self.log.sheet(step, &sheet));
        if let Err(error) = kept {
            progress.say(&format!("warning: no sheet of samples after step {step}: {error}"));
        }
        Ok(())
    }

    /// What is due at the end of the round from step `before` to step `after`.
    fn due(&self, before: u64, after: u64) -> Actions {
        let TrainingJob { config, judge, stop, .. } = self.job;
        let images = |step| self.batches.images_after(config.schedule.critic_steps_before(step));
        // A round may pass over the very step, or the very image.
        let passes = |every: u64, [before, after]: [u64; 2]| after / every.max(1) > before / every.max(1);
        let due = |span: Span| match span {
            Span::Steps(every) => passes(every, [before, after]),
            Span::Images(every) => passes(every, [before, after].map(images)),
            Span::Epochs(every) => passes(every.saturating_mul(self.batches.len() as u64), [before, after].map(images)),
        };
        let last = after >= self.total || stop.load(Ordering::SeqCst);
        let probe = due(config.watch.every);
        // Not at the end besides, which is judged apart: a run that ends earlier and is resumed would have measured once more.
        let judge = judge.is_some() && config.watch.judge_samples > 0 && due(config.watch.judge_every);
        let save = due(config.output.checkpoint_every) || last;
        let sheet = due(config.output.sample_every) || last;
        Actions { log: due(config.output.log_every) || probe || judge || save, probe, sheet, judge, save, last }
    }

    /// The line of the log for the steps since the last one.
    fn record(&mut self, due: &Actions) -> Result<Record> {
        let Self { trainer, batches, .. } = self;
        let images = batches.images_after(trainer.critic_steps());
        let means = trainer.take_means()?;
        let mean_score = |images: &Batch| trainer.scores(images).map(|all| all.iter().sum::<f64>() / all.len() as f64);
        let [score_train, score_held_out] = match batches.fixed()? {
            Some([train, held_out]) => [Some(mean_score(&train)?), Some(mean_score(&held_out)?)],
            None => [None, None],
        };
        let look = if due.probe { Some(self.probe.observe(trainer)?) } else { None };
        let diversity = look.as_ref().and_then(|look| look.diversity);
        let contrast = match self.real_contrast.filter(|_| due.probe) {
            Some(real) => Some(flat::contrast(&self.preview.images(trainer, flat::N)?) / real),
            None => None,
        };
        let sound = means.loss_critic.is_finite() && means.loss_generator.is_finite();
        let quality = match self.job.judge.filter(|_| due.judge && sound) {
            Some(judge) => distance(self.job, judge, &self.trainer, &self.preview)?,
            None => None,
        };
        self.diversity = diversity.map(|[pairwise, _]| pairwise).or(self.diversity);
        self.measured = quality.map(|_| self.trainer.step).or(self.measured);
        let norms = [("critic", means.gradient_norm_critic), ("generator", means.gradient_norm_generator)];
        self.still = norms.into_iter().find(|(_, norm)| *norm == Some(0.0)).map(|(network, _)| network);
        let Self { trainer, batches, clock, .. } = self;
        let wasserstein = matches!(self.job.config.loss, LossConfig::Wgan { .. });
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
            gradient_norm_critic: means.gradient_norm_critic,
            gradient_norm_generator: means.gradient_norm_generator,
            penalty: means.penalty,
            input_gradient_norm: means.input_gradient_norm,
            wasserstein: wasserstein.then_some(means.score_real - means.score_fake),
            diversity: diversity.map(|[pairwise, _]| pairwise),
            diversity_nearest: diversity.map(|[_, nearest]| nearest),
            contrast,
            score_spread: look.map(|look| look.spread),
            quality,
            seconds: clock.seconds(),
            images_per_second: clock.rate(images),
        })
    }

    /// What speaks against a run that has come to its end, where the watchdog was not sure of anything.
    fn doubts(&self) -> Vec<String> {
        /// Below this part of the data's diversity there is nothing to be seen in the samples.
        const GREY: f64 = 0.1;
        /// After fewer images than these nobody expects anything.
        const LEAST_IMAGES: u64 = 1_000;
        let grey = self.diversity.filter(|diversity| *diversity < GREY).map(|diversity| {
            format!(
                "the samples' diversity is {diversity:.3} of the data's at the end: nothing has come of this run, or not yet"
            )
        });
        let unseen = |error| Some(format!("the run is saved, but its samples were not looked at: {error}"));
        let is_long = self.batches.images_after(self.trainer.critic_steps()) >= LEAST_IMAGES;
        let grey = grey.or_else(|| if is_long { self.flat().unwrap_or_else(unseen) } else { None });
        let still = self.still.map(|network| {
            format!("the {network}'s gradient is exactly 0 at the end: it does not learn any more. Begin again with lower learning rates")
        });
        self.watchdog.doubt().into_iter().chain(grey).chain(still).collect()
    }

    /// That the samples are flat, where they are. The log has nothing of it: a run that is made longer later would have looked once more than
    /// another.
    fn flat(&self) -> Result<Option<String>> {
        let Some(real) = self.real_contrast else { return Ok(None) };
        let (step, images) = (self.trainer.step, self.batches.images_after(self.trainer.critic_steps()));
        let of = |weights: &BTreeMap<_, _>| Ok::<_, Error>(flat::contrast(&self.preview.images_by(weights, flat::N)?) / real);
        let contrast = of(&self.trainer.best_weights())?;
        if contrast >= watch::FLAT {
            return Ok(None);
        }
        let look = flat::Look { step, images, contrast, of_trained: of(&raw_weights(&self.trainer.generator))? };
        Ok(Some(flat::note(self.job.config, &look)))
    }

    /// What was measured at the end, if that was not measured on the way.
    fn judge_end(&self) -> Result<Option<Best>> {
        if self.measured == Some(self.trainer.step) {
            return Ok(None);
        }
        judge_end(self.job, &self.trainer, &self.watchdog, &self.preview)
    }

    /// What the watchdog ends the run for. If it is not to end it, it only says so; nothing comes back from NaN.
    fn verdict(&mut self, record: &Record, due: &Actions) -> Result<Option<Verdict>> {
        let mut verdict = self.watchdog.see(record);
        let mut hopeless = !record.is_finite();
        // Losses may be sound and weights not, since the last step; what is saved pushes a good checkpoint out.
        if !hopeless && due.save && !checkpoint::is_finite(&self.trainer)? {
            (verdict, hopeless) = (Some(Verdict::nonsense(record, "weights")), true);
        }
        if let Some(verdict) = verdict.as_ref().filter(|_| !hopeless && !self.job.config.watch.stop) {
            self.job.progress.say(&format!("warning: {verdict}. {}", verdict.advice()));
            return Ok(None);
        }
        Ok(verdict)
    }

    fn save(&mut self) -> Result<()> {
        let Self { trainer, batches, watchdog, .. } = self;
        let measured = watchdog.best.is_some_and(|best| best.quality.is_some());
        if !measured && watchdog.is_content() {
            watchdog.best = Some(Best { step: trainer.step, quality: None });
        }
        checkpoint::save(self.job.folder, trainer, batches, watchdog)
    }

    fn outcome(&self) -> Outcome {
        let images = self.batches.images_after(self.trainer.critic_steps());
        Outcome {
            step: self.trainer.step,
            total_steps: self.total,
            images,
            seconds: self.clock.seconds(),
            images_per_second: self.clock.rate(images),
            captured_rounds: self.rounds.replayed(),
            best: self.watchdog.best,
            measurements: 0,
            verdict: None,
            warnings: self.watchdog.said.clone(),
            doubts: Vec::new(),
        }
    }
}
