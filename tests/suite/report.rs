//! The run for people: TensorBoard's events, `progress.gif`, curves, `report.html`.

use std::fs;
use std::io::BufReader;
#[cfg(all(feature = "infer", feature = "cli"))]
use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ganforge::config::{Span, TrainConfig};
use ganforge::data::{DataReport, Dataset, synthetic};
use ganforge::error::Error;
use ganforge::image::encode_png;
use ganforge::progress::Silent;
use ganforge::train::report::{self, Facts, Paths};
use ganforge::train::tensorboard::{self, Event, Events};
use ganforge::train::{Best, Record, RunFolder, TrainingJob, Verdict, read_records, train};
use image::{AnimationDecoder, RgbaImage};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const GOLDEN: &[u8] = include_bytes!("../golden/events.tfevents");

/// A system that trains in a moment; `steps` in total.
fn config(steps: u64) -> TrainConfig {
    let mut config = TrainConfig::preset("wgan-mnist-mlp").unwrap();
    config.schedule.batch_size = 8;
    config.schedule.length = Span::Steps(steps);
    config.output.log_every = Span::Steps(1);
    config.output.sample_every = Span::Steps(2);
    config.output.checkpoint_every = Span::Steps(3);
    config.output.samples = 9;
    config
}

fn digits() -> Dataset {
    let report = DataReport { found: 51, used: 50, ..DataReport::default() };
    let pixels = synthetic::digits(50, 28, 1, 0);
    Dataset { name: "digits".into(), sha256: "abc".into(), len: 50, channels: 1, size: 28, pixels, labels: Vec::new(), report }
}

/// Trains up to `steps`, from where the run is.
fn go_on(folder: &RunFolder, steps: u64) {
    let (config, data, stop) = (config(steps), digits(), AtomicBool::new(false));
    let (device, progress) = (&Device::Cpu, &Silent);
    let job = TrainingJob { config: &config, data: &data, device, folder, progress, stop: &stop, judge: None, set: &[] };
    train(&job).unwrap();
}

/// A folder of a run that has not been trained.
fn empty(config: &TrainConfig) -> (TempDir, RunFolder) {
    let place = tempdir().unwrap();
    let folder = RunFolder::create(&place.path().join("run"), config).unwrap();
    (place, folder)
}

fn events(folder: &RunFolder) -> Vec<Event> {
    let files: Vec<_> = fs::read_dir(folder.tensorboard()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() == 1 && files[0].to_string_lossy().contains("tfevents"), "{files:?}");
    tensorboard::read(&files[0]).unwrap()
}

/// What an event shows, without its time: step, tag, number, image.
type Shown = (i64, String, Option<u32>, Option<Vec<u8>>);

fn shown(events: &[Event]) -> Vec<Shown> {
    let values = events.iter().flat_map(|event| event.summary.iter().flat_map(|s| &s.value).map(|value| (event.step, value)));
    let volatile = ["progress/seconds", "progress/images_per_second"];
    values
        .filter(|(_, value)| !volatile.contains(&value.tag.as_str()))
        .map(|(step, value)| {
            let image = value.image.as_ref().map(|image| image.encoded_image_string.clone());
            (step, value.tag.clone(), value.simple_value.map(f32::to_bits), image)
        })
        .collect()
}

fn record(step: u64) -> Record {
    Record {
        step,
        epoch: step as f64 / 10.0,
        images: 8 * step,
        loss_critic: 0.5,
        loss_generator: 1.5 + (step % 3) as f64,
        score_real: 1.0,
        score_fake: -1.0,
        score_train: None,
        score_held_out: None,
        gradient_norm_critic: None,
        gradient_norm_generator: None,
        penalty: None,
        input_gradient_norm: None,
        wasserstein: None,
        diversity: None,
        diversity_nearest: None,
        contrast: None,
        score_spread: None,
        quality: None,
        seconds: step as f64,
        images_per_second: 8.0,
    }
}

fn write_log(folder: &RunFolder, records: &[Record]) {
    let lines: String = records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect();
    fs::write(folder.stats_file(), lines).unwrap();
}

