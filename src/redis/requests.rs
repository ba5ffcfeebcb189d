//! Requests to Redis for which somebody waits, from their submission to their result, across broken connections.

use super::entries::Tag;
use super::page::Page;
use super::scripts::Script;
use crate::clock::Millis;
use crate::cursor::Position;
use crate::planted;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Bytes of requests for which somebody waits: beyond this, Redis counts as unavailable.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The same as a part of all memory that peers may use: a Redis that does not answer leaves the rest to others. What is
/// written exists twice.
const MEMORY_PART: u64 = 8;

/// How long a message is sent again that nobody has got: whoever was only cut off is back by then.
const RESTS_FOR: Duration = Duration::from_secs(1);

/// The number of a request.
pub(crate) type Serial = u64;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A send has its place.
    Sent {
        /// Of its last event.
        position: Position,
        /// Whether any gateway has a stream in one of the groups.
        reached: bool,
    },
    /// It would reach somebody, or not.
    Probed(bool),
    /// All of its groups have ended.
    Ended,
    /// So many gateways have got a message.
    Told(usize),
    /// How a group stands: its newest event kept, and whether it has ended.
    Peeked(Option<Position>, bool),
    /// The newest position.
    Head(Position),
    /// What is kept of some groups.
    Page(Page),
    /// Whether anything is kept of some groups, or any gateway follows them.
    Alive(bool),
    /// There is no connection; the request was certainly not carried out.
    Unavailable,
    /// The connection broke, and it is not known whether the request was carried out.
    Lost,
    /// Redis has no memory left; the request was not carried out.
    OutOfMemory,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Send {
        is_probe: bool,
    },
    /// A message on a channel: on that of a gateway, if there is one.
    Tell {
        gateway: Option<u32>,
    },
    Peek,
    Head,
    Page,
    Alive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Written,
    /// A message that nobody has got: it is sent again.
    Resting,
    /// The connection broke meanwhile. Until then, it is found out whether it was carried out.
    Doubtful(Millis),
}

pub(super) struct Request {
    pub(super) kind: Kind,
    /// What runs it, if it is no plain command.
    pub(super) script: Option<Script>,
    /// How many arguments there are, and the arguments themselves; the connection adds what depends on it.
    pub(super) arguments: usize,
    pub(super) arguments_bytes: Box<[u8]>,
    /// How long it waits for a connection.
    until: Millis,
    /// How long it is sent again.
    rests_until: Option<Millis>,
    state: State,
}

/// All requests without a result.
pub(super) struct Requests {
    requests: BTreeMap<Serial, Request>,
    /// Those that rest, by the time when they are sent again.
    resting: BTreeSet<(Millis, Serial)>,
    last: Serial,
    bytes: usize,
    bytes_max: u64,
}

