//! Rounds that are captured as CUDA graphs. A step of a small network takes a GPU less time than it takes the host to launch its
//! hundreds of kernels one by one; a graph is launched at once.
//!
//! The first round of a form is made step by step. The second is made so, too, then undone, captured, replayed, and compared: only where all
//! that a checkpoint would hold has the same bits either way are the rounds to come replayed. Whatever stands against it, those
//! rounds are made step by step, and why is said once.

use std::collections::HashMap;

use candle_core::Tensor;

use super::batches::Batches;
use super::draws::Draw;
use super::feed::Feed;
use super::step::{Phase, Trainer};
use super::sums::Sums;
use crate::error::Result;
use crate::nn::cuda::capture::{Captured, capture, copies, give_back_unused, restore, same_bits};
use crate::nn::cuda::upload::Room;

/// Critic steps of a round that is captured, at most: memory and time to capture grow with them.
const MOST_TURNS: usize = 10;
/// Forms of rounds that are captured, at most.
const MOST_FORMS: usize = 8;

/// What a captured round depends on beside its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Form {
    /// Real images of each critic step.
    images: Vec<usize>,
    /// Whether each takes a penalty.
    penalties: Vec<bool>,
}

/// The rounds of a trainer that are captured, and why no more are.
#[derive(Default)]
pub(super) struct Captures {
    /// By their forms; without a graph where only one was seen.
    rounds: HashMap<Form, Option<Round>>,
    off: bool,
    notice: Option<String>,
}

/// A round that can be made again at once.
struct Round {
    graph: Captured,
    /// What it takes from the host, in this order.
    draws: Vec<Draw>,
    room: Room,
    /// By how much it moves on what the host counts.
    made: Counts,
}

/// What the host counts: generator steps, updates of either network, and steps that are in the sums.
#[derive(Clone, Copy, Default)]
struct Counts([u64; 6]);

impl Counts {
    fn with(self, other: Self, sum: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|at| sum(self.0[at], other.0[at])))
    }
}

impl Captures {
    /// How many forms of rounds are captured.
    pub fn len(&self) -> usize {
        self.rounds.values().flatten().count()
    }

    /// What is to be said of them, once.
    pub fn take_notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    fn refuse(&mut self, why: impl std::fmt::Display) {
        (self.off, self.notice) = (true, Some(format!("steps are launched one by one, not captured as a CUDA graph: {why}")));
        self.rounds.clear();
    }
}

impl Trainer {
    /// Forgets what was captured: the tensors of it are others now.
    pub(super) fn forget_captured(&mut self) {
        self.captures.rounds.clear();
    }

    /// Makes a round by what was captured of another, or captures it; false if it is to be made step by step.
    pub(super) fn replay(&mut self, batches: &mut Batches<'_>) -> Result<bool> {
        let wanted = self.config.schedule.capture && self.device().is_cuda() && !self.captures.off;
        // What is measured besides is read by the host.
        if !wanted || self.measure {
            return Ok(false);
        }
        if !batches.are_resident() {
            self.captures.refuse("the images do not fit on the GPU");
            return Ok(false);
        }
        let form = self.form(batches);
        if form.images.len() > MOST_TURNS {
            return Ok(false); // a warm-up of the critic: others follow
        }
        match self.captures.rounds.remove(&form) {
            Some(Some(mut round)) => {
                self.play(&mut round, batches)?;
                self.captures.rounds.insert(form, Some(round));
                Ok(true)
            }
            Some(None) => {
                if let Some(round) = self.captured(batches)? {
                    self.captures.rounds.insert(form, Some(round));
                }
                Ok(true)
            }
            None => {
                if self.captures.rounds.len() < MOST_FORMS {
                    self.captures.rounds.insert(form, None);
                }
                Ok(false)
            }
        }
    }

    fn form(&self, batches: &Batches<'_>) -> Form {
        let first = self.critic_steps();
        let steps = first..first + self.config.schedule.critic_steps_at(self.step);
        let is_taken = |step| self.values.penalty.is_some_and(|config| config.at_step(step).is_some());
        Form { images: steps.clone().map(|step| batches.batch_len(step)).collect(), penalties: steps.map(is_taken).collect() }
    }

