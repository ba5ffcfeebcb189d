//! Request bodies, read piece by piece as they arrive: of a declared length, or chunked (RFC 9112 section 7.1).
//!
//! Strict where leniency has been used to smuggle requests: every line ends in CRLF, sizes are plain
//! hexadecimal without overflow, extensions and trailers are bounded and then ignored.

use super::fields::Framing;
use super::grammar::is_token_byte;

/// Hexadecimal digits of a chunk size; more would overflow 64 bits.
const SIZE_DIGITS_MAX: u32 = 16;
/// Extension bytes of one chunk. They are not used in practice; unbounded ones would be a cheap way to keep a parser
/// busy.
const EXTENSION_BYTES_MAX: u32 = 256;
/// Bytes of the trailer section.
const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// The framing is broken; the start of the next request is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the size, after that many digits.
    Size {
        digits: u32,
    },
    /// After spaces that follow the size: an extension must come next.
    Blank {
        bytes: u32,
    },
    Extension {
        bytes: u32,
    },
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, after that many bytes of trailers.
    TrailerStart {
        bytes: u32,
    },
    TrailerName {
        bytes: u32,
    },
    TrailerValue {
        bytes: u32,
    },
    TrailerLf {
        bytes: u32,
    },
    EndLf,
    Done,
}

/// A decoder for one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunked {
    place: Place,
    /// Data bytes left in the chunk; while in its size, the size so far.
    left: u64,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { place: Place::Size { digits: 0 }, left: 0 }
    }
}

impl Chunked {
    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// Data bytes still missing from the current chunk.
    pub fn announced(&self) -> u64 {
        if self.place == Place::Data { self.left } else { 0 }
    }

    /// Decodes from the start of `input`, passing data to `sink` piece by piece, and returns the number of bytes
    /// consumed: all of them, unless the body ended earlier.
    pub fn decode(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut rest = input;
        loop {
            let data = self.next_data(&mut rest)?;
            if data.is_empty() {
                return Ok(input.len() - rest.len());
            }
            sink(data);
        }
    }

    /// Takes the next data, and the framing before it, from the front of `input`. Empty: all input is consumed, or the
    /// body has ended.
    pub fn next_data<'i>(&mut self, input: &mut &'i [u8]) -> Result<&'i [u8], BadChunk> {
        while self.place != Place::Done
            && let Some((first, behind)) = input.split_first()
        {
            if self.place == Place::Data {
                let count = usize::try_from(self.left).map_or(input.len(), |left| left.min(input.len()));
                let (data, behind) = input.split_at(count);
                *input = behind;
                self.left -= count as u64;
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                return Ok(data);
            }
            self.place = self.step(*first)?;
            *input = behind;
        }
        Ok(&[])
    }

    fn step(&mut self, byte: u8) -> Result<Place, BadChunk> {
        match (self.place, byte) {
            (Place::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < SIZE_DIGITS_MAX => {
                let digit = (byte as char).to_digit(16).ok_or(BadChunk)?;
                self.left = self.left << 4 | u64::from(digit);
                Ok(Place::Size { digits: digits + 1 })
            }
            (Place::Size { digits: 1.. }, b'\r') => Ok(Place::SizeLf),
            (Place::Size { digits: 1.. }, b';') => Ok(Place::Extension { bytes: 0 }),
            (Place::Size { digits: 1.. }, b' ' | b'\t') => Ok(Place::Blank { bytes: 1 }),
            (Place::Blank { bytes }, b' ' | b'\t') if bytes < EXTENSION_BYTES_MAX => {
                Ok(Place::Blank { bytes: bytes + 1 })
            }
            (Place::Blank { bytes }, b';') => Ok(Place::Extension { bytes }),
            (Place::Extension { .. }, b'\r') => Ok(Place::SizeLf),
            (Place::Extension { bytes }, b'\t' | b' '..=b'~' | 0x80..) if bytes < EXTENSION_BYTES_MAX => {
                Ok(Place::Extension { bytes: bytes + 1 })
            }
            (Place::SizeLf, b'\n') if self.left == 0 => Ok(Place::TrailerStart { bytes: 0 }),
            (Place::SizeLf, b'\n') => Ok(Place::Data),
            (Place::DataCr, b'\r') => Ok(Place::DataLf),
            (Place::DataLf, b'\n') => Ok(Place::Size { digits: 0 }),
            (Place::TrailerStart { .. }, b'\r') => Ok(Place::EndLf),
            (Place::TrailerName { bytes }, b':') => Ok(Place::TrailerValue { bytes: bytes + 1 }),
            (Place::TrailerStart { bytes } | Place::TrailerName { bytes }, byte)
                if is_token_byte(byte) && bytes < TRAILER_BYTES_MAX =>
            {
                Ok(Place::TrailerName { bytes: bytes + 1 })
            }
            (Place::TrailerValue { bytes }, b'\r') => Ok(Place::TrailerLf { bytes }),
            (Place::TrailerValue { bytes }, b'\t' | b' '..=b'~' | 0x80..) if bytes < TRAILER_BYTES_MAX => {
                Ok(Place::TrailerValue { bytes: bytes + 1 })
            }
            (Place::TrailerLf { bytes }, b'\n') => Ok(Place::TrailerStart { bytes }),
            (Place::EndLf, b'\n') => Ok(Place::Done),
            _ => Err(BadChunk),
        }
    }
}

