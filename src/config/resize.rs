//! The same system for images of another size or number of channels, or with wider or narrower layers: layer lists rewritten, not
//! described anew.
//!
//! A convolutional generator grows its map in stages, a transposed convolution that doubles it and what follows, and halves
//! its channels with each; a critic goes the other way (arXiv 1511.06434). Another size means stages more or fewer at the wide end,
//! where maps are small, so that the layers next to the image stay as they are.

use super::schema::TrainConfig;
use crate::error::{Error, Result};
use crate::nn::layers::{Conv, output_shape};
use crate::nn::{LayerSpec, Shape};

/// The sizes that [`TrainConfig::with_size`] makes, in pixels.
pub const SIZES: [usize; 3] = [32, 64, 128];

impl TrainConfig {
    /// The system for images of `size` × `size` pixels. A stage that is dropped is the widest; one that is added is twice as
    /// wide as the widest there was.
    ///
    /// # Errors
    /// When the size is not one of [`SIZES`], or a network is not built of stages that lead to it.
    pub fn with_size(mut self, size: usize) -> Result<Self> {
        if !SIZES.contains(&size) {
            return Err(Error::usage(format!("size {size}"), "Choose 32, 64 or 128 pixels."));
        }
        let from = self.data.size;
        if !from.is_power_of_two() {
            let what = format!("{}: made for {from} pixels, which do not double to {size}", self.preset);
            return Err(Error::usage(what, "Choose a preset for 64 pixels, for example dcgan-64."));
        }
        let unfit = |network: &str, what: &str| {
            Error::usage(
                format!("{}: the {network} cannot be made for {size} pixels: {what}", self.preset),
                "Choose a convolutional preset for 64 pixels, for example dcgan-64, or write the layers into a config file.",
            )
        };
        let (channels, mut side) = (self.data.channels, from);
        let mut generator = self.generator.layers.clone();
        let mut critic = self.critic.layers.clone();
        for _ in 0..size.ilog2().abs_diff(from.ilog2()) {
            let image = Shape::Map { channels, height: side, width: side };
            resize_generator(&mut generator, Shape::Flat(self.latent.size), size > from).map_err(|e| unfit("generator", e))?;
            resize_critic(&mut critic, image, size > from).map_err(|e| unfit("critic", e))?;
            side = if size > from { 2 * side } else { side / 2 };
        }
        (self.generator.layers, self.critic.layers, self.data.size) = (generator, critic, size);
        self.check_networks(&format!("the config for {size} pixels"))?;
        Ok(self)
    }

    /// The system for images of so many channels: the generator's last layer with channels makes them.
    ///
    /// # Errors
    /// When it has no such layer, or the networks do not fit the images any more.
    pub fn with_channels(mut self, channels: usize) -> Result<Self> {
        if let Some(last) = self.generator.layers.iter_mut().rev().find(|layer| layer.width().is_some()) {
            last.set_width(channels);
        }
        self.data.channels = channels;
        self.check_networks(&format!("the config for {channels} channels"))?;
        Ok(self)
    }

    /// The system with `factor` times as many channels and features in every layer but the first and the last of each
    /// network, rounded, at least 1.
    ///
    /// # Errors
    /// When the factor is not from 1/64 to 16, or layers do not fit one another any more.
    pub fn with_width(mut self, factor: f64) -> Result<Self> {
        if !(1.0 / 64.0..=16.0).contains(&factor) {
            return Err(Error::usage(format!("width {factor}"), "Choose a factor from 0.015625 to 16, for example 0.25."));
        }
        widen(&mut self.generator.layers, factor);
        widen(&mut self.critic.layers, factor);
        let image = self.image_shape();
        fit_groups(&mut self.generator.layers, Shape::Flat(self.latent.size));
        fit_groups(&mut self.critic.layers, image);
        self.check_networks(&format!("the config with {factor} times the width"))?;
        Ok(self)
    }

    /// Has a generator of grey images make RGB ones, or the reverse, where `data.channels` asks for them: its last layer with kernels
    /// becomes three times as wide, or a third. Whatever else does not fit is left to the checks. (The critic takes what comes.)
    pub(super) fn apply_channels(&mut self) {
        let (image, latent) = (self.image_shape(), Shape::Flat(self.latent.size));
        let layers = &self.generator.layers;
        let Ok(made) = output_shape(layers, latent) else { return };
        let (from, to) = match (self.data.channels, made.elements()) {
            (3, elements) if elements.checked_mul(3) == Some(image.elements()) => (1, 3),
            (1, elements) if image.elements().checked_mul(3) == Some(elements) => (3, 1),
            _ => return,
        };
        let Some(last) = layers.iter().rposition(|layer| layer.width().is_some()) else { return };
        let mut layers = layers.clone();
        let channels = channels_made(&layers, last, layers[last].width().unwrap_or(0));
        set_channels_made(&mut layers, last, channels.saturating_mul(to) / from);
        if output_shape(&layers, latent).is_ok_and(|made| made.elements() == image.elements()) {
            self.generator.layers = layers;
        }
    }
}

/// Where the layers of a stage are: from one that scales a map to the next with kernels, not included; where there are residual blocks
/// among them, to the last of those.
type Stage = std::ops::Range<usize>;

