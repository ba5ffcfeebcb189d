//! SSEGateway.

pub mod buffer;
pub mod callback;
pub mod cli;
pub mod config;
pub mod escape;
pub mod gateway;
pub mod healthcheck;
pub mod http;
pub(crate) mod json;
pub mod limits;
pub mod logger;
pub mod reactor;
pub mod send;
pub mod serve;
pub mod sse;
pub mod sys;
pub mod table;
pub mod time;
pub mod timer;
pub mod workers;
