//! Callbacks that have not been answered, and what they say.

use super::tokens::ConnId;
use crate::callback::{Detail, Reason, Request, RequestBody};
use uuid::Uuid;

/// Why a stream ended, as in its disconnect callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndReason {
    pub(crate) reason: Reason,
    pub(crate) detail: Option<Detail>,
}

impl EndReason {
    pub(crate) const CLIENT_CLOSED: Self = Self { reason: Reason::ClientClosed, detail: None };
    pub(crate) const SERVER_CLOSED: Self = Self { reason: Reason::ServerClosed, detail: None };
    pub(crate) const SHUTDOWN: Self = Self { reason: Reason::ServerClosed, detail: Some(Detail::Shutdown) };

    pub(crate) const fn error(detail: Detail) -> Self {
        Self { reason: Reason::Error, detail: Some(detail) }
    }
}

/// An unanswered connect callback.
pub(crate) struct PendingConnect {
    pub(crate) token: Uuid,
    pub(crate) request: Request,
    /// The body of a POST.
    pub(crate) body: Option<RequestBody>,
    /// The connection waiting for the answer, or why it no longer does.
    pub(crate) owner: Result<ConnId, EndReason>,
}

/// An unanswered disconnect callback.
pub(crate) struct PendingDisconnect {
    pub(crate) token: Uuid,
    pub(crate) request: Request,
    pub(crate) ending: EndReason,
}

pub(crate) enum Pending {
    Connect(PendingConnect),
    Disconnect(PendingDisconnect),
}

impl Pending {
    /// Bytes of the client's request.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Connect(connect) => {
                connect.request.json().len() + connect.body.as_ref().map_or(0, RequestBody::bytes)
            }
            Self::Disconnect(disconnect) => disconnect.request.json().len(),
        }
    }

    /// The stream that it is about.
    pub(crate) fn token(&self) -> Uuid {
        match self {
            Self::Connect(connect) => connect.token,
            Self::Disconnect(disconnect) => disconnect.token,
        }
    }

    pub(crate) fn lane(&self) -> Lane {
        match self {
            Self::Connect(_) => Lane::Connects,
            Self::Disconnect(_) => Lane::Disconnects,
        }
    }
}

/// The kinds of callbacks. A call waits only for others of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Connects,
    Disconnects,
}

impl Lane {
    /// Each at its index.
    pub(crate) const ALL: [Self; 2] = [Self::Connects, Self::Disconnects];
    pub(crate) const COUNT: usize = Self::ALL.len();
}
