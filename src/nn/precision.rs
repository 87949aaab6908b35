//! What convolutions and linear layers multiply in.

use serde::{Deserialize, Serialize};

/// What convolutions and linear layers compute with. Weights, optimiser and everything between them are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// TF32: f32 rounded to 10 bits of mantissa before it is multiplied. CUDA only.
    Tf32,
    /// bf16, summed up in f32. CUDA, where what a convolution gives is rounded to bf16, too, and where a layer with few products for each
    /// value is computed in TF32, which should be faster there; and CPUs with AVX512-BF16 (with AMX where they have it).
    Bf16,
}

impl Precision {
    /// The name used in configs and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}
