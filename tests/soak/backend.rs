//! The backend of the soak test: slow and flaky, with a ledger.

use crate::common::{Answer, Backend, Call, Ledger, Random, Step, Verdict};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// The token of each visit, for the crowd, as soon as the backend knows it.
pub(crate) type News = (u64, String);

/// The number in `/visit/N`.
pub(crate) fn visit_of(url: &str) -> Option<u64> {
    url.strip_prefix("/visit/")?.parse().ok()
}

/// Starts it. Its answer depends only on the visit's number, so a retried connect gets the same one.
pub(crate) fn start(ledger: Ledger, news: Sender<News>) -> Backend {
    Backend::forgetful(move |call| {
        let Some(visit) = visit_of(call.url()) else { panic!("a callback for {:?}", call.url()) };
        if call.action() == "disconnect" {
            ledger.enter(call, Verdict::Accepted);
            return after_disconnect(call);
        }
        let (verdict, answer) = decide(visit);
        // The ledger first: the gateway may react before the next line.
        ledger.enter(call, verdict);
        let _ = news.send((visit, call.token().to_owned()));
        let mut random = Random::new(visit ^ 0x5eed);
        let answer = match random.below(1000) {
            // Some streams get events before they are open.
            0..50 => answer.delayed(Duration::from_millis(100 + random.below(300))),
            50..500 => answer.delayed(Duration::from_millis(random.below(20))),
            _ => answer,
        };
        closing_at_times(answer, &mut random)
    })
}

fn decide(visit: u64) -> (Verdict, Answer) {
    let mut random = Random::new(visit);
    match random.below(1000) {
        0..30 => (Verdict::Rejected, Answer::status(403)),
        30..45 => (Verdict::Rejected, Answer::new(302, &[("Location", "/login")], "moved")),
        45..60 => (Verdict::Rejected, Answer::status(500)),
        60..70 => (Verdict::Unclear, Answer::close()),
        70..80 => (Verdict::Unclear, Answer::raw("no HTTP at all\r\n\r\n").then(Step::Close)),
        80..85 => (Verdict::Unclear, Answer::raw("HTTP/1.1 200 OK\r\nContent-").then(Step::Close)),
        85..88 => (Verdict::Unclear, Answer::silence()),
        88..400 => {
            let body = format!(r#"{{"event":{{"name":"hello","data":"{visit}"}}}}"#);
            (Verdict::Accepted, Answer::json(&body))
        }
        _ => (Verdict::Accepted, Answer::ok()),
    }
}

/// It never closes before it has answered: a callback on a kept-alive connection would then correctly be retried, and
/// the ledger could not tell that from a duplicate.
fn after_disconnect(call: &Call) -> Answer {
    let mut random =
        Random::new(call.at.elapsed().as_nanos() as u64 ^ call.connection as u64 ^ (call.ordinal as u64) << 32);
    let answer = match random.below(1000) {
        0..20 => Answer::status(500),
        20..30 => Answer::raw("no HTTP at all\r\n\r\n").then(Step::Close),
        30..35 => return Answer::silence(),
        35..200 => Answer::ok().delayed(Duration::from_millis(random.below(100))),
        _ => Answer::ok(),
    };
    closing_at_times(answer, &mut random)
}

/// Occasionally closes the connection, perhaps while the next call is in flight.
fn closing_at_times(answer: Answer, random: &mut Random) -> Answer {
    let pause = Duration::from_micros(random.below(2000));
    match random.below(100) {
        0..4 => answer.then(Step::Close),
        4..7 => answer.then(Step::Pause(pause)).then(Step::Close),
        7..10 => answer.then(Step::Pause(pause)).then(Step::Reset),
        _ => answer,
    }
}
