//! Tokens and passwords.

use std::fmt::{self, Debug, Formatter};

/// Text that is never shown: `Debug` masks it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// From any text, even an empty one: the caller validates it.
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
