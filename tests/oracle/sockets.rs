//! The traffic of a connection: each read, each write, and its end. Bytes that the kernel accepts are parsed and
//! checked.

use super::exchange::{Exchange, What};
use super::limits::{ANSWERS_MAX, OFFER_MAX, READS_FOR, due};
use super::members::is_heartbeat;
use super::responses::{Answer, Part};
use super::streams::{Phase, Stream};
use super::{Oracle, millis, unix_seconds};
use ssegateway::callback::{Detail, Reason};
use ssegateway::gateway::{CloseMode, SocketError};
use std::io::ErrorKind;
use std::rc::Rc;

const READY: &str = r#"{"status":"ready","configured":true}"#;
const NOT_READY: &str = r#"{"status":"not_ready","configured":true}"#;
const NOT_CONFIGURED: &str = r#"{"status":"not_ready","configured":false}"#;

impl Oracle {
    /// The gateway has accepted a client; after it stops accepting, it must not.
    pub(crate) fn accepted(&mut self, n: usize) {
        let it = &mut self.exchanges[n];
        it.accepted = true;
        it.accepted_at = self.now;
        it.started_at = Some(self.now);
        it.progress_at = self.now;
        self.open.push(n);
        if self.is_draining() {
            self.exchanges[n].end_reading(503);
        }
    }

    /// The gateway read from a connection.
    pub(crate) fn read(&mut self, n: usize, result: Result<usize, ErrorKind>) {
        self.input += 1;
        let it = &mut self.exchanges[n];
        assert!(!it.ended && !it.failed, "read again after the end");
        // Above the limit of unsent answers the last look finds nothing, and what is read then is discarded.
        let last_look = it.last_look.filter(|_| it.left_over < ANSWERS_MAX);
        if result != Err(ErrorKind::Interrupted) {
            it.looked_at = Some(self.now);
        }
        let count = match result {
            Ok(0) => {
                it.ended = true;
                if last_look.is_some() {
                    it.refusal_owed = None;
                }
                if let Some(stream) = &mut it.stream {
                    stream.end(Reason::ClientClosed, None);
                }
                return;
            }
            Ok(count) => {
                let pipelines = it.is_reading() && it.left_over >= ANSWERS_MAX;
                assert!(!pipelines, "more requests read although answers to others are unsent");
                count as u64
            }
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(ErrorKind::TimedOut) => return self.failed(n, SocketError::TimedOut),
            Err(_) => return self.failed(n, SocketError::Reset),
        };
        it.read += count;
        it.heard_at = self.now;
        if last_look.is_some() {
            (it.closing, it.refusal_owed) = (false, None);
        }
        while let it = &mut self.exchanges[n]
            && !it.wild
            && it.is_reading()
            && let Some(what) = it.arrive()
        {
            if it.backlog == 0 {
                it.progress_at = self.now;
            }
            self.arrive(n, what);
        }
        let it = &mut self.exchanges[n];
        if it.is_reading() && it.is_within_request() {
            it.started_at.get_or_insert(self.now);
        }
        if let Some(status) = last_look.filter(|_| it.is_reading() && !it.wild) {
            let late = it.started_at.is_some_and(|at| due(at + millis(self.settings.request_timeout), self.now));
            if status == 503 || late {
                it.refuse_rest(status);
            }
        }
        it.wild |= it.is_reading() && it.followed_to.is_some_and(|followed| it.read > followed);
        if it.is_flooded()
            && let Some(stream) = &mut it.stream
        {
            stream.end(Reason::Error, Some(Detail::ExcessInput));
        }
    }

    /// A call failed: the connection is gone.
    pub(crate) fn failed(&mut self, n: usize, error: SocketError) {
        let (reason, detail) = match error {
            SocketError::Reset => (Reason::ClientClosed, None),
            SocketError::WriteFailed => (Reason::Error, Some(Detail::WriteFailed)),
            SocketError::TimedOut => (Reason::Error, Some(Detail::ClientTimeout)),
        };
        let it = &mut self.exchanges[n];
        it.failed = true;
        if let Some(stream) = &mut it.stream {
            stream.end(reason, detail);
        }
    }

