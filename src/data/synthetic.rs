//! The built-in data: handwriting-like digits, drawn rather than stored.
//!
//! A digit begins as one of several allographs (ways to write it), given as pen strokes. Every image moves the strokes'
//! control points, lays smooth curves through them, bends, slants, turns and stretches the whole, fits it into a box and
//! centres its mass, as MNIST does, then draws it with a soft round pen of changing width and pressure.

use rayon::prelude::*;

use crate::random::{Purpose, Stream};

/// How many images the source `synthetic` has.
pub const LEN: usize = 20_000;

/// The digit on each of them.
pub fn labels() -> Vec<u8> {
    (0..LEN).map(|index| (index % 10) as u8).collect()
}

/// The smallest height and width in which the digits can be told apart.
pub const MIN_SIZE: usize = 8;

/// Draws `len` images as `[len, channels, size, size]`. Image `index` shows the digit `index % 10` and depends on nothing
/// but `seed`, `size`, `channels` and its index, on every platform. With 1 channel it is white on black; with 3, light on
/// dark colours or the reverse.
///
/// ```
/// let digits = ganforge::data::synthetic::digits(10, 28, 1, 0);
/// let seven = &digits[7 * 28 * 28..8 * 28 * 28];
/// # assert!(seven.contains(&0) && seven.iter().any(|&pixel| pixel > 200));
/// ```
pub fn digits(len: usize, size: usize, channels: usize, seed: u64) -> Vec<u8> {
    let area = size * size;
    let mut pixels = vec![0; len * channels * area];
    pixels.par_chunks_exact_mut((channels * area).max(1)).enumerate().for_each_init(
        || vec![0.0f32; area],
        |ink, (index, image)| {
            let mut random = Stream::at(seed, Purpose::Synthetic, index as u64);
            ink.fill(0.0);
            draw(&write(index % 10, size as f32, &mut random), size, ink);
            paint(ink, image, &mut random);
        },
    );
    pixels
}

type Point = [f32; 2];

/// One way to write a digit. Coordinates: x to the right, y down, the digit from about -1 to 1 in height. The pen follows
/// a smooth curve through the points of a stroke; a point given twice in a row is a corner.
struct Allograph {
    /// How often it is chosen, relative to the digit's others.
    share: u32,
    strokes: &'static [&'static [Point]],
}

const fn allograph(share: u32, strokes: &'static [&'static [Point]]) -> Allograph {
    Allograph { share, strokes }
}

