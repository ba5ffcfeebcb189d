//! Divides the descriptor limit among streams, other connections and callbacks, so that sends, probes and callbacks
//! still get a descriptor when every stream is taken.

/// Descriptors that are neither connections nor callbacks: stdio, epoll, eventfd, signalfd, the
/// listeners, a name lookup; doubled as a margin for what libraries open.
const FIXED_RESERVE: usize = 24;

/// Minimum and maximum number of connections reserved for sends and probes.
const SENDS_RESERVE_MIN: usize = 4;
const SENDS_RESERVE_MAX: usize = 256;

/// Connections reserved for the internal listener, if there is one, so that sends get through when the public port is
/// crowded. At most half of all.
const INTERNAL_RESERVE_MAX: usize = 16;

/// How many of `connections_max` are reserved for the internal listener, if there is one.
pub fn internal_reserve(connections_max: usize) -> usize {
    INTERNAL_RESERVE_MAX.min(connections_max / 2)
}

/// The lowest descriptor limit that leaves room for a stream besides the reserves, whatever `CALLBACK_CONCURRENCY` is;
/// with and without an internal listener.
const DESCRIPTORS_MIN_INTERNAL: usize = 48;
const DESCRIPTORS_MIN: usize = 40;

/// More would mean a backend that does not answer anyway.
const LATE_MAX: usize = 64;

/// The settings that raise the limit, for messages.
pub const RAISE: &str = "ulimit -n, LimitNOFILE, --ulimit nofile";

/// The limits derived from the descriptor limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Callback threads, each of which holds at most one descriptor, in use or kept alive.
    pub threads_max: usize,
    /// Callbacks that have timed out and may still be answered; each holds a thread and a descriptor.
    pub late_max: usize,
    /// Accepted connections of any kind.
    pub connections_max: usize,
    /// Streams, including connecting ones; always less than `connections_max`.
    pub streams_max: usize,
}

/// Connections of all kinds for that many streams, with the same reserves as under a descriptor limit.
fn connections_for(streams_max: usize, has_internal: bool) -> usize {
    let reserve = streams_max.div_ceil(7).clamp(SENDS_RESERVE_MIN, SENDS_RESERVE_MAX);
    let public_max = streams_max + reserve;
    public_max + if has_internal { INTERNAL_RESERVE_MAX.min(public_max) } else { 0 }
}

impl Limits {
    /// Divides `descriptors` (the soft limit after it was raised). `streams_wanted` is an explicit `MAX_STREAMS`,
    /// lowered to what is possible: see [`Limits::fits`]. Errors: one line, for a limit that is too low to serve.
    pub fn from_descriptors(
        descriptors: u64,
        callback_concurrency: usize,
        streams_wanted: Option<usize>,
        has_internal: bool,
    ) -> Result<Self, String> {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let (needed, purpose) = if has_internal {
            (DESCRIPTORS_MIN_INTERNAL, " with INTERNAL_PORT or INTERNAL_SOCKET")
        } else {
            (DESCRIPTORS_MIN, "")
        };
        if descriptors < needed {
            return Err(format!(
                "the descriptor limit is {descriptors}, and at least {needed} are needed{purpose}: raise it ({RAISE})"
            ));
        }
        let threads_max = callback_concurrency.min(descriptors / 4);
        let late_max = threads_max.min(descriptors / 64).min(LATE_MAX);
        let connections_max = descriptors - FIXED_RESERVE - threads_max - late_max;
        // The public port also needs connections for refusing further clients.
        let public_max = connections_max - if has_internal { internal_reserve(connections_max) } else { 0 };
        let reserve = (public_max / 8).clamp(SENDS_RESERVE_MIN, SENDS_RESERVE_MAX);
        let streams_room = public_max - reserve;
        let streams_max = streams_wanted.map_or(streams_room, |wanted| wanted.min(streams_room));
        let connections_max = match streams_wanted {
            Some(_) => connections_max.min(connections_for(streams_max, has_internal)),
            None => connections_max,
        };
        debug_assert!(streams_max >= 1 && streams_max + SENDS_RESERVE_MIN <= connections_max);
        Ok(Self { threads_max, late_max, connections_max, streams_max })
    }

