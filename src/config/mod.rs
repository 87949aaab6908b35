//! What a training run is made of: [`TrainConfig`], its presets, its checks, and the same system in other sizes.

mod checks;
mod choose;
mod keys;
mod load;
mod overrides;
mod reference;
pub(crate) mod resize;
pub(crate) mod schedule;
mod schema;
mod values;

pub use choose::Facts;
pub use keys::REFERENCE;
pub use load::{PRESETS, parse_table, preset_table, resized, set};
pub use overrides::Overrides;
pub use reference::with_all_keys;
pub use resize::SIZES;
pub use schedule::{CriticWarmup, DecayCurve, Factors, GeneratorLatents, LrDecay, Precision, Ramp, Rates, Schedule, Span};
pub use schema::{NetworkConfig, Norm, OptimizerPair, OutputConfig, TrainConfig, WatchConfig};
pub use values::StepValues;

pub use crate::augment::Augment;
pub use crate::data::{DataConfig, Sources};
pub use crate::loss::{LossConfig, Reduction};
pub use crate::nn::init::{Init, InitConfig};
pub use crate::optim::OptimizerConfig;
pub use crate::penalty::PenaltyConfig;
