//! Convolution, its input gradient and its weight gradient: a set of three that is closed under differentiation.
//!
//! With `y = conv(x, w)`, the gradient to `x` is [`conv_input_grad`]`(dy, w)` — which is also the transposed convolution of
//! `dy` — and the gradient to `w` is `conv_weight_grad(x, dy)`. Both are linear in each argument, so differentiating them
//! gives members of the set again. Square kernels, strides and paddings; f32 and f64.
//!
//! On the CPU all three are im2col or col2im around gemm, parallel over groups of images. An image is first sorted into
//! stride × stride phase planes; then every row of the im2col matrix is one straight copy, whatever the stride. Where the
//! map is small, a group joins several images, because a gemm of 16 columns wastes the machine. Group boundaries and the
//! order of every sum depend on shapes alone, so results do not depend on the number of threads. On other devices candle's
//! own convolutions do the work.

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail};
use gemm::Parallelism;
use rayon::prelude::*;

/// Where a square kernel lands on its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between positions.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: usize,
}

impl Window {
    /// The output size of a convolution of an input of `size`; 0 where the kernel does not fit, or the stride is 0.
    pub fn output(&self, size: usize) -> usize {
        let room = (size + 2 * self.padding).checked_sub(self.kernel);
        room.and_then(|room| room.checked_div(self.stride)).map_or(0, |steps| steps + 1)
    }
}

/// `[n, ci, h, w]` with kernels `[co, ci, k, k]` → `[n, co, h', w']`. Differentiable in both.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv(x: &Tensor, w: &Tensor, window: Window) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.conv2d(w, window.padding, window.stride, 1, 1);
    }
    x.contiguous()?.apply_op2(&w.contiguous()?, Conv(window))
}

/// The gradient of [`conv`] to an input of `size` = (h, w), given the output's gradient `[n, co, h', w']`: the transposed
/// convolution, `[n, ci, h, w]`. Differentiable in both arguments.
///
/// # Errors
/// When the shapes do not fit or the type is neither f32 nor f64.
pub fn conv_input_grad(dy: &Tensor, w: &Tensor, window: Window, size: (usize, usize)) -> Result<Tensor> {
    if !dy.device().is_cpu() {
        let reached = (dy.dim(2)? - 1) * window.stride + window.kernel;
        let output_padding = (size.0 + 2 * window.padding).saturating_sub(reached);
        return dy.conv_transpose2d(w, window.padding, output_padding, window.stride, 1);
    }
    dy.contiguous()?.apply_op2(&w.contiguous()?, ConvInputGrad { window, size })
}

/// The gradient of [`conv`] to its kernels, given input and output gradient. Not on the tape: only backward passes need it.
fn conv_weight_grad(x: &Tensor, dy: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op2_no_bwd(&dy.contiguous()?, &ConvWeightGrad(window))
}

struct Conv(Window);

struct ConvInputGrad {
    window: Window,
    size: (usize, usize),
}

struct ConvWeightGrad(Window);

/// What all three kernels need to know: `x` is `[n, ci, h, w]`, `y` is `[n, co, out_h, out_w]`.
#[derive(Clone, Copy)]
struct Plan {
    window: Window,
    n: usize,
    ci: usize,
    h: usize,
    w: usize,
    co: usize,
    out_h: usize,
    out_w: usize,
}

/// Values of a group's columns: 2 MB in f32, about what a core's second cache holds.
const CACHED_VALUES: usize = 1 << 19;
/// A gemm with fewer columns wastes the machine.
const MIN_COLUMNS: usize = 128;
/// A gemm with more columns gains nothing.
const MAX_COLUMNS: usize = 1024;
/// The batch is cut into at least this many groups, if it has so many images: work for as many cores.
const MIN_GROUPS: usize = 8;

impl Plan {
    fn new(window: Window, x: [usize; 4], y: [usize; 4], w: (usize, usize, usize, usize)) -> Result<Self> {
        let [n, ci, h, width] = x;
        let [m, co, out_h, out_w] = y;
        let (k, stride) = (window.kernel, window.stride);
        let empty = x.contains(&0) || y.contains(&0) || k == 0 || stride == 0;
        if empty || n != m || w != (co, ci, k, k) || window.output(h) != out_h || window.output(width) != out_w {
            bail!("convolution: kernels {w:?} with {window:?} do not map {x:?} to {y:?}");
        }
        Ok(Self { window, n, ci, h, w: width, co, out_h, out_w })
    }

