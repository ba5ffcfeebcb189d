//! Callbacks to the backend as values: the call, its outcome, and the parser of an answer's body. Knows neither threads
//! nor ureq.

mod answer;
mod headers;
mod request;

pub use answer::{Answer, read_answer};
pub use headers::ExtraHeaders;
pub use request::{Request, RequestParts};

use crate::table::Key;
use std::str::Utf8Error;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Why a stream ended, as reported to the backend (docs/protocol.md, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client has left.
    ClientClosed,
    /// The gateway or the backend ended the stream.
    ServerClosed,
    /// The stream was cut: see the detail.
    Error,
}

/// The finer cause, for people; sent only in the `SSEGateway-Detail` request header.
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
    /// All groups of the stream have ended: `group_ended`.
    GroupEnded,
    /// There was nothing to attach to: `nothing_to_attach`.
    NothingToAttach,
    /// The stream has lived as long as it may: `expired`.
    Expired,
}

/// Identifies one callback in flight.
pub type CallId = Key;

/// The kind of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Reports that the gateway has started, and streams of earlier instances are gone; it is about no stream.
    Start,
    /// Asks whether this client may have a stream.
    Connect,
    /// Reports that the stream has ended.
    Disconnect {
        /// Why it ended.
        reason: Reason,
        /// Becomes the `SSEGateway-Detail` request header.
        detail: Option<Detail>,
    },
}

/// One callback to be made: an HTTP POST of [`Call::write_body`] to the configured URL. The body is only written when
/// the request is, so that a queued call takes no more memory than the stream's own request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Returned with its [`Outcome`].
    pub id: CallId,
    /// What it is about.
    pub kind: CallKind,
    /// Its stream; nil for a start.
    pub token: Uuid,
    /// The client's request.
    pub request: Request,
    /// The body of a POST that asks for a stream.
    pub body: Option<RequestBody>,
}

/// The body of a client's request, as a JSON string. It goes with the connect and is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestBody(Arc<str>);

impl RequestBody {
    /// Errors: `text` is not UTF-8.
    pub fn new(text: &[u8]) -> Result<Self, Utf8Error> {
        // Writing a string cannot fail.
        let json = serde_json::to_string(std::str::from_utf8(text)?).unwrap_or_default();
        Ok(Self(json.into()))
    }

    /// The length of the JSON string.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

impl Call {
    /// Appends the body: JSON in UTF-8, [`Call::body_bytes`] long.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        let mut buffer = Uuid::encode_buffer();
        for part in self.body_parts(self.token.hyphenated().encode_lower(&mut buffer)) {
            out.extend_from_slice(part.as_bytes());
        }
    }

    /// The length of the body.
    pub fn body_bytes(&self) -> usize {
        let mut buffer = Uuid::encode_buffer();
        self.body_parts(self.token.hyphenated().encode_lower(&mut buffer)).into_iter().map(str::len).sum()
    }

    fn body_parts<'a>(&'a self, token: &'a str) -> [&'a str; 11] {
        let [action, reason, end] = match self.kind {
            CallKind::Start => return ["{\"action\":\"start\"}", "", "", "", "", "", "", "", "", "", ""],
            CallKind::Connect => ["{\"action\":\"connect", "", ""],
            CallKind::Disconnect { reason, detail: _ } => {
                ["{\"action\":\"disconnect", "\",\"reason\":\"", reason.as_str()]
            }
        };
        let request = self.request.json();
        let [request, before, body, after] = match &self.body {
            // Inside the object, behind its last field.
            Some(body) => [request.strip_suffix('}').unwrap_or(request), ",\"body\":", &*body.0, "}"],
            None => [request, "", "", ""],
        };
        [action, reason, end, "\",\"token\":\"", token, "\",\"request\":", request, before, body, after, "}"]
    }
}

/// How long the late answer of a timed-out connect is awaited. It decides whether the connect needs a disconnect.
pub const LATE_TIME_MAX: Duration = Duration::from_secs(60);

/// The outcome of a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A final (non-1xx) response head arrived in time.
    Answered {
        /// Of the final response; 200 to 999.
        status: u16,
        /// Values of `Retry-After` (at most one), `WWW-Authenticate` (each) and `Content-Type` (with `body`), as received, to
        /// be passed on with a rejection. Empty for a 2xx.
        passed: Vec<(PassedHeader, Vec<u8>)>,
        /// The body, also of a rejection where it is to be passed on; `None` if it is not, or was late, cut short or too
        /// long.
        body: Option<Vec<u8>>,
        /// An attempt before this one was written to a kept-alive connection, which then closed unanswered: the backend
        /// may have accepted that.
        in_doubt: bool,
    },
    /// Refused, reset, unresolvable name, or garbage.
    Unavailable {
        /// Whether some of the request may have reached the backend, which may have accepted it.
        written: bool,
    },
    /// No head of an answer to a connect within the timeout. The worker keeps reading, without counting as in flight:
    /// exactly one more outcome follows, within [`LATE_TIME_MAX`].
    Overdue,
    /// No head within the timeout.
    TimedOut {
        /// As in [`Outcome::Unavailable`].
        written: bool,
    },
}

