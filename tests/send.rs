//! `POST /internal/send`: every row of its table, with the exact bytes of the answers (contract, section 4).

mod common;

use common::{
    Answer, BUFFERED, Backend, Client, Gate, Gateway, OK, Stream, assert_error, assert_json, get, post, send_request,
};

const NOT_FOUND: &str = r#"{"error":"Token not found"}"#;
const INVALID_JSON: &str = r#"{"error":"Invalid JSON"}"#;
const TOKEN: &str = r#"{"error":"Invalid request: token is required and must be a string"}"#;
const EVENT: &str = r#"{"error":"Invalid request: event must be an object"}"#;
const DATA: &str = r#"{"error":"Invalid request: event.data is required and must be a string"}"#;
const NAME: &str = r#"{"error":"Invalid request: event.name must be a string"}"#;
const NAME_BREAK: &str = r#"{"error":"Invalid request: event.name must not contain line breaks"}"#;
const ID_BREAK: &str = r#"{"error":"Invalid request: event.id must not contain line breaks"}"#;
const ID: &str = r#"{"error":"Invalid request: event.id must be a string"}"#;
const ID_CONTROL: &str = r#"{"error":"Invalid request: event.id must not contain control characters"}"#;
const RETRY: &str = r#"{"error":"Invalid request: event.retry must be a non-negative integer"}"#;
const CLOSE: &str = r#"{"error":"Invalid request: close must be a boolean"}"#;

/// A gateway with one open stream.
struct Opened {
    _backend: Backend,
    gateway: Gateway,
    stream: Stream,
    token: String,
}

fn opened() -> Opened {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (stream, token) = gateway.open_with(&backend, "/x");
    Opened { _backend: backend, gateway, stream, token }
}

impl Opened {
    /// Sends a body in which `$T` stands for the token.
    fn send(&self, body: &str) -> common::Response {
        self.gateway.send(&body.replace("$T", &self.token))
    }

    /// Asserts that each of these is refused with this error, and that the stream is unaffected.
    #[track_caller]
    fn assert_refused(&mut self, answer: &str, bodies: &[&str]) {
        for body in bodies {
            let response = self.send(body);
            assert_eq!(response.text(), answer, "{body}");
            assert_json(&response, 400, answer);
        }
        self.assert_next_is_live();
    }

