//! Optimisers with state that can be saved: Adam, RMSprop in PyTorch's and in TensorFlow 1's form, SGD with momentum.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, bail};
use rayon::prelude::*;

use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::nn::cpu::{Float, TASK, View, edit, for_float, vectorised};
#[cfg(feature = "cuda")]
use crate::nn::cuda;
use crate::nn::device::{check_operands, on_device};
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

    /// One step down the gradients, which are those of the network's trainable parameters, in their order, with the learning
    /// rate of the config times `rate`.
    ///
    /// # Errors
    /// When the gradients are not as many, or the device is out of memory.
    pub fn step(&mut self, network: &Network, gradients: &[Tensor], rate: f64) -> Result<()> {
        let parameters: Vec<&Parameter> = network.trainable().collect();
        if parameters.len() != gradients.len() {
            let what = format!("{} gradients for {} parameters", gradients.len(), parameters.len());
            return Err(Error::Candle(candle_core::Error::Msg(what)));
        }
        self.steps += 1;
        let rule = Rule::of(self.config.with_rate(rate), self.steps);
        let weights: Vec<Tensor> = parameters.iter().map(|parameter| parameter.var.as_detached_tensor()).collect();
        let gradients: Vec<Tensor> = gradients.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
        let mut rows = Vec::with_capacity(weights.len());
        for ((parameter, w), g) in parameters.iter().zip(&weights).zip(&gradients) {
            let slots = rule.slots().iter().map(|kind| self.slot(kind, &parameter.name)).collect::<Result<Vec<_>>>()?;
            check_operands(&[&[w], &slots[..]].concat(), &[g])?;
            rows.push([&[w, g], &slots[..]].concat());
        }
        Ok(rule.apply(network.device(), &rows)?)
    }

    fn slot(&self, kind: &str, name: &str) -> Result<&Tensor> {
        let missing = || candle_core::Error::Msg(format!("optimiser slot {kind}.{name} is missing"));
        Ok(self.slots.get(&format!("{kind}.{name}")).ok_or_else(missing)?)
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
                // A copy: steps change the slots in place, and what was given may be somebody else's.
                *slot = new.to_device(slot.device())?.to_dtype(slot.dtype())?.copy()?;
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

    /// The slots that it takes, in its order.
    fn slots(self) -> &'static [&'static str] {
        match self {
            Self::Adam { .. } => &["m", "v"],
            Self::Rmsprop { .. } => &["v"],
            Self::Momentum { .. } => &["m"],
            Self::Sgd { .. } => &[],
        }
    }

    /// Moves parameters and their slots on, in place; a row is a parameter, its gradient and its slots.
    fn apply(self, device: &Device, rows: &[Vec<&Tensor>]) -> candle_core::Result<()> {
        on_device!(
            device,
            cpu: rows.iter().try_for_each(|row| match row[..] {
                [w, g, ref slots @ ..] => for_float!(w.dtype(), T => self.apply_cpu::<T>(w, slots, g)),
                _ => bail!("optimiser: {} tensors for {self:?}", row.len()),
            }),
            cuda: cuda::update(self.into(), rows)
        )
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
}

#[cfg(feature = "cuda")]
impl From<Rule> for cuda::Update {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Adam { betas: [b1, b2], rate, correction, eps } => {
                Self::Adam([b1, 1.0 - b1, b2, 1.0 - b2, rate, correction, eps])
            }
            Rule::Rmsprop { lr, decay, inside, beside } => Self::Rmsprop([lr, decay, 1.0 - decay, inside, beside]),
            Rule::Momentum { lr, momentum } => Self::Momentum([lr, momentum]),
            Rule::Sgd { lr } => Self::Sgd(lr),
        }
    }
}

/// Keeps every value of some tensors within `[-limit, limit]`, in place.
///
/// # Errors
/// When a tensor is not contiguous, or neither f32 nor f64.
pub(crate) fn clamp(tensors: &[Tensor], limit: f64) -> Result<()> {
    let Some(first) = tensors.first() else { return Ok(()) };
    on_device!(
        first.device(),
        cpu: Ok(tensors.iter().try_for_each(|w| for_float!(w.dtype(), T => clamp_cpu::<T>(w, limit)))?),
        cuda: Ok(cuda::update(cuda::Update::Clamp(limit), &tensors.iter().map(|w| vec![w]).collect::<Vec<_>>())?)
    )
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
