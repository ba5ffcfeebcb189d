//! Tokens: which connection each one names, and how they are spelled.

use super::ConnId;
use super::connection::Connection;
use crate::table::Table;
use hashbrown::HashTable;
use uuid::Uuid;

/// The streams that can be sent to, by token.
///
/// Sends to many streams wait for memory more than for anything else, so an entry is small: the token itself stands in
/// the connection, which a send needs anyway.
#[derive(Default)]
pub(super) struct Tokens(HashTable<Entry>);

/// Eight bytes; the table grows without a look at the connections.
struct Entry {
    /// Some bits of the token.
    excerpt: u32,
    /// The slot of its connection.
    slot: u32,
}

impl Entry {
    fn hash(&self) -> u64 {
        spread(self.excerpt)
    }
}

/// Tokens are random already, and nobody but the gateway draws them: some of their bits are as good as a hash.
fn excerpt(token: Uuid) -> u32 {
    // The last ones: none of them tells the version or the variant (RFC 9562, section 5.4).
    token.as_u128() as u32
}

/// The table takes the place from the low bits and tells neighbours apart by the seven high ones.
fn spread(excerpt: u32) -> u64 {
    u64::from(excerpt) << 32 | u64::from(excerpt)
}

impl Tokens {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The connection that `token` names.
    pub(super) fn get(&self, token: Uuid, connections: &Table<Connection>) -> Option<ConnId> {
        let excerpt = excerpt(token);
        let in_slot =
            |entry: &Entry| connections.in_slot(entry.slot).filter(|(_, connection)| connection.token == token);
        let entry = self.0.find(spread(excerpt), |entry| entry.excerpt == excerpt && in_slot(entry).is_some())?;
        in_slot(entry).map(|(id, _)| id)
    }

    /// Lets `token`, which names nothing yet, name the connection `id`, whose token it is.
    pub(super) fn insert(&mut self, token: Uuid, id: ConnId) {
        let entry = Entry { excerpt: excerpt(token), slot: id.slot() };
        self.0.insert_unique(entry.hash(), entry, Entry::hash);
    }

    /// Lets `token` name nothing any more. `id` is what it named.
    pub(super) fn remove(&mut self, token: Uuid, id: ConnId) {
        let excerpt = excerpt(token);
        let entry = self.0.find_entry(spread(excerpt), |entry| entry.excerpt == excerpt && entry.slot == id.slot());
        if let Ok(entry) = entry {
            entry.remove();
        }
    }

    /// Gives up memory that is not in use.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit(Entry::hash);
    }
}

/// A token in the one form that the gateway gives out: lower-case, with hyphens (RFC 9562, section 4).
pub(super) fn parse(text: &str) -> Option<Uuid> {
    let bytes: &[u8; 36] = text.as_bytes().try_into().ok()?;
    if [8, 13, 18, 23].iter().any(|hyphen| bytes[*hyphen] != b'-') {
        return None;
    }
    let four = |at: usize| bytes[at..].first_chunk().copied().map_or(0, u32::from_be_bytes);
    let token = [(0, 4), (9, 14), (19, 24), (28, 32)].iter().try_fold(0, |token, (left, right)| {
        let digits = u64::from(four(*left)) << 32 | u64::from(four(*right));
        Some(token << 32 | u128::from(hex_value(digits)?))
    });
    token.map(Uuid::from_u128)
}

/// A one in each byte of a word.
const ONES: u64 = u64::MAX / 0xFF;

/// The number that eight hexadecimal digits spell, the highest byte being the first one; `None` if they are not all
/// digits or lower-case letters. All at once: whether a digit or a letter comes next is nothing that could be foretold.
fn hex_value(digits: u64) -> Option<u32> {
    let letters = digits >> 6 & ONES;
    let values = (digits & (ONES * 0x0F)) + letters * 9;
    let above_nine = (values + ONES * 6) >> 4 & ONES;
    // What they come to, spelled.
    let spelled = values + ONES * u64::from(b'0') + above_nine * u64::from(b'a' - b'9' - 1);
    if values & (ONES * 0xF0) != 0 || spelled != digits {
        return None;
    }
    let bytes = (values | values >> 4) & 0x00FF_00FF_00FF_00FF;
    let pairs = (bytes | bytes >> 8) & 0x0000_FFFF_0000_FFFF;
    Some((pairs | pairs >> 16) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;
    use crate::gateway::{Listener, Peer};
    use std::collections::HashSet;

    #[test]
    fn takes_tokens_in_their_own_form_only() {
        let token = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
        assert_eq!(parse(&token.to_string()), Some(token));
        assert_eq!(parse(&token.to_string().to_uppercase()), None);
        assert_eq!(parse(&token.simple().to_string()), None);
        assert_eq!(parse(&token.to_string().replace('-', "0")), None);
        assert_eq!(parse("-12345670-9ab-4def-8123-456789abcdef"), None);
        assert_eq!(parse(&format!("{{{token}}}")), None);
        assert_eq!(parse(&format!("{token}0")), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn every_character_is_read_or_turned_away_wherever_it_stands() {
        let token = Uuid::from_u128(0xf123_4567_89ab_4def_8123_4567_89ab_cde0).to_string();
        for at in 0..token.len() {
            for character in '\0'..='\u{ff}' {
                let mut changed = token.clone();
                changed.replace_range(at..=at, character.encode_utf8(&mut [0; 4]));
                // The same form that `Uuid` spells, and nothing else that it would read.
                let expected = Uuid::try_parse(&changed).ok().filter(|uuid| uuid.to_string() == changed);
                assert_eq!(parse(&changed), expected, "{changed:?}");
            }
        }
    }

    /// Tokens that differ in what the table has of them, and some that do not.
    #[test]
    fn each_token_finds_its_own_connection() {
        let mut connections = Table::default();
        let mut tokens = Tokens::default();
        let numbers = (1..=500).chain((1..=20).map(|n| n << 64 | 7));
        let named: Vec<(Uuid, ConnId)> = numbers
            .map(|number| {
                let token = Uuid::from_u128(number);
                let id = connections.insert(Connection::new(Millis::ZERO, Listener::Public, Peer::Remote, token));
                tokens.insert(token, id);
                (token, id)
            })
            .collect();
        let find = |tokens: &Tokens, token: Uuid| tokens.get(token, &connections);
        assert_eq!(tokens.len(), named.len());
        assert!(named.iter().all(|(token, id)| find(&tokens, *token) == Some(*id)));
        let unknown = [501, 21 << 64 | 7].map(Uuid::from_u128);
        assert_eq!(unknown.map(|token| find(&tokens, token)), [None, None]);
        for (token, id) in named.iter().step_by(2) {
            tokens.remove(*token, *id);
        }
        tokens.shrink();
        assert_eq!(tokens.len(), named.len() / 2);
        for (n, (token, id)) in named.iter().enumerate() {
            assert_eq!(find(&tokens, *token), (n % 2 == 1).then_some(*id), "{token}");
        }
    }

    #[test]
    fn tokens_spread_over_the_table() {
        let token = |n: u128| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let hashes: Vec<u64> = (1..=1000).map(|n| spread(excerpt(Uuid::from_u128(token(n))))).collect();
        let distinct = |bits: fn(&u64) -> u64| hashes.iter().map(bits).collect::<HashSet<u64>>().len();
        // A thousand balls thrown into 4096 bins lie in some 890 of them.
        assert!(distinct(|hash| hash % 4096) > 850);
        assert_eq!(distinct(|hash| hash >> 57), 128);
    }
}
