//! The connect callback: the exact bytes that reach the backend (contract, section 3).

mod common;

use common::{Answer, Backend, Client, Gateway, Stream, get};

/// Opens a stream with this request and returns the body of its connect callback, with `TOKEN` for the token.
#[track_caller]
fn callback_body(backend: &Backend, gateway: &Gateway, request: &[u8]) -> String {
    Stream::accept(Client::open(gateway.port, request));
    let call = backend.take("connect", |call| call.action() == "connect");
    String::from_utf8(call.body.clone()).expect("UTF-8").replace(call.token(), "TOKEN")
}

#[track_caller]
fn headers_json(fields: &[u8]) -> String {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request = [b"GET / HTTP/1.1\r\nHost: h\r\n", fields, b"\r\n"].concat();
    let body = callback_body(&backend, &gateway, &request);
    let start = r#"{"action":"connect","token":"TOKEN","request":{"url":"/","headers":{"host":"h","#;
    body.strip_prefix(start).unwrap_or_else(|| panic!("{body}")).strip_suffix("}}}").expect("three braces").to_owned()
}

#[test]
fn the_body_is_exactly_this() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request = b"GET /a/b?c=d&e=%20 HTTP/1.1\r\nHost: gw.example:3000\r\nAccept: text/event-stream\r\n\
        User-Agent: Test/1.0 (\"x\"; \\)\r\nLast-Event-ID: 42\r\n\r\n";
    let expected = concat!(
        r#"{"action":"connect","token":"TOKEN","request":{"url":"/a/b?c=d&e=%20","headers":{"host":"gw.example:3000","#,
        r#""accept":"text/event-stream","user-agent":"Test/1.0 (\"x\"; \\)","last-event-id":"42"}}}"#
    );
    assert_eq!(callback_body(&backend, &gateway, request), expected);
}

#[test]
fn it_is_a_json_post_to_the_callback_url() {
    let backend = Backend::accepting();
    let url = format!("http://127.0.0.1:{}/hook//%zz/?a=b?c&d=%20", backend.port);
    let gateway = Gateway::builder().set("CALLBACK_URL", url).start();
    gateway.open("/x");
    let call = backend.connect("/x");
    assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/hook//%zz/?a=b?c&d=%20"));
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(call.header("content-length"), Some(call.body.len().to_string().as_str()));
    assert_eq!(call.header("host"), Some(format!("127.0.0.1:{}", backend.port).as_str()));
    assert_eq!((call.header("authorization"), call.detail()), (None, None));
}

#[test]
fn a_callback_url_without_a_path_means_the_root() {
    let backend = Backend::accepting();
    let gateway = Gateway::builder().set("CALLBACK_URL", format!("http://127.0.0.1:{}", backend.port)).start();
    gateway.open("/x");
    assert_eq!(backend.connect("/x").target, "/");
}

#[test]
fn targets_are_forwarded_raw() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    for target in [
        "/",
        "//x",
        "/%zz",
        "/a?b=c?d",
        "/?",
        "/a/../b/./c",
        "/a%2Fb%00",
        "/a+b;c=d,e",
        "/q?x=\"'<>\\^`{|}",
        "http://other.example/abs?x=y",
        // Similar to the reserved paths, but not reserved.
        "/healthzz",
        "/healthz/x",
        "/healthz//",
        "//healthz",
        "/Healthz",
        "/%68ealthz",
        "/readyz.txt",
        "/internal",
        "/internal?x",
        "/internalize",
        "/Internal/send",
        "/x/internal/send",
    ] {
        gateway.open(target);
        assert_eq!(backend.connect(target).url(), target);
    }
}

#[test]
fn a_target_without_a_slash_is_refused() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    assert_eq!(gateway.get("foo").status, 400);
    assert_eq!(backend.history().len(), 0);
}

#[test]
fn names_become_lower_case_and_values_are_trimmed() {
    assert_eq!(
        headers_json(b"X-UPPER-Case:  \t padded \t\r\nx-tight:v\r\n"),
        r#""x-upper-case":"padded","x-tight":"v""#
    );
}

