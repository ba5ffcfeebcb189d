//! The end of a group, and streams for which there is nothing to come (docs/protocol.md, section 13).

mod common;

use common::{Answer, Backend, Client, Gateway, Stream, assert_json, get};
use serde_json::{Value, json};

/// Answers a connect to `/a,b?attach` with the groups `a` and `b`.
fn by_path() -> Backend {
    Backend::new(|call| {
        let (path, query) = call.url().split_once('?').unwrap_or((call.url(), ""));
        let groups: Vec<&str> = path[1..].split(',').filter(|name| !name.is_empty()).collect();
        Answer::json(&json!({ "groups": groups, "attach": query == "attach" }).to_string())
    })
}

struct Setup {
    backend: Backend,
    gateway: Gateway,
}

fn setup() -> Setup {
    let backend = by_path();
    Setup { gateway: Gateway::start(&backend), backend }
}

impl Setup {
    fn send(&self, group: &str, data: &str, end: bool) -> String {
        let body = json!({"group": group, "event": {"data": data}, "end": end});
        let answer: Value = serde_json::from_str(self.gateway.send(&body.to_string()).text()).unwrap();
        answer["id"].as_str().expect("an id").to_owned()
    }

    fn resume(&self, target: &str, id: &str) -> Client {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
        Client::open(self.gateway.port, request)
    }

    /// The stream of that URL was over for this reason.
    #[track_caller]
    fn assert_disconnect(&self, url: &str, detail: &str) {
        let end = self.backend.disconnect(self.backend.connect(url).token());
        assert_eq!((end.reason(), end.detail()), ("server_closed", Some(detail)));
    }
}

/// 204, no body, and the end of the connection.
#[track_caller]
fn assert_nothing(mut client: Client) {
    let response = client.response();
    assert_eq!((response.status, response.text()), (204, ""));
    client.assert_closed();
}

fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

#[test]
fn an_end_closes_the_streams_that_were_there_for_the_group() {
    let setup = setup();
    let (mut one, mut both) = (setup.gateway.open("/a"), setup.gateway.open("/a,b"));
    one.frame();
    both.frame();
    let id = setup.send("a", "last", true);
    assert_eq!([one.frame(), both.frame()], [event(&id, "last"), event(&id, "last")]);
    one.assert_ended();
    setup.assert_disconnect("/a", "group_ended");
    assert_json(&setup.gateway.send(r#"{"group":"a","event":{"data":"x"}}"#), 410, r#"{"error":"Group has ended"}"#);
    assert_json(&setup.gateway.send(r#"{"group":"a"}"#), 410, r#"{"error":"Group has ended"}"#);
    let shown = setup.gateway.get("/internal/groups?group=a");
    assert_eq!(shown.text(), format!(r#"{{"group":"a","streams":1,"cursor":"{id}","ended":true}}"#));
    // Groups that have ended are passed over.
    let answer = setup.gateway.send(r#"{"groups":["a","b"],"event":{"data":"b"},"transient":true}"#);
    assert_json(&answer, 200, r#"{"status":"ok","reached":true}"#);
    assert_eq!(both.frame(), "data: b\n\n");
    assert_json(&setup.gateway.send(r#"{"group":"b","end":true}"#), 200, r#"{"status":"ok","reached":true}"#);
    both.assert_ended();
}

/// However little may be kept: it would never end otherwise, as nobody ends a group twice.
#[test]
fn an_end_that_exceeds_the_limit_of_history_by_itself_closes_the_streams_of_the_group() {
    let backend = by_path();
    let gateway = Gateway::for_backend(&backend).set("HISTORY_BYTES", 1).start();
    let mut stream = gateway.open("/a");
    stream.frame();
    let answer = gateway.send(r#"{"group":"a","event":{"data":"last"},"end":true}"#);
    let answer: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(stream.frame(), event(answer["id"].as_str().expect("an id"), "last"));
    stream.assert_ended();
    assert_json(&gateway.send(r#"{"group":"a"}"#), 410, r#"{"error":"Group has ended"}"#);
    // Only the newest is kept beyond the limit.
    assert_json(&gateway.send(r#"{"group":"b","end":true}"#), 200, r#"{"status":"ok","reached":false}"#);
    assert_json(&gateway.send(r#"{"group":"b"}"#), 410, r#"{"error":"Group has ended"}"#);
    assert_json(&gateway.send(r#"{"group":"a"}"#), 200, r#"{"status":"ok","reached":false}"#);
}

#[test]
fn who_comes_after_the_end_gets_the_rest_or_nothing() {
    let setup = setup();
    let (first, last) = (setup.send("a", "1", false), setup.send("a", "2", true));
    let mut stream = Stream::accept(setup.resume("/a", &first));
    assert_eq!(stream.frame(), event(&last, "2"));
    stream.assert_ended();
    setup.assert_disconnect("/a", "group_ended");
    assert_nothing(setup.resume("/a?x", &last));
    setup.assert_disconnect("/a?x", "group_ended");
    assert_nothing(Client::open(setup.gateway.port, get("/a?y")));
    setup.assert_disconnect("/a?y", "group_ended");
    // Another group lives.
    let mut stream = Stream::accept(setup.resume("/a,b", &last));
    let id = setup.send("b", "3", false);
    assert_eq!([stream.frame(), stream.frame()], [format!("id: {last}\n\n"), event(&id, "3")]);
}

#[test]
fn a_gap_is_told_behind_the_end_as_well_and_once() {
    let setup = setup();
    let id = setup.send("a", "1", true);
    let mut stream = Stream::accept(setup.resume("/a", "theirs"));
    assert_eq!(stream.frame(), format!("event: gap\nid: {}.0\ndata: \n\n", id.split_once('.').unwrap().0));
    assert_eq!(stream.frame(), event(&id, "1"));
    stream.assert_ended();
    assert_nothing(setup.resume("/a", &id));
}

#[test]
fn an_end_is_remembered_without_history() {
    let backend = by_path();
    let gateway = Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0).start();
    let mut stream = gateway.open("/a");
    let answer = gateway.send(r#"{"group":"a","event":{"data":"last"},"end":true}"#);
    assert_json(&answer, 200, r#"{"status":"ok","reached":true}"#);
    assert_eq!(stream.frame(), "data: last\n\n");
    stream.assert_ended();
    assert_nothing(Client::open(gateway.port, get("/a")));
}

#[test]
fn attaching_needs_something_that_is_there() {
    let setup = setup();
    for (target, url) in [("/a?attach", "/a?attach"), ("/?attach", "/?attach")] {
        assert_nothing(Client::open(setup.gateway.port, get(target)));
        setup.assert_disconnect(url, "nothing_to_attach");
    }
    let id = setup.send("a", "1", false);
    let mut kept = setup.gateway.open("/b,a?attach");
    assert_eq!(kept.frame(), format!("id: {id}\n\n"));
    let mut joined = setup.gateway.open("/b?attach");
    assert_eq!(joined.frame(), format!("id: {id}\n\n"));
}
