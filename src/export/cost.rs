//! What fewer bits cost: images of the same latents, before and after, compared by pixels and by features.

use rayon::prelude::*;

use crate::contract::{Contract, Cost};
use crate::error::{Error, Result};
use crate::eval::frechet::{Gaussian, Reference};
use crate::eval::{FeatureModel, Features, Real, chosen};
use crate::image::Images;
use crate::infer::Generator;

/// Images that both make.
pub const COMPARED: usize = 5000;
/// Images of a task, at most: whole batches.
const PART: usize = 256;

/// Images that are held at a time: of large ones fewer.
pub(super) fn part(generator: &Generator) -> usize {
    const BYTES: usize = 32 << 20;
    (BYTES / generator.image_shape().iter().product::<usize>().max(1)).clamp(1, PART)
}

/// Images to whose features both generators' are compared.
pub struct RealReference {
    name: String,
    reference: Reference,
}

impl RealReference {
    /// Of as many of some real images as are generated, or all of them; chosen at random, always the same.
    ///
    /// # Errors
    /// When there are fewer than 2 images, or the model fails.
    pub fn of(real: &Real, model: &FeatureModel) -> Result<Self> {
        let mut chosen = chosen(&real.numbers, COMPARED);
        chosen.sort_unstable();
        let gaussian = Gaussian::of(&model.extract(&real.data.images(&chosen))?)?;
        Ok(Self { name: real.data.name.clone(), reference: Reference::new(gaussian)? })
    }
}

/// The peak signal-to-noise ratio in decibels of 8-bit images whose squared differences have this sum.
fn psnr(squares: u64, pixels: u64) -> f64 {
    /// Of equal images it would be infinite.
    const MOST: f64 = 99.9;
    if squares == 0 { MOST } else { (10.0 * (255.0 * 255.0 * pixels as f64 / squares as f64).log10()).min(MOST) }
}

fn squares(a: &[u8], b: &[u8]) -> u64 {
    a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum()
}

/// The PSNR of a generator's images to others of the same latents, which begin at number `start`.
pub(super) fn psnr_to(images: &Images, generator: &Generator, seed: u64, start: u64) -> Result<f64> {
    let part = part(generator).min(PART / 4);
    let parts: Vec<usize> = (0..images.n).step_by(part).collect();
    let sums: Vec<u64> = parts
        .into_par_iter()
        .map(|first| {
            let expected = images.part(first..first + part);
            let made = generator.sample(seed, start + first as u64, expected.n)?;
            Ok(squares(&expected.pixels, &made.pixels))
        })
        .collect::<Result<_>>()?;
    Ok(psnr(sums.iter().sum(), images.pixels.len() as u64))
}

/// Compares `reduced` with `exact` over the first 5,000 images of the contract's seed.
pub(super) fn measure(
    exact: &Generator,
    reduced: &Generator,
    contract: &Contract,
    model: &FeatureModel,
    real: Option<&RealReference>,
) -> Result<Cost> {
    let part = part(exact);
    let parts: Vec<usize> = (0..COMPARED).step_by(part).collect();
    let made: Vec<(u64, u64, Vec<f32>, Vec<f32>)> = parts
        .into_par_iter()
        .map(|first| {
            let n = part.min(COMPARED - first);
            let [a, b] = [exact, reduced].map(|generator| generator.sample(contract.seed, first as u64, n));
            let (a, b) = (a?, b?);
            let values = |images: &Images| -> Result<Vec<f32>> {
                let features = model.extract(images)?;
                Ok((0..features.len()).flat_map(|row| features.row(row)).copied().collect())
            };
            Ok((squares(&a.pixels, &b.pixels), a.pixels.len() as u64, values(&a)?, values(&b)?))
        })
        .collect::<Result<_>>()?;
    let (mut sum, mut pixels, mut of_exact, mut of_reduced) = (0, 0, Vec::new(), Vec::new());
    for (squares, count, a, b) in made {
        sum += squares;
        pixels += count;
        of_exact.extend(a);
        of_reduced.extend(b);
    }
    let gaussian = |values| Gaussian::of(&Features::new(COMPARED, model.dim(), values)?);
    let (of_exact, of_reduced) = (gaussian(of_exact)?, gaussian(of_reduced)?);
    let (reference, frechet_f32, frechet) = match real {
        Some(real) => {
            let distances = [&of_exact, &of_reduced].map(|gaussian| real.reference.distance(gaussian));
            let [exact, reduced] = distances;
            (real.name.clone(), exact?, reduced?)
        }
        None => {
            let spread = of_exact.trace();
            (String::new(), spread, Reference::new(of_exact)?.distance(&of_reduced)?)
        }
    };
    let finite = |value: f64| {
        let what = format!("the Fréchet distance of {} features is {value}. Measure with another feature model.", model.name());
        if value.is_finite() { Ok(value) } else { Err(Error::Verification(what)) }
    };
    Ok(Cost { psnr: psnr(sum, pixels), frechet: finite(frechet)?, frechet_f32: finite(frechet_f32)?, reference })
}
