//! Improved precision and recall (arXiv 1904.06991, algorithm 1): the share of generated images inside the manifold of the real
//! ones, and of real images inside that of the generated. A manifold is the union of balls around the features of its images,
//! each as large as the distance to the k-th nearest other one. Density and coverage (arXiv 2002.09797) count the balls of the real
//! images alone: one odd real image, whose ball is large, then makes no crowd of generated ones good.

use std::sync::atomic::{AtomicBool, Ordering};

use faer::Mat;
use rayon::prelude::*;

use super::features::Features;
use super::frechet::product;
use crate::error::{Error, Result};

/// Which neighbour gives a ball its radius for precision and recall, as in the paper.
pub const NEIGHBOUR: usize = 3;
/// Which does for density and coverage, as in theirs.
pub const DENSITY_NEIGHBOUR: usize = 5;

/// Vectors of one side compared at a time with all of the other, at most, and distances in such a block: 64 MB.
const BLOCK: usize = 512;
const BLOCK_DISTANCES: usize = 8 << 20;

/// Distances² that differ by less than this share of the norms² they come from are equal: rounding.
const EQUAL: f64 = 1e-12;

/// Feature vectors as columns, with their squared norms.
pub(super) struct Points {
    columns: Mat<f64>,
    norms: Vec<f64>,
}

impl Points {
    pub fn of(features: &Features) -> Self {
        let columns = features.columns();
        let norms = columns.col_iter().map(|column| column.squared_norm_l2()).collect();
        Self { columns, norms }
    }

    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// A squared distance to this vector up to which another one may be the same.
    pub fn rounding(&self, index: usize) -> f64 {
        EQUAL * 2.0 * self.norms[index]
    }

    /// What `work` makes of each vector's number and its squared distances to all of `others`, in order.
    pub fn map_distances<T: Send>(&self, others: &Self, work: impl Fn(usize, &mut [f64]) -> T + Sync) -> Vec<T> {
        let mut results = Vec::with_capacity(self.len());
        let block = (BLOCK_DISTANCES / others.len().max(1)).clamp(16, BLOCK);
        for start in (0..self.len()).step_by(block) {
            let count = block.min(self.len() - start);
            let products = product(others.columns.transpose(), self.columns.subcols(start, count), 1.0);
            results.par_extend((0..count).into_par_iter().map(|at| {
                let norm = self.norms[start + at];
                let distance = |(product, other): (&f64, &f64)| (norm + other - 2.0 * product).max(0.0);
                let mut row: Vec<f64> = products.col(at).iter().zip(&others.norms).map(distance).collect();
                work(start + at, &mut row)
            }));
        }
        results
    }
}

/// The manifold of a set of features.
pub struct Manifold {
    points: Points,
    /// Squared, a point.
    radii: Vec<f64>,
    /// Which neighbour gave them.
    k: usize,
}

impl Manifold {
    /// Balls that reach to the `k`-th nearest other vector.
    ///
    /// # Errors
    /// When there are not more than `k` vectors, or `k` is 0.
    pub fn new(features: &Features, k: usize) -> Result<Self> {
        if k == 0 || features.len() <= k {
            let what = format!("{} images have no neighbour number {k}", features.len());
            return Err(Error::usage(what, "Give more images."));
        }
        let points = Points::of(features);
        let radii = points.map_distances(&points, |own, row| {
            row[own] = f64::INFINITY;
            *row.select_nth_unstable_by(k - 1, f64::total_cmp).1
        });
        Ok(Self { points, radii, k })
    }

    /// The share of another set's vectors that lie in at least one ball, 0 to 1.
    ///
    /// # Errors
    /// When the features are of another length, or there are none.
    pub fn coverage(&self, of: &Self) -> Result<f64> {
        self.check(of)?;
        let inside = of.points.map_distances(&self.points, |at, row| self.balls_around(of, at, row).next().is_some());
        Ok(inside.iter().filter(|inside| **inside).count() as f64 / inside.len() as f64)
    }

    /// Density and coverage of another set's vectors (arXiv 2002.09797, eq. 3 and 4). Density is in how many balls each of them lies on the mean,
    /// over `k`: about 1 where they lie among these as these among themselves, and more in a crowd. Coverage is the share of the balls that
    /// have any of them inside, 0 to 1.
    ///
    /// # Errors
    /// As [`Self::coverage`].
    pub fn density_and_coverage(&self, of: &Self) -> Result<[f64; 2]> {
        self.check(of)?;
        let covered: Vec<AtomicBool> = self.radii.iter().map(|_| AtomicBool::new(false)).collect();
        let counts = of.points.map_distances(&self.points, |at, row| {
            self.balls_around(of, at, row).map(|ball| covered[ball].store(true, Ordering::Relaxed)).count()
        });
        let covered = covered.into_iter().filter(|covered| covered.load(Ordering::Relaxed)).count();
        let density = counts.iter().sum::<usize>() as f64 / (self.k * counts.len()) as f64;
        Ok([density, covered as f64 / self.radii.len() as f64])
    }

    fn check(&self, of: &Self) -> Result<()> {
        if self.points.columns.nrows() != of.points.columns.nrows() || of.points.len() == 0 {
            return Err(Error::usage("features of different lengths", "Take both from the same feature model."));
        }
        Ok(())
    }

    /// The numbers of the balls that another set's vector lies in, by its squared distances to their centres.
    fn balls_around<'a>(&'a self, of: &'a Self, at: usize, distances: &'a [f64]) -> impl Iterator<Item = usize> + 'a {
        let norm_of = of.points.norms[at];
        let balls = self.radii.iter().zip(&self.points.norms).enumerate();
        let inside = move |((ball, (radius, norm)), distance): ((usize, (&f64, &f64)), &f64)| {
            (*distance <= radius + EQUAL * (norm + norm_of)).then_some(ball)
        };
        balls.zip(distances).filter_map(inside)
    }
}
