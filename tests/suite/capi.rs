//! The header for C is what cbindgen makes of the code. `GANFORGE_BLESS=1` writes it.

use std::fs;
use std::path::Path;

#[test]
fn the_header_is_that_of_the_code() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/capi");
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new().with_config(config).with_src(folder.join("mod.rs")).generate().unwrap();
    let mut text = Vec::new();
    made.write(&mut text);
    let text = String::from_utf8(text).unwrap();
    let header = folder.join("ganforge.h");
    if std::env::var_os("GANFORGE_BLESS").is_some() {
        fs::write(&header, &text).unwrap();
    }
    let committed = fs::read_to_string(header).unwrap_or_default();
    assert!(
        committed == text,
        "src/capi/ganforge.h is not that of src/capi/mod.rs: GANFORGE_BLESS=1 cargo test the_header writes it"
    );
}
