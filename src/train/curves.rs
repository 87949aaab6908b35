//! `curves.png`: losses and scores over the run.

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::Record;
use crate::error::{Error, Result};
use crate::{files, image};

const SIZE: (u32, u32) = (1000, 800);
const CRITIC: RGBColor = RGBColor(31, 119, 180);
const GENERATOR: RGBColor = RGBColor(214, 39, 40);

/// A curve: name, colour, and which number of a record it shows.
type Curve = (&'static str, RGBColor, fn(&Record) -> f64);

/// Draws the losses above the scores, over generator steps. Without records there is nothing to draw.
pub(super) fn draw(records: &[Record], path: &Path) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let mut pixels = vec![255; (SIZE.0 * SIZE.1 * 3) as usize];
    plot(records, &mut pixels).map_err(|e| Error::invalid_file(path, e, "This is a defect of ganforge; please report it."))?;
    files::write_atomic(path, &image::encode_png(&pixels, SIZE.1 as usize, SIZE.0 as usize, 3)?)
}

fn plot(records: &[Record], pixels: &mut [u8]) -> std::result::Result<(), String> {
    register_fonts();
    let root = BitMapBackend::with_buffer(pixels, SIZE).into_drawing_area();
    let panels = root.split_evenly((2, 1));
    let losses: [Curve; 2] =
        [("critic", CRITIC, |record| record.loss_critic), ("generator", GENERATOR, |record| record.loss_generator)];
    let scores: [Curve; 2] =
        [("real images", CRITIC, |record| record.score_real), ("generated images", GENERATOR, |record| record.score_fake)];
    let drawn = panels
        .iter()
        .zip([("loss", losses.as_slice()), ("the critic's mean score (raw)", scores.as_slice())])
        .try_for_each(|(panel, (caption, curves))| plot_panel(panel, caption, curves, records));
    drawn.and_then(|()| root.present().map_err(|e| e.to_string()))
}

fn plot_panel(
    panel: &DrawingArea<BitMapBackend, Shift>,
    caption: &str,
    curves: &[Curve],
    records: &[Record],
) -> std::result::Result<(), String> {
    let points = |value: fn(&Record) -> f64| {
        records.iter().map(move |record| (record.step as f64, value(record))).filter(|(_, y)| y.is_finite())
    };
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for (_, y) in curves.iter().flat_map(|(_, _, value)| points(*value)) {
        (low, high) = (low.min(y), high.max(y));
    }
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let margin = (0.05 * (high - low)).max(1e-6);
    let last = records.last().map_or(1.0, |record| record.step as f64).max(1.0);
    let draw = || -> std::result::Result<(), DrawingAreaErrorKind<_>> {
        panel.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(panel)
            .caption(caption, ("sans-serif", 20))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..last, low - margin..high + margin)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("generator steps")
            .x_label_formatter(&|step| format!("{step:.0}"))
            .label_style(("sans-serif", 14))
            .draw()?;
        for &(name, color, value) in curves {
            chart
                .draw_series(LineSeries::new(points(value), &color))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).label_font(("sans-serif", 14)).draw()?;
        Ok(())
    };
    draw().map_err(|e| e.to_string())
}

/// plotters draws text only with a font it is given; this one comes from a crate, so that no machine needs one installed.
fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error here means an unreadable font; the drawing itself reports that.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}
