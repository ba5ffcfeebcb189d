//! The budgets of one turn of the loop, which keep turns short.

/// Bytes read from and written to one connection per turn, so that one fast peer does not monopolise the loop.
pub(super) const TURN_BYTES: usize = 64 * 1024;
/// The read buffer. Oversized so that malloc(3) maps it separately: pages that no read has touched, on a small gateway
/// nearly all of them, stay unbacked.
pub(super) const SCRATCH_BYTES: usize = 128 * 1024;
/// Clients accepted per listener and turn.
pub(super) const TURN_ACCEPTS: usize = 64;
/// Eviction candidates per client that may turn out to have sent a request before the client is refused.
pub(super) const VICTIMS_TRIED: usize = 8;
/// Clients accepted per listener before it closes: as many as the kernel's backlog may hold.
pub(super) const BACKLOG_ACCEPTS: usize = 4096;
/// Connections with fresh output written to per turn, twice: those left over from the last turn, and those of this
/// turn. Some milliseconds; the rest stays queued, so that a large fan-out does not stall the loop.
pub(super) const TURN_FLUSHES: usize = 512;
/// Members of groups written to per turn: a fifth of a millisecond, in which nobody else is served.
pub(super) const TURN_MEMBERS_MIN: usize = 24;
/// The same with as many groups, whose events would else fall behind the sends.
pub(super) const TURN_MEMBERS_MAX: usize = 64;
/// What is done per turn of what has come over Redis, in units of about a microsecond: what 64 KiB of usual events are, as a
/// turn reads no more, and some milliseconds where many streams are concerned.
pub(super) const TURN_UPSTREAM: usize = 1024;
/// Callback outcomes processed per turn.
pub(super) const TURN_COMPLETIONS: usize = 256;
/// Batches of timers fired per turn, so that a million heartbeats do not stall the loop.
pub(super) const TURN_EXPIRIES: usize = 64;
