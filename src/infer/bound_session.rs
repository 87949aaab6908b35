//! A session with memory of its own for its input and its output: nothing is allocated from run to run. On a GPU the memory is
//! pinned where that can be had, so that its copies need no other and run beside the work of other sessions.

use half::f16;
use ort::memory::MemoryType;
use ort::session::{IoBinding, RunOptions, Session, SessionOutputs};
use ort::value::{DynTensor, DynValue, TensorElementType};

use super::model::Port;
use super::provider::Provider;
use crate::error::{Error, OrtResult, Result};

/// One of the sessions of a generator, for runs of one batch size.
pub(super) struct BoundSession {
    session: Session,
    binding: IoBinding,
    name: String,
    input: DynTensor,
}

impl BoundSession {
    /// Takes the memory. Both ports have all their sizes.
    pub fn new(session: Session, provider: Provider, input: &Port, output: &Port) -> Result<Self> {
        let to = provider.memory(&session, MemoryType::CPUInput)?;
        let from = provider.memory(&session, MemoryType::CPUOutput)?;
        let mut binding = session.create_binding().ort()?;
        binding.bind_output(output.name.as_str(), DynTensor::new(&from, output.element, output.dims.clone()).ort()?).ort()?;
        let input_memory = DynTensor::new(&to, input.element, input.dims.clone()).ort()?;
        Ok(Self { session, binding, name: input.name.clone(), input: input_memory })
    }

    /// Runs a batch, and hands its output on.
    pub fn run<T>(&mut self, latents: &[f32], runs: &RunOptions, take: impl FnOnce(&DynValue) -> Result<T>) -> Result<T> {
        fill(&mut self.input, latents)?;
        self.binding.bind_input(self.name.as_str(), &self.input).ort()?;
        let outputs = self.session.run_binding_with_options(&self.binding, runs).ort()?;
        take(only(&outputs)?)
    }
}

/// Puts latents into an input, rounded if it is of half precision.
pub(super) fn fill(input: &mut DynTensor, latents: &[f32]) -> Result<()> {
    let wrong = || Error::Ort(format!("{} latents for an input of {:?}", latents.len(), input.shape()));
    if latents.len() as i64 != input.shape().iter().product::<i64>() {
        return Err(wrong());
    }
    if *input.data_type() == TensorElementType::Float16 {
        let (_, values) = input.try_extract_tensor_mut::<f16>().ort()?;
        values.iter_mut().zip(latents).for_each(|(value, &latent)| *value = f16::from_f32(latent));
    } else {
        input.try_extract_tensor_mut::<f32>().ort()?.1.copy_from_slice(latents);
    }
    Ok(())
}

/// The one output; by position, for its name is up to the file.
pub(super) fn only<'a>(outputs: &'a SessionOutputs<'_>) -> Result<&'a DynValue> {
    if outputs.len() == 0 {
        return Err(Error::Ort("the run gave no output".into()));
    }
    Ok(&outputs[0])
}
