//! Where long tasks report to. The library never prints; the programs pass a `Console` of the module `cli` here.

/// A listener to long tasks. One task at a time; calls may come from any thread.
pub trait Progress: Sync {
    /// A task of `total` units begins.
    fn begin(&self, task: &str, total: u64);
    /// `done` units of it are done; `detail` is a short text to show beside the count.
    fn update(&self, done: u64, detail: &str);
    /// The task is over.
    fn end(&self);
    /// A line that stays: a result, a warning, a choice made for the user.
    fn say(&self, line: &str);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn update(&self, _: u64, _: &str) {}
    fn end(&self) {}
    fn say(&self, _: &str) {}
}
