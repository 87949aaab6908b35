//! The kernel distance (arXiv 1801.01401, section 4): the squared maximum mean discrepancy of two sets of features under the
//! kernel `(x·y / d + 1)³`, in its unbiased estimate, averaged over random subsets.

use faer::Mat;

use super::features::Features;
use super::frechet::product;
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

/// How many subsets are averaged over.
pub const SUBSETS: usize = 100;
/// Vectors a subset; fewer where there are fewer.
pub const SUBSET: usize = 1000;

/// The kernel distance of two sets of features, over `subsets` random subsets of `size` of each (all, if there are fewer),
/// which `seed` determines. Unbiased: of two sets from one source it is about 0, and may be below.
///
/// # Errors
/// When a set has fewer than two, or they are of different lengths.
pub fn kernel_distance(a: &Features, b: &Features, subsets: usize, size: usize, seed: u64) -> Result<f64> {
    let size = size.min(a.len()).min(b.len());
    if size < 2 || a.dim() != b.dim() || subsets == 0 {
        let what = format!("{} and {} features of {} and {} values", a.len(), b.len(), a.dim(), b.dim());
        return Err(Error::usage(what, "Take at least 2 images of each kind, through the same feature model."));
    }
    // With all in it there is one subset only.
    let subsets = if size == a.len() && size == b.len() { 1 } else { subsets };
    let part = |features: &Features, number: u64| {
        let order = Stream::at(seed, Purpose::Evaluation, number).permutation(features.len() as u32);
        features.select(&order[..size]).columns()
    };
    let sum: f64 = (0..subsets as u64).map(|number| discrepancy(&part(a, 2 * number), &part(b, 2 * number + 1))).sum();
    Ok(sum / subsets as f64)
}

/// `Σ_{i≠j} k(xᵢ, xⱼ) / m(m−1) + Σ_{i≠j} k(yᵢ, yⱼ) / m(m−1) − 2 Σ k(xᵢ, yⱼ) / m²` of two sets of m columns.
fn discrepancy(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let m = x.ncols() as f64;
    let within = |x: &Mat<f64>| kernels(x, x, true) / (m * (m - 1.0));
    within(x) + within(y) - 2.0 * kernels(x, y, false) / (m * m)
}

fn kernels(x: &Mat<f64>, y: &Mat<f64>, skip_same: bool) -> f64 {
    let products = product(x.transpose(), y.as_ref(), 1.0 / x.nrows() as f64);
    let columns = products.col_iter().enumerate();
    columns
        .map(|(j, column)| {
            let kernel = |value: &f64| (value + 1.0) * (value + 1.0) * (value + 1.0);
            let all: f64 = column.iter().map(kernel).sum();
            if skip_same { all - kernel(&column[j]) } else { all }
        })
        .sum()
}
