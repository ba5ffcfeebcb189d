//! Which certificates of a backend are good: those of the built-in authorities and of the given ones, and a given one
//! itself.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::io;
use std::sync::Arc;

/// Verifies as webpki does, with one exception: `openssl req -x509` makes certificates that are authorities, which webpki
/// accepts as such but never as a server's own.
#[derive(Debug)]
pub(super) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// `given` are certificates in DER. Errors: one that is not a certificate.
    pub(super) fn new(given: &[Vec<u8>], provider: Arc<CryptoProvider>) -> io::Result<Self> {
        let given: Vec<_> = given.iter().map(|der| CertificateDer::from(der.clone())).collect();
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in &given {
            roots.add(root.clone()).map_err(io::Error::other)?;
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { webpki: webpki.map_err(io::Error::other)?, given })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.webpki.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
            // webpki checks the dates first, then whether the certificate is an authority.
            Err(error) if is_authority(&error) => {
                if !self.given.iter().any(|given| given == certificate) {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether webpki refused a certificate because it is that of an authority.
fn is_authority(error: &Error) -> bool {
    // The type of the inner error belongs to a crate that is not imported.
    matches!(error, Error::InvalidCertificate(CertificateError::Other(reason)) if reason.to_string() == "CaUsedAsEndEntity")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::pem::PemObject;
    use std::time::Duration;

    /// Of `openssl req -x509 -subj /CN=backend -addext subjectAltName=DNS:backend.test`, for one year from `MADE_AT`.
    const SELF_SIGNED: &[u8] = b"\
-----BEGIN CERTIFICATE-----\n\
MIIBkzCCATigAwIBAgIUPKAbXzBgwCWK/1yr8IkVv7wohf0wCgYIKoZIzj0EAwIw\n\
EjEQMA4GA1UEAwwHYmFja2VuZDAeFw0yNjExMjkyMTI0MDVaFw0yNzExMjkyMTI0\n\
MDVaMBIxEDAOBgNVBAMMB2JhY2tlbmQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AAR2SF/KuEFuo9wjXbhxkTkhyR0QVJ0GberiArfb1SR3dSyWxlhpOYIRl/8EXgkk\n\
8I6fhhdBQq+1xZO59hEPzF4so2wwajAdBgNVHQ4EFgQUCmjV4rfqVg57VQHbY351\n\
3+FypnowHwYDVR0jBBgwFoAUCmjV4rfqVg57VQHbY3513+FypnowDwYDVR0TAQH/\n\
BAUwAwEB/zAXBgNVHREEEDAOggxiYWNrZW5kLnRlc3QwCgYIKoZIzj0EAwIDSQAw\n\
RgIhAO+ZSgc6vBJyBSvnWFtZ+IrWf8djDDlnciWYt3eqQNqXAiEAjS5BhpalWdS+\n\
WYCApwH/qy+w6HMvsMYgbGyfT+4E114=\n\
-----END CERTIFICATE-----\n\
";
    const MADE_AT: u64 = 1_795_987_445;

    fn verified(given: &[Vec<u8>], name: &str, days: u64) -> Result<(), Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from_pem_slice(SELF_SIGNED).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(MADE_AT + days * 86_400));
        let name = ServerName::try_from(name).unwrap();
        Verifier::new(given, provider).unwrap().verify_server_cert(&certificate, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_given_certificate_is_good_for_its_own_name_and_time() {
        let given = [CertificateDer::from_pem_slice(SELF_SIGNED).unwrap().to_vec()];
        assert_eq!(verified(&given, "backend.test", 1), Ok(()));
        let Err(Error::InvalidCertificate(wrong)) = verified(&given, "localhost", 1) else { panic!("another name") };
        assert!(matches!(wrong, CertificateError::NotValidForNameContext { .. }), "{wrong:?}");
        let Err(Error::InvalidCertificate(wrong)) = verified(&given, "backend.test", 366) else { panic!("expired") };
        assert!(matches!(wrong, CertificateError::ExpiredContext { .. }), "{wrong:?}");
        assert_eq!(verified(&[], "backend.test", 1), Err(CertificateError::UnknownIssuer.into()));
    }
}
