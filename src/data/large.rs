//! Images that as a whole would take more memory than one may: read in less of it, no larger than they are needed.
//!
//! A JPEG file is decoded at a half, a quarter or an eighth of its size, a PNG file row by row into averages of squares of
//! pixels. Other formats, and PNG and JPEG files that are made to appear bit by bit, are only to be had as a whole: one at a time,
//! whatever the number of threads.

use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use jpeg_decoder::{CodingProcess, PixelFormat};
use png::Transformations;

use super::encoded::{Decoded, MAX_BYTES, Refusal, Turn, over_white, whole};
use crate::memory;
use crate::text::grouped;

/// The most pixels in width and height.
const MAX_SIDE: u32 = 65_535;
/// The most pixels: a small file can promise so many that decoding would not end.
const MAX_PIXELS: u64 = 1 << 30;
/// The most bytes that are decoded as a whole, one image at a time.
const MAX_WHOLE: u64 = 1 << 30;
/// How many times as long as a file its contents may be, where they are decoded as a whole: deflate reaches 1032, LZW 1365.
const MAX_RATIO: u64 = 2000;

/// Decodes for `size` pixels in height and width, or says that it is too large.
pub(super) fn read(encoded: &[u8], format: ImageFormat, size: usize) -> Result<Decoded, Refusal> {
    let (pixels, bytes, orientation) = header(encoded, format)?;
    let [width, height] = pixels;
    let count = u64::from(width) * u64::from(height);
    if width.max(height) > MAX_SIDE || count > MAX_PIXELS {
        let [width, height] = [width, height].map(|side| grouped(side as usize));
        let limit = format!("{} pixels a side and {} in all", grouped(MAX_SIDE as usize), grouped(MAX_PIXELS as usize));
        return Err(Refusal::TooLarge(format!("{width}×{height} pixels; the limit is {limit}")));
    }
    let parts = match format {
        ImageFormat::Jpeg => Some(jpeg(encoded, size)?),
        ImageFormat::Png => png(encoded, size)?.map(|image| (image, None)),
        _ => None,
    };
    let (image, turn) = match parts {
        Some((mut image, turn)) => {
            image.apply_orientation(orientation);
            (image, turn)
        }
        None => at_once(encoded, format, bytes)?,
    };
    let turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let pixels = if turned { [height, width] } else { pixels };
    Ok(Decoded { image, pixels, turn })
}

/// Width and height, bytes as a whole, and how it is to be turned.
fn header(encoded: &[u8], format: ImageFormat) -> Result<([u32; 2], u64, Orientation), Refusal> {
    let broken = |e| Refusal::broken(format, e);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let orientation = decoder.orientation().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    Ok(([width, height], decoder.total_bytes(), orientation))
}

fn at_once(encoded: &[u8], format: ImageFormat, bytes: u64) -> Result<(DynamicImage, Option<Turn>), Refusal> {
    let turn = turn(encoded, format, bytes)?;
    let image = whole(encoded, format, MAX_SIDE, MAX_WHOLE).map_err(|e| Refusal::broken(format, e))?;
    Ok((image, Some(turn)))
}

/// Waits until no other image is decoded as a whole. What is promised must be likely, and there must be room for it.
fn turn(encoded: &[u8], format: ImageFormat, bytes: u64) -> Result<Turn, Refusal> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let needs = format!("it takes {} bytes as a whole, which this kind of {} needs", grouped(bytes as usize), name(format));
    if bytes > MAX_WHOLE {
        return Err(Refusal::TooLarge(format!("{needs}; the limit is {}", grouped(MAX_WHOLE as usize))));
    }
    if bytes > (encoded.len() as u64).saturating_mul(MAX_RATIO) {
        let what = format!("it promises {} bytes, more than its {} hold", grouped(bytes as usize), grouped(encoded.len()));
        return Err(Refusal::broken(format, what));
    }
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // It is held once more while its colours are converted.
    if memory::is_there(2 * bytes) { Ok(turn) } else { Err(Refusal::TooLarge(format!("{needs}; there is no memory for it"))) }
}

fn name(format: ImageFormat) -> String {
    format!("{format:?}").to_uppercase()
}

