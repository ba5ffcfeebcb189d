//! Members of groups, with the pure core driven directly: what the kernel accepts, and when, is decided here.

use ssegateway::callback::{Call, CallKind, Called, Detail, Outcome, Reason};
use ssegateway::clock::Millis;
use ssegateway::cursor::Cursor;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, ProcessFigures, Settings, SocketError};
use ssegateway::job::{Completion, Job};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// A gateway, its kernel, and its backend.
struct World {
    gateway: Gateway,
    now: Millis,
    backend: ConnId,
    /// What the kernel has accepted for each connection.
    received: BTreeMap<ConnId, Vec<u8>>,
    /// Connections for which it accepts nothing, and those for which it accepts so many bytes at a time.
    full: Vec<ConnId>,
    /// The most that it accepts at a time.
    write_max: usize,
    calls: Vec<Call>,
    tokens: u128,
}

impl World {
    fn new(settings: Settings) -> Self {
        let now = Millis::from_millis(1_000);
        let mut gateway = Gateway::new(settings, now, 1);
        let backend = gateway.accept(now, Listener::Public, Peer::Loopback, Uuid::nil()).expect("room");
        let (received, full, calls) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { gateway, now, backend, received, full, write_max: 64 * 1024, calls, tokens: 0 }
    }

    /// A stream whose connect is answered with that, and its token.
    fn open(&mut self, answer: &str) -> (ConnId, Uuid) {
        self.tokens += 1;
        let token = Uuid::from_u128(self.tokens);
        let id = self.gateway.accept(self.now, Listener::Public, Peer::Loopback, token).expect("room");
        self.gateway.receive(self.now, id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        self.flush();
        let is_it = |call: &Call| call.token == token;
        let call = self.calls.swap_remove(self.calls.iter().position(is_it).expect("a connect"));
        let body = Some(answer.as_bytes().to_vec());
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body, in_doubt: false };
        self.gateway.complete(self.now, Completion::Called(Called { id: call.id, outcome }));
        (id, token)
    }

    /// The same, once it has its first output, which is forgotten.
    fn open_and_read(&mut self, answer: &str) -> (ConnId, Uuid) {
        let stream = self.open(answer);
        self.carry_out();
        self.received.clear();
        stream
    }

