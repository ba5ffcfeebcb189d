//! Certificates for tests, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A certificate authority; its files are deleted when it is dropped.
pub(crate) struct Authority {
    directory: PathBuf,
}

/// The files of a certificate and its key (PEM).
pub(crate) struct IdentityFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named(&[])
    }

    /// One that is nobody else's, and also the certificate of a server with that name.
    pub(crate) fn self_signed(name: &str) -> Self {
        Self::named(&["-addext", &format!("subjectAltName=DNS:{name}")])
    }

    fn named(arguments: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        openssl(&directory, "root", &[&["-subj", "/CN=An authority"], arguments].concat());
        Self { directory }
    }

    /// Certifies `names`, like `DNS:localhost`.
    pub(crate) fn certify(&self, names: &str) -> IdentityFiles {
        let names = format!("subjectAltName={names}");
        let leaf = ["-subj", "/CN=A backend", "-CA", "root.pem", "-CAkey", "root.key", "-addext", &names];
        openssl(&self.directory, "leaf", &[&leaf[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat());
        self.identity("leaf")
    }

    /// Its own certificate.
    pub(crate) fn own(&self) -> IdentityFiles {
        self.identity("root")
    }

    fn identity(&self, name: &str) -> IdentityFiles {
        let path = self.path(name);
        IdentityFiles { certificate: path.with_extension("pem"), key: path.with_extension("key") }
    }

    /// A file beside its own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The file of its certificate.
    pub(crate) fn file(&self) -> String {
        self.own().certificate.display().to_string()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Creates `name.key` and a certificate for it, `name.pem`.
fn openssl(directory: &Path, name: &str, arguments: &[&str]) {
    let status = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")])
        .args(arguments)
        .current_dir(directory)
        .stderr(Stdio::null())
        .status();
    assert!(status.expect("openssl is installed").success());
}
