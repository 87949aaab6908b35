//! One contact sheet. It lies in memory until it is saved.

use std::io;
use std::ops;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::Format;
use super::sink::{Depth, Naming, Open, Sink, Site, Store, Stream, Streamed, ToStream};
use crate::error::{Error, Result};
use crate::image::{self, GAP, Images};
use crate::infer::piece::{Piece, Tally};

/// A sheet may have this many pixels: what common viewers open.
const MOST: u64 = 100_000_000;

/// The format.
pub(super) struct Grid;

impl Sink for Grid {
    fn name(&self) -> &'static str {
        "grid"
    }

    fn naming(&self) -> Naming {
        Naming::File { stem: "grid", ending: "png" }
    }

    fn in_one_go(&self) -> Option<&'static str> {
        Some("a contact sheet")
    }

    fn check_size(&self, count: u64, shape: [usize; 3], others: &str) -> Result<()> {
        let ([height, width, _], gap) = (shape.map(|side| side as u64), GAP as u64);
        let most = (MOST / ((height + gap) * (width + gap))).max(1);
        if count > most {
            return Err(Error::usage(
                format!("a contact sheet of {count} images of {height}×{width} pixels is too large to look at"),
                format!("Ask for {most} or fewer, or choose `Plan::format` {others}."),
            ));
        }
        Ok(())
    }

    fn to_stream(&self) -> Option<ToStream> {
        Some(|job| {
            Grid.check_size(job.count(), job.shape, &Format::not_in_one_go())?;
            let pixels = Mutex::new(vec![0; job.count() as usize * job.image()]);
            Ok(Box::new(GridStream { job, pixels }))
        })
    }

    fn create(&self, site: &Arc<Site>) -> Result<Box<dyn Store>> {
        let folder = site.folder.path();
        tempfile::tempfile_in(folder).map_err(Error::io("write to", folder))?;
        let pixels = Mutex::new(vec![0; site.share.count() as usize * site.image()]);
        Ok(Box::new(Sheet { site: Arc::clone(site), pixels }))
    }

    fn find(&self, _: &Arc<Site>) -> Result<Option<Box<dyn Store>>> {
        Ok(None)
    }

    fn describe(&self, _: &Site, _: &[Piece], _: &mut Value) {}

    fn described(&self, _: &Site, _: &Value) -> Option<Vec<Piece>> {
        None
    }

    fn has_size(&self, _: &Site, _: &Value) -> bool {
        false
    }
}

/// A sheet at work.
struct Sheet {
    site: Arc<Site>,
    pixels: Mutex<Vec<u8>>,
}

impl Store for Sheet {
    fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>> {
        Ok(Box::new(OpenGrid { sheet: self, tally: Tally::new(places.start) }))
    }

    fn sync(&self, _: &[Piece]) -> io::Result<()> {
        Ok(())
    }

    fn holds(&self, _: &Piece, _: Depth) -> Result<bool> {
        Ok(false)
    }

    fn close(&mut self, _: Option<Piece>) -> Result<()> {
        let ([height, width, channels], n) = (self.site.shape, self.site.share.count() as usize);
        let pixels = std::mem::take(self.pixels.get_mut().unwrap_or_else(PoisonError::into_inner));
        image::save_grid(&Images { n, height, width, channels, pixels }, Images::square_columns(n), &self.site.path)
    }
}

/// A piece under way.
struct OpenGrid<'a> {
    sheet: &'a Sheet,
    tally: Tally,
}

impl Open for OpenGrid<'_> {
    fn put(&mut self, pixels: &[u8]) -> Result<()> {
        let Self { sheet: Sheet { site, pixels: sheet }, tally } = self;
        let at = (tally.next() - site.share.places().start) as usize * site.image();
        sheet.lock().unwrap_or_else(PoisonError::into_inner)[at..at + pixels.len()].copy_from_slice(pixels);
        tally.images((pixels.len() / site.image()) as u64, pixels);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Piece>> {
        Ok(self.tally.close().into_iter().collect())
    }
}

/// A sheet that goes out when all is made.
struct GridStream<'a> {
    job: Streamed<'a>,
    pixels: Mutex<Vec<u8>>,
}

impl Stream for GridStream<'_> {
    fn encode(&self, first: u64, pixels: Vec<u8>) -> Result<Vec<u8>> {
        let at = (first - self.job.places.start) as usize * self.job.image();
        self.pixels.lock().unwrap_or_else(PoisonError::into_inner)[at..at + pixels.len()].copy_from_slice(&pixels);
        Ok(Vec::new())
    }

    /// The sheet, or the image itself if there is but one.
    fn tail(&self) -> Result<Vec<u8>> {
        let ([height, width, channels], n) = (self.job.shape, self.job.count() as usize);
        let pixels = std::mem::take(&mut *self.pixels.lock().unwrap_or_else(PoisonError::into_inner));
        let images = Images { n, height, width, channels, pixels };
        let sheet = if n == 1 { images } else { images.grid(Images::square_columns(n)) };
        image::encode_png(&sheet.pixels, sheet.height, sheet.width, sheet.channels)
    }
}
