//! Many images at once: read, decoded and laid into memory by all threads, and what could not be left out.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::classes::Classes;
use super::config::DataConfig;
use super::encoded::{MAX_BYTES, Refusal};
use super::report::{Broken, DataReport};
use super::{EXTENSIONS, Loaded, decode};
use crate::error::{Error, Result};
use crate::memory;
use crate::progress::Progress;
use crate::text::{self, grouped};

/// Makes `len` images of `bytes` bytes in parallel: `make` fills one, and what it returns is collected in order.
pub(super) fn fill<T: Send>(
    place: &Path,
    [len, bytes]: [usize; 2],
    progress: &dyn Progress,
    make: impl Fn(usize, &mut [u8]) -> T + Sync,
) -> Result<(Vec<u8>, Vec<T>)> {
    let mut pixels = Vec::new();
    let counter = Counter::new(place, len, progress);
    grow(place, &mut pixels, [len, len, bytes])?;
    let results = make_all(&mut pixels, bytes, &counter, make);
    progress.end();
    Ok((pixels, results))
}

/// Tells how many images are read.
struct Counter<'a> {
    progress: &'a dyn Progress,
    done: AtomicU64,
}

impl<'a> Counter<'a> {
    fn new(place: &Path, len: usize, progress: &'a dyn Progress) -> Self {
        progress.begin(&format!("reading {}", text::path(place)), len as u64);
        Self { progress, done: AtomicU64::new(0) }
    }

    fn count(&self) {
        const REPORT_EVERY: u64 = 64;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(REPORT_EVERY) {
            self.progress.update(done, "");
        }
    }
}

/// Adds `len` black images of `bytes` bytes, with room for `room` if there is need of more.
fn grow(place: &Path, pixels: &mut Vec<u8>, [len, room, bytes]: [usize; 3]) -> Result<()> {
    const HINT: &str = "Use fewer images, or a smaller data.size.";
    let too_many = || {
        let what = format!("{} images of {} bytes do not fit in memory", grouped(room), grouped(bytes));
        Error::invalid_file(place, what, HINT)
    };
    let wanted = room.checked_mul(bytes).ok_or_else(too_many)?;
    let more = len * bytes; // at most `wanted`
    if pixels.capacity() - pixels.len() < more {
        memory::check(place, wanted as u64, &format!("{} images of {} bytes", grouped(room), grouped(bytes)), HINT)?;
        pixels.try_reserve_exact(wanted).map_err(|_| too_many())?;
    }
    pixels.resize(pixels.len() + more, 0);
    Ok(())
}

fn make_all<T: Send>(
    pixels: &mut [u8],
    bytes: usize,
    counter: &Counter,
    make: impl Fn(usize, &mut [u8]) -> T + Sync,
) -> Vec<T> {
    let images = pixels.par_chunks_exact_mut(bytes).enumerate();
    images
        .map(|(index, out)| {
            let result = make(index, out);
            counter.count();
            result
        })
        .collect()
}

/// Reads and decodes the images called `names` in parallel, and leaves out the broken ones. Memory is taken for what turned out
/// to be images, part by part, and for the rest once those before it mostly did: a name costs nothing.
pub(super) fn decode_all(
    place: &Path,
    names: Vec<String>,
    mut report: DataReport,
    config: &DataConfig,
    progress: &dyn Progress,
    read: impl Fn(usize) -> Result<Vec<u8>, Refusal> + Sync,
) -> Result<Loaded> {
    /// Bytes of a part's images: enough for every thread to have its share.
    const PART: usize = 64 << 20;
    let bytes = config.channels * config.size * config.size;
    let part = (PART / bytes).max(rayon::current_num_threads());
    report.found = names.len();
    let (mut pixels, mut whole) = (Vec::new(), Vec::new());
    let counter = Counter::new(place, names.len(), progress);
    for (number, part_of_names) in names.chunks(part).enumerate() {
        let first = number * part;
        let mostly_whole = first > 0 && report.used * 2 >= first;
        let room = if mostly_whole { names.len() - first } else { part_of_names.len() };
        grow(place, &mut pixels, [part_of_names.len(), room, bytes])?;
        let new = &mut pixels[report.used * bytes..];
        let results = make_all(new, bytes, &counter, |index, out| {
            let name = part_of_names.get(index).map_or("", String::as_str);
            read(first + index).and_then(|encoded| decode::decode(&encoded, name, config.size, config.channels, out))
        });
        let start = report.used;
        for (index, (name, result)) in part_of_names.iter().zip(results).enumerate() {
            match result {
                Ok(source) => {
                    let at = (start + index) * bytes;
                    pixels.copy_within(at..at + bytes, report.used * bytes);
                    report.count(1, (source.width, source.height), source.colour);
                    whole.push(name.clone());
                }
                Err(Refusal::Broken(reason)) => report.broken.push(Broken { name: name.clone(), reason }),
                Err(Refusal::TooLarge(reason)) => report.too_large.push(Broken { name: name.clone(), reason }),
            }
        }
        pixels.truncate(report.used * bytes);
    }
    progress.end();
    check_health(place, &report)?;
    pixels.shrink_to_fit();
    Ok(Loaded { pixels, classes: Classes::of_folders(&whole), names: whole, report })
}

/// A whole encoded image, whatever size its archive claims, unless it is too large to be one.
pub(super) fn read_bounded(source: impl Read) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    source.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Refusal::Broken(e.to_string()))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Refusal::TooLarge(format!("the file is larger than {} bytes", grouped(MAX_BYTES as usize))));
    }
    Ok(bytes)
}

fn check_health(place: &Path, report: &DataReport) -> Result<()> {
    let (found, broken, too_large) = (report.found, report.broken.len(), report.too_large.len());
    if found == 0 {
        let others = if report.ignored == 0 { String::new() } else { format!("; {}", report.others()) };
        return Err(Error::invalid_file(
            place,
            format!("no images found{others}"),
            format!("Images are files that end in .{}.", EXTENSIONS.join(", .")),
        ));
    }
    if (broken + too_large) * 2 > found {
        let what = match (broken, too_large) {
            (_, 0) => "broken",
            (0, _) => "too large",
            _ => "broken or too large",
        };
        let first: Vec<String> = report.broken.iter().chain(&report.too_large).take(3).map(Broken::to_string).collect();
        let left_out = grouped(broken + too_large);
        return Err(Error::invalid_file(
            place,
            format!("{left_out} of {} images are {what}: {}", grouped(found), first.join("; ")),
            "With more than half of them left out something is wrong with the whole: fetch, unpack or make it again.",
        ));
    }
    Ok(())
}
