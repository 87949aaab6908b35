//! Event files for TensorBoard: the numbers of `stats.jsonl` as scalars, the sheets of samples as images.
//!
//! The file is a function of the log, the sheets and one moment, the run's beginning: opening it makes it anew from the log as
//! that has been cut back to the checkpoint. So a resumed run has the events of an undisturbed one, and damage heals. The only
//! volatile field is `wall_time`: the beginning plus the seconds trained, the time between two processes left out.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crc::{CRC_32_ISCSI, Crc, Table};
use prost::Message;

use super::RunFolder;
use super::record::{Elapsed, Record, logged};
use crate::error::{Error, Result};
use crate::files;

/// TensorBoard reads files with `tfevents` in their names.
const FILE: &str = "events.out.tfevents.0.ganforge";

/// The sheets' tag.
const SAMPLES: &str = "samples";

/// An entry of an event file: the fields used here of `tensorflow/core/util/event.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// Generator steps made.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// The format's name; in the first event only.
    #[prost(string, optional, tag = "3")]
    pub file_version: Option<String>,
    /// What there is to show.
    #[prost(message, optional, tag = "5")]
    pub summary: Option<Summary>,
}

/// Values of one step: `tensorflow/core/framework/summary.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// A scalar or an image.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// Its name; what stands before the first `/` groups the charts.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The scalar.
    #[prost(float, optional, tag = "2")]
    pub simple_value: Option<f32>,
    /// The image.
    #[prost(message, optional, tag = "4")]
    pub image: Option<Image>,
}

/// An encoded image.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    /// Pixels.
    #[prost(int32, tag = "1")]
    pub height: i32,
    /// Pixels.
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// 1 (grey) or 3 (RGB).
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    /// A PNG file's bytes.
    #[prost(bytes = "vec", tag = "4")]
    pub encoded_image_string: Vec<u8>,
}

/// The open event file of a run.
pub struct Events {
    path: PathBuf,
    file: File,
    clock: Clock,
    left_out: Vec<String>,
}

/// Where `wall_time` comes from.
struct Clock {
    /// Seconds since 1970 when the run began.
    began: f64,
    elapsed: Elapsed,
    now: f64,
}

impl Events {
    /// Opens a run's event file, made anew from its log and its sheets up to `step`: what came after the checkpoint will be
    /// made again. Sheets that are unreadable or damaged are left out.
    ///
    /// # Errors
    /// When the log is unreadable, or the folder cannot be written to.
    pub fn open(folder: &RunFolder, step: u64) -> Result<Self> {
        files::create_folder(&folder.tensorboard())?;
        let path = folder.tensorboard().join(FILE);
        let mut records = logged(folder)?;
        records.retain(|record| record.step <= step);
        let mut clock = Clock { began: began(&path, &records)?, elapsed: Elapsed::default(), now: 0.0 };
        clock.now = clock.began;
        let version = Event { wall_time: clock.began, file_version: Some("brain.Event:2".to_string()), ..Event::default() };
        let mut bytes = version.framed();
        let mut left_out = Vec::new();
        let mut sheet = |clock: &Clock, (step, path): (u64, PathBuf), bytes: &mut Vec<u8>| {
            let event = files::read(&path, files::PICTURE).and_then(|png| clock.sheet(step, &png, &path));
            match event {
                Ok(event) => bytes.extend(event.framed()),
                Err(error) => left_out.push(error.to_string()),
            }
        };
        let mut sheets = folder.sheets(step)?.into_iter().peekable();
        for record in &records {
            while let Some(next) = sheets.next_if(|(step, _)| *step < record.step) {
                sheet(&clock, next, &mut bytes);
            }
            bytes.extend(clock.record(record)?.framed());
        }
        sheets.for_each(|next| sheet(&clock, next, &mut bytes));
        files::write_atomic(&path, &bytes)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", &path))?;
        Ok(Self { path, file, clock, left_out })
    }

    /// The sheets that were left out when it was opened: which, and why.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Adds every number of a record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&mut self, record: &Record) -> Result<()> {
        let event = self.clock.record(record)?;
        self.write(&event)
    }

    /// Adds a sheet of samples, a PNG file's bytes; after the record of the same step, if there is one.
    ///
    /// # Errors
    /// When this is no PNG, or the file cannot be written.
    pub fn sheet(&mut self, step: u64, png: &[u8]) -> Result<()> {
        let event = self.clock.sheet(step, png, Path::new("a sheet of samples"))?;
        self.write(&event)
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        self.file.write_all(&event.framed()).map_err(Error::io("write", &self.path))
    }
}