impl Outcome {
    /// Whether the same connect may be answered otherwise some time later: no answer, or the status of a server that is
    /// down or overloaded.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Answered { status, .. } => Self::is_temporary_status(*status),
            Self::Unavailable { .. } | Self::Overdue | Self::TimedOut { .. } => true,
        }
    }

    /// The same of an answer.
    pub fn is_temporary_status(status: u16) -> bool {
        matches!(status, 500 | 502 | 503 | 504)
    }
}

/// A response header of the backend that is passed on to a rejected client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedHeader {
    /// `Retry-After`.
    RetryAfter,
    /// `WWW-Authenticate`.
    WwwAuthenticate,
    /// `Content-Type`, of a body that is passed on.
    ContentType,
}

/// A finished callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The id of the [`Call`].
    pub id: CallId,
    /// Its outcome.
    pub outcome: Outcome,
}

impl Reason {
    /// The value of `reason` on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ServerClosed => "server_closed",
            Self::Error => "error",
        }
    }
}

impl Detail {
    /// The value of the `SSEGateway-Detail` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::ClientTimeout => "client_timeout",
            Self::Shutdown => "shutdown",
            Self::WriteFailed => "write_failed",
            Self::ExcessInput => "excess_input",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectBroken => "connect_broken",
            Self::GroupEnded => "group_ended",
            Self::NothingToAttach => "nothing_to_attach",
            Self::Expired => "expired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Uuid = Uuid::from_u128(0x0123_4567_89AB_4DEF_8123_4567_89AB_CDEF);

    fn body(kind: CallKind, request: Request) -> String {
        let call = Call { id: Key::from_parts(0, 0), kind, token: TOKEN, request, body: None };
        let mut body = Vec::new();
        call.write_body(&mut body);
        assert_eq!(body.len(), call.body_bytes());
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn bodies_are_exact() {
        assert_eq!(body(CallKind::Start, Request::default()), r#"{"action":"start"}"#);
        let request: Request = r#"{"url":"/s?a=1","headers":{"host":"h"}}"#.to_owned().into();
        assert_eq!(
            body(CallKind::Connect, request.clone()),
            r#"{"action":"connect","token":"01234567-89ab-4def-8123-456789abcdef","request":{"url":"/s?a=1","headers":{"host":"h"}}}"#
        );
        for (reason, text) in
            [(Reason::ClientClosed, "client_closed"), (Reason::ServerClosed, "server_closed"), (Reason::Error, "error")]
        {
            let expected = r#"{"action":"disconnect","reason":"REASON","token":"01234567-89ab-4def-8123-456789abcdef","request":{"url":"/s?a=1","headers":{"host":"h"}}}"#;
            for detail in [None, Some(Detail::Shutdown)] {
                assert_eq!(
                    body(CallKind::Disconnect { reason, detail }, request.clone()),
                    expected.replace("REASON", text)
                );
            }
        }
    }

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
            (Detail::GroupEnded, "group_ended"),
            (Detail::NothingToAttach, "nothing_to_attach"),
        ] {
            assert_eq!(detail.as_str(), text);
        }
    }

    #[test]
    fn the_body_of_a_post_goes_with_its_connect() {
        let parts = RequestParts { url: "/chat", headers: &[] };
        let request = Request::encode_post(&mut String::new(), &parts);
        let text = RequestBody::new("{\"q\":\"\u{e9}\n\"}".as_bytes()).unwrap();
        let call = Call { id: Key::from_parts(0, 0), kind: CallKind::Connect, token: TOKEN, request, body: Some(text) };
        let mut body = Vec::new();
        call.write_body(&mut body);
        assert_eq!(body.len(), call.body_bytes());
        assert_eq!(
            String::from_utf8(body).unwrap(),
            format!(
                r#"{{"action":"connect","token":"{TOKEN}","request":{{"url":"/chat","headers":{{}},"method":"POST","body":"{{\"q\":\"é\n\"}}"}}}}"#
            )
        );
        assert!(RequestBody::new(b"\xff").is_err());
    }
}
