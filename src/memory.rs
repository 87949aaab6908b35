//! How much memory there is for what files hold. A header can promise anything, and a system that has promised too much ends
//! the program without a word.

use std::path::Path;

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::error::{Error, Result};

/// The variable of the environment that says how many GiB may be taken, where the system's own figure is not to be believed.
pub const VARIABLE: &str = "GANFORGE_MEMORY";

const GIB: f64 = (1u64 << 30) as f64;

/// Refuses what would need more memory than there is. `what` says what `bytes` are needed for, `hint` how to need less.
///
/// # Errors
/// When there is less than that, or `GANFORGE_MEMORY` is no number.
pub(crate) fn check(place: &Path, bytes: u64, what: &str, hint: &str) -> Result<()> {
    let (most, whose) = match allowed()? {
        Some(most) => (most, format!("{VARIABLE} allows")),
        None => (available(), "are available here".to_string()),
    };
    if bytes <= most {
        return Ok(());
    }
    let what = format!("{what} need {}, and {} {whose}", gib(bytes), gib(most));
    Err(Error::invalid_file(place, what, format!("{hint} Where more can be had, {VARIABLE} says how many GiB may be taken.")))
}

/// Whether there is so much memory. Where `GANFORGE_MEMORY` is no number, the system's own figure counts.
pub(crate) fn is_there(bytes: u64) -> bool {
    bytes <= allowed().ok().flatten().unwrap_or_else(available)
}

/// What the environment allows, in bytes.
fn allowed() -> Result<Option<u64>> {
    let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.to_str().and_then(|text| text.trim().parse::<f64>().ok()) {
        Some(number) if number >= 0.0 => Ok(Some((number * GIB) as u64)), // `as` saturates
        _ => Err(Error::usage(format!("{VARIABLE} is no number of GiB"), format!("Set it as in {VARIABLE}=16, or unset it."))),
    }
}

/// What the system, or the container, has left, in bytes. Where it does not say, everything.
fn available() -> u64 {
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    let of_container = system.cgroup_limits().map(|limits| limits.total_memory.saturating_sub(limits.rss));
    let figures = [Some(system.available_memory()), of_container];
    figures.into_iter().flatten().filter(|figure| *figure > 0).min().unwrap_or(u64::MAX)
}

fn gib(bytes: u64) -> String {
    match bytes as f64 / GIB {
        number if number >= 0.1 => format!("{number:.1} GiB"),
        number => format!("{number:.5} GiB"),
    }
}