/// At the largest of the scales that leave twice the size wanted, or a smaller one if that is still too much.
fn jpeg(encoded: &[u8], size: usize) -> Result<(DynamicImage, Option<Turn>), Refusal> {
    let broken = |e: jpeg_decoder::Error| Refusal::broken(ImageFormat::Jpeg, e);
    let mut decoder = jpeg_decoder::Decoder::new(Cursor::new(encoded));
    decoder.read_info().map_err(broken)?;
    let info = decoder.info().ok_or_else(|| Refusal::broken(ImageFormat::Jpeg, "it has no frame"))?;
    let (width, height, samples) = (info.width, info.height, info.pixel_format.pixel_bytes() as u64);
    let bytes = u64::from(width) * u64::from(height) * samples;
    let turn = match info.coding_process {
        CodingProcess::DctSequential => None,
        // Coefficients of 16 bits for each value, all of them until the end.
        _ => Some(turn(encoded, ImageFormat::Jpeg, 2 * bytes)?),
    };
    let mut divisor = shrinking(u32::from(width.min(height)), size).clamp(1, 8);
    divisor = 1 << divisor.ilog2();
    while divisor < 8 && bytes / u64::from(divisor * divisor) > MAX_BYTES {
        divisor *= 2;
    }
    let part = |side: u16| side.div_ceil(divisor as u16); // at most 8
    let (width, height) = decoder.scale(part(width), part(height)).map_err(broken)?;
    let pixels = decoder.decode().map_err(broken)?;
    let [width, height] = [width, height].map(u32::from);
    let image = match info.pixel_format {
        PixelFormat::L8 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        PixelFormat::L16 => {
            let high = pixels.chunks_exact(2).map(|pair| (u16::from_ne_bytes([pair[0], pair[1]]) >> 8) as u8);
            GrayImage::from_raw(width, height, high.collect()).map(DynamicImage::from)
        }
        PixelFormat::RGB24 => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        PixelFormat::CMYK32 => RgbImage::from_raw(width, height, rgb_of_inks(&pixels)).map(DynamicImage::from),
    };
    let image = image.ok_or_else(|| Refusal::broken(ImageFormat::Jpeg, "it has fewer pixels than it promises"))?;
    Ok((image, turn))
}

/// By which whole number a side can be divided so that twice the size wanted is left.
fn shrinking(side: u32, size: usize) -> u32 {
    side / (2 * size as u32).max(1)
}

fn rgb_of_inks(pixels: &[u8]) -> Vec<u8> {
    let of = |ink: u8, black: u8| (u16::from(255 - ink) * u16::from(255 - black) / 255) as u8;
    pixels.chunks_exact(4).flat_map(|inks| [0, 1, 2].map(|at| of(inks[at], inks[3]))).collect()
}

/// The central square, row by row; `None` if the rows come in several passes.
fn png(encoded: &[u8], size: usize) -> Result<Option<DynamicImage>, Refusal> {
    let broken = |e: png::DecodingError| Refusal::broken(ImageFormat::Png, e);
    let limits = png::Limits { bytes: MAX_BYTES as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(encoded), limits);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(broken)?;
    if reader.info().interlaced {
        return Ok(None);
    }
    let ((width, height), (colours, _)) = (reader.info().size(), reader.output_color_type());
    let mut averages = Averages::new([width, height].map(|side| side as usize), colours.samples(), size);
    for row in 0..height as usize {
        let pixels = reader.next_row().map_err(broken)?;
        let pixels = pixels.ok_or_else(|| Refusal::broken(ImageFormat::Png, "it ends early"))?;
        averages.add(row, pixels.data());
    }
    averages.image().map(Some).ok_or_else(|| Refusal::broken(ImageFormat::Png, "it has fewer pixels than it promises"))
}

/// The central square of an image that comes row by row, over white: a pixel for the average of so many. What does not fill a pixel
/// is left out at the edges, less than a quarter of one of the pixels wanted at each.
struct Averages {
    /// The row and the column where the square begins.
    first: [usize; 2],
    /// How many pixels in height and width become one.
    factor: usize,
    /// Height and width afterwards.
    side: usize,
    /// Values of a pixel that comes: grey or RGB, perhaps with alpha.
    samples: usize,
    /// Of the pixels of a row that is under way.
    sums: Vec<u32>,
    pixels: Vec<u8>,
}

impl Averages {
    fn new([width, height]: [usize; 2], samples: usize, size: usize) -> Self {
        /// So that a sum of bytes fits into 32 bits.
        const LARGEST: u32 = 4096;
        let square = width.min(height);
        let factor = shrinking(square as u32, size).clamp(1, LARGEST) as usize;
        let side = square / factor;
        let first = [height, width].map(|all| (all - side * factor) / 2);
        let colours = if samples < 3 { 1 } else { 3 };
        Self { first, factor, side, samples, sums: vec![0; side * colours], pixels: Vec::with_capacity(side * side * colours) }
    }

    fn add(&mut self, row: usize, pixels: &[u8]) {
        let Self { first: [top, left], factor, side, samples, .. } = *self;
        let Some(inside) = row.checked_sub(top).filter(|row| *row < side * factor) else { return };
        let colours = if samples < 3 { 1 } else { 3 };
        let square = pixels.get(left * samples..).unwrap_or_default();
        for (sums, pixels) in self.sums.chunks_exact_mut(colours).zip(square.chunks_exact(factor * samples)) {
            for pixel in pixels.chunks_exact(samples) {
                let alpha = if samples > colours { pixel[colours] } else { u8::MAX };
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += u32::from(over_white(*value, alpha)));
            }
        }
        if (inside + 1) % factor == 0 {
            let count = (factor * factor) as u32;
            self.pixels.extend(self.sums.iter().map(|sum| ((sum + count / 2) / count) as u8));
            self.sums.fill(0);
        }
    }

    /// `None` unless all rows have come.
    fn image(self) -> Option<DynamicImage> {
        let side = self.side as u32;
        match self.samples {
            1 | 2 => GrayImage::from_raw(side, side, self.pixels).map(DynamicImage::from),
            _ => RgbImage::from_raw(side, side, self.pixels).map(DynamicImage::from),
        }
    }
}
