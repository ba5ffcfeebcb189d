//! The stream itself: its head, its chunks, its order, its heartbeat and its end (contract, section 3, points 4 to 8).

mod common;

use common::{Answer, Backend, Client, Gate, Gateway, HEARTBEAT, Stream, find, get, send_request};
use std::time::{Duration, Instant};

fn named(name: &str, data: &str) -> String {
    serde_json::json!({"event": {"name": name, "data": data}}).to_string()
}

/// The first frames of a stream whose connect was answered with this JSON.
fn opened_with(answer: &str) -> (Backend, Gateway, Stream, String) {
    let backend = Backend::connecting(Answer::json(answer));
    let gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/x");
    (backend, gateway, stream, token)
}

/// Asserts that the answer leaves the stream open and puts exactly this at its start.
#[track_caller]
fn assert_starts_with(answer: &str, frames: &str) {
    let (_backend, gateway, mut stream, token) = opened_with(answer);
    assert_eq!(gateway.event(&token, "live").status, 200);
    let mut text = String::new();
    while !text.ends_with("data: live\n\n") {
        text.push_str(&stream.frame());
    }
    assert_eq!(text, format!("{frames}data: live\n\n"), "{answer}");
}

/// Asserts that the answer puts exactly this into the stream and ends it.
#[track_caller]
fn assert_closes_after(answer: &str, frames: &str) {
    let (backend, _gateway, stream, token) = opened_with(answer);
    let finish = stream.finish();
    assert_eq!((finish.text.as_str(), finish.clean), (frames, true), "{answer}");
    assert_eq!(backend.disconnect(&token).reason(), "server_closed");
}

#[test]
fn the_head_for_http_1_1() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let stream = gateway.open("/x");
    let expected = "HTTP/1.1 200 OK\nCache-Control: no-cache, no-transform\nConnection: close\n\
        Content-Type: text/event-stream\nDate: DATE\nTransfer-Encoding: chunked\nX-Accel-Buffering: no\n";
    assert_eq!(stream.head.golden_head(), expected);
}

#[test]
fn the_head_for_http_1_0() {
    let backend = Backend::connecting(Answer::json(&named("hi", "there")));
    let gateway = Gateway::start(&backend);
    let mut stream = Stream::accept(Client::open(gateway.port, "GET /x HTTP/1.0\r\n\r\n"));
    let token = backend.connect("/x").token().to_owned();
    let expected = "HTTP/1.1 200 OK\nCache-Control: no-cache, no-transform\nConnection: close\n\
        Content-Type: text/event-stream\nDate: DATE\nX-Accel-Buffering: no\n";
    assert_eq!(stream.head.golden_head(), expected);
    assert_eq!(stream.frame(), "event: hi\ndata: there\n\n");
    assert_eq!(gateway.event(&token, "raw").status, 200);
    assert_eq!(stream.frame(), "data: raw\n\n");
    assert_eq!(gateway.close(&token).status, 200);
    stream.assert_ended();
}

#[test]
fn nothing_is_compressed() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request = "GET /x HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip, br\r\nTE: trailers\r\n\r\n";
    let stream = Stream::accept(Client::open(gateway.port, request));
    assert_eq!(stream.head.header("content-encoding"), None);
}

#[test]
fn the_date_is_now() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let date = httpdate::parse_http_date(gateway.open("/x").head.header("date").expect("a date")).expect("a date");
    let now = std::time::SystemTime::now();
    let apart = now.duration_since(date).unwrap_or_else(|error| error.duration());
    assert!(apart < Duration::from_secs(60), "{apart:?}");
}

#[test]
fn an_event_is_one_chunk() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(stream.client.buffer, b"", "an accepted stream starts with its head alone");
    assert_eq!(gateway.event(&token, "hello").status, 200);
    let golden = b"d\r\ndata: hello\n\n\r\n";
    assert_eq!(stream.client.read_exact(golden.len()), golden);
    assert_eq!(gateway.close(&token).status, 200);
    assert_eq!(stream.client.rest(), b"0\r\n\r\n");
}

