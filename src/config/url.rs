//! The backend's URL, checked once at startup, so that callbacks can fail only because of the network.

use super::values;
use crate::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The endpoint of callbacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallbackUrl {
    /// Absolute, `http` or `https`, without user info and fragment; otherwise verbatim, except that
    /// an empty path is written as `/`. With a Unix socket the host is `localhost`.
    pub url: String,
    /// The path of the Unix socket on which the backend listens, if it does.
    pub socket: Option<PathBuf>,
    /// The user of `user:pass@`, still percent-encoded; for display only.
    pub user: Option<String>,
    /// `Basic ...`, if the URL carried user info.
    pub authorization: Option<Secret>,
}

impl CallbackUrl {
    /// Reads the value of `CALLBACK_URL`; an error is a phrase with the allowed values.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "must be an absolute http or https URL, like http://127.0.0.1:8000/callback, \
                             or that of a Unix socket, like http+unix://%2Frun%2Fapp.sock/callback";
        if let Some(wrong) = text.bytes().find(|byte| !byte.is_ascii_graphic()) {
            return Err(if wrong.is_ascii() {
                "must not contain spaces or control characters"
            } else {
                "must be ASCII, anything else percent-encoded"
            });
        }
        let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "http" | UNIX => {}
            "https" if cfg!(feature = "tls") => {}
            "https" => return Err("must be http: this build has no TLS"),
            _ => return Err(SHAPE),
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _fragment)| before);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (userinfo, host_port) = match authority.rsplit_once('@') {
            Some((userinfo, host_port)) => (Some(userinfo), host_port),
            None => (None, authority),
        };
        let socket = if scheme == UNIX { Some(socket_path(host_port)?) } else { None };
        let (scheme, host_port) = match socket {
            Some(_) => ("http", "localhost"),
            None => (scheme.as_str(), host_port),
        };
        values::host_port(host_port)?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        let url = format!("{scheme}://{host_port}{slash}{target}");
        // A URL that the HTTP client cannot parse would fail every callback.
        url.parse::<ureq::http::Uri>().map_err(|_| SHAPE)?;
        let credentials = userinfo.filter(|userinfo| !userinfo.is_empty()).map(basic).transpose()?;
        let (user, authorization) = credentials.unzip();
        Ok(Self { url, socket, user, authorization })
    }

    /// Whether callbacks go over TLS.
    pub fn is_https(&self) -> bool {
        self.url.starts_with("https:")
    }

    /// The URL without its query and user, as either may be secret.
    pub fn bare(&self) -> String {
        let shown = self.shown("");
        shown.split('?').next().unwrap_or_default().to_owned()
    }

    /// The URL as configured, the password masked.
    pub fn masked(&self) -> String {
        self.shown(&self.user.as_ref().map_or_else(String::new, |user| format!("{user}:***@")))
    }

    /// The URL as configured, with this user info.
    fn shown(&self, userinfo: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        match &self.socket {
            Some(path) => {
                let target = &rest[rest.find('/').unwrap_or(rest.len())..];
                format!("{UNIX}://{userinfo}{}{target}", percent_encode(path.as_os_str().as_bytes()))
            }
            None => format!("{scheme}://{userinfo}{rest}"),
        }
    }
}

/// The scheme of URLs whose host is the percent-encoded path of a Unix socket.
const UNIX: &str = "http+unix";

/// The path in the place of a host.
fn socket_path(host: &str) -> Result<PathBuf, &'static str> {
    let path = percent_decode(host).map_err(|_| "must have the socket's path percent-encoded, %2F for each slash")?;
    values::socket_path(OsStr::from_bytes(&path))
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

/// A `CALLBACK_URL` that may be malformed, for an error line: any part that could be user info is masked.
pub(super) fn mask(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else { return text.to_owned() };
    let is_scheme = |scheme: &str| ["http", "https", UNIX].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    match before.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => format!("{scheme}://***@{after}"),
        Some(_) | None => format!("***@{after}"),
    }
}

/// The user as written and the value of the `Authorization` header (RFC 7617).
fn basic(userinfo: &str) -> Result<(String, Secret), &'static str> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let mut plain = percent_decode(user)?;
    if plain.contains(&b':') {
        return Err("must not have a colon in its user name");
    }
    plain.push(b':');
    plain.extend(percent_decode(password)?);
    // A user without a password is probably a key.
    let shown = if password.is_empty() { "***" } else { user };
    Ok((shown.to_owned(), Secret::new(format!("Basic {}", BASE64.encode(plain)))))
}

