//! The oracle's side of reading: what has come whole, and so what is owed for it.

use super::exchange::What;
use super::oracle::{ANSWERS_MAX, EXCESS_MAX, Oracle, millis};
use super::stream::{Expected, Phase, Stream, Verdict};
use ssegateway::callback::{Detail, Reason};
use std::io::ErrorKind;

const OK: (u16, &str) = (200, r#"{"status":"ok"}"#);
const BUFFERED: (u16, &str) = (200, r#"{"status":"buffered"}"#);
const NOT_FOUND: (u16, &str) = (404, r#"{"error":"Token not found"}"#);
const FAILED: (u16, &str) = (500, r#"{"error":"Write failed: connection closed"}"#);

const NOT_READY: &str = r#"{"status":"not_ready","configured":true}"#;
const NOT_CONFIGURED: &str = r#"{"status":"not_ready","configured":false}"#;

impl Oracle {
    /// The gateway read from a connection.
    pub fn read(&mut self, n: usize, result: Result<usize, ErrorKind>) {
        self.input += 1;
        let it = &mut self.exchanges[n];
        assert!(!it.ended && !it.failed, "read again behind the end");
        let count = match result {
            Ok(0) => {
                it.ended = true;
                if let Some(stream) = &mut it.stream {
                    stream.end(Reason::ClientClosed, None);
                }
                return;
            }
            Ok(count) => {
                let pipelines = it.is_reading() && it.left_over >= ANSWERS_MAX;
                assert!(!pipelines, "more requests read although the answers to others wait");
                count as u64
            }
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(error) => {
                it.failed = true;
                let timed_out = error == ErrorKind::TimedOut;
                if let Some(stream) = &mut it.stream {
                    match timed_out {
                        true => stream.end(Reason::Error, Some(Detail::ClientTimeout)),
                        false => stream.end(Reason::ClientClosed, None),
                    }
                }
                return;
            }
        };
        it.read += count;
        while self.exchanges[n].is_reading()
            && let it = &mut self.exchanges[n]
            && let Some(request) = it.requests.get(it.arrived).filter(|request| request.end <= it.read)
        {
            let what = request.what.clone();
            it.arrived += 1;
            it.started_at = None;
            if it.backlog == 0 {
                it.progress_at = self.now;
            }
            self.arrive(n, what);
        }
        let it = &mut self.exchanges[n];
        let behind = it.requests.get(it.arrived.wrapping_sub(1)).map_or(0, |request| request.end);
        if it.is_reading() && it.read > behind {
            it.started_at.get_or_insert(self.now);
        }
        if it.excess() > EXCESS_MAX
            && let Some(stream) = &mut it.stream
        {
            stream.end(Reason::Error, Some(Detail::ExcessInput));
        }
    }

    /// A request has been read whole.
    fn arrive(&mut self, n: usize, what: What) {
        match what {
            What::Stream { chunked } => self.arrive_stream(n, chunked),
            What::Send(send) => self.arrive_send(send),
            What::Fixed { close: true, .. } | What::Broken => self.exchanges[n].closing = true,
            What::Ready => {
                let ready = self.drain_at.is_none() && self.settings.callback_configured;
                let (status, body) = match (ready, self.settings.callback_configured) {
                    (true, _) => (200, r#"{"status":"ready","configured":true}"#),
                    (false, configured) => (503, if configured { NOT_READY } else { NOT_CONFIGURED }),
                };
                let it = &mut self.exchanges[n];
                it.requests[it.arrived - 1].what = What::Fixed { status, body, head_only: false, close: false };
            }
            What::Metrics { .. } => {
                let open = self.open_streams();
                let it = &mut self.exchanges[n];
                it.closing = true;
                it.requests[it.arrived - 1].what = What::Metrics { open };
            }
            What::List { .. } => {
                let open = self.open_streams();
                let it = &mut self.exchanges[n];
                it.closing = true;
                it.requests[it.arrived - 1].what = What::List { open };
            }
            What::Fixed { close: false, .. } => {}
        }
    }

    fn arrive_stream(&mut self, n: usize, chunked: bool) {
        let mut stream = Stream::new(self.now + millis(self.settings.connect_queue), chunked, self.input);
        let refused = if !self.settings.callback_configured {
            Some(("Service not configured", false))
        } else if self.is_draining() {
            Some(("Shutting down", true))
        } else if self.streams() >= self.settings.streams_max {
            Some(("Too many streams", true))
        } else {
            None
        };
        if let Some((error, retries)) = refused {
            stream.phase = Phase::Over;
            stream.verdict = Some(Verdict::Failed { status: 503, error: error.to_owned(), retries });
        }
        self.exchanges[n].stream = Some(stream);
    }

    /// Streams that count against the limit.
    pub fn streams(&self) -> usize {
        let alive = |n: &&usize| {
            let stream = self.exchanges[**n].stream.as_ref();
            stream.is_some_and(|stream| stream.phase != Phase::Over)
        };
        self.open.iter().filter(alive).count()
    }

    /// Streams that the backend has accepted and that have not ended.
    fn open_streams(&self) -> usize {
        let open = |n: &&usize| self.exchanges[**n].stream.as_ref().is_some_and(|stream| stream.phase == Phase::Open);
        self.open.iter().filter(open).count()
    }

    fn arrive_send(&mut self, number: usize) {
        let send = &mut self.sends[number];
        if send.invalid.is_some() {
            return;
        }
        let exchange = send.stream.map(|n| &mut self.exchanges[n]);
        let Some((it, stream)) = exchange.and_then(|it| Some((it.stream.take()?, it))).map(|(s, it)| (it, s)) else {
            send.answer = Some(NOT_FOUND);
            return;
        };
        let stream = it.stream.insert(stream);
        let pending_max = self.settings.pending_bytes_max;
        send.answer = Some(match stream.phase {
            Phase::Over => NOT_FOUND,
            Phase::Connecting if stream.held_close => NOT_FOUND,
            Phase::Connecting if send.event.is_some() && stream.held_bytes > pending_max => {
                let error = "Too much was sent before the stream opened";
                stream.fail(503, error, true, Reason::Error, Detail::SlowConsumer);
                FAILED
            }
            Phase::Connecting => {
                if let Some(event) = &send.event {
                    stream.held_bytes += event.frame_bytes();
                    stream.held.push(event.clone());
                }
                stream.held_close = send.close;
                BUFFERED
            }
            // What came with the same input has not been offered yet and is no backlog.
            Phase::Open if send.event.is_some() && it.backlog > pending_max && it.chunk_input != self.input => {
                stream.end(Reason::Error, Some(Detail::SlowConsumer));
                FAILED
            }
            Phase::Open => {
                if let Some(event) = &send.event {
                    stream.expected.push_back(Expected::Event(event.clone()));
                    send.delivered = (!it.refused).then_some(self.input);
                    let bytes = event.frame_bytes();
                    if it.backlog == 0 {
                        it.progress_at = self.now;
                    }
                    it.pile(bytes, self.input);
                    it.chunk_input = self.input;
                }
                if send.close
                    && let Some(stream) = &mut it.stream
                {
                    stream.end(Reason::ServerClosed, None);
                }
                OK
            }
        });
    }
}
