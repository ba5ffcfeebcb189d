//! Header fields that a backend's answer adds to the response of a stream (docs/protocol.md, section 15).

use crate::http::grammar::is_token;
use crate::json::Value;
use std::borrow::Cow;

/// Most fields of an answer.
const FIELDS_MAX: usize = 64;
/// All fields of an answer together, as they stand in a head.
const BYTES_MAX: usize = 8 * 1024;
/// Of a field in a head, beside its name and value: `: ` and CRLF.
const FIELD_BYTES: usize = 4;

/// Fields that are the gateway's to write, or that would contradict those.
const RESERVED: [&str; 9] = [
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "date",
    "cache-control",
    "x-accel-buffering",
];
/// Beginnings of the names of such fields.
const RESERVED_PREFIXES: [&str; 2] = ["content-", "access-control-"];

/// The fields of an answer that may be written, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraHeaders<'a> {
    fields: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    bytes: usize,
}

impl<'a> ExtraHeaders<'a> {
    /// Reads `headers`: an object of strings, or of arrays of strings. Returns the names of what was left out: reserved, no
    /// valid field, or too much. `None`: it is no object.
    pub(super) fn read(value: Value<'a>) -> Option<(Self, Vec<Cow<'a, str>>)> {
        let (mut headers, mut left_out) = (Self::default(), Vec::new());
        for (name, value) in value.as_entries()? {
            let values = value.as_array(FIELDS_MAX).unwrap_or_else(|| vec![value]);
            for value in values {
                if !value.as_string().is_some_and(|value| headers.add(name.clone(), value)) {
                    left_out.push(name.clone());
                }
            }
        }
        Some((headers, left_out))
    }

    /// `false`: the field may not be written.
    fn add(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) -> bool {
        let bytes = self.bytes + name.len() + value.len() + FIELD_BYTES;
        let fits = self.fields.len() < FIELDS_MAX && bytes <= BYTES_MAX;
        if !fits || !is_token(name.as_bytes()) || is_reserved(&name) || !is_field_value(&value) {
            return false;
        }
        self.bytes = bytes;
        self.fields.push((name, value));
        true
    }

    /// Name and value of each field.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.fields.iter().map(|(name, value)| (&**name, value.as_bytes()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

fn is_reserved(name: &str) -> bool {
    let has_prefix = |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) || RESERVED_PREFIXES.iter().any(has_prefix)
}

/// Whether `value` can stand in a field (RFC 9110 section 5.5): no control characters but tabs, no blanks around it.
fn is_field_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control()) && value.trim_matches([' ', '\t']) == value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    type Fields = Vec<(String, String)>;

    fn read(headers: &str) -> Option<(Fields, Vec<String>)> {
        let text = format!("{{\"headers\":{headers}}}");
        let [value] = json::object(&text, &["headers"]).expect("an object");
        let (headers, left_out) = ExtraHeaders::read(value.expect("headers"))?;
        let fields = headers.iter().map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()));
        Some((fields.collect(), left_out.into_iter().map(Cow::into_owned).collect()))
    }

    fn kept(headers: &str) -> Fields {
        let (fields, left_out) = read(headers).expect("an object");
        assert_eq!(left_out, [""; 0]);
        fields
    }

    #[test]
    fn strings_and_arrays_of_strings_become_fields() {
        let fields = kept(r#"{"X-Run-Id":"42","Set-Cookie":["a=1","b=2"],"X-Empty":"","X-Text":"\u00fc\t1"}"#);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            fields,
            [
                ("X-Run-Id", "42"),
                ("Set-Cookie", "a=1"),
                ("Set-Cookie", "b=2"),
                ("X-Empty", ""),
                ("X-Text", "\u{fc}\t1")
            ]
        );
        assert_eq!(kept("{}"), []);
        assert_eq!(kept(r#"{"X-None":[]}"#), []);
    }

    #[test]
    fn what_is_no_object_is_none() {
        for headers in ["1", "\"x\"", "[]", "[[\"a\",\"b\"]]", "true"] {
            assert_eq!(read(headers), None, "{headers}");
        }
    }

    #[test]
    fn reserved_fields_are_left_out_in_any_case() {
        for name in [
            "Content-Type",
            "content-length",
            "CONTENT-X",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "TE",
            "Trailer",
            "Upgrade",
            "Date",
            "Cache-Control",
            "X-Accel-Buffering",
            "Access-Control-Allow-Origin",
            "access-control-x",
        ] {
            assert_eq!(read(&format!(r#"{{"{name}":"x","X-Kept":"y"}}"#)).expect("an object").1, [name]);
        }
        assert_eq!(kept(r#"{"Content":"x","Dates":"y","T":"z"}"#).len(), 3);
    }

    #[test]
    fn what_would_break_a_head_is_left_out() {
        for field in [
            r#""a b":"x""#,
            r#""":"x""#,
            r#""a:":"x""#,
            r#""\u00fc":"x""#,
            r#""X":"a\r\nb""#,
            r#""X":"a\nb""#,
            r#""X":"\u0000""#,
            r#""X":"\u0001""#,
            r#""X":"\u007f""#,
            r#""X":" a""#,
            r#""X":"a ""#,
            r#""X":1"#,
            r#""X":null"#,
            r#""X":{}"#,
            r#""X":[1]"#,
            r#""X":[["a"]]"#,
        ] {
            let (fields, left_out) = read(&format!("{{{field}}}")).expect("an object");
            assert_eq!((fields.len(), left_out.len()), (0, 1), "{field}");
        }
    }

    #[test]
    fn number_and_bytes_are_bounded() {
        let many: Vec<String> = (0..66).map(|n| format!(r#""X-{n}":"x""#)).collect();
        let (fields, left_out) = read(&format!("{{{}}}", many.join(","))).expect("an object");
        assert_eq!((fields.len(), left_out), (64, vec!["X-64".to_owned(), "X-65".to_owned()]));
        let fits = BYTES_MAX - "X-A".len() - FIELD_BYTES;
        assert_eq!(kept(&format!(r#"{{"X-A":"{}"}}"#, "v".repeat(fits))).len(), 1);
        let (fields, left_out) =
            read(&format!(r#"{{"X-A":"{}","X-B":"b"}}"#, "v".repeat(fits + 1))).expect("an object");
        assert_eq!((fields[0].0.as_str(), left_out), ("X-B", vec!["X-A".to_owned()]));
    }
}
