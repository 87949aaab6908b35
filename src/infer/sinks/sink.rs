//! What the formats have in common: the trait that each of them implements, and what it works with.

use std::io::{self, Write};
use std::ops;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::image;
use crate::infer::folder::Folder;
use crate::infer::labels::Labels;
use crate::infer::piece::Piece;
use crate::infer::selection::Selection;
use crate::infer::share::Share;
use crate::infer::tiling::Tiling;

/// A format: all that is particular to it.
pub(in crate::infer) trait Sink: Sync {
    /// The name of the format, also on command lines.
    fn name(&self) -> &'static str;

    /// Whether it makes one file or many, and how they are named.
    fn naming(&self) -> Naming;

    /// What is made in one go, without shards, a journal and a manifest: its name in messages. `None` for what can be cut up and
    /// gone on with.
    fn in_one_go(&self) -> Option<&'static str> {
        None
    }

    /// Whether the files hold the classes of the images, too, where the generator was told classes.
    fn has_labels(&self) -> bool {
        false
    }

    /// How the places are cut into files, where each holds many images: these are made together, and in the same shard.
    fn files(&self) -> Option<Tiling> {
        None
    }

    /// Why more is made again than is missing or damaged, where that is not plain from the files.
    fn why_more(&self) -> Option<&'static str> {
        None
    }

    /// Refuses what no file can hold. `others` names the formats that have room for any number of images.
    fn check_size(&self, _count: u64, _shape: [usize; 3], _others: &str) -> Result<()> {
        Ok(())
    }

    /// Refuses what the disk has no room for, where that is known before.
    fn check_room(&self, _site: &Site) -> Result<()> {
        Ok(())
    }

    /// The number in the name of a file inside the folder, if the format makes files of such names there: what the image in it is
    /// called by, or which of all files it is.
    fn number_of(&self, _file: &Path) -> Option<u64> {
        None
    }

    /// Whether a folder of this name in the folder is one that the format puts files into.
    fn is_subfolder(&self, _name: &str) -> bool {
        false
    }

    /// Refuses a folder in which something would lead what is made elsewhere.
    fn check_folder(&self, _folder: &Folder) -> Result<()> {
        Ok(())
    }

    /// How it writes images one after another, where what has gone out cannot be taken back; `None` if it cannot.
    fn to_stream(&self) -> Option<ToStream> {
        None
    }

    /// How files of a job become one file that holds all images, as [`to_stream`](Self::to_stream) writes it; `None` if they do not.
    fn in_one(&self) -> Option<InOne> {
        None
    }

    /// Creates what the images go into, and so finds out whether that is possible.
    fn create(&self, site: &Arc<Site>) -> Result<Box<dyn Store>>;

    /// Opens what an earlier call has made, to look at it. `None` if there is nothing that could be gone on with.
    fn find(&self, site: &Arc<Site>) -> Result<Option<Box<dyn Store>>>;

    /// The classes of the images in a whole file that stand there in one place, `[n]`; `None` where they do not, or the file is not there or too short.
    fn labels_of(&self, _site: &Site) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// Adds to a manifest what the files can be checked by. `pieces` are all of the job's, in the order of their places.
    fn describe(&self, site: &Site, pieces: &[Piece], manifest: &mut Value);

    /// The pieces that a manifest vouches for. One of an earlier version vouches for sizes only: `None` then.
    fn described(&self, site: &Site, manifest: &Value) -> Option<Vec<Piece>>;

    /// Whether there are as many bytes as a manifest of an earlier version says.
    fn has_size(&self, site: &Site, manifest: &Value) -> bool;
}

/// Begins a stream; refuses what it cannot hold.
pub(in crate::infer) type ToStream = for<'a> fn(Streamed<'a>) -> Result<Box<dyn Stream + 'a>>;

/// How what is in many files goes into one.
pub(in crate::infer) struct InOne {
    /// Writes what is in the files of a piece. `false` if they are not what the piece says.
    pub copy: fn(&Site, &Piece, &mut dyn Write) -> Result<bool>,
    /// What comes at the end.
    pub end: &'static [u8],
}

/// What goes into a stream.
pub(in crate::infer) struct Streamed<'a> {
    /// Which images.
    pub selection: &'a Selection,
    /// Their places.
    pub places: ops::Range<u64>,
    /// Their height, width and channels.
    pub shape: [usize; 3],
    /// What class each image is of, where the generator was told classes.
    pub labels: Option<Labels>,
}

