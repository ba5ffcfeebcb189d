//! Text to value. Errors: a phrase with the allowed values.

use crate::gateway::Cors;
use crate::http::grammar::decimal;
use crate::secret::Secret;
use crate::sys;
use log::LevelFilter;
use socket2::SockAddr;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A year. More is a typing error, and sums of such times cannot overflow.
const SECONDS_MAX: u64 = 31_536_000;
/// More than any header may hold, so that reading a path like /dev/zero ends.
const TOKEN_FILE_BYTES_MAX: usize = 64 * 1024;
/// The time that a pipe in place of a file has to be written and closed: a program that decrypts a secret is slow, and one
/// that never writes must not keep the gateway from starting without a word.
const PIPE_TIME_MAX: Duration = Duration::from_secs(10);

// Most variables are numbers. The functions that read and show them are not inlined, or each would have its own copy.

/// Plain decimal digits within the limits, both included.
pub(super) fn integer<T: TryFrom<u64>>(text: &str, min: u64, max: u64) -> Result<T, String> {
    number_within(text, min, max).and_then(|value| T::try_from(value).ok()).ok_or_else(|| must_be_within(min, max))
}

#[inline(never)]
fn number_within(text: &str, min: u64, max: u64) -> Option<u64> {
    decimal(text.as_bytes()).filter(|value| (min..=max).contains(value))
}

#[inline(never)]
fn must_be_within(min: u64, max: u64) -> String {
    format!("must be an integer from {min} to {max}")
}

/// The port of a listener or a URL.
pub(super) fn port(text: &str) -> Result<u16, String> {
    integer(text, 1, 65_535)
}

/// Whole seconds, at least `min`.
#[inline(never)]
pub(super) fn seconds(text: &str, min: u64) -> Result<Duration, String> {
    integer(text, min, SECONDS_MAX).map(Duration::from_secs)
}

/// The value with that name among a few.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T); 2]) -> Result<T, String> {
    let chosen = choices.iter().find(|(name, _)| *name == text);
    chosen.map(|(_, value)| *value).ok_or_else(|| format!("must be {} or {}", choices[0].0, choices[1].0))
}

/// The name of a value among a few.
pub(super) fn name_of<T: PartialEq>(value: T, choices: &[(&str, T); 2]) -> String {
    choices.iter().find(|(_, known)| *known == value).map_or_else(String::new, |(name, _)| (*name).to_owned())
}

/// An IP address; IPv6 also in brackets.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let parsed = match bracketed {
        Some(inside) => inside.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => text.parse::<IpAddr>(),
    };
    parsed.map_err(|_| "must be an IP address, like 127.0.0.1".to_owned())
}

/// A level by its name, in upper or lower case.
pub(super) fn log_level(text: &str) -> Result<LevelFilter, &'static str> {
    LevelFilter::from_str(text).map_err(|_| "must be error, warn, info, debug, trace or off")
}

/// A token that fits into `Authorization: Bearer`.
pub(super) fn token(text: &str) -> Result<Secret, &'static str> {
    if text.is_empty() {
        // An unset variable in a compose file would otherwise silently disable the protection.
        Err("must not be empty; to do without it, leave the variable unset")
    } else if text.contains(['\r', '\n']) {
        Err("must not contain a line break")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Err("must consist of visible ASCII characters")
    } else {
        Ok(Secret::new(text.to_owned()))
    }
}

/// The content of the file at `path`, which may be a pipe, like that of a shell's `<(pass show token)`; `None`: it has
/// `bytes_max` or more, as /dev/zero has. Errors: it cannot be read, or not to its end in time.
pub(super) fn file(path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, String> {
    let content = read_within(path, bytes_max, PIPE_TIME_MAX);
    content.map_err(|error| format!("must name a readable file: {error}"))
}

fn read_within(path: &str, bytes_max: usize, time_max: Duration) -> io::Result<Option<Vec<u8>>> {
    // Nonblocking: the opening of a named pipe would wait for somebody who writes, and a read for what is written.
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let deadline = Instant::now() + time_max;
    let mut content = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        // Before the first writer of a named pipe a read finds its end, which poll(2) does not.
        while !sys::wait_readable(file.as_fd(), deadline.saturating_duration_since(Instant::now()))? {
            if Instant::now() >= deadline {
                let line = format!("nobody has written to it and closed it within {time_max:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, line));
            }
        }
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Some(content)),
            Ok(count) => content.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if content.len() >= bytes_max {
            return Ok(None);
        }
    }
}

/// The token in the file at `path`, without the line break at its end, if there is one.
pub(super) fn token_file(path: &str) -> Result<Secret, String> {
    let content = file(path, TOKEN_FILE_BYTES_MAX)?.ok_or("must name a file with a token and nothing else")?;
    let text = String::from_utf8_lossy(&content);
    let line = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
    token(line).map_err(|allowed| format!("the content of the file {allowed}"))
}

/// The path of a Unix socket.
pub(super) fn socket_path(path: &OsStr) -> Result<PathBuf, &'static str> {
    // The limit of its length differs between systems.
    let is_path = !path.is_empty() && !path.as_bytes().contains(&0) && SockAddr::unix(path).is_ok();
    if is_path { Ok(PathBuf::from(path)) } else { Err("must name a Unix socket by a path of at most 100 bytes or so") }
}

