//! The environment and the command line: accepted values, refused values and their messages (contract, section 2).

mod common;

use common::{
    Backend, Builder, Client, Directory, Gateway, Output, Port, assert_json, get, program, run, send_request,
};
use ssegateway::config::{Config, VARIABLES};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The integer variables whose bad values end the process.
fn numbers() -> Vec<&'static str> {
    let is_one = |name: &&str| {
        let problems = Config::from_env(|asked| (asked == *name).then(|| "word".into())).err();
        problems.is_some_and(|problems| problems[0].to_string().contains("an integer"))
    };
    let numbers: Vec<_> = VARIABLES.iter().map(|variable| variable.name).filter(is_one).collect();
    assert!(numbers.len() > 20, "{numbers:?}");
    numbers
}

/// Running and checking handle a bad value alike: status 2, and on stderr one line for each bad variable.
#[track_caller]
fn refuse(variables: &[(&str, &str)]) -> Vec<String> {
    let outputs = [run(&[], variables), run(&["check"], variables)];
    for output in &outputs {
        assert_eq!(output.code, Some(2), "{variables:?}: {output:?}");
    }
    let lines: Vec<String> = outputs[0].stderr.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), variables.len(), "one line per bad variable: {lines:#?}");
    lines
}

#[track_caller]
fn refuse_one(name: &str, value: &str) -> String {
    let line = refuse(&[(name, value)]).remove(0);
    assert!(line.contains(name) && line.contains(value), "name and value: {line}");
    assert!(line.len() > name.len() + value.len() + 10, "what is allowed: {line}");
    line
}

#[track_caller]
fn check(variables: &[(&str, &str)]) -> Output {
    let output = run(&["check"], variables);
    assert_eq!(output.code, Some(0), "{output:?}");
    output
}

#[test]
fn a_port_is_a_number_from_1_to_65535() {
    for value in ["0", "65536", "-1", "http", "3000x", "1.5"] {
        let line = refuse_one("PORT", value);
        assert!(line.contains("65535"), "{line}");
        refuse_one("INTERNAL_PORT", value);
    }
}

#[test]
fn every_number_refuses_words_signs_and_overflow() {
    for name in numbers() {
        for value in ["word", "-1", "99999999999999999999999"] {
            refuse_one(name, value);
        }
    }
}

#[test]
fn a_concurrency_of_zero_is_refused() {
    refuse_one("CALLBACK_CONCURRENCY", "0");
}

#[test]
fn addresses_are_refused_unless_they_are_addresses() {
    refuse_one("LISTEN_ADDRESS", "not-an-address");
    refuse_one("INTERNAL_ADDRESS", "300.1.1.1");
}

#[test]
fn choices_name_what_is_allowed() {
    let line = refuse_one("CONNECT_FAILURE", "panic");
    assert!(line.contains("status") && line.contains("retry"), "{line}");
    let line = refuse_one("LOG_LEVEL", "loud");
    assert!(["error", "warn", "info", "debug", "trace", "off"].iter().all(|level| line.contains(level)), "{line}");
}

#[test]
fn a_callback_url_is_an_absolute_http_url() {
    for value in ["ftp://127.0.0.1/", "/callback", "127.0.0.1:5000", "http://", "http://h:99999/", "localhost"] {
        let line = refuse_one("CALLBACK_URL", value);
        assert!(line.contains("http"), "{line}");
    }
}

#[test]
fn https_needs_a_build_with_tls() {
    let output = run(&["check"], &[("CALLBACK_URL", "https://127.0.0.1:1/callback")]);
    assert_eq!(output.code, Some(if cfg!(feature = "tls") { 0 } else { 2 }), "{output:?}");
}

#[test]
fn a_token_and_a_password_exclude_each_other() {
    let output = run(&[], &[("CALLBACK_URL", "http://user:hunter2@127.0.0.1:1/"), ("CALLBACK_TOKEN", "opensesame")]);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("CALLBACK_TOKEN"), "{output:?}");
    assert!(!output.stderr.contains("hunter2") && !output.stderr.contains("opensesame"), "{output:?}");
}