    /// Elements of one input image.
    fn x_len(&self) -> usize {
        self.ci * self.h * self.w
    }

    /// Output positions of one image.
    fn positions(&self) -> usize {
        self.out_h * self.out_w
    }

    /// Elements of one output image.
    fn y_len(&self) -> usize {
        self.co * self.positions()
    }

    /// Rows of the im2col matrix.
    fn rows(&self) -> usize {
        self.ci * self.window.kernel * self.window.kernel
    }

    /// Whether the kernel covers the whole input at its one position: a convolution that is a plain matrix product of
    /// `x [n, rows]` and `w [co, rows]`, as where a DCGAN's maps begin and end.
    fn is_full(&self) -> bool {
        self.window.padding == 0 && self.positions() == 1 && self.h == self.window.kernel && self.w == self.window.kernel
    }

    /// Phase planes are this much longer and wider than the output.
    fn overhang(&self) -> usize {
        (self.window.kernel - 1) / self.window.stride
    }

    /// Length of a row of a phase plane, and of the rows that columns come in: behind every row of outputs are
    /// [`Self::overhang`] columns that mean nothing. They are the price of copying whole maps instead of rows of a few values.
    fn pitch(&self) -> usize {
        self.out_w + self.overhang()
    }

    /// Columns of one image.
    fn columns(&self) -> usize {
        self.out_h * self.pitch()
    }

    /// Elements of a phase plane; the last tap reads a little beyond its last row.
    fn plane_len(&self) -> usize {
        (self.out_h + self.overhang()) * self.pitch() + self.overhang()
    }

    /// Elements of all phase planes of an image.
    fn planes_len(&self) -> usize {
        self.ci * self.window.stride * self.window.stride * self.plane_len()
    }

    /// Images a group: what fits the cache, but at least [`MIN_COLUMNS`], and few enough to leave [`MIN_GROUPS`] groups.
    fn group(&self) -> usize {
        let columns = (CACHED_VALUES / self.rows()).clamp(MIN_COLUMNS, MAX_COLUMNS);
        columns.div_ceil(self.columns()).clamp(1, self.n.div_ceil(MIN_GROUPS).max(1))
    }

    /// Calls `each(range in x, step is the stride; start in the planes)` for every run of an image's values that lie side by
    /// side in a phase plane. Plane (py, px) of a channel holds the padded input's rows py, py + stride, … and columns px, …
    fn for_each_run(&self, mut each: impl FnMut(std::ops::Range<usize>, usize)) {
        let Window { stride, padding, .. } = self.window;
        for channel in 0..self.ci {
            for y in 0..self.h {
                let (py, row) = ((y + padding) % stride, (y + padding) / stride);
                if row >= self.out_h + self.overhang() {
                    continue; // no tap reaches this far
                }
                for px in 0..stride {
                    let first = (px + stride - padding % stride) % stride;
                    let column = (first + padding) / stride;
                    let count = self.w.saturating_sub(first).div_ceil(stride).min(self.pitch().saturating_sub(column));
                    if count > 0 {
                        let from = (channel * self.h + y) * self.w + first;
                        let plane = (channel * stride + py) * stride + px;
                        each(from..from + (count - 1) * stride + 1, plane * self.plane_len() + row * self.pitch() + column);
                    }
                }
            }
        }
    }

    /// Sorts the values of one image into its phase planes; what no value reaches is padding.
    fn split<T: Copy + Default>(&self, x: &[T], planes: &mut [T]) {
        let stride = self.window.stride;
        planes.fill(T::default());
        self.for_each_run(|from, to| match stride {
            1 => planes[to..to + from.len()].copy_from_slice(&x[from]),
            _ => planes[to..].iter_mut().zip(x[from].iter().step_by(stride)).for_each(|(to, from)| *to = *from),
        });
    }

    /// The inverse of [`Self::split`].
    fn merge<T: Copy>(&self, planes: &[T], x: &mut [T]) {
        let stride = self.window.stride;
        self.for_each_run(|to, from| match stride {
            1 => x[to.clone()].copy_from_slice(&planes[from..from + to.len()]),
            _ => x[to].iter_mut().step_by(stride).zip(&planes[from..]).for_each(|(to, from)| *to = *from),
        });
    }

    /// Where in the planes the columns of row `row` = (channel, ky, kx) start.
    fn tap(&self, row: usize) -> usize {
        let (k, stride) = (self.window.kernel, self.window.stride);
        let (channel, ky, kx) = (row / (k * k), row / k % k, row % k);
        let plane = (channel * stride + ky % stride) * stride + kx % stride;
        plane * self.plane_len() + ky / stride * self.pitch() + kx / stride
    }

