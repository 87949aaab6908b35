//! Activations as plain values: which there are.

/// A function of single values whose derivative follows from its result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// x.
    None,
    /// max(x, slope · x): LeakyReLU, ReLU with slope 0.
    Rectifier {
        /// The factor on negative values, 0 to 1.
        slope: f64,
    },
    /// tanh x.
    Tanh,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
}

impl Activation {
    /// Whether it has a second derivative.
    pub(super) fn is_bent(self) -> bool {
        matches!(self, Self::Tanh | Self::Sigmoid)
    }
}
