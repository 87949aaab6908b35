//! Passes over a weight that is divided by its spectral norm, on the CPU: it is larger than the caches, so each reads it once.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::by_image::lane_sum;
use super::float::Float;
use super::memory::{Slot, View, filled};
use super::tasks::{TASK, vectorised};

/// Columns whose sums stay in the first cache while rows are added to them.
const COLUMNS: usize = 1024;

/// W v of a matrix `[out, rest]`.
pub(in crate::nn) fn times<T: Float>(matrix: &Tensor, v: &Tensor) -> Result<Tensor> {
    let views = [matrix, v].map(View::of);
    let [w, v] = [views[0].slice::<T>()?, views[1].slice::<T>()?];
    assert_eq!(matrix.dim(1)?, v.len(), "v belongs to a matrix of these sizes");
    let sums: Vec<T> = w.par_chunks_exact(v.len()).map(|row| T::from_f64(lane_sum([row, v], |w, v| w * v))).collect();
    let out = sums.len();
    Tensor::from_vec(sums, out, matrix.device())
}

/// Wᵀ u of a matrix `[out, rest]`: rows are added in their order, whatever columns a task has.
pub(in crate::nn) fn transposed_times<T: Float>(matrix: &Tensor, u: &Tensor) -> Result<Tensor> {
    let views = [matrix, u].map(View::of);
    let [w, u] = [views[0].slice::<T>()?, views[1].slice::<T>()?];
    let (out, rest) = matrix.dims2()?;
    assert_eq!(out, u.len(), "u belongs to a matrix of these sizes");
    let mut sums = vec![T::default(); rest];
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, sums)| {
        for (row, &u) in w.chunks_exact(rest).zip(u) {
            let row = &row[task * COLUMNS..][..sums.len()];
            vectorised(|| sums.iter_mut().zip(row).for_each(|(sum, &w)| *sum += w * u));
        }
    });
    Tensor::from_vec(sums, rest, matrix.device())
}

/// W/σ
pub(in crate::nn) fn divided<T: Float>(weight: &Tensor, sigma: &Tensor) -> Result<Tensor> {
    let sigma = T::from_f64(sigma.to_dtype(DType::F64)?.to_scalar::<f64>()?);
    let view = View::of(weight);
    let w = view.slice::<T>()?;
    let values = filled(w.len(), |to| {
        to.par_chunks_mut(TASK).zip(w.par_chunks(TASK)).for_each(|(to, w)| {
            vectorised(|| to.iter_mut().zip(w).for_each(|(to, &w)| to.put(w / sigma)));
        });
    });
    Tensor::from_vec(values, weight.shape(), weight.device())
}

/// `(G − ⟨G, W/σ⟩ u vᵀ) / σ` of a gradient G to W/σ, as matrices `[out, rest]`: a pass for the product, one for the rest.
pub(in crate::nn) fn weight_grad<T: Float>(
    gradient: &Tensor,
    normalised: &Tensor,
    [u, v]: [&Tensor; 2],
    sigma: f64,
) -> Result<Tensor> {
    let gradient = gradient.contiguous()?;
    let views = [&gradient, normalised, u, v].map(View::of);
    let [g, w, u, v] = [views[0].slice::<T>()?, views[1].slice::<T>()?, views[2].slice::<T>()?, views[3].slice::<T>()?];
    let rest = v.len();
    assert!(g.len() == u.len() * rest && w.len() == g.len(), "u and v belong to a matrix of these sizes");
    let rows: Vec<f64> =
        g.par_chunks_exact(rest).zip(w.par_chunks_exact(rest)).map(|(g, w)| lane_sum([g, w], |g, w| g * w)).collect();
    let along = rows.iter().sum::<f64>();
    let inverse = T::from_f64(1.0 / sigma);
    let values = filled(g.len(), |to| {
        to.par_chunks_exact_mut(rest).zip(g.par_chunks_exact(rest)).zip(u).for_each(|((to, g), &u)| {
            let factor = T::from_f64(along * u.to_f64());
            vectorised(|| to.iter_mut().zip(g).zip(v).for_each(|((to, &g), &v)| to.put((g - factor * v) * inverse)));
        });
    });
    Tensor::from_vec(values, gradient.shape(), gradient.device())
}
