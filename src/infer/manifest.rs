//! The manifest of a finished job: what was made and how, and what it can be checked by. Nothing in it depends on how the job went.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::folder::{Folder, name_of};
use super::output::Output;
use super::piece::{Piece, hexadecimal, join};
use super::sinks::sink::{Sink, Site};
use crate::error::{Error, Result};

/// The manifest of a job with this `identity`: which one it is, how many images there are, and what they can be checked by. `pieces`
/// are all of the job's, in the order of their places.
pub(super) fn of(sink: &dyn Sink, site: &Site, identity: &Value, pieces: &[Piece]) -> Value {
    let mut manifest = of_images(identity, site.share.count(), pieces, site.image());
    sink.describe(site, pieces, &mut manifest);
    manifest
}

/// The part of a manifest that tells of `count` images of so many bytes, whatever their files are.
pub(super) fn of_images(identity: &Value, count: u64, pieces: &[Piece], image: usize) -> Value {
    let mut manifest = identity.clone();
    manifest["count"] = json!(count);
    if let Some(all) = join(pieces, image) {
        manifest["pixels_crc32"] = json!(hexadecimal(all.pixels));
    }
    manifest
}

/// What the manifest at a path in the folder says; `None` if there is none.
///
/// # Errors
/// When it cannot be read, or is no manifest.
pub(super) fn find(folder: &Folder, path: &Path) -> Result<Option<Value>> {
    let name = name_of(path);
    let text = match folder.read(&name).and_then(read) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(folder.failed("read", &name))?,
    };
    let told = serde_json::from_slice(&text);
    told.map(Some)
        .map_err(|e| Error::invalid_file(path, format!("it is no manifest: {e}"), "Begin again with `Existing::Overwrite`."))
}

fn read(file: File) -> io::Result<Vec<u8>> {
    /// Some 100 bytes for each 1,000 images.
    const MOST: u64 = 1 << 30;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes it: it appears whole, and is on the disk when the journal goes.
pub(super) fn write(output: &Output, folder: &Folder, manifest: &Value) -> Result<()> {
    let (part, name) = (name_of(&output.manifest_part()), name_of(&output.manifest()));
    let write = || {
        let mut file = folder.create(&part)?;
        file.write_all(format!("{manifest:#}\n").as_bytes())?;
        file.sync_all()?;
        folder.rename(&part, &name)?;
        folder.sync_names()
    };
    write().map_err(folder.failed("write", &name))
}

/// Takes it away: what is written from now on is not what it says.
pub(super) fn forget(output: &Output, folder: &Folder) -> Result<()> {
    let name = name_of(&output.manifest());
    folder.remove(&name).map_err(folder.failed("remove", &name))
}
