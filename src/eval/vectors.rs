//! The features of images, as vectors.

use faer::Mat;

use crate::error::{Error, Result};

/// Feature vectors of images, all finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    n: usize,
    dim: usize,
    values: Vec<f32>,
}

impl Features {
    /// From `n` rows of `dim` values.
    ///
    /// # Errors
    /// When there are not `n · dim` values, or one of them is NaN or infinite.
    pub fn new(n: usize, dim: usize, values: Vec<f32>) -> Result<Self> {
        let what = match values.iter().position(|value| !value.is_finite()) {
            _ if n.checked_mul(dim) != Some(values.len()) || dim == 0 => {
                format!("{} values, expected {n} · {dim}", values.len())
            }
            Some(at) => format!("the features of image {} hold {}", at / dim, values[at]),
            None => return Ok(Self { n, dim, values }),
        };
        Err(Error::invalid(
            "features",
            what,
            "The feature model is damaged, or takes another value range: see `features::Options::range`.",
        ))
    }

    /// How many vectors.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Values a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// One vector.
    ///
    /// # Panics
    /// When `index` is not below `len`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dim..(index + 1) * self.dim]
    }

    /// The vectors of these numbers, in this order.
    ///
    /// # Panics
    /// When a number is not below `len`.
    pub fn select(&self, indices: &[u32]) -> Self {
        let values = indices.iter().flat_map(|&index| self.row(index as usize)).copied().collect();
        Self { n: indices.len(), dim: self.dim, values }
    }

    /// In f64, a column a vector.
    pub(super) fn columns(&self) -> Mat<f64> {
        Mat::from_fn(self.dim, self.n, |at, index| f64::from(self.values[index * self.dim + at]))
    }
}
