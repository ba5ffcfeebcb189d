//! The connection to Redis, without the socket: its state, and what is written.

use super::entries::{Tag, id_of};
use super::held::{Held, Loaded, Published, Replay, Standing};
use super::requests::{Outcome, Requests, Serial};
use super::resp::{self, Command, Scanner};
use super::scripts::{Names, Script};
use super::server::Server;
use super::settings::{Limits, RedisSettings};
use crate::clock::Millis;
use crate::cursor::{Epoch, Position};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;
use uuid::Uuid;

/// How often a gateway registers.
pub(super) const BEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How long it stays registered.
pub(super) const REGISTERED: Duration = Duration::from_secs(15);
/// Events of which one read brings that many: their memory stays allocated.
const SPARE_MAX: usize = 256;
/// Groups in one read.
const READ_AT_ONCE: usize = 100;
/// The events of one read, and the reads under way at once. Redis closes a connection with more than 8 MB to read for a
/// minute, or more than 32 MB at all.
pub(super) const READ_BYTES: usize = 1024 * 1024;
const READS_MAX: usize = 4;
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Sends wait for a second, so a server that is back is found within half of it.
pub(super) const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Connect to the server, then say [`Link::connected`] or [`Link::broken`].
    Connect,
    /// Close the connection, if there is one.
    Disconnect,
    /// What was kept may be gone: positions begin anew, at this one.
    Epoch(Epoch, Position),
    /// These limits of history hold.
    Limits(Limits),
    /// Events of a group that is followed may have been missed, up to that position.
    Gap(Box<str>, Position),
    /// A group is followed from now on.
    Loaded(Loaded),
    Published(Published),
    /// A request has its result.
    Done(Serial, Outcome),
    /// A message of another gateway.
    Message(Vec<u8>),
    /// The newest position: all before it has come.
    Head(Position),
    /// All groups that are followed are known, those that had not changed as well.
    Live,
}

/// Counters for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkCounts {
    pub(crate) connects: u64,
    pub(crate) catch_ups: u64,
    pub(crate) epochs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Until it is tried again.
    Waiting {
        until: Millis,
    },
    /// Until this counts as failed.
    Connecting {
        until: Millis,
    },
    /// Greeted; no answer to everything yet.
    Greeting,
    /// Reading what was missed.
    Syncing,
    Live,
}

/// The answer that a command gets.
pub(super) enum Expected {
    Hello,
    Done,
    Info,
    Open,
    Log,
    Read {
        number: u64,
        names: Vec<Box<str>>,
    },
    /// What was missed of a group, up to that position.
    Missed {
        name: Box<str>,
        until: Position,
    },
    Beat,
    Request(Serial),
    /// Whether the gateway is registered that a message is for.
    Registered(Serial),
}

/// What is collected while catching up.
#[derive(Default)]
pub(super) struct Sync {
    /// Up to here all was known.
    pub(super) behind: Position,
    /// From here on the log says all.
    pub(super) log_starts_at: Position,
    /// Up to here the log says all.
    pub(super) log_ends_at: Position,
    /// Groups are subscribed to only before they are read.
    pub(super) subscribes: bool,
    /// What the log says of the sends of this gateway, and which groups it says have changed.
    pub(super) own_sends: HashMap<Serial, Position>,
    pub(super) changed: HashSet<Box<str>>,
    pub(super) newest: Position,
    pub(super) replays: Vec<Replay>,
    pub(super) loaded: Vec<Loaded>,
    pub(super) gaps: Vec<(Box<str>, Position)>,
    /// Of all events collected, those that nobody wants any more included.
    pub(super) bytes: usize,
}

/// The connection, and what depends on it.
pub(crate) struct Link {
    pub(super) settings: RedisSettings,
    pub(super) limits: Limits,
    pub(super) names: Names,
    pub(super) gateway: u32,
    /// The key under which it is registered.
    pub(super) own_key: String,
    /// What the tags of its sends begin with.
    pub(super) tag: Vec<u8>,
    /// Of the connection.
    pub(super) generation: u64,
    pub(super) random: u64,
    pub(super) phase: Phase,
    pub(super) backoff: Duration,
    /// Attempts that came to nothing.
    pub(super) failures: usize,
    pub(super) expected: VecDeque<(Millis, Expected)>,
    pub(super) out: Vec<u8>,
    pub(super) inbox: Vec<u8>,
    pub(super) scanner: Scanner,
    pub(super) server: Server,
    pub(super) epoch: Option<Epoch>,
    pub(super) head: Position,
    /// Of the sends of this gateway that the last server has accepted, and its replication id.
    pub(super) newest_sent: Position,
    pub(super) sent_to: String,
    pub(super) held: Held,
    pub(super) reads: u64,
    /// Of them, those without an answer.
    pub(super) reads_under_way: usize,
    /// Groups that are still to be read.
    pub(super) unread: VecDeque<Box<str>>,
    pub(super) sync: Sync,
    /// A send of which more events are to come.
    pub(super) partial: Option<Published>,
    pub(super) requests: Requests,
    /// Memory for the next request, and for one of its events.
    pub(super) command: Command,
    pub(super) frame: Vec<u8>,
    /// Memory for what comes next.
    pub(super) spare: Vec<Published>,
    pub(super) beat_at: Millis,
    pub(super) live_since: Millis,
    /// Why the last connection failed, as it was logged.
    pub(super) complaint: String,
    pub(super) has_been_live: bool,
    pub(super) events: VecDeque<Event>,
    /// Those that are for the socket, and wait for no other.
    pub(super) socket_events: VecDeque<Event>,
    pub(super) counts: LinkCounts,
}

