//! The end of connections, in the pure core: the last read, and the limit of lingering ones.

use ssegateway::callback::{Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, CloseMode, ConnId, Finished, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use std::collections::VecDeque;
use uuid::Uuid;

const PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
const LAST_PROBE: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
/// More than the budget of one turn.
const CROWD: u128 = 3000;

fn connect(gateway: &mut Gateway, now: Millis) -> ConnId {
    gateway.accept(now, Listener::Public, Peer::Remote, Uuid::nil()).expect("a connection")
}

/// The actions for the owner of the sockets, in order; everything is written at once.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Wrote(ConnId, String),
    Shut(ConnId),
    Closed(ConnId, CloseMode),
}

/// Behaves like the event loop. `unread` is the input found by the last read of a connection.
fn carry_out(gateway: &mut Gateway, now: Millis, unread: &mut VecDeque<(ConnId, &[u8])>) -> Vec<Told> {
    let mut told = Vec::new();
    loop {
        if let Some(id) = gateway.next_dirty() {
            let bytes = gateway.unsent(id).to_vec();
            gateway.wrote(now, id, bytes.len());
            if !bytes.is_empty() {
                told.push(Told::Wrote(id, String::from_utf8(bytes).expect("text")));
            }
            continue;
        }
        match gateway.next_action() {
            Some(Action::ReadLast(id)) => {
                if unread.front().is_some_and(|(owner, _)| *owner == id)
                    && let Some((_, bytes)) = unread.pop_front()
                {
                    gateway.receive(now, id, bytes);
                }
                gateway.end_reading(now, id);
            }
            Some(Action::ShutdownWrite(id)) => told.push(Told::Shut(id)),
            Some(Action::Close(id, mode)) => told.push(Told::Closed(id, mode)),
            Some(Action::StopAccepting | Action::KeepAlive(_)) => {}
            Some(Action::TellFeed(id)) => gateway.tell_feed(now, id),
            Some(
                action
                @ (Action::Start(_) | Action::Report(_) | Action::List | Action::Connect(_) | Action::Disconnect),
            ) => panic!("{action:?}"),
            None => return told,
        }
    }
}

fn settle(gateway: &mut Gateway, now: Millis) -> Vec<Told> {
    carry_out(gateway, now, &mut VecDeque::new())
}

/// A gateway with a crowd of idle connections.
fn crowded() -> Gateway {
    let mut gateway = Gateway::new(Settings::default(), Millis::ZERO, 0);
    for _ in 0..CROWD {
        connect(&mut gateway, Millis::ZERO);
    }
    gateway
}

/// The number of connections that each turn shuts down or closes, until nothing is due.
fn ended_per_turn(gateway: &mut Gateway, now: Millis) -> Vec<usize> {
    let mut turns = Vec::new();
    loop {
        turns.push(settle(gateway, now).len());
        if gateway.next_deadline().is_none_or(|due| due > now) {
            return turns;
        }
        gateway.expire(now);
    }
}

#[test]
fn a_crowd_that_times_out_at_once_does_not_take_one_long_turn() {
    let mut gateway = crowded();
    let late = Millis::from_millis(60_000);
    let turns = ended_per_turn(&mut gateway, late);
    assert!(turns.len() > 2 && turns.iter().all(|ended| *ended <= 2 * 1024), "{turns:?}");
    ended_per_turn(&mut gateway, Millis::from_millis(66_000));
    assert_eq!(gateway.connection_count(), 0);
}

#[test]
fn a_crowd_is_drained_over_several_turns() {
    let mut gateway = crowded();
    gateway.shut_down(Millis::ZERO);
    let turns = ended_per_turn(&mut gateway, Millis::ZERO);
    assert!(turns.len() > 2 && turns.iter().all(|ended| *ended <= 1024), "{turns:?}");
    assert_eq!(gateway.connection_count(), CROWD as usize, "no eviction in a drain");
    assert_eq!(gateway.finished(), None);
    ended_per_turn(&mut gateway, Millis::from_millis(1_100));
    assert_eq!(gateway.connection_count(), 0);
    assert_eq!(gateway.finished(), Some(Finished::Clean));
}

