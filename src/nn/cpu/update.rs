//! What a [`Rule`] does to every value, on the CPU: one pass over memory for all of it.

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::float::Float;
use super::memory::{View, edit};
use super::tasks::{TASK, vectorised};
use crate::nn::rule::{Row, Rule};

/// Applies a rule to a row that it was checked with.
pub(in crate::nn) fn update<T: Float>(rule: Rule, row: &Row<'_>) -> Result<()> {
    let view = row.from.map(View::of);
    let from = view.as_ref().map(|view| view.slice::<T>()).transpose()?;
    edit::<T>(row.to, |w| match (from, row.slots.as_slice()) {
        (None, []) => without_another(rule, w),
        (Some(g), []) => without_slots(rule, w, g),
        (Some(g), [slot]) => edit::<T>(*slot, |slot| with_one_slot(rule, w, slot, g)),
        (Some(g), [first, second]) => edit::<T>(*first, |m| edit::<T>(*second, |v| with_two_slots(rule, w, m, v, g))),
        _ => mismatch(rule),
    })
}

fn mismatch(rule: Rule) -> Result<()> {
    bail!("{rule:?} takes other tensors than it was given")
}

fn without_another<T: Float>(rule: Rule, w: &mut [T]) -> Result<()> {
    let Rule::Clamp { limit } = rule else { return mismatch(rule) };
    let (low, high) = (T::from_f64(-limit), T::from_f64(limit));
    w.par_chunks_mut(TASK).for_each(|w| {
        vectorised(|| {
            for w in w {
                // NaN stays, for the loop to notice.
                *w = if *w < low {
                    low
                } else if *w > high {
                    high
                } else {
                    *w
                };
            }
        });
    });
    Ok(())
}

fn without_slots<T: Float>(rule: Rule, w: &mut [T], g: &[T]) -> Result<()> {
    let tasks = w.par_chunks_mut(TASK).zip(g.par_chunks(TASK));
    match rule {
        Rule::Sgd { lr } => {
            let lr = T::from_f64(lr);
            tasks.for_each(|(w, g)| vectorised(|| w.iter_mut().zip(g).for_each(|(w, &g)| *w -= lr * g)));
        }
        Rule::Lerp { keep, take } => {
            let (keep, take) = (T::from_f64(keep), T::from_f64(take));
            tasks.for_each(|(w, g)| vectorised(|| w.iter_mut().zip(g).for_each(|(w, &g)| *w = *w * keep + g * take)));
        }
        _ => return mismatch(rule),
    }
    Ok(())
}

fn with_one_slot<T: Float>(rule: Rule, w: &mut [T], slot: &mut [T], g: &[T]) -> Result<()> {
    let tasks = w.par_chunks_mut(TASK).zip(slot.par_chunks_mut(TASK)).zip(g.par_chunks(TASK));
    match rule {
        Rule::Rmsprop { lr, decay, inside, beside } => {
            let [lr, keep, take, inside, beside] = [lr, decay, 1.0 - decay, inside, beside].map(T::from_f64);
            tasks.for_each(|((w, v), g)| {
                vectorised(|| {
                    for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
                        *v = *v * keep + g * g * take;
                        *w -= lr * g / ((*v + inside).sqrt() + beside);
                    }
                });
            });
        }
        Rule::Momentum { lr, momentum } => {
            let [lr, momentum] = [lr, momentum].map(T::from_f64);
            tasks.for_each(|((w, m), g)| {
                vectorised(|| {
                    for ((w, m), &g) in w.iter_mut().zip(m).zip(g) {
                        *m = *m * momentum + g;
                        *w -= lr * *m;
                    }
                });
            });
        }
        _ => return mismatch(rule),
    }
    Ok(())
}

fn with_two_slots<T: Float>(rule: Rule, w: &mut [T], m: &mut [T], v: &mut [T], g: &[T]) -> Result<()> {
    let Rule::Adam { betas: [b1, b2], rate, correction, eps } = rule else { return mismatch(rule) };
    let [b1, take1, b2, take2] = [b1, 1.0 - b1, b2, 1.0 - b2].map(T::from_f64);
    let [rate, correction, eps] = [rate, correction, eps].map(T::from_f64);
    let slots = m.par_chunks_mut(TASK).zip(v.par_chunks_mut(TASK));
    w.par_chunks_mut(TASK).zip(slots).zip(g.par_chunks(TASK)).for_each(|((w, (m, v)), g)| {
        vectorised(|| {
            for ((w, (m, v)), &g) in w.iter_mut().zip(m.iter_mut().zip(v)).zip(g) {
                *m = *m * b1 + g * take1;
                *v = *v * b2 + g * g * take2;
                *w -= rate * *m / (v.sqrt() * correction + eps);
            }
        });
    });
    Ok(())
}
