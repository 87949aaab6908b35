//! `progress.gif`: the sheets of samples over the run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use color_quant::NeuQuant;
use gif::{Encoder, Frame, Repeat};
use image::imageops::{self, FilterType};
use image::{DynamicImage, RgbImage};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use rayon::prelude::*;

use super::RunFolder;
use super::curves::register_fonts;
use crate::error::{Error, Result};
use crate::files;
use crate::image::GAP;

/// The most frames.
const FRAMES: usize = 60;

/// The file stays below this many bytes.
const LIMIT: usize = 5_000_000;

/// The longer side at most. Of a larger sheet the first images are shown: they tell more than all of them scaled down, which
/// is done only where the file would grow beyond its limit.
const SIDE: u32 = 400;

/// A smaller one is scaled up by a whole number to about this.
const SMALL: u32 = 240;

/// Pixels below the sheet, for the step.
const CAPTION: u32 = 20;

/// Greys for it, where the sheets are coloured.
const SHADES: usize = 6;

/// Hundredths of a second.
const DELAY: u16 = 12;
const LAST_DELAY: u16 = 300;

/// Writes the sheets up to step `last` as an animation. Without sheets there is nothing to write.
pub(super) fn write(folder: &RunFolder, last: u64, path: &Path) -> Result<()> {
    let sheets = chosen(folder.sheets(last)?);
    let tile = folder.config()?.data.size as u32 + GAP as u32;
    // What is damaged is left out, as what was removed: the report tells of it.
    let whole = sheets.par_iter().filter_map(|(step, path)| Some((*step, cropped(&read(path).ok()?, tile))));
    let (steps, mut frames): (Vec<u64>, Vec<RgbImage>) = whole.collect::<Vec<_>>().into_iter().unzip();
    let Some(size) = frames.last().map(|sheet| fitting(sheet.dimensions())) else { return Ok(()) };
    let mut size = size;
    loop {
        frames = frames.into_par_iter().map(|frame| resized(frame, size)).collect();
        let bytes = encode(&frames, &steps, path)?;
        if bytes.len() < LIMIT || size.0.min(size.1) < 32 {
            return files::write_atomic(path, &bytes);
        }
        let factor = 0.95 * (LIMIT as f64 / bytes.len() as f64).sqrt();
        size = ((f64::from(size.0) * factor) as u32, (f64::from(size.1) * factor) as u32);
    }
}

/// Evenly spaced sheets, the first and the last among them.
fn chosen(sheets: Vec<(u64, PathBuf)>) -> Vec<(u64, PathBuf)> {
    let last = sheets.len().saturating_sub(1);
    let numbers: BTreeSet<usize> = (0..FRAMES).map(|frame| frame * last / (FRAMES - 1)).collect();
    sheets.into_iter().enumerate().filter(|(number, _)| numbers.contains(number)).map(|(_, sheet)| sheet).collect()
}

fn read(path: &Path) -> Result<RgbImage> {
    let bytes = files::read(path, files::PICTURE)?;
    image::load_from_memory(&bytes)
        .map(DynamicImage::into_rgb8)
        .map_err(|e| Error::invalid_file(path, e.to_string(), "Delete it: training does not need it."))
}

/// The corner of a sheet with as many rows and columns of images as fit, but at least 2; `tile` is an image with its gap.
fn cropped(sheet: &RgbImage, tile: u32) -> RgbImage {
    let gap = GAP as u32;
    let [width, height] = [sheet.width(), sheet.height()].map(|side| {
        let whole = (side.saturating_sub(gap) / tile).clamp(1, (SIDE.saturating_sub(gap) / tile).max(2));
        (whole * tile + gap).min(side)
    });
    imageops::crop_imm(sheet, 0, 0, width, height).to_image()
}

/// The size at which a frame is shown.
fn fitting((width, height): (u32, u32)) -> (u32, u32) {
    let side = width.max(height);
    let scale = match side {
        0..SMALL => f64::from(SMALL.div_ceil(side.max(1))),
        _ => (f64::from(SIDE) / f64::from(side)).min(1.0),
    };
    [width, height].map(|side| ((f64::from(side) * scale).round() as u32).max(1)).into()
}

fn resized(sheet: RgbImage, (width, height): (u32, u32)) -> RgbImage {
    match sheet.dimensions() {
        same if same == (width, height) => sheet,
        (old, _) if old < width => imageops::resize(&sheet, width, height, FilterType::Nearest),
        _ => imageops::resize(&sheet, width, height, FilterType::Triangle),
    }
}

