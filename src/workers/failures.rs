//! Failed callbacks: their outcomes and log lines.

use super::socket::HEAD_BYTES_MAX;
use super::tls;
use super::transport::Attempt;
use crate::callback::{Call, CallKind, Outcome};
use crate::clock::Millis;
use crate::config::CallbackUrl;
use crate::flood::{Flood, Over};
use log::Level;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use ureq::Error;

/// The maximum number of header fields of an answer: a constant in ureq.
const FIELDS_MAX: usize = 128;
const HINT_LONG_HEAD: &str =
    "an answer to a callback needs no cookies: which middleware of the backend adds these headers?";

/// Reports failures of callbacks to one URL.
pub(super) struct Failures {
    /// The URL without its query, which may contain a key.
    callback: String,
    place: Place,
    start: Instant,
    starts: Mutex<Floods>,
    connects: Mutex<Floods>,
    disconnects: Mutex<Floods>,
}

/// Where the URL leads, for hints.
enum Place {
    /// This machine.
    Loopback,
    Network,
    Socket,
}

/// The kinds of failures of one kind of call.
struct Floods {
    /// The kind of call.
    name: &'static str,
    unavailable: Flood,
    timed_out: Flood,
    /// Answers that tell of a failure of the backend.
    refused: Flood,
}

impl Floods {
    fn new(name: &'static str) -> Mutex<Self> {
        Mutex::new(Self { name, unavailable: Flood::default(), timed_out: Flood::default(), refused: Flood::default() })
    }
}

impl Failures {
    pub(super) fn new(url: &CallbackUrl, host: &str) -> Self {
        Self {
            callback: url.bare(),
            place: match &url.socket {
                Some(_) => Place::Socket,
                None if is_loopback(host) => Place::Loopback,
                None => Place::Network,
            },
            start: Instant::now(),
            starts: Floods::new("start"),
            connects: Floods::new("connect"),
            disconnects: Floods::new("disconnect"),
        }
    }

    fn now(&self) -> Millis {
        Millis::ZERO.after(self.start.elapsed())
    }

