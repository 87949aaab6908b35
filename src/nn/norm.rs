//! Batch normalisation, with the activation behind it, and layer normalisation.
//!
//! In ordinary tensor operations batch normalisation is some fifteen passes over memory, forward and backward. On the CPU
//! it is therefore one operation of our own, three passes forward and two backward, parallel over channels; a channel's
//! sums have a fixed order, so results do not depend on the number of threads. Other devices use the ordinary operations.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

/// Added to every variance.
pub const EPS: f64 = 1e-5;
/// The weight of the newest batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// `max(x, slope · x)`: LeakyReLU, ReLU with slope 0, nothing with slope 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rectifier {
    /// The factor on negative values, 0 to 1.
    pub slope: f64,
}

impl Rectifier {
    /// No activation.
    pub const NONE: Self = Self { slope: 1.0 };

    /// Applies it.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::NONE => Ok(x.clone()),
            _ if x.device().is_cpu() => x.contiguous()?.apply_op1(self),
            _ => (x.relu()? * (1.0 - self.slope))? + (x * self.slope)?,
        }
    }
}

/// What batch normalisation makes of `x`, and the statistics of the batch by channel, each `[c]`, off the tape.
pub struct BatchNormalised {
    /// `act((x − mean) / √(var + ε) · weight + bias)`, shaped as `x`.
    pub y: Tensor,
    /// Mean.
    pub mean: Tensor,
    /// Unbiased variance: what the running statistics collect.
    pub unbiased_var: Tensor,
}

/// Batch normalisation with the batch's own statistics (arXiv 1502.03167) and a rectifier behind it; `x` is `[n, c]` or
/// `[n, c, h, w]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn batch_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, act: Rectifier) -> Result<BatchNormalised> {
    let count = (x.elem_count() / weight.elem_count().max(1)) as f64;
    // A batch of one value has no variance: 0 / max(0, 1) rather than 0 / 0.
    let unbiased = count / (count - 1.0).max(1.0);
    if x.device().is_cpu() {
        let statistics = Arc::new(OnceLock::new());
        let op = BatchNormOp { act, statistics: Arc::clone(&statistics) };
        let y = x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?;
        let Some(Statistics { mean, var }) = statistics.get() else { bail!("batch_norm: no statistics") };
        let tensor = |values: &[f64]| Tensor::new(values, x.device())?.to_dtype(x.dtype());
        let unbiased_var = (tensor(var)? * unbiased)?;
        return Ok(BatchNormalised { y, mean: tensor(mean)?, unbiased_var });
    }
    let flat = by_channel(x)?;
    let c = flat.dim(1)?;
    let mean = (flat.sum(D::Minus1)?.sum_keepdim(0)? / count)?.reshape((1, c, 1))?;
    let centred = flat.broadcast_sub(&mean)?;
    let var = (centred.sqr()?.sum(D::Minus1)?.sum_keepdim(0)? / count)?.reshape((1, c, 1))?;
    let scale = weight.reshape((1, c, 1))?.div(&(&var + EPS)?.sqrt()?)?;
    let y = centred.broadcast_mul(&scale)?.broadcast_add(&bias.reshape((1, c, 1))?)?;
    Ok(BatchNormalised {
        y: act.apply(&y.reshape(x.shape())?)?,
        mean: mean.detach().flatten_all()?,
        unbiased_var: (var.detach().flatten_all()? * unbiased)?,
    })
}

/// Batch normalisation with given statistics, each `[c]`: what a generator does outside training.
///
/// # Errors
/// When the shapes do not fit.
pub fn batch_norm_fixed(x: &Tensor, weight: &Tensor, bias: &Tensor, mean: &Tensor, var: &Tensor) -> Result<Tensor> {
    let flat = by_channel(x)?;
    let c = flat.dim(1)?;
    let scale = weight.div(&(var + EPS)?.sqrt()?)?;
    let shift = bias.sub(&mean.mul(&scale)?)?;
    flat.broadcast_mul(&scale.reshape((1, c, 1))?)?.broadcast_add(&shift.reshape((1, c, 1))?)?.reshape(x.shape())
}

