//! The body of a stream as a client reads it: chunks, and the frames in them.

/// What a client has read on its connection.
#[derive(Default)]
pub(super) struct Frames {
    /// The head at first, then bytes of a chunk.
    pub(super) held: Vec<u8>,
    /// An incomplete frame.
    text: Vec<u8>,
    /// The last chunk has come: the body is complete.
    pub(super) is_complete: bool,
}

impl Frames {
    /// The next frame that is complete.
    pub(super) fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.windows(2).position(|window| window == b"\n\n") {
                let frame = self.text.drain(..end + 2).collect();
                return Some(String::from_utf8(frame).expect("text"));
            }
            let chunk = self.next_chunk()?;
            self.text.extend_from_slice(&chunk);
        }
    }

    /// Takes a whole chunk from the front.
    fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let held = &mut self.held;
        let line = held.windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(&held[..line]).expect("digits");
        let size = usize::from_str_radix(digits, 16).expect("a chunk's size");
        if held.len() < line + 2 + size + 2 {
            return None;
        }
        assert_eq!(&held[line + 2 + size..line + 4 + size], b"\r\n", "a chunk's data ends in CRLF");
        let chunk = held[line + 2..line + 2 + size].to_vec();
        held.drain(..line + 4 + size);
        self.is_complete |= size == 0;
        Some(chunk)
    }
}
