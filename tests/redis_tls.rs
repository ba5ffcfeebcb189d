//! An encrypted connection to Redis (docs/protocol.md, section 16). Needs `openssl`.

#![cfg(all(feature = "tls", feature = "redis"))]

mod common;

use common::{Authority, Backend, Gateway, Port, Redis, eventually, run, send_request};
use serde_json::{Value, json};

/// A Redis with a port for TLS besides its usual one, which tells tests that it runs.
struct Encrypted {
    redis: Redis,
    port: Port,
    authority: Authority,
}

impl Encrypted {
    fn start() -> Self {
        let authority = Authority::new();
        let files = authority.certify("DNS:localhost,IP:127.0.0.1");
        let port = Port::reserve();
        let (number, certificate, key) = (port.to_string(), files.certificate.display(), files.key.display());
        let arguments = format!(
            "--tls-port {number} --tls-cert-file {certificate} --tls-key-file {key} --tls-ca-cert-file {} \
             --tls-auth-clients no --appendonly no",
            authority.file()
        );
        let redis = Redis::with(&arguments.split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>());
        Self { redis, port, authority }
    }

    fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port)
    }
}

fn is_linked(gateway: &Gateway) -> bool {
    gateway.get("/readyz").text().contains(r#""redis":true"#)
}

#[test]
fn everything_works_over_tls_and_again_after_the_connection_has_broken() {
    let encrypted = Encrypted::start();
    let backend = Backend::new(|_| common::Answer::json(r#"{"groups":["a"]}"#));
    let start = |host: &str| {
        let gateway = Gateway::for_backend(&backend).set("REDIS_URL", encrypted.url(host));
        gateway.set("CALLBACK_CA_FILE", encrypted.authority.file()).start()
    };
    let gateways = [start("localhost"), start("127.0.0.1")];
    for gateway in &gateways {
        eventually("a connection to Redis", || is_linked(gateway));
    }
    let mut stream = gateways[1].open("/x");
    assert!(stream.frame().starts_with("id: "));
    // Larger than a record of TLS, than a turn of the loop, and than what is encrypted at once.
    let large = "x".repeat(700_000);
    for round in 0..3 {
        let body = json!({"group": "a", "event": {"data": large}}).to_string();
        let bodies = (0..5).map(|n| json!({"group": "a", "event": {"data": n.to_string()}}).to_string());
        let mut sender = gateways[0].client();
        sender.send(send_request(&body));
        sender.send(bodies.map(|body| send_request(&body)).collect::<String>());
        for n in 0..6 {
            let answer: Value = serde_json::from_str(sender.response().text()).expect("JSON");
            let id = answer["id"].as_str().expect("an id").to_owned();
            let data = if n == 0 { large.clone() } else { (n - 1).to_string() };
            let event = stream.event();
            assert!(event == format!("id: {id}\ndata: {data}\n\n"), "{round}.{n}: {} bytes", event.len());
        }
        encrypted.redis.command("CLIENT KILL TYPE pubsub");
        encrypted.redis.command("CLIENT KILL TYPE normal");
        for gateway in &gateways {
            eventually("a connection again", || is_linked(gateway));
        }
    }
}

#[test]
fn the_log_says_what_is_wrong_with_the_certificate_or_the_port() {
    let encrypted = Encrypted::start();
    let backend = Backend::accepting();
    let start = |url: String| Gateway::for_backend(&backend).set("REDIS_URL", url);
    let unknown = start(encrypted.url("localhost")).start();
    unknown.log_line(&["no connection to Redis", "unknown issuer", "CALLBACK_CA_FILE"]);
    let plain = start(format!("rediss://127.0.0.1:{}", encrypted.redis.port()));
    let plain = plain.set("REDIS_TIMEOUT_SECONDS", 1).start();
    plain.log_line(&["no connection to Redis", "does not speak TLS"]);
    let shown = run(&["check"], &[("REDIS_URL", "rediss://u:secret@cache")]);
    assert!(!shown.stdout.contains("secret") && shown.stdout.contains("rediss://u:***@cache:6379/0"), "{shown:?}");
}

#[test]
fn a_check_tries_the_certificate() {
    let encrypted = Encrypted::start();
    let backend = Backend::accepting();
    let check = |authority: &str| {
        let (port, url, redis) = (Port::reserve().to_string(), backend.url(), encrypted.url("localhost"));
        let mut variables = vec![("PORT", port.as_str()), ("CALLBACK_URL", &url), ("REDIS_URL", &redis)];
        if !authority.is_empty() {
            variables.push(("CALLBACK_CA_FILE", authority));
        }
        run(&["check", "--connect"], &variables)
    };
    let good = check(&encrypted.authority.file());
    assert_eq!(good.code, Some(0), "{good:?}");
    assert!(
        good.stderr.contains("\nRedis TLS: the certificate is good for localhost\nRedis answer: version "),
        "{good:?}"
    );
    let bad = check("");
    assert_eq!(bad.code, Some(1), "{bad:?}");
    let line = bad.stderr.lines().last().unwrap_or_default();
    assert!(line.starts_with("Redis TLS: failed: unknown issuer") && line.contains("CALLBACK_CA_FILE"), "{bad:?}");
}
