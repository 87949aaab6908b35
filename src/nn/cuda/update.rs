//! What a [`Rule`] does to every value, on CUDA: many tensors a launch.

use candle_core::{DType, Result, Tensor};
use cudarc::driver::DeviceRepr;

use super::driver::{cuda, with};
use super::memory::{address, place};
use super::module::{Grid, THREADS};
use super::types::{Address, count, suffix};
use crate::nn::rule::{Row, Rule};

/// Tensors a launch, as in `kernels.cu`.
const TENSORS: usize = 48;
/// Values a block, as in `kernels.cu`.
const SHARE: u32 = 4096;

/// As in `kernels.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Table {
    at: [[Address; 4]; TENSORS],
    len: [u32; TENSORS],
    first: [u32; TENSORS],
    count: u32,
}

// SAFETY: addresses and numbers, laid out as C does.
unsafe impl DeviceRepr for Table {}

/// The number of a rule in `kernels.cu`.
fn coded(rule: Rule) -> i32 {
    match rule {
        Rule::Adam { .. } => 0,
        Rule::Rmsprop { .. } => 1,
        Rule::Momentum { .. } => 2,
        Rule::Sgd { .. } => 3,
        Rule::Clamp { .. } => 4,
        Rule::Lerp { .. } => 5,
    }
}

/// Applies a rule to rows that it was checked with, a few dozen a launch; with constants that lie on the device, if they are given.
pub(in crate::nn) fn update(rule: Rule, rows: &[Row<'_>], constants: Option<&Tensor>) -> Result<()> {
    let (code, by_value) = (coded(rule), rule.constants());
    let on_device = constants.map_or(Ok(0), |constants| address(constants, DType::F64))?;
    for rows in rows.chunks(TENSORS) {
        let Some(first) = rows.first().map(|row| row.to.tensor()) else { return Ok(()) };
        let dtype = first.dtype();
        let mut table = Table { at: [[0; 4]; TENSORS], len: [0; TENSORS], first: [0; TENSORS], count: rows.len() as u32 };
        let mut blocks = 0;
        for (number, row) in rows.iter().enumerate() {
            let from = row.from.map(|from| address(from, dtype));
            let others = from.into_iter().chain(row.slots.iter().map(|slot| place(*slot, dtype)));
            for (at, address) in table.at[number].iter_mut().zip(std::iter::once(place(row.to, dtype)).chain(others)) {
                *at = address?;
            }
            (table.len[number], table.first[number]) = (count(row.to.tensor().elem_count())?, blocks);
            blocks += table.len[number].div_ceil(SHARE);
        }
        let grid = Grid([blocks.max(1), 1, 1], [THREADS, 1]);
        with(cuda(first.device())?, |gpu| gpu.launch("update", suffix(dtype)?, grid, &[&table, &code, &by_value, &on_device]))?;
    }
    Ok(())
}
