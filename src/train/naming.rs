//! How people name tensors and networks in their files.

/// The last part of a key, in small letters.
pub(super) fn last(key: &str) -> String {
    key.rsplit('.').next().unwrap_or_default().to_lowercase()
}

/// Names in the order people count: `net.2` before `net.10`.
pub(super) fn natural(name: &str) -> Vec<(u64, String)> {
    let parts = name.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    let texts = parts.map(|part| String::from_utf8_lossy(part).into_owned());
    texts.map(|text| (text.parse().unwrap_or(u64::MAX), text)).collect()
}
