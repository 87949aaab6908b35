//! How fast a generator makes images here, stage by stage, and which stage bounds the whole.
//!
//! Every rate is measured by work of a fixed kind on some threads for about the time that is given, after a first turn that
//! does not count; the median of [`ROUNDS`] such turns, each figure with its least and most.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tempfile::TempDir;

use super::generator::{Generator, Sampler};
use super::options::Options;
use super::pipeline::{self, SamplingJob};
use super::plan::{Existing, Format, Plan};
use super::precision::Precision;
use super::provider::Provider;
use super::selection::Selection;
use crate::error::{Error, Result};
use crate::files;
use crate::image;
use crate::latent::Latent;
use crate::progress::{Progress, Silent};

/// Measurements of each figure.
pub const ROUNDS: usize = 3;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Batch sizes to try; those that the model refuses are left out.
    pub batches: Vec<usize>,
    /// Numbers of sessions to try.
    pub threads: Vec<usize>,
    /// Seconds a measurement.
    pub seconds: f64,
}

impl Setup {
    /// Batches of 1 to 256, on CUDA of 64 to 1024; one session and as many as serve best.
    pub fn new(provider: Provider, seconds: f64) -> Self {
        let mut threads = vec![1, SamplingJob::new(provider).threads];
        threads.dedup();
        Self { batches: provider.batches_to_try().to_vec(), threads, seconds }
    }
}

/// How long something is measured, unless somebody stops it.
#[derive(Clone, Copy)]
struct Spell<'a> {
    seconds: f64,
    stop: &'a AtomicBool,
}

impl Spell<'_> {
    fn check(self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::Interrupted("the measurements were stopped, and nothing of them stays".to_string())),
        }
    }
}

/// Images a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Rate {
    fn of(mut rates: [f64; ROUNDS]) -> Self {
        rates.sort_by(f64::total_cmp);
        Self { median: rates[ROUNDS / 2], least: rates[0], most: rates[ROUNDS - 1] }
    }
}

/// The network alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkRate {
    /// Images a run.
    pub batch: usize,
    /// Sessions.
    pub threads: usize,
    /// Images a second.
    pub rate: Rate,
}

/// The network alone in one precision, at the batch and the sessions that the program chooses by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrecisionRate {
    /// The precision's name, of f32 that CUDA may round `tf32`.
    pub precision: &'static str,
    /// Images a second.
    pub rate: Rate,
}

/// A stage of the whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageRate {
    /// What it does.
    pub name: &'static str,
    /// As many as it has in the whole.
    pub threads: usize,
    /// Images a second.
    pub rate: Rate,
}

/// The whole pipeline, as a sampling job runs it by default.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Whole {
    /// The format's name.
    pub format: &'static str,
    /// Images a second.
    pub rate: Rate,
    /// Of the rate that its stages allow together: 1/(sum of 1/rate) of those that share their threads, the least of these where
    /// others encode and write what the sessions make. Above 1 where a stage was slower by itself than within the whole: how fast
    /// files are created changes from one second to the next, with what the disk has to do besides.
    pub of_possible: f64,
    /// The stage that takes most of the time.
    pub bound_by: &'static str,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// The model's name.
    pub model: String,
    /// Where it ran.
    pub provider: String,
    /// What it computed with, of f32 that CUDA may round `tf32`.
    pub precision: &'static str,
    /// It, and the same generator in other precisions, in turn.
    pub precisions: Vec<PrecisionRate>,
    /// Batch and sessions that the program chooses by itself.
    pub batch: usize,
    /// Sessions that the program chooses by itself.
    pub threads: usize,
    /// Over batch sizes and sessions.
    pub network: Vec<NetworkRate>,
    /// At the program's own choice of threads.
    pub stages: Vec<StageRate>,
    /// At the program's own choice of both.
    pub whole: Vec<Whole>,
}

