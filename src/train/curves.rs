//! The run's numbers as curves over generator steps: `curves.png`, and as SVG for the report.

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::Record;
use crate::error::{Error, Result};
use crate::{files, image};

/// Pixels of one panel in `curves.png`.
const PANEL: (u32, u32) = (800, 320);

/// Likewise in the report, where it is shown about as large as this, and so are its letters.
const SVG_PANEL: (u32, u32) = (600, 270);

const BLUE: RGBColor = RGBColor(31, 119, 180);
const RED: RGBColor = RGBColor(214, 39, 40);
const GREEN: RGBColor = RGBColor(44, 140, 44);
const ORANGE: RGBColor = RGBColor(230, 120, 10);

/// Values that are drawn are smaller: ranges and their margins must not overflow.
const LARGEST: f64 = 1e100;

/// What some curves share a frame for.
struct Panel {
    caption: &'static str,
    curves: &'static [Curve],
}

/// A number of the records, where they have it.
struct Curve {
    name: &'static str,
    color: RGBColor,
    value: fn(&Record) -> Option<f64>,
}

const fn curve(name: &'static str, color: RGBColor, value: fn(&Record) -> Option<f64>) -> Curve {
    Curve { name, color, value }
}

const PANELS: [Panel; 8] = [
    Panel {
        caption: "loss",
        curves: &[
            curve("critic", BLUE, |record| Some(record.loss_critic)),
            curve("generator", RED, |record| Some(record.loss_generator)),
        ],
    },
    Panel {
        caption: "the critic's mean score (raw)",
        curves: &[
            curve("real images", BLUE, |record| Some(record.score_real)),
            curve("generated images", RED, |record| Some(record.score_fake)),
            curve("fixed training images", GREEN, |record| record.score_train),
            curve("held-out images", ORANGE, |record| record.score_held_out),
        ],
    },
    Panel { caption: "Wasserstein estimate", curves: &[curve("D(real) - D(fake)", BLUE, |record| record.wasserstein)] },
    Panel {
        caption: "gradient norm (all parameters)",
        curves: &[
            curve("critic", BLUE, |record| record.gradient_norm_critic),
            curve("generator", RED, |record| record.gradient_norm_generator),
        ],
    },
    Panel {
        caption: "penalty",
        curves: &[
            curve("penalty, weighted", BLUE, |record| record.penalty),
            curve("critic's input gradient norm", RED, |record| record.input_gradient_norm),
        ],
    },
    Panel {
        caption: "distance between samples, of that between real images",
        curves: &[
            curve("all pairs", BLUE, |record| record.diversity),
            curve("nearest neighbours", RED, |record| record.diversity_nearest),
        ],
    },
    Panel { caption: "spread of the critic's scores", curves: &[curve("spread", BLUE, |record| record.score_spread)] },
    Panel {
        caption: "Fréchet distance (lower is better)",
        curves: &[curve("Fréchet distance", BLUE, |record| record.quality)],
    },
];

/// A curve that is there: the finite values by step, ascending.
struct DrawnCurve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws what the records have. Without records there is nothing to draw.
pub(super) fn draw(records: &[Record], path: &Path) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let panels = panels(records);
    let (width, height) = size(panels.len());
    let mut pixels = vec![255; (width * height * 3) as usize];
    let root = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    plot(root, &panels, records).map_err(|e| Error::invalid_file(path, e, DEFECT))?;
    files::write_atomic(path, &image::encode_png(&pixels, height as usize, width as usize, 3)?)
}

/// The same as SVG elements, one a panel; none without records.
pub(super) fn svgs(records: &[Record]) -> Result<Vec<String>> {
    let one = |panel| {
        let mut text = String::new();
        let root = SVGBackend::with_string(&mut text, SVG_PANEL).into_drawing_area();
        plot(root, &[panel], records).map_err(|e| Error::invalid("the curves", e, DEFECT))?;
        Ok(text)
    };
    if records.is_empty() { Ok(Vec::new()) } else { panels(records).into_iter().map(one).collect() }
}