/// Layer normalisation over all but the batch, with gain and offset by channel (arXiv 1607.06450; the form of the WGAN-GP
/// authors' critics, PyTorch's `GroupNorm(1, c)`).
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n, c) = (x.dim(0)?, x.dim(1)?);
    let flat = x.reshape((n, ()))?;
    let centred = flat.broadcast_sub(&flat.mean_keepdim(1)?)?;
    let var = centred.sqr()?.mean_keepdim(1)?;
    let normal = centred.broadcast_div(&(var + EPS)?.sqrt()?)?.reshape((n, c, ()))?;
    normal.broadcast_mul(&weight.reshape((1, c, 1))?)?.broadcast_add(&bias.reshape((1, c, 1))?)?.reshape(x.shape())
}

fn by_channel(x: &Tensor) -> Result<Tensor> {
    x.reshape((x.dim(0)?, x.dim(1)?, ()))
}

/// Mean and biased variance by channel.
struct Statistics {
    mean: Vec<f64>,
    var: Vec<f64>,
}

/// Forward of the fused operation. It leaves its statistics here for the backward pass and the running averages.
struct BatchNormOp {
    act: Rectifier,
    statistics: Arc<OnceLock<Statistics>>,
}

/// Gradient to `x`, from `x`, `y` and `dy`; leaves those to weight and bias in `sums`.
struct BatchNormGrad {
    act: Rectifier,
    statistics: Arc<OnceLock<Statistics>>,
    weight: Vec<f64>,
    /// By channel: Σ dz · x̂ and Σ dz, where dz is the gradient before the rectifier.
    sums: OnceLock<Vec<[f64; 2]>>,
}

/// f32 and f64, with the arithmetic the loops below need.
trait Float: WithDType + Default {
    /// Sum of a function of up to two slices, in lanes: several times the speed of a running sum, and more exact.
    fn lane_sum(len: usize, term: impl Fn(usize) -> Self) -> f64 {
        const LANES: usize = 16;
        let mut lanes = [Self::default(); LANES];
        for start in (0..len - len % LANES).step_by(LANES) {
            for (lane, sum) in lanes.iter_mut().enumerate() {
                *sum += term(start + lane);
            }
        }
        let rest: f64 = (len - len % LANES..len).map(|at| term(at).to_f64()).sum();
        lanes.iter().map(|lane| lane.to_f64()).sum::<f64>() + rest
    }
}
impl Float for f32 {}
impl Float for f64 {}

/// `[n, c, area]`: where the planes of one channel lie.
#[derive(Clone, Copy)]
struct Planes {
    n: usize,
    c: usize,
    area: usize,
}

impl Planes {
    fn of(layout: &Layout) -> Result<Self> {
        match *layout.dims() {
            _ if layout.shape().elem_count() == 0 => bail!("batch_norm: no values in {:?}", layout.dims()),
            [n, c] => Ok(Self { n, c, area: 1 }),
            [n, c, h, w] => Ok(Self { n, c, area: h * w }),
            _ => bail!("batch_norm: expected [n, c] or [n, c, h, w], got {:?}", layout.dims()),
        }
    }

    fn count(self) -> f64 {
        (self.n * self.area) as f64
    }

    /// Applies `each` to the planes of every channel in parallel: channel, and the offset of each of its planes.
    fn map<R: Send>(self, each: impl Fn(usize, &mut dyn Iterator<Item = usize>) -> R + Sync) -> Vec<R> {
        let offsets = |channel| (0..self.n).map(move |image| (image * self.c + channel) * self.area);
        (0..self.c).into_par_iter().map(|channel| each(channel, &mut offsets(channel))).collect()
    }
}

fn statistics<T: Float>(x: &[T], planes: Planes) -> Statistics {
    let area = planes.area;
    let by_channel = planes.map(|_, offsets| {
        let offsets: Vec<usize> = offsets.collect();
        let total: f64 = offsets.iter().map(|&at| T::lane_sum(area, |i| x[at..at + area][i])).sum();
        let mean = total / planes.count();
        let centre = T::from_f64(mean);
        let squares = |at: usize| {
            let plane = &x[at..at + area];
            T::lane_sum(area, |i| (plane[i] - centre) * (plane[i] - centre))
        };
        (mean, offsets.iter().map(|&at| squares(at)).sum::<f64>() / planes.count())
    });
    let (mean, var) = by_channel.into_iter().unzip();
    Statistics { mean, var }
}

