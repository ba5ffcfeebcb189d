//! Streaming sends as their senders write them.

use super::{Answer, Backend, Builder, Client, Gateway, Response, Stream, assert_json};
use serde_json::{Value, json};

pub(crate) const LINES: &str = "application/x-ndjson";
pub(crate) const EVENTS: &str = "text/event-stream";

/// A gateway and its backend.
pub(crate) struct Setup {
    pub backend: Backend,
    pub gateway: Gateway,
}

/// Without history, so that frames have no ids. A stream of `/a,b` is in the groups `a` and `b`, one of `/` in none.
pub(crate) fn setup() -> Setup {
    setup_with(|builder| builder)
}

/// The same with other variables.
pub(crate) fn setup_with(set: impl FnOnce(Builder) -> Builder) -> Setup {
    let backend = Backend::new(|call| {
        let groups: Vec<&str> = call.url()[1..].split(',').filter(|name| !name.is_empty()).collect();
        Answer::json(&json!({ "groups": groups }).to_string())
    });
    Setup { gateway: set(Gateway::for_backend(&backend).set("HISTORY_SECONDS", 0)).start(), backend }
}

impl Setup {
    pub(crate) fn open(&self, groups: &str) -> Stream {
        self.gateway.open(&format!("/{groups}"))
    }

    pub(crate) fn token(&self, path: &str) -> String {
        self.backend.connect(path).token().to_owned()
    }

    /// A feed in chunks.
    pub(crate) fn feed(&self, query: &str, content_type: &str) -> Feed {
        let head = format!(
            "POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        Feed { client: Client::open(self.gateway.port, head) }
    }

    /// A feed with all of its body at once.
    pub(crate) fn whole(&self, query: &str, content_type: &str, body: &str) -> Response {
        let length = body.len();
        let head = format!("POST /internal/send{query} HTTP/1.1\r\nHost: h\r\nContent-Type: {content_type}\r\n");
        self.gateway.request(format!("{head}Content-Length: {length}\r\n\r\n{body}"))
    }

    pub(crate) fn end(&self, group: &str) {
        let response = self.gateway.send(&json!({"group": group, "end": true}).to_string());
        assert_eq!(response.status, 200, "{response:?}");
    }
}

/// The sender of a feed in chunks.
pub(crate) struct Feed {
    pub client: Client,
}

impl Feed {
    pub(crate) fn chunk(&mut self, data: &str) {
        self.client.send(format!("{:x}\r\n{data}\r\n", data.len()));
    }

    /// A line of JSON.
    pub(crate) fn line(&mut self, line: &Value) {
        self.chunk(&format!("{line}\n"));
    }

    /// The clean end of the body, and the answer to it.
    pub(crate) fn finish(&mut self) -> Response {
        self.client.send("0\r\n\r\n");
        self.client.response()
    }

    /// The feed is told so although it says nothing, and may not go on.
    #[track_caller]
    pub(crate) fn assert_told(&mut self, status: u16, body: &str) {
        let response = self.client.response();
        assert_json(&response, status, body);
        assert!(response.closes(), "{response:?}");
        self.client.assert_closed();
    }
}

/// An event in a line.
pub(crate) fn event(data: &str) -> Value {
    json!({"event": {"data": data}})
}
