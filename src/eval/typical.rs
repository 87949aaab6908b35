//! Which images of a data set are typical of it. A generator that is trained on those alone is meant to make cleaner images, at the
//! price of variety: instance selection (arXiv 2007.15255). What is typical is told there by one density over all features; here
//! by the density around an image against that around its neighbours, so that rare kinds are not taken for odd ones.

use std::sync::atomic::{AtomicU64, Ordering};

use super::features::Features;
use super::precision_recall::Points;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Neighbours that make an image's surroundings.
pub const NEIGHBOURS: usize = 20;

/// For each image how far its features lie outside of their surroundings: the distance to its `k`-th nearest neighbour, over the
/// mean of the same distance of those `k` neighbours. About 1 within any cluster, whatever its density, and larger for what lies
/// outside. It is the ratio of LoOP (Kriegel et al. 2009, "PLOF" + 1) with the plain distance in the place of the probabilistic
/// one; its kin is the local outlier factor (Breunig et al. 2000).
///
/// Copies crowd out all other neighbours: give each image once. Time grows with the square of the number.
///
/// # Errors
/// When there are not more than `k` vectors, or `k` is 0.
pub fn outlier_factors(features: &Features, k: usize, progress: &dyn Progress) -> Result<Vec<f64>> {
    if k == 0 || features.len() <= k {
        let what = format!("{} images have no neighbour number {k}", features.len());
        return Err(Error::usage(what, "Give more images."));
    }
    let points = Points::of(features);
    let done = AtomicU64::new(0);
    progress.begin("comparing", features.len() as u64);
    let surroundings = points.map_distances(&points, |own, row| {
        row[own] = f64::INFINITY;
        progress.update(done.fetch_add(1, Ordering::Relaxed) + 1, "");
        nearest(row, k, points.rounding(own))
    });
    progress.end();
    let factor = |(reach, near): &(f64, Vec<u32>)| {
        let others = near.iter().map(|&index| surroundings[index as usize].0).sum::<f64>() / near.len() as f64;
        if reach == &others { 1.0 } else { reach / others } // equal: or both 0
    };
    Ok(surroundings.iter().map(factor).collect())
}

/// How far the `k`-th of these squared distances reaches, and whose the first `k` are; what is not above `same` is 0.
fn nearest(row: &[f64], k: usize, same: f64) -> (f64, Vec<u32>) {
    let kth = *row.to_vec().select_nth_unstable_by(k - 1, f64::total_cmp).1;
    let numbers =
        |wanted: fn(&f64, &f64) -> bool| (0..row.len() as u32).filter(move |&index| wanted(&row[index as usize], &kth));
    let near = numbers(|distance, kth| distance < kth).chain(numbers(|distance, kth| distance == kth)).take(k);
    (if kth <= same { 0.0 } else { kth.sqrt() }, near.collect())
}

/// The numbers of all images, the most typical first: by ascending factor, equal ones by number.
pub fn ranked(factors: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..factors.len() as u32).collect();
    order.sort_by(|&a, &b| factors[a as usize].total_cmp(&factors[b as usize]));
    order
}
