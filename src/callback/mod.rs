//! Callbacks to the backend as values: what is asked, what came of it, and how an answer's body is
//! read. Knows neither threads nor ureq.

mod answer;
mod request;

pub use answer::{Answer, read_answer};
pub use request::{Request, RequestParts};

use crate::table::Key;
use uuid::Uuid;

/// Why a stream ended, as the backend is told (docs/protocol.md, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    ClientClosed,
    ServerClosed,
    Error,
}

/// The finer cause, for people; travels in the `SSEGateway-Detail` request header only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// More unsent bytes than `MAX_PENDING_BYTES`: `slow_consumer`.
    SlowConsumer,
    /// No progress for `CLIENT_TIMEOUT_SECONDS`: `client_timeout`.
    ClientTimeout,
    /// The gateway drained: `shutdown`.
    Shutdown,
    /// The kernel refused a write: `write_failed`.
    WriteFailed,
    /// The client sent too much after its GET: `excess_input`.
    ExcessInput,
    /// The connect callback got no answer in time but may have been accepted: `connect_timeout`.
    ConnectTimeout,
    /// The connect callback broke after it was written: `connect_broken`.
    ConnectBroken,
}

/// Names one callback that is in flight.
pub type CallId = Key;

/// What a callback tells the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    Connect,
    Disconnect {
        reason: Reason,
        /// Becomes the `SSEGateway-Detail` request header.
        detail: Option<Detail>,
    },
}

/// One callback to be made: an HTTP POST of [`Call::write_body`] to the configured URL. The body is written
/// where the request is, so that what waits is no more than the stream keeps anyway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: CallId,
    pub kind: CallKind,
    /// The stream that it is about.
    pub token: Uuid,
    /// What its client asked for.
    pub request: Request,
}

/// What came of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A final (non-1xx) response head arrived in time.
    Answered {
        status: u16,
        /// Values of `Retry-After` (at most one) and `WWW-Authenticate` (each), as received, to be
        /// passed on with a rejection. Empty for a 2xx.
        passed: Vec<(PassedHeader, Vec<u8>)>,
        /// The body of a 2xx; `None` if it was late, cut short or too long. Not read for a rejection.
        body: Option<Vec<u8>>,
    },
    /// Refused, reset, no such name, or garbage. `written`: some of the request may have reached
    /// the backend, which may have accepted it.
    Unavailable { written: bool },
    /// No head within the timeout. `written` as above.
    TimedOut { written: bool },
}

/// A response header of the backend that a rejected client gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedHeader {
    RetryAfter,
    WwwAuthenticate,
}

/// A finished callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    pub id: CallId,
    pub outcome: Outcome,
}

impl Reason {
    /// The value of `reason` on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ClientClosed => "client_closed",
            Reason::ServerClosed => "server_closed",
            Reason::Error => "error",
        }
    }
}

impl Detail {
    /// The value of the `SSEGateway-Detail` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Detail::SlowConsumer => "slow_consumer",
            Detail::ClientTimeout => "client_timeout",
            Detail::Shutdown => "shutdown",
            Detail::WriteFailed => "write_failed",
            Detail::ExcessInput => "excess_input",
            Detail::ConnectTimeout => "connect_timeout",
            Detail::ConnectBroken => "connect_broken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_wire_are_those_of_the_contract() {
        assert_eq!(Reason::ClientClosed.as_str(), "client_closed");
        assert_eq!(Reason::ServerClosed.as_str(), "server_closed");
        assert_eq!(Reason::Error.as_str(), "error");
        for (detail, text) in [
            (Detail::SlowConsumer, "slow_consumer"),
            (Detail::ClientTimeout, "client_timeout"),
            (Detail::Shutdown, "shutdown"),
            (Detail::WriteFailed, "write_failed"),
            (Detail::ExcessInput, "excess_input"),
            (Detail::ConnectTimeout, "connect_timeout"),
            (Detail::ConnectBroken, "connect_broken"),
        ] {
            assert_eq!(detail.as_str(), text);
        }
    }
}
