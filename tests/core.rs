//! The pure core, driven by hand: what no client can bring about at will over sockets.

use ssegateway::gateway::{Action, Gateway, How, Listener, Settings};
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
    let id = gateway.accept(at(0), Listener::Public, Uuid::nil()).expect("a connection");
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