/// When a run began: as its event file says, or else reckoned back from now.
fn began(path: &Path, records: &[Record]) -> Result<f64> {
    /// More than the first event takes, which only names the format.
    const FIRST: u64 = 1 << 10;
    if path.exists() {
        let mut head = Vec::new();
        files::open(path)?.0.take(FIRST).read_to_end(&mut head).map_err(Error::io("read", path))?;
        if let Some((first, _)) = split(&head) {
            return Ok(first.wall_time);
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let mut elapsed = Elapsed::default();
    Ok(now - records.iter().map(|record| elapsed.after(record)).last().unwrap_or(0.0))
}

impl Clock {
    fn record(&mut self, record: &Record) -> Result<Event> {
        self.now = self.began + self.elapsed.after(record);
        Ok(self.event(record.step, scalars(record)?))
    }

    fn sheet(&self, step: u64, png: &[u8], path: &Path) -> Result<Event> {
        let sheet = image::load_from_memory_with_format(png, image::ImageFormat::Png)
            .map_err(|e| Error::invalid_file(path, e.to_string(), "Delete it: training does not need it."))?;
        let image = Image {
            height: sheet.height() as i32,
            width: sheet.width() as i32,
            colorspace: i32::from(sheet.color().channel_count()),
            encoded_image_string: png.to_vec(),
        };
        Ok(self.event(step, vec![Value { tag: SAMPLES.to_string(), simple_value: None, image: Some(image) }]))
    }

    fn event(&self, step: u64, value: Vec<Value>) -> Event {
        let summary = Some(Summary { value });
        Event { wall_time: self.now, step: step.cast_signed(), file_version: None, summary }
    }
}

/// Every number of a record but the step, by the names it has in the log.
fn scalars(record: &Record) -> Result<Vec<Value>> {
    let defect = |e: serde_json::Error| Error::invalid("stats.jsonl", e.to_string(), "Please report this.");
    let numbers = serde_json::to_value(record).map_err(defect)?;
    let numbers = numbers.as_object().into_iter().flatten().filter(|(name, _)| *name != "step");
    Ok(numbers
        .map(|(name, number)| Value {
            tag: tag(name),
            // The log's null is NaN, which TensorBoard shows as such.
            simple_value: Some(number.as_f64().unwrap_or(f64::NAN) as f32),
            image: None,
        })
        .collect())
}

/// A number's tag: TensorBoard puts those with the same beginning into one group.
fn tag(name: &str) -> String {
    const GROUPS: [&str; 3] = ["loss_", "score_", "gradient_norm_"];
    match name {
        "epoch" | "images" | "seconds" | "images_per_second" => format!("progress/{name}"),
        "penalty" | "input_gradient_norm" => format!("penalty/{name}"),
        "wasserstein" | "diversity" | "diversity_nearest" | "contrast" => format!("quality/{name}"),
        "quality" => "quality/frechet".to_string(),
        _ => match GROUPS.iter().find_map(|group| Some((group, name.strip_prefix(group)?))) {
            Some((group, rest)) => format!("{}/{rest}", group.trim_end_matches('_')),
            None => format!("other/{name}"),
        },
    }
}

impl Event {
    /// As it stands in the file, framed as TFRecord: length (u64, little endian) and its checksum, the message and its
    /// checksum (`tensorflow/core/lib/io/record_writer.h`).
    pub fn framed(&self) -> Vec<u8> {
        let message = self.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        [&length[..], &checksum(&length), &message, &checksum(&message)].concat()
    }
}

/// CRC-32C, rotated and shifted so that the checksum of what holds checksums is sound (`tensorflow/core/lib/hash/crc32c.h`).
fn checksum(bytes: &[u8]) -> [u8; 4] {
    static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);
    CRC.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The events of a file, up to the first that is cut off or damaged.
///
/// # Errors
/// When the file is unreadable.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let bytes = files::read(path, files::LARGE)?;
    let (mut rest, mut events) = (bytes.as_slice(), Vec::new());
    while let Some((event, after)) = split(rest) {
        events.push(event);
        rest = after;
    }
    Ok(events)
}

/// The first event of some bytes, and the bytes after it.
fn split(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let rest = rest.strip_prefix(&checksum(length))?;
    let (message, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let rest = rest.strip_prefix(&checksum(message))?;
    Some((Event::decode(message).ok()?, rest))
}
