//! The rules that a send can break, and their texts.

use std::borrow::Cow;

/// One variant per row of the contract (docs/protocol.md, section 4), in the order they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The body is not a JSON object.
    InvalidJson,
    /// No target, or a token that is not a string of at least one byte.
    Token,
    /// Two targets.
    Targets,
    /// `group` is no name of a group.
    Group,
    /// `groups` is no list of names of groups.
    Groups,
    /// `event` and `events`.
    EventAndEvents,
    /// `events` is no list, empty or too long.
    Events,
    /// An element of `events` breaks a rule: its index, and the rule.
    Listed(u16, &'static Self),
    /// The event in `will` breaks a rule.
    Will(&'static Self),
    /// `will` with another field of a send.
    WillAlone,
    /// `will` where the end of the request does not end a group.
    WillWithoutEnd,
    /// `event` is not an object.
    Event,
    /// `event.data` is missing or not a string.
    Data,
    /// `event.name` is not a string.
    Name,
    /// `event.name` has a line break.
    NameLineBreak,
    /// `event.id` is neither a string nor an integer.
    Id,
    /// `event.id` has a line break or a NUL.
    IdLineBreak,
    /// `event.id` has another control character.
    IdControl,
    /// `event.retry` is not a whole number of milliseconds.
    Retry,
    /// An event of a group has an id of its own.
    GroupEventId,
    /// `close` is not a boolean.
    Close,
    /// `transient` is not a boolean.
    Transient,
    /// `transient` with a token.
    TransientToken,
    /// `end` is not a boolean.
    End,
    /// `end` with anything but a group.
    EndTarget,
    /// Of the answer to a connect: `groups` is no list.
    AnswerGroups,
    /// Of the answer to a connect: more than 64 groups.
    TooManyGroups,
    /// Of the answer to a connect: `since` is no text.
    Since,
    /// Of the answer to a connect: `attach` is no boolean.
    Attach,
    /// Of the answer to a connect: `headers` is no object.
    Headers,
    /// Of the answer to a connect: a `status` other than 204.
    Status,
    /// Of the answer to a connect: `expires_in` is no number of seconds.
    ExpiresIn,
}

impl SendError {
    /// The text of the `error` field in the 400 answer.
    pub fn message(self) -> Cow<'static, str> {
        if let Self::Listed(index, rule) = self {
            return rule.text().replacen("event", &format!("events[{index}]"), 1).into();
        }
        if let Self::Will(rule) = self {
            return rule.text().replacen("event", "will", 1).into();
        }
        self.text().into()
    }

    /// The same, for one event.
    fn text(self) -> &'static str {
        match self {
            Self::InvalidJson => "Invalid JSON",
            Self::Token => "Invalid request: token is required and must be a string",
            Self::Targets => "Invalid request: token, group and groups exclude each other",
            Self::Group => "Invalid request: group must be a name of 1 to 128 bytes",
            Self::Groups => "Invalid request: groups must be an array of 1 to 64 names",
            Self::EventAndEvents => "Invalid request: event and events exclude each other",
            Self::Events => "Invalid request: events must be an array of 1 to 1000 events",
            Self::Listed(_, rule) | Self::Will(rule) => rule.text(),
            Self::WillAlone => "Invalid request: will excludes all other fields",
            Self::WillWithoutEnd => "Invalid request: will needs end=true",
            Self::Event => "Invalid request: event must be an object",
            Self::Data => "Invalid request: event.data is required and must be a string",
            Self::Name => "Invalid request: event.name must be a string",
            Self::NameLineBreak => "Invalid request: event.name must not contain line breaks",
            Self::Id => "Invalid request: event.id must be a string",
            Self::IdLineBreak => "Invalid request: event.id must not contain line breaks",
            Self::IdControl => "Invalid request: event.id must not contain control characters",
            Self::Retry => "Invalid request: event.retry must be a non-negative integer",
            Self::GroupEventId => "Invalid request: event.id is the gateway's in a group",
            Self::Close => "Invalid request: close must be a boolean",
            Self::Transient => "Invalid request: transient must be a boolean",
            Self::TransientToken => "Invalid request: transient needs a group",
            Self::End => "Invalid request: end must be a boolean",
            Self::EndTarget => "Invalid request: end needs a group",
            Self::AnswerGroups => "groups must be an array of names",
            Self::TooManyGroups => "a stream can be in at most 64 groups",
            Self::Since => "since must be a string",
            Self::Attach => "attach must be a boolean",
            Self::Headers => "headers must be an object",
            Self::Status => "status must be 204",
            Self::ExpiresIn => "expires_in must be an integer of at least 1",
        }
    }

    /// The same rule, broken by an element of `events`.
    pub(crate) fn in_list(self, index: usize) -> Self {
        self.of_event().map_or(self, |rule| Self::Listed(u16::try_from(index).unwrap_or(u16::MAX), rule))
    }

    /// The same rule, broken by the event in `will`.
    pub(super) fn in_will(self) -> Self {
        self.of_event().map_or(self, Self::Will)
    }

    /// The rule, if it is one for events: what [`Self::Listed`] and [`Self::Will`] refer to.
    pub fn of_event(self) -> Option<&'static Self> {
        Some(match self {
            Self::Event => &Self::Event,
            Self::Data => &Self::Data,
            Self::Name => &Self::Name,
            Self::NameLineBreak => &Self::NameLineBreak,
            Self::Id => &Self::Id,
            Self::IdLineBreak => &Self::IdLineBreak,
            Self::IdControl => &Self::IdControl,
            Self::Retry => &Self::Retry,
            Self::GroupEventId => &Self::GroupEventId,
            Self::InvalidJson
            | Self::Token
            | Self::Targets
            | Self::Group
            | Self::Groups
            | Self::EventAndEvents
            | Self::Events
            | Self::Listed(..)
            | Self::Will(_)
            | Self::WillAlone
            | Self::WillWithoutEnd
            | Self::Close
            | Self::Transient
            | Self::TransientToken
            | Self::End
            | Self::EndTarget
            | Self::AnswerGroups
            | Self::TooManyGroups
            | Self::Since
            | Self::Attach
            | Self::Headers
            | Self::Status
            | Self::ExpiresIn => return None,
        })
    }

    /// Whether the value would inject lines into a frame.
    pub(crate) fn is_line_break(self) -> bool {
        matches!(self, Self::NameLineBreak | Self::IdLineBreak)
    }

    /// The broken rule, for the log.
    pub fn rule(self) -> &'static str {
        self.text().trim_start_matches("Invalid request: ")
    }
}
