//! A log that is not read, or cannot be written, under heavy logging.

use crate::common::{Backend, Client, Gateway, SIGTERM, get, process};
use crate::healthy::Healthy;
use crate::report;
use std::fs::File;
use std::io::{PipeWriter, Read};
use std::os::fd::OwnedFd;

/// With lines of 4 KiB each, more than a pipe and the gateway's queue can hold.
const REQUESTS: usize = 3000;
const URL_BYTES: usize = 4000;

/// Traffic that fills the log, with a stream that must not be affected.
fn talk(gateway: &Gateway, backend: &Backend) -> crate::healthy::Seen {
    let (stream, token) = gateway.open_with(backend, "/healthy");
    let healthy = Healthy::start(gateway, stream, token);
    let request = get(&format!("/{}", "x".repeat(URL_BYTES)));
    for _ in 0..REQUESTS {
        drop(Client::open(gateway.port, &request).head());
    }
    healthy.finish()
}

fn talkative(backend: &Backend, log: impl Into<OwnedFd>) -> Gateway {
    Gateway::for_backend(backend).set("LOG_LEVEL", "trace").stderr(PipeWriter::from(log.into())).start()
}

#[test]
fn a_full_pipe_delays_nothing() {
    let backend = Backend::accepting();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut gateway = talkative(&backend, writer);
    let seen = talk(&gateway, &backend);
    let before = process::rss_kib(gateway.pid());
    let again = talk(&gateway, &backend);
    let after = process::rss_kib(gateway.pid());
    assert!(after < before + 4 * 1024, "unread lines are not kept: {before} and {after} KiB");
    gateway.signal(SIGTERM);
    assert_eq!(gateway.exit_code(), Some(0));
    let mut text = Vec::new();
    reader.read_to_end(&mut text).expect("what the pipe holds");
    report(&format!("a full log pipe: {} KiB in it at the end; {seen}, {again}", text.len() / 1024));
}

#[test]
fn a_pipe_closed_at_any_time_delays_nothing() {
    let backend = Backend::accepting();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut gateway = talkative(&backend, writer);
    let (stream, token) = gateway.open_with(&backend, "/before");
    let healthy = Healthy::start(&gateway, stream, token);
    drop(reader);
    let seen = talk(&gateway, &backend);
    healthy.finish();
    gateway.signal(SIGTERM);
    assert_eq!(gateway.exit_code(), Some(0));
    report(&format!("a closed log pipe: {seen}"));
}

#[test]
fn a_full_disk_delays_nothing() {
    let backend = Backend::accepting();
    let full = File::options().write(true).open("/dev/full").expect("a full disk");
    let mut gateway = talkative(&backend, full);
    let seen = talk(&gateway, &backend);
    gateway.signal(SIGTERM);
    assert_eq!(gateway.exit_code(), Some(0));
    report(&format!("a full disk behind the log: {seen}"));
}