    /// Asserts that nothing has been written to the stream.
    #[track_caller]
    fn assert_next_is_live(&mut self) {
        assert_eq!(self.send(r#"{"token":"$T","event":{"data":"live"}}"#).status, 200);
        assert_eq!(self.stream.event(), "data: live\n\n");
    }
}

/// A send with these header lines and these raw bytes as body.
fn raw_send(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[test]
fn a_delivered_event_is_ok() {
    let mut opened = opened();
    let response = opened.send(r#"{"token":"$T","event":{"name":"greeting","data":"hello"}}"#);
    assert_json(&response, 200, OK);
    assert_eq!(opened.stream.frame(), "event: greeting\ndata: hello\n\n");
}

#[test]
fn unknown_fields_are_ignored() {
    let mut opened = opened();
    let body = r#"{"extra":{"deep":[1,{}]},"event":{"data":"x","more":null},"token":"$T","Close":true,"x":"\ud800"}"#;
    assert_json(&opened.send(body), 200, OK);
    assert_eq!(opened.stream.frame(), "data: x\n\n");
    opened.assert_next_is_live();
}

#[test]
fn later_duplicates_win() {
    let mut opened = opened();
    let body = r#"{"token":5,"token":"$T","event":null,"event":{"data":1,"data":"b","name":"a","name":"b"},"close":1,"close":false}"#;
    assert_json(&opened.send(body), 200, OK);
    assert_eq!(opened.stream.frame(), "event: b\ndata: b\n\n");
    assert_json(&opened.send(r#"{"token":"$T","token":"other"}"#), 404, NOT_FOUND);
    assert_json(&opened.send(r#"{"token":"$T","event":{"data":"x"},"event":null}"#), 400, EVENT);
    opened.assert_next_is_live();
}

#[test]
fn escapes_in_keys_and_tokens_are_read() {
    let mut opened = opened();
    let escaped: String = opened.token.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let response = opened.send(&format!(r#"{{"\u0074oken":"{escaped}","event":{{"d\u0061ta":"x"}}}}"#));
    assert_json(&response, 200, OK);
    assert_eq!(opened.stream.frame(), "data: x\n\n");
}

#[test]
fn a_trailing_slash_changes_nothing() {
    let opened = opened();
    let body = format!(r#"{{"token":"{}"}}"#, opened.token);
    assert_json(&opened.gateway.request(post("/internal/send/", &body)), 200, OK);
    for target in ["/internal/connections/", "/internal/metrics/?x=y"] {
        assert_eq!(opened.gateway.get(target).status, 200, "{target}");
    }
}

#[test]
fn a_token_alone_is_a_probe() {
    let mut opened = opened();
    for body in [r#"{"token":"$T"}"#, r#"{"token":"$T","close":false}"#, " \r\n\t{ \"token\" : \"$T\" }\n"] {
        assert_json(&opened.send(body), 200, OK);
    }
    opened.assert_next_is_live();
}

#[test]
fn a_body_that_is_not_a_json_object_is_refused() {
    opened().assert_refused(
        INVALID_JSON,
        &[
            "",
            " ",
            "{",
            "[]",
            "null",
            "5",
            "\"$T\"",
            "true",
            r#"{"token":"$T"}x"#,
            r#"{"token":"$T",}"#,
            r#"{'token':'$T'}"#,
            r#"{"token":"$T"}{"token":"$T"}"#,
            r#"{"token":"$T","event":{"data":"x"}"#,
            r#"{"token":"$T","x":01}"#,
            r#"{"token":"$T","x":"\x41"}"#,
            r#"[{"token":"$T"}]"#,
            "{\"token\":\"$T\",\"event\":{\"data\":\"a\nb\"}}",
        ],
    );
}

#[test]
fn a_token_must_be_a_string_and_not_empty() {
    let bodies =
        ["{}", r#"{"token":""}"#, r#"{"token":null}"#, r#"{"token":5}"#, r#"{"token":["$T"]}"#, r#"{"Token":"$T"}"#];
    opened().assert_refused(TOKEN, &bodies);
}

#[test]
fn an_event_must_be_an_object() {
    for event in ["null", "5", "\"x\"", "[]", "true"] {
        opened().assert_refused(EVENT, &[&format!(r#"{{"token":"$T","event":{event}}}"#)]);
    }
}

#[test]
fn event_data_must_be_a_string() {
    opened().assert_refused(
        DATA,
        &[
            r#"{"token":"$T","event":{}}"#,
            r#"{"token":"$T","event":{"name":"n"}}"#,
            r#"{"token":"$T","event":{"data":null}}"#,
            r#"{"token":"$T","event":{"data":5}}"#,
            r#"{"token":"$T","event":{"data":{"a":1}}}"#,
        ],
    );
}

#[test]
fn event_name_must_be_a_string_without_line_breaks() {
    let mut opened = opened();
    for name in ["null", "5", "{}", "false"] {
        opened.assert_refused(NAME, &[&format!(r#"{{"token":"$T","event":{{"data":"x","name":{name}}}}}"#)]);
    }
    for name in ["a\\rb", "a\\nb", "\\n", "\\u0000", "a\\u000ddata: injected"] {
        opened.assert_refused(NAME_BREAK, &[&format!(r#"{{"token":"$T","event":{{"data":"x","name":"{name}"}}}}"#)]);
    }
}

#[test]
fn event_id_must_be_a_string_or_an_integer_without_control_characters() {
    let mut opened = opened();
    for id in ["0.5", "1e3", "true", "{}"] {
        opened.assert_refused(ID, &[&format!(r#"{{"token":"$T","event":{{"data":"x","id":{id}}}}}"#)]);
    }
    for id in ["\\u0001", "a\\tb", "\u{7f}"] {
        opened.assert_refused(ID_CONTROL, &[&format!(r#"{{"token":"$T","event":{{"data":"x","id":"{id}"}}}}"#)]);
    }
    for id in ["0", "-7", "123456789012345678901234567890"] {
        assert_json(&opened.send(&format!(r#"{{"token":"$T","event":{{"data":"x","id":{id}}}}}"#)), 200, OK);
        assert_eq!(opened.stream.frame(), format!("id: {id}\ndata: x\n\n"));
    }
    for id in ["a\\rb", "a\\nb", "\\u0000"] {
        opened.assert_refused(ID_BREAK, &[&format!(r#"{{"token":"$T","event":{{"data":"x","id":"{id}"}}}}"#)]);
    }
}

#[test]
fn event_retry_must_be_an_integer_in_its_range() {
    let mut opened = opened();
    for retry in ["-1", "1.5", "\"5\"", "2147483648", "99999999999999999999999", "true", "[]"] {
        opened.assert_refused(RETRY, &[&format!(r#"{{"token":"$T","event":{{"data":"x","retry":{retry}}}}}"#)]);
    }
    for retry in ["0", "2147483647"] {
        assert_json(&opened.send(&format!(r#"{{"token":"$T","event":{{"data":"x","retry":{retry}}}}}"#)), 200, OK);
        assert_eq!(opened.stream.frame(), format!("retry: {retry}\ndata: x\n\n"));
    }
}

#[test]
fn a_null_id_or_retry_is_absent() {
    let mut opened = opened();
    assert_json(&opened.send(r#"{"token":"$T","event":{"data":"x","id":null,"retry":null}}"#), 200, OK);
    assert_eq!(opened.stream.frame(), "data: x\n\n");
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let mut opened = opened();
    assert_json(&opened.send("\u{feff}{\"token\":\"$T\",\"event\":{\"data\":\"x\"}}"), 200, OK);
    assert_eq!(opened.stream.frame(), "data: x\n\n");
}

#[test]
fn close_must_be_a_boolean() {
    for close in ["null", "1", "0", "\"true\"", "{}"] {
        opened().assert_refused(CLOSE, &[&format!(r#"{{"token":"$T","event":{{"data":"x"}},"close":{close}}}"#)]);
    }
}

#[test]
fn the_first_broken_rule_of_the_table_is_named() {
    let mut opened = opened();
    opened.assert_refused(TOKEN, &[r#"{"close":1,"event":null}"#, r#"{"event":{"data":5},"token":""}"#]);
    opened.assert_refused(EVENT, &[r#"{"close":1,"event":null,"token":"$T"}"#]);
    opened.assert_refused(DATA, &[r#"{"token":"$T","close":1,"event":{"name":5,"id":5,"retry":-1}}"#]);
    opened.assert_refused(NAME, &[r#"{"token":"$T","close":1,"event":{"name":5,"data":"x","id":"\n","retry":-1}}"#]);
    opened.assert_refused(NAME_BREAK, &[r#"{"token":"$T","close":1,"event":{"retry":-1,"name":"\n","data":"x"}}"#]);
    opened.assert_refused(ID_BREAK, &[r#"{"token":"$T","close":1,"event":{"retry":-1,"id":"\r","data":"x"}}"#]);
    opened.assert_refused(RETRY, &[r#"{"token":"$T","close":1,"event":{"retry":-1,"data":"x"}}"#]);
    // The token is looked up last.
    opened.assert_refused(CLOSE, &[r#"{"token":"unknown","close":1}"#]);
    opened.assert_refused(EVENT, &[r#"{"token":"unknown","event":null}"#]);
}

#[test]
fn an_unknown_token_is_not_found() {
    let mut opened = opened();
    for token in ["unknown", "00000000-0000-4000-8000-000000000000", "\\u0000", "\u{e9}", " $T", "$T "] {
        assert_json(&opened.send(&format!(r#"{{"token":"{token}","event":{{"data":"x"}}}}"#)), 404, NOT_FOUND);
    }
    let upper = opened.token.to_uppercase();
    let plain = opened.token.replace('-', "");
    for token in [upper, plain, format!("{{{}}}", opened.token), format!("urn:uuid:{}", opened.token)] {
        assert_json(&opened.send(&format!(r#"{{"token":"{token}"}}"#)), 404, NOT_FOUND);
    }
    let long = "a".repeat(100_000);
    assert_json(&opened.send(&format!(r#"{{"token":"{long}"}}"#)), 404, NOT_FOUND);
    opened.assert_next_is_live();
}

#[test]
fn any_content_type_is_read_as_json() {
    let mut opened = opened();
    let body = format!(r#"{{"token":"{}","event":{{"data":"x"}}}}"#, opened.token);
    for fields in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json; charset=utf-8\r\n",
        "Content-Type: application/json;charset=UTF-8\r\n",
        "Content-Type: application/json; charset=\"utf-8\"\r\n",
        "Content-Type: application/json; Charset=Utf-8\r\n",
    ] {
        assert_json(&opened.gateway.request(raw_send(fields, body.as_bytes())), 200, OK);
        assert_eq!(opened.stream.frame(), "data: x\n\n", "{fields}");
    }
}

#[test]
fn another_charset_or_a_coding_is_refused() {
    let mut opened = opened();
    let body = format!(r#"{{"token":"{}","event":{{"data":"x"}}}}"#, opened.token);
    for fields in [
        "Content-Type: application/json; charset=iso-8859-1\r\n",
        "Content-Type: text/plain;charset=\"utf-16\"\r\n",
        "Content-Encoding: gzip\r\n",
        "Content-Encoding: br\r\n",
    ] {
        let mut client = Client::open(opened.gateway.port, raw_send(fields, body.as_bytes()));
        assert_error(&client.response(), 415);
        client.assert_open();
    }
    opened.assert_next_is_live();
}

#[test]
fn invalid_utf_8_becomes_the_replacement_character() {
    let mut opened = opened();
    for (bytes, text) in [
        (&b"a\xffb"[..], "a\u{fffd}b"),
        (b"\xc3", "\u{fffd}"),
        (b"\xe2\x82!", "\u{fffd}!"),
        (b"\xed\xa0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
        (b"\xf0\x9f\x98\x80", "\u{1f600}"),
    ] {
        let body = [format!(r#"{{"token":"{}","event":{{"data":""#, opened.token).as_bytes(), bytes, b"\"}}"].concat();
        assert_json(&opened.gateway.request(raw_send("", &body)), 200, OK);
        assert_eq!(opened.stream.frame(), format!("data: {text}\n\n"));
    }
}

#[test]
fn lone_surrogates_become_the_replacement_character() {
    let mut opened = opened();
    for (escape, text) in [
        (r"\ud800", "\u{fffd}"),
        (r"\udc00x", "\u{fffd}x"),
        (r"\ud800\ud800", "\u{fffd}\u{fffd}"),
        (r"\ud83d\ude00", "\u{1f600}"),
        (r"\ud800\u0041", "\u{fffd}A"),
        (r"\uD83Dx\uDE00", "\u{fffd}x\u{fffd}"),
    ] {
        assert_json(&opened.send(&format!(r#"{{"token":"$T","event":{{"data":"{escape}"}}}}"#)), 200, OK);
        assert_eq!(opened.stream.frame(), format!("data: {text}\n\n"), "{escape}");
    }
}

#[test]
fn deep_nesting_is_survived() {
    let mut opened = opened();
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let status = opened.send(&format!(r#"{{"token":"$T","x":{deep}}}"#)).status;
    assert!(matches!(status, 200 | 400), "{status}");
    assert_eq!(opened.send(&"{\"token\":".repeat(100_000)).status, 400);
    opened.assert_next_is_live();
}

#[test]
fn an_event_with_close_is_the_last_one() {
    let opened = opened();
    assert_json(&opened.send(r#"{"close":true,"token":"$T","event":{"data":"bye"}}"#), 200, OK);
    assert_json(&opened.send(r#"{"token":"$T"}"#), 404, NOT_FOUND);
    assert_json(&opened.send(r#"{"token":"$T","close":true}"#), 404, NOT_FOUND);
    let finish = opened.stream.finish();
    assert_eq!((finish.text.as_str(), finish.clean), ("data: bye\n\n", true));
}

#[test]
fn a_stream_whose_client_left_is_not_found() {
    let Opened { _backend, gateway, stream, token } = opened();
    drop(stream);
    _backend.disconnect(&token);
    assert_json(&gateway.event(&token, "x"), 404, NOT_FOUND);
}

#[test]
fn pipelined_sends_are_answered_in_order() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let (mut one, first) = gateway.open_with(&backend, "/one");
    let (mut two, second) = gateway.open_with(&backend, "/two");
    let event =
        |token: &str, data: usize| send_request(&format!(r#"{{"token":"{token}","event":{{"data":"{data}"}}}}"#));
    let mut batch = String::new();
    for n in 0..20 {
        batch += &event(&first, n);
        batch += &event("missing", n);
        batch += &event(&second, n);
        batch += &send_request("{");
    }
    batch += &send_request(&format!(r#"{{"token":"{first}","close":true}}"#));
    batch += &event(&first, 20);
    let mut sender = Client::open(gateway.port, batch);
    for n in 0..20 {
        let answers: Vec<u16> = (0..4).map(|_| sender.response().status).collect();
        assert_eq!(answers, [200, 404, 200, 400], "round {n}");
        assert_eq!(one.frame(), format!("data: {n}\n\n"));
        assert_eq!(two.frame(), format!("data: {n}\n\n"));
    }
    assert_json(&sender.response(), 200, OK);
    assert_json(&sender.response(), 404, NOT_FOUND);
    one.assert_ended();
}

#[test]
fn the_event_is_offered_to_the_kernel_before_the_answer() {
    let mut opened = opened();
    for n in 0..50 {
        assert_json(&opened.gateway.event(&opened.token, &n.to_string()), 200, OK);
        // Loopback delivers within the write, so the frame is there once the answer is.
        opened.stream.client.fill();
        let frame = opened.stream.frame();
        assert_eq!(frame, format!("data: {n}\n\n"));
    }
}

#[test]
fn sends_during_the_connect_are_buffered_in_order() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    for n in 0..3 {
        assert_json(&gateway.event(&token, &n.to_string()), 200, BUFFERED);
    }
    assert_eq!(gateway.send(&format!(r#"{{"token":"{token}"}}"#)).status, 200, "a probe is fine as well");
    assert_json(&gateway.send(&format!(r#"{{"token":"{token}","event":null}}"#)), 400, EVENT);
    gate.open();
    let mut stream = Stream::accept(client);
    for n in 0..3 {
        assert_eq!(stream.frame(), format!("data: {n}\n\n"));
    }
}

#[test]
fn a_buffered_close_ends_the_stream_once_it_opens() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::json(r#"{"event":{"data":"first"}}"#).after(&gate));
    let gateway = Gateway::start(&backend);
    let client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    assert_json(&gateway.event(&token, "second"), 200, BUFFERED);
    assert_json(
        &gateway.send(&format!(r#"{{"token":"{token}","event":{{"data":"last"}},"close":true}}"#)),
        200,
        BUFFERED,
    );
    assert_json(&gateway.event(&token, "too late"), 404, NOT_FOUND);
    gate.open();
    let finish = Stream::accept(client).finish();
    assert_eq!((finish.text.as_str(), finish.clean), ("data: first\n\ndata: second\n\ndata: last\n\n", true));
    assert_eq!(backend.disconnect(&token).reason(), "server_closed");
}

#[test]
fn buffered_events_are_dropped_if_the_connect_is_rejected() {
    let gate = Gate::new();
    let backend = Backend::connecting(Answer::status(403).after(&gate));
    let gateway = Gateway::start(&backend);
    let mut client = Client::open(gateway.port, get("/x"));
    let token = backend.connect("/x").token().to_owned();
    assert_json(&gateway.event(&token, "x"), 200, BUFFERED);
    gate.open();
    assert_json(&client.response(), 403, r#"{"error":"Backend returned 403"}"#);
    assert_json(&gateway.event(&token, "x"), 404, NOT_FOUND);
}

#[test]
fn a_query_on_the_path_changes_nothing() {
    let mut opened = opened();
    let body = format!(r#"{{"token":"{}","event":{{"data":"x"}}}}"#, opened.token);
    let status = opened.gateway.request(common::post("/internal/send?x=y", &body)).status;
    assert!(matches!(status, 200 | 404), "{status}");
    if status == 200 {
        assert_eq!(opened.stream.frame(), "data: x\n\n");
    }
}