/// Fills a tensor plane by plane: `line(plane index, out)` for `n · c` planes in parallel.
fn by_plane<T: Float>(planes: Planes, line: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut out = vec![T::default(); planes.n * planes.c * planes.area];
    let together = TASK.div_ceil(planes.area.max(1));
    out.par_chunks_mut(together * planes.area).enumerate().for_each(|(task, out)| {
        for (index, plane) in out.chunks_mut(planes.area).enumerate() {
            line(task * together + index, plane);
        }
    });
    out
}

fn forward<T: Float>(x: &[T], weight: &[T], bias: &[T], planes: Planes, stats: &Statistics, act: Rectifier) -> Vec<T> {
    let slope = T::from_f64(act.slope);
    by_plane(planes, |index, out| {
        let channel = index % planes.c;
        let scale = weight[channel].to_f64() / (stats.var[channel] + EPS).sqrt();
        // (x − mean) first: a shift of −mean · scale would cancel badly.
        let (mean, scale, shift) = (T::from_f64(stats.mean[channel]), T::from_f64(scale), bias[channel]);
        for (y, &x) in out.iter_mut().zip(&x[index * planes.area..]) {
            let z = (x - mean) * scale + shift;
            *y = if z > T::default() { z } else { z * slope };
        }
    })
}

/// The gradient before the rectifier: `y > 0` exactly where its argument is.
fn before<T: Float>(y: T, dy: T, slope: T) -> T {
    if y > T::default() { dy } else { dy * slope }
}

fn grad_sums<T: Float>(x: &[T], y: &[T], dy: &[T], planes: Planes, stats: &Statistics, act: Rectifier) -> Vec<[f64; 2]> {
    let (area, slope) = (planes.area, T::from_f64(act.slope));
    planes.map(|channel, offsets| {
        let (mean, inverse) = (T::from_f64(stats.mean[channel]), 1.0 / (stats.var[channel] + EPS).sqrt());
        let mut sums = [0.0; 2];
        for at in offsets {
            let (x, y, dy) = (&x[at..at + area], &y[at..at + area], &dy[at..at + area]);
            sums[0] += T::lane_sum(area, |i| before(y[i], dy[i], slope) * (x[i] - mean)) * inverse;
            sums[1] += T::lane_sum(area, |i| before(y[i], dy[i], slope));
        }
        sums
    })
}

/// `dx = γ/σ · (dz − mean(dz) − x̂ · mean(dz · x̂))` (arXiv 1502.03167, section 3).
fn input_grad<T: Float>(grad: &BatchNormGrad, x: &[T], y: &[T], dy: &[T], planes: Planes, stats: &Statistics) -> Vec<T> {
    let sums = grad.sums.get_or_init(|| grad_sums(x, y, dy, planes, stats, grad.act));
    let slope = T::from_f64(grad.act.slope);
    by_plane(planes, |index, out| {
        let (channel, at) = (index % planes.c, index * planes.area);
        let inverse = 1.0 / (stats.var[channel] + EPS).sqrt();
        let [dz_x, dz] = sums[channel].map(|sum| sum / planes.count());
        let (mean, mean_dz) = (T::from_f64(stats.mean[channel]), T::from_f64(dz));
        let (per_x, scale) = (T::from_f64(dz_x * inverse), T::from_f64(grad.weight[channel] * inverse));
        let inputs = x[at..].iter().zip(&y[at..]).zip(&dy[at..]);
        for (dx, ((&x, &y), &dy)) in out.iter_mut().zip(inputs) {
            *dx = scale * (before(y, dy, slope) - mean_dz - (x - mean) * per_x);
        }
    })
}

/// The values of a contiguous tensor.
fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