fn write_sheet(folder: &RunFolder, step: u64, side: usize, channels: usize, pixel: impl Fn(usize) -> u8) {
    let pixels: Vec<u8> = (0..side * side * channels).map(pixel).collect();
    fs::write(folder.sample_file(step), encode_png(&pixels, side, side, channels).unwrap()).unwrap();
}

/// Frames and their durations in milliseconds.
fn frames(folder: &RunFolder) -> Vec<(RgbaImage, u32)> {
    let file = BufReader::new(fs::File::open(folder.gif_file()).unwrap());
    let frames = image::codecs::gif::GifDecoder::new(file).unwrap().into_frames().collect_frames().unwrap();
    let duration = |frame: &image::Frame| frame.delay().numer_denom_ms().0 / frame.delay().numer_denom_ms().1;
    frames.into_iter().map(|frame| (duration(&frame), frame.into_buffer())).map(|(ms, image)| (image, ms)).collect()
}

/// The page, after a look that it asks for nothing from elsewhere and runs nothing.
fn page(folder: &RunFolder) -> String {
    let page = fs::read_to_string(folder.report_file()).unwrap();
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in page.match_indices(attribute) {
            assert!(page[at + attribute.len()..].starts_with("data:image/"), "{}", &page[at..at + 60]);
        }
    }
    for forbidden in ["<script", "<link", "<iframe", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
    page
}

fn write_bytes(events: &[Event]) -> Vec<u8> {
    events.iter().flat_map(Event::framed).collect()
}

#[test]
fn event_files_are_tensorboards_own() {
    let place = tempdir().unwrap();
    let path = place.path().join("golden");
    fs::write(&path, GOLDEN).unwrap();
    let events = tensorboard::read(&path).unwrap();
    assert!(write_bytes(&events) == GOLDEN);
    let times: Vec<f64> = events.iter().map(|event| event.wall_time).collect();
    assert_eq!(times, [1.7e9, 1.7e9 + 0.5, 1.7e9 + 1.25, 1.7e9 + 1.25]);
    assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
    let values = shown(&events);
    assert_eq!(values[0], (1, "loss/critic".to_string(), Some(0), None));
    assert_eq!(values[1], (1, "loss/generator".to_string(), Some((-2.5f32).to_bits()), None));
    assert!(values[2].1 == "score/real" && f32::from_bits(values[2].2.unwrap()).is_nan());
    let (step, tag, number, png) = &values[3];
    assert_eq!((*step, tag.as_str(), *number), (1 << 40, "samples", None));
    let image = image::load_from_memory(png.as_ref().unwrap()).unwrap();
    assert_eq!((image.width(), image.height()), (2, 1));

    // Wherever it is cut off or damaged: all events before that, and none after.
    let ends: Vec<usize> = (0..=events.len()).map(|n| write_bytes(&events[..n]).len()).collect();
    for at in 0..GOLDEN.len() {
        let whole = ends.iter().rposition(|end| *end <= at).unwrap();
        fs::write(&path, &GOLDEN[..at]).unwrap();
        assert_eq!(write_bytes(&tensorboard::read(&path).unwrap()), GOLDEN[..ends[whole]], "cut off at {at}");
        let mut damaged = GOLDEN.to_vec();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        assert_eq!(write_bytes(&tensorboard::read(&path).unwrap()), GOLDEN[..ends[whole]], "damaged at {at}");
    }
}

