//! Events to Server-Sent Events frames (WHATWG HTML, section 9.2). Knows nothing of HTTP or JSON.

/// One event, as a backend gave it. Whoever builds one has checked that `name` and `id` hold no
/// CR, LF or NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's type; `None` or empty: the client sees an unnamed `message`.
    pub name: Option<&'a str>,
    /// The new last event id; `Some("")` resets it.
    pub id: Option<&'a str>,
    /// Reconnection time in milliseconds.
    pub retry: Option<u32>,
    /// The payload; any text, split into lines at CRLF, CR and LF.
    pub data: &'a str,
}

/// The heartbeat: a comment, invisible to `EventSource`.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// Appends one frame.
pub fn write_event(out: &mut Vec<u8>, event: &Event<'_>) {
    let _ = (out, event);
    todo!()
}

/// Appends `retry: MILLISECONDS` as a frame of its own.
pub fn write_retry(out: &mut Vec<u8>, milliseconds: u32) {
    let _ = (out, milliseconds);
    todo!()
}
