//! Which images the critic sees when: a function of the seed, the step and what a resume has counted ([`Shift`]).

use candle_core::{Device, Shape, Tensor};
use rayon::prelude::*;

use super::chosen::Chosen;
use super::count::Shift;
#[cfg(feature = "cuda")]
use super::pixels::Pixels;
use crate::config::TrainConfig;
use crate::config::schedule::{Rates, Schedule, Span};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::nn::upload::{Values, upload};
use crate::random::{Purpose, Stream};

/// What of a batch the host gives to the device: see [`Batches::batch_by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The numbers of images that are there already.
    #[cfg(feature = "cuda")]
    Numbers,
    /// One-hot.
    Classes,
}

/// Images with their classes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[n, size, size, c]`, in the network's range.
    pub images: Tensor,
    /// One-hot `[n, classes]`, where the networks are conditional.
    pub classes: Option<Tensor>,
}

impl From<Tensor> for Batch {
    /// Without classes.
    fn from(images: Tensor) -> Self {
        Self { images, classes: None }
    }
}

/// The training images in shuffled batches. The last batch of an epoch is kept, though it may be smaller.
pub struct Batches<'a> {
    data: &'a Dataset,
    train: Vec<u32>,
    held_out: Vec<u32>,
    values: [f32; 256],
    batch_size: usize,
    classes: usize,
    /// Whether images are mirrored at random.
    flip: bool,
    seed: u64,
    device: Device,
    /// The images on the GPU, if that is where they go and they fit.
    #[cfg(feature = "cuda")]
    resident: Option<Pixels>,
    /// Where a run is whose batches were others before.
    shift: Shift,
    /// The epoch whose order is at hand, and the order.
    order: Option<(u64, Vec<u32>)>,
}

impl<'a> Batches<'a> {
    /// Prepares the batches of a config.
    ///
    /// # Errors
    /// When the images are not of the size the config asks for, have not the classes, or are too few to be held out and
    /// trained on.
    pub fn new(data: &'a Dataset, config: &TrainConfig, device: &Device) -> Result<Self> {
        if (data.size, data.channels) != (config.data.size, config.data.channels) {
            let what = format!("{} holds images of {} pixels and {} channels", data.name, data.size, data.channels);
            return Err(Error::usage(what, "Load the data with the config's own data section."));
        }
        let foreign = |label: &u8| usize::from(*label) >= config.data.classes;
        if config.data.classes > 0 && (data.labels.len() != data.len || data.labels.iter().any(foreign)) {
            let what = format!("{} does not have the {} classes that the config asks for", data.name, config.data.classes);
            return Err(Error::usage(what, "Load the data with the config's own data section."));
        }
        let split = data.split(config.data.held_out, config.seed);
        #[cfg(feature = "cuda")]
        let resident = if device.is_cuda() {
            Pixels::upload(&data.pixels, &config.data.range.values(), data.channels, data.size, device)?
        } else {
            None
        };
        Ok(Self {
            #[cfg(feature = "cuda")]
            resident,
            data,
            train: split.train,
            held_out: split.held_out,
            values: config.data.range.values(),
            batch_size: config.schedule.batch_size,
            classes: config.data.classes,
            flip: config.data.flip,
            seed: config.seed,
            device: device.clone(),
            shift: Shift::default(),
            order: None,
        })
    }

    /// Images trained on.
    pub fn len(&self) -> usize {
        self.train.len()
    }

    /// Whether there is nothing to train on. Never so for a loaded data set.
    pub fn is_empty(&self) -> bool {
        self.train.is_empty()
    }

    /// Batches an epoch.
    fn an_epoch(&self) -> u64 {
        (self.train.len().div_ceil(self.batch_size) as u64).max(1)
    }

    /// Goes on after so many steps and images, counted with this shift, whatever the batches and the rhythm were until then.
    pub(super) fn go_on(&mut self, from: [u64; 2], counted: Shift, schedule: &Schedule) {
        self.shift = counted.after(from, schedule, self.len(), |critic_steps| self.shown(critic_steps));
    }

    /// The images, and how they are counted.
    pub(super) fn counted(&self) -> (&Dataset, Shift) {
        (self.data, self.shift)
    }

