//! The exponential moving average of a generator's weights, running statistics included (arXiv 1806.04498).

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::nn::Network;
use crate::nn::in_place::InPlace;
use crate::nn::rule::{Row, Rule};
use crate::nn::update::update_by;

/// What happens to the averages after generator step number `step` (from 1): `average ← d · average + (1 − d) · value` with
/// `d = min(decay, step / (step + 10))`, so that a short run is not an average over its random beginning.
pub(crate) fn rule(step: u64, decay: f64) -> Rule {
    let d = decay.min(step as f64 / (step as f64 + 10.0));
    Rule::Lerp { keep: d, take: 1.0 - d }
}

/// A slowly moving copy of a network's tensors.
pub struct Ema {
    tensors: BTreeMap<String, Tensor>,
}

impl Ema {
    /// Starts at the network's present values.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(network: &Network) -> Result<Self> {
        let tensors = network.parameters().map(|p| Ok((p.name.clone(), p.var.as_detached_tensor().copy()?)));
        Ok(Self { tensors: tensors.collect::<Result<_>>()? })
    }

    /// Moves the averages on by a [`rule`], with its constants that lie on the device, if they are given.
    pub(crate) fn update(&mut self, network: &Network, rule: Rule, constants: Option<&Tensor>) -> Result<()> {
        let values: Vec<_> =
            network.parameters().map(|parameter| (&parameter.name, parameter.var.as_detached_tensor())).collect();
        let row = |(name, value)| Some(Row { to: InPlace::of(self.tensors.get(name)?), from: Some(value), slots: Vec::new() });
        let rows: Vec<Row<'_>> = values.iter().filter_map(|(name, value)| row((name.as_str(), value))).collect();
        Ok(update_by(rule, &rows, constants)?)
    }

    /// The averages, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Takes up saved averages.
    ///
    /// # Errors
    /// When they belong to another network; `place` names the file.
    pub fn load(&mut self, tensors: BTreeMap<String, Tensor>, place: &str) -> Result<()> {
        let same = tensors.len() == self.tensors.len()
            && self.tensors.iter().all(|(name, old)| tensors.get(name).is_some_and(|new| new.shape() == old.shape()));
        if !same {
            return Err(Error::invalid(place, "the averages belong to another network", "Resume with the run's own config."));
        }
        for (name, average) in &mut self.tensors {
            // A copy: updates change the averages in place.
            *average = tensors[name].to_device(average.device())?.to_dtype(average.dtype())?.copy()?;
        }
        Ok(())
    }
}
