//! Several gateways over Redis (docs/protocol.md, section 16): sending, resuming and looking at any of them.

#![cfg(feature = "redis")]

mod common;

use common::{
    Answer, BUFFERED, Backend, Builder, Call, Client, Gate, Gateway, OK, Redis, Response, Stream, assert_json,
    eventually, get, post, send_request,
};
use serde_json::{Value, json};

/// Answers a connect to `/a,b?...` with the groups `a` and `b`; the query may give `since=` or `attach=` something.
fn by_path() -> Backend {
    Backend::new(|call| {
        let (path, query) = call.url().split_once('?').unwrap_or((call.url(), ""));
        let groups: Vec<&str> = path[1..].split(',').filter(|name| !name.is_empty()).collect();
        let mut answer = json!({ "groups": groups });
        for (name, value) in query.split('&').filter_map(|field| field.split_once('=')) {
            match name {
                "since" => answer["since"] = json!(value),
                "attach" => answer["attach"] = json!(true),
                "event" => answer["event"] = json!({ "data": value }),
                _ => {}
            }
        }
        Answer::json(&answer.to_string())
    })
}

/// Gateways that share one Redis and one backend.
struct Cluster {
    redis: Redis,
    backend: Backend,
    gateways: Vec<Gateway>,
}

impl Cluster {
    fn of(count: usize) -> Self {
        Self::with(count, Redis::start(), |gateway| gateway)
    }

    fn with(count: usize, redis: Redis, variables: impl Fn(Builder) -> Builder) -> Self {
        let backend = by_path();
        let start = |_| variables(Gateway::for_backend(&backend).set("REDIS_URL", redis.url())).start();
        let gateways: Vec<Gateway> = (0..count).map(start).collect();
        let cluster = Self { redis, backend, gateways };
        cluster.wait_for_links();
        cluster
    }