    /// A request has been read in full.
    fn arrive(&mut self, n: usize, what: What) {
        let open = self.open_streams();
        let (leaving, configured) = (self.is_leaving(), self.settings.callback_configured);
        let it = &mut self.exchanges[n];
        // From the first signal on, the answer to the last request received is the last one.
        let last = leaving && it.arrived_last();
        match what {
            What::Stream { chunked, declared: _, quoted, cursor } => self.arrive_stream(n, chunked, quoted, cursor),
            What::Send(send) => {
                if last {
                    it.conclude();
                }
                self.arrive_send(send);
            }
            What::Look { group, .. } => {
                if last {
                    it.conclude();
                }
                let shows = Some(Rc::new(self.shown(group)));
                self.exchanges[n].decide(What::Look { group, shows });
            }
            What::Fixed { status, body, head_only, close } => {
                let close = close || last;
                it.closing = close;
                it.decide(What::Fixed { status, body, head_only, close });
            }
            What::Broken { .. } => it.closing = true,
            What::Ready { close } => {
                let close = close || last;
                let (status, body) = match (configured, leaving) {
                    (true, false) => (200, READY),
                    (true, true) => (503, NOT_READY),
                    (false, _) => (503, NOT_CONFIGURED),
                };
                it.closing = close;
                it.decide(What::Fixed { status, body, head_only: false, close });
            }
            What::Metrics { .. } => {
                it.closing = true;
                it.decide(What::Metrics { open });
            }
            What::List { limit, .. } => {
                it.closing = true;
                it.decide(What::List { limit, open });
            }
        }
    }

    /// The gateway offered bytes; the number accepted, or the error. `whole`: `false` if a fault kept the kernel from
    /// accepting more.
    pub(crate) fn wrote(&mut self, n: usize, offered: &[u8], result: Result<usize, ErrorKind>, whole: bool) {
        let now = self.now;
        let again = |oracle: &Self| {
            let it = &oracle.exchanges[n];
            it.written_input == oracle.input && it.written_whole && !it.is_report_next() && !it.is_member()
        };
        // A page of the list is built once everything else is written.
        if again(self) && matches!(self.exchanges[n].next_answered(), Some(What::List { .. })) {
            self.input += 1;
        }
        // Without an answer from the backend, only a timeout can have answered a stream's GET.
        let it = &self.exchanges[n];
        let undecided = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Connecting);
        if again(self) || (undecided && it.backlog == 0 && it.answered + 1 == it.arrived) {
            self.timers_run();
        }
        assert!(!again(self), "two writes for one input: the second {}", offered.escape_ascii());
        let input = self.input;
        let it = &mut self.exchanges[n];
        assert!(!it.closed && it.shut_at.is_none() && !it.failed, "a write after the end");
        (it.written_input, it.written_at) = (input, Some(now));
        it.unlucky = !whole;
        let taken = match result {
            Ok(0) => return self.failed(n, SocketError::WriteFailed),
            Ok(taken) => taken,
            Err(ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(ErrorKind::TimedOut) => return self.failed(n, SocketError::TimedOut),
            Err(_) => return self.failed(n, SocketError::WriteFailed),
        };
        it.refused = result == Err(ErrorKind::WouldBlock);
        it.written_whole = taken == offered.len() && taken < OFFER_MAX;
        if it.backlog == 0 || taken > 0 {
            it.progress_at = now;
        }
        let begins = it.refused && !it.was_refused;
        it.was_refused |= it.refused;
        if begins || (taken > 0 && it.was_refused) {
            it.reads_until = now + READS_FOR;
        }
        it.left_over = offered.len() - taken;
        it.backlog = match offered.len() {
            OFFER_MAX.. => it.backlog.saturating_sub(taken).max(1),
            offered => offered - taken,
        };
        if it.backlog == 0 {
            (it.was_refused, it.reads_until) = (false, 0);
        } else {
            // Later output of this input starts another chunk.
            it.chunk_input = u64::MAX;
        }
        self.decode(n, &offered[..taken]);
        self.note_member_write(n, taken == offered.len());
        let it = &mut self.exchanges[n];
        if let (true, false, Some(stream)) = (it.written_whole, it.wild, &mut it.stream) {
            stream.heartbeat_may = false;
            assert!(stream.expected.is_empty(), "an event left out of the write for its batch");
        }
    }

    fn decode(&mut self, n: usize, mut taken: &[u8]) {
        loop {
            let it = &mut self.exchanges[n];
            let body = it.next_body();
            let Some(part) = it.responses.next(&mut taken, body) else { return };
            if !self.explains(n, &part) {
                self.timers_run();
            }
            if let Part::Answer(_) | Part::StreamHead = part {
                let it = &self.exchanges[n];
                let life = unix_seconds(it.accepted_at)..=unix_seconds(self.now);
                let date = it.responses.date;
                assert!(life.contains(&date), "a Date outside the connection's life: {date}, not {life:?}");
            }
            if let Part::Frame(frame) = &part {
                match is_heartbeat(frame) {
                    true => self.heartbeats += 1,
                    false => self.frames += 1,
                }
            }
            if self.exchanges[n].wild {
                self.judge_wild(n, &part);
            } else {
                self.judge(n, &part);
            }
        }
    }

