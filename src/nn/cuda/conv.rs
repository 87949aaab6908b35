//! The three convolutions on CUDA: matrix products by cuBLAS, the others by cuDNN (`cudnn.rs`).

use candle_core::{Error, Result, Tensor};
use cudarc::cublas::result::gemm_ex;
use cudarc::cublas::sys::cublasComputeType_t as Compute;
use cudarc::cublas::sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT;
use cudarc::cublas::sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
use cudarc::cublas::sys::cudaDataType_t as DataType;

use super::driver::{Gpu, cuda, with};
use super::memory::{Scratch, address, place, unwritten};
use super::module::Grid;
use super::types::{Address, Factors, Math, count, failed};
use crate::nn::geometry::{ConvPlan, Direction};
use crate::nn::in_place::InPlace;
use crate::nn::precision::Precision;

/// One of the three convolutions of contiguous tensors of one type; the operands as [`Direction`] says, the result of these sizes.
pub(in crate::nn) fn conv(
    direction: Direction,
    plan: &ConvPlan,
    [a, b]: [&Tensor; 2],
    result: [usize; 4],
    precision: Precision,
) -> Result<Tensor> {
    let dtype = a.dtype();
    let math = Math::of(dtype, precision)?;
    let out = unwritten(&result, a)?;
    let (operands, to) = ([address(a, dtype)?, address(b, dtype)?], place(InPlace::of(&out), dtype)?);
    with(cuda(a.device())?, |gpu| gpu.conv(direction, plan, operands, to, math))?;
    Ok(out)
}

impl Gpu {
    fn convert(&mut self, suffix: &'static str, from: Address, to: Address, len: usize) -> Result<()> {
        let len = count(len)?;
        self.launch("convert", suffix, Grid::each(len), &[&from, &to, &len])
    }

    /// Values `[n, a, b]` as a convolution wants them: swapped, in bf16, or as they are.
    fn bring(&mut self, from: Address, dims: [usize; 3], swap: bool, math: Math) -> Result<(Address, Option<Scratch>)> {
        let (len, narrow) = (dims.iter().product::<usize>(), math == Math::Bf16);
        if !swap && !narrow {
            return Ok((from, None));
        }
        let made = self.scratch(len * math.size())?;
        if swap {
            self.swap_axes(if narrow { "narrow" } else { math.plain() }, from, made.at, dims)?
        } else {
            self.convert("narrow", from, made.at, len)?
        }
        Ok((made.at, Some(made)))
    }

    /// bf16, or TF32 where that should be faster, and has an algorithm that takes maps as they lie.
    fn faster(&mut self, direction: Direction, plan: &ConvPlan, is_product: bool) -> Math {
        let is_tf32 = rounding_costs_more(direction, plan, is_product)
            && (is_product || self.dnn.takes_channels_last(direction, plan, Math::Tf32));
        if is_tf32 { Math::Tf32 } else { Math::Bf16 }
    }

    /// One of the three convolutions of contiguous operands, in one type.
    fn conv(&mut self, direction: Direction, plan: &ConvPlan, operands: [Address; 2], out: Address, math: Math) -> Result<()> {
        let product = as_product(plan);
        let math = if math == Math::Bf16 { self.faster(direction, plan, product.is_some()) } else { math };
        let channels_last = match product {
            Some(_) => true,
            None => self.dnn.prepare(direction, plan, math)?,
        };
        // Maps are kept with their channels last, kernels with theirs first.
        let area = plan.window.kernel * plan.window.kernel;
        let x = ([plan.n, plan.h * plan.w, plan.ci], !channels_last);
        let y = ([plan.n, plan.positions(), plan.co], !channels_last);
        let w = ([plan.co, plan.of_group()[0], area], channels_last);
        let [first, second, result] = match direction {
            Direction::Forward => [x, w, y],
            Direction::InputGrad => [y, w, x],
            Direction::WeightGrad => [x, y, w],
        }
        .map(|(dims, swap)| (dims, swap && dims[1] > 1 && dims[2] > 1));

        let (a, _a) = self.bring(operands[0], first.0, first.1, math)?;
        let (b, _b) = self.bring(operands[1], second.0, second.1, math)?;
        // cuBLAS takes bf16 and gives f32; cuDNN gives what it takes.
        let narrow = math == Math::Bf16 && product.is_none();
        let (dims, swap) = result;
        let made = (swap || narrow).then(|| self.scratch(dims.iter().product::<usize>() * math.result_size())).transpose()?;
        let to = made.as_ref().map_or(out, |made| made.at);
        match product {
            Some(dims) => self.product(direction, dims, [a, b], to, math)?,
            None => self.dnn.run(&self.stream, direction, plan, math, [a, b], to)?,
        }
        match (swap, narrow) {
            (true, _) => {
                let suffix = if narrow { "widen" } else { math.plain() };
                self.swap_axes(suffix, to, out, [dims[0], dims[2], dims[1]])
            }
            (false, true) => self.convert("widen", to, out, dims.iter().product()),
            (false, false) => Ok(()),
        }
    }

