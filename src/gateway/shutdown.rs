//! The stages of a shutdown (docs/protocol.md, section 9).

use super::sweep::Sweep;
use crate::clock::Millis;
use std::time::Duration;

/// How the gateway finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// Every stream was ended and every callback made.
    Clean,
    /// The drain timed out.
    TimedOut,
}

/// The work that the shutdown left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Clients whose stream, or other last answer, was not fully written.
    pub streams: usize,
    /// Connect callbacks in flight, which the backend may still accept.
    pub connects: usize,
    /// Disconnect callbacks that were not made or not answered.
    pub disconnects: usize,
}

/// The progress of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shutdown {
    #[default]
    Serving,
    /// After the first signal: still serving, so that load balancers notice.
    Delay {
        drain_at: Millis,
    },
    /// Ending all connections.
    Draining {
        give_up_at: Millis,
        stage: DrainStage,
    },
    GivenUp,
}

/// How far the drain has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainStage {
    /// The feeds are read once more and end first: what has arrived is for streams that are still open.
    Feeds(Sweep),
    /// They do so by actions: all up to this one.
    LastReads { action: u64 },
    /// All connections end.
    All(Sweep),
}

impl DrainStage {
    fn is_done(&self) -> bool {
        match self {
            Self::Feeds(_) | Self::LastReads { .. } => false,
            Self::All(sweep) => sweep.is_done(),
        }
    }
}

impl Shutdown {
    /// The first signal. Further ones have no effect.
    pub(super) fn begin(&mut self, now: Millis, delay: Duration) {
        if *self == Self::Serving {
            *self = Self::Delay { drain_at: now.after(delay) };
        }
    }

    /// Advances to the stage that is due. `true`: the drain begins now. `has_feeds`: some feed is open.
    pub(super) fn advance(&mut self, now: Millis, timeout: Duration, has_feeds: bool) -> bool {
        match *self {
            Self::Delay { drain_at } if drain_at <= now => {
                let sweep = Sweep::default();
                let stage = if has_feeds { DrainStage::Feeds(sweep) } else { DrainStage::All(sweep) };
                *self = Self::Draining { give_up_at: now.after(timeout), stage };
                true
            }
            Self::Draining { give_up_at, .. } if give_up_at <= now => {
                *self = Self::GivenUp;
                false
            }
            Self::Serving | Self::Delay { .. } | Self::Draining { .. } | Self::GivenUp => false,
        }
    }

    /// The stage of the drain, until all connections have been reached.
    pub(super) fn stage(&self) -> Option<DrainStage> {
        match self {
            Self::Draining { stage, .. } if !stage.is_done() => Some(*stage),
            Self::Serving | Self::Delay { .. } | Self::Draining { .. } | Self::GivenUp => None,
        }
    }

    pub(super) fn set_stage(&mut self, next: DrainStage) {
        if let Self::Draining { stage, .. } = self {
            *stage = next;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        match self {
            Self::Serving | Self::GivenUp => None,
            Self::Delay { drain_at } => Some(*drain_at),
            Self::Draining { stage, .. } if !stage.is_done() => Some(Millis::ZERO),
            Self::Draining { give_up_at, .. } => Some(*give_up_at),
        }
    }

    /// Whether a signal has arrived.
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

    /// Whether it has finished; `is_idle`: there are no connections and no callbacks.
    pub(super) fn finished(&self, is_idle: bool) -> Option<Finished> {
        match self {
            Self::Draining { .. } if is_idle => Some(Finished::Clean),
            Self::GivenUp => Some(Finished::TimedOut),
            Self::Serving | Self::Delay { .. } | Self::Draining { .. } => None,
        }
    }
}
