//! The beginning of a connection, and what was missed until then.

use super::entries::{Tag, flags, id_of, ms_of, position_of};
use super::held::{Frame, Loaded, PART_ELEMENTS, Part, Replay, Standing, in_order};
use super::page::Page;
use super::requests::own_sends;
use super::resp::Value;
use super::scripts::{LOG_LENGTH, Script};
use super::settings::Limits;
use super::state::{BACKOFF_MIN, BEAT_INTERVAL, Event, Expected, Link, Phase, REGISTERED, Sync};
use crate::clock::Millis;
use crate::cursor::{Epoch, Position};
use crate::planted;
use log::{error, info};
use std::collections::HashMap;
use std::time::Duration;

/// Entries of the log in one answer: those of sends to many groups are long.
const LOG_AT_ONCE: usize = 1_000;
/// Channels in one command when all are subscribed to.
const SUBSCRIBED_AT_ONCE: usize = 1_000;

impl Link {
    pub(super) fn open(&mut self, now: Millis) {
        self.server.warn_of_policy();
        self.generation += 1;
        let keys = [self.names.meta(), self.names.log().to_owned(), self.own_key.clone(), self.names.trial()];
        let (mut replication, evictions) = self.server.source();
        // A master that lacks the last sends is taken for the one before it.
        if planted::is("epoch-outlives-the-replication") {
            replication = "any".to_owned();
        }
        let arguments = [
            self.next_random().to_string(),
            replication,
            evictions,
            self.limits.age.as_millis().to_string(),
            self.limits.events.to_string(),
            self.generation.to_string(),
            REGISTERED.as_millis().to_string(),
            LOG_LENGTH.to_string(),
            self.names.all(),
            self.sent_to.clone(),
            ms_of(self.newest_sent).to_string(),
        ];
        self.run(now, Expected::Open, Script::Open, &keys, &arguments);
    }

    pub(super) fn opened(&mut self, now: Millis, value: &Value<'_>) -> Option<()> {
        let [epoch, age, events, newest] = value.elements()? else { return None };
        let epoch = parse_epoch(epoch.text()?)?;
        let limits =
            Limits { age: Duration::from_millis(age.text()?.parse().ok()?), events: events.text()?.parse().ok()? };
        let newest = position_of(newest.bytes()?)?;
        if limits != self.limits {
            error!(
                history_seconds = limits.age.as_secs(),
                history_events = limits.events;
                "another gateway has set the limits of history; those hold here as well"
            );
            self.limits = limits;
            self.events.push_back(Event::Limits(limits));
        }
        let is_new_epoch = self.epoch != Some(epoch);
        let was_at = self.sync.behind;
        // In a new epoch nothing can be proved.
        let behind = if is_new_epoch { 0 } else { was_at };
        // Without anything that was known before, what is sent to a group until it is read is in what is read.
        let subscribes = behind == 0;
        self.sync = Sync { behind, newest, subscribes, log_starts_at: Position::MAX, ..Sync::default() };
        if is_new_epoch {
            self.counts.epochs += u64::from(self.epoch.is_some());
            self.epoch = Some(epoch);
            self.head = newest;
            self.held.forget();
            self.events.push_back(Event::Epoch(epoch, newest));
        }
        self.phase = Phase::Syncing;
        let held = self.held.names().filter(|_| !subscribes).map(|name| self.names.channel(name));
        let channels: Vec<String> =
            [self.names.all(), self.names.inbox(self.gateway)].into_iter().chain(held).collect();
        channels.chunks(SUBSCRIBED_AT_ONCE).for_each(|channels| self.subscribe(channels));
        if was_at == 0 {
            // What was read of the log before the connection broke again is lost.
            let results = self.requests.resolve(&HashMap::new(), false);
            self.finish(results);
            self.read_changed(now, |_| true);
            return Some(());
        }
        // The entry of that position itself shows that none behind it was trimmed. Of a send that was in flight, this
        // gateway may have got its own message.
        self.read_log(now, was_at);
        Some(())
    }