/// The part of a body that has not arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remaining {
    /// That many bytes.
    Length(u64),
    /// Chunks, up to the last one.
    Chunked(Chunked),
}

impl Remaining {
    /// All of a body.
    pub fn of(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::Length(0),
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::default()),
        }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// Data bytes that are certain to come.
    pub fn announced(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(decoder) => decoder.announced(),
        }
    }

    /// Takes the next data, and any framing before it, from the front of `input`. Empty: all input is consumed, or the
    /// body has ended.
    pub fn next_data<'i>(&mut self, input: &mut &'i [u8]) -> Result<&'i [u8], BadChunk> {
        match self {
            Self::Length(left) => {
                let count = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                let (data, behind) = input.split_at(count);
                *left -= count as u64;
                *input = behind;
                Ok(data)
            }
            Self::Chunked(decoder) => decoder.next_data(input),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_length_ends_where_it_says() {
        let mut remaining = Remaining::of(Framing::Length(5));
        let mut input = &b"ab"[..];
        assert_eq!((remaining.next_data(&mut input), input), (Ok(&b"ab"[..]), &b""[..]));
        assert_eq!((remaining.is_done(), remaining.announced()), (false, 3));
        let mut input = &b"cdefg"[..];
        assert_eq!((remaining.next_data(&mut input), input), (Ok(&b"cde"[..]), &b"fg"[..]));
        assert!(remaining.is_done());
        assert_eq!((remaining.next_data(&mut input), input), (Ok(&b""[..]), &b"fg"[..]));
        assert!(Remaining::of(Framing::Empty).is_done() && !Remaining::of(Framing::Chunked).is_done());
    }

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let mut body = Vec::new();
        let mut decoder = Chunked::default();
        let used = decoder.decode(input, |data| body.extend_from_slice(data))?;
        Ok((body, used, decoder.is_done()))
    }

    #[test]
    fn decodes_whole_and_byte_by_byte_alike() {
        let input = b"5\r\nhello\r\n00A ;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: x\r\nA:\r\n\r\nGET";
        let (body, used, done) = decode(input).expect("well-formed");
        assert_eq!((&body[..], used, done), (&b"hello0123456789"[..], input.len() - 3, true));
        let mut decoder = Chunked::default();
        let mut body = Vec::new();
        for byte in &input[..used] {
            assert!(!decoder.is_done());
            assert_eq!(decoder.decode(&[*byte], |data| body.extend_from_slice(data)), Ok(1));
        }
        assert!(decoder.is_done());
        assert_eq!(body, b"hello0123456789");
        assert_eq!(decoder.decode(b"GET", |_| panic!("no data")), Ok(0));
    }

    #[test]
    fn an_unfinished_body_is_no_error() {
        assert_eq!(decode(b"5\r\nhel"), Ok((b"hel".to_vec(), 6, false)));
        let mut decoder = Chunked::default();
        assert_eq!(decoder.decode(b"ff\r", |_| ()), Ok(3));
        assert_eq!(decoder.announced(), 0);
        assert_eq!(decoder.decode(b"\nx", |_| ()), Ok(2));
        assert_eq!(decoder.announced(), 254);
        assert_eq!(decode(b""), Ok((Vec::new(), 0, false)));
    }

    #[test]
    fn refuses_broken_framing() {
        for bad in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\n",
            b"1\rx",
            b"1\r\nab",
            b"1\r\na\n",
            b"1\r\na\rb",
            b";x\r\n",
            b"1;\nx",
            b"1;\0",
            b"11111111111111111\r\n",
            b"0\r\n\n",
            b"0\r\nbad trailer: x",
            b"0\r\n: x",
            b"0\r\n/: x",
            b"0\r\nx(: y",
            b"0\r\nx\r\n",
            b"0\r\nx: \n",
        ] {
            assert_eq!(decode(bad), Err(BadChunk), "{:?}", String::from_utf8_lossy(bad));
        }
        assert_eq!(decode(format!("1;{}\r\n", "x".repeat(300)).as_bytes()), Err(BadChunk));
        assert_eq!(decode(format!("0\r\n{}\r\n", "x: y\r\n".repeat(5000)).as_bytes()), Err(BadChunk));
    }

    #[test]
    fn limits_are_exact() {
        let extension = |bytes: u32| format!("1;{}\r\nx", "e".repeat(bytes as usize));
        let blanks = |count: u32| format!("1{};\r\nx", " ".repeat(count as usize));
        let trailers = |bytes: u32| format!("0\r\na:\r\nb:{}\r\n\r\n", "v".repeat(bytes as usize - 4));
        assert!(decode(extension(256).as_bytes()).is_ok());
        assert_eq!(decode(extension(257).as_bytes()), Err(BadChunk));
        assert!(decode(blanks(256).as_bytes()).is_ok());
        assert_eq!(decode(blanks(257).as_bytes()), Err(BadChunk));
        assert!(decode(trailers(8192).as_bytes()).is_ok_and(|(_, _, done)| done));
        assert_eq!(decode(trailers(8193).as_bytes()), Err(BadChunk));
    }
}