#[rustfmt::skip]
const ALLOGRAPHS: [&[Allograph]; 10] = [
    &[
        // closed near the top
        allograph(5, &[&[[0.1, -0.95], [-0.35, -0.75], [-0.58, 0.0], [-0.4, 0.72], [0.05, 0.95], [0.48, 0.62], [0.58, -0.05], [0.38, -0.72], [0.02, -0.96]]]),
        // with the pen's end inside
        allograph(3, &[&[[0.3, -0.85], [-0.2, -0.9], [-0.58, -0.2], [-0.45, 0.65], [0.0, 0.95], [0.5, 0.5], [0.55, -0.25], [0.25, -0.85], [-0.12, -0.7]]]),
        // clockwise, begun at the left
        allograph(2, &[&[[-0.4, -0.5], [0.0, -0.93], [0.45, -0.6], [0.55, 0.15], [0.25, 0.85], [-0.2, 0.9], [-0.52, 0.3], [-0.45, -0.55]]]),
    ],
    &[
        // a bar
        allograph(7, &[&[[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]]),
        // with a flag
        allograph(2, &[&[[-0.28, -0.6], [-0.08, -0.8], [0.05, -1.0], [0.05, -1.0], [0.05, 0.0], [0.03, 1.0]]]),
        // with a flag and a foot
        allograph(1, &[&[[-0.3, -0.62], [-0.1, -0.8], [0.05, -1.0], [0.05, -1.0], [0.04, 0.0], [0.03, 0.97]], &[[-0.4, 0.97], [0.0, 0.95], [0.45, 0.95]]]),
    ],
    &[
        // a corner at the foot
        allograph(4, &[&[[-0.5, -0.58], [-0.22, -0.93], [0.25, -0.85], [0.42, -0.4], [0.08, 0.22], [-0.5, 0.88], [-0.5, 0.88], [0.0, 0.84], [0.6, 0.88]]]),
        // a loop at the foot
        allograph(4, &[&[[-0.48, -0.6], [-0.15, -0.95], [0.32, -0.78], [0.38, -0.3], [0.05, 0.3], [-0.32, 0.82], [-0.56, 0.8], [-0.45, 0.52], [-0.05, 0.62], [0.28, 0.85], [0.68, 0.78]]]),
        // a wavy foot
        allograph(2, &[&[[-0.45, -0.8], [0.05, -0.97], [0.42, -0.65], [0.2, -0.05], [-0.25, 0.5], [-0.52, 0.85], [-0.52, 0.85], [-0.15, 0.72], [0.2, 0.92], [0.6, 0.78]]]),
    ],
    &[
        // a cusp in the middle
        allograph(5, &[&[[-0.45, -0.74], [-0.05, -0.98], [0.38, -0.72], [0.28, -0.28], [-0.12, -0.06], [-0.12, -0.06], [0.38, 0.1], [0.48, 0.55], [0.1, 0.93], [-0.5, 0.76]]]),
        // a small loop in the middle
        allograph(3, &[&[[-0.42, -0.82], [0.05, -0.97], [0.38, -0.68], [0.2, -0.22], [-0.1, -0.02], [-0.2, -0.14], [0.02, -0.12], [0.4, 0.18], [0.42, 0.68], [0.0, 0.95], [-0.45, 0.74]]]),
        // a flat top
        allograph(1, &[&[[-0.42, -0.92], [0.0, -0.94], [0.4, -0.92], [0.4, -0.92], [0.12, -0.5], [-0.1, -0.2], [-0.1, -0.2], [0.38, 0.05], [0.46, 0.55], [0.05, 0.93], [-0.48, 0.74]]]),
    ],
    &[
        // open
        allograph(4, &[&[[-0.4, -0.85], [-0.48, -0.35], [-0.5, 0.08], [-0.5, 0.08], [0.0, 0.05], [0.52, 0.02]], &[[0.38, -0.9], [0.34, 0.0], [0.3, 1.0]]]),
        // open, in one round stroke
        allograph(3, &[&[[-0.42, -0.85], [-0.5, -0.25], [-0.22, 0.06], [0.22, -0.1], [0.45, -0.85], [0.45, -0.85], [0.38, 0.1], [0.3, 1.0]]]),
        // closed
        allograph(2, &[&[[0.22, -0.98], [-0.15, -0.45], [-0.58, 0.22], [-0.58, 0.22], [0.0, 0.22], [0.6, 0.2]], &[[0.24, -0.96], [0.22, 0.0], [0.2, 1.0]]]),
    ],
    &[
        // in one stroke from the top right
        allograph(4, &[&[[0.52, -0.92], [0.1, -0.93], [-0.28, -0.9], [-0.28, -0.9], [-0.36, -0.5], [-0.4, -0.14], [-0.4, -0.14], [0.08, -0.26], [0.48, 0.12], [0.3, 0.74], [-0.1, 0.95], [-0.5, 0.76]]]),
        // the top bar written last
        allograph(4, &[&[[-0.26, -0.88], [-0.34, -0.5], [-0.38, -0.12], [-0.38, -0.12], [0.1, -0.24], [0.44, 0.16], [0.26, 0.78], [-0.12, 0.94], [-0.46, 0.8]], &[[-0.28, -0.88], [0.1, -0.92], [0.58, -1.0]]]),
        // rounded like an S
        allograph(2, &[&[[0.52, -0.88], [0.05, -0.94], [-0.32, -0.6], [-0.1, -0.2], [0.3, 0.1], [0.36, 0.6], [0.0, 0.93], [-0.46, 0.76]]]),
    ],
    &[
        // a wide loop
        allograph(5, &[&[[0.3, -0.98], [-0.15, -0.55], [-0.44, 0.15], [-0.3, 0.8], [0.12, 0.94], [0.46, 0.55], [0.22, 0.14], [-0.16, 0.24], [-0.4, 0.58]]]),
        // a straight back, a small loop
        allograph(3, &[&[[0.1, -1.0], [-0.2, -0.4], [-0.36, 0.3], [-0.24, 0.84], [0.1, 0.92], [0.32, 0.6], [0.1, 0.34], [-0.14, 0.5], [-0.2, 0.76]]]),
        // a hooked top
        allograph(2, &[&[[0.42, -0.72], [0.15, -0.95], [-0.25, -0.65], [-0.46, 0.05], [-0.35, 0.72], [0.05, 0.95], [0.45, 0.65], [0.3, 0.15], [-0.1, 0.12], [-0.42, 0.42]]]),
    ],
    &[
        // plain
        allograph(5, &[&[[-0.66, -0.82], [0.0, -0.9], [0.64, -0.88], [0.64, -0.88], [0.26, -0.1], [-0.12, 1.0]]]),
        // with a bar
        allograph(2, &[&[[-0.59, -0.84], [0.0, -0.88], [0.57, -0.88], [0.57, -0.88], [0.19, -0.05], [-0.14, 1.0]], &[[-0.33, 0.08], [0.12, 0.04], [0.57, 0.02]]]),
        // with a serif
        allograph(2, &[&[[-0.59, -0.5], [-0.59, -0.7], [-0.57, -0.88], [-0.57, -0.88], [0.0, -0.86], [0.57, -0.9], [0.57, -0.9], [0.24, -0.2], [0.06, 1.0]]]),
        // with a round shoulder
        allograph(3, &[&[[-0.61, -0.68], [-0.24, -0.92], [0.29, -0.92], [0.5, -0.68], [0.26, 0.0], [0.0, 1.0]]]),
    ],
    &[
        // one stroke, begun at the upper right
        allograph(5, &[&[[0.38, -0.72], [0.0, -0.97], [-0.37, -0.65], [-0.02, -0.12], [0.38, 0.42], [0.02, 0.95], [-0.38, 0.5], [-0.02, -0.02], [0.36, -0.5], [0.36, -0.8]]]),
        // one stroke, begun in the middle
        allograph(3, &[&[[0.05, -0.08], [-0.33, -0.4], [-0.25, -0.85], [0.2, -0.93], [0.36, -0.55], [0.0, -0.05], [-0.4, 0.42], [-0.15, 0.93], [0.3, 0.82], [0.36, 0.35], [0.02, -0.06]]]),
        // two rings
        allograph(2, &[&[[0.0, -0.1], [-0.34, -0.48], [0.0, -0.96], [0.34, -0.5], [0.02, -0.1]], &[[0.02, -0.06], [-0.42, 0.42], [0.0, 0.96], [0.42, 0.44], [0.0, -0.06]]]),
    ],
    &[
        // a ring and a straight leg
        allograph(5, &[&[[0.38, -0.68], [0.05, -0.96], [-0.38, -0.6], [-0.22, -0.1], [0.16, -0.2], [0.4, -0.72], [0.4, -0.72], [0.34, 0.1], [0.22, 1.0]]]),
        // a curved leg
        allograph(3, &[&[[0.36, -0.72], [0.0, -0.95], [-0.38, -0.58], [-0.2, -0.08], [0.18, -0.2], [0.4, -0.68], [0.44, -0.1], [0.26, 0.7], [-0.12, 0.96], [-0.4, 0.78]]]),
        // a full ring, the leg leaning
        allograph(3, &[&[[0.28, -0.82], [-0.12, -0.92], [-0.36, -0.5], [-0.08, -0.14], [0.32, -0.4], [0.3, -0.86], [0.32, -0.3], [0.1, 0.35], [-0.06, 1.0]]]),
    ],
];

/// A place on the pen's way: where, how wide, how dark.
#[derive(Clone, Copy)]
struct Dab {
    at: Point,
    radius: f32,
    ink: f32,
}

/// Sizes in pixels are given for MNIST's 28 and scaled from there.
const REFERENCE_SIZE: f32 = 28.0;

/// The strokes of one handwritten `digit`, in pixels of an image of `size` × `size`.
fn write(digit: usize, size: f32, random: &mut Stream) -> Vec<Vec<Dab>> {
    let mut strokes: Vec<Vec<Point>> = choose(ALLOGRAPHS[digit], random).iter().map(|stroke| curve(stroke, random)).collect();
    bend(&mut strokes, random);
    transform(&mut strokes, random);
    fit(&mut strokes, size, random);
    ink_strokes(strokes, size / REFERENCE_SIZE, random)
}

fn choose(allographs: &[Allograph], random: &mut Stream) -> &'static [&'static [Point]] {
    let mut ticket = random.below(allographs.iter().map(|allograph| allograph.share).sum());
    for allograph in allographs {
        match ticket.checked_sub(allograph.share) {
            None => return allograph.strokes,
            Some(rest) => ticket = rest,
        }
    }
    &[] // not reached: the ticket is below the sum of the shares
}

