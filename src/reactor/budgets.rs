//! What one turn of the loop may take, so that nobody waits for long.

/// Read from and written to one connection per turn, so that one fast peer does not own the loop.
pub(super) const TURN_BYTES: usize = 64 * 1024;
/// Where they are read to. Oversized so that malloc(3) maps it separately: pages that no read has touched, on a small
/// gateway nearly all of them, stay unbacked.
pub(super) const SCRATCH_BYTES: usize = 128 * 1024;
/// Clients accepted per listener and turn.
pub(super) const TURN_ACCEPTS: usize = 64;
/// Connections that are to give way to one client and turn out to have sent a request, before it is turned away.
pub(super) const VICTIMS_TRIED: usize = 8;
/// Clients accepted per listener before it closes: as many as the kernel may have let in.
pub(super) const BACKLOG_ACCEPTS: usize = 4096;
/// Connections with fresh output written to per turn, twice: what the last turn left over, and what this turn adds. Some
/// milliseconds; what is left stays queued, so that a large fan-out does not stall the loop.
pub(super) const TURN_FLUSHES: usize = 512;
/// Callbacks' outcomes taken per turn.
pub(super) const TURN_COMPLETIONS: usize = 256;
/// Batches of timers fired per turn, so that a million heartbeats do not stall the loop.
pub(super) const TURN_EXPIRIES: usize = 64;