impl Sync {
    /// Whether the log has everything behind [`Sync::behind`].
    pub(super) fn is_log_whole(&self) -> bool {
        self.behind > 0 && self.log_starts_at <= self.behind
    }

    pub(super) fn add(&mut self, replay: Replay) {
        self.bytes += size_of::<Replay>() + replay.frame.len();
        self.replays.push(replay);
    }

    pub(super) fn add_loaded(&mut self, loaded: Loaded) {
        self.bytes += loaded.entries.iter().map(|entry| size_of_val(entry) + entry.1.len()).sum::<usize>();
        self.loaded.push(loaded);
    }

    /// A group is no longer followed.
    pub(super) fn forget(&mut self, name: &str) {
        self.forget_until(name, Position::MAX);
        self.loaded.retain(|loaded| *loaded.name != *name);
        self.gaps.retain(|(known, _)| **known != *name);
    }

    /// What came of a group up to `position` is known otherwise.
    pub(super) fn forget_until(&mut self, name: &str, position: Position) {
        for replay in self.replays.iter_mut().filter(|replay| replay.position <= position) {
            replay.names.retain(|known| **known != *name);
        }
    }
}

impl Link {
    /// `memory_bytes_max`: of all that peers may use together, if that is limited. `random`: unknown to others, and the
    /// gateway's id in 32 of its bits. `None`: a build without Redis.
    pub(crate) fn new(
        settings: RedisSettings,
        limits: Limits,
        memory_bytes_max: Option<u64>,
        random: u64,
    ) -> Option<Self> {
        let (names, gateway) = (Names::new(&settings.prefix, settings.database), (random >> 32) as u32);
        Some(Self {
            own_key: names.gateway(gateway),
            tag: Tag::start(gateway).into_bytes(),
            names,
            settings,
            limits,
            gateway,
            generation: 0,
            random: random | 1,
            phase: Phase::Waiting { until: Millis::ZERO },
            backoff: BACKOFF_MIN,
            failures: 0,
            expected: VecDeque::new(),
            out: Vec::new(),
            inbox: Vec::new(),
            scanner: Scanner::default(),
            server: Server::default(),
            epoch: None,
            head: 0,
            newest_sent: 0,
            sent_to: String::new(),
            held: Held::default(),
            reads: 0,
            reads_under_way: 0,
            unread: VecDeque::new(),
            sync: Sync::default(),
            partial: None,
            requests: Requests::new(memory_bytes_max),
            command: Command::default(),
            frame: Vec::new(),
            spare: Vec::new(),
            beat_at: Millis::NEVER,
            live_since: Millis::ZERO,
            complaint: String::new(),
            has_been_live: false,
            events: VecDeque::new(),
            socket_events: VecDeque::new(),
            counts: LinkCounts::default(),
        })
    }

    pub(crate) fn settings(&self) -> &RedisSettings {
        &self.settings
    }

    /// The id of this gateway, which its tokens begin with.
    pub(crate) fn gateway(&self) -> u32 {
        self.gateway
    }

    /// A random token with the id of this gateway in place of its first 32 bits; 90 random ones are left.
    pub(crate) fn own_token(&self, random: Uuid) -> Uuid {
        Uuid::from_u128(random.as_u128() & (u128::MAX >> 32) | u128::from(self.gateway) << 96)
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Whether it has ever been live.
    pub(crate) fn has_been_live(&self) -> bool {
        self.has_been_live
    }

    /// The server's version, and its `maxmemory-policy`.
    pub(crate) fn server(&self) -> (&str, &str) {
        (self.server.version(), self.server.policy())
    }

    /// How many attempts to connect have come to nothing: each is made to the next one of several addresses, and the one that
    /// worked last is the first to be tried.
    pub(crate) fn failures(&self) -> usize {
        self.failures
    }

    /// Why the last connection failed; empty if none has.
    pub(crate) fn complaint(&self) -> &str {
        &self.complaint
    }

    pub(crate) fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// Requests without a result.
    pub(crate) fn waiting(&self) -> usize {
        self.requests.len()
    }

    /// What is on its way: requests that have no result, commands that Redis has not taken, and answers and messages that
    /// have not come whole or are collected until all of a catching up is here.
    pub(crate) fn bytes(&self) -> usize {
        self.requests.bytes() + self.out.len() + self.inbox.len() + self.sync.bytes
    }

    /// Groups that are followed.
    pub(crate) fn followed(&self) -> usize {
        self.held.len()
    }

    /// The next thing that happened; what is for the socket first.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.next_socket_event().or_else(|| self.events.pop_front())
    }