/// Moves the control points of a stroke at random and lays a Catmull–Rom curve through them, corner to corner.
fn curve(stroke: &[Point], random: &mut Stream) -> Vec<Point> {
    const POINT_STD: f32 = 0.065;
    const STROKE_STD: f32 = 0.03;
    const STEPS: usize = 8;
    let offset = scaled(random.normal_pair(), STROKE_STD);
    let mut moved: Vec<Point> = Vec::with_capacity(stroke.len());
    for (i, &point) in stroke.iter().enumerate() {
        let corner = i > 0 && stroke[i - 1] == point;
        moved.push(match moved.last() {
            Some(&previous) if corner => previous,
            _ => add(add(point, offset), scaled(random.normal_pair(), POINT_STD)),
        });
    }
    let mut line = vec![moved[0]];
    for smooth in moved.chunk_by(|a, b| a != b) {
        for i in 1..smooth.len() {
            let (p1, p2) = (smooth[i - 1], smooth[i]);
            let p0 = if i >= 2 { smooth[i - 2] } else { p1 };
            let p3 = *smooth.get(i + 1).unwrap_or(&p2);
            line.extend((1..=STEPS).map(|step| catmull_rom([p0, p1, p2, p3], step as f32 / STEPS as f32)));
        }
    }
    line
}

