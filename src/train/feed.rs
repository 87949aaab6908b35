//! How the numbers of a round come to its device.

use candle_core::{Device, Shape, Tensor};

use super::draw::Draw;
use crate::error::Result;
#[cfg(feature = "cuda")]
use crate::nn::cuda::upload::{Room, measured};
use crate::nn::upload::{Values, upload};

/// A way for a round's numbers.
#[derive(Default)]
pub(super) enum Feed {
    /// Each by itself, and constants of kernels with the kernels.
    #[default]
    Plain,
    /// Each by itself, constants, too; how many f32, f64 and u32 they are is counted.
    #[cfg(feature = "cuda")]
    Counted([usize; 3]),
    /// All together to places of theirs; which they were is noted.
    #[cfg(feature = "cuda")]
    Placed(Box<Room>, Vec<Draw>),
}

#[cfg(feature = "cuda")]
impl Feed {
    /// How many numbers it counted.
    pub fn lengths(&self) -> [usize; 3] {
        match self {
            Self::Counted(lengths) => *lengths,
            Self::Plain | Self::Placed(..) => [0; 3],
        }
    }

    /// The places of its numbers, and which these were.
    pub fn placed(self) -> Option<(Box<Room>, Vec<Draw>)> {
        match self {
            Self::Placed(room, draws) => Some((room, draws)),
            Self::Plain | Self::Counted(_) => None,
        }
    }
}

impl Feed {
    /// Whether kernels take their constants by value.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Brings numbers to the device, as a tensor of this shape.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn give(&mut self, draw: Draw, values: Values, shape: Shape, device: &Device) -> Result<Tensor> {
        #[cfg(not(feature = "cuda"))]
        let _ = draw;
        Ok(match self {
            Self::Plain => upload(values, shape, device)?,
            #[cfg(feature = "cuda")]
            Self::Counted(lengths) => {
                let (kind, len) = measured(&values);
                lengths[kind] += len;
                upload(values, shape, device)?
            }
            #[cfg(feature = "cuda")]
            Self::Placed(room, draws) => {
                draws.push(draw);
                room.place(&values, shape)?
            }
        })
    }
}
