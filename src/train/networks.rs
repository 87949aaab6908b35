//! The two networks of a config, with the parameters that its seed gives them.

use candle_core::{DType, Device};

use crate::config::TrainConfig;
use crate::error::Result;
use crate::nn::{Network, Place, Role, Shape};

/// The generator of a config at its beginning.
///
/// # Errors
/// When the device is out of memory.
pub fn generator_network(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Network> {
    generator(config, &place(config, device, dtype))
}

/// The generator of a config on the CPU, in f32 whatever precision it is trained in: what its export is compared with.
///
/// # Errors
/// When memory is out.
pub(super) fn generator_in_f32(config: &TrainConfig) -> Result<Network> {
    generator(config, &Place::cpu(DType::F32))
}

fn generator(config: &TrainConfig, place: &Place) -> Result<Network> {
    let input = Shape::Flat(config.latent.size);
    Network::new(&config.generator.layers, input, &config.init, Role::Generator, config.seed, place)
}

/// The critic of a config at its beginning.
///
/// # Errors
/// When the device is out of memory.
pub fn critic_network(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Network> {
    let place = place(config, device, dtype);
    let critic = Network::new(&config.critic.layers, config.image_shape(), &config.init, Role::Critic, config.seed, &place)?;
    if config.critic.san { critic.with_directions_apart() } else { Ok(critic) }
}

fn place(config: &TrainConfig, device: &Device, dtype: DType) -> Place {
    Place { device: device.clone(), dtype, precision: config.schedule.precision }
}
