//! The Fréchet distance between the Gaussians of two sets of features (arXiv 1706.08500, eq. 6), in f64.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Side, get_global_parallelism};

use super::features::Features;
use crate::error::{Error, Result};

/// Mean and covariance of features.
pub struct Gaussian {
    mean: Vec<f64>,
    /// With n − 1 in the denominator, as in the reference implementations.
    covariance: Mat<f64>,
}

impl Gaussian {
    /// Of at least two feature vectors.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn of(features: &Features) -> Result<Self> {
        if features.len() < 2 {
            let what = format!("{} images have no covariance", features.len());
            return Err(Error::usage(what, "Give at least 2, better 5,000."));
        }
        let mut columns = features.columns();
        let n = features.len() as f64;
        let mean: Vec<f64> = columns.row_iter().map(|row| row.iter().sum::<f64>() / n).collect();
        for column in columns.col_iter_mut() {
            column.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        }
        let covariance = product(columns.as_ref(), columns.transpose(), 1.0 / (n - 1.0));
        Ok(Self { mean, covariance })
    }

    /// The variances of all features together.
    pub fn trace(&self) -> f64 {
        self.covariance.diagonal().column_vector().iter().sum()
    }
}

/// One side of many distances: the root of its covariance is taken once.
pub struct Reference {
    gaussian: Gaussian,
    root: Mat<f64>,
}

impl Reference {
    /// Takes the root.
    ///
    /// # Errors
    /// When its eigenvalues cannot be found.
    pub fn new(gaussian: Gaussian) -> Result<Self> {
        let failed = |e| Error::invalid("features", format!("eigenvalues not found: {e:?}"), "Use another feature model.");
        let eigen = gaussian.covariance.self_adjoint_eigen(Side::Lower).map_err(failed)?;
        let (vectors, values) = (eigen.U(), eigen.S().column_vector());
        let n = vectors.nrows();
        // Rounding makes eigenvalues of 0 slightly negative.
        let scaled = Mat::from_fn(n, n, |row, column| vectors[(row, column)] * values[column].max(0.0).sqrt());
        let root = product(scaled.as_ref(), vectors.transpose(), 1.0);
        Ok(Self { gaussian, root })
    }

    /// `|μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½`, at least 0. The root under the last trace is taken of a symmetric
    /// matrix, which has the eigenvalues of Σ₁Σ₂ and, unlike it, no complex ones by rounding.
    ///
    /// # Errors
    /// When the features are of another length, or eigenvalues cannot be found.
    pub fn distance(&self, other: &Gaussian) -> Result<f64> {
        let (ours, theirs) = (&self.gaussian, other);
        if ours.mean.len() != theirs.mean.len() {
            let what = format!("features of {} and of {} values", ours.mean.len(), theirs.mean.len());
            return Err(Error::usage(what, "Take both from the same feature model."));
        }
        let between = product(self.root.as_ref(), theirs.covariance.as_ref(), 1.0);
        let inner = product(between.as_ref(), self.root.as_ref(), 1.0);
        let failed = |e| Error::invalid("features", format!("eigenvalues not found: {e:?}"), "Use another feature model.");
        let values = inner.self_adjoint_eigenvalues(Side::Lower).map_err(failed)?;
        let root: f64 = values.iter().map(|value| value.max(0.0).sqrt()).sum();
        let apart: f64 = ours.mean.iter().zip(&theirs.mean).map(|(a, b)| (a - b) * (a - b)).sum();
        Ok((apart + ours.trace() + theirs.trace() - 2.0 * root).max(0.0))
    }
}

/// The Fréchet distance of two sets of features.
///
/// # Errors
/// When a set has fewer than two, or they are of different lengths.
pub fn frechet(a: &Features, b: &Features) -> Result<f64> {
    Reference::new(Gaussian::of(a)?)?.distance(&Gaussian::of(b)?)
}

/// `factor · a b`.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>, factor: f64) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, factor, get_global_parallelism());
    out
}
