//! Rounds that are captured as CUDA graphs. A step of a small network takes a GPU less time than it takes the host to launch its
//! hundreds of kernels one by one; a graph is launched at once.
//!
//! The first round of a kind is made step by step. The second is made so, too, then undone, captured, replayed, and compared: only where all
//! that a checkpoint would hold has the same bits either way are the rounds to come replayed. Whatever stands against it, rounds are made
//! step by step, and why is said once.

use std::collections::{HashMap, HashSet};

use candle_core::Tensor;

use super::batches::Batches;
use super::draw::Draw;
use super::feed::Feed;
use super::sums::Sums;
use super::trainer::{Phase, Trainer};
use crate::config::{NetworkConfig, Span};
use crate::error::Result;
use crate::nn::LayerSpec;
use crate::nn::cuda::capture::{Captured, capture, copies, refusal, restore, same_bits, same_memory, trim};
use crate::nn::cuda::upload::Room;

/// Critic steps of a round that is captured, at most: memory and time to capture grow with them.
const MOST_TURNS: usize = 10;
/// Kinds of rounds that are captured, at most.
const MOST_KINDS: usize = 8;

/// What a captured round depends on beside its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// Real images of each critic step.
    images: Vec<usize>,
    /// Whether each takes a penalty.
    penalties: Vec<bool>,
}

/// The captured rounds of a trainer and its batches, and why there are no more.
#[derive(Default)]
pub(super) struct Captures {
    seen: HashSet<Kind>,
    rounds: HashMap<Kind, Graph>,
    /// Kinds that could not be captured, though others could.
    single: HashSet<Kind>,
    off: bool,
    /// Whether it was said that kinds are too many.
    told_many: bool,
    notice: Option<String>,
    replayed: u64,
}

/// A round that can be made again at once.
struct Graph {
    work: Captured,
    /// What it takes from the host, in this order.
    draws: Vec<Draw>,
    room: Box<Room>,
    /// By how much it moves on what the host counts.
    made: Counts,
    /// What it reads and writes that is not its own.
    memory: Vec<Tensor>,
}

/// What the host counts: generator steps, updates of either network, and steps that are in the sums.
#[derive(Clone, Copy)]
struct Counts([u64; 6]);

impl Counts {
    fn with(self, other: Self, sum: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|at| sum(self.0[at], other.0[at])))
    }
}

impl Captures {
    /// How many kinds of rounds are captured.
    pub fn len(&self) -> usize {
        self.rounds.len()
    }

    /// How many rounds were made by one launch, those among them that were captured and compared.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// What is to be said of them, once.
    pub fn take_notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// Captures no more, and forgets what was captured.
    fn refuse(&mut self, why: &str) {
        self.off = true;
        self.rounds.clear();
        self.say("steps", why);
    }

    fn say(&mut self, which: &str, why: &str) {
        // Of an error what it says, without where in the program it was.
        let why = why.lines().next().unwrap_or_default();
        let why = why.strip_prefix("tensor operation failed: ").unwrap_or(why);
        self.notice = Some(format!(
            "note: {which} are launched one by one, not as one CUDA graph: {why}. They give the same, more slowly; with \
             schedule.capture = false this is not said."
        ));
    }

