//! The limit of memory (contract, section 10), driven by hand in the pure core: what is given up, in which order, and what
//! never is.

use ssegateway::callback::{CallKind, Called, Outcome};
use ssegateway::clock::Millis;
use ssegateway::gateway::{Action, ConnId, Gateway, Listener, Peer, Settings};
use ssegateway::job::{Completion, Job};
use ssegateway::redis::RedisSettings;
use uuid::Uuid;

const LIMIT: u64 = 2_000_000;
const OUT_OF_MEMORY: &str = r#"{"error":"Out of memory"}"#;

/// A gateway, its time, and the number of its connections so far.
struct World {
    gateway: Gateway,
    now: u64,
    connections: u128,
}

impl World {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(redis: Option<RedisSettings>) -> Self {
        let settings = Settings { memory_bytes_max: Some(LIMIT), post_streams: true, redis, ..Settings::default() };
        Self { gateway: Gateway::new(settings, Millis::ZERO, 0), now: 0, connections: 0 }
    }

    fn now(&self) -> Millis {
        Millis::from_millis(self.now)
    }

    /// A client connects and sends.
    fn open(&mut self, bytes: &[u8]) -> ConnId {
        self.connections += 1;
        let token = Uuid::from_u128(self.connections);
        let id = self.gateway.accept(self.now(), Listener::Public, Peer::Loopback, token).expect("a connection");
        self.send(id, bytes);
        id
    }

    /// A client sends; what the gateway writes is taken.
    fn send(&mut self, id: ConnId, bytes: &[u8]) {
        self.gateway.receive(self.now(), id, bytes);
        self.gateway.assert_invariants();
        assert!(self.gateway.memory() < LIMIT, "{} bytes", self.gateway.memory());
    }

    /// What was sent is refused by the kernel of that stream; the answer is taken.
    fn flush(&mut self, stream: ConnId) {
        while let Some(id) = self.gateway.next_dirty() {
            let unsent = self.gateway.unsent(id).len();
            match id == stream {
                true => self.gateway.refused(self.now(), id),
                false => self.gateway.wrote(self.now(), id, unsent),
            }
        }
        self.gateway.assert_invariants();
    }

    /// The answer that waits for a client, from its status on.
    fn answer(&mut self, id: ConnId) -> String {
        let text = String::from_utf8_lossy(self.gateway.unsent(id)).into_owned();
        text.strip_prefix("HTTP/1.1 ").unwrap_or_default().to_owned()
    }

