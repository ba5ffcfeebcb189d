//! Bugs that the simulation must find (`make planted`), each next to the code that it breaks. A build with
//! `--cfg planted` has the one that `PLANTED` names in the environment; all other builds contain none.

/// Whether that bug is active.
#[cfg(planted)]
pub(crate) fn is(bug: &str) -> bool {
    use std::sync::LazyLock;
    static PLANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("PLANTED").ok());
    PLANTED.as_deref() == Some(bug)
}

/// Whether that bug is active: never.
#[cfg(not(planted))]
pub(crate) const fn is(_bug: &str) -> bool {
    false
}
