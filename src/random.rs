//! Randomness that is addressed, not streamed: every draw is a function of (seed, purpose, index).
//!
//! Nothing keeps a generator alive between steps, so a resumed run needs no generator state, and a shard of a sampling
//! job draws exactly what the whole job would have drawn. Each address opens its own ChaCha8 stream: the key is the seed
//! and the purpose, the stream number is the index.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a draw is for. Draws of different purposes never overlap, whatever their seeds and indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The latent of image `index`, in training samples and in `gan-infer`: the public numbering of images.
    Latent,
    /// The latents of critic step `index`.
    CriticLatent,
    /// The latents of generator step `index`.
    GeneratorLatent,
    /// The order of the data in epoch `index`.
    Shuffle,
    /// The initial values of the generator's parameter number `index`.
    GeneratorInit,
    /// The initial values of the critic's parameter number `index`.
    CriticInit,
    /// The dropout masks of a pass through a network.
    Dropout,
    /// Where between a real and a generated image the gradient penalty's image `index` lies.
    Interpolation,
    /// The first singular vectors of spectral normalisation; number `2 · layer` is u, the one after it v.
    Spectral,
    /// Image `index` of the built-in synthetic data.
    Synthetic,
    /// Which images of a data set are held out.
    HeldOut,
    /// What an evaluation draws: subsets of images.
    Evaluation,
    /// How image `index` that the critic sees is augmented.
    Augment,
}

impl Purpose {
    /// The tag that goes into the key. Tags are part of the file formats: never change one.
    fn tag(self) -> &'static [u8; 8] {
        match self {
            Self::Latent => b"latent\0\0",
            Self::CriticLatent => b"z-critic",
            Self::GeneratorLatent => b"z-gen\0\0\0",
            Self::Shuffle => b"shuffle\0",
            Self::GeneratorInit => b"init-gen",
            Self::CriticInit => b"init-cri",
            Self::Dropout => b"dropout\0",
            Self::Interpolation => b"interpol",
            Self::Spectral => b"spectral",
            Self::Synthetic => b"synthet\0",
            Self::HeldOut => b"held-out",
            Self::Evaluation => b"evaluate",
            Self::Augment => b"augment\0",
        }
    }
}

/// The random stream at (seed, purpose, index).
#[derive(Debug, Clone)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// Opens the stream at an address. Cheap: no state is shared or advanced.
    pub fn at(seed: u64, purpose: Purpose, index: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(purpose.tag());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(index);
        Self(rng)
    }

    /// Goes to the place after `words` calls of [`Self::bits`] or [`Self::unit`] from the beginning.
    pub fn seek(&mut self, words: u64) {
        self.0.set_word_pos(u128::from(words));
    }

    /// 32 uniform bits.
    pub fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Uniform in [0, 1), on a grid of 2⁻²⁴.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..bound, without bias (Lemire's multiply-and-reject). `bound` must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.bits()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Two independent standard normal values (Box–Muller). libm's functions, so that every platform gets the same bits.
    pub fn normal_pair(&mut self) -> [f32; 2] {
        // (0, 1]: never the logarithm of 0; the smallest value, 2^-32, gives |z| = 6.66.
        let u = ((f64::from(self.bits()) + 1.0) * (1.0 / 4_294_967_296.0)) as f32;
        let angle = self.unit() * std::f32::consts::TAU;
        let radius = libm::sqrtf(-2.0 * libm::logf(u));
        [radius * libm::cosf(angle), radius * libm::sinf(angle)]
    }

    /// Fills `out` with independent normal values.
    pub fn fill_normal(&mut self, mean: f32, std: f32, out: &mut [f32]) {
        for pair in out.chunks_mut(2) {
            for (value, normal) in pair.iter_mut().zip(self.normal_pair()) {
                *value = mean + std * normal;
            }
        }
    }

    /// Fills `out` with independent values, uniform in [low, high).
    pub fn fill_uniform(&mut self, low: f32, high: f32, out: &mut [f32]) {
        out.fill_with(|| self.uniform(low, high));
    }

    /// A uniformly random order of 0..n (Fisher–Yates).
    pub fn permutation(&mut self, n: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n).collect();
        for last in (1..n).rev() {
            order.swap(last as usize, self.below(last + 1) as usize);
        }
        order
    }
}