    /// A stream whose request has so many bytes of header fields, or the answer that refuses it.
    fn open_stream(&mut self, bytes: usize) -> Result<(ConnId, Uuid), String> {
        let id = self.open(format!("GET /x HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(bytes)).as_bytes());
        let token = Uuid::from_u128(self.connections);
        let mut actions = std::iter::from_fn(|| self.gateway.next_action());
        let call = actions.find_map(|action| match action {
            Action::Start(Job::Call(call)) if call.kind == CallKind::Connect => Some(call),
            _ => None,
        });
        let Some(call) = call else { return Err(self.answer(id)) };
        let outcome = Outcome::Answered { status: 200, passed: Vec::new(), body: None, in_doubt: false };
        self.gateway.complete(self.now(), Completion::Called(Called { id: call.id, outcome }));
        let head = self.gateway.unsent(id).len();
        self.gateway.wrote(self.now(), id, head);
        self.gateway.assert_invariants();
        Ok((id, token))
    }
}

fn head_of_send(length: usize) -> String {
    format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

fn send(token: Uuid, data: &str) -> String {
    let body = format!(r#"{{"token":"{token}","event":{{"data":"{data}"}}}}"#);
    head_of_send(body.len()) + &body
}

#[test]
fn unfinished_sends_are_refused_the_largest_first_and_a_whole_one_never() {
    let mut world = World::new();
    let (stream, token) = world.open_stream(0).expect("a stream");
    let small = world.open((head_of_send(1_000_000) + &"x".repeat(1_000)).as_bytes());
    let mut large = Vec::new();
    for _ in 0..63 {
        world.now += 1;
        let id = world.open(head_of_send(1_000_000).as_bytes());
        for _ in 0..10 {
            world.send(id, &[b'x'; 50_000]);
        }
        large.push(id);
        let sender = world.open(send(token, "whole").as_bytes());
        assert!(world.answer(sender).starts_with("200 OK"), "{}", world.answer(sender));
    }
    let answers: Vec<String> = large.iter().map(|id| world.answer(*id)).collect();
    let refused = answers.iter().filter(|answer| answer.starts_with("503 ") && answer.ends_with(OUT_OF_MEMORY)).count();
    assert!((59..63).contains(&refused), "{refused} refused");
    let answer = answers[0].to_ascii_lowercase();
    assert!(answer.contains("\r\nretry-after: 5\r\n") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert_eq!(world.answer(small), "", "smaller ones stay");
    assert!(world.gateway.unsent(stream).len() > 63 * 5, "every whole send is delivered");
}

#[test]
fn of_unfinished_heads_the_oldest_are_refused() {
    let mut world = World::new();
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(15_000));
    let heads: Vec<ConnId> = (0..300)
        .map(|_| {
            world.now += 1;
            world.open(head.as_bytes())
        })
        .collect();
    let refused: Vec<bool> = heads.iter().map(|id| world.answer(*id).starts_with("503 ")).collect();
    let first_kept = refused.iter().position(|refused| !refused).expect("some are kept");
    assert!(first_kept > 100 && refused[first_kept..].iter().all(|refused| !refused), "{refused:?}");
}

#[test]
fn the_stream_with_most_unsent_bytes_is_cut_if_that_is_not_enough() {
    let mut world = World::new();
    let streams: Vec<_> = (0..8).map(|_| world.open_stream(0).expect("a stream")).collect();
    let data = "x".repeat(20_000);
    for round in 0..20 {
        for (n, (id, token)) in streams.iter().enumerate() {
            // The first one falls behind more than the others.
            if n == 0 || round % 2 == 0 {
                world.open(send(*token, &data).as_bytes());
                world.flush(*id);
            }
        }
    }
    let alive: Vec<bool> = streams.iter().map(|(id, _)| !world.gateway.unsent(*id).is_empty()).collect();
    assert!(!alive[0] && alive[1..].iter().any(|alive| *alive), "{alive:?}");
}

#[test]
fn clients_that_have_stopped_reading_do_not_keep_out_new_ones() {
    let mut world = World::new();
    let streams: Vec<_> = (0..18).map_while(|_| world.open_stream(0).ok()).collect();
    for (id, token) in &streams {
        world.open(send(*token, "little").as_bytes());
        world.flush(*id);
    }
    // Most of what they use is in the kernel.
    world.gateway.is_short_of_memory(world.now());
    world.open_stream(0).expect_err("they may still be reading");
    world.now += 100;
    // As before each accept.
    world.gateway.is_short_of_memory(world.now());
    let (reader, token) = world.open_stream(0).expect("a stream");
    let sender = world.open(send(token, "x").as_bytes());
    assert!(!world.gateway.unsent(reader).is_empty(), "{}", world.answer(sender));
    let kept = streams.iter().filter(|(id, _)| !world.gateway.unsent(*id).is_empty()).count();
    assert!((8..18).contains(&kept), "{kept} of {} are left", streams.len());
}

#[test]
fn large_requests_of_streams_do_not_keep_out_small_ones() {
    let mut world = World::new();
    let large = (0..200).take_while(|_| world.open_stream(15_000).is_ok()).count();
    assert!((40..80).contains(&large), "{large} with large requests");
    let small = (0..1000).take_while(|_| world.open_stream(700).is_ok()).count();
    assert!(small > 100, "{small} with small requests");
    let refusal = world.open_stream(700).expect_err("there is no more memory");
    assert!(refusal.starts_with("503 ") && refusal.ends_with(OUT_OF_MEMORY), "{refusal}");
}

#[test]
fn history_is_given_up_before_anything_else() {
    let mut world = World::new();
    let sender = world.open(b"");
    let half = world.open(
        format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: 400000\r\n\r\n{}", "x".repeat(300_000))
            .as_bytes(),
    );
    for number in 0..100 {
        let body = format!(r#"{{"group":"g{}","event":{{"data":"{}"}}}}"#, number % 7, "x".repeat(50_000));
        let length = body.len();
        world.send(
            sender,
            format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
        );
        let answer = world.answer(sender);
        assert!(answer.starts_with("200 OK"), "{number}: {answer}");
        world.flush(half);
    }
    // What was begun is still welcome, and the newest events are there.
    world.send(half, "y".repeat(100_000).as_bytes());
    assert!(world.answer(half).starts_with("400 "), "complete, if no JSON");
    assert!(world.gateway.memory() > LIMIT / 2, "{} bytes", world.gateway.memory());
}

#[test]
fn a_posted_stream_is_refused_near_the_limit_as_any_other() {
    let mut world = World::new();
    let post = format!("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
    let answers: Vec<String> = (0..40)
        .map(|_| {
            let id = world.open(post.as_bytes());
            world.answer(id)
        })
        .collect();
    let taken = answers.iter().filter(|answer| answer.is_empty()).count();
    assert!((1..10).contains(&taken), "{taken} asked about");
    assert!(answers[taken..].iter().all(|answer| answer.ends_with(OUT_OF_MEMORY)), "{answers:?}");
}

#[test]
fn a_feed_is_refused_for_the_line_it_has_not_finished_and_never_between_lines() {
    let mut world = World::new();
    let mut groups = 0;
    let mut feed = |kind: &str| {
        groups += 1;
        let target = format!("/internal/send?group={groups}&end=true");
        format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: 9999999\r\n\r\n")
    };
    let line = format!("{{\"event\":{{\"data\":\"{}\"}}}}\n", "x".repeat(1_000));
    let between: Vec<ConnId> = (0..20).map(|_| world.open((feed("application/x-ndjson") + &line).as_bytes())).collect();
    let within: Vec<ConnId> = (0..40)
        .map(|n| {
            world.now += 1;
            let (kind, begin) =
                if n % 2 == 0 { ("application/x-ndjson", "[") } else { ("text/event-stream", "data: ") };
            let id = world.open((feed(kind) + begin).as_bytes());
            world.send(id, &[b'x'; 60_000]);
            id
        })
        .collect();
    let answers: Vec<String> = within.iter().map(|id| world.answer(*id)).collect();
    let refused = answers.iter().filter(|answer| answer.starts_with("503 ")).count();
    assert!((5..40).contains(&refused), "{refused} refused");
    // The largest, and of these the oldest.
    assert!(answers[1].ends_with(r#"{"error":"Out of memory","line":0}"#), "{}", answers[1]);
    let answers: Vec<String> = between.iter().map(|id| world.answer(*id)).collect();
    assert!(answers.iter().all(String::is_empty), "{answers:?}");
}

#[test]
fn sends_that_wait_for_redis_count_and_take_up_only_a_part() {
    let mut world = World::with(Some(RedisSettings::default()));
    let before = world.gateway.memory();
    let body = format!(r#"{{"group":"g","event":{{"data":"{}"}}}}"#, "x".repeat(20_000));
    // Nobody connects it.
    let senders: Vec<ConnId> = (0..40).map(|_| world.open((head_of_send(body.len()) + &body).as_bytes())).collect();
    world.gateway.expire(world.now());
    let answers: Vec<String> = senders.iter().map(|id| world.answer(*id)).collect();
    let waiting = answers.iter().filter(|answer| answer.is_empty()).count();
    assert!(waiting as u64 == LIMIT / 8 / 20_000 + 1, "{waiting} wait");
    let refused = r#"{"error":"Redis unavailable"}"#;
    assert!(answers[waiting..].iter().all(|answer| answer.ends_with(refused)), "{answers:?}");
    let grown = world.gateway.memory() - before;
    assert!(grown > waiting as u64 * 20_000 && grown < LIMIT / 4 + 40 * 4096, "{grown} bytes");
}
