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
    let input = Shape::Flat(config.latent.size);
    Network::new(&config.generator.layers, input, &config.init, Role::Generator, config.seed, &place(config, device, dtype))
}

/// The critic of a config at its beginning.
///
/// # Errors
/// When the device is out of memory.
pub fn critic_network(config: &TrainConfig, device: &Device, dtype: DType) -> Result<Network> {
    Network::new(
        &config.critic.layers,
        config.image_shape(),
        &config.init,
        Role::Critic,
        config.seed,
        &place(config, device, dtype),
    )
}

fn place(config: &TrainConfig, device: &Device, dtype: DType) -> Place {
    Place { device: device.clone(), dtype, precision: config.schedule.precision }
}
