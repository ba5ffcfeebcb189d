//! The header fields that matter in every request, and their rules: the framing of the body, the expectation, whether
//! another request may follow (RFC 9110 sections 7.2 and 10.1.1; RFC 9112 sections 6 and 9.3).

use super::grammar::{decimal, is_token_byte, list};
use super::host::is_host;

/// A supported version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: no chunks, no interim responses, one request per connection.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the body that follows a head is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body, or one of declared length 0.
    Empty,
    /// Bytes; at least 1.
    Length(u64),
    /// Chunks, up to the one of length 0 (RFC 9112 section 7.1).
    Chunked,
}

/// The expectation in the `Expect` field (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing: no field, or an empty one.
    Nothing,
    /// `100-continue`: the client waits before it sends its body.
    Continue,
    /// Anything else: 417.
    Unknown,
}

/// Why a head is refused. The bytes after such a head cannot be trusted, so the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// 400, with a short reason.
    Malformed(&'static str),
    /// 431: more bytes or more fields than allowed.
    TooLarge,
    /// 505: HTTP, but neither 1.0 nor 1.1.
    Version,
    /// 501: a transfer coding other than chunked.
    TransferCoding,
}

/// The fields that matter in every request, found in one pass.
pub(super) struct Fields<'b> {
    pub(super) framing: Framing,
    pub(super) expect: Expect,
    pub(super) close: bool,
    pub(super) origin: Option<&'b [u8]>,
    pub(super) content_type: Option<&'b [u8]>,
    pub(super) is_coded: bool,
}

impl<'b> Fields<'b> {
    pub(super) fn read(headers: &[httparse::Header<'b>], version: Version) -> Result<Self, HeadError> {
        let mut hosts = 0;
        let mut length: Option<u64> = None;
        let mut codings: Option<Codings> = None;
        let mut fields = Fields {
            framing: Framing::Empty,
            expect: Expect::Nothing,
            close: false,
            origin: None,
            content_type: None,
            is_coded: false,
        };
        for header in headers {
            let (name, value) = (header.name, header.value);
            // By length first: most fields are not among these.
            match name.len() {
                4 if is_named(name, "Host") => {
                    hosts += 1;
                    if !is_host(value) {
                        return Err(HeadError::Malformed("invalid Host"));
                    }
                }
                6 if is_named(name, "Expect") => {
                    for expectation in list(value) {
                        fields.expect = match fields.expect {
                            Expect::Nothing if expectation.eq_ignore_ascii_case(b"100-continue") => Expect::Continue,
                            Expect::Nothing | Expect::Continue | Expect::Unknown => Expect::Unknown,
                        };
                    }
                }
                6 if is_named(name, "Origin") => fields.origin = fields.origin.or(Some(value)),
                10 if is_named(name, "Connection") => {
                    fields.close |= list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                }
                12 if is_named(name, "Content-Type") => {
                    fields.content_type = fields.content_type.or(Some(value));
                }
                14 if is_named(name, "Content-Length") => {
                    if length.is_some() {
                        return Err(HeadError::Malformed("repeated Content-Length"));
                    }
                    length = Some(decimal(value).ok_or(HeadError::Malformed("invalid Content-Length"))?);
                }
                16 if is_named(name, "Content-Encoding") => {
                    fields.is_coded |= list(value).any(|coding| !coding.eq_ignore_ascii_case(b"identity"));
                }
                17 if is_named(name, "Transfer-Encoding") => {
                    codings.get_or_insert_default().read(value)?;
                }
                _ => {}
            }
        }
        if hosts > 1 || (hosts == 0 && version == Version::Http11) {
            return Err(HeadError::Malformed("exactly one Host is required"));
        }
        if version == Version::Http10 {
            // An HTTP/1.0 client cannot know of interim responses (RFC 9110 section 10.1.1).
            fields.expect = Expect::Nothing;
        }
        fields.framing = match (codings, length) {
            (Some(_), _) if version == Version::Http10 => {
                return Err(HeadError::Malformed("Transfer-Encoding in HTTP/1.0"));
            }
            (Some(_), Some(_)) => return Err(HeadError::Malformed("Content-Length with Transfer-Encoding")),
            (Some(codings), None) => codings.framing()?,
            (None, None | Some(0)) => Framing::Empty,
            (None, Some(length)) => Framing::Length(length),
        };
        Ok(fields)
    }
}

/// Whether a field has that name: nearly always just as it is spelt here, and then a comparison of words finds it.
#[inline(always)]
fn is_named(name: &str, usual: &str) -> bool {
    name == usual || name.eq_ignore_ascii_case(usual)
}

/// The transfer codings of all `Transfer-Encoding` fields together.
#[derive(Default)]
struct Codings {
    chunked: usize,
    others: usize,
}

impl Codings {
    fn read(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for coding in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if coding.eq_ignore_ascii_case(b"chunked") {
                self.chunked += 1;
            } else if !coding.is_empty() && coding.iter().all(|byte| is_token_byte(*byte)) {
                self.others += 1;
            } else {
                return Err(HeadError::Malformed("invalid Transfer-Encoding"));
            }
        }
        Ok(())
    }

    fn framing(&self) -> Result<Framing, HeadError> {
        match (self.chunked, self.others) {
            (1, 0) => Ok(Framing::Chunked),
            (_, 0) => Err(HeadError::Malformed("invalid Transfer-Encoding")),
            (_, _) => Err(HeadError::TransferCoding),
        }
    }
}
