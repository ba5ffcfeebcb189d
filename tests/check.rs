//! What `ssegateway check` finds beyond bad values: misspelt names, taken ports, and a backend out of reach.

mod common;

use common::{Answer, Backend, Directory, Gateway, Output, Port, run};
use std::io::Write;
use std::net::TcpListener;

/// The lines on stderr of a check that finds no bad value.
#[track_caller]
fn remarks(variables: &[(&str, &str)]) -> Vec<String> {
    let port = Port::reserve().to_string();
    let defaults = [("PORT", port.as_str()), ("CALLBACK_URL", "http://127.0.0.1:1/")];
    let output = run(&["check"], &[&defaults[..], variables].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stderr.lines().map(str::to_owned).collect()
}

#[test]
fn names_that_were_meant_for_the_gateway_are_remarked_on() {
    assert_eq!(remarks(&[("PATH", "/bin"), ("DATABASE_URL", "x")]), [""; 0]);
    let lines = remarks(&[("CALBACK_URL", "x"), ("INTERNAL_TOKN", "secret"), ("HEARTBEAT_INTERVAL", "5")]);
    assert_eq!(
        lines,
        [
            "CALBACK_URL is not a variable of the gateway: is CALLBACK_URL meant?",
            "HEARTBEAT_INTERVAL is not a variable of the gateway: is HEARTBEAT_INTERVAL_SECONDS meant?",
            "INTERNAL_TOKN is not a variable of the gateway: is INTERNAL_TOKEN meant?",
        ]
    );
    let lines = remarks(&[("RABBITMQ_URL", "amqp://user:secret@host")]);
    assert!(lines.len() == 1 && lines[0].starts_with("RABBITMQ_URL is of a later version"), "{lines:?}");
    let gateway = Gateway::builder().set("INTERNAL_TOKN", "secret").set("RABBITMQ_URL", "x").start();
    gateway.log_line(&["WARN", "INTERNAL_TOKN is not a variable of the gateway: is INTERNAL_TOKEN meant?"]);
    gateway.log_line(&["WARN", "RABBITMQ_URL"]);
    assert!(!gateway.log().contains("secret"), "{}", gateway.log());
}

#[test]
fn a_taken_port_is_remarked_on() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let other = std::thread::spawn(move || {
        let (mut socket, _) = taken.accept().expect("a connection");
        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"status\":\"ok\"}").expect("an answer");
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let lines = remarks(&[("PORT", &port), ("LISTEN_ADDRESS", "127.0.0.1")]);
    assert!(lines.len() == 1 && lines[0].contains("another process uses that port: stop it"), "{lines:?}");
    other.join().expect("the other server");
}

#[test]
fn the_gateway_that_is_running_is_recognised() {
    let directory = Directory::new();
    let socket = directory.path("s").display().to_string();
    let gateway = Gateway::builder().set("INTERNAL_SOCKET", &socket).start();
    let port = gateway.port.to_string();
    for (variables, place) in [
        (&[("PORT", port.as_str())][..], format!("[::]:{port}")),
        (&[("PORT", port.as_str()), ("LISTEN_ADDRESS", "127.0.0.1")], format!("127.0.0.1:{port}")),
        (&[("INTERNAL_SOCKET", socket.as_str())], socket.clone()),
    ] {
        let lines = remarks(variables);
        assert!(lines.len() == 1, "{lines:?}");
        assert!(lines[0].starts_with(&format!("a gateway is running at {place}: that is fine if ")), "{lines:?}");
    }
    assert_eq!(gateway.get("/healthz").status, 200);
}

fn connect(url: &str) -> Output {
    run(&["check", "--connect"], &[("PORT", &Port::reserve().to_string()), ("CALLBACK_URL", url)])
}

#[test]
fn a_backend_is_tried_step_by_step() {
    let backend = Backend::new(|call| match call.method.as_str() {
        "OPTIONS" => Answer::new(405, &[("Allow", "POST")], ""),
        _ => Answer::ok(),
    });
    let output = connect(&backend.url().replace("127.0.0.1", "localhost"));
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!((output.code, lines.len()), (Some(0), 3), "{output:?}");
    assert!(lines[0].starts_with("name: localhost is ") && lines[0].contains("127.0.0.1"), "{lines:?}");
    assert!(lines[1].starts_with("connection: to 127.0.0.1:"), "{lines:?}");
    assert_eq!(lines[2], "answer: 405 Method Not Allowed to an OPTIONS; Allow: POST");
    // The last step may take two connections, and asks nothing of the application.
    assert!(backend.history().iter().all(|call| call.method == "OPTIONS" && call.body.is_empty()));
}

#[test]
fn the_first_step_that_fails_is_the_last() {
    let closed = Port::reserve();
    for (url, step, fix) in [
        ("http://no-such-name.invalid/".to_owned(), "name: failed: ", "check the host name in CALLBACK_URL"),
        (format!("http://127.0.0.1:{closed}/"), "connection: failed: ", "is the backend running there?"),
        ("http+unix://%2Fnowhere%2Fapp.sock/".to_owned(), "connection: failed: ", "no such socket"),
    ] {
        let output = connect(&url);
        let line = output.stderr.lines().last().unwrap_or_default();
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(line.starts_with(step) && line.contains(fix), "{output:?}");
    }
    let silent = Backend::connecting(Answer::ok());
    if cfg!(feature = "tls") {
        let output = connect(&silent.url().replace("http:", "https:"));
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.lines().last().unwrap_or_default().starts_with("TLS: failed: "), "{output:?}");
    }
    let output = run(&["check", "--connect"], &[("PORT", &Port::reserve().to_string())]);
    assert_eq!((output.code, output.stderr.lines().count()), (Some(1), 1), "{output:?}");
}