    /// Input from the backend, with the answers to it. Nothing is written to members yet.
    fn say(&mut self, requests: &[(&str, String)]) -> Vec<String> {
        let input: Vec<String> = requests
            .iter()
            .map(|(path, body)| {
                let length = body.len();
                format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}")
            })
            .collect();
        self.gateway.receive(self.now, self.backend, input.concat().as_bytes());
        self.write(self.backend);
        let answers = String::from_utf8(self.received.remove(&self.backend).unwrap_or_default()).expect("text");
        answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned()).collect()
    }

    fn send(&mut self, body: &str) -> String {
        self.say(&[("/internal/send", body.to_owned())]).remove(0)
    }

    fn write(&mut self, id: ConnId) {
        let bytes = self.gateway.unsent(id);
        if bytes.is_empty() {
            self.gateway.wrote(self.now, id, 0);
        } else if self.full.contains(&id) {
            self.gateway.refused(self.now, id);
        } else {
            let count = bytes.len().min(self.write_max);
            self.received.entry(id).or_default().extend_from_slice(&bytes[..count]);
            self.gateway.wrote(self.now, id, count);
        }
    }

    /// The kernel accepts so many bytes for a connection, or all that there are, and then no more.
    fn accept(&mut self, id: ConnId, count: usize) {
        let mut left = count;
        loop {
            let bytes = self.gateway.unsent(id);
            let taken = bytes.len().min(left);
            if taken == 0 {
                return self.gateway.refused(self.now, id);
            }
            self.received.entry(id).or_default().extend_from_slice(&bytes[..taken]);
            self.gateway.wrote(self.now, id, taken);
            left -= taken;
        }
    }

    /// Brings all members up to date, and writes what there is.
    fn carry_out(&mut self) {
        while let Some(id) = self.gateway.next_member(self.now) {
            self.write(id);
        }
        self.flush();
        self.gateway.assert_invariants();
    }

    fn flush(&mut self) {
        loop {
            if let Some(id) = self.gateway.next_dirty() {
                self.write(id);
                while self.gateway.has_unsent(id) && !self.full.contains(&id) {
                    self.write(id);
                }
            } else if let Some(action) = self.gateway.next_action() {
                if let Action::Start(Job::Call(call)) = action {
                    self.calls.push(call);
                }
            } else {
                return;
            }
        }
    }

    /// The kernel accepts as much again as there is.
    fn drain(&mut self, id: ConnId) {
        self.full.retain(|full| *full != id);
        while self.gateway.has_unsent(id) {
            self.write(id);
        }
        self.carry_out();
    }

    /// Time passes; deadlines that are due by then are judged.
    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        while self.gateway.expire(self.now) {
            self.flush();
        }
        self.flush();
    }

    /// The data of all events that the kernel has accepted for a connection.
    fn data(&self, id: ConnId) -> Vec<String> {
        let text = String::from_utf8(self.received.get(&id).cloned().unwrap_or_default()).expect("text");
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| data.trim_end().to_owned()).collect()
    }

    fn has_ended(&self, id: ConnId) -> bool {
        self.received.get(&id).is_some_and(|bytes| bytes.ends_with(b"0\r\n\r\n"))
    }

    /// A sample of the metrics.
    fn sample(&mut self, name: &str) -> u64 {
        let request = b"GET /internal/metrics HTTP/1.1\r\nHost: h\r\n\r\n";
        let id = self.gateway.accept(self.now, Listener::Public, Peer::Loopback, Uuid::nil()).expect("room");
        self.gateway.receive(self.now, id, request);
        let mut actions = std::iter::from_fn(|| self.gateway.next_action());
        let Some(Action::Report(ticket)) = actions.find(|action| matches!(action, Action::Report(_))) else {
            panic!("the figures are not requested");
        };
        self.gateway.report(self.now, ticket, &ProcessFigures::default());
        let text = String::from_utf8_lossy(self.gateway.unsent(id)).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// The reason of the only disconnect that has been made.
    fn disconnect(&mut self) -> Option<(Reason, Option<Detail>)> {
        let call = self.calls.pop()?;
        assert!(self.calls.is_empty(), "several calls");
        match call.kind {
            CallKind::Disconnect { reason, detail } => Some((reason, detail)),
            CallKind::Connect | CallKind::Start => panic!("another call"),
        }
    }
}

