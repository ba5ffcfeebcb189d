//! One HTTP response, from the client's view.

/// A response head with its decoded body.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// As sent, e.g. `HTTP/1.1 200 OK`.
    pub status_line: String,
    pub status: u16,
    /// In the order and case sent.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Parses a head, including its blank line; panics on anything a strict client would refuse.
    pub(crate) fn parse_head(head: &[u8]) -> Self {
        let text = std::str::from_utf8(head).expect("response heads are ASCII");
        let mut lines = text.strip_suffix("\r\n\r\n").expect("a head ends with a blank line").split("\r\n");
        let status_line = lines.next().unwrap_or_default().to_owned();
        assert!(status_line.starts_with("HTTP/1.1 "), "status line: {status_line:?}");
        let status = status_line[9..12].parse().expect("three digits of status");
        assert_eq!(status_line.as_bytes().get(12), Some(&b' '), "a space follows the status: {status_line:?}");
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
                assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{line:?}");
                assert!(!line.contains(['\r', '\n']), "{line:?}");
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        Self { status_line, status, headers, body: Vec::new() }
    }

    /// The value of a header that occurs at most once; names compare without case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.header_values(name).into_iter();
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice in {:?}", self.headers);
        value
    }

    pub(crate) fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a UTF-8 body")
    }

    /// Whether the response is announced as the last on its connection.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The head as text, independent of the clock and of the order of fields: the status line, then the sorted fields,
    /// with the value of `Date` replaced.
    pub(crate) fn golden_head(&self) -> String {
        let mut fields: Vec<String> = self
            .headers
            .iter()
            .map(|(name, value)| {
                if name.eq_ignore_ascii_case("date") {
                    assert!(is_http_date(value), "Date: {value}");
                    format!("{name}: DATE")
                } else {
                    format!("{name}: {value}")
                }
            })
            .collect();
        fields.sort();
        format!("{}\n{}\n", self.status_line, fields.join("\n"))
    }
}

/// Checks a JSON answer: status, type, declared length and the exact bytes of the body.
#[track_caller]
pub(crate) fn assert_json(response: &Response, status: u16, body: &str) {
    assert_eq!((response.status, response.text()), (status, body), "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("content-length"), Some(body.len().to_string().as_str()), "{response:?}");
}

/// Checks an error whose text the contract leaves open: status, and a JSON object with one string, `error`.
#[track_caller]
pub(crate) fn assert_error(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()), "{response:?}");
    let json: serde_json::Value = serde_json::from_slice(&response.body).expect("a JSON body");
    let fields: Vec<&String> = json.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["error"], "{response:?}");
    assert!(json["error"].as_str().is_some_and(|text| !text.is_empty()), "{response:?}");
}

/// Whether a text is an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
pub(crate) fn is_http_date(text: &str) -> bool {
    const SHAPE: &str = "aaa, 00 aaa 0000 00:00:00 GMT";
    text.len() == SHAPE.len()
        && text.bytes().zip(SHAPE.bytes()).all(|(byte, shape)| match shape {
            b'a' => byte.is_ascii_alphabetic(),
            b'0' => byte.is_ascii_digit(),
            exact => byte == exact,
        })
}
