//! What samples become: a file a format. Another one is a file here, its `mod` and a line of the table.

mod array;
mod files;
mod grid;
mod npy;
mod npz;
mod png;
pub(super) mod sink;
pub(super) mod tar;

use sink::{Naming, Sink};

/// Makes of a table of formats the type that names them, in the order in which they are offered.
macro_rules! formats {
    ($($(#[$about:meta])* $format:ident => $sink:expr,)*) => {
        /// What the samples become.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
        pub enum Format {
            $($(#[$about])* $format,)*
        }

        impl Format {
            const ALL: &[Self] = &[$(Self::$format),*];

            /// All that is particular to it.
            pub(super) fn sink(self) -> &'static dyn Sink {
                match self {
                    $(Self::$format => &$sink,)*
                }
            }
        }
    };
}

formats! {
    /// One PNG file an image, named by its number: `000042.png`; from number 10,000 on in a subfolder for every 1,000:
    /// `012000/012345.png`.
    #[default]
    Png => png::Png,
    /// One NumPy file, `samples.npy`: uint8 `[n, height, width, channels]`.
    Npy => npy::NPY,
    /// The same array as `arr_0` in a zip file, `samples.npz`, not compressed: what `numpy.savez` writes.
    Npz => npz::NPZ,
    /// WebDataset: tar files of 1,000 PNG files, `000042.tar` of images 42,000 to 42,999.
    Tar => tar::Tar,
    /// One contact sheet, `grid.png`.
    Grid => grid::Grid,
}

impl Format {
    /// The name of the format, also on command lines.
    pub fn name(self) -> &'static str {
        self.sink().name()
    }

    /// The format that has this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|format| format.name() == name).copied()
    }

    /// The format of many files that has this name: other jobs of it may be in the same folder.
    pub(super) fn of_many_files(name: &str) -> Option<Self> {
        Self::named(name).filter(|format| format.is_of_many_files())
    }

    /// The formats that can make one file, each with the ending of that file's name.
    pub(super) fn of_one_file() -> impl Iterator<Item = (Self, &'static str)> {
        Self::ALL.iter().filter_map(|format| match format.sink().naming() {
            Naming::File { ending, .. } => Some((*format, ending)),
            Naming::Folder { in_one, .. } => Some((*format, in_one?)),
        })
    }

    /// The endings of such files: `.a, .b or .c`.
    pub(super) fn endings() -> String {
        either(Self::of_one_file().map(|(_, ending)| format!(".{ending}")))
    }

    /// Whether it makes many files in a folder, unless they are to be one.
    pub(super) fn is_of_many_files(self) -> bool {
        matches!(self.sink().naming(), Naming::Folder { .. })
    }

    /// The format of a file with this ending, in lower case: `npy`, `npz`, `tar`, or `png` for a contact sheet.
    pub fn of_file(ending: &str) -> Option<Self> {
        Self::of_one_file().find(|(_, known)| *known == ending).map(|(format, _)| format)
    }

    /// The names of the formats that can be cut up and gone on with: `a, b or c`.
    pub(super) fn not_in_one_go() -> String {
        either(Self::ALL.iter().filter(|format| format.sink().in_one_go().is_none()).map(|format| format.name().to_string()))
    }

    /// The choice of those that can be written to a stream: `` `Plan::format` a or `Plan::format` b ``.
    pub(super) fn for_streams() -> String {
        let formats = Self::ALL.iter().filter(|format| format.sink().to_stream().is_some());
        either(formats.map(|format| format!("`Plan::format` {}", format.name())))
    }
}

/// `a, b or c`.
fn either(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}
