//! What the gateway asks of Redis.

use super::entries::{flags, id_of, position_of};
use super::held::{Part, Standing};
use super::page::{PAGE_BYTES, Page};
use super::requests::{Kind, Outcome, Serial};
use super::resp::{self, Command, Decimal, Value};
use super::scripts::Script;
use super::state::{Event, Expected, Link, Phase};
use crate::clock::Millis;
use crate::cursor::Position;
use crate::planted;
use crate::sse;
use std::time::Duration;

/// How long a request waits for a connection.
const HELD: Duration = Duration::from_secs(1);
/// The same for one without which a group would never end.
const HELD_PATIENTLY: Duration = Duration::from_secs(60);
/// Between two attempts to tell a gateway something that is registered, but not connected.
const TOLD_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Lists and marks live longer in Redis by so much, so that a step of its clock makes nothing look complete.
const MARGIN: Duration = Duration::from_secs(60);

/// A send to groups. Without events and commands it only asks whom it would reach.
pub(crate) struct Send<'a> {
    pub(crate) names: &'a [&'a str],
    pub(crate) events: &'a [sse::Event<'a>],
    pub(crate) is_transient: bool,
    pub(crate) closes: bool,
    pub(crate) ends: bool,
    /// It waits for a connection for a minute.
    pub(crate) is_patient: bool,
}

impl Link {
    /// Follows a group, unless it is followed already. [`Event::Loaded`] comes when all of it is known.
    pub(crate) fn follow(&mut self, now: Millis, name: &str) {
        if self.held.get(name).is_some() {
            return;
        }
        self.held.set(name, Standing::Unread);
        if let Phase::Syncing | Phase::Live = self.phase {
            let channel = self.names.channel(name);
            // What is sent between the two is lost: only a write that arrives in pieces shows it.
            if planted::is("groups-are-read-before-they-are-subscribed-to") {
                self.want(now, [Box::from(name)]);
                return self.subscribe(&[channel]);
            }
            self.subscribe(&[channel]);
            self.want(now, [Box::from(name)]);
        }
    }

    /// Whether all of a group is known.
    pub(crate) fn is_ready(&self, name: &str) -> bool {
        self.phase == Phase::Live && self.held.is_ready(name)
    }

    /// Nobody here is in a group any more.
    pub(crate) fn unfollow(&mut self, name: &str) {
        if self.held.remove(name)
            && let Phase::Syncing | Phase::Live = self.phase
        {
            let channel = self.names.channel(name);
            resp::write_command(&mut self.out, &[b"UNSUBSCRIBE", channel.as_bytes()]);
            self.sync.forget(name);
        }
    }

    fn submit(&mut self, now: Millis, kind: Kind, script: Option<Script>, command: Command) -> Serial {
        self.submit_until(now, now.after(HELD), kind, script, command)
    }

    fn submit_until(
        &mut self,
        now: Millis,
        until: Millis,
        kind: Kind,
        script: Option<Script>,
        command: Command,
    ) -> Serial {
        let is_full = self.requests.is_full();
        let serial = self.requests.add(until, kind, script, command.arguments, Box::from(&*command.bytes));
        self.command = command;
        self.command.clear();
        if is_full {
            self.requests.take(serial);
            self.events.push_back(Event::Done(serial, Outcome::Unavailable));
        } else if self.is_live() {
            self.write_request(now, serial);
        }
        serial
    }

    pub(super) fn write_request(&mut self, now: Millis, serial: Serial) {
        let Some(request) = self.requests.write(serial) else { return };
        let is_send = matches!(request.kind, Kind::Send { .. });
        let around = if request.script.is_some() { 2 } else { 0 } + usize::from(is_send);
        resp::write_head(&mut self.out, request.arguments + around);
        if let Some(script) = request.script {
            resp::write_argument(&mut self.out, b"EVALSHA");
            resp::write_argument(&mut self.out, self.server.sha(script).as_bytes());
        }
        self.out.extend_from_slice(&request.arguments_bytes);
        if is_send {
            resp::write_argument(&mut self.out, Decimal::of(self.generation).as_bytes());
        }
        self.expected.push_back((now, Expected::Request(serial)));
    }

