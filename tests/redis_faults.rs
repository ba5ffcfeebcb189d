//! Redis that goes away, comes back, or does less than it should (docs/protocol.md, section 16).

#![cfg(feature = "redis")]

mod common;

use common::{
    Answer, Backend, Builder, Client, Gateway, OK, Port, Redis, Relay, Response, Stream, assert_json, eventually, get,
    run,
};
use serde_json::{Value, json};

fn by_path() -> Backend {
    Backend::new(|call| {
        let path = call.url().split('?').next().unwrap_or_default();
        let groups: Vec<&str> = path[1..].split(',').filter(|name| !name.is_empty()).collect();
        Answer::json(&json!({ "groups": groups }).to_string())
    })
}

fn start(backend: &Backend, redis: &Redis, variables: impl Fn(Builder) -> Builder) -> Gateway {
    variables(Gateway::for_backend(backend).set("REDIS_URL", redis.url())).start()
}

fn is_linked(gateway: &Gateway) -> bool {
    gateway.get("/readyz").text().contains(r#""redis":true"#)
}

fn linked(backend: &Backend, redis: &Redis) -> Gateway {
    let gateway = start(backend, redis, |gateway| gateway.set("REDIS_TIMEOUT_SECONDS", 1));
    eventually("a connection to Redis", || is_linked(&gateway));
    gateway
}

fn event_to(group: &str, data: &str) -> String {
    json!({"group": group, "event": {"data": data}}).to_string()
}

#[track_caller]
fn sent(gateway: &Gateway, group: &str, data: &str) -> String {
    let answer = gateway.send(&event_to(group, data));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: Value = serde_json::from_str(answer.text()).unwrap();
    answer["id"].as_str().expect("an id").to_owned()
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, error: &str) {
    assert_json(response, status, &json!({ "error": error }).to_string());
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

#[track_caller]
fn bare_id(frame: &str) -> String {
    frame.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("an id alone").to_owned()
}

fn resume(gateway: &Gateway, target: &str, id: &str) -> Stream {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
    Stream::accept(Client::open(gateway.port, request))
}

#[test]
fn a_cut_connection_loses_nothing() {
    let (redis, backend) = (Redis::start(), by_path());
    let (one, two) = (linked(&backend, &redis), linked(&backend, &redis));
    let mut streams = [one.open("/a,b"), two.open("/b"), two.open("/c")];
    streams.iter_mut().for_each(|stream| drop(bare_id(&stream.frame())));
    let mut last = String::new();
    for round in 0..10 {
        let first = sent(&one, "b", &format!("before {round}"));
        redis.command("CLIENT KILL TYPE pubsub");
        let second = sent(&two, "b", &format!("after {round}"));
        for stream in &mut streams[..2] {
            assert_eq!(stream.event(), event(&first, &format!("before {round}")));
            assert_eq!(stream.event(), event(&second, &format!("after {round}")));
        }
        last = second;
    }
    let mut stream = resume(&two, "/b", &last);
    assert_eq!(bare_id(&stream.frame()), last);
    let id = sent(&one, "c", "others too");
    assert_eq!(streams[2].event(), event(&id, "others too"));
}

#[test]
fn a_gateway_that_is_cut_off_for_a_moment_still_gets_what_is_for_its_tokens() {
    let (redis, backend) = (Redis::start(), by_path());
    let (one, two) = (linked(&backend, &redis), linked(&backend, &redis));
    let (mut stream, token) = two.open_with(&backend, "/");
    // Now one of them is back first, now the other.
    for round in 0..20 {
        redis.command("CLIENT KILL TYPE pubsub");
        let answer = one.event(&token, &round.to_string());
        // It may have been on its way when the connection broke.
        if answer.status != 503 {
            assert_eq!(answer.text(), OK);
            assert_eq!(stream.event(), format!("data: {round}\n\n"));
        }
    }
}

#[test]
fn while_redis_is_away_streams_and_own_tokens_go_on_and_group_sends_are_refused() {
    let (mut redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    let (mut member, token) = gateway.open_with(&backend, "/a");
    bare_id(&member.frame());
    redis.kill();
    eventually("the gateway notices", || !is_linked(&gateway));
    assert_eq!(gateway.get("/readyz").text(), r#"{"status":"ready","configured":true,"redis":false}"#);
    let refused = gateway.send(&event_to("a", "x"));
    assert_refused(&refused, 503, "Redis unavailable");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(gateway.event(&token, "own").text(), OK);
    assert_eq!(member.event(), "data: own\n\n");
    let (mut late, token) = gateway.open_with(&backend, "/b");
    assert_eq!(gateway.event(&token, "early").text(), OK);
    assert_eq!(late.event(), "data: early\n\n");
    redis.run();
    eventually("Redis is back", || is_linked(&gateway));
    bare_id(&late.frame());
    let id = sent(&gateway, "b", "late");
    assert_eq!(late.event(), event(&id, "late"));
}

#[test]
fn a_send_waits_a_moment_for_redis() {
    let (mut redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    redis.kill();
    eventually("the gateway notices", || !is_linked(&gateway));
    let mut client = gateway.client();
    client.send(common::send_request(&event_to("a", "x")));
    redis.run();
    assert_eq!(client.response().status, 200);
}

#[test]
fn data_that_are_gone_are_a_gap_on_every_stream() {
    let (mut redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    let mut streams = [gateway.open("/a"), gateway.open("/b")];
    let start = bare_id(&streams[0].frame());
    bare_id(&streams[1].frame());
    sent(&gateway, "a", "lost");
    streams[0].event();
    redis.kill();
    eventually("the gateway notices", || !is_linked(&gateway));
    redis.run();
    eventually("Redis is back", || is_linked(&gateway));
    for stream in &mut streams {
        let frame = stream.event();
        assert!(frame.starts_with("event: gap\nid: ") && frame.ends_with("\ndata: \n\n"), "{frame}");
    }
    let id = sent(&gateway, "a", "new");
    assert_eq!(streams[0].event(), event(&id, "new"));
    let mut stream = resume(&gateway, "/a", &start);
    assert!(stream.event().starts_with("event: gap\n"));
    assert_eq!(stream.event(), event(&id, "new"));
}

#[test]
fn a_restart_with_a_log_keeps_the_events_but_proves_nothing() {
    // By default Redis answers before it has written, while a slow disk is still busy with an earlier write.
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "no"]);
    let backend = by_path();
    let gateway = linked(&backend, &redis);
    let id = sent(&gateway, "a", "kept");
    redis.kill();
    redis.run();
    eventually("Redis is back", || gateway.log().matches("connected to Redis").count() == 2);
    let mut stream = resume(&gateway, "/a", &id);
    assert!(stream.event().starts_with("event: gap\n"));
    assert!(stream.event().ends_with("data: kept\n\n"));
}

#[test]
fn a_stalled_redis_is_left_after_its_time_and_the_send_is_found_out_about() {
    let (redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    let mut stream = gateway.open("/a");
    bare_id(&stream.frame());
    redis.pause();
    let mut client = gateway.client();
    client.send(common::send_request(&event_to("a", "once")));
    eventually("the gateway gives up", || !is_linked(&gateway));
    redis.resume();
    let answer = client.response();
    let frame_or_refusal = match answer.status {
        200 => {
            let answer: Value = serde_json::from_str(answer.text()).unwrap();
            Some(event(answer["id"].as_str().expect("an id"), "once"))
        }
        _ => {
            assert_refused(&answer, 503, "Redis unavailable");
            None
        }
    };
    eventually("Redis is back", || is_linked(&gateway));
    let id = sent(&gateway, "a", "twice");
    if let Some(frame) = frame_or_refusal {
        assert_eq!(stream.event(), frame);
    }
    assert_eq!(stream.event(), event(&id, "twice"));
}

#[test]
fn an_answer_that_makes_no_sense_leaves_no_send_without_its_own() {
    let (redis, backend) = (Redis::start(), by_path());
    let relay = Relay::new(redis.port());
    let url = format!("redis://127.0.0.1:{}", relay.port);
    let gateway = start(&backend, &redis, |gateway| gateway.set("REDIS_URL", &url));
    eventually("a link", || is_linked(&gateway));
    let mut stream = gateway.open("/a");
    bare_id(&stream.frame());
    redis.pause();
    let mut client = gateway.client();
    client.send(common::send_request(&event_to("a", "once")));
    let waiting = "\nssegateway_redis_requests_waiting 1\n";
    eventually("a request without an answer", || gateway.get("/internal/metrics").text().contains(waiting));
    relay.interject(b"+OK\r\n");
    gateway.log_line(&["no connection to Redis", "an answer that makes no sense"]);
    redis.resume();
    let answer = client.response();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(stream.event(), event(answer["id"].as_str().expect("an id"), "once"));
    let id = sent(&gateway, "a", "twice");
    assert_eq!(stream.event(), event(&id, "twice"));
}

#[test]
fn a_redis_that_stays_away_leaves_the_send_open() {
    let (redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    redis.pause();
    assert_refused(&gateway.send(&event_to("a", "x")), 503, "Redis connection lost");
    redis.resume();
}

#[test]
fn without_redis_at_the_start_the_gateway_is_not_ready() {
    let backend = by_path();
    let mut redis = Redis::start();
    redis.kill();
    let gateway = start(&backend, &redis, |gateway| gateway);
    let answer = gateway.get("/readyz");
    assert_json(&answer, 503, r#"{"status":"not_ready","configured":true,"redis":false}"#);
    gateway.log_line(&["no connection to Redis", "Connection refused"]);
    redis.run();
    eventually("a connection to Redis", || gateway.get("/readyz").status == 200);
}

#[test]
fn out_of_memory_refuses_the_send_and_lets_the_rest_go_on() {
    let (redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    redis.command("CONFIG SET maxmemory 1");
    assert_refused(&gateway.send(&event_to("a", "x")), 503, "Redis is out of memory");
    assert!(is_linked(&gateway));
    redis.command("CONFIG SET maxmemory 0");
    sent(&gateway, "a", "y");
}

/// The milliseconds for which a gateway is still registered.
fn registered_for(redis: &Redis) -> i64 {
    let key = redis.command("EVAL \"return redis.call('keys', 'ssegateway:gw:*')[1]\" 0");
    redis.command(&format!("PTTL {key}"))[1..].parse().expect("a time")
}

#[test]
fn out_of_memory_for_long_breaks_no_connection() {
    let (redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    let mut stream = gateway.open("/a");
    bare_id(&stream.frame());
    redis.command("CONFIG SET maxmemory 1");
    eventually("time passes", || registered_for(&redis) < 14_000);
    eventually("it is registered again", || registered_for(&redis) > 14_000);
    assert!(is_linked(&gateway));
    assert_refused(&gateway.send(&event_to("a", "x")), 503, "Redis is out of memory");
    // A connection that begins now needs memory.
    redis.command("CLIENT KILL TYPE pubsub");
    gateway.log_line(&["no connection to Redis", "OOM ", "raise its maxmemory"]);
    assert_refused(&gateway.send(&event_to("a", "x")), 503, "Redis is out of memory");
    redis.command("CONFIG SET maxmemory 0");
    eventually("Redis is back", || is_linked(&gateway));
    let id = sent(&gateway, "a", "y");
    assert_eq!(stream.event(), event(&id, "y"));
}

#[test]
fn a_redis_that_may_evict_is_warned_of_and_evictions_begin_a_new_epoch() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-random"]);
    let backend = by_path();
    let gateway = linked(&backend, &redis);
    gateway.log_line(&["Redis may evict keys", "allkeys-random", "noeviction"]);
    let mut stream = gateway.open("/a");
    bare_id(&stream.frame());
    redis.command("CONFIG SET maxmemory 1");
    redis.command("SET x y");
    redis.command("CONFIG SET maxmemory 0");
    assert!(stream.event().starts_with("event: gap\n"));
}

#[test]
fn deleted_data_begin_a_new_epoch() {
    let (redis, backend) = (Redis::start(), by_path());
    let gateway = linked(&backend, &redis);
    let mut stream = gateway.open("/a");
    bare_id(&stream.frame());
    redis.command("FLUSHALL");
    let id = sent(&gateway, "a", "x");
    assert!(stream.event().starts_with("event: gap\n") || id.is_empty());
}

#[test]
fn a_wrong_password_is_named_and_the_right_one_is_not_shown() {
    let redis = Redis::with(&["--requirepass", "sesame"]);
    let backend = by_path();
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port());
    let gateway = Gateway::for_backend(&backend).set("REDIS_URL", url("open")).start();
    gateway.log_line(&["no connection to Redis", "WRONGPASS", "check the user and the password in REDIS_URL"]);
    let gateway = Gateway::for_backend(&backend).set("REDIS_URL", url("sesame")).start();
    eventually("a connection to Redis", || is_linked(&gateway));
    assert!(!gateway.log().contains("sesame"));
}

#[test]
fn a_user_without_a_password_is_logged_in() {
    let (redis, backend) = (Redis::start(), by_path());
    redis.command("ACL SETUSER anyone on nopass ~* &* +@all");
    redis.command("ACL SETUSER default off");
    for login in ["anyone", "anyone:"] {
        let url = format!("redis://{login}@127.0.0.1:{}", redis.port());
        let gateway = Gateway::for_backend(&backend).set("REDIS_URL", url).start();
        eventually("a connection to Redis", || is_linked(&gateway));
    }
}

#[test]
fn a_database_that_redis_does_not_have_is_named() {
    let (redis, backend) = (Redis::with(&["--databases", "2"]), by_path());
    let gateway = Gateway::for_backend(&backend).set("REDIS_URL", redis.url() + "/2").start();
    gateway.log_line(&["no connection to Redis", "DB index is out of range", "the number of a database"]);
}

#[test]
fn the_access_list_of_the_documentation_is_enough_and_nothing_in_it_is_too_much() {
    let page = std::fs::read_to_string("docs/scaling.md").expect("the page");
    let rule = page.lines().find(|line| line.starts_with("ACL SETUSER ssegateway ")).expect("an access list");
    let rights = rule.strip_prefix("ACL SETUSER ssegateway on >PASSWORD ").expect("its form");
    let redis = Redis::start();
    let backend = by_path();
    let url = format!("redis://ssegateway:pw@127.0.0.1:{}", redis.port());
    redis.command(&format!("ACL SETUSER ssegateway on >pw {rights}"));
    let gateway = Gateway::for_backend(&backend).set("REDIS_URL", &url).start();
    eventually("a connection to Redis", || is_linked(&gateway));
    let mut stream = gateway.open("/a");
    bare_id(&stream.frame());
    let id = sent(&gateway, "a", "x");
    assert_eq!(stream.event(), event(&id, "x"));
    drop(gateway);
    for right in rights.split(' ').filter(|right| right.starts_with('+') && !["+hello", "+unsubscribe"].contains(right))
    {
        redis.command("ACL DELUSER ssegateway");
        let others: Vec<&str> = rights.split(' ').filter(|other| *other != right).collect();
        redis.command(&format!("ACL SETUSER ssegateway on >pw {}", others.join(" ")));
        let gateway = Gateway::for_backend(&backend).set("REDIS_URL", format!("{url}/1")).start();
        let name = right[1..].split('|').next().unwrap();
        let line = gateway.log_line(&["no connection to Redis", "hint="]);
        let (why, _) = line.split_once("hint=").unwrap();
        assert!(why.to_lowercase().contains(name) && line.contains("allow it"), "{right}: {line}");
    }
}

#[test]
fn what_is_no_redis_is_named() {
    let backend = by_path();
    let gateway = Gateway::for_backend(&backend).start();
    let other = Gateway::for_backend(&backend).set("REDIS_URL", format!("redis://127.0.0.1:{}", gateway.port)).start();
    other.log_line(&["no connection to Redis", "what answers is not Redis"]);
    assert_eq!(other.request(get("/readyz")).status, 503);
}

#[test]
fn the_limits_of_history_are_those_of_the_first_gateway() {
    let (redis, backend) = (Redis::start(), by_path());
    let first = start(&backend, &redis, |gateway| gateway.set("HISTORY_EVENTS", 2));
    eventually("a connection to Redis", || is_linked(&first));
    let second = start(&backend, &redis, |gateway| gateway.set("HISTORY_EVENTS", 10));
    second.log_line(&["ERROR", "history_events=2"]);
    let ids = ["1", "2", "3"].map(|data| sent(&second, "a", data));
    let mut stream = resume(&second, "/a", &ids[0]);
    assert_eq!(stream.event(), event(&ids[1], "2"));
    let mut stream = resume(&first, "/a", "0.0");
    assert!(stream.event().starts_with("event: gap\n"));
    assert_eq!(stream.event(), event(&ids[1], "2"));
    assert_eq!(stream.event(), event(&ids[2], "3"));
}

#[test]
fn a_check_tries_redis_step_by_step() {
    let (redis, backend) = (Redis::with(&["--maxmemory-policy", "allkeys-lru"]), Backend::accepting());
    let check = |url: &str| {
        let (port, backend) = (Port::reserve().to_string(), backend.url());
        run(&["check", "--connect"], &[("PORT", &port), ("CALLBACK_URL", &backend), ("REDIS_URL", url)])
    };
    let output = check(&redis.url().replace("127.0.0.1", "localhost"));
    let lines: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("Redis ")).collect();
    assert_eq!((output.code, lines.len()), (Some(0), 4), "{output:?}");
    assert!(lines[0].starts_with("Redis name: localhost is ") && lines[1].starts_with("Redis connection: to "));
    assert!(lines[2].starts_with("Redis answer: version ") && lines[2].ends_with("maxmemory-policy allkeys-lru"));
    assert!(lines[3].starts_with("Redis round trip: ") && lines[3].ends_with(" ms; its clock agrees"), "{output:?}");
    let closed = Port::reserve();
    redis.command("ACL SETUSER few on >pw ~ssegateway:* &ssegateway:* +@all -xadd");
    let few = format!("redis://few:pw@127.0.0.1:{}", redis.port());
    let wrong = format!("redis://few:no@127.0.0.1:{}", redis.port());
    for (url, step, fix) in [
        ("redis://no-such-name.invalid", "Redis name: failed: ", "check the host name"),
        (&*format!("redis://127.0.0.1:{closed}"), "Redis connection: failed: ", "is Redis running"),
        (&few, "Redis answer: failed: ", "+xadd"),
        (&wrong, "Redis answer: failed: WRONGPASS", "check the user and the password"),
        (&backend.url().replace("http:", "redis:").replace("/callback", ""), "Redis answer: failed: ", "Redis"),
    ] {
        let output = check(url);
        let line = output.stderr.lines().last().unwrap_or_default();
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(line.starts_with(step) && line.contains(fix), "{output:?}");
    }
}