    fn judge(&mut self, n: usize, part: &Part) {
        match part {
            Part::Interim => {
                let expects = match self.exchanges[n].next_unanswered() {
                    Some(What::Send(number)) => std::mem::take(&mut self.sends[*number].expects),
                    // A send that turns out to be too long.
                    what => matches!(what, Some(What::Broken { status: 413 })),
                };
                assert!(expects, "unexpected 100 (Continue)");
            }
            Part::Answer(answer) => self.answered(n, answer),
            Part::StreamHead => self.stream_headed(n),
            Part::Frame(frame) if self.exchanges[n].is_member() => self.member_frame(n, frame),
            Part::Frame(frame) => self.exchanges[n].stream.as_mut().expect("a frame without a stream").frame(frame),
            Part::StreamEnd => self.stream_ended(n),
        }
    }

    /// The rules for every connection.
    fn judge_wild(&mut self, n: usize, part: &Part) {
        let (now, interval) = (self.now, millis(self.settings.heartbeat_interval));
        match (part, &mut self.exchanges[n].stream) {
            (Part::Answer(answer), _) => {
                let is_json = answer.body.first() == Some(&b'{');
                let parses = !is_json || serde_json::from_slice::<serde_json::Value>(&answer.body).is_ok();
                assert!(parses, "not JSON: {}", answer.body.escape_ascii());
            }
            (Part::Frame(frame), Some(stream)) => stream.wild_frame(frame, now, interval),
            (Part::Interim | Part::StreamHead | Part::Frame(_) | Part::StreamEnd, _) => {}
        }
    }

    /// A complete response with a length.
    fn answered(&mut self, n: usize, answer: &Answer) {
        let it = &mut self.exchanges[n];
        let status = answer.status;
        let body = std::str::from_utf8(&answer.body).expect("text");
        let what = it.next_answered().cloned();
        let concludes = it.concludes == Some(it.answered);
        it.answered += 1;
        it.concluded = answer.close;
        let Some(what) = what else {
            // No request, or an incomplete one.
            let timely = match (status, it.refusal_owed.take()) {
                (408, owed) => owed == Some(408),
                (503, owed) => owed == Some(503) && body.contains("Shutting down"),
                (_, _) => matches!(it.last_answered(), Some(What::Broken { status: due }) if status == *due),
            };
            assert!(timely, "an answer without a request, or too early: {status} {body}");
            assert!(answer.close, "an error in the input does not end the connection");
            (it.closing, it.last_look) = (true, None);
            it.started_at = None;
            return;
        };
        match what {
            What::Stream { .. } => self.stream_refused(n, answer, body),
            What::Fixed { status: due, body: due_body, head_only, close } => {
                let due_body = if head_only { "" } else { due_body };
                assert_eq!((status, body, answer.close), (due, due_body, close), "wrong answer");
            }
            What::Metrics { open } => {
                let shown = body.lines().find_map(|line| line.strip_prefix("ssegateway_streams_open "));
                let shown = shown.and_then(|number| number.parse().ok());
                assert!(status == 200 && answer.close, "{status}");
                assert!(
                    shown.is_some_and(|shown| open.contains(&shown)),
                    "{shown:?} streams in the metrics, not {open:?}"
                );
            }
            What::List { limit, open } => {
                assert!(status == 200 && answer.close);
                let list: serde_json::Value = serde_json::from_str(body).expect("JSON");
                let count = list["count"].as_u64().map_or(usize::MAX, |count| count as usize);
                let listed = list["connections"].as_array().map(Vec::len);
                // They are counted when the page is built, which may be slightly later.
                let now = self.open_streams();
                let open = *open.start().min(now.start())..=*open.end().max(now.end());
                assert!(open.contains(&count), "{count} streams in the list, not {open:?}: {body}");
                assert_eq!(listed, Some(count.min(limit)), "wrong page: {body}");
                assert!(list["next"].is_null() || count >= limit, "next names a page that does not exist: {body}");
            }
            What::Look { group, shows } => {
                assert!(status == 200 && answer.close == concludes, "wrong end of a connection: {status} {body}");
                self.check_look(group, &shows.expect("it has arrived"), body);
            }
            What::Ready { .. } => panic!("not resolved when it arrived"),
            What::Broken { status: due } => {
                assert_eq!((status, answer.close), (due, true), "wrong answer to a malformed request")
            }
            What::Send(number) => {
                assert_eq!(answer.close, concludes, "wrong end of a connection: {body}");
                self.sent(number, status, body);
            }
        }
    }

