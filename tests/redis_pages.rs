//! What a gateway has dropped for `HISTORY_BYTES` it reads from Redis, page by page, for whoever is owed it
//! (docs/protocol.md, section 16).

#![cfg(feature = "redis")]

mod common;

use common::{Answer, Backend, Builder, Client, Gateway, Redis, Stream, eventually};
use serde_json::{Value, json};
use std::collections::VecDeque;

/// More than one page altogether, and far more than a gateway holds.
const EVENTS: usize = 200;

struct Setup {
    gateways: Vec<Gateway>,
    _backend: Backend,
    redis: Redis,
}

impl Setup {
    fn with(variables: impl Fn(Builder) -> Builder) -> Self {
        Self::over(Redis::start(), variables)
    }

    fn over(redis: Redis, variables: impl Fn(Builder) -> Builder) -> Self {
        // `/a,b?start` is in the groups `a` and `b`, from the beginning.
        let backend = Backend::new(|call| {
            let (path, query) = call.url().split_once('?').unwrap_or((call.url(), ""));
            let mut answer = json!({ "groups": path[1..].split(',').collect::<Vec<&str>>() });
            if query == "start" {
                answer["since"] = json!("start");
            }
            Answer::json(&answer.to_string())
        });
        let builder = || Gateway::for_backend(&backend).set("REDIS_URL", redis.url()).set("HISTORY_EVENTS", 5000);
        let gateways: Vec<Gateway> = (0..2).map(|_| variables(builder().set("HISTORY_BYTES", 5000)).start()).collect();
        for gateway in &gateways {
            eventually("a connection to Redis", || gateway.get("/readyz").text().contains(r#""redis":true"#));
        }
        Self { gateways, _backend: backend, redis }
    }

    /// Sends an event of so many bytes to groups at the first gateway; its frame.
    fn send(&self, groups: &[&str], n: usize, bytes: usize) -> String {
        let data = format!("{n} {}", "x".repeat(bytes));
        let body = json!({"groups": groups, "event": {"data": data}}).to_string();
        let response = self.gateways[0].send(&body);
        let answer: Value = serde_json::from_str(response.text()).expect("an answer");
        format!("id: {}\ndata: {data}\n\n", answer["id"].as_str().expect("an id"))
    }

    /// Events of a kilobyte, to `a`, `b`, both, and another group by turns; the frames of those that `a` and `b` get.
    fn send_many(&self) -> Vec<String> {
        let groups: [&[&str]; 4] = [&["a"], &["b"], &["a", "b"], &["c"]];
        let sent = (0..EVENTS).map(|n| (n, self.send(groups[n % 4], n, 1000)));
        sent.filter(|(n, _)| n % 4 < 3).map(|(_, frame)| frame).collect()
    }

    fn resume(&self, at: usize, target: &str, id: &str) -> Stream {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
        Stream::accept(Client::open(self.gateways[at].port, request))
    }
}

fn id_of(frame: &str) -> &str {
    frame.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id")
}

#[test]
fn a_client_that_comes_back_gets_what_only_redis_has() {
    let setup = Setup::with(|gateway| gateway);
    let mut stream = setup.gateways[0].open("/a,b");
    let start = id_of(&stream.frame()).to_owned();
    let mut frames: VecDeque<String> = setup.send_many().into();
    frames.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    // One gateway has had all of it, the other one begins with what is there now.
    let mut streams = vec![stream];
    for at in 0..2 {
        streams.push(setup.resume(at, "/a,b", &start));
        streams.push(setup.gateways[at].open("/a,b?start"));
    }
    for stream in &mut streams[1..] {
        frames.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    }
    // Halfway, and while more is sent.
    let half: Vec<String> = frames.drain(EVENTS / 3..).collect();
    for at in 0..2 {
        streams.push(setup.resume(at, "/a,b", id_of(&frames[EVENTS / 3 - 1])));
    }
    let live: Vec<String> = (0..50).map(|n| setup.send(&["b"], n, 500)).collect();
    let count = streams.len();
    for stream in &mut streams[count - 2..] {
        half.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    }
    for stream in &mut streams {
        live.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    }
}

#[test]
fn what_redis_has_dropped_is_a_gap() {
    let setup = Setup::with(|gateway| gateway.set("HISTORY_EVENTS", 20));
    let mut stream = setup.gateways[0].open("/a");
    let start = id_of(&stream.frame()).to_owned();
    let frames: Vec<String> = (0..60).map(|n| setup.send(&["a"], n, 1000)).collect();
    frames.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    for at in 0..2 {
        // Twenty are kept.
        let mut stream = setup.resume(at, "/a", id_of(&frames[39]));
        frames[40..].iter().for_each(|frame| assert_eq!(stream.event(), *frame));
        for id in [&*start, id_of(&frames[10])] {
            let mut stream = setup.resume(at, "/a", id);
            let mut got = Vec::new();
            while got.last() != frames.last() {
                got.push(stream.event());
            }
            let gaps = got.iter().filter(|frame| frame.contains("event: gap\n")).count();
            assert_eq!((gaps, got[0].contains("event: gap\n")), (1, true), "{got:?}");
        }
    }
}

#[test]
fn a_member_that_has_got_less_far_than_is_held_reads_on_from_redis() {
    const BYTES: usize = 20_000;
    let setup = Setup::with(|gateway| gateway);
    let mut slow = setup.gateways[1].open("/a");
    slow.client.take_little();
    slow.frame();
    let frames: Vec<String> = (0..EVENTS).map(|n| setup.send(&["a"], n, BYTES)).collect();
    frames.iter().for_each(|frame| assert_eq!(slow.event(), *frame));
    let live = setup.send(&["a"], EVENTS, 10);
    assert_eq!(slow.event(), live);
}

/// It reads, and Redis does not answer for longer than a client may take.
#[test]
fn a_member_that_waits_for_redis_is_not_taken_for_a_slow_one() {
    let times = [("CLIENT_TIMEOUT_SECONDS", 2), ("REDIS_TIMEOUT_SECONDS", 3)];
    let setup = Setup::with(|gateway| times.iter().fold(gateway, |gateway, (name, time)| gateway.set(name, time)));
    let mut slow = setup.gateways[1].open("/a");
    slow.client.take_little();
    slow.frame();
    let mut frames: VecDeque<String> = (0..EVENTS).map(|n| setup.send(&["a"], n, 20_000)).collect();
    frames.drain(..3).for_each(|frame| assert_eq!(slow.event(), frame));
    setup.redis.pause();
    let reader = std::thread::spawn(move || frames.iter().for_each(|frame| assert_eq!(slow.event(), *frame)));
    let has_redis = || setup.gateways[1].get("/readyz").text().contains(r#""redis":true"#);
    eventually("the connection to Redis counts as dead", || !has_redis());
    setup.redis.resume();
    reader.join().expect("the stream goes on");
}

/// Redis closes a connection that has to read more than this at once; far less than its default, and than what is kept.
const LIMIT: &str = "pubsub 3mb 0 0";

/// Sends so many events of so many bytes to some groups, by turns; the frames.
fn send_much(setup: &Setup, groups: &[&str], count: usize, bytes: usize) -> Vec<String> {
    (0..count).map(|n| setup.send(&[groups[n % groups.len()]], n, bytes)).collect()
}

#[test]
fn a_gateway_reads_more_than_redis_lets_it_at_once() {
    let setup = Setup::over(Redis::with(&["--client-output-buffer-limit", LIMIT]), |gateway| gateway);
    let one = send_much(&setup, &["a"], 40, 100_000);
    let names: Vec<String> = (0..50).map(|n| format!("g{n}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let many = send_much(&setup, &names, 200, 20_000);
    let mut streams =
        ["/a?start".to_owned(), format!("/{}?start", names.join(","))].map(|path| setup.gateways[1].open(&path));
    for (stream, frames) in streams.iter_mut().zip([one, many]) {
        frames.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    }
}

#[test]
fn a_gateway_catches_up_with_more_than_redis_lets_it_read_at_once() {
    let setup = Setup::over(Redis::with(&["--client-output-buffer-limit", LIMIT]), |gateway| gateway);
    let names: Vec<String> = (0..50).map(|n| format!("g{n}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let mut streams = ["/a".to_owned(), format!("/{}", names.join(","))].map(|path| setup.gateways[1].open(&path));
    streams.iter_mut().for_each(|stream| drop(stream.frame()));
    // What comes meanwhile is too much: Redis closes the connection of the second gateway.
    common::sys::signal(setup.gateways[1].pid(), common::sys::SIGSTOP);
    let frames = [send_much(&setup, &["a"], 60, 100_000), send_much(&setup, &names, 300, 20_000)];
    common::sys::signal(setup.gateways[1].pid(), common::sys::SIGCONT);
    for (stream, frames) in streams.iter_mut().zip(frames) {
        frames.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
    }
}

/// The log of what was sent is read in parts of a thousand entries.
#[test]
fn a_gateway_catches_up_with_thousands_of_sends() {
    let setup = Setup::with(|gateway| gateway);
    let mut stream = setup.gateways[1].open("/a");
    drop(stream.frame());
    common::sys::signal(setup.gateways[1].pid(), common::sys::SIGSTOP);
    setup.redis.command("CLIENT KILL TYPE pubsub");
    eventually("a connection to Redis", || setup.gateways[0].get("/readyz").text().contains(r#""redis":true"#));
    let frames: Vec<String> = (0..2500).map(|n| setup.send(&["a"], n, 10)).collect();
    common::sys::signal(setup.gateways[1].pid(), common::sys::SIGCONT);
    frames.iter().for_each(|frame| assert_eq!(stream.event(), *frame));
}
