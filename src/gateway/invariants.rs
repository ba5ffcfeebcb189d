//! What holds between two inputs, whatever they are.

use super::connection::State;
use super::places::Places;
use super::shared::Shared;
use super::{Gateway, deadlines};

impl Gateway {
    /// Panics if counts, tokens or buffers do not match the connections. Walks all of them; for tests, simulations and
    /// fuzzers.
    pub fn assert_invariants(&self) {
        let Shared { settings, hub, outbox, stats, places, budget, .. } = &self.shared;
        let token_in = |slot| self.connections.in_slot(slot).map(|connection| connection.token);
        let (mut streams, mut open, mut unsent, mut unfinished, mut kept) = (0, 0, 0, 0, 0);
        let (mut feeds, mut watching, mut lagging, mut tails) = (0, 0, 0, 0);
        for (id, connection) in self.connections.iter() {
            unsent += u64::from(connection.out.counted());
            unfinished += connection.unfinished_bytes();
            connection.out.assert_invariants(self.shared.unsent_of(connection));
            assert_eq!(connection.id, id);
            lagging += usize::from(connection.is_lagging());
            tails += usize::from(connection.has_tail());
            let is_named = hub.tokens.get(connection.token, token_in) == Some(id.slot());
            assert_eq!(is_named, connection.is_stream(), "tokens name streams, and nothing else");
            streams += usize::from(connection.is_stream());
            if let State::Streaming(streaming) = &connection.state {
                open += 1;
                kept += streaming.request.json().len();
            }
            if let State::Reading(reading) = &connection.state {
                assert!(reading.inbox.len() < settings.head_bytes_max, "an inbox over its limit");
            }
            if let State::Feeding(feed) = &connection.state {
                feeds += 1;
                watching += usize::from(feed.watched.as_ref().is_some_and(|watched| hub.watches.has(watched, id)));
            }
            assert!(!matches!(connection.state, State::Closed(_)), "a connection that is over keeps its slot");
            deadlines::assert_scheduled(connection, settings);
        }
        budget.assert_invariants(unfinished, kept);
        let taken: usize = places.iter().map(Places::taken).sum();
        assert_eq!(taken, self.connections.len(), "places are miscounted");
        assert_eq!(streams, hub.tokens.len(), "tokens and streams differ");
        assert_eq!(open, stats.streams_open, "open streams are miscounted");
        assert_eq!(unsent, outbox.unsent_bytes(), "unsent bytes are miscounted");
        assert_eq!(feeds, stats.feeds.open, "open feeds are miscounted");
        assert_eq!(watching, hub.watches.len(), "something is watched for nobody");
        let delivery = &self.shared.delivery;
        assert_eq!((lagging, tails), (delivery.lagging.len(), delivery.tails.len()), "streams that lag are miscounted");
        let lags = |id| self.connections.get(id).is_some_and(|connection| connection.is_lagging());
        assert!(self.shared.pages.streams().all(lags), "a page for a stream that needs none");
        hub.calls.assert_invariants();
        hub.groups.assert_invariants();
    }
}
