//! A process that aborts leaves its message on stderr, after the lines logged before it.
//!
//! The gateway itself is made to run out of memory. Other aborts cannot be caused from outside, so for them this file's
//! own binary logs like the gateway and aborts.

mod common;

use common::{Gateway, eventually, process, sys};
use ssegateway::logger::{self, LogFormat};
use std::io::{PipeWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Selects how a child of a test aborts.
const DEATH: &str = "DEATH";

/// Lines logged just before: few enough that none is written yet, but too many for one write.
const LINES: usize = 100;

/// Only active in a child of one of the tests below.
#[test]
fn child() {
    let Ok(death) = std::env::var(DEATH) else { return };
    logger::start(log::LevelFilter::Info, LogFormat::Text).expect("a thread");
    // A thread that has not begun cannot do so any more once the runtime reports an overflow: that holds a lock.
    log::warn!("begin");
    log::logger().flush();
    for number in 0..LINES {
        log::warn!("line {number} before the end");
    }
    match death.as_str() {
        "allocation" => drop(std::hint::black_box(Vec::<u8>::with_capacity(isize::MAX as usize))),
        "stack" => {
            overflow(&[0; 1024]);
        }
        #[cfg(target_env = "gnu")]
        "libc" => sys::fail_stack_check(),
        // The release build aborts after the panic hook (panic=abort).
        "panic" => drop(std::panic::catch_unwind(|| panic!("the panic's message"))),
        other => unreachable!("{other}"),
    }
    std::process::abort();
}

#[allow(unconditional_recursion)]
fn overflow(frame: &[u8; 1024]) -> u8 {
    let next = std::hint::black_box(*frame);
    overflow(&next) + next[0]
}

fn spawn(death: &str, stderr: Stdio) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "child", "--nocapture"]).env(DEATH, death).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().expect("this binary starts")
}

fn end(mut child: Child) -> ExitStatus {
    let mut status = None;
    eventually("the child ends", || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    status.expect("it has ended")
}

#[track_caller]
fn assert_last_words(death: &str, words: &[&str]) {
    let mut child = spawn(death, Stdio::piped());
    let mut text = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
    let status = end(child);
    // The runtime writes its message piece by piece: log lines may be interleaved.
    let rest = words.iter().try_fold(text.as_str(), |rest, word| rest.split_once(word).map(|(_, rest)| rest));
    assert!(rest.is_some(), "no {words:?} in: {text}");
    // With the large registers of some processors, abort's handler does not fit on the overflow handler's stack.
    if death == "stack" && status.signal() == Some(libc::SIGSEGV) {
        return;
    }
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}: {text}");
    let lines = (0..LINES).filter(|number| text.contains(&format!(" line {number} before the end\n"))).count();
    assert_eq!(lines, LINES, "lines logged before the end");
}

#[test]
fn a_failed_allocation_is_reported() {
    assert_last_words("allocation", &["memory allocation of ", "9223372036854775807", " bytes failed"]);
}

#[test]
fn a_stack_overflow_is_reported() {
    assert_last_words("stack", &[" has overflowed its stack"]);
}

#[cfg(target_env = "gnu")]
#[test]
fn an_abort_of_libc_is_reported() {
    assert_last_words("libc", &["*** stack smashing detected ***: terminated"]);
}

#[test]
fn a_panic_is_reported() {
    assert_last_words("panic", &["the panic's message"]);
}

/// A full pipe that is not read.
fn full_pipe() -> (std::io::PipeReader, PipeWriter) {
    /// The capacity of a pipe (pipe(7)).
    const PIPE_BYTES: usize = 64 * 1024;
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&[b'x'; PIPE_BYTES]).expect("room for exactly this");
    (reader, writer)
}

#[test]
fn a_panic_with_a_full_pipe_ends_the_process() {
    let (reader, writer) = full_pipe();
    let status = end(spawn("panic", writer.into()));
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status}");
    drop(reader);
}

#[test]
fn a_gateway_out_of_memory_reports_it() {
    /// Enough for the streams of a small gateway and an eighth of the body.
    const ROOM_BYTES: u64 = 20 * 1024 * 1024;
    const BODY_BYTES: usize = 200 * 1024 * 1024;
    let mut gateway = Gateway::builder().set("MAX_BODY_BYTES", 1024 * 1024 * 1024).start();
    sys::limit_address_space(gateway.pid(), process::virtual_kib(gateway.pid()) as u64 * 1024 + ROOM_BYTES);
    let mut client = gateway.client();
    client.send(format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY_BYTES}\r\n\r\n"));
    let piece = vec![b'x'; 1024 * 1024];
    let sent = (0..BODY_BYTES / piece.len()).take_while(|_| client.try_send(&piece).is_ok()).count();
    assert!(sent < BODY_BYTES / piece.len(), "the whole body was accepted");
    assert_eq!(gateway.exit_code(), None, "killed by a signal");
    gateway.log_line(&["memory allocation of ", " bytes failed"]);
    gateway.log_line(&["INFO", "started"]);
}
