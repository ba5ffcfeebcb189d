//! Output buffers, and the pool they come from.
//!
//! An idle stream owns no buffer. One is taken from the pool when there is something to write and
//! goes back as soon as the kernel has taken it all, which is nearly always at once: a handful of
//! warm buffers serves any number of streams.

/// What all pooled buffers together may keep allocated. A batch of sends touches a few hundred
/// streams, each with a frame or two; more than this is better returned to the allocator.
const POOL_BYTES_MAX: usize = 1 << 20;

/// A larger buffer held a backlog; keeping it would pin that memory for ever.
const POOLED_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Sent bytes at the front are moved away only when they are at least this many and half of all.
const COMPACT_BYTES_MIN: usize = 16 * 1024;

/// Spare buffers; the one given back last is handed out first, as its memory is warm.
#[derive(Default)]
pub struct Pool {
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        match self.spare.pop() {
            Some(bytes) => {
                self.bytes -= bytes.capacity();
                bytes
            }
            None => Vec::with_capacity(1024),
        }
    }

    fn give(&mut self, mut bytes: Vec<u8>) {
        let capacity = bytes.capacity();
        if capacity > 0 && capacity <= POOLED_BUFFER_BYTES_MAX && self.bytes + capacity <= POOL_BYTES_MAX {
            bytes.clear();
            self.bytes += capacity;
            self.spare.push(bytes);
        }
    }

    /// Bytes that spare buffers keep allocated.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives up the spare buffers.
    pub fn shrink(&mut self) {
        *self = Pool::default();
    }
}

/// Bytes on their way to one peer.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    /// How many of `bytes` have been sent.
    start: usize,
}

impl Buffer {
    /// What has not been sent yet.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that this buffer keeps allocated.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The vector to append to. What stands in it already must not be touched, but for bytes that
    /// the caller appended itself since the last [`Buffer::consume`].
    pub fn appendable(&mut self, pool: &mut Pool) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take();
        }
        &mut self.bytes
    }

    /// Forgets the first `count` unsent bytes: they were sent.
    pub fn consume(&mut self, count: usize, pool: &mut Pool) {
        debug_assert!(count <= self.len());
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear(pool);
        } else if self.start >= COMPACT_BYTES_MIN && self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self, pool: &mut Pool) {
        self.start = 0;
        pool.give(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsent_bytes_survive_partial_writes_and_compaction() {
        let mut pool = Pool::default();
        let mut buffer = Buffer::default();
        let all: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        buffer.appendable(&mut pool).extend_from_slice(&all);
        let mut sent = 0;
        for step in [1, 15_000, 40_000, 40_000] {
            buffer.consume(step, &mut pool);
            sent += step;
            assert_eq!(buffer.unsent(), &all[sent..]);
            assert_eq!(buffer.len(), all.len() - sent);
        }
    }

    #[test]
    fn what_was_sent_does_not_pile_up_in_front_of_a_backlog() {
        let mut pool = Pool::default();
        let mut buffer = Buffer::default();
        buffer.appendable(&mut pool).resize(20_000, 0);
        for round in 0..1000_u32 {
            buffer.appendable(&mut pool).extend([round as u8; 1000]);
            buffer.consume(1000, &mut pool);
            assert_eq!(buffer.len(), 20_000);
            assert!(buffer.capacity() >= 20_000 && buffer.capacity() < 100_000, "{}", buffer.capacity());
        }
    }

    #[test]
    fn a_drained_buffer_goes_back_and_is_handed_out_again() {
        let mut pool = Pool::default();
        let mut buffer = Buffer::default();
        buffer.appendable(&mut pool).extend_from_slice(b"frame");
        buffer.consume(5, &mut pool);
        assert_eq!(buffer.capacity(), 0);
        assert_eq!(pool.bytes(), 1024);
        pool.shrink();
        assert_eq!(pool.bytes(), 0);
        buffer.appendable(&mut pool).extend_from_slice(b"frame");
        buffer.consume(5, &mut pool);
        let mut other = Buffer::default();
        assert!(other.appendable(&mut pool).is_empty());
        assert_eq!(pool.bytes(), 0);
        assert!(other.is_empty());
    }

    #[test]
    fn the_pool_keeps_neither_large_buffers_nor_many() {
        let mut pool = Pool::default();
        pool.give(Vec::new());
        pool.give(Vec::with_capacity(POOLED_BUFFER_BYTES_MAX + 1));
        assert!(pool.spare.is_empty());
        assert_eq!(pool.bytes(), 0);
        for _ in 0..100 {
            pool.give(Vec::with_capacity(POOLED_BUFFER_BYTES_MAX));
        }
        assert_eq!(pool.bytes(), POOL_BYTES_MAX);
    }
}
