//! Decodes a stream incrementally: head, chunks, frames.

use crate::common::find;

/// The input of one connection.
#[derive(Default)]
pub(crate) struct Reader {
    raw: Vec<u8>,
    payload: Vec<u8>,
    /// The status, once the head is complete.
    pub status: Option<u16>,
    /// The last chunk was seen.
    pub finished: bool,
}

impl Reader {
    /// Reads input. Panics on anything malformed.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        if self.status.is_none() {
            let Some(end) = find(&self.raw, b"\r\n\r\n") else { return };
            let line = String::from_utf8_lossy(&self.raw[..end]).into_owned();
            let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
            self.status = Some(status.unwrap_or_else(|| panic!("no status line: {line:?}")));
            self.raw.drain(..end + 4);
        }
        if self.status == Some(200) {
            while self.take_chunk() {}
        }
    }

    fn take_chunk(&mut self) -> bool {
        let Some(line) = find(&self.raw, b"\r\n") else { return false };
        let digits = std::str::from_utf8(&self.raw[..line]).expect("hexadecimal digits");
        let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk size {digits:?}"));
        let end = line + 2 + size;
        if self.raw.len() < end + 2 {
            return false;
        }
        assert!(!self.finished, "bytes after the last chunk");
        assert_eq!(&self.raw[end..end + 2], b"\r\n", "a chunk ends with CRLF");
        self.payload.extend_from_slice(&self.raw[line + 2..end]);
        self.raw.drain(..end + 2);
        self.finished = size == 0;
        true
    }

    /// The next complete frame, including its blank line.
    pub(crate) fn frame(&mut self) -> Option<String> {
        let start = find(&self.payload, b"\n\n")?;
        let frame: Vec<u8> = self.payload.drain(..start + 2).collect();
        Some(String::from_utf8(frame).expect("streams are UTF-8"))
    }
}
