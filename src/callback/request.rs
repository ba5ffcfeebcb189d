//! The client's request as JSON: encoded once per stream and included in both callbacks.

use crate::json;
use httparse::Header;
use std::borrow::Cow;
use std::sync::Arc;

/// Headers that cannot be a list; the first of repeated ones counts (docs/protocol.md, section 3).
const FIRST_WINS: [&str; 18] = [
    "age",
    "authorization",
    "content-length",
    "content-type",
    "etag",
    "expires",
    "from",
    "host",
    "if-modified-since",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "proxy-authorization",
    "referer",
    "retry-after",
    "server",
    "user-agent",
];

/// The parts of a client's request that the backend receives.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// The request target, as sent.
    pub url: &'a str,
    /// In the order received, names in any case, values raw and trimmed.
    pub headers: &'a [Header<'a>],
}

/// A client's request in callbacks, `{"url":"...","headers":{...}}` (docs/protocol.md, section 3): encoded once per
/// stream, cheap to clone. Every stream keeps one, so it is only the JSON. The default is empty and means no request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request(Arc<str>);

/// Comes first, so that the URL is found without parsing the headers.
const BEFORE_URL: &str = "{\"url\":\"";

impl Request {
    /// The JSON is built in `scratch`, so that the result is one allocation of the right size.
    pub fn encode(scratch: &mut String, parts: &RequestParts<'_>) -> Self {
        Self::encode_to(scratch, parts, "}}")
    }

    /// The same of a POST: with `"method":"POST"` behind the headers.
    pub fn encode_post(scratch: &mut String, parts: &RequestParts<'_>) -> Self {
        Self::encode_to(scratch, parts, "},\"method\":\"POST\"}")
    }

    fn encode_to(out: &mut String, parts: &RequestParts<'_>, end: &str) -> Self {
        let RequestParts { url, headers } = *parts;
        out.clear();
        out.push_str(BEFORE_URL);
        push_text(out, url);
        out.push_str("\",\"headers\":{");
        push_headers(out, headers);
        out.push_str(end);
        Self(Arc::from(out.as_str()))
    }

    /// The object in a callback's body.
    pub fn json(&self) -> &str {
        &self.0
    }

    /// The URL as the client sent it.
    pub fn url(&self) -> Cow<'_, str> {
        json::unescaped(self.escaped_url())
    }

    /// The URL as the inside of a JSON string.
    pub fn escaped_url(&self) -> &str {
        let url = self.0.strip_prefix(BEFORE_URL).unwrap_or_default();
        let mut escaped = false;
        let end = url.bytes().position(|byte| {
            let closes = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            closes
        });
        &url[..end.unwrap_or(url.len())]
    }
}

#[cfg(test)]
impl From<String> for Request {
    fn from(json: String) -> Self {
        Self(json.into())
    }
}

