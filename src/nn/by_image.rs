//! Passes over `[n, …, c]` in which every image and channel has numbers of its own: what layer normalisation is made of, and
//! the second derivatives of both norms. On the CPU each is one pass over memory, image by image, in an order that does not
//! depend on the number of threads; elsewhere they are candle's operations.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::activation::Activation;
use super::cpu::{Float, TASK, View, filled, for_float, vectorised};

/// Positions that are summed up before f64 takes over.
const BLOCK: usize = 64;
/// Sums that a row of values is added into side by side.
const LANES: usize = 16;

/// Mean and `1 / √(var + eps)` of each image, `[n, 1]` both.
pub(super) fn statistics(x: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let rows = x.contiguous()?.reshape((x.dim(0)?, ()))?;
    if x.device().is_cpu() {
        return for_float!(x.dtype(), T => statistics_cpu::<T>(&rows, eps));
    }
    let mean = rows.mean_keepdim(1)?;
    let inverse = (rows.broadcast_sub(&mean)?.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?.recip()?;
    Ok([mean, inverse])
}

fn statistics_cpu<T: Float>(rows: &Tensor, eps: f64) -> Result<[Tensor; 2]> {
    let (n, len) = rows.dims2()?;
    let view = View::of(rows);
    let each = view.slice::<T>()?.par_chunks_exact(len.max(1)).map(|row| {
        let mean = lane_sum(row, |x| x) / len as f64;
        let centre = T::from_f64(mean);
        let var = lane_sum(row, |x| (x - centre) * (x - centre)) / len as f64;
        (centre, T::from_f64(1.0 / (var + eps).sqrt()))
    });
    let (mean, inverse): (Vec<T>, Vec<T>) = each.unzip();
    Ok([Tensor::from_vec(mean, (n, 1), rows.device())?, Tensor::from_vec(inverse, (n, 1), rows.device())?])
}

fn lane_sum<T: Float>(values: &[T], of: impl Fn(T) -> T) -> f64 {
    let blocks = values.chunks(BLOCK * LANES).map(|block| {
        let mut lanes = [T::default(); LANES];
        vectorised(|| {
            let mut rows = block.chunks_exact(LANES);
            for row in &mut rows {
                lanes.iter_mut().zip(row).for_each(|(lane, &x)| *lane += of(x));
            }
            lanes.iter_mut().zip(rows.remainder()).for_each(|(lane, &x)| *lane += of(x));
        });
        lanes.iter().map(|lane| lane.to_f64()).sum::<f64>()
    });
    blocks.sum()
}

/// `Σ g` and `Σ g · (x − centre)` over the positions of each image, `[n, c]` both; `centre` is anything that broadcasts to
/// that.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub(super) fn sums(g: &Tensor, x: &Tensor, centre: &Tensor) -> Result<[Tensor; 2]> {
    let [n, c] = sizes(x)?;
    if g.elem_count() != x.elem_count() {
        bail!("sums by image: {:?} for {:?}", g.dims(), x.dims());
    }
    let centre = centre.broadcast_as((n, c))?.contiguous()?;
    if x.device().is_cpu() {
        return for_float!(x.dtype(), T => sums_cpu::<T>(&g.contiguous()?, &x.contiguous()?, &centre));
    }
    let (g, x) = (g.reshape((n, (), c))?, x.reshape((n, (), c))?);
    let centred = x.broadcast_sub(&centre.unsqueeze(1)?)?;
    Ok([g.sum(1)?, (g * centred)?.sum(1)?])
}

fn sums_cpu<T: Float>(g: &Tensor, x: &Tensor, centre: &Tensor) -> Result<[Tensor; 2]> {
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

/// `scale · (x − centre) + shift`; all but `x` are anything that broadcasts to `[n, c]`.
pub(super) struct Line<'a> {
    pub x: &'a Tensor,
    pub centre: &'a Tensor,
    pub scale: &'a Tensor,
    pub shift: &'a Tensor,
}

/// `act(line + Σ factor · g)`, shaped as `x`. The terms are (g, factor): `g` has as many values as `x`, `factor` broadcasts to
/// `[n, c]`.
///
/// # Errors
/// When the shapes do not fit, or the type is neither f32 nor f64.
pub(super) fn combine(line: &Line<'_>, terms: &[(&Tensor, Tensor)], act: Activation) -> Result<Tensor> {
    let x = line.x;
    let [n, c] = sizes(x)?;
    if let Some((g, _)) = terms.iter().find(|(g, _)| g.elem_count() != x.elem_count()) {
        bail!("combination by image: {:?} and {:?}", g.dims(), x.dims());
    }
    let each = |factor: &Tensor| factor.broadcast_as((n, c))?.contiguous();
    let factors = [each(line.centre)?, each(line.scale)?, each(line.shift)?];
    let terms = terms.iter().map(|(g, factor)| Ok([g.contiguous()?, each(factor)?])).collect::<Result<Vec<_>>>()?;
    if x.device().is_cpu() {
        return for_float!(x.dtype(), T => combine_cpu::<T>(&x.contiguous()?, &factors, &terms, act));
    }
    let along = |factor: &Tensor| factor.unsqueeze(1);
    let [centre, scale, shift] = &factors;
    let centred = x.reshape((n, (), c))?.broadcast_sub(&along(centre)?)?;
    let mut sum = centred.broadcast_mul(&along(scale)?)?.broadcast_add(&along(shift)?)?;
    for [g, factor] in &terms {
        sum = (sum + g.reshape((n, (), c))?.broadcast_mul(&along(factor)?)?)?;
    }
    let y = sum.reshape(x.shape())?;
    act.apply(&y)?;
    Ok(y)
}

fn combine_cpu<T: Float>(x: &Tensor, factors: &[Tensor; 3], terms: &[[Tensor; 2]], act: Activation) -> Result<Tensor> {
    let (n, c) = factors[0].dims2()?;
    let all: Vec<View<'_>> = [x].into_iter().chain(factors).chain(terms.iter().flatten()).map(View::of).collect();
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
                        *y = (x - centre) * scale + shift;
                    }
                }
                for term in terms.chunks_exact(2) {
                    let (g, factor) = (&term[0][values.clone()], &term[1][numbers.clone()]);
                    for (y, g) in y.chunks_exact_mut(c).zip(g.chunks_exact(c)) {
                        for ((y, &g), &factor) in y.iter_mut().zip(g).zip(factor) {
                            *y += g * factor;
                        }
                    }
                }
                act.apply_values(y);
            });
        });
    });
    Tensor::from_vec(y, x.shape(), x.device())
}

/// Images and channels.
fn sizes(x: &Tensor) -> Result<[usize; 2]> {
    match x.elem_count() {
        0 => bail!("expected values as [n, c] or [n, h, w, c], got {:?}", x.dims()),
        _ => Ok([x.dim(0)?, x.dim(D::Minus1)?]),
    }
}
