//! Optimisers with state that can be saved: Adam, RMSprop in PyTorch's and in TensorFlow 1's form, SGD with momentum.

use std::collections::BTreeMap;

use candle_core::{Tensor, bail};
use rayon::prelude::*;

use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::nn::cpu::{Float, TASK, View, add_to, edit, for_float, vectorised};
use crate::nn::{Network, Parameter};

/// An optimiser of one network. Its slots are named `m.PARAMETER`, `v.PARAMETER`.
pub struct Optimizer {
    config: OptimizerConfig,
    steps: u64,
    slots: BTreeMap<String, Tensor>,
}

impl Optimizer {
    /// A fresh optimiser for the trainable parameters of a network.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(config: OptimizerConfig, network: &Network) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for Parameter { name, var, .. } in network.trainable() {
            match config {
                OptimizerConfig::Adam { .. } => {
                    slots.insert(format!("m.{name}"), var.zeros_like()?);
                    slots.insert(format!("v.{name}"), var.zeros_like()?);
                }
                OptimizerConfig::Rmsprop { .. } => {
                    slots.insert(format!("v.{name}"), var.zeros_like()?);
                }
                OptimizerConfig::RmspropTf { .. } => {
                    slots.insert(format!("v.{name}"), var.ones_like()?);
                }
                OptimizerConfig::Sgd { momentum, .. } if momentum != 0.0 => {
                    slots.insert(format!("m.{name}"), var.zeros_like()?);
                }
                OptimizerConfig::Sgd { .. } => {}
            }
        }
        Ok(Self { config, steps: 0, slots })
    }

    /// One step down the gradients, which are those of the network's trainable parameters, in their order.
    ///
    /// # Errors
    /// When the gradients are not as many, or the device is out of memory.
    pub fn step(&mut self, network: &Network, gradients: &[Tensor]) -> Result<()> {
        let parameters: Vec<&Parameter> = network.trainable().collect();
        if parameters.len() != gradients.len() {
            let what = format!("{} gradients for {} parameters", gradients.len(), parameters.len());
            return Err(Error::Candle(candle_core::Error::Msg(what)));
        }
        self.steps += 1;
        let rule = Rule::of(self.config, self.steps);
        for (parameter, gradient) in parameters.into_iter().zip(gradients) {
            self.descend(rule, parameter, &gradient.contiguous()?)?;
        }
        Ok(())
    }

    /// Moves one parameter and its slots on, in place.
    fn descend(&self, rule: Rule, Parameter { name, var, .. }: &Parameter, g: &Tensor) -> candle_core::Result<()> {
        let slot = |kind: &str| {
            let missing = || candle_core::Error::Msg(format!("optimiser slot {kind}.{name} is missing"));
            self.slots.get(&format!("{kind}.{name}")).ok_or_else(missing)
        };
        let w = &var.as_detached_tensor();
        match rule {
            Rule::Adam { .. } => rule.apply(w, &[slot("m")?, slot("v")?], g),
            Rule::Rmsprop { .. } => rule.apply(w, &[slot("v")?], g),
            Rule::Momentum { .. } => rule.apply(w, &[slot("m")?], g),
            Rule::Sgd { .. } => rule.apply(w, &[], g),
        }
    }

    /// The slots, by name.
    pub fn slots(&self) -> &BTreeMap<String, Tensor> {
        &self.slots
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Takes up a saved state.
    ///
    /// # Errors
    /// When a slot is missing, superfluous or of another shape; `place` names the file.
    pub fn load(&mut self, steps: u64, mut slots: BTreeMap<String, Tensor>, place: &str) -> Result<()> {
        let same = slots.len() == self.slots.len()
            && self.slots.iter().all(|(name, slot)| slots.get(name).is_some_and(|new| new.shape() == slot.shape()));
        if !same {
            let mend = "Resume with the config that the run began with, or from another checkpoint.";
            return Err(Error::invalid(place, "the optimiser's state belongs to another optimiser or network", mend));
        }
        for (name, slot) in &mut self.slots {
            if let Some(new) = slots.remove(name) {
                *slot = new.to_device(slot.device())?.to_dtype(slot.dtype())?;
            }
        }
        self.steps = steps;
        Ok(())
    }
}

