//! The shape of one image's values between layers.

use std::fmt;

/// The shape of one image's activations between layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Features.
    Flat(usize),
    /// A map.
    Map {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

impl Shape {
    /// Values an image.
    pub fn elements(self) -> usize {
        match self {
            Self::Flat(features) => features,
            Self::Map { channels, height, width } => channels * height * width,
        }
    }

    /// Features, or channels.
    pub fn channels(self) -> usize {
        match self {
            Self::Flat(features) => features,
            Self::Map { channels, .. } => channels,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flat(features) => write!(f, "{features} features"),
            Self::Map { channels, height, width } => write!(f, "{channels}×{height}×{width}"),
        }
    }
}
