//! Tar files in an object store, `s3://bucket/prefix` and its like, by the crate `object_store`: with credentials of the environment, as that reads them.
//!
//! An object appears whole, so nothing is half visible; what is uploaded in parts becomes an object with the last of them, and is taken back where
//! the work ends before. A journal cannot be appended to there. In its place lies a folder of its name: `job`, which job it is, and a *note* for each tar
//! file, written once that is whole, with what it can be checked by and the tag that the store gave it. The manifest comes last, and then the notes go.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crc32fast::Hasher;
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload, parse_url_opts};
use rayon::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use url::Url;

use super::folder::name_of;
use super::generator::Generator;
use super::journal::difference;
use super::labels::Labels;
use super::manifest;
use super::open_job::{Existing, Notes, Writer};
use super::output::Output;
use super::piece::{DonePieces, Piece, Tally};
use super::pipeline::{Sampled, SamplingJob, identity, interrupted, make};
use super::plan::Plan;
use super::rivals::shard_difference;
use super::selection::{Selection, Shard};
use super::sinks::Format;
use super::sinks::sink::{Depth, Open, Store};
use super::sinks::tar::{add_image, described_files, files_of, name_at};
use crate::error::{Error, Result};
use crate::image;
use crate::progress::Progress;
use crate::text;

/// Bytes that are uploaded at once, and kept in memory until then by each thread: stores want 5 MiB at least, some all parts alike.
const PART: usize = 8 << 20;
/// The object in the journal's folder that says which job it is.
const JOB: &str = "job";

/// Plans tar files in the object store of a URL.
///
/// # Errors
/// When the URL or the format is none that there is, or there are no images.
pub(super) fn plan(
    url: &str,
    format: Option<Format>,
    selection: Selection,
    shard: Option<Shard>,
    existing: Existing,
) -> Result<Plan> {
    parsed(url)?;
    if format.is_some_and(|format| format != Format::Tar) || url.ends_with(".tar") {
        let what =
            format!("`Plan::out` {} is in an object store, which takes tar files under a prefix", text::on_one_line(url));
        return Err(Error::usage(what, "Name a prefix, and choose `Plan::format` tar."));
    }
    Ok(Plan::of(Output::new(Format::Tar, Path::new(url), selection, shard)?, existing))
}

