//! One image file's bytes → planar pixels of the size and channels asked for.

use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

/// The most memory one encoded, and one decoded, image may take: a small file can promise a huge image.
pub(super) const MAX_BYTES: u64 = 256 << 20;

/// The most pixels in width and height, for the same reason.
const MAX_SIDE: u32 = 16_384;

/// What the image was before it was fitted.
pub(super) struct Original {
    pub width: u32,
    pub height: u32,
    /// Whether any pixel is coloured.
    pub colour: bool,
}

/// Decodes into `out`, `[channels, size, size]`, or gives the reason why not. The format is told by the contents; the
/// first frame of an animation counts; EXIF orientation is applied.
pub(super) fn decode(encoded: &[u8], size: usize, channels: usize, out: &mut [u8]) -> Result<Original, String> {
    // A decoder's panic is a defect of it that one odd file brings out: that must not end the loading of the others.
    let image = catch_unwind(AssertUnwindSafe(|| read(encoded))).unwrap_or_else(|_| Err("the decoder failed".to_string()))?;
    let (width, height) = (image.width(), image.height());
    let shape = |stored| [width as usize, height as usize, stored];
    if !image.color().has_color() {
        fit(&on_white_grey(image), shape(1), size, channels, out)?;
        return Ok(Original { width, height, colour: false });
    }
    let image = on_white_rgb(image);
    match channels {
        1 => fit(&grey_of(&image), shape(1), size, channels, out)?,
        _ => fit(&image, shape(3), size, channels, out)?,
    }
    Ok(Original { width, height, colour: image.pixels().any(|Rgb([r, g, b])| r != g || g != b) })
}

fn read(encoded: &[u8]) -> Result<DynamicImage, String> {
    if encoded.is_empty() {
        return Err("the file is empty".to_string());
    }
    let format = image::guess_format(encoded).map_err(|_| "not an image by its contents".to_string())?;
    let name = format!("{format:?}").to_uppercase();
    let broken = |e: image::ImageError| format!("broken {name}: {e}");
    if format == ImageFormat::Jpeg && is_truncated_jpeg(encoded) {
        return Err("broken JPEG: it ends early".to_string());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(broken)?;
    limits.reserve(decoder.total_bytes()).map_err(broken)?;
    let orientation = decoder.orientation().map_err(broken)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    if image.width() == 0 || image.height() == 0 {
        return Err(format!("broken {name}: it has no pixels"));
    }
    Ok(image)
}

/// Whether the end marker is missing after the last scan. The decoder would fill what is missing with grey.
fn is_truncated_jpeg(encoded: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let last = |marker: u8| encoded.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(END_OF_IMAGE) < last(START_OF_SCAN)
}

fn on_white_rgb(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let mut out = RgbImage::new(image.width(), image.height());
    for (to, from) in out.pixels_mut().zip(image.pixels()) {
        let [r, g, b, alpha] = from.0;
        to.0 = [r, g, b].map(|value| over_white(value, alpha));
    }
    out
}

fn on_white_grey(image: DynamicImage) -> GrayImage {
    if !image.color().has_alpha() {
        return image.into_luma8();
    }
    let image = image.into_luma_alpha8();
    let mut out = GrayImage::new(image.width(), image.height());
    for (to, from) in out.pixels_mut().zip(image.pixels()) {
        to.0 = [over_white(from.0[0], from.0[1])];
    }
    out
}

fn over_white(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// ITU-R BT.601 luma, the grey of JPEG and of most data pipelines.
pub(super) fn grey_of(rgb: &[u8]) -> Vec<u8> {
    let weigh = |[r, g, b]: [u32; 3]| ((r * 19_595 + g * 38_470 + b * 7_471 + 32_768) >> 16) as u8;
    rgb.chunks_exact(3).map(|pixel| weigh(std::array::from_fn(|channel| u32::from(pixel[channel])))).collect()
}

/// Crops to the central square, resizes, and writes the planes of `out`; a grey image fills them all alike. `raw` is
/// `[width, height, stored]` with 1 or 3 channels `stored`. The filter is Catmull–Rom, widened when shrinking so that
/// nothing aliases, in integers: every machine gets the same pixels.
pub(super) fn fit(
    raw: &[u8],
    [width, height, stored]: [usize; 3],
    size: usize,
    channels: usize,
    out: &mut [u8],
) -> Result<(), String> {
    let pixel_type = if stored == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let resized = if [width, height] == [size, size] {
        Cow::Borrowed(raw)
    } else {
        let failed = |e: &dyn std::fmt::Display| format!("cannot be resized: {e}");
        let source = ImageRef::new(width as u32, height as u32, raw, pixel_type).map_err(|e| failed(&e))?;
        let mut resized = Image::new(size as u32, size as u32, pixel_type);
        // A view, not the resizer's crop option: with that the filter would reach beyond the square's edge.
        let side = width.min(height) as u32;
        let (left, top) = ((width as u32 - side) / 2, (height as u32 - side) / 2);
        let square = CroppedImage::new(&source, left, top, side, side).map_err(|e| failed(&e))?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        Resizer::new().resize(&square, &mut resized, Some(&options)).map_err(|e| failed(&e))?;
        Cow::Owned(resized.into_vec())
    };
    for (channel, plane) in out.chunks_exact_mut(size * size).take(channels).enumerate() {
        for (to, from) in plane.iter_mut().zip(resized.chunks_exact(stored)) {
            *to = from[channel.min(stored - 1)];
        }
    }
    Ok(())
}