impl Streamed<'_> {
    /// How many images.
    pub fn count(&self) -> u64 {
        self.places.end - self.places.start
    }

    /// Bytes of an image.
    pub fn image(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A stream under way.
pub(in crate::infer) trait Stream: Sync {
    /// What comes before the images.
    fn head(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Makes of images, which are at a place and those behind it, what goes out of them; on any thread, in any order.
    fn encode(&self, first: u64, pixels: Vec<u8>) -> Result<Vec<u8>>;

    /// What comes after the images, all of which have been encoded by then.
    fn tail(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

/// How a format's files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Naming {
    /// Many files in a folder, beside which other jobs may have theirs.
    Folder {
        /// What stands behind `manifest` in the name of the manifest, by which the format's is told from others'.
        manifest: &'static str,
        /// What the files are, in messages.
        files: &'static str,
        /// The ending of the name of one file that holds all of a stream, if there is such a file.
        in_one: Option<&'static str>,
    },
    /// One file.
    File {
        /// What its name begins with if the user names the folder only.
        stem: &'static str,
        /// The ending of its name.
        ending: &'static str,
    },
}

/// What the images of a job go into.
pub(in crate::infer) trait Store: Send + Sync {
    /// Begins the piece at some places; any thread, any order of pieces.
    fn begin(&self, places: ops::Range<u64>) -> Result<Box<dyn Open + '_>>;

    /// Waits until pieces are on the disk.
    fn sync(&self, pieces: &[Piece]) -> io::Result<()>;

    /// Whether a piece is there as it was written.
    fn holds(&self, piece: &Piece, depth: Depth) -> Result<bool>;

    /// Copies the files of a piece that another job of the same format has made at `from`, as they are; arrays, the pixels of it. `copied` is told of
    /// images as they come, and may end it. `false` if what is there is not what the piece says: nothing that was copied counts then.
    fn adopt(&self, _from: &Arc<Site>, _piece: &Piece, _copied: &Copied) -> Result<bool> {
        Ok(false) // what is made in one go has no pieces
    }

    /// Whether this is a file that has its final name, under which nothing is written to it any more.
    fn is_final(&self) -> bool {
        false
    }

    /// Whether a file has what belongs around its pixels, of which `all` tells.
    fn is_closed(&self, _all: &Piece) -> Result<bool> {
        Ok(true)
    }

    /// Makes it ready for more images, once it has been looked at.
    fn reopen(&self) -> Result<()> {
        Ok(())
    }

    /// Gives a single file what surrounds its pixels, of which `all` tells, and its final name.
    fn close(&mut self, _all: Option<Piece>) -> Result<()> {
        Ok(())
    }

    /// Removes what was begun in vain, where that is one file of a name of its own. Whether it is.
    fn discard(&self) -> bool {
        false
    }
}

/// Is told how many images more were copied.
pub(in crate::infer) type Copied<'a> = dyn Fn(u64) -> Result<()> + Sync + 'a;

/// A piece under way: images come in the order of their places. What is not finished counts for nothing.
pub(in crate::infer) trait Open {
    /// Writes the next images of the piece.
    fn put(&mut self, pixels: &[u8]) -> Result<()>;

    /// The piece is whole. Gives it, or the parts of it that are vouched for apart.
    fn finish(self: Box<Self>) -> Result<Vec<Piece>>;
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::infer) enum Depth {
    /// Whether the files are there, and as long as they should be.
    Sizes,
    /// At every byte.
    Contents,
}

/// A job at the place where it is at work.
pub(in crate::infer) struct Site {
    /// Which images.
    pub share: Share,
    /// Their height, width and channels.
    pub shape: [usize; 3],
    /// The folder that is written to.
    pub folder: Arc<Folder>,
    /// The one file; that folder, where there are many.
    pub path: PathBuf,
    /// The one file until it is whole.
    pub part: PathBuf,
    /// What class each image is of, where the generator was told classes.
    pub labels: Option<Labels>,
}

impl Site {
    /// Bytes of an image.
    pub fn image(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all images.
    pub fn pixels(&self) -> u64 {
        self.share.count() * self.image() as u64
    }

    /// An image as a PNG file.
    pub fn png(&self, pixels: &[u8]) -> Result<Vec<u8>> {
        let [height, width, channels] = self.shape;
        image::encode_png(pixels, height, width, channels)
    }

    /// That images which were made are not there any more at the end.
    pub fn removed(&self, lost: u64) -> Error {
        Error::invalid_file(
            &self.path,
            format!("files with {lost} of the images were removed or changed while the job was at work"),
            "The same call with `Existing::Resume` makes again what is not whole.",
        )
    }
}
