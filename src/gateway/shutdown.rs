//! The stages of a shutdown (docs/protocol.md, section 9).

use super::sweep::Sweep;
use crate::clock::Millis;
use std::time::Duration;

/// How the gateway came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Every stream was ended and every callback made.
    Clean,
    /// The time for the drain ran out first.
    TimedOut,
}

/// What the shutdown left undone when its time was up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Clients to whom not all of their stream, or of another last answer, was written.
    pub streams: usize,
    /// Connect callbacks in flight; the backend may accept these yet.
    pub connects: usize,
    /// Disconnect callbacks that were not made, or not answered.
    pub disconnects: usize,
}

/// How far a shutdown has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shutdown {
    #[default]
    Serving,
    /// Told to stop, and still serving, so that load balancers notice.
    Delay {
        drain_at: Millis,
    },
    /// Ending all connections; `sweep` is the walk over them.
    Draining {
        give_up_at: Millis,
        sweep: Sweep,
    },
    GivenUp,
}

impl Shutdown {
    /// The first signal. A further one changes nothing.
    pub(super) fn begin(&mut self, now: Millis, delay: Duration) {
        if *self == Self::Serving {
            *self = Self::Delay { drain_at: now.after(delay) };
        }
    }

    /// Moves on to what is due. `true`: the drain begins now.
    pub(super) fn advance(&mut self, now: Millis, timeout: Duration) -> bool {
        match *self {
            Self::Delay { drain_at } if drain_at <= now => {
                *self = Self::Draining { give_up_at: now.after(timeout), sweep: Sweep::default() };
                true
            }
            Self::Draining { give_up_at, .. } if give_up_at <= now => {
                *self = Self::GivenUp;
                false
            }
            Self::Serving | Self::Delay { .. } | Self::Draining { .. } | Self::GivenUp => false,
        }
    }

    /// The walk of the drain, while it is under way.
    pub(super) fn sweep(&mut self) -> Option<&mut Sweep> {
        match self {
            Self::Draining { sweep, .. } if !sweep.is_done() => Some(sweep),
            Self::Serving | Self::Delay { .. } | Self::Draining { .. } | Self::GivenUp => None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        match self {
            Self::Serving | Self::GivenUp => None,
            Self::Delay { drain_at } => Some(*drain_at),
            Self::Draining { sweep, .. } if !sweep.is_done() => Some(Millis::ZERO),
            Self::Draining { give_up_at, .. } => Some(*give_up_at),
        }
    }

    /// Whether a signal has come.
    pub(super) fn has_begun(&self) -> bool {
        *self != Self::Serving
    }

    pub(super) fn is_draining(&self) -> bool {
        match self {
            Self::Serving | Self::Delay { .. } => false,
            Self::Draining { .. } | Self::GivenUp => true,
        }
    }

    pub(super) fn has_given_up(&self) -> bool {
        *self == Self::GivenUp
    }

    /// Whether it is over; `is_idle`: there are no connections and no callbacks.
    pub(super) fn finished(&self, is_idle: bool) -> Option<Finished> {
        match self {
            Self::Draining { .. } if is_idle => Some(Finished::Clean),
            Self::GivenUp => Some(Finished::TimedOut),
            Self::Serving | Self::Delay { .. } | Self::Draining { .. } => None,
        }
    }
}