/// The URL of an object store that these are written for.
fn parsed(url: &str) -> Result<Url> {
    const SCHEMES: [&str; 9] = ["s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "file"];
    let wrong = |why: String| {
        let what = format!("`Plan::out` {}: {why}", text::on_one_line(url));
        Error::usage(what, "Name a prefix in a bucket: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.")
    };
    let told = Url::parse(url).map_err(|e| wrong(e.to_string()))?;
    match told.scheme() {
        scheme if !SCHEMES.contains(&scheme) => Err(wrong(format!("{scheme}: is no object store that is known here"))),
        scheme if scheme != "file" && !told.has_host() => Err(wrong("it names no bucket".to_string())),
        _ => Ok(told),
    }
}

/// A place in an object store.
struct Bucket {
    store: Box<dyn ObjectStore>,
    prefix: Key,
    url: String,
    runtime: Runtime,
}

/// What has a name directly at the place: its bytes, and the tag that the store gave it.
type Objects = BTreeMap<String, (u64, Option<String>)>;

impl Bucket {
    fn open(url: &str) -> Result<Self> {
        let told = parsed(url)?;
        // What others than these mean by a name is not for the store.
        let is_ours = |name: &str| ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|begin| name.starts_with(begin));
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| Error::Runtime(format!("the system gives no more threads: {e}")))?;
        let (store, prefix) = {
            let _inside = runtime.enter();
            parse_url_opts(&told, variables.filter(|(name, _)| is_ours(name))).map_err(failed("open", url))?
        };
        Ok(Self { store, prefix, url: url.trim_end_matches('/').to_string(), runtime })
    }

    fn key(&self, name: &Path) -> Key {
        name.iter().fold(self.prefix.clone(), |key, part| key.join(part.to_string_lossy().as_ref()))
    }

    /// What has a name, for messages.
    fn told(&self, name: &Path) -> String {
        format!("{}/{}", self.url, name.display())
    }

    /// The objects below a name, and the names of folders.
    fn list(&self, name: &Path) -> Result<(Objects, Vec<String>)> {
        let key = self.key(name);
        let all =
            self.runtime.block_on(self.store.list_with_delimiter(Some(&key))).map_err(failed("list", &self.told(name)))?;
        let named = |key: &Key| key.filename().map(str::to_string);
        let objects = all.objects.into_iter().filter_map(|it| Some((named(&it.location)?, (it.size, it.e_tag)))).collect();
        Ok((objects, all.common_prefixes.iter().filter_map(named).collect()))
    }

    /// What is in a small object; `None` if there is none.
    fn read(&self, name: &Path) -> Result<Option<Vec<u8>>> {
        let key = self.key(name);
        let read = async { self.store.get(&key).await?.bytes().await };
        match self.runtime.block_on(read) {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed("read", &self.told(name))(e)),
        }
    }

    fn read_json(&self, name: &Path) -> Result<Option<Value>> {
        Ok(self.read(name)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn write(&self, name: &Path, bytes: Vec<u8>, mode: PutMode) -> Result<()> {
        let put = self.runtime.block_on(self.store.put_opts(&self.key(name), bytes.into(), mode.into()));
        put.map(drop).map_err(failed("write", &self.told(name)))
    }

    /// Removes an object, if it is there.
    fn remove(&self, name: &Path) -> Result<()> {
        match self.runtime.block_on(self.store.delete(&self.key(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failed("remove", &self.told(name))(e)),
        }
    }
}

/// For `map_err`: what was attempted, and where.
fn failed(action: &'static str, place: &str) -> impl FnOnce(object_store::Error) -> Error {
    use object_store::Error as Of;
    let path = PathBuf::from(place);
    move |e| {
        let kind = match &e {
            Of::NotFound { .. } => ErrorKind::NotFound,
            Of::PermissionDenied { .. } | Of::Unauthenticated { .. } => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        };
        Error::Io { action, path, source: io::Error::new(kind, e) }
    }
}

/// The tar files of a job.
struct Tars {
    bucket: Arc<Bucket>,
    /// The folder of notes.
    journal: PathBuf,
    selection: Selection,
    shape: [usize; 3],
    labels: Option<Labels>,
    /// What is whole and noted.
    done: Arc<Mutex<Vec<Piece>>>,
}

impl Store for Tars {
    fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>> {
        let name = name_at(places.start);
        let upload = Upload::new(&self.bucket, name.clone());
        Ok(Box::new(OpenTar { tars: self, name, tally: Tally::new(places.start), builder: ::tar::Builder::new(upload) }))
    }

    /// An object is there to stay once the store has said that it is there.
    fn sync(&self, _: &[Piece]) -> io::Result<()> {
        Ok(())
    }

    fn holds(&self, piece: &Piece, depth: Depth) -> Result<bool> {
        let (bucket, name) = (&self.bucket, name_at(piece.first));
        let key = bucket.key(&name);
        let (mut crc, mut at) = (Hasher::new(), 0);
        let looked = bucket.runtime.block_on(async {
            if bucket.store.head(&key).await?.size != piece.bytes {
                return Ok(false);
            }
            while depth == Depth::Contents && at < piece.bytes {
                let end = piece.bytes.min(at + PART as u64);
                crc.update(&bucket.store.get_range(&key, at..end).await?);
                at = end;
            }
            Ok(depth == Depth::Sizes || crc.finalize() == piece.files)
        });
        match looked {
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            looked => looked.map_err(failed("read", &bucket.told(&name))),
        }
    }
}

/// A piece under way, which is a tar file.
struct OpenTar<'a> {
    tars: &'a Tars,
    name: PathBuf,
    tally: Tally,
    builder: ::tar::Builder<Upload<'a>>,
}

impl Open for OpenTar<'_> {
    fn put(&mut self, pixels: &[u8]) -> Result<()> {
        let Tars { bucket, selection, shape: [height, width, channels], labels, .. } = self.tars;
        for pixels in pixels.chunks_exact(height * width * channels) {
            let place = self.tally.next();
            let png = image::encode_png(pixels, *height, *width, *channels)?;
            let label = labels.as_ref().map(|labels| labels.at(place));
            let added = add_image(&mut self.builder, selection.name(place), &png, label);
            added.map_err(Error::io("write", bucket.told(&self.name).as_ref()))?;
            self.tally.images(1, pixels);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Piece>> {
        let Self { tars, name, mut tally, builder } = *self;
        let upload = builder.into_inner().map_err(Error::io("write", tars.bucket.told(&name).as_ref()))?;
        let (bytes, files, tag) = upload.finish()?;
        let Some(piece) = tally.close().map(|piece| Piece { bytes, files, ..piece }) else { return Ok(Vec::new()) };
        note(&tars.bucket, &tars.journal, &piece, tag)?;
        tars.done.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
        Ok(vec![piece])
    }
}

/// Notes that a tar file is whole.
fn note(bucket: &Bucket, journal: &Path, piece: &Piece, tag: Option<String>) -> Result<()> {
    let text = json!({ "piece": piece.text(), "tag": tag }).to_string();
    bucket.write(&journal.join(name_at(piece.first)), text.into_bytes(), PutMode::Overwrite)
}

/// A file on its way into the store: one object, in parts where it is large. What is not finished leaves nothing behind.
struct Upload<'a> {
    bucket: &'a Bucket,
    name: PathBuf,
    held: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
    crc: Hasher,
    bytes: u64,
}

impl<'a> Upload<'a> {
    fn new(bucket: &'a Bucket, name: PathBuf) -> Self {
        Self { bucket, name, held: Vec::new(), parts: None, crc: Hasher::new(), bytes: 0 }
    }

    /// Sends a part.
    fn send(&mut self, part: Vec<u8>) -> Result<(), object_store::Error> {
        let (bucket, key) = (self.bucket, self.bucket.key(&self.name));
        bucket.runtime.block_on(async {
            let parts = match &mut self.parts {
                Some(parts) => parts,
                none => none.insert(bucket.store.put_multipart(&key).await?),
            };
            parts.put_part(PutPayload::from(part)).await
        })
    }

    /// It is whole. Tells how many bytes it has, their CRC-32, and the tag that the store gave it.
    fn finish(mut self) -> Result<(u64, u32, Option<String>)> {
        let last = std::mem::take(&mut self.held);
        let (bucket, key) = (self.bucket, self.bucket.key(&self.name));
        let put = match self.parts {
            None => bucket.runtime.block_on(bucket.store.put(&key, last.into())),
            // Azure takes no part without bytes.
            Some(_) => if last.is_empty() { Ok(()) } else { self.send(last) }.and_then(|()| match &mut self.parts {
                Some(parts) => bucket.runtime.block_on(parts.complete()),
                None => Err(object_store::Error::NotImplemented { operation: "upload".into(), implementer: "here".into() }),
            }),
        };
        let put = put.map_err(failed("write", &bucket.told(&self.name)))?;
        self.parts = None;
        Ok((self.bytes, std::mem::take(&mut self.crc).finalize(), put.e_tag))
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        self.held.extend_from_slice(bytes);
        while self.held.len() >= PART {
            let rest = self.held.split_off(PART);
            let part = std::mem::replace(&mut self.held, rest);
            self.send(part).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The store forgets the parts, which would be paid for without being seen.
impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if let Some(mut parts) = self.parts.take() {
            let _ = self.bucket.runtime.block_on(parts.abort()); // there is a reason to report already
        }
    }
}

/// Makes the planned images, as [`super::pipeline::run`] does.
pub(super) fn run(
    generator: &Generator,
    job: &SamplingJob,
    plan: &Plan,
    progress: &dyn Progress,
    stop: &AtomicBool,
) -> Result<Sampled> {
    let started = Instant::now();
    if let Some(class) = job.conditioning.class {
        class.check(generator.contract(), generator.name())?;
    }
    let first = generator.sampler()?;
    let (identity, shape) = (identity(generator, job, plan)?, generator.image_shape());
    let bucket = Arc::new(Bucket::open(&plan.path().to_string_lossy())?);
    let [manifest, journal] = [plan.output().manifest(), plan.output().journal()].map(|path| name_of(&path));
    let labels = Labels::of(generator, plan.selection(), job.conditioning);
    let (done, selection) = (Arc::default(), plan.selection().clone());
    let tars = Tars { bucket, journal, selection, shape, labels, done };
    let opening = Opening { plan, tars: &tars, manifest: &manifest, identity: &identity, progress, stop };
    let sampled = |images| Sampled { images, seconds: started.elapsed().as_secs_f64(), out: plan.path().to_path_buf() };
    let Some(whole) = opening.open()? else { return Ok(sampled(0)) };
    let mut noted = DonePieces::new(tars.image());
    whole.iter().for_each(|piece| _ = noted.add(*piece));
    let (gaps, missing) = (noted.gaps(&plan.places()), plan.count() - noted.count());
    tars.done.lock().unwrap_or_else(PoisonError::into_inner).extend(whole);
    let closing = Closing { bucket: Arc::clone(&tars.bucket), journal: tars.journal.clone(), done: Arc::clone(&tars.done) };
    let writer = Writer::of(Box::new(tars));
    let tell = |made: u64| progress.update(plan.count() - missing + made, "");
    progress.begin("sampling", plan.count());
    tell(0);
    let (made, result) = make(generator, first, job, plan, gaps, &writer, &mut Notes::none(), &tell, stop);
    progress.end();
    let pieces = closing.pieces();
    let total: u64 = pieces.iter().map(|piece| piece.count).sum();
    if result.is_err() || total < plan.count() {
        if result.is_err() && total > 0 {
            let of = plan.count();
            progress.say(&format!("{total} of {of} images are whole; the same call with `Existing::Resume` makes the rest"));
        }
        return Err(result.err().unwrap_or_else(|| interrupted(plan, total)));
    }
    let image = shape.iter().product();
    closing.close(&manifest, &told(&identity, plan.count(), &pieces, image), &|piece| writer.holds(piece, Depth::Sizes))?;
    Ok(sampled(made))
}

/// The manifest.
fn told(identity: &Value, count: u64, pieces: &[Piece], image: usize) -> Value {
    let mut told = manifest::of_images(identity, count, pieces, image);
    told["files"] = files_of(pieces);
    told
}

impl Tars {
    /// Bytes of an image.
    fn image(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What there is to do when all images are there.
struct Closing {
    bucket: Arc<Bucket>,
    journal: PathBuf,
    done: Arc<Mutex<Vec<Piece>>>,
}

impl Closing {
    /// What is whole, in the order of the places.
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces = self.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pieces.sort_by_key(|piece| piece.first);
        pieces
    }

    /// Writes the manifest, and then removes the notes.
    fn close(&self, name: &Path, manifest: &Value, holds: &(dyn Fn(&Piece) -> Result<bool> + Sync)) -> Result<()> {
        let pieces = self.pieces();
        let there = pieces.par_iter().map(holds).collect::<Result<Vec<_>>>()?;
        let lost: u64 = pieces.iter().zip(there).filter(|(_, there)| !there).map(|(piece, _)| piece.count).sum();
        if lost > 0 {
            return Err(Error::invalid(
                text::on_one_line(&self.bucket.url),
                format!("objects with {lost} of the images were removed or changed while the job was at work"),
                "The same call with `Existing::Resume` makes again what is not whole.",
            ));
        }
        self.bucket.write(name, format!("{manifest:#}\n").into_bytes(), PutMode::Overwrite)?;
        forget(&self.bucket, &self.journal)
    }
}

/// Removes a journal; what says which job it is goes last.
fn forget(bucket: &Bucket, journal: &Path) -> Result<()> {
    let (notes, _) = bucket.list(journal)?;
    let notes: Vec<PathBuf> = notes.into_keys().filter(|name| name != JOB).map(|name| journal.join(name)).collect();
    notes.par_iter().try_for_each(|name| bucket.remove(name))?;
    bucket.remove(&journal.join(JOB))
}

/// What to begin or to go on with.
struct Opening<'a> {
    plan: &'a Plan,
    tars: &'a Tars,
    /// Its name.
    manifest: &'a Path,
    identity: &'a Value,
    progress: &'a dyn Progress,
    stop: &'a AtomicBool,
}

impl Opening<'_> {
    fn bucket(&self) -> &Bucket {
        &self.tars.bucket
    }

    /// Gives what is whole already; `None` if that is all, with its manifest.
    fn open(&self) -> Result<Option<Vec<Piece>>> {
        let (objects, folders) = self.bucket().list(Path::new("")).map_err(|e| self.no_answer(e))?;
        let existing = self.plan.existing();
        if existing == Existing::Overwrite {
            self.clear(&objects, &folders)?;
            return self.begin();
        }
        self.refuse_others(&objects, &folders)?;
        let (journal, is_there) = (&self.tars.journal, |name: &Path| objects.contains_key(name.to_string_lossy().as_ref()));
        let was = self.bucket().read_json(&journal.join(JOB))?;
        let count = objects.keys().filter(|name| self.is_own(name)).count();
        if existing == Existing::Refuse && was.is_some() && !is_there(self.manifest) {
            return Err(Error::usage(
                format!("{} holds an unfinished job", self.place()),
                "Go on with it: the same call with `Existing::Resume`. Or begin again with `Existing::Overwrite`.",
            ));
        }
        if existing == Existing::Refuse && (count > 0 || is_there(self.manifest)) {
            return Err(self.occupied(count));
        }
        if is_there(self.manifest) {
            return self.finished();
        }
        match was {
            Some(was) => self.go_on(&was, &objects).map(Some),
            None if count > 0 => Err(self.occupied(count)),
            None => self.begin(),
        }
    }

    /// What may be wrong where the first question to a store fails.
    fn no_answer(&self, error: Error) -> Error {
        let Error::Io { source, .. } = error else { return error };
        let source = source.to_string();
        Error::invalid(
            self.place(),
            format!("the store does not answer as it should: {}", source.trim_end_matches('.')),
            "Look whether the bucket and the endpoint are right, and its credentials in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; GOOGLE_… or AZURE_… of the others).",
        )
    }

    fn place(&self) -> String {
        text::on_one_line(&self.bucket().url).into_owned()
    }

    /// Whether an object has the name of a tar file of this job.
    fn is_own(&self, name: &str) -> bool {
        is_of(self.plan.output(), name)
    }

    fn occupied(&self, count: usize) -> Error {
        Error::usage(
            format!("{} holds {count} of these tar files already, or their manifest", self.place()),
            "Choose another `Plan::out`, or give `Existing::Overwrite`, which replaces the job there with all of its files.",
        )
    }

    /// Begins a job where there is none.
    fn begin(&self) -> Result<Option<Vec<Piece>>> {
        let name = self.tars.journal.join(JOB);
        let text = |what: &Value| what.to_string().into_bytes();
        match self.bucket().write(&name, text(self.identity), PutMode::Create) {
            // Some stores cannot tell.
            Err(Error::Io { source, .. }) if is(&source, |e| matches!(e, object_store::Error::NotImplemented { .. })) => {
                self.bucket().write(&name, text(self.identity), PutMode::Overwrite)?;
            }
            Err(Error::Io { source, .. }) if is(&source, |e| matches!(e, object_store::Error::AlreadyExists { .. })) => {
                let what = format!("another job has just begun in {}", self.place());
                return Err(Error::usage(what, "Wait for its end, or choose another `Plan::out`."));
            }
            begun => begun?,
        }
        Ok(Some(Vec::new()))
    }

    /// What of an unfinished job is whole.
    fn go_on(&self, was: &Value, objects: &Objects) -> Result<Vec<Piece>> {
        if let Some(difference) = difference(was, self.identity) {
            return Err(Error::usage(
                format!("{} holds an unfinished job, which is another: {difference}", self.place()),
                "Repeat the call that was interrupted, with `Existing::Resume`; or begin again with `Existing::Overwrite`.",
            ));
        }
        let (notes, _) = self.bucket().list(&self.tars.journal)?;
        let notes: Vec<String> = notes.into_keys().filter(|name| self.is_own(name)).collect();
        let whole = |name: &String| -> Result<Option<Piece>> {
            let Some(note) = self.bucket().read_json(&self.tars.journal.join(name))? else { return Ok(None) };
            let piece = note["piece"].as_str().and_then(Piece::parse).filter(|piece| name_at(piece.first) == Path::new(name));
            let is_whole = |piece: &Piece| match objects.get(name) {
                Some((bytes, tag)) => {
                    *bytes == piece.bytes && (tag.is_none() || note["tag"].is_null() || tag.as_deref() == note["tag"].as_str())
                }
                None => false,
            };
            Ok(piece.filter(is_whole))
        };
        let found = notes.par_iter().map(whole).collect::<Result<Vec<_>>>()?;
        let lost = found.iter().filter(|piece| piece.is_none()).count();
        if lost > 0 {
            self.progress.say(&format!("not all that was made before is whole any more: {lost} tar files are made again"));
        }
        Ok(self.fitting(found.into_iter().flatten()))
    }

    /// The pieces that are files of this job, each once.
    fn fitting(&self, pieces: impl Iterator<Item = Piece>) -> Vec<Piece> {
        let Some(files) = self.plan.output().sink().files() else { return Vec::new() };
        let places: BTreeMap<u64, u64> = files.cut(self.plan.places()).map(|file| (file.start, file.end)).collect();
        pieces.filter(|piece| places.get(&piece.first) == Some(&piece.end())).collect()
    }

    /// What of a finished job is whole, by all bytes of it; `None` if it is all that its manifest says.
    fn finished(&self) -> Result<Option<Vec<Piece>>> {
        let bucket = self.bucket();
        let manifest = bucket.read_json(self.manifest)?.unwrap_or_default();
        if let Some(difference) = difference(&manifest, self.identity) {
            let what = format!("{} is of another job: {difference}", text::on_one_line(&bucket.told(self.manifest)));
            return Err(Error::usage(what, "Choose another `Plan::out`, or begin again with `Existing::Overwrite`."));
        }
        let described = described_files(self.plan.places().start, &manifest).unwrap_or_default();
        let (total, looked) = (self.plan.count(), AtomicU64::new(0));
        self.progress.begin("checking what was made before", total);
        let look = |piece: &Piece| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted("what was made before was being looked at; nothing has changed.".to_string()));
            }
            let holds = self.tars.holds(piece, Depth::Contents)?;
            self.progress.update((looked.fetch_add(piece.count, Ordering::Relaxed) + piece.count).min(total), "");
            Ok(holds.then_some(*piece))
        };
        let pieces = self.fitting(described.into_iter());
        let kept = pieces.par_iter().map(look).collect::<Result<Vec<_>>>();
        self.progress.end();
        let kept: Vec<Piece> = kept?.into_iter().flatten().collect();
        let mut expected = told(self.identity, total, &kept, self.tars.image());
        expected["model"] = manifest["model"].clone(); // what the file is called decides on nothing
        if expected == manifest {
            forget(bucket, &self.tars.journal)?;
            return Ok(None);
        }
        let count: u64 = kept.iter().map(|piece| piece.count).sum();
        self.progress.say(&format!(
            "{} says that the job is done, but not all is as it says: {} of {total} images are made again",
            text::on_one_line(&bucket.told(self.manifest)),
            total - count,
        ));
        forget(bucket, &self.tars.journal)?;
        self.begin()?;
        kept.par_iter().try_for_each(|piece| note(bucket, &self.tars.journal, piece, None))?;
        bucket.remove(self.manifest)?;
        Ok(Some(kept))
    }

    /// The other jobs that are told of here, each with the name of what tells, and whether that is a journal.
    fn others(&self, objects: &Objects, folders: &[String]) -> Result<Vec<(PathBuf, Value)>> {
        let manifests = objects.keys().filter(|name| name.starts_with("manifest") && name.ends_with(".json"));
        let journals = folders.iter().filter(|name| name.starts_with(".manifest") && name.ends_with(".journal"));
        let names = manifests.map(PathBuf::from).map(|name| (name.clone(), name));
        let names = names.chain(journals.map(PathBuf::from).map(|name| (name.clone(), name.join(JOB))));
        let others: Vec<_> = names.filter(|(name, _)| name != self.manifest && *name != self.tars.journal).collect();
        let told =
            others.par_iter().map(|(name, object)| Ok(self.bucket().read_json(object)?.map(|facts| (name.clone(), facts))));
        Ok(told.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Refuses to begin beside jobs with files of the same names, or shards of another.
    fn refuse_others(&self, objects: &Objects, folders: &[String]) -> Result<()> {
        let output = self.plan.output();
        for (name, facts) in self.others(objects, folders)? {
            let path = text::on_one_line(&self.bucket().told(&name)).into_owned();
            if output.told(&facts).is_some_and(|other| other.overlaps(output)) {
                return Err(Error::usage(
                    format!("{path} tells of another job with files of the same names"),
                    "If it is unfinished, finish it: its own call with `Existing::Resume`. Else choose another `Plan::out`; `Existing::Overwrite` replaces it.",
                ));
            }
            if let Some(difference) = shard_difference(&facts, self.identity).filter(|_| output.is_of_another_shard(&name)) {
                return Err(Error::usage(
                    format!("{path} is of a shard of another job: {difference}"),
                    "Make all shards alike, or choose another `Plan::out`; `Existing::Overwrite` makes this one all the same.",
                ));
            }
        }
        Ok(())
    }

    /// Removes this job's files, and those of others that have the same names; what tells of them goes first, for nothing is to tell of what is not there.
    fn clear(&self, objects: &Objects, folders: &[String]) -> Result<()> {
        let (bucket, output) = (self.bucket(), self.plan.output());
        let rivals = self.others(objects, folders)?.into_iter();
        let rivals: Vec<(PathBuf, Output)> = rivals
            .filter_map(|(name, facts)| Some((name, output.told(&facts)?)))
            .filter(|(_, it)| it.overlaps(output))
            .collect();
        bucket.remove(self.manifest)?;
        forget(bucket, &self.tars.journal)?;
        for (name, _) in &rivals {
            if folders.iter().any(|folder| Path::new(folder) == name) { forget(bucket, name)? } else { bucket.remove(name)? }
        }
        let is_in_the_way = |name: &String| self.is_own(name) || rivals.iter().any(|(_, other)| is_of(other, name));
        let names: Vec<PathBuf> = objects.keys().filter(|name| is_in_the_way(name)).map(PathBuf::from).collect();
        names.par_iter().try_for_each(|name| bucket.remove(name))?;
        if !names.is_empty() {
            self.progress.say(&format!("replaced: {} files of the job that was in the way", names.len()));
        }
        Ok(())
    }
}

/// Whether an object has the name of a tar file of a job.
fn is_of(output: &Output, name: &str) -> bool {
    let number = output.sink().number_of(Path::new(name));
    let numbers = output.sink().files().map(|files| files.numbers(&output.share().places()));
    number.zip(numbers).is_some_and(|(number, numbers)| numbers.contains(&number))
}

/// Whether an error is one of the store's of some kind.
fn is(source: &io::Error, kind: impl Fn(&object_store::Error) -> bool) -> bool {
    source.get_ref().and_then(|e| e.downcast_ref::<object_store::Error>()).is_some_and(kind)
}