/// The point at `t` (0 to 1) between the second and the third of four.
fn catmull_rom(p: [Point; 4], t: f32) -> Point {
    std::array::from_fn(|axis| {
        let [a, b, c, d] = p.map(|point| point[axis]);
        let linear = c - a;
        let square = 2.0 * a - 5.0 * b + 4.0 * c - d;
        let cube = 3.0 * (b - c) + d - a;
        b + 0.5 * t * (linear + t * (square + t * cube))
    })
}

/// A smooth deformation of the plane: two long waves an axis.
fn bend(strokes: &mut [Vec<Point>], random: &mut Stream) {
    const AMPLITUDE_STD: f32 = 0.06;
    let waves: [[f32; 4]; 4] = std::array::from_fn(|_| {
        let [amplitude, frequency] = random.normal_pair();
        let angle = random.uniform(0.0, std::f32::consts::TAU);
        let turns = 2.2 + 0.6 * frequency;
        [
            amplitude * AMPLITUDE_STD,
            turns * libm::cosf(angle),
            turns * libm::sinf(angle),
            random.uniform(0.0, std::f32::consts::TAU),
        ]
    });
    for point in strokes.iter_mut().flatten() {
        let [x, y] = *point;
        for (i, [amplitude, fx, fy, phase]) in waves.into_iter().enumerate() {
            point[i % 2] += amplitude * libm::sinf(fx * x + fy * y + phase);
        }
    }
}

/// Width, slant and turn of a hand.
fn transform(strokes: &mut [Vec<Point>], random: &mut Stream) {
    let [width, slant] = random.normal_pair();
    let [turn, _] = random.normal_pair();
    let width = libm::expf(0.1 + 0.18 * width);
    let slant = -(0.15 + 0.23 * slant.clamp(-2.5, 2.5)); // y points down: a negative shear leans to the right
    let turn = 0.09 * turn;
    let (sin, cos) = (libm::sinf(turn), libm::cosf(turn));
    for point in strokes.iter_mut().flatten() {
        let (x, y) = (point[0] * width + slant * point[1], point[1]);
        *point = [cos * x - sin * y, sin * x + cos * y];
    }
}

/// Scales to a box of 20/28 of the image and puts the centre of mass near the image's centre, both with some play, but
/// nothing runs off the image.
fn fit(strokes: &mut [Vec<Point>], size: f32, random: &mut Stream) {
    const BOX: f32 = 20.0;
    const CENTRE_STD: f32 = 0.4;
    const MARGIN: f32 = 3.0;
    let (mut low, mut high) = ([f32::MAX; 2], [f32::MIN; 2]);
    let (mut mass, mut moment) = (0.0, [0.0; 2]);
    for stroke in &*strokes {
        for pair in stroke.windows(2) {
            let length = distance(pair[0], pair[1]);
            mass += length;
            moment = add(moment, scaled(add(pair[0], pair[1]), 0.5 * length));
        }
        for point in stroke {
            low = [low[0].min(point[0]), low[1].min(point[1])];
            high = [high[0].max(point[0]), high[1].max(point[1])];
        }
    }
    let extent = (high[0] - low[0]).max(high[1] - low[1]).max(0.1);
    let pen = 2.6; // the box holds the ink, not the pen's centre
    let scale = size / REFERENCE_SIZE * (BOX - pen) * random.uniform(0.88, 1.03) / extent;
    let play = scaled(random.normal_pair(), CENTRE_STD * size / REFERENCE_SIZE);
    let centre = scaled(moment, 1.0 / mass.max(1e-3));
    let margin = MARGIN * size / REFERENCE_SIZE;
    let offset: Point = std::array::from_fn(|axis| {
        let wanted = 0.5 * size + play[axis] - scale * centre[axis];
        let (least, most) = (margin - scale * low[axis], size - margin - scale * high[axis]);
        wanted.min(most).max(least)
    });
    for point in strokes.iter_mut().flatten() {
        *point = add(scaled(*point, scale), offset);
    }
}

