//! Text gone through many bytes at once: what stands where, as bits. Plain arithmetic on words of eight bytes, which
//! compilers turn into vector instructions where there are some.

use std::ops::Range;

/// How much a [`Block`] shows.
pub(crate) const BLOCK: usize = 64;
/// How much may be copied at once from any place in a block.
pub(crate) const RUN: usize = 16;
/// What a [`Block`] may be copied to.
pub(crate) const ROOM: usize = BLOCK + RUN;
/// Eight bytes are one number.
pub(crate) const WORD: usize = size_of::<u64>();
/// A one in each byte of a word.
const ONES: u64 = u64::MAX / 0xFF;
/// The high bit of each byte of a word.
const HIGH_BITS: u64 = ONES << 7;

/// [`BLOCK`] bytes of a text, with more behind them so that any [`RUN`] can be taken whole.
pub(crate) struct Block<'a>(&'a [u8; ROOM]);

/// Where the end of a text gets the bytes that a block has too many.
pub(crate) struct Padding([u8; ROOM]);

impl Padding {
    pub(crate) fn new() -> Padding {
        Padding([b' '; ROOM])
    }
}

impl<'a> Block<'a> {
    /// The beginning of `text`; if that is short, with blanks behind it. `padding` is new.
    pub(crate) fn of(text: &'a [u8], padding: &'a mut Padding) -> Block<'a> {
        Block(text.first_chunk().unwrap_or_else(|| {
            padding.0[..text.len()].copy_from_slice(text);
            &padding.0
        }))
    }

    /// The byte at `at`, which is less than [`BLOCK`].
    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0[at % BLOCK]
    }

    /// Copies the bytes at `places` to `room`, behind the first `length`; what lies behind those copied is overwritten.
    /// `length` and the places together are no more than a block: what is copied in excess has room, too.
    #[inline]
    pub(crate) fn copy(&self, places: Range<usize>, room: &mut [u8; ROOM], length: usize) {
        let (mut from, mut to) = (places.start, length);
        loop {
            // The remainders change nothing, but show that both places are in bounds.
            if let Some(run) = self.0[from % BLOCK..].first_chunk::<RUN>()
                && let Some(to) = room[to % BLOCK..].first_chunk_mut()
            {
                *to = *run;
            }
            from += RUN;
            to += RUN;
            if from >= places.end {
                break;
            }
        }
    }

    /// The places of the first [`BLOCK`] bytes that are the ASCII character `wanted`, the first place lowest.
    pub(crate) fn places_of(&self, wanted: u8) -> u64 {
        let mut places = 0;
        // Bit `n` of byte `i` tells of byte `i` of word `n`; those of a word are apart by a byte, as they come.
        for (n, word) in self.0.as_chunks::<WORD>().0.iter().take(BLOCK / WORD).enumerate() {
            let zero_where_equal = u64::from_le_bytes(*word) ^ (ONES * u64::from(wanted));
            places |= zero_bytes(zero_where_equal) >> (7 - n);
        }
        transposed(places)
    }

    /// Whether one of the first `count` bytes is a control character.
    pub(crate) fn has_control(&self, count: usize) -> bool {
        let least = self.0.iter().take(BLOCK).fold(u8::MAX, |least, byte| least.min(*byte));
        // Seldom, and then mostly in what follows the string.
        least < b' ' && self.0.iter().take(count).any(|byte| *byte < b' ')
    }
}

/// The high bit of each byte of `word` that is zero. Exact, as opposed to [`equal_bytes`].
fn zero_bytes(word: u64) -> u64 {
    !(((word & !HIGH_BITS) + !HIGH_BITS) | word) & HIGH_BITS
}

/// Bit `i` of byte `n` where bit `n` of byte `i` was (Warren, Hacker's Delight, section 7-3).
fn transposed(mut bits: u64) -> u64 {
    for (distance, mask) in [(7, 0x00AA_00AA_00AA_00AA), (14, 0x0000_CCCC_0000_CCCC), (28, 0x0000_0000_F0F0_F0F0)] {
        let differing = (bits ^ (bits >> distance)) & mask;
        bits ^= differing ^ (differing << distance);
    }
    bits
}

/// Which of `backslashes` start an escape, none of which reaches into the block from before it: of those in a row the
/// first, the third and so on (Keiser and Lemire, simdjson, `find_escaped`).
pub(crate) fn escape_starts(backslashes: u64) -> u64 {
    const ODD_PLACES: u64 = 0xAAAA_AAAA_AAAA_AAAA;
    // The subtraction runs through each row of backslashes, and leaves the odd places of one that started at an even
    // place, and the even ones of one that started at an odd one.
    let after_a_backslash = backslashes << 1;
    let alternating = (after_a_backslash | ODD_PLACES).wrapping_sub(backslashes) ^ ODD_PLACES;
    alternating & backslashes
}

