//! The log of a backend outage (contract, section 10): informative, but not a line per page.

mod common;

use common::{Answer, Backend, Client, Gateway, Port, eventually, get};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The sum of the numbers after `key=` in the lines with this text.
fn sum(gateway: &Gateway, text: &str, key: &str) -> usize {
    let log = gateway.log();
    let values = log.lines().filter(|line| line.contains(text)).filter_map(|line| line.split_once(&format!(" {key}=")));
    values
        .map(|(_, rest)| rest.split(' ').next().and_then(|value| value.parse::<usize>().ok()).expect("a number"))
        .sum()
}

/// With the bracket, so that "disconnect callback failed" does not match.
const FAILED: &str = "] connect callback failed";

fn lines(gateway: &Gateway, text: &str) -> usize {
    gateway.log().matches(text).count()
}

#[test]
fn a_dead_backend_gets_a_line_a_second_and_one_when_it_is_back() {
    const PAGES: usize = 300;
    let port = Port::reserve();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/callback")).start();
    let start = Instant::now();
    for _ in 0..PAGES {
        assert_eq!(gateway.get("/x").status, 503);
    }
    gateway.log_line(&["WARN", FAILED, "refused", "left_out=0"]);
    // Failures without a line are counted in the next line, or in one shortly after the last of them.
    let (one, more) = (FAILED, "further connect callbacks failed");
    eventually("each failure is counted", || {
        lines(&gateway, one) + sum(&gateway, one, "left_out") + sum(&gateway, more, "left_out") == PAGES
    });
    let most = start.elapsed().as_secs() as usize + 1;
    assert!(lines(&gateway, one) + lines(&gateway, more) <= most, "{}", gateway.log());
    assert_eq!(lines(&gateway, "have recovered"), 0);

    let backend = Backend::on_port(port, |_| Answer::ok());
    let (_stream, token) = gateway.open_with(&backend, "/y");
    gateway.log_line(&["INFO", "connect callbacks have recovered", "failed=300", "seconds="]);
    assert_eq!(gateway.event(&token, "x").status, 200);
    let _another = gateway.open("/z");
    assert_eq!(lines(&gateway, "have recovered"), 1);
}

#[test]
fn timeouts_and_refusals_are_kinds_of_their_own() {
    let backend = Backend::connecting(Answer::silence());
    let port = backend.port.clone();
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 1).start();
    // As many as are in flight at once.
    let mut clients: Vec<Client> = (0..7).map(|_| Client::open(gateway.port, get("/x"))).collect();
    for client in &mut clients {
        assert_eq!(client.response().status, 504);
    }
    gateway.log_line(&[FAILED, "timeout"]);
    backend.stop();
    eventually("the backend is gone", || std::net::TcpStream::connect(("127.0.0.1", port.number)).is_err());
    assert_eq!(gateway.get("/x").status, 503);
    gateway.log_line(&[FAILED, "refused", "left_out=0"]);
    assert_eq!(lines(&gateway, FAILED), 2, "{}", gateway.log());
}

#[test]
fn a_backend_that_fails_gets_a_line_a_second_as_well() {
    const PAGES: usize = 200;
    let is_failing = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&is_failing);
    let backend =
        Backend::new(move |_| if failing.load(Ordering::SeqCst) { Answer::status(500) } else { Answer::ok() });
    let gateway = Gateway::start(&backend);
    // One that has worked before gets no hint that it is set up wrongly.
    let streams: Vec<_> = (0..50).map(|number| gateway.open_with(&backend, &format!("/{number}"))).collect();
    is_failing.store(true, Ordering::SeqCst);
    let start = Instant::now();
    for _ in 0..PAGES {
        assert_eq!(gateway.get("/x").status, 500);
    }
    gateway.log_line(&["WARN", FAILED, "status=500", "left_out=0"]);
    let more = "further connect callbacks failed";
    eventually("each failure is counted", || {
        lines(&gateway, FAILED) + sum(&gateway, FAILED, "left_out") + sum(&gateway, more, "left_out") == PAGES
    });
    // Disconnects that fail are a kind of their own.
    let (one, more_disconnects) = ("] disconnect callback failed", "further disconnect callbacks failed");
    let count = streams.len();
    drop(streams);
    eventually("each disconnect is counted", || {
        lines(&gateway, one) + sum(&gateway, one, "left_out") + sum(&gateway, more_disconnects, "left_out") == count
    });
    let most = start.elapsed().as_secs() as usize + 1;
    assert!(lines(&gateway, FAILED) + lines(&gateway, more) <= most, "{}", gateway.log());
    assert!(lines(&gateway, one) + lines(&gateway, more_disconnects) <= most, "{}", gateway.log());
    is_failing.store(false, Ordering::SeqCst);
    let _stream = gateway.open("/y");
    gateway.log_line(&["INFO", "] connect callbacks have recovered", "failed=200"]);
}

#[test]
fn every_failure_is_shown_at_level_debug() {
    let port = Port::reserve();
    let builder = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/callback"));
    let gateway = builder.set("LOG_LEVEL", "debug").start();
    for _ in 0..20 {
        assert_eq!(gateway.get("/x").status, 503);
    }
    eventually("a line for each", || lines(&gateway, FAILED) == 20);
    assert!(lines(&gateway, "DEBUG") > 0, "{}", gateway.log());
}