/// Gives the strokes width and pressure: a pen of its own for each image, changing along the way, thinner at the ends.
fn ink_strokes(strokes: Vec<Vec<Point>>, unit: f32, random: &mut Stream) -> Vec<Vec<Dab>> {
    let radius = unit * (1.38 * libm::expf(0.24 * random.normal_pair()[0])).clamp(0.75, 2.6);
    let pressure = random.uniform(0.9, 1.2);
    strokes
        .into_iter()
        .map(|stroke| {
            let [width_wave, ink_wave] = [random.uniform(0.0, 0.22), random.uniform(0.0, 0.16)];
            let [width_phase, ink_phase] = [0; 2].map(|_| random.uniform(0.0, std::f32::consts::TAU));
            let pace = random.uniform(0.12, 0.35) / unit; // radians a pixel of the pen's way
            let taper = random.uniform(0.6, 1.0);
            let total: f32 = stroke.windows(2).map(|pair| distance(pair[0], pair[1])).sum();
            let (mut way, mut previous) = (0.0, stroke[0]);
            stroke
                .into_iter()
                .map(|at| {
                    way += distance(previous, at);
                    previous = at;
                    let from_end = (way.min(total - way) / (3.0 * unit)).clamp(0.0, 1.0);
                    let width = (1.0 + width_wave * libm::sinf(pace * way + width_phase)) * (taper + (1.0 - taper) * from_end);
                    let ink = pressure * (1.0 + ink_wave * libm::sinf(1.3 * pace * way + ink_phase));
                    Dab { at, radius: radius * width, ink: ink.min(1.0) }
                })
                .collect()
        })
        .collect()
}

/// Draws the strokes into an image of `size` × `size` values from 0 (paper) to 1 (ink), with soft edges.
fn draw(strokes: &[Vec<Dab>], size: usize, ink: &mut [f32]) {
    let edge = 0.4 + 0.35 * size as f32 / REFERENCE_SIZE; // half the width of the edge, in pixels
    for stroke in strokes {
        for pair in stroke.windows(2) {
            draw_segment(pair[0], pair[1], edge, size, ink);
        }
    }
}

fn draw_segment(from: Dab, to: Dab, edge: f32, size: usize, ink: &mut [f32]) {
    let reach = from.radius.max(to.radius) + edge;
    let span = |axis: usize| {
        let (a, b) = (from.at[axis], to.at[axis]);
        let first = (a.min(b) - reach).max(0.0) as usize;
        let last = (a.max(b) + reach + 1.0).clamp(0.0, size as f32) as usize;
        first..last.max(first)
    };
    let along = [to.at[0] - from.at[0], to.at[1] - from.at[1]];
    let length2 = (along[0] * along[0] + along[1] * along[1]).max(1e-12);
    for y in span(1) {
        for x in span(0) {
            let pixel = [x as f32 + 0.5, y as f32 + 0.5];
            let dot = (pixel[0] - from.at[0]) * along[0] + (pixel[1] - from.at[1]) * along[1];
            let t = (dot / length2).clamp(0.0, 1.0);
            let nearest = [from.at[0] + t * along[0], from.at[1] + t * along[1]];
            let radius = from.radius + t * (to.radius - from.radius);
            let inside = ((radius - distance(pixel, nearest)) / edge * 0.5 + 0.5).clamp(0.0, 1.0);
            let value = (from.ink + t * (to.ink - from.ink)) * inside * inside * (3.0 - 2.0 * inside);
            let place = &mut ink[y * size + x];
            *place = place.max(value);
        }
    }
}

/// Turns ink into pixels: white on black, or, with 3 channels, one random colour on another.
fn paint(ink: &[f32], image: &mut [u8], random: &mut Stream) {
    let coloured = image.len() > ink.len();
    let swap = coloured && random.below(2) == 1;
    for plane in image.chunks_exact_mut(ink.len()) {
        let (dark, light) = if coloured { (random.uniform(0.0, 115.0), random.uniform(150.0, 255.0)) } else { (0.0, 255.0) };
        let (paper, pen) = if swap { (light, dark) } else { (dark, light) };
        for (pixel, &ink) in plane.iter_mut().zip(ink) {
            *pixel = (paper + (pen - paper) * ink + 0.5) as u8;
        }
    }
}

fn add(a: Point, b: Point) -> Point {
    [a[0] + b[0], a[1] + b[1]]
}

fn scaled(a: Point, factor: f32) -> Point {
    [a[0] * factor, a[1] * factor]
}

fn distance(a: Point, b: Point) -> f32 {
    ((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1])).sqrt()
}