#[test]
fn every_number_of_a_record_is_a_scalar() {
    let (_place, folder) = empty(&config(9));
    let full = Record {
        score_train: Some(1.0),
        score_held_out: Some(2.0),
        gradient_norm_critic: Some(3.0),
        gradient_norm_generator: Some(4.0),
        penalty: Some(5.0),
        input_gradient_norm: Some(6.0),
        wasserstein: Some(7.0),
        diversity: Some(8.0),
        diversity_nearest: Some(10.0),
        contrast: Some(11.5),
        score_spread: Some(11.0),
        quality: Some(9.0),
        ..record(4)
    };
    let mut open = Events::open(&folder, 0).unwrap();
    open.record(&full).unwrap();
    open.sheet(4, &fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/digits/grid.png")).unwrap()).unwrap();
    assert!(open.sheet(5, b"no PNG").is_err());
    let events = events(&folder);
    assert_eq!(events.len(), 3);
    let mut found: Vec<(&str, f32)> =
        events[1].summary.as_ref().unwrap().value.iter().map(|v| (v.tag.as_str(), v.simple_value.unwrap())).collect();
    found.sort_by(|a, b| a.0.cmp(b.0));
    let expected = [
        ("gradient_norm/critic", 3.0),
        ("gradient_norm/generator", 4.0),
        ("loss/critic", 0.5),
        ("loss/generator", 2.5),
        ("penalty/input_gradient_norm", 6.0),
        ("penalty/penalty", 5.0),
        ("progress/epoch", 0.4),
        ("progress/images", 32.0),
        ("progress/images_per_second", 8.0),
        ("progress/seconds", 4.0),
        ("quality/contrast", 11.5),
        ("quality/diversity", 8.0),
        ("quality/diversity_nearest", 10.0),
        ("quality/frechet", 9.0),
        ("quality/wasserstein", 7.0),
        ("score/fake", -1.0),
        ("score/held_out", 2.0),
        ("score/real", 1.0),
        ("score/spread", 11.0),
        ("score/train", 1.0),
    ];
    assert_eq!(found, expected);
    // All of them, whatever is added to a record.
    assert_eq!(serde_json::to_value(&full).unwrap().as_object().unwrap().len(), expected.len() + 1);
    assert_eq!(events[1].wall_time, events[0].wall_time + 4.0);
    assert_eq!((events[2].step, events[2].wall_time), (4, events[1].wall_time));
}

#[test]
fn event_times_add_up_over_processes() {
    let (_place, folder) = empty(&config(9));
    let at = |step: u64, seconds: f64| Record { seconds, ..record(step) };
    // The second process began after step 2.
    write_log(&folder, &[at(1, 10.0), at(2, 20.0), at(3, 5.0), at(4, 11.0), at(5, 12.0)]);
    write_sheet(&folder, 2, 30, 1, |_| 7);
    write_sheet(&folder, 3, 30, 1, |_| 8);
    write_sheet(&folder, 5, 30, 1, |_| 9);
    drop(Events::open(&folder, 4).unwrap());
    let first = events(&folder);
    let times: Vec<(i64, f64)> =
        first.iter().map(|event| (event.step, (event.wall_time - first[0].wall_time).round())).collect();
    assert_eq!(times, [(0, 0.0), (1, 10.0), (2, 20.0), (2, 20.0), (3, 25.0), (3, 25.0), (4, 31.0)]);
    // Opened again, also after a crash, it is the same file.
    let path = fs::read_dir(folder.tensorboard()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.clone();
    bytes.truncate(bytes.len() - 3);
    fs::write(&path, bytes).unwrap();
    drop(Events::open(&folder, 4).unwrap());
    assert!(fs::read(&path).unwrap() == whole);
}

#[test]
fn a_run_tells_its_story() {
    let (_place, folder) = empty(&config(7));
    go_on(&folder, 7);
    let records = read_records(&folder).unwrap();
    assert_eq!(records.len(), 7);

    // TensorBoard: the log's numbers, and the sheets.
    let shown = shown(&events(&folder));
    for record in &records {
        let of = |tag: &str| shown.iter().find(|(step, name, ..)| *step == record.step as i64 && name == tag).unwrap().2;
        assert_eq!(of("loss/critic"), Some((record.loss_critic as f32).to_bits()));
        assert_eq!(of("score/fake"), Some((record.score_fake as f32).to_bits()));
    }
    let sheets: Vec<(i64, Vec<u8>)> = shown.iter().filter_map(|(step, .., png)| Some((*step, png.clone()?))).collect();
    assert_eq!(sheets.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 6, 7]);
    for (step, png) in &sheets {
        assert!(*png == fs::read(folder.sample_file(*step as u64)).unwrap(), "step {step}");
    }

    // The animation: grey sheets of 3×3 digits, 92 pixels wide, are shown three times as large, and exactly.
    let frames = frames(&folder);
    assert_eq!(frames.iter().map(|(_, ms)| *ms).collect::<Vec<_>>(), [120, 120, 120, 3000]);
    for ((frame, _), (_, png)) in frames.iter().zip(&sheets) {
        let sheet = image::load_from_memory(png).unwrap().into_rgba8();
        assert_eq!((frame.width(), frame.height()), (3 * 92, 3 * 92 + 20));
        for (x, y, pixel) in sheet.enumerate_pixels() {
            assert_eq!(frame.get_pixel(3 * x + 1, 3 * y + 2), pixel);
        }
        assert!(frame.rows().skip(3 * 92).flatten().any(|pixel| pixel.0[0] < 100), "the step is written below");
    }
    assert!(frames[0].0 != frames[3].0);

    // The page.
    let page = page(&folder);
    for part in ["wgan-mnist-mlp", "data:image/gif;base64,", "critic_steps", "step 7, ", "51 found", "SHA-256", "processor"] {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<svg").count(), 4, "losses, scores, Wasserstein estimate, gradient norms");
    assert_eq!(page.matches("data:image/png;base64,").count(), 4);
    assert!(!page.contains("of 7: the run goes on") && !page.contains("Watchdog"));
    let facts: Value = serde_json::from_slice(&fs::read(folder.facts_file()).unwrap()).unwrap();
    assert_eq!((&facts["total_steps"], &facts["data"]["images"], facts.get("ended")), (&7.into(), &50.into(), None));
    assert!(facts["environment"]["cores"].as_u64().unwrap() >= 1);

    // Made again it is the same.
    fs::remove_file(folder.report_file()).unwrap();
    report::rewrite(&folder, Paths::Hidden).unwrap();
    assert!(fs::read_to_string(folder.report_file()).unwrap() == page);
}

#[test]
fn a_resumed_run_has_the_events_of_an_undisturbed_one() {
    let (_place, straight) = empty(&config(8));
    go_on(&straight, 8);
    let (_other_place, resumed) = empty(&config(8));
    go_on(&resumed, 3);
    go_on(&resumed, 5);
    assert_eq!(events(&resumed).last().unwrap().step, 5);
    // As if it had been killed after step 5, in the midst of an event, and the checkpoint before were the latest.
    fs::write(resumed.checkpoints().join("latest"), "00000003\n").unwrap();
    let path = fs::read_dir(resumed.tensorboard()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([9, 0, 0]);
    fs::write(&path, bytes).unwrap();
    let began = events(&resumed)[0].wall_time;
    go_on(&resumed, 8);
    // Where it stopped on the way it drew a sheet more.
    let (ours, mut theirs) = (shown(&events(&straight)), shown(&events(&resumed)));
    theirs.retain(|(step, tag, ..)| tag != "samples" || step % 2 == 0 || *step == 8);
    assert!(ours.len() > 8 * 6 && ours == theirs);
    assert_eq!(events(&resumed)[0].wall_time, began);
    let times: Vec<f64> = events(&resumed).iter().map(|event| event.wall_time).collect();
    assert!(times.is_sorted());
}

#[test]
fn the_animation_is_short_and_small() {
    let (_place, folder) = empty(&TrainConfig::preset("dcgan-64").unwrap());
    write_log(&folder, &[record(150)]);
    // 8×8 images of 64 pixels in noise, which no format makes small.
    let noise = |step: u64| move |at: usize| (at as u64 * 31 + step).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0];
    for step in 1..=151 {
        write_sheet(&folder, step, 8 * 66 + 2, 3, noise(step));
    }
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let frames = frames(&folder);
    assert_eq!(frames.len(), 60);
    assert_eq!((frames[0].1, frames[59].1), (120, 3000));
    let bytes = fs::metadata(folder.gif_file()).unwrap().len();
    assert!((2_000_000..5_000_000).contains(&bytes), "{bytes} bytes");
    // The log ends before step 151: its sheet is left from a life of the run that was given up.
    assert_eq!(page(&folder).matches("data:image/png;base64,").count(), 5);
    assert!(page(&folder).contains("step 150,"));
}

#[test]
fn colours_stay_and_only_whole_images_are_shown() {
    let (_place, folder) = empty(&TrainConfig::preset("dcgan-64").unwrap());
    write_log(&folder, &[record(2)]);
    let side = 8 * 66 + 2;
    // From black to red, and from left to right to blue; nothing is green.
    let gradient = move |at: usize| match (at % 3, at / 3 % side, at / 3 / side) {
        (0, _, y) => (y * 255 / side) as u8,
        (2, x, _) => (x * 255 / side) as u8,
        _ => 0,
    };
    write_sheet(&folder, 1, side, 3, gradient);
    write_sheet(&folder, 2, side, 3, gradient);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let frames = frames(&folder);
    assert_eq!(frames.len(), 2);
    // Six images of 64 pixels and the lines between them.
    assert_eq!((frames[0].0.width(), frames[0].0.height()), (6 * 66 + 2, 6 * 66 + 2 + 20));
    let sheet = image::open(folder.sample_file(1)).unwrap().into_rgba8();
    let apart = (0..6 * 66 + 2).flat_map(|y| (0..6 * 66 + 2).map(move |x| (x, y)));
    let sum: u64 = apart
        .clone()
        .flat_map(|(x, y)| (0..3).map(move |c| (x, y, c)))
        .map(|(x, y, c)| u64::from(frames[1].0.get_pixel(x, y).0[c].abs_diff(sheet.get_pixel(x, y).0[c])))
        .sum();
    let mean = sum as f64 / (3 * apart.count()) as f64;
    assert!(mean < 6.0, "colours are {mean} of 255 away");
    assert!(frames[0].0.rows().next_back().unwrap().all(|pixel| pixel.0 == [255; 4]), "the caption's ground is white");
}

#[test]
fn text_from_outside_is_escaped() {
    let mut config = config(9);
    config.about = "</title><script>alert('about')</script>".to_string();
    config.data.source = "/a/<img src=\"http://x/\" onerror=\"alert(1)\">&\"'.zip".into();
    let (_place, folder) = empty(&config);
    write_log(&folder, &[record(1), record(2)]);
    let mut data = digits();
    data.name = "<b>name</b>".to_string();
    data.report.broken =
        vec![ganforge::data::Broken { name: "<svg onload=alert(2)>".to_string(), reason: "<i>torn</i>".to_string() }];
    let mut facts = Facts::new(&config, &data, &Device::Cpu, 9);
    facts.ended = Some("training <u>diverged</u>".to_string());
    facts.verdict =
        Some(Verdict { evidence: "<em>collapse</em> & more".to_string(), ..Verdict::nonsense(&record(2), "losses") });
    facts.best = Some(Best { step: 2, quality: Some(12.5) });
    report::write(&folder, &facts).unwrap();
    let page = page(&folder);
    for raw in ["<script", "<img src=\"http", "<b>name", "<svg onload", "<i>torn", "<u>", "<em>"] {
        assert!(!page.contains(raw), "{raw}");
    }
    for text in [
        "&lt;script&gt;alert",
        "&lt;b&gt;name",
        "&lt;u&gt;diverged",
        "&lt;em&gt;collapse&lt;/em&gt; &amp; more",
        "Fréchet distance 12.50",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // There are no samples, and nothing stands for them.
    assert!(!folder.gif_file().exists() && page.contains("No samples were drawn yet") && !page.contains("<img"));
}

#[test]
fn curves_show_what_the_records_have() {
    let (_place, folder) = empty(&config(9));
    let mut records: Vec<Record> = (1..=200).map(record).collect();
    write_log(&folder, &records);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let captions = ["loss", "raw", "Wasserstein", "gradient norm", "penalty", "distance between samples", "spread", "Fréchet"];
    let plain = page(&folder);
    let drawn = |page: &str| page.matches("<svg").count();
    assert_eq!(drawn(&plain), 2);
    assert!(!plain.contains("beyond the frame"));
    assert_eq!(image::image_dimensions(folder.curves_file()).unwrap(), (800, 640));

    // Spikes do not flatten the curves, and are owned up to; NaN is left out.
    records[80].loss_critic = 1e9;
    records[120].loss_critic = f64::NAN;
    records[199].loss_generator = f64::INFINITY;
    write_log(&folder, &records);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let spiked = page(&folder);
    assert!(spiked.contains("loss; 1 of 398 values lie beyond the frame"));
    let svg = |page: &str| page[page.find("<svg").unwrap()..page.find("</svg>").unwrap()].to_string();
    let labels = |svg: &str| svg.matches("text-anchor=\"end\"").count();
    assert!(labels(&svg(&spiked)) >= 3 && !svg(&spiked).contains("e9") && !svg(&spiked).contains("e8"));

    for record in &mut records {
        let value = Some(record.step as f64);
        (record.wasserstein, record.gradient_norm_critic, record.penalty, record.diversity) = (value, value, value, value);
        record.score_spread = value;
        record.quality = value.filter(|_| record.step.is_multiple_of(50));
    }
    write_log(&folder, &records);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let full = page(&folder);
    assert_eq!(drawn(&full), captions.len());
    assert!(captions.iter().all(|caption| full.contains(caption)));
    assert_eq!(image::image_dimensions(folder.curves_file()).unwrap(), (1600, 4 * 320));
}

/// The elements of a page's first chart of that name, by what their attributes say.
fn chart<'a>(page: &'a str, caption: &str) -> &'a str {
    let svgs = page.split("<svg").skip(1).filter_map(|rest| rest.split("</svg>").next());
    svgs.into_iter().find(|svg| svg.contains(caption)).unwrap_or_else(|| panic!("{caption}"))
}

/// The numbers of an attribute of all elements whose text has `has` in it.
fn attribute(svg: &str, has: &str, name: &str) -> Vec<f64> {
    let elements = svg.split('<').filter(|element| element.contains(has));
    let value = |element: &str| element.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?.parse().ok();
    elements.filter_map(value).collect()
}

#[test]
fn a_legend_lies_over_no_curve() {
    let (_place, folder) = empty(&config(9));
    let mut records: Vec<Record> = (1..=10).map(record).collect();
    for record in &mut records {
        let value = Some(record.step as f64);
        (record.score_train, record.score_held_out) = (value, value);
    }
    write_log(&folder, &records);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let page = page(&folder);
    for (caption, names) in [
        ("loss", &["critic", "generator"][..]),
        ("raw", &["real images", "generated images", "fixed training images", "held-out images"]),
    ] {
        let svg = chart(&page, caption);
        // The values are drawn as circles; the highest of each curve lies below the names and above the axis.
        let highest = attribute(svg, "circle ", "cy").into_iter().fold(f64::INFINITY, f64::min);
        let mut ends = 0.0;
        for name in names {
            let text = svg
                .split("<text ")
                .find(|text| text.contains(&format!(">\n{name}\n")))
                .unwrap_or_else(|| panic!("{name}: {svg}"));
            let [x, y] = ["x", "y"].map(|at| attribute(&format!(" {text}"), "", at)[0]);
            assert!(y + 13.0 < highest, "{name} at {y}, a curve at {highest}");
            assert!(x > ends && x < 600.0, "{name} at {x}, the one before ends at {ends}");
            ends = x + 6.0 * name.len() as f64;
        }
        assert!(ends < 600.0);
    }
}

#[test]
fn a_single_value_is_seen() {
    let (_place, folder) = empty(&config(9));
    write_log(&folder, &[record(1)]);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let one = page(&folder);
    assert_eq!(attribute(chart(&one, "loss"), "circle ", "r"), [5.0, 5.0]);
    // Its steps are not told twice.
    let labels: Vec<&str> =
        chart(&one, "loss").split("text-anchor=\"middle\"").skip(1).filter_map(|text| text.split('\n').nth(1)).collect();
    let steps: Vec<&&str> = labels.iter().filter(|label| label.parse::<u64>().is_ok()).collect();
    assert_eq!(steps, [&"0", &"1"], "{labels:?}");
    // Nor is what it is drawn against a hair's breadth.
    write_log(&folder, &[Record { quality: Some(0.4), ..record(1) }]);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    let one = page(&folder);
    let alone = chart(&one, "Fréchet distance");
    // Values beyond all measure, of a damaged log, are not drawn.
    write_log(&folder, &[record(1), Record { loss_critic: 1.7e308, loss_generator: -1.7e308, ..record(2) }]);
    report::rewrite(&folder, Paths::Hidden).unwrap();
    assert_eq!(attribute(chart(&page(&folder), "loss"), "circle ", "r").len(), 2);
    assert!(["0.20", "0.40", "0.60"].iter().all(|label| alone.lines().any(|line| line == *label)), "{alone}");
    write_log(&folder, &(1..=3).map(record).collect::<Vec<_>>());
    report::rewrite(&folder, Paths::Hidden).unwrap();
    assert!(attribute(chart(&page(&folder), "loss"), "circle ", "r").iter().all(|radius| *radius == 2.0));
}

#[test]
fn the_time_is_told_as_people_do() {
    let (_place, folder) = empty(&config(9));
    for (seconds, told) in [(19.6, "20 s"), (260.0, "4 min 20 s"), (7_509.0, "2 h 5 min")] {
        write_log(&folder, &[Record { seconds, ..record(1) }]);
        report::rewrite(&folder, Paths::Hidden).unwrap();
        let page = page(&folder);
        assert!(page.contains(&format!("<b>{told}</b><span class=\"soft\">training time</span>")), "{told}");
        assert!(!page.contains("hours"));
    }
}

#[test]
fn damage_is_named() {
    let (_place, folder) = empty(&config(9));
    write_log(&folder, &[record(4)]);
    let complaint = |result: Result<(), Error>| result.unwrap_err().to_string();
    fs::write(folder.sample_file(3), b"\x89PNG no more").unwrap();
    // A sheet is not worth a report, or a run: they do without, and say so.
    report::rewrite(&folder, Paths::Hidden).unwrap();
    assert!(page(&folder).contains("Left out: 00000003.png"));
    let events = Events::open(&folder, 4).unwrap();
    assert!(events.left_out().len() == 1 && events.left_out()[0].contains("00000003.png"), "{:?}", events.left_out());
    fs::remove_file(folder.sample_file(3)).unwrap();
    fs::write(folder.facts_file(), "{").unwrap();
    let text = complaint(report::rewrite(&folder, Paths::Hidden));
    assert!(text.contains("report.json") && text.contains("Delete it"), "{text}");
    fs::remove_file(folder.facts_file()).unwrap();
    report::rewrite(&folder, Paths::Hidden).unwrap();
    fs::remove_file(folder.stats_file()).unwrap();
    assert!(complaint(report::rewrite(&folder, Paths::Hidden)).contains("stats.jsonl"));
}

#[cfg(all(feature = "infer", feature = "cli"))]
#[test]
fn gan_train_writes_a_report_again() {
    let place = tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
    for file in ["config.toml", "stats.jsonl"] {
        fs::copy(model.join(file), place.path().join(file)).unwrap();
    }
    let command = |run: &Path| {
        let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_gan-train"));
        command.arg("report").arg(run);
        command
    };
    command(place.path()).assert().success().stdout(predicates::str::contains("report.html"));
    let page = page(&RunFolder::open(place.path()).unwrap());
    assert!(page.contains("15,634") && page.matches("<svg").count() == 6);
    command(&place.path().join("nothing")).assert().code(2).stderr(predicates::str::contains("is not a run"));
}
