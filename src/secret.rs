//! Tokens and passwords.

use std::fmt::{self, Debug, Formatter};

/// Text that is never shown: `Debug` masks it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of any text, the empty one included: what a secret must be is its reader's matter.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}
