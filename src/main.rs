//! The program: command line to exit status.

#![forbid(unsafe_code)]

use ssegateway::cli::{self, Command};
use ssegateway::config::{Config, Warning};
use ssegateway::gateway::Finished;
use ssegateway::limits::Limits;
use ssegateway::serve;
use ssegateway::{cgroup, healthcheck, logger, sys};
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit status for a bad configuration or argument.
const MISUSE: u8 = 2;

fn main() -> ExitCode {
    sys::pin_nss();
    sys::limit_heap();
    match cli::parse(std::env::args_os().skip(1)) {
        Err(line) => fail(&line, MISUSE),
        Ok(Command::Help) => show(&cli::help()),
        Ok(Command::Version) => show(&cli::version()),
        Ok(command @ (Command::Run | Command::Check { .. } | Command::Healthcheck { .. })) => {
            match Config::from_env(|name| std::env::var_os(name)) {
                Ok((config, warnings)) => configured(command, config, &warnings),
                Err(problems) => {
                    let _ = io::stderr().write_all(cli::problems(&problems).as_bytes());
                    ExitCode::from(MISUSE)
                }
            }
        }
    }
}

/// The commands that need the configuration.
fn configured(command: Command, mut config: Config, warnings: &[Warning]) -> ExitCode {
    if let Command::Healthcheck { ready } = command {
        return match healthcheck::run(&config, ready) {
            Ok(()) => ExitCode::SUCCESS,
            Err(line) => fail(&line, 1),
        };
    }
    let descriptors = match sys::raise_descriptor_limit() {
        Ok(descriptors) => descriptors,
        Err(error) => return fail(&format!("cannot read the descriptor limit: {error}"), 1),
    };
    config.fit_memory(cgroup::memory_limit());
    let limits = match config.fit(descriptors) {
        Ok(limits) => limits,
        Err(line) => return fail(&line, MISUSE),
    };
    let warnings = cli::warnings(&config, warnings, &limits);
    let remarks = Config::remarks(std::env::vars_os().map(|(name, _)| name));
    if let Command::Check { connect } = command {
        return check(&config, &limits, warnings.into_iter().chain(remarks), connect);
    }
    match run(config, &limits, &warnings, &remarks) {
        Ok(status) => status,
        Err(line) => fail(&line, 1),
    }
}

/// Prints the configuration, and what is wrong with it or around it. `connect`: also whether the backend can be reached,
/// which decides on the exit status.
fn check(config: &Config, limits: &Limits, remarks: impl Iterator<Item = String>, connect: bool) -> ExitCode {
    let note = |line: &str| drop(writeln!(io::stderr(), "{line}"));
    remarks.for_each(|line| note(&line));
    if config.callback_url.is_none() {
        note(serve::CALLBACK_UNSET);
    }
    if let Some(line) = serve::try_open(config) {
        note(&line);
    }
    let status = show(&cli::effective(config));
    if connect && !serve::probe(config, limits, note) { ExitCode::FAILURE } else { status }
}

/// Runs the gateway until it is stopped. Errors: one line.
fn run(config: Config, limits: &Limits, warnings: &[String], remarks: &[String]) -> Result<ExitCode, String> {
    // Before any thread starts: threads inherit the blocked signals.
    let signals = sys::Signals::block().map_err(|error| format!("cannot block signals: {error}"))?;
    let listeners = serve::open(&config).map_err(|unopened| unopened.line)?;
    logger::start(config.log_level, config.log_format).map_err(|error| format!("cannot start the log: {error}"))?;
    for line in warnings {
        log::error!("{line}");
    }
    for line in remarks {
        log::warn!("{line}");
    }
    let finished = serve::run(config, limits, listeners, signals);
    log::logger().flush();
    Ok(match finished? {
        Finished::Clean => ExitCode::SUCCESS,
        Finished::TimedOut => ExitCode::FAILURE,
    })
}

fn show(text: &str) -> ExitCode {
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(line: &str, status: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "ssegateway: {line}");
    ExitCode::from(status)
}
