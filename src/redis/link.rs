//! The connection's life: bytes and time in, bytes and [`Event`]s out.
//!
//! A connection is greeted and opened, then all groups in use are subscribed to, then what was missed meanwhile is read;
//! only then it is live. Redis answers in the order of the commands, and messages of channels stand between the answers
//! in the order in which they were sent. So what a read answers has every message before it, and none behind it.

use super::entries::{self, Entry, flags, position_of};
use super::held::{Frame, Published, Replay, Standing};
use super::requests::Outcome;
use super::resp::{self, Scanner, Value};
use super::scripts::{LOG_LENGTH, OPEN, SCRIPTS, Script};
use super::server::{self, Server};
use super::settings::RedisSettings;
use super::state::{BACKOFF_MAX, BACKOFF_MIN, BEAT_INTERVAL, Event, Expected, Link, Phase, REGISTERED, Sync};
use super::sync::parse_epoch;
use crate::clock::Millis;
use crate::planted;
use log::warn;

impl Link {
    /// When [`Link::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Millis {
        match self.phase {
            Phase::Waiting { until } | Phase::Connecting { until } => {
                until.min(self.requests.next_due().unwrap_or(Millis::NEVER))
            }
            Phase::Greeting | Phase::Syncing => {
                self.answer_due().min(self.requests.next_due().unwrap_or(Millis::NEVER))
            }
            Phase::Live => {
                let wakes_at = self.requests.wakes_at().unwrap_or(Millis::NEVER);
                self.answer_due().min(self.beat_at).min(wakes_at)
            }
        }
    }

    fn answer_due(&self) -> Millis {
        self.expected.front().map_or(Millis::NEVER, |(since, _)| since.after(self.settings.timeout))
    }

    /// Time has passed.
    pub(crate) fn expire(&mut self, now: Millis) {
        match self.phase {
            Phase::Waiting { until } if until <= now => {
                self.phase = Phase::Connecting { until: now.after(self.settings.timeout) };
                self.socket_events.push_back(Event::Connect);
            }
            Phase::Connecting { until } if until <= now => self.broken(now, "no connection in time"),
            Phase::Greeting | Phase::Syncing | Phase::Live if self.answer_due() <= now => {
                self.broken(now, "no answer in time");
            }
            Phase::Live if self.beat_at <= now => self.beat(now),
            Phase::Waiting { .. } | Phase::Connecting { .. } | Phase::Greeting | Phase::Syncing | Phase::Live => {}
        }
        if self.phase == Phase::Live {
            while let Some(serial) = self.requests.next_woken(now) {
                self.write_request(now, serial);
            }
        } else {
            let mut expired = self.requests.expire(now);
            if self.complaint.contains("OOM ") {
                for (_, outcome) in &mut expired {
                    if *outcome == Outcome::Unavailable {
                        *outcome = Outcome::OutOfMemory;
                    }
                }
            }
            self.finish(expired);
        }
    }

    /// There is a connection.
    pub(crate) fn connected(&mut self, now: Millis) {
        let Phase::Connecting { .. } = self.phase else { return };
        self.phase = Phase::Greeting;
        self.server = Server::default();
        let name = format!("ssegateway-{:08x}", self.gateway);
        let RedisSettings { user, password, .. } = &self.settings;
        if user.is_none() && password.is_none() {
            self.command(now, Expected::Hello, &[b"HELLO", b"3", b"SETNAME", name.as_bytes()]);
        } else {
            let user = user.clone().unwrap_or_else(|| "default".to_owned());
            // That of a user with `nopass` may be any.
            let password = password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
            let login: [&[u8]; 7] =
                [b"HELLO", b"3", b"AUTH", user.as_bytes(), password.as_bytes(), b"SETNAME", name.as_bytes()];
            self.command(now, Expected::Hello, &login);
        }
        if self.settings.database != 0 {
            let database = self.settings.database.to_string();
            self.command(now, Expected::Done, &[b"SELECT", database.as_bytes()]);
        }
        for script in SCRIPTS {
            self.command(now, Expected::Done, &[b"SCRIPT", b"LOAD", script.as_bytes()]);
        }
        for section in ["memory", "stats", "replication"] {
            self.command(now, Expected::Info, &[b"INFO", section.as_bytes()]);
        }
    }

    /// The connection broke, or could not be made.
    pub(crate) fn broken(&mut self, now: Millis, why: &str) {
        if let Phase::Waiting { .. } = self.phase {
            return;
        }
        if self.complaint != why || self.phase == Phase::Live {
            warn!(why, hint = server::hint(why, &self.settings); "no connection to Redis");
            why.clone_into(&mut self.complaint);
        }
        if self.phase == Phase::Live {
            self.sync.behind = self.head;
            self.backoff = BACKOFF_MIN;
        } else {
            self.failures = self.failures.wrapping_add(1);
        }
        self.phase = Phase::Waiting { until: now.after(self.jittered_backoff()) };
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.expected.clear();
        self.out = Vec::new();
        self.inbox = Vec::new();
        self.scanner = Scanner::default();
        self.partial = None;
        self.held.break_off();
        // What was collected is read again.
        let collected = Sync { behind: self.sync.behind, ..Sync::default() };
        for loaded in std::mem::replace(&mut self.sync, collected).loaded {
            if self.held.get(&loaded.name).is_some() {
                self.held.set(&loaded.name, Standing::Unread);
            }
        }
        self.reads_under_way = 0;
        self.unread.clear();
        let lost = self.requests.doubt(now.after(self.settings.timeout));
        self.finish(lost);
        self.socket_events.push_back(Event::Disconnect);
    }

    fn beat(&mut self, now: Millis) {
        self.beat_at = now.after(BEAT_INTERVAL);
        // It is answered whatever has become of the data.
        if planted::is("link-only-pings") {
            return self.command(now, Expected::Done, &[b"PING"]);
        }
        let keys = [self.names.meta(), self.names.log().to_owned(), self.own_key.clone()];
        let lifetime = REGISTERED.as_millis().to_string();
        let arguments = [self.generation.to_string(), lifetime, LOG_LENGTH.to_string()];
        self.run(now, Expected::Beat, Script::Beat, &keys, &arguments);
        for section in ["stats", "replication"] {
            self.command(now, Expected::Info, &[b"INFO", section.as_bytes()]);
        }
    }

    /// Bytes arrived.
    pub(crate) fn received(&mut self, now: Millis, bytes: &[u8]) {
        if let Phase::Waiting { .. } | Phase::Connecting { .. } = self.phase {
            return;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            if let Some((channel, text, length)) = resp::message(&inbox[at..]) {
                self.scanner = Scanner::default();
                at += length;
                match self.take_message(channel, text) {
                    Ok(()) => continue,
                    Err(why) => return self.broken(now, &why),
                }
            }
            let read = match self.scanner.scan(&inbox[at..]) {
                Ok(None) => break,
                Ok(Some(length)) => resp::parse(&inbox[at..at + length]).map(|value| (length, value)),
                Err(malformed) => Err(malformed),
            };
            let handled = match read {
                // It confirms a subscription.
                Ok((length, Value::Push(_))) => {
                    at += length;
                    Ok(())
                }
                Ok((length, value)) => {
                    at += length;
                    self.take_answer(now, &value)
                }
                Err(_) => Err("what answers is not Redis".to_owned()),
            };
            if let Err(why) = handled {
                return self.broken(now, &why);
            }
        }
        inbox.drain(..at);
        self.inbox = inbox;
    }

    /// Errors: why the connection is of no use.
    fn take_answer(&mut self, now: Millis, value: &Value<'_>) -> Result<(), String> {
        let expected = self.expected.pop_front().map(|(_, expected)| expected);
        if let Value::Error(text) = value {
            let text = String::from_utf8_lossy(text).into_owned();
            return match expected {
                Some(Expected::Request(serial)) => self.refused(serial, text),
                Some(Expected::Open) => Err(server::explain(text, OPEN)),
                // Without an error, a subscription has no answer.
                Some(_) | None => Err(text),
            };
        }
        let Some(expected) = expected else { return Err("an answer to nothing".to_owned()) };
        let malformed = || "an answer that makes no sense".to_owned();
        match expected {
            Expected::Hello => self.server.greet(value)?,
            Expected::Done => self.server.note_script(value),
            Expected::Info => {
                let had = self.server.source();
                self.server.note_info(value);
                if self.phase == Phase::Live && self.server.source() != had {
                    return Err("keys were evicted, or another server answers: beginning anew".to_owned());
                }
                if self.phase == Phase::Greeting && self.expected.is_empty() {
                    self.open(now);
                }
            }
            Expected::Open => self.opened(now, value).ok_or_else(malformed)?,
            Expected::Log => self.take_log(now, value).ok_or_else(malformed)?,
            Expected::Read { number, names } => self.take_read(now, number, &names, value).ok_or_else(malformed)?,
            Expected::Missed { name, until } => self.take_page(now, &name, until, value).ok_or_else(malformed)?,
            Expected::Beat => {
                let [epoch, id] = value.elements().ok_or_else(malformed)? else { return Err(malformed()) };
                if epoch.text().and_then(parse_epoch) != self.epoch {
                    return Err("the data of Redis were replaced: beginning anew".to_owned());
                }
                self.advance(id.bytes().and_then(position_of).ok_or_else(malformed)?);
            }
            Expected::Request(serial) => self.answered(now, serial, value).ok_or_else(malformed)?,
            Expected::Registered(serial) => self.missed(now, serial, value).ok_or_else(malformed)?,
        }
        Ok(())
    }

    /// Errors: why the connection is of no use.
    fn take_message(&mut self, channel: &[u8], payload: &[u8]) -> Result<(), String> {
        let (names, entry) = if let Some(group) = self.names.group_of(channel) {
            (group, Entry::parse(payload))
        } else if let Some((names, entry)) = entries::parse_for_many(payload) {
            (names, Some(entry))
        } else {
            ("", None)
        };
        match entry {
            // The log has begun anew, and the clock of Redis has gone back.
            Some(entry) if self.phase == Phase::Live && entry.position <= self.head => {
                return Err("the order of Redis went back: beginning anew".to_owned());
            }
            Some(entry) => self.take_entry(&entry, names),
            None => self.events.push_back(Event::Message(payload.to_vec())),
        }
        Ok(())
    }

    /// `names`: of its groups, joined by line breaks.
    fn take_entry(&mut self, entry: &Entry<'_>, names: &str) {
        let Entry { position, flags, frame } = *entry;
        if self.phase != Phase::Live {
            // They came behind the read that would have had them.
            if planted::is("messages-are-not-held-while-catching-up") {
                return;
            }
            let names = names.split('\n').filter(|name| self.held.get(name).is_some()).map(Box::from).collect();
            self.sync.add(Replay { position, names, flags, frame: Frame::from(frame) });
            return;
        }
        let mut published = self.partial.take().unwrap_or_else(|| {
            let spare = self.spare.pop().unwrap_or_default();
            Published { first: position, ..spare }
        });
        if flags & flags::BARE == 0 {
            published.frames.push(Frame::from(frame));
        }
        if flags & flags::MORE != 0 {
            self.partial = Some(published);
            return;
        }
        // The answer to a read that is under way has it.
        names.split('\n').filter(|name| self.held.is_ready(name)).for_each(|name| published.add_name(name));
        if published.names.is_empty() {
            return;
        }
        self.head = self.head.max(position);
        published.is_transient = flags & flags::TRANSIENT != 0;
        published.closes = flags & flags::CLOSE != 0;
        published.ends = flags & flags::END != 0;
        self.events.push_back(Event::Published(published));
    }
}