    /// Whether input alone explains this output.
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
            // The last request may be a stream's; those before it were answered when they arrived.
            Part::Answer(_) => stream.is_none() || it.answered + 1 < it.arrived || has_verdict,
            Part::StreamHead => has_verdict,
            Part::Frame(frame) if is_heartbeat(frame) => stream.is_some_and(Stream::may_beat),
            Part::Frame(frame) => stream.is_some_and(|stream| stream.expects(frame)),
            Part::StreamEnd => stream.is_some_and(|stream| stream.phase == Phase::Over || stream.may_end()),
        }
    }

    /// The gateway shuts its side down.
    pub(crate) fn shut(&mut self, n: usize) {
        let has_ended = !self.is_stalled(n) && self.may_have_ended_unseen(n);
        let it = &self.exchanges[n];
        let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
        if !(it.closing || it.wild || has_ended || over) {
            self.timers_run();
        }
        self.note_member_room(n);
        let look_since = self.drained_at.unwrap_or(self.now);
        let it = &mut self.exchanges[n];
        assert!(it.shut_at.is_none(), "shut down twice");
        if let Some(stream) = it.stream.as_mut().filter(|stream| stream.ends_visibly_cut()) {
            stream.fall_silent();
            // Answers before the stream that the client has not read are lost with it.
            (it.cut, it.backlog, it.unlucky, it.concluded) = (true, 0, false, true);
        }
        assert!(it.cut || it.wild || it.responses.is_between(), "shut down within a response");
        if !it.wild && !it.cut {
            assert!(!it.owes(), "shut down with output unsent{}", it.describe_due());
            if let Some(stream) = &it.stream {
                let whole = !stream.headed || !stream.chunked || stream.complete;
                assert!(!stream.is_owed_frames() && whole, "cut short");
            } else if !it.concluded {
                let idle =
                    it.started_at.is_none() && self.now >= it.progress_at + millis(self.settings.keepalive_timeout);
                assert!(idle || it.closing, "shut down for no reason");
                let looked = it.look_waived || it.looked_at.is_some_and(|at| at >= look_since);
                assert!(looked, "shut down without a last read");
            }
        }
        // What a stream that is not followed has is dropped with it.
        (it.closing, it.last_look, it.backlog) = (true, None, 0);
        it.shut_at = Some(self.now);
        it.progress_at = self.now;
    }

    /// The gateway closes a connection, for which it must have a reason.
    pub(crate) fn closed(&mut self, n: usize, how: CloseMode) {
        if !self.is_stalled(n) {
            self.may_have_ended_unseen(n);
        }
        let it = &self.exchanges[n];
        let over = it.stream.as_ref().is_some_and(|stream| stream.phase == Phase::Over);
        if !(it.ended || it.failed || over || it.closing) {
            self.timers_run();
        }
        self.open.retain(|open| *open != n);
        let (stalled, now, lingers_until) = (self.is_stalled(n), self.now, self.lingers_until(n));
        let it = &mut self.exchanges[n];
        it.closed = true;
        if it.wild {
            return;
        }
        let flooded = it.is_flooded();
        let cut = it.stream.as_ref().is_some_and(|stream| stream.was_cut());
        assert!(!it.owes() || it.failed || stalled || flooded || cut, "closed with output unsent");
        // One that had ended before, unseen, is reset like all whose last bytes are not read.
        let cut_first = |stream: &Stream| stream.ends_visibly_cut() && stream.or_else.is_none();
        let reset = it.shut_at.is_none() && it.stream.as_ref().is_some_and(cut_first);
        assert!(!reset || it.ended || it.failed, "a cut stream loses unread bytes");
        if it.ended || it.failed || stalled || lingers_until.is_some_and(|until| now >= until) {
            return;
        }
        if let Some(stream) = &it.stream {
            let cut = matches!(stream.cause, Some((Reason::Error, _)));
            assert!(stream.phase == Phase::Over, "a stream closed for no reason: {how:?}");
            assert!(cut || flooded, "closed too early");
            return;
        }
        panic!("closed for no reason: {how:?}");
    }
}

impl Exchange {
    /// Whether something is unsent, or a request without its answer.
    fn owes(&self) -> bool {
        self.backlog > 0 || self.owes_answer() || self.refusal_owed.is_some()
    }
}
