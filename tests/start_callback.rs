//! The backend is told of the gateway's start before the first connect: `START_CALLBACK` (contract, section 9).

mod common;

use common::{Answer, Backend, Builder, Client, Gate, Gateway, Port, Step, assert_json, get};
use std::sync::Mutex;

fn telling(builder: Builder) -> Gateway {
    builder.set("START_CALLBACK", "on").start()
}

/// A backend that gives the starts these answers, then an empty 200, as to all other calls.
fn answering(starts: Vec<Answer>) -> Backend {
    let starts = Mutex::new(starts.into_iter());
    Backend::new(move |call| match call.action() {
        "start" => starts.lock().unwrap().next().unwrap_or_else(Answer::ok),
        _ => Answer::ok(),
    })
}

#[test]
fn connects_wait_until_the_start_is_accepted() {
    let gate = Gate::new();
    let failures = vec![
        Answer::status(503),
        Answer::raw("garbage\r\n\r\n").then(Step::Close),
        Answer::status(404),
        Answer::status(204).after(&gate),
    ];
    let backend = answering(failures);
    let gateway = telling(Gateway::for_backend(&backend));
    let mut clients: Vec<Client> = (0..3).map(|_| Client::open(gateway.port, get("/x"))).collect();
    for _ in 0..4 {
        let start = backend.take("start", |call| call.action() == "start");
        assert_eq!(start.body, br#"{"action":"start"}"#);
        assert_eq!(backend.count("connect"), 0);
        assert_eq!(gateway.get("/readyz").status, 200);
    }
    gate.open();
    for client in &mut clients {
        assert_eq!(client.head().status, 200);
    }
    let (start, connect) = (&backend.history()[3], backend.connect("/x"));
    let name = "SSEGateway-Instance";
    assert!(start.header(name).is_some() && start.header(name) == connect.header(name));
    assert_eq!((start.header("SSEGateway-Detail"), start.json["token"].is_null()), (None, true));
    assert_eq!(backend.count("start"), 4);
    gateway.log_line(&["WARN", "start callback rejected", "status=404", "START_CALLBACK"]);
    gateway.log_line(&["WARN", "] start callback failed", "left_out=0"]);
    gateway.log_line(&["INFO", "start callback accepted"]);
    assert!(!gateway.log().contains("00000000-0000"), "a token of no stream");
}

#[test]
fn every_start_is_told_with_its_own_instance() {
    let backend = Backend::accepting();
    let instances = [(); 2].map(|()| {
        let _gateway = telling(Gateway::for_backend(&backend));
        let start = backend.take("start", |call| call.action() == "start");
        start.header("SSEGateway-Instance").map(str::to_owned).expect("an instance")
    });
    assert_ne!(instances[0], instances[1]);
}

#[test]
fn a_backend_that_starts_later_is_told_first() {
    let port = Port::reserve();
    let gateway = telling(Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{port}/callback")));
    let mut client = Client::open(gateway.port, get("/x"));
    gateway.log_line(&["] start callback failed", "refused"]);
    let backend = Backend::on_port(port, |_| Answer::ok());
    assert_eq!(client.head().status, 200);
    let actions: Vec<String> = backend.history().iter().map(|call| call.action().to_owned()).collect();
    assert_eq!(actions, ["start", "connect"]);
}

#[test]
fn a_client_waits_as_long_as_for_a_free_worker() {
    let backend = Backend::new(|_| Answer::status(401));
    let builder = || Gateway::for_backend(&backend).set("CONNECT_QUEUE_SECONDS", 1);
    assert_json(&telling(builder()).get("/x"), 504, r#"{"error":"Gateway timeout"}"#);
    let retrying = telling(builder().set("CONNECT_FAILURE", "retry"));
    assert!(retrying.open("/x").finish().text.starts_with("retry: "));
    assert_eq!(backend.count("connect"), 0);
}

#[test]
fn a_drain_does_not_wait_for_its_answer() {
    let backend = Backend::new(|_| Answer::silence());
    let mut gateway = telling(Gateway::for_backend(&backend).set("CALLBACK_TIMEOUT_SECONDS", 3600));
    backend.take("start", |call| call.action() == "start");
    let mut client = Client::open(gateway.port, get("/x"));
    gateway.drain();
    assert_json(&client.response(), 503, r#"{"error":"Shutting down"}"#);
    assert_eq!(backend.history().len(), 1);
}

#[test]
fn by_default_nothing_is_told() {
    let backend = Backend::accepting();
    let mut gateway = Gateway::start(&backend);
    drop(gateway.open("/x"));
    gateway.drain();
    assert_eq!(backend.count("start"), 0);
}
