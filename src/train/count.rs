//! How a run is counted whose batch or rhythm was changed on the way.

use serde::{Deserialize, Serialize};

use crate::config::schedule::{Schedule, Span};

/// What is added to the numbers of a run's steps and images, so that what follows from them (the place in the data, the end, the
/// learning rates) goes on from where the run is, as if it had always had the batches and the rhythm that it has now. All zero in a run in
/// which these were never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shift {
    /// Generator steps.
    pub steps: i64,
    /// Critic steps.
    pub critic_steps: i64,
    /// Real images: where the run is lies between two batches of the new size.
    pub images: i64,
}

impl Shift {
    /// Whether nothing was changed.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The shift of a run that goes on with this schedule, after so many steps and images that were counted with this shift. It shows
    /// `len` images an epoch; `shown` counts those of the first so many critic steps, without a shift.
    pub fn after(self, [step, images]: [u64; 2], schedule: &Schedule, len: usize, shown: impl Fn(u64) -> u64) -> Self {
        let made = schedule.critic_steps_before(step);
        if self.images(shown(self.critic_steps(made))) == images {
            return self; // nothing was changed since
        }
        let as_if = Span::Images(images).in_steps(schedule, len);
        let critic_steps = schedule.critic_steps_before(as_if);
        let [steps, images] = [(as_if, step), (images, shown(critic_steps))].map(|(to, from)| difference(to, from));
        Self { steps, critic_steps: difference(critic_steps, made), images }
    }

    /// A number of critic steps, as counted.
    pub fn critic_steps(&self, made: u64) -> u64 {
        made.saturating_add_signed(self.critic_steps)
    }

    /// A number of images, as counted.
    pub fn images(&self, shown: u64) -> u64 {
        shown.saturating_add_signed(self.images)
    }

    /// A length in generator steps of this run. Steps are steps, whatever the batches were.
    pub fn in_steps(&self, span: Span, schedule: &Schedule, len: usize) -> u64 {
        let images = match span {
            _ if self.is_none() => return span.in_steps(schedule, len),
            Span::Steps(_) => return span.in_steps(schedule, len),
            Span::Epochs(epochs) => epochs.saturating_mul(len as u64),
            Span::Images(images) => images,
        };
        let shown = images.saturating_add_signed(self.images.saturating_neg());
        Span::Images(shown).in_steps(schedule, len).saturating_add_signed(self.steps.saturating_neg())
    }
}

fn difference(to: u64, from: u64) -> i64 {
    i64::try_from(i128::from(to) - i128::from(from)).unwrap_or(0)
}