    /// How long lists and marks live.
    fn lifetime(&self) -> Duration {
        let age = self.limits.age;
        // Silent loss, once the clock of Redis goes wrong by more than the age.
        if age.is_zero() || planted::is("lists-expire-without-a-margin") { age } else { age + MARGIN }
    }

    /// Sends something to groups.
    pub(crate) fn send(&mut self, now: Millis, send: &Send<'_>) -> Serial {
        let is_probe = send.events.is_empty() && !send.closes && !send.ends;
        let bits = [
            (send.is_transient, flags::TRANSIENT),
            (send.closes, flags::CLOSE),
            (send.ends, flags::END),
            (send.events.is_empty(), flags::BARE),
            (is_probe, flags::PROBE),
        ];
        let flags: u32 = bits.into_iter().filter_map(|(is_set, flag)| is_set.then_some(flag)).sum();
        let mut command = std::mem::take(&mut self.command);
        command.push_number(2 + 2 * send.names.len() as u64);
        command.push(self.names.log());
        command.push(&self.own_key);
        for name in send.names {
            command.push_name(self.names.history(name));
            command.push_name(self.names.end(name));
        }
        let (serial, flags) = (Decimal::of(self.requests.next_serial()), Decimal::of(u64::from(flags)));
        command.join([&self.tag, serial.as_bytes(), b".", flags.as_bytes()]);
        command.push(flags.as_bytes());
        command.push_number(self.lifetime().as_millis() as u64);
        command.push_number(self.limits.events.max(1) as u64 + 1);
        command.push(self.names.channels());
        send.names.iter().for_each(|name| command.push(name));
        for event in send.events {
            self.frame.clear();
            event.write(&mut self.frame);
            command.push(&self.frame);
        }
        let held = if send.is_patient { HELD_PATIENTLY } else { HELD };
        self.submit_until(now, now.after(held), Kind::Send { is_probe }, Some(Script::Send), command)
    }

    /// Sends a message to one gateway. One that is only cut off from Redis for a moment gets it, too.
    pub(crate) fn tell(&mut self, now: Millis, gateway: u32, message: &[u8]) -> Serial {
        let channel = self.names.inbox(gateway);
        self.publish(now, Some(gateway), &channel, message)
    }

    /// Sends a message to all gateways that follow a group. It must begin with a letter.
    pub(crate) fn tell_followers(&mut self, now: Millis, group: &str, message: &[u8]) -> Serial {
        let channel = self.names.channel(group);
        self.publish(now, None, &channel, message)
    }

    fn publish(&mut self, now: Millis, gateway: Option<u32>, channel: &str, message: &[u8]) -> Serial {
        let mut command = std::mem::take(&mut self.command);
        command.push("PUBLISH");
        command.push(channel);
        command.push(message);
        self.submit(now, Kind::Tell { gateway }, None, command)
    }

    /// Asks how a group stands.
    pub(crate) fn peek(&mut self, now: Millis, name: &str) -> Serial {
        let mut command = std::mem::take(&mut self.command);
        command.push("3");
        command.push(self.names.log());
        command.push_name(self.names.history(name));
        command.push_name(self.names.end(name));
        // Only the newest event.
        command.push("0");
        command.push_number(self.limits.events.max(1) as u64);
        self.submit(now, Kind::Peek, Some(Script::Read), command)
    }

    /// Asks for what is kept of groups, each behind a position of its own: as much of it as makes a page.
    pub(crate) fn page(&mut self, now: Millis, groups: &[(Box<str>, Position)]) -> Serial {
        let mut command = std::mem::take(&mut self.command);
        command.push_number(1 + groups.len() as u64);
        command.push(self.names.log());
        groups.iter().for_each(|(name, _)| command.push_name(self.names.history(name)));
        command.push_number(self.limits.events.max(1) as u64);
        command.push_number((PAGE_BYTES / groups.len().max(1)) as u64);
        groups.iter().for_each(|(_, behind)| command.push(id_of(*behind)));
        self.submit(now, Kind::Page, Some(Script::Page), command)
    }

