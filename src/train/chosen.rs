//! Which images a batch is of.

/// Which training images a batch is of, by their numbers in the data set.
pub(super) struct Chosen {
    pub indices: Vec<u32>,
    /// Which of them are mirrored; empty where none is.
    pub mirrored: Vec<bool>,
}

impl Chosen {
    /// Whether image number `at` of the batch is mirrored.
    #[cfg(feature = "cuda")]
    pub fn is_mirrored(&self, at: usize) -> bool {
        self.mirrored.get(at).copied().unwrap_or(false)
    }
}
