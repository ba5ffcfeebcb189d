//! A minimal HTTP/1.1 server: a thread per connection, bodies by `Content-Length` only. Enough for a browser and a
//! gateway on the same machine, and for nothing else.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Request line and headers; a browser's are about 1 kB.
const HEAD_BYTES_MAX: u64 = 32 * 1024;
/// A callback or the text of an event.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Idle timeout of a kept-alive connection.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) struct Request {
    pub method: String,
    pub path: String,
    /// Whether a POST is from our own page: another page cannot send it without a preflight.
    pub json: bool,
    pub body: Vec<u8>,
}

pub(crate) struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(status: u16, value: &serde_json::Value) -> Self {
        Self { status, content_type: "application/json", body: value.to_string().into_bytes() }
    }
}

/// Answers every request on `listener`, for as long as the process lives.
pub(crate) fn serve(listener: TcpListener, answer: impl Fn(Request) -> Response + Send + Sync + 'static) {
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // A peer that disconnects or sends garbage affects only its own connection.
            thread::spawn(move || drop(converse(stream, &*answer)));
        }
    });
}

fn converse(stream: TcpStream, answer: &dyn Fn(Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let Response { status, content_type, body } = answer(request);
        let mut bytes = format!(
            "HTTP/1.1 {status} Answer\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(&body);
        reader.get_mut().write_all(&bytes)?;
    }
    Ok(())
}

/// The next request, or `None` at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let malformed = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = reader.by_ref().take(HEAD_BYTES_MAX);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().ok_or_else(|| malformed("no method"))?.to_owned();
    let path = words.next().ok_or_else(|| malformed("no path"))?.to_owned();

    let (mut length, mut json) = (0, false);
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(malformed("head cut short or too long"));
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| malformed("content-length"))?;
        } else if name.eq_ignore_ascii_case("content-type") {
            json = value.trim().starts_with("application/json");
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(malformed("body too long"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, json, body }))
}
