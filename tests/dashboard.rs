//! `GET /internal/`: the page of live figures (contract, section 9).

mod common;

use common::{Backend, Client, Gateway, assert_error, get, post};

#[test]
fn it_is_one_page_that_asks_its_own_gateway_alone() {
    let gateway = Gateway::start(&Backend::accepting());
    let page = gateway.get("/internal/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(page.text().contains("<title>SSEGateway</title>") && page.body.len() < 10_000, "{}", page.body.len());
    for elsewhere in ["http://", "https://", "src=", "@import"] {
        assert!(!page.text().contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn every_metric_that_it_shows_exists() {
    let gateway = Gateway::start(&Backend::accepting());
    let (page, metrics) = (gateway.get("/internal/"), gateway.get("/internal/metrics"));
    let behind = |before: &'static str| page.text().split(before).skip(1).filter_map(|rest| rest.split('"').next());
    let names: Vec<&str> = behind("sum(\"").chain(behind("[\"")).filter(|name| name.contains('_')).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        // Only with a limit of memory.
        let exists = metrics.text().contains(&format!("# TYPE ssegateway_{name} ")) || name == "memory_max_bytes";
        assert!(exists, "{name}");
    }
}

#[test]
fn it_is_guarded_as_the_list_of_tokens_is() {
    let gateway = Gateway::builder().start();
    let with = |field: &str| get("/internal/").replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1);
    assert_error(&gateway.request(with("X-Forwarded-For: 10.0.0.1")), 403);
    assert_error(&gateway.request(with("Origin: https://a.example")), 403);
    assert_error(&gateway.request(get("/internal/").replacen("Host: gateway", "Host: rebound.example", 1)), 403);
    assert_error(&gateway.request(post("/internal/", "{}")), 405);
    let guarded = Gateway::builder().internal_port().set("INTERNAL_TOKEN", "t").start();
    assert_error(&guarded.get("/internal/"), 404);
    assert_error(&Client::open(guarded.internal_port(), get("/internal/")).response(), 401);
    let known = Client::open(guarded.internal_port(), with("Authorization: Bearer t")).response();
    assert_eq!(known.status, 200);
}