/// The permissions of a file: three octal digits, perhaps behind a 0.
pub(super) fn mode(text: &str) -> Result<u32, &'static str> {
    let digits = if text.len() == 4 { text.strip_prefix('0').unwrap_or_default() } else { text };
    let is_octal = digits.len() == 3 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u32::from_str_radix(digits, 8).ok().filter(|_| is_octal).ok_or("must be three octal digits, like 660")
}

/// `*`, or origins separated by commas.
pub(super) fn origins(text: &str) -> Result<Cors, String> {
    const SHAPE: &str = "must be * or a comma-separated list of scheme://host[:port] without a path";
    if text.trim() == "*" {
        return Ok(Cors::Any);
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let list: Option<Vec<String>> = items.map(origin).collect();
    match list {
        Some(list) if !list.is_empty() => Ok(Cors::Origins(list)),
        Some(_) | None => Err(SHAPE.to_owned()),
    }
}

fn origin(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    if text == "null" {
        return Some(text);
    }
    let (scheme, address) = text.split_once("://")?;
    let scheme_bytes = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if !scheme.starts_with(|first: char| first.is_ascii_lowercase()) || !scheme.bytes().all(scheme_bytes) {
        return None;
    }
    let (host, port) = host_port(address).ok()?;
    Some(match port {
        // A browser omits the default port, so the list must too.
        Some(80) if scheme == "http" => format!("http://{host}"),
        Some(443) if scheme == "https" => format!("https://{host}"),
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => text,
    })
}

/// Splits `host[:port]`, an IPv6 address being in brackets.
pub(super) fn host_port(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    const HOST: &str = "must name a host: letters, digits, dots, hyphens, underscores, or an address";
    let host_end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']').ok_or(HOST)? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    if !is_host {
        return Err(HOST);
    }
    match rest.strip_prefix(':') {
        // The HTTP client would silently replace a bad port by the default.
        Some(digits) => Ok((host, Some(port(digits).map_err(|_| "must have a port from 1 to 65535")?))),
        None if rest.is_empty() => Ok((host, None)),
        None => Err(HOST),
    }
}

/// Whether two listeners on the same port would conflict.
pub(super) fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let takes_all = |address: IpAddr| address == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let same_family = one.is_ipv4() == other.is_ipv4();
    one == other
        || takes_all(one)
        || takes_all(other)
        || (same_family && (one.is_unspecified() || other.is_unspecified()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_plain_digits_within_limits() {
        assert_eq!(integer("1", 1, 9), Ok(1_u8));
        assert_eq!(integer("009", 1, 9), Ok(9_u8));
        for text in ["", "0", "10", "-1", "+1", " 1", "1 ", "1.0", "1e0", "0x1", "\u{661}", "99999999999999999999"] {
            assert_eq!(integer::<u8>(text, 1, 9), Err("must be an integer from 1 to 9".to_owned()), "{text}");
        }
    }

    #[test]
    fn addresses_may_stand_in_brackets() {
        assert_eq!(address("127.0.0.1").unwrap().to_string(), "127.0.0.1");
        assert_eq!(address("::1"), address("[::1]"));
        for text in ["localhost", "127.0.0.1:80", "[127.0.0.1]", "[::1", "::1]", "1.2.3", "fe80::1%eth0"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!([mode("660"), mode("0600"), mode("777")], [Ok(0o660), Ok(0o600), Ok(0o777)]);
        for text in ["", "66", "888", "1777", "0o660", "+66", "rw-"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_visible_ascii_on_one_line() {
        assert_eq!(token("opensesame").unwrap().expose(), "opensesame");
        assert_eq!(token("open\nsesame"), Err("must not contain a line break"));
        assert_eq!(token("opensesame\r"), Err("must not contain a line break"));
        assert_eq!(token("open sesame"), Err("must consist of visible ASCII characters"));
        assert!(token("").unwrap_err().starts_with("must not be empty"));
    }

    #[test]
    fn origins_are_normalised_to_what_browsers_send() {
        assert_eq!(origins("*"), Ok(Cors::Any));
        let list = origins("https://A.example, http://localhost:5173,null,https://b:443,http://[::1]:80,").unwrap();
        let want = ["https://a.example", "http://localhost:5173", "null", "https://b", "http://[::1]"];
        assert_eq!(list, Cors::Origins(want.map(str::to_owned).to_vec()));
        for text in [
            ",",
            "a.example",
            "https://a/",
            "https://a/b",
            "https://",
            "https://a:0",
            "https://a:b",
            "https://a:",
            "*,https://a",
            "https://u@a",
            "https://a?b",
            "1x://a",
            "://a",
            "https://[::1",
            "https://[x]",
            "https://a b",
        ] {
            assert!(origins(text).is_err(), "{text}");
        }
    }

    #[test]
    fn overlapping_listeners() {
        let of = |text: &str| address(text).unwrap();
        for (one, other) in
            [("::", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "10.0.0.1"), ("::1", "::"), ("::", "0.0.0.0")]
        {
            assert!(overlap(of(one), of(other)), "{one} {other}");
        }
        for (one, other) in [("127.0.0.1", "127.0.0.2"), ("::1", "127.0.0.1"), ("0.0.0.0", "::1")] {
            assert!(!overlap(of(one), of(other)), "{one} {other}");
        }
    }
}