    /// Asks whether anything is kept of groups, or any gateway follows them; there is one at least.
    pub(crate) fn alive(&mut self, now: Millis, names: &[&str]) -> Serial {
        let mut command = std::mem::take(&mut self.command);
        command.push_number(2 * names.len() as u64);
        for name in names {
            command.push_name(self.names.history(name));
            command.push_name(self.names.end(name));
        }
        names.iter().for_each(|name| command.push(self.names.channel(name)));
        self.submit(now, Kind::Alive, Some(Script::Alive), command)
    }

    /// Asks for the newest position.
    pub(crate) fn newest(&mut self, now: Millis) -> Serial {
        let mut command = std::mem::take(&mut self.command);
        ["XREVRANGE", self.names.log(), "+", "-", "COUNT", "1"].into_iter().for_each(|part| command.push(part));
        self.submit(now, Kind::Head, None, command)
    }

    /// The answer to a request; `None`: it makes no sense, and the request is doubtful, like all that was written.
    pub(super) fn answered(&mut self, now: Millis, serial: Serial, value: &Value<'_>) -> Option<()> {
        if value.integer() == Some(0)
            && let Some(gateway) = self.requests.rest(now, serial)
        {
            let key = self.names.gateway(gateway);
            self.command(now, Expected::Registered(serial), &[b"EXISTS", key.as_bytes()]);
            return Some(());
        }
        let outcome = match self.requests.kind(serial)? {
            Kind::Send { .. } if value.integer() == Some(0) => Outcome::Ended,
            Kind::Send { is_probe } => {
                let answer = value.bytes()?;
                let (id, gateways) = answer.split_at(memchr::memchr(b' ', answer)?);
                let reached = gateways != b" 0";
                if is_probe {
                    Outcome::Probed(reached)
                } else {
                    // Of its own messages it is not certain that they come before the answer.
                    let position = position_of(id)?;
                    self.newest_sent = self.newest_sent.max(position);
                    Outcome::Sent { position, reached }
                }
            }
            Kind::Tell { .. } => Outcome::Told(usize::try_from(value.integer()?).ok()?),
            Kind::Peek => {
                let [_, _, elements @ ..] = value.elements()? else { return None };
                let part = Part::parse(elements)?;
                Outcome::Peeked(part.entries.last().map(|newest| newest.position), part.is_ended)
            }
            Kind::Page => Outcome::Page(Page::parse(value)?),
            Kind::Alive => Outcome::Alive(value.integer()? == 1),
            Kind::Head => {
                let newest = value.elements()?.first();
                let newest = newest.map_or(Some(0), |entry| position_of(entry.elements()?.first()?.bytes()?))?;
                self.advance(newest);
                Outcome::Head(newest)
            }
        };
        self.requests.take(serial);
        self.events.push_back(Event::Done(serial, outcome));
        Some(())
    }

    /// Nobody has got a message to a gateway. One that is registered may be back in a moment, and so may all others while
    /// Redis has only just come back, perhaps without its data; any other is gone.
    pub(super) fn missed(&mut self, now: Millis, serial: Serial, value: &Value<'_>) -> Option<()> {
        let is_fresh = now.since(self.live_since) < HELD.as_millis() as u64;
        if value.integer()? > 0 || is_fresh {
            self.requests.wake_at(now.after(TOLD_AGAIN_AFTER), serial);
        } else if self.requests.take(serial).is_some() {
            self.events.push_back(Event::Done(serial, Outcome::Told(0)));
        }
        Some(())
    }

    /// A request was refused. Errors: why the connection is of no use.
    pub(super) fn refused(&mut self, serial: Serial, error: String) -> Result<(), String> {
        // All that a script may be refused for comes before its first write; the code may stand in the text of the
        // script's error.
        if error.contains("OOM ") {
            self.requests.take(serial);
            self.events.push_back(Event::Done(serial, Outcome::OutOfMemory));
            return Ok(());
        }
        self.requests.requeue(serial);
        Err(error)
    }
}
