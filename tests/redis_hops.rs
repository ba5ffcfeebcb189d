//! Clients that move from gateway to gateway while connections to Redis are cut: each event once and in order, and no gap
//! (docs/protocol.md, section 16).

#![cfg(feature = "redis")]

mod common;

use common::{Answer, Backend, Client, Gateway, PATIENCE, Random, Redis, Stream, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const GROUPS: [&str; 5] = ["a", "b", "c", "d", "e"];
const RUN: Duration = Duration::from_secs(8);

/// What was sent, by position: its groups and data.
type Truth = Arc<Mutex<BTreeMap<u64, (Vec<&'static str>, String)>>>;

fn position(id: &str) -> u64 {
    u64::from_str_radix(id.split_once('.').expect("a cursor").1, 36).expect("a position")
}

/// Sends numbered events, to one or several groups, at any gateway.
fn publish(ports: &[u16], seed: u64, truth: &Truth, is_over: &AtomicBool) -> usize {
    let mut random = Random::new(seed);
    let mut refused = 0;
    let mut clients: Vec<Client> = ports.iter().map(|port| Client::connect(*port)).collect();
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let first = random.index(GROUPS.len());
        let groups: Vec<&str> = GROUPS[first..].iter().copied().take(1 + random.index(2)).collect();
        let events: Vec<String> = (0..1 + random.index(3)).map(|part| format!("{seed}-{n}-{part}")).collect();
        let bodies: Vec<Value> = events.iter().map(|data| json!({ "data": data })).collect();
        let mut body = json!({ "events": bodies });
        match groups[..] {
            [group] => body["group"] = json!(group),
            _ => body["groups"] = json!(groups),
        }
        let client = &mut clients[random.index(ports.len())];
        let answer = client.exchange(common::send_request(&body.to_string()));
        if answer.status != 200 {
            assert_eq!(answer.status, 503, "{answer:?}");
            refused += 1;
            continue;
        }
        let answer: Value = serde_json::from_str(answer.text()).expect("an answer");
        let last = position(answer["id"].as_str().expect("an id"));
        let mut truth = truth.lock().unwrap();
        for (position, data) in (last + 1 - events.len() as u64..).zip(events) {
            let known = truth.insert(position, (groups.clone(), data));
            assert!(known.is_none(), "two events at one position");
        }
    }
    refused
}

/// What a client has got, by position, over all its connections.
struct Visitor {
    groups: Vec<&'static str>,
    from: Option<u64>,
    got: BTreeMap<u64, String>,
    hops: usize,
}

impl Visitor {
    fn roam(seed: u64, ports: &[u16], is_over: &AtomicBool) -> Self {
        let mut random = Random::new(seed);
        let first = random.index(GROUPS.len());
        let groups: Vec<&str> = GROUPS[first..].iter().copied().take(1 + random.index(3)).collect();
        let mut visitor = Self { groups, from: None, got: BTreeMap::new(), hops: 0 };
        let mut cursor = String::new();
        while !is_over.load(Ordering::Relaxed) {
            let until = Instant::now() + Duration::from_millis(20 + random.below(400));
            visitor
                .visit(ports[random.index(ports.len())], &mut cursor, |data| data == "over" || Instant::now() >= until);
        }
        if !visitor.got.values().any(|data| data == "over") {
            visitor.visit(ports[0], &mut cursor, |data| data == "over");
        }
        visitor
    }

    fn visit(&mut self, port: u16, cursor: &mut String, mut is_enough: impl FnMut(&str) -> bool) {
        self.hops += 1;
        let id = if cursor.is_empty() { String::new() } else { format!("Last-Event-ID: {cursor}\r\n") };
        let request = format!("GET /{} HTTP/1.1\r\nHost: h\r\n{id}\r\n", self.groups.join(","));
        let mut stream = Stream::accept(Client::open(port, request));
        let began = Instant::now();
        loop {
            let frame = stream.frame();
            let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "nothing but heartbeats behind {cursor}");
            let (id, data) = (field("id: ").to_owned(), field("data: ").to_owned());
            assert!(!frame.contains("event: gap"), "a gap without need after {cursor}: {frame}");
            if !id.is_empty() {
                let at = position(&id);
                let was = if cursor.is_empty() { 0 } else { position(cursor) };
                if data.is_empty() {
                    assert!(at >= was, "{id} after {cursor}");
                    self.from.get_or_insert(at);
                } else {
                    assert!(at > was, "{id} after {cursor}: {data}");
                    self.from.get_or_insert(at - 1);
                    self.got.insert(at, data.clone());
                }
                *cursor = id;
            }
            if is_enough(&data) {
                return;
            }
        }
    }

    fn check(&self, truth: &BTreeMap<u64, (Vec<&'static str>, String)>) -> usize {
        let from = self.from.expect("a first position");
        let granted = |groups: &[&str]| groups.iter().any(|group| self.groups.contains(group));
        let due: Vec<(u64, &String)> = truth
            .range(from + 1..)
            .filter(|(_, (groups, _))| granted(groups))
            .map(|(at, (_, data))| (*at, data))
            .collect();
        for (at, data) in &due {
            assert_eq!(self.got.get(at), Some(*data), "{at} in {:?} is missing", self.groups);
        }
        due.len()
    }
}

#[test]
fn clients_that_hop_while_connections_to_redis_are_cut_miss_nothing() {
    hop(16 << 20);
}

#[test]
fn clients_that_hop_between_gateways_that_hold_little_miss_nothing() {
    hop(3_000);
}

fn hop(history_bytes: usize) {
    let redis = Redis::start();
    let backend = Backend::new(|call| {
        let groups: Vec<&str> = call.url()[1..].split(',').collect();
        Answer::json(&json!({ "groups": groups }).to_string())
    });
    let builder = || Gateway::for_backend(&backend).set("REDIS_URL", redis.url()).set("LOG_LEVEL", "warn");
    let gateways = [(); 3].map(|()| builder().set("HISTORY_BYTES", history_bytes).start());
    for gateway in &gateways {
        eventually("a connection to Redis", || gateway.get("/readyz").text().contains(r#""redis":true"#));
    }
    let ports: Vec<u16> = gateways.iter().map(|gateway| gateway.port).collect();
    let (truth, is_over, is_quiet) = (Truth::default(), AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (1..=2)
            .map(|seed| {
                scope.spawn({
                    let (ports, truth, is_over) = (&ports, &truth, &is_over);
                    move || publish(ports, seed, truth, is_over)
                })
            })
            .collect();
        let visitors: Vec<_> = (100..116)
            .map(|seed| {
                scope.spawn({
                    let (ports, is_quiet) = (&ports, &is_quiet);
                    move || Visitor::roam(seed, ports, is_quiet)
                })
            })
            .collect();
        let began = Instant::now();
        let mut cuts = 0;
        while began.elapsed() < RUN {
            std::thread::sleep(Duration::from_millis(150));
            redis.command("CLIENT KILL TYPE pubsub");
            cuts += 1;
        }
        is_over.store(true, Ordering::Relaxed);
        let refused: usize = publishers.into_iter().map(|publisher| publisher.join().expect("a publisher")).sum();
        is_quiet.store(true, Ordering::Relaxed);
        let last = json!({"groups": GROUPS, "event": {"data": "over"}}).to_string();
        eventually("the last event is sent", || gateways[1].send(&last).status == 200);
        let visitors: Vec<Visitor> = visitors.into_iter().map(|visitor| visitor.join().expect("a visitor")).collect();
        let truth = truth.lock().unwrap();
        let deliveries: usize = visitors.iter().map(|visitor| visitor.check(&truth)).sum();
        let hops: usize = visitors.iter().map(|visitor| visitor.hops).sum();
        println!("{} events, {deliveries} deliveries, {hops} hops, {cuts} cuts, {refused} refused", truth.len());
        assert!(truth.len() > 100 && deliveries > 100 && hops > 100);
    });
}
