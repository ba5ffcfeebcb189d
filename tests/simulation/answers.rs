//! The oracle's judgement of answers: each must be the one that its request deserves.

use super::exchange::What;
use super::oracle::Oracle;
use super::response::Answer;
use super::stream::{Expected, Phase, Verdict};

/// `retry` of a stream that failed to open, if the settings name none.
const RETRY_DEFAULT: u32 = 3000;

impl Oracle {
    /// A complete response with a length.
    pub fn answered(&mut self, n: usize, answer: &Answer) {
        let it = &mut self.exchanges[n];
        let status = answer.status;
        let body = std::str::from_utf8(&answer.body).expect("text");
        let request = it.requests.get(it.answered).filter(|_| it.answered < it.arrived);
        it.answered += 1;
        it.concluded = answer.close;
        let Some(request) = request else {
            // Nothing was asked, or not to its end.
            let timely = match (status, it.refusal_owed.take()) {
                (408, owed) => owed == Some(408),
                (503, owed) => owed == Some(503) && body.contains("Shutting down"),
                (_, _) => it.requests.get(it.answered - 1).is_some_and(|next| matches!(next.what, What::Broken)),
            };
            assert!(timely, "an answer to nothing, or before its time: {status} {body}");
            assert!(answer.close, "an error in the input does not end the connection");
            it.closing = true;
            it.started_at = None;
            return;
        };
        match &request.what {
            What::Stream { .. } => {
                let stream = it.stream.as_ref().expect("a stream");
                let Some(Verdict::Failed { status: due, error, retries }) = stream.verdict.clone() else {
                    panic!("a stream is refused although nothing failed: {status} {body}");
                };
                let due_body = format!(r#"{{"error":"{error}"}}"#);
                assert_eq!((status, body), (due, &*due_body), "another answer to a stream's GET");
                assert!(answer.close, "a refusal does not end the connection");
                assert!(!self.retries(retries), "a status where there should be a retry");
                if let Some(stream) = &mut self.exchanges[n].stream {
                    (stream.headed, stream.complete) = (true, true);
                }
            }
            What::Fixed { status: due, body: due_body, head_only, close } => {
                let due_body = if *head_only { "" } else { due_body };
                assert_eq!((status, body, answer.close), (*due, due_body, *close), "another answer");
            }
            What::Metrics { open } => {
                let line = format!("\nssegateway_streams_open {open}\n");
                assert!(status == 200 && answer.close && body.contains(&line), "no {line:?} in {body}");
            }
            What::List { open } => {
                assert!(status == 200 && answer.close);
                let list: serde_json::Value = serde_json::from_str(body).expect("JSON");
                let entries = list["connections"].as_array().map(Vec::len);
                assert_eq!((list["count"].as_u64(), entries), (Some(*open as u64), Some(*open)), "{body}");
                assert!(list["next"].is_null());
            }
            What::Ready => panic!("not judged when it arrived"),
            What::Broken => assert!((400..=505).contains(&status) && answer.close, "{status} to what is no request"),
            What::Send(number) => {
                let number = *number;
                self.sent(number, status, body);
            }
        }
    }

    fn sent(&self, number: usize, status: u16, body: &str) {
        let send = &self.sends[number];
        if let Some(error) = send.invalid {
            assert_eq!((status, body), (400, error), "another answer to a bad send");
            return;
        }
        assert_eq!(Some((status, body)), send.answer, "another answer to a send: for client {:?}", send.stream);
        if let (Some(input), Some(stream)) = (send.delivered, send.stream.map(|n| &self.exchanges[n])) {
            let offered = stream.written_input >= input || stream.closed;
            assert!(offered, "answered before the event was offered to the kernel");
        }
    }

    /// The head of an event stream.
    pub fn stream_headed(&mut self, n: usize) {
        let retry = self.settings.reconnect_delay_ms.unwrap_or(RETRY_DEFAULT);
        let it = &self.exchanges[n];
        assert!(it.answered < it.arrived, "a stream that nobody asked for");
        let failed = match it.stream.as_ref().and_then(|stream| stream.verdict.as_ref()) {
            Some(Verdict::Accepted) => false,
            Some(Verdict::Failed { retries, .. }) => {
                assert!(self.retries(*retries), "a stream although the connect failed");
                true
            }
            None => panic!("a stream before the backend accepted it"),
        };
        let stream = self.exchanges[n].stream.as_mut().expect("a stream");
        stream.headed = true;
        if failed {
            assert_eq!(stream.phase, Phase::Over, "a retry for a stream that lives");
            stream.expected.push_back(Expected::Retry(retry));
        }
    }
}