    fn floods(&self, kind: CallKind) -> MutexGuard<'_, Floods> {
        lock(match kind {
            CallKind::Start => &self.starts,
            CallKind::Connect => &self.connects,
            CallKind::Disconnect { .. } => &self.disconnects,
        })
    }

    /// Logs why `call` failed; returns the outcome. `written`: some of the request may have reached the backend.
    pub(super) fn failed(&self, call: &Call, error: &Error, written: bool) -> Outcome {
        let timed_out = match error {
            Error::Timeout(_) => true,
            // The kernel's own timeout was earlier.
            Error::Io(error) => error.kind() == ErrorKind::TimedOut,
            _ => false,
        };
        let mut floods = self.floods(call.kind);
        let name = floods.name;
        let flood = if timed_out { &mut floods.timed_out } else { &mut floods.unavailable };
        let (level, left_out) = match flood.failed(self.now()) {
            Some(left_out) => (Level::Warn, left_out),
            None => (Level::Debug, 0),
        };
        drop(floods);
        if log::log_enabled!(level) {
            let ((error, hint), callback) = (self.explain(error, written), &*self.callback);
            match call.kind {
                CallKind::Start => {
                    log::log!(level, callback, written, error, hint, left_out; "{name} callback failed");
                }
                CallKind::Connect | CallKind::Disconnect { .. } => {
                    log::log!(level, token = call.token.to_string(), callback, written, error, hint, left_out; "{name} callback failed");
                }
            }
        }
        if timed_out { Outcome::TimedOut { written } } else { Outcome::Unavailable { written } }
    }

    /// Records an answer to `call`, and logs it if it is none that was expected.
    pub(super) fn answered(&self, call: &Call, status: u16) {
        let is_failure = match call.kind {
            // Attempts are seconds apart, and each is logged.
            CallKind::Start => false,
            // A backend may reject a client, but not fail.
            CallKind::Connect => status >= 500,
            CallKind::Disconnect { .. } => !(200..300).contains(&status),
        };
        let mut floods = self.floods(call.kind);
        let Floods { name, unavailable, timed_out, refused } = &mut *floods;
        let refusals = (!is_failure).then_some(&mut *refused);
        for Over { failures, millis } in
            [unavailable, timed_out].into_iter().chain(refusals).filter_map(|flood| flood.succeeded(self.now()))
        {
            log::info!(callback = self.callback, failed = failures, seconds = millis / 1000; "{name} callbacks have recovered");
        }
        if is_failure {
            let (level, left_out) = match refused.failed(self.now()) {
                Some(left_out) => (Level::Warn, left_out),
                None => (Level::Debug, 0),
            };
            let (token, callback, hint) = (call.token.to_string(), &*self.callback, "see the log of the backend");
            log::log!(level, token, callback, status, hint, left_out; "{name} callback failed");
        }
    }

    /// Logs failures that have waited too long for the next line. Call every second or two.
    pub(super) fn log_overdue(&self) {
        for floods in [&self.starts, &self.connects, &self.disconnects] {
            let Floods { name, unavailable, timed_out, refused } = &mut *lock(floods);
            for left_out in [unavailable, timed_out, refused].into_iter().filter_map(|flood| flood.overdue(self.now()))
            {
                log::warn!(callback = self.callback, left_out; "further {name} callbacks failed");
            }
        }
    }

    /// The error's text, and the most likely fix.
    pub(super) fn explain(&self, error: &Error, written: bool) -> (String, &'static str) {
        (describe(error), self.hint(error, written))
    }

    /// The most likely fix.
    fn hint(&self, error: &Error, written: bool) -> &'static str {
        match error {
            Error::Timeout(_) if written => {
                "no answer within CALLBACK_TIMEOUT_SECONDS: are all of the backend's workers busy, or does the callback block?"
            }
            Error::Timeout(_) => {
                "no connection within CALLBACK_TIMEOUT_SECONDS: is the address correct, or is there a firewall in between?"
            }
            Error::LargeResponseHeader(..) => HINT_LONG_HEAD,
            error if has_too_many_fields(error) => HINT_LONG_HEAD,
            error if is_disconnect(error) => {
                "the backend closed the connection: its own log may say why, or it expects https"
            }
            Error::Protocol(_) => "the server there does not speak HTTP/1.1: check host and port of CALLBACK_URL",
            Error::Io(error) => tls::refusal(error).map_or_else(|| self.hint_for_kind(error.kind()), |(_, hint)| hint),
            _ => "none",
        }
    }

    fn hint_for_kind(&self, kind: ErrorKind) -> &'static str {
        match (kind, &self.place) {
            (ErrorKind::ConnectionRefused, Place::Loopback) => {
                "is the backend running there? within a container, that address is the container itself"
            }
            (ErrorKind::ConnectionRefused, Place::Network) => {
                "is the backend running there, and does it listen on more than 127.0.0.1?"
            }
            (ErrorKind::ConnectionRefused, Place::Socket) => {
                "is the backend running? its socket is there, but nobody listens"
            }
            (ErrorKind::NotFound, Place::Socket) => {
                "no such socket: is the backend running, and is its path in CALLBACK_URL, seen from the gateway's container?"
            }
            (ErrorKind::NotFound, Place::Loopback | Place::Network) => "check the host name in CALLBACK_URL",
            (ErrorKind::PermissionDenied, Place::Socket) => {
                "the gateway's user must be able to write to the backend's socket, and to reach its directory"
            }
            (ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable, _) => "no route to that address from here",
            // rustls reports bytes that are not TLS in this way.
            (ErrorKind::InvalidData, _) => "https needs a backend that speaks TLS",
            _ => "none",
        }
    }
}

fn lock(floods: &Mutex<Floods>) -> MutexGuard<'_, Floods> {
    floods.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error's text in the log.
fn describe(error: &Error) -> String {
    match error {
        Error::LargeResponseHeader(bytes, _) => {
            format!("the answer's head has more than {HEAD_BYTES_MAX} bytes ({bytes} received)")
        }
        error if has_too_many_fields(error) => {
            let bytes = Attempt::current().answer_bytes;
            format!("the answer's head has more than {FIELDS_MAX} fields ({bytes} bytes received)")
        }
        Error::Io(error) => tls::refusal(error).map_or_else(|| error.to_string(), |(text, _)| text),
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
pub(super) fn is_disconnect(error: &Error) -> bool {
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
