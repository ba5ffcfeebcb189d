//! The command line: the service itself, and a few commands for people and containers.

use crate::config::{Config, DefaultValue, Problem, VARIABLES, Warning};
use crate::limits::{Limits, RAISE};
use std::ffi::OsString;
use std::fmt::Write;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve.
    Run,
    /// Print the usage.
    Help,
    /// Print the version.
    Version,
    /// Print the configuration in effect.
    Check {
        /// Try to reach the backend.
        connect: bool,
    },
    /// Probe a running gateway.
    Healthcheck {
        /// Probe `/readyz` instead of `/healthz`.
        ready: bool,
    },
}

/// Reads the arguments, without the program's name. Errors: one line naming the unknown argument.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter();
    let Some(first) = arguments.next() else { return Ok(Command::Run) };
    let command = match first.to_str() {
        Some("--help" | "-h") => Command::Help,
        Some("--version" | "-V") => Command::Version,
        Some("check") => return Ok(Command::Check { connect: flag(arguments, "--connect")? }),
        Some("healthcheck") => return Ok(Command::Healthcheck { ready: flag(arguments, "--ready")? }),
        Some(_) | None => return Err(unknown(&first)),
    };
    match arguments.next() {
        None => Ok(command),
        Some(extra) => Err(unknown(&extra)),
    }
}

/// Whether the only argument, if there is one, is that flag.
fn flag(mut arguments: impl Iterator<Item = OsString>, name: &str) -> Result<bool, String> {
    let Some(argument) = arguments.next() else { return Ok(false) };
    match arguments.next() {
        None if argument == name => Ok(true),
        Some(extra) if argument == name => Err(unknown(&extra)),
        None | Some(_) => Err(unknown(&argument)),
    }
}

fn unknown(argument: &OsString) -> String {
    // Debug formatting keeps any argument on one line.
    format!("unknown argument {argument:?}: everything is configured by environment variables, see --help")
}

/// The text of `--version`.
pub fn version() -> String {
    format!("{} {}\n", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = format!(
        "{}\
         A gateway that holds Server-Sent Events streams for an HTTP backend.\n\
         \n\
         ssegateway                        run; everything is configured by environment variables\n\
         ssegateway check [--connect]      print the effective configuration, or every error in it; try backend and Redis\n\
         ssegateway healthcheck [--ready]  probe a running gateway; exit status 0 if it is healthy (or ready)\n\
         ssegateway --help, --version\n\
         \n\
         Environment variables and their defaults:\n",
        version()
    );
    let defaults = Config::default();
    for variable in VARIABLES {
        let default = match variable.default {
            DefaultValue::Literal => variable.show(&defaults),
            DefaultValue::Derived(how) => format!("({how})"),
        };
        let _ = writeln!(text, "  {:<30}{default}\n      {}", variable.name, variable.help);
    }
    text.push_str("\nExit status: 0 after a clean end, 1 after a failure, 2 for a bad configuration or argument.\n");
    text
}

/// The output of `check` for a valid configuration: one `NAME=value` per variable, secrets masked.
pub fn effective(config: &Config) -> String {
    let mut text = String::new();
    for variable in VARIABLES {
        let _ = writeln!(text, "{}={}", variable.name, variable.show(config));
    }
    text
}

/// One line per problem.
pub fn problems(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |text, problem| text + &format!("{problem}\n"))
}

/// One line per value that was replaced or lowered, `MAX_STREAMS` included.
pub fn warnings(config: &Config, warnings: &[Warning], limits: &Limits) -> Vec<String> {
    let mut lines: Vec<String> = warnings.iter().map(Warning::to_string).collect();
    if let Some(wanted) = config.streams_wanted
        && !limits.fits(config.streams_wanted)
    {
        let possible = limits.streams_max;
        lines.push(format!(
            "MAX_STREAMS=\"{wanted}\": more than the descriptor limit ({RAISE}) allows; using {possible}"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn every_command_is_known() {
        assert_eq!(parsed(&[]), Ok(Command::Run));
        for flag in ["--help", "-h"] {
            assert_eq!(parsed(&[flag]), Ok(Command::Help));
        }
        for flag in ["--version", "-V"] {
            assert_eq!(parsed(&[flag]), Ok(Command::Version));
        }
        assert_eq!(parsed(&["check"]), Ok(Command::Check { connect: false }));
        assert_eq!(parsed(&["check", "--connect"]), Ok(Command::Check { connect: true }));
        assert_eq!(parsed(&["healthcheck"]), Ok(Command::Healthcheck { ready: false }));
        assert_eq!(parsed(&["healthcheck", "--ready"]), Ok(Command::Healthcheck { ready: true }));
    }

    #[test]
    fn an_unknown_argument_is_named() {
        for arguments in [
            &["run"][..],
            &["check", "run"],
            &["check", "--connect", "run"],
            &["healthcheck", "run"],
            &["healthcheck", "--ready", "run"],
        ] {
            assert_eq!(
                parsed(arguments),
                Err("unknown argument \"run\": everything is configured by environment variables, see --help"
                    .to_owned())
            );
        }
        assert_eq!(parsed(&["a\nb"]).unwrap_err().lines().count(), 1);
    }

    #[test]
    fn help_and_check_show_every_variable() {
        let (mut config, found) = Config::from_env(|name| (name == "MAX_STREAMS").then(|| "5000".into())).unwrap();
        let limits = config.fit(1024).unwrap();
        let shown = effective(&config);
        for variable in VARIABLES {
            assert!(help().contains(&format!("  {} ", variable.name)), "{}", variable.name);
            assert!(shown.contains(&format!("{}=", variable.name)), "{}", variable.name);
        }
        assert!(shown.contains("MAX_STREAMS=749\n") && shown.contains("PORT=3000\n"), "{shown}");
        let lines = warnings(&config, &found, &limits);
        let raise = "ulimit -n, LimitNOFILE, --ulimit nofile";
        let line = format!("MAX_STREAMS=\"5000\": more than the descriptor limit ({raise}) allows; using 749");
        assert_eq!(lines, [line]);
    }
}
