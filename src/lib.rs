//! SSEGateway.

pub mod callback;
pub mod config;
pub mod escape;
pub mod limits;
pub mod logger;
pub mod send;
pub mod sse;
pub mod sys;
pub mod table;
pub mod time;
pub mod workers;
