//! The backend: it accepts everybody, at once or with few slow workers, and remembers the tokens by URL.

use crate::common::{Answer, Backend};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it was told.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<Told>);

#[derive(Default)]
struct Told {
    tokens: Mutex<HashMap<String, String>>,
    /// Disconnects of honest streams.
    disconnects: AtomicUsize,
    slow: AtomicBool,
}

impl Tokens {
    pub(crate) fn of(&self, url: &str) -> String {
        self.0.tokens.lock().unwrap().get(url).expect("an accepted stream").clone()
    }

    /// The tokens of the URLs that begin so.
    pub(crate) fn below(&self, prefix: &str) -> Vec<String> {
        let tokens = self.0.tokens.lock().unwrap();
        tokens.iter().filter(|(url, _)| url.starts_with(prefix)).map(|(_, token)| token.clone()).collect()
    }

    pub(crate) fn disconnects(&self) -> usize {
        self.0.disconnects.load(Ordering::SeqCst)
    }

    /// Whether each of the few workers takes its time from now on.
    pub(crate) fn slow_down(&self, slow: bool) {
        self.0.slow.store(slow, Ordering::SeqCst);
    }
}

/// Workers: their number, and the time of a call once they are slow.
#[derive(Clone, Copy)]
pub(crate) struct Few {
    pub workers: u32,
    pub time: Duration,
}

impl Few {
    pub(crate) fn calls_a_second(self) -> usize {
        (self.workers as f64 / self.time.as_secs_f64()) as usize
    }

    /// The time for that many calls.
    pub(crate) fn needed(self, calls: usize) -> Duration {
        self.time * calls as u32 / self.workers
    }
}

pub(crate) fn start(tokens: &Tokens, few: Option<Few>) -> Backend {
    let told = tokens.0.clone();
    let pause = few.map_or(Duration::ZERO, |few| few.time);
    let handler = move |call: &crate::common::Call| {
        let url = call.url();
        // Those of the others would only fill this process.
        let known = url.starts_with("/honest/") || url.starts_with("/idle/");
        match call.action() {
            "connect" if known => drop(told.tokens.lock().unwrap().insert(url.to_owned(), call.token().to_owned())),
            "disconnect" if known => {
                told.tokens.lock().unwrap().remove(url);
                told.disconnects.fetch_add(usize::from(url.starts_with("/honest/")), Ordering::SeqCst);
            }
            _ => {}
        }
        match told.slow.load(Ordering::SeqCst) {
            true => Answer::new(200, &[("Connection", "close")], "").delayed(pause),
            false => Answer::ok(),
        }
    };
    match few {
        Some(few) => Backend::with_workers(few.workers as usize, handler),
        None => Backend::forgetful(handler),
    }
}
