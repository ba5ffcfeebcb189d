//! Many gateways over one Redis (docs/protocol.md, section 16): the order of group events, what is kept of them, and
//! messages between gateways. Pure: bytes and time in, bytes and events out.

mod commands;
mod entries;
mod held;
mod link;
mod requests;
mod resp;
mod scripts;
mod server;
mod settings;
mod state;
mod sync;

pub(crate) use commands::Send;
pub(crate) use entries::ms_of;
pub(crate) use held::{Loaded, Published};
pub(crate) use requests::{Outcome, Serial};
pub use resp::{Malformed, Scanner, Value, parse};
pub(crate) use server::hint;
pub(crate) use settings::Limits;
pub use settings::RedisSettings;
pub(crate) use state::{Event, Link, LinkCounts};
