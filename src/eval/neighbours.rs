//! Memorisation: images that are alike, and the training images nearest to generated ones.

use std::collections::HashSet;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, get_global_parallelism};
use rayon::prelude::*;

use super::features::Features;
use super::precision_recall::Points;
use crate::data::{self, Dataset};
use crate::error::{Error, Result};
use crate::image::Images;

/// The nearest of some images to another one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Its number.
    pub index: usize,
    /// How far it is.
    pub distance: f64,
}

/// How many images are the exact copy of an earlier one.
pub fn duplicates(images: &Images) -> usize {
    let distinct: HashSet<&[u8]> = images.pixels.chunks_exact(images.bytes().max(1)).collect();
    images.n - distinct.len()
}

/// For each query the nearest candidate by features, Euclidean. Query `i` leaves out the candidate `skip[i]`: itself, if it
/// is one of them.
///
/// # Errors
/// When there are no candidates, or the features are of different lengths.
pub fn by_features(queries: &Features, candidates: &Features, skip: Option<&[u32]>) -> Result<Vec<Nearest>> {
    if candidates.len() < 2 || queries.dim() != candidates.dim() {
        return Err(Error::usage("too few images to search for neighbours", "Give at least 2, through one feature model."));
    }
    let found = Points::of(queries).map_distances(&Points::of(candidates), |own, row| {
        if let Some(skipped) = skip.and_then(|skip| row.get_mut(*skip.get(own)? as usize)) {
            *skipped = f64::INFINITY;
        }
        least(row.iter().copied())
    });
    Ok(found.into_iter().map(|Nearest { index, distance }| Nearest { index, distance: distance.sqrt() }).collect())
}

fn least(distances: impl Iterator<Item = f64>) -> Nearest {
    let none = Nearest { index: 0, distance: f64::INFINITY };
    let nearer = |best: Nearest, (index, distance)| if distance < best.distance { Nearest { index, distance } } else { best };
    distances.enumerate().fold(none, nearer)
}

/// For each query the nearest by pixels of the images `among` of a data set: the root of the mean squared difference, 0 to 255.
/// Numbers are places in `among`; query `i` leaves out place `skip[i]`.
///
/// # Errors
/// When the queries are not of the data's form, or the data are fewer than 2 images.
pub fn by_pixels(queries: &Images, data: &Dataset, among: &[u32], skip: Option<&[u32]>) -> Result<Vec<Nearest>> {
    /// Images of the data compared at a time.
    const BLOCK: usize = 1024;
    let bytes = queries.bytes();
    if [queries.height, queries.width, queries.channels] != [data.size, data.size, data.channels] || among.len() < 2 {
        let what = format!("images of {}×{}×{} and of {2}×{2}×{3}", queries.height, queries.width, data.size, data.channels);
        return Err(Error::usage(what, "Bring both to one form, and give at least 2 to search among."));
    }
    let mut planar = vec![0; queries.pixels.len()];
    let shape = [queries.height, queries.width, queries.channels];
    for (image, out) in queries.pixels.chunks_exact(bytes).zip(planar.chunks_exact_mut(bytes)) {
        data::refit(image, shape, data.size, data.channels, out)
            .map_err(|what| Error::invalid("images to compare", what, "Give images of 1 or 3 channels."))?;
    }
    // Around 0, so that f32 keeps more of the sums; distances² are taken again, exactly, of the nearest.
    let centred = |pixel: u8| f32::from(pixel) - 128.0;
    let columns = |pixels: &[u8]| Mat::from_fn(bytes, pixels.len() / bytes, |at, image| centred(pixels[image * bytes + at]));
    let norm = |image: &[u8]| image.iter().map(|&pixel| centred(pixel) * centred(pixel)).sum::<f32>();
    let queries_columns = columns(&planar);
    let mut best = vec![Nearest { index: 0, distance: f64::INFINITY }; queries.n];
    for (number, block) in among.chunks(BLOCK).enumerate() {
        let block: Vec<u8> = block.iter().flat_map(|&index| data.image(index as usize)).copied().collect();
        let others = columns(&block);
        let norms: Vec<f32> = block.par_chunks_exact(bytes).map(norm).collect();
        let mut products = Mat::<f32>::zeros(others.ncols(), queries.n);
        let par = get_global_parallelism();
        matmul(products.as_mut(), Accum::Replace, others.transpose(), queries_columns.as_ref(), 1.0, par);
        best.par_iter_mut().enumerate().for_each(|(query, best)| {
            let skipped = skip.and_then(|skip| skip.get(query)).map(|&index| index as usize);
            for (at, (product, norm)) in products.col(query).iter().zip(&norms).enumerate() {
                let (index, distance) = (number * BLOCK + at, f64::from(norm - 2.0 * product));
                if distance < best.distance && Some(index) != skipped {
                    *best = Nearest { index, distance };
                }
            }
        });
    }
    for (nearest, image) in best.iter_mut().zip(planar.chunks_exact(bytes)) {
        nearest.distance = pixel_distance(image, data.image(among[nearest.index] as usize));
    }
    Ok(best)
}

/// The root of the mean squared difference of pixels.
fn pixel_distance(a: &[u8], b: &[u8]) -> f64 {
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    (sum as f64 / a.len().max(1) as f64).sqrt()
}

/// A sheet of some samples, three columns each: the sample, and the images of `among` nearest to it by features and by pixels.
pub(super) fn triples(
    samples: &Images,
    data: &Dataset,
    among: &[u32],
    shown: &[usize],
    by_features: &[Nearest],
    by_pixels: &[Nearest],
) -> Images {
    let mut pixels = Vec::new();
    for &sample in shown {
        pixels.extend(samples.part(sample..sample + 1).pixels);
        let nearest = [by_features[sample].index, by_pixels[sample].index].map(|place| among[place]);
        pixels.extend(data.images(&nearest).pixels);
    }
    Images { n: 3 * shown.len(), pixels, ..*samples }
}

/// Columns of the sheet that [`super::evaluate`] gives: four samples a row, each with its two neighbours.
pub const SHEET_COLUMNS: usize = 12;
