//! HTTP/1.1 as a server needs it (RFC 9110, RFC 9112): request heads, request bodies, responses.
//!
//! Borrowed bytes in, appended bytes out. Knows neither sockets nor streams. Where the RFCs leave a
//! choice between being lenient and being strict, this parser is strict: whatever two parties could
//! read differently is answered 400, so that no front proxy and this gateway disagree on where a
//! request ends.

pub mod body;
mod fields;
pub(crate) mod grammar;
mod host;
pub mod request;
pub mod response;
pub(crate) mod unread;