#[test]
fn a_token_invalid_in_a_header_is_refused_and_not_shown() {
    for name in ["CALLBACK_TOKEN", "INTERNAL_TOKEN"] {
        let lines = refuse(&[(name, "open\r\nsesame")]);
        assert!(lines[0].contains(name) && lines[0].contains("line break"), "{lines:?}");
        assert!(!lines[0].contains("sesame"), "{lines:?}");
    }
}

/// Writes a file with this content; returns its path.
fn file(name: &str, content: &[u8]) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("configuration-{name}"));
    fs::write(&path, content).expect("a file");
    path.to_str().expect("a plain path").to_owned()
}

#[test]
fn an_empty_secret_is_refused() {
    for name in ["INTERNAL_TOKEN", "CALLBACK_TOKEN"] {
        let line = refuse(&[(name, "")]).remove(0);
        assert!(line.contains(name) && line.contains("empty"), "{line}");
        let line = refuse(&[(&format!("{name}_FILE"), "")]).remove(0);
        assert!(line.contains(&format!("{name}_FILE")), "{line}");
    }
}

#[test]
fn a_secret_can_come_from_a_file() {
    for (ending, content) in [("none", "s3cret"), ("lf", "s3cret\n"), ("crlf", "s3cret\r\n")] {
        let path = file(ending, content.as_bytes());
        let backend = Backend::accepting();
        let gateway =
            Gateway::for_backend(&backend).set("INTERNAL_TOKEN_FILE", &path).set("CALLBACK_TOKEN_FILE", &path).start();
        gateway.log_line(&["started", "internal_guard=token"]);
        let _stream = gateway.open("/x");
        let call = backend.connect("/x");
        assert_eq!(call.header("authorization"), Some("Bearer s3cret"));
        assert_eq!(gateway.event(call.token(), "x").status, 401);
        let body = format!(r#"{{"token":"{}"}}"#, call.token());
        let request = send_request(&body).replace("\r\n\r\n", "\r\nAuthorization: Bearer s3cret\r\n\r\n");
        assert_eq!(gateway.request(request).status, 200);
        let shown = check(&[("INTERNAL_TOKEN_FILE", &path)]).stdout;
        let want = format!("\nINTERNAL_TOKEN=***\nINTERNAL_TOKEN_FILE={path}\n");
        assert!(shown.contains(&want) && !shown.contains("s3cret"), "{shown}");
    }
}

#[test]
fn a_secret_can_come_from_a_pipe() {
    // As of a shell's process substitution, with a writer that is slow and in no hurry to close it.
    for path in ["/dev/fd/", "/proc/self/fd/"] {
        let script = format!(
            r#"exec 3< <(sleep 0.2; printf s3c; sleep 0.2; echo ret; sleep 0.2)
            CALLBACK_TOKEN_FILE={path}3 "$0" check"#
        );
        let (code, shown) = bash(&script);
        assert!(code == Some(0) && shown.contains("\nCALLBACK_TOKEN=***\n"), "{shown}");
    }
    let (code, shown) = bash(r#"echo s3cret | INTERNAL_TOKEN_FILE=/dev/stdin "$0" check"#);
    assert!(code == Some(0) && shown.contains("\nINTERNAL_TOKEN=***\n"), "{shown}");
    let (code, shown) = bash(r#"INTERNAL_TOKEN_FILE=<(true) "$0" check"#);
    assert!(code == Some(2) && shown.contains("INTERNAL_TOKEN_FILE") && shown.contains("empty"), "{shown}");
}

/// Runs a script with the gateway as `$0`; its status, and what it has written to both outputs.
fn bash(script: &str) -> (Option<i32>, String) {
    let output = Command::new("bash").args(["-c", script]).arg(program()).output().expect("bash");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_pipe_that_nobody_writes_to_does_not_hold_up_the_start_for_ever() {
    let (code, shown) = bash(
        r#"pipe="$(mktemp -u)" && mkfifo "$pipe" && trap 'rm "$pipe"' EXIT
        INTERNAL_TOKEN_FILE="$pipe" "$0""#,
    );
    let good = ["INTERNAL_TOKEN_FILE", "nobody has written", "10s"].iter().all(|word| shown.contains(word));
    assert!(code == Some(2) && good && shown.lines().count() == 1, "{shown}");
}

#[test]
fn a_file_without_a_good_secret_is_refused() {
    for name in ["INTERNAL_TOKEN", "CALLBACK_TOKEN"] {
        let of_file = format!("{name}_FILE");
        for (case, content, allowed) in [
            ("blank", &b"\n"[..], "empty"),
            ("two-lines", b"s3cret\ns3cret\n", "line break"),
            ("two-breaks", b"s3cret\n\n", "line break"),
            ("spaces", b"s3 cret", "visible ASCII"),
            ("bytes", b"s3cret\xff", "visible ASCII"),
            ("long", &[b'x'; 100_000], "nothing else"),
        ] {
            let path = file(&format!("{name}-{case}"), content);
            let line = refuse(&[(&of_file, &path)]).remove(0);
            assert!(line.contains(&of_file) && line.contains(&path) && line.contains(allowed), "{line}");
            assert!(!line.contains("s3"), "{line}");
        }
        for path in ["/nowhere/token", env!("CARGO_TARGET_TMPDIR"), "/dev/zero"] {
            let line = refuse(&[(&of_file, path)]).remove(0);
            assert!(line.contains(&of_file) && line.contains(path), "{line}");
        }
        let path = file(&format!("{name}-good"), b"s3cret");
        let output = run(&[], &[(name, "opensesame"), (&of_file, &path)]);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(output.stderr.contains(&of_file) && output.stderr.contains("together"), "{output:?}");
    }
    let path = file("beside-password", b"s3cret");
    let lines = run(&["check"], &[("CALLBACK_URL", "http://user:hunter2@h/"), ("CALLBACK_TOKEN_FILE", &path)]).stderr;
    assert!(lines.contains("CALLBACK_TOKEN_FILE") && lines.contains("CALLBACK_URL"), "{lines}");
}

#[test]
fn the_startup_line_shows_how_internal_paths_are_guarded() {
    let of = |builder: Builder, guard: &str| {
        builder.start().log_line(&["started", &format!("internal_guard={guard} ")]);
    };
    of(Gateway::builder(), "none");
    of(Gateway::builder().internal_port(), "port");
    of(Gateway::builder().set("INTERNAL_TOKEN", "t"), "token");
    of(Gateway::builder().set("INTERNAL_TOKEN", "t").internal_port(), "port+token");
    let directory = Directory::new();
    let socket = directory.path("s").display().to_string();
    of(Gateway::builder().set("INTERNAL_SOCKET", &socket), "socket");
    of(
        Gateway::builder().set("INTERNAL_SOCKET", &socket).set("INTERNAL_TOKEN", "t").internal_port(),
        "port+socket+token",
    );
}

#[test]
fn a_bad_url_does_not_show_its_password() {
    let lines = refuse(&[("CALLBACK_URL", "ftp://user:hunter2@127.0.0.1/")]);
    assert!(lines[0].contains("CALLBACK_URL") && !lines[0].contains("hunter2"), "{lines:?}");
}

#[test]
fn all_bad_values_are_reported_at_once() {
    let mut variables: Vec<(&str, &str)> = numbers().into_iter().map(|name| (name, "wrong")).collect();
    variables.extend([
        ("CALLBACK_URL", "gopher://x"),
        ("LISTEN_ADDRESS", "nowhere"),
        ("INTERNAL_ADDRESS", "nowhere"),
        ("CONNECT_FAILURE", "maybe"),
        ("LOG_LEVEL", "loud"),
    ]);
    let lines = refuse(&variables);
    let names =
        |line: &&String, name: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
    for (name, value) in &variables {
        let about: Vec<&String> = lines.iter().filter(|line| names(line, name)).collect();
        assert_eq!(about.len(), 1, "{name}: {lines:#?}");
        assert!(about[0].contains(value), "{name}: {about:?}");
    }
}

#[test]
fn a_bad_heartbeat_is_logged_and_replaced_by_the_default() {
    for value in ["0", "soon", "-3", "1.5"] {
        let output = check(&[("HEARTBEAT_INTERVAL_SECONDS", value)]);
        let shown = output.stdout.lines().find(|line| line.contains("HEARTBEAT_INTERVAL_SECONDS")).expect("a line");
        assert!(shown.contains("15"), "{output:?}");
    }
    let gateway = Gateway::builder().set("HEARTBEAT_INTERVAL_SECONDS", "soon").start();
    let line = gateway.log_line(&["HEARTBEAT_INTERVAL_SECONDS"]);
    assert!(line.contains("ERROR") && line.contains("soon"), "{line}");
}

#[test]
fn check_prints_the_effective_configuration() {
    let output =
        check(&[("PORT", "4567"), ("CALLBACK_URL", "http://127.0.0.1:1/hook?a=b"), ("CONNECT_FAILURE", "retry")]);
    for name in VARIABLES.iter().map(|variable| variable.name) {
        assert!(output.stdout.contains(name), "{name}: {output:?}");
    }
    for value in ["4567", "http://127.0.0.1:1/hook?a=b", "retry", "16384", "1048576", "128", "30", "75", "info"] {
        assert!(output.stdout.contains(value), "{value}: {output:?}");
    }
}

#[test]
fn check_masks_secrets() {
    let url = [("CALLBACK_URL", "http://user:hunter2@127.0.0.1:1/"), ("INTERNAL_TOKEN", "opensesame")];
    let token = [("CALLBACK_URL", "http://127.0.0.1:1/"), ("CALLBACK_TOKEN", "opensesame")];
    for variables in [&url, &token] {
        let output = check(variables);
        let all = output.stdout + &output.stderr;
        assert!(all.contains("127.0.0.1:1"), "{all}");
        assert!(!all.contains("hunter2") && !all.contains("opensesame"), "{all}");
    }
}

#[test]
fn check_needs_no_variable_and_no_free_port() {
    let gateway = Gateway::builder().start();
    assert!(check(&[]).stderr.contains("CALLBACK_URL is not set"));
    check(&[("PORT", gateway.port.to_string().as_str())]);
}

#[test]
fn an_empty_callback_url_is_an_unset_one() {
    let gateway = Gateway::builder().set("CALLBACK_URL", "").start();
    assert_json(&gateway.get("/readyz"), 503, r#"{"status":"not_ready","configured":false}"#);
}

#[test]
fn help_shows_every_variable() {
    let output = run(&["--help"], &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    for name in VARIABLES.iter().map(|variable| variable.name) {
        assert!(output.stdout.contains(name), "{name}: {output:?}");
    }
    for word in ["check", "healthcheck", "--ready", "--version", "--help", "ssegateway"] {
        assert!(output.stdout.contains(word), "{word}: {output:?}");
    }
    assert_eq!(output.stderr, "");
}

#[test]
fn version_shows_the_version() {
    let output = run(&["--version"], &[]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(output.stdout, format!("ssegateway {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_argument_is_one_line_and_status_2() {
    for arguments in [&["--nonsense"][..], &["run"], &["check", "twice"], &["healthcheck", "--redy"], &[""]] {
        let output = run(arguments, &[]);
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        let wrong = arguments.last().expect("an argument");
        assert!(output.stderr.contains(wrong), "{output:?}");
    }
}

#[test]
fn a_port_in_use_is_reported_and_ends_the_process() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let output = run(&[], &[("PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")]);
    assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    assert!(output.stderr.contains(&port) && output.stderr.to_lowercase().contains("in use"), "{output:?}");
    let other = Port::reserve();
    let output = run(&[], &[("PORT", &other.to_string()), ("INTERNAL_PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")]);
    assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    assert!(output.stderr.contains(&port), "{output:?}");
}

#[test]
fn the_default_address_is_dual_stack() {
    let gateway = Gateway::builder().unset("LISTEN_ADDRESS").start();
    assert_eq!(gateway.get("/healthz").status, 200, "over IPv4");
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(("::1", gateway.port)).expect("over IPv6");
        socket
            .write_all(get("/healthz").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
            .expect("write");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn a_listen_address_limits_who_can_reach_it() {
    let gateway = Gateway::builder().start();
    assert!(std::net::TcpStream::connect(("127.0.0.2", gateway.port)).is_err(), "127.0.0.2 is another address");
    Client::connect(gateway.port).assert_open();
}

#[test]
fn unknown_variables_are_ignored() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("SSEGATEWAY_UNKNOWN", "\u{1}\n").start();
    gateway.open("/x");
}
