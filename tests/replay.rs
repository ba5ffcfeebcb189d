//! Replay: what a client has missed comes when it is back, exactly once, or it is told of a gap (docs/protocol.md,
//! section 12).

mod common;

use common::{Answer, Backend, Builder, Client, Gate, Gateway, Stream, get};
use serde_json::{Value, json};

/// Answers a connect to `/a,b?...` with the groups `a` and `b`; the query may give `since=` something.
fn by_path() -> Backend {
    Backend::new(|call| {
        let (path, query) = call.url().split_once('?').unwrap_or((call.url(), ""));
        let groups: Vec<&str> = path[1..].split(',').filter(|name| !name.is_empty()).collect();
        let mut answer = json!({ "groups": groups });
        for (name, value) in query.split('&').filter_map(|field| field.split_once('=')) {
            match name {
                "since" => answer["since"] = json!(value),
                "event" => answer["event"] = json!({ "data": value, "id": "theirs" }),
                "close" => answer["close"] = json!(true),
                _ => {}
            }
        }
        Answer::json(&answer.to_string())
    })
}

struct Setup {
    backend: Backend,
    gateway: Gateway,
}

fn setup_with(variables: impl FnOnce(Builder) -> Builder) -> Setup {
    let backend = by_path();
    let gateway = variables(Gateway::for_backend(&backend)).start();
    Setup { backend, gateway }
}

fn setup() -> Setup {
    setup_with(|gateway| gateway)
}

