//! Tensors ↔ pixels, grids, PNG.

use std::path::Path;
use std::str::FromStr;

use png::{BitDepth, ColorType, Compression, Encoder, Filter};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// The value range of a network's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Range {
    /// [-1, 1], as a tanh output has it.
    Tanh,
    /// [0, 1], as a sigmoid output has it.
    Sigmoid,
    /// [0, 255].
    Byte,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = [Self::Tanh, Self::Sigmoid, Self::Byte].into_iter();
        all.find(|range| range.name() == text).ok_or_else(|| "expected tanh, sigmoid or byte".to_string())
    }
}

impl Range {
    /// The name used in configs, metadata and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Byte => "byte",
        }
    }

    /// `(scale, shift)` with `pixel = floor(clamp(value · scale + shift, 0, 255))`: rounding to the nearest pixel value.
    pub fn to_pixel(self) -> (f32, f32) {
        match self {
            Self::Tanh => (127.5, 128.0),
            Self::Sigmoid => (255.0, 0.5),
            Self::Byte => (1.0, 0.5),
        }
    }

    /// One value as a pixel. NaN becomes 0.
    pub fn pixel(self, value: f32) -> u8 {
        let (scale, shift) = self.to_pixel();
        (value * scale + shift) as u8 // `as` saturates and truncates
    }

    /// The value of each of the 256 pixels in this range.
    pub fn values(self) -> [f32; 256] {
        std::array::from_fn(|pixel| match self {
            Self::Tanh => pixel as f32 / 127.5 - 1.0,
            Self::Sigmoid => pixel as f32 / 255.0,
            Self::Byte => pixel as f32,
        })
    }
}

/// Pixels of border on a sheet of images.
pub(crate) const GAP: usize = 2;

/// `n` images of one size, 8 bits a channel, as `[n, height, width, channels]`; 1 channel is grey, 3 are RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// How many.
    pub n: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `n · height · width · channels` bytes.
    pub pixels: Vec<u8>,
}

impl Images {
    /// From a network's `[n, channels, height, width]` values.
    pub fn from_nchw(values: &[f32], [n, channels, height, width]: [usize; 4], range: Range) -> Self {
        let area = height * width;
        let mut pixels = vec![0; n * channels * area];
        let image_len = (channels * area).max(1);
        for (image, out) in values.chunks(image_len).zip(pixels.chunks_mut(image_len)) {
            for (channel, plane) in image.chunks(area.max(1)).enumerate() {
                for (at, &value) in plane.iter().enumerate() {
                    out[at * channels + channel] = range.pixel(value);
                }
            }
        }
        Self { n, height, width, channels, pixels }
    }

    /// From values `[n, height, width, channels]`.
    pub fn from_nhwc(values: &[f32], [n, height, width, channels]: [usize; 4], range: Range) -> Self {
        Self { n, height, width, channels, pixels: values.iter().map(|&value| range.pixel(value)).collect() }
    }

    /// The bytes of one image.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Image number `index`, as bytes; `None` beyond the end.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.pixels.chunks_exact(self.bytes().max(1)).nth(index)
    }

    /// Images `range`, clipped to what there is.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let range = range.start.min(self.n)..range.end.min(self.n).max(range.start.min(self.n));
        let pixels = self.pixels[range.start * self.bytes()..range.end * self.bytes()].to_vec();
        Self { n: range.len(), pixels, ..*self }
    }

    /// The fewest columns that make a sheet of `n` images at least as wide as high, for square images.
    pub fn square_columns(n: usize) -> usize {
        n.isqrt() + usize::from(n.isqrt().pow(2) < n)
    }

    /// All images on one sheet, row by row, with a thin border of mid-grey between them.
    pub fn grid(&self, columns: usize) -> Self {
        let columns = columns.clamp(1, self.n.max(1));
        let rows = self.n.div_ceil(columns);
        let (height, width) = (rows * (self.height + GAP) + GAP, columns * (self.width + GAP) + GAP);
        let mut pixels = vec![128; height * width * self.channels];
        let line = self.width * self.channels;
        for (index, image) in self.pixels.chunks_exact(self.bytes().max(1)).enumerate() {
            let top = GAP + index / columns * (self.height + GAP);
            let left = GAP + index % columns * (self.width + GAP);
            for (y, row) in image.chunks_exact(line).enumerate() {
                let start = ((top + y) * width + left) * self.channels;
                pixels[start..start + line].copy_from_slice(row);
            }
        }
        Self { n: 1, height, width, channels: self.channels, pixels }
    }
}

/// One image as a PNG file's bytes.
///
/// # Errors
/// When `pixels` is not `height · width · channels` long, or `channels` is neither 1 nor 3.
pub fn encode_png(pixels: &[u8], height: usize, width: usize, channels: usize) -> Result<Vec<u8>> {
    let color = match channels {
        1 => ColorType::Grayscale,
        3 => ColorType::Rgb,
        _ => return Err(Error::usage(format!("cannot write {channels} channels as PNG"), "Images have 1 or 3 channels.")),
    };
    if pixels.is_empty() || pixels.len() != height * width * channels {
        let what = format!("{} bytes are no image of {height}×{width} with {channels} channels", pixels.len());
        return Err(Error::usage(what, "Give height · width · channels bytes."));
    }
    let mut png = Vec::with_capacity(pixels.len() / 2 + 128);
    let mut encoder = Encoder::new(&mut png, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels));
    written.map_err(|e| Error::invalid("PNG encoder", e.to_string(), "This is a defect of ganforge; please report it."))?;
    Ok(png)
}

/// Writes images as one contact sheet, atomically.
///
/// # Errors
/// When the file cannot be written.
pub fn save_grid(images: &Images, columns: usize, path: impl AsRef<Path>) -> Result<()> {
    let sheet = images.grid(columns);
    files::write_atomic(path.as_ref(), &encode_png(&sheet.pixels, sheet.height, sheet.width, sheet.channels)?)
}
