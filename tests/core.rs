//! The pure core, driven by hand: what no client can bring about at will over sockets.

use ssegateway::gateway::{Action, Gateway, How, Listener, Peer, Settings};
use ssegateway::time::Millis;
use std::time::Duration;
use uuid::Uuid;

/// Found by the simulation: a client that took longer over an answer than a connection may be idle was cut off in
/// the middle of it.
#[test]
fn a_client_that_has_not_read_its_answer_yet_is_not_idle() {
    let at = Millis::from_millis;
    let settings = Settings { keepalive_timeout: Duration::from_secs(1), ..Settings::default() };
    let mut gateway = Gateway::new(settings, at(0), 0);
    let id = gateway.accept(at(0), Listener::Public, Peer::Loopback, Uuid::nil()).expect("a connection");
    gateway.receive(at(0), id, b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(gateway.next_dirty(), Some(id));
    gateway.flushed(at(0), id, 10);
    gateway.expire(at(5_000));
    assert_eq!(gateway.next_action(), None);

    let rest = gateway.unsent(id).len();
    gateway.flushed(at(6_000), id, rest);
    gateway.expire(at(6_900));
    assert_eq!(gateway.next_action(), None);
    gateway.expire(at(7_100));
    assert_eq!(gateway.next_action(), Some(Action::Close(id, How::Graceful)));
}

/// The status of the answer to a GET for the list of streams.
fn listing(settings: Settings, listener: Listener, peer: Peer) -> String {
    let mut gateway = Gateway::new(settings, Millis::ZERO, 0);
    let id = gateway.accept(Millis::ZERO, listener, peer, Uuid::nil()).expect("a connection");
    let request = b"GET /internal/connections HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer t\r\n\r\n";
    gateway.receive(Millis::ZERO, id, request);
    String::from_utf8_lossy(&gateway.unsent(id)[9..12]).into_owned()
}

#[test]
fn tokens_are_listed_to_other_hosts_only_where_something_guards_them() {
    let open = Settings::default;
    let port = || Settings { internal_listener: true, ..Settings::default() };
    let token = || Settings { internal_token: Some("t".to_owned()), ..Settings::default() };
    assert_eq!(listing(open(), Listener::Public, Peer::Loopback), "200");
    assert_eq!(listing(open(), Listener::Public, Peer::Remote), "403");
    assert_eq!(listing(port(), Listener::Internal, Peer::Remote), "200");
    assert_eq!(listing(token(), Listener::Public, Peer::Remote), "200");
}
