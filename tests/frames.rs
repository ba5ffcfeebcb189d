//! The bytes of an event (contract, section 5; WHATWG HTML, server-sent events).

mod common;
#[path = "common/decode.rs"]
mod decode;

use common::{Backend, Gateway, Stream};
use decode::{Decoder, Message};
use serde_json::json;
use ssegateway::sse::{Event, HEARTBEAT};

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
fn spaces_colons_and_unusual_characters_pass_unchanged() {
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

#[test]
fn injected_fields_stay_data() {
    let mut frame = Vec::new();
    Event { data: "x\revent: evil\r\rdata: y\n\n: z".into(), ..Event::default() }.write(&mut frame);
    let messages = Decoder::decode_all(&frame);
    assert_eq!(
        messages,
        [Message { name: "message".into(), data: "x\nevent: evil\n\ndata: y\n\n: z".into(), id: "".into() }]
    );
}

/// Every string of up to `length` characters from an alphabet of troublesome ones.
fn awkward_texts(length: usize) -> Vec<String> {
    let alphabet = ["", "a", " ", ":", "\r", "\n", "\0", "\u{feff}", "id: 9"];
    let mut texts = vec![String::new()];
    for _ in 0..length {
        texts = texts.iter().flat_map(|text| alphabet.map(|letter| format!("{text}{letter}"))).collect();
    }
    texts
}

#[test]
fn a_browser_reads_back_what_was_written() {
    let lines = ["", "n", " n", "n: m", ":", "data", "\u{feff}"];
    for (number, data) in awkward_texts(4).into_iter().enumerate() {
        let name = lines[number % lines.len()];
        let id = lines[number / lines.len() % lines.len()];
        let retry = u32::try_from(number).unwrap();
        let mut out = Vec::new();
        Event { name: Some(name.into()), id: Some(id.into()), retry: Some(retry), data: (&data).into() }
            .write(&mut out);
        out.extend_from_slice(HEARTBEAT);
        Event { data: "next".into(), ..Event::default() }.write(&mut out);

        let joined = data.replace("\r\n", "\n").replace('\r', "\n");
        let name = if name.is_empty() { "message" } else { name };
        let expected = [
            Message { name: name.into(), data: joined, id: id.into() },
            Message { name: "message".into(), data: "next".into(), id: id.into() },
        ];
        let mut decoder = Decoder::default();
        decoder.receive(&out);
        assert_eq!(decoder.take_messages(), expected, "{data:?}");
        assert_eq!(decoder.retry(), Some(u64::from(retry)));
    }
}

fn decode(stream: &str) -> Vec<(String, String, String)> {
    let messages = Decoder::decode_all(stream.as_bytes());
    messages.into_iter().map(|message| (message.name, message.data, message.id)).collect()
}

fn message(name: &str, data: &str, id: &str) -> (String, String, String) {
    (name.into(), data.into(), id.into())
}

#[test]
fn the_decoder_reads_the_examples_of_the_standard() {
    assert_eq!(decode("data: YHOO\ndata: +2\ndata: 10\n\n"), [message("message", "YHOO\n+2\n10", "")]);
    let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event";
    assert_eq!(decode(stream), [message("message", "first event", "1"), message("message", "second event", "")]);
    assert_eq!(decode("data\n\ndata\ndata\n\ndata:"), [message("message", "", ""), message("message", "\n", "")]);
    assert_eq!(decode("data:test\n\ndata: test\n\n"), [message("message", "test", ""), message("message", "test", "")]);
    assert_eq!(decode("event: add\ndata: 1\n\ndata: 2\n\n"), [message("add", "1", ""), message("message", "2", "")]);
}

#[test]
fn the_decoder_follows_rules_that_are_easily_missed() {
    assert_eq!(
        decode("\u{feff}data: a\r\rdata: b\r\n\r\n"),
        [message("message", "a", ""), message("message", "b", "")]
    );
    assert_eq!(decode("data: a\n\u{feff}data: b\n\n"), [message("message", "a", "")]);
    assert_eq!(decode("event: lost\n\ndata: x\n\n"), [message("message", "x", "")]);
    assert_eq!(decode("id: 1\n\nid: 2\0\nData: no\ndata: x\n\n"), [message("message", "x", "1")]);
}

#[test]
fn the_decoder_accepts_retry_in_digits_only() {
    let mut decoder = Decoder::default();
    for (line, expected) in
        [("retry: 10\n", 10), ("retry: +1\n", 10), ("retry:\n", 10), ("retry: 1.5\n", 10), ("retry:7\n", 7)]
    {
        decoder.receive(line.as_bytes());
        assert_eq!(decoder.retry(), Some(expected), "{line}");
    }
}

#[test]
fn a_cut_frame_is_distinguished_from_a_whole_one() {
    let mut decoder = Decoder::default();
    assert!(decoder.is_between_frames());
    for (piece, between) in
        [(":", false), ("\n", false), ("\n", true), ("id: 1\r\n", false), ("\r", true), ("\n", true)]
    {
        decoder.receive(piece.as_bytes());
        assert_eq!(decoder.is_between_frames(), between, "after {piece:?}");
    }
}

#[test]
fn pieces_of_any_size_give_the_same_messages() {
    let stream = "event: a\r\ndata: \u{1f600}\r\n\r\n: comment\rdata: b\ndata\n\nid: 4\ndata: c\r\r".as_bytes();
    let whole = Decoder::decode_all(stream);
    assert_eq!(whole.len(), 3);
    for cut in 0..=stream.len() {
        let mut decoder = Decoder::default();
        decoder.receive(&stream[..cut]);
        let mut messages = decoder.take_messages();
        decoder.receive(&stream[cut..]);
        messages.extend(decoder.take_messages());
        assert_eq!(messages, whole, "cut at {cut}");
        assert!(decoder.is_between_frames());
    }
}
