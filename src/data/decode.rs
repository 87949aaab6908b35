//! One image file's bytes → planar pixels of the size and channels asked for.

use std::borrow::Cow;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use image::{ColorType, DynamicImage, GrayImage, ImageError, ImageFormat, Rgb, RgbImage};

use super::encoded::{Decoded, MAX_BYTES, Refusal, over_white, whole};
use super::large;

/// The most pixels in width and height, for the same reason as there is [`MAX_BYTES`].
const MAX_SIDE: u32 = 16_384;

/// What the image was before it was fitted.
pub(super) struct Original {
    pub width: u32,
    pub height: u32,
    /// Whether any pixel is coloured.
    pub colour: bool,
}

/// Decodes into `out`, `[channels, size, size]`, or gives the reason why not. The format is told by the contents, or where
/// these do not tell it (TGA) by the file's `name`; the first frame of an animation and the first page of a TIFF count; EXIF
/// orientation is applied.
pub(super) fn decode(encoded: &[u8], name: &str, size: usize, channels: usize, out: &mut [u8]) -> Result<Original, Refusal> {
    // A decoder's panic is a defect of it that one odd file brings out: that must not end the loading of the others.
    let decoded = catch_unwind(AssertUnwindSafe(|| read(encoded, name, size)));
    let Decoded { image, pixels: [width, height], turn } =
        decoded.unwrap_or_else(|_| Err(Refusal::Broken("the decoder failed".to_string())))?;
    let (across, down) = (image.width() as usize, image.height() as usize);
    let shape = |stored| [across, down, stored];
    if !image.color().has_color() {
        fit(&on_white_grey(image), shape(1), size, channels, out)?;
        return Ok(Original { width, height, colour: false });
    }
    let image = on_white_rgb(image);
    match channels {
        1 => fit(&grey_of(&image), shape(1), size, channels, out)?,
        _ => fit(&image, shape(3), size, channels, out)?,
    }
    let colour = image.pixels().any(|Rgb([r, g, b])| r != g || g != b);
    drop((image, turn)); // the next large one may come now
    Ok(Original { width, height, colour })
}

fn read(encoded: &[u8], name: &str, size: usize) -> Result<Decoded, Refusal> {
    if encoded.is_empty() {
        return Err(Refusal::Broken("the file is empty".to_string()));
    }
    let format = format_of(encoded, name).ok_or_else(|| Refusal::Broken("not an image by its contents".to_string()))?;
    if format == ImageFormat::Jpeg && is_truncated_jpeg(encoded) {
        return Err(Refusal::Broken("broken JPEG: it ends early".to_string()));
    }
    let decoded = match whole(encoded, format, MAX_SIDE, MAX_BYTES) {
        Ok(image) => Decoded { pixels: [image.width(), image.height()], image, turn: None },
        Err(ImageError::Limits(_)) => large::read(encoded, format, size)?,
        Err(error) => return Err(Refusal::broken(format, error)),
    };
    if decoded.image.width() == 0 || decoded.image.height() == 0 {
        return Err(Refusal::broken(format, "it has no pixels"));
    }
    if matches!(decoded.image.color(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err(Refusal::Broken(
            "its pixels are floating-point numbers, of which it does not say which is white".to_string(),
        ));
    }
    Ok(decoded)
}

fn format_of(encoded: &[u8], name: &str) -> Option<ImageFormat> {
    let by_name = || name.to_lowercase().ends_with(".tga").then_some(ImageFormat::Tga);
    image::guess_format(encoded).ok().or_else(by_name)
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

/// ITU-R BT.601 luma, the grey of JPEG and of most data pipelines.
pub(super) fn grey_of(rgb: &[u8]) -> Vec<u8> {
    let weigh = |[r, g, b]: [u32; 3]| ((r * 19_595 + g * 38_470 + b * 7_471 + 32_768) >> 16) as u8;
    rgb.chunks_exact(3).map(|pixel| weigh(std::array::from_fn(|channel| u32::from(pixel[channel])))).collect()
}

/// The central square, resized to `size`. One kind of pixel a function: the resizer's own choice among all its kinds would have
/// them all compiled here, a quarter of the library's code.
fn square<P: PixelTrait>(raw: &[u8], [width, height]: [usize; 2], size: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let source = TypedImageRef::<P>::from_buffer(width as u32, height as u32, raw)?;
    // A view, not the resizer's crop option: with that the filter would reach beyond the square's edge.
    let side = width.min(height) as u32;
    let (left, top) = ((width as u32 - side) / 2, (height as u32 - side) / 2);
    let square = TypedCroppedImage::from_ref(&source, left, top, side, side)?;
    let mut resized = vec![0; size * size * P::size()];
    let mut target = TypedImage::<P>::from_buffer(size as u32, size as u32, &mut resized)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    Resizer::new().resize_typed(&square, &mut target, Some(&options))?;
    Ok(resized)
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
    let resized = if [width, height] == [size, size] {
        Cow::Borrowed(raw)
    } else {
        let square = if stored == 1 { square::<U8> } else { square::<U8x3> };
        Cow::Owned(square(raw, [width, height], size).map_err(|e| format!("cannot be resized: {e}"))?)
    };
    for (channel, plane) in out.chunks_exact_mut(size * size).take(channels).enumerate() {
        for (to, from) in plane.iter_mut().zip(resized.chunks_exact(stored)) {
            *to = from[channel.min(stored - 1)];
        }
    }
    Ok(())
}
