//! The trace of a run: always a hash, so that two runs can be compared, and text when one seed is replayed.

pub(super) struct Trace {
    hash: u64,
    steps: u64,
    aloud: bool,
}

impl Trace {
    /// `aloud`: print each step.
    pub(super) fn new(aloud: bool) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, steps: 0, aloud }
    }

    /// Counts a step of the simulation: a turn of the loop or a scheduled event.
    pub(super) fn count_step(&mut self) {
        self.steps += 1;
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    /// The hash over everything so far.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Records a step at `time` (simulated milliseconds).
    pub(super) fn note(&mut self, time: u64, what: &'static str, values: &[(&'static str, u64)]) {
        self.mix(time);
        self.mix(what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 32);
        for (_, value) in values {
            self.mix(*value);
        }
        if self.aloud {
            let values: String = values.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            println!("{:>7}.{:03} {what}{values}", time / 1000, time % 1000);
        }
    }

    /// Records bytes that crossed the seam.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.mix(u64::from_le_bytes(padded));
        }
        if self.aloud && !bytes.is_empty() {
            let shown = &bytes[..bytes.len().min(300)];
            println!("            | {}", shown.escape_ascii());
        }
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }
}