/// What one step does to every value of a parameter, with the constants of that step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// `m ← β₁m + (1 − β₁)g`, `v ← β₂v + (1 − β₂)g²`, `w ← w − rate · m / (√v · correction + eps)`
    Adam {
        /// β₁, β₂.
        betas: [f64; 2],
        /// lr / (1 − β₁ᵗ).
        rate: f64,
        /// 1 / √(1 − β₂ᵗ).
        correction: f64,
        /// ε.
        eps: f64,
    },
    /// `v ← decay · v + (1 − decay)g²`, `w ← w − lr · g / (√(v + inside) + beside)`
    Rmsprop {
        /// Learning rate.
        lr: f64,
        /// Weight of the old average.
        decay: f64,
        /// ε of TensorFlow 1's form.
        inside: f64,
        /// ε of PyTorch's form.
        beside: f64,
    },
    /// `m ← momentum · m + g`, `w ← w − lr · m`
    Momentum {
        /// Learning rate.
        lr: f64,
        /// Weight of the old direction.
        momentum: f64,
    },
    /// `w ← w − lr · g`
    Sgd {
        /// Learning rate.
        lr: f64,
    },
}

impl Rule {
    /// The rule of step number `step`, from 1.
    fn of(config: OptimizerConfig, step: u64) -> Self {
        match config {
            // arXiv 1412.6980, algorithm 1, with PyTorch's order of corrections.
            OptimizerConfig::Adam { lr, betas: [b1, b2], eps } => {
                let t = step as i32;
                let correction = (1.0 - b2.powi(t)).sqrt().recip();
                Self::Adam { betas: [b1, b2], rate: lr / (1.0 - b1.powi(t)), correction, eps }
            }
            OptimizerConfig::Rmsprop { lr, decay, eps } => Self::Rmsprop { lr, decay, inside: 0.0, beside: eps },
            OptimizerConfig::RmspropTf { lr, decay, eps } => Self::Rmsprop { lr, decay, inside: eps, beside: 0.0 },
            OptimizerConfig::Sgd { lr, momentum } if momentum != 0.0 => Self::Momentum { lr, momentum },
            OptimizerConfig::Sgd { lr, .. } => Self::Sgd { lr },
        }
    }

    fn apply(self, w: &Tensor, slots: &[&Tensor], g: &Tensor) -> candle_core::Result<()> {
        match w.device().is_cpu() {
            true => for_float!(w.dtype(), T => self.apply_cpu::<T>(w, slots, g)),
            false => self.apply_in_operations(w, slots, g),
        }
    }

    /// One pass over memory for all of it.
    fn apply_cpu<T: Float>(self, w: &Tensor, slots: &[&Tensor], g: &Tensor) -> candle_core::Result<()> {
        let gradient = View::of(g);
        let g = gradient.slice::<T>()?;
        if w.elem_count() != g.len() || slots.iter().any(|slot| slot.elem_count() != g.len()) {
            bail!("optimiser: {} gradients for a parameter of {:?}", g.len(), w.dims());
        }
        edit::<T>(w, |w| match *slots {
            [] => {
                self.update(w, g);
                Ok(())
            }
            [slot] => edit::<T>(slot, |slot| {
                self.update_with_one(w, slot, g);
                Ok(())
            }),
            [first, second, ..] => edit::<T>(first, |m| {
                edit::<T>(second, |v| {
                    self.update_with_two(w, m, v, g);
                    Ok(())
                })
            }),
        })
    }

    fn update<T: Float>(self, w: &mut [T], g: &[T]) {
        let Self::Sgd { lr } = self else { return };
        let lr = T::from_f64(lr);
        w.par_chunks_mut(TASK).zip(g.par_chunks(TASK)).for_each(|(w, g)| {
            vectorised(|| w.iter_mut().zip(g).for_each(|(w, &g)| *w -= lr * g));
        });
    }

