//! Which images of a data set are typical of it. A generator that is trained on those alone makes better images, and fewer kinds
//! of them: instance selection (arXiv 2007.15255). What is typical is told there by one Gaussian over all features; here by
//! the density around an image against that around its neighbours, so that rare kinds are not taken for odd ones.

use super::features::Features;
use super::precision_recall::Points;
use crate::error::{Error, Result};

/// Neighbours that make an image's surroundings.
pub const NEIGHBOURS: usize = 20;

/// For each image the simplified local outlier factor of its features (Schubert, Zimek, Kriegel 2014, section 4.3, after
/// Breunig et al. 2000): the distance to its `k`-th nearest neighbour, over the mean of the same of all that are not farther.
/// About 1 within any cluster, whatever its density, and larger for what lies outside. Time grows with the square of the number.
///
/// # Errors
/// When there are not more than `k` vectors, or `k` is 0.
pub fn outlier_factors(features: &Features, k: usize) -> Result<Vec<f64>> {
    if k == 0 || features.len() <= k {
        let what = format!("{} images have no neighbour number {k}", features.len());
        return Err(Error::usage(what, "Give more images."));
    }
    let points = Points::of(features);
    let surroundings = points.map_distances(&points, |own, row| {
        row[own] = f64::INFINITY;
        let kth = *row.to_vec().select_nth_unstable_by(k - 1, f64::total_cmp).1;
        let same = points.rounding(own);
        let near = row.iter().enumerate().filter(|(_, distance)| **distance <= kth.max(same)).map(|(index, _)| index as u32);
        (if kth <= same { 0.0 } else { kth.sqrt() }, near.collect::<Vec<u32>>())
    });
    let factor = |(reach, near): &(f64, Vec<u32>)| {
        let others = near.iter().map(|&index| surroundings[index as usize].0).sum::<f64>() / near.len() as f64;
        if reach == &others { 1.0 } else { reach / others } // equal: or both 0, among copies
    };
    Ok(surroundings.iter().map(factor).collect())
}

/// The numbers of all images, the most typical first: by ascending factor, equal ones by number.
pub fn ranked(factors: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..factors.len() as u32).collect();
    order.sort_by(|&a, &b| factors[a as usize].total_cmp(&factors[b as usize]));
    order
}
