//! Frames: a browser reads back what was written, wherever the stream is split.
//!
//! The input is text: events separated by 0x1E, fields of an event (data, name, id, retry) by 0x1F; an empty event is a
//! heartbeat.
#![no_main]

#[path = "../../tests/common/decode.rs"]
mod decode;

use decode::{Decoder, Message};
use libfuzzer_sys::fuzz_target;
use ssegateway::sse::{Event, HEARTBEAT, write_retry};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    let (mut last_id, mut last_retry) = (String::new(), None);
    for record in text.split('\u{1e}') {
        let before = stream.len();
        if record.is_empty() {
            stream.extend_from_slice(HEARTBEAT);
            continue;
        }
        let mut fields = record.splitn(4, '\u{1f}');
        let data = fields.next().unwrap_or_default();
        let name = fields.next().map(one_line);
        let id = fields.next().map(one_line);
        let retry: Option<u32> = fields.next().map(|digits| digits.parse().unwrap_or(7));
        if let (Some(milliseconds), "\0") = (retry, data) {
            write_retry(&mut stream, milliseconds);
            last_retry = Some(u64::from(milliseconds));
            continue;
        }
        let event = Event { name: name.map(Into::into), id: id.map(Into::into), retry, data: data.into() };
        event.write(&mut stream);
        last_retry = retry.map(u64::from).or(last_retry);
        last_id = event.id.map_or(last_id, Into::into);
        let name = event.name.filter(|name| !name.is_empty()).map_or_else(|| "message".to_owned(), Into::into);
        // A browser knows one kind of line break.
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        expected.push(Message { name, data, id: last_id.clone() });
        check_form(&stream[before..]);
    }
    let mut decoder = Decoder::default();
    decoder.receive(&stream);
    assert!(decoder.is_between_frames());
    assert_eq!(decoder.retry(), last_retry);
    assert_eq!(decoder.take_messages(), expected);
    for cut in (0..stream.len()).step_by(stream.len() / 32 + 1) {
        let mut decoder = Decoder::default();
        decoder.receive(&stream[..cut]);
        let mut messages = decoder.take_messages();
        decoder.receive(&stream[cut..]);
        messages.extend(decoder.take_messages());
        assert_eq!(messages, expected, "cut at {cut}");
    }
});

/// A name or an id, without the bytes that the gateway refuses in them.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n', '\0'], "")
}

/// docs/protocol.md, section 5: the fields present, in order, and no CR.
fn check_form(frame: &[u8]) {
    let lines = frame.strip_suffix(b"\n\n").expect("a blank line ends the frame");
    let ranks: Vec<usize> = lines
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let fields: [&[u8]; 4] = [b"event: ", b"id:", b"retry: ", b"data: "];
            fields.iter().position(|field| line.starts_with(field)).expect("a field of the contract")
        })
        .collect();
    assert!(ranks.is_sorted() && ranks.last() == Some(&3), "{ranks:?}");
    assert!(ranks.iter().filter(|rank| **rank < 3).collect::<Vec<_>>().windows(2).all(|pair| pair[0] != pair[1]));
    assert!(!frame.contains(&b'\r'));
}
