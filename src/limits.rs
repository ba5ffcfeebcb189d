//! Divides the descriptor limit among streams, other connections and callbacks, so that sends, probes and callbacks
//! still get a descriptor when every stream is taken.

/// Descriptors that are neither connections nor callbacks: stdio, epoll, eventfd, signalfd, the
/// listeners, the log pipe, a name lookup; doubled as a margin for what libraries open.
const FIXED_RESERVE: usize = 24;

/// Minimum and maximum of connections reserved for sends and probes.
const SENDS_RESERVE_MIN: usize = 4;
const SENDS_RESERVE_MAX: usize = 256;

/// Connections reserved for the internal listener, where there is one, so that sends get through when the public port
/// is crowded. At most half of all.
const INTERNAL_RESERVE_MAX: usize = 16;

/// How many of `connections_max` are reserved for the internal listener, where there is one.
pub fn internal_reserve(connections_max: usize) -> usize {
    INTERNAL_RESERVE_MAX.min(connections_max / 2)
}

/// What the process may hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Callback threads, each of which holds at most one descriptor, in use or kept alive.
    pub threads_max: usize,
    /// Accepted connections of any kind.
    pub connections_max: usize,
    /// Streams, those still connecting included; always less than `connections_max`.
    pub streams_max: usize,
}

impl Limits {
    /// Divides `descriptors` (the soft limit after it was raised). `streams_wanted` is an explicit `MAX_STREAMS`,
    /// lowered to what is possible: see [`Limits::fits`].
    pub fn from_descriptors(
        descriptors: u64,
        callback_concurrency: usize,
        streams_wanted: Option<usize>,
        has_internal: bool,
    ) -> Limits {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let threads_max = callback_concurrency.min((descriptors / 4).max(1));
        // Below some 30 descriptors nothing works well; two connections keep the arithmetic whole.
        let connections_max = descriptors.saturating_sub(FIXED_RESERVE + threads_max).max(2);
        // The public port also needs connections to refuse further clients on.
        let public_max = connections_max - if has_internal { internal_reserve(connections_max) } else { 0 };
        let reserve = (public_max / 8).clamp(SENDS_RESERVE_MIN, SENDS_RESERVE_MAX);
        let streams_room = public_max.saturating_sub(reserve).max(1);
        let streams_max = streams_wanted.map_or(streams_room, |wanted| wanted.min(streams_room));
        debug_assert!(streams_max < connections_max);
        Limits { threads_max, connections_max, streams_max }
    }

    /// Whether an explicit `MAX_STREAMS` was honoured in full.
    pub fn fits(&self, streams_wanted: Option<usize>) -> bool {
        streams_wanted.is_none_or(|wanted| wanted <= self.streams_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_limit() {
        let limits = Limits::from_descriptors(20_000, 128, None, false);
        assert_eq!(limits, Limits { threads_max: 128, connections_max: 19_848, streams_max: 19_592 });
        let limits = Limits::from_descriptors(20_000, 128, None, true);
        assert_eq!(limits, Limits { threads_max: 128, connections_max: 19_848, streams_max: 19_576 });
    }

    #[test]
    fn a_small_limit_leaves_a_quarter_to_callbacks() {
        let limits = Limits::from_descriptors(64, 128, None, false);
        assert_eq!(limits, Limits { threads_max: 16, connections_max: 24, streams_max: 20 });
        let limits = Limits::from_descriptors(64, 128, None, true);
        assert_eq!(limits, Limits { threads_max: 16, connections_max: 24, streams_max: 8 });
    }

    #[test]
    fn an_explicit_number_of_streams_is_kept_or_clamped() {
        let kept = Limits::from_descriptors(1024, 128, Some(10), false);
        assert_eq!(kept.streams_max, 10);
        assert!(kept.fits(Some(10)));
        assert!(kept.fits(None));
        let clamped = Limits::from_descriptors(1024, 128, Some(5_000), false);
        assert_eq!(clamped.streams_max, 872 - 109);
        assert!(!clamped.fits(Some(5_000)));
    }

    #[test]
    fn every_limit_leaves_room_for_all() {
        for descriptors in (0..5_000).chain([1 << 20, u64::MAX]) {
            for concurrency in [1, 8, 128, 10_000] {
                for (wanted, has_internal) in [(None, false), (None, true), (Some(1), true), (Some(1_000_000), true)] {
                    let limits = Limits::from_descriptors(descriptors, concurrency, wanted, has_internal);
                    assert!(limits.threads_max >= 1 && limits.threads_max <= concurrency);
                    assert!(limits.streams_max >= 1 && limits.streams_max < limits.connections_max);
                    if descriptors >= 64 {
                        let used = limits.threads_max + limits.connections_max + FIXED_RESERVE;
                        assert!(used as u64 <= descriptors, "{descriptors}: {limits:?}");
                        let public_max = limits.connections_max - internal_reserve(limits.connections_max);
                        assert!(!has_internal || limits.streams_max < public_max, "{descriptors}: {limits:?}");
                    }
                }
            }
        }
    }
}