    fn read_log(&mut self, now: Millis, from: Position) {
        let (log, from, count) = (self.names.log().to_owned(), id_of(from), LOG_AT_ONCE.to_string());
        let command = [b"XRANGE", log.as_bytes(), from.as_bytes(), b"+", b"COUNT", count.as_bytes()];
        self.command(now, Expected::Log, &command);
    }

    /// What the log says has changed meanwhile.
    pub(super) fn take_log(&mut self, now: Millis, value: &Value<'_>) -> Option<()> {
        let behind = self.sync.behind;
        let entries = value.elements()?;
        let first = match entries.first() {
            Some(first) => position_of(first.elements()?.first()?.bytes()?)?,
            None => Position::MAX,
        };
        // A part begins with the last entry of the one before, unless it has been trimmed meanwhile.
        if first != self.sync.log_ends_at {
            self.sync.log_starts_at = first;
        }
        let mut sends = Vec::new();
        for entry in entries {
            let [id, fields] = entry.elements()? else { return None };
            let position = position_of(id.bytes()?)?;
            self.sync.log_ends_at = position;
            // Others are heartbeats.
            let [_, tag, _, names] = fields.elements()? else { continue };
            let (tag, names) = (Tag::parse(tag.text()?)?, names.text()?);
            sends.push((position, tag));
            if position <= behind {
                continue;
            }
            let command = tag.flags & (flags::CLOSE | flags::END);
            let held = |name: &&str| self.held.get(name) == Some(Standing::Stale);
            let names: Vec<Box<str>> = names.split('\n').filter(held).map(Box::from).collect();
            self.sync.changed.extend(names.iter().cloned());
            if command != 0 && !names.is_empty() {
                let frame = Frame::from(b"".as_slice());
                self.sync.add(Replay { position, names, flags: command | flags::BARE, frame });
            }
        }
        self.sync.own_sends.extend(own_sends(self.gateway, sends.into_iter()));
        if entries.len() >= LOG_AT_ONCE {
            self.read_log(now, self.sync.log_ends_at);
            return Some(());
        }
        let is_whole = self.sync.is_log_whole();
        let (own, changed) = (std::mem::take(&mut self.sync.own_sends), std::mem::take(&mut self.sync.changed));
        let results = self.requests.resolve(&own, is_whole);
        self.finish(results);
        self.read_changed(now, |name| !is_whole || changed.contains(name));
        Some(())
    }

    /// Reads the groups that are not known, and those that have changed.
    fn read_changed(&mut self, now: Millis, has_changed: impl Fn(&str) -> bool) {
        // Silent loss with each broken connection.
        let selected =
            self.held.select(|name| has_changed(name) && !planted::is("resubscribed-groups-are-not-caught-up"));
        self.want(now, selected);
        self.go_live_once_known(now);
    }

    fn go_live_once_known(&mut self, now: Millis) {
        if self.phase == Phase::Syncing && self.has_read_all() {
            self.go_live(now);
        }
    }

    pub(super) fn take_read(&mut self, now: Millis, number: u64, names: &[Box<str>], value: &Value<'_>) -> Option<()> {
        let (newest, rest) = value.elements()?.split_first()?;
        let (time, groups) = rest.split_first()?;
        let newest = position_of(newest.bytes()?)?;
        let now_ms = u64::try_from(time.integer()?).ok()?;
        self.reads_under_way = self.reads_under_way.saturating_sub(1);
        let is_live = self.phase == Phase::Live;
        if is_live {
            self.advance(newest);
        } else {
            self.sync.newest = self.sync.newest.max(newest);
        }
        for (name, elements) in names.iter().zip(groups.chunks_exact(PART_ELEMENTS)) {
            // Nobody may want it any more, or again.
            let Some(Standing::Reading { number: wanted, was_stale }) = self.held.get(name) else { continue };
            if wanted != number {
                continue;
            }
            let part = Part::parse(elements)?;
            if part.is_left_out() {
                self.held.set(name, if was_stale { Standing::Stale } else { Standing::Unread });
                self.unread.push_back(name.clone());
                continue;
            }
            self.held.set(name, Standing::Ready);
            let loaded = part.load(name, now_ms, self.limits);
            if is_live {
                self.events.push_back(Event::Loaded(loaded));
            } else if was_stale {
                self.take_missed(now, newest, &loaded, &part);
            } else {
                // What came meanwhile is in the list.
                self.sync.forget_until(name, newest);
                self.sync.add_loaded(loaded);
            }
        }
        self.read_on(now);
        self.go_live_once_known(now);
        Some(())
    }