impl Requests {
    /// `memory_bytes_max`: of all that peers may use together, if that is limited.
    pub(super) fn new(memory_bytes_max: Option<u64>) -> Self {
        let bytes_max = memory_bytes_max.map_or(BYTES_MAX, |max| (max / MEMORY_PART).min(BYTES_MAX));
        Self { requests: BTreeMap::new(), resting: BTreeSet::new(), last: 0, bytes: 0, bytes_max }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the next request.
    pub(super) fn next_serial(&self) -> Serial {
        self.last + 1
    }

    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether too much waits already.
    pub(super) fn is_full(&self) -> bool {
        self.bytes as u64 > self.bytes_max
    }

    /// Adds a request, to be written later.
    pub(super) fn add(
        &mut self,
        until: Millis,
        kind: Kind,
        script: Option<Script>,
        arguments: usize,
        arguments_bytes: Box<[u8]>,
    ) -> Serial {
        self.last += 1;
        self.bytes += arguments_bytes.len();
        let request =
            Request { kind, script, arguments, arguments_bytes, until, rests_until: None, state: State::Queued };
        self.requests.insert(self.last, request);
        self.last
    }

    /// The request of that number is written now.
    pub(super) fn write(&mut self, serial: Serial) -> Option<&Request> {
        let request = self.requests.get_mut(&serial)?;
        request.state = State::Written;
        Some(request)
    }

    /// The numbers of those that are to be written, in order.
    pub(super) fn queued(&self) -> Vec<Serial> {
        self.requests.iter().filter(|(_, request)| request.state == State::Queued).map(|(serial, _)| *serial).collect()
    }

    pub(super) fn kind(&self, serial: Serial) -> Option<Kind> {
        Some(self.requests.get(&serial)?.kind)
    }

    /// Takes a request that has its result.
    pub(super) fn take(&mut self, serial: Serial) -> Option<Request> {
        let request = self.requests.remove(&serial)?;
        self.bytes -= request.arguments_bytes.len();
        Some(request)
    }

    /// It was certainly not carried out: it waits for another connection.
    pub(super) fn requeue(&mut self, serial: Serial) {
        if let Some(request) = self.requests.get_mut(&serial) {
            request.state = State::Queued;
        }
    }

    /// Nobody has got a message. Returns the gateway that it is for, if that may still come back in time.
    pub(super) fn rest(&mut self, now: Millis, serial: Serial) -> Option<u32> {
        let request = self.requests.get_mut(&serial)?;
        let Kind::Tell { gateway: Some(gateway) } = request.kind else { return None };
        if *request.rests_until.get_or_insert(now.after(RESTS_FOR)) <= now {
            return None;
        }
        request.state = State::Resting;
        Some(gateway)
    }

    /// It is sent again at that time.
    pub(super) fn wake_at(&mut self, at: Millis, serial: Serial) {
        self.resting.insert((at, serial));
    }

    /// When [`Requests::next_woken`] has something to do.
    pub(super) fn wakes_at(&self) -> Option<Millis> {
        self.resting.first().map(|(at, _)| *at)
    }

    /// Takes the number of the next one that is sent again now.
    pub(super) fn next_woken(&mut self, now: Millis) -> Option<Serial> {
        let (at, serial) = *self.resting.first()?;
        (at <= now).then(|| {
            self.resting.remove(&(at, serial));
            serial
        })
    }

    /// The connection broke: what was written is doubtful. Returns those that cannot be found out about.
    pub(super) fn doubt(&mut self, until: Millis) -> Vec<(Serial, Outcome)> {
        let mut results = Vec::new();
        self.resting.clear();
        for (serial, request) in &mut self.requests {
            if request.state == State::Resting {
                request.state = State::Queued;
            }
            if request.state != State::Written {
                continue;
            }
            match request.kind {
                // Events twice, if only the answer was lost.
                Kind::Send { .. } if planted::is("sends-in-doubt-are-sent-again") => request.state = State::Queued,
                Kind::Send { is_probe: false } => request.state = State::Doubtful(until),
                // These change nothing.
                Kind::Send { is_probe: true } | Kind::Peek | Kind::Head | Kind::Page | Kind::Alive => {
                    request.state = State::Queued;
                }
                Kind::Tell { .. } => results.push((*serial, Outcome::Lost)),
            }
        }
        for (serial, _) in &results {
            self.take(*serial);
        }
        results
    }

    /// What the log says of the doubtful ones: `sent` are those of this gateway that are in it; `is_whole`: the others
    /// were not carried out.
    pub(super) fn resolve(&mut self, sent: &HashMap<Serial, Position>, is_whole: bool) -> Vec<(Serial, Outcome)> {
        let mut results = Vec::new();
        for (serial, request) in &mut self.requests {
            if !matches!(request.state, State::Doubtful(_)) {
                continue;
            }
            match sent.get(serial) {
                // It is not known any more whom it reached; it certainly reached those who read on now.
                Some(position) => results.push((*serial, Outcome::Sent { position: *position, reached: true })),
                None if is_whole => request.state = State::Queued,
                None => results.push((*serial, Outcome::Lost)),
            }
        }
        for (serial, _) in &results {
            self.take(*serial);
        }
        results
    }

    /// Takes those that have waited long enough for a connection.
    pub(super) fn expire(&mut self, now: Millis) -> Vec<(Serial, Outcome)> {
        let due = |request: &Request| request.due().is_some_and(|due| due <= now);
        let outcome = |state| if state == State::Queued { Outcome::Unavailable } else { Outcome::Lost };
        let expired = self.requests.iter().filter(|(_, request)| due(request));
        let expired: Vec<_> = expired.map(|(serial, request)| (*serial, outcome(request.state))).collect();
        for (serial, _) in &expired {
            self.take(*serial);
        }
        expired
    }

    /// When [`Requests::expire`] has something to do.
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.requests.values().filter_map(Request::due).min()
    }
}

impl Request {
    fn due(&self) -> Option<Millis> {
        match self.state {
            State::Queued => Some(self.until),
            State::Doubtful(until) => Some(until),
            State::Written | State::Resting => None,
        }
    }
}

/// The positions of one gateway's sends in the log: of the last event of each.
pub(super) fn own_sends(gateway: u32, sends: impl Iterator<Item = (Position, Tag)>) -> HashMap<Serial, Position> {
    sends.filter(|(_, tag)| tag.gateway == gateway).map(|(position, tag)| (tag.serial, position)).collect()
}