    /// Places for streaming sends, which are never evicted, beside those of all streams: most of the others, so that some
    /// are left for everything else.
    pub fn feeds_room(&self) -> usize {
        let others = self.connections_max - self.streams_max;
        others - others.div_ceil(4)
    }

    /// All that this process may have open at once.
    pub fn descriptors(&self) -> usize {
        FIXED_RESERVE + self.threads_max + self.late_max + self.connections_max
    }

    /// Whether an explicit `MAX_STREAMS` was honoured in full.
    pub fn fits(&self, streams_wanted: Option<usize>) -> bool {
        streams_wanted.is_none_or(|wanted| wanted <= self.streams_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(descriptors: u64, concurrency: usize, wanted: Option<usize>, has_internal: bool) -> Limits {
        Limits::from_descriptors(descriptors, concurrency, wanted, has_internal).unwrap()
    }

    #[test]
    fn a_usual_limit() {
        let alone = Limits { threads_max: 128, late_max: 64, connections_max: 19_784, streams_max: 19_528 };
        assert_eq!(limits(20_000, 128, None, false), alone);
        let with_internal = Limits { threads_max: 128, late_max: 64, connections_max: 19_784, streams_max: 19_512 };
        assert_eq!(limits(20_000, 128, None, true), with_internal);
    }

    #[test]
    fn a_small_limit_leaves_a_quarter_to_callbacks() {
        let alone = Limits { threads_max: 16, late_max: 1, connections_max: 23, streams_max: 19 };
        assert_eq!(limits(64, 128, None, false), alone);
        let with_internal = Limits { threads_max: 16, late_max: 1, connections_max: 23, streams_max: 8 };
        assert_eq!(limits(64, 128, None, true), with_internal);
    }

    #[test]
    fn an_explicit_number_of_streams_is_kept_or_clamped() {
        let kept = limits(1024, 128, Some(10), false);
        assert_eq!((kept.streams_max, kept.connections_max), (10, 14));
        assert_eq!(limits(20_000, 128, Some(700), false).connections_max, 800);
        assert_eq!(limits(20_000, 128, Some(10_000), true).connections_max, 10_272);
        assert_eq!(limits(1024, 128, Some(10), true).connections_max, 28);
        assert!(kept.fits(Some(10)));
        assert!(kept.fits(None));
        let clamped = limits(1024, 128, Some(5_000), false);
        assert_eq!((clamped.streams_max, clamped.connections_max), (856 - 107, 856));
        assert!(!clamped.fits(Some(5_000)));
    }

    #[test]
    fn a_limit_that_is_too_low_is_named() {
        let line = Limits::from_descriptors(20, 128, None, true).unwrap_err();
        let raise = "raise it (ulimit -n, LimitNOFILE, --ulimit nofile)";
        assert_eq!(
            line,
            format!(
                "the descriptor limit is 20, and at least 48 are needed with INTERNAL_PORT or INTERNAL_SOCKET: {raise}"
            )
        );
        let line = Limits::from_descriptors(39, 1, Some(1), false).unwrap_err();
        assert_eq!(line, format!("the descriptor limit is 39, and at least 40 are needed: {raise}"));
    }

    #[test]
    fn every_limit_leaves_room_for_all() {
        for descriptors in (40..5_000).chain([1 << 20, u64::MAX]) {
            for concurrency in [1, 8, 128, 10_000] {
                for (wanted, has_internal) in [(None, false), (None, true), (Some(1), true), (Some(1_000_000), true)] {
                    if has_internal && descriptors < 48 {
                        continue;
                    }
                    let limits = limits(descriptors, concurrency, wanted, has_internal);
                    assert!(limits.threads_max >= 1 && limits.threads_max <= concurrency);
                    let reserved = if has_internal { internal_reserve(limits.connections_max) } else { 0 };
                    let public_max = limits.connections_max - reserved;
                    assert!(
                        limits.feeds_room() >= 3 && limits.streams_max + limits.feeds_room() < limits.connections_max
                    );
                    assert!(limits.streams_max >= 1 && limits.streams_max + SENDS_RESERVE_MIN <= public_max);
                    let used = limits.threads_max + limits.late_max + limits.connections_max + FIXED_RESERVE;
                    assert!(used as u64 <= descriptors, "{descriptors}: {limits:?}");
                }
            }
        }
    }
}
