//! `GET /internal/connections`: the list of streams, for a backend that has lost its own (contract, section 9).

mod common;

use common::{Backend, Client, Gateway, Stream, assert_error, eventually, get};
use serde_json::Value;
use std::collections::BTreeMap;

fn page(gateway: &Gateway, query: &str) -> Value {
    let request = get(&format!("/internal/connections{query}"));
    let response = Client::open(gateway.internal_port(), request).response();
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_slice(&response.body).expect("JSON")
}

#[test]
fn each_connection_gets_one_page() {
    let gateway = Gateway::start(&Backend::accepting());
    let mut client = Client::open(gateway.port, get("/internal/connections").repeat(2));
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (200, Some("close")));
    client.assert_closed();
}

/// All pages of that many entries: URLs by token, and the number of pages.
fn all_pages(gateway: &Gateway, limit: usize) -> (BTreeMap<String, String>, usize) {
    let mut streams = BTreeMap::new();
    let (mut query, mut pages) = (format!("?limit={limit}"), 0);
    loop {
        let page = page(gateway, &query);
        pages += 1;
        let entries = page["connections"].as_array().expect("an array");
        assert!(entries.len() <= limit, "{page}");
        for entry in entries {
            let text = |name: &str| entry[name].as_str().unwrap_or_else(|| panic!("no {name} in {entry}")).to_owned();
            assert_eq!(streams.insert(text("token"), text("url")), None, "twice: {entry}");
        }
        let Some(next) = page["next"].as_str() else { return (streams, pages) };
        query = format!("?limit={limit}&after={next}");
    }
}

fn open(gateway: &Gateway, backend: &Backend, count: usize) -> (Vec<Stream>, BTreeMap<String, String>) {
    let opened = (0..count).map(|n| format!("/s?n={n}")).map(|url| (gateway.open_with(backend, &url), url));
    let (streams, known) = opened.map(|((stream, token), url)| (stream, (token, url))).unzip::<_, _, Vec<_>, Vec<_>>();
    (streams, known.into_iter().collect())
}

#[test]
fn an_entry_describes_its_stream() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (_stream, token) = gateway.open_with(&backend, r#"/a?b="c"\d"#);
    let page = page(&gateway, "");
    assert_eq!(page["count"], 1);
    assert_eq!(page["next"], Value::Null);
    let entry = &page["connections"][0];
    assert_eq!(entry["token"], token.as_str());
    assert_eq!(entry["url"], r#"/a?b="c"\d"#);
    assert_eq!(entry["pending_bytes"], 0);
    let opened_at = entry["opened_at"].as_str().expect("a time");
    assert!(opened_at.len() == 20 && opened_at.starts_with("20") && opened_at.ends_with('Z'), "{opened_at}");
    let fields = page.as_object().map(|object| object.len());
    assert_eq!((fields, entry.as_object().map(|object| object.len())), (Some(4), Some(4)));
}

#[test]
fn the_instance_matches_the_callbacks_and_changes_with_each_start() {
    let backend = Backend::accepting();
    let mut instances = Vec::new();
    for _ in 0..2 {
        let gateway = Gateway::start(&backend);
        let (_stream, token) = gateway.open_with(&backend, "/x");
        gateway.close(&token);
        let disconnect = backend.disconnect(&token);
        let instance = page(&gateway, "")["instance"].as_str().expect("an id").to_owned();
        assert_eq!(disconnect.header("SSEGateway-Instance"), Some(instance.as_str()));
        let connects = backend.history().into_iter().filter(|call| call.token() == token && call.action() == "connect");
        for connect in connects {
            assert_eq!(connect.header("SSEGateway-Instance"), Some(instance.as_str()));
        }
        instances.push(instance);
    }
    assert_ne!(instances[0], instances[1]);
}

#[test]
fn pages_hold_every_stream_once() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (_streams, known) = open(&gateway, &backend, 7);
    for (limit, pages) in [(1, 7), (2, 4), (3, 3), (6, 2), (7, 1), (8, 1), (10_000, 1)] {
        assert_eq!(all_pages(&gateway, limit), (known.clone(), pages), "limit {limit}");
    }
    assert_eq!(all_pages(&gateway, 1_000_000).0, known, "more than the maximum of a page");
}

/// A page ends at some 1 MiB, whatever its limit.
#[test]
fn a_page_of_long_urls_ends_early() {
    const URL_BYTES: usize = 15_000;
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let fill = "x".repeat(URL_BYTES);
    let clients: Vec<_> = (0..100).map(|n| gateway.open(&format!("/{n}{fill}"))).collect();
    let (streams, pages) = all_pages(&gateway, 10_000);
    assert_eq!((streams.len(), pages), (clients.len(), 2));
    let first = page(&gateway, "?limit=10000").to_string().len();
    assert!((1024 * 1024..1024 * 1024 + 2 * URL_BYTES).contains(&first), "{first} bytes");
}

#[test]
fn lasting_streams_are_listed_while_others_come_and_go() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (mut streams, mut known) = open(&gateway, &backend, 6);
    let first = page(&gateway, "?limit=3");
    // The last stream of the page ends, and another one takes its slot.
    let last = first["connections"][2]["token"].as_str().expect("a token").to_owned();
    gateway.close(&last);
    backend.disconnect(&last);
    known.remove(&last);
    let (more, more_known) = open(&gateway, &backend, 2);
    streams.extend(more);
    let next = first["next"].as_str().expect("more pages");
    let second = page(&gateway, &format!("?after={next}&limit=100"));
    let listed: Vec<&Value> =
        [&first, &second].iter().flat_map(|page| page["connections"].as_array().unwrap()).collect();
    for token in known.keys() {
        let times = listed.iter().filter(|entry| entry["token"] == token.as_str()).count();
        assert_eq!(times, 1, "{token}");
    }
    assert_eq!(second["count"], known.len() + more_known.len());
}

#[test]
fn only_open_streams_are_listed() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(page(&gateway, "")["count"], 1);
    drop(stream);
    backend.disconnect(&token);
    assert_eq!(page(&gateway, "")["count"], 0);
    assert_eq!(page(&gateway, "")["connections"], Value::Array(Vec::new()));
}

#[test]
fn the_pending_bytes_of_a_slow_client_are_shown() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("MAX_PENDING_BYTES", 10_000_000).start();
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let data = "x".repeat(500_000);
    eventually("bytes are pending", || {
        assert_eq!(gateway.event(&token, &data).status, 200);
        page(&gateway, "")["connections"][0]["pending_bytes"].as_u64() > Some(0)
    });
    drop(client);
}

#[test]
fn an_unguarded_list_of_tokens_is_not_served_through_a_proxy() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for field in ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Via: 1.1 proxy"] {
        let request = get("/internal/connections").replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1);
        let response = gateway.request(request);
        assert_error(&response, 403);
        assert!(response.text().contains("INTERNAL_TOKEN"), "{response:?}");
    }
    let gateway = Gateway::for_backend(&backend).internal_port().start();
    let request = get("/internal/connections").replacen("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n", 1);
    assert_eq!(Client::open(gateway.internal_port(), request).response().status, 200);
}

#[test]
fn bad_parameters_are_named() {
    let gateway = Gateway::builder().start();
    for (query, name) in [("limit=0", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"), ("after=x", "after")] {
        let response = gateway.get(&format!("/internal/connections?{query}"));
        assert_error(&response, 400);
        assert!(response.text().contains(name), "{response:?}");
    }
    assert_eq!(page(&gateway, "?limit=5&other=1")["count"], 0);
    assert_eq!(page(&gateway, "?after=4000000000")["connections"], Value::Array(Vec::new()));
}
