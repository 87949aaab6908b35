//! What exported files say of themselves: lines of key and value as metadata, and the same bytes as a file with a checksum.
#![no_main]

use std::collections::BTreeMap;

use ganforge::contract::{Contract, check_seal, seal};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = check_seal("file", bytes);
    let mut sealed = bytes.to_vec();
    if seal(&mut sealed) {
        check_seal("file", &sealed).unwrap();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let entries: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    if let Ok(Some(contract)) = Contract::from_metadata("file", |key| entries.get(key).map(ToString::to_string)) {
        let told = contract.to_metadata();
        let again = Contract::from_metadata("file", |key| told.get(key).cloned()).unwrap();
        assert_eq!(again, Some(contract));
    }
});
