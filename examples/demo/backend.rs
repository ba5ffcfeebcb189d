//! The demo's backend where there is no Python: the same as backend.py. Who may have a stream, into which groups, and what is
//! sent to them.

use crate::http::{Request, Response};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The interval of the plot's events: short enough to show variations of the latency.
const PULSE: Duration = Duration::from_millis(100);
/// Pulses between two events that are kept.
const TICK_PULSES: u64 = 20;
/// Delay before a page reconnects; the defaults of browsers differ.
const RETRY_MS: u32 = 1500;
/// Recent callbacks shown to a newly connected page.
const HISTORY: usize = 30;
/// The group of all pages.
const EVERYONE: &str = "everyone";

pub(crate) struct Backend {
    /// The URL for sends.
    send_url: String,
    agent: ureq::Agent,
    state: Mutex<State>,
}

/// Only to show it: the gateway knows who is in which group.
#[derive(Default)]
struct State {
    /// The tokens of all open streams.
    streams: BTreeSet<String>,
    /// The latest callbacks, oldest first.
    history: VecDeque<Value>,
}

impl Backend {
    pub(crate) fn new(gateway_port: u16) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            // Shorter than the gateway's idle timeout.
            .max_idle_age(Duration::from_secs(30))
            .build()
            .into();
        Self { send_url: format!("http://127.0.0.1:{gateway_port}/internal/send"), agent, state: Mutex::default() }
    }

    /// Sends to everyone, for as long as the process lives.
    pub(crate) fn start_ticking(self: &Arc<Self>) {
        let backend = Arc::clone(self);
        thread::spawn(move || {
            let start = Instant::now();
            for pulse in 1.. {
                let due = PULSE * pulse;
                thread::sleep(due.saturating_sub(start.elapsed()));
                let data = json!({ "sent": now_ms() }).to_string();
                backend.send(&json!({
                    "group": EVERYONE, "event": { "name": "pulse", "data": data }, "transient": true
                }));
                let pulse = u64::from(pulse);
                if pulse.is_multiple_of(TICK_PULSES) {
                    let data = format!("tick {}, to everyone", pulse / TICK_PULSES);
                    backend.send(&json!({ "group": EVERYONE, "event": { "data": data } }));
                }
            }
        });
    }

    /// The endpoints other than files: the gateway's callback, and the page's buttons.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        if request.method != "POST" {
            return Response::json(404, &json!({ "error": "There is nothing here." }));
        }
        // A page of another site can post here, but not JSON without a preflight, which is never answered.
        if !request.json {
            return Response::json(415, &json!({ "error": "Send JSON." }));
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return Response::json(400, &json!({ "error": "That is no JSON." }));
        };
        match request.path.as_str() {
            "/callback" => self.callback(&body),
            "/send" => self.send_for_page(&body),
            _ => Response::json(404, &json!({ "error": "There is nothing here." })),
        }
    }

    fn callback(&self, call: &Value) -> Response {
        let (Some(token), Some(action)) = (call["token"].as_str(), call["action"].as_str()) else {
            return Response::json(400, &json!({ "error": "That is no callback." }));
        };
        let url = call["request"]["url"].as_str().unwrap_or_default();
        let (user, page) = (parameter(url, "user").unwrap_or("nobody"), parameter(url, "page").unwrap_or_default());
        let seen = call["request"]["headers"]["last-event-id"].as_str().or_else(|| parameter(url, "last_event_id"));
        let seen = seen.filter(|seen| !seen.is_empty()).map(|seen| format!("has seen {seen}"));
        let fact = call["reason"].as_str().map(|reason| format!("reason {reason}")).or(seen);
        let short: String = token.chars().take(8).collect();
        let entry = json!({
            "at": now_ms(), "action": action, "token": short, "page": page, "user": user, "fact": fact
        });
        let (open, history) = {
            let mut state = self.state();
            if action == "connect" {
                state.streams.insert(token.into());
            } else {
                state.streams.remove(token);
            }
            state.history.push_back(entry.clone());
            if state.history.len() > HISTORY {
                state.history.pop_front();
            }
            (state.streams.len(), state.history.clone())
        };
        let data = json!({ "open": open, "entry": entry }).to_string();
        self.send(&json!({ "group": EVERYONE, "event": { "name": "callback", "data": data }, "transient": true }));
        if action == "disconnect" {
            return Response::json(200, &json!({}));
        }
        let data = json!({ "open": open, "history": history }).to_string();
        let welcome = json!({ "name": "welcome", "data": data, "retry": RETRY_MS });
        let groups = [EVERYONE.to_owned(), format!("user:{user}"), format!("page:{page}")];
        Response::json(200, &json!({ "event": welcome, "groups": groups }))
    }

    /// What a button asks for: a group, and `data`, perhaps with a name, or `close`.
    fn send_for_page(&self, asked: &Value) -> Response {
        let mut message = json!({ "group": asked["group"] });
        if !asked["data"].is_null() {
            message["event"] = json!({ "data": asked["data"] });
            if !asked["name"].is_null() {
                message["event"]["name"] = asked["name"].clone();
            }
        }
        if !asked["close"].is_null() {
            message["close"] = asked["close"].clone();
        }
        Response::json(200, &self.send(&message))
    }

    /// `POST /internal/send`: `reached`, or an `error`.
    fn send(&self, message: &Value) -> Value {
        let answer = self.agent.post(&self.send_url).content_type("application/json").send(message.to_string());
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => return json!({ "error": format!("The gateway cannot be reached: {error}") }),
        };
        // Read to its end, so that the connection can be reused.
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A parameter of the query. The page's own need no decoding.
fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let pairs = url.split_once('?')?.1.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// Milliseconds since 1970, with a fraction.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}
