//! Groups: joining, sending, order, delivery and looking (docs/protocol.md, section 11).

mod common;

use common::{Answer, BUFFERED, Backend, Gate, Gateway, OK, Response, Stream, assert_json, post};
use serde_json::{Value, json};

/// A gateway without history, whose frames have no ids, and a backend that answers connects by their path.
struct Setup {
    backend: Backend,
    gateway: Gateway,
}

/// `/a,b` is in the groups `a` and `b`, `/` in none.
fn by_path() -> Backend {
    Backend::new(|call| {
        let groups: Vec<&str> = call.url()[1..].split(',').filter(|name| !name.is_empty()).collect();
        Answer::json(&json!({ "groups": groups }).to_string())
    })
}

fn setup() -> Setup {
    let backend = by_path();
    let gateway = Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0).start();
    Setup { backend, gateway }
}

impl Setup {
    fn open(&self, groups: &str) -> Stream {
        self.gateway.open(&format!("/{groups}"))
    }

    #[track_caller]
    fn send(&self, body: &Value) -> Response {
        self.gateway.send(&body.to_string())
    }

    /// Sends an event, which must reach somebody or nobody.
    #[track_caller]
    fn event(&self, target: Value, data: &str, reached: bool) {
        let mut body = target;
        body["event"] = json!({ "data": data });
        assert_json(&self.send(&body), 200, &format!(r#"{{"status":"ok","reached":{reached}}}"#));
    }

    fn change(&self, body: &Value) -> Response {
        self.gateway.request(post("/internal/groups", &body.to_string()))
    }
}

#[track_caller]
fn assert_refused(response: &Response, status: u16, error: &str) {
    assert_json(response, status, &json!({ "error": error }).to_string());
}

#[test]
fn a_group_send_reaches_its_members_and_nobody_else() {
    let setup = setup();
    let (mut one, mut two, mut other, mut none) = (setup.open("a"), setup.open("b,a"), setup.open("b"), setup.open(""));
    setup.event(json!({"group": "a"}), "to a", true);
    setup.event(json!({"group": "b"}), "to b", true);
    setup.event(json!({"group": "c"}), "to nobody", false);
    assert_eq!(one.event(), "data: to a\n\n");
    assert_eq!([two.event(), two.event()], ["data: to a\n\n", "data: to b\n\n"]);
    assert_eq!(other.event(), "data: to b\n\n");
    let token = setup.backend.connect("/").token().to_owned();
    setup.gateway.event(&token, "alone");
    assert_eq!(none.event(), "data: alone\n\n");
}

#[test]
fn a_send_to_several_groups_comes_once_to_each_stream() {
    let setup = setup();
    let (mut both, mut one) = (setup.open("a,b"), setup.open("b"));
    setup.event(json!({"groups": ["a", "b", "c", "a"]}), "1", true);
    setup.event(json!({"groups": ["c"]}), "2", false);
    setup.event(json!({"group": "b"}), "3", true);
    assert_eq!([both.event(), both.event()], ["data: 1\n\n", "data: 3\n\n"]);
    assert_eq!([one.event(), one.event()], ["data: 1\n\n", "data: 3\n\n"]);
}

#[test]
fn several_events_come_in_order_with_nothing_between() {
    let setup = setup();
    let mut stream = setup.open("a");
    let events = json!([{"data": "1"}, {"name": "n", "data": "2"}, {"data": "3", "retry": 7}]);
    assert_json(&setup.send(&json!({"group": "a", "events": events})), 200, r#"{"status":"ok","reached":true}"#);
    assert_eq!(stream.event(), "data: 1\n\n");
    assert_eq!(stream.event(), "event: n\ndata: 2\n\n");
    assert_eq!(stream.event(), "retry: 7\ndata: 3\n\n");
    let token = setup.backend.connect("/a").token().to_owned();
    assert_json(&setup.send(&json!({"token": token, "events": events})), 200, OK);
    assert_eq!(stream.event(), "data: 1\n\n");
    assert_eq!(stream.event(), "event: n\ndata: 2\n\n");
    assert_eq!(stream.event(), "retry: 7\ndata: 3\n\n");
}

#[test]
fn a_close_ends_the_members_streams_behind_the_event() {
    let setup = setup();
    let (mut one, mut two, mut other) = (setup.open("a"), setup.open("a,b"), setup.open("b"));
    let body = json!({"group": "a", "event": {"data": "bye"}, "close": true});
    assert_json(&setup.send(&body), 200, r#"{"status":"ok","reached":true}"#);
    assert_eq!((one.event(), two.event()), ("data: bye\n\n".into(), "data: bye\n\n".into()));
    one.assert_ended();
    two.assert_ended();
    for path in ["/a", "/a,b"] {
        let end = setup.backend.disconnect(setup.backend.connect(path).token());
        assert_eq!((end.reason(), end.detail()), ("server_closed", None));
    }
    setup.event(json!({"group": "a"}), "nobody is left", false);
    // Whoever comes back is in again.
    let mut again = setup.open("a");
    setup.event(json!({"group": "a"}), "again", true);
    assert_eq!(again.event(), "data: again\n\n");
    setup.event(json!({"group": "b"}), "b lives", true);
    assert_eq!(other.event(), "data: b lives\n\n");
}

#[test]
fn a_close_without_an_event_ends_several_groups() {
    let setup = setup();
    let (one, two) = (setup.open("a"), setup.open("b"));
    let body = json!({"groups": ["a", "b"], "close": true});
    assert_json(&setup.send(&body), 200, r#"{"status":"ok","reached":true}"#);
    one.assert_ended();
    two.assert_ended();
}

#[test]
fn a_target_alone_is_a_probe() {
    let setup = setup();
    let mut stream = setup.open("a");
    for (body, reached) in [
        (json!({"group": "a"}), true),
        (json!({"group": "a", "close": false, "transient": true}), true),
        (json!({"groups": ["b", "a"]}), true),
        (json!({"group": "b"}), false),
    ] {
        assert_json(&setup.send(&body), 200, &format!(r#"{{"status":"ok","reached":{reached}}}"#));
    }
    setup.event(json!({"group": "a"}), "1", true);
    assert_eq!(stream.event(), "data: 1\n\n");
}

#[test]
fn each_bad_send_gets_its_error() {
    let gateway = Gateway::start(&by_path());
    let names: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    let events: Vec<Value> = (0..1001).map(|_| json!({"data": ""})).collect();
    for (body, error) in [
        (json!({}), "token is required and must be a string"),
        (json!({"token": "t", "group": "a"}), "token, group and groups exclude each other"),
        (json!({"token": null, "groups": []}), "token, group and groups exclude each other"),
        (json!({"group": "a", "groups": ["a"]}), "token, group and groups exclude each other"),
        (json!({"group": null}), "group must be a name of 1 to 128 bytes"),
        (json!({"group": ""}), "group must be a name of 1 to 128 bytes"),
        (json!({"group": "a\u{7f}"}), "group must be a name of 1 to 128 bytes"),
        (json!({"group": "a\u{0}"}), "group must be a name of 1 to 128 bytes"),
        (json!({"group": "x".repeat(129)}), "group must be a name of 1 to 128 bytes"),
        (json!({"group": ["a"]}), "group must be a name of 1 to 128 bytes"),
        (json!({"groups": null}), "groups must be an array of 1 to 64 names"),
        (json!({"groups": "a"}), "groups must be an array of 1 to 64 names"),
        (json!({"groups": []}), "groups must be an array of 1 to 64 names"),
        (json!({"groups": ["a", ""]}), "groups must be an array of 1 to 64 names"),
        (json!({"groups": names}), "groups must be an array of 1 to 64 names"),
        (json!({"group": "", "event": 1}), "group must be a name of 1 to 128 bytes"),
        (json!({"group": "a", "event": {"data": ""}, "events": []}), "event and events exclude each other"),
        (json!({"group": "a", "events": null}), "events must be an array of 1 to 1000 events"),
        (json!({"group": "a", "events": {}}), "events must be an array of 1 to 1000 events"),
        (json!({"group": "a", "events": []}), "events must be an array of 1 to 1000 events"),
        (json!({"group": "a", "events": events}), "events must be an array of 1 to 1000 events"),
        (json!({"token": "t", "events": [{"data": ""}, 1]}), "events[1] must be an object"),
        (json!({"group": "a", "events": [{}]}), "events[0].data is required and must be a string"),
        (
            json!({"group": "a", "events": [{"data": ""}, {"data": ""}, {"data": "", "name": "a\nb"}]}),
            "events[2].name must not contain line breaks",
        ),
        (json!({"group": "a", "event": {"data": "", "id": "7"}}), "event.id is the gateway's in a group"),
        (
            json!({"groups": ["a"], "events": [{"data": ""}, {"data": "", "id": "7"}], "close": 1}),
            "events[1].id is the gateway's in a group",
        ),
        (json!({"group": "a", "close": null, "end": 1}), "close must be a boolean"),
        (json!({"group": "a", "transient": null, "end": 1}), "transient must be a boolean"),
        (json!({"group": "a", "end": null}), "end must be a boolean"),
        (json!({"group": "a", "end": "true"}), "end must be a boolean"),
        (json!({"token": "t", "transient": true}), "transient needs a group"),
        (json!({"token": "t", "end": true}), "end needs a group"),
        (json!({"groups": ["a"], "end": true}), "end needs a group"),
    ] {
        let response = gateway.send(&body.to_string());
        assert_json(&response, 400, &format!(r#"{{"error":"Invalid request: {error}"}}"#));
    }
    // What is no error.
    for body in [json!({"token": "t", "transient": false, "end": false}), json!({"token": "t", "event": {"data": ""}})]
    {
        assert_refused(&gateway.send(&body.to_string()), 404, "Token not found");
    }
    let longest = json!({"group": "x".repeat(128), "event": {"data": ""}, "transient": true});
    assert_json(&gateway.send(&longest.to_string()), 200, r#"{"status":"ok","reached":false}"#);
}

#[test]
fn ids_of_events_are_the_backends_where_there_is_no_history() {
    let setup = setup();
    let mut stream = setup.open("a");
    setup.send(&json!({"group": "a", "event": {"data": "x", "id": "7"}}));
    assert_eq!(stream.event(), "id: 7\ndata: x\n\n");
}

#[test]
fn bad_groups_of_an_answer_are_left_out() {
    let names: Vec<String> = (0..70).map(|n| format!("g{n}")).collect();
    let many = json!({ "groups": names }).to_string();
    let backend = Backend::new(move |call| {
        Answer::json(match call.url() {
            "/flawed" => r#"{"groups":["", 7, "a", "a", null, "b\n"]}"#,
            "/many" => &many,
            _ => r#"{"groups":"a"}"#,
        })
    });
    let gateway = Gateway::start(&backend);
    let (_flawed, _many, _none) = (gateway.open("/flawed"), gateway.open("/many"), gateway.open("/none"));
    let count = |name: &str| {
        let answer = gateway.get(&format!("/internal/groups?group={name}"));
        serde_json::from_str::<Value>(answer.text()).unwrap()["streams"].as_u64()
    };
    assert_eq!(["a", "g0", "g63", "g64"].map(count), [Some(1), Some(1), Some(1), Some(0)]);
    gateway.log_line(&["connect answer partly ignored", "at most 64 groups"]);
    gateway.log_line(&["connect answer partly ignored", "groups must be an array of names"]);
    gateway.log_line(&["connect answer partly ignored", "group must be a name"]);
}

#[test]
fn streams_join_and_leave_while_they_are_open() {
    let setup = setup();
    let mut stream = setup.open("a");
    let token = setup.backend.connect("/a").token().to_owned();
    let change = |join: &[&str], leave: &[&str]| setup.change(&json!({"token": token, "join": join, "leave": leave}));
    assert_json(&change(&["b", "b"], &["a"]), 200, OK);
    setup.event(json!({"group": "a"}), "not any more", false);
    setup.event(json!({"group": "b"}), "1", true);
    assert_eq!(stream.event(), "data: 1\n\n");
    // Leaving comes first.
    assert_json(&change(&["b"], &["b"]), 200, OK);
    setup.event(json!({"group": "b"}), "2", true);
    assert_eq!(stream.event(), "data: 2\n\n");
    assert_json(&setup.change(&json!({"token": token, "leave": ["b", "unknown"]})), 200, OK);
    setup.event(json!({"group": "b"}), "gone", false);
    assert_json(&setup.change(&json!({"token": token, "join": [], "leave": []})), 200, OK);
    assert_refused(&setup.change(&json!({"token": "nobody", "join": ["a"]})), 404, "Token not found");
}

#[test]
fn each_bad_change_of_groups_gets_its_error() {
    let setup = setup();
    let _stream = setup.open("a");
    let token = setup.backend.connect("/a").token().to_owned();
    let names = |count: usize| (0..count).map(|n| format!("g{n}")).collect::<Vec<_>>();
    for (body, error) in [
        (json!([]), "Invalid JSON"),
        (json!({"join": ["a"]}), "Invalid request: token is required and must be a string"),
        (json!({"token": token, "join": "a"}), "Invalid request: join must be an array of group names"),
        (json!({"token": token, "join": [""]}), "Invalid request: join must be an array of group names"),
        (json!({"token": token, "leave": [1]}), "Invalid request: leave must be an array of group names"),
        (json!({"token": token}), "Invalid request: join or leave is required"),
        (json!({"token": token, "join": null}), "Invalid request: join must be an array of group names"),
        (json!({"token": token, "join": names(65)}), "Invalid request: a stream can be in at most 64 groups"),
        (json!({"token": token, "join": names(64)}), "Invalid request: a stream can be in at most 64 groups"),
    ] {
        assert_json(&setup.change(&body), 400, &format!(r#"{{"error":"{error}"}}"#));
    }
    assert_json(&setup.change(&json!({"token": token, "join": names(64), "leave": ["a"]})), 200, OK);
    let put = setup.gateway.request("PUT /internal/groups HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, POST, OPTIONS")));
}

#[test]
fn a_change_while_the_backend_decides_waits_for_its_answer() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(r#"{"groups":["a"]}"#).after(&gate));
    let gateway = Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0).start();
    let client = common::Client::open(gateway.port, common::get("/x"));
    let token = backend.connect("/x").token().to_owned();
    let body = json!({"token": token, "join": ["b"], "leave": ["a"]}).to_string();
    assert_json(&gateway.request(post("/internal/groups", &body)), 200, BUFFERED);
    gate.open();
    let mut stream = Stream::accept(client);
    assert_json(&gateway.send(r#"{"group":"a","event":{"data":"1"}}"#), 200, r#"{"status":"ok","reached":false}"#);
    assert_json(&gateway.send(r#"{"group":"b","event":{"data":"2"}}"#), 200, r#"{"status":"ok","reached":true}"#);
    assert_eq!(stream.event(), "data: 2\n\n");
}

#[test]
fn sends_on_one_connection_keep_their_order() {
    let setup = setup();
    let mut streams: Vec<Stream> = (0..20).map(|_| setup.open("a,b")).collect();
    let token = setup.backend.connect("/a,b").token().to_owned();
    let mut batch = String::new();
    for n in 0..30 {
        let target = match n % 3 {
            0 => json!({"group": "a", "event": {"data": n.to_string()}}),
            1 => json!({"token": token, "event": {"data": n.to_string()}}),
            _ => json!({"group": "b", "event": {"data": n.to_string()}, "transient": true}),
        };
        batch.push_str(&common::send_request(&target.to_string()));
    }
    let mut client = setup.gateway.client();
    client.send(batch);
    for _ in 0..30 {
        assert_eq!(client.response().status, 200);
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        for n in (0..30).filter(|n| n % 3 != 1 || index == 0) {
            assert_eq!(stream.event(), format!("data: {n}\n\n"), "stream {index}");
        }
    }
}

#[test]
fn http_1_0_members_get_no_chunks() {
    let setup = setup();
    let client = common::Client::open(setup.gateway.port, "GET /a HTTP/1.0\r\n\r\n");
    let (mut old, mut new) = (Stream::accept(client), setup.open("a"));
    setup.event(json!({"group": "a"}), "x", true);
    assert_eq!(new.next_chunk().unwrap(), b"data: x\n\n");
    assert_eq!(old.event(), "data: x\n\n");
}

#[test]
fn groups_are_shown() {
    let backend = by_path();
    let gateway = Gateway::start(&backend);
    let shown = |name: &str| gateway.get(&format!("/internal/groups?group={name}")).text().to_owned();
    assert_eq!(shown("a%2Fb%20%C3%A9+"), r#"{"group":"a/b é+","streams":0,"cursor":null,"ended":false}"#);
    let _stream = gateway.open("/a,b");
    assert_eq!(shown("a"), r#"{"group":"a","streams":1,"cursor":null,"ended":false}"#);
    let answer: Value = serde_json::from_str(gateway.send(r#"{"group":"a","event":{"data":"x"}}"#).text()).unwrap();
    let id = answer["id"].as_str().unwrap();
    assert_eq!(shown("a"), format!(r#"{{"group":"a","streams":1,"cursor":"{id}","ended":false}}"#));
    gateway.send(r#"{"group":"a","event":{"data":"x"},"transient":true}"#);
    assert_eq!(shown("a"), format!(r#"{{"group":"a","streams":1,"cursor":"{id}","ended":false}}"#));
    for target in [
        "/internal/groups",
        "/internal/groups?group",
        "/internal/groups?group=",
        "/internal/groups?group=%00",
        "/internal/groups?x=a",
        "/internal/connections?group",
        "/internal/connections?group=",
    ] {
        assert_refused(&gateway.get(target), 400, "Invalid request: group must be a name of 1 to 128 bytes");
    }
    let long = format!("/internal/connections?group={}", "x".repeat(129));
    assert_refused(&gateway.get(&long), 400, "Invalid request: group must be a name of 1 to 128 bytes");
}

#[test]
fn the_members_of_a_group_are_listed() {
    let setup = setup();
    let _streams = [setup.open("a,b"), setup.open("b"), setup.open("")];
    let list = |query: &str| {
        let answer = setup.gateway.get(&format!("/internal/connections{query}"));
        serde_json::from_str::<Value>(answer.text()).unwrap()
    };
    let all = list("");
    assert_eq!(all["count"], 3);
    for entry in all["connections"].as_array().unwrap() {
        let groups = match entry["url"].as_str() {
            Some("/a,b") => json!(["a", "b"]),
            Some("/b") => json!(["b"]),
            _ => Value::Null,
        };
        assert_eq!(entry["groups"], groups, "{entry}");
    }
    let a = list("?group=a");
    assert_eq!((&a["count"], a["connections"].as_array().unwrap().len()), (&json!(1), 1));
    assert_eq!(list("?group=b&limit=1")["count"], 2);
    assert_eq!(list("?group=c")["count"], 0);
}

#[test]
fn groups_are_guarded_as_tokens_are() {
    let backend = by_path();
    let gateway = Gateway::start(&backend);
    let forwarded = |method: &str, target: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n");
        gateway.request(request)
    };
    let guarded = "Set INTERNAL_PORT or INTERNAL_TOKEN to list tokens from another host";
    assert_refused(&forwarded("GET", "/internal/groups?group=a"), 403, guarded);
    assert_eq!(forwarded("GET", "/internal/cursor").status, 200);
    assert_json(&forwarded("POST", "/internal/groups"), 400, r#"{"error":"Invalid JSON"}"#);
}
