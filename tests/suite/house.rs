//! What holds of the source itself, beyond what the compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    entries.flat_map(below).filter(|path| path.extension().is_some_and(|ending| ending == "rs")).collect()
}

/// The library is called by programs that have other flags, or none: its messages and docs name fields and functions. Which flags
/// they are stands in `cli.rs`.
#[test]
fn the_library_knows_no_flags() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // Whose flags are those of pip and of nvcc; and CSS variables.
    let others = ["cli.rs", "infer/wheels.rs", "nn/cuda/module.rs", "train/report.rs"].map(|path| src.join(path));
    let ours = sources(&src).into_iter().filter(|path| !path.starts_with(src.join("bin")) && !others.contains(path));
    let is_flag = |line: &str| {
        let after = |at: usize| line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase());
        let before = |at: usize| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        line.match_indices("--").any(|(at, _)| before(at) && after(at))
    };
    let mut seen = 0;
    for path in ours {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            assert!(!is_flag(line), "{}:{}: names a flag: {line}", path.display(), number + 1);
            seen += 1;
        }
    }
    assert!(seen > 10_000, "{seen} lines are not the library");
    assert!(is_flag("Use `--batch` or (--n 3)") && !is_flag("a--b, x -- y, // ---"));
}
