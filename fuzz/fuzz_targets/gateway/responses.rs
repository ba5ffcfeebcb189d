//! What came out of a connection, read as a client reads it: responses, chunks, frames.

/// One response, whole or cut.
#[derive(Debug)]
pub struct Response<'b> {
    pub status: u16,
    pub close: bool,
    pub body: Body<'b>,
}

#[derive(Debug)]
pub enum Body<'b> {
    /// All of it, which may be nothing.
    Whole(&'b [u8]),
    Stream(Stream),
}

#[derive(Debug)]
pub struct Stream {
    pub chunked: bool,
    pub bytes: Vec<u8>,
    /// The last chunk was there.
    pub ended: bool,
}

/// Responses so far; the input may end anywhere in the last one.
#[derive(Debug)]
pub struct Responses<'b> {
    pub whole: Vec<Response<'b>>,
    /// Bytes of a response that is not there yet.
    pub rest: &'b [u8],
}

/// Reads everything that a connection has sent. Panics if that is not the beginning of well-formed responses.
pub fn read(mut bytes: &[u8]) -> Responses<'_> {
    let mut whole: Vec<Response<'_>> = Vec::new();
    loop {
        if bytes.is_empty() {
            return Responses { whole, rest: bytes };
        }
        assert!(!whole.last().is_some_and(|last| last.close), "bytes behind the last response");
        let start = b"HTTP/1.1 ";
        assert!(bytes.starts_with(start) || start.starts_with(bytes), "no response: {}", text(bytes));
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return Responses { whole, rest: bytes };
        };
        let head = Head::read(std::str::from_utf8(&bytes[..end]).expect("heads are ASCII"));
        let after = &bytes[end + 4..];
        if head.status == 100 {
            assert_eq!(&bytes[..end], b"HTTP/1.1 100 Continue");
            bytes = after;
            continue;
        }
        assert!(head.get("date").is_some(), "no date");
        let close = head.get("connection") == Some("close");
        if head.get("content-type") == Some("text/event-stream") {
            assert!(head.status == 200 && close && head.get("content-length").is_none());
            let chunked = head.get("transfer-encoding") == Some("chunked");
            let (bytes, ended) = if chunked { unchunk(after) } else { (after.to_vec(), false) };
            whole.push(Response { status: 200, close, body: Body::Stream(Stream { chunked, bytes, ended }) });
            return Responses { whole, rest: &[] };
        }
        let length = match head.get("content-length") {
            None => {
                assert!(matches!(head.status, 204 | 304), "{} without a length", head.status);
                0
            }
            Some(length) => length.parse().expect("a length in digits"),
        };
        let is_json = head.get("content-type") == Some("application/json");
        // The answer to HEAD has a length and no body; every body is a JSON object, or the metrics.
        let body_follows = length > 0 && (!is_json || after.first() == Some(&b'{') || (after.is_empty() && close));
        let Some(body) = after.get(..if body_follows { length } else { 0 }) else {
            return Responses { whole, rest: bytes };
        };
        if body_follows && is_json {
            serde_json::from_slice::<serde_json::Value>(body).expect("a body is JSON");
        }
        whole.push(Response { status: head.status, close, body: Body::Whole(body) });
        bytes = &after[body.len()..];
    }
}

struct Head<'b> {
    status: u16,
    fields: Vec<(String, &'b str)>,
}

impl<'b> Head<'b> {
    fn read(text: &'b str) -> Head<'b> {
        let mut lines = text.split("\r\n");
        let mut words = lines.next().unwrap_or_default().splitn(3, ' ').skip(1);
        let status = words.next().and_then(|status| status.parse().ok()).expect("a status");
        assert!(words.next().is_some(), "no place for a phrase");
        let fields: Vec<(String, &str)> = lines
            .map(|line| {
                let (name, value) = line.split_once(": ").expect("a field");
                assert!(!value.contains(['\r', '\n']));
                (name.to_ascii_lowercase(), value)
            })
            .collect();
        for (index, (name, _)) in fields.iter().enumerate() {
            assert!(fields[..index].iter().all(|(other, _)| other != name), "{name} twice");
        }
        Head { status, fields }
    }

    fn get(&self, name: &str) -> Option<&'b str> {
        self.fields.iter().find(|field| field.0 == name).map(|field| field.1)
    }
}

/// The data of all chunks so far, and whether the last one was there.
fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    loop {
        let Some(end) = find(bytes, b"\r\n") else {
            let cut = bytes.strip_suffix(b"\r").unwrap_or(bytes);
            assert!(cut.len() <= 16 && cut.iter().all(u8::is_ascii_hexdigit), "no size: {}", text(bytes));
            return (data, false);
        };
        let size = std::str::from_utf8(&bytes[..end]).expect("a size is ASCII");
        assert!(size.bytes().all(|byte| byte.is_ascii_hexdigit()), "{size}");
        let size = usize::from_str_radix(size, 16).expect("a size");
        bytes = &bytes[end + 2..];
        if size == 0 {
            assert!(b"\r\n".starts_with(&bytes[..bytes.len().min(2)]) && bytes.len() <= 2, "bytes behind the stream");
            return (data, bytes == b"\r\n");
        }
        let here = size.min(bytes.len());
        data.extend_from_slice(&bytes[..here]);
        bytes = &bytes[here..];
        match bytes {
            [] | [b'\r'] => return (data, false),
            [b'\r', b'\n', rest @ ..] => bytes = rest,
            _ => panic!("a chunk longer than it says: {}", text(bytes)),
        }
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}
