//! Calls in virtual time to a backend of which a part hangs, and to one with few workers, which only looks so.

use super::*;
use crate::callback::Request;
use crate::table::Key;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use uuid::Uuid;

const TIMEOUT_MS: u64 = 5000;
const FAST: &str = "/fast";
const HANGING: &str = "/hanging";

/// A call that has ended: its path, how long it waited before its start, the time of its end, and whether it was answered.
#[derive(Debug)]
struct Report {
    path: String,
    waited_ms: u64,
    ended_at: u64,
    answered: bool,
}

/// The backend takes calls in their order, each by the worker that is free first.
struct Model {
    calls: Calls,
    workers: BinaryHeap<Reverse<u64>>,
    /// The time of a call for a path that starts then.
    service_ms: fn(&str, u64) -> u64,
    now: u64,
    queued: Vec<(CallId, u64)>,
    flying: BinaryHeap<Reverse<(u64, CallId, bool)>>,
    started: Vec<(CallId, String, u64)>,
    ended: Vec<Report>,
    most_in_flight: usize,
}

impl Model {
    fn new(workers: usize, service_ms: fn(&str, u64) -> u64) -> Self {
        let settings = CallSettings {
            concurrency: 128,
            timeout: Duration::from_millis(TIMEOUT_MS),
            spare_dead_backend: false,
            disconnect_retry: Duration::ZERO,
            tell_start: false,
        };
        Self {
            calls: Calls::new(&settings),
            workers: (0..workers).map(|_| Reverse(0)).collect(),
            service_ms,
            now: 0,
            queued: Vec::new(),
            flying: BinaryHeap::new(),
            started: Vec::new(),
            ended: Vec::new(),
            most_in_flight: 0,
        }
    }

    fn at(&self) -> Millis {
        Millis::from_millis(self.now)
    }

