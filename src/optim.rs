//! Optimisers with state that can be saved: Adam, RMSprop in PyTorch's and in TensorFlow 1's form, SGD with momentum.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
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

    /// One step down the gradients.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn step(&mut self, network: &Network, gradients: &GradStore) -> Result<()> {
        self.steps += 1;
        for Parameter { name, var, .. } in network.trainable() {
            // A parameter without a gradient has no influence on the loss.
            if let Some(gradient) = gradients.get(var) {
                self.descend(name, &var.as_detached_tensor(), &gradient.detach())?;
            }
        }
        Ok(())
    }

    /// Moves the slots of one parameter on, then the parameter.
    fn descend(&self, name: &str, w: &Tensor, g: &Tensor) -> candle_core::Result<()> {
        let slot = |kind: &str| {
            let missing = || candle_core::Error::Msg(format!("optimiser slot {kind}.{name} is missing"));
            self.slots.get(&format!("{kind}.{name}")).ok_or_else(missing)
        };
        match self.config {
            // arXiv 1412.6980, algorithm 1, with PyTorch's order of corrections.
            OptimizerConfig::Adam { lr, betas: [b1, b2], eps } => {
                let t = self.steps as i32;
                let (m, v) = (slot("m")?, slot("v")?);
                Blend { keep: b1, take: 1.0 - b1, square: false }.apply(m, g)?;
                Blend { keep: b2, take: 1.0 - b2, square: true }.apply(v, g)?;
                let correction = (1.0 - b2.powi(t)).sqrt().recip();
                Descend { lr: lr / (1.0 - b1.powi(t)), correction, inside: 0.0, beside: eps }.apply(w, m, v)
            }
            OptimizerConfig::Rmsprop { lr, decay, eps } => {
                let v = slot("v")?;
                Blend { keep: decay, take: 1.0 - decay, square: true }.apply(v, g)?;
                Descend { lr, correction: 1.0, inside: 0.0, beside: eps }.apply(w, g, v)
            }
            OptimizerConfig::RmspropTf { lr, decay, eps } => {
                let v = slot("v")?;
                Blend { keep: decay, take: 1.0 - decay, square: true }.apply(v, g)?;
                Descend { lr, correction: 1.0, inside: eps, beside: 0.0 }.apply(w, g, v)
            }
            OptimizerConfig::Sgd { lr, momentum } if momentum != 0.0 => {
                let m = slot("m")?;
                Blend { keep: momentum, take: 1.0, square: false }.apply(m, g)?;
                Blend { keep: 1.0, take: -lr, square: false }.apply(w, m)
            }
            OptimizerConfig::Sgd { lr, .. } => Blend { keep: 1.0, take: -lr, square: false }.apply(w, g),
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

/// `to ← to · keep + from · take`, or with `from²`; in place, so that a step makes no garbage.
struct Blend {
    keep: f64,
    take: f64,
    square: bool,
}

/// `w ← w − lr · numerator / (√(v + inside) · correction + beside)`, in place.
struct Descend {
    lr: f64,
    correction: f64,
    inside: f64,
    beside: f64,
}

/// Values a task of the loops below handles.
const TASK: usize = 1 << 14;

impl Blend {
    fn apply(&self, to: &Tensor, from: &Tensor) -> candle_core::Result<()> {
        if to.device().is_cpu() {
            return to.inplace_op2(&from.contiguous()?, self);
        }
        let from = if self.square { from.sqr()? } else { from.clone() };
        overwrite(to, &((to * self.keep)? + (from * self.take)?)?)
    }

    fn run<T: WithDType>(&self, to: &mut [T], from: &[T]) {
        let (keep, take) = (T::from_f64(self.keep), T::from_f64(self.take));
        let square = self.square;
        to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = *to * keep + if square { from * from } else { from } * take;
            }
        });
    }
}

impl Descend {
    fn apply(&self, w: &Tensor, numerator: &Tensor, v: &Tensor) -> candle_core::Result<()> {
        if w.device().is_cpu() {
            return w.inplace_op3(&numerator.contiguous()?, &v.contiguous()?, self);
        }
        let root = (((v + self.inside)?.sqrt()? * self.correction)? + self.beside)?;
        overwrite(w, &(w - (numerator.div(&root)? * self.lr)?)?)
    }

    fn run<T: WithDType>(&self, w: &mut [T], numerator: &[T], v: &[T], sqrt: impl Fn(T) -> T + Sync) {
        let constants = [self.lr, self.correction, self.inside, self.beside];
        let [lr, correction, inside, beside] = constants.map(T::from_f64);
        w.par_chunks_mut(TASK).zip(numerator.par_chunks(TASK).zip(v.par_chunks(TASK))).for_each(|(w, (n, v))| {
            for ((w, &n), &v) in w.iter_mut().zip(n).zip(v) {
                *w -= lr * n / (sqrt(v + inside) * correction + beside);
            }
        });
    }
}

/// Writes into a tensor's storage, as `Var::set` does.
fn overwrite(to: &Tensor, value: &Tensor) -> candle_core::Result<()> {
    to.slice_set(value, 0, 0)
}

fn span(layout: &Layout) -> candle_core::Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("optimiser: expected a contiguous tensor"),
    }
}

impl InplaceOp2 for Blend {
    fn name(&self) -> &'static str {
        "blend"
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, lt: &Layout, from: &CpuStorage, lf: &Layout) -> candle_core::Result<()> {
        let (to_span, from_span) = (span(lt)?, span(lf)?);
        match (to, from) {
            (CpuStorage::F32(to), CpuStorage::F32(from)) => self.run(&mut to[to_span], &from[from_span]),
            (CpuStorage::F64(to), CpuStorage::F64(from)) => self.run(&mut to[to_span], &from[from_span]),
            _ => bail!("optimiser: expected tensors of one type, f32 or f64"),
        }
        Ok(())
    }
}

impl InplaceOp3 for Descend {
    fn name(&self) -> &'static str {
        "descend"
    }

    fn cpu_fwd(
        &self,
        w: &mut CpuStorage,
        lw: &Layout,
        n: &CpuStorage,
        ln: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> candle_core::Result<()> {
        let (sw, sn, sv) = (span(lw)?, span(ln)?, span(lv)?);
        match (w, n, v) {
            (CpuStorage::F32(w), CpuStorage::F32(n), CpuStorage::F32(v)) => self.run(&mut w[sw], &n[sn], &v[sv], f32::sqrt),
            (CpuStorage::F64(w), CpuStorage::F64(n), CpuStorage::F64(v)) => self.run(&mut w[sw], &n[sn], &v[sv], f64::sqrt),
            _ => bail!("optimiser: expected tensors of one type, f32 or f64"),
        }
        Ok(())
    }
}