    /// Replays a round, with this round's numbers.
    fn play(&mut self, round: &mut Round, batches: &mut Batches<'_>) -> Result<()> {
        let phase = Phase::default();
        let from = self.beginning(&phase);
        round.room.clear();
        for draw in &round.draws {
            round.room.put(&self.drawn(*draw, from, Some(batches))?)?;
        }
        round.room.send()?;
        round.graph.launch()?;
        let counts = self.counts();
        self.set_counts(counts.with(round.made, |so_far, more| so_far + more));
        Ok(())
    }

    /// Makes a round step by step, and, if that gives the same, as a graph, which it gives.
    fn captured(&mut self, batches: &mut Batches<'_>) -> Result<Option<Round>> {
        let (state, begun) = (self.state(), self.counts());
        let before = match copies(&state) {
            Ok(before) => before,
            Err(error) => {
                self.captures.refuse(error);
                self.steps(batches, &mut Phase::default())?;
                return Ok(None);
            }
        };
        let mut phase = Phase::fed(Feed::Counted([0; 3]));
        self.steps(batches, &mut phase)?;
        let lengths = if let Feed::Counted(lengths) = phase.feed { lengths } else { [0; 3] };
        let (after, ended) = (copies(&state), self.counts());
        let attempt = after.and_then(|after| {
            restore(&state, &before)?;
            self.set_counts(begun);
            let same = self.recorded(lengths, batches).and_then(|mut round| {
                round.room.send()?;
                round.graph.launch()?;
                Ok(same_bits(&state, &after)?.then_some(round))
            });
            if !matches!(same, Ok(Some(_))) {
                restore(&state, &after)?;
            }
            same
        });
        self.set_counts(ended);
        match attempt {
            Ok(Some(round)) => return Ok(Some(Round { made: ended.with(begun, |after, before| after - before), ..round })),
            Ok(None) => self.captures.refuse("a captured step gave other numbers"),
            Err(error) => self.captures.refuse(error),
        }
        give_back_unused(self.device())?;
        Ok(None)
    }

    /// Captures a round, with its numbers staged.
    fn recorded(&mut self, lengths: [usize; 3], batches: &mut Batches<'_>) -> Result<Round> {
        let device = self.device().clone();
        let room = Room::new(lengths, &device)?;
        let mut feed = Feed::default();
        let graph = capture(&device, || {
            let mut phase = Phase::fed(Feed::Placed(room, Vec::new()));
            let made = self.steps(batches, &mut phase);
            // Its room was there before, and stays; the rest of the phase is memory of the graph's, and is given back here.
            feed = std::mem::take(&mut phase.feed);
            made
        })?;
        match feed {
            Feed::Placed(room, draws) => Ok(Round { graph, draws, room, made: Counts::default() }),
            _ => Err(candle_core::Error::Msg("a captured step without its numbers".to_string()).into()),
        }
    }

    /// All tensors that a round changes.
    fn state(&self) -> Vec<Tensor> {
        let networks = self.generator.parameters().chain(self.critic.parameters());
        let slots = self.generator_optimizer.slots().values().chain(self.critic_optimizer.slots().values());
        let averages = self.ema.iter().flat_map(|ema| ema.tensors().values());
        let sums = [&self.sums.critic, &self.sums.penalty, &self.sums.generator].map(|sum| sum.values.as_ref());
        let parameters = networks.map(|parameter| parameter.var.as_detached_tensor());
        parameters.chain(slots.chain(averages).chain(sums.into_iter().flatten()).cloned()).collect()
    }

    fn counts(&self) -> Counts {
        let Self { sums, generator_optimizer, critic_optimizer, .. } = self;
        let updates = [generator_optimizer.steps(), critic_optimizer.steps()];
        Counts([self.step, updates[0], updates[1], sums.critic.steps, sums.penalty.steps, sums.generator.steps])
    }

    fn set_counts(&mut self, Counts([step, generator, critic, of_critic, of_penalty, of_generator]): Counts) {
        self.step = step;
        self.generator_optimizer.set_steps(generator);
        self.critic_optimizer.set_steps(critic);
        let Sums { critic, penalty, generator, .. } = &mut self.sums;
        (critic.steps, penalty.steps, generator.steps) = (of_critic, of_penalty, of_generator);
    }
}
