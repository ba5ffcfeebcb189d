//! Ten thousand nearly valid requests.

use crate::common::{Answer, Backend, Gateway, Ledger, Random, Verdict, eventually, process};
use crate::healthy::Healthy;
use crate::report;

const REQUESTS: usize = 10_000;
const SEED: u64 = 20_261_123;

const VALID: &[&str] = &[
    "GET /events?a=b HTTP/1.1\r\nHost: gateway\r\nAccept: text/event-stream\r\nCookie: a=b\r\n\r\n",
    "GET /old HTTP/1.0\r\n\r\n",
    "GET http://gateway/absolute HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "GET /body HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\nhello",
    "GET /healthz HTTP/1.1\r\nHost: gateway\r\n\r\nGET /readyz HTTP/1.1\r\nHost: gateway\r\n\r\n",
    "HEAD /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n",
    "OPTIONS /events HTTP/1.1\r\nHost: gateway\r\nOrigin: http://x\r\nAccess-Control-Request-Method: GET\r\n\r\n",
    "POST /internal/send HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: 78\r\n\r\n\
     {\"token\":\"0b5ad6a5-77d6-4a26-9ee8-4f2f5d7c1a10\",\"event\":{\"name\":\"n\",\"data\":\"d\"}}",
    "POST /internal/send HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n\
     b\r\n{\"token\":\"x\r\n4;ext=1\r\n\"}  \r\n0\r\nTrailer: 1\r\n\r\n",
    "POST /internal/send HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 13\r\n\r\n{\"token\":\"x\"}",
];

const SPLICES: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    "\r\n\r\n",
    "\u{7f}",
    "\u{ff}",
    "%00",
    "//",
    "../",
    "HTTP/1.1",
    "HTTP/2.0",
    "Content-Length: 0\r\n",
    "Content-Length: -1\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Host: other\r\n",
    "Connection: close\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 200-ok\r\n",
    " folded\r\n",
    "0\r\n\r\n",
    "FFFFFFFFFFFFFFFF\r\n",
    "{",
    "}",
    "\"",
    "\\u0000",
];

/// A valid request with one to four changes.
fn mutated(random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(VALID).as_bytes().to_vec();
    for _ in 0..=random.below(4) {
        let at = random.index(bytes.len());
        let end = (at + 1 + random.index(20)).min(bytes.len());
        match random.below(9) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => bytes.truncate(at + 1),
            5 => bytes[at] = bytes[at].to_ascii_uppercase() ^ 0x20,
            6 => {
                let other = random.pick(VALID).as_bytes();
                bytes.splice(at.., other[random.index(other.len())..].iter().copied());
            }
            7 => {
                let long = vec![bytes[at]; 1 << random.below(15)];
                bytes.splice(at..at, long);
            }
            _ => drop(bytes.splice(at..at, random.pick(SPLICES).bytes())),
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    bytes
}

#[test]
fn mutated_requests_get_an_answer_or_a_close() {
    let ledger = Ledger::default();
    let entries = ledger.clone();
    let backend = Backend::new(move |call| {
        if call.url() != "/healthy" {
            entries.enter(call, Verdict::Accepted);
        }
        Answer::ok()
    });
    let mut gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/healthy");
    let healthy = Healthy::start(&gateway, stream, token);
    let descriptors = gateway.descriptors();
    let mut random = Random::new(SEED);
    let mut statuses = std::collections::BTreeMap::<String, usize>::new();
    let mut before = 0;
    for n in 0..REQUESTS {
        let bytes = mutated(&mut random);
        let mut client = gateway.client();
        // Sometimes in two pieces; the gateway may have closed after the first.
        let cut = if n % 2 == 0 { bytes.len() } else { random.index(bytes.len()) };
        let _ = client.try_send(&bytes[..cut]);
        let _ = client.try_send(&bytes[cut..]);
        // Ends it in any case: an incomplete request, an idle connection, a stream.
        let _ = client.socket().shutdown(std::net::Shutdown::Write);
        let answer = client.rest_or_reset();
        let status = answer.get(..12).map_or("none".to_owned(), |line| String::from_utf8_lossy(line).into_owned());
        assert!(answer.is_empty() || status.starts_with("HTTP/1.1 "), "{n}: {:?}", String::from_utf8_lossy(&bytes));
        *statuses.entry(status).or_default() += 1;
        if n == REQUESTS / 2 {
            before = process::rss_kib(gateway.pid());
        }
    }
    let after = process::rss_kib(gateway.pid());
    assert!(after < before + 2 * 1024, "KiB halfway and at the end: {before}, {after}");
    eventually("their sockets are closed", || gateway.descriptors() <= descriptors + 16);
    eventually("every accepted one has its disconnect", || ledger.sums().open == 0);
    let seen = healthy.finish();
    assert_eq!(gateway.get("/healthz").status, 200);
    gateway.drain();
    ledger.assert_settled();
    report(&format!("{REQUESTS} mutated requests (seed {SEED}): {statuses:?}, RSS KiB {before} to {after}; {seen}"));
}
