//! The way back through a weight that was divided by its spectral norm, on the CPU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::by_image::lane_sum;
use super::float::Float;
use super::memory::{Slot, View, filled};
use super::tasks::vectorised;

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
