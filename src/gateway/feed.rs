//! One feed: a `POST /internal/send` that stays open, with a command per line, or with an event stream (docs/protocol.md,
//! section 14). What is known of it, and its account of lines.

use super::answers::{Refusal, ResponseMode};
use super::results::{LineError, SendResult};
use crate::http::body::Remaining;
use crate::hub::{Watched, parse_token};
use crate::send::{Lines, Target};
use crate::sse::{Event, Reader, TooLong};
use std::borrow::Cow;

/// Errors of lines that are kept for the answer.
const ERRORS_MAX: usize = 100;

/// Input that is read although results of earlier lines have yet to come: the lines in it are held until then.
const WINDOW_BYTES: usize = 256 * 1024;

/// The name of the last will, if the feed sets no other.
const INTERRUPTED: &str = "interrupted";

/// How a feed is to be read, by its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FeedRequest {
    pub format: Format,
    /// Where commands go that name no target: never several groups.
    pub target: Option<Target<'static>>,
    /// The group ends with the body.
    pub ends: bool,
}

/// The format of a feed's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `application/x-ndjson`.
    Lines,
    /// `text/event-stream`.
    Events,
}

/// How a feed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeedEnd {
    /// Its body is over.
    Complete,
    /// Its target has ended, by somebody else.
    Gone,
    /// The rest of its body cannot or must not be read.
    Refused(Refusal),
    /// Its connection has ended before its body.
    BrokenOff,
}

impl FeedEnd {
    /// The metric labels, each at the index of its end.
    pub(super) const LABELS: [&str; 4] = ["complete", "gone", "refused", "broken_off"];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Complete => 0,
            Self::Gone => 1,
            Self::Refused(_) => 2,
            Self::BrokenOff => 3,
        }
    }
}

/// A feed that is being read.
pub(super) struct Feed {
    pub request: FeedRequest,
    pub mode: ResponseMode,
    pub remaining: Remaining,
    pub input: FeedInput,
    /// Its target, as long as its end by others would be told.
    pub watched: Option<Watched>,
    /// The group is still to be ended.
    pub owes_end: bool,
    /// Published before the group ends, if the feed breaks off.
    will: Option<Event<'static>>,
    /// Lines, or events, that were read.
    pub lines: u64,
    /// Of these, the sends that were applied.
    pub accepted: u64,
    /// Sends whose result has yet to come over Redis.
    pub pending: usize,
    /// Bytes read since there was none.
    window: usize,
    /// The body is over, but results are pending: the input after it.
    pub rest: Option<Vec<u8>>,
    /// Why the rest of its body is not read, to be answered once no results are pending.
    pub refused: Option<Refusal>,
    /// By line.
    pub errors: Vec<LineError>,
}

/// The reader of a feed's body.
pub(super) enum FeedInput {
    Lines(Lines),
    Events(Box<Reader>),
}

/// A line of a feed, or an event.
pub(super) enum Item<'a> {
    Line(&'a [u8]),
    Event(Event<'a>),
}

impl Feed {
    /// `bytes_max`: of a line or an event.
    pub(super) fn new(request: FeedRequest, mode: ResponseMode, remaining: Remaining, bytes_max: usize) -> Self {
        let input = match request.format {
            Format::Lines => FeedInput::Lines(Lines::new(bytes_max)),
            Format::Events => FeedInput::Events(Box::new(Reader::new(bytes_max))),
        };
        Self {
            owes_end: request.ends,
            request,
            mode,
            remaining,
            input,
            watched: None,
            will: None,
            lines: 0,
            accepted: 0,
            pending: 0,
            window: 0,
            rest: None,
            refused: None,
            errors: Vec::new(),
        }
    }

    /// So many more bytes are read.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.window = bytes + if self.pending == 0 { 0 } else { self.window };
    }

    /// Whether more of its body is to be read now.
    pub(super) fn wants_input(&self) -> bool {
        self.rest.is_none() && (self.pending == 0 || self.window < WINDOW_BYTES)
    }

    /// Bytes of a line or an event that is not complete.
    pub(super) fn partial_bytes(&self) -> usize {
        match &self.input {
            FeedInput::Lines(lines) => lines.pending_bytes(),
            FeedInput::Events(reader) => reader.pending_bytes(),
        }
    }

    /// All bytes that it makes the gateway hold.
    pub(super) fn bytes(&self) -> usize {
        let target = match &self.request.target {
            Some(Target::Token(name) | Target::Group(name)) => name.len(),
            Some(Target::Groups(_)) | None => 0,
        };
        let will =
            self.will.as_ref().map_or(0, |will| will.data.len() + will.name.as_ref().map_or(0, |name| name.len()));
        let errors = self.errors.len() * size_of::<LineError>();
        size_of::<Self>() + target + will + errors + self.partial_bytes() + self.rest.as_ref().map_or(0, Vec::len)
    }

    /// Replaces the last will.
    pub(super) fn set_will(&mut self, will: Event<'static>) {
        self.will = Some(will);
    }

    /// Takes the last will.
    pub(super) fn take_will(&mut self) -> Event<'static> {
        let default = || Event { name: Some(Cow::Borrowed(INTERRUPTED)), ..Event::default() };
        self.will.take().unwrap_or_else(default)
    }

    /// Counts the result of the send in that line.
    pub(super) fn count(&mut self, line: u64, result: SendResult) {
        match result {
            SendResult::Asked(_) => {}
            SendResult::Ok | SendResult::Buffered | SendResult::Published(_) => self.accepted += 1,
            SendResult::Invalid(_)
            | SendResult::NotFound
            | SendResult::Failed
            | SendResult::Ended
            | SendResult::Unavailable
            | SendResult::Lost
            | SendResult::OutOfMemory
            | SendResult::NoAnswer => {
                // Some results come at once, and others over Redis.
                let at = self.errors.partition_point(|error| error.line < line);
                if at < ERRORS_MAX {
                    self.errors.truncate(ERRORS_MAX - 1);
                    self.errors.insert(at, LineError { line, result });
                }
            }
        }
    }
}

impl FeedInput {
    /// Takes the next line or event from the front of `data`; `None`: all of it is consumed.
    pub(super) fn next<'r, 'i: 'r>(&'r mut self, data: &mut &'i [u8]) -> Result<Option<Item<'r>>, TooLong> {
        match self {
            Self::Lines(lines) => Ok(lines.next_line(data)?.map(Item::Line)),
            Self::Events(reader) => Ok(reader.next_event(data)?.map(|event| {
                let text = |bytes: &'r [u8]| String::from_utf8_lossy(bytes);
                let name = (!event.name.is_empty()).then(|| text(event.name));
                Item::Event(Event { name, data: text(event.data), ..Event::default() })
            })),
        }
    }

    /// What the clean end of the body completes: a line without its line feed, but no event.
    pub(super) fn last(&mut self) -> Option<Item<'_>> {
        match self {
            Self::Lines(lines) => lines.last_line().map(Item::Line),
            Self::Events(_) => None,
        }
    }
}

/// Whether a send to that target is for what is watched.
pub(super) fn is_for(target: &Target<'_>, watched: Option<&Watched>) -> bool {
    match (target, watched) {
        (Target::Token(token), Some(Watched::Token(watched))) => parse_token(token) == Some(*watched),
        (Target::Group(name), Some(Watched::Group(watched))) => **name == **watched,
        (Target::Token(_) | Target::Group(_) | Target::Groups(_), _) => false,
    }
}
