//! The JSON of `POST /internal/groups` (docs/protocol.md, section 11).

use super::{GROUPS_MAX, Scratch, SendError, read_group_name};
use crate::json::{self, Value};
use std::borrow::Cow;

/// Groups for a stream to join and to leave; the latter first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipChange<'a> {
    /// Not empty; otherwise as given.
    pub token: Cow<'a, str>,
    /// Names, each once.
    pub join: Vec<Cow<'a, str>>,
    /// Names.
    pub leave: Vec<Cow<'a, str>>,
}

/// The rules for such a request, in the order they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipError {
    /// The body is not a JSON object, or the token is bad.
    Send(SendError),
    /// `join` is not a list of names.
    Join,
    /// `leave` is not a list of names.
    Leave,
    /// Both are missing.
    Nothing,
    /// The stream would be in too many groups.
    TooMany,
}

impl MembershipError {
    /// The text of the `error` field in the 400 answer.
    pub fn message(self) -> Cow<'static, str> {
        match self {
            Self::Send(error) => error.message(),
            Self::Join => "Invalid request: join must be an array of group names".into(),
            Self::Leave => "Invalid request: leave must be an array of group names".into(),
            Self::Nothing => "Invalid request: join or leave is required".into(),
            Self::TooMany => "Invalid request: a stream can be in at most 64 groups".into(),
        }
    }
}

/// Parses the body of a request to change a stream's groups.
pub fn parse_membership<'a>(body: &'a [u8], scratch: &'a mut Scratch) -> Result<MembershipChange<'a>, MembershipError> {
    let text = json::text(body, &mut scratch.lossy);
    let fields = json::object(text, &["token", "join", "leave"]);
    let [token, join, leave] = fields.ok_or(MembershipError::Send(SendError::InvalidJson))?;
    let token = token.and_then(Value::as_string).filter(|token| !token.is_empty());
    let token = token.ok_or(MembershipError::Send(SendError::Token))?;
    if join.is_none() && leave.is_none() {
        return Err(MembershipError::Nothing);
    }
    let join = read_names(join).ok_or(MembershipError::Join)?;
    let leave = read_names(leave).ok_or(MembershipError::Leave)?;
    if join.len() > GROUPS_MAX {
        return Err(MembershipError::TooMany);
    }
    Ok(MembershipChange { token, join, leave })
}

/// A list of names, each once; `None` for anything else.
fn read_names(value: Option<Value<'_>>) -> Option<Vec<Cow<'_, str>>> {
    let Some(value) = value else { return Some(Vec::new()) };
    let mut names = value.as_array(usize::MAX)?.into_iter().map(read_group_name).collect::<Option<Vec<_>>>()?;
    let mut seen = std::collections::HashSet::with_capacity(names.len());
    names.retain(|name| seen.insert(name.clone()));
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<(Vec<String>, Vec<String>), MembershipError> {
        let mut scratch = Scratch::default();
        let change = parse_membership(body.as_bytes(), &mut scratch)?;
        assert_eq!(change.token, "t");
        let owned = |names: &[Cow<'_, str>]| names.iter().map(|name| name.to_string()).collect();
        Ok((owned(&change.join), owned(&change.leave)))
    }

    #[test]
    fn both_lists_are_read() {
        let lists = |join: &[&str], leave: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
            Ok((owned(join), owned(leave)))
        };
        assert_eq!(parse(r#"{"token":"t","join":["a","b","a"],"leave":["\u0063"]}"#), lists(&["a", "b"], &["c"]));
        assert_eq!(parse(r#"{"token":"t","join":[],"leave":[]}"#), lists(&[], &[]));
        assert_eq!(parse(r#"{"leave":["x"],"token":"t"}"#), lists(&[], &["x"]));
    }

    #[test]
    fn each_rule_has_its_error() {
        for (body, error) in [
            ("[]", MembershipError::Send(SendError::InvalidJson)),
            (r#"{"join":["a"]}"#, MembershipError::Send(SendError::Token)),
            (r#"{"token":"t"}"#, MembershipError::Nothing),
            (r#"{"token":"t","join":null}"#, MembershipError::Join),
            (r#"{"token":"t","join":[],"leave":null}"#, MembershipError::Leave),
            (r#"{"token":"t","join":"a"}"#, MembershipError::Join),
            (r#"{"token":"t","join":["a",1]}"#, MembershipError::Join),
            (r#"{"token":"t","join":[""]}"#, MembershipError::Join),
            (r#"{"token":"t","join":["a\n"]}"#, MembershipError::Join),
            (r#"{"token":"t","leave":{}}"#, MembershipError::Leave),
            (r#"{"token":"t","join":1,"leave":1}"#, MembershipError::Join),
        ] {
            assert_eq!(parse(body), Err(error), "{body}");
        }
        let names: Vec<String> = (0..65).map(|n| format!("\"g{n}\"")).collect();
        let body = format!(r#"{{"token":"t","join":[{}]}}"#, names.join(","));
        assert_eq!(parse(&body), Err(MembershipError::TooMany));
    }
}