#[test]
fn a_drain_leaves_time_to_read_an_answer() {
    let mut gateway = Gateway::new(Settings::default(), Millis::ZERO, 0);
    let id = connect(&mut gateway, Millis::ZERO);
    gateway.receive(Millis::ZERO, id, PROBE);
    assert_eq!(gateway.next_dirty(), Some(id));
    gateway.wrote(Millis::ZERO, id, 10);
    gateway.shut_down(Millis::ZERO);
    gateway.expire(Millis::ZERO);
    assert_eq!(gateway.next_action(), Some(Action::StopAccepting));
    assert_eq!(gateway.next_action(), Some(Action::ReadLast(id)));
    gateway.end_reading(Millis::ZERO, id);
    assert_eq!(gateway.next_action(), None);

    let rest = gateway.unsent(id).len();
    assert!(rest > 0);
    gateway.wrote(Millis::ZERO, id, rest);
    assert_eq!(gateway.next_action(), Some(Action::ShutdownWrite(id)));
}

#[test]
fn complete_requests_in_the_last_read_are_answered_and_the_rest_refused() {
    let now = Millis::ZERO;
    let both = [PROBE, PROBE, b"GET /heal"].concat();
    for (unread, statuses, closes) in [
        (PROBE, vec!["200"], vec![true]),
        (&both, vec!["200", "200", "503"], vec![false, false, true]),
        (b"GET /heal", vec!["503"], vec![true]),
    ] {
        let mut gateway = Gateway::new(Settings::default(), now, 0);
        let id = connect(&mut gateway, now);
        gateway.shut_down(now);
        let told = carry_out(&mut gateway, now, &mut VecDeque::from([(id, unread)]));
        let [Told::Wrote(_, answers), Told::Shut(_)] = &told[..] else { panic!("{told:?}") };
        let heads: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).collect();
        assert_eq!(heads.iter().map(|head| &head[..3]).collect::<Vec<_>>(), statuses);
        assert_eq!(heads.iter().map(|head| head.contains("Connection: close")).collect::<Vec<_>>(), closes);
    }
}

#[test]
fn a_request_that_crosses_the_idle_timer_keeps_its_connection() {
    let at = Millis::from_millis;
    let mut gateway = Gateway::new(Settings::default(), at(0), 0);
    let id = connect(&mut gateway, at(0));
    gateway.receive(at(0), id, PROBE);
    settle(&mut gateway, at(0));
    gateway.expire(at(75_100));
    let told = carry_out(&mut gateway, at(75_100), &mut VecDeque::from([(id, PROBE)]));
    assert!(matches!(&told[..], [Told::Wrote(_, answer)] if answer.starts_with("HTTP/1.1 200 ")), "{told:?}");
    // An incomplete request gets the usual time.
    gateway.expire(at(150_300));
    assert_eq!(carry_out(&mut gateway, at(150_300), &mut VecDeque::from([(id, &PROBE[..9])])), []);
    gateway.receive(at(150_400), id, &PROBE[9..]);
    assert_eq!(settle(&mut gateway, at(150_400)).len(), 1);
    gateway.expire(at(226_000));
    assert_eq!(settle(&mut gateway, at(226_000)), [Told::Shut(id)]);
}

#[test]
fn a_client_accepted_during_the_drain_is_answered() {
    let now = Millis::ZERO;
    let mut gateway = Gateway::new(Settings::default(), now, 0);
    gateway.shut_down(now);
    let id = connect(&mut gateway, now);
    let told = carry_out(&mut gateway, now, &mut VecDeque::from([(id, PROBE)]));
    assert!(
        matches!(&told[..], [Told::Wrote(_, answer), Told::Shut(_)] if answer.starts_with("HTTP/1.1 200 ")),
        "{told:?}"
    );
}

