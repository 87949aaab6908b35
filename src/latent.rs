//! (seed, index) → z. Nothing else makes latents, so training samples, `gan-infer` and every shard agree on image `index`.

use serde::{Deserialize, Serialize};

use crate::random::{Purpose, Stream};

/// The distribution of one latent component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// N(0, 1).
    Normal,
    /// U(-1, 1).
    Uniform,
}

impl Law {
    /// The name used in configs and in the metadata of an exported generator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Uniform => "uniform",
        }
    }
}

/// The latent space of a generator: `size` independent components of one law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// The number of components, at least 1.
    pub size: usize,
    /// The distribution of each.
    pub law: Law,
}

impl Latent {
    /// Writes the latent at (seed, purpose, index) into `out`, which holds [`Self::size`] values.
    pub fn fill(&self, seed: u64, purpose: Purpose, index: u64, out: &mut [f32]) {
        let mut stream = Stream::at(seed, purpose, index);
        match self.law {
            Law::Normal => stream.fill_normal(0.0, 1.0, out),
            Law::Uniform => stream.fill_uniform(-1.0, 1.0, out),
        }
    }

    /// The latents of images `start..start + n` as one row-major `[n, size]` block.
    pub fn rows(&self, seed: u64, start: u64, n: usize) -> Vec<f32> {
        let mut rows = vec![0.0; n * self.size];
        for (index, row) in (start..).zip(rows.chunks_mut(self.size.max(1))) {
            self.fill(seed, Purpose::Latent, index, row);
        }
        rows
    }
}
