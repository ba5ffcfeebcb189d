//! The JSON of `POST /internal/send`: bytes to a [`SendCommand`] or the row of the contract they break.

use crate::sse::Event;
use std::borrow::Cow;

/// An event whose strings borrow from the body where no escape forced a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFields<'a> {
    pub name: Option<Cow<'a, str>>,
    pub id: Option<Cow<'a, str>>,
    pub retry: Option<u32>,
    pub data: Cow<'a, str>,
}

impl EventFields<'_> {
    /// The same event as the encoder takes it.
    pub fn as_event(&self) -> Event<'_> {
        Event { name: self.name.as_deref(), id: self.id.as_deref(), retry: self.retry, data: &self.data }
    }
}

/// What a backend asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendCommand<'a> {
    /// Not empty; otherwise as given (it may name no stream at all).
    pub token: Cow<'a, str>,
    pub event: Option<EventFields<'a>>,
    pub close: bool,
}

/// One variant per row of the contract (docs/protocol.md, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    InvalidJson,
    Token,
    Event,
    Data,
    Name,
    NameLineBreak,
    Id,
    IdLineBreak,
    Retry,
    Close,
}

impl SendError {
    /// The text of the `error` field in the 400 answer.
    pub fn message(self) -> &'static str {
        todo!()
    }
}

/// Reads the body of a send.
pub fn parse(body: &[u8]) -> Result<SendCommand<'_>, SendError> {
    let _ = body;
    todo!()
}
