//! What the file of a feature model says of itself: its input, and where it comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::Range;

/// The values that a feature model takes for pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputRange {
    /// -1 to 1, as Inception in its usual exports takes it.
    Tanh,
    /// 0 to 1.
    Sigmoid,
    /// 0 to 255.
    Byte,
    /// 0 to 1, then less the means and by the deviations of ImageNet's channels, as torchvision's models take it. RGB only.
    Imagenet,
}

impl InputRange {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tanh, Self::Sigmoid, Self::Byte, Self::Imagenet];

    /// The name used in metadata and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Byte => "byte",
            Self::Imagenet => "imagenet",
        }
    }

    /// The value of each of the 256 pixels, in one channel.
    pub(super) fn values(self, channel: usize) -> [f32; 256] {
        const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
        const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];
        match self {
            Self::Tanh => Range::Tanh.values(),
            Self::Sigmoid => Range::Sigmoid.values(),
            Self::Byte => Range::Byte.values(),
            Self::Imagenet => Range::Sigmoid.values().map(|value| (value - MEAN[channel % 3]) / DEVIATION[channel % 3]),
        }
    }
}

impl From<Range> for InputRange {
    fn from(range: Range) -> Self {
        match range {
            Range::Tanh => Self::Tanh,
            Range::Sigmoid => Self::Sigmoid,
            Range::Byte => Self::Byte,
        }
    }
}

impl fmt::Display for InputRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InputRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|range| range.name() == text);
        known.ok_or_else(|| "expected tanh, sigmoid, byte or imagenet".to_string())
    }
}

/// What a feature model trained by this project says of itself, in its metadata.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// Height and width of its input.
    pub size: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// The value range of its input.
    pub range: InputRange,
    /// What it was trained to tell: `labels` or `rotations`.
    pub task: String,
    /// The names of the data sets it was trained on, joined by `+`.
    pub data: String,
    /// SHA-256 over the pixels of each.
    pub data_sha256: String,
    /// Images shown in training.
    pub images_seen: u64,
    /// The share of rows of held-out images that it told right.
    pub held_out_accuracy: f64,
    /// The seed of its training.
    pub seed: u64,
}

/// The version of these promises, in the metadata as `ganforge.features`.
const VERSION: &str = "1";

impl About {
    /// The file's `metadata_props`, without the checksum.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        [
            ("channels", self.channels.to_string()),
            ("data", self.data.clone()),
            ("data.sha256", self.data_sha256.clone()),
            ("held_out_accuracy", self.held_out_accuracy.to_string()),
            ("images_seen", self.images_seen.to_string()),
            ("range", self.range.name().to_string()),
            ("seed", self.seed.to_string()),
            ("size", self.size.to_string()),
            ("task", self.task.clone()),
        ]
        .into_iter()
        .map(|(key, value)| (format!("ganforge.features.{key}"), value))
        .chain([("ganforge.features".to_string(), VERSION.to_string())])
        .collect()
    }

    pub(super) fn from_metadata(place: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let hint = "The file is damaged, or of another version of ganforge: export it again.";
        match lookup("ganforge.features") {
            None => return Ok(None),
            Some(version) if version == VERSION => {}
            Some(version) => {
                return Err(Error::invalid(place, format!("a feature model of version {version}, expected {VERSION}"), hint));
            }
        }
        let text = |key: &str| {
            let missing = || Error::invalid(place, format!("metadata ganforge.features.{key} is missing"), hint);
            lookup(&format!("ganforge.features.{key}")).ok_or_else(missing)
        };
        Ok(Some(Self {
            size: parsed(place, "size", &text("size")?)?,
            channels: parsed(place, "channels", &text("channels")?)?,
            range: parsed(place, "range", &text("range")?)?,
            task: text("task")?,
            data: text("data")?,
            data_sha256: text("data.sha256")?,
            images_seen: parsed(place, "images_seen", &text("images_seen")?)?,
            held_out_accuracy: parsed(place, "held_out_accuracy", &text("held_out_accuracy")?)?,
            seed: parsed(place, "seed", &text("seed")?)?,
        }))
    }
}

fn parsed<T: FromStr>(place: &str, key: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| {
        Error::invalid(place, format!("metadata ganforge.features.{key}: '{text}'"), "The file is damaged: export it again.")
    })
}