const DEFECT: &str = "This is a defect of ganforge; please report it.";

/// The panels that have something to show, and losses in any case.
fn panels(records: &[Record]) -> Vec<(&'static str, Vec<DrawnCurve>)> {
    let line = |curve: &Curve| DrawnCurve {
        name: curve.name,
        color: curve.color,
        points: records
            .iter()
            .filter_map(|record| Some((record.step as f64, (curve.value)(record)?)))
            .filter(|(_, y)| y.abs() < LARGEST)
            .collect(),
    };
    let lines = |panel: &Panel| panel.curves.iter().map(line).filter(|line| !line.points.is_empty()).collect::<Vec<_>>();
    let all = PANELS.iter().map(|panel| (panel.caption, lines(panel)));
    all.enumerate().filter(|(at, (_, lines))| *at == 0 || !lines.is_empty()).map(|(_, panel)| panel).collect()
}

/// Two panels stand one above the other, more in two columns.
fn columns(panels: usize) -> usize {
    if panels > 2 { 2 } else { 1 }
}

fn size(panels: usize) -> (u32, u32) {
    let columns = columns(panels);
    (PANEL.0 * columns as u32, PANEL.1 * panels.div_ceil(columns) as u32)
}

fn plot<B: DrawingBackend>(
    root: DrawingArea<B, Shift>,
    panels: &[(&str, Vec<DrawnCurve>)],
    records: &[Record],
) -> std::result::Result<(), String> {
    register_fonts();
    let last = records.last().map_or(1.0, |record| record.step as f64).max(1.0);
    let columns = columns(panels.len());
    let areas = root.split_evenly((panels.len().div_ceil(columns), columns));
    root.fill(&WHITE).map_err(|e| e.to_string())?;
    for (area, (caption, lines)) in areas.iter().zip(panels) {
        plot_panel(area, caption, lines, last).map_err(|e| e.to_string())?;
    }
    root.present().map_err(|e| e.to_string())
}

fn plot_panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    caption: &str,
    lines: &[DrawnCurve],
    last: f64,
) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    const LONELY: u32 = 5; // the radius of a value that no line leads to
    const RAW: f64 = 0.35; // opacity of the values as they are, behind their moving mean
    let (low, high) = frame(lines);
    let values = || lines.iter().flat_map(|line| &line.points);
    let outside = values().filter(|(_, y)| !(low..=high).contains(y)).count();
    let caption = match outside {
        0 => caption.to_string(),
        _ => format!("{caption}; {outside} of {} values lie beyond the frame", values().count()),
    };
    let area = area.margin(8, 0, 0, 0).titled(&caption, ("sans-serif", 18))?;
    let area = if lines.len() > 1 { legend(&area, lines)? } else { area };
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels((last as usize + 1).min(8)) // none stands twice
        .y_labels(7)
        .x_desc("generator steps")
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|y| number(*y, high - low))
        .label_style(("sans-serif", 13))
        .draw()?;
    for DrawnCurve { color, points, .. } in lines {
        let clipped: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x, y.clamp(low, high))).collect();
        let (color, mean) = (*color, moving_mean(&clipped));
        if let Some(mean) = &mean {
            chart.draw_series(LineSeries::new(thinned(&clipped), color.mix(RAW)))?;
            chart.draw_series(LineSeries::new(mean.iter().copied(), color.stroke_width(2)))?;
        } else {
            let size = if clipped.len() == 1 { LONELY } else { 2 };
            chart.draw_series(LineSeries::new(clipped.iter().copied(), color.filled().stroke_width(2)).point_size(size))?;
        }
    }
    Ok(())
}

