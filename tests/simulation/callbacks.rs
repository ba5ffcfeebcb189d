//! The oracle's judgement of callbacks: one connect for each stream, one disconnect for each that was
//! accepted, after its answer, for the right reason, and no more of them at once than allowed.

use super::oracle::{CONNECT, DISCONNECT, Oracle, millis};
use super::stream::{Expected, Phase, Said, Verdict};
use ssegateway::callback::{Detail, Outcome, Reason};

/// A callback may take this much longer than its timeout.
const GRACE: u64 = 1000;
/// The head of a stream; all of them are of one length.
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
    Content-Type: text/event-stream\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

impl Oracle {
    /// Workers that one kind of callback may take.
    fn lane_limit(&self) -> usize {
        let limit = self.settings.callback_concurrency;
        if limit == 1 || self.is_draining() { limit } else { limit - (limit / 64).max(1) }
    }

    /// A callback is made: no more than allowed at once, and of one kind not so many that the other
    /// cannot move.
    fn called(&mut self, kind: usize) {
        self.flying[kind] += 1;
        let limit = self.settings.callback_concurrency;
        assert!(self.flying[CONNECT] + self.flying[DISCONNECT] <= limit, "too many callbacks at once");
        assert!(self.flying[kind] <= self.lane_limit(), "one kind of callback takes all workers");
    }

    /// Whether a callback of that kind could be made at once.
    pub fn may_call(&self, kind: usize) -> bool {
        let limit = self.settings.callback_concurrency;
        self.flying[CONNECT] + self.flying[DISCONNECT] < limit && self.flying[kind] < self.lane_limit()
    }

    /// The gateway makes a connect callback for the stream on connection `n`.
    pub fn connect_called(&mut self, n: usize, request: &str) {
        self.called(CONNECT);
        let (now, settings) = (self.now, &self.settings);
        let it = &mut self.exchanges[n];
        assert_eq!(request, it.quoted, "another request is quoted");
        let stream = it.stream.as_mut().expect("a connect for what is no stream");
        assert!(!stream.called, "a second connect");
        // What came behind the GET, with it, may have ended the stream at once.
        let waits = stream.phase == Phase::Connecting || stream.asked_input == self.input;
        assert!(waits, "a connect that nobody waits for");
        stream.called = true;
        stream.answer_by = now + millis(settings.callback_timeout) + GRACE;
    }

    pub fn disconnect_called(&mut self, n: usize, request: &str, reason: &str, detail: Option<Detail>) {
        self.called(DISCONNECT);
        let explained = self.exchanges[n].stream.as_ref().is_some_and(|stream| {
            stream.phase == Phase::Over
                && stream.cause.is_some_and(|cause| (cause.0.as_str(), cause.1) == (reason, detail))
        });
        if !explained {
            self.timers_run();
        }
        let it = &mut self.exchanges[n];
        assert_eq!(request, it.quoted, "another request is quoted");
        let stream = it.stream.as_mut().expect("a disconnect for what is no stream");
        assert!(stream.owes_disconnect(), "a disconnect for what was not accepted, or not yet");
        assert_eq!(stream.phase, Phase::Over, "a disconnect of a stream that lives");
        stream.disconnects += 1;
        assert_eq!(stream.disconnects, 1, "a second disconnect");
        let said = |cause: (Reason, Option<Detail>)| (cause.0.as_str(), cause.1) == (reason, detail);
        let (cause, or_else) = (stream.cause, stream.or_else);
        let explained = cause.is_some_and(said) || or_else.is_some_and(said);
        assert!(explained, "a disconnect for another reason: {reason} {detail:?}, not {cause:?}");
    }

    /// The gateway learns what came of a connect callback.
    pub fn connect_answered(&mut self, n: usize, outcome: Outcome, said: Said) {
        self.input += 1;
        let (now, heartbeat) = (self.now, millis(self.settings.heartbeat_interval));
        let retry = self.settings.reconnect_delay_ms;
        let input = self.input;
        let it = &mut self.exchanges[n];
        let Some(stream) = &mut it.stream else { panic!("an answer for what is no stream") };
        let waited = stream.phase == Phase::Connecting;
        stream.answered(outcome, now, heartbeat, retry, said);
        if waited && stream.verdict == Some(Verdict::Accepted) {
            if it.backlog == 0 {
                it.progress_at = now;
            }
            it.backlog += STREAM_HEAD.len() + if stream.chunked { CHUNKED.len() } else { 0 };
            let frames = stream.expected.iter().map(|expected| match expected {
                Expected::Event(event) => event.frame_bytes(),
                Expected::Retry(_) => 8,
            });
            let frames: usize = frames.sum();
            if frames > 0 {
                it.pile(frames, input);
            }
        }
    }
}