    /// Writes the columns of one image into `columns`, whose rows are `row_len` long, from column `at` on.
    fn im2col<T: Copy>(&self, planes: &[T], columns: &mut [T], row_len: usize, at: usize) {
        for row in 0..self.rows() {
            let from = self.tap(row);
            columns[row * row_len + at..][..self.columns()].copy_from_slice(&planes[from..from + self.columns()]);
        }
    }

    /// The transpose of [`Self::im2col`]: adds the columns of one image onto its planes.
    fn col2im<T: Copy + std::ops::AddAssign>(&self, columns: &[T], row_len: usize, at: usize, planes: &mut [T]) {
        for row in 0..self.rows() {
            let to = self.tap(row);
            let columns = &columns[row * row_len + at..][..self.columns()];
            planes[to..to + self.columns()].iter_mut().zip(columns).for_each(|(to, from)| *to += *from);
        }
    }

    /// Copies a group's outputs `[g, co, positions]` to `[co, g · columns]`, so that one gemm serves the group; the columns
    /// that mean nothing become 0.
    fn gather<T: Copy + Default>(&self, images: &[T], joined: &mut [T]) {
        let row_len = joined.len() / self.co;
        for (line, (g, c, oy)) in images.chunks_exact(self.out_w).zip(self.output_rows()) {
            let row = &mut joined[c * row_len + g * self.columns() + oy * self.pitch()..][..self.pitch()];
            row[..self.out_w].copy_from_slice(line);
            row[self.out_w..].fill(T::default());
        }
    }

    /// The inverse of [`Self::gather`].
    fn scatter<T: Copy>(&self, joined: &[T], images: &mut [T]) {
        let row_len = joined.len() / self.co;
        for (line, (g, c, oy)) in images.chunks_exact_mut(self.out_w).zip(self.output_rows()) {
            line.copy_from_slice(&joined[c * row_len + g * self.columns() + oy * self.pitch()..][..self.out_w]);
        }
    }

    /// (image, channel, row) of every row of outputs, in memory's order.
    fn output_rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (co, rows) = (self.co, self.out_h);
        (0..).map(move |line| (line / rows / co, line / rows % co, line % rows))
    }
}

/// The element types of the three operations.
trait Float: WithDType + Default + std::ops::AddAssign {}
impl Float for f32 {}
impl Float for f64 {}

/// A matrix in a slice: element (i, j) is at `i · row_step + j · column_step`.
#[derive(Clone, Copy)]
struct Strides {
    row_step: usize,
    column_step: usize,
}

const fn row_major(row_len: usize) -> Strides {
    Strides { row_step: row_len, column_step: 1 }
}

const fn transposed(row_len: usize) -> Strides {
    Strides { row_step: 1, column_step: row_len }
}

/// `c (m × n, row-major) = a (m × k) · b (k × n)`, or `c += a · b`. One thread.
fn matmul<T: Float>([m, k, n]: [usize; 3], a: &[T], sa: Strides, b: &[T], sb: Strides, c: &mut [T], add: bool) {
    let fits = |len: usize, rows: usize, columns: usize, s: Strides| {
        rows == 0 || columns == 0 || (rows - 1) * s.row_step + (columns - 1) * s.column_step < len
    };
    assert!(fits(a.len(), m, k, sa) && fits(b.len(), k, n, sb) && fits(c.len(), m, n, row_major(n)));
    // SAFETY: the assertion keeps every element that gemm touches within its slice; `c` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            add,
            a.as_ptr(),
            sa.column_step as isize,
            sa.row_step as isize,
            b.as_ptr(),
            sb.column_step as isize,
            sb.row_step as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// As [`matmul`], in blocks of rows on all threads.
fn matmul_parallel<T: Float>([m, k, n]: [usize; 3], a: &[T], sa: Strides, b: &[T], sb: Strides) -> Vec<T> {
    let mut c = vec![T::default(); m * n];
    let block = m.div_ceil(MIN_GROUPS).max(1);
    c.par_chunks_mut(block * n).enumerate().for_each(|(index, c)| {
        let rows = c.len() / n;
        matmul([rows, k, n], &a[index * block * sa.row_step..], sa, b, sb, c, false);
    });
    c
}

thread_local! {
    static SCRATCH: RefCell<[Vec<f64>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Lends three buffers that live as long as the thread; their contents are arbitrary.
fn with_scratch<T: Float, R>(sizes: [usize; 3], work: impl FnOnce([&mut [T]; 3]) -> R) -> R {
    /// # Safety
    /// `T` is f32 or f64: no larger, no more aligned, and any bits are a value.
    unsafe fn view<T>(buffer: &mut Vec<f64>, len: usize) -> &mut [T] {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        // SAFETY: the buffer holds at least `len` f64, and so `len` of T.
        unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), len) }
    }
    SCRATCH.with_borrow_mut(|[a, b, c]| {
        // SAFETY: `Float` is implemented for f32 and f64 only.
        work(unsafe { [view(a, sizes[0]), view(b, sizes[1]), view(c, sizes[2])] })
    })
}

