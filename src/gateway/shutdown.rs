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
        if *self == Shutdown::Serving {
            *self = Shutdown::Delay { drain_at: now.after(delay) };
        }
    }

    /// Moves on to what is due. `true`: the drain begins now.
    pub(super) fn advance(&mut self, now: Millis, timeout: Duration) -> bool {
        match *self {
            Shutdown::Delay { drain_at } if drain_at <= now => {
                *self = Shutdown::Draining { give_up_at: now.after(timeout), sweep: Sweep::default() };
                true
            }
            Shutdown::Draining { give_up_at, .. } if give_up_at <= now => {
                *self = Shutdown::GivenUp;
                false
            }
            Shutdown::Serving | Shutdown::Delay { .. } | Shutdown::Draining { .. } | Shutdown::GivenUp => false,
        }
    }

    /// The walk of the drain, while it is under way.
    pub(super) fn sweep(&mut self) -> Option<&mut Sweep> {
        match self {
            Shutdown::Draining { sweep, .. } if !sweep.is_done() => Some(sweep),
            Shutdown::Serving | Shutdown::Delay { .. } | Shutdown::Draining { .. } | Shutdown::GivenUp => None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        match self {
            Shutdown::Serving | Shutdown::GivenUp => None,
            Shutdown::Delay { drain_at } => Some(*drain_at),
            Shutdown::Draining { sweep, .. } if !sweep.is_done() => Some(Millis::ZERO),
            Shutdown::Draining { give_up_at, .. } => Some(*give_up_at),
        }
    }

    /// Whether a signal has come.
    pub(super) fn has_begun(&self) -> bool {
        *self != Shutdown::Serving
    }

    pub(super) fn is_draining(&self) -> bool {
        match self {
            Shutdown::Serving | Shutdown::Delay { .. } => false,
            Shutdown::Draining { .. } | Shutdown::GivenUp => true,
        }
    }

    /// Whether it is over; `is_idle`: there are no connections and no callbacks.
    pub(super) fn finished(&self, is_idle: bool) -> Option<Finished> {
        match self {
            Shutdown::Draining { .. } if is_idle => Some(Finished::Clean),
            Shutdown::GivenUp => Some(Finished::TimedOut),
            Shutdown::Serving | Shutdown::Delay { .. } | Shutdown::Draining { .. } => None,
        }
    }
}
