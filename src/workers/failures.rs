//! Callbacks without an answer: what the gateway gets to know, and what the log says.

use super::tcp::HEAD_BYTES_MAX;
use super::transport::Attempt;
use crate::callback::{Call, CallKind, Outcome};
use std::io::ErrorKind;
use std::net::IpAddr;
use ureq::Error;

/// Most header fields of an answer: a constant of ureq's.
const FIELDS_MAX: usize = 128;
const HINT_LONG_HEAD: &str =
    "an answer to a callback needs no cookies: which middleware of the backend adds these headers?";

/// Reports failures of callbacks to one URL.
pub struct Failures {
    /// The URL without its query, which may hold a key.
    callback: String,
    /// The URL names this machine.
    loopback: bool,
}

impl Failures {
    pub fn new(url: &str, host: &str) -> Failures {
        let callback = url.split('?').next().unwrap_or_default().to_owned();
        Failures { callback, loopback: is_loopback(host) }
    }

    /// Logs why `call` failed; the outcome. `written`: some of the request may have reached the backend.
    pub fn report(&self, call: &Call, error: &Error, written: bool) -> Outcome {
        let name = match call.kind {
            CallKind::Connect => "connect",
            CallKind::Disconnect { .. } => "disconnect",
        };
        let hint = self.hint(error, written);
        log::warn!(token = call.token.to_string(), callback = self.callback, written, error = describe(error), hint; "{name} callback failed");
        let timed_out = match error {
            Error::Timeout(_) => true,
            // The kernel's own timeout came first.
            Error::Io(error) => error.kind() == ErrorKind::TimedOut,
            _ => false,
        };
        if timed_out { Outcome::TimedOut { written } } else { Outcome::Unavailable { written } }
    }

    /// The most likely remedy.
    fn hint(&self, error: &Error, written: bool) -> &'static str {
        match error {
            Error::Timeout(_) if written => {
                "no answer within CALLBACK_TIMEOUT_SECONDS: are all of the backend's workers busy, or does the callback wait for something?"
            }
            Error::Timeout(_) => {
                "no connection within CALLBACK_TIMEOUT_SECONDS: is the address right, and is a firewall in between?"
            }
            Error::LargeResponseHeader(..) => HINT_LONG_HEAD,
            error if has_too_many_fields(error) => HINT_LONG_HEAD,
            error if is_disconnect(error) => {
                "the backend closed the connection: its own log may say why, or it expects https"
            }
            Error::Protocol(_) => "the server there does not speak HTTP/1.1: check host and port of CALLBACK_URL",
            Error::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused if self.loopback => {
                    "is the backend running there? within a container, that address is the container itself"
                }
                ErrorKind::ConnectionRefused => {
                    "is the backend running there, and does it listen on more than 127.0.0.1?"
                }
                ErrorKind::NotFound => "check the host name in CALLBACK_URL",
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                    "no route leads to that address from here"
                }
                // rustls reports bytes that are not TLS and untrusted certificates in this way.
                ErrorKind::InvalidData => {
                    "https needs a backend that speaks TLS, with a certificate from a public authority"
                }
                _ => "none",
            },
            _ => "none",
        }
    }
}

/// The error as the log shows it.
fn describe(error: &Error) -> String {
    match error {
        Error::LargeResponseHeader(bytes, _) => {
            format!("the answer's head has more than {HEAD_BYTES_MAX} bytes ({bytes} received)")
        }
        error if has_too_many_fields(error) => {
            let bytes = Attempt::current().answer_bytes;
            format!("the answer's head has more than {FIELDS_MAX} fields ({bytes} bytes received)")
        }
        error => error.to_string(),
    }
}

fn has_too_many_fields(error: &Error) -> bool {
    // The type of the inner error is not public.
    matches!(error, Error::Protocol(error) if format!("{error:?}") == "HttpParseTooManyHeaders")
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the peer closed the connection.
pub fn is_disconnect(error: &Error) -> bool {
    let Error::Io(error) = error else { return false };
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
    )
}
