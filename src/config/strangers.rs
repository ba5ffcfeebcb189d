//! Names in the environment that look like ours and mean nothing: a misspelt variable would otherwise be missed without a
//! word.

use super::variables::VARIABLES;

/// Variables of later versions of the original, which get their events from RabbitMQ.
const LATER: [&str; 4] = ["RABBITMQ_URL", "RABBITMQ_QUEUE_TTL_MS", "RABBITMQ_ENV_PREFIX", "RABBITMQ_ENV_AUTO_DELETE"];

/// A shorter name, like PORT, is close to too many others.
const LENGTH_MIN: usize = 8;

/// One line about `name`, if it was probably meant for the gateway.
pub(super) fn remark(name: &str) -> Option<String> {
    if LATER.contains(&name) {
        return Some(format!(
            "{name} is of a later version of the original SSEGateway: nothing is read from RabbitMQ here; \
             send over HTTP, to groups"
        ));
    }
    if VARIABLES.iter().any(|variable| variable.name == name) {
        return None;
    }
    let known = VARIABLES.iter().map(|variable| variable.name).find(|known| is_close(name, known))?;
    Some(format!("{name} is not a variable of the gateway: is {known} meant?"))
}

/// Whether `name` is `known` but for a mistake or two, or begins as it does and ends in other words, such as another unit.
fn is_close(name: &str, known: &str) -> bool {
    if name.len().min(known.len()) < LENGTH_MIN {
        return false;
    }
    let has_two_words = |stem: &&str| stem.contains('_');
    let stem = |text| stem_of(text).filter(has_two_words);
    stem(known).is_some_and(|of_known| of_known == name || stem(name) == Some(of_known))
        || distance(name, known) <= 1 + usize::from(known.len() >= 12)
}

/// All words but the last.
fn stem_of(name: &str) -> Option<&str> {
    name.rsplit_once('_').map(|(stem, _)| stem)
}

/// The least number of letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut rows = [vec![0; other.len() + 1], (0..=other.len()).collect(), Vec::new()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = rows[1][j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = replaced.min(rows[1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(rows[0][j - 2] + 1);
            }
            row.push(least);
        }
        rows.rotate_left(1);
        rows[1] = row;
    }
    rows[1][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (one, other, want) in
            [("", "ab", 2), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "abd", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (want, want), "{one} {other}");
        }
    }

    #[test]
    fn mistakes_are_told_from_other_variables() {
        for (name, known) in [
            ("CALBACK_URL", "CALLBACK_URL"),
            ("CALLBACK_ULR", "CALLBACK_URL"),
            ("CALLBACK_URI", "CALLBACK_URL"),
            ("INTERNAL_TOKN", "INTERNAL_TOKEN"),
            ("INTERNAL_TOKENS", "INTERNAL_TOKEN"),
            ("HEARTBEAT_INTERVAL", "HEARTBEAT_INTERVAL_SECONDS"),
            ("HEARTBEAT_INTERVAL_MS", "HEARTBEAT_INTERVAL_SECONDS"),
            ("CALLBACK_TIMEOUT", "CALLBACK_TIMEOUT_SECONDS"),
            ("RECONNECT_DELAY_SECONDS", "RECONNECT_DELAY_MILLISECONDS"),
            ("CORS_ORIGIN", "CORS_ORIGINS"),
        ] {
            let line = remark(name).unwrap_or_default();
            assert!(line.ends_with(&format!("is {known} meant?")), "{name}: {line}");
        }
        assert!(remark("RABBITMQ_URL").unwrap().contains("later version"));
        for variable in VARIABLES {
            assert_eq!(remark(variable.name), None);
        }
        for name in [
            "PATH",
            "HOME",
            "HOSTNAME",
            "POST",
            "PORTS",
            "SSL_CERT_FILE",
            "NOTIFY_SOCKET",
            "GATEWAY_URL",
            "DATABASE_URL",
            "LOGNAME",
            "LOG_FILE",
            "LISTEN_FDS",
            "LISTEN_PID",
            "KUBERNETES_PORT",
            "CALLBACK_HOST",
            "MAX_WORKERS",
            "INTERNAL_API_KEY",
            "HISTORY_FILE",
            "HISTSIZE",
            "EVENTS_URL",
            "RABBITMQ_HOST",
        ] {
            assert_eq!(remark(name), None);
        }
    }
}
