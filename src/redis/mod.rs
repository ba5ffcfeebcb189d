//! Many gateways over one Redis (docs/protocol.md, section 16): the order of group events, what is kept of them, and
//! messages between gateways. Pure: bytes and time in, bytes and events out.

// Without the feature, only the types are used that the gateway speaks of.
#![cfg_attr(not(feature = "redis"), allow(dead_code))]

#[cfg(not(feature = "redis"))]
mod absent;
mod commands;
mod entries;
mod held;
mod link;
mod page;
mod requests;
mod resp;
mod scripts;
mod server;
mod settings;
mod state;
mod sync;

#[cfg(not(feature = "redis"))]
pub(crate) use absent::Link;
pub(crate) use commands::Send;
pub(crate) use entries::{ms_of, span_of};
pub(crate) use held::{Loaded, Published};
pub(crate) use page::Page;
pub(crate) use requests::{Outcome, Serial};
pub use resp::{Malformed, Scanner, Value, parse};
pub(crate) use server::hint;
pub(crate) use settings::Limits;
pub use settings::RedisSettings;
#[cfg(feature = "redis")]
pub(crate) use state::Link;
pub(crate) use state::{Event, LinkCounts};