/// Measures; `others` are the same generator in other precisions. Files go into a folder in `scratch` that is deleted afterwards, and when
/// `stop` is raised.
///
/// # Errors
/// When the generator cannot run, `scratch` cannot be written to, or `stop` was raised.
pub fn run(
    generator: &Generator,
    others: &[Generator],
    options: &Options,
    setup: &Setup,
    scratch: &Path,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<BenchReport> {
    files::create_folder(scratch)?;
    let folder = tempfile::Builder::new().prefix("gan-infer-bench-").tempdir_in(scratch);
    let folder = folder.map_err(Error::io("write to", scratch))?;
    let spell = Spell { seconds: setup.seconds, stop };
    // What is no image at all is better known before anything is measured.
    let sample = generator.sample(0, 0, 64)?;
    let job = SamplingJob::new(generator.provider());
    let threads = job.threads;
    // Of the network by batch and sessions and by precision; of three stages beside it; of the whole.
    let measurements = setup.batches.len() * setup.threads.len() + 1 + others.len() + 3 + 2;
    let all = (measurements * ROUNDS) as f64 * setup.seconds;
    progress.say(&format!(
        "up to {measurements} measurements of {ROUNDS} times {} s: {all:.0} s and more, as slow networks need for a batch",
        setup.seconds
    ));
    let network = networks(generator, options, setup, spell, progress)?;
    let own = |all: &[NetworkRate]| {
        all.iter().find(|one| (one.batch, one.threads) == (generator.batch(), threads)).map(|one| one.rate)
    };
    let raw = match own(&network) {
        Some(rate) => rate,
        None => network_rate(generator, threads, spell)?,
    };
    let precisions = in_turn(generator, others, threads, spell, progress)?;
    progress.say("stages");
    let [height, width, channels] = generator.image_shape();
    let pngs: Vec<Vec<u8>> = (0..sample.n)
        .filter_map(|index| sample.get(index))
        .map(|pixels| image::encode_png(pixels, height, width, channels))
        .collect::<Result<_>>()?;
    let latent = generator.latent();
    let latents = measure(threads, spell, |_| Ok(latents_work(latent, generator.batch())))?;
    let writers = if job.encoders > 0 { job.encoders } else { threads };
    let encode = measure(writers, spell, |_| {
        Ok(|turn: u64| {
            let pixels = sample.get(turn as usize % sample.n).unwrap_or_default();
            image::encode_png(pixels, height, width, channels).map(|png| std::hint::black_box(png.len() as u64).min(1))
        })
    })?;
    let create = measure_files(writers, spell, &folder, &pngs)?;
    let stage = |name, threads, rate| StageRate { name, threads, rate };
    let stages = [
        stage("latents", threads, latents),
        stage("network", threads, raw),
        stage("PNG encoding", writers, encode),
        stage("file creation", writers, create),
    ];
    let whole =
        [whole(generator, Format::Npy, spell, &folder, &stages[..2])?, whole(generator, Format::Png, spell, &folder, &stages)?];
    Ok(BenchReport {
        model: generator.name().to_string(),
        provider: generator.provider().to_string(),
        precision: name_of(generator),
        precisions,
        batch: generator.batch(),
        threads,
        network,
        stages: stages.into(),
        whole: whole.into(),
    })
}

fn networks(
    generator: &Generator,
    options: &Options,
    setup: &Setup,
    spell: Spell,
    progress: &dyn Progress,
) -> Result<Vec<NetworkRate>> {
    let mut all = Vec::new();
    for &batch in &setup.batches {
        let options = options.batch(batch).tf32(generator.tf32());
        let other = match generator.reopen(&options) {
            Ok(other) => other,
            Err(why) => {
                progress.say(&format!("batch {batch} is left out: {why}"));
                continue;
            }
        };
        for &threads in &setup.threads {
            progress.say(&format!("the network alone: batch {batch}, {threads} sessions"));
            match network_rate(&other, threads, spell) {
                Ok(rate) => all.push(NetworkRate { batch, threads, rate }),
                Err(why) => {
                    spell.check()?;
                    progress.say(&format!("batch {batch} in {threads} sessions is left out: {why}"));
                }
            }
        }
    }
    Ok(all)
}

/// The network alone in each precision, round by round: a machine that slows down slows all of them down.
fn in_turn(
    generator: &Generator,
    others: &[Generator],
    threads: usize,
    spell: Spell,
    progress: &dyn Progress,
) -> Result<Vec<PrecisionRate>> {
    let all: Vec<&Generator> = std::iter::once(generator).chain(others).collect();
    let mut rates = vec![[0.0; ROUNDS]; all.len()];
    for round in 0..ROUNDS {
        for (generator, rates) in all.iter().zip(&mut rates) {
            progress.say(&format!("the network alone in {}, round {}", name_of(generator), round + 1));
            rates[round] = network_once(generator, threads, spell)?;
        }
    }
    let told = all.iter().zip(rates);
    Ok(told.map(|(generator, rates)| PrecisionRate { precision: name_of(generator), rate: Rate::of(rates) }).collect())
}

/// The precision's name.
fn name_of(generator: &Generator) -> &'static str {
    match generator.precision() {
        Precision::F32 if generator.tf32() => "tf32",
        precision => precision.name(),
    }
}