impl Setup {
    /// Sends an event to a group; its id.
    #[track_caller]
    fn send(&self, group: &str, data: &str) -> String {
        let answer = self.gateway.send(&json!({"group": group, "event": {"data": data}}).to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer: Value = serde_json::from_str(answer.text()).unwrap();
        answer["id"].as_str().expect("an id").to_owned()
    }

    fn cursor(&self) -> String {
        let answer: Value = serde_json::from_str(self.gateway.get("/internal/cursor").text()).unwrap();
        answer["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// Comes back with a last event id.
    fn resume(&self, target: &str, id: &str) -> Stream {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nLast-Event-ID: {id}\r\n\r\n");
        Stream::accept(Client::open(self.gateway.port, request))
    }
}

/// A frame of an event that a group has kept.
fn event(id: &str, data: &str) -> String {
    format!("id: {id}\ndata: {data}\n\n")
}

fn gap(id: &str) -> String {
    format!("event: gap\nid: {id}\ndata: \n\n")
}

/// The id of a frame that is nothing but one.
#[track_caller]
fn bare_id(frame: &str) -> String {
    frame.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\n\n")).expect("an id alone").to_owned()
}

#[test]
fn the_first_block_has_the_streams_own_position() {
    let setup = setup();
    let mut stream = setup.gateway.open("/a");
    assert_eq!(bare_id(&stream.frame()), setup.cursor());
    let id = setup.send("a", "1");
    assert!(
        id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.')
    );
    assert_eq!(stream.frame(), event(&id, "1"));
    assert_eq!(setup.cursor(), id);
    // The answer's event comes first, and has the position in place of an id of its own.
    let mut other = setup.gateway.open("/a?event=hello");
    assert_eq!(other.frame(), event(&id, "hello"));
    setup.gateway.log_line(&["event.id is left out"]);
}

#[test]
fn a_retry_that_comes_first_has_the_position() {
    let setup = setup_with(|gateway| gateway.set("RECONNECT_DELAY_MILLISECONDS", 0));
    let mut stream = setup.gateway.open("/a?event=hello");
    assert_eq!(stream.frame(), format!("id: {}\nretry: 0\n\n", setup.cursor()));
    assert_eq!(stream.frame(), "data: hello\n\n");
}

#[test]
fn what_was_sent_meanwhile_comes_when_the_client_is_back() {
    let setup = setup();
    let mut stream = setup.gateway.open("/a,b");
    stream.frame();
    let first = setup.send("a", "1");
    assert_eq!(stream.frame(), event(&first, "1"));
    drop(stream);
    let missed = [setup.send("b", "2"), setup.send("other", "not for it"), setup.send("a", "3")];
    let mut stream = setup.resume("/a,b", &first);
    assert_eq!(stream.frame(), event(&missed[0], "2"));
    assert_eq!(stream.frame(), event(&missed[2], "3"));
    let live = setup.send("b", "4");
    assert_eq!(stream.frame(), event(&live, "4"));
    // Nothing is missed by one that has everything.
    let mut stream = setup.resume("/a,b", &live);
    assert_eq!(stream.frame(), format!("id: {live}\n\n"));
    let id = setup.send("a", "5");
    assert_eq!(stream.frame(), event(&id, "5"));
}

#[test]
fn the_cursor_is_taken_from_the_header_then_the_url_then_the_answer() {
    let setup = setup();
    let ids: Vec<String> = (1..=4).map(|n| setup.send("a", &n.to_string())).collect();
    let target = |url: usize, since: usize| format!("/a?last_event_id={}&since={}", ids[url], ids[since]);
    assert_eq!(setup.resume(&target(1, 0), &ids[2]).frame(), event(&ids[3], "4"));
    assert_eq!(setup.resume(&target(1, 0), "").frame(), event(&ids[2], "3"));
    assert_eq!(setup.gateway.open(&target(1, 0)).frame(), event(&ids[2], "3"));
    assert_eq!(setup.gateway.open(&format!("/a?last_event_id=&since={}", ids[0])).frame(), event(&ids[1], "2"));
    assert_eq!(setup.gateway.open("/a?since=start").frame(), event(&ids[0], "1"));
    assert_eq!(setup.gateway.open("/a?since=").frame(), format!("id: {}\n\n", ids[3]));
    let encoded = ids[1].replace('.', "%2E");
    assert_eq!(setup.gateway.open(&format!("/a?last_event_id={encoded}")).frame(), event(&ids[2], "3"));
}

#[test]
fn what_is_sent_while_the_backend_decides_is_not_lost() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(r#"{"groups":["a"],"event":{"data":"first"}}"#).after(&gate));
    let setup = Setup { gateway: Gateway::start(&backend), backend };
    let before = setup.send("a", "before");
    let client = Client::open(setup.gateway.port, get("/x"));
    let token = setup.backend.connect("/x").token().to_owned();
    let kept = setup.send("a", "kept");
    let body = json!({"token": token, "event": {"data": "held", "id": "7"}}).to_string();
    assert_eq!(setup.gateway.send(&body).text(), common::BUFFERED);
    let kept_too = setup.send("a", "kept, too");
    gate.open();
    let mut stream = Stream::accept(client);
    assert_eq!(stream.frame(), event(&before, "first"));
    assert_eq!(stream.frame(), event(&kept, "kept"));
    assert_eq!(stream.frame(), event(&kept_too, "kept, too"));
    assert_eq!(stream.frame(), "data: held\n\n");
    let id = setup.send("a", "live");
    assert_eq!(stream.frame(), event(&id, "live"));
}

#[test]
fn an_event_that_was_held_can_come_first() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(r#"{"groups":["a"]}"#).after(&gate));
    let setup = Setup { gateway: Gateway::start(&backend), backend };
    let client = Client::open(setup.gateway.port, get("/x"));
    let token = setup.backend.connect("/x").token().to_owned();
    for data in ["1", "2"] {
        let body = json!({"token": token, "event": {"name": "n", "data": data, "id": "7"}}).to_string();
        assert_eq!(setup.gateway.send(&body).status, 200);
    }
    gate.open();
    let mut stream = Stream::accept(client);
    assert_eq!(stream.frame(), format!("event: n\nid: {}\ndata: 1\n\n", setup.cursor()));
    assert_eq!(stream.frame(), "event: n\ndata: 2\n\n");
}

#[test]
fn heartbeats_move_the_position_on() {
    let setup = setup_with(|gateway| gateway.set("HEARTBEAT_INTERVAL_SECONDS", 1));
    let mut stream = setup.gateway.open("/a");
    let first = bare_id(&stream.frame());
    assert_eq!(stream.frame(), format!(": heartbeat\nid: {first}\n\n"));
    let elsewhere = setup.send("other", "not for it");
    assert_eq!(stream.frame(), format!(": heartbeat\nid: {elsewhere}\n\n"));
    // Streams in no group, and those that joined theirs later, are as ever.
    let mut plain = setup.gateway.open("/");
    let token = setup.backend.connect("/").token().to_owned();
    let join = json!({"token": token, "join": ["a"]}).to_string();
    assert_eq!(setup.gateway.request(common::post("/internal/groups", &join)).status, 200);
    assert_eq!(plain.frame(), common::HEARTBEAT);
    setup.send("a", "1");
    assert_eq!(plain.event(), "data: 1\n\n");
}

#[test]
fn a_cursor_that_is_not_ours_gets_a_gap_and_all_that_is_kept() {
    let setup = setup();
    let first = setup.send("a", "1");
    let second = setup.send("b", "2");
    let (epoch, _) = first.split_once('.').unwrap();
    for id in ["42", "theirs.1", &format!("{epoch}.zzzz"), &format!("0{first}"), "\u{fc}"] {
        let mut stream = setup.resume("/a", id);
        assert_eq!(stream.frame(), gap(&format!("{epoch}.0")), "{id}");
        assert_eq!(stream.frame(), event(&first, "1"));
    }
    // Nothing is kept of this one: whoever has seen the gap has everything.
    // Whoever leaves before it has not, and returns with the cursor that it had.
    let mut stream = setup.resume("/c?event=hello", "42");
    assert_eq!([stream.frame(), stream.frame()], ["data: hello\n\n".to_owned(), gap(&second)]);
    let mut stream = setup.resume("/c", &second);
    assert_eq!(stream.frame(), format!("id: {second}\n\n"));
}

#[test]
fn a_restart_is_a_gap() {
    let setup = setup();
    let id = setup.send("a", "1");
    let again = Gateway::start(&setup.backend);
    let setup = Setup { backend: setup.backend, gateway: again };
    let mut stream = setup.resume("/a", &id);
    assert_eq!(stream.frame(), gap(&setup.cursor()));
}

#[test]
fn a_gap_is_for_those_who_miss_something_and_for_nobody_else() {
    let setup = setup_with(|gateway| gateway.set("HISTORY_EVENTS", 2));
    let start = setup.cursor();
    let other = setup.send("b", "other");
    let ids: Vec<String> = (1..=4).map(|n| setup.send("a", &n.to_string())).collect();
    // 1 and 2 are gone.
    for id in [&start, &other, &ids[0]] {
        let mut stream = setup.resume("/a", id);
        assert_eq!(stream.frame(), gap(id));
        assert_eq!([stream.frame(), stream.frame()], [event(&ids[2], "3"), event(&ids[3], "4")]);
    }
    assert_eq!(setup.resume("/a", &ids[1]).frame(), event(&ids[2], "3"));
    assert_eq!(setup.resume("/b", &start).frame(), event(&other, "other"));
    let mut stream = setup.gateway.open("/a?since=start");
    assert_eq!(stream.frame(), gap(&format!("{}.0", start.split_once('.').unwrap().0)));
    assert_eq!(stream.frame(), event(&ids[2], "3"));
    // Nothing is known of this one.
    assert_eq!(setup.gateway.open("/c?since=start").frame(), format!("id: {}\n\n", ids[3]));
}

#[test]
fn space_is_shared_and_the_oldest_events_go_first() {
    let setup = setup_with(|gateway| gateway.set("HISTORY_BYTES", 10_000));
    let start = setup.cursor();
    let old = setup.send("old", "x");
    let mut newest = String::new();
    for _ in 0..20 {
        newest = setup.send("a", &"x".repeat(1000));
    }
    assert_eq!(setup.resume("/old", &start).frame(), gap(&newest));
    assert_eq!(setup.resume("/old", &old).frame(), format!("id: {newest}\n\n"));
    assert_eq!(setup.resume("/a", &newest).frame(), format!("id: {newest}\n\n"));
    assert_eq!(setup.resume("/a", &old).frame(), gap(&old));
}

#[test]
fn events_grow_old_behind_the_last_one_of_their_group() {
    let setup = setup_with(|gateway| gateway.set("HISTORY_SECONDS", 1));
    let start = setup.cursor();
    let id = setup.send("a", "1");
    common::eventually("the event is gone", || {
        setup.gateway.get("/internal/groups?group=a").text().contains(r#""cursor":null"#)
    });
    assert_eq!(setup.resume("/a", &start).frame(), gap(&id));
    assert_eq!(setup.resume("/a", &id).frame(), format!("id: {id}\n\n"));
}

#[test]
fn transient_events_are_not_kept() {
    let setup = setup();
    let mut stream = setup.gateway.open("/a");
    let start = bare_id(&stream.frame());
    let answer = setup.gateway.send(r#"{"group":"a","event":{"data":"typing"},"transient":true}"#);
    assert_eq!(answer.text(), r#"{"status":"ok","reached":true}"#);
    assert_eq!(stream.frame(), "data: typing\n\n");
    let id = setup.send("a", "1");
    assert_eq!(stream.frame(), event(&id, "1"));
    assert_eq!(setup.resume("/a", &start).frame(), event(&id, "1"));
}

#[test]
fn without_history_there_are_no_cursors() {
    let setup = setup_with(|gateway| gateway.set("HISTORY_SECONDS", 0).set("HEARTBEAT_INTERVAL_SECONDS", 1));
    assert_eq!(setup.gateway.get("/internal/cursor").text(), r#"{"cursor":null}"#);
    setup.gateway.send(r#"{"group":"a","event":{"data":"gone"}}"#);
    let mut stream = setup.resume("/a?event=hello&since=start", "42");
    assert_eq!(stream.frame(), "id: theirs\ndata: hello\n\n");
    assert_eq!(stream.frame(), common::HEARTBEAT);
    let answer = setup.gateway.send(r#"{"group":"a","event":{"data":"1"}}"#);
    assert_eq!(answer.text(), r#"{"status":"ok","reached":true}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
}

#[test]
fn an_id_of_a_token_send_is_left_out_where_ids_are_cursors() {
    let setup = setup();
    let mut stream = setup.gateway.open("/a");
    stream.frame();
    let token = setup.backend.connect("/a").token().to_owned();
    let body = json!({"token": token, "events": [{"data": "1", "id": "7"}, {"data": "2", "id": ""}]});
    assert_eq!(setup.gateway.send(&body.to_string()).text(), common::OK);
    assert_eq!([stream.frame(), stream.frame()], ["data: 1\n\n", "data: 2\n\n"]);
    setup.gateway.log_line(&["event.id is left out"]);
}

#[test]
fn a_close_in_the_answer_comes_behind_the_replay() {
    let setup = setup();
    let ids = [setup.send("a", "1"), setup.send("a", "2")];
    let mut stream = setup.gateway.open("/a?since=start&close=1");
    assert_eq!([stream.frame(), stream.frame()], [event(&ids[0], "1"), event(&ids[1], "2")]);
    stream.assert_ended();
}

#[test]
fn slow_members_read_on_from_what_is_kept() {
    const EVENTS: usize = 60;
    let setup = setup_with(|gateway| gateway.set("MAX_PENDING_BYTES", 100));
    let mut slow = setup.gateway.open("/a");
    let mut quick = setup.gateway.open("/a");
    slow.client.take_little();
    slow.frame();
    quick.frame();
    let data = "x".repeat(20_000);
    let ids: Vec<String> = (0..EVENTS)
        .map(|n| {
            let id = setup.send("a", &format!("{n} {data}"));
            assert_eq!(quick.frame(), event(&id, &format!("{n} {data}")));
            id
        })
        .collect();
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(slow.frame(), event(id, &format!("{n} {data}")));
    }
    let id = setup.send("a", "live");
    assert_eq!(slow.frame(), event(&id, "live"));
}

#[test]
fn a_member_behind_the_end_of_what_is_kept_is_cut_and_told_of_the_gap() {
    let setup = setup_with(|gateway| gateway.set("HISTORY_BYTES", 200_000));
    let mut slow = setup.gateway.open("/a");
    slow.client.take_little();
    slow.frame();
    let data = "x".repeat(20_000);
    for n in 0..100 {
        setup.send("a", &format!("{n} {data}"));
    }
    let finish = slow.finish();
    assert!(!finish.clean);
    let end = setup.backend.disconnect(setup.backend.connect("/a").token());
    assert_eq!((end.reason(), end.detail()), ("error", Some("slow_consumer")));
    let last = finish.text.rmatch_indices("id: ").find_map(|(at, _)| {
        let line = finish.text[at + 4..].split_once('\n')?.0;
        finish.text[at..].contains("\n\n").then(|| line.to_owned())
    });
    let last = last.expect("it had an event");
    assert_eq!(setup.resume("/a", &last).frame(), gap(&last));
}
