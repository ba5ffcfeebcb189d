//! What clients ask: streams, probes, and things that are no request.

use super::client::Script;
use super::exchange::What;
use super::faults::Fault;
use super::world::World;

const NOT_FOUND: &str = r#"{"error":"Not found"}"#;
const HEALTHY: &str = r#"{"status":"ok"}"#;

/// Input that must be refused, whole or in part.
const GARBAGE: [&[u8]; 16] = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
    b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET /",
];

impl World {
    /// Writes the script of client `n`; returns whether it asks for a stream.
    pub fn write_script(&mut self, n: usize, script: &mut Script) -> bool {
        if self.faults.strikes(Fault::Garbage, &mut self.random) {
            self.write_garbage(script);
            return false;
        }
        match self.random.below(10) {
            0 => {
                let count = self.random.within(1, 8);
                self.write_probes(script, count, true);
                false
            }
            1 if self.random.chance(200) => {
                // More answers than the gateway holds for one that does not read.
                let count = self.random.within(300, 3_000);
                self.write_probes(script, count, false);
                false
            }
            2 => {
                let count = self.random.within(1, 3);
                self.write_probes(script, count, false);
                self.write_stream(n, script);
                true
            }
            _ => {
                self.write_stream(n, script);
                true
            }
        }
    }

    fn write_stream(&mut self, n: usize, script: &mut Script) {
        let old = self.random.chance(100);
        let (version, host) = if old { ("1.0", "") } else { ("1.1", "Host: sim\r\n") };
        let id = self.random.chance(200).then_some(("Last-Event-ID: 7\r\n", r#""last-event-id":"7""#));
        let field = id.map_or("", |(field, _)| field);
        let head = format!("GET /s/{n}?q=%zz HTTP/{version}\r\n{host}{field}\r\n");
        let quoted: Vec<&str> =
            (!old).then_some(r#""host":"sim""#).into_iter().chain(id.map(|(_, json)| json)).collect();
        script.quoted = format!(r#"{{"url":"/s/{n}?q=%zz","headers":{{{}}}}}"#, quoted.join(","));
        script.add(head.as_bytes(), What::Stream { chunked: !old });
        if self.faults.strikes(Fault::ExcessInput, &mut self.random) {
            let count = self.random.pick(&[1, 100, 8_192, 8_193, 20_000]);
            script.bytes.resize(script.bytes.len() + count, b'x');
        }
    }

    fn write_probes(&mut self, script: &mut Script, count: u64, may_close: bool) {
        for left in (0..count).rev() {
            let last = left == 0 && may_close && self.random.chance(500);
            let close = if last { "Connection: close\r\n" } else { "" };
            let fixed = |status, body, head_only| What::Fixed { status, body, head_only, close: last };
            let reports = self.settings.internal_token.is_none() && !self.settings.internal_listener;
            let (line, more, what) = match self.random.below(14) {
                0 if !last => ("GET /readyz", "", What::Ready),
                1 => ("HEAD /healthz", "", fixed(200, "", true)),
                2 => ("OPTIONS /healthz", "", fixed(204, "", false)),
                3 => ("GET /healthz/?a=b", "Content-Length: 0\r\n", fixed(200, HEALTHY, false)),
                4 => ("PUT /healthz", "", fixed(405, r#"{"error":"Method not allowed"}"#, false)),
                5 if self.settings.internal_token.is_none() => ("GET /internal/x", "", fixed(404, NOT_FOUND, false)),
                6 => {
                    let body =
                        format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{close}Content-Length: 11\r\n\r\nhello world");
                    script.add(body.as_bytes(), fixed(200, HEALTHY, false));
                    continue;
                }
                7 => {
                    let body = format!(
                        "GET /healthz HTTP/1.1\r\nHost: a\r\n{close}Transfer-Encoding: chunked\r\n\r\n\
                         5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n"
                    );
                    script.add(body.as_bytes(), fixed(200, HEALTHY, false));
                    continue;
                }
                report @ (8 | 9) if reports && left == 0 && may_close => {
                    let (target, what) = match report {
                        8 => ("connections?limit=10000", What::List { open: 0 }),
                        _ => ("metrics", What::Metrics { open: 0 }),
                    };
                    script.add(format!("GET /internal/{target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), what);
                    continue;
                }
                _ => ("GET /healthz", "", fixed(200, HEALTHY, false)),
            };
            script.add(format!("{line} HTTP/1.1\r\nHost: a\r\n{more}{close}\r\n").as_bytes(), what);
        }
    }

    fn write_garbage(&mut self, script: &mut Script) {
        let before = self.random.below(3);
        self.write_probes(script, before, false);
        match self.random.below(20) {
            0..=15 => script.add(self.random.pick(&GARBAGE), What::Broken),
            16 | 17 => {
                let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
                head.resize(self.settings.head_bytes_max + 100, b'x');
                script.add(&head, What::Broken);
            }
            _ => {
                let length = self.settings.body_bytes_max + 1;
                let mut request =
                    format!("POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").into_bytes();
                request.resize(request.len() + self.random.below(80_000) as usize, b'x');
                script.add(&request, What::Broken);
            }
        }
    }
}
