//! The oracle's side of writing: each byte that the kernel takes is read back and judged.

use super::exchange::{Request, What};
use super::oracle::{EXCESS_MAX, LINGER, OFFER_MAX, Oracle, millis, unix_seconds};
use super::response::Part;
use super::stream::{Phase, Stream, Verdict};
use ssegateway::callback::{Detail, Reason};
use ssegateway::gateway::CloseMode;
use std::io::ErrorKind;

impl Oracle {
    /// The gateway offered bytes; how many were taken, or what went wrong. `whole`: `false` if chance
    /// kept the kernel from taking more.
    pub fn wrote(&mut self, n: usize, offered: &[u8], result: Result<usize, ErrorKind>, whole: bool) {
        let now = self.now;
        let again = |oracle: &Oracle| {
            let it = &oracle.exchanges[n];
            it.written_input == oracle.input && it.written_whole
        };
        // Without the backend's word only the time can have made it answer a stream's GET.
        let it = &self.exchanges[n];
        let undecided = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Connecting);
        if again(self) || (undecided && it.backlog == 0 && it.answered + 1 == it.arrived) {
            self.timers_run();
        }
        assert!(!again(self), "two writes for one input: the second {}", offered.escape_ascii());
        let input = self.input;
        let it = &mut self.exchanges[n];
        assert!(!it.closed && it.shut_at.is_none() && !it.failed, "a write behind the end");
        (it.written_input, it.written_at) = (input, now);
        it.unlucky = !whole;
        let taken = match result {
            Ok(0) => {
                self.write_failed(n, Detail::WriteFailed);
                return;
            }
            Ok(taken) => taken,
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => {
                let timed_out = error == ErrorKind::TimedOut;
                self.write_failed(n, if timed_out { Detail::ClientTimeout } else { Detail::WriteFailed });
                return;
            }
        };
        it.refused = result == Err(ErrorKind::WouldBlock);
        it.written_whole = taken == offered.len() && taken < OFFER_MAX;
        if it.backlog == 0 || taken > 0 {
            it.progress_at = now;
        }
        it.left_over = offered.len() - taken;
        it.backlog = match offered.len() {
            OFFER_MAX.. => it.backlog.saturating_sub(taken).max(1),
            offered => offered - taken,
        };
        if it.backlog > 0 {
            // What comes with this input from now on starts another chunk.
            it.chunk_input = u64::MAX;
        }
        self.decode(n, &offered[..taken]);
        let it = &mut self.exchanges[n];
        if let (true, Some(stream)) = (it.written_whole, &mut it.stream) {
            stream.heartbeat_may = false;
            assert!(stream.expected.is_empty(), "an event left out of the write for its batch");
        }
    }

    fn write_failed(&mut self, n: usize, detail: Detail) {
        let it = &mut self.exchanges[n];
        it.failed = true;
        if let Some(stream) = &mut it.stream {
            stream.end(Reason::Error, Some(detail));
        }
    }

    fn decode(&mut self, n: usize, mut taken: &[u8]) {
        loop {
            let it = &mut self.exchanges[n];
            let request = it.requests.get(it.answered).filter(|_| it.answered < it.arrived);
            let head_only = matches!(request, Some(Request { what: What::Fixed { head_only: true, .. }, .. }));
            let Some(part) = it.responses.next(&mut taken, head_only) else { return };
            if !self.explains(n, &part) {
                self.timers_run();
            }
            let it = &mut self.exchanges[n];
            if let Part::Answer(_) | Part::StreamHead = part {
                let (date, life) = (it.responses.date(), unix_seconds(it.accepted_at)..=unix_seconds(self.now));
                assert!(life.contains(&date), "a Date that is not of the connection's time: {date}, not {life:?}");
            }
            match part {
                Part::Interim => {}
                Part::Answer(answer) => self.answered(n, &answer),
                Part::StreamHead => self.stream_headed(n),
                Part::Frame(frame) => {
                    let stream = it.stream.as_mut().expect("a frame on what is no stream");
                    match frame == ssegateway::sse::HEARTBEAT {
                        true => self.heartbeats += 1,
                        false => self.frames += 1,
                    }
                    stream.frame(&frame);
                }
                Part::StreamEnd => {
                    let stream = it.stream.as_mut().expect("the end of what is no stream");
                    let clean = matches!(stream.cause, Some((Reason::ServerClosed, _)));
                    let failed = matches!(stream.verdict, Some(Verdict::Failed { .. }));
                    assert!(clean || failed, "a clean end of a stream that was cut: {:?}", stream.cause);
                    assert!(stream.expected.is_empty(), "the stream ends before its events");
                    stream.complete = true;
                    it.answered += 1;
                }
            }
        }
    }

    /// Whether input alone explains what is said.
    fn explains(&self, n: usize, part: &Part) -> bool {
        let it = &self.exchanges[n];
        let stream = it.stream.as_ref();
        let has_verdict = stream.is_some_and(|stream| stream.verdict.is_some());
        match part {
            Part::Interim => true,
            Part::Answer(answer) if it.answered >= it.arrived => match answer.status {
                408 | 503 => it.refusal_owed.is_some(),
                _ => true,
            },
            // The last request may be a stream's; those before it were answered when they came.
            Part::Answer(_) => stream.is_none() || it.answered + 1 < it.arrived || has_verdict,
            Part::StreamHead => has_verdict,
            Part::Frame(frame) if frame == ssegateway::sse::HEARTBEAT => stream.is_some_and(Stream::may_beat),
            Part::Frame(_) => stream.is_some_and(|stream| !stream.expected.is_empty()),
            Part::StreamEnd => stream.is_some_and(|stream| stream.phase == Phase::Over),
        }
    }

    /// The gateway shuts its side down.
    pub fn shut(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        assert!(it.responses.is_between(), "shut down within a response");
        assert!(it.backlog == 0 && !it.owes_answer() && it.refusal_owed.is_none(), "shut down with something unsaid");
        assert!(it.shut_at.is_none(), "shut down twice");
        if let Some(stream) = &it.stream {
            assert!(stream.expected.is_empty() && (!stream.headed || !stream.chunked || stream.complete), "cut off");
        }
        it.shut_at = Some(self.now);
        it.progress_at = self.now;
    }

    /// The gateway closes a connection: it must have a reason.
    pub fn closed(&mut self, n: usize, how: CloseMode) {
        let it = &self.exchanges[n];
        let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
        if !(it.ended || it.failed || over || it.closing) {
            self.timers_run();
        }
        self.open.retain(|open| *open != n);
        let (stalled, now, draining) = (self.is_stalled(n), self.now, self.is_draining());
        let it = &mut self.exchanges[n];
        it.closed = true;
        let flooded = it.stream.is_some() && it.excess() > EXCESS_MAX;
        let cut = it.stream.as_ref().is_some_and(|stream| stream.was_cut());
        let owes = it.backlog > 0 || it.owes_answer() || it.refusal_owed.is_some();
        assert!(!owes || it.failed || stalled || flooded || cut, "closed with something unsaid");
        let lingered = it.shut_at.is_some_and(|at| now >= at + LINGER) || (it.shut_at.is_some() && it.ended);
        if it.ended || it.failed || stalled || draining || lingered || it.late {
            return;
        }
        if let Some(stream) = &mut it.stream {
            let excess = it.read > EXCESS_MAX;
            let cut = matches!(stream.cause, Some((Reason::Error, _)));
            assert!(stream.phase == Phase::Over, "a stream closed for no reason: {how:?}");
            assert!(cut || excess || it.shut_at.is_some(), "closed before its time");
            return;
        }
        let idle = it.started_at.is_none() && now >= it.progress_at + millis(self.settings.keepalive_timeout);
        assert!(idle, "closed for no reason: {how:?}");
    }
}
