//! The classes of the images of a generator that was told classes: the latents of each choose one.

use super::conditioning::Conditioning;
use super::generator::Generator;
use super::selection::Selection;
use crate::latent::Latent;

/// A label is one byte.
const MOST_CLASSES: usize = 256;

/// Tells the class of each image of a job.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    selection: Selection,
    conditioning: Conditioning,
    latent: Latent,
    classes: usize,
}

impl Labels {
    /// Of a job; `None` where the generator knows no classes, or a file says that there are more than a label can tell.
    pub fn of(generator: &Generator, selection: &Selection, conditioning: Conditioning) -> Option<Self> {
        let classes = generator.contract().map_or(0, |contract| contract.classes);
        let labels = || Self { selection: selection.clone(), conditioning, latent: generator.latent(), classes };
        (1..=MOST_CLASSES).contains(&classes).then(labels)
    }

    /// How many classes there are, at most [`MOST_CLASSES`].
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class of the image at a place, from 0: the number of the largest of the latents that choose it.
    pub fn at(&self, place: u64) -> u8 {
        let latents = self.selection.latents(self.latent, &self.conditioning, place, 1);
        let choosing = latents.iter().take(self.classes).enumerate();
        let largest = choosing.max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(number, _)| number);
        largest as u8 // there are at most [`MOST_CLASSES`]
    }
}
