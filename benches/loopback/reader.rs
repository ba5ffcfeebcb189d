//! What a stream's client reads: the response head, then chunks, then frames.

/// Decodes the chunks and splits the text into frames. A frame that is complete in one chunk, as nearly all are, is not
/// copied.
#[derive(Default)]
pub(crate) struct Reader {
    /// An incomplete chunk.
    rest: Vec<u8>,
    /// An incomplete frame.
    text: Vec<u8>,
    pub ended: bool,
}

impl Reader {
    /// Reads a part of the body; calls `frame` with every complete frame, without the blank line.
    pub(crate) fn take(&mut self, input: &[u8], mut frame: impl FnMut(&[u8])) {
        if self.rest.is_empty() {
            let used = self.read_chunks(input, &mut frame);
            self.rest.extend_from_slice(&input[used..]);
        } else {
            let mut rest = std::mem::take(&mut self.rest);
            rest.extend_from_slice(input);
            let used = self.read_chunks(&rest, &mut frame);
            rest.drain(..used);
            self.rest = rest;
        }
    }

    fn read_chunks(&mut self, input: &[u8], frame: &mut impl FnMut(&[u8])) -> usize {
        let mut at = 0;
        while let Some((text, length)) = chunk(&input[at..]) {
            at += length;
            self.ended |= text.is_empty();
            if self.text.is_empty() {
                let used = split(text, frame);
                self.text.extend_from_slice(&text[used..]);
            } else {
                self.text.extend_from_slice(text);
                let used = split(&self.text, frame);
                self.text.drain(..used);
            }
        }
        at
    }
}

/// The first chunk of `input` and its length with framing, if it is complete.
fn chunk(input: &[u8]) -> Option<(&[u8], usize)> {
    let line = memchr::memchr(b'\n', input)?;
    let digits = std::str::from_utf8(&input[..line]).ok()?.trim_end();
    let size = usize::from_str_radix(digits, 16).ok()?;
    let text = input.get(line + 1..)?.get(..size)?;
    let length = line + 1 + size + 2;
    (input.len() >= length).then_some((text, length))
}

fn split(text: &[u8], frame: &mut impl FnMut(&[u8])) -> usize {
    let mut start = 0;
    for end in memchr::memmem::find_iter(text, b"\n\n") {
        frame(&text[start..end]);
        start = end + 2;
    }
    start
}

/// The first line of a frame's data; `None`: a comment, or fields alone.
pub(crate) fn data(frame: &[u8]) -> Option<&[u8]> {
    frame.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"data: "))
}
