//! What a generator computes with.

use std::fmt;
use std::str::FromStr;

/// What a generator computes with: the type of its activations, whatever its weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Whatever is fastest where the generator runs: of the built-in ones int8 on CPUs, TF32 on CUDA ([`Options::tf32`](super::Options::tf32))
    /// and f32 elsewhere; of a file, its own.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Whole numbers of 8 bits.
    Int8,
}

impl Precision {
    /// All that a model can have.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Int8];

    /// The name used in manifests and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Whether a model of this precision is what was asked for.
    pub(super) fn serves(self, asked: Self) -> bool {
        asked == Self::Auto || asked == self
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter().chain([Self::Auto]);
        all.find(|precision| precision.name() == text).ok_or_else(|| "expected auto, f32, f16 or int8".to_string())
    }
}
