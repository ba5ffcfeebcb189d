//! Members that have got less far than this gateway remembers: Redis has what it has dropped for `HISTORY_BYTES`, and gives
//! it to them page by page.

use super::connection::Connection;
use super::frames::{Framing, Offer};
use super::shared::Shared;
use crate::cursor::Position;
use crate::hub::{ConnId, Joined};

impl Shared {
    /// Whether what was dropped here of what a stream is owed behind `position` may still be had from Redis.
    pub(super) fn is_recallable(&self, joined: Joined, position: Position) -> bool {
        self.engine.link.is_some() && !self.hub.groups.is_gone(joined, position)
    }

    /// Whether a stream has nothing that its client could read, as its page has not come.
    pub(super) fn waits_for_page(&self, connection: &Connection) -> bool {
        connection.out.is_empty() && self.pages.awaits(connection.id)
    }

    /// Behind which positions a stream is owed what its page has of its groups; `None`: it is in others by now, or there is
    /// no page.
    fn behind_of_page(&self, id: ConnId, joined: Joined, position: Position) -> Option<Vec<Position>> {
        let names = &self.pages.get(id)?.names;
        let owing = || self.hub.groups.owing(joined, position);
        let is_same = owing().map(|owing| owing.name).eq(names.iter().map(|name| &**name));
        is_same.then(|| owing().map(|owing| owing.behind).collect())
    }

    /// Offers what a stream's page has of the events up to `until`. `false`: nothing, and it waits for another page unless
    /// [`Shared::is_page_over`].
    pub(super) fn offer_page(
        &mut self,
        id: ConnId,
        (joined, position): (Joined, Position),
        until: Position,
        framing: Framing,
    ) -> bool {
        let behind = self.behind_of_page(id, joined, position);
        let (engine, collected) = (&self.engine, self.delivery.start());
        let (mut is_whole, mut covers) = (true, 0);
        if let (Some(behind), Some(arrived)) = (behind, self.pages.get(id)) {
            covers = arrived.page.covers;
            for (position, frame) in arrived.due(&behind, until) {
                is_whole = collected.add(engine.cursor(position), frame, framing);
                if !is_whole {
                    break;
                }
            }
        }
        if collected.is_empty() {
            if covers < until {
                self.pages.discard(id);
                self.pages.want(id);
            }
            return false;
        }
        let complete_to = (is_whole && covers >= until).then_some(until);
        self.delivery.offer = Some(Offer { id, live: None, floor: position, complete_to });
        true
    }

    /// Whether a stream has had all of its page, and nothing more comes up to `until`.
    pub(super) fn is_page_over(&self, id: ConnId, (joined, position): (Joined, Position), until: Position) -> bool {
        let Some(behind) = self.behind_of_page(id, joined, position) else { return false };
        let arrived = self.pages.get(id);
        arrived.is_some_and(|arrived| arrived.page.covers >= until && arrived.due(&behind, until).next().is_none())
    }
}