    /// Clients connect, or those of accepted streams leave.
    fn queue(&mut self, path: &str, count: usize, lane: Lane) {
        for _ in 0..count {
            let request = Request::from(format!(r#"{{"url":"{path}?x=1","headers":{{}}}}"#));
            let (token, ending) = (Uuid::nil(), EndReason::CLIENT_CLOSED);
            let id = self.calls.queue(match lane {
                Lane::Connects => {
                    let owner = Ok(Key::from_parts(0, 0));
                    Pending::Connect(PendingConnect { token, request, body: None, owner })
                }
                Lane::Disconnects => Pending::Disconnect(PendingDisconnect { token, request, ending }),
            });
            self.queued.push((id, self.now));
        }
    }

    fn connect(&mut self, path: &str, count: usize) {
        self.queue(path, count, Lane::Connects);
    }

    fn start_all(&mut self) {
        while let Some((call, _)) = self.calls.start_next(self.at()) {
            let url = call.request.url();
            let path = url.split('?').next().unwrap_or_default().to_owned();
            let Reverse(free) = self.workers.pop().expect("a worker");
            let begin = free.max(self.now);
            let end = begin + (self.service_ms)(&path, begin);
            // It also works on calls that have timed out.
            self.workers.push(Reverse(end));
            let in_time = end < self.now + TIMEOUT_MS;
            self.flying.push(Reverse((end.min(self.now + TIMEOUT_MS), call.id, in_time)));
            self.started.push((call.id, path, self.now));
            self.most_in_flight = self.most_in_flight.max(self.flying.len());
        }
    }

    fn end_one(&mut self) {
        let Some(Reverse((end, id, answered))) = self.flying.pop() else { return };
        self.now = end;
        let outcome = if answered { super::tests::answered(200) } else { Outcome::TimedOut { written: true } };
        assert!(self.calls.finish(self.at(), id, &outcome).is_some());
        self.calls.assert_invariants();
        let place = self.started.iter().position(|(started, _, _)| *started == id).expect("it has started");
        let (_, path, started_at) = self.started.swap_remove(place);
        let place = self.queued.iter().position(|(queued, _)| *queued == id).expect("it was queued");
        let (_, queued_at) = self.queued.swap_remove(place);
        self.ended.push(Report { path, waited_ms: started_at - queued_at, ended_at: end, answered });
    }

    /// Runs until then; `None`: until every call has ended.
    fn run(&mut self, until: Option<u64>) {
        loop {
            self.start_all();
            let end = self.flying.peek().map(|Reverse((end, _, _))| *end);
            let deadline = self.calls.next_deadline().map(Millis::as_millis);
            let next = [end, deadline].into_iter().flatten().min();
            match next {
                Some(next) if until.is_none_or(|until| next <= until) => {
                    if end == Some(next) {
                        self.end_one();
                    } else {
                        assert!(next > self.now, "a deadline that is ignored");
                        self.now = next;
                    }
                }
                Some(_) | None => break,
            }
        }
        self.now = until.unwrap_or(self.now);
    }

    fn of(&self, path: &str) -> impl Iterator<Item = &Report> {
        self.ended.iter().filter(move |report| report.path == path)
    }
}

/// A backend with a thread for each call.
fn threads(path: &str, _: u64) -> u64 {
    if path == HANGING { 100_000 } else { 20 }
}

#[test]
fn connects_for_another_path_do_not_wait_for_the_timeouts_of_those_that_hang() {
    for (hanging, known) in [(9, false), (50, false), (2000, false), (9, true), (50, true), (300, true)] {
        let mut model = Model::new(10_000, threads);
        if known {
            model.connect(FAST, 1);
            model.run(None);
            model.now = 60_000;
        }
        model.connect(HANGING, hanging);
        model.connect(FAST, 10);
        model.run(Some(model.now + 4900));
        let fast: Vec<u64> = model.of(FAST).map(|report| report.waited_ms).collect();
        let first = fast[usize::from(known)];
        assert!(first <= if known { 500 } else { 1250 }, "{hanging} hang, {known}: {fast:?}");
        // As many as CALLBACK_CONCURRENCY may hang beside them.
        if hanging < 126 {
            assert_eq!(fast.len(), 10 + usize::from(known), "{hanging} hang, {known}");
            assert!(fast.iter().all(|waited| *waited <= first + 1000), "{hanging} hang, {known}: {fast:?}");
        }
    }
}

#[test]
fn calls_that_hang_take_no_place_while_others_are_answered() {
    let mut model = Model::new(10_000, threads);
    // One in five visitors comes to the path that hangs: 100 in the time of a timeout.
    for _ in 0..600 {
        model.connect(FAST, 4);
        model.connect(HANGING, 1);
        model.run(Some(model.now + 50));
    }
    let slowest = model.of(FAST).map(|report| report.waited_ms).max();
    assert!(model.of(FAST).all(|report| report.answered) && slowest < Some(1500), "{slowest:?}");
    let later = model.of(FAST).filter(|report| report.ended_at > 2000).map(|report| report.waited_ms).max();
    assert_eq!(later, Some(0));
    assert!((100..=126).contains(&model.most_in_flight), "{}", model.most_in_flight);
}

#[test]
fn however_many_wait_for_a_path_that_hangs_others_are_answered() {
    let mut model = Model::new(10_000, threads);
    model.connect(HANGING, 2000);
    // They come back as soon as they are refused.
    for _ in 0..120 {
        model.connect(HANGING, 20);
        model.connect(FAST, 3);
        model.run(Some(model.now + 500));
    }
    let mut waits: Vec<u64> = model.of(FAST).map(|report| report.waited_ms).collect();
    waits.sort_unstable();
    assert!(waits.len() >= 357 && waits[waits.len() / 2] < 600 && waits[waits.len() - 1] < 2500, "{waits:?}");
}

#[test]
fn a_backend_that_hangs_as_a_whole_gets_a_few_calls_at_a_time() {
    let mut model = Model::new(10_000, |_, now| if now < 60_000 { 100_000 } else { 20 });
    model.connect(FAST, 1000);
    model.run(Some(60_000));
    assert!(model.ended.len() < 150 && model.most_in_flight <= 40, "{} {}", model.ended.len(), model.most_in_flight);
    // It comes back at once.
    model.run(None);
    let answered = model.ended.iter().filter(|report| report.answered).map(|report| report.ended_at);
    let last = answered.max();
    assert!(last < Some(61_500), "{last:?}");
}

#[test]
fn disconnects_do_not_wait_for_some_that_hang() {
    let mut model = Model::new(10_000, threads);
    model.calls.drain(Millis::NEVER);
    model.queue(HANGING, 20, Lane::Disconnects);
    for _ in 0..48 {
        model.queue(FAST, 9, Lane::Disconnects);
        model.queue(HANGING, 1, Lane::Disconnects);
    }
    model.run(Some(5000));
    let last = model.of(FAST).map(|report| report.ended_at).max();
    assert!(model.of(FAST).count() == 432 && last < Some(4900), "{last:?}");
}

#[test]
fn few_workers_are_not_overloaded_by_calls_that_are_tried() {
    type Service = (u64, fn(&str, u64) -> u64);
    let services: [Service; 4] = [(20, |_, _| 20), (50, |_, _| 50), (200, |_, _| 200), (500, |_, _| 500)];
    for workers in [1, 2, 4, 8, 64] {
        for (time_ms, service_ms) in services {
            let mut model = Model::new(workers as usize, service_ms);
            model.connect(FAST, 600);
            model.run(None);
            let ideal_ms = 600_u64.div_ceil(workers) * time_ms + 2 * time_ms;
            let what = format!("{workers} x {time_ms} ms");
            assert!(model.ended.iter().all(|report| report.answered), "{what}");
            assert!(model.now <= ideal_ms * 115 / 100, "{what}: {} of {ideal_ms} ms", model.now);
        }
    }
}

#[test]
fn few_workers_that_pause_answer_all_calls_in_time() {
    // Every 20 s they do nothing for 2.5 s, as in a migration of their database.
    fn pausing(_: &str, now: u64) -> u64 {
        let in_pause = (now % 20_000).checked_sub(10_000).filter(|since| *since < 2500);
        200 + in_pause.map_or(0, |since| 2500 - since)
    }
    let mut model = Model::new(4, pausing);
    model.connect(FAST, 600);
    model.run(None);
    let lost = model.ended.iter().filter(|report| !report.answered).count();
    assert_eq!(lost, 0);
}

#[test]
fn one_of_a_few_workers_that_hangs_slows_the_others_only_by_its_share() {
    let mut model = Model::new(4, |path, _| if path == HANGING { 100_000 } else { 200 });
    model.connect(FAST, 20);
    model.connect(HANGING, 1);
    model.connect(FAST, 580);
    model.run(None);
    assert!(model.of(FAST).all(|report| report.answered));
    assert!(model.now <= 40_000 * 115 / 100, "{}", model.now);
}