#[test]
fn an_empty_value_is_an_empty_string() {
    assert_eq!(headers_json(b"X-Empty:\r\nX-Blank:   \r\n"), r#""x-empty":"","x-blank":"""#);
}

#[test]
fn bytes_beyond_ascii_decode_as_latin_1() {
    assert_eq!(headers_json(b"X-A: caf\xe9 \x80\xff\r\n"), "\"x-a\":\"caf\u{e9} \u{80}\u{ff}\"");
    assert_eq!(headers_json("X-Utf8: \u{20ac}\r\n".as_bytes()), "\"x-utf8\":\"\u{e2}\u{82}\u{ac}\"");
}

#[test]
fn the_last_event_id_is_utf_8_where_it_can_be() {
    let field = "Last-Event-ID: \u{20ac}5 \"caf\u{e9}\"\r\nlast-event-id: \u{1f600}\r\n";
    assert_eq!(headers_json(field.as_bytes()), "\"last-event-id\":\"\u{20ac}5 \\\"caf\u{e9}\\\", \u{1f600}\"");
    assert_eq!(headers_json(b"Last-Event-ID: caf\xe9\r\n"), "\"last-event-id\":\"caf\u{e9}\"");
}

#[test]
fn json_escapes_special_characters() {
    assert_eq!(headers_json(b"X-J: a\"b\\c\td</\r\n"), r#""x-j":"a\"b\\c\td</""#);
}

#[test]
fn repeated_headers_are_joined() {
    let json = headers_json(b"X-A: 1\r\nCookie: a=b\r\nX-B: 0\r\nx-a: 2\r\ncookie: c=d\r\nX-a:\r\nCOOKIE: e=f\r\n");
    assert_eq!(json, r#""x-a":"1, 2, ","cookie":"a=b; c=d; e=f","x-b":"0""#);
}

#[test]
fn of_some_repeated_headers_the_first_wins() {
    // `host` and `content-length` are on the list too, but HTTP/1.1 refuses a request that repeats them.
    const FIRST: [&str; 16] = [
        "authorization",
        "user-agent",
        "content-type",
        "referer",
        "from",
        "max-forwards",
        "if-modified-since",
        "if-unmodified-since",
        "proxy-authorization",
        "location",
        "etag",
        "expires",
        "age",
        "last-modified",
        "retry-after",
        "server",
    ];
    let fields: String = FIRST.iter().map(|name| format!("{name}: one\r\n{}: two\r\n", name.to_uppercase())).collect();
    let expected: Vec<String> = FIRST.iter().map(|name| format!("\"{name}\":\"one\"")).collect();
    assert_eq!(headers_json(fields.as_bytes()), expected.join(","));
}

#[test]
fn names_special_in_javascript_are_plain() {
    assert_eq!(headers_json(b"__proto__: 1\r\nconstructor: 2\r\n"), r#""__proto__":"1","constructor":"2""#);
}

#[test]
fn a_body_is_not_forwarded() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let body = callback_body(&backend, &gateway, b"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    let expected = concat!(
        r#"{"action":"connect","token":"TOKEN","request":{"url":"/x","headers":{"host":"h","#,
        r#""content-length":"5"}}}"#
    );
    assert_eq!(body, expected);
}

#[test]
fn http_1_0_needs_no_host() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let body = callback_body(&backend, &gateway, b"GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(body, r#"{"action":"connect","token":"TOKEN","request":{"url":"/old","headers":{}}}"#);
}

#[test]
fn tokens_are_random_version_4_uuids() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let mut tokens = std::collections::HashSet::new();
    for _ in 0..20 {
        let (_, token) = gateway.open_with(&backend, "/x");
        let shaped = token.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => b"89ab".contains(&byte),
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        });
        assert!(shaped && token.len() == 36, "{token}");
        assert!(tokens.insert(token), "a token was repeated");
    }
}

#[test]
fn user_and_password_are_sent_as_basic_authorization() {
    let backend = Backend::accepting();
    let url = format!("http://user:pass@127.0.0.1:{}/cb", backend.port);
    let mut gateway = Gateway::builder().set("CALLBACK_URL", url).start();
    let (stream, token) = gateway.open_with(&backend, "/x");
    drop(stream);
    backend.disconnect(&token);
    gateway.drain();
    for call in backend.history() {
        assert_eq!(call.header("authorization"), Some("Basic dXNlcjpwYXNz"));
        assert_eq!(call.header("host"), Some(format!("127.0.0.1:{}", backend.port).as_str()));
        assert_eq!(call.target, "/cb");
    }
    assert!(!gateway.log().contains("pass@"), "{}", gateway.log());
}

#[test]
fn a_callback_token_is_sent_as_bearer() {
    let backend = Backend::accepting();
    let gateway = Gateway::for_backend(&backend).set("CALLBACK_TOKEN", "s3cret").start();
    let (stream, token) = gateway.open_with(&backend, "/x");
    drop(stream);
    backend.disconnect(&token);
    for call in backend.history() {
        assert_eq!(call.header("authorization"), Some("Bearer s3cret"));
    }
}

#[test]
fn client_input_never_becomes_a_header_of_the_callback() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let request =
        "GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer forged\r\nSSEGateway-Detail: forged\r\nX-Y: z\r\n\r\n";
    Stream::accept(Client::open(gateway.port, request));
    let call = backend.connect("/x");
    assert_eq!((call.header("authorization"), call.detail(), call.header("x-y")), (None, None, None));
    assert_eq!(call.json["request"]["headers"]["authorization"], "Bearer forged");
}

#[test]
fn callbacks_share_kept_alive_connections() {
    let backend = Backend::accepting();
    let gateway = Gateway::start(&backend);
    let _streams: Vec<Stream> = (0..5).map(|_| gateway.open("/x")).collect();
    assert_eq!(backend.connections(), 1, "sequential calls need one connection");
}

/// The capacity of a backend is unknown before its first answers.
#[test]
fn a_new_backend_gets_a_few_connects_at_once_and_all_of_them_when_it_answers() {
    const STREAMS: usize = 40;
    let gate = common::Gate::new();
    let backend = Backend::connecting(Answer::ok().after(&gate));
    let gateway = Gateway::start(&backend);
    let clients: Vec<Client> = (0..STREAMS).map(|n| Client::open(gateway.port, get(&format!("/{n}")))).collect();
    common::eventually("seven are made", || backend.count("connect") == 7);
    // By the time the probe is answered, the loop has seen all of them.
    assert_eq!(gateway.get("/healthz").status, 200);
    assert_eq!(backend.count("connect"), 7, "one place is reserved for a disconnect");
    gate.open();
    for client in clients {
        Stream::accept(client);
    }
}
