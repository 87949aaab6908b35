//! What steps tell of themselves, added up on the device: reading a number at every step would make a GPU wait.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::nn::in_place::InPlace;
use crate::nn::update::lerp;

/// Means over the steps since they were last taken.
#[derive(Debug, Clone, Copy)]
pub struct Means {
    /// The critic's loss.
    pub loss_critic: f64,
    /// The generator's loss.
    pub loss_generator: f64,
    /// The critic's raw score of real images.
    pub score_real: f64,
    /// The critic's raw score of generated images, in its own steps.
    pub score_fake: f64,
    /// The penalty, its weight included: of those steps in which it was taken, if it was in any.
    pub penalty: Option<f64>,
    /// The mean norm of the critic's gradient to its input, where the penalty is taken.
    pub input_gradient_norm: Option<f64>,
    /// The norm of the critic's gradient in the last step that was measured.
    pub gradient_norm_critic: Option<f64>,
    /// Likewise of the generator's.
    pub gradient_norm_generator: Option<f64>,
}

/// The sums since the means were last taken.
#[derive(Default)]
pub(super) struct Sums {
    /// Loss without the penalty, scores of real and of generated images.
    pub critic: Sum,
    /// Value and norm, of the steps that took a penalty: of all that they took.
    pub penalty: Sum,
    /// Loss, and two values more as the critic's.
    pub generator: Sum,
    pub norm_critic: Option<Tensor>,
    pub norm_generator: Option<Tensor>,
}

/// Values that are added up, and over how many steps.
#[derive(Default)]
pub(super) struct Sum {
    /// In f64. Once there, it stays where it is: captured steps add to it.
    pub values: Option<Tensor>,
    pub steps: u64,
}

impl Sum {
    /// Adds what a step tells; nothing, if it tells nothing.
    pub fn add<'a>(&mut self, told: impl IntoIterator<Item = &'a Tensor>) -> Result<()> {
        let mut any = false;
        for told in told {
            any = true;
            match &self.values {
                Some(sum) => lerp(&[(InPlace::of(sum), told)], 1.0, 1.0)?,
                None => self.values = Some(told.copy()?),
            }
        }
        self.steps += u64::from(any);
        Ok(())
    }

    /// The values, read from the device, and the number of steps; both begin anew.
    fn take(&mut self) -> Result<(Vec<f64>, u64)> {
        let steps = std::mem::take(&mut self.steps);
        let Some(values) = self.values.as_ref().filter(|_| steps > 0) else { return Ok((Vec::new(), 0)) };
        let read = values.to_vec1::<f64>()?;
        values.zero_set()?;
        Ok((read, steps))
    }
}

impl Sums {
    /// The means since the last call, where a step that takes a penalty takes so many.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn take(&mut self, penalties_a_step: u64) -> Result<Means> {
        let [critic, penalty, generator] = [&mut self.critic, &mut self.penalty, &mut self.generator].map(Sum::take);
        let ((critic, critic_steps), (penalty, penalty_steps), (generator, generator_steps)) = (critic?, penalty?, generator?);
        let mean = |sums: &[f64], at: usize, steps: u64| sums.get(at).map(|sum| sum / steps as f64);
        let total = |sums: &[f64], at: usize| sums.get(at).copied().unwrap_or(0.0);
        let read = |norm: Option<Tensor>| norm.map(|norm| norm.to_dtype(DType::F64)?.to_scalar::<f64>()).transpose();
        Ok(Means {
            // The penalty is a part of it, in the steps that took one.
            loss_critic: (total(&critic, 0) + total(&penalty, 0)) / critic_steps as f64,
            loss_generator: mean(&generator, 0, generator_steps).unwrap_or(f64::NAN),
            score_real: mean(&critic, 1, critic_steps).unwrap_or(f64::NAN),
            score_fake: mean(&critic, 2, critic_steps).unwrap_or(f64::NAN),
            penalty: mean(&penalty, 0, penalty_steps),
            input_gradient_norm: mean(&penalty, 1, penalty_steps * penalties_a_step),
            gradient_norm_critic: read(self.norm_critic.take())?,
            gradient_norm_generator: read(self.norm_generator.take())?,
        })
    }
}
