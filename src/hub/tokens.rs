//! Tokens: the connection of each one, and their canonical form.

use crate::table::Key;
use hashbrown::HashTable;
use uuid::Uuid;

/// The id of a connection; stale once it is closed.
pub type ConnId = Key;

/// The streams that can be sent to, by token.
///
/// Sends to many streams mostly wait for memory, so an entry is small: the token itself is stored in the connection,
/// which a send needs anyway.
#[derive(Default)]
pub(crate) struct Tokens(HashTable<Entry>);

/// Eight bytes; the table grows without touching the connections.
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

/// Tokens are random, and only the gateway generates them: some of their bits are as good as a hash.
fn excerpt(token: Uuid) -> u32 {
    // The last ones, which do not include the version or the variant (RFC 9562, section 5.4).
    token.as_u128() as u32
}

/// The table uses the low bits for the position and the seven high ones to distinguish neighbours.
fn spread(excerpt: u32) -> u64 {
    u64::from(excerpt) << 32 | u64::from(excerpt)
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The slot that `token` names. `token_in` is the token of the connection in a slot.
    pub(crate) fn get(&self, token: Uuid, token_in: impl Fn(u32) -> Option<Uuid>) -> Option<u32> {
        let excerpt = excerpt(token);
        let is_named = |entry: &Entry| entry.excerpt == excerpt && token_in(entry.slot) == Some(token);
        self.0.find(spread(excerpt), is_named).map(|entry| entry.slot)
    }

    /// Adds `token`, which must be new, for the connection `id`.
    pub(crate) fn insert(&mut self, token: Uuid, id: ConnId) {
        let entry = Entry { excerpt: excerpt(token), slot: id.slot() };
        self.0.insert_unique(entry.hash(), entry, Entry::hash);
    }

    /// Removes `token` of the connection `id`.
    pub(crate) fn remove(&mut self, token: Uuid, id: ConnId) {
        let excerpt = excerpt(token);
        let entry = self.0.find_entry(spread(excerpt), |entry| entry.excerpt == excerpt && entry.slot == id.slot());
        if let Ok(entry) = entry {
            entry.remove();
        }
    }

    /// Frees unused memory.
    pub(crate) fn shrink(&mut self) {
        self.0.shrink_to_fit(Entry::hash);
    }
}

/// Parses a token in the only form that the gateway issues: lower-case, with hyphens (RFC 9562, section 4).
pub(crate) fn parse(text: &str) -> Option<Uuid> {
    // Among the forms that `Uuid` reads, only this one has 36 characters.
    let bytes: &[u8; 36] = text.as_bytes().try_into().ok()?;
    // With a known length and without an early exit, this compiles to a few vector instructions.
    let upper = bytes.iter().fold(false, |upper, byte| upper | byte.is_ascii_uppercase());
    if upper { None } else { Uuid::try_parse(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                // Accepts the form that `Uuid` writes, and no other that it reads.
                let expected = Uuid::try_parse(&changed).ok().filter(|uuid| uuid.to_string() == changed);
                assert_eq!(parse(&changed), expected, "{changed:?}");
            }
        }
    }

    /// Tokens that differ in the bits that the table stores, and some that do not.
    #[test]
    fn each_token_finds_its_own_connection() {
        let mut tokens = Tokens::default();
        let numbers = (1..=500).chain((1..=20).map(|n| n << 64 | 7));
        let named: Vec<(Uuid, ConnId)> =
            (0..).zip(numbers).map(|(slot, number)| (Uuid::from_u128(number), Key::from_parts(slot, 0))).collect();
        for (token, id) in &named {
            tokens.insert(*token, *id);
        }
        let find =
            |tokens: &Tokens, token: Uuid| tokens.get(token, |slot| named.get(slot as usize).map(|(token, _)| *token));
        assert_eq!(tokens.len(), named.len());
        assert!(named.iter().all(|(token, id)| find(&tokens, *token) == Some(id.slot())));
        let unknown = [501, 21 << 64 | 7].map(Uuid::from_u128);
        assert_eq!(unknown.map(|token| find(&tokens, token)), [None, None]);
        for (token, id) in named.iter().step_by(2) {
            tokens.remove(*token, *id);
        }
        tokens.shrink();
        assert_eq!(tokens.len(), named.len() / 2);
        for (n, (token, id)) in named.iter().enumerate() {
            assert_eq!(find(&tokens, *token), (n % 2 == 1).then_some(id.slot()), "{token}");
        }
    }

    #[test]
    fn tokens_spread_over_the_table() {
        let token = |n: u128| n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
        let hashes: Vec<u64> = (1..=1000).map(|n| spread(excerpt(Uuid::from_u128(token(n))))).collect();
        let distinct = |bits: fn(&u64) -> u64| hashes.iter().map(bits).collect::<HashSet<u64>>().len();
        // A thousand balls thrown into 4096 bins occupy some 890 of them.
        assert!(distinct(|hash| hash % 4096) > 850);
        assert_eq!(distinct(|hash| hash >> 57), 128);
    }
}