fn network_rate(generator: &Generator, threads: usize, spell: Spell) -> Result<Rate> {
    rounds(|| network_once(generator, threads, spell))
}

fn network_once(generator: &Generator, threads: usize, spell: Spell) -> Result<f64> {
    let batch = generator.batch() as u64;
    once(threads, spell, &|_| {
        let mut sampler: Sampler = generator.sampler()?;
        let latents = generator.latent().rows(0, 0, generator.batch());
        Ok(move |_| sampler.run_alone(&latents).map(|()| batch))
    })
}

fn latents_work(latent: Latent, batch: usize) -> impl FnMut(u64) -> Result<u64> {
    move |turn| {
        std::hint::black_box(latent.rows(0, turn * batch as u64, batch));
        Ok(batch as u64)
    }
}

/// Creates files of the sizes of `pngs`, one after another in each thread. They stay until the end: ext4 is slow to create files for
/// minutes after others were deleted.
fn measure_files(threads: usize, spell: Spell, folder: &TempDir, pngs: &[Vec<u8>]) -> Result<Rate> {
    let turn = AtomicU64::new(0);
    rounds(|| {
        let place = folder.path().join(format!("files-{}", turn.fetch_add(1, Ordering::Relaxed)));
        files::create_folder(&place)?;
        once(threads, spell, &|thread| {
            let place = &place;
            Ok(move |turn: u64| {
                let number = turn * threads as u64 + thread as u64;
                let path = place.join(format!("{number:06}.png"));
                let bytes = &pngs[number as usize % pngs.len()];
                std::fs::write(&path, bytes).map_err(Error::io("write", &path)).map(|()| 1)
            })
        })
    })
}

/// The whole, of as many images as take about the time.
fn whole(generator: &Generator, format: Format, spell: Spell, folder: &TempDir, stages: &[StageRate]) -> Result<Whole> {
    let job = SamplingJob::new(generator.provider());
    let together = |stages: &[StageRate]| 1.0 / stages.iter().map(|stage| 1.0 / stage.rate.median).sum::<f64>();
    // Stages of one pool of threads take turns; the pools run side by side.
    let pools = if job.encoders > 0 { vec![&stages[..2], &stages[2..]] } else { vec![stages] };
    let slower = pools.into_iter().min_by(|a, b| together(a).total_cmp(&together(b))).unwrap_or(stages);
    let possible = together(slower);
    // Whole turns of all sessions: else some of them would have nothing to do.
    let turn_of_all = (generator.batch() * job.threads) as u64;
    let n = ((possible * spell.seconds) as u64).div_ceil(turn_of_all).max(1) * turn_of_all;
    let turn = AtomicU64::new(0);
    let rate = rounds(|| {
        let out = folder.path().join(format!("{}-{}", format.name(), turn.fetch_add(1, Ordering::Relaxed)));
        let selection = Selection::Numbers { seed: 0, start: 0, n };
        let plan = Plan::new(format, &out, selection, None, Existing::Refuse)?;
        let done = pipeline::run(generator, &job, &plan, &Silent, spell.stop);
        spell.check()?;
        let done = done?;
        if done.out.is_file() {
            std::fs::remove_dir_all(&out).map_err(Error::io("remove", &out))?; // large, and few
        }
        Ok(done.images as f64 / done.seconds)
    })?;
    let slowest = slower.iter().min_by(|a, b| a.rate.median.total_cmp(&b.rate.median));
    let bound_by = slowest.map_or("nothing", |stage| stage.name);
    Ok(Whole { format: format.name(), rate, of_possible: rate.median / possible, bound_by })
}

