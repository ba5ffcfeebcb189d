//! The bystander: a healthy stream that must not be affected by the fault.

use crate::common::{Gateway, OK, Stream, assert_json, send_request};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two events.
const PACE: Duration = Duration::from_millis(5);

/// From the start of a send to the arrival of its event; usually a fraction of a millisecond.
const DELAY_MAX: Duration = Duration::from_secs(2);

/// A stream that gets an event every few milliseconds from a sender of its own.
pub(crate) struct Healthy {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<usize>,
    reader: JoinHandle<(usize, Duration)>,
}

/// Its record.
pub(crate) struct Seen {
    events: usize,
    slowest: Duration,
}

impl Display for Seen {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "healthy: {} events, the slowest {:.1?}", self.events, self.slowest)
    }
}

impl Healthy {
    /// Starts with an open stream.
    pub(crate) fn start(gateway: &Gateway, stream: Stream, token: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let base = Instant::now();
        let mut client = crate::common::Client::connect(gateway.internal_port());
        let stopped = stop.clone();
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                let data = format!("{sent} {}", base.elapsed().as_micros());
                let body = serde_json::json!({"token": token, "event": {"data": data}}).to_string();
                assert_json(&client.exchange(send_request(&body)), 200, OK);
                sent += 1;
                std::thread::sleep(PACE);
            }
            let last = format!(r#"{{"token":"{token}","event":{{"data":"end"}},"close":true}}"#);
            assert_json(&client.exchange(send_request(&last)), 200, OK);
            sent
        });
        let reader = std::thread::spawn(move || read(stream, base));
        Self { stop, sender, reader }
    }

    /// Asserts that every event arrived once, in order and in time.
    #[track_caller]
    pub(crate) fn finish(self) -> Seen {
        let seen = self.finish_whenever();
        assert!(seen.slowest < DELAY_MAX, "an event took {:?}", seen.slowest);
        seen
    }

    /// The same if the gateway itself was paused, so that events may be late.
    #[track_caller]
    pub(crate) fn finish_whenever(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.sender.join().expect("every send is answered with 200");
        let (events, slowest) = self.reader.join().expect("every event arrives in order");
        assert_eq!(events, sent, "events received and sent");
        Seen { events, slowest }
    }
}

fn read(mut stream: Stream, base: Instant) -> (usize, Duration) {
    let mut slowest = Duration::ZERO;
    for expected in 0.. {
        let event = stream.event();
        if event == "data: end\n\n" {
            stream.assert_ended();
            return (expected, slowest);
        }
        let mut words = event.trim_start_matches("data: ").split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("two numbers");
        assert_eq!(number(), expected as u64, "out of order: {event:?}");
        slowest = slowest.max(base.elapsed().saturating_sub(Duration::from_micros(number())));
    }
    unreachable!("the loop has no end of its own")
}
