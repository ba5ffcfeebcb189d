//! The reason phrases of status lines, compared with another list: a backend may reject a client with any status from
//! 300.

use ssegateway::http::response::{self, CorsHeaders, Date, Response};
use ureq::http::StatusCode;

#[test]
fn every_registered_status_has_its_phrase() {
    for status in [200, 204].into_iter().chain(300..600) {
        let mut out = Vec::new();
        let response = Response {
            status,
            content_type: b"application/json",
            body: b"",
            fields: &[],
            cors: &CorsHeaders::Off,
            exposed: false,
            close: true,
            keepalive: None,
            head_only: false,
        };
        response::write(&mut out, &Date::new(0), &response);
        let text = String::from_utf8(out).expect("ASCII");
        let phrase = text.lines().next().and_then(|line| line.strip_prefix(&format!("HTTP/1.1 {status} ")));
        let registered = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let expected = match status {
            // Renamed by RFC 9110.
            413 => "Content Too Large",
            422 => "Unprocessable Content",
            // Obsolete.
            305 | 510 => "",
            _ => registered.unwrap_or_default(),
        };
        assert_eq!(phrase, Some(expected));
    }
}
