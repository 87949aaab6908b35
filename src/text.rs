//! Texts from outside on their way to a terminal: names of files may hold anything, and a terminal obeys some of it.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::Path;

/// A text as a terminal may get it: what a terminal would obey, or what would turn the order of its letters around, is written
/// as JSON writes it, `\u001b`. Ends of lines and tabs stay. In JSON such characters stand inside of strings only, so JSON stays
/// what it was.
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_active(c) && !matches!(c, '\n' | '\t'))
}

/// A name from outside inside of a message: as [`shown`], and on one line, so that a name cannot pass for a message of its own.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_active)
}

/// A path inside of a message, as [`on_one_line`].
pub fn path(path: &Path) -> String {
    on_one_line(&path.display().to_string()).into_owned()
}

/// Control characters, and the marks, overrides and isolates of bidirectional text; also what separates lines and paragraphs.
fn is_active(c: char) -> bool {
    let bidirectional = matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || bidirectional || matches!(c, '\u{2028}' | '\u{2029}')
}

fn escaped(text: &str, is_wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_wrong) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_wrong(c) {
            // All of them are below U+10000. Writing to a string does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// 1234567 as `1,234,567`.
#[cfg(feature = "train")]
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes as people say it: `512 bytes`, `13.2 MiB`.
#[cfg(feature = "jobs")]
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = None;
    let mut value = number as f64;
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, Some(next));
    }
    match unit {
        None => format!("{number} bytes"),
        Some(unit) => format!("{value:.1} {unit}"),
    }
}
