//! SSEGateway.

pub mod callback;
pub(crate) mod json;
pub mod send;
pub mod sse;
pub mod table;
pub mod time;
