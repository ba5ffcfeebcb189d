//! Files of certificates (PEM), for backends with an authority of their own.

use super::values;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Ten times a distribution's bundle.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All certificates (DER) in the file at `path`. Errors: a phrase with the reason, also for a single one that cannot be
/// used.
pub(super) fn all(path: &str) -> Result<Vec<Vec<u8>>, String> {
    let found = read(path)?;
    match found.iter().position(|certificate| !is_usable(certificate)) {
        Some(at) => Err(format!("must name a file of certificates, and number {} in it is none", at + 1)),
        None => Ok(found),
    }
}

/// Those of them that can be used: a system's bundle may hold others. Errors as above.
pub(super) fn usable(path: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut found = read(path)?;
    found.retain(|certificate| is_usable(certificate));
    Ok(found)
}

fn read(path: &str) -> Result<Vec<Vec<u8>>, String> {
    let content = values::file(path, FILE_BYTES_MAX)?.ok_or("must name a file of less than 4 MiB")?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|error| format!("must name a file of certificates in PEM: {error}"))?;
    if found.is_empty() {
        return Err("must name a file with -----BEGIN CERTIFICATE----- in it".to_owned());
    }
    Ok(found.iter().map(|certificate| certificate.to_vec()).collect())
}

fn is_usable(der: &[u8]) -> bool {
    RootCertStore::empty().add(CertificateDer::from_slice(der)).is_ok()
}
