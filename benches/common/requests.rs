//! Requests as a browser and a backend send them.

use std::io::Write;

/// The GET of a browser's `EventSource` behind a login: 15 fields, some 700 bytes.
pub(crate) fn browser_get(path: &str, host: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Connection: keep-alive\r\n\
         sec-ch-ua-platform: \"Linux\"\r\n\
         Cache-Control: no-cache\r\n\
         sec-ch-ua: \"Chromium\";v=\"136\", \"Google Chrome\";v=\"136\", \"Not.A/Brand\";v=\"99\"\r\n\
         sec-ch-ua-mobile: ?0\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/136.0.0.0 Safari/537.36\r\n\
         Accept: text/event-stream\r\n\
         Sec-Fetch-Site: same-origin\r\n\
         Sec-Fetch-Mode: cors\r\n\
         Sec-Fetch-Dest: empty\r\n\
         Referer: http://{host}/dashboard/overview\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\n\
         Accept-Language: en-US,en;q=0.9\r\n\
         Cookie: session=4f0c8a52b1d94e6c9a7d3e5f60718293a4b5c6d7e8f9; theme=dark\r\n\
         \r\n"
    )
    .into_bytes()
}

/// Appends a send to a stream as Python's requests writes it. `data` is the escaped inside of a JSON string.
pub(crate) fn push_send(out: &mut Vec<u8>, token: &str, data: &[u8]) {
    push_send_to(out, "token", token, data);
}

/// The same to a `token` or a `group`.
pub(crate) fn push_send_to(out: &mut Vec<u8>, kind: &str, name: &str, data: &[u8]) {
    const BETWEEN: &str = r#"":""#;
    const BEFORE_DATA: &str = r#"","event":{"name":"message","data":""#;
    const AFTER_DATA: &str = r#""},"close":false}"#;
    let target = 2 + kind.len() + BETWEEN.len() + name.len();
    let length = target + BEFORE_DATA.len() + data.len() + AFTER_DATA.len();
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "POST /internal/send HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: python-requests/2.32.3\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{\"{kind}{BETWEEN}{name}{BEFORE_DATA}"
    );
    out.extend_from_slice(data);
    out.extend_from_slice(AFTER_DATA.as_bytes());
}

/// The data of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// 100 bytes of letters.
    Plain,
    /// 1,000 bytes of JSON, which a send carries as an escaped string.
    Json,
}

impl Payload {
    pub(crate) fn text(self) -> String {
        let (pattern, length) = match self {
            Self::Plain => ("abcdefghijklmnopqrstuvwxyz ", 100),
            Self::Json => (r#"{"key":"value","count":12345} "#, 1000),
        };
        pattern.chars().cycle().take(length).collect()
    }

    /// The text, escaped for the inside of a JSON string.
    pub(crate) fn escaped(self) -> String {
        self.text().replace('"', "\\\"")
    }
}
