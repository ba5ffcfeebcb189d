//! Few descriptors, and closed standard ones: the gateway serves, or reports in one line why it does not start.

mod common;

use common::{Backend, Client, Gateway, OK, Stream, assert_json, get};
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_ssegateway");
/// The end of the message for any limit below the lowest one.
const RAISE: &str = "raise it (ulimit -n, LimitNOFILE, --ulimit nofile)";

/// Asserts that it ends at once, with status 2 and this line.
fn refuse(limit: u32, variables: &[(&str, &str)], line: &str) {
    for arguments in [&[][..], &["check"]] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\""), BINARY]).args(arguments);
        let output = shell.env_clear().envs(variables.iter().copied()).stdin(Stdio::null()).output().expect("a shell");
        assert_eq!(output.status.code(), Some(2), "{limit}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), format!("ssegateway: {line}\n"));
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn a_limit_below_the_lowest_is_refused_in_one_line() {
    for limit in [8, 11, 20, 39] {
        refuse(limit, &[], &format!("the descriptor limit is {limit}, and at least 40 are needed: {RAISE}"));
    }
    let needed = "at least 48 are needed with INTERNAL_PORT or INTERNAL_SOCKET";
    for limit in [11, 20, 47] {
        let line = format!("the descriptor limit is {limit}, and {needed}: {RAISE}");
        refuse(limit, &[("INTERNAL_PORT", "3001"), ("MAX_STREAMS", "1"), ("CALLBACK_CONCURRENCY", "1")], &line);
    }
}

/// Each time it grew, every stream waited.
#[test]
fn the_kernel_has_room_for_all_descriptors_from_the_start() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).ulimit("-n 1024").start();
    assert_eq!(gateway.descriptor_room(), 1024);
}

/// Opens streams until there are too many.
fn fill(gateway: &Gateway) -> Vec<Stream> {
    let mut streams = Vec::new();
    loop {
        let mut client = Client::open(gateway.port, get("/crowd"));
        let line = client.read_until(b"\r\n");
        client.buffer.splice(0..0, line.iter().copied());
        if !line.starts_with(b"HTTP/1.1 200 ") {
            assert_json(&client.response(), 503, r#"{"error":"Too many streams"}"#);
            return streams;
        }
        streams.push(Stream::accept(client));
    }
}

#[test]
fn the_lowest_limit_serves_streams_sends_and_probes() {
    let backend = Backend::accepting();
    for concurrency in [1, 128] {
        let alone = Gateway::for_backend(&backend).ulimit("-n 40");
        let with_internal = Gateway::for_backend(&backend).internal_port().ulimit("-n 48");
        for builder in [alone, with_internal] {
            let mut gateway = builder.set("CALLBACK_CONCURRENCY", concurrency).start();
            let (mut stream, token) = gateway.open_with(&backend, "/first");
            let crowd = fill(&gateway);
            assert_eq!(gateway.get("/healthz").status, 200);
            assert_json(&gateway.event(&token, "x"), 200, OK);
            assert_eq!(stream.event(), "data: x\n\n");
            drop((stream, crowd));
            gateway.drain();
        }
    }
}

#[test]
fn a_crowd_on_the_public_port_leaves_room_on_the_internal_one() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).internal_port().ulimit("-n 48").start();
    let (mut stream, token) = gateway.open_with(&backend, "/x");
    let _silent: Vec<Client> = (0..40).map(|_| Client::connect(gateway.port)).collect();
    assert_json(&gateway.event(&token, "x"), 200, OK);
    assert_eq!(stream.event(), "data: x\n\n");
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let backend = Backend::accepting();
        let mut gateway = Gateway::for_backend(&backend).shell(&format!("exec {closed}")).start();
        let (mut stream, token) = gateway.open_with(&backend, "/x");
        assert_json(&gateway.event(&token, "x"), 200, OK);
        assert_eq!(stream.event(), "data: x\n\n");
        gateway.drain();
    }
}