#[test]
fn input_after_the_last_answer_is_discarded_until_it_ends_or_for_half_a_minute() {
    let at = Millis::from_millis;
    let mut gateway = Gateway::new(Settings::default(), at(0), 0);
    let [silent, busy] = [0, 1].map(|_| connect(&mut gateway, at(0)));
    for id in [silent, busy] {
        gateway.receive(at(0), id, LAST_PROBE);
    }
    settle(&mut gateway, at(0));
    let mut closed = Vec::new();
    for second in 1..40 {
        let now = at(second * 1_000);
        gateway.expire(now);
        for told in settle(&mut gateway, now) {
            let Told::Closed(id, CloseMode::Graceful) = told else { panic!("{told:?}") };
            closed.push((id, second));
        }
        gateway.receive(now, busy, b"more");
        assert_eq!(settle(&mut gateway, now), []);
    }
    assert_eq!(closed, [(silent, 6), (busy, 30)]);
}

#[test]
fn the_connection_that_has_lingered_longest_is_closed_first() {
    /// The limit of lingering connections.
    const LINGERING: usize = 1024;
    let now = Millis::ZERO;
    let mut gateway = Gateway::new(Settings::default(), now, 0);
    let mut ids = Vec::new();
    for _ in 0..LINGERING + 3 {
        let id = connect(&mut gateway, now);
        gateway.receive(now, id, LAST_PROBE);
        let closed: Vec<Told> = settle(&mut gateway, now).split_off(2);
        let oldest = ids.len().checked_sub(LINGERING).map(|place| Told::Closed(ids[place], CloseMode::Graceful));
        assert_eq!(closed, Vec::from_iter(oldest));
        ids.push(id);
    }
    assert_eq!(gateway.connection_count(), LINGERING);
    gateway.assert_invariants();
}

/// Opens a stream and writes only the start of its head.
fn open_stalled_stream(gateway: &mut Gateway, now: Millis, n: u128) -> ConnId {
    let id = gateway.accept(now, Listener::Public, Peer::Remote, Uuid::from_u128(n)).expect("a connection");
    gateway.receive(now, id, b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    let Some(Action::Start(Job::Call(call))) = gateway.next_action() else { panic!("no connect callback") };
    let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
    gateway.complete(now, Completion::Called(Called { id: call.id, outcome }));
    assert_eq!(gateway.next_dirty(), Some(id));
    gateway.wrote(now, id, 10);
    id
}

#[test]
fn a_cut_stream_ends_at_once_in_the_process_and_later_in_the_kernel() {
    let at = Millis::from_millis;
    let mut gateway = Gateway::new(Settings::default(), at(0), 0);
    let [leaves, stays] = [1, 2].map(|n| open_stalled_stream(&mut gateway, at(0), n));
    gateway.expire(at(30_100));
    let mut actions = Vec::from_iter(std::iter::from_fn(|| gateway.next_action()));
    actions.retain(|action| !matches!(action, Action::Start(Job::Call(_))));
    actions.sort_by_key(|action| action != &Action::ShutdownWrite(leaves));
    assert_eq!(actions, [leaves, stays].map(Action::ShutdownWrite));
    assert_eq!([leaves, stays].map(|id| gateway.unsent(id).len()), [0, 0]);
    assert_eq!((gateway.stream_count(), gateway.call_count(), gateway.connection_count()), (0, 2, 2));
    gateway.assert_invariants();
    gateway.receive_eof(at(40_000), leaves);
    assert_eq!(gateway.next_action(), Some(Action::Close(leaves, CloseMode::Graceful)));
    gateway.expire(at(60_000));
    assert_eq!(gateway.next_action(), None);
    gateway.expire(at(60_200));
    assert_eq!(gateway.next_action(), Some(Action::Close(stays, CloseMode::Abort)));
}

#[test]
fn the_oldest_of_too_many_cut_streams_is_reset() {
    /// The limit of cut streams with a socket.
    const CUT: u128 = 128;
    let at = Millis::from_millis;
    let mut gateway = Gateway::new(Settings::default(), at(0), 0);
    for n in 0..CUT + 3 {
        open_stalled_stream(&mut gateway, at(0), n);
    }
    while gateway.expire(at(30_100)) {}
    let actions = std::iter::from_fn(|| gateway.next_action());
    let closed = actions.filter(|action| matches!(action, Action::Close(_, CloseMode::Abort))).count();
    assert_eq!((closed, gateway.connection_count()), (3, CUT as usize));
    gateway.assert_invariants();
}