/// Runs `work` on some threads. Each makes its own with `make(thread)`, and calls it with 0, 1, 2…; it gives how many images
/// that was.
fn measure<W: FnMut(u64) -> Result<u64>>(
    threads: usize,
    spell: Spell,
    make: impl Fn(usize) -> Result<W> + Sync,
) -> Result<Rate> {
    rounds(|| once(threads, spell, &make))
}

fn rounds(mut round: impl FnMut() -> Result<f64>) -> Result<Rate> {
    let mut rates = [0.0; ROUNDS];
    for rate in &mut rates {
        *rate = round()?;
    }
    Ok(Rate::of(rates))
}

fn once<W: FnMut(u64) -> Result<u64>>(
    threads: usize,
    spell: Spell,
    make: &(impl Fn(usize) -> Result<W> + Sync),
) -> Result<f64> {
    let limit = Duration::from_secs_f64(spell.seconds);
    let barrier = std::sync::Barrier::new(threads);
    let turn = |thread: usize| -> Result<f64> {
        let work = make(thread).and_then(|mut work| work(0).map(|_| work)); // the first turn warms up
        barrier.wait();
        let mut work = work?;
        let begun = Instant::now();
        let mut images = 0;
        for turn in 1.. {
            images += work(turn)?;
            spell.check()?;
            if begun.elapsed() >= limit {
                break;
            }
        }
        Ok(images as f64 / begun.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || turn(thread))).collect();
        let died = || Error::Runtime("a thread of the benchmark died".into());
        all.into_iter().map(|thread| thread.join().map_err(|_| died())?).sum()
    })
}

/// How much that is of what the stages allow. More than all of it there cannot be: a stage was slower when it was measured alone.
fn share_text(of_possible: f64) -> String {
    match (of_possible * 100.0).round() {
        percent if percent <= 100.0 => format!("{percent:.0} % of what its stages allow"),
        _ => "faster than its stages were alone, for the disk's rate changes".to_string(),
    }
}

/// As a table.
impl std::fmt::Display for BenchReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |rate: &Rate| format!("{:>10.0} img/s ({:.0} to {:.0})", rate.median, rate.least, rate.most);
        let Self { model, precision, provider, batch, threads, .. } = self;
        writeln!(f, "{model} in {precision} on {provider}, by default batches of {batch} in {threads} sessions")?;
        writeln!(f, "\nthe network alone, by precision, in turn")?;
        for PrecisionRate { precision, rate: one } in &self.precisions {
            writeln!(f, "  {precision:23}{}", rate(one))?;
        }
        writeln!(f, "\nthe network alone")?;
        for NetworkRate { batch, threads, rate: one } in &self.network {
            writeln!(f, "  batch {batch:4}, {threads:2} sessions {}", rate(one))?;
        }
        writeln!(f, "\neach stage alone")?;
        for StageRate { name, threads, rate: one } in &self.stages {
            writeln!(f, "  {name:14}{threads:3} threads{}", rate(one))?;
        }
        writeln!(f, "\nthe whole")?;
        for Whole { format, rate: one, of_possible, bound_by } in &self.whole {
            let share = share_text(*of_possible);
            writeln!(f, "  to {format:21}{}: {share}, most of its time {bound_by}", rate(one))?;
        }
        Ok(())
    }
}
