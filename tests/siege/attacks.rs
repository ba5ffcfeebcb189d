//! The attacks, and what the honest may notice of each.

use crate::backend::Few;
use crate::common::{get, send_request};
use crate::swarm::{Conduct, Plan};
use std::time::Duration;

/// As many connections as the gateway has places, and some more.
const ALL_PLACES: usize = 10_500;

pub(crate) struct Attack {
    /// For `SIEGE_ONLY`.
    pub name: &'static str,
    pub title: &'static str,
    pub plans: Vec<Plan>,
    /// The backend has few workers, which are slow during the attack.
    pub few: Option<Few>,
    /// A flood of events for the streams of the attacker.
    pub flood: bool,
    /// Longest time of a probe.
    pub probe_max: Duration,
    /// Longest time of an honest connect.
    pub connect_max: Duration,
    /// Time between two of them.
    pub pace: Duration,
    pub settings: &'static [(&'static str, &'static str)],
}

impl Attack {
    fn new(name: &'static str, title: &'static str, plans: Vec<Plan>) -> Self {
        let (connect_max, pace) = (Duration::from_secs(5), Duration::from_millis(200));
        // A SYN that finds the listen queue full is sent again after a second (RFC 6298, section 2.1).
        let probe_max = Duration::from_millis(1500);
        Self { name, title, plans, few: None, flood: false, probe_max, connect_max, pace, settings: &[] }
    }
}

/// A storm of clients that the backend can accept in half of `seconds`, but at most 600.
fn storm(seconds: u64) -> Attack {
    let few = Few { workers: 4, time: Duration::from_millis(200) };
    let crowd = (few.calls_a_second() * seconds as usize / 2).clamp(4, 600);
    let attack =
        Attack::new("storm", "a reconnect storm, 4 workers of 0.2 s", vec![Plan::gets(Conduct::Wave, crowd, "x")]);
    Attack {
        few: Some(few),
        // Honest clients wait as well, and on top of them: the backend needs 30 s for 600.
        connect_max: few.needed(crowd) + Duration::from_secs(5),
        pace: Duration::from_secs(1),
        settings: &[("CONNECT_QUEUE_SECONDS", "40")],
        ..attack
    }
}

pub(crate) fn all(seconds: u64) -> Vec<Attack> {
    let body = format!("POST /internal/send HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 1 << 20);
    let unfinished_send = [body.as_bytes(), &vec![b'x'; (1 << 20) - 1]].concat();
    let unfinished_head = format!("GET /x HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(16_000));
    let quotes = format!("GET /x HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "\"".repeat(16_300));
    let probes = get("/healthz").repeat(1_000);
    let refused_sends = send_request(r#"{"token":"none","event":{"data":"x"}}"#).repeat(500);
    let slow_head = "GET /x HTTP/1.1\r\nHost: h\r\nX: ";
    let slow_body = format!("{body}{}", "x".repeat(1_000));
    vec![
        Attack::new("nobody", "none", Vec::new()),
        Attack::new("sends", "unfinished sends of 1 MiB", vec![Plan::new(Conduct::Hold, 63, unfinished_send)]),
        Attack::new("heads", "unfinished heads of 16 kB", vec![Plan::new(Conduct::Hold, 6_000, unfinished_head)]),
        Attack::new("quotes", "streams with 16,300 quotes", vec![Plan::new(Conduct::Hold, ALL_PLACES, quotes)]),
        Attack {
            probe_max: Duration::from_millis(50),
            ..Attack::new("silent", "silent connections on all places", vec![Plan::new(Conduct::Hold, ALL_PLACES, "")])
        },
        storm(seconds),
        Attack {
            flood: true,
            ..Attack::new(
                "readers",
                "readers that read nothing of a flood",
                vec![Plan { deaf: true, ..Plan::gets(Conduct::Hold, 1_000, "idle") }],
            )
        },
        Attack::new("slow-heads", "heads of a byte a second", vec![Plan::new(Conduct::Drip, 5_000, slow_head)]),
        Attack::new("slow-bodies", "bodies of a byte a second", vec![Plan::new(Conduct::Drip, 5_000, slow_body)]),
        Attack::new("connects", "streams opened and left, 500 at a time", vec![Plan::gets(Conduct::Leave, 500, "x")]),
        Attack::new(
            "pipelines",
            "pipelined requests, half of them read",
            vec![
                Plan::new(Conduct::Repeat, 10, probes.clone()),
                Plan::new(Conduct::Repeat, 10, refused_sends),
                Plan::new(Conduct::RepeatDeaf, 20, probes),
            ],
        ),
    ]
}