fn encode(sheets: &[RgbImage], steps: &[u64], path: &Path) -> Result<Vec<u8>> {
    const DEFECT: &str = "This is a defect of ganforge; please report it.";
    let palette = Palette::of(sheets);
    let frames = sheets.par_iter().zip(steps).map(|(sheet, step)| frame(sheet, *step, &palette));
    let mut frames =
        frames.collect::<std::result::Result<Vec<_>, String>>().map_err(|e| Error::invalid_file(path, e, DEFECT))?;
    if let Some(last) = frames.last_mut() {
        last.delay = LAST_DELAY;
    }
    let (width, height) = frames.first().map_or((0, 0), |frame| (frame.width, frame.height));
    let mut bytes = Vec::new();
    let mut write = || -> std::result::Result<(), gif::EncodingError> {
        let mut encoder = Encoder::new(&mut bytes, width, height, &palette.colors)?;
        encoder.set_repeat(Repeat::Infinite)?;
        frames.iter().try_for_each(|frame| encoder.write_lzw_pre_encoded_frame(frame))
    };
    write().map_err(|e| Error::invalid_file(path, e.to_string(), DEFECT))?;
    Ok(bytes)
}

/// A sheet with its step written below it.
fn frame(sheet: &RgbImage, step: u64, palette: &Palette) -> std::result::Result<Frame<'static>, String> {
    let (width, height) = sheet.dimensions();
    let mut caption = vec![255; (width * CAPTION * 3) as usize];
    let area = BitMapBackend::with_buffer(&mut caption, (width, CAPTION)).into_drawing_area();
    register_fonts();
    let style = ("sans-serif", 15).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Center));
    let place = (width as i32 / 2, CAPTION as i32 / 2);
    area.draw_text(&format!("step {step}"), &style, place).and_then(|()| area.present()).map_err(|e| e.to_string())?;
    drop(area);
    let pixels = sheet.as_raw().chunks_exact(3).map(|pixel| palette.index(pixel));
    let indices: Vec<u8> = pixels.chain(caption.chunks_exact(3).map(|pixel| palette.shade(pixel))).collect();
    let too_large = |_| format!("{width}×{height} pixels are too many for a GIF");
    let [width, height] = [u16::try_from(width).map_err(too_large)?, u16::try_from(height + CAPTION).map_err(too_large)?];
    let mut frame = Frame { width, height, delay: DELAY, buffer: indices.into(), ..Frame::default() };
    frame.make_lzw_pre_encoded();
    Ok(frame)
}

/// 256 colours for all frames: with a palette each, what stands still would flicker.
struct Palette {
    /// RGB.
    colors: Vec<u8>,
    /// The nearest colour of every colour with 6 bits a channel; none where all is grey, and the shade is the index.
    nearest: Option<Vec<u8>>,
}

impl Palette {
    fn of(sheets: &[RgbImage]) -> Self {
        const SAMPLES: usize = 300_000;
        const QUALITY: i32 = 1; // NeuQuant looks at every sample
        let pixels = || sheets.iter().flat_map(|sheet| sheet.as_raw().chunks_exact(3));
        if pixels().all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]) {
            return Self { colors: (0..=255).flat_map(|shade| [shade; 3]).collect(), nearest: None };
        }
        let count: usize = sheets.iter().map(|sheet| sheet.as_raw().len() / 3).sum();
        let every = count.div_ceil(SAMPLES).max(1) | 1; // odd: not the same column of every sheet
        let samples: Vec<u8> = pixels().step_by(every).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]).collect();
        let quantizer = NeuQuant::new(QUALITY, 256 - SHADES, &samples);
        let middle = |bits: usize| (bits << 2 | 2) as u8;
        let nearest = (0..1usize << 18)
            .into_par_iter()
            .map(|code| quantizer.index_of(&[middle(code >> 12), middle(code >> 6 & 63), middle(code & 63), 255]) as u8);
        let shades = (0..SHADES).flat_map(|shade| [(shade * 255 / (SHADES - 1)) as u8; 3]);
        let colors = quantizer.color_map_rgb().into_iter().chain(shades).collect();
        Self { nearest: Some(nearest.collect()), colors }
    }

    fn index(&self, pixel: &[u8]) -> u8 {
        let [red, green, blue] = [0, 1, 2].map(|channel| usize::from(pixel.get(channel).copied().unwrap_or(0)));
        match &self.nearest {
            None => red as u8,
            Some(nearest) => nearest[red >> 2 << 12 | green >> 2 << 6 | blue >> 2],
        }
    }

    /// Of a grey pixel of the caption.
    fn shade(&self, pixel: &[u8]) -> u8 {
        let shade = usize::from(pixel.first().copied().unwrap_or(0));
        match &self.nearest {
            None => shade as u8,
            Some(_) => (256 - SHADES + (shade * (SHADES - 1) + 127) / 255) as u8,
        }
    }
}
