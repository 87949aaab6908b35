//! Passes in which every image and channel has numbers of its own, on the CPU: one pass over memory each, image by image, in an
//! order that does not depend on the number of threads.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::elementwise::activate;
use super::float::Float;
use super::memory::{Slot, View, filled, written};
use super::tasks::{TASK, vectorised};
use crate::nn::activation::Activation;

/// Positions that are summed up before f64 takes over.
const BLOCK: usize = 64;
/// Sums that a row of values is added into side by side.
const LANES: usize = 16;

/// As `by_image::statistics`, of rows.
pub(in crate::nn) fn statistics<T: Float>(rows: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let (n, len) = rows.dims2()?;
    let view = View::of(rows);
    let each = view.slice::<T>()?.par_chunks_exact(len.max(1)).map(|row| {
        let mean = lane_sum([row, row], |x, _| x) / len as f64;
        let centre = T::from_f64(mean);
        let var = lane_sum([row, row], |x, _| (x - centre) * (x - centre)) / len as f64;
        (centre, T::from_f64(1.0 / (var + eps).sqrt()))
    });
    let (mean, inverse): (Vec<T>, Vec<T>) = each.unzip();
    Ok([Tensor::from_vec(mean, (n, 1), rows.device())?, Tensor::from_vec(inverse, (n, 1), rows.device())?])
}

/// The sum over two rows of what their values give.
pub(super) fn lane_sum<T: Float>([a, b]: [&[T]; 2], of: impl Fn(T, T) -> T) -> f64 {
    let blocks = a.chunks(BLOCK * LANES).zip(b.chunks(BLOCK * LANES)).map(|(a, b)| {
        let mut lanes = [T::default(); LANES];
        vectorised(|| {
            let ((rows_a, last_a), (rows_b, last_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
            for (a, b) in rows_a.iter().zip(rows_b) {
                lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (&a, &b))| *lane += of(a, b));
            }
            lanes.iter_mut().zip(last_a.iter().zip(last_b)).for_each(|(lane, (&a, &b))| *lane += of(a, b));
        });
        lanes.iter().map(|lane| lane.to_f64()).sum::<f64>()
    });
    blocks.sum()
}

/// As `by_image::sums`, of contiguous operands.
pub(in crate::nn) fn sums<T: Float>(g: &Tensor, x: &Tensor, centre: &Tensor) -> Result<[Tensor; 2]> {
    let ((n, c), device) = (centre.dims2()?, x.device());
    let (vg, vx, vc) = (View::of(g), View::of(x), View::of(centre));
    let (g, x, centre) = (vg.slice::<T>()?, vx.slice::<T>()?, vc.slice::<T>()?);
    let image = x.len() / n;
    let images = g.par_chunks_exact(image).zip(x.par_chunks_exact(image)).zip(centre.par_chunks_exact(c));
    let each: Vec<Vec<f64>> = images.map(|((g, x), centre)| image_sums(g, x, centre)).collect();
    let joined = |of: std::ops::Range<usize>| {
        let values: Vec<T> = each.iter().flat_map(|sums| &sums[of.clone()]).map(|&sum| T::from_f64(sum)).collect();
        Tensor::from_vec(values, (n, c), device)
    };
    Ok([joined(0..c)?, joined(c..2 * c)?])
}

fn image_sums<T: Float>(g: &[T], x: &[T], centre: &[T]) -> Vec<f64> {
    let c = centre.len();
    let mut totals = vec![0.0; 2 * c];
    let mut part = vec![T::default(); 2 * c];
    for (g, x) in g.chunks(BLOCK * c).zip(x.chunks(BLOCK * c)) {
        part.fill(T::default());
        vectorised(|| {
            let (of_g, of_gx) = part.split_at_mut(c);
            for (g, x) in g.chunks_exact(c).zip(x.chunks_exact(c)) {
                let sums = of_g.iter_mut().zip(of_gx.iter_mut());
                for ((&g, (&x, &centre)), (of_g, of_gx)) in g.iter().zip(x.iter().zip(centre)).zip(sums) {
                    *of_g += g;
                    *of_gx += g * (x - centre);
                }
            }
        });
        totals.iter_mut().zip(&part).for_each(|(total, part)| *total += part.to_f64());
    }
    totals
}

/// As `by_image::combine`, of contiguous maps, with its factors as views of `[n, c]`.
pub(in crate::nn) fn combine<T: Float>(
    x: &Tensor,
    factors: &[Tensor; 3],
    terms: &[[Tensor; 2]],
    act: Activation,
) -> Result<Tensor> {
    let (n, c) = factors[0].dims2()?;
    let all = [x].into_iter().chain(factors).chain(terms.iter().flatten());
    let all = all.map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let all: Vec<View<'_>> = all.iter().map(View::of).collect();
    let slices = all.iter().map(View::slice::<T>).collect::<Result<Vec<_>>>()?;
    let [x_values, centre, scale, shift, terms @ ..] = &slices[..] else { bail!("combination by image: no operands") };
    let image = x_values.len() / n;
    let y = filled(x_values.len(), |y| {
        let few = (TASK / image).max(1);
        y.par_chunks_exact_mut(image).enumerate().with_min_len(few).for_each(|(index, y)| {
            let (values, numbers) = (index * image..(index + 1) * image, index * c..(index + 1) * c);
            let (x, centre) = (&x_values[values.clone()], &centre[numbers.clone()]);
            let (scale, shift) = (&scale[numbers.clone()], &shift[numbers.clone()]);
            vectorised(|| {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    let numbers = centre.iter().zip(scale).zip(shift);
                    for ((y, &x), ((&centre, &scale), &shift)) in y.iter_mut().zip(x).zip(numbers) {
                        y.put((x - centre) * scale + shift);
                    }
                }
                // SAFETY: rows of c values make up all of it, and were just written.
                let y = unsafe { written(y) };
                for term in terms.chunks_exact(2) {
                    let (g, factor) = (&term[0][values.clone()], &term[1][numbers.clone()]);
                    for (y, g) in y.chunks_exact_mut(c).zip(g.chunks_exact(c)) {
                        for ((y, &g), &factor) in y.iter_mut().zip(g).zip(factor) {
                            *y += g * factor;
                        }
                    }
                }
                activate(act, y);
            });
        });
    });
    Tensor::from_vec(y, x.shape(), x.device())
}

/// As `by_image::plus_shares`, of contiguous operands.
pub(in crate::nn) fn plus_shares<T: Float>(g: &Tensor, x: &Tensor, shares: &Tensor) -> Result<Tensor> {
    let (vg, vx, vs) = (View::of(g), View::of(x), View::of(shares));
    let (g, x_values, shares) = (vg.slice::<T>()?, vx.slice::<T>()?, vs.slice::<T>()?);
    let image = x_values.len() / shares.len().max(1);
    let y = filled(x_values.len(), |y| {
        let few = (TASK / image).max(1);
        let images =
            y.par_chunks_exact_mut(image).zip(g.par_chunks_exact(image).zip(x_values.par_chunks_exact(image))).zip(shares);
        images.with_min_len(few).for_each(|((y, (g, x)), &share)| {
            vectorised(|| y.iter_mut().zip(g).zip(x).for_each(|((y, &g), &x)| y.put(x.mul_add(share, g))));
        });
    });
    Tensor::from_vec(y, x.shape(), x.device())
}
