//! What the server says about itself, and what to do about its errors.

use super::resp::Value;
use super::scripts::{SCRIPTS, Script};
use super::settings::RedisSettings;
use log::warn;

/// The server of the current connection.
#[derive(Default)]
pub(super) struct Server {
    shas: Vec<String>,
    version: String,
    replication: String,
    evictions: String,
    policy: String,
}

impl Server {
    /// The answer to HELLO. Errors: why the server is of no use.
    pub(super) fn greet(&mut self, value: &Value<'_>) -> Result<(), String> {
        let Some(fields) = value.elements() else { return Err("what answers is not Redis".to_owned()) };
        for pair in fields.chunks_exact(2) {
            match (pair[0].text(), pair[1].text()) {
                (Some("version"), Some(version)) => version.clone_into(&mut self.version),
                (Some("role"), Some(role)) if role != "master" => {
                    return Err(format!("the server is a {role}, and takes no writes"));
                }
                (Some("mode"), Some("cluster")) => return Err("the server is a part of a cluster".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    /// The answer to SCRIPT LOAD; that to SELECT is none of these.
    pub(super) fn note_script(&mut self, value: &Value<'_>) {
        let sha = value.text().filter(|sha| sha.len() == 40);
        if self.shas.len() < SCRIPTS.len() {
            self.shas.extend(sha.map(str::to_owned));
        }
    }

    /// The name of a script for EVALSHA.
    pub(super) fn sha(&self, script: Script) -> &str {
        self.shas.get(script as usize).map_or("", |sha| sha)
    }

    /// A section of INFO.
    pub(super) fn note_info(&mut self, value: &Value<'_>) {
        let text = value.bytes().map(String::from_utf8_lossy).unwrap_or_default();
        for line in text.lines() {
            match line.split_once(':') {
                Some(("master_replid", id)) => id.trim().clone_into(&mut self.replication),
                Some(("evicted_keys", count)) => count.trim().clone_into(&mut self.evictions),
                Some(("maxmemory_policy", policy)) => policy.trim().clone_into(&mut self.policy),
                Some(_) | None => {}
            }
        }
    }

    /// What the epoch depends on: the replication id, and the number of evictions.
    pub(super) fn source(&self) -> (String, String) {
        (self.replication.clone(), self.evictions.clone())
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// What it does when its memory is full.
    pub(super) fn policy(&self) -> &str {
        &self.policy
    }

    /// Warns of a server that may drop keys.
    pub(super) fn warn_of_policy(&self) {
        if !matches!(&*self.policy, "noeviction" | "") {
            let hint = "set maxmemory-policy to noeviction: each eviction makes every stream lose its place";
            warn!(policy = &*self.policy, hint; "Redis may evict keys");
        }
    }
}

/// What to do about a connection that failed for this reason.
pub(crate) fn hint(why: &str, settings: &RedisSettings) -> String {
    let starts = |codes: &[&str]| codes.iter().any(|code| why.starts_with(code));
    if starts(&["WRONGPASS", "NOAUTH", "ERR AUTH"]) {
        "check the user and the password in REDIS_URL".to_owned()
    } else if starts(&["NOPERM"]) || why.contains("can't run this command") || why.contains("no permissions") {
        format!("allow it: {}", acl(&settings.prefix))
    } else if why.contains("unknown command") && why.to_ascii_uppercase().contains("HELLO") || starts(&["NOPROTO"]) {
        "Redis 6 or later is needed".to_owned()
    } else if why.contains("DB index") {
        "REDIS_URL must end with the number of a database that Redis has, which are 0 to 15 by default".to_owned()
    } else if why.contains("OOM ") {
        "Redis is out of memory, and takes no new connections of gateways: raise its maxmemory".to_owned()
    } else if starts(&["MISCONF"]) || why.contains("MISCONF ") {
        "Redis cannot write to its disk, and takes no writes: its log says why".to_owned()
    } else if starts(&["READONLY"]) || why.contains("takes no writes") {
        "REDIS_URL must name the master".to_owned()
    } else if why.contains("not Redis") {
        "REDIS_URL must name a Redis server, and its scheme say whether it speaks TLS".to_owned()
    } else if starts(&["wrong name"]) {
        "REDIS_URL must have a name or address of the certificate's subjectAltName".to_owned()
    } else if starts(&["wrong date"]) {
        "renew the certificate of Redis, or set the clock right".to_owned()
    } else if starts(&["unknown issuer"]) {
        "set CALLBACK_CA_FILE to a file with its authority's certificate, or with its own if it is self-signed"
            .to_owned()
    } else if starts(&["TLS: "]) || (settings.is_tls && starts(&["no answer"])) {
        "if that port of Redis does not speak TLS, REDIS_URL begins with redis://".to_owned()
    } else if why.contains("part of a cluster") {
        "use a single Redis, or a master with replicas".to_owned()
    } else if why.contains("onnection refused") {
        "is Redis running at the host and port of REDIS_URL?".to_owned()
    } else if why.contains("lookup") || why.contains("no address") {
        "check the host name in REDIS_URL".to_owned()
    } else if starts(&["no answer"]) || why.contains("timed out") {
        "Redis or the network to it is stuck: look at its machine".to_owned()
    } else {
        "the log of Redis may say why".to_owned()
    }
}

/// An error of a script with the line of the script that it names, since it may not name the command.
pub(super) fn explain(error: String, script: &str) -> String {
    let number =
        error.rsplit_once("@user_script:").and_then(|(_, rest)| rest.split(|at: char| !at.is_ascii_digit()).next());
    let line = number.and_then(|number| script.lines().nth(number.parse::<usize>().ok()?.checked_sub(1)?));
    match line {
        Some(line) => format!("{error} {}", line.trim()),
        None => error,
    }
}

/// The rights that are needed, as `ACL SETUSER` takes them.
pub(super) fn acl(prefix: &str) -> String {
    format!(
        "~{prefix}:* &{prefix}:* +hello +select +info +script|load +evalsha +subscribe +unsubscribe +publish \
         +pubsub|numsub +xadd +xrange +xrevrange +rpush +lrange +ltrim +pexpire +set +get +mget +exists +hset +hget \
         +hmget +time"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_server_says() {
        let mut server = Server::default();
        let fields = [b"version".as_slice(), b"7.0.15", b"role", b"master"].map(Value::Blob);
        assert_eq!(server.greet(&Value::Array(fields.to_vec())), Ok(()));
        server.note_info(&Value::Blob(
            b"# Stats\r\nevicted_keys:3\r\nmaster_replid:abc\r\nmaxmemory_policy:noeviction\r\n",
        ));
        assert_eq!((server.version(), &*server.policy), ("7.0.15", "noeviction"));
        assert_eq!(server.source(), ("abc".to_owned(), "3".to_owned()));
        let replica = [b"role".as_slice(), b"replica"].map(Value::Blob);
        assert!(server.greet(&Value::Array(replica.to_vec())).unwrap_err().contains("replica"));
    }

    #[test]
    fn errors_say_what_to_do() {
        let settings = RedisSettings { is_tls: true, ..RedisSettings::default() };
        assert!(hint("no answer in time", &settings).contains("redis://"));
        assert!(hint("no answer in time", &RedisSettings::default()).contains("stuck"));
        assert!(hint("WRONGPASS invalid username-password pair", &settings).contains("password"));
        assert!(hint("NOPERM this user has no permissions to run the 'xadd' command", &settings).contains("+xadd"));
        assert!(hint("ERR unknown command `HELLO`", &settings).contains("Redis 6"));
        let error = explain("ERR can't run this: f00, on @user_script:2.".to_owned(), "one\n  two\nthree");
        assert!(error.ends_with("@user_script:2. two"), "{error}");
    }
}
