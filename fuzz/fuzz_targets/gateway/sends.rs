//! What clients and backends write: requests as bytes, and the frames that events must become.

use crate::operation::{Request, Send, SendEvent};
use std::fmt::Write;
use uuid::Uuid;

/// An event, and the frame that docs/protocol.md, section 5, makes of it.
pub struct Made {
    pub json: serde_json::Value,
    pub frame: String,
}

/// `number` makes every event another.
pub fn event(event: &SendEvent, number: u32) -> Made {
    let long = "l".repeat(usize::from(event.length));
    let data = match event.kind & 7 {
        0..=2 => format!("{number}"),
        3 => format!("{number}\r\nb\rc\n\nd"),
        4 => format!("{number}\r: heartbeat\r\rdata: x\n"),
        5 => format!("{{\"number\":{number},\"text\":\"\u{e9}\u{1f600}\0\"}}"),
        6 => format!("{number}{}", "\n".repeat(usize::from(event.length))),
        _ => format!("{number}{long}"),
    };
    let mut fields = serde_json::Map::new();
    let mut frame = String::new();
    if event.named {
        fields.insert("name".to_owned(), "news".into());
        frame.push_str("event: news\n");
    }
    if let Some(empty) = event.id {
        let id = if empty { String::new() } else { number.to_string() };
        frame.push_str(&if empty { "id:\n".to_owned() } else { format!("id: {id}\n") });
        fields.insert("id".to_owned(), id.into());
    }
    if event.retry {
        fields.insert("retry".to_owned(), number.into());
        let _ = writeln!(frame, "retry: {number}");
    }
    frame.push_str(&data_lines(&data));
    fields.insert("data".to_owned(), data.into());
    Made { json: fields.into(), frame }
}

/// The data of a frame, and its end.
pub fn data_lines(data: &str) -> String {
    let mut frame = String::new();
    for line in data.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
        let _ = writeln!(frame, "data: {line}");
    }
    frame.push('\n');
    frame
}

/// The JSON of a send.
pub fn body(token: Uuid, event: Option<&Made>, close: bool) -> Vec<u8> {
    let mut fields = serde_json::Map::new();
    fields.insert("token".to_owned(), token.to_string().into());
    if let Some(event) = event {
        fields.insert("event".to_owned(), event.json.clone());
    }
    if close {
        fields.insert("close".to_owned(), true.into());
    }
    serde_json::Value::from(fields).to_string().into_bytes()
}

/// The whole request of a send.
pub fn post(send: &Send, body: &[u8]) -> Vec<u8> {
    let mut request = b"POST /internal/send HTTP/1.1\r\nHost: h\r\n".to_vec();
    if send.expect {
        request.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    if send.chunked {
        request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in body.chunks(33) {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
    } else {
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
    }
    request
}

/// What a client may expect for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Status(u16),
    /// 200 or 503.
    Readyz,
    Stream,
    /// The answer to a send that the oracle does not follow.
    Any,
}

/// A request that is no send, and its answer on the public and on the internal listener; `reports`: that one has
/// `/internal/*`.
pub fn request(request: &Request, number: u32, internal: bool, reports: bool) -> (Vec<u8>, Expected) {
    let report = Expected::Status(if reports { 200 } else { 404 });
    let stream = |status| if internal { Expected::Status(404) } else { Expected::Status(status) };
    let (text, expected) = match request {
        Request::Stream { http_1_1: true, body: 0 } => {
            let text = format!("GET /s/{number}?a=%zz HTTP/1.1\r\nHost: h\r\nCookie: a=1\r\nCookie: b=\"2\"\r\n\r\n");
            (text, if internal { Expected::Status(404) } else { Expected::Stream })
        }
        Request::Stream { http_1_1: true, body } => {
            let filler = "b".repeat(usize::from(*body));
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: {body}\r\n\r\n{filler}");
            (text, if internal { Expected::Status(404) } else { Expected::Stream })
        }
        Request::Stream { http_1_1: false, body: _ } => {
            ("GET / HTTP/1.0\r\n\r\n".to_owned(), if internal { Expected::Status(404) } else { Expected::Stream })
        }
        Request::Send(_) => (String::new(), Expected::Any),
        Request::Healthz { head, close } => {
            let method = if *head { "HEAD" } else { "GET" };
            let close = if *close { "Connection: close\r\n" } else { "" };
            (format!("{method} /healthz HTTP/1.1\r\nHost: h\r\n{close}\r\n"), Expected::Status(200))
        }
        Request::Readyz => ("GET /readyz/?x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Expected::Readyz),
        Request::Options => ("OPTIONS /x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), stream(204)),
        Request::Unknown => ("GET /internal/x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), Expected::Status(404)),
        Request::PutOnStream => (
            "PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n".to_owned(),
            stream(405),
        ),
        Request::Metrics => ("GET /internal/metrics HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), report),
        Request::Connections { limit } => {
            (format!("GET /internal/connections?limit={limit} HTTP/1.1\r\nHost: h\r\n\r\n"), report)
        }
        Request::Refused { which } => {
            let (text, status) = match which % 8 {
                0 => ("GET / HTTP/1.1\r\n\r\n", 400),
                1 => ("GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
                2 => ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
                3 => ("POST /internal/send HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
                4 => ("PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\nConnection: close\r\n\r\n", 405),
                5 => ("GET /x HTTP/1.1\r\nHost: h\r\nExpect: tea\r\nConnection: close\r\n\r\n", 417),
                6 => ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
                _ => ("PUT /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", 405),
            };
            let status = if internal && matches!(which % 8, 4 | 5 | 7) { 404 } else { status };
            return (text.as_bytes().to_vec(), Expected::Status(status));
        }
    };
    (text.into_bytes(), expected)
}
