//! Time and pace of a training.

use std::time::Instant;

use super::Record;

/// Time and pace of this process.
pub(super) struct Clock {
    began: Instant,
    first_step: u64,
    first_images: u64,
    /// The losses that were last logged, for a person to read.
    losses: String,
}

impl Clock {
    pub fn start(step: u64, images: u64) -> Self {
        Self { began: Instant::now(), first_step: step, first_images: images, losses: String::new() }
    }

    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    pub fn rate(&self, images: u64) -> f64 {
        images.saturating_sub(self.first_images) as f64 / self.seconds().max(1e-9)
    }

    pub fn logged(&mut self, record: &Record) {
        self.losses = format!("critic {:.3} generator {:.3} | ", record.loss_critic, record.loss_generator);
    }

    /// How it stands after a step, of a run of so many.
    pub fn detail(&self, step: u64, images: u64, total: u64) -> String {
        let steps = step.saturating_sub(self.first_step).max(1) as f64;
        let left = self.seconds() / steps * total.saturating_sub(step) as f64;
        format!("{}{:.0} images/s | {} left", self.losses, self.rate(images), duration(left))
    }
}

/// A time as people say it: `20 s`, `4 min 20 s`, `2 h 5 min`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
