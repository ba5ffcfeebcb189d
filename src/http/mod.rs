//! HTTP/1.1 as a server needs it (RFC 9110, RFC 9112): request heads, request bodies, responses.
//!
//! Borrowed bytes in, appended bytes out. Knows neither sockets nor streams. Where the RFCs allow both lenient and
//! strict parsing, this parser is strict: any input that two parsers could read differently gets 400, so that a front
//! proxy and this gateway cannot disagree on where a request ends.

pub mod body;
mod fields;
pub(crate) mod grammar;
mod host;
pub mod request;
pub mod response;
pub(crate) mod unread;
