//! A backend that is down for long, in virtual time: how often it is tried, and when its pages come back.

use ssegateway::callback::{Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, ConnectFailure, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use uuid::Uuid;

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

/// Pages that reconnect as the gateway tells them, at a gateway whose backend refuses every callback until it is back.
struct Pages {
    gateway: Gateway,
    now: u64,
    /// When which page connects.
    returns: BinaryHeap<Reverse<(u64, usize)>>,
    pages: HashMap<ConnId, usize>,
    back_at: u64,
    /// The times of all callbacks, and the delays that pages were told with the time of each.
    tries: Vec<u64>,
    told: Vec<(u64, u64)>,
    open: usize,
}

impl Pages {
    fn new(count: usize, connect_failure: ConnectFailure, back_at: u64) -> Self {
        let settings = Settings { connect_failure, ..Settings::default() };
        Self {
            gateway: Gateway::new(settings, Millis::ZERO, 7),
            now: 0,
            returns: (0..count).map(|page| Reverse((page as u64 * 10, page))).collect(),
            pages: HashMap::new(),
            back_at,
            tries: Vec::new(),
            told: Vec::new(),
            open: 0,
        }
    }

    fn at(&self) -> Millis {
        Millis::from_millis(self.now)
    }

    /// Runs until `end`, in steps of 10 ms.
    fn run_until(&mut self, end: u64) {
        while self.now < end {
            self.now += 10;
            while self.returns.peek().is_some_and(|Reverse((at, _))| *at <= self.now) {
                let Some(Reverse((_, page))) = self.returns.pop() else { break };
                let token = Uuid::from_u128(self.now.into());
                let id = self.gateway.accept(self.at(), Listener::Public, Peer::Loopback, token).expect("a connection");
                self.pages.insert(id, page);
                self.gateway.receive(self.at(), id, GET);
            }
            self.gateway.expire(self.at());
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        loop {
            while let Some(id) = self.gateway.next_dirty() {
                self.take(id);
            }
            match self.gateway.next_action() {
                None => return,
                Some(Action::Start(Job::Call(call))) => {
                    self.tries.push(self.now);
                    let outcome = if self.now < self.back_at {
                        Outcome::Unavailable { written: false }
                    } else {
                        Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false }
                    };
                    self.gateway.complete(self.at(), Completion::Called(Called { id: call.id, outcome }));
                }
                Some(Action::ShutdownWrite(id)) => self.gateway.receive_eof(self.at(), id),
                Some(_) => {}
            }
        }
    }

    /// A page reads what is written to it.
    fn take(&mut self, id: ConnId) {
        let text = String::from_utf8_lossy(self.gateway.unsent(id)).into_owned();
        self.gateway.wrote(self.at(), id, text.len());
        let retry = text.split("retry: ").nth(1).and_then(|rest| rest.split('\n').next());
        match retry.and_then(|digits| digits.parse().ok()) {
            Some(delay) => {
                self.told.push((self.now, delay));
                self.returns.push(Reverse((self.now + delay, self.pages[&id])));
            }
            None => self.open += usize::from(text.starts_with("HTTP/1.1 200")),
        }
    }

    fn tries_within(&self, from: u64, to: u64) -> usize {
        self.tries.iter().filter(|at| (from..to).contains(*at)).count()
    }
}

#[test]
fn a_hundred_pages_try_a_dead_backend_at_most_twice_a_second_after_a_minute() {
    let mut pages = Pages::new(100, ConnectFailure::Retry, u64::MAX);
    pages.run_until(300_000);
    for second in 60..300 {
        assert!(pages.tries_within(second * 1000, (second + 1) * 1000) <= 2, "in second {second}");
    }
    // Nor do they come to the gateway more often in the long run.
    let told = pages.told.iter().filter(|(at, _)| *at >= 60_000).count();
    assert!(told <= 2 * 240 + 100, "{told} in 240 s");
}

#[test]
fn the_delay_grows_with_the_outage_over_its_whole_range_up_to_a_minute() {
    let mut pages = Pages::new(100, ConnectFailure::Retry, u64::MAX);
    pages.run_until(300_000);
    let within = |from: u64, to: u64| {
        let delays = pages.told.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, delay)| *delay);
        let delays = Vec::from_iter(delays);
        (delays.iter().min().copied().unwrap(), delays.iter().max().copied().unwrap())
    };
    let (least, most) = within(0, 3000);
    assert!(least >= 2400 && most <= 3600, "{least} to {most}");
    let (_, most) = within(20_000, 30_000);
    assert!((15_000..=30_000).contains(&most), "{most}");
    let (least, most) = within(60_000, 300_000);
    assert!(least < 6_000 && (55_000..=60_000).contains(&most), "{least} to {most}");
}

#[test]
fn the_first_success_ends_it_at_once() {
    let mut pages = Pages::new(100, ConnectFailure::Retry, 120_000);
    pages.run_until(121_000);
    let waiting = pages.open;
    assert!(waiting > 10, "those that wait for their turn get their streams: {waiting}");
    pages.run_until(181_000);
    assert_eq!(pages.open, 100);
    assert!(pages.told.iter().all(|(at, _)| *at < 120_600), "nobody is sent away any more");
}

#[test]
fn errors_are_told_at_once_where_pages_do_not_come_back() {
    let mut pages = Pages::new(0, ConnectFailure::Status, u64::MAX);
    for minute in 0..3 {
        let start = minute * 60_000;
        pages.returns.extend((0..50).map(|page| Reverse((start, page))));
        pages.run_until(start + 1000);
        assert_eq!(pages.tries_within(start, start + 1000), 50);
        pages.run_until(start + 60_000);
    }
}