#[test]
fn events_of_one_batch_are_one_chunk() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let batch: String =
        (0..5).map(|n| send_request(&format!(r#"{{"token":"{token}","event":{{"data":"{n}"}}}}"#))).collect();
    let mut sender = Client::open(gateway.port, batch);
    for _ in 0..5 {
        assert_eq!(sender.response().status, 200);
    }
    assert_eq!(stream.next_chunk().expect("a chunk"), b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n");
}

#[test]
fn head_callback_event_and_buffered_events_leave_in_one_write() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(&named("welcome", "w")).after(&gate));
    let gateway = Gateway::start(&backend);
    let mut client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    for n in 0..3 {
        assert_eq!(gateway.event(&token, &n.to_string()).text(), common::BUFFERED);
    }
    gate.open();
    client.fill();
    let body = find(&client.buffer, b"\r\n\r\n").expect("a whole head") + 4;
    let chunk = b"33\r\nevent: welcome\ndata: w\n\ndata: 0\n\ndata: 1\n\ndata: 2\n\n\r\n";
    assert_eq!(String::from_utf8_lossy(&client.buffer[body..]), String::from_utf8_lossy(chunk));
}

#[test]
fn the_order_is_callback_event_then_buffered_then_live() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(&named("first", "0")).after(&gate));
    let gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let mut expected = vec!["event: first\ndata: 0\n\n".to_owned()];
    for n in 1..50 {
        if n == 25 {
            gate.open();
        }
        assert_eq!(gateway.event(&token, &n.to_string()).status, 200);
        expected.push(format!("data: {n}\n\n"));
    }
    let mut stream = Stream::accept(client);
    let frames: Vec<String> = expected.iter().map(|_| stream.frame()).collect();
    assert_eq!(frames, expected);
}

#[test]
fn a_heartbeat_comes_every_interval_since_the_stream_opened() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("HEARTBEAT_INTERVAL_SECONDS", 1).start();
    let start = Instant::now();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    assert_eq!(gateway.event(&token, "does not postpone it").status, 200);
    assert_eq!(stream.next_chunk().expect("a chunk"), b"data: does not postpone it\n\n");
    for second in [1, 2].map(Duration::from_secs) {
        let golden = b"d\r\n: heartbeat\n\n\r\n";
        assert_eq!(stream.client.read_exact(golden.len()), golden);
        let elapsed = start.elapsed();
        assert!((second..second + Duration::from_secs(4)).contains(&elapsed), "due after {second:?}: {elapsed:?}");
    }
    assert_eq!(backend.history().len(), 1, "the backend never sees a heartbeat");
}

#[test]
fn a_heartbeat_is_skipped_while_bytes_are_unsent() {
    let backend = Backend::accepting();
    let builder = Gateway::for_backend(&backend).set("HEARTBEAT_INTERVAL_SECONDS", 1);
    let gateway = builder.set("MAX_PENDING_BYTES", 64 * 1024 * 1024).start();
    let (mut stalled, token) = gateway.open_with(&backend, "/stalled");
    let mut clock = gateway.open("/clock");
    // More than the kernel's buffers on both ends can hold.
    let data = "x".repeat(512 * 1024);
    const EVENTS: usize = 40;
    for _ in 0..EVENTS {
        assert_eq!(gateway.event(&token, &data).status, 200);
    }
    // Another stream shows the time: the stalled one would have been due twice.
    for _ in 0..3 {
        assert_eq!(clock.frame(), HEARTBEAT);
    }
    assert_eq!(gateway.event(&token, "marker").status, 200);
    let mut heartbeats = 0;
    loop {
        match stalled.frame() {
            frame if frame == "data: marker\n\n" => break,
            frame if frame == HEARTBEAT => heartbeats += 1,
            frame => assert_eq!(frame.len(), data.len() + "data: \n\n".len()),
        }
    }
    // One may have been due before the first event was written.
    assert!(heartbeats <= 1, "{heartbeats} heartbeats piled up");
    assert_eq!(stalled.frame(), HEARTBEAT, "they resume once the reader has caught up");
}

