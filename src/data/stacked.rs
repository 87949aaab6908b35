//! StackedMNIST: three of MNIST's training digits as the red, green and blue of one image, so that there are 1,000 kinds of images,
//! which a classifier of digits can count: how many of them a generator makes says how much of its data it leaves out
//! (arXiv 1611.02163, section 3.3.1).

use rayon::prelude::*;

use super::classes::Classes;
use super::config::DataConfig;
use super::{DataReport, Loaded, find_named, idx, named_roots};
use crate::error::{Error, Result};
use crate::memory;
use crate::progress::Progress;
use crate::random::{Purpose, Stream};
use crate::text::grouped;

/// What the source is called.
pub(super) const NAME: &str = "stacked-mnist";

/// How many images the source `stacked-mnist` has: as many as in arXiv 1712.04086, section 4.1.
pub const LEN: usize = 128_000;

/// The numbers of the digits that are red, green and blue of image `index`, of `digits` there are: each drawn from all of them, by
/// `seed` and index alone. `digits` must not be 0.
pub fn drawn(seed: u64, index: u64, digits: u32) -> [u32; 3] {
    let mut random = Stream::at(seed, Purpose::StackedDigits, index);
    [(); 3].map(|()| random.below(digits))
}

/// Loads the digits as `mnist` is loaded, and draws [`LEN`] images of them.
///
/// # Errors
/// When other than three channels are asked for, or MNIST's training images are missing or damaged.
pub(super) fn load(config: &DataConfig, progress: &dyn Progress) -> Result<Loaded> {
    const SEED: u64 = 0; // not the run's: runs with different seeds train on the same data
    if config.channels != 3 {
        let what = format!("{NAME} with data.channels = {}", config.channels);
        return Err(Error::usage(what, "Its three digits are an image's colours: data.channels must be 3."));
    }
    let folder = find_named("mnist", &named_roots())?;
    let file = idx::training_file(&folder).unwrap_or(folder);
    let grey = DataConfig { channels: 1, classes: 0, ..config.clone() };
    let Loaded { pixels: digits, report: DataReport { used, sizes, .. }, .. } = idx::load(&file, "mnist", &grey, progress)?;
    let area = config.size * config.size;
    let bytes = LEN * 3 * area;
    memory::check(NAME.as_ref(), bytes as u64, &format!("{} images", grouped(LEN)), "Use a smaller data.size.")?;
    let mut pixels = vec![0; bytes];
    pixels.par_chunks_exact_mut(3 * area).enumerate().for_each(|(index, image)| {
        let chosen = drawn(SEED, index as u64, used as u32);
        for (plane, digit) in image.chunks_exact_mut(area).zip(chosen) {
            plane.copy_from_slice(&digits[digit as usize * area..][..area]);
        }
    });
    let mut report = DataReport { found: LEN, ..DataReport::default() };
    let size = config.size as u32;
    report.count(LEN, sizes.into_keys().next().unwrap_or((size, size)), true);
    let classes: Result<Classes, String> = Err("it has 1,000 of them, and at most 256 can be told".to_string());
    Ok(Loaded { pixels, classes, names: Vec::new(), report })
}