    /// `y [rows, co] = x [rows, depth] · w [co, depth]ᵀ` and its two gradients, as [`Self::conv`]. cuBLAS sees the transpose
    /// of every matrix, for its columns lie one behind the other.
    fn product(
        &mut self,
        direction: Direction,
        [rows, depth, co]: [usize; 3],
        [a, b]: [Address; 2],
        out: Address,
        math: Math,
    ) -> Result<()> {
        let int =
            |len: usize| i32::try_from(len).map_err(|_| Error::Msg(format!("a matrix side of {len} is too long for cuBLAS")));
        let [rows, depth, co] = [int(rows)?, int(depth)?, int(co)?];
        let (left, right, [m, n, k], [op_left, op_right], [step_left, step_right]) = match direction {
            Direction::Forward => (b, a, [co, rows, depth], [CUBLAS_OP_T, CUBLAS_OP_N], [depth, depth]),
            Direction::InputGrad => (b, a, [depth, rows, co], [CUBLAS_OP_N, CUBLAS_OP_N], [depth, co]),
            Direction::WeightGrad => (a, b, [depth, co, rows], [CUBLAS_OP_N, CUBLAS_OP_T], [depth, co]),
        };
        let (from, to, compute) = match math {
            Math::F64 => (DataType::CUDA_R_64F, DataType::CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F),
            Math::F32 => (DataType::CUDA_R_32F, DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F),
            Math::Tf32 => (DataType::CUDA_R_32F, DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_FAST_TF32),
            Math::Bf16 => (DataType::CUDA_R_16BF, DataType::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F),
        };
        let factors = Factors::of(math);
        let blas = self.device.cublas_handle();
        // SAFETY: the matrices have the sizes given, which `conv` made or checked.
        unsafe {
            gemm_ex(
                *blas.handle(),
                op_left,
                op_right,
                m,
                n,
                k,
                factors.one(),
                left as *const _,
                from,
                step_left,
                right as *const _,
                from,
                step_right,
                factors.zero(),
                out as *mut _,
                to,
                m,
                compute,
                CUBLAS_GEMM_DFALT,
            )
        }
        .map_err(failed("cuBLAS"))
    }
}

/// Whether a convolution is to be in TF32 though bf16 was asked for. Maps are kept in f32: bf16 pays for rounding its operands, and for
/// widening what cuDNN gives, each of them a pass over memory. Where a convolution has few operations for each byte, as one of kernel 1 or
/// in groups has, they should take longer than its products gain.
fn rounding_costs_more(direction: Direction, plan: &ConvPlan, is_product: bool) -> bool {
    /// Operations in the time in which a byte is moved, in TF32 and in bf16. With these the convolutions of a step of dcgan-64 with 512 images
    /// take 2 ms less in bf16 than in TF32, as they did on an H200 (benches/RESULTS.md, 2026-11-26).
    const RATES: [f64; 2] = [45.0, 120.0];
    let ([ci, _], area) = (plan.of_group(), plan.window.kernel * plan.window.kernel);
    let maps = [plan.n * plan.h * plan.w * plan.ci, plan.n * plan.positions() * plan.co];
    let ([x, y], w) = (maps.map(|len| len as f64), (plan.co * ci * area) as f64);
    let operations = 2.0 * y * (ci * area) as f64;
    let (operands, result) = match direction {
        Direction::Forward => (x + w, y),
        Direction::InputGrad => (y + w, x),
        Direction::WeightGrad => (x + y, w),
    };
    // As many bytes as are moved in the time that it takes; 4 of a value in f32, 2 in bf16, and cuBLAS gives f32 at once.
    let tf32 = (4.0 * (operands + result)).max(operations / RATES[0]);
    let (written, widening) = if is_product { (4.0, 0.0) } else { (2.0, 6.0) };
    let bf16 = 6.0 * operands + (2.0 * operands + written * result).max(operations / RATES[1]) + widening * result;
    tf32 <= bf16
}

/// Rows, depth and output channels of a convolution that is a plain matrix product: a kernel of 1, or one that covers the
/// whole map, as where a DCGAN's maps begin and end.
fn as_product(plan: &ConvPlan) -> Option<[usize; 3]> {
    let window = plan.window;
    if window.groups > 1 {
        return None;
    }
    let covers = plan.positions() == 1 && (plan.h, plan.w) == (window.kernel, window.kernel);
    match (window.padding, window.kernel, window.stride) {
        (0, 1, 1) => Some([plan.n * plan.positions(), plan.ci, plan.co]),
        (0, kernel, _) if covers => Some([plan.n, plan.ci * kernel * kernel, plan.co]),
        _ => None,
    }
}