fn conv_cpu<T: Float>(plan: &Plan, x: &[T], w: &[T]) -> Vec<T> {
    let rows = plan.rows();
    if plan.is_full() {
        return matmul_parallel([plan.n, rows, plan.co], x, row_major(rows), w, transposed(rows));
    }
    let mut y = vec![T::default(); plan.n * plan.y_len()];
    let group = plan.group();
    y.par_chunks_mut(group * plan.y_len()).zip(x.par_chunks(group * plan.x_len())).for_each(|(y, x)| {
        let row_len = y.len() / plan.y_len() * plan.columns();
        with_scratch([plan.planes_len(), rows * row_len, plan.co * row_len], |[planes, columns, joined]| {
            expand(plan, x, planes, columns);
            matmul([plan.co, rows, row_len], w, row_major(rows), columns, row_major(row_len), joined, false);
            plan.scatter(joined, y);
        });
    });
    y
}

/// The columns of a group of images.
fn expand<T: Float>(plan: &Plan, x: &[T], planes: &mut [T], columns: &mut [T]) {
    let row_len = columns.len() / plan.rows();
    for (g, image) in x.chunks_exact(plan.x_len()).enumerate() {
        plan.split(image, planes);
        plan.im2col(planes, columns, row_len, g * plan.columns());
    }
}

fn input_grad_cpu<T: Float>(plan: &Plan, dy: &[T], w: &[T]) -> Vec<T> {
    let rows = plan.rows();
    if plan.is_full() {
        return matmul_parallel([plan.n, plan.co, rows], dy, row_major(plan.co), w, row_major(rows));
    }
    let mut dx = vec![T::default(); plan.n * plan.x_len()];
    let group = plan.group();
    dx.par_chunks_mut(group * plan.x_len()).zip(dy.par_chunks(group * plan.y_len())).for_each(|(dx, dy)| {
        let row_len = dy.len() / plan.y_len() * plan.columns();
        with_scratch([plan.planes_len(), rows * row_len, plan.co * row_len], |[planes, columns, joined]| {
            plan.gather(dy, joined);
            matmul([rows, plan.co, row_len], w, transposed(rows), joined, row_major(row_len), columns, false);
            for (g, image) in dx.chunks_exact_mut(plan.x_len()).enumerate() {
                planes.fill(T::default());
                plan.col2im(columns, row_len, g * plan.columns(), planes);
                plan.merge(planes, image);
            }
        });
    });
    dx
}

fn weight_grad_cpu<T: Float>(plan: &Plan, x: &[T], dy: &[T]) -> Vec<T> {
    let rows = plan.rows();
    if plan.is_full() {
        return matmul_parallel([plan.co, plan.n, rows], dy, transposed(plan.co), x, row_major(rows));
    }
    let (len, group) = (plan.co * rows, plan.group());
    // Each part sums its share of the groups in order; then the parts are summed in order.
    let part = group * plan.n.div_ceil(group).div_ceil(MIN_GROUPS).max(1);
    let parts: Vec<Vec<T>> = x
        .par_chunks(part * plan.x_len())
        .zip(dy.par_chunks(part * plan.y_len()))
        .map(|(x, dy)| {
            let mut dw = vec![T::default(); len];
            for (index, (x, dy)) in x.chunks(group * plan.x_len()).zip(dy.chunks(group * plan.y_len())).enumerate() {
                let row_len = dy.len() / plan.y_len() * plan.columns();
                with_scratch([plan.planes_len(), rows * row_len, plan.co * row_len], |[planes, columns, joined]| {
                    expand(plan, x, planes, columns);
                    plan.gather(dy, joined);
                    let size = [plan.co, row_len, rows];
                    matmul(size, joined, row_major(row_len), columns, transposed(row_len), &mut dw, index > 0);
                });
            }
            dw
        })
        .collect();
    sum_in_order(parts, len)
}

