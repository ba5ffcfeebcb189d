//! `REDIS_URL`, checked once at startup.

use super::url::percent_decode;
use super::values;
use crate::gateway::RedisSettings;
use crate::secret::Secret;

const SHAPE: &str = "must be a URL like redis://user:password@host:6379/0";
const PORT: u16 = 6379;

/// Reads the value of `REDIS_URL`; an error is a phrase with the allowed values.
pub(super) fn parse(text: &str) -> Result<RedisSettings, &'static str> {
    if !cfg!(feature = "redis") {
        return Err("this build has no support for Redis");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be printable ASCII, anything else percent-encoded");
    }
    let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
    let is_tls = scheme.eq_ignore_ascii_case("rediss");
    if !is_tls && !scheme.eq_ignore_ascii_case("redis") {
        return Err(SHAPE);
    }
    if is_tls && !cfg!(feature = "tls") {
        return Err("must begin with redis://, as this build has no TLS");
    }
    if rest.contains(['?', '#']) {
        return Err("must have no query");
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = match database {
        "" => 0,
        number => number.parse().map_err(|_| "must end with the number of a database, like /0")?,
    };
    let (login, host_port) = authority.rsplit_once('@').map_or(("", authority), |(login, rest)| (login, rest));
    let (host, port) = values::host_port(host_port)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    Ok(RedisSettings {
        host: host.to_owned(),
        port: port.unwrap_or(PORT),
        is_tls,
        user: text_of(user)?,
        password: text_of(password)?.map(Secret::new),
        database,
        ..RedisSettings::default()
    })
}

/// A part of the login; `None` if it is empty.
fn text_of(part: &str) -> Result<Option<String>, &'static str> {
    let text = String::from_utf8(percent_decode(part)?).map_err(|_| "must have UTF-8 in its user and password")?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The URL without the password.
pub(super) fn masked(settings: &RedisSettings) -> String {
    let RedisSettings { host, port, is_tls, user, password, database, .. } = settings;
    let scheme = if *is_tls { "rediss" } else { "redis" };
    let login = match (user, password) {
        (None, None) => String::new(),
        (user, None) => format!("{}@", user.as_deref().unwrap_or_default()),
        (user, Some(_)) => format!("{}:***@", user.as_deref().unwrap_or_default()),
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!("{scheme}://{login}{host}:{port}/{database}")
}

/// A value that may be malformed, for an error line: any part that could be a login is masked.
pub(super) fn mask(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => text.to_owned(),
    }
}

/// The value of `REDIS_PREFIX`.
pub(super) fn prefix(text: &str) -> Result<String, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if text.bytes().all(is_plain) && text.len() <= 64 {
        Ok(text.to_owned())
    } else {
        Err("must be at most 64 letters, digits, hyphens, underscores, dots and colons")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "redis")]
    #[test]
    fn reads_every_part() {
        let settings = parse("redis://a%40b:p%3Aw@cache:7000/3").unwrap();
        assert_eq!((settings.host.as_str(), settings.port, settings.database), ("cache", 7000, 3));
        assert_eq!(settings.user.as_deref(), Some("a@b"));
        assert_eq!(settings.password.as_ref().map(Secret::expose), Some("p:w"));
        assert_eq!(masked(&settings), "redis://a@b:***@cache:7000/3");
        let settings = parse("REDIS://:secret@[::1]").unwrap();
        assert_eq!((settings.host.as_str(), settings.port, settings.user.as_deref()), ("::1", 6379, None));
        assert_eq!(masked(&settings), "redis://:***@[::1]:6379/0");
        assert_eq!(masked(&parse("redis://cache").unwrap()), "redis://cache:6379/0");
        #[cfg(feature = "tls")]
        assert_eq!(masked(&parse("rediss://cache").unwrap()), "rediss://cache:6379/0");
        #[cfg(not(feature = "tls"))]
        assert!(parse("rediss://cache").unwrap_err().contains("no TLS"));
    }

    #[test]
    fn refuses_the_rest() {
        for bad in [
            "",
            "cache",
            "http://cache",
            "redis://",
            "redis://cache/x",
            "redis://cache:x",
            "redis://c?db=1",
            "redisx://c",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(prefix("a b").is_err());
        assert_eq!(mask("redis://:pw@"), "***@");
    }
}