    /// Waits until all are connected to Redis.
    fn wait_for_links(&self) {
        for gateway in &self.gateways {
            eventually("a connection to Redis", || gateway.get("/readyz").text().contains(r#""redis":true"#));
        }
    }

    /// Sends an event to a group at one of the gateways; its id.
    #[track_caller]
    fn send(&self, at: usize, group: &str, data: &str) -> String {
        let answer = answer(&self.gateways[at].send(&json!({"group": group, "event": {"data": data}}).to_string()));
        answer["id"].as_str().expect("an id").to_owned()
    }

    fn open(&self, at: usize, target: &str) -> Stream {
        self.gateways[at].open(target)
    }

    /// Comes back with a last event id.
    fn resume(&self, at: usize, target: &str, id: &str) -> Stream {
        Stream::accept(self.request_with_id(at, target, id))
    }

    fn request_with_id(&self, at: usize, target: &str, id: &str) -> Client {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
        Client::open(self.gateways[at].port, request)
    }
}

#[track_caller]
fn answer(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_str(response.text()).unwrap()
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, error: &str) {
    assert_json(response, status, &json!({ "error": error }).to_string());
}

/// A frame of an event that a group has kept.
fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

/// The id of a frame that is nothing but one.
#[track_caller]
fn bare_id(frame: &str) -> String {
    frame.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("an id alone").to_owned()
}

#[test]
fn a_send_anywhere_reaches_members_everywhere() {
    let cluster = Cluster::of(3);
    let mut streams: Vec<Stream> = (0..3).map(|at| cluster.open(at, "/a")).collect();
    let mut other = cluster.open(1, "/b");
    streams.iter_mut().for_each(|stream| drop(bare_id(&stream.frame())));
    bare_id(&other.frame());
    for at in 0..3 {
        let id = cluster.send(at, "a", &format!("from {at}"));
        for stream in &mut streams {
            assert_eq!(stream.event(), event(&id, &format!("from {at}")));
        }
    }
    let sent = answer(&cluster.gateways[2].send(r#"{"groups":["b","a"],"events":[{"data":"1"},{"data":"2"}]}"#));
    assert_eq!(sent["reached"], true);
    for stream in streams.iter_mut().chain([&mut other]) {
        assert!(stream.event().ends_with("data: 1\n\n"));
        assert_eq!(stream.event(), event(sent["id"].as_str().unwrap(), "2"));
    }
}

#[test]
fn reached_says_whether_any_gateway_has_a_member() {
    let cluster = Cluster::of(2);
    let reached = |body: &str| answer(&cluster.gateways[0].send(body))["reached"].clone();
    assert_eq!(reached(r#"{"group":"a","event":{"data":"x"}}"#), false);
    assert_eq!(reached(r#"{"group":"a"}"#), false);
    let mut stream = cluster.open(1, "/a");
    bare_id(&stream.frame());
    assert_eq!(reached(r#"{"group":"a","event":{"data":"x"}}"#), true);
    assert_eq!(reached(r#"{"group":"a"}"#), true);
    assert_eq!(reached(r#"{"groups":["b","a"]}"#), true);
    drop(stream);
    eventually("the member is gone", || reached(r#"{"group":"a"}"#) == false);
}

#[test]
fn a_client_resumes_at_another_gateway_where_it_left_off() {
    let cluster = Cluster::of(2);
    let mut stream = cluster.open(0, "/a,b");
    bare_id(&stream.frame());
    let seen = cluster.send(1, "a", "seen");
    assert_eq!(stream.event(), event(&seen, "seen"));
    drop(stream);
    let missed = [cluster.send(0, "b", "1"), cluster.send(1, "a", "2"), cluster.send(0, "b", "3")];
    let mut stream = cluster.resume(1, "/a,b", &seen);
    for (id, data) in missed.iter().zip(["1", "2", "3"]) {
        assert_eq!(stream.event(), event(id, data));
    }
    let live = cluster.send(0, "a", "live");
    assert_eq!(stream.event(), event(&live, "live"));
}

#[test]
fn all_that_is_kept_comes_with_since_start() {
    let cluster = Cluster::of(2);
    let ids = ["1", "2", "3"].map(|data| cluster.send(0, "a", data));
    let mut stream = cluster.open(1, "/a?since=start");
    for (id, data) in ids.iter().zip(["1", "2", "3"]) {
        assert_eq!(stream.event(), event(id, data));
    }
}

#[test]
fn a_client_that_leaves_before_its_first_kept_event_comes_back_without_a_gap() {
    let cluster = Cluster::of(2);
    let ids = ["1", "2"].map(|data| cluster.send(0, "a", data));
    let mut stream = cluster.open(0, "/b,a?since=start&event=hello");
    let first = stream.frame();
    let start = first.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\ndata: hello\n\n")).expect("an id");
    drop(stream);
    for at in 0..2 {
        let mut stream = cluster.resume(at, "/b,a?since=start", start);
        for (id, data) in ids.iter().zip(["1", "2"]) {
            assert_eq!(stream.event(), event(id, data));
        }
    }
}

#[test]
fn a_new_client_gets_what_was_sent_since_its_request_and_nothing_before() {
    let redis = Redis::start();
    let url = redis.url();
    let gate = Gate::new();
    let opened = gate.clone();
    let backend = Backend::new(move |_| Answer::json(r#"{"groups":["a"]}"#).after(&opened));
    let start = || Gateway::for_backend(&backend).set("REDIS_URL", &url).start();
    let cluster = Cluster { redis, backend: by_path(), gateways: vec![start(), start()] };
    cluster.wait_for_links();
    cluster.send(0, "a", "before");
    let client = Client::open(cluster.gateways[1].port, get("/"));
    backend.connect("/");
    let id = cluster.send(0, "a", "meanwhile");
    gate.open();
    let mut stream = Stream::accept(client);
    assert_eq!(stream.event(), event(&id, "meanwhile"));
}

#[test]
fn the_end_of_a_group_holds_everywhere() {
    let cluster = Cluster::of(2);
    let mut stream = cluster.open(1, "/a");
    let start = bare_id(&stream.frame());
    let end = cluster.gateways[0].send(r#"{"group":"a","event":{"data":"last"},"end":true}"#);
    let id = answer(&end)["id"].as_str().unwrap().to_owned();
    assert_eq!(stream.event(), event(&id, "last"));
    stream.assert_ended();
    for gateway in &cluster.gateways {
        assert_refused(&gateway.send(r#"{"group":"a","event":{"data":"x"}}"#), 410, "Group has ended");
    }
    let mut stream = cluster.resume(0, "/a", &start);
    assert_eq!(stream.event(), event(&id, "last"));
    stream.assert_ended();
    assert_eq!(cluster.request_with_id(1, "/a", &id).response().status, 204);
    assert_eq!(cluster.gateways[1].get("/nothing?attach=1").status, 204);
}

#[test]
fn a_stream_attaches_to_what_is_at_any_gateway() {
    let cluster = Cluster::of(2);
    assert_nothing_to_attach(&cluster, 1, "a");
    let mut member = cluster.open(0, "/a");
    bare_id(&member.frame());
    // Nothing is kept of the group.
    cluster.gateways[1].send(r#"{"group":"a","event":{"data":"1"},"transient":true}"#);
    assert_eq!(member.event(), "data: 1\n\n");
    let mut attached = cluster.open(1, "/b,a?attach=1");
    bare_id(&attached.frame());
    // It keeps the group alive.
    drop(member);
    eventually("one is gone", || streams(&cluster, "a") == 1);
    let mut last = cluster.open(0, "/a?attach=1");
    bare_id(&last.frame());
    let id = cluster.send(1, "b", "2");
    assert_eq!(attached.event(), event(&id, "2"));
    drop((attached, last));
    // Those that have left are not there any more.
    eventually("all are gone", || streams(&cluster, "a") == 0);
    (0..2).for_each(|at| assert_nothing_to_attach(&cluster, at, "a"));
    // What was kept while nobody was there is there.
    let mut late = cluster.open(0, "/b?attach=1");
    bare_id(&late.frame());
}

#[test]
fn a_stream_attaches_to_what_only_redis_still_has() {
    let cluster = Cluster::with(2, Redis::start(), |gateway| gateway.set("HISTORY_BYTES", 400));
    let id = cluster.send(0, "a", &"x".repeat(1000));
    let mut stream = cluster.open(1, "/a?attach=1&since=start");
    assert_eq!(stream.event(), event(&id, &"x".repeat(1000)));
}

/// The streams in a group at all gateways.
fn streams(cluster: &Cluster, group: &str) -> u64 {
    let look = cluster.gateways[0].get(&format!("/internal/groups?group={group}"));
    answer(&look)["streams"].as_u64().expect("a number")
}

#[track_caller]
fn assert_nothing_to_attach(cluster: &Cluster, at: usize, group: &str) {
    let target = format!("/{group}?attach=1");
    assert_eq!(cluster.gateways[at].get(&target).status, 204);
    let is_it = |call: &Call| call.url() == target && call.detail() == Some("nothing_to_attach");
    assert_eq!(cluster.backend.take("a disconnect", is_it).reason(), "server_closed");
}

#[test]
fn a_token_of_another_gateway_is_answered_by_its_owner() {
    let cluster = Cluster::of(2);
    let (mut stream, token) = cluster.gateways[1].open_with(&cluster.backend, "/");
    assert_eq!(cluster.gateways[0].event(&token, "hello").text(), OK);
    assert_eq!(stream.event(), "data: hello\n\n");
    let change = json!({"token": token, "join": ["a"]}).to_string();
    assert_eq!(cluster.gateways[0].request(post("/internal/groups", &change)).text(), OK);
    cluster.send(0, "a", "joined");
    assert_eq!(stream.event(), "data: joined\n\n");
    assert_eq!(cluster.gateways[0].close(&token).text(), OK);
    stream.assert_ended();
    assert_refused(&cluster.gateways[0].event(&token, "late"), 404, "Token not found");
}

#[test]
fn a_send_to_another_gateways_pending_connect_is_buffered() {
    let redis = Redis::start();
    let url = redis.url();
    let gate = Gate::new();
    let opened = gate.clone();
    let backend = Backend::new(move |_| Answer::json("{}").after(&opened));
    let start = || Gateway::for_backend(&backend).set("REDIS_URL", &url).start();
    let cluster = Cluster { redis, backend: by_path(), gateways: vec![start(), start()] };
    cluster.wait_for_links();
    let client = Client::open(cluster.gateways[1].port, get("/"));
    let token = backend.connect("/").token().to_owned();
    assert_eq!(cluster.gateways[0].event(&token, "early").text(), BUFFERED);
    gate.open();
    assert_eq!(Stream::accept(client).event(), "data: early\n\n");
}

#[test]
fn a_token_of_a_gateway_that_is_gone_is_not_found() {
    let mut cluster = Cluster::of(2);
    let (_stream, token) = cluster.gateways[1].open_with(&cluster.backend, "/");
    drop(cluster.gateways.pop());
    assert_refused(&cluster.gateways[0].event(&token, "x"), 404, "Token not found");
}

#[test]
fn a_gateway_that_does_not_answer_is_a_timeout() {
    let cluster = Cluster::of(2);
    let (_stream, token) = cluster.gateways[1].open_with(&cluster.backend, "/");
    cluster.gateways[1].signal(common::SIGSTOP);
    assert_refused(&cluster.gateways[0].event(&token, "x"), 504, "Gateway timeout");
    let look = answer(&cluster.gateways[0].get("/internal/groups?group=none"));
    assert_eq!(look, json!({"group": "none", "streams": 0, "cursor": null, "ended": false}));
    cluster.gateways[1].signal(common::SIGCONT);
}

#[test]
fn members_are_counted_over_all_gateways() {
    let cluster = Cluster::of(3);
    let mut streams: Vec<Stream> = [0, 1, 1, 2].into_iter().map(|at| cluster.open(at, "/a")).collect();
    streams.iter_mut().for_each(|stream| drop(bare_id(&stream.frame())));
    let id = cluster.send(0, "a", "x");
    let look = |at: usize| answer(&cluster.gateways[at].get("/internal/groups?group=a"));
    for at in 0..3 {
        assert_eq!(look(at), json!({"group": "a", "streams": 4, "cursor": id, "ended": false}));
    }
    cluster.gateways[1].signal(common::SIGSTOP);
    let partial = look(0);
    assert_eq!((&partial["streams"], &partial["complete"]), (&json!(2), &json!(false)));
    cluster.gateways[1].signal(common::SIGCONT);
}

#[test]
fn the_cursor_is_that_of_all_gateways() {
    let cluster = Cluster::of(2);
    let cursor = answer(&cluster.gateways[0].get("/internal/cursor"))["cursor"].as_str().unwrap().to_owned();
    let id = cluster.send(1, "a", "x");
    let mut stream = cluster.resume(0, "/a", &cursor);
    assert_eq!(stream.event(), event(&id, "x"));
    assert_eq!(answer(&cluster.gateways[0].get("/internal/cursor"))["cursor"], json!(id));
}

#[test]
fn clusters_in_two_databases_of_one_redis_know_nothing_of_each_other() {
    let (redis, backend) = (Redis::start(), by_path());
    let start = |database| Gateway::for_backend(&backend).set("REDIS_URL", redis.url() + database).start();
    let gateways = ["/0", "/1", "/2"].map(start);
    for gateway in &gateways {
        eventually("a connection to Redis", || gateway.get("/readyz").text().contains(r#""redis":true"#));
    }
    let mut streams = Vec::new();
    for gateway in &gateways {
        let mut stream = gateway.open("/a,b");
        bare_id(&stream.frame());
        streams.push(stream);
    }
    let empty = answer(&gateways[0].send(r#"{"group":"c","event":{"data":"x"}}"#));
    let _other = gateways[1].open("/c");
    eventually("a member", || gateways[1].get("/internal/groups?group=c").text().contains(r#""streams":1"#));
    let still_empty = answer(&gateways[0].send(r#"{"group":"c","event":{"data":"x"}}"#));
    assert_eq!((&empty["reached"], &still_empty["reached"]), (&json!(false), &json!(false)));
    for target in [json!({"group": "a"}), json!({"groups": ["a", "b"]}), json!({"group": "b"})] {
        for (n, gateway) in gateways.iter().enumerate() {
            let mut send = target.clone();
            send["event"] = json!({ "data": n.to_string() });
            answer(&gateway.send(&send.to_string()));
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            let event = stream.event();
            assert!(event.ends_with(&format!("data: {n}\n\n")), "{event}");
        }
    }
    let ended = gateways[0].send(r#"{"group":"a","end":true}"#);
    assert_eq!(answer(&ended)["reached"], json!(true));
    answer(&gateways[1].send(r#"{"group":"a","event":{"data":"goes on"}}"#));
    assert!(streams[1].event().ends_with("data: goes on\n\n"));
}

#[test]
fn tokens_name_their_gateway_and_are_still_of_version_four() {
    let cluster = Cluster::of(2);
    let tokens: Vec<String> =
        [0, 0, 1].iter().map(|at| cluster.gateways[*at].open_with(&cluster.backend, "/").1).collect();
    assert_eq!(tokens[0][..8], tokens[1][..8]);
    assert_ne!(tokens[0][..8], tokens[2][..8]);
    assert!(tokens.iter().all(|token| &token[14..15] == "4" && "89ab".contains(&token[19..20])));
}

/// The requests to Redis of a gateway that have no answer.
fn waiting(gateway: &Gateway) -> u64 {
    let metrics = gateway.get("/internal/metrics");
    let sample = metrics.text().lines().find_map(|line| line.strip_prefix("ssegateway_redis_requests_waiting "));
    sample.expect("a sample").parse().expect("a number")
}

#[test]
fn pipelined_sends_are_under_way_together_and_answered_in_order() {
    let cluster = Cluster::of(2);
    let mut stream = cluster.open(1, "/a,b");
    bare_id(&stream.frame());
    let token = cluster.backend.connect("/a,b").token().to_owned();
    let elsewhere = json!({"token": token, "event": {"data": "to a token"}}).to_string();
    let own = cluster.gateways[0].open("/c");
    let own_token = cluster.backend.connect("/c").token().to_owned();
    let here = json!({"token": own_token, "event": {"data": "to a token here"}}).to_string();
    let to = |group: &str, data: u32| json!({"group": group, "event": {"data": data.to_string()}}).to_string();
    let mut bodies: Vec<String> = (0..12).map(|n| to(if n % 3 == 0 { "b" } else { "a" }, n)).collect();
    bodies.push(elsewhere);
    bodies.extend((12..16).map(|n| to("a", n)));
    // Behind the first of these, all waits for what is before.
    bodies.push("no JSON".to_owned());
    bodies.push(here);
    bodies.push(to("a", 16));
    let mut sender = cluster.gateways[0].client();
    cluster.redis.pause();
    sender.send(bodies.iter().map(|body| send_request(body)).collect::<String>());
    eventually("all of them are under way", || waiting(&cluster.gateways[0]) == 17);
    cluster.redis.resume();
    let mut ids = Vec::new();
    for (n, body) in bodies.iter().enumerate() {
        let response = sender.response();
        match n {
            12 | 18 => assert_json(&response, 200, OK),
            17 => assert_refused(&response, 400, "Invalid JSON"),
            _ => {
                let id = answer(&response)["id"].as_str().expect("an id").to_owned();
                let data = serde_json::from_str::<Value>(body).unwrap()["event"]["data"].clone();
                ids.push((id, data.as_str().unwrap().to_owned()));
            }
        }
    }
    for (n, (id, data)) in ids.iter().enumerate() {
        if n == 12 {
            assert_eq!(stream.event(), "data: to a token\n\n");
        }
        assert_eq!(stream.event(), event(id, data));
    }
    drop(own);
}

#[test]
fn more_pipelined_sends_than_may_be_under_way_wait_their_turn() {
    let cluster = Cluster::of(1);
    let mut stream = cluster.open(0, "/a");
    bare_id(&stream.frame());
    let bodies = (0..200).map(|n| json!({"group": "a", "event": {"data": n.to_string()}}).to_string());
    let mut sender = cluster.gateways[0].client();
    cluster.redis.pause();
    sender.send(bodies.map(|body| send_request(&body)).collect::<String>());
    // A client that has ended its side still gets all of its answers.
    sender.half_close();
    eventually("many are under way", || waiting(&cluster.gateways[0]) == 64);
    cluster.redis.resume();
    for n in 0..200 {
        let id = answer(&sender.response())["id"].as_str().expect("an id").to_owned();
        assert_eq!(stream.event(), event(&id, &n.to_string()));
    }
    sender.assert_closed();
}