/// Decodes `%XX` escapes.
pub(super) fn percent_decode(text: &str) -> Result<Vec<u8>, &'static str> {
    const ESCAPE: &str = "must have %XX escapes with two hexadecimal digits in its user and password";
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(ESCAPE);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).map_err(|_| ESCAPE)?);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url_of(text: &str) -> String {
        CallbackUrl::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}")).url
    }

    #[test]
    fn urls_are_kept_verbatim() {
        for text in [
            "http://localhost/",
            "http://127.0.0.1:8000/callback?a=b%20c&x=/y?z",
            "http://[::1]:8080/%zz",
            "http://my_app.internal-1:9/a//b/../c",
            "http://host/p?mail=a@b",
        ] {
            assert_eq!(url_of(text), text);
        }
        assert_eq!(url_of("HTTP://Host:80/x#frag?no"), "http://Host:80/x");
        assert_eq!(url_of("http://host"), "http://host/");
        assert_eq!(url_of("http://host?q=1"), "http://host/?q=1");
        assert_eq!(url_of("http://@host/"), "http://host/");
    }

    #[test]
    fn user_info_becomes_basic_credentials() {
        let callback = CallbackUrl::parse("http://us%65r:p%40ss%3a@host:1/x?y").unwrap();
        assert_eq!(callback.url, "http://host:1/x?y");
        let header = callback.authorization.as_ref().unwrap().expose();
        assert_eq!(header, format!("Basic {}", BASE64.encode("user:p@ss:")));
        assert_eq!(callback.masked(), "http://us%65r:***@host:1/x?y");
        let alone = CallbackUrl::parse("http://user@host/").unwrap();
        assert_eq!(alone.masked(), "http://***:***@host/");
        assert_eq!(alone.authorization.unwrap().expose(), format!("Basic {}", BASE64.encode("user:")));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "host",
            "/path",
            "//host/",
            "http:/host",
            "http://",
            "http:///x",
            "ftp://host/",
            "http://:80/",
            "http://ho st/",
            "http://host:0/",
            "http://host:65536/",
            "http://host:/",
            "http://host:+1/",
            "http://host:x/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[nope]/",
            "http://h\u{f6}st/",
            "http://host/\u{e9}",
            "http://host/\n",
            "http://a%3A:b@host/",
            "http://a:%4@host/",
            "http://a:%zz@host/",
            "http://ho%41st/",
            "http://a,b/",
            "http://host\\x/",
        ] {
            assert!(CallbackUrl::parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn a_unix_socket_takes_the_place_of_the_host() {
        let text = "http+unix://%2Frun%2Fmy%20app.sock/callback?key=1";
        let callback = CallbackUrl::parse(text).unwrap();
        assert_eq!(callback.url, "http://localhost/callback?key=1");
        assert_eq!(callback.socket, Some(PathBuf::from("/run/my app.sock")));
        assert_eq!((callback.masked().as_str(), callback.bare().as_str()), (text, text.split('?').next().unwrap()));
        let with_user = CallbackUrl::parse("HTTP+UNIX://u:secret@%2frun%2fapp.sock").unwrap();
        assert_eq!(with_user.masked(), "http+unix://u:***@%2Frun%2Fapp.sock/");
        assert_eq!((with_user.url.as_str(), with_user.authorization.is_some()), ("http://localhost/", true));
        assert_eq!(mask("http+unix://u:secret@x"), "http+unix://***@x");
        let long = format!("http+unix://%2F{}/", "x".repeat(107));
        for text in ["http+unix:///x", "http+unix://%2", "http+unix://%00/", "https+unix://%2Fx/", &long] {
            assert!(CallbackUrl::parse(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn https_needs_the_feature() {
        assert_eq!(CallbackUrl::parse("https://host/").is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn a_malformed_url_shows_no_password() {
        for text in [
            "http://u:secret@ho st/",
            "u:secret@host",
            "http://u:sec/ret@host:x/",
            "http://u:sec@ret@h:0/",
            "u:secret@host://x@y",
            "http:/u:sec://ret@host",
            "u:secret@h/cb?x=http://a@b",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("sec") && !masked.contains("ret"), "{masked}");
        }
        assert_eq!(mask("http://host:0/"), "http://host:0/");
        assert_eq!(mask("HTTPS://u:p@host:0/"), "HTTPS://***@host:0/");
    }
}