fn events(count: usize, bytes: usize) -> String {
    let event = |n| format!(r#"{{"data":"{n} {}"}}"#, "x".repeat(bytes));
    (0..count).map(event).collect::<Vec<_>>().join(",")
}

fn numbers(data: &[String]) -> Vec<usize> {
    data.iter().map(|data| data.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

/// A stream that is to get the events 0 to 2 of its group, and its token.
fn in_replay() -> (World, ConnId, Uuid) {
    let mut world = World::new(history());
    for n in 0..3 {
        world.send(&format!(r#"{{"group":"a","event":{{"data":"{n}"}}}}"#));
    }
    let (id, token) = world.open(r#"{"groups":["a"],"since":"start"}"#);
    (world, id, token)
}

fn history() -> Settings {
    Settings { history_age: Duration::from_secs(300), ..Settings::default() }
}

#[test]
fn a_stream_that_leaves_its_last_group_that_goes_on_ends_with_the_others() {
    for settings in [history(), Settings { history_age: Duration::ZERO, ..Settings::default() }] {
        let mut world = World::new(settings);
        let (id, token) = world.open_and_read(r#"{"groups":["a","b"]}"#);
        assert_eq!(world.send(r#"{"group":"a","event":{"data":"1"},"end":true}"#), "200");
        world.carry_out();
        assert!(!world.has_ended(id));
        let leave = format!(r#"{{"token":"{token}","leave":["b"]}}"#);
        assert_eq!(world.say(&[("/internal/groups", leave)]), ["200"]);
        world.carry_out();
        assert!(world.has_ended(id));
        assert_eq!(world.disconnect(), Some((Reason::ServerClosed, Some(Detail::GroupEnded))));
    }
}

#[test]
fn one_that_leaves_all_its_groups_stays() {
    let mut world = World::new(history());
    let (id, token) = world.open_and_read(r#"{"groups":["a"]}"#);
    world.say(&[("/internal/groups", format!(r#"{{"token":"{token}","leave":["a"]}}"#))]);
    world.send(r#"{"group":"a","end":true}"#);
    assert_eq!(world.send(&format!(r#"{{"token":"{token}","event":{{"data":"1"}}}}"#)), "200");
    world.carry_out();
    assert_eq!((world.data(id), world.has_ended(id)), (vec!["1".to_owned()], false));
}

#[test]
fn a_close_holds_for_a_member_that_leaves_at_once() {
    for is_full in [false, true] {
        let mut world = World::new(history());
        let (id, token) = world.open_and_read(r#"{"groups":["a"]}"#);
        if is_full {
            world.full.push(id);
            world.send(r#"{"group":"a","event":{"data":"0"}}"#);
            world.carry_out();
        }
        let answers = world.say(&[
            ("/internal/send", r#"{"group":"a","event":{"data":"1"},"close":true}"#.to_owned()),
            ("/internal/send", r#"{"group":"a","event":{"data":"2"}}"#.to_owned()),
            ("/internal/groups", format!(r#"{{"token":"{token}","leave":["a"]}}"#)),
            ("/internal/send", format!(r#"{{"token":"{token}","event":{{"data":"3"}}}}"#)),
        ]);
        assert_eq!(answers, ["200", "200", "404", "404"]);
        world.drain(id);
        let data = world.data(id);
        assert_eq!(data, if is_full { vec!["0", "1"] } else { vec!["1"] });
        assert!(world.has_ended(id));
        assert_eq!(world.disconnect(), Some((Reason::ServerClosed, None)));
    }
}

#[test]
fn a_close_ends_those_that_joined_before_it_and_no_others() {
    let mut world = World::new(history());
    let (early, _) = world.open_and_read(r#"{"groups":["a"]}"#);
    world.send(r#"{"group":"a","event":{"data":"1"},"close":true}"#);
    let (middle, _) = world.open(r#"{"groups":["a"]}"#);
    world.send(r#"{"group":"a","event":{"data":"2"},"close":true}"#);
    let (late, _) = world.open(r#"{"groups":["a"]}"#);
    world.send(r#"{"group":"a","event":{"data":"3"}}"#);
    world.carry_out();
    assert_eq!([early, middle, late].map(|id| world.has_ended(id)), [true, true, false]);
    assert_eq!([early, middle, late].map(|id| numbers(&world.data(id))), [vec![1], vec![2], vec![3]]);
}

#[test]
fn disconnects_of_members_that_end_are_made_while_deadlines_are_held() {
    for is_full in [false, true] {
        let mut world = World::new(history());
        let (id, _) = world.open_and_read(r#"{"groups":["a"]}"#);
        if is_full {
            world.full.push(id);
            world.send(r#"{"group":"a","event":{"data":"0"}}"#);
            world.carry_out();
        }
        world.send(r#"{"group":"a","event":{"data":"1"},"close":true}"#);
        world.carry_out();
        if is_full {
            world.drain(id);
        }
        assert_eq!(world.disconnect(), Some((Reason::ServerClosed, None)), "without a call of `expire`");
    }
}

/// A member that is cut for what is sent to it during its replay.
#[test]
fn the_deadline_of_a_stream_that_is_cut_during_its_replay_is_known() {
    let mut world = World::new(Settings { pending_bytes_max: 1_000, ..history() });
    for n in 0..3 {
        world.send(&format!(r#"{{"group":"a","event":{{"data":"{n}"}}}}"#));
    }
    let (id, token) = world.open(r#"{"groups":["a"],"since":"start"}"#);
    world.full.push(id);
    world.carry_out();
    world.pass(Duration::from_secs(1));
    let send = format!(r#"{{"token":"{token}","event":{{"data":"{}"}}}}"#, "x".repeat(2_000));
    assert_eq!([world.send(&send), world.send(&send)], ["200", "500"]);
    world.carry_out();
    assert_eq!(world.disconnect(), Some((Reason::Error, Some(Detail::SlowConsumer))));
}

/// By its reading of the replay.
#[test]
fn a_client_that_reads_its_replay_may_have_four_times_as_much_held_back() {
    const STEP: Duration = Duration::from_millis(500);
    // Whether it reads, how much is sent to its token, and whether that is too much.
    for (reads, kilobytes, is_cut) in [(false, 10, false), (false, 12, true), (true, 38, false), (true, 42, true)] {
        let mut world = World::new(Settings { pending_bytes_max: 10_000, ..history() });
        world.send(&format!(r#"{{"group":"a","events":[{}]}}"#, events(100, 1_000)));
        let (id, token) = world.open(r#"{"groups":["a"],"since":"start"}"#);
        world.full.push(id);
        world.carry_out();
        world.accept(id, 1_000);
        world.pass(2 * STEP);
        let send = |n| format!(r#"{{"token":"{token}","event":{{"data":"{n} {}"}}}}"#, "x".repeat(990));
        let mut answers = Vec::new();
        for n in 100..100 + kilobytes {
            if reads {
                world.accept(id, 300);
            }
            answers.push(world.send(&send(n)));
            world.pass(STEP);
        }
        let what = format!("reads: {reads}, {kilobytes} kB: {answers:?}");
        assert_eq!(answers.iter().any(|answer| answer != "200"), is_cut, "{what}");
        if !is_cut {
            world.drain(id);
            assert_eq!(numbers(&world.data(id)), Vec::from_iter(0..100 + kilobytes), "{what}");
        }
    }
}

#[test]
fn a_long_batch_of_transient_events_comes_whole_if_the_socket_has_room() {
    for settings in [history(), Settings { history_age: Duration::ZERO, ..Settings::default() }] {
        let mut world = World::new(settings);
        let (id, _) = world.open_and_read(r#"{"groups":["a"]}"#);
        for bytes in [1_000, 70_000] {
            let count = 300_000 / bytes;
            world.received.clear();
            let body = format!(r#"{{"group":"a","events":[{}],"transient":true}}"#, events(count, bytes));
            assert_eq!(world.send(&body), "200");
            world.carry_out();
            assert_eq!(numbers(&world.data(id)), Vec::from_iter(0..count));
        }
    }
}

/// Limits of history that a send exceeds by itself.
#[test]
fn a_member_that_reads_gets_what_is_not_kept() {
    let few = || Settings { history_events: 10, ..history() };
    let small = || Settings { history_bytes: 50_000, ..history() };
    for (settings, bytes) in [(few(), 1_000), (few(), 100), (small(), 1_000)] {
        for is_full in [false, true] {
            let mut world = World::new(settings.clone());
            let (id, _) = world.open_and_read(r#"{"groups":["a"]}"#);
            if is_full {
                world.full.push(id);
            }
            assert_eq!(world.send(&format!(r#"{{"group":"a","events":[{}]}}"#, events(200, bytes))), "200");
            world.carry_out();
            world.drain(id);
            assert_eq!(numbers(&world.data(id)), Vec::from_iter(0..200), "{bytes} {is_full}");
        }
    }
}

/// But for no more of it than may be queued for one stream.
#[test]
fn what_is_not_kept_is_queued_as_far_as_it_may_be() {
    let mut world = World::new(Settings { history_events: 10, pending_bytes_max: 100_000, ..history() });
    let (id, _) = world.open_and_read(r#"{"groups":["a"]}"#);
    world.full.push(id);
    world.send(&format!(r#"{{"group":"a","events":[{}]}}"#, events(200, 1_000)));
    world.carry_out();
    world.drain(id);
    assert_eq!(world.disconnect(), Some((Reason::Error, Some(Detail::SlowConsumer))));
    assert_eq!(world.data(id), Vec::<String>::new());
}

#[test]
fn a_drain_writes_what_was_sent_to_a_token_during_a_replay() {
    let (mut world, id, token) = in_replay();
    world.full.push(id);
    world.carry_out();
    assert_eq!(world.send(&format!(r#"{{"token":"{token}","event":{{"data":"7"}}}}"#)), "200");
    world.gateway.shut_down(world.now);
    world.gateway.expire(world.now);
    world.drain(id);
    assert!(world.has_ended(id));
    assert_eq!(numbers(&world.data(id)), [7]);
    // The client has a cursor with which it gets the others elsewhere.
    let text = String::from_utf8_lossy(&world.received[&id]).into_owned();
    let cursor = text.lines().find_map(|line| Cursor::parse(line.strip_prefix("id: ")?.as_bytes()));
    assert_eq!(cursor.map(|cursor| cursor.position), Some(0));
    assert_eq!(world.disconnect(), Some((Reason::ServerClosed, Some(Detail::Shutdown))));
}

#[test]
fn what_is_sent_to_a_token_during_a_replay_comes_behind_it() {
    let (mut world, id, token) = in_replay();
    assert_eq!(world.send(&format!(r#"{{"token":"{token}","event":{{"data":"3"}}}}"#)), "200");
    world.carry_out();
    assert_eq!(numbers(&world.data(id)), [0, 1, 2, 3]);
    let text = String::from_utf8_lossy(&world.received[&id]).into_owned();
    let first = text.split("\r\n\r\n").nth(1).and_then(|body| body.lines().nth(1));
    assert!(first.is_some_and(|line| line.starts_with("id: ")), "the first block has no position: {text}");
}

/// Found by the simulation: it was cut for events that were sent behind its end.
#[test]
fn what_is_dropped_behind_a_close_does_not_cut_a_stream() {
    for close in [r#"{"group":"a","event":{"data":"1"},"close":true}"#, r#"{"group":"a","close":true}"#] {
        let mut world = World::new(Settings { history_events: 2, ..history() });
        let (id, _) = world.open_and_read(r#"{"groups":["a"]}"#);
        world.full.push(id);
        world.send(r#"{"group":"a","event":{"data":"0"}}"#);
        world.carry_out();
        world.send(close);
        world.carry_out();
        // All that is due, without another look.
        world.full.clear();
        while !world.gateway.unsent(id).is_empty() {
            let count = world.gateway.unsent(id).len();
            world.gateway.wrote(world.now, id, count);
            if world.gateway.unsent(id).is_empty() {
                break;
            }
        }
        for n in 2..6 {
            world.send(&format!(r#"{{"group":"a","event":{{"data":"{n}"}}}}"#));
        }
        world.drain(id);
        assert_eq!(world.disconnect(), Some((Reason::ServerClosed, None)));
    }
}

/// Found by the simulation: it lagged for ever, as it had been brought up to the end of its replay only.
#[test]
fn what_is_sent_to_others_during_a_replay_does_not_leave_it_lagging() {
    let mut world = World::new(history());
    world.send(r#"{"group":"a","event":{"data":"0"}}"#);
    let (id, _) = world.open(r#"{"groups":["a"],"since":"start"}"#);
    world.full.push(id);
    world.carry_out();
    world.send(r#"{"group":"b","event":{"data":"1"}}"#);
    world.full.clear();
    // All of it but the last byte, and then that alone.
    let rest = world.gateway.unsent(id).len();
    world.gateway.wrote(world.now, id, rest);
    let rest = world.gateway.unsent(id).len();
    world.gateway.wrote(world.now, id, rest - 1);
    world.gateway.wrote(world.now, id, 1);
    world.write(id);
    world.carry_out();
    world.send(r#"{"group":"a","event":{"data":"2"}}"#);
    world.carry_out();
    assert_eq!(numbers(&world.data(id)), [2]);
}

#[test]
fn streams_that_lag_are_counted_with_the_largest_lag() {
    let mut world = World::new(history());
    let (id, _) = world.open_and_read(r#"{"groups":["a","b"]}"#);
    let (slower, _) = world.open_and_read(r#"{"groups":["a"]}"#);
    let lag =
        |world: &mut World| [world.sample("ssegateway_streams_lagging"), world.sample("ssegateway_lag_events_largest")];
    let send = |world: &mut World, group: &str| {
        world.send(&format!(r#"{{"group":"{group}","event":{{"data":"1"}}}}"#));
        world.carry_out();
    };
    assert_eq!(lag(&mut world), [0, 0]);
    world.full.push(slower);
    send(&mut world, "a");
    send(&mut world, "b");
    assert_eq!(lag(&mut world), [1, 1]);
    world.full.push(id);
    for group in ["a", "b", "b"] {
        send(&mut world, group);
    }
    assert_eq!(lag(&mut world), [2, 3]);
    world.drain(id);
    assert_eq!(lag(&mut world), [1, 2]);
    world.gateway.fail(world.now, slower, SocketError::Reset);
    assert_eq!(lag(&mut world), [0, 0]);
}

#[test]
fn groups_that_are_sent_to_meanwhile_do_not_hold_up_those_before_them() {
    let mut world = World::new(history());
    let streams: Vec<ConnId> =
        (0..40).map(|group| world.open_and_read(&format!(r#"{{"groups":["g{group}"]}}"#)).0).collect();
    let send = |world: &mut World, group: usize| {
        assert_eq!(world.send(&format!(r#"{{"group":"g{group}","event":{{"data":"x"}}}}"#)), "200");
    };
    (0..10).for_each(|group| send(&mut world, group));
    // Two more groups for each member that is written to.
    for visit in 0..10 {
        let id = world.gateway.next_member(world.now).expect("a member");
        world.write(id);
        send(&mut world, 10 + 2 * visit);
        send(&mut world, 11 + 2 * visit);
    }
    let waiting = streams[..10].iter().filter(|id| world.data(**id).is_empty()).count();
    assert_eq!(waiting, 0, "streams of the first groups have nothing yet");
    world.carry_out();
    assert!(streams[..30].iter().all(|id| world.data(*id) == ["x"]));
}

#[test]
fn a_member_that_expires_gets_what_is_on_its_way_to_it_first() {
    for age in [Duration::ZERO, Duration::from_secs(300)] {
        let mut world = World::new(Settings { history_age: age, ..Settings::default() });
        let (id, _) = world.open_and_read(r#"{"groups":["a"],"expires_in":1}"#);
        world.send(r#"{"group":"a","event":{"data":"1"}}"#);
        world.pass(Duration::from_millis(1100));
        world.carry_out();
        assert_eq!((world.data(id), world.has_ended(id)), (vec!["1".to_owned()], true));
        assert_eq!(world.disconnect(), Some((Reason::ServerClosed, Some(Detail::Expired))));
    }
}

#[test]
fn what_is_sent_to_a_token_during_a_replay_comes_before_a_later_close() {
    let (mut world, id, token) = in_replay();
    world.full.push(id);
    world.carry_out();
    assert_eq!(world.send(&format!(r#"{{"token":"{token}","event":{{"data":"3"}}}}"#)), "200");
    world.send(r#"{"group":"a","event":{"data":"4"},"close":true}"#);
    world.carry_out();
    world.drain(id);
    assert_eq!((numbers(&world.data(id)), world.has_ended(id)), (vec![0, 1, 2, 3, 4], true));
    assert_eq!(world.disconnect(), Some((Reason::ServerClosed, None)));
}

#[test]
fn a_member_that_has_lost_events_when_its_group_is_closed_is_cut() {
    let mut world = World::new(Settings { history_age: Duration::from_secs(2), ..Settings::default() });
    let (id, token) = world.open_and_read(r#"{"groups":["a"]}"#);
    world.full.push(id);
    world.send(&format!(r#"{{"token":"{token}","event":{{"data":"t"}}}}"#));
    world.carry_out();
    world.send(r#"{"group":"a","event":{"data":"1"}}"#);
    world.carry_out();
    world.pass(Duration::from_millis(2100));
    world.send(r#"{"group":"a","close":true}"#);
    world.carry_out();
    world.drain(id);
    assert!(!world.has_ended(id), "a clean end, although an event is missing");
    assert_eq!(world.disconnect(), Some((Reason::Error, Some(Detail::SlowConsumer))));
}

#[test]
fn a_member_that_lags_ends_with_its_groups_although_nothing_is_known_of_them_by_then() {
    let mut world = World::new(Settings { history_age: Duration::from_secs(2), ..Settings::default() });
    let (id, token) = world.open_and_read(r#"{"groups":["a"]}"#);
    world.say(&[("/internal/groups", format!(r#"{{"token":"{token}","join":["b"]}}"#))]);
    world.full.push(id);
    world.send(&format!(r#"{{"token":"{token}","event":{{"data":"t"}}}}"#));
    world.carry_out();
    world.send(r#"{"group":"b","event":{"data":"1"}}"#);
    world.carry_out();
    world.send(r#"{"group":"a","end":true}"#);
    world.carry_out();
    world.pass(Duration::from_millis(1500));
    // Keeps what is kept of its group.
    world.send(r#"{"group":"b","event":{"data":"2"}}"#);
    world.carry_out();
    world.pass(Duration::from_millis(1000));
    assert_eq!(world.send(r#"{"group":"a","event":{"data":"3"}}"#), "200", "the group has begun anew");
    world.drain(id);
    assert_eq!((world.data(id).join(" "), world.has_ended(id)), ("t 1".to_owned(), true));
    assert_eq!(world.disconnect(), Some((Reason::ServerClosed, Some(Detail::GroupEnded))));
}

#[test]
fn of_an_end_and_a_close_in_one_batch_the_first_ends_a_member() {
    let end = ("/internal/send", r#"{"group":"a","end":true}"#.to_owned());
    let close = ("/internal/send", r#"{"group":"b","event":{"data":"1"},"close":true}"#.to_owned());
    let ended = (Reason::ServerClosed, Some(Detail::GroupEnded));
    let closed = (Reason::ServerClosed, None);
    for (batch, data, reason) in [([end.clone(), close.clone()], "", ended), ([close, end], "1", closed)] {
        let mut world = World::new(history());
        let (id, token) = world.open_and_read(r#"{"groups":["a"]}"#);
        world.say(&[("/internal/groups", format!(r#"{{"token":"{token}","join":["b"]}}"#))]);
        assert_eq!(world.say(&batch), ["200", "200"]);
        world.carry_out();
        assert_eq!((world.data(id).concat().as_str(), world.has_ended(id)), (data, true));
        assert_eq!(world.disconnect(), Some(reason));
    }
}

/// The chunks of all that the kernel has accepted for a connection.
fn chunks(bytes: &[u8]) -> String {
    let (mut rest, mut text) = (bytes, Vec::new());
    while !rest.is_empty() {
        let line = rest.iter().position(|byte| *byte == b'\r').expect("a size");
        let size = std::str::from_utf8(&rest[..line]).expect("digits");
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no size: {size}"));
        text.extend_from_slice(&rest[line + 2..line + 2 + size]);
        assert_eq!(&rest[line + 2 + size..line + 4 + size], b"\r\n");
        rest = &rest[line + 4 + size..];
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn what_a_full_socket_refuses_of_a_large_event_comes_before_anything_else() {
    const LARGE: usize = 150_000;
    for (accepted, follows) in [(1, 0), (70_000, 1), (149_000, 40)] {
        let mut world = World::new(Settings { pending_bytes_max: 1 << 20, ..history() });
        let streams: Vec<_> = (0..3).map(|_| world.open_and_read(r#"{"groups":["a"]}"#)).collect();
        let event = |data: String| format!(r#"{{"group":"a","event":{{"data":"{data}"}}}}"#);
        assert_eq!(world.send(&event("x".repeat(LARGE))), "200");
        world.write_max = accepted;
        while let Some(id) = world.gateway.next_member(world.now) {
            world.write(id);
            world.full.push(id);
        }
        world.write_max = 64 * 1024;
        for n in 0..follows {
            assert_eq!(world.send(&event(format!("{n}"))), "200");
            world.carry_out();
        }
        for (_, token) in &streams {
            assert_eq!(world.send(&format!(r#"{{"token":"{token}","event":{{"data":"t"}}}}"#)), "200");
        }
        world.carry_out();
        for (id, _) in streams {
            world.drain(id);
            let text = chunks(&world.received[&id]);
            let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            assert_eq!(data[0].len(), LARGE, "{accepted}");
            let mut group: Vec<String> = data[1..].iter().map(|data| (*data).to_owned()).collect();
            let token = group.iter().position(|data| data == "t").expect("the token's event");
            group.remove(token);
            assert_eq!(group, (0..follows).map(|n| n.to_string()).collect::<Vec<_>>(), "{accepted}");
        }
    }
}
