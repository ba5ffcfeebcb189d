//! The order of sends to groups: one order for all groups, in which every event has a position.
//!
//! A single gateway counts them, and knows the position of a send at once. Several gateways leave the order to Redis: a
//! send is requested, and comes back as an event, here and wherever else its groups are followed.

mod memory;

use crate::cursor::{Cursor, Epoch, Position};
use crate::redis::Link;
use memory::Memory;

/// The order, and the current epoch.
pub(crate) struct Engine {
    epoch: Epoch,
    memory: Memory,
    /// The connection to Redis; `None`: this gateway is alone.
    pub(crate) link: Option<Box<Link>>,
}

impl Engine {
    /// `random` is the id of the epoch, unless Redis has another one.
    pub(crate) fn new(random: u64, link: Option<Box<Link>>) -> Self {
        Self { epoch: Epoch::new(random), memory: Memory::default(), link }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Another epoch begins.
    pub(crate) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// The cursor of a position of this epoch.
    pub(crate) fn cursor(&self, position: Position) -> Cursor {
        Cursor { epoch: self.epoch, position }
    }

    /// The next `count` positions of a gateway that is alone: returns the first.
    pub(crate) fn order(&mut self, count: Position) -> Position {
        self.memory.order(count)
    }
}