/// Appends the fields of the `headers` object.
fn push_headers(out: &mut String, headers: &[Header<'_>]) {
    if are_distinct(headers) {
        for index in 0..headers.len() {
            push_first(out, headers, index);
        }
    } else {
        for (first, index) in group_by_name(headers) {
            if index == first {
                push_first(out, headers, index);
            } else {
                push_repeat(out, &headers[index]);
            }
        }
    }
    if !headers.is_empty() {
        out.push('"');
    }
}

/// Whether no name appears twice; also `false` if there are more than the few fields of a usual request.
fn are_distinct(headers: &[Header<'_>]) -> bool {
    const FEW: usize = 32;
    let mut keys = [0; FEW];
    let Some(keys) = keys.get_mut(..headers.len()) else { return false };
    headers.iter().enumerate().all(|(index, header)| {
        keys[index] = sort_key(header.name);
        !keys[..index].contains(&keys[index])
    })
}

/// Appends the first field of a name, without the quote that ends its value.
fn push_first(out: &mut String, headers: &[Header<'_>], index: usize) {
    out.push_str(if index == 0 { "\"" } else { "\",\"" });
    let start = out.len();
    push_text(out, headers[index].name);
    out[start..].make_ascii_lowercase();
    out.push_str("\":\"");
    push_value(out, headers[index].name, headers[index].value);
}

/// The indexes of all headers, each with that of the first header of the same name: names in order of appearance, and
/// repeats after their first. Found by sorting, so that a client cannot make many names expensive.
fn group_by_name(headers: &[Header<'_>]) -> Vec<(usize, usize)> {
    let mut order: Vec<(u64, usize)> =
        headers.iter().enumerate().map(|(index, header)| (sort_key(header.name), index)).collect();
    order.sort_unstable_by(|(key, index), (other_key, other)| {
        key.cmp(other_key)
            .then_with(|| lowercase(headers[*index].name).cmp(lowercase(headers[*other].name)))
            .then(index.cmp(other))
    });
    let mut first = 0;
    let mut groups: Vec<(usize, usize)> = order
        .iter()
        .map(|(_, index)| {
            if !headers[first].name.eq_ignore_ascii_case(headers[*index].name) {
                first = *index;
            }
            (first, *index)
        })
        .collect();
    groups.sort_unstable();
    groups
}

/// Equal for names that differ only in case, and different for almost all others: the last eight bytes.
fn sort_key(name: &str) -> u64 {
    let name = name.as_bytes();
    let tail = match name.last_chunk() {
        Some(tail) => u64::from_be_bytes(*tail),
        None => name.iter().fold(0, |key, byte| key << 8 | u64::from(*byte)),
    };
    tail | u64::from_ne_bytes([b' '; 8])
}

fn lowercase(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

/// Appends the value of a repeated header to the previous ones, unless the first one wins.
fn push_repeat(out: &mut String, &Header { name, value }: &Header<'_>) {
    if FIRST_WINS.iter().any(|first_wins| name.eq_ignore_ascii_case(first_wins)) {
        return;
    }
    out.push_str(if name.eq_ignore_ascii_case("cookie") { "; " } else { ", " });
    push_value(out, name, value);
}

/// A header value is bytes, decoded as Latin-1 like in browsers and Node.js (Fetch, "isomorphic decode"). But browsers
/// send the id of an event back in UTF-8 (WHATWG HTML, section 9.2.3).
fn push_value(out: &mut String, name: &str, value: &[u8]) {
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() || name.eq_ignore_ascii_case("last-event-id") => push_text(out, text),
        Ok(_) | Err(_) => push_text(out, &value.iter().map(|byte| char::from(*byte)).collect::<String>()),
    }
}

/// Appends the inside of a JSON string.
fn push_text(out: &mut String, text: &str) {
    if is_plain(text.as_bytes()) {
        return out.push_str(text);
    }
    // A string is serialized with its two quotes.
    let quoted = serde_json::to_string(text).unwrap_or_default();
    out.push_str(quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or_default());
}

/// Whether the text needs no escapes in JSON. Scans all of it, which the compiler vectorises to 16 bytes at a time; an
/// early exit would be slower.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| plain & (*byte >= b' ') & (*byte <= b'~') & (*byte != b'"') & (*byte != b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, headers: &[(&str, &[u8])]) -> Request {
        let mut scratch = "what stood there before".to_owned();
        let headers: Vec<Header<'_>> = headers.iter().map(|(name, value)| Header { name, value }).collect();
        Request::encode(&mut scratch, &RequestParts { url, headers: &headers })
    }

    fn encode(url: &str, headers: &[(&str, &[u8])]) -> String {
        request(url, headers).json().to_owned()
    }

    /// Only the inside of `headers`.
    fn encode_headers(headers: &[(&str, &[u8])]) -> String {
        let text = encode("/", headers);
        let inside = text.strip_prefix("{\"url\":\"/\",\"headers\":{").and_then(|rest| rest.strip_suffix("}}"));
        inside.unwrap().to_owned()
    }

    #[test]
    fn a_request_is_the_url_and_its_headers() {
        assert_eq!(encode("/", &[]), r#"{"url":"/","headers":{}}"#);
        let headers: [(&str, &[u8]); 3] =
            [("Host", b"example.org:3000"), ("ACCEPT", b"text/event-stream"), ("x-Empty", b"")];
        assert_eq!(
            encode("/a?b=c&d=%zz", &headers),
            r#"{"url":"/a?b=c&d=%zz","headers":{"host":"example.org:3000","accept":"text/event-stream","x-empty":""}}"#
        );
    }

    #[test]
    fn repeated_headers_are_joined_where_the_name_stood_first() {
        let headers: [(&str, &[u8]); 6] =
            [("X-A", b"1"), ("X-B", b"2"), ("x-a", b""), ("X-C", b"3"), ("X-a", b"4, 5"), ("x-b", b"6")];
        assert_eq!(encode_headers(&headers), r#""x-a":"1, , 4, 5","x-b":"2, 6","x-c":"3""#);
    }

    #[test]
    fn cookies_are_joined_with_semicolons() {
        let headers: [(&str, &[u8]); 3] = [("Cookie", b"a=1"), ("cookie", b"b=2; c=3"), ("COOKIE", b"d=4")];
        assert_eq!(encode_headers(&headers), r#""cookie":"a=1; b=2; c=3; d=4""#);
        let others: [(&str, &[u8]); 2] = [("Set-Cookie", b"a=1"), ("Set-Cookie", b"b=2")];
        assert_eq!(encode_headers(&others), r#""set-cookie":"a=1, b=2""#);
    }

    #[test]
    fn of_headers_that_are_no_lists_the_first_wins() {
        for name in [
            "authorization",
            "host",
            "user-agent",
            "content-type",
            "content-length",
            "referer",
            "from",
            "max-forwards",
            "if-modified-since",
            "if-unmodified-since",
            "proxy-authorization",
            "location",
            "etag",
            "expires",
            "age",
            "last-modified",
            "retry-after",
            "server",
        ] {
            let upper = name.to_ascii_uppercase();
            let headers: [(&str, &[u8]); 3] = [(&upper, b"first"), (name, b"second"), (&upper, b"third")];
            assert_eq!(encode_headers(&headers), format!("\"{name}\":\"first\""));
        }
    }

    #[test]
    fn values_are_escaped_as_json_demands() {
        let headers: [(&str, &[u8]); 2] = [("a", b"q\"b\\s/\t\x01\x1f\x08\x0c\r\n\x7f"), ("b`|~", b"</script>")];
        assert_eq!(
            encode_headers(&headers),
            "\"a\":\"q\\\"b\\\\s/\\t\\u0001\\u001f\\b\\f\\r\\n\u{7f}\",\"b`|~\":\"</script>\""
        );
        assert_eq!(encode("/\"\\", &[]), r#"{"url":"/\"\\","headers":{}}"#);
    }

    #[test]
    fn high_bytes_are_latin_1() {
        let headers: [(&str, &[u8]); 1] = [("a", b"gr\xFCn \x80\xFF \xC3\xBC")];
        assert_eq!(encode_headers(&headers), "\"a\":\"gr\u{fc}n \u{80}\u{ff} \u{c3}\u{bc}\"");
    }

    #[test]
    fn every_byte_survives_json() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = encode_headers(&[("a", &bytes)]);
        let decoded: String = serde_json::from_str(text.strip_prefix("\"a\":").unwrap()).unwrap();
        assert_eq!(decoded, bytes.iter().map(|byte| char::from(*byte)).collect::<String>());
    }

    #[test]
    fn the_most_headers_there_may_be() {
        let names: Vec<String> = (0..256).map(|number| format!("x-{}", number % 128)).collect();
        let headers: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"v".as_slice())).collect();
        let text = encode("/", &headers);
        assert_eq!(text.matches(":\"v, v\"").count(), 128);
        let expected: Vec<String> = names[..128].iter().map(|name| format!(r#""{name}":"v, v""#)).collect();
        assert_eq!(text, format!(r#"{{"url":"/","headers":{{{}}}}}"#, expected.join(",")));
    }

    #[test]
    fn a_value_that_ends_like_an_object_begins_ends_its_field() {
        let headers: [(&str, &[u8]); 3] = [("a", b"{"), ("b", b"{\"headers\":{"), ("c", b"")];
        let expected = r#""a":"{","b":"{\"headers\":{","c":"""#;
        assert_eq!(encode_headers(&headers), expected);
        let repeated: [(&str, &[u8]); 4] = [("a", b"{"), ("a", b"{"), ("b", b"{"), ("c", b"")];
        assert_eq!(encode_headers(&repeated), r#""a":"{, {","b":"{","c":"""#);
    }

    #[test]
    fn names_alike_at_their_ends_are_told_apart() {
        // Names with the same sort key, long, short and differing in one bit.
        let names = ["ab-12345678", "cd-12345678", "12345678", "AB-12345678", "a^", "a~", "A^", "ba", "b", "a"];
        let headers: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, b"v".as_slice())).collect();
        assert_eq!(
            encode_headers(&headers),
            r#""ab-12345678":"v, v","cd-12345678":"v","12345678":"v","a^":"v, v","a~":"v","ba":"v","b":"v","a":"v""#
        );
    }

    #[test]
    fn the_url_is_found_whatever_it_holds() {
        for (url, escaped) in [
            ("/", "/"),
            ("/a?b=\"c\"", r#"/a?b=\"c\""#),
            ("\\", r"\\"),
            ("\\\"", r#"\\\""#),
            ("\",\"headers\":{", r#"\",\"headers\":{"#),
        ] {
            let request = request(url, &[("x", b"\"")]);
            assert_eq!((request.escaped_url(), &*request.url()), (escaped, url));
        }
        assert_eq!(Request::default().url(), "");
    }
}
