//! Journals of unfinished jobs: any bytes.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let name = Path::new(".manifest.json.journal");
    std::fs::write(folder.path().join(name), bytes).unwrap();
    if let Ok(Some([first, again])) = ganforge::infer::look_at_journal(folder.path(), name) {
        assert!(first <= 10_000 && first == again);
    }
});
