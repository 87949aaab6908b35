//! What a config says of the data.

use serde::{Deserialize, Serialize};

use super::Sources;
use crate::image::Range;

/// The form in which images reach the critic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where the images come from, as [`crate::data::load`] takes it; a run's own config names the place it was trained on.
    #[serde(default, skip_serializing_if = "Sources::is_empty")]
    pub source: Sources,
    /// Height and width in pixels; other images are cropped to a square and resized.
    pub size: usize,
    /// 1 (grey) or 3 (RGB); others are converted. The generator's last layer is rewritten to make so many.
    pub channels: usize,
    /// The value range of the networks.
    pub range: Range,
    /// The share of the images that is never trained on, 0 to 0.5: the critic's score on some of them, logged beside its score
    /// on as many training images, shows whether it memorises.
    #[serde(default)]
    pub held_out: f64,
    /// Classes that both networks are told: 2 to 256, or 0 for none. Every image then needs a label, 0 and up (an IDX file of
    /// labels, or a folder a class in the order of their names). The networks are rewritten for it: the generator begins with
    /// `categorical = classes`, so that the largest of the first so many latents chooses the class, and the critic ends in one
    /// value a class, of which that of the image's class is its score (arXiv 1801.04406, appendix D). Generated classes are
    /// equally frequent, whatever they are in the data.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub classes: usize,
    /// What the classes are called, by their numbers: as many names as classes, or none. A training that finds names in its data
    /// (folders', or those of a known data set) fills them in. They decide nothing but what the exported generator says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_names: Vec<String>,
    /// Whether each real image is mirrored, left and right, with a probability of ½ each time that the networks are shown it: as
    /// many images again, for what looks as likely in a mirror. Not for letters and digits.
    #[serde(default, skip_serializing_if = "is_false")]
    pub flip: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl DataConfig {
    /// The images of a source as they are, for who looks at them and does not train: all of them, without classes.
    pub fn plain(source: impl Into<Sources>, size: usize, channels: usize) -> Self {
        Self {
            source: source.into(),
            size,
            channels,
            range: Range::Tanh,
            held_out: 0.0,
            classes: 0,
            class_names: Vec::new(),
            flip: false,
        }
    }
}
