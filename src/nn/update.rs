//! Moves tensors on in place, by a rule.

use candle_core::{Result, Tensor};

use super::cpu::{self, for_float};
#[cfg(feature = "cuda")]
use super::cuda;
use super::device::on_device;
use super::in_place::InPlace;
use super::rule::{Row, Rule};

/// Applies a rule to every row; on a GPU a few dozen rows are one launch.
///
/// # Errors
/// When a row is not as the rule takes it, operands share their memory, or the type is neither f32 nor f64.
pub(crate) fn update(rule: Rule, rows: &[Row<'_>]) -> Result<()> {
    update_by(rule, rows, None)
}

/// The same, but where constants are given, [`Rule::constants`] on the rows' device, they are those: a captured step is
/// given others each time. (On the CPU nothing is captured, and the rule has its own.)
///
/// # Errors
/// As [`update`].
pub(crate) fn update_by(rule: Rule, rows: &[Row<'_>], constants: Option<&Tensor>) -> Result<()> {
    rows.iter().try_for_each(|row| rule.check(row))?;
    let Some(first) = rows.first() else { return Ok(()) };
    #[cfg(not(feature = "cuda"))]
    let _ = constants;
    on_device!(
        first.to.tensor().device(),
        cpu: rows.iter().try_for_each(|row| for_float!(row.to.tensor().dtype(), T => cpu::update::update::<T>(rule, row))),
        cuda: cuda::update::update(rule, rows, constants)
    )
}

/// `to ← keep · to + take · from`, pair by pair.
///
/// # Errors
/// When the lengths of a pair differ, they share their memory, or the type is neither f32 nor f64.
pub fn lerp(pairs: &[(InPlace<'_>, &Tensor)], keep: f64, take: f64) -> Result<()> {
    let rows: Vec<Row<'_>> = pairs.iter().map(|&(to, from)| Row { to, from: Some(from), slots: Vec::new() }).collect();
    update(Rule::Lerp { keep, take }, &rows)
}

/// Keeps every value within `[-limit, limit]`; what is not a number stays.
///
/// # Errors
/// When a tensor is not contiguous, or neither f32 nor f64.
pub(crate) fn clamp(tensors: &[InPlace<'_>], limit: f64) -> Result<()> {
    let rows: Vec<Row<'_>> = tensors.iter().map(|&to| Row { to, from: None, slots: Vec::new() }).collect();
    update(Rule::Clamp { limit }, &rows)
}
