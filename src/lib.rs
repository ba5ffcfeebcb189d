//! SSEGateway.

pub mod buffer;
pub mod callback;
pub mod gateway;
pub mod http;
pub(crate) mod json;
pub mod reactor;
pub mod send;
pub mod sse;
pub mod table;
pub mod time;
pub mod timer;
