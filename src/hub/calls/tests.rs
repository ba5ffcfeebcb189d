use super::*;
use crate::callback::Request;
use crate::table::Key;
use uuid::Uuid;

fn settings(concurrency: usize) -> CallSettings {
    CallSettings {
        concurrency,
        timeout: Duration::from_secs(5),
        spare_dead_backend: false,
        disconnect_retry: Duration::ZERO,
        tell_start: false,
    }
}

fn queue_both(calls: &mut Calls, count: usize) {
    let ending = EndReason::CLIENT_CLOSED;
    for _ in 0..count {
        let (token, request) = (Uuid::nil(), Request::default());
        calls.queue(Pending::Connect(PendingConnect { token, request, body: None, owner: Ok(Key::from_parts(0, 0)) }));
        calls.queue(Pending::Disconnect(PendingDisconnect { token, request: Request::default(), ending }));
    }
}

fn queue_connects(calls: &mut Calls, count: usize) {
    let owner = Ok(Key::from_parts(0, 0));
    for _ in 0..count {
        let (token, request) = (Uuid::nil(), Request::default());
        calls.queue(Pending::Connect(PendingConnect { token, request, body: None, owner }));
    }
}

fn start(calls: &mut Calls) -> Option<(CallId, bool)> {
    calls.start_next(Millis::ZERO).map(|(call, _)| (call.id, call.kind == CallKind::Connect))
}

pub(super) fn answered(status: u16) -> Outcome {
    Outcome::Answered { status, passed: Vec::new(), body: None, in_doubt: false }
}

/// With a backend that has been seen to take `limit` calls at once.
fn at_limit(limit: usize) -> Calls {
    let mut calls = Calls::new(&settings(limit));
    while calls.limit() < limit {
        let count = calls.limit();
        queue_connects(&mut calls, count);
        let started = Vec::from_iter(std::iter::from_fn(|| start(&mut calls)));
        for (id, _) in started {
            calls.finish(Millis::ZERO, id, &answered(200));
        }
    }
    while let Some((id, _)) = start(&mut calls) {
        calls.finish(Millis::ZERO, id, &answered(500));
    }
    calls
}

#[test]
fn a_flood_in_one_lane_leaves_the_other_moving() {
    for limit in [1, 2, 16, 128, 1000] {
        let mut calls = at_limit(limit);
        queue_connects(&mut calls, 2 * limit);
        let mut flying = VecDeque::new();
        while let Some((id, connect)) = start(&mut calls) {
            assert!(connect);
            flying.push_back(id);
        }
        // All except the places reserved for the others.
        assert_eq!(limit - flying.len(), if limit == 1 { 0 } else { (limit / 64).max(1) });
        queue_both(&mut calls, 2 * limit);
        let mut disconnects = 0;
        for _ in 0..2 * limit {
            while let Some((id, connect)) = start(&mut calls) {
                flying.push_back(id);
                disconnects += usize::from(!connect);
            }
            assert_eq!(flying.len(), limit);
            assert!(disconnects > 0 || limit == 1);
            // The limit does not change.
            calls.finish(Millis::ZERO, flying.pop_front().unwrap(), &answered(500));
        }
        assert!(disconnects >= limit && disconnects <= limit + limit.div_ceil(64), "{disconnects} of {}", 2 * limit);
    }
}

#[test]
fn withdrawn_connects_are_passed_over_and_do_not_pile_up() {
    let mut calls = Calls::new(&settings(2));
    let left = EndReason::CLIENT_CLOSED;
    let connect = |calls: &mut Calls, slot| {
        let owner = Ok(Key::from_parts(slot, 0));
        let (token, request) = (Uuid::nil(), Request::default());
        calls.queue(Pending::Connect(PendingConnect { token, request, body: None, owner }))
    };
    let start = |calls: &mut Calls| calls.start_next(Millis::ZERO).and_then(|(_, owner)| owner);
    let first = connect(&mut calls, 0);
    assert_eq!(start(&mut calls), Some(Key::from_parts(0, 0)));
    for slot in 1..10_000 {
        let id = connect(&mut calls, slot);
        calls.abandon(id, left);
        assert!(calls.lanes[0].waiting.len() <= WITHDRAWN_MAX + 1);
        assert_eq!(calls.len(), 1, "the one in flight");
    }
    connect(&mut calls, 10_000);
    assert!(start(&mut calls).is_none(), "one worker is kept for disconnects");
    assert!(calls.finish(Millis::ZERO, first, &answered(200)).is_some());
    assert_eq!(start(&mut calls), Some(Key::from_parts(10_000, 0)));
    assert_eq!((calls.lanes[0].waiting.len(), calls.lanes[0].withdrawn), (0, 0));
}