impl BatchNormOp {
    fn run<T: Float>(
        &self,
        x: (&CpuStorage, &Layout),
        w: (&CpuStorage, &Layout),
        b: (&CpuStorage, &Layout),
    ) -> Result<CpuStorage> {
        let planes = Planes::of(x.1)?;
        let (values, weight, bias) = (slice::<T>(x.0, x.1)?, slice::<T>(w.0, w.1)?, slice::<T>(b.0, b.1)?);
        if weight.len() != planes.c || bias.len() != planes.c {
            bail!("batch_norm: {} channels, but {} weights and {} biases", planes.c, weight.len(), bias.len());
        }
        let stats = self.statistics.get_or_init(|| statistics(values, planes));
        Ok(T::to_cpu_storage_owned(forward(values, weight, bias, planes, stats, self.act)))
    }
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => self.run::<f32>((x, lx), (w, lw), (b, lb))?,
            CpuStorage::F64(_) => self.run::<f64>((x, lx), (w, lw), (b, lb))?,
            _ => bail!("batch_norm: expected f32 or f64"),
        };
        Ok((y, lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let weight = w.to_dtype(candle_core::DType::F64)?.to_vec1()?;
        let grad = BatchNormGrad { act: self.act, statistics: Arc::clone(&self.statistics), weight, sums: OnceLock::new() };
        let dx = x.detach().apply_op3_no_bwd(&y.detach(), &dy.contiguous()?, &grad)?;
        let Some(sums) = grad.sums.get() else { bail!("batch_norm: no sums") };
        let tensor = |slot: usize| {
            let values: Vec<f64> = sums.iter().map(|sums| sums[slot]).collect();
            Tensor::new(values, w.device())?.to_dtype(w.dtype())
        };
        let dw = w.track_op().then(|| tensor(0)).transpose()?;
        let db = b.track_op().then(|| tensor(1)).transpose()?;
        Ok((x.track_op().then_some(dx), dw, db))
    }
}

impl CustomOp3 for BatchNormGrad {
    fn name(&self) -> &'static str {
        "batch_norm_grad"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
        dy: &CpuStorage,
        ldy: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let planes = Planes::of(lx)?;
        let Some(stats) = self.statistics.get() else { bail!("batch_norm: backward before forward") };
        fn run<T: Float>(
            grad: &BatchNormGrad,
            stats: &Statistics,
            planes: Planes,
            [x, y, dy]: [(&CpuStorage, &Layout); 3],
        ) -> Result<CpuStorage> {
            let (x, y, dy) = (slice::<T>(x.0, x.1)?, slice::<T>(y.0, y.1)?, slice::<T>(dy.0, dy.1)?);
            Ok(T::to_cpu_storage_owned(input_grad(grad, x, y, dy, planes, stats)))
        }
        let inputs = [(x, lx), (y, ly), (dy, ldy)];
        let dx = match x {
            CpuStorage::F32(_) => run::<f32>(self, stats, planes, inputs)?,
            CpuStorage::F64(_) => run::<f64>(self, stats, planes, inputs)?,
            _ => bail!("batch_norm: expected f32 or f64"),
        };
        Ok((dx, lx.shape().clone()))
    }
}

/// Values a task of the elementwise loops handles.
const TASK: usize = 1 << 14;

fn rectify<T: Float>(x: &[T], slope: f64) -> Vec<T> {
    let slope = T::from_f64(slope);
    let mut y = vec![T::default(); x.len()];
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = if x > T::default() { x } else { x * slope };
        }
    });
    y
}

impl CustomOp1 for Rectifier {
    fn name(&self) -> &'static str {
        "rectifier"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => CpuStorage::F32(rectify(slice::<f32>(x, layout)?, self.slope)),
            CpuStorage::F64(_) => CpuStorage::F64(rectify(slice::<f64>(x, layout)?, self.slope)),
            _ => bail!("rectifier: expected f32 or f64"),
        };
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.detach().apply_op2_no_bwd(&dy.contiguous()?, &RectifierGrad(*self))?))
    }
}

struct RectifierGrad(Rectifier);

fn rectify_grad<T: Float>(y: &[T], dy: &[T], slope: f64) -> Vec<T> {
    let slope = T::from_f64(slope);
    let mut dx = vec![T::default(); dy.len()];
    dx.par_chunks_mut(TASK).zip(y.par_chunks(TASK).zip(dy.par_chunks(TASK))).for_each(|(dx, (y, dy))| {
        for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = before(y, dy, slope);
        }
    });
    dx
}

impl candle_core::CustomOp2 for RectifierGrad {
    fn name(&self) -> &'static str {
        "rectifier_grad"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, dy: &CpuStorage, ldy: &Layout) -> Result<(CpuStorage, Shape)> {
        let slope = self.0.slope;
        let dx = match y {
            CpuStorage::F32(_) => CpuStorage::F32(rectify_grad(slice::<f32>(y, ly)?, slice(dy, ldy)?, slope)),
            CpuStorage::F64(_) => CpuStorage::F64(rectify_grad(slice::<f64>(y, ly)?, slice(dy, ldy)?, slope)),
            _ => bail!("rectifier: expected f32 or f64"),
        };
        Ok((dx, ly.shape().clone()))
    }
}
