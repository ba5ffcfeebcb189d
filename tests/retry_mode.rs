//! Pages that reconnect by themselves: `CONNECT_FAILURE=retry` and `RECONNECT_DELAY_MILLISECONDS` (contract, section
//! 9).

mod common;

use common::{Answer, Backend, Builder, Client, Gate, Gateway, Port, Step, Stream, assert_json, get};
use std::ops::RangeInclusive;

/// The default delay of 3000 ms with its jitter of 20 %.
const DEFAULT: RangeInclusive<u32> = 2400..=3600;

/// The number in `retry: N\n\n`.
#[track_caller]
fn delay(frame: &str) -> u32 {
    let digits = frame.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n"));
    digits.unwrap_or_else(|| panic!("{frame:?}")).parse().expect("an integer")
}

fn retrying(builder: Builder) -> Gateway {
    builder.set("CONNECT_FAILURE", "retry").start()
}

/// Asserts that the client gets a stream with only a delay, and its end.
#[track_caller]
fn assert_retries(gateway: &Gateway, range: RangeInclusive<u32>) -> u32 {
    let stream = gateway.open("/x");
    let expected = "HTTP/1.1 200 OK\nCache-Control: no-cache, no-transform\nConnection: close\n\
        Content-Type: text/event-stream\nDate: DATE\nTransfer-Encoding: chunked\nX-Accel-Buffering: no\n";
    assert_eq!(stream.head.golden_head(), expected);
    let finish = stream.finish();
    let delay = delay(&finish.text);
    assert!(finish.clean && range.contains(&delay), "{finish:?}");
    delay
}

#[test]
fn an_unreachable_backend_means_a_retry() {
    let nobody = Port::reserve();
    let url = format!("http://127.0.0.1:{nobody}/");
    assert_retries(&retrying(Gateway::builder().set("CALLBACK_URL", &url)), DEFAULT);
    let builder = Gateway::builder().set("CALLBACK_URL", &url).set("RECONNECT_DELAY_MILLISECONDS", 100);
    assert_retries(&retrying(builder), 80..=120);
}

#[test]
fn a_broken_or_slow_backend_means_a_retry() {
    let broken = [Answer::close(), Answer::raw("garbage\r\n\r\n").then(Step::Close)].map(|answer| (answer, true));
    // The disconnect of the last one waits for a late answer.
    for (answer, disconnects) in broken.into_iter().chain([(Answer::silence(), false)]) {
        let backend = Backend::connecting(answer);
        let gateway = retrying(Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1));
        assert_retries(&gateway, DEFAULT);
        let token = backend.connect("/x").token().to_owned();
        if disconnects {
            assert_eq!(backend.disconnect(&token).reason(), "error", "it may have been accepted");
        }
    }
}

#[test]
fn temporary_errors_mean_a_retry() {
    for status in [500, 502, 503, 504] {
        let backend = Backend::connecting(Answer::status(status));
        let mut gateway = retrying(Gateway::for_backend(&backend));
        assert_retries(&gateway, DEFAULT);
        gateway.drain();
        assert_eq!(backend.count("disconnect"), 0, "a rejected connect has no disconnect");
    }
}

#[test]
fn every_other_status_still_rejects() {
    for status in [302, 400, 401, 403, 404, 410, 429, 501, 505] {
        let backend = Backend::connecting(Answer::status(status));
        let gateway = retrying(Gateway::for_backend(&backend));
        assert_json(&gateway.get("/x"), status, &format!(r#"{{"error":"Backend returned {status}"}}"#));
    }
}

#[test]
fn a_connect_queued_for_too_long_means_a_retry() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let builder = Gateway::for_backend(&backend).set("CALLBACK_CONCURRENCY", 1).set("CONNECT_QUEUE_SECONDS", 1);
    let gateway = retrying(builder.set("CALLBACK_TIMEOUT_SECONDS", 14));
    let _first = Client::open(gateway.port, get("/first"));
    backend.connect("/first");
    assert_retries(&gateway, DEFAULT);
    gate.open();
}

#[test]
fn a_stream_over_the_limit_means_a_retry() {
    let backend = Backend::accepting();
    let gateway = retrying(Gateway::for_backend(&backend).set("MAX_STREAMS", 1));
    let _one = gateway.open("/one");
    assert_retries(&gateway, DEFAULT);
    assert_eq!(backend.count("connect"), 1, "no callback for the second");
}

#[test]
fn http_1_0_clients_get_it_as_well() {
    let nobody = Port::reserve();
    let gateway = retrying(Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{nobody}/")));
    let finish = Stream::accept(Client::open(gateway.port, "GET /x HTTP/1.0\r\n\r\n")).finish();
    assert!(DEFAULT.contains(&delay(&finish.text)), "{finish:?}");
}

#[test]
fn an_accepted_stream_starts_with_the_configured_delay() {
    let event = Answer::json(r#"{"event":{"data":"first"}}"#);
    for mode in ["status", "retry"] {
        let backend = Backend::connecting(event.clone());
        let builder = Gateway::for_backend(&backend).set("CONNECT_FAILURE", mode);
        let gateway = builder.set("RECONNECT_DELAY_MILLISECONDS", 10_000).start();
        let mut delays = std::collections::HashSet::new();
        for _ in 0..20 {
            let mut stream = gateway.open("/x");
            let delay = delay(&stream.frame());
            assert!((8_000..=12_000).contains(&delay), "{delay}");
            delays.insert(delay);
            assert_eq!(stream.frame(), "data: first\n\n");
        }
        assert!(delays.len() > 1, "no jitter");
    }
}

#[test]
fn without_the_setting_an_accepted_stream_starts_with_nothing() {
    let backend = Backend::accepting();
    let gateway = retrying(Gateway::for_backend(&backend));
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(gateway.event(&token, "x").status, 200);
    assert_eq!(stream.frame(), "data: x\n\n");
}

#[test]
fn a_delay_of_zero_is_a_delay() {
    let nobody = Port::reserve();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{nobody}/"));
    assert_retries(&retrying(gateway.set("RECONNECT_DELAY_MILLISECONDS", 0)), 0..=0);
}
