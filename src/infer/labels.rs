//! The classes of the images of a generator that was told classes: the latents of each choose one. Where there are files only, they tell them.

use std::sync::Arc;

use super::conditioning::Conditioning;
use super::generator::Generator;
use super::selection::Selection;
use crate::latent::Latent;

/// A label is one byte.
const MOST_CLASSES: usize = 256;

/// Tells the class of each image of a job.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    classes: usize,
    told: By,
}

/// What tells them.
#[derive(Debug, Clone)]
enum By {
    Latents {
        selection: Selection,
        conditioning: Conditioning,
        latent: Latent,
    },
    /// A label each, from a place on.
    Files {
        first: u64,
        labels: Arc<[u8]>,
    },
}

impl Labels {
    /// Of a job; `None` where the generator knows no classes, or a file says that there are more than a label can tell.
    pub fn of(generator: &Generator, selection: &Selection, conditioning: Conditioning) -> Option<Self> {
        let classes = generator.contract().map_or(0, |contract| contract.classes);
        let told = || By::Latents { selection: selection.clone(), conditioning, latent: generator.latent() };
        (1..=MOST_CLASSES).contains(&classes).then(|| Self { classes, told: told() })
    }

    /// Those of images from the place `first` on, as files have them; `None` where there cannot be so many classes.
    pub fn of_files(classes: u64, first: u64, labels: Vec<u8>) -> Option<Self> {
        let classes = usize::try_from(classes).ok().filter(|classes| (1..=MOST_CLASSES).contains(classes))?;
        Some(Self { classes, told: By::Files { first, labels: labels.into() } })
    }

    /// How many classes there are, at most [`MOST_CLASSES`].
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The class of the image at a place, from 0: the number of the largest of the latents that choose it.
    pub fn at(&self, place: u64) -> u8 {
        let (selection, conditioning, latent) = match &self.told {
            By::Latents { selection, conditioning, latent } => (selection, conditioning, latent),
            By::Files { first, labels } => {
                let at = usize::try_from(place.saturating_sub(*first)).unwrap_or(usize::MAX);
                return labels.get(at).copied().unwrap_or(0); // there is one for each image of a job
            }
        };
        let latents = selection.latents(*latent, conditioning, place, 1);
        let choosing = latents.iter().take(self.classes).enumerate();
        let largest = choosing.max_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(number, _)| number);
        largest as u8 // there are at most [`MOST_CLASSES`]
    }
}
