//! One image file's bytes, decoded; and why they may not be.

use std::fmt;
use std::io::Cursor;
use std::sync::MutexGuard;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits};

/// The most memory one encoded, and one decoded, image may take: a small file can promise a huge image. What is larger is read in
/// parts, if it can be; what is not must keep its pixels, for data sets are known by them.
pub(super) const MAX_BYTES: u64 = 256 << 20;

/// Why an image is left out.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It cannot be decoded, at any rate not by this program.
    Broken(String),
    /// It might be, but not in the memory that one image may take; says the limit.
    TooLarge(String),
}

impl Refusal {
    pub fn broken(format: ImageFormat, why: impl fmt::Display) -> Self {
        Self::Broken(format!("broken {}: {why}", format!("{format:?}").to_uppercase()))
    }
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Broken(why)
    }
}

/// An image with its colours and transparent parts.
pub(super) struct Decoded {
    /// All of it, or a smaller form of it, or of its central square.
    pub image: DynamicImage,
    /// Width and height, whatever is left of them.
    pub pixels: [u32; 2],
    /// Held for as long as it is in memory, if it takes so much that there can only be one.
    pub turn: Option<Turn>,
}

/// Only one of the images that are decoded as a whole is in memory. Nothing that runs on the pool of threads may be called with it:
/// the pool could give the waiting thread another image.
pub(super) type Turn = MutexGuard<'static, ()>;

/// Decodes an image as a whole, if its sides and the memory that it takes stay within limits.
pub(super) fn whole(encoded: &[u8], format: ImageFormat, side: u32, bytes: u64) -> ImageResult<DynamicImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(side);
    limits.max_image_height = Some(side);
    limits.max_alloc = Some(bytes);
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
}

pub(super) fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}
