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
    /// The latent of image `index`, in training samples and in sampling jobs: the public numbering of images.
    Latent,
    /// The latent of an image that the critic is shown: number `step · batch + row` of a run.
    CriticLatent,
    /// The latent of an image of a generator step: number `step · batch + row` of a run.
    GeneratorLatent,
    /// The order of the data in epoch `index`.
    Shuffle,
    /// The real images that generator step `index` sees, where its loss pairs scores.
    GeneratorReal,
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
    /// Which digits image `index` of StackedMNIST is made of.
    StackedDigits,
    /// Which images of a data set are held out.
    HeldOut,
    /// What is drawn to measure with: subsets of images, noise that exports are checked with, crops that features are learned from.
    Evaluation,
    /// How image `index` that the critic sees is augmented.
    Augment,
    /// Whether image `index` that the critic sees is augmented, by each kind in turn.
    AugmentChance,
    /// Whether real image `index`, in the order in which the critic is shown them, is mirrored.
    Flip,
}

impl Purpose {
    /// The tag that goes into the key. Tags are part of the file formats: never change one.
    fn tag(self) -> &'static [u8; 8] {
        match self {
            Self::Latent => b"latent\0\0",
            Self::CriticLatent => b"z-critic",
            Self::GeneratorLatent => b"z-gen\0\0\0",
            Self::Shuffle => b"shuffle\0",
            Self::GeneratorReal => b"real-gen",
            Self::GeneratorInit => b"init-gen",
            Self::CriticInit => b"init-cri",
            Self::Dropout => b"dropout\0",
            Self::Interpolation => b"interpol",
            Self::Spectral => b"spectral",
            Self::Synthetic => b"synthet\0",
            Self::StackedDigits => b"stacked\0",
            Self::HeldOut => b"held-out",
            Self::Evaluation => b"evaluate",
            Self::Augment => b"augment\0",
            Self::AugmentChance => b"aug-prob",
            Self::Flip => b"flip\0\0\0\0",
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
        unit(self.bits())
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

    /// Two independent standard normal values.
    pub fn normal_pair(&mut self) -> [f32; 2] {
        let (radius, (cos, sin)) = (radius(self.bits()), cos_sin(angle(self.bits())));
        [radius * cos, radius * sin]
    }

    /// Fills `out` with independent normal values (Box–Muller): each pair of them takes two words.
    pub fn fill_normal(&mut self, mean: f32, std: f32, out: &mut [f32]) {
        for part in out.chunks_mut(2 * LANES) {
            let (mut radii, mut angles) = ([0; LANES], [0; LANES]);
            for (radius, angle) in radii.iter_mut().zip(&mut angles).take(part.len().div_ceil(2)) {
                (*radius, *angle) = (self.bits(), self.bits());
            }
            let (first, second) = normal_pairs(&radii, &angles);
            for ((pair, a), b) in part.chunks_mut(2).zip(first).zip(second) {
                pair.iter_mut().zip([a, b]).for_each(|(value, normal)| *value = mean + std * normal);
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

/// Pairs that are computed at a time: enough for any processor's vector instructions.
const LANES: usize = 16;

/// Independent standard normal values (Box–Muller) of uniform words: radii of the ones, angles of the others.
///
/// Step by step the arithmetic of libm's `logf`, `cosf` and `sinf` (FreeBSD's e_logf.c, k_cosf.c, k_sinf.c), so that every
/// platform gets the same bits; but without branches, for the compiler to make vector instructions of it.
fn normal_pairs(radii: &[u32; LANES], angles: &[u32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(radii: &[u32; LANES], angles: &[u32; LANES]) -> ([f32; LANES], [f32; LANES]) {
            pairs(radii, angles)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has these instructions.
            return unsafe { wide(radii, angles) };
        }
    }
    pairs(radii, angles)
}

#[inline(always)]
fn pairs(radii: &[u32; LANES], angles: &[u32; LANES]) -> ([f32; LANES], [f32; LANES]) {
    let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
    for (lane, radius_word) in radii.iter().enumerate() {
        let (radius, (cos, sin)) = (radius(*radius_word), cos_sin(angle(angles[lane])));
        (first[lane], second[lane]) = (radius * cos, radius * sin);
    }
    (first, second)
}

/// Uniform in [0, 1), on a grid of 2⁻²⁴.
#[inline(always)]
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

#[inline(always)]
#[doc(hidden)]
pub fn angle(word: u32) -> f32 {
    unit(word) * std::f32::consts::TAU
}

/// √(−2 ln u) for u in (0, 1]: never the logarithm of 0; the smallest value, 2^-32, gives 6.66.
#[inline(always)]
fn radius(word: u32) -> f32 {
    let u = ((f64::from(word) + 1.0) * (1.0 / 4_294_967_296.0)) as f32;
    (-2.0 * log(u)).sqrt()
}

/// The natural logarithm of a normal number in (0, 1], as libm's.
#[inline(always)]
#[doc(hidden)]
pub fn log(x: f32) -> f32 {
    let [ln2_high, ln2_low]: [f32; 2] = [6.931_381e-1, 9.058_001e-6];
    let bits = x.to_bits().wrapping_add(0x3f80_0000 - 0x3f35_04f3);
    let exponent = ((bits >> 23) as i32 - 0x7f) as f32;
    let f = f32::from_bits((bits & 0x007f_ffff) + 0x3f35_04f3) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let r = z * (0.666_666_6 + w * 0.284_987_87) + w * (0.400_009_72 + w * 0.242_790_79);
    let half_square = 0.5 * f * f;
    s * (half_square + r) + exponent * ln2_low - half_square + f + exponent * ln2_high
}

/// Cosine and sine of 0 ≤ x < 2π, as libm's.
#[inline(always)]
#[doc(hidden)]
pub fn cos_sin(x: f32) -> (f32, f32) {
    // Above how many odd multiples of π/4.
    let quarters: u32 = [0x3f49_0fda, 0x4016_cbe3, 0x407b_53d1, 0x40af_eddf]
        .into_iter()
        .map(|bound| u32::from(x > f32::from_bits(bound)))
        .sum();
    let y = f64::from(x) - f64::from(quarters) * std::f64::consts::FRAC_PI_2;
    let z = y * y;
    let w = z * z;
    let cos = (1.0 + z * -0.499_999_997_251_031) + w * 0.041_666_623_323_739_06;
    let cos = (cos + (w * z) * (-0.001_388_676_377_460_993 + z * 0.000_024_390_448_796_277_41)) as f32;
    let s = z * y;
    let sin = y + s * (-0.166_666_666_416_265_24 + z * 0.008_333_329_385_889_463);
    let sin = (sin + s * w * (-0.000_198_393_348_360_966_32 + z * 0.000_002_718_311_493_989_822)) as f32;
    // A quarter turn takes (cos, sin) to (−sin, cos).
    let odd = (quarters & 1).wrapping_neg();
    let (cos, sin) = (cos.to_bits(), sin.to_bits());
    let (first, second) = ((cos & !odd) | (sin & odd), (sin & !odd) | (cos & odd));
    let sign = |negative: u32| negative << 31;
    (f32::from_bits(first ^ sign(((quarters + 1) >> 1) & 1)), f32::from_bits(second ^ sign((quarters >> 1) & 1)))
}