    /// More of what this gateway has missed of a group.
    pub(super) fn take_page(&mut self, now: Millis, name: &str, until: Position, value: &Value<'_>) -> Option<()> {
        self.reads_under_way = self.reads_under_way.saturating_sub(1);
        let page = Page::parse(value)?;
        let dropped = page.dropped.first().copied().unwrap_or(0);
        if self.held.get(name).is_some() {
            // The first part may have shown it already.
            if dropped > self.sync.behind && !self.sync.gaps.iter().any(|(known, _)| **known == *name) {
                self.sync.gaps.push((Box::from(name), dropped));
            }
            for event in page.events {
                let (names, frame) = (vec![Box::from(name)], event.frame);
                self.sync.add(Replay { position: event.position, names, flags: 0, frame });
            }
            if page.covers < until {
                self.read_missed(now, name, page.covers, until);
            }
        }
        self.read_on(now);
        self.go_live_once_known(now);
        Some(())
    }

    /// What this gateway has missed of a group.
    fn take_missed(&mut self, now: Millis, newest: Position, loaded: &Loaded, part: &Part<'_>) {
        let (name, behind) = (&*loaded.name, self.sync.behind);
        if loaded.has_gap_behind(behind) {
            // What was kept before looks whole to a client that was away for longer.
            let is_forgotten = planted::is("gaps-are-forgotten-once-they-are-told");
            let until = if is_forgotten { 0 } else { loaded.gap_until() };
            self.sync.gaps.push((Box::from(name), until));
        }
        if loaded.is_ended && !self.sync.is_log_whole() {
            let (names, frame) = (vec![Box::from(name)], Frame::from(b"".as_slice()));
            self.sync.add(Replay { position: newest, names, flags: flags::END | flags::BARE, frame });
        }
        if part.has_more_behind(behind) {
            self.read_missed(now, name, behind, loaded.dropped);
        }
        for entry in part.entries.iter().filter(|entry| entry.position > behind) {
            let (names, frame) = (vec![Box::from(name)], Frame::from(entry.frame));
            // The log knows of closes and ends.
            self.sync.add(Replay { position: entry.position, names, flags: 0, frame });
        }
    }

    /// All that was missed is here, in any order.
    fn go_live(&mut self, now: Millis) {
        let mut sync = std::mem::take(&mut self.sync);
        for loaded in &mut sync.loaded {
            loaded.add_messages(&mut sync.replays);
        }
        sync.replays.retain(|replay| !replay.names.is_empty());
        if sync.behind > 0 {
            self.counts.catch_ups += 1;
        }
        self.events.extend(sync.gaps.into_iter().map(|(name, until)| Event::Gap(name, until)));
        for published in in_order(sync.replays) {
            self.head = self.head.max(published.first);
            self.events.push_back(Event::Published(published));
        }
        self.phase = Phase::Live;
        self.live_since = now;
        self.advance(sync.newest.max(sync.log_ends_at));
        self.events.extend(sync.loaded.into_iter().map(Event::Loaded));
        self.events.push_back(Event::Live);
        self.counts.connects += 1;
        self.backoff = BACKOFF_MIN;
        self.complaint = String::new();
        self.has_been_live = true;
        info!(version = self.server.version(), followed = self.held.len(); "connected to Redis");
        self.beat_at = now.after(BEAT_INTERVAL);
        let (replication, _) = self.server.source();
        if self.sent_to != replication {
            (self.sent_to, self.newest_sent) = (replication, 0);
        }
        for serial in self.requests.queued() {
            self.write_request(now, serial);
        }
    }
}

pub(super) fn parse_epoch(text: &str) -> Option<Epoch> {
    text.parse().ok().map(Epoch::new)
}
