//! Request smuggling (docs/security.md): every case of a public corpus is either refused and its connection closed, or
//! read one way. `tests/security/front_ends.py` sends the same corpus through nginx and HAProxy.

mod common;

use common::{Answer, Backend, Client, Gateway, Response, find, get};

const CORPUS: &str = include_str!("security/smuggling.txt");

struct Case {
    name: String,
    expected: Vec<String>,
    bytes: Vec<u8>,
}

fn corpus() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CORPUS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(text) = line.strip_prefix("    ") {
            cases.last_mut().expect("bytes belong to a case").bytes.extend(unescape(text));
        } else {
            let (name, expected) = line.rsplit_once(": ").expect("name: expected");
            let expected = expected.split(' ').filter(|answer| *answer != "-").map(str::to_owned).collect();
            cases.push(Case { name: name.to_owned(), expected, bytes: Vec::new() });
        }
    }
    cases
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().expect("an escape") {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'x' => {
                    let digits = [rest.next(), rest.next()].map(|digit| char::from(digit.expect("two digits")));
                    u8::from_str_radix(&String::from_iter(digits), 16).expect("hexadecimal")
                }
                other => other,
            },
            plain => plain,
        });
    }
    bytes
}

/// The answers received on a connection until its end, in the corpus's notation.
fn answers(mut bytes: &[u8], head_first: bool) -> Vec<String> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let response = Response::parse_head(&bytes[..end + 4]);
        bytes = &bytes[end + 4..];
        let length: usize = response.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        if response.header("content-type") == Some("text/event-stream") {
            let chunked = response.header("transfer-encoding").is_some();
            assert_eq!(bytes, if chunked { &b"0\r\n\r\n"[..] } else { b"" }, "an empty stream, and nothing after it");
            bytes = &[];
            answers.push("stream".to_owned());
        } else if head_first && answers.is_empty() {
            answers.push(format!("{}h", response.status));
        } else {
            let (body, rest) = bytes.split_at(length);
            bytes = rest;
            let marker = response.status == 200 && find(body, MARKER_BODY).is_some();
            answers.push(if marker { "marker".to_owned() } else { response.status.to_string() });
        }
    }
    answers
}

const MARKER_BODY: &[u8] = b"\"configured\":true";

/// Sends in pieces of at most `piece` bytes; returns everything received until the connection ends.
fn exchange(port: u16, case: &Case, piece: usize) -> Vec<String> {
    let mut client = Client::connect(port);
    let mut input = case.bytes.clone();
    input.extend_from_slice(get("/readyz").as_bytes());
    for piece in input.chunks(piece) {
        // A gateway that has refused the head may already have closed.
        if client.try_send(piece).is_err() {
            break;
        }
    }
    match case.expected.last().map(String::as_str) {
        Some("marker") => {
            // The gateway keeps the connection alive, so the client ends it.
            while find(&client.buffer, MARKER_BODY).is_none() && client.fill() > 0 {}
            client.half_close();
        }
        None => client.half_close(),
        Some(_) => {}
    }
    answers(&client.rest_or_reset(), case.bytes.starts_with(b"HEAD "))
}

fn run(piece: usize) {
    let backend = Backend::connecting(Answer::json(r#"{"close":true}"#));
    let mut gateway = Gateway::start(&backend);
    let mut streams = 0;
    for case in corpus() {
        // Shown if the case fails.
        println!("{}: {:?}", case.name, String::from_utf8_lossy(&case.bytes));
        assert_eq!(exchange(gateway.port, &case, piece), case.expected, "{}", case.name);
        streams += case.expected.iter().filter(|answer| *answer == "stream").count();
        assert_eq!(backend.count("connect"), streams, "{}", case.name);
    }
    gateway.drain();
    assert_eq!(backend.count("connect"), streams);
    assert!(backend.history().iter().all(|call| call.url() != "/internal/send"));
}

#[test]
fn every_case_is_read_one_way() {
    run(usize::MAX);
}

#[test]
fn every_case_is_read_the_same_way_byte_by_byte() {
    run(1);
}

#[test]
fn the_corpus_is_whole() {
    let cases = corpus();
    assert!(cases.len() > 250, "{} cases", cases.len());
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(smuggled.len(), 35, "as the lengths in the corpus say");
    for (index, case) in cases.iter().enumerate() {
        assert!(!case.bytes.is_empty(), "{}", case.name);
        assert!(cases[..index].iter().all(|other| other.name != case.name), "{} twice", case.name);
    }
}
