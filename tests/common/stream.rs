//! Reads a stream like a browser, and shows its chunks.

use super::{Client, Response, find};

/// An open stream.
pub(crate) struct Stream {
    pub client: Client,
    pub head: Response,
    chunked: bool,
    /// Decoded, not yet consumed.
    payload: Vec<u8>,
    /// The last chunk was seen.
    finished: bool,
}

/// How a stream ended.
#[derive(Debug)]
pub(crate) struct Finish {
    /// The text after the last frame taken.
    pub text: String,
    /// The last chunk came before the end of the connection.
    pub clean: bool,
}

impl Stream {
    /// Reads the head of a stream after its GET was sent.
    pub(crate) fn accept(mut client: Client) -> Self {
        let mut head = client.head();
        if head.status != 200 {
            let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            head.body = client.read_exact(length);
            panic!("no stream: {head:?}");
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{head:?}");
        let chunked = head.header("transfer-encoding") == Some("chunked");
        Self { client, head, chunked, payload: Vec::new(), finished: false }
    }

    /// The next chunk as sent; `None` for the last one, after which the connection must end.
    pub(crate) fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let chunk = self.try_chunk().expect("the stream was cut");
        if chunk.is_empty() {
            self.client.assert_closed();
            return None;
        }
        Some(chunk)
    }

    /// One chunk, empty for the last one; `None` when the connection ended.
    fn try_chunk(&mut self) -> Option<Vec<u8>> {
        if self.finished {
            return Some(Vec::new());
        }
        let line = self.client.try_read_until(b"\r\n")?;
        let digits = std::str::from_utf8(&line[..line.len() - 2]).expect("hexadecimal digits");
        let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk size {digits:?}"));
        while self.client.buffer.len() < size + 2 {
            if self.client.fill() == 0 {
                return None;
            }
        }
        let chunk = self.client.read_exact(size);
        assert_eq!(self.client.read_exact(2), b"\r\n", "a chunk ends with CRLF");
        self.finished = size == 0;
        Some(chunk)
    }

    /// Decodes some more; false at the end.
    fn more(&mut self) -> bool {
        if self.chunked {
            match self.try_chunk() {
                Some(chunk) => {
                    self.payload.extend_from_slice(&chunk);
                    !chunk.is_empty()
                }
                None => false,
            }
        } else {
            // The buffer already has the bytes that came with the head.
            let more = !self.client.buffer.is_empty() || self.client.fill() > 0;
            self.payload.append(&mut self.client.buffer);
            more
        }
    }

    /// Everything up to and including the next blank line.
    pub(crate) fn frame(&mut self) -> String {
        loop {
            if let Some(start) = find(&self.payload, b"\n\n") {
                let frame: Vec<u8> = self.payload.drain(..start + 2).collect();
                return String::from_utf8(frame).expect("streams are UTF-8");
            }
            assert!(self.more(), "the stream ended; left: {:?}", String::from_utf8_lossy(&self.payload));
        }
    }

    /// The next frame except heartbeats.
    pub(crate) fn event(&mut self) -> String {
        loop {
            let frame = self.frame();
            if frame != super::HEARTBEAT {
                return frame;
            }
        }
    }

    /// Reads to the end of the connection, which must not be a reset.
    pub(crate) fn finish_unbroken(mut self) -> Finish {
        while self.more() {}
        assert!(!self.client.was_reset(), "reset after {} bytes of events", self.payload.len());
        self.finish()
    }

    /// Reads to the end of the connection, however it ends.
    pub(crate) fn finish(mut self) -> Finish {
        while self.more() {}
        let rest = self.client.rest_or_reset();
        assert!(!self.finished || rest.is_empty(), "bytes after the last chunk: {rest:?}");
        Finish { text: String::from_utf8(self.payload).expect("streams are UTF-8"), clean: self.finished }
    }

    /// Expects a clean end without further text.
    #[track_caller]
    pub(crate) fn assert_ended(self) {
        assert_eq!(self.end(), "");
    }

    /// Expects the end of a drain: a `retry` within a fifth of `milliseconds`, which is returned, and a clean end.
    #[track_caller]
    pub(crate) fn assert_drained(self, milliseconds: u32) -> u32 {
        let text = self.end();
        let retry = text.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let retry: u32 = retry.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("a retry: {text}"));
        assert!(retry.abs_diff(milliseconds) <= milliseconds / 5, "{retry}");
        retry
    }

    /// Expects a clean end; returns the text before it.
    #[track_caller]
    fn end(self) -> String {
        let chunked = self.chunked;
        let finish = self.finish();
        assert_eq!(finish.clean, chunked, "a chunked stream ends with its last chunk");
        finish.text
    }
}
