//! The bytes of an event (contract, section 5; WHATWG HTML, server-sent events).

mod common;

use common::{Backend, Gateway, Stream};
use serde_json::json;

/// Sends each event and compares the bytes that arrive.
fn assert_frames(cases: &[(serde_json::Value, &str)]) {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (mut stream, token): (Stream, String) = gateway.open_with(&backend, "/x");
    for (event, frame) in cases {
        assert_eq!(gateway.send(&json!({"token": token, "event": event}).to_string()).status, 200);
        let chunk = stream.next_chunk().expect("a chunk");
        assert_eq!(String::from_utf8_lossy(&chunk), *frame, "{event}");
    }
}

#[test]
fn fields_come_in_their_order() {
    assert_frames(&[
        (json!({"data": "d"}), "data: d\n\n"),
        (json!({"data": "d", "name": "n"}), "event: n\ndata: d\n\n"),
        (json!({"data": "d", "id": "i"}), "id: i\ndata: d\n\n"),
        (json!({"data": "d", "retry": 5}), "retry: 5\ndata: d\n\n"),
        (json!({"retry": 5, "data": "d", "id": "i", "name": "n"}), "event: n\nid: i\nretry: 5\ndata: d\n\n"),
    ]);
}

#[test]
fn an_empty_name_is_no_name() {
    assert_frames(&[(json!({"data": "d", "name": ""}), "data: d\n\n")]);
}

#[test]
fn an_empty_id_resets_the_last_one() {
    assert_frames(&[(json!({"data": "d", "id": ""}), "id:\ndata: d\n\n")]);
}

#[test]
fn empty_data_is_one_empty_line() {
    assert_frames(&[(json!({"data": ""}), "data: \n\n"), (json!({"data": "", "name": "n"}), "event: n\ndata: \n\n")]);
}

#[test]
fn data_splits_at_every_line_break() {
    assert_frames(&[
        (json!({"data": "a\nb"}), "data: a\ndata: b\n\n"),
        (json!({"data": "a\r\nb"}), "data: a\ndata: b\n\n"),
        (json!({"data": "a\rb"}), "data: a\ndata: b\n\n"),
        (json!({"data": "a\n\rb"}), "data: a\ndata: \ndata: b\n\n"),
        (json!({"data": "a\r\r\n\nb"}), "data: a\ndata: \ndata: \ndata: b\n\n"),
        (json!({"data": "\n"}), "data: \ndata: \n\n"),
        (json!({"data": "a\n"}), "data: a\ndata: \n\n"),
        (json!({"data": "\ra"}), "data: \ndata: a\n\n"),
        (json!({"data": "a\r"}), "data: a\ndata: \n\n"),
    ]);
}

#[test]
fn data_cannot_inject_fields() {
    assert_frames(&[(
        json!({"data": "x\revent: evil\r\rdata: y"}),
        "data: x\ndata: event: evil\ndata: \ndata: data: y\n\n",
    )]);
}

#[test]
fn blanks_colons_and_strange_characters_pass_unchanged() {
    assert_frames(&[
        (json!({"data": " lead and trail "}), "data:  lead and trail \n\n"),
        (json!({"data": ": comment"}), "data: : comment\n\n"),
        (json!({"data": "a\u{0}b"}), "data: a\u{0}b\n\n"),
        (json!({"data": "a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f"}), "data: a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f\n\n"),
        (json!({"data": "\u{feff}bom \u{1f600} \u{e9}"}), "data: \u{feff}bom \u{1f600} \u{e9}\n\n"),
        (json!({"data": "d", "name": " n: \u{e9}\t"}), "event:  n: \u{e9}\t\ndata: d\n\n"),
        (json!({"data": "d", "id": "\u{1f600} "}), "id: \u{1f600} \ndata: d\n\n"),
        (
            json!({"data": "{\"json\":\"with \\\"quotes\\\" and \\\\ \"}"}),
            "data: {\"json\":\"with \\\"quotes\\\" and \\\\ \"}\n\n",
        ),
    ]);
}

#[test]
fn large_events_are_whole() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    for size in [1, 1_000, 4_090, 16_384, 65_536, 65_537, 300_000, 1_000_000] {
        let data = "y".repeat(size);
        assert_eq!(gateway.event(&token, &data).status, 200);
        assert_eq!(stream.event(), format!("data: {data}\n\n"));
    }
}

#[test]
fn frames_from_many_senders_are_never_torn() {
    const SENDERS: usize = 4;
    const EVENTS: usize = 50;
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("HEARTBEAT_INTERVAL_SECONDS", 1).start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (gateway, token) = (&gateway, &token);
            scope.spawn(move || {
                let mut client = gateway.client();
                for n in 0..EVENTS {
                    let data = format!("{sender}:{n}:{}", sender.to_string().repeat(3000 * (n % 7)));
                    let body = json!({"token": token, "event": {"data": data}}).to_string();
                    assert_eq!(client.exchange(common::send_request(&body)).status, 200);
                }
            });
        }
        let mut next = [0; SENDERS];
        for _ in 0..SENDERS * EVENTS {
            let frame = stream.event();
            let text =
                frame.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).expect("one line of data");
            let parts: Vec<&str> = text.split(':').collect();
            let sender: usize = parts[0].parse().expect("a sender");
            assert_eq!(parts[1], next[sender].to_string(), "events of one sender keep their order");
            assert_eq!(parts[2], sender.to_string().repeat(3000 * (next[sender] % 7)));
            next[sender] += 1;
        }
    });
}
