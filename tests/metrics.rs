//! `GET /internal/metrics`: the counters, as a scraper reads them (contract, section 9).

mod common;

use common::{
    Answer, BUFFERED, Backend, Client, Gate, Gateway, Response, assert_error, assert_json, eventually, get, post,
};
use serde_json::Value;
use std::collections::HashMap;

/// One scrape: every sample by its name and labels, verbatim.
fn scrape(gateway: &Gateway) -> HashMap<String, f64> {
    let response = Client::open(gateway.internal_port(), get("/internal/metrics")).response();
    assert_eq!(response.status, 200, "{response:?}");
    samples(&response)
}

fn samples(response: &Response) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let mut family = String::new();
    for line in response.text().lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().expect("a name").to_owned();
        } else if !line.starts_with("# HELP ") {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
            assert!(name.starts_with(&family), "{line:?} in the family {family}");
            let earlier = samples.insert(name.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line:?}")));
            assert_eq!(earlier, None, "{name} twice");
        }
    }
    samples
}

/// Scrapes until a sample has that value.
fn await_sample(gateway: &Gateway, name: &str, value: f64) -> HashMap<String, f64> {
    let mut last = HashMap::new();
    eventually(name, || {
        last = scrape(gateway);
        last.get(name) == Some(&value)
    });
    last
}

