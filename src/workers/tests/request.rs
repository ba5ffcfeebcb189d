//! The request that the backend receives.

use super::*;
use std::process::Command;

/// The body of call number 7.
const BODY: &str = r#"{"action":"connect","token":"00000000-0000-0000-0000-000000000007","request":{"n":7}}"#;

/// The request of a call to `url` (with `{}` for the address).
fn request(path: &str, authorization: Option<&str>, detail: Option<Detail>) -> (SocketAddr, String) {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut stream).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
        request
    });
    let options = Options { authorization: authorization.map(str::to_owned), ..Options::default() };
    let pool = Pool::new(&format!("http://{address}{path}"), options);
    pool.workers.submit(call(7, detail));
    assert_eq!(pool.next(), Called { id: key(7), outcome: answered(200, Some("{}")) });
    (address, script.join().unwrap())
}

#[test]
fn a_post_with_the_url_verbatim() {
    let (address, request) = request("//a/../b%20c?x=1&y=%zz?", None, None);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST //a/../b%20c?x=1&y=%zz? HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: {address}");
    let agent = concat!("user-agent: ssegateway/", env!("CARGO_PKG_VERSION"));
    let length = format!("content-length: {}", BODY.len());
    let instance = format!("ssegateway-instance: {INSTANCE}");
    assert_eq!(lines, ["accept: */*", &length, "content-type: application/json", &host, &instance, agent]);
    assert_eq!(body, BODY);
}

#[test]
fn a_url_without_a_path_asks_for_the_root() {
    for (path, line) in [("", "POST / HTTP/1.1\r\n"), ("?a=b", "POST /?a=b HTTP/1.1\r\n")] {
        assert!(request(path, None, None).1.starts_with(line), "{path}");
    }
}

#[test]
fn credentials_and_detail_are_headers() {
    let (_, request) = request("/", Some("Bearer t0ken"), Some(Detail::Shutdown));
    assert!(request.contains("\r\nauthorization: Bearer t0ken\r\n"), "{request}");
    assert!(request.contains("\r\nssegateway-detail: shutdown\r\n"), "{request}");
}

#[test]
fn a_long_url_and_long_credentials_are_sent_whole() {
    let (path, bearer) = (format!("/?key={}", "k".repeat(10_000)), format!("Bearer {}", "t".repeat(10_000)));
    let (_, request) = request(&path, Some(&bearer), Some(Detail::ExcessInput));
    assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{request}");
    assert!(request.contains(&format!("\r\nauthorization: {bearer}\r\n")), "{request}");
    assert!(request.ends_with('}'), "{request}");
}

#[test]
fn every_callback_names_the_instance() {
    for detail in [None, Some(Detail::ClientTimeout)] {
        let request = request("/", None, detail).1;
        assert!(request.contains(&format!("\r\nssegateway-instance: {INSTANCE}\r\n")), "{request}");
    }
}

#[test]
fn a_large_request_arrives_whole() {
    // Larger than the output buffer, with all lengths around multiples of its size.
    let sizes: Vec<usize> = (7_900..8_250).step_by(7).chain([16_384, 100_000]).collect();
    let count = sizes.len();
    let (address, script) = backend(move |listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bodies = Vec::new();
        for _ in 0..count {
            let request = read_request(&mut stream).unwrap();
            bodies.push(request.split_once("\r\n\r\n").unwrap().1.to_owned());
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        }
        bodies
    });
    let pool = Pool::to(address);
    for size in &sizes {
        pool.workers.submit(Call { request: alphabets(*size).into(), ..call(1, None) });
        assert_eq!(pool.next().outcome, answered(204, Some("")));
    }
    for (body, size) in script.join().unwrap().iter().zip(sizes) {
        let request = body.split_once("\"request\":").unwrap().1.strip_suffix('}').unwrap();
        assert_eq!(request.len(), size);
        assert!(request == alphabets(size));
    }
}

fn alphabets(length: usize) -> String {
    (b'a'..=b'z').cycle().take(length).map(char::from).collect()
}

#[test]
fn head_and_body_leave_in_one_segment() {
    let (address, script) = backend(|listener| {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = vec![0; 4096];
        let length = stream.read(&mut first).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        String::from_utf8_lossy(&first[..length]).into_owned()
    });
    assert_eq!(Pool::to(address).call(), answered(204, Some("")));
    assert!(script.join().unwrap().ends_with(&format!("\r\n\r\n{BODY}")));
}

#[test]
fn proxies_of_the_environment_are_ignored() {
    // All tests share the environment of this process, so the test above runs in one of its own.
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "workers::tests::request::a_post_with_the_url_verbatim"])
        .envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"].map(|name| (name, "http://127.0.0.1:9")))
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}
