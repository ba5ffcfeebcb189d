//! Probes (contract, section 7).

mod common;

use common::{Backend, Gateway, Port, assert_json, get};

const READY: &str = r#"{"status":"ready","configured":true}"#;

#[test]
fn healthz_is_always_ok() {
    let gateway = Gateway::builder().start();
    assert_json(&gateway.get("/healthz"), 200, r#"{"status":"ok"}"#);
}

#[test]
fn readyz_shows_whether_a_backend_is_configured() {
    let unset = Gateway::builder().start();
    assert_json(&unset.get("/readyz"), 503, r#"{"status":"not_ready","configured":false}"#);
    let backend = Backend::accepting();
    let set = Gateway::start(&backend);
    assert_json(&set.get("/readyz"), 200, READY);
    let _barrier = set.open("/barrier");
    assert_eq!(backend.history().len(), 1, "probes do not reach the backend");
}

#[test]
fn the_backend_need_not_be_running() {
    let nobody = Port::reserve();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{nobody}/")).start();
    assert_json(&gateway.get("/readyz"), 200, READY);
}

#[test]
fn a_query_or_one_trailing_slash_changes_nothing() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for target in ["/healthz", "/healthz/", "/healthz?full=1", "/healthz/?", "/healthz?"] {
        assert_json(&gateway.get(target), 200, r#"{"status":"ok"}"#);
    }
    for target in ["/readyz", "/readyz/", "/readyz?x=/y", "/readyz/?x"] {
        assert_json(&gateway.get(target), 200, READY);
    }
}

#[test]
fn head_has_the_same_head_and_no_body() {
    let gateway = Gateway::builder().start();
    for (target, status) in [("/healthz", 200), ("/readyz", 503)] {
        let mut client = gateway.client();
        let full = client.exchange(get(target));
        client.send(get(target).replacen("GET", "HEAD", 1));
        let head = client.head();
        assert_eq!(head.status, status);
        assert_eq!(head.header("content-length"), full.header("content-length"));
        assert_eq!(head.header("content-type"), full.header("content-type"));
        client.assert_open();
    }
}

#[test]
fn other_methods_are_not_allowed() {
    let gateway = Gateway::builder().start();
    for target in ["/healthz", "/readyz"] {
        let response = gateway.request(get(target).replacen("GET", "DELETE", 1));
        assert_eq!(response.status, 405, "{response:?}");
        assert!(response.header("allow").is_some_and(|allow| allow.contains("GET")), "{response:?}");
    }
}

#[test]
fn probes_share_a_connection_with_sends() {
    let gateway = Gateway::builder().start();
    let mut client = gateway.client();
    let missing = common::send_request(r#"{"token":"none"}"#);
    client.send(format!("{}{missing}{}", get("/healthz"), get("/readyz")));
    let statuses: Vec<u16> = (0..3).map(|_| client.response().status).collect();
    assert_eq!(statuses, [200, 404, 503]);
}