#[test]
fn the_answer_is_in_the_text_format_and_the_last_one() {
    let gateway = Gateway::builder().start();
    let response = gateway.request(get("/internal/metrics") + &get("/healthz"));
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(response.closes());
    let samples = samples(&response);
    assert_eq!(samples["ssegateway_ready"], 0.0, "there is no CALLBACK_URL");
    assert_eq!(samples[&format!("ssegateway_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))], 1.0);
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(samples.contains_key(name), "{name} is missing");
    }
}

#[test]
fn a_streams_life_is_counted() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("HEARTBEAT_INTERVAL_SECONDS", 1).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(gateway.event(&token, "four").status, 200);
    assert_eq!(stream.frame(), "data: four\n\n");
    gateway.event("nobody", "x");
    gateway.send("{}");
    let samples = await_sample(&gateway, "ssegateway_heartbeats_sent_total", 1.0);
    assert_eq!(samples["ssegateway_ready"], 1.0);
    assert_eq!(samples["ssegateway_streams_open"], 1.0);
    assert_eq!(samples["ssegateway_streams_connecting"], 0.0);
    assert_eq!(samples[r#"ssegateway_connects_total{result="accepted"}"#], 1.0);
    assert_eq!(samples["ssegateway_events_sent_total"], 1.0);
    assert_eq!(samples["ssegateway_event_bytes_sent_total"], "data: four\n\n".len() as f64);
    assert_eq!(samples[r#"ssegateway_sends_total{result="ok"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_sends_total{result="not_found"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_sends_total{result="invalid"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_callback_duration_seconds_count{action="connect"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_callback_duration_seconds_bucket{action="connect",le="+Inf"}"#], 1.0);
    assert!(samples["ssegateway_loop_turn_seconds_count"] > 1.0);
    assert!(samples["ssegateway_connections_accepted_total"] >= 4.0);

    drop(stream);
    backend.disconnect(&token);
    let name = r#"ssegateway_callback_duration_seconds_count{action="disconnect"}"#;
    let samples = await_sample(&gateway, name, 1.0);
    assert_eq!(samples["ssegateway_streams_open"], 0.0);
    assert_eq!(samples[r#"ssegateway_disconnects_total{reason="client_closed",detail="none"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_disconnects_total{reason="server_closed",detail="none"}"#], 0.0);
}

#[test]
fn queued_callbacks_are_shown() {
    const WAITING: &str = r#"ssegateway_callbacks_waiting{action="connect"}"#;
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 1).start();
    let first = Client::open(gateway.port, get("/first"));
    let token = backend.connect("/first").token().to_owned();
    let second = Client::open(gateway.port, get("/second"));
    await_sample(&gateway, WAITING, 1.0);
    let third = Client::open(gateway.port, get("/third"));
    await_sample(&gateway, WAITING, 2.0);
    assert_json(&gateway.event(&token, "x"), 200, BUFFERED);
    let samples = scrape(&gateway);
    assert_eq!(samples["ssegateway_streams_connecting"], 3.0);
    assert_eq!(samples["ssegateway_streams_open"], 0.0);
    assert_eq!(samples["ssegateway_pending_bytes"], "data: x\n\n".len() as f64);
    assert_eq!(samples["ssegateway_pending_bytes_largest"], "data: x\n\n".len() as f64);
    assert_eq!(samples[r#"ssegateway_sends_total{result="buffered"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_callbacks_in_flight{action="connect"}"#], 1.0);
    assert_eq!(samples[r#"ssegateway_callbacks_in_flight{action="disconnect"}"#], 0.0);
    assert_eq!(samples["ssegateway_callbacks_limit"], 1.0);
    assert_eq!(samples[r#"ssegateway_callbacks_waiting{action="disconnect"}"#], 0.0);
    drop(third);
    let samples = await_sample(&gateway, "ssegateway_streams_connecting", 2.0);
    assert_eq!(samples[WAITING], 1.0);
    gate.open();
    drop((first, second));
}

#[test]
fn every_possible_end_of_a_stream_has_a_sample_from_the_start() {
    let gateway = Gateway::builder().start();
    let samples = scrape(&gateway);
    let prefix = "ssegateway_disconnects_total";
    let mut ends: Vec<&str> = samples.keys().filter_map(|name| name.strip_prefix(prefix)).collect();
    ends.sort_unstable();
    let expected = [
        r#"{reason="client_closed",detail="none"}"#,
        r#"{reason="error",detail="client_timeout"}"#,
        r#"{reason="error",detail="connect_broken"}"#,
        r#"{reason="error",detail="connect_timeout"}"#,
        r#"{reason="error",detail="excess_input"}"#,
        r#"{reason="error",detail="slow_consumer"}"#,
        r#"{reason="error",detail="write_failed"}"#,
        r#"{reason="server_closed",detail="expired"}"#,
        r#"{reason="server_closed",detail="group_ended"}"#,
        r#"{reason="server_closed",detail="none"}"#,
        r#"{reason="server_closed",detail="nothing_to_attach"}"#,
        r#"{reason="server_closed",detail="shutdown"}"#,
    ];
    assert_eq!(ends, expected);
}

#[test]
fn each_failed_connect_has_its_result() {
    for (answer, result) in [(Answer::status(403), "rejected"), (Answer::raw("garbage"), "unavailable")] {
        let backend = Backend::connecting(answer);
        let gateway = Gateway::start(&backend);
        gateway.get("/x");
        let samples = scrape(&gateway);
        assert_eq!(samples[&format!("ssegateway_connects_total{{result=\"{result}\"}}")], 1.0);
        let failed = samples[r#"ssegateway_callback_failures_total{action="connect",reason="unavailable"}"#];
        assert_eq!(failed, f64::from(u8::from(result == "unavailable")));
    }
    let gateway = Gateway::builder().start();
    gateway.get("/x");
    assert_eq!(scrape(&gateway)[r#"ssegateway_connects_total{result="not_configured"}"#], 1.0);
}

#[test]
fn refused_requests_are_counted_by_reason() {
    let gateway = Gateway::builder().start();
    gateway.request("nonsense\r\n\r\n");
    gateway.get("/internal/nowhere");
    gateway.request(post("/x", ""));
    let samples = scrape(&gateway);
    for why in ["malformed", "not_found", "method"] {
        assert_eq!(samples[&format!("ssegateway_requests_refused_total{{reason=\"{why}\"}}")], 1.0, "{why}");
    }
}

#[test]
fn a_client_that_does_not_read_shows_as_pending_and_then_as_dropped() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 100_000).start();
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let data = "x".repeat(50_000);
    // The kernel buffers some megabytes first.
    eventually("bytes are pending", || {
        assert_eq!(gateway.event(&token, &data).status, 200);
        scrape(&gateway)["ssegateway_pending_bytes"] > 0.0
    });
    let samples = scrape(&gateway);
    assert_eq!(samples["ssegateway_pending_bytes"], samples["ssegateway_pending_bytes_largest"]);
    eventually("the stream is dropped", || gateway.event(&token, &data).status == 500);
    let samples = scrape(&gateway);
    assert_eq!(samples["ssegateway_slow_readers_dropped_total"], 1.0);
    assert_eq!(samples[r#"ssegateway_disconnects_total{reason="error",detail="slow_consumer"}"#], 1.0);
    assert_eq!(samples["ssegateway_pending_bytes"], 0.0);
    assert_eq!(samples["ssegateway_pending_bytes_largest"], 0.0);
    drop(client);
}

/// The pending bytes of each stream by token, from the other report.
fn pending(gateway: &Gateway) -> HashMap<String, f64> {
    let page: Value = serde_json::from_slice(&gateway.get("/internal/connections").body).expect("JSON");
    let entries = page["connections"].as_array().expect("an array").iter();
    let token = |entry: &Value| entry["token"].as_str().expect("a token").to_owned();
    entries.map(|entry| (token(entry), entry["pending_bytes"].as_f64().expect("a number"))).collect()
}

#[test]
fn pending_bytes_are_the_sum_and_the_maximum_over_all_clients() {
    /// More than the kernel could accept at any later time.
    const UNSENT: f64 = 10_000_000.0;
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 100_000_000).start();
    let data = "x".repeat(1_000_000);
    let mut clients = Vec::new();
    for (target, factor) in [("/one", 1.0), ("/two", 1.5)] {
        clients.push(Client::open(gateway.port, get(target)));
        let token = backend.connect(target).token().to_owned();
        eventually("the kernel accepts no more", || {
            assert_eq!(gateway.event(&token, &data).status, 200);
            pending(&gateway).get(&token).is_some_and(|pending| *pending > factor * UNSENT)
        });
    }
    /// The list also counts bytes in the kernel.
    const KERNEL: f64 = 256.0 * 1024.0;
    // The kernel still moves some bytes, so the reports are compared until they show the same moment.
    eventually("the reports agree", || {
        let pending = pending(&gateway);
        let (sum, most) = (pending.values().sum::<f64>(), pending.values().copied().fold(0.0, f64::max));
        assert!(pending.len() == 2 && sum > most, "{pending:?}");
        // Twice: reporting changes nothing.
        [scrape(&gateway), scrape(&gateway)].iter().all(|samples| {
            let in_kernel = sum - samples["ssegateway_pending_bytes"];
            let of_one = most - samples["ssegateway_pending_bytes_largest"];
            in_kernel > of_one && of_one > 0.0 && of_one < KERNEL && in_kernel - of_one < KERNEL
        })
    });
    drop(clients);
    eventually("nothing is pending", || scrape(&gateway)["ssegateway_pending_bytes"] == 0.0);
}

#[test]
fn it_is_guarded_like_sends() {
    let gateway = Gateway::builder().internal_port().set("INTERNAL_TOKEN", "t").start();
    assert_error(&gateway.get("/internal/metrics"), 404);
    assert_error(&Client::open(gateway.internal_port(), get("/internal/metrics")).response(), 401);
    let request = get("/internal/metrics").replacen("\r\n\r\n", "\r\nAuthorization: Bearer t\r\n\r\n", 1);
    let response = Client::open(gateway.internal_port(), request).response();
    assert_eq!(samples(&response)[r#"ssegateway_requests_refused_total{reason="unauthorized"}"#], 1.0);
    let put = get("/internal/metrics").replacen("GET", "PUT", 1);
    let put = put.replacen("\r\n\r\n", "\r\nAuthorization: Bearer t\r\n\r\n", 1);
    let response = Client::open(gateway.internal_port(), put).response();
    assert_error(&response, 405);
    assert_eq!(response.header("allow"), Some("GET, OPTIONS"));
}
