//! The application's part: accept or reject clients, store the tokens, send.

use crate::http::{Request, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The interval of the plot's events: short enough to show variations of the latency.
const PULSE: Duration = Duration::from_millis(100);
/// Pulses between two plain events.
const TICK_PULSES: u64 = 20;
/// Pulses between two `weather` events.
const WEATHER_PULSES: u64 = 70;
/// Delay before a page reconnects; the defaults of browsers differ.
const RETRY_MS: u32 = 1500;
/// Recent callbacks shown to a newly connected page.
const HISTORY: usize = 30;

pub(crate) struct Backend {
    /// The URL for sends.
    send_url: String,
    agent: ureq::Agent,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Token to page, for every open stream. A page is a name that the browser chose, empty for others.
    streams: BTreeMap<String, String>,
    /// The latest callbacks, oldest first.
    history: VecDeque<Value>,
    /// The last event id used.
    last_id: u64,
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

    /// Sends to every open stream, for as long as the process lives.
    pub(crate) fn start_ticking(self: &Arc<Self>) {
        let backend = Arc::clone(self);
        thread::spawn(move || {
            let start = Instant::now();
            for pulse in 1.. {
                let due = PULSE * pulse;
                thread::sleep(due.saturating_sub(start.elapsed()));
                backend.tick(u64::from(pulse));
            }
        });
    }

    fn tick(&self, pulse: u64) {
        let tokens: Vec<String> = self.state().streams.keys().cloned().collect();
        for token in &tokens {
            self.send(token, json!({ "event": { "name": "pulse", "data": json!({ "sent": now_ms() }).to_string() } }));
            if pulse.is_multiple_of(TICK_PULSES) {
                let data = format!("tick {}, without a name", pulse / TICK_PULSES);
                self.send(token, json!({ "event": { "id": self.next_id(), "data": data } }));
            }
            if pulse.is_multiple_of(WEATHER_PULSES) {
                let (sky, degrees) = weather(pulse / WEATHER_PULSES);
                let data = format!("{sky}\n{degrees} \u{b0}C, and this is its second line");
                self.send(token, json!({ "event": { "id": self.next_id(), "name": "weather", "data": data } }));
            }
        }
    }

    /// The endpoints other than the page: the gateway's callback, and the page's buttons.
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
            "/send" => self.send_to_page(&body),
            "/close" => self.close_page(&body),
            _ => Response::json(404, &json!({ "error": "There is nothing here." })),
        }
    }

    fn callback(&self, call: &Value) -> Response {
        let (Some(token), Some(action)) = (call["token"].as_str(), call["action"].as_str()) else {
            return Response::json(400, &json!({ "error": "That is no callback." }));
        };
        let url = call["request"]["url"].as_str().unwrap_or_default();
        match action {
            "connect" => {
                let page = url.split_once("?page=").map_or("", |(_, page)| page);
                let mut facts = vec![format!("GET {}", url.split('?').next().unwrap_or_default())];
                if let Some(id) = call["request"]["headers"]["last-event-id"].as_str() {
                    facts.push(format!("Last-Event-ID {id}"));
                }
                facts.push("answered 200".into());
                let history = {
                    let mut state = self.state();
                    state.streams.insert(token.into(), page.into());
                    json!({ "open": state.streams.len(), "history": state.history })
                };
                // Sent before this callback is answered: the gateway holds it, and delivers it after the welcome.
                self.note("connect", token, page, &facts);
                let event = json!({ "name": "welcome", "data": history.to_string(), "retry": RETRY_MS });
                Response::json(200, &json!({ "event": event }))
            }
            "disconnect" => {
                let page = self.state().streams.remove(token).unwrap_or_default();
                let reason = call["reason"].as_str().unwrap_or_default();
                self.note("disconnect", token, &page, &[format!("reason {reason}")]);
                Response::json(200, &json!({}))
            }
            _ => Response::json(400, &json!({ "error": "That is no callback." })),
        }
    }

    /// Stores a callback for later pages and shows it on open ones.
    fn note(&self, action: &str, token: &str, page: &str, facts: &[String]) {
        let short: String = token.chars().take(8).chain("\u{2026}".chars()).collect();
        let entry = json!({ "at": now_ms(), "action": action, "token": short, "page": page, "facts": facts });
        let (open, tokens) = {
            let mut state = self.state();
            state.history.push_back(entry.clone());
            if state.history.len() > HISTORY {
                state.history.pop_front();
            }
            (state.streams.len(), state.streams.keys().cloned().collect::<Vec<_>>())
        };
        let data = json!({ "open": open, "entry": entry }).to_string();
        for token in &tokens {
            self.send(token, json!({ "event": { "name": "callback", "data": data } }));
        }
    }

    fn send_to_page(&self, asked: &Value) -> Response {
        let mut event = json!({ "id": self.next_id(), "data": asked["data"] });
        if asked["name"].as_str().is_some_and(|name| !name.is_empty()) {
            event["name"] = asked["name"].clone();
        }
        self.pass_on(asked, json!({ "event": event }))
    }

    fn close_page(&self, asked: &Value) -> Response {
        self.pass_on(asked, json!({ "close": true }))
    }

    fn pass_on(&self, asked: &Value, message: Value) -> Response {
        let page = asked["page"].as_str().unwrap_or_default();
        let token = self.state().streams.iter().find(|(_, of)| *of == page).map(|(token, _)| token.clone());
        match token.map(|token| self.send(&token, message)) {
            Some(None) => Response::json(200, &json!({})),
            Some(Some(error)) => Response::json(502, &json!({ "error": error })),
            None => Response::json(409, &json!({ "error": "This page has no open stream right now." })),
        }
    }

    /// `POST /internal/send`. Errors: the reason.
    fn send(&self, token: &str, mut message: Value) -> Option<String> {
        message["token"] = token.into();
        let answer = self.agent.post(&self.send_url).content_type("application/json").send(message.to_string());
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Some(format!("The gateway cannot be reached: {error}")),
        };
        let status = answer.status().as_u16();
        // Read to its end, so that the connection can be reused.
        let text = answer.body_mut().read_to_string().unwrap_or_default();
        (status != 200).then(|| format!("The gateway answered {status}: {text}"))
    }

    fn next_id(&self) -> String {
        let mut state = self.state();
        state.last_id += 1;
        state.last_id.to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970, with a fraction.
fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

fn weather(turn: u64) -> (&'static str, i64) {
    [("Sunny", 21), ("A few clouds", 19), ("Rain", 14), ("Fog", 9), ("Wind from the sea", 16)][(turn % 5) as usize]
}