    /// A length in generator steps.
    pub(super) fn in_steps(&self, span: Span, schedule: &Schedule) -> u64 {
        self.shift.in_steps(span, schedule, self.len())
    }

    /// What changes over the run.
    pub(super) fn rates(&self, schedule: &Schedule) -> Rates {
        schedule.rates_by(self.shift.steps.saturating_neg(), |span| self.in_steps(span, schedule))
    }

    /// Real images shown in the first `critic_steps` critic steps.
    pub fn images_after(&self, critic_steps: u64) -> u64 {
        self.shift.images(self.shown(self.shift.critic_steps(critic_steps)))
    }

    /// The same, had the batches always been as they are.
    fn shown(&self, critic_steps: u64) -> u64 {
        let len = self.train.len() as u64;
        let of_this_epoch = (critic_steps % self.an_epoch() * self.batch_size as u64).min(len);
        critic_steps / self.an_epoch() * len + of_this_epoch
    }

    /// Epochs shown in the first `critic_steps` critic steps, with the fraction of the one under way.
    pub fn epochs_after(&self, critic_steps: u64) -> f64 {
        self.images_after(critic_steps) as f64 / self.train.len().max(1) as f64
    }

    /// Whether every batch is uploaded from the host, because the images do not fit on the GPU beside the networks.
    pub fn are_uploaded(&self) -> bool {
        #[cfg(feature = "cuda")]
        return self.device.is_cuda() && self.resident.is_none();
        #[cfg(not(feature = "cuda"))]
        false
    }

    /// The images of critic step number `critic_step` (from 0).
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn get(&mut self, critic_step: u64) -> Result<Batch> {
        let chosen = self.chosen(critic_step);
        self.batch(&chosen)
    }