/// Draws what the colours mean in a line of its own, where it lies over no curve. Gives what is left of the area.
fn legend<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    lines: &[DrawnCurve],
) -> std::result::Result<DrawingArea<B, Shift>, DrawingAreaErrorKind<B::ErrorType>> {
    const HEIGHT: i32 = 20;
    const STROKE: i32 = 18; // of a curve's colour, before its name
    const GAP: i32 = 6; // and as much three times between two curves
    let (line, rest) = area.split_vertically(HEIGHT);
    let style = TextStyle::from(("sans-serif", 13)).pos(Pos::new(HPos::Left, VPos::Center));
    let widths = lines.iter().map(|curve| Ok(STROKE + 4 * GAP + line.estimate_text_size(curve.name, &style)?.0 as i32));
    let widths = widths.collect::<std::result::Result<Vec<i32>, _>>()?;
    let (mut x, y) = ((line.dim_in_pixel().0 as i32 - widths.iter().sum::<i32>() + 3 * GAP) / 2, HEIGHT / 2);
    for (DrawnCurve { name, color, .. }, width) in lines.iter().zip(widths) {
        line.draw(&PathElement::new([(x, y), (x + STROKE, y)], color.stroke_width(2)))?;
        line.draw_text(name, &style, (x + STROKE + GAP, y))?;
        x += width;
    }
    Ok(rest)
}

/// Lowest and highest value to show. A spike must not flatten the curves: what lies further from the middle 98 % of a curve
/// than half their width is left outside.
fn frame(lines: &[DrawnCurve]) -> (f64, f64) {
    const FEWEST: usize = 20; // of fewer values none is a spike
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for line in lines {
        let mut sorted: Vec<f64> = line.points.iter().map(|(_, y)| *y).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else { continue };
        let share = 0.01 * (sorted.len() - 1) as f64;
        let cut = if sorted.len() < FEWEST { 0 } else { share.ceil() as usize };
        let (from, to) = (sorted[cut], sorted[sorted.len() - 1 - cut]);
        let beyond = 0.5 * (to - from);
        (low, high) = (low.min(least.max(from - beyond)), high.max(most.min(to + beyond)));
    }
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let size = low.abs().max(high.abs());
    let margin = match high - low {
        // One value, or always the same.
        range if range <= 1e-6 * size && size > 0.0 => 0.5 * size,
        0.0 => 1.0,
        range => 0.05 * range,
    };
    (low - margin, high + margin)
}

/// The mean over a window of a fortieth of the points, at 400 places at most; `None` where there are too few to need one.
fn moving_mean(points: &[(f64, f64)]) -> Option<Vec<(f64, f64)>> {
    const PLACES: usize = 400;
    let half = points.len() / 80;
    if half == 0 {
        return None;
    }
    let mut sums = vec![0.0];
    sums.extend(points.iter().scan(0.0, |sum, (_, y)| {
        *sum += y;
        Some(*sum)
    }));
    let mean = |at: usize| {
        let (from, to) = (at.saturating_sub(half), (at + half + 1).min(points.len()));
        (points[at].0, (sums[to] - sums[from]) / (to - from) as f64)
    };
    let every = points.len().div_ceil(PLACES);
    let places = (0..points.len()).step_by(every).chain([points.len() - 1]);
    Some(places.map(mean).collect())
}

/// Few enough points to draw, the least and the largest of each stretch.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    const STRETCHES: usize = 500;
    if points.len() <= 2 * STRETCHES {
        return points.to_vec();
    }
    let ends = |stretch: &[(f64, f64)]| {
        let least = stretch.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        let most = stretch.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut ends: Vec<_> = least.into_iter().chain(most).collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        ends
    };
    points.chunks(points.len().div_ceil(STRETCHES)).flat_map(ends).collect()
}

/// A number with as many digits as a range asks for.
fn number(value: f64, range: f64) -> String {
    let largest = value.abs().max(range);
    if largest >= 1e5 {
        return format!("{value:.1e}");
    }
    let digits = (1.0 - range.log10()).ceil().clamp(0.0, 6.0);
    format!("{value:.*}", digits as usize)
}

/// plotters draws text only with a font it is given; this one comes from a crate, so that no machine needs one installed.
pub(super) fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error here means an unreadable font; the drawing itself reports that.
        let _ = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    });
}