    fn update_with_one<T: Float>(self, w: &mut [T], slot: &mut [T], g: &[T]) {
        let tasks = w.par_chunks_mut(TASK).zip(slot.par_chunks_mut(TASK)).zip(g.par_chunks(TASK));
        match self {
            Self::Rmsprop { lr, decay, inside, beside } => {
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
            Self::Momentum { lr, momentum } => {
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
            Self::Adam { .. } | Self::Sgd { .. } => {}
        }
    }

    fn update_with_two<T: Float>(self, w: &mut [T], m: &mut [T], v: &mut [T], g: &[T]) {
        let Self::Adam { betas: [b1, b2], rate, correction, eps } = self else { return };
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
    }

    /// The same where there is no kernel of ours.
    fn apply_in_operations(self, w: &Tensor, slots: &[&Tensor], g: &Tensor) -> candle_core::Result<()> {
        let overwrite = |to: &Tensor, value: &Tensor| to.slice_set(value, 0, 0);
        let blend = |to: &Tensor, keep: f64, from: &Tensor, take: f64| overwrite(to, &((to * keep)? + (from * take)?)?);
        match (self, slots) {
            (Self::Adam { betas: [b1, b2], rate, correction, eps }, [m, v, ..]) => {
                blend(m, b1, g, 1.0 - b1)?;
                blend(v, b2, &g.sqr()?, 1.0 - b2)?;
                overwrite(w, &(w - (m.div(&v.sqrt()?.affine(correction, eps)?)? * rate)?)?)
            }
            (Self::Rmsprop { lr, decay, inside, beside }, [v, ..]) => {
                blend(v, decay, &g.sqr()?, 1.0 - decay)?;
                overwrite(w, &(w - (g.div(&((*v + inside)?.sqrt()? + beside)?)? * lr)?)?)
            }
            (Self::Momentum { lr, momentum }, [m, ..]) => {
                blend(m, momentum, g, 1.0)?;
                blend(w, 1.0, m, -lr)
            }
            (Self::Sgd { lr }, _) => blend(w, 1.0, g, -lr),
            _ => bail!("optimiser: {} slots for {self:?}", slots.len()),
        }
    }
}

/// `to ← to + from`, tensor by tensor, in place.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn accumulate(to: &mut [Tensor], from: &[Tensor]) -> Result<()> {
    for (to, from) in to.iter_mut().zip(from) {
        match to.device().is_cpu() && to.elem_count() == from.elem_count() {
            true => for_float!(to.dtype(), T => accumulate_cpu::<T>(to, from))?,
            false => *to = (&*to + from)?,
        }
    }
    Ok(())
}

fn accumulate_cpu<T: Float>(to: &Tensor, from: &Tensor) -> candle_core::Result<()> {
    let view = View::of(from);
    let from = view.slice::<T>()?;
    edit::<T>(to, |to| {
        add_to(to, from);
        Ok(())
    })
}

/// Keeps every value within `[-limit, limit]`, in place.
///
/// # Errors
/// When the device is out of memory.
pub(crate) fn clamp(w: &Tensor, limit: f64) -> Result<()> {
    match w.device().is_cpu() {
        true => for_float!(w.dtype(), T => clamp_cpu::<T>(w, limit))?,
        false => w.slice_set(&w.clamp(-limit, limit)?, 0, 0)?,
    }
    Ok(())
}

fn clamp_cpu<T: Float>(w: &Tensor, limit: f64) -> candle_core::Result<()> {
    let (low, high) = (T::from_f64(-limit), T::from_f64(limit));
    edit::<T>(w, |w| {
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
    })
}

/// `average ← d · average + (1 − d) · value`, in place.
///
/// # Errors
/// When the shapes do not fit.
pub(crate) fn average(average: &Tensor, value: &Tensor, d: f64) -> Result<()> {
    match average.device().is_cpu() && average.elem_count() == value.elem_count() {
        true => for_float!(average.dtype(), T => average_cpu::<T>(average, value, d))?,
        false => average.slice_set(&((average * d)? + (value * (1.0 - d))?)?, 0, 0)?,
    }
    Ok(())
}

fn average_cpu<T: Float>(average: &Tensor, value: &Tensor, d: f64) -> candle_core::Result<()> {
    let (keep, take) = (T::from_f64(d), T::from_f64(1.0 - d));
    let view = View::of(value);
    let values = view.slice::<T>()?;
    edit::<T>(average, |average| {
        average.par_chunks_mut(TASK).zip(values.par_chunks(TASK)).for_each(|(average, values)| {
            vectorised(|| average.iter_mut().zip(values).for_each(|(a, &value)| *a = *a * keep + value * take));
        });
        Ok(())
    })
}