    /// Which images those are.
    pub(super) fn chosen(&mut self, critic_step: u64) -> Chosen {
        let first = self.images_after(critic_step);
        let critic_step = self.shift.critic_steps(critic_step);
        let (epoch, batch) = (critic_step / self.an_epoch(), (critic_step % self.an_epoch()) as usize);
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            let order = Stream::at(self.seed, Purpose::Shuffle, epoch).permutation(self.train.len() as u32);
            self.order = Some((epoch, order));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, order)| order);
        let places = order.chunks(self.batch_size).nth(batch).unwrap_or_default();
        let indices = places.iter().map(|&place| self.train[place as usize]).collect();
        // By the place of each image in the run, which no other image has.
        self.mirrored(indices, |at| Stream::at(self.seed, Purpose::Flip, first + at).below(2) == 1)
    }

    /// How many images critic step number `critic_step` has.
    #[cfg(feature = "cuda")]
    pub(super) fn batch_len(&self, critic_step: u64) -> usize {
        (self.images_after(critic_step + 1) - self.images_after(critic_step)) as usize
    }

    /// `n` training images for generator step number `step` (from 0), each drawn from all of them: the critic does not learn from
    /// these, so they count in no epoch.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn drawn(&self, step: u64, n: usize) -> Result<Batch> {
        self.batch(&self.chosen_for_generator(step, n))
    }

    /// Which images those are.
    pub(super) fn chosen_for_generator(&self, step: u64, n: usize) -> Chosen {
        let mut random = Stream::at(self.seed, Purpose::GeneratorReal, step);
        let mut draw = || self.train.get(random.below(self.train.len().max(1) as u32) as usize).copied();
        let indices = (0..n).map_while(|_| draw()).collect();
        self.mirrored(indices, |_| random.below(2) == 1)
    }

    /// Images of which those are mirrored that are drawn to be, by their numbers in the batch, if images are mirrored at all.
    fn mirrored(&self, indices: Vec<u32>, mut is_mirrored: impl FnMut(u64) -> bool) -> Chosen {
        let drawn = if self.flip { indices.len() as u64 } else { 0 };
        Chosen { indices, mirrored: (0..drawn).map(&mut is_mirrored).collect() }
    }

    /// The first batch of the training images and of the held-out ones, if any are held out.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn fixed(&self) -> Result<Option<[Batch; 2]>> {
        if self.held_out.is_empty() {
            return Ok(None);
        }
        let held_out = self.upload(&self.held_out[..self.held_out.len().min(self.batch_size)])?;
        Ok(Some([self.first(self.batch_size)?, held_out]))
    }

    /// The first `n` training images, or all if they are fewer.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn first(&self, n: usize) -> Result<Batch> {
        self.upload(&self.train[..self.train.len().min(n)])
    }

    /// `n` training images at even distances, or all if they are fewer: folders are sorted, and like stands beside like.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn spaced(&self, n: usize) -> Result<Batch> {
        let (len, n) = (self.train.len(), n.min(self.train.len()));
        self.upload(&(0..n).map(|at| self.train[at * len / n]).collect::<Vec<_>>())
    }

    fn upload(&self, indices: &[u32]) -> Result<Batch> {
        self.batch(&Chosen { indices: indices.to_vec(), mirrored: Vec::new() })
    }

    fn batch(&self, chosen: &Chosen) -> Result<Batch> {
        self.batch_by(chosen, |part, shape| Ok(upload(self.values_of(part, chosen)?, shape, &self.device)?))
    }

    /// The batch of these images, `give` bringing to the device what it does not have of it, as a tensor of that shape.
    pub(super) fn batch_by(&self, chosen: &Chosen, mut give: impl FnMut(Part, Shape) -> Result<Tensor>) -> Result<Batch> {
        let n = chosen.indices.len();
        let classes = if self.classes > 0 { Some(give(Part::Classes, (n, self.classes).into())?) } else { None };
        #[cfg(feature = "cuda")]
        if let Some(pixels) = &self.resident {
            return Ok(Batch { images: pixels.gather(&give(Part::Numbers, n.into())?)?, classes });
        }
        let images = self.upload_images(&chosen.indices)?;
        let images = if chosen.mirrored.is_empty() { images } else { flipped(&images, &chosen.mirrored)? };
        Ok(Batch { images, classes })
    }

    /// A part of the batch of these images.
    pub(super) fn values_of(&self, part: Part, chosen: &Chosen) -> Result<Values> {
        match part {
            #[cfg(feature = "cuda")]
            Part::Numbers => match &self.resident {
                Some(pixels) => Ok(Values::U32(pixels.numbers(chosen)?)),
                None => {
                    Err(candle_core::Error::Msg("images that are not on the device have no numbers there".to_string()).into())
                }
            },
            Part::Classes => {
                let mut values = vec![0.0f32; chosen.indices.len() * self.classes];
                for (row, &index) in values.chunks_exact_mut(self.classes.max(1)).zip(&chosen.indices) {
                    row[usize::from(self.data.labels[index as usize])] = 1.0;
                }
                Ok(Values::F32(values))
            }
        }
    }

    /// What of the images lies on the device.
    #[cfg(feature = "cuda")]
    pub(super) fn on_device(&self) -> Option<Tensor> {
        self.resident.as_ref().map(|pixels| pixels.bytes().clone())
    }

    fn upload_images(&self, indices: &[u32]) -> Result<Tensor> {
        let (c, size) = (self.data.channels, self.data.size);
        let mut values = vec![0.0f32; indices.len() * c * size * size];
        values.par_chunks_mut((c * size * size).max(1)).zip(indices).for_each(|(values, &index)| {
            // Stored channel by channel; the networks want channels last.
            for (channel, plane) in self.data.image(index as usize).chunks_exact(size * size).enumerate() {
                for (at, &pixel) in plane.iter().enumerate() {
                    values[at * c + channel] = self.values[usize::from(pixel)];
                }
            }
        });
        Ok(upload(Values::F32(values), (indices.len(), size, size, c), &self.device)?)
    }
}

/// Images `[n, h, w, c]`, some of them mirrored: by candle's operations, which any device has.
fn flipped(images: &Tensor, flips: &[bool]) -> Result<Tensor> {
    let (n, _, width, _) = images.dims4()?;
    let backwards: Vec<u32> = (0..width as u32).rev().collect();
    let mirrored = images.index_select(&upload(Values::U32(backwards), width, images.device())?, 2)?;
    // Each from the images as they are, or from the mirrored ones behind them.
    let chosen: Vec<u32> = (0..).zip(flips).map(|(index, flip)| if *flip { n as u32 + index } else { index }).collect();
    let both = Tensor::cat(&[images, &mirrored], 0)?;
    Ok(both.index_select(&upload(Values::U32(chosen), n, images.device())?, 0)?)
}