    /// The next thing to do with the socket.
    pub(crate) fn next_socket_event(&mut self) -> Option<Event> {
        self.socket_events.pop_front()
    }

    /// Whether there are events that were not taken.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty() || !self.socket_events.is_empty()
    }

    /// The epoch of the data of Redis.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// An event was taken in: its memory is for the next one.
    pub(crate) fn reuse(&mut self, mut published: Published) {
        if self.spare.len() < SPARE_MAX && published.frames.len() == 1 {
            published.names.clear();
            published.frames.clear();
            self.spare.push(published);
        }
    }

    /// The bytes to write next.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.out
    }

    /// So many of them are written.
    pub(crate) fn wrote(&mut self, count: usize) {
        self.out.drain(..count);
    }

    pub(super) fn advance(&mut self, position: Position) {
        if position > self.head {
            self.head = position;
            self.events.push_back(Event::Head(position));
        }
    }

    pub(super) fn finish(&mut self, results: Vec<(Serial, Outcome)>) {
        self.events.extend(results.into_iter().map(|(serial, outcome)| Event::Done(serial, outcome)));
    }

    /// From half of the back-off to all of it.
    pub(super) fn jittered_backoff(&mut self) -> Duration {
        let half = self.backoff.as_millis() as u64 / 2;
        Duration::from_millis(half + self.next_random() % (half + 1))
    }

    pub(super) fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(super) fn command(&mut self, now: Millis, expected: Expected, arguments: &[&[u8]]) {
        resp::write_command(&mut self.out, arguments);
        self.expected.push_back((now, expected));
    }

    /// Runs a script.
    pub(super) fn run(
        &mut self,
        now: Millis,
        expected: Expected,
        script: Script,
        keys: &[String],
        arguments: &[String],
    ) {
        resp::write_head(&mut self.out, 3 + keys.len() + arguments.len());
        resp::write_argument(&mut self.out, b"EVALSHA");
        resp::write_argument(&mut self.out, self.server.sha(script).as_bytes());
        resp::write_argument(&mut self.out, keys.len().to_string().as_bytes());
        for argument in keys.iter().chain(arguments) {
            resp::write_argument(&mut self.out, argument.as_bytes());
        }
        self.expected.push_back((now, expected));
    }

    pub(super) fn subscribe<S: AsRef<str>>(&mut self, channels: &[S]) {
        let names = channels.iter().map(AsRef::as_ref);
        let arguments: Vec<&[u8]> = std::iter::once("SUBSCRIBE").chain(names).map(str::as_bytes).collect();
        resp::write_command(&mut self.out, &arguments);
    }

    /// Reads groups, as soon as not too much is under way.
    pub(super) fn want(&mut self, now: Millis, names: impl IntoIterator<Item = Box<str>>) {
        self.unread.extend(names);
        self.read_on(now);
    }

    /// Whether nothing is to be read, or being read.
    pub(super) fn has_read_all(&self) -> bool {
        self.unread.is_empty() && self.reads_under_way == 0
    }

    pub(super) fn read_on(&mut self, now: Millis) {
        while self.reads_under_way < READS_MAX && !self.unread.is_empty() {
            let mut names = Vec::new();
            while names.len() < READ_AT_ONCE
                && let Some(name) = self.unread.pop_front()
            {
                // Nobody may want it any more, or it has been read since.
                if let Some(Standing::Unread | Standing::Stale) = self.held.get(&name) {
                    names.push(name);
                }
            }
            if names.is_empty() {
                continue;
            }
            if self.phase == Phase::Syncing && self.sync.subscribes {
                let channels: Vec<String> = names.iter().map(|name| self.names.channel(name)).collect();
                self.subscribe(&channels);
            }
            self.read(now, names);
        }
    }

    fn read(&mut self, now: Millis, names: Vec<Box<str>>) {
        self.reads += 1;
        self.reads_under_way += 1;
        let number = self.reads;
        let mut keys = vec![self.names.log().to_owned()];
        for name in &names {
            keys.extend([self.names.history(name).concat(), self.names.end(name).concat()]);
            let was_stale = self.held.get(name) == Some(Standing::Stale);
            self.held.set(name, Standing::Reading { number, was_stale });
        }
        let arguments = [READ_BYTES.to_string(), self.limits.events.max(1).to_string()];
        self.run(now, Expected::Read { number, names }, Script::Read, &keys, &arguments);
    }

    /// Reads the oldest events of a group behind a position, up to another one.
    pub(super) fn read_missed(&mut self, now: Millis, name: &str, behind: Position, until: Position) {
        self.reads_under_way += 1;
        let keys = [self.names.log().to_owned(), self.names.history(name).concat()];
        let arguments = [self.limits.events.max(1).to_string(), READ_BYTES.to_string(), id_of(behind)];
        self.run(now, Expected::Missed { name: Box::from(name), until }, Script::Page, &keys, &arguments);
    }
}