/// How many bytes of `word`, a [`WORD`] of them, stand before the first quote, backslash or control character.
pub(crate) fn unremarkable_bytes(word: &[u8]) -> usize {
    // Of any other length: no shortcut.
    let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
    let below_blank = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
    let marks = below_blank | equal_bytes(word, b'"') | equal_bytes(word, b'\\');
    (marks & HIGH_BITS).trailing_zeros() as usize / 8
}

/// Marks the bytes of `word` that are `byte` by their high bits. The lowest high bit that it sets is right, others may
/// be too many (Mycroft, 1987).
fn equal_bytes(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_whatever_stands_around_them() {
        for around in [b'a', b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xA2, 0xDC, 0xFF, 0] {
            for at in 0..BLOCK {
                for wanted in [b'"', b'\\'] {
                    let mut text = [around; ROOM];
                    text[at] = wanted;
                    assert_eq!(Block::of(&text, &mut Padding::new()).places_of(wanted), 1 << at, "{around} {at}");
                }
            }
        }
    }

    #[test]
    fn every_place_is_seen_at_once() {
        let mut random = 1_u64;
        for _ in 0..1000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let places = random ^ (random >> 29);
            let text: Vec<u8> = (0..BLOCK).map(|at| if places >> at & 1 == 1 { b'"' } else { b'#' }).collect();
            assert_eq!(Block::of(&text, &mut Padding::new()).places_of(b'"'), places);
            assert_eq!(Block::of(&text, &mut Padding::new()).places_of(b'#'), !places);
            assert_eq!(Block::of(&text, &mut Padding::new()).places_of(b'\\'), 0);
        }
    }

    #[test]
    fn no_other_byte_is_taken_for_the_one_wanted() {
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        for (n, part) in bytes.chunks(BLOCK).enumerate() {
            for wanted in [b'"', b'\\', b'a'] {
                let expected = if usize::from(wanted) / BLOCK == n { 1 << (usize::from(wanted) % BLOCK) } else { 0 };
                assert_eq!(Block::of(part, &mut Padding::new()).places_of(wanted), expected);
            }
        }
    }

    #[test]
    fn a_short_text_has_blanks_behind_it() {
        for length in 0..ROOM + 2 {
            let text = vec![b'"'; length];
            let expected = if length < BLOCK { !(u64::MAX << length) } else { u64::MAX };
            assert_eq!(Block::of(&text, &mut Padding::new()).places_of(b'"'), expected, "{length}");
            assert!(!Block::of(&text, &mut Padding::new()).has_control(BLOCK), "{length}");
        }
    }

    #[test]
    fn every_control_character_is_seen_where_it_counts() {
        for byte in 0..=u8::MAX {
            for at in 0..BLOCK {
                let mut text = [b'a'; BLOCK];
                text[at] = byte;
                assert_eq!(Block::of(&text, &mut Padding::new()).has_control(at + 1), byte < b' ', "{byte} at {at}");
                assert!(!Block::of(&text, &mut Padding::new()).has_control(at), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn escapes_start_at_every_other_backslash_of_a_row() {
        for pattern in 0..=u16::MAX {
            for shift in [0, 1, 2, 23, 47, 48] {
                let backslashes = u64::from(pattern) << shift;
                let mut expected = 0;
                let mut at = 0;
                while at < BLOCK {
                    let starts = backslashes >> at & 1;
                    expected |= starts << at;
                    at += 1 + usize::from(starts == 1);
                }
                assert_eq!(escape_starts(backslashes), expected, "{backslashes:b}");
            }
        }
    }

    #[test]
    fn the_bytes_before_a_remarkable_one_are_counted_whatever_stands_around_it() {
        let remarkable = |byte: &u8| *byte < b' ' || [b'"', b'\\'].contains(byte);
        for before in [b'a', 0xFF] {
            for behind in [b' ', b'a', b'!', b'\x7f', 0x80, 0xFF, b'"', b'\\', 0] {
                for at in 0..WORD {
                    for byte in 0..=u8::MAX {
                        let mut word = [before; WORD];
                        word[at..].fill(behind);
                        word[at] = byte;
                        let expected = word.iter().position(remarkable).unwrap_or(WORD);
                        assert_eq!(unremarkable_bytes(&word), expected, "{word:?}");
                    }
                }
            }
        }
    }
}
