//! Replaces `certificates` in a build without TLS.

/// Always fails.
pub(super) fn all(_path: &str) -> Result<Vec<Vec<u8>>, String> {
    Err("must not be set: this build has no TLS".to_owned())
}

/// None are needed.
pub(super) fn usable(_path: &str) -> Result<Vec<Vec<u8>>, String> {
    Ok(Vec::new())
}