    /// Makes a round by what was captured of another, or captures it; false if it is to be made step by step.
    ///
    /// # Errors
    /// When the device fails.
    pub fn replay(&mut self, trainer: &mut Trainer, batches: &mut Batches<'_>) -> Result<bool> {
        let wanted = trainer.config.schedule.capture && trainer.device().is_cuda() && !self.off;
        if !wanted {
            return Ok(false);
        }
        if let Some(why) = stands_against(trainer, batches)? {
            self.refuse(&why);
            return Ok(false);
        }
        if trainer.measure {
            return Ok(false); // what is measured besides is read by the host
        }
        let kind = Kind::of(trainer, batches);
        if kind.images.len() > MOST_TURNS {
            return Ok(false); // a warm-up of the critic: others follow
        }
        if let Some(graph) = self.rounds.get_mut(&kind) {
            if !same_memory(&graph.memory, &memory(trainer, batches)) {
                // Somebody put other networks, averages or images in their place.
                self.rounds.clear();
                return Ok(false);
            }
            if let Err(error) = graph.play(trainer, batches) {
                self.refuse(&error.to_string());
                return Ok(false);
            }
            self.replayed += 1;
            return Ok(true);
        }
        if self.seen.insert(kind.clone()) || self.single.contains(&kind) {
            return Ok(false);
        }
        if self.rounds.len() == MOST_KINDS {
            if !std::mem::replace(&mut self.told_many, true) {
                let which = format!("steps of {}, and others,", kind.told());
                self.say(&which, &format!("there are {MOST_KINDS} kinds of rounds already"));
            }
            self.single.insert(kind);
            return Ok(false);
        }
        match first(trainer, batches)? {
            Ok(graph) => {
                self.rounds.insert(kind, graph);
                self.replayed += 1;
            }
            Err(why) if self.rounds.is_empty() => self.refuse(&why),
            Err(why) => {
                self.say(&format!("steps of {}", kind.told()), &why);
                self.single.insert(kind);
            }
        }
        // What the other way of steps took is not needed beside what graphs take, or the other way round. A device that cannot give it
        // back keeps it.
        let _ = trim(trainer.device());
        Ok(true)
    }
}

/// Why no round of this training can be captured, if that is known beforehand.
fn stands_against(trainer: &Trainer, batches: &Batches<'_>) -> Result<Option<String>> {
    let schedule = &trainer.config.schedule;
    Ok(if batches.are_uploaded() {
        Some("the images do not fit there beside the networks".to_string())
    } else if schedule.generator_top_k < 1.0 {
        Some("schedule.generator_top_k has the host look at every step's scores".to_string())
    } else if schedule.critic_steps > MOST_TURNS {
        Some(format!("schedule.critic_steps is above {MOST_TURNS}"))
    } else if trainer.config.output.log_every == Span::Steps(1) {
        Some("output.log_every has every step measured".to_string())
    } else if [&trainer.config.generator, &trainer.config.critic].iter().any(|network| has_dropout(network)) {
        Some("the host draws dropout's masks".to_string())
    } else {
        refusal(trainer.device())?
    })
}

fn has_dropout(network: &NetworkConfig) -> bool {
    network.layers.iter().any(|layer| layer.any(&|spec: &LayerSpec| matches!(spec, LayerSpec::Dropout(_))))
}

impl Kind {
    /// How many images its critic steps see, and which of them take a penalty.
    fn told(&self) -> String {
        let penalties = self.penalties.iter().filter(|&&taken| taken).count();
        format!("batches of {:?} images, {penalties} with the penalty", self.images)
    }

    /// That of the next round.
    fn of(trainer: &Trainer, batches: &Batches<'_>) -> Self {
        let first = trainer.critic_steps();
        let steps = first..first + trainer.config.schedule.critic_steps_at(trainer.step);
        let is_taken = |step| trainer.values.penalty.is_some_and(|config| config.at_step(step).is_some());
        Self { images: steps.clone().map(|step| batches.batch_len(step)).collect(), penalties: steps.map(is_taken).collect() }
    }
}

impl Graph {
    /// Makes the round again, with the numbers of the trainer's next one.
    fn play(&mut self, trainer: &mut Trainer, batches: &mut Batches<'_>) -> Result<()> {
        let from = trainer.beginning(&Phase::default());
        self.room.clear();
        for draw in &self.draws {
            self.room.put(&trainer.drawn(*draw, from, Some(batches))?)?;
        }
        self.room.send()?;
        self.work.launch()?;
        counts(trainer).with(self.made, |so_far, more| so_far + more).give(trainer);
        Ok(())
    }
}

