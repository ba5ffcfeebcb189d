//! A browser's view of a stream: the parser of WHATWG HTML, section 9.2.6, written from the standard and sharing no
//! code with the encoder. Tests and fuzz targets check frames with it.

// Each program that includes this file uses only part of it.
#![allow(dead_code)]

/// One message as `EventSource` would dispatch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The event's type; `message` if the frame named none.
    pub name: String,
    pub data: String,
    /// The last event id at that moment; it persists after the frame that set it.
    pub id: String,
}

/// Reads a stream in pieces of any size. Bytes that are not UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    /// The last byte was a CR: an LF now belongs to the same line break.
    after_cr: bool,
    /// A byte order mark counts only before the first line.
    past_first_line: bool,
    /// There was a line since the last blank one.
    in_frame: bool,
    name: String,
    data: String,
    id: String,
    retry: Option<u64>,
    messages: Vec<Message>,
}

impl Decoder {
    /// The messages of a whole stream. A part after the last blank line is not a message.
    pub(crate) fn decode_all(stream: &[u8]) -> Vec<Message> {
        let mut decoder = Self::default();
        decoder.receive(stream);
        decoder.take_messages()
    }

    /// Reads the next bytes of the stream.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
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
    pub(crate) fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// The reconnection time in milliseconds, once the stream has set one.
    pub(crate) fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Whether the stream so far ends with a blank line, that is, with a complete frame.
    pub(crate) fn is_between_frames(&self) -> bool {
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
