//! A replica that takes the place of its master (docs/protocol.md, section 16), over real servers: in sync, behind it, and
//! with a master that goes on meanwhile.

#![cfg(feature = "redis")]

mod common;

use common::{Answer, Backend, Client, Gateway, Port, Redis, Relay, Stream, assert_json, eventually};
use serde_json::{Value, json};

/// A master and its replica, each behind the address of a gateway.
struct Pair {
    master: Redis,
    replica: Redis,
    /// From the replica to the master.
    link: Relay,
    backend: Backend,
}

/// A gateway with an address of Redis of its own.
struct Node {
    gateway: Gateway,
    relay: Relay,
}

impl Pair {
    fn start() -> Self {
        let (master, replica) = (Redis::start(), Redis::start());
        let backend = Backend::new(|call| Answer::json(&json!({"groups": [&call.url()[1..]]}).to_string()));
        let link = Relay::new(master.port());
        let pair = Self { master, replica, link, backend };
        pair.replica.command(&format!("REPLICAOF 127.0.0.1 {}", pair.link.port));
        pair.wait_for_replica();
        pair
    }

    fn wait_for_replica(&self) {
        self.master.command("INCR written");
        let written = self.master.command("GET written");
        eventually("the replica is in sync", || self.replica.command("GET written") == written);
    }

    fn node(&self) -> Node {
        let relay = Relay::new(self.master.port());
        let url = format!("redis://127.0.0.1:{}", relay.port);
        let gateway = Gateway::for_backend(&self.backend).set("REDIS_URL", url).start();
        let node = Node { gateway, relay };
        eventually("a connection to Redis", || node.is_linked());
        node
    }

    /// The replica becomes the master for these gateways.
    fn promote_for(&self, nodes: &[&Node]) {
        self.replica.command("REPLICAOF NO ONE");
        for node in nodes {
            let before = node.connects();
            node.relay.lead_to(self.replica.port());
            node.relay.cut();
            eventually("it has moved", || node.connects() > before);
        }
    }
}

impl Node {
    fn is_linked(&self) -> bool {
        self.gateway.get("/readyz").text().contains(r#""redis":true"#)
    }

    fn connects(&self) -> usize {
        self.gateway.log().matches("connected to Redis").count()
    }

    #[track_caller]
    fn send(&self, data: &str) -> String {
        let answer = self.gateway.send(&json!({"group": "a", "event": {"data": data}}).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer: Value = serde_json::from_str(answer.text()).unwrap();
        answer["id"].as_str().expect("an id").to_owned()
    }

    fn open(&self) -> Stream {
        let mut stream = self.gateway.open("/a");
        assert!(stream.frame().starts_with("id: "));
        stream
    }

    fn resume(&self, id: &str) -> Stream {
        let request = format!("GET /a HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
        Stream::accept(Client::open(self.gateway.port, request))
    }
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

/// The next event; heartbeats and blocks that are only an id are none.
fn next(stream: &mut Stream) -> String {
    loop {
        let frame = stream.event();
        if frame.contains("\ndata: ") {
            return frame;
        }
    }
}

#[track_caller]
fn assert_gap(stream: &mut Stream) {
    let frame = next(stream);
    assert!(frame.starts_with("event: gap\nid: "), "{frame}");
}

#[test]
fn a_replica_in_sync_has_all_events_and_a_gap_for_every_stream() {
    let mut pair = Pair::start();
    let nodes = [pair.node(), pair.node()];
    let mut streams = [nodes[0].open(), nodes[1].open()];
    let before = nodes[0].send("before");
    for stream in &mut streams {
        assert_eq!(next(stream), event(&before, "before"));
    }
    pair.wait_for_replica();
    pair.master.kill();
    pair.promote_for(&[&nodes[0], &nodes[1]]);
    // Positions go on, and what was kept is there.
    let mut stream = nodes[1].resume(&before);
    assert_gap(&mut stream);
    assert!(next(&mut stream).ends_with("\ndata: before\n\n"));
    streams.iter_mut().for_each(assert_gap);
    let after = nodes[1].send("after");
    for stream in streams.iter_mut().chain([&mut stream]) {
        assert_eq!(next(stream), event(&after, "after"));
    }
}

#[test]
fn what_a_replica_behind_its_master_has_not_got_is_told_as_a_gap() {
    let mut pair = Pair::start();
    let node = pair.node();
    let mut stream = node.open();
    let before = node.send("before");
    assert_eq!(next(&mut stream), event(&before, "before"));
    pair.wait_for_replica();
    let nobody = Port::reserve();
    pair.link.lead_to(nobody.number);
    pair.link.cut();
    let lost = node.send("lost");
    assert_eq!(next(&mut stream), event(&lost, "lost"));
    pair.master.kill();
    pair.promote_for(&[&node]);
    assert_gap(&mut stream);
    let after = node.send("after");
    assert_eq!(next(&mut stream), event(&after, "after"));
    let mut stream = node.resume(&lost);
    assert_gap(&mut stream);
    assert!(next(&mut stream).ends_with("\ndata: before\n\n"));
    assert_eq!(next(&mut stream), event(&after, "after"));
}

#[test]
fn what_a_replaced_master_has_accepted_meanwhile_is_told_as_another_gap() {
    let pair = Pair::start();
    let (moved, left) = (pair.node(), pair.node());
    let mut streams = [moved.open(), left.open()];
    pair.promote_for(&[&moved]);
    assert_gap(&mut streams[0]);
    let unheard = left.send("unheard");
    assert_eq!(next(&mut streams[1]), event(&unheard, "unheard"));
    let meanwhile = moved.send("meanwhile");
    assert_eq!(next(&mut streams[0]), event(&meanwhile, "meanwhile"));
    // The old master becomes a replica, and says so to the next heartbeat.
    pair.master.command(&format!("REPLICAOF 127.0.0.1 {}", pair.replica.port()));
    left.relay.lead_to(pair.replica.port());
    left.gateway.log_line(&["no connection to Redis", "READONLY"]);
    streams.iter_mut().for_each(assert_gap);
    let after = left.send("after");
    for stream in &mut streams {
        assert_eq!(next(stream), event(&after, "after"));
    }
}

#[test]
fn a_gateway_that_is_led_to_a_replica_says_so() {
    let pair = Pair::start();
    let relay = Relay::new(pair.replica.port());
    let url = format!("redis://127.0.0.1:{}", relay.port);
    let gateway = Gateway::for_backend(&pair.backend).set("REDIS_URL", url).start();
    gateway.log_line(&["no connection to Redis", "takes no writes", "REDIS_URL must name the master"]);
    assert_json(&gateway.get("/readyz"), 503, r#"{"status":"not_ready","configured":true,"redis":false}"#);
}