/// Makes a round step by step, and then, from the same beginning, as a graph; gives that, or why there is none. The round is made either way.
///
/// # Errors
/// When it cannot be made step by step either.
fn first(trainer: &mut Trainer, batches: &mut Batches<'_>) -> Result<Result<Graph, String>> {
    let (state, begun) = (state(trainer), counts(trainer));
    // Two copies of everything may be too much for the memory.
    let before = match copies(&state) {
        Ok(before) => before,
        Err(why) => return trainer.steps(batches, &mut Phase::default()).map(|()| Err(why.to_string())),
    };
    let mut phase = Phase::fed(Feed::Counted([0; 3]));
    let after = match trainer.steps(batches, &mut phase).and_then(|()| copies(&state)) {
        Ok(after) => after,
        Err(why) => {
            restore(&state, &before)?;
            begun.give(trainer);
            return trainer.steps(batches, &mut Phase::default()).map(|()| Err(why.to_string()));
        }
    };
    let ended = counts(trainer);
    restore(&state, &before)?;
    begun.give(trainer);
    let captured = captured(trainer, batches, phase.feed, ended.with(begun, |after, before| after - before));
    let captured = captured.and_then(|mut graph| {
        graph.room.send()?;
        graph.work.launch()?;
        Ok(same_bits(&state, &after)?.then_some(graph))
    });
    let why = match captured {
        Ok(Some(graph)) => {
            ended.give(trainer);
            return Ok(Ok(graph));
        }
        Ok(None) => "as one they gave other numbers on this GPU; please report this".to_string(),
        Err(error) => error.to_string(),
    };
    restore(&state, &after)?;
    ended.give(trainer);
    Ok(Err(why))
}

/// Captures the next round, of whose numbers `counted` has counted how many there are; they are ready to be sent.
fn captured(trainer: &mut Trainer, batches: &mut Batches<'_>, counted: Feed, made: Counts) -> Result<Graph> {
    let device = trainer.device().clone();
    let room = Box::new(Room::new(counted.lengths(), &device)?);
    let mut feed = Feed::default();
    let work = capture(&device, || {
        let mut phase = Phase::fed(Feed::Placed(room, Vec::new()));
        let made = trainer.steps(batches, &mut phase);
        // Its room was there before, and stays; the rest of the phase is memory of the graph's, and is given back here.
        feed = std::mem::take(&mut phase.feed);
        made
    })?;
    let (room, draws) = feed.placed().ok_or_else(|| candle_core::Error::Msg("a captured step lost its numbers".to_string()))?;
    Ok(Graph { work, draws, room, made, memory: memory(trainer, batches) })
}

/// All that a round reads or writes that was there before it.
fn memory(trainer: &Trainer, batches: &Batches<'_>) -> Vec<Tensor> {
    let mut memory = state(trainer);
    memory.extend(batches.on_device());
    memory
}

/// All tensors that a round changes.
fn state(trainer: &Trainer) -> Vec<Tensor> {
    let networks = trainer.generator.parameters().chain(trainer.critic.parameters());
    let slots = trainer.generator_optimizer.slots().values().chain(trainer.critic_optimizer.slots().values());
    let averages = trainer.ema.iter().flat_map(|ema| ema.tensors().values());
    let Sums { critic, penalty, generator, .. } = &trainer.sums;
    let sums = [critic, penalty, generator].into_iter().filter_map(|sum| sum.values.as_ref());
    let parameters = networks.map(|parameter| parameter.var.as_detached_tensor());
    parameters.chain(slots.chain(averages).chain(sums).cloned()).collect()
}

fn counts(trainer: &Trainer) -> Counts {
    let Trainer { sums, generator_optimizer, critic_optimizer, .. } = trainer;
    let updates = [generator_optimizer.steps(), critic_optimizer.steps()];
    Counts([trainer.step, updates[0], updates[1], sums.critic.steps, sums.penalty.steps, sums.generator.steps])
}

impl Counts {
    /// Has the trainer count so.
    fn give(self, trainer: &mut Trainer) {
        let Self([step, generator, critic, of_critic, of_penalty, of_generator]) = self;
        trainer.step = step;
        trainer.generator_optimizer.set_steps(generator);
        trainer.critic_optimizer.set_steps(critic);
        let Sums { critic, penalty, generator, .. } = &mut trainer.sums;
        (critic.steps, penalty.steps, generator.steps) = (of_critic, of_penalty, of_generator);
    }
}
