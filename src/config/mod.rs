//! Environment to [`Config`] (docs/protocol.md, section 2). The environment is passed in; only files that hold secrets
//! are read here.
//!
//! Everything is checked here once, and all problems are reported together; other modules take plain values and do not
//! check them again.

#[cfg_attr(not(feature = "tls"), path = "no_certificates.rs")]
mod certificates;
mod fields;
mod redis;
mod strangers;
mod url;
mod values;
mod variables;

pub use fields::Config;
pub use url::CallbackUrl;
pub use variables::{DefaultValue, VARIABLES, Variable};

use crate::limits::Limits;
use crate::secret::Secret;
use fields::line;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

/// An invalid value; the gateway does not start. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

/// A value that was replaced; the gateway starts and logs this as an error. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(String);

impl Display for Problem {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Display for Warning {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Config {
    /// Reads all variables through `lookup` (`std::env::var_os`, or a test's own). An empty value counts as unset,
    /// except for secrets. Errors: every problem, one per bad variable.
    pub fn from_env(lookup: impl Fn(&str) -> Option<OsString>) -> Result<(Self, Vec<Warning>), Vec<Problem>> {
        let mut config = Self::default();
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        for variable in VARIABLES {
            let is_set = |value: &OsString| !(value.is_empty() && variable.empty_is_unset);
            let Some(value) = lookup(variable.name).filter(is_set) else { continue };
            match variable.read(&mut config, value) {
                Ok(()) => {}
                Err(line) if variable.is_replaceable() => {
                    warnings.push(Warning(format!("{line}; using {}", variable.show(&config))));
                }
                Err(line) => problems.push(Problem(line)),
            }
        }
        config.add_system_roots(&lookup, &mut warnings);
        config.gateway.callback_configured = config.callback_url.is_some();
        config.gateway.internal_listener = config.internal_port.is_some() || config.internal_socket.is_some();
        if let Some(redis) = &mut config.gateway.redis {
            redis.prefix.clone_from(&config.redis_prefix);
            redis.timeout = config.redis_timeout;
        }
        config.check_combinations(&mut problems);
        if problems.is_empty() { Ok((config, warnings)) } else { Err(problems) }
    }

    /// One line for each of these names in the environment that was probably meant for the gateway, and is unknown to it.
    pub fn remarks(names: impl Iterator<Item = OsString>) -> Vec<String> {
        let mut lines: Vec<String> = names.filter_map(|name| strangers::remark(name.to_str()?)).collect();
        lines.sort_unstable();
        lines
    }

    /// Reads `SSL_CERT_FILE`, as other programs do, where no file of our own is given. It may be set for those others, so
    /// a bad one is only a warning.
    fn add_system_roots(&mut self, lookup: impl Fn(&str) -> Option<OsString>, warnings: &mut Vec<Warning>) {
        const NAME: &str = "SSL_CERT_FILE";
        if self.callback_ca_file.is_some() || !self.callback_url.as_ref().is_some_and(CallbackUrl::is_https) {
            return;
        }
        let Some(path) = lookup(NAME).filter(|path| !path.is_empty()) else { return };
        let path = path.to_string_lossy();
        match certificates::usable(&path) {
            Ok(roots) => self.callback_roots = roots,
            Err(allowed) => warnings.push(Warning(format!("{}; not used", line(NAME, &path, &allowed)))),
        }
    }

    /// Checks across variables.
    fn check_combinations(&self, problems: &mut Vec<Problem>) {
        let has_user = self.callback_url.as_ref().is_some_and(|url| url.authorization.is_some());
        if has_user && self.callback_token.is_some() {
            let (name, value) = match &self.callback_token_file {
                Some(path) => ("CALLBACK_TOKEN_FILE", path.as_str()),
                None => ("CALLBACK_TOKEN", "***"),
            };
            problems.push(Problem(line(name, value, "must not be set together with user:pass@ in CALLBACK_URL")));
        }
        // A bad address has left its default in place, which must not be reported.
        if let Some(internal_port) = self.internal_port
            && problems.is_empty()
            && internal_port == self.port
            && values::overlap(self.internal_address(), self.listen_address)
        {
            let allowed = "must differ from PORT when both are on the same address";
            problems.push(Problem(line("INTERNAL_PORT", &internal_port.to_string(), allowed)));
        }
    }

    /// Lowers the settings to what is possible with that many descriptors (the soft limit after it was raised). Errors:
    /// one line, for too few.
    pub fn fit(&mut self, descriptors: u64) -> Result<Limits, String> {
        let gateway = &mut self.gateway;
        let limits = Limits::from_descriptors(
            descriptors,
            gateway.callback_concurrency,
            self.streams_wanted,
            gateway.internal_listener,
        )?;
        gateway.callback_concurrency = limits.threads_max;
        gateway.streams_max = limits.streams_max;
        gateway.feeds_room = limits.feeds_room();
        Ok(limits)
    }

    /// Sets the limit of memory, unless one was configured, by that of the cgroup: a quarter is for what no peer has
    /// piled up.
    pub fn fit_memory(&mut self, cgroup: Option<u64>) {
        let share = |limit: u64| (limit - limit / 4).max(variables::MEMORY_MIN);
        let configured = &mut self.gateway.memory_bytes_max;
        *configured = configured.or(cgroup.map(share));
    }

    /// The public listener's address.
    pub fn public_endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.listen_address, self.port)
    }

    /// The internal listener's address, if there is one.
    pub fn internal_endpoint(&self) -> Option<SocketAddr> {
        self.internal_port.map(|port| SocketAddr::new(self.internal_address(), port))
    }

    /// The value of the callbacks' `Authorization` header, if they have one.
    pub fn callback_authorization(&self) -> Option<Secret> {
        let bearer = self.callback_token.as_ref().map(|token| Secret::new(format!("Bearer {}", token.expose())));
        bearer.or_else(|| self.callback_url.as_ref().and_then(|url| url.authorization.clone()))
    }
}

#[cfg(test)]
mod tests;