#[test]
fn the_answer_may_carry_an_event() {
    assert_starts_with(r#"{"event":{"name":"hello","data":"world"}}"#, "event: hello\ndata: world\n\n");
    assert_starts_with(r#"{"event":{"data":"a\nb"},"close":false}"#, "data: a\ndata: b\n\n");
    assert_starts_with(
        r#"{"event":{"id":"7","retry":1500,"name":"n","data":""}}"#,
        "event: n\nid: 7\nretry: 1500\ndata: \n\n",
    );
}

#[test]
fn the_answer_may_close_the_stream_at_once() {
    assert_closes_after(r#"{"close":true}"#, "");
    assert_closes_after(r#"{"event":{"name":"bye","data":"x"},"close":true}"#, "event: bye\ndata: x\n\n");
    assert_closes_after(r#"{"close":true,"event":{"data":"x"}}"#, "data: x\n\n");
}

#[test]
fn an_empty_answer_or_one_with_unknown_fields_opens_the_stream() {
    for answer in ["", " \r\n\t", "{}", r#"{"ok":true,"event2":{"data":"x"}}"#] {
        assert_starts_with(answer, "");
    }
}

#[test]
fn malformed_fields_are_ignored_one_by_one() {
    for event in ["null", "5", "[]", "{}", r#"{"data":5}"#, r#"{"name":"n"}"#, r#"{"data":null}"#] {
        assert_starts_with(&format!(r#"{{"event":{event}}}"#), "");
        assert_closes_after(&format!(r#"{{"event":{event},"close":true}}"#), "");
    }
    for close in ["1", "\"true\"", "null", "[]"] {
        assert_starts_with(&format!(r#"{{"event":{{"data":"x"}},"close":{close}}}"#), "data: x\n\n");
    }
    for name in ["5", "null", "[]", "\"\""] {
        assert_starts_with(&format!(r#"{{"event":{{"name":{name},"data":"x"}}}}"#), "data: x\n\n");
    }
}

#[test]
fn a_name_with_a_line_break_drops_the_event() {
    for name in ["a\\rb", "a\\nb", "\\u0000"] {
        let event = format!(r#""event":{{"name":"{name}","data":"x"}}"#);
        assert_starts_with(&format!("{{{event}}}"), "");
        assert_closes_after(&format!(r#"{{{event},"close":true}}"#), "");
    }
}

#[test]
fn ignored_fields_are_logged() {
    let (_backend, gateway, _stream, token) = opened_with(r#"{"event":5}"#);
    gateway.log_line(&["WARN", &token]);
}

#[test]
fn client_input_after_its_get_is_discarded() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let mut client = Client::open(gateway.port, get("/x") + &get("/healthz"));
    client.send(vec![b'x'; 8 * 1024 - get("/healthz").len()]);
    let mut stream = Stream::accept(client);
    let token = backend.connect("/x").token().to_owned();
    assert_eq!(gateway.event(&token, "still here").status, 200);
    assert_eq!(stream.frame(), "data: still here\n\n");
    stream.client.send("y");
    assert!(!stream.finish().clean, "one byte more than 8 KiB ends the stream");
    assert_eq!(backend.disconnect(&token).reason(), "error");
}

#[test]
fn a_client_that_sends_endlessly_is_cut() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let gateway = Gateway::start(&backend);
    let mut client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let flood = vec![b'x'; 64 * 1024];
    let cut = (0..1000).any(|_| client.try_send(&flood).is_err());
    assert!(cut, "the gateway keeps reading");
    gate.open();
    assert_eq!(backend.disconnect(&token).reason(), "error");
}

#[test]
fn end_of_input_means_that_the_client_left() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/x");
    stream.client.half_close();
    assert_eq!(backend.disconnect(&token).reason(), "client_closed");
    assert_eq!(stream.finish().text, "");
}

#[test]
fn closing_one_stream_leaves_the_others_alone() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (one, first) = gateway.open_with(&backend, "/one");
    let (mut two, second) = gateway.open_with(&backend, "/two");
    assert_eq!(gateway.close(&first).status, 200);
    one.assert_ended();
    assert_eq!(gateway.event(&second, "x").status, 200);
    assert_eq!(two.frame(), "data: x\n\n");
}
