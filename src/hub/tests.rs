//! Groups against a plain twin.
