//! What a browser makes of a stream: the parser of WHATWG HTML, section 9.2.6, written from the standard
//! and sharing nothing with the encoder. The tests and fuzz targets judge frames by it; the gateway
//! itself never decodes one.

/// One message as `EventSource` would dispatch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The event's type; `message` if the frame named none.
    pub name: String,
    pub data: String,
    /// The last event id at that moment, which outlives the frame that set it.
    pub id: String,
}

/// Reads a stream in pieces of any size. Bytes that are not UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    /// The last byte was a CR: an LF now belongs to the same line break.
    after_cr: bool,
    /// A byte order mark counts only in front of the first line.
    past_first_line: bool,
    /// A line came since the last blank one.
    in_frame: bool,
    name: String,
    data: String,
    id: String,
    retry: Option<u64>,
    messages: Vec<Message>,
}

impl Decoder {
    /// The messages of a whole stream. What follows the last blank line is no message.
    pub fn decode_all(stream: &[u8]) -> Vec<Message> {
        let mut decoder = Decoder::default();
        decoder.receive(stream);
        decoder.take_messages()
    }

    /// Takes the next bytes of the stream.
    pub fn receive(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => self.end_line(),
                _ => self.line.push(byte),
            }
        }
    }

    /// The messages complete since the last call.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// The reconnection time in milliseconds, once the stream has set one.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Whether the stream so far ends with a blank line, so that no frame is cut.
    pub fn is_between_frames(&self) -> bool {
        self.line.is_empty() && !self.in_frame
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let mut line = &*text;
        if !std::mem::replace(&mut self.past_first_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        self.in_frame = !line.is_empty();
        if line.is_empty() {
            return self.dispatch();
        }
        match line.split_once(':') {
            Some(("", _comment)) => {}
            Some((field, value)) => self.field(field, value.strip_prefix(' ').unwrap_or(value)),
            None => self.field(line, ""),
        }
    }

    fn field(&mut self, field: &str, value: &str) {
        match field {
            "event" => self.name = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        // Each data field added a line feed; the last one is not part of the data.
        data.pop();
        let name = if name.is_empty() { "message".to_owned() } else { name };
        self.messages.push(Message { name, data, id: self.id.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(stream: &str) -> Vec<(String, String, String)> {
        let messages = Decoder::decode_all(stream.as_bytes());
        messages.into_iter().map(|message| (message.name, message.data, message.id)).collect()
    }

    fn message(name: &str, data: &str, id: &str) -> (String, String, String) {
        (name.into(), data.into(), id.into())
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(decode("data: YHOO\ndata: +2\ndata: 10\n\n"), [message("message", "YHOO\n+2\n10", "")]);
        let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event";
        assert_eq!(decode(stream), [message("message", "first event", "1"), message("message", "second event", "")]);
        assert_eq!(decode("data\n\ndata\ndata\n\ndata:"), [message("message", "", ""), message("message", "\n", "")]);
        assert_eq!(
            decode("data:test\n\ndata: test\n\n"),
            [message("message", "test", ""), message("message", "test", "")]
        );
        assert_eq!(
            decode("event: add\ndata: 1\n\ndata: 2\n\n"),
            [message("add", "1", ""), message("message", "2", "")]
        );
    }

    #[test]
    fn rules_that_are_easily_missed() {
        assert_eq!(
            decode("\u{feff}data: a\r\rdata: b\r\n\r\n"),
            [message("message", "a", ""), message("message", "b", "")]
        );
        assert_eq!(decode("data: a\n\u{feff}data: b\n\n"), [message("message", "a", "")]);
        assert_eq!(decode("event: lost\n\ndata: x\n\n"), [message("message", "x", "")]);
        assert_eq!(decode("id: 1\n\nid: 2\0\nData: no\ndata: x\n\n"), [message("message", "x", "1")]);
    }

    #[test]
    fn retry_takes_digits_only() {
        let mut decoder = Decoder::default();
        for (line, expected) in
            [("retry: 10\n", 10), ("retry: +1\n", 10), ("retry:\n", 10), ("retry: 1.5\n", 10), ("retry:7\n", 7)]
        {
            decoder.receive(line.as_bytes());
            assert_eq!(decoder.retry(), Some(expected), "{line}");
        }
    }

    #[test]
    fn a_cut_frame_is_told_from_a_whole_one() {
        let mut decoder = Decoder::default();
        assert!(decoder.is_between_frames());
        for (piece, between) in
            [(":", false), ("\n", false), ("\n", true), ("id: 1\r\n", false), ("\r", true), ("\n", true)]
        {
            decoder.receive(piece.as_bytes());
            assert_eq!(decoder.is_between_frames(), between, "after {piece:?}");
        }
    }

    #[test]
    fn pieces_of_any_size_give_the_same_messages() {
        let stream = "event: a\r\ndata: \u{1f600}\r\n\r\n: comment\rdata: b\ndata\n\nid: 4\ndata: c\r\r".as_bytes();
        let whole = Decoder::decode_all(stream);
        assert_eq!(whole.len(), 3);
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::default();
            decoder.receive(&stream[..cut]);
            let mut messages = decoder.take_messages();
            decoder.receive(&stream[cut..]);
            messages.extend(decoder.take_messages());
            assert_eq!(messages, whole, "cut at {cut}");
            assert!(decoder.is_between_frames());
        }
    }
}
