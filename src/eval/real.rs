//! Which real images a generator is compared with, and what they are to it.

use serde::Serialize;

use crate::config::{DataConfig, Sources};
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::train::Trained;

/// What the real images are to the generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RealImages {
    /// All of the data set; as far as this program knows it may have been trained on them.
    All,
    /// Those that the run was trained on.
    Training,
    /// Those that the run held out.
    HeldOut,
}

/// Real images to compare with.
pub struct Real {
    /// The data set that they are in.
    pub data: Dataset,
    /// What they are to the generator.
    pub kind: RealImages,
    /// Their numbers in the data set; ascending.
    pub numbers: Vec<u32>,
}

impl Real {
    /// All images of some sources, `size` pixels in height and width.
    ///
    /// # Errors
    /// As [`data::load`].
    pub fn all(sources: &Sources, size: usize, channels: usize, progress: &dyn Progress) -> Result<Self> {
        let data = data::load(sources, &DataConfig::plain(sources.clone(), size, channels), progress)?;
        Ok(Self { numbers: (0..data.len as u32).collect(), kind: RealImages::All, data })
    }

    /// Of the images that a run was trained on, those that it held out, or the others; if `sources` hold other images, all of them.
    ///
    /// # Errors
    /// As [`data::load`]; and when the images that were held out are asked for, and there are none among these.
    pub fn of_run(trained: &Trained, sources: &Sources, held_out: bool, progress: &dyn Progress) -> Result<Self> {
        let own = &trained.config.data;
        if held_out && own.held_out == 0.0 {
            let what = "`Real::held_out`: this run held nothing out (data.held_out is 0)";
            return Err(Error::usage(what, "Leave it away."));
        }
        // Classes are a part of what a run's data are known by, and others need not have them.
        let plain = DataConfig::plain(sources.clone(), own.size, own.channels);
        let told = DataConfig { classes: own.classes, ..plain.clone() };
        let data = data::load(sources, &told, progress);
        let data = if own.classes > 0 { data.or_else(|_| data::load(sources, &plain, progress))? } else { data? };
        if data.sha256 != trained.state.data_sha256 {
            if held_out {
                let what = "`Real::held_out`: these are not the images that the run was trained on, or in another order, so which of them it held out is not known";
                return Err(Error::usage(what, "Leave it away, or name the run's own images."));
            }
            progress.say(
                "these are not the images that the run was trained on, or in another order: it is compared with all of them",
            );
            let data = data.without_classes();
            return Ok(Self { numbers: (0..data.len as u32).collect(), kind: RealImages::All, data });
        }
        let split = data.split(own.held_out, trained.config.seed);
        let (kind, numbers) =
            if held_out { (RealImages::HeldOut, split.held_out) } else { (RealImages::Training, split.train) };
        Ok(Self { data: data.without_classes(), kind, numbers })
    }
}