/// The stages in which a layer takes the map's side by `changes(before, after)`.
fn stages(layers: &[LayerSpec], mut shape: Shape, changes: fn(usize, usize) -> bool) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let Ok(output) = layer.output(shape) else { break };
        let scaled = match (shape, output) {
            (Shape::Map { height: before, .. }, Shape::Map { height: after, .. }) => changes(before, after),
            _ => false,
        };
        if scaled {
            stages.push(index..layers.len());
        }
        if layer.width().is_some() || scaled {
            let open = stages.len().checked_sub(1 + usize::from(scaled)).and_then(|last| stages.get_mut(last));
            if let Some(stage) = open {
                stage.end = stage.end.min(index);
            }
        }
        shape = output;
    }
    for stage in &mut stages {
        let is_block = |layer: &LayerSpec| matches!(layer, LayerSpec::Residual(_));
        if let Some(last) = layers[stage.clone()].iter().rposition(is_block) {
            stage.end = stage.start + last + 1;
        }
    }
    stages
}

/// Adds a doubling of the map behind the layers that make the first map, or removes the one that is there.
fn resize_generator(layers: &mut Vec<LayerSpec>, latent: Shape, grow: bool) -> Result<(), &'static str> {
    let stages = stages(layers, latent, |before, after| before > 1 && after == 2 * before);
    let [first, _, ..] = stages.as_slice() else { return Err("it has no two layers that double the map") };
    let head = layers[..first.start].iter().rposition(|layer| layer.width().is_some());
    let head = head.ok_or("no layer makes the first map")?;
    let head_out = layers[head].width().unwrap_or(0);
    let (at, mut added) = (first.start, layers[first.clone()].to_vec());
    // What doubles the map may leave its channels as they are.
    let first_out = layers[at].width();
    if grow {
        let made = channels_made(layers, head, head_out);
        added[0].set_width(made);
        layers.splice(at..at, added);
        if first_out.is_some() {
            set_channels_made(layers, head, 2 * made);
        }
    } else {
        layers.drain(first.clone());
        if let Some(out) = first_out {
            set_channels_made(layers, head, out);
        }
    }
    Ok(())
}

/// Adds a halving of the map behind the last, or removes the last.
fn resize_critic(layers: &mut Vec<LayerSpec>, image: Shape, grow: bool) -> Result<(), &'static str> {
    let stages = stages(layers, image, |before, after| before == 2 * after);
    let [.., _, last] = stages.as_slice() else { return Err("it has no two layers that halve the map") };
    if grow {
        let mut added = layers[last.clone()].to_vec();
        if let Some(out) = added[0].width() {
            added[0].set_width(2 * out);
        }
        layers.splice(last.end..last.end, added);
    } else {
        layers.drain(last.clone());
    }
    Ok(())
}

/// Channels of the map that layer `head` makes: a linear layer's features become one in the reshape behind it.
fn channels_made(layers: &[LayerSpec], head: usize, out: usize) -> usize {
    match reshape_behind(layers, head) {
        Some(at) => match layers[at] {
            LayerSpec::Reshape([channels, ..]) => channels,
            _ => out,
        },
        None => out,
    }
}

fn set_channels_made(layers: &mut [LayerSpec], head: usize, channels: usize) {
    let mut out = channels;
    if let Some(at) = reshape_behind(layers, head)
        && let LayerSpec::Reshape([old, height, width]) = &mut layers[at]
    {
        *old = channels;
        out = channels.saturating_mul(*height).saturating_mul(*width);
    }
    layers[head].set_width(out);
}

/// The reshape that follows a linear layer before any other layer with kernels.
fn reshape_behind(layers: &[LayerSpec], head: usize) -> Option<usize> {
    let LayerSpec::Linear(_) = layers.get(head)? else { return None };
    let behind = layers.iter().enumerate().skip(head + 1);
    behind.take_while(|(_, layer)| layer.width().is_none()).find_map(|(at, layer)| match layer {
        LayerSpec::Reshape(_) => Some(at),
        _ => None,
    })
}

fn widen(layers: &mut [LayerSpec], factor: f64) {
    let with_kernels: Vec<usize> = (0..layers.len()).filter(|&at| layers[at].width().is_some()).collect();
    // What the last one makes is the image, or the score.
    let Some((_, hidden)) = with_kernels.split_last() else { return };
    for &at in hidden {
        let made = channels_made(layers, at, layers[at].width().unwrap_or(0));
        set_channels_made(layers, at, scaled(made, factor));
    }
    // What lies in a block is hidden, all of it.
    layers.iter_mut().for_each(|layer| widen_parts(layer, factor));
}

fn widen_parts(layer: &mut LayerSpec, factor: f64) {
    for layer in layer.parts_mut().into_iter().flatten() {
        if let Some(made) = layer.width() {
            layer.set_width(scaled(made, factor));
        }
        widen_parts(layer, factor);
    }
}

/// Makes groups as narrow as the channels around them ask for.
fn fit_groups(layers: &mut [LayerSpec], mut shape: Shape) {
    for layer in layers {
        layer.parts_mut().into_iter().for_each(|part| fit_groups(part, shape));
        if let LayerSpec::Conv(Conv { out, group_width: Some(width), .. }) = layer {
            let channels = shape.channels();
            let fits = |size: &usize| channels.is_multiple_of(*size) && out.is_multiple_of(channels / size);
            // Where the output has no whole share for any number of groups, the layer says so.
            *width = (1..=*width).rev().find(fits).unwrap_or(*width);
        }
        let Ok(output) = layer.output(shape) else { return };
        shape = output;
    }
}

fn scaled(width: usize, factor: f64) -> usize {
    ((width as f64 * factor).round() as usize).max(1)
}
