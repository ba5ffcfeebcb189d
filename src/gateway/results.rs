//! What becomes of sends, and of changes of groups.

use crate::cursor::Cursor;
use crate::send::{MembershipError, SendError};
use std::borrow::Cow;

/// The result of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendResult {
    Ok,
    Buffered,
    Invalid(SendError),
    NotFound,
    /// The stream has too many unsent bytes, and ends.
    Failed,
    /// It is on its way to the members of its groups.
    Published(Published),
    /// All of its groups have ended.
    Ended,
    /// There is no connection to Redis.
    Unavailable,
    /// The connection to Redis broke, and it is not known whether the send was carried out.
    Lost,
    /// Redis has no memory left.
    OutOfMemory,
    /// The gateway that has the stream does not answer.
    NoAnswer,
    /// The result comes later.
    Asked(Asked),
}

/// Where the result of a send comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Redis, by the number of the request; `has_id`: it is kept.
    Redis { serial: u64, has_id: bool },
    /// The gateway with that id, which is to be asked yet.
    Gateway(u32),
}

/// A send to groups that has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    /// Of its last event, if it is kept.
    pub id: Option<Cursor>,
    /// Whether any stream was in one of the groups.
    pub reached: bool,
}

/// A line of a feed that was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineError {
    /// From 1.
    pub line: u64,
    /// No success.
    pub result: SendResult,
}

/// The result of a request to change a stream's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MembershipResult {
    Ok,
    /// The stream is not open yet.
    Buffered,
    Invalid(MembershipError),
    NotFound,
    /// More has been requested than is held for a stream that is not open yet.
    Failed,
    /// There is no connection to Redis.
    Unavailable,
    /// The gateway that has the stream does not answer.
    NoAnswer,
    /// The result comes later.
    Asked,
}

impl SendResult {
    /// The metric labels, each at the index of its result.
    pub(super) const LABELS: [&str; 8] =
        ["ok", "buffered", "invalid", "not_found", "failed", "ended", "unavailable", "lost"];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Ok | Self::Published(_) => 0,
            Self::Buffered => 1,
            Self::Invalid(_) => 2,
            Self::NotFound => 3,
            Self::Failed => 4,
            Self::Ended => 5,
            Self::Unavailable | Self::OutOfMemory => 6,
            Self::Lost | Self::NoAnswer | Self::Asked(_) => 7,
        }
    }

    /// Status and text of an error.
    pub(super) fn error(self) -> Option<(u16, Cow<'static, str>)> {
        match self {
            Self::Ok | Self::Buffered | Self::Published(_) => None,
            Self::NotFound => Some((404, "Token not found".into())),
            Self::Failed => Some((500, "Write failed: connection closed".into())),
            Self::Invalid(error) => Some((400, error.message())),
            Self::Ended => Some((410, "Group has ended".into())),
            Self::Unavailable => Some((503, "Redis unavailable".into())),
            Self::Lost | Self::Asked(_) => Some((503, "Redis connection lost".into())),
            Self::OutOfMemory => Some((503, "Redis is out of memory".into())),
            Self::NoAnswer => Some((504, "Gateway timeout".into())),
        }
    }
}