fn sum_in_order<T: Float>(parts: Vec<Vec<T>>, len: usize) -> Vec<T> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_else(|| vec![T::default(); len]);
    for part in parts {
        sum.par_chunks_mut(1 << 14).zip(part.par_chunks(1 << 14)).for_each(|(sum, part)| {
            for (to, from) in sum.iter_mut().zip(part) {
                *to += *from;
            }
        });
    }
    sum
}

/// Runs an f32 or f64 kernel on two contiguous tensors of one type.
fn on_slices(
    a: (&CpuStorage, &Layout),
    b: (&CpuStorage, &Layout),
    for_f32: impl FnOnce(&[f32], &[f32]) -> Vec<f32>,
    for_f64: impl FnOnce(&[f64], &[f64]) -> Vec<f64>,
) -> Result<CpuStorage> {
    fn slice<'a, T>(data: &'a [T], layout: &Layout) -> Result<&'a [T]> {
        match layout.contiguous_offsets() {
            Some((start, end)) => Ok(&data[start..end]),
            None => bail!("convolution: expected contiguous tensors"),
        }
    }
    match (a.0, b.0) {
        (CpuStorage::F32(x), CpuStorage::F32(y)) => Ok(CpuStorage::F32(for_f32(slice(x, a.1)?, slice(y, b.1)?))),
        (CpuStorage::F64(x), CpuStorage::F64(y)) => Ok(CpuStorage::F64(for_f64(slice(x, a.1)?, slice(y, b.1)?))),
        _ => bail!("convolution: expected two f32 or two f64 tensors"),
    }
}

fn dims4(layout: &Layout) -> Result<[usize; 4]> {
    let (a, b, c, d) = layout.shape().dims4()?;
    Ok([a, b, c, d])
}

impl CustomOp2 for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (dims, kernels) = (dims4(lx)?, lw.shape().dims4()?);
        let y = [dims[0], kernels.0, self.0.output(dims[2]), self.0.output(dims[3])];
        let plan = Plan::new(self.0, dims, y, kernels)?;
        let out = on_slices((x, lx), (w, lw), |x, w| conv_cpu(&plan, x, w), |x, w| conv_cpu(&plan, x, w))?;
        Ok((out, Shape::from(y.to_vec())))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dx = x.track_op().then(|| {
            let op = ConvInputGrad { window: self.0, size: (x.dim(2)?, x.dim(3)?) };
            dy.contiguous()?.apply_op2_no_bwd(w, &op)
        });
        let dw = w.track_op().then(|| conv_weight_grad(x, dy, self.0));
        Ok((dx.transpose()?, dw.transpose()?))
    }
}

impl CustomOp2 for ConvInputGrad {
    fn name(&self) -> &'static str {
        "conv_input_grad"
    }

    fn cpu_fwd(&self, dy: &CpuStorage, ly: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (dims, kernels) = (dims4(ly)?, lw.shape().dims4()?);
        let x = [dims[0], kernels.1, self.size.0, self.size.1];
        let plan = Plan::new(self.window, x, dims, kernels)?;
        let out = on_slices((dy, ly), (w, lw), |y, w| input_grad_cpu(&plan, y, w), |y, w| input_grad_cpu(&plan, y, w))?;
        Ok((out, Shape::from(x.to_vec())))
    }

    fn bwd(&self, dy: &Tensor, w: &Tensor, _: &Tensor, dx: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let to_dy = dy.track_op().then(|| dx.contiguous()?.apply_op2_no_bwd(w, &Conv(self.window)));
        let to_w = w.track_op().then(|| conv_weight_grad(dx, dy, self.window));
        Ok((to_dy.transpose()?, to_w.transpose()?))
    }
}

impl CustomOp2 for ConvWeightGrad {
    fn name(&self) -> &'static str {
        "conv_weight_grad"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, dy: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x_dims, y_dims) = (dims4(lx)?, dims4(ly)?);
        let kernels = (y_dims[1], x_dims[1], self.0.kernel, self.0.kernel);
        let plan = Plan::new(self.0, x_dims, y_dims, kernels)?;
        let out = on_slices((x, lx), (dy, ly), |x, y| weight_grad_cpu(&plan, x, y), |x, y| weight_grad_cpu(&plan, x, y))?;
        Ok((out, Shape::from(kernels)))
    }
}
